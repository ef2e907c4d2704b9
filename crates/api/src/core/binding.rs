//! `Binding`: the scheduler's word on which node a pod goes to. Never stored.

use serde_json::Value;

use crate::field::ErrorList;
use crate::kind::{Cx, Kind};
use crate::kinds::{CREATE_ONLY, Facts, facts};
use crate::object::View;

/// The kind `Binding`.
pub struct Binding;

impl Kind for Binding {
    facts!(Facts { kind: "Binding", plural: "bindings", verbs: CREATE_ONLY, ..Facts::namespaced("", "v1") });

    fn validate(&self, _cx: &Cx<'_>, obj: &Value) -> ErrorList {
        let mut errs = ErrorList::new();
        let target = View::root(obj).get("target");
        if !matches!(target.get("kind").str(), "" | "Node") {
            errs.not_supported(target.get("kind").path(), target.get("kind").str(), &["Node", "<empty>"]);
        }
        if target.get("name").str().is_empty() {
            errs.required(target.get("name").path(), "");
        }
        errs
    }
}
