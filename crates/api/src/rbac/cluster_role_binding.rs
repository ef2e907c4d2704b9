//! `ClusterRoleBinding`. Upstream: `pkg/registry/rbac/clusterrolebinding/strategy.go`.

use serde_json::Value;

use super::rules;
use crate::field::ErrorList;
use crate::kind::{Cells, Cx, Kind, MetaPass};
use crate::kinds::{Facts, facts};

/// The kind `ClusterRoleBinding`.
pub struct ClusterRoleBinding;

impl Kind for ClusterRoleBinding {
    facts!(Facts {
        kind: "ClusterRoleBinding",
        plural: "clusterrolebindings",
        columns: rules::BINDING_COLUMNS,
        ..Facts::cluster("rbac.authorization.k8s.io", "v1")
    });

    fn default(&self, obj: &mut Value) {
        rules::default_binding(obj);
    }

    fn validate(&self, _cx: &Cx<'_>, obj: &Value) -> ErrorList {
        rules::validate_binding(obj, &["ClusterRole"], false)
    }

    fn validate_update(&self, cx: &Cx<'_>, new: &Value, old: &Value) -> ErrorList {
        let mut errs = rules::twice(self.validate(cx, new));
        rules::validate_role_unchanged(&mut errs, new, old);
        errs
    }

    fn validate_name(&self, name: &str, prefix: bool) -> Vec<String> {
        crate::names::path_segment(name, prefix)
    }

    fn create_on_update(&self) -> bool {
        true
    }

    fn meta_passes(&self, _subresource: Option<&str>) -> &'static [MetaPass] {
        &[MetaPass::New, MetaPass::New, MetaPass::Changed]
    }

    fn cells(&self, obj: &Value, now: jiff::Timestamp) -> Cells {
        rules::binding_cells(obj, now)
    }
}
