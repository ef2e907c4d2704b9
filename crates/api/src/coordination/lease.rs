//! `Lease`. Upstream: `pkg/registry/coordination/lease/strategy.go`, `ValidateLeaseSpec`.

use serde_json::{Value, json};

use crate::field::ErrorList;
use crate::kind::{Cells, Cx, Kind};
use crate::kinds::{AGE, Facts, NAME, facts};
use crate::object::{View, at, remove, text};
use crate::table::{age, name};
use crate::validate::non_negative;

/// The kind `Lease`.
pub struct Lease;

/// The fields of coordinated leader election, whose gate is off by default.
const GATED: [&str; 2] = ["strategy", "preferredHolder"];

fn drop_gated(cx: &Cx<'_>, new: &mut Value, old: Option<&Value>) {
    if cx.features.enabled("CoordinatedLeaderElection", false) {
        return;
    }
    for field in GATED {
        if old.is_none_or(|old| at(old, &["spec", field]).is_null()) {
            remove(new, &["spec", field]);
        }
    }
}

impl Kind for Lease {
    facts!(Facts {
        kind: "Lease",
        plural: "leases",
        columns: &[NAME, ("Holder", "string", "", 0), AGE],
        ..Facts::namespaced("coordination.k8s.io", "v1")
    });

    fn prepare_create(&self, cx: &Cx<'_>, obj: &mut Value) {
        drop_gated(cx, obj, None);
    }

    fn prepare_update(&self, cx: &Cx<'_>, new: &mut Value, old: &Value) {
        drop_gated(cx, new, Some(old));
    }

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
        errs
    }

    fn create_on_update(&self) -> bool {
        true
    }

    fn unconditional_update(&self) -> bool {
        false
    }

    fn cells(&self, obj: &Value, now: jiff::Timestamp) -> Cells {
        vec![json!(name(obj)), json!(text(obj, &["spec", "holderIdentity"])), json!(age(obj, now))]
    }
}
