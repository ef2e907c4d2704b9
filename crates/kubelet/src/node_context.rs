//! What every pod worker of a node shares.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Pod, Service};
use orkd_cri::{Runtime, v1};
use orkd_reconcile::{EventType, ObjectRef, Recorder};
use parking_lot::RwLock;

use crate::allocation::Allocations;
use crate::cgroup::Cgroups;
use crate::dra;
use crate::env::Facts;
use crate::eviction::Pressures;
use crate::images::Images;
use crate::objects::Objects;
use crate::pod::{self, Kind, Observed, Place, keys};
use crate::probes::Probes;
use crate::spec::SandboxFacts;
use crate::status::manager::StatusManager;
use crate::volumes::Volumes;

/// Facts of the node that pods are told.
#[derive(Debug, Clone, Default)]
pub struct NodeFacts {
    /// The node's addresses.
    pub host_ips: Vec<String>,
    /// Allocatable cpu, in thousandths.
    pub milli_cpu: i64,
    /// Memory, in bytes.
    pub memory: i64,
    /// Ephemeral storage, in bytes.
    pub storage: i64,
}

/// The services that containers of a namespace are told of.
pub type ServicesOf = Box<dyn Fn(&str) -> Vec<Service> + Send + Sync>;

/// What workers share.
pub struct NodeContext {
    /// The node's name.
    pub node_name: String,
    /// The runtime.
    pub runtime: Arc<dyn Runtime>,
    /// The runtime's name, for container ids.
    pub runtime_name: String,
    /// Images.
    pub images: Images,
    /// Volumes.
    pub volumes: Volumes,
    /// Devices of claims.
    pub devices: dra::Manager,
    /// ConfigMaps, Secrets, tokens.
    pub objects: Arc<dyn Objects>,
    /// Cgroups of pods; none on a hollow node.
    pub cgroups: Option<Cgroups>,
    /// Nothing is written to disk or mounted: the runtime is a fake.
    pub hollow: bool,
    /// Events.
    pub recorder: Recorder,
    /// Statuses.
    pub status: StatusManager,
    /// Probes.
    pub probes: Probes,
    /// Services of the cluster, for environments.
    pub services: ServicesOf,
    /// `/var/log/pods`.
    pub log_dir: PathBuf,
    /// Where seccomp profiles are.
    pub seccomp_dir: PathBuf,
    /// Addresses of the cluster's DNS.
    pub cluster_dns: Vec<String>,
    /// The cluster's domain.
    pub cluster_domain: String,
    /// The host's resolv.conf.
    pub resolv_conf: PathBuf,
    /// Facts of the node.
    pub facts: RwLock<NodeFacts>,
    /// What the node is short of.
    pub pressures: Pressures,
    /// Whom the node has taken, and what they were granted.
    pub allocations: Allocations,
    /// Which pod a container or sandbox belongs to.
    pub owners: RwLock<HashMap<String, String>>,
}

impl NodeContext {
    /// What field references of a pod may name.
    pub fn env_facts(&self, pod: &Pod, observed: &Observed) -> Facts {
        let facts = self.facts.read();
        let pod_ips = if pod::host_network(pod) { facts.host_ips.clone() } else { observed.ips() };
        Facts {
            pod_ips,
            host_ips: facts.host_ips.clone(),
            allocatable: (facts.milli_cpu, facts.memory),
            ephemeral_storage: facts.storage,
        }
    }

    /// What a sandbox depends on.
    pub fn sandbox_facts(&self, pod: &Pod) -> SandboxFacts {
        let resolv = std::fs::read_to_string(&self.resolv_conf).unwrap_or_default();
        SandboxFacts {
            log_dir: self.log_dir.clone(),
            cgroup_parent: self.cgroups.as_ref().map(|c| c.pod(pod)).unwrap_or_default(),
            host_dns: crate::dns::parse_resolv_conf(&resolv),
            cluster_dns: self.cluster_dns.clone(),
            cluster_domain: self.cluster_domain.clone(),
            seccomp_dir: self.seccomp_dir.clone(),
        }
    }

    /// Asks the runtime for everything it has of a pod.
    pub async fn observe(&self, uid: &str) -> orkd_cri::Result<Observed> {
        let selector = HashMap::from([(keys::POD_UID.to_owned(), uid.to_owned())]);
        let sandboxes = self.runtime.list_pod_sandboxes(selector.clone()).await?;
        let containers = self.runtime.list_containers(selector).await?;
        let mut sandbox_statuses = Vec::with_capacity(sandboxes.len());
        for sandbox in &sandboxes {
            match self.runtime.pod_sandbox_status(&sandbox.id).await {
                Ok(status) => sandbox_statuses.push(status),
                Err(e) if e.is_not_found() => {}
                Err(e) => return Err(e),
            }
        }
        let mut container_statuses: Vec<v1::ContainerStatus> = Vec::with_capacity(containers.len());
        for container in &containers {
            match self.runtime.container_status(&container.id).await {
                Ok(status) => container_statuses.push(status),
                Err(e) if e.is_not_found() => {}
                Err(e) => return Err(e),
            }
        }
        let mut owners = self.owners.write();
        let ids = sandboxes.iter().map(|s| &s.id).chain(containers.iter().map(|c| &c.id));
        for id in ids {
            owners.insert(id.clone(), uid.to_owned());
        }
        Ok(Observed::new(sandbox_statuses, container_statuses))
    }

    /// Whether nothing of a pod runs any more, and nothing will.
    pub fn has_ended(&self, pod: &Pod) -> bool {
        let shown = self.status.get(pod).phase.unwrap_or_default();
        pod::is_terminal_phase(&shown) || pod::is_terminal_phase(pod::phase(pod))
    }

    /// The reference of a pod in events.
    pub fn reference(&self, pod: &Pod) -> ObjectRef {
        ObjectRef {
            api_version: "v1".to_owned(),
            kind: "Pod".to_owned(),
            namespace: pod::namespace(pod).to_owned(),
            name: pod::name(pod).to_owned(),
            uid: pod::uid(pod).to_owned(),
            resource_version: pod.metadata.resource_version.clone().unwrap_or_default(),
            field_path: String::new(),
        }
    }

    /// Records an event of a pod.
    pub fn event(&self, pod: &Pod, kind: EventType, reason: &str, message: impl Into<String>) {
        self.recorder.event(&self.reference(pod), kind, reason, message);
    }

    /// Records an event of a container.
    pub fn container_event(&self, pod: &Pod, place: Place, name: &str, kind: EventType, reason: &str, message: String) {
        let list = match place.kind {
            Kind::Init => "initContainers",
            Kind::App => "containers",
            Kind::Ephemeral => "ephemeralContainers",
        };
        let about = self.reference(pod).field(format!("spec.{list}{{{name}}}"));
        self.recorder.event(&about, kind, reason, message);
    }
}
