//! The paths of a group and version: one item for each address, one operation for each verb.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::super::{Builtin, Type};
use super::{definitions, describe, name, reference_to};
use crate::Map;
use crate::kind::{ResourceInfo, Scope, SubresourceInfo};

const META: &str = "k8s.io/apimachinery/pkg/apis/meta/v1";
pub(super) const PATCH: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.Patch";
const MEDIA: [&str; 3] = ["application/json", "application/vnd.kubernetes.protobuf", "application/yaml"];
const WATCH_MEDIA: [&str; 2] = ["application/json;stream=watch", "application/vnd.kubernetes.protobuf;stream=watch"];

fn query(name: &str, ty: &str) -> Value {
    let mut parameter = json!({"in": "query", "name": name, "schema": {"type": ty, "uniqueItems": true}});
    describe::set(&mut parameter, describe::parameter(name));
    parameter
}

fn at_path(name: &str) -> Value {
    let mut parameter = json!({
        "in": "path", "name": name, "required": true, "schema": {"type": "string", "uniqueItems": true},
    });
    describe::set(&mut parameter, describe::parameter(&format!("path/{name}")));
    parameter
}

/// The fields of an options type as they stand in a query.
fn options(ty: Type) -> Vec<Value> {
    let fields = ty.fields().filter(|f| f.name() != "kind" && f.name() != "apiVersion");
    fields
        .filter_map(|field| {
            let kind = match field.ty().builtin()? {
                Builtin::String => "string",
                Builtin::Int32 | Builtin::Int64 => "integer",
                Builtin::Bool => "boolean",
                _ => return None,
            };
            let mut parameter = query(field.name(), kind);
            describe::set(&mut parameter, describe::field(ty, field.name()));
            Some(parameter)
        })
        .collect()
}

/// Takes what all operations of a path have in common out of them.
fn common_parameters(operations: &mut [(&str, Value)]) -> Vec<Value> {
    let of = |operation: &Value| operation["parameters"].as_array().cloned().unwrap_or_default();
    let Some((_, first)) = operations.first() else { return Vec::new() };
    let everywhere = |p: &Value| operations.iter().all(|(_, o)| of(o).contains(p));
    let common: Vec<Value> = of(first).into_iter().filter(everywhere).collect();
    for (_, operation) in operations {
        let Some(list) = operation.get_mut("parameters").and_then(Value::as_array_mut) else { continue };
        list.retain(|p| !common.contains(p));
        if list.is_empty()
            && let Some(map) = operation.as_object_mut()
        {
            map.remove("parameters");
        }
    }
    common
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
    ("shardSelector", "string"),
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
    ("shardSelector", "string"),
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
            "description": describe_operation(action, &self.kind),
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

/// Methods that a proxy passes on beside those of its verbs.
const PROXY_ONLY: [&str; 2] = ["head", "options"];

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
    schema_of: SchemaOf<'a>,
    own: BTreeMap<String, Value>,
}

