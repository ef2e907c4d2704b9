//! What the proxy reads of Services and EndpointSlices.

use std::net::IpAddr;

use orkd_reconcile::{Meta, View, null_default};
use serde::Deserialize;

/// The part of a Service's spec and status that the proxy reads.
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(rename_all = "camelCase", default)]
pub struct ServiceSpec {
    /// `ClusterIP`, `NodePort`, `LoadBalancer`, `ExternalName`.
    #[serde(rename = "type")]
    pub ty: String,
    /// Cluster addresses; `None` (the word) for headless services.
    #[serde(rename = "clusterIPs")]
    pub cluster_ips: Vec<String>,
    /// Ports.
    pub ports: Vec<ServicePort>,
    /// Addresses of the outside that reach this service on any node.
    #[serde(rename = "externalIPs")]
    pub external_ips: Vec<String>,
    /// `ClientIP` or `None`.
    pub session_affinity: String,
    /// How long an affinity lasts.
    pub session_affinity_config: SessionAffinityConfig,
    /// `Cluster` or `Local`.
    pub external_traffic_policy: String,
    /// `Cluster` or `Local`.
    pub internal_traffic_policy: String,
    /// Port of the health check of a `Local` load balancer.
    pub health_check_node_port: i32,
    /// Who may reach the load balancer's addresses.
    pub load_balancer_source_ranges: Vec<String>,
}

/// `spec.sessionAffinityConfig`.
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(rename_all = "camelCase", default)]
pub struct SessionAffinityConfig {
    /// `clientIP`.
    #[serde(rename = "clientIP")]
    pub client_ip: ClientIpConfig,
}

/// `spec.sessionAffinityConfig.clientIP`.
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(rename_all = "camelCase", default)]
pub struct ClientIpConfig {
    /// Seconds; upstream's default is 10800.
    pub timeout_seconds: Option<u32>,
}

/// One port of a Service.
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(rename_all = "camelCase", default)]
pub struct ServicePort {
    /// Name; empty for the only one.
    pub name: String,
    /// `TCP`, `UDP` or `SCTP`.
    pub protocol: String,
    /// Port on the cluster addresses.
    pub port: u16,
    /// Port on every node; 0 for none.
    pub node_port: u16,
}

/// `status` of a Service.
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(rename_all = "camelCase", default)]
pub struct ServiceStatus {
    /// `status.loadBalancer`.
    pub load_balancer: LoadBalancerStatus,
}

/// `status.loadBalancer`.
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(default)]
pub struct LoadBalancerStatus {
    /// Ingress points.
    pub ingress: Vec<LoadBalancerIngress>,
}

/// One ingress point of a load balancer.
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(rename_all = "camelCase", default)]
pub struct LoadBalancerIngress {
    /// Address; empty where there is a host name only.
    pub ip: String,
    /// `VIP` (default) or `Proxy`: the latter is not short-cut inside the cluster.
    pub ip_mode: String,
}

/// A Service.
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(default)]
pub struct Service {
    /// Metadata: the label `service.kubernetes.io/service-proxy-name` hands a service to another proxy.
    pub metadata: Meta,
    /// Spec.
    pub spec: ServiceSpec,
    /// Status.
    pub status: ServiceStatus,
}

impl View for Service {
    const GROUP: &'static str = "";
    const VERSION: &'static str = "v1";
    const KIND: &'static str = "Service";
    const PLURAL: &'static str = "services";
    fn meta(&self) -> &Meta {
        &self.metadata
    }
}

/// One endpoint of a slice.
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(rename_all = "camelCase", default)]
pub struct Endpoint {
    /// Addresses; the first is used.
    pub addresses: Vec<String>,
    /// Conditions.
    pub conditions: EndpointConditions,
    /// The node it is on.
    pub node_name: Option<String>,
    /// Which nodes should prefer it.
    pub hints: Hints,
}

/// `hints` of an endpoint.
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(rename_all = "camelCase", default)]
pub struct Hints {
    /// Nodes that should use this endpoint.
    #[serde(deserialize_with = "null_default")]
    pub for_nodes: Vec<NamedHint>,
    /// Zones that should.
    #[serde(deserialize_with = "null_default")]
    pub for_zones: Vec<NamedHint>,
}

/// One hint.
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(default)]
pub struct NamedHint {
    /// The node or zone.
    pub name: String,
}

/// `conditions` of an endpoint.
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(default)]
pub struct EndpointConditions {
    /// Absent means ready.
    pub ready: Option<bool>,
    /// Absent means as ready.
    pub serving: Option<bool>,
    /// Absent means not terminating.
    pub terminating: Option<bool>,
}

/// One port of a slice.
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(default)]
pub struct EndpointPort {
    /// Name of the service's port.
    pub name: Option<String>,
    /// Absent means every port.
    pub port: Option<u16>,
    /// Absent means TCP.
    pub protocol: Option<String>,
}

/// An EndpointSlice.
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(rename_all = "camelCase", default)]
pub struct Slice {
    /// Metadata.
    pub metadata: Meta,
    /// `IPv4` or `IPv6`.
    pub address_type: String,
    /// Endpoints.
    #[serde(deserialize_with = "null_default")]
    pub endpoints: Vec<Endpoint>,
    /// Ports.
    #[serde(deserialize_with = "null_default")]
    pub ports: Vec<EndpointPort>,
}

impl Slice {
    /// The service it belongs to; empty for none.
    pub fn service(&self) -> &str {
        self.metadata.label("kubernetes.io/service-name").unwrap_or_default()
    }
}

impl View for Slice {
    const GROUP: &'static str = "discovery.k8s.io";
    const VERSION: &'static str = "v1";
    const KIND: &'static str = "EndpointSlice";
    const PLURAL: &'static str = "endpointslices";
    fn meta(&self) -> &Meta {
        &self.metadata
    }
}

/// Parses the addresses that are of one family, dropping what is none.
pub(crate) fn addresses(texts: &[String], v6: bool) -> Vec<IpAddr> {
    texts.iter().filter_map(|t| t.parse::<IpAddr>().ok()).filter(|ip| ip.is_ipv6() == v6).collect()
}

/// The node the proxy is on, of which it reads the zone.
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(default)]
pub struct Node {
    /// Metadata.
    pub metadata: Meta,
}

impl View for Node {
    const GROUP: &'static str = "";
    const VERSION: &'static str = "v1";
    const KIND: &'static str = "Node";
    const PLURAL: &'static str = "nodes";
    const NAMESPACED: bool = false;
    fn meta(&self) -> &Meta {
        &self.metadata
    }
}

impl Node {
    /// Its zone; empty where it has none.
    pub fn zone(&self) -> &str {
        self.metadata.label("topology.kubernetes.io/zone").unwrap_or("")
    }
}
