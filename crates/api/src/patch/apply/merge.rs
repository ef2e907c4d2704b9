//! Merging an applied configuration into the live object, and taking fields out of an object.
//!
//! Follows `structured-merge-diff/typed/merge.go` and `remove.go`. Both work in place.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use super::path::PathElement;
use super::set::Set;
use super::walk::{Shape, child, list_element, shape};
use crate::Map;
use crate::schema::{ListType, Node, NodeKind};

/// Merges `applied` into `live`: leaves are replaced, objects merged by key, lists by the names of their elements.
///
/// An error names the place where the lists cannot be merged (duplicate elements, elements without a key).
pub fn merge(node: Option<Node<'_>>, live: &mut Value, applied: &Value) -> Result<(), String> {
    match (shape(node), &mut *live, applied) {
        (Shape::Object(node), Value::Object(live), Value::Object(applied)) if !live.is_empty() => {
            merge_object(node, live, applied)
        }
        (Shape::List(node, list_type), Value::Array(live), Value::Array(applied)) if !live.is_empty() => {
            *live = merge_list(node, list_type, std::mem::take(live), applied)?;
            Ok(())
        }
        // Null stands for no opinion where the live object has keys or elements.
        (Shape::Object(_), Value::Object(live), Value::Null) if !live.is_empty() => Ok(()),
        (Shape::List(..), Value::Array(live), Value::Null) if !live.is_empty() => Ok(()),
        _ => {
            *live = fresh(node, applied)?;
            Ok(())
        }
    }
}

/// What an applied value becomes where there is none: itself, without nulls for fields.
fn fresh(node: Option<Node<'_>>, applied: &Value) -> Result<Value, String> {
    Ok(match (shape(node), applied) {
        (Shape::Object(node), Value::Object(applied)) => {
            let mut out = Map::new();
            merge_object(node, &mut out, applied)?;
            Value::Object(out)
        }
        (Shape::List(node, list_type), Value::Array(applied)) => {
            Value::Array(merge_list(node, list_type, Vec::new(), applied)?)
        }
        _ => applied.clone(),
    })
}

fn merge_object(node: Node<'_>, live: &mut Map, applied: &Map) -> Result<(), String> {
    for (key, value) in applied {
        let field = child(node, key);
        let place = |error: String| at(&PathElement::field(key), error);
        match live.get_mut(key) {
            Some(old) => {
                merge(field, old, value).map_err(place)?;
                if old.is_null() && is_field(node) {
                    live.remove(key);
                }
            }
            None if value.is_null() && is_field(node) => {}
            None => {
                live.insert(key.clone(), fresh(field, value).map_err(place)?);
            }
        }
    }
    Ok(())
}

/// Whether the keys of an object are fields of a built-in struct, where null is the same as absent.
fn is_field(node: Node<'_>) -> bool {
    node.kind() == NodeKind::Struct && node.builtin_type().is_some()
}

/// Puts the place before an error, as upstream prints the two.
fn at(element: &PathElement, error: String) -> String {
    let separator = if error.starts_with(['.', '[']) { "" } else { ": " };
    format!("{element}{separator}{error}")
}

