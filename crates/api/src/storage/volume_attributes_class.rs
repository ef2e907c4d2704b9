//! `VolumeAttributesClass`. Upstream: `pkg/registry/storage/volumeattributesclass/strategy.go`, `ValidateVolumeAttributesClass`.

use serde_json::{Value, json};

use crate::field::ErrorList;
use crate::kind::Kind;
use crate::kind::{Cells, Cx};
use crate::kinds::{AGE, Facts, NAME, facts};
use crate::object::{View, text};
use crate::table::{age, name};
use crate::validate::immutable_field;

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
        crate::validate::pod_spec::volumes::driver_name(&mut errs, &root.get("driverName"));
        let parameters = root.get("parameters");
        if parameters.is_empty() {
            errs.required(parameters.path(), "must contain at least one key/value pair");
        }
        let mut size = 0;
        for (key, value) in parameters.entries() {
            if key.is_empty() {
                errs.invalid(parameters.path(), key, "field can not be empty");
            }
            size += key.len() + value.len();
        }
        if parameters.len() > 512 {
            errs.too_many(parameters.path(), parameters.len(), 512);
        }
        if size > 256 * 1024 {
            errs.too_long(parameters.path(), 256 * 1024);
        }
        errs
    }

    fn validate_update(&self, _cx: &Cx<'_>, new: &Value, old: &Value) -> ErrorList {
        let mut errs = ErrorList::new();
        for field in ["driverName", "parameters"] {
            immutable_field(&mut errs, new, old, &[field]);
        }
        errs
    }

    fn cells(&self, obj: &Value, now: jiff::Timestamp) -> Cells {
        vec![json!(name(obj)), json!(text(obj, &["driverName"])), json!(age(obj, now))]
    }
}
