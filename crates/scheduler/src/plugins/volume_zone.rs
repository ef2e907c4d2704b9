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

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use serde_json::{Value, json};

    use super::*;
    use crate::config::default_profile;
    use crate::cycle::{Algorithm, NotFound};
    use crate::nodes::tests::node;
    use crate::plugins::Doors;
    use crate::pod::tests::pod;

    const ZONE: &str = "topology.kubernetes.io/zone";

    /// A node of a zone (or of none), and a claim bound to a volume with labels.
    fn outcome(zone: Option<&str>, labels: &Value) -> String {
        let mut a = Algorithm::new(vec![default_profile(&Doors::default())]);
        let labelled = zone.map_or(json!({}), |z| json!({"metadata": {"labels": {ZONE: z}}}));
        a.cluster.nodes.set_node(&node("n", "4", labelled));
        let volume = json!({"metadata": {"name": "v", "labels": labels}, "spec": {}});
        a.cluster.storage.set_volume(&Arc::new(serde_json::from_value(volume).expect("a volume")));
        let claim = json!({"metadata": {"namespace": "default", "name": "c",
            "annotations": {"pv.kubernetes.io/bind-completed": "yes"}}, "spec": {"volumeName": "v"}});
        a.cluster.storage.set_claim(&Arc::new(serde_json::from_value(claim).expect("a claim")));
        let volumes = json!([{"name": "v", "persistentVolumeClaim": {"claimName": "c"}}]);
        match a.schedule(0, &pod("p", json!({"containers": [{}], "volumes": volumes})), 0) {
            Ok(_) => "fits".into(),
            Err((NotFound::Unfit(unfit), _)) => unfit.message(),
            Err((NotFound::Failed(why), _)) => why,
        }
    }

    #[test]
    fn volumes_are_used_in_their_zone() {
        let refused = format!("0/1 nodes are available: 1 {REASON}.");
        let check = |zone, labels, fits: bool| {
            let expected = if fits { "fits" } else { &refused };
            assert_eq!(outcome(zone, &labels), expected, "{zone:?} {labels}");
        };
        check(Some("x"), json!({}), true);
        check(Some("x"), json!({ZONE: "x"}), true);
        check(Some("y"), json!({ZONE: "x"}), false);
        check(Some("y"), json!({ZONE: "x__y"}), true);
        check(Some("y"), json!({"failure-domain.beta.kubernetes.io/zone": "x"}), false);
        check(Some("y"), json!({"topology.kubernetes.io/region": "r"}), false);
        check(None, json!({ZONE: "x"}), true);
    }
}
