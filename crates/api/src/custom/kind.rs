//! [`CustomKind`]: a version of a definition as a kind.
//!
//! Upstream: `pkg/registry/customresource` of `k8s.io/apiextensions-apiserver`, and the coercing decoder of
//! `pkg/apiserver/customresource_handler.go`.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;

use serde_json::Value;

use super::columns::Columns;
use super::meta::Malformed;
use super::scale::ScalePaths;
use super::{Structural, defaulting, meta, openapi, pruning, rules, scale, validation};
use crate::codec::{self, DecodeError, StrictErrors, Strictness};
use crate::field::{ErrorList, ErrorType, Path, quote};
use crate::kind::{Cells, Cx, Kind, MetaRules, Name, ResourceInfo, Scope, SubresourceInfo};
use crate::object::{at, list, set, text};
use crate::schema::Node;
use crate::strategy::first_generation;

/// Why a definition makes no kind.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DefinitionError {
    /// It has no such version.
    #[error("the definition {definition} has no version {version:?}")]
    NoVersion {
        /// Its name.
        definition: String,
        /// The version asked for.
        version: String,
    },
    /// A name that a kind must have is missing.
    #[error("the definition {definition} lacks {field}")]
    Missing {
        /// Its name.
        definition: String,
        /// The path of the field.
        field: &'static str,
    },
}

/// Every verb of a custom resource, in the order of discovery.
const VERBS: &[&str] = &["delete", "deletecollection", "get", "list", "patch", "create", "update", "watch"];
const SUB_VERBS: &[&str] = &["get", "patch", "update"];

/// Reads a definition again: a kind does not keep the descriptions of its schema.
#[derive(Clone)]
pub struct Source(Arc<dyn Fn() -> Option<Value> + Send + Sync>);

impl Source {
    /// From a function that gives the definition, if there still is one.
    pub fn new(read: impl Fn() -> Option<Value> + Send + Sync + 'static) -> Source {
        Source(Arc::new(read))
    }
}

impl fmt::Debug for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Source")
    }
}

/// A version of a definition as a kind.
#[derive(Debug)]
pub struct CustomKind {
    info: ResourceInfo,
    schema: Structural,
    api_version: String,
    list_kind: String,
    served: bool,
    storage: bool,
    has_status: bool,
    /// `spec.preserveUnknownFields`: nothing is pruned. Of definitions that were made for an old version of the API.
    preserve: bool,
    scale: Option<ScalePaths>,
    deprecation: Option<String>,
    columns: Columns,
    /// Fields usable in selectors: the label, and the names of the fields to the value.
    selectable: Vec<(String, Vec<String>)>,
    source: Option<Source>,
}

