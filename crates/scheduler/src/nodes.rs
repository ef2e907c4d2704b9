//! The nodes, in columns: position `i` of every column is one node.
//!
//! Columns are changed in place: a pod placed or gone touches a few numbers of one node, a node that reports in
//! touches its own row. Taint lists are interned, so that a plugin judges each list once for all nodes that have it.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use crate::model::{Node, Taint};
use crate::pod::{HostPort, PodInfo, parse_amount};

/// Columns of resources that every node has, at these positions.
pub const CPU: usize = 0;
/// See [`CPU`].
pub const MEMORY: usize = 1;
/// See [`CPU`].
pub const PODS: usize = 2;

/// A placed pod.
#[derive(Clone, Debug)]
struct Placed {
    node: Arc<str>,
    pod: Arc<PodInfo>,
}

/// The nodes and what is placed on them.
#[derive(Debug)]
pub struct Nodes {
    index: HashMap<Arc<str>, usize>,
    /// Names.
    pub names: Vec<Arc<str>>,
    /// Labels.
    pub labels: Vec<BTreeMap<String, String>>,
    /// Cordoned nodes.
    pub unschedulable: Vec<bool>,
    /// Which of [`Nodes::taint_lists`] the node has.
    pub taints: Vec<u32>,
    /// Host ports in use.
    pub host_ports: Vec<Vec<HostPort>>,
    /// Cpu (thousandths) and memory that scoring counts as used.
    pub scored: Vec<(i64, i64)>,
    /// What pods may use: by resource, then by node.
    pub allocatable: Vec<Vec<i64>>,
    /// What pods use: by resource, then by node.
    pub used: Vec<Vec<i64>>,
    resources: HashMap<String, usize>,
    /// Every distinct list of taints.
    pub taint_lists: Vec<Vec<Taint>>,
    taint_ids: HashMap<Vec<Taint>, u32>,
    placed: HashMap<String, Placed>,
    by_node: HashMap<Arc<str>, HashMap<String, Arc<PodInfo>>>,
}

impl Default for Nodes {
    fn default() -> Self {
        let names = ["cpu", "memory", "pods"];
        Nodes {
            index: HashMap::new(),
            names: Vec::new(),
            labels: Vec::new(),
            unschedulable: Vec::new(),
            taints: Vec::new(),
            host_ports: Vec::new(),
            scored: Vec::new(),
            allocatable: vec![Vec::new(); names.len()],
            used: vec![Vec::new(); names.len()],
            resources: names.iter().enumerate().map(|(i, n)| ((*n).to_owned(), i)).collect(),
            taint_lists: Vec::new(),
            taint_ids: HashMap::new(),
            placed: HashMap::new(),
            by_node: HashMap::new(),
        }
    }
}

/// What a change of a node may have made possible.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NodeChange {
    /// The node is new.
    pub added: bool,
    /// More of a resource than before.
    pub allocatable: bool,
    /// Other labels.
    pub labels: bool,
    /// Other taints, or no longer cordoned.
    pub taints: bool,
}

impl NodeChange {
    /// Whether nothing that matters has changed.
    pub fn is_none(self) -> bool {
        self == NodeChange::default()
    }
}

impl Nodes {
    /// How many nodes there are.
    pub fn len(&self) -> usize {
        self.names.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.names.is_empty()
    }

    /// The position of a node.
    pub fn position(&self, name: &str) -> Option<usize> {
        self.index.get(name).copied()
    }

    /// The column of a resource, if any node or pod has named it.
    pub fn resource(&self, name: &str) -> Option<usize> {
        self.resources.get(name).copied()
    }

    fn resource_or_new(&mut self, name: &str) -> usize {
        if let Some(column) = self.resource(name) {
            return column;
        }
        let column = self.allocatable.len();
        self.allocatable.push(vec![0; self.names.len()]);
        self.used.push(vec![0; self.names.len()]);
        self.resources.insert(name.to_owned(), column);
        column
    }

