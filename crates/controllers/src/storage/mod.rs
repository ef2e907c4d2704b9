//! Controllers of storage: the binder of volumes and claims, what provisions and expands, attachments, claims of pods.
//!
//! Where to start reading: [`binder`].

pub mod attach_detach;
pub mod binder;
pub mod ephemeral;
pub mod expand;
pub mod local_path;

mod claim;
mod matching;
pub mod views;
mod volume;

/// On a claim: what was bound is not to be questioned.
pub const BIND_COMPLETED: &str = "pv.kubernetes.io/bind-completed";
/// On a claim or a volume: the controller chose the other one, no user did.
pub const BOUND_BY_CONTROLLER: &str = "pv.kubernetes.io/bound-by-controller";
/// On a volume: who made it.
pub const PROVISIONED_BY: &str = "pv.kubernetes.io/provisioned-by";
/// On a claim: who shall make its volume.
pub const PROVISIONER: &str = "volume.kubernetes.io/storage-provisioner";
/// On a claim: who shall make its volume, as older clients read it.
pub const PROVISIONER_BETA: &str = "volume.beta.kubernetes.io/storage-provisioner";
/// On a claim: the node its first pod was placed on.
pub const SELECTED_NODE: &str = "volume.kubernetes.io/selected-node";
/// On a claim or a volume: the class, as older clients write it.
pub const CLASS_BETA: &str = "volume.beta.kubernetes.io/storage-class";
