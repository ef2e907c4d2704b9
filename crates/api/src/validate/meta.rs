//! What every object has: `metadata`. The API server calls [`validate_meta`] before `Kind::validate` and
//! [`validate_meta_update`] before `Kind::validate_update`; their problems come first in the answer.
//!
//! Upstream: `k8s.io/apimachinery/pkg/api/validation/objectmeta.go`. The version precondition
//! (`metadata.resourceVersion: must be specified for an update`) is the caller's, who knows whether the kind allows
//! unconditional updates.

use serde_json::Value;

use super::labels;
use crate::field::{ErrorList, Path};
use crate::kind::{Kind, Scope};
use crate::object::{View, at, same};

/// Bytes all annotations of an object may have, keys and values together.
pub const MAX_ANNOTATIONS: usize = 256 * 1024;

/// Finalizers without a domain that have a meaning.
const STANDARD_FINALIZERS: [&str; 3] = ["kubernetes", "foregroundDeletion", "orphan"];

/// Checks the metadata of a new object.
///
/// Kinds that can only be created (reviews, bindings, bodies of subresources) have no identity to check.
pub fn validate_meta(kind: &dyn Kind, obj: &Value) -> ErrorList {
    let mut errs = ErrorList::new();
    if kind.info().verbs == crate::kinds::CREATE_ONLY {
        return errs;
    }
    let meta = View::root(obj).get("metadata");
    let (name, prefix, namespace) = (meta.get("name"), meta.get("generateName"), meta.get("namespace"));
    if !prefix.str().is_empty() {
        for problem in kind.validate_name(prefix.str(), true) {
            errs.invalid(prefix.path(), prefix.str(), problem);
        }
    }
    if name.str().is_empty() {
        errs.required(name.path(), "name or generateName is required");
    } else {
        for problem in kind.validate_name(name.str(), false) {
            errs.invalid(name.path(), name.str(), problem);
        }
    }
    match kind.info().scope {
        Scope::Namespaced if namespace.str().is_empty() => errs.required(namespace.path(), ""),
        Scope::Namespaced => super::dns_label_at(&mut errs, &namespace),
        Scope::Cluster if !namespace.str().is_empty() => {
            errs.forbidden(namespace.path(), "not allowed on this type");
        }
        Scope::Cluster => {}
    }
    super::non_negative(&mut errs, &meta.get("generation"));
    common(&mut errs, &meta);
    for finalizer in meta.items("finalizers") {
        finalizer_name(&mut errs, finalizer.str(), finalizer.path());
    }
    let both = |name: &str| meta.items("finalizers").iter().any(|f| f.str() == name);
    if both("orphan") && both("foregroundDeletion") {
        let finalizers = meta.get("finalizers");
        errs.invalid(
            finalizers.path(),
            finalizers.value(),
            "finalizer set cannot contain both orphan and foregroundDeletion",
        );
    }
    managed_fields(&mut errs, &meta.get("managedFields"));
    errs
}

/// Checks changed metadata: what may not change, and the rest as for a new object.
pub fn validate_meta_update(new: &Value, old: &Value) -> ErrorList {
    let mut errs = ErrorList::new();
    let meta = View::root(new).get("metadata");
    let old = at(old, &["metadata"]);
    if !at(old, &["deletionTimestamp"]).is_null() {
        let before = View::at(Path::root(), old).get("finalizers").strs();
        let added: Vec<String> = meta
            .get("finalizers")
            .strs()
            .into_iter()
            .filter(|f| !before.contains(f))
            .map(crate::field::quote)
            .collect();
        if !added.is_empty() {
            errs.forbidden(
                meta.get("finalizers").path(),
                format!(
                    "no new finalizers can be added if the object is being deleted, found new finalizers []string{{{}}}",
                    added.join(", ")
                ),
            );
        }
    }
    let generation = meta.get("generation").int().unwrap_or_default();
    if generation < at(old, &["generation"]).as_i64().unwrap_or_default() {
        errs.invalid(meta.get("generation").path(), generation, "must not be decremented");
    }
    for field in ["name", "namespace", "uid", "creationTimestamp", "deletionTimestamp", "deletionGracePeriodSeconds"] {
        let v = meta.get(field);
        if !same(v.value(), at(old, &[field])) {
            errs.invalid(v.path(), v.value(), "field is immutable");
        }
    }
    common(&mut errs, &meta);
    for finalizer in meta.items("finalizers") {
        for problem in crate::names::qualified_name(finalizer.str()) {
            errs.invalid(finalizer.path(), finalizer.str(), problem);
        }
    }
    managed_fields(&mut errs, &meta.get("managedFields"));
    errs
}

fn common(errs: &mut ErrorList, meta: &View<'_>) {
    labels::labels(errs, &meta.get("labels"));
    annotations(errs, &meta.get("annotations"));
    owners(errs, &meta.get("ownerReferences"));
}

