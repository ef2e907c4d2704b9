//! OpenAPI v3 documents from the schema table and the resources of a group and version.
//!
//! What `kubectl explain`, `apply` and clients' schema lookups read: definitions with the `x-kubernetes-*`
//! extensions, defaults and required fields, and the paths with their parameters. Descriptions are our own
//! ([`describe`]).
//!
//! Upstream: `k8s.io/kube-openapi`, `apiserver/pkg/endpoints/installer.go`.

pub mod describe;
mod gnostic;
mod gnostic3;
mod paths;
pub mod v2;

pub use gnostic3::protobuf;
pub use paths::{OwnSchema, SchemaOf, document, other_document};

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};

use super::{Builtin, Field, Type};
use crate::Map;

/// The name of a type in OpenAPI: `io.k8s.api.core.v1.Pod`.
pub fn name(ty: Type) -> String {
    let (path, short) = ty.name().rsplit_once('.').unwrap_or(("", ty.name()));
    let mut parts = path.split('/');
    let host: Vec<&str> = parts.next().unwrap_or_default().split('.').rev().collect();
    let mut out = host.join(".");
    for part in parts.chain([short]) {
        out.push('.');
        out.push_str(part);
    }
    out
}

fn reference_to(name: &str) -> Value {
    json!({ "$ref": format!("#/components/schemas/{name}") })
}

/// The schema of a value of a type, other than as a definition of its own.
fn inline_schema(ty: Type) -> Option<Value> {
    Some(match ty.builtin()? {
        Builtin::String => json!({"type": "string"}),
        Builtin::Int32 => json!({"type": "integer", "format": "int32"}),
        Builtin::Int64 => json!({"type": "integer", "format": "int64"}),
        Builtin::Bool => json!({"type": "boolean"}),
        Builtin::Float64 => json!({"type": "number", "format": "double"}),
        Builtin::Bytes => json!({"type": "string", "format": "byte"}),
        Builtin::Interface => json!({"type": "object"}),
        Builtin::Duration => json!({"type": "string"}),
        Builtin::ExtraValue => json!({"type": "array", "items": {"type": "string"}}),
        _ => return None,
    })
}

/// The schema of a field's values; a definition is referred to, wrapped where a default stands beside it.
fn element(ty: Type, default: &str, wrap: bool) -> Value {
    let default = serde_json::from_str::<Value>(default).ok();
    let mut schema = match inline_schema(ty) {
        Some(schema) => schema,
        None if wrap || default.is_some() => json!({ "allOf": [reference_to(&name(ty))] }),
        None => reference_to(&name(ty)),
    };
    if let Some(default) = default {
        schema["default"] = default;
    }
    schema
}

fn property(field: &Field) -> Value {
    let extra = field.extra();
    let mut schema = if field.is_list() {
        json!({"type": "array", "items": element(field.ty(), extra.element_default, false)})
    } else if field.is_map() {
        json!({"type": "object", "additionalProperties": element(field.ty(), extra.element_default, false)})
    } else {
        element(field.ty(), extra.default, true)
    };
    match extra.list_type {
        1 => schema["x-kubernetes-list-type"] = "atomic".into(),
        2 => schema["x-kubernetes-list-type"] = "set".into(),
        3 => schema["x-kubernetes-list-type"] = "map".into(),
        _ => {}
    }
    if !extra.keys.is_empty() {
        schema["x-kubernetes-list-map-keys"] = json!(extra.keys);
    }
    match extra.map_type {
        1 => schema["x-kubernetes-map-type"] = "atomic".into(),
        2 => schema["x-kubernetes-map-type"] = "granular".into(),
        _ => {}
    }
    for (key, text) in
        [("x-kubernetes-patch-strategy", extra.strategy), ("x-kubernetes-patch-merge-key", extra.merge_key)]
    {
        if !text.is_empty() {
            schema[key] = text.into();
        }
    }
    schema
}

