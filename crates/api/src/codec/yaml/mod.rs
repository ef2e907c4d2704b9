//! YAML bodies and answers (`application/yaml`, apply patches, manifests).
//!
//! Reading has YAML 1.1's meaning of scalars, as upstream's `sigs.k8s.io/yaml` (`yes` is true, `0644` is 420,
//! merge keys are merged). A body that starts with `{` is read as JSON first. Writing follows upstream's
//! emitter: keys sorted, two spaces, lists not indented, quotes only where they are needed.

mod emit;

pub use emit::to_string;

use serde_json::Value;

use super::{DecodeError, StrictErrors, Strictness, TypeMeta, json, normalize};
use crate::schema::Type;

/// How deep YAML may nest; the limit of JSON, which what is read here becomes.
const MAX_DEPTH: usize = super::rules::MAX_DEPTH;

/// How deep a document may nest to be read on the caller's stack: the parser takes some 22 KB a level.
const SHALLOW: usize = 32;

/// The stack for deeper documents, enough for [`MAX_DEPTH`].
const DEEP_STACK: usize = 8 << 20;

fn options(duplicate_keys: serde_saphyr::DuplicateKeyPolicy, max_depth: usize) -> serde_saphyr::Options {
    let mut options = serde_saphyr::Options::default();
    options.duplicate_keys = duplicate_keys;
    options.legacy_octal_numbers = true;
    if let Some(budget) = &mut options.budget {
        budget.max_depth = max_depth;
    }
    options
}

/// Reads a document; one that nests deeply on a stack of its own.
fn parse(text: &str, duplicate_keys: serde_saphyr::DuplicateKeyPolicy) -> Result<Value, serde_saphyr::Error> {
    let read = |depth| serde_saphyr::from_str_with_options(text, options(duplicate_keys, depth));
    match read(SHALLOW) {
        Err(e) if matches!(e.without_snippet(), serde_saphyr::Error::Budget { .. }) => std::thread::scope(|scope| {
            let deep = std::thread::Builder::new().stack_size(DEEP_STACK).spawn_scoped(scope, || read(MAX_DEPTH));
            deep.ok().and_then(|thread| thread.join().ok()).unwrap_or(Err(e))
        }),
        read => read,
    }
}

fn looks_like_json(bytes: &[u8]) -> bool {
    bytes.iter().find(|b| !b.is_ascii_whitespace()) == Some(&b'{')
}

/// Reads one document as an untyped value. Keys that occur twice are reported in upstream's words.
pub fn decode_untyped(bytes: &[u8], strictness: Strictness) -> Result<(Value, StrictErrors), DecodeError> {
    if looks_like_json(bytes)
        && let Ok(read) = json::decode_untyped(bytes, strictness)
    {
        return Ok(read);
    }
    let text = String::from_utf8_lossy(bytes);
    let refuse = |e: serde_saphyr::Error| {
        let line = e.location().map(|l| format!("line {}: ", l.line())).unwrap_or_default();
        DecodeError::syntax(format!("error converting YAML to JSON: yaml: {line}{}", e.without_snippet()))
    };
    let mut errors = StrictErrors::default();
    if text.trim().is_empty() {
        return Ok((Value::Null, errors));
    }
    if strictness.reports() {
        match parse(&text, serde_saphyr::DuplicateKeyPolicy::Error) {
            Ok(value) => return Ok((value, errors)),
            Err(e) => match duplicate(&e) {
                Some(text) => errors.push(text),
                None => return Err(refuse(e)),
            },
        }
    }
    let value = parse(&text, serde_saphyr::DuplicateKeyPolicy::LastWins).map_err(refuse)?;
    Ok((value, errors))
}

/// The complaint about a key that occurs twice.
fn duplicate(e: &serde_saphyr::Error) -> Option<String> {
    match e.without_snippet() {
        serde_saphyr::Error::DuplicateMappingKey { key, location } => Some(format!(
            "yaml: unmarshal errors:\n  line {}: key {} already set in map",
            location.line(),
            crate::field::quote(key.as_deref().unwrap_or_default())
        )),
        _ => None,
    }
}

/// Decodes an object of a built-in type; see [`json::decode`]. Strict errors are in the order of the names.
pub fn decode(bytes: &[u8], ty: Type, strictness: Strictness) -> Result<(Value, StrictErrors), DecodeError> {
    if looks_like_json(bytes) {
        let read = json::decode(bytes, ty, strictness);
        if !matches!(&read, Err(e) if e.syntax) {
            return read;
        }
    }
    let (mut value, mut errors) = decode_untyped(bytes, strictness)?;
    for text in normalize(&mut value, ty, strictness)?.0 {
        errors.push(text);
    }
    Ok((value, errors))
}

/// The `apiVersion` and `kind` that a document states.
pub fn identify(bytes: &[u8]) -> Result<TypeMeta, DecodeError> {
    let (value, _) = decode_untyped(bytes, Strictness::Ignore)?;
    json::identify(json::to_string(&value).as_bytes())
}
