//! `PersistentVolumeClaim`. The finalizer that protects a claim in use is admission's (`StorageObjectInUseProtection`)
//! and its controller's. Upstream: `pkg/registry/core/persistentvolumeclaim/strategy.go`, `ValidatePersistentVolumeClaim`.

use serde_json::{Value, json};

use crate::field::{ErrorList, Path};
use crate::kind::Kind;
use crate::kind::{Cells, Cx};
use crate::kinds::{AGE, Facts, NAME, STATUS, facts};
use crate::object::{View, at, at_mut, default_text, default_value, list, remove, restore, same, set, text};
use crate::quantity::Quantity;
use crate::strategy::reset_spec_or_status;
use crate::table::{age, name};
use crate::validate::pod_spec::volumes::claim_spec;

/// The kind `PersistentVolumeClaim`.
pub struct PersistentVolumeClaim;

impl Kind for PersistentVolumeClaim {
    facts!(Facts {
        kind: "PersistentVolumeClaim",
        plural: "persistentvolumeclaims",
        short_names: &["pvc"],
        subresources: &[STATUS],
        columns: &[
            NAME,
            ("Status", "string", "", 0),
            ("Volume", "string", "", 0),
            ("Capacity", "string", "", 0),
            ("Access Modes", "string", "", 0),
            ("StorageClass", "string", "", 0),
            ("VolumeAttributesClass", "string", "", 0),
            AGE,
            ("VolumeMode", "string", "", 1)
        ],
        ..Facts::namespaced("", "v1")
    });

    fn default(&self, obj: &mut Value) {
        default_value(obj, "status", json!({}));
        if let Some(status) = at_mut(obj, &["status"]) {
            default_text(status, "phase", "Pending");
        }
        if let Some(spec) = at_mut(obj, &["spec"]) {
            default_value(spec, "volumeMode", "Filesystem");
            sources(spec);
        }
    }

    fn prepare_create(&self, _cx: &Cx<'_>, obj: &mut Value) {
        set(obj, &["status"], json!({"phase": "Pending"}));
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
        claim_spec(&mut errs, &View::root(obj).get("spec"));
        errs
    }

    fn validate_update(&self, cx: &Cx<'_>, new: &Value, old: &Value) -> ErrorList {
        let mut errs = ErrorList::new();
        let root = View::root(new);
        if cx.subresource == Some("status") {
            status(&mut errs, &root);
            return errs;
        }
        let spec = root.get("spec");
        claim_spec(&mut errs, &spec);
        let bound = text(old, &["status", "phase"]) == "Bound";
        let mut munged = spec.value().clone();
        let old_spec = at(old, &["spec"]);
        // The volume may be named once.
        if text(old_spec, &["volumeName"]).is_empty() {
            restore(&mut munged, old_spec, &["volumeName"]);
        }
        restore(&mut munged, old_spec, &["volumeAttributesClassName"]);
        // A class may be given to a claim that has none, or has it in the annotation of long ago.
        let annotation = |obj| at(obj, &["metadata", "annotations", BETA_CLASS]);
        let (class, before) = (at(new, &["spec", "storageClassName"]), annotation(old));
        let given = !class.is_null() && at(old_spec, &["storageClassName"]).is_null();
        let moved = given && !before.is_null() && class == before;
        if given && (before.is_null() || moved) {
            restore(&mut munged, old_spec, &["storageClassName"]);
        }
        if annotation(new) != before && !(moved && annotation(new).is_null()) {
            let path = Path::new("metadata").child("annotations").key(BETA_CLASS);
            errs.invalid(&path, annotation(new).as_str().unwrap_or_default(), "field is immutable");
        }
        let size = |spec: &Value| {
            text(spec, &["resources", "requests", "storage"]).parse::<Quantity>().unwrap_or(Quantity::ZERO)
        };
        if bound {
            restore(&mut munged, old_spec, &["resources", "requests", "storage"]);
        }
        if !same(&munged, old_spec) {
            errs.forbidden(
                spec.path(),
                "spec is immutable after creation except resources.requests and volumeAttributesClassName for bound claims",
            );
        }
        if size(spec.value()) < size(old_spec) {
            let capacity = text(old, &["status", "capacity", "storage"]).parse::<Quantity>().unwrap_or(Quantity::ZERO);
            if size(spec.value()) <= capacity {
                errs.forbidden(
                    spec.dig("resources.requests.storage").path(),
                    "field can not be less than status.capacity",
                );
            }
        }
        // Upstream's path leaves the spec out.
        if !same(spec.get("volumeMode").value(), at(old_spec, &["volumeMode"])) {
            errs.invalid(&Path::new("volumeMode"), spec.get("volumeMode").value(), "field is immutable");
        }
        let class = spec.get("volumeAttributesClassName");
        if !at(old_spec, &["volumeAttributesClassName"]).is_null() && !class.is_set() {
            errs.forbidden(class.path(), "update from non-nil value to nil is forbidden");
        } else if !text(old_spec, &["volumeAttributesClassName"]).is_empty() && class.is_empty() {
            errs.forbidden(class.path(), "update from non-nil value to an empty string is forbidden");
        }
        errs
    }

    fn warnings(&self, cx: &Cx<'_>, new: &Value, _old: Option<&Value>) -> Vec<String> {
        if cx.subresource.is_some() {
            return Vec::new();
        }
        let mut warnings = beta_class_warning(new);
        warnings.extend(crate::validate::pod_spec::warnings::claim_spec(&View::root(new).get("spec")));
        warnings
    }

