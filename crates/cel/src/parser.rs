//! Tokens to a tree, by operator precedence. Error texts follow cel-go's generated parser where one can foresee them.

use crate::ast::{Entry, Expr, Factory, FieldInit, Kind, Literal, op};
use crate::lexer::{self, Kind as TokenKind, Token};
use crate::macros::{self, Call, Macros};
use crate::source::{Issue, Issues};

/// The longest expression, in code points (`expressionSizeCodePointLimit`).
pub(crate) const MAX_LENGTH: usize = 100_000;

/// The deepest nesting, of the text as of the tree it becomes (`maxRecursionDepth`). All recursion is bounded by it.
pub(crate) const MAX_DEPTH: usize = 250;

/// Identifiers that are no identifiers (`parser.go`, `reservedIds`).
const RESERVED: [&str; 21] = [
    "as",
    "break",
    "const",
    "continue",
    "else",
    "false",
    "for",
    "function",
    "if",
    "import",
    "in",
    "let",
    "loop",
    "namespace",
    "null",
    "package",
    "return",
    "true",
    "var",
    "void",
    "while",
];

/// What may begin an expression, as the generated parser lists it.
const EXPRESSION: &str = "{'[', '{', '(', '.', '-', '!', 'true', 'false', 'null', NUM_FLOAT, NUM_INT, NUM_UINT, \
                          STRING, BYTES, IDENTIFIER}";

/// Whether a word cannot name a variable.
pub(crate) fn is_reserved(word: &str) -> bool {
    RESERVED.contains(&word)
}

/// Whether a text can name a variable.
pub fn is_identifier(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
        && !is_reserved(text)
}

/// Which syntax an environment knows.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Syntax {
    pub(crate) macros: Macros,
    /// `a.?b`, `a[?b]`, `{?a: b}`, `[?a]`.
    pub(crate) optional: bool,
}

/// The tree of an expression and how many nodes were numbered.
pub(crate) fn parse(text: &str, syntax: Syntax) -> Result<(Expr, usize), Issues> {
    let length = text.chars().take(MAX_LENGTH + 1).count();
    if length > MAX_LENGTH {
        let size = text.chars().count();
        let message = format!("expression code point size exceeds limit: size: {size}, limit {MAX_LENGTH}");
        return Err(Issue::at("", 0, message).into());
    }
    let tokens = lexer::tokens(text)?;
    let mut parser = Parser { text, tokens, next: 0, depth: 0, factory: Factory::default(), syntax };
    let expr = parser.expression()?;
    let rest = parser.peek();
    if rest.kind != TokenKind::Eof {
        let message = format!("Syntax error: extraneous input '{}' expecting <EOF>", parser.show(rest));
        return Err(Issue::at(text, rest.start, message).into());
    }
    Ok((expr, parser.factory.count()))
}

struct Parser<'s> {
    text: &'s str,
    tokens: Vec<Token>,
    next: usize,
    depth: usize,
    factory: Factory,
    syntax: Syntax,
}

type Parsed<T = Expr> = Result<T, Issue>;

impl<'s> Parser<'s> {
    fn peek(&self) -> Token {
        // The last token is the end, and is never passed.
        self.tokens[self.next.min(self.tokens.len() - 1)]
    }

