//! Fields of features that are off by default in v1.36: dropped on write, unless the object has them already.
//!
//! Upstream: `DropDisabledPodFields` in `pkg/api/pod/util.go` and the like of other kinds. Leases and resource slices
//! drop theirs in their own files.

use serde_json::Value;

use crate::kind::{Cx, Kind};
use crate::object::{at, at_mut};

/// A gate and the path of a field behind it. A step that ends in `[]` is a list, each element meant.
type Gated = (&'static str, &'static str);

/// Fields of pod specs.
const POD_SPEC: [Gated; 3] = [
    ("GenericWorkload", "schedulingGroup"),
    ("ClusterTrustBundleProjection", "volumes[].projected.sources[].clusterTrustBundle"),
    ("PodCertificateRequest", "volumes[].projected.sources[].podCertificate"),
];

/// Fields of other kinds: group, kind, gate and field.
const KINDS: [(&str, &str, Gated); 3] = [
    ("", "Pod", ("DRANodeAllocatableResources", "status.nodeAllocatableResourceClaimStatuses")),
    ("", "PersistentVolumeClaim", ("CrossNamespaceVolumeDataSource", "spec.dataSourceRef.namespace")),
    ("storage.k8s.io", "CSIDriver", ("VolumeLimitScaling", "spec.preventPodSchedulingIfMissing")),
];

/// Where a kind has its pod spec.
fn pod_spec(kind: &str) -> Option<&'static [&'static str]> {
    match kind {
        "Pod" => Some(&["spec"]),
        "PodTemplate" => Some(&["template", "spec"]),
        "CronJob" => Some(&["spec", "jobTemplate", "spec", "template", "spec"]),
        "DaemonSet" | "Deployment" | "Job" | "ReplicaSet" | "ReplicationController" | "StatefulSet" => {
            Some(&["spec", "template", "spec"])
        }
        _ => None,
    }
}

/// Drops what is off from a new or changed object. `old` is what stands.
pub fn drop_disabled(kind: &dyn Kind, cx: &Cx<'_>, obj: &mut Value, old: Option<&Value>) {
    let info = kind.info();
    if let Some(path) = pod_spec(&info.kind)
        && let Some(spec) = at_mut(obj, path)
    {
        let before = old.map_or(&Value::Null, |old| at(old, path));
        POD_SPEC.iter().for_each(|gated| drop_one(cx, *gated, spec, before));
    }
    for (group, name, gated) in KINDS {
        if group == info.group && name == info.kind {
            drop_one(cx, gated, obj, old.unwrap_or(&Value::Null));
        }
    }
}

fn drop_one(cx: &Cx<'_>, (gate, path): Gated, obj: &mut Value, old: &Value) {
    if has(obj, path) && !cx.features.enabled(gate, false) && !has(old, path) {
        remove(obj, path);
    }
}

/// The first step of a path, whether it is a list, and the rest.
fn step(path: &str) -> (&str, bool, Option<&str>) {
    let (first, rest) = path.split_once('.').map_or((path, None), |(first, rest)| (first, Some(rest)));
    match first.strip_suffix("[]") {
        Some(list) => (list, true, rest),
        None => (first, false, rest),
    }
}

fn has(v: &Value, path: &str) -> bool {
    let (field, is_list, rest) = step(path);
    let here = at(v, &[field]);
    let deeper = |v: &Value| rest.map_or(!v.is_null(), |rest| has(v, rest));
    if is_list { here.as_array().is_some_and(|list| list.iter().any(deeper)) } else { deeper(here) }
}

fn remove(v: &mut Value, path: &str) {
    let (field, is_list, rest) = step(path);
    let Some(rest) = rest else {
        crate::object::remove(v, &[field]);
        return;
    };
    match at_mut(v, &[field]) {
        Some(Value::Array(list)) if is_list => list.iter_mut().for_each(|v| remove(v, rest)),
        Some(v) if !is_list => remove(v, rest),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::kind::Features;

    fn dropped(kind: &dyn Kind, on: &[&str], mut obj: Value, old: Option<&Value>) -> Value {
        let features = Features::new(on.iter().map(|g| ((*g).to_owned(), true)));
        let cx = Cx { now: jiff::Timestamp::UNIX_EPOCH, subresource: None, user: "t", features: &features };
        drop_disabled(kind, &cx, &mut obj, old);
        obj
    }

    #[test]
    fn what_is_off_is_dropped_unless_it_is_in_use() {
        let pod = json!({"spec": {"schedulingGroup": {"podGroupName": "g"}, "volumes": [{"name": "v", "projected": {"sources": [
            {"clusterTrustBundle": {"path": "p"}}, {"secret": {"name": "s"}}]}}]}});
        let bare =
            json!({"spec": {"volumes": [{"name": "v", "projected": {"sources": [{}, {"secret": {"name": "s"}}]}}]}});
        let kind = crate::core::pod::Pod;
        assert_eq!(dropped(&kind, &[], pod.clone(), None), bare);
        assert_eq!(dropped(&kind, &[], pod.clone(), Some(&pod)), pod);
        assert_eq!(dropped(&kind, &["GenericWorkload", "ClusterTrustBundleProjection"], pod.clone(), None), pod);
        let job = json!({"spec": {"template": pod}});
        assert_eq!(dropped(&crate::batch::job::Job, &[], job, None), json!({"spec": {"template": bare}}));
    }

    #[test]
    fn other_kinds_have_theirs() {
        let claim = json!({"spec": {"dataSourceRef": {"kind": "K", "name": "n", "namespace": "other"}}});
        let kind = crate::core::persistent_volume_claim::PersistentVolumeClaim;
        assert_eq!(dropped(&kind, &[], claim, None), json!({"spec": {"dataSourceRef": {"kind": "K", "name": "n"}}}));
        let driver = json!({"spec": {"preventPodSchedulingIfMissing": true}});
        assert_eq!(dropped(&crate::storage::csi_driver::CSIDriver, &[], driver, None), json!({"spec": {}}));
    }

    #[test]
    fn every_field_exists() {
        let field_exists = |ty: &str, path: &str| {
            let mut ty = crate::schema::Type::named(ty).expect("a type");
            path.split('.').all(|step| {
                let field = ty.field(step.trim_end_matches("[]"));
                ty = field.map_or(ty, crate::schema::Field::ty);
                field.is_some_and(|f| f.is_list() == step.ends_with("[]"))
            })
        };
        for (_, path) in POD_SPEC {
            assert!(field_exists("k8s.io/api/core/v1.PodSpec", path), "{path}");
        }
        for (group, kind, (_, path)) in KINDS {
            let package = if group.is_empty() { "core" } else { "storage" };
            // A status field of a list is named as a whole.
            let whole = path.ends_with("Statuses");
            assert!(whole || field_exists(&format!("k8s.io/api/{package}/v1.{kind}"), path), "{path}");
        }
    }
}
