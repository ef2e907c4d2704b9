//! `StatefulSet`. Upstream: `pkg/registry/apps/statefulset/strategy.go`, `ValidateStatefulSetSpec`.

use serde_json::{Value, json};

use crate::core::pod::defaults;
use crate::field::ErrorList;
use crate::kind::Kind;
use crate::kind::{Cells, Cx};
use crate::kinds::{AGE, Facts, NAME, SCALE, STATUS, facts};
use crate::object::{View, at, at_mut, default_text, default_value, items_mut, restore, same, set};
use crate::strategy::{first_generation, reset_spec_or_status, separate_status};
use crate::table::{age, containers_and_images, name};
use crate::validate::pod_spec::{self, warnings};
use crate::validate::{internal, non_negative, workload};

/// The kind `StatefulSet`.
pub struct StatefulSet;

impl Kind for StatefulSet {
    facts!(Facts {
        kind: "StatefulSet",
        plural: "statefulsets",
        short_names: &["sts"],
        categories: &["all"],
        subresources: &[SCALE, STATUS],
        columns: &[NAME, ("Ready", "string", "", 0), AGE, ("Containers", "string", "", 1), ("Images", "string", "", 1)],
        ..Facts::namespaced("apps", "v1")
    });

    fn default(&self, obj: &mut Value) {
        defaults::template(obj);
        let Some(spec) = at_mut(obj, &["spec"]) else { return };
        default_text(spec, "podManagementPolicy", "OrderedReady");
        default_value(spec, "updateStrategy", json!({}));
        if let Some(strategy) = at_mut(spec, &["updateStrategy"]) {
            default_text(strategy, "type", "RollingUpdate");
            if strategy["type"] == "RollingUpdate" {
                default_value(strategy, "rollingUpdate", json!({}));
                if let Some(rolling) = at_mut(strategy, &["rollingUpdate"]) {
                    default_value(rolling, "partition", 0);
                }
            }
        }
        default_value(spec, "persistentVolumeClaimRetentionPolicy", json!({}));
        if let Some(policy) = at_mut(spec, &["persistentVolumeClaimRetentionPolicy"]) {
            default_text(policy, "whenDeleted", "Retain");
            default_text(policy, "whenScaled", "Retain");
        }
        default_value(spec, "replicas", 1);
        default_value(spec, "revisionHistoryLimit", 10);
        for claim in items_mut(spec, "volumeClaimTemplates") {
            if !claim.is_object() {
                continue;
            }
            default_text(claim, "apiVersion", "v1");
            default_text(claim, "kind", "PersistentVolumeClaim");
            crate::core::persistent_volume_claim::PersistentVolumeClaim.default(claim);
        }
    }

    fn prepare_create(&self, _cx: &Cx<'_>, obj: &mut Value) {
        set(obj, &["status"], json!({"replicas": 0, "availableReplicas": 0}));
        first_generation(obj);
    }

    fn prepare_update(&self, cx: &Cx<'_>, new: &mut Value, old: &Value) {
        separate_status(new, old, cx.subresource);
    }

    fn validate(&self, _cx: &Cx<'_>, obj: &Value) -> ErrorList {
        spec(obj, None)
    }

    /// The pods have the name of the set in their host names.
    fn validate_name(&self, name: &str, prefix: bool) -> Vec<String> {
        crate::names::dns_label(name, prefix)
    }

    fn validate_update(&self, cx: &Cx<'_>, new: &Value, old: &Value) -> ErrorList {
        if cx.subresource == Some("status") {
            return status(new, old);
        }
        let mut errs = spec(new, Some(old));
        let now = View::root(new).get("spec");
        let mut munged = now.value().clone();
        for field in CHANGEABLE {
            restore(&mut munged, at(old, &["spec"]), &[field]);
        }
        if !same(&munged, at(old, &["spec"])) {
            errs.forbidden(
                now.path(),
                "updates to statefulset spec for fields other than 'replicas', 'ordinals', 'template', 'updateStrategy', \
                 'revisionHistoryLimit', 'persistentVolumeClaimRetentionPolicy' and 'minReadySeconds' are forbidden",
            );
        }
        errs
    }

    fn cells(&self, obj: &Value, now: jiff::Timestamp) -> Cells {
        let number = |path: &[&str]| at(obj, path).as_i64().unwrap_or_default();
        let (containers, images) = containers_and_images(at(obj, &["spec", "template", "spec"]));
        vec![
            json!(name(obj)),
            json!(format!("{}/{}", number(&["status", "readyReplicas"]), number(&["spec", "replicas"]))),
            json!(age(obj, now)),
            json!(containers),
            json!(images),
        ]
    }

    fn warnings(&self, cx: &Cx<'_>, new: &Value, old: Option<&Value>) -> Vec<String> {
        if cx.subresource == Some("status") {
            return Vec::new();
        }
        let mut warnings = warnings::template(new, old);
        let spec = View::root(new).get("spec");
        for claim in spec.items("volumeClaimTemplates") {
            // Upstream's paths leave the spec out, and have it with a capital in updates.
            let path = if old.is_some() { claim.path().child("Spec") } else { claim.path().clone() };
            warnings.extend(warnings::claim_spec(&View::at(path, claim.get("spec").value())));
        }
        if spec.get("revisionHistoryLimit").int().is_some_and(|n| n < 0) {
            warnings.push(
                "spec.revisionHistoryLimit: a negative value retains all historical revisions; a value >= 0 is recommended"
                    .into(),
            );
        }
        warnings
    }

