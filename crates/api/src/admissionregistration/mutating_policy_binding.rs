//! `MutatingAdmissionPolicyBinding`. Upstream: `pkg/registry/admissionregistration/mutatingadmissionpolicybinding`.

use serde_json::Value;

use super::policy;
use crate::field::ErrorList;
use crate::kind::{Cells, Cx, Kind, MetaRules};
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
        policy::binding(&mut errs, &spec);
        errs
    }

    fn unconditional_update(&self) -> bool {
        false
    }

    fn meta_rules(&self) -> MetaRules {
        MetaRules::Machinery
    }

    fn cells(&self, obj: &Value, now: jiff::Timestamp) -> Cells {
        policy::binding_cells(obj, now)
    }
}
