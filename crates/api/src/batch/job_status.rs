//! What the status of a job may become. A controller of somebody else's may write it (`managedBy`), so the server holds it
//! to what the job controller promises: an end is announced before it comes, is final, and leaves nothing running.
//!
//! A rule is only looked at when what it is about changes, so that objects from before the rules can still be written.
//! Upstream: `ValidateJobUpdateStatus` in `pkg/apis/batch/validation`, `getStatusValidationOptions` in
//! `pkg/registry/batch/job/strategy.go`.

use serde_json::Value;

use super::job::{interval, intervals};
use crate::field::ErrorList;
use crate::object::{View, at, list, same};
use crate::validate::{go_value, non_negative};

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
    leftovers(&mut errs, &now, &before);
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

/// How a job ends: announced, with its times, and with nothing that runs.
fn ends(errs: &mut ErrorList, now: &Job<'_>, before: &Job<'_>) {
    let turned = |conditions: &[&str]| conditions.iter().any(|c| now.is(c) != before.is(c));
    let ended = now.is_finished() != before.is_finished();
    let conditions = now.status.get("conditions");
    let refuse = |errs: &mut ErrorList, problem: &str| errs.invalid_silently(conditions.path(), problem);
    if turned(&["Complete", "Failed"]) && now.is("Complete") && now.is("Failed") {
        refuse(errs, "cannot set Complete=True and Failed=true conditions");
    }
    if turned(&["Complete", "FailureTarget"]) && now.is("Complete") && now.is("FailureTarget") {
        refuse(errs, "cannot set Complete=True and FailureTarget=true conditions");
    }
    times(errs, now, before);
    if turned(&["Failed", "FailureTarget"]) && now.is("Failed") && !now.is("FailureTarget") {
        refuse(errs, "cannot set Failed=True condition without the FailureTarget=true condition");
    }
    if turned(&["Complete", "SuccessCriteriaMet"]) && now.is("Complete") && !now.is("SuccessCriteriaMet") {
        refuse(errs, "cannot set Complete=True condition without the SuccessCriteriaMet=true condition");
    }
    if !now.is_finished() {
        return;
    }
    nothing_left(errs, now, before, "active");
    let (start, uncounted) = (now.status.get("startTime"), now.status.get("uncountedTerminatedPods"));
    let never_ran = now.spec.get("suspend").is_true() && now.spec.get("completions").int() == Some(0);
    if (ended || changed(now, before, &["startTime"])) && !never_ran && !start.is_set() {
        errs.required(start.path(), "startTime is required for finished job");
    }
    if (ended || changed(now, before, &["uncountedTerminatedPods"])) && now.uncounted() > 0 {
        let shown = go_value::shown("k8s.io/api/batch/v1.UncountedTerminatedPods", uncounted.value());
        errs.invalid(uncounted.path(), shown, "uncountedTerminatedPods needs to be empty for finished job");
    }
}

fn nothing_left(errs: &mut ErrorList, now: &Job<'_>, before: &Job<'_>, field: &str) {
    let ended = now.is_finished() != before.is_finished();
    if now.is_finished() && (ended || changed(now, before, &[field])) && now.number(field) > 0 {
        let problem = format!("{field}>0 is invalid for finished job");
        errs.invalid(now.status.get_named(field).path(), now.number(field), problem);
    }
}

/// A job that is complete has a time of completion, after that of its start; none else has one.
fn times(errs: &mut ErrorList, now: &Job<'_>, before: &Job<'_>) {
    let (start, end) = (now.status.get("startTime"), now.status.get("completionTime"));
    if now.is("Complete") != before.is("Complete") || changed(now, before, &["completionTime"]) {
        if !now.is("Complete") && end.is_set() {
            let problem = "cannot set completionTime when there is no Complete=True condition";
            errs.invalid(end.path(), end.value(), problem);
        }
        if now.is("Complete") && !end.is_set() {
            errs.required(end.path(), "completionTime is required for Complete jobs");
        }
    }
    let time = |v: &View<'_>| v.str().parse::<jiff::Timestamp>().ok();
    if changed(now, before, &["startTime", "completionTime"])
        && time(&start).zip(time(&end)).is_some_and(|(start, end)| end < start)
    {
        errs.invalid(end.path(), end.value(), "completionTime cannot be set before startTime");
    }
}