/// The order of the result is upstream's: that of the applied list for the elements that it has, with the other
/// live elements as near as possible to where they stood.
fn merge_list(
    node: Node<'_>,
    list_type: ListType<'_>,
    live: Vec<Value>,
    applied: &[Value],
) -> Result<Vec<Value>, String> {
    let name = |i: usize, item: &Value| list_element(node, list_type, item).map_err(|e| format!("element {i}: {e}"));
    let mut right: Vec<(PathElement, &Value)> = Vec::with_capacity(applied.len());
    let mut in_right: BTreeSet<PathElement> = BTreeSet::new();
    for (i, item) in applied.iter().enumerate() {
        let element = name(i, item)?;
        if !in_right.insert(element.clone()) {
            return Err(format!("duplicate entries for key {element}"));
        }
        right.push((element, item));
    }
    if live.is_empty() {
        return right
            .into_iter()
            .map(|(element, item)| fresh(node.items(), item).map_err(|e| at(&element, e)))
            .collect();
    }
    let mut left: Vec<(PathElement, Option<Value>)> = Vec::with_capacity(live.len());
    // Where the one live element of a name stands; nothing for a name that several have.
    let mut in_left: BTreeMap<PathElement, Option<usize>> = BTreeMap::new();
    for (i, item) in live.into_iter().enumerate() {
        let element = name(i, &item)?;
        in_left.entry(element.clone()).and_modify(|at| *at = None).or_insert(Some(i));
        left.push((element, Some(item)));
    }

    // The elements of both lists, in the order of the applied one; the first is the next to be met.
    let mut shared = right.iter().map(|(element, _)| element).filter(|e| in_left.contains_key(*e)).peekable();
    let mut merged: BTreeSet<&PathElement> = BTreeSet::new();
    let mut out: Vec<Value> = Vec::with_capacity(left.len().max(right.len()));
    let names: Vec<PathElement> = left.iter().map(|(element, _)| element.clone()).collect();
    let mut take = |element: &PathElement, item: &Value| -> Result<Value, String> {
        let old = in_left.get(element).copied().flatten().and_then(|i| left.get_mut(i)?.1.take());
        let value = match old {
            Some(mut old) => merge(node.items(), &mut old, item).map(|()| old),
            None => fresh(node.items(), item),
        };
        value.map_err(|e| at(element, e))
    };
    let mut kept: Vec<(usize, usize)> = Vec::new();
    let (mut l, mut r) = (0, 0);
    while l < names.len() || r < right.len() {
        if let (Some(element), Some((next, item))) = (names.get(l), right.get(r)) {
            if element == next {
                out.push(take(next, item)?);
                merged.insert(next);
                l += 1;
                r += 1;
                shared.next();
                continue;
            }
            if in_right.contains(element) && shared.peek().is_some_and(|&next| next != element) {
                // Shared, but not the one whose turn it is.
                l += 1;
                continue;
            }
        }
        if let Some(element) = names.get(l) {
            if !in_right.contains(element) {
                kept.push((out.len(), l));
                out.push(Value::Null);
                l += 1;
                continue;
            }
            if merged.contains(element) {
                l += 1;
            }
        }
        if let Some((next, item)) = right.get(r) {
            out.push(take(next, item)?);
            merged.insert(next);
            r += 1;
            if shared.peek() == Some(&next) {
                shared.next();
            }
        }
    }
    for (place, from) in kept {
        if let (Some(place), Some(item)) = (out.get_mut(place), left.get_mut(from).and_then(|(_, item)| item.take())) {
            *place = item;
        }
    }
    Ok(out)
}

/// Takes the fields of a set out of an object, and what becomes empty by it, but not what held that.
pub fn remove(node: Option<Node<'_>>, value: &mut Value, fields: &Set) {
    if !fields.is_empty() {
        let _ = remove_below(node, value, fields);
    }
}

