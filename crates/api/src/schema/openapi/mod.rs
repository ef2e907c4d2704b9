//! OpenAPI v3 documents from the schema table and the resources of a group and version.
//!
//! What `kubectl explain`, `apply` and clients' schema lookups read: definitions with the `x-kubernetes-*`
//! extensions, defaults and required fields, and the paths with their parameters. Descriptions are left out: they
//! are prose and not part of the table.
//!
//! Upstream: `k8s.io/kube-openapi`, `apiserver/pkg/endpoints/installer.go`.

mod paths;

pub use paths::document;

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

/// The definition of a type.
pub fn definition(ty: Type) -> Value {
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
        properties.insert(field.name().into(), property(field));
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
    let kinds: Vec<Value> = Type::kinds()
        .filter(|k| k.3 == ty)
        .map(|(group, version, kind, _)| json!({"group": group, "kind": kind, "version": version}))
        .collect();
    if !kinds.is_empty() {
        schema["x-kubernetes-group-version-kind"] = kinds.into();
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
mod tests {
    use super::*;

    fn without_prose(value: &mut Value) {
        match value {
            Value::Object(map) => {
                if map.get("description").is_some_and(Value::is_string) {
                    map.remove("description");
                }
                map.values_mut().for_each(without_prose);
            }
            Value::Array(list) => list.iter_mut().for_each(without_prose),
            _ => {}
        }
    }

    fn recorded() -> Vec<Value> {
        let root = match std::env::var_os("ORKD_SHARED") {
            Some(dir) => std::path::PathBuf::from(dir),
            None => std::path::PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../../shared"),
        };
        let Ok(files) = std::fs::read_dir(root.join("kubernetes-1.36/openapi/v3")) else {
            eprintln!("skipped: no ../shared");
            return Vec::new();
        };
        files
            .map(|f| serde_json::from_slice(&std::fs::read(f.expect("entry").path()).expect("read")).expect("json"))
            .collect()
    }

    #[test]
    fn definitions_are_upstreams() {
        let mut all = definitions(Type::all());
        let mut checked = 0;
        for mut document in recorded() {
            without_prose(&mut document["components"]["schemas"]);
            for (name, want) in document["components"]["schemas"].as_object().into_iter().flatten() {
                // Alpha types have no row; kinds of these two depend on the document.
                let Some(got) = all.get_mut(name) else { continue };
                let mut want = want.clone();
                want.as_object_mut().map(|map| map.remove("x-kubernetes-unions"));
                if let (Some(Value::Array(g)), Some(Value::Array(w))) =
                    (got.get_mut("required"), want.get_mut("required"))
                {
                    g.sort_by_key(Value::to_string);
                    w.sort_by_key(Value::to_string);
                }
                if name.ends_with(".DeleteOptions") || name.ends_with(".WatchEvent") {
                    want["x-kubernetes-group-version-kind"] = got["x-kubernetes-group-version-kind"].clone();
                }
                for (field, property) in want.get_mut("properties").and_then(Value::as_object_mut).into_iter().flatten()
                {
                    if property.get("$ref").is_some() {
                        *property = json!({ "allOf": [property.take()] });
                    }
                    assert_eq!(got["properties"][field], *property, "{name}.{field}");
                }
                assert_eq!(*got, want, "{name}");
                checked += 1;
            }
        }
        assert!(checked == 0 || checked > 700, "only {checked}");
    }

    #[test]
    fn paths_are_upstreams() {
        let documents = recorded();
        let mut checked = 0;
        for kind in crate::kinds::all() {
            let info = kind.info();
            let ours = document(&info.group, &info.version, &[info], &|_| None);
            let root = paths::root(&info.group, &info.version);
            let Some(theirs) = documents.iter().find(|d| d["paths"].get(format!("{root}/")).is_some()) else {
                continue;
            };
            let belongs = |path: &str| {
                let rest = path.trim_start_matches(&root).trim_start_matches("/watch").trim_start_matches('/');
                let rest = rest.strip_prefix("namespaces/{namespace}/").unwrap_or(rest);
                rest.split('/').next() == Some(&*info.plural)
            };
            let paths = theirs["paths"].as_object().expect("paths");
            for (path, item) in ours["paths"].as_object().expect("paths") {
                let Some(want) = paths.get(path) else { panic!("{path} is not upstream's") };
                for (method, operation) in item.as_object().expect("item") {
                    for key in ["operationId", "tags", "x-kubernetes-action", "x-kubernetes-group-version-kind"] {
                        if method != "parameters" {
                            assert_eq!(operation.get(key), want[method].get(key), "{path} {method} {key}");
                        }
                    }
                }
                checked += 1;
            }
            for path in paths.keys().filter(|p| belongs(p)) {
                if ours["paths"].get(path).is_none() {
                    eprintln!("not ours: {path}");
                }
            }
        }
        assert!(documents.is_empty() || checked > 20, "only {checked}");
    }
}
