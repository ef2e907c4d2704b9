//! OpenAPI v3 documents from the schema table and the resources of a group and version.
//!
//! What `kubectl explain`, `apply` and clients' schema lookups read: definitions with the `x-kubernetes-*`
//! extensions, defaults and required fields, and the paths with their parameters. Descriptions are left out: they
//! are prose and not part of the table.
//!
//! Upstream: `k8s.io/kube-openapi`, `apiserver/pkg/endpoints/installer.go`.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};

use super::{Builtin, Field, Type};
use crate::Map;
use crate::kind::{ResourceInfo, Scope, SubresourceInfo};

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

const META: &str = "k8s.io/apimachinery/pkg/apis/meta/v1";
const PATCH: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.Patch";
const MEDIA: [&str; 3] = ["application/json", "application/vnd.kubernetes.protobuf", "application/yaml"];
const WATCH_MEDIA: [&str; 2] = ["application/json;stream=watch", "application/vnd.kubernetes.protobuf;stream=watch"];

fn query(name: &str, ty: &str) -> Value {
    json!({"in": "query", "name": name, "schema": {"type": ty, "uniqueItems": true}})
}

fn queries(list: &[(&str, &str)]) -> Vec<Value> {
    list.iter().map(|(name, ty)| query(name, ty)).collect()
}

const WRITE: &[(&str, &str)] = &[("dryRun", "string"), ("fieldManager", "string"), ("fieldValidation", "string")];
const PATCH_QUERY: &[(&str, &str)] =
    &[("dryRun", "string"), ("fieldManager", "string"), ("fieldValidation", "string"), ("force", "boolean")];
const DELETE: &[(&str, &str)] = &[
    ("dryRun", "string"),
    ("gracePeriodSeconds", "integer"),
    ("ignoreStoreReadErrorWithClusterBreakingPotential", "boolean"),
    ("orphanDependents", "boolean"),
    ("propagationPolicy", "string"),
];
const LIST: &[(&str, &str)] = &[
    ("allowWatchBookmarks", "boolean"),
    ("continue", "string"),
    ("fieldSelector", "string"),
    ("labelSelector", "string"),
    ("limit", "integer"),
    ("resourceVersion", "string"),
    ("resourceVersionMatch", "string"),
    ("sendInitialEvents", "boolean"),
    ("timeoutSeconds", "integer"),
    ("watch", "boolean"),
];
const DELETE_COLLECTION: &[(&str, &str)] = &[
    ("continue", "string"),
    ("dryRun", "string"),
    ("fieldSelector", "string"),
    ("gracePeriodSeconds", "integer"),
    ("ignoreStoreReadErrorWithClusterBreakingPotential", "boolean"),
    ("labelSelector", "string"),
    ("limit", "integer"),
    ("orphanDependents", "boolean"),
    ("propagationPolicy", "string"),
    ("resourceVersion", "string"),
    ("resourceVersionMatch", "string"),
    ("sendInitialEvents", "boolean"),
    ("timeoutSeconds", "integer"),
];

/// A group as it stands in operation ids: `RbacAuthorization`, `Core`.
fn group_word(group: &str) -> String {
    if group.is_empty() {
        return "Core".into();
    }
    group.trim_end_matches(".k8s.io").split(['.', '-']).map(capital).collect()
}

fn capital(word: &str) -> String {
    let mut chars = word.chars();
    chars.next().map(|c| c.to_ascii_uppercase().to_string() + chars.as_str()).unwrap_or_default()
}

/// What the operations on one path have in common.
struct Operations<'a> {
    tag: &'a str,
    id_suffix: String,
    kind: Value,
    schema: Value,
}

