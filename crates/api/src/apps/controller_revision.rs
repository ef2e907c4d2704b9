//! `ControllerRevision`: a snapshot of a workload's template, never changed but for its number.
//!
//! Upstream: `pkg/registry/apps/controllerrevision/strategy.go`, `ValidateControllerRevision`.

use serde_json::{Value, json};

use crate::field::ErrorList;
use crate::kind::{Cells, Cx, Kind, MetaPass};
use crate::kinds::{AGE, Facts, NAME, facts};
use crate::object::{View, at, list, text};
use crate::table::{age, name};
use crate::validate::{immutable_field, non_negative};

/// The kind `ControllerRevision`.
pub struct ControllerRevision;

impl Kind for ControllerRevision {
    facts!(Facts {
        kind: "ControllerRevision",
        plural: "controllerrevisions",
        columns: &[NAME, ("Controller", "string", "", 0), ("Revision", "string", "", 0), AGE],
        ..Facts::namespaced("apps", "v1")
    });

    fn meta_passes(&self, _subresource: Option<&str>) -> &'static [MetaPass] {
        &[MetaPass::Changed, MetaPass::New]
    }

    fn validate(&self, _cx: &Cx<'_>, obj: &Value) -> ErrorList {
        let mut errs = ErrorList::new();
        let root = View::root(obj);
        let data = root.get("data");
        if !data.is_set() {
            errs.required(data.path(), "data is mandatory");
        } else if !data.value().is_object() {
            errs.invalid(data.path(), data.value(), "must be a valid JSON object");
        }
        non_negative(&mut errs, &root.get("revision"));
        errs
    }

    fn validate_update(&self, cx: &Cx<'_>, new: &Value, old: &Value) -> ErrorList {
        let mut errs = self.validate(cx, new);
        immutable_field(&mut errs, new, old, &["data"]);
        errs
    }

    fn cells(&self, obj: &Value, now: jiff::Timestamp) -> Cells {
        let owner = list(obj, &["metadata", "ownerReferences"]).iter().find(|o| o["controller"] == true);
        let controller = owner.map_or_else(
            || "<none>".to_owned(),
            |o| {
                let kind = text(o, &["kind"]).to_lowercase();
                match text(o, &["apiVersion"]).split_once('/') {
                    Some((group, _)) => format!("{kind}.{group}/{}", text(o, &["name"])),
                    None => format!("{kind}/{}", text(o, &["name"])),
                }
            },
        );
        let revision = at(obj, &["revision"]).as_i64().unwrap_or_default();
        vec![json!(name(obj)), json!(controller), json!(revision), json!(age(obj, now))]
    }
}
