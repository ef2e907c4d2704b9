//! What differs between two objects: the fields added, modified and removed.
//!
//! Follows `structured-merge-diff/typed/compare.go`, for objects that upstream reads from Go structs: see
//! [`super::walk::zero`].

use std::collections::BTreeMap;

use serde_json::Value;

use super::path::{PathElement, equal};
use super::set::Set;
use super::walk::{Shape, child, is_empty, list_element, shape, zero};
use crate::Map;
use crate::schema::{ListType, Node, NodeKind};

/// The differences between an old and a new object.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Comparison {
    /// Fields of the old object only.
    pub removed: Set,
    /// Fields of both with different values.
    pub modified: Set,
    /// Fields of the new object only.
    pub added: Set,
}

impl Comparison {
    /// Whether the objects are the same.
    pub fn is_same(&self) -> bool {
        self.removed.is_empty() && self.modified.is_empty() && self.added.is_empty()
    }

    /// Without the fields of a set and what is below them.
    pub fn without(self, ignored: &Set) -> Self {
        if ignored.is_empty() {
            return self;
        }
        Comparison {
            removed: self.removed.recursive_difference(ignored),
            modified: self.modified.recursive_difference(ignored),
            added: self.added.recursive_difference(ignored),
        }
    }
}

/// Compares two objects of one schema. `metadata.managedFields` is left out.
pub fn compare(node: Node<'_>, old: &Value, new: &Value) -> Comparison {
    let mut out = Diff::default();
    match (shape(Some(node)), old, new) {
        (Shape::Object(node), Value::Object(old), Value::Object(new)) => {
            object(node, Some(old), Some(new), &mut out, true);
        }
        _ => walk(Some(node), Some(old), Some(new), &mut out),
    }
    Comparison { removed: out.removed.below, modified: out.modified.below, added: out.added.below }
}

/// One kind of difference at one place.
#[derive(Default)]
struct Part {
    /// The value at this place differs so.
    here: bool,
    /// What differs so below.
    below: Set,
}

#[derive(Default)]
struct Diff {
    removed: Part,
    modified: Part,
    added: Part,
}

impl Diff {
    /// A leaf, or whatever is compared like one.
    fn leaf(&mut self, old: Option<&Value>, new: Option<&Value>) {
        match (old, new) {
            (None, _) => self.added.here = true,
            (_, None) => self.removed.here = true,
            (Some(old), Some(new)) => self.modified.here |= !equal(old, new),
        }
    }

    /// Takes over the differences found below.
    fn take(&mut self, below: Diff, element: impl Fn() -> PathElement) {
        self.removed.below.push(&element, below.removed.here, below.removed.below);
        self.modified.below.push(&element, below.modified.here, below.modified.below);
        self.added.below.push(&element, below.added.here, below.added.below);
    }
}

/// At least one of the two is there.
fn walk(node: Option<Node<'_>>, old: Option<&Value>, new: Option<&Value>, out: &mut Diff) {
    let fits = |value: Option<&Value>, is: fn(&Value) -> bool| value.is_none_or(|v| v.is_null() || is(v));
    match shape(node) {
        Shape::Object(node) if fits(old, Value::is_object) && fits(new, Value::is_object) => {
            let (old_map, new_map) = (old.and_then(Value::as_object), new.and_then(Value::as_object));
            let empty = |map: Option<&Map>| map.is_none_or(|map| is_empty(node, map));
            if empty(old_map) && empty(new_map) {
                return out.leaf(old, new);
            }
            object(node, old_map, new_map, out, false);
        }
        Shape::List(node, list_type) if fits(old, Value::is_array) && fits(new, Value::is_array) => {
            if slice(old).is_empty() && slice(new).is_empty() {
                return out.leaf(old, new);
            }
            if old == new {
                return;
            }
            elements(node, list_type, slice(old), slice(new), out);
        }
        _ => return out.leaf(old, new),
    }
    // An object or list that is there on one side only counts itself.
    out.added.here |= old.is_none();
    out.removed.here |= new.is_none();
}

