//! Integration and node tests: real orkd processes, stock clients, real containers.

mod control_plane;
mod harness;
mod join;
mod node;
