//! `Role`. Upstream: `pkg/registry/rbac/role/strategy.go`.

use serde_json::Value;

use super::rules;
use crate::field::ErrorList;
use crate::kind::{Cells, Cx, Kind, MetaPass};
use crate::kinds::{Facts, facts};
use crate::table::name_and_created;

/// The kind `Role`.
pub struct Role;

impl Kind for Role {
    facts!(Facts { kind: "Role", plural: "roles", ..Facts::namespaced("rbac.authorization.k8s.io", "v1") });

    fn default(&self, obj: &mut Value) {
        rules::default_rules(obj);
    }

    fn validate(&self, _cx: &Cx<'_>, obj: &Value) -> ErrorList {
        let mut errs = ErrorList::new();
        rules::validate_rules(&mut errs, obj, true);
        errs
    }

    fn validate_update(&self, cx: &Cx<'_>, new: &Value, _old: &Value) -> ErrorList {
        rules::twice(self.validate(cx, new))
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

    fn cells(&self, obj: &Value, _now: jiff::Timestamp) -> Cells {
        name_and_created(obj)
    }
}
