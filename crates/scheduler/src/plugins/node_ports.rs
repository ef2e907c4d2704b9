//! Host ports must be free. Upstream: `plugins/nodeports`.

use crate::cluster::Cluster;
use crate::framework::{Cx, Event, Plugin, Point, PreFilter, State, Verdicts, no_state};
use crate::pod::{HostPort, PodInfo};

const REASON: &str = "node(s) didn't have free ports for the requested pod ports";

/// See the module.
pub struct NodePorts;

/// `0.0.0.0` takes the port of every address.
fn collide(a: &HostPort, b: &HostPort) -> bool {
    a.0 == b.0 && a.2 == b.2 && (a.1 == b.1 || a.1 == "0.0.0.0" || b.1 == "0.0.0.0")
}

fn any_collide(wanted: &[HostPort], used: &[HostPort]) -> bool {
    wanted.iter().any(|w| used.iter().any(|u| collide(w, u)))
}

impl Plugin for NodePorts {
    fn name(&self) -> &'static str {
        "NodePorts"
    }

    fn points(&self) -> &'static [Point] {
        &[Point::PreFilter, Point::Filter]
    }

    fn is_local(&self) -> bool {
        true
    }

    fn pre_filter(&self, _cluster: &mut Cluster, pod: &PodInfo) -> PreFilter {
        if pod.template.host_ports.is_empty() { PreFilter::Skip } else { PreFilter::Go(no_state()) }
    }

    fn filter(&self, cx: &Cx<'_>, _state: &State, candidates: &[u32], verdicts: &mut Verdicts) {
        for i in candidates.iter().map(|i| *i as usize) {
            if verdicts.is_fit(i) && any_collide(&cx.pod.template.host_ports, &cx.cluster.nodes.rows.host_ports[i]) {
                let refusal = verdicts.refusal(self.name(), REASON, false);
                verdicts.refuse(i, refusal);
            }
        }
    }

    fn may_help(&self, event: Event<'_>, pod: &PodInfo, _cluster: &Cluster) -> bool {
        match event {
            Event::Node { change, .. } => change.added,
            Event::PodGone(gone) => any_collide(&pod.template.host_ports, &gone.template.host_ports),
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(a: (&str, &str, u16), b: (&str, &str, u16), expected: bool) {
        let port = |(protocol, ip, port): (&str, &str, u16)| (protocol.to_owned(), ip.to_owned(), port);
        assert_eq!(collide(&port(a), &port(b)), expected, "{a:?} {b:?}");
    }

    #[test]
    fn addresses_and_protocols_count() {
        check(("TCP", "0.0.0.0", 80), ("TCP", "10.0.0.1", 80), true);
        check(("TCP", "10.0.0.2", 80), ("TCP", "10.0.0.1", 80), false);
        check(("TCP", "0.0.0.0", 80), ("UDP", "0.0.0.0", 80), false);
        check(("TCP", "0.0.0.0", 80), ("TCP", "0.0.0.0", 81), false);
    }
}