impl CustomKind {
    /// The kind of one version of a definition that has been validated.
    pub fn new(definition: &Value, version: &str) -> Result<CustomKind, DefinitionError> {
        let name = text(definition, &["metadata", "name"]);
        let found = list(definition, &["spec", "versions"]).iter().find(|v| text(v, &["name"]) == version);
        let Some(of_version) = found else {
            return Err(DefinitionError::NoVersion { definition: name.to_owned(), version: version.to_owned() });
        };
        let need = |path: &[&str], field: &'static str| match text(definition, path) {
            "" => Err(DefinitionError::Missing { definition: name.to_owned(), field }),
            text => Ok(text.to_owned()),
        };
        let group = need(&["spec", "group"], "spec.group")?;
        let plural = need(&["spec", "names", "plural"], "spec.names.plural")?;
        let kind = need(&["spec", "names", "kind"], "spec.names.kind")?;
        let or = |field: &str, default: String| match text(definition, &["spec", "names", field]) {
            "" => default,
            text => text.to_owned(),
        };
        let names = |field: &str| -> Vec<Name> {
            let names = list(definition, &["spec", "names", field]);
            names.iter().filter_map(Value::as_str).map(|n| Name::Owned(n.to_owned())).collect()
        };
        let subresources = at(of_version, &["subresources"]);
        let has_status = !at(subresources, &["status"]).is_null();
        let scale = Some(at(subresources, &["scale"])).filter(|s| s.is_object()).and_then(ScalePaths::of);
        let api_version = format!("{group}/{version}");
        let columns = Columns::of(of_version);
        let selectable = list(of_version, &["selectableFields"])
            .iter()
            .filter_map(|field| text(field, &["jsonPath"]).strip_prefix('.'))
            .map(|path| (path.to_owned(), path.split('.').map(str::to_owned).collect()))
            .collect();
        let info = ResourceInfo {
            scope: if text(definition, &["spec", "scope"]) == "Cluster" { Scope::Cluster } else { Scope::Namespaced },
            singular: or("singular", kind.to_lowercase()).into(),
            short_names: names("shortNames"),
            categories: names("categories"),
            verbs: VERBS,
            subresources: subresource_infos(&kind, has_status, scale.is_some()),
            storage_prefix: format!("{group}/{plural}").into(),
            type_name: definition_name(&group, version, &kind).into(),
            columns: columns.facts(),
            version: version.to_owned().into(),
            group: group.into(),
            plural: plural.into(),
            kind: kind.clone().into(),
        };
        let deprecation = (of_version["deprecated"] == true).then(|| match text(of_version, &["deprecationWarning"]) {
            "" => format!("{api_version} {kind} is deprecated"),
            warning => warning.to_owned(),
        });
        Ok(CustomKind {
            info,
            schema: Structural::compile(at(of_version, &["schema", "openAPIV3Schema"])),
            api_version,
            list_kind: or("listKind", format!("{kind}List")),
            served: of_version["served"] == true,
            storage: of_version["storage"] == true,
            has_status,
            preserve: at(definition, &["spec", "preserveUnknownFields"]) == &Value::Bool(true),
            scale,
            deprecation,
            columns,
            selectable,
            source: None,
        })
    }

    /// The kind with a way to read its definition again, for the descriptions in OpenAPI.
    pub fn with_source(self, source: Source) -> CustomKind {
        CustomKind { source: Some(source), ..self }
    }

    /// Every version of a definition, in the definition's order.
    pub fn all(definition: &Value) -> Result<Vec<CustomKind>, DefinitionError> {
        let versions = list(definition, &["spec", "versions"]).iter();
        versions.map(|version| CustomKind::new(definition, text(version, &["name"]))).collect()
    }

    /// Whether the version is served.
    pub fn is_served(&self) -> bool {
        self.served
    }

    /// Whether objects are stored in this version.
    pub fn is_storage(&self) -> bool {
        self.storage
    }

    /// Group and version.
    pub fn api_version(&self) -> &str {
        &self.api_version
    }

    /// The kind of lists.
    pub fn list_kind(&self) -> &str {
        &self.list_kind
    }

    /// The compiled schema.
    pub fn schema(&self) -> &Structural {
        &self.schema
    }

    /// The schema for patches, apply and managed fields.
    pub fn node(&self) -> Node<'_> {
        self.schema.node()
    }

    /// Where the numbers of the scale stand, if the version has that subresource.
    pub fn scale(&self) -> Option<&ScalePaths> {
        self.scale.as_ref()
    }

    /// Makes an object one of this version, as conversion `None` does: only what it says it is changes.
    pub fn adopt(&self, object: &mut Value) {
        set(object, &["apiVersion"], self.api_version.as_str());
        set(object, &["kind"], &*self.info.kind);
    }

    /// Reads an object of this version from JSON or YAML and brings it into normal form ([`CustomKind::normalize`]).
    pub fn decode(
        &self,
        bytes: &[u8],
        yaml: bool,
        strictness: Strictness,
    ) -> Result<(Value, StrictErrors), DecodeError> {
        let decode = if yaml { codec::yaml::decode_untyped } else { codec::json::decode_untyped };
        let (mut value, mut errors) = decode(bytes, strictness)?;
        errors.0.extend(self.normalize(&mut value, strictness)?.0);
        Ok((value, errors))
    }

    /// Brings an object into normal form: metadata fits its type, what the schema does not know is gone, and so are
    /// nulls that mean nothing. The answer tells of unknown fields.
    pub fn normalize(&self, value: &mut Value, strictness: Strictness) -> Result<StrictErrors, DecodeError> {
        let unknown = self.coerce(value, Malformed::Refuse, strictness != Strictness::Ignore)?;
        Ok(StrictErrors(unknown.iter().map(|path| format!("unknown field {path:?}")).collect()))
    }

    /// Brings an object read from storage in this version into the form that is served: as [`CustomKind::normalize`],
    /// but metadata that does not fit is dropped, an object has a generation, and defaults are set. Whether anything
    /// was changed by it.
    pub fn restore(&self, value: &mut Value) -> bool {
        let before = value.clone();
        if self.coerce(value, Malformed::Drop, false).is_err() {
            *value = before;
            return false;
        }
        if at(value, &["metadata"]).is_object() && at(value, &["metadata", "generation"]).as_i64().unwrap_or(0) == 0 {
            first_generation(value);
        }
        defaulting::default(value, self.schema.root());
        *value != before
    }

    /// Upstream: `unstructuredSchemaCoercer.apply`.
    fn coerce(&self, value: &mut Value, malformed: Malformed, paths: bool) -> Result<Vec<String>, DecodeError> {
        let root = self.schema.root();
        let Some(map) = value.as_object_mut() else { return Ok(Vec::new()) };
        let mut unknown = meta::of_object(map, malformed, paths)?;
        if !self.preserve {
            unknown.extend(pruning::prune(value, root, paths));
            pruning::drop_nulls(value, root);
        }
        let embedded = meta::of_embedded(&Path::root(), value, root, malformed, paths);
        unknown.extend(embedded.map_err(|e| DecodeError { message: e.to_string(), syntax: false })?);
        Ok(unknown)
    }
}

