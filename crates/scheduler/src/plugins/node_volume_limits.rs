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
            // Volumes stay attached for a while after their pods have gone.
            for (driver, handle) in cx.cluster.storage.attached(rows.name(i)) {
                there.entry(driver.to_owned()).or_default().insert(handle.to_owned());
            }
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
            Event::CsiNode { added, grew } => added || grew,
            Event::Detached => pod.claims().next().is_some(),
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

    use serde::de::DeserializeOwned;
    use serde_json::{Value, json};

    use super::*;
    use crate::config::default_profile;
    use crate::cycle::{Algorithm, NotFound};
    use crate::nodes::tests::node;
    use crate::plugins::Doors;
    use crate::pod::tests::pod;

    fn object<T: DeserializeOwned>(value: Value) -> Arc<T> {
        Arc::new(serde_json::from_value(value).expect("an object"))
    }

    /// A node where a driver allows two volumes, and claims `c1` to `c4` for volumes `v1` to `v4` of that driver.
    fn cluster() -> Algorithm {
        let mut a = Algorithm::new(vec![default_profile(&Doors::default())]);
        a.cluster.nodes.set_node(&node("n", "4", json!({})));
        let storage = &mut a.cluster.storage;
        let drivers = json!([{"name": "csi.example.com", "nodeID": "n", "allocatable": {"count": 2}}]);
        let csi_node = json!({"metadata": {"name": "n"}, "spec": {"drivers": drivers}});
        storage.csi_nodes.insert("n".into(), object(csi_node));
        for i in 1..=4 {
            let csi = json!({"driver": "csi.example.com", "volumeHandle": format!("h{i}")});
            storage.set_volume(&object(json!({"metadata": {"name": format!("v{i}")}, "spec": {"csi": csi}})));
            storage.set_claim(&object(json!({"metadata": {"namespace": "default", "name": format!("c{i}"),
                "annotations": {"pv.kubernetes.io/bind-completed": "yes"}},
                "spec": {"volumeName": format!("v{i}")}, "status": {"phase": "Bound"}})));
        }
        a
    }

    fn using(name: &str, claims: &[&str]) -> Arc<PodInfo> {
        let volumes: Vec<_> =
            claims.iter().map(|c| json!({"name": c, "persistentVolumeClaim": {"claimName": c}})).collect();
        pod(name, json!({"containers": [{}], "volumes": volumes}))
    }

    fn attachment(name: &str, volume: &str) -> Arc<crate::model::VolumeAttachment> {
        object(json!({"metadata": {"name": name}, "spec": {"attacher": "csi.example.com", "nodeName": "n",
            "source": {"persistentVolumeName": volume}}}))
    }

    fn check(a: &mut Algorithm, pod: &Arc<PodInfo>, fits: bool) {
        match a.schedule(0, pod, 0) {
            Ok(_) => assert!(fits, "{} fits", pod.meta.name),
            Err((NotFound::Unfit(unfit), _)) => {
                assert!(!fits && unfit.reasons.contains_key(REASON), "{}: {}", pod.meta.name, unfit.message());
            }
            Err((why, _)) => panic!("{why:?}"),
        }
    }

    #[test]
    fn volumes_of_pods_count_once() {
        let mut a = cluster();
        a.cluster.nodes.place(using("x", &["c1"]), "n");
        check(&mut a, &using("p", &["c2"]), true);
        check(&mut a, &using("p", &["c1", "c2"]), true);
        check(&mut a, &using("p", &["c2", "c3"]), false);
        a.cluster.nodes.place(using("y", &["c1", "c2"]), "n");
        check(&mut a, &using("p", &["c2"]), true);
        check(&mut a, &using("p", &["c3"]), false);
    }

    #[test]
    fn what_is_still_attached_counts() {
        let mut a = cluster();
        for (name, volume) in [("a1", "v1"), ("a2", "v2")] {
            a.cluster.storage.set_attachment(&attachment(name, volume));
        }
        check(&mut a, &using("p", &["c3"]), false);
        check(&mut a, &using("p", &["c1"]), true);
        a.cluster.nodes.place(using("x", &["c1"]), "n");
        check(&mut a, &using("p", &["c2"]), true);
        a.cluster.storage.remove_attachment(&attachment("a2", "v2"));
        check(&mut a, &using("p", &["c3"]), true);
        a.cluster.storage.set_attachment(&attachment("a3", "gone"));
        check(&mut a, &using("p", &["c3"]), true);
    }

    #[test]
    fn only_what_gives_room_helps() {
        let a = cluster();
        let helps = |event, pod: &PodInfo| NodeVolumeLimits.may_help(event, pod, &a.cluster);
        let (with, without) = (using("p", &["c1"]), using("q", &[]));
        assert!(helps(Event::Detached, &with) && !helps(Event::Detached, &without));
        assert!(helps(Event::CsiNode { added: false, grew: true }, &with));
        assert!(!helps(Event::CsiNode { added: false, grew: false }, &with));
        assert!(helps(Event::PodGone(&with), &with) && !helps(Event::PodGone(&without), &with));
    }
}
