//! Pods that must, must not, should or should not be with other pods. Upstream: `plugins/interpodaffinity`.
//!
//! All counts are kept in [`crate::tables`]; a cycle only reads, for each node, the counts of its domains: those of the
//! pods that the pod's own terms mean, and those of placed pods whose terms mean the pod.

use serde::Deserialize;

use crate::cluster::Cluster;
use crate::framework::{Cx, Event, MAX_SCORE, Plugin, Point, PreFilter, PreScore, State, Verdicts};
use crate::pod::{AffinityTerm, Body, PodInfo, PodSet};
use crate::tables::{Counted, Spec, Table};
use crate::topology::NOWHERE;

const REASON_AFFINITY: &str = "node(s) didn't match pod affinity rules";
const REASON_ANTI_AFFINITY: &str = "node(s) didn't match pod anti-affinity rules";
const REASON_EXISTING: &str = "node(s) didn't satisfy existing pods anti-affinity rules";

/// `InterPodAffinityArgs`.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Args {
    /// What the required affinity of a placed pod counts for when nodes are rated.
    pub hard_pod_affinity_weight: i64,
    /// Whether a pod without affinity is not rated by the wishes of placed pods.
    pub ignore_preferred_terms_of_existing_pods: bool,
}

impl Default for Args {
    fn default() -> Self {
        Args { hard_pod_affinity_weight: 1, ignore_preferred_terms_of_existing_pods: false }
    }
}

/// See the module.
#[derive(Default)]
pub struct InterPodAffinity {
    args: Args,
}

impl InterPodAffinity {
    /// With arguments.
    pub fn new(args: Args) -> InterPodAffinity {
        InterPodAffinity { args }
    }
}

/// Numbers of tables.
struct Filters {
    /// Of placed pods that shun such pods.
    shunning: Vec<usize>,
    /// Of pods that the pod must not be with.
    away: Vec<usize>,
    /// Of pods that the pod must be with, one for each term.
    with: Vec<usize>,
    /// Whether the pod is one of those it must be with.
    with_itself: bool,
}

fn means(term: &AffinityTerm, pod: &Body, cluster: &Cluster) -> bool {
    term.pods.matches(pod, cluster.nodes.tables.namespace_labels(&pod.namespace))
}

fn pods_table(cluster: &mut Cluster, sets: Vec<PodSet>, key: &str) -> usize {
    cluster.nodes.table(Spec { counted: Counted::Pods(sets), key: key.to_owned() })
}

fn tables<'a>(cx: &Cx<'a>, ids: &[usize]) -> Vec<(&'a Table, &'a [u32])> {
    let tables = &cx.cluster.nodes.tables;
    let with_domains = |id: &usize| {
        let table = tables.get(*id)?;
        Some((table, tables.topology.key(table.key)?.domain_of.as_slice()))
    };
    ids.iter().filter_map(with_domains).collect()
}

