//! From protobuf to normalised values.

use base64::Engine as _;
use serde_json::{Number, Value};

use super::super::json::{self, schema_type};
use super::super::rules::{self, BASE64, MAX_DEPTH};
use super::super::{DecodeError, Strictness, TypeMeta};
use super::PREFIX;
use super::wire::{self, Raw, Result};
use crate::Map;
use crate::quantity::Quantity;
use crate::schema::{Builtin, Field, Type};
use crate::time::{self, Instant};

struct Envelope<'a> {
    meta: TypeMeta,
    raw: &'a [u8],
    content_type: String,
}

fn open(bytes: &[u8]) -> Result<Envelope<'_>> {
    if bytes.is_empty() {
        return Err(DecodeError::syntax("empty data"));
    }
    let Some(mut bytes) = bytes.strip_prefix(PREFIX) else {
        return Err(DecodeError::syntax(
            "provided data does not appear to be a protobuf message, expected prefix [107 56 115 0]",
        ));
    };
    let mut envelope = Envelope { meta: TypeMeta::default(), raw: &[], content_type: String::new() };
    while let Some((number, raw)) = wire::field(&mut bytes)? {
        let Raw::Bytes(b) = raw else { continue };
        match number {
            1 => {
                let mut b = b;
                while let Some((number, raw)) = wire::field(&mut b)? {
                    let Raw::Bytes(text) = raw else { continue };
                    let text = String::from_utf8_lossy(text).into_owned();
                    match number {
                        1 => envelope.meta.api_version = text,
                        2 => envelope.meta.kind = text,
                        _ => {}
                    }
                }
            }
            2 => envelope.raw = b,
            4 => envelope.content_type = String::from_utf8_lossy(b).into_owned(),
            _ => {}
        }
    }
    Ok(envelope)
}

/// The `apiVersion` and `kind` that the envelope states.
pub fn identify(bytes: &[u8]) -> Result<TypeMeta> {
    open(bytes).map(|envelope| envelope.meta)
}

/// Decodes an object of a built-in type with its envelope. The value is normalised (see [`crate::codec`]) and
/// says the `kind` and `apiVersion` of the envelope.
pub fn decode(bytes: &[u8], ty: Type) -> Result<Value> {
    let envelope = open(bytes)?;
    if envelope.content_type.starts_with("application/json") {
        return json::decode(envelope.raw, ty, Strictness::Ignore).map(|(value, _)| value);
    }
    object(envelope, ty, 0)
}

fn object(envelope: Envelope<'_>, ty: Type, depth: usize) -> Result<Value> {
    let mut value = structure(ty, envelope.raw, depth)?;
    if ty.has_type_meta()
        && let Value::Object(map) = &mut value
    {
        for (key, text) in [("apiVersion", envelope.meta.api_version), ("kind", envelope.meta.kind)] {
            if !text.is_empty() {
                map.insert(key.into(), Value::String(text));
            }
        }
    }
    Ok(value)
}

/// A message as a normalised struct.
fn structure(ty: Type, bytes: &[u8], depth: usize) -> Result<Value> {
    let mut map = Map::new();
    message(ty, bytes, &mut map, depth)?;
    finish(ty, &mut map);
    Ok(Value::Object(map))
}

/// Adds what Go always writes.
fn finish(ty: Type, map: &mut Map) {
    for field in ty.fields_by_name() {
        if let Some(value) = rules::absent(field)
            && !map.contains_key(field.name())
        {
            map.insert(field.name().to_owned(), value);
        }
    }
}

/// Sets a field to what Go would write for its value, if anything.
fn set(field: &Field, value: Value, map: &mut Map, stored_as_json: bool) {
    match rules::keep(field, value, stored_as_json) {
        Some(kept) => {
            map.insert(field.name().to_owned(), kept);
        }
        None => {
            map.remove(field.name());
        }
    }
}

/// Adds the fields of a message to a map.
fn message(ty: Type, mut bytes: &[u8], map: &mut Map, depth: usize) -> Result<()> {
    if depth > MAX_DEPTH {
        return Err(DecodeError::syntax(rules::TOO_DEEP));
    }
    let stored_as_json = rules::stored_as_json(ty);
    while let Some((number, raw)) = wire::field(&mut bytes)? {
        let Some(field) = ty.field_by_number(number) else { continue };
        if field.is_inline() {
            message(field.ty(), contents(raw)?, map, depth + 1)?;
        } else if field.is_wrapped() {
            set(field, strings(contents(raw)?)?, map, stored_as_json);
        } else if field.is_list() {
            let Some(Value::Array(list)) = slot(map, field, || Value::Array(Vec::new())) else { continue };
            match (field.ty().builtin(), raw) {
                (Some(Builtin::Int32 | Builtin::Int64 | Builtin::Bool), Raw::Bytes(mut packed)) => {
                    while !packed.is_empty() {
                        let n = wire::varint(&mut packed)?;
                        list.push(single(field.ty(), Raw::Varint(n), None, depth)?);
                    }
                }
                _ => list.push(single(field.ty(), raw, None, depth + 1)?),
            }
        } else if field.is_map() {
            let Some(Value::Object(entries)) = slot(map, field, || Value::Object(Map::new())) else { continue };
            let (key, value) = entry(field, contents(raw)?, depth + 1)?;
            entries.insert(key, value);
        } else {
            // A message that occurs twice is merged, as generated code does.
            let before = if field.ty().builtin().is_none() { map.remove(field.name()) } else { None };
            let value = single(field.ty(), raw, before, depth)?;
            set(field, value, map, stored_as_json);
        }
    }
    Ok(())
}

