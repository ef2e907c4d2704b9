//! Between bytes and objects: the codecs of `orkd-api` in the words of this crate.

use bytes::{BufMut, Bytes, BytesMut};
use orkd_api::codec::{self, StrictErrors, Strictness};
use orkd_api::custom::CustomKind;
use orkd_api::field::{ErrorList, Path};
use orkd_api::kind::Kind;
use orkd_api::schema::Type;
use orkd_api::status::Status;
use serde_json::Value;

use crate::cache::Entry;
use crate::negotiation::Format;
use crate::registry::options::FieldValidation;
use crate::warning::Warnings;

/// What a door takes.
#[derive(Clone, Copy)]
pub struct Door<'d> {
    /// Group of the body.
    pub group: &'d str,
    /// Version of the body.
    pub version: &'d str,
    /// Kind of the body.
    pub kind: &'d str,
    /// What knows the body where it is a custom resource; others are in the schema table.
    pub custom: Option<&'d CustomKind>,
}

impl<'d> Door<'d> {
    /// A door that takes a built-in kind.
    pub fn built_in(group: &'d str, version: &'d str, kind: &'d str) -> Self {
        Door { group, version, kind, custom: None }
    }

    /// A door that takes objects of a kind.
    pub fn of(kind: &'d dyn Kind) -> Self {
        let info = kind.info();
        Door { custom: kind.custom(), ..Door::built_in(&info.group, &info.version, &info.kind) }
    }
}

impl From<FieldValidation> for Strictness {
    fn from(validation: FieldValidation) -> Self {
        match validation {
            FieldValidation::Strict => Strictness::Strict,
            FieldValidation::Warn => Strictness::Warn,
            FieldValidation::Ignore => Strictness::Ignore,
        }
    }
}

fn type_of(kind: &dyn Kind) -> Option<Type> {
    if kind.custom().is_some() {
        return None;
    }
    let info = kind.info();
    Type::of_kind(&info.group, &info.version, &info.kind)
}

fn type_of_value(value: &Value) -> Option<Type> {
    let text = |f: &str| value[f].as_str().unwrap_or_default();
    Type::of_api_version(text("apiVersion"), text("kind"))
}

/// Reads a stored value: JSON, or protobuf as a stock API server wrote it.
pub fn decode_stored(kind: &dyn Kind, stored: &[u8]) -> Option<Value> {
    if stored.starts_with(b"k8s\0") {
        return codec::protobuf::decode(stored, type_of(kind)?).ok();
    }
    serde_json::from_slice(stored).ok()
}

/// The stored form of an object.
pub fn encode_stored(kind: &dyn Kind, object: &Value) -> Bytes {
    match type_of(kind) {
        Some(ty) => codec::json::to_vec(object, ty).into(),
        None => encode_untyped(object),
    }
}

/// Sets the defaults that the schema table states.
pub fn default(kind: &dyn Kind, object: &mut Value) {
    if let Some(ty) = type_of(kind) {
        codec::apply_schema_defaults(object, ty);
    }
}

/// Encodes an object that says its own type.
pub fn encode(object: &Value) -> Bytes {
    match type_of_value(object) {
        Some(ty) => codec::json::to_vec(object, ty).into(),
        None => encode_untyped(object),
    }
}

fn encode_untyped(object: &Value) -> Bytes {
    let mut out = Vec::new();
    codec::json::encode_untyped(object, &mut out);
    out.into()
}

fn bad(text: impl Into<String>) -> Status {
    Status::new(400, "BadRequest", text)
}

