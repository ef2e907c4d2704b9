//! The API group `policy`.

use crate::kind::Kind;

pub mod eviction;
pub mod pod_disruption_budget;

/// The kinds of the group.
pub fn all() -> Vec<Box<dyn Kind>> {
    vec![Box::new(pod_disruption_budget::PodDisruptionBudget)]
}