/// The value of a field, made where it is missing.
fn slot<'m>(map: &'m mut Map, field: &Field, new: impl FnOnce() -> Value) -> Option<&'m mut Value> {
    if !map.contains_key(field.name()) {
        map.insert(field.name().to_owned(), new());
    }
    map.get_mut(field.name())
}

fn contents(raw: Raw<'_>) -> Result<&[u8]> {
    match raw {
        Raw::Bytes(b) => Ok(b),
        _ => Err(DecodeError::syntax("proto: wrong wireType for a message")),
    }
}

fn entry(field: &Field, mut bytes: &[u8], depth: usize) -> Result<(String, Value)> {
    let (mut key, mut value) = (String::new(), None);
    while let Some((number, raw)) = wire::field(&mut bytes)? {
        match number {
            1 => key = String::from_utf8_lossy(contents(raw)?).into_owned(),
            2 => value = Some(single(field.ty(), raw, None, depth)?),
            _ => {}
        }
    }
    Ok((key, value.unwrap_or_else(|| rules::zero_of(field.ty()))))
}

/// The texts of a message that is a list of them.
fn strings(mut bytes: &[u8]) -> Result<Value> {
    let mut list = Vec::new();
    while let Some((number, raw)) = wire::field(&mut bytes)? {
        if number == 1 {
            list.push(Value::String(String::from_utf8_lossy(contents(raw)?).into_owned()));
        }
    }
    Ok(Value::Array(list))
}

/// The fields of a small message.
fn each<'a>(mut bytes: &'a [u8], mut f: impl FnMut(u32, Raw<'a>) -> Result<()>) -> Result<()> {
    while let Some((number, raw)) = wire::field(&mut bytes)? {
        f(number, raw)?;
    }
    Ok(())
}

/// The one field of a message that wraps bytes.
fn wrapped(bytes: &[u8]) -> Result<Option<&[u8]>> {
    let mut found = None;
    each(bytes, |number, raw| {
        if let (1, Raw::Bytes(b)) = (number, raw) {
            found = Some(b);
        }
        Ok(())
    })?;
    Ok(found)
}

fn instant(bytes: &[u8]) -> Result<Option<Instant>> {
    let (mut seconds, mut nanos) = (0i64, 0u32);
    each(bytes, |number, raw| {
        match (number, raw) {
            (1, Raw::Varint(n)) => seconds = n as i64,
            (2, Raw::Varint(n)) => nanos = (n as u32).min(999_999_999),
            _ => {}
        }
        Ok(())
    })?;
    // Go's zero time; beyond the years that can be written there is none either.
    let known = -62_135_596_800..=253_402_300_799;
    Ok((known.contains(&seconds) && (seconds, nanos) != (0, 0)).then_some(Instant { seconds, nanos }))
}

