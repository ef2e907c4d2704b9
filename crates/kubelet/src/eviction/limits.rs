//! Limits of what a pod may write to the node's disk: those of its emptyDir volumes, its containers, and all of it (pure).
//!
//! Follows `localStorageEviction` of upstream's `pkg/kubelet/eviction/eviction_manager.go`. What is measured is seldom the
//! newest: a pod may write more before it is noticed.

use k8s_openapi::api::core::v1::{EmptyDirVolumeSource, Pod};
use orkd_api::quantity::Quantity;

use super::thresholds::Signal;
use super::usage::PodUsage;
use crate::{pod, resources};

const STORAGE: &str = "ephemeral-storage";

/// A limit that was exceeded.
#[derive(Debug, PartialEq, Eq)]
pub struct Exceeded {
    /// What the limit is called in metrics.
    pub signal: &'static str,
    /// What the pod is told.
    pub message: String,
}

/// The limit of a volume, as it is said and in bytes.
fn size_limit(source: &EmptyDirVolumeSource) -> Option<(Quantity, i64)> {
    let limit: Quantity = source.size_limit.as_ref()?.0.parse().ok()?;
    (limit.sign() > 0).then(|| (limit, limit.value()))
}

/// Whether a pod has limits at all: only then it has to be measured.
pub fn has_limits(object: &Pod) -> bool {
    let spec = pod::spec(object);
    let volumes = spec.volumes.iter().flatten().filter_map(|v| v.empty_dir.as_ref());
    volumes.into_iter().any(|v| size_limit(v).is_some()) || resources::pod_limit(&spec, STORAGE).is_some()
}

/// The first limit that a pod exceeds.
pub fn exceeded(object: &Pod, usage: &PodUsage, images_apart: bool) -> Option<Exceeded> {
    let spec = pod::spec(object);
    let is_more = |used: u64, limit: i64| i64::try_from(used).unwrap_or(i64::MAX) > limit;
    for volume in spec.volumes.iter().flatten() {
        let Some((limit, bytes)) = volume.empty_dir.as_ref().and_then(size_limit) else { continue };
        let used = usage.volumes.iter().find(|u| u.name == volume.name);
        if used.is_some_and(|used| is_more(used.held.bytes, bytes)) {
            let message = format!("Usage of EmptyDir volume {:?} exceeds the limit \"{limit}\". ", volume.name);
            return Some(Exceeded { signal: "emptydirfs.limit", message });
        }
    }
    // All of it, wherever that is.
    if let Some(limit) = resources::pod_limit(&spec, STORAGE)
        && is_more(usage.disk(Signal::NodeFs, false).bytes, limit)
    {
        let limit = Quantity::from_bytes(limit);
        let message = format!("Pod ephemeral local storage usage exceeds the total limit of containers {limit}. ");
        return Some(Exceeded { signal: "ephemeralpodfs.limit", message });
    }
    for container in &spec.containers {
        let limit = resources::limit(container.resources.as_ref(), STORAGE);
        let Some(limit) = limit.and_then(|q| q.0.parse::<Quantity>().ok()).filter(|q| !q.is_zero()) else { continue };
        let Some(used) = usage.containers.iter().find(|u| u.name == container.name) else { continue };
        let layer = used.rootfs.filter(|_| !images_apart).unwrap_or_default().bytes;
        if is_more(layer + used.logs.unwrap_or_default().bytes, limit.value()) {
            let name = &container.name;
            let message = format!("Container {name} exceeded its local ephemeral storage limit \"{limit}\". ");
            return Some(Exceeded { signal: "ephemeralcontainerfs.limit", message });
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::super::usage::{ContainerUsage, VolumeUsage};
    use super::*;
    use crate::stats::disk::Held;

    const KI: u64 = 1024;

    /// A pod of containers a and b with limits and a volume, and what those use: layers, logs, the volume.
    fn check(limits: [Value; 2], size: Value, used: [u64; 5], images_apart: bool, expected: Option<&str>) {
        let [a, b] = limits.map(|limit| json!({"limits": limit}));
        let pod: Pod = serde_json::from_value(json!({"spec": {
            "containers": [{"name": "a", "resources": a}, {"name": "b", "resources": b}],
            "volumes": [{"name": "v", "emptyDir": {"sizeLimit": size}}]}}))
        .expect("a pod");
        let held = |bytes: u64| Held { bytes, inodes: 1 };
        let container = |name: &str, layer: u64, logs: u64| ContainerUsage {
            name: name.into(),
            memory: None,
            rootfs: Some(held(layer)),
            logs: Some(held(logs)),
        };
        let usage = PodUsage {
            containers: vec![container("a", used[0], used[1]), container("b", used[2], used[3])],
            volumes: vec![VolumeUsage { name: "v".into(), held: held(used[4]), on_disk: true }],
            ..PodUsage::default()
        };
        let got = exceeded(&pod, &usage, images_apart).map(|e| e.message);
        assert_eq!(got.as_deref(), expected, "{used:?}");
        assert!(has_limits(&pod) || expected.is_none());
    }

    #[test]
    fn limits_are_of_volumes_of_the_pod_and_of_containers() {
        let none = || [json!({}), json!({})];
        let limit = |text: &str| json!({"ephemeral-storage": text});
        check(none(), json!(null), [KI, KI, KI, KI, KI], false, None);
        check(none(), json!("4Ki"), [9 * KI, 0, 0, 0, 4 * KI], false, None);
        let text = "Usage of EmptyDir volume \"v\" exceeds the limit \"4Ki\". ";
        check(none(), json!("4Ki"), [0, 0, 0, 0, 4 * KI + 1], false, Some(text));
        // No limit is meant by nothing.
        check(none(), json!("0"), [0, 0, 0, 0, KI], false, None);
        let text = "Container a exceeded its local ephemeral storage limit \"2Ki\". ";
        check([limit("2Ki"), limit("8Ki")], json!(null), [2 * KI, 1, 0, 0, 0], false, Some(text));
        // Layers on a disk of their own do not count, except for the pod.
        check([limit("2Ki"), limit("8Ki")], json!(null), [2 * KI, 1, 0, 0, 0], true, None);
        let text = "Pod ephemeral local storage usage exceeds the total limit of containers 10Ki. ";
        check([limit("2Ki"), limit("8Ki")], json!(null), [KI, KI, KI, KI, 7 * KI], false, Some(text));
        // As upstream: what a container without a limit writes counts against the others' limits.
        let text = "Pod ephemeral local storage usage exceeds the total limit of containers 2Ki. ";
        check([limit("2Ki"), json!({})], json!(null), [0, 0, 3 * KI, 0, 0], false, Some(text));
    }

    #[test]
    fn a_pod_without_limits_is_not_measured() {
        let pod = json!({"spec": {"containers": [{"name": "a"}], "volumes": [{"name": "v", "emptyDir": {}}]}});
        assert!(!has_limits(&serde_json::from_value(pod).expect("a pod")));
    }
}
