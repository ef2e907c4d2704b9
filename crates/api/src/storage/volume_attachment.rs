//! `VolumeAttachment`. Upstream: `pkg/registry/storage/volumeattachment/strategy.go`, `ValidateVolumeAttachment`.

use serde_json::{Value, json};

use crate::field::ErrorList;
use crate::kind::Kind;
use crate::kind::{Cells, Cx};
use crate::kinds::{AGE, Facts, NAME, STATUS, facts};
use crate::object::{View, at, restore, same, set, text};
use crate::strategy::reset_spec_or_status;
use crate::table::{age, name};

/// The kind `VolumeAttachment`.
pub struct VolumeAttachment;

impl Kind for VolumeAttachment {
    facts!(Facts {
        kind: "VolumeAttachment",
        plural: "volumeattachments",
        subresources: &[STATUS],
        columns: &[
            NAME,
            ("Attacher", "string", "name", 0),
            ("PV", "string", "", 0),
            ("Node", "string", "", 0),
            ("Attached", "boolean", "", 0),
            AGE
        ],
        ..Facts::cluster("storage.k8s.io", "v1")
    });

    fn prepare_create(&self, _cx: &Cx<'_>, obj: &mut Value) {
        set(obj, &["status"], json!({"attached": false}));
    }

    fn prepare_update(&self, cx: &Cx<'_>, new: &mut Value, old: &Value) {
        if cx.subresource == Some("status") {
            restore(new, old, &["spec"]);
        } else {
            restore(new, old, &["status"]);
        }
    }

    fn validate(&self, _cx: &Cx<'_>, obj: &Value) -> ErrorList {
        let mut errs = ErrorList::new();
        let spec = View::root(obj).get("spec");
        let attacher = spec.get("attacher");
        if attacher.str().is_empty() {
            errs.required(attacher.path(), "");
        } else {
            crate::validate::pod_spec::volumes::driver_name(&mut errs, &attacher);
        }
        let node = spec.get("nodeName");
        for problem in crate::names::dns_subdomain(node.str(), false) {
            errs.invalid(node.path(), node.str(), problem);
        }
        let (inline, volume) = (spec.dig("source.inlineVolumeSpec"), spec.dig("source.persistentVolumeName"));
        match (inline.is_set(), volume.is_set()) {
            (false, false) => errs.required(
                spec.get("source").path(),
                "must specify exactly one of inlineVolumeSpec and persistentVolumeName",
            ),
            (true, true) => errs.forbidden(
                spec.get("source").path(),
                "must specify exactly one of inlineVolumeSpec and persistentVolumeName",
            ),
            (false, true) if volume.str().is_empty() => {
                errs.required(volume.path(), "must specify non empty persistentVolumeName")
            }
            _ => {}
        }
        errs
    }

    fn validate_update(&self, cx: &Cx<'_>, new: &Value, old: &Value) -> ErrorList {
        let mut errs = self.validate(cx, new);
        let spec = View::root(new).get("spec");
        if !same(spec.value(), at(old, &["spec"])) {
            errs.invalid(spec.path(), spec.value(), "field is immutable");
        }
        errs
    }

    fn unconditional_update(&self) -> bool {
        false
    }

    fn cells(&self, obj: &Value, now: jiff::Timestamp) -> Cells {
        vec![
            json!(name(obj)),
            json!(text(obj, &["spec", "attacher"])),
            json!(text(obj, &["spec", "source", "persistentVolumeName"])),
            json!(text(obj, &["spec", "nodeName"])),
            json!(at(obj, &["status", "attached"]).as_bool().unwrap_or_default()),
            json!(age(obj, now)),
        ]
    }

    fn reset_fields(&self, subresource: Option<&str>) -> &'static [&'static [&'static str]] {
        reset_spec_or_status(subresource)
    }
}
