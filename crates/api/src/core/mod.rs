//! The API group `core`.

use crate::kind::Kind;

pub mod binding;
pub mod config_map;
pub mod endpoints;
pub mod event;
pub mod namespace;
pub mod node;
pub mod pod;
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
    ]
}
