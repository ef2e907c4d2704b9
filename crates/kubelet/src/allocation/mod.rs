//! What the node has granted its pods: who is taken, and with which resources. A resize changes a pod's spec at once, and
//! what the pod has when the node grants it; everything else in the kubelet sees pods as they were granted
//! ([`Allocations::of`]). Carrying a resize out is [`crate::resize`]'s.
//!
//! Follows upstream's `pkg/kubelet/allocation`. Differs: a resize that was infeasible is looked at again with the others,
//! as a node may grow; and of what is in force, only what differs from what was granted is noted.

mod conditions;
mod grant;
mod ledger;
mod pending;

use std::collections::{HashMap, HashSet};
use std::path::Path;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Node, Pod, PodCondition, ResourceRequirements};
use k8s_openapi::jiff::Timestamp;
use orkd_reconcile::{EventType, Informer};
use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::admit::{self, Refusal};
use crate::eviction::pressure::Condition;
use crate::node_context::NodeContext;
use crate::pod;
use crate::views::NodeView;
pub use conditions::{IN_PROGRESS, PENDING, Resizing, event_message};
pub use grant::{Grant, adopt, resizable, same};
use ledger::{Ledger, Note};

/// A pod that was taken.
struct Taken {
    /// As it was granted.
    pod: Arc<Pod>,
    resizing: Resizing,
    /// Nothing of it runs any more.
    over: bool,
}

#[derive(Default)]
struct State {
    pods: HashMap<String, Taken>,
    ledger: Ledger,
}

impl State {
    /// The other pods, with what they may hold.
    fn others(&self, uid: &str, has_ended: &impl Fn(&Pod) -> bool) -> Vec<Arc<Pod>> {
        let others = self.pods.iter().filter(|(other, t)| *other != uid && !t.over && !has_ended(&t.pod));
        let holds = |uid: &str, taken: &Taken| match self.ledger.get(uid) {
            Some(Note { granted, in_force: Some(has) }) => granted.clone().at_least(has).apply(&taken.pod),
            _ => taken.pod.clone(),
        };
        others.map(|(uid, taken)| holds(uid, taken)).collect()
    }

    fn wants(&self, object: &Pod) -> bool {
        self.ledger.get(pod::uid(object)).is_some_and(|note| !note.granted.is_all_of(object))
    }

    /// Whether a pod's resize is to be looked at.
    fn concerns(&self, object: &Pod) -> bool {
        let taken = self.pods.get(pod::uid(object)).filter(|t| !t.over);
        object.metadata.deletion_timestamp.is_none()
            && taken.is_some_and(|t| t.resizing.pending.is_some() || self.wants(object))
    }

    fn note(&mut self, uid: &str, note: Note) -> bool {
        let noted = self.ledger.put(uid, note);
        if let Err(error) = &noted {
            tracing::error!(uid, %error, "what a pod is granted cannot be noted");
        }
        noted.is_ok()
    }
}

/// What there is to tell of a resize.
#[derive(Debug, Clone, PartialEq)]
pub struct Decision {
    /// The pod.
    pub pod: Arc<Pod>,
    /// The event, where there is news: its type, reason and text.
    pub event: Option<(EventType, &'static str, String)>,
}

/// The pods that the node has taken and that have not ended.
#[derive(Default)]
pub struct Allocations {
    node: Option<Informer<NodeView>>,
    state: Mutex<State>,
    stirred: Notify,
}

impl Allocations {
    /// Of the node that an informer of it alone knows; notes are kept below `root`, if there is one.
    pub fn of_node(node: Informer<NodeView>, root: Option<&Path>) -> Self {
        let state = State { ledger: Ledger::open(root), ..State::default() };
        Allocations { node: Some(node), state: Mutex::new(state), stirred: Notify::new() }
    }

    fn node(&self) -> Option<Arc<Node>> {
        let node = self.node.as_ref().and_then(|informer| informer.list().into_iter().next());
        node.map(|view| view.object.clone())
    }

    /// Takes a pod, with what it had been granted before if it was here, or says why not. `has_ended` tells of which of
    /// the others nothing runs any more.
    ///
    /// # Errors
    /// Why it is not taken.
    pub fn take(&self, object: &Arc<Pod>, has_ended: impl Fn(&Pod) -> bool) -> Result<(), Refusal> {
        let node = self.node();
        let mut state = self.state.lock();
        let others = state.others(pod::uid(object), &has_ended);
        let others: Vec<&Pod> = others.iter().map(Arc::as_ref).collect();
        let granted = state.ledger.get(pod::uid(object)).map_or_else(|| object.clone(), |n| n.granted.apply(object));
        if let Some(refusal) = admit::refusal(&granted, node.as_deref(), &others) {
            return Err(refusal);
        }
        self.hold(&mut state, object);
        Ok(())
    }

