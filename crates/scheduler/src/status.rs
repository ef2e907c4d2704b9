//! What is written about pods: events, conditions, nominations. Upstream: `handleSchedulingFailure` in
//! `pkg/scheduler/schedule_one.go`, `pkg/scheduler/framework/preemption`.

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::Timestamp;
use orkd_base::{Supervisor, TaskKind};
use orkd_reconcile::{Api, ApiError, DeleteOptions, EventType, ObjectRef, Patch, Recorder, Resource, Target, time};
use serde::de::IgnoredAny;
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tracing::warn;

use crate::feed::Message;
use crate::model::Condition;
use crate::pod::PodInfo;

/// The longest text of an event (`validation.NoteLengthLimit`).
const LONGEST_NOTE: usize = 1024;

/// What writes about pods. Cheap to clone.
#[derive(Clone)]
pub struct Writer {
    /// The API.
    pub api: Api,
    /// Events, by profile; each is told by the scheduler that the pod names.
    pub recorders: Arc<BTreeMap<String, Recorder>>,
    /// What tasks run under.
    pub supervisor: Supervisor,
    /// Back to the loop.
    pub messages: mpsc::UnboundedSender<Message>,
}

/// What becomes of a pod's nomination.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Nomination<'a> {
    /// It stays as it is.
    Keep,
    /// A node, or none.
    Set(&'a str),
    /// None, whatever is known of it: it was written a moment ago.
    Clear,
}

/// The reference to a pod.
pub fn reference(pod: &PodInfo) -> ObjectRef {
    ObjectRef::of(pod)
}

fn target(pod: &PodInfo) -> Target {
    Resource::of::<PodInfo>().at(&pod.meta.namespace, &pod.meta.name)
}

/// Cuts a text to what an event can hold (`truncateMessage`).
fn note(message: &str) -> String {
    if message.len() <= LONGEST_NOTE {
        return message.to_owned();
    }
    let mut end = LONGEST_NOTE - 4;
    while !message.is_char_boundary(end) {
        end -= 1;
    }
    format!("{} ...", &message[..end])
}

impl Writer {
    /// Tells of a pod, as the scheduler that `scheduler` names: a reason, and the action it came of.
    pub fn event(&self, scheduler: &str, about: &PodInfo, ty: EventType, what: (&str, &str), text: String) {
        if let Some(recorder) = self.recorders.get(scheduler) {
            recorder.act(&reference(about), None, ty, what, text);
        }
    }

    /// Tells that a pod goes for the sake of another.
    pub fn preempted(&self, pod: &PodInfo, node: &str, victim: &PodInfo) {
        if let Some(recorder) = self.recorders.get(&pod.template.scheduler_name) {
            let text = format!("Preempted by pod {} on node {node}", pod.uid());
            let (about, of) = (reference(victim), Some(reference(pod)));
            recorder.act(&about, of, EventType::Normal, ("Preempted", "Preempting"), text);
        }
    }

    /// Tells why a pod is not scheduled: event, condition and nomination. `current` is what the API says of the pod.
    pub fn refused(&self, pod: &PodInfo, current: &PodInfo, reason: &str, message: &str, nomination: Nomination<'_>) {
        let what = ("FailedScheduling", "Scheduling");
        self.event(&pod.template.scheduler_name, pod, EventType::Warning, what, note(message));
        let condition = condition(&current.conditions, reason, message, current.meta.generation, Timestamp::now());
        let mut status = serde_json::Map::new();
        if let Some(condition) = condition {
            status.insert("conditions".into(), json!([condition]));
        }
        let nominated = match nomination {
            Nomination::Set(node) if node != current.nominated => Some(node),
            Nomination::Clear => Some(""),
            Nomination::Set(_) | Nomination::Keep => None,
        };
        if let Some(node) = nominated {
            status.insert("nominatedNodeName".into(), if node.is_empty() { Value::Null } else { node.into() });
        }
        self.patch_status(pod, status);
    }

    /// Says which node a pod is on its way to, when that takes a while: who adds and removes nodes wants to know
    /// (`NominatedNodeNameForExpectation`). It goes on if it cannot be said.
    pub async fn expect(&self, pod: &PodInfo, node: &str) {
        let body = json!({"metadata": {"uid": pod.uid()}, "status": {"nominatedNodeName": node}});
        let written = self.api.patch::<IgnoredAny>(&target(pod).sub("status"), &Patch::Strategic(body)).await;
        if let Err(error) = written {
            warn!(pod = %pod.key(), %error, "cannot say where the pod is to go");
        }
    }

    /// Takes back a pod's nomination.
    pub fn clear_nomination(&self, pod: &PodInfo) {
        self.patch_status(pod, serde_json::Map::from_iter([("nominatedNodeName".to_owned(), Value::Null)]));
    }

