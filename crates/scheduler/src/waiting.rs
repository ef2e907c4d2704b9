//! Pods that have a node and wait for leave to go there. Upstream: `waiting_pods_map.go` and `WaitOnPermit` in
//! `pkg/scheduler/framework/runtime`.
//!
//! A `Permit` plugin that says [`crate::framework::Permit::Wait`] gives leave later, by [`WaitingPods::allow`], or
//! refuses it; when it says nothing for so long, the pod is refused. What was decided is handed to the loop by
//! [`WaitingPods::decided`]: the pod goes, or gives back what it had taken.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use crate::pod::PodInfo;

/// No plugin may have a pod wait longer (`maxTimeout` in `framework.go`).
const LONGEST: Duration = Duration::from_secs(15 * 60);

/// A pod that waits for leave.
#[derive(Clone, Debug)]
pub struct WaitingPod {
    /// The pod.
    pub pod: Arc<PodInfo>,
    /// The node that is kept for it.
    pub node: Arc<str>,
    /// Since when it waits.
    pub since: Instant,
    /// The plugins it waits for: how long at most, and until when that is.
    pending: BTreeMap<&'static str, (Duration, Instant)>,
    /// The plugins that something happened for meanwhile: a refusal of theirs may not be the last word.
    helped: BTreeSet<&'static str>,
}

impl WaitingPod {
    /// The plugins it waits for.
    pub fn pending(&self) -> impl Iterator<Item = &'static str> + '_ {
        self.pending.keys().copied()
    }

    /// Whether something happened meanwhile that may help with what a plugin refused.
    pub fn is_helped(&self, plugin: &str) -> bool {
        self.helped.contains(plugin)
    }
}

/// Why a pod may not go after all.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rejection {
    /// Whose word it is; empty where it is no plugin's.
    pub plugin: &'static str,
    /// Why.
    pub message: String,
}

/// A pod that waits no longer; it goes, unless it was refused.
pub type Decided = (WaitingPod, Result<(), Rejection>);

/// Pods that wait for leave, by UID.
#[derive(Debug, Default)]
pub struct WaitingPods {
    pods: BTreeMap<String, WaitingPod>,
    decided: Vec<Decided>,
}

