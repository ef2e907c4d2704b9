//! How fast counters go, from what was seen of them before (pure).
//!
//! Nothing is sampled while nobody asks, so the distance between two looks is whatever it is. A rate is told between
//! two looks that are far enough apart to mean something and near enough to be about the present; what started in
//! between began at nothing. Otherwise there is none, and whoever wants one looks again a moment later.

use std::collections::HashMap;

use jiff::{SignedDuration, Timestamp};

/// Looks nearer than this are one.
const LEAST: SignedDuration = SignedDuration::from_millis(900);
/// What was seen longer ago than this says nothing about now.
const MOST: SignedDuration = SignedDuration::from_secs(90);

/// A counter as it was seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Point {
    /// When.
    pub at: Timestamp,
    /// The counter, in nanoseconds.
    pub count: u64,
}

/// What was seen of each counter.
#[derive(Debug, Default)]
pub struct History(HashMap<String, Track>);

#[derive(Debug)]
struct Track {
    /// What rates are told from.
    base: Option<Point>,
    latest: Point,
}

impl History {
    /// Takes note of a counter; how much it grows in a second, if that can be told. `born` is when it was nothing.
    pub fn observe(&mut self, key: &str, now: Point, born: Option<Timestamp>) -> Option<u64> {
        let track = self.0.entry(key.to_owned()).or_insert(Track { base: None, latest: now });
        if now.count < track.latest.count {
            // A counter never goes back: this is another one.
            *track = Track { base: None, latest: now };
        } else if now.at.duration_since(track.latest.at) >= LEAST {
            *track = Track { base: Some(track.latest), latest: now };
        }
        let born = born.map(|at| Point { at, count: 0 });
        track.base.and_then(|base| rate(base, now)).or_else(|| rate(born?, now))
    }

    /// Forgets what is gone.
    pub fn keep(&mut self, alive: impl Fn(&str) -> bool) {
        self.0.retain(|key, _| alive(key));
    }
}

/// What a second brought between two looks.
fn rate(from: Point, to: Point) -> Option<u64> {
    let window = to.at.duration_since(from.at);
    if !(LEAST..=MOST).contains(&window) {
        return None;
    }
    let grown = u128::from(to.count.checked_sub(from.count)?);
    let nanos = window.as_nanos().unsigned_abs();
    u64::try_from(grown * 1_000_000_000 / nanos).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    fn at(millis: i64) -> Timestamp {
        Timestamp::from_millisecond(1_700_000_000_000 + millis).unwrap_or_default()
    }

    /// Looks at one counter: milliseconds, count, milliseconds of its birth; what each look tells.
    fn check(looks: &[(i64, u64, Option<i64>, Option<u64>)]) {
        let mut history = History::default();
        for (i, (millis, count, born, expected)) in looks.iter().enumerate() {
            let got = history.observe("c", Point { at: at(*millis), count: *count }, born.map(at));
            assert_eq!(got, *expected, "look {i} of {looks:?}");
        }
    }

    #[test]
    fn a_rate_needs_two_looks_apart() {
        check(&[(0, 0, None, None), (1000, SECOND, None, Some(SECOND)), (11_000, 6 * SECOND, None, Some(SECOND / 2))]);
    }

    #[test]
    fn looks_too_near_are_told_from_the_one_before() {
        check(&[
            (0, 0, None, None),
            (10, 5, None, None),
            (1000, SECOND, None, Some(SECOND)),
            (1500, 2 * SECOND, None, Some(1_333_333_333)),
            (2000, 2 * SECOND, None, Some(SECOND)),
        ]);
    }

    #[test]
    fn what_was_seen_long_ago_says_nothing() {
        check(&[(0, 0, None, None), (100_000, SECOND, None, None), (101_000, 2 * SECOND, None, Some(SECOND))]);
    }

    #[test]
    fn what_started_lately_began_at_nothing() {
        check(&[(10_000, 5 * SECOND, Some(0), Some(SECOND / 2)), (10_500, 5 * SECOND, Some(10_000), None)]);
        check(&[(100_000, 5 * SECOND, Some(0), None)]);
    }

    #[test]
    fn a_counter_that_went_back_is_another_one() {
        check(&[(0, 5 * SECOND, None, None), (2000, SECOND, None, None), (3000, 2 * SECOND, None, Some(SECOND))]);
    }

    #[test]
    fn what_is_gone_is_forgotten() {
        let mut history = History::default();
        for key in ["a", "b"] {
            history.observe(key, Point { at: at(0), count: 1 }, None);
        }
        history.keep(|key| key == "b");
        assert_eq!(history.0.len(), 1);
    }
}
