//! `ControllerRevision`.

use crate::kind::Kind;
use crate::kinds::{AGE, Facts, NAME, facts};

/// The kind `ControllerRevision`.
pub struct ControllerRevision;

impl Kind for ControllerRevision {
    facts!(Facts {
        kind: "ControllerRevision",
        plural: "controllerrevisions",
        columns: &[NAME, ("Controller", "string", "", 0), ("Revision", "string", "", 0), AGE],
        ..Facts::namespaced("apps", "v1")
    });
}
