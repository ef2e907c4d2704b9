//! Pods go before the node runs out of memory, disk or processes, and when they write more than they may. Follows
//! upstream `pkg/kubelet/eviction`.
//!
//! [`thresholds`] says from when on, [`pressure`] what that means now, [`rank`] who goes, [`limits`] who wrote too much,
//! [`admit`] who is not taken; all of them are pure. [`Manager`] looks every ten seconds: the machine and its disks are
//! asked each time, pods are measured only if one has a limit or has to go. Of those that have to go one goes in a pass,
//! and the next pass comes when it is gone.

pub mod admit;
pub mod limits;
pub mod pressure;
pub mod rank;
pub mod thresholds;
pub mod usage;

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use orkd_cri::v1;
use orkd_reconcile::EventType;
use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

pub use thresholds::{DEFAULT_HARD, Settings, thresholds};

use crate::image_gc::Collector;
use crate::node_context::NodeContext;
use crate::node_events;
use crate::pod::{self, keys};
use crate::stats::{Machine, Stats};
use crate::worker::{Eviction, Handle};
use pressure::{Condition, Observation, Observations};
use thresholds::{Signal, Threshold};
use usage::Usages;

/// How often the node is looked at (`evictionMonitoringPeriod`).
const PERIOD: Duration = Duration::from_secs(10);
/// For how long the end of a pod is waited for (`podCleanupTimeout`).
const CLEANUP: Duration = Duration::from_secs(30);
/// How long pods have at hard thresholds and limits, in seconds.
const AT_ONCE: i64 = 1;
/// The reason in statuses and events.
pub const REASON: &str = "Evicted";

/// What the rest of the kubelet is told.
#[derive(Debug, Default)]
pub struct Pressures {
    conditions: watch::Sender<Vec<Condition>>,
    counts: Mutex<BTreeMap<&'static str, u64>>,
}

impl Pressures {
    /// The conditions of the node now, and whenever they change.
    pub fn watch(&self) -> watch::Receiver<Vec<Condition>> {
        self.conditions.subscribe()
    }

    /// The conditions of the node now.
    pub fn conditions(&self) -> Vec<Condition> {
        self.conditions.borrow().clone()
    }

    /// How many pods went, by the signal that was the cause.
    pub fn counts(&self) -> BTreeMap<&'static str, u64> {
        self.counts.lock().clone()
    }

    fn set(&self, conditions: &[Condition]) {
        self.conditions.send_if_modified(|known| {
            let changed = known != conditions;
            if changed {
                *known = conditions.to_vec();
            }
            changed
        });
    }

    fn count(&self, signal: &'static str) {
        *self.counts.lock().entry(signal).or_default() += 1;
    }
}

/// Looks after a node.
pub struct Manager {
    settings: Settings,
    context: Arc<NodeContext>,
    stats: Stats,
    images: Arc<Collector>,
    state: pressure::State,
}

impl Manager {
    /// Looks after a node; `images` removes what nobody uses.
    pub fn new(settings: Settings, context: Arc<NodeContext>, images: Arc<Collector>) -> Manager {
        let stats = Stats::new(context.clone(), Vec::new);
        Manager { settings, context, stats, images, state: pressure::State::default() }
    }

    /// Looks after the pods that `handles` tells until cancelled.
    pub async fn run(mut self, handles: impl Fn() -> Vec<Arc<Handle>>, stop: CancellationToken) {
        loop {
            let work = async {
                let evicted = self.pass(&handles(), Instant::now()).await;
                let deadline = Instant::now() + CLEANUP;
                match evicted.is_empty() {
                    true => tokio::time::sleep(PERIOD).await,
                    false => {
                        while !evicted.iter().all(|h| h.is_released()) && Instant::now() < deadline {
                            tokio::time::sleep(Duration::from_secs(1)).await;
                        }
                    }
                }
            };
            tokio::select! {
                () = stop.cancelled() => return,
                () = work => {}
            }
        }
    }

