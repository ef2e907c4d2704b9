//! Whether an object fits its schema.
//!
//! What was so before an update and has not changed is not refused because the schema has become stricter since
//! (ratcheting).
//!
//! Upstream: `pkg/validation/validate` of `k8s.io/kube-openapi`, `pkg/apiserver/validation` of
//! `k8s.io/apiextensions-apiserver`, and `pkg/cel/common/equality.go` of `k8s.io/apiserver`.

mod formats;
pub(super) mod lists;
mod numbers;
mod patterns;

use std::collections::BTreeSet;

use serde_json::Value;

use super::structural::{Check, Schemas};
use super::{Additional, Schema, Ty};
use crate::field::{ErrorList, ErrorType, FieldError, Path, Shown, quote};

/// Problems told at most; upstream has no limit, but an answer should have one.
const MAX_PROBLEMS: usize = 1000;

/// The problems of a value. `old` is what stood there before an update; problems are told below `base`.
pub(super) fn validate(base: &Path, value: &Value, old: Option<&Value>, schema: Schema<'_>) -> ErrorList {
    let mut walk = Walk { base, path: String::new() };
    let mut found = walk.ratcheted(value, old, schema).problems;
    let mut seen = BTreeSet::new();
    found.retain(|problem| seen.insert(problem.to_string()));
    found.truncate(MAX_PROBLEMS);
    ErrorList(found)
}

/// What came of checking a value.
#[derive(Default)]
struct Outcome {
    problems: Vec<FieldError>,
    /// How much of the schema fitted: of the alternatives of a junctor, the one is told of that fits best.
    matched: usize,
}

impl Outcome {
    fn is_good(&self) -> bool {
        self.problems.is_empty()
    }

    fn merge(&mut self, other: Outcome) {
        self.matched += other.matched;
        let room = (2 * MAX_PROBLEMS).saturating_sub(self.problems.len());
        self.problems.extend(other.problems.into_iter().take(room));
    }
}

struct Walk<'a> {
    base: &'a Path,
    /// Below the base: `spec.list[0].name`.
    path: String,
}

