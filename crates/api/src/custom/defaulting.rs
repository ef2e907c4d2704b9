//! Defaults that a schema states.
//!
//! Upstream: `pkg/apiserver/schema/defaulting/algorithm.go`.

use serde_json::Value;

use super::{Additional, Schema};

/// Sets the defaults of what is missing, and of what is null though it is not nullable.
pub(super) fn default(value: &mut Value, schema: Schema<'_>) {
    if !schema.has_defaults() {
        return;
    }
    let refused = |value: &Value, s: Schema<'_>| value.is_null() && !s.is_nullable();
    match value {
        Value::Object(map) => {
            for (name, property) in schema.properties() {
                if let Some(value) = property.default()
                    && map.get(name).is_none_or(|v| refused(v, property))
                {
                    map.insert(name.to_owned(), value.clone());
                }
            }
            for (key, value) in map {
                let below = match (schema.property(key), schema.additional()) {
                    (Some(property), _) => property,
                    (None, Additional::Schema(values)) => {
                        if refused(value, values) {
                            *value = values.default().cloned().unwrap_or_default();
                        }
                        values
                    }
                    _ => continue,
                };
                default(value, below);
            }
        }
        Value::Array(list) => {
            let Some(items) = schema.items() else { return };
            for item in list {
                if refused(item, items) {
                    *item = items.default().cloned().unwrap_or_default();
                }
                default(item, items);
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
    fn check(properties: Value, object: Value, expected: Value) {
        let schema = Structural::compile(&json!({"type": "object", "properties": properties}));
        let mut got = object;
        default(&mut got, schema.root());
        assert_eq!(got, expected);
        default(&mut got, schema.root());
        assert_eq!(got, expected);
    }

    #[test]
    fn defaults() {
        let spec = json!({"spec": {"type": "object", "default": {}, "properties": {
            "replicas": {"type": "integer", "default": 1}, "zero": {"type": "integer", "default": 0},
            "deep": {"type": "object", "properties": {"x": {"type": "string", "default": "y"}}}}}});
        check(spec.clone(), json!({}), json!({"spec": {"replicas": 1, "zero": 0}}));
        check(
            spec.clone(),
            json!({"spec": {"deep": {}, "replicas": 3}}),
            json!({"spec": {"deep": {"x": "y"}, "replicas": 3, "zero": 0}}),
        );
        check(spec, json!({"spec": {"replicas": null}}), json!({"spec": {"replicas": 1, "zero": 0}}));
        check(
            json!({"a": {"type": "string", "nullable": true, "default": "x"}, "b": {"type": "string", "nullable": true}}),
            json!({"a": null, "b": null}),
            json!({"a": null, "b": null}),
        );
        check(json!({"a": {"type": "string", "nullable": true, "default": "x"}}), json!({}), json!({"a": "x"}));
    }

    #[test]
    fn defaults_of_values_and_items() {
        check(
            json!({"m": {"type": "object", "additionalProperties": {"type": "object", "default": {"a": 1}, "properties": {
                "a": {"type": "integer"}, "b": {"type": "integer", "default": 2}}}},
                "l": {"type": "array", "items": {"type": "object", "default": {"a": 1}, "properties": {
                    "b": {"type": "integer", "default": 2}}}}}),
            json!({"m": {"x": {}, "y": null}, "l": [{}, null]}),
            json!({"m": {"x": {"b": 2}, "y": {"a": 1, "b": 2}}, "l": [{"b": 2}, {"a": 1, "b": 2}]}),
        );
    }

    proptest! {
        #[test]
        fn once_is_enough(defaults in any_json(), value in any_json()) {
            let schema = Structural::compile(&json!({"type": "object", "properties": {
                "a": {"default": defaults, "additionalProperties": {"default": 1, "items": {"default": {"a": 1}}}},
                "b": {"nullable": true, "default": defaults}}}));
            for value in [value.clone(), json!({"a": value})] {
                let mut once = value;
                default(&mut once, schema.root());
                let mut twice = once.clone();
                default(&mut twice, schema.root());
                prop_assert_eq!(once, twice);
            }
        }
    }
}
