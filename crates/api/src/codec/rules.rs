//! The rules by which a value is normal, shared by decoding and [`super::normalize`]: which fields Go writes, what
//! its zero values are, what a scalar looks like, and how a mismatch is worded.

use std::borrow::Cow;

use base64::Engine as _;
use base64::alphabet;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use serde_json::{Number, Value};

use super::{DecodeError, StrictErrors, Strictness};
use crate::Map;
use crate::quantity::Quantity;
use crate::schema::{Builtin, Field, Type};
use crate::time;

/// How deep values may nest. Upstream allows 10,000 on a stack that grows; ours must not overflow, and what is
/// stored must be readable by `serde_json`, whose limit is 127.
pub(super) const MAX_DEPTH: usize = 120;

/// The text of the refusal, as Go's decoder words it.
pub(super) const TOO_DEEP: &str = "exceeded max depth";

/// Whether a value nests deeper than `levels`.
pub(super) fn deeper_than(value: &Value, levels: usize) -> bool {
    match value {
        Value::Array(list) => levels == 0 || list.iter().any(|v| deeper_than(v, levels - 1)),
        Value::Object(map) => levels == 0 || map.values().any(|v| deeper_than(v, levels - 1)),
        _ => false,
    }
}

/// As Go's decoder: bits beyond the last byte may be set.
pub(super) const BASE64: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new()
        .with_decode_allow_trailing_bits(true)
        .with_decode_padding_mode(DecodePaddingMode::RequireCanonical),
);

/// A JSON value other than null, as far as a scalar type cares.
pub(super) enum Token<'a> {
    String(Cow<'a, str>),
    Number(Cow<'a, str>),
    Bool(bool),
    Array,
    Object,
}

impl Token<'_> {
    /// As Go's errors call it.
    pub fn name(&self) -> &'static str {
        match self {
            Token::String(_) => "string",
            Token::Number(_) => "number",
            Token::Bool(_) => "bool",
            Token::Array => "array",
            Token::Object => "object",
        }
    }
}

/// Why a scalar was refused.
pub(super) enum Fault {
    /// It has another type: what it is, and the Go type wanted.
    Type(String, &'static str),
    /// Its own decoder refused it; reported before any fault of the other kinds.
    Own(String),
    /// Reported as a type fault is, without place.
    Saved(String),
}

/// A step of the path in strict errors.
pub(super) enum Step<'a> {
    Name(&'static str),
    Key(Cow<'a, str>),
    Index(usize),
}

/// Where decoding is, what it found so far.
pub(super) struct Context<'a> {
    /// Whether unknown and duplicate fields are reported; [`Context::path`] is kept only then.
    pub on: bool,
    pub path: Vec<Step<'a>>,
    /// Go's error context: the struct whose field is being decoded, and the names of the fields to it.
    pub outer: Option<Type>,
    pub names: Vec<&'static str>,
    strict: StrictErrors,
    saved: Option<String>,
    own: Option<String>,
}

impl Context<'_> {
    pub fn new(strictness: Strictness) -> Self {
        Context {
            on: strictness.reports(),
            path: Vec::new(),
            outer: None,
            names: Vec::new(),
            strict: StrictErrors::default(),
            saved: None,
            own: None,
        }
    }

    /// An `unknown` or `duplicate` field at the current path.
    pub fn report(&mut self, what: &str, key: &str) {
        let mut path = String::new();
        for step in &self.path {
            match step {
                Step::Name(name) => {
                    path.push('.');
                    path.push_str(name);
                }
                Step::Key(key) => {
                    path.push('.');
                    path.push_str(key);
                }
                Step::Index(i) => path.push_str(&format!("[{i}]")),
            }
        }
        path.push('.');
        path.push_str(key);
        let path = path.trim_start_matches('.');
        self.strict.push(format!("{what} field {}", crate::field::quote(path)));
    }

    pub fn fault(&mut self, fault: Fault) {
        match fault {
            Fault::Type(value, go) => self.type_fault(&value, go),
            Fault::Own(text) => {
                self.own.get_or_insert(text);
            }
            Fault::Saved(text) => {
                self.saved.get_or_insert(text);
            }
        }
    }

