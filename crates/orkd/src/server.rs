//! `orkd server`: the API server with its store, the controllers and the scheduler in one process, and this machine
//! as a node.

use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use arc_swap::ArcSwap;
use ipnet::IpNet;
use jiff::Timestamp;
use orkd_api::kind::{Features, Kind};
use orkd_apiserver::admission::PluginConfigs;
use orkd_apiserver::alloc::node_port::PortRange;
use orkd_apiserver::audit::batch::Batching;
use orkd_apiserver::audit::log::Keep;
use orkd_apiserver::audit::truncate::Limits;
use orkd_apiserver::audit::{self, Audit};
use orkd_apiserver::bootstrap;
use orkd_apiserver::cache::Caches;
use orkd_apiserver::flowcontrol::keeper::Keeper;
use orkd_apiserver::flowcontrol::{Control, Flow};
use orkd_apiserver::handler::Router;
use orkd_apiserver::pipeline::ApiServer;
use orkd_apiserver::security::{Guard, Options, secure};
use orkd_apiserver::serve::{Tls, serve};
use orkd_apiserver::user::{MASTERS, UserInfo};
use orkd_base::{BoxError, Clock, Stage, Supervisor, TaskKind};
use orkd_pki::Authority;
use orkd_pki::cluster::{ClusterPki, ServerNames};
use orkd_pki::jwt::{LEGACY_ISSUER, Signer};
use orkd_reconcile::{Api, Client, Informers};
use orkd_store::Store;
use orkd_store::backends::embedded::{self, Embedded};
use orkd_store::backends::etcd::{Etcd, EtcdOptions};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tracing::info;

use crate::access::{self, Encryption};
use crate::cli::{ApiArgs, ApiServerArgs, AuditArgs, ClusterArgs, CommonArgs, ServerArgs};
use crate::client;
use crate::host;
use crate::node;
use crate::progress::Progress;
use crate::signals;

/// The administrator's name.
const ADMIN: &str = "orkd-admin";

/// The service account with which the Service of the cluster DNS is published.
pub const DNS_ACCOUNT: &str = "dns-controller";

/// A running API server, as the loops of the process see it.
pub struct ControlPlane {
    /// The server.
    pub server: ApiServer,
    /// Its authorities and certificates.
    pub pki: Arc<ClusterPki>,
    /// How the server is called, and how long its certificates last.
    pub names: ServerNames,
    store: Arc<dyn Store>,
}

impl ControlPlane {
    /// A client of this process with an identity, for loops.
    pub fn client(&self, user: UserInfo) -> Client {
        client::in_process(self.router(), user)
    }

    /// The same for what is written against [`kube::Client`].
    pub fn kube_client(&self, user: UserInfo) -> kube::Client {
        client::in_process_kube(self.router(), user)
    }

    fn router(&self) -> Router {
        self.server.router()
    }
}

/// Runs `orkd server`.
///
/// # Errors
/// What keeps it from starting, or the task that failed.
pub async fn run(args: ServerArgs) -> anyhow::Result<()> {
    let progress = Progress::begin();
    let supervisor = Supervisor::new();
    let node_name = host::node_name(args.node.node_name.as_deref())?;
    let control = start(&args.common, &args.api, &args.cluster, args.node.node_ip, &supervisor, &progress).await?;

    if !args.disable_controller_manager {
        controllers(&control, &args, &supervisor)?;
        let cluster_dns = cluster_dns(args.cluster.cluster_dns, args.cluster.service_cidr)?;
        let account = UserInfo::service_account("kube-system", DNS_ACCOUNT);
        spawn_dns_publisher(control.client(account), cluster_dns, &supervisor);
    }
    if !args.disable_scheduler {
        let config = scheduler_config(args.scheduler_config.as_deref())?;
        scheduler(&control, &supervisor, config);
    }
    if !args.disable_agent {
        node::in_server(&control, &args, &node_name, &supervisor, &progress).await?;
    }
    finish(control, &supervisor).await
}

/// Runs `orkd apiserver`.
///
/// # Errors
/// As [`run`].
pub async fn run_api_server(args: ApiServerArgs) -> anyhow::Result<()> {
    let supervisor = Supervisor::new();
    let control = start(&args.common, &args.api, &args.cluster, None, &supervisor, &Progress::begin()).await?;
    finish(control, &supervisor).await
}

