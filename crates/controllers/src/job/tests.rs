use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use serde_json::{Value, json};

use super::plan::{Observed, Plan, plan};
use super::pod;
use super::types::{FINALIZER, INDEX, INDEX_FAILURES, Job};
use crate::views::Pod;

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

fn indexed(change: impl FnOnce(&mut Value)) -> Arc<Job> {
    job(|j| {
        j["spec"]["completionMode"] = "Indexed".into();
        change(j);
    })
}

/// `uid:phase[:index]`, with `!` for one that is being deleted and `-` for one that was let go, at the end; `@code`
/// for an exit code.
fn pod_in(text: &str) -> Arc<Pod> {
    let (held, deleting) = (!text.contains('-'), text.contains('!'));
    let text = text.trim_end_matches(['-', '!']);
    let (text, code) = text.split_once('@').map_or((text, 1), |(t, c)| (t, c.parse().expect("a code")));
    let mut parts = text.split(':');
    let (uid, phase, index) = (parts.next().expect("a uid"), parts.next().expect("a phase"), parts.next());
    let mut json = json!({
        "metadata": {"namespace": "n", "name": uid, "uid": uid, "labels": {"job": "j"}, "annotations": {},
            "creationTimestamp": "2026-01-01T00:50:00Z",
            "finalizers": if held { json!([FINALIZER]) } else { json!([]) },
            "ownerReferences": [{"uid": "j", "controller": true}]},
        "status": {"phase": phase, "conditions": [
            {"type": "Ready", "status": "False", "lastTransitionTime": "2026-01-01T00:59:00Z"}]},
    });
    if let Some(index) = index {
        let (index, failures) = index.split_once('/').unwrap_or((index, ""));
        json["metadata"]["annotations"][INDEX] = index.into();
        if !failures.is_empty() {
            json["metadata"]["annotations"][INDEX_FAILURES] = failures.into();
        }
    }
    if deleting {
        json["metadata"]["deletionTimestamp"] = "2026-01-01T00:59:00Z".into();
    }
    if phase == "Failed" {
        json["status"]["containerStatuses"] = json!([{"name": "c",
            "state": {"terminated": {"exitCode": code, "finishedAt": "2026-01-01T00:59:00Z"}}}]);
    }
    Arc::new(serde_json::from_value(json).expect("a pod"))
}

fn plan_of(job: &Arc<Job>, pods: &str, now: &str) -> Plan {
    let pods = pods.split_whitespace().map(pod_in).collect();
    plan(&Observed { job: job.clone(), pods }, now.parse().expect("a time"))
}

/// `+made -deleted let_go; active/succeeded/failed; uncounted; last condition`
fn check(job: &Arc<Job>, pods: &str, expected: &str) -> Plan {
    let plan = plan_of(job, pods, NOW);
    let s = &plan.status;
    let uncounted = &s.uncounted_terminated_pods;
    let made: Vec<String> = plan
        .create
        .iter()
        .map(|p| match (p.index, p.failures) {
            (None, _) => "x".to_owned(),
            (Some(i), None | Some((0, 0))) => i.to_string(),
            (Some(i), Some((f, 0))) => format!("{i}/{f}"),
            (Some(i), Some((f, g))) => format!("{i}/{f}~{g}"),
        })
        .collect();
    let deleted: Vec<String> =
        plan.delete.iter().map(|d| format!("{}{}", d.uid, if d.uncounted { "~" } else { "" })).collect();
    let text = format!(
        "+{} -{} {}; {}/{}/{}; {}|{}; {}",
        made.join(","),
        deleted.join(","),
        plan.let_go.join(","),
        s.active,
        s.succeeded,
        s.failed,
        uncounted.succeeded.join(","),
        uncounted.failed.join(","),
        s.conditions.last().map_or(String::new(), |c| format!("{} {}", c.kind, c.reason))
    );
    assert_eq!(text.trim_end(), expected, "{pods}");
    plan
}

