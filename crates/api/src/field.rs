//! Field paths and accumulated validation errors.
//!
//! Follows `k8s.io/apimachinery/pkg/util/validation/field`: texts and reasons are what clients see in
//! `Status.details.causes`.

use std::borrow::Cow;
use std::fmt;
use std::sync::{Arc, LazyLock};

use regex::Regex;
use serde_json::Value;

/// The path of a field inside an object, such as `spec.containers[0].ports[1].containerPort`.
///
/// Cheap to extend and to copy: a step and what is before it. Nearly all paths are made in vain, of objects that are good,
/// so the text is made when it is asked for.
#[derive(Clone, Default)]
pub struct Path(Option<Arc<Link>>);

struct Link {
    before: Path,
    step: Step,
}

/// One step of a path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// A field, after a dot where something is before it.
    Field(Cow<'static, str>),
    /// An element of a list.
    Index(usize),
    /// An entry of a map.
    Key(Box<str>),
}

impl Path {
    /// The object itself where upstream starts from a path without a name (`field.NewPath("")`), which reads `[]`.
    pub fn unnamed() -> Self {
        Path::root().then(Step::Field("[]".into()))
    }

    /// The path of a top-level field.
    pub fn new(name: &str) -> Self {
        Path::root().child(name)
    }

    /// The empty path: the object itself.
    pub const fn root() -> Self {
        Path(None)
    }

    pub(crate) fn then(&self, step: Step) -> Self {
        Path(Some(Arc::new(Link { before: self.clone(), step })))
    }

    /// The path of a field of this one.
    pub fn child(&self, name: &str) -> Self {
        self.then(Step::Field(name.to_owned().into()))
    }

    /// The path of a list element of this one.
    pub fn index(&self, i: usize) -> Self {
        self.then(Step::Index(i))
    }

    /// The path of a map entry of this one.
    pub fn key(&self, key: &str) -> Self {
        self.then(Step::Key(key.into()))
    }

    /// The text of the path; empty for the object itself.
    pub fn text(&self) -> String {
        let mut links: Vec<&Link> = Vec::new();
        let mut here = self.0.as_deref();
        while let Some(link) = here {
            links.push(link);
            here = link.before.0.as_deref();
        }
        let mut text = String::new();
        for link in links.into_iter().rev() {
            match &link.step {
                Step::Field(name) => {
                    if !text.is_empty() {
                        text.push('.');
                    }
                    text.push_str(name);
                }
                Step::Index(i) => text.push_str(&format!("[{i}]")),
                Step::Key(key) => {
                    text.push('[');
                    text.push_str(key);
                    text.push(']');
                }
            }
        }
        text
    }
}

impl PartialEq for Path {
    fn eq(&self, other: &Self) -> bool {
        self.text() == other.text()
    }
}

impl Eq for Path {}

impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = self.text();
        f.write_str(if text.is_empty() { "<nil>" } else { &text })
    }
}

impl fmt::Debug for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text())
    }
}

/// What is wrong with a field. The names are upstream's `field.ErrorType` values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorType {
    /// The value refers to something that does not exist.
    NotFound,
    /// The value must be given.
    Required,
    /// The value occurs twice where it must be unique.
    Duplicate,
    /// The value is not well formed.
    Invalid,
    /// The value is not one of those allowed.
    NotSupported,
    /// The value is not allowed here and now.
    Forbidden,
    /// The text is too long.
    TooLong,
    /// The list is too long.
    TooMany,
    /// Something failed inside the server.
    InternalError,
    /// The value has the wrong type.
    TypeInvalid,
}

impl ErrorType {
    /// The `reason` of the cause in a Status.
    pub fn reason(self) -> &'static str {
        match self {
            ErrorType::NotFound => "FieldValueNotFound",
            ErrorType::Required => "FieldValueRequired",
            ErrorType::Duplicate => "FieldValueDuplicate",
            ErrorType::Invalid => "FieldValueInvalid",
            ErrorType::NotSupported => "FieldValueNotSupported",
            ErrorType::Forbidden => "FieldValueForbidden",
            ErrorType::TooLong => "FieldValueTooLong",
            ErrorType::TooMany => "FieldValueTooMany",
            ErrorType::InternalError => "InternalError",
            ErrorType::TypeInvalid => "FieldValueTypeInvalid",
        }
    }

    fn text(self) -> &'static str {
        match self {
            ErrorType::NotFound => "Not found",
            ErrorType::Required => "Required value",
            ErrorType::Duplicate => "Duplicate value",
            ErrorType::Invalid => "Invalid value",
            ErrorType::NotSupported => "Unsupported value",
            ErrorType::Forbidden => "Forbidden",
            ErrorType::TooLong => "Too long",
            ErrorType::TooMany => "Too many",
            ErrorType::InternalError => "Internal error",
            ErrorType::TypeInvalid => "Invalid value",
        }
    }
}

