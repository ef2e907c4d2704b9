//! JSONPath as printer columns have it.
//!
//! Of the language of kubectl: names (`.a.b`, `.a\.b`, `['a.b']`), `*`, `..name`, elements (`[0]`, `[-1]`, `[1:3]`, `[*]`, `['a','b']`)
//! and filters (`[?(@.type=="Ready")]`). Upstream: `client-go/util/jsonpath`.

use serde_json::{Number, Value};

/// Steps that a path may have.
const MAX_STEPS: usize = 64;
/// Values that are followed at once.
const MAX_VALUES: usize = 1000;

/// A compiled path.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct JsonPath(Vec<Step>);

#[derive(Clone, Debug, PartialEq)]
enum Step {
    /// Fields by name.
    Names(Vec<String>),
    /// All elements or values.
    All,
    /// A name anywhere below; with an empty name, everything.
    Anywhere(String),
    /// Elements from, to (not included) and by how many.
    Slice(Option<i64>, Option<i64>, i64),
    /// Elements of which something holds.
    Filter(Operand, Option<(Comparison, Operand)>),
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Comparison {
    Equal,
    NotEqual,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
}

#[derive(Clone, Debug, PartialEq)]
enum Operand {
    /// A value below the element.
    Path(JsonPath),
    Literal(Value),
}

impl JsonPath {
    /// Compiles a path; `None` for what is none.
    pub fn parse(text: &str) -> Option<JsonPath> {
        let mut parser = Parser { rest: text };
        let path = parser.path()?;
        parser.rest.is_empty().then_some(path)
    }

    /// The first value at the path.
    pub fn first<'v>(&self, value: &'v Value) -> Option<&'v Value> {
        self.find(value)?.first().copied()
    }

    /// The values at the path; `None` where values cannot be compared.
    fn find<'v>(&self, value: &'v Value) -> Option<Vec<&'v Value>> {
        let mut here = vec![value];
        for step in &self.0 {
            let mut next = Vec::new();
            for value in here {
                step.take(value, &mut next)?;
                next.truncate(MAX_VALUES);
            }
            here = next;
        }
        Some(here)
    }
}

impl Step {
    fn take<'v>(&self, value: &'v Value, out: &mut Vec<&'v Value>) -> Option<()> {
        let list = || value.as_array().map(Vec::as_slice).unwrap_or_default();
        match self {
            Step::Names(names) => out.extend(names.iter().filter_map(|name| value.get(name))),
            Step::All => each(value, &mut |v| out.push(v)),
            Step::Anywhere(name) => anywhere(value, name, out),
            Step::Slice(from, to, step) => {
                let len = i64::try_from(list().len()).unwrap_or(i64::MAX);
                let place = |n: i64| if n < 0 { n + len } else { n };
                let (from, to) = (place(from.unwrap_or(0)), place(to.unwrap_or(len)).min(len));
                let mut at = from;
                while at >= 0 && at < to && *step > 0 {
                    out.extend(usize::try_from(at).ok().and_then(|at| list().get(at)));
                    at = at.saturating_add(*step);
                }
            }
            Step::Filter(left, right) => {
                let mut elements = Vec::new();
                each(value, &mut |v| elements.push(v));
                for element in elements {
                    if holds(element, left, right.as_ref())? {
                        out.push(element);
                    }
                }
            }
        }
        Some(())
    }
}

fn each<'v>(value: &'v Value, f: &mut dyn FnMut(&'v Value)) {
    match value {
        Value::Array(list) => list.iter().for_each(f),
        Value::Object(map) => map.values().for_each(f),
        _ => {}
    }
}

fn anywhere<'v>(value: &'v Value, name: &str, out: &mut Vec<&'v Value>) {
    if out.len() >= MAX_VALUES {
        return;
    }
    match name {
        "" => each(value, &mut |v| out.push(v)),
        name => out.extend(value.get(name)),
    }
    each(value, &mut |v| anywhere(v, name, out));
}