/// Problems that rules are not evaluated with (`hasBlockingErr`).
const BLOCKING: [ErrorType; 5] =
    [ErrorType::NotSupported, ErrorType::Required, ErrorType::TooLong, ErrorType::TooMany, ErrorType::TypeInvalid];
const NOT_CHECKED: &str = "some validation rules were not checked because the object was invalid; correct the existing \
                           errors to complete validation";

/// The way an object comes in.
#[derive(Clone, Copy, PartialEq)]
enum Door {
    Main,
    Status,
}

impl CustomKind {
    /// The problems of an object. Upstream: `Validate` and `ValidateUpdate` of the two strategies.
    fn problems(&self, obj: &Value, old: Option<&Value>, door: Door) -> ErrorList {
        let mut errs = ErrorList::new();
        for (field, wanted) in [("kind", &*self.info.kind), ("apiVersion", &self.api_version)] {
            if text(obj, &[field]) != wanted {
                errs.invalid(&Path::new(field), text(obj, &[field]), format!("must be {wanted}"));
            }
        }
        if !errs.is_empty() {
            return errs;
        }
        let root = self.schema.root();
        match door {
            Door::Main => {
                errs.extend(validation::validate(&Path::root(), obj, old, root));
                if let Some(paths) = &self.scale {
                    scale::spec(&mut errs, paths, obj);
                }
            }
            Door::Status => {
                if let (Some(status), Some(schema)) = (obj.get("status"), root.property("status")) {
                    let old = old.and_then(|old| old.get("status"));
                    errs.extend(validation::validate(&Path::new("status"), status, old, schema));
                }
            }
        }
        if let Some(paths) = &self.scale {
            scale::status(&mut errs, paths, obj);
        }
        if door == Door::Main {
            meta::validate(&mut errs, &Path::root(), obj, root);
        }
        let lists = |obj: &Value| {
            let mut errs = ErrorList::new();
            validation::lists::validate(&mut errs, &Path::root(), obj, root);
            errs
        };
        let of_lists = lists(obj);
        if !of_lists.is_empty() && old.is_none_or(|old| lists(old).is_empty()) {
            errs.extend(of_lists);
        }
        if root.has_rules() {
            if errs.0.iter().any(|e| BLOCKING.contains(&e.kind)) {
                errs.invalid(&Path::root(), "null", NOT_CHECKED);
            } else {
                errs.extend(rules::validate(self.schema.compiled(), &Path::root(), obj, old, root));
            }
        }
        errs
    }
}

fn subresource_infos(kind: &str, status: bool, scale: bool) -> Vec<SubresourceInfo> {
    let status = status.then(|| SubresourceInfo {
        name: "status".into(),
        kind: kind.to_owned().into(),
        group: None,
        version: None,
        verbs: SUB_VERBS,
    });
    let scale = scale.then(|| SubresourceInfo {
        name: "scale".into(),
        kind: "Scale".into(),
        group: Some("autoscaling".into()),
        version: Some("v1".into()),
        verbs: SUB_VERBS,
    });
    status.into_iter().chain(scale).collect()
}

/// The name of a type in OpenAPI: the group from its end, version and kind.
fn definition_name(group: &str, version: &str, kind: &str) -> String {
    let mut parts: Vec<&str> = group.split('.').rev().collect();
    parts.extend([version, kind]);
    parts.join(".")
}

impl Kind for CustomKind {
    fn info(&self) -> &ResourceInfo {
        &self.info
    }

