//! A node must have what the pod requests; the emptier one is better (`LeastAllocated`). Upstream:
//! `plugins/noderesources/fit.go`, `least_allocated.go`.

use crate::framework::{Event, Filter, MAX_SCORE, Score, Verdicts};
use crate::nodes::{CPU, MEMORY, Nodes, PODS};
use crate::pod::PodInfo;

const TOO_MANY_PODS: &str = "Too many pods";

/// See the module.
pub struct NodeResourcesFit;

impl Filter for NodeResourcesFit {
    fn name(&self) -> &'static str {
        "NodeResourcesFit"
    }

    fn filter(&self, pod: &PodInfo, nodes: &Nodes, candidates: &[usize], verdicts: &mut Verdicts) {
        // One plugin may hold several things against a node: who is judged is settled first.
        let judged: Vec<usize> = candidates.iter().copied().filter(|i| verdicts.is_fit(*i)).collect();
        let (allocatable, used) = (&nodes.allocatable[PODS], &nodes.used[PODS]);
        let mut crowded = None;
        for &i in &judged {
            if used[i] + 1 > allocatable[i] {
                let refusal =
                    *crowded.get_or_insert_with(|| verdicts.refusal(Filter::name(self), TOO_MANY_PODS, false));
                verdicts.refuse(i, refusal);
            }
        }
        for (resource, wanted) in &pod.requests {
            let column = nodes.resource(resource);
            let mut refusals = (None, None);
            for &i in &judged {
                let (has, in_use) = column.map_or((0, 0), |c| (nodes.allocatable[c][i], nodes.used[c][i]));
                if *wanted <= has - in_use {
                    continue;
                }
                // What the empty node does not have, no eviction gives.
                let hopeless = *wanted > has;
                let known = if hopeless { &mut refusals.0 } else { &mut refusals.1 };
                let refusal = *known.get_or_insert_with(|| {
                    verdicts.refusal(Filter::name(self), format!("Insufficient {resource}"), hopeless)
                });
                verdicts.refuse(i, refusal);
            }
        }
    }

    fn may_help(&self, event: Event<'_>, pod: &PodInfo, nodes: &Nodes) -> bool {
        match event {
            Event::Node { position, change } => {
                (change.added || change.allocatable)
                    && pod.requests.iter().all(|(resource, wanted)| {
                        nodes.resource(resource).is_some_and(|c| *wanted <= nodes.allocatable[c][position])
                    })
            }
            // At least its place among the node's pods is free now.
            Event::PodGone(_) => true,
        }
    }
}

impl Score for NodeResourcesFit {
    fn name(&self) -> &'static str {
        "NodeResourcesFit"
    }

    fn weight(&self) -> i64 {
        1
    }

    fn score(&self, pod: &PodInfo, nodes: &Nodes, feasible: &[usize], scores: &mut [i64]) {
        for (score, &i) in scores.iter_mut().zip(feasible) {
            let (mut sum, mut weights) = (0, 0);
            let used = nodes.scored[i];
            for (column, used, wanted) in [(CPU, used.0, pod.scored.0), (MEMORY, used.1, pod.scored.1)] {
                let has = nodes.allocatable[column][i];
                if has == 0 {
                    continue;
                }
                let free = has - used - wanted;
                sum += if free < 0 { 0 } else { (i128::from(free) * i128::from(MAX_SCORE) / i128::from(has)) as i64 };
                weights += 1;
            }
            *score = if weights == 0 { 0 } else { sum / weights };
        }
    }
}
