//! orkd
mod check;
mod cli;
mod config;
mod version;

fn main() {}
