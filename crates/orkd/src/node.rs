//! The roles of a node: kubelet with its server, network, proxy, DNS.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, anyhow, ensure};
use ipnet::IpNet;
use jiff::Timestamp;
use orkd_apiserver::user::{MASTERS, UserInfo};
use orkd_base::{Supervisor, TaskKind, chain};
use orkd_cri::Fake;
use orkd_kubelet::image_gc::Policy;
use orkd_kubelet::server::Server as NodeServer;
use orkd_kubelet::{Config, Kubelet, NodeSettings, RuntimeChoice, containerd, eviction};
use orkd_pki::cert::{Certificate, Identity, Profile};
use orkd_reconcile::{Api, Informers, Options};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tracing::warn;

use crate::cli::{CommonArgs, NodeArgs, ServerArgs};
use crate::host;
use crate::join;
use crate::node_role;
use crate::progress::Progress;
use crate::server::{self, ControlPlane};

/// The port where a node's DNS listens: pods reach it through the DNS service.
pub const DNS_PORT: u16 = 10053;

/// A node, as its roles are told about it.
pub struct Node<'a> {
    /// Where and how.
    pub common: &'a CommonArgs,
    /// What the operator said.
    pub args: &'a NodeArgs,
    /// The node's name.
    pub name: String,
    /// The node's address.
    pub ip: IpAddr,
    /// Addresses of pods.
    pub cluster_cidr: Option<IpNet>,
    /// The cluster's domain.
    pub domain: String,
    /// Address of the cluster DNS.
    pub cluster_dns: Option<IpAddr>,
    /// A runtime that only pretends.
    pub hollow: bool,
}

/// What a node shows and trusts on its own port.
pub struct ServerTrust {
    /// What it shows.
    pub identity: Identity,
    /// Who signs its clients' certificates.
    pub client_ca: Certificate,
}

/// Starts this machine as a node of the cluster whose server runs in this process.
///
/// # Errors
/// What keeps the node from starting.
pub async fn in_server(
    control: &ControlPlane,
    args: &ServerArgs,
    name: &str,
    supervisor: &Supervisor,
    progress: &Progress,
) -> anyhow::Result<()> {
    let node = Node {
        common: &args.common,
        args: &args.node,
        name: name.to_owned(),
        ip: host::address(args.node.node_ip)?,
        cluster_cidr: Some(args.cluster.cluster_cidr),
        domain: args.cluster.cluster_domain.clone(),
        cluster_dns: Some(server::cluster_dns(args.cluster.cluster_dns, args.cluster.service_cidr)?),
        hollow: false,
    };
    // The authority is at hand: no request is needed.
    let dir = server::agent_dir(&args.common).join("tls");
    orkd_pki::files::private_dir(&dir)?;
    let mut profile = Profile::server(&format!("system:node:{name}"), vec![name.to_owned()], vec![node.ip]);
    profile.organizations = vec!["system:nodes".into()];
    let profile = control.names.lasting(profile);
    let pki = control.pki.clone();
    let leaf = move || orkd_pki::cluster::leaf(&dir, join::SERVING, &pki.ca, &profile, Timestamp::now());
    let identity = leaf()?;
    let mut wait = identity.certificate.renew_in(Timestamp::now());
    let trust = async { Ok(ServerTrust { identity, client_ca: control.pki.ca.certificate().clone() }) };
    let kubelet = control.kube_client(UserInfo::new(format!("system:node:{name}"), &["system:nodes"]));
    let network = control.kube_client(UserInfo::new("system:kube-proxy", &[]));
    let labeller = control.client(UserInfo::new("system:apiserver", &[MASTERS]));
    let own = Informers::new(labeller.clone(), supervisor.clone())
        .informer_with(Options::fields(format!("metadata.name={name}")));
    let labeller = Api::new(labeller, "node-role");
    supervisor.spawn(TaskKind::Housekeeping, "node role", move |stop| node_role::run(labeller, own, stop));
    let server = start(&node, kubelet, network, trust, supervisor, progress).await?;
    supervisor.spawn(TaskKind::Housekeeping, "node certificate", move |stop| async move {
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(server::renewal_pause(wait)) => {}
            }
            wait = match leaf().and_then(|identity| server.renewed(&identity).map(|()| identity)) {
                Ok(identity) => identity.certificate.renew_in(Timestamp::now()),
                Err(error) => {
                    warn!(error = %chain(&error), "this node's certificate cannot be renewed; trying again");
                    RETRY
                }
            };
        }
    });
    Ok(())
}

/// How long to wait after a renewal that failed.
pub const RETRY: Duration = Duration::from_secs(10);

