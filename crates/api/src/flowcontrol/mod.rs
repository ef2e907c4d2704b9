//! The API group `flowcontrol.apiserver.k8s.io`: which requests share which part of the server.

use crate::kind::Kind;
pub mod flow_schema;
pub mod priority_level;

/// The kinds of the group.
pub fn all() -> Vec<Box<dyn Kind>> {
    vec![Box::new(flow_schema::FlowSchema), Box::new(priority_level::PriorityLevelConfiguration)]
}

use serde_json::Value;

use crate::field::ErrorList;
use crate::kind::Cx;
use crate::object::{View, at, restore, set};
use crate::strategy::{first_generation, next_generation};

const GROUP: &str = "flowcontrol.apiserver.k8s.io";

fn prepare_create(obj: &mut Value) {
    set(obj, &["status"], serde_json::json!({}));
    first_generation(obj);
}

fn prepare_update(cx: &Cx<'_>, new: &mut Value, old: &Value) {
    if cx.subresource == Some("status") {
        // All metadata but the record of who changed the status is kept, and the version that the write races on.
        let kept = ["managedFields", "resourceVersion"].map(|f| (f, at(new, &["metadata", f]).clone()));
        restore(new, old, &["metadata"]);
        for (field, value) in kept {
            if !value.is_null() {
                set(new, &["metadata", field], value);
            }
        }
        restore(new, old, &["spec"]);
    } else {
        restore(new, old, &["status"]);
        next_generation(new, old, &["spec"]);
    }
}

/// Conditions have a type, each another one.
fn conditions(errs: &mut ErrorList, obj: &Value) {
    let mut seen = std::collections::BTreeSet::new();
    for condition in View::root(obj).get("status").items("conditions") {
        let ty = condition.get("type");
        if !seen.insert(ty.str()) {
            errs.duplicate(ty.path(), ty.str());
        }
        if ty.str().is_empty() {
            errs.required(ty.path(), "must not be empty");
        }
    }
}
