//! The command line. Every flag of `server` and `agent` is also a key of the configuration file
//! ([`crate::config`]).

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};
use ipnet::IpNet;
use jiff::SignedDuration;
use orkd_apiserver::audit::Mode;
use orkd_apiserver::audit::log::Format as AuditFormat;

/// A Kubernetes cluster in one binary.
#[derive(Parser, Debug)]
#[command(name = "orkd", bin_name = "orkd", version = crate::version::SHORT, long_about = None, args_override_self = true)]
#[command(about = "A Kubernetes cluster in one binary")]
#[command(after_help = "Start a one-node cluster with `sudo orkd server`, then:\n  \
    export KUBECONFIG=/etc/orkd/admin.kubeconfig\n  kubectl get nodes")]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What to do.
#[derive(Subcommand, Debug)]
pub enum Command {
    /// Run a cluster: API server, controller manager, scheduler, and (unless disabled) this machine as a node
    Server(Box<ServerArgs>),
    /// Run this machine as a node of a cluster that runs elsewhere
    Agent(Box<AgentArgs>),
    /// Manage the tokens with which machines join
    Token(TokenArgs),
    /// Check whether this machine can run orkd, with a remedy for what is missing
    Check(CheckArgs),
    /// Print the version
    Version,
    /// Print a completion script for a shell
    Completion {
        /// The shell
        shell: clap_complete::Shell,
    },
    /// Run the API server alone
    #[command(name = "apiserver")]
    ApiServer(Box<ApiServerArgs>),
    /// Run the controllers alone, against any Kubernetes API server
    ControllerManager(Box<ControllerManagerArgs>),
    /// Run the scheduler alone, against any Kubernetes API server
    Scheduler(Box<SchedulerArgs>),
    /// Run the kubelet alone, against any Kubernetes API server
    Kubelet(Box<KubeletArgs>),
    /// Run the service proxy alone (with --dns the cluster DNS of this node as well), against any Kubernetes API server
    Proxy(Box<ProxyArgs>),
}

/// Where things are kept and how to speak.
#[derive(Args, Debug, Clone)]
#[command(next_help_heading = "General options")]
pub struct CommonArgs {
    /// Configuration file; its keys are the names of these flags [default of server and agent: /etc/orkd/config.yaml
    /// where it exists]
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Directory of everything that must survive a restart
    #[arg(long, value_name = "DIR", default_value = "/var/lib/orkd")]
    pub data_dir: PathBuf,
    /// How much to say: error, warn, info, debug, trace, or a filter such as `info,orkd_kubelet=debug`
    #[arg(long, value_name = "LEVEL", default_value = "info")]
    pub log_level: String,
    /// How to write logs
    #[arg(long, value_name = "FORMAT", default_value = "text", value_parser = ["text", "json"])]
    pub log_format: String,
    /// Feature gates, such as `InPlacePodVerticalScaling=true`
    #[arg(long, value_name = "GATE=BOOL", value_delimiter = ',')]
    pub feature_gates: Vec<String>,
}

/// The addresses of a cluster.
#[derive(Args, Debug, Clone)]
#[command(next_help_heading = "Addresses and names of the cluster")]
pub struct ClusterArgs {
    /// Addresses of pods
    #[arg(long, value_name = "CIDR", default_value = "10.42.0.0/16")]
    pub cluster_cidr: IpNet,
    /// Addresses of services
    #[arg(long, value_name = "CIDR", default_value = "10.43.0.0/16")]
    pub service_cidr: IpNet,
    /// Address of the cluster DNS [default: the tenth address of the service range]
    #[arg(long, value_name = "IP")]
    pub cluster_dns: Option<IpAddr>,
    /// Domain of the cluster DNS
    #[arg(long, value_name = "DOMAIN", default_value = "cluster.local")]
    pub cluster_domain: String,
    /// Ports that NodePort services get
    #[arg(long, value_name = "FROM-TO", default_value = "30000-32767", value_parser = parse_port_range)]
    pub service_node_port_range: (u16, u16),
}

