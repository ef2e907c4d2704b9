//! How fast the number of pods may change: stabilisation and rates, pure.
//!
//! Follows `normalizeDesiredReplicas` and `normalizeDesiredReplicasWithBehaviors` of `horizontal.go`.

use jiff::{SignedDuration, Timestamp};
use serde_json::Value;

/// How long a lower recommendation waits where an autoscaler does not say
/// (`--horizontal-pod-autoscaler-downscale-stabilization`).
const STABILIZATION: i64 = 300;

/// What is remembered of one autoscaler.
#[derive(Debug, Default)]
pub(super) struct History {
    recommendations: Vec<(Timestamp, i32)>,
    ups: Vec<(Timestamp, i32)>,
    downs: Vec<(Timestamp, i32)>,
}

/// Between which numbers the decision falls.
pub(super) struct Bounds {
    pub(super) current: i32,
    pub(super) least: i32,
    pub(super) most: i32,
}

/// The decision, with reason and message of the two conditions.
#[derive(Debug, PartialEq)]
pub(super) struct Decision {
    pub(super) replicas: i32,
    pub(super) stabilized: (&'static str, &'static str),
    pub(super) limited: (&'static str, &'static str),
    pub(super) is_limited: bool,
}

const READY: (&str, &str) = ("ReadyForNewScale", "recommended size matches current size");
const LOWEST: (&str, &str) = (
    "ScaleUpStabilized",
    "recent recommendations were lower than current one, applying the lowest recent recommendation",
);
const HIGHEST: (&str, &str) = (
    "ScaleDownStabilized",
    "recent recommendations were higher than current one, applying the highest recent recommendation",
);
const IN_RANGE: (&str, &str) = ("DesiredWithinRange", "the desired count is within the acceptable range");
const TOO_MANY: (&str, &str) = ("TooManyReplicas", "the desired replica count is more than the maximum replica count");
const TOO_FEW: (&str, &str) = ("TooFewReplicas", "the desired replica count is less than the minimum replica count");
const TOO_FAST_UP: (&str, &str) =
    ("ScaleUpLimit", "the desired replica count is increasing faster than the maximum scale rate");
const TOO_FAST_DOWN: (&str, &str) =
    ("ScaleDownLimit", "the desired replica count is decreasing faster than the maximum scale rate");

/// The rules of one direction.
struct Rules {
    window: i64,
    select: String,
    policies: Vec<Policy>,
}

struct Policy {
    percent: bool,
    value: i32,
    period: i64,
}

impl Rules {
    fn of(behavior: &Value, up: bool) -> Self {
        let rules = &behavior[if up { "scaleUp" } else { "scaleDown" }];
        let window = rules["stabilizationWindowSeconds"].as_i64();
        let mut policies: Vec<Policy> = rules["policies"]
            .as_array()
            .into_iter()
            .flatten()
            .map(|p| Policy {
                percent: p["type"] == "Percent",
                value: p["value"].as_i64().and_then(|v| i32::try_from(v).ok()).unwrap_or(0),
                period: p["periodSeconds"].as_i64().unwrap_or(15),
            })
            .collect();
        if policies.is_empty() {
            policies.push(Policy { percent: true, value: 100, period: 15 });
            if up {
                policies.push(Policy { percent: false, value: 4, period: 15 });
            }
        }
        Rules {
            window: window.unwrap_or(if up { 0 } else { STABILIZATION }),
            select: rules["selectPolicy"].as_str().unwrap_or("Max").to_owned(),
            policies,
        }
    }

    fn longest(&self) -> i64 {
        self.policies.iter().map(|p| p.period).max().unwrap_or(0)
    }
}

fn ago(now: Timestamp, seconds: i64) -> Timestamp {
    now.checked_sub(SignedDuration::from_secs(seconds)).unwrap_or(Timestamp::MIN)
}

impl History {
    /// An autoscaler that was just met: the number that stands is its first recommendation.
    pub(super) fn starting_at(current: i32, now: Timestamp) -> Self {
        History { recommendations: vec![(now, current)], ..History::default() }
    }

    /// Remembers a change of the target.
    pub(super) fn changed(&mut self, behavior: Option<&Value>, from: i32, to: i32, now: Timestamp) {
        let Some(behavior) = behavior.filter(|b| b.is_object()) else { return };
        let (events, up) = if to > from { (&mut self.ups, true) } else { (&mut self.downs, false) };
        let old = ago(now, Rules::of(behavior, up).longest());
        events.retain(|(at, _)| *at >= old);
        events.push((now, (to - from).abs()));
    }

