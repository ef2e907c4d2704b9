//! What kinds with a pod template have in common: selector, template, numbers that may be percentages.

use serde_json::Value;

use super::{non_negative, pod_spec, selector};
use crate::field::ErrorList;
use crate::kind::Cx;
use crate::object::{View, at, same};

/// The selector of a workload: given, well formed and not empty. `what` is how the text names the workload.
pub fn selector(errs: &mut ErrorList, v: &View<'_>, what: &str) {
    if !v.is_set() {
        errs.required(v.path(), "");
        return;
    }
    selector::label_selector(errs, v);
    if selector::is_empty(v.value()) {
        errs.invalid(v.path(), v.value(), format!("empty selector is invalid for {what}"));
    }
}

/// The template of a workload whose pods are restarted for ever: selected by the selector, restart policy `Always`,
/// no deadline. `kind` is how the text names the workload. `old` is the object before the update; a template that did
/// not change is not checked again for what later versions forbid.
pub fn template(errs: &mut ErrorList, cx: &Cx<'_>, spec: &View<'_>, old: Option<&Value>, kind: &str) {
    let template = spec.get("template");
    if !template.is_set() {
        errs.required(template.path(), "");
        return;
    }
    let labels = template.dig("metadata.labels");
    if !selector::is_empty(spec.get("selector").value())
        && !selector::matches(spec.get("selector").value(), labels.value())
    {
        errs.invalid(labels.path(), labels.value(), "`selector` does not match template `labels`");
    }
    let unchanged = old.is_some_and(|old| same(at(old, &["spec", "template"]), template.value()));
    pod_spec::template(errs, cx, &template, unchanged);
    let pod = template.get("spec");
    let policy = pod.get("restartPolicy");
    if policy.str() != "Always" {
        errs.not_supported(policy.path(), policy.str(), &["Always"]);
    }
    let deadline = pod.get("activeDeadlineSeconds");
    if deadline.is_set() {
        errs.forbidden(deadline.path(), format!("activeDeadlineSeconds in {kind} is not Supported"));
    }
}

/// The counts of a status: some of all replicas cannot be more than all, and what is available is ready.
/// Upstream: `ValidateReplicaSetStatus`, `ValidateReplicationControllerStatus`, `ValidateDeploymentStatus`.
pub fn status_replicas(errs: &mut ErrorList, status: &View<'_>, of: &str) {
    let number = |field: &str| status.get(field).int().unwrap_or_default();
    let mut at_most = |field: &str, most: i64, name: &str| {
        if number(field) > most {
            errs.invalid(status.get(field).path(), number(field), format!("cannot be greater than {name}"));
        }
    };
    for field in ["fullyLabeledReplicas", "updatedReplicas", "readyReplicas", "availableReplicas"] {
        at_most(field, number(of), "status.replicas");
    }
    at_most("availableReplicas", number("readyReplicas"), "readyReplicas");
}

fn percent(v: &Value) -> Option<i64> {
    v.as_str()?.strip_suffix('%')?.parse().ok()
}

/// A number that is not negative, or a percentage. Upstream: `ValidatePositiveIntOrPercent`.
pub fn int_or_percent(errs: &mut ErrorList, v: &View<'_>) {
    match v.value() {
        Value::String(text) => {
            let digits = text.strip_suffix('%').unwrap_or_default();
            if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
                errs.invalid(
                    v.path(),
                    text,
                    "a valid percent string must be a numeric string followed by an ending '%' (e.g. '1%',  or '93%', \
                     regex used for validation is '[0-9]+%')",
                );
            }
        }
        _ => non_negative(errs, v),
    }
}

/// A percentage of at most 100. Upstream: `IsNotMoreThan100Percent`.
pub fn at_most_100_percent(errs: &mut ErrorList, v: &View<'_>) {
    if percent(v.value()).is_some_and(|p| p > 100) {
        errs.invalid(v.path(), v.value(), "must not be greater than 100%");
    }
}

/// The number of a number or percentage, only good to tell 0 from the rest.
pub fn scaled(v: &Value) -> i64 {
    percent(v).or_else(|| v.as_i64()).unwrap_or_default()
}
