//! Benches: what is measured is printed beside its budget.

mod api;
mod controllers;
mod http;
mod process;
mod server;
mod start;

use std::path::PathBuf;
use std::time::Duration;

use anyhow::Result;
use clap::Subcommand;

/// What to measure.
#[derive(Subcommand)]
pub enum What {
    /// The load of an API server, any one; beside each figure that of a stock API server with etcd.
    ///
    /// Makes and removes a namespace `bench-api`. Processor time is told when the server runs on this machine.
    Api {
        /// The server and who may do everything there.
        #[arg(long)]
        kubeconfig: PathBuf,
        /// Processes whose time counts (the API server, etcd); those that listen on the server's port where left out.
        #[arg(long)]
        pid: Vec<u32>,
        /// Only operations whose name contains this. Later ones need the objects of earlier ones.
        #[arg(long)]
        only: Vec<String>,
    },
    /// A one-node cluster from an empty directory: start, first answer, pods, memory, idle cost.
    ///
    /// Needs root and what the node tests need. Measures `$ORKD_BIN`, or target/release/orkd.
    Start,
    /// The controllers: wide and many Deployments, namespaces, memory at many pods.
    ///
    /// Measures `$ORKD_BIN`, or target/release/orkd, on the loopback address, and builds the hollow nodes beside it.
    Controllers,
    /// The scheduler: its algorithm in memory, and all of it against the API server, in one process.
    Scheduler,
    /// The embedded store.
    Store {
        /// The directory to write in, on the disk that counts.
        #[arg(default_value_os_t = std::env::temp_dir())]
        directory: PathBuf,
    },
}

/// Measures and prints. A missed budget is said, and is no error: it may be the machine's.
pub fn run(what: &What) -> Result<()> {
    match what {
        What::Api { kubeconfig, pid, only } => api::run(kubeconfig, pid, only),
        What::Start => start::run(),
        What::Scheduler => {
            // In memory first: what remains of the second figure is the API's.
            cargo(&["run", "--release", "-p", "orkd-scheduler", "--example", "algorithm"])?;
            cargo(&["bench", "-p", "orkd-scheduler", "--bench", "scheduler"])
        }
        What::Controllers => {
            cargo(&["build", "--release", "-p", "orkd-kubelet", "--example", "hollow"])?;
            controllers::run()
        }
        What::Store { directory } => {
            let runtime = tokio::runtime::Runtime::new()?;
            for figure in runtime.block_on(orkd_store::bench::run(directory, Duration::from_secs(3)))? {
                println!("{figure}");
            }
            Ok(())
        }
    }
}

fn cargo(args: &[&str]) -> Result<()> {
    let mut cargo = std::process::Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    let status = cargo.args(args).status()?;
    anyhow::ensure!(status.success(), "cargo {} ended with {status}", args.join(" "));
    Ok(())
}
