//! The service proxy: Services and EndpointSlices become a [`ruleset::RuleSet`], which a backend renders into the
//! kernel.
//!
//! ```text
//! informers -> model (views) -> ruleset::build (pure) -> backends::iptables::render (pure) -> iptables-restore
//! ```
//!
//! Invariant: [`ruleset::build`] and `render` are pure; the loop in [`sync`] makes no choices of its own.
//!
//! Invariant: rules of others stay: only chains whose names begin with `KUBE-` are written.
//!
//! Follows `k8s.io/kubernetes/pkg/proxy`; chain names are kube-proxy's, so that tools that read them go on
//! working. Not here yet: the nftables and ipvs backends.

pub mod backends;
pub mod model;
pub mod ruleset;
pub mod sync;
