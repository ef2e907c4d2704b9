//! Disks and claims that only one pod may use. Upstream: `plugins/volumerestrictions`.

use orkd_reconcile::Key;

use crate::cluster::Cluster;
use crate::framework::{Cx, Event, Plugin, Point, PreFilter, State, Verdicts};
use crate::pod::{Disk, PodInfo, PodVolume};

const REASON_DISK: &str = "node(s) had no available disk";
const REASON_ONE_POD: &str =
    "node has pod using PersistentVolumeClaim with the same name and ReadWriteOncePod access mode";

/// See the module.
pub struct VolumeRestrictions;

fn conflict(a: &Disk, b: &Disk) -> bool {
    match (a, b) {
        (Disk::Gce(a), Disk::Gce(b)) => a.pd_name == b.pd_name && !(a.read_only && b.read_only),
        (Disk::Aws(a), Disk::Aws(b)) => a.volume_id == b.volume_id,
        (Disk::Iscsi(a), Disk::Iscsi(b)) => a.iqn == b.iqn && !(a.read_only && b.read_only),
        (Disk::Rbd(a), Disk::Rbd(b)) => {
            a.monitors.iter().any(|m| b.monitors.contains(m))
                && a.pool == b.pool
                && a.image == b.image
                && !(a.read_only && b.read_only)
        }
        _ => false,
    }
}

fn disks(pod: &PodInfo) -> impl Iterator<Item = &Disk> {
    pod.template.volumes.iter().filter_map(|v| match v {
        PodVolume::Disk(disk) => Some(disk),
        _ => None,
    })
}

fn any_conflict(a: &PodInfo, b: &PodInfo) -> bool {
    disks(a).any(|a| disks(b).any(|b| conflict(a, b)))
}

fn claims(pod: &PodInfo) -> impl Iterator<Item = Key> + '_ {
    let named = pod.claims().filter(|(_, is_own)| !is_own);
    named.map(|(name, _)| Key { namespace: pod.meta.namespace.clone(), name: name.as_str().into() })
}

impl Plugin for VolumeRestrictions {
    fn name(&self) -> &'static str {
        "VolumeRestrictions"
    }

    fn points(&self) -> &'static [Point] {
        &[Point::PreFilter, Point::Filter]
    }

    fn pre_filter(&self, cluster: &mut Cluster, pod: &PodInfo) -> PreFilter {
        let mut alone = Vec::new();
        for key in claims(pod) {
            let Some(claim) = cluster.storage.claim(&key) else {
                let reason = format!("persistentvolumeclaim {:?} not found", &*key.name);
                return PreFilter::Refuse { reason, unresolvable: true };
            };
            if claim.spec.access_modes.iter().any(|m| m == "ReadWriteOncePod") {
                alone.push(key);
            }
        }
        if alone.is_empty() && disks(pod).next().is_none() { PreFilter::Skip } else { PreFilter::Go(Box::new(alone)) }
    }

    fn filter(&self, cx: &Cx<'_>, state: &State, candidates: &[u32], verdicts: &mut Verdicts) {
        let nodes = &cx.cluster.nodes;
        let alone = state.downcast_ref::<Vec<Key>>();
        // Used anywhere is used: one pod in the whole cluster.
        let in_use = alone.into_iter().flatten().any(|claim| nodes.claim_users(claim) > 0);
        for i in candidates.iter().map(|i| *i as usize) {
            if !verdicts.is_fit(i) {
                continue;
            }
            let reason = if nodes.rows.pods[i].iter().any(|p| any_conflict(cx.pod, p)) {
                REASON_DISK
            } else if in_use {
                REASON_ONE_POD
            } else {
                continue;
            };
            let refusal = verdicts.refusal(self.name(), reason, false);
            verdicts.refuse(i, refusal);
        }
    }

    fn may_help(&self, event: Event<'_>, pod: &PodInfo, _cluster: &Cluster) -> bool {
        match event {
            Event::PodGone(gone) => any_conflict(pod, gone) || claims(pod).any(|c| claims(gone).any(|g| g == c)),
            Event::Node { change, .. } => change.added,
            Event::Claim(namespace, name) => *namespace == *pod.meta.namespace && claims(pod).any(|c| &*c.name == name),
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

    fn with(name: &str, volume: &Value) -> Arc<PodInfo> {
        let mut volume = volume.clone();
        volume["name"] = json!("v");
        pod(name, json!({"containers": [{}], "volumes": [volume]}))
    }

    /// What keeps a pod with a volume from the one node, where another pod with a volume is.
    fn outcome(there: &Value, wanted: &Value) -> String {
        let mut a = Algorithm::new(vec![default_profile(&Doors::default())]);
        a.cluster.nodes.set_node(&node("n", "4", json!({})));
        for (name, mode) in [("alone", "ReadWriteOncePod"), ("shared", "ReadWriteMany")] {
            let volume = json!({"metadata": {"name": name}, "spec": {}});
            a.cluster.storage.set_volume(&Arc::new(serde_json::from_value(volume).expect("a volume")));
            let claim = json!({"metadata": {"namespace": "default", "name": name,
                "annotations": {"pv.kubernetes.io/bind-completed": "yes"}},
                "spec": {"volumeName": name, "accessModes": [mode]}});
            a.cluster.storage.set_claim(&Arc::new(serde_json::from_value(claim).expect("a claim")));
        }
        a.cluster.nodes.place(with("x", there), "n");
        match a.schedule(0, &with("p", wanted), 0) {
            Ok(_) => "fits".into(),
            Err((NotFound::Unfit(unfit), _)) => unfit.reasons.into_keys().collect::<Vec<_>>().join(", "),
            Err((NotFound::Failed(why), _)) => why,
        }
    }

    #[test]
    fn disks_are_shared_only_for_reading() {
        let check = |a: Value, b: Value, fits: bool| {
            assert_eq!(outcome(&a, &b), if fits { "fits" } else { REASON_DISK }, "{a} {b}");
        };
        let gce = |name: &str, read: bool| json!({"gcePersistentDisk": {"pdName": name, "readOnly": read}});
        check(gce("a", false), gce("b", false), true);
        check(gce("a", false), gce("a", true), false);
        check(gce("a", true), gce("a", true), true);
        let aws = |id: &str| json!({"awsElasticBlockStore": {"volumeID": id, "readOnly": true}});
        check(aws("a"), aws("a"), false);
        let iscsi = |iqn: &str, read: bool| json!({"iscsi": {"iqn": iqn, "readOnly": read}});
        check(iscsi("a", false), iscsi("a", false), false);
        check(iscsi("a", true), iscsi("a", true), true);
        let rbd = |monitors: Value, image: &str| json!({"rbd": {"monitors": monitors, "pool": "p", "image": image}});
        check(rbd(json!(["a", "b"]), "i"), rbd(json!(["b", "c"]), "i"), false);
        check(rbd(json!(["a"]), "i"), rbd(json!(["c"]), "i"), true);
        check(rbd(json!(["a"]), "i"), rbd(json!(["a"]), "j"), true);
    }

    #[test]
    fn a_claim_may_be_for_one_pod_alone() {
        let claim = |name: &str| json!({"persistentVolumeClaim": {"claimName": name}});
        assert_eq!(outcome(&claim("shared"), &claim("shared")), "fits");
        assert_eq!(outcome(&claim("shared"), &claim("alone")), "fits");
        assert_eq!(outcome(&claim("alone"), &claim("alone")), REASON_ONE_POD);
    }
}
