//! The roles of a node: kubelet, proxy, DNS, network.

use std::net::{IpAddr, SocketAddr};

use orkd_base::{Supervisor, TaskKind};
use orkd_reconcile::Informers;

use crate::cli::{NodeArgs, ServerArgs};
use crate::progress::Progress;
use crate::server::ControlPlane;

/// The port where a node's DNS listens: pods reach it through the DNS service.
pub const DNS_PORT: u16 = 10053;

/// Starts this machine as a node of the cluster whose server runs in this process.
///
/// # Errors
/// What keeps the node from starting.
pub async fn in_server(
    control: &ControlPlane,
    args: &ServerArgs,
    name: &str,
    supervisor: &Supervisor,
    _progress: &Progress,
) -> anyhow::Result<()> {
    let ip = match args.node.node_ip {
        Some(ip) => ip,
        None => crate::host::address(None)?,
    };
    let user = orkd_apiserver::user::UserInfo {
        name: format!("system:node:{name}"),
        groups: vec!["system:nodes".to_owned(), "system:authenticated".to_owned()],
        ..Default::default()
    };
    let client = control.client(user);
    let dir = crate::server::agent_dir(&args.common);
    let node = orkd_kubelet::NodeSettings {
        name: name.to_owned(),
        hostname: name.to_owned(),
        ips: vec![ip],
        max_pods: args.node.max_pods,
        port: args.node.kubelet_port,
        ..Default::default()
    };
    let mut config = orkd_kubelet::Config::new(node, &dir, &dir.join("run"));
    config.cgroup_root.clone_from(&args.node.cgroup_root);
    config.log_dir.clone_from(&args.node.pod_log_dir);
    config.cluster_dns = vec![crate::server::cluster_dns(args.cluster.cluster_dns, args.cluster.service_cidr)?];
    config.cluster_domain.clone_from(&args.cluster.cluster_domain);
    config.manifest_dir.clone_from(&args.node.manifest_dir);
    let informers = Informers::new(client.clone(), supervisor.clone());
    let network = orkd_network::agent::Config {
        node_name: name.to_owned(),
        conf_dir: dir.join("cni/net.d"),
        state_dir: dir.join("cni/state"),
        cluster_cidr: Some(args.cluster.cluster_cidr),
    };
    supervisor.run(TaskKind::Node, "network", {
        let informers = informers.clone();
        move |stop| orkd_network::agent::run(network.clone(), informers.clone(), stop)
    });
    orkd_kubelet::start(config, client, supervisor).await?;
    Ok(())
}

/// What the network roles of a node are told.
pub struct NetworkRoles<'a> {
    /// The node's name.
    pub name: &'a str,
    /// The node's address.
    pub ip: IpAddr,
    /// Addresses of pods.
    pub cluster_cidr: Option<ipnet::IpNet>,
    /// The cluster's domain.
    pub domain: &'a str,
    /// Address of the cluster DNS.
    pub cluster_dns: Option<IpAddr>,
}

/// Starts proxy and DNS, as far as they are wanted.
pub fn network_roles(roles: &NetworkRoles<'_>, args: &NodeArgs, informers: &Informers, supervisor: &Supervisor) {
    if !args.disable_proxy {
        let settings = orkd_proxy::backends::iptables::Settings { cluster_cidr: roles.cluster_cidr };
        let config = orkd_proxy::sync::Config { node_name: roles.name.to_owned(), settings };
        let informers = informers.clone();
        supervisor
            .run(TaskKind::Node, "proxy", move |stop| orkd_proxy::sync::run(config.clone(), informers.clone(), stop));
    }
    if !args.disable_dns {
        let own: Vec<IpAddr> = roles.cluster_dns.into_iter().collect();
        let upstream = if args.dns_upstream.is_empty() {
            let text = std::fs::read_to_string("/etc/resolv.conf").unwrap_or_default();
            orkd_dns::forward::name_servers(&text, &own)
        } else {
            let lines: Vec<String> = args.dns_upstream.iter().map(|ip| format!("nameserver {ip}")).collect();
            orkd_dns::forward::name_servers(&lines.join("\n"), &own)
        };
        let config = orkd_dns::agent::Config {
            listen: SocketAddr::new(roles.ip, DNS_PORT),
            domain: roles.domain.to_owned(),
            upstream,
        };
        let informers = informers.clone();
        supervisor
            .run(TaskKind::Node, "dns", move |stop| orkd_dns::agent::run(config.clone(), informers.clone(), stop));
    }
}
