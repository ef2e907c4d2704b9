//! A pod that names its node goes nowhere else. Upstream: `plugins/nodename`.

use crate::framework::{Event, Filter, Verdicts};
use crate::nodes::Nodes;
use crate::pod::PodInfo;

const REASON: &str = "node(s) didn't match the requested node name";

/// See the module.
pub struct NodeName;

impl Filter for NodeName {
    fn name(&self) -> &'static str {
        "NodeName"
    }

    fn filter(&self, pod: &PodInfo, nodes: &Nodes, candidates: &[usize], verdicts: &mut Verdicts) {
        if pod.node_name.is_empty() {
            return;
        }
        let refusal = verdicts.refusal(self.name(), REASON, true);
        for &i in candidates {
            if verdicts.is_fit(i) && *nodes.names[i] != *pod.node_name {
                verdicts.refuse(i, refusal);
            }
        }
    }

    fn may_help(&self, event: Event<'_>, _pod: &PodInfo, _nodes: &Nodes) -> bool {
        matches!(event, Event::Node { change, .. } if change.added)
    }
}