#[test]
fn pods_are_made_noted_let_go_and_counted() {
    check(&job(|_| {}), "", "+x,x - ; 2/0/0; |;");
    check(&job(|_| {}), "a:Succeeded b:Running", "+x - a; 2/0/0; a|;");
    let noted = job(|j| j["status"]["uncountedTerminatedPods"] = json!({"succeeded": ["a"]}));
    check(&noted, "a:Succeeded", "+x,x - a; 2/0/0; a|;");
    check(&noted, "a:Succeeded-", "+x,x - ; 2/1/0; |;");
    check(&noted, "", "+x,x - ; 2/1/0; |;");
    let counted = job(|j| j["status"]["succeeded"] = 1.into());
    check(&counted, "a:Succeeded-", "+x,x - ; 2/1/0; |;");
}

#[test]
fn a_job_is_decided_before_it_ends() {
    let two = job(|j| j["status"]["succeeded"] = 2.into());
    check(&two, "c:Succeeded", "+ - c; 0/2/0; c|; SuccessCriteriaMet CompletionsReached");
    let three = job(|j| j["status"]["succeeded"] = 3.into());
    let plan = check(&three, "", "+ - ; 0/3/0; |; Complete CompletionsReached");
    assert_eq!(plan.events[0].2, "Job completed");
    assert_eq!(plan.status.conditions[0].kind, "SuccessCriteriaMet");
    check(&three, "x:Running", "+ -x~ x; 0/3/0; |; SuccessCriteriaMet CompletionsReached");
    let queue = job(|j| {
        j["spec"]["completions"] = Value::Null;
        j["status"]["succeeded"] = 1.into();
    });
    check(&queue, "a:Running", "+ - ; 1/1/0; |;");
    check(&queue, "", "+ - ; 0/1/0; |; Complete CompletionsReached");
}

#[test]
fn failures_wait_and_then_end_the_job() {
    check(&job(|_| {}), "a:Failed", "+x,x - a; 2/0/0; |a;");
    let plan = plan_of(&job(|_| {}), "a:Failed", "2026-01-01T00:59:03Z");
    assert_eq!((plan.create.len(), plan.again), (0, Some(Duration::from_secs(7))));
    let reason = "FailureTarget BackoffLimitExceeded";
    check(&job(|_| {}), "a:Failed b:Failed", &format!("+ - a,b; 0/0/0; |a,b; {reason}"));
    check(&job(|_| {}), "a:Failed b:Failed c:Running", &format!("+ -c a,b,c; 0/0/0; |a,b,c; {reason}"));
    let counted = job(|j| j["status"]["failed"] = 2.into());
    let plan = check(&counted, "", "+ - ; 0/0/2; |; Failed BackoffLimitExceeded");
    assert_eq!(plan.events[0].2, "Job has reached the specified backoff limit");
    check(&counted, "x:Running-!", &format!("+ - ; 0/0/2; |; {reason}"));
}

#[test]
fn pods_that_are_deleted_have_failed_or_are_waited_for() {
    check(&job(|_| {}), "a:Running! b:Running", "+x - a; 2/0/0; |a;");
    let waits = job(|j| j["spec"]["podReplacementPolicy"] = "Failed".into());
    check(&waits, "a:Running! b:Running", "+ - ; 1/0/0; |;");
    check(&waits, "a:Failed! b:Running", "+x - a; 2/0/0; |a;");
}

