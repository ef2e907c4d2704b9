//! What a plugin is (`k8s.io/kube-scheduler/framework`), on arrays of nodes.
//!
//! A plugin implements the extension points it names in [`Plugin::points`]; a [`crate::profile::Profile`] lists, for
//! each point, the plugins that are called there, in order. The points of one pod: `PreEnqueue` before it may wait in
//! line, `QueueSort` for its place there; `PreFilter`, `Filter`, `PostFilter` (when no node is left), `PreScore`,
//! `Score` and `NormalizeScore` in its cycle; `Reserve`, `Permit`, `PreBind`, `Bind`, `PostBind` on its way to the node.
//!
//! What is tried out (a pod placed or taken away for a moment) changes the [`Cluster`] itself and is reversed, so
//! plugins need no copies of it: the state they keep for a cycle holds numbers of tables, not counts.

use std::any::Any;
use std::borrow::Cow;
use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;

use crate::cluster::Cluster;
use crate::cycle::{Trial, Unfit};
use crate::model::ResourceClaim;
use crate::nodes::NodeChange;
use crate::plugins::scheduling_gates;
use crate::pod::{PodInfo, Template};

/// An extension point.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Point {
    /// May a pod wait in line at all?
    PreEnqueue,
    /// Whose turn is it?
    QueueSort,
    /// What can be known before any node is looked at.
    PreFilter,
    /// Will a node do?
    Filter,
    /// No node does: can that be changed?
    PostFilter,
    /// What can be known before any node is rated.
    PreScore,
    /// How good is a node?
    Score,
    /// A node was chosen: what of it is taken?
    Reserve,
    /// May the pod go there now?
    Permit,
    /// What must be done before it goes.
    PreBind,
    /// Sends it.
    Bind,
    /// It went.
    PostBind,
}

impl Point {
    /// All of them.
    pub const ALL: [Point; 12] = [
        Point::PreEnqueue,
        Point::QueueSort,
        Point::PreFilter,
        Point::Filter,
        Point::PostFilter,
        Point::PreScore,
        Point::Score,
        Point::Reserve,
        Point::Permit,
        Point::PreBind,
        Point::Bind,
        Point::PostBind,
    ];
}

/// Why a node was refused. The text is what users see, with the number of nodes in front.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// Name of the plugin.
    pub plugin: &'static str,
    /// Text, such as `node(s) were unschedulable`.
    pub reason: Cow<'static, str>,
    /// Whether removing pods from the node could not help either (`UnschedulableAndUnresolvable`).
    pub unresolvable: bool,
}

/// What the filters say of every node: for each node a set of refusals, empty for a node that will do.
#[derive(Debug, Default)]
pub struct Verdicts {
    refusals: Vec<Refusal>,
    /// By position: bit `b` is set for refusal `b`.
    of: Vec<u64>,
    /// Why nothing can be said of any node.
    failure: Option<String>,
}

impl Verdicts {
    /// Nothing refused yet, for so many nodes.
    pub fn new(nodes: usize) -> Verdicts {
        Verdicts { of: vec![0; nodes], ..Verdicts::default() }
    }

    /// Forgets everything; for so many nodes.
    pub fn reset(&mut self, nodes: usize) {
        self.refusals.clear();
        self.of.clear();
        self.of.resize(nodes, 0);
        self.failure = None;
    }

    /// A plugin can say nothing of any node: the pod is to be tried again.
    pub fn fail(&mut self, plugin: &'static str, why: impl std::fmt::Display) {
        self.failure.get_or_insert_with(|| format!("running {plugin:?} filter plugin: {why}"));
    }

    /// Why nothing can be said of any node.
    pub fn failure(&self) -> Option<&String> {
        self.failure.as_ref()
    }

    /// Makes room for so many nodes.
    pub fn grow(&mut self, nodes: usize) {
        if self.of.len() < nodes {
            self.of.resize(nodes, 0);
        }
    }

    /// Forgets what was held against a node.
    pub fn clear(&mut self, node: usize) {
        self.of[node] = 0;
    }

    /// The number of a refusal, to be given to [`Verdicts::refuse`]. More than 64 different ones share the last.
    pub fn refusal(&mut self, plugin: &'static str, reason: impl Into<Cow<'static, str>>, unresolvable: bool) -> u32 {
        let refusal = Refusal { plugin, reason: reason.into(), unresolvable };
        let at = match self.refusals.iter().position(|r| *r == refusal) {
            Some(at) => at,
            None => {
                self.refusals.push(refusal);
                self.refusals.len() - 1
            }
        };
        if at >= 64 {
            self.refusals.truncate(64);
        }
        at.min(63) as u32
    }

