//! The node agent: it makes the pods bound to its node run, and tells the API how they are.
//!
//! Start reading at [`start`], then [`worker`] (the state machine of one pod), [`plan`] (what to do next, pure) and
//! [`act`] (doing it over CRI).
//!
//! Invariant: what to do is decided by pure functions ([`plan::plan`], [`status::generate::pod_status`],
//! [`spec::sandbox_config`], [`env::environment`], ...); the rest carries out.
//!
//! Invariant: the runtime's labels and annotations, and the notes of granted resources ([`allocation`]) and of devices
//! ([`dra`]), hold all that a restarted kubelet needs; containers keep running over its restarts.
//!
//! Missing, against upstream: device plugins, user namespaces.

pub mod act;
pub mod admit;
pub mod allocation;
pub mod cgroup;
pub mod containerd;
pub mod csi;
pub mod dns;
pub mod dra;
pub mod env;
pub mod eviction;
pub mod guard;
pub mod image_gc;
pub mod images;
mod kubelet;
pub mod log_rotation;
pub mod logs;
pub mod node;
pub mod node_context;
mod node_events;
pub mod objects;
pub mod plan;
pub mod pod;
pub mod probes;
pub mod resize;
pub mod resources;
pub mod retry;
pub mod server;
pub mod spec;
pub mod static_pods;
pub mod stats;
pub mod status;
pub mod views;
pub mod volumes;
pub mod worker;

pub use kubelet::{Config, Error, Kubelet, RuntimeChoice, start};
pub use node::NodeSettings;
