//! Services, slices and the node's facts become a [`RuleSet`]: what the kernel has to do, free of how.
//!
//! Endpoint choice follows `k8s.io/kubernetes/pkg/proxy/topology.go` (`CategorizeEndpoints`): ready endpoints, or
//! where there are none those that serve while they end.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};

use ipnet::IpNet;

use crate::model::{NamedHint, Service, ServicePort, Slice, addresses};

/// A transport protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
    /// SCTP.
    Sctp,
}

impl Protocol {
    /// From the API's name; empty means TCP.
    pub fn parse(text: &str) -> Option<Protocol> {
        match text {
            "" | "TCP" => Some(Protocol::Tcp),
            "UDP" => Some(Protocol::Udp),
            "SCTP" => Some(Protocol::Sctp),
            _ => None,
        }
    }

    /// The kernel's name.
    pub fn name(self) -> &'static str {
        match self {
            Protocol::Tcp => "tcp",
            Protocol::Udp => "udp",
            Protocol::Sctp => "sctp",
        }
    }
}

/// Where one port of one service leads.
#[derive(Clone, Debug, PartialEq)]
pub struct PortRule {
    /// `namespace/service:port`, without the colon for a nameless port.
    pub name: String,
    /// Protocol.
    pub protocol: Protocol,
    /// The cluster address.
    pub cluster_ip: IpAddr,
    /// The port on cluster, external and load balancer addresses.
    pub port: u16,
    /// The port on every node; 0 for none.
    pub node_port: u16,
    /// External addresses.
    pub external_ips: Vec<IpAddr>,
    /// Load balancer addresses that are short-cut.
    pub load_balancer_ips: Vec<IpAddr>,
    /// Who may reach the load balancer addresses; empty for everyone.
    pub source_ranges: Vec<IpNet>,
    /// Seconds for which a client stays with its endpoint; `None` for no affinity.
    pub affinity_seconds: Option<u32>,
    /// Whether traffic from inside goes to endpoints of this node only.
    pub internal_local: bool,
    /// Whether traffic from outside goes to endpoints of this node only, its source address kept.
    pub external_local: bool,
    /// Endpoints of the whole cluster, sorted.
    pub endpoints: Vec<SocketAddr>,
    /// Endpoints of this node, sorted.
    pub local_endpoints: Vec<SocketAddr>,
    /// Whether the service has any endpoint that could be used on any node.
    pub any_endpoints: bool,
    /// Port where a `Local` load balancer's health is told; 0 for none.
    pub health_check_node_port: u16,
}

impl PortRule {
    /// Whether anything of the outside leads here.
    pub fn is_external(&self) -> bool {
        self.node_port != 0 || !self.external_ips.is_empty() || !self.load_balancer_ips.is_empty()
    }

    /// The endpoints that traffic from inside may go to.
    pub fn internal_endpoints(&self) -> &[SocketAddr] {
        if self.internal_local { &self.local_endpoints } else { &self.endpoints }
    }

    /// The endpoints that traffic from outside may go to.
    pub fn external_endpoints(&self) -> &[SocketAddr] {
        if self.external_local { &self.local_endpoints } else { &self.endpoints }
    }
}

/// Everything one address family of one node has to do, ordered by name.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct RuleSet {
    /// Whether this is the IPv6 half.
    pub v6: bool,
    /// One rule per service port.
    pub ports: Vec<PortRule>,
}

impl RuleSet {
    /// UDP flows that must be forgotten when `self` replaces `old`: those to endpoints that are gone, and those
    /// of services that had none before (their packets made entries that lead nowhere).
    pub fn stale_flows(&self, old: &RuleSet) -> Vec<StaleFlow> {
        let now: BTreeMap<_, _> = self.ports.iter().map(|p| ((&p.name, p.protocol), p)).collect();
        let before: BTreeMap<_, _> = old.ports.iter().map(|p| ((&p.name, p.protocol), p)).collect();
        let mut stale = Vec::new();
        for (key, was) in before.iter().filter(|(_, p)| p.protocol == Protocol::Udp) {
            let kept: BTreeSet<&SocketAddr> = now.get(key).map(|p| p.endpoints.iter().collect()).unwrap_or_default();
            for gone in was.endpoints.iter().filter(|e| !kept.contains(e)) {
                stale.push(StaleFlow { to: was.cluster_ip, port: was.port, endpoint: Some(*gone) });
            }
        }
        for (key, rule) in now.iter().filter(|(_, p)| p.protocol == Protocol::Udp && !p.endpoints.is_empty()) {
            if before.get(key).is_none_or(|was| was.endpoints.is_empty()) {
                let others = rule.external_ips.iter().chain(&rule.load_balancer_ips).copied();
                for to in std::iter::once(rule.cluster_ip).chain(others) {
                    stale.push(StaleFlow { to, port: rule.port, endpoint: None });
                }
            }
        }
        stale
    }
}

