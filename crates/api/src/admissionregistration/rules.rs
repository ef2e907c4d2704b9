//! Which requests are meant: operations, groups, versions, resources. Upstream: `validateRuleWithOperations`.

use orkd_cel::k8s::admission::{self, Has};
use orkd_cel::{Env, Type};
use serde_json::Value;

use crate::field::{ErrorList, Path};
use crate::object::{View, default_value, items_mut};

/// Defaults of the rules in the field `name`.
pub(super) fn default(obj: &mut Value, name: &str) {
    for rule in items_mut(obj, name) {
        default_value(rule, "scope", "*");
    }
}

const OPERATIONS: [&str; 5] = ["*", "CONNECT", "CREATE", "DELETE", "UPDATE"];

/// A rule with operations.
pub(super) fn rule(errs: &mut ErrorList, rule: &View<'_>) {
    let operations = rule.get("operations");
    required(errs, &operations);
    alone(errs, &operations, "operations");
    for operation in operations.list() {
        if !OPERATIONS.contains(&operation.str()) {
            errs.not_supported(operation.path(), operation.str(), &OPERATIONS);
        }
    }
    let (groups, versions) = (rule.get("apiGroups"), rule.get("apiVersions"));
    required(errs, &groups);
    alone(errs, &groups, "API groups");
    required(errs, &versions);
    alone(errs, &versions, "API versions");
    versions.list().iter().for_each(|v| required(errs, v));
    resources(errs, &rule.get("resources"));
    let scope = rule.get("scope");
    if scope.is_set() && !matches!(scope.str(), "*" | "Cluster" | "Namespaced") {
        errs.not_supported(scope.path(), scope.str(), &["*", "Cluster", "Namespaced"]);
    }
}

fn required(errs: &mut ErrorList, v: &View<'_>) {
    if v.is_empty() {
        errs.required(v.path(), "");
    }
}

fn alone(errs: &mut ErrorList, list: &View<'_>, what: &str) {
    if list.len() > 1 && list.strs().contains(&"*") {
        errs.invalid(list.path(), list.value(), format!("if '*' is present, must not specify other {what}"));
    }
}

fn resources(errs: &mut ErrorList, list: &View<'_>) {
    required(errs, list);
    let (mut all_of, mut sub_of_all) = (Vec::new(), Vec::new());
    let mut plain = false;
    for v in list.list() {
        let text = v.str();
        if text.is_empty() {
            errs.required(v.path(), "");
            continue;
        }
        let Some((resource, sub)) = text.split_once('/') else {
            plain = text != "*";
            continue;
        };
        if all_of.contains(&resource) {
            errs.invalid(v.path(), text, format!("if '{resource}/*' is present, must not specify {text}"));
        }
        if sub_of_all.contains(&sub) {
            errs.invalid(v.path(), text, format!("if '*/{sub}' is present, must not specify {text}"));
        }
        if sub == "*" {
            all_of.push(resource);
        }
        if resource == "*" {
            sub_of_all.push(sub);
        }
    }
    let has = |text: &str| list.strs().contains(&text);
    if list.len() > 1 && has("*/*") {
        errs.invalid(list.path(), list.value(), "if '*/*' is present, must not specify other resources");
    }
    if has("*") && plain {
        errs.invalid(
            list.path(),
            list.value(),
            "if '*' is present, must not specify other resources without subresources",
        );
    }
}

/// Conditions in CEL, each with a name of its own.
pub(super) fn conditions(errs: &mut ErrorList, list: &View<'_>, has: Has) {
    if list.len() > 64 {
        errs.too_many(list.path(), list.len(), 64);
    }
    let env = admission::admission(has).build();
    let mut seen = std::collections::BTreeSet::new();
    for condition in list.list() {
        let (name, expression) = (condition.get("name"), condition.get("expression"));
        if expression.str().trim().is_empty() {
            errs.required(expression.path(), "");
        } else {
            compiled_trimmed(errs, &env, &expression, &[Type::Bool]);
        }
        if name.is_empty() {
            errs.required(name.path(), "");
            continue;
        }
        for problem in crate::names::qualified_name(name.str()) {
            errs.invalid(name.path(), name.str(), problem);
        }
        if !seen.insert(name.str()) {
            errs.duplicate(name.path(), name.str());
        }
    }
}

/// An expression that must compile, and give one of these types.
pub(super) fn compiled(errs: &mut ErrorList, env: &Env, v: &View<'_>, wanted: &[Type]) {
    compiled_text(errs, env, v.path(), Text { shown: v.str(), compiled: v.str() }, wanted);
}

/// The same without the white space around it, which upstream cuts off some expressions.
pub(super) fn compiled_trimmed(errs: &mut ErrorList, env: &Env, v: &View<'_>, wanted: &[Type]) {
    let trimmed = v.str().trim();
    compiled_text(errs, env, v.path(), Text { shown: trimmed, compiled: trimmed }, wanted);
}

/// An expression as it is shown in errors and as it is compiled.
pub(super) struct Text<'a> {
    pub(super) shown: &'a str,
    pub(super) compiled: &'a str,
}

/// An expression that must compile.
pub(super) fn compiled_text(errs: &mut ErrorList, env: &Env, path: &Path, text: Text<'_>, wanted: &[Type]) {
    if let Err(message) = admission::compile(env, text.compiled, wanted) {
        errs.invalid(path, text.shown, message);
    }
}
