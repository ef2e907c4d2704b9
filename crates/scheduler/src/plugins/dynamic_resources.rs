//! Pods with claims of devices: devices are found for claims that have none, and a pod goes where the devices of its
//! claims can be used. Upstream: `plugins/dynamicresources`.
//!
//! What a pod's claims want is worked out once before nodes are filtered ([`plan`](crate::devices::plan)); the
//! [`allocator`](crate::devices::allocator) then says for each node whether it has that. Nothing of it is kept: for the
//! node that is chosen the same is found again, and held ([`Devices`](crate::devices::Devices)) until the binding has
//! written it ([`crate::bind_claims`]).

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use serde::Deserialize;

use crate::bind_claims::ClaimBinder;
use crate::cluster::Cluster;
use crate::cycle::{Trial, Unfit};
use crate::devices::allocator::{Budget, Problem, allocate};
use crate::devices::catalogue::NodeAt;
use crate::devices::extended::{Made, is_made, made};
use crate::devices::plan::{Unplannable, Wanted};
use crate::devices::selectors::{Language, Selectors};
use crate::devices::{Decision, Readiness, is_free_for, is_overdue, is_reserved_for, readiness};
use crate::framework::{
    Act, Cx, Deed, Denied, Event, Plugin, Point, PostFilter, PreFilter, PreScore, State, Verdicts, normalize,
};
use crate::model::{Allocation, ResourceClaim};
use crate::pod::PodInfo;
use crate::selector::NodeTerms;

const CANNOT_ALLOCATE: &str = "cannot allocate all claims";
const NOT_AVAILABLE: &str = "resourceclaim not available on the node";
const TIMED_OUT: &str = "timed out trying to allocate devices";
const NOTHING_TO_FREE: &str = "no new claims to deallocate";
const STALE: &str = "cannot schedule extended resource claim";
const DELETED: &str = "deletion of ResourceClaim completed";
const FREED: &str = "deallocation of ResourceClaim completed";
const STILL_NOT: &str = "still not schedulable";

/// What a second of `filterTimeout` is worth, in looks at devices: cycles have no clock.
const LOOKS_A_SECOND: u64 = 20_000;

/// How many nodes may use up their looks in one cycle.
const NODES_WORTH: u64 = 16;

/// The most alternatives of a request (`resourceapi.FirstAvailableDeviceRequestMaxSize`).
const MOST_ALTERNATIVES: usize = 8;

/// `DynamicResourcesArgs`.
#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Args {
    /// How long the search for devices may take on one node; 0 for no limit.
    pub filter_timeout: Option<kube::core::Duration>,
    /// How long devices that have to be prepared are waited for.
    pub binding_timeout: Option<kube::core::Duration>,
}

/// See the module.
pub struct DynamicResources {
    selectors: Selectors,
    binder: Option<ClaimBinder>,
    looks: u64,
    binding_timeout: Duration,
}

/// By the resources that a node gives as devices: the claim that is to be made, and what it wants.
type Plans = HashMap<Vec<String>, Option<Arc<(Made, Wanted)>>>;

/// What is kept for a cycle.
struct Cycle {
    /// Claims with devices, and the nodes that those can be used on.
    allocated: Vec<(Arc<ResourceClaim>, Option<NodeTerms>)>,
    /// What the others want.
    wanted: Vec<Wanted>,
    /// A claim that was made for the pod in an earlier cycle: it has to go first.
    stale: Option<Arc<ResourceClaim>>,
    /// Extended resources that classes stand for, with those.
    extended: BTreeMap<String, String>,
    /// The claims that are to be made.
    made: Mutex<Plans>,
    /// How many looks at devices are left for all nodes.
    looks: Mutex<u64>,
}

impl DynamicResources {
    /// With arguments, what selectors are written in, and what writes; without that, nothing is ever bound.
    pub fn new(args: &Args, language: Box<dyn Language>, binder: Option<ClaimBinder>) -> DynamicResources {
        let or =
            |said: Option<kube::core::Duration>, seconds| said.map_or(Duration::from_secs(seconds), Duration::from);
        let looks = match or(args.filter_timeout, 10) {
            Duration::ZERO => u64::MAX,
            limit => (limit.as_secs_f64() * LOOKS_A_SECOND as f64).ceil() as u64,
        };
        let binding_timeout = or(args.binding_timeout, 600);
        DynamicResources { selectors: Selectors::new(language), binder, looks, binding_timeout }
    }

