//! The loop: informers feed it, cycles run in it, bindings run beside it.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use orkd_base::{BoxError, Supervisor, TaskKind};
use orkd_reconcile::{
    Api, ApiError, Event as Change, EventType, Informer, Informers, ObjectRef, Options, Patch, Recorder, Resource, time,
};
use serde::de::IgnoredAny;
use serde_json::json;
use tokio::sync::{Semaphore, mpsc};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use crate::cycle::{Profile, Unfit, schedule};
use crate::framework::Event;
use crate::model::{Condition, Node, Pod};
use crate::nodes::Nodes;
use crate::pod::PodInfo;
use crate::queue::Queue;

/// How many bindings may be on their way.
const BINDINGS: usize = 128;

/// A decision that no informer has confirmed for so long after it was written is forgotten.
const ASSUMED_MOST: Duration = Duration::from_secs(900);

/// What the scheduler needs to know.
#[derive(Clone, Debug)]
pub struct Config {
    /// Pods with this `schedulerName` are its own.
    pub name: String,
}

impl Default for Config {
    fn default() -> Self {
        Config { name: "default-scheduler".into() }
    }
}

enum Message {
    Pod(Change<Pod>),
    Node(Change<Node>),
    /// A binding ended: the pod, the node, and why not.
    Bound(Arc<PodInfo>, Option<ApiError>),
}

struct Scheduler {
    config: Config,
    profile: Profile,
    nodes: Nodes,
    queue: Queue,
    pods: Informer<Pod>,
    api: Api,
    recorder: Recorder,
    supervisor: Supervisor,
    permits: Arc<Semaphore>,
    messages: mpsc::UnboundedSender<Message>,
    start: usize,
    /// Pods whose binding was written and has not been seen yet, with the time to stop waiting for it.
    assumed: HashMap<String, Instant>,
}