impl Operations<'_> {
    fn operation(
        &self,
        id_verb: &str,
        action: &str,
        parameters: Vec<Value>,
        body: Option<Value>,
        answer: &Value,
        codes: &[&str],
    ) -> Value {
        let mut media = Map::new();
        for ty in MEDIA {
            media.insert(ty.into(), json!({ "schema": answer }));
        }
        if matches!(action, "list" | "watch" | "watchlist") {
            for ty in WATCH_MEDIA {
                media.insert(ty.into(), json!({ "schema": answer }));
            }
        }
        let mut responses = Map::new();
        for code in codes {
            let description = match *code {
                "200" => "OK",
                "201" => "Created",
                _ => "Accepted",
            };
            responses.insert((*code).into(), json!({"description": description, "content": media}));
        }
        responses.insert("401".into(), json!({"description": "Unauthorized"}));
        let mut operation = json!({
            "tags": [self.tag],
            "operationId": format!("{id_verb}{}", self.id_suffix),
            "responses": responses,
            "x-kubernetes-action": action,
            "x-kubernetes-group-version-kind": self.kind,
        });
        if !parameters.is_empty() {
            operation["parameters"] = parameters.into();
        }
        if let Some(body) = body {
            operation["requestBody"] = body;
        }
        operation
    }

    fn any_body(schema: &Value, required: bool) -> Option<Value> {
        let mut body = json!({"content": {"*/*": {"schema": schema}}});
        if required {
            body["required"] = true.into();
        }
        Some(body)
    }

    fn create(&self) -> Value {
        let body = Self::any_body(&self.schema, true);
        self.operation("create", "post", queries(WRITE), body, &self.schema, &["200", "201", "202"])
    }

    fn get(&self) -> Value {
        self.operation("read", "get", Vec::new(), None, &self.schema, &["200"])
    }

    fn put(&self) -> Value {
        let body = Self::any_body(&self.schema, true);
        self.operation("replace", "put", queries(WRITE), body, &self.schema, &["200", "201"])
    }

    fn patch(&self, strategic: bool) -> Value {
        let mut types =
            vec!["application/apply-patch+yaml", "application/json-patch+json", "application/merge-patch+json"];
        if strategic {
            types.push("application/strategic-merge-patch+json");
        }
        let schema = reference_to(PATCH);
        let content: Map = types.into_iter().map(|ty| (ty.to_owned(), json!({ "schema": schema }))).collect();
        let body = json!({"content": content, "required": true});
        self.operation("patch", "patch", queries(PATCH_QUERY), Some(body), &self.schema, &["200", "201"])
    }

    fn connect(&self, method: &str) -> Value {
        let answer = json!({"type": "string"});
        let mut operation = self.operation("connect", "connect", Vec::new(), None, &answer, &["200"]);
        operation["operationId"] = self.id_suffix.replacen("METHOD", &capital(method), 1).into();
        operation["responses"]["200"]["content"] = json!({"*/*": {"schema": answer}});
        operation
    }
}

fn method(verb: &str) -> Option<&'static str> {
    Some(match verb {
        "create" => "post",
        "get" => "get",
        "update" => "put",
        "patch" => "patch",
        "delete" => "delete",
        _ => return None,
    })
}

/// The parts of a document that one resource adds to.
struct Builder<'a> {
    group: &'a str,
    version: &'a str,
    root: String,
    tag: String,
    paths: Map,
    roots: Vec<Type>,
    /// Definitions of types that are not built in.
    schema_of: &'a dyn Fn(&ResourceInfo) -> Option<Value>,
    own: BTreeMap<String, Value>,
}

