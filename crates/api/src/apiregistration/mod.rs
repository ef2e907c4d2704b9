//! The API group `apiregistration.k8s.io`: who serves which group and version.

use crate::kind::Kind;
pub mod api_service;

/// The kinds of the group.
pub fn all() -> Vec<Box<dyn Kind>> {
    vec![Box::new(api_service::APIService)]
}
