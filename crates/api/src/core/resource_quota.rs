//! `ResourceQuota`. Upstream: `pkg/registry/core/resourcequota/strategy.go`, `ValidateResourceQuota`.

use serde_json::{Value, json};

use crate::field::{ErrorList, Path, Shown};
use crate::kind::Kind;
use crate::kind::{Cells, Cx};
use crate::kinds::{AGE, Facts, NAME, STATUS, facts};
use crate::object::{View, at, restore, set};
use crate::strategy::reset_spec_or_status;
use crate::table::{age, name};
use crate::validate::internal;
use crate::validate::pod_spec::resources::{amount_of, is_standard_quota, quota_resource_name};

/// The kind `ResourceQuota`.
pub struct ResourceQuota;

impl Kind for ResourceQuota {
    facts!(Facts {
        kind: "ResourceQuota",
        plural: "resourcequotas",
        short_names: &["quota"],
        subresources: &[STATUS],
        columns: &[NAME, ("Request", "string", "", 0), ("Limit", "string", "", 0), AGE],
        ..Facts::namespaced("", "v1")
    });

    fn prepare_create(&self, _cx: &Cx<'_>, obj: &mut Value) {
        set(obj, &["status"], json!({}));
    }

    fn prepare_update(&self, cx: &Cx<'_>, new: &mut Value, old: &Value) {
        if cx.subresource == Some("status") {
            restore(new, old, &["spec"]);
        } else {
            restore(new, old, &["status"]);
        }
    }

    fn validate(&self, _cx: &Cx<'_>, obj: &Value) -> ErrorList {
        let mut errs = ErrorList::new();
        let spec = View::root(obj).get("spec");
        hard(&mut errs, &spec.get("hard"));
        scopes(&mut errs, &spec);
        errs
    }

    fn validate_update(&self, cx: &Cx<'_>, new: &Value, old: &Value) -> ErrorList {
        let mut errs = ErrorList::new();
        let root = View::root(new);
        if cx.subresource == Some("status") {
            for field in ["hard", "used"] {
                hard(&mut errs, &root.get("status").get(field));
            }
            return errs;
        }
        errs.extend(self.validate(cx, new));
        let scopes = root.get("spec").get("scopes");
        let set = |v: &Value| -> std::collections::BTreeSet<String> {
            v.as_array().into_iter().flatten().filter_map(|s| s.as_str().map(str::to_owned)).collect()
        };
        if set(scopes.value()) != set(at(old, &["spec", "scopes"])) {
            errs.invalid(scopes.path(), scopes.value(), "field is immutable");
        }
        errs
    }

    fn cells(&self, obj: &Value, now: jiff::Timestamp) -> Cells {
        let (mut requests, mut limits) = (Vec::new(), Vec::new());
        for (resource, most) in at(obj, &["status", "hard"]).as_object().into_iter().flatten() {
            let shown = |v: &Value| v.as_str().map_or_else(|| "0".to_owned(), str::to_owned);
            let text = format!("{resource}: {}/{}", shown(at(obj, &["status", "used", resource])), shown(most));
            if resource.contains("limits") { limits.push(text) } else { requests.push(text) }
        }
        vec![json!(name(obj)), json!(requests.join(", ")), json!(limits.join(", ")), json!(age(obj, now))]
    }

    fn reset_fields(&self, subresource: Option<&str>) -> &'static [&'static [&'static str]] {
        reset_spec_or_status(subresource)
    }
}

fn hard(errs: &mut ErrorList, map: &View<'_>) {
    for (resource, most) in map.entries() {
        quota_resource_name(errs, resource, most.path());
        amount_of(errs, resource, &most);
    }
}

const SCOPES: [&str; 7] = [
    "Terminating",
    "NotTerminating",
    "BestEffort",
    "NotBestEffort",
    "PriorityClass",
    "CrossNamespacePodAffinity",
    "VolumeAttributesClass",
];

/// Whether a scope says anything of a resource. Upstream: `IsResourceQuotaScopeValidForResource`.
fn fits(scope: &str, resource: &str) -> bool {
    let compute = ["cpu", "memory", "ephemeral-storage"]
        .iter()
        .any(|r| resource == *r || resource == format!("requests.{r}") || resource == format!("limits.{r}"));
    match scope {
        "BestEffort" => resource == "pods",
        "VolumeAttributesClass" => matches!(resource, "persistentvolumeclaims" | "requests.storage"),
        s if SCOPES.contains(&s) => resource == "pods" || compute,
        _ => true,
    }
}

/// Resources of a quota that a scope says nothing of; those that are not standard are left alone.
fn misfits<'a>(hard: &View<'a>, scope: &str) -> Vec<&'a str> {
    let names = hard.entries().into_iter().map(|(name, _)| name);
    names.filter(|name| is_standard_quota(name) && !fits(scope, name)).collect()
}

fn scopes(errs: &mut ErrorList, spec: &View<'_>) {
    let (scopes, hard) = (spec.get("scopes"), spec.get("hard"));
    for scope in scopes.strs() {
        if !SCOPES.contains(&scope) {
            errs.invalid(scopes.path(), scopes.value(), "unsupported scope");
        }
        for _ in misfits(&hard, scope) {
            errs.invalid(scopes.path(), scopes.value(), "unsupported scope applied to resource");
        }
    }
    conflicts(errs, scopes.path(), &scopes, &scopes.strs());
    selector(errs, spec, &hard);
}

