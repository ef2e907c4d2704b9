//! The nodes, in columns: position `i` of every column is one node.
//!
//! Columns are changed in place: a pod placed or gone touches a few numbers of one node, a node that reports in
//! touches its own row. A node keeps its position while it is there; a position that became free is used again. What
//! changed is logged, so that results kept per node are worked out anew for those nodes only. Taint lists are
//! interned: a plugin judges each list once for all nodes that have it.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use orkd_reconcile::{Key, Shared};

use crate::model::{Image, Node, Taint};
use crate::pod::{HostPort, PodInfo};
use crate::requests::parse_amount;
use crate::tables::{NodeFacts, Spec, Tables};

/// Columns of resources that every node has, at these positions.
pub const CPU: usize = 0;
/// See [`CPU`].
pub const MEMORY: usize = 1;
/// See [`CPU`].
pub const PODS: usize = 2;

/// Changes that are remembered; who has missed more looks at all nodes.
const LOG: usize = 8192;

const REGION: &str = "topology.kubernetes.io/region";
const ZONE: &str = "topology.kubernetes.io/zone";

/// The columns.
#[derive(Debug, Default)]
pub struct Rows {
    /// Names; `None` where no node is.
    pub names: Vec<Option<Arc<str>>>,
    /// Labels.
    pub labels: Vec<BTreeMap<String, String>>,
    /// Cordoned nodes.
    pub unschedulable: Vec<bool>,
    /// Which of [`Rows::taint_lists`] the node has.
    pub taints: Vec<u32>,
    /// Host ports in use.
    pub host_ports: Vec<Vec<HostPort>>,
    /// Cpu (thousandths) and memory that scoring counts as used.
    pub scored: Vec<(i64, i64)>,
    /// What pods may use: by resource, then by node.
    pub allocatable: Vec<Vec<i64>>,
    /// What pods use: by resource, then by node.
    pub used: Vec<Vec<i64>>,
    /// Images: their sizes by name.
    pub images: Vec<HashMap<Arc<str>, i64>>,
    /// Pods.
    pub pods: Vec<Vec<Arc<PodInfo>>>,
    /// Features that kubelets declare.
    pub features: Vec<Shared<Vec<String>>>,
    /// Every distinct list of taints.
    pub taint_lists: Vec<Vec<Taint>>,
}

impl Rows {
    /// The name of a node.
    pub fn name(&self, i: usize) -> &str {
        self.names.get(i).and_then(|n| n.as_deref()).unwrap_or("")
    }

    /// The taints of a node.
    pub fn taints_of(&self, i: usize) -> &[Taint] {
        &self.taint_lists[self.taints[i] as usize]
    }

    fn facts(&self, i: usize) -> NodeFacts<'_> {
        NodeFacts {
            node: i,
            name: self.name(i),
            labels: &self.labels[i],
            taints: self.taints_of(i),
            pods: &self.pods[i],
        }
    }

    fn all(&self) -> Box<dyn Iterator<Item = NodeFacts<'_>> + '_> {
        Box::new((0..self.names.len()).filter(|i| self.names[*i].is_some()).map(|i| self.facts(i)))
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
    /// Other features of its kubelet.
    pub features: bool,
}

impl NodeChange {
    /// Whether nothing that matters has changed.
    pub fn is_none(self) -> bool {
        self == NodeChange::default()
    }
}

/// The nodes and what is placed on them.
#[derive(Debug)]
pub struct Nodes {
    /// The columns.
    pub rows: Rows,
    /// Counts by domain.
    pub tables: Tables,
    index: HashMap<Arc<str>, usize>,
    free: Vec<usize>,
    resources: HashMap<String, usize>,
    taint_ids: HashMap<Vec<Taint>, u32>,
    /// By UID: the node, and its position if the node is known.
    placed: HashMap<String, Arc<str>>,
    /// Pods on nodes that are not known.
    elsewhere: HashMap<Arc<str>, Vec<Arc<PodInfo>>>,
    /// By claim: how many placed pods name it.
    claim_users: HashMap<Key, usize>,
    /// How many nodes have each image.
    image_nodes: HashMap<Arc<str>, usize>,
    images_changed: u64,
    order: Arc<[u32]>,
    order_is_stale: bool,
    log: Vec<u32>,
    logged: u64,
}