/// One problem of one field.
#[derive(Clone, Debug, PartialEq)]
pub struct FieldError {
    /// What sort of problem.
    pub kind: ErrorType,
    /// Where.
    pub path: Path,
    /// The offending value as upstream prints it (already quoted or JSON), or `None` where the text has none.
    pub value: Option<String>,
    /// The explanation; may be empty.
    pub detail: String,
}

impl FieldError {
    /// The text without the path: `Invalid value: "x": must be ...`; the `message` of a Status cause.
    ///
    /// Upstream: `field.Error.ErrorBody`.
    pub fn body(&self) -> String {
        let mut text = self.kind.text().to_owned();
        if let Some(value) = &self.value {
            text.push_str(": ");
            text.push_str(value);
        }
        if !self.detail.is_empty() {
            text.push_str(": ");
            text.push_str(&self.detail);
        }
        text
    }
}

impl fmt::Display for FieldError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.path, self.body())
    }
}

/// Every problem found in an object; validation goes on after the first.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ErrorList(pub Vec<FieldError>);

impl ErrorList {
    /// No problems yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Whether nothing is wrong.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Takes over the problems of another list.
    pub fn extend(&mut self, other: ErrorList) {
        self.0.extend(other.0);
    }

    fn push(&mut self, kind: ErrorType, path: &Path, value: Option<String>, detail: impl Into<String>) {
        self.0.push(FieldError { kind, path: path.clone(), value, detail: detail.into() });
    }

    /// A value that must be given is not.
    pub fn required(&mut self, path: &Path, detail: impl Into<String>) {
        self.push(ErrorType::Required, path, None, detail);
    }

    /// A value is not well formed.
    pub fn invalid(&mut self, path: &Path, value: impl Into<Shown>, detail: impl Into<String>) {
        self.push(ErrorType::Invalid, path, Some(value.into().0), detail);
    }

    /// A value is not well formed, and is not shown (`field.OmitValueType`).
    pub fn invalid_silently(&mut self, path: &Path, detail: impl Into<String>) {
        self.push(ErrorType::Invalid, path, None, detail);
    }

    /// A value has the wrong type.
    pub fn type_invalid(&mut self, path: &Path, value: impl Into<Shown>, detail: impl Into<String>) {
        self.push(ErrorType::TypeInvalid, path, Some(value.into().0), detail);
    }

    /// A value occurs twice.
    pub fn duplicate(&mut self, path: &Path, value: impl Into<Shown>) {
        self.push(ErrorType::Duplicate, path, Some(value.into().0), "");
    }

    /// A value refers to something that does not exist.
    pub fn not_found(&mut self, path: &Path, value: impl Into<Shown>) {
        self.push(ErrorType::NotFound, path, Some(value.into().0), "");
    }

    /// The same, with an explanation.
    pub fn not_found_because(&mut self, path: &Path, value: impl Into<Shown>, detail: impl Into<String>) {
        self.push(ErrorType::NotFound, path, Some(value.into().0), detail);
    }

    /// A value occurs twice, with an explanation.
    pub fn duplicate_because(&mut self, path: &Path, value: impl Into<Shown>, detail: impl Into<String>) {
        self.push(ErrorType::Duplicate, path, Some(value.into().0), detail);
    }

    /// A value is not allowed here and now.
    pub fn forbidden(&mut self, path: &Path, detail: impl Into<String>) {
        self.push(ErrorType::Forbidden, path, None, detail);
    }

    /// A value is not among those supported, which are listed in the text in the order given.
    pub fn not_supported(&mut self, path: &Path, value: impl Into<Shown>, supported: &[&str]) {
        let detail = if supported.is_empty() {
            String::new()
        } else {
            let quoted: Vec<String> = supported.iter().map(|s| quote(s)).collect();
            format!("supported values: {}", quoted.join(", "))
        };
        self.push(ErrorType::NotSupported, path, Some(value.into().0), detail);
    }

    /// A text is longer than `max` bytes.
    pub fn too_long(&mut self, path: &Path, max: usize) {
        let unit = if max == 1 { "byte" } else { "bytes" };
        self.push(ErrorType::TooLong, path, None, format!("may not be more than {max} {unit}"));
    }

