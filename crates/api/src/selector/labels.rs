//! Label selectors.

use std::fmt;

use serde_json::Value;

use crate::field::quote;
use crate::names;

/// What a requirement asks of a label.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operator {
    /// `a in (x,y)`.
    In,
    /// `a notin (x,y)`: absent labels match.
    NotIn,
    /// `a=x`.
    Equals,
    /// `a==x`.
    DoubleEquals,
    /// `a!=x`: absent labels match.
    NotEquals,
    /// `a`.
    Exists,
    /// `!a`.
    DoesNotExist,
    /// `a>1`.
    GreaterThan,
    /// `a<1`.
    LessThan,
}

/// One requirement of a label selector.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Requirement {
    key: String,
    operator: Operator,
    /// Sorted, each once.
    values: Vec<String>,
}

impl Requirement {
    /// A requirement, checked as upstream's `NewRequirement` does.
    pub fn new(key: &str, operator: Operator, mut values: Vec<String>) -> Result<Self, String> {
        let mut problems = Vec::new();
        if let Some(text) = key_problem(key, "key") {
            problems.push(text);
        }
        let list = |values: &[String]| Value::from(values).to_string();
        let mut wrong = |text: &str| problems.push(format!("values: Invalid value: {}: {text}", list(&values)));
        match operator {
            Operator::In | Operator::NotIn if values.is_empty() => {
                wrong("for 'in', 'notin' operators, values set can't be empty");
            }
            Operator::Equals | Operator::DoubleEquals | Operator::NotEquals if values.len() != 1 => {
                wrong("exact-match compatibility requires one single value");
            }
            Operator::Exists | Operator::DoesNotExist if !values.is_empty() => {
                wrong("values set must be empty for exists and does not exist");
            }
            Operator::GreaterThan | Operator::LessThan => {
                if values.len() != 1 {
                    wrong("for 'Gt', 'Lt' operators, exactly one value is required");
                }
                for (i, value) in values.iter().enumerate().filter(|(_, v)| v.parse::<i64>().is_err()) {
                    let quoted = quote(value);
                    problems.push(format!(
                        "values[{i}]: Invalid value: {quoted}: for 'Gt', 'Lt' operators, the value must be an integer"
                    ));
                }
            }
            _ => {}
        }
        for (i, value) in values.iter().enumerate() {
            let wrong = names::label_value(value);
            if !wrong.is_empty() {
                problems.push(format!("values[{i}][{key}]: Invalid value: {}: {}", quote(value), wrong.join("; ")));
            }
        }
        match problems.len() {
            0 => {}
            1 => return Err(problems.remove(0)),
            _ => return Err(format!("[{}]", problems.join(", "))),
        }
        values.sort();
        values.dedup();
        Ok(Requirement { key: key.to_owned(), operator, values })
    }

    /// The label.
    pub fn key(&self) -> &str {
        &self.key
    }

    /// What is asked.
    pub fn operator(&self) -> Operator {
        self.operator
    }

    /// The values, sorted.
    pub fn values(&self) -> &[String] {
        &self.values
    }

    /// Whether a label of this value, or its absence, is what is asked.
    pub fn accepts(&self, value: Option<&str>) -> bool {
        let among = |value: &str| self.values.iter().any(|v| v == value);
        match self.operator {
            Operator::In | Operator::Equals | Operator::DoubleEquals => value.is_some_and(among),
            Operator::NotIn | Operator::NotEquals => !value.is_some_and(among),
            Operator::Exists => value.is_some(),
            Operator::DoesNotExist => value.is_none(),
            Operator::GreaterThan | Operator::LessThan => {
                let have = value.and_then(|v| v.parse::<i64>().ok());
                let bound = self.values.first().and_then(|v| v.parse::<i64>().ok());
                match (have, bound, self.operator) {
                    (Some(have), Some(bound), Operator::GreaterThan) => have > bound,
                    (Some(have), Some(bound), _) => have < bound,
                    _ => false,
                }
            }
        }
    }
}

impl fmt::Display for Requirement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let values = self.values.join(",");
        match self.operator {
            Operator::In => write!(f, "{} in ({values})", self.key),
            Operator::NotIn => write!(f, "{} notin ({values})", self.key),
            Operator::Equals => write!(f, "{}={values}", self.key),
            Operator::DoubleEquals => write!(f, "{}=={values}", self.key),
            Operator::NotEquals => write!(f, "{}!={values}", self.key),
            Operator::Exists => f.write_str(&self.key),
            Operator::DoesNotExist => write!(f, "!{}", self.key),
            Operator::GreaterThan => write!(f, "{}>{values}", self.key),
            Operator::LessThan => write!(f, "{}<{values}", self.key),
        }
    }
}

