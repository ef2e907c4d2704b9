//! `orkd agent`: this machine as a node of a cluster that runs elsewhere.

use std::net::IpAddr;
use std::time::Duration;

use anyhow::Context;
use orkd_base::{BoxError, Supervisor, TaskKind};
use orkd_pki::cert::Certificate;
use orkd_reconcile::{Api, Resource};
use serde_json::Value;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::cli::{AgentArgs, KubeletArgs, NodeArgs};
use crate::join::{self, Files};
use crate::node::{self, Node, ServerTrust};
use crate::progress::Progress;
use crate::{client, host, server, signals};

/// How often certificates are looked at.
const CERTIFICATES: Duration = Duration::from_secs(6 * 3600);

/// Runs `orkd agent`.
///
/// # Errors
/// What keeps it from starting, or the task that failed.
pub async fn run(args: AgentArgs) -> anyhow::Result<()> {
    let progress = Progress::begin();
    let name = host::node_name(args.node.node_name.as_deref())?;
    let files = Files::new(&server::agent_dir(&args.common));
    std::fs::create_dir_all(server::agent_dir(&args.common))
        .with_context(|| format!("cannot make the data directory {}", args.common.data_dir.display()))?;
    let join = args.join.as_deref();
    if join.is_none() && !files.kubeconfig().exists() {
        anyhow::bail!("--join is needed: the server's URL, such as https://10.0.0.1:6443");
    }
    if let Some(server) = join {
        join::join(server, args.token.as_deref(), &name, &files, &progress).await?;
    }
    let supervisor = Supervisor::new();
    let kubelet = client::from_kubeconfig(&files.kubeconfig()).await?;
    let api = Api::new(kubelet.clone(), "orkd-agent");
    let ip = host::address(args.node.node_ip)?;
    let ca = std::fs::read_to_string(files.ca()).context("cannot read the cluster's authority")?;
    let client_ca = Certificate::from_pem(&ca)?;
    let trust = async {
        let identity = join::serving(&api, &name, ip, &files).await?;
        Ok(ServerTrust { identity, client_ca })
    };
    let cluster_dns = match args.cluster_dns {
        Some(ip) => Some(ip),
        None => dns_address(&api).await,
    };
    let node = Node {
        common: &args.common,
        args: &args.node,
        name: name.clone(),
        ip,
        cluster_cidr: Some(args.cluster_cidr),
        domain: args.cluster_domain.clone(),
        cluster_dns,
        hollow: false,
    };
    node::start(&node, kubelet.clone(), kubelet, trust, &supervisor, &progress).await?;
    supervisor.run(TaskKind::Housekeeping, "certificates", move |stop| {
        renew(api.clone(), name.clone(), ip, files.clone(), stop)
    });
    signals::run_until_stopped(&supervisor).await
}

/// The address of the cluster DNS, from its Service; `None` where the cluster has none.
async fn dns_address(api: &Api) -> Option<IpAddr> {
    let service = Resource::new("", "v1", "services", "Service", true).at("kube-system", "kube-dns");
    match api.get::<Value>(&service).await {
        Ok(service) => service["spec"]["clusterIP"].as_str()?.parse().ok(),
        Err(error) => {
            warn!(%error, "cannot read the DNS service: pods get the host's name servers");
            None
        }
    }
}

/// Replaces certificates in the last third of their life. The connections that stand go on; the new ones are used
/// from the next start on.
async fn renew(api: Api, name: String, ip: IpAddr, files: Files, stop: CancellationToken) -> Result<(), BoxError> {
    loop {
        if join::renew(&api, &name, &files).await? {
            info!("this node's client certificate is new; it is used from the next start on");
        }
        join::serving(&api, &name, ip, &files).await?;
        tokio::select! {
            () = stop.cancelled() => return Ok(()),
            () = tokio::time::sleep(CERTIFICATES) => {}
        }
    }
}

/// Runs `orkd kubelet`: the kubelet and its network alone, with the credential of a kubeconfig.
///
/// # Errors
/// As [`run`].
pub async fn kubelet(args: KubeletArgs) -> anyhow::Result<()> {
    let progress = Progress::begin();
    let supervisor = Supervisor::new();
    let name = host::node_name(args.node.node_name.as_deref())?;
    let kubelet = client::from_kubeconfig(&args.kubeconfig).await?;
    let resolved = orkd_pki::kubeconfig::Kubeconfig::load(&args.kubeconfig)?.resolve()?;
    let ca = resolved.authorities.context("the kubeconfig names no certificate authority")?;
    let ip = host::address(args.node.node_ip)?;
    let api = Api::new(kubelet.clone(), "orkd-kubelet");
    let files = Files::new(&server::agent_dir(&args.common));
    std::fs::create_dir_all(server::agent_dir(&args.common))?;
    let client_ca = Certificate::from_pem(&ca)?;
    let (of, node_name) = (&files, name.clone());
    let trust = async {
        let identity = join::serving(&api, &node_name, ip, of).await?;
        Ok(ServerTrust { identity, client_ca })
    };
    // Proxy and DNS are roles of their own here.
    let only_kubelet = NodeArgs { disable_proxy: true, disable_dns: true, ..args.node.clone() };
    let node = Node {
        common: &args.common,
        args: &only_kubelet,
        name,
        ip,
        cluster_cidr: None,
        domain: args.cluster_domain.clone(),
        cluster_dns: match args.cluster_dns {
            Some(ip) => Some(ip),
            None => dns_address(&api).await,
        },
        hollow: args.hollow,
    };
    node::start(&node, kubelet.clone(), kubelet, trust, &supervisor, &progress).await?;
    signals::run_until_stopped(&supervisor).await
}
