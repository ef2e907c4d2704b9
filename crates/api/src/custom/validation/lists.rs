//! Lists that are sets or maps: no element, or no key, occurs twice.
//!
//! Upstream: `pkg/apiserver/schema/listtype/validation.go` of `k8s.io/apiextensions-apiserver`.

use std::collections::HashMap;

use serde_json::Value;

use crate::Map;
use crate::custom::{Additional, Schema};
use crate::field::{ErrorList, Path};

/// The problems of the lists in an object.
pub(in crate::custom) fn validate(errs: &mut ErrorList, path: &Path, value: &Value, schema: Schema<'_>) {
    if !schema.has_keyed_lists() {
        return;
    }
    match value {
        Value::Object(map) => {
            for (key, value) in map {
                match (schema.property(key), schema.additional()) {
                    (Some(property), _) => validate(errs, &path.child(key), value, property),
                    (None, Additional::Schema(values)) => validate(errs, &path.key(key), value, values),
                    _ => {}
                }
            }
        }
        Value::Array(list) => {
            match schema.list_type() {
                "set" => twice(list.iter().collect()).for_each(|i| errs.duplicate(&path.index(i), &list[i])),
                "map" => keys(errs, path, list, schema),
                _ => {}
            }
            if let Some(items) = schema.items() {
                list.iter().enumerate().for_each(|(i, item)| validate(errs, &path.index(i), item, items));
            }
        }
        _ => {}
    }
}

fn keys(errs: &mut ErrorList, path: &Path, list: &[Value], schema: Schema<'_>) {
    if let Some((i, item)) = list.iter().enumerate().find(|(_, item)| !item.is_object() && !item.is_null()) {
        errs.invalid(&path.index(i), item, "must be an object for an array of list-type map");
        return;
    }
    let key = |item: &Value| {
        let keys = schema.map_keys();
        Value::Object(keys.iter().filter_map(|k| Some((k.to_owned(), item.get(k)?.clone()))).collect::<Map>())
    };
    let keys: Vec<Value> = list.iter().map(key).collect();
    for i in twice(keys.iter().collect()) {
        errs.duplicate(&path.index(i), &keys[i]);
    }
}

/// The second places of values that occur more than once.
fn twice(values: Vec<&Value>) -> impl Iterator<Item = usize> {
    let mut seen: HashMap<String, usize> = HashMap::new();
    values.into_iter().enumerate().filter_map(move |(i, value)| {
        let times = seen.entry(value.to_string()).or_default();
        *times += 1;
        (*times == 2).then_some(i)
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::custom::Structural;

    #[track_caller]
    fn check(list: Value, value: Value, expected: &[&str]) {
        let schema = Structural::compile(&json!({"type": "object", "properties": {"l": list}}));
        let mut errs = ErrorList::new();
        validate(&mut errs, &Path::root(), &json!({"l": value}), schema.root());
        assert_eq!(errs.0.iter().map(ToString::to_string).collect::<Vec<_>>(), expected);
    }

    #[test]
    fn nothing_occurs_twice() {
        let set = json!({"type": "array", "x-kubernetes-list-type": "set", "items": {"type": "string"}});
        check(set.clone(), json!(["a", "b"]), &[]);
        check(set, json!(["a", "b", "a", "a"]), &["l[2]: Duplicate value: \"a\""]);
        let map = json!({"type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["k", "p"],
            "items": {"type": "object", "properties": {"k": {"type": "string"}, "p": {"type": "string"}}}});
        check(map.clone(), json!([{"k": "1", "p": "1"}, {"k": "1"}]), &[]);
        check(map.clone(), json!([{"k": "1", "v": 1}, {"k": "1", "v": 2}]), &["l[1]: Duplicate value: {\"k\":\"1\"}"]);
        check(
            map,
            json!([{"k": "1"}, 5]),
            &["l[1]: Invalid value: 5: must be an object for an array of list-type map"],
        );
    }
}
