//! The protobuf form of OpenAPI v3: `openapi.v3.Document` of `google/gnostic-models`, by its field numbers.
//!
//! Upstream makes it of the JSON (`kube-openapi/pkg/handler3`), and so is it here.

use serde_json::Value;

use super::gnostic::{Message, each, inside};

/// Writes a document as protobuf.
pub fn protobuf(document: &Value) -> Vec<u8> {
    let mut out = Message::default();
    out.text(1, document.get("openapi"));
    let mut info = Message::default();
    info.text(1, document["info"].get("title"));
    info.text(6, document["info"].get("version"));
    out.message(2, &info);
    out.message(4, &named(document.get("paths"), path_item));
    let components = &document["components"];
    let mut parts = Message::default();
    parts.message(1, &named(components.get("schemas"), schema_or_reference));
    parts.message(7, &named(components.get("securitySchemes"), |v| inside(1, &security_scheme(v))));
    out.message(5, &parts);
    out.0
}

/// A map: its entries are the field 1.
fn named(map: Option<&Value>, message: impl Fn(&Value) -> Message) -> Message {
    let mut out = Message::default();
    for (name, value) in map.and_then(Value::as_object).into_iter().flatten() {
        out.named(1, name, &message(value));
    }
    out
}

/// One of the many `XOrReference`: the thing itself, or where it is.
fn or_reference(value: &Value, message: impl Fn(&Value) -> Message) -> Message {
    match value.get("$ref") {
        Some(reference) => {
            let mut inner = Message::default();
            inner.text(1, Some(reference));
            inside(2, &inner)
        }
        None => inside(1, &message(value)),
    }
}

fn schema_or_reference(value: &Value) -> Message {
    or_reference(value, schema)
}

fn security_scheme(value: &Value) -> Message {
    let mut out = Message::default();
    for (number, field) in [(1, "type"), (2, "description"), (3, "name"), (4, "in")] {
        out.text(number, value.get(field));
    }
    out
}

fn path_item(value: &Value) -> Message {
    const METHODS: [(u32, &str); 7] =
        [(4, "get"), (5, "put"), (6, "post"), (7, "delete"), (8, "options"), (9, "head"), (10, "patch")];
    let mut out = Message::default();
    for (number, method) in METHODS {
        if let Some(value) = value.get(method) {
            out.message(number, &operation(value));
        }
    }
    each(&mut out, 13, value.get("parameters"), |v| or_reference(v, parameter));
    out
}

fn operation(value: &Value) -> Message {
    let mut out = Message::default();
    let Some(map) = value.as_object() else { return out };
    let at = |key: &str| map.get(key);
    out.texts(1, at("tags"));
    out.text(3, at("description"));
    out.text(5, at("operationId"));
    each(&mut out, 6, at("parameters"), |v| or_reference(v, parameter));
    if let Some(body) = at("requestBody") {
        out.message(7, &or_reference(body, request_body));
    }
    let mut responses = Message::default();
    for (code, value) in at("responses").and_then(Value::as_object).into_iter().flatten() {
        let value = or_reference(value, response);
        if code == "default" { responses.message(1, &value) } else { responses.named(2, code, &value) }
    }
    out.message(8, &responses);
    out.flag(10, at("deprecated"));
    out.extensions(13, map);
    out
}

fn parameter(value: &Value) -> Message {
    let mut out = Message::default();
    out.text(1, value.get("name"));
    out.text(2, value.get("in"));
    out.text(3, value.get("description"));
    out.flag(4, value.get("required"));
    if let Some(inner) = value.get("schema") {
        out.message(10, &schema_or_reference(inner));
    }
    out
}

fn media_types(content: Option<&Value>) -> Message {
    named(content, |value| {
        let mut out = Message::default();
        if let Some(inner) = value.get("schema") {
            out.message(1, &schema_or_reference(inner));
        }
        out
    })
}

fn request_body(value: &Value) -> Message {
    let mut out = Message::default();
    out.text(1, value.get("description"));
    out.message(2, &media_types(value.get("content")));
    out.flag(3, value.get("required"));
    out
}

fn response(value: &Value) -> Message {
    let mut out = Message::default();
    out.text(1, value.get("description"));
    if value.get("content").is_some() {
        out.message(3, &media_types(value.get("content")));
    }
    out
}

fn schema(value: &Value) -> Message {
    let mut out = Message::default();
    let Some(map) = value.as_object() else { return out };
    let at = |key: &str| map.get(key);
    out.flag(1, at("nullable"));
    out.flag(3, at("readOnly"));
    out.any(7, at("example"));
    out.flag(8, at("deprecated"));
    out.text(9, at("title"));
    out.double(10, at("multipleOf"));
    out.double(11, at("maximum"));
    out.flag(12, at("exclusiveMaximum"));
    out.double(13, at("minimum"));
    out.flag(14, at("exclusiveMinimum"));
    out.integer(15, at("maxLength"));
    out.integer(16, at("minLength"));
    out.text(17, at("pattern"));
    out.integer(18, at("maxItems"));
    out.integer(19, at("minItems"));
    out.flag(20, at("uniqueItems"));
    out.integer(21, at("maxProperties"));
    out.integer(22, at("minProperties"));
    out.texts(23, at("required"));
    out.anys(24, at("enum"));
    out.text(25, at("type"));
    for (number, field) in [(26, "allOf"), (27, "oneOf"), (28, "anyOf")] {
        each(&mut out, number, at(field), schema_or_reference);
    }
    if let Some(inner) = at("not") {
        out.message(29, &schema(inner));
    }
    if let Some(items) = at("items") {
        out.message(30, &inside(1, &schema_or_reference(items)));
    }
    if at("properties").is_some() {
        out.message(31, &named(at("properties"), schema_or_reference));
    }
    match at("additionalProperties") {
        Some(Value::Bool(value)) => {
            let mut item = Message::default();
            item.0.extend_from_slice(&[2 << 3, u8::from(*value)]);
            out.message(32, &item);
        }
        Some(inner) => out.message(32, &inside(1, &schema_or_reference(inner))),
        None => {}
    }
    if let Some(value) = at("default") {
        out.message(33, &default_type(value));
    }
    out.text(34, at("description"));
    out.text(35, at("format"));
    out.extensions(36, map);
    out
}

/// `DefaultType`: a number, flag or text, also those that are zero; of anything else only that it is there.
fn default_type(value: &Value) -> Message {
    let mut out = Message::default();
    match value {
        Value::Number(number) => {
            out.0.push(1 << 3 | 1);
            out.0.extend_from_slice(&number.as_f64().unwrap_or_default().to_le_bytes());
        }
        Value::Bool(flag) => out.0.extend_from_slice(&[2 << 3, u8::from(*flag)]),
        Value::String(text) => out.bytes(3, text.as_bytes()),
        _ => {}
    }
    out
}
