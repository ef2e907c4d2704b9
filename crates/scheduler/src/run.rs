//! The loop: informers feed it, cycles run in it, bindings run beside it.

mod binding;
mod extenders;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use orkd_base::{BoxError, Supervisor, TaskKind};
use orkd_reconcile::{Api, Event as Change, EventType, Informer, Informers, Recorder};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use binding::Assumed;

use crate::bind_claims::ClaimBinder;
use crate::bind_volumes::Binder;
use crate::config::Config;
use crate::cycle::{Algorithm, Found, NotFound, Prepared, Unfit, best, cheapest};
use crate::extender::Extender;
use crate::feed::{Bound, Feed, Message};
use crate::framework::{Act, Candidate, Deed, Denied, Event, Permit, Point, PostFilter};
use crate::metrics::{self, Levels, Outcome};
use crate::model::{CsiNode, DeviceClaimStatus, ResourceClaim};
use crate::plugins::{Doors, default_preemption};
use crate::pod::PodInfo;
use crate::queue::Queue;
use crate::status::{Nomination, Writer};
use crate::waiting::{Rejection, WaitingPod};

/// How many bindings may be on their way. More of them keep no core busier, and an API server lets no more than 200 changes
/// in at once (`--max-mutating-requests-inflight`), of whomever: what is beyond it comes back with 429.
const BINDINGS: usize = 64;

/// A decision that no informer has confirmed for so long after it was written is forgotten.
const ASSUMED_MOST: Duration = Duration::from_secs(900);

/// Why a condition says that a pod was not scheduled.
const UNSCHEDULABLE: &str = "Unschedulable";
const SCHEDULER_ERROR: &str = "SchedulerError";

/// What stands for an extender where a plugin's name does: any event may help a pod that it refused.
const EXTENDER: &str = "Extender";

struct Scheduler {
    algorithm: Algorithm,
    extenders: Vec<Extender>,
    queue: Queue,
    pods: Informer<PodInfo>,
    writer: Writer,
    permits: Arc<Semaphore>,
    assumed: Assumed,
    levels: Arc<Levels>,
}

/// Runs until `stop`; events tell of the host that it runs on.
///
/// # Errors
/// The configuration is of no use.
pub async fn run(
    config: Arc<Config>,
    informers: Informers,
    api: Api,
    host: String,
    supervisor: Supervisor,
    stop: CancellationToken,
) -> Result<(), BoxError> {
    let mut feed = Feed::new(&informers);
    let binder = Binder {
        api: api.clone(),
        claims: feed.claims.clone(),
        volumes: feed.volumes.clone(),
        pods: feed.pods.clone(),
        changed: feed.changed.clone(),
    };
    // Each profile tells of its pods under its own name.
    let named = |name: &str| (name.to_owned(), Recorder::of_controller(api.clone(), &supervisor, name, &host));
    let recorders: Arc<BTreeMap<_, _>> = Arc::new(config.names().into_iter().map(named).collect());
    let claims = ClaimBinder {
        api: api.clone(),
        claims: feed.device_claims.clone(),
        changed: feed.device_claims_changed.clone(),
        messages: feed.messages.clone(),
        recorders: recorders.clone(),
        supervisor: supervisor.clone(),
    };
    let doors = Doors { api: Some(api.clone()), binder: Some(binder), claims: Some(claims) };
    let profiles = config.profiles(&doors)?;
    tokio::select! {
        () = stop.cancelled() => return Ok(()),
        () = informers.synced() => {}
    }
    let mut extenders = Vec::new();
    for said in config.extenders() {
        extenders.push(Extender::new(said, api.clone()).await?);
    }
    let writer = Writer { api, recorders, supervisor, messages: feed.messages.clone() };
    let mut algorithm = Algorithm::new(profiles);
    algorithm.has_extenders = extenders.iter().any(|e| e.filters() || e.rates());
    let mut scheduler = Scheduler {
        algorithm,
        extenders,
        queue: Queue::new(config.backoff()),
        pods: feed.pods.clone(),
        writer,
        permits: Arc::new(Semaphore::new(BINDINGS)),
        assumed: Assumed::default(),
        levels: Arc::default(),
    };
    let inbox = &mut feed.inbox;
    loop {
        // What is known goes in first, so that a cycle sees as much as there is.
        while let Ok(message) = inbox.try_recv() {
            scheduler.take(message);
        }
        let now = Instant::now();
        scheduler.tick(now);
        if scheduler.queue.has_active(now) {
            let permit = tokio::select! {
                biased;
                () = stop.cancelled() => return Ok(()),
                permit = scheduler.permits.clone().acquire_owned() => permit?,
            };
            scheduler.cycle(now, permit).await;
            // Other tasks of the process get their turn in a long row of cycles.
            tokio::task::consume_budget().await;
            continue;
        }
        let deadline = scheduler.next_deadline();
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
            () = timer => {}
        }
    }
}