/// Whether something is left.
fn remove_below(node: Option<Node<'_>>, value: &mut Value, fields: &Set) -> bool {
    match value {
        Value::Object(map) => {
            let mut emptied = false;
            for entry in fields.entries() {
                let PathElement::Field(key) = &entry.element else { continue };
                if entry.member {
                    map.remove(key);
                } else if let Some(inner) = map.get_mut(key)
                    && !remove_below(node.and_then(|n| child(n, key)), inner, &entry.below)
                {
                    // Upstream leaves null behind, so that what holds it is not empty; in a Go struct that is nothing.
                    if node.is_some_and(|node| node.builtin_type().is_some()) {
                        map.remove(key);
                    } else {
                        *inner = Value::Null;
                    }
                    emptied = true;
                }
            }
            !map.is_empty() || emptied
        }
        Value::Array(list) => {
            let Shape::List(node, list_type) = shape(node) else { return !list.is_empty() };
            list.retain_mut(|item| {
                let Ok(element) = list_element(node, list_type, item) else { return true };
                if fields.has_element(&element) {
                    return false;
                }
                let below = fields.below(&element);
                below.is_empty() || remove_below(node.items(), item, below)
            });
            !list.is_empty()
        }
        _ => true,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::patch::testing::node;

    fn pod() -> Option<Node<'static>> {
        Some(node("core/v1.Pod"))
    }

    #[track_caller]
    fn check(live: Value, applied: Value, want: Value) {
        let mut got = live;
        merge(pod(), &mut got, &applied).expect("it merges");
        assert_eq!(got, want);
    }

    /// Containers named by the letters of a text.
    fn named(names: &str) -> Value {
        let list: Vec<Value> = names.chars().map(|c| json!({"name": c.to_string()})).collect();
        json!({"spec": {"containers": list}})
    }

    #[test]
    fn order_of_lists() {
        for (live, applied, want) in [
            ("abc", "b", "abc"),
            ("abc", "cb", "acb"),
            ("ab", "c", "abc"),
            ("abcd", "dxa", "bcdxa"),
            ("", "ba", "ba"),
            ("ab", "", "ab"),
            ("abc", "xb", "axbc"),
            ("acb", "abc", "abc"),
        ] {
            let mut got = named(live);
            merge(pod(), &mut got, &named(applied)).expect("it merges");
            assert_eq!(got, named(want), "{live} + {applied}");
        }
    }

    #[test]
    fn values() {
        check(
            json!({"spec": {"hostname": "a", "nodeSelector": {"x": "1"}, "subdomain": "s"}}),
            json!({"spec": {"hostname": "b", "nodeSelector": {"y": "1"}, "subdomain": null, "priority": null}}),
            json!({"spec": {"hostname": "b", "nodeSelector": {"y": "1"}}}),
        );
        check(
            json!({"metadata": {"labels": {"a": "1", "b": "1"}, "finalizers": ["a"]}}),
            json!({"metadata": {"labels": {"a": "2"}, "finalizers": ["b"], "annotations": {}}}),
            json!({"metadata": {"labels": {"a": "2", "b": "1"}, "finalizers": ["a", "b"], "annotations": {}}}),
        );
        check(
            json!({"metadata": {"labels": {"a": "1"}, "finalizers": ["a"]}}),
            json!({"metadata": {"labels": null, "finalizers": []}}),
            json!({"metadata": {"labels": {"a": "1"}, "finalizers": ["a"]}}),
        );
        // A defaulted key finds its element.
        let ports = |p: Value| json!({"spec": {"containers": [{"name": "c", "ports": p}]}});
        check(
            ports(json!([{"containerPort": 80, "protocol": "TCP"}])),
            ports(json!([{"containerPort": 80, "name": "web"}])),
            ports(json!([{"containerPort": 80, "protocol": "TCP", "name": "web"}])),
        );
    }

    #[test]
    fn what_cannot_be_merged_is_named() {
        let error = |applied: Value| merge(pod(), &mut named("a"), &applied).expect_err("it does not merge");
        assert_eq!(error(named("xx")), ".spec.containers: duplicate entries for key [name=\"x\"]");
        assert_eq!(
            error(json!({"spec": {"containers": [null]}})),
            ".spec.containers: element 0: associative list with keys may not have a null element"
        );
    }

    #[test]
    fn removal_takes_what_becomes_empty() {
        let set = |v: Value| Set::from_value(&v).expect("field paths");
        let mut got = json!({
            "metadata": {"labels": {"a": "1"}, "finalizers": ["a", "b"]},
            "spec": {"hostname": "h", "containers": [{"name": "a", "image": "i", "args": ["x"]}, {"name": "b"}]},
        });
        remove(
            pod(),
            &mut got,
            &set(json!({
                "f:metadata": {"f:labels": {"f:a": {}}, "f:finalizers": {"v:\"b\"": {}}, "f:annotations": {"f:x": {}}},
                "f:spec": {"f:containers": {
                    "k:{\"name\":\"a\"}": {"f:image": {}, "f:args": {"i:0": {}}},
                    "k:{\"name\":\"b\"}": {".": {}, "f:name": {}},
                }},
            })),
        );
        assert_eq!(
            got,
            json!({
                "metadata": {"finalizers": ["a"]},
                "spec": {"hostname": "h", "containers": [{"name": "a", "args": ["x"]}]},
            })
        );
        let mut got = json!({"spec": {"securityContext": {"seLinuxOptions": {"user": "u"}}}});
        remove(pod(), &mut got, &set(json!({"f:spec": {"f:securityContext": {"f:seLinuxOptions": {"f:user": {}}}}})));
        assert_eq!(got, json!({"spec": {"securityContext": {}}}));
    }
}
