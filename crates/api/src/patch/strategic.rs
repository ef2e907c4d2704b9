//! Strategic merge patch (`application/strategic-merge-patch+json`): a merge patch that knows from the schema
//! which lists are merged by which key, with directives in the patch.
//!
//! | directive | where | meaning |
//! |---|---|---|
//! | `$patch: replace` | in an object | this object replaces the old one |
//! | `$patch: delete` | in an object | the old object is emptied |
//! | `$patch: delete` | in a list element | the element with this merge key is removed |
//! | `$patch: replace` | in a list element | the other elements replace the old list |
//! | `$retainKeys: [..]` | in an object | every other key of the old object is removed |
//! | `$setElementOrder/F: [..]` | beside `F` | the order of the merged list `F` |
//! | `$deleteFromPrimitiveList/F: [..]` | beside `F` | these values leave the list `F` |
//!
//! Follows `apimachinery/pkg/util/strategicpatch/patch.go` (`StrategicMergeMapPatch`), order of merged lists and
//! error texts included. One difference: no directive survives in a part of the patch that meets nothing in the
//! object, also where upstream keeps some as unknown fields (in a new element of a list).

use std::collections::{HashMap, HashSet};

use serde_json::Value;

use super::{go, json::inapplicable, plain_error};
use crate::Map;
use crate::schema::{Node, NodeKind, ScalarType};
use crate::status::Status;

const DIRECTIVE: &str = "$patch";
const RETAIN_KEYS: &str = "$retainKeys";
const SET_ORDER: &str = "$setElementOrder";
const DELETE_FROM_LIST: &str = "$deleteFromPrimitiveList";

const BAD_PRIMITIVE_LIST: &str = "invalid patch format of primitive list";
const BAD_RETAIN_KEYS: &str = "invalid patch format of retainKeys";
const BAD_SET_ORDER: &str = "invalid patch format of setElementOrder list";

/// Merges `patch` into `target`, whose schema is `node`.
///
/// Errors: 400 for a malformed patch, 422 for lists of lists, 500 where upstream answers 500 (a list element
/// without its merge key, an unknown directive).
pub fn apply(target: &mut Value, patch: Value, node: Node<'_>) -> Result<(), Status> {
    let Value::Object(patch) = patch else {
        let json_type = match &patch {
            Value::Array(_) => "array",
            Value::String(_) => "string",
            Value::Bool(_) => "bool",
            Value::Number(_) => "number",
            _ => return Ok(()),
        };
        return Err(Status::bad_request(format!(
            "json: cannot unmarshal {json_type} into Go value of type map[string]interface {{}}"
        )));
    };
    if !target.is_object() {
        *target = Value::Object(Map::new());
    }
    match target {
        Value::Object(target) => merge_map(target, patch, Some(node)),
        _ => Ok(()),
    }
}

