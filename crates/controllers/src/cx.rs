//! What controllers are given and how they are started.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;
use jiff::SignedDuration;
use orkd_base::{BoxError, CancellationToken, Clock, Supervisor, TaskKind};
use orkd_pki::Authority;
use orkd_reconcile::{Api, Client, Informers, Queue, QueueKey, RateLimit, Recorder};

/// What operators decide about controllers.
#[derive(Clone, Default)]
pub struct Config {
    /// Ranges of pod addresses, at most one of each family; empty when nodes get no ranges.
    pub cluster_cidrs: Vec<IpNet>,
    /// The prefix length of a node's IPv4 range; 24 if `None`.
    pub node_mask_v4: Option<u8>,
    /// The prefix length of a node's IPv6 range; 64 if `None`.
    pub node_mask_v6: Option<u8>,
    /// The certificates that clients trust, as PEM: what `kube-root-ca.crt` holds. Empty publishes nothing.
    pub root_ca_pem: String,
    /// The authorities that sign certificate requests; `None` signs nothing.
    pub signers: Option<Signers>,
    /// Signs the tokens that stand in Secrets; `None` fills none.
    pub token_signer: Option<Arc<orkd_pki::jwt::Signer>>,
    /// How long a node may be silent until it is not ready; 50 seconds if `None`.
    pub node_monitor_grace: Option<Duration>,
}

/// The identity that writes tokens: the controller manager's own, for no account of a controller may write Secrets
/// ([`ControllerSpec::service_account`] of the controllers that need it).
pub const MANAGER: &str = "system:kube-controller-manager";

/// The authorities of certificate requests.
#[derive(Clone)]
pub struct Signers {
    /// Signs clients: `kubernetes.io/kube-apiserver-client` and `kubernetes.io/kube-apiserver-client-kubelet`.
    pub client: Arc<Authority>,
    /// Signs what the nodes serve with: `kubernetes.io/kubelet-serving`, and `kubernetes.io/legacy-unknown`.
    pub serving: Arc<Authority>,
    /// For how long they sign at most, and where a request does not say (`--cluster-signing-duration`).
    pub longest: SignedDuration,
}

impl std::fmt::Debug for Signers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Signers")
    }
}

/// What one controller is given.
#[derive(Clone)]
pub struct Cx {
    /// The caches all controllers share.
    pub informers: Informers,
    /// Requests as this controller.
    pub api: Api,
    /// Events as this controller.
    pub recorder: Recorder,
    /// The time.
    pub clock: Clock,
    /// For tasks beside the controller's own.
    pub supervisor: Supervisor,
    /// What the operator decided.
    pub config: Arc<Config>,
    /// Cancelled when the controller shall end.
    pub stop: CancellationToken,
}

impl Cx {
    /// A queue whose waits are by the controller's clock. The name stands in logs and metrics.
    pub fn queue<K: QueueKey>(&self, name: &'static str) -> Queue<K> {
        self.queue_with(name, RateLimit::default())
    }

    /// The same with limits other than client-go's.
    pub fn queue_with<K: QueueKey>(&self, name: &'static str, limit: RateLimit) -> Queue<K> {
        Queue::by(self.clock.clone(), queue_name(name), limit)
    }
}

/// How a controller runs.
pub type Run = Pin<Box<dyn Future<Output = Result<(), BoxError>> + Send>>;

/// One controller, as [`crate::all`] lists it.
#[derive(Clone, Copy)]
pub struct ControllerSpec {
    /// Name: of the task, the user agent and, with few exceptions, the source of events.
    pub name: &'static str,
    /// Name of its service account in `kube-system`.
    pub service_account: &'static str,
    /// Runs it until `cx.stop`.
    pub run: fn(Cx) -> Run,
}

/// What all controllers are started from.
pub struct Composition {
    /// The caches, read with an identity that may list and watch everything.
    pub informers: Informers,
    /// Where tasks run.
    pub supervisor: Supervisor,
    /// The time.
    pub clock: Clock,
    /// What the operator decided.
    pub config: Config,
    /// A client with the identity of a service account in `kube-system`.
    pub client: Box<dyn Fn(&str) -> Client + Send + Sync>,
}

