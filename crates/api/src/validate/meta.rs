//! What every object has: `metadata`. The API server calls [`new_object`] and [`changed_object`], which look at the
//! metadata and at the rest by `Kind::validate` and `Kind::validate_update`.
//!
//! Upstream: `k8s.io/apimachinery/pkg/api/validation/objectmeta.go`, `ValidateObjectMeta` of
//! `pkg/apis/core/validation`, `k8s.io/apiserver/pkg/registry/rest/{create,update}.go`. The version precondition
//! (`metadata.resourceVersion: must be specified for an update`) is the caller's, who knows whether the kind allows
//! unconditional updates.

use serde_json::Value;

use super::{internal, labels};
use crate::field::{ErrorList, ErrorType, Path};
use crate::kind::{Cx, Kind, MetaPass, MetaRules, Scope};
use crate::object::{View, at, same};

/// Bytes all annotations of an object may have, keys and values together.
pub const MAX_ANNOTATIONS: usize = 256 * 1024;

/// Finalizers without a domain that have a meaning.
const STANDARD_FINALIZERS: [&str; 3] = ["kubernetes", "foregroundDeletion", "orphan"];

/// Checks a new object, metadata first. Upstream: `rest.BeforeCreate`.
///
/// Where the kind does not look at the metadata, the registry does when nothing else is wrong.
pub fn new_object(kind: &dyn Kind, cx: &Cx<'_>, obj: &Value) -> ErrorList {
    if kind.meta_rules() == MetaRules::Registry {
        let errs = kind.validate(cx, obj);
        return if errs.is_empty() { validate_meta(kind, obj) } else { errs };
    }
    let mut errs = validate_meta(kind, obj);
    errs.extend(kind.validate(cx, obj));
    errs
}

/// Checks a changed object, metadata first. Upstream: `rest.BeforeUpdate`.
///
/// Upstream looks at the metadata three times or more: the registry as at a new object and as at a changed one, and then
/// the kind ([`Kind::meta_passes`]). What is wrong is one problem in the message and as many causes.
pub fn changed_object(kind: &dyn Kind, cx: &Cx<'_>, new: &Value, old: &Value) -> ErrorList {
    let mut errs = ErrorList::new();
    let (scope, meta) = (kind.info().scope, View::root(new).get("metadata"));
    new_meta(&mut errs, scope, &meta, crate::names::path_segment);
    changed_meta(&mut errs, new, old);
    let passes = match kind.meta_rules() {
        MetaRules::Registry => &[],
        MetaRules::Core | MetaRules::Machinery => kind.meta_passes(cx.subresource),
    };
    for pass in passes {
        match pass {
            MetaPass::New => new_meta(&mut errs, scope, &meta, |name, prefix| kind.validate_name(name, prefix)),
            MetaPass::Changed => changed_meta(&mut errs, new, old),
        }
        if kind.meta_rules() == MetaRules::Core {
            finalizer_words(&mut errs, new);
        }
    }
    errs.extend(kind.validate_update(cx, new, old));
    errs
}

/// Checks the metadata of a new object.
///
/// Kinds that can only be created (reviews, bindings, bodies of subresources) have no identity to check.
pub fn validate_meta(kind: &dyn Kind, obj: &Value) -> ErrorList {
    let mut errs = ErrorList::new();
    let (info, rules) = (kind.info(), kind.meta_rules());
    let meta = View::root(obj).get("metadata");
    if info.verbs == crate::kinds::CREATE_ONLY {
        return errs;
    }
    match rules {
        MetaRules::Registry => new_meta(&mut errs, info.scope, &meta, crate::names::path_segment),
        MetaRules::Core | MetaRules::Machinery => {
            new_meta(&mut errs, info.scope, &meta, |name, prefix| kind.validate_name(name, prefix));
        }
    }
    if rules == MetaRules::Core {
        finalizer_words(&mut errs, obj);
    }
    errs
}

