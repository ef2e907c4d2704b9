//! Domains: for each label that makes them, which domain each node is in, as a number.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

/// In no domain: the node does not have the label.
pub const NOWHERE: u32 = u32::MAX;

/// The key under which each node is a domain of its own.
pub const NODE: &str = "";

/// One label that makes domains.
#[derive(Debug, Default)]
pub struct Key {
    /// The label.
    pub label: String,
    /// By node: its domain, or [`NOWHERE`].
    pub domain_of: Vec<u32>,
    ids: HashMap<Arc<str>, u32>,
    /// By domain: its value.
    values: Vec<Arc<str>>,
    /// By domain: how many nodes are in it.
    nodes: Vec<u32>,
    free: Vec<u32>,
    users: usize,
}

impl Key {
    /// How many numbers domains have, those that are free included.
    pub fn width(&self) -> usize {
        if self.label.is_empty() { self.domain_of.len() } else { self.values.len() }
    }

    fn link(&mut self, node: usize, labels: &BTreeMap<String, String>) {
        if self.domain_of.len() <= node {
            self.domain_of.resize(node + 1, NOWHERE);
        }
        if self.label.is_empty() {
            self.domain_of[node] = node as u32;
            return;
        }
        let Some(value) = labels.get(&self.label) else {
            self.domain_of[node] = NOWHERE;
            return;
        };
        let id = match self.ids.get(value.as_str()) {
            Some(id) => *id,
            None => {
                let value: Arc<str> = value.as_str().into();
                let id = match self.free.pop() {
                    Some(id) => id,
                    None => {
                        self.values.push(value.clone());
                        self.nodes.push(0);
                        self.values.len() as u32 - 1
                    }
                };
                self.values[id as usize] = value.clone();
                self.ids.insert(value, id);
                id
            }
        };
        self.nodes[id as usize] += 1;
        self.domain_of[node] = id;
    }

    fn unlink(&mut self, node: usize) {
        let Some(domain) = self.domain_of.get_mut(node) else { return };
        let id = std::mem::replace(domain, NOWHERE);
        if id == NOWHERE || self.label.is_empty() {
            return;
        }
        self.nodes[id as usize] -= 1;
        if self.nodes[id as usize] == 0 {
            self.ids.remove(&self.values[id as usize]);
            self.free.push(id);
        }
    }
}

/// All labels in use that make domains.
#[derive(Debug, Default)]
pub struct Topology {
    keys: Vec<Option<Key>>,
    index: HashMap<String, usize>,
}

impl Topology {
    /// A key in use.
    pub fn key(&self, id: usize) -> Option<&Key> {
        self.keys.get(id).and_then(Option::as_ref)
    }

    /// The domain of a node.
    pub fn domain(&self, id: usize, node: usize) -> u32 {
        self.key(id).and_then(|k| k.domain_of.get(node)).copied().unwrap_or(NOWHERE)
    }

    /// Takes a key into use; `nodes` are all that there are.
    pub fn acquire<'a>(
        &mut self,
        label: &str,
        nodes: impl Iterator<Item = (usize, &'a BTreeMap<String, String>)>,
    ) -> usize {
        if let Some(id) = self.index.get(label).copied()
            && let Some(Some(key)) = self.keys.get_mut(id)
        {
            key.users += 1;
            return id;
        }
        let mut key = Key { label: label.to_owned(), users: 1, ..Key::default() };
        for (node, labels) in nodes {
            key.link(node, labels);
        }
        let id = match self.keys.iter().position(Option::is_none) {
            Some(id) => id,
            None => {
                self.keys.push(None);
                self.keys.len() - 1
            }
        };
        self.keys[id] = Some(key);
        self.index.insert(label.to_owned(), id);
        id
    }

    /// Gives a key back.
    pub fn release(&mut self, id: usize) {
        let Some(slot) = self.keys.get_mut(id) else { return };
        if let Some(key) = slot {
            key.users -= 1;
            if key.users == 0 {
                self.index.remove(&key.label);
                *slot = None;
            }
        }
    }

    /// Puts a node into its domains.
    pub fn link(&mut self, node: usize, labels: &BTreeMap<String, String>) {
        self.keys.iter_mut().flatten().for_each(|k| k.link(node, labels));
    }

    /// Takes a node out of its domains.
    pub fn unlink(&mut self, node: usize) {
        self.keys.iter_mut().flatten().for_each(|k| k.unlink(node));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn domains_come_and_go_with_their_nodes() {
        let labels = |zone: &str| BTreeMap::from([("zone".to_owned(), zone.to_owned())]);
        let all = [labels("a"), labels("b"), BTreeMap::new()];
        let mut topology = Topology::default();
        let key = topology.acquire("zone", all.iter().enumerate());
        assert_eq!(topology.acquire("zone", all.iter().enumerate()), key);
        let domains = |t: &Topology| (0..3).map(|n| t.domain(key, n)).collect::<Vec<_>>();
        assert_eq!(domains(&topology), [0, 1, NOWHERE]);
        topology.unlink(0);
        topology.link(0, &labels("c"));
        assert_eq!(domains(&topology), [0, 1, NOWHERE], "the number of the domain that is gone is used again");
        topology.unlink(1);
        topology.link(1, &labels("c"));
        assert_eq!(domains(&topology), [0, 0, NOWHERE]);
        topology.release(key);
        topology.release(key);
        assert!(topology.key(key).is_none());
    }
}