    fn peek_sign(&self) -> &'static str {
        match self.peek().kind {
            TokenKind::Sign(sign) => sign,
            _ => "",
        }
    }

    fn advance(&mut self) -> Token {
        let token = self.peek();
        self.next += 1;
        token
    }

    fn eat(&mut self, sign: &str) -> Option<Token> {
        (self.peek_sign() == sign).then(|| self.advance())
    }

    fn slice(&self, token: Token) -> &'s str {
        &self.text[token.start..token.end]
    }

    fn show(&self, token: Token) -> &'s str {
        if token.kind == TokenKind::Eof { "<EOF>" } else { self.slice(token) }
    }

    fn issue(&self, at: usize, message: impl Into<String>) -> Issue {
        Issue::at(self.text, at, message)
    }

    fn unexpected(&self, expecting: &str) -> Issue {
        let token = self.peek();
        let message = format!("Syntax error: mismatched input '{}' expecting {expecting}", self.show(token));
        self.issue(token.start, message)
    }

    fn expect(&mut self, sign: &str) -> Parsed<Token> {
        self.eat(sign).ok_or_else(|| self.unexpected(&format!("'{sign}'")))
    }

    fn too_deep(&self, at: usize) -> Issue {
        self.issue(at, format!("expression recursion limit exceeded: {MAX_DEPTH}"))
    }

    fn node(&mut self, at: usize, kind: Kind) -> Parsed {
        let node = self.factory.node(at, kind);
        if node.height > MAX_DEPTH { Err(self.too_deep(at)) } else { Ok(node) }
    }

    fn call(&mut self, at: usize, function: &str, args: Vec<Expr>) -> Parsed {
        self.node(at, Kind::Call { target: None, function: function.to_owned(), args })
    }

    fn expression(&mut self) -> Parsed {
        let condition = self.infix(1)?;
        let Some(sign) = self.eat("?") else { return Ok(condition) };
        let then = self.infix(1)?;
        self.expect(":")?;
        self.depth += 1;
        let otherwise = self.expression()?;
        self.depth -= 1;
        self.call(sign.start, op::CONDITIONAL, vec![condition, then, otherwise])
    }

    /// Operators that bind at least as tightly as `least`. All nesting leads through here, and an error ends it all.
    fn infix(&mut self, least: u8) -> Parsed {
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            return Err(self.too_deep(self.peek().start));
        }
        let parsed = self.operators(least);
        self.depth -= 1;
        parsed
    }

    fn operators(&mut self, least: u8) -> Parsed {
        let mut left = self.unary()?;
        while let Some((function, binds)) = op::infix(self.peek_sign()).filter(|(_, binds)| *binds >= least) {
            if matches!(function, op::AND | op::OR) {
                left = self.logical(left, function, binds)?;
                continue;
            }
            let at = self.advance().start;
            let right = self.infix(binds + 1)?;
            left = self.call(at, function, vec![left, right])?;
        }
        Ok(left)
    }

    /// A chain of `&&` or `||` becomes a balanced tree, so that long chains are not deep.
    fn logical(&mut self, first: Expr, function: &'static str, binds: u8) -> Parsed {
        let (mut terms, mut places) = (vec![first], Vec::new());
        while op::infix(self.peek_sign()).is_some_and(|(f, _)| f == function) {
            places.push(self.advance().start);
            terms.push(self.infix(binds + 1)?);
        }
        let mut terms = terms.into_iter();
        self.balance(function, &mut terms, &places)
    }

    /// Joins the next `places.len() + 1` terms.
    fn balance(&mut self, function: &str, terms: &mut std::vec::IntoIter<Expr>, places: &[usize]) -> Parsed {
        if places.is_empty() {
            return terms.next().ok_or_else(|| self.unexpected(EXPRESSION));
        }
        let middle = places.len() / 2;
        let left = self.balance(function, terms, &places[..middle])?;
        let right = self.balance(function, terms, &places[middle + 1..])?;
        self.call(places[middle], function, vec![left, right])
    }

    fn unary(&mut self) -> Parsed {
        let sign = self.peek_sign();
        if sign != "!" && sign != "-" {
            return self.postfix();
        }
        let at = self.peek().start;
        let mut count = 0;
        while self.peek_sign() == sign {
            let ahead = self.tokens.get(self.next + 1).map(|t| t.kind);
            if sign == "-" && matches!(ahead, Some(TokenKind::Int | TokenKind::Float)) {
                break;
            }
            self.advance();
            count += 1;
        }
        let operand = self.postfix()?;
        let function = if sign == "!" { op::NOT } else { op::NEGATE };
        if count % 2 == 0 { Ok(operand) } else { self.call(at, function, vec![operand]) }
    }

    fn postfix(&mut self) -> Parsed {
        let mut expr = self.primary()?;
        loop {
            expr = match self.peek_sign() {
                "." => self.select(expr)?,
                "[" => {
                    let at = self.advance().start;
                    let optional = self.optional_mark("[?")?;
                    let index = self.expression()?;
                    self.expect("]")?;
                    self.call(at, if optional { op::OPT_INDEX } else { op::INDEX }, vec![expr, index])?
                }
                "{" => match expr.qualified_name() {
                    Some(name) => self.object(name)?,
                    None => return Ok(expr),
                },
                _ => return Ok(expr),
            };
        }
    }

    /// A `?` that makes an access, an element or an entry optional.
    fn optional_mark(&mut self, syntax: &str) -> Parsed<bool> {
        match self.eat("?") {
            Some(mark) if !self.syntax.optional => {
                Err(self.issue(mark.start, format!("unsupported syntax '{syntax}'")))
            }
            mark => Ok(mark.is_some()),
        }
    }

    fn name(&mut self) -> Parsed<String> {
        if self.peek().kind != TokenKind::Ident {
            return Err(self.unexpected("IDENTIFIER"));
        }
        let token = self.advance();
        Ok(self.slice(token).to_owned())
    }

    fn select(&mut self, operand: Expr) -> Parsed {
        let at = self.advance().start;
        let optional = self.optional_mark(".?")?;
        let field = self.name()?;
        if optional {
            let field = self.factory.literal(at, Literal::String(field));
            return self.call(at, op::OPT_SELECT, vec![operand, field]);
        }
        match self.eat("(") {
            None => self.node(at, Kind::Select { operand: Box::new(operand), field, test: false }),
            Some(open) => self.arguments(open.start, Some(operand), field),
        }
    }

    fn arguments(&mut self, at: usize, target: Option<Expr>, function: String) -> Parsed {
        let mut args = Vec::new();
        while self.peek_sign() != ")" {
            args.push(self.expression()?);
            if self.eat(",").is_none() {
                break;
            }
            if self.peek_sign() == ")" {
                return Err(self.unexpected(EXPRESSION));
            }
        }
        self.expect(")")?;
        let call = Call { at, target, function, args };
        let node = macros::expand(&mut self.factory, self.syntax.macros, call);
        let node = node.map_err(|(at, message)| self.issue(at, message))?;
        if node.height > MAX_DEPTH { Err(self.too_deep(at)) } else { Ok(node) }
    }

    fn primary(&mut self) -> Parsed {
        let token = self.peek();
        match token.kind {
            TokenKind::Sign("(") => {
                self.advance();
                let inner = self.expression()?;
                self.expect(")")?;
                Ok(inner)
            }
            TokenKind::Sign("[") => self.list(),
            TokenKind::Sign("{") => self.map(),
            TokenKind::Ident | TokenKind::Sign(".") => self.identifier(),
            _ => self.literal(token),
        }
    }

    fn literal(&mut self, token: Token) -> Parsed {
        let (text, at) = (self.slice(token), token.start);
        match token.kind {
            TokenKind::Sign("-") => {
                self.advance();
                let number = self.advance();
                let text = format!("-{}", self.slice(number));
                self.number(at, number.kind, &text)
            }
            TokenKind::Sign(word @ ("true" | "false" | "null")) => {
                self.advance();
                let literal = if word == "null" { Literal::Null } else { Literal::Bool(word == "true") };
                self.node(at, Kind::Literal(literal))
            }
            TokenKind::Int | TokenKind::Uint | TokenKind::Float => {
                self.advance();
                self.number(at, token.kind, text)
            }
            TokenKind::String | TokenKind::Bytes => {
                self.advance();
                let bytes = token.kind == TokenKind::Bytes;
                let value = lexer::unquote(text, bytes).map_err(|e| self.issue(at, e))?;
                let literal = match (bytes, String::from_utf8(value)) {
                    (true, Ok(value)) => Literal::Bytes(value.into_bytes()),
                    (true, Err(e)) => Literal::Bytes(e.into_bytes()),
                    (false, Ok(value)) => Literal::String(value),
                    (false, Err(e)) => return Err(self.issue(at, e.to_string())),
                };
                self.node(at, Kind::Literal(literal))
            }
            _ => Err(self.unexpected(EXPRESSION)),
        }
    }

    fn identifier(&mut self) -> Parsed {
        let dot = self.eat(".").is_some();
        let token = self.peek();
        let mut name = self.name()?;
        if is_reserved(&name) {
            return Err(self.issue(token.start, format!("reserved identifier: {name}")));
        }
        if dot {
            name.insert(0, '.');
        }
        match self.eat("(") {
            None => self.node(token.start, Kind::Ident(name)),
            Some(open) => self.arguments(open.start, None, name),
        }
    }

    fn number(&mut self, at: usize, kind: TokenKind, text: &str) -> Parsed {
        let (digits, radix) = match text.trim_end_matches(['u', 'U']).replacen("0x", "", 1) {
            hex if text.contains('x') => (hex, 16),
            decimal => (decimal, 10),
        };
        let literal = match kind {
            TokenKind::Float => text.parse().ok().filter(|f: &f64| f.is_finite()).map(Literal::Double),
            TokenKind::Uint => u64::from_str_radix(&digits, radix).ok().map(Literal::Uint),
            _ => i64::from_str_radix(&digits, radix).ok().map(Literal::Int),
        };
        let name = match kind {
            TokenKind::Float => "double",
            TokenKind::Uint => "uint",
            _ => "int",
        };
        let literal = literal.ok_or_else(|| self.issue(at, format!("invalid {name} literal")))?;
        self.node(at, Kind::Literal(literal))
    }

    fn list(&mut self) -> Parsed {
        let at = self.advance().start;
        let (mut items, mut optional) = (Vec::new(), Vec::new());
        while self.peek_sign() != "]" {
            if self.optional_mark("?")? {
                optional.push(items.len());
            }
            items.push(self.expression()?);
            if self.eat(",").is_none() {
                break;
            }
        }
        self.expect("]")?;
        self.node(at, Kind::List { items, optional })
    }

    fn map(&mut self) -> Parsed {
        let at = self.advance().start;
        let mut entries = Vec::new();
        while self.peek_sign() != "}" {
            let optional = self.optional_mark("?")?;
            let key = self.expression()?;
            self.expect(":")?;
            let value = self.expression()?;
            entries.push(Entry { key, value, optional });
            if self.eat(",").is_none() {
                break;
            }
        }
        self.expect("}")?;
        self.node(at, Kind::Map(entries))
    }

    /// `Name{field: value}`, after the name.
    fn object(&mut self, name: String) -> Parsed {
        let at = self.advance().start;
        let mut fields = Vec::new();
        while self.peek_sign() != "}" {
            let optional = self.optional_mark("?")?;
            let name = self.name()?;
            let colon = self.expect(":")?;
            let value = self.expression()?;
            fields.push(FieldInit { name, at: colon.start, value, optional });
            if self.eat(",").is_none() {
                break;
            }
        }
        self.expect("}")?;
        self.node(at, Kind::Struct { name, fields })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The tree as text: operators by their functions, loops by their parts.
    fn show(e: &Expr) -> String {
        let all = |items: &[Expr]| items.iter().map(show).collect::<Vec<_>>().join(", ");
        match &e.kind {
            Kind::Literal(Literal::Null) => "null".to_owned(),
            Kind::Literal(Literal::Bool(b)) => b.to_string(),
            Kind::Literal(Literal::Int(n)) => n.to_string(),
            Kind::Literal(Literal::Uint(n)) => format!("{n}u"),
            Kind::Literal(Literal::Double(n)) => format!("{n:?}"),
            Kind::Literal(Literal::String(s)) => format!("{s:?}"),
            Kind::Literal(Literal::Bytes(b)) => format!("b{:?}", String::from_utf8_lossy(b)),
            Kind::Ident(name) => name.clone(),
            Kind::Select { operand, field, test } => {
                format!("{}.{field}{}", show(operand), if *test { "~test~" } else { "" })
            }
            Kind::Call { target: None, function, args } => format!("{function}({})", all(args)),
            Kind::Call { target: Some(t), function, args } => format!("{}.{function}({})", show(t), all(args)),
            Kind::List { items, optional } if optional.is_empty() => format!("[{}]", all(items)),
            Kind::List { items, optional } => format!("[{} ?{optional:?}]", all(items)),
            Kind::Map(entries) => {
                let one =
                    |e: &Entry| format!("{}{}: {}", if e.optional { "?" } else { "" }, show(&e.key), show(&e.value));
                format!("{{{}}}", entries.iter().map(one).collect::<Vec<_>>().join(", "))
            }
            Kind::Struct { name, fields } => {
                let one =
                    |f: &FieldInit| format!("{}{}: {}", if f.optional { "?" } else { "" }, f.name, show(&f.value));
                format!("{name}{{{}}}", fields.iter().map(one).collect::<Vec<_>>().join(", "))
            }
            Kind::Comprehension(c) => {
                let vars = c.var2.as_ref().map_or(c.var.clone(), |v| format!("{}, {v}", c.var));
                let parts = [&c.range, &c.init, &c.condition, &c.step, &c.result].map(show).join("; ");
                format!("for {vars} ({}: {parts})", c.accu)
            }
        }
    }

    fn everything() -> Syntax {
        Syntax { macros: Macros { two_variables: true, bind: true, optional: true }, optional: true }
    }

    fn check(text: &str, want: &str) {
        let got = parse(text, everything()).map_or_else(|e| e.to_string(), |(e, _)| show(&e));
        assert_eq!(got, want, "{text}");
    }

    #[test]
    fn operators_bind_as_in_the_grammar() {
        check("a + b * c - d", "_-_(_+_(a, _*_(b, c)), d)");
        check("a == b in c", "@in(_==_(a, b), c)");
        check("a || b && c", "_||_(a, _&&_(b, c))");
        check("a && b && c && d", "_&&_(_&&_(a, b), _&&_(c, d))");
        check("a ? b : c ? d : e", "_?_:_(a, b, _?_:_(c, d, e))");
        check("!a", "!_(a)");
        check("!!a", "a");
        check("--a", "a");
        check("-1 - -1", "_-_(-1, -1)");
        check("-a.b", "-_(a.b)");
        check("-9223372036854775808", "-9223372036854775808");
        check("-0x10", "-16");
        check("a.b.c(1, 2)[0].d", "_[_](a.b.c(1, 2), 0).d");
        check("[1, 2u, 3.0, 'a', b'b', null, true,]", "[1, 2u, 3.0, \"a\", b\"b\", null, true]");
        check("{'a': 1, 'b': [2]}", "{\"a\": 1, \"b\": [2]}");
        check("Object.spec{replicas: 1}", "Object.spec{replicas: 1}");
        check("a.?b[?c]", "_[?_](_?._(a, \"b\"), c)");
        check("[?a, b] + {?a: b}", "_+_([a, b ?[0]], {?a: b})");
        check(".a.b", ".a.b");
    }

    #[test]
    fn macros_become_loops() {
        check("has(a.b)", "a.b~test~");
        check("l.all(x, p)", "for x (@result: l; true; @not_strictly_false(@result); _&&_(@result, p); @result)");
        check(
            "l.exists(x, p)",
            "for x (@result: l; false; @not_strictly_false(!_(@result)); _||_(@result, p); @result)",
        );
        check(
            "l.exists_one(x, p)",
            "for x (@result: l; 0; true; _?_:_(p, _+_(@result, 1), @result); _==_(@result, 1))",
        );
        check("l.map(x, f)", "for x (@result: l; []; true; _+_(@result, [f]); @result)");
        check("l.map(x, p, f)", "for x (@result: l; []; true; _?_:_(p, _+_(@result, [f]), @result); @result)");
        check("l.filter(x, p)", "for x (@result: l; []; true; _?_:_(p, _+_(@result, [x]), @result); @result)");
        check("l.all(i, v, p)", "for i, v (@result: l; true; @not_strictly_false(@result); _&&_(@result, p); @result)");
        check("l.transformList(i, v, f)", "for i, v (@result: l; []; true; _+_(@result, [f]); @result)");
        check("l.transformMap(k, v, f)", "for k, v (@result: l; {}; true; cel.@mapInsert(@result, k, f); @result)");
        check(
            "l.transformMapEntry(k, v, p, {v: k})",
            "for k, v (@result: l; {}; true; _?_:_(p, cel.@mapInsert(@result, {v: k}), @result); @result)",
        );
        check("cel.bind(x, 1, x + x)", "for #unused (x: []; 1; false; x; _+_(x, x))");
        check(
            "o.optMap(x, f)",
            "_?_:_(o.hasValue(), optional.of(for #unused (x: []; o.value(); false; x; f)), optional.none())",
        );
    }

    #[test]
    fn bad_syntax_gets_cel_gos_words() {
        let mismatched = |input: &str| format!("Syntax error: mismatched input '{input}' expecting {EXPRESSION}");
        check("?!", &format!("ERROR: <input>:1:1: {}\n | ?!\n | ^", mismatched("?")));
        check("1 + ", &format!("ERROR: <input>:1:5: {}\n | 1 + \n | ....^", mismatched("<EOF>")));
        check("a b", "ERROR: <input>:1:3: Syntax error: extraneous input 'b' expecting <EOF>\n | a b\n | ..^");
        check("1.all(2, 3)", "ERROR: <input>:1:7: argument must be a simple name\n | 1.all(2, 3)\n | ......^");
        check("has(a)", "ERROR: <input>:1:5: invalid argument to has() macro\n | has(a)\n | ....^");
        check("9223372036854775808", "ERROR: <input>:1:1: invalid int literal\n | 9223372036854775808\n | ^");
        check("for", "ERROR: <input>:1:1: reserved identifier: for\n | for\n | ^");
        check("(a", "ERROR: <input>:1:3: Syntax error: mismatched input '<EOF>' expecting ')'\n | (a\n | ..^");
        let plain = parse("a.?b", Syntax::default()).map(|_| ()).map_err(|e| e.to_string());
        assert_eq!(plain, Err("ERROR: <input>:1:3: unsupported syntax '.?'\n | a.?b\n | ..^".to_owned()));
    }

    #[test]
    fn depth_and_length_are_bounded() {
        let refused = |text: &str, part: &str| {
            let message = parse(text, everything()).map(|_| ()).map_err(|e| e.to_string());
            assert!(message.as_ref().is_err_and(|m| m.contains(part)), "{message:?}");
        };
        let limit = "expression recursion limit exceeded: 250";
        for (open, close) in [("(", ")"), ("[", "]"), ("-(", ")"), ("f(", ")"), ("a[", "]"), ("{1:", "}")] {
            refused(&format!("{}1{}", open.repeat(3000), close.repeat(3000)), limit);
        }
        refused(&format!("a{}", ".b".repeat(3000)), limit);
        refused(&format!("1{}", " + 1".repeat(3000)), limit);
        refused(&"a ? b : ".repeat(3000), limit);
        refused(&"!".repeat(3000), "mismatched input");
        refused(&format!("{}x{}", "a.map(x, ".repeat(200), ")".repeat(200)), limit);
        refused(&"x".repeat(100_001), "expression code point size exceeds limit: size: 100001, limit 100000");
        assert!(parse(&vec!["a"; 5000].join(" && "), everything()).is_ok());
    }
}
