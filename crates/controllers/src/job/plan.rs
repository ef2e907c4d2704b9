//! What is to be done for a job.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use orkd_reconcile::EventType;
use serde_json::{Value, json};

use super::{FINALIZER, INDEX, Job, JobStatus, indexes};
use crate::owners::{self, Claim};
use crate::pods;
use crate::views::{Condition, Pod, condition};

/// What is known of one job.
pub struct Observed {
    pub job: Arc<Job>,
    /// Pods that are its own or nobody's.
    pub pods: Vec<Arc<Pod>>,
}

/// What is to be done for one job. Pods are named by uid.
#[derive(Debug, Default)]
pub struct Plan {
    pub adopt: Vec<String>,
    pub release: Vec<String>,
    pub delete: Vec<String>,
    /// Pods to be made, with their indexes.
    pub create: Vec<Option<i32>>,
    pub status: JobStatus,
    /// Pods whose finalizer goes after the status is written.
    pub let_go: Vec<String>,
    pub events: Vec<(EventType, &'static str, String)>,
    pub again: Option<Duration>,
}

/// The most pods made or deleted, and let go, in one round.
const BURST: usize = 500;
/// The first wait after a failure, in seconds, and the longest.
const BACKOFF: (i64, i64) = (10, 600);

pub fn plan(observed: &Observed, now: Timestamp) -> Plan {
    let job = &*observed.job;
    let now_s = Timestamp::from_second(now.as_second()).unwrap_or(now);
    let mut plan = Plan { status: job.status.clone(), ..Plan::default() };
    let mut own: Vec<&Arc<Pod>> = Vec::new();
    for pod in &observed.pods {
        match owners::claim(&job.metadata, &job.spec.selector, &pod.metadata) {
            Claim::Keep => own.push(pod),
            Claim::Adopt => plan.adopt.push(pod.metadata.uid.clone()),
            Claim::Release => plan.release.push(pod.metadata.uid.clone()),
            Claim::Ignore => {}
        }
    }
    if job.metadata.is_deleting() || job.finished().is_some() {
        // Nothing is counted any more; nothing is held back either.
        plan.let_go = own.iter().filter(|p| is_held(p)).map(|p| p.metadata.uid.clone()).collect();
        let active = own.iter().filter(|p| pods::is_active(p));
        if job.finished().is_some() && !job.metadata.is_deleting() {
            plan.delete = active.take(BURST).map(|p| p.metadata.uid.clone()).collect();
        }
        return plan;
    }
    if plan.status.start_time.is_none() && !job.spec.suspend {
        plan.status.start_time = Some(now_s);
    }

    // Who has ended and is not in the counts.
    let limit = job.spec.completions.unwrap_or(0);
    let indexed = job.spec.completion_mode.as_deref() == Some("Indexed");
    let mut done = indexes::parse(&job.status.completed_indexes, limit);
    let mut uncounted = job.status.uncounted_terminated_pods.clone();
    let held: BTreeSet<&str> = own.iter().filter(|p| is_held(p)).map(|p| p.metadata.uid.as_str()).collect();
    // What was noted and let go is counted now.
    let before = uncounted.succeeded.len();
    uncounted.succeeded.retain(|uid| held.contains(uid.as_str()));
    if !indexed {
        plan.status.succeeded += count(before - uncounted.succeeded.len());
    }
    let before = uncounted.failed.len();
    uncounted.failed.retain(|uid| held.contains(uid.as_str()));
    plan.status.failed += count(before - uncounted.failed.len());
    for pod in own.iter().filter(|p| is_held(p)).take(BURST) {
        let uid = &pod.metadata.uid;
        if has_succeeded(pod) {
            if indexed && let Some(index) = index_of(pod).filter(|i| *i < limit) {
                done.insert(index);
            }
            if !indexed && !uncounted.succeeded.contains(uid) {
                uncounted.succeeded.push(uid.clone());
            }
            plan.let_go.push(uid.clone());
        } else if has_failed(pod, job) {
            if !uncounted.failed.contains(uid) {
                uncounted.failed.push(uid.clone());
            }
            plan.let_go.push(uid.clone());
        }
    }
    if indexed {
        plan.status.completed_indexes = indexes::format(&done);
        plan.status.succeeded = count(done.len());
    }
    let succeeded = plan.status.succeeded + count(uncounted.succeeded.len());
    let failed = plan.status.failed + count(uncounted.failed.len());
    plan.status.uncounted_terminated_pods = uncounted;

    let mut active: Vec<&Arc<Pod>> = own.iter().copied().filter(|p| pods::is_active(p)).collect();
    let terminating = own.iter().filter(|p| p.metadata.is_deleting() && !pods::is_terminal(p)).count();
    active.sort_by_key(|p| (p.metadata.creation_timestamp, p.metadata.uid.clone()));

    let verdict = verdict(job, &plan.status, &own, active.len(), succeeded, failed, now);
    match &verdict {
        Some(verdict) => end(&mut plan, verdict, &active, terminating, now_s),
        None => {
            manage(&mut plan, job, &own, &active, &done, succeeded, terminating, now);
            suspension(&mut plan, job, now_s);
        }
    }
    let leaving: BTreeSet<&String> = plan.delete.iter().collect();
    let staying: Vec<&&Arc<Pod>> = active.iter().filter(|p| !leaving.contains(&p.metadata.uid)).collect();
    plan.status.active = count(staying.len() + plan.create.len());
    plan.status.ready = Some(count(staying.iter().filter(|p| pods::is_ready(p)).count()));
    plan.status.terminating = Some(count(terminating + plan.delete.len()));
    if let (Some(deadline), Some(start), false) =
        (job.spec.active_deadline_seconds, plan.status.start_time, job.spec.suspend)
    {
        let left = start.as_second() + deadline - now.as_second();
        sooner(&mut plan.again, left);
    }
    plan
}

/// Why a job ends.
struct Verdict {
    success: bool,
    reason: &'static str,
    message: &'static str,
}

fn verdict(
    job: &Job,
    status: &JobStatus,
    own: &[&Arc<Pod>],
    active: usize,
    succeeded: i32,
    failed: i32,
    now: Timestamp,
) -> Option<Verdict> {
    // What was decided stays decided.
    if condition(&status.conditions, "SuccessCriteriaMet").is_some_and(|c| c.status == "True") {
        return Some(SUCCESS);
    }
    const BACKOFF_LIMIT: Verdict = Verdict {
        success: false,
        reason: "BackoffLimitExceeded",
        message: "Job has reached the specified backoff limit",
    };
    const DEADLINE: Verdict = Verdict {
        success: false,
        reason: "DeadlineExceeded",
        message: "Job was active longer than specified deadline",
    };
    const SUCCESS: Verdict =
        Verdict { success: true, reason: "CompletionsReached", message: "Reached expected number of succeeded pods" };
    if let Some(target) = condition(&status.conditions, "FailureTarget").filter(|c| c.status == "True") {
        return Some(if target.reason == DEADLINE.reason { DEADLINE } else { BACKOFF_LIMIT });
    }
    let limit = job.spec.backoff_limit.unwrap_or(6);
    let restarts: i32 = if job.spec.template["spec"]["restartPolicy"] == "OnFailure" {
        let alive = own.iter().filter(|p| matches!(p.status.phase.as_str(), "Running" | "Pending"));
        alive.flat_map(|p| &p.status.container_statuses).map(|c| c.restart_count).sum()
    } else {
        0
    };
    let restarted_too_often = if limit == 0 { restarts > 0 } else { restarts >= limit };
    if failed > limit || restarted_too_often {
        return Some(BACKOFF_LIMIT);
    }
    if let (Some(deadline), Some(start), false) =
        (job.spec.active_deadline_seconds, status.start_time, job.spec.suspend)
        && now.as_second() - start.as_second() >= deadline
    {
        return Some(DEADLINE);
    }
    let complete = match job.spec.completions {
        None => succeeded > 0 && active == 0,
        Some(completions) => succeeded >= completions,
    };
    complete.then_some(SUCCESS)
}

/// Ends a job: the decision at once, the end when all pods have ended and are counted.
fn end(plan: &mut Plan, verdict: &Verdict, active: &[&Arc<Pod>], terminating: usize, now: Timestamp) {
    plan.delete = active.iter().take(BURST).map(|p| p.metadata.uid.clone()).collect();
    let mut set = |kind: &str| {
        if condition(&plan.status.conditions, kind).is_none() {
            plan.status.conditions.push(Condition {
                kind: kind.into(),
                status: "True".into(),
                reason: verdict.reason.into(),
                message: verdict.message.into(),
                last_transition_time: Some(now),
                ..Condition::default()
            });
        }
    };
    set(if verdict.success { "SuccessCriteriaMet" } else { "FailureTarget" });
    let uncounted = &plan.status.uncounted_terminated_pods;
    let counted = uncounted.succeeded.is_empty() && uncounted.failed.is_empty();
    if !counted || !active.is_empty() || terminating > 0 {
        return;
    }
    let mut set = |kind: &str| {
        plan.status.conditions.push(Condition {
            kind: kind.into(),
            status: "True".into(),
            reason: verdict.reason.into(),
            message: verdict.message.into(),
            last_transition_time: Some(now),
            ..Condition::default()
        });
    };
    if verdict.success {
        set("Complete");
        plan.status.completion_time = Some(now);
        plan.events.push((EventType::Normal, "Completed", "Job completed".into()));
    } else {
        set("Failed");
        plan.events.push((EventType::Warning, verdict.reason, verdict.message.into()));
    }
}

/// Pods that are missing or too many (`manageJob`).
#[expect(clippy::too_many_arguments, reason = "one decision over one observation, made in one place")]
fn manage(
    plan: &mut Plan,
    job: &Job,
    own: &[&Arc<Pod>],
    active: &[&Arc<Pod>],
    done: &BTreeSet<i32>,
    succeeded: i32,
    terminating: usize,
    now: Timestamp,
) {
    let parallelism = job.spec.parallelism.unwrap_or(1).max(0);
    let has = count(active.len());
    let wanted = if job.spec.suspend {
        0
    } else {
        match job.spec.completions {
            // One has succeeded: the others end by themselves.
            None if succeeded > 0 => has.min(parallelism),
            None => parallelism,
            Some(completions) => (completions - succeeded).max(0).min(parallelism),
        }
    };
    let indexed = job.spec.completion_mode.as_deref() == Some("Indexed");
    let mut taken: BTreeSet<i32> = BTreeSet::new();
    let mut surplus: Vec<String> = Vec::new();
    if indexed {
        // Of an index one pod, and none of an index that is done or does not exist.
        let limit = job.spec.completions.unwrap_or(0);
        for pod in active {
            match index_of(pod) {
                Some(index) if index < limit && !done.contains(&index) && taken.insert(index) => {}
                _ => surplus.push(pod.metadata.uid.clone()),
            }
        }
    }
    let has = has - count(surplus.len());
    if has > wanted {
        // Those that have come least far go first.
        let mut rest: Vec<&&Arc<Pod>> = active.iter().filter(|p| !surplus.contains(&p.metadata.uid)).collect();
        rest.sort_by_key(|p| pods::deletion_rank(p, 0, now));
        let extra = usize::try_from(has - wanted).unwrap_or(0);
        surplus.extend(rest.into_iter().take(extra).map(|p| p.metadata.uid.clone()));
    }
    surplus.truncate(BURST);
    plan.delete = surplus;
    if !plan.delete.is_empty() {
        return;
    }
    let waiting = if job.spec.pod_replacement_policy.as_deref() == Some("Failed") { count(terminating) } else { 0 };
    let missing = usize::try_from(wanted - has - waiting).unwrap_or(0).min(BURST);
    if missing == 0 {
        return;
    }
    let left = backoff_left(own, job, now);
    if left > 0 {
        return sooner(&mut plan.again, left);
    }
    plan.create = if indexed {
        let limit = job.spec.completions.unwrap_or(0);
        (0..limit).filter(|i| !done.contains(i) && !taken.contains(i)).take(missing).map(Some).collect()
    } else {
        vec![None; missing]
    };
}

/// How long to wait after the last failure: ten seconds, doubled with each failure since the last success.
fn backoff_left(own: &[&Arc<Pod>], job: &Job, now: Timestamp) -> i64 {
    let ended_at = |pod: &Pod| {
        let times = pod.status.conditions.iter().filter_map(|c| c.last_transition_time);
        times.chain(pod.metadata.deletion_timestamp).max().or(pod.metadata.creation_timestamp)
    };
    let last_success = own.iter().filter(|p| has_succeeded(p)).filter_map(|p| ended_at(p)).max();
    let failures: Vec<Timestamp> = own
        .iter()
        .filter(|p| has_failed(p, job))
        .filter_map(|p| ended_at(p))
        .filter(|at| last_success.is_none_or(|success| *at > success))
        .collect();
    let Some(last) = failures.iter().max() else { return 0 };
    let doublings = u32::try_from(failures.len().saturating_sub(1)).unwrap_or(u32::MAX).min(10);
    let wait = (BACKOFF.0 << doublings).min(BACKOFF.1);
    (last.as_second() + wait - now.as_second()).max(0)
}

fn suspension(plan: &mut Plan, job: &Job, now: Timestamp) {
    let current = condition(&plan.status.conditions, "Suspended").map(|c| c.status == "True");
    let (status, reason, message) = match (job.spec.suspend, current) {
        (true, None | Some(false)) => ("True", "JobSuspended", "Job suspended"),
        (false, Some(true)) => ("False", "JobResumed", "Job resumed"),
        _ => return,
    };
    plan.status.conditions.retain(|c| c.kind != "Suspended");
    plan.status.conditions.push(Condition {
        kind: "Suspended".into(),
        status: status.into(),
        reason: reason.into(),
        message: message.into(),
        last_transition_time: Some(now),
        ..Condition::default()
    });
    if job.spec.suspend {
        plan.status.start_time = None;
        plan.events.push((EventType::Normal, "Suspended", message.into()));
    } else {
        plan.status.start_time = Some(now);
        plan.events.push((EventType::Normal, "Resumed", message.into()));
    }
}

fn is_held(pod: &Pod) -> bool {
    pod.metadata.finalizers.iter().any(|f| f == FINALIZER)
}

fn has_succeeded(pod: &Pod) -> bool {
    pod.status.phase == "Succeeded"
}

/// Whether a pod counts as failed; one that is being deleted does, unless the job waits for its end.
fn has_failed(pod: &Pod, job: &Job) -> bool {
    if pod.status.phase == "Failed" {
        return true;
    }
    let waits = job.spec.pod_replacement_policy.as_deref() == Some("Failed");
    !waits && pod.metadata.is_deleting() && pod.status.phase != "Succeeded"
}

fn index_of(pod: &Pod) -> Option<i32> {
    pod.metadata.annotation(INDEX).and_then(|i| i.parse().ok()).filter(|i| *i >= 0)
}

fn count(n: usize) -> i32 {
    i32::try_from(n).unwrap_or(i32::MAX)
}

fn sooner(again: &mut Option<Duration>, seconds: i64) {
    let wait = Duration::from_secs(seconds.max(1).unsigned_abs());
    *again = Some(again.map_or(wait, |a| a.min(wait)));
}

/// A pod of a job, for an index if it has such.
pub fn pod(job: &Job, index: Option<i32>) -> Value {
    let template = &job.spec.template;
    let mut metadata = json!({
        "namespace": &*job.metadata.namespace, "ownerReferences": [owners::controller_ref(job)],
    });
    for field in ["labels", "annotations"] {
        if template["metadata"][field].is_object() {
            metadata[field] = template["metadata"][field].clone();
        }
    }
    let mut finalizers: Vec<Value> = template["metadata"]["finalizers"].as_array().cloned().unwrap_or_default();
    finalizers.push(FINALIZER.into());
    metadata["finalizers"] = finalizers.into();
    let mut spec = template["spec"].clone();
    let name = &job.metadata.name;
    match index {
        None => metadata["generateName"] = format!("{name}-").into(),
        Some(index) => {
            let index = index.to_string();
            metadata["generateName"] = format!("{name}-{index}-").into();
            for field in ["labels", "annotations"] {
                if !metadata[field].is_object() {
                    metadata[field] = json!({});
                }
                metadata[field][INDEX] = index.as_str().into();
            }
            if spec["hostname"].as_str().unwrap_or("").is_empty() {
                spec["hostname"] = format!("{name}-{index}").into();
            }
            for list in ["containers", "initContainers"] {
                for container in spec[list].as_array_mut().into_iter().flatten() {
                    if !container["env"].is_array() {
                        container["env"] = json!([]);
                    }
                    let Some(env) = container["env"].as_array_mut() else { continue };
                    if !env.iter().any(|e| e["name"] == "JOB_COMPLETION_INDEX") {
                        let path = format!("metadata.annotations['{INDEX}']");
                        env.push(json!({
                            "name": "JOB_COMPLETION_INDEX", "valueFrom": {"fieldRef": {"fieldPath": path}},
                        }));
                    }
                }
            }
        }
    }
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec})
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: &str = "2026-01-01T01:00:00Z";

    fn job(change: impl FnOnce(&mut Value)) -> Arc<Job> {
        let mut json = json!({
            "metadata": {"namespace": "n", "name": "sum", "uid": "j"},
            "spec": {"parallelism": 2, "completions": 3, "backoffLimit": 1, "selector": {"matchLabels": {"job": "j"}},
                "template": {"spec": {"restartPolicy": "Never", "containers": [{"name": "c"}]}}},
            "status": {"startTime": "2026-01-01T00:59:00Z"},
        });
        change(&mut json);
        Arc::new(serde_json::from_value(json).expect("a job"))
    }

    fn pod_in(uid: &str, phase: &str, held: bool) -> Arc<Pod> {
        let finalizers = if held { json!([FINALIZER]) } else { json!([]) };
        Arc::new(
            serde_json::from_value(json!({
                "metadata": {"namespace": "n", "name": uid, "uid": uid, "labels": {"job": "j"},
                    "finalizers": finalizers, "ownerReferences": [{"uid": "j", "controller": true}]},
                "status": {"phase": phase, "conditions": [
                    {"type": "Ready", "status": "False", "lastTransitionTime": "2026-01-01T00:59:00Z"}]},
            }))
            .expect("a pod"),
        )
    }

    /// `+made -deleted let_go; active/succeeded/failed; uncounted; last condition`
    fn check(job: &Arc<Job>, pods: Vec<Arc<Pod>>, expected: &str) -> Plan {
        let plan = plan(&Observed { job: job.clone(), pods }, NOW.parse().expect("a time"));
        let s = &plan.status;
        let uncounted = &s.uncounted_terminated_pods;
        let text = format!(
            "+{} -{} {}; {}/{}/{}; {}|{}; {}",
            plan.create.len(),
            plan.delete.len(),
            plan.let_go.join(","),
            s.active,
            s.succeeded,
            s.failed,
            uncounted.succeeded.join(","),
            uncounted.failed.join(","),
            s.conditions.last().map_or("", |c| c.kind.as_str())
        );
        assert_eq!(text, expected);
        plan
    }

    #[test]
    fn pods_are_made_noted_let_go_and_counted() {
        check(&job(|_| {}), vec![], "+2 -0 ; 2/0/0; |; ");
        check(&job(|_| {}), vec![pod_in("a", "Succeeded", true), pod_in("b", "Running", true)], "+1 -0 a; 2/0/0; a|; ");
        let noted = job(|j| j["status"]["uncountedTerminatedPods"] = json!({"succeeded": ["a"]}));
        check(&noted, vec![pod_in("a", "Succeeded", false)], "+2 -0 ; 2/1/0; |; ");
        check(&noted, vec![], "+2 -0 ; 2/1/0; |; ");
        let counted = job(|j| j["status"]["succeeded"] = 1.into());
        check(&counted, vec![pod_in("a", "Succeeded", false)], "+2 -0 ; 2/1/0; |; ");
    }

    #[test]
    fn a_job_is_decided_before_it_ends() {
        let two = job(|j| j["status"]["succeeded"] = 2.into());
        check(&two, vec![pod_in("c", "Succeeded", true)], "+0 -0 c; 0/2/0; c|; SuccessCriteriaMet");
        let three = job(|j| j["status"]["succeeded"] = 3.into());
        let plan = check(&three, vec![], "+0 -0 ; 0/3/0; |; Complete");
        assert_eq!(plan.events[0].2, "Job completed");
        check(&three, vec![pod_in("x", "Running", true)], "+0 -1 ; 0/3/0; |; SuccessCriteriaMet");
    }

    #[test]
    fn failures_wait_and_then_end_the_job() {
        let failed = |uid: &str| pod_in(uid, "Failed", true);
        check(&job(|_| {}), vec![failed("a")], "+2 -0 a; 2/0/0; |a; ");
        let plan = check(&job(|_| {}), vec![failed("a"), failed("b")], "+0 -0 a,b; 0/0/0; |a,b; FailureTarget");
        assert_eq!(plan.status.conditions[0].reason, "BackoffLimitExceeded");
        let counted = job(|j| j["status"]["failed"] = 2.into());
        check(&counted, vec![], "+0 -0 ; 0/0/2; |; Failed");
        let recent = Arc::new(Pod {
            status: crate::views::PodStatus {
                conditions: vec![Condition {
                    last_transition_time: Some("2026-01-01T00:59:57Z".parse().expect("a time")),
                    ..Condition::default()
                }],
                ..failed("a").status.clone()
            },
            ..(*failed("a")).clone()
        });
        let plan = check(&job(|_| {}), vec![recent], "+0 -0 a; 0/0/0; |a; ");
        assert_eq!(plan.again, Some(Duration::from_secs(7)));
    }

    #[test]
    fn deadlines_and_suspension_stop_pods() {
        let late = job(|j| j["spec"]["activeDeadlineSeconds"] = 60.into());
        check(&late, vec![pod_in("a", "Running", true)], "+0 -1 ; 0/0/0; |; FailureTarget");
        let suspended = job(|j| j["spec"]["suspend"] = true.into());
        check(&suspended, vec![pod_in("a", "Running", true)], "+0 -1 ; 0/0/0; |; Suspended");
    }

    #[test]
    fn every_index_is_done_once() {
        let indexed = job(|j| j["spec"]["completionMode"] = "Indexed".into());
        let with_index = |uid: &str, phase: &str, index: i32| {
            let mut pod = (*pod_in(uid, phase, true)).clone();
            pod.metadata.annotations.insert(INDEX.into(), index.to_string());
            Arc::new(pod)
        };
        let pods = vec![with_index("a", "Succeeded", 0), with_index("b", "Running", 1)];
        let plan = check(&indexed, pods, "+1 -0 a; 2/1/0; |; ");
        assert_eq!((plan.create, plan.status.completed_indexes.as_str()), (vec![Some(2)], "0"));
        let body = pod(&indexed, Some(2));
        assert_eq!(body["spec"]["hostname"], "sum-2");
        assert_eq!(body["spec"]["containers"][0]["env"][0]["name"], "JOB_COMPLETION_INDEX");
    }
}
