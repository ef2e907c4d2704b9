//! `orkd agent`: this machine as a node of a cluster that runs elsewhere.

use std::net::IpAddr;
use std::time::Duration;

use anyhow::Context;
use jiff::Timestamp;
use orkd_base::{Supervisor, TaskKind};
use orkd_kubelet::server::Server;
use orkd_pki::cert::Certificate;
use orkd_reconcile::{Api, Resource};
use serde_json::Value;
use tracing::{info, warn};

use crate::cli::{AgentArgs, KubeletArgs, NodeArgs};
use crate::client::Renewable;
use crate::join::{self, Files};
use crate::node::{self, Node, ServerTrust};
use crate::progress::Progress;
use crate::{host, server, signals};

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
    let credential = Renewable::new(&files.kubeconfig()).await?;
    let kubelet = credential.client();
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
    let network = join::proxy(&api, &files);
    progress.wait("the cluster to sign the certificate of this node's proxy", network).await?;
    let proxy = Renewable::new(&files.proxy_kubeconfig()).await?;
    let server = node::start(&node, kubelet, proxy.client(), trust, &supervisor, &progress).await?;
    let certificates = Certificates { api, name, ip, files, server, own: Some((credential, proxy)) };
    certificates.spawn(&supervisor);
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

/// The certificates of a node while it runs.
#[derive(Clone)]
struct Certificates {
    api: Api,
    name: String,
    ip: IpAddr,
    files: Files,
    server: Server,
    /// The node's own credential and that of its proxy, where it is this process that renews them.
    own: Option<(Renewable, Renewable)>,
}

impl Certificates {
    /// Replaces certificates in the last third of their life, and uses the new ones at once. The connections that
    /// stand go on.
    fn spawn(self, supervisor: &Supervisor) {
        supervisor.spawn(TaskKind::Housekeeping, "certificates", move |stop| async move {
            loop {
                let wait = match self.renew().await {
                    Ok(due) => server::renewal_pause(due),
                    Err(error) => {
                        warn!(error = %format!("{error:#}"), "this node's certificates cannot be renewed; trying again");
                        node::RETRY
                    }
                };
                tokio::select! {
                    () = stop.cancelled() => return,
                    () = tokio::time::sleep(wait) => {}
                }
            }
        });
    }

    /// Renews what needs it; how long the rest lasts.
    async fn renew(&self) -> anyhow::Result<Duration> {
        let mut due = Duration::MAX;
        if let Some((own, proxy)) = &self.own {
            let identity = join::renew(&self.api, &self.name, &self.files).await?;
            due = identity.certificate.renew_in(Timestamp::now());
            if own.reload().await? {
                info!("this node's client certificate is new");
            }
            let identity = join::proxy(&self.api, &self.files).await?;
            due = due.min(identity.certificate.renew_in(Timestamp::now()));
            proxy.reload().await?;
        }
        let identity = join::serving(&self.api, &self.name, self.ip, &self.files).await?;
        self.server.renewed(&identity)?;
        Ok(due.min(identity.certificate.renew_in(Timestamp::now())))
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
    let credential = Renewable::new(&args.kubeconfig).await?;
    credential.follow(&supervisor);
    let kubelet = credential.client();
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
        name: name.clone(),
        ip,
        cluster_cidr: None,
        domain: args.cluster_domain.clone(),
        cluster_dns: match args.cluster_dns {
            Some(ip) => Some(ip),
            None => dns_address(&api).await,
        },
        hollow: args.hollow,
    };
    let server = node::start(&node, kubelet.clone(), kubelet, trust, &supervisor, &progress).await?;
    Certificates { api, name, ip, files, server, own: None }.spawn(&supervisor);
    signals::run_until_stopped(&supervisor).await
}