async fn finish(control: ControlPlane, supervisor: &Supervisor) -> anyhow::Result<()> {
    let result = signals::run_until_stopped(supervisor).await;
    control.server.caches().stop();
    control.store.close().await;
    result
}

/// Starts the API server; it answers when this returns.
async fn start(
    common: &CommonArgs,
    api: &ApiArgs,
    cluster: &ClusterArgs,
    node_ip: Option<IpAddr>,
    supervisor: &Supervisor,
    progress: &Progress,
) -> anyhow::Result<ControlPlane> {
    let now = Timestamp::now();
    let advertise = match api.advertise_address.or(node_ip) {
        Some(ip) => ip,
        None if !api.listen.ip().is_unspecified() && !api.listen.ip().is_loopback() => api.listen.ip(),
        None => host::address(None)?,
    };
    if advertise.is_loopback() {
        bail!(
            "{advertise} cannot be advertised: nodes and pods reach the server there; name another with --advertise-address"
        );
    }
    // The port first: a second server must not touch the data of the first.
    let listener = bind(api.listen).await?;
    let port = listener.local_addr()?.port();

    std::fs::create_dir_all(&common.data_dir)
        .with_context(|| format!("cannot make the data directory {}", common.data_dir.display()))?;
    let names = ServerNames {
        cluster_domain: cluster.cluster_domain.clone(),
        service_ips: cluster.service_cidr.hosts().next().into_iter().collect(),
        node_ips: [advertise, api.listen.ip()].into_iter().filter(|ip| !ip.is_unspecified()).collect(),
        extra: api.tls_san.iter().cloned().chain(host::node_name(None).ok()).collect(),
        lifetime: Some(api.cluster_signing_duration),
    };
    let tls_dir = common.data_dir.join("server/tls");
    let pki =
        ClusterPki::load_or_create(&tls_dir, names.clone(), now).context("cannot set up the cluster's certificates")?;
    let pki = Arc::new(pki);

    // By this hash metrics tell servers from each other.
    let identity = orkd_store::envelope::hash(&orkd_apiserver::identity::name_of(&host::node_name(None)?));
    let store = progress.wait("the store", open_store(common, api)).await?;
    let (store, encryption) = Encryption::of(&api.access, store, &identity).await?;
    let caches = Caches::open(store.clone(), kinds());
    let caches = progress.wait("the watch cache", caches).await.context("cannot read what is stored")?;
    let options = options(api, cluster)?;
    let audit = open_audit(&api.audit)?;
    let fairness = api
        .enable_priority_and_fairness
        .then(|| Control::new(api.max_requests_inflight.saturating_add(api.max_mutating_requests_inflight)));
    let limits = Flow::new(api.max_requests_inflight as usize, api.max_mutating_requests_inflight as usize);
    let extras = Extras { audit: audit.clone(), fairness: fairness.clone(), limits, encryption: encryption.as_ref() };
    let (server, guard) = compose(common, &options, &caches, &pki, extras, supervisor)?;
    if let Some(encryption) = encryption {
        encryption.follow(supervisor);
    }

    let facts = bootstrap::Facts {
        service_cidrs: vec![cluster.service_cidr],
        advertise: vec![advertise],
        port,
        client_ca_pem: [pki.ca_pem(), options.client_authorities.clone().unwrap_or_default()].concat(),
        front_proxy_ca_pem: match &options.proxy_authorities {
            Some(pem) => pem.clone(),
            None => pki.front_proxy_ca.certificate().to_pem(),
        },
        request_headers: options.request_headers.clone(),
        server_ca_pem: pki.ca_pem(),
    };
    guard.bootstrap(&server, &facts).await.context("cannot write what a cluster is born with")?;

    if let Some(control) = fairness {
        let keeper = Keeper::new(&server, control);
        keeper.prepare().await.context("cannot write the objects of flow control")?;
        supervisor.spawn(TaskKind::Housekeeping, "flow control", move |stop| async move { keeper.run(stop).await });
    }
    if let Some(audit) = audit {
        // A writer ends after everything that has requests.
        supervisor.spawn(TaskKind::Writer, "audit", move |stop| async move { audit.run(stop).await });
    }

    let tls = Arc::new(ArcSwap::from_pointee(pki.server_config()?));
    let router = server.router();
    let served = tls.clone();
    supervisor.spawn(TaskKind::Listener, "api", move |stop| serve(listener, served, router, stop));
    let facts = Arc::new(ArcSwap::from_pointee(facts));
    let (kept, told) = (server.clone(), facts.clone());
    supervisor.spawn(TaskKind::Housekeeping, "system objects", move |stop| bootstrap::keep::run(kept, told, stop));
    let guard = Arc::new(guard);
    let entrance = access::Entrance { server: server.clone(), guard: guard.clone(), facts };
    access::follow(&api.access, &entrance, &identity, supervisor)?;
    let (repaired, repairer) = (server.clone(), guard.clone());
    supervisor.spawn(TaskKind::Housekeeping, "service repair", move |stop| async move {
        repairer.repair(&repaired, stop).await;
    });
    let (identified, host) = (server.clone(), host::node_name(None)?);
    supervisor.spawn(TaskKind::Housekeeping, "server lease", move |stop| {
        orkd_apiserver::identity::run(identified, host, stop)
    });

    let local = if api.listen.ip().is_unspecified() { IpAddr::from([127, 0, 0, 1]) } else { api.listen.ip() };
    let url = format!("https://{}", SocketAddr::new(local, port));
    pki.write_kubeconfig(&api.write_kubeconfig, &url, ADMIN, &[MASTERS], now)
        .with_context(|| format!("cannot write {}", api.write_kubeconfig.display()))?;
    let renewal = Renewal {
        dir: tls_dir,
        names: names.clone(),
        tls,
        guard,
        url: url.clone(),
        admin: api.write_kubeconfig.clone(),
    };
    let first = pki.renew_in(now);
    supervisor.run(TaskKind::Housekeeping, "certificates", move |stop| renew(renewal.clone(), first, stop));
    progress.done("the API server answers");
    info!(url, kubeconfig = %api.write_kubeconfig.display(), "use it: export KUBECONFIG={}", api.write_kubeconfig.display());
    Ok(ControlPlane { server, pki, store, names })
}