fn conflicts(errs: &mut ErrorList, path: &Path, scopes: &View<'_>, given: &[&str]) {
    for (a, b) in [("BestEffort", "NotBestEffort"), ("Terminating", "NotTerminating")] {
        if given.contains(&a) && given.contains(&b) {
            errs.invalid(path, scopes.value(), "conflicting scopes");
        }
    }
}

/// Upstream: `validateScopedResourceSelectorRequirement`, whose paths are those of the whole list.
fn selector(errs: &mut ErrorList, spec: &View<'_>, hard: &View<'_>) {
    let expressions = spec.get("scopeSelector").get("matchExpressions");
    let path = expressions.path();
    let mut given = Vec::new();
    for e in expressions.list() {
        let (name, operator, values) = (e.get("scopeName").str(), e.get("operator").str(), e.get("values"));
        if !SCOPES.contains(&name) {
            errs.invalid(&path.child("scopeName"), name, "unsupported scope");
        }
        for _ in misfits(hard, name) {
            errs.invalid(path, shown_selector(&expressions), "unsupported scope applied to resource");
        }
        let only_exists = SCOPES.contains(&name) && !matches!(name, "PriorityClass" | "VolumeAttributesClass");
        if only_exists && operator != "Exists" {
            errs.invalid(
                &path.child("operator"),
                operator,
                "must be 'Exists' when scope is any of ResourceQuotaScopeTerminating, ResourceQuotaScopeNotTerminating, \
                 ResourceQuotaScopeBestEffort, ResourceQuotaScopeNotBestEffort or \
                 ResourceQuotaScopeCrossNamespacePodAffinity",
            );
        }
        match operator {
            "In" | "NotIn" if values.is_empty() => errs.required(
                &path.child("values"),
                "must be at least one value when `operator` is 'In' or 'NotIn' for scope selector",
            ),
            "Exists" | "DoesNotExist" if !values.is_empty() => errs.invalid(
                &path.child("values"),
                values.value(),
                "must be no value when `operator` is 'Exist' or 'DoesNotExist' for scope selector",
            ),
            "In" | "NotIn" | "Exists" | "DoesNotExist" => {}
            other => errs.invalid(&path.child("operator"), other, "not a valid selector operator"),
        }
        given.push(name);
    }
    // The value is that of the other list.
    conflicts(errs, path, &spec.get("scopes"), &given);
}

/// A `core.ScopeSelector`.
fn shown_selector(expressions: &View<'_>) -> Shown {
    const REQUIREMENT: internal::Fields = &[
        ("scopeName", "ScopeName", internal::Go::Text),
        ("operator", "Operator", internal::Go::Text),
        ("values", "Values", internal::Go::Nil),
    ];
    internal::shown_list(REQUIREMENT, expressions.value()).below("MatchExpressions")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::validate::testing::problems;

    #[test]
    fn scopes_fit_the_resources_and_each_other() {
        assert_eq!(
            problems(
                &ResourceQuota,
                &json!({"spec": {"hard": {"services": "1", "gpus": "1"},
                "scopes": ["BestEffort", "NotBestEffort", "x"]}})
            ),
            [
                "spec.hard[gpus]: Invalid value: \"gpus\": must be a standard resource type or fully qualified",
                "spec.hard[gpus]: Invalid value: \"gpus\": must be a standard resource for quota",
                "spec.scopes: Invalid value: [\"BestEffort\",\"NotBestEffort\",\"x\"]: unsupported scope applied to resource",
                "spec.scopes: Invalid value: [\"BestEffort\",\"NotBestEffort\",\"x\"]: unsupported scope applied to resource",
                "spec.scopes: Invalid value: [\"BestEffort\",\"NotBestEffort\",\"x\"]: unsupported scope",
                "spec.scopes: Invalid value: [\"BestEffort\",\"NotBestEffort\",\"x\"]: conflicting scopes",
            ]
        );
        assert_eq!(
            problems(
                &ResourceQuota,
                &json!({"spec": {"hard": {"pods": "1"}, "scopeSelector": {"matchExpressions": [
                {"scopeName": "Terminating", "operator": "In", "values": ["x"]}, {"scopeName": "PriorityClass", "operator": "In"}]}}})
            ),
            [
                "spec.scopeSelector.matchExpressions.operator: Invalid value: \"In\": must be 'Exists' when scope is any of \
                 ResourceQuotaScopeTerminating, ResourceQuotaScopeNotTerminating, ResourceQuotaScopeBestEffort, \
                 ResourceQuotaScopeNotBestEffort or ResourceQuotaScopeCrossNamespacePodAffinity",
                "spec.scopeSelector.matchExpressions.values: Required value: must be at least one value when `operator` is 'In' or \
                 'NotIn' for scope selector",
            ]
        );
        let exists = |scope: &str| json!({"scopeName": scope, "operator": "Exists"});
        assert_eq!(
            problems(
                &ResourceQuota,
                &json!({"spec": {"scopeSelector": {"matchExpressions": [exists("BestEffort"), exists("NotBestEffort")]}}})
            ),
            ["spec.scopeSelector.matchExpressions: Invalid value: null: conflicting scopes"]
        );
    }
}
