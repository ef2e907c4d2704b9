//! Clients that others wrote, on a tour of a running server.

mod helm;
mod kopf;
mod kube_rs;
mod protobuf;
mod python;

/// The image of pods that the tours run.
const IMAGE: &str = "orkd.local/busybox:latest";