    /// A list has `actual` elements, more than `max`.
    pub fn too_many(&mut self, path: &Path, actual: usize, max: usize) {
        let unit = if max == 1 { "item" } else { "items" };
        self.push(ErrorType::TooMany, path, Some(actual.to_string()), format!("must have at most {max} {unit}"));
    }

    /// Something failed inside the server while a field was checked.
    pub fn internal(&mut self, path: &Path, detail: impl Into<String>) {
        self.push(ErrorType::InternalError, path, None, detail);
    }
}

/// A value as upstream prints it in an error: strings quoted as Go's `%q`, numbers and booleans bare, the
/// rest as compact JSON.
pub struct Shown(String);

impl From<&str> for Shown {
    fn from(s: &str) -> Self {
        Shown(quote(s))
    }
}

impl From<&String> for Shown {
    fn from(s: &String) -> Self {
        Shown(quote(s))
    }
}

impl From<String> for Shown {
    fn from(s: String) -> Self {
        Shown(quote(&s))
    }
}

impl From<i64> for Shown {
    fn from(n: i64) -> Self {
        Shown(n.to_string())
    }
}

impl From<bool> for Shown {
    fn from(b: bool) -> Self {
        Shown(b.to_string())
    }
}

impl From<&Value> for Shown {
    fn from(v: &Value) -> Self {
        match v {
            Value::String(s) => Shown(quote(s)),
            other => Shown(crate::codec::json::to_string(other)),
        }
    }
}

impl Shown {
    /// What is shown.
    pub fn text(&self) -> &str {
        &self.0
    }

    /// A struct that has this as its one field.
    pub fn below(self, field: &str) -> Self {
        Shown(format!("{{{}:{}}}", quote(field), self.0))
    }

    /// A text to be printed as it is, without quotes.
    pub fn raw(text: impl Into<String>) -> Self {
        Shown(text.into())
    }
}

/// Go's `unicode.IsPrint`: letters, marks, numbers, punctuation, symbols and the one space of ASCII.
pub fn is_print(c: char) -> bool {
    static PRINT: LazyLock<Regex> =
        LazyLock::new(|| Regex::new(r"^[\p{L}\p{M}\p{N}\p{P}\p{S}]$").expect("constant pattern compiles"));
    matches!(c, ' '..='~') || !c.is_ascii() && PRINT.is_match(c.encode_utf8(&mut [0; 4]))
}

/// Quotes a string as Go's `strconv.Quote` does.
pub fn quote(s: &str) -> String {
    let mut out = String::with_capacity(s.len() + 2);
    out.push('"');
    for c in s.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\u{7}' => out.push_str("\\a"),
            '\u{8}' => out.push_str("\\b"),
            '\u{b}' => out.push_str("\\v"),
            '\u{c}' => out.push_str("\\f"),
            c if (c as u32) < 0x20 || c as u32 == 0x7f => out.push_str(&format!("\\x{:02x}", c as u32)),
            c if is_print(c) => out.push(c),
            c if (c as u32) < 0x10000 => out.push_str(&format!("\\u{:04x}", c as u32)),
            c => out.push_str(&format!("\\U{:08x}", c as u32)),
        }
    }
    out.push('"');
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quoting_is_that_of_go() {
        for (text, expected) in [
            ("aé€😀 b", r#""aé€😀 b""#),
            ("\"\\\n\u{1}\u{7f}", r#""\"\\\n\x01\x7f""#),
            ("\u{a0}\u{200b}\u{e0001}", r#""\u00a0\u200b\U000e0001""#),
        ] {
            assert_eq!(quote(text), expected);
        }
    }

    #[test]
    fn texts_are_upstreams() {
        let spec = Path::new("spec");
        let mut errs = ErrorList::new();
        errs.required(&spec.child("containers"), "");
        errs.invalid(&spec.child("ports").index(0).child("port"), 0i64, "must be between 1 and 65535, inclusive");
        errs.not_supported(&spec.child("dnsPolicy"), "x", &["Default", "None"]);
        let text: Vec<String> = errs.0.iter().map(ToString::to_string).collect();
        assert_eq!(
            text,
            [
                "spec.containers: Required value",
                "spec.ports[0].port: Invalid value: 0: must be between 1 and 65535, inclusive",
                "spec.dnsPolicy: Unsupported value: \"x\": supported values: \"Default\", \"None\"",
            ]
        );
    }
}
