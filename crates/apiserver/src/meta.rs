//! Checks of the metadata that all kinds share (`k8s.io/apimachinery/pkg/api/validation/objectmeta.go`).

use orkd_api::field::{ErrorList, Path};
use orkd_api::names;
use serde_json::Value;

fn text<'v>(meta: &'v Value, field: &str) -> &'v str {
    meta[field].as_str().unwrap_or_default()
}

/// Checks the metadata of a new object.
pub fn create(object: &Value, namespaced: bool, name_rule: &dyn Fn(&str, bool) -> Vec<String>) -> ErrorList {
    let mut errors = ErrorList::new();
    let meta = &object["metadata"];
    let path = Path::new("metadata");
    let (name, prefix, namespace) = (text(meta, "name"), text(meta, "generateName"), text(meta, "namespace"));
    if !prefix.is_empty() {
        for problem in name_rule(prefix, true) {
            errors.invalid(&path.child("generateName"), prefix, problem);
        }
    }
    if name.is_empty() {
        errors.required(&path.child("name"), "name or generateName is required");
    } else {
        for problem in name_rule(name, false) {
            errors.invalid(&path.child("name"), name, problem);
        }
    }
    if namespaced {
        if namespace.is_empty() {
            errors.required(&path.child("namespace"), "");
        } else {
            for problem in names::dns_label(namespace, false) {
                errors.invalid(&path.child("namespace"), namespace, problem);
            }
        }
    } else if !namespace.is_empty() {
        errors.forbidden(&path.child("namespace"), "not allowed on this type");
    }
    common(meta, &path, &mut errors);
    errors
}

/// Checks the metadata of a changed object.
pub fn update(new: &Value, old: &Value, _namespaced: bool) -> ErrorList {
    let mut errors = ErrorList::new();
    let (meta, old) = (&new["metadata"], &old["metadata"]);
    let path = Path::new("metadata");
    for field in ["name", "namespace", "uid", "creationTimestamp", "deletionTimestamp", "deletionGracePeriodSeconds"] {
        let (a, b) = (&meta[field], &old[field]);
        let empty = |v: &Value| v.is_null() || v.as_str() == Some("");
        if a != b && !(empty(a) && empty(b)) {
            errors.invalid(&path.child(field), a, "field is immutable");
        }
    }
    let generation = |v: &Value| v["generation"].as_i64().unwrap_or(0);
    if generation(meta) < generation(old) {
        errors.invalid(&path.child("generation"), generation(meta), "must not be decremented");
    }
    let list = |v: &Value| -> Vec<String> {
        v["finalizers"].as_array().into_iter().flatten().filter_map(|f| f.as_str().map(str::to_owned)).collect()
    };
    if !old["deletionTimestamp"].is_null() {
        let standing = list(old);
        let added: Vec<String> = list(meta).into_iter().filter(|f| !standing.contains(f)).collect();
        if !added.is_empty() {
            let quoted: Vec<String> = added.iter().map(|f| format!("{f:?}")).collect();
            errors.forbidden(
                &path.child("finalizers"),
                format!(
                    "no new finalizers can be added if the object is being deleted, found new finalizers []string{{{}}}",
                    quoted.join(", ")
                ),
            );
        }
    }
    common(meta, &path, &mut errors);
    errors
}

/// The largest annotations of one object together.
const ANNOTATIONS: usize = 256 * 1024;

fn common(meta: &Value, path: &Path, errors: &mut ErrorList) {
    if let Some(generation) = meta["generation"].as_i64().filter(|g| *g < 0) {
        errors.invalid(&path.child("generation"), generation, "must be greater than or equal to 0");
    }
    let labels = path.child("labels");
    for (key, value) in meta["labels"].as_object().into_iter().flatten() {
        for problem in names::qualified_name(key) {
            errors.invalid(&labels, key, problem);
        }
        let value = value.as_str().unwrap_or_default();
        for problem in names::label_value(value) {
            errors.invalid(&labels, value, problem);
        }
    }
    let annotations = path.child("annotations");
    let mut size = 0;
    for (key, value) in meta["annotations"].as_object().into_iter().flatten() {
        // Keys may be written in upper case here.
        for problem in names::qualified_name(&key.to_lowercase()) {
            errors.invalid(&annotations, key, problem);
        }
        size += key.len() + value.as_str().unwrap_or_default().len();
    }
    if size > ANNOTATIONS {
        errors.too_long(&annotations, ANNOTATIONS);
    }
    owners(&meta["ownerReferences"], &path.child("ownerReferences"), errors);
    let finalizers = path.child("finalizers");
    let (mut orphan, mut foreground) = (false, false);
    for finalizer in meta["finalizers"].as_array().into_iter().flatten() {
        let finalizer = finalizer.as_str().unwrap_or_default();
        for problem in names::qualified_name(finalizer) {
            errors.invalid(&finalizers, finalizer, problem);
        }
        if !finalizer.contains('/') && !["orphan", "foregroundDeletion", "kubernetes"].contains(&finalizer) {
            errors.invalid(
                &finalizers,
                finalizer,
                "name is neither a standard finalizer name nor is it fully qualified",
            );
        }
        orphan |= finalizer == "orphan";
        foreground |= finalizer == "foregroundDeletion";
    }
    if orphan && foreground {
        errors.invalid(&finalizers, &meta["finalizers"], "finalizer orphan and foregroundDeletion cannot be both set");
    }
}

fn owners(list: &Value, path: &Path, errors: &mut ErrorList) {
    let mut controller: Option<String> = None;
    for (i, owner) in list.as_array().into_iter().flatten().enumerate() {
        let path = path.index(i);
        let api_version = text(owner, "apiVersion");
        if api_version.split('/').count() > 2 || api_version.split_once('/').map_or(api_version, |(_, v)| v).is_empty()
        {
            errors.invalid(&path.child("apiVersion"), api_version, "version must not be empty");
        }
        for (field, detail) in
            [("kind", "must not be empty"), ("name", "must not be empty"), ("uid", "must not be empty")]
        {
            if text(owner, field).is_empty() {
                errors.invalid(&path.child(field), text(owner, field), detail);
            }
        }
        if api_version == "v1" && text(owner, "kind") == "Event" {
            errors.invalid(&path, owner, "/v1, Kind=Event is disallowed from being an owner");
        }
        if owner["controller"].as_bool() == Some(true) {
            let this = text(owner, "name").to_owned();
            if let Some(first) = &controller {
                errors.invalid(
                    &path.child("controller"),
                    true,
                    format!(
                        "Only one reference can have Controller set to true. Found \"true\" in references for {first} and \
                         {this}"
                    ),
                );
            } else {
                controller = Some(this);
            }
        }
    }
}
