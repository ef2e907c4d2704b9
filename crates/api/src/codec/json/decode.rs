//! Decoding by schema.
//!
//! As Go's decoder, it goes on after a value of the wrong type, so that bad syntax anywhere is reported before a
//! wrong type, and of several wrong types the first.
//!
//! Of two occurrences of a key the last wins. (Go decodes the second into what the first left, so that two
//! objects under one key are merged; nobody relies on it.)

use std::borrow::Cow;

use serde_json::Value;

use super::super::rules::{self, Context, Step, Token};
use super::super::{DecodeError, StrictErrors, Strictness, TypeMeta};
use super::lexer::{Lexer, Result};
use crate::Map;
use crate::schema::{Builtin, Field, Type};

/// Decodes an object of a built-in type. The value is normalised (see [`crate::codec`]).
///
/// The second part of the answer is empty with [`Strictness::Ignore`]; with [`Strictness::Strict`] the caller
/// refuses the object if it is not empty.
pub fn decode(bytes: &[u8], ty: Type, strictness: Strictness) -> Result<(Value, StrictErrors)> {
    let text = String::from_utf8_lossy(bytes);
    let mut decoder = Decoder { lexer: Lexer::new(&text, bytes), cx: Context::new(strictness) };
    let value = decoder.single(ty)?.unwrap_or_else(|| rules::zero_of(ty));
    decoder.lexer.end()?;
    Ok((value, decoder.cx.finish()?))
}

/// Decodes any JSON, such as a custom resource. Only keys that occur twice are reported.
pub fn decode_untyped(bytes: &[u8], strictness: Strictness) -> Result<(Value, StrictErrors)> {
    let text = String::from_utf8_lossy(bytes);
    let mut lexer = Lexer::new(&text, bytes);
    let mut errors = StrictErrors::default();
    let mut path = String::new();
    let value = lexer.any(strictness.reports().then_some((&mut errors, &mut path)))?;
    lexer.end()?;
    Ok((value, errors))
}

/// The `apiVersion` and `kind` that a document states, with upstream's error texts.
pub fn identify(bytes: &[u8]) -> Result<TypeMeta> {
    let wrap = |e: DecodeError| DecodeError {
        message: format!("couldn't get version/kind; json parse error: {}", e.message),
        syntax: e.syntax,
    };
    let text = String::from_utf8_lossy(bytes);
    let mut lexer = Lexer::new(&text, bytes);
    let mut meta = TypeMeta::default();
    let mut wrong = None;
    let mut read = || -> Result<()> {
        match lexer.peek() {
            Some(b'{') => {
                let mut more = lexer.begin_object()?;
                while more {
                    let key = lexer.key()?;
                    let slot = match key.as_ref() {
                        "apiVersion" => Some(&mut meta.api_version),
                        "kind" => Some(&mut meta.kind),
                        _ => None,
                    };
                    match (slot, lexer.peek()) {
                        (Some(slot), Some(b'"')) => *slot = lexer.string()?.into_owned(),
                        (Some(_), Some(first)) if first != b'n' => {
                            let found = kind_of(first);
                            wrong.get_or_insert_with(|| {
                                format!("json: cannot unmarshal {found} into Go struct field .{key} of type string")
                            });
                            lexer.skip()?;
                        }
                        _ => lexer.skip()?,
                    }
                    more = lexer.more_object()?;
                }
            }
            first => {
                lexer.skip()?;
                if let Some(first) = first.filter(|b| *b != b'n') {
                    wrong = Some(format!(
                        "json: cannot unmarshal {} into Go value of type struct {{ APIVersion string \
                         \"json:\\\"apiVersion,omitempty\\\"\"; Kind string \"json:\\\"kind,omitempty\\\"\" }}",
                        kind_of(first)
                    ));
                }
            }
        }
        lexer.end()
    };
    read().map_err(wrap)?;
    match wrong {
        Some(text) => Err(wrap(DecodeError::content(text))),
        None => Ok(meta),
    }
}

