//! Integration and node tests: real orkd processes, stock clients, real containers.

mod harness;