/// Checks the metadata of an object that stands in another one, which has a namespace or none, and need not have a name.
pub(crate) fn embedded_meta(errs: &mut ErrorList, meta: &View<'_>) {
    let scope = if meta.get("namespace").str().is_empty() { Scope::Cluster } else { Scope::Namespaced };
    let mut found = ErrorList::new();
    new_meta(&mut found, scope, meta, crate::names::path_segment);
    if meta.get("name").str().is_empty() {
        found.0.retain(|e| e.kind != ErrorType::Required);
    }
    errs.extend(found);
}

/// Upstream: `ValidateObjectMetaAccessor`.
fn new_meta(errs: &mut ErrorList, scope: Scope, meta: &View<'_>, name_problems: impl Fn(&str, bool) -> Vec<String>) {
    let (name, prefix, namespace) = (meta.get("name"), meta.get("generateName"), meta.get("namespace"));
    if !prefix.str().is_empty() {
        for problem in name_problems(prefix.str(), true) {
            errs.invalid(prefix.path(), prefix.str(), problem);
        }
    }
    if name.str().is_empty() {
        errs.required(name.path(), "name or generateName is required");
    } else {
        for problem in name_problems(name.str(), false) {
            errs.invalid(name.path(), name.str(), problem);
        }
    }
    match scope {
        Scope::Namespaced if namespace.str().is_empty() => errs.required(namespace.path(), ""),
        Scope::Namespaced => super::dns_label_at(errs, &namespace),
        Scope::Cluster if !namespace.str().is_empty() => {
            errs.forbidden(namespace.path(), "not allowed on this type");
        }
        Scope::Cluster => {}
    }
    super::non_negative(errs, &meta.get("generation"));
    labels::labels(errs, &meta.get("labels"));
    annotations(errs, &meta.get("annotations"));
    owners(errs, &meta.get("ownerReferences"));
    let finalizers = meta.get("finalizers");
    for finalizer in finalizers.strs() {
        for problem in crate::names::qualified_name(finalizer) {
            errs.invalid(finalizers.path(), finalizer, problem);
        }
    }
    if ["orphan", "foregroundDeletion"].iter().all(|name| finalizers.strs().contains(name)) {
        let problem = "finalizer orphan and foregroundDeletion cannot be both set";
        errs.invalid(finalizers.path(), finalizers.value(), problem);
    }
    managed_fields(errs, &meta.get("managedFields"));
}

/// What may not change, and most of the rest as for a new object. Upstream: `ValidateObjectMetaAccessorUpdate`.
fn changed_meta(errs: &mut ErrorList, new: &Value, old: &Value) {
    let meta = View::root(new).get("metadata");
    let old = at(old, &["metadata"]);
    if !at(old, &["deletionTimestamp"]).is_null() {
        let before = View::at(Path::root(), old).get("finalizers").strs();
        let finalizers = meta.get("finalizers");
        let added: std::collections::BTreeSet<&str> =
            finalizers.strs().into_iter().filter(|f| !before.contains(f)).collect();
        if !added.is_empty() {
            let added: Vec<String> = added.into_iter().map(crate::field::quote).collect();
            errs.forbidden(
                finalizers.path(),
                format!(
                    "no new finalizers can be added if the object is being deleted, found new finalizers []string{{{}}}",
                    added.join(", ")
                ),
            );
        }
    }
    let generation = meta.get("generation").int().unwrap_or_default();
    if generation < at(old, &["generation"]).as_i64().unwrap_or_default() {
        errs.invalid(meta.get("generation").path(), generation, "must not be decremented");
    }
    for field in ["name", "namespace", "uid", "creationTimestamp", "deletionTimestamp", "deletionGracePeriodSeconds"] {
        let v = meta.get(field);
        if !same(v.value(), at(old, &[field])) {
            errs.invalid(v.path(), v.value(), "field is immutable");
        }
    }
    labels::labels(errs, &meta.get("labels"));
    annotations(errs, &meta.get("annotations"));
    owners(errs, &meta.get("ownerReferences"));
    managed_fields(errs, &meta.get("managedFields"));
}

