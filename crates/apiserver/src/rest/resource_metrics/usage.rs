//! What is used, told from two looks (pure).
//!
//! Upstream: `resourceUsage` and `podStorage` of `pkg/storage` in `sigs.k8s.io/metrics-server`.

use super::sample::{Containers, Point, Sample};

/// Looks nearer than this say nothing of CPU, in milliseconds.
const LEAST: i64 = 900;
/// A container that started after the look before is measured from its start on, if it is older than this.
const FRESH: i64 = 2000;

/// Two looks at a node.
#[derive(Clone, Debug, Default)]
pub struct Looks {
    /// The one before.
    pub before: Sample,
    /// The last one.
    pub last: Sample,
}

/// What something uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Usage {
    /// When the last look was taken, in milliseconds since 1970.
    pub at: i64,
    /// The time before that over which CPU is averaged, in milliseconds.
    pub window: i64,
    /// Billionths of a core.
    pub cpu: u64,
    /// Bytes.
    pub memory: u64,
}

/// What something uses, from its last point and one before. It must not have started anew in between.
fn usage(last: &Point, before: Option<&Point>) -> Option<Usage> {
    let lasted = |before: &&Point| last.started.is_none_or(|started| started <= before.at);
    let base = match before.filter(lasted) {
        Some(before) => *before,
        None => {
            let started = last.started.filter(|s| last.at.saturating_sub(*s) >= FRESH)?;
            Point { at: started, cpu: 0, ..*last }
        }
    };
    let window = last.at.checked_sub(base.at).filter(|w| *w >= LEAST)?;
    let grown = u128::from(last.cpu.checked_sub(base.cpu)?);
    let cpu = u64::try_from(grown * 1000 / u128::from(window.unsigned_abs())).ok()?;
    Some(Usage { at: last.at, window, cpu, memory: last.memory })
}

impl Looks {
    /// What the node uses.
    pub fn node(&self) -> Option<Usage> {
        usage(self.last.node.as_ref()?, Some(self.before.node.as_ref()?))
    }

    /// What each container of a pod (`NAMESPACE/NAME`) uses, by name; none unless that is known of all.
    pub fn pod(&self, key: &str) -> Option<Vec<(&str, Usage)>> {
        let before: Option<&Containers> = self.before.pods.get(key);
        let mut all: Vec<(&str, Usage)> = Vec::new();
        for (name, last) in self.last.pods.get(key)? {
            all.push((name, usage(last, before.and_then(|b| b.get(name)))?));
        }
        all.sort_unstable_by_key(|(name, _)| *name);
        (!all.is_empty()).then_some(all)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CORE: u64 = 1_000_000_000;

    fn point(at: i64, started: Option<i64>, cpu: u64) -> Point {
        Point { at, started, cpu, memory: 5 }
    }

    #[test]
    fn cpu_is_what_was_added_between_the_looks() {
        let check = |before: Option<Point>, last: Point, expected: Option<(i64, u64)>| {
            let got = usage(&last, before.as_ref());
            assert_eq!(got.map(|u| (u.window, u.cpu)), expected, "{before:?} {last:?}");
            assert!(got.is_none_or(|u| u.at == last.at && u.memory == 5));
        };
        let (old, late) = (Some(0), Some(50_000));
        check(Some(point(40_000, old, 3 * CORE)), point(55_000, old, 18 * CORE), Some((15_000, CORE)));
        check(Some(point(40_000, None, 0)), point(41_000, None, CORE / 2), Some((1000, CORE / 2)));
        // Too near, of the same moment, or of the past.
        check(Some(point(54_500, old, 0)), point(55_000, old, CORE), None);
        check(Some(point(55_000, old, 0)), point(55_000, old, 0), None);
        check(Some(point(56_000, old, 0)), point(55_000, old, 0), None);
        // A counter that went back.
        check(Some(point(40_000, old, 3 * CORE)), point(55_000, old, CORE), None);
        // Started since: from nothing, once it has run for a moment.
        check(Some(point(40_000, old, 9 * CORE)), point(55_000, late, CORE), Some((5000, CORE / 5)));
        check(None, point(55_000, late, 5 * CORE), Some((5000, CORE)));
        check(None, point(51_000, late, CORE), None);
        check(None, point(55_000, None, CORE), None);
    }

    #[test]
    fn a_pod_is_known_whole_or_not_at_all() {
        let sample = |points: &[(&str, Point)]| {
            let containers: Containers = points.iter().map(|(name, p)| ((*name).into(), *p)).collect();
            Sample {
                node: Some(point(points[0].1.at, None, points[0].1.cpu)),
                pods: [("n/p".into(), containers)].into(),
            }
        };
        let before = sample(&[("a", point(0, None, 0))]);
        let last = sample(&[("b", point(10_000, Some(9500), CORE)), ("a", point(10_000, None, CORE))]);
        let looks = Looks { before, last };
        assert_eq!(looks.pod("n/p"), None, "b is too young");
        assert_eq!(looks.node().map(|u| u.cpu), Some(CORE / 10));
        let before = sample(&[("b", point(0, None, 0)), ("a", point(0, None, 0))]);
        let looks = Looks { before, last: sample(&[("b", point(10_000, None, CORE)), ("a", point(10_000, None, 0))]) };
        let known: Vec<_> = looks.pod("n/p").expect("known").into_iter().map(|(n, u)| (n, u.cpu)).collect();
        assert_eq!(known, [("a", 0), ("b", CORE / 10)]);
        assert_eq!(looks.pod("n/other"), None);
    }
}
