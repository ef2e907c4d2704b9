//! What the status of a job may become. A controller of somebody else's may write it (`managedBy`), so the server holds it
//! to what the job controller promises: an end is announced before it comes, is final, and leaves nothing running.
//!
//! A rule is only looked at when what it is about changes, so that objects from before the rules can still be written.
//! Upstream: `ValidateJobUpdateStatus` in `pkg/apis/batch/validation`, `getStatusValidationOptions` in
//! `pkg/registry/batch/job/strategy.go`.

use serde_json::Value;

use super::job::intervals;
use crate::field::ErrorList;
use crate::object::{View, at, list, same};
use crate::validate::non_negative;

/// A job and its status.
struct Job<'a> {
    spec: View<'a>,
    status: View<'a>,
}

impl<'a> Job<'a> {
    fn new(obj: &'a Value) -> Self {
        let root = View::root(obj);
        Job { spec: root.get("spec"), status: root.get("status") }
    }

    fn is(&self, condition: &str) -> bool {
        list(self.status.value(), &["conditions"]).iter().any(|c| c["type"] == condition && c["status"] == "True")
    }

    fn is_finished(&self) -> bool {
        self.is("Complete") || self.is("Failed")
    }

    fn number(&self, field: &str) -> i64 {
        self.status.get_named(field).int().unwrap_or_default()
    }

    fn is_indexed(&self) -> bool {
        self.spec.get("completionMode").str() == "Indexed"
    }

    fn uncounted(&self) -> usize {
        let v = self.status.get("uncountedTerminatedPods");
        v.get("succeeded").len() + v.get("failed").len()
    }
}

/// An update through `status`.
pub(super) fn update(new: &Value, old: &Value) -> ErrorList {
    let mut errs = ErrorList::new();
    let (now, before) = (Job::new(new), Job::new(old));
    numbers(&mut errs, &now);
    ends(&mut errs, &now, &before);
    indexes(&mut errs, &now, &before);
    transitions(&mut errs, &now, &before);
    errs
}

fn changed(now: &Job<'_>, before: &Job<'_>, fields: &[&str]) -> bool {
    fields.iter().any(|f| !same(now.status.get_named(f).value(), before.status.get_named(f).value()))
}

fn numbers(errs: &mut ErrorList, now: &Job<'_>) {
    for field in ["active", "succeeded", "failed", "ready", "terminating"] {
        non_negative(errs, &now.status.get(field));
    }
    let uncounted = now.status.get("uncountedTerminatedPods");
    let mut seen = std::collections::BTreeSet::new();
    for uid in ["succeeded", "failed"].iter().flat_map(|list| uncounted.items(list)) {
        if uid.is_empty() {
            errs.invalid(uid.path(), "", "must not be empty");
        } else if !seen.insert(uid.str()) {
            errs.duplicate(uid.path(), uid.str());
        }
    }
}

/// How a job ends: announced, with its times, and with nothing left.
fn ends(errs: &mut ErrorList, now: &Job<'_>, before: &Job<'_>) {
    let turned = |condition: &str| now.is(condition) != before.is(condition);
    let ended = now.is_finished() != before.is_finished();
    let (status, finished) = (&now.status, now.is_finished());
    let conditions = status.get("conditions");
    let mut contradicts = |looked_at: bool, both: [&str; 2], problem: &str| {
        if looked_at && both.iter().all(|c| now.is(c)) {
            errs.invalid_silently(conditions.path(), problem);
        }
    };
    contradicts(
        turned("Complete") || turned("Failed"),
        ["Complete", "Failed"],
        "cannot set Complete=True and Failed=true conditions",
    );
    contradicts(
        turned("Complete") || turned("FailureTarget"),
        ["Complete", "FailureTarget"],
        "cannot set Complete=True and FailureTarget=true conditions",
    );
    contradicts(
        turned("SuccessCriteriaMet") || turned("FailureTarget"),
        ["SuccessCriteriaMet", "FailureTarget"],
        "cannot set SuccessCriteriaMet=True and FailureTarget=true conditions",
    );
    contradicts(
        turned("SuccessCriteriaMet") || turned("Failed"),
        ["SuccessCriteriaMet", "Failed"],
        "cannot set Failed=True and SuccessCriteriaMet=true conditions",
    );
    if (turned("Failed") || turned("FailureTarget")) && now.is("Failed") && !now.is("FailureTarget") {
        let problem = "cannot set Failed=True condition without the FailureTarget=true condition";
        errs.invalid_silently(conditions.path(), problem);
    }
    if (turned("Complete") || turned("SuccessCriteriaMet")) && now.is("Complete") && !now.is("SuccessCriteriaMet") {
        let problem = "cannot set Complete=True condition without the SuccessCriteriaMet=true condition";
        errs.invalid_silently(conditions.path(), problem);
    }
    for field in ["active", "terminating"] {
        if finished && (ended || changed(now, before, &[field])) && now.number(field) > 0 {
            let problem = format!("{field}>0 is invalid for finished job");
            errs.invalid(status.get(field).path(), now.number(field), problem);
        }
    }
    if changed(now, before, &["ready", "active"]) && now.number("ready") > now.number("active") {
        errs.invalid(status.get("ready").path(), now.number("ready"), "cannot set more ready pods than active");
    }
    if finished && (ended || changed(now, before, &["uncountedTerminatedPods"])) && now.uncounted() > 0 {
        let v = status.get("uncountedTerminatedPods");
        errs.invalid(v.path(), v.value(), "uncountedTerminatedPods needs to be empty for finished job");
    }
    times(errs, now, before);
}

