//! Between bytes and objects: JSON, YAML and protobuf, all driven by the schema table.
//!
//! What comes out of every `decode` is *normalised*: it is what a v1.36 server would hold after it decoded the
//! same bytes into Go structs. Fields that Go would leave out are gone (`hostNetwork: false`, `null`, empty
//! lists with `omitempty`), fields that Go always writes are there (`resources: {}`, `status: {}`), quantities,
//! times and durations are canonical, unknown fields are dropped and reported as [`StrictErrors`]. [`normalize`]
//! does the same to a value in memory, after a patch.
//!
//! Upstream: `sigs.k8s.io/json`, `k8s.io/apimachinery/pkg/runtime/serializer`.

pub mod json;
pub mod normalize;
pub mod protobuf;
mod rules;
pub mod yaml;

pub use normalize::{apply_schema_defaults, normalize};

use crate::schema::Type;

/// What to do with fields that the schema does not know and with keys that occur twice
/// (`fieldValidation` of a request).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Strictness {
    /// Nothing: they are dropped, the last of two keys wins.
    Ignore,
    /// They are reported; the caller sends warnings.
    #[default]
    Warn,
    /// They are reported; the caller refuses the request with [`StrictErrors::message`].
    Strict,
}

impl Strictness {
    /// The strictness of a `fieldValidation` parameter; `None` for an unknown one.
    pub fn of_parameter(text: &str) -> Option<Self> {
        Some(match text {
            "" | "Warn" => Strictness::Warn,
            "Ignore" => Strictness::Ignore,
            "Strict" => Strictness::Strict,
            _ => return None,
        })
    }

    fn reports(self) -> bool {
        self != Strictness::Ignore
    }
}

/// What strict decoding complains about, in the order of the document: `unknown field "spec.nope"`,
/// `duplicate field "data.a"`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StrictErrors(pub Vec<String>);

impl StrictErrors {
    /// Upstream reports at most this many.
    const LIMIT: usize = 101;

    /// Whether there is nothing to complain about.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn push(&mut self, text: String) {
        if self.0.len() < Self::LIMIT && !self.0.contains(&text) {
            self.0.push(text);
        }
    }

    /// The error text of a strict request: `strict decoding error: ...`.
    pub fn message(&self) -> String {
        format!("strict decoding error: {}", self.0.join(", "))
    }
}

/// Why bytes are no object.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct DecodeError {
    /// The text, as upstream words it (`json: cannot unmarshal ...`, `unexpected end of JSON input`).
    pub message: String,
    /// The bytes are not well formed; else they are, but do not fit the type.
    pub syntax: bool,
}

impl DecodeError {
    fn syntax(message: impl Into<String>) -> Self {
        DecodeError { message: message.into(), syntax: true }
    }

    fn content(message: impl Into<String>) -> Self {
        DecodeError { message: message.into(), syntax: false }
    }
}

/// The message of the 400 for a body whose kind is known: `Pod in version "v1" cannot be handled as a Pod: ...`.
pub fn cannot_be_handled(kind: &str, version: &str, wanted_kind: &str, cause: &str) -> String {
    format!("{kind} in version {version:?} cannot be handled as a {wanted_kind}: {cause}")
}

/// The message of the 400 for a body whose kind cannot be told:
/// `the object provided is unrecognized (must be of type Pod): ... (<empty>)`.
pub fn unrecognized(wanted_kind: &str, cause: &str, body: &[u8]) -> String {
    format!("the object provided is unrecognized (must be of type {wanted_kind}): {cause} ({})", summary(body))
}

/// The beginning of a body for an error text.
fn summary(body: &[u8]) -> String {
    const MAX: usize = 30;
    let (head, more) = if body.len() > MAX { (&body[..MAX], " ...") } else { (body, "") };
    match body.first() {
        None => "<empty>".into(),
        Some(b'{') => format!("{}{more}", String::from_utf8_lossy(head)),
        Some(_) => {
            let hex: String = head.iter().map(|b| format!("{b:02x}")).collect();
            format!("0x{hex}{more}")
        }
    }
}

/// What bytes say of themselves: `apiVersion` and `kind`, empty where absent.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TypeMeta {
    /// Such as `apps/v1`.
    pub api_version: String,
    /// Such as `Deployment`.
    pub kind: String,
}

impl TypeMeta {
    /// Group and version.
    pub fn group_version(&self) -> (&str, &str) {
        self.api_version.split_once('/').unwrap_or(("", &self.api_version))
    }

    /// The built-in type.
    pub fn builtin(&self) -> Option<Type> {
        Type::of_api_version(&self.api_version, &self.kind)
    }
}

#[cfg(test)]
mod tests;
