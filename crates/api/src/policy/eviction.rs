//! `Eviction`, the body of the subresource `eviction` of pods.

use crate::kind::Kind;
use crate::kinds::{CREATE_ONLY, Facts, facts};

/// The kind `Eviction`. Its name is the pod's; its `deleteOptions` are those of the deletion.
pub struct Eviction;

impl Kind for Eviction {
    facts!(Facts { kind: "Eviction", plural: "eviction", verbs: CREATE_ONLY, ..Facts::namespaced("policy", "v1") });
}
