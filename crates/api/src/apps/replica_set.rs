//! `ReplicaSet`. Upstream: `pkg/registry/apps/replicaset/strategy.go`, `ValidateReplicaSetSpec`.

use serde_json::{Value, json};

use crate::core::pod::defaults;
use crate::field::ErrorList;
use crate::kind::{Cells, Cx, Kind, MetaPass, Name};
use crate::kinds::{AGE, Facts, NAME, SCALE, STATUS, facts};
use crate::object::{View, at, at_mut, default_value, set};
use crate::strategy::{first_generation, reset_spec_or_status, separate_status};
use crate::table::{age, containers_and_images, label_selector, name};
use crate::validate::pod_spec::warnings;
use crate::validate::{immutable_field, non_negative, workload};

/// The kind `ReplicaSet`.
pub struct ReplicaSet;

impl Kind for ReplicaSet {
    facts!(Facts {
        kind: "ReplicaSet",
        plural: "replicasets",
        short_names: &["rs"],
        categories: &["all"],
        subresources: &[SCALE, STATUS],
        columns: &[
            NAME,
            ("Desired", "integer", "", 0),
            ("Current", "integer", "", 0),
            ("Ready", "integer", "", 0),
            AGE,
            ("Containers", "string", "", 1),
            ("Images", "string", "", 1),
            ("Selector", "string", "", 1)
        ],
        ..Facts::namespaced("apps", "v1")
    });

    fn meta_passes(&self, subresource: Option<&str>) -> &'static [MetaPass] {
        MetaPass::of_door(subresource, &[MetaPass::New, MetaPass::Changed])
    }

    fn default(&self, obj: &mut Value) {
        defaults::template(obj);
        if let Some(spec) = at_mut(obj, &["spec"]) {
            default_value(spec, "replicas", 1);
        }
    }

    fn prepare_create(&self, _cx: &Cx<'_>, obj: &mut Value) {
        set(obj, &["status"], json!({"replicas": 0}));
        first_generation(obj);
    }

    fn prepare_update(&self, cx: &Cx<'_>, new: &mut Value, old: &Value) {
        separate_status(new, old, cx.subresource);
    }

    fn validate(&self, cx: &Cx<'_>, obj: &Value) -> ErrorList {
        spec(cx, obj, None)
    }

    fn validate_update(&self, cx: &Cx<'_>, new: &Value, old: &Value) -> ErrorList {
        if cx.subresource == Some("status") {
            return status(new);
        }
        // Upstream checks the spec twice, as that of a new one and as that of a changed one.
        let mut errs = spec(cx, new, Some(old));
        errs.extend(errs.clone());
        immutable_field(&mut errs, new, old, &["spec", "selector"]);
        errs
    }

    fn warnings(&self, cx: &Cx<'_>, new: &Value, old: Option<&Value>) -> Vec<String> {
        if cx.subresource == Some("status") { Vec::new() } else { warnings::workload(new, old) }
    }

    fn selectable_fields(&self, obj: &Value) -> Vec<(Name, String)> {
        let replicas = at(obj, &["status", "replicas"]).as_i64().unwrap_or_default();
        vec![("status.replicas".into(), replicas.to_string())]
    }

    fn cells(&self, obj: &Value, now: jiff::Timestamp) -> Cells {
        let number = |path: &[&str]| at(obj, path).as_i64().unwrap_or_default();
        let (containers, images) = containers_and_images(at(obj, &["spec", "template", "spec"]));
        vec![
            json!(name(obj)),
            json!(number(&["spec", "replicas"])),
            json!(number(&["status", "replicas"])),
            json!(number(&["status", "readyReplicas"])),
            json!(age(obj, now)),
            json!(containers),
            json!(images),
            json!(label_selector(at(obj, &["spec", "selector"]))),
        ]
    }

    fn reset_fields(&self, subresource: Option<&str>) -> &'static [&'static [&'static str]] {
        reset_spec_or_status(subresource)
    }
}

fn spec(cx: &Cx<'_>, obj: &Value, old: Option<&Value>) -> ErrorList {
    let mut errs = ErrorList::new();
    let spec = View::root(obj).get("spec");
    non_negative(&mut errs, &spec.get("replicas"));
    non_negative(&mut errs, &spec.get("minReadySeconds"));
    workload::selector(&mut errs, &spec.get("selector"), "deployment");
    workload::template(&mut errs, cx, &spec, old, "ReplicaSet");
    errs
}

fn status(new: &Value) -> ErrorList {
    let mut errs = ErrorList::new();
    let status = View::root(new).get("status");
    for field in ["replicas", "fullyLabeledReplicas", "readyReplicas", "availableReplicas", "observedGeneration"] {
        non_negative(&mut errs, &status.get(field));
    }
    workload::status_replicas(&mut errs, &status, "replicas");
    errs
}
