//! The paths of a group and version: one item for each address, one operation for each verb.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::super::Type;
use super::{definitions, name, reference_to};
use crate::Map;
use crate::kind::{ResourceInfo, Scope, SubresourceInfo};

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

pub(super) fn root(group: &str, version: &str) -> String {
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
        root: root(group, version),
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