/// The API server's own settings.
#[derive(Args, Debug, Clone)]
#[command(next_help_heading = "API server, store and certificates")]
pub struct ApiArgs {
    /// Address to serve the API on
    #[arg(long, value_name = "ADDR", default_value = "0.0.0.0:6443")]
    pub listen: SocketAddr,
    /// Address that others reach this server at [default: that of the interface with the default route]
    #[arg(long, value_name = "IP")]
    pub advertise_address: Option<IpAddr>,
    /// Further names or addresses in the server's certificate
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    pub tls_san: Vec<String>,
    /// etcd endpoints to use instead of the embedded store, such as https://10.0.0.1:2379
    #[arg(long, value_name = "URL", value_delimiter = ',')]
    pub datastore_endpoint: Vec<String>,
    /// Certificate authority of the etcd servers
    #[arg(long, value_name = "FILE")]
    pub datastore_cafile: Option<PathBuf>,
    /// Client certificate for etcd
    #[arg(long, value_name = "FILE")]
    pub datastore_certfile: Option<PathBuf>,
    /// Key of the client certificate for etcd
    #[arg(long, value_name = "FILE")]
    pub datastore_keyfile: Option<PathBuf>,
    /// Admission plugins to enable beside the default ones
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    pub enable_admission_plugins: Vec<String>,
    /// Admission plugins to disable
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    pub disable_admission_plugins: Vec<String>,
    /// Configuration of admission plugins (an AdmissionConfiguration)
    #[arg(long, value_name = "FILE")]
    pub admission_control_config_file: Option<PathBuf>,
    /// Requests that read, at once [default: 400]
    #[arg(long, value_name = "N", default_value_t = 400)]
    pub max_requests_inflight: u32,
    /// Requests that change something, at once; with priority and fairness both together are shared out
    #[arg(long, value_name = "N", default_value_t = 200)]
    pub max_mutating_requests_inflight: u32,
    /// Serve requests by priority and fairness (FlowSchema, PriorityLevelConfiguration) instead of by fixed limits
    #[arg(long, value_name = "BOOL", default_value_t = true, action = clap::ArgAction::Set)]
    pub enable_priority_and_fairness: bool,
    /// Audit.
    #[command(flatten)]
    pub audit: AuditArgs,
    /// Where to write the administrator's kubeconfig
    #[arg(long, value_name = "FILE", default_value = "/etc/orkd/admin.kubeconfig")]
    pub write_kubeconfig: PathBuf,
    /// How long the server's own certificates are good for, and those it signs; they are renewed while running
    #[arg(long, value_name = "DURATION", default_value = "8760h", value_parser = parse_validity)]
    pub cluster_signing_duration: SignedDuration,
    /// Who may come in, and what is encrypted
    #[command(flatten)]
    pub access: crate::access::AccessArgs,
}