/// Annotations: their keys are qualified names whatever the case, and all together are not too long.
pub fn annotations(errs: &mut ErrorList, map: &View<'_>) {
    let mut size = 0;
    for (key, value) in map.entries() {
        for problem in crate::names::qualified_name(&key.to_lowercase()) {
            errs.invalid(map.path(), key, problem);
        }
        size += key.len() + value.len();
    }
    if size > MAX_ANNOTATIONS {
        errs.too_long(map.path(), MAX_ANNOTATIONS);
    }
}

fn owners(errs: &mut ErrorList, list: &View<'_>) {
    let path = list.path();
    let mut controller: Option<&str> = None;
    for owner in list.list() {
        let version = owner.get("apiVersion").str();
        if version.split('/').next_back().unwrap_or_default().is_empty() {
            errs.invalid(&path.child("apiVersion"), version, "version must not be empty");
        }
        for field in ["kind", "name", "uid"] {
            let value = owner.get(field).str();
            if value.is_empty() {
                errs.invalid(&path.child(field), value, "must not be empty");
            }
        }
        if version == "v1" && owner.get("kind").str() == "Event" {
            errs.invalid(path, owner.value(), "/v1, Kind=Event is disallowed from being an owner");
        }
        if owner.get("controller").is_true() {
            let name = owner.get("name").str();
            match controller {
                Some(first) => errs.invalid(
                    path,
                    list.value(),
                    format!(
                        "Only one reference can have Controller set to true. Found \"true\" in references for {first} \
                         and {name}"
                    ),
                ),
                None => controller = Some(name),
            }
        }
    }
}

/// The name of a finalizer: a qualified name, with a domain unless it is one of the standard ones.
pub fn finalizer_name(errs: &mut ErrorList, name: &str, path: &Path) {
    for problem in crate::names::qualified_name(name) {
        errs.invalid(path, name, problem);
    }
    if !name.contains('/') && !STANDARD_FINALIZERS.contains(&name) {
        errs.invalid(path, name, "name is neither a standard finalizer name nor is it fully qualified");
    }
}

fn managed_fields(errs: &mut ErrorList, list: &View<'_>) {
    for entry in list.list() {
        let operation = entry.get("operation");
        if !matches!(operation.str(), "Apply" | "Update") {
            errs.invalid(operation.path(), operation.str(), "must be `Apply` or `Update`");
        }
        let ty = entry.get("fieldsType");
        if !ty.str().is_empty() && ty.str() != "FieldsV1" {
            errs.invalid(ty.path(), ty.str(), "must be `FieldsV1`");
        }
        let manager = entry.get("manager");
        field_manager(errs, manager.str(), manager.path());
        let subresource = entry.get("subresource");
        if subresource.len() > 256 {
            errs.too_long(subresource.path(), 256);
        }
    }
}

/// The name of a field manager, also as the query parameter `fieldManager`.
pub fn field_manager(errs: &mut ErrorList, name: &str, path: &Path) {
    if name.len() > 128 {
        errs.too_long(path, 128);
    }
    for (i, c) in name.chars().enumerate() {
        if c.is_control() {
            errs.invalid(path, name, format!("invalid character U+{:04X} (at position {i})", c as u32));
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::core::config_map::ConfigMap;

    fn texts(errs: &ErrorList) -> Vec<String> {
        errs.0.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_new_object_needs_a_good_name_and_a_namespace() {
        assert_eq!(
            texts(&validate_meta(&ConfigMap, &json!({"metadata": {}}))),
            ["metadata.name: Required value: name or generateName is required", "metadata.namespace: Required value"]
        );
        assert!(validate_meta(&ConfigMap, &json!({"metadata": {"name": "x", "namespace": "d"}})).is_empty());
    }

    #[test]
    fn identity_does_not_change() {
        let old = json!({"metadata": {"name": "x", "uid": "1", "deletionTimestamp": "t", "finalizers": ["a/b"]}});
        let new = json!({"metadata": {"name": "x", "uid": "2", "finalizers": ["a/b", "c/d"]}});
        assert_eq!(
            texts(&validate_meta_update(&new, &old)),
            [
                "metadata.finalizers: Forbidden: no new finalizers can be added if the object is being deleted, found \
                 new finalizers []string{\"c/d\"}",
                "metadata.uid: Invalid value: \"2\": field is immutable",
                "metadata.deletionTimestamp: Invalid value: null: field is immutable",
            ]
        );
    }

    #[test]
    fn one_owner_controls() {
        let owner = |name: &str| json!({"apiVersion": "v1", "kind": "K", "name": name, "uid": "u", "controller": true});
        let obj = json!({"metadata": {"name": "x", "namespace": "d", "ownerReferences": [owner("a"), owner("b")]}});
        assert_eq!(validate_meta(&ConfigMap, &obj).0.len(), 1);
    }
}
