//! Integration and node tests: real orkd processes, stock clients, real containers.

mod audit;
mod clients;
mod compatibility;
mod control_plane;
mod crash;
mod database;
mod denied;
mod encryption;
mod etcd;
mod examples;
mod harness;
mod healing;
mod hostile;
mod join;
mod node;
mod quickstart;
mod registry;
mod renewal;
mod roles;
mod scheduling;
mod shutdown;
mod storage;
mod terminal;
mod three_nodes;
mod tour;
mod websocket;
