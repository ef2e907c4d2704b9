//! What mutating and validating policies and their bindings have in common.

use orkd_cel::Env;
use orkd_cel::k8s::admission::{Has, Variables};
use serde_json::{Value, json};

use super::rules;
use crate::field::ErrorList;
use crate::kind::Cells;
use crate::names::{dns_subdomain, dns1035_label, path_segment};
use crate::object::{View, at, at_mut, default_value, list, text};
use crate::table::{age, name};
use crate::validate::{one_of, selector};

fn default_match(obj: &mut Value, field: &str) {
    let Some(resources) = at_mut(obj, &["spec", field]) else { return };
    default_value(resources, "matchPolicy", "Equivalent");
    default_value(resources, "namespaceSelector", json!({}));
    default_value(resources, "objectSelector", json!({}));
    rules::default(resources, "resourceRules");
    rules::default(resources, "excludeResourceRules");
}

/// Defaults of a policy.
pub(super) fn default_policy(obj: &mut Value) {
    if let Some(spec) = at_mut(obj, &["spec"]) {
        default_value(spec, "failurePolicy", "Fail");
    }
    default_match(obj, "matchConstraints");
}

/// Defaults of a binding.
pub(super) fn default_binding(obj: &mut Value) {
    default_match(obj, "matchResources");
    if let Some(parameters) = at_mut(obj, &["spec", "paramRef"]) {
        default_value(parameters, "parameterNotFoundAction", "Deny");
    }
}

/// A text behind a pointer: one that is there and empty is none of those that are supported.
fn chosen(errs: &mut ErrorList, v: &View<'_>, supported: &[&str]) {
    if !v.is_set() {
        errs.required(v.path(), "");
    } else if !supported.contains(&v.str()) {
        errs.not_supported(v.path(), v.str(), supported);
    }
}

/// What every policy says first.
pub(super) fn head(errs: &mut ErrorList, spec: &View<'_>, mutating: bool) {
    chosen(errs, &spec.get("failurePolicy"), &["Fail", "Ignore"]);
    let kind = spec.get("paramKind");
    if kind.is_set() {
        param_kind(errs, &kind);
    }
    let constraints = spec.get("matchConstraints");
    if constraints.is_set() {
        matched(errs, &constraints);
        let rules = constraints.get("resourceRules");
        if rules.is_empty() {
            errs.required(rules.path(), "");
        }
        if mutating {
            changes_only(errs, &constraints);
        }
    } else {
        errs.required(constraints.path(), "");
    }
    let has = Has { params: kind.is_set(), authorizer: true };
    rules::conditions(errs, &spec.get("matchConditions"), has);
    let mut variables = Variables::new(has);
    for variable in spec.items("variables") {
        let (name, expression) = (variable.get("name"), variable.get("expression"));
        if name.str().trim().is_empty() {
            errs.required(name.path(), "name is not specified");
        } else if !orkd_cel::is_identifier(name.str()) {
            errs.invalid(name.path(), name.str(), "must be a valid CEL identifier");
        }
        if expression.str().trim().is_empty() {
            errs.required(expression.path(), "expression is not specified");
            continue;
        }
        if let Err(message) = variables.add(name.str(), expression.str()) {
            errs.invalid(expression.path(), expression.str(), message);
        }
    }
}

/// The environment of the expressions of a policy, which see its variables.
pub(super) fn environment(spec: &View<'_>, authorizer: bool) -> Env {
    let mut variables = Variables::new(Has { params: spec.get("paramKind").is_set(), authorizer });
    for v in spec.items("variables") {
        // What is wrong with it is told where it stands.
        let _ = variables.add(v.get("name").str(), v.get("expression").str());
    }
    variables.env()
}

fn param_kind(errs: &mut ErrorList, v: &View<'_>) {
    let (version, kind) = (v.get("apiVersion"), v.get("kind"));
    match version.str().split('/').collect::<Vec<_>>().as_slice() {
        [""] => errs.required(version.path(), ""),
        [number] => group_version(errs, &version, "", number),
        [group, number] => group_version(errs, &version, group, number),
        _ => {
            let text = version.str();
            errs.invalid(version.path(), text, format!("unexpected GroupVersion string: {text}"));
        }
    }
    let problems = dns1035_label(&kind.str().to_lowercase(), false);
    if kind.is_empty() {
        errs.required(kind.path(), "");
    } else if !problems.is_empty() {
        errs.invalid(
            kind.path(),
            kind.str(),
            format!("may have mixed case, but should otherwise match: {}", problems.join(",")),
        );
    }
}