impl Scheduler {
    /// Does what is due, and tells how things stand.
    fn tick(&mut self, now: Instant) {
        self.queue.flush(now);
        for uid in self.assumed.due(now) {
            self.algorithm.cluster.nodes.unplace(&uid);
        }
        self.algorithm.cluster.waiting.expire(now);
        for (waiting, verdict) in self.algorithm.cluster.waiting.decided() {
            let waited = now.saturating_duration_since(waiting.since);
            metrics::permit_wait(if verdict.is_ok() { "Success" } else { "Unschedulable" }, waited);
            match verdict {
                Ok(()) => {
                    let Some(profile) = self.algorithm.profile_of(&waiting.pod.template.scheduler_name) else {
                        continue;
                    };
                    self.go(profile, waiting.pod, &waiting.node, None, waiting.since);
                }
                Err(rejection) => self.turned_away(&waiting, rejection),
            }
        }
        let nodes = &self.algorithm.cluster.nodes;
        self.levels.set(self.queue.lengths(), [nodes.len(), nodes.pods(), self.assumed.until.len()]);
    }

    /// When something must be done although nothing happens; `None`: never.
    fn next_deadline(&self) -> Option<Instant> {
        let waiting = self.algorithm.cluster.waiting.next_deadline();
        [self.queue.next_deadline(), self.assumed.next_deadline(), waiting].into_iter().flatten().min()
    }

