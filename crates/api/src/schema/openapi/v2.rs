//! OpenAPI v2 of everything served, as JSON and in the protobuf form that clients ask for.
//!
//! Made from the parts of the v3 documents, one resource at a time, so that the whole never stands in memory as
//! values: `kube-openapi` does the same the other way round (`pkg/builder`, `pkg/openapiconv`).

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Write};

use serde_json::{Value, json};

use super::super::{Field, Type};
use super::paths::{self, SchemaOf};
use super::{definition, gnostic, in_every_group, inline_schema, name, patch_definition};
use crate::Map;
use crate::kind::ResourceInfo;

/// What the document is made of.
pub struct Source<'a> {
    /// Groups and versions with their resources, in the order of discovery.
    pub groups: Vec<(String, String, Vec<&'a ResourceInfo>)>,
    /// Schemas of custom resources.
    pub schema_of: SchemaOf<'a>,
}

/// One piece of the document.
pub(super) enum Piece<'p> {
    Path(&'p str, Value),
    Definition(&'p str, Value),
    Parameter(&'p str, Value),
}

/// Writes the document as JSON.
pub fn json(source: &Source<'_>, out: &mut dyn Write) -> io::Result<()> {
    let head = json!({"title": "Kubernetes", "version": "unversioned"});
    write!(out, "{{\"swagger\":\"2.0\",\"info\":{head}")?;
    let mut open = "";
    walk(source, &mut |piece| {
        let (section, key, value) = match &piece {
            Piece::Path(key, value) => ("paths", key, value),
            Piece::Definition(key, value) => ("definitions", key, value),
            Piece::Parameter(key, value) => ("parameters", key, value),
        };
        let comma = if open == section { "," } else { "" };
        if open != section {
            write!(out, "{},\"{section}\":{{", if open.is_empty() { "" } else { "}" })?;
            open = section;
        }
        write!(out, "{comma}{}:", Value::from(*key))?;
        serde_json::to_writer(&mut *out, value).map_err(io::Error::from)
    })?;
    let end = json!({"BearerToken": {
        "description": "a bearer token", "type": "apiKey", "name": "authorization", "in": "header",
    }});
    let close = if open.is_empty() { "" } else { "}" };
    write!(out, "{close},\"securityDefinitions\":{end},\"security\":[{{\"BearerToken\":[]}}]}}")
}

/// The document as `openapi.v2.Document` of gnostic.
pub fn protobuf(source: &Source<'_>) -> Vec<u8> {
    let mut document = gnostic::Document::default();
    // Writing to memory does not fail.
    let _ = walk(source, &mut |piece| {
        document.add(&piece);
        Ok(())
    });
    document.finish()
}

type Visit<'v> = dyn FnMut(Piece<'_>) -> io::Result<()> + 'v;

/// Visits all paths, then all definitions, then all shared parameters.
fn walk(source: &Source<'_>, visit: &mut Visit<'_>) -> io::Result<()> {
    let mut parameters = BTreeMap::new();
    let mut roots: Vec<Type> = Vec::new();
    let mut own: BTreeMap<String, Value> = BTreeMap::new();
    let mut part = |mut part: paths::Part, visit: &mut Visit<'_>| -> io::Result<()> {
        for (path, item) in std::mem::take(&mut part.paths) {
            visit(Piece::Path(&path, path_item(item, &mut parameters)))?;
        }
        roots.append(&mut part.roots);
        own.append(&mut part.own);
        Ok(())
    };
    let mut addresses: Vec<String> = vec![".well-known/openid-configuration".into(), "api".into(), "apis".into()];
    for (group, _, _) in source.groups.iter().filter(|g| !g.0.is_empty()) {
        let address = format!("apis/{group}");
        if !addresses.contains(&address) {
            addresses.push(address);
        }
    }
    addresses.extend(["openid/v1/jwks".into(), "version".into()]);
    for address in addresses {
        if let Some(other) = paths::other_part(&address) {
            part(other, visit)?;
        }
    }
    for (group, version, infos) in &source.groups {
        for one in paths::parts(group, version, infos, source.schema_of) {
            part(one, visit)?;
        }
    }
    let mut seen = BTreeSet::new();
    while let Some(ty) = roots.pop() {
        if inline_schema(ty).is_some() || !seen.insert(ty.index()) {
            continue;
        }
        let key = name(ty);
        let mut schema = definition(ty);
        if in_every_group(&key) {
            let kind = key.rsplit('.').next().unwrap_or_default();
            let all = source.groups.iter().map(|(g, v, _)| json!({"group": g, "version": v, "kind": kind}));
            schema[super::KINDS] = all.collect();
        }
        to_v2(&mut schema);
        visit(Piece::Definition(&key, schema))?;
        roots.extend(ty.fields().map(Field::ty));
    }
    own.insert(paths::PATCH.into(), patch_definition());
    for (key, mut schema) in own {
        to_v2(&mut schema);
        visit(Piece::Definition(&key, schema))?;
    }
    for (key, parameter) in parameters {
        visit(Piece::Parameter(&key, parameter))?;
    }
    Ok(())
}

