//! `PersistentVolume`. Upstream: `pkg/registry/core/persistentvolume/strategy.go`, `ValidatePersistentVolume`.

use serde_json::{Value, json};

use super::persistent_volume_claim::{access_modes, beta_class_warning};
use crate::core::pod::defaults::network_disks;
use crate::field::ErrorList;
use crate::kind::Kind;
use crate::kind::{Cells, Cx};
use crate::kinds::{AGE, Facts, NAME, STATUS, facts};
use crate::object::{View, at, at_mut, default_text, default_value, list, restore, same, set, text};
use crate::strategy::reset_spec_or_status;
use crate::table::{age, name};
use crate::validate::pod_spec::affinity;

/// The kind `PersistentVolume`.
pub struct PersistentVolume;

impl Kind for PersistentVolume {
    facts!(Facts {
        kind: "PersistentVolume",
        plural: "persistentvolumes",
        short_names: &["pv"],
        subresources: &[STATUS],
        columns: &[
            NAME,
            ("Capacity", "string", "", 0),
            ("Access Modes", "string", "", 0),
            ("Reclaim Policy", "string", "", 0),
            ("Status", "string", "", 0),
            ("Claim", "string", "", 0),
            ("StorageClass", "string", "", 0),
            ("VolumeAttributesClass", "string", "", 0),
            ("Reason", "string", "", 0),
            AGE,
            ("VolumeMode", "string", "", 1)
        ],
        ..Facts::cluster("", "v1")
    });

    fn default(&self, obj: &mut Value) {
        if let Some(status) = at_mut(obj, &["status"]) {
            default_text(status, "phase", "Pending");
        }
        let Some(spec) = at_mut(obj, &["spec"]) else { return };
        default_text(spec, "persistentVolumeReclaimPolicy", "Retain");
        default_value(spec, "volumeMode", "Filesystem");
        if let Some(path) = at_mut(spec, &["hostPath"]) {
            default_value(path, "type", "");
        }
        network_disks(spec);
    }

    fn prepare_create(&self, cx: &Cx<'_>, obj: &mut Value) {
        let time = cx.now.strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
        set(obj, &["status"], json!({"phase": "Pending", "lastPhaseTransitionTime": time}));
    }

    fn prepare_update(&self, cx: &Cx<'_>, new: &mut Value, old: &Value) {
        if cx.subresource != Some("status") {
            restore(new, old, &["status"]);
            return;
        }
        restore(new, old, &["spec"]);
        if text(new, &["status", "phase"]) != text(old, &["status", "phase"])
            && same(at(new, &["status", "lastPhaseTransitionTime"]), at(old, &["status", "lastPhaseTransitionTime"]))
        {
            let time = cx.now.strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
            set(new, &["status", "lastPhaseTransitionTime"], time);
        }
    }

    fn validate(&self, _cx: &Cx<'_>, obj: &Value) -> ErrorList {
        spec(obj)
    }

    fn validate_update(&self, cx: &Cx<'_>, new: &Value, old: &Value) -> ErrorList {
        if cx.subresource == Some("status") {
            return ErrorList::new();
        }
        let mut errs = spec(new);
        let (now, before) = (View::root(new).get("spec"), at(old, &["spec"]));
        let source = |spec: &Value| -> Value {
            SOURCES.iter().filter_map(|s| spec.get(*s).map(|v| ((*s).to_owned(), v.clone()))).collect()
        };
        if !same(&source(now.value()), &source(before)) {
            errs.forbidden(
                now.get("persistentvolumesource").path(),
                "spec.persistentvolumesource is immutable after creation",
            );
        }
        crate::validate::immutable_field(&mut errs, new, old, &["spec", "volumeMode"]);
        let affinity = at(before, &["nodeAffinity"]);
        if !affinity.is_null() && !same(now.get("nodeAffinity").value(), affinity) {
            errs.invalid(
                now.get("nodeAffinity").path(),
                now.get("nodeAffinity").value(),
                "field is immutable, except for updating from beta label to GA",
            );
        }
        errs
    }

    fn warnings(&self, cx: &Cx<'_>, new: &Value, _old: Option<&Value>) -> Vec<String> {
        if cx.subresource.is_some() {
            return Vec::new();
        }
        let mut warnings = beta_class_warning(new);
        if text(new, &["spec", "persistentVolumeReclaimPolicy"]) == "Recycle" {
            warnings.push(
                "spec.persistentVolumeReclaimPolicy: The Recycle reclaim policy is deprecated. Instead, the recommended \
                 approach is to use dynamic provisioning."
                    .into(),
            );
        }
        const GONE: [(&str, &str); 6] = [
            ("photonPersistentDisk", "deprecated in v1.11, non-functional in v1.16+"),
            ("scaleIO", "deprecated in v1.16, non-functional in v1.22+"),
            ("storageos", "deprecated in v1.22, non-functional in v1.25+"),
            ("glusterfs", "deprecated in v1.25, non-functional in v1.26+"),
            ("rbd", "deprecated in v1.28, non-functional in v1.31+"),
            ("cephfs", "deprecated in v1.28, non-functional in v1.31+"),
        ];
        for (source, what) in GONE {
            if !at(new, &["spec", source]).is_null() {
                warnings.push(format!("spec.{source}: {what}"));
            }
        }
        warnings
    }

