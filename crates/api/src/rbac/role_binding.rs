//! `RoleBinding`.

use crate::kind::Kind;
use crate::kinds::{AGE, Facts, NAME, facts};

/// The kind `RoleBinding`.
pub struct RoleBinding;

impl Kind for RoleBinding {
    facts!(Facts {
        kind: "RoleBinding",
        plural: "rolebindings",
        columns: &[
            NAME,
            ("Role", "string", "", 0),
            AGE,
            ("Users", "string", "", 1),
            ("Groups", "string", "", 1),
            ("ServiceAccounts", "string", "", 1)
        ],
        ..Facts::namespaced("rbac.authorization.k8s.io", "v1")
    });
}