/// A connection-tracking entry that must go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StaleFlow {
    /// The service's address.
    pub to: IpAddr,
    /// The service's port.
    pub port: u16,
    /// The endpoint the flow goes to; `None` for any.
    pub endpoint: Option<SocketAddr>,
}

/// Where the rules are to be.
#[derive(Clone, Copy, Debug)]
pub struct Here<'a> {
    /// The node.
    pub node: &'a str,
    /// Its zone; empty where it has none.
    pub zone: &'a str,
}

impl<'a> From<&'a str> for Here<'a> {
    /// A node without a zone.
    fn from(node: &'a str) -> Self {
        Here { node, zone: "" }
    }
}

/// Builds the rules of one address family.
///
/// `services` and `slices` may come in any order; the result does not depend on it.
pub fn build<'a, 'h>(
    services: impl IntoIterator<Item = &'a Service>,
    slices: impl IntoIterator<Item = &'a Slice>,
    here: impl Into<Here<'h>>,
    v6: bool,
) -> RuleSet {
    let here = here.into();
    let mut by_service: BTreeMap<(&str, &str), Vec<&Slice>> = BTreeMap::new();
    let family = if v6 { "IPv6" } else { "IPv4" };
    for slice in slices.into_iter().filter(|s| s.address_type == family && !s.service().is_empty()) {
        by_service.entry((&slice.metadata.namespace, slice.service())).or_default().push(slice);
    }
    let mut ports = Vec::new();
    for service in services {
        if service.spec.ty == "ExternalName"
            || service.metadata.label("service.kubernetes.io/service-proxy-name").is_some()
        {
            continue;
        }
        let Some(cluster_ip) = addresses(&service.spec.cluster_ips, v6).first().copied() else { continue };
        let slices = by_service.get(&(&*service.metadata.namespace, &*service.metadata.name));
        let slices = slices.map(Vec::as_slice).unwrap_or_default();
        for port in &service.spec.ports {
            ports.extend(port_rule(service, port, cluster_ip, slices, here, v6));
        }
    }
    ports.sort_by(|a, b| (&a.name, a.protocol).cmp(&(&b.name, b.protocol)));
    RuleSet { v6, ports }
}

fn port_rule(
    service: &Service,
    port: &ServicePort,
    cluster_ip: IpAddr,
    slices: &[&Slice],
    here: Here<'_>,
    v6: bool,
) -> Option<PortRule> {
    let spec = &service.spec;
    let protocol = Protocol::parse(&port.protocol)?;
    let all = candidates(slices, &port.name, protocol, here, v6);
    let suffix = if port.name.is_empty() { String::new() } else { format!(":{}", port.name) };
    let load_balancer_ips: Vec<String> = service
        .status
        .load_balancer
        .ingress
        .iter()
        .filter(|i| spec.ty == "LoadBalancer" && i.ip_mode != "Proxy")
        .map(|i| i.ip.clone())
        .collect();
    let affinity_seconds = (spec.session_affinity == "ClientIP")
        .then(|| spec.session_affinity_config.client_ip.timeout_seconds.unwrap_or(10800));
    Some(PortRule {
        name: format!("{}/{}{suffix}", service.metadata.namespace, service.metadata.name),
        protocol,
        cluster_ip,
        port: port.port,
        node_port: port.node_port,
        external_ips: addresses(&spec.external_ips, v6),
        load_balancer_ips: addresses(&load_balancer_ips, v6),
        source_ranges: spec
            .load_balancer_source_ranges
            .iter()
            .filter_map(|r| r.trim().parse::<IpNet>().ok())
            .filter(|net| net.addr().is_ipv6() == v6)
            .collect(),
        affinity_seconds,
        internal_local: spec.internal_traffic_policy == "Local",
        external_local: spec.external_traffic_policy == "Local",
        endpoints: hinted(&all).unwrap_or_else(|| usable(&all, false)),
        local_endpoints: usable(&all, true),
        any_endpoints: all.iter().any(|c| c.ready || c.serving),
        health_check_node_port: u16::try_from(spec.health_check_node_port).unwrap_or(0),
    })
}

/// An endpoint of one port, before the choice.
struct Candidate {
    addr: SocketAddr,
    local: bool,
    ready: bool,
    /// Serves although it is ending.
    serving: bool,
    /// Whether this node, and its zone, are among those that should use it; `None` without a hint.
    hints: [Option<bool>; 2],
}