    pub fn type_fault(&mut self, value: &str, go: &str) {
        if self.saved.is_some() {
            return;
        }
        self.saved = Some(match self.outer {
            Some(outer) => format!(
                "json: cannot unmarshal {value} into Go struct field {}.{} of type {go}",
                outer.short_name(),
                self.names.join(".")
            ),
            None => format!("json: cannot unmarshal {value} into Go value of type {go}"),
        });
    }

    /// What was found, once the whole document was seen.
    pub fn finish(self) -> Result<StrictErrors, DecodeError> {
        match self.own.or(self.saved) {
            Some(message) => Err(DecodeError::content(message)),
            None => Ok(self.strict),
        }
    }
}

/// The zero value of a type, as Go writes it.
pub(super) fn zero_of(ty: Type) -> Value {
    let Some(builtin) = ty.builtin() else {
        let mut map = Map::new();
        for field in ty.fields() {
            if let Some(value) = absent(field) {
                map.insert(field.name().to_owned(), value);
            }
        }
        return Value::Object(map);
    };
    match builtin {
        Builtin::String | Builtin::Bytes => Value::String(String::new()),
        Builtin::Int32 | Builtin::Int64 | Builtin::Float64 | Builtin::IntOrString => Value::Number(0.into()),
        Builtin::Bool => Value::Bool(false),
        Builtin::Quantity => Value::String("0".into()),
        Builtin::Duration => Value::String("0s".into()),
        _ => Value::Null,
    }
}

/// What Go writes for a field that has no value: nothing, or its zero value.
#[inline]
pub(super) fn absent(field: &Field) -> Option<Value> {
    if field.is_pointer() || field.is_list() || field.is_map() {
        return if field.omitempty() { None } else { Some(Value::Null) };
    }
    if field.omitempty() {
        let always = match field.ty().builtin() {
            None => true,
            Some(builtin) => matches!(
                builtin,
                Builtin::Quantity
                    | Builtin::IntOrString
                    | Builtin::Time
                    | Builtin::MicroTime
                    | Builtin::Duration
                    | Builtin::RawExtension
                    | Builtin::FieldsV1
                    | Builtin::Json
            ),
        };
        if !always || field.omitzero() {
            return None;
        }
    }
    Some(match field.ty().builtin() {
        Some(Builtin::Bytes) => Value::Null,
        _ => zero_of(field.ty()),
    })
}

/// What Go writes for a decoded value of a field: itself, another, or nothing. `stored_as_json` says whether
/// upstream stores the kind in JSON; all others pass through protobuf, which cannot tell an empty list from none.
pub(super) fn keep(field: &Field, value: Value, stored_as_json: bool) -> Option<Value> {
    let empty = match &value {
        Value::Null => return absent(field),
        Value::Array(list) => list.is_empty(),
        Value::Object(map) => field.is_map() && map.is_empty(),
        Value::String(s) => s.is_empty() && field.ty().builtin() != Some(Builtin::IntOrString),
        Value::Bool(b) => !b,
        Value::Number(n) => field.ty().builtin() != Some(Builtin::IntOrString) && n.as_f64() == Some(0.0),
    };
    if !empty || field.is_pointer() {
        return Some(value);
    }
    if field.omitempty() {
        return None;
    }
    if (field.is_list() || field.is_map()) && !stored_as_json {
        return Some(Value::Null);
    }
    Some(value)
}

/// Whether upstream stores kinds of which the type is a part as JSON.
pub(super) fn stored_as_json(ty: Type) -> bool {
    let name = ty.name();
    name.starts_with("k8s.io/apiextensions-apiserver/") || name.starts_with("k8s.io/kube-aggregator/")
}

fn integer(token: &Token<'_>, bits: u32) -> Result<Value, Fault> {
    let go = if bits == 32 { "int32" } else { "int64" };
    let Token::Number(text) = token else { return Err(Fault::Type(token.name().into(), go)) };
    let number = text.parse::<i64>().ok().filter(|n| bits == 64 || i32::try_from(*n).is_ok());
    match number {
        Some(n) => Ok(Value::Number(n.into())),
        None => Err(Fault::Type(format!("number {text}"), go)),
    }
}