/// The queues of upstream's controllers, by which dashboards know them (the label `name` of `workqueue_*`; `pkg/controller`).
/// Where upstream has several and here is one, it is that of the controller's main work.
const QUEUES: [(&str, &str); 36] = [
    ("attachdetach-controller", "pvcs"),
    ("bootstrap-signer-controller", "bootstrap_signer_queue"),
    ("certificatesigningrequest-approving-controller", "certificate"),
    ("certificatesigningrequest-signing-controller", "certificate"),
    ("clusterrole-aggregation-controller", "ClusterRoleAggregator"),
    ("cronjob-controller", "cronjob"),
    ("daemonset-controller", "daemonset"),
    ("deployment-controller", "deployment"),
    ("disruption-controller", "disruption"),
    ("endpoints-controller", "endpoint"),
    ("endpointslice-controller", "endpoint_slice"),
    ("endpointslice-mirroring-controller", "endpoint_slice_mirroring"),
    ("ephemeral-volume-controller", "ephemeral_volume"),
    ("garbage-collector-controller", "garbage_collector_attempt_to_delete"),
    ("horizontal-pod-autoscaler-controller", "horizontalpodautoscaler"),
    ("job-controller", "job"),
    ("namespace-controller", "namespace"),
    ("node-ipam-controller", "cidrallocator_node"),
    ("node-lifecycle-controller", "node_lifecycle_controller"),
    ("persistentvolume-controller", "claims"),
    ("persistentvolume-protection-controller", "pvprotection"),
    ("persistentvolumeclaim-protection-controller", "pvcprotection"),
    ("pod-garbage-collector-controller", "orphaned_pods_nodes"),
    ("replicaset-controller", "replicaset"),
    ("replication-controller", "replicationmanager"),
    ("resourceclaim-controller", "resource_claim"),
    ("resourcequota-controller", "resourcequota_primary"),
    ("root-ca-certificate-publisher-controller", "root_ca_cert_publisher"),
    ("serviceaccount-controller", "serviceaccount"),
    ("serviceaccount-token-controller", "serviceaccount_tokens_secret"),
    ("statefulset-controller", "statefulset"),
    ("taint-eviction-controller", "noexec_taint_pod"),
    ("token-cleaner-controller", "token_cleaner"),
    ("ttl-after-finished-controller", "ttl_jobs_to_delete"),
    ("ttl-controller", "ttlcontroller"),
    ("volume-expand-controller", "volume_expand"),
];

/// A queue's name in metrics and logs: upstream's, where it has such a queue.
fn queue_name(name: &'static str) -> &'static str {
    QUEUES.iter().find(|(ours, _)| *ours == name).map_or(name, |(_, upstreams)| upstreams)
}

/// As what a controller tells events: mostly by its name, but some of upstream's recorders have others.
fn event_source(name: &'static str) -> &'static str {
    match name {
        "disruption-controller" => "controllermanager",
        "endpoints-controller" => "endpoint-controller",
        "endpointslice-controller" => "endpoint-slice-controller",
        "endpointslice-mirroring-controller" => "endpoint-slice-mirroring-controller",
        "ephemeral-volume-controller" => "ephemeral_volume",
        "horizontal-pod-autoscaler-controller" => "horizontal-pod-autoscaler",
        "node-ipam-controller" => "cidrAllocator",
        "node-lifecycle-controller" => "node-controller",
        "resourceclaim-controller" => "resource_claim",
        "volume-expand-controller" => "volume_expand",
        name => name,
    }
}

/// Starts every controller. They end with the supervisor.
pub fn run_all(composition: Composition) {
    run_some(composition, |_| true);
}

/// Starts the controllers that are wanted by name.
pub fn run_some(composition: Composition, wanted: impl Fn(&str) -> bool) {
    let config = Arc::new(composition.config);
    for spec in crate::all().into_iter().filter(|spec| wanted(spec.name)) {
        let api = Api::new((composition.client)(spec.service_account), spec.name);
        let supervisor = composition.supervisor.clone();
        let cx = Cx {
            informers: composition.informers.clone(),
            recorder: Recorder::new(api.clone(), &supervisor, event_source(spec.name), ""),
            api,
            clock: composition.clock.clone(),
            supervisor: supervisor.clone(),
            config: config.clone(),
            stop: CancellationToken::new(),
        };
        supervisor.run(TaskKind::Controller, spec.name, move |stop| (spec.run)(Cx { stop, ..cx.clone() }));
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn queues_are_named_as_upstream_names_them() {
        assert_eq!(queue_name("replication-controller"), "replicationmanager");
        assert_eq!(queue_name("local-path-provisioner"), "local-path-provisioner");
        let names: BTreeSet<&str> = crate::all().into_iter().map(|c| c.name).collect();
        for (ours, _) in QUEUES {
            assert!(names.contains(ours), "no controller is called {ours}");
        }
    }

    #[test]
    fn events_come_from_whom_upstream_names() {
        let names = crate::all().into_iter().map(|c| c.name);
        let sources: BTreeSet<&str> = names.filter(|name| event_source(name) != *name).map(event_source).collect();
        // A name that no controller has any more would be missing here.
        let expected = [
            "cidrAllocator",
            "controllermanager",
            "endpoint-controller",
            "endpoint-slice-controller",
            "endpoint-slice-mirroring-controller",
            "ephemeral_volume",
            "horizontal-pod-autoscaler",
            "node-controller",
            "resource_claim",
            "volume_expand",
        ];
        assert_eq!(sources, BTreeSet::from(expected));
    }
}
