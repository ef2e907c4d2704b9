//! Cordoned nodes take only pods that tolerate it. Upstream: `plugins/nodeunschedulable`.

use crate::framework::{Event, Filter, Verdicts};
use crate::model::Taint;
use crate::nodes::Nodes;
use crate::pod::PodInfo;

const REASON: &str = "node(s) were unschedulable";

/// See the module.
pub struct NodeUnschedulable;

fn tolerates(pod: &PodInfo) -> bool {
    let taint =
        Taint { key: "node.kubernetes.io/unschedulable".into(), value: String::new(), effect: "NoSchedule".into() };
    pod.tolerations.iter().any(|t| t.tolerates(&taint))
}

impl Filter for NodeUnschedulable {
    fn name(&self) -> &'static str {
        "NodeUnschedulable"
    }

    fn filter(&self, pod: &PodInfo, nodes: &Nodes, candidates: &[usize], verdicts: &mut Verdicts) {
        let refusal = verdicts.refusal(self.name(), REASON, true);
        let mut tolerated = None;
        for &i in candidates {
            if verdicts.is_fit(i) && nodes.unschedulable[i] && !*tolerated.get_or_insert_with(|| tolerates(pod)) {
                verdicts.refuse(i, refusal);
            }
        }
    }

    fn may_help(&self, event: Event<'_>, _pod: &PodInfo, nodes: &Nodes) -> bool {
        matches!(event, Event::Node { position, change } if (change.added || change.taints) && !nodes.unschedulable[position])
    }
}