/// Decodes a body into the type of a door. Missing `kind` and `apiVersion` are those of the door.
pub fn decode(
    format: Format,
    bytes: &[u8],
    door: Door<'_>,
    validation: FieldValidation,
    warnings: &Warnings,
) -> Result<Value, Status> {
    let Door { group, version, kind, custom } = door;
    let ty = match custom {
        Some(_) => None,
        None => {
            Some(Type::of_kind(group, version, kind).ok_or_else(|| Status::internal(format!("no schema of {kind}")))?)
        }
    };
    if format == Format::Protobuf {
        return match ty {
            Some(ty) => decode_protobuf(bytes, ty, door),
            None => Err(refuse_protobuf(bytes, door)),
        };
    }
    let decoded = match (ty, custom) {
        (None, Some(custom)) => custom.decode(bytes, format == Format::Yaml, validation.into()),
        (Some(ty), _) if format == Format::Yaml => codec::yaml::decode(bytes, ty, validation.into()),
        (Some(ty), _) => codec::json::decode(bytes, ty, validation.into()),
        (None, None) => return Err(Status::internal(format!("no schema of {kind}"))),
    };
    // What a good body of a built-in kind says of itself is read on the way; of a bad one, that is told first.
    let meta = match (format, &decoded) {
        (Format::Json, Ok((value, _))) if ty.is_some() => {
            let text = |name: &str| value[name].as_str().unwrap_or_default().to_owned();
            Ok(codec::TypeMeta { api_version: text("apiVersion"), kind: text("kind") })
        }
        (Format::Yaml, _) => codec::yaml::identify(bytes),
        _ => codec::json::identify(bytes),
    };
    let meta = meta.map_err(|e| bad(codec::unrecognized(kind, &e.message, bytes)))?;
    let wanted = crate::resources::api_version(group, version);
    let (have_version, have_kind) = (
        if meta.api_version.is_empty() { wanted.as_str() } else { meta.api_version.as_str() },
        if meta.kind.is_empty() { kind } else { meta.kind.as_str() },
    );
    check_type(door, &wanted, have_version, have_kind)?;
    let (mut value, strict) = decoded.map_err(|e| bad(codec::cannot_be_handled(kind, version, kind, &e.message)))?;
    if !strict.is_empty() {
        match validation {
            FieldValidation::Strict => {
                return Err(bad(codec::cannot_be_handled(kind, version, kind, &strict.message())));
            }
            FieldValidation::Warn => warnings.extend(strict.0),
            FieldValidation::Ignore => {}
        }
    }
    if let Some(map) = value.as_object_mut() {
        map.insert("apiVersion".into(), wanted.into());
        map.insert("kind".into(), kind.into());
    }
    Ok(value)
}

/// A body of another type than the door's is refused in upstream's words.
fn check_type(door: Door<'_>, wanted: &str, have_version: &str, have_kind: &str) -> Result<(), Status> {
    let Door { group, kind, custom, .. } = door;
    if custom.is_some() {
        if have_version != wanted {
            return Err(other_version(wanted, have_version));
        }
        if have_kind != kind {
            let mut errors = ErrorList::new();
            errors.invalid(&Path::new("kind"), have_kind, format!("must be {kind}"));
            return Err(Status::invalid(group, kind, "", &errors));
        }
        return Ok(());
    }
    let (have_group, version) = have_version.split_once('/').unwrap_or(("", have_version));
    match type_problem(door, have_version, have_kind) {
        None => Ok(()),
        // Older clients evict in the version before (`EvictionREST.AcceptsGroupVersion`).
        Some(_)
            if (wanted, kind) == ("policy/v1", "Eviction") && (have_version, have_kind) == (EVICTION_BEFORE, kind) =>
        {
            Ok(())
        }
        // Versions of one kind convert, but each has a door of its own.
        Some(_) if have_group == group && have_kind == kind && Type::of_kind(group, version, kind).is_some() => {
            Err(other_version(wanted, have_version))
        }
        Some(cause) => Err(bad(codec::cannot_be_handled(have_kind, version, kind, &cause))),
    }
}

const EVICTION_BEFORE: &str = "policy/v1beta1";

fn other_version(wanted: &str, have: &str) -> Status {
    bad(format!("the API version in the data ({have}) does not match the expected API version ({wanted})"))
}

/// Why an object that says to be of a type cannot be had as the built-in kind of a door; `None` if it is of that type.
pub fn type_problem(door: Door<'_>, have_version: &str, have_kind: &str) -> Option<String> {
    let Door { group, version, kind, .. } = door;
    if have_version == crate::resources::api_version(group, version) && have_kind == kind {
        return None;
    }
    if Type::of_api_version(have_version, have_kind).is_none() {
        return Some(format!("no kind {have_kind:?} is registered for version {have_version:?} in scheme {SCHEME:?}"));
    }
    let package = if group.is_empty() { "core" } else { group.split('.').next().unwrap_or(group) };
    let (_, v) = have_version.split_once('/').unwrap_or(("", have_version));
    Some(format!("converting ({v}.{have_kind}) to ({package}.{kind}): unknown conversion"))
}

