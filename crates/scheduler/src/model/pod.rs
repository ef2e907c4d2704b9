//! What is decoded of a pod before it becomes a [`crate::pod::PodInfo`].

use std::collections::BTreeMap;

use orkd_reconcile::{LabelSelector, Meta, null_default};
use serde::{Deserialize, Serialize};

/// A pod.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct Pod {
    /// Metadata.
    pub metadata: Meta,
    /// Spec.
    pub spec: PodSpec,
    /// Status.
    pub status: PodStatus,
}

/// `spec` of a pod.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct PodSpec {
    /// The node; empty while there is none.
    pub node_name: String,
    /// Who is to schedule it.
    pub scheduler_name: String,
    /// Priority.
    pub priority: Option<i64>,
    /// Labels the node must have.
    #[serde(deserialize_with = "null_default")]
    pub node_selector: BTreeMap<String, String>,
    /// Affinity.
    #[serde(deserialize_with = "null_default")]
    pub affinity: Affinity,
    /// Tolerations.
    #[serde(deserialize_with = "null_default")]
    pub tolerations: Vec<Toleration>,
    /// Containers.
    #[serde(deserialize_with = "null_default")]
    pub containers: Vec<Container>,
    /// Init containers.
    #[serde(deserialize_with = "null_default")]
    pub init_containers: Vec<Container>,
    /// What the sandbox itself takes.
    #[serde(deserialize_with = "null_default")]
    pub overhead: BTreeMap<String, String>,
    /// What keeps the pod from being scheduled.
    #[serde(deserialize_with = "null_default")]
    pub scheduling_gates: Vec<Gate>,
    /// Resources of the pod as a whole.
    #[serde(deserialize_with = "null_default")]
    pub resources: Resources,
    /// Spread over domains.
    #[serde(deserialize_with = "null_default")]
    pub topology_spread_constraints: Vec<SpreadConstraint>,
    /// Volumes.
    #[serde(deserialize_with = "null_default")]
    pub volumes: Vec<Volume>,
    /// Claims for devices.
    #[serde(deserialize_with = "null_default")]
    pub resource_claims: Vec<PodResourceClaim>,
    /// `Never` keeps the pod from preempting.
    pub preemption_policy: Option<String>,
}

/// `resourceClaims` of a pod.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct PodResourceClaim {
    /// Name within the pod.
    pub name: String,
    /// A claim.
    pub resource_claim_name: Option<String>,
    /// A template of a claim.
    pub resource_claim_template_name: Option<String>,
}

/// Which claim was made for a pod's entry.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ResourceClaimStatus {
    /// Name within the pod.
    pub name: String,
    /// The claim; none where none is needed.
    pub resource_claim_name: Option<String>,
}

/// `topologySpreadConstraints`.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct SpreadConstraint {
    /// The most that domains may differ.
    pub max_skew: i64,
    /// Label that makes the domains.
    pub topology_key: String,
    /// `DoNotSchedule` or `ScheduleAnyway`.
    pub when_unsatisfiable: String,
    /// Which pods count.
    pub label_selector: Option<LabelSelector>,
    /// The least number of domains.
    pub min_domains: Option<i64>,
    /// `Honor` (default) or `Ignore`.
    pub node_affinity_policy: Option<String>,
    /// `Honor` or `Ignore` (default).
    pub node_taints_policy: Option<String>,
    /// Labels whose values the selector takes from the pod.
    #[serde(deserialize_with = "null_default")]
    pub match_label_keys: Vec<String>,
}

/// A volume, as far as it matters for placement.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Volume {
    /// Name.
    pub name: String,
    /// A claim.
    pub persistent_volume_claim: Option<ClaimSource>,
    /// A claim made for the pod.
    pub ephemeral: Option<serde::de::IgnoredAny>,
    /// A volume of a CSI driver in the pod itself.
    pub csi: Option<CsiSource>,
    /// An image.
    pub image: Option<ImageSource>,
    /// A disk.
    pub gce_persistent_disk: Option<GceDisk>,
    /// A disk.
    pub aws_elastic_block_store: Option<AwsDisk>,
    /// A disk.
    pub iscsi: Option<IscsiDisk>,
    /// A disk.
    pub rbd: Option<RbdDisk>,
}

/// `persistentVolumeClaim`.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ClaimSource {
    /// The claim.
    pub claim_name: String,
}

