//! Label and field selectors, with upstream's grammar and texts (`k8s.io/apimachinery/pkg/{labels,fields}`).

use orkd_api::field::quote;
use orkd_api::names;

use crate::cache::Entry;

/// One requirement of a label selector.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Requirement {
    key: String,
    operator: Operator,
    values: Vec<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Operator {
    In,
    NotIn,
    Exists,
    DoesNotExist,
    Greater,
    Less,
}

impl Requirement {
    fn matches(&self, value: Option<&str>) -> bool {
        let listed = |v: &str| self.values.iter().any(|x| x == v);
        match self.operator {
            Operator::In => value.is_some_and(listed),
            Operator::NotIn => !value.is_some_and(listed),
            Operator::Exists => value.is_some(),
            Operator::DoesNotExist => value.is_none(),
            Operator::Greater | Operator::Less => {
                let (Some(Ok(have)), Some(Ok(want))) =
                    (value.map(str::parse::<i64>), self.values.first().map(|v| v.parse::<i64>()))
                else {
                    return false;
                };
                if self.operator == Operator::Greater { have > want } else { have < want }
            }
        }
    }
}

/// A label selector.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LabelSelector(Vec<Requirement>);

impl LabelSelector {
    /// Parses the text form.
    pub fn parse(text: &str) -> Result<Self, String> {
        Parser { tokens: lex(text), at: 0 }.requirements().map(LabelSelector)
    }

