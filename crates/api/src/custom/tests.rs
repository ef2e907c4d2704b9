//! Patches, apply and managed fields of custom objects, by the code of built-in ones.

use jiff::Timestamp;
use proptest::prelude::*;
use serde_json::{Value, json};

use super::Structural;
use crate::patch::apply::{Cx, apply, update};
use crate::patch::testing::any_json;
use crate::schema::{Keys, ListType, MapType, NodeKind, ScalarType};
use crate::status::Status;

fn schema() -> Structural {
    Structural::compile(&json!({"type": "object", "properties": {
    "spec": {"type": "object", "properties": {
        "replicas": {"type": "integer"}, "size": {"x-kubernetes-int-or-string": true},
        "open": {"type": "object", "x-kubernetes-preserve-unknown-fields": true, "properties": {"known": {"type": "string"}}},
        "free": {"x-kubernetes-preserve-unknown-fields": true},
        "map": {"type": "object", "additionalProperties": {"type": "string"}},
        "whole": {"type": "object", "x-kubernetes-map-type": "atomic", "additionalProperties": {"type": "string"}},
        "set": {"type": "array", "x-kubernetes-list-type": "set", "items": {"type": "string"}},
        "plain": {"type": "array", "items": {"type": "string"}},
        "ports": {"type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["port", "protocol"],
            "items": {"type": "object", "required": ["port"], "properties": {"port": {"type": "integer"},
                "protocol": {"type": "string", "default": "TCP"}, "name": {"type": "string"}}}},
        "template": {"type": "object", "x-kubernetes-embedded-resource": true, "properties": {"spec": {"type": "object"}}},
    }}}}))
}

fn cx<'a>(schema: &'a Structural, manager: &'a str) -> Cx<'a> {
    Cx {
        node: schema.node(),
        api_version: "ex.io/v1",
        kind: "Foo",
        manager,
        subresource: None,
        reset_fields: &[],
        versions: None,
        now: Timestamp::UNIX_EPOCH,
    }
}

fn foo(spec: Value) -> Value {
    json!({"apiVersion": "ex.io/v1", "kind": "Foo", "metadata": {"name": "n"}, "spec": spec})
}

fn applied(manager: &str, live: Option<&Value>, spec: Value) -> Result<Value, Status> {
    let schema = schema();
    let mut object = apply(&cx(&schema, manager), live, &foo(spec), false)?;
    object["metadata"]["uid"] = json!("1");
    Ok(object)
}

#[test]
fn places_in_a_schema() {
    let schema = schema();
    let at = |path: &str| {
        path.split('.').fold(schema.node(), |node, part| {
            if part == "*" { node.items().or_else(|| node.values()) } else { node.child(part) }.expect(path)
        })
    };
    assert_eq!(at("spec").kind(), NodeKind::Struct);
    assert!(at("spec").child("nope").is_none());
    assert_eq!(at("spec.replicas").kind(), NodeKind::Scalar(ScalarType::Int64));
    assert_eq!(at("spec.size").kind(), NodeKind::Scalar(ScalarType::IntOrString));
    assert_eq!(at("spec.map").kind(), NodeKind::Map);
    assert_eq!(at("spec.whole").map_type(), MapType::Atomic);
    assert_eq!(at("spec.set").list_type(), ListType::Set);
    assert_eq!(at("spec.plain").list_type(), ListType::Atomic);
    assert_eq!(at("spec.ports").list_type(), ListType::Map(Keys::of(&["port", "protocol"])));
    assert_eq!(at("spec.ports.*.protocol").default(), Some(json!("TCP")));
    assert_eq!(at("spec.open.known").kind(), NodeKind::Scalar(ScalarType::String));
    assert_eq!(at("spec.open.unknown").kind(), NodeKind::Any);
    assert_eq!(at("spec.free").kind(), NodeKind::Any);
    assert_eq!(at("metadata.labels").kind(), NodeKind::Map);
    assert_eq!(at("spec.template.metadata.finalizers").list_type(), ListType::Set);
    assert_eq!(at("spec.template.kind").kind(), NodeKind::Scalar(ScalarType::String));
}

