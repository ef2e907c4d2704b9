//! Jobs: pods that run to their end.
//!
//! Follows `pkg/controller/job`: ended pods are counted exactly once by a finalizer (noted in the status as
//! uncounted, let go, then counted), failures are retried with a growing wait, indexed jobs know which of their
//! indexes are done.
//!
//! Left out: pod failure policies, success policies, limits of failures for each index, and jobs managed by others
//! are left alone (`managedBy`).

mod indexes;
mod plan;

use std::sync::Arc;

use async_trait::async_trait;
use jiff::Timestamp;
use orkd_base::BoxError;
use orkd_reconcile::{
    Api, ApiError, Controller, DeleteOptions, Informer, Key, LabelSelector, Meta, ObjectRef, Outcome, Patch, Queue,
    Recorder, Resource, View, null_default, run, work,
};
use serde::de::IgnoredAny;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::freshness::Freshness;
use crate::owners;
use crate::replica_set::{BY_CONTROLLER, ORPHANS, add_owner_indexes};
use crate::views::{Condition, Pod, condition, view};
use crate::{ControllerSpec, Cx};
use plan::{Observed, Plan};

/// How the list of controllers names it.
pub const SPEC: ControllerSpec =
    ControllerSpec { name: "job-controller", service_account: "job-controller", run: |cx| Box::pin(start(cx)) };

/// Removes finished jobs after their time.
pub const TTL: ControllerSpec = ControllerSpec {
    name: "ttl-after-finished-controller",
    service_account: "ttl-after-finished-controller",
    run: |cx| Box::pin(remove_finished(cx)),
};

/// Keeps an ended pod until it has been counted.
pub(crate) const FINALIZER: &str = "batch.kubernetes.io/job-tracking";
/// Annotation and label of a pod of an indexed job.
pub(crate) const INDEX: &str = "batch.kubernetes.io/job-completion-index";

/// A job.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Job {
    /// Metadata.
    pub metadata: Meta,
    /// Specification.
    pub spec: JobSpec,
    /// Status.
    pub status: JobStatus,
}
view!(Job, "batch", "v1", "Job", "jobs");

/// What is asked of a job.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct JobSpec {
    /// How many pods at a time.
    pub parallelism: Option<i32>,
    /// How many must succeed; `None` for one, and then the others end by themselves.
    pub completions: Option<i32>,
    /// `NonIndexed` or `Indexed`.
    pub completion_mode: Option<String>,
    /// How many may fail.
    pub backoff_limit: Option<i32>,
    /// For how long it may run, in seconds.
    pub active_deadline_seconds: Option<i64>,
    /// For how long it is kept after its end.
    pub ttl_seconds_after_finished: Option<i64>,
    /// Whether it stands still.
    #[serde(deserialize_with = "null_default")]
    pub suspend: bool,
    /// Which pods.
    pub selector: LabelSelector,
    /// `Failed` when pods that end are waited for.
    pub pod_replacement_policy: Option<String>,
    /// Who manages it, if not we.
    pub managed_by: Option<String>,
    /// What pods are made of.
    pub template: Value,
}

/// The status of a job.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct JobStatus {
    /// Conditions.
    #[serde(deserialize_with = "null_default")]
    pub conditions: Vec<Condition>,
    /// When it began.
    pub start_time: Option<Timestamp>,
    /// When it succeeded.
    pub completion_time: Option<Timestamp>,
    /// Pods that run.
    pub active: i32,
    /// Pods that are ready.
    pub ready: Option<i32>,
    /// Pods that are being deleted.
    pub terminating: Option<i32>,
    /// Pods that succeeded.
    pub succeeded: i32,
    /// Pods that failed.
    pub failed: i32,
    /// Indexes that are done, such as `0-3,5`.
    #[serde(deserialize_with = "null_default", skip_serializing_if = "String::is_empty")]
    pub completed_indexes: String,
    /// Pods that ended and are not in the counts yet.
    pub uncounted_terminated_pods: Uncounted,
}