fn text<'t>(token: &'t Token<'_>, go: &'static str) -> Result<&'t str, Fault> {
    match token {
        Token::String(s) => Ok(s),
        other => Err(Fault::Type(other.name().into(), go)),
    }
}

/// An untyped number as Go keeps it: an integer where it fits, else a float.
pub(super) fn number(text: &str) -> Option<Number> {
    if let Ok(n) = text.parse::<i64>() {
        return Some(n.into());
    }
    if let Ok(n) = text.parse::<u64>() {
        return Some(n.into());
    }
    Number::from_f64(text.parse::<f64>().ok()?)
}

/// Go's text for bytes that are no base64.
fn base64_fault(text: &str) -> String {
    let clean = |b: u8| b.is_ascii_alphanumeric() || b == b'+' || b == b'/';
    let at = text.bytes().position(|b| !clean(b) && b != b'\r' && b != b'\n').unwrap_or(text.len());
    format!("illegal base64 data at input byte {at}")
}

/// A scalar in its canonical form.
pub(super) fn scalar(builtin: Builtin, token: Token<'_>) -> Result<Value, Fault> {
    Ok(match builtin {
        Builtin::String => match token {
            Token::String(s) => Value::String(s.into_owned()),
            other => return Err(Fault::Type(other.name().into(), "string")),
        },
        Builtin::Int32 => integer(&token, 32)?,
        Builtin::Int64 => integer(&token, 64)?,
        Builtin::Bool => match token {
            Token::Bool(b) => Value::Bool(b),
            other => return Err(Fault::Type(other.name().into(), "bool")),
        },
        Builtin::Float64 => {
            let Token::Number(n) = &token else { return Err(Fault::Type(token.name().into(), "float64")) };
            match n.parse::<f64>().ok().filter(|f| f.is_finite()) {
                Some(f) if f.fract() == 0.0 && f.abs() < 9e15 => Value::Number((f as i64).into()),
                Some(f) => Number::from_f64(f).map_or(Value::Null, Value::Number),
                None => return Err(Fault::Type(format!("number {n}"), "float64")),
            }
        }
        Builtin::Bytes => {
            let Token::String(s) = token else { return Err(Fault::Type(token.name().into(), "[]uint8")) };
            let mut s = s.into_owned();
            if s.contains(['\r', '\n']) {
                s.retain(|c| c != '\r' && c != '\n');
            }
            match BASE64.decode(&s) {
                // Bits beyond the last byte vanish.
                Ok(bytes) if s.ends_with('=') => Value::String(BASE64.encode(bytes)),
                Ok(_) => Value::String(s),
                Err(_) => return Err(Fault::Saved(base64_fault(&s))),
            }
        }
        Builtin::Quantity => {
            let parsed = match &token {
                Token::String(s) | Token::Number(s) => s.trim().parse::<Quantity>(),
                _ => Err(crate::quantity::ParseError::Format),
            };
            match parsed {
                Ok(q) => Value::String(q.to_string()),
                Err(e) => return Err(Fault::Own(e.to_string())),
            }
        }
        Builtin::IntOrString => match token {
            Token::String(s) => Value::String(s.into_owned()),
            other => integer(&other, 32)?,
        },
        Builtin::Time => {
            let s = text(&token, "string")?;
            let t = time::parse_time(s).map_err(Fault::Own)?;
            if t == ZERO_TIME { Value::Null } else { Value::String(time::format_time(t)) }
        }
        Builtin::MicroTime => {
            let s = text(&token, "string")?;
            let t = time::parse_micro_time(s).map_err(Fault::Own)?;
            if t == ZERO_TIME { Value::Null } else { Value::String(time::format_micro_time(t)) }
        }
        Builtin::Duration => {
            let s = text(&token, "string")?;
            Value::String(time::format_duration(time::parse_duration(s).map_err(Fault::Own)?))
        }
        // These are no scalars; the callers decode them themselves.
        _ => Value::Null,
    })
}

/// Go's zero time, 0001-01-01T00:00:00Z, which is written as null.
const ZERO_TIME: time::Instant = time::Instant { seconds: -62_135_596_800, nanos: 0 };
