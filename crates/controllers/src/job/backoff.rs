//! How long the next pod waits after failures (`backoff_utils.go`): ten seconds, doubled with each failure in a row,
//! ten minutes at most. The record is read from the pods that are there rather than kept in memory, so that a restart
//! shortens no wait.

use std::sync::Arc;

use jiff::Timestamp;

use super::types::{INDEX_FAILURES, INDEX_IGNORED, Job};
use crate::views::{ContainerStatus, Pod, condition};

/// The first wait after a failure, in seconds, and the longest.
const BACKOFF: (i64, i64) = (10, 600);

/// When a pod ended, as well as it can be told.
pub fn ended_at(pod: &Pod) -> Option<Timestamp> {
    let meta = &pod.metadata;
    from_containers(pod)
        .or_else(|| {
            condition(&pod.status.conditions, "Ready")
                .filter(|c| c.status == "False")
                .and_then(|c| c.last_transition_time)
        })
        .or_else(|| {
            let grace = meta.deletion_grace_period_seconds.unwrap_or(0);
            meta.deletion_timestamp.and_then(|at| Timestamp::from_second(at.as_second() - grace).ok())
        })
        .or(meta.creation_timestamp)
}

/// The last end of a container, if all have ended.
fn from_containers(pod: &Pod) -> Option<Timestamp> {
    let statuses = || pod.status.container_statuses.iter().chain(&pod.status.init_container_statuses);
    let end = |s: &ContainerStatus| s.terminated.as_ref().and_then(|t| t.finished_at);
    if pod.status.container_statuses.is_empty() || statuses().any(|s| end(s).is_none()) {
        return None;
    }
    statuses().filter_map(end).max()
}

/// How long to wait after the failures since the last success, in seconds.
pub fn left(own: &[&Arc<Pod>], job: &Job, now: Timestamp) -> i64 {
    let last_success = own.iter().filter(|p| p.status.phase == "Succeeded").filter_map(|p| ended_at(p)).max();
    let failed = own.iter().filter(|p| job.counts_as_failed(p));
    let after = |at: &Timestamp| last_success.is_none_or(|success| *at > success);
    let failures: Vec<Timestamp> = failed.filter_map(|p| ended_at(p)).filter(after).collect();
    failures.iter().max().map_or(0, |last| wait(failures.len(), *last, now))
}

/// How long to wait until the last failed pod of an index is replaced, in seconds.
pub fn left_of_index(last: &Pod, now: Timestamp) -> i64 {
    let (failures, ignored) = counts(last);
    let failures = usize::try_from(failures.saturating_add(ignored)).unwrap_or(0) + 1;
    ended_at(last).map_or(0, |at| wait(failures, at, now))
}

fn wait(failures: usize, last: Timestamp, now: Timestamp) -> i64 {
    let doublings = u32::try_from(failures.saturating_sub(1)).unwrap_or(u32::MAX).min(10);
    let wait = (BACKOFF.0 << doublings).min(BACKOFF.1);
    (last.as_second() + wait - now.as_second()).max(0)
}

/// How many pods of the index failed before this one: those that count and those that were ignored.
pub fn counts(pod: &Pod) -> (i32, i32) {
    let number =
        |key| pod.metadata.annotation(key).and_then(|n| n.parse::<i32>().ok()).filter(|n| *n >= 0).unwrap_or(0);
    (number(INDEX_FAILURES), number(INDEX_IGNORED))
}
