//! Jobs: pods that run to their end.
//!
//! Follows `pkg/controller/job`: ended pods are counted exactly once by a finalizer (noted in the status as
//! uncounted, let go, then counted), failures are retried with a growing wait, indexed jobs know which of their
//! indexes are done or lost, policies say what failures and successes mean. Pods whose job is gone lose their finalizer.
//!
//! A job that another controller manages (`managedBy`) is left alone.

mod backoff;
mod indexes;
mod plan;
mod pod;
mod policy;
#[cfg(test)]
mod tests;
mod types;

use std::sync::Arc;

use async_trait::async_trait;
use futures_util::StreamExt;
use jiff::Timestamp;
use orkd_base::BoxError;
use orkd_reconcile::{
    Api, ApiError, Controller, DeleteOptions, Informer, Key, ObjectRef, Outcome, Patch, Queue, Recorder, Resource, run,
    work,
};
use serde::de::IgnoredAny;
use serde_json::{Value, json};

use crate::freshness::Freshness;
use crate::owners;
use crate::replica_set::{BY_CONTROLLER, ORPHANS, add_owner_indexes};
use crate::views::Pod;
use crate::{ControllerSpec, Cx};
use plan::{Observed, Plan};
use pod::NewPod;
use types::{FINALIZER, is_held};

pub use types::{Job, JobSpec, JobStatus};

/// How the list of controllers names it.
pub const SPEC: ControllerSpec =
    ControllerSpec { name: "job-controller", service_account: "job-controller", run: |cx| Box::pin(start(cx)) };

/// How many requests of one kind run at a time.
const AT_A_TIME: usize = 32;

async fn start(cx: Cx) -> Result<(), BoxError> {
    let jobs: Informer<Job> = cx.informers.informer();
    let pods: Informer<Pod> = cx.informers.informer();
    add_owner_indexes(&pods);
    let queue = cx.queue(SPEC.name);
    let orphans: Queue<Key> = cx.queue("job_orphan_pod");
    {
        let (queue, orphans, pods) = (queue.clone(), orphans.clone(), pods.clone());
        jobs.subscribe(move |event| {
            queue.add(event.key());
            if event.is_deleted() {
                // Its pods wait for nobody.
                for pod in pods.by_index(BY_CONTROLLER, &event.object().metadata.uid) {
                    orphans.add(pod.metadata.key());
                }
            }
        });
    }
    {
        let (queue, orphans, jobs) = (queue.clone(), orphans.clone(), jobs.clone());
        pods.subscribe(move |event| {
            let pod = event.object();
            for meta in event.old().map(|old| &old.metadata).into_iter().chain([&pod.metadata]) {
                if let Some(owner) = meta.controller().filter(|c| c.kind == "Job" && c.group() == "batch") {
                    queue.add(Key::new(&meta.namespace, &owner.name));
                }
            }
            if event.is_deleted() {
                return;
            }
            if is_held(pod) && owner_of(&jobs, pod).is_none() {
                orphans.add(pod.metadata.key());
            }
            if pod.metadata.controller().is_none() {
                for job in jobs.list_namespace(&pod.metadata.namespace) {
                    if !job.spec.selector.is_empty() && job.spec.selector.matches(&pod.metadata.labels) {
                        queue.add(job.metadata.key());
                    }
                }
            }
        });
    }
    jobs.synced().await;
    pods.synced().await;
    let controller = Arc::new(Jobs {
        jobs,
        pods,
        api: cx.api,
        recorder: cx.recorder,
        freshness: Freshness::default(),
        counted: Freshness::default(),
    });
    let of_orphans = controller.clone();
    let free = work(orphans, 2, cx.stop.clone(), move |key| {
        let controller = of_orphans.clone();
        async move { controller.free_orphan(&key).await }
    });
    tokio::join!(run(controller, queue, 5, cx.clock, cx.stop.clone()), free);
    Ok(())
}

/// The job that controls a pod, if there is one.
fn owner_of(jobs: &Informer<Job>, pod: &Pod) -> Option<Arc<Job>> {
    let owner = pod.metadata.controller().filter(|c| c.kind == "Job" && c.group() == "batch")?;
    let job = jobs.get(&Key::new(&pod.metadata.namespace, &owner.name))?;
    (job.metadata.uid == owner.uid).then_some(job)
}

