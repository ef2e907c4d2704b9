//! Who owns whom, as far as watches tell. Pure: events in, keys to look at out.

use std::borrow::Borrow;
use std::collections::{HashMap, HashSet};
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use jiff::Timestamp;
use orkd_reconcile::{Key, Meta, ObjectRef, OwnerRef, Resource, Shared, View, shared_text};
use serde::Deserialize;

/// The finalizer of an object that waits for its dependents to go.
pub const FOREGROUND: &str = "foregroundDeletion";
/// The finalizer of an object whose dependents are to stay.
pub const ORPHAN: &str = "orphan";

/// The metadata of any object, without what is not asked about: labels, annotations, times.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, from = "Raw")]
pub struct Any(Meta);

#[derive(Default, Deserialize)]
#[serde(default)]
struct Raw {
    metadata: RawMeta,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct RawMeta {
    name: Arc<str>,
    #[serde(deserialize_with = "shared_text")]
    namespace: Arc<str>,
    uid: String,
    resource_version: String,
    owner_references: Shared<Vec<OwnerRef>>,
    finalizers: Shared<Vec<String>>,
    deletion_timestamp: Option<Timestamp>,
}

impl From<Raw> for Any {
    fn from(Raw { metadata: raw }: Raw) -> Self {
        Any(Meta {
            name: raw.name,
            namespace: raw.namespace,
            uid: raw.uid,
            resource_version: raw.resource_version,
            owner_references: raw.owner_references,
            finalizers: raw.finalizers,
            deletion_timestamp: raw.deletion_timestamp,
            ..Meta::default()
        })
    }
}

impl View for Any {
    const GROUP: &'static str = "";
    const VERSION: &'static str = "v1";
    const KIND: &'static str = "PartialObjectMetadata";
    const PLURAL: &'static str = "";
    fn meta(&self) -> &Meta {
        &self.0
    }
}

/// An object that has been seen. It is found by its uid, and holds what the cache of its resource holds.
#[derive(Clone, Debug)]
pub struct Node {
    pub resource: Arc<Resource>,
    object: Arc<Any>,
}

impl Node {
    pub fn new(resource: Arc<Resource>, object: Arc<Any>) -> Self {
        Node { resource, object }
    }

    pub fn uid(&self) -> &str {
        &self.object.0.uid
    }

    pub fn key(&self) -> Key {
        self.object.0.key()
    }

    /// What events about it name.
    pub fn about(&self) -> ObjectRef {
        ObjectRef { resource_version: String::new(), ..ObjectRef::new(&self.resource, &self.object.0) }
    }

    pub fn owners(&self) -> &Shared<Vec<OwnerRef>> {
        &self.object.0.owner_references
    }

    pub fn is_deleting(&self) -> bool {
        self.object.0.is_deleting()
    }

    /// Whether it waits for its dependents to go.
    pub fn deletes_dependents(&self) -> bool {
        self.is_held_by(FOREGROUND)
    }

    fn orphans_dependents(&self) -> bool {
        self.is_held_by(ORPHAN)
    }

    fn is_held_by(&self, finalizer: &str) -> bool {
        self.is_deleting() && self.object.0.finalizers.iter().any(|f| f == finalizer)
    }
}

impl PartialEq for Node {
    fn eq(&self, other: &Self) -> bool {
        self.uid() == other.uid()
    }
}

impl Eq for Node {}

impl Hash for Node {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.uid().hash(state);
    }
}

impl Borrow<str> for Node {
    fn borrow(&self) -> &str {
        self.uid()
    }
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
    nodes: HashSet<Node>,
    /// Those that name an owner, by its uid. Whether the owner has been seen does not matter.
    dependents: HashMap<String, HashSet<Node>>,
    /// Objects that name an owner of another namespace, not told yet.
    misled: Vec<(Node, OwnerRef)>,
}

/// How an object sees one that its reference to an owner has the uid of (`addDependentToOwners`).
#[derive(PartialEq, Eq)]
enum Match {
    Right,
    /// Group, kind or name are others: the reference is wrong, or the owner was seen by another version's name.
    Unlike,
    /// The owner is in another namespace, where no reference reaches.
    Elsewhere,
}

