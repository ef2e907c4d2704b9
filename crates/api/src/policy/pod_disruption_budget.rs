//! `PodDisruptionBudget`. Upstream: `pkg/registry/policy/poddisruptionbudget/strategy.go`, `ValidatePodDisruptionBudgetSpec`.

use serde_json::{Value, json};

use crate::field::ErrorList;
use crate::kind::Kind;
use crate::kind::{Cells, Cx, MetaRules};
use crate::kinds::{AGE, Facts, NAME, STATUS, facts};
use crate::object::{View, at, set};
use crate::strategy::{first_generation, reset_spec_or_status, separate_status};
use crate::table::{age, name};
use crate::validate::{internal, non_negative, selector, workload};

/// The kind `PodDisruptionBudget`.
pub struct PodDisruptionBudget;

impl Kind for PodDisruptionBudget {
    facts!(Facts {
        kind: "PodDisruptionBudget",
        plural: "poddisruptionbudgets",
        short_names: &["pdb"],
        subresources: &[STATUS],
        columns: &[
            NAME,
            ("Min Available", "string", "", 0),
            ("Max Unavailable", "string", "", 0),
            ("Allowed Disruptions", "integer", "", 0),
            AGE
        ],
        ..Facts::namespaced("policy", "v1")
    });

    fn prepare_create(&self, _cx: &Cx<'_>, obj: &mut Value) {
        set(
            obj,
            &["status"],
            json!({"disruptionsAllowed": 0, "currentHealthy": 0, "desiredHealthy": 0, "expectedPods": 0}),
        );
        first_generation(obj);
    }

    fn prepare_update(&self, cx: &Cx<'_>, new: &mut Value, old: &Value) {
        separate_status(new, old, cx.subresource);
    }

    fn validate(&self, _cx: &Cx<'_>, obj: &Value) -> ErrorList {
        let mut errs = ErrorList::new();
        let spec = View::root(obj).get("spec");
        let (least, most) = (spec.get("minAvailable"), spec.get("maxUnavailable"));
        if least.is_set() && most.is_set() {
            let shown = internal::shown(internal::DISRUPTION_BUDGET, spec.value());
            errs.invalid(spec.path(), shown, "minAvailable and maxUnavailable cannot be both set");
        }
        for v in [&least, &most] {
            if v.is_set() {
                workload::int_or_percent(&mut errs, v);
                workload::at_most_100_percent(&mut errs, v);
            }
        }
        selector::label_selector(&mut errs, &spec.get("selector"));
        let policy = spec.get("unhealthyPodEvictionPolicy");
        if policy.is_set() && !matches!(policy.str(), "AlwaysAllow" | "IfHealthyBudget") {
            errs.not_supported(policy.path(), policy.str(), &["AlwaysAllow", "IfHealthyBudget"]);
        }
        errs
    }

    fn validate_update(&self, cx: &Cx<'_>, new: &Value, _old: &Value) -> ErrorList {
        if cx.subresource != Some("status") {
            return self.validate(cx, new);
        }
        let mut errs = ErrorList::new();
        let status = View::root(new).get("status");
        crate::validate::conditions::conditions(&mut errs, &status.get("conditions"));
        for field in ["disruptionsAllowed", "currentHealthy", "desiredHealthy", "expectedPods"] {
            non_negative(&mut errs, &status.get(field));
        }
        errs
    }

    fn unconditional_update(&self) -> bool {
        false
    }

    fn meta_rules(&self) -> MetaRules {
        MetaRules::Registry
    }

    fn cells(&self, obj: &Value, now: jiff::Timestamp) -> Cells {
        let shown = |field: &str| match at(obj, &["spec", field]) {
            Value::Null => "N/A".to_owned(),
            Value::String(text) => text.clone(),
            other => other.to_string(),
        };
        vec![
            json!(name(obj)),
            json!(shown("minAvailable")),
            json!(shown("maxUnavailable")),
            json!(at(obj, &["status", "disruptionsAllowed"]).as_i64().unwrap_or_default()),
            json!(age(obj, now)),
        ]
    }

    fn reset_fields(&self, subresource: Option<&str>) -> &'static [&'static [&'static str]] {
        reset_spec_or_status(subresource)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::validate::testing::{problems, problems_of_update};

    #[test]
    fn specs() {
        let of = |spec: Value| problems(&PodDisruptionBudget, &json!({"spec": spec}));
        assert!(of(json!({"minAvailable": "100%", "selector": {}})).is_empty());
        assert_eq!(
            of(json!({"minAvailable": -1, "maxUnavailable": "101%", "unhealthyPodEvictionPolicy": "Never"})),
            [
                "spec: Invalid value: {\"MinAvailable\":-1,\"Selector\":null,\"MaxUnavailable\":\"101%\",\
                 \"UnhealthyPodEvictionPolicy\":\"Never\"}: minAvailable and maxUnavailable cannot be both set",
                "spec.minAvailable: Invalid value: -1: must be greater than or equal to 0",
                "spec.maxUnavailable: Invalid value: \"101%\": must not be greater than 100%",
                "spec.unhealthyPodEvictionPolicy: Unsupported value: \"Never\": supported values: \"AlwaysAllow\", \
                 \"IfHealthyBudget\"",
            ]
        );
    }

    #[test]
    fn a_status_counts() {
        let of = |status: Value| json!({"spec": {"minAvailable": -1}, "status": status});
        let old = of(json!({}));
        assert_eq!(
            problems_of_update(&PodDisruptionBudget, Some("status"), &of(json!({"expectedPods": -1})), &old),
            ["status.expectedPods: Invalid value: -1: must be greater than or equal to 0"]
        );
    }
}