impl Walk<'_> {
    /// Does something below a place.
    fn below<T>(&mut self, step: &str, f: impl FnOnce(&mut Self) -> T) -> T {
        let len = self.path.len();
        if len > 0 && !step.starts_with('[') {
            self.path.push('.');
        }
        self.path.push_str(step);
        let out = f(self);
        self.path.truncate(len);
        out
    }

    /// A problem of what is here; the detail begins with where that is.
    fn here(&self, kind: ErrorType, value: Option<Shown>, detail: &str) -> FieldError {
        let path = if self.path.is_empty() { self.base.clone() } else { self.base.child(&self.path) };
        FieldError { kind, path, value: value.map(|v| v.text().to_owned()), detail: detail.to_owned() }
    }

    fn invalid(&self, value: impl Into<Shown>, what: &str) -> FieldError {
        let detail = format!("{} in body {what}", self.path);
        self.here(ErrorType::Invalid, Some(value.into()), &detail)
    }

    fn wrong_type(&self, wanted: &str, have: &str) -> FieldError {
        let detail = format!("{} in body must be of type {wanted}: {}", self.path, quote(have));
        self.here(ErrorType::TypeInvalid, Some(have.into()), &detail)
    }

    /// A problem of a junctor, which has no place.
    fn of_junctor(&self, what: &str) -> FieldError {
        FieldError {
            kind: ErrorType::Invalid,
            path: self.base.clone(),
            value: Some(Shown::from("").text().to_owned()),
            detail: format!("{} {what}", quote(&self.path)),
        }
    }

    /// A value, unless it is what it was before.
    fn ratcheted(&mut self, value: &Value, old: Option<&Value>, schema: Schema<'_>) -> Outcome {
        let mut outcome = self.value(value, old, schema);
        if !outcome.is_good() && old.is_some_and(|old| same(value, old, schema)) {
            outcome.problems.clear();
        }
        outcome
    }

    fn value(&mut self, value: &Value, old: Option<&Value>, schema: Schema<'_>) -> Outcome {
        let mut outcome = Outcome::default();
        let format = supported_format(schema);
        self.of_type(value, schema, format, &mut outcome);
        if value.is_null() {
            self.one_of_values(value, schema, &mut outcome);
            return outcome;
        }
        outcome.matched += 2;
        self.junctors(value, old, schema, &mut outcome);
        match value {
            Value::String(text) => self.text(text, schema, format, &mut outcome),
            Value::Number(number) => {
                outcome.matched += 2;
                let problem = |value: Shown, what: String| self.invalid(value, &what);
                outcome.problems.extend(numbers::check(number, schema, &self.path, problem));
            }
            Value::Array(list) => self.list(list, old, schema, &mut outcome),
            _ => {}
        }
        self.one_of_values(value, schema, &mut outcome);
        if let Value::Object(map) = value {
            self.object(map, old, schema, &mut outcome);
        }
        outcome
    }

    fn of_type(&self, value: &Value, schema: Schema<'_>, format: Option<&str>, outcome: &mut Outcome) {
        let wanted = if schema.is_int_or_string() { "integer,string" } else { schema.ty().name() };
        if wanted.is_empty() && format.is_none() {
            return;
        }
        let (have, have_format) = match value {
            Value::Null => {
                if wanted.is_empty() || schema.is_nullable() {
                    outcome.matched += 1;
                } else {
                    outcome.problems.push(self.wrong_type(wanted, "null"));
                }
                return;
            }
            Value::Bool(_) => ("boolean", ""),
            Value::String(_) => ("string", ""),
            Value::Number(n) if n.is_f64() => ("number", "float64"),
            Value::Number(_) => ("integer", "int64"),
            Value::Array(_) => ("array", ""),
            Value::Object(_) => ("object", ""),
        };
        let wants = |ty: &str| wanted.split(',').any(|w| w == ty);
        let whole = value.as_f64().is_some_and(numbers::is_whole);
        let fits = wants(have) || have == "number" && whole && wants("integer") || have == "integer" && wants("number");
        let of_text = value.is_string() || value.is_array();
        match format {
            Some(format) if !of_text && !fits && have_format != format => {
                outcome.problems.push(self.wrong_type(format, have_format));
            }
            // As upstream: a format speaks for the type.
            Some(_) if of_text && !wants("number") && !wants("integer") => outcome.matched += 1,
            _ if fits => outcome.matched += 1,
            _ => outcome.problems.push(self.wrong_type(wanted, have)),
        }
    }

    fn alternatives(&mut self, of: Schemas<'_>, value: &Value, old: Option<&Value>) -> Vec<Outcome> {
        of.iter().map(|schema| self.value(value, old, schema)).collect()
    }

    fn junctors(&mut self, value: &Value, old: Option<&Value>, schema: Schema<'_>, outcome: &mut Outcome) {
        for check in schema.checks() {
            match check {
                Check::AnyOf(of) => {
                    let all = self.alternatives(of, value, old);
                    let good = all.iter().position(Outcome::is_good);
                    if good.is_none() {
                        outcome.problems.push(self.of_junctor("must validate at least one schema (anyOf)"));
                    }
                    outcome.merge(good.map_or_else(|| best(all), |_| Outcome::default()));
                }
                Check::OneOf(of) => {
                    let all = self.alternatives(of, value, old);
                    let good = all.iter().filter(|o| o.is_good()).count();
                    let why = match good {
                        0 => "Found none valid".to_owned(),
                        1 => continue,
                        _ => format!("Found {good} valid alternatives"),
                    };
                    let what = format!("must validate one and only one schema (oneOf). {why}");
                    outcome.problems.push(self.of_junctor(&what));
                    if good == 0 {
                        outcome.merge(best(all));
                    }
                }
                Check::AllOf(of) => {
                    let all = self.alternatives(of, value, old);
                    let (good, count) = (all.iter().filter(|o| o.is_good()).count(), all.len());
                    all.into_iter().for_each(|o| outcome.merge(o));
                    if good < count {
                        let none = if good == 0 { ". None validated" } else { "" };
                        let what = format!("must validate all the schemas (allOf){none}");
                        outcome.problems.push(self.of_junctor(&what));
                    }
                }
                Check::Not(schema) if self.value(value, old, schema).is_good() => {
                    outcome.problems.push(self.of_junctor("must not validate the schema (not)"));
                }
                _ => {}
            }
        }
        outcome.matched += 2;
    }

    fn text(&self, text: &str, schema: Schema<'_>, format: Option<&str>, outcome: &mut Outcome) {
        outcome.matched += 1;
        let length = || i64::try_from(text.chars().count()).unwrap_or(i64::MAX);
        let problem = schema.checks().find_map(|check| match check {
            Check::MaxLength(most) if length() > most => {
                let mut errors = ErrorList::new();
                errors.too_long(&Path::root(), usize::try_from(most).unwrap_or_default());
                errors.0.pop().map(|e| self.here(ErrorType::TooLong, None, &e.detail))
            }
            Check::MinLength(least) if length() < least => {
                Some(self.invalid(text, &format!("should be at least {least} chars long")))
            }
            Check::Pattern(pattern) if !patterns::matches(pattern, text) => {
                Some(self.invalid(text, &format!("should match '{pattern}'")))
            }
            _ => None,
        });
        outcome.problems.extend(problem);
        if let Some(format) = format.filter(|f| formats::is_known(f)) {
            outcome.matched += 1;
            if !formats::fits(format, text) {
                outcome.problems.push(self.wrong_type(format, text));
            }
        }
    }

    fn list(&mut self, list: &[Value], old: Option<&Value>, schema: Schema<'_>, outcome: &mut Outcome) {
        if let Some(items) = schema.items() {
            let before = OldItems::new(schema, old);
            for (i, item) in list.iter().enumerate() {
                let old = before.get(item);
                let of_item = self.below(&format!("[{i}]"), |walk| walk.ratcheted(item, old, items));
                outcome.merge(of_item);
            }
        }
        let size = i64::try_from(list.len()).unwrap_or(i64::MAX);
        for check in schema.checks() {
            match check {
                Check::MinItems(least) if size < least => {
                    outcome.problems.push(self.invalid(size, &format!("should have at least {least} items")));
                }
                Check::MaxItems(most) if size > most => outcome.problems.push(self.too_many(list.len(), most)),
                Check::UniqueItems if (1..list.len()).any(|i| list[..i].contains(&list[i])) => {
                    outcome.problems.push(self.invalid("", "shouldn't contain duplicates"));
                }
                _ => {}
            }
        }
        outcome.matched += 2;
    }

    fn too_many(&self, have: usize, most: i64) -> FieldError {
        let mut errors = ErrorList::new();
        errors.too_many(&Path::root(), have, usize::try_from(most).unwrap_or_default());
        let detail = errors.0.pop().map(|e| e.detail).unwrap_or_default();
        self.here(ErrorType::TooMany, Some(Shown::raw(have.to_string())), &detail)
    }

    fn one_of_values(&self, value: &Value, schema: Schema<'_>, outcome: &mut Outcome) {
        outcome.matched += 1;
        for check in schema.checks() {
            let Check::Enum(values) = check else { continue };
            if !values.iter().any(|v| numbers::equal(value, v)) {
                let shown: Vec<String> = values
                    .iter()
                    .map(|v| v.as_str().map_or_else(|| crate::codec::json::to_string(v), str::to_owned))
                    .collect();
                let mut errors = ErrorList::new();
                let have = if value.is_null() { Shown::from("null") } else { Shown::from(value) };
                errors.not_supported(&Path::root(), have, &shown.iter().map(String::as_str).collect::<Vec<_>>());
                let problem = errors.0.pop().map(|e| FieldError { path: self.here(e.kind, None, "").path, ..e });
                outcome.problems.extend(problem);
            }
        }
    }

    fn object(&mut self, map: &crate::Map, old: Option<&Value>, schema: Schema<'_>, outcome: &mut Outcome) {
        outcome.matched += 1;
        let size = i64::try_from(map.len()).unwrap_or(i64::MAX);
        for check in schema.checks() {
            match check {
                Check::MinProperties(least) if size < least => {
                    outcome.problems.push(self.invalid(size, &format!("should have at least {least} properties")));
                    return;
                }
                Check::MaxProperties(most) if size > most => {
                    outcome.problems.push(self.too_many(map.len(), most));
                    return;
                }
                _ => {}
            }
        }
        let before = |key: &str| old.and_then(|old| old.get(key));
        match schema.additional() {
            Additional::Allowed(false) => {
                for key in map.keys().filter(|key| schema.property(key).is_none()) {
                    let detail = format!("{}.{key} in body is a forbidden property", self.path);
                    outcome.problems.push(self.here(ErrorType::Invalid, Some(key.into()), &detail));
                }
            }
            Additional::Schema(values) => {
                for (key, value) in map.iter().filter(|(key, _)| schema.property(key).is_none()) {
                    let of_value = self.below(key, |walk| walk.ratcheted(value, before(key), values));
                    outcome.merge(of_value);
                }
            }
            Additional::Allowed(true) | Additional::Unsaid => {}
        }
        for (name, property) in schema.properties() {
            if let Some(value) = map.get(name) {
                let of_value = self.below(name, |walk| walk.ratcheted(value, before(name), property));
                outcome.merge(of_value);
            }
        }
        for name in schema.required().iter().filter(|name| !map.contains_key(*name)) {
            let problem = self.below(name, |walk| walk.here(ErrorType::Required, None, ""));
            outcome.problems.push(problem);
        }
    }
}

