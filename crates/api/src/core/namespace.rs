//! `Namespace`. Upstream: `pkg/registry/core/namespace/strategy.go`.
//!
//! Deletion has two steps: the object gets a deletion time and the phase `Terminating`, then the namespace controller
//! empties it and removes the finalizer `kubernetes` from `spec.finalizers` through the subresource `finalize`.

use serde_json::{Value, json};

use crate::field::ErrorList;
use crate::kind::{Cells, Cx, Kind, MetaPass, Name};
use crate::kinds::{AGE, Facts, NAME, STATUS, Sub, facts};
use crate::object::{View, at, at_mut, list, restore, set, text};
use crate::strategy::{RESET_SPEC, RESET_STATUS};
use crate::table::{age, name};

/// The kind `Namespace`.
pub struct Namespace;

const FINALIZER: &str = "kubernetes";

impl Kind for Namespace {
    facts!(Facts {
        kind: "Namespace",
        plural: "namespaces",
        short_names: &["ns"],
        verbs: &["create", "delete", "get", "list", "patch", "update", "watch"],
        subresources: &[Sub("finalize", "", None, &["update"]), STATUS],
        columns: &[NAME, ("Status", "string", "", 0), AGE],
        ..Facts::cluster("", "v1")
    });

    fn meta_passes(&self, subresource: Option<&str>) -> &'static [MetaPass] {
        MetaPass::of_door(subresource, &[MetaPass::New, MetaPass::Changed])
    }

    fn default(&self, obj: &mut Value) {
        let name = text(obj, &["metadata", "name"]).to_owned();
        if !name.is_empty() {
            set(obj, &["metadata", "labels", "kubernetes.io/metadata.name"], name);
        }
        if let Some(status) = at_mut(obj, &["status"]) {
            crate::object::default_text(status, "phase", "Active");
        }
    }

    fn prepare_create(&self, _cx: &Cx<'_>, obj: &mut Value) {
        set(obj, &["status"], json!({"phase": "Active"}));
        let mut finalizers = list(obj, &["spec", "finalizers"]).to_vec();
        if !finalizers.iter().any(|f| f == FINALIZER) {
            finalizers.push(json!(FINALIZER));
        }
        set(obj, &["spec", "finalizers"], finalizers);
    }

    fn prepare_update(&self, cx: &Cx<'_>, new: &mut Value, old: &Value) {
        match cx.subresource {
            Some("finalize") => restore(new, old, &["status"]),
            Some("status") => restore(new, old, &["spec"]),
            _ => {
                restore(new, old, &["spec", "finalizers"]);
                restore(new, old, &["status"]);
            }
        }
    }

    fn validate(&self, _cx: &Cx<'_>, obj: &Value) -> ErrorList {
        // Upstream's path is that of the list here.
        let list = View::root(obj).dig("spec.finalizers");
        let mut errs = ErrorList::new();
        for finalizer in list.strs() {
            crate::validate::meta::finalizer_name(&mut errs, finalizer, list.path());
        }
        errs
    }

    fn validate_update(&self, cx: &Cx<'_>, new: &Value, _old: &Value) -> ErrorList {
        match cx.subresource {
            Some("finalize") => finalizers(new),
            Some("status") => {
                let mut errs = ErrorList::new();
                let phase = View::root(new).dig("status.phase");
                let deleting = !at(new, &["metadata", "deletionTimestamp"]).is_null();
                let path = crate::field::Path::new("status").child("Phase");
                if !deleting && phase.str() != "Active" {
                    errs.invalid(&path, phase.str(), "may only be 'Active' if `deletionTimestamp` is empty");
                } else if deleting && phase.str() != "Terminating" {
                    errs.invalid(&path, phase.str(), "may only be 'Terminating' if `deletionTimestamp` is not empty");
                }
                errs
            }
            _ => ErrorList::new(),
        }
    }

    fn validate_name(&self, name: &str, prefix: bool) -> Vec<String> {
        crate::names::dns_label(name, prefix)
    }

    fn selectable_fields(&self, obj: &Value) -> Vec<(Name, String)> {
        vec![("status.phase".into(), text(obj, &["status", "phase"]).to_owned())]
    }

    fn cells(&self, obj: &Value, now: jiff::Timestamp) -> Cells {
        vec![json!(name(obj)), json!(text(obj, &["status", "phase"])), json!(age(obj, now))]
    }

    fn reset_fields(&self, subresource: Option<&str>) -> &'static [&'static [&'static str]] {
        match subresource {
            Some("status") => RESET_SPEC,
            _ => RESET_STATUS,
        }
    }
}

fn finalizers(obj: &Value) -> ErrorList {
    let mut errs = ErrorList::new();
    for finalizer in View::root(obj).dig("spec").items("finalizers") {
        crate::validate::meta::finalizer_name(&mut errs, finalizer.str(), finalizer.path());
    }
    errs
}

/// Starts the deletion of a namespace: the phase becomes `Terminating`. The deletion time is the caller's to set.
///
/// Upstream: `REST.Delete` in `pkg/registry/core/namespace/storage/storage.go`.
pub fn begin_delete(obj: &mut Value) {
    set(obj, &["status", "phase"], "Terminating");
}

/// Whether nothing holds the namespace any more: `spec.finalizers` is empty.
pub fn may_be_removed(obj: &Value) -> bool {
    list(obj, &["spec", "finalizers"]).is_empty()
}
