//! The protobuf form of OpenAPI v2: `openapi.v2.Document` of `google/gnostic-models`, by its field numbers.
//!
//! `client-go`'s `OpenAPISchema()` asks for nothing else. Values of no fixed type (defaults, vendor extensions) are
//! YAML texts in it; JSON is YAML.

use serde_json::Value;

use super::v2::Piece;
use crate::Map;

/// A message being written.
#[derive(Default)]
pub(super) struct Message(pub(super) Vec<u8>);

impl Message {
    fn varint(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.0.push((value & 0x7f) as u8 | 0x80);
            value >>= 7;
        }
        self.0.push(value as u8);
    }

    pub(super) fn bytes(&mut self, number: u32, bytes: &[u8]) {
        self.varint(u64::from(number) << 3 | 2);
        self.varint(bytes.len() as u64);
        self.0.extend_from_slice(bytes);
    }

    pub(super) fn message(&mut self, number: u32, inner: &Message) {
        self.bytes(number, &inner.0);
    }

    /// A text; absent and empty are one.
    pub(super) fn text(&mut self, number: u32, value: Option<&Value>) {
        if let Some(text) = value.and_then(Value::as_str).filter(|t| !t.is_empty()) {
            self.bytes(number, text.as_bytes());
        }
    }

    pub(super) fn texts(&mut self, number: u32, value: Option<&Value>) {
        for text in value.and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str) {
            self.bytes(number, text.as_bytes());
        }
    }

    pub(super) fn flag(&mut self, number: u32, value: Option<&Value>) {
        if value.is_some_and(|v| v == true) {
            self.varint(u64::from(number) << 3);
            self.0.push(1);
        }
    }

    pub(super) fn integer(&mut self, number: u32, value: Option<&Value>) {
        if let Some(value) = value.and_then(Value::as_i64).filter(|v| *v != 0) {
            self.varint(u64::from(number) << 3);
            self.varint(value as u64);
        }
    }

    pub(super) fn double(&mut self, number: u32, value: Option<&Value>) {
        if let Some(value) = value.and_then(Value::as_f64).filter(|v| *v != 0.0) {
            self.varint(u64::from(number) << 3 | 1);
            self.0.extend_from_slice(&value.to_le_bytes());
        }
    }

    /// A value of any type: its YAML.
    pub(super) fn any(&mut self, number: u32, value: Option<&Value>) {
        if let Some(value) = value {
            self.message(number, &any(value));
        }
    }

    pub(super) fn anys(&mut self, number: u32, value: Option<&Value>) {
        for value in value.and_then(Value::as_array).into_iter().flatten() {
            self.message(number, &any(value));
        }
    }

    pub(super) fn named(&mut self, number: u32, name: &str, value: &Message) {
        let mut pair = Message::default();
        pair.bytes(1, name.as_bytes());
        pair.message(2, value);
        self.message(number, &pair);
    }

    pub(super) fn extensions(&mut self, number: u32, map: &Map) {
        for (key, value) in map.iter().filter(|(k, _)| k.starts_with("x-")) {
            self.named(number, key, &any(value));
        }
    }
}

pub(super) fn any(value: &Value) -> Message {
    let mut out = Message::default();
    out.bytes(2, format!("{value}\n").as_bytes());
    out
}

pub(super) fn inside(number: u32, inner: &Message) -> Message {
    let mut out = Message::default();
    out.message(number, inner);
    out
}

fn schema(value: &Value) -> Message {
    let mut out = Message::default();
    let Some(map) = value.as_object() else { return out };
    let at = |key: &str| map.get(key);
    out.text(1, at("$ref"));
    out.text(2, at("format"));
    out.text(3, at("title"));
    out.text(4, at("description"));
    out.any(5, at("default"));
    out.double(6, at("multipleOf"));
    out.double(7, at("maximum"));
    out.flag(8, at("exclusiveMaximum"));
    out.double(9, at("minimum"));
    out.flag(10, at("exclusiveMinimum"));
    out.integer(11, at("maxLength"));
    out.integer(12, at("minLength"));
    out.text(13, at("pattern"));
    out.integer(14, at("maxItems"));
    out.integer(15, at("minItems"));
    out.flag(16, at("uniqueItems"));
    out.integer(17, at("maxProperties"));
    out.integer(18, at("minProperties"));
    out.texts(19, at("required"));
    out.anys(20, at("enum"));
    match at("additionalProperties") {
        Some(Value::Bool(value)) => {
            let mut item = Message::default();
            item.0.extend_from_slice(&[2 << 3, u8::from(*value)]);
            out.message(21, &item);
        }
        Some(inner) => out.message(21, &inside(1, &schema(inner))),
        None => {}
    }
    if let Some(Value::String(ty)) = at("type") {
        let mut item = Message::default();
        item.bytes(1, ty.as_bytes());
        out.message(22, &item);
    }
    if let Some(items) = at("items") {
        out.message(23, &inside(1, &schema(items)));
    }
    if let Some(Value::Object(properties)) = at("properties") {
        let mut all = Message::default();
        for (name, value) in properties {
            all.named(1, name, &schema(value));
        }
        out.message(25, &all);
    }
    out.any(30, at("example"));
    out.extensions(31, map);
    out
}

