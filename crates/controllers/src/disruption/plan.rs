//! What a budget's status shall say: pure.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use orkd_reconcile::EventType;
use serde_json::Value;

use super::{Budget, BudgetStatus, PATIENCE};
use crate::pods;
use crate::views::{Condition, Pod};

/// How many pods there should be.
#[derive(Clone, Debug, PartialEq)]
pub struct Expected {
    pub(super) count: i32,
    /// Pods without an owner, which nobody can count.
    pub(super) unmanaged: Vec<String>,
}

/// What is known of one budget.
pub struct Observed {
    pub(super) budget: Arc<Budget>,
    /// The pods it covers.
    pub(super) pods: Vec<Arc<Pod>>,
    /// How many there should be, or why that cannot be told.
    pub(super) expected: Result<Expected, String>,
}

/// What is to be done about one budget.
#[derive(Debug, Default, PartialEq)]
pub struct Plan {
    /// The status to write, where it changes.
    pub(super) status: Option<BudgetStatus>,
    /// Events about the budget.
    pub(super) events: Vec<(EventType, &'static str, String)>,
    /// Pods that were to go and did not.
    pub(super) not_deleted: Vec<String>,
    /// When to look again.
    pub(super) again: Option<Duration>,
}

/// A number or a percentage of a total, rounded up; `None` for what is neither.
fn scaled(value: &Value, total: i32) -> Option<i32> {
    if let Some(number) = value.as_i64() {
        return i32::try_from(number).ok();
    }
    let percent: i64 = value.as_str()?.strip_suffix('%')?.parse().ok()?;
    i32::try_from((percent * i64::from(total) + 99).div_euclid(100)).ok()
}

pub(super) fn plan(observed: &Observed, now: Timestamp) -> Plan {
    let budget = &observed.budget;
    let mut plan = Plan::default();
    if observed.pods.is_empty() {
        plan.events.push((EventType::Normal, "NoPods", "No matching pods found".into()));
    }
    let expected = match &observed.expected {
        Ok(expected) => expected,
        Err(why) => {
            let text = format!("Failed to calculate the number of expected pods: {why}");
            plan.events.push((EventType::Warning, "CalculateExpectedPodCountFailed", text));
            plan.status = Some(failed(&budget.status, why, now)).filter(|s| *s != budget.status);
            return plan;
        }
    };
    if !expected.unmanaged.is_empty() {
        let text = format!(
            "Pods selected by this PodDisruptionBudget (selector: {}) were found to be unmanaged. As a result, the status \
             of the PDB cannot be calculated correctly, which may result in undefined behavior. To account for these pods \
             please set \".spec.minAvailable\" field of the PDB to an integer value.",
            selector_text(budget)
        );
        plan.events.push((EventType::Warning, "UnmanagedPods", text));
    }
    let spec = &budget.spec;
    let desired = if !spec.max_unavailable.is_null() {
        scaled(&spec.max_unavailable, expected.count).map(|most| (expected.count - most).max(0))
    } else if !spec.min_available.is_null() {
        scaled(&spec.min_available, expected.count)
    } else {
        Some(0)
    };
    let Some(desired) = desired else {
        plan.status = Some(failed(&budget.status, "invalid type: neither int nor percentage", now));
        return plan;
    };

    let mut disrupted: BTreeMap<String, Timestamp> = BTreeMap::new();
    let mut healthy = 0;
    for pod in observed.pods.iter().filter(|p| !p.metadata.is_deleting()) {
        let granted = budget.status.disrupted_pods.get(&*pod.metadata.name);
        if let Some(granted) = granted {
            let elapsed = Duration::try_from(now.duration_since(*granted)).unwrap_or_default();
            if elapsed > PATIENCE {
                plan.not_deleted.push(pod.metadata.name.to_string());
            } else {
                let left = (PATIENCE - elapsed).max(Duration::from_secs(1));
                plan.again = Some(plan.again.map_or(left, |again| again.min(left)));
                disrupted.insert(pod.metadata.name.to_string(), *granted);
                continue;
            }
        }
        if pods::is_ready(pod) {
            healthy += 1;
        }
    }
    let allowed = if expected.count <= 0 { 0 } else { (healthy - desired).max(0) };
    let mut status = BudgetStatus {
        current_healthy: healthy,
        desired_healthy: desired,
        disruptions_allowed: allowed,
        expected_pods: expected.count,
        observed_generation: budget.metadata.generation,
        disrupted_pods: disrupted,
        conditions: budget.status.conditions.clone(),
    };
    let (value, reason) = if allowed > 0 { ("True", "SufficientPods") } else { ("False", "InsufficientPods") };
    set_condition(&mut status, value, reason, "", now);
    plan.status = Some(status).filter(|s| *s != budget.status);
    plan
}

/// Fails safe: nothing may be disrupted.
fn failed(status: &BudgetStatus, why: &str, now: Timestamp) -> BudgetStatus {
    let mut status = BudgetStatus { disruptions_allowed: 0, ..status.clone() };
    set_condition(&mut status, "False", "SyncFailed", why, now);
    status
}

fn set_condition(status: &mut BudgetStatus, value: &str, reason: &str, message: &str, now: Timestamp) {
    const TYPE: &str = "DisruptionAllowed";
    let old = status.conditions.iter().find(|c| c.kind == TYPE);
    let since = old.filter(|c| c.status == value).and_then(|c| c.last_transition_time);
    let seconds = Timestamp::from_second(now.as_second()).unwrap_or(now);
    let new = Condition {
        kind: TYPE.into(),
        status: value.into(),
        reason: reason.into(),
        message: message.into(),
        last_transition_time: Some(since.unwrap_or(seconds)),
        observed_generation: Some(status.observed_generation),
        ..Condition::default()
    };
    match status.conditions.iter_mut().find(|c| c.kind == TYPE) {
        Some(old) => *old = new,
        None => status.conditions.push(new),
    }
}

/// The selector of a budget as events show it.
fn selector_text(budget: &Budget) -> String {
    budget.spec.selector.as_ref().map_or_else(|| "nil".into(), ToString::to_string)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const NOW: &str = "2026-01-01T01:00:00Z";

    fn pod(name: &str, ready: bool, deleting: bool) -> Arc<Pod> {
        let mut json = json!({"metadata": {"name": name}, "status": {"conditions": [
            {"type": "Ready", "status": if ready { "True" } else { "False" }}]}});
        if deleting {
            json["metadata"]["deletionTimestamp"] = NOW.into();
        }
        Arc::new(serde_json::from_str(&json.to_string()).expect("a pod"))
    }

    fn observed(spec: Value, status: Value, pods: Vec<Arc<Pod>>, expected: i32) -> Observed {
        let json = json!({"metadata": {"name": "b", "generation": 2}, "spec": spec, "status": status});
        Observed {
            budget: Arc::new(serde_json::from_str(&json.to_string()).expect("a budget")),
            pods,
            expected: Ok(Expected { count: expected, unmanaged: Vec::new() }),
        }
    }

    /// `healthy/desired/allowed/expected reason`.
    fn check(spec: Value, ready: usize, unready: usize, expected: i32, text: &str) {
        let mut pods: Vec<_> = (0..ready).map(|i| pod(&format!("r{i}"), true, false)).collect();
        pods.extend((0..unready).map(|i| pod(&format!("u{i}"), false, false)));
        let plan = plan(&observed(spec, json!({}), pods, expected), NOW.parse().expect("a time"));
        let s = plan.status.expect("a status");
        let shown = format!(
            "{}/{}/{}/{} {}",
            s.current_healthy, s.desired_healthy, s.disruptions_allowed, s.expected_pods, s.conditions[0].reason
        );
        assert_eq!(shown, text);
        assert_eq!(s.observed_generation, 2);
    }

    #[test]
    fn numbers_and_percentages() {
        check(json!({"minAvailable": 2}), 3, 0, 3, "3/2/1/3 SufficientPods");
        check(json!({"minAvailable": 2}), 2, 1, 3, "2/2/0/3 InsufficientPods");
        check(json!({"minAvailable": "50%"}), 5, 0, 5, "5/3/2/5 SufficientPods");
        check(json!({"maxUnavailable": 1}), 3, 0, 3, "3/2/1/3 SufficientPods");
        check(json!({"maxUnavailable": "30%"}), 5, 0, 5, "5/3/2/5 SufficientPods");
        check(json!({"maxUnavailable": "100%"}), 5, 0, 5, "5/0/5/5 SufficientPods");
        check(json!({"maxUnavailable": 9}), 2, 0, 2, "2/0/2/2 SufficientPods");
        check(json!({"minAvailable": 0}), 0, 0, 0, "0/0/0/0 InsufficientPods");
        check(json!({}), 1, 0, 1, "1/0/1/1 SufficientPods");
    }

    #[test]
    fn granted_evictions_count_until_the_pod_is_gone_or_did_not_go() {
        let status = json!({"disruptedPods": {
            "a": "2026-01-01T00:59:30Z", "b": "2026-01-01T00:50:00Z", "c": "2026-01-01T00:59:00Z"}});
        let pods = vec![pod("a", true, false), pod("b", true, false), pod("c", true, true), pod("d", true, false)];
        let observed = observed(json!({"minAvailable": 1}), status, pods, 4);
        let plan = plan(&observed, NOW.parse().expect("a time"));
        let status = plan.status.expect("a status");
        assert_eq!(status.disrupted_pods.keys().collect::<Vec<_>>(), ["a"]);
        assert_eq!((status.current_healthy, status.disruptions_allowed), (2, 1));
        assert_eq!(plan.not_deleted, ["b"]);
        assert_eq!(plan.again, Some(Duration::from_secs(90)));
    }

    #[test]
    fn what_cannot_be_told_allows_nothing() {
        let mut unknown =
            observed(json!({"maxUnavailable": 1}), json!({"disruptionsAllowed": 3}), vec![pod("a", true, false)], 0);
        unknown.expected = Err("found no controllers for pod \"a\"".into());
        let now = NOW.parse().expect("a time");
        let plan = plan(&unknown, now);
        let status = plan.status.expect("a status");
        assert_eq!(status.disruptions_allowed, 0);
        assert_eq!(
            (status.conditions[0].reason.as_str(), status.conditions[0].status.as_str()),
            ("SyncFailed", "False")
        );
        assert_eq!(plan.events[0].1, "CalculateExpectedPodCountFailed");
        let stands = super::plan(&observed(json!({"minAvailable": 1}), json!({}), Vec::new(), 0), now);
        assert_eq!(stands.events[0].1, "NoPods");
    }

    #[test]
    fn pods_without_an_owner_are_told_with_the_selector_as_go_prints_it() {
        let mut bare = observed(
            json!({"maxUnavailable": 1, "selector": {"matchLabels": {"b": "2", "a": "1"},
            "matchExpressions": [{"key": "c", "operator": "In", "values": ["x", "y"]}]}}),
            json!({}),
            Vec::new(),
            0,
        );
        bare.expected = Ok(Expected { count: 0, unmanaged: vec!["p".into()] });
        let plan = plan(&bare, NOW.parse().expect("a time"));
        let text = "(selector: &LabelSelector{MatchLabels:map[string]string{a: 1,b: 2,},MatchExpressions:\
                    []LabelSelectorRequirement{LabelSelectorRequirement{Key:c,Operator:In,Values:[x y],},},}) were found";
        let told = plan.events.iter().find(|e| e.1 == "UnmanagedPods").expect("the event");
        assert!(told.2.contains(text), "{}", told.2);
    }

    #[test]
    fn nothing_is_written_where_nothing_changes() {
        let now: Timestamp = NOW.parse().expect("a time");
        let first = plan(&observed(json!({"minAvailable": 1}), json!({}), vec![pod("a", true, false)], 1), now);
        let status = serde_json::to_value(first.status.expect("a status")).expect("json");
        let later = now + jiff::SignedDuration::from_secs(60);
        let again = plan(&observed(json!({"minAvailable": 1}), status, vec![pod("a", true, false)], 1), later);
        assert_eq!(again.status, None);
    }
}