/// As Go's errors call a value with this first byte.
fn kind_of(first: u8) -> &'static str {
    match first {
        b'{' => "object",
        b'[' => "array",
        b'"' => "string",
        b't' | b'f' => "bool",
        _ => "number",
    }
}

struct Decoder<'a> {
    lexer: Lexer<'a>,
    cx: Context<'a>,
}

impl<'a> Decoder<'a> {
    /// A value of another type than wanted: reported and passed over.
    fn mismatch(&mut self, first: u8, go: &str) -> Result<Option<Value>> {
        self.cx.type_fault(kind_of(first), go);
        self.lexer.skip()?;
        Ok(None)
    }

    /// A struct, from its `{`.
    fn structure(&mut self, ty: Type) -> Result<Value> {
        let mut map = Map::new();
        let mut seen = 0u128;
        let mut kept = 0u128;
        let stored_as_json = rules::stored_as_json(ty);
        let mut more = self.lexer.begin_object()?;
        while more {
            let key = self.lexer.key()?;
            match ty.find(&key) {
                Some((at, field)) => {
                    let bit = 1u128 << at;
                    if self.cx.on && seen & bit != 0 {
                        self.cx.report("duplicate", &key);
                    }
                    seen |= bit;
                    // Null leaves what an earlier occurrence of the key set, as Go does.
                    let value = self.field(ty, field)?;
                    if let Some(value) = value.and_then(|value| rules::keep(field, value, stored_as_json)) {
                        kept |= bit;
                        map.insert(key.into_owned(), value);
                    }
                }
                None => {
                    if self.cx.on {
                        self.cx.report("unknown", &key);
                    }
                    self.lexer.skip()?;
                }
            }
            more = self.lexer.more_object()?;
        }
        for (at, field) in ty.fields_by_name().enumerate() {
            if kept & (1u128 << at) == 0
                && let Some(value) = rules::absent(field)
            {
                map.insert(field.name().to_owned(), value);
            }
        }
        Ok(Value::Object(map))
    }

    /// The value of a field; `None` for null and for a value of the wrong type.
    fn field(&mut self, ty: Type, field: &'static Field) -> Result<Option<Value>> {
        let outer = self.cx.outer.replace(ty);
        self.cx.names.push(field.name());
        if self.cx.on {
            self.cx.path.push(Step::Name(field.name()));
        }
        let value = if field.is_list() {
            self.list(field.ty(), &|| field.go_type())
        } else if field.is_map() {
            self.map(field)
        } else {
            self.single(field.ty())
        };
        if self.cx.on {
            self.cx.path.pop();
        }
        self.cx.names.pop();
        self.cx.outer = outer;
        value
    }

    fn null(&mut self) -> Result<Option<Value>> {
        self.lexer.literal("null")?;
        Ok(None)
    }

    fn list(&mut self, ty: Type, go: &dyn Fn() -> String) -> Result<Option<Value>> {
        match self.lexer.peek() {
            Some(b'[') => {}
            Some(b'n') => return self.null(),
            Some(first) => return self.mismatch(first, &go()),
            None => return self.lexer.unexpected(""),
        }
        let mut list = Vec::new();
        let mut more = self.lexer.begin_array()?;
        while more {
            if self.cx.on {
                self.cx.path.push(Step::Index(list.len()));
            }
            let value = self.single(ty)?;
            if self.cx.on {
                self.cx.path.pop();
            }
            list.push(value.unwrap_or_else(|| rules::zero_of(ty)));
            more = self.lexer.more_array()?;
        }
        Ok(Some(Value::Array(list)))
    }