    /// Refuses a node.
    pub fn refuse(&mut self, node: usize, refusal: u32) {
        self.of[node] |= 1 << refusal;
    }

    /// Whether nothing is held against a node.
    pub fn is_fit(&self, node: usize) -> bool {
        self.of[node] == 0
    }

    /// What is held against a node.
    pub fn of(&self, node: usize) -> impl Iterator<Item = &Refusal> {
        let bits = self.of.get(node).copied().unwrap_or(0);
        self.refusals.iter().enumerate().filter(move |(b, _)| bits & (1 << b) != 0).map(|(_, r)| r)
    }

    /// Whether the refusal of a node could be lifted by removing pods from it.
    pub fn is_resolvable(&self, node: usize) -> bool {
        !self.is_fit(node) && !self.of(node).any(|r| r.unresolvable)
    }

    /// Counts what is held against some nodes, by text; adds the plugins that hold it.
    pub fn count(
        &self,
        nodes: impl Iterator<Item = usize>,
        reasons: &mut BTreeMap<String, usize>,
        plugins: &mut Vec<&'static str>,
    ) {
        let mut counts = [0usize; 64];
        for node in nodes {
            let mut bits = self.of.get(node).copied().unwrap_or(0);
            while bits != 0 {
                counts[bits.trailing_zeros() as usize] += 1;
                bits &= bits - 1;
            }
        }
        for (refusal, count) in self.refusals.iter().zip(counts).filter(|(_, count)| *count > 0) {
            *reasons.entry(refusal.reason.to_string()).or_default() += count;
            if !plugins.contains(&refusal.plugin) {
                plugins.push(refusal.plugin);
            }
        }
    }
}

/// What a plugin keeps for the rest of the cycle.
pub type State = Box<dyn Any + Send + Sync>;

/// A state that is not there.
pub fn no_state() -> State {
    Box::new(())
}

/// What a plugin says before filtering.
pub enum PreFilter {
    /// It has nothing against any node.
    Skip,
    /// Nodes must be filtered.
    Go(State),
    /// Nodes must be filtered, and only those of these names can do at all.
    Only(State, Vec<String>),
    /// No node will do.
    Refuse {
        /// Why.
        reason: String,
        /// Whether removing pods could not help either.
        unresolvable: bool,
    },
    /// It cannot be said now: try again.
    Fail(String),
}

/// What a plugin says before scoring.
pub enum PreScore {
    /// It rates all nodes the same.
    Skip,
    /// Nodes must be rated.
    Go(State),
}

/// Pods that would have to go from a node.
#[derive(Clone, Debug)]
pub struct Candidate {
    /// The node's position.
    pub node: u32,
    /// The pods, the most important first.
    pub victims: Vec<Arc<PodInfo>>,
    /// How many of them break a disruption budget.
    pub violations: usize,
}

/// What a plugin can do when no node does.
#[derive(Debug)]
pub enum PostFilter {
    /// Room can be made on one of these nodes.
    Room(Vec<Candidate>),
    /// This, after which it is tried again; the text tells what was done.
    Doing(String, Deed),
    /// Nothing; the text tells why. The pod's nomination stays.
    Nothing(String),
    /// Nothing; the text tells why. The pod's nomination is of no use.
    Hopeless(String),
}

/// Why a chosen node is not to be had after all.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Denied {
    /// The pod is not to go there.
    Refused(String),
    /// Something failed.
    Failed(String),
}

/// What a plugin says before a pod goes to its node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Permit {
    /// It may go.
    Allow,
    /// It is to wait, so long at most, until the plugin gives leave ([`crate::waiting::WaitingPods::allow`]).
    Wait(Duration),
    /// It may not go.
    Deny(Denied),
}