impl WaitingPods {
    /// Has a pod wait for plugins, each for so long at most.
    pub fn add(&mut self, pod: Arc<PodInfo>, node: &str, waits: Vec<(&'static str, Duration)>, now: Instant) {
        let pending = waits.into_iter().map(|(plugin, most)| {
            let most = most.min(LONGEST);
            (plugin, (most, now + most))
        });
        let (uid, pending) = (pod.uid().to_owned(), pending.collect());
        let waiting = WaitingPod { pod, node: node.into(), since: now, pending, helped: BTreeSet::new() };
        self.pods.insert(uid, waiting);
    }

    /// A pod that waits.
    pub fn get(&self, uid: &str) -> Option<&WaitingPod> {
        self.pods.get(uid)
    }

    /// All that wait.
    pub fn iter(&self) -> impl Iterator<Item = &WaitingPod> {
        self.pods.values()
    }

    /// Gives a plugin's leave; the pod goes when it waits for no other.
    pub fn allow(&mut self, uid: &str, plugin: &str) {
        let Some(waiting) = self.pods.get_mut(uid) else { return };
        waiting.pending.remove(plugin);
        if waiting.pending.is_empty()
            && let Some(waiting) = self.pods.remove(uid)
        {
            self.decided.push((waiting, Ok(())));
        }
    }

    /// Refuses a pod in the name of a plugin; whether it was waiting.
    pub fn reject(&mut self, uid: &str, plugin: &'static str, message: &str) -> bool {
        let Some(waiting) = self.pods.remove(uid) else { return false };
        self.decided.push((waiting, Err(Rejection { plugin, message: message.to_owned() })));
        true
    }

    /// Remembers for each pod the plugins that an event may help; `helps` is asked about those it waits for.
    pub fn on_event(&mut self, helps: impl Fn(&PodInfo, &'static str) -> bool) {
        for waiting in self.pods.values_mut() {
            let helped: Vec<_> = waiting.pending.keys().copied().filter(|p| helps(&waiting.pod, p)).collect();
            waiting.helped.extend(helped);
        }
    }

    /// Refuses the pods whose time is over.
    pub fn expire(&mut self, now: Instant) {
        let late = |w: &WaitingPod| {
            let first = w.pending.iter().filter(|(_, (_, until))| *until <= now).min_by_key(|(_, (_, until))| *until);
            first.map(|(plugin, (most, _))| (w.pod.uid().to_owned(), *plugin, *most))
        };
        let late: Vec<_> = self.pods.values().filter_map(late).collect();
        for (uid, plugin, most) in late {
            let most = go_text(most);
            self.reject(&uid, plugin, &format!("rejected due to timeout after waiting {most} at plugin {plugin}"));
        }
    }

    /// When the first time is over.
    pub fn next_deadline(&self) -> Option<Instant> {
        self.pods.values().flat_map(|w| w.pending.values()).map(|(_, until)| *until).min()
    }

    /// What was decided since this was last asked.
    pub fn decided(&mut self) -> Vec<Decided> {
        std::mem::take(&mut self.decided)
    }
}

/// A duration as Go writes it: `1h0m5s`, `1m30s`, `10s`, `500ms`.
pub(crate) fn go_text(duration: Duration) -> String {
    let minutes = duration.as_secs() / 60;
    let seconds = duration - Duration::from_secs(60 * minutes);
    match (minutes / 60, minutes % 60) {
        (0, 0) if seconds.is_zero() => "0s".to_owned(),
        (0, 0) => format!("{seconds:?}"),
        (0, minutes) => format!("{minutes}m{}s", seconds.as_secs_f64()),
        (hours, minutes) => format!("{hours}h{minutes}m{}s", seconds.as_secs_f64()),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::pod::tests::pod;

    fn waiting(waits: &[(&'static str, u64)], now: Instant) -> WaitingPods {
        let mut all = WaitingPods::default();
        let waits = waits.iter().map(|(plugin, seconds)| (*plugin, Duration::from_secs(*seconds))).collect();
        all.add(pod("a", json!({})), "n", waits, now);
        all
    }

    /// What was decided: plugin and text of a refusal.
    fn outcome(all: &mut WaitingPods) -> Vec<Result<(), (&'static str, String)>> {
        all.decided().into_iter().map(|(_, r)| r.map_err(|r| (r.plugin, r.message))).collect()
    }

    #[tokio::test(start_paused = true)]
    async fn a_pod_goes_when_every_plugin_gave_leave() {
        let now = Instant::now();
        let mut all = waiting(&[("A", 10), ("B", 20)], now);
        all.allow("a", "A");
        assert_eq!(outcome(&mut all), []);
        assert_eq!(all.get("a").map(|w| w.pending().collect::<Vec<_>>()), Some(vec!["B"]));
        all.allow("a", "B");
        assert_eq!(outcome(&mut all), [Ok(())]);
        assert!(all.iter().next().is_none() && all.next_deadline().is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn one_refusal_is_enough() {
        let mut all = waiting(&[("A", 10), ("B", 20)], Instant::now());
        assert!(all.reject("a", "B", "no"));
        assert!(!all.reject("a", "A", "no"), "it waits no longer");
        assert_eq!(outcome(&mut all), [Err(("B", "no".to_owned()))]);
    }

    #[tokio::test(start_paused = true)]
    async fn the_first_time_that_is_over_refuses() {
        let now = Instant::now();
        let mut all = waiting(&[("A", 90), ("B", 5000)], now);
        assert_eq!(all.next_deadline(), Some(now + Duration::from_secs(90)));
        all.expire(now + Duration::from_secs(89));
        assert_eq!(outcome(&mut all), []);
        all.expire(now + Duration::from_secs(90));
        let text = "rejected due to timeout after waiting 1m30s at plugin A";
        assert_eq!(outcome(&mut all), [Err(("A", text.to_owned()))]);
        let mut all = waiting(&[("B", 5000)], now);
        all.expire(now + LONGEST);
        assert_eq!(outcome(&mut all).len(), 1, "no plugin may have a pod wait longer");
    }

    #[tokio::test(start_paused = true)]
    async fn what_happens_meanwhile_is_remembered() {
        let mut all = waiting(&[("A", 10), ("B", 20)], Instant::now());
        all.on_event(|_, plugin| plugin == "B");
        all.reject("a", "B", "no");
        let decided = all.decided();
        assert!(decided[0].0.is_helped("B") && !decided[0].0.is_helped("A"));
    }
}
