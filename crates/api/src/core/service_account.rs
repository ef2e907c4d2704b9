//! `ServiceAccount`. Upstream: `pkg/registry/core/serviceaccount/strategy.go`.

use serde_json::Value;

use crate::kind::{Cx, Kind, MetaPass};
use crate::kinds::{AGE, CREATE_ONLY, Facts, NAME, Sub, facts};
use crate::object::at;

/// The kind `ServiceAccount`.
pub struct ServiceAccount;

const MOUNTABLE: &str = "kubernetes.io/enforce-mountable-secrets";

impl Kind for ServiceAccount {
    facts!(Facts {
        kind: "ServiceAccount",
        plural: "serviceaccounts",
        short_names: &["sa"],
        subresources: &[Sub("token", "TokenRequest", Some(("authentication.k8s.io", "v1")), CREATE_ONLY)],
        columns: &[NAME, AGE],
        ..Facts::namespaced("", "v1")
    });

    fn meta_passes(&self, _subresource: Option<&str>) -> &'static [MetaPass] {
        &[MetaPass::Changed, MetaPass::New]
    }

    fn unconditional_update(&self) -> bool {
        false
    }

    fn warnings(&self, _cx: &Cx<'_>, new: &Value, old: Option<&Value>) -> Vec<String> {
        let annotated = |obj: &Value| !at(obj, &["metadata", "annotations", MOUNTABLE]).is_null();
        let mut warnings = Vec::new();
        if annotated(new) && !old.is_some_and(annotated) {
            warnings.push(format!(
                "metadata.annotations[{MOUNTABLE}]: deprecated in v1.32+; prefer separate namespaces to isolate access \
                 to mounted secrets"
            ));
        }
        warnings
    }
}