fn slice(value: Option<&Value>) -> &[Value] {
    value.and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

fn object(node: Node<'_>, old: Option<&Map>, new: Option<&Map>, out: &mut Diff, root: bool) {
    let is_struct = node.kind() == NodeKind::Struct;
    let mut visit = |key: &str, field: Option<Node<'_>>, mut a: Option<&Value>, mut b: Option<&Value>| {
        if is_struct && let Some(zero) = field.and_then(zero) {
            // On a side that is there, a field of its struct is there too.
            a = a.or(old.map(|_| zero));
            b = b.or(new.map(|_| zero));
        }
        // Most writes leave the whole status or the whole spec as it is.
        if a.is_none() && b.is_none() || root && a == b {
            return;
        }
        let mut below = Diff::default();
        if root && key == "metadata" {
            metadata(field, a, b, &mut below);
        } else {
            walk(field, a, b, &mut below);
        }
        out.take(below, || PathElement::field(key));
    };
    let field = |key: &str| child(node, key);
    let get = |map: Option<&'_ Map>, key: &str| map.is_some_and(|map| map.contains_key(key));
    let mut left = old.into_iter().flatten().peekable();
    let mut right = new.into_iter().flatten().peekable();
    loop {
        match (left.peek(), right.peek()) {
            (None, None) => break,
            (Some((a, _)), Some((b, _))) if a == b => {
                if let (Some((key, a)), Some((_, b))) = (left.next(), right.next()) {
                    visit(key, field(key), Some(a), Some(b));
                }
            }
            (Some((a, _)), b) if b.is_none_or(|(b, _)| a < b) => {
                if let Some((key, value)) = left.next() {
                    visit(key, field(key), Some(value), None);
                }
            }
            _ => {
                if let Some((key, value)) = right.next() {
                    visit(key, field(key), None, Some(value));
                }
            }
        }
    }
    // Where one side has no such object, also the fields that neither writes are added or removed.
    if is_struct && old.is_some() != new.is_some() {
        for (key, field) in node.fields() {
            if !get(old, key) && !get(new, key) {
                visit(key, Some(field), None, None);
            }
        }
    }
}

/// The metadata of the object itself, without the managed fields.
fn metadata(node: Option<Node<'_>>, old: Option<&Value>, new: Option<&Value>, out: &mut Diff) {
    let (Some(Value::Object(old)), Some(Value::Object(new)), Shape::Object(node)) = (old, new, shape(node)) else {
        return walk(node, old, new, out);
    };
    let mut below = Diff::default();
    object(node, Some(old), Some(new), &mut below, false);
    let managed = Set::of_fields([&["managedFields"][..]]);
    for (to, from) in
        [(&mut out.removed, below.removed), (&mut out.modified, below.modified), (&mut out.added, below.added)]
    {
        to.below = if from.below.is_empty() { from.below } else { from.below.recursive_difference(&managed) };
    }
}