/// Finalizers are standard ones or have a domain. Upstream: `ValidateObjectMeta` of `pkg/apis/core/validation`.
fn finalizer_words(errs: &mut ErrorList, obj: &Value) {
    for finalizer in View::root(obj).get("metadata").items("finalizers") {
        finalizer_word(errs, finalizer.str(), finalizer.path());
    }
}

fn finalizer_word(errs: &mut ErrorList, name: &str, path: &Path) {
    if !name.contains('/') && !STANDARD_FINALIZERS.contains(&name) {
        errs.invalid(path, name, "name is neither a standard finalizer name nor is it fully qualified");
    }
}

/// Annotations: their keys are qualified names whatever the case, and all together are not too long.
pub fn annotations(errs: &mut ErrorList, map: &View<'_>) {
    let mut size = 0;
    for (key, value) in map.entries() {
        for problem in crate::names::qualified_name(&key.to_lowercase()) {
            errs.invalid(map.path(), key, problem);
        }
        size += key.len() + value.len();
    }
    if size > MAX_ANNOTATIONS {
        errs.too_long(map.path(), MAX_ANNOTATIONS);
    }
}

fn owners(errs: &mut ErrorList, list: &View<'_>) {
    let path = list.path();
    let mut controller: Option<String> = None;
    for owner in list.list() {
        let version = owner.get("apiVersion").str();
        if version.matches('/').count() > 1 || version.rsplit('/').next().unwrap_or_default().is_empty() {
            errs.invalid(&path.child("apiVersion"), version, "version must not be empty");
        }
        for field in ["kind", "name", "uid"] {
            let value = owner.get(field).str();
            if value.is_empty() {
                errs.invalid(&path.child(field), value, "must not be empty");
            }
        }
        if version == "v1" && owner.get("kind").str() == "Event" {
            let shown = internal::shown_as(internal::OWNER_REFERENCE, owner.value());
            errs.invalid(path, shown, "/v1, Kind=Event is disallowed from being an owner");
        }
        if owner.get("controller").is_true() {
            let name = format!("{}/{}", owner.get("kind").str(), owner.get("name").str());
            match &controller {
                Some(first) => errs.invalid(
                    path,
                    internal::shown_as(internal::OWNER_REFERENCE, list.value()),
                    format!(
                        "Only one reference can have Controller set to true. Found \"true\" in references for {first} \
                         and {name}"
                    ),
                ),
                None => controller = Some(name),
            }
        }
    }
}

/// The name of a finalizer: a qualified name, with a domain unless it is one of the standard ones.
pub fn finalizer_name(errs: &mut ErrorList, name: &str, path: &Path) {
    for problem in crate::names::qualified_name(name) {
        errs.invalid(path, name, problem);
    }
    finalizer_word(errs, name, path);
}

fn managed_fields(errs: &mut ErrorList, list: &View<'_>) {
    for entry in list.list() {
        let operation = entry.get("operation");
        if !matches!(operation.str(), "Apply" | "Update") {
            errs.invalid(operation.path(), operation.str(), "must be `Apply` or `Update`");
        }
        let ty = entry.get("fieldsType");
        if !ty.str().is_empty() && ty.str() != "FieldsV1" {
            errs.invalid(ty.path(), ty.str(), "must be `FieldsV1`");
        }
        let manager = entry.get("manager");
        field_manager(errs, manager.str(), manager.path());
        let subresource = entry.get("subresource");
        if subresource.len() > 256 {
            errs.too_long(subresource.path(), 256);
        }
    }
}

