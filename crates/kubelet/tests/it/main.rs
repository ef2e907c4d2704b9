//! The kubelet on a fake runtime and on a real containerd.

mod harness;
mod hollow;
mod real;
