//! Merging what a policy wants into an object: as apply does, without owners.
//!
//! Follows `admission/plugin/policy/mutating/patch/smd.go`.

use serde_json::Value;

use super::{merge, validate};
use crate::schema::{ListType, MapType, Node, NodeKind};

/// Merges a configuration into an object. What would be replaced as a whole may not be in it: its author would lose what
/// he did not mean.
pub fn mutate(node: Node<'_>, live: &Value, wanted: &Value) -> Result<Value, String> {
    let typed = |e: String| format!("failed to convert patch object to typed object: {e}");
    validate::validate(node, wanted).map_err(typed)?;
    let mut atomics = Vec::new();
    find_atomics(Some(node), wanted, &mut String::new(), &mut atomics);
    if !atomics.is_empty() {
        let all = atomics.join(", ");
        return Err(format!("invalid ApplyConfiguration: may not mutate atomic arrays, maps or structs: {all}"));
    }
    let mut merged = live.clone();
    merge::merge(Some(node), &mut merged, wanted).map_err(|e| format!("failed to merge patch: {e}"))?;
    Ok(merged)
}

fn find_atomics(node: Option<Node<'_>>, value: &Value, path: &mut String, found: &mut Vec<String>) {
    let Some(node) = node else { return };
    let len = path.len();
    match (node.kind(), value) {
        (kind @ (NodeKind::Struct | NodeKind::Map), Value::Object(map)) => {
            if node.map_type() == MapType::Atomic {
                found.push(path.clone());
            }
            // The values of a map with any keys are looked at no further, as upstream.
            for (key, value) in map.iter().filter(|_| kind == NodeKind::Struct) {
                path.push('.');
                path.push_str(key);
                find_atomics(node.child(key), value, path, found);
                path.truncate(len);
            }
        }
        (NodeKind::List, Value::Array(list)) => {
            if node.list_type() == ListType::Atomic {
                found.push(path.clone());
            }
            for (i, item) in list.iter().enumerate() {
                path.push_str(&format!("[{i}]"));
                find_atomics(node.items(), item, path, found);
                path.truncate(len);
            }
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn atomic_values_are_not_merged() {
        let pod = Node::of_kind("", "v1", "Pod").expect("a schema");
        let live = json!({"spec": {"containers": [{"name": "a", "image": "x", "args": ["1"]}]}});
        let check = |wanted: Value, want: Result<Value, &str>| {
            assert_eq!(mutate(pod, &live, &wanted), want.map_err(str::to_owned));
        };
        check(
            json!({"spec": {"containers": [{"name": "a", "image": "y"}]}}),
            Ok(json!({"spec": {"containers": [{"name": "a", "image": "y", "args": ["1"]}]}})),
        );
        let text = "invalid ApplyConfiguration: may not mutate atomic arrays, maps or structs: .spec.containers[0].args, \
                    .spec.nodeSelector";
        let args = json!({"name": "a", "args": ["2"]});
        check(json!({"spec": {"containers": [args], "nodeSelector": {"a": "b"}}}), Err(text));
        let text = "failed to convert patch object to typed object: .spec.x: field not declared in schema";
        check(json!({"spec": {"x": 1}}), Err(text));
    }
}
