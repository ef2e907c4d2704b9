//! `MutatingAdmissionPolicyBinding`. Upstream: `pkg/registry/admissionregistration/mutatingadmissionpolicybinding`.

use serde_json::Value;

use super::policy;
use crate::field::ErrorList;
use crate::kind::{Cells, Cx, Kind, MetaPass, MetaRules};
use crate::kinds::{AGE, Facts, NAME, facts};
use crate::object::View;
use crate::strategy::{first_generation, next_generation};

/// The kind `MutatingAdmissionPolicyBinding`.
pub struct MutatingAdmissionPolicyBinding;

impl Kind for MutatingAdmissionPolicyBinding {
    facts!(Facts {
        kind: "MutatingAdmissionPolicyBinding",
        plural: "mutatingadmissionpolicybindings",
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
        policy::binding(&mut errs, &spec, true);
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

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::validate::testing::problems;

    #[test]
    fn what_is_deleted_cannot_be_changed() {
        let mut obj = json!({"spec": {"policyName": "p", "paramRef": {"name": "x", "parameterNotFoundAction": ""},
            "matchResources": {"matchPolicy": "x", "resourceRules": [{"apiGroups": [""], "apiVersions": ["v1"],
                "resources": ["pods"], "operations": ["DELETE"]}]}}});
        MutatingAdmissionPolicyBinding.default(&mut obj);
        assert_eq!(
            problems(&MutatingAdmissionPolicyBinding, &obj),
            [
                "spec.paramRef.parameterNotFoundAction: Required value",
                "spec.matchResources.matchPolicy: Unsupported value: \"x\": supported values: \"Equivalent\", \"Exact\"",
                "spec.matchResources.resourceRules.operations: Unsupported value: \"DELETE\": supported values: \"*\", \
                 \"CONNECT\", \"CREATE\", \"UPDATE\"",
            ]
        );
    }
}