fn compare(dependent: &Node, reference: &OwnerRef, owner: &Node) -> Match {
    if owner.resource.namespaced && owner.object.0.namespace != dependent.object.0.namespace {
        return Match::Elsewhere;
    }
    let alike = *owner.object.0.name == *reference.name
        && *owner.resource.kind == *reference.kind
        && *owner.resource.group == *reference.group();
    if alike { Match::Right } else { Match::Unlike }
}

impl Graph {
    /// Objects that were found to name an owner of another namespace, each once.
    pub fn take_misled(&mut self) -> Vec<(Node, OwnerRef)> {
        std::mem::take(&mut self.misled)
    }

    pub fn node(&self, uid: &str) -> Option<&Node> {
        self.nodes.get(uid)
    }

    /// The objects that name this one as an owner.
    pub fn dependents(&self, uid: &str) -> Vec<Node> {
        self.dependents.get(uid).into_iter().flatten().cloned().collect()
    }

    /// An object is there or has changed.
    pub fn apply(&mut self, node: Node) -> Vec<Task> {
        let mut tasks = Vec::new();
        let old = self.nodes.take(node.uid());
        let old_owners = old.as_ref().map(|o| o.owners().clone()).unwrap_or_default();
        for gone in old_owners.iter().filter(|o| !node.owners().iter().any(|n| n.uid == o.uid)) {
            self.unlink(&gone.uid, node.uid());
        }
        for before in old_owners.iter().filter(|o| o.block_owner_deletion) {
            let blocks = node.owners().iter().any(|n| n.uid == before.uid && n.block_owner_deletion);
            if !blocks {
                tasks.extend(self.waiting(&before.uid));
            }
        }
        for owner in node.owners() {
            match self.dependents.get_mut(&owner.uid) {
                // What stood before is not kept alive.
                Some(dependents) => drop(dependents.replace(node.clone())),
                None => drop(self.dependents.insert(owner.uid.clone(), HashSet::from([node.clone()]))),
            }
        }
        if !node.owners().is_empty() && (old.is_none() || old_owners != *node.owners()) {
            // Whether its owners are there is asked once, then again when one of them goes.
            let all_known = node.owners().iter().all(|o| self.nodes.contains(o.uid.as_str()));
            let one_waits = node.owners().iter().any(|o| self.node(&o.uid).is_some_and(Node::deletes_dependents));
            let one_is_wrong = self.judge_owners(&node, &old_owners);
            if !all_known || one_waits || one_is_wrong {
                tasks.push(Task::Delete(node.uid().to_owned()));
            }
        }
        if old.is_none() {
            tasks.extend(self.judge_dependents(&node));
        }
        if node.orphans_dependents() && !old.as_ref().is_some_and(Node::orphans_dependents) {
            tasks.push(Task::Orphan(node.uid().to_owned()));
        }
        if node.deletes_dependents() && !old.as_ref().is_some_and(Node::deletes_dependents) {
            tasks.extend(self.looks_at_dependents(node.uid()));
            tasks.push(Task::Delete(node.uid().to_owned()));
        }
        self.nodes.insert(node);
        tasks
    }

    /// An object is gone, or is known not to exist although others name it.
    pub fn remove(&mut self, uid: &str) -> Vec<Task> {
        let mut tasks: Vec<Task> = self.looks_at_dependents(uid).collect();
        if let Some(node) = self.nodes.take(uid) {
            for owner in node.owners() {
                self.unlink(&owner.uid, uid);
                tasks.extend(self.waiting(&owner.uid));
            }
        }
        tasks
    }

    /// Whether a reference of a node leads to something else than it says; the new ones into other namespaces are noted.
    fn judge_owners(&mut self, node: &Node, before: &[OwnerRef]) -> bool {
        let mut wrong = false;
        for reference in node.owners().iter() {
            let Some(owner) = self.node(&reference.uid) else { continue };
            let seen = compare(node, reference, owner);
            wrong |= seen != Match::Right;
            if seen == Match::Elsewhere && !before.contains(reference) {
                self.misled.push((node.clone(), reference.clone()));
            }
        }
        wrong
    }

