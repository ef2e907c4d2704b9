//! Volumes: [`files`] made of objects, sources on the [`network`], [`claims`], and the [`mounts`] of containers.
//!
//! Upstream: `ValidateVolumes`, `validateVolumeSource`, `ValidatePersistentVolumeSpec`.

use std::collections::BTreeSet;

use super::{Volumes, descending_path, no_back_steps, resources};
use crate::field::ErrorList;
use crate::object::View;
use crate::validate::{dns_label_at, dns_subdomain_at, one_of};

mod claims;
mod files;
mod mounts;
mod network;

pub use claims::{access_modes, claim_spec};
pub use mounts::{devices, mounts};

/// The kinds of volume, in the order upstream looks for them.
const KINDS: [&str; 30] = [
    "emptyDir",
    "hostPath",
    "gitRepo",
    "gcePersistentDisk",
    "awsElasticBlockStore",
    "secret",
    "nfs",
    "iscsi",
    "glusterfs",
    "flocker",
    "persistentVolumeClaim",
    "rbd",
    "cinder",
    "cephfs",
    "quobyte",
    "downwardAPI",
    "fc",
    "flexVolume",
    "configMap",
    "azureFile",
    "vsphereVolume",
    "photonPersistentDisk",
    "portworxVolume",
    "azureDisk",
    "storageos",
    "projected",
    "scaleIO",
    "csi",
    "ephemeral",
    "image",
];

/// Checks the volumes and gives those by name with which nothing is wrong. With the name of the pod, the claims that
/// will be made for it are known too. Upstream: `ValidateVolumes`.
pub fn volumes<'a>(errs: &mut ErrorList, list: &View<'a>, pod_name: Option<&str>) -> Volumes<'a> {
    let mut found = Volumes::new();
    let pod_name = pod_name.filter(|name| !name.is_empty());
    let mut made: BTreeSet<String> = BTreeSet::new();
    for volume in list.list().iter().filter(|v| v.get("ephemeral").is_set()) {
        made.extend(pod_name.map(|pod| format!("{pod}-{}", volume.get("name").str())));
    }
    for volume in list.list() {
        let mut own = ErrorList::new();
        source(&mut own, &volume, pod_name);
        let name = volume.get("name");
        if name.str().is_empty() {
            own.required(name.path(), "");
        } else {
            dns_label_at(&mut own, &name);
        }
        if found.contains_key(name.str()) {
            own.duplicate(name.path(), name.str());
        }
        if own.is_empty() {
            found.insert(name.str(), volume.value());
        }
        errs.extend(own);
        let claim = volume.dig("persistentVolumeClaim.claimName");
        if made.contains(claim.str()) {
            errs.invalid(
                claim.path(),
                claim.str(),
                "must not reference a PVC that gets created for an ephemeral volume",
            );
        }
    }
    found
}

fn required(errs: &mut ErrorList, v: &View<'_>, fields: &[&'static str]) {
    for field in fields {
        if v.get(field).is_empty() {
            errs.required(v.get(field).path(), "");
        }
    }
}

/// What upstream calls a source in paths, where it is not the name of the field: below it, and when it is one too many.
fn odd_names(kind: &str) -> (&str, &str) {
    match kind {
        "gcePersistentDisk" => ("persistentDisk", kind),
        "cephfs" => (kind, "cephFS"),
        "downwardAPI" => (kind, "downwarAPI"),
        _ => (kind, kind),
    }
}

fn source(errs: &mut ErrorList, volume: &View<'_>, pod_name: Option<&str>) {
    let mut found = false;
    let name = volume.get("name").str();
    for kind in KINDS {
        if !volume.get(kind).is_set() {
            continue;
        }
        let (below, extra) = odd_names(kind);
        let v = View::at(volume.path().child(below), volume.get(kind).value());
        if found {
            errs.forbidden(&volume.path().child(extra), "may not specify more than 1 volume type");
        } else {
            one_source(errs, kind, &v, pod_name.is_some());
        }
        found = true;
        if kind == "iscsi" && v.get("initiatorName").is_set() && name.len() + 1 + v.get("targetPortal").len() > 64 {
            errs.invalid(&volume.path().child("name"), name, network::ISCSI_TOO_LONG);
        }
        if let Some(pod) = pod_name.filter(|_| kind == "ephemeral" && !name.is_empty()) {
            let claim = format!("{pod}-{name}");
            for problem in crate::names::dns_subdomain(&claim, false) {
                let problem = format!("PVC name {}: {problem}", crate::field::quote(&claim));
                errs.invalid(&volume.path().child("name"), name, problem);
            }
        }
    }
    if !found {
        errs.required(volume.path(), "must specify a volume type");
    }
}

