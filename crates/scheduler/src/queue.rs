//! Pods that wait: those to be tried now by priority and age, those in back-off, those that need something to
//! happen first. Upstream: `pkg/scheduler/backend/queue/scheduling_queue.go`.

use std::cmp::Reverse;
use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use crate::pod::PodInfo;

/// The first back-off after a failure, and the longest.
const BACKOFF_INITIAL: Duration = Duration::from_secs(1);
const BACKOFF_MOST: Duration = Duration::from_secs(10);

/// A pod that waited so long for something to happen is tried again all the same.
const UNSCHEDULABLE_MOST: Duration = Duration::from_secs(300);

/// Order of the pods to be tried: priority, then age, then the order they came in.
type Rank = (Reverse<i64>, u64, String);

#[derive(Debug)]
enum Place {
    Active(Rank),
    Backoff(Instant),
    Unschedulable { since: Instant, plugins: Vec<&'static str> },
}

#[derive(Debug)]
struct Entry {
    pod: Arc<PodInfo>,
    place: Place,
    attempts: u32,
    arrived: u64,
    /// When its back-off ends.
    retry_at: Option<Instant>,
}

/// The pods that wait, by UID.
#[derive(Debug, Default)]
pub struct Queue {
    entries: HashMap<String, Entry>,
    active: BTreeSet<Rank>,
    backoff: BTreeSet<(Instant, String)>,
    arrivals: u64,
    /// How often each pod was tried, while it is out of the queue for a cycle.
    tried: HashMap<String, (u32, u64)>,
}

impl Queue {
    /// Adds a pod that has just come, or takes over what it says now; it is tried at once.
    pub fn add(&mut self, pod: Arc<PodInfo>) {
        let uid = pod.uid.clone();
        let (attempts, arrived) = match self.remove_entry(&uid) {
            Some(entry) => (entry.attempts, entry.arrived),
            None => self.tried.remove(&uid).unwrap_or_else(|| {
                self.arrivals += 1;
                (0, self.arrivals)
            }),
        };
        self.insert(Entry { pod, place: Place::Backoff(Instant::now()), attempts, arrived, retry_at: None }, None);
    }