/// `image`.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct ImageSource {
    /// Its name.
    pub reference: String,
}

/// `csi`.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct CsiSource {
    /// The driver.
    pub driver: String,
}

/// `gcePersistentDisk`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct GceDisk {
    /// The disk.
    pub pd_name: String,
    /// Read only.
    pub read_only: bool,
}

/// `awsElasticBlockStore`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Deserialize)]
#[serde(default)]
pub struct AwsDisk {
    /// The disk.
    #[serde(rename = "volumeID")]
    pub volume_id: String,
}

/// `iscsi`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct IscsiDisk {
    /// Qualified name.
    pub iqn: String,
    /// Read only.
    pub read_only: bool,
}

/// `rbd`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct RbdDisk {
    /// Monitors.
    #[serde(deserialize_with = "null_default")]
    pub monitors: Vec<String>,
    /// Pool.
    pub pool: String,
    /// Image.
    pub image: String,
    /// Read only.
    pub read_only: bool,
}

/// A scheduling gate.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct Gate {
    /// Name.
    pub name: String,
}

/// `status` of a pod.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct PodStatus {
    /// Phase.
    pub phase: String,
    /// The node that preemption makes room on.
    pub nominated_node_name: String,
    /// When the kubelet took the pod over.
    pub start_time: Option<jiff::Timestamp>,
    /// Claims made for the pod.
    #[serde(deserialize_with = "null_default")]
    pub resource_claim_statuses: Vec<ResourceClaimStatus>,
    /// What containers have, which a resize may make differ from what they ask for.
    #[serde(deserialize_with = "null_default")]
    pub container_statuses: Vec<ContainerStatus>,
    /// The same of init containers.
    #[serde(deserialize_with = "null_default")]
    pub init_container_statuses: Vec<ContainerStatus>,
    /// What the node has granted the pod as a whole.
    #[serde(deserialize_with = "null_default")]
    pub allocated_resources: BTreeMap<String, String>,
    /// What is in force for it.
    pub resources: Option<Resources>,
    /// Conditions.
    #[serde(deserialize_with = "null_default")]
    pub conditions: Vec<Condition>,
}

/// What a container has.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ContainerStatus {
    /// The container.
    pub name: String,
    /// What the node has granted.
    #[serde(deserialize_with = "null_default")]
    pub allocated_resources: BTreeMap<String, String>,
    /// What is in force, if that is known.
    pub resources: Option<Resources>,
}

/// A condition.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Condition {
    /// Type.
    #[serde(rename = "type")]
    pub ty: String,
    /// Status.
    pub status: String,
    /// Reason.
    pub reason: String,
    /// Message.
    pub message: String,
    /// When the status changed.
    pub last_transition_time: Option<String>,
}

/// A container.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Container {
    /// Name.
    pub name: String,
    /// Image.
    pub image: String,
    /// Resources.
    #[serde(deserialize_with = "null_default")]
    pub resources: Resources,
    /// Ports.
    #[serde(deserialize_with = "null_default")]
    pub ports: Vec<Port>,
    /// `Always` makes an init container a sidecar.
    pub restart_policy: Option<String>,
    /// What becomes of the container once it has ended.
    #[serde(deserialize_with = "null_default")]
    pub restart_policy_rules: Vec<RestartRule>,
}

/// A rule of a container about its end.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct RestartRule {
    /// `Restart` or `RestartAllContainers`.
    pub action: String,
}

/// Requests of a container or a pod.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Resources {
    /// Requests.
    #[serde(deserialize_with = "null_default")]
    pub requests: BTreeMap<String, String>,
}

/// A port of a container.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Port {
    /// Port on the node; 0 for none.
    pub host_port: u16,
    /// Address on the node.
    #[serde(rename = "hostIP")]
    pub host_ip: String,
    /// Protocol.
    pub protocol: String,
}

/// `affinity` of a pod.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Affinity {
    /// Node affinity.
    #[serde(deserialize_with = "null_default")]
    pub node_affinity: NodeAffinity,
    /// Pods to be near to.
    #[serde(deserialize_with = "null_default")]
    pub pod_affinity: PodAffinity,
    /// Pods to be away from.
    #[serde(deserialize_with = "null_default")]
    pub pod_anti_affinity: PodAffinity,
}

