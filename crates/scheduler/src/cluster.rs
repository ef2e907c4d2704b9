//! All that cycles look at.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use orkd_reconcile::Key;

use crate::devices::Devices;
use crate::model::DisruptionBudget;
use crate::nodes::Nodes;
use crate::pod::PodInfo;
use crate::storage::Storage;
use crate::waiting::WaitingPods;
use crate::workloads::Workloads;

/// Pods that room is being made for, by node.
#[derive(Debug, Default)]
pub struct Nominated {
    by_node: HashMap<Arc<str>, Vec<Arc<PodInfo>>>,
    node_of: HashMap<String, Arc<str>>,
}

impl Nominated {
    /// Nominates a pod for a node; what was before is forgotten.
    pub fn add(&mut self, pod: &Arc<PodInfo>, node: &str) {
        self.remove(pod.uid());
        if node.is_empty() {
            return;
        }
        let node: Arc<str> = node.into();
        self.by_node.entry(node.clone()).or_default().push(pod.clone());
        self.node_of.insert(pod.uid().to_owned(), node);
    }

    /// Forgets the nomination of a pod.
    pub fn remove(&mut self, uid: &str) {
        let Some(node) = self.node_of.remove(uid) else { return };
        if let Some(pods) = self.by_node.get_mut(&node) {
            pods.retain(|p| p.uid() != uid);
            if pods.is_empty() {
                self.by_node.remove(&node);
            }
        }
    }

    /// The node a pod is nominated for.
    pub fn node_of(&self, uid: &str) -> Option<&Arc<str>> {
        self.node_of.get(uid)
    }

    /// The pods nominated for a node.
    pub fn on(&self, node: &str) -> &[Arc<PodInfo>] {
        self.by_node.get(node).map_or(&[], Vec::as_slice)
    }

    /// The nodes with nominated pods.
    pub fn nodes(&self) -> impl Iterator<Item = (&Arc<str>, &Vec<Arc<PodInfo>>)> {
        self.by_node.iter()
    }
}

/// All that cycles look at.
#[derive(Debug, Default)]
pub struct Cluster {
    /// Nodes and pods.
    pub nodes: Nodes,
    /// Claims, volumes, classes.
    pub storage: Storage,
    /// Devices, and claims of them.
    pub devices: Devices,
    /// Selectors of services and controllers.
    pub workloads: Workloads,
    /// Disruption budgets.
    pub budgets: HashMap<Key, Arc<DisruptionBudget>>,
    /// Pods that room is being made for.
    pub nominated: Nominated,
    /// Pods whose victims are being removed.
    pub preempting: HashSet<String>,
    /// Pods that have a node and wait for leave to go there.
    pub waiting: WaitingPods,
}