fn holds(element: &Value, left: &Operand, right: Option<&(Comparison, Operand)>) -> Option<bool> {
    let value_of = |operand: &Operand| -> Option<Option<Value>> {
        match operand {
            Operand::Literal(value) => Some(Some(value.clone())),
            Operand::Path(path) => Some(path.find(element)?.first().map(|v| (*v).clone())),
        }
    };
    let left = value_of(left)?;
    let Some((comparison, right)) = right else { return Some(left.is_some()) };
    let (Some(left), Some(right)) = (left, value_of(right)?) else { return Some(false) };
    let order = match (&left, &right) {
        (Value::String(a), Value::String(b)) => a.cmp(b),
        (Value::Number(a), Value::Number(b)) => a.as_f64()?.partial_cmp(&b.as_f64()?)?,
        (Value::Bool(a), Value::Bool(b)) => a.cmp(b),
        _ => return None,
    };
    Some(match comparison {
        Comparison::Equal => order.is_eq(),
        Comparison::NotEqual => order.is_ne(),
        Comparison::Less => order.is_lt(),
        Comparison::LessOrEqual => order.is_le(),
        Comparison::Greater => order.is_gt(),
        Comparison::GreaterOrEqual => order.is_ge(),
    })
}

struct Parser<'a> {
    rest: &'a str,
}

