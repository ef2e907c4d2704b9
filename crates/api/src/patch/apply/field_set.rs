//! The set of fields that an object has, as its applier would own them.
//!
//! Follows `structured-merge-diff/typed/tofieldset.go`.

use std::collections::BTreeMap;

use serde_json::Value;

use super::path::PathElement;
use super::set::Set;
use super::walk::{Shape, child, list_element, shape};
use crate::schema::{Node, NodeKind};

/// The fields of an object: leaves, elements of lists, keys of maps. Structs count through their fields.
pub fn field_set(node: Option<Node<'_>>, value: &Value) -> Set {
    walk(node, value).1
}

/// Whether the value itself is a field, and the fields below.
fn walk(node: Option<Node<'_>>, value: &Value) -> (bool, Set) {
    let mut below = Set::new();
    match (shape(node), value) {
        (Shape::Object(node), Value::Object(map)) => {
            for (key, value) in map {
                let declared = node.kind() == NodeKind::Struct && node.field(key).is_some();
                let (member, deeper) = walk(child(node, key), value);
                let empty = value.is_null() || value.as_object().is_some_and(|map| map.is_empty());
                below.push(|| PathElement::field(key), member || empty || !declared, deeper);
            }
        }
        (Shape::List(node, list_type), Value::Array(list)) => {
            // Elements of one name are one field, and nothing below them is.
            let mut elements: BTreeMap<PathElement, Option<&Value>> = BTreeMap::new();
            for item in list {
                if let Ok(element) = list_element(node, list_type, item) {
                    elements.entry(element).and_modify(|item| *item = None).or_insert(Some(item));
                }
            }
            for (element, item) in elements {
                let deeper = item.map(|item| walk(node.items(), item).1).unwrap_or_default();
                below.push(|| element, true, deeper);
            }
        }
        (Shape::Object(_) | Shape::List(..), Value::Null) => {}
        _ => return (true, below),
    }
    (false, below)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::patch::testing::node;

    #[track_caller]
    fn check(value: Value, want: Value) {
        assert_eq!(field_set(Some(node("core/v1.Pod")), &value).to_value(), want);
    }

    #[test]
    fn fields_of_a_pod() {
        check(
            json!({
                "metadata": {"labels": {"app": "x"}, "finalizers": ["f"], "annotations": {}},
                "spec": {
                    "nodeSelector": {"a": "b"},
                    "containers": [{
                        "name": "c", "args": ["1"], "resources": {"limits": {"cpu": "1"}},
                        "ports": [{"containerPort": 80}, {"containerPort": 80, "protocol": "UDP"}],
                        "securityContext": {}, "livenessProbe": null,
                    }],
                    "volumes": [],
                },
            }),
            json!({
                "f:metadata": {"f:labels": {"f:app": {}}, "f:finalizers": {"v:\"f\"": {}}, "f:annotations": {}},
                "f:spec": {
                    "f:nodeSelector": {},
                    "f:containers": {"k:{\"name\":\"c\"}": {
                        ".": {}, "f:name": {}, "f:args": {}, "f:resources": {"f:limits": {"f:cpu": {}}},
                        "f:ports": {
                            "k:{\"containerPort\":80,\"protocol\":\"TCP\"}": {".": {}, "f:containerPort": {}},
                            "k:{\"containerPort\":80,\"protocol\":\"UDP\"}":
                                {".": {}, "f:containerPort": {}, "f:protocol": {}},
                        },
                        "f:securityContext": {}, "f:livenessProbe": {},
                    }},
                },
            }),
        );
    }

    #[test]
    fn elements_of_one_name_are_one_field() {
        check(
            json!({"spec": {"containers": [{"name": "c", "image": "1"}, {"name": "c", "image": "2"}]}}),
            json!({"f:spec": {"f:containers": {"k:{\"name\":\"c\"}": {}}}}),
        );
    }
}
