//! The status of a deployment and its conditions (`pkg/controller/deployment/{progress,sync}.go`).

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;

use super::scale;
use crate::views::{Condition, Deployment, DeploymentStatus, ReplicaSet, condition};

/// Progress, as kubectl's `rollout status` reads it.
pub const PROGRESSING: &str = "Progressing";
const AVAILABLE: &str = "Available";
const REPLICA_FAILURE: &str = "ReplicaFailure";

/// Reasons of [`PROGRESSING`].
pub const NEW_SET_AVAILABLE: &str = "NewReplicaSetAvailable";
const UPDATED: &str = "ReplicaSetUpdated";
const CREATED: &str = "NewReplicaSetCreated";
const FOUND: &str = "FoundNewReplicaSet";
const TIMED_OUT: &str = "ProgressDeadlineExceeded";
pub const FAILED_CREATE: &str = "ReplicaSetCreateError";
const PAUSED: &str = "DeploymentPaused";
const RESUMED: &str = "DeploymentResumed";

/// Whether roll-outs have a deadline; the largest number means none.
pub fn has_deadline(deployment: &Deployment) -> bool {
    deployment.spec.progress_deadline_seconds.is_some_and(|s| s != i32::MAX)
}

/// A condition that begins now.
fn begin(kind: &str, status: &str, reason: &str, message: String, now: Timestamp) -> Condition {
    let now = Timestamp::from_second(now.as_second()).unwrap_or(now);
    Condition {
        kind: kind.into(),
        status: status.into(),
        reason: reason.into(),
        message,
        last_update_time: Some(now),
        last_transition_time: Some(now),
        ..Condition::default()
    }
}

/// Sets a condition; one of the same status and reason stays as it is, the transition time of one of the same
/// status is kept (`SetDeploymentCondition`).
fn set(conditions: &mut Vec<Condition>, mut new: Condition) {
    if let Some(old) = condition(conditions, &new.kind) {
        if old.status == new.status && old.reason == new.reason {
            return;
        }
        if old.status == new.status {
            new.last_transition_time = old.last_transition_time;
        }
    }
    conditions.retain(|c| c.kind != new.kind);
    conditions.push(new);
}

/// The condition after a new replica set was made or found.
pub fn with_new_set(deployment: &Deployment, status: &mut DeploymentStatus, name: &str, made: bool, now: Timestamp) {
    if !has_deadline(deployment) {
        return;
    }
    if made {
        let text = format!("Created new replica set {name:?}");
        set(&mut status.conditions, begin(PROGRESSING, "True", CREATED, text, now));
    } else if condition(&status.conditions, PROGRESSING).is_none() {
        let text = format!("Found new replica set {name:?}");
        set(&mut status.conditions, begin(PROGRESSING, "True", FOUND, text, now));
    }
}

/// The status after the new replica set could not be made.
pub fn with_creation_failure(
    deployment: &Deployment,
    planned: Option<DeploymentStatus>,
    text: String,
    now: Timestamp,
) -> Option<DeploymentStatus> {
    if !has_deadline(deployment) {
        return planned;
    }
    let mut status = DeploymentStatus {
        conditions: deployment.status.conditions.clone(),
        ..planned.unwrap_or_else(|| deployment.status.clone())
    };
    set(&mut status.conditions, begin(PROGRESSING, "False", FAILED_CREATE, text, now));
    Some(status)
}

/// The condition of a pause or its end; `None` when nothing changes.
pub fn pause_change(deployment: &Deployment, now: Timestamp) -> Option<Condition> {
    if !has_deadline(deployment) {
        return None;
    }
    let current = condition(&deployment.status.conditions, PROGRESSING);
    if current.is_some_and(|c| c.reason == TIMED_OUT) {
        return None;
    }
    let paused = current.is_some_and(|c| c.reason == PAUSED);
    match (deployment.spec.paused, paused) {
        (true, false) => Some(begin(PROGRESSING, "Unknown", PAUSED, "Deployment is paused".into(), now)),
        (false, true) => Some(begin(PROGRESSING, "Unknown", RESUMED, "Deployment is resumed".into(), now)),
        _ => None,
    }
}

/// Applies [`pause_change`].
pub fn apply(status: &mut DeploymentStatus, change: Condition) {
    set(&mut status.conditions, change);
}

/// The counts of the status and the `Available` condition (`calculateStatus`).
pub fn counts(
    deployment: &Deployment,
    all: &[Arc<ReplicaSet>],
    new: Option<&ReplicaSet>,
    now: Timestamp,
) -> DeploymentStatus {
    let sum = |field: fn(&ReplicaSet) -> i32| all.iter().map(|s| field(s)).sum::<i32>();
    let (replicas, available) = (sum(|s| s.status.replicas), sum(|s| s.status.available_replicas));
    let asked = sum(scale::asked);
    let terminating = all.iter().map(|s| s.status.terminating_replicas).sum::<Option<i32>>();
    let mut status = DeploymentStatus {
        observed_generation: deployment.metadata.generation,
        replicas,
        updated_replicas: new.map_or(0, |s| s.status.replicas),
        ready_replicas: sum(|s| s.status.ready_replicas),
        available_replicas: available,
        unavailable_replicas: (asked - available).max(0),
        terminating_replicas: terminating,
        collision_count: deployment.status.collision_count,
        conditions: deployment.status.conditions.clone(),
    };
    let enough = available >= scale::wanted(deployment) - scale::max_unavailable(deployment);
    let available = if enough {
        begin(AVAILABLE, "True", "MinimumReplicasAvailable", "Deployment has minimum availability.".into(), now)
    } else {
        let text = "Deployment does not have minimum availability.";
        begin(AVAILABLE, "False", "MinimumReplicasUnavailable", text.into(), now)
    };
    set(&mut status.conditions, available);
    status
}

