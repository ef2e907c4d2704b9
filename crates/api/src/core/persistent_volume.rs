//! `PersistentVolume`. Upstream: `pkg/registry/core/persistentvolume/strategy.go`, `ValidatePersistentVolume`.

use serde_json::{Value, json};

use super::persistent_volume_claim::{access_modes, beta_class_warning};
use crate::core::pod::defaults::network_disks;
use crate::field::{ErrorList, Path};
use crate::kind::Kind;
use crate::kind::{Cells, Cx, MetaPass};
use crate::kinds::{AGE, Facts, NAME, STATUS, facts};
use crate::object::{View, at, at_mut, default_text, default_value, list, restore, same, set, text};
use crate::strategy::reset_spec_or_status;
use crate::table::{age, name};
use crate::validate::pod_spec::resources::{basic_amount, parsed};
use crate::validate::pod_spec::warnings::node_selector_term;
use crate::validate::pod_spec::{affinity, volumes};
use crate::validate::{difference, go_value};

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

    fn meta_passes(&self, subresource: Option<&str>) -> &'static [MetaPass] {
        MetaPass::of_door(subresource, &[MetaPass::New, MetaPass::New])
    }

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
        mount_options(&mut errs, obj);
        errs
    }

    fn validate_update(&self, cx: &Cx<'_>, new: &Value, old: &Value) -> ErrorList {
        if cx.subresource == Some("status") {
            return ErrorList::new();
        }
        let (now, before) = (View::root(new).get("spec"), at(old, &["spec"]));
        // Upstream checks the spec twice, as that of a new volume and as that of a changed one.
        let mut errs = self.validate(cx, new);
        spec(&mut errs, &now, Some(name(new)));
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
                format!(
                    "spec.persistentvolumesource is immutable after creation\n{}",
                    difference(&munged, &source(before))
                ),
            );
        }
        // Upstream's paths of these two leave the spec out.
        if !same(now.get("volumeMode").value(), at(before, &["volumeMode"])) {
            errs.invalid(&Path::new("volumeMode"), now.get("volumeMode").value(), "field is immutable");
        }
        let affinity = at(before, &["nodeAffinity"]);
        if !affinity.is_null() && !same_but_for_labels(now.get("nodeAffinity").value(), affinity) {
            errs.invalid(
                &Path::new("nodeAffinity"),
                go_value::shown("k8s.io/api/core/v1.VolumeNodeAffinity", now.get("nodeAffinity").value()),
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
        for term in View::root(new).dig("spec.nodeAffinity.required").items("nodeSelectorTerms") {
            warnings.extend(node_selector_term(&term));
        }
        const GONE: [(&str, &str, &str); 6] = [
            ("cephfs", "cephfs", "deprecated in v1.28, non-functional in v1.31+"),
            ("photonPersistentDisk", "photonPersistentDisk", "deprecated in v1.11, non-functional in v1.16+"),
            ("scaleIO", "scaleIO", "deprecated in v1.16, non-functional in v1.22+"),
            ("storageos", "storageOS", "deprecated in v1.22, non-functional in v1.25+"),
            ("glusterfs", "glusterfs", "deprecated in v1.25, non-functional in v1.26+"),
            ("rbd", "rbd", "deprecated in v1.28, non-functional in v1.31+"),
        ];
        for (source, shown, what) in GONE {
            if !at(new, &["spec", source]).is_null() {
                warnings.push(format!("spec.{shown}: {what}"));
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
        basic_amount(errs, &amount);
        if parsed(&amount).is_some_and(|q| q.sign() <= 0) {
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
        if source == "local" && !spec.get("nodeAffinity").is_set() {
            errs.required(spec.get("nodeAffinity").path(), "Local volume requires node affinity");
        }
    }
    if !found {
        errs.required(spec.path(), "must specify a volume type");
    }
}

/// Mount options in the annotation of long ago are for volumes that are mounted over a network.
/// Upstream: `checkMountOption` in `pkg/volume/validation`.
fn mount_options(errs: &mut ErrorList, obj: &Value) {
    const ANNOTATION: &str = "volume.beta.kubernetes.io/mount-options";
    const MOUNTED: [&str; 12] = [
        "gcePersistentDisk",
        "awsElasticBlockStore",
        "glusterfs",
        "nfs",
        "rbd",
        "quobyte",
        "iscsi",
        "cinder",
        "cephfs",
        "azureFile",
        "vsphereVolume",
        "azureDisk",
    ];
    let root = View::root(obj);
    let mounted = MOUNTED.iter().any(|source| root.get("spec").get(source).is_set());
    if !mounted && root.dig("metadata.annotations").get(ANNOTATION).is_set() {
        let path = Path::new("metadata").child("annotations").child(ANNOTATION);
        errs.forbidden(&path, "may not specify mount options for this volume type");
    }
}

/// Whether affinities are the same but for labels of nodes that got the name they have now.
/// Upstream: `getMaskNodeSelectorLabelChangeEqualities`.
fn same_but_for_labels(new: &Value, old: &Value) -> bool {
    const MOVED: [(&str, &str); 5] = [
        ("failure-domain.beta.kubernetes.io/zone", "topology.kubernetes.io/zone"),
        ("failure-domain.beta.kubernetes.io/region", "topology.kubernetes.io/region"),
        ("beta.kubernetes.io/os", "kubernetes.io/os"),
        ("beta.kubernetes.io/arch", "kubernetes.io/arch"),
        ("beta.kubernetes.io/instance-type", "node.kubernetes.io/instance-type"),
    ];
    let mut old = old.clone();
    let terms = |v: &Value| list(v, &["required", "nodeSelectorTerms"]).to_vec();
    for (i, now) in terms(new).iter().enumerate() {
        for field in ["matchExpressions", "matchFields"] {
            for (j, requirement) in list(now, &[field]).iter().enumerate() {
                let path = format!("/required/nodeSelectorTerms/{i}/{field}/{j}/key");
                let key = text(requirement, &["key"]);
                if let Some(before) = old.pointer_mut(&path)
                    && MOVED.iter().any(|(from, to)| before.as_str() == Some(*from) && *to == key)
                {
                    *before = key.into();
                }
            }
        }
    }
    same(new, &old)
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
    fn a_volume_stays_what_it_is() {
        use crate::validate::testing::problems_of_update;
        let affinity = |key: &str| json!({"required": {"nodeSelectorTerms": [{"matchExpressions": [{"key": key, "operator": "Exists"}]}]}});
        let volume = |key: &str| {
            json!({"metadata": {"name": "v"}, "spec": {"accessModes": ["ReadWriteOnce"], "capacity": {"storage": "1Gi"},
                "hostPath": {"path": "/a"}, "nodeAffinity": affinity(key)}})
        };
        let update = |change: &dyn Fn(&mut Value)| {
            let old = volume("beta.kubernetes.io/arch");
            let mut new = old.clone();
            change(&mut new["spec"]);
            problems_of_update(&PersistentVolume, None, &new, &old)
        };
        assert_eq!(update(&|s| s["nodeAffinity"] = affinity("kubernetes.io/arch")), [""; 0]);
        assert_eq!(
            update(&|s| s["nodeAffinity"] = affinity("disk")),
            [
                "nodeAffinity: Invalid value: {\"Required\":{\"NodeSelectorTerms\":[{\"MatchExpressions\":[{\"Key\":\"disk\",\
                 \"Operator\":\"Exists\",\"Values\":null}],\"MatchFields\":null}]}}: field is immutable, except for updating \
                 from beta label to GA"
            ]
        );
        let found = update(&|s| s["hostPath"]["path"] = json!("/b"));
        assert!(
            found[0].starts_with(
                "spec.persistentvolumesource: Forbidden: spec.persistentvolumesource is immutable after creation\n"
            ),
            "{found:?}"
        );
        let negative = update(&|s| s["capacity"]["storage"] = json!("-1"));
        let one = [
            "spec.capacity[storage]: Invalid value: -1: must be a valid resource quantity",
            "spec.capacity[storage]: Invalid value: \"-1\": must be greater than zero",
        ];
        assert_eq!(negative, [one, one].concat());
    }

    #[test]
    fn old_mount_options_are_for_the_network() {
        use crate::validate::testing::problems;
        let volume = |source: &str, spec: Value| {
            let mut volume = json!({"metadata": {"annotations": {"volume.beta.kubernetes.io/mount-options": "ro"}},
                "spec": {"accessModes": ["ReadWriteOnce"], "capacity": {"storage": "1Gi"}}});
            volume["spec"][source] = spec;
            problems(&PersistentVolume, &volume)
        };
        assert_eq!(volume("nfs", json!({"server": "s", "path": "/"})), [""; 0]);
        assert_eq!(
            volume("hostPath", json!({"path": "/a"})),
            [
                "metadata.annotations.volume.beta.kubernetes.io/mount-options: Forbidden: may not specify mount options for \
                 this volume type"
            ]
        );
    }

    #[test]
    fn what_a_volume_soon_lacks_is_said() {
        let volume = json!({"spec": {"storageos": {}, "nodeAffinity": {"required": {"nodeSelectorTerms": [
            {"matchExpressions": [{"key": "beta.kubernetes.io/os"}]}]}}}});
        let warnings = crate::validate::testing::with_cx(None, |cx| PersistentVolume.warnings(cx, &volume, None));
        assert_eq!(
            warnings,
            [
                "spec.nodeAffinity.required.nodeSelectorTerms[0].matchExpressions[0].key: beta.kubernetes.io/os is deprecated \
                 since v1.14; use \"kubernetes.io/os\" instead",
                "spec.storageOS: deprecated in v1.22, non-functional in v1.25+",
            ]
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