    /// What the claims of a pod come to; `None` if there are none.
    fn cycle(&self, cluster: &Cluster, pod: &PodInfo) -> Result<Option<Cycle>, Unplannable> {
        if !uses_devices(pod) {
            return Ok(None);
        }
        let devices = &cluster.devices;
        let claims = devices.claims_of(pod).map_err(Unplannable::Refused)?;
        let extended = extended(cluster, pod);
        if claims.is_empty() && extended.is_empty() {
            return Ok(None);
        }
        let mut cycle = Cycle {
            allocated: Vec::new(),
            wanted: Vec::new(),
            stale: devices.made_for(pod).filter(|_| !extended.is_empty()).cloned(),
            extended,
            made: Mutex::default(),
            looks: Mutex::new(self.looks.saturating_mul(NODES_WORTH)),
        };
        for claim in claims {
            if let Some(allocation) = &claim.status.allocation {
                let nodes = allocation.node_selector.as_ref().map(NodeTerms::new);
                cycle.allocated.push((claim, nodes));
                continue;
            }
            if devices.is_pending(&claim) {
                let key = claim.metadata.key();
                let why = format!("resource claim {key} is in the process of being allocated");
                return Err(Unplannable::Refused(why));
            }
            cycle.wanted.push(Wanted::new(&claim, devices, &self.selectors)?);
        }
        Ok(Some(cycle))
    }

    /// The claim that is to be made for a node.
    fn made(&self, cluster: &Cluster, pod: &PodInfo, cycle: &Cycle, node: usize) -> Option<Arc<(Made, Wanted)>> {
        if cycle.extended.is_empty() {
            return None;
        }
        let nodes = &cluster.nodes;
        let has = |resource: &String| nodes.resource(resource).map_or(0, |c| nodes.rows.allocatable[c][node]);
        let given: BTreeMap<_, _> = cycle.extended.iter().filter(|(resource, _)| has(resource) == 0).collect();
        let key: Vec<String> = given.keys().map(|resource| (*resource).clone()).collect();
        let make = || {
            let given = given.into_iter().map(|(resource, class)| (resource.clone(), class.clone())).collect();
            let made = made(&pod.template.extended, &given);
            let wanted = made.wanted(pod, &cluster.devices, &self.selectors)?;
            (!made.requests.is_empty()).then(|| Arc::new((made, wanted)))
        };
        cycle.made.lock().entry(key).or_insert_with(make).clone()
    }

    /// Finds devices on a node: for each claim, and last for the one that is to be made.
    fn find(
        &self,
        cluster: &Cluster,
        pod: &PodInfo,
        cycle: &Cycle,
        node: usize,
    ) -> Result<Option<Vec<Allocation>>, Problem> {
        let made = self.made(cluster, pod, cycle, node);
        let wanted: Vec<&Wanted> = cycle.wanted.iter().chain(made.as_deref().map(|(_, wanted)| wanted)).collect();
        if wanted.is_empty() {
            return Ok(Some(Vec::new()));
        }
        let rows = &cluster.nodes.rows;
        let node = NodeAt { name: rows.name(node), labels: &rows.labels[node] };
        let mut left = cycle.looks.lock();
        let share = self.looks.min(*left);
        let budget = Budget::new(share);
        let found = allocate(&cluster.devices.catalogue, &cluster.devices.taken, node, &wanted, &budget);
        *left -= share - budget.left();
        found
    }

    /// Whether a claim's devices can be used on a node.
    fn can_be_used(&self, cluster: &Cluster, claim: &ResourceClaim, nodes: Option<&NodeTerms>, node: usize) -> bool {
        let rows = &cluster.nodes.rows;
        nodes.is_none_or(|nodes| nodes.matches(rows.name(node), &rows.labels[node]))
            && match readiness(claim) {
                Readiness::Ready => true,
                Readiness::Waits => !is_overdue(claim, self.binding_timeout, cluster.devices.now),
                Readiness::Failed(_) => false,
            }
    }
}

/// How good the alternatives are that were found (`computeScore`).
fn points(wanted: &[Wanted], found: &[Allocation]) -> i64 {
    let mut points = 0;
    for (claim, allocation) in wanted.iter().zip(found) {
        for request in claim.requests.iter().filter(|r| r.is_list) {
            let is_used = |reference: &String| allocation.devices.results.iter().any(|r| r.request == *reference);
            let used = request.alternatives.iter().position(|a| is_used(&a.reference));
            points += used.map_or(0, |at| MOST_ALTERNATIVES.saturating_sub(at) as i64);
        }
    }
    points
}

/// A name for a share of a device.
fn share_id() -> String {
    uuid::Uuid::new_v4().to_string()
}

/// Whether a pod may have to do with devices.
fn uses_devices(pod: &PodInfo) -> bool {
    !pod.template.resource_claims.is_empty() || !pod.template.extended.is_empty()
}