const SCHEME: &str = "pkg/api/legacyscheme/scheme.go:30";

/// Decodes a patch: no type, but well formed; the error is the decoder's text. With it comes what strict decoding complains
/// about, unless that is to be ignored.
pub fn decode_patch(
    format: Format,
    bytes: &[u8],
    validation: FieldValidation,
) -> Result<(Value, StrictErrors), String> {
    let decoded = match format {
        Format::Yaml => codec::yaml::decode_untyped(bytes, validation.into()),
        _ => codec::json::decode_untyped(bytes, validation.into()),
    };
    decoded.map_err(|e| e.message)
}

/// Normalises an object after a patch. The error is the text of what does not fit; what strict decoding complains
/// about is given back.
pub fn normalize(value: &mut Value, door: Door<'_>, validation: FieldValidation) -> Result<StrictErrors, String> {
    if let Some(custom) = door.custom {
        return custom.normalize(value, validation.into()).map_err(|e| e.message);
    }
    match Type::of_kind(door.group, door.version, door.kind) {
        Some(ty) => codec::normalize(value, ty, validation.into()).map_err(|e| e.message),
        None => Ok(StrictErrors::default()),
    }
}

/// Decodes `DeleteOptions`, which come in any group version.
pub fn decode_delete_options(format: Format, bytes: &[u8]) -> Result<Value, Status> {
    let ty = Type::of_kind("", "v1", "DeleteOptions")
        .or_else(|| Type::named("k8s.io/apimachinery/pkg/apis/meta/v1.DeleteOptions"))
        .ok_or_else(|| Status::internal("no schema of DeleteOptions"))?;
    let decoded = match format {
        Format::Json => codec::json::decode(bytes, ty, Strictness::Ignore),
        Format::Yaml => codec::yaml::decode(bytes, ty, Strictness::Ignore),
        Format::Protobuf => return decode_protobuf(bytes, ty, Door::built_in("", "v1", "DeleteOptions")),
    };
    let (value, _) = decoded.map_err(|e| bad(e.message))?;
    Ok(value)
}

/// The text Go's decoder has for bytes that are no JSON.
pub fn go_json_error(bytes: &[u8]) -> String {
    match codec::json::decode_untyped(bytes, Strictness::Ignore) {
        Err(e) => e.message,
        Ok(_) => "unexpected end of JSON input".into(),
    }
}

/// Encodes YAML.
pub fn encode_yaml(value: &Value) -> Bytes {
    codec::yaml::to_string(value).into()
}

/// Custom resources have no such form (`protobuf.errNotMarshalable`).
fn refuse_protobuf(bytes: &[u8], door: Door<'_>) -> Status {
    const WHY: &str = "object *unstructured.Unstructured does not implement the protobuf marshalling interface and cannot \
                       be encoded to a protobuf message";
    match codec::protobuf::identify(bytes) {
        Ok(meta) if !meta.kind.is_empty() => {
            bad(codec::cannot_be_handled(&meta.kind, meta.group_version().1, door.kind, WHY))
        }
        Ok(_) => bad(codec::unrecognized(door.kind, WHY, bytes)),
        Err(e) => bad(codec::unrecognized(door.kind, &e.message, bytes)),
    }
}

fn decode_protobuf(bytes: &[u8], ty: Type, door: Door<'_>) -> Result<Value, Status> {
    let Door { group, version, kind, .. } = door;
    let meta = codec::protobuf::identify(bytes).map_err(|e| bad(codec::unrecognized(kind, &e.message, bytes)))?;
    let wanted = crate::resources::api_version(group, version);
    // Options come in the version of the client's group.
    if kind != "DeleteOptions" && !(meta.api_version.is_empty() && meta.kind.is_empty()) {
        check_type(door, &wanted, &meta.api_version, &meta.kind)?;
    }
    let mut value = codec::protobuf::decode(bytes, ty)
        .map_err(|e| bad(codec::cannot_be_handled(kind, version, kind, &e.message)))?;
    if let Some(map) = value.as_object_mut() {
        map.insert("apiVersion".into(), wanted.into());
        map.insert("kind".into(), kind.into());
    }
    Ok(value)
}