#[test]
fn managers_share_an_object() {
    let one = applied(
        "a",
        None,
        json!({"replicas": 1, "ports": [{"port": 80, "name": "web"}], "set": ["x"], "map": {"k": "1"}}),
    );
    let one = one.expect("it applies");
    let two = applied(
        "b",
        Some(&one),
        json!({"ports": [{"port": 80, "protocol": "UDP"}], "set": ["y"], "map": {"l": "2"},
        "open": {"any": {"deep": 1}}}),
    );
    let two = two.expect("it applies");
    assert_eq!(
        two["spec"],
        json!({"replicas": 1, "ports": [{"port": 80, "name": "web"}, {"port": 80, "protocol": "UDP"}], "set": ["x", "y"],
            "map": {"k": "1", "l": "2"}, "open": {"any": {"deep": 1}}})
    );
    let fields = &two["metadata"]["managedFields"][1]["fieldsV1"]["f:spec"];
    assert_eq!(fields["f:open"], json!({"f:any": {".": {}, "f:deep": {}}}));
    assert!(fields["f:ports"].get("k:{\"port\":80,\"protocol\":\"UDP\"}").is_some(), "{fields}");

    let conflict = applied("b", Some(&one), json!({"replicas": 2})).expect_err("a owns it");
    assert_eq!(conflict.message, "Apply failed with 1 conflict: conflict with \"a\": .spec.replicas");
    let gone = applied("a", Some(&two), json!({"replicas": 1})).expect("it applies");
    assert_eq!(
        gone["spec"],
        json!({"replicas": 1, "ports": [{"port": 80, "protocol": "UDP"}], "set": ["y"], "map": {"l": "2"}, "open": {"any": {"deep": 1}}})
    );
}

#[test]
fn configurations_fit_the_schema() {
    let message = |spec: Value| applied("a", None, spec).expect_err("it does not fit").message;
    let intro = "failed to create typed patch object (/n; ex.io/v1, Kind=Foo): ";
    assert_eq!(message(json!({"nope": 1})), format!("{intro}.spec.nope: field not declared in schema"));
    assert_eq!(
        message(json!({"replicas": "x"})),
        format!("{intro}.spec.replicas: expected numeric (int or float), got string")
    );
    assert_eq!(
        message(json!({"ports": [{"port": 1}, {"port": 1, "protocol": "TCP"}]})),
        format!("{intro}.spec.ports: duplicate entries for key [port=1,protocol=\"TCP\"]")
    );
}

/// What a definition may hold at most does not end the stack.
#[test]
fn deep_schemas_and_values() {
    let deep = |leaf: Value, wrap: &dyn Fn(Value) -> Value| (0..110).fold(leaf, |inner, _| wrap(inner));
    let schema = Structural::compile(&deep(
        json!({"type": "string", "default": "x", "maxLength": 0}),
        &|inner| json!({"type": "object", "properties": {"a": inner}, "x-kubernetes-validations": [{"rule": "has(self.a)"}]}),
    ));
    let mut value = deep(json!({}), &|inner| json!({"a": inner}));
    let root = schema.root();
    super::pruning::prune(&mut value, root, true);
    super::defaulting::default(&mut value, root);
    assert!(!super::validation::validate(&crate::field::Path::root(), &value, None, root).is_empty());
    super::rules::validate(schema.compiled(), &crate::field::Path::root(), &value, Some(&value), root);
    assert!(schema.size() < 20_000, "{}", schema.size());
}

/// Values that fit the schema, without empty ones: an empty value in the place of one with entries takes those away and,
/// as upstream, itself with them.
fn any_spec() -> impl Strategy<Value = Value> {
    let names = || proptest::collection::btree_set("[abc]", 1..3);
    let ports = proptest::collection::btree_map(0..3i64, "[xy]?", 1..3);
    (0..3i64, names(), names(), ports, "[a-c]").prop_map(|(replicas, set, map, ports, free)| {
        let ports: Vec<Value> = ports.iter().map(|(port, name)| json!({"port": port, "name": name})).collect();
        let map: crate::Map = map.into_iter().map(|k| (k, "1".into())).collect();
        json!({"replicas": replicas, "set": set, "map": map, "ports": ports, "open": {"x": free}})
    })
}

proptest! {
    #[test]
    fn an_apply_is_idempotent(first in any_spec(), second in any_spec()) {
        let one = applied("a", None, first).expect("it applies");
        let two = applied("a", Some(&one), second.clone()).expect("its own fields are no conflict");
        let again = applied("a", Some(&two), second).expect("once more");
        prop_assert_eq!(again, two);
    }

    #[test]
    fn nothing_panics(live in any_json(), new in any_json(), body in any_json()) {
        let schema = schema();
        let cx = cx(&schema, "a");
        let mut object = foo(new);
        update(&cx, Some(&foo(live.clone())), &mut object);
        let _ = apply(&cx, Some(&foo(live)), &foo(body), true);
    }
}