impl Parser<'_> {
    fn eat(&mut self, token: &str) -> bool {
        self.rest.strip_prefix(token).map(|rest| self.rest = rest).is_some()
    }

    fn spaces(&mut self) {
        self.rest = self.rest.trim_start();
    }

    /// Steps, as many as there are.
    fn path(&mut self) -> Option<JsonPath> {
        let mut steps = Vec::new();
        loop {
            if self.eat("..") {
                steps.push(Step::Anywhere(self.name()?));
            } else if self.eat(".") {
                match self.name()?.as_str() {
                    // The object itself, or what is before a bracket.
                    "" => {}
                    "*" => steps.push(Step::All),
                    name => steps.push(Step::Names(vec![name.to_owned()])),
                }
            } else if self.eat("[") {
                steps.push(self.bracket()?);
            } else {
                return Some(JsonPath(steps));
            }
            if steps.len() > MAX_STEPS {
                return None;
            }
        }
    }

    /// A name after a dot; a backslash takes what is special from the next character.
    fn name(&mut self) -> Option<String> {
        let (mut name, mut chars) = (String::new(), self.rest.char_indices());
        let mut end = self.rest.len();
        while let Some((at, c)) = chars.next() {
            match c {
                '\\' => name.push(chars.next()?.1),
                '.' | '[' | ']' | '(' | ')' | ' ' | '=' | '!' | '<' | '>' | '&' | '|' | ',' | '{' | '}' => {
                    end = at;
                    break;
                }
                c => name.push(c),
            }
        }
        self.rest = &self.rest[end..];
        Some(name)
    }

    /// What is between brackets.
    fn bracket(&mut self) -> Option<Step> {
        if self.eat("?(") {
            return self.filter();
        }
        if self.eat("*]") {
            return Some(Step::All);
        }
        if self.rest.starts_with(['\'', '"']) {
            let mut names = Vec::new();
            loop {
                self.spaces();
                names.push(self.quoted()?);
                self.spaces();
                if self.eat("]") {
                    return Some(Step::Names(names));
                }
                if !self.eat(",") {
                    return None;
                }
            }
        }
        let end = self.rest.find(']')?;
        let (inner, rest) = (&self.rest[..end], &self.rest[end + 1..]);
        self.rest = rest;
        let part = |text: &str| -> Option<Option<i64>> {
            if text.is_empty() { Some(None) } else { text.parse().ok().map(Some) }
        };
        let parts: Vec<Option<i64>> = inner.split(':').map(part).collect::<Option<_>>()?;
        match parts.as_slice() {
            [Some(-1)] => Some(Step::Slice(Some(-1), None, 1)),
            [Some(n)] => Some(Step::Slice(Some(*n), Some(n.checked_add(1)?), 1)),
            [from, to] => Some(Step::Slice(*from, *to, 1)),
            [from, to, step] => Some(Step::Slice(*from, *to, step.unwrap_or(1))),
            _ => None,
        }
    }

    fn filter(&mut self) -> Option<Step> {
        let left = self.operand()?;
        self.spaces();
        let comparisons = [
            ("==", Comparison::Equal),
            ("!=", Comparison::NotEqual),
            ("<=", Comparison::LessOrEqual),
            (">=", Comparison::GreaterOrEqual),
            ("<", Comparison::Less),
            (">", Comparison::Greater),
        ];
        let right = match comparisons.into_iter().find(|(token, _)| self.eat(token)) {
            Some((_, comparison)) => Some((comparison, self.operand()?)),
            None => None,
        };
        self.spaces();
        self.eat(")]").then_some(Step::Filter(left, right))
    }

    fn operand(&mut self) -> Option<Operand> {
        self.spaces();
        if self.eat("@") {
            return self.path().map(Operand::Path);
        }
        if self.rest.starts_with(['\'', '"']) {
            return self.quoted().map(|text| Operand::Literal(text.into()));
        }
        let end = self.rest.find([')', ' ', '=', '!', '<', '>']).unwrap_or(self.rest.len());
        let (word, rest) = self.rest.split_at(end);
        self.rest = rest;
        let number = || {
            let whole = word.parse::<i64>().ok().map(Number::from);
            whole.or_else(|| word.parse().ok().and_then(Number::from_f64)).map(Value::Number)
        };
        match word {
            "true" | "false" => Some(Operand::Literal((word == "true").into())),
            _ => number().map(Operand::Literal),
        }
    }

    fn quoted(&mut self) -> Option<String> {
        let quote = self.rest.chars().next().filter(|c| matches!(c, '\'' | '"'))?;
        let (mut text, mut chars) = (String::new(), self.rest.char_indices().skip(1));
        while let Some((at, c)) = chars.next() {
            match c {
                '\\' => text.push(chars.next()?.1),
                c if c == quote => {
                    self.rest = &self.rest[at + c.len_utf8()..];
                    return Some(text);
                }
                c => text.push(c),
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    #[test]
    fn paths_find_values() {
        let object = json!({"metadata": {"annotations": {"a.b/c": "x"}}, "spec": {"n": 3, "l": ["a", "b", "c"], "": "e",
            "rules": [{"host": "h1"}, {"host": "h2"}]}, "status": {"conditions": [
            {"type": "Other", "status": "False", "n": 1}, {"type": "Ready", "status": "True", "n": 5}]}});
        let check = |path: &str, expected: Value| {
            let path = JsonPath::parse(path).unwrap_or_else(|| panic!("{path} is a path"));
            let found: Vec<Value> = path.find(&object).unwrap_or_default().into_iter().cloned().collect();
            assert_eq!(Value::Array(found), expected, "{path:?}");
        };
        check(".spec.n", json!([3]));
        check(".spec.nope.deeper", json!([]));
        check(".metadata.annotations.a\\.b/c", json!(["x"]));
        check(".metadata.annotations['a.b/c']", json!(["x"]));
        check(".spec.l[1]", json!(["b"]));
        check(".spec.l[-1]", json!(["c"]));
        check(".spec.l[-2]", json!(["b"]));
        check(".spec.l[9]", json!([]));
        check(".spec.l[0:2]", json!(["a", "b"]));
        check(".spec.l[::2]", json!(["a", "c"]));
        check(".spec.rules[*].host", json!(["h1", "h2"]));
        check(".spec.rules.*.host", json!(["h1", "h2"]));
        check(".spec['n','nope']", json!([3]));
        check("..host", json!(["h1", "h2"]));
        check(".status.conditions[?(@.type==\"Ready\")].status", json!(["True"]));
        check(".status.conditions[?(@.type == 'Ready')].status", json!(["True"]));
        check(".status.conditions[?(@.n>=2)].type", json!(["Ready"]));
        check(".status.conditions[?(@.n!=5)].type", json!(["Other"]));
        check(".status.conditions[?(@.message)].type", json!([]));
        check(".status.conditions[?(@.n==\"x\")].type", json!([]));
    }

    #[test]
    fn what_is_no_path_is_none() {
        for text in [".a[", ".a[x]", ".a[?(@.b=]", ".a['b", "a", ".a b", ".a[?(@.b==)]", ".a\\"] {
            assert_eq!(JsonPath::parse(text), None, "{text}");
        }
        assert_eq!(JsonPath::parse(&".a".repeat(1000)), None);
    }

    proptest! {
        #[test]
        fn nothing_panics(text in "[.a\\[\\]'\"?()@=<>*:0-9\\\\-]{0,30}") {
            if let Some(path) = JsonPath::parse(&text) {
                let _ = path.first(&json!({"a": [{"a": {"a": 1}}, [1, 2]]}));
            }
        }
    }
}