/// What is written down of requests.
#[derive(Args, Debug, Clone)]
pub struct AuditArgs {
    /// Audit policy (audit.k8s.io/v1); without one nothing is recorded
    #[arg(long, value_name = "FILE")]
    pub audit_policy_file: Option<PathBuf>,
    /// File that audit events are written to; - for standard output
    #[arg(long, value_name = "FILE")]
    pub audit_log_path: Option<PathBuf>,
    /// How the file is written: batch, blocking or blocking-strict (a request that cannot be recorded is refused)
    #[arg(long, value_name = "MODE", default_value = "blocking")]
    pub audit_log_mode: Mode,
    /// How each event is written: json, or legacy for a line of text
    #[arg(long, value_name = "FORMAT", default_value = "json")]
    pub audit_log_format: AuditFormat,
    /// Days after which rotated files are removed; 0 for never
    #[arg(long, value_name = "DAYS", default_value_t = 366)]
    pub audit_log_maxage: u32,
    /// Rotated files that are kept; 0 for all
    #[arg(long, value_name = "N", default_value_t = 100)]
    pub audit_log_maxbackup: u32,
    /// Megabytes after which the file is rotated
    #[arg(long, value_name = "MB", default_value_t = 100)]
    pub audit_log_maxsize: u32,
    /// Compress rotated files
    #[arg(long)]
    pub audit_log_compress: bool,
    /// Events that may wait for the file in mode batch; more are dropped
    #[arg(long, value_name = "N", default_value_t = 10_000)]
    pub audit_log_batch_buffer_size: usize,
    /// Events that are written at once in mode batch
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub audit_log_batch_max_size: usize,
    /// After how long fewer are written
    #[arg(long, value_name = "DURATION", default_value = "0s", value_parser = crate::access::duration)]
    pub audit_log_batch_max_wait: Duration,
    /// Let batches follow each other only so fast
    #[arg(long, value_name = "BOOL", default_value_t = false, action = clap::ArgAction::Set)]
    pub audit_log_batch_throttle_enable: bool,
    /// Batches a second on the average
    #[arg(long, value_name = "N", default_value_t = 0.0)]
    pub audit_log_batch_throttle_qps: f64,
    /// Batches at once where there were few before
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub audit_log_batch_throttle_burst: u32,
    /// Take the objects out of events that are too large for the file
    #[arg(long, value_name = "BOOL", default_value_t = false, num_args = 0..=1, default_missing_value = "true", action = clap::ArgAction::Set)]
    pub audit_log_truncate_enabled: bool,
    /// Bytes of the largest event that is written; what is larger without its objects is dropped
    #[arg(long, value_name = "BYTES", default_value_t = 102_400)]
    pub audit_log_truncate_max_event_size: usize,
    /// Bytes of the largest batch that is written
    #[arg(long, value_name = "BYTES", default_value_t = 10_485_760)]
    pub audit_log_truncate_max_batch_size: usize,
    /// Kubeconfig of a webhook that audit events are posted to
    #[arg(long, value_name = "FILE")]
    pub audit_webhook_config_file: Option<PathBuf>,
    /// How it takes events: batch, blocking or blocking-strict (a request that cannot be recorded is refused)
    #[arg(long, value_name = "MODE", default_value = "batch")]
    pub audit_webhook_mode: Mode,
    /// How long to wait after a first failure of it; longer after each further one
    #[arg(long, value_name = "DURATION", default_value = "10s", value_parser = crate::access::duration)]
    pub audit_webhook_initial_backoff: Duration,
    /// Events that may wait for it; more are dropped
    #[arg(long, value_name = "N", default_value_t = 10_000)]
    pub audit_webhook_batch_buffer_size: usize,
    /// Events in one batch
    #[arg(long, value_name = "N", default_value_t = 400)]
    pub audit_webhook_batch_max_size: usize,
    /// After how long a batch is posted that is not full
    #[arg(long, value_name = "DURATION", default_value = "30s", value_parser = crate::access::duration)]
    pub audit_webhook_batch_max_wait: Duration,
    /// Let batches follow each other only so fast
    #[arg(long, value_name = "BOOL", default_value_t = true, action = clap::ArgAction::Set)]
    pub audit_webhook_batch_throttle_enable: bool,
    /// Batches a second on the average
    #[arg(long, value_name = "N", default_value_t = 10.0)]
    pub audit_webhook_batch_throttle_qps: f64,
    /// Batches at once where there were few before
    #[arg(long, value_name = "N", default_value_t = 15)]
    pub audit_webhook_batch_throttle_burst: u32,
    /// Take the objects out of events that are too large for it
    #[arg(long, value_name = "BOOL", default_value_t = false, num_args = 0..=1, default_missing_value = "true", action = clap::ArgAction::Set)]
    pub audit_webhook_truncate_enabled: bool,
    /// Bytes of the largest event that is posted; what is larger without its objects is dropped
    #[arg(long, value_name = "BYTES", default_value_t = 102_400)]
    pub audit_webhook_truncate_max_event_size: usize,
    /// Bytes of the largest batch that is posted
    #[arg(long, value_name = "BYTES", default_value_t = 10_485_760)]
    pub audit_webhook_truncate_max_batch_size: usize,
}