/// The source of a volume of a pod.
fn one_source(errs: &mut ErrorList, kind: &str, v: &View<'_>, is_pod: bool) {
    match kind {
        "emptyDir" => {
            let limit = v.get("sizeLimit");
            if resources::parsed(&limit).is_some_and(|q| q.sign() < 0) {
                errs.forbidden(limit.path(), "SizeLimit field must be a valid resource quantity");
            }
        }
        "gitRepo" => {
            required(errs, v, &["repository"]);
            descending_path(errs, v.get("directory").path(), v.get("directory").str());
        }
        "secret" => {
            required(errs, v, &["secretName"]);
            files::mode(errs, &v.get("defaultMode"));
            files::items(errs, &v.get("items"));
        }
        "configMap" => {
            required(errs, v, &["name"]);
            files::mode(errs, &v.get("defaultMode"));
            files::items(errs, &v.get("items"));
        }
        "downwardAPI" => {
            files::mode(errs, &v.get("defaultMode"));
            // Upstream's path is that of the volume, not of the file.
            for file in v.items("items") {
                files::downward_file(errs, &View::at(v.path().clone(), file.value()));
            }
        }
        "projected" => {
            files::mode(errs, &v.get("defaultMode"));
            files::projected(errs, v);
        }
        "persistentVolumeClaim" => required(errs, v, &["claimName"]),
        "ephemeral" => claims::ephemeral(errs, v),
        "image" => {
            if is_pod {
                required(errs, v, &["reference"]);
            }
            one_of(errs, &v.get("pullPolicy"), &["Always", "IfNotPresent", "Never"]);
        }
        "csi" => {
            driver_name(errs, &v.get("driver"));
            let secret = v.get("nodePublishSecretRef");
            if secret.is_set() && secret.get("name").is_empty() {
                errs.required(secret.get("name").path(), "");
            } else if secret.is_set() {
                // Upstream's path leaves the reference out.
                for problem in crate::names::dns_subdomain(secret.get("name").str(), false) {
                    errs.invalid(&v.path().child("name"), secret.get("name").str(), problem);
                }
            }
        }
        "glusterfs" => required(errs, v, &["endpoints", "path"]),
        "iscsi" => network::iscsi(errs, v, None),
        "cinder" => {
            required(errs, v, &["volumeID"]);
            secret_reference(errs, v, &["name"]);
        }
        "azureFile" => required(errs, v, &["secretName", "shareName"]),
        "storageos" => storage_os(errs, v, &["name"]),
        _ => shared_source(errs, kind, v),
    }
}

/// The sources that are the same in pods and in persistent volumes.
fn shared_source(errs: &mut ErrorList, kind: &str, v: &View<'_>) {
    match kind {
        "hostPath" => host_path(errs, v),
        "nfs" => {
            required(errs, v, &["server", "path"]);
            let path = v.get("path");
            if !path.str().starts_with('/') {
                errs.invalid(path.path(), path.str(), "must be an absolute path");
            }
        }
        "gcePersistentDisk" | "awsElasticBlockStore" => {
            required(errs, v, if kind == "gcePersistentDisk" { &["pdName"] } else { &["volumeID"] });
            let partition = v.get("partition");
            if let Some(n) = partition.int().filter(|n| !(0..=255).contains(n)) {
                errs.invalid(partition.path(), n, "must be between 1 and 255, inclusive");
            }
        }
        "flocker" => {
            let (name, uuid) = (v.get("datasetName"), v.get("datasetUUID"));
            if name.is_empty() && uuid.is_empty() {
                errs.required(v.path(), "one of datasetName and datasetUUID is required");
            }
            if !name.is_empty() && !uuid.is_empty() {
                errs.invalid(v.path(), "resource", "datasetName and datasetUUID can not be specified simultaneously");
            }
            if name.str().contains('/') {
                errs.invalid(name.path(), name.str(), "must not contain '/'");
            }
        }
        "rbd" => required(errs, v, &["monitors", "image"]),
        "cephfs" => required(errs, v, &["monitors"]),
        "quobyte" => network::quobyte(errs, v),
        "fc" => network::fibre_channel(errs, v),
        "flexVolume" => {
            required(errs, v, &["driver"]);
            for (key, option) in v.get("options").entries() {
                let domain = format!(".{}", key.split_once('/').map_or(key, |(domain, _)| domain).to_lowercase());
                if domain.ends_with(".kubernetes.io") || domain.ends_with(".k8s.io") {
                    errs.invalid(option.path(), key, "kubernetes.io and k8s.io namespaces are reserved");
                }
            }
        }
        "vsphereVolume" => required(errs, v, &["volumePath"]),
        "photonPersistentDisk" => required(errs, v, &["pdID"]),
        "portworxVolume" => required(errs, v, &["volumeID"]),
        "azureDisk" => network::azure_disk(errs, v),
        "scaleIO" => required(errs, v, &["gateway", "system", "volumeName"]),
        _ => {}
    }
}