    fn take(&mut self, message: Message) {
        let cluster = &mut self.algorithm.cluster;
        match message {
            Message::Node(Change::Deleted(node)) => {
                cluster.nodes.remove_node(&node.metadata.name);
                self.tell(Event::NodeGone);
            }
            Message::Node(change) => {
                let node = change.object();
                let change = cluster.nodes.set_node(node);
                let Some(position) = cluster.nodes.position(&node.metadata.name) else { return };
                if !change.is_none() {
                    self.tell(Event::Node { position, change });
                }
            }
            Message::Pod(Change::Deleted(pod)) => self.gone(&pod),
            Message::Pod(change) => {
                let pod = change.object();
                if pod.has_ended { self.gone(pod) } else { self.pod(pod, change.old()) }
            }
            Message::Claim(Change::Deleted(claim)) => cluster.storage.remove_claim(&claim.metadata.key()),
            Message::Claim(change) => {
                let claim = change.object();
                cluster.storage.set_claim(claim);
                self.tell(Event::Claim(&claim.metadata.namespace, &claim.metadata.name));
            }
            Message::Volume(Change::Deleted(volume)) => {
                cluster.storage.remove_volume(&volume.metadata.name, u64::MAX);
            }
            Message::Volume(change) => {
                cluster.storage.set_volume(change.object());
                self.tell(Event::Volume);
            }
            Message::StorageClass(change) => {
                keep(&mut cluster.storage.classes, &change, |c| c.metadata.name.clone());
                self.tell(Event::StorageClass);
            }
            Message::CsiNode(change) => {
                keep(&mut cluster.storage.csi_nodes, &change, |c| c.metadata.name.clone());
                let old = change.old();
                let grew = old.is_some_and(|old| allows_more(old, change.object()));
                if !change.is_deleted() {
                    self.tell(Event::CsiNode { added: old.is_none(), grew });
                }
            }
            Message::CsiDriver(change) => {
                keep(&mut cluster.storage.csi_drivers, &change, |c| c.metadata.name.clone());
                self.tell(Event::CsiDriver);
            }
            Message::CsiCapacity(change) => {
                keep(&mut cluster.storage.capacities, &change, |c| c.metadata.key());
                self.tell(Event::CsiCapacity);
            }
            Message::Slice(Change::Deleted(slice)) => cluster.devices.catalogue.remove(&slice.metadata.name),
            Message::Slice(change) => {
                cluster.devices.catalogue.set(change.object());
                self.tell(Event::Devices);
            }
            Message::DeviceClass(Change::Deleted(class)) => cluster.devices.remove_class(&class.metadata.name),
            Message::DeviceClass(change) => {
                cluster.devices.set_class(change.object());
                self.tell(Event::Devices);
            }
            Message::DeviceClaim(Change::Deleted(claim)) => self.device_claim_gone(&claim),
            Message::DeviceClaim(change) => {
                let claim = change.object();
                let before = cluster.devices.set_claim(claim);
                self.device_claim(claim, before);
            }
            Message::DeviceClaimWritten(claim) => {
                let before = cluster.devices.written(&claim);
                self.device_claim(&claim, before);
            }
            Message::Attachment(Change::Deleted(attachment)) => {
                cluster.storage.remove_attachment(&attachment);
                self.tell(Event::Detached);
            }
            Message::Attachment(change) => cluster.storage.set_attachment(change.object()),
            Message::Namespace(change) => {
                let meta = &change.object().metadata;
                let labels = (!change.is_deleted()).then_some(&*meta.labels);
                if cluster.nodes.set_namespace(&meta.name, labels) {
                    self.tell(Event::Namespace);
                }
            }
            Message::Service(change) => {
                let service = change.object();
                let selector = if change.is_deleted() { None } else { crate::model::Labelled::selector(&**service) };
                cluster.workloads.set_service(&change.key(), selector);
            }
            Message::Owner(kind, key, selector) => cluster.workloads.set_owner(kind, &key, selector),
            Message::Budget(change) => keep(&mut cluster.budgets, &change, |b| b.metadata.key()),
            Message::Bound(bound) => match bound.error {
                None => self.bound(&bound),
                Some(ref error) => self.not_bound(&bound, error),
            },
            Message::Preempted(uid, done) => {
                cluster.preempting.remove(&uid);
                self.queue.let_go(&uid, !done, Instant::now());
            }
        }
    }

    /// A claim of devices came or changed; `before` is what was known of it, `None` if nothing changed.
    fn device_claim(&mut self, claim: &Arc<ResourceClaim>, before: Option<Option<Arc<ResourceClaim>>>) {
        if let Some(old) = before {
            self.tell(Event::DeviceClaim { claim, old: old.as_deref() });
        }
    }

    fn device_claim_gone(&mut self, claim: &ResourceClaim) {
        self.algorithm.cluster.devices.remove_claim(claim);
        // Whatever it had is free.
        let mut freed = claim.clone();
        freed.status = DeviceClaimStatus::default();
        self.tell(Event::DeviceClaim { claim: &freed, old: Some(claim) });
    }

