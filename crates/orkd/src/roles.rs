//! Roles that run alone, each with a kubeconfig, against any Kubernetes API server.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use anyhow::Context;
use orkd_base::{BoxError, Clock, Supervisor, TaskKind};
use orkd_pki::Authority;
use orkd_pki::jwt::{LEGACY_ISSUER, Signer};
use orkd_pki::kubeconfig::Kubeconfig;
use orkd_reconcile::{Api, Informers, LeaderElection, LeaderElector};
use serde_json::json;
use tokio_util::sync::CancellationToken;

use crate::accounts::Accounts;
use crate::cli::{ControllerManagerArgs, ProxyArgs, RoleArgs, SchedulerArgs};
use crate::client::{self, Renewable};
use crate::{host, node, secure, server, signals};

/// Runs `orkd controller-manager`.
///
/// # Errors
/// What keeps it from starting, or that it lost its lease.
pub async fn controller_manager(args: ControllerManagerArgs) -> anyhow::Result<()> {
    let credential = Renewable::new(&args.role.kubeconfig).await?;
    let client = credential.client();
    let accounts = Accounts::new(client.clone(), client::without_credential(&args.role.kubeconfig).await?);
    let config = controllers_config(&args)?;
    let cluster_dns = args.cluster_dns;
    let election = |identity: &str| LeaderElection::new("kube-controller-manager", identity);
    let supervisor = Supervisor::new();
    let told = json!({"kubecontrollermanager.config.k8s.io": controllers_told(&args, &election(""))});
    let role = secure::Role { name: "kube-controller-manager", port: 10257, config: told };
    secure::open(&args.port, role, &credential, &supervisor).await?;
    lead(supervisor, &args.role, &credential, "kube-controller-manager", election, move |supervisor| {
        if let Some(cluster_dns) = cluster_dns {
            server::spawn_dns_publisher(accounts.client(server::DNS_ACCOUNT), cluster_dns, &supervisor);
        }
        let (accounts, manager) = (accounts.clone(), client.clone());
        orkd_controllers::run_all(orkd_controllers::Composition {
            informers: Informers::new(client.clone(), supervisor.clone()),
            supervisor,
            clock: Clock::real(),
            config: config.clone(),
            client: Box::new(move |account| match account {
                orkd_controllers::MANAGER => manager.clone().into(),
                account => accounts.client(account).into(),
            }),
        });
    })
    .await
}

/// What the controllers were told, as `/configz` shows it (`KubeControllerManagerConfiguration`).
fn controllers_told(args: &ControllerManagerArgs, election: &LeaderElection) -> serde_json::Value {
    let cidr = args.cluster_cidr.map(|c| c.to_string()).unwrap_or_default();
    let seconds = |d: std::time::Duration| format!("{}s", d.as_secs());
    json!({
        "Generic": {"LeaderElection": {
            "LeaderElect": args.role.leader_elect, "ResourceLock": "leases", "ResourceName": election.name,
            "ResourceNamespace": election.namespace, "LeaseDuration": seconds(election.lease),
            "RenewDeadline": seconds(election.renew_deadline), "RetryPeriod": seconds(election.retry)}},
        "KubeCloudShared": {"AllocateNodeCIDRs": args.cluster_cidr.is_some(), "ClusterCIDR": cidr},
        "CSRSigningController": {
            "ClusterSigningCertFile": args.cluster_signing_cert_file, "ClusterSigningKeyFile": args.cluster_signing_key_file,
            "ClusterSigningDuration": format!("{}s", args.cluster_signing_duration.as_secs())},
        "NodeLifecycleController": {"NodeMonitorGracePeriod": seconds(args.controllers.node_monitor_grace_period)},
        "SAController": {
            "RootCAFile": args.root_ca_file, "ServiceAccountKeyFile": args.service_account_private_key_file},
    })
}