/// What is needed to renew the server's certificates.
#[derive(Clone)]
struct Renewal {
    dir: PathBuf,
    names: ServerNames,
    tls: Tls,
    guard: Arc<Guard>,
    url: String,
    admin: PathBuf,
}

/// Certificates in the last third of their life are made again and used from then on.
async fn renew(renewal: Renewal, first: Duration, stop: CancellationToken) -> Result<(), BoxError> {
    let mut wait = first;
    loop {
        tokio::select! {
            () = stop.cancelled() => return Ok(()),
            () = tokio::time::sleep(renewal_pause(wait)) => {}
        }
        let now = Timestamp::now();
        let pki = ClusterPki::load_or_create(&renewal.dir, renewal.names.clone(), now)?;
        renewal.tls.store(Arc::new(pki.server_config()?));
        renewal.guard.renewed(&pki)?;
        pki.write_kubeconfig(&renewal.admin, &renewal.url, ADMIN, &[MASTERS], now)?;
        wait = pki.renew_in(now);
    }
}

/// How long to wait for certificates that need renewal after `due`: a day at most, for clocks are set, and not so short
/// that a failure is tried again and again.
pub fn renewal_pause(due: Duration) -> Duration {
    due.clamp(Duration::from_secs(1), Duration::from_secs(86_400))
}

async fn bind(listen: SocketAddr) -> anyhow::Result<TcpListener> {
    match TcpListener::bind(listen).await {
        Ok(listener) => Ok(listener),
        Err(e) if e.kind() == std::io::ErrorKind::AddrInUse => {
            bail!("{listen} is taken: another server runs here; end it, or choose another address with --listen")
        }
        Err(e) => Err(e).with_context(|| format!("cannot listen on {listen}; choose another address with --listen")),
    }
}

async fn open_store(common: &CommonArgs, api: &ApiArgs) -> anyhow::Result<Arc<dyn Store>> {
    if api.datastore_endpoint.is_empty() {
        let dir = common.data_dir.join("server/db");
        orkd_pki::files::private_dir(&dir)?;
        let open = move || Embedded::open(dir, embedded::Options::default());
        let store = tokio::task::spawn_blocking(open).await?.context("cannot open the store")?;
        return Ok(Arc::new(store));
    }
    let options = EtcdOptions {
        endpoints: api.datastore_endpoint.clone(),
        ca: api.datastore_cafile.clone(),
        cert: api.datastore_certfile.clone(),
        key: api.datastore_keyfile.clone(),
        ..EtcdOptions::default()
    };
    let what = || format!("cannot use etcd at {}; check --datastore-*", api.datastore_endpoint.join(", "));
    Ok(Arc::new(Etcd::connect(options).await.with_context(what)?))
}

