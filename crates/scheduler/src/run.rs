//! The loop: informers feed it, cycles run in it, bindings run beside it.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use orkd_base::{BoxError, Supervisor, TaskKind};
use orkd_reconcile::{Api, Event as Change, EventType, Informer, Informers, Recorder};
use tokio::sync::Semaphore;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use crate::bind_claims::ClaimBinder;
use crate::bind_volumes::Binder;
use crate::config::Config;
use crate::cycle::{Algorithm, Found, NotFound, Prepared, Unfit, best, cheapest};
use crate::extender::Extender;
use crate::feed::{Feed, Message};
use crate::framework::{Candidate, Deed, Denied, Event, Point, PostFilter};
use crate::model::{DeviceClaimStatus, ResourceClaim};
use crate::plugins::Doors;
use crate::pod::PodInfo;
use crate::queue::Queue;
use crate::status::{Nomination, Writer, reference};

/// How many bindings may be on their way.
const BINDINGS: usize = 256;

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
    /// Pods whose binding was written and has not been seen yet, with the time to stop waiting for it.
    assumed: HashMap<String, Instant>,
}

/// Runs until `stop`.
///
/// # Errors
/// The configuration is of no use.
pub async fn run(
    config: Arc<Config>,
    informers: Informers,
    api: Api,
    recorder: Recorder,
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
    let claims = ClaimBinder {
        api: api.clone(),
        claims: feed.device_claims.clone(),
        changed: feed.device_claims_changed.clone(),
        messages: feed.messages.clone(),
        recorder: recorder.clone(),
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
    let writer = Writer { api, recorder, supervisor, messages: feed.messages.clone() };
    let mut scheduler = Scheduler {
        algorithm: Algorithm::new(profiles),
        extenders,
        queue: Queue::new(config.backoff()),
        pods: feed.pods.clone(),
        writer,
        permits: Arc::new(Semaphore::new(BINDINGS)),
        assumed: HashMap::new(),
    };
    let inbox = &mut feed.inbox;
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
            scheduler.cycle(now, permit).await;
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
                self.tell(Event::CsiNode);
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
            Message::Namespace(change) => {
                let meta = &change.object().metadata;
                let labels = (!change.is_deleted()).then_some(&meta.labels);
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
            Message::Bound(pod, None) => {
                self.queue.remove(pod.uid());
                cluster.storage.forget(pod.uid(), true);
                cluster.devices.forget(pod.uid());
                if self.pods.get(&pod.key()).is_none_or(|p| p.node_name.is_empty()) {
                    self.assumed.insert(pod.uid().to_owned(), Instant::now() + ASSUMED_MOST);
                }
            }
            Message::Bound(pod, Some(error)) => self.not_bound(pod, &error),
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
            self.queue.remove(uid);
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
        let is_ours = self.algorithm.profiles.iter().any(|p| p.name == pod.template.scheduler_name);
        if !is_ours {
            return;
        }
        if pod.is_terminating() {
            self.queue.remove(uid);
            cluster.nominated.remove(uid);
            return;
        }
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
        // A status that the scheduler itself wrote is no reason to try again.
        let same = old.is_some_and(|old| {
            old.template.id == pod.template.id && old.gates == pod.gates && old.claim_statuses == pod.claim_statuses
        });
        if same {
            self.queue.refresh(pod.clone());
        } else {
            self.enqueue(pod.clone());
        }
    }

    /// Puts a pod in line, unless something keeps it from that.
    fn enqueue(&mut self, pod: Arc<PodInfo>) {
        let Some(profile) = self.algorithm.profile_of(&pod.template.scheduler_name) else { return };
        let algorithm = &self.algorithm;
        let mut plugins = algorithm.profiles[profile].calls(Point::PreEnqueue);
        // A pod that has something to wait for waits in its place.
        let gate = plugins.find_map(|p| Some((p.name(), p.pre_enqueue(&algorithm.cluster, &pod)?)));
        match gate {
            Some((_, reason)) if !pod.gates.is_empty() => {
                debug!(pod = %pod.key(), reason, "pod may not be scheduled yet");
                self.queue.gate(pod);
            }
            Some(_) if self.queue.get(pod.uid()).is_some() => self.queue.refresh(pod),
            Some((plugin, reason)) => {
                debug!(pod = %pod.key(), reason, "pod cannot be scheduled yet");
                self.queue.hold(pod, plugin, Instant::now());
            }
            _ => self.queue.add(pod),
        }
    }

    fn gone(&mut self, pod: &Arc<PodInfo>) {
        let uid = pod.uid();
        let cluster = &mut self.algorithm.cluster;
        self.queue.remove(uid);
        self.assumed.remove(uid);
        cluster.nominated.remove(uid);
        if cluster.nodes.unplace(uid).is_some() {
            self.tell(Event::PodGone(pod));
        }
    }

    fn tell(&mut self, event: Event<'_>) {
        let algorithm = &self.algorithm;
        let cluster = &algorithm.cluster;
        self.queue.on_event(
            Instant::now(),
            |plugin| event.concerns(plugin),
            |pod| cluster.preempting.contains(pod.uid()),
            |pod, plugin| {
                let profile = algorithm.profile_of(&pod.template.scheduler_name);
                profile.is_some_and(|p| {
                    algorithm.profiles[p].named(plugin).is_none_or(|p| p.may_help(event, pod, cluster))
                })
            },
        );
    }

    /// Tries the next pod.
    async fn cycle(&mut self, now: Instant, permit: tokio::sync::OwnedSemaphorePermit) {
        let Some(pod) = self.queue.pop(now) else { return };
        let Some(profile) = self.algorithm.profile_of(&pod.template.scheduler_name) else { return };
        if !pod.template.resource_claims.is_empty() {
            self.algorithm.cluster.devices.now = Timestamp::now();
        }
        let mut found = self.algorithm.find(profile, &pod);
        if !self.extenders.is_empty()
            && let Ok(nodes) = found
        {
            found = self.ask_extenders(&pod, nodes).await;
        }
        let (not_found, prepared) = match found {
            Ok(mut found) => {
                let node = match found.feasible[..] {
                    [only] => only,
                    _ => {
                        let mut totals = self.algorithm.rate(profile, &pod, &mut found);
                        self.rate_by_extenders(&pod, &found.feasible, &mut totals).await;
                        best(&found.feasible, &totals, rand::random::<u32>() as usize)
                    }
                };
                self.send(profile, pod, node as usize, permit);
                return;
            }
            Err(nothing) => nothing,
        };
        match not_found {
            NotFound::Failed(why) => self.refused(&pod, SCHEDULER_ERROR, &why, Nomination::Set(""), vec![], now),
            NotFound::Unfit(unfit) => self.unfit(profile, &pod, unfit, &prepared, now).await,
        }
    }

    fn names(&self, nodes: &[u32]) -> Vec<String> {
        let rows = &self.algorithm.cluster.nodes.rows;
        nodes.iter().map(|i| rows.name(*i as usize).to_owned()).collect()
    }

    /// Leaves the nodes that the extenders leave (`findNodesThatPassExtenders`).
    async fn ask_extenders(&self, pod: &PodInfo, mut found: Found) -> Result<Found, (NotFound, Prepared)> {
        let nodes = &self.algorithm.cluster.nodes;
        let mut unfit = Unfit { nodes: nodes.len(), plugins: vec![EXTENDER], ..Unfit::default() };
        for extender in self.extenders.iter().filter(|e| e.filters() && e.is_interested(pod)) {
            if found.feasible.is_empty() {
                break;
            }
            let filtered = match extender.filter(pod, &self.names(&found.feasible)).await {
                Ok(filtered) => filtered,
                Err(error) if extender.is_ignorable() => {
                    warn!(extender = extender.name(), error, "an extender that may be ignored failed");
                    continue;
                }
                Err(error) => return Err((NotFound::Failed(error), found.prepared)),
            };
            for (node, why, hopeless) in filtered.refused {
                *unfit.reasons.entry(why).or_default() += 1;
                if !hopeless && let Some(i) = nodes.position(&node) {
                    unfit.resolvable.push(i as u32);
                }
            }
            found.feasible.retain(|i| filtered.fit.iter().any(|n| n == nodes.rows.name(*i as usize)));
        }
        if found.feasible.is_empty() { Err((NotFound::Unfit(unfit), found.prepared)) } else { Ok(found) }
    }

    /// Adds what the extenders say. One that fails is left out.
    async fn rate_by_extenders(&self, pod: &PodInfo, feasible: &[u32], totals: &mut [i64]) {
        for extender in self.extenders.iter().filter(|e| e.rates() && e.is_interested(pod)) {
            let names = self.names(feasible);
            match extender.rate(pod, &names).await {
                Ok(points) => {
                    for (name, total) in names.iter().zip(totals.iter_mut()) {
                        *total = total.saturating_add(points.get(name).copied().unwrap_or(0));
                    }
                }
                Err(error) => debug!(extender = extender.name(), error, "an extender gives no rating"),
            }
        }
    }

    /// No node will do: looks for a way, and tells.
    async fn unfit(&mut self, profile: usize, pod: &Arc<PodInfo>, mut unfit: Unfit, prepared: &Prepared, now: Instant) {
        let mut plugins = std::mem::take(&mut unfit.plugins);
        if unfit.nodes == 0 {
            // Any node may do that comes.
            plugins = self.algorithm.profiles[profile].calls(Point::Filter).map(|p| p.name()).collect();
            self.refused(pod, UNSCHEDULABLE, &unfit.message(), Nomination::Set(""), plugins, now);
            return;
        }
        let seed = rand::random::<u32>() as usize;
        match self.algorithm.post_filter(profile, pod, prepared, &unfit, seed) {
            PostFilter::Room(candidates) => match cheapest(self.left_by_extenders(pod, candidates).await) {
                Some(candidate) => {
                    let node = self.algorithm.cluster.nodes.rows.name(candidate.node as usize).to_owned();
                    self.make_room(pod, &node, candidate);
                    self.refused(pod, UNSCHEDULABLE, &unfit.message(), Nomination::Set(&node), plugins, now);
                }
                None => self.refused(pod, UNSCHEDULABLE, &unfit.message(), Nomination::Keep, plugins, now),
            },
            PostFilter::Doing(what, Deed(act)) => {
                unfit.after = match act.await {
                    Ok(()) => what,
                    Err(why) => {
                        warn!(pod = %pod.key(), why, "cannot help the pod");
                        String::new()
                    }
                };
                self.refused(pod, UNSCHEDULABLE, &unfit.message(), Nomination::Keep, plugins, now);
            }
            PostFilter::Nothing(why) => {
                unfit.after = why;
                self.refused(pod, UNSCHEDULABLE, &unfit.message(), Nomination::Keep, plugins, now);
            }
            PostFilter::Hopeless(why) => {
                unfit.after = why;
                self.algorithm.cluster.nominated.remove(pod.uid());
                self.refused(pod, UNSCHEDULABLE, &unfit.message(), Nomination::Set(""), plugins, now);
            }
        }
    }

    /// Leaves the candidates for preemption that the extenders leave.
    async fn left_by_extenders(&self, pod: &PodInfo, mut candidates: Vec<Candidate>) -> Vec<Candidate> {
        for extender in self.extenders.iter().filter(|e| e.preempts() && e.is_interested(pod)) {
            match extender.preempt(pod, &candidates, &self.algorithm.cluster.nodes).await {
                Ok(left) => candidates = left,
                Err(error) if extender.is_ignorable() => {
                    warn!(extender = extender.name(), error, "an extender that may be ignored failed");
                }
                Err(error) => {
                    warn!(extender = extender.name(), error, "an extender failed, no room is made");
                    return Vec::new();
                }
            }
        }
        candidates
    }

    fn make_room(&mut self, pod: &Arc<PodInfo>, node: &str, candidate: Candidate) {
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
        let victims: Vec<_> = candidate.victims.into_iter().filter(|v| !v.is_terminating()).collect();
        if !victims.is_empty() {
            cluster.preempting.insert(pod.uid().to_owned());
            self.writer.preempt(pod, node, victims);
        }
    }

    /// Takes a node for a pod and sends it there.
    fn send(&mut self, profile: usize, pod: Arc<PodInfo>, node: usize, permit: tokio::sync::OwnedSemaphorePermit) {
        let now = Instant::now();
        let name = self.algorithm.cluster.nodes.rows.name(node).to_owned();
        self.algorithm.cluster.nodes.place(pod.clone(), &name);
        let nominated = self.algorithm.cluster.nominated.node_of(pod.uid()).cloned();
        self.algorithm.cluster.nominated.remove(pod.uid());
        let (profiles, cluster) = (&self.algorithm.profiles, &mut self.algorithm.cluster);
        let plugins = &profiles[profile];
        let mut denied = None;
        for plugin in plugins.calls(Point::Reserve) {
            if let Err(why) = plugin.reserve(cluster, &pod, node) {
                denied = Some(("Reserve", plugin.name(), why));
                break;
            }
        }
        if denied.is_none() {
            for plugin in plugins.calls(Point::Permit) {
                if let Err(why) = plugin.permit(cluster, &pod, node) {
                    denied = Some(("Permit", plugin.name(), why));
                    break;
                }
            }
        }
        if let Some((point, plugin, why)) = denied {
            plugins.calls(Point::Reserve).for_each(|p| p.unreserve(cluster, &pod));
            cluster.nodes.unplace(pod.uid());
            if let Some(node) = nominated {
                cluster.nominated.add(&pod, &node);
            }
            match why {
                Denied::Refused(why) => {
                    let reasons = [(why, 1)].into();
                    let unfit = Unfit { nodes: 1, reasons, ..Unfit::default() };
                    self.refused(&pod, UNSCHEDULABLE, &unfit.message(), Nomination::Set(""), vec![plugin], now);
                }
                Denied::Failed(why) => {
                    let why = format!("running {point} plugin {plugin:?}: {why}");
                    self.refused(&pod, SCHEDULER_ERROR, &why, Nomination::Set(""), vec![], now);
                }
            }
            return;
        }
        let mut acts = Vec::new();
        for plugin in plugins.calls(Point::PreBind) {
            acts.extend(plugin.pre_bind(cluster, &pod, &name).map(|act| ("PreBind", plugin.name(), act)));
        }
        let by_extender = self.extenders.iter().find(|e| e.binds() && e.is_interested(&pod));
        let bind = match by_extender {
            Some(extender) => Some(("Bind", EXTENDER, extender.bind(&pod, &name))),
            None => plugins.calls(Point::Bind).find_map(|p| Some(("Bind", p.name(), p.bind(cluster, &pod, &name)?))),
        };
        let Some(bind) = bind else { return };
        acts.push(bind);
        self.tell(Event::PodPlaced(&pod));
        let writer = self.writer.clone();
        self.writer.supervisor.spawn(TaskKind::Worker, "bind", move |_| async move {
            let _permit = permit;
            let mut error = None;
            for (point, plugin, act) in acts {
                if let Err(why) = act.await {
                    error = Some(format!("running {point} plugin {plugin:?}: {why}"));
                    break;
                }
            }
            if error.is_none() {
                let message = format!("Successfully assigned {} to {name}", pod.key());
                writer.recorder.event(&reference(&pod), EventType::Normal, "Scheduled", message);
                debug!(pod = %pod.key(), node = %name, "bound pod");
            }
            // The loop has ended: nobody waits for the answer.
            let _ = writer.messages.send(Message::Bound(pod, error));
        });
    }

    fn not_bound(&mut self, pod: Arc<PodInfo>, error: &str) {
        let (profiles, cluster) = (&self.algorithm.profiles, &mut self.algorithm.cluster);
        if let Some(profile) = profiles.iter().find(|p| p.name == pod.template.scheduler_name) {
            profile.calls(Point::Reserve).for_each(|p| p.unreserve(cluster, &pod));
        }
        cluster.nodes.unplace(pod.uid());
        let current = self.pods.get(&pod.key()).filter(|p| p.uid() == pod.uid());
        match current {
            Some(current) if current.node_name.is_empty() => {
                warn!(pod = %pod.key(), error, "cannot bind pod, trying again");
                self.refused(&current, SCHEDULER_ERROR, error, Nomination::Set(""), vec![], Instant::now());
            }
            // Bound by someone else.
            Some(current) => cluster.nodes.place(current.clone(), &current.node_name),
            None => self.queue.remove(pod.uid()),
        }
        self.tell(Event::PodGone(&pod));
    }

    /// Tells why a pod is not scheduled, and has it wait.
    fn refused(
        &mut self,
        pod: &Arc<PodInfo>,
        reason: &str,
        message: &str,
        nomination: Nomination<'_>,
        plugins: Vec<&'static str>,
        now: Instant,
    ) {
        if nomination == Nomination::Set("") {
            self.algorithm.cluster.nominated.remove(pod.uid());
        }
        let Some(current) = self.pods.get(&pod.key()).filter(|p| p.uid() == pod.uid()) else {
            self.queue.remove(pod.uid());
            return;
        };
        self.writer.refused(pod, &current, reason, message, nomination);
        if current.node_name.is_empty() {
            self.queue.failed(current, plugins, now);
        } else {
            self.queue.remove(pod.uid());
        }
    }

    /// Forgets decisions that were written long ago and never seen.
    fn expire(&mut self, now: Instant) {
        let due: Vec<String> = self.assumed.iter().filter(|(_, at)| **at <= now).map(|(uid, _)| uid.clone()).collect();
        for uid in due {
            self.assumed.remove(&uid);
            self.algorithm.cluster.nodes.unplace(&uid);
        }
    }
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