/// Whether a name is among those of hints; `None` where there are none.
fn names(hints: &[NamedHint], name: &str) -> Option<bool> {
    (!hints.is_empty()).then(|| hints.iter().any(|hint| hint.name == name))
}

fn candidates(slices: &[&Slice], port: &str, protocol: Protocol, here: Here<'_>, v6: bool) -> Vec<Candidate> {
    let mut found: BTreeMap<SocketAddr, Candidate> = BTreeMap::new();
    for slice in slices {
        let matching = slice.ports.iter().filter(|p| {
            p.name.as_deref().unwrap_or_default() == port
                && Protocol::parse(p.protocol.as_deref().unwrap_or_default()) == Some(protocol)
        });
        for number in matching.filter_map(|p| p.port) {
            for endpoint in &slice.endpoints {
                let Some(ip) = endpoint.addresses.first().and_then(|a| a.parse::<IpAddr>().ok()) else { continue };
                if ip.is_ipv6() != v6 {
                    continue;
                }
                let conditions = &endpoint.conditions;
                let ready = conditions.ready.unwrap_or(true);
                let ending = conditions.terminating.unwrap_or(false);
                let candidate = Candidate {
                    addr: SocketAddr::new(ip, number),
                    local: endpoint.node_name.as_deref() == Some(here.node),
                    ready,
                    serving: conditions.serving.unwrap_or(ready) && ending,
                    hints: [names(&endpoint.hints.for_nodes, here.node), names(&endpoint.hints.for_zones, here.zone)],
                };
                // While a pod moves between slices it may be in two: the one that is ready counts.
                let known =
                    found.entry(candidate.addr).or_insert(Candidate { ready: false, serving: false, ..candidate });
                known.ready |= candidate.ready;
                known.serving |= candidate.serving;
            }
        }
    }
    found.into_values().collect()
}

/// The ready endpoints that are meant for this node, else those for its zone, if every ready endpoint says for whom it is and
/// there are some (`trafficDistribution`, topology hints).
fn hinted(all: &[Candidate]) -> Option<Vec<SocketAddr>> {
    let ready = || all.iter().filter(|c| c.ready);
    let meant = |kind: usize| {
        if ready().any(|c| c.hints[kind].is_none()) {
            return None;
        }
        let mine: Vec<SocketAddr> = ready().filter(|c| c.hints[kind] == Some(true)).map(|c| c.addr).collect();
        (!mine.is_empty()).then_some(mine)
    };
    meant(0).or_else(|| meant(1))
}

/// Ready endpoints, or where there are none those that serve while they end.
fn usable(all: &[Candidate], local_only: bool) -> Vec<SocketAddr> {
    let pick = |wanted: fn(&Candidate) -> bool| -> Vec<SocketAddr> {
        all.iter().filter(|c| (c.local || !local_only) && wanted(c)).map(|c| c.addr).collect()
    };
    let ready = pick(|c| c.ready);
    if ready.is_empty() { pick(|c| c.serving) } else { ready }
}

#[cfg(test)]
pub(crate) mod tests {
    use orkd_reconcile::Meta;

    use super::*;
    use crate::model::{Endpoint, EndpointConditions, EndpointPort, ServiceSpec};

    pub(crate) fn service(name: &str, ip: &str) -> Service {
        Service {
            metadata: Meta { namespace: "default".into(), name: name.into(), ..Meta::default() },
            spec: ServiceSpec {
                ty: "ClusterIP".into(),
                cluster_ips: vec![ip.into()],
                ports: vec![ServicePort { name: "http".into(), protocol: "TCP".into(), port: 80, node_port: 0 }],
                ..ServiceSpec::default()
            },
            ..Service::default()
        }
    }

    /// `endpoints`: address, node, and which of "ready", "ending" it is.
    pub(crate) fn slice(service: &str, endpoints: &[(&str, &str, &str)]) -> Slice {
        Slice {
            metadata: Meta {
                namespace: "default".into(),
                labels: [("kubernetes.io/service-name".to_owned(), service.to_owned())].into(),
                ..Meta::default()
            },
            address_type: "IPv4".into(),
            ports: vec![EndpointPort { name: Some("http".into()), port: Some(8080), protocol: Some("TCP".into()) }],
            endpoints: endpoints
                .iter()
                .map(|(ip, node, state)| Endpoint {
                    addresses: vec![(*ip).into()],
                    node_name: Some((*node).into()),
                    conditions: EndpointConditions {
                        ready: Some(*state == "ready"),
                        serving: Some(*state != "down"),
                        terminating: Some(*state == "ending"),
                    },
                    ..Endpoint::default()
                })
                .collect(),
        }
    }