/// What stands before the verbs.
struct Extras<'a> {
    audit: Option<Arc<Audit>>,
    fairness: Option<Arc<Control>>,
    limits: Flow,
    encryption: Option<&'a Encryption>,
}

fn open_audit(args: &AuditArgs) -> anyhow::Result<Option<Arc<Audit>>> {
    let policy = match &args.audit_policy_file {
        Some(path) => {
            let what = || format!("cannot read the audit policy {}", path.display());
            Some(std::fs::read_to_string(path).with_context(what)?)
        }
        None => None,
    };
    let options = audit::Options {
        policy,
        log: args.audit_log_path.clone(),
        log_mode: args.audit_log_mode,
        keep: Keep {
            max_size: u64::from(args.audit_log_maxsize.max(1)) << 20,
            max_age_days: args.audit_log_maxage,
            max_backups: args.audit_log_maxbackup,
            compress: args.audit_log_compress,
            format: args.audit_log_format,
        },
        webhook: match &args.audit_webhook_config_file {
            Some(path) => {
                let receiver = audit::webhook::from_kubeconfig(path).map_err(anyhow::Error::msg);
                Some(receiver.context("cannot use the audit webhook")?)
            }
            None => None,
        },
        webhook_mode: audit::WebhookMode(args.audit_webhook_mode),
        webhook_pause: args.audit_webhook_initial_backoff,
        log_batching: batching("log", args.audit_log_mode, &log_batches(args))?,
        batching: batching("webhook", args.audit_webhook_mode, &webhook_batches(args))?,
        log_limits: limits(
            "log",
            args.audit_log_truncate_enabled,
            args.audit_log_truncate_max_event_size,
            args.audit_log_truncate_max_batch_size,
        )?,
        webhook_limits: limits(
            "webhook",
            args.audit_webhook_truncate_enabled,
            args.audit_webhook_truncate_max_event_size,
            args.audit_webhook_truncate_max_batch_size,
        )?,
    };
    Audit::open(options).map_err(anyhow::Error::msg).context("cannot set up audit")
}

/// What the flags of a backend say of its batches.
struct Batches {
    buffer: usize,
    max_size: usize,
    max_wait: Duration,
    throttle: Option<(f64, u32)>,
}

fn log_batches(args: &AuditArgs) -> Batches {
    let throttle = (args.audit_log_batch_throttle_qps, args.audit_log_batch_throttle_burst);
    Batches {
        buffer: args.audit_log_batch_buffer_size,
        max_size: args.audit_log_batch_max_size,
        max_wait: args.audit_log_batch_max_wait,
        throttle: args.audit_log_batch_throttle_enable.then_some(throttle),
    }
}

fn webhook_batches(args: &AuditArgs) -> Batches {
    let throttle = (args.audit_webhook_batch_throttle_qps, args.audit_webhook_batch_throttle_burst);
    Batches {
        buffer: args.audit_webhook_batch_buffer_size,
        max_size: args.audit_webhook_batch_max_size,
        max_wait: args.audit_webhook_batch_max_wait,
        throttle: args.audit_webhook_batch_throttle_enable.then_some(throttle),
    }
}

/// How the batches of an audit backend are made, checked as upstream does (`validateBackendBatchOptions`).
fn batching(plugin: &str, mode: audit::Mode, batches: &Batches) -> anyhow::Result<Batching> {
    if mode != audit::Mode::Batch {
        return Ok(Batching::default());
    }
    let Batches { buffer, max_size, max_wait, throttle } = *batches;
    ensure!(buffer > 0, "invalid audit batch {plugin} buffer size {buffer}, must be a positive number");
    ensure!(max_size > 0, "invalid audit batch {plugin} max batch size {max_size}, must be a positive number");
    let (per_second, burst) = match throttle {
        None => (f64::INFINITY, f64::INFINITY),
        Some((qps, burst)) => {
            ensure!(qps > 0.0, "invalid audit batch {plugin} throttle QPS {qps}, must be a positive number");
            ensure!(burst > 0, "invalid audit batch {plugin} throttle burst {burst}, must be a positive number");
            (qps, f64::from(burst))
        }
    };
    Ok(Batching { buffer, max_size, max_wait, per_second, burst, ..Batching::default() })
}