    fn cells(&self, obj: &Value, now: jiff::Timestamp) -> Cells {
        let claim = match at(obj, &["spec", "claimRef"]) {
            Value::Null => String::new(),
            c => format!("{}/{}", text(c, &["namespace"]), text(c, &["name"])),
        };
        let phase = if at(obj, &["metadata", "deletionTimestamp"]).is_null() {
            text(obj, &["status", "phase"])
        } else {
            "Terminating"
        };
        let class = match text(obj, &["metadata", "annotations", "volume.beta.kubernetes.io/storage-class"]) {
            "" => text(obj, &["spec", "storageClassName"]),
            class => class,
        };
        vec![
            json!(name(obj)),
            json!(at(obj, &["spec", "capacity", "storage"]).as_str().unwrap_or("0")),
            json!(access_modes(list(obj, &["spec", "accessModes"]))),
            json!(text(obj, &["spec", "persistentVolumeReclaimPolicy"])),
            json!(phase),
            json!(claim),
            json!(class),
            json!(at(obj, &["spec", "volumeAttributesClassName"]).as_str().unwrap_or("<unset>")),
            json!(text(obj, &["status", "reason"])),
            json!(age(obj, now)),
            json!(at(obj, &["spec", "volumeMode"]).as_str().unwrap_or("<unset>")),
        ]
    }

    fn reset_fields(&self, subresource: Option<&str>) -> &'static [&'static [&'static str]] {
        reset_spec_or_status(subresource)
    }
}

/// The kinds of volume a cluster can have.
const SOURCES: [&str; 22] = [
    "hostPath",
    "gcePersistentDisk",
    "awsElasticBlockStore",
    "glusterfs",
    "flocker",
    "nfs",
    "rbd",
    "quobyte",
    "cephfs",
    "iscsi",
    "cinder",
    "fc",
    "azureFile",
    "vsphereVolume",
    "photonPersistentDisk",
    "azureDisk",
    "storageos",
    "scaleIO",
    "local",
    "csi",
    "flexVolume",
    "portworxVolume",
];

fn spec(obj: &Value) -> ErrorList {
    const MODES: [&str; 4] = ["ReadOnlyMany", "ReadWriteMany", "ReadWriteOnce", "ReadWriteOncePod"];
    let mut errs = ErrorList::new();
    let spec = View::root(obj).get("spec");
    let (modes, capacity) = (spec.get("accessModes"), spec.get("capacity"));
    if modes.is_empty() {
        errs.required(modes.path(), "");
    }
    for mode in modes.list() {
        if !MODES.contains(&mode.str()) {
            errs.not_supported(modes.path(), mode.str(), &MODES);
        }
    }
    if modes.len() > 1 && modes.strs().contains(&"ReadWriteOncePod") {
        errs.forbidden(modes.path(), "may not use ReadWriteOncePod with other access modes");
    }
    if capacity.is_empty() {
        errs.required(capacity.path(), "");
    } else if !capacity.get("storage").is_set() || capacity.len() > 1 {
        errs.not_supported(capacity.path(), capacity.value(), &["storage"]);
    }
    for (_, amount) in capacity.entries() {
        if amount.str().parse::<crate::quantity::Quantity>().is_ok_and(|q| q.sign() <= 0) {
            errs.invalid(amount.path(), amount.str(), "must be greater than zero");
        }
    }
    let policy = spec.get("persistentVolumeReclaimPolicy");
    if !matches!(policy.str(), "" | "Delete" | "Recycle" | "Retain") {
        errs.not_supported(policy.path(), policy.str(), &["Delete", "Recycle", "Retain"]);
    }
    let node = spec.get("nodeAffinity");
    if node.is_set() {
        let required = node.get("required");
        if required.is_set() {
            affinity::node_selector(&mut errs, &required);
        } else {
            errs.required(required.path(), "must specify required node constraints");
        }
    }
    let mut found = false;
    for source in SOURCES {
        let v = spec.get(source);
        if !v.is_set() {
            continue;
        }
        if found {
            errs.forbidden(v.path(), "may not specify more than 1 volume type");
            continue;
        }
        found = true;
        let required: &[&str] = match source {
            "hostPath" => &["path"],
            "local" => &["path"],
            "nfs" => &["server", "path"],
            "csi" => &["driver", "volumeHandle"],
            "iscsi" => &["targetPortal", "iqn"],
            _ => &[],
        };
        for field in required {
            if v.get(field).str().is_empty() {
                errs.required(v.get(field).path(), "");
            }
        }
        if source == "local" && !node.is_set() {
            errs.required(
                &crate::field::Path::new("metadata").child("annotations"),
                "Local volume requires node affinity",
            );
        }
        if matches!(source, "hostPath" | "local") {
            crate::validate::pod_spec::no_back_steps(&mut errs, v.get("path").path(), v.get("path").str());
        }
    }
    if !found {
        errs.required(spec.path(), "must specify a volume type");
    }
    if spec.dig("hostPath.path").str() == "/" && policy.str() == "Recycle" {
        errs.forbidden(policy.path(), "may not be 'recycle' for a hostPath mount of '/'");
    }
    let class = spec.get("storageClassName");
    if !class.str().is_empty() {
        crate::validate::dns_subdomain_at(&mut errs, &class);
    }
    let mode = spec.get("volumeMode");
    if mode.is_set() && !matches!(mode.str(), "Block" | "Filesystem") {
        errs.not_supported(mode.path(), mode.str(), &["Block", "Filesystem"]);
    }
    errs
}