/// The source of a persistent volume of this name; what it refers to may lie in any namespace.
/// Upstream: the `validate*PersistentVolumeSource` functions.
pub fn persistent_source(errs: &mut ErrorList, kind: &str, v: &View<'_>, volume: &str) {
    match kind {
        "glusterfs" => {
            required(errs, v, &["endpoints", "path"]);
            let namespace = v.get("endpointsNamespace");
            if namespace.is_set() && namespace.is_empty() {
                let problem = "if the endpointnamespace is set, it must be a valid namespace name";
                errs.invalid(namespace.path(), "", problem);
            } else if namespace.is_set() {
                dns_label_at(errs, &namespace);
            }
        }
        "iscsi" => network::iscsi(errs, v, Some(volume)),
        "cinder" => {
            required(errs, v, &["volumeID"]);
            secret_reference(errs, v, &["name", "namespace"]);
        }
        "azureFile" => {
            required(errs, v, &["secretName", "shareName"]);
            if v.get("secretNamespace").is_set() {
                required(errs, v, &["secretNamespace"]);
            }
        }
        "storageos" => storage_os(errs, v, &["name", "namespace"]),
        "local" => {
            let path = v.get("path");
            if path.is_empty() {
                errs.required(path.path(), "");
            } else {
                no_back_steps(errs, path.path(), path.str());
            }
        }
        "csi" => {
            driver_name(errs, &v.get("driver"));
            required(errs, v, &["volumeHandle"]);
            for field in [
                "controllerPublishSecretRef",
                "controllerExpandSecretRef",
                "nodePublishSecretRef",
                "nodeExpandSecretRef",
            ] {
                let secret = v.get(field);
                if !secret.is_set() {
                    continue;
                }
                let (name, namespace) = (secret.get("name"), secret.get("namespace"));
                if name.is_empty() {
                    errs.required(name.path(), "");
                } else {
                    dns_subdomain_at(errs, &name);
                }
                if namespace.is_empty() {
                    errs.required(namespace.path(), "");
                } else {
                    dns_label_at(errs, &namespace);
                }
            }
        }
        _ => shared_source(errs, kind, v),
    }
}

fn secret_reference(errs: &mut ErrorList, v: &View<'_>, fields: &[&'static str]) {
    if v.get("secretRef").is_set() {
        required(errs, &v.get("secretRef"), fields);
    }
}

fn storage_os(errs: &mut ErrorList, v: &View<'_>, secret: &[&'static str]) {
    let (name, namespace) = (v.get("volumeName"), v.get("volumeNamespace"));
    if name.is_empty() {
        errs.required(name.path(), "");
    } else {
        dns_label_at(errs, &name);
    }
    if !namespace.is_empty() {
        dns_label_at(errs, &namespace);
    }
    secret_reference(errs, v, secret);
}

/// The name of a CSI driver. Upstream: `ValidateCSIDriverName`.
pub fn driver_name(errs: &mut ErrorList, v: &View<'_>) {
    let name = v.str();
    if name.is_empty() {
        errs.required(v.path(), "");
    }
    if name.len() > 63 {
        errs.too_long(v.path(), 63);
    }
    for problem in crate::names::dns_subdomain(&name.to_lowercase(), false) {
        errs.invalid(v.path(), name, problem);
    }
}

