//! Fixed limits on requests in flight (`server/filters/maxinflight.go`), for servers without priority and fairness.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::route::RequestInfo;

/// The limits.
pub struct Flow {
    reads: Arc<Semaphore>,
    writes: Arc<Semaphore>,
}

/// Leave to be in flight; given back when dropped.
#[derive(Default)]
pub struct Permit(#[expect(dead_code, reason = "held for its drop")] Option<OwnedSemaphorePermit>);

impl Flow {
    /// Limits for requests that read and that change.
    pub fn new(reads: usize, writes: usize) -> Self {
        Flow { reads: Arc::new(Semaphore::new(reads)), writes: Arc::new(Semaphore::new(writes)) }
    }

    /// Leave for a request; `None` if there are too many.
    pub fn enter(&self, info: &RequestInfo) -> Option<Permit> {
        let reads = matches!(info.verb.as_str(), "get" | "list" | "head");
        let limit = if reads { &self.reads } else { &self.writes };
        limit.clone().try_acquire_owned().ok().map(|p| Permit(Some(p)))
    }
}

impl Default for Flow {
    /// Upstream's defaults: 400 and 200.
    fn default() -> Self {
        Flow::new(400, 200)
    }
}
