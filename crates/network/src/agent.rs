//! The loop of a node: when the node has its pod addresses, the network is set up.

use std::path::PathBuf;
use std::sync::Arc;

use ipnet::IpNet;
use orkd_base::BoxError;
use orkd_reconcile::{Informer, Informers, Meta, Options, View};
use serde::Deserialize;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::Network;

/// What the network of a node needs to know.
#[derive(Clone, Debug)]
pub struct Config {
    /// This node's name.
    pub node_name: String,
    /// Where the runtime looks for CNI configuration.
    pub conf_dir: PathBuf,
    /// Where the address plugin keeps what it has given out.
    pub state_dir: PathBuf,
    /// Addresses of all pods.
    pub cluster_cidr: Option<IpNet>,
}

#[derive(Debug, Deserialize)]
struct Node {
    metadata: Meta,
    #[serde(default)]
    spec: NodeSpec,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct NodeSpec {
    #[serde(rename = "podCIDR")]
    pod_cidr: String,
    #[serde(rename = "podCIDRs")]
    pod_cidrs: Vec<String>,
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

/// The pod addresses of a node; empty while it has none.
fn pod_cidrs(spec: &NodeSpec) -> Vec<IpNet> {
    let all = if spec.pod_cidrs.is_empty() { std::slice::from_ref(&spec.pod_cidr) } else { &spec.pod_cidrs[..] };
    all.iter().filter_map(|text| text.parse().ok()).collect()
}

/// Runs until `stop`.
///
/// # Errors
/// A file or a rule that cannot be written: to be run again.
pub async fn run(config: Config, informers: Informers, stop: CancellationToken) -> Result<(), BoxError> {
    let nodes: Informer<Node> = informers.informer_with(Options::fields(format!("metadata.name={}", config.node_name)));
    let changed = Arc::new(Notify::new());
    let notify = changed.clone();
    nodes.subscribe(move |_| notify.notify_one());
    let mut applied: Option<Vec<IpNet>> = None;
    loop {
        let wanted = nodes.get_named("", &config.node_name).map(|n| pod_cidrs(&n.spec)).unwrap_or_default();
        if !wanted.is_empty() && applied.as_ref() != Some(&wanted) {
            let network = Network {
                conf_dir: config.conf_dir.clone(),
                state_dir: config.state_dir.clone(),
                pod_cidrs: wanted.clone(),
                cluster_cidr: config.cluster_cidr,
                mtu: None,
            };
            if network.apply().await? {
                tracing::info!(pod_cidrs = ?wanted, "pod network is set up");
            }
            applied = Some(wanted);
        }
        tokio::select! {
            biased;
            () = stop.cancelled() => return Ok(()),
            () = changed.notified() => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_of_both_families() {
        let spec = |one: &str, all: &[&str]| NodeSpec {
            pod_cidr: one.into(),
            pod_cidrs: all.iter().map(|s| (*s).to_owned()).collect(),
        };
        assert_eq!(pod_cidrs(&spec("", &[])), []);
        assert_eq!(pod_cidrs(&spec("10.42.0.0/24", &[])).len(), 1);
        assert_eq!(pod_cidrs(&spec("10.42.0.0/24", &["10.42.0.0/24", "fd00::/64"])).len(), 2);
    }
}
