//! The API group `apps`.

use crate::kind::Kind;

pub mod controller_revision;
pub mod daemon_set;
pub mod deployment;
pub mod replica_set;
pub mod scale;
pub mod stateful_set;

/// The kinds of the group.
pub fn all() -> Vec<Box<dyn Kind>> {
    vec![
        Box::new(deployment::Deployment),
        Box::new(replica_set::ReplicaSet),
        Box::new(controller_revision::ControllerRevision),
        Box::new(stateful_set::StatefulSet),
        Box::new(daemon_set::DaemonSet),
    ]
}
