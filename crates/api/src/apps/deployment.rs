//! `Deployment`. Upstream: `pkg/registry/apps/deployment/strategy.go`, `ValidateDeploymentSpec`.

use serde_json::{Value, json};

use crate::core::pod::defaults;
use crate::field::ErrorList;
use crate::kind::{Cells, Cx, Kind};
use crate::kinds::{AGE, Facts, NAME, SCALE, STATUS, facts};
use crate::object::{View, at, at_mut, default_text, default_value, restore, set};
use crate::strategy::{RESET_SPEC_AND_LABELS, RESET_STATUS, first_generation, next_generation};
use crate::table::{age, containers_and_images, label_selector, name};
use crate::validate::pod_spec::warnings;
use crate::validate::workload::{self, int_or_percent, scaled};
use crate::validate::{immutable_field, internal, non_negative};

/// The kind `Deployment`.
pub struct Deployment;

impl Kind for Deployment {
    facts!(Facts {
        kind: "Deployment",
        plural: "deployments",
        short_names: &["deploy"],
        categories: &["all"],
        subresources: &[SCALE, STATUS],
        columns: &[
            NAME,
            ("Ready", "string", "", 0),
            ("Up-to-date", "string", "", 0),
            ("Available", "string", "", 0),
            AGE,
            ("Containers", "string", "", 1),
            ("Images", "string", "", 1),
            ("Selector", "string", "", 1)
        ],
        ..Facts::namespaced("apps", "v1")
    });

    fn default(&self, obj: &mut Value) {
        defaults::template(obj);
        let Some(spec) = at_mut(obj, &["spec"]) else { return };
        default_value(spec, "replicas", 1);
        default_value(spec, "revisionHistoryLimit", 10);
        default_value(spec, "progressDeadlineSeconds", 600);
        default_value(spec, "strategy", json!({}));
        if let Some(strategy) = at_mut(spec, &["strategy"]) {
            default_text(strategy, "type", "RollingUpdate");
            if strategy["type"] == "RollingUpdate" {
                default_value(strategy, "rollingUpdate", json!({}));
                if let Some(rolling) = at_mut(strategy, &["rollingUpdate"]) {
                    default_value(rolling, "maxUnavailable", "25%");
                    default_value(rolling, "maxSurge", "25%");
                }
            }
        }
    }

    fn prepare_create(&self, _cx: &Cx<'_>, obj: &mut Value) {
        set(obj, &["status"], json!({}));
        first_generation(obj);
    }

    fn prepare_update(&self, cx: &Cx<'_>, new: &mut Value, old: &Value) {
        if cx.subresource == Some("status") {
            restore(new, old, &["spec"]);
            restore(new, old, &["metadata", "labels"]);
            restore(new, old, &["metadata", "generation"]);
            return;
        }
        restore(new, old, &["status"]);
        // Annotations count as well: the controller copies them to the replica sets.
        next_generation(new, old, &["spec"]);
        let annotations = |obj| at(obj, &["metadata", "annotations"]);
        let spec_changed = at(new, &["metadata", "generation"]) != at(old, &["metadata", "generation"]);
        if !spec_changed && !crate::object::same(annotations(new), annotations(old)) {
            let generation = at(old, &["metadata", "generation"]).as_i64().unwrap_or_default();
            set(new, &["metadata", "generation"], generation + 1);
        }
    }

    fn validate(&self, cx: &Cx<'_>, obj: &Value) -> ErrorList {
        spec(cx, obj, None)
    }

    fn validate_update(&self, cx: &Cx<'_>, new: &Value, old: &Value) -> ErrorList {
        if cx.subresource == Some("status") {
            return status(new, old);
        }
        let mut errs = spec(cx, new, Some(old));
        immutable_field(&mut errs, new, old, &["spec", "selector"]);
        errs
    }

    fn warnings(&self, cx: &Cx<'_>, new: &Value, old: Option<&Value>) -> Vec<String> {
        if cx.subresource == Some("status") { Vec::new() } else { warnings::workload(new, old) }
    }

    fn cells(&self, obj: &Value, now: jiff::Timestamp) -> Cells {
        let number = |path: &[&str]| at(obj, path).as_i64().unwrap_or_default();
        let (containers, images) = containers_and_images(at(obj, &["spec", "template", "spec"]));
        vec![
            json!(name(obj)),
            json!(format!("{}/{}", number(&["status", "readyReplicas"]), number(&["spec", "replicas"]))),
            json!(number(&["status", "updatedReplicas"])),
            json!(number(&["status", "availableReplicas"])),
            json!(age(obj, now)),
            json!(containers),
            json!(images),
            json!(label_selector(at(obj, &["spec", "selector"]))),
        ]
    }

    fn reset_fields(&self, subresource: Option<&str>) -> &'static [&'static [&'static str]] {
        match subresource {
            None => RESET_STATUS,
            Some("status") => RESET_SPEC_AND_LABELS,
            Some(_) => &[],
        }
    }
}

fn spec(cx: &Cx<'_>, obj: &Value, old: Option<&Value>) -> ErrorList {
    let mut errs = ErrorList::new();
    let spec = View::root(obj).get("spec");
    non_negative(&mut errs, &spec.get("replicas"));
    workload::selector(&mut errs, &spec.get("selector"), "deployment");
    workload::template(&mut errs, cx, &spec, old, "ReplicaSet");
    strategy(&mut errs, &spec.get("strategy"));
    non_negative(&mut errs, &spec.get("minReadySeconds"));
    non_negative(&mut errs, &spec.get("revisionHistoryLimit"));
    let deadline = spec.get("progressDeadlineSeconds");
    if let Some(seconds) = deadline.int() {
        non_negative(&mut errs, &deadline);
        if seconds <= spec.get("minReadySeconds").int().unwrap_or_default() {
            errs.invalid(deadline.path(), seconds, "must be greater than minReadySeconds");
        }
    }
    errs
}

fn strategy(errs: &mut ErrorList, strategy: &View<'_>) {
    let rolling = strategy.get("rollingUpdate");
    let ty = strategy.get("type");
    match ty.str() {
        "Recreate" => {
            if rolling.is_set() {
                errs.forbidden(rolling.path(), "may not be specified when strategy `type` is 'Recreate'");
            }
        }
        "RollingUpdate" => {
            if !rolling.is_set() {
                errs.required(rolling.path(), "this should be defaulted and never be nil");
                return;
            }
            let (unavailable, surge) = (rolling.get("maxUnavailable"), rolling.get("maxSurge"));
            int_or_percent(errs, &unavailable);
            int_or_percent(errs, &surge);
            if scaled(unavailable.value()) == 0 && scaled(surge.value()) == 0 {
                errs.invalid(unavailable.path(), unavailable.value(), "may not be 0 when `maxSurge` is 0");
            }
            workload::at_most_100_percent(errs, &unavailable);
        }
        _ => {
            let shown = workload::shown_strategy(strategy, internal::ROLLING_UPDATE);
            errs.not_supported(strategy.path(), shown, &["Recreate", "RollingUpdate"]);
        }
    }
}

fn status(new: &Value, old: &Value) -> ErrorList {
    let mut errs = ErrorList::new();
    let status = View::root(new).get("status");
    for field in [
        "observedGeneration",
        "replicas",
        "updatedReplicas",
        "readyReplicas",
        "availableReplicas",
        "unavailableReplicas",
        "collisionCount",
    ] {
        non_negative(&mut errs, &status.get(field));
    }
    workload::status_replicas(&mut errs, &status, "replicas");
    workload::collisions(&mut errs, &status, old);
    errs
}
