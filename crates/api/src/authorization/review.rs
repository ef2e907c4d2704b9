//! Rules of the access reviews. Upstream: `pkg/apis/authorization/validation/validation.go`.

use serde_json::{Value, json};

use crate::field::{ErrorList, Shown};
use crate::object::{View, default_value};
use crate::validate::internal::{self, Fields, Go};

/// `authorization.NonResourceAttributes`.
const NON_RESOURCE: Fields = &[("path", "Path", Go::Text), ("verb", "Verb", Go::Text)];

/// The attributes of a path, as errors show them.
pub(super) fn shown(path: &View<'_>) -> Shown {
    internal::shown(NON_RESOURCE, path.value())
}

/// The answer of a review nobody answered yet, and metadata that is there though empty.
pub(super) fn default(obj: &mut Value) {
    default_value(obj, "metadata", json!({}));
    default_value(obj, "status", json!({"allowed": false}));
    if let Some(status) = crate::object::at_mut(obj, &["status"]) {
        default_value(status, "allowed", false);
    }
}

/// What is asked: either a resource or a path, and well-formed selectors.
pub(super) fn attributes(errs: &mut ErrorList, spec: &View<'_>) {
    let (resource, path) = (spec.get("resourceAttributes"), spec.get("nonResourceAttributes"));
    match (resource.is_set(), path.is_set()) {
        (true, true) => {
            errs.invalid(path.path(), shown(&path), "cannot be specified in combination with resourceAttributes")
        }
        (false, false) => errs.invalid(
            resource.path(),
            resource.value(),
            "exactly one of nonResourceAttributes or resourceAttributes must be specified",
        ),
        _ => {}
    }
    for name in ["fieldSelector", "labelSelector"] {
        let selector = resource.get(name);
        if !selector.is_set() {
            continue;
        }
        let (raw, requirements) = (selector.get("rawSelector"), selector.get("requirements"));
        match (raw.is_empty(), requirements.is_empty()) {
            (false, false) => errs.invalid(raw.path(), raw.str(), "may not specified at the same time as requirements"),
            (true, true) => errs.required(
                requirements.path(),
                format!("when {name} is specified, requirements or rawSelector is required"),
            ),
            _ => {}
        }
    }
}

/// Who is asked about.
pub(super) fn subject(errs: &mut ErrorList, spec: &View<'_>) {
    if spec.get("user").str().is_empty() && spec.get("groups").is_empty() {
        errs.invalid(spec.get("user").path(), "", "at least one of user or group must be specified");
    }
}

/// Reviews have no identity: metadata must be empty but for what the server itself fills in.
pub(super) fn metadata(errs: &mut ErrorList, obj: &Value, namespaced: bool) {
    let metadata = View::root(obj).get("metadata");
    let allowed =
        |key: &str| key == "managedFields" || key == "creationTimestamp" || (namespaced && key == "namespace");
    if metadata.entries().iter().any(|(key, v)| !allowed(key) && !v.is_empty()) {
        errs.invalid(metadata.path(), metadata.value(), "must be empty");
    }
}