    /// Takes a pod that runs already.
    pub fn keep(&self, object: &Arc<Pod>) {
        self.hold(&mut self.state.lock(), object);
    }

    fn hold(&self, state: &mut State, object: &Arc<Pod>) {
        let uid = pod::uid(object);
        let note = state.ledger.get(uid).cloned();
        let note = note.unwrap_or_else(|| Note { granted: Grant::of(object), in_force: None });
        let taken =
            Taken { pod: note.granted.apply(object), resizing: Resizing::of(object.status.as_ref()), over: false };
        state.pods.insert(uid.to_owned(), taken);
        state.note(uid, note);
        if state.concerns(object) {
            self.stirred.notify_one();
        }
    }

    /// Nothing of a pod runs any more.
    pub fn release(&self, uid: &str) {
        if let Some(taken) = self.state.lock().pods.get_mut(uid) {
            taken.over = true;
        }
        self.stirred.notify_one();
    }

    /// Nothing is left of a pod.
    pub fn forget(&self, uid: &str) {
        let mut state = self.state.lock();
        state.pods.remove(uid);
        state.ledger.retain(|other| other != uid);
    }

    /// Forgets pods that are gone since an earlier life of the kubelet.
    pub fn forget_others(&self, known: &HashSet<String>) {
        let mut state = self.state.lock();
        let State { pods, ledger } = &mut *state;
        ledger.retain(|uid| known.contains(uid) || pods.contains_key(uid));
    }

    /// A pod as it was granted; and what is in force, if that is something else yet.
    pub fn of(&self, object: &Arc<Pod>) -> (Arc<Pod>, Option<Grant>) {
        match self.state.lock().ledger.get(pod::uid(object)) {
            Some(note) => (note.granted.apply(object), note.in_force.clone()),
            None => (object.clone(), None),
        }
    }

    /// A pod as it was granted.
    pub fn granted(&self, object: &Arc<Pod>) -> Arc<Pod> {
        self.of(object).0
    }

    /// The conditions of a pod's resize.
    pub fn conditions(&self, uid: &str) -> Vec<PodCondition> {
        self.state.lock().pods.get(uid).into_iter().flat_map(|t| t.resizing.conditions().cloned()).collect()
    }

    /// Waits until a resize may be decided otherwise than before.
    pub async fn stirred(&self) {
        self.stirred.notified().await;
    }

    /// A pod has changed.
    pub fn look_at(&self, object: &Pod) {
        if self.state.lock().concerns(object) {
            self.stirred.notify_one();
        }
    }

    /// Decides the resizes of these pods, as they want to be (`retryPendingResizes`). Tells of those about which something
    /// is new.
    pub fn decide(
        &self,
        wanted: &[Arc<Pod>],
        short_of: &[Condition],
        has_ended: impl Fn(&Pod) -> bool,
        now: Timestamp,
    ) -> Vec<Decision> {
        let mut state = self.state.lock();
        let mut waiting: Vec<&Arc<Pod>> = wanted.iter().filter(|object| state.concerns(object)).collect();
        if waiting.is_empty() {
            return Vec::new();
        }
        waiting.sort_by_cached_key(|object| {
            let taken = state.pods.get(pod::uid(object));
            let granted = taken.map_or(*object, |t| &t.pod);
            pending::order(object, granted, taken.and_then(|t| t.resizing.pending.as_ref()))
        });
        let node = self.node();
        let mut decisions = Vec::new();
        for object in waiting {
            let uid = pod::uid(object);
            let generation = object.metadata.generation.unwrap_or_default();
            let wants = state.wants(object);
            let others = if wants { state.others(uid, &has_ended) } else { Vec::new() };
            let others: Vec<&Pod> = others.iter().map(Arc::as_ref).collect();
            let refused = wants.then(|| pending::refusal(object, node.as_deref(), &others, short_of)).flatten();
            if wants && refused.is_none() {
                let note = state.ledger.get(uid).cloned().unwrap_or_default();
                let in_force = Some(note.in_force.unwrap_or(note.granted));
                if !state.note(uid, Note { granted: Grant::of(object), in_force }) {
                    continue;
                }
            }
            let Some(taken) = state.pods.get_mut(uid) else { continue };
            let event = match refused {
                Some((reason, message)) => {
                    if !taken.resizing.put_off(reason, &message, generation, now) {
                        continue;
                    }
                    let event = if reason == pending::INFEASIBLE { "ResizeInfeasible" } else { "ResizeDeferred" };
                    Some((EventType::Warning, event, event_message(reason, object, generation, &message)))
                }
                None if wants => {
                    taken.pod = object.clone();
                    taken.resizing.grant(generation, now);
                    Some((EventType::Normal, "ResizeStarted", event_message("started", object, generation, "")))
                }
                // It wants no more than it has.
                None => {
                    taken.resizing.pending = None;
                    None
                }
            };
            decisions.push(Decision { pod: object.clone(), event });
        }
        decisions
    }

