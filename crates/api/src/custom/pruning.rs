//! Pruning: what a schema does not name is taken out of an object.
//!
//! Upstream: `pkg/apiserver/schema/pruning/algorithm.go` and `defaulting/prunenulls.go`.

use serde_json::Value;

use super::{Additional, Schema};

/// The fields that objects of every kind have.
pub(super) const TYPE_AND_META: [&str; 3] = ["apiVersion", "kind", "metadata"];

/// Paths remembered at most; what is told of an object should have an end.
const MAX_PATHS: usize = 101;

/// Takes out what the schema does not name; answers the sorted paths of that, if they are wanted. Kind and metadata of
/// the object and of embedded ones stay.
pub(super) fn prune(value: &mut Value, schema: Schema<'_>, paths: bool) -> Vec<String> {
    let mut pruner = Pruner { path: String::new(), unknown: paths.then(Vec::new) };
    pruner.value(value, Some(schema), false);
    let mut unknown = pruner.unknown.unwrap_or_default();
    unknown.sort();
    unknown
}

struct Pruner {
    path: String,
    unknown: Option<Vec<String>>,
}

impl Pruner {
    /// Does something below a key or an index.
    fn below<T>(&mut self, step: Step<'_>, f: impl FnOnce(&mut Self) -> T) -> T {
        if self.unknown.is_none() {
            return f(self);
        }
        let len = self.path.len();
        match step {
            Step::Index(i) => self.path.push_str(&format!("[{i}]")),
            Step::Key(key) => {
                if len > 0 {
                    self.path.push('.');
                }
                self.path.push_str(key);
            }
        }
        let out = f(self);
        self.path.truncate(len);
        out
    }

    fn report(&mut self) {
        if let Some(unknown) = self.unknown.as_mut().filter(|u| u.len() < MAX_PATHS) {
            unknown.push(self.path.clone());
        }
    }

    /// With `keep`, what the schema does not name stays all the same.
    fn value(&mut self, value: &mut Value, schema: Option<Schema<'_>>, keep: bool) {
        let keep = keep || schema.is_some_and(Schema::is_preserving);
        match value {
            Value::Object(map) => {
                map.retain(|key, value| {
                    if schema.is_some_and(Schema::is_resource) && TYPE_AND_META.contains(&key.as_str()) {
                        return true;
                    }
                    self.below(Step::Key(key), |p| {
                        match schema.map(|s| (s.property(key), s.additional())) {
                            Some((Some(property), _)) => p.value(value, Some(property), false),
                            Some((None, Additional::Schema(values))) => p.value(value, Some(values), false),
                            Some((None, Additional::Allowed(_))) => p.value(value, None, false),
                            _ if keep => {}
                            _ => {
                                p.report();
                                return false;
                            }
                        }
                        true
                    })
                });
            }
            Value::Array(list) => {
                let items = schema.and_then(Schema::items);
                // Within what is preserved, lists of which nothing is said are left as they are.
                if items.is_none() && keep {
                    return;
                }
                for (i, item) in list.iter_mut().enumerate() {
                    self.below(Step::Index(i), |p| p.value(item, items, keep));
                }
            }
            _ => {}
        }
    }
}

enum Step<'a> {
    Key(&'a str),
    Index(usize),
}