impl Default for Nodes {
    fn default() -> Self {
        let names = ["cpu", "memory", "pods"];
        let columns = vec![Vec::new(); names.len()];
        let mut nodes = Nodes {
            rows: Rows { allocatable: columns.clone(), used: columns, ..Rows::default() },
            tables: Tables::default(),
            index: HashMap::new(),
            free: Vec::new(),
            resources: names.iter().enumerate().map(|(i, n)| ((*n).to_owned(), i)).collect(),
            taint_ids: HashMap::new(),
            placed: HashMap::new(),
            elsewhere: HashMap::new(),
            claim_users: HashMap::new(),
            image_nodes: HashMap::new(),
            images_changed: 0,
            order: Arc::default(),
            order_is_stale: false,
            log: Vec::new(),
            logged: 0,
        };
        nodes.intern(&[]);
        nodes
    }
}

impl Nodes {
    /// How many nodes there are.
    pub fn len(&self) -> usize {
        self.index.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.index.is_empty()
    }

    /// How many positions there are, free ones included.
    pub fn width(&self) -> usize {
        self.rows.names.len()
    }

    /// The position of a node.
    pub fn position(&self, name: &str) -> Option<usize> {
        self.index.get(name).copied()
    }

    /// The column of a resource, if any node or pod has named it.
    pub fn resource(&self, name: &str) -> Option<usize> {
        self.resources.get(name).copied()
    }

    /// The order in which nodes get their turn: zones one after the other (`pkg/scheduler/backend/cache/node_tree.go`).
    pub fn order(&mut self) -> Arc<[u32]> {
        if self.order_is_stale {
            self.reorder();
        }
        self.order.clone()
    }

    fn reorder(&mut self) {
        let mut zones: Vec<Vec<u32>> = Vec::new();
        let mut known: HashMap<(&str, &str), usize> = HashMap::new();
        for i in 0..self.width() {
            if self.rows.names[i].is_none() {
                continue;
            }
            let label = |key: &str| self.rows.labels[i].get(key).map_or("", String::as_str);
            let zone = *known.entry((label(REGION), label(ZONE))).or_insert_with(|| {
                zones.push(Vec::new());
                zones.len() - 1
            });
            zones[zone].push(i as u32);
        }
        let longest = zones.iter().map(Vec::len).max().unwrap_or(0);
        self.order = (0..longest).flat_map(|round| zones.iter().filter_map(move |z| z.get(round).copied())).collect();
        self.order_is_stale = false;
    }

    /// The nodes whose rows changed since `seen`, which becomes now; `None` if all may have.
    pub fn changed_since(&self, seen: &mut u64) -> Option<&[u32]> {
        let missed = self.logged - *seen;
        *seen = self.logged;
        let kept = self.log.len() as u64;
        if missed > kept { None } else { Some(&self.log[(kept - missed) as usize..]) }
    }

    fn touch(&mut self, i: usize) {
        if self.log.len() >= 2 * LOG {
            self.log.drain(..LOG);
        }
        self.log.push(i as u32);
        self.logged += 1;
    }

    /// Changes whenever an image comes to a node or leaves one.
    pub fn images_changed(&self) -> u64 {
        self.images_changed
    }

    /// How many nodes have an image.
    pub fn nodes_with_image(&self, image: &str) -> usize {
        self.image_nodes.get(image).copied().unwrap_or(0)
    }

    fn resource_or_new(&mut self, name: &str) -> usize {
        if let Some(column) = self.resource(name) {
            return column;
        }
        let column = self.rows.allocatable.len();
        let width = self.width();
        self.rows.allocatable.push(vec![0; width]);
        self.rows.used.push(vec![0; width]);
        self.resources.insert(name.to_owned(), column);
        column
    }

    /// The table of a specification; made and filled if there is none.
    pub fn table(&mut self, spec: Spec) -> usize {
        let Nodes { rows, tables, .. } = self;
        let rows = &*rows;
        tables.table(spec, || rows.all())
    }

