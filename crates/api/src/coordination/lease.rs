//! `Lease`. Upstream: `pkg/registry/coordination/lease/strategy.go`, `ValidateLeaseSpec`.

use serde_json::{Value, json};

use crate::field::ErrorList;
use crate::kind::{Cells, Cx, Kind, MetaRules};
use crate::kinds::{AGE, Facts, NAME, facts};
use crate::object::{View, text};
use crate::table::{age, name};
use crate::validate::non_negative;

/// The kind `Lease`.
pub struct Lease;

impl Kind for Lease {
    facts!(Facts {
        kind: "Lease",
        plural: "leases",
        columns: &[NAME, ("Holder", "string", "", 0), AGE],
        ..Facts::namespaced("coordination.k8s.io", "v1")
    });

    fn validate(&self, _cx: &Cx<'_>, obj: &Value) -> ErrorList {
        let mut errs = ErrorList::new();
        let spec = View::root(obj).get("spec");
        let duration = spec.get("leaseDurationSeconds");
        if let Some(seconds) = duration.int()
            && seconds <= 0
        {
            errs.invalid(duration.path(), seconds, "must be greater than 0");
        }
        non_negative(&mut errs, &spec.get("leaseTransitions"));
        let (strategy, preferred) = (spec.get("strategy"), spec.get("preferredHolder"));
        if strategy.is_set() {
            // Upstream's path has the field twice.
            let path = strategy.path().child("strategy");
            if strategy.str().contains('/') {
                for problem in crate::names::qualified_name(strategy.str()) {
                    errs.invalid(&path, strategy.str(), problem);
                }
            } else if strategy.str() != "OldestEmulationVersion" {
                errs.not_supported(&path, strategy.str(), &["OldestEmulationVersion"]);
            }
        }
        if !preferred.is_empty() && strategy.is_empty() {
            errs.forbidden(preferred.path(), "may only be specified if `strategy` is defined");
        }
        errs
    }

    fn create_on_update(&self) -> bool {
        true
    }

    fn unconditional_update(&self) -> bool {
        false
    }

    fn meta_rules(&self) -> MetaRules {
        MetaRules::Machinery
    }

    fn cells(&self, obj: &Value, now: jiff::Timestamp) -> Cells {
        vec![json!(name(obj)), json!(text(obj, &["spec", "holderIdentity"])), json!(age(obj, now))]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::validate::testing::problems;

    #[test]
    fn specs() {
        let check = |spec: Value, expected: &[&str]| assert_eq!(problems(&Lease, &json!({"spec": spec})), expected);
        check(json!({"holderIdentity": "h", "leaseDurationSeconds": 1, "leaseTransitions": 0}), &[]);
        check(
            json!({"leaseDurationSeconds": 0, "leaseTransitions": -1, "preferredHolder": "h"}),
            &[
                "spec.leaseDurationSeconds: Invalid value: 0: must be greater than 0",
                "spec.leaseTransitions: Invalid value: -1: must be greater than or equal to 0",
                "spec.preferredHolder: Forbidden: may only be specified if `strategy` is defined",
            ],
        );
        check(
            json!({"strategy": "x"}),
            &["spec.strategy.strategy: Unsupported value: \"x\": supported values: \"OldestEmulationVersion\""],
        );
    }
}
