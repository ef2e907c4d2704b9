//! Versions and schemas of definitions as errors show them: upstream validates an internal form without JSON tags, in
//! which what all versions have in common stands above them.
//!
//! Upstream: `pkg/apis/apiextensions/{types,types_jsonschema}.go` of `k8s.io/apiextensions-apiserver`.

use serde_json::Value;

use crate::codec::json::to_string;
use crate::field::{Shown, quote};
use crate::object::at;
use crate::validate::internal::{self, Fields, Go};

const SCALE: Fields = &[
    ("specReplicasPath", "SpecReplicasPath", Go::Text),
    ("statusReplicasPath", "StatusReplicasPath", Go::Text),
    ("labelSelectorPath", "LabelSelectorPath", Go::Nil),
];
const SUBRESOURCES: Fields = &[("status", "Status", Go::Nil), ("scale", "Scale", Go::Struct(SCALE))];
const COLUMN: Fields = &[
    ("name", "Name", Go::Text),
    ("type", "Type", Go::Text),
    ("format", "Format", Go::Text),
    ("description", "Description", Go::Text),
    ("priority", "Priority", Go::Zero),
    ("jsonPath", "JSONPath", Go::Text),
];
const SELECTABLE: Fields = &[("jsonPath", "JSONPath", Go::Text)];

/// `apiextensions.ValidationRule`.
pub(super) const RULE: Fields = &[
    ("rule", "Rule", Go::Text),
    ("message", "Message", Go::Text),
    ("messageExpression", "MessageExpression", Go::Text),
    ("reason", "Reason", Go::Nil),
    ("fieldPath", "FieldPath", Go::Text),
    ("optionalOldSelf", "OptionalOldSelf", Go::Nil),
];