/// What a patched object has that its Go type cannot hold, in the words of upstream's converter; it names no field.
/// `None` for an object that fits, as far as types of values go.
///
/// Upstream answers a 422 whose one cause is the field `patch` with the value [`super::shown`] of the patch and this
/// text. Follows `apimachinery/pkg/runtime/converter.go` (`fromUnstructured`).
pub fn type_problem(node: Node<'_>, value: &Value) -> Option<String> {
    if value.is_null() {
        return None;
    }
    let go_kind = match value {
        Value::Array(_) => "slice",
        Value::Object(_) => "map",
        scalar => go::type_name(scalar),
    };
    match (node.kind(), value) {
        (NodeKind::Struct, Value::Object(map)) => {
            node.fields().find_map(|(name, field)| type_problem(field, map.get(name)?))
        }
        (NodeKind::Struct, _) => Some(format!("cannot restore struct from: {go_kind}")),
        (NodeKind::Map, Value::Object(map)) => map.values().find_map(|value| type_problem(node.values()?, value)),
        (NodeKind::Map, _) => Some(format!("cannot restore map from {go_kind}")),
        (NodeKind::List, Value::Array(list)) => list.iter().find_map(|item| type_problem(node.items()?, item)),
        (NodeKind::List, _) => Some(format!("cannot restore slice from {go_kind}")),
        (NodeKind::Any, _) => None,
        (NodeKind::Scalar(scalar), value) => {
            let (go_type, fits) = match scalar {
                ScalarType::String => ("string", value.is_string()),
                ScalarType::Bool => ("bool", value.is_boolean()),
                ScalarType::Int32 | ScalarType::Int64 => {
                    let whole = value.as_f64().is_some_and(|f| f.fract() == 0.0);
                    (if scalar == ScalarType::Int32 { "int32" } else { "int64" }, whole)
                }
                ScalarType::Float64 => ("float64", value.is_number()),
                ScalarType::Bytes if !value.is_string() && !value.is_array() => {
                    return Some(format!("cannot restore slice from {go_kind}"));
                }
                // These read their own JSON.
                ScalarType::Bytes
                | ScalarType::Quantity
                | ScalarType::IntOrString
                | ScalarType::Time
                | ScalarType::MicroTime
                | ScalarType::Duration => return None,
            };
            // Go could convert a number to a string or another number, and is not let.
            let convertible =
                value.is_number() && scalar != ScalarType::Bool && (scalar != ScalarType::String || !value.is_f64());
            match (fits, convertible) {
                (true, _) => None,
                (false, true) => Some(format!("cannot convert {go_kind} to {go_type}")),
                (false, false) => Some(format!("unrecognized type: {go_type}")),
            }
        }
    }
}

fn no_merge_key(item: &Value, key: &str) -> Status {
    plain_error(format!("map: {} does not contain declared merge key: {key}", go::v(item)))
}

fn bad_type(expected: &str, actual: &Value) -> Status {
    let actual = if actual.is_null() { "%!s(<nil>)" } else { go::type_name(actual) };
    plain_error(format!("expected a {expected}, but received a {actual}"))
}

fn unknown_directive(directive: &Value, patch: &Value) -> Status {
    plain_error(format!("unknown patch type: {} in map: {}", go::v(directive), go::v(patch)))
}

/// The list field named by a directive such as `$setElementOrder/containers`.
fn directed_field<'k>(key: &'k str, prefix: &str, malformed: &str) -> Result<&'k str, Status> {
    match key.split_once('/') {
        Some((found, field)) if found == prefix => Ok(field),
        _ => Err(Status::bad_request(malformed)),
    }
}

/// The schema below a key. `None` where nothing is known (below a field of any type).
fn below<'n>(node: Option<Node<'n>>, key: &str) -> Result<Option<Node<'n>>, Status> {
    let Some(node) = node else { return Ok(None) };
    match node.kind() {
        NodeKind::Struct => match node.field(key) {
            Some(field) => Ok(Some(field)),
            None => {
                let ty = node.go_type();
                let ty = ty.rsplit('.').next().unwrap_or_default();
                Err(plain_error(format!("unable to find api field in struct {ty} for the json field {key:?}")))
            }
        },
        NodeKind::Map => Ok(node.values()),
        _ => Ok(None),
    }
}

fn merge_map(original: &mut Map, mut patch: Map, node: Option<Node<'_>>) -> Result<(), Status> {
    if let Some(directive) = patch.get(DIRECTIVE) {
        match directive.as_str() {
            Some("replace") => {
                clean_map(&mut patch);
                *original = patch;
                return Ok(());
            }
            Some("delete") => {
                original.clear();
                return Ok(());
            }
            _ => {
                let directive = directive.clone();
                return Err(unknown_directive(&directive, &Value::Object(patch)));
            }
        }
    }
    retain_keys(original, &mut patch)?;
    set_orders(original, &mut patch, node)?;

    for (key, value) in patch {
        let (key, is_deletion) = if key.starts_with(DELETE_FROM_LIST) {
            (directed_field(&key, DELETE_FROM_LIST, BAD_PRIMITIVE_LIST)?.to_owned(), true)
        } else {
            (key, false)
        };
        if value.is_null() {
            original.remove(&key);
            continue;
        }
        match (original.get_mut(&key), value) {
            (Some(Value::Object(old)), Value::Object(new)) => {
                let field = below(node, &key)?;
                if field.is_some_and(|f| f.has_patch_strategy("replace")) {
                    *old = new;
                    clean_map(old);
                } else {
                    merge_map(old, new, field)?;
                }
            }
            (Some(Value::Array(old)), Value::Array(new)) => {
                let field = below(node, &key)?;
                *old = merge_list_field(std::mem::take(old), new, field, is_deletion)?;
            }
            (_, _) if is_deletion => {}
            (_, mut new) => {
                if clean(&mut new) {
                    original.insert(key, new);
                } else {
                    original.remove(&key);
                }
            }
        }
    }
    Ok(())
}

