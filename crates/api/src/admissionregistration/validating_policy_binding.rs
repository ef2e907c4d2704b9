//! `ValidatingAdmissionPolicyBinding`. Upstream: `pkg/registry/admissionregistration/validatingadmissionpolicybinding`.

use serde_json::Value;

use super::policy;
use crate::field::ErrorList;
use crate::kind::{Cells, Cx, Kind, MetaPass, MetaRules};
use crate::kinds::{AGE, Facts, NAME, facts};
use crate::object::View;
use crate::strategy::{first_generation, next_generation};

/// The kind `ValidatingAdmissionPolicyBinding`.
pub struct ValidatingAdmissionPolicyBinding;

impl Kind for ValidatingAdmissionPolicyBinding {
    facts!(Facts {
        kind: "ValidatingAdmissionPolicyBinding",
        plural: "validatingadmissionpolicybindings",
        categories: super::CATEGORY,
        columns: &[NAME, ("PolicyName", "string", "", 0), ("ParamRef", "string", "", 0), AGE],
        ..Facts::cluster(super::GROUP, "v1")
    });

    fn default(&self, obj: &mut Value) {
        policy::default_binding(obj);
    }

    fn prepare_create(&self, _cx: &Cx<'_>, obj: &mut Value) {
        first_generation(obj);
    }

    fn prepare_update(&self, _cx: &Cx<'_>, new: &mut Value, old: &Value) {
        next_generation(new, old, &["spec"]);
    }

    fn validate(&self, _cx: &Cx<'_>, obj: &Value) -> ErrorList {
        let mut errs = ErrorList::new();
        let spec = View::root(obj).get("spec");
        policy::binding(&mut errs, &spec, false);
        actions(&mut errs, &spec.get("validationActions"));
        errs
    }

    fn unconditional_update(&self) -> bool {
        false
    }

    fn meta_rules(&self) -> MetaRules {
        MetaRules::Machinery
    }

    fn meta_passes(&self, _subresource: Option<&str>) -> &'static [MetaPass] {
        &[MetaPass::New]
    }

    fn cells(&self, obj: &Value, now: jiff::Timestamp) -> Cells {
        policy::binding_cells(obj, now)
    }
}

fn actions(errs: &mut ErrorList, list: &View<'_>) {
    let mut seen = std::collections::BTreeSet::new();
    for action in list.list() {
        if !matches!(action.str(), "Deny" | "Warn" | "Audit") {
            errs.not_supported(action.path(), action.str(), &["Audit", "Deny", "Warn"]);
        }
        if !seen.insert(action.str()) {
            errs.duplicate(action.path(), action.str());
        }
    }
    if seen.contains("Deny") && seen.contains("Warn") {
        errs.invalid(
            list.path(),
            list.value(),
            "must not contain both Deny and Warn (repeating the same validation failure information in the API response \
             and headers serves no purpose)",
        );
    }
    if seen.is_empty() {
        errs.required(list.path(), "at least one validation action is required");
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::validate::testing::problems;

    fn binding(spec: Value) -> Value {
        let mut obj = json!({"metadata": {"name": "b"}, "spec": spec});
        ValidatingAdmissionPolicyBinding.default(&mut obj);
        obj
    }

    #[test]
    fn specs() {
        let check = |spec: Value, expected: &[&str]| {
            assert_eq!(problems(&ValidatingAdmissionPolicyBinding, &binding(spec)), expected);
        };
        check(
            json!({"policyName": "p", "validationActions": ["Deny"], "matchResources": {}, "paramRef": {"name": "x"}}),
            &[],
        );
        check(
            json!({"validationActions": ["Deny", "Warn", "x"], "paramRef": {"name": "x", "selector": {}}}),
            &[
                "spec.policyName: Required value",
                "spec.paramRef.name: Forbidden: name and selector are mutually exclusive",
                "spec.paramRef.selector: Forbidden: name and selector are mutually exclusive",
                "spec.validationActions[2]: Unsupported value: \"x\": supported values: \"Audit\", \"Deny\", \"Warn\"",
                "spec.validationActions: Invalid value: [\"Deny\",\"Warn\",\"x\"]: must not contain both Deny and Warn (repeating \
             the same validation failure information in the API response and headers serves no purpose)",
            ],
        );
        check(
            json!({"policyName": "p", "paramRef": {}}),
            &[
                "spec.paramRef: Required value: one of name or selector must be specified",
                "spec.validationActions: Required value: at least one validation action is required",
            ],
        );
    }

    #[test]
    fn cells() {
        let shown = |parameters: Value| {
            let obj = binding(json!({"policyName": "p", "paramRef": parameters}));
            ValidatingAdmissionPolicyBinding.cells(&obj, jiff::Timestamp::UNIX_EPOCH)[2].clone()
        };
        assert_eq!(shown(json!({"namespace": "n", "name": "x"})), "n/x");
        assert_eq!(
            shown(json!({"selector": {"matchLabels": {"a": "b"}}})),
            "&LabelSelector{MatchLabels:map[string]string{a: b,},MatchExpressions:[]LabelSelectorRequirement{},}"
        );
    }
}