/// What an audit backend takes of large events (`AuditTruncateOptions.Validate`).
fn limits(plugin: &str, enabled: bool, event: usize, batch: usize) -> anyhow::Result<Option<Limits>> {
    ensure!(event > 0, "invalid audit truncate {plugin} max event size {event}, must be a positive number");
    ensure!(
        batch >= event,
        "invalid audit truncate {plugin} max batch size {batch}, must be greater than max event size ({event})"
    );
    Ok(enabled.then_some(Limits { event, batch }))
}

fn options(api: &ApiArgs, cluster: &ClusterArgs) -> anyhow::Result<Options> {
    let (first, last) = cluster.service_node_port_range;
    let admission_configs = match &api.admission_control_config_file {
        Some(file) => PluginConfigs::load(file).map_err(anyhow::Error::msg)?,
        None => PluginConfigs::default(),
    };
    let mut options = Options {
        issuer: format!("https://kubernetes.default.svc.{}", cluster.cluster_domain),
        enable_admission: api.enable_admission_plugins.clone(),
        disable_admission: api.disable_admission_plugins.clone(),
        admission_configs,
        service_cidrs: vec![cluster.service_cidr],
        node_ports: PortRange { first, last },
        ..Options::default()
    };
    api.access.apply(&mut options)?;
    Ok(options)
}

fn compose(
    common: &CommonArgs,
    options: &Options,
    caches: &Arc<Caches>,
    pki: &ClusterPki,
    extras: Extras<'_>,
    supervisor: &Supervisor,
) -> anyhow::Result<(ApiServer, Guard)> {
    let builder = ApiServer::builder(caches.clone())
        .features(features(&common.feature_gates)?)
        .version(&format!("orkd-{}", crate::version::ORKD))
        .flow(extras.limits)
        .fairness(extras.fairness)
        .audit(extras.audit)
        .stopping(supervisor.token(Stage::FrontDoor));
    let (mut builder, guard) = secure(builder, caches, pki, options).map_err(anyhow::Error::msg)?;
    if let Some(encryption) = extras.encryption {
        builder = encryption.checks(builder);
    }
    Ok((builder.build(), guard))
}

fn features(gates: &[String]) -> anyhow::Result<Features> {
    let mut set = Vec::new();
    for gate in gates {
        let parsed = gate.split_once('=').and_then(|(name, on)| Some((name.to_owned(), on.parse::<bool>().ok()?)));
        set.push(parsed.with_context(|| format!("--feature-gates {gate}: expected GATE=true or GATE=false"))?);
    }
    Ok(Features::new(set))
}

/// Every kind that is served.
fn kinds() -> Vec<Arc<dyn Kind>> {
    orkd_api::kinds::all().into_iter().chain(orkd_api::kinds::aggregated()).map(Arc::from).collect()
}

/// The controllers, each with its own identity; all read by one more.
fn controllers(control: &ControlPlane, args: &ServerArgs, supervisor: &Supervisor) -> anyhow::Result<()> {
    let reader = UserInfo::new("system:kube-controller-manager", &[]);
    let ca = &control.pki.ca;
    let ca = Arc::new(Authority::from_pem(&ca.certificate().to_pem(), &ca.key().to_pem())?);
    let router = control.router();
    orkd_controllers::run_all(orkd_controllers::Composition {
        informers: Informers::new(control.client(reader), supervisor.clone()),
        supervisor: supervisor.clone(),
        clock: Clock::real(),
        config: orkd_controllers::Config {
            cluster_cidrs: vec![args.cluster.cluster_cidr],
            root_ca_pem: control.pki.ca_pem(),
            signers: Some(orkd_controllers::Signers {
                client: ca.clone(),
                serving: ca,
                longest: args.api.cluster_signing_duration,
            }),
            node_monitor_grace: Some(args.controllers.node_monitor_grace_period),
            token_signer: Some(Arc::new(Signer::new(&control.pki.service_account_key, LEGACY_ISSUER)?)),
            ..Default::default()
        },
        client: Box::new(move |account| {
            let user = match account {
                orkd_controllers::MANAGER => UserInfo::new(orkd_controllers::MANAGER, &[]),
                account => UserInfo::service_account("kube-system", account),
            };
            client::in_process(router.clone(), user)
        }),
    });
    Ok(())
}