/// What v2 cannot say about a schema, or says otherwise. Custom resources lose what old clients stumble over
/// (`apiextensions-apiserver/pkg/controller/openapi/v2/conversion.go`).
fn to_v2(schema: &mut Value) {
    let Some(map) = schema.as_object_mut() else { return };
    map.remove("default");
    if let Some(Value::Array(all)) = map.remove("allOf")
        && let [one] = all.as_slice()
        && let Some(reference) = one.get("$ref")
    {
        map.insert("$ref".into(), reference.clone());
    }
    if let Some(Value::String(reference)) = map.get_mut("$ref") {
        *reference = reference.replace("#/components/schemas/", "#/definitions/");
    }
    let union = map.remove("oneOf").is_some();
    map.remove("anyOf");
    map.remove("not");
    if union && !map.contains_key("type") && !map.contains_key("properties") {
        map.insert("type".into(), "string".into());
    }
    if map.remove("nullable").is_some_and(|n| n == true) {
        for key in ["type", "items", "properties"] {
            map.remove(key);
        }
    }
    if map.get("x-kubernetes-preserve-unknown-fields").is_some_and(|p| p == true) {
        map.remove("items");
        map.remove("properties");
    }
    for key in ["items", "additionalProperties"] {
        if let Some(inner) = map.get_mut(key) {
            to_v2(inner);
        }
    }
    if let Some(Value::Object(properties)) = map.get_mut("properties") {
        properties.values_mut().for_each(to_v2);
    }
}

fn path_item(item: Value, shared: &mut BTreeMap<String, Value>) -> Value {
    let Value::Object(item) = item else { return item };
    let mut out = Map::new();
    for (key, value) in item {
        let value = match key.as_str() {
            "parameters" => parameters(value, shared),
            _ => operation(value, shared),
        };
        if value.as_array().is_none_or(|list| !list.is_empty()) {
            out.insert(key, value);
        }
    }
    Value::Object(out)
}

fn operation(mut operation: Value, shared: &mut BTreeMap<String, Value>) -> Value {
    let Some(map) = operation.as_object_mut() else { return operation };
    let id = map.get("operationId").and_then(Value::as_str).unwrap_or_default().to_owned();
    // The two kinds of discovery documents are read in any encoding, everything else takes anything.
    let discovery = id.starts_with("get") && !map.contains_key("x-kubernetes-action");
    let mut list = Vec::new();
    let mut consumes: Option<Value> = None;
    if let Some(mut body) = map.remove("requestBody") {
        let content = body["content"].take();
        let types: Vec<&String> = content.as_object().into_iter().flat_map(Map::keys).collect();
        consumes = Some(json!(types));
        let mut schema =
            content.as_object().and_then(|c| c.values().next()).map_or(Value::Null, |c| c["schema"].clone());
        to_v2(&mut schema);
        let mut parameter = json!({"in": "body", "name": "body", "schema": schema});
        if body["required"] == true {
            parameter["required"] = true.into();
        }
        list.push(parameter);
    }
    let mut produces = Value::Null;
    if let Some(Value::Object(responses)) = map.get_mut("responses") {
        for response in responses.values_mut() {
            let Some(response) = response.as_object_mut() else { continue };
            let Some(content) = response.remove("content") else { continue };
            let types: Vec<&String> = content.as_object().into_iter().flat_map(Map::keys).collect();
            produces = json!(types);
            if let Some(mut schema) = content.as_object().and_then(|c| c.values().next()).map(|c| c["schema"].clone()) {
                to_v2(&mut schema);
                response.insert("schema".into(), schema);
            }
        }
    }
    // The two documents of the issuer say nothing.
    let issuer = id.starts_with("getServiceAccountIssuer");
    let consumes = consumes.unwrap_or_else(|| if discovery { produces.clone() } else { json!(["*/*"]) });
    if !issuer {
        map.insert("consumes".into(), consumes);
    }
    map.insert("produces".into(), produces);
    map.insert("schemes".into(), json!(["https"]));
    if let Some(Value::Array(more)) = map.remove("parameters") {
        list.extend(more);
    }
    if !list.is_empty() {
        map.insert("parameters".into(), parameters(list.into(), shared));
    }
    operation
}

/// Parameters as v2 has them; those that many paths share are referred to.
fn parameters(list: Value, shared: &mut BTreeMap<String, Value>) -> Value {
    let Value::Array(list) = list else { return list };
    let one = |mut parameter: Value| {
        let place = parameter["in"].as_str().unwrap_or_default().to_owned();
        let called = parameter["name"].as_str().unwrap_or_default().to_owned();
        let mut alone = called == "name" && place == "path";
        if place == "body" {
            let of = parameter["schema"]["$ref"].as_str().unwrap_or_default();
            alone = !(of.ends_with(".Patch") || of.ends_with(".DeleteOptions"));
        } else if let Some(map) = parameter.as_object_mut()
            && let Some(Value::Object(schema)) = map.remove("schema")
        {
            map.extend(schema);
        }
        if alone {
            return parameter;
        }
        let key = format!("{called}-{:08x}", fnv(parameter.to_string().as_bytes()));
        let reference = json!({ "$ref": format!("#/parameters/{key}") });
        shared.entry(key).or_insert(parameter);
        reference
    };
    list.into_iter().map(one).collect()
}

fn fnv(bytes: &[u8]) -> u32 {
    bytes.iter().fold(0x811c_9dc5, |hash, b| (hash ^ u32::from(*b)).wrapping_mul(0x0100_0193))
}
