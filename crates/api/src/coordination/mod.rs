//! The API group `coordination.k8s.io`.

use crate::kind::Kind;

pub mod lease;

/// The kinds of the group.
pub fn all() -> Vec<Box<dyn Kind>> {
    vec![Box::new(lease::Lease)]
}