/// Something happened that may let a waiting pod be scheduled.
#[derive(Clone, Copy, Debug)]
pub enum Event<'a> {
    /// A node came or changed.
    Node {
        /// Its position now.
        position: usize,
        /// What changed.
        change: NodeChange,
    },
    /// A node went away.
    NodeGone,
    /// A pod was placed on a node.
    PodPlaced(&'a PodInfo),
    /// A placed pod has other labels or takes less.
    PodChanged {
        /// Before.
        old: &'a PodInfo,
        /// Now.
        new: &'a PodInfo,
    },
    /// A pod went away from a node.
    PodGone(&'a PodInfo),
    /// The waiting pod itself is another.
    Itself {
        /// Before.
        old: &'a PodInfo,
        /// Now.
        new: &'a PodInfo,
    },
    /// A claim for a volume came or changed: namespace and name.
    Claim(&'a str, &'a str),
    /// A volume came or changed.
    Volume,
    /// A storage class came or changed.
    StorageClass,
    /// What CSI drivers say of a node changed.
    CsiNode {
        /// Nothing was known of the node before.
        added: bool,
        /// A driver allows more volumes than before.
        grew: bool,
    },
    /// A CSI driver changed.
    CsiDriver,
    /// Free capacity came or grew.
    CsiCapacity,
    /// A volume was detached.
    Detached,
    /// A claim of devices came or changed.
    DeviceClaim {
        /// The claim.
        claim: &'a ResourceClaim,
        /// What it was before.
        old: Option<&'a ResourceClaim>,
    },
    /// Devices or classes of devices came or changed.
    Devices,
    /// A namespace has other labels.
    Namespace,
}

impl Event<'_> {
    /// Whether a plugin can have any use of such an event; it saves asking for each waiting pod.
    pub fn concerns(&self, plugin: &str) -> bool {
        match self {
            // Nothing but a change of the pod itself lifts a gate.
            _ if plugin == scheduling_gates::NAME => false,
            Event::PodPlaced(_) => matches!(plugin, "InterPodAffinity" | "PodTopologySpread"),
            _ => true,
        }
    }

    /// What metrics call it (`ClusterEvent.Label`).
    pub fn label(&self) -> &'static str {
        match self {
            Event::Node { change, .. } => match change {
                NodeChange { added: true, .. } => "NodeAdd",
                NodeChange { allocatable: true, .. } => "NodeUpdateNodeAllocatable",
                NodeChange { labels: true, .. } => "NodeUpdateNodeLabel",
                NodeChange { features: true, .. } => "NodeUpdateNodeDeclaredFeature",
                _ => "NodeUpdateNodeTaint",
            },
            Event::NodeGone => "NodeDelete",
            Event::PodPlaced(_) => "AssignedPodAdd",
            Event::PodChanged { .. } => "AssignedPodUpdate",
            Event::PodGone(_) => "AssignedPodDelete",
            Event::Itself { .. } => "UnscheduledPodUpdate",
            Event::Claim(..) => "PersistentVolumeClaimUpdate",
            Event::Volume => "PersistentVolumeUpdate",
            Event::StorageClass => "storage.k8s.io/StorageClassUpdate",
            Event::CsiNode { added: true, .. } => "storage.k8s.io/CSINodeAdd",
            Event::CsiNode { .. } => "storage.k8s.io/CSINodeUpdate",
            Event::CsiDriver => "storage.k8s.io/CSIDriverUpdate",
            Event::CsiCapacity => "storage.k8s.io/CSIStorageCapacityUpdate",
            Event::Detached => "storage.k8s.io/VolumeAttachmentDelete",
            Event::DeviceClaim { .. } => "resource.k8s.io/ResourceClaimUpdate",
            Event::Devices => "resource.k8s.io/ResourceSliceUpdate",
            Event::Namespace => "NamespaceUpdate",
        }
    }
}

/// What is asked of the API while a pod is on its way.
pub type Act = BoxFuture<'static, Result<(), String>>;

/// What is asked of the API when no node does.
pub struct Deed(pub Act);

impl std::fmt::Debug for Deed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Deed")
    }
}

/// A plugin. Each method is one extension point and is called only if [`Plugin::points`] names it.
pub trait Plugin: Send + Sync {
    /// Upstream's name of the plugin.
    fn name(&self) -> &'static str;

    /// The extension points it implements.
    fn points(&self) -> &'static [Point];

    /// Whether filter and score look at nothing but the pod's template and the node's own row, so that their results
    /// hold for equal pods until the row changes.
    fn is_local(&self) -> bool {
        false
    }

    /// Why a pod may not wait in line; `None` if it may.
    fn pre_enqueue(&self, _cluster: &Cluster, _pod: &PodInfo) -> Option<String> {
        None
    }