fn times(errs: &mut ErrorList, now: &Job<'_>, before: &Job<'_>) {
    let ended = now.is_finished() != before.is_finished();
    let (start, end) = (now.status.get("startTime"), now.status.get("completionTime"));
    let suspended_with_nothing = now.spec.get("suspend").is_true() && now.spec.get("completions").int() == Some(0);
    let start_changed = changed(now, before, &["startTime"]);
    let end_changed = changed(now, before, &["completionTime"]);
    if now.is_finished() && (ended || start_changed) && !suspended_with_nothing && !start.is_set() {
        errs.required(start.path(), "startTime is required for finished job");
    }
    let completed = now.is("Complete") != before.is("Complete");
    if completed || end_changed {
        if now.is("Complete") && !end.is_set() {
            errs.required(end.path(), "completionTime is required for Complete jobs");
        }
        if !now.is("Complete") && end.is_set() {
            let problem = "cannot set completionTime when there is no Complete=True condition";
            errs.invalid(end.path(), end.value(), problem);
        }
    }
    let time = |v: &View<'_>| v.str().parse::<jiff::Timestamp>().ok();
    if (start_changed || end_changed) && time(&start).zip(time(&end)).is_some_and(|(start, end)| end < start) {
        errs.invalid(end.path(), end.value(), "completionTime cannot be set before startTime");
    }
    let old_end = before.status.get("completionTime");
    if end.is_set() && old_end.is_set() && end_changed {
        errs.invalid(end.path(), end.value(), "completionTime cannot be mutated");
    }
    if start_changed && before.status.get("startTime").is_set() && !now.spec.get("suspend").is_true() {
        if start.is_set() {
            errs.invalid(start.path(), start.value(), "startTime cannot be modified for unsuspended job");
        } else {
            errs.required(start.path(), "startTime cannot be removed for unsuspended job");
        }
    }
}

/// The indexes that are done and those that failed.
fn indexes(errs: &mut ErrorList, now: &Job<'_>, before: &Job<'_>) {
    let (done, failed) = (now.status.get("completedIndexes"), now.status.get("failedIndexes"));
    let done_changed = changed(now, before, &["completedIndexes"]);
    let failed_changed = changed(now, before, &["failedIndexes"]);
    let per_index = now.spec.get("backoffLimitPerIndex").is_set();
    let completions = now.spec.get("completions").int().unwrap_or_default();
    let mut parsed = |v: &View<'_>, looked_at: bool| {
        let intervals = intervals(v.str(), completions);
        if let (Err(why), true) = (&intervals, looked_at) {
            let field = v.path().text().trim_start_matches("status.").to_owned();
            errs.invalid(v.path(), v.str(), format!("error parsing {field}: {why}"));
        }
        intervals.unwrap_or_default()
    };
    let done_intervals = parsed(&done, done_changed && now.is_indexed());
    let failed_intervals = parsed(&failed, failed_changed && failed.is_set() && per_index);
    if done_changed && !done.is_empty() && !now.is_indexed() {
        errs.invalid(done.path(), done.str(), "cannot set non-empty completedIndexes when non-indexed completion mode");
    }
    if failed_changed && failed.is_set() && !per_index {
        errs.invalid(
            failed.path(),
            failed.str(),
            "cannot set non-null failedIndexes when backoffLimitPerIndex is null",
        );
    }
    let overlap = failed_intervals
        .iter()
        .flat_map(|f| done_intervals.iter().map(move |d| (f.0.max(d.0), f.1.min(d.1))))
        .find(|(first, last)| first <= last);
    if let (Some((first, _)), true) = (overlap, done_changed || failed_changed) {
        let problem = format!("failedIndexes and completedIndexes overlap at index: {first}");
        errs.invalid(failed.path(), failed.str(), problem);
    }
}