fn key_problem(key: &str, path: &str) -> Option<String> {
    let wrong = names::qualified_name(key);
    (!wrong.is_empty()).then(|| format!("{path}: Invalid value: {}: {}", quote(key), wrong.join("; ")))
}

/// A label selector: all requirements must hold. The default selects everything.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LabelSelector {
    requirements: Vec<Requirement>,
    /// Selects nothing, whatever the requirements say.
    nothing: bool,
}

impl LabelSelector {
    /// Selects everything.
    pub fn everything() -> Self {
        Self::default()
    }

    /// Selects nothing, as the absence of a `LabelSelector` in an object does.
    pub fn nothing() -> Self {
        LabelSelector { requirements: Vec::new(), nothing: true }
    }

    /// Parses a selector as it stands in a query: `a=b,c in (d,e),!f`.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut requirements = Parser::new(text).parse()?;
        requirements.sort_by(|a, b| a.key.cmp(&b.key));
        Ok(LabelSelector { requirements, nothing: false })
    }

    /// Selects the labels given, as the selector map of a Service does; nothing is checked.
    pub fn of_labels<'a>(labels: impl IntoIterator<Item = (&'a str, &'a str)>) -> Self {
        let mut requirements: Vec<Requirement> = labels
            .into_iter()
            .map(|(key, value)| Requirement {
                key: key.to_owned(),
                operator: Operator::Equals,
                values: vec![value.to_owned()],
            })
            .collect();
        requirements.sort_by(|a, b| a.key.cmp(&b.key));
        LabelSelector { requirements, nothing: false }
    }

    /// The selector that a `metav1.LabelSelector` in an object stands for: none selects nothing, an empty one
    /// everything.
    pub fn of_object(selector: &Value) -> Result<Self, String> {
        let Some(map) = selector.as_object() else { return Ok(Self::nothing()) };
        let mut requirements = Vec::new();
        for (key, value) in map.get("matchLabels").and_then(Value::as_object).into_iter().flatten() {
            let value = value.as_str().unwrap_or_default().to_owned();
            requirements.push(Requirement::new(key, Operator::Equals, vec![value])?);
        }
        for expression in map.get("matchExpressions").and_then(Value::as_array).into_iter().flatten() {
            let text = |field: &str| expression.get(field).and_then(Value::as_str).unwrap_or_default();
            let operator = match text("operator") {
                "In" => Operator::In,
                "NotIn" => Operator::NotIn,
                "Exists" => Operator::Exists,
                "DoesNotExist" => Operator::DoesNotExist,
                other => return Err(format!("{} is not a valid label selector operator", quote(other))),
            };
            let values = expression.get("values").and_then(Value::as_array).into_iter().flatten();
            let values = values.filter_map(Value::as_str).map(str::to_owned).collect();
            requirements.push(Requirement::new(text("key"), operator, values)?);
        }
        requirements.sort_by(|a, b| a.key.cmp(&b.key));
        Ok(LabelSelector { requirements, nothing: false })
    }

    /// Whether everything is selected.
    pub fn is_empty(&self) -> bool {
        self.requirements.is_empty() && !self.nothing
    }

    /// The requirements, sorted by key.
    pub fn requirements(&self) -> &[Requirement] {
        &self.requirements
    }

    /// Whether labels are selected; `lookup` gives the value of a label.
    pub fn matches<'a>(&self, lookup: impl Fn(&str) -> Option<&'a str>) -> bool {
        !self.nothing && self.requirements.iter().all(|r| r.accepts(lookup(&r.key)))
    }

    /// Whether an object's labels are selected.
    pub fn matches_object(&self, object: &Value) -> bool {
        let labels = object.get("metadata").and_then(|m| m.get("labels"));
        self.matches(|key| labels?.get(key)?.as_str())
    }

    /// The value that a label must have, where only one will do.
    pub fn exact(&self, key: &str) -> Option<&str> {
        let requirement = self.requirements.iter().find(|r| r.key == key)?;
        match (requirement.operator, requirement.values.as_slice()) {
            (Operator::Equals | Operator::DoubleEquals | Operator::In, [value]) => Some(value),
            _ => None,
        }
    }
}

impl fmt::Display for LabelSelector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, requirement) in self.requirements.iter().enumerate() {
            if i > 0 {
                f.write_str(",")?;
            }
            requirement.fmt(f)?;
        }
        Ok(())
    }
}

/// A word of a selector.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Word {
    End,
    /// Symbols that mean nothing; the text of the complaint.
    Bad(String),
    Name(String),
    Symbol(&'static str),
}

