//! What OpenAPI says of a custom resource: the schema of the definition, with what every object has. (v2 is made of v3 by
//! [`crate::schema::openapi::v2`].)
//!
//! Upstream: `pkg/controller/openapi/builder/builder.go` of `k8s.io/apiextensions-apiserver`.

use serde_json::{Value, json};

use crate::Map;
use crate::schema::Type;
use crate::schema::openapi::{self, describe};

/// The v3 schema of objects from the one of the definition; any object where there is none.
pub(super) fn schema(of_definition: &Value) -> Value {
    if !of_definition.is_object() {
        return json!({"type": "object"});
    }
    let mut schema = of_definition.clone();
    add(&mut schema, true);
    schema
}

fn add(schema: &mut Value, root: bool) {
    let Some(map) = schema.as_object_mut() else { return };
    if let Some(Value::Object(properties)) = map.get_mut("properties") {
        properties.values_mut().for_each(|property| add(property, false));
    }
    for part in ["items", "additionalProperties"] {
        if let Some(part) = map.get_mut(part) {
            add(part, false);
        }
    }
    if root || map.get("x-kubernetes-embedded-resource") == Some(&Value::Bool(true)) {
        let properties = map.entry("properties").or_insert_with(|| Value::Object(Map::new()));
        if let Value::Object(properties) = properties {
            for (name, property) in of_every_object() {
                properties.insert(name.to_owned(), property);
            }
        }
    }
}

fn of_every_object() -> Vec<(&'static str, Value)> {
    let meta = |kind: &str| Type::named(&format!("k8s.io/apimachinery/pkg/apis/meta/v1.{kind}"));
    let object_meta = meta("ObjectMeta").map(openapi::name).unwrap_or_default();
    let reference = format!("#/components/schemas/{object_meta}");
    let mut all = vec![
        ("apiVersion", json!({"type": "string"})),
        ("kind", json!({"type": "string"})),
        ("metadata", json!({"allOf": [{"$ref": reference}]})),
    ];
    if let Some(ty) = meta("PartialObjectMetadata") {
        all.iter_mut().for_each(|(name, property)| describe::set(property, describe::field(ty, name)));
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn objects_have_a_kind_and_metadata() {
        let of_definition = json!({"type": "object", "description": "d", "properties": {
            "metadata": {"type": "object", "properties": {"name": {"type": "string", "maxLength": 3}}},
            "spec": {"type": "object", "properties": {
                "e": {"type": "object", "x-kubernetes-embedded-resource": true, "x-kubernetes-preserve-unknown-fields": true}}}}});
        let made = schema(&of_definition);
        let reference = json!([{"$ref": "#/components/schemas/io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta"}]);
        assert_eq!(made["description"], "d");
        assert_eq!(made["properties"]["metadata"]["allOf"], reference);
        assert!(made["properties"]["metadata"].get("properties").is_none());
        let embedded = &made["properties"]["spec"]["properties"]["e"]["properties"];
        assert_eq!(embedded["metadata"]["allOf"], reference);
        assert_eq!(embedded["kind"]["type"], "string");
        assert!(made["properties"]["spec"]["properties"].get("kind").is_none());
        assert_eq!(schema(&Value::Null), json!({"type": "object"}));
    }
}
