//! Volumes, mounts and block devices. Upstream: `ValidateVolumes`, `ValidateVolumeMounts`, `ValidateVolumeDevices`.

use std::collections::BTreeSet;
use std::sync::LazyLock;

use regex::Regex;

use super::{Volumes, descending_path, env, no_back_steps, resources};
use crate::field::{ErrorList, Path, Shown};
use crate::object::View;
use crate::validate::{dns_label_at, dns_subdomain_at, one_of};

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
            errs.invalid(&volume.path().child("name"), name, ISCSI_TOO_LONG);
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
            mode(errs, &v.get("defaultMode"));
            items(errs, &v.get("items"));
        }
        "configMap" => {
            required(errs, v, &["name"]);
            mode(errs, &v.get("defaultMode"));
            items(errs, &v.get("items"));
        }
        "downwardAPI" => {
            mode(errs, &v.get("defaultMode"));
            // Upstream's path is that of the volume, not of the file.
            for file in v.items("items") {
                downward_file(errs, &View::at(v.path().clone(), file.value()));
            }
        }
        "projected" => {
            mode(errs, &v.get("defaultMode"));
            projected(errs, v);
        }
        "persistentVolumeClaim" => required(errs, v, &["claimName"]),
        "ephemeral" => ephemeral(errs, v),
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
        "iscsi" => iscsi(errs, v, None),
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
        "quobyte" => quobyte(errs, v),
        "fc" => fibre_channel(errs, v),
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
        "azureDisk" => azure_disk(errs, v),
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
        "iscsi" => iscsi(errs, v, Some(volume)),
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

const ISCSI_TOO_LONG: &str = "Total length of <volume name>:<iscsi.targetPortal> must be under 64 characters if iscsi.initiatorName is specified.";

/// Upstream: `validateISCSIVolumeSource`, and `validateISCSIPersistentVolumeSource` where the volume has a name.
fn iscsi(errs: &mut ErrorList, v: &View<'_>, persistent: Option<&str>) {
    static IQN: LazyLock<Regex> = LazyLock::new(|| regex(r"iqn\.\d{4}-\d{2}\.([[:alnum:]\-.]+)(:[^,;*&$|\s]+)$"));
    static EUI: LazyLock<Regex> = LazyLock::new(|| regex("^eui.[[:alnum:]]{16}$"));
    static NAA: LazyLock<Regex> = LazyLock::new(|| regex("^naa.[[:alnum:]]{32}$"));
    let (portal, name, initiator) = (v.get("targetPortal"), v.get("iqn"), v.get("initiatorName"));
    let start = if persistent.is_some() {
        "must be valid format"
    } else {
        "must be valid format starting with iqn, eui, or naa"
    };
    let problem = |text: &str| {
        let known = [("iqn", &IQN), ("eui", &EUI), ("naa", &NAA)];
        match known.iter().find(|(prefix, _)| text.starts_with(*prefix)) {
            None => Some(start),
            Some((_, form)) => (!form.is_match(text)).then_some("must be valid format"),
        }
    };
    required(errs, v, &["targetPortal"]);
    if persistent.is_some_and(|volume| initiator.is_set() && volume.len() + 1 + portal.len() > 64) {
        errs.invalid(&v.path().child("targetportal"), portal.str(), ISCSI_TOO_LONG);
    }
    if name.is_empty() {
        errs.required(name.path(), "");
    } else if let Some(problem) = problem(name.str()) {
        errs.invalid(name.path(), name.str(), problem);
    }
    let lun = v.get("lun").int().unwrap_or_default();
    if !(0..=255).contains(&lun) {
        errs.invalid(v.get("lun").path(), lun, "must be between 0 and 255, inclusive");
    }
    let secret = v.get("secretRef");
    if (v.get("chapAuthDiscovery").is_true() || v.get("chapAuthSession").is_true()) && !secret.is_set() {
        errs.required(secret.path(), "");
    }
    if persistent.is_some() {
        secret_reference(errs, v, &["name"]);
    }
    if let Some(text) = initiator.opt_str()
        && let Some(problem) = problem(text)
    {
        errs.invalid(&v.path().child("initiatorname"), text, problem);
    }
}

fn regex(pattern: &str) -> Regex {
    Regex::new(pattern).expect("constant pattern compiles")
}