    fn node(&self) -> Option<Node<'_>> {
        Some(CustomKind::node(self))
    }

    fn custom(&self) -> Option<&CustomKind> {
        Some(self)
    }

    fn default(&self, obj: &mut Value) {
        defaulting::default(obj, self.schema.root());
    }

    fn prepare_create(&self, _cx: &Cx<'_>, obj: &mut Value) {
        if self.has_status
            && let Some(map) = obj.as_object_mut()
        {
            map.remove("status");
        }
        first_generation(obj);
    }

    fn prepare_update(&self, cx: &Cx<'_>, new: &mut Value, old: &Value) {
        if cx.subresource == Some("status") {
            let status = at(new, &["status"]).clone();
            let managed = at(new, &["metadata", "managedFields"]).clone();
            let has_status = new.get("status").is_some();
            *new = old.clone();
            put(new, &["metadata", "managedFields"], managed.is_array().then_some(managed));
            put(new, &["status"], has_status.then_some(status));
            return;
        }
        if self.has_status {
            put(new, &["status"], old.get("status").cloned());
        }
        if !same_but_metadata(new, old) {
            let generation = at(old, &["metadata", "generation"]).as_i64().unwrap_or_default();
            set(new, &["metadata", "generation"], generation + 1);
        }
    }

    fn validate(&self, _cx: &Cx<'_>, obj: &Value) -> ErrorList {
        self.problems(obj, None, Door::Main)
    }

    fn validate_update(&self, cx: &Cx<'_>, new: &Value, old: &Value) -> ErrorList {
        let door = if cx.subresource == Some("status") { Door::Status } else { Door::Main };
        self.problems(new, Some(old), door)
    }

    fn meta_rules(&self) -> MetaRules {
        MetaRules::Machinery
    }

    fn warnings(&self, cx: &Cx<'_>, new: &Value, old: Option<&Value>) -> Vec<String> {
        if cx.subresource == Some("status") {
            return Vec::new();
        }
        let of = |obj| list(obj, &["metadata", "finalizers"]).iter().filter_map(Value::as_str).collect::<BTreeSet<_>>();
        let before = old.map(of).unwrap_or_default();
        let added = of(new).into_iter().filter(|f| !before.contains(f) && !f.contains('/'));
        let unusual = added.filter(|f| !matches!(*f, "orphan" | "foregroundDeletion"));
        unusual
            .map(|finalizer| {
                format!(
                    "metadata.finalizers: {}: prefer a domain-qualified finalizer name including a path (/) to avoid \
                     accidental conflicts with other finalizer writers",
                    quote(finalizer)
                )
            })
            .collect()
    }

    fn selectable_fields(&self, obj: &Value) -> Vec<(Name, String)> {
        let value = |path: &[String]| match path.iter().try_fold(obj, |v, name| v.get(name)) {
            Some(Value::String(text)) => text.clone(),
            Some(value @ (Value::Bool(_) | Value::Number(_))) => value.to_string(),
            _ => String::new(),
        };
        self.selectable.iter().map(|(label, path)| (label.clone().into(), value(path))).collect()
    }

    fn cells(&self, obj: &Value, now: jiff::Timestamp) -> Cells {
        self.columns.cells(obj, now)
    }

    fn openapi_schema(&self) -> Option<Value> {
        let definition = self.source.as_ref().and_then(|source| source.0());
        let versions = definition.as_ref().map(|d| list(d, &["spec", "versions"])).unwrap_or_default();
        let version = versions.iter().find(|v| text(v, &["name"]) == self.info.version);
        Some(match version.map(|v| at(v, &["schema", "openAPIV3Schema"])) {
            Some(schema) => openapi::schema(schema),
            None => openapi::schema(&self.schema.root().to_json()),
        })
    }

    fn deprecation(&self) -> Option<Cow<'_, str>> {
        self.deprecation.as_deref().map(Cow::Borrowed)
    }

    fn reset_fields(&self, subresource: Option<&str>) -> &'static [&'static [&'static str]] {
        match subresource {
            None if self.has_status => &[&["status"]],
            Some("status") => &[&["spec"]],
            _ => &[],
        }
    }

    fn unconditional_update(&self) -> bool {
        false
    }
}

/// Sets a field, or removes it.
fn put(obj: &mut Value, path: &[&str], value: Option<Value>) {
    match value {
        Some(value) => set(obj, path, value),
        None => {
            crate::object::remove(obj, path);
        }
    }
}

