//! `ClusterRoleBinding`.

use crate::kind::Kind;
use crate::kinds::{AGE, Facts, NAME, facts};

/// The kind `ClusterRoleBinding`.
pub struct ClusterRoleBinding;

impl Kind for ClusterRoleBinding {
    facts!(Facts {
        kind: "ClusterRoleBinding",
        plural: "clusterrolebindings",
        columns: &[
            NAME,
            ("Role", "string", "", 0),
            AGE,
            ("Users", "string", "", 1),
            ("Groups", "string", "", 1),
            ("ServiceAccounts", "string", "", 1)
        ],
        ..Facts::cluster("rbac.authorization.k8s.io", "v1")
    });
}