/// The name of a field manager, also as the query parameter `fieldManager`.
pub fn field_manager(errs: &mut ErrorList, name: &str, path: &Path) {
    if name.len() > 128 {
        errs.too_long(path, 128);
    }
    for (i, c) in name.chars().enumerate() {
        if c.is_control() {
            errs.invalid(path, name, format!("invalid character U+{:04X} (at position {i})", c as u32));
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::coordination::lease::Lease;
    use crate::core::config_map::ConfigMap;
    use crate::policy::pod_disruption_budget::PodDisruptionBudget;
    use crate::validate::testing::{texts, with_cx};

    fn new(kind: &dyn Kind, meta: Value) -> Vec<String> {
        let mut obj = json!({"metadata": {"name": "x", "namespace": "d"}});
        for (field, value) in meta.as_object().into_iter().flatten() {
            obj["metadata"][field] = value.clone();
        }
        texts(&validate_meta(kind, &obj))
    }

    #[test]
    fn a_new_object_needs_a_good_name_and_a_namespace() {
        assert_eq!(
            texts(&validate_meta(&ConfigMap, &json!({"metadata": {}}))),
            ["metadata.name: Required value: name or generateName is required", "metadata.namespace: Required value"]
        );
        assert_eq!(new(&ConfigMap, json!({})), [""; 0]);
        assert_eq!(new(&ConfigMap, json!({"name": "Bad_Name"})).len(), 1);
        // A budget's own rules are about its spec; the registry wants no more than a name that fits into a path.
        assert_eq!(new(&PodDisruptionBudget, json!({"name": "Bad_Name"})), [""; 0]);
        assert_eq!(
            new(&PodDisruptionBudget, json!({"name": "a/b"})),
            ["metadata.name: Invalid value: \"a/b\": may not contain '/'"]
        );
    }

    #[test]
    fn identity_does_not_change() {
        let old = json!({"metadata": {"name": "x", "uid": "1", "deletionTimestamp": "t", "finalizers": ["a/b"]}});
        let new = json!({"metadata": {"name": "x", "uid": "2", "finalizers": ["a/b", "c/d"]}});
        let mut errs = ErrorList::new();
        changed_meta(&mut errs, &new, &old);
        assert_eq!(
            texts(&errs),
            [
                "metadata.finalizers: Forbidden: no new finalizers can be added if the object is being deleted, found \
                 new finalizers []string{\"c/d\"}",
                "metadata.uid: Invalid value: \"2\": field is immutable",
                "metadata.deletionTimestamp: Invalid value: null: field is immutable",
            ]
        );
    }

    #[test]
    fn what_is_wrong_with_the_metadata_is_a_cause_for_each_look() {
        use crate::{apps, batch, core};
        let old = json!({"metadata": {"name": "x", "namespace": "d", "uid": "u"}});
        let mut new = old.clone();
        new["metadata"]["labels"] = json!({"a": "b c"});
        new["metadata"]["uid"] = json!("v");
        // The registry looks twice; how often at the labels and at the uid in all, and at both through `status`.
        let kinds: [(&dyn Kind, usize, usize); 12] = [
            (&ConfigMap, 4, 2),
            (&core::secret::Secret, 4, 2),
            (&core::pod::Pod, 4, 2),
            (&core::service::Service, 4, 2),
            (&core::persistent_volume_claim::PersistentVolumeClaim, 5, 2),
            (&core::limit_range::LimitRange, 3, 1),
            (&core::resource_quota::ResourceQuota, 3, 2),
            (&apps::deployment::Deployment, 3, 2),
            (&apps::stateful_set::StatefulSet, 3, 2),
            (&apps::daemon_set::DaemonSet, 4, 2),
            (&apps::replica_set::ReplicaSet, 4, 2),
            (&batch::job::Job, 4, 2),
        ];
        for (kind, labels, uids) in kinds {
            let count = |subresource: Option<&str>, start: &str| {
                let found = with_cx(subresource, |cx| texts(&changed_object(kind, cx, &new, &old)));
                found.iter().filter(|e| e.starts_with(start)).count()
            };
            let found = |door| (count(door, "metadata.labels: Invalid value: \"b c\""), count(door, "metadata.uid"));
            let name = &kind.info().kind;
            assert_eq!(found(None), (labels, uids), "{name}");
            if kind.info().subresources.iter().any(|s| s.name == "status") {
                assert_eq!(found(Some("status")), (3, 2), "{name}");
            }
        }
    }

    #[test]
    fn some_kinds_look_more_often() {
        let count = |kind: &dyn Kind, subresource| {
            let old = json!({"metadata": {"name": "x", "namespace": "d"}});
            let mut new = old.clone();
            new["metadata"]["annotations"] = json!({"a b": ""});
            let found = with_cx(subresource, |cx| texts(&changed_object(kind, cx, &new, &old)));
            found.iter().filter(|e| e.starts_with("metadata.annotations: ")).count()
        };
        let seen: Vec<(String, usize)> = crate::kinds::all()
            .iter()
            .filter(|kind| kind.info().verbs != crate::kinds::CREATE_ONLY)
            .map(|kind| (kind.info().kind.to_string(), count(kind.as_ref(), None)))
            .filter(|(_, n)| *n != 3)
            .collect();
        let expected = [
            ("PodDisruptionBudget", 2),
            ("Role", 5),
            ("ClusterRole", 5),
            ("ClusterRoleBinding", 5),
            ("RoleBinding", 5),
            ("Ingress", 4),
            ("IngressClass", 4),
            ("IPAddress", 4),
            ("StorageClass", 4),
            ("CSINode", 4),
            ("CSIStorageCapacity", 4),
            ("VolumeAttachment", 4),
            ("VolumeAttributesClass", 4),
            ("RuntimeClass", 4),
            ("CertificateSigningRequest", 4),
            ("APIService", 4),
            ("ResourceClaim", 4),
            ("DeviceClass", 4),
        ];
        for (kind, n) in expected {
            assert!(seen.contains(&(kind.to_owned(), n)), "{kind} is not looked at {n} times: {seen:?}");
        }
        assert_eq!(count(&crate::networking::ingress::Ingress, Some("status")), 3);
        assert_eq!(count(&crate::storage::volume_attachment::VolumeAttachment, Some("status")), 4);
    }

    #[test]
    fn finalizers() {
        const WORD: &str = "name is neither a standard finalizer name nor is it fully qualified";
        assert_eq!(new(&ConfigMap, json!({"finalizers": ["orphan", "a.io/b"]})), [""; 0]);
        assert_eq!(
            new(&ConfigMap, json!({"finalizers": ["a.io/b", "mine"]})),
            [format!("metadata.finalizers[1]: Invalid value: \"mine\": {WORD}")]
        );
        // Leases are checked by the rules of all objects alone.
        assert_eq!(new(&Lease, json!({"finalizers": ["mine"]})), [""; 0]);
        assert_eq!(
            new(&ConfigMap, json!({"finalizers": ["orphan", "foregroundDeletion"]})),
            ["metadata.finalizers: Invalid value: [\"orphan\",\"foregroundDeletion\"]: finalizer orphan and \
              foregroundDeletion cannot be both set"]
        );
        let found = new(&ConfigMap, json!({"finalizers": ["a/b/c"]}));
        assert!(found[0].starts_with("metadata.finalizers: Invalid value: \"a/b/c\": a qualified name"), "{found:?}");
    }

    #[test]
    fn owners_are_named_and_one_controls() {
        let owner = |name: &str| json!({"apiVersion": "v1", "kind": "K", "name": name, "uid": "u", "controller": true});
        assert_eq!(
            new(&ConfigMap, json!({"ownerReferences": [owner("a"), owner("b")]})),
            [
                "metadata.ownerReferences: Invalid value: [{\"apiVersion\":\"v1\",\"kind\":\"K\",\"name\":\"a\",\"uid\":\"u\",\"controller\":true},{\"apiVersion\":\"v1\",\"kind\":\"K\",\"name\":\"b\",\"uid\":\"u\",\"controller\":true}]: Only one reference can have Controller set to true. Found \"true\" in references for K/a and K/b"
            ]
        );
        assert_eq!(
            new(&ConfigMap, json!({"ownerReferences": [{"apiVersion": "a/b/c"}]})),
            [
                "metadata.ownerReferences.apiVersion: Invalid value: \"a/b/c\": version must not be empty",
                "metadata.ownerReferences.kind: Invalid value: \"\": must not be empty",
                "metadata.ownerReferences.name: Invalid value: \"\": must not be empty",
                "metadata.ownerReferences.uid: Invalid value: \"\": must not be empty",
            ]
        );
    }
}