fn controllers_config(args: &ControllerManagerArgs) -> anyhow::Result<orkd_controllers::Config> {
    let read = |path: &Path| std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()));
    let signers = match (&args.cluster_signing_cert_file, &args.cluster_signing_key_file) {
        (Some(certificate), Some(key)) => {
            let authority = Arc::new(Authority::from_pem(&read(certificate)?, &read(key)?)?);
            let longest = args.cluster_signing_duration;
            Some(orkd_controllers::Signers { client: authority.clone(), serving: authority, longest })
        }
        (None, None) => None,
        _ => anyhow::bail!("--cluster-signing-cert-file and --cluster-signing-key-file belong together"),
    };
    let root_ca_pem = match &args.root_ca_file {
        Some(path) => read(path)?,
        None => Kubeconfig::load(&args.role.kubeconfig)?.resolve()?.authorities.unwrap_or_default(),
    };
    let token_signer = match &args.service_account_private_key_file {
        Some(path) => Some(Arc::new(Signer::new(&orkd_pki::Key::from_pem(&read(path)?)?, LEGACY_ISSUER)?)),
        None => None,
    };
    Ok(orkd_controllers::Config {
        token_signer,
        cluster_cidrs: args.cluster_cidr.into_iter().collect(),
        root_ca_pem,
        signers,
        node_monitor_grace: Some(args.controllers.node_monitor_grace_period),
        ..Default::default()
    })
}

/// Runs `orkd scheduler`.
///
/// # Errors
/// As [`controller_manager`].
pub async fn scheduler(args: SchedulerArgs) -> anyhow::Result<()> {
    let config = server::scheduler_config(args.scheduler_config.as_deref())?;
    let SchedulerArgs { role: mut args, port, .. } = args;
    let said = config.lead();
    args.leader_elect &= said.elect;
    let election = |identity: &str| LeaderElection {
        namespace: said.namespace.clone(),
        lease: said.lease,
        renew_deadline: said.renew_deadline,
        retry: said.retry,
        ..LeaderElection::new(&said.name, identity)
    };
    let credential = Renewable::new(&args.kubeconfig).await?;
    let client = credential.client();
    let supervisor = Supervisor::new();
    let told = json!({"componentconfig": config.told()});
    let role = secure::Role { name: "kube-scheduler", port: 10259, config: told };
    secure::open(&port, role, &credential, &supervisor).await?;
    lead(supervisor, &args, &credential, "kube-scheduler", election, move |supervisor| {
        server::spawn_scheduler(client.clone(), &supervisor, config.clone());
    })
    .await
}

/// Runs what `begin` starts, at once or while the role's lease is held.
async fn lead(
    supervisor: Supervisor,
    args: &RoleArgs,
    credential: &Renewable,
    name: &str,
    election: impl Fn(&str) -> LeaderElection,
    begin: impl Fn(Supervisor) + Send + Sync + 'static,
) -> anyhow::Result<()> {
    credential.follow(&supervisor);
    if !args.leader_elect {
        begin(supervisor.clone());
        return signals::run_until_stopped(&supervisor).await;
    }
    let identity = format!("{}_{}", host::node_name(None)?, uuid::Uuid::new_v4());
    let elector = LeaderElector::new(Api::new(credential.client(), name), election(&identity), Clock::real());
    let tasks = supervisor.clone();
    let fatal = supervisor.clone();
    supervisor.spawn(TaskKind::Controller, "leader election", move |stop| async move {
        let led = elector.run(stop.clone(), move |lost: CancellationToken| async move {
            begin(tasks);
            // What it began ends with the process: stopped, or failed below.
            lost.cancelled().await;
        });
        if let Err(lost) = led.await
            && !stop.is_cancelled()
        {
            fatal.fail("leader election", Box::new(lost) as BoxError);
        }
    });
    signals::run_until_stopped(&supervisor).await
}

/// Runs `orkd proxy`.
///
/// # Errors
/// As [`controller_manager`].
pub async fn proxy(args: ProxyArgs) -> anyhow::Result<()> {
    let credential = Renewable::new(&args.kubeconfig).await?;
    let supervisor = Supervisor::new();
    credential.follow(&supervisor);
    let informers = Informers::new(credential.client(), supervisor.clone());
    if args.dns {
        let own = args.cluster_dns.into_iter().collect::<Vec<_>>();
        let listen = SocketAddr::new(host::address(args.node_ip)?, node::DNS_PORT);
        node::spawn_dns(listen, &args.cluster_domain, &own, &args.dns_upstream, &informers, &supervisor);
    }
    let settings = orkd_proxy::backends::iptables::Settings { cluster_cidr: Some(args.cluster_cidr) };
    let config = orkd_proxy::sync::Config { node_name: host::node_name(args.node_name.as_deref())?, settings };
    supervisor.run(TaskKind::Node, "proxy", move |stop| orkd_proxy::sync::run(config.clone(), informers.clone(), stop));
    signals::run_until_stopped(&supervisor).await
}
