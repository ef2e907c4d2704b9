//! The server's half of cluster DNS: a Service without selector, `kube-system/kube-dns`, and a slice that lists the
//! listener of every node that has one.
//!
//! A node says so by the label [`PORT_LABEL`]. Each endpoint is meant for its own node first (hints), so that a pod
//! asks the node it is on and another where that one is gone.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use orkd_base::{BoxError, chain};
use orkd_reconcile::{Api, Informer, Informers, Meta, Patch, Resource, View, null_default};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

/// The label by which a node tells the port of its DNS listener.
pub const PORT_LABEL: &str = "orkd.io/dns-port";

/// What the publisher needs to know.
#[derive(Clone, Debug)]
pub struct Config {
    /// Address of the DNS service.
    pub cluster_dns: IpAddr,
}

#[derive(Debug, Deserialize)]
struct Node {
    metadata: Meta,
    #[serde(default)]
    status: NodeStatus,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct NodeStatus {
    #[serde(deserialize_with = "null_default")]
    addresses: Vec<Address>,
    #[serde(deserialize_with = "null_default")]
    conditions: Vec<Condition>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Address {
    #[serde(rename = "type")]
    ty: String,
    address: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Condition {
    #[serde(rename = "type")]
    ty: String,
    status: String,
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

const SERVICES: Resource = Resource::new("", "v1", "services", "Service", true);
const SLICES: Resource = Resource::new("discovery.k8s.io", "v1", "endpointslices", "EndpointSlice", true);
const NAME: &str = "kube-dns";
const NAMESPACE: &str = "kube-system";

fn service(config: &Config) -> Value {
    let port = |name: &str, protocol: &str| json!({"name": name, "protocol": protocol, "port": 53, "targetPort": 53});
    json!({
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {
            "name": NAME,
            "namespace": NAMESPACE,
            "labels": {"k8s-app": "kube-dns", "kubernetes.io/cluster-service": "true", "kubernetes.io/name": "CoreDNS"},
        },
        "spec": {
            "clusterIP": config.cluster_dns,
            "clusterIPs": [config.cluster_dns],
            "ports": [port("dns", "UDP"), port("dns-tcp", "TCP")],
        },
    })
}

/// The slices, one for each port that nodes listen on (all the same, but for nodes that were told otherwise).
fn slices(nodes: &[Arc<Node>], v6: bool) -> BTreeMap<u16, Value> {
    let mut by_port: BTreeMap<u16, Vec<Value>> = BTreeMap::new();
    let mut sorted: Vec<&Arc<Node>> = nodes.iter().collect();
    sorted.sort_by(|a, b| a.metadata.name.cmp(&b.metadata.name));
    for node in sorted {
        let Some(port) = node.metadata.label(PORT_LABEL).and_then(|p| p.parse::<u16>().ok()) else { continue };
        let internal = node.status.addresses.iter().filter(|a| a.ty == "InternalIP");
        let ip = internal.filter_map(|a| a.address.parse::<IpAddr>().ok()).find(|ip| ip.is_ipv6() == v6);
        let Some(ip) = ip else { continue };
        let ready = node.status.conditions.iter().any(|c| c.ty == "Ready" && c.status == "True");
        let name = &*node.metadata.name;
        by_port.entry(port).or_default().push(json!({
            "addresses": [ip],
            "conditions": {"ready": ready, "serving": ready, "terminating": false},
            "nodeName": name,
            "hints": {"forNodes": [{"name": name}]},
        }));
    }
    by_port
        .into_iter()
        .map(|(port, endpoints)| {
            let slice = json!({
                "apiVersion": "discovery.k8s.io/v1",
                "kind": "EndpointSlice",
                "metadata": {
                    "name": format!("{NAME}-{port}"),
                    "namespace": NAMESPACE,
                    "labels": {
                        "kubernetes.io/service-name": NAME,
                        "endpointslice.kubernetes.io/managed-by": "orkd-dns",
                    },
                },
                "addressType": if v6 { "IPv6" } else { "IPv4" },
                "endpoints": endpoints,
                "ports": [
                    {"name": "dns", "protocol": "UDP", "port": port},
                    {"name": "dns-tcp", "protocol": "TCP", "port": port},
                ],
            });
            (port, slice)
        })
        .collect()
}

/// Runs until `stop`.
///
/// # Errors
/// None: what fails is tried again by the caller's policy, after the error is returned.
pub async fn run(config: Config, informers: Informers, api: Api, stop: CancellationToken) -> Result<(), BoxError> {
    let nodes: Informer<Node> = informers.informer();
    let changed = Arc::new(Notify::new());
    let notify = changed.clone();
    nodes.subscribe(move |_| notify.notify_one());
    tokio::select! {
        () = stop.cancelled() => return Ok(()),
        () = nodes.synced() => {}
    }
    apply(&api, &SERVICES, service(&config)).await?;
    let mut published: BTreeMap<u16, Value> = BTreeMap::new();
    loop {
        let wanted = slices(&nodes.list(), config.cluster_dns.is_ipv6());
        for (port, slice) in &wanted {
            if published.get(port) != Some(slice) {
                apply(&api, &SLICES, slice.clone()).await?;
            }
        }
        for port in published.keys().filter(|p| !wanted.contains_key(p)) {
            let target = SLICES.at(NAMESPACE, &format!("{NAME}-{port}"));
            if let Err(e) = api.delete(&target, &Default::default()).await
                && !e.is_not_found()
            {
                tracing::warn!(error = %chain(&e), "cannot remove a slice of the DNS service");
            }
        }
        published = wanted;
        tokio::select! {
            biased;
            () = stop.cancelled() => return Ok(()),
            () = changed.notified() => {}
        }
    }
}

async fn apply(api: &Api, resource: &Resource, body: Value) -> Result<(), BoxError> {
    let target = resource.at(NAMESPACE, body["metadata"]["name"].as_str().unwrap_or_default());
    let patch = Patch::Apply { manager: "orkd-dns".into(), force: true, body };
    api.patch::<serde::de::IgnoredAny>(&target, &patch).await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(name: &str, ip: &str, port: Option<&str>, ready: &str) -> Arc<Node> {
        let labels = port.map(|p| json!({PORT_LABEL: p})).unwrap_or_else(|| json!({}));
        let node = json!({
            "metadata": {"name": name, "labels": labels},
            "status": {
                "addresses": [{"type": "InternalIP", "address": ip}],
                "conditions": [{"type": "Ready", "status": ready}],
            },
        });
        Arc::new(serde_json::from_value(node).expect("a node"))
    }

    #[test]
    fn nodes_with_a_listener_are_listed_each_for_itself() {
        let nodes = [
            node("b", "10.0.0.2", Some("10053"), "False"),
            node("a", "10.0.0.1", Some("10053"), "True"),
            node("c", "10.0.0.3", None, "True"),
        ];
        let got = slices(&nodes, false);
        assert_eq!(got.len(), 1);
        let endpoints = &got[&10053]["endpoints"];
        assert_eq!(endpoints.as_array().map(Vec::len), Some(2));
        assert_eq!(endpoints[0]["addresses"][0], "10.0.0.1");
        assert_eq!(endpoints[0]["conditions"]["ready"], true);
        assert_eq!(endpoints[0]["hints"]["forNodes"][0]["name"], "a");
        assert_eq!(endpoints[1]["conditions"]["ready"], false);
    }
}
