//! The API group `events.k8s.io`.

use crate::kind::Kind;

pub mod event;

/// The kinds of the group.
pub fn all() -> Vec<Box<dyn Kind>> {
    vec![Box::new(event::Event)]
}
