//! From values to protobuf. The value is taken as normalised; what does not fit its type is written as zero.

use std::sync::LazyLock;

use base64::Engine as _;
use serde_json::Value;

use super::super::json::{self, schema_type};
use super::super::rules::BASE64;
use super::PREFIX;
use super::wire::{FIXED64, VARINT, put_bytes, put_message, put_tag, put_varint};
use crate::Map;
use crate::schema::{Builtin, Field, Type};
use crate::time;

/// The fields of each type in the order of their numbers.
static BY_NUMBER: LazyLock<Vec<Vec<&'static Field>>> = LazyLock::new(|| {
    Type::all()
        .map(|ty| {
            let mut fields: Vec<&'static Field> = ty.declared().iter().filter(|f| f.number() != 0).collect();
            fields.sort_by_key(|f| f.number());
            fields
        })
        .collect()
});

/// Whether a type has a protobuf form (a table has none).
pub fn has_form(ty: Type) -> bool {
    ty.builtin().is_none() && ty.declared().iter().all(|f| f.number() != 0 || f.is_inline())
}

/// Appends an object with its envelope; `kind` and `apiVersion` are those of the value.
pub fn encode(value: &Value, ty: Type, out: &mut Vec<u8>) {
    let text = |key: &str| value.get(key).and_then(Value::as_str).unwrap_or_default().as_bytes();
    out.extend_from_slice(PREFIX);
    put_message(1, out, |out| {
        put_bytes(1, text("apiVersion"), out);
        put_bytes(2, text("kind"), out);
    });
    put_message(2, out, |out| encode_message(value, ty, out));
    put_bytes(3, b"", out);
    put_bytes(4, b"", out);
}

/// Appends the message of an object alone.
pub fn encode_message(value: &Value, ty: Type, out: &mut Vec<u8>) {
    static EMPTY: LazyLock<Map> = LazyLock::new(Map::new);
    message(ty, value.as_object().unwrap_or(&EMPTY), out);
}

/// A watch event as the stream carries it: four bytes of length, then a `WatchEvent` whose object is `object`,
/// an encoding of [`encode`].
pub fn watch_frame(event: &str, object: &[u8]) -> Vec<u8> {
    let mut out = vec![0; 4];
    put_bytes(1, event.as_bytes(), &mut out);
    put_message(2, &mut out, |out| put_bytes(1, object, out));
    let len = u32::try_from(out.len() - 4).unwrap_or(u32::MAX);
    out[..4].copy_from_slice(&len.to_be_bytes());
    out
}

fn message(ty: Type, map: &Map, out: &mut Vec<u8>) {
    for &field in &BY_NUMBER[ty.index()] {
        let number = field.number();
        if field.is_inline() {
            put_message(number, out, |out| message(field.ty(), map, out));
            continue;
        }
        let value = map.get(field.name()).filter(|v| !v.is_null());
        if field.is_wrapped() {
            if let Some(value) = value {
                put_message(number, out, |out| strings(value, out));
            }
        } else if field.is_list() {
            for element in value.and_then(Value::as_array).into_iter().flatten() {
                single(number, field.ty(), Some(element), out);
            }
        } else if field.is_map() {
            for (key, element) in value.and_then(Value::as_object).into_iter().flatten() {
                put_message(number, out, |out| {
                    put_bytes(1, key.as_bytes(), out);
                    single(2, field.ty(), Some(element), out);
                });
            }
        } else if value.is_some() || !(field.is_pointer() || field.ty().builtin() == Some(Builtin::Bytes)) {
            single(number, field.ty(), value, out);
        }
    }
}

fn strings(value: &Value, out: &mut Vec<u8>) {
    for text in value.as_array().into_iter().flatten().filter_map(Value::as_str) {
        put_bytes(1, text.as_bytes(), out);
    }
}

fn put_integer(number: u32, n: i64, out: &mut Vec<u8>) {
    put_tag(number, VARINT, out);
    put_varint(n as u64, out);
}