fn quobyte(errs: &mut ErrorList, v: &View<'_>) {
    const FORM: &str = "must be a host:port pair or multiple pairs separated by commas";
    let (registry, tenant) = (v.get("registry"), v.get("tenant"));
    if registry.is_empty() {
        errs.required(registry.path(), FORM);
    } else if tenant.len() >= 65 {
        errs.required(tenant.path(), "must be a UUID and may not exceed a length of 64 characters");
    } else {
        for pair in registry.str().split(',') {
            // An IPv6 address stands in brackets.
            let (host, port) = pair.rsplit_once(':').unwrap_or_default();
            let bracketed = host.starts_with('[') && host.ends_with(']');
            if !pair.contains(':') || (host.contains(':') && !bracketed) || port.contains(']') {
                errs.invalid(registry.path(), registry.str(), FORM);
            }
        }
    }
    required(errs, v, &["volume"]);
}

fn fibre_channel(errs: &mut ErrorList, v: &View<'_>) {
    let (targets, ids, lun) = (v.get("targetWWNs"), v.get("wwids"), v.get("lun"));
    if targets.is_empty() && ids.is_empty() {
        errs.required(targets.path(), "must specify either targetWWNs or wwids, but not both");
    }
    if !targets.is_empty() && !ids.is_empty() {
        errs.invalid(targets.path(), targets.value(), "targetWWNs and wwids can not be specified simultaneously");
    }
    if targets.is_empty() {
        return;
    }
    match lun.int() {
        None => errs.required(lun.path(), "lun is required if targetWWNs is specified"),
        Some(n) if !(0..=255).contains(&n) => errs.invalid(lun.path(), n, "must be between 0 and 255, inclusive"),
        Some(_) => {}
    }
}

fn azure_disk(errs: &mut ErrorList, v: &View<'_>) {
    const CACHING: [&str; 3] = ["None", "ReadOnly", "ReadWrite"];
    const KINDS: [&str; 3] = ["Dedicated", "Managed", "Shared"];
    const MANAGED: &str =
        "/subscriptions/{sub-id}/resourcegroups/{group-name}/providers/microsoft.compute/disks/{disk-id}";
    const BLOB: &str = "https://{account-name}.blob.core.windows.net/{container-name}/{disk-name}.vhd";
    required(errs, v, &["diskName", "diskURI"]);
    let (caching, kind, uri) = (v.get("cachingMode"), v.get("kind"), v.get("diskURI"));
    for (v, supported) in [(&caching, CACHING), (&kind, KINDS)] {
        if v.is_set() && !supported.contains(&v.str()) {
            errs.not_supported(v.path(), v.str(), &supported);
        }
    }
    match kind.opt_str() {
        Some("Managed") if !uri.str().starts_with("/subscriptions/") => {
            errs.not_supported(uri.path(), uri.str(), &[MANAGED]);
        }
        Some(other) if other != "Managed" && !uri.str().starts_with("https://") => {
            errs.not_supported(uri.path(), uri.str(), &[BLOB]);
        }
        _ => {}
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
    }
    descending_path(errs, v.path(), path);
    if path.starts_with("..") && !path.starts_with("../") {
        errs.invalid(v.path(), path, "must not start with '..'");
    }
}

/// Keys of a Secret or ConfigMap and the files they become.
fn items(errs: &mut ErrorList, list: &View<'_>) {
    for item in list.list() {
        required(errs, &item, &["key"]);
        file_path(errs, &item.get("path"));
        mode(errs, &item.get("mode"));
    }
}

fn downward_file(errs: &mut ErrorList, file: &View<'_>) {
    file_path(errs, &file.get("path"));
    let (field, resource) = (file.get("fieldRef"), file.get("resourceFieldRef"));
    if field.is_set() {
        env::field_ref(errs, &field, &FIELDS);
        if resource.is_set() {
            errs.invalid(file.path(), "resource", "fieldRef and resourceFieldRef can not be specified simultaneously");
        }
    } else if resource.is_set() {
        env::resource_ref(errs, &resource, true);
    } else {
        errs.required(file.path(), "one of fieldRef and resourceFieldRef is required");
    }
    mode(errs, &file.get("mode"));
}