#[test]
fn deadlines_and_suspension_stop_pods() {
    let late = job(|j| j["spec"]["activeDeadlineSeconds"] = 60.into());
    check(&late, "a:Running", "+ -a a; 0/0/0; |a; FailureTarget DeadlineExceeded");
    let suspended = job(|j| j["spec"]["suspend"] = true.into());
    let plan = check(&suspended, "a:Running", "+ -a~ ; 0/0/0; |; Suspended JobSuspended");
    assert_eq!(plan.status.start_time, None);
    let kept = job(|j| {
        j["spec"]["suspend"] = true.into();
        j["status"]["conditions"] =
            json!([{"type": "Suspended", "status": "False"}, {"type": "Other", "status": "True"}]);
    });
    // A condition keeps its place.
    let plan = check(&kept, "", "+ - ; 0/0/0; |; Other");
    assert_eq!(plan.status.conditions[0].reason, "JobSuspended");
    let resumed = job(|j| j["status"]["conditions"] = json!([{"type": "Suspended", "status": "True"}]));
    let plan = check(&resumed, "", "+x,x - ; 2/0/0; |; Suspended JobResumed");
    assert_eq!(plan.status.start_time, NOW.parse::<Timestamp>().ok());
}

#[test]
fn fewer_at_a_time_are_deleted_without_counting() {
    let one = job(|j| j["spec"]["parallelism"] = 1.into());
    check(&one, "a:Running b:Pending", "+ -b~ ; 1/0/0; |;");
}

#[test]
fn a_job_that_goes_lets_its_pods_go() {
    let going = job(|j| j["metadata"]["deletionTimestamp"] = NOW.into());
    check(&going, "a:Running b:Succeeded", "+ - a,b; 1/0/0; b|;");
    let done = job(|j| j["status"]["conditions"] = json!([{"type": "Complete", "status": "True"}]));
    check(&done, "b:Succeeded a:Running", "+ - b,a; 0/0/0; |; Complete");
}

#[test]
fn every_index_is_done_once() {
    let plan = check(&indexed(|_| {}), "a:Succeeded:0 b:Running:1", "+2 - a; 2/1/0; |;");
    assert_eq!(plan.status.completed_indexes, "0");
    check(&indexed(|_| {}), "a:Running:0 b:Pending:0", "+ -b~ ; 1/0/0; |;");
    check(&indexed(|_| {}), "a:Running:7 b:Running:1", "+ -a~ ; 1/0/0; |;");
    let body = pod::body(&indexed(|_| {}), &plan.create[0]);
    assert_eq!(body["spec"]["hostname"], "sum-2");
    assert_eq!(body["metadata"]["generateName"], "sum-2-");
    assert_eq!(body["metadata"]["labels"][INDEX], "2");
    let env = &body["spec"]["containers"][0]["env"][0];
    assert_eq!(
        (&env["name"], &env["valueFrom"]["fieldRef"]["fieldPath"]),
        (&json!("JOB_COMPLETION_INDEX"), &json!("metadata.labels['batch.kubernetes.io/job-completion-index']"))
    );
}

#[test]
fn names_are_cut_before_the_index() {
    let long = "x".repeat(63);
    let check = |index: Option<i32>, expected: String| {
        let job = indexed(|j| j["metadata"]["name"] = long.as_str().into());
        let body = pod::body(&job, &pod::NewPod { index, failures: None });
        assert_eq!(body["metadata"]["generateName"], expected);
    };
    check(Some(12), format!("{}-12-", "x".repeat(54)));
    // The API server cuts the others.
    check(None, format!("{long}-"));
}

