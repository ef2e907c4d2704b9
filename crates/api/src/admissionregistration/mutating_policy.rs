//! `MutatingAdmissionPolicy`. Upstream: `pkg/registry/admissionregistration/mutatingadmissionpolicy`.

use orkd_cel::k8s::admission::Mutations;
use orkd_cel::{Env, Type};
use serde_json::{Value, json};

use super::{hooks, policy, rules};
use crate::field::ErrorList;
use crate::kind::{Cells, Cx, Kind, MetaPass, MetaRules};
use crate::kinds::{AGE, Facts, NAME, facts};
use crate::object::{View, list};
use crate::strategy::{first_generation, next_generation};
use crate::table::{age, name};
use crate::validate::one_of;

/// The kind `MutatingAdmissionPolicy`.
pub struct MutatingAdmissionPolicy;

impl Kind for MutatingAdmissionPolicy {
    facts!(Facts {
        kind: "MutatingAdmissionPolicy",
        plural: "mutatingadmissionpolicies",
        categories: super::CATEGORY,
        columns: &[NAME, ("Mutations", "integer", "", 0), ("ParamKind", "string", "", 0), AGE],
        ..Facts::cluster(super::GROUP, "v1")
    });

    fn default(&self, obj: &mut Value) {
        policy::default_policy(obj);
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
        policy::head(&mut errs, &spec, true);
        let mutations = spec.get("mutations");
        if mutations.is_empty() {
            errs.required(mutations.path(), "mutations must contain at least one item");
        }
        let types = Mutations::new();
        let env = types.extend(&policy::environment(&spec, true));
        mutations.list().iter().for_each(|m| mutation(&mut errs, m, &types, &env));
        one_of(&mut errs, &spec.get("reinvocationPolicy"), &["IfNeeded", "Never"]);
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
        let mutations = list(obj, &["spec", "mutations"]).len();
        vec![json!(name(obj)), json!(mutations), json!(hooks::param_kind(obj)), json!(age(obj, now))]
    }
}

fn mutation(errs: &mut ErrorList, m: &View<'_>, types: &Mutations, env: &Env) {
    let ty = m.get("patchType");
    one_of(errs, &ty, &["ApplyConfiguration", "JSONPatch"]);
    let (wanted, other, result) = match ty.str() {
        "ApplyConfiguration" => ("applyConfiguration", "jsonPatch", types.object.clone()),
        "JSONPatch" => ("jsonPatch", "applyConfiguration", Type::list(types.json_patch.clone())),
        _ => return,
    };
    let (body, unwanted) = (m.get(wanted), m.get(other));
    let expression = body.get("expression");
    if !body.is_set() {
        errs.required(body.path(), format!("must be specified when patchType is {}", ty.str()));
    } else if expression.str().trim().is_empty() {
        errs.required(expression.path(), "");
    } else {
        rules::compiled_trimmed(errs, env, &expression, &[result]);
    }
    if unwanted.is_set() {
        let rule = format!("must not be specified when patchType is {}", ty.str());
        errs.invalid(unwanted.path(), format!("{{{other}}}"), rule);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::validate::testing::problems;

    #[test]
    fn specs() {
        let mut obj = json!({"metadata": {"name": "p"}, "spec": {"reinvocationPolicy": "x", "mutations": [
            {"patchType": "JSONPatch", "jsonPatch": {"expression": "[]"}}, {"patchType": "ApplyConfiguration"}, {}]}});
        MutatingAdmissionPolicy.default(&mut obj);
        assert_eq!(
            problems(&MutatingAdmissionPolicy, &obj),
            [
                "spec.matchConstraints: Required value",
                "spec.mutations[1].applyConfiguration: Required value: must be specified when patchType is ApplyConfiguration",
                "spec.mutations[2].patchType: Required value",
                "spec.reinvocationPolicy: Unsupported value: \"x\": supported values: \"IfNeeded\", \"Never\"",
            ]
        );
    }

    #[test]
    fn what_is_deleted_cannot_be_changed() {
        let mut obj = json!({"metadata": {"name": "p"}, "spec": {"reinvocationPolicy": "Never",
            "matchConstraints": {"resourceRules": [{"apiGroups": [""], "apiVersions": ["v1"], "resources": ["pods"],
                "operations": ["DELETE", "x"]}]}, "mutations": [
                {"patchType": "x"}, {"patchType": "JSONPatch", "jsonPatch": {}, "applyConfiguration": {"expression": " 1 "}},
                {"patchType": "ApplyConfiguration", "applyConfiguration": {"expression": " 1 "}}]}});
        MutatingAdmissionPolicy.default(&mut obj);
        const OPERATIONS: &str = "spec.matchConstraints.resourceRules.operations: Unsupported value";
        const MUTATING: &str = "supported values: \"*\", \"CONNECT\", \"CREATE\", \"UPDATE\"";
        assert_eq!(
            problems(&MutatingAdmissionPolicy, &obj),
            [
                "spec.matchConstraints.resourceRules[0].operations[1]: Unsupported value: \"x\": supported values: \"*\", \
                 \"CONNECT\", \"CREATE\", \"DELETE\", \"UPDATE\"",
                &format!("{OPERATIONS}: \"DELETE\": {MUTATING}"),
                &format!("{OPERATIONS}: \"x\": {MUTATING}"),
                "spec.mutations[0].patchType: Unsupported value: \"x\": supported values: \"ApplyConfiguration\", \"JSONPatch\"",
                "spec.mutations[1].jsonPatch.expression: Required value",
                "spec.mutations[1].applyConfiguration: Invalid value: \"{applyConfiguration}\": must not be specified when \
                 patchType is JSONPatch",
                "spec.mutations[2].applyConfiguration.expression: Invalid value: \"1\": must evaluate to Object",
            ]
        );
    }

    #[test]
    fn mutations_are_compiled() {
        let apply = |expression: &str| json!({"patchType": "ApplyConfiguration", "applyConfiguration": {"expression": expression}});
        let mut obj = json!({"metadata": {"name": "p"}, "spec": {"reinvocationPolicy": "Never",
            "matchConstraints": {"resourceRules": [{"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"],
                "resources": ["pods"]}]}, "variables": [{"name": "n", "expression": "object.metadata.name"}],
            "mutations": [apply("Object{metadata: Object.metadata{labels: {'n': string(variables.n)}}}"), apply("1")]}});
        MutatingAdmissionPolicy.default(&mut obj);
        assert_eq!(
            problems(&MutatingAdmissionPolicy, &obj),
            ["spec.mutations[1].applyConfiguration.expression: Invalid value: \"1\": must evaluate to Object"]
        );
    }
}
