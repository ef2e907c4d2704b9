//! What Services own beside their record: cluster IPs, as IPAddress objects, and node ports, as one record that is
//! compared and set (`pkg/registry/core/service/{storage/alloc.go,ipallocator,portallocator}`).
//!
//! Invariant: an address or port is taken before the Service that uses it is stored and given back after the Service
//! is gone; a crash in between leaves one too many taken, never one taken twice. [`repair`] finds the leaks.

pub mod cluster_ip;
pub mod node_port;
pub mod repair;
pub mod service;

pub use cluster_ip::ClusterIps;
pub use node_port::NodePorts;
pub use service::ServiceHook;
