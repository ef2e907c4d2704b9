//! `ConfigMap`.

use crate::kind::Kind;
use crate::kinds::{AGE, Facts, NAME, facts};

/// The kind `ConfigMap`.
pub struct ConfigMap;

impl Kind for ConfigMap {
    facts!(Facts {
        kind: "ConfigMap",
        plural: "configmaps",
        short_names: &["cm"],
        columns: &[NAME, ("Data", "string", "", 0), AGE],
        ..Facts::namespaced("", "v1")
    });
}
