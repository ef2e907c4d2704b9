//! Encoding in the order of the schema, as Go's `encoding/json` does it.
//!
//! The value is taken as it is: decode or [`super::super::normalize`] it first. Keys that the schema does not
//! know follow the others, sorted, so that nothing is lost.

use serde_json::{Number, Value};

use super::decode::schema_type;
use super::scan;
use crate::Map;
use crate::schema::{Builtin, Field, Type};

/// Appends an object of a built-in type. No line feed follows (the API server's answers end with one).
pub fn encode(value: &Value, ty: Type, out: &mut Vec<u8>) {
    Writer { out, entries: Vec::new() }.single(ty, value);
}

/// Appends the value of a field.
pub(super) fn encode_field(value: &Value, field: &Field, out: &mut Vec<u8>) {
    Writer { out, entries: Vec::new() }.field(field, value);
}

/// Appends a value with the keys of all objects sorted, as custom resources are written.
pub fn encode_untyped(value: &Value, out: &mut Vec<u8>) {
    Writer { out, entries: Vec::new() }.any(value);
}

/// An object of a built-in type as bytes.
pub fn to_vec(value: &Value, ty: Type) -> Vec<u8> {
    let mut out = Vec::with_capacity(512);
    encode(value, ty, &mut out);
    out
}

/// An untyped value as text, as Go's `json.Marshal` writes it.
pub fn to_string(value: &Value) -> String {
    let mut out = Vec::with_capacity(128);
    encode_untyped(value, &mut out);
    String::from_utf8(out).unwrap_or_default()
}

/// Compact JSON laid out with two spaces, as `?pretty=true` answers.
pub fn pretty(compact: &[u8]) -> Vec<u8> {
    fn line(out: &mut Vec<u8>, depth: usize) {
        out.push(b'\n');
        out.resize(out.len() + depth * 2, b' ');
    }
    let mut out = Vec::with_capacity(compact.len() * 2);
    let mut depth = 0usize;
    let mut in_string = false;
    let mut escaped = false;
    let mut open = false;
    for &b in compact {
        if in_string {
            out.push(b);
            match b {
                _ if escaped => escaped = false,
                b'\\' => escaped = true,
                b'"' => in_string = false,
                _ => {}
            }
            continue;
        }
        if b.is_ascii_whitespace() {
            continue;
        }
        if open && b != b'}' && b != b']' {
            depth += 1;
            line(&mut out, depth);
        }
        match b {
            b'{' | b'[' => {
                out.push(b);
                open = true;
                continue;
            }
            b'}' | b']' => {
                if !open {
                    depth = depth.saturating_sub(1);
                    line(&mut out, depth);
                }
                out.push(b);
            }
            b',' => {
                out.push(b);
                line(&mut out, depth);
            }
            b':' => out.extend_from_slice(b": "),
            b'"' => {
                in_string = true;
                out.push(b);
            }
            _ => out.push(b),
        }
        open = false;
    }
    out
}

/// Go's float format: plain between 1e-6 and 1e21, else with an exponent of at least one digit.
fn float(f: f64, out: &mut Vec<u8>) {
    let size = f.abs();
    if f == 0.0 || (1e-6..1e21).contains(&size) {
        out.extend_from_slice(format!("{f}").as_bytes());
    } else {
        let text = format!("{f:e}");
        let text = if size >= 1e21 { text.replace('e', "e+") } else { text };
        out.extend_from_slice(text.as_bytes());
    }
}

fn number(n: &Number, out: &mut Vec<u8>) {
    use std::io::Write as _;
    // Writing to a vector cannot fail.
    if let Some(i) = n.as_i64() {
        let _ = write!(out, "{i}");
    } else if let Some(u) = n.as_u64() {
        let _ = write!(out, "{u}");
    } else {
        float(n.as_f64().unwrap_or_default(), out);
    }
}

/// A string with its quotes.
pub(in crate::codec) fn string(s: &str, out: &mut Vec<u8>) {
    const HEX: &[u8; 16] = b"0123456789abcdef";
    out.push(b'"');
    let bytes = s.as_bytes();
    let (mut start, mut i) = (0, 0);
    loop {
        i += scan::verbatim(&bytes[i..]);
        let Some(&b) = bytes.get(i) else { break };
        if b == 0xe2 {
            // U+2028 and U+2029, which JavaScript takes for line ends.
            if bytes.get(i + 1) == Some(&0x80) && matches!(bytes.get(i + 2), Some(0xa8 | 0xa9)) {
                out.extend_from_slice(&bytes[start..i]);
                out.extend_from_slice(if bytes[i + 2] == 0xa8 { b"\\u2028" } else { b"\\u2029" });
                start = i + 3;
            }
            i += 1;
            continue;
        }
        out.extend_from_slice(&bytes[start..i]);
        i += 1;
        start = i;
        match b {
            b'"' => out.extend_from_slice(b"\\\""),
            b'\\' => out.extend_from_slice(b"\\\\"),
            b'\n' => out.extend_from_slice(b"\\n"),
            b'\r' => out.extend_from_slice(b"\\r"),
            b'\t' => out.extend_from_slice(b"\\t"),
            0x08 => out.extend_from_slice(b"\\b"),
            0x0c => out.extend_from_slice(b"\\f"),
            _ => {
                out.extend_from_slice(b"\\u00");
                out.push(HEX[usize::from(b >> 4)]);
                out.push(HEX[usize::from(b & 15)]);
            }
        }
    }
    out.extend_from_slice(&bytes[start..]);
    out.push(b'"');
}

