//! `CSIStorageCapacity`. Upstream: `pkg/registry/storage/csistoragecapacity/strategy.go`, `ValidateCSIStorageCapacity`.

use serde_json::Value;

use crate::field::ErrorList;
use crate::kind::Kind;
use crate::kind::{Cells, Cx, MetaPass};
use crate::kinds::{Facts, facts};
use crate::object::{View, at, same};
use crate::table::name_and_created;
use crate::validate::pod_spec::resources::amount;
use crate::validate::pod_spec::warnings::moved;
use crate::validate::{immutable_field, internal, selector};

/// The kind `CSIStorageCapacity`.
pub struct CSIStorageCapacity;

impl Kind for CSIStorageCapacity {
    facts!(Facts {
        kind: "CSIStorageCapacity",
        plural: "csistoragecapacities",
        ..Facts::namespaced("storage.k8s.io", "v1")
    });

    fn validate(&self, _cx: &Cx<'_>, obj: &Value) -> ErrorList {
        let mut errs = ErrorList::new();
        let root = View::root(obj);
        selector::label_selector(&mut errs, &root.get("nodeTopology"));
        crate::validate::dns_subdomain_at(&mut errs, &root.get("storageClassName"));
        amount(&mut errs, &root.get("capacity"));
        errs
    }

    fn validate_update(&self, cx: &Cx<'_>, new: &Value, old: &Value) -> ErrorList {
        let mut errs = self.validate(cx, new);
        let topology = View::root(new).get("nodeTopology");
        if !same(topology.value(), at(old, &["nodeTopology"])) {
            let shown = internal::shown_as(internal::LABEL_SELECTOR, topology.value());
            errs.invalid(topology.path(), shown, "field is immutable");
        }
        immutable_field(&mut errs, new, old, &["storageClassName"]);
        errs
    }

    fn unconditional_update(&self) -> bool {
        false
    }

    fn warnings(&self, _cx: &Cx<'_>, new: &Value, _old: Option<&Value>) -> Vec<String> {
        let (topology, mut warnings) = (View::root(new).get("nodeTopology"), Vec::new());
        for key in topology.items("matchExpressions").iter().map(|expression| expression.get("key")) {
            warnings.extend(moved(key.str()).map(|text| format!("{}: {} is {text}", key.path(), key.str())));
        }
        let labels = topology.get("matchLabels");
        for (label, _) in labels.entries() {
            warnings.extend(moved(label).map(|text| format!("{}: {text}", labels.path().child(label))));
        }
        warnings
    }

    fn meta_passes(&self, _subresource: Option<&str>) -> &'static [MetaPass] {
        &[MetaPass::New, MetaPass::Changed]
    }

    fn cells(&self, obj: &Value, _now: jiff::Timestamp) -> Cells {
        name_and_created(obj)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::validate::testing::{problems, problems_of_update, with_cx};

    #[test]
    fn a_capacity_is_of_one_class_and_place() {
        let old =
            json!({"storageClassName": "fast", "nodeTopology": {"matchLabels": {"zone": "a"}}, "capacity": "1Gi"});
        assert_eq!(problems(&CSIStorageCapacity, &old), [""; 0]);
        let mut bad = old.clone();
        bad["nodeTopology"]["matchExpressions"] = json!([{"key": "k", "operator": "In"}]);
        bad["capacity"] = json!("-1");
        assert_eq!(
            problems(&CSIStorageCapacity, &bad),
            [
                "nodeTopology.matchExpressions[0].values: Required value: must be specified when `operator` is 'In' or 'NotIn'",
                "capacity: Invalid value: \"-1\": must be greater than or equal to 0",
            ]
        );
        bad["storageClassName"] = json!("slow");
        assert_eq!(
            problems_of_update(&CSIStorageCapacity, None, &bad, &old),
            [
                "nodeTopology.matchExpressions[0].values: Required value: must be specified when `operator` is 'In' or 'NotIn'",
                "capacity: Invalid value: \"-1\": must be greater than or equal to 0",
                "nodeTopology: Invalid value: {\"matchLabels\":{\"zone\":\"a\"},\"matchExpressions\":[{\"key\":\"k\",\
                 \"operator\":\"In\"}]}: field is immutable",
                "storageClassName: Invalid value: \"slow\": field is immutable",
            ]
        );
    }

    #[test]
    fn old_labels_of_nodes_are_warned_of() {
        let capacity = json!({"nodeTopology": {"matchLabels": {"beta.kubernetes.io/arch": "a", "zone": "b"},
            "matchExpressions": [{"key": "node-role.kubernetes.io/master", "operator": "Exists"}]}});
        assert_eq!(
            with_cx(None, |cx| CSIStorageCapacity.warnings(cx, &capacity, None)),
            [
                "nodeTopology.matchExpressions[0].key: node-role.kubernetes.io/master is use \
                 \"node-role.kubernetes.io/control-plane\" instead",
                "nodeTopology.matchLabels.beta.kubernetes.io/arch: deprecated since v1.14; use \"kubernetes.io/arch\" instead",
            ]
        );
    }
}
