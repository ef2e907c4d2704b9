//! CSI drivers limit how many volumes a node may have. Upstream: `plugins/nodevolumelimits/csi.go`.

use std::collections::{BTreeMap, BTreeSet};

use orkd_reconcile::Key;

use crate::cluster::Cluster;
use crate::framework::{Cx, Event, Plugin, Point, PreFilter, State, Verdicts};
use crate::pod::PodInfo;

const REASON: &str = "node(s) exceed max volume count";

/// See the module.
pub struct NodeVolumeLimits;

/// Volumes by driver.
type Volumes = BTreeMap<String, BTreeSet<String>>;

fn volumes_of(cluster: &Cluster, pod: &PodInfo, into: &mut Volumes) {
    for (name, _) in pod.claims() {
        let key = Key { namespace: pod.meta.namespace.clone(), name: name.as_str().into() };
        let volume = cluster.storage.claim(&key).and_then(|claim| cluster.storage.csi_volume(claim));
        if let Some((driver, handle)) = volume {
            into.entry(driver).or_default().insert(handle);
        }
    }
}

impl Plugin for NodeVolumeLimits {
    fn name(&self) -> &'static str {
        "NodeVolumeLimits"
    }

    fn points(&self) -> &'static [Point] {
        &[Point::PreFilter, Point::Filter]
    }

    fn pre_filter(&self, cluster: &mut Cluster, pod: &PodInfo) -> PreFilter {
        let mut volumes = Volumes::new();
        volumes_of(cluster, pod, &mut volumes);
        if volumes.is_empty() { PreFilter::Skip } else { PreFilter::Go(Box::new(volumes)) }
    }

    fn filter(&self, cx: &Cx<'_>, state: &State, candidates: &[u32], verdicts: &mut Verdicts) {
        let Some(wanted) = state.downcast_ref::<Volumes>() else { return };
        let rows = &cx.cluster.nodes.rows;
        for i in candidates.iter().map(|i| *i as usize) {
            if !verdicts.is_fit(i) {
                continue;
            }
            let Some(said) = cx.cluster.storage.csi_nodes.get(rows.name(i)) else { continue };
            let limits: Vec<_> = (said.spec.drivers.iter())
                .filter_map(|d| Some((wanted.get(&d.name)?, &d.name, d.allocatable.count?)))
                .collect();
            if limits.is_empty() {
                continue;
            }
            let mut there = Volumes::new();
            rows.pods[i].iter().for_each(|p| volumes_of(cx.cluster, p, &mut there));
            let exceeds = limits.iter().any(|(wanted, driver, limit)| {
                let there = there.get(*driver);
                let new = wanted.iter().filter(|v| there.is_none_or(|t| !t.contains(*v))).count();
                new > 0 && (there.map_or(0, BTreeSet::len) + new) as i64 > *limit
            });
            if exceeds {
                let refusal = verdicts.refusal(self.name(), REASON, false);
                verdicts.refuse(i, refusal);
            }
        }
    }

    fn may_help(&self, event: Event<'_>, pod: &PodInfo, _cluster: &Cluster) -> bool {
        match event {
            Event::PodGone(gone) => gone.claims().next().is_some(),
            Event::CsiNode | Event::Detached => true,
            Event::Claim(namespace, name) => {
                *namespace == *pod.meta.namespace && pod.claims().any(|(claim, _)| claim == name)
            }
            _ => false,
        }
    }
}
