//! What the scheduler reads of pods and nodes.

use std::collections::BTreeMap;

use orkd_reconcile::{Meta, View, null_default};
use serde::Deserialize;

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

impl View for Pod {
    const GROUP: &'static str = "";
    const VERSION: &'static str = "v1";
    const KIND: &'static str = "Pod";
    const PLURAL: &'static str = "pods";
    fn meta(&self) -> &Meta {
        &self.metadata
    }
}

impl Pod {
    /// Whether the pod has ended and holds nothing any more.
    pub fn has_ended(&self) -> bool {
        matches!(self.status.phase.as_str(), "Succeeded" | "Failed")
    }
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
    /// Conditions.
    #[serde(deserialize_with = "null_default")]
    pub conditions: Vec<Condition>,
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
    /// Resources.
    #[serde(deserialize_with = "null_default")]
    pub resources: Resources,
    /// Ports.
    #[serde(deserialize_with = "null_default")]
    pub ports: Vec<Port>,
    /// `Always` makes an init container a sidecar.
    pub restart_policy: Option<String>,
}

/// Requests of a container or a pod.
#[derive(Debug, Default, Deserialize)]
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
}

/// `nodeAffinity`.
#[derive(Clone, Debug, Default, Deserialize)]
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
#[derive(Clone, Debug, Default, Deserialize)]
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
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct NodeSelectorTerm {
    /// Requirements on labels.
    #[serde(deserialize_with = "null_default")]
    pub match_expressions: Vec<Requirement>,
    /// Requirements on fields: only `metadata.name`.
    #[serde(deserialize_with = "null_default")]
    pub match_fields: Vec<Requirement>,
}

/// A requirement.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Requirement {
    /// Key.
    pub key: String,
    /// `In NotIn Exists DoesNotExist Gt Lt`.
    pub operator: String,
    /// Values.
    #[serde(deserialize_with = "null_default")]
    pub values: Vec<String>,
}

/// A toleration.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
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

/// A node.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct Node {
    /// Metadata.
    pub metadata: Meta,
    /// Spec.
    pub spec: NodeSpec,
    /// Status.
    pub status: NodeStatus,
}

impl View for Node {
    const GROUP: &'static str = "";
    const VERSION: &'static str = "v1";
    const KIND: &'static str = "Node";
    const PLURAL: &'static str = "nodes";
    const NAMESPACED: bool = false;
    fn meta(&self) -> &Meta {
        &self.metadata
    }
}

/// `spec` of a node.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct NodeSpec {
    /// Cordoned.
    pub unschedulable: bool,
    /// Taints.
    #[serde(deserialize_with = "null_default")]
    pub taints: Vec<Taint>,
}

/// `status` of a node.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct NodeStatus {
    /// What pods may use.
    #[serde(deserialize_with = "null_default")]
    pub allocatable: BTreeMap<String, String>,
}
