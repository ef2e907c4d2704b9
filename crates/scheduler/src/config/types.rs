//! `KubeSchedulerConfiguration` as it is written (`kubescheduler.config.k8s.io/v1`). Unknown fields are refused.

use serde::Deserialize;
use serde_json::Value;

/// The whole.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct File {
    /// Group and version.
    pub api_version: String,
    /// Kind.
    pub kind: String,
    /// How many nodes are looked at at once; kept for what others write, one task looks at all of them here.
    pub parallelism: Option<i64>,
    /// Who acts.
    pub leader_election: LeaderElection,
    /// How to reach the API.
    pub client_connection: ClientConnection,
    /// Of no effect here.
    pub enable_profiling: Option<bool>,
    /// Of no effect here.
    pub enable_contention_profiling: Option<bool>,
    /// Of no effect here.
    pub delay_cache_until_active: bool,
    /// How many of the nodes are looked for; 0 for a share that depends on their number.
    pub percentage_of_nodes_to_score: Option<i64>,
    /// Seconds that a pod waits after its first failure.
    pub pod_initial_backoff_seconds: Option<i64>,
    /// Seconds that it waits at most.
    pub pod_max_backoff_seconds: Option<i64>,
    /// The profiles; one with everything where there is none.
    pub profiles: Vec<Profile>,
    /// Servers that are asked as well.
    pub extenders: Vec<Extender>,
}

/// `leaderElection`.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct LeaderElection {
    /// Whether there is any.
    pub leader_elect: Option<bool>,
    /// How long a silent holder is respected.
    pub lease_duration: Option<kube::core::Duration>,
    /// How long the holder goes on without a renewal.
    pub renew_deadline: Option<kube::core::Duration>,
    /// How often it is tried.
    pub retry_period: Option<kube::core::Duration>,
    /// `leases`.
    pub resource_lock: String,
    /// Name of the Lease.
    pub resource_name: String,
    /// Its namespace.
    pub resource_namespace: String,
}

/// `clientConnection`.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct ClientConnection {
    /// Credential and address.
    pub kubeconfig: String,
    /// Of no effect here.
    pub accept_content_types: String,
    /// Of no effect here.
    pub content_type: String,
    /// Of no effect here.
    pub qps: Option<f64>,
    /// Of no effect here.
    pub burst: Option<i64>,
}

/// A profile.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Profile {
    /// The pods it is for.
    pub scheduler_name: Option<String>,
    /// As in the whole.
    pub percentage_of_nodes_to_score: Option<i64>,
    /// Which plugins are called where.
    pub plugins: Plugins,
    /// Their arguments.
    pub plugin_config: Vec<PluginConfig>,
}

/// `plugins` of a profile.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
#[expect(missing_docs, reason = "the extension points")]
pub struct Plugins {
    pub pre_enqueue: PluginSet,
    pub queue_sort: PluginSet,
    pub pre_filter: PluginSet,
    pub filter: PluginSet,
    pub post_filter: PluginSet,
    pub pre_score: PluginSet,
    pub score: PluginSet,
    pub reserve: PluginSet,
    pub permit: PluginSet,
    pub pre_bind: PluginSet,
    pub bind: PluginSet,
    pub post_bind: PluginSet,
    pub multi_point: PluginSet,
}

impl Plugins {
    /// What is said of each extension point, by its name.
    pub fn points(&self) -> [(&'static str, &PluginSet); 12] {
        [
            ("preEnqueue", &self.pre_enqueue),
            ("queueSort", &self.queue_sort),
            ("preFilter", &self.pre_filter),
            ("filter", &self.filter),
            ("postFilter", &self.post_filter),
            ("preScore", &self.pre_score),
            ("score", &self.score),
            ("reserve", &self.reserve),
            ("permit", &self.permit),
            ("preBind", &self.pre_bind),
            ("bind", &self.bind),
            ("postBind", &self.post_bind),
        ]
    }
}

/// Plugins of one extension point.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct PluginSet {
    /// Called, beside the default ones.
    pub enabled: Vec<Plugin>,
    /// Default ones that are not called; `*` for all.
    pub disabled: Vec<Plugin>,
}

impl PluginSet {
    /// Whether a plugin is disabled by name or with all.
    pub fn disables(&self, name: &str) -> bool {
        self.disabled.iter().any(|p| p.name == name || p.name == "*")
    }
}

/// A plugin.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Plugin {
    /// Its name.
    pub name: String,
    /// What a point of its score is worth; 0 for 1.
    pub weight: i64,
}

/// Arguments of a plugin.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct PluginConfig {
    /// The plugin.
    pub name: String,
    /// The arguments.
    pub args: Value,
}

/// A server that is asked as well.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Extender {
    /// Where it is.
    pub url_prefix: String,
    /// Appended to filter; empty for not.
    pub filter_verb: String,
    /// Appended to ask which victims will do.
    pub preempt_verb: String,
    /// Appended to rate.
    pub prioritize_verb: String,
    /// What a point of its rating is worth.
    pub weight: i64,
    /// Appended to bind.
    pub bind_verb: String,
    /// Whether it is reached by TLS.
    #[serde(rename = "enableHTTPS")]
    pub enable_https: bool,
    /// How.
    pub tls_config: Option<ExtenderTls>,
    /// How long it may take.
    #[serde(rename = "httpTimeout")]
    pub http_timeout: Option<kube::core::Duration>,
    /// Whether it knows the nodes by their names.
    pub node_cache_capable: bool,
    /// Only pods that ask for one of these are told of; all without.
    pub managed_resources: Vec<ManagedResource>,
    /// Whether pods are scheduled without it when it fails.
    pub ignorable: bool,
}

/// A resource that an extender looks after.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct ManagedResource {
    /// The resource.
    pub name: String,
    /// Whether nodes are not looked at for it.
    pub ignored_by_scheduler: bool,
}

/// `tlsConfig` of an extender.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct ExtenderTls {
    /// Whether any certificate will do.
    pub insecure: bool,
    /// The name it must be for.
    pub server_name: String,
    /// A file.
    pub cert_file: String,
    /// A file.
    pub key_file: String,
    /// A file.
    #[serde(rename = "caFile")]
    pub ca_file: String,
    /// PEM in base64.
    pub cert_data: String,
    /// PEM in base64.
    pub key_data: String,
    /// PEM in base64.
    #[serde(rename = "caData")]
    pub ca_data: String,
}
