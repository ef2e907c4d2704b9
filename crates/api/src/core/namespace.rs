//! `Namespace`.

use crate::kind::Kind;
use crate::kinds::{AGE, Facts, NAME, STATUS, Sub, facts};

/// The kind `Namespace`.
pub struct Namespace;

impl Kind for Namespace {
    facts!(Facts {
        kind: "Namespace",
        plural: "namespaces",
        short_names: &["ns"],
        verbs: &["create", "delete", "get", "list", "patch", "update", "watch"],
        subresources: &[Sub("finalize", "", None, &["update"]), STATUS],
        columns: &[NAME, ("Status", "string", "", 0), AGE],
        ..Facts::cluster("", "v1")
    });
}