impl Word {
    fn text(&self) -> &str {
        match self {
            Word::End => "",
            Word::Bad(text) | Word::Name(text) => text,
            Word::Symbol(text) => text,
        }
    }

    fn is(&self, symbol: &str) -> bool {
        matches!(self, Word::Symbol(s) if *s == symbol)
    }
}

const SYMBOLS: [&str; 9] = ["==", "!=", "=", "!", "(", ")", ",", ">", "<"];

fn words(text: &str) -> Vec<Word> {
    let special = |c: char| "=!(),><".contains(c);
    let mut words = Vec::new();
    let mut rest = text;
    loop {
        rest = rest.trim_start_matches([' ', '\t', '\r', '\n']);
        if rest.is_empty() || rest.starts_with('\0') {
            words.push(Word::End);
            return words;
        }
        if let Some(symbol) = SYMBOLS.iter().find(|s| rest.starts_with(**s)) {
            words.push(Word::Symbol(symbol));
            rest = &rest[symbol.len()..];
            continue;
        }
        let end = rest.find(|c: char| special(c) || matches!(c, ' ' | '\t' | '\r' | '\n' | '\0')).unwrap_or(rest.len());
        if end == 0 {
            words.push(Word::Bad(format!("error expected: keyword found '{rest}'")));
            words.push(Word::End);
            return words;
        }
        words.push(Word::Name(rest[..end].to_owned()));
        rest = &rest[end..];
    }
}

struct Parser {
    words: Vec<Word>,
    at: usize,
}

impl Parser {
    fn new(text: &str) -> Self {
        Parser { words: words(text), at: 0 }
    }

    /// The word to come; the last is always the end.
    fn peek(&self) -> &Word {
        self.words.get(self.at).unwrap_or(&Word::End)
    }

    fn next(&mut self) -> Word {
        let word = self.peek().clone();
        self.at += 1;
        word
    }

    fn parse(mut self) -> Result<Vec<Requirement>, String> {
        let mut requirements = Vec::new();
        loop {
            match self.peek() {
                Word::End => return Ok(requirements),
                word if matches!(word, Word::Name(_)) || word.is("!") => {}
                other => return Err(format!("found '{}', expected: !, identifier, or 'end of string'", other.text())),
            }
            let requirement = self.requirement().map_err(|e| format!("unable to parse requirement: {e}"))?;
            requirements.push(requirement);
            match self.next() {
                Word::End => return Ok(requirements),
                word if word.is(",") => match self.peek() {
                    Word::Name(_) => {}
                    word if word.is("!") => {}
                    other => return Err(format!("found '{}', expected: identifier after ','", other.text())),
                },
                other => return Err(format!("found '{}', expected: ',' or 'end of string'", other.text())),
            }
        }
    }

    fn requirement(&mut self) -> Result<Requirement, String> {
        let negated = self.peek().is("!");
        if negated {
            self.at += 1;
        }
        let key = match self.next() {
            Word::Name(key) => key,
            other => return Err(format!("found '{}', expected: identifier", other.text())),
        };
        if let Some(problem) = key_problem(&key, "<nil>") {
            return Err(problem);
        }
        if negated {
            return Requirement::new(&key, Operator::DoesNotExist, Vec::new());
        }
        if *self.peek() == Word::End || self.peek().is(",") {
            return Requirement::new(&key, Operator::Exists, Vec::new());
        }
        let word = self.next();
        let operator = match word.text() {
            "in" => Operator::In,
            "notin" => Operator::NotIn,
            "=" => Operator::Equals,
            "==" => Operator::DoubleEquals,
            "!=" => Operator::NotEquals,
            ">" => Operator::GreaterThan,
            "<" => Operator::LessThan,
            other => return Err(format!("found '{other}', expected: in, notin, =, ==, !=, gt, lt")),
        };
        let values = match operator {
            Operator::In | Operator::NotIn => self.values()?,
            _ => vec![self.exact_value()?],
        };
        Requirement::new(&key, operator, values)
    }

    fn exact_value(&mut self) -> Result<String, String> {
        if *self.peek() == Word::End || self.peek().is(",") {
            return Ok(String::new());
        }
        match self.next() {
            Word::Name(value) => Ok(value),
            other => Err(format!("found '{}', expected: identifier", other.text())),
        }
    }