/// A known field of a struct that is being written.
type Entry<'v> = (usize, &'static Field, &'v Value);

struct Writer<'o, 'v> {
    out: &'o mut Vec<u8>,
    /// Entries of the structs that are open, in the order of their schema.
    entries: Vec<Entry<'v>>,
}

impl<'v> Writer<'_, 'v> {
    fn structure(&mut self, ty: Type, map: &'v Map) {
        let first = self.entries.len();
        // Both sides are sorted by name.
        let mut fields = ty.fields_by_name().enumerate().peekable();
        for (key, value) in map {
            while fields.next_if(|(_, f)| f.name() < key.as_str()).is_some() {}
            if let Some((at, field)) = fields.next_if(|(_, f)| f.name() == key) {
                self.entries.push((ty.rank(at), field, value));
            }
        }
        self.entries[first..].sort_unstable_by_key(|e| e.0);
        let end = self.entries.len();
        self.out.push(b'{');
        let mut separator = false;
        for i in first..end {
            let (_, field, value) = self.entries[i];
            if std::mem::replace(&mut separator, true) {
                self.out.push(b',');
            }
            // Names of fields have nothing in them that is escaped.
            self.out.push(b'"');
            self.out.extend_from_slice(field.name().as_bytes());
            self.out.extend_from_slice(b"\":");
            self.field(field, value);
        }
        if map.len() != end - first {
            for (key, value) in map.iter().filter(|(key, _)| ty.find(key).is_none()) {
                self.name(&mut separator, key);
                self.any(value);
            }
        }
        self.entries.truncate(first);
        self.out.push(b'}');
    }

    fn name(&mut self, separator: &mut bool, name: &str) {
        if std::mem::replace(separator, true) {
            self.out.push(b',');
        }
        string(name, self.out);
        self.out.push(b':');
    }

    fn field(&mut self, field: &Field, value: &'v Value) {
        match value {
            Value::Array(list) if field.is_list() => self.list(field.ty(), list),
            Value::Object(map) if field.is_map() => {
                self.out.push(b'{');
                let mut separator = false;
                for (key, value) in map {
                    self.name(&mut separator, key);
                    self.single(field.ty(), value);
                }
                self.out.push(b'}');
            }
            _ if field.is_list() || field.is_map() => self.any(value),
            _ => self.single(field.ty(), value),
        }
    }

    fn list(&mut self, ty: Type, list: &'v [Value]) {
        self.out.push(b'[');
        for (i, value) in list.iter().enumerate() {
            if i > 0 {
                self.out.push(b',');
            }
            self.single(ty, value);
        }
        self.out.push(b']');
    }

    fn single(&mut self, ty: Type, value: &'v Value) {
        match (value, ty.builtin()) {
            (Value::Object(map), None) => self.structure(ty, map),
            (Value::Object(map), Some(Builtin::RawExtension)) => {
                let text = |key: &str| map.get(key).and_then(Value::as_str).unwrap_or_default();
                match Type::of_api_version(text("apiVersion"), text("kind")) {
                    Some(ty) => self.structure(ty, map),
                    None => self.any(value),
                }
            }
            (_, Some(Builtin::SchemaOrBool | Builtin::SchemaOrArray | Builtin::SchemaOrStrings)) => {
                match (value, schema_type()) {
                    (Value::Object(map), Some(schema)) => self.structure(schema, map),
                    (Value::Array(list), Some(schema)) => self.list(schema, list),
                    _ => self.any(value),
                }
            }
            _ => self.any(value),
        }
    }

    fn any(&mut self, value: &Value) {
        match value {
            Value::Null => self.out.extend_from_slice(b"null"),
            Value::Bool(true) => self.out.extend_from_slice(b"true"),
            Value::Bool(false) => self.out.extend_from_slice(b"false"),
            Value::Number(n) => number(n, self.out),
            Value::String(s) => string(s, self.out),
            Value::Array(list) => {
                self.out.push(b'[');
                for (i, value) in list.iter().enumerate() {
                    if i > 0 {
                        self.out.push(b',');
                    }
                    self.any(value);
                }
                self.out.push(b']');
            }
            Value::Object(map) => {
                self.out.push(b'{');
                let mut separator = false;
                for (key, value) in map {
                    self.name(&mut separator, key);
                    self.any(value);
                }
                self.out.push(b'}');
            }
        }
    }
}