    /// Adds a node or takes over what it says now.
    pub fn set_node(&mut self, node: &Node) -> NodeChange {
        let name = &node.metadata.name;
        let taints = self.intern(&node.spec.taints);
        let (i, added) = match self.position(name) {
            Some(i) => (i, false),
            None => (self.push(name.clone()), true),
        };
        let mut change = NodeChange { added, ..NodeChange::default() };
        let columns: Vec<usize> = node.status.allocatable.keys().map(|r| self.resource_or_new(r)).collect();
        let mut wanted = vec![0; self.allocatable.len()];
        for (column, (resource, text)) in columns.into_iter().zip(&node.status.allocatable) {
            wanted[column] = parse_amount(resource, text);
        }
        for (column, amount) in wanted.into_iter().enumerate() {
            change.allocatable |= amount > self.allocatable[column][i];
            self.allocatable[column][i] = amount;
        }
        change.labels = self.labels[i] != node.metadata.labels;
        if change.labels {
            self.labels[i] = node.metadata.labels.clone();
        }
        change.taints = self.taints[i] != taints || (self.unschedulable[i] && !node.spec.unschedulable);
        self.taints[i] = taints;
        self.unschedulable[i] = node.spec.unschedulable;
        change
    }

    fn intern(&mut self, taints: &[Taint]) -> u32 {
        if let Some(id) = self.taint_ids.get(taints) {
            return *id;
        }
        let id = u32::try_from(self.taint_lists.len()).unwrap_or(u32::MAX);
        self.taint_lists.push(taints.to_vec());
        self.taint_ids.insert(taints.to_vec(), id);
        id
    }

    fn push(&mut self, name: Arc<str>) -> usize {
        let i = self.names.len();
        self.index.insert(name.clone(), i);
        self.names.push(name.clone());
        self.labels.push(BTreeMap::new());
        self.unschedulable.push(false);
        self.taints.push(0);
        self.host_ports.push(Vec::new());
        self.scored.push((0, 0));
        for column in self.allocatable.iter_mut().chain(&mut self.used) {
            column.push(0);
        }
        // Pods may be known before their node.
        let pods: Vec<Arc<PodInfo>> =
            self.by_node.get(&name).map(|p| p.values().cloned().collect()).unwrap_or_default();
        for pod in pods {
            self.count(i, &pod, 1);
        }
        i
    }

    /// Removes a node; the pods on it stay known until they are gone themselves.
    pub fn remove_node(&mut self, name: &str) {
        let Some(i) = self.index.remove(name) else { return };
        self.names.swap_remove(i);
        self.labels.swap_remove(i);
        self.unschedulable.swap_remove(i);
        self.taints.swap_remove(i);
        self.host_ports.swap_remove(i);
        self.scored.swap_remove(i);
        for column in self.allocatable.iter_mut().chain(&mut self.used) {
            column.swap_remove(i);
        }
        if let Some(moved) = self.names.get(i) {
            self.index.insert(moved.clone(), i);
        }
    }

    /// Places a pod on a node, which need not be known yet. A pod that was elsewhere is moved.
    pub fn place(&mut self, pod: Arc<PodInfo>, node: &str) {
        self.unplace(&pod.uid);
        let node: Arc<str> = self.index.get_key_value(node).map(|(n, _)| n.clone()).unwrap_or_else(|| node.into());
        if let Some(i) = self.position(&node) {
            self.count(i, &pod, 1);
        }
        self.by_node.entry(node.clone()).or_default().insert(pod.uid.clone(), pod.clone());
        self.placed.insert(pod.uid.clone(), Placed { node, pod });
    }

    /// Takes a pod off its node; the node's name if it was on one.
    pub fn unplace(&mut self, uid: &str) -> Option<Arc<str>> {
        let Placed { node, pod } = self.placed.remove(uid)?;
        if let Some(pods) = self.by_node.get_mut(&node) {
            pods.remove(uid);
            if pods.is_empty() {
                self.by_node.remove(&node);
            }
        }
        if let Some(i) = self.position(&node) {
            self.count(i, &pod, -1);
        }
        Some(node)
    }