fn group_version(errs: &mut ErrorList, v: &View<'_>, group: &str, version: &str) {
    let problems = dns_subdomain(group, false);
    if !group.is_empty() && !problems.is_empty() {
        errs.invalid(v.path(), group, problems.join(","));
    }
    let problems = dns1035_label(version, false);
    if version.is_empty() {
        errs.invalid(v.path(), v.str(), "version must be specified");
    } else if !problems.is_empty() {
        errs.invalid(v.path(), version, problems.join(","));
    }
}

fn matched(errs: &mut ErrorList, v: &View<'_>) {
    chosen(errs, &v.get("matchPolicy"), &["Equivalent", "Exact"]);
    for field in ["namespaceSelector", "objectSelector"] {
        let part = v.get(field);
        if part.is_set() {
            selector::label_selector(errs, &part);
        } else {
            errs.required(part.path(), "");
        }
    }
    for field in ["resourceRules", "excludeResourceRules"] {
        for rule in v.items(field) {
            let mut seen = std::collections::BTreeSet::new();
            for name in rule.items("resourceNames") {
                for problem in path_segment(name.str(), false) {
                    errs.invalid(name.path(), name.str(), problem);
                }
                if !seen.insert(name.str()) {
                    errs.duplicate(name.path(), name.str());
                }
            }
            rules::rule(errs, &rule);
        }
    }
}

/// Of what is deleted nothing can be changed. Upstream: `supportedMutatingOperations`.
fn changes_only(errs: &mut ErrorList, resources: &View<'_>) {
    const OPERATIONS: [&str; 4] = ["*", "CONNECT", "CREATE", "UPDATE"];
    let path = resources.path().child("resourceRules").child("operations");
    for operation in resources.items("resourceRules").iter().flat_map(|rule| rule.items("operations")) {
        if !OPERATIONS.contains(&operation.str()) {
            errs.not_supported(&path, operation.str(), &OPERATIONS);
        }
    }
}

/// What every binding says.
pub(super) fn binding(errs: &mut ErrorList, spec: &View<'_>, mutating: bool) {
    let policy = spec.get("policyName");
    if policy.is_empty() {
        errs.required(policy.path(), "");
    } else {
        crate::validate::dns_subdomain_at(errs, &policy);
    }
    let parameters = spec.get("paramRef");
    if parameters.is_set() {
        param_ref(errs, &parameters);
    }
    let resources = spec.get("matchResources");
    if resources.is_set() {
        matched(errs, &resources);
        if mutating {
            changes_only(errs, &resources);
        }
    }
}

fn param_ref(errs: &mut ErrorList, v: &View<'_>) {
    let (name, by_labels) = (v.get("name"), v.get("selector"));
    if !name.is_empty() {
        for problem in path_segment(name.str(), false) {
            errs.invalid(name.path(), name.str(), problem);
        }
        if by_labels.is_set() {
            errs.forbidden(name.path(), "name and selector are mutually exclusive");
        }
    }
    if by_labels.is_set() {
        selector::label_selector(errs, &by_labels);
        if !name.is_empty() {
            errs.forbidden(by_labels.path(), "name and selector are mutually exclusive");
        }
    }
    if name.is_empty() && !by_labels.is_set() {
        errs.required(v.path(), "one of name or selector must be specified");
    }
    one_of(errs, &v.get("parameterNotFoundAction"), &["Deny", "Allow"]);
}

/// Name, policy, parameters, age of a binding.
pub(super) fn binding_cells(obj: &Value, now: jiff::Timestamp) -> Cells {
    let parameters = at(obj, &["spec", "paramRef"]);
    let (namespace, named) = (text(parameters, &["namespace"]), text(parameters, &["name"]));
    let shown = if !named.is_empty() {
        if namespace.is_empty() { named.to_owned() } else { format!("{namespace}/{named}") }
    } else if parameters["selector"].is_object() {
        go_selector(&parameters["selector"])
    } else {
        "<unset>".to_owned()
    };
    vec![json!(name(obj)), json!(text(obj, &["spec", "policyName"])), json!(shown), json!(age(obj, now))]
}

/// A selector as the generated `String` of Go prints it.
fn go_selector(selector: &Value) -> String {
    let pairs = at(selector, &["matchLabels"]).as_object().into_iter().flatten();
    let labels: String = pairs.map(|(k, v)| format!("{k}: {},", v.as_str().unwrap_or_default())).collect();
    let mut requirements = String::new();
    for e in list(selector, &["matchExpressions"]) {
        let values: Vec<&str> = list(e, &["values"]).iter().filter_map(Value::as_str).collect();
        requirements.push_str(&format!(
            "LabelSelectorRequirement{{Key:{},Operator:{},Values:[{}],}},",
            text(e, &["key"]),
            text(e, &["operator"]),
            values.join(" ")
        ));
    }
    format!(
        "&LabelSelector{{MatchLabels:map[string]string{{{labels}}},\
         MatchExpressions:[]LabelSelectorRequirement{{{requirements}}},}}"
    )
}
