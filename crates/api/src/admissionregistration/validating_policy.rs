//! `ValidatingAdmissionPolicy`. Upstream: `pkg/registry/admissionregistration/validatingadmissionpolicy`.

use orkd_cel::{Env, Type};
use serde_json::{Value, json};

use super::{hooks, policy, rules};
use crate::field::ErrorList;
use crate::kind::{Cells, Cx, Kind, MetaPass, MetaRules};
use crate::kinds::{AGE, Facts, NAME, STATUS, facts};
use crate::object::{View, list, set};
use crate::strategy::{first_generation, reset_all_or_status, reset_meta_for_status, separate_status};
use crate::table::{age, name};

/// The kind `ValidatingAdmissionPolicy`.
pub struct ValidatingAdmissionPolicy;

impl Kind for ValidatingAdmissionPolicy {
    facts!(Facts {
        kind: "ValidatingAdmissionPolicy",
        plural: "validatingadmissionpolicies",
        categories: super::CATEGORY,
        subresources: &[STATUS],
        columns: &[NAME, ("Validations", "integer", "", 0), ("ParamKind", "string", "", 0), AGE],
        ..Facts::cluster(super::GROUP, "v1")
    });

    fn default(&self, obj: &mut Value) {
        policy::default_policy(obj);
    }

    fn prepare_create(&self, _cx: &Cx<'_>, obj: &mut Value) {
        set(obj, &["status"], json!({}));
        first_generation(obj);
    }

    fn prepare_update(&self, cx: &Cx<'_>, new: &mut Value, old: &Value) {
        if separate_status(new, old, cx.subresource) {
            reset_meta_for_status(new, old);
        }
    }

    fn validate(&self, _cx: &Cx<'_>, obj: &Value) -> ErrorList {
        validate(obj)
    }

    fn validate_update(&self, cx: &Cx<'_>, new: &Value, _old: &Value) -> ErrorList {
        if cx.subresource == Some("status") { status(new) } else { validate(new) }
    }

    fn unconditional_update(&self) -> bool {
        false
    }

    fn meta_rules(&self) -> MetaRules {
        MetaRules::Machinery
    }

    fn meta_passes(&self, subresource: Option<&str>) -> &'static [MetaPass] {
        if subresource == Some("status") { &[] } else { &[MetaPass::New] }
    }

    fn cells(&self, obj: &Value, now: jiff::Timestamp) -> Cells {
        let validations = list(obj, &["spec", "validations"]).len();
        vec![json!(name(obj)), json!(validations), json!(hooks::param_kind(obj)), json!(age(obj, now))]
    }

    fn reset_fields(&self, subresource: Option<&str>) -> &'static [&'static [&'static str]] {
        reset_all_or_status(subresource)
    }
}

const REASONS: [&str; 3] = ["Forbidden", "Invalid", "RequestEntityTooLarge"];

fn validate(obj: &Value) -> ErrorList {
    let mut errs = ErrorList::new();
    let root = View::root(obj);
    let spec = root.get("spec");
    policy::head(&mut errs, &spec, false);
    let (validations, annotations) = (spec.get("validations"), spec.get("auditAnnotations"));
    if validations.is_empty() && annotations.is_empty() {
        for v in [&validations, &annotations] {
            errs.required(v.path(), "validations or auditAnnotations must contain at least one item");
        }
        return errs;
    }
    let (env, of_messages) = (policy::environment(&spec, true), policy::environment(&spec, false));
    validations.list().iter().for_each(|v| validation(&mut errs, v, &env, &of_messages));
    if annotations.len() > 20 {
        errs.invalid(annotations.path(), annotations.value(), "must not have more than 20 auditAnnotations");
    }
    let mut seen = std::collections::BTreeSet::new();
    let policy = root.dig("metadata.name").str();
    for annotation in annotations.list() {
        let (key, value) = (annotation.get("key"), annotation.get("valueExpression"));
        if policy.is_empty() {
            errs.invalid(key.path(), key.str(), "requires metadata.name be non-empty");
        } else {
            let full = format!("{policy}/{}", key.str());
            for problem in crate::names::qualified_name(&full) {
                errs.invalid(key.path(), full.as_str(), problem);
            }
        }
        let expression = value.str().trim();
        if expression.is_empty() {
            errs.required(value.path(), "valueExpression is not specified");
        } else if expression.len() > 5 * 1024 {
            errs.required(value.path(), "must not exceed 5120 bytes in length");
        } else {
            let shown = rules::Text { shown: value.str(), compiled: expression };
            rules::compiled_text(&mut errs, &env, value.path(), shown, &[Type::String, Type::Null]);
        }
        if !seen.insert(key.str()) {
            errs.duplicate(key.path(), key.str());
        }
    }
    errs
}

/// Messages are made without asking the authorizer.
fn validation(errs: &mut ErrorList, v: &View<'_>, env: &Env, of_messages: &Env) {
    let (expression, message, of_message, reason) =
        (v.get("expression"), v.get("message"), v.get("messageExpression"), v.get("reason"));
    if expression.str().trim().is_empty() {
        errs.required(expression.path(), "expression is not specified");
    } else {
        rules::compiled(errs, env, &expression, &[Type::Bool]);
    }
    if !of_message.is_empty() && of_message.str().trim().is_empty() {
        errs.invalid(of_message.path(), of_message.str(), "must be non-empty if specified");
    } else if !of_message.is_empty() {
        rules::compiled(errs, of_messages, &of_message, &[Type::String]);
    }
    let said = message.str().trim();
    if !message.is_empty() && said.is_empty() {
        errs.invalid(message.path(), message.str(), "must be non-empty if specified");
    } else if said.contains(['\n', '\r']) {
        errs.invalid(message.path(), message.str(), "must not contain line breaks");
    }
    if reason.is_set() && !REASONS.contains(&reason.str()) {
        errs.not_supported(reason.path(), reason.str(), &REASONS);
    }
}