    /// The node a pod is placed on.
    pub fn node_of(&self, uid: &str) -> Option<&Arc<str>> {
        self.placed.get(uid).map(|p| &p.node)
    }

    /// The pods on a node.
    pub fn pods_on(&self, name: &str) -> impl Iterator<Item = &Arc<PodInfo>> {
        self.by_node.get(name).into_iter().flat_map(|pods| pods.values())
    }

    fn count(&mut self, i: usize, pod: &PodInfo, sign: i64) {
        for (resource, amount) in &pod.requests {
            let column = self.resource_or_new(resource);
            self.used[column][i] += sign * amount;
        }
        self.used[PODS][i] += sign;
        self.scored[i].0 += sign * pod.scored.0;
        self.scored[i].1 += sign * pod.scored.1;
        for port in &pod.host_ports {
            let ports = &mut self.host_ports[i];
            if sign > 0 {
                ports.push(port.clone());
            } else if let Some(at) = ports.iter().position(|p| p == port) {
                ports.swap_remove(at);
            }
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use serde_json::json;

    use super::*;
    use crate::model::Pod;

    pub(crate) fn node(name: &str, cpu: &str, extra: serde_json::Value) -> Node {
        let mut node = json!({
            "metadata": {"name": name, "labels": {"kubernetes.io/hostname": name}},
            "status": {"allocatable": {"cpu": cpu, "memory": "1Gi", "pods": "10"}},
        });
        if let (Some(all), Some(extra)) = (node.as_object_mut(), extra.as_object()) {
            for (k, v) in extra {
                all.insert(k.clone(), v.clone());
            }
        }
        serde_json::from_value(node).expect("a node")
    }

    pub(crate) fn pod(name: &str, spec: serde_json::Value) -> Arc<PodInfo> {
        let pod = json!({"metadata": {"name": name, "namespace": "default", "uid": name}, "spec": spec});
        Arc::new(PodInfo::new(&serde_json::from_value::<Pod>(pod).expect("a pod")))
    }

    pub(crate) fn cpu(amount: &str) -> serde_json::Value {
        json!({"containers": [{"resources": {"requests": {"cpu": amount}}}]})
    }

    #[test]
    fn columns_follow_pods_and_nodes() {
        let mut nodes = Nodes::default();
        nodes.place(pod("early", cpu("100m")), "b");
        assert!(nodes.set_node(&node("a", "1", json!({}))).added);
        nodes.set_node(&node("b", "2", json!({})));
        nodes.set_node(&node("c", "3", json!({})));
        nodes.place(pod("p", cpu("500m")), "c");
        assert_eq!(nodes.used[CPU], [0, 100, 500]);
        nodes.remove_node("a");
        assert_eq!(nodes.names.iter().map(|n| &**n).collect::<Vec<_>>(), ["c", "b"]);
        assert_eq!(nodes.used[CPU], [500, 100]);
        nodes.place(pod("p", cpu("500m")), "b");
        assert_eq!(nodes.used[CPU], [0, 600]);
        assert_eq!(nodes.unplace("p").as_deref(), Some("b"));
        assert_eq!(nodes.unplace("p"), None);
        assert_eq!((nodes.used[CPU].clone(), nodes.used[PODS].clone()), (vec![0, 100], vec![0, 1]));
    }

    #[test]
    fn a_heartbeat_changes_nothing() {
        let mut nodes = Nodes::default();
        nodes.set_node(&node("a", "1", json!({})));
        assert!(nodes.set_node(&node("a", "1", json!({}))).is_none());
        assert!(nodes.set_node(&node("a", "2", json!({}))).allocatable);
        let tainted = json!({"spec": {"taints": [{"key": "k", "effect": "NoSchedule"}]}});
        assert!(nodes.set_node(&node("a", "2", tainted)).taints);
    }
}
