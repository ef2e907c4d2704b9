//! What failures and successes of pods mean for the whole job (`pod_failure_policy.go`, `success_policy.go`).

use std::collections::BTreeSet;

use super::indexes;
use super::types::{FailurePolicy, FailureRule, Job, OnExitCodes, SuccessPolicy};
use crate::views::{ContainerStatus, Pod};

/// What a failed pod means.
#[derive(Debug, PartialEq, Eq)]
pub enum Failure {
    /// It counts towards the limits.
    Counts,
    /// It counts for nothing.
    Ignored,
    /// Its index has failed.
    FailsIndex,
    /// The job has failed, and this is why.
    FailsJob(String),
}

impl Failure {
    /// Whether the pod is counted as failed.
    pub fn counts(&self) -> bool {
        *self != Failure::Ignored
    }
}

/// What a failed pod means by a job's policy.
pub fn failure(job: &Job, pod: &Pod) -> Failure {
    match &job.spec.pod_failure_policy {
        None => Failure::Counts,
        Some(policy) => by_policy(policy, job, pod),
    }
}

fn by_policy(policy: &FailurePolicy, job: &Job, pod: &Pod) -> Failure {
    for (at, rule) in policy.rules.iter().enumerate() {
        let Some(why) = matches(rule, pod) else { continue };
        match rule.action.as_str() {
            "Ignore" => return Failure::Ignored,
            "Count" => return Failure::Counts,
            "FailIndex" if job.spec.backoff_limit_per_index.is_some() => return Failure::FailsIndex,
            "FailJob" => return Failure::FailsJob(format!("{why} matching FailJob rule at index {at}")),
            _ => {}
        }
    }
    Failure::Counts
}

/// The beginning of the message, if a rule fits a pod.
fn matches(rule: &FailureRule, pod: &Pod) -> Option<String> {
    let meta = &pod.metadata;
    if let Some(codes) = &rule.on_exit_codes {
        let (name, code) = exit_code(&pod.status.container_statuses, codes)
            .or_else(|| exit_code(&pod.status.init_container_statuses, codes))?;
        return Some(format!("Container {name} for pod {} failed with exit code {code}", meta.key()));
    }
    let patterns = rule.on_pod_conditions.as_ref()?;
    let found = pod
        .status
        .conditions
        .iter()
        .find(|c| patterns.iter().any(|pattern| pattern.kind == *c.kind && pattern.status == *c.status))?;
    Some(format!("Pod {} has condition {}", meta.key(), found.kind))
}

fn exit_code<'a>(statuses: &'a [ContainerStatus], wanted: &OnExitCodes) -> Option<(&'a str, i32)> {
    let ended = statuses.iter().filter_map(|s| s.terminated.as_deref());
    ended
        .filter(|end| wanted.container_name.as_ref().is_none_or(|name| *name == end.name))
        .filter(|end| end.exit_code != 0)
        .find(|end| wanted.values.contains(&end.exit_code) == (wanted.operator == "In"))
        .map(|end| (end.name.as_str(), end.exit_code))
}

/// Why a job has succeeded by its policy.
pub fn success(policy: &SuccessPolicy, limit: i32, done: &BTreeSet<i32>) -> Option<String> {
    if done.is_empty() {
        return None;
    }
    let enough = |have: usize, count: Option<i32>| {
        count.is_some_and(|count| have >= usize::try_from(count).unwrap_or(usize::MAX))
    };
    policy.rules.iter().enumerate().find_map(|(at, rule)| {
        let met = match &rule.succeeded_indexes {
            None => enough(done.len(), rule.succeeded_count),
            Some(text) => {
                let wanted = indexes::parse(text, limit);
                let have = wanted.intersection(done).count();
                !wanted.is_empty() && (have == wanted.len() || enough(have, rule.succeeded_count))
            }
        };
        met.then(|| format!("Matched rules at index {at}"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn check_failure(rules: Value, status: Value, expected: &Failure) {
        let job: Job =
            serde_json::from_value(json!({"spec": {"backoffLimitPerIndex": 1, "podFailurePolicy": {"rules": rules}}}))
                .expect("a job");
        let pod: Pod = serde_json::from_value(json!({"metadata": {"namespace": "n", "name": "p"}, "status": status}))
            .expect("a pod");
        assert_eq!(&failure(&job, &pod), expected, "{rules} {status}");
    }

    #[test]
    fn the_first_rule_that_fits_decides() {
        let ended = |code: i32| {
            json!({"phase": "Failed", "containerStatuses": [
                {"name": "side", "state": {"running": {}}},
                {"name": "main", "state": {"terminated": {"exitCode": code}}}]})
        };
        let codes = |action: &str, operator: &str, values: &[i32]| json!({"action": action, "onExitCodes": {"operator": operator, "values": values}});
        let rules =
            json!([codes("Ignore", "In", &[7]), codes("FailIndex", "In", &[8]), codes("FailJob", "NotIn", &[9])]);
        check_failure(rules.clone(), ended(7), &Failure::Ignored);
        check_failure(rules.clone(), ended(8), &Failure::FailsIndex);
        check_failure(rules.clone(), ended(9), &Failure::Counts);
        check_failure(rules.clone(), ended(0), &Failure::Counts);
        let text = "Container main for pod n/p failed with exit code 42 matching FailJob rule at index 2";
        check_failure(rules, ended(42), &Failure::FailsJob(text.into()));
        let named =
            json!([{"action": "FailJob", "onExitCodes": {"containerName": "side", "operator": "In", "values": [42]}}]);
        check_failure(named, ended(42), &Failure::Counts);
        let rules = json!([{"action": "FailJob", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]}]);
        let text = "Pod n/p has condition DisruptionTarget matching FailJob rule at index 0";
        let status = json!({"conditions": [{"type": "DisruptionTarget", "status": "True"}]});
        check_failure(rules.clone(), status, &Failure::FailsJob(text.into()));
        check_failure(
            rules,
            json!({"conditions": [{"type": "DisruptionTarget", "status": "False"}]}),
            &Failure::Counts,
        );
    }

    fn check_success(rules: Value, done: &str, expected: Option<usize>) {
        let policy: SuccessPolicy = serde_json::from_value(json!({"rules": rules})).expect("a policy");
        let expected = expected.map(|at| format!("Matched rules at index {at}"));
        assert_eq!(success(&policy, 10, &indexes::parse(done, 10)), expected, "{rules} {done}");
    }

    #[test]
    fn one_rule_is_enough_for_success() {
        let rules = json!([{"succeededIndexes": "0,2-4"}, {"succeededIndexes": "5-9", "succeededCount": 2}, {"succeededCount": 6}]);
        check_success(rules.clone(), "", None);
        check_success(rules.clone(), "0,2,3", None);
        check_success(rules.clone(), "0-4", Some(0));
        check_success(rules.clone(), "5,7", Some(1));
        check_success(rules.clone(), "1,5", None);
        check_success(rules, "0-3,5,1", None);
        check_success(json!([{"succeededCount": 2}]), "3,8", Some(0));
        check_success(json!([{"succeededIndexes": "x"}]), "3,8", None);
    }
}