/// The extended resources of a pod that classes stand for, with those.
fn extended(cluster: &Cluster, pod: &PodInfo) -> BTreeMap<String, String> {
    let all = pod.template.extended.iter().flat_map(|n| &n.wants);
    let class = |resource: &String| Some(cluster.devices.class_for(resource)?.metadata.name.to_string());
    all.filter_map(|(resource, ..)| Some((resource.clone(), class(resource)?))).collect()
}

impl Plugin for DynamicResources {
    fn name(&self) -> &'static str {
        "DynamicResources"
    }

    fn points(&self) -> &'static [Point] {
        &[
            Point::PreEnqueue,
            Point::PreFilter,
            Point::Filter,
            Point::PostFilter,
            Point::PreScore,
            Point::Score,
            Point::Reserve,
            Point::PreBind,
        ]
    }

    fn pre_enqueue(&self, cluster: &Cluster, pod: &PodInfo) -> Option<String> {
        if pod.template.resource_claims.is_empty() { None } else { cluster.devices.claims_of(pod).err() }
    }

    fn pre_filter(&self, cluster: &mut Cluster, pod: &PodInfo) -> PreFilter {
        match self.cycle(cluster, pod) {
            Ok(None) => PreFilter::Skip,
            Ok(Some(cycle)) => PreFilter::Go(Box::new(cycle)),
            Err(Unplannable::Refused(reason)) => PreFilter::Refuse { reason, unresolvable: true },
            Err(Unplannable::Failed(why)) => PreFilter::Fail(why),
        }
    }

    fn filter(&self, cx: &Cx<'_>, state: &State, candidates: &[u32], verdicts: &mut Verdicts) {
        let Some(cycle) = state.downcast_ref::<Cycle>() else { return };
        for i in candidates.iter().map(|i| *i as usize) {
            if !verdicts.is_fit(i) {
                continue;
            }
            if cycle.stale.is_some() {
                let refusal = verdicts.refusal(self.name(), STALE, true);
                verdicts.refuse(i, refusal);
                continue;
            }
            let reason = match self.find(cx.cluster, cx.pod, cycle, i) {
                Err(Problem::Failed(why)) => {
                    verdicts.fail(self.name(), why);
                    return;
                }
                Err(Problem::OnNode(why)) => why.into(),
                Err(Problem::Exhausted) => TIMED_OUT.into(),
                Ok(None) => CANNOT_ALLOCATE.into(),
                Ok(Some(_)) => {
                    let can = |(claim, nodes): &(Arc<ResourceClaim>, Option<NodeTerms>)| {
                        self.can_be_used(cx.cluster, claim, nodes.as_ref(), i)
                    };
                    if cycle.allocated.iter().all(can) {
                        continue;
                    }
                    std::borrow::Cow::Borrowed(NOT_AVAILABLE)
                }
            };
            let refusal = verdicts.refusal(self.name(), reason, true);
            verdicts.refuse(i, refusal);
        }
    }

    fn pre_score(&self, cluster: &mut Cluster, pod: &PodInfo, feasible: &[u32]) -> PreScore {
        let Ok(Some(cycle)) = self.cycle(cluster, pod) else { return PreScore::Skip };
        if !cycle.wanted.iter().flat_map(|w| &w.requests).any(|r| r.is_list) {
            return PreScore::Skip;
        }
        let rate = |i: &u32| match self.find(cluster, pod, &cycle, *i as usize) {
            Ok(Some(found)) => (*i, points(&cycle.wanted, &found)),
            _ => (*i, 0),
        };
        PreScore::Go(Box::new(feasible.iter().map(rate).collect::<HashMap<u32, i64>>()))
    }

    fn score(&self, _cx: &Cx<'_>, state: &State, nodes: &[u32], scores: &mut [i64]) {
        let Some(points) = state.downcast_ref::<HashMap<u32, i64>>() else { return };
        for (score, i) in scores.iter_mut().zip(nodes) {
            *score = points.get(i).copied().unwrap_or(0);
        }
    }

    fn normalizes(&self) -> bool {
        true
    }

    fn normalize(&self, _cx: &Cx<'_>, _state: &State, _nodes: &[u32], scores: &mut [i64]) {
        normalize(scores, false);
    }

    fn post_filter(&self, trial: &mut Trial<'_>, _unfit: &Unfit) -> PostFilter {
        let nothing = |text: &str| PostFilter::Nothing(text.to_owned());
        if !uses_devices(trial.pod) {
            return nothing(NOTHING_TO_FREE);
        }
        let order = trial.cluster.nodes.order();
        let Ok(Some(cycle)) = self.cycle(trial.cluster, trial.pod) else { return nothing(NOTHING_TO_FREE) };
        let is_in_the_way = |(claim, nodes): &&(Arc<ResourceClaim>, Option<NodeTerms>)| {
            is_free_for(claim, trial.pod)
                && order.iter().any(|i| !self.can_be_used(trial.cluster, claim, nodes.as_ref(), *i as usize))
        };
        let Some(binder) = self.binder.clone() else { return nothing(STILL_NOT) };
        if let Some(stale) = cycle.stale {
            let act: Act = Box::pin(async move { binder.delete(&stale).await });
            return PostFilter::Doing(DELETED.to_owned(), Deed(act));
        }
        let Some((claim, _)) = cycle.allocated.iter().find(is_in_the_way) else { return nothing(STILL_NOT) };
        let claim = claim.clone();
        let act: Act = Box::pin(async move { binder.deallocate(&claim).await });
        PostFilter::Doing(FREED.to_owned(), Deed(act))
    }

    fn reserve(&self, cluster: &mut Cluster, pod: &Arc<PodInfo>, node: usize) -> Result<(), Denied> {
        let cycle = match self.cycle(cluster, pod) {
            Ok(None) => return Ok(()),
            Ok(Some(cycle)) => cycle,
            Err(Unplannable::Refused(why) | Unplannable::Failed(why)) => return Err(Denied::Failed(why)),
        };
        let mut found = match self.find(cluster, pod, &cycle, node) {
            Ok(Some(found)) => found,
            Ok(None) => return Err(Denied::Failed("claim allocation not found for node".into())),
            Err(Problem::Failed(why) | Problem::OnNode(why)) => return Err(Denied::Failed(why)),
            Err(Problem::Exhausted) => return Err(Denied::Failed(TIMED_OUT.into())),
        };
        let shares = found.iter_mut().flat_map(|a| &mut a.devices.results).filter_map(|r| r.share_id.as_mut());
        shares.for_each(|id| *id = share_id());
        let made = self.made(cluster, pod, &cycle, node);
        let made = made.and_then(|made| Some((made.0.clone(), found.pop()?)));
        let mut claims: Vec<_> = cycle.allocated.into_iter().map(|(claim, _)| (claim, None)).collect();
        for (wanted, allocation) in cycle.wanted.iter().zip(found) {
            let Some(claim) = cluster.devices.claim(&wanted.key) else { continue };
            claims.push((claim.clone(), Some(allocation)));
        }
        if !claims.is_empty() || made.is_some() {
            cluster.devices.assume(pod, Decision { claims, made });
        }
        Ok(())
    }

    fn unreserve(&self, cluster: &mut Cluster, pod: &PodInfo) {
        let Some(decision) = cluster.devices.forget(pod.uid()) else { return };
        let Some(binder) = &self.binder else { return };
        if let Some(made) = cluster.devices.made_for(pod) {
            binder.delete_in_background(made);
        }
        // What was written by now is taken back; devices that were found stay with their claims.
        for (claim, _) in &decision.claims {
            if let Some(now) = cluster.devices.claim(&claim.metadata.key()).filter(|now| is_reserved_for(now, pod)) {
                binder.release(now, pod);
            }
        }
    }

    fn pre_bind(&self, cluster: &Cluster, pod: &Arc<PodInfo>, node: &str) -> Option<Act> {
        let decision = cluster.devices.decision(pod.uid())?.clone();
        let (binder, pod, node) = (self.binder.clone()?, pod.clone(), node.to_owned());
        let timeout = self.binding_timeout;
        Some(Box::pin(async move { binder.bind(&pod, &node, decision, timeout).await }))
    }

    fn may_help(&self, event: Event<'_>, pod: &PodInfo, cluster: &Cluster) -> bool {
        let claims = || cluster.devices.claims_of(pod);
        match event {
            // A resource that the node has itself now needs no device.
            Event::Node { change, .. } => change.added || change.labels || change.allocatable,
            Event::Devices => claims().is_ok(),
            Event::DeviceClaim { claim, old } => {
                let Ok(claims) = claims() else { return false };
                let freed = old.is_some_and(|o| o.status.allocation.is_some()) && claim.status.allocation.is_none();
                let own = claims.iter().any(|c| c.metadata.uid == claim.metadata.uid);
                let made = claim.metadata.is_controlled_by(pod.uid()) && is_made(claim);
                freed || (own || made) && old.is_none_or(|old| old.status != claim.status)
            }
            // A claim was made for it.
            Event::Itself { old, new } => old.claim_statuses != new.claim_statuses,
            // Its claims were not written, or are not any more.
            Event::PodGone(gone) => uses_devices(gone),
            _ => false,
        }
    }
}