/// Starts all roles of a node; the server it has then can be given other certificates. `trust` is awaited when the node is registered: the cluster signs the certificate of
/// its server only for addresses the node has said it has.
///
/// # Errors
/// What keeps the node from starting, with what to do.
pub async fn start(
    node: &Node<'_>,
    kubelet: kube::Client,
    network: kube::Client,
    trust: impl Future<Output = anyhow::Result<ServerTrust>>,
    supervisor: &Supervisor,
    progress: &Progress,
) -> anyhow::Result<NodeServer> {
    let informers = Informers::new(network, supervisor.clone());
    if !node.hollow {
        preflight(node.args)?;
        network_roles(node, &informers, supervisor);
    }
    let running = progress.wait("the container runtime", start_kubelet(node, kubelet.clone(), supervisor)).await?;
    let trust = progress.wait("the cluster to sign the certificate of this node's server", trust).await?;
    let server = serve(node, running, kubelet, trust, supervisor).await?;
    progress.done("the node runs");
    Ok(server)
}

/// Fails with the first thing that is missing and its remedy.
fn preflight(args: &NodeArgs) -> anyhow::Result<()> {
    for (name, finding) in crate::check::run(true) {
        if let crate::check::Finding::Failure { seen, remedy } = finding {
            let own_runtime = args.container_runtime_endpoint.is_some() && matches!(name, "containerd" | "runc");
            ensure!(own_runtime, "{name}: {seen}; remedy: {remedy}; or run without a node: --disable-agent");
        }
    }
    Ok(())
}

/// Where sockets and other things of this boot are.
fn run_dir(common: &CommonArgs) -> PathBuf {
    if common.data_dir == Path::new("/var/lib/orkd") { "/run/orkd".into() } else { common.data_dir.join("run") }
}

fn cni_conf_dir(node: &Node<'_>) -> PathBuf {
    let own = || server::agent_dir(node.common).join("cni/net.d");
    node.args.cni_conf_dir.clone().unwrap_or_else(own)
}

async fn start_kubelet(node: &Node<'_>, client: kube::Client, supervisor: &Supervisor) -> anyhow::Result<Kubelet> {
    let args = node.args;
    let mut labels = pairs("--node-labels", &args.node_labels)?;
    if !args.disable_dns && !node.hollow {
        labels.insert(orkd_dns::publish::PORT_LABEL.into(), DNS_PORT.to_string());
    }
    let settings = NodeSettings {
        name: node.name.clone(),
        ips: vec![node.ip],
        labels,
        taints: args.register_with_taints.iter().map(|t| taint(t)).collect::<anyhow::Result<_>>()?,
        max_pods: args.max_pods,
        port: args.kubelet_port,
        hostname: host::node_name(None).unwrap_or_else(|_| node.name.clone()),
        // The kubelet says where its volumes are.
        storage: String::new(),
        eviction: eviction(args)?,
    };
    let data_dir = server::agent_dir(node.common);
    let mut config = Config::new(settings, &data_dir, &run_dir(node.common));
    config.log_dir = args.pod_log_dir.clone();
    config.cgroup_root = args.cgroup_root.clone();
    config.cluster_dns = node.cluster_dns.into_iter().collect();
    config.cluster_domain = node.domain.clone();
    config.hollow = node.hollow;
    config.manifest_dir.clone_from(&args.manifest_dir);
    config.image_gc = image_policy(args)?;
    config.runtime = match &args.container_runtime_endpoint {
        _ if node.hollow => RuntimeChoice::Given(Arc::new(Fake::new())),
        Some(endpoint) => RuntimeChoice::Endpoint(endpoint.clone()),
        None => {
            let mut options = containerd::Options::under(&data_dir, &run_dir(node.common));
            if let Some(program) = crate::check::find_program("containerd") {
                options.program = program;
            }
            if let Some(dir) = args.cni_bin_dir.iter().find(|d| d.join("bridge").is_file()) {
                options.cni_bin_dir = dir.clone();
            }
            options.cni_conf_dir = cni_conf_dir(node);
            options.registry_config_dir = args.registry_config_dir.clone();
            std::fs::create_dir_all(&options.cni_conf_dir)?;
            RuntimeChoice::Supervised(options)
        }
    };
    orkd_kubelet::start(config, client, supervisor).await.context("cannot start the node")
}

/// When unused images go.
fn image_policy(args: &NodeArgs) -> anyhow::Result<Policy> {
    let (high_percent, low_percent) = (args.image_gc_high_threshold, args.image_gc_low_threshold);
    ensure!(low_percent < high_percent, "--image-gc-low-threshold must be less than --image-gc-high-threshold");
    Ok(Policy { high_percent, low_percent, ..Policy::default() })
}

