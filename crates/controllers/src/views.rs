//! The trimmed structs that controllers read, shared by all of them so that each kind is cached once.

use std::collections::BTreeMap;

use jiff::Timestamp;
use orkd_reconcile::{Key, LabelSelector, Meta, Shared, View, null_default};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use serde_json::value::RawValue;

macro_rules! view {
    ($ty:ty, $group:literal, $version:literal, $kind:literal, $plural:literal) => {
        view!($ty, $group, $version, $kind, $plural, true);
    };
    ($ty:ty, $group:literal, $version:literal, $kind:literal, $plural:literal, $namespaced:literal) => {
        impl View for $ty {
            const GROUP: &'static str = $group;
            const VERSION: &'static str = $version;
            const KIND: &'static str = $kind;
            const PLURAL: &'static str = $plural;
            const NAMESPACED: bool = $namespaced;
            fn meta(&self) -> &Meta {
                &self.metadata
            }
        }
    };
}

pub(crate) use view;

/// A condition in a status, of any kind.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Condition {
    /// Type, such as `Ready`.
    #[serde(rename = "type")]
    pub kind: String,
    /// `True`, `False` or `Unknown`.
    pub status: String,
    /// Machine-readable reason.
    #[serde(deserialize_with = "null_default", skip_serializing_if = "String::is_empty")]
    pub reason: String,
    /// Text.
    #[serde(deserialize_with = "null_default", skip_serializing_if = "String::is_empty")]
    pub message: String,
    /// When `status` changed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_transition_time: Option<Timestamp>,
    /// When it was updated (deployments).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_update_time: Option<Timestamp>,
    /// When it was reported (nodes).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_heartbeat_time: Option<Timestamp>,
    /// When it was looked at (jobs).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_probe_time: Option<Timestamp>,
    /// Generation it is about.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
}

/// What has a type as conditions have.
pub trait Typed {
    /// The type.
    fn kind(&self) -> &str;
}

impl Typed for Condition {
    fn kind(&self) -> &str {
        &self.kind
    }
}

/// A condition of a pod: less is kept, for there are many.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct PodCondition {
    /// Type, such as `Ready`.
    #[serde(rename = "type")]
    pub kind: Shared<String>,
    /// `True`, `False` or `Unknown`.
    pub status: Shared<String>,
    /// When `status` changed.
    pub last_transition_time: Option<Timestamp>,
    /// Whether it was set by the kubelet that ends the pod. Of reasons only this one is asked about.
    #[serde(rename = "reason", deserialize_with = "is_by_kubelet")]
    pub by_kubelet: bool,
}

fn is_by_kubelet<'de, D: serde::Deserializer<'de>>(d: D) -> Result<bool, D::Error> {
    Ok(Option::<std::borrow::Cow<'de, str>>::deserialize(d)?.as_deref() == Some("TerminationByKubelet"))
}

impl Typed for PodCondition {
    fn kind(&self) -> &str {
        &self.kind
    }
}

/// The condition of a type.
pub fn condition<'a, C: Typed>(conditions: &'a [C], kind: &str) -> Option<&'a C> {
    conditions.iter().find(|c| c.kind() == kind)
}

/// A pod. There are many: what one has in common with those of its template is kept once, and of the rest only what is
/// read (`tests/memory.rs` says what one may cost).
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Pod {
    /// Metadata.
    pub metadata: Meta,
    /// Specification.
    pub spec: PodSpec,
    /// Status.
    pub status: PodStatus,
}
view!(Pod, "", "v1", "Pod", "pods");

/// What controllers read of a pod's specification: what is its own, and by `Deref` what is its template's.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(from = "RawPodSpec")]
pub struct PodSpec {
    /// The node; empty while unscheduled.
    pub node_name: Shared<String>,
    /// Host name.
    pub hostname: Box<str>,
    /// Affinity, as far as it names one node.
    pub affinity: Affinity,
    /// Volumes that are claimed; others are dropped.
    pub volumes: Box<[PodVolume]>,
    template: Shared<PodTemplate>,
}