    /// Takes over the labels of a namespace; `None` when it is gone. Whether they changed.
    pub fn set_namespace(&mut self, name: &str, labels: Option<&BTreeMap<String, String>>) -> bool {
        let Nodes { rows, tables, .. } = self;
        let rows = &*rows;
        tables.set_namespace(name, labels, || rows.all())
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
        let mut wanted = vec![0; self.rows.allocatable.len()];
        for (column, (resource, text)) in columns.into_iter().zip(&node.status.allocatable) {
            wanted[column] = parse_amount(resource, text);
        }
        let mut touched = added;
        for (column, amount) in wanted.into_iter().enumerate() {
            let cell = &mut self.rows.allocatable[column][i];
            change.allocatable |= amount > *cell;
            touched |= amount != *cell;
            *cell = amount;
        }
        change.labels = self.rows.labels[i] != *node.metadata.labels;
        let other_taints = self.rows.taints[i] != taints;
        change.taints = other_taints || (self.rows.unschedulable[i] && !node.spec.unschedulable);
        touched |= change.labels || other_taints || self.rows.unschedulable[i] != node.spec.unschedulable;
        if added || change.labels || other_taints {
            if !added {
                self.detach(i);
            }
            let zone = |labels: &BTreeMap<String, String>| (labels.get(REGION).cloned(), labels.get(ZONE).cloned());
            self.order_is_stale |= added || zone(&self.rows.labels[i]) != zone(&node.metadata.labels);
            self.rows.labels[i] = (*node.metadata.labels).clone();
            self.rows.taints[i] = taints;
            self.attach(i);
        }
        self.rows.unschedulable[i] = node.spec.unschedulable;
        change.features = self.rows.features[i] != node.status.declared_features;
        touched |= change.features;
        self.rows.features[i] = node.status.declared_features.clone();
        self.set_images(i, &node.status.images);
        if touched {
            self.touch(i);
        }
        change
    }

    /// Takes a node and what is on it out of the tables.
    fn detach(&mut self, i: usize) {
        for pod in &self.rows.pods[i] {
            self.tables.count(i, pod, -1);
        }
        self.tables.detach(i);
    }

    /// Puts a node and what is on it into the tables. Tables that are made meanwhile are filled from what is listed,
    /// so a pod is listed when it is counted and not before.
    fn attach(&mut self, i: usize) {
        let pods = std::mem::take(&mut self.rows.pods[i]);
        self.tables.attach(&self.rows.facts(i));
        for pod in pods {
            self.count(i, pod);
        }
    }

    fn count(&mut self, i: usize, pod: Arc<PodInfo>) {
        let Nodes { rows, tables, .. } = self;
        let listed = &*rows;
        tables.own(&pod.template, || listed.all());
        tables.count(i, &pod, 1);
        rows.pods[i].push(pod);
    }

    fn set_images(&mut self, i: usize, images: &[Image]) {
        let same = {
            let now = &self.rows.images[i];
            let said = images.iter().flat_map(|image| image.names.iter().map(move |n| (n, image.size_bytes)));
            now.len() == images.iter().map(|image| image.names.len()).sum::<usize>()
                && said.into_iter().all(|(name, size)| now.get(name.as_str()) == Some(&size))
        };
        if same {
            return;
        }
        for name in self.rows.images[i].keys() {
            if let Some(n) = self.image_nodes.get_mut(name) {
                *n -= 1;
            }
        }
        let mut new: HashMap<Arc<str>, i64> = HashMap::new();
        for image in images {
            for name in &image.names {
                let name =
                    self.image_nodes.get_key_value(name.as_str()).map_or(name.as_str().into(), |(n, _)| n.clone());
                new.insert(name, image.size_bytes);
            }
        }
        for name in new.keys() {
            *self.image_nodes.entry(name.clone()).or_default() += 1;
        }
        self.image_nodes.retain(|_, n| *n > 0);
        self.rows.images[i] = new;
        self.images_changed += 1;
    }

    fn intern(&mut self, taints: &[Taint]) -> u32 {
        if let Some(id) = self.taint_ids.get(taints) {
            return *id;
        }
        let id = u32::try_from(self.rows.taint_lists.len()).unwrap_or(u32::MAX);
        self.rows.taint_lists.push(taints.to_vec());
        self.taint_ids.insert(taints.to_vec(), id);
        id
    }

    fn push(&mut self, name: Arc<str>) -> usize {
        let rows = &mut self.rows;
        let i = match self.free.pop() {
            Some(i) => i,
            None => {
                rows.names.push(None);
                rows.labels.push(BTreeMap::new());
                rows.unschedulable.push(false);
                rows.taints.push(0);
                rows.host_ports.push(Vec::new());
                rows.scored.push((0, 0));
                rows.images.push(HashMap::new());
                rows.pods.push(Vec::new());
                rows.features.push(Shared::default());
                for column in rows.allocatable.iter_mut().chain(&mut rows.used) {
                    column.push(0);
                }
                rows.names.len() - 1
            }
        };
        self.rows.names[i] = Some(name.clone());
        // Pods may be known before their node.
        for pod in self.elsewhere.remove(&name).unwrap_or_default() {
            self.take_up(i, &pod, 1);
            self.rows.pods[i].push(pod);
        }
        self.index.insert(name, i);
        i
    }