    /// Whether everything matches.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether an entry's labels match.
    pub fn matches(&self, entry: &Entry) -> bool {
        self.0.iter().all(|r| r.matches(entry.label(&r.key)))
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Token {
    Close,
    Comma,
    Not,
    DoubleEquals,
    End,
    Equals,
    Greater,
    Word(String),
    In,
    Less,
    NotEquals,
    NotIn,
    Open,
    Bad(String),
}

impl Token {
    fn text(&self) -> &str {
        match self {
            Token::Close => ")",
            Token::Comma => ",",
            Token::Not => "!",
            Token::DoubleEquals => "==",
            Token::End => "",
            Token::Equals => "=",
            Token::Greater => ">",
            Token::Word(w) | Token::Bad(w) => w,
            Token::In => "in",
            Token::Less => "<",
            Token::NotEquals => "!=",
            Token::NotIn => "notin",
            Token::Open => "(",
        }
    }
}

fn lex(text: &str) -> Vec<Token> {
    const SPECIAL: &[char] = &['=', '!', '(', ')', ',', '>', '<'];
    let is_space = |c: char| matches!(c, ' ' | '\t' | '\r' | '\n');
    let mut tokens = Vec::new();
    let mut chars = text.chars().peekable();
    while let Some(&c) = chars.peek() {
        if is_space(c) {
            chars.next();
        } else if SPECIAL.contains(&c) {
            chars.next();
            let twice = matches!((c, chars.peek()), ('=' | '!', Some('=')));
            if twice {
                chars.next();
            }
            tokens.push(match (c, twice) {
                ('=', true) => Token::DoubleEquals,
                ('=', false) => Token::Equals,
                ('!', true) => Token::NotEquals,
                ('!', false) => Token::Not,
                ('(', _) => Token::Open,
                (')', _) => Token::Close,
                (',', _) => Token::Comma,
                ('>', _) => Token::Greater,
                ('<', _) => Token::Less,
                (other, _) => Token::Bad(other.to_string()),
            });
        } else {
            let mut word = String::new();
            while let Some(&c) = chars.peek() {
                if is_space(c) || SPECIAL.contains(&c) {
                    break;
                }
                word.push(c);
                chars.next();
            }
            tokens.push(match word.as_str() {
                "in" => Token::In,
                "notin" => Token::NotIn,
                _ => Token::Word(word),
            });
        }
    }
    tokens.push(Token::End);
    tokens
}

struct Parser {
    tokens: Vec<Token>,
    at: usize,
}

impl Parser {
    fn peek(&self) -> Token {
        self.tokens.get(self.at).cloned().unwrap_or(Token::End)
    }

    /// The next token where a value may stand: `in` and `notin` are words there.
    fn peek_value(&self) -> Token {
        match self.peek() {
            Token::In => Token::Word("in".into()),
            Token::NotIn => Token::Word("notin".into()),
            other => other,
        }
    }

    fn take(&mut self) -> Token {
        let token = self.peek();
        self.at += 1;
        token
    }

    fn take_value(&mut self) -> Token {
        let token = self.peek_value();
        self.at += 1;
        token
    }

    fn requirements(&mut self) -> Result<Vec<Requirement>, String> {
        let mut all = Vec::new();
        loop {
            match self.peek_value() {
                Token::Word(_) | Token::Not => {
                    let one = self.requirement().map_err(|e| format!("unable to parse requirement: {e}"))?;
                    all.push(one);
                    match self.take_value() {
                        Token::End => return Ok(all),
                        Token::Comma => {
                            let next = self.peek_value();
                            if !matches!(next, Token::Word(_) | Token::Not) {
                                return Err(format!("found '{}', expected: identifier after ','", next.text()));
                            }
                        }
                        other => return Err(format!("found '{}', expected: ',' or 'end of string'", other.text())),
                    }
                }
                Token::End => return Ok(all),
                other => return Err(format!("found '{}', expected: !, identifier, or 'end of string'", other.text())),
            }
        }
    }

    fn requirement(&mut self) -> Result<Requirement, String> {
        let mut negated = false;
        let mut token = self.take_value();
        if token == Token::Not {
            negated = true;
            token = self.take_value();
        }
        let Token::Word(key) = token else {
            return Err(format!("found '{}', expected: identifier", token.text()));
        };
        let problems = names::qualified_name(&key);
        if !problems.is_empty() {
            return Err(format!("<nil>: Invalid value: {}: {}", quote(&key), problems.join("; ")));
        }
        if negated {
            return Ok(Requirement { key, operator: Operator::DoesNotExist, values: Vec::new() });
        }
        if matches!(self.peek_value(), Token::End | Token::Comma) {
            return Ok(Requirement { key, operator: Operator::Exists, values: Vec::new() });
        }
        let token = self.take();
        let operator = match token {
            Token::In | Token::Equals | Token::DoubleEquals => Operator::In,
            Token::NotIn | Token::NotEquals => Operator::NotIn,
            Token::Greater => Operator::Greater,
            Token::Less => Operator::Less,
            other => return Err(format!("found '{}', expected: in, notin, =, ==, !=, gt, lt", other.text())),
        };
        let values = match token {
            Token::In | Token::NotIn => self.values()?,
            _ => vec![self.exact_value()?],
        };
        if matches!(operator, Operator::Greater | Operator::Less) && values[0].parse::<i64>().is_err() {
            return Err(format!(
                "values[0]: Invalid value: {}: for 'Gt', 'Lt' operators, the value must be an integer",
                quote(&values[0])
            ));
        }
        for (i, value) in values.iter().enumerate() {
            let problems = names::label_value(value);
            if !problems.is_empty() {
                return Err(format!("values[{i}][{key}]: Invalid value: {}: {}", quote(value), problems.join("; ")));
            }
        }
        Ok(Requirement { key, operator, values })
    }

    fn values(&mut self) -> Result<Vec<String>, String> {
        let token = self.take_value();
        if token != Token::Open {
            return Err(format!("found '{}' expected: '('", token.text()));
        }
        let mut values = Vec::new();
        loop {
            match self.take_value() {
                Token::Word(word) => {
                    values.push(word);
                    match self.take_value() {
                        Token::Comma => {}
                        Token::Close => break,
                        other => return Err(format!("found '{}', expected: ',' or ')'", other.text())),
                    }
                }
                Token::Close => {
                    values.push(String::new());
                    break;
                }
                Token::Comma => values.push(String::new()),
                other => return Err(format!("found '{}', expected: ',', ')' or identifier", other.text())),
            }
        }
        values.sort_unstable();
        values.dedup();
        Ok(values)
    }

    fn exact_value(&mut self) -> Result<String, String> {
        if matches!(self.peek_value(), Token::End | Token::Comma) {
            return Ok(String::new());
        }
        match self.take_value() {
            Token::Word(word) => Ok(word),
            other => Err(format!("found '{}', expected: identifier", other.text())),
        }
    }
}

/// A field selector: every term must hold.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FieldSelector(Vec<FieldTerm>);

#[derive(Clone, Debug, PartialEq, Eq)]
struct FieldTerm {
    label: String,
    equal: bool,
    value: String,
}

impl FieldSelector {
    /// Parses the text form.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut terms = Vec::new();
        for part in split_terms(text) {
            if part.is_empty() {
                continue;
            }
            let (label, equal, value) =
                split_term(&part).ok_or_else(|| format!("invalid selector: '{text}'; can't understand '{part}'"))?;
            terms.push(FieldTerm { label: label.to_owned(), equal, value: unescape(value)? });
        }
        Ok(FieldSelector(terms))
    }

    /// Whether everything matches.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The value a field must have, if one term says so.
    pub fn exact(&self, label: &str) -> Option<&str> {
        self.0.iter().find(|t| t.label == label && t.equal).map(|t| t.value.as_str())
    }

    /// Refuses labels that a kind does not offer.
    pub fn check(&self, known: impl Fn(&str) -> bool) -> Result<(), String> {
        match self.0.iter().find(|t| !known(&t.label)) {
            Some(term) => Err(format!("field label not supported: {}", term.label)),
            None => Ok(()),
        }
    }

    /// Adds a term.
    pub fn require(&mut self, label: &str, value: &str) {
        self.0.push(FieldTerm { label: label.to_owned(), equal: true, value: value.to_owned() });
    }

    /// Whether an entry's fields match.
    pub fn matches(&self, entry: &Entry) -> bool {
        self.0.iter().all(|t| (entry.field(&t.label).unwrap_or_default() == t.value) == t.equal)
    }

    /// The first term that pins a field other than name and namespace to a value: watchers are kept by it.
    pub fn pinned(&self) -> Option<(&str, &str)> {
        self.0
            .iter()
            .find(|t| t.equal && t.label != "metadata.name" && t.label != "metadata.namespace")
            .map(|t| (t.label.as_str(), t.value.as_str()))
    }
}

/// Splits at commas that are not escaped.
fn split_terms(text: &str) -> Vec<String> {
    let mut terms = vec![String::new()];
    let mut escaped = false;
    for c in text.chars() {
        if c == ',' && !escaped {
            terms.push(String::new());
            continue;
        }
        escaped = c == '\\' && !escaped;
        if let Some(last) = terms.last_mut() {
            last.push(c);
        }
    }
    terms
}

fn split_term(term: &str) -> Option<(&str, bool, &str)> {
    for (i, _) in term.char_indices() {
        let rest = &term[i..];
        for (operator, equal) in [("!=", false), ("==", true), ("=", true)] {
            if let Some(value) = rest.strip_prefix(operator) {
                return Some((&term[..i], equal, value));
            }
        }
    }
    None
}

fn unescape(value: &str) -> Result<String, String> {
    let mut out = String::with_capacity(value.len());
    let mut chars = value.chars();
    while let Some(c) = chars.next() {
        match c {
            '\\' => match chars.next() {
                Some(c @ ('\\' | ',' | '=')) => out.push(c),
                Some(c) => return Err(format!("invalid field selector: invalid escape sequence: \\{c}")),
                None => return Err("invalid field selector: invalid escape sequence: \\".into()),
            },
            ',' | '=' => return Err(format!("invalid field selector: unescaped character in value: {c}")),
            c => out.push(c),
        }
    }
    Ok(out)
}

/// What a list or watch is narrowed to.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    /// Labels.
    pub labels: LabelSelector,
    /// Fields.
    pub fields: FieldSelector,
}

