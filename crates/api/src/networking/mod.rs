//! The API group `networking.k8s.io`.

use crate::kind::Kind;

pub mod ingress;
pub mod ingress_class;
pub mod ip_address;
pub mod network_policy;
pub mod service_cidr;

/// The kinds of the group.
pub fn all() -> Vec<Box<dyn Kind>> {
    vec![
        Box::new(ip_address::IPAddress),
        Box::new(service_cidr::ServiceCIDR),
        Box::new(ingress::Ingress),
        Box::new(ingress_class::IngressClass),
        Box::new(network_policy::NetworkPolicy),
    ]
}