/// Runs until `stop`.
///
/// # Errors
/// None at present: what fails is tried again pod by pod.
pub async fn run(
    config: Config,
    informers: Informers,
    api: Api,
    recorder: Recorder,
    supervisor: Supervisor,
    stop: CancellationToken,
) -> Result<(), BoxError> {
    let (messages, mut inbox) = mpsc::unbounded_channel();
    let nodes: Informer<Node> = informers.informer();
    // Pods that have ended hold nothing: they are not read at all.
    let pods: Informer<Pod> = informers.informer_with(Options::fields("status.phase!=Succeeded,status.phase!=Failed"));
    let (one, two) = (messages.clone(), messages.clone());
    nodes.subscribe(move |change| drop(one.send(Message::Node(change.clone()))));
    pods.subscribe(move |change| drop(two.send(Message::Pod(change.clone()))));
    tokio::select! {
        () = stop.cancelled() => return Ok(()),
        () = async { nodes.synced().await; pods.synced().await } => {}
    }
    let mut scheduler = Scheduler {
        config,
        profile: Profile::default(),
        nodes: Nodes::default(),
        queue: Queue::default(),
        pods,
        api,
        recorder,
        supervisor,
        permits: Arc::new(Semaphore::new(BINDINGS)),
        messages,
        start: 0,
        assumed: HashMap::new(),
    };
    loop {
        // What is known goes in first, so that a cycle sees as much as there is.
        while let Ok(message) = inbox.try_recv() {
            scheduler.take(message);
        }
        let now = Instant::now();
        if scheduler.queue.has_active(now) {
            let permit = tokio::select! {
                biased;
                () = stop.cancelled() => return Ok(()),
                permit = scheduler.permits.clone().acquire_owned() => permit?,
            };
            scheduler.cycle(now, permit);
            // Other tasks of the process get their turn in a long row of cycles.
            tokio::task::consume_budget().await;
            continue;
        }
        let deadline =
            scheduler.queue.next_deadline().into_iter().chain(scheduler.assumed.values().min().copied()).min();
        let timer = async {
            match deadline {
                Some(at) => tokio::time::sleep_until(at).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            () = stop.cancelled() => return Ok(()),
            message = inbox.recv() => match message {
                Some(message) => scheduler.take(message),
                None => return Ok(()),
            },
            () = timer => {
                let now = Instant::now();
                scheduler.queue.flush(now);
                scheduler.expire(now);
            }
        }
    }
}

impl Scheduler {
    fn take(&mut self, message: Message) {
        match message {
            Message::Node(Change::Deleted(node)) => self.nodes.remove_node(&node.metadata.name),
            Message::Node(change) => {
                let node = change.object();
                let change = self.nodes.set_node(node);
                let Some(position) = self.nodes.position(&node.metadata.name) else { return };
                if !change.is_none() {
                    self.tell(Event::Node { position, change });
                }
            }
            Message::Pod(Change::Deleted(pod)) => self.gone(&pod),
            Message::Pod(change) => {
                let pod = change.object();
                if pod.has_ended() { self.gone(pod) } else { self.pod(pod, change.old()) }
            }
            Message::Bound(pod, None) => {
                self.queue.remove(&pod.uid);
                if self.pods.get(&pod.key).is_none_or(|p| p.spec.node_name.is_empty()) {
                    self.assumed.insert(pod.uid.clone(), Instant::now() + ASSUMED_MOST);
                }
            }
            Message::Bound(pod, Some(error)) => self.not_bound(pod, &error),
        }
    }

    fn pod(&mut self, pod: &Arc<Pod>, old: Option<&Arc<Pod>>) {
        let info = Arc::new(PodInfo::new(pod));
        if !pod.spec.node_name.is_empty() {
            self.queue.remove(&info.uid);
            self.assumed.remove(&info.uid);
            self.nodes.place(info, &pod.spec.node_name);
            return;
        }
        if pod.spec.scheduler_name != self.config.name || pod.metadata.is_deleting() {
            self.queue.remove(&info.uid);
            return;
        }
        if !pod.spec.scheduling_gates.is_empty() || self.nodes.node_of(&info.uid).is_some() {
            // Gated, or decided already and on its way.
            return;
        }
        // A status that the scheduler itself wrote is no reason to try again.
        let same = old.is_some_and(|old| {
            old.metadata.generation == pod.metadata.generation
                && old.metadata.labels == pod.metadata.labels
                && old.spec.scheduling_gates.is_empty()
        });
        if same && self.queue.get(&info.uid).is_some() {
            self.queue.refresh(info);
        } else if !same {
            self.queue.add(info);
        }
    }

    fn gone(&mut self, pod: &Pod) {
        let uid = &pod.metadata.uid;
        self.queue.remove(uid);
        self.assumed.remove(uid);
        if self.nodes.unplace(uid).is_some() {
            self.tell(Event::PodGone(&PodInfo::new(pod)));
        }
    }

    fn tell(&mut self, event: Event<'_>) {
        let (filters, nodes) = (&self.profile.filters, &self.nodes);
        self.queue.on_event(Instant::now(), |pod, plugin| {
            filters.iter().any(|f| f.name() == plugin && f.may_help(event, pod, nodes))
        });
    }

    /// Tries the next pod.
    fn cycle(&mut self, now: Instant, permit: tokio::sync::OwnedSemaphorePermit) {
        let Some(pod) = self.queue.pop(now) else { return };
        match schedule(&self.profile, &self.nodes, &pod, &mut self.start, rand::random::<u32>() as usize) {
            Ok(position) => {
                let node = self.nodes.names[position].clone();
                self.nodes.place(pod.clone(), &node);
                self.bind(pod, node, permit);
            }
            Err(unfit) => {
                self.refused(&pod, &unfit);
                self.queue.failed(pod, unfit.plugins, now);
            }
        }
    }

    fn bind(&self, pod: Arc<PodInfo>, node: Arc<str>, permit: tokio::sync::OwnedSemaphorePermit) {
        let (api, messages, recorder) = (self.api.clone(), self.messages.clone(), self.recorder.clone());
        self.supervisor.spawn(TaskKind::Worker, "bind", move |_| async move {
            let _permit = permit;
            let key = &pod.key;
            let result = api.bind(&key.namespace, &key.name, &pod.uid, &node).await;
            if result.is_ok() {
                let message = format!("Successfully assigned {key} to {node}");
                recorder.event(&reference(&pod), EventType::Normal, "Scheduled", message);
                debug!(pod = %key, %node, "bound pod");
            }
            // The loop has ended: nobody waits for the answer.
            let _ = messages.send(Message::Bound(pod, result.err()));
        });
    }

    fn not_bound(&mut self, pod: Arc<PodInfo>, error: &ApiError) {
        self.nodes.unplace(&pod.uid);
        let current = self.pods.get(&pod.key).filter(|p| p.metadata.uid == pod.uid);
        match current {
            Some(current) if current.spec.node_name.is_empty() => {
                warn!(pod = %pod.key, error = %error, "cannot bind pod, trying again");
                self.queue.failed(pod, vec![], Instant::now());
            }
            // Bound by someone else.
            Some(current) => self.nodes.place(Arc::new(PodInfo::new(&current)), &current.spec.node_name),
            None => self.queue.remove(&pod.uid),
        }
    }

    /// Tells why a pod is not scheduled: condition and event.
    fn refused(&self, pod: &Arc<PodInfo>, unfit: &Unfit) {
        let message = unfit.message();
        self.recorder.event(&reference(pod), EventType::Warning, "FailedScheduling", message.clone());
        let conditions = self.pods.get(&pod.key).map(|p| p.status.conditions.clone()).unwrap_or_default();
        let Some(condition) = condition(&conditions, &message, pod.generation, Timestamp::now()) else { return };
        let (api, pod) = (self.api.clone(), pod.clone());
        self.supervisor.spawn(TaskKind::Worker, "pod condition", move |_| async move {
            let target = Resource::of::<Pod>().at(&pod.key.namespace, &pod.key.name).sub("status");
            let body = json!({"metadata": {"uid": pod.uid}, "status": {"conditions": [condition]}});
            match api.patch::<IgnoredAny>(&target, &Patch::Strategic(body)).await {
                Err(e) if !e.is_not_found() && !e.is_conflict() => {
                    warn!(pod = %pod.key, error = %e, "cannot write the pod's condition");
                }
                _ => {}
            }
        });
    }

    /// Forgets decisions that were written long ago and never seen.
    fn expire(&mut self, now: Instant) {
        let due: Vec<String> = self.assumed.iter().filter(|(_, at)| **at <= now).map(|(uid, _)| uid.clone()).collect();
        for uid in due {
            self.assumed.remove(&uid);
            self.nodes.unplace(&uid);
        }
    }
}

fn reference(pod: &PodInfo) -> ObjectRef {
    let meta = orkd_reconcile::Meta {
        name: pod.key.name.clone(),
        namespace: pod.key.namespace.clone(),
        uid: pod.uid.clone(),
        resource_version: pod.resource_version.clone(),
        ..Default::default()
    };
    ObjectRef::new(&Resource::of::<Pod>(), &meta)
}

/// The condition to write; `None` where it says so already.
fn condition(now_there: &[Condition], message: &str, generation: i64, now: Timestamp) -> Option<serde_json::Value> {
    let known = now_there.iter().find(|c| c.ty == "PodScheduled");
    if known.is_some_and(|c| c.status == "False" && c.reason == "Unschedulable" && c.message == message) {
        return None;
    }
    let since = known.filter(|c| c.status == "False").and_then(|c| c.last_transition_time.clone());
    let mut condition = json!({
        "type": "PodScheduled",
        "status": "False",
        "reason": "Unschedulable",
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
        let first = condition(&[], "m", 1, now).expect("nothing is there");
        assert_eq!(first["lastTransitionTime"], "1970-01-01T00:00:00Z");
        let there = Condition {
            ty: "PodScheduled".into(),
            status: "False".into(),
            reason: "Unschedulable".into(),
            message: "m".into(),
            last_transition_time: Some("2000-01-01T00:00:00Z".into()),
        };
        assert_eq!(condition(std::slice::from_ref(&there), "m", 1, now), None);
        let other = condition(&[there], "n", 1, now).expect("another text");
        assert_eq!(other["lastTransitionTime"], "2000-01-01T00:00:00Z");
    }
}
