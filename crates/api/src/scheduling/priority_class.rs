//! `PriorityClass`.

use crate::kind::Kind;
use crate::kinds::{AGE, Facts, NAME, facts};

/// The kind `PriorityClass`.
pub struct PriorityClass;

impl Kind for PriorityClass {
    facts!(Facts {
        kind: "PriorityClass",
        plural: "priorityclasses",
        short_names: &["pc"],
        columns: &[
            NAME,
            ("Value", "integer", "", 0),
            ("Global-Default", "boolean", "", 0),
            AGE,
            ("PreemptionPolicy", "string", "", 0)
        ],
        ..Facts::cluster("scheduling.k8s.io", "v1")
    });
}