/// Carries out `$retainKeys`: what the patch does not list leaves the original.
fn retain_keys(original: &mut Map, patch: &mut Map) -> Result<(), Status> {
    let Some(retain) = patch.remove(RETAIN_KEYS) else { return Ok(()) };
    let Value::Array(retain) = retain else { return Err(Status::bad_request(BAD_RETAIN_KEYS)) };
    let retain: HashSet<&str> = retain.iter().filter_map(Value::as_str).collect();
    let listed = |key: &str, value: &Value| {
        value.is_null() || key.starts_with(DELETE_FROM_LIST) || key.starts_with(SET_ORDER) || retain.contains(key)
    };
    if !patch.iter().all(|(key, value)| listed(key, value)) {
        return Err(Status::bad_request(BAD_RETAIN_KEYS));
    }
    original.retain(|key, _| retain.contains(key.as_str()));
    Ok(())
}

/// Carries out each `$setElementOrder/F` together with the patch of `F`, and takes both out of the patch.
/// `$setElementOrder` counts more than the order in the patch, and that more than the order in the object.
fn set_orders(original: &mut Map, patch: &mut Map, node: Option<Node<'_>>) -> Result<(), Status> {
    let keys: Vec<String> = patch.keys().filter(|key| key.starts_with(SET_ORDER)).cloned().collect();
    for key in keys {
        let Some(order) = patch.remove(&key) else { continue };
        let Value::Array(order) = order else { return Err(bad_type("[]interface {}", &order)) };
        let field_name = directed_field(&key, SET_ORDER, BAD_SET_ORDER)?;
        let as_list = |value: Option<&Value>| match value {
            Some(Value::Array(list)) => Ok(Some(list.clone())),
            Some(other) => Err(bad_type("[]interface {}", other)),
            None => Ok(None),
        };
        let old = as_list(original.get(field_name))?;
        let new = as_list(patch.get(field_name))?;
        let field = below(node, field_name)?;
        let merge_key = field.and_then(|f| f.patch_merge_key());
        check_order(new.as_deref().unwrap_or_default(), &order, merge_key)?;
        let merged = match (old.clone(), new.clone()) {
            (Some(old), None) => old,
            (None, Some(new)) => new,
            (Some(old), Some(new)) => merge_list_field(old, new, field, false)?,
            (None, None) => continue,
        };
        let empty = Vec::new();
        let old = old.unwrap_or_default();
        element_type([&old, new.as_ref().unwrap_or(&empty)])?;
        let in_order = Keys::of(&order, merge_key)?;
        let mut ordered = Vec::with_capacity(merged.len());
        let mut others = Vec::new();
        for item in merged {
            if let Some(key) = merge_key
                && key_of(&item, Some(key)).is_none()
            {
                return Err(if item.is_object() {
                    no_merge_key(&item, key)
                } else {
                    bad_type("map[string]interface {}", &item)
                });
            }
            if in_order.position(&item).is_some() { ordered.push(item) } else { others.push(item) }
        }
        let server_order = order_after_merge(old, new.as_deref().unwrap_or_default(), merge_key);
        let mut merged = interleave(ordered, others, &order, &server_order, merge_key)?;
        merged.retain_mut(clean);
        original.insert(field_name.to_owned(), Value::Array(merged));
        patch.remove(field_name);
    }
    Ok(())
}