    /// Looks once, and does what has to be done. Returns whom it told to go.
    pub async fn pass(&mut self, handles: &[Arc<Handle>], now: Instant) -> Vec<Arc<Handle>> {
        let machine = self.stats.machine().await;
        let seen = observe(&machine);
        let urgent = self.state.observe(&self.settings, &seen, now);
        self.context.pressures.set(self.state.conditions());
        let active: Vec<Arc<Handle>> = handles.iter().filter(|h| !h.is_released()).cloned().collect();
        let evicted = self.keep_limits(&active, machine.images_apart).await;
        if !evicted.is_empty() {
            return evicted;
        }
        let met: Vec<Threshold> = urgent.iter().map(|i| self.settings.thresholds[*i]).collect();
        let Some(worst) = met.first() else { return evicted };
        let resource = worst.signal.resource();
        let about = node_events::reference(&self.context.node_name);
        let text = format!("Attempting to reclaim {resource}");
        self.context.recorder.event(&about, EventType::Warning, "EvictionThresholdMet", text);
        tracing::warn!(signal = worst.signal.name(), "the node runs out of something");
        if self.reclaim(worst.signal, &active, &machine).await {
            return evicted;
        }
        let mut pods: Vec<Arc<Pod>> = active.iter().map(|h| self.context.allocations.granted(&h.pod())).collect();
        let usages = self.measure(&pods).await;
        rank::rank(&mut pods, &usages, worst.signal, machine.images_apart);
        let Some(victim) = pods.iter().find(|p| !admit::is_critical(p)) else {
            tracing::warn!("no pod can be evicted");
            return evicted;
        };
        let Some(handle) = active.into_iter().find(|h| pod::uid(&h.pod()) == pod::uid(victim)) else {
            return evicted;
        };
        let met: Vec<&Threshold> = met.iter().collect();
        let message = rank::message(victim, resource, &met, &seen, &usages);
        let most = Some(self.settings.most_grace).filter(|most| *most > 0);
        let grace = if worst.is_hard() { Some(AT_ONCE) } else { most };
        self.evict(&handle, worst.signal.name(), Eviction { message, grace, disrupts: true });
        vec![handle]
    }

    /// Ends pods that wrote more than they may.
    async fn keep_limits(&self, active: &[Arc<Handle>], images_apart: bool) -> Vec<Arc<Handle>> {
        let limited = active.iter().filter(|h| limits::has_limits(&h.pod()));
        let limited: Vec<(&Arc<Handle>, Arc<Pod>)> = limited.map(|h| (h, h.pod())).collect();
        if limited.is_empty() {
            return Vec::new();
        }
        let pods: Vec<Arc<Pod>> = limited.iter().map(|(_, pod)| pod.clone()).collect();
        let usages = self.measure(&pods).await;
        let mut evicted = Vec::new();
        for (handle, pod) in limited.into_iter().filter(|(_, pod)| !admit::is_critical(pod)) {
            let usage = usages.get(pod::uid(&pod));
            let Some(found) = usage.and_then(|u| limits::exceeded(&pod, u, images_apart)) else { continue };
            let eviction = Eviction { message: found.message, grace: Some(AT_ONCE), disrupts: false };
            self.evict(handle, found.signal, eviction);
            evicted.push(handle.clone());
        }
        evicted
    }

    fn evict(&self, handle: &Handle, signal: &'static str, eviction: Eviction) {
        let pod = handle.pod();
        tracing::warn!(pod = pod::full_name(&pod), message = eviction.message, "evicting a pod");
        self.context.event(&pod, EventType::Warning, REASON, eviction.message.clone());
        self.context.pressures.count(signal);
        handle.evict(eviction);
    }

    /// What pods use; nothing where the runtime does not say.
    async fn measure(&self, pods: &[Arc<Pod>]) -> Usages {
        match self.stats.of(pods).await {
            Ok(snapshot) => usage::usages(&snapshot),
            Err(error) => {
                tracing::warn!(%error, "pods cannot be measured");
                Usages::default()
            }
        }
    }

