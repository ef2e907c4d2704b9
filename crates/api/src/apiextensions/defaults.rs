//! Whether the defaults of a schema are values of it.
//!
//! Upstream: `ValidateDefaults` of `pkg/apiserver/schema/defaulting/validation.go` of `k8s.io/apiextensions-apiserver`.

use serde_json::{Value, json};

use crate::custom::check;
use crate::custom::{Additional, Schema, Structural};
use crate::field::{ErrorList, Path};

/// The problems of the defaults in a schema. With `pruned`, they hold nothing that the schema does not name.
pub(super) fn validate(errs: &mut ErrorList, path: &Path, schema: &Value, pruned: bool) {
    let compiled = Structural::compile(schema);
    Walk { errs, compiled: &compiled, pruned }.walk(path, compiled.root(), None);
}

/// Whether all defaults of a schema hold only what it names.
pub(super) fn are_pruned(schema: &Value) -> bool {
    let mut errs = ErrorList::new();
    validate(&mut errs, &Path::root(), schema, true);
    !errs.0.iter().any(|e| e.detail == UNKNOWN_FIELDS)
}

const UNKNOWN_FIELDS: &str = "must not have unknown fields";

/// The way from an object to a part of its kind or metadata.
#[derive(Clone, Copy)]
struct Inside<'w> {
    outer: Option<&'w Inside<'w>>,
    /// A field, or the first element of a list.
    step: Option<&'w str>,
    object: Schema<'w>,
}

impl Inside<'_> {
    /// The object with nothing but a value at this place.
    fn around(&self, value: Value) -> Value {
        let inner = match self.step {
            Some(name) => json!({ name: value }),
            None => json!([value]),
        };
        match self.outer {
            Some(outer) => outer.around(inner),
            None => inner,
        }
    }
}

struct Walk<'e, 's> {
    errs: &'e mut ErrorList,
    compiled: &'s Structural,
    pruned: bool,
}