/// What pods of one template have in common.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct PodTemplate {
    /// Domain below the namespace's.
    pub subdomain: String,
    /// Containers.
    pub containers: Vec<Container>,
    /// Init containers: those that are sidecars have ports too.
    pub init_containers: Vec<Container>,
    /// Tolerations.
    pub tolerations: Vec<Toleration>,
    /// Claims of devices.
    pub resource_claims: Vec<PodClaim>,
}
orkd_reconcile::common!(PodTemplate);

impl std::ops::Deref for PodSpec {
    type Target = PodTemplate;
    fn deref(&self) -> &PodTemplate {
        &self.template
    }
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct RawPodSpec {
    node_name: Shared<String>,
    hostname: Box<str>,
    subdomain: String,
    #[serde(deserialize_with = "null_default")]
    containers: Vec<Container>,
    #[serde(deserialize_with = "null_default")]
    init_containers: Vec<Container>,
    #[serde(deserialize_with = "null_default")]
    tolerations: Vec<Toleration>,
    affinity: Affinity,
    #[serde(deserialize_with = "claimed_volumes")]
    volumes: Box<[PodVolume]>,
    #[serde(deserialize_with = "null_default")]
    resource_claims: Vec<PodClaim>,
}

impl From<RawPodSpec> for PodSpec {
    fn from(raw: RawPodSpec) -> Self {
        let RawPodSpec { subdomain, containers, init_containers, tolerations, resource_claims, .. } = raw;
        let template = PodTemplate { subdomain, containers, init_containers, tolerations, resource_claims };
        PodSpec {
            node_name: raw.node_name,
            hostname: raw.hostname,
            affinity: raw.affinity,
            volumes: raw.volumes,
            template: template.into(),
        }
    }
}

/// A claim of devices, in a pod's spec.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct PodClaim {
    /// The pod's name for it.
    pub name: String,
    /// The claim that is used.
    pub resource_claim_name: Option<String>,
    /// The template a claim is made from.
    pub resource_claim_template_name: Option<String>,
}

/// How a claim that was made for a pod is called.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct PodClaimStatus {
    /// The pod's name for it.
    pub name: String,
    /// The claim; `None` if none was needed.
    pub resource_claim_name: Option<String>,
}

/// A volume of a pod that is claimed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PodVolume {
    /// The pod's name for it.
    pub name: Box<str>,
    /// The claim; `None` for one that is made for the pod.
    pub claim: Option<Box<str>>,
}

impl PodVolume {
    /// Whether the claim is made for the pod and goes with it.
    pub fn is_ephemeral(&self) -> bool {
        self.claim.is_none()
    }

    /// The claim's key.
    pub fn claim_of(&self, pod: &Meta) -> Key {
        match &self.claim {
            Some(claim) => Key { namespace: pod.namespace.clone(), name: (&**claim).into() },
            None => Key { namespace: pod.namespace.clone(), name: format!("{}-{}", pod.name, self.name).into() },
        }
    }
}

fn claimed_volumes<'de, D: serde::Deserializer<'de>>(d: D) -> Result<Box<[PodVolume]>, D::Error> {
    #[derive(Deserialize, Default)]
    #[serde(rename_all = "camelCase", default)]
    struct Raw {
        name: Box<str>,
        persistent_volume_claim: Option<RawClaim>,
        ephemeral: Option<serde::de::IgnoredAny>,
    }
    #[derive(Deserialize, Default)]
    #[serde(rename_all = "camelCase", default)]
    struct RawClaim {
        claim_name: Box<str>,
    }
    let volumes: Vec<Raw> = null_default(d)?;
    let claimed = volumes.into_iter().filter_map(|v| match (v.persistent_volume_claim, v.ephemeral) {
        (Some(claim), _) => Some(PodVolume { name: v.name, claim: Some(claim.claim_name) }),
        (None, Some(_)) => Some(PodVolume { name: v.name, claim: None }),
        (None, None) => None,
    });
    Ok(claimed.collect())
}

/// The one node that daemon pods name in their affinity; everything else is dropped.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(from = "Option<Value>")]
pub struct Affinity(Option<Box<str>>);

