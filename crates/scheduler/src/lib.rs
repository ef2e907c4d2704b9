//! The scheduler: pods without a node get one.
//!
//! One task owns the [`cluster::Cluster`] (columns of [`nodes`], counts by domain in [`tables`], changed incrementally
//! by what informers say and by what was just decided) and the [`queue::Queue`]; a cycle ([`cycle`]) filters and scores
//! arrays of nodes with the plugins ([`plugins`]) of the [`framework`], and keeps what it found for equal pods
//! ([`classes`]); binding happens beside it ([`run`]).
//!
//! Semantics and texts are upstream's (`k8s.io/kubernetes/pkg/scheduler`).
//!
//! Invariant: a cycle is a pure function of the cluster, the pod and a seed: no waiting, no client, and no clock but to
//! tell how long it took.
//!
//! Invariant: what was decided counts as placed (assumed) before it is bound, so that the next cycle sees it.
//!
//! Invariant: what is tried out on the cluster is put back before the cycle ends.

pub mod bind_claims;
pub mod bind_volumes;
pub mod classes;
pub mod cluster;
pub mod config;
pub mod cycle;
pub mod devices;
mod extender;
pub mod feed;
pub mod framework;
mod metrics;
pub mod model;
pub mod nodes;
pub mod plugins;
pub mod pod;
pub mod profile;
pub mod queue;
pub mod requests;
mod run;
pub mod selector;
mod status;
pub mod storage;
pub mod tables;
pub mod topology;
pub mod waiting;
pub mod workloads;

pub use config::Config;
pub use run::run;
