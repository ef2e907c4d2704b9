//! `cargo bench -p orkd-store [-- DIRECTORY]`: the embedded store's numbers beside its budget.

use std::time::Duration;

fn main() {
    let directory = std::env::args().skip(1).find(|argument| !argument.starts_with("--"));
    let directory = directory.map_or_else(std::env::temp_dir, Into::into);
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    match runtime.block_on(orkd_store::bench::run(&directory, Duration::from_secs(3))) {
        Ok(figures) => figures.iter().for_each(|figure| println!("{figure}")),
        Err(error) => {
            eprintln!("the bench failed: {error}");
            std::process::exit(1);
        }
    }
}