/// `Parameter`.
fn parameter(value: &Value) -> Message {
    let mut out = Message::default();
    let Some(map) = value.as_object() else { return out };
    let at = |key: &str| map.get(key);
    let place = at("in").and_then(Value::as_str).unwrap_or_default();
    let mut inner = Message::default();
    if place == "body" {
        inner.text(1, at("description"));
        inner.text(2, at("name"));
        inner.text(3, at("in"));
        inner.flag(4, at("required"));
        inner.message(5, &schema(at("schema").unwrap_or(&Value::Null)));
        return inside(1, &inner);
    }
    // Parameters of queries have one field more, which shifts those after it.
    let query = place == "query";
    let shift = u32::from(query);
    inner.flag(1, at("required"));
    inner.text(2, at("in"));
    inner.text(3, at("description"));
    inner.text(4, at("name"));
    inner.text(5 + shift, at("type"));
    inner.text(6 + shift, at("format"));
    inner.flag(19 + shift, at("uniqueItems"));
    out.message(2, &inside(if query { 3 } else { 4 }, &inner));
    out
}

/// `ParametersItem`.
fn parameters_item(value: &Value) -> Message {
    match value.get("$ref") {
        Some(reference) => {
            let mut inner = Message::default();
            inner.text(1, Some(reference));
            inside(2, &inner)
        }
        None => inside(1, &parameter(value)),
    }
}

/// A message for each of a list.
pub(super) fn each(out: &mut Message, number: u32, list: Option<&Value>, message: impl Fn(&Value) -> Message) {
    for value in list.and_then(Value::as_array).into_iter().flatten() {
        out.message(number, &message(value));
    }
}

fn operation(value: &Value) -> Message {
    let mut out = Message::default();
    let Some(map) = value.as_object() else { return out };
    let at = |key: &str| map.get(key);
    out.texts(1, at("tags"));
    out.text(3, at("description"));
    out.text(5, at("operationId"));
    out.texts(6, at("produces"));
    out.texts(7, at("consumes"));
    each(&mut out, 8, at("parameters"), parameters_item);
    let mut responses = Message::default();
    for (code, response) in at("responses").and_then(Value::as_object).into_iter().flatten() {
        let mut inner = Message::default();
        inner.text(1, response.get("description"));
        if let Some(value) = response.get("schema") {
            inner.message(2, &inside(1, &schema(value)));
        }
        responses.named(1, code, &inside(1, &inner));
    }
    out.message(9, &responses);
    out.texts(10, at("schemes"));
    out.extensions(13, map);
    out
}

fn path_item(value: &Value) -> Message {
    let mut out = Message::default();
    for (number, method) in
        [(2, "get"), (3, "put"), (4, "post"), (5, "delete"), (6, "options"), (7, "head"), (8, "patch")]
    {
        if let Some(value) = value.get(method) {
            out.message(number, &operation(value));
        }
    }
    each(&mut out, 9, value.get("parameters"), parameters_item);
    out
}

/// The document, put together piece by piece.
#[derive(Default)]
pub(super) struct Document {
    paths: Message,
    definitions: Message,
    parameters: Message,
}

impl Document {
    /// Adds a piece.
    pub(super) fn add(&mut self, piece: &Piece<'_>) {
        match piece {
            Piece::Path(name, value) => self.paths.named(2, name, &path_item(value)),
            Piece::Definition(name, value) => self.definitions.named(1, name, &schema(value)),
            Piece::Parameter(name, value) => self.parameters.named(1, name, &parameter(value)),
        }
    }

    /// The encoded document.
    pub(super) fn finish(self) -> Vec<u8> {
        let mut out = Message::default();
        out.bytes(1, b"2.0");
        let mut info = Message::default();
        info.bytes(1, b"Kubernetes");
        info.bytes(2, b"unversioned");
        out.message(2, &info);
        out.message(8, &self.paths);
        out.message(9, &self.definitions);
        out.message(10, &self.parameters);
        let mut requirement = Message::default();
        requirement.named(1, "BearerToken", &Message::default());
        out.message(12, &requirement);
        let mut key = Message::default();
        for (number, text) in [(1, "apiKey"), (2, "authorization"), (3, "header"), (4, "a bearer token")] {
            key.bytes(number, text.as_bytes());
        }
        let mut definitions = Message::default();
        definitions.named(1, "BearerToken", &inside(2, &key));
        out.message(13, &definitions);
        out.0
    }
}
