//! The controllers: one file each, listed once in [`all`].
//!
//! A controller reads shared informers, decides in a pure `plan`, and writes with its own identity
//! (`system:serviceaccount:kube-system:<service account>`). Composition gives a [`Client`](orkd_reconcile::Client) for
//! each identity ([`Composition::client`]); all controllers read by one more.
//!
//! Invariant: controllers do not know each other; they meet in objects only. They depend neither on the API
//! server's crate nor on the store.
//!
//! Where to start reading: [`replica_set`], then [`all`].

pub mod bootstrap_signer;
pub mod certificates;
pub mod cluster_role;
pub mod cron_job;
pub mod daemon_set;
pub mod deployment;
pub mod device_taint_eviction;
pub mod disruption;
pub mod endpoint_slice;
pub mod endpoint_slice_mirror;
pub mod endpoints;
pub mod garbage;
pub mod horizontal_pod_autoscaler;
pub mod job;
pub mod legacy_token;
pub mod namespace;
pub mod node_ipam;
pub mod node_lifecycle;
pub mod node_ttl;
pub mod pod_gc;
pub mod policy_status;
pub mod replica_set;
pub mod replication_controller;
pub mod resource_claim;
pub mod resource_quota;
pub mod root_ca;
pub mod service_account;
pub mod service_cidr;
pub mod stateful_set;
pub mod storage;
pub mod storage_protection;
pub mod taint_eviction;
pub mod token_cleaner;
pub mod ttl_after_finished;

mod cx;
mod discovery;
mod freshness;
mod owners;
mod pods;
pub mod views;

pub use cx::{Composition, Config, ControllerSpec, Cx, MANAGER, Run, Signers, run_all, run_some};

/// Every controller of the process.
pub fn all() -> Vec<ControllerSpec> {
    vec![
        deployment::SPEC,
        replica_set::SPEC,
        replication_controller::SPEC,
        daemon_set::SPEC,
        stateful_set::SPEC,
        job::SPEC,
        ttl_after_finished::SPEC,
        cron_job::SPEC,
        endpoint_slice::SPEC,
        endpoints::SPEC,
        endpoint_slice_mirror::SPEC,
        namespace::SPEC,
        garbage::SPEC,
        service_account::SPEC,
        root_ca::SPEC,
        node_ipam::SPEC,
        node_lifecycle::SPEC,
        node_ttl::SPEC,
        taint_eviction::SPEC,
        pod_gc::SPEC,
        resource_claim::SPEC,
        device_taint_eviction::SPEC,
        certificates::APPROVING,
        certificates::SIGNING,
        certificates::CLEANING,
        cluster_role::SPEC,
        token_cleaner::SPEC,
        storage::attach_detach::SPEC,
        storage::binder::SPEC,
        storage::ephemeral::SPEC,
        storage::expand::SPEC,
        storage::local_path::SPEC,
        bootstrap_signer::SPEC,
        resource_quota::SPEC,
        disruption::SPEC,
        horizontal_pod_autoscaler::SPEC,
        storage_protection::CLAIMS,
        storage_protection::VOLUMES,
        legacy_token::TOKENS,
        legacy_token::CLEANER,
        policy_status::SPEC,
        service_cidr::SPEC,
        storage_protection::CLASSES,
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique() {
        let mut names: Vec<&str> = all().iter().map(|c| c.name).collect();
        names.sort_unstable();
        let count = names.len();
        names.dedup();
        assert_eq!(names.len(), count);
    }
}