fn host_path(errs: &mut ErrorList, v: &View<'_>) {
    let path = v.get("path");
    if path.str().is_empty() {
        errs.required(path.path(), "");
        return;
    }
    no_back_steps(errs, path.path(), path.str());
    let ty = v.get("type");
    const TYPES: [&str; 8] =
        ["", "BlockDevice", "CharDevice", "Directory", "DirectoryOrCreate", "File", "FileOrCreate", "Socket"];
    if ty.is_set() && !TYPES.contains(&ty.str()) {
        errs.not_supported(ty.path(), ty.str(), &TYPES);
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use crate::validate::pod_spec::tests::problems;

    #[test]
    fn a_volume_is_of_one_kind() {
        assert_eq!(
            problems(json!({"containers": [{"name": "c", "image": "i"}], "volumes": [
                {"name": "a", "emptyDir": {}, "hostPath": {"path": "/"}},
                {"name": "a", "secret": {"items": [{"key": "k", "path": "/abs", "mode": 1000}]}}]})),
            [
                "spec.volumes[0].hostPath: Forbidden: may not specify more than 1 volume type",
                "spec.volumes[1].secret.secretName: Required value",
                "spec.volumes[1].secret.items[0].path: Invalid value: \"/abs\": must be a relative path",
                "spec.volumes[1].secret.items[0].mode: Invalid value: 1000: must be a number between 0 and 0777 (octal), both inclusive",
            ]
        );
    }

    /// The problems of a pod with one volume of this source.
    pub(super) fn of_source(source: serde_json::Value) -> Vec<String> {
        let mut volume = source;
        volume["name"] = json!("v");
        problems(json!({"containers": [{"name": "c", "image": "i"}], "volumes": [volume]}))
    }

    #[test]
    fn each_source_has_rules_of_its_own() {
        let cases: [(serde_json::Value, &[&str]); 14] = [
            (
                json!({"emptyDir": {"sizeLimit": "-1"}}),
                &["emptyDir.sizeLimit: Forbidden: SizeLimit field must be a valid resource quantity"],
            ),
            (
                json!({"nfs": {"server": "s"}}),
                &["nfs.path: Required value", "nfs.path: Invalid value: \"\": must be an absolute path"],
            ),
            (
                json!({"gcePersistentDisk": {"partition": 300}}),
                &[
                    "persistentDisk.pdName: Required value",
                    "persistentDisk.partition: Invalid value: 300: must be between 1 and 255, inclusive",
                ],
            ),
            (
                json!({"iscsi": {"targetPortal": "p", "iqn": "x", "lun": 300, "chapAuthSession": true}}),
                &[
                    "iscsi.iqn: Invalid value: \"x\": must be valid format starting with iqn, eui, or naa",
                    "iscsi.lun: Invalid value: 300: must be between 0 and 255, inclusive",
                    "iscsi.secretRef: Required value",
                ],
            ),
            (json!({"iscsi": {"targetPortal": "p", "iqn": "iqn.2001-04.com.example:storage.kube.sys1.xyz"}}), &[]),
            (
                json!({"flocker": {"datasetName": "a/b"}}),
                &["flocker.datasetName: Invalid value: \"a/b\": must not contain '/'"],
            ),
            (
                json!({"quobyte": {"registry": "host", "volume": "v"}}),
                &[
                    "quobyte.registry: Invalid value: \"host\": must be a host:port pair or multiple pairs separated by commas",
                ],
            ),
            (
                json!({"fc": {"targetWWNs": ["a"]}}),
                &["fc.lun: Required value: lun is required if targetWWNs is specified"],
            ),
            (
                json!({"flexVolume": {"driver": "d", "options": {"a.k8s.io/x": "1"}}}),
                &[
                    "flexVolume.options[a.k8s.io/x]: Invalid value: \"a.k8s.io/x\": kubernetes.io and k8s.io namespaces are reserved",
                ],
            ),
            (
                json!({"azureDisk": {"diskName": "n", "diskURI": "x", "kind": "Managed"}}),
                &[
                    "azureDisk.diskURI: Unsupported value: \"x\": supported values: \"/subscriptions/{sub-id}/resourcegroups/\
                 {group-name}/providers/microsoft.compute/disks/{disk-id}\"",
                ],
            ),
            (
                json!({"csi": {"driver": "d", "nodePublishSecretRef": {}}}),
                &["csi.nodePublishSecretRef.name: Required value"],
            ),
            (
                json!({"image": {"pullPolicy": "x"}}),
                &[
                    "image.reference: Required value",
                    "image.pullPolicy: Unsupported value: \"x\": supported values: \"Always\", \"IfNotPresent\", \"Never\"",
                ],
            ),
            (
                json!({"downwardAPI": {"items": [{"path": "a"}]}}),
                &["downwardAPI: Required value: one of fieldRef and resourceFieldRef is required"],
            ),
            (json!({}), &[]),
        ];
        for (source, expected) in cases {
            let shown = source.to_string();
            let expected: Vec<String> = expected.iter().map(|e| format!("spec.volumes[0].{e}")).collect();
            assert_eq!(of_source(source), expected, "{shown}");
        }
    }
}