    /// Removes a node; the pods on it stay known until they are gone themselves.
    pub fn remove_node(&mut self, name: &str) {
        let Some((name, i)) = self.index.remove_entry(name) else { return };
        self.detach(i);
        self.set_images(i, &[]);
        let rows = &mut self.rows;
        rows.names[i] = None;
        rows.labels[i].clear();
        rows.unschedulable[i] = false;
        rows.features[i] = Shared::default();
        rows.taints[i] = 0;
        rows.host_ports[i].clear();
        rows.scored[i] = (0, 0);
        for column in rows.allocatable.iter_mut().chain(&mut rows.used) {
            column[i] = 0;
        }
        let pods = std::mem::take(&mut rows.pods[i]);
        for (name, _) in pods
            .iter()
            .flat_map(|p| p.claims().map(move |c| (p, c)))
            .map(|(p, (n, _))| (Key { namespace: p.meta.namespace.clone(), name: n.as_str().into() }, ()))
        {
            if let Some(users) = self.claim_users.get_mut(&name) {
                *users = users.saturating_sub(1);
            }
        }
        if !pods.is_empty() {
            self.elsewhere.insert(name, pods);
        }
        self.free.push(i);
        self.order_is_stale = true;
        self.touch(i);
    }

    /// Places a pod on a node, which need not be known yet. A pod that was elsewhere is moved.
    pub fn place(&mut self, pod: Arc<PodInfo>, node: &str) {
        self.unplace(pod.uid());
        let name: Arc<str> = self.index.get_key_value(node).map_or_else(|| node.into(), |(n, _)| n.clone());
        self.placed.insert(pod.uid().to_owned(), name.clone());
        match self.position(node) {
            Some(i) => self.put(i, pod),
            None => self.elsewhere.entry(name).or_default().push(pod),
        }
    }

    /// Takes a pod off its node; the node's name if it was on one.
    pub fn unplace(&mut self, uid: &str) -> Option<Arc<str>> {
        let node = self.placed.remove(uid)?;
        match self.position(&node) {
            Some(i) => {
                self.take(i, uid);
            }
            None => {
                if let Some(pods) = self.elsewhere.get_mut(&node) {
                    pods.retain(|p| p.uid() != uid);
                    if pods.is_empty() {
                        self.elsewhere.remove(&node);
                    }
                }
            }
        }
        Some(node)
    }

    /// Puts a pod on a node for as long as something is tried out: it is not remembered by its UID.
    pub fn put(&mut self, i: usize, pod: Arc<PodInfo>) {
        self.take_up(i, &pod, 1);
        self.count(i, pod);
        self.touch(i);
    }

    /// The reverse of [`Nodes::put`].
    pub fn take(&mut self, i: usize, uid: &str) -> Option<Arc<PodInfo>> {
        let at = self.rows.pods[i].iter().position(|p| p.uid() == uid)?;
        let pod = self.rows.pods[i].swap_remove(at);
        self.tables.count(i, &pod, -1);
        self.take_up(i, &pod, -1);
        self.touch(i);
        Some(pod)
    }

    /// How many placed pods name a claim.
    pub fn claim_users(&self, claim: &Key) -> usize {
        self.claim_users.get(claim).copied().unwrap_or(0)
    }

    /// How many pods are placed.
    pub fn pods(&self) -> usize {
        self.placed.len()
    }

    /// The node a pod is placed on.
    pub fn node_of(&self, uid: &str) -> Option<&Arc<str>> {
        self.placed.get(uid)
    }

    /// A placed pod.
    pub fn placed(&self, uid: &str) -> Option<&Arc<PodInfo>> {
        let node = self.placed.get(uid)?;
        let pods = match self.position(node) {
            Some(i) => &self.rows.pods[i],
            None => self.elsewhere.get(node)?,
        };
        pods.iter().find(|p| p.uid() == uid)
    }

