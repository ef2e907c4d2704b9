//! What can be set.

use std::time::Duration;

use crate::hub;

/// Options of [`Embedded`](super::Embedded).
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Memory the engine may use for pages.
    pub cache_bytes: usize,
    /// History is kept for at least so long, unless `history_revisions` is reached before.
    pub history: Duration,
    /// At most so many revisions of history are kept.
    pub history_revisions: u64,
    /// How many KiB of transactions may wait for the writer; callers wait when it is full.
    pub queue_kib: usize,
    /// Bounds of watches.
    pub hub: hub::Limits,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            cache_bytes: 6 << 20,
            history: Duration::from_secs(300),
            history_revisions: 200_000,
            queue_kib: 16 << 10,
            hub: hub::Limits::default(),
        }
    }
}
