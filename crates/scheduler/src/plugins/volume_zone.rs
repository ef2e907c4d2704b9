//! Volumes that are labelled with a zone are used there only. Upstream: `plugins/volumezone`.

use std::collections::BTreeSet;

use orkd_reconcile::Key;

use crate::cluster::Cluster;
use crate::framework::{Cx, Event, Plugin, Point, PreFilter, State, Verdicts};
use crate::pod::PodInfo;
use crate::storage::class_of_claim;

const REASON: &str = "node(s) had no available volume zone";

/// Old and present names of the labels.
const LABELS: [(&str, &str); 4] = [
    ("failure-domain.beta.kubernetes.io/zone", "topology.kubernetes.io/zone"),
    ("failure-domain.beta.kubernetes.io/region", "topology.kubernetes.io/region"),
    ("topology.kubernetes.io/zone", "topology.kubernetes.io/zone"),
    ("topology.kubernetes.io/region", "topology.kubernetes.io/region"),
];

/// See the module.
pub struct VolumeZone;

struct Bound {
    key: &'static str,
    present: &'static str,
    values: BTreeSet<String>,
}

impl Plugin for VolumeZone {
    fn name(&self) -> &'static str {
        "VolumeZone"
    }

    fn points(&self) -> &'static [Point] {
        &[Point::PreFilter, Point::Filter]
    }

    fn pre_filter(&self, cluster: &mut Cluster, pod: &PodInfo) -> PreFilter {
        let refuse = |reason: String| PreFilter::Refuse { reason, unresolvable: true };
        let storage = &cluster.storage;
        let mut bounds = Vec::new();
        for (name, _) in pod.claims().filter(|(_, is_own)| !is_own) {
            let key = Key { namespace: pod.meta.namespace.clone(), name: name.as_str().into() };
            let Some(claim) = storage.claim(&key) else {
                return refuse(format!("persistentvolumeclaim {name:?} not found"));
            };
            if claim.spec.volume_name.is_empty() {
                if class_of_claim(claim).is_empty() {
                    return refuse("PersistentVolumeClaim had no pv name and storageClass name".into());
                }
                match storage.waits_for_pod(claim) {
                    Ok(true) => continue,
                    Ok(false) => return refuse("PersistentVolume had no name".into()),
                    Err(why) => return refuse(why),
                }
            }
            let Some(volume) = storage.volume(&claim.spec.volume_name) else {
                return refuse(format!("persistentvolume {:?} not found", claim.spec.volume_name));
            };
            for (key, present) in LABELS {
                if let Some(value) = volume.metadata.labels.get(key) {
                    let values = value.split("__").map(|v| v.trim().to_owned()).collect();
                    bounds.push(Bound { key, present, values });
                }
            }
        }
        if bounds.is_empty() { PreFilter::Skip } else { PreFilter::Go(Box::new(bounds)) }
    }

    fn filter(&self, cx: &Cx<'_>, state: &State, candidates: &[u32], verdicts: &mut Verdicts) {
        let Some(bounds) = state.downcast_ref::<Vec<Bound>>() else { return };
        for i in candidates.iter().map(|i| *i as usize) {
            let labels = &cx.cluster.nodes.rows.labels[i];
            let is_zoned = LABELS.iter().any(|(key, _)| labels.contains_key(*key));
            let fits = |b: &Bound| {
                let value = labels.get(b.key).or_else(|| labels.get(b.present));
                value.is_some_and(|v| b.values.contains(v))
            };
            // A node without any zone is in a cluster without zones.
            if verdicts.is_fit(i) && is_zoned && !bounds.iter().all(fits) {
                let refusal = verdicts.refusal(self.name(), REASON, true);
                verdicts.refuse(i, refusal);
            }
        }
    }

    fn may_help(&self, event: Event<'_>, pod: &PodInfo, _cluster: &Cluster) -> bool {
        match event {
            Event::Node { change, .. } => change.added || change.labels,
            Event::Volume | Event::StorageClass => true,
            Event::Claim(namespace, name) => {
                *namespace == *pod.meta.namespace && pod.claims().any(|(claim, _)| claim == name)
            }
            _ => false,
        }
    }
}