/// One node's settings.
#[derive(Args, Debug, Clone)]
#[command(next_help_heading = "This node")]
pub struct NodeArgs {
    /// Name of this node [default: the host name]
    #[arg(long, value_name = "NAME")]
    pub node_name: Option<String>,
    /// Address of this node [default: that of the interface with the default route]
    #[arg(long, value_name = "IP")]
    pub node_ip: Option<IpAddr>,
    /// Labels to register the node with
    #[arg(long, value_name = "KEY=VALUE", value_delimiter = ',')]
    pub node_labels: Vec<String>,
    /// Taints to register the node with
    #[arg(long, value_name = "KEY=VALUE:EFFECT", value_delimiter = ',')]
    pub register_with_taints: Vec<String>,
    /// Socket of a container runtime that runs already [default: orkd starts a containerd of its own]
    #[arg(long, value_name = "SOCKET")]
    pub container_runtime_endpoint: Option<String>,
    /// Directory of containerd's per-registry configuration (hosts.toml)
    #[arg(long, value_name = "DIR", default_value = "/etc/orkd/registries.d")]
    pub registry_config_dir: PathBuf,
    /// Cgroup below which pods run
    #[arg(long, value_name = "CGROUP", default_value = "/")]
    pub cgroup_root: String,
    /// Port of the kubelet
    #[arg(long, value_name = "PORT", default_value_t = 10250)]
    pub kubelet_port: u16,
    /// Directory for pod logs
    #[arg(long, value_name = "DIR", default_value = "/var/log/pods")]
    pub pod_log_dir: PathBuf,
    /// Directory of static pod manifests
    #[arg(long, value_name = "DIR")]
    pub manifest_dir: Option<PathBuf>,
    /// Directory of CNI plugins
    #[arg(long, value_name = "DIR", value_delimiter = ',', default_values = ["/usr/lib/cni", "/opt/cni/bin"])]
    pub cni_bin_dir: Vec<PathBuf>,
    /// Directory of CNI configuration; orkd writes its own unless another plugin's is there [default: below the
    /// data directory]
    #[arg(long, value_name = "DIR")]
    pub cni_conf_dir: Option<PathBuf>,
    /// Per cent of the disk of the images in use from which on unused images are removed; 100 for never
    #[arg(long, value_name = "PERCENT", default_value_t = 85, value_parser = clap::value_parser!(u8).range(..=100))]
    pub image_gc_high_threshold: u8,
    /// Per cent down to which they are
    #[arg(long, value_name = "PERCENT", default_value_t = 80, value_parser = clap::value_parser!(u8).range(..=100))]
    pub image_gc_low_threshold: u8,
    /// Thresholds from which on pods are evicted at once; an empty text for none
    #[arg(long, value_name = "SIGNAL<AMOUNT", value_delimiter = ',', default_values = orkd_kubelet::eviction::DEFAULT_HARD)]
    pub eviction_hard: Vec<String>,
    /// Thresholds from which on pods are evicted after a while
    #[arg(long, value_name = "SIGNAL<AMOUNT", value_delimiter = ',')]
    pub eviction_soft: Vec<String>,
    /// How long those must be met before
    #[arg(long, value_name = "SIGNAL=DURATION", value_delimiter = ',')]
    pub eviction_soft_grace_period: Vec<String>,
    /// How much more than a threshold must be available again for it to be over
    #[arg(long, value_name = "SIGNAL=AMOUNT", value_delimiter = ',')]
    pub eviction_minimum_reclaim: Vec<String>,
    /// How long a node says that it is under pressure after it was
    #[arg(long, value_name = "DURATION", default_value = "5m", value_parser = parse_pause)]
    pub eviction_pressure_transition_period: Duration,
    /// Longest grace period of pods that go at soft thresholds, in seconds [default: their own]
    #[arg(long, value_name = "SECONDS", default_value_t = 0, hide_default_value = true)]
    pub eviction_max_pod_grace_period: u32,
    /// Most pods on this node
    #[arg(long, value_name = "N", default_value_t = 110)]
    pub max_pods: u32,
    /// Servers to which names outside the cluster are forwarded [default: those of /etc/resolv.conf]
    #[arg(long, value_name = "IP", value_delimiter = ',')]
    pub dns_upstream: Vec<String>,
    /// Do not run the service proxy
    #[arg(long)]
    pub disable_proxy: bool,
    /// Do not run the cluster DNS
    #[arg(long)]
    pub disable_dns: bool,
}

/// Heading of what a server leaves out.
const ROLES: &str = "Roles";