    /// Compares what was granted with what is in force in containers that run; those that do not run are made as granted.
    /// Returns the generation of a resize that is done now.
    pub fn settle(&self, object: &Pod, runs: impl Fn(&str) -> bool, now: Timestamp) -> Option<i64> {
        let uid = pod::uid(object);
        let mut state = self.state.lock();
        let note = state.ledger.get(uid)?;
        let has = |name: &str| note.in_force.as_ref().and_then(|has| has.containers.get(name));
        let under_way = note.in_force.as_ref().is_some_and(|in_force| {
            let differs = |(name, granted): (&String, &ResourceRequirements)| {
                runs(name) && has(name).is_some_and(|has| !same(Some(granted), Some(has)))
            };
            note.granted.containers.iter().any(differs) || !same(note.granted.pod.as_ref(), in_force.pod.as_ref())
        });
        if !under_way && note.in_force.is_some() {
            let granted = note.granted.clone();
            state.note(uid, Note { granted, in_force: None });
            // What it gave back may be what others wait for.
            self.stirred.notify_one();
        }
        let taken = state.pods.get_mut(uid)?;
        if under_way {
            taken.resizing.go_on(object.metadata.generation.unwrap_or_default(), now);
            return None;
        }
        taken.resizing.finish()
    }

    /// What is in force of a container, or was made so.
    pub fn put_in_force(&self, uid: &str, container: &str, resources: ResourceRequirements) {
        self.change(uid, |has| drop(has.containers.insert(container.to_owned(), resources)));
    }

    /// What is in force of the pod as a whole.
    pub fn put_pod_in_force(&self, uid: &str, resources: Option<ResourceRequirements>) {
        self.change(uid, |has| has.pod = resources);
    }

    fn change(&self, uid: &str, change: impl FnOnce(&mut Grant)) {
        let mut state = self.state.lock();
        let Some(Note { granted, in_force: Some(has) }) = state.ledger.get(uid) else { return };
        let (granted, mut has) = (granted.clone(), has.clone());
        change(&mut has);
        state.note(uid, Note { granted, in_force: Some(has) });
    }

    /// A resize could not be carried out. The generation it is of, if that is news.
    pub fn fail(&self, object: &Pod, message: &str, now: Timestamp) -> Option<i64> {
        let mut state = self.state.lock();
        let taken = state.pods.get_mut(pod::uid(object))?;
        taken.resizing.fail(message, object.metadata.generation.unwrap_or_default(), now)
    }
}

/// Decides the resizes of these pods, as they want to be, and tells of it. Returns whose workers have to look.
pub fn retry(cx: &NodeContext, wanted: &[Arc<Pod>]) -> Vec<String> {
    let short_of = cx.pressures.conditions();
    let decisions = cx.allocations.decide(wanted, &short_of, |other| cx.has_ended(other), Timestamp::now());
    for decision in &decisions {
        if let Some((kind, reason, message)) = &decision.event {
            cx.event(&decision.pod, *kind, reason, message.clone());
        }
    }
    decisions.iter().map(|d| pod::uid(&d.pod).to_owned()).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn a_pod(uid: &str, spec: Value) -> Arc<Pod> {
        let object = json!({"metadata": {"name": uid, "uid": uid, "generation": 2}, "spec": spec});
        Arc::new(serde_json::from_value(object).expect("a pod"))
    }

    fn asks(uid: &str, cpu: &str) -> Arc<Pod> {
        a_pod(uid, json!({"containers": [{"name": "c", "resources": {"requests": {"cpu": cpu}}}]}))
    }

    fn ports(uid: &str) -> Arc<Pod> {
        a_pod(uid, json!({"containers": [{"name": "c", "ports": [{"containerPort": 80, "hostPort": 8080}]}]}))
    }

    #[test]
    fn a_pod_that_has_gone_holds_nothing() {
        let taken = Allocations::default();
        assert_eq!(taken.take(&ports("a"), |_| false), Ok(()));
        assert_eq!(taken.take(&ports("a"), |_| false), Ok(()), "it does not stand in its own way");
        assert!(taken.take(&ports("b"), |_| false).is_err());
        assert_eq!(taken.take(&ports("b"), |_| true), Ok(()), "the other has ended");
        taken.release("a");
        assert!(taken.take(&ports("c"), |_| false).is_err(), "b is there");
        taken.release("b");
        assert_eq!(taken.take(&ports("c"), |_| false), Ok(()));
    }

    fn decide(node: &Allocations, wanted: &[Arc<Pod>]) -> Vec<&'static str> {
        let decisions = node.decide(wanted, &[], |_| false, Timestamp::UNIX_EPOCH);
        decisions.into_iter().map(|d| d.event.map_or("", |(_, reason, _)| reason)).collect()
    }

