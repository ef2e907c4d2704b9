//! `Role`.

use crate::kind::Kind;
use crate::kinds::{Facts, facts};

/// The kind `Role`.
pub struct Role;

impl Kind for Role {
    facts!(Facts { kind: "Role", plural: "roles", ..Facts::namespaced("rbac.authorization.k8s.io", "v1") });
}