/// The outcome that fits best, the first of several.
fn best(all: Vec<Outcome>) -> Outcome {
    all.into_iter().reduce(|best, next| if next.matched > best.matched { next } else { best }).unwrap_or_default()
}

/// The format of a schema, unless it is one that nobody knows for its type
/// (`StripUnsupportedFormatsPostProcessorForVersion`).
fn supported_format(schema: Schema<'_>) -> Option<&str> {
    schema.format().filter(|format| is_supported(schema, format))
}

/// The format of a schema if it is one that nobody knows for its type (`GetUnrecognizedFormats`).
pub(super) fn unknown_format(schema: Schema<'_>) -> Option<&str> {
    schema.format().filter(|format| !is_supported(schema, format))
}

fn is_supported(schema: Schema<'_>, format: &str) -> bool {
    match schema.ty() {
        Ty::None | Ty::String => formats::is_known(format),
        Ty::Integer => matches!(format, "int32" | "int64"),
        Ty::Number => matches!(format, "float" | "double"),
        Ty::Object | Ty::Array | Ty::Boolean => false,
    }
}

/// The items of a list before an update, found by their keys. Of other lists no item is known again.
pub(super) struct OldItems<'a>(Vec<(Vec<Option<&'a Value>>, &'a Value)>, Schema<'a>);

