//! Claims, those made for a pod among them. Upstream: `ValidatePersistentVolumeClaimSpec`.

use super::required;
use crate::field::{ErrorList, Shown};
use crate::object::View;
use crate::validate::pod_spec::resources;
use crate::validate::{dns_label_at, dns_subdomain_at};

/// A claim made for the pod. Upstream: `validateEphemeralVolumeSource`, `ValidateTemplateObjectMeta`.
pub(super) fn ephemeral(errs: &mut ErrorList, v: &View<'_>) {
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
    claim_spec(errs, &template.get("spec"), false);
}

/// The spec of a claim, also of those in templates; `any_group` if the claim named a group for its source before.
pub fn claim_spec(errs: &mut ErrorList, spec: &View<'_>, any_group: bool) {
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
    data_sources(errs, spec, any_group);
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
fn data_sources(errs: &mut ErrorList, spec: &View<'_>, any_group: bool) {
    let (source, reference) = (spec.get("dataSource"), spec.get("dataSourceRef"));
    for v in [&source, &reference].into_iter().filter(|v| v.is_set()) {
        required(errs, v, &["name", "kind"]);
        let (group, kind) = (v.get("apiGroup"), v.get("kind"));
        if group.is_empty() && kind.str() != "PersistentVolumeClaim" {
            let problem = "must be 'PersistentVolumeClaim' when referencing the default apiGroup";
            errs.invalid(v.path(), kind.str(), problem);
        }
        if !group.is_empty() && !any_group {
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

#[cfg(test)]
mod tests {
    use serde_json::json;

    use crate::validate::pod_spec::tests::problems;

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
