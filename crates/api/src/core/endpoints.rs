//! `Endpoints`.

use crate::kind::Kind;
use crate::kinds::{AGE, Facts, NAME, facts};

/// The kind `Endpoints`.
pub struct Endpoints;

impl Kind for Endpoints {
    facts!(Facts {
        kind: "Endpoints",
        plural: "endpoints",
        short_names: &["ep"],
        prefix: "services/endpoints",
        columns: &[NAME, ("Endpoints", "string", "", 0), AGE],
        ..Facts::namespaced("", "v1")
    });
}
