//! kubelet
pub mod cgroup;
pub mod containerd;
pub mod dns;
pub mod env;
pub mod objects;
pub mod plan;
pub mod pod;
pub mod resources;
pub mod server;
pub mod spec;
pub mod status;
pub mod volumes;