    fn take_up(&mut self, i: usize, pod: &PodInfo, sign: i64) {
        for (resource, amount) in &pod.template.requests {
            let column = self.resource_or_new(resource);
            self.rows.used[column][i] += sign * amount;
        }
        self.rows.used[PODS][i] += sign;
        self.rows.scored[i].0 += sign * pod.template.scored.0;
        self.rows.scored[i].1 += sign * pod.template.scored.1;
        for (name, _) in pod.claims() {
            let key = Key { namespace: pod.meta.namespace.clone(), name: name.as_str().into() };
            if sign > 0 {
                *self.claim_users.entry(key).or_default() += 1;
            } else if let Some(users) = self.claim_users.get_mut(&key) {
                *users -= 1;
                if *users == 0 {
                    self.claim_users.remove(&key);
                }
            }
        }
        let ports = &mut self.rows.host_ports[i];
        for port in &pod.template.host_ports {
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
    use serde_json::{Value, json};

    use super::*;
    use crate::pod::tests::pod;

    pub(crate) fn node(name: &str, cpu: &str, extra: Value) -> Node {
        let mut node = json!({
            "metadata": {"name": name, "labels": {"kubernetes.io/hostname": name}},
            "status": {"allocatable": {"cpu": cpu, "memory": "1Gi", "pods": "10"}},
        });
        merge(&mut node, &extra);
        serde_json::from_value(node).expect("a node")
    }

    pub(crate) fn merge(into: &mut Value, from: &Value) {
        match (into, from) {
            (Value::Object(into), Value::Object(from)) => {
                from.iter().for_each(|(k, v)| merge(into.entry(k.clone()).or_insert(Value::Null), v));
            }
            (into, from) => *into = from.clone(),
        }
    }

    pub(crate) fn cpu(amount: &str) -> Value {
        json!({"containers": [{"resources": {"requests": {"cpu": amount}}}]})
    }

    fn used(nodes: &Nodes, column: usize, names: &[&str]) -> Vec<i64> {
        names.iter().map(|n| nodes.rows.used[column][nodes.position(n).expect("a node")]).collect()
    }

    #[test]
    fn columns_follow_pods_and_nodes() {
        let mut nodes = Nodes::default();
        nodes.place(pod("early", cpu("100m")), "b");
        assert!(nodes.set_node(&node("a", "1", json!({}))).added);
        nodes.set_node(&node("b", "2", json!({})));
        nodes.set_node(&node("c", "3", json!({})));
        nodes.place(pod("p", cpu("500m")), "c");
        assert_eq!(used(&nodes, CPU, &["a", "b", "c"]), [0, 100, 500]);
        nodes.remove_node("a");
        assert_eq!(nodes.len(), 2);
        assert_eq!(*nodes.order(), [1, 2]);
        nodes.place(pod("p", cpu("500m")), "b");
        assert_eq!(used(&nodes, CPU, &["b", "c"]), [600, 0]);
        assert_eq!(nodes.unplace("p").as_deref(), Some("b"));
        assert_eq!(nodes.unplace("p"), None);
        assert_eq!((used(&nodes, CPU, &["b", "c"]), used(&nodes, PODS, &["b", "c"])), (vec![100, 0], vec![1, 0]));
        nodes.remove_node("b");
        nodes.set_node(&node("b", "2", json!({})));
        assert_eq!(used(&nodes, CPU, &["b", "c"]), [100, 0], "a node that comes again has its pods");
    }

    #[test]
    fn a_heartbeat_changes_nothing() {
        let mut nodes = Nodes::default();
        nodes.set_node(&node("a", "1", json!({})));
        let mut seen = 0;
        nodes.changed_since(&mut seen);
        assert!(nodes.set_node(&node("a", "1", json!({}))).is_none());
        assert_eq!(nodes.changed_since(&mut seen), Some(&[][..]));
        assert!(nodes.set_node(&node("a", "2", json!({}))).allocatable);
        assert_eq!(nodes.changed_since(&mut seen), Some(&[0][..]));
        let tainted = json!({"spec": {"taints": [{"key": "k", "effect": "NoSchedule"}]}});
        assert!(nodes.set_node(&node("a", "2", tainted)).taints);
    }

    #[test]
    fn zones_take_turns() {
        let mut nodes = Nodes::default();
        for (name, zone) in [("a", "x"), ("b", "x"), ("c", "y"), ("d", "x")] {
            nodes.set_node(&node(name, "1", json!({"metadata": {"labels": {ZONE: zone}}})));
        }
        assert_eq!(*nodes.order(), [0, 2, 1, 3]);
    }
}
