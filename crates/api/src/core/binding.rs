//! `Binding`.

use crate::kind::Kind;
use crate::kinds::{CREATE_ONLY, Facts, facts};

/// The kind `Binding`.
pub struct Binding;

impl Kind for Binding {
    facts!(Facts { kind: "Binding", plural: "bindings", verbs: CREATE_ONLY, ..Facts::namespaced("", "v1") });
}
