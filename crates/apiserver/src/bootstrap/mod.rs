//! What a cluster is born with: roles and bindings, system namespaces, priority classes, the `kubernetes` Service.

pub mod roles;
