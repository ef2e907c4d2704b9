//! `Secret`.

use crate::kind::Kind;
use crate::kinds::{AGE, Facts, NAME, facts};

/// The kind `Secret`.
pub struct Secret;

impl Kind for Secret {
    facts!(Facts {
        kind: "Secret",
        plural: "secrets",
        columns: &[NAME, ("Type", "string", "", 0), ("Data", "string", "", 0), AGE],
        ..Facts::namespaced("", "v1")
    });
}
