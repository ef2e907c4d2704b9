//! The API group `networking.k8s.io`.

use crate::field::ErrorList;
use crate::kind::Kind;
use crate::object::View;

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

/// An object of any kind. Upstream: `validateIngressTypedLocalObjectReference`.
fn local_reference(errs: &mut ErrorList, v: &View<'_>) {
    let group = v.get("apiGroup");
    if group.is_set() {
        crate::validate::dns_subdomain_at(errs, &group);
    }
    for field in ["kind", "name"] {
        path_segment(errs, &v.get(field), true);
    }
}

/// A text that can be one part of a path.
fn path_segment(errs: &mut ErrorList, v: &View<'_>, required: bool) {
    if v.str().is_empty() {
        if required {
            errs.required(v.path(), "");
        }
        return;
    }
    for problem in crate::names::path_segment(v.str(), false) {
        errs.invalid(v.path(), v.str(), problem);
    }
}