    /// Which of two pods goes first.
    fn order(&self, _a: &Waiting<'_>, _b: &Waiting<'_>) -> Ordering {
        Ordering::Equal
    }

    /// What can be known before any node is looked at.
    fn pre_filter(&self, _cluster: &mut Cluster, _pod: &PodInfo) -> PreFilter {
        PreFilter::Go(no_state())
    }

    /// Judges those of `candidates` (positions) against which nothing is held yet.
    fn filter(&self, _cx: &Cx<'_>, _state: &State, _candidates: &[u32], _verdicts: &mut Verdicts) {}

    /// What can be known before any node is rated; `feasible` are the nodes that will do.
    fn pre_score(&self, _cluster: &mut Cluster, _pod: &PodInfo, _feasible: &[u32]) -> PreScore {
        PreScore::Go(no_state())
    }

    /// Rates nodes; `scores` has their length and is zero.
    fn score(&self, _cx: &Cx<'_>, _state: &State, _nodes: &[u32], _scores: &mut [i64]) {}

    /// Whether [`Plugin::normalize`] changes anything.
    fn normalizes(&self) -> bool {
        false
    }

    /// Brings the ratings of all nodes that will do into the range from 0 to [`MAX_SCORE`].
    fn normalize(&self, _cx: &Cx<'_>, _state: &State, _nodes: &[u32], _scores: &mut [i64]) {}

    /// No node does: what can be done about it. Plugins are asked in order until one knows a way.
    fn post_filter(&self, _trial: &mut Trial<'_>, _unfit: &Unfit) -> PostFilter {
        PostFilter::Nothing(String::new())
    }

    /// Takes what the pod needs of a node.
    ///
    /// # Errors
    /// It is not there any more.
    fn reserve(&self, _cluster: &mut Cluster, _pod: &Arc<PodInfo>, _node: usize) -> Result<(), Denied> {
        Ok(())
    }

    /// Gives back what was taken; also called when nothing was.
    fn unreserve(&self, _cluster: &mut Cluster, _pod: &PodInfo) {}

    /// Whether the pod may go to its node. A plugin that has a pod wait names itself to whom it gives leave or refuses
    /// it later, in a call about another pod: [`Cluster::waiting`].
    fn permit(&self, _cluster: &mut Cluster, _pod: &Arc<PodInfo>, _node: usize) -> Permit {
        Permit::Allow
    }

    /// What must be done before the pod goes to its node; `None` for nothing.
    fn pre_bind(&self, _cluster: &Cluster, _pod: &Arc<PodInfo>, _node: &str) -> Option<Act> {
        None
    }

    /// Sends the pod to its node; `None` leaves that to the next plugin.
    fn bind(&self, _cluster: &Cluster, _pod: &Arc<PodInfo>, _node: &str) -> Option<Act> {
        None
    }

    /// The pod was sent to its node.
    fn post_bind(&self, _cluster: &Cluster, _pod: &PodInfo, _node: &str) {}

    /// Whether a pod that this plugin refused everywhere should be tried again after an event (a queueing hint).
    fn may_help(&self, _event: Event<'_>, _pod: &PodInfo, _cluster: &Cluster) -> bool {
        false
    }
}

/// What a filter or a score looks at.
pub struct Cx<'a> {
    /// The cluster.
    pub cluster: &'a Cluster,
    /// The pod.
    pub pod: &'a PodInfo,
    /// How many nodes there are.
    pub nodes: usize,
}

impl<'a> Cx<'a> {
    /// What the pod shares with equal ones.
    pub fn template(&self) -> &'a Template {
        &self.pod.template
    }
}

/// A pod in line.
pub struct Waiting<'a> {
    /// The pod.
    pub pod: &'a PodInfo,
    /// Since when it waits: a smaller number came earlier.
    pub arrived: u64,
}

/// The best score of a node.
pub const MAX_SCORE: i64 = 100;

/// Scales scores so that the largest is [`MAX_SCORE`]; `reverse` makes the largest the worst
/// (`helper.DefaultNormalizeScore`).
pub fn normalize(scores: &mut [i64], reverse: bool) {
    let max = scores.iter().copied().max().unwrap_or(0);
    for score in scores {
        let scaled = if max == 0 { 0 } else { MAX_SCORE * *score / max };
        *score = if reverse { MAX_SCORE - scaled } else { scaled };
    }
}
