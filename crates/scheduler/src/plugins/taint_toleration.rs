//! Tainted nodes take only pods that tolerate the taints. Upstream: `plugins/tainttoleration`.

use crate::cluster::Cluster;
use crate::framework::{Cx, Event, Plugin, Point, State, Verdicts, normalize};
use crate::model::{Taint, Toleration};
use crate::pod::PodInfo;

const REASON: &str = "node(s) had untolerated taint(s)";

/// See the module.
pub struct TaintToleration;

/// Whether every taint that keeps pods away is tolerated.
pub fn tolerates_all(tolerations: &[Toleration], taints: &[Taint]) -> bool {
    let hard = taints.iter().filter(|t| t.effect == "NoSchedule" || t.effect == "NoExecute");
    hard.into_iter().all(|taint| tolerations.iter().any(|t| t.tolerates(taint)))
}

impl Plugin for TaintToleration {
    fn name(&self) -> &'static str {
        "TaintToleration"
    }

    fn points(&self) -> &'static [Point] {
        &[Point::Filter, Point::PreScore, Point::Score]
    }

    fn is_local(&self) -> bool {
        true
    }

    fn filter(&self, cx: &Cx<'_>, _state: &State, candidates: &[u32], verdicts: &mut Verdicts) {
        let rows = &cx.cluster.nodes.rows;
        let mut known: Vec<Option<bool>> = vec![None; rows.taint_lists.len()];
        for i in candidates.iter().map(|i| *i as usize) {
            let list = rows.taints[i] as usize;
            let tolerated = *known[list]
                .get_or_insert_with(|| tolerates_all(&cx.pod.template.tolerations, &rows.taint_lists[list]));
            if !tolerated && verdicts.is_fit(i) {
                let refusal = verdicts.refusal(self.name(), REASON, true);
                verdicts.refuse(i, refusal);
            }
        }
    }

    /// The fewer `PreferNoSchedule` taints the pod does not tolerate the better.
    fn score(&self, cx: &Cx<'_>, _state: &State, nodes: &[u32], scores: &mut [i64]) {
        let rows = &cx.cluster.nodes.rows;
        let soft = |t: &&Toleration| t.effect.is_empty() || t.effect == "PreferNoSchedule";
        let untolerated = |list: usize| {
            let taints = rows.taint_lists[list].iter().filter(|t| t.effect == "PreferNoSchedule");
            let tolerated = |taint| cx.pod.template.tolerations.iter().filter(soft).any(|t| t.tolerates(taint));
            taints.filter(|taint| !tolerated(taint)).count() as i64
        };
        let mut known: Vec<Option<i64>> = vec![None; rows.taint_lists.len()];
        for (score, i) in scores.iter_mut().zip(nodes) {
            let list = rows.taints[*i as usize] as usize;
            *score = *known[list].get_or_insert_with(|| untolerated(list));
        }
    }

    fn normalizes(&self) -> bool {
        true
    }

    fn normalize(&self, _cx: &Cx<'_>, _state: &State, _nodes: &[u32], scores: &mut [i64]) {
        normalize(scores, true);
    }

    fn may_help(&self, event: Event<'_>, pod: &PodInfo, cluster: &Cluster) -> bool {
        match event {
            Event::Node { position, change } => {
                (change.added || change.taints)
                    && tolerates_all(&pod.template.tolerations, cluster.nodes.rows.taints_of(position))
            }
            Event::Itself { old, new } => old.template.tolerations != new.template.tolerations,
            _ => false,
        }
    }
}
