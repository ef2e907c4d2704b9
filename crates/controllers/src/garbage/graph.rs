//! Who owns whom, as far as watches tell. Pure: events in, keys to look at out.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use orkd_reconcile::{Key, Meta, OwnerRef, Resource};

/// The finalizer of an object that waits for its dependents to go.
pub const FOREGROUND: &str = "foregroundDeletion";
/// The finalizer of an object whose dependents are to stay.
pub const ORPHAN: &str = "orphan";

/// An object, or one that others name as their owner.
#[derive(Clone, Debug)]
pub struct Node {
    pub resource: Arc<Resource>,
    pub key: Key,
    pub owners: Vec<OwnerRef>,
    /// Whether it has been seen; otherwise others speak of it.
    pub observed: bool,
    pub deleting: bool,
    /// Whether it waits for its dependents to go.
    pub deleting_dependents: bool,
    pub orphaning: bool,
}

/// What is to be looked at.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Task {
    /// Whether the object with this uid is to go.
    Delete(String),
    /// Let the dependents of the object with this uid stay.
    Orphan(String),
}

impl std::fmt::Display for Task {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Task::Delete(uid) => write!(f, "delete {uid}"),
            Task::Orphan(uid) => write!(f, "orphan dependents of {uid}"),
        }
    }
}

/// Objects by uid.
#[derive(Default)]
pub struct Graph {
    nodes: HashMap<String, Node>,
    dependents: HashMap<String, HashSet<String>>,
}

impl Graph {
    pub fn node(&self, uid: &str) -> Option<&Node> {
        self.nodes.get(uid)
    }

    /// The objects that name this one as an owner.
    pub fn dependents(&self, uid: &str) -> Vec<(String, Node)> {
        let uids = self.dependents.get(uid).into_iter().flatten();
        uids.filter_map(|uid| Some((uid.clone(), self.nodes.get(uid)?.clone()))).collect()
    }

    /// An object is there or has changed.
    pub fn apply(&mut self, resource: &Arc<Resource>, meta: &Meta) -> Vec<Task> {
        let mut tasks = Vec::new();
        let uid = meta.uid.clone();
        let has = |finalizer: &str| meta.is_deleting() && meta.finalizers.iter().any(|f| f == finalizer);
        let node = Node {
            resource: resource.clone(),
            key: meta.key(),
            owners: meta.owner_references.clone(),
            observed: true,
            deleting: meta.is_deleting(),
            deleting_dependents: has(FOREGROUND),
            orphaning: has(ORPHAN),
        };
        let old = self.nodes.remove(&uid);
        let old_owners = old.as_ref().map(|o| o.owners.as_slice()).unwrap_or_default();
        for gone in old_owners.iter().filter(|o| !node.owners.iter().any(|n| n.uid == o.uid)) {
            self.unlink(&gone.uid, &uid);
        }
        for before in old_owners.iter().filter(|o| o.block_owner_deletion) {
            let blocks = node.owners.iter().any(|n| n.uid == before.uid && n.block_owner_deletion);
            if !blocks {
                tasks.extend(self.waiting(&before.uid));
            }
        }
        for owner in &node.owners {
            self.dependents.entry(owner.uid.clone()).or_default().insert(uid.clone());
        }
        let seen_before = old.as_ref().is_some_and(|o| o.observed);
        let owners_changed = old_owners != node.owners;
        if !node.owners.is_empty() && (!seen_before || owners_changed) {
            // Whether its owners are there is asked once, then again when one of them goes.
            let all_known = node.owners.iter().all(|o| self.nodes.get(&o.uid).is_some_and(|n| n.observed));
            let one_waits = node.owners.iter().any(|o| self.nodes.get(&o.uid).is_some_and(|n| n.deleting_dependents));
            if !all_known || one_waits {
                tasks.push(Task::Delete(uid.clone()));
            }
        }
        if node.orphaning && !old.as_ref().is_some_and(|o| o.orphaning) {
            tasks.push(Task::Orphan(uid.clone()));
        }
        if node.deleting_dependents && !old.as_ref().is_some_and(|o| o.deleting_dependents) {
            tasks.extend(self.dependents.get(&uid).into_iter().flatten().cloned().map(Task::Delete));
            tasks.push(Task::Delete(uid.clone()));
        }
        self.nodes.insert(uid, node);
        tasks
    }

