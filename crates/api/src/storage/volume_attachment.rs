//! `VolumeAttachment`. Upstream: `pkg/registry/storage/volumeattachment/strategy.go`, `ValidateVolumeAttachment`.

use serde_json::{Value, json};

use crate::field::ErrorList;
use crate::kind::Kind;
use crate::kind::{Cells, Cx, MetaPass};
use crate::kinds::{AGE, Facts, NAME, STATUS, facts};
use crate::object::{View, at, restore, same, set, text};
use crate::strategy::{reset_all_or_status, reset_meta_for_status};
use crate::table::{age, name};
use crate::validate::internal;

/// How much an attacher may say about an attachment, and about what went wrong.
const MAX_METADATA: usize = 256 * 1024;
const MAX_ERROR: usize = 1024;

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
            reset_meta_for_status(new, old);
        } else {
            restore(new, old, &["status"]);
        }
    }

    fn validate(&self, _cx: &Cx<'_>, obj: &Value) -> ErrorList {
        let mut errs = attachment(obj);
        // What only v1 asks for, of new objects alone, comes last.
        let spec = View::root(obj).get("spec");
        crate::validate::pod_spec::volumes::driver_name(&mut errs, &spec.get("attacher"));
        let volume = spec.dig("source.persistentVolumeName");
        if volume.is_set() {
            crate::validate::dns_subdomain_at(&mut errs, &volume);
        }
        errs
    }

    fn validate_update(&self, _cx: &Cx<'_>, new: &Value, old: &Value) -> ErrorList {
        // Upstream's strategy checks the object as a new one, and so does its check of the change.
        let mut errs = attachment(new);
        errs.extend(attachment(new));
        let spec = View::root(new).get("spec");
        if !same(spec.value(), at(old, &["spec"])) {
            let shown = internal::shown(internal::VOLUME_ATTACHMENT, spec.value());
            errs.invalid(spec.path(), shown, "field is immutable");
        }
        errs
    }

    fn unconditional_update(&self) -> bool {
        false
    }

    fn meta_passes(&self, _subresource: Option<&str>) -> &'static [MetaPass] {
        &[MetaPass::New, MetaPass::New]
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
        reset_all_or_status(subresource)
    }
}

/// Upstream: `ValidateVolumeAttachment`.
fn attachment(obj: &Value) -> ErrorList {
    let mut errs = ErrorList::new();
    let spec = View::root(obj).get("spec");
    let attacher = spec.get("attacher");
    if attacher.str().is_empty() {
        errs.required(attacher.path(), "");
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
        (true, false) => crate::core::persistent_volume::spec(&mut errs, &inline, None),
        (false, true) => {}
    }
    crate::validate::dns_subdomain_at(&mut errs, &spec.get("nodeName"));
    let metadata = View::root(obj).dig("status.attachmentMetadata");
    if metadata.entries().iter().map(|(key, value)| key.len() + value.len()).sum::<usize>() > MAX_METADATA {
        errs.too_long(metadata.path(), MAX_METADATA);
    }
    for field in ["attachError", "detachError"] {
        let error = View::root(obj).get("status").get(field);
        if error.get("message").len() > MAX_ERROR {
            // Upstream says the limit of the metadata.
            errs.too_long(error.get("message").path(), MAX_METADATA);
        }
        let code = error.get("errorCode");
        if let Some(n) = code.int().filter(|n| *n < 0) {
            errs.invalid(code.path(), n, "must be between 0 and 2147483647, inclusive");
        }
    }
    errs
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::validate::testing::{problems, problems_of_update};

    #[test]
    fn what_v1_asks_for_is_asked_of_new_objects() {
        let of = |attacher: &str| json!({"spec": {"attacher": attacher, "nodeName": "n", "source": {"persistentVolumeName": "p"}}});
        assert_eq!(problems(&VolumeAttachment, &of("d.io")), [""; 0]);
        assert_eq!(problems(&VolumeAttachment, &of("a/b")).len(), 1);
        assert_eq!(problems_of_update(&VolumeAttachment, Some("status"), &of("a/b"), &of("a/b")), [""; 0]);
        const CODE: &str =
            "status.attachError.errorCode: Invalid value: -1: must be between 0 and 2147483647, inclusive";
        let mut new = of("d.io");
        new["status"] = json!({"attachError": {"errorCode": -1}});
        assert_eq!(problems_of_update(&VolumeAttachment, Some("status"), &new, &of("d.io")), [CODE, CODE]);
    }
}