/// `podAffinity` or `podAntiAffinity`.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct PodAffinity {
    /// What must be.
    #[serde(rename = "requiredDuringSchedulingIgnoredDuringExecution", deserialize_with = "null_default")]
    pub required: Vec<PodAffinityTerm>,
    /// What should be.
    #[serde(rename = "preferredDuringSchedulingIgnoredDuringExecution", deserialize_with = "null_default")]
    pub preferred: Vec<WeightedPodAffinityTerm>,
}

/// A weighted term.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct WeightedPodAffinityTerm {
    /// 1 to 100.
    pub weight: i64,
    /// The term.
    pub pod_affinity_term: PodAffinityTerm,
}

/// Pods, and the domains they make.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct PodAffinityTerm {
    /// Which pods.
    pub label_selector: Option<LabelSelector>,
    /// In which namespaces.
    #[serde(deserialize_with = "null_default")]
    pub namespaces: Vec<String>,
    /// And in those with such labels.
    pub namespace_selector: Option<LabelSelector>,
    /// Label that makes the domains.
    pub topology_key: String,
    /// Labels whose values the selector takes from the pod.
    #[serde(deserialize_with = "null_default")]
    pub match_label_keys: Vec<String>,
    /// Labels whose values must differ from the pod's.
    #[serde(deserialize_with = "null_default")]
    pub mismatch_label_keys: Vec<String>,
}

/// `nodeAffinity`.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct NodeAffinity {
    /// What the node must be.
    #[serde(rename = "requiredDuringSchedulingIgnoredDuringExecution")]
    pub required: Option<NodeSelector>,
    /// What the node should be.
    #[serde(rename = "preferredDuringSchedulingIgnoredDuringExecution", deserialize_with = "null_default")]
    pub preferred: Vec<PreferredTerm>,
}

/// A node selector: one of the terms must hold.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct NodeSelector {
    /// Terms.
    #[serde(deserialize_with = "null_default")]
    pub node_selector_terms: Vec<NodeSelectorTerm>,
}

/// A weighted term.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct PreferredTerm {
    /// 1 to 100.
    pub weight: i64,
    /// The term.
    pub preference: NodeSelectorTerm,
}

/// A term: all of its requirements must hold; an empty one holds nowhere.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct NodeSelectorTerm {
    /// Requirements on labels.
    #[serde(deserialize_with = "null_default", skip_serializing_if = "Vec::is_empty")]
    pub match_expressions: Vec<Requirement>,
    /// Requirements on fields: only `metadata.name`.
    #[serde(deserialize_with = "null_default", skip_serializing_if = "Vec::is_empty")]
    pub match_fields: Vec<Requirement>,
}

/// A requirement.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default)]
pub struct Requirement {
    /// Key.
    pub key: String,
    /// `In NotIn Exists DoesNotExist Gt Lt`.
    pub operator: String,
    /// Values.
    #[serde(deserialize_with = "null_default", skip_serializing_if = "Vec::is_empty")]
    pub values: Vec<String>,
}

/// A toleration.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Deserialize)]
#[serde(default)]
pub struct Toleration {
    /// Key; empty with `Exists` tolerates everything.
    pub key: String,
    /// `Equal` (default) or `Exists`.
    pub operator: String,
    /// Value.
    pub value: String,
    /// Effect; empty for all.
    pub effect: String,
}

/// A taint.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Deserialize)]
#[serde(default)]
pub struct Taint {
    /// Key.
    pub key: String,
    /// Value.
    pub value: String,
    /// `NoSchedule`, `PreferNoSchedule` or `NoExecute`.
    pub effect: String,
}

impl Toleration {
    /// Whether the taint is tolerated (`v1.Toleration.ToleratesTaint`).
    pub fn tolerates(&self, taint: &Taint) -> bool {
        (self.effect.is_empty() || self.effect == taint.effect)
            && (self.key.is_empty() || self.key == taint.key)
            && match self.operator.as_str() {
                "" | "Equal" => self.value == taint.value && (taint.key.is_empty() || !self.key.is_empty()),
                "Exists" => true,
                "Lt" => number(&taint.value).zip(number(&self.value)).is_some_and(|(t, v)| t < v),
                "Gt" => number(&taint.value).zip(number(&self.value)).is_some_and(|(t, v)| t > v),
                _ => false,
            }
    }
}

fn number(text: &str) -> Option<i64> {
    text.parse().ok()
}
