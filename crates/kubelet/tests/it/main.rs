//! The kubelet on a fake runtime and on a real containerd.

mod eviction;
mod harness;
mod hollow;
mod real;