    fn pod(&mut self, pod: &Arc<PodInfo>, old: Option<&Arc<PodInfo>>) {
        let uid = pod.uid();
        let cluster = &mut self.algorithm.cluster;
        if !pod.node_name.is_empty() {
            // Its cycle goes on until its binding is known to have ended.
            if self.queue.get(uid).is_some() {
                self.queue.remove(uid);
            }
            self.assumed.remove(uid);
            cluster.nominated.remove(uid);
            let before = cluster.nodes.placed(uid).cloned();
            let there = cluster.nodes.node_of(uid).is_some_and(|n| **n == *pod.node_name);
            if !there || before.as_ref().is_some_and(|b| differs(b, pod)) {
                cluster.nodes.place(pod.clone(), &pod.node_name);
                match before {
                    Some(before) if there => self.tell(Event::PodChanged { old: &before, new: pod }),
                    _ => self.tell(Event::PodPlaced(pod)),
                }
            }
            return;
        }
        if self.algorithm.profile_of(&pod.template.scheduler_name).is_none() {
            return;
        }
        if pod.is_terminating() {
            // Whose turn it would be (`skipPodSchedule`).
            if self.queue.is_due(uid) || (old.is_none() && pod.gates.is_empty()) {
                let text = format!("skip schedule deleting pod: {}", pod.key());
                let scheduler = &pod.template.scheduler_name;
                self.writer.event(scheduler, pod, EventType::Warning, ("FailedScheduling", "Scheduling"), text);
            }
            self.leaves(pod);
            return;
        }
        let cluster = &mut self.algorithm.cluster;
        if cluster.nodes.node_of(uid).is_some() {
            // Decided already and on its way.
            return;
        }
        let was_nominated = old.is_some_and(|o| !o.nominated.is_empty());
        if !pod.nominated.is_empty() {
            cluster.nominated.add(pod, &pod.nominated);
        } else if was_nominated {
            cluster.nominated.remove(uid);
        }
        let is_new = self.queue.get(uid).is_none();
        match old {
            Some(old) if !is_new && !self.queue.is_gated(uid) => {
                // A status that the scheduler itself wrote is no reason to try again.
                let same = old.template.id == pod.template.id && old.claim_statuses == pod.claim_statuses;
                let profile = self.algorithm.profile_of(&pod.template.scheduler_name);
                let profile = profile.map(|p| &self.algorithm.profiles[p]);
                let (cluster, event) = (&self.algorithm.cluster, Event::Itself { old, new: pod });
                let helps = |plugin: &'static str| {
                    let named = profile.and_then(|p| p.named(plugin));
                    !same && named.is_none_or(|p| p.may_help(event, pod, cluster))
                };
                self.queue.update(pod.clone(), Instant::now(), helps);
            }
            _ => self.enqueue(pod.clone()),
        }
        if let Some(old) = old.filter(|o| was_nominated && o.nominated != pod.nominated) {
            self.nominated_no_more(old);
        }
    }

    /// Pods that were less important than one that was nominated reckoned with it on its node.
    fn nominated_no_more(&mut self, pod: &PodInfo) {
        self.tell_some(Event::PodGone(pod), |other| other.template.priority <= pod.template.priority);
    }

    /// Puts a pod in line, unless something keeps it from that.
    fn enqueue(&mut self, pod: Arc<PodInfo>) {
        let Some(profile) = self.algorithm.profile_of(&pod.template.scheduler_name) else { return };
        let algorithm = &self.algorithm;
        let mut plugins = algorithm.profiles[profile].calls(Point::PreEnqueue);
        let gate = plugins.find_map(|p| Some((p.name(), p.pre_enqueue(&algorithm.cluster, &pod)?)));
        let now = Instant::now();
        match gate {
            // One for which room is being made waits in its place.
            Some((default_preemption::NAME, _)) if self.queue.get(pod.uid()).is_some() => self.queue.refresh(pod),
            Some((plugin, reason)) => {
                debug!(pod = %pod.key(), plugin, reason, "pod may not be scheduled yet");
                self.queue.gate(pod, plugin, now);
            }
            None => self.queue.add(pod, now),
        }
    }

    /// Forgets a pod without a node that is gone, or about to go.
    fn leaves(&mut self, pod: &Arc<PodInfo>) {
        let uid = pod.uid();
        let cluster = &mut self.algorithm.cluster;
        self.queue.remove(uid);
        let was_nominated = cluster.nominated.node_of(uid).is_some();
        cluster.nominated.remove(uid);
        if cluster.waiting.reject(uid, "", "removed") {
            return;
        }
        if cluster.nodes.unplace(uid).is_some() {
            self.tell(Event::PodGone(pod));
        } else if was_nominated {
            self.nominated_no_more(pod);
        }
    }

    fn gone(&mut self, pod: &Arc<PodInfo>) {
        self.assumed.remove(pod.uid());
        self.leaves(pod);
    }

    fn tell(&mut self, event: Event<'_>) {
        self.tell_some(event, |_| true);
    }

    /// Tells of an event those of the waiting pods that it may concern.
    fn tell_some(&mut self, event: Event<'_>, concerned: impl Fn(&PodInfo) -> bool) {
        let mut waiting = std::mem::take(&mut self.algorithm.cluster.waiting);
        let algorithm = &self.algorithm;
        let cluster = &algorithm.cluster;
        let helps = |pod: &PodInfo, plugin: &'static str| {
            let profile = algorithm.profile_of(&pod.template.scheduler_name);
            concerned(pod)
                && profile.is_some_and(|p| {
                    algorithm.profiles[p].named(plugin).is_none_or(|p| p.may_help(event, pod, cluster))
                })
        };
        let ask_again = self.queue.on_event(
            Instant::now(),
            event.label(),
            |plugin| event.concerns(plugin),
            |pod| cluster.preempting.contains(pod.uid()),
            helps,
        );
        waiting.on_event(|pod, plugin| event.concerns(plugin) && helps(pod, plugin));
        self.algorithm.cluster.waiting = waiting;
        ask_again.into_iter().for_each(|pod| self.enqueue(pod));
    }

    /// Tries the next pod.
    async fn cycle(&mut self, start: Instant, permit: OwnedSemaphorePermit) {
        let Some(pod) = self.queue.pop(start) else { return };
        let Some(profile) = self.algorithm.profile_of(&pod.template.scheduler_name) else { return };
        if !pod.template.resource_claims.is_empty() {
            self.algorithm.cluster.devices.now = Timestamp::now();
        }
        let mut found = self.algorithm.find(profile, &pod);
        if !self.extenders.is_empty()
            && let Ok(nodes) = found
        {
            let as_nominated = nodes.as_nominated;
            found = self.ask_extenders(&pod, nodes).await;
            if found.is_err() && as_nominated {
                found = self.algorithm.find_anew(profile, &pod, false);
                if let Ok(nodes) = found {
                    found = self.ask_extenders(&pod, nodes).await;
                }
            }
        }
        let chosen = match found {
            Ok(mut found) => Ok(match found.feasible[..] {
                [only] => only,
                _ => {
                    let mut totals = self.algorithm.rate(profile, &pod, &mut found);
                    self.rate_by_extenders(&pod, &found.feasible, &mut totals).await;
                    best(&found.feasible, &totals, rand::random::<u32>() as usize)
                }
            }),
            Err(nothing) => Err(nothing),
        };
        self.algorithm.meters[profile].algorithm(start.elapsed());
        match chosen {
            Ok(node) => self.send(profile, pod, node as usize, permit, start),
            Err((NotFound::Failed(why), _)) => {
                self.refused(&pod, SCHEDULER_ERROR, &why, Nomination::Set(""), vec![], start);
            }
            Err((NotFound::Unfit(unfit), prepared)) => self.unfit(profile, &pod, unfit, &prepared, start).await,
        }
    }

    /// No node will do: looks for a way, and tells.
    async fn unfit(
        &mut self,
        profile: usize,
        pod: &Arc<PodInfo>,
        mut unfit: Unfit,
        prepared: &Prepared,
        start: Instant,
    ) {
        let mut plugins = std::mem::take(&mut unfit.plugins);
        if unfit.nodes == 0 {
            // Any node may do that comes.
            plugins = self.algorithm.profiles[profile].calls(Point::Filter).map(|p| p.name()).collect();
            self.refused(pod, UNSCHEDULABLE, &unfit.message(), Nomination::Set(""), plugins, start);
            return;
        }
        let seed = rand::random::<u32>() as usize;
        let mut nomination = Nomination::Keep;
        let node;
        metrics::preemption();
        match self.algorithm.post_filter(profile, pod, prepared, &unfit, seed) {
            PostFilter::Room(candidates) => {
                let left = self.left_by_extenders(pod, candidates).await;
                match left.map(cheapest) {
                    Ok(Some(candidate)) => {
                        node = self.algorithm.cluster.nodes.rows.name(candidate.node as usize).to_owned();
                        nomination = Nomination::Set(&node);
                        self.make_room(pod, &node, candidate);
                    }
                    Ok(None) => unfit.after = "preemption: no candidate node for preemption".into(),
                    Err(why) => unfit.after = format!("preemption: {why}"),
                }
            }
            PostFilter::Doing(what, Deed(act)) => {
                unfit.after = match act.await {
                    Ok(()) => what,
                    Err(why) => {
                        warn!(pod = %pod.key(), why, "cannot help the pod");
                        String::new()
                    }
                };
            }
            PostFilter::Nothing(why) => unfit.after = why,
            PostFilter::Hopeless(why) => {
                unfit.after = why;
                nomination = Nomination::Set("");
            }
        }
        self.refused(pod, UNSCHEDULABLE, &unfit.message(), nomination, plugins, start);
    }

    fn make_room(&mut self, pod: &Arc<PodInfo>, node: &str, candidate: Candidate) {
        metrics::victims(candidate.victims.len());
        let cluster = &mut self.algorithm.cluster;
        // Pods that had hoped for the place look for another.
        let priority = pod.template.priority;
        let hopeless: Vec<_> =
            cluster.nominated.on(node).iter().filter(|p| p.template.priority < priority).cloned().collect();
        for other in hopeless {
            cluster.nominated.remove(other.uid());
            self.writer.clear_nomination(&other);
            self.queue.let_go(other.uid(), true, Instant::now());
        }
        cluster.nominated.add(pod, node);
        let mut victims = candidate.victims;
        // One that is not there yet need not be removed: it does not come.
        victims.retain(|victim| {
            let waited = cluster.waiting.reject(victim.uid(), default_preemption::NAME, "preempted");
            if waited {
                self.writer.preempted(pod, node, victim);
            }
            !waited
        });
        victims.retain(|v| !v.is_terminating());
        if !victims.is_empty() {
            cluster.preempting.insert(pod.uid().to_owned());
            self.writer.preempt(pod, node, victims);
        }
    }

    /// Tells why a pod is not scheduled, and has it wait.
    fn refused(
        &mut self,
        pod: &Arc<PodInfo>,
        reason: &str,
        message: &str,
        nomination: Nomination<'_>,
        plugins: Vec<&'static str>,
        start: Instant,
    ) {
        let outcome = if reason == UNSCHEDULABLE { Outcome::Unschedulable } else { Outcome::Error };
        if let Some(profile) = self.algorithm.profile_of(&pod.template.scheduler_name) {
            self.algorithm.meters[profile].attempt(outcome, start.elapsed());
        }
        if matches!(nomination, Nomination::Set("") | Nomination::Clear) {
            self.algorithm.cluster.nominated.remove(pod.uid());
        }
        let Some(current) = self.pods.get(&pod.key()).filter(|p| p.uid() == pod.uid()) else {
            self.queue.remove(pod.uid());
            return;
        };
        self.writer.refused(pod, &current, reason, message, nomination);
        if current.node_name.is_empty() {
            self.queue.failed(current, plugins, Instant::now());
        } else {
            self.queue.remove(pod.uid());
        }
    }
}

/// Whether a driver allows more volumes on a node than before.
fn allows_more(old: &CsiNode, new: &CsiNode) -> bool {
    let count =
        |of: &CsiNode, name: &str| of.spec.drivers.iter().find(|d| d.name == name).and_then(|d| d.allocatable.count);
    new.spec.drivers.iter().any(|d| d.allocatable.count > count(old, &d.name) && count(old, &d.name).is_some())
}

/// Whether a placed pod changed in a way that counts.
fn differs(old: &PodInfo, new: &PodInfo) -> bool {
    old.template.id != new.template.id
        || old.is_terminating() != new.is_terminating()
        || old.started != new.started
        || old.condition("DisruptionTarget").map(|c| &c.reason) != new.condition("DisruptionTarget").map(|c| &c.reason)
}

fn keep<K: std::hash::Hash + Eq, T>(map: &mut HashMap<K, Arc<T>>, change: &Change<T>, key: impl Fn(&T) -> K)
where
    T: orkd_reconcile::View,
{
    let object = change.object();
    if change.is_deleted() {
        map.remove(&key(object));
    } else {
        map.insert(key(object), object.clone());
    }
}
