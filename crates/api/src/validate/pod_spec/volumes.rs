//! Volumes, mounts and block devices. Upstream: `ValidateVolumes`, `ValidateVolumeMounts`, `ValidateVolumeDevices`.

use std::collections::BTreeSet;

use super::{Volumes, descending_path, env, no_back_steps, resources};
use crate::field::ErrorList;
use crate::object::View;
use crate::validate::{config_map_key_problems, dns_label_at, dns_subdomain_at, one_of};

/// Fields of the pod a file may be made of.
const FIELDS: [&str; 5] =
    ["metadata.annotations", "metadata.labels", "metadata.name", "metadata.namespace", "metadata.uid"];

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
    "azureDisk",
    "storageos",
    "projected",
    "scaleIO",
    "csi",
    "ephemeral",
    "portworxVolume",
    "image",
];

/// Checks the volumes and gives them by name.
pub fn volumes<'a>(errs: &mut ErrorList, list: &View<'a>) -> Volumes<'a> {
    let mut found = Volumes::new();
    for volume in list.list() {
        source(errs, &volume);
        let name = volume.get("name");
        if name.str().is_empty() {
            errs.required(name.path(), "");
            continue;
        }
        dns_label_at(errs, &name);
        if found.contains_key(name.str()) {
            errs.duplicate(name.path(), name.str());
        } else {
            found.insert(name.str(), volume.value());
        }
    }
    found
}

fn required(errs: &mut ErrorList, v: &View<'_>, fields: &[&str]) {
    for field in fields {
        if v.get(field).str().is_empty() {
            errs.required(v.get(field).path(), "");
        }
    }
}