/// Files of many sources in one volume, each path once. Upstream: `validateProjectionSources`.
fn projected(errs: &mut ErrorList, v: &View<'_>) {
    let mut paths: BTreeSet<String> = BTreeSet::new();
    let mut once = |errs: &mut ErrorList, path: &View<'_>, shown: &str| {
        if !path.str().is_empty() && !paths.insert(path.str().to_owned()) {
            errs.invalid(v.path(), shown, "conflicting duplicate paths");
        }
    };
    for source in v.items("sources") {
        let mut count = 0;
        for kind in ["secret", "configMap"] {
            let part = source.get(kind);
            if !part.is_set() {
                continue;
            }
            count += 1;
            required(errs, &part, &["name"]);
            items(errs, &part.get("items"));
            for item in part.items("items") {
                once(errs, &item.get("path"), part.get("name").str());
            }
        }
        let part = source.get("downwardAPI");
        count += usize::from(part.is_set());
        for file in part.items("items") {
            // Upstream's path is that of the source, not of the file.
            downward_file(errs, &View::at(part.path().clone(), file.value()));
            once(errs, &file.get("path"), file.get("path").str());
        }
        let part = source.get("serviceAccountToken");
        if part.is_set() {
            count += 1;
            token(errs, v, &part);
        }
        let part = source.get("clusterTrustBundle");
        if part.is_set() {
            count += 1;
            trust_bundle(errs, &part);
            once(errs, &part.get("path"), part.get("path").str());
        }
        count += usize::from(source.get("podCertificate").is_set());
        if count > 1 {
            errs.forbidden(source.path(), "may not specify more than 1 volume type per source");
        }
    }
}

/// A token of the pod's account. What is wrong with its path is said of the volume, as upstream does.
fn token(errs: &mut ErrorList, volume: &View<'_>, v: &View<'_>) {
    let life = v.get("expirationSeconds");
    match life.int().unwrap_or_default() {
        n if n < 600 => errs.invalid(life.path(), n, "may not specify a duration less than 10 minutes"),
        n if n > 1 << 32 => errs.invalid(life.path(), n, "may not specify a duration larger than 2^32 seconds"),
        _ => {}
    }
    file_path(errs, &View::at(volume.path().child("path"), v.get("path").value()));
}

/// Authorities by name, or by signer and labels (with `ClusterTrustBundleProjection`).
fn trust_bundle(errs: &mut ErrorList, v: &View<'_>) {
    let (name, signer, chosen) = (v.get("name"), v.get("signerName"), v.get("labelSelector"));
    match (name.is_set(), signer.is_set()) {
        (true, true) => errs.invalid(v.path(), v.value(), "only one of name and signerName may be used"),
        (true, false) => {
            if name.is_empty() {
                errs.required(name.path(), "must be a valid object name");
            }
            if chosen.is_set() {
                errs.invalid(chosen.path(), chosen.value(), "labelSelector must be unset if name is specified");
            }
        }
        (false, true) => {
            if signer.is_empty() {
                errs.required(signer.path(), "must be a valid signer name");
            }
            crate::validate::selector::label_selector(errs, &chosen);
        }
        (false, false) => errs.required(v.path(), "either name or signerName must be specified"),
    }
    file_path(errs, &v.get("path"));
}

/// A claim made for the pod. Upstream: `validateEphemeralVolumeSource`, `ValidateTemplateObjectMeta`.
fn ephemeral(errs: &mut ErrorList, v: &View<'_>) {
    /// What of metadata a template has no use for, under the names upstream derives from Go's.
    const FORBIDDEN: [(&str, &str); 13] = [
        ("name", "name"),
        ("generateName", "generateName"),
        ("namespace", "namespace"),
        ("selfLink", "selfLink"),
        ("uid", "uID"),
        ("resourceVersion", "resourceVersion"),
        ("generation", "generation"),
        ("creationTimestamp", "creationTimestamp"),
        ("deletionTimestamp", "deletionTimestamp"),
        ("deletionGracePeriodSeconds", "deletionGracePeriodSeconds"),
        ("ownerReferences", "ownerReferences"),
        ("finalizers", "finalizers"),
        ("managedFields", "managedFields"),
    ];
    let template = v.get("volumeClaimTemplate");
    if !template.is_set() {
        errs.required(template.path(), "");
        return;
    }
    let meta = template.get("metadata");
    crate::validate::meta::annotations(errs, &meta.get("annotations"));
    crate::validate::labels::labels(errs, &meta.get("labels"));
    for (field, shown) in FORBIDDEN {
        if meta.get(field).is_set() {
            errs.forbidden(&meta.path().child(shown), "cannot be set");
        }
    }
    claim_spec(errs, &template.get("spec"));
}

