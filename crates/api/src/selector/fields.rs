//! Field selectors.

use std::fmt;

/// One term of a field selector.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FieldTerm {
    /// The field, such as `spec.nodeName`.
    pub field: String,
    /// The value, without escapes.
    pub value: String,
    /// Whether the field must have the value (else: must not).
    pub equal: bool,
}

/// A field selector: all terms must hold. The default selects everything.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FieldSelector {
    /// The terms in the order of upstream, which sorts them as texts.
    pub terms: Vec<FieldTerm>,
}

impl FieldSelector {
    /// Parses a selector as it stands in a query: `metadata.name=x,status.phase!=Running`. In values, `\,`, `\=`
    /// and `\\` stand for themselves.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut parts = split_terms(text);
        parts.sort_unstable();
        let mut terms = Vec::new();
        for part in parts.into_iter().filter(|p| !p.is_empty()) {
            let Some((field, operator, value)) = split_term(part) else {
                return Err(format!("invalid selector: '{text}'; can't understand '{part}'"));
            };
            terms.push(FieldTerm { field: field.to_owned(), value: unescape(value)?, equal: operator != "!=" });
        }
        Ok(FieldSelector { terms })
    }

    /// Whether everything is selected.
    pub fn is_empty(&self) -> bool {
        self.terms.is_empty()
    }

    /// Whether fields are selected; `lookup` gives the value of a field, absent is empty.
    pub fn matches<'a>(&self, lookup: impl Fn(&str) -> Option<&'a str>) -> bool {
        self.terms.iter().all(|t| (lookup(&t.field).unwrap_or_default() == t.value) == t.equal)
    }

    /// The value that a field must have.
    pub fn exact(&self, field: &str) -> Option<&str> {
        self.terms.iter().find(|t| t.equal && t.field == field).map(|t| t.value.as_str())
    }
}

impl fmt::Display for FieldSelector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, term) in self.terms.iter().enumerate() {
            let comma = if i > 0 { "," } else { "" };
            let operator = if term.equal { "=" } else { "!=" };
            write!(f, "{comma}{}{operator}{}", term.field, escape(&term.value))?;
        }
        Ok(())
    }
}

/// A value as it stands in a field selector.
pub fn escape(value: &str) -> String {
    value.replace('\\', "\\\\").replace(',', "\\,").replace('=', "\\=")
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

/// Splits at commas that are not escaped.
fn split_terms(text: &str) -> Vec<&str> {
    let mut parts = Vec::new();
    let (mut start, mut escaped) = (0, false);
    for (i, c) in text.char_indices() {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            ',' => {
                parts.push(&text[start..i]);
                start = i + 1;
            }
            _ => {}
        }
    }
    parts.push(&text[start..]);
    parts
}

fn split_term(part: &str) -> Option<(&str, &str, &str)> {
    for (i, _) in part.char_indices() {
        if let Some(operator) = ["!=", "==", "="].iter().find(|op| part[i..].starts_with(**op)) {
            return Some((&part[..i], operator, &part[i + operator.len()..]));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn field_selectors() {
        let parsed = FieldSelector::parse("status.phase!=Running,metadata.name=a\\,b\\=c,spec.x==").expect("fields");
        assert_eq!(parsed.to_string(), "metadata.name=a\\,b\\=c,spec.x=,status.phase!=Running");
        assert_eq!(parsed.exact("metadata.name"), Some("a,b=c"));
        assert!(parsed.matches(|f| (f == "metadata.name").then_some("a,b=c")));
        for (text, want) in [
            ("x", "invalid selector: 'x'; can't understand 'x'"),
            ("a=b=c", "invalid field selector: unescaped character in value: ="),
            ("a=\\b", "invalid field selector: invalid escape sequence: \\b"),
        ] {
            assert_eq!(FieldSelector::parse(text), Err(want.into()));
        }
    }

    proptest! {
        #[test]
        fn any_text_is_parsed_or_refused(text in "[a-c=!, \\\\é]{0,24}") {
            if let Ok(selector) = FieldSelector::parse(&text) {
                let count = FieldSelector::parse(&selector.to_string()).map(|s| s.terms.len());
                prop_assert_eq!(count, Ok(selector.terms.len()));
            }
        }
    }
}
