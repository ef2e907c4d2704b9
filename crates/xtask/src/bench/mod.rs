//! Benches: what is measured is printed beside its budget.

mod start;

use std::path::PathBuf;
use std::time::Duration;

use anyhow::Result;
use clap::Subcommand;

/// What to measure.
#[derive(Subcommand)]
pub enum What {
    /// A one-node cluster from an empty directory: start, first answer, pods, memory, idle cost.
    ///
    /// Needs root and what the node tests need. Measures `$ORKD_BIN`, or target/release/orkd.
    Start,
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
        What::Start => start::run(),
        What::Store { directory } => {
            let runtime = tokio::runtime::Runtime::new()?;
            for figure in runtime.block_on(orkd_store::bench::run(directory, Duration::from_secs(3)))? {
                println!("{figure}");
            }
            Ok(())
        }
    }
}