    fn patch_status(&self, pod: &PodInfo, status: serde_json::Map<String, Value>) {
        if status.is_empty() {
            return;
        }
        let (api, target, key) = (self.api.clone(), target(pod).sub("status"), pod.key());
        let body = json!({"metadata": {"uid": pod.uid()}, "status": status});
        self.supervisor.spawn(TaskKind::Worker, "pod condition", move |_| async move {
            match api.patch::<IgnoredAny>(&target, &Patch::Strategic(body)).await {
                Err(e) if !e.is_not_found() && !e.is_conflict() => {
                    warn!(pod = %key, error = %e, "cannot write the pod's condition");
                }
                _ => {}
            }
        });
    }

    /// Removes victims of a pod, all at once; then says so.
    pub fn preempt(&self, pod: &Arc<PodInfo>, node: &str, victims: Vec<Arc<PodInfo>>) {
        let (writer, pod, node) = (self.clone(), pod.clone(), node.to_owned());
        self.supervisor.spawn(TaskKind::Worker, "preempt", move |_| async move {
            let all = victims.iter().map(|victim| writer.evict(&pod, &node, victim));
            let results = futures_util::future::join_all(all).await;
            let mut done = true;
            for (victim, result) in victims.iter().zip(results) {
                if let Err(e) = result {
                    warn!(pod = %pod.key(), victim = %victim.key(), error = %e, "cannot preempt");
                    done = false;
                }
            }
            // The loop has ended: nobody waits for the answer.
            let _ = writer.messages.send(Message::Preempted(pod.uid().to_owned(), done));
        });
    }

    async fn evict(&self, pod: &PodInfo, node: &str, victim: &PodInfo) -> Result<(), ApiError> {
        let gone = |e: ApiError| if e.is_not_found() { Ok(()) } else { Err(e) };
        let mut condition = json!({
            "type": "DisruptionTarget",
            "status": "True",
            "reason": "PreemptionByScheduler",
            "message": format!("{}: preempting to accommodate a higher priority pod", pod.template.scheduler_name),
            "lastProbeTime": null,
            "lastTransitionTime": time(Timestamp::now()),
        });
        if victim.meta.generation > 0 {
            condition["observedGeneration"] = json!(victim.meta.generation);
        }
        let body = json!({"metadata": {"uid": victim.uid()}, "status": {"conditions": [condition]}});
        let at = target(victim);
        if let Err(e) = self.api.patch::<IgnoredAny>(&at.sub("status"), &Patch::Strategic(body)).await {
            return gone(e);
        }
        if let Err(e) = self.api.delete(&at, &DeleteOptions::default().uid(victim.uid())).await {
            return gone(e);
        }
        self.preempted(pod, node, victim);
        Ok(())
    }
}

/// The condition to write; `None` where it says so already.
fn condition(there: &[Condition], reason: &str, message: &str, generation: i64, now: Timestamp) -> Option<Value> {
    let known = there.iter().find(|c| c.ty == "PodScheduled");
    if known.is_some_and(|c| c.status == "False" && c.reason == reason && c.message == message) {
        return None;
    }
    let since = known.filter(|c| c.status == "False").and_then(|c| c.last_transition_time.clone());
    let mut condition = json!({
        "type": "PodScheduled",
        "status": "False",
        "reason": reason,
        "message": message,
        "lastProbeTime": null,
        "lastTransitionTime": since.unwrap_or_else(|| time(now)),
    });
    if generation > 0 {
        condition["observedGeneration"] = json!(generation);
    }
    Some(condition)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_condition_is_written_when_it_says_something_new() {
        let now = Timestamp::UNIX_EPOCH;
        let first = condition(&[], "Unschedulable", "m", 1, now).expect("nothing is there");
        assert_eq!(first["lastTransitionTime"], "1970-01-01T00:00:00Z");
        let there = Condition {
            ty: "PodScheduled".into(),
            status: "False".into(),
            reason: "Unschedulable".into(),
            message: "m".into(),
            last_transition_time: Some("2000-01-01T00:00:00Z".into()),
        };
        assert_eq!(condition(std::slice::from_ref(&there), "Unschedulable", "m", 1, now), None);
        let other = condition(&[there], "Unschedulable", "n", 1, now).expect("another text");
        assert_eq!(other["lastTransitionTime"], "2000-01-01T00:00:00Z");
    }

    #[test]
    fn long_texts_are_cut() {
        assert_eq!(note("short"), "short");
        let cut = note(&"ü".repeat(1000));
        assert!(cut.len() <= LONGEST_NOTE && cut.ends_with("ü ..."));
    }
}