/// Flags of `orkd server`.
#[derive(Args, Debug, Clone)]
pub struct ServerArgs {
    /// Where and how.
    #[command(flatten)]
    pub common: CommonArgs,
    /// API server.
    #[command(flatten)]
    pub api: ApiArgs,
    /// Cluster.
    #[command(flatten)]
    pub cluster: ClusterArgs,
    /// Controllers.
    #[command(flatten)]
    pub controllers: ControllerArgs,
    /// Node.
    #[command(flatten)]
    pub node: NodeArgs,
    /// Run no pods on this machine
    #[arg(long, help_heading = ROLES)]
    pub disable_agent: bool,
    /// Run no controllers in this process
    #[arg(long, help_heading = ROLES)]
    pub disable_controller_manager: bool,
    /// Run no scheduler in this process
    #[arg(long, help_heading = ROLES)]
    pub disable_scheduler: bool,
    /// Profiles, plugins and extenders of the scheduler (KubeSchedulerConfiguration)
    #[arg(long, value_name = "FILE")]
    pub scheduler_config: Option<PathBuf>,
}

/// Flags of `orkd agent`.
#[derive(Args, Debug, Clone)]
pub struct AgentArgs {
    /// Where and how.
    #[command(flatten)]
    pub common: CommonArgs,
    /// The server to join, such as https://10.0.0.1:6443
    #[arg(long, value_name = "URL")]
    pub join: Option<String>,
    /// The token to join with, as printed by `orkd token create`
    #[arg(long, value_name = "TOKEN", env = "ORKD_TOKEN", hide_env_values = true)]
    pub token: Option<String>,
    /// Node.
    #[command(flatten)]
    pub node: NodeArgs,
    /// Addresses of pods, as the server was told
    #[arg(long, value_name = "CIDR", default_value = "10.42.0.0/16")]
    pub cluster_cidr: IpNet,
    /// Address of the cluster DNS [default: as the cluster says]
    #[arg(long, value_name = "IP")]
    pub cluster_dns: Option<IpAddr>,
    /// Domain of the cluster DNS
    #[arg(long, value_name = "DOMAIN", default_value = "cluster.local")]
    pub cluster_domain: String,
}

/// Flags of `orkd apiserver`.
#[derive(Args, Debug, Clone)]
pub struct ApiServerArgs {
    /// Where and how.
    #[command(flatten)]
    pub common: CommonArgs,
    /// API server.
    #[command(flatten)]
    pub api: ApiArgs,
    /// Cluster.
    #[command(flatten)]
    pub cluster: ClusterArgs,
}

/// Flags of a role that runs alone.
#[derive(Args, Debug, Clone)]
pub struct RoleArgs {
    /// Where and how.
    #[command(flatten)]
    pub common: CommonArgs,
    /// Credential and address of the API server
    #[arg(long, value_name = "FILE")]
    pub kubeconfig: PathBuf,
    /// Compete for the lease of this role, so that one of several processes acts
    #[arg(long, value_name = "BOOL", default_value_t = true, action = clap::ArgAction::Set)]
    pub leader_elect: bool,
}

/// The port of a role that runs alone.
#[derive(Args, Debug, Clone)]
#[command(next_help_heading = "Port")]
pub struct PortArgs {
    /// Port of health and metrics, over HTTPS; 0 for none [default: 10257 of the controller manager, 10259 of the scheduler]
    #[arg(long, value_name = "PORT")]
    pub secure_port: Option<u16>,
    /// Address of that port
    #[arg(long, value_name = "IP", default_value = "0.0.0.0")]
    pub bind_address: IpAddr,
    /// Certificate shown there [default: one is made that nobody knows]
    #[arg(long, value_name = "FILE")]
    pub tls_cert_file: Option<PathBuf>,
    /// Its key
    #[arg(long, value_name = "FILE")]
    pub tls_private_key_file: Option<PathBuf>,
    /// Credential with which tokens are reviewed [default: that of the role]
    #[arg(long, value_name = "FILE")]
    pub authentication_kubeconfig: Option<PathBuf>,
    /// Credential with which it is asked what users may do [default: that of the role]
    #[arg(long, value_name = "FILE")]
    pub authorization_kubeconfig: Option<PathBuf>,
    /// Paths that need no leave; one that ends in * stands for all that begin so
    #[arg(long, value_name = "PATHS", value_delimiter = ',', default_value = "/healthz,/readyz,/livez")]
    pub authorization_always_allow_paths: Vec<String>,
}

