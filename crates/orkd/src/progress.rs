//! What a start is waiting for, told in the log.

use std::time::{Duration, Instant};

use tracing::{info, warn};

/// Tells the steps of a start with the time since its beginning.
#[derive(Clone, Copy, Debug)]
pub struct Progress(Instant);

impl Progress {
    /// The start begins now.
    pub fn begin() -> Progress {
        Progress(Instant::now())
    }

    /// A step is done.
    pub fn done(&self, what: &str) {
        info!(after_ms = self.0.elapsed().as_millis() as u64, "{what}");
    }

    /// Waits for a step, and says every five seconds that it still does.
    pub async fn wait<T>(&self, what: &str, step: impl Future<Output = T>) -> T {
        tokio::pin!(step);
        loop {
            match tokio::time::timeout(Duration::from_secs(5), &mut step).await {
                Ok(value) => return value,
                Err(_) => warn!(after_s = self.0.elapsed().as_secs(), "still waiting for {what}"),
            }
        }
    }
}
