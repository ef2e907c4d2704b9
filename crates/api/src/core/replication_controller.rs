//! `ReplicationController`. Upstream: `pkg/registry/core/replicationcontroller/strategy.go`.

use serde_json::{Value, json};

use super::pod::defaults;
use crate::field::ErrorList;
use crate::kind::Kind;
use crate::kind::{Cells, Cx, Dependents, MetaPass, Name};
use crate::kinds::{AGE, Facts, NAME, SCALE, STATUS, facts};
use crate::object::{View, at, at_mut, default_value, set};
use crate::strategy::{first_generation, reset_spec_or_status, separate_status};
use crate::table::{age, containers_and_images, labels, name};
use crate::validate::non_negative;
use crate::validate::pod_spec::{self, warnings};

/// The kind `ReplicationController`.
pub struct ReplicationController;

impl Kind for ReplicationController {
    facts!(Facts {
        kind: "ReplicationController",
        plural: "replicationcontrollers",
        prefix: "controllers",
        short_names: &["rc"],
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
        ..Facts::namespaced("", "v1")
    });

    fn meta_passes(&self, subresource: Option<&str>) -> &'static [MetaPass] {
        MetaPass::of_door(subresource, &[MetaPass::New, MetaPass::Changed])
    }

    fn dependents(&self) -> Dependents {
        Dependents::Orphan(None)
    }

    fn default(&self, obj: &mut Value) {
        defaults::template(obj);
        let from_template = at(obj, &["spec", "template", "metadata", "labels"]).clone();
        if !crate::object::same(&from_template, &Value::Null) {
            if crate::object::same(at(obj, &["spec", "selector"]), &Value::Null) {
                set(obj, &["spec", "selector"], from_template.clone());
            }
            if crate::object::same(at(obj, &["metadata", "labels"]), &Value::Null) {
                set(obj, &["metadata", "labels"], from_template);
            }
        }
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
        let mut errs = ErrorList::new();
        let spec = View::root(obj).get("spec");
        non_negative(&mut errs, &spec.get("minReadySeconds"));
        let selector = spec.get("selector");
        if selector.is_empty() {
            errs.required(selector.path(), "");
        }
        non_negative(&mut errs, &spec.get("replicas"));
        let template = spec.get("template");
        if !template.is_set() {
            errs.required(template.path(), "");
            return errs;
        }
        let labels = template.dig("metadata.labels");
        if selector.entries().iter().any(|(key, v)| labels.get_named(key).value() != v.value()) {
            errs.invalid(labels.path(), labels.value(), "`selector` does not match template `labels`");
        }
        pod_spec::template(&mut errs, cx, &template, false);
        let policy = template.dig("spec.restartPolicy");
        if policy.str() != "Always" {
            errs.not_supported(policy.path(), policy.str(), &["Always"]);
        }
        let deadline = template.dig("spec.activeDeadlineSeconds");
        if deadline.is_set() {
            errs.forbidden(deadline.path(), "activeDeadlineSeconds in ReplicationController is not Supported");
        }
        errs
    }

    fn validate_update(&self, cx: &Cx<'_>, new: &Value, _old: &Value) -> ErrorList {
        if cx.subresource == Some("status") {
            let mut errs = ErrorList::new();
            let status = View::root(new).get("status");
            for field in
                ["replicas", "fullyLabeledReplicas", "readyReplicas", "availableReplicas", "observedGeneration"]
            {
                non_negative(&mut errs, &status.get(field));
            }
            crate::validate::workload::status_replicas(&mut errs, &status, "replicas");
            return errs;
        }
        // Upstream checks the spec twice, as that of a new one and as that of a changed one.
        let mut errs = self.validate(cx, new);
        errs.extend(errs.clone());
        errs
    }

    fn selectable_fields(&self, obj: &Value) -> Vec<(Name, String)> {
        vec![("status.replicas".into(), at(obj, &["status", "replicas"]).as_i64().unwrap_or_default().to_string())]
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
            json!(labels(at(obj, &["spec", "selector"]))),
        ]
    }

    fn warnings(&self, cx: &Cx<'_>, new: &Value, old: Option<&Value>) -> Vec<String> {
        if cx.subresource == Some("status") { Vec::new() } else { warnings::workload(new, old) }
    }

    fn reset_fields(&self, subresource: Option<&str>) -> &'static [&'static [&'static str]] {
        reset_spec_or_status(subresource)
    }
}