impl<'a> OldItems<'a> {
    pub fn new(schema: Schema<'a>, old: Option<&'a Value>) -> Self {
        let list = old.and_then(Value::as_array).filter(|_| schema.list_type() == "map");
        let mut items: Vec<_> = list.into_iter().flatten().map(|item| (key_of(schema, item), item)).collect();
        items.sort_by_cached_key(|(key, _)| text_of(key));
        OldItems(items, schema)
    }

    pub fn get(&self, item: &Value) -> Option<&'a Value> {
        if self.0.is_empty() {
            return None;
        }
        let key = key_of(self.1, item);
        let text = text_of(&key);
        let at = self.0.partition_point(|(key, _)| text_of(key) < text);
        self.0.get(at).filter(|(found, _)| *found == key).map(|(_, item)| *item)
    }
}

fn key_of<'v>(schema: Schema<'_>, item: &'v Value) -> Vec<Option<&'v Value>> {
    schema.map_keys().iter().map(|key| item.get(key)).collect()
}

/// The key of an item as text.
pub(super) fn list_key(item: &Value, schema: Schema<'_>) -> String {
    text_of(&key_of(schema, item))
}

fn text_of(key: &[Option<&Value>]) -> String {
    key.iter().map(|v| v.map(Value::to_string).unwrap_or_default()).collect::<Vec<_>>().join("\n")
}

