//! The API group `rbac.authorization.k8s.io`.

use crate::kind::Kind;

pub mod cluster_role;
pub mod cluster_role_binding;
pub mod role;
pub mod role_binding;
mod rules;

/// The kinds of the group.
pub fn all() -> Vec<Box<dyn Kind>> {
    vec![
        Box::new(role::Role),
        Box::new(role_binding::RoleBinding),
        Box::new(cluster_role::ClusterRole),
        Box::new(cluster_role_binding::ClusterRoleBinding),
    ]
}
