//! What the walks over an object beside its schema have in common: how a value is taken, and what its list
//! elements are called.
//!
//! Follows `structured-merge-diff/typed/helpers.go`.

use std::sync::LazyLock;

use serde_json::Value;

use super::path::PathElement;
use crate::Map;
use crate::schema::{ListType, MapType, Node, NodeKind, ScalarType};

/// How a value at a place is taken.
#[derive(Clone, Copy, Debug)]
pub(super) enum Shape<'n> {
    /// As one value.
    Leaf,
    /// As an object merged by key.
    Object(Node<'n>),
    /// As a list whose elements are told apart.
    List(Node<'n>, ListType<'n>),
}

/// How the schema takes what stands at a place. Nothing is known of a place without a node: it is one value.
pub(super) fn shape(node: Option<Node<'_>>) -> Shape<'_> {
    let Some(node) = node else { return Shape::Leaf };
    match node.kind() {
        NodeKind::Struct | NodeKind::Map => match node.map_type() {
            MapType::Atomic => Shape::Leaf,
            MapType::Granular => Shape::Object(node),
        },
        NodeKind::List => match node.list_type() {
            ListType::Atomic => Shape::Leaf,
            keys => Shape::List(node, keys),
        },
        // In a custom resource, what the schema leaves open is merged by key as far as it has keys
        // (`x-kubernetes-preserve-unknown-fields`); in a built-in type it is one value.
        NodeKind::Any if node.builtin_type().is_none() => Shape::Object(node),
        NodeKind::Scalar(_) | NodeKind::Any => Shape::Leaf,
    }
}

/// The schema below a key of what [`shape`] takes as an object.
pub(super) fn child<'n>(node: Node<'n>, key: &str) -> Option<Node<'n>> {
    if node.kind() == NodeKind::Any { Some(node) } else { node.child(key) }
}

/// The name of a list element. Keys that it leaves out take the default of the schema (the protocol of a port).
pub(super) fn list_element(node: Node<'_>, list_type: ListType<'_>, item: &Value) -> Result<PathElement, String> {
    match list_type {
        ListType::Atomic => Err("invalid indexing of non-associative list".into()),
        ListType::Set => match item {
            Value::Object(_) => Err("associative list without keys has an element that's a map type".into()),
            Value::Array(_) => Err("not supported: associative list with lists as elements".into()),
            Value::Null => Err("associative list without keys has an element that's an explicit null".into()),
            scalar => Ok(PathElement::Value(scalar.clone())),
        },
        ListType::Map(keys) => {
            let map = match item {
                Value::Object(map) => map,
                Value::Null => return Err("associative list with keys may not have a null element".into()),
                _ => return Err("associative list with keys may not have non-map elements".into()),
            };
            let items = node.items();
            let mut found: Vec<(String, Value)> = Vec::new();
            for key in keys.iter() {
                let value = match map.get(key) {
                    Some(value) => Some(value.clone()),
                    None => items.and_then(|n| n.field(key)).and_then(|n| n.default()),
                };
                found.extend(value.map(|value| (key.to_owned(), value)));
            }
            if found.is_empty() {
                return Err(format!(
                    "associative list with keys has an element that omits all key fields [{}] (and doesn't have \
                     default values for any key fields)",
                    keys.iter().map(crate::field::quote).collect::<Vec<_>>().join(" ")
                ));
            }
            found.sort_by(|a, b| a.0.cmp(&b.0));
            Ok(PathElement::Key(found))
        }
    }
}

/// The value that Go writes for a field that was never set, for those fields that Go writes then too: structs that
/// are no pointers, and whatever is not `omitempty`. Upstream compares Go structs; where our objects leave such a
/// field out, it counts as having this value. `None` for fields that are absent when unset.
pub(super) fn zero(field: Node<'_>) -> Option<&'static Value> {
    static ZEROS: LazyLock<[Value; 6]> =
        LazyLock::new(|| [Value::Null, Value::Object(Map::new()), "".into(), 0.into(), false.into(), "0".into()]);
    let [null, object, text, number, no, quantity] = &*ZEROS;
    // A custom resource has no Go struct.
    field.builtin_type()?;
    if field.is_pointer() {
        return if field.omitempty() { None } else { Some(null) };
    }
    match field.kind() {
        NodeKind::Struct => (!field.omitzero()).then_some(object),
        NodeKind::Scalar(ScalarType::Time | ScalarType::MicroTime) => (!field.omitzero()).then_some(null),
        NodeKind::Scalar(ScalarType::Quantity) => (!field.omitzero()).then_some(quantity),
        NodeKind::Scalar(ScalarType::IntOrString) => (!field.omitzero()).then_some(number),
        _ if field.omitempty() || field.omitzero() => None,
        NodeKind::Scalar(ScalarType::String | ScalarType::Duration) => Some(text),
        NodeKind::Scalar(ScalarType::Int32 | ScalarType::Int64 | ScalarType::Float64) => Some(number),
        NodeKind::Scalar(ScalarType::Bool) => Some(no),
        NodeKind::Scalar(ScalarType::Bytes) | NodeKind::List | NodeKind::Map | NodeKind::Any => Some(null),
    }
}

/// Whether an object of this schema has no field, neither its own nor one of [`zero`].
pub(super) fn is_empty(node: Node<'_>, map: &Map) -> bool {
    map.is_empty() && node.fields().all(|(_, field)| zero(field).is_none())
}