    fn cells(&self, obj: &Value, now: jiff::Timestamp) -> Cells {
        let (mut capacity, mut modes, volume) = (String::new(), String::new(), text(obj, &["spec", "volumeName"]));
        if !volume.is_empty() {
            modes = access_modes(list(obj, &["status", "accessModes"]));
            capacity = at(obj, &["status", "capacity", "storage"]).as_str().unwrap_or("0").to_owned();
        }
        let phase = if at(obj, &["metadata", "deletionTimestamp"]).is_null() {
            text(obj, &["status", "phase"])
        } else {
            "Terminating"
        };
        let class = match text(obj, &["metadata", "annotations", "volume.beta.kubernetes.io/storage-class"]) {
            "" => text(obj, &["spec", "storageClassName"]),
            class => class,
        };
        let attributes = at(obj, &["spec", "volumeAttributesClassName"]).as_str().unwrap_or("<unset>");
        vec![
            json!(name(obj)),
            json!(phase),
            json!(volume),
            json!(capacity),
            json!(modes),
            json!(class),
            json!(attributes),
            json!(age(obj, now)),
            json!(at(obj, &["spec", "volumeMode"]).as_str().unwrap_or("<unset>")),
        ]
    }

    fn reset_fields(&self, subresource: Option<&str>) -> &'static [&'static [&'static str]] {
        reset_spec_or_status(subresource)
    }
}

/// What a controller says of a claim. Upstream: `ValidatePersistentVolumeClaimStatusUpdate`.
fn status(errs: &mut ErrorList, root: &View<'_>) {
    const RESIZING: [&str; 5] = [
        "ControllerResizeFailed",
        "ControllerResizeInProgress",
        "NodeResizeFailed",
        "NodeResizeInProgress",
        "NodeResizePending",
    ];
    if root.dig("spec.accessModes").is_empty() {
        errs.required(&Path::new("Spec").child("accessModes"), "");
    }
    let status = root.get("status");
    for (_, amount) in status.get("capacity").entries() {
        negative(errs, &amount);
    }
    let statuses = status.path().child("allocatedResourceStatus");
    for (name, v) in status.get("allocatedResourceStatuses").entries() {
        resource_key(errs, name, &statuses);
        if !RESIZING.contains(&v.str()) {
            errs.not_supported(&statuses, name, &RESIZING);
        }
    }
    let allocated = status.get("allocatedResources");
    for (name, amount) in allocated.entries() {
        if resource_key(errs, name, allocated.path()) && !negative(errs, &amount) {
            crate::validate::pod_spec::resources::amount_of(errs, "storage", &amount);
        }
    }
}

/// An amount that is one at all; true if it is not. Upstream: `validateBasicResource`.
fn negative(errs: &mut ErrorList, amount: &View<'_>) -> bool {
    let bad = crate::validate::pod_spec::resources::parsed(amount).is_some_and(|q| q.sign() < 0);
    if bad {
        errs.invalid(amount.path(), amount.str(), "must be a valid resource quantity");
    }
    bad
}

/// A resource a claim can have: of those without a domain of their own only `storage`.
fn resource_key(errs: &mut ErrorList, name: &str, path: &Path) -> bool {
    let problems = crate::names::qualified_name(name);
    let native = !name.contains('/') || name.contains("kubernetes.io/");
    let known = !native || name == "storage";
    if problems.is_empty() && !known {
        errs.not_supported(path, name, &["storage"]);
    }
    let good = problems.is_empty() && known;
    for problem in problems {
        errs.invalid(path, name, problem);
    }
    good
}

/// `dataSource` and `dataSourceRef` say the same where neither names a namespace. Upstream: `NormalizeDataSources`.
fn sources(spec: &mut Value) {
    let (source, reference) = (at(spec, &["dataSource"]).clone(), at(spec, &["dataSourceRef"]).clone());
    if !source.is_null() && reference.is_null() {
        set(spec, &["dataSourceRef"], source);
    } else if source.is_null() && !reference.is_null() && text(&reference, &["namespace"]).is_empty() {
        let mut source = reference;
        remove(&mut source, &["namespace"]);
        set(spec, &["dataSource"], source);
    }
}

const BETA_CLASS: &str = "volume.beta.kubernetes.io/storage-class";

/// The class in an annotation is that of long ago.
pub(super) fn beta_class_warning(obj: &Value) -> Vec<String> {
    let annotated = !at(obj, &["metadata", "annotations", BETA_CLASS]).is_null();
    let text = || {
        format!("metadata.annotations[{BETA_CLASS}]: deprecated since v1.8; use \"storageClassName\" attribute instead")
    };
    annotated.then(text).into_iter().collect()
}

/// Access modes in short. Upstream: `GetAccessModesAsString`.
pub(super) fn access_modes(modes: &[Value]) -> String {
    [("ReadWriteOnce", "RWO"), ("ReadOnlyMany", "ROX"), ("ReadWriteMany", "RWX"), ("ReadWriteOncePod", "RWOP")]
        .iter()
        .filter(|(mode, _)| modes.iter().any(|m| m == mode))
        .map(|(_, short)| *short)
        .collect::<Vec<_>>()
        .join(",")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kind::Features;

    #[test]
    fn a_bound_claim_may_grow() {
        let claim = |size: &str| {
            json!({"spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": size}}},
            "status": {"phase": "Bound", "capacity": {"storage": "2Gi"}}})
        };
        let features = Features::default();
        let cx = Cx { now: jiff::Timestamp::UNIX_EPOCH, subresource: None, user: "t", features: &features };
        assert!(PersistentVolumeClaim.validate_update(&cx, &claim("3Gi"), &claim("2Gi")).is_empty());
        assert_eq!(PersistentVolumeClaim.validate_update(&cx, &claim("1Gi"), &claim("2Gi")).0.len(), 1);
    }
}
