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
    use super::*;

    #[test]
    fn names_are_unique() {
        let all = all(Args::default(), &Doors::default());
        let mut names: Vec<_> = all.iter().map(|(p, _)| p.name()).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), all.len());
    }
}