    fn reset_fields(&self, subresource: Option<&str>) -> &'static [&'static [&'static str]] {
        reset_spec_or_status(subresource)
    }
}

/// Fields of the spec that an update may change.
const CHANGEABLE: [&str; 7] = [
    "replicas",
    "ordinals",
    "template",
    "updateStrategy",
    "revisionHistoryLimit",
    "persistentVolumeClaimRetentionPolicy",
    "minReadySeconds",
];

/// The pods of the template and the claims are not looked at: claims become volumes of every pod, and upstream never came
/// to check the two together.
fn spec(obj: &Value, old: Option<&Value>) -> ErrorList {
    let mut errs = ErrorList::new();
    let spec = View::root(obj).get("spec");
    let policy = spec.get("podManagementPolicy");
    if !matches!(policy.str(), "OrderedReady" | "Parallel") {
        errs.invalid(policy.path(), policy.str(), "must be 'OrderedReady' or 'Parallel'");
    }
    let strategy = spec.get("updateStrategy");
    let rolling = strategy.get("rollingUpdate");
    match strategy.get("type").str() {
        "" => errs.required(strategy.path(), ""),
        "OnDelete" => {
            if rolling.is_set() {
                let shown = internal::shown(internal::ROLLING_UPDATE_STATEFUL, rolling.value());
                errs.invalid(rolling.path(), shown, "only allowed for updateStrategy 'RollingUpdate'");
            }
        }
        "RollingUpdate" => {
            non_negative(&mut errs, &rolling.get("partition"));
            let unavailable = rolling.get("maxUnavailable");
            if unavailable.is_set() {
                workload::int_or_percent(&mut errs, &unavailable);
                if workload::scaled(unavailable.value()) == 0 {
                    errs.invalid(unavailable.path(), unavailable.value(), "cannot be 0");
                }
                workload::at_most_100_percent(&mut errs, &unavailable);
            }
        }
        _ => {
            let shown = workload::shown_strategy(&strategy, internal::ROLLING_UPDATE_STATEFUL);
            errs.invalid(strategy.path(), shown, "must be 'RollingUpdate' or 'OnDelete'");
        }
    }
    let retention = spec.get("persistentVolumeClaimRetentionPolicy");
    for field in ["whenDeleted", "whenScaled"] {
        let v = retention.get(field);
        if retention.is_set() && !matches!(v.str(), "Delete" | "Retain") {
            errs.not_supported(v.path(), v.str(), &["Retain", "Delete"]);
        }
    }
    non_negative(&mut errs, &spec.get("replicas"));
    non_negative(&mut errs, &spec.get("minReadySeconds"));
    non_negative(&mut errs, &spec.dig("ordinals.start"));
    service_name(&mut errs, &spec, old);
    let chosen = spec.get("selector");
    workload::selector(&mut errs, &chosen, "statefulset");
    let template = spec.get("template");
    if workload::selects_template(&mut errs, &spec) {
        pod_spec::template_meta(&mut errs, &template);
    } else {
        errs.invalid(chosen.path(), chosen.value(), "");
    }
    let (policy, deadline) = (template.dig("spec.restartPolicy"), template.dig("spec.activeDeadlineSeconds"));
    if policy.str() != "Always" {
        errs.not_supported(policy.path(), policy.str(), &["Always"]);
    }
    if deadline.is_set() {
        errs.forbidden(deadline.path(), "activeDeadlineSeconds in StatefulSet is not Supported");
    }
    errs
}

/// The service that names the pods is one that can be; what stands may stay. Upstream: `AllowInvalidServiceName`.
fn service_name(errs: &mut ErrorList, spec: &View<'_>, old: Option<&Value>) {
    let name = spec.get("serviceName");
    if !name.is_empty() && old.is_none() {
        crate::validate::dns_label_at(errs, &name);
    }
}

fn status(new: &Value, old: &Value) -> ErrorList {
    let mut errs = ErrorList::new();
    let status = View::root(new).get("status");
    for field in [
        "replicas",
        "readyReplicas",
        "currentReplicas",
        "updatedReplicas",
        "availableReplicas",
        "observedGeneration",
        "collisionCount",
    ] {
        non_negative(&mut errs, &status.get(field));
    }
    let count = |field: &str| status.get_named(field).int().unwrap_or_default();
    for field in ["readyReplicas", "currentReplicas", "updatedReplicas", "availableReplicas"] {
        if count(field) > count("replicas") {
            errs.invalid(status.get(field).path(), count(field), "cannot be greater than status.replicas");
        }
    }
    let available = status.get("availableReplicas");
    if count("availableReplicas") > count("readyReplicas") {
        errs.invalid(available.path(), count("availableReplicas"), "cannot be greater than status.readyReplicas");
    }
    workload::collisions(&mut errs, &status, old);
    errs
}
