//! The API server in one process, spoken to through its service and through a socket.

mod harness;
mod recorded;
mod semantics;
mod socket;