fn scheduler(control: &ControlPlane, supervisor: &Supervisor, config: Arc<orkd_scheduler::Config>) {
    let client = control.client(UserInfo::new("system:kube-scheduler", &[]));
    spawn_scheduler(client, supervisor, config);
}

/// The scheduler's configuration: a file, or as upstream has it.
pub fn scheduler_config(path: Option<&Path>) -> anyhow::Result<Arc<orkd_scheduler::Config>> {
    let Some(path) = path else { return Ok(Arc::default()) };
    let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    let config = orkd_scheduler::Config::parse(&text);
    Ok(Arc::new(config.map_err(|why| anyhow::anyhow!("scheduler configuration {}: {why}", path.display()))?))
}

/// Starts the scheduler on a client.
pub fn spawn_scheduler(client: impl Into<Client>, supervisor: &Supervisor, config: Arc<orkd_scheduler::Config>) {
    let client = client.into();
    let informers = Informers::new(client.clone(), supervisor.clone());
    let api = Api::new(client, "kube-scheduler");
    let host = host::node_name(None).unwrap_or_default();
    let tasks = supervisor.clone();
    supervisor.run(TaskKind::Controller, "scheduler", move |stop| {
        orkd_scheduler::run(config.clone(), informers.clone(), api.clone(), host.clone(), tasks.clone(), stop)
    });
}

/// The address of the cluster DNS: as told, or the tenth of the service range.
pub fn cluster_dns(told: Option<IpAddr>, services: IpNet) -> anyhow::Result<IpAddr> {
    let default = services.hosts().nth(9);
    let ip = told.or(default).context("--service-cidr is too small for a DNS address")?;
    anyhow::ensure!(services.contains(&ip), "--cluster-dns {ip} is not in the service range {services}");
    Ok(ip)
}

/// Starts what publishes the Service of the cluster DNS, on a client of [`DNS_ACCOUNT`].
pub fn spawn_dns_publisher(client: impl Into<Client>, cluster_dns: IpAddr, supervisor: &Supervisor) {
    let config = orkd_dns::publish::Config { cluster_dns };
    let client = client.into();
    let informers = Informers::new(client.clone(), supervisor.clone());
    let api = Api::new(client, DNS_ACCOUNT);
    supervisor.run(TaskKind::Controller, "dns service", move |stop| {
        orkd_dns::publish::run(config.clone(), informers.clone(), api.clone(), stop)
    });
}

/// Where files of the node are, below the data directory.
pub fn agent_dir(common: &CommonArgs) -> std::path::PathBuf {
    Path::new(&common.data_dir).join("agent")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dns_address_is_the_tenth() {
        let range: IpNet = "10.43.0.0/16".parse().expect("a range");
        assert_eq!(cluster_dns(None, range).expect("an address").to_string(), "10.43.0.10");
        assert!(cluster_dns("10.44.0.10".parse().ok(), range).is_err());
    }

    #[test]
    fn limits_of_audit_are_checked() {
        let check = |enabled: bool, event: usize, batch: usize, expected: Result<Option<Limits>, &str>| {
            let got = limits("log", enabled, event, batch).map_err(|e| e.to_string());
            assert_eq!(got, expected.map_err(str::to_owned));
        };
        check(true, 10, 20, Ok(Some(Limits { event: 10, batch: 20 })));
        check(false, 10, 20, Ok(None));
        check(true, 0, 20, Err("invalid audit truncate log max event size 0, must be a positive number"));
        check(
            true,
            30,
            20,
            Err("invalid audit truncate log max batch size 20, must be greater than max event size (30)"),
        );
        let slow = Batches { buffer: 1, max_size: 1, max_wait: Duration::ZERO, throttle: Some((0.0, 1)) };
        assert!(batching("log", audit::Mode::Batch, &slow).is_err());
        assert!(batching("log", audit::Mode::Blocking, &slow).is_ok(), "what is not used is not looked at");
    }

    #[test]
    fn gates_are_parsed() {
        assert!(features(&["A=true".into(), "B=false".into()]).expect("good").enabled("A", false));
        assert!(features(&["A".into()]).is_err());
    }
}