/// Uids of pods that ended and are not in the counts yet.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(default)]
pub struct Uncounted {
    /// Those that succeeded.
    #[serde(deserialize_with = "null_default", skip_serializing_if = "Vec::is_empty")]
    pub succeeded: Vec<String>,
    /// Those that failed.
    #[serde(deserialize_with = "null_default", skip_serializing_if = "Vec::is_empty")]
    pub failed: Vec<String>,
}

impl Job {
    /// Whether it has ended, and when.
    pub fn finished(&self) -> Option<&Condition> {
        ["Complete", "Failed"]
            .iter()
            .find_map(|kind| condition(&self.status.conditions, kind).filter(|c| c.status == "True"))
    }
}

async fn start(cx: Cx) -> Result<(), BoxError> {
    let jobs: Informer<Job> = cx.informers.informer();
    let pods: Informer<Pod> = cx.informers.informer();
    add_owner_indexes(&pods);
    let queue = Queue::new(SPEC.name);
    {
        let queue = queue.clone();
        jobs.subscribe(move |event| queue.add(event.key()));
    }
    {
        let (queue, jobs) = (queue.clone(), jobs.clone());
        pods.subscribe(move |event| {
            let pod = event.object();
            for meta in event.old().map(|old| &old.metadata).into_iter().chain([&pod.metadata]) {
                if let Some(owner) = meta.controller().filter(|c| c.kind == "Job" && c.group() == "batch") {
                    queue.add(Key::new(&meta.namespace, &owner.name));
                }
            }
            if pod.metadata.controller().is_none() && !event.is_deleted() {
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
    let controller = Jobs {
        jobs,
        pods,
        api: cx.api,
        recorder: cx.recorder,
        freshness: Freshness::default(),
        counted: Freshness::default(),
    };
    run(Arc::new(controller), queue, 5, cx.clock, cx.stop).await;
    Ok(())
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
        if job.spec.managed_by.as_ref().is_some_and(|m| m != "kubernetes.io/job-controller") {
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
            owners::adopt(&self.api, &**job, &pods, &pod.metadata).await?;
        }
        for pod in plan.release.iter().filter_map(pod) {
            self.let_go(pod).await?;
            owners::release(&self.api, &job.metadata, &pods, &pod.metadata).await?;
        }
        let mut result = Ok(());
        for pod in plan.delete.iter().filter_map(pod) {
            if let Err(err) = self.delete(&key, &about, pod).await {
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
        for pod in plan.let_go.iter().filter_map(pod) {
            self.let_go(pod).await?;
        }
        for (event_type, reason, message) in &plan.events {
            self.recorder.event(&about, *event_type, reason, message.clone());
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

    async fn let_go(&self, pod: &Pod) -> Result<(), ApiError> {
        let meta = &pod.metadata;
        if !meta.finalizers.iter().any(|f| f == FINALIZER) {
            return Ok(());
        }
        let patch = json!({"metadata": {"uid": meta.uid, "$deleteFromPrimitiveList/finalizers": [FINALIZER]}});
        let target = Resource::of::<Pod>().at(&meta.namespace, &meta.name);
        match self.api.patch::<IgnoredAny>(&target, &Patch::Strategic(patch)).await {
            Err(err) if err.is_not_found() || err.is_conflict() => Ok(()),
            other => other.map(|_| ()),
        }
    }

    async fn create(&self, job: &Job, key: &Key, about: &ObjectRef, pods: &[Option<i32>]) -> Result<(), ApiError> {
        let collection = Resource::of::<Pod>().collection(&key.namespace);
        let mut left = pods;
        let mut batch = 1;
        while !left.is_empty() {
            let (now, later) = left.split_at(batch.min(left.len()));
            let bodies: Vec<Value> = now.iter().map(|index| plan::pod(job, *index)).collect();
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

    async fn delete(&self, key: &Key, about: &ObjectRef, pod: &Pod) -> Result<(), ApiError> {
        let meta = &pod.metadata;
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

// ---- after the end (`pkg/controller/ttlafterfinished`)

async fn remove_finished(cx: Cx) -> Result<(), BoxError> {
    let jobs: Informer<Job> = cx.informers.informer();
    let queue: Queue<Key> = Queue::new(TTL.name);
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
