//! orkd
mod cli;
mod config;
mod version;

fn main() {}
