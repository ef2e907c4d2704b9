//! `ServiceAccount`.

use crate::kind::Kind;
use crate::kinds::{AGE, CREATE_ONLY, Facts, NAME, Sub, facts};

/// The kind `ServiceAccount`.
pub struct ServiceAccount;

impl Kind for ServiceAccount {
    facts!(Facts {
        kind: "ServiceAccount",
        plural: "serviceaccounts",
        short_names: &["sa"],
        subresources: &[Sub("token", "TokenRequest", Some(("authentication.k8s.io", "v1")), CREATE_ONLY)],
        columns: &[NAME, AGE],
        ..Facts::namespaced("", "v1")
    });
}
