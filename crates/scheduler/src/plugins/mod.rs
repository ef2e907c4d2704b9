//! The plugins, one a file; the list is in upstream's order (`pkg/scheduler/apis/config/v1/default_plugins.go`).

pub mod balanced_allocation;
mod default_binder;
pub mod default_preemption;
pub mod dynamic_resources;
mod image_locality;
pub mod inter_pod_affinity;
pub mod node_affinity;
pub mod node_declared_features;
mod node_name;
mod node_ports;
pub mod node_resources_fit;
mod node_unschedulable;
mod node_volume_limits;
pub mod pod_topology_spread;
mod priority_sort;
pub mod scheduling_gates;
mod taint_toleration;
pub mod volume_binding;
mod volume_restrictions;
mod volume_zone;

use orkd_reconcile::Api;
pub use taint_toleration::tolerates_all;

use crate::bind_claims::ClaimBinder;
use crate::bind_volumes::Binder;
use crate::devices::Cel;
use crate::framework::Plugin;

/// Arguments of plugins.
#[derive(Debug, Default)]
pub struct Args {
    /// Of `NodeAffinity`.
    pub node_affinity: node_affinity::Args,
    /// Of `NodeResourcesFit`.
    pub node_resources_fit: node_resources_fit::Args,
    /// Of `NodeResourcesBalancedAllocation`.
    pub balanced_allocation: balanced_allocation::Args,
    /// Of `PodTopologySpread`.
    pub pod_topology_spread: pod_topology_spread::Args,
    /// Of `InterPodAffinity`.
    pub inter_pod_affinity: inter_pod_affinity::Args,
    /// Of `VolumeBinding`.
    pub volume_binding: volume_binding::Args,
    /// Of `DynamicResources`.
    pub dynamic_resources: dynamic_resources::Args,
    /// Of `DefaultPreemption`.
    pub default_preemption: default_preemption::Args,
}

/// What plugins need to write; nothing where nothing is written.
#[derive(Clone, Default)]
pub struct Doors {
    /// The API.
    pub api: Option<Api>,
    /// What binds volumes.
    pub binder: Option<Binder>,
    /// What binds claims of devices.
    pub claims: Option<ClaimBinder>,
}

/// A plugin of a profile and its default weight; 0 for none.
pub type Weighted = (Box<dyn Plugin>, i64);