struct Jobs {
    jobs: Informer<Job>,
    pods: Informer<Pod>,
    api: Api,
    recorder: Recorder,
    /// Of pods.
    freshness: Freshness,
    /// Of the counts in the status.
    counted: Freshness,
}

#[async_trait]
impl Controller for Jobs {
    type Key = Key;
    type Observed = Observed;
    type Plan = Plan;

    async fn observe(&self, key: &Key) -> Result<Option<Observed>, BoxError> {
        let Some(job) = self.jobs.get(key) else {
            self.freshness.forget(key);
            self.counted.forget(key);
            return Ok(None);
        };
        if job.is_managed_elsewhere() {
            return Ok(None);
        }
        let (seen, jobs_seen) = (self.pods.seen(), self.jobs.seen());
        let mut pods = self.pods.by_index(BY_CONTROLLER, &job.metadata.uid);
        let alive = pods.iter().filter(|p| !p.metadata.is_deleting()).map(|p| p.metadata.uid.as_str());
        let now = Timestamp::now();
        // Each is known by its own watch.
        let pods_known = self.freshness.is_fresh(key, seen, alive, now);
        if !pods_known || !self.counted.is_fresh(key, jobs_seen, std::iter::empty(), now) {
            // What we wrote is on its way and brings the key back. Counting needs the newest state.
            return Ok(None);
        }
        if !job.spec.selector.is_empty() {
            pods.extend(self.pods.by_index(ORPHANS, &key.namespace));
        }
        Ok(Some(Observed { job, pods }))
    }

    fn plan(&self, observed: &Observed, now: Timestamp) -> Plan {
        plan::plan(observed, now)
    }

    async fn act(&self, observed: &Observed, plan: Plan) -> Result<Outcome, BoxError> {
        let job = &observed.job;
        let key = job.metadata.key();
        let about = ObjectRef::of(&**job);
        let pods = Resource::of::<Pod>();
        let pod = |uid: &String| observed.pods.iter().find(|p| p.metadata.uid == *uid);
        for pod in plan.adopt.iter().filter_map(pod) {
            owners::adopt_holding(&self.api, &**job, &pods, &pod.metadata, &[FINALIZER]).await?;
        }
        for pod in plan.release.iter().filter_map(pod) {
            self.let_go(pod, false).await?;
            owners::release(&self.api, &job.metadata, &pods, &pod.metadata).await?;
        }
        let mut result = Ok(());
        let deletions: Vec<_> = plan
            .delete
            .iter()
            .filter_map(|d| Some((pod(&d.uid)?, d.uncounted)))
            .map(|(pod, uncounted)| self.delete(&key, &about, pod, uncounted))
            .collect();
        let mut deletions = futures_util::stream::iter(deletions).buffer_unordered(AT_A_TIME);
        while let Some(deleted) = deletions.next().await {
            if let Err(err) = deleted {
                result = Err(err);
            }
        }
        if let Err(err) = self.create(job, &key, &about, &plan.create).await {
            result = Err(err);
        }
        // First the note, then the finalizer: a pod is never gone before it is written down.
        if plan.status != job.status {
            self.write_status(&key, job, &plan.status).await?;
        }
        for (event_type, reason, message) in &plan.events {
            self.recorder.event(&about, *event_type, reason, message.clone());
        }
        let held: Vec<_> = plan.let_go.iter().filter_map(pod).map(|pod| self.let_go(pod, false)).collect();
        let mut held = futures_util::stream::iter(held).buffer_unordered(AT_A_TIME);
        while let Some(freed) = held.next().await {
            freed?;
        }
        result?;
        Ok(plan.again.map_or(Outcome::Done, Outcome::RequeueAfter))
    }
}

impl Jobs {
    async fn write_status(&self, key: &Key, job: &Job, status: &JobStatus) -> Result<(), BoxError> {
        let target = Resource::of::<Job>().at(&key.namespace, &key.name);
        let mut live: Value = match self.api.get(&target).await {
            Err(err) if err.is_not_found() => return Ok(()),
            other => other?,
        };
        if live["metadata"]["uid"] != job.metadata.uid.as_str() {
            return Ok(());
        }
        // Counting is adding: it must be the very state that was counted from.
        live["metadata"]["resourceVersion"] = job.metadata.resource_version.as_str().into();
        live["status"] = serde_json::to_value(status)?;
        let written: Job = match self.api.update(&target.sub("status"), &live).await {
            Err(err) if err.is_not_found() => return Ok(()),
            other => other?,
        };
        self.counted.wrote(key, written.metadata.rv(), Timestamp::now());
        Ok(())
    }

