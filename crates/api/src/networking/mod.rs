//! The API group `networking.k8s.io`.

use crate::kind::Kind;

pub mod ip_address;
pub mod service_cidr;

/// The kinds of the group.
pub fn all() -> Vec<Box<dyn Kind>> {
    vec![Box::new(ip_address::IPAddress), Box::new(service_cidr::ServiceCIDR)]
}