/// The spec of a claim, also of those in templates. Upstream: `ValidatePersistentVolumeClaimSpec`.
pub fn claim_spec(errs: &mut ErrorList, spec: &View<'_>) {
    let modes = spec.get("accessModes");
    if modes.is_empty() {
        errs.required(modes.path(), "at least 1 access mode is required");
    }
    crate::validate::selector::label_selector(errs, &spec.get("selector"));
    access_modes(errs, &modes);
    let storage = spec.dig("resources.requests.storage");
    let storage_path = spec.get("resources").path().key("storage");
    match resources::parsed(&storage) {
        None => errs.required(&storage_path, ""),
        Some(q) if q.sign() <= 0 => errs.invalid(&storage_path, storage.str(), "must be greater than zero"),
        Some(_) => {}
    }
    let class = spec.get("storageClassName");
    if !class.str().is_empty() {
        dns_subdomain_at(errs, &class);
    }
    let mode = spec.get("volumeMode");
    if mode.is_set() && !matches!(mode.str(), "Block" | "Filesystem") {
        errs.not_supported(mode.path(), mode.str(), &["Block", "Filesystem"]);
    }
    data_sources(errs, spec);
    let class = spec.get("volumeAttributesClassName");
    if !class.str().is_empty() {
        dns_subdomain_at(errs, &class);
    }
}

/// Access modes of a volume or claim: known ones, and `ReadWriteOncePod` alone.
pub fn access_modes(errs: &mut ErrorList, modes: &View<'_>) {
    const MODES: [&str; 4] = ["ReadOnlyMany", "ReadWriteMany", "ReadWriteOnce", "ReadWriteOncePod"];
    for mode in modes.strs() {
        if !MODES.contains(&mode) {
            errs.not_supported(modes.path(), mode, &MODES);
        }
    }
    let others = modes.strs().iter().any(|mode| MODES.contains(mode) && *mode != "ReadWriteOncePod");
    if others && modes.strs().contains(&"ReadWriteOncePod") {
        errs.forbidden(modes.path(), "may not use ReadWriteOncePod with other access modes");
    }
}

/// What a claim is filled with. Upstream: `validateDataSource`, `validateDataSourceRef`.
fn data_sources(errs: &mut ErrorList, spec: &View<'_>) {
    let (source, reference) = (spec.get("dataSource"), spec.get("dataSourceRef"));
    for v in [&source, &reference].into_iter().filter(|v| v.is_set()) {
        required(errs, v, &["name", "kind"]);
        let (group, kind) = (v.get("apiGroup"), v.get("kind"));
        if group.is_empty() && kind.str() != "PersistentVolumeClaim" {
            let problem = "must be 'PersistentVolumeClaim' when referencing the default apiGroup";
            errs.invalid(v.path(), kind.str(), problem);
        }
        if !group.is_empty() {
            dns_subdomain_at(errs, &group);
        }
    }
    let namespace = reference.get("namespace");
    if !namespace.is_empty() {
        dns_label_at(errs, &namespace);
    }
    if !source.is_set() || !reference.is_set() {
        return;
    }
    // The value is the path itself, a struct without public fields.
    if !namespace.is_empty() {
        errs.invalid(spec.path(), Shown::raw("{}"), "may not be specified when dataSourceRef.namespace is specified");
    } else if ["apiGroup", "kind", "name"].iter().any(|f| source.get(f).value() != reference.get(f).value()) {
        errs.invalid(spec.path(), Shown::raw("{}"), "must match dataSourceRef");
    }
}

/// Mounts of a container: of volumes there are, each place once.
pub fn mounts(errs: &mut ErrorList, container: &View<'_>, volumes: &Volumes<'_>) {
    let devices = container.items("volumeDevices");
    let mut places = BTreeSet::new();
    // Some problems are said of the list as a whole, as upstream does.
    let all = container.get("volumeMounts");
    for mount in all.list() {
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
            descending_path(errs, &all.path().child("subPath"), sub.str());
        }
        if !expression.str().is_empty() {
            if !sub.str().is_empty() {
                errs.invalid(expression.path(), expression.str(), "subPathExpr and subPath are mutually exclusive");
            }
            descending_path(errs, &all.path().child("subPathExpr"), expression.str());
        }
        propagation(errs, container, &mount, all.path());
    }
}

