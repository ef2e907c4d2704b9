//! `ClusterRole`.

use crate::kind::Kind;
use crate::kinds::{Facts, facts};

/// The kind `ClusterRole`.
pub struct ClusterRole;

impl Kind for ClusterRole {
    facts!(Facts { kind: "ClusterRole", plural: "clusterroles", ..Facts::cluster("rbac.authorization.k8s.io", "v1") });
}
