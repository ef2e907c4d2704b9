//! What the scheduler reads of the API: trimmed views, one file for each area.

mod cluster;
mod devices;
mod node;
mod pod;
mod storage;

pub use cluster::{DisruptionBudget, Labelled, Namespace, ReplicaSet, ReplicationController, Service, StatefulSet};
pub use devices::*;
pub use node::{Image, Node, NodeSpec, NodeStatus};
pub use pod::*;
pub use storage::*;