impl From<Option<Value>> for Affinity {
    fn from(value: Option<Value>) -> Self {
        let name = value.and_then(|v| {
            let terms = v.pointer("/nodeAffinity/requiredDuringSchedulingIgnoredDuringExecution/nodeSelectorTerms");
            let fields = terms?.as_array()?.iter().find_map(|t| t["matchFields"].as_array())?;
            let by_name = fields.iter().find(|f| f["key"] == "metadata.name" && f["operator"] == "In")?;
            Some(by_name["values"].as_array()?.first()?.as_str()?.into())
        });
        Affinity(name)
    }
}

impl Affinity {
    /// The name of the node.
    pub fn node_name(&self) -> Option<&str> {
        self.0.as_deref()
    }
}

/// What controllers read of a container.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Container {
    /// `Always` for sidecars.
    pub restart_policy: String,
    /// Ports.
    #[serde(deserialize_with = "null_default")]
    pub ports: Vec<ContainerPort>,
}

/// A port of a container.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ContainerPort {
    /// Name.
    pub name: String,
    /// Number.
    pub container_port: i32,
    /// Protocol.
    pub protocol: String,
}

/// A toleration.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Toleration {
    /// Key; empty with `Exists` for all.
    pub key: String,
    /// `Equal` or `Exists`; empty for `Equal`.
    pub operator: String,
    /// Value.
    pub value: String,
    /// Effect; empty for all.
    pub effect: String,
    /// For how long a `NoExecute` taint is tolerated; `None` for ever.
    pub toleration_seconds: Option<i64>,
}

/// What controllers read of a pod's status.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct PodStatus {
    /// `Pending`, `Running`, `Succeeded`, `Failed` or `Unknown`.
    pub phase: Shared<String>,
    /// Machine-readable reason.
    pub reason: Shared<String>,
    /// Conditions.
    #[serde(deserialize_with = "null_default")]
    pub conditions: Box<[PodCondition]>,
    /// First address.
    #[serde(rename = "podIP")]
    pub pod_ip: Box<str>,
    /// Addresses.
    #[serde(rename = "podIPs", deserialize_with = "null_default")]
    pub pod_ips: Box<[PodIp]>,
    /// Containers.
    #[serde(deserialize_with = "null_default")]
    pub container_statuses: Box<[ContainerStatus]>,
    /// Init containers.
    #[serde(deserialize_with = "null_default")]
    pub init_container_statuses: Box<[ContainerStatus]>,
    /// Claims of devices that were made for it.
    #[serde(deserialize_with = "null_default")]
    pub resource_claim_statuses: Box<[PodClaimStatus]>,
}

/// One address of a pod.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct PodIp {
    /// The address.
    pub ip: Box<str>,
}

impl PodStatus {
    /// Its addresses.
    pub fn ips(&self) -> impl Iterator<Item = &str> {
        let all = self.pod_ips.iter().map(|ip| &*ip.ip).chain([&*self.pod_ip]);
        all.filter(|ip| !ip.is_empty())
    }
}

/// What controllers read of a container's status.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(from = "RawContainerStatus")]
pub struct ContainerStatus {
    /// How often it was restarted.
    pub restart_count: i32,
    /// How it ended, once it has.
    pub terminated: Option<Box<Terminated>>,
}

