//! `CSINode`: the CSI drivers of a node. Upstream: `pkg/registry/storage/csinode/strategy.go`, `ValidateCSINode`.

use serde_json::{Value, json};

use crate::field::{ErrorList, Path};
use crate::kind::Kind;
use crate::kind::{Cells, Cx, MetaPass};
use crate::kinds::{AGE, Facts, NAME, facts};
use crate::object::{View, default_value, list, same, set};
use crate::table::{age, name};
use crate::validate::internal;

/// The kind `CSINode`.
pub struct CSINode;

impl Kind for CSINode {
    facts!(Facts {
        kind: "CSINode",
        plural: "csinodes",
        columns: &[NAME, ("Drivers", "integer", "", 0), AGE],
        ..Facts::cluster("storage.k8s.io", "v1")
    });

    fn default(&self, obj: &mut Value) {
        default_value(obj, "spec", json!({}));
        if list(obj, &["spec", "drivers"]).is_empty() {
            set(obj, &["spec", "drivers"], Value::Null);
        }
    }

    fn validate(&self, _cx: &Cx<'_>, obj: &Value) -> ErrorList {
        let mut errs = ErrorList::new();
        let mut seen = std::collections::BTreeSet::new();
        for driver in View::root(obj).get("spec").items("drivers") {
            let (name, node) = (driver.get("name"), driver.get("nodeID"));
            crate::validate::pod_spec::volumes::driver_name(&mut errs, &name);
            if node.str().is_empty() {
                errs.required(node.path(), "");
            } else if node.len() > 256 {
                errs.invalid(node.path(), node.str(), "must be 256 characters or less");
            }
            crate::validate::non_negative(&mut errs, &driver.dig("allocatable.count"));
            if !seen.insert(name.str()) {
                errs.duplicate(name.path(), name.str());
            }
            let mut keys = std::collections::BTreeSet::new();
            for key in driver.get("topologyKeys").strs() {
                if key.is_empty() {
                    errs.required(driver.path(), "");
                }
                if !keys.insert(key) {
                    errs.duplicate(driver.path(), key);
                }
                crate::validate::labels::name(&mut errs, key, driver.path());
            }
        }
        errs
    }

    fn validate_update(&self, cx: &Cx<'_>, new: &Value, old: &Value) -> ErrorList {
        // Upstream's strategy checks the object as a new one, and so does its check of the change.
        let mut errs = self.validate(cx, new);
        errs.extend(self.validate(cx, new));
        // A driver that stays is what it was, but for how much it can take.
        let path = Path::new("spec").child("drivers");
        for before in list(old, &["spec", "drivers"]) {
            for driver in View::root(new).get("spec").items("drivers") {
                let mut munged = driver.value().clone();
                crate::object::restore(&mut munged, before, &["allocatable"]);
                if driver.value().get("name") == before.get("name") && !same(&munged, before) {
                    crate::object::remove(&mut munged, &["allocatable"]);
                    errs.invalid(&path, internal::shown(internal::CSI_NODE_DRIVER, &munged), "field is immutable");
                }
            }
        }
        errs
    }

    fn unconditional_update(&self) -> bool {
        false
    }

    fn meta_passes(&self, _subresource: Option<&str>) -> &'static [MetaPass] {
        &[MetaPass::New, MetaPass::New]
    }

    fn cells(&self, obj: &Value, now: jiff::Timestamp) -> Cells {
        vec![json!(name(obj)), json!(list(obj, &["spec", "drivers"]).len()), json!(age(obj, now))]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::validate::testing::{problems, problems_of_update};

    #[test]
    fn drivers() {
        let node = |drivers: Value| json!({"spec": {"drivers": drivers}});
        assert_eq!(
            problems(
                &CSINode,
                &node(json!([{"name": "d.io", "nodeID": "", "allocatable": {"count": -1}, "topologyKeys": ["a", "a"]},
                    {"name": "d.io", "nodeID": "n"}]))
            ),
            [
                "spec.drivers[0].nodeID: Required value",
                "spec.drivers[0].allocatable.count: Invalid value: -1: must be greater than or equal to 0",
                "spec.drivers[0]: Duplicate value: \"a\"",
                "spec.drivers[1].name: Duplicate value: \"d.io\"",
            ]
        );
        let old = node(json!([{"name": "d.io", "nodeID": "a", "allocatable": {"count": 1}}]));
        let new = node(json!([{"name": "d.io", "nodeID": "b", "allocatable": {"count": 2}}]));
        assert_eq!(
            problems_of_update(&CSINode, None, &new, &old),
            [
                "spec.drivers: Invalid value: {\"Name\":\"d.io\",\"NodeID\":\"b\",\"TopologyKeys\":null,\"Allocatable\":null}: \
                 field is immutable"
            ]
        );
    }

    #[test]
    fn what_is_wrong_with_a_changed_node_is_told_twice() {
        const ID: &str = "spec.drivers[0].nodeID: Required value";
        let old = json!({"spec": {"drivers": [{"name": "d.io", "nodeID": "a"}]}});
        let new = json!({"spec": {"drivers": [{"name": "e.io", "nodeID": ""}]}});
        assert_eq!(problems_of_update(&CSINode, None, &new, &old), [ID, ID]);
    }
}
