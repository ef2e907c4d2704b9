//! Fields of features that are off by default in v1.36: dropped on write, unless the object has them already.
//!
//! Upstream: `DropDisabledPodFields` in `pkg/api/pod/util.go` and the like of other kinds. Kinds of `resource.k8s.io` drop
//! theirs in their own files.

use serde_json::Value;

use crate::kind::{Cx, Kind};
use crate::object::{at, at_mut};

/// A gate and the paths of the fields behind it, in use as soon as one of them is. A step that ends in `[]` is a list,
/// each element meant; one that ends in `?` goes where nothing is left in it.
type Gated = (&'static str, &'static [&'static str]);

/// Fields of pod specs.
const POD_SPEC: [Gated; 4] = [
    ("GenericWorkload", &["schedulingGroup"]),
    ("ClusterTrustBundleProjection", &["volumes[].projected.sources[].clusterTrustBundle"]),
    ("PodCertificateRequest", &["volumes[].projected.sources[].podCertificate"]),
    (
        "ContainerStopSignals",
        &[
            "containers[].lifecycle?.stopSignal",
            "initContainers[].lifecycle?.stopSignal",
            "ephemeralContainers[].lifecycle?.stopSignal",
        ],
    ),
];

/// Fields of other kinds: group, kind, gate and fields.
const KINDS: [(&str, &str, Gated); 7] = [
    ("", "Pod", ("DRANodeAllocatableResources", &["status.nodeAllocatableResourceClaimStatuses"])),
    (
        "",
        "Pod",
        (
            "ContainerStopSignals",
            &[
                "status.containerStatuses[].stopSignal",
                "status.initContainerStatuses[].stopSignal",
                "status.ephemeralContainerStatuses[].stopSignal",
            ],
        ),
    ),
    (
        "",
        "Pod",
        (
            "ImageVolumeWithDigest",
            &[
                "status.containerStatuses[].volumeMounts[].volumeStatus",
                "status.initContainerStatuses[].volumeMounts[].volumeStatus",
                "status.ephemeralContainerStatuses[].volumeMounts[].volumeStatus",
            ],
        ),
    ),
    ("", "PersistentVolumeClaim", ("CrossNamespaceVolumeDataSource", &["spec.dataSourceRef.namespace"])),
    ("storage.k8s.io", "CSIDriver", ("VolumeLimitScaling", &["spec.preventPodSchedulingIfMissing"])),
    (
        "apiextensions.k8s.io",
        "CustomResourceDefinition",
        ("CRDObservedGenerationTracking", &["status.observedGeneration", "status.conditions[].observedGeneration"]),
    ),
    ("coordination.k8s.io", "Lease", ("CoordinatedLeaderElection", &["spec.strategy", "spec.preferredHolder"])),
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

fn drop_one(cx: &Cx<'_>, (gate, paths): Gated, obj: &mut Value, old: &Value) {
    if cx.features.enabled(gate, false) || paths.iter().any(|path| has(old, path)) {
        return;
    }
    for path in paths.iter().filter(|path| has(obj, path)).collect::<Vec<_>>() {
        remove(obj, path);
    }
}

/// The field of the first step of a path.
fn field_of(step: &str) -> &str {
    step.trim_end_matches("[]").trim_end_matches('?')
}

/// The first step of a path and the rest.
fn split(path: &str) -> (&str, Option<&str>) {
    path.split_once('.').map_or((path, None), |(first, rest)| (first, Some(rest)))
}

fn has(v: &Value, path: &str) -> bool {
    let (step, rest) = split(path);
    let here = at(v, &[field_of(step)]);
    let deeper = |v: &Value| rest.map_or(!v.is_null(), |rest| has(v, rest));
    if step.ends_with("[]") { here.as_array().is_some_and(|list| list.iter().any(deeper)) } else { deeper(here) }
}

fn remove(v: &mut Value, path: &str) {
    let (step, rest) = split(path);
    let field = field_of(step);
    let Some(rest) = rest else {
        crate::object::remove(v, &[field]);
        return;
    };
    let is_list = step.ends_with("[]");
    match at_mut(v, &[field]) {
        Some(Value::Array(list)) if is_list => list.iter_mut().for_each(|v| remove(v, rest)),
        Some(deeper) if !is_list => {
            remove(deeper, rest);
            if step.ends_with('?') && deeper.as_object().is_some_and(|map| map.is_empty()) {
                crate::object::remove(v, &[field]);
            }
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::kind::Features;
    use crate::schema::Type;

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
    fn a_stop_signal_in_one_container_is_in_use_in_all() {
        let pod = |init: Value, main: Value| json!({"spec": {"initContainers": [{"lifecycle": init}], "containers": [{"lifecycle": main}]}});
        let kind = crate::core::pod::Pod;
        let signal = json!({"stopSignal": "SIGUSR1"});
        let hook = json!({"stopSignal": "SIGUSR1", "preStop": {"sleep": {"seconds": 1}}});
        let asked = pod(signal.clone(), hook.clone());
        assert_eq!(
            dropped(&kind, &[], asked.clone(), None),
            json!({"spec": {"initContainers": [{}], "containers": [{"lifecycle": {"preStop": {"sleep": {"seconds": 1}}}}]}})
        );
        assert_eq!(dropped(&kind, &[], asked.clone(), Some(&pod(Value::Null, signal))), asked);
        assert_eq!(dropped(&kind, &["ContainerStopSignals"], asked.clone(), None), asked);
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
        let check = |ty: Type, path: &str| {
            let mut ty = ty;
            for step in path.split('.') {
                let field = ty.field(field_of(step));
                let field = field.unwrap_or_else(|| panic!("{path}: no {step} in {}", ty.name()));
                let last = path.ends_with(step);
                assert!(last || field.is_list() == step.ends_with("[]"), "{path}: {step}");
                ty = field.ty();
            }
        };
        let pod_spec = Type::named("k8s.io/api/core/v1.PodSpec").expect("a type");
        POD_SPEC.iter().flat_map(|(_, paths)| *paths).for_each(|path| check(pod_spec, path));
        for (group, kind, (_, paths)) in KINDS {
            let ty = Type::of_kind(group, "v1", kind).expect("a type");
            paths.iter().for_each(|path| check(ty, path));
        }
    }
}