    fn changes(events: &[(Timestamp, i32)], period: i64, now: Timestamp) -> i32 {
        let since = ago(now, period);
        events.iter().filter(|(at, _)| *at > since).map(|(_, n)| n).sum()
    }

    /// How many pods there were a period ago.
    fn at_start_of(&self, current: i32, period: i64, now: Timestamp) -> i32 {
        current - Self::changes(&self.ups, period, now) + Self::changes(&self.downs, period, now)
    }
}

/// Decides how many pods there shall be, when the metrics ask for `wanted`.
pub(super) fn decide(
    history: &mut History,
    behavior: Option<&Value>,
    bounds: &Bounds,
    wanted: i32,
    now: Timestamp,
) -> Decision {
    match behavior.filter(|b| b.is_object()) {
        None => plainly(history, bounds, wanted, now),
        Some(behavior) => by_rules(history, behavior, bounds, wanted, now),
    }
}

/// Without rules: down no lower than the last five minutes asked for, up to twice as many or four.
fn plainly(history: &mut History, bounds: &Bounds, wanted: i32, now: Timestamp) -> Decision {
    let old = ago(now, STABILIZATION);
    history.recommendations.retain(|(at, _)| *at >= old);
    let highest = history.recommendations.iter().map(|(_, n)| *n).max().unwrap_or(wanted).max(wanted);
    history.recommendations.push((now, wanted));
    let fast = bounds.current.saturating_mul(2).max(4);
    let (most, why) = if bounds.most > fast { (fast, TOO_FAST_UP) } else { (bounds.most, TOO_MANY) };
    let (replicas, limited) = if highest < bounds.least {
        (bounds.least, TOO_FEW)
    } else if highest > most {
        (most, why)
    } else {
        (highest, IN_RANGE)
    };
    Decision {
        replicas,
        stabilized: if highest == wanted { READY } else { HIGHEST },
        limited,
        is_limited: replicas != highest,
    }
}

fn by_rules(history: &mut History, behavior: &Value, bounds: &Bounds, wanted: i32, now: Timestamp) -> Decision {
    let (up, down) = (Rules::of(behavior, true), Rules::of(behavior, false));
    let current = bounds.current;
    let (mut lowest, mut highest) = (wanted, wanted);
    for (at, recommended) in &history.recommendations {
        if *at > ago(now, up.window) {
            lowest = lowest.min(*recommended);
        }
        if *at > ago(now, down.window) {
            highest = highest.max(*recommended);
        }
    }
    // Between the lowest and the highest of late, what stands is kept.
    let stable = current.max(lowest).min(highest);
    let old = ago(now, up.window.max(down.window));
    history.recommendations.retain(|(at, _)| *at >= old);
    history.recommendations.push((now, wanted));
    let stabilized = match () {
        () if stable == wanted => READY,
        () if wanted >= current => LOWEST,
        () => HIGHEST,
    };

    let (replicas, limited) = if stable > current {
        let limit = up_limit(history, &up, current, now).max(current);
        let (most, why) = if bounds.most > limit { (limit, TOO_FAST_UP) } else { (bounds.most, TOO_MANY) };
        if stable > most { (most, why) } else { (stable, IN_RANGE) }
    } else if stable < current {
        let limit = down_limit(history, &down, current, now).min(current);
        let (least, why) = if bounds.least < limit { (limit, TOO_FAST_DOWN) } else { (bounds.least, TOO_FEW) };
        if stable < least { (least, why) } else { (stable, IN_RANGE) }
    } else {
        (stable, IN_RANGE)
    };
    Decision { replicas, stabilized, limited, is_limited: replicas != stable }
}

/// A number of pods, rounded; what does not fit is cut.
#[expect(clippy::cast_possible_truncation, reason = "the cast cuts to the range, which is what is wanted")]
fn whole(n: f64) -> i32 {
    n as i32
}

fn up_limit(history: &History, rules: &Rules, current: i32, now: Timestamp) -> i32 {
    let proposals = rules.policies.iter().map(|policy| {
        let start = history.at_start_of(current, policy.period, now);
        if policy.percent {
            // Rounded up, or a small number would never grow.
            whole((f64::from(start) * (1.0 + f64::from(policy.value) / 100.0)).ceil())
        } else {
            start.saturating_add(policy.value)
        }
    });
    match rules.select.as_str() {
        "Disabled" => current,
        "Min" => proposals.min().unwrap_or(current),
        _ => proposals.max().unwrap_or(current),
    }
}