    fn check(endpoints: &[(&str, &str, &str)], all: &[&str], local: &[&str]) {
        let rules = build([&service("a", "10.43.0.9")], [&slice("a", endpoints)], "n1", false);
        let text = |addrs: &[SocketAddr]| addrs.iter().map(ToString::to_string).collect::<Vec<_>>();
        assert_eq!(text(&rules.ports[0].endpoints), all);
        assert_eq!(text(&rules.ports[0].local_endpoints), local);
    }

    #[test]
    fn ready_endpoints_are_used() {
        check(
            &[("10.42.0.5", "n1", "ready"), ("10.42.1.5", "n2", "ready"), ("10.42.1.6", "n2", "down")],
            &["10.42.0.5:8080", "10.42.1.5:8080"],
            &["10.42.0.5:8080"],
        );
    }

    #[test]
    fn ending_endpoints_serve_while_there_is_no_other() {
        check(&[("10.42.0.5", "n1", "ending"), ("10.42.1.5", "n2", "ready")], &["10.42.1.5:8080"], &["10.42.0.5:8080"]);
        check(&[("10.42.0.5", "n1", "ending"), ("10.42.1.6", "n2", "down")], &["10.42.0.5:8080"], &["10.42.0.5:8080"]);
    }

    #[test]
    fn hints_are_followed_where_all_have_one() {
        let mut hinted = slice("a", &[("10.42.0.5", "n1", "ready"), ("10.42.1.5", "n2", "ready")]);
        let service = service("a", "10.43.0.9");
        for (endpoint, node) in hinted.endpoints.iter_mut().zip(["n1", "n2"]) {
            endpoint.hints.for_nodes = vec![NamedHint { name: node.into() }];
        }
        let endpoints = |slice: &Slice, node| build([&service], [slice], node, false).ports[0].endpoints.len();
        assert_eq!(endpoints(&hinted, "n1"), 1);
        assert_eq!(endpoints(&hinted, "n3"), 2);
        hinted.endpoints[1].hints.for_nodes.clear();
        assert_eq!(endpoints(&hinted, "n1"), 2);
        // Where no endpoint is meant for the node, its zone counts.
        let mut zoned = slice("a", &[("10.42.0.5", "n1", "ready"), ("10.42.1.5", "n2", "ready")]);
        for (endpoint, (node, zone)) in zoned.endpoints.iter_mut().zip([("n1", "z1"), ("n2", "z2")]) {
            endpoint.hints.for_nodes = vec![NamedHint { name: node.into() }];
            endpoint.hints.for_zones = vec![NamedHint { name: zone.into() }];
        }
        let of = |node, zone| {
            let rules = build([&service], [&zoned], Here { node, zone }, false);
            rules.ports[0].endpoints.iter().map(ToString::to_string).collect::<Vec<_>>()
        };
        assert_eq!(of("n1", "z2"), ["10.42.0.5:8080"]);
        assert_eq!(of("n3", "z2"), ["10.42.1.5:8080"]);
        assert_eq!(of("n3", "z3").len(), 2);
        assert_eq!(of("n3", "").len(), 2);
    }

    #[test]
    fn headless_external_and_foreign_services_have_no_rules() {
        let headless = service("a", "None");
        let mut external = service("b", "10.43.0.9");
        external.spec.ty = "ExternalName".into();
        let mut foreign = service("c", "10.43.0.9");
        foreign.metadata.labels = [("service.kubernetes.io/service-proxy-name".to_owned(), "x".to_owned())].into();
        assert_eq!(build([&headless, &external, &foreign], [], "n1", false).ports, []);
    }

    #[test]
    fn udp_flows_of_gone_endpoints_are_stale() {
        let udp = |endpoints: &[(&str, &str, &str)]| {
            let mut service = service("a", "10.43.0.9");
            service.spec.ports[0].protocol = "UDP".into();
            let mut slice = slice("a", endpoints);
            slice.ports[0].protocol = Some("UDP".into());
            build([&service], [&slice], "n1", false)
        };
        let (old, new) = (udp(&[("10.42.0.5", "n1", "ready")]), udp(&[("10.42.0.6", "n1", "ready")]));
        let gone = "10.42.0.5:8080".parse().ok();
        let to: IpAddr = "10.43.0.9".parse().expect("an address");
        assert_eq!(new.stale_flows(&old), [StaleFlow { to, port: 80, endpoint: gone }]);
        assert_eq!(new.stale_flows(&RuleSet::default()), [StaleFlow { to, port: 80, endpoint: None }]);
        assert_eq!(new.stale_flows(&new), []);
    }
}
