//! The API group `scheduling.k8s.io`.

use crate::kind::Kind;

pub mod priority_class;

/// The kinds of the group.
pub fn all() -> Vec<Box<dyn Kind>> {
    vec![Box::new(priority_class::PriorityClass)]
}