/// Upstream: `validateMountPropagation`, `validateMountRecursiveReadOnly`.
fn propagation(errs: &mut ErrorList, container: &View<'_>, mount: &View<'_>, path: &Path) {
    const PROPAGATIONS: [&str; 3] = ["Bidirectional", "HostToContainer", "None"];
    let (v, at) = (mount.get("mountPropagation"), path.child("mountPropagation"));
    if v.is_set() {
        if !PROPAGATIONS.contains(&v.str()) {
            errs.not_supported(&at, v.str(), &PROPAGATIONS);
        }
        if v.str() == "Bidirectional" && !container.dig("securityContext.privileged").is_true() {
            errs.forbidden(&at, "Bidirectional mount propagation is available only to privileged containers");
        }
    }
    let (recursive, at) = (mount.get("recursiveReadOnly"), path.child("recursiveReadOnly"));
    match recursive.opt_str() {
        None | Some("Disabled") => {}
        Some("Enabled" | "IfPossible") => {
            if !mount.get("readOnly").is_true() {
                errs.forbidden(&at, "may only be specified when readOnly is true");
            }
            if v.is_set() && v.str() != "None" {
                errs.forbidden(&at, "may only be specified when mountPropagation is None or not specified");
            }
        }
        Some(other) => errs.not_supported(&at, other, &["Disabled", "Enabled", "IfPossible"]),
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
        } else if !names.insert(name.str()) {
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
        if places.contains(place.str()) {
            errs.invalid(place.path(), place.str(), "must be unique");
        }
        if place.str().split('/').any(|part| part == "..") {
            errs.invalid(place.path(), place.str(), "can not contain backsteps ('..')");
        } else {
            places.insert(place.str());
        }
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
                "spec.containers[0].volumeMounts.subPath: Invalid value: \"../y\": must not contain '..'",
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
            ]
        );
    }

    /// The problems of a pod with one volume of this source.
    fn of_source(source: serde_json::Value) -> Vec<String> {
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

    #[test]
    fn projected_files_do_not_clash() {
        let items = json!([{"key": "k", "path": "p"}]);
        assert_eq!(
            of_source(json!({"projected": {"sources": [
                {"secret": {"name": "s", "items": items}, "configMap": {"name": "m", "items": items}},
                {"serviceAccountToken": {"expirationSeconds": 1}}, {}]}})),
            [
                "spec.volumes[0].projected: Invalid value: \"m\": conflicting duplicate paths",
                "spec.volumes[0].projected.sources[0]: Forbidden: may not specify more than 1 volume type per source",
                "spec.volumes[0].projected.sources[1].serviceAccountToken.expirationSeconds: Invalid value: 1: may not specify a \
                 duration less than 10 minutes",
                "spec.volumes[0].projected.path: Required value",
                "spec.volumes[0].projected.sources[1].serviceAccountToken: Forbidden: must not be specified when \
                 serviceAccountName is not set",
            ]
        );
    }

    #[test]
    fn claims_made_for_a_pod_are_claims() {
        let spec = json!({"accessModes": ["ReadWriteOncePod", "ReadWriteOnce"], "resources": {"requests": {"storage": "0"}},
            "dataSource": {"kind": "K", "name": "n"}});
        assert_eq!(
            problems(json!({"containers": [{"name": "c", "image": "i"}], "volumes": [
                {"name": "v", "ephemeral": {"volumeClaimTemplate": {"metadata": {"name": "n"}, "spec": spec}}},
                {"name": "w", "persistentVolumeClaim": {"claimName": "x-v"}}]})),
            [
                "spec.volumes[0].ephemeral.volumeClaimTemplate.metadata.name: Forbidden: cannot be set",
                "spec.volumes[0].ephemeral.volumeClaimTemplate.spec.accessModes: Forbidden: may not use ReadWriteOncePod with \
                 other access modes",
                "spec.volumes[0].ephemeral.volumeClaimTemplate.spec.resources[storage]: Invalid value: \"0\": must be greater than \
                 zero",
                "spec.volumes[0].ephemeral.volumeClaimTemplate.spec.dataSource: Invalid value: \"K\": must be \
                 'PersistentVolumeClaim' when referencing the default apiGroup",
                "spec.volumes[1].persistentVolumeClaim.claimName: Invalid value: \"x-v\": must not reference a PVC that gets \
                 created for an ephemeral volume",
            ]
        );
    }
}
