//! The time as a value that tests own.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use jiff::Timestamp;

/// Tells the time: the machine's, or a test's own.
///
/// ```
/// use orkd_base::Clock;
/// let clock = Clock::fake("2026-01-01T00:00:00Z".parse().unwrap());
/// clock.advance(std::time::Duration::from_secs(5));
/// assert_eq!(clock.now().to_string(), "2026-01-01T00:00:05Z");
/// ```
#[derive(Clone, Debug, Default)]
pub struct Clock(Option<Arc<AtomicI64>>);

impl Clock {
    /// The machine's clock.
    pub fn real() -> Self {
        Clock(None)
    }

    /// A clock that stands at `start` until it is advanced.
    pub fn fake(start: Timestamp) -> Self {
        Clock(Some(Arc::new(AtomicI64::new(start.as_microsecond()))))
    }

    /// The time.
    pub fn now(&self) -> Timestamp {
        match &self.0 {
            None => Timestamp::now(),
            Some(micros) => Timestamp::from_microsecond(micros.load(Ordering::SeqCst)).unwrap_or(Timestamp::MAX),
        }
    }

    /// Moves a fake clock on; the machine's clock is not moved.
    pub fn advance(&self, by: Duration) {
        if let Some(micros) = &self.0 {
            micros.fetch_add(i64::try_from(by.as_micros()).unwrap_or(i64::MAX), Ordering::SeqCst);
        }
    }
}