/// Every plugin.
pub fn all(args: Args, doors: &Doors) -> Vec<Weighted> {
    vec![
        (Box::new(scheduling_gates::SchedulingGates), 0),
        (Box::new(priority_sort::PrioritySort), 0),
        (Box::new(node_unschedulable::NodeUnschedulable), 0),
        (Box::new(node_name::NodeName), 0),
        (Box::new(taint_toleration::TaintToleration), 3),
        (Box::new(node_affinity::NodeAffinity::new(&args.node_affinity)), 2),
        (Box::new(node_ports::NodePorts), 0),
        (Box::new(node_resources_fit::NodeResourcesFit::new(args.node_resources_fit)), 1),
        (Box::new(volume_restrictions::VolumeRestrictions), 0),
        (Box::new(node_volume_limits::NodeVolumeLimits), 0),
        (Box::new(volume_binding::VolumeBinding::new(args.volume_binding, doors.binder.clone())), 0),
        (Box::new(volume_zone::VolumeZone), 0),
        (Box::new(pod_topology_spread::PodTopologySpread::new(&args.pod_topology_spread)), 2),
        (Box::new(inter_pod_affinity::InterPodAffinity::new(args.inter_pod_affinity)), 2),
        (
            Box::new(dynamic_resources::DynamicResources::new(
                &args.dynamic_resources,
                Box::new(Cel),
                doors.claims.clone(),
            )),
            0,
        ),
        (Box::new(default_preemption::DefaultPreemption::new(args.default_preemption)), 0),
        (Box::new(balanced_allocation::BalancedAllocation::new(args.balanced_allocation)), 1),
        (Box::new(image_locality::ImageLocality), 1),
        (Box::new(default_binder::DefaultBinder { api: doors.api.clone() }), 0),
        (Box::new(node_declared_features::NodeDeclaredFeatures), 0),
    ]
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::config::default_profile;
    use crate::cycle::Algorithm;
    use crate::framework::Event;
    use crate::nodes::NodeChange;
    use crate::nodes::tests::{cpu, node};
    use crate::pod::tests::{labelled, pod};

    #[test]
    fn events_move_the_pods_that_they_may_help() {
        let mut a = Algorithm::new(vec![default_profile(&Doors::default())]);
        a.cluster.nodes.set_node(&node("n", "1", json!({"metadata": {"labels": {"zone": "x"}}})));
        let check = |plugin: &str, event: Event<'_>, waiting: &crate::pod::PodInfo, expected: bool| {
            let helps = a.profiles[0].named(plugin).is_some_and(|p| p.may_help(event, waiting, &a.cluster));
            assert_eq!(event.concerns(plugin) && helps, expected, "{plugin}: {event:?}");
        };
        let none = NodeChange::default();
        let changed = |change| Event::Node { position: 0, change };
        let added = || changed(NodeChange { added: true, ..none });
        let labels = || changed(NodeChange { labels: true, ..none });
        let taints = || changed(NodeChange { taints: true, ..none });
        let grown = || changed(NodeChange { allocatable: true, ..none });

        let (small, large) = (pod("p", cpu("500m")), pod("p", cpu("2")));
        check("NodeResourcesFit", added(), &small, true);
        check("NodeResourcesFit", grown(), &small, true);
        check("NodeResourcesFit", added(), &large, false);
        check("NodeResourcesFit", labels(), &small, false);
        check("NodeResourcesFit", Event::PodGone(&small), &small, true);
        check("NodeResourcesFit", Event::PodPlaced(&small), &small, false);
        check("NodeResourcesFit", Event::PodChanged { old: &large, new: &small }, &small, true);
        check("NodeResourcesFit", Event::PodChanged { old: &small, new: &large }, &small, false);

        let here = pod("p", json!({"nodeSelector": {"zone": "x"}}));
        let elsewhere = pod("p", json!({"nodeSelector": {"zone": "y"}}));
        check("NodeAffinity", labels(), &here, true);
        check("NodeAffinity", labels(), &elsewhere, false);
        check("NodeAffinity", taints(), &here, false);
        check("NodeName", added(), &here, true);
        check("NodeName", labels(), &here, false);
        check("TaintToleration", taints(), &here, true);
        check("TaintToleration", labels(), &here, false);
        check("NodeUnschedulable", taints(), &here, true);
        check("NodeUnschedulable", grown(), &here, false);
        check("SchedulingGates", added(), &here, false);

        let port = |n: u16| pod("p", json!({"containers": [{"ports": [{"hostPort": n}]}]}));
        check("NodePorts", Event::PodGone(&port(80)), &port(80), true);
        check("NodePorts", Event::PodGone(&port(81)), &port(80), false);

        let (web, db) = (labelled("w", json!({"app": "web"}), json!({})), pod("d", json!({})));
        let term = json!([{"topologyKey": "zone", "labelSelector": {"matchLabels": {"app": "web"}}}]);
        let with = |kind: &str| {
            pod("p", json!({"affinity": {kind: {"requiredDuringSchedulingIgnoredDuringExecution": term}}}))
        };
        check("InterPodAffinity", Event::PodPlaced(&web), &with("podAffinity"), true);
        check("InterPodAffinity", Event::PodPlaced(&db), &with("podAffinity"), false);
        check("InterPodAffinity", Event::PodPlaced(&web), &with("podAntiAffinity"), false);
        check("InterPodAffinity", Event::PodGone(&web), &with("podAntiAffinity"), true);
        check("InterPodAffinity", Event::PodGone(&db), &with("podAntiAffinity"), false);
        check("InterPodAffinity", labels(), &with("podAffinity"), true);

        let spread = pod(
            "p",
            json!({"topologySpreadConstraints": [{"maxSkew": 1, "topologyKey": "zone",
            "whenUnsatisfiable": "DoNotSchedule", "labelSelector": {"matchLabels": {"app": "web"}}}]}),
        );
        check("PodTopologySpread", Event::PodGone(&web), &spread, true);
        check("PodTopologySpread", Event::PodPlaced(&web), &spread, true);
        check("PodTopologySpread", Event::PodGone(&db), &spread, false);
        check("PodTopologySpread", Event::NodeGone, &spread, true);

        let claiming = pod("p", json!({"volumes": [{"name": "v", "persistentVolumeClaim": {"claimName": "c"}}]}));
        for plugin in ["VolumeBinding", "VolumeZone", "VolumeRestrictions", "NodeVolumeLimits"] {
            check(plugin, Event::Claim("default", "c"), &claiming, true);
            check(plugin, Event::Claim("default", "d"), &claiming, false);
            check(plugin, Event::Claim("other", "c"), &claiming, false);
        }
        check("VolumeBinding", Event::Volume, &claiming, true);
        check("VolumeBinding", Event::StorageClass, &claiming, true);
        check("VolumeBinding", Event::PodGone(&claiming), &claiming, false);
        check("VolumeRestrictions", Event::PodGone(&claiming), &claiming, true);
        check("VolumeRestrictions", Event::PodGone(&db), &claiming, false);
        check("DynamicResources", Event::PodGone(&db), &db, false);
    }

    #[test]
    fn names_are_unique() {
        let all = all(Args::default(), &Doors::default());
        let mut names: Vec<_> = all.iter().map(|(p, _)| p.name()).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), all.len());
    }
}
