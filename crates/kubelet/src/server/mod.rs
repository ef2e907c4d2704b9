//! The node server on port 10250: logs, exec, attach, port-forward, health, for the API server.
//!
//! Paths are upstream's (`pkg/kubelet/server/server.go`).

pub mod remote;
pub mod spdy;
