//! `PersistentVolumeClaim`. The finalizer that protects a claim in use is admission's (`StorageObjectInUseProtection`)
//! and its controller's. Upstream: `pkg/registry/core/persistentvolumeclaim/strategy.go`, `ValidatePersistentVolumeClaim`.

use serde_json::{Value, json};

use crate::field::{ErrorList, Path};
use crate::kind::Kind;
use crate::kind::{Cells, Cx, MetaPass};
use crate::kinds::{AGE, Facts, NAME, STATUS, facts};
use crate::object::{View, at, at_mut, default_text, default_value, list, remove, restore, same, set, text};
use crate::quantity::Quantity;
use crate::strategy::reset_spec_or_status;
use crate::table::{age, name};
use crate::validate::difference;
use crate::validate::pod_spec::resources::basic_amount;
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

    fn meta_passes(&self, subresource: Option<&str>) -> &'static [MetaPass] {
        MetaPass::of_door(subresource, &[MetaPass::New, MetaPass::Changed, MetaPass::New])
    }

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
        claim_spec(&mut errs, &View::root(obj).get("spec"), false);
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
        let old_spec = at(old, &["spec"]);
        // Upstream checks the spec twice, as that of a new claim and as that of a changed one.
        let has_group = |source: &str| !at(old_spec, &[source, "apiGroup"]).is_null();
        claim_spec(&mut errs, &spec, has_group("dataSource") || has_group("dataSourceRef"));
        errs.extend(errs.clone());
        let bound = text(old, &["status", "phase"]) == "Bound";
        let mut munged = spec.value().clone();
        // The volume may be named once.
        if text(old_spec, &["volumeName"]).is_empty() {
            restore(&mut munged, old_spec, &["volumeName"]);
        }
        // A class may be given to a claim that has none, or has it in the annotation of long ago.
        let annotation = |obj| at(obj, &["metadata", "annotations", BETA_CLASS]);
        let (class, before) = (at(new, &["spec", "storageClassName"]), annotation(old));
        let given = !class.is_null() && at(old_spec, &["storageClassName"]).is_null();
        let matches = class.as_str() == before.as_str();
        if given && (before.is_null() || matches) {
            restore(&mut munged, old_spec, &["storageClassName"]);
        }
        let moved = given && matches && (annotation(new).is_null() || annotation(new) == before);
        if !moved && annotation(new).as_str().unwrap_or_default() != before.as_str().unwrap_or_default() {
            let path = Path::new("metadata").child("annotations").child(BETA_CLASS);
            errs.invalid(&path, annotation(new).as_str().unwrap_or_default(), "field is immutable");
        }
        let size = |spec: &Value| {
            text(spec, &["resources", "requests", "storage"]).parse::<Quantity>().unwrap_or(Quantity::ZERO)
        };
        if bound {
            restore(&mut munged, old_spec, &["resources", "requests", "storage"]);
        }
        if bound && spec.get("volumeAttributesClassName").is_set() {
            restore(&mut munged, old_spec, &["volumeAttributesClassName"]);
        }
        if !same(&munged, old_spec) {
            errs.forbidden(
                spec.path(),
                format!(
                    "spec is immutable after creation except resources.requests and volumeAttributesClassName for bound \
                     claims\n{}",
                    difference(&munged, old_spec)
                ),
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
        "ControllerResizeInProgress",
        "ControllerResizeInfeasible",
        "NodeResizeInProgress",
        "NodeResizeInfeasible",
        "NodeResizePending",
    ];
    if root.dig("spec.accessModes").is_empty() {
        errs.required(&Path::new("Spec").child("accessModes"), "");
    }
    let status = root.get("status");
    for (_, amount) in status.get("capacity").entries() {
        basic_amount(errs, &amount);
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
        if resource_key(errs, name, allocated.path()) && basic_amount(errs, &amount) {
            crate::validate::pod_spec::resources::amount_of(errs, "storage", &amount);
        }
    }
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
    use crate::validate::testing::problems_of_update;

    const SPEC: &str = "spec: Forbidden: spec is immutable after creation except resources.requests and \
                        volumeAttributesClassName for bound claims";

    /// What is said of an update of a claim of 2Gi in this phase, differences left out.
    fn update(phase: &str, before: Value, change: impl FnOnce(&mut Value)) -> Vec<String> {
        let mut old = json!({"spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "2Gi"}}},
            "status": {"phase": phase, "capacity": {"storage": "2Gi"}}});
        for (field, value) in before.as_object().into_iter().flatten() {
            old["spec"][field] = value.clone();
        }
        let mut new = old.clone();
        change(&mut new);
        let found = problems_of_update(&PersistentVolumeClaim, None, &new, &old);
        found.iter().map(|e| e.lines().next().unwrap_or_default().to_owned()).collect()
    }

    #[test]
    fn a_bound_claim_may_grow_and_change_its_attributes() {
        let size =
            |size: &'static str| move |c: &mut Value| c["spec"]["resources"]["requests"]["storage"] = json!(size);
        assert_eq!(update("Bound", json!({}), size("3Gi")), [""; 0]);
        assert_eq!(
            update("Bound", json!({}), size("1Gi")),
            ["spec.resources.requests.storage: Forbidden: field can not be less than status.capacity"]
        );
        assert_eq!(update("Pending", json!({}), size("3Gi")), [SPEC]);
        let class = |class: Value| move |c: &mut Value| c["spec"]["volumeAttributesClassName"] = class;
        assert_eq!(update("Bound", json!({}), class(json!("gold"))), [""; 0]);
        assert_eq!(update("Pending", json!({}), class(json!("gold"))), [SPEC]);
        assert_eq!(
            update("Bound", json!({"volumeAttributesClassName": "gold"}), class(Value::Null)),
            [SPEC, "spec.volumeAttributesClassName: Forbidden: update from non-nil value to nil is forbidden"]
        );
    }

    #[test]
    fn a_class_is_given_once() {
        let path = "metadata.annotations.volume.beta.kubernetes.io/storage-class";
        let annotate = |c: &mut Value| c["metadata"]["annotations"][BETA_CLASS] = json!("a");
        assert_eq!(
            update("Pending", json!({}), annotate),
            [format!("{path}: Invalid value: \"a\": field is immutable")]
        );
        assert_eq!(update("Pending", json!({}), |c| c["spec"]["storageClassName"] = json!("a")), [""; 0]);
        assert_eq!(
            update("Pending", json!({"storageClassName": "a"}), |c| c["spec"]["storageClassName"] = json!("b")),
            [SPEC]
        );
    }

    #[test]
    fn what_is_wrong_with_a_changed_claim_is_two_causes() {
        let mode = "spec.volumeMode: Unsupported value: \"x\": supported values: \"Block\", \"Filesystem\"";
        assert_eq!(
            update("Pending", json!({}), |c| c["spec"]["volumeMode"] = json!("x")),
            [mode, mode, SPEC, "volumeMode: Invalid value: \"x\": field is immutable"]
        );
        // A group that was taken once is taken still.
        let source = json!({"dataSource": {"apiGroup": "A_B", "kind": "K", "name": "n"}});
        let labelled = |c: &mut Value| c["metadata"]["labels"]["a"] = json!("b");
        assert_eq!(update("Bound", source, labelled), [""; 0]);
    }

    #[test]
    fn a_status_tells_how_growing_goes() {
        let claim = |status: Value| json!({"spec": {"accessModes": ["ReadWriteOnce"]}, "status": status});
        let new = claim(json!({"capacity": {"storage": "-1"}, "allocatedResources": {"cpu": "1"},
            "allocatedResourceStatuses": {"storage": "NodeResizeInfeasible", "a.io/b": "ControllerResizeFailed"}}));
        assert_eq!(
            problems_of_update(&PersistentVolumeClaim, Some("status"), &new, &claim(json!({}))),
            [
                "status.capacity[storage]: Invalid value: -1: must be a valid resource quantity",
                "status.allocatedResourceStatus: Unsupported value: \"a.io/b\": supported values: \
                 \"ControllerResizeInProgress\", \"ControllerResizeInfeasible\", \"NodeResizeInProgress\", \
                 \"NodeResizeInfeasible\", \"NodeResizePending\"",
                "status.allocatedResources: Unsupported value: \"cpu\": supported values: \"storage\"",
            ]
        );
    }
}
