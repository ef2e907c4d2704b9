//! Removes finished jobs after their time (`pkg/controller/ttlafterfinished`).

use jiff::Timestamp;
use orkd_base::BoxError;
use orkd_reconcile::{DeleteOptions, Informer, Key, Outcome, Queue, Resource, work};

use crate::job::Job;
use crate::{ControllerSpec, Cx};

/// How the list of controllers names it.
pub const SPEC: ControllerSpec = ControllerSpec {
    name: "ttl-after-finished-controller",
    service_account: "ttl-after-finished-controller",
    run: |cx| Box::pin(start(cx)),
};

async fn start(cx: Cx) -> Result<(), BoxError> {
    let jobs: Informer<Job> = cx.informers.informer();
    let queue: Queue<Key> = cx.queue(SPEC.name);
    {
        let queue = queue.clone();
        jobs.subscribe(move |event| {
            let job = event.object();
            if !event.is_deleted() && job.spec.ttl_seconds_after_finished.is_some() && job.finished().is_some() {
                queue.add(event.key());
            }
        });
    }
    jobs.synced().await;
    let (api, jobs, clock) = (&cx.api, &jobs, &cx.clock);
    work(queue, 1, cx.stop, |key| async move {
        let Some(job) = jobs.get(&key).filter(|j| !j.metadata.is_deleting()) else { return Ok(Outcome::Done) };
        let Some(left) = seconds_left(&job, clock.now()) else { return Ok(Outcome::Done) };
        if left > 0 {
            return Ok(Outcome::RequeueAfter(std::time::Duration::from_secs(left.unsigned_abs())));
        }
        let options = DeleteOptions::default()
            .uid(&job.metadata.uid)
            .resource_version(&job.metadata.resource_version)
            .propagation(orkd_reconcile::Propagation::Foreground);
        match api.delete(&Resource::of::<Job>().at(&key.namespace, &key.name), &options).await {
            Err(err) if err.is_not_found() || err.is_conflict() => {}
            other => other?,
        }
        Ok(Outcome::Done)
    })
    .await;
    Ok(())
}

/// For how long a job is still kept; `None` for as long as it runs, or for ever.
fn seconds_left(job: &Job, now: Timestamp) -> Option<i64> {
    let (ttl, end) = (job.spec.ttl_seconds_after_finished?, job.finished()?);
    Some(end.last_transition_time.map_or(0, |at| at.as_second().saturating_add(ttl) - now.as_second()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    #[test]
    fn jobs_are_kept_for_their_time_after_they_ended() {
        let check = |ttl: Value, condition: &str, expected: Option<i64>| {
            let job: Job = serde_json::from_value(json!({"metadata": {"name": "j"},
                "spec": {"ttlSecondsAfterFinished": ttl}, "status": {"conditions": [{"type": condition, "status": "True",
                    "lastTransitionTime": "2026-01-01T00:00:00Z"}]}}))
            .expect("a job");
            let now = "2026-01-01T00:01:00Z".parse().expect("a time");
            assert_eq!(seconds_left(&job, now), expected, "{ttl} {condition}");
        };
        check(json!(100), "Complete", Some(40));
        check(json!(60), "Failed", Some(0));
        check(json!(0), "Complete", Some(-60));
        check(json!(60), "Suspended", None);
        check(json!(60), "FailureTarget", None);
        check(Value::Null, "Complete", None);
    }
}
