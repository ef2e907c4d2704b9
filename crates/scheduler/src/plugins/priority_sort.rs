//! The more important pod goes first, then the one that waits longer. Upstream: `plugins/queuesort`.

use std::cmp::Ordering;

use crate::framework::{Plugin, Point, Waiting};

/// See the module.
pub struct PrioritySort;

impl Plugin for PrioritySort {
    fn name(&self) -> &'static str {
        "PrioritySort"
    }

    fn points(&self) -> &'static [Point] {
        &[Point::QueueSort]
    }

    fn order(&self, a: &Waiting<'_>, b: &Waiting<'_>) -> Ordering {
        let by_priority = b.pod.template.priority.cmp(&a.pod.template.priority);
        by_priority.then(a.arrived.cmp(&b.arrived))
    }
}