    /// A set in parentheses; empty places are empty values.
    fn values(&mut self) -> Result<Vec<String>, String> {
        let open = self.next();
        if !open.is("(") {
            return Err(format!("found '{}' expected: '('", open.text()));
        }
        let mut values = Vec::new();
        match self.peek() {
            Word::Name(_) => {}
            word if word.is(",") => {}
            word if word.is(")") => {
                self.at += 1;
                return Ok(vec![String::new()]);
            }
            other => return Err(format!("found '{}', expected: ',', ')' or identifier", other.text())),
        }
        loop {
            match self.next() {
                Word::Name(value) => {
                    values.push(value);
                    let next = self.peek();
                    if next.is(")") {
                        self.at += 1;
                        return Ok(values);
                    }
                    if !next.is(",") {
                        return Err(format!("found '{}', expected: ',' or ')'", next.text()));
                    }
                }
                word if word.is(",") => {
                    if values.is_empty() || self.peek().is(",") {
                        values.push(String::new());
                    }
                    if self.peek().is(")") {
                        values.push(String::new());
                        self.at += 1;
                        return Ok(values);
                    }
                }
                other => return Err(format!("found '{}', expected: ',', or identifier", other.text())),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    fn selects(selector: &str, labels: &[(&str, &str)]) -> Result<bool, String> {
        let parsed = LabelSelector::parse(selector)?;
        Ok(parsed.matches(|key| labels.iter().find(|l| l.0 == key).map(|l| l.1)))
    }

    #[test]
    fn label_selectors_select() {
        let labels = [("a", "x"), ("n", "5")];
        for (text, want) in [
            ("", true),
            ("a", true),
            ("!a", false),
            ("!b", true),
            ("a=x", true),
            ("a == x", true),
            ("a!=x", false),
            ("b!=x", true),
            ("a in (x, y),n", true),
            ("a notin (x)", false),
            ("b notin (x)", true),
            ("a in (,y)", false),
            ("n>4,n<6", true),
            ("n>5", false),
            ("a>1", false),
            ("b=", false),
            ("in in (in)", false),
        ] {
            assert_eq!(selects(text, &labels), Ok(want), "{text}");
        }
    }

    #[test]
    fn complaints_are_upstreams() {
        for (text, want) in [
            ("a b c", "unable to parse requirement: found 'b', expected: in, notin, =, ==, !=, gt, lt"),
            ("a in x", "unable to parse requirement: found 'x' expected: '('"),
            ("a in (x", "unable to parse requirement: found '', expected: ',' or ')'"),
            ("a,", "found '', expected: identifier after ','"),
            ("=a", "found '=', expected: !, identifier, or 'end of string'"),
            ("a=b c", "found 'c', expected: ',' or 'end of string'"),
            ("!!a", "unable to parse requirement: found '!', expected: identifier"),
        ] {
            assert_eq!(selects(text, &[]), Err(want.into()), "{text}");
        }
        let long = selects("a>x", &[]).err().unwrap_or_default();
        assert_eq!(
            long,
            "unable to parse requirement: values[0]: Invalid value: \"x\": for 'Gt', 'Lt' operators, the value must be \
             an integer"
        );
        assert!(selects("a=-", &[]).err().is_some_and(|e| e.contains("values[0][a]: Invalid value: \"-\": ")));
    }

    #[test]
    fn selectors_in_objects() {
        let selector = json!({"matchLabels": {"b": "2"}, "matchExpressions": [
            {"key": "a", "operator": "In", "values": ["y", "x"]}, {"key": "c", "operator": "DoesNotExist"}]});
        let selector = LabelSelector::of_object(&selector).expect("selector");
        assert_eq!(selector.to_string(), "a in (x,y),b=2,!c");
        assert!(selector.matches_object(&json!({"metadata": {"labels": {"a": "x", "b": "2"}}})));
        assert!(!selector.matches_object(&json!({"metadata": {}})));
        assert!(!LabelSelector::of_object(&Value::Null).expect("none").matches(|_| None));
        assert!(LabelSelector::of_object(&json!({})).expect("empty").matches(|_| None));
        let unknown = json!({"matchExpressions": [{"key": "a", "operator": "Like"}]});
        assert_eq!(LabelSelector::of_object(&unknown), Err("\"Like\" is not a valid label selector operator".into()));
        assert_eq!(LabelSelector::of_labels([("b", "1"), ("a", "2")]).to_string(), "a=2,b=1");
        assert_eq!(selector.exact("b"), Some("2"));
    }

    proptest! {
        #[test]
        fn any_text_is_parsed_or_refused(text in "[a-c=!<>(), \\\\é\u{0}-]{0,24}") {
            if let Ok(selector) = LabelSelector::parse(&text) {
                prop_assert_eq!(LabelSelector::parse(&selector.to_string()), Ok(selector));
            }
        }
    }
}
