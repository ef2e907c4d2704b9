//! The API server in one process, spoken to through its service and through a socket.

mod apply;
mod flow;
mod harness;
mod lists;
mod negotiation;
mod openapi;
mod patches;
mod recorded;
mod semantics;
mod socket;
mod watches;
