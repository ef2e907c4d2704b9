//! Pods are spread over domains. Upstream: `plugins/podtopologyspread`.
//!
//! What a constraint counts is kept in [`crate::tables`], with the smallest count among domains; a cycle reads the
//! count of each node's domain.

use serde::Deserialize;

use crate::cluster::Cluster;
use crate::framework::{Cx, Event, MAX_SCORE, Plugin, Point, PreFilter, PreScore, State, Verdicts};
use crate::model::SpreadConstraint;
use crate::pod::{Body, NodeWishes, PodInfo, Spread};
use crate::tables::{Counted, Eligibility, Spec};
use crate::topology::{NODE, NOWHERE};

const REASON: &str = "node(s) didn't match pod topology spread constraints";
const REASON_LABEL: &str = "node(s) didn't match pod topology spread constraints (missing required label)";
const HOSTNAME: &str = "kubernetes.io/hostname";

/// `PodTopologySpreadArgs`.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Args {
    /// Constraints of pods that have none of their own.
    pub default_constraints: Vec<SpreadConstraint>,
    /// `System` or `List`.
    pub defaulting_type: Defaulting,
}

/// Where default constraints come from.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(from = "String")]
pub enum Defaulting {
    /// Built in: over nodes and over zones.
    #[default]
    System,
    /// From the list.
    List,
    /// From somewhere that is not known; the configuration is refused.
    Other(String),
}

impl From<String> for Defaulting {
    fn from(text: String) -> Defaulting {
        match text.as_str() {
            "" | "System" => Defaulting::System,
            "List" => Defaulting::List,
            _ => Defaulting::Other(text),
        }
    }
}

impl Default for Args {
    fn default() -> Self {
        Args { default_constraints: Vec::new(), defaulting_type: Defaulting::System }
    }
}

/// See the module.
pub struct PodTopologySpread {
    defaults: Vec<Spread>,
    system: bool,
}

impl Default for PodTopologySpread {
    fn default() -> Self {
        PodTopologySpread::new(&Args::default())
    }
}

impl PodTopologySpread {
    /// With arguments.
    pub fn new(args: &Args) -> PodTopologySpread {
        let system = args.defaulting_type == Defaulting::System;
        let of = |c: &SpreadConstraint| Spread::new(c, &Default::default());
        let built_in = [(HOSTNAME, 3), ("topology.kubernetes.io/zone", 5)].map(|(key, max_skew)| {
            of(&SpreadConstraint {
                max_skew,
                topology_key: key.into(),
                when_unsatisfiable: "ScheduleAnyway".into(),
                ..SpreadConstraint::default()
            })
        });
        let defaults = if system { built_in.into() } else { args.default_constraints.iter().map(of).collect() };
        PodTopologySpread { defaults, system }
    }

    /// The constraints of a pod that must hold, or those that should.
    fn constraints(&self, cluster: &Cluster, pod: &Body, hard: bool) -> Vec<Spread> {
        if !pod.spread.is_empty() {
            return pod.spread.iter().filter(|c| c.hard == hard).cloned().collect();
        }
        let mut constraints: Vec<Spread> = self.defaults.iter().filter(|c| c.hard == hard).cloned().collect();
        if constraints.is_empty() {
            return constraints;
        }
        let selector = cluster.workloads.selector_of(pod);
        if selector.is_empty() {
            return Vec::new();
        }
        constraints.iter_mut().for_each(|c| c.selector = selector.clone());
        constraints
    }
}

/// A constraint and its table.
struct Counting {
    constraint: Spread,
    table: usize,
    /// Whether the pod itself counts.
    itself: i64,
}

struct Scoring {
    constraints: Vec<Counting>,
    /// By constraint: what a pod of a domain counts for.
    weights: Vec<f64>,
    /// Whether a node must have all labels.
    all_keys: bool,
}