    /// The dependents whose references do not fit an owner that has been seen only now.
    fn judge_dependents(&mut self, owner: &Node) -> Vec<Task> {
        let mut tasks = Vec::new();
        for node in self.dependents.get(owner.uid()).into_iter().flatten() {
            let Some(reference) = node.owners().iter().find(|o| o.uid == owner.uid()) else { continue };
            let seen = compare(node, reference, owner);
            if seen != Match::Right {
                tasks.push(Task::Delete(node.uid().to_owned()));
            }
            if seen == Match::Elsewhere {
                self.misled.push((node.clone(), reference.clone()));
            }
        }
        tasks
    }

    fn looks_at_dependents(&self, uid: &str) -> impl Iterator<Item = Task> {
        self.dependents.get(uid).into_iter().flatten().map(|node| Task::Delete(node.uid().to_owned()))
    }

    fn waiting(&self, uid: &str) -> Option<Task> {
        self.node(uid).filter(|n| n.deletes_dependents()).map(|_| Task::Delete(uid.to_owned()))
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

    fn node(uid: &str, owners: &[&str], change: impl FnOnce(&mut Value)) -> Node {
        let owner =
            |o: &&str| json!({"apiVersion": "v1", "kind": "Pod", "name": o, "uid": o, "blockOwnerDeletion": true});
        let owners: Vec<Value> = owners.iter().map(owner).collect();
        let mut json = json!({"name": uid, "namespace": "n", "uid": uid, "ownerReferences": owners});
        change(&mut json);
        let object: Any = serde_json::from_value(json!({"metadata": json})).expect("metadata");
        Node::new(Arc::new(Resource::new("", "v1", "pods", "Pod", true)), Arc::new(object))
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
        let mut graph = Graph::default();
        check(graph.apply(node("owner", &[], |_| {})), &[]);
        check(graph.apply(node("a", &["owner"], |_| {})), &[]);
        check(graph.apply(node("a", &["owner"], |_| {})), &[]);
        check(graph.apply(node("b", &["unknown"], |_| {})), &["delete b"]);
        check(graph.remove("owner"), &["delete a"]);
        check(graph.remove("unknown"), &["delete b"]);
    }

    #[test]
    fn a_waiting_owner_is_looked_at_when_a_dependent_goes() {
        let mut graph = Graph::default();
        graph.apply(node("owner", &[], |_| {}));
        graph.apply(node("a", &["owner"], |_| {}));
        graph.apply(node("b", &["owner"], |_| {}));
        check(graph.apply(node("owner", &[], waiting)), &["delete a", "delete b", "delete owner"]);
        check(graph.remove("a"), &["delete owner"]);
        // Released instead of deleted.
        check(graph.apply(node("b", &[], |_| {})), &["delete owner"]);
        assert!(graph.dependents("owner").is_empty());
    }

    #[test]
    fn an_orphaning_owner_is_looked_at_once() {
        let mut graph = Graph::default();
        let orphan = |v: &mut Value| {
            waiting(v);
            v["finalizers"] = json!([ORPHAN]);
        };
        check(graph.apply(node("owner", &[], orphan)), &["orphan dependents of owner"]);
        check(graph.apply(node("owner", &[], orphan)), &[]);
    }

    #[test]
    fn a_reference_into_another_namespace_is_told_and_looked_at() {
        let elsewhere = |v: &mut Value| v["namespace"] = "m".into();
        let told = |graph: &mut Graph| {
            let misled = graph.take_misled();
            misled.iter().map(|(node, owner)| format!("{} {}", node.key(), owner.name)).collect::<Vec<_>>()
        };
        // The owner is known first, or the dependent.
        let mut graph = Graph::default();
        graph.apply(node("owner", &[], elsewhere));
        check(graph.apply(node("a", &["owner"], |_| {})), &["delete a"]);
        assert_eq!(told(&mut graph), ["n/a owner"]);
        check(graph.apply(node("a", &["owner"], |_| {})), &[]);
        assert!(told(&mut graph).is_empty());
        let mut graph = Graph::default();
        graph.apply(node("a", &["owner"], |_| {}));
        check(graph.apply(node("owner", &[], elsewhere)), &["delete a"]);
        assert_eq!(told(&mut graph), ["n/a owner"]);
        // One that only calls its owner by a wrong name is looked at, too.
        let mut graph = Graph::default();
        graph.apply(node("owner", &[], |v| v["name"] = "other".into()));
        check(graph.apply(node("a", &["owner"], |_| {})), &["delete a"]);
        assert!(told(&mut graph).is_empty());
    }
}