/// Whether all pods are of the newest template and available (`DeploymentComplete`).
pub fn is_complete(deployment: &Deployment, status: &DeploymentStatus) -> bool {
    let wanted = scale::wanted(deployment);
    status.updated_replicas == wanted
        && status.replicas == wanted
        && status.available_replicas == wanted
        && status.observed_generation >= deployment.metadata.generation
}

fn is_progressing(old: &DeploymentStatus, new: &DeploymentStatus) -> bool {
    let old_old = old.replicas - old.updated_replicas;
    let new_old = new.replicas - new.updated_replicas;
    new.updated_replicas > old.updated_replicas
        || new_old < old_old
        || new.ready_replicas > old.ready_replicas
        || new.available_replicas > old.available_replicas
}

/// The status of a roll-out (`syncRolloutStatus`), and when to look again whether its deadline has passed.
pub fn rollout(
    deployment: &Deployment,
    all: &[Arc<ReplicaSet>],
    new: Option<&ReplicaSet>,
    now: Timestamp,
) -> (DeploymentStatus, Option<Duration>) {
    let mut status = counts(deployment, all, new, now);
    if !has_deadline(deployment) {
        status.conditions.retain(|c| c.kind != PROGRESSING);
    }
    let current = condition(&deployment.status.conditions, PROGRESSING).cloned();
    let settled =
        status.replicas == status.updated_replicas && current.as_ref().is_some_and(|c| c.reason == NEW_SET_AVAILABLE);
    if has_deadline(deployment) && !settled {
        let about = |what: &str| match new {
            Some(set) => format!("ReplicaSet {:?} {what}", &*set.metadata.name),
            None => format!("Deployment {:?} {what}", &*deployment.metadata.name),
        };
        if is_complete(deployment, &status) {
            let text = about("has successfully progressed.");
            set(&mut status.conditions, begin(PROGRESSING, "True", NEW_SET_AVAILABLE, text, now));
        } else if is_progressing(&deployment.status, &status) {
            let mut next = begin(PROGRESSING, "True", UPDATED, about("is progressing."), now);
            match &current {
                // The update time is what the deadline is measured from: it moves although the reason stays.
                Some(current) => {
                    if current.status == "True" {
                        next.last_transition_time = current.last_transition_time;
                    }
                    status.conditions.retain(|c| c.kind != PROGRESSING);
                    status.conditions.push(next);
                }
                None => set(&mut status.conditions, next),
            }
        } else if timed_out(deployment, &status, current.as_ref(), now) {
            let text = about("has timed out progressing.");
            set(&mut status.conditions, begin(PROGRESSING, "False", TIMED_OUT, text, now));
        }
    }
    // Failures of replica sets are shown, the new one's first.
    let failure = new
        .into_iter()
        .chain(all.iter().map(Arc::as_ref))
        .find_map(|s| condition(&s.status.conditions, REPLICA_FAILURE));
    match failure {
        Some(failure) => {
            let shown = Condition {
                last_update_time: failure.last_transition_time,
                observed_generation: None,
                ..failure.clone()
            };
            set(&mut status.conditions, shown);
        }
        None => status.conditions.retain(|c| c.kind != REPLICA_FAILURE),
    }
    let again = again(deployment, &status, now);
    (status, again)
}

fn timed_out(deployment: &Deployment, status: &DeploymentStatus, current: Option<&Condition>, now: Timestamp) -> bool {
    let Some(current) = current else { return false };
    if current.reason == NEW_SET_AVAILABLE || is_complete(deployment, status) {
        return false;
    }
    if current.reason == TIMED_OUT {
        return true;
    }
    let deadline = i64::from(deployment.spec.progress_deadline_seconds.unwrap_or(i32::MAX));
    current.last_update_time.is_some_and(|at| at.as_second() + deadline < now.as_second())
}

fn again(deployment: &Deployment, status: &DeploymentStatus, now: Timestamp) -> Option<Duration> {
    if !has_deadline(deployment) || deployment.spec.paused || is_complete(deployment, status) {
        return None;
    }
    let current = condition(&status.conditions, PROGRESSING)?;
    if current.reason == TIMED_OUT || current.reason == NEW_SET_AVAILABLE {
        return None;
    }
    let deadline = i64::from(deployment.spec.progress_deadline_seconds?);
    let left = current.last_update_time?.as_second() + deadline + 1 - now.as_second();
    Some(Duration::from_secs(u64::try_from(left.max(1)).unwrap_or(1)))
}
