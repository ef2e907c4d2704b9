//! Tasks of the workspace: `cargo xtask <task>`.

mod gen_cri;

use anyhow::{Result, bail};

fn main() -> Result<()> {
    match std::env::args().nth(1).as_deref() {
        Some("gen-cri") => gen_cri::run(),
        _ => bail!("usage: cargo xtask gen-cri"),
    }
}