/// What has ended stays ended, and what was counted stays counted.
fn transitions(errs: &mut ErrorList, now: &Job<'_>, before: &Job<'_>) {
    for condition in ["Failed", "Complete", "FailureTarget"] {
        if before.is(condition) && !now.is(condition) {
            let problem = format!("cannot disable the terminal {condition}=True condition");
            errs.invalid_silently(now.status.get("conditions").path(), problem);
        }
    }
    // An indexed job whose completions are its parallelism can be scaled down.
    let elastic =
        now.is_indexed() && same(at(now.spec.value(), &["completions"]), at(now.spec.value(), &["parallelism"]));
    for (field, looked_at) in [("failed", true), ("succeeded", !elastic)] {
        if looked_at && now.number(field) < before.number(field) {
            let problem = format!("cannot decrease the {field} counter");
            errs.invalid(now.status.get(field).path(), now.number(field), problem);
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::validate::testing::texts;

    const START: &str = "2026-01-01T00:00:00Z";
    const END: &str = "2026-01-01T00:01:00Z";

    /// The problems of an update of a status, of a job with these fields of its spec.
    fn problems(spec: Value, old: Value, new: Value) -> Vec<String> {
        let job = |status: Value| json!({"spec": spec, "status": status});
        texts(&update(&job(new), &job(old)))
    }

    fn conditions(types: &[&str]) -> Value {
        types.iter().map(|t| json!({"type": t, "status": "True"})).collect()
    }

    #[test]
    fn an_end_is_announced_and_leaves_nothing() {
        let running = json!({"startTime": START, "active": 1});
        let done = json!({"startTime": START, "completionTime": END, "succeeded": 1,
            "conditions": conditions(&["SuccessCriteriaMet", "Complete"])});
        assert_eq!(problems(json!({}), running.clone(), done.clone()), [""; 0]);
        assert_eq!(problems(json!({}), done.clone(), done.clone()), [""; 0]);
        assert_eq!(
            problems(
                json!({}),
                running.clone(),
                json!({"active": 1, "terminating": 1, "conditions": conditions(&["Complete"]),
                "uncountedTerminatedPods": {"failed": ["a"]}})
            ),
            [
                "status.conditions: Invalid value: cannot set Complete=True condition without the SuccessCriteriaMet=true condition",
                "status.active: Invalid value: 1: active>0 is invalid for finished job",
                "status.terminating: Invalid value: 1: terminating>0 is invalid for finished job",
                "status.uncountedTerminatedPods: Invalid value: {\"failed\":[\"a\"]}: uncountedTerminatedPods needs to be empty \
                 for finished job",
                "status.startTime: Required value: startTime is required for finished job",
                "status.completionTime: Required value: completionTime is required for Complete jobs",
                "status.startTime: Required value: startTime cannot be removed for unsuspended job",
            ]
        );
        assert_eq!(
            problems(json!({}), running, json!({"startTime": START, "conditions": conditions(&["Failed"])})),
            [
                "status.conditions: Invalid value: cannot set Failed=True condition without the FailureTarget=true condition"
            ]
        );
        assert_eq!(
            problems(json!({}), done, json!({"startTime": START, "completionTime": START})),
            [
                "status.completionTime: Invalid value: \"2026-01-01T00:00:00Z\": cannot set completionTime when there is no \
                 Complete=True condition",
                "status.completionTime: Invalid value: \"2026-01-01T00:00:00Z\": completionTime cannot be mutated",
                "status.conditions: Invalid value: cannot disable the terminal Complete=True condition",
                "status.succeeded: Invalid value: 0: cannot decrease the succeeded counter",
            ]
        );
    }

    #[test]
    fn indexes_belong_to_indexed_jobs() {
        assert_eq!(
            problems(json!({}), json!({}), json!({"completedIndexes": "0", "failedIndexes": "1", "ready": 1})),
            [
                "status.ready: Invalid value: 1: cannot set more ready pods than active",
                "status.completedIndexes: Invalid value: \"0\": cannot set non-empty completedIndexes when non-indexed \
                 completion mode",
                "status.failedIndexes: Invalid value: \"1\": cannot set non-null failedIndexes when backoffLimitPerIndex is null",
            ]
        );
        let spec = json!({"completionMode": "Indexed", "completions": 3, "backoffLimitPerIndex": 1});
        assert_eq!(
            problems(spec.clone(), json!({}), json!({"completedIndexes": "0,1", "failedIndexes": "1-2"})),
            ["status.failedIndexes: Invalid value: \"1-2\": failedIndexes and completedIndexes overlap at index: 1"]
        );
        assert_eq!(
            problems(spec, json!({}), json!({"completedIndexes": "3"})),
            ["status.completedIndexes: Invalid value: \"3\": error parsing completedIndexes: too large index: \"3\""]
        );
    }

    #[test]
    fn pods_are_counted_once() {
        assert_eq!(
            problems(
                json!({}),
                json!({}),
                json!({"uncountedTerminatedPods": {"succeeded": ["a", ""], "failed": ["a"]}})
            ),
            [
                "status.uncountedTerminatedPods.succeeded[1]: Invalid value: \"\": must not be empty",
                "status.uncountedTerminatedPods.failed[0]: Duplicate value: \"a\"",
            ]
        );
    }
}