fn put_instant(number: u32, t: Option<time::Instant>, nanos: bool, out: &mut Vec<u8>) {
    put_message(number, out, |out| {
        if let Some(t) = t {
            put_integer(1, t.seconds, out);
            put_integer(2, if nanos { i64::from(t.nanos / 1000 * 1000) } else { 0 }, out);
        }
    });
}

/// JSON text inside protobuf.
fn raw(builtin: Builtin, value: &Value) -> Vec<u8> {
    let mut out = Vec::new();
    if builtin == Builtin::RawExtension {
        let text = |key: &str| value.get(key).and_then(Value::as_str).unwrap_or_default();
        if let Some(ty) = Type::of_api_version(text("apiVersion"), text("kind")) {
            json::encode(value, ty, &mut out);
            return out;
        }
    }
    json::encode_untyped(value, &mut out);
    out
}

fn single(number: u32, ty: Type, value: Option<&Value>, out: &mut Vec<u8>) {
    static EMPTY: LazyLock<Map> = LazyLock::new(Map::new);
    let value = value.unwrap_or(&Value::Null);
    let text = value.as_str().unwrap_or_default();
    let Some(builtin) = ty.builtin() else {
        put_message(number, out, |out| message(ty, value.as_object().unwrap_or(&EMPTY), out));
        return;
    };
    match builtin {
        Builtin::String => put_bytes(number, text.as_bytes(), out),
        Builtin::Int32 | Builtin::Int64 => put_integer(number, value.as_i64().unwrap_or_default(), out),
        Builtin::Bool => put_integer(number, i64::from(value.as_bool().unwrap_or_default()), out),
        Builtin::Float64 => {
            put_tag(number, FIXED64, out);
            out.extend_from_slice(&value.as_f64().unwrap_or_default().to_bits().to_le_bytes());
        }
        Builtin::Bytes => put_bytes(number, &BASE64.decode(text).unwrap_or_default(), out),
        Builtin::Quantity => {
            let text = if value.is_null() { "0" } else { text };
            put_message(number, out, |out| put_bytes(1, text.as_bytes(), out));
        }
        Builtin::IntOrString => put_message(number, out, |out| {
            put_integer(1, i64::from(value.is_string()), out);
            put_integer(2, value.as_i64().unwrap_or_default(), out);
            put_bytes(3, text.as_bytes(), out);
        }),
        Builtin::Time => put_instant(number, time::parse_time(text).ok(), false, out),
        Builtin::MicroTime => put_instant(number, time::parse_micro_time(text).ok(), true, out),
        Builtin::Duration => put_message(number, out, |out| {
            put_integer(1, time::parse_duration(text).unwrap_or_default(), out);
        }),
        Builtin::RawExtension | Builtin::FieldsV1 | Builtin::Json => put_message(number, out, |out| {
            if !value.is_null() {
                put_bytes(1, &raw(builtin, value), out);
            }
        }),
        Builtin::ExtraValue => put_message(number, out, |out| strings(value, out)),
        Builtin::SchemaOrBool | Builtin::SchemaOrArray | Builtin::SchemaOrStrings => {
            let Some(schema) = schema_type() else { return };
            put_message(number, out, |out| match (builtin, value) {
                (Builtin::SchemaOrBool, Value::Object(map)) => {
                    put_integer(1, 1, out);
                    put_message(2, out, |out| message(schema, map, out));
                }
                (Builtin::SchemaOrBool, other) => put_integer(1, i64::from(other == &Value::Bool(true)), out),
                (_, Value::Object(map)) => put_message(1, out, |out| message(schema, map, out)),
                (_, Value::Array(list)) => {
                    for element in list {
                        match element {
                            Value::Object(map) => put_message(2, out, |out| message(schema, map, out)),
                            other => put_bytes(2, other.as_str().unwrap_or_default().as_bytes(), out),
                        }
                    }
                }
                _ => {}
            });
        }
        // Only in tables, which have no protobuf form.
        Builtin::Interface => {}
    }
}
