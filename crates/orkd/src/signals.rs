//! Signals: the first asks to end, a second ends at once.

use std::time::Duration;

use orkd_base::Supervisor;
use tokio::signal::unix::{SignalKind, signal};
use tracing::{error, info};

/// How long everything together may take to end.
const GRACE: Duration = Duration::from_secs(25);

/// Waits for SIGTERM, SIGINT or a failed task, then ends all tasks in order. A second signal exits at once.
///
/// # Errors
/// The task that failed.
pub async fn run_until_stopped(supervisor: &Supervisor) -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let fatal = tokio::select! {
        _ = terminate.recv() => None,
        _ = interrupt.recv() => None,
        fatal = supervisor.failed() => Some(fatal),
    };
    match &fatal {
        None => info!("stopping"),
        Some(fatal) => error!(task = fatal.task, error = fatal.error, "stopping because a task failed"),
    }
    tokio::spawn(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        std::process::exit(130);
    });
    supervisor.shutdown(GRACE).await;
    match fatal {
        None => Ok(()),
        Some(fatal) => anyhow::bail!("{}: {}", fatal.task, fatal.error),
    }
}
