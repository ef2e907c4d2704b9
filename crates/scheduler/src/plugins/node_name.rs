//! A pod that names its node goes nowhere else. Upstream: `plugins/nodename`.

use crate::cluster::Cluster;
use crate::framework::{Cx, Event, Plugin, Point, State, Verdicts};
use crate::pod::PodInfo;

const REASON: &str = "node(s) didn't match the requested node name";

/// See the module.
pub struct NodeName;

impl Plugin for NodeName {
    fn name(&self) -> &'static str {
        "NodeName"
    }

    fn points(&self) -> &'static [Point] {
        &[Point::Filter]
    }

    /// A pod that waits names no node, so that equal pods are judged alike.
    fn is_local(&self) -> bool {
        true
    }

    fn filter(&self, cx: &Cx<'_>, _state: &State, candidates: &[u32], verdicts: &mut Verdicts) {
        if cx.pod.node_name.is_empty() {
            return;
        }
        let refusal = verdicts.refusal(self.name(), REASON, true);
        for i in candidates.iter().map(|i| *i as usize) {
            if verdicts.is_fit(i) && cx.cluster.nodes.rows.name(i) != cx.pod.node_name {
                verdicts.refuse(i, refusal);
            }
        }
    }

    fn may_help(&self, event: Event<'_>, _pod: &PodInfo, _cluster: &Cluster) -> bool {
        matches!(event, Event::Node { change, .. } if change.added)
    }
}