    fn map(&mut self, field: &'static Field) -> Result<Option<Value>> {
        match self.lexer.peek() {
            Some(b'{') => {}
            Some(b'n') => return self.null(),
            Some(first) => return self.mismatch(first, &field.go_type()),
            None => return self.lexer.unexpected(""),
        }
        let ty = field.ty();
        let mut map = Map::new();
        let mut more = self.lexer.begin_object()?;
        while more {
            let key = self.lexer.key()?;
            if self.cx.on && map.contains_key(key.as_ref()) {
                self.cx.report("duplicate", &key);
            }
            let value = if self.cx.on && ty.builtin().is_none() {
                self.cx.path.push(Step::Key(key.clone()));
                let value = self.single(ty)?;
                self.cx.path.pop();
                value
            } else {
                self.single(ty)?
            };
            map.insert(key.into_owned(), value.unwrap_or_else(|| rules::zero_of(ty)));
            more = self.lexer.more_object()?;
        }
        Ok(Some(Value::Object(map)))
    }

    /// A value of a type that is not wrapped in a list or map.
    fn single(&mut self, ty: Type) -> Result<Option<Value>> {
        let first = match self.lexer.peek() {
            Some(b'n') => return self.null(),
            Some(first) => first,
            None => return self.lexer.unexpected(""),
        };
        let Some(builtin) = ty.builtin() else {
            return if first == b'{' { self.structure(ty).map(Some) } else { self.mismatch(first, ty.go_name()) };
        };
        match builtin {
            Builtin::Interface | Builtin::RawExtension | Builtin::FieldsV1 | Builtin::Json => {
                self.lexer.any(None).map(Some)
            }
            Builtin::ExtraValue => match Type::named("string") {
                Some(string) => self.list(string, &|| "v1.ExtraValue".into()),
                None => self.lexer.any(None).map(Some),
            },
            Builtin::SchemaOrBool | Builtin::SchemaOrArray | Builtin::SchemaOrStrings => self.schema_or(builtin, first),
            _ => {
                let token = match first {
                    b'"' => Token::String(self.lexer.string()?),
                    b'-' | b'0'..=b'9' => Token::Number(Cow::Borrowed(self.lexer.number()?)),
                    b't' => self.lexer.literal("true").map(|()| Token::Bool(true))?,
                    b'f' => self.lexer.literal("false").map(|()| Token::Bool(false))?,
                    b'{' => self.lexer.skip().map(|()| Token::Object)?,
                    b'[' => self.lexer.skip().map(|()| Token::Array)?,
                    _ => return self.lexer.unexpected("looking for beginning of value"),
                };
                match rules::scalar(builtin, token) {
                    Ok(value) => Ok(Some(value)),
                    Err(fault) => {
                        self.cx.fault(fault);
                        Ok(None)
                    }
                }
            }
        }
    }

    /// A schema or something else. What is inside is not checked strictly: upstream decodes it apart.
    fn schema_or(&mut self, builtin: Builtin, first: u8) -> Result<Option<Value>> {
        let Some(schema) = schema_type() else { return self.lexer.any(None).map(Some) };
        let strict = std::mem::replace(&mut self.cx.on, false);
        let value = match (builtin, first) {
            (_, b'{') => self.structure(schema).map(Some),
            (Builtin::SchemaOrBool, b't' | b'f') => self.lexer.any(None).map(Some),
            (Builtin::SchemaOrBool, _) => {
                self.cx.fault(rules::Fault::Own("boolean or JSON schema expected".into()));
                self.lexer.skip().map(|()| None)
            }
            (Builtin::SchemaOrArray, b'[') => self.list(schema, &|| "[]v1.JSONSchemaProps".into()),
            (_, b'[') => match Type::named("string") {
                Some(string) => self.list(string, &|| "[]string".into()),
                None => self.lexer.any(None).map(Some),
            },
            _ => self.lexer.skip().map(|()| None),
        };
        self.cx.on = strict;
        value
    }
}

/// `apiextensions/v1.JSONSchemaProps`.
pub(in crate::codec) fn schema_type() -> Option<Type> {
    Type::named("k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1.JSONSchemaProps")
}
