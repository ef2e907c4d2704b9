//! `ReplicaSet`.

use crate::kind::Kind;
use crate::kinds::{AGE, Facts, NAME, SCALE, STATUS, facts};

/// The kind `ReplicaSet`.
pub struct ReplicaSet;

impl Kind for ReplicaSet {
    facts!(Facts {
        kind: "ReplicaSet",
        plural: "replicasets",
        short_names: &["rs"],
        categories: &["all"],
        subresources: &[SCALE, STATUS],
        columns: &[
            NAME,
            ("Desired", "integer", "", 0),
            ("Current", "integer", "", 0),
            ("Ready", "integer", "", 0),
            AGE,
            ("Containers", "string", "", 1),
            ("Images", "string", "", 1),
            ("Selector", "string", "", 1)
        ],
        ..Facts::namespaced("apps", "v1")
    });
}