    fn cpu(object: &Pod) -> i64 {
        crate::resources::pod_request(&pod::spec(object), "cpu")
    }

    #[test]
    fn what_is_granted_changes_when_the_node_says_so_and_is_in_force_when_it_is_done() {
        let node = Allocations::default();
        node.keep(&asks("a", "1"));
        let bigger = asks("a", "2");
        assert_eq!(cpu(&node.granted(&bigger)), 1000, "asked for, not granted");
        assert_eq!(decide(&node, std::slice::from_ref(&bigger)), ["ResizeStarted"]);
        assert_eq!(decide(&node, std::slice::from_ref(&bigger)), [""; 0]);
        let (granted, in_force) = node.of(&bigger);
        assert_eq!((cpu(&granted), in_force), (2000, Some(Grant::of(&asks("a", "1")))));

        // Another before that one is done: what is in force is still the first.
        let smaller = asks("a", "500m");
        assert_eq!(decide(&node, std::slice::from_ref(&smaller)), ["ResizeStarted"]);
        assert_eq!(node.of(&smaller).1, Some(Grant::of(&asks("a", "1"))));
        let others = node.state.lock().others("b", &|_| false);
        assert_eq!(others.iter().map(|p| cpu(p)).collect::<Vec<_>>(), [1000], "it counts with what it may hold");

        assert_eq!(node.settle(&smaller, |_| true, Timestamp::UNIX_EPOCH), None);
        assert_eq!(node.conditions("a").iter().map(|c| c.type_.as_str()).collect::<Vec<_>>(), [IN_PROGRESS]);
        let has = Grant::of(&smaller).containers["c"].clone();
        node.put_in_force("a", "c", has.clone());
        assert_eq!(node.settle(&smaller, |_| true, Timestamp::UNIX_EPOCH), Some(2));
        assert_eq!((node.of(&smaller).1, node.conditions("a")), (None, Vec::new()));
        node.put_in_force("a", "c", has);
        assert_eq!(node.of(&smaller).1, None, "a container that is made outside of a resize has what is granted");
    }

    #[test]
    fn a_resize_of_what_does_not_run_is_done_at_once() {
        let node = Allocations::default();
        node.keep(&asks("a", "1"));
        assert_eq!(decide(&node, &[asks("a", "2")]), ["ResizeStarted"]);
        assert_eq!(node.settle(&asks("a", "2"), |_| false, Timestamp::UNIX_EPOCH), Some(2));
    }

    #[test]
    fn a_restarted_kubelet_knows_what_it_granted() {
        let dir = tempfile::tempdir().expect("dir");
        let open = || Allocations {
            state: Mutex::new(State { ledger: Ledger::open(Some(dir.path())), ..State::default() }),
            ..Allocations::default()
        };
        let before = open();
        before.keep(&asks("a", "1"));
        before.keep(&asks("gone", "1"));
        assert_eq!(decide(&before, &[asks("a", "2")]), ["ResizeStarted"]);

        let after = open();
        // The spec was changed while nobody looked.
        let wanted = asks("a", "3");
        assert_eq!(after.take(&wanted, |_| false), Ok(()));
        after.forget_others(&HashSet::from(["a".to_owned()]));
        assert_eq!(after.of(&wanted).1, Some(Grant::of(&asks("a", "1"))));
        assert_eq!(cpu(&after.granted(&wanted)), 2000);
        assert_eq!(decide(&after, std::slice::from_ref(&wanted)), ["ResizeStarted"]);
        after.forget("a");
        assert_eq!(cpu(&open().granted(&asks("a", "7"))), 7000);
        assert_eq!(cpu(&open().granted(&asks("gone", "7"))), 7000);
    }

    #[test]
    fn a_resize_is_put_off_and_taken_back() {
        let node = Allocations::default();
        node.keep(&asks("a", "1"));
        let wanted = asks("a", "2");
        let short = [Condition::Disk];
        let events: Vec<_> = node
            .decide(std::slice::from_ref(&wanted), &short, |_| false, Timestamp::UNIX_EPOCH)
            .into_iter()
            .filter_map(|d| d.event)
            .collect();
        assert_eq!(events.len(), 1);
        assert_eq!((events[0].0, events[0].1), (EventType::Warning, "ResizeDeferred"));
        assert!(events[0].2.starts_with("Pod resize Deferred: {"), "{}", events[0].2);
        assert_eq!(node.conditions("a").iter().map(|c| c.type_.as_str()).collect::<Vec<_>>(), [PENDING]);
        assert_eq!(decide(&node, &[asks("a", "1")]), [""], "it was taken back");
        assert_eq!(node.conditions("a"), Vec::new());
        assert_eq!(cpu(&node.granted(&wanted)), 1000);
    }
}