    /// Makes room without ending pods, where that can help: containers of pods that are over, and images that nobody
    /// uses. Whether it was enough.
    async fn reclaim(&self, signal: Signal, active: &[Arc<Handle>], machine: &Machine) -> bool {
        let helps = match signal {
            Signal::ImageFs | Signal::ImageFsInodes => true,
            Signal::NodeFs | Signal::NodeFsInodes => !machine.images_apart,
            Signal::Memory | Signal::PodsMemory | Signal::Pids => false,
        };
        if !helps {
            return false;
        }
        self.remove_dead_containers(active).await;
        if let Err(error) = self.images.remove_unused().await {
            tracing::warn!(%error, "unused images not removed");
        }
        let seen = observe(&self.stats.machine().await);
        pressure::met(&self.settings.thresholds, &seen, true).is_empty()
    }

    /// Removes what is left in the runtime of pods that are over (`DeleteAllUnusedContainers`).
    async fn remove_dead_containers(&self, active: &[Arc<Handle>]) {
        let runtime = &self.context.runtime;
        let Ok(containers) = runtime.list_containers(HashMap::new()).await else { return };
        let dead = containers.into_iter().filter(|c| c.state == i32::from(v1::ContainerState::ContainerExited));
        for container in dead {
            let owner = container.labels.get(keys::POD_UID);
            if active.iter().any(|h| owner.is_some_and(|uid| uid == pod::uid(&h.pod()))) {
                continue;
            }
            if let Err(error) = runtime.remove_container(&container.id).await {
                tracing::debug!(container = container.id, %error, "dead container not removed");
            }
        }
    }
}

/// What a machine has of what is watched (`makeSignalObservations`).
fn observe(machine: &Machine) -> Observations {
    let mut seen = Observations::new();
    let number = |n: u64| i64::try_from(n).unwrap_or(i64::MAX);
    let mut note = |signal: Signal, available: u64, capacity: u64| {
        seen.insert(signal, Observation { available: number(available), capacity: number(capacity) });
    };
    let all = machine.memory.and_then(|m| m.limit);
    if let (Some(memory), Some(all)) = (machine.memory, all) {
        note(Signal::Memory, all.saturating_sub(memory.working_set), all);
    }
    // Pods may use everything where nothing limits them together.
    if let Some((pods, limit)) = machine.pods.and_then(|m| Some((m, m.limit.or(all)?))) {
        note(Signal::PodsMemory, limit.saturating_sub(pods.working_set), limit);
    }
    if let Some(fs) = machine.node {
        note(Signal::NodeFs, fs.available, fs.reachable());
        note(Signal::NodeFsInodes, fs.inodes_free, fs.inodes);
    }
    if let Some(fs) = machine.images {
        note(Signal::ImageFs, fs.available, fs.reachable());
        note(Signal::ImageFsInodes, fs.inodes_free, fs.inodes);
    }
    if let Some((most, running)) = machine.processes {
        seen.insert(Signal::Pids, Observation { available: most - running, capacity: most });
    }
    seen
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stats::disk::Filesystem;
    use crate::stats::usage::Memory;

    #[test]
    fn a_machine_is_observed() {
        let memory = |working_set: u64, limit| Some(Memory { working_set, limit, ..Memory::default() });
        let fs = |available: u64| {
            Some(Filesystem {
                capacity: 200,
                available,
                used: 100 - available,
                inodes: 10,
                inodes_free: available / 10,
            })
        };
        let machine = Machine {
            memory: memory(300, Some(1000)),
            pods: memory(200, None),
            node: fs(50),
            images: fs(20),
            images_apart: true,
            processes: Some((32768, 768)),
        };
        let told: Vec<String> = observe(&machine)
            .into_iter()
            .map(|(signal, o)| format!("{} {}/{}", signal.name(), o.available, o.capacity))
            .collect();
        let expected = [
            "memory.available 700/1000",
            "allocatableMemory.available 800/1000",
            "nodefs.available 50/100",
            "nodefs.inodesFree 5/10",
            "imagefs.available 20/100",
            "imagefs.inodesFree 2/10",
            "pid.available 32000/32768",
        ];
        assert_eq!(told, expected);
        assert!(observe(&Machine::default()).is_empty());
    }
}
