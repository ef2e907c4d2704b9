//! Controllers of workloads and storage against the real API server on an embedded store, in process, each with its own
//! identity and no more rights than upstream's roles give it. A small task plays the kubelet.

mod autoscalers;
mod blocked;
mod claims;
mod daemons;
mod deployments;
mod devices;
mod jobs;
mod restart;
mod stateful;
mod storage;
mod told;
mod world;