/// A number that changes whenever what documents are made of changes: the table of types and the descriptions.
pub fn revision() -> u64 {
    static REVISION: std::sync::LazyLock<u64> = std::sync::LazyLock::new(|| {
        let mut hash = describe::digest();
        let mut add = |text: &str, number: usize| {
            for byte in text.bytes().chain(number.to_le_bytes()) {
                hash = (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
            }
        };
        for ty in Type::all() {
            add(ty.name(), ty.field_count());
            for field in ty.fields() {
                add(
                    field.name(),
                    field.ty().index() * 64 + usize::from(field.is_list()) * 2 + usize::from(field.is_map()),
                );
                add(field.default_text(), usize::from(field.required()));
            }
        }
        hash
    });
    *REVISION
}

const KINDS: &str = "x-kubernetes-group-version-kind";

/// Whether a kind is registered in every group and version.
fn in_every_group(name: &str) -> bool {
    name.ends_with(".meta.v1.DeleteOptions") || name.ends_with(".meta.v1.WatchEvent")
}

fn patch_definition() -> Value {
    let mut schema = json!({"type": "object"});
    describe::set(&mut schema, "A patch: the operations or the part of an object that a PATCH request sends.");
    schema
}

/// Types of which at most one field is set: Go name, discriminator (empty for none), fields and their names.
type Union = (&'static str, &'static str, &'static [(&'static str, &'static str)]);

const UNIONS: &[Union] = &[
    ("k8s.io/api/core/v1.AppArmorProfile", "type", &[("localhostProfile", "LocalhostProfile")]),
    ("k8s.io/api/core/v1.PodSchedulingGroup", "", &[("podGroupName", "PodGroupName")]),
    ("k8s.io/api/core/v1.SeccompProfile", "type", &[("localhostProfile", "LocalhostProfile")]),
    ("k8s.io/api/flowcontrol/v1.LimitResponse", "type", &[("queuing", "Queuing")]),
    (
        "k8s.io/api/flowcontrol/v1.PriorityLevelConfigurationSpec",
        "type",
        &[("exempt", "Exempt"), ("limited", "Limited")],
    ),
    (
        "k8s.io/api/flowcontrol/v1.Subject",
        "kind",
        &[("group", "Group"), ("serviceAccount", "ServiceAccount"), ("user", "User")],
    ),
    ("k8s.io/api/scheduling/v1alpha2.PodGroupSchedulingPolicy", "", &[("basic", "Basic"), ("gang", "Gang")]),
    ("k8s.io/api/scheduling/v1alpha2.PodGroupTemplateReference", "", &[("workload", "Workload")]),
];

fn union(ty: Type) -> Option<Value> {
    let (_, discriminator, fields) = UNIONS.iter().find(|u| u.0 == ty.name())?;
    let fields: Map = fields.iter().map(|(f, n)| ((*f).to_owned(), (*n).into())).collect();
    let mut union = json!({ "fields-to-discriminateBy": fields });
    if !discriminator.is_empty() {
        union["discriminator"] = (*discriminator).into();
    }
    Some(json!([union]))
}

/// The definition of a type.
pub fn definition(ty: Type) -> Value {
    let mut schema = bare_definition(ty);
    describe::set(&mut schema, describe::ty(ty));
    schema
}

fn bare_definition(ty: Type) -> Value {
    if let Some(builtin) = ty.builtin() {
        return match builtin {
            Builtin::Quantity => json!({"oneOf": [{"type": "string"}, {"type": "number"}]}),
            Builtin::IntOrString => {
                json!({"format": "int-or-string", "oneOf": [{"type": "integer"}, {"type": "string"}]})
            }
            Builtin::Time | Builtin::MicroTime => json!({"type": "string", "format": "date-time"}),
            Builtin::RawExtension | Builtin::FieldsV1 => json!({"type": "object"}),
            _ => inline_schema(ty).unwrap_or_else(|| json!({})),
        };
    }
    let mut schema = json!({"type": "object"});
    let mut properties = Map::new();
    let mut required = Vec::new();
    for field in ty.fields() {
        let mut schema = property(field);
        describe::set(&mut schema, describe::field(ty, field.name()));
        properties.insert(field.name().into(), schema);
        if field.required() {
            required.push(field.name());
        }
    }
    if !properties.is_empty() {
        schema["properties"] = properties.into();
    }
    if !required.is_empty() {
        schema["required"] = json!(required);
    }
    match ty.map_type_code() {
        1 => schema["x-kubernetes-map-type"] = "atomic".into(),
        2 => schema["x-kubernetes-map-type"] = "granular".into(),
        _ => {}
    }
    // A kind that has the wire form of another version is no second name of that version's type.
    let of_every_version = ty.name().starts_with("k8s.io/apimachinery/");
    let version = ty.name().rsplit('/').next().and_then(|tail| tail.split('.').next());
    let kinds: Vec<Value> = Type::kinds()
        .filter(|k| k.3 == ty && (of_every_version || version == Some(k.1)))
        .map(|(group, version, kind, _)| json!({"group": group, "kind": kind, "version": version}))
        .collect();
    if !kinds.is_empty() {
        schema[KINDS] = kinds.into();
    }
    if let Some(union) = union(ty) {
        schema["x-kubernetes-unions"] = union;
    }
    schema
}

/// The definitions of some types and of all that they refer to, by name.
pub fn definitions(roots: impl IntoIterator<Item = Type>) -> BTreeMap<String, Value> {
    let mut open: Vec<Type> = roots.into_iter().collect();
    let mut seen: BTreeSet<usize> = BTreeSet::new();
    let mut out = BTreeMap::new();
    while let Some(ty) = open.pop() {
        if inline_schema(ty).is_some() || !seen.insert(ty.index()) {
            continue;
        }
        out.insert(name(ty), definition(ty));
        open.extend(ty.fields().map(Field::ty));
    }
    out
}

#[cfg(test)]
mod tests;