/// Takes out nulls of what is not nullable and has no default either; those that have one are left to defaulting.
pub(super) fn drop_nulls(value: &mut Value, schema: Schema<'_>) {
    let refused = |value: &Value, s: Schema<'_>| value.is_null() && !s.is_nullable() && s.default().is_none();
    match value {
        Value::Object(map) => map.retain(|key, value| {
            let below = match (schema.property(key), schema.additional()) {
                (Some(property), _) => property,
                (None, Additional::Schema(values)) => values,
                _ => return true,
            };
            if refused(value, below) {
                return false;
            }
            drop_nulls(value, below);
            true
        }),
        Value::Array(list) => {
            if let Some(items) = schema.items() {
                list.iter_mut().for_each(|item| drop_nulls(item, items));
            }
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;
    use crate::custom::Structural;
    use crate::patch::testing::any_json;

    #[track_caller]
    fn check(properties: Value, object: Value, expected: Value, unknown: &[&str]) {
        let schema = Structural::compile(&json!({"type": "object", "properties": properties}));
        let mut got = object;
        assert_eq!(prune(&mut got, schema.root(), true), unknown);
        assert_eq!(got, expected);
        assert_eq!(prune(&mut got, schema.root(), true), [""; 0]);
        assert_eq!(got, expected);
    }

    #[test]
    fn unknown_fields_go() {
        check(
            json!({"a": {"type": "object", "properties": {"b": {"type": "string"}}}, "l": {"type": "array", "items": {
                "type": "object", "properties": {"x": {"type": "string"}}}}}),
            json!({"apiVersion": "v", "kind": "k", "metadata": {"name": "n"}, "z": 1, "a": {"b": "1", "c": 1},
                "l": [{"x": "1"}, {"y": {"z": 1}}, 5]}),
            json!({"apiVersion": "v", "kind": "k", "metadata": {"name": "n"}, "a": {"b": "1"}, "l": [{"x": "1"}, {}, 5]}),
            &["a.c", "l[1].y", "z"],
        );
        check(
            json!({"m": {"type": "object", "additionalProperties": {"type": "object", "properties": {"x": {"type": "string"}}}},
                "t": {"type": "object", "additionalProperties": true}}),
            json!({"m": {"k": {"x": 1, "y": 1}}, "t": {"s": 1, "o": {"p": 1}}}),
            json!({"m": {"k": {"x": 1}}, "t": {"s": 1, "o": {}}}),
            &["m.k.y", "t.o.p"],
        );
    }

    #[test]
    fn what_is_preserved_stays() {
        check(
            json!({"a": {"type": "object", "x-kubernetes-preserve-unknown-fields": true, "properties": {
                "b": {"type": "object", "properties": {"c": {"type": "string"}}}}}}),
            json!({"a": {"x": {"y": [{"z": 1}]}, "b": {"c": "1", "d": 1}}}),
            json!({"a": {"x": {"y": [{"z": 1}]}, "b": {"c": "1"}}}),
            &["a.b.d"],
        );
        check(
            json!({"e": {"type": "object", "x-kubernetes-embedded-resource": true, "properties": {"spec": {"type": "object"}}}}),
            json!({"e": {"apiVersion": "v1", "kind": "Pod", "metadata": {"x": 1}, "spec": {"a": 1}, "status": {}}}),
            json!({"e": {"apiVersion": "v1", "kind": "Pod", "metadata": {"x": 1}, "spec": {}}}),
            &["e.spec.a", "e.status"],
        );
    }

    #[test]
    fn nulls_go_where_they_mean_nothing() {
        let schema = Structural::compile(&json!({"type": "object", "properties": {
            "a": {"type": "string"}, "b": {"type": "string", "nullable": true}, "c": {"type": "string", "default": "x"},
            "m": {"type": "object", "additionalProperties": {"type": "string"}},
            "l": {"type": "array", "items": {"type": "object", "properties": {"a": {"type": "string"}}}}}}));
        let mut value =
            json!({"a": null, "b": null, "c": null, "m": {"k": null, "l": "1"}, "l": [null, {"a": null}], "z": null});
        drop_nulls(&mut value, schema.root());
        assert_eq!(value, json!({"b": null, "c": null, "m": {"l": "1"}, "l": [null, {}], "z": null}));
    }

    proptest! {
        #[test]
        fn once_is_enough(schema in any_json(), value in any_json()) {
            for schema in [schema.clone(), json!({"properties": schema}), json!({"items": {"additionalProperties": schema}})] {
                let schema = Structural::compile(&schema);
                let mut pruned = value.clone();
                prune(&mut pruned, schema.root(), true);
                drop_nulls(&mut pruned, schema.root());
                let mut again = pruned.clone();
                prop_assert_eq!(prune(&mut again, schema.root(), true), Vec::<String>::new());
                drop_nulls(&mut again, schema.root());
                prop_assert_eq!(again, pruned);
            }
        }
    }
}