impl Builder<'_> {
    fn path_parameters(namespaced: bool, named: bool) -> Vec<Value> {
        let mut list = Vec::new();
        if named {
            list.push(at_path("name"));
        }
        if namespaced {
            list.push(at_path("namespace"));
        }
        list
    }

    /// The same, with what every resource takes.
    fn resource_parameters(namespaced: bool, named: bool) -> Vec<Value> {
        let mut list = Self::path_parameters(namespaced, named);
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
        if Type::of_kind(self.group, self.version, &info.kind).is_some() {
            let one = self.schema(self.group, self.version, &info.kind);
            let many = self.schema(self.group, self.version, &format!("{}List", info.kind));
            return (one, many, true);
        }
        let Some(OwnSchema { mut schema, list_kind }) = (self.schema_of)(info) else {
            return (json!({"type": "object"}), json!({"type": "object"}), false);
        };
        let host: Vec<&str> = self.group.split('.').rev().collect();
        let of_version = format!("{}.{}", host.join("."), self.version);
        let (one, many) = (format!("{of_version}.{}", info.kind), format!("{of_version}.{list_kind}"));
        schema["x-kubernetes-group-version-kind"] = json!([self.kind(self.group, self.version, &info.kind)]);
        let list = json!({
            "type": "object",
            "description": format!("{list_kind} is a list of {}", info.kind),
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

    fn put(&mut self, path: String, parameters: Vec<Value>, mut operations: Vec<(&str, Value)>) {
        if operations.is_empty() {
            return;
        }
        let mut parameters = parameters;
        parameters.append(&mut common_parameters(&mut operations));
        let key = |p: &Value| {
            (p["name"].as_str().unwrap_or_default().to_owned(), p["in"].as_str().unwrap_or_default().to_owned())
        };
        parameters.sort_by_key(key);
        let mut item = json!({ "parameters": parameters });
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
        self.put(collection.clone(), Self::resource_parameters(namespaced, false), found);

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
            let answer = if crate::kinds::returns_deleted(info) { &schema } else { &status };
            found.push(("delete", ops.operation("delete", "delete", queries(DELETE), body, answer, &["200", "202"])));
        }
        let item = format!("{collection}/{{name}}");
        self.put(item.clone(), Self::resource_parameters(namespaced, true), found);

        if namespaced && has("list") {
            let ops = operations(format!("{words}{}ForAllNamespaces", info.kind), schema.clone());
            let list = ops.operation("list", "list", queries(LIST), None, &list_schema, &["200"]);
            self.put(
                format!("{}/{}", self.root, info.plural),
                Self::resource_parameters(false, false),
                vec![("get", list)],
            );
        }
        if has("watch") {
            let base = format!("{}/watch", self.root);
            let mut watch = |path: String, suffix: String, action: &str, namespaced: bool, named: bool| {
                let ops = operations(suffix, schema.clone());
                let operation = ops.operation("watch", action, queries(LIST), None, &watch_event, &["200"]);
                self.put(path, Self::resource_parameters(namespaced, named), vec![("get", operation)]);
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
        let proxied = sub.name == "proxy" && connect;
        let methods = sub.verbs.iter().filter_map(|v| method(v)).chain(PROXY_ONLY.iter().copied().filter(|_| proxied));
        let methods: Vec<&'static str> = methods.collect();
        if connect {
            found.extend(methods.iter().map(|m| (*m, ops.connect(m))));
        }
        for verb in sub.verbs.iter().filter(|_| !connect) {
            let Some(method) = method(verb) else { continue };
            found.push((
                method,
                match *verb {
                    "create" => ops.create(),
                    "update" => ops.put(),
                    "patch" => ops.patch(strategic),
                    _ => ops.get(),
                },
            ));
        }
        if sub.name == "log" {
            for (_, operation) in &mut found {
                operation["responses"]["200"]["content"]["text/plain"] = json!({"schema": {"type": "string"}});
            }
        }
        let path = format!("{item}/{}", sub.name);
        let mut parameters = match connect {
            true => Self::path_parameters(namespaced, true),
            false => Self::resource_parameters(namespaced, true),
        };
        let options_of = match (connect, sub.name == "log") {
            (true, _) => Type::of_kind(&group, &version, &sub.kind),
            (_, true) => Type::of_kind(&group, &version, "PodLogOptions"),
            _ => None,
        };
        parameters.extend(options_of.into_iter().flat_map(options));
        self.put(path.clone(), parameters.clone(), found);
        if connect && sub.name == "proxy" {
            let found = methods.into_iter().map(|m| {
                let mut operation = ops.connect(m);
                operation["operationId"] =
                    format!("{}WithPath", operation["operationId"].as_str().unwrap_or_default()).into();
                (m, operation)
            });
            parameters.push(at_path("path"));
            self.put(format!("{path}/{{path}}"), parameters, found.collect());
        }
    }
}

pub(super) fn root(group: &str, version: &str) -> String {
    if group.is_empty() { format!("/api/{version}") } else { format!("/apis/{group}/{version}") }
}

/// Says what an operation does.
fn describe_operation(action: &str, kind: &Value) -> String {
    let kind = kind["kind"].as_str().unwrap_or_default();
    match action {
        "post" => format!("create {} {kind}", article(kind)),
        "get" => format!("read {} {kind}", article(kind)),
        "put" => format!("replace {} {kind}", article(kind)),
        "patch" => format!("change parts of {} {kind}", article(kind)),
        "delete" => format!("delete {} {kind}", article(kind)),
        "deletecollection" => format!("delete all selected objects of kind {kind}"),
        "list" => format!("list or watch objects of kind {kind}"),
        "watch" => format!("watch one {kind}. Deprecated: watch with a field selector on its name instead"),
        "watchlist" => format!("watch objects of kind {kind}. Deprecated: list with the parameter watch instead"),
        _ => format!("connect by {kind}"),
    }
}

fn article(word: &str) -> &'static str {
    if word.starts_with(['A', 'E', 'I', 'O', 'U']) { "an" } else { "a" }
}

/// What one group and version add to a document: paths, the types they refer to, definitions of their own.
pub(super) struct Part {
    /// Path items by address.
    pub paths: Map,
    /// Built-in types referred to.
    pub roots: Vec<Type>,
    /// Definitions of types that are not built in.
    pub own: BTreeMap<String, Value>,
}

/// The parts of one group and version, one for each resource (and the first for the group version itself).
pub(super) fn parts<'a>(
    group: &'a str,
    version: &'a str,
    resources: &'a [&'a ResourceInfo],
    schema_of: SchemaOf<'a>,
) -> impl Iterator<Item = Part> + 'a {
    let word = group_word(group);
    let tag = format!("{}{}_{version}", word[..1].to_ascii_lowercase(), &word[1..]);
    let builder = move || Builder {
        group,
        version,
        root: root(group, version),
        tag: tag.clone(),
        paths: Map::new(),
        roots: Vec::new(),
        schema_of,
        own: BTreeMap::new(),
    };
    let mut first = builder();
    first.discovery(
        &format!("{}/", first.root.clone()),
        "APIResourceList",
        &format!("get{word}{}APIResources", capital(version)),
        "get available resources",
    );
    let finish = |b: Builder<'_>| Part { paths: b.paths, roots: b.roots, own: b.own };
    std::iter::once(finish(first)).chain(resources.iter().map(move |info| {
        let mut builder = builder();
        builder.resource(info);
        finish(builder)
    }))
}