    /// An object is gone.
    pub fn remove(&mut self, uid: &str) -> Vec<Task> {
        let Some(node) = self.nodes.remove(uid) else {
            // Never seen, and known not to exist: those who name it need a look.
            return self.dependents.get(uid).into_iter().flatten().cloned().map(Task::Delete).collect();
        };
        let mut tasks: Vec<Task> = self.dependents.get(uid).into_iter().flatten().cloned().map(Task::Delete).collect();
        for owner in &node.owners {
            self.unlink(&owner.uid, uid);
            tasks.extend(self.waiting(&owner.uid));
        }
        tasks
    }

    fn waiting(&self, uid: &str) -> Option<Task> {
        self.nodes.get(uid).filter(|n| n.deleting_dependents).map(|_| Task::Delete(uid.to_owned()))
    }

    fn unlink(&mut self, owner: &str, dependent: &str) {
        if let Some(dependents) = self.dependents.get_mut(owner) {
            dependents.remove(dependent);
            if dependents.is_empty() {
                self.dependents.remove(owner);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn meta(uid: &str, owners: &[&str], change: impl FnOnce(&mut Value)) -> Meta {
        let owners: Vec<Value> = owners.iter().map(|o| json!({"uid": o, "blockOwnerDeletion": true})).collect();
        let mut json = json!({"name": uid, "namespace": "n", "uid": uid, "ownerReferences": owners});
        change(&mut json);
        serde_json::from_value(json).expect("metadata")
    }

    fn waiting(v: &mut Value) {
        v["deletionTimestamp"] = "2026-01-01T00:00:00Z".into();
        v["finalizers"] = json!([FOREGROUND]);
    }

    fn check(tasks: Vec<Task>, expected: &[&str]) {
        let mut texts: Vec<String> = tasks.iter().map(ToString::to_string).collect();
        texts.sort();
        texts.dedup();
        assert_eq!(texts, expected);
    }

    #[test]
    fn dependents_are_looked_at_when_their_owner_goes() {
        let (mut graph, r) = (Graph::default(), Arc::new(Resource::new("", "v1", "pods", "Pod", true)));
        check(graph.apply(&r, &meta("owner", &[], |_| {})), &[]);
        check(graph.apply(&r, &meta("a", &["owner"], |_| {})), &[]);
        check(graph.apply(&r, &meta("a", &["owner"], |_| {})), &[]);
        check(graph.apply(&r, &meta("b", &["unknown"], |_| {})), &["delete b"]);
        check(graph.remove("owner"), &["delete a"]);
        check(graph.remove("unknown"), &["delete b"]);
    }

    #[test]
    fn a_waiting_owner_is_looked_at_when_a_dependent_goes() {
        let (mut graph, r) = (Graph::default(), Arc::new(Resource::new("", "v1", "pods", "Pod", true)));
        graph.apply(&r, &meta("owner", &[], |_| {}));
        graph.apply(&r, &meta("a", &["owner"], |_| {}));
        graph.apply(&r, &meta("b", &["owner"], |_| {}));
        check(graph.apply(&r, &meta("owner", &[], waiting)), &["delete a", "delete b", "delete owner"]);
        check(graph.remove("a"), &["delete owner"]);
        // Released instead of deleted.
        check(graph.apply(&r, &meta("b", &[], |_| {})), &["delete owner"]);
        assert!(graph.dependents("owner").is_empty());
    }

    #[test]
    fn an_orphaning_owner_is_looked_at_once() {
        let (mut graph, r) = (Graph::default(), Arc::new(Resource::new("", "v1", "pods", "Pod", true)));
        let orphan = |v: &mut Value| {
            waiting(v);
            v["finalizers"] = json!([ORPHAN]);
        };
        check(graph.apply(&r, &meta("owner", &[], orphan)), &["orphan dependents of owner"]);
        check(graph.apply(&r, &meta("owner", &[], orphan)), &[]);
    }
}