/// How a field of a schema is shown.
enum Field {
    /// A text, a number, a list of these, or anything that is JSON on both sides; the text is the zero value.
    Plain(&'static str),
    /// A schema.
    One,
    /// A list of schemas.
    Many,
    /// Schemas by their name.
    Named,
    /// A schema or a list of schemas.
    OneOrMany,
    /// A schema or a boolean.
    OneOrBool,
    /// Structs of a fixed form, in a list or alone.
    Structs(Fields),
}

const TEXT: Field = Field::Plain("\"\"");
const FALSE: Field = Field::Plain("false");
const NIL: Field = Field::Plain("null");

/// The fields of `apiextensions.JSONSchemaProps`: in JSON, in Go, and their form.
const SCHEMA: &[(&str, &str, Field)] = &[
    ("id", "ID", TEXT),
    ("$schema", "Schema", TEXT),
    ("$ref", "Ref", NIL),
    ("description", "Description", TEXT),
    ("type", "Type", TEXT),
    ("nullable", "Nullable", FALSE),
    ("format", "Format", TEXT),
    ("title", "Title", TEXT),
    ("default", "Default", NIL),
    ("maximum", "Maximum", NIL),
    ("exclusiveMaximum", "ExclusiveMaximum", FALSE),
    ("minimum", "Minimum", NIL),
    ("exclusiveMinimum", "ExclusiveMinimum", FALSE),
    ("maxLength", "MaxLength", NIL),
    ("minLength", "MinLength", NIL),
    ("pattern", "Pattern", TEXT),
    ("maxItems", "MaxItems", NIL),
    ("minItems", "MinItems", NIL),
    ("uniqueItems", "UniqueItems", FALSE),
    ("multipleOf", "MultipleOf", NIL),
    ("enum", "Enum", NIL),
    ("maxProperties", "MaxProperties", NIL),
    ("minProperties", "MinProperties", NIL),
    ("required", "Required", NIL),
    ("items", "Items", Field::OneOrMany),
    ("allOf", "AllOf", Field::Many),
    ("oneOf", "OneOf", Field::Many),
    ("anyOf", "AnyOf", Field::Many),
    ("not", "Not", Field::One),
    ("properties", "Properties", Field::Named),
    ("additionalProperties", "AdditionalProperties", Field::OneOrBool),
    ("patternProperties", "PatternProperties", Field::Named),
    ("dependencies", "Dependencies", NIL),
    ("additionalItems", "AdditionalItems", Field::OneOrBool),
    ("definitions", "Definitions", Field::Named),
    (
        "externalDocs",
        "ExternalDocs",
        Field::Structs(&[("description", "Description", Go::Text), ("url", "URL", Go::Text)]),
    ),
    ("example", "Example", NIL),
    ("x-kubernetes-preserve-unknown-fields", "XPreserveUnknownFields", NIL),
    ("x-kubernetes-embedded-resource", "XEmbeddedResource", FALSE),
    ("x-kubernetes-int-or-string", "XIntOrString", FALSE),
    ("x-kubernetes-list-map-keys", "XListMapKeys", NIL),
    ("x-kubernetes-list-type", "XListType", NIL),
    ("x-kubernetes-map-type", "XMapType", NIL),
    ("x-kubernetes-validations", "XValidations", Field::Structs(RULE)),
];

/// A schema.
pub(super) fn schema(v: &Value) -> Shown {
    Shown::raw(schema_text(v))
}

/// The versions of a definition; the fields named in `above` stand above them.
pub(super) fn versions(list: &Value, above: &[&str]) -> Shown {
    let one = |v: &Value| {
        let part = |name: &str| if above.contains(&name) { &Value::Null } else { at(v, &[name]) };
        let flag = |name: &str| at(v, &[name]).as_bool().unwrap_or_default();
        let structs = |name: &str, fields: Fields| match part(name) {
            Value::Null => "null".to_owned(),
            value @ Value::Array(_) => internal::shown_list(fields, value).text().to_owned(),
            value => internal::shown(fields, value).text().to_owned(),
        };
        let schema = match part("schema") {
            Value::Null => "null".to_owned(),
            schema => format!("{{\"OpenAPIV3Schema\":{}}}", or_null(at(schema, &["openAPIV3Schema"]))),
        };
        format!(
            "{{\"Name\":{},\"Served\":{},\"Storage\":{},\"Deprecated\":{},\"DeprecationWarning\":{},\"Schema\":{schema},\
             \"Subresources\":{},\"AdditionalPrinterColumns\":{},\"SelectableFields\":{}}}",
            quote(at(v, &["name"]).as_str().unwrap_or_default()),
            flag("served"),
            flag("storage"),
            flag("deprecated"),
            to_string(at(v, &["deprecationWarning"])),
            structs("subresources", SUBRESOURCES),
            structs("additionalPrinterColumns", COLUMN),
            structs("selectableFields", SELECTABLE),
        )
    };
    Shown::raw(match list.as_array() {
        Some(list) => format!("[{}]", list.iter().map(one).collect::<Vec<_>>().join(",")),
        None => "null".into(),
    })
}

fn or_null(v: &Value) -> String {
    if v.is_object() { schema_text(v) } else { "null".into() }
}

fn many(v: &Value) -> String {
    match v.as_array() {
        Some(list) => format!("[{}]", list.iter().map(schema_text).collect::<Vec<_>>().join(",")),
        None => "null".into(),
    }
}

fn schema_text(v: &Value) -> String {
    let field = |(json, go, form): &(&str, &str, Field)| {
        let value = at(v, &[json]);
        let shown = match form {
            Field::Plain(zero) if value.is_null() => (*zero).to_owned(),
            Field::Plain(_) => to_string(value),
            Field::One => or_null(value),
            Field::Many => many(value),
            Field::Named => match value.as_object() {
                Some(map) => {
                    let named = |(name, v): (&String, &Value)| format!("{}:{}", quote(name), schema_text(v));
                    format!("{{{}}}", map.iter().map(named).collect::<Vec<_>>().join(","))
                }
                None => "null".into(),
            },
            Field::OneOrMany if value.is_null() => "null".into(),
            Field::OneOrMany => format!("{{\"Schema\":{},\"JSONSchemas\":{}}}", or_null(value), many(value)),
            Field::OneOrBool if value.is_null() => "null".into(),
            Field::OneOrBool => {
                let allows = value.as_bool().unwrap_or(true);
                format!("{{\"Allows\":{allows},\"Schema\":{}}}", or_null(value))
            }
            Field::Structs(_) if value.is_null() => "null".into(),
            Field::Structs(fields) if value.is_array() => internal::shown_list(fields, value).text().to_owned(),
            Field::Structs(fields) => internal::shown(fields, value).text().to_owned(),
        };
        format!("{}:{shown}", quote(go))
    };
    format!("{{{}}}", SCHEMA.iter().map(field).collect::<Vec<_>>().join(","))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn versions_are_shown_with_all_their_fields() {
        let list = json!([{"name": "v1", "served": true, "schema": {}, "subresources": {"status": {}},
            "selectableFields": [{"jsonPath": ".spec.a"}]}]);
        let start = r#"[{"Name":"v1","Served":true,"Storage":false,"Deprecated":false,"DeprecationWarning":null,"#;
        assert_eq!(
            versions(&list, &["schema"]).text(),
            format!(
                "{start}{}",
                r#""Schema":null,"Subresources":{"Status":{},"Scale":null},"AdditionalPrinterColumns":null,"SelectableFields":[{"JSONPath":".spec.a"}]}]"#
            )
        );
        assert_eq!(
            versions(&list, &["subresources", "selectableFields"]).text(),
            format!(
                "{start}{}",
                r#""Schema":{"OpenAPIV3Schema":null},"Subresources":null,"AdditionalPrinterColumns":null,"SelectableFields":null}]"#
            )
        );
        assert_eq!(versions(&Value::Null, &[]).text(), "null");
    }

    #[test]
    fn schemas_are_shown_with_all_their_fields() {
        let shown = schema(&json!({"type": "object", "additionalProperties": true,
            "properties": {"a": {"type": "array", "items": {"type": "string"}}}}));
        let text = shown.text();
        for part in [
            r#"{"ID":"","Schema":"","Ref":null,"Description":"","Type":"object","Nullable":false,"#,
            r#""AdditionalProperties":{"Allows":true,"Schema":null}"#,
            r#""Properties":{"a":{"ID":"","#,
            r#""Items":{"Schema":{"ID":"","#,
            r#""XListType":null,"XMapType":null,"XValidations":null}"#,
        ] {
            assert!(text.contains(part), "{part} is not in {text}");
        }
        assert!(serde_json::from_str::<Value>(text).is_ok_and(|v| v.as_object().is_some_and(|m| m.len() == 44)));
    }
}
