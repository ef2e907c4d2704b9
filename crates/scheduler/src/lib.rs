//! The scheduler: pods without a node get one.
//!
//! One task owns the [`nodes::Nodes`] (columns, changed incrementally by what informers say and by what was just
//! decided) and the [`queue::Queue`]; a cycle ([`cycle`]) filters and scores arrays of nodes with the plugins
//! ([`plugins`]) of the [`framework`]; binding happens beside it ([`run`]).
//!
//! Semantics and texts are upstream's (`k8s.io/kubernetes/pkg/scheduler`). Not here yet: inter-pod affinity,
//! topology spread, volumes, dynamic resources, preemption, extenders, the configuration file.
//!
//! Invariant: a cycle is a pure function of the nodes, the pod and a seed: no waiting, no clock, no client.
//!
//! Invariant: what was decided counts as placed (assumed) before it is bound, so that the next cycle sees it.

pub mod cycle;
pub mod framework;
pub mod model;
pub mod nodes;
pub mod plugins;
pub mod pod;
pub mod queue;
pub mod run;

pub use run::{Config, run};