#[test]
fn an_index_has_a_limit_of_its_own() {
    let per_index = |change: fn(&mut Value)| {
        indexed(|j| {
            j["spec"]["backoffLimit"] = i32::MAX.into();
            j["spec"]["backoffLimitPerIndex"] = 1.into();
            change(j);
        })
    };
    // The failed pod stays until its successor carries its count.
    check(&per_index(|_| {}), "a:Failed:0/0 b:Running:1/0", "+0/1 - ; 2/0/0; |;");
    check(&per_index(|_| {}), "a:Failed:0/0 b:Running:1/0 c:Running:0/1", "+ - a; 2/0/0; |a;");
    let plan = check(&per_index(|_| {}), "c:Failed:0/1 b:Running:1/0", "+2 - c; 2/0/0; |c;");
    assert_eq!(plan.status.failed_indexes.as_deref(), Some("0"));
    let early = plan_of(&per_index(|_| {}), "a:Failed:0/0 b:Running:1/0", "2026-01-01T00:59:04Z");
    assert_eq!((early.create.len(), early.again), (0, Some(Duration::from_secs(6))), "{early:?}");
    let ended = per_index(|j| {
        j["status"]["completedIndexes"] = "1,2".into();
        j["status"]["failedIndexes"] = "0".into();
    });
    check(&ended, "", "+ - ; 0/2/0; |; Failed FailedIndexes");
    let max = per_index(|j| {
        j["spec"]["maxFailedIndexes"] = 1.into();
        j["status"]["failedIndexes"] = "0,1".into();
    });
    check(&max, "x:Running:2/0", "+ -x x; 0/0/0; |x; FailureTarget MaxFailedIndexesExceeded");
    let fail_index = per_index(|j| {
        j["spec"]["podFailurePolicy"] =
            json!({"rules": [{"action": "FailIndex", "onExitCodes": {"operator": "In", "values": [42]}}]});
    });
    let plan = check(&fail_index, "c:Failed:0/0@42 b:Running:1/0", "+2 - c; 2/0/0; |c;");
    assert_eq!(plan.status.failed_indexes.as_deref(), Some("0"));
}

#[test]
fn failures_mean_what_the_policy_says() {
    let policy = |action: &str| {
        job(|j| {
            j["spec"]["podFailurePolicy"] =
                json!({"rules": [{"action": action, "onExitCodes": {"operator": "In", "values": [42]}}]});
        })
    };
    check(&policy("Ignore"), "a:Failed@42 b:Failed@42 c:Failed@42", "+x,x - a,b,c; 2/0/0; |;");
    let plan =
        check(&policy("FailJob"), "a:Failed@42 b:Running", "+ -b a,b; 0/0/0; |a,b; FailureTarget PodFailurePolicy");
    let text = "Container c for pod n/a failed with exit code 42 matching FailJob rule at index 0";
    assert_eq!(plan.status.conditions[0].message, text);
}

#[test]
fn some_indexes_can_be_enough() {
    let some = indexed(|j| j["spec"]["successPolicy"] = json!({"rules": [{"succeededIndexes": "0"}]}));
    let plan = check(&some, "a:Succeeded:0 b:Running:1", "+ -b a,b; 0/1/0; |; SuccessCriteriaMet SuccessPolicy");
    assert_eq!(plan.status.conditions[0].message, "Matched rules at index 0");
    let met = indexed(|j| {
        j["status"]["completedIndexes"] = "0".into();
        j["status"]["conditions"] =
            json!([{"type": "SuccessCriteriaMet", "status": "True", "reason": "SuccessPolicy", "message": "m"}]);
    });
    check(&met, "b:Running:1!", "+ - b; 0/1/0; |; SuccessCriteriaMet SuccessPolicy");
    check(&met, "", "+ - ; 0/1/0; |; Complete SuccessPolicy");
}

#[test]
fn what_is_adopted_is_not_made_again() {
    let orphan = |name: &str| {
        let mut pod = (*pod_in(&format!("{name}:Running-"))).clone();
        pod.metadata.owner_references = Default::default();
        Arc::new(pod)
    };
    let adopting = |change: fn(&mut Value)| {
        let plan = plan(
            &Observed { job: job(change), pods: vec![orphan("a"), pod_in("b:Running")] },
            NOW.parse().expect("a time"),
        );
        (plan.adopt, plan.create.len(), plan.delete.len(), plan.status.active)
    };
    assert_eq!(adopting(|_| ()), (vec!["a".to_owned()], 0, 0, 2));
    let ended = |j: &mut Value| j["status"]["conditions"] = json!([{"type": "Complete", "status": "True"}]);
    assert_eq!(adopting(ended), (Vec::new(), 0, 0, 0));
}
