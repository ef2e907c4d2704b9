//! `CSIStorageCapacity`. Upstream: `pkg/registry/storage/csistoragecapacity/strategy.go`, `ValidateCSIStorageCapacity`.

use serde_json::Value;

use crate::field::ErrorList;
use crate::kind::Kind;
use crate::kind::{Cells, Cx};
use crate::kinds::{Facts, facts};
use crate::object::View;
use crate::table::name_and_created;
use crate::validate::pod_spec::resources::amount;
use crate::validate::{immutable_field, selector};

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

    fn validate_update(&self, _cx: &Cx<'_>, new: &Value, old: &Value) -> ErrorList {
        let mut errs = ErrorList::new();
        for field in ["nodeTopology", "storageClassName"] {
            immutable_field(&mut errs, new, old, &[field]);
        }
        errs
    }

    fn unconditional_update(&self) -> bool {
        false
    }

    fn cells(&self, obj: &Value, _now: jiff::Timestamp) -> Cells {
        name_and_created(obj)
    }
}
