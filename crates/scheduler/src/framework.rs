//! What a plugin is (`k8s.io/kube-scheduler/framework`, on arrays of nodes).

use std::borrow::Cow;
use std::collections::BTreeMap;

use crate::nodes::{NodeChange, Nodes};
use crate::pod::PodInfo;

/// Why a node was refused. The text is what users see, with the number of nodes in front.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// Name of the plugin.
    pub plugin: &'static str,
    /// Text, such as `node(s) were unschedulable`.
    pub reason: Cow<'static, str>,
    /// Whether removing pods from the node could not help either (`UnschedulableAndUnresolvable`).
    pub unresolvable: bool,
}

/// What the filters say of every node of one cycle: for each node a set of refusals, empty for a node that will do.
#[derive(Debug, Default)]
pub struct Verdicts {
    refusals: Vec<Refusal>,
    /// By position: bit `b` is set for refusal `b`.
    of: Vec<u64>,
}

impl Verdicts {
    /// Nothing refused yet, for so many nodes.
    pub fn new(nodes: usize) -> Verdicts {
        Verdicts { refusals: Vec::new(), of: vec![0; nodes] }
    }

    /// The number of a refusal, to be given to [`Verdicts::refuse`]. More than 64 different ones share the last.
    pub fn refusal(&mut self, plugin: &'static str, reason: impl Into<Cow<'static, str>>, unresolvable: bool) -> u32 {
        let refusal = Refusal { plugin, reason: reason.into(), unresolvable };
        let at = match self.refusals.iter().position(|r| *r == refusal) {
            Some(at) => at,
            None => {
                self.refusals.push(refusal);
                self.refusals.len() - 1
            }
        };
        if at >= 64 {
            self.refusals.truncate(64);
        }
        at.min(63) as u32
    }

    /// Refuses a node.
    pub fn refuse(&mut self, node: usize, refusal: u32) {
        self.of[node] |= 1 << refusal;
    }

    /// Whether nothing is held against a node.
    pub fn is_fit(&self, node: usize) -> bool {
        self.of[node] == 0
    }

    /// How many nodes each refusal concerns, and the plugins that refused any.
    pub fn summary(&self) -> (BTreeMap<String, usize>, Vec<&'static str>) {
        let mut counts = BTreeMap::new();
        let mut plugins = Vec::new();
        for (bit, refusal) in self.refusals.iter().enumerate() {
            let count = self.of.iter().filter(|v| *v & (1 << bit) != 0).count();
            if count > 0 {
                *counts.entry(refusal.reason.to_string()).or_default() += count;
                if !plugins.contains(&refusal.plugin) {
                    plugins.push(refusal.plugin);
                }
            }
        }
        (counts, plugins)
    }

    /// Whether the refusal of a node could be lifted by removing pods from it.
    pub fn is_resolvable(&self, node: usize) -> bool {
        self.of[node] != 0
            && !self.refusals.iter().enumerate().any(|(bit, r)| r.unresolvable && self.of[node] & (1 << bit) != 0)
    }
}

/// Something happened that may let a waiting pod be scheduled.
#[derive(Clone, Copy, Debug)]
pub enum Event<'a> {
    /// A node came or changed.
    Node {
        /// Its position now.
        position: usize,
        /// What changed.
        change: NodeChange,
    },
    /// A pod went away from a node.
    PodGone(&'a PodInfo),
}

/// Refuses nodes.
pub trait Filter: Send + Sync {
    /// Upstream's name of the plugin.
    fn name(&self) -> &'static str;

    /// Judges those of `candidates` (positions) against which nothing is held yet.
    fn filter(&self, pod: &PodInfo, nodes: &Nodes, candidates: &[usize], verdicts: &mut Verdicts);

    /// Whether a pod that this plugin refused everywhere should be tried again after an event (a queueing hint).
    fn may_help(&self, event: Event<'_>, pod: &PodInfo, nodes: &Nodes) -> bool;
}

/// Rates nodes from 0 to 100, more being better.
pub trait Score: Send + Sync {
    /// Upstream's name of the plugin.
    fn name(&self) -> &'static str;

    /// What a point of this plugin is worth.
    fn weight(&self) -> i64;

    /// Rates the nodes at `feasible`; `scores` has their length and is zero.
    fn score(&self, pod: &PodInfo, nodes: &Nodes, feasible: &[usize], scores: &mut [i64]);
}

/// The best score of a node.
pub const MAX_SCORE: i64 = 100;

/// Scales scores so that the largest is [`MAX_SCORE`]; `reverse` makes the largest the worst
/// (`helper.DefaultNormalizeScore`).
pub fn normalize(scores: &mut [i64], reverse: bool) {
    let max = scores.iter().copied().max().unwrap_or(0);
    for score in scores {
        let scaled = if max == 0 { 0 } else { MAX_SCORE * *score / max };
        *score = if reverse { MAX_SCORE - scaled } else { scaled };
    }
}
