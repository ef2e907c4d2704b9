//! Mounts and block devices of containers. Upstream: `ValidateVolumeMounts`, `ValidateVolumeDevices`.

use std::collections::BTreeSet;

use crate::field::{ErrorList, Path};
use crate::object::View;
use crate::validate::pod_spec::{Volumes, descending_path};

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

    use crate::validate::pod_spec::tests::container_problems;

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
}
