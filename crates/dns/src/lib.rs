//! Cluster DNS: names of services and pods from informers, everything else forwarded.
//!
//! Follows the Kubernetes DNS-Based Service Discovery specification 1.1.0; where that is silent, CoreDNS with
//! `pods insecure`. [`zone`] is pure and holds the names; [`server`] speaks DNS over UDP and TCP; [`forward`] asks
//! others; [`agent`] is the loop of a node, [`publish`] that of the server.
//!
//! Invariant: an answer is made from memory, no query of a cluster name waits for anything.

pub mod agent;
pub mod forward;
pub mod publish;
pub mod server;
pub mod zone;