fn single(ty: Type, raw: Raw<'_>, before: Option<Value>, depth: usize) -> Result<Value> {
    let Some(builtin) = ty.builtin() else {
        let bytes = contents(raw)?;
        let Some(Value::Object(mut map)) = before else { return structure(ty, bytes, depth + 1) };
        message(ty, bytes, &mut map, depth + 1)?;
        finish(ty, &mut map);
        return Ok(Value::Object(map));
    };
    Ok(match (builtin, raw) {
        (Builtin::String, Raw::Bytes(b)) => Value::String(match std::str::from_utf8(b) {
            Ok(text) => text.to_owned(),
            Err(_) => String::from_utf8_lossy(b).into_owned(),
        }),
        (Builtin::Int32, Raw::Varint(n)) => Value::Number((n as i32).into()),
        (Builtin::Int64, Raw::Varint(n)) => Value::Number((n as i64).into()),
        (Builtin::Bool, Raw::Varint(n)) => Value::Bool(n != 0),
        (Builtin::Float64, Raw::Fixed64(bits)) => {
            let f = f64::from_bits(bits);
            match (f.fract() == 0.0 && f.abs() < 9e15, Number::from_f64(f)) {
                (true, _) => Value::Number((f as i64).into()),
                (false, Some(n)) => Value::Number(n),
                (false, None) => return Err(DecodeError::content("json: unsupported value")),
            }
        }
        (Builtin::Bytes, Raw::Bytes(b)) => Value::String(BASE64.encode(b)),
        (Builtin::Quantity, Raw::Bytes(b)) => {
            let text = String::from_utf8_lossy(wrapped(b)?.unwrap_or_default());
            let quantity = if text.is_empty() { Quantity::ZERO } else { text.parse().map_err(content)? };
            Value::String(quantity.to_string())
        }
        (Builtin::IntOrString, Raw::Bytes(b)) => {
            let (mut is_text, mut number, mut text) = (false, 0i32, "".into());
            each(b, |field, raw| {
                match (field, raw) {
                    (1, Raw::Varint(n)) => is_text = n == 1,
                    (2, Raw::Varint(n)) => number = n as i32,
                    (3, Raw::Bytes(b)) => text = String::from_utf8_lossy(b),
                    _ => {}
                }
                Ok(())
            })?;
            if is_text { Value::String(text.into_owned()) } else { Value::Number(number.into()) }
        }
        (Builtin::Time, Raw::Bytes(b)) => instant(b)?.map_or(Value::Null, |t| Value::String(time::format_time(t))),
        (Builtin::MicroTime, Raw::Bytes(b)) => {
            instant(b)?.map_or(Value::Null, |t| Value::String(time::format_micro_time(t)))
        }
        (Builtin::Duration, Raw::Bytes(b)) => {
            let mut nanos = 0;
            each(b, |number, raw| {
                if let (1, Raw::Varint(n)) = (number, raw) {
                    nanos = n as i64;
                }
                Ok(())
            })?;
            Value::String(time::format_duration(nanos))
        }
        (Builtin::RawExtension | Builtin::FieldsV1 | Builtin::Json, Raw::Bytes(b)) => match wrapped(b)? {
            None | Some([]) => Value::Null,
            Some(raw) if builtin == Builtin::RawExtension && raw.starts_with(PREFIX) => {
                let envelope = open(raw)?;
                match envelope.meta.builtin() {
                    Some(ty) => object(envelope, ty, depth + 1)?,
                    None => {
                        let TypeMeta { api_version, kind } = envelope.meta;
                        return Err(DecodeError::content(format!("no kind {kind:?} is known in {api_version:?}")));
                    }
                }
            }
            Some(raw) => {
                let (value, _) = json::decode_untyped(raw, Strictness::Ignore)?;
                if rules::deeper_than(&value, MAX_DEPTH.saturating_sub(depth)) {
                    return Err(DecodeError::syntax(rules::TOO_DEEP));
                }
                value
            }
        },
        // No text at all is Go's nil slice, as an entry without a value is.
        (Builtin::ExtraValue, Raw::Bytes(b)) => match strings(b)? {
            Value::Array(list) if list.is_empty() => Value::Null,
            list => list,
        },
        (Builtin::SchemaOrBool | Builtin::SchemaOrArray | Builtin::SchemaOrStrings, Raw::Bytes(b)) => {
            schema_or(builtin, b, depth + 1)?
        }
        _ => return Err(DecodeError::syntax(format!("proto: wrong wireType for {}", ty.go_name()))),
    })
}

fn content(e: impl std::fmt::Display) -> DecodeError {
    DecodeError::content(e.to_string())
}

fn schema_or(builtin: Builtin, bytes: &[u8], depth: usize) -> Result<Value> {
    let Some(schema) = schema_type() else { return Ok(Value::Null) };
    let (mut allows, mut single, mut list) = (false, None, Vec::new());
    each(bytes, |number, raw| {
        match (builtin, number, raw) {
            (Builtin::SchemaOrBool, 1, Raw::Varint(n)) => allows = n != 0,
            (Builtin::SchemaOrBool, 2, Raw::Bytes(b)) => single = Some(structure(schema, b, depth)?),
            (Builtin::SchemaOrArray, 2, Raw::Bytes(b)) => list.push(structure(schema, b, depth)?),
            (Builtin::SchemaOrStrings, 2, Raw::Bytes(b)) => {
                list.push(Value::String(String::from_utf8_lossy(b).into_owned()));
            }
            (_, 1, Raw::Bytes(b)) => single = Some(structure(schema, b, depth)?),
            _ => {}
        }
        Ok(())
    })?;
    Ok(match single {
        Some(schema) if list.is_empty() => schema,
        _ if builtin == Builtin::SchemaOrBool => Value::Bool(allows),
        _ if list.is_empty() => Value::Null,
        _ => Value::Array(list),
    })
}
