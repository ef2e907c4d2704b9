//! The time as a value that tests move on.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use jiff::Timestamp;
use tokio::sync::Notify;
use tokio::time::Instant;

/// Tells the time, and waits for it: the machine's clock, or one that a test moves on.
///
/// ```
/// use orkd_base::Clock;
/// use std::time::Duration;
/// let clock = Clock::movable();
/// let before = clock.now();
/// clock.advance(Duration::from_secs(3600));
/// assert!(clock.now().duration_since(before).as_secs() >= 3600);
/// ```
#[derive(Clone, Debug, Default)]
pub struct Clock(Option<Arc<Moved>>);

/// How far a clock was moved on.
#[derive(Debug, Default)]
struct Moved {
    micros: AtomicU64,
    again: Notify,
}

impl Clock {
    /// The machine's clock.
    pub fn real() -> Self {
        Clock(None)
    }

    /// A clock that runs as the machine's does, ahead of it by what it was advanced. Short waits, such as a back-off after a
    /// lost race, end by themselves; a test need not know of them.
    pub fn movable() -> Self {
        Clock(Some(Arc::default()))
    }

    /// How far it was moved on in all. What was decided before a move is to be decided anew.
    pub fn moved(&self) -> Duration {
        self.0.as_ref().map_or(Duration::ZERO, |moved| Duration::from_micros(moved.micros.load(Ordering::SeqCst)))
    }

    /// The time.
    pub fn now(&self) -> Timestamp {
        let now = Timestamp::now();
        now.checked_add(self.moved()).unwrap_or(Timestamp::MAX)
    }

    /// The moment that it is, to measure and to wait by. Moments of different clocks have nothing to do with each other.
    pub fn instant(&self) -> Instant {
        Instant::now() + self.moved()
    }

    /// Waits for a moment; it comes at once when the clock is moved past it.
    pub async fn sleep_until(&self, at: Instant) {
        let Some(moved) = &self.0 else { return tokio::time::sleep_until(at).await };
        loop {
            // Made before the look at the clock: no move is missed.
            let again = moved.again.notified();
            let left = at.saturating_duration_since(self.instant());
            if left.is_zero() {
                return;
            }
            // Whichever comes first, the clock is looked at again.
            let _ = tokio::time::timeout(left, again).await;
        }
    }

    /// Waits for a while.
    pub async fn sleep(&self, time: Duration) {
        self.sleep_until(self.instant() + time).await;
    }

    /// Moves a movable clock on and ends the waits that are over then; the machine's clock is not moved.
    pub fn advance(&self, by: Duration) {
        if let Some(moved) = &self.0 {
            moved.micros.fetch_add(u64::try_from(by.as_micros()).unwrap_or(u64::MAX), Ordering::SeqCst);
            moved.again.notify_waiters();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_wait_ends_when_the_clock_is_moved_past_it() {
        let clock = Clock::movable();
        let started = Instant::now();
        let wait = |seconds| clock.sleep(Duration::from_secs(seconds));
        let moves = async {
            // It is polled after the waits: they have begun.
            clock.advance(Duration::from_secs(100));
            Instant::now()
        };
        let (_, _, moved) = tokio::join!(wait(60), async { wait(130).await }, moves);
        assert_eq!(moved, started, "nothing else has passed");
        assert_eq!(started.elapsed(), Duration::from_secs(30), "what the move left of the longer wait");
        assert!(clock.instant() >= started + Duration::from_secs(130));
    }
}
