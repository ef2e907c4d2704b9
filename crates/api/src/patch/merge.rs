//! JSON merge patch (RFC 7386, `application/merge-patch+json`).
//!
//! Follows `jsonpatch.MergePatch` as the API server calls it: a patch that is no JSON object is refused.

use serde_json::Value;

use super::go;
use crate::Map;
use crate::status::Status;

/// Merges `patch` into `target`.
///
/// An error is a 400: the patch is no object.
pub fn apply(target: &mut Value, patch: Value) -> Result<(), Status> {
    let Value::Object(patch) = patch else {
        let json_type = match &patch {
            Value::Array(_) => "array",
            Value::String(_) => "string",
            Value::Bool(_) => "bool",
            Value::Number(_) => "number",
            // Go decodes null into a nil map without complaint; the merge then refuses it.
            _ => return Err(Status::bad_request("Invalid JSON Patch")),
        };
        return Err(Status::bad_request(format!(
            "error decoding patch: json: cannot unmarshal {json_type} into Go value of type {}",
            go::type_name(&Value::Object(Map::new()))
        )));
    };
    if !target.is_object() {
        *target = Value::Object(Map::new());
    }
    if let Value::Object(target) = target {
        merge(target, patch);
    }
    Ok(())
}

fn merge(target: &mut Map, patch: Map) {
    for (key, value) in patch {
        match (target.get_mut(&key), value) {
            (_, Value::Null) => {
                target.remove(&key);
            }
            (Some(Value::Object(old)), Value::Object(new)) => merge(old, new),
            (_, mut new) => {
                prune_nulls(&mut new);
                target.insert(key, new);
            }
        }
    }
}

/// Drops the nulls of a part that has nothing to be merged with.
fn prune_nulls(value: &mut Value) {
    match value {
        Value::Object(map) => {
            map.retain(|_, v| !v.is_null());
            map.values_mut().for_each(prune_nulls);
        }
        Value::Array(list) => list.iter_mut().for_each(prune_nulls),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;
    use crate::patch::testing::any_json;

    #[track_caller]
    fn check(target: Value, patch: Value, want: Value) {
        let mut got = target;
        apply(&mut got, patch).expect("a patch");
        assert_eq!(got, want);
    }

    #[test]
    fn objects_merge_null_removes_the_rest_replaces() {
        check(json!({"a": "b"}), json!({"a": "c"}), json!({"a": "c"}));
        check(json!({"a": "b"}), json!({"b": "c"}), json!({"a": "b", "b": "c"}));
        check(json!({"a": "b", "b": "c"}), json!({"a": null}), json!({"b": "c"}));
        check(json!({"a": ["b"]}), json!({"a": "c"}), json!({"a": "c"}));
        check(json!({"a": "c"}), json!({"a": ["b"]}), json!({"a": ["b"]}));
        check(json!({"a": {"b": "c"}}), json!({"a": {"b": "d", "c": null}}), json!({"a": {"b": "d"}}));
        check(json!({"a": [{"b": "c"}]}), json!({"a": [1]}), json!({"a": [1]}));
        check(json!({"e": null}), json!({"a": 1}), json!({"e": null, "a": 1}));
        check(json!({}), json!({"a": {"bb": {"ccc": null}}}), json!({"a": {"bb": {}}}));
        check(json!({}), json!({"l": [{"a": null, "b": 1}, null]}), json!({"l": [{"b": 1}, null]}));
    }

    #[test]
    fn what_is_no_object_is_refused() {
        let error = apply(&mut json!({}), json!([1])).expect_err("an array");
        assert_eq!(error.code, 400);
        assert_eq!(
            error.message,
            "error decoding patch: json: cannot unmarshal array into Go value of type map[string]interface {}"
        );
        assert_eq!(apply(&mut json!({}), json!(null)).expect_err("null").message, "Invalid JSON Patch");
    }

    proptest! {
        #[test]
        fn twice_is_once_and_nothing_panics(target in any_json(), patch in any_json()) {
            let mut once = target;
            if apply(&mut once, patch.clone()).is_ok() {
                let mut twice = once.clone();
                apply(&mut twice, patch).expect("it applied before");
                prop_assert_eq!(twice, once);
            }
        }
    }
}