impl<'s> Walk<'_, 's> {
    fn walk(&mut self, path: &Path, schema: Schema<'s>, inside: Option<&Inside<'_>>) {
        if !schema.has_defaults() {
            return;
        }
        let inside = inside.filter(|_| !schema.is_embedded());
        if let Some(default) = schema.default() {
            let at = path.child("default");
            match inside {
                Some(inside) => self.of_meta(&at, default, schema, inside),
                None => self.of_value(&at, default, schema),
            }
        }
        if let Some(items) = schema.items() {
            let step = inside.map(|outer| Inside { outer: Some(outer), step: None, object: outer.object });
            self.walk(&path.child("items"), items, step.as_ref());
        }
        if let Additional::Schema(values) = schema.additional() {
            let step = inside.map(|outer| Inside { outer: Some(outer), step: Some("*"), object: outer.object });
            self.walk(&path.child("additionalProperties"), values, step.as_ref());
        }
        for (name, property) in schema.properties() {
            let of_meta = schema.is_resource() && matches!(name, "metadata" | "apiVersion" | "kind");
            let step = match inside {
                Some(outer) => Some(Inside { outer: Some(outer), step: Some(name), object: outer.object }),
                None if of_meta => Some(Inside { outer: None, step: Some(name), object: schema }),
                None => None,
            };
            self.walk(&path.child("properties").key(name), property, step.as_ref());
        }
    }

    /// A default of a part of the metadata: with it, the metadata is that of an object.
    fn of_meta(&mut self, at: &Path, default: &Value, schema: Schema<'s>, inside: &Inside<'_>) {
        let mut object = inside.around(default.clone());
        if let Some(map) = object.as_object_mut() {
            map.entry("apiVersion").or_insert_with(|| "validation/v1".into());
            map.entry("kind").or_insert_with(|| "Validation".into());
        }
        let problem = match check::coerced(&Path::root(), &mut object, inside.object) {
            Err(problem) => Some(problem.to_string()),
            Ok(()) => {
                let errs = check::embedded(&Path::root(), &object, inside.object);
                let texts: Vec<String> = errs.0.iter().map(ToString::to_string).collect();
                match texts.as_slice() {
                    [] => None,
                    [one] => Some(one.clone()),
                    all => Some(format!("[{}]", all.join(", "))),
                }
            }
        };
        match problem {
            Some(problem) => self.errs.invalid(at, default, format!("must result in valid metadata: {problem}")),
            None => self.errs.extend(check::value(at, default, schema)),
        }
    }

    fn of_value(&mut self, at: &Path, default: &Value, schema: Schema<'s>) {
        if self.pruned && !check::is_pruned(default, schema) {
            self.errs.invalid(at, default, UNKNOWN_FIELDS);
        }
        let mut value = default.clone();
        if let Err(problem) = check::coerced(at, &mut value, schema) {
            self.errs.0.push(problem);
            return;
        }
        let mut found = check::embedded(at, &value, schema);
        if found.is_empty() {
            found = check::value(at, &value, schema);
        }
        if found.is_empty() {
            found = check::rules(at, &value, schema, self.compiled);
        }
        self.errs.extend(found);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(properties: Value, expected: &[&str]) {
        let schema = json!({"type": "object", "properties": {"spec": {"type": "object", "properties": properties}}});
        let mut errs = ErrorList::new();
        validate(&mut errs, &Path::new("s"), &schema, true);
        let found: Vec<String> = errs.0.iter().map(ToString::to_string).collect();
        let expected: Vec<String> = expected.iter().map(|e| format!("s.properties[spec].properties{e}")).collect();
        assert_eq!(found, expected);
        let all_pruned = !expected.iter().any(|e| e.ends_with(UNKNOWN_FIELDS));
        assert_eq!(are_pruned(&schema), all_pruned);
    }

    #[test]
    fn defaults_are_values_of_their_schema() {
        check(json!({"a": {"type": "integer", "minimum": 1, "default": 5}}), &[]);
        check(
            json!({"a": {"type": "integer", "minimum": 1, "default": 0}}),
            &["[a].default: Invalid value: 0:  in body should be greater than or equal to 1"],
        );
        check(
            json!({"a": {"type": "string", "default": 5}}),
            &["[a].default: Invalid value: \"integer\":  in body must be of type string: \"integer\""],
        );
        check(
            json!({"a": {"type": "object", "properties": {"b": {"type": "string", "maxLength": 1}}, "default": {"b": "xx"}}}),
            &["[a].default.b: Too long: may not be more than 1 byte"],
        );
        check(
            json!({"l": {"type": "array", "items": {"type": "string", "enum": ["a"], "default": "b"}}}),
            &["[l].items.default: Unsupported value: \"b\": supported values: \"a\""],
        );
    }

    #[test]
    fn defaults_hold_what_their_schema_names() {
        check(
            json!({"a": {"type": "object", "properties": {"b": {"type": "string"}}, "default": {"c": 1}}}),
            &["[a].default: Invalid value: {\"c\":1}: must not have unknown fields"],
        );
        check(json!({"a": {"type": "object", "x-kubernetes-preserve-unknown-fields": true, "default": {"c": 1}}}), &[]);
    }

    #[test]
    fn defaults_keep_the_rules() {
        check(
            json!({"a": {"type": "integer", "default": 3, "x-kubernetes-validations": [{"rule": "self > 5"}]}}),
            &["[a].default: Invalid value: \"integer\": failed rule: self > 5"],
        );
        check(json!({"a": {"type": "integer", "default": 9, "x-kubernetes-validations": [{"rule": "self > 5"}]}}), &[]);
    }

    #[test]
    fn defaults_of_embedded_objects_make_objects() {
        let embedded = |properties: Value| json!({"e": {"type": "object", "x-kubernetes-embedded-resource": true, "properties": properties}});
        check(embedded(json!({"kind": {"type": "string", "default": "Pod"}})), &[]);
        check(
            embedded(
                json!({"metadata": {"type": "object", "properties": {"name": {"type": "string", "default": "a/b"}}}}),
            ),
            &[
                "[e].properties[metadata].properties[name].default: Invalid value: \"a/b\": must result in valid metadata: \
                 metadata.name: Invalid value: \"a/b\": may not contain '/'",
            ],
        );
    }
}
