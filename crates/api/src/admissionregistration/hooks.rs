//! What mutating and validating webhooks have in common.

use orkd_cel::k8s::admission::Has;
use serde_json::{Value, json};

use super::rules;
use crate::field::ErrorList;
use crate::kind::Cells;
use crate::object::{View, at, at_mut, default_value, items_mut, list, text};
use crate::table::{age, name};
use crate::validate::{selector, webhook};

/// Defaults of every webhook of a configuration.
pub(super) fn default(obj: &mut Value, mutating: bool) {
    for hook in items_mut(obj, "webhooks") {
        default_value(hook, "failurePolicy", "Fail");
        default_value(hook, "matchPolicy", "Equivalent");
        default_value(hook, "namespaceSelector", json!({}));
        default_value(hook, "objectSelector", json!({}));
        default_value(hook, "timeoutSeconds", 10);
        if mutating {
            default_value(hook, "reinvocationPolicy", "Never");
        }
        rules::default(hook, "rules");
        if let Some(service) = at_mut(hook, &["clientConfig", "service"]) {
            default_value(service, "port", 443);
        }
    }
}

/// What is held against a changed configuration only where the old one was free of it.
struct Strictness {
    no_side_effects: bool,
    recognized_versions: bool,
    unique_names: bool,
    label_values: bool,
}

impl Strictness {
    fn after(old: &Value) -> Self {
        let hooks = list(old, &["webhooks"]);
        let mut names = std::collections::BTreeSet::new();
        let selectors_are_good = |hook: &Value| {
            let mut errs = ErrorList::new();
            for field in ["namespaceSelector", "objectSelector"] {
                selector::label_selector(&mut errs, &View::root(hook).get(field));
            }
            errs.is_empty()
        };
        Strictness {
            no_side_effects: hooks.iter().all(|h| matches!(text(h, &["sideEffects"]), "None" | "NoneOnDryRun")),
            recognized_versions: hooks.iter().all(|h| {
                let versions = list(h, &["admissionReviewVersions"]);
                versions.is_empty() || versions.iter().any(|v| v.as_str().is_some_and(webhook::is_accepted))
            }),
            unique_names: hooks.iter().all(|h| names.insert(text(h, &["name"]))),
            label_values: hooks.iter().all(selectors_are_good),
        }
    }
}

/// Checks a configuration; `old` is `null` for a new one.
pub(super) fn validate(obj: &Value, old: &Value, mutating: bool) -> ErrorList {
    let mut errs = ErrorList::new();
    let strict = Strictness::after(old);
    let mut names = std::collections::BTreeSet::new();
    for hook in View::root(obj).items("webhooks") {
        one(&mut errs, &hook, &strict, mutating);
        webhook::review_versions(&mut errs, &hook.get("admissionReviewVersions"), strict.recognized_versions);
        let name = hook.get("name");
        if strict.unique_names && !name.is_empty() && !names.insert(name.str()) {
            errs.duplicate(name.path(), name.str());
        }
    }
    errs
}

fn enumerated(errs: &mut ErrorList, v: &View<'_>, allowed: &[&str]) {
    if v.is_set() && !allowed.contains(&v.str()) {
        errs.not_supported(v.path(), v.str(), allowed);
    }
}

fn full_name(errs: &mut ErrorList, v: &View<'_>) {
    let problems = crate::names::dns_subdomain(v.str(), false);
    if v.is_empty() {
        errs.required(v.path(), "");
    } else if !problems.is_empty() {
        errs.invalid(v.path(), v.str(), problems.join(","));
    } else if v.str().split('.').count() < 3 {
        errs.invalid(v.path(), v.str(), "should be a domain with at least three segments separated by dots");
    }
}

fn one(errs: &mut ErrorList, hook: &View<'_>, strict: &Strictness, mutating: bool) {
    full_name(errs, &hook.get("name"));
    for rule in hook.items("rules") {
        rules::rule(errs, &rule);
    }
    enumerated(errs, &hook.get("failurePolicy"), &["Fail", "Ignore"]);
    enumerated(errs, &hook.get("matchPolicy"), &["Equivalent", "Exact"]);
    let effects = hook.get("sideEffects");
    let allowed: &[&str] =
        if strict.no_side_effects { &["None", "NoneOnDryRun"] } else { &["None", "NoneOnDryRun", "Some", "Unknown"] };
    if !effects.is_set() {
        errs.required(effects.path(), format!("must specify one of {}", allowed.join(", ")));
    }
    enumerated(errs, &effects, allowed);
    let timeout = hook.get("timeoutSeconds");
    if let Some(n) = timeout.int().filter(|n| !(1..=30).contains(n)) {
        errs.invalid(timeout.path(), n, "the timeout value must be between 1 and 30 seconds");
    }
    if strict.label_values {
        for field in ["namespaceSelector", "objectSelector"] {
            selector::label_selector(errs, &hook.get(field));
        }
    }
    if mutating {
        enumerated(errs, &hook.get("reinvocationPolicy"), &["IfNeeded", "Never"]);
    }
    webhook::client_config(errs, &hook.get("clientConfig"));
    rules::conditions(errs, &hook.get("matchConditions"), Has { params: false, authorizer: true });
}

/// Name, number of webhooks, age.
pub(super) fn cells(obj: &Value, now: jiff::Timestamp) -> Cells {
    vec![json!(name(obj)), json!(list(obj, &["webhooks"]).len()), json!(age(obj, now))]
}

/// The kind of a policy's parameters, or `<unset>`.
pub(super) fn param_kind(obj: &Value) -> String {
    let kind = at(obj, &["spec", "paramKind"]);
    if kind.is_null() {
        return "<unset>".into();
    }
    format!("{}/{}", text(kind, &["apiVersion"]), text(kind, &["kind"]))
}