/// Whether a value is what it was before: upstream's `CachedDeepEqual`. Items of a list with keys may have moved. What
/// the schema does not name cannot be compared.
pub(super) fn same(new: &Value, old: &Value, schema: Schema<'_>) -> bool {
    match (new, old) {
        (Value::Array(new), Value::Array(before)) if schema.list_type() == "map" => {
            let items = OldItems::new(schema, Some(old));
            new.len() == before.len()
                && new.iter().all(|item| match (items.get(item), schema.items()) {
                    (Some(old), Some(schema)) => same(item, old, schema),
                    _ => false,
                })
        }
        (Value::Object(new), Value::Object(old)) => {
            new.len() == old.len()
                && new.iter().all(|(key, value)| {
                    let below = match (schema.property(key), schema.additional()) {
                        (Some(property), _) => property,
                        (None, Additional::Schema(values)) => values,
                        _ => return false,
                    };
                    old.get(key).is_some_and(|old| same(value, old, below))
                })
        }
        _ => new == old,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;
    use crate::custom::Structural;
    use crate::patch::testing::any_json;

    fn problems(schema: &Value, value: &Value, old: Option<&Value>) -> Vec<String> {
        let schema = Structural::compile(schema);
        validate(&Path::root(), value, old, schema.root()).0.iter().map(ToString::to_string).collect()
    }

    /// The problems of a value of a schema in the field `f`.
    #[track_caller]
    fn check(schema: Value, value: Value, expected: &[&str]) {
        let schema = json!({"type": "object", "properties": {"f": schema}});
        assert_eq!(problems(&schema, &json!({"f": value}), None), expected);
    }

    #[test]
    fn types() {
        check(json!({"type": "integer"}), json!(1), &[]);
        check(json!({"type": "integer"}), json!(1.0), &[]);
        check(json!({"type": "number"}), json!(1), &[]);
        check(
            json!({"type": "integer"}),
            json!("x"),
            &["f: Invalid value: \"string\": f in body must be of type integer: \"string\""],
        );
        check(
            json!({"type": "integer", "format": "int32"}),
            json!(true),
            &["f: Invalid value: \"\": f in body must be of type int32: \"\""],
        );
        check(
            json!({"type": "integer"}),
            json!(1.5),
            &["f: Invalid value: \"number\": f in body must be of type integer: \"number\""],
        );
        check(
            json!({"type": "string"}),
            json!(null),
            &["f: Invalid value: \"null\": f in body must be of type string: \"null\""],
        );
        check(json!({"type": "string", "nullable": true}), json!(null), &[]);
        check(
            json!({"type": "object"}),
            json!([1]),
            &["f: Invalid value: \"array\": f in body must be of type object: \"array\""],
        );
        check(json!({"x-kubernetes-int-or-string": true}), json!("5%"), &[]);
        check(json!({"x-kubernetes-int-or-string": true}), json!(5), &[]);
        check(
            json!({"x-kubernetes-int-or-string": true}),
            json!(true),
            &["f: Invalid value: \"boolean\": f in body must be of type integer,string: \"boolean\""],
        );
        check(json!({"x-kubernetes-preserve-unknown-fields": true}), json!([true, {"x": null}]), &[]);
        check(
            json!({"type": "array", "items": {"type": "object", "additionalProperties": {"type": "string"}}}),
            json!([{}, {"k": 1}]),
            &["f[1].k: Invalid value: \"integer\": f[1].k in body must be of type string: \"integer\""],
        );
    }

    #[test]
    fn texts() {
        check(json!({"type": "string", "maxLength": 2}), json!("äö"), &[]);
        check(json!({"type": "string", "maxLength": 2}), json!("abc"), &["f: Too long: may not be more than 2 bytes"]);
        check(
            json!({"type": "string", "minLength": 2}),
            json!("ä"),
            &["f: Invalid value: \"ä\": f in body should be at least 2 chars long"],
        );
        check(json!({"type": "string", "pattern": "^[a-z]\\d$"}), json!("a1"), &[]);
        check(
            json!({"type": "string", "pattern": "^a$"}),
            json!("b"),
            &["f: Invalid value: \"b\": f in body should match '^a$'"],
        );
        check(
            json!({"type": "string", "enum": ["a", "b"]}),
            json!("c"),
            &["f: Unsupported value: \"c\": supported values: \"a\", \"b\""],
        );
        check(
            json!({"type": "integer", "enum": [1, 2]}),
            json!(3),
            &["f: Unsupported value: 3: supported values: \"1\", \"2\""],
        );
        check(json!({"type": "integer", "enum": [1, 2]}), json!(2), &[]);
        check(
            json!({"type": "string", "format": "ipv4"}),
            json!("1.2.3"),
            &["f: Invalid value: \"1.2.3\": f in body must be of type ipv4: \"1.2.3\""],
        );
        check(json!({"type": "string", "format": "date-time"}), json!("2020-01-01T00:00:00Z"), &[]);
        check(json!({"type": "string", "format": "unheard-of"}), json!("x"), &[]);
    }

    #[test]
    fn numbers() {
        check(
            json!({"type": "integer", "minimum": 1}),
            json!(0),
            &["f: Invalid value: 0: f in body should be greater than or equal to 1"],
        );
        check(
            json!({"type": "integer", "minimum": 0, "exclusiveMinimum": true}),
            json!(0),
            &["f: Invalid value: 0: f in body should be greater than 0"],
        );
        check(
            json!({"type": "integer", "maximum": 5}),
            json!(6),
            &["f: Invalid value: 6: f in body should be less than or equal to 5"],
        );
        check(
            json!({"type": "number", "maximum": 1.5}),
            json!(1.6),
            &["f: Invalid value: 1.6: f in body should be less than or equal to 1.5"],
        );
        check(
            json!({"type": "number", "maximum": 1.5, "exclusiveMaximum": true}),
            json!(1.5),
            &["f: Invalid value: 1.5: f in body should be less than 1.5"],
        );
        check(
            json!({"type": "integer", "multipleOf": 2}),
            json!(3),
            &["f: Invalid value: 3: f in body should be a multiple of 2"],
        );
        check(json!({"type": "number", "multipleOf": 0.1}), json!(0.3), &[]);
        check(json!({"type": "integer", "multipleOf": 0.5}), json!(3), &[]);
    }

    #[test]
    fn lists_and_objects() {
        check(
            json!({"type": "array", "maxItems": 1, "items": {"type": "string"}}),
            json!(["a", "b"]),
            &["f: Too many: 2: must have at most 1 item"],
        );
        check(
            json!({"type": "array", "minItems": 1, "items": {}}),
            json!([]),
            &["f: Invalid value: 0: f in body should have at least 1 items"],
        );
        check(
            json!({"type": "object", "maxProperties": 1}),
            json!({"a": 1, "b": 2}),
            &["f: Too many: 2: must have at most 1 item"],
        );
        check(
            json!({"type": "object", "minProperties": 1}),
            json!({}),
            &["f: Invalid value: 0: f in body should have at least 1 properties"],
        );
        check(
            json!({"type": "object", "required": ["x"], "properties": {"x": {"type": "string"}}}),
            json!({}),
            &["f.x: Required value"],
        );
        check(
            json!({"type": "object", "additionalProperties": false, "properties": {"x": {"type": "string"}}}),
            json!({"x": "1", "y": 1}),
            &["f: Invalid value: \"y\": f.y in body is a forbidden property"],
        );
        let root = json!({"type": "object", "required": ["spec"]});
        assert_eq!(problems(&root, &json!({}), None), ["spec: Required value"]);
    }

    #[test]
    fn junctors() {
        let one = json!({"type": "object", "properties": {"a": {"type": "string"}, "b": {"type": "string"}},
            "oneOf": [{"required": ["a"]}, {"required": ["b"]}]});
        check(one.clone(), json!({"a": "1"}), &[]);
        check(
            one.clone(),
            json!({}),
            &[
                "<nil>: Invalid value: \"\": \"f\" must validate one and only one schema (oneOf). Found none valid",
                "f.a: Required value",
            ],
        );
        check(
            one,
            json!({"a": "1", "b": "1"}),
            &[
                "<nil>: Invalid value: \"\": \"f\" must validate one and only one schema (oneOf). Found 2 valid alternatives",
            ],
        );
        check(
            json!({"type": "integer", "anyOf": [{"minimum": 5}, {"maximum": 1}]}),
            json!(3),
            &[
                "<nil>: Invalid value: \"\": \"f\" must validate at least one schema (anyOf)",
                "f: Invalid value: 3: f in body should be greater than or equal to 5",
            ],
        );
        check(
            json!({"type": "integer", "allOf": [{"minimum": 5}, {"maximum": 9}]}),
            json!(3),
            &[
                "f: Invalid value: 3: f in body should be greater than or equal to 5",
                "<nil>: Invalid value: \"\": \"f\" must validate all the schemas (allOf)",
            ],
        );
        check(
            json!({"type": "integer", "not": {"minimum": 5}}),
            json!(6),
            &["<nil>: Invalid value: \"\": \"f\" must not validate the schema (not)"],
        );
    }

    #[test]
    fn what_has_not_changed_is_let_be() {
        let schema = json!({"type": "object", "properties": {
            "a": {"type": "string", "maxLength": 1}, "b": {"type": "string", "maxLength": 1},
            "o": {"type": "object", "required": ["x"], "properties": {"x": {"type": "string"}, "y": {"type": "string"}}},
            "m": {"type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["k"], "items": {
                "type": "object", "properties": {"k": {"type": "string"}, "v": {"type": "string", "maxLength": 1}}}},
            "l": {"type": "array", "items": {"type": "string", "maxLength": 1}}}});
        let check =
            |old: Value, new: Value, expected: &[&str]| assert_eq!(problems(&schema, &new, Some(&old)), expected);
        let long = "may not be more than 1 byte";
        check(json!({"a": "xx", "b": "y"}), json!({"a": "xx", "b": "z"}), &[]);
        check(json!({"a": "xx"}), json!({"a": "xxx"}), &[&format!("a: Too long: {long}")]);
        check(json!({"o": {"y": "1"}}), json!({"o": {"y": "1"}, "a": "x"}), &[]);
        check(json!({"o": {"y": "1"}}), json!({"o": {"y": "2"}}), &["o.x: Required value"]);
        check(
            json!({"m": [{"k": "1", "v": "xx"}, {"k": "2", "v": "xx"}]}),
            json!({"m": [{"k": "2", "v": "xx"}, {"k": "1", "v": "yy"}]}),
            &[&format!("m[1].v: Too long: {long}")],
        );
        check(json!({"l": ["xx"]}), json!({"l": ["xx"], "a": "y"}), &[]);
        check(json!({"l": ["xx"]}), json!({"l": ["xx", "y"]}), &[&format!("l[0]: Too long: {long}")]);
    }

    #[test]
    fn an_answer_has_an_end() {
        let list: Vec<Value> = (0..5000).map(|_| json!(1)).collect();
        let schema = json!({"type": "object", "properties": {"f": {"type": "array", "items": {"type": "string"}}}});
        assert_eq!(problems(&schema, &json!({"f": list}), None).len(), MAX_PROBLEMS);
    }

    proptest! {
        #[test]
        fn nothing_panics(schema in any_json(), value in any_json(), old in any_json()) {
            for schema in [schema.clone(), json!({"properties": {"a": schema}, "items": schema, "not": schema,
                "anyOf": [schema], "minimum": 1e300, "multipleOf": 0.0, "pattern": "(", "enum": [schema]})] {
                problems(&schema, &value, Some(&old));
                problems(&schema, &json!({"a": value}), Some(&json!({"a": old})));
            }
        }

        #[test]
        fn what_stays_the_same_is_never_refused(schema in any_json(), value in any_json()) {
            let whole = json!({"type": "object", "properties": {"a": schema}});
            let object = json!({"a": value});
            prop_assert_eq!(problems(&whole, &object, Some(&object)), Vec::<String>::new());
        }
    }
}
