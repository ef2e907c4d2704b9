//! The volumes of a pod must be reachable from its node; claims that wait for a pod are bound for its node. Upstream:
//! `plugins/volumebinding`.

use std::sync::Arc;
use std::time::Duration;

use serde::Deserialize;

use super::node_resources_fit::ShapePoint;
use crate::bind_volumes::Binder;
use crate::cluster::Cluster;
use crate::framework::{Act, Cx, Denied, Event, Plugin, Point, PreFilter, State, Verdicts};
use crate::pod::PodInfo;
use crate::storage::{PodClaims, Unusable};

const UNBOUND: &str = "pod has unbound immediate PersistentVolumeClaims";

/// `VolumeBindingArgs`.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Args {
    /// How long binding may take.
    pub bind_timeout_seconds: i64,
    /// How full storage should be; needs the feature `StorageCapacityScoring`, which is alpha and off in v1.36.
    pub shape: Option<Vec<ShapePoint>>,
}

impl Default for Args {
    fn default() -> Self {
        Args { bind_timeout_seconds: 600, shape: None }
    }
}

/// See the module.
pub struct VolumeBinding {
    args: Args,
    binder: Option<Binder>,
}

impl VolumeBinding {
    /// With arguments, and what writes; without that, nothing is ever bound.
    pub fn new(args: Args, binder: Option<Binder>) -> VolumeBinding {
        VolumeBinding { args, binder }
    }
}

impl Plugin for VolumeBinding {
    fn name(&self) -> &'static str {
        "VolumeBinding"
    }

    fn points(&self) -> &'static [Point] {
        &[Point::PreFilter, Point::Filter, Point::Reserve, Point::PreBind]
    }

    fn pre_filter(&self, cluster: &mut Cluster, pod: &PodInfo) -> PreFilter {
        let refuse = |reason: String| PreFilter::Refuse { reason, unresolvable: true };
        match cluster.storage.claims_of(pod) {
            Ok(None) => PreFilter::Skip,
            Ok(Some(claims)) if !claims.immediate.is_empty() => refuse(UNBOUND.into()),
            Ok(Some(claims)) => PreFilter::Go(Box::new(claims)),
            Err(Unusable::Refused(why)) => refuse(why),
            Err(Unusable::Failed(why)) => PreFilter::Fail(why),
        }
    }

    fn filter(&self, cx: &Cx<'_>, state: &State, candidates: &[u32], verdicts: &mut Verdicts) {
        let Some(claims) = state.downcast_ref::<PodClaims>() else { return };
        let rows = &cx.cluster.nodes.rows;
        for i in candidates.iter().map(|i| *i as usize) {
            if !verdicts.is_fit(i) {
                continue;
            }
            if let Err(reasons) = cx.cluster.storage.decide(claims, rows.name(i), &rows.labels[i]) {
                for reason in reasons {
                    let refusal = verdicts.refusal(self.name(), reason, true);
                    verdicts.refuse(i, refusal);
                }
            }
        }
    }

    fn reserve(&self, cluster: &mut Cluster, pod: &Arc<PodInfo>, node: usize) -> Result<(), Denied> {
        let claims = match cluster.storage.claims_of(pod) {
            Ok(Some(claims)) if !claims.delayed.is_empty() => claims,
            Ok(_) => return Ok(()),
            Err(Unusable::Refused(why) | Unusable::Failed(why)) => return Err(Denied::Failed(why)),
        };
        let rows = &cluster.nodes.rows;
        let name = rows.name(node).to_owned();
        match cluster.storage.decide(&claims, &name, &rows.labels[node]) {
            Ok(decision) => {
                cluster.storage.assume(pod, &name, decision);
                Ok(())
            }
            Err(reasons) => Err(Denied::Refused(reasons.join(", "))),
        }
    }

    fn unreserve(&self, cluster: &mut Cluster, pod: &PodInfo) {
        cluster.storage.forget(pod.uid(), false);
    }

    fn pre_bind(&self, cluster: &Cluster, pod: &Arc<PodInfo>, node: &str) -> Option<Act> {
        let decision = cluster.storage.decision(pod.uid())?.clone();
        let labels = cluster.nodes.position(node).map(|i| cluster.nodes.rows.labels[i].clone()).unwrap_or_default();
        let timeout = Duration::from_secs(self.args.bind_timeout_seconds.max(1).unsigned_abs());
        let (binder, pod, node) = (self.binder.clone()?, pod.clone(), node.to_owned());
        Some(Box::pin(async move { binder.bind(&pod, &node, &labels, decision, timeout).await }))
    }

    fn may_help(&self, event: Event<'_>, pod: &PodInfo, _cluster: &Cluster) -> bool {
        match event {
            Event::Claim(namespace, name) => {
                *namespace == *pod.meta.namespace && pod.claims().any(|(claim, _)| claim == name)
            }
            Event::Node { change, .. } => change.added || change.labels,
            Event::Volume | Event::StorageClass | Event::CsiDriver | Event::CsiCapacity => true,
            Event::CsiNode { added, .. } => added,
            _ => false,
        }
    }
}