fn source(errs: &mut ErrorList, volume: &View<'_>) {
    let mut found = false;
    for kind in KINDS {
        let v = volume.get(kind);
        if !v.is_set() {
            continue;
        }
        if found {
            errs.forbidden(v.path(), "may not specify more than 1 volume type");
            continue;
        }
        found = true;
        match kind {
            "emptyDir" => {
                let limit = v.get("sizeLimit");
                let negative = limit.str().parse::<crate::quantity::Quantity>().is_ok_and(|q| q.sign() < 0);
                if negative {
                    errs.forbidden(limit.path(), "SizeLimit field must be a valid resource quantity");
                }
            }
            "hostPath" => host_path(errs, &v),
            "secret" => {
                required(errs, &v, &["secretName"]);
                mode(errs, &v.get("defaultMode"));
                items(errs, &v.get("items"));
            }
            "configMap" => {
                required(errs, &v, &["name"]);
                mode(errs, &v.get("defaultMode"));
                items(errs, &v.get("items"));
            }
            "downwardAPI" => {
                mode(errs, &v.get("defaultMode"));
                for file in v.items("items") {
                    downward_file(errs, &file);
                }
            }
            "projected" => {
                mode(errs, &v.get("defaultMode"));
                projected(errs, &v);
            }
            "nfs" => {
                required(errs, &v, &["server"]);
                let path = v.get("path");
                if path.str().is_empty() {
                    errs.required(path.path(), "");
                } else if !path.str().starts_with('/') {
                    errs.invalid(path.path(), path.str(), "must be an absolute path");
                }
            }
            "persistentVolumeClaim" => required(errs, &v, &["claimName"]),
            "ephemeral" => ephemeral(errs, &v),
            "image" => required(errs, &v, &["reference"]),
            "csi" => {
                let driver = v.get("driver");
                driver_name(errs, &driver);
                let secret = v.get("nodePublishSecretRef");
                if secret.is_set() {
                    required(errs, &secret, &["name"]);
                }
            }
            "iscsi" => {
                required(errs, &v, &["targetPortal", "iqn"]);
                let lun = v.get("lun").int().unwrap_or_default();
                if !(0..=255).contains(&lun) {
                    errs.invalid(v.get("lun").path(), lun, "must be between 0 and 255, inclusive");
                }
            }
            "gitRepo" => {
                required(errs, &v, &["repository"]);
                descending_path(errs, v.get("directory").path(), v.get("directory").str());
            }
            "gcePersistentDisk" => required(errs, &v, &["pdName"]),
            "awsElasticBlockStore" | "cinder" => required(errs, &v, &["volumeID"]),
            "glusterfs" => required(errs, &v, &["endpoints", "path"]),
            "rbd" => {
                if v.get("monitors").is_empty() {
                    errs.required(v.get("monitors").path(), "");
                }
                required(errs, &v, &["image"]);
            }
            "cephfs" if v.get("monitors").is_empty() => errs.required(v.get("monitors").path(), ""),
            "azureFile" => required(errs, &v, &["secretName", "shareName"]),
            "azureDisk" => required(errs, &v, &["diskName", "diskURI"]),
            "vsphereVolume" => required(errs, &v, &["volumePath"]),
            "photonPersistentDisk" => required(errs, &v, &["pdID"]),
            "portworxVolume" => required(errs, &v, &["volumeID"]),
            "scaleIO" => required(errs, &v, &["gateway", "system", "volumeName"]),
            "flexVolume" => required(errs, &v, &["driver"]),
            "fc" if v.get("targetWWNs").is_empty() && v.get("wwids").is_empty() => {
                errs.required(v.get("targetWWNs").path(), "must specify either targetWWNs or wwids, but not both");
            }
            _ => {}
        }
    }
    if !found {
        errs.required(volume.path(), "must specify a volume type");
    }
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

fn mode(errs: &mut ErrorList, v: &View<'_>) {
    if let Some(mode) = v.int()
        && !(0..=0o777).contains(&mode)
    {
        errs.invalid(v.path(), mode, "must be a number between 0 and 0777 (octal), both inclusive");
    }
}

/// A path of a file inside a volume. Upstream: `validateLocalNonReservedPath`.
fn file_path(errs: &mut ErrorList, v: &View<'_>) {
    let path = v.str();
    if path.is_empty() {
        errs.required(v.path(), "");
        return;
    }
    descending_path(errs, v.path(), path);
    if path.starts_with("..") && !path.starts_with("../") && path != ".." {
        errs.invalid(v.path(), path, "must not start with '..'");
    }
}

/// Keys of a Secret or ConfigMap and the files they become.
fn items(errs: &mut ErrorList, list: &View<'_>) {
    for item in list.list() {
        let key = item.get("key");
        if key.str().is_empty() {
            errs.required(key.path(), "");
        } else {
            for problem in config_map_key_problems(key.str()) {
                errs.invalid(key.path(), key.str(), problem);
            }
        }
        file_path(errs, &item.get("path"));
        mode(errs, &item.get("mode"));
    }
}

fn downward_file(errs: &mut ErrorList, file: &View<'_>) {
    file_path(errs, &file.get("path"));
    let (field, resource) = (file.get("fieldRef"), file.get("resourceFieldRef"));
    match (field.is_set(), resource.is_set()) {
        (true, true) => {
            errs.invalid(file.path(), "resource", "fieldRef and resourceFieldRef can not be specified simultaneously")
        }
        (true, false) => env::field_ref(errs, &field, &FIELDS),
        (false, true) => env::resource_ref(errs, &resource, true),
        (false, false) => errs.required(file.path(), "one of fieldRef and resourceFieldRef is required"),
    }
    mode(errs, &file.get("mode"));
}

fn projected(errs: &mut ErrorList, v: &View<'_>) {
    let mut paths = BTreeSet::new();
    for source in v.items("sources") {
        let mut count = 0;
        for kind in
            ["secret", "configMap", "downwardAPI", "serviceAccountToken", "clusterTrustBundle", "podCertificate"]
        {
            let part = source.get(kind);
            if !part.is_set() {
                continue;
            }
            count += 1;
            if count > 1 {
                errs.forbidden(part.path(), "may not specify more than 1 volume type per source");
                continue;
            }
            match kind {
                "secret" | "configMap" => {
                    required(errs, &part, &["name"]);
                    items(errs, &part.get("items"));
                }
                "downwardAPI" => part.items("items").iter().for_each(|file| downward_file(errs, file)),
                "serviceAccountToken" => {
                    let life = part.get("expirationSeconds");
                    match life.int() {
                        Some(n) if n < 600 => {
                            errs.invalid(life.path(), n, "may not specify a duration less than 10 minutes");
                        }
                        Some(n) if n > 1 << 32 => {
                            errs.invalid(life.path(), n, "may not specify a duration larger than 2^32 seconds");
                        }
                        _ => {}
                    }
                    file_path(errs, &part.get("path"));
                }
                _ => {}
            }
            let files = match kind {
                "serviceAccountToken" | "clusterTrustBundle" => vec![part.get("path")],
                _ => part.items("items").iter().map(|i| i.get("path")).collect(),
            };
            for file in files {
                if !file.str().is_empty() && !paths.insert(file.str()) {
                    errs.invalid(source.path(), file.str(), "conflicting duplicate paths");
                }
            }
        }
        if count == 0 {
            errs.required(source.path(), "must specify a volume source");
        }
    }
}

fn ephemeral(errs: &mut ErrorList, v: &View<'_>) {
    let template = v.get("volumeClaimTemplate");
    if !template.is_set() {
        errs.required(template.path(), "");
        return;
    }
    claim_spec(errs, &template.get("spec"));
}

/// The spec of a claim, also of those in templates. Upstream: `ValidatePersistentVolumeClaimSpec`.
pub fn claim_spec(errs: &mut ErrorList, spec: &View<'_>) {
    const MODES: [&str; 4] = ["ReadOnlyMany", "ReadWriteMany", "ReadWriteOnce", "ReadWriteOncePod"];
    let modes = spec.get("accessModes");
    if modes.is_empty() {
        errs.required(modes.path(), "at least 1 access mode is required");
    }
    crate::validate::selector::label_selector(errs, &spec.get("selector"));
    let strs = modes.strs();
    if strs.contains(&"ReadWriteOncePod") && strs.len() > 1 {
        errs.forbidden(modes.path(), "may not use ReadWriteOncePod with other access modes");
    }
    for mode in modes.list() {
        if !MODES.contains(&mode.str()) {
            errs.not_supported(modes.path(), mode.str(), &MODES);
        }
    }
    let storage = spec.dig("resources.requests.storage");
    let storage_path = spec.dig("resources").path().key("storage");
    match storage.str().parse::<crate::quantity::Quantity>() {
        _ if !storage.is_set() => errs.required(&storage_path, ""),
        Ok(q) if q.sign() <= 0 => errs.invalid(&storage_path, storage.str(), "must be greater than zero"),
        _ => resources::amount(errs, &storage),
    }
    let class = spec.get("storageClassName");
    if !class.str().is_empty() {
        dns_subdomain_at(errs, &class);
    }
    let mode = spec.get("volumeMode");
    if mode.is_set() && !matches!(mode.str(), "Block" | "Filesystem") {
        errs.not_supported(mode.path(), mode.str(), &["Block", "Filesystem"]);
    }
    for field in ["dataSource", "dataSourceRef"] {
        let source = spec.get(field);
        if !source.is_set() {
            continue;
        }
        required(errs, &source, &["name", "kind"]);
        if source.get("apiGroup").str().is_empty() && source.get("kind").str() != "PersistentVolumeClaim" {
            errs.invalid(source.path(), source.get("kind").str(), "");
        }
    }
    let class = spec.get("volumeAttributesClassName");
    if !class.str().is_empty() {
        dns_subdomain_at(errs, &class);
    }
}

/// Mounts of a container: of volumes there are, each place once.
pub fn mounts(errs: &mut ErrorList, container: &View<'_>, volumes: &Volumes<'_>) {
    let devices = container.items("volumeDevices");
    let mut places = BTreeSet::new();
    for mount in container.items("volumeMounts") {
        let (name, place) = (mount.get("name"), mount.get("mountPath"));
        if name.str().is_empty() {
            errs.required(name.path(), "");
        }
        if !volumes.contains_key(name.str()) {
            errs.not_found(name.path(), name.str());
        }
        if place.str().is_empty() {
            errs.required(place.path(), "");
        }
        if !places.insert(place.str()) {
            errs.invalid(place.path(), place.str(), "must be unique");
        }
        if devices.iter().any(|d| d.get("name").str() == name.str()) {
            errs.invalid(name.path(), name.str(), "must not already exist in volumeDevices");
        }
        if devices.iter().any(|d| d.get("devicePath").str() == place.str()) {
            errs.invalid(place.path(), place.str(), "must not already exist as a path in volumeDevices");
        }
        let (sub, expression) = (mount.get("subPath"), mount.get("subPathExpr"));
        if !sub.str().is_empty() {
            descending_path(errs, sub.path(), sub.str());
        }
        if !expression.str().is_empty() {
            if !sub.str().is_empty() {
                errs.invalid(expression.path(), expression.str(), "subPathExpr and subPath are mutually exclusive");
            }
            descending_path(errs, expression.path(), expression.str());
        }
        propagation(errs, container, &mount);
    }
}

fn propagation(errs: &mut ErrorList, container: &View<'_>, mount: &View<'_>) {
    let v = mount.get("mountPropagation");
    if v.is_set() {
        one_of(errs, &v, &["Bidirectional", "HostToContainer", "None"]);
        if v.str() == "Bidirectional" && !container.dig("securityContext.privileged").is_true() {
            errs.forbidden(v.path(), "Bidirectional mount propagation is available only to privileged containers");
        }
    }
    let recursive = mount.get("recursiveReadOnly");
    if recursive.is_set() {
        one_of(errs, &recursive, &["Disabled", "Enabled", "IfPossible"]);
        if matches!(recursive.str(), "Enabled" | "IfPossible") {
            if !mount.get("readOnly").is_true() {
                errs.forbidden(recursive.path(), "may only be specified when readOnly is true");
            }
            if !matches!(v.str(), "" | "None") {
                errs.forbidden(
                    recursive.path(),
                    "may only be specified when mountPropagation is None or not specified",
                );
            }
        }
    }
}

/// Block devices of a container: only claims can be such.
pub fn devices(errs: &mut ErrorList, container: &View<'_>, volumes: &Volumes<'_>) {
    let mounts = container.items("volumeMounts");
    let (mut names, mut places) = (BTreeSet::new(), BTreeSet::new());
    for device in container.items("volumeDevices") {
        let (name, place) = (device.get("name"), device.get("devicePath"));
        if name.str().is_empty() {
            errs.required(name.path(), "");
        }
        if !names.insert(name.str()) {
            errs.invalid(name.path(), name.str(), "must be unique");
        }
        match volumes.get(name.str()) {
            None => errs.not_found(name.path(), name.str()),
            Some(v) if v.get("persistentVolumeClaim").is_none() && v.get("ephemeral").is_none() => errs.invalid(
                name.path(),
                name.str(),
                "can only use volume source type of PersistentVolumeClaim or Ephemeral for block mode",
            ),
            Some(_) => {}
        }
        if place.str().is_empty() {
            errs.required(place.path(), "");
        }
        if !places.insert(place.str()) {
            errs.invalid(place.path(), place.str(), "must be unique");
        }
        no_back_steps(errs, place.path(), place.str());
        if mounts.iter().any(|m| m.get("name").str() == name.str()) {
            errs.invalid(name.path(), name.str(), "must not already exist in volumeMounts");
        }
        if mounts.iter().any(|m| m.get("mountPath").str() == place.str()) {
            errs.invalid(place.path(), place.str(), "must not already exist as a path in volumeMounts");
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use crate::validate::pod_spec::tests::{container_problems, problems};

    #[test]
    fn mounts_are_of_volumes_there_are() {
        assert_eq!(
            container_problems(json!({"volumeMounts": [{"name": "v", "mountPath": "/x", "subPath": "../y"}]})),
            [
                "spec.containers[0].volumeMounts[0].name: Not found: \"v\"",
                "spec.containers[0].volumeMounts[0].subPath: Invalid value: \"../y\": must not contain '..'",
            ]
        );
    }

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
                "spec.volumes[1].name: Duplicate value: \"a\"",
            ]
        );
    }
}