impl Builder<'_> {
    fn path_parameters(namespaced: bool, named: bool) -> Vec<Value> {
        let at = |name: &str| json!({"in": "path", "name": name, "required": true, "schema": {"type": "string", "uniqueItems": true}});
        let mut list = Vec::new();
        if named {
            list.push(at("name"));
        }
        if namespaced {
            list.push(at("namespace"));
        }
        list.push(query("pretty", "string"));
        list
    }

    fn kind(&self, group: &str, version: &str, kind: &str) -> Value {
        json!({"group": group, "version": version, "kind": kind})
    }

    fn meta(&mut self, kind: &str) -> Value {
        match Type::named(&format!("{META}.{kind}")) {
            Some(ty) => {
                self.roots.push(ty);
                reference_to(&name(ty))
            }
            None => json!({"type": "object"}),
        }
    }

    /// The schema of a kind: a built-in type, one of the caller's, or any object.
    fn schema(&mut self, group: &str, version: &str, kind: &str) -> Value {
        match Type::of_kind(group, version, kind) {
            Some(ty) => {
                self.roots.push(ty);
                reference_to(&name(ty))
            }
            None => json!({"type": "object"}),
        }
    }

    /// The schemas of a resource and of its list.
    fn schemas(&mut self, info: &ResourceInfo) -> (Value, Value, bool) {
        let list_kind = format!("{}List", info.kind);
        if Type::of_kind(self.group, self.version, &info.kind).is_some() {
            let one = self.schema(self.group, self.version, &info.kind);
            let many = self.schema(self.group, self.version, &list_kind);
            return (one, many, true);
        }
        let Some(mut schema) = (self.schema_of)(info) else {
            return (json!({"type": "object"}), json!({"type": "object"}), false);
        };
        let host: Vec<&str> = self.group.split('.').rev().collect();
        let one = format!("{}.{}.{}", host.join("."), self.version, info.kind);
        let many = format!("{one}List");
        schema["x-kubernetes-group-version-kind"] = json!([self.kind(self.group, self.version, &info.kind)]);
        let list = json!({
            "type": "object",
            "required": ["items"],
            "properties": {
                "apiVersion": {"type": "string"},
                "kind": {"type": "string"},
                "metadata": {"allOf": [self.meta("ListMeta")]},
                "items": {"type": "array", "items": reference_to(&one)},
            },
            "x-kubernetes-group-version-kind": [self.kind(self.group, self.version, &list_kind)],
        });
        self.meta("ObjectMeta");
        let references = (reference_to(&one), reference_to(&many));
        self.own.insert(one, schema);
        self.own.insert(many, list);
        (references.0, references.1, false)
    }

    fn put(&mut self, path: String, namespaced: bool, named: bool, operations: Vec<(&str, Value)>) {
        if operations.is_empty() {
            return;
        }
        let mut item = json!({ "parameters": Self::path_parameters(namespaced, named) });
        for (method, operation) in operations {
            item[method] = operation;
        }
        self.paths.insert(path, item);
    }

    fn resource(&mut self, info: &ResourceInfo) {
        let namespaced = info.scope == Scope::Namespaced;
        let words = format!("{}{}", group_word(self.group), capital(self.version));
        let scope_word = if namespaced { "Namespaced" } else { "" };
        let (schema, list_schema, strategic) = self.schemas(info);
        let kind = self.kind(self.group, self.version, &info.kind);
        let tag = self.tag.clone();
        let operations =
            |suffix: String, schema: Value| Operations { tag: &tag, id_suffix: suffix, kind: kind.clone(), schema };
        let has = |verb: &str| info.verbs.contains(&verb);
        let collection = match namespaced {
            true => format!("{}/namespaces/{{namespace}}/{}", self.root, info.plural),
            false => format!("{}/{}", self.root, info.plural),
        };
        let delete_options = self.meta("DeleteOptions");
        let status = self.meta("Status");
        let watch_event = self.meta("WatchEvent");

        let ops = operations(format!("{words}{scope_word}{}", info.kind), schema.clone());
        let mut found = Vec::new();
        if has("list") {
            found.push(("get", ops.operation("list", "list", queries(LIST), None, &list_schema, &["200"])));
        }
        if has("create") {
            found.push(("post", ops.create()));
        }
        if has("deletecollection") {
            let ops = operations(format!("{words}Collection{scope_word}{}", info.kind), schema.clone());
            let body = Operations::any_body(&delete_options, false);
            let parameters = queries(DELETE_COLLECTION);
            found.push(("delete", ops.operation("delete", "deletecollection", parameters, body, &status, &["200"])));
        }
        self.put(collection.clone(), namespaced, false, found);

        let mut found = Vec::new();
        if has("get") {
            found.push(("get", ops.get()));
        }
        if has("update") {
            found.push(("put", ops.put()));
        }
        if has("patch") {
            found.push(("patch", ops.patch(strategic)));
        }
        if has("delete") {
            let body = Operations::any_body(&delete_options, false);
            found.push(("delete", ops.operation("delete", "delete", queries(DELETE), body, &status, &["200", "202"])));
        }
        let item = format!("{collection}/{{name}}");
        self.put(item.clone(), namespaced, true, found);

        if namespaced && has("list") {
            let ops = operations(format!("{words}{}ForAllNamespaces", info.kind), schema.clone());
            let list = ops.operation("list", "list", queries(LIST), None, &list_schema, &["200"]);
            self.put(format!("{}/{}", self.root, info.plural), false, false, vec![("get", list)]);
        }
        if has("watch") {
            let base = format!("{}/watch", self.root);
            let mut watch = |path: String, suffix: String, action: &str, namespaced: bool, named: bool| {
                let ops = operations(suffix, schema.clone());
                let operation = ops.operation("watch", action, queries(LIST), None, &watch_event, &["200"]);
                self.put(path, namespaced, named, vec![("get", operation)]);
            };
            let list_suffix = format!("{words}{scope_word}{}List", info.kind);
            let below = match namespaced {
                true => format!("{base}/namespaces/{{namespace}}/{}", info.plural),
                false => format!("{base}/{}", info.plural),
            };
            watch(below.clone(), list_suffix, "watchlist", namespaced, false);
            if has("get") {
                watch(
                    format!("{below}/{{name}}"),
                    format!("{words}{scope_word}{}", info.kind),
                    "watch",
                    namespaced,
                    true,
                );
            }
            if namespaced {
                let suffix = format!("{words}{}ListForAllNamespaces", info.kind);
                watch(format!("{base}/{}", info.plural), suffix, "watchlist", false, false);
            }
        }
        for sub in &info.subresources {
            self.subresource(info, sub, &item, &words, strategic);
        }
    }

    fn subresource(&mut self, info: &ResourceInfo, sub: &SubresourceInfo, item: &str, words: &str, strategic: bool) {
        let namespaced = info.scope == Scope::Namespaced;
        let scope_word = if namespaced { "Namespaced" } else { "" };
        let group = sub.group.as_deref().unwrap_or(self.group).to_owned();
        let version = sub.version.as_deref().unwrap_or(self.version).to_owned();
        let connect = sub.kind.ends_with("Options");
        let sub_word = capital(&sub.name);
        let id_suffix = match connect {
            true => format!("connect{words}METHOD{scope_word}{}{sub_word}", info.kind),
            false => format!("{words}{scope_word}{}{sub_word}", info.kind),
        };
        let schema = match (connect, sub.name == "log") {
            (true, _) | (_, true) => json!({"type": "string"}),
            _ if sub.kind == info.kind => self.schemas(info).0,
            _ => self.schema(&group, &version, &sub.kind),
        };
        let tag = self.tag.clone();
        let ops = Operations { tag: &tag, id_suffix, kind: self.kind(&group, &version, &sub.kind), schema };
        let mut found = Vec::new();
        for verb in sub.verbs {
            let Some(method) = method(verb) else { continue };
            found.push((
                method,
                match *verb {
                    _ if connect => ops.connect(method),
                    "create" => ops.create(),
                    "update" => ops.put(),
                    "patch" => ops.patch(strategic),
                    _ => ops.get(),
                },
            ));
        }
        let path = format!("{item}/{}", sub.name);
        self.put(path.clone(), namespaced, true, found);
        if connect && sub.name == "proxy" {
            let found = sub.verbs.iter().filter_map(|v| method(v)).map(|m| {
                let mut operation = ops.connect(m);
                operation["operationId"] =
                    format!("{}WithPath", operation["operationId"].as_str().unwrap_or_default()).into();
                (m, operation)
            });
            self.put(format!("{path}/{{path}}"), namespaced, true, found.collect());
        }
    }
}