/// The order on the server that counts beside `$setElementOrder`: the old list without what the patch deletes, and
/// new elements in the places of the deleted ones. (Upstream merges in the array of the old list; the order of the
/// result depends on it, as when `kubectl apply` renames a container.)
fn order_after_merge(mut old: Vec<Value>, patch: &[Value], merge_key: Option<&str>) -> Vec<Value> {
    let Some(key) = merge_key else { return old };
    let len = old.len();
    let deleted: HashSet<&Value> = patch
        .iter()
        .filter(|item| item.get(DIRECTIVE).is_some_and(|d| d == "delete"))
        .filter_map(|i| i.get(key))
        .collect();
    if deleted.is_empty() {
        return old;
    }
    old.retain(|item| !item.get(key).is_some_and(|value| deleted.contains(value)));
    let left: HashSet<Value> = old.iter().filter_map(|item| item.get(key).cloned()).collect();
    let is_new =
        |item: &&Value| item.get(DIRECTIVE).is_none() && item.get(key).is_some_and(|value| !left.contains(value));
    let room = len - old.len();
    old.extend(patch.iter().filter(is_new).take(room).cloned());
    old
}

/// Refuses a patch whose elements are not among those of `$setElementOrder`, in that order.
fn check_order(patch: &[Value], order: &[Value], merge_key: Option<&str>) -> Result<(), Status> {
    if patch.is_empty() || order.is_empty() {
        return Ok(());
    }
    let keyed = |value: &Value| match (merge_key, value) {
        (None, value) => Ok(value.clone()),
        (Some(key), Value::Object(map)) => map.get(key).cloned().ok_or_else(|| no_merge_key(value, key)),
        (Some(_), _) => Err(bad_type("map[string]interface {}", value)),
    };
    let is_deletion = |item: &Value| merge_key.is_some() && item.get(DIRECTIVE).is_some_and(|d| d == "delete");
    let mut items = patch.iter().filter(|item| !is_deletion(item)).peekable();
    let mut rest = order.iter().peekable();
    while let (Some(item), Some(next)) = (items.peek(), rest.peek()) {
        if item.get(DIRECTIVE).is_some() {
            items.next();
            continue;
        }
        if keyed(item)? == keyed(next)? {
            items.next();
        }
        rest.next();
    }
    if items.peek().is_some() {
        let (patch, order) = (Value::Array(patch.to_vec()), Value::Array(order.to_vec()));
        return Err(plain_error(format!(
            "The order in patch list:\n{}\n doesn't match {SET_ORDER} list:\n{}\n",
            go::v(&patch),
            go::v(&order)
        )));
    }
    Ok(())
}

/// Merges a list field by its strategy; without one the patch replaces the list.
fn merge_list_field(
    original: Vec<Value>,
    mut patch: Vec<Value>,
    field: Option<Node<'_>>,
    is_deletion: bool,
) -> Result<Vec<Value>, Status> {
    match field {
        Some(field) if field.has_patch_strategy("merge") => merge_list(original, patch, field, is_deletion),
        _ => {
            patch.retain_mut(clean);
            Ok(patch)
        }
    }
}

