//! What the `prepare_*` of many kinds do alike: who may change status and spec, and when `generation` grows.
//!
//! Upstream: the `strategy.go` files under `pkg/registry`.

use serde_json::Value;

use crate::object::{at, restore, same, set};

/// Paths an apply does not own on the main resource of a kind with a status.
pub(crate) const RESET_STATUS: &[&[&str]] = &[&["status"]];
/// Paths an apply does not own on the status subresource.
pub(crate) const RESET_SPEC: &[&[&str]] = &[&["spec"]];
/// As [`RESET_SPEC`], of kinds whose labels the status subresource leaves alone.
pub(crate) const RESET_SPEC_AND_LABELS: &[&[&str]] = &[&["spec"], &["metadata", "labels"]];

/// `reset_fields` of a kind with spec and status.
pub(crate) fn reset_spec_or_status(subresource: Option<&str>) -> &'static [&'static [&'static str]] {
    match subresource {
        None => RESET_STATUS,
        Some("status") => RESET_SPEC,
        Some(_) => &[],
    }
}

/// As [`reset_spec_or_status`], of kinds whose status subresource leaves the metadata alone, too.
pub(crate) fn reset_all_or_status(subresource: Option<&str>) -> &'static [&'static [&'static str]] {
    match subresource {
        Some("status") => &[&["spec"], &["metadata"]],
        other => reset_spec_or_status(other),
    }
}

/// The first generation of an object.
pub(crate) fn first_generation(obj: &mut Value) {
    set(obj, &["metadata", "generation"], 1);
}

/// The generation after an update: one more when any of `fields` changed.
pub(crate) fn next_generation(new: &mut Value, old: &Value, fields: &[&str]) {
    let changed = fields.iter().any(|f| !same(at(new, &[f]), at(old, &[f])));
    let generation = at(old, &["metadata", "generation"]).as_i64().unwrap_or_default();
    match generation + i64::from(changed) {
        0 => restore(new, old, &["metadata", "generation"]),
        n => set(new, &["metadata", "generation"], n),
    }
}

/// An update of the status leaves the metadata alone, but for the record of who changed what.
/// Upstream: `metav1.ResetObjectMetaForStatus`.
pub(crate) fn reset_meta_for_status(new: &mut Value, old: &Value) {
    for field in ["deletionTimestamp", "generation", "labels", "annotations", "finalizers", "ownerReferences"] {
        restore(new, old, &["metadata", field]);
    }
}

/// An update through the main resource leaves the status alone; through `status` it leaves the spec alone.
/// `generation` follows the spec. Returns whether the door was the status.
pub(crate) fn separate_status(new: &mut Value, old: &Value, subresource: Option<&str>) -> bool {
    if subresource == Some("status") {
        restore(new, old, &["spec"]);
        restore(new, old, &["metadata", "generation"]);
        true
    } else {
        restore(new, old, &["status"]);
        next_generation(new, old, &["spec"]);
        false
    }
}
