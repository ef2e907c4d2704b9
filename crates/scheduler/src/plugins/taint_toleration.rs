//! Tainted nodes take only pods that tolerate the taints. Upstream: `plugins/tainttoleration`.

use crate::framework::{Event, Filter, Score, Verdicts, normalize};
use crate::model::{Taint, Toleration};
use crate::nodes::Nodes;
use crate::pod::PodInfo;

const REASON: &str = "node(s) had untolerated taint(s)";

/// See the module.
pub struct TaintToleration;

fn refuses(taints: &[Taint], tolerations: &[Toleration]) -> bool {
    taints
        .iter()
        .filter(|t| t.effect == "NoSchedule" || t.effect == "NoExecute")
        .any(|taint| !tolerations.iter().any(|t| t.tolerates(taint)))
}

impl Filter for TaintToleration {
    fn name(&self) -> &'static str {
        "TaintToleration"
    }

    fn filter(&self, pod: &PodInfo, nodes: &Nodes, candidates: &[usize], verdicts: &mut Verdicts) {
        let refused: Vec<bool> = nodes.taint_lists.iter().map(|list| refuses(list, &pod.tolerations)).collect();
        if !refused.contains(&true) {
            return;
        }
        let refusal = verdicts.refusal(Filter::name(self), REASON, true);
        for &i in candidates {
            if verdicts.is_fit(i) && refused[nodes.taints[i] as usize] {
                verdicts.refuse(i, refusal);
            }
        }
    }

    fn may_help(&self, event: Event<'_>, pod: &PodInfo, nodes: &Nodes) -> bool {
        let Event::Node { position, change } = event else { return false };
        (change.added || change.taints)
            && !refuses(&nodes.taint_lists[nodes.taints[position] as usize], &pod.tolerations)
    }
}

impl Score for TaintToleration {
    fn name(&self) -> &'static str {
        "TaintToleration"
    }

    fn weight(&self) -> i64 {
        3
    }

    /// The fewer `PreferNoSchedule` taints the pod does not tolerate the better.
    fn score(&self, pod: &PodInfo, nodes: &Nodes, feasible: &[usize], scores: &mut [i64]) {
        let tolerations: Vec<&Toleration> =
            pod.tolerations.iter().filter(|t| t.effect.is_empty() || t.effect == "PreferNoSchedule").collect();
        let untolerated = |list: &Vec<Taint>| {
            let soft = list.iter().filter(|t| t.effect == "PreferNoSchedule");
            soft.filter(|taint| !tolerations.iter().any(|t| t.tolerates(taint))).count() as i64
        };
        let counts: Vec<i64> = nodes.taint_lists.iter().map(untolerated).collect();
        for (score, &i) in scores.iter_mut().zip(feasible) {
            *score = counts[nodes.taints[i] as usize];
        }
        normalize(scores, true);
    }
}