fn merge_list(
    mut original: Vec<Value>,
    patch: Vec<Value>,
    field: Node<'_>,
    is_deletion: bool,
) -> Result<Vec<Value>, Status> {
    if original.is_empty() && patch.is_empty() {
        return Ok(original);
    }
    let maps = element_type([&original, &patch])? == "map[string]interface {}";
    if !maps {
        if is_deletion {
            let gone: HashSet<&Value> = patch.iter().collect();
            original.retain(|value| !gone.contains(value));
            return Ok(original);
        }
        let in_patch = Keys::of(&patch, None)?;
        let mut seen = HashSet::new();
        let (mut from_patch, mut others) = (Vec::new(), Vec::new());
        for item in original.iter().chain(&patch) {
            if seen.insert(item) {
                if in_patch.position(item).is_some() {
                    from_patch.push(item.clone())
                } else {
                    others.push(item.clone())
                }
            }
        }
        return interleave(from_patch, others, &patch, &original, None);
    }

    let Some(key) = field.patch_merge_key() else {
        return Err(plain_error("cannot merge lists without merge key for type struct"));
    };
    let (mut original, patch) = special_elements(original, patch, key)?;
    let server_order = original.clone();
    for item in &patch {
        let Some(value) = item.get(key) else { return Err(no_merge_key(item, key)) };
        let mut found = None;
        for (i, old) in original.iter_mut().enumerate() {
            let Value::Object(old) = old else {
                return Err(plain_error(format!("value for key {i} is not a map.")));
            };
            if old.get(key) == Some(value) {
                found = Some(old);
                break;
            }
        }
        match (found, item) {
            (Some(old), Value::Object(new)) => merge_map(old, new.clone(), field.items())?,
            _ => {
                let mut new = item.clone();
                clean(&mut new);
                original.push(new);
            }
        }
    }
    let in_patch = Keys::of(&patch, Some(key))?;
    let (mut from_patch, mut others) = (Vec::new(), Vec::new());
    for item in original {
        if item.get(key).is_none() {
            return Err(no_merge_key(&item, key));
        }
        if in_patch.position(&item).is_some() { from_patch.push(item) } else { others.push(item) }
    }
    interleave(from_patch, others, &patch, &server_order, Some(key))
}

/// Carries out the `$patch` elements of a list: what is left of the original, and the patch without them.
fn special_elements(
    mut original: Vec<Value>,
    patch: Vec<Value>,
    key: &str,
) -> Result<(Vec<Value>, Vec<Value>), Status> {
    let mut plain = Vec::with_capacity(patch.len());
    let mut replace = false;
    for item in patch {
        let Some(directive) = item.get(DIRECTIVE) else {
            plain.push(item);
            continue;
        };
        match directive.as_str() {
            Some("delete") => match item.get(key) {
                Some(value) => original.retain(|old| old.get(key) != Some(value)),
                None => return Err(no_merge_key(&item, key)),
            },
            Some("replace") => replace = true,
            Some("merge") => return Err(plain_error("merging lists cannot yet be specified in the patch")),
            _ => return Err(unknown_directive(&directive.clone(), &item)),
        }
    }
    if replace {
        plain.retain_mut(clean);
        return Ok((plain, Vec::new()));
    }
    Ok((original, plain))
}

/// The one Go type of all elements. An error for lists of lists, mixed types and no elements at all.
fn element_type(lists: [&Vec<Value>; 2]) -> Result<&'static str, Status> {
    let mut all = lists.into_iter().flatten();
    let Some(first) = all.next() else { return Err(plain_error("no elements in any of the given slices")) };
    if first.is_array() {
        return Err(inapplicable());
    }
    let ty = go::type_name(first);
    if all.any(|item| go::type_name(item) != ty) {
        let lists: Vec<Value> = lists.iter().map(|list| Value::Array((*list).clone())).collect();
        return Err(plain_error(format!("list element types are not identical: {}", go::v(&Value::Array(lists)))));
    }
    Ok(ty)
}

/// What tells an element apart: the value of its merge key, or itself.
fn key_of<'v>(item: &'v Value, merge_key: Option<&str>) -> Option<&'v Value> {
    match merge_key {
        Some(key) => item.as_object()?.get(key),
        None => Some(item),
    }
}

/// Where each key stands first in a list.
struct Keys<'v, 'k> {
    at: HashMap<&'v Value, usize>,
    merge_key: Option<&'k str>,
}

