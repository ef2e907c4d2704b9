//! Removes finished jobs after their time (`pkg/controller/ttlafterfinished`).

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
        let (Some(ttl), Some(end)) = (job.spec.ttl_seconds_after_finished, job.finished()) else {
            return Ok(Outcome::Done);
        };
        let now = clock.now().as_second();
        let left = end.last_transition_time.map_or(0, |at| at.as_second() + ttl - now);
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
