//! Pods that wait: those to be tried now by priority and age, those in back-off, those that need something to
//! happen first, those that may not be tried at all. Upstream: `pkg/scheduler/backend/queue/scheduling_queue.go`.

use std::cmp::Reverse;
use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use crate::metrics;
use crate::pod::PodInfo;

/// A pod that waited so long for something to happen is tried again all the same.
const UNSCHEDULABLE_MOST: Duration = Duration::from_secs(300);

/// Order of the pods to be tried (`PrioritySort`): priority, then the order they came in.
type Rank = (Reverse<i64>, u64, String);

#[derive(Debug)]
enum Place {
    Active(Rank),
    Backoff {
        until: Instant,
        /// Something failed: the whole back-off must be waited for.
        failed: bool,
    },
    Unschedulable {
        since: Instant,
        plugins: Vec<&'static str>,
        /// Something has happened that may help, while the pod could not be moved.
        helped: bool,
    },
    Gated {
        /// Who does not let it be tried.
        plugin: &'static str,
    },
}

/// How many pods are in each part of the queue.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Lengths {
    /// To be tried now.
    pub active: usize,
    /// In back-off.
    pub backoff: usize,
    /// Wait for something to happen.
    pub unschedulable: usize,
    /// May not be tried.
    pub gated: usize,
}

#[derive(Debug)]
struct Entry {
    pod: Arc<PodInfo>,
    place: Place,
    past: Past,
    arrived: u64,
    /// When its back-off ends.
    retry_at: Option<Instant>,
}

/// What a pod has been through; it is kept while the pod is out of the queue for a cycle.
#[derive(Clone, Copy, Debug)]
pub struct Past {
    /// How often it was tried, this time included.
    pub attempts: u32,
    /// How often it was refused (`UnschedulableCount`).
    refusals: u32,
    /// How often in a row something failed (`ConsecutiveErrorsCount`).
    faults: u32,
    /// Since when the queue has known it.
    pub since: Instant,
}

impl Past {
    fn new(now: Instant) -> Past {
        Past { attempts: 0, refusals: 0, faults: 0, since: now }
    }
}

/// How long pods wait after a failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Backoff {
    /// After the first.
    pub initial: Duration,
    /// At most; it doubles until then.
    pub most: Duration,
}

impl Default for Backoff {
    fn default() -> Self {
        Backoff { initial: Duration::from_secs(1), most: Duration::from_secs(10) }
    }
}

/// The pods that wait, by UID.
#[derive(Debug, Default)]
pub struct Queue {
    times: Backoff,
    entries: HashMap<String, Entry>,
    active: BTreeSet<Rank>,
    backoff: BTreeSet<(Instant, String)>,
    /// Those of them that may be tried before their time, when there is nothing else to do.
    early: BTreeSet<(Instant, String)>,
    unschedulable: BTreeSet<(Instant, String)>,
    /// How many pods that wait for something to happen each plugin has refused.
    refused_by: HashMap<&'static str, usize>,
    /// By plugin: the pods that it does not let be tried.
    gated_by: HashMap<&'static str, BTreeSet<String>>,
    arrivals: u64,
    /// Pods that are out of the queue for a cycle.
    trying: HashMap<String, Past>,
}

impl Queue {
    /// A queue with its back-off.
    pub fn new(times: Backoff) -> Queue {
        Queue { times, ..Queue::default() }
    }

    /// Adds a pod that has just come, or takes over what it says now; it is tried at once.
    pub fn add(&mut self, pod: Arc<PodInfo>, now: Instant) {
        let uid = pod.uid().to_owned();
        let (past, arrived) = match self.remove_entry(&uid) {
            Some(entry) => (entry.past, entry.arrived),
            None => (self.trying.remove(&uid).unwrap_or(Past::new(now)), self.arrive()),
        };
        let place = Place::Active((Reverse(pod.template.priority), arrived, uid));
        self.enter(Entry { pod, place, past, arrived, retry_at: None }, "UnscheduledPodAdd");
    }

    /// Keeps a pod that a plugin does not let be tried.
    pub fn gate(&mut self, pod: Arc<PodInfo>, plugin: &'static str, now: Instant) {
        if matches!(self.entries.get(pod.uid()), Some(Entry { place: Place::Gated { plugin: p }, .. }) if *p == plugin)
        {
            self.refresh(pod);
            return;
        }
        let past = self.remove_entry(pod.uid()).map_or(Past::new(now), |e| e.past);
        let arrived = self.arrive();
        let place = Place::Gated { plugin };
        self.enter(Entry { pod, place, past, arrived, retry_at: None }, "UnscheduledPodAdd");
    }