impl<'v, 'k> Keys<'v, 'k> {
    fn of(list: &'v [Value], merge_key: Option<&'k str>) -> Result<Self, Status> {
        let mut at = HashMap::with_capacity(list.len());
        for (i, item) in list.iter().enumerate() {
            let Some(key) = key_of(item, merge_key) else {
                return Err(no_merge_key(item, merge_key.unwrap_or_default()));
            };
            at.entry(key).or_insert(i);
        }
        Ok(Keys { at, merge_key })
    }

    fn position(&self, item: &Value) -> Option<usize> {
        self.at.get(key_of(item, self.merge_key)?).copied()
    }
}

/// Puts the elements that the patch orders in `patch_order`, those that only the server has in `server_order`,
/// and merges the two by the order on the server as far as it tells, never changing the order of either.
fn interleave(
    mut ordered: Vec<Value>,
    mut others: Vec<Value>,
    patch_order: &[Value],
    server_order: &[Value],
    merge_key: Option<&str>,
) -> Result<Vec<Value>, Status> {
    let by_patch = Keys::of(patch_order, merge_key)?;
    let by_server = Keys::of(server_order, merge_key)?;
    ordered.sort_by_cached_key(|item| by_patch.position(item).unwrap_or(usize::MAX));
    others.sort_by_cached_key(|item| by_server.position(item).unwrap_or(usize::MAX));
    let mut out = Vec::with_capacity(ordered.len() + others.len());
    let mut ordered = ordered.into_iter().peekable();
    let mut others = others.into_iter().peekable();
    loop {
        let other_first = match (others.peek(), ordered.peek()) {
            (Some(other), Some(next)) => match (by_server.position(other), by_server.position(next)) {
                (Some(a), Some(b)) => a < b,
                _ => false,
            },
            (other, _) => other.is_some(),
        };
        match if other_first { others.next() } else { ordered.next() } {
            Some(item) => out.push(item),
            None => return Ok(out),
        }
    }
}

/// Takes nulls and directives out of a part of the patch that is taken as it is. Whether the part is to be kept:
/// an object with a `$patch` directive that meets nothing is none.
fn clean(value: &mut Value) -> bool {
    match value {
        Value::Object(map) => {
            if map.contains_key(DIRECTIVE) {
                return false;
            }
            clean_map(map);
        }
        Value::Array(list) => list.retain_mut(clean),
        _ => {}
    }
    true
}