/// How a container ended.
#[derive(Clone, Debug, Default)]
pub struct Terminated {
    /// The container.
    pub name: String,
    /// Its exit code.
    pub exit_code: i32,
    /// When.
    pub finished_at: Option<Timestamp>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct RawContainerStatus {
    name: String,
    restart_count: i32,
    #[serde(deserialize_with = "null_default")]
    state: RawState,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct RawState {
    terminated: Option<RawTerminated>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct RawTerminated {
    exit_code: i32,
    finished_at: Option<Timestamp>,
}

impl From<RawContainerStatus> for ContainerStatus {
    fn from(raw: RawContainerStatus) -> Self {
        let name = raw.name;
        let end = |t: RawTerminated| Box::new(Terminated { name, exit_code: t.exit_code, finished_at: t.finished_at });
        ContainerStatus { restart_count: raw.restart_count, terminated: raw.state.terminated.map(end) }
    }
}

/// A replica set.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct ReplicaSet {
    /// Metadata.
    pub metadata: Meta,
    /// Specification.
    pub spec: ReplicaSetSpec,
    /// Status.
    pub status: ReplicaSetStatus,
}
view!(ReplicaSet, "apps", "v1", "ReplicaSet", "replicasets");

/// What is asked of a replica set.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ReplicaSetSpec {
    /// How many pods.
    pub replicas: Option<i32>,
    /// How long a pod must be ready to count as available.
    pub min_ready_seconds: i32,
    /// Which pods.
    pub selector: LabelSelector,
    /// What pods are made of, as it was sent.
    pub template: Option<Box<RawValue>>,
}

/// The status of a replica set.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ReplicaSetStatus {
    /// Active pods.
    pub replicas: i32,
    /// Active pods with all labels of the template.
    pub fully_labeled_replicas: i32,
    /// Ready pods.
    pub ready_replicas: i32,
    /// Available pods.
    pub available_replicas: i32,
    /// Pods that are being deleted.
    pub terminating_replicas: Option<i32>,
    /// The generation this is about.
    pub observed_generation: i64,
    /// Conditions.
    #[serde(deserialize_with = "null_default")]
    pub conditions: Vec<Condition>,
}

/// A deployment.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Deployment {
    /// Metadata.
    pub metadata: Meta,
    /// Specification.
    pub spec: DeploymentSpec,
    /// Status.
    pub status: DeploymentStatus,
}
view!(Deployment, "apps", "v1", "Deployment", "deployments");

/// What is asked of a deployment.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct DeploymentSpec {
    /// How many pods.
    pub replicas: Option<i32>,
    /// Which pods.
    pub selector: LabelSelector,
    /// What pods are made of.
    pub template: Value,
    /// How new pods replace old ones.
    pub strategy: Strategy,
    /// How long a pod must be ready to count as available.
    pub min_ready_seconds: i32,
    /// How many old replica sets are kept.
    pub revision_history_limit: Option<i32>,
    /// Whether roll-outs are paused.
    pub paused: bool,
    /// How long a roll-out may stand still.
    pub progress_deadline_seconds: Option<i32>,
}

/// How new pods replace old ones.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Strategy {
    /// `RollingUpdate` or `Recreate`.
    #[serde(rename = "type")]
    pub kind: String,
    /// Parameters.
    pub rolling_update: Option<RollingUpdate>,
}

/// Parameters of a rolling update: numbers or percentages.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct RollingUpdate {
    /// How many pods may be missing.
    pub max_unavailable: Value,
    /// How many pods may be too many.
    pub max_surge: Value,
}

/// The status of a deployment.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct DeploymentStatus {
    /// The generation this is about.
    pub observed_generation: i64,
    /// Pods.
    pub replicas: i32,
    /// Pods of the newest template.
    pub updated_replicas: i32,
    /// Ready pods.
    pub ready_replicas: i32,
    /// Available pods.
    pub available_replicas: i32,
    /// Pods that are missing.
    pub unavailable_replicas: i32,
    /// Pods that are being deleted.
    pub terminating_replicas: Option<i32>,
    /// How often two templates had one hash.
    pub collision_count: Option<i32>,
    /// Conditions.
    #[serde(deserialize_with = "null_default")]
    pub conditions: Vec<Condition>,
}

/// A node.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Node {
    /// Metadata.
    pub metadata: Meta,
    /// Specification.
    pub spec: NodeSpec,
    /// Status.
    pub status: NodeStatus,
}
view!(Node, "", "v1", "Node", "nodes", false);

/// What controllers read of a node's specification.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct NodeSpec {
    /// Whether it is cordoned.
    pub unschedulable: bool,
    /// First range of pod addresses.
    #[serde(rename = "podCIDR")]
    pub pod_cidr: String,
    /// Ranges of pod addresses.
    #[serde(rename = "podCIDRs", deserialize_with = "null_default")]
    pub pod_cidrs: Vec<String>,
    /// Taints.
    #[serde(deserialize_with = "null_default")]
    pub taints: Vec<Taint>,
}