/// The parts outside the group versions, by the name of their document: `api`, `apis`, `apis/apps`, `version`,
/// `.well-known/openid-configuration`, `openid/v1/jwks`.
pub(super) fn other_part(address: &str) -> Option<Part> {
    let nothing: SchemaOf<'_> = &|_| None;
    let group = address.strip_prefix("apis/").unwrap_or_default();
    let word = group_word(group);
    let camel = |word: &str| format!("{}{}", word[..1].to_ascii_lowercase(), &word[1..]);
    let mut builder = Builder {
        group,
        version: "",
        root: String::new(),
        tag: String::new(),
        paths: Map::new(),
        roots: Vec::new(),
        schema_of: nothing,
        own: BTreeMap::new(),
    };
    let path = format!("/{address}/");
    match address {
        "api" => {
            builder.tag = "core".into();
            builder.discovery(&path, "APIVersions", "getCoreAPIVersions", "get available API versions");
        }
        "apis" => {
            builder.tag = "apis".into();
            builder.discovery(&path, "APIGroupList", "getAPIVersions", "get available API versions");
        }
        "version" => {
            let (name, definition) = version_info();
            let schema = reference_to(name);
            builder.own.insert(name.into(), definition);
            builder.plain(&path, "version", "getCodeVersion", "get the version of the server", &schema);
        }
        ".well-known/openid-configuration" => builder.plain(
            &path,
            "WellKnown",
            "getServiceAccountIssuerOpenIDConfiguration",
            "get the OpenID configuration of the issuer of service account tokens, also known as the 'OIDC discovery doc'",
            &json!({"type": "string"}),
        ),
        "openid/v1/jwks" => {
            builder.plain(
                &path,
                "openid",
                "getServiceAccountIssuerOpenIDKeyset",
                "get the keys that check service account tokens",
                &json!({"type": "string"}),
            );
            // A key set has a media type of its own.
            let content = &mut builder.paths[&path]["get"]["responses"]["200"]["content"];
            *content = json!({"application/jwk-set+json": {"schema": {"type": "string"}}});
        }
        _ if !group.is_empty() && !group.contains('/') => {
            builder.tag = camel(&word);
            builder.discovery(&path, "APIGroup", &format!("get{word}APIGroup"), "get information of a group");
        }
        _ => return None,
    }
    Some(Part { paths: builder.paths, roots: builder.roots, own: builder.own })
}