/// What controllers are told, in a server or alone.
#[derive(Args, Debug, Clone)]
#[command(next_help_heading = "Controllers")]
pub struct ControllerArgs {
    /// How long a node may be silent until it is not ready; nodes renew their leases every ten seconds
    #[arg(long, value_name = "DURATION", default_value = "50s", value_parser = parse_grace)]
    pub node_monitor_grace_period: Duration,
}

/// Flags of `orkd controller-manager`.
#[derive(Args, Debug, Clone)]
pub struct ControllerManagerArgs {
    /// What every role is told.
    #[command(flatten)]
    pub role: RoleArgs,
    /// Its port.
    #[command(flatten)]
    pub port: PortArgs,
    /// Controllers.
    #[command(flatten)]
    pub controllers: ControllerArgs,
    /// Addresses of pods, of which nodes get their share; empty to leave that to others
    #[arg(long, value_name = "CIDR")]
    pub cluster_cidr: Option<IpNet>,
    /// Certificate of the authority that signs nodes' certificates
    #[arg(long, value_name = "FILE")]
    pub cluster_signing_cert_file: Option<PathBuf>,
    /// Its key
    #[arg(long, value_name = "FILE")]
    pub cluster_signing_key_file: Option<PathBuf>,
    /// How long certificates are good for that are signed
    #[arg(long, value_name = "DURATION", default_value = "8760h", value_parser = parse_validity)]
    pub cluster_signing_duration: SignedDuration,
    /// Address of the cluster DNS that nodes run (orkd proxy --dns), to be published as the Service kube-dns [default:
    /// none is published]
    #[arg(long, value_name = "IP")]
    pub cluster_dns: Option<IpAddr>,
    /// Key that signs the tokens that stand in Secrets; none are filled without it
    #[arg(long, value_name = "FILE")]
    pub service_account_private_key_file: Option<PathBuf>,
    /// Certificate authority published to every namespace [default: that of the kubeconfig]
    #[arg(long, value_name = "FILE")]
    pub root_ca_file: Option<PathBuf>,
}

/// Flags of `orkd scheduler`.
#[derive(Args, Debug, Clone)]
pub struct SchedulerArgs {
    /// As for other roles.
    #[command(flatten)]
    pub role: RoleArgs,
    /// Its port.
    #[command(flatten)]
    pub port: PortArgs,
    /// Profiles, plugins and extenders (KubeSchedulerConfiguration); such a file may be given as --config too
    #[arg(long, value_name = "FILE")]
    pub scheduler_config: Option<PathBuf>,
}

/// Flags of `orkd kubelet`.
#[derive(Args, Debug, Clone)]
pub struct KubeletArgs {
    /// Where and how.
    #[command(flatten)]
    pub common: CommonArgs,
    /// Credential and address of the API server
    #[arg(long, value_name = "FILE")]
    pub kubeconfig: PathBuf,
    /// Node.
    #[command(flatten)]
    pub node: NodeArgs,
    /// Address of the cluster DNS
    #[arg(long, value_name = "IP")]
    pub cluster_dns: Option<IpAddr>,
    /// Domain of the cluster DNS
    #[arg(long, value_name = "DOMAIN", default_value = "cluster.local")]
    pub cluster_domain: String,
    /// Run pods on a runtime that only pretends, for tests of scale
    #[arg(long)]
    pub hollow: bool,
}

/// Flags of `orkd proxy`.
#[derive(Args, Debug, Clone)]
pub struct ProxyArgs {
    /// Where and how.
    #[command(flatten)]
    pub common: CommonArgs,
    /// Credential and address of the API server
    #[arg(long, value_name = "FILE")]
    pub kubeconfig: PathBuf,
    /// Name of this node [default: the host name]
    #[arg(long, value_name = "NAME")]
    pub node_name: Option<String>,
    /// Addresses of pods
    #[arg(long, value_name = "CIDR", default_value = "10.42.0.0/16")]
    pub cluster_cidr: IpNet,
    /// Run the cluster DNS of this node as well, on port 10053; the node's label orkd.io/dns-port=10053 tells others
    #[arg(long)]
    pub dns: bool,
    /// Address of this node, for its DNS [default: that of the interface with the default route]
    #[arg(long, value_name = "IP")]
    pub node_ip: Option<IpAddr>,
    /// Address of the cluster DNS, which is never asked about other names
    #[arg(long, value_name = "IP")]
    pub cluster_dns: Option<IpAddr>,
    /// Domain of the cluster DNS
    #[arg(long, value_name = "DOMAIN", default_value = "cluster.local")]
    pub cluster_domain: String,
    /// Servers to which names outside the cluster are forwarded [default: those of /etc/resolv.conf]
    #[arg(long, value_name = "IP", value_delimiter = ',')]
    pub dns_upstream: Vec<String>,
}