/// The elements of two lists, by name. Elements that cannot be named are not compared.
fn elements(node: Node<'_>, list_type: ListType<'_>, old: &[Value], new: &[Value], out: &mut Diff) {
    let mut by_name: BTreeMap<PathElement, (Vec<&Value>, Vec<&Value>)> = BTreeMap::new();
    for item in old {
        if let Ok(element) = list_element(node, list_type, item) {
            by_name.entry(element).or_default().0.push(item);
        }
    }
    for item in new {
        if let Ok(element) = list_element(node, list_type, item) {
            by_name.entry(element).or_default().1.push(item);
        }
    }
    for (element, (old, new)) in by_name {
        let mut below = Diff::default();
        match (old.as_slice(), new.as_slice()) {
            ([] | [_], [] | [_]) => walk(node.items(), old.first().copied(), new.first().copied(), &mut below),
            // A name that stands for several elements is one value.
            ([_, _, ..], [_, _, ..]) => {
                below.modified.here = old.len() != new.len() || !old.iter().zip(&new).all(|(a, b)| equal(a, b));
            }
            ([_, _, ..], _) => {
                if let Some(new) = new.first() {
                    walk(node.items(), None, Some(new), &mut below);
                }
                below.removed.here = true;
            }
            _ => {
                if let Some(old) = old.first() {
                    walk(node.items(), Some(old), None, &mut below);
                }
                below.added.here = true;
            }
        }
        out.take(below, || element.clone());
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::patch::testing::node;

    #[track_caller]
    fn check(ty: &str, old: Value, new: Value, removed: Value, modified: Value, added: Value) {
        let got = compare(node(ty), &old, &new);
        assert_eq!(got.removed.to_value(), removed, "removed");
        assert_eq!(got.modified.to_value(), modified, "modified");
        assert_eq!(got.added.to_value(), added, "added");
        let back = compare(node(ty), &new, &old);
        assert_eq!((&back.removed, &back.modified, &back.added), (&got.added, &got.modified, &got.removed));
    }

    fn pod(spec: Value) -> Value {
        json!({"metadata": {"name": "p"}, "spec": spec})
    }

    #[test]
    fn leaves_lists_and_maps() {
        check(
            "core/v1.Pod",
            pod(json!({"hostname": "a", "nodeSelector": {"x": "1"}, "tolerations": [{"key": "a"}]})),
            pod(json!({"hostname": "b", "nodeSelector": {"x": "2"}, "tolerations": [{"key": "a"}], "priority": 1})),
            json!({}),
            json!({"f:spec": {"f:hostname": {}, "f:nodeSelector": {}}}),
            json!({"f:spec": {"f:priority": {}}}),
        );
        check(
            "core/v1.Pod",
            json!({"metadata": {"labels": {"a": "1", "b": "1"}, "finalizers": ["x"]}}),
            json!({"metadata": {"labels": {"a": "2"}, "finalizers": ["x", "y"], "annotations": {"n": ""}}}),
            json!({"f:metadata": {"f:labels": {"f:b": {}}}}),
            json!({"f:metadata": {"f:labels": {"f:a": {}}}}),
            json!({"f:metadata": {"f:finalizers": {"v:\"y\"": {}}, "f:annotations": {".": {}, "f:n": {}}}}),
        );
    }

    #[test]
    fn a_new_element_has_the_fields_that_go_always_writes() {
        check(
            "core/v1.Pod",
            pod(json!({"containers": [{"name": "a", "image": "i", "resources": {}}]})),
            pod(json!({"containers": [
                {"name": "a", "image": "i"},
                {"name": "b", "image": "i", "ports": [{"containerPort": 80}], "securityContext": {}},
            ]})),
            json!({}),
            json!({}),
            json!({"f:spec": {"f:containers": {"k:{\"name\":\"b\"}": {
                ".": {}, "f:name": {}, "f:image": {}, "f:resources": {}, "f:securityContext": {},
                "f:ports": {".": {}, "k:{\"containerPort\":80,\"protocol\":\"TCP\"}": {".": {}, "f:containerPort": {}}},
            }}}}),
        );
    }

    #[test]
    fn elements_of_one_name_are_one_value() {
        let list = |images: &[&str]| {
            let list: Vec<Value> = images.iter().map(|i| json!({"name": "c", "image": i})).collect();
            pod(json!({"containers": list}))
        };
        let c = |below: Value| json!({"f:spec": {"f:containers": {"k:{\"name\":\"c\"}": below}}});
        check("core/v1.Pod", list(&["1", "2"]), list(&["1", "2"]), json!({}), json!({}), json!({}));
        check("core/v1.Pod", list(&["1", "2"]), list(&["1", "3"]), json!({}), c(json!({})), json!({}));
        let whole = json!({".": {}, "f:name": {}, "f:image": {}, "f:resources": {}});
        check("core/v1.Pod", list(&["1", "2"]), list(&["1"]), c(json!({})), json!({}), c(whole));
    }

    #[test]
    fn managed_fields_are_left_out() {
        let with = |v: Value| json!({"metadata": {"managedFields": v, "labels": {"a": "b"}}});
        check("core/v1.Pod", with(json!([{"manager": "a"}])), with(json!([])), json!({}), json!({}), json!({}));
        check(
            "core/v1.Pod",
            with(json!([{}])),
            json!({"metadata": {"labels": {"a": "b"}}}),
            json!({}),
            json!({}),
            json!({}),
        );
    }
}