/// The answer of `/version`, which is no API type.
fn version_info() -> (&'static str, Value) {
    const FIELDS: [(&str, bool, &str); 13] = [
        ("major", true, "Major version of the server."),
        ("minor", true, "Minor version of the server."),
        ("emulationMajor", false, "Major version that the server emulates."),
        ("emulationMinor", false, "Minor version that the server emulates."),
        ("minCompatibilityMajor", false, "Major version that the server stays compatible with."),
        ("minCompatibilityMinor", false, "Minor version that the server stays compatible with."),
        ("gitVersion", true, "Full version of the server."),
        ("gitCommit", true, "Commit the server was built from."),
        ("gitTreeState", true, "Whether the source was as committed."),
        ("buildDate", true, "When the server was built."),
        ("goVersion", true, "Compiler version."),
        ("compiler", true, "Compiler name."),
        ("platform", true, "Operating system and architecture."),
    ];
    let mut properties = Map::new();
    for (name, required, text) in FIELDS {
        let mut schema = json!({"type": "string", "description": text});
        if required {
            schema["default"] = "".into();
        }
        properties.insert(name.into(), schema);
    }
    let required: Vec<&str> = FIELDS.iter().filter(|f| f.1).map(|f| f.0).collect();
    (
        "io.k8s.apimachinery.pkg.version.Info",
        json!({
            "type": "object", "description": "What /version tells of the server.",
            "properties": properties, "required": required,
        }),
    )
}

impl Builder<'_> {
    fn discovery(&mut self, path: &str, kind: &str, id: &str, description: &str) {
        let schema = self.meta(kind);
        let content: Map = MEDIA.iter().map(|m| ((*m).to_owned(), json!({ "schema": schema }))).collect();
        self.paths.insert(
            path.to_owned(),
            json!({"get": {
                "tags": [self.tag],
                "description": description,
                "operationId": id,
                "responses": {"200": {"description": "OK", "content": content}, "401": {"description": "Unauthorized"}},
            }}),
        );
    }

    fn plain(&mut self, path: &str, tag: &str, id: &str, description: &str, schema: &Value) {
        self.paths.insert(
            path.to_owned(),
            json!({"get": {
                "tags": [tag],
                "description": description,
                "operationId": id,
                "responses": {
                    "200": {"description": "OK", "content": {"application/json": {"schema": schema}}},
                    "401": {"description": "Unauthorized"},
                },
            }}),
        );
    }
}

/// Gives the schema of a resource whose type is not built in (a custom resource).
pub type SchemaOf<'a> = &'a (dyn Fn(&ResourceInfo) -> Option<OwnSchema> + 'a);

/// What a resource says whose type is not built in.
#[derive(Clone, Debug)]
pub struct OwnSchema {
    /// The schema of its objects.
    pub schema: Value,
    /// The kind of its lists.
    pub list_kind: String,
}

fn assemble(group: &str, version: &str, parts: impl Iterator<Item = Part>) -> Value {
    let (mut paths, mut roots, mut own) = (Map::new(), Vec::new(), BTreeMap::new());
    for mut part in parts {
        paths.append(&mut part.paths);
        roots.append(&mut part.roots);
        own.append(&mut part.own);
    }
    let mut schemas = definitions(roots);
    for (name, schema) in &mut schemas {
        if super::in_every_group(name)
            && !(group.is_empty() && version == "v1")
            && let Some(kinds) = schema.get_mut(super::KINDS).and_then(Value::as_array_mut)
            && let Some(mut kind) = kinds.first().cloned()
        {
            kind["group"] = group.into();
            kind["version"] = version.into();
            kinds.push(kind);
        }
    }
    schemas.append(&mut own);
    if !version.is_empty() {
        schemas.insert(PATCH.into(), super::patch_definition());
    }
    json!({
        "openapi": "3.0.0",
        "info": {"title": "Kubernetes", "version": "unversioned"},
        "paths": paths,
        "components": {
            "schemas": schemas,
            "securitySchemes": {"BearerToken": {
                "type": "apiKey", "name": "authorization", "in": "header",
                "description": "a bearer token",
            }},
        },
    })
}

/// The OpenAPI v3 document of one group and version. `schema_of` gives the schema of a resource whose type is not
/// built in (a custom resource); without one it is described as any object.
pub fn document(group: &str, version: &str, resources: &[&ResourceInfo], schema_of: SchemaOf<'_>) -> Value {
    assemble(group, version, parts(group, version, resources, schema_of))
}

/// The OpenAPI v3 document of an address outside the group versions; `None` for one that is not known.
pub fn other_document(address: &str) -> Option<Value> {
    Some(assemble("", "", std::iter::once(other_part(address)?)))
}