/// Flags of `orkd token`.
#[derive(Args, Debug)]
pub struct TokenArgs {
    /// The administrator's credential
    #[arg(long, value_name = "FILE", default_value = "/etc/orkd/admin.kubeconfig", global = true)]
    pub kubeconfig: PathBuf,
    /// What to do.
    #[command(subcommand)]
    pub command: TokenCommand,
}

/// What to do with tokens.
#[derive(Subcommand, Debug)]
pub enum TokenCommand {
    /// Make a token and print it
    Create {
        /// How long it is good for, such as 24h; 0 for ever
        #[arg(long, value_name = "DURATION", default_value = "24h")]
        ttl: String,
        /// What it is for
        #[arg(long, value_name = "TEXT", default_value = "")]
        description: String,
        /// Print the whole command a machine joins with
        #[arg(long)]
        print_join_command: bool,
    },
    /// List tokens
    List,
    /// Revoke a token
    Delete {
        /// The token's id (its first six characters)
        id: String,
    },
}

/// Flags of `orkd check`.
#[derive(Args, Debug)]
pub struct CheckArgs {
    /// Check for `server --disable-agent`: nothing of containers
    #[arg(long)]
    pub no_agent: bool,
}

/// How long certificates shall be good for.
fn parse_validity(text: &str) -> Result<SignedDuration, String> {
    let duration = SignedDuration::from_nanos(orkd_api::time::parse_duration(text)?);
    if duration < SignedDuration::from_secs(10) {
        return Err("certificates must be good for at least ten seconds, such as 8760h for a year".into());
    }
    Ok(duration)
}

/// How long a node may be silent.
fn parse_grace(text: &str) -> Result<Duration, String> {
    let grace = Duration::try_from(SignedDuration::from_nanos(orkd_api::time::parse_duration(text)?));
    grace.ok().filter(|g| *g >= Duration::from_secs(1)).ok_or_else(|| "must be a second or more, such as 50s".into())
}

/// How long to wait with something.
fn parse_pause(text: &str) -> Result<Duration, String> {
    let pause = Duration::try_from(SignedDuration::from_nanos(orkd_api::time::parse_duration(text)?));
    pause.map_err(|_| "must not be negative".into())
}

fn parse_port_range(text: &str) -> Result<(u16, u16), String> {
    let (from, to) = text.split_once('-').ok_or("expected FROM-TO, such as 30000-32767")?;
    let number = |s: &str| s.trim().parse::<u16>().map_err(|_| format!("{s:?} is not a port"));
    let (from, to) = (number(from)?, number(to)?);
    if from == 0 || from > to {
        return Err("the first port must be at least 1 and not above the last".into());
    }
    Ok((from, to))
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn validities() {
        assert_eq!(parse_validity("8760h"), Ok(SignedDuration::from_hours(8760)));
        assert!(parse_validity("1s").is_err());
        assert!(parse_validity("-1h").is_err());
        assert!(parse_validity("soon").is_err());
    }

    #[test]
    fn graces() {
        assert_eq!(parse_grace("20s"), Ok(Duration::from_secs(20)));
        assert!(parse_grace("0s").is_err());
        assert!(parse_grace("-5s").is_err());
    }

    #[test]
    fn pauses() {
        assert_eq!(parse_pause("1m30s"), Ok(Duration::from_secs(90)));
        assert_eq!(parse_pause("0s"), Ok(Duration::ZERO));
        assert!(parse_pause("-5s").is_err());
    }

    #[test]
    fn port_ranges() {
        assert_eq!(parse_port_range("30000-32767"), Ok((30000, 32767)));
        assert!(parse_port_range("5-2").is_err());
        assert!(parse_port_range("x").is_err());
    }
}