impl Filter {
    /// Whether everything matches.
    pub fn is_empty(&self) -> bool {
        self.labels.is_empty() && self.fields.is_empty()
    }

    /// Whether fields other than name and namespace count.
    pub fn by_fields(&self) -> bool {
        self.fields.0.iter().any(|t| t.label != "metadata.name" && t.label != "metadata.namespace")
    }

    /// Whether an entry matches.
    pub fn matches(&self, entry: &Entry) -> bool {
        self.fields.matches(entry) && self.labels.matches(entry)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(selector: &str, set: &[(&str, &str)]) -> Result<bool, String> {
        let parsed = LabelSelector::parse(selector)?;
        Ok(parsed.0.iter().all(|r| r.matches(set.iter().find(|(k, _)| *k == r.key).map(|(_, v)| *v))))
    }

    #[test]
    fn label_selectors_select() {
        let set = [("a", "1"), ("b", "x")];
        for (selector, expected) in [
            ("", true),
            ("a", true),
            ("!a", false),
            ("a=1,b==x", true),
            ("a!=1", false),
            ("c!=1", true),
            ("a in (1,2), b notin (y)", true),
            ("c notin (1)", true),
            ("a>0", true),
            ("a<1", false),
            ("in=1", false),
            ("c=", false),
            ("c in ()", false),
        ] {
            assert_eq!(labels(selector, &set), Ok(expected), "{selector}");
        }
    }

    #[test]
    fn bad_label_selectors_are_refused_in_upstreams_words() {
        let check = |s: &str, text: &str| assert_eq!(LabelSelector::parse(s), Err(text.to_owned()), "{s}");
        check("a b c", "unable to parse requirement: found 'b', expected: in, notin, =, ==, !=, gt, lt");
        check("a,", "found '', expected: identifier after ','");
        check("=", "found '=', expected: !, identifier, or 'end of string'");
        check("a=b c", "found 'c', expected: ',' or 'end of string'");
    }

    #[test]
    fn field_selectors_parse() {
        let s = FieldSelector::parse("spec.nodeName=n1,status.phase!=Failed,a=b\\,c").unwrap_or_default();
        assert_eq!(s.exact("spec.nodeName"), Some("n1"));
        assert_eq!(s.exact("a"), Some("b,c"));
        assert_eq!(s.exact("status.phase"), None);
        assert_eq!(s.check(|l| l != "a"), Err("field label not supported: a".into()));
        assert_eq!(FieldSelector::parse("x"), Err("invalid selector: 'x'; can't understand 'x'".into()));
    }
}