/// When pods are evicted.
fn eviction(args: &NodeArgs) -> anyhow::Result<eviction::Settings> {
    let thresholds = eviction::thresholds(
        &args.eviction_hard,
        &args.eviction_soft,
        &args.eviction_soft_grace_period,
        &args.eviction_minimum_reclaim,
    );
    Ok(eviction::Settings {
        thresholds: thresholds.map_err(|why| anyhow!("--eviction-*: {why}"))?,
        transition: args.eviction_pressure_transition_period,
        most_grace: args.eviction_max_pod_grace_period.into(),
    })
}

/// `KEY=VALUE` flags.
fn pairs(flag: &str, texts: &[String]) -> anyhow::Result<BTreeMap<String, String>> {
    let parse = |text: &String| {
        let (key, value) = text.split_once('=').with_context(|| format!("{flag} {text}: expected KEY=VALUE"))?;
        Ok((key.to_owned(), value.to_owned()))
    };
    texts.iter().map(parse).collect()
}

/// `KEY=VALUE:EFFECT` or `KEY:EFFECT`.
fn taint(text: &str) -> anyhow::Result<Value> {
    let (rest, effect) = text
        .rsplit_once(':')
        .filter(|(_, effect)| matches!(*effect, "NoSchedule" | "PreferNoSchedule" | "NoExecute"))
        .with_context(|| format!("--register-with-taints {text}: expected KEY=VALUE:EFFECT, EFFECT as NoSchedule"))?;
    let (key, value) = rest.split_once('=').unwrap_or((rest, ""));
    Ok(json!({"key": key, "value": value, "effect": effect}))
}

/// Binds the node's port and serves on it.
async fn serve(
    node: &Node<'_>,
    kubelet: Kubelet,
    client: kube::Client,
    trust: ServerTrust,
    supervisor: &Supervisor,
) -> anyhow::Result<NodeServer> {
    let addr = SocketAddr::new(node.ip, node.args.kubelet_port);
    let listener = TcpListener::bind(addr)
        .await
        .with_context(|| format!("cannot listen on {addr}: another kubelet may run here; see --kubelet-port"))?;
    let server = NodeServer::new(kubelet, client, &node.name, &trust.identity, &trust.client_ca)?;
    let listening = server.clone();
    supervisor.spawn(TaskKind::Listener, "node server", move |stop| listening.run(listener, stop));
    Ok(server)
}

/// Starts network, proxy and DNS, as far as they are wanted.
fn network_roles(node: &Node<'_>, informers: &Informers, supervisor: &Supervisor) {
    let args = node.args;
    if args.container_runtime_endpoint.is_none() || args.cni_conf_dir.is_some() {
        let config = orkd_network::agent::Config {
            node_name: node.name.clone(),
            conf_dir: cni_conf_dir(node),
            state_dir: server::agent_dir(node.common).join("cni/state"),
            cluster_cidr: node.cluster_cidr,
        };
        let informers = informers.clone();
        supervisor.run(TaskKind::Node, "network", move |stop| {
            orkd_network::agent::run(config.clone(), informers.clone(), stop)
        });
    }
    if !args.disable_proxy {
        let settings = orkd_proxy::backends::iptables::Settings { cluster_cidr: node.cluster_cidr };
        let config = orkd_proxy::sync::Config { node_name: node.name.clone(), settings };
        let informers = informers.clone();
        supervisor
            .run(TaskKind::Node, "proxy", move |stop| orkd_proxy::sync::run(config.clone(), informers.clone(), stop));
    }
    if !args.disable_dns {
        let own: Vec<IpAddr> = node.cluster_dns.into_iter().collect();
        let listen = SocketAddr::new(node.ip, DNS_PORT);
        spawn_dns(listen, &node.domain, &own, &args.dns_upstream, informers, supervisor);
    }
}

/// Starts the DNS of a node. `own` are the addresses of the cluster's DNS, which are never asked about other names.
pub fn spawn_dns(
    listen: SocketAddr,
    domain: &str,
    own: &[IpAddr],
    upstream: &[String],
    informers: &Informers,
    supervisor: &Supervisor,
) {
    let text = match upstream {
        [] => std::fs::read_to_string("/etc/resolv.conf").unwrap_or_default(),
        told => told.iter().map(|ip| format!("nameserver {ip}\n")).collect(),
    };
    let config = orkd_dns::agent::Config {
        listen,
        domain: domain.to_owned(),
        upstream: orkd_dns::forward::name_servers(&text, own),
    };
    let informers = informers.clone();
    supervisor.run(TaskKind::Node, "dns", move |stop| orkd_dns::agent::run(config.clone(), informers.clone(), stop));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn taints_and_labels() {
        assert_eq!(taint("a=b:NoSchedule").expect("good"), json!({"key": "a", "value": "b", "effect": "NoSchedule"}));
        assert_eq!(taint("a:NoExecute").expect("good"), json!({"key": "a", "value": "", "effect": "NoExecute"}));
        assert!(taint("a=b").is_err());
        assert!(pairs("--x", &["a".into()]).is_err());
    }
}