/// Encodes protobuf; `None` for what has no such form.
pub fn encode_protobuf(value: &Value) -> Option<Bytes> {
    let ty = type_of_value(value).filter(|ty| codec::protobuf::has_form(*ty))?;
    let mut out = Vec::new();
    codec::protobuf::encode(value, ty, &mut out);
    Some(out.into())
}

/// The protobuf form of an entry.
pub fn entry_protobuf(entry: &Entry) -> Bytes {
    entry.protobuf(|value| encode_protobuf(value).unwrap_or_default()).clone()
}

/// Whether a kind has a protobuf form.
pub fn has_protobuf(api_version: &str, kind: &str) -> bool {
    Type::of_api_version(api_version, kind).is_some_and(codec::protobuf::has_form)
}

/// What ends every envelope: no content encoding, no content type.
pub const PROTOBUF_TAIL: &[u8] = &[0x1a, 0, 0x22, 0];

/// The object's own message inside its envelope.
pub fn protobuf_message(envelope: &[u8]) -> &[u8] {
    let find = || {
        let rest = envelope.strip_prefix(codec::protobuf::PREFIX)?.strip_prefix(&[0x0a])?;
        let (len, rest) = varint(rest)?;
        let (len, rest) = varint(rest.get(len..)?.strip_prefix(&[0x12])?)?;
        rest.get(..len)
    };
    find().unwrap_or_default()
}

fn varint(bytes: &[u8]) -> Option<(usize, &[u8])> {
    let mut value = 0usize;
    for (i, b) in bytes.iter().enumerate().take(9) {
        value |= usize::from(b & 0x7f) << (7 * i);
        if b & 0x80 == 0 {
            return Some((value, &bytes[i + 1..]));
        }
    }
    None
}

fn put_varint(out: &mut BytesMut, mut value: usize) {
    while value >= 0x80 {
        out.put_u8((value & 0x7f) as u8 | 0x80);
        value >>= 7;
    }
    out.put_u8(value as u8);
}

fn varint_len(mut value: usize) -> usize {
    let mut len = 1;
    while value >= 0x80 {
        value >>= 7;
        len += 1;
    }
    len
}

/// Writes one element of `items`, which is field 2 of every list.
pub fn put_list_item(out: &mut BytesMut, message: &[u8]) {
    out.put_u8(0x12);
    put_varint(out, message.len());
    out.put_slice(message);
}

/// The bytes an element of so many bytes takes in a list.
pub fn list_item_len(message: usize) -> usize {
    1 + varint_len(message) + message
}

/// List metadata, from JSON.
pub fn list_meta_protobuf(json: &str) -> Option<Vec<u8>> {
    let ty = Type::named("k8s.io/apimachinery/pkg/apis/meta/v1.ListMeta")?;
    let value: Value = serde_json::from_str(json).ok()?;
    let mut out = Vec::new();
    codec::protobuf::encode_message(&value, ty, &mut out);
    Some(out)
}

/// What begins an envelope of a list whose elements take `items` bytes; [`PROTOBUF_TAIL`] ends it.
pub fn protobuf_list_head(api_version: &str, kind: &str, meta: &[u8], items: usize) -> BytesMut {
    let mut type_meta = BytesMut::new();
    for (tag, text) in [(0x0a, api_version), (0x12, kind)] {
        type_meta.put_u8(tag);
        put_varint(&mut type_meta, text.len());
        type_meta.put_slice(text.as_bytes());
    }
    let mut out = BytesMut::new();
    out.put_slice(codec::protobuf::PREFIX);
    out.put_u8(0x0a);
    put_varint(&mut out, type_meta.len());
    out.put_slice(&type_meta);
    out.put_u8(0x12);
    put_varint(&mut out, list_item_len(meta.len()) + items);
    out.put_u8(0x0a);
    put_varint(&mut out, meta.len());
    out.put_slice(meta);
    out
}

/// JSON of an object as protobuf.
pub fn json_to_protobuf(json: &[u8]) -> Bytes {
    serde_json::from_slice(json).ok().and_then(|v| encode_protobuf(&v)).unwrap_or_default()
}

/// A watch frame in protobuf.
pub fn protobuf_frame(kind: &str, object: &[u8]) -> Bytes {
    codec::protobuf::watch_frame(kind, object).into()
}
