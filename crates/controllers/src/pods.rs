//! What pods are, to controllers (`pkg/controller/controller_utils.go`, `pkg/api/v1/pod`).

use jiff::Timestamp;

use crate::views::{Pod, condition};

/// Whether a pod counts: neither ended nor being deleted.
pub fn is_active(pod: &Pod) -> bool {
    !is_terminal(pod) && !pod.metadata.is_deleting()
}

/// Whether a pod has ended for good.
pub fn is_terminal(pod: &Pod) -> bool {
    matches!(pod.status.phase.as_str(), "Succeeded" | "Failed")
}

/// Whether a pod is ready.
pub fn is_ready(pod: &Pod) -> bool {
    condition(&pod.status.conditions, "Ready").is_some_and(|c| c.status == "True")
}

/// Since when a pod is ready; `None` if it is not.
pub fn ready_since(pod: &Pod) -> Option<Timestamp> {
    let ready = condition(&pod.status.conditions, "Ready").filter(|c| c.status == "True")?;
    ready.last_transition_time
}

/// Whether a pod has been ready for long enough.
pub fn is_available(pod: &Pod, min_ready_seconds: i32, now: Timestamp) -> bool {
    is_ready(pod) && (min_ready_seconds == 0 || available_in(pod, min_ready_seconds, now) == Some(0))
}

/// In how many seconds a ready pod becomes available; 0 if it is.
pub fn available_in(pod: &Pod, min_ready_seconds: i32, now: Timestamp) -> Option<i64> {
    let since = ready_since(pod)?;
    Some((since.as_second() + i64::from(min_ready_seconds) - now.as_second()).max(0))
}

/// The order in which pods are given up (`ActivePodsWithRanks`): the first to go is the least.
/// `related` says how many pods of the same owner run on the pod's node.
pub fn deletion_rank(pod: &Pod, related: usize, now: Timestamp) -> impl Ord + use<> {
    let phase = match pod.status.phase.as_str() {
        "Pending" => 0,
        "Unknown" => 1,
        _ => 2,
    };
    let cost: i32 =
        pod.metadata.annotation("controller.kubernetes.io/pod-deletion-cost").and_then(|c| c.parse().ok()).unwrap_or(0);
    let restarts = pod.status.container_statuses.iter().map(|c| c.restart_count).max().unwrap_or(0);
    (
        !pod.spec.node_name.is_empty(),
        phase,
        is_ready(pod),
        cost,
        std::cmp::Reverse(related),
        ready_since(pod).map(|since| age_class(since, now)),
        std::cmp::Reverse(restarts),
        pod.metadata.creation_timestamp.map(|since| age_class(since, now)),
        pod.metadata.uid.clone(),
    )
}

/// The binary logarithm of an age: pods of like age are told apart by chance (their uid), not by seconds.
fn age_class(since: Timestamp, now: Timestamp) -> i64 {
    let age = now.as_nanosecond() - since.as_nanosecond();
    if age > 0 { i64::from(age.ilog2()) } else { -1 }
}
