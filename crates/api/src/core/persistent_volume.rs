//! `PersistentVolume`. Upstream: `pkg/registry/core/persistentvolume/strategy.go`, `ValidatePersistentVolume`.

use serde_json::{Value, json};

use super::persistent_volume_claim::{access_modes, beta_class_warning};
use crate::core::pod::defaults::network_disks;
use crate::field::{ErrorList, Path};
use crate::kind::Kind;
use crate::kind::{Cells, Cx};
use crate::kinds::{AGE, Facts, NAME, STATUS, facts};
use crate::object::{View, at, at_mut, default_text, default_value, list, restore, same, set, text};
use crate::strategy::reset_spec_or_status;
use crate::table::{age, name};
use crate::validate::pod_spec::{affinity, volumes};

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
        let mut errs = ErrorList::new();
        spec(&mut errs, &View::root(obj).get("spec"), Some(name(obj)));
        errs
    }

    fn validate_update(&self, cx: &Cx<'_>, new: &Value, old: &Value) -> ErrorList {
        if cx.subresource == Some("status") {
            return ErrorList::new();
        }
        let mut errs = self.validate(cx, new);
        let (now, before) = (View::root(new).get("spec"), at(old, &["spec"]));
        let source = |spec: &Value| -> Value {
            let names = SOURCES.iter().map(|(source, _)| *source).chain(["csi"]);
            names.filter_map(|s| spec.get(s).map(|v| (s.to_owned(), v.clone()))).collect()
        };
        let mut munged = source(now.value());
        // The secret for growing may be named later.
        let secret: &[&str] = &["csi", "controllerExpandSecretRef"];
        if munged.get("csi").is_some() && at(before, secret).is_null() && !at(before, &["csi"]).is_null() {
            crate::object::remove(&mut munged, secret);
        }
        if !same(&munged, &source(before)) {
            errs.forbidden(
                now.get("persistentvolumesource").path(),
                "spec.persistentvolumesource is immutable after creation",
            );
        }
        // Upstream's paths of these two leave the spec out.
        if !same(now.get("volumeMode").value(), at(before, &["volumeMode"])) {
            errs.invalid(&Path::new("volumeMode"), now.get("volumeMode").value(), "field is immutable");
        }
        let affinity = at(before, &["nodeAffinity"]);
        if !affinity.is_null() && !same(now.get("nodeAffinity").value(), affinity) {
            errs.invalid(
                &Path::new("nodeAffinity"),
                now.get("nodeAffinity").value(),
                "field is immutable, except for updating from beta label to GA",
            );
        }
        let class = now.get("volumeAttributesClassName");
        if !class.is_set() && !at(before, &["volumeAttributesClassName"]).is_null() {
            errs.forbidden(class.path(), "update from non-nil value to nil is forbidden");
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

/// The kinds of volume a cluster can have, in the order they are looked at, and what messages about them call them.
const SOURCES: [(&str, &str); 21] = [
    ("hostPath", "hostPath"),
    ("gcePersistentDisk", "persistentDisk"),
    ("awsElasticBlockStore", "awsElasticBlockStore"),
    ("glusterfs", "glusterfs"),
    ("flocker", "flocker"),
    ("nfs", "nfs"),
    ("rbd", "rbd"),
    ("quobyte", "quobyte"),
    ("cephfs", "cephfs"),
    ("iscsi", "iscsi"),
    ("cinder", "cinder"),
    ("fc", "fc"),
    ("flexVolume", "flexVolume"),
    ("azureFile", "azureFile"),
    ("vsphereVolume", "vsphereVolume"),
    ("photonPersistentDisk", "photonPersistentDisk"),
    ("portworxVolume", "portworxVolume"),
    ("azureDisk", "azureDisk"),
    ("scaleIO", "scaleIO"),
    ("local", "local"),
    ("storageos", "storageos"),
];

/// The spec of the volume of this name, or of one that is part of an attachment.
/// Upstream: `ValidatePersistentVolumeSpec`.
pub fn spec(errs: &mut ErrorList, spec: &View<'_>, name: Option<&str>) {
    let inline = name.is_none();
    let (modes, capacity, policy) =
        (spec.get("accessModes"), spec.get("capacity"), spec.get("persistentVolumeReclaimPolicy"));
    let not_inline = |errs: &mut ErrorList, field: &str| {
        errs.forbidden(spec.get_named(field).path(), "may not be specified in the context of inline volumes");
    };
    if inline {
        for field in ["claimRef", "capacity"] {
            if spec.get(field).is_set() && (field == "claimRef" || !capacity.is_empty()) {
                not_inline(errs, field);
            }
        }
        if !spec.get("csi").is_set() {
            errs.required(spec.get("csi").path(), "has to be specified in the context of inline volumes");
        }
    }
    if modes.is_empty() {
        errs.required(modes.path(), "");
    }
    volumes::access_modes(errs, &modes);
    if !inline {
        self::capacity(errs, &capacity);
    }
    match policy.str() {
        "" => {}
        "Retain" if inline => {}
        _ if inline => errs.forbidden(policy.path(), "may only be Retain in the context of inline volumes"),
        "Delete" | "Recycle" | "Retain" => {}
        other => errs.not_supported(policy.path(), other, &["Delete", "Recycle", "Retain"]),
    }
    let node = spec.get("nodeAffinity");
    if node.is_set() && inline {
        not_inline(errs, "nodeAffinity");
    } else if node.is_set() {
        let required = node.get("required");
        if required.is_set() {
            affinity::node_selector(errs, &required);
        } else {
            errs.required(required.path(), "must specify required node constraints");
        }
    }
    sources(errs, spec, name.unwrap_or_default());
    if clean(spec.dig("hostPath.path").str()) == "/" && policy.str() == "Recycle" {
        errs.forbidden(policy.path(), "may not be 'recycle' for a hostPath mount of '/'");
    }
    let class = spec.get("storageClassName");
    if !class.is_empty() && inline {
        not_inline(errs, "storageClassName");
    } else if !class.is_empty() {
        crate::validate::dns_subdomain_at(errs, &class);
    }
    let mode = spec.get("volumeMode");
    match mode.opt_str() {
        None | Some("Filesystem") => {}
        Some(_) if inline => errs.forbidden(
            mode.path(),
            "may not specify volumeMode other than Filesystem in the context of inline volumes",
        ),
        Some("Block") => {}
        Some(other) => errs.not_supported(mode.path(), other, &["Block", "Filesystem"]),
    }
    let class = spec.get("volumeAttributesClassName");
    // In an attachment it is of no interest.
    if class.is_set() && !inline {
        if class.is_empty() {
            errs.required(class.path(), "an empty string is disallowed");
        } else {
            crate::validate::dns_subdomain_at(errs, &class);
        }
        if !spec.get("csi").is_set() {
            errs.required(spec.get("csi").path(), "has to be specified when using volumeAttributesClassName");
        }
    }
}

fn capacity(errs: &mut ErrorList, capacity: &View<'_>) {
    if capacity.is_empty() {
        errs.required(capacity.path(), "");
    }
    if !capacity.get("storage").is_set() || capacity.len() > 1 {
        errs.not_supported(capacity.path(), capacity.value(), &["storage"]);
    }
    for (_, amount) in capacity.entries() {
        let quantity = amount.str().parse::<crate::quantity::Quantity>();
        if quantity.as_ref().is_ok_and(|q| q.sign() < 0) {
            errs.invalid(amount.path(), amount.str(), "must be a valid resource quantity");
        }
        if quantity.is_ok_and(|q| q.sign() <= 0) {
            errs.invalid(amount.path(), amount.str(), "must be greater than zero");
        }
    }
}

/// Exactly one kind of volume.
fn sources(errs: &mut ErrorList, spec: &View<'_>, name: &str) {
    let mut found = false;
    for (source, shown) in SOURCES.into_iter().chain([("csi", "csi")]) {
        let v = spec.get(source);
        if !v.is_set() {
            continue;
        }
        // `flexVolume` is looked at wherever it stands.
        if found && source != "flexVolume" {
            let shown = if source == "cephfs" { "cephFS" } else { source };
            errs.forbidden(&spec.path().child(shown), "may not specify more than 1 volume type");
            continue;
        }
        found = true;
        volumes::persistent_source(errs, source, &View::at(spec.path().child(shown), v.value()), name);
        if source == "local" && !spec.dig("nodeAffinity.required").is_set() {
            errs.required(spec.get("nodeAffinity").path(), "Local volume requires node affinity");
        }
    }
    if !found {
        errs.required(spec.path(), "must specify a volume type");
    }
}

/// A path without what does not matter in it, if it is the root's. Upstream: `path.Clean`.
fn clean(path: &str) -> &str {
    let only_root = path.starts_with('/') && path.split('/').all(|part| matches!(part, "" | "." | ".."));
    if only_root { "/" } else { path }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problems(spec_of: Value, name: Option<&str>) -> Vec<String> {
        let mut errs = ErrorList::new();
        spec(&mut errs, &View::at(crate::field::Path::new("spec"), &spec_of), name);
        errs.0.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_volume_has_one_source_and_a_size() {
        let good =
            json!({"accessModes": ["ReadWriteOnce"], "capacity": {"storage": "1Gi"}, "hostPath": {"path": "/a"}});
        assert_eq!(problems(good.clone(), Some("v")), [""; 0]);
        let with = |field: &str, value: Value| {
            let mut spec = good.clone();
            set(&mut spec, &[field], value);
            problems(spec, Some("v"))
        };
        for (field, value, expected) in [
            (
                "capacity",
                json!({}),
                &[
                    "spec.capacity: Required value",
                    "spec.capacity: Unsupported value: {}: supported values: \"storage\"",
                ][..],
            ),
            (
                "capacity",
                json!({"storage": "0"}),
                &["spec.capacity[storage]: Invalid value: \"0\": must be greater than zero"],
            ),
            ("nfs", json!({}), &["spec.nfs: Forbidden: may not specify more than 1 volume type"]),
            ("hostPath", Value::Null, &["spec: Required value: must specify a volume type"]),
            (
                "volumeAttributesClassName",
                json!(""),
                &[
                    "spec.volumeAttributesClassName: Required value: an empty string is disallowed",
                    "spec.csi: Required value: has to be specified when using volumeAttributesClassName",
                ],
            ),
            (
                "volumeMode",
                json!("Tape"),
                &["spec.volumeMode: Unsupported value: \"Tape\": supported values: \"Block\", \"Filesystem\""],
            ),
        ] {
            assert_eq!(with(field, value.clone()), expected, "{field} {value}");
        }
        let mut local = good.clone();
        crate::object::remove(&mut local, &["hostPath"]);
        set(&mut local, &["local"], json!({"path": "/a"}));
        assert_eq!(
            problems(local, Some("v")),
            ["spec.nodeAffinity: Required value: Local volume requires node affinity"]
        );
    }

    #[test]
    fn a_volume_in_an_attachment_says_little() {
        let inline = json!({"accessModes": ["ReadWriteOnce"], "capacity": {"storage": "1Gi"}, "claimRef": {},
            "nfs": {"server": "s", "path": "/"}, "persistentVolumeReclaimPolicy": "Delete", "volumeMode": "Block"});
        assert_eq!(
            problems(inline, None),
            [
                "spec.claimRef: Forbidden: may not be specified in the context of inline volumes",
                "spec.capacity: Forbidden: may not be specified in the context of inline volumes",
                "spec.csi: Required value: has to be specified in the context of inline volumes",
                "spec.persistentVolumeReclaimPolicy: Forbidden: may only be Retain in the context of inline volumes",
                "spec.volumeMode: Forbidden: may not specify volumeMode other than Filesystem in the context of inline volumes",
            ]
        );
    }
}