/// A taint.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Taint {
    /// Key.
    pub key: String,
    /// Value.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub value: String,
    /// Effect.
    pub effect: String,
    /// Since when.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub time_added: Option<Timestamp>,
}

/// What controllers read of a node's status.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct NodeStatus {
    /// Conditions.
    #[serde(deserialize_with = "null_default")]
    pub conditions: Vec<Condition>,
    /// Addresses.
    #[serde(deserialize_with = "null_default")]
    pub addresses: Vec<NodeAddress>,
    /// Volumes that are attached to it.
    #[serde(deserialize_with = "null_default")]
    pub volumes_attached: Vec<AttachedVolume>,
    /// Volumes that it uses.
    #[serde(deserialize_with = "null_default")]
    pub volumes_in_use: Vec<String>,
    /// What pods may have of it.
    #[serde(deserialize_with = "null_default")]
    pub allocatable: Allocatable,
}

/// What pods may have of a node, as far as controllers ask.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct Allocatable {
    /// Processors.
    pub cpu: String,
}

/// A volume that is attached to a node.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct AttachedVolume {
    /// How nodes name it.
    pub name: String,
}

/// One address of a node.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct NodeAddress {
    /// Type, such as `InternalIP`.
    #[serde(rename = "type")]
    pub kind: String,
    /// The address.
    pub address: String,
}

/// A namespace.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Namespace {
    /// Metadata.
    pub metadata: Meta,
    /// Specification.
    pub spec: NamespaceSpec,
    /// Status.
    pub status: NamespaceStatus,
}
view!(Namespace, "", "v1", "Namespace", "namespaces", false);

/// A namespace's finalizers.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct NamespaceSpec {
    /// Finalizers.
    #[serde(deserialize_with = "null_default")]
    pub finalizers: Vec<String>,
}

/// A namespace's status.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct NamespaceStatus {
    /// `Active` or `Terminating`.
    pub phase: String,
    /// Conditions.
    #[serde(deserialize_with = "null_default")]
    pub conditions: Vec<Condition>,
}

/// A service account.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct ServiceAccount {
    /// Metadata.
    pub metadata: Meta,
}
view!(ServiceAccount, "", "v1", "ServiceAccount", "serviceaccounts");

/// A config map with its data.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct ConfigMap {
    /// Metadata.
    pub metadata: Meta,
    /// Data.
    #[serde(deserialize_with = "null_default")]
    pub data: BTreeMap<String, String>,
}
view!(ConfigMap, "", "v1", "ConfigMap", "configmaps");

/// A service.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Service {
    /// Metadata.
    pub metadata: Meta,
    /// Specification.
    pub spec: ServiceSpec,
}
view!(Service, "", "v1", "Service", "services");

/// What controllers read of a service.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ServiceSpec {
    /// Type.
    #[serde(rename = "type")]
    pub kind: String,
    /// Which pods; without one others keep the endpoints.
    pub selector: Option<BTreeMap<String, String>>,
    /// First address; `None` for headless services.
    #[serde(rename = "clusterIP")]
    pub cluster_ip: String,
    /// Families of addresses.
    #[serde(deserialize_with = "null_default")]
    pub ip_families: Vec<String>,
    /// Ports.
    #[serde(deserialize_with = "null_default")]
    pub ports: Vec<ServicePort>,
    /// Whether pods count before they are ready.
    pub publish_not_ready_addresses: bool,
    /// Where traffic is to go.
    pub traffic_distribution: Option<String>,
}

/// A port of a service.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ServicePort {
    /// Name; may be empty when there is one port.
    pub name: String,
    /// Protocol.
    pub protocol: String,
    /// Number.
    pub port: i32,
    /// Number or name of the pods' port.
    pub target_port: Value,
    /// Application protocol.
    pub app_protocol: Option<String>,
}