fn down_limit(history: &History, rules: &Rules, current: i32, now: Timestamp) -> i32 {
    let proposals = rules.policies.iter().map(|policy| {
        let start = history.at_start_of(current, policy.period, now);
        if policy.percent {
            whole(f64::from(start) * (1.0 - f64::from(policy.value) / 100.0))
        } else {
            start.saturating_sub(policy.value)
        }
    });
    match rules.select.as_str() {
        "Disabled" => current,
        "Min" => proposals.max().unwrap_or(current),
        _ => proposals.min().unwrap_or(current),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(10_000 + second).expect("a time")
    }

    fn bounds(current: i32) -> Bounds {
        Bounds { current, least: 2, most: 20 }
    }

    #[test]
    fn without_rules() {
        let check = |current: i32, wanted: i32, replicas: i32, stabilized: &str, limited: &str| {
            let decision = decide(&mut History::default(), None, &bounds(current), wanted, at(0));
            assert_eq!((decision.replicas, decision.stabilized.0, decision.limited.0), (replicas, stabilized, limited));
        };
        check(3, 5, 5, "ReadyForNewScale", "DesiredWithinRange");
        check(3, 30, 6, "ReadyForNewScale", "ScaleUpLimit");
        check(15, 30, 20, "ReadyForNewScale", "TooManyReplicas");
        check(3, 1, 2, "ReadyForNewScale", "TooFewReplicas");
        let mut history = History::starting_at(8, at(0));
        let down = decide(&mut history, None, &bounds(8), 3, at(60));
        assert_eq!((down.replicas, down.stabilized.0), (8, "ScaleDownStabilized"));
        let later = decide(&mut history, None, &bounds(8), 4, at(301));
        assert_eq!((later.replicas, later.stabilized.0), (4, "ReadyForNewScale"));
    }

    #[test]
    fn rates_hold_over_their_period() {
        let behavior = json!({"scaleUp": {"policies": [{"type": "Pods", "value": 2, "periodSeconds": 60}]},
            "scaleDown": {"stabilizationWindowSeconds": 0, "policies": [
                {"type": "Percent", "value": 50, "periodSeconds": 60}, {"type": "Pods", "value": 1, "periodSeconds": 60}]}});
        let mut history = History::default();
        let step = |history: &mut History, current: i32, wanted: i32, second: i64| {
            let decision = decide(history, Some(&behavior), &bounds(current), wanted, at(second));
            if decision.replicas != current {
                history.changed(Some(&behavior), current, decision.replicas, at(second));
            }
            (decision.replicas, decision.limited.0)
        };
        assert_eq!(step(&mut history, 4, 10, 0), (6, "ScaleUpLimit"));
        assert_eq!(step(&mut history, 6, 10, 30), (6, "ScaleUpLimit"));
        assert_eq!(step(&mut history, 6, 10, 61), (8, "ScaleUpLimit"));
        // Half of those there were a minute ago: two more came since.
        assert_eq!(step(&mut history, 8, 2, 90), (3, "ScaleDownLimit"));
        let disabled = json!({"scaleDown": {"selectPolicy": "Disabled", "stabilizationWindowSeconds": 0}});
        let held = decide(&mut History::default(), Some(&disabled), &bounds(8), 2, at(0));
        assert_eq!((held.replicas, held.limited.0), (8, "ScaleDownLimit"));
        let least = json!({"scaleUp": {"selectPolicy": "Min", "policies": [
            {"type": "Pods", "value": 1, "periodSeconds": 60}, {"type": "Percent", "value": 100, "periodSeconds": 60}]}});
        assert_eq!(decide(&mut History::default(), Some(&least), &bounds(5), 20, at(0)).replicas, 6);
    }

    #[test]
    fn windows_smooth_both_ways() {
        let behavior =
            json!({"scaleUp": {"stabilizationWindowSeconds": 60}, "scaleDown": {"stabilizationWindowSeconds": 120}});
        let mut history = History::starting_at(4, at(0));
        let up = decide(&mut history, Some(&behavior), &bounds(4), 8, at(30));
        assert_eq!((up.replicas, up.stabilized.0), (4, "ScaleUpStabilized"));
        let up = decide(&mut history, Some(&behavior), &bounds(4), 7, at(61));
        assert_eq!((up.replicas, up.stabilized.0), (7, "ReadyForNewScale"));
        let down = decide(&mut history, Some(&behavior), &bounds(7), 3, at(90));
        assert_eq!((down.replicas, down.stabilized.0), (7, "ScaleDownStabilized"));
    }
}
