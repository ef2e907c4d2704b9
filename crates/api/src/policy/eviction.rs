//! `Eviction`, the body of the subresource `eviction`.

use crate::kind::Kind;
use crate::kinds::{CREATE_ONLY, Facts, facts};

/// The kind `Eviction`.
pub struct Eviction;

impl Kind for Eviction {
    facts!(Facts { kind: "Eviction", plural: "eviction", verbs: CREATE_ONLY, ..Facts::namespaced("policy", "v1") });
}
