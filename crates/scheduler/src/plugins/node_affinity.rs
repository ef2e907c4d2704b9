//! Node selectors and node affinity. Upstream: `plugins/nodeaffinity`,
//! `k8s.io/component-helpers/scheduling/corev1/nodeaffinity`.

use serde::Deserialize;

use crate::cluster::Cluster;
use crate::framework::{Cx, Event, Plugin, Point, PreFilter, PreScore, State, Verdicts, no_state, normalize};
use crate::model::NodeAffinity as Affinity;
use crate::pod::PodInfo;
use crate::selector::{NodeTerm, NodeTerms};

const REASON: &str = "node(s) didn't match Pod's node affinity/selector";
const REASON_ENFORCED: &str = "node(s) didn't match scheduler-enforced node affinity";
const REASON_CONFLICT: &str = "pod affinity terms conflict";

/// `NodeAffinityArgs`.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Args {
    /// What all pods of the profile ask for as well.
    pub added_affinity: Option<Affinity>,
}

/// See the module.
#[derive(Default)]
pub struct NodeAffinity {
    required: Option<NodeTerms>,
    preferred: Vec<(i64, NodeTerm)>,
}

impl NodeAffinity {
    /// With arguments.
    pub fn new(args: &Args) -> NodeAffinity {
        let Some(added) = &args.added_affinity else { return NodeAffinity::default() };
        NodeAffinity {
            required: added.required.as_ref().map(NodeTerms::new),
            preferred: added.preferred.iter().map(|p| (p.weight, NodeTerm::new(&p.preference))).collect(),
        }
    }

    fn is_enforced(&self, cluster: &Cluster, i: usize) -> bool {
        let rows = &cluster.nodes.rows;
        self.required.as_ref().is_none_or(|r| r.matches(rows.name(i), &rows.labels[i]))
    }
}

fn is_wanted(pod: &PodInfo, cluster: &Cluster, i: usize) -> bool {
    let rows = &cluster.nodes.rows;
    pod.template.node.matches(rows.name(i), &rows.labels[i])
}

impl Plugin for NodeAffinity {
    fn name(&self) -> &'static str {
        "NodeAffinity"
    }

    fn points(&self) -> &'static [Point] {
        &[Point::PreFilter, Point::Filter, Point::PreScore, Point::Score]
    }

    fn is_local(&self) -> bool {
        true
    }

    fn pre_filter(&self, _cluster: &mut Cluster, pod: &PodInfo) -> PreFilter {
        if pod.template.node.is_unconditional() && self.required.is_none() {
            return PreFilter::Skip;
        }
        let terms = pod.template.node.required.as_ref().map_or(&[][..], |r| &r.0);
        let names: Option<Vec<Vec<&str>>> = terms.iter().map(NodeTerm::names).collect();
        match names {
            Some(names) if !terms.is_empty() => {
                let names: Vec<String> = names.into_iter().flatten().map(str::to_owned).collect();
                if names.is_empty() {
                    return PreFilter::Refuse { reason: REASON_CONFLICT.into(), unresolvable: true };
                }
                PreFilter::Only(no_state(), names)
            }
            _ => PreFilter::Go(no_state()),
        }
    }

    fn filter(&self, cx: &Cx<'_>, _state: &State, candidates: &[u32], verdicts: &mut Verdicts) {
        for i in candidates.iter().map(|i| *i as usize) {
            if !verdicts.is_fit(i) {
                continue;
            }
            let reason = if !self.is_enforced(cx.cluster, i) {
                REASON_ENFORCED
            } else if !is_wanted(cx.pod, cx.cluster, i) {
                REASON
            } else {
                continue;
            };
            let refusal = verdicts.refusal(self.name(), reason, true);
            verdicts.refuse(i, refusal);
        }
    }

    fn pre_score(&self, _cluster: &mut Cluster, pod: &PodInfo, _feasible: &[u32]) -> PreScore {
        match pod.template.node.preferred.is_empty() && self.preferred.is_empty() {
            true => PreScore::Skip,
            false => PreScore::Go(no_state()),
        }
    }

    fn score(&self, cx: &Cx<'_>, _state: &State, nodes: &[u32], scores: &mut [i64]) {
        let preferred = &cx.pod.template.node.preferred;
        if preferred.is_empty() && self.preferred.is_empty() {
            return;
        }
        let rows = &cx.cluster.nodes.rows;
        for (score, i) in scores.iter_mut().zip(nodes) {
            let i = *i as usize;
            let matching =
                self.preferred.iter().chain(preferred).filter(|(_, t)| t.matches(rows.name(i), &rows.labels[i]));
            *score = matching.map(|(w, _)| w).sum();
        }
    }

    fn normalizes(&self) -> bool {
        true
    }

    fn normalize(&self, _cx: &Cx<'_>, _state: &State, _nodes: &[u32], scores: &mut [i64]) {
        normalize(scores, false);
    }

    fn may_help(&self, event: Event<'_>, pod: &PodInfo, cluster: &Cluster) -> bool {
        let Event::Node { position, change } = event else { return false };
        (change.added || change.labels) && self.is_enforced(cluster, position) && is_wanted(pod, cluster, position)
    }
}
