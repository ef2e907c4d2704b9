//! `orkd agent`: this machine as a node of a cluster that runs elsewhere.

use crate::cli::AgentArgs;

/// Runs `orkd agent`.
///
/// # Errors
/// What keeps it from starting, or the task that failed.
pub async fn run(_args: AgentArgs) -> anyhow::Result<()> {
    anyhow::bail!("joining is not there yet")
}