    /// Takes over what a waiting pod says now. One that was refused is tried again if that `helps` with what one of the
    /// plugins refused.
    pub fn update(&mut self, pod: Arc<PodInfo>, now: Instant, helps: impl Fn(&'static str) -> bool) {
        let uid = pod.uid().to_owned();
        let Some(entry) = self.entries.get_mut(&uid) else { return };
        entry.pod = pod;
        if matches!(&entry.place, Place::Unschedulable { plugins, .. } if plugins.iter().any(|p| helps(p))) {
            self.release(&uid, now, "UnscheduledPodUpdate");
        }
    }

    /// Whether a waiting pod is kept by a plugin from being tried.
    pub fn is_gated(&self, uid: &str) -> bool {
        matches!(self.entries.get(uid), Some(Entry { place: Place::Gated { .. }, .. }))
    }

    /// Whether a waiting pod is to be tried now or when its back-off ends.
    pub fn is_due(&self, uid: &str) -> bool {
        matches!(self.entries.get(uid), Some(Entry { place: Place::Active(_) | Place::Backoff { .. }, .. }))
    }

    fn arrive(&mut self) -> u64 {
        self.arrivals += 1;
        self.arrivals
    }

    /// Changes what is known of a waiting pod without moving it.
    pub fn refresh(&mut self, pod: Arc<PodInfo>) {
        if let Some(entry) = self.entries.get_mut(pod.uid()) {
            entry.pod = pod;
        }
    }

    /// What is known of a waiting pod.
    pub fn get(&self, uid: &str) -> Option<&Arc<PodInfo>> {
        self.entries.get(uid).map(|e| &e.pod)
    }

    /// Forgets a pod.
    pub fn remove(&mut self, uid: &str) {
        self.remove_entry(uid);
        self.trying.remove(uid);
    }

    /// What is kept of a pod that is out of the queue for a cycle.
    pub fn trying(&self, uid: &str) -> Option<Past> {
        self.trying.get(uid).copied()
    }

    /// The next pod to try. It has left the queue: [`Queue::failed`] or [`Queue::remove`] ends its cycle.
    pub fn pop(&mut self, now: Instant) -> Option<Arc<PodInfo>> {
        while let Some((at, uid)) = self.backoff.first().cloned() {
            if at > now {
                break;
            }
            self.activate(&uid);
        }
        let uid = match self.active.first() {
            Some((_, _, uid)) => uid.clone(),
            // There is time: what waits only so as not to be in others' way is not in anyone's.
            None => self.early.first()?.1.clone(),
        };
        let entry = self.remove_entry(&uid)?;
        self.trying.insert(uid, Past { attempts: entry.past.attempts + 1, ..entry.past });
        Some(entry.pod)
    }

    /// A pod could not be placed: it waits until an event may help it with what `plugins` refused, but at least its
    /// back-off. Without plugins (a fault, not a refusal) the back-off alone.
    pub fn failed(&mut self, pod: Arc<PodInfo>, plugins: Vec<&'static str>, now: Instant) {
        let uid = pod.uid().to_owned();
        if self.entries.contains_key(&uid) {
            // It changed during its cycle and is in line again.
            return;
        }
        let mut past = self.trying.remove(&uid).unwrap_or(Past { attempts: 1, ..Past::new(now) });
        let times = if plugins.is_empty() {
            past.faults += 1;
            past.faults
        } else {
            past.refusals += 1;
            past.faults = 0;
            past.refusals
        };
        let doubled = self.times.initial.saturating_mul(1 << times.saturating_sub(1).min(30));
        let retry_at = now + doubled.min(self.times.most);
        let place = match plugins.is_empty() {
            true => Place::Backoff { until: retry_at, failed: true },
            false => Place::Unschedulable { since: now, plugins, helped: false },
        };
        let arrived = self.arrive();
        self.enter(Entry { pod, place, past, arrived, retry_at: Some(retry_at) }, "ScheduleAttemptFailure");
    }

    /// Moves the pods that an event may help: `helps` is asked with the pod and each plugin that refused it, `hears`
    /// before that whether a plugin cares at all. Pods that are `held` are remembered instead. Returned are the pods
    /// that may not be tried and whose plugin may think otherwise now: it is to be asked again.
    pub fn on_event(
        &mut self,
        now: Instant,
        label: &str,
        hears: impl Fn(&'static str) -> bool,
        held: impl Fn(&PodInfo) -> bool,
        helps: impl Fn(&PodInfo, &'static str) -> bool,
    ) -> Vec<Arc<PodInfo>> {
        let mut ask_again = Vec::new();
        for (plugin, uids) in self.gated_by.iter().filter(|(p, _)| hears(p)) {
            let pods = uids.iter().filter_map(|uid| self.entries.get(uid)).map(|e| &e.pod);
            ask_again.extend(pods.filter(|pod| helps(pod, plugin)).cloned());
        }
        if !self.refused_by.keys().any(|p| hears(p)) {
            return ask_again;
        }
        let mut moved: Vec<String> = Vec::new();
        for (_, uid) in &self.unschedulable {
            let Some(entry) = self.entries.get_mut(uid) else { continue };
            let Place::Unschedulable { plugins, helped, .. } = &mut entry.place else { continue };
            if plugins.iter().any(|p| hears(p) && helps(&entry.pod, p)) {
                if held(&entry.pod) {
                    *helped = true;
                } else {
                    moved.push(uid.clone());
                }
            }
        }
        for uid in moved {
            self.release(&uid, now, label);
        }
        ask_again
    }

    /// A pod that was held is so no longer: it moves if something has happened meanwhile, or in any case if `always`.
    pub fn let_go(&mut self, uid: &str, always: bool, now: Instant) {
        let Some(entry) = self.entries.get(uid) else { return };
        if matches!(entry.place, Place::Unschedulable { helped, .. } if helped || always) {
            self.release(uid, now, "ForceActivate");
        }
    }

    /// Releases pods that have waited too long for an event.
    pub fn flush(&mut self, now: Instant) {
        while let Some((since, uid)) = self.unschedulable.first().cloned() {
            if since + UNSCHEDULABLE_MOST > now {
                break;
            }
            self.release(&uid, now, "UnschedulableTimeout");
        }
    }

    /// When something must be done although nothing happens; `None`: never.
    pub fn next_deadline(&self) -> Option<Instant> {
        let backoff = self.backoff.first().map(|(at, _)| *at);
        let flush = self.unschedulable.first().map(|(since, _)| *since + UNSCHEDULABLE_MOST);
        backoff.into_iter().chain(flush).min()
    }

    /// Whether a pod can be tried now.
    pub fn has_active(&self, now: Instant) -> bool {
        !self.active.is_empty() || !self.early.is_empty() || self.backoff.first().is_some_and(|(at, _)| *at <= now)
    }

    /// How many pods are where.
    pub fn lengths(&self) -> Lengths {
        let (active, backoff, unschedulable) = (self.active.len(), self.backoff.len(), self.unschedulable.len());
        Lengths { active, backoff, unschedulable, gated: self.entries.len() - active - backoff - unschedulable }
    }

    /// How many pods wait.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether no pod waits.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    fn release(&mut self, uid: &str, now: Instant, event: &str) {
        let Some(mut entry) = self.remove_entry(uid) else { return };
        entry.place = match entry.retry_at {
            Some(until) if until > now => Place::Backoff { until, failed: false },
            _ => Place::Active((Reverse(entry.pod.template.priority), entry.arrived, uid.to_owned())),
        };
        self.enter(entry, event);
    }

    fn activate(&mut self, uid: &str) {
        let Some(mut entry) = self.remove_entry(uid) else { return };
        entry.place = Place::Active((Reverse(entry.pod.template.priority), entry.arrived, uid.to_owned()));
        self.enter(entry, "BackoffComplete");
    }

    /// Puts an entry where it belongs; `event` is what metrics say of it.
    fn enter(&mut self, entry: Entry, event: &str) {
        let uid = entry.pod.uid().to_owned();
        let queue = match &entry.place {
            Place::Active(_) => "active",
            Place::Backoff { .. } => "backoff",
            Place::Unschedulable { .. } => "unschedulable",
            Place::Gated { .. } => "gated",
        };
        metrics::incoming(queue, event);
        match &entry.place {
            Place::Active(rank) => {
                self.active.insert(rank.clone());
            }
            Place::Backoff { until, failed } => {
                self.backoff.insert((*until, uid.clone()));
                if !failed {
                    self.early.insert((*until, uid.clone()));
                }
            }
            Place::Unschedulable { since, plugins, .. } => {
                self.unschedulable.insert((*since, uid.clone()));
                plugins.iter().for_each(|p| *self.refused_by.entry(p).or_default() += 1);
                metrics::unschedulable(&entry.pod.template.scheduler_name, plugins, 1.0);
            }
            Place::Gated { plugin } => {
                self.gated_by.entry(plugin).or_default().insert(uid.clone());
            }
        }
        self.entries.insert(uid, entry);
    }

    fn remove_entry(&mut self, uid: &str) -> Option<Entry> {
        let entry = self.entries.remove(uid)?;
        match &entry.place {
            Place::Active(rank) => {
                self.active.remove(rank);
            }
            Place::Backoff { until, .. } => {
                let at = (*until, uid.to_owned());
                self.backoff.remove(&at);
                self.early.remove(&at);
            }
            Place::Unschedulable { since, plugins, .. } => {
                self.unschedulable.remove(&(*since, uid.to_owned()));
                metrics::unschedulable(&entry.pod.template.scheduler_name, plugins, -1.0);
                for plugin in plugins {
                    if let Some(n) = self.refused_by.get_mut(plugin) {
                        *n -= 1;
                        if *n == 0 {
                            self.refused_by.remove(plugin);
                        }
                    }
                }
            }
            Place::Gated { plugin } => {
                if let Some(uids) = self.gated_by.get_mut(plugin) {
                    uids.remove(uid);
                    if uids.is_empty() {
                        self.gated_by.remove(plugin);
                    }
                }
            }
        }
        Some(entry)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::pod::tests::pod;

    fn names(queue: &mut Queue, now: Instant) -> Vec<String> {
        std::iter::from_fn(|| queue.pop(now)).map(|p| p.meta.name.to_string()).collect()
    }

    fn event(queue: &mut Queue, now: Instant, helps: &'static str) {
        queue.on_event(now, "Test", |_| true, |_| false, |_, plugin| plugin == helps);
    }

    #[tokio::test(start_paused = true)]
    async fn the_more_important_pod_is_first_then_the_older_one() {
        let mut queue = Queue::default();
        let now = Instant::now();
        for (name, priority) in [("a", 0), ("b", 10), ("c", 0), ("d", 10)] {
            queue.add(pod(name, json!({"priority": priority})), now);
        }
        assert_eq!(names(&mut queue, Instant::now()), ["b", "d", "a", "c"]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_refused_pod_waits_for_an_event_that_helps() {
        let mut queue = Queue::default();
        let now = Instant::now();
        queue.add(pod("a", json!({})), now);
        let a = queue.pop(now).expect("it is there");
        queue.failed(a, vec!["Fit"], now);
        assert!(!queue.has_active(now));
        event(&mut queue, now, "Other");
        assert!(!queue.has_active(now), "no help");
        event(&mut queue, now, "Fit");
        assert_eq!(names(&mut queue, now), ["a"], "its back-off is not over, but there is nothing else to do");
    }

    #[tokio::test(start_paused = true)]
    async fn a_pod_in_back_off_comes_after_all_others() {
        let mut queue = Queue::default();
        let now = Instant::now();
        queue.add(pod("a", json!({"priority": 5})), now);
        let a = queue.pop(now).expect("it is there");
        queue.failed(a, vec!["Fit"], now);
        event(&mut queue, now, "Fit");
        queue.add(pod("b", json!({})), now);
        assert_eq!(names(&mut queue, now), ["b", "a"]);
    }

    #[tokio::test(start_paused = true)]
    async fn back_off_doubles_and_ends_at_ten_seconds() {
        let mut queue = Queue::default();
        let now = Instant::now();
        queue.add(pod("a", json!({})), now);
        let mut waits = Vec::new();
        let mut at = now;
        for _ in 0..6 {
            let a = queue.pop(at).expect("its time has come");
            queue.failed(a, vec![], at);
            assert!(queue.pop(at).is_none(), "after a fault the whole back-off is waited for");
            let next = queue.next_deadline().expect("it backs off");
            waits.push((next - at).as_secs());
            at = next;
        }
        assert_eq!(waits, [1, 2, 4, 8, 10, 10]);
    }

    #[tokio::test(start_paused = true)]
    async fn refusals_and_faults_are_counted_apart() {
        let mut queue = Queue::default();
        let mut at = Instant::now();
        queue.add(pod("a", json!({})), at);
        let mut wait = |plugins: Vec<&'static str>| {
            let a = queue.pop(at).expect("its time has come");
            queue.failed(a, plugins, at);
            event(&mut queue, at, "Fit");
            let next = queue.next_deadline().expect("it backs off");
            (next - std::mem::replace(&mut at, next)).as_secs()
        };
        let (refused, fault) = (|| vec!["Fit"], Vec::new);
        assert_eq!([wait(refused()), wait(refused()), wait(refused())], [1, 2, 4]);
        assert_eq!([wait(fault()), wait(fault())], [1, 2], "a fault begins anew");
        assert_eq!(wait(refused()), 8, "and is over with the next refusal");
        assert_eq!(wait(fault()), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn a_forgotten_pod_is_tried_again_after_five_minutes() {
        let mut queue = Queue::default();
        let now = Instant::now();
        queue.add(pod("a", json!({})), now);
        let a = queue.pop(now).expect("it is there");
        queue.failed(a, vec!["Fit"], now);
        let later = queue.next_deadline().expect("a flush");
        assert_eq!(later - now, UNSCHEDULABLE_MOST);
        queue.flush(later);
        assert_eq!(names(&mut queue, later), ["a"]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_pod_that_changes_is_tried_at_once() {
        let mut queue = Queue::default();
        let now = Instant::now();
        queue.add(pod("a", json!({})), now);
        let a = queue.pop(now).expect("it is there");
        queue.failed(a, vec!["Fit"], now);
        queue.add(pod("a", json!({"priority": 3})), now);
        assert_eq!(names(&mut queue, now), ["a"]);
        queue.remove("a");
        assert!(queue.is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn a_held_pod_moves_when_it_is_let_go() {
        let mut queue = Queue::default();
        let now = Instant::now();
        queue.add(pod("a", json!({})), now);
        let a = queue.pop(now).expect("it is there");
        queue.failed(a, vec!["Fit"], now);
        queue.let_go("a", false, now);
        assert!(!queue.has_active(now), "nothing has happened");
        queue.on_event(now, "Test", |_| true, |_| true, |_, _| true);
        assert!(!queue.has_active(now), "it is held");
        queue.let_go("a", false, now);
        assert_eq!(names(&mut queue, now), ["a"]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_refused_pod_that_changes_is_tried_again_if_that_helps() {
        let mut queue = Queue::default();
        let now = Instant::now();
        queue.add(pod("a", json!({})), now);
        let a = queue.pop(now).expect("it is there");
        queue.failed(a, vec!["Fit"], now);
        queue.update(pod("a", json!({})), now, |plugin| plugin == "Taints");
        assert!(!queue.has_active(now), "no help");
        queue.update(pod("a", json!({})), now, |plugin| plugin == "Fit");
        assert_eq!(queue.lengths(), Lengths { backoff: 1, ..Lengths::default() }, "its back-off is waited for");
        assert_eq!(names(&mut queue, now), ["a"]);
    }

    #[tokio::test(start_paused = true)]
    async fn what_a_pod_has_been_through_is_known_in_its_cycle() {
        let mut queue = Queue::default();
        let start = Instant::now();
        queue.add(pod("a", json!({})), start);
        let later = start + Duration::from_secs(7);
        for attempt in 1..3 {
            let a = queue.pop(later).expect("it is there");
            let trying = queue.trying("a").expect("it is out for a cycle");
            assert_eq!((trying.attempts, trying.since), (attempt, start));
            queue.failed(a, vec!["Fit"], later);
            event(&mut queue, later, "Fit");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_gate_is_looked_at_again_when_its_plugin_hears_something() {
        let mut queue = Queue::default();
        let now = Instant::now();
        queue.gate(pod("a", json!({})), "Claims", now);
        queue.gate(pod("b", json!({})), "Gates", now);
        assert_eq!(queue.lengths(), Lengths { gated: 2, ..Lengths::default() });
        let again = queue.on_event(now, "Test", |p| p == "Claims", |_| false, |pod, _| &*pod.meta.name == "a");
        assert_eq!(again.iter().map(|p| &*p.meta.name).collect::<Vec<_>>(), ["a"]);
        assert!(queue.is_gated("a") && !queue.has_active(now), "asking again is the caller's");
    }

    #[tokio::test(start_paused = true)]
    async fn a_gated_pod_waits_until_it_is_added() {
        let mut queue = Queue::default();
        let now = Instant::now();
        queue.gate(pod("a", json!({})), "Gates", now);
        event(&mut queue, now, "Fit");
        assert_eq!((queue.has_active(now), queue.next_deadline()), (false, None));
        queue.add(pod("a", json!({})), now);
        assert_eq!(names(&mut queue, now), ["a"]);
    }
}
