//! Whether an applied configuration fits its schema.
//!
//! Follows `structured-merge-diff/typed/validate.go`, texts included: what the values look like is printed as Go
//! prints upstream's wrapper of a value.

use std::collections::BTreeSet;

use serde_json::Value;

use super::walk::list_element;
use crate::patch::go;
use crate::schema::{ListType, Node, NodeKind, ScalarType};

/// Problems reported at most; upstream has no limit, but an answer should have one.
const MAX_PROBLEMS: usize = 100;

/// Checks types, unknown fields and duplicate list elements. An error has every problem, as upstream joins them.
pub fn validate(node: Node<'_>, value: &Value) -> Result<(), String> {
    let mut problems = Vec::new();
    walk(Some(node), value, &mut String::new(), &mut problems);
    match problems.as_slice() {
        [] => Ok(()),
        [one] => Err(one.clone()),
        all => Err(format!("errors:\n  {}", all.join("\n  "))),
    }
}

fn walk(node: Option<Node<'_>>, value: &Value, path: &mut String, problems: &mut Vec<String>) {
    let Some(node) = node else { return };
    if value.is_null() || problems.len() >= MAX_PROBLEMS {
        return;
    }
    let mut report = |path: &str, text: String| {
        problems.push(if path.is_empty() { text } else { format!("{path}: {text}") });
    };
    match (node.kind(), value) {
        (NodeKind::Any, _) => {}
        (NodeKind::Struct | NodeKind::Map, Value::Object(map)) => {
            for (key, value) in map {
                let len = path.len();
                path.push('.');
                path.push_str(key);
                match node.child(key) {
                    Some(field) => walk(Some(field), value, path, problems),
                    None => {
                        problems.push(format!("{path}: field not declared in schema"));
                        path.truncate(len);
                        // Upstream ends the walk of an object here.
                        return;
                    }
                }
                path.truncate(len);
            }
        }
        (NodeKind::Struct | NodeKind::Map, _) => report(path, format!("expected map, got &{{{}}}", go::v(value))),
        (NodeKind::List, Value::Array(list)) => {
            let mut seen = BTreeSet::new();
            for (i, item) in list.iter().enumerate() {
                let len = path.len();
                if node.list_type() == ListType::Atomic {
                    path.push_str(&format!("[{i}]"));
                } else {
                    match list_element(node, node.list_type(), item) {
                        Err(error) => {
                            problems.push(format!("{path}: element {i}: {error}"));
                            return;
                        }
                        Ok(element) => {
                            let text = element.to_string();
                            if !seen.insert(element) {
                                problems.push(format!("{path}: duplicate entries for key {text}"));
                            }
                            path.push_str(&text);
                        }
                    }
                }
                walk(node.items(), item, path, problems);
                path.truncate(len);
            }
        }
        (NodeKind::List, _) => report(path, format!("expected list, got &{{{}}}", go::v(value))),
        (NodeKind::Scalar(scalar), _) => {
            let wrapped = || format!("&value.valueUnstructured{{Value:{}}}", go::sharp_v(value));
            match scalar {
                ScalarType::Int32 | ScalarType::Int64 | ScalarType::Float64 if !value.is_number() => {
                    report(path, format!("expected numeric (int or float), got {}", go::type_name(value)));
                }
                ScalarType::String | ScalarType::Bytes if !value.is_string() => {
                    report(path, format!("expected string, got {}", wrapped()));
                }
                ScalarType::Bool if !value.is_boolean() => {
                    report(path, format!("expected boolean, got &{{{}}}", go::v(value)));
                }
                _ if value.is_array() || value.is_object() => {
                    report(path, format!("expected any scalar, got &{{{}}}", go::v(value)));
                }
                _ => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;
    use crate::patch::testing::{any_json, node};

    #[track_caller]
    fn check(value: Value, want: Result<(), &str>) {
        assert_eq!(validate(node("core/v1.Pod"), &value), want.map_err(str::to_owned));
    }

    #[test]
    fn problems_are_upstreams() {
        let container = |more: Value| {
            let mut c = json!({"name": "c"});
            if let (Value::Object(c), Value::Object(more)) = (&mut c, more) {
                c.extend(more);
            }
            json!({"spec": {"containers": [c]}})
        };
        check(container(json!({"resources": {"limits": {"cpu": 1, "memory": "1Gi"}}})), Ok(()));
        check(json!({"spec": {"nope": 1}}), Err(".spec.nope: field not declared in schema"));
        check(
            container(json!({"env": [{"name": "A", "value": 1}]})),
            Err(".spec.containers[name=\"c\"].env[name=\"A\"].value: expected string, got \
                 &value.valueUnstructured{Value:1}"),
        );
        check(
            container(json!({"ports": [{"containerPort": "80"}]})),
            Err(".spec.containers[name=\"c\"].ports[containerPort=\"80\",protocol=\"TCP\"].containerPort: expected \
                 numeric (int or float), got string"),
        );
        check(
            container(json!({"ports": [{"containerPort": 80}, {"containerPort": 80, "protocol": "TCP"}]})),
            Err(".spec.containers[name=\"c\"].ports: duplicate entries for key [containerPort=80,protocol=\"TCP\"]"),
        );
        check(json!({"spec": {"containers": "x"}}), Err(".spec.containers: expected list, got &{x}"));
        check(json!({"spec": [1]}), Err(".spec: expected map, got &{[1]}"));
        check(json!({"spec": {"hostNetwork": "yes"}}), Err(".spec.hostNetwork: expected boolean, got &{yes}"));
        check(
            json!({"spec": {"hostname": 1, "nope": 1}}),
            Err("errors:\n  .spec.hostname: expected string, got &value.valueUnstructured{Value:1}\n  \
                 .spec.nope: field not declared in schema"),
        );
    }

    proptest! {
        #[test]
        fn nothing_panics(value in any_json()) {
            let _ = validate(node("core/v1.Pod"), &value);
            let _ = validate(node("core/v1.Pod"), &json!({"spec": {"containers": value}}));
        }
    }
}
