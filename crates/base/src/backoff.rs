//! Exponential back-off.

use std::time::Duration;

/// Waits that grow by a factor up to a cap, spread by jitter, and start again after [`Backoff::reset`].
///
/// ```
/// use std::time::Duration;
/// let mut backoff = orkd_base::Backoff::new(Duration::from_millis(100), Duration::from_secs(1)).without_jitter();
/// assert_eq!(backoff.next_delay(), Duration::from_millis(100));
/// assert_eq!(backoff.next_delay(), Duration::from_millis(200));
/// backoff.reset();
/// assert_eq!(backoff.next_delay(), Duration::from_millis(100));
/// ```
#[derive(Clone, Debug)]
pub struct Backoff {
    initial: Duration,
    cap: Duration,
    factor: f64,
    jitter: f64,
    current: Option<Duration>,
}

impl Backoff {
    /// Doubles from `initial` to `cap`; each wait is lengthened by up to half at random.
    pub fn new(initial: Duration, cap: Duration) -> Self {
        Backoff { initial, cap, factor: 2.0, jitter: 0.5, current: None }
    }

    /// Another factor of growth; below 1 counts as 1.
    pub fn factor(mut self, factor: f64) -> Self {
        self.factor = factor.max(1.0);
        self
    }

    /// Another share of jitter: 0.1 lengthens each wait by up to a tenth.
    pub fn jitter(mut self, jitter: f64) -> Self {
        self.jitter = jitter.clamp(0.0, 1.0);
        self
    }

    /// No jitter, for tests.
    pub fn without_jitter(self) -> Self {
        self.jitter(0.0)
    }

    /// How long to wait now; the next wait is longer. Jitter may exceed the cap by its share.
    pub fn next_delay(&mut self) -> Duration {
        let delay = match self.current {
            None => self.initial,
            Some(last) => last.mul_f64(self.factor),
        }
        .min(self.cap);
        self.current = Some(delay);
        if self.jitter > 0.0 { delay.mul_f64(1.0 + self.jitter * rand::random::<f64>()) } else { delay }
    }

    /// Starts from the initial wait again.
    pub fn reset(&mut self) {
        self.current = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grows_to_its_cap_and_jitters_within_its_share() {
        let mut backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(5));
        for base in [1, 2, 4, 5, 5] {
            let delay = backoff.next_delay().as_secs_f64();
            assert!(delay >= f64::from(base) && delay <= f64::from(base) * 1.5, "{delay} from {base}");
        }
    }
}