/// Whether two objects differ in their metadata at most.
fn same_but_metadata(a: &Value, b: &Value) -> bool {
    let (Some(a), Some(b)) = (a.as_object(), b.as_object()) else { return a == b };
    let rest = |map: &crate::Map| map.keys().filter(|k| *k != "metadata").count();
    rest(a) == rest(b) && a.iter().filter(|(k, _)| *k != "metadata").all(|(k, v)| b.get(k) == Some(v))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::validate::testing::with_cx;

    fn definition(version: Value) -> Value {
        let mut first = json!({"name": "v1", "served": true, "storage": true, "schema": {"openAPIV3Schema": {
            "type": "object", "properties": {"spec": {"type": "object", "properties": {
                "replicas": {"type": "integer", "default": 1}}}, "status": {"type": "object", "properties": {
                "replicas": {"type": "integer"}}}}}}});
        if let (Some(first), Value::Object(more)) = (first.as_object_mut(), version) {
            first.extend(more);
        }
        json!({"metadata": {"name": "foos.ex.io"}, "spec": {"group": "ex.io", "scope": "Namespaced", "names": {
            "kind": "Foo", "plural": "foos", "shortNames": ["f"], "categories": ["all"]}, "versions": [first]}})
    }

    fn kind(version: Value) -> CustomKind {
        CustomKind::new(&definition(version), "v1").expect("a kind")
    }

    #[test]
    fn facts() {
        let kind = kind(json!({"deprecated": true, "subresources": {"status": {}, "scale": {
            "specReplicasPath": ".spec.replicas", "statusReplicasPath": ".status.replicas"}}}));
        let info = kind.info();
        assert_eq!((&*info.singular, kind.list_kind(), kind.api_version()), ("foo", "FooList", "ex.io/v1"));
        assert_eq!((&*info.storage_prefix, &*info.type_name), ("ex.io/foos", "io.ex.v1.Foo"));
        assert_eq!(info.subresources.iter().map(|s| &*s.name).collect::<Vec<_>>(), ["status", "scale"]);
        assert_eq!(kind.deprecation().as_deref(), Some("ex.io/v1 Foo is deprecated"));
        let scale = kind.scale().expect("a scale");
        assert_eq!((scale.spec_replicas.join("/"), scale.selector.clone()), ("spec/replicas".into(), None));
        let error = CustomKind::new(&definition(json!({})), "v2").expect_err("no such version");
        assert_eq!(error.to_string(), "the definition foos.ex.io has no version \"v2\"");
        assert!(CustomKind::all(&json!({"spec": {"versions": [{}]}})).is_err());
    }

    #[test]
    fn decoding() {
        let kind = kind(json!({}));
        let body = br#"{"apiVersion": "ex.io/v1", "kind": "Foo", "metadata": {"name": "n", "x": 1}, "spec": {"a": 1, "a": 2, "replicas": null}}"#;
        let (value, errors) = kind.decode(body, false, Strictness::Strict).expect("an object");
        assert_eq!(
            value,
            json!({"apiVersion": "ex.io/v1", "kind": "Foo", "metadata": {"name": "n"}, "spec": {"replicas": null}})
        );
        assert_eq!(
            errors.message(),
            "strict decoding error: duplicate field \"spec.a\", unknown field \"metadata.x\", unknown field \"spec.a\""
        );
        let mut value = value;
        Kind::default(&kind, &mut value);
        assert_eq!(value["spec"], json!({"replicas": 1}));
    }

    #[test]
    fn what_was_stored_is_brought_up_to_date() {
        let kind = kind(json!({}));
        let mut value = json!({"metadata": {"name": "n", "labels": 1}, "spec": {"gone": 1}});
        assert!(kind.restore(&mut value));
        assert_eq!(value, json!({"metadata": {"name": "n", "generation": 1}, "spec": {"replicas": 1}}));
        assert!(!kind.restore(&mut value));
    }

    #[test]
    fn objects_are_validated() {
        let kind = kind(json!({"subresources": {"status": {}, "scale": {
            "specReplicasPath": ".spec.replicas", "statusReplicasPath": ".status.replicas"}}}));
        let object = |spec: Value, status: Value| json!({"apiVersion": "ex.io/v1", "kind": "Foo", "spec": spec, "status": status});
        let problems = |errs: ErrorList| errs.0.iter().map(ToString::to_string).collect::<Vec<_>>();
        let good = object(json!({"replicas": 1}), json!({"replicas": 1}));
        assert_eq!(with_cx(None, |cx| problems(kind.validate(cx, &good))), [""; 0]);
        let negative = object(json!({"replicas": -1}), json!({"replicas": 1}));
        assert_eq!(
            with_cx(None, |cx| problems(kind.validate(cx, &negative))),
            [".spec.replicas: Invalid value: -1: should be a non-negative integer"]
        );
        let text = object(json!({"replicas": 1}), json!({"replicas": "x"}));
        assert_eq!(
            with_cx(Some("status"), |cx| problems(kind.validate_update(cx, &text, &good))),
            [
                "status.replicas: Invalid value: \"string\": replicas in body must be of type integer: \"string\"",
                ".status.replicas: Invalid value: 0: .status.replicas accessor error: x is of the type string, expected int64",
            ]
        );
        let other = json!({"apiVersion": "ex.io/v2", "kind": "Foo"});
        assert_eq!(
            with_cx(None, |cx| problems(kind.validate(cx, &other))),
            ["apiVersion: Invalid value: \"ex.io/v2\": must be ex.io/v1"]
        );
    }

    #[test]
    fn fields_and_descriptions() {
        let version = json!({"selectableFields": [{"jsonPath": ".spec.color"}, {"jsonPath": ".spec.size"}]});
        let kind = kind(version.clone());
        let fields =
            |obj: Value| kind.selectable_fields(&obj).into_iter().map(|(k, v)| format!("{k}={v}")).collect::<Vec<_>>();
        assert_eq!(fields(json!({"spec": {"color": "red", "size": 5}})), ["spec.color=red", "spec.size=5"]);
        assert_eq!(fields(Value::Null), ["spec.color=", "spec.size="]);

        let plain = kind.openapi_schema().expect("a schema");
        assert_eq!(plain["properties"]["spec"]["properties"]["replicas"]["default"], 1);
        let mut described = definition(version);
        described["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["description"] = json!("what it is");
        let kind = kind.with_source(Source::new(move || Some(described.clone())));
        assert_eq!(kind.openapi_schema().expect("a schema")["description"], "what it is");
    }

    #[test]
    fn finalizers_have_a_domain_and_a_path() {
        let kind = kind(json!({}));
        let with = |finalizers: Value| json!({"metadata": {"finalizers": finalizers}});
        let warnings = |new: Value, old: Option<Value>| with_cx(None, |cx| kind.warnings(cx, &new, old.as_ref()));
        assert_eq!(warnings(with(json!(["ex.io/a", "orphan"])), None), [""; 0]);
        assert_eq!(warnings(with(json!(["a"])), Some(with(json!(["a"])))), [""; 0]);
        assert_eq!(
            warnings(with(json!(["a"])), None),
            [
                "metadata.finalizers: \"a\": prefer a domain-qualified finalizer name including a path (/) to avoid accidental \
              conflicts with other finalizer writers"
            ]
        );
    }

    #[test]
    fn the_status_is_written_through_its_own_door() {
        let with = kind(json!({"subresources": {"status": {}}}));
        let without = kind(json!({}));
        let old =
            json!({"metadata": {"name": "n", "generation": 3}, "spec": {"replicas": 1}, "status": {"replicas": 1}});
        let update = |kind: &CustomKind, subresource: Option<&'static str>, mut new: Value| {
            with_cx(subresource, |cx| kind.prepare_update(cx, &mut new, &old));
            new
        };
        let new = json!({"metadata": {"name": "n", "generation": 3, "labels": {"a": "b"}}, "spec": {"replicas": 2}, "status": {"replicas": 9}});
        let got = update(&with, None, new.clone());
        assert_eq!((&got["metadata"]["generation"], &got["status"]["replicas"]), (&json!(4), &json!(1)));
        let got = update(&without, None, new.clone());
        assert_eq!((&got["metadata"]["generation"], &got["status"]["replicas"]), (&json!(4), &json!(9)));
        let got = update(&with, Some("status"), new);
        let expected =
            json!({"metadata": {"name": "n", "generation": 3}, "spec": {"replicas": 1}, "status": {"replicas": 9}});
        assert_eq!(got, expected);
        let labelled =
            json!({"metadata": {"name": "n", "generation": 3, "labels": {"a": "b"}}, "spec": {"replicas": 1}});
        assert_eq!(update(&with, None, labelled)["metadata"]["generation"], 3);
        let mut created = json!({"metadata": {"name": "n"}, "status": {"replicas": 1}});
        with_cx(None, |cx| with.prepare_create(cx, &mut created));
        assert_eq!(created, json!({"metadata": {"name": "n", "generation": 1}}));
    }
}