fn clean_map(map: &mut Map) {
    map.retain(|key, value| {
        let directive = key == DIRECTIVE
            || key == RETAIN_KEYS
            || key.split_once('/').is_some_and(|(prefix, _)| prefix == SET_ORDER || prefix == DELETE_FROM_LIST);
        !directive && !value.is_null() && clean(value)
    });
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;
    use crate::patch::testing::{any_json, node};

    fn patched(target: &Value, patch: Value) -> Result<Value, Status> {
        let mut target = target.clone();
        apply(&mut target, patch, node("core/v1.Pod")).map(|()| target)
    }

    #[track_caller]
    fn check(target: Value, patch: Value, want: Value) {
        assert_eq!(patched(&target, patch).expect("it applies"), want);
    }

    #[track_caller]
    fn refused(target: Value, patch: Value, code: u16, message: &str) {
        let error = patched(&target, patch).expect_err("it does not apply");
        assert_eq!((error.code, error.message.as_str()), (code, message));
    }

    fn containers(list: Value) -> Value {
        json!({"spec": {"containers": list}})
    }

    #[test]
    fn lists_merge_by_key_and_new_elements_stand_before_where_upstream_puts_them() {
        check(
            containers(json!([{"name": "a", "image": "1"}, {"name": "b", "image": "1"}])),
            containers(json!([{"name": "b", "image": "2"}])),
            containers(json!([{"name": "a", "image": "1"}, {"name": "b", "image": "2"}])),
        );
        // A new element is not known to the server's order: patch items go first.
        check(
            containers(json!([{"name": "a"}, {"name": "b"}])),
            containers(json!([{"name": "c"}])),
            containers(json!([{"name": "c"}, {"name": "a"}, {"name": "b"}])),
        );
        check(
            containers(json!([{"name": "a"}, {"name": "b"}, {"name": "c"}])),
            json!({"spec": {
                "$setElementOrder/containers": [{"name": "c"}, {"name": "a"}],
                "containers": [{"name": "a", "image": "2"}],
            }}),
            containers(json!([{"name": "b"}, {"name": "c"}, {"name": "a", "image": "2"}])),
        );
        check(
            containers(json!([{"name": "a"}, {"name": "b"}])),
            json!({"spec": {"$setElementOrder/containers": [{"name": "b"}, {"name": "a"}]}}),
            containers(json!([{"name": "b"}, {"name": "a"}])),
        );
        check(
            json!({"spec": {}}),
            json!({"spec": {
                "$setElementOrder/containers": [{"name": "b"}, {"name": "a"}],
                "containers": [{"name": "b"}, {"name": "a"}],
            }}),
            containers(json!([{"name": "b"}, {"name": "a"}])),
        );
    }

    #[test]
    fn directives_in_lists() {
        let two = || containers(json!([{"name": "a"}, {"name": "b"}]));
        check(two(), containers(json!([{"name": "a", "$patch": "delete"}])), containers(json!([{"name": "b"}])));
        check(two(), containers(json!([{"$patch": "replace"}, {"name": "x"}])), containers(json!([{"name": "x"}])));
        check(
            json!({"metadata": {"finalizers": ["a", "b", "c"]}}),
            json!({"metadata": {"$deleteFromPrimitiveList/finalizers": ["b"], "finalizers": ["d"]}}),
            json!({"metadata": {"finalizers": ["d", "a", "c"]}}),
        );
        check(
            json!({"metadata": {"finalizers": ["a", "b"]}}),
            json!({"metadata": {"$setElementOrder/finalizers": ["b", "a"], "finalizers": ["a"]}}),
            json!({"metadata": {"finalizers": ["b", "a"]}}),
        );
        check(
            json!({"metadata": {}}),
            json!({"metadata": {"$deleteFromPrimitiveList/finalizers": ["b"]}}),
            json!({"metadata": {}}),
        );
        // Atomic lists are replaced.
        check(
            containers(json!([{"name": "a", "args": ["1", "2"]}])),
            containers(json!([{"name": "a", "args": ["3"]}])),
            containers(json!([{"name": "a", "args": ["3"]}])),
        );
        // The merge key of ports is the container port.
        check(
            containers(json!([{"name": "a", "ports": [{"containerPort": 80, "protocol": "TCP"}]}])),
            containers(json!([{"name": "a", "ports": [{"containerPort": 80, "name": "web"}]}])),
            containers(json!([{"name": "a", "ports": [{"containerPort": 80, "protocol": "TCP", "name": "web"}]}])),
        );
    }

    #[test]
    fn directives_in_objects() {
        let labels = |v: Value| json!({"metadata": {"labels": v}});
        check(labels(json!({"a": "1"})), labels(json!({"b": "2"})), labels(json!({"a": "1", "b": "2"})));
        check(labels(json!({"a": "1"})), labels(json!({"b": "2", "$patch": "replace"})), labels(json!({"b": "2"})));
        check(labels(json!({"a": "1"})), labels(json!({"$patch": "delete"})), labels(json!({})));
        check(labels(json!({"a": "1"})), labels(json!({"a": null, "x": null})), labels(json!({})));
        check(labels(json!({"a": "1"})), json!({"metadata": {"labels": null}}), json!({"metadata": {}}));
        // An object with a directive that meets nothing is none.
        check(json!({"metadata": {}}), labels(json!({"b": "2", "$patch": "replace"})), json!({"metadata": {}}));
        let volumes = |v: Value| json!({"spec": {"volumes": [v]}});
        check(
            volumes(json!({"name": "v", "emptyDir": {}})),
            volumes(json!({"name": "v", "$retainKeys": ["name", "hostPath"], "hostPath": {"path": "/x"}})),
            volumes(json!({"name": "v", "hostPath": {"path": "/x"}})),
        );
        // What meets nothing is taken without nulls and directives.
        check(
            json!({"spec": {}}),
            json!({"spec": {"containers": [{"name": "a", "args": null}, {"name": "b", "$patch": "delete"}]}}),
            containers(json!([{"name": "a"}])),
        );
    }

    #[test]
    fn malformed_patches_get_upstreams_errors() {
        let two = || containers(json!([{"name": "a"}, {"name": "b"}]));
        refused(
            two(),
            containers(json!([{"image": "x"}])),
            500,
            "map: map[image:x] does not contain declared merge key: name",
        );
        refused(
            two(),
            json!({"spec": {"$patch": "merge"}}),
            500,
            "unknown patch type: merge in map: map[$patch:merge]",
        );
        refused(
            two(),
            containers(json!([{"name": "a", "$patch": "merge"}])),
            500,
            "merging lists cannot yet be specified in the patch",
        );
        refused(
            two(),
            json!({"spec": {"$retainKeys": ["a"], "containers": []}}),
            400,
            "invalid patch format of retainKeys",
        );
        refused(two(), json!({"spec": {"$setElementOrder": []}}), 400, "invalid patch format of setElementOrder list");
        refused(
            two(),
            json!({"spec": {"$deleteFromPrimitiveList": []}}),
            400,
            "invalid patch format of primitive list",
        );
        refused(
            two(),
            json!({"spec": {"$setElementOrder/containers": "x"}}),
            500,
            "expected a []interface {}, but received a string",
        );
        refused(
            two(),
            json!({"spec": {
                "$setElementOrder/containers": [{"name": "b"}],
                "containers": [{"name": "c"}],
            }}),
            500,
            "The order in patch list:\n[map[name:c]]\n doesn't match $setElementOrder list:\n[map[name:b]]\n",
        );
        refused(two(), json!([1]), 400, "json: cannot unmarshal array into Go value of type map[string]interface {}");
        refused(
            two(),
            containers(json!(["x"])),
            500,
            "list element types are not identical: [[map[name:a] map[name:b]] [x]]",
        );
        refused(
            containers(json!([[1]])),
            containers(json!([[2]])),
            422,
            "the server rejected our request due to an error in our request",
        );
    }

    #[test]
    fn values_of_a_wrong_type_get_upstreams_texts() {
        let check = |value: Value, want: Option<&str>| {
            assert_eq!(type_problem(node("apps/v1.Deployment"), &value).as_deref(), want, "{value}");
        };
        check(json!({"spec": {"replicas": 1, "paused": true, "unknown": 1}}), None);
        check(json!({"spec": {"replicas": "x"}}), Some("unrecognized type: int32"));
        check(json!({"spec": {"replicas": 1.5}}), Some("cannot convert float64 to int32"));
        check(json!({"spec": {"paused": "x"}}), Some("unrecognized type: bool"));
        check(json!({"spec": []}), Some("cannot restore struct from: slice"));
        check(json!({"metadata": {"labels": "x"}}), Some("cannot restore map from string"));
        check(json!({"metadata": {"labels": {"a": 1}}}), Some("cannot convert int64 to string"));
        check(json!({"metadata": {"labels": {"a": true}}}), Some("unrecognized type: string"));
        check(json!({"metadata": {"finalizers": {}}}), Some("cannot restore slice from map"));
    }

    proptest! {
        #[test]
        fn nothing_panics(target in any_json(), patch in any_json(), key in "(containers|volumes|finalizers|x)") {
            let _ = patched(&target, patch.clone());
            let parent = if key == "finalizers" { "metadata" } else { "spec" };
            let target = json!({parent: {key.clone(): target}});
            let order = format!("$setElementOrder/{key}");
            let delete = format!("$deleteFromPrimitiveList/{key}");
            let _ = patched(&target, json!({parent: {key.clone(): patch.clone()}}));
            let _ = patched(&target, json!({parent: {order: patch.clone(), key: patch.clone()}}));
            let _ = patched(&target, json!({parent: {delete: patch}}));
        }
    }
}
