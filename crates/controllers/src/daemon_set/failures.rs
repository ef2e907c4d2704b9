//! How long the failed pods of a daemon set stay before they are replaced: a second, doubled with each failure on the
//! node, a quarter of an hour at most (`failedPodsBackoff`). Forgotten twice that time after the last failure.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use jiff::Timestamp;
use orkd_reconcile::Key;
use parking_lot::Mutex;

/// The longest wait, in seconds.
const LONGEST: i64 = 900;

/// The failures of all daemon sets.
#[derive(Default)]
pub struct Failures(Mutex<HashMap<Key, HashMap<String, Failed>>>);

#[derive(Clone, Copy)]
struct Failed {
    times: u32,
    last: Timestamp,
}

impl Failed {
    /// For how many seconds the next failed pod stays.
    fn left(self, now: Timestamp) -> i64 {
        let wait = (1_i64 << self.times.saturating_sub(1).min(10)).min(LONGEST);
        (self.last.as_second() + wait - now.as_second()).max(0)
    }
}

impl Failures {
    /// Notes that the failed pod of a node was given up.
    pub fn note(&self, set: &Key, node: &str, now: Timestamp) {
        let mut all = self.0.lock();
        let of_set = all.entry(set.clone()).or_default();
        of_set.retain(|_, f| now.as_second() - f.last.as_second() < 2 * LONGEST);
        let failed = of_set.entry(node.to_owned()).or_insert(Failed { times: 0, last: now });
        failed.times = failed.times.saturating_add(1);
        failed.last = now;
    }

    /// Nodes whose failed pods stay for now.
    pub fn held_back(&self, set: &Key, now: Timestamp) -> HashSet<String> {
        let all = self.0.lock();
        let held = all.get(set).into_iter().flatten().filter(|(_, f)| f.left(now) > 0);
        held.map(|(node, _)| node.clone()).collect()
    }

    /// When the first of them may go.
    pub fn next(&self, set: &Key, now: Timestamp) -> Option<Duration> {
        let all = self.0.lock();
        let left = all.get(set).into_iter().flatten().map(|(_, f)| f.left(now)).filter(|l| *l > 0).min();
        left.map(|l| Duration::from_secs(l.unsigned_abs()))
    }

    /// Forgets a set.
    pub fn forget(&self, set: &Key) {
        self.0.lock().remove(set);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_wait_ever_longer() {
        let (failures, set) = (Failures::default(), Key::new("n", "agent"));
        let at = |second| Timestamp::from_second(second).expect("a time");
        assert!(failures.held_back(&set, at(0)).is_empty());
        for (failure, wait) in [1, 2, 4, 8].into_iter().enumerate() {
            let now = i64::try_from(failure).unwrap_or(0) * 100;
            failures.note(&set, "a", at(now));
            assert_eq!(failures.next(&set, at(now)), Some(Duration::from_secs(wait)));
            assert!(failures.held_back(&set, at(now + 200)).is_empty());
        }
        failures.forget(&set);
        assert_eq!(failures.next(&set, at(400)), None);
    }
}
