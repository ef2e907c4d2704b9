//! Host ports must be free. Upstream: `plugins/nodeports`.

use crate::framework::{Event, Filter, Verdicts};
use crate::nodes::Nodes;
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

impl Filter for NodePorts {
    fn name(&self) -> &'static str {
        "NodePorts"
    }

    fn filter(&self, pod: &PodInfo, nodes: &Nodes, candidates: &[usize], verdicts: &mut Verdicts) {
        if pod.host_ports.is_empty() {
            return;
        }
        let refusal = verdicts.refusal(self.name(), REASON, false);
        for &i in candidates {
            if verdicts.is_fit(i) && any_collide(&pod.host_ports, &nodes.host_ports[i]) {
                verdicts.refuse(i, refusal);
            }
        }
    }

    fn may_help(&self, event: Event<'_>, pod: &PodInfo, _nodes: &Nodes) -> bool {
        match event {
            Event::Node { change, .. } => change.added,
            Event::PodGone(gone) => any_collide(&pod.host_ports, &gone.host_ports),
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