/// The indexes that are done and those that failed.
fn indexes(errs: &mut ErrorList, now: &Job<'_>, before: &Job<'_>) {
    let (done, failed) = (now.status.get("completedIndexes"), now.status.get("failedIndexes"));
    let done_changed = changed(now, before, &["completedIndexes"]);
    let failed_changed = changed(now, before, &["failedIndexes"]);
    let per_index = now.spec.get("backoffLimitPerIndex").is_set();
    let completions = now.spec.get("completions").int();
    let mut well_formed = |v: &View<'_>, field: &str, looked_at: bool| {
        if let (Some(completions), true) = (completions, looked_at)
            && let Err(why) = intervals(v.str(), completions)
        {
            errs.invalid(v.path(), v.str(), format!("error parsing {field}: {why}"));
        }
    };
    well_formed(&done, "completedIndexes", done_changed);
    well_formed(&failed, "failedIndexes", failed_changed && failed.is_set() && per_index);
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
    let Some(completions) = completions.filter(|_| done_changed || failed_changed) else { return };
    // What cannot be read is said above, and passed over here.
    let parsed = |v: &View<'_>| -> Vec<(i64, i64)> {
        v.str().split(',').filter_map(|part| interval(part, completions).ok()).collect()
    };
    let done = parsed(&done);
    let common = parsed(&failed)
        .into_iter()
        .flat_map(|f| done.iter().map(move |d| (f.0.max(d.0), f.1.min(d.1))))
        .find(|(first, last)| first <= last);
    if let Some((first, _)) = common {
        let problem = format!("failedIndexes and completedIndexes overlap at index: {first}");
        errs.invalid(failed.path(), failed.str(), problem);
    }
}

/// Pods that are on their way out, and ends that exclude each other however they came about.
fn leftovers(errs: &mut ErrorList, now: &Job<'_>, before: &Job<'_>) {
    nothing_left(errs, now, before, "terminating");
    let (ready, conditions) = (now.status.get("ready"), now.status.get("conditions"));
    if changed(now, before, &["ready", "active"]) && now.number("ready") > now.number("active") {
        errs.invalid(ready.path(), now.number("ready"), "cannot set more ready pods than active");
    }
    let met = now.is("SuccessCriteriaMet");
    for (wrong, problem) in [
        (met && now.is("Failed"), "cannot set SuccessCriteriaMet=True and Failed=true conditions"),
        (met && now.is("FailureTarget"), "cannot set SuccessCriteriaMet=True and FailureTarget=true conditions"),
        (
            now.spec.get("successPolicy").is_set() && !met && now.is("Complete"),
            "cannot set Complete=True for Job with SuccessPolicy unless SuccessCriteriaMet=True",
        ),
    ] {
        if wrong {
            errs.invalid_silently(conditions.path(), problem);
        }
    }
}

/// What has ended stays ended, and what was counted stays counted.
fn transitions(errs: &mut ErrorList, now: &Job<'_>, before: &Job<'_>) {
    let conditions = now.status.get("conditions");
    for condition in ["Failed", "Complete", "FailureTarget"] {
        if before.is(condition) && !now.is(condition) {
            let problem = format!("cannot disable the terminal {condition}=True condition");
            errs.invalid_silently(conditions.path(), problem);
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
    let (start, end) = (now.status.get("startTime"), now.status.get("completionTime"));
    if end.is_set() && before.status.get("completionTime").is_set() && changed(now, before, &["completionTime"]) {
        errs.invalid(end.path(), end.value(), "completionTime cannot be mutated");
    }
    if changed(now, before, &["startTime"])
        && before.status.get("startTime").is_set()
        && !now.spec.get("suspend").is_true()
    {
        errs.required(start.path(), "startTime cannot be removed for unsuspended job");
    }
    let met = |job: &Job<'_>| job.is("SuccessCriteriaMet");
    if met(before) && !met(now) {
        errs.invalid_silently(conditions.path(), "cannot disable the SuccessCriteriaMet=True condition");
    }
    if before.is("Complete") && !met(before) && met(now) {
        let problem = "cannot set SuccessCriteriaMet=True for Job already has Complete=true conditions";
        errs.invalid_silently(conditions.path(), problem);
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
                "status.completionTime: Required value: completionTime is required for Complete jobs",
                "status.conditions: Invalid value: cannot set Complete=True condition without the SuccessCriteriaMet=true condition",
                "status.active: Invalid value: 1: active>0 is invalid for finished job",
                "status.startTime: Required value: startTime is required for finished job",
                "status.uncountedTerminatedPods: Invalid value: {\"Succeeded\":null,\"Failed\":[\"a\"]}: uncountedTerminatedPods \
                 needs to be empty for finished job",
                "status.terminating: Invalid value: 1: terminating>0 is invalid for finished job",
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
                "status.conditions: Invalid value: cannot disable the terminal Complete=True condition",
                "status.succeeded: Invalid value: 0: cannot decrease the succeeded counter",
                "status.completionTime: Invalid value: \"2026-01-01T00:00:00Z\": completionTime cannot be mutated",
                "status.conditions: Invalid value: cannot disable the SuccessCriteriaMet=True condition",
            ]
        );
    }

    #[test]
    fn indexes_belong_to_indexed_jobs() {
        assert_eq!(
            problems(json!({}), json!({}), json!({"completedIndexes": "0", "failedIndexes": "1", "ready": 1})),
            [
                "status.completedIndexes: Invalid value: \"0\": cannot set non-empty completedIndexes when non-indexed \
                 completion mode",
                "status.failedIndexes: Invalid value: \"1\": cannot set non-null failedIndexes when backoffLimitPerIndex is null",
                "status.ready: Invalid value: 1: cannot set more ready pods than active",
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