fn status(obj: &Value) -> ErrorList {
    let mut errs = ErrorList::new();
    let status = View::root(obj).get("status");
    for warning in status.get("typeChecking").items("expressionWarnings") {
        let (said, field) = (warning.get("warning"), warning.get("fieldRef"));
        if said.is_empty() {
            errs.required(said.path(), "");
        }
        if field.str().trim().is_empty() {
            errs.required(field.path(), "");
        }
    }
    crate::validate::conditions::conditions(&mut errs, &status.get("conditions"));
    errs
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::validate::testing::problems;

    fn policy(spec: Value) -> Value {
        let mut obj = json!({"metadata": {"name": "p.io"}, "spec": {"matchConstraints": {"resourceRules": [{
            "apiGroups": ["apps"], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["deployments"]}]}}});
        for (k, v) in spec.as_object().into_iter().flatten() {
            obj["spec"][k] = v.clone();
        }
        ValidatingAdmissionPolicy.default(&mut obj);
        obj
    }

    #[test]
    fn specs() {
        let check =
            |spec: Value, expected: &[&str]| assert_eq!(problems(&ValidatingAdmissionPolicy, &policy(spec)), expected);
        check(json!({"validations": [{"expression": "true"}]}), &[]);
        check(
            json!({}),
            &[
                "spec.validations: Required value: validations or auditAnnotations must contain at least one item",
                "spec.auditAnnotations: Required value: validations or auditAnnotations must contain at least one item",
            ],
        );
        check(
            json!({"matchConstraints": {}, "paramKind": {"apiVersion": "a/b/c"}, "variables": [{"name": "in"}],
            "validations": [{"expression": "", "message": " ", "reason": "x"}]}),
            &[
                "spec.paramKind.apiVersion: Invalid value: \"a/b/c\": unexpected GroupVersion string: a/b/c",
                "spec.paramKind.kind: Required value",
                "spec.matchConstraints.resourceRules: Required value",
                "spec.variables[0].name: Invalid value: \"in\": must be a valid CEL identifier",
                "spec.variables[0].expression: Required value: expression is not specified",
                "spec.validations[0].expression: Required value: expression is not specified",
                "spec.validations[0].message: Invalid value: \" \": must be non-empty if specified",
                "spec.validations[0].reason: Unsupported value: \"x\": supported values: \"Forbidden\", \"Invalid\", \"RequestEntityTooLarge\"",
            ],
        );
        check(
            json!({"failurePolicy": "", "validations": [{"expression": "true"}]}),
            &["spec.failurePolicy: Unsupported value: \"\": supported values: \"Fail\", \"Ignore\""],
        );
        check(
            json!({"auditAnnotations": [{"key": "a", "valueExpression": "'x'"}, {"key": "a"}]}),
            &[
                "spec.auditAnnotations[1].valueExpression: Required value: valueExpression is not specified",
                "spec.auditAnnotations[1].key: Duplicate value: \"a\"",
            ],
        );
    }

    #[test]
    fn expressions() {
        let check = |spec: Value, parts: &[&str]| {
            let found = problems(&ValidatingAdmissionPolicy, &policy(spec.clone()));
            assert_eq!(found.len(), parts.len(), "{spec}: {found:?}");
            for (problem, part) in found.iter().zip(parts) {
                assert!(problem.starts_with(part), "{problem}, not {part}");
            }
        };
        check(
            json!({"paramKind": {"apiVersion": "v1", "kind": "ConfigMap"},
                "variables": [{"name": "most", "expression": "int(params.data.most)"}, {"name": "ok", "expression": "variables.most > 1"}],
                "matchConditions": [{"name": "a", "expression": "request.operation == 'CREATE'"}],
                "validations": [{"expression": "variables.ok && object.spec.replicas <= variables.most",
                    "messageExpression": "'at most ' + string(variables.most)"},
                    {"expression": "authorizer.group('').resource('pods').check('get').allowed()"}]}),
            &[],
        );
        check(
            json!({"variables": [{"name": "bad", "expression": "nope"}],
                "matchConditions": [{"name": "a", "expression": "1"}],
                "validations": [{"expression": "variables.bad > 1 && params.x", "messageExpression": "authorizer"},
                    {"expression": "object."}],
                "auditAnnotations": [{"key": "a", "valueExpression": "1"}]}),
            &[
                "spec.matchConditions[0].expression: Invalid value: \"1\": must evaluate to bool",
                "spec.variables[0].expression: Invalid value: \"nope\": compilation failed: ERROR: <input>:1:1: undeclared reference to 'nope'",
                "spec.validations[0].expression: Invalid value: \"variables.bad > 1 && params.x\": compilation failed: ERROR: <input>:1:22: undeclared reference to 'params'",
                "spec.validations[0].messageExpression: Invalid value: \"authorizer\": compilation failed: ERROR: <input>:1:1: undeclared reference to 'authorizer'",
                "spec.validations[1].expression: Invalid value: \"object.\": compilation failed: ERROR: <input>:1:8: Syntax error: mismatched input '<EOF>'",
                "spec.auditAnnotations[0].valueExpression: Invalid value: \"1\": must evaluate to one of [string null_type]",
            ],
        );
    }

    #[test]
    fn cells() {
        let obj = policy(json!({"validations": [{}, {}], "paramKind": {"apiVersion": "v1", "kind": "ConfigMap"}}));
        let cells = ValidatingAdmissionPolicy.cells(&obj, jiff::Timestamp::UNIX_EPOCH);
        assert_eq!(cells[1..3], [json!(2), json!("v1/ConfigMap")]);
    }
}
