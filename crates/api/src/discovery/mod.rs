//! The API group `discovery.k8s.io`.

use crate::kind::Kind;

pub mod endpoint_slice;

/// The kinds of the group.
pub fn all() -> Vec<Box<dyn Kind>> {
    vec![Box::new(endpoint_slice::EndpointSlice)]
}
