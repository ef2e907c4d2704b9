//! Files that volumes are made of: keys of Secrets and ConfigMaps, fields of the pod, tokens, authorities.
//! Upstream: `validateKeyToPath`, `validateDownwardAPIVolumeFile`, `validateProjectionSources`.

use std::collections::BTreeSet;

use super::required;
use crate::field::ErrorList;
use crate::object::View;
use crate::validate::pod_spec::{descending_path, env};

/// Fields of the pod a file may be made of.
const FIELDS: [&str; 5] =
    ["metadata.annotations", "metadata.labels", "metadata.name", "metadata.namespace", "metadata.uid"];

pub(super) fn mode(errs: &mut ErrorList, v: &View<'_>) {
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
pub(super) fn items(errs: &mut ErrorList, list: &View<'_>) {
    for item in list.list() {
        required(errs, &item, &["key"]);
        file_path(errs, &item.get("path"));
        mode(errs, &item.get("mode"));
    }
}

pub(super) fn downward_file(errs: &mut ErrorList, file: &View<'_>) {
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
pub(super) fn projected(errs: &mut ErrorList, v: &View<'_>) {
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

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::tests::of_source;

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
}