fn table(cluster: &mut Cluster, pod: &Body, constraint: &Spread, key: &str, eligibility: Eligibility) -> usize {
    let counted = Counted::Spread(pod.namespace.clone(), constraint.selector.clone(), eligibility);
    cluster.nodes.table(Spec { counted, key: key.to_owned() })
}

fn eligibility(pod: &Body, constraint: &Spread, keys: &[String]) -> Eligibility {
    let wishes = || NodeWishes {
        selector: pod.node.selector.clone(),
        required: pod.node.required.clone(),
        preferred: Vec::new(),
    };
    Eligibility {
        keys: keys.to_vec(),
        node: (constraint.honor_affinity && !pod.node.is_unconditional()).then(wishes),
        tolerations: constraint.honor_taints.then(|| pod.tolerations.clone()),
    }
}

fn keys(constraints: &[Spread]) -> Vec<String> {
    let mut keys: Vec<String> = constraints.iter().map(|c| c.key.clone()).collect();
    keys.sort_unstable();
    keys.dedup();
    keys
}

impl Plugin for PodTopologySpread {
    fn name(&self) -> &'static str {
        "PodTopologySpread"
    }

    fn points(&self) -> &'static [Point] {
        &[Point::PreFilter, Point::Filter, Point::PreScore, Point::Score]
    }

    fn pre_filter(&self, cluster: &mut Cluster, pod: &PodInfo) -> PreFilter {
        let constraints = self.constraints(cluster, &pod.template, true);
        if constraints.is_empty() {
            return PreFilter::Skip;
        }
        let keys = keys(&constraints);
        let mut counting = Vec::with_capacity(constraints.len());
        for constraint in constraints {
            let eligibility = eligibility(&pod.template, &constraint, &keys);
            let table = table(cluster, &pod.template, &constraint, &constraint.key, eligibility);
            let itself = i64::from(constraint.selector.matches(&pod.template.labels));
            counting.push(Counting { constraint, table, itself });
        }
        PreFilter::Go(Box::new(counting))
    }

    fn filter(&self, cx: &Cx<'_>, state: &State, candidates: &[u32], verdicts: &mut Verdicts) {
        let Some(counting) = state.downcast_ref::<Vec<Counting>>() else { return };
        let tables = &cx.cluster.nodes.tables;
        for c in counting {
            let Some(table) = tables.get(c.table) else { continue };
            let Some(key) = tables.topology.key(table.key) else { continue };
            let (domains, min) = table.domains_and_min();
            let min = if (domains as i64) < c.constraint.min_domains { 0 } else { min };
            for i in candidates.iter().map(|i| *i as usize) {
                if !verdicts.is_fit(i) {
                    continue;
                }
                let domain = key.domain_of[i];
                if domain == NOWHERE {
                    let refusal = verdicts.refusal(self.name(), REASON_LABEL, true);
                    verdicts.refuse(i, refusal);
                } else if table.count(domain) + c.itself - min > c.constraint.max_skew {
                    let refusal = verdicts.refusal(self.name(), REASON, false);
                    verdicts.refuse(i, refusal);
                }
            }
        }
    }

    fn pre_score(&self, cluster: &mut Cluster, pod: &PodInfo, feasible: &[u32]) -> PreScore {
        let template = &pod.template;
        let constraints = self.constraints(cluster, template, false);
        if constraints.is_empty() {
            return PreScore::Skip;
        }
        // The built-in constraints do without labels that a cluster may not have.
        let all_keys = !template.spread.is_empty() || !self.system;
        let needed = if all_keys { keys(&constraints) } else { Vec::new() };
        let has_all = |cluster: &Cluster, i: u32| {
            let labels = &cluster.nodes.rows.labels[i as usize];
            needed.iter().all(|k| labels.contains_key(k))
        };
        let rated: Vec<u32> = feasible.iter().copied().filter(|i| has_all(cluster, *i)).collect();
        let mut counting = Vec::with_capacity(constraints.len());
        let mut weights = Vec::with_capacity(constraints.len());
        for constraint in constraints {
            let (table, size) = if constraint.key == HOSTNAME {
                // Each node is counted for itself, whether pods may go there or not.
                (table(cluster, template, &constraint, NODE, Eligibility::default()), rated.len())
            } else {
                let eligibility = eligibility(template, &constraint, &needed);
                let table = table(cluster, template, &constraint, &constraint.key, eligibility);
                let tables = &cluster.nodes.tables;
                let key = tables.get(table).and_then(|t| tables.topology.key(t.key));
                (table, key.map_or(0, |key| distinct(&key.domain_of, key.width(), &rated)))
            };
            weights.push(((size + 2) as f64).ln());
            counting.push(Counting { constraint, table, itself: 0 });
        }
        PreScore::Go(Box::new(Scoring { constraints: counting, weights, all_keys }))
    }

    fn score(&self, cx: &Cx<'_>, state: &State, nodes: &[u32], scores: &mut [i64]) {
        let Some(scoring) = state.downcast_ref::<Scoring>() else { return };
        let tables = &cx.cluster.nodes.tables;
        let mut sums = vec![0f64; nodes.len()];
        for (c, weight) in scoring.constraints.iter().zip(&scoring.weights) {
            let Some(table) = tables.get(c.table) else { continue };
            let Some(key) = tables.topology.key(table.key) else { continue };
            let by_node = c.constraint.key == HOSTNAME;
            for (sum, i) in sums.iter_mut().zip(nodes) {
                let i = *i as usize;
                let domain = key.domain_of[i];
                if domain == NOWHERE || (by_node && !cx.cluster.nodes.rows.labels[i].contains_key(HOSTNAME)) {
                    continue;
                }
                *sum += table.count(domain) as f64 * weight + (c.constraint.max_skew - 1) as f64;
            }
        }
        for ((score, sum), i) in scores.iter_mut().zip(sums).zip(nodes) {
            *score = if ignored(cx.cluster, scoring, *i) { -1 } else { sum.round() as i64 };
        }
    }

    fn normalizes(&self) -> bool {
        true
    }

    fn normalize(&self, _cx: &Cx<'_>, _state: &State, _nodes: &[u32], scores: &mut [i64]) {
        let rated = || scores.iter().copied().filter(|s| *s >= 0);
        let (min, max) = (rated().min().unwrap_or(0), rated().max().unwrap_or(0));
        for score in scores {
            *score = match *score {
                -1 => 0,
                _ if max == 0 => MAX_SCORE,
                score => MAX_SCORE * (max + min - score) / max,
            };
        }
    }

    fn may_help(&self, event: Event<'_>, pod: &PodInfo, cluster: &Cluster) -> bool {
        let counts = |other: &PodInfo| {
            other.template.namespace == pod.template.namespace
                && self
                    .constraints(cluster, &pod.template, true)
                    .iter()
                    .any(|c| c.selector.matches(&other.template.labels))
        };
        match event {
            Event::PodPlaced(other) | Event::PodGone(other) => counts(other),
            Event::PodChanged { old, new } => counts(old) || counts(new),
            Event::Itself { old, new } => counts(old) != counts(new),
            Event::Node { change, .. } => change.added || change.labels || change.taints,
            Event::NodeGone => true,
            _ => false,
        }
    }
}

fn ignored(cluster: &Cluster, scoring: &Scoring, node: u32) -> bool {
    let labels = &cluster.nodes.rows.labels[node as usize];
    scoring.all_keys && scoring.constraints.iter().any(|c| !labels.contains_key(&c.constraint.key))
}

/// How many domains some nodes are in; to be in none is one as well.
fn distinct(domain_of: &[u32], width: usize, nodes: &[u32]) -> usize {
    let mut seen = vec![false; width + 1];
    let mut count = 0;
    for i in nodes {
        let domain = domain_of[*i as usize];
        let at = if domain == NOWHERE { width } else { domain as usize };
        if !std::mem::replace(&mut seen[at], true) {
            count += 1;
        }
    }
    count
}
