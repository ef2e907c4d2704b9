//! `VolumeAttributesClass`. Upstream: `pkg/registry/storage/volumeattributesclass/strategy.go`, `ValidateVolumeAttributesClass`.

use serde_json::{Value, json};

use crate::field::{ErrorList, Path};
use crate::kind::Kind;
use crate::kind::{Cells, Cx, MetaPass};
use crate::kinds::{AGE, Facts, NAME, facts};
use crate::object::{View, at, same, text};
use crate::table::{age, name};

/// The kind `VolumeAttributesClass`.
pub struct VolumeAttributesClass;

impl Kind for VolumeAttributesClass {
    facts!(Facts {
        kind: "VolumeAttributesClass",
        plural: "volumeattributesclasses",
        short_names: &["vac"],
        columns: &[NAME, ("DriverName", "string", "", 0), AGE],
        ..Facts::cluster("storage.k8s.io", "v1")
    });

    fn validate(&self, _cx: &Cx<'_>, obj: &Value) -> ErrorList {
        let mut errs = ErrorList::new();
        let root = View::root(obj);
        super::provisioner(&mut errs, &root.get("driverName"));
        super::parameters(&mut errs, &root.get("parameters"), false);
        errs
    }

    fn validate_update(&self, cx: &Cx<'_>, new: &Value, old: &Value) -> ErrorList {
        let mut errs = ErrorList::new();
        for field in ["driverName", "parameters"] {
            if !same(at(new, &[field]), at(old, &[field])) {
                errs.forbidden(&Path::new(field), format!("updates to {field} are forbidden."));
            }
        }
        errs.extend(self.validate(cx, new));
        errs
    }

    fn meta_passes(&self, _subresource: Option<&str>) -> &'static [MetaPass] {
        &[MetaPass::Changed, MetaPass::New]
    }

    fn cells(&self, obj: &Value, now: jiff::Timestamp) -> Cells {
        vec![json!(name(obj)), json!(text(obj, &["driverName"])), json!(age(obj, now))]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::validate::testing::{problems, problems_of_update};

    #[test]
    fn parameters_are_given_and_stay() {
        assert_eq!(
            problems(&VolumeAttributesClass, &json!({})),
            ["driverName: Required value", "parameters: Required value: must contain at least one key/value pair"]
        );
        let old = json!({"driverName": "d.io", "parameters": {"a": "b"}});
        assert_eq!(
            problems_of_update(
                &VolumeAttributesClass,
                None,
                &json!({"driverName": "e.io", "parameters": {"": "c"}}),
                &old
            ),
            [
                "driverName: Forbidden: updates to driverName are forbidden.",
                "parameters: Forbidden: updates to parameters are forbidden.",
                "parameters: Invalid value: \"\": field can not be empty.",
            ]
        );
    }
}