    /// Changes what is known of a waiting pod without moving it.
    pub fn refresh(&mut self, pod: Arc<PodInfo>) {
        if let Some(entry) = self.entries.get_mut(&pod.uid) {
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
        self.tried.remove(uid);
    }

    /// The next pod to try. It has left the queue: [`Queue::failed`] or [`Queue::remove`] ends its cycle.
    pub fn pop(&mut self, now: Instant) -> Option<Arc<PodInfo>> {
        while let Some((at, uid)) = self.backoff.first().cloned() {
            if at > now {
                break;
            }
            self.activate(&uid);
        }
        let uid = self.active.first()?.2.clone();
        let entry = self.remove_entry(&uid)?;
        self.tried.insert(uid, (entry.attempts + 1, entry.arrived));
        Some(entry.pod)
    }

    /// A pod could not be placed: it waits until an event may help it with what `plugins` refused, but at least its
    /// back-off. Without plugins (a fault, not a refusal) the back-off alone.
    pub fn failed(&mut self, pod: Arc<PodInfo>, plugins: Vec<&'static str>, now: Instant) {
        let uid = pod.uid.clone();
        if self.entries.contains_key(&uid) {
            // It changed during its cycle and is in line again.
            return;
        }
        let (attempts, arrived) = self.tried.remove(&uid).unwrap_or((1, 0));
        let doubled = BACKOFF_INITIAL.saturating_mul(1 << attempts.saturating_sub(1).min(10));
        let retry_at = now + doubled.min(BACKOFF_MOST);
        let place = match plugins.is_empty() {
            true => Place::Backoff(retry_at),
            false => Place::Unschedulable { since: now, plugins },
        };
        self.insert(Entry { pod, place, attempts, arrived, retry_at: Some(retry_at) }, Some(retry_at));
    }

    /// Moves the pods that an event may help: `helps` is asked with the pod and each plugin that refused it.
    pub fn on_event(&mut self, now: Instant, helps: impl Fn(&PodInfo, &'static str) -> bool) {
        let moved: Vec<String> = self
            .entries
            .iter()
            .filter(|(_, entry)| match &entry.place {
                Place::Unschedulable { plugins, .. } => plugins.iter().any(|p| helps(&entry.pod, p)),
                _ => false,
            })
            .map(|(uid, _)| uid.clone())
            .collect();
        for uid in moved {
            self.release(&uid, now);
        }
    }

    /// Releases pods that have waited too long for an event.
    pub fn flush(&mut self, now: Instant) {
        let old: Vec<String> = self
            .entries
            .iter()
            .filter(
                |(_, e)| matches!(&e.place, Place::Unschedulable { since, .. } if *since + UNSCHEDULABLE_MOST <= now),
            )
            .map(|(uid, _)| uid.clone())
            .collect();
        for uid in old {
            self.release(&uid, now);
        }
    }

    /// When something must be done although nothing happens; `None`: never.
    pub fn next_deadline(&self) -> Option<Instant> {
        let backoff = self.backoff.first().map(|(at, _)| *at);
        let flush = self.entries.values().filter_map(|e| match &e.place {
            Place::Unschedulable { since, .. } => Some(*since + UNSCHEDULABLE_MOST),
            _ => None,
        });
        flush.chain(backoff).min()
    }

    /// Whether a pod can be tried now.
    pub fn has_active(&self, now: Instant) -> bool {
        !self.active.is_empty() || self.backoff.first().is_some_and(|(at, _)| *at <= now)
    }

    /// How many pods wait.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether no pod waits.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Out of the unschedulable ones: into back-off if that is not over, else to be tried.
    fn release(&mut self, uid: &str, now: Instant) {
        let Some(mut entry) = self.remove_entry(uid) else { return };
        let retry_at = entry.retry_at.filter(|at| *at > now);
        entry.place = Place::Backoff(now);
        self.insert(entry, retry_at);
    }

    fn activate(&mut self, uid: &str) {
        let Some(entry) = self.remove_entry(uid) else { return };
        self.insert(entry, None);
    }

    /// Puts an entry where its place says; a `Backoff` place with no time to wait is an active one.
    fn insert(&mut self, mut entry: Entry, retry_at: Option<Instant>) {
        let uid = entry.pod.uid.clone();
        if !matches!(entry.place, Place::Unschedulable { .. }) {
            entry.place = match retry_at {
                Some(at) => {
                    self.backoff.insert((at, uid.clone()));
                    Place::Backoff(at)
                }
                None => {
                    let rank = (Reverse(entry.pod.priority), entry.arrived, uid.clone());
                    self.active.insert(rank.clone());
                    Place::Active(rank)
                }
            };
        }
        self.entries.insert(uid, entry);
    }

    fn remove_entry(&mut self, uid: &str) -> Option<Entry> {
        let entry = self.entries.remove(uid)?;
        match &entry.place {
            Place::Active(rank) => {
                self.active.remove(rank);
            }
            Place::Backoff(at) => {
                self.backoff.remove(&(*at, uid.to_owned()));
            }
            Place::Unschedulable { .. } => {}
        }
        Some(entry)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::nodes::tests::pod;

    fn names(queue: &mut Queue, now: Instant) -> Vec<String> {
        std::iter::from_fn(|| queue.pop(now)).map(|p| p.uid.clone()).collect()
    }

    #[tokio::test(start_paused = true)]
    async fn priority_then_age() {
        let mut queue = Queue::default();
        queue.add(pod("a", json!({})));
        queue.add(pod("b", json!({"priority": 5})));
        queue.add(pod("c", json!({})));
        assert_eq!(names(&mut queue, Instant::now()), ["b", "a", "c"]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_refused_pod_waits_for_an_event_and_its_back_off() {
        let mut queue = Queue::default();
        let now = Instant::now();
        queue.add(pod("a", json!({})));
        let a = queue.pop(now).expect("it is there");
        queue.failed(a, vec!["Fit"], now);
        queue.on_event(now, |_, plugin| plugin == "Other");
        assert!(!queue.has_active(now + Duration::from_secs(60)));
        queue.on_event(now, |_, plugin| plugin == "Fit");
        assert!(!queue.has_active(now), "its back-off is not over");
        assert_eq!(queue.next_deadline(), Some(now + BACKOFF_INITIAL));
        assert_eq!(names(&mut queue, now + BACKOFF_INITIAL), ["a"]);
    }

    #[tokio::test(start_paused = true)]
    async fn back_off_doubles_and_ends_at_ten_seconds() {
        let mut queue = Queue::default();
        let now = Instant::now();
        queue.add(pod("a", json!({})));
        let mut waits = Vec::new();
        let mut at = now;
        for _ in 0..6 {
            let a = queue.pop(at).expect("its time has come");
            queue.failed(a, vec![], at);
            let next = queue.next_deadline().expect("it backs off");
            waits.push((next - at).as_secs());
            at = next;
        }
        assert_eq!(waits, [1, 2, 4, 8, 10, 10]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_forgotten_pod_is_tried_again_after_five_minutes() {
        let mut queue = Queue::default();
        let now = Instant::now();
        queue.add(pod("a", json!({})));
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
        queue.add(pod("a", json!({})));
        let a = queue.pop(now).expect("it is there");
        queue.failed(a, vec!["Fit"], now);
        queue.add(pod("a", json!({"priority": 3})));
        assert_eq!(names(&mut queue, now), ["a"]);
        queue.remove("a");
        assert!(queue.is_empty());
    }
}
