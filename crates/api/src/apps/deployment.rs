//! `Deployment`.

use crate::kind::Kind;
use crate::kinds::{AGE, Facts, NAME, SCALE, STATUS, facts};

/// The kind `Deployment`.
pub struct Deployment;

impl Kind for Deployment {
    facts!(Facts {
        kind: "Deployment",
        plural: "deployments",
        short_names: &["deploy"],
        categories: &["all"],
        subresources: &[SCALE, STATUS],
        columns: &[
            NAME,
            ("Ready", "string", "", 0),
            ("Up-to-date", "string", "", 0),
            ("Available", "string", "", 0),
            AGE,
            ("Containers", "string", "", 1),
            ("Images", "string", "", 1),
            ("Selector", "string", "", 1)
        ],
        ..Facts::namespaced("apps", "v1")
    });
}
