//! `ClusterRole`. Upstream: `pkg/registry/rbac/clusterrole/strategy.go`.

use serde_json::Value;

use super::rules;
use crate::field::ErrorList;
use crate::kind::{Cells, Cx, Kind, MetaPass};
use crate::kinds::{Facts, facts};
use crate::object::View;
use crate::table::name_and_created;
use crate::validate::selector;

/// The kind `ClusterRole`.
pub struct ClusterRole;

impl Kind for ClusterRole {
    facts!(Facts { kind: "ClusterRole", plural: "clusterroles", ..Facts::cluster("rbac.authorization.k8s.io", "v1") });

    fn default(&self, obj: &mut Value) {
        rules::default_rules(obj);
    }

    fn validate(&self, _cx: &Cx<'_>, obj: &Value) -> ErrorList {
        let mut errs = ErrorList::new();
        rules::validate_rules(&mut errs, obj, false);
        let aggregation = View::root(obj).get("aggregationRule");
        if aggregation.is_set() {
            let selectors = aggregation.get("clusterRoleSelectors");
            if selectors.is_empty() {
                errs.required(
                    selectors.path(),
                    "at least one clusterRoleSelector required if aggregationRule is non-nil",
                );
            }
            for selector in selectors.list() {
                let before = errs.0.len();
                selector::label_selector(&mut errs, &selector);
                if errs.0.len() > before {
                    errs.invalid(selector.path(), &Value::Null, "invalid label selector.");
                }
            }
        }
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