fn watch_root(group: &str, version: &str) -> String {
    if group.is_empty() { format!("/api/{version}") } else { format!("/apis/{group}/{version}") }
}

/// The OpenAPI v3 document of one group and version. `schema_of` gives the schema of a resource whose type is not
/// built in (a custom resource); without one it is described as any object.
pub fn document(
    group: &str,
    version: &str,
    resources: &[&ResourceInfo],
    schema_of: &dyn Fn(&ResourceInfo) -> Option<Value>,
) -> Value {
    let word = group_word(group);
    let tag = format!("{}{}_{version}", word[..1].to_ascii_lowercase(), &word[1..]);
    let mut builder = Builder {
        group,
        version,
        root: watch_root(group, version),
        tag,
        paths: Map::new(),
        roots: Vec::new(),
        schema_of,
        own: BTreeMap::new(),
    };
    let list = builder.meta("APIResourceList");
    let root = format!("{}/", builder.root);
    builder.paths.insert(
        root,
        json!({"get": {
            "tags": [builder.tag],
            "operationId": format!("get{}{}APIResources", word, capital(version)),
            "responses": {
                "200": {"description": "OK", "content": MEDIA.map(|m| (m, json!({ "schema": list })))
                    .into_iter().map(|(m, v)| (m.to_owned(), v)).collect::<Map>()},
                "401": {"description": "Unauthorized"},
            },
        }}),
    );
    for info in resources {
        builder.resource(info);
    }
    let mut schemas = definitions(builder.roots);
    schemas.append(&mut builder.own);
    schemas.insert(PATCH.into(), json!({"type": "object"}));
    json!({
        "openapi": "3.0.0",
        "info": {"title": "Kubernetes", "version": "unversioned"},
        "paths": builder.paths,
        "components": {
            "schemas": schemas,
            "securitySchemes": {"BearerToken": {
                "type": "apiKey", "name": "authorization", "in": "header",
            }},
        },
    })
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
            let root = watch_root(&info.group, &info.version);
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