impl Plugin for InterPodAffinity {
    fn name(&self) -> &'static str {
        "InterPodAffinity"
    }

    fn points(&self) -> &'static [Point] {
        &[Point::PreFilter, Point::Filter, Point::PreScore, Point::Score]
    }

    fn pre_filter(&self, cluster: &mut Cluster, pod: &PodInfo) -> PreFilter {
        let template = &pod.template;
        let mut all: Vec<PodSet> = template.affinity.iter().map(|t| t.pods.clone()).collect();
        all.sort_unstable();
        all.dedup();
        let with = template.affinity.iter().map(|t| pods_table(cluster, all.clone(), &t.key)).collect();
        let away = template.anti_affinity.iter().map(|t| pods_table(cluster, vec![t.pods.clone()], &t.key)).collect();
        let terms = cluster.nodes.tables.terms_that_match(template);
        let shunning = terms.filter(|(_, counted)| matches!(counted, Counted::Shunning(_))).map(|(id, _)| id).collect();
        let with_itself = template.affinity.iter().all(|t| means(t, template, cluster));
        let filters = Filters { shunning, away, with, with_itself };
        if filters.shunning.is_empty() && filters.away.is_empty() && filters.with.is_empty() {
            return PreFilter::Skip;
        }
        PreFilter::Go(Box::new(filters))
    }

    fn filter(&self, cx: &Cx<'_>, state: &State, candidates: &[u32], verdicts: &mut Verdicts) {
        let Some(filters) = state.downcast_ref::<Filters>() else { return };
        let with = tables(cx, &filters.with);
        let away = tables(cx, &filters.away);
        let shunning: Vec<_> = tables(cx, &filters.shunning).into_iter().filter(|(t, _)| t.total != 0).collect();
        // The first pod of a group that belongs together may go anywhere.
        let is_first = with.iter().all(|(t, _)| t.total == 0) && filters.with_itself;
        for i in candidates.iter().map(|i| *i as usize) {
            if !verdicts.is_fit(i) {
                continue;
            }
            let is_near = |(table, domains): &(&Table, &[u32])| table.count(domains[i]) > 0;
            let has_key = |(_, domains): &(&Table, &[u32])| domains[i] != NOWHERE;
            let (reason, unresolvable) = if !with.iter().all(|w| has_key(w) && (is_first || is_near(w))) {
                (REASON_AFFINITY, true)
            } else if away.iter().any(is_near) {
                (REASON_ANTI_AFFINITY, false)
            } else if shunning.iter().any(is_near) {
                (REASON_EXISTING, false)
            } else {
                continue;
            };
            let refusal = verdicts.refusal(self.name(), reason, unresolvable);
            verdicts.refuse(i, refusal);
        }
    }

    fn pre_score(&self, cluster: &mut Cluster, pod: &PodInfo, _feasible: &[u32]) -> PreScore {
        let template = &pod.template;
        let mut weighted: Vec<(usize, i64)> = Vec::new();
        for (weight, term) in &template.preferred_affinity {
            weighted.push((pods_table(cluster, vec![term.pods.clone()], &term.key), *weight));
        }
        let has_affinity = !(template.preferred_affinity.is_empty());
        if has_affinity || !self.args.ignore_preferred_terms_of_existing_pods {
            for (id, counted) in cluster.nodes.tables.terms_that_match(template) {
                match counted {
                    Counted::Wishing(_) => weighted.push((id, 1)),
                    Counted::Needing(_) if self.args.hard_pod_affinity_weight > 0 => {
                        weighted.push((id, self.args.hard_pod_affinity_weight));
                    }
                    _ => {}
                }
            }
        }
        if weighted.is_empty() { PreScore::Skip } else { PreScore::Go(Box::new(weighted)) }
    }

    fn score(&self, cx: &Cx<'_>, state: &State, nodes: &[u32], scores: &mut [i64]) {
        let Some(weighted) = state.downcast_ref::<Vec<(usize, i64)>>() else { return };
        for (id, weight) in weighted {
            for (table, domains) in tables(cx, std::slice::from_ref(id)) {
                for (score, i) in scores.iter_mut().zip(nodes) {
                    *score += weight * table.count(domains[*i as usize]);
                }
            }
        }
    }

    fn normalizes(&self) -> bool {
        true
    }

    fn normalize(&self, _cx: &Cx<'_>, _state: &State, _nodes: &[u32], scores: &mut [i64]) {
        let (min, max) = (scores.iter().copied().min().unwrap_or(0), scores.iter().copied().max().unwrap_or(0));
        for score in scores {
            *score = match max - min {
                0 => 0,
                range => (MAX_SCORE as f64 * ((*score - min) as f64 / range as f64)) as i64,
            };
        }
    }

    fn may_help(&self, event: Event<'_>, pod: &PodInfo, cluster: &Cluster) -> bool {
        let template = &pod.template;
        match event {
            Event::PodPlaced(placed) | Event::PodChanged { new: placed, .. }
                if template.affinity.iter().any(|t| means(t, &placed.template, cluster)) =>
            {
                true
            }
            Event::PodGone(gone) | Event::PodChanged { old: gone, .. } => {
                template.anti_affinity.iter().any(|t| means(t, &gone.template, cluster))
                    || gone.template.anti_affinity.iter().any(|t| means(t, template, cluster))
            }
            Event::Itself { old, new } => old.template.labels != new.template.labels,
            Event::Node { change, .. } => change.added || change.labels,
            Event::Namespace => true,
            _ => false,
        }
    }
}
