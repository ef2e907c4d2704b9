//! Cordoned nodes take only pods that tolerate it. Upstream: `plugins/nodeunschedulable`.

use crate::cluster::Cluster;
use crate::framework::{Cx, Event, Plugin, Point, State, Verdicts};
use crate::model::Taint;
use crate::pod::PodInfo;

const REASON: &str = "node(s) were unschedulable";

/// See the module.
pub struct NodeUnschedulable;

fn tolerates(pod: &PodInfo) -> bool {
    let taint =
        Taint { key: "node.kubernetes.io/unschedulable".into(), value: String::new(), effect: "NoSchedule".into() };
    pod.template.tolerations.iter().any(|t| t.tolerates(&taint))
}

impl Plugin for NodeUnschedulable {
    fn name(&self) -> &'static str {
        "NodeUnschedulable"
    }

    fn points(&self) -> &'static [Point] {
        &[Point::Filter]
    }

    fn is_local(&self) -> bool {
        true
    }

    fn filter(&self, cx: &Cx<'_>, _state: &State, candidates: &[u32], verdicts: &mut Verdicts) {
        let cordoned = &cx.cluster.nodes.rows.unschedulable;
        let mut refusal = None;
        for i in candidates.iter().map(|i| *i as usize) {
            if !cordoned[i] || !verdicts.is_fit(i) {
                continue;
            }
            let refusal = refusal
                .get_or_insert_with(|| (!tolerates(cx.pod)).then(|| verdicts.refusal(self.name(), REASON, true)));
            if let Some(refusal) = refusal {
                verdicts.refuse(i, *refusal);
            }
        }
    }

    fn may_help(&self, event: Event<'_>, _pod: &PodInfo, cluster: &Cluster) -> bool {
        match event {
            Event::Node { position, change } => {
                (change.added || change.taints) && !cluster.nodes.rows.unschedulable[position]
            }
            Event::Itself { new, .. } => tolerates(new),
            _ => false,
        }
    }
}