    /// Takes the finalizer off a pod; with `exactly`, only off this very version of it.
    async fn let_go(&self, pod: &Pod, exactly: bool) -> Result<(), ApiError> {
        let meta = &pod.metadata;
        if !is_held(pod) {
            return Ok(());
        }
        let mut patch = json!({"metadata": {"uid": meta.uid, "$deleteFromPrimitiveList/finalizers": [FINALIZER]}});
        if exactly {
            patch["metadata"]["resourceVersion"] = meta.resource_version.as_str().into();
        }
        let target = Resource::of::<Pod>().at(&meta.namespace, &meta.name);
        match self.api.patch::<IgnoredAny>(&target, &Patch::Strategic(patch)).await {
            Err(err) if err.is_not_found() || err.is_conflict() => Ok(()),
            other => other.map(|_| ()),
        }
    }

    /// Frees a pod that no job of ours will count (`syncOrphanPod`).
    async fn free_orphan(&self, key: &Key) -> Result<Outcome, BoxError> {
        let Some(pod) = self.pods.get(key).filter(|p| is_held(p)) else { return Ok(Outcome::Done) };
        match owner_of(&self.jobs, &pod) {
            Some(job) if job.is_managed_elsewhere() || job.finished().is_none() => return Ok(Outcome::Done),
            _ => {}
        }
        if let Some(owner) = pod.metadata.controller().filter(|c| c.kind == "Job" && c.group() == "batch") {
            // The cache of jobs may lag behind that of pods.
            let target = Resource::of::<Job>().at(&key.namespace, &owner.name);
            match self.api.get::<Job>(&target).await {
                Ok(job) if job.metadata.uid == owner.uid && job.finished().is_none() => return Ok(Outcome::Done),
                Err(err) if !err.is_not_found() => return Err(err.into()),
                _ => {}
            }
        }
        // It may be adopted this moment, and then it is held anew; its event brings it back.
        self.let_go(&pod, true).await?;
        Ok(Outcome::Done)
    }

    async fn create(&self, job: &Job, key: &Key, about: &ObjectRef, pods: &[NewPod]) -> Result<(), ApiError> {
        let collection = Resource::of::<Pod>().collection(&key.namespace);
        let mut left = pods;
        let mut batch = 1;
        while !left.is_empty() {
            let (now, later) = left.split_at(batch.min(left.len()));
            let bodies: Vec<Value> = now.iter().map(|new| pod::body(job, new)).collect();
            let mut failed = None;
            let requests = bodies.iter().map(|body| self.api.create::<Pod>(&collection, body));
            for result in futures_util::future::join_all(requests).await {
                match result {
                    Ok(pod) => {
                        self.freshness.wrote(key, pod.metadata.rv(), Timestamp::now());
                        self.recorder.normal(about, "SuccessfulCreate", format!("Created pod: {}", pod.metadata.name));
                    }
                    Err(err) if err.has_cause("NamespaceTerminating") => return Ok(()),
                    Err(err) => {
                        self.recorder.warning(about, "FailedCreate", format!("Error creating: {}", err.message()));
                        failed = Some(err);
                    }
                }
            }
            if let Some(err) = failed {
                return Err(err);
            }
            left = later;
            batch *= 2;
        }
        Ok(())
    }

    async fn delete(&self, key: &Key, about: &ObjectRef, pod: &Pod, uncounted: bool) -> Result<(), ApiError> {
        let meta = &pod.metadata;
        if uncounted {
            self.let_go(pod, false).await?;
        }
        self.freshness.deleting(key, &meta.uid, Timestamp::now());
        let target = Resource::of::<Pod>().at(&meta.namespace, &meta.name);
        match self.api.delete(&target, &DeleteOptions::default().uid(&meta.uid)).await {
            Ok(()) => {
                self.recorder.normal(about, "SuccessfulDelete", format!("Deleted pod: {}", meta.name));
                Ok(())
            }
            Err(err) => {
                self.freshness.not_deleted(key, &meta.uid);
                if err.is_not_found() || err.is_conflict() {
                    return Ok(());
                }
                self.recorder.warning(about, "FailedDelete", format!("Error deleting: {}", err.message()));
                Err(err)
            }
        }
    }
}
