//! What kinds with a pod template have in common: selector, template, numbers that may be percentages.

use serde_json::Value;

use super::{internal, non_negative, pod_spec, selector};
use crate::field::{ErrorList, Shown};
use crate::kind::Cx;
use crate::object::{View, at, same};

/// The selector of a workload: given, well formed and not empty. `what` is how the text names the workload. Upstream's
/// daemon sets do not ask for one.
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

/// The selector selects the template's labels; no selector selects nothing, an empty one everything. Returns whether the
/// selector can be understood at all.
pub fn selects_template(errs: &mut ErrorList, spec: &View<'_>) -> bool {
    let (chosen, labels) = (spec.get("selector"), spec.dig("template.metadata.labels"));
    let mut problems = ErrorList::new();
    selector::label_selector(&mut problems, &chosen);
    if !problems.is_empty() {
        return false;
    }
    let everything = chosen.is_set() && selector::is_empty(chosen.value());
    if !everything && (!chosen.is_set() || !selector::matches(chosen.value(), labels.value())) {
        errs.invalid(labels.path(), labels.value(), "`selector` does not match template `labels`");
    }
    true
}

/// A strategy of a kind that upstream does not know, as it shows it.
pub fn shown_strategy(strategy: &View<'_>, rolling: internal::Fields) -> Shown {
    let rolling_update = strategy.get("rollingUpdate");
    let inner = match rolling_update.is_set() {
        true => internal::shown(rolling, rolling_update.value()).text().to_owned(),
        false => "null".into(),
    };
    let ty = crate::field::quote(strategy.get("type").str());
    Shown::raw(format!("{{\"Type\":{ty},\"RollingUpdate\":{inner}}}"))
}

/// A count that names of things are made unique with only grows.
pub fn collisions(errs: &mut ErrorList, status: &View<'_>, old: &Value) {
    let v = status.get("collisionCount");
    let before = at(old, &["status", "collisionCount"]).as_i64();
    if before.is_some() && v.int() < before {
        errs.invalid(v.path(), v.int().unwrap_or_default(), "cannot be decremented");
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
    if !selects_template(errs, spec) {
        let chosen = spec.get("selector");
        errs.invalid(chosen.path(), chosen.value(), "invalid label selector");
        return;
    }
    pods(errs, cx, spec, old, kind);
}

/// The pods of a template, of a workload of this kind.
pub fn pods(errs: &mut ErrorList, cx: &Cx<'_>, spec: &View<'_>, old: Option<&Value>, kind: &str) {
    let template = spec.get("template");
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
    let number = |field: &str| status.get_named(field).int().unwrap_or_default();
    let mut at_most = |field: &str, most: i64, name: &str| {
        if number(field) > most {
            errs.invalid(status.get_named(field).path(), number(field), format!("cannot be greater than {name}"));
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
