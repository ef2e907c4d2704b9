//! The cluster harness of the integration and node tests: machines made of namespaces ([`machine`]), orkd
//! processes in them ([`cluster`]), stock clients ([`kubectl`]), plain requests ([`client`]), pages whose commands
//! are run ([`session`]), and level-triggered waiting ([`eventually`]).
//!
//! Nothing here touches the network of the machine that runs the tests: every address belongs to a namespace
//! that the test made. When a [`machine::Machine`] is dropped, everything in it ends with its process
//! namespace.

pub mod client;
pub mod cluster;
pub mod kubectl;
pub mod machine;
pub mod session;
pub mod terminal;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Puts another file in the place of the old one, as editors do.
///
/// # Errors
/// What the file system says.
pub fn replace(file: &Path, text: &str) -> anyhow::Result<()> {
    let new = file.with_extension("new");
    std::fs::write(&new, text)?;
    std::fs::rename(&new, file)?;
    Ok(())
}

/// Waits until `probe` gives a value, trying again every 50 ms; the last thing it said is in the failure.
///
/// # Errors
/// The last complaint of `probe` after `limit`.
pub fn eventually<T>(what: &str, limit: Duration, mut probe: impl FnMut() -> Result<T, String>) -> anyhow::Result<T> {
    let start = Instant::now();
    loop {
        match probe() {
            Ok(value) => return Ok(value),
            Err(last) if start.elapsed() > limit => {
                anyhow::bail!("{what}: not within {limit:?}; last seen: {last}")
            }
            Err(_) => std::thread::sleep(Duration::from_millis(50)),
        }
    }
}

/// The workspace's root directory.
pub fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// The orkd binary under test: `$ORKD_BIN`, or the one beside this test in the target directory.
pub fn orkd() -> PathBuf {
    if let Some(path) = std::env::var_os("ORKD_BIN") {
        return path.into();
    }
    let mut path = std::env::current_exe().expect("a process knows its file");
    path.pop();
    if path.ends_with("deps") {
        path.pop();
    }
    path.join("orkd")
}

/// Where the recorded facts are; `None` (said on standard output) in a clone that has none.
pub fn shared() -> Option<PathBuf> {
    let path = std::env::var_os("ORKD_SHARED").map(PathBuf::from).unwrap_or_else(|| root().join("../shared"));
    if path.join("kubernetes-1.36").is_dir() {
        return Some(path);
    }
    println!("skipped: no ../shared beside this clone");
    None
}

/// Whether this process may make namespaces and run containers; says so where it may not.
pub fn is_root() -> bool {
    let root = nix::unistd::geteuid().is_root();
    if !root {
        println!("skipped: needs root");
    }
    root
}
