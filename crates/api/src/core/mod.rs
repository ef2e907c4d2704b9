//! The API group `core`.

use crate::kind::Kind;

pub mod binding;
pub mod component_status;
pub mod config_map;
pub mod endpoint_subsets;
pub mod endpoints;
pub mod event;
pub mod limit_range;
pub mod namespace;
pub mod node;
pub mod persistent_volume;
pub mod persistent_volume_claim;
pub mod pod;
pub mod pod_template;
pub mod replication_controller;
pub mod resource_quota;
pub mod secret;
pub mod service;
pub mod service_account;

/// The kinds of the group.
pub fn all() -> Vec<Box<dyn Kind>> {
    vec![
        Box::new(pod::Pod),
        Box::new(namespace::Namespace),
        Box::new(config_map::ConfigMap),
        Box::new(secret::Secret),
        Box::new(service_account::ServiceAccount),
        Box::new(service::Service),
        Box::new(node::Node),
        Box::new(endpoints::Endpoints),
        Box::new(event::Event),
        Box::new(binding::Binding),
        Box::new(component_status::ComponentStatus),
        Box::new(replication_controller::ReplicationController),
        Box::new(pod_template::PodTemplate),
        Box::new(limit_range::LimitRange),
        Box::new(resource_quota::ResourceQuota),
        Box::new(persistent_volume::PersistentVolume),
        Box::new(persistent_volume_claim::PersistentVolumeClaim),
    ]
}
