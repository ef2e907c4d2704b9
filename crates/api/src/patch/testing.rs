//! What the tests of this folder share.

use proptest::prelude::*;
use serde_json::Value;

use crate::schema::Node;

/// Any JSON, small, with keys that occur in the API and in patches more often than others.
pub(crate) fn any_json() -> impl Strategy<Value = Value> {
    let key = prop_oneof![
        4 => "[a-c]",
        1 => Just("name".to_owned()),
        1 => Just("spec".to_owned()),
        1 => Just("metadata".to_owned()),
        1 => Just("containers".to_owned()),
        1 => Just("$patch".to_owned()),
        1 => Just("$retainKeys".to_owned()),
        1 => Just("$setElementOrder/containers".to_owned()),
    ];
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        (-3i64..90).prop_map(Value::from),
        (-9i32..9).prop_map(|n| Value::from(f64::from(n) / 4.0)),
        "[a-c]{0,2}".prop_map(Value::from),
        Just(Value::from("delete")),
        Just(Value::from("replace")),
    ];
    leaf.prop_recursive(4, 24, 4, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::btree_map(key.clone(), inner, 0..4)
                .prop_map(|map| Value::Object(map.into_iter().collect())),
        ]
    })
}

/// The schema of a type below `k8s.io/api`, such as `core/v1.Pod`.
pub(super) fn node(ty: &str) -> Node<'static> {
    Node::named(&format!("k8s.io/api/{ty}")).expect("a type of the table")
}
