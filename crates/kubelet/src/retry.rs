//! Back-off of restarts and pulls, by key: 10 s doubling to 5 min, forgotten after 10 min without trouble. Follows
//! client-go's `flowcontrol.Backoff`, which the texts of CrashLoopBackOff come from. The clock is a parameter.

use std::collections::HashMap;
use std::time::Duration;

use k8s_openapi::jiff::Timestamp;

/// The first wait.
const INITIAL: Duration = Duration::from_secs(10);
/// The longest wait.
pub const MAX: Duration = Duration::from_secs(300);

/// Waits by key.
#[derive(Debug, Clone, Default)]
pub struct Retries(HashMap<String, (Duration, Timestamp)>);

fn since(from: Timestamp, to: Timestamp) -> Duration {
    Duration::try_from(to.duration_since(from)).unwrap_or_default()
}

impl Retries {
    /// How long after `event` the key still has to wait; `None` if it may go on.
    pub fn waiting(&self, key: &str, event: Timestamp, now: Timestamp) -> Option<Duration> {
        let (wait, updated) = self.0.get(key)?;
        if since(*updated, event) > MAX * 2 {
            return None;
        }
        wait.checked_sub(since(event, now)).filter(|left| !left.is_zero())
    }

    /// The wait in force.
    pub fn wait(&self, key: &str) -> Duration {
        self.0.get(key).map_or(Duration::ZERO, |(wait, _)| *wait)
    }

    /// When the key's wait was last lengthened.
    pub fn updated(&self, key: &str) -> Option<Timestamp> {
        self.0.get(key).map(|(_, at)| *at)
    }

    /// Lengthens the wait.
    pub fn lengthen(&mut self, key: &str, event: Timestamp, now: Timestamp) {
        let wait = match self.0.get(key) {
            Some((wait, updated)) if since(*updated, event) <= MAX * 2 => (*wait * 2).min(MAX),
            _ => INITIAL,
        };
        self.0.retain(|_, (_, updated)| since(*updated, now) <= MAX * 2);
        self.0.insert(key.to_owned(), (wait, now));
    }

    /// Forgets a key.
    pub fn forget(&mut self, key: &str) {
        self.0.remove(key);
    }
}

/// A duration as Go prints it, in whole seconds: `10s`, `2m40s`, `5m0s`.
pub fn go_seconds(duration: Duration) -> String {
    let total = duration.as_secs();
    match (total / 3600, total / 60 % 60, total % 60) {
        (0, 0, s) => format!("{s}s"),
        (0, m, s) => format!("{m}m{s}s"),
        (h, m, s) => format!("{h}h{m}m{s}s"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_and_are_forgotten() {
        let at = |s: i64| Timestamp::from_second(s).unwrap_or_default();
        let mut retries = Retries::default();
        assert_eq!(retries.waiting("k", at(0), at(0)), None);
        retries.lengthen("k", at(0), at(0));
        assert_eq!(retries.waiting("k", at(3), at(5)), Some(Duration::from_secs(8)));
        assert_eq!(retries.waiting("k", at(3), at(13)), None);
        retries.lengthen("k", at(3), at(13));
        assert_eq!(retries.wait("k"), Duration::from_secs(20));
        for n in 0..10 {
            retries.lengthen("k", at(20 + n), at(20 + n));
        }
        assert_eq!(retries.wait("k"), MAX);
        assert_eq!(retries.waiting("k", at(2000), at(2001)), None, "quiet for long enough");
        retries.lengthen("other", at(3000), at(3000));
        assert_eq!((retries.updated("k"), retries.updated("other")), (None, Some(at(3000))), "old ones go");
        assert_eq!(go_seconds(MAX), "5m0s");
        assert_eq!(go_seconds(Duration::from_secs(10)), "10s");
    }
}
