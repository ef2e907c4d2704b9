//! Developer tasks: code generation and its checks. Run with `cargo xtask <task>`.
//!
//! Start reading at [`Task`]. Each generator writes a file that is committed; `--check` says whether the
//! committed file is what the generator would write.

mod bench;
mod gen_cri;
mod gen_schema;

use std::path::PathBuf;

use anyhow::{Context as _, Result};
use clap::{Parser, Subcommand};

/// Developer tasks of orkd.
#[derive(Parser)]
struct Cli {
    #[command(subcommand)]
    task: Task,
}

/// What can be done.
#[derive(Subcommand)]
enum Task {
    /// Measures, and prints each number beside its budget.
    Bench {
        #[command(subcommand)]
        what: bench::What,
    },
    /// Writes the CRI messages and client from proto/.
    GenCri,
    /// Writes crates/api/src/schema/generated.rs from the facts of the API (../shared).
    GenSchema {
        /// Only compare; fails when the committed file is out of date.
        #[arg(long)]
        check: bool,
    },
}

fn main() -> Result<()> {
    match Cli::parse().task {
        Task::Bench { what } => bench::run(&what),
        Task::GenCri => gen_cri::run(),
        Task::GenSchema { check } => gen_schema::run(check),
    }
}

/// The root of the workspace.
fn workspace() -> Result<PathBuf> {
    let here = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    Ok(here.parent().and_then(|crates| crates.parent()).context("xtask is not in crates/xtask")?.to_owned())
}

/// The folder of API facts: `$ORKD_SHARED` or `shared` beside the workspace; `None` where there is none.
fn shared() -> Result<Option<PathBuf>> {
    let root = match std::env::var_os("ORKD_SHARED") {
        Some(dir) => PathBuf::from(dir),
        None => workspace()?.join("../shared"),
    };
    let facts = root.join("kubernetes-1.36");
    Ok(facts.is_dir().then_some(facts))
}
