//! Daemon sets: one pod on every node that fits.
//!
//! Follows `pkg/controller/daemon`: pods are bound to their node by affinity and scheduled by the scheduler; templates
//! are kept as controller revisions, for roll-outs and for `kubectl rollout undo`; those that a deleted set left behind
//! with its pods are taken over with them; a rolling update replaces pods as
//! far as availability allows, or doubles them first (`maxSurge`).

mod failures;
mod fit;
mod plan;

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use jiff::Timestamp;
use orkd_base::{BoxError, Clock};
use orkd_reconcile::{
    Api, ApiError, Controller, DeleteOptions, Informer, Key, LabelSelector, Meta, ObjectRef, Outcome, Patch, Recorder,
    Resource, View, null_default, run,
};
use serde::de::IgnoredAny;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::freshness::Freshness;
use crate::owners::{self, Claim};
use crate::replica_set::{BY_CONTROLLER, ORPHANS, add_owner_indexes};
use crate::views::{Condition, Node, Pod, view};
use crate::{ControllerSpec, Cx};
use failures::Failures;
use plan::{Observed, Plan, Revise};

/// How the list of controllers names it.
pub const SPEC: ControllerSpec = ControllerSpec {
    name: "daemonset-controller",
    service_account: "daemon-set-controller",
    run: |cx| Box::pin(start(cx)),
};

/// The label that tells the pods of one template from those of another.
pub(crate) const HASH_LABEL: &str = "controller-revision-hash";

/// A daemon set.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct DaemonSet {
    /// Metadata.
    pub metadata: Meta,
    /// Specification.
    pub spec: DaemonSetSpec,
    /// Status.
    pub status: DaemonSetStatus,
}
view!(DaemonSet, "apps", "v1", "DaemonSet", "daemonsets");

/// What is asked of a daemon set.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct DaemonSetSpec {
    /// Which pods.
    pub selector: LabelSelector,
    /// What pods are made of.
    pub template: Value,
    /// How long a pod must be ready to count as available.
    pub min_ready_seconds: i32,
    /// How new pods replace old ones.
    pub update_strategy: UpdateStrategy,
    /// How many old revisions are kept.
    pub revision_history_limit: Option<i32>,
}

/// How new pods replace old ones.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct UpdateStrategy {
    /// `RollingUpdate` or `OnDelete`.
    #[serde(rename = "type")]
    pub kind: String,
    /// Parameters.
    pub rolling_update: Option<crate::views::RollingUpdate>,
}

/// The status of a daemon set.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct DaemonSetStatus {
    /// Nodes that have a pod and should.
    pub current_number_scheduled: i32,
    /// Nodes that have a pod and should not.
    pub number_misscheduled: i32,
    /// Nodes that should have a pod.
    pub desired_number_scheduled: i32,
    /// Nodes with a ready pod.
    pub number_ready: i32,
    /// The generation this is about.
    pub observed_generation: i64,
    /// Nodes with a pod of the newest template.
    pub updated_number_scheduled: i32,
    /// Nodes with an available pod.
    pub number_available: i32,
    /// Nodes without one.
    pub number_unavailable: i32,
    /// How often two templates had one hash.
    pub collision_count: Option<i32>,
    /// Conditions.
    #[serde(deserialize_with = "null_default")]
    pub conditions: Vec<Condition>,
}

/// One template of a daemon set or stateful set, kept.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct ControllerRevision {
    /// Metadata.
    pub metadata: Meta,
    /// The patch that brings the template back.
    pub data: Value,
    /// Its number.
    pub revision: i64,
}
view!(ControllerRevision, "apps", "v1", "ControllerRevision", "controllerrevisions");

/// The revisions of a set, and those that were left behind by one that it takes the place of: what its selector matches and
/// nobody owns. With them pods that were left behind keep their hash, and are not replaced.
pub(crate) fn revisions_of(
    revisions: &Informer<ControllerRevision>,
    set: &Meta,
    selector: &LabelSelector,
) -> Vec<Arc<ControllerRevision>> {
    let mut all = revisions.by_index(BY_CONTROLLER, &set.uid);
    let orphans = revisions.by_index(ORPHANS, &set.namespace).into_iter();
    all.extend(orphans.filter(|r| owners::claim(set, selector, &r.metadata) == Claim::Adopt));
    all
}

/// Makes a set the owner of those of its revisions that have none.
pub(crate) async fn adopt_revisions<T: View>(
    api: &Api,
    set: &T,
    revisions: &[Arc<ControllerRevision>],
) -> Result<(), BoxError> {
    for orphan in revisions.iter().filter(|r| r.metadata.controller().is_none()) {
        owners::adopt(api, set, &Resource::of::<ControllerRevision>(), &orphan.metadata).await?;
    }
    Ok(())
}

async fn start(cx: Cx) -> Result<(), BoxError> {
    let sets: Informer<DaemonSet> = cx.informers.informer();
    let pods: Informer<Pod> = cx.informers.informer();
    let nodes: Informer<Node> = cx.informers.informer();
    let revisions: Informer<ControllerRevision> = cx.informers.informer();
    add_owner_indexes(&pods);
    add_owner_indexes(&revisions);
    let queue = cx.queue(SPEC.name);
    {
        let queue = queue.clone();
        sets.subscribe(move |event| queue.add(event.key()));
    }
    {
        let (queue, sets) = (queue.clone(), sets.clone());
        pods.subscribe(move |event| {
            let pod = event.object();
            for meta in event.old().map(|old| &old.metadata).into_iter().chain([&pod.metadata]) {
                if let Some(owner) = meta.controller().filter(|c| c.kind == "DaemonSet" && c.group() == "apps") {
                    queue.add(Key::new(&meta.namespace, &owner.name));
                }
            }
            if pod.metadata.controller().is_none() && !event.is_deleted() {
                for set in sets.list_namespace(&pod.metadata.namespace) {
                    if set.spec.selector.matches(&pod.metadata.labels) {
                        queue.add(set.metadata.key());
                    }
                }
            }
        });
    }
    {
        let (queue, sets) = (queue.clone(), sets.clone());
        nodes.subscribe(move |event| {
            let node = event.object();
            let same = |old: &Arc<Node>| {
                old.metadata.labels == node.metadata.labels
                    && old.spec.taints == node.spec.taints
                    && old.spec.unschedulable == node.spec.unschedulable
            };
            if !event.old().is_some_and(same) {
                sets.list().iter().for_each(|s| queue.add(s.metadata.key()));
            }
        });
    }
    {
        let queue = queue.clone();
        revisions.subscribe(move |event| {
            let meta = &event.object().metadata;
            if let Some(owner) = meta.controller().filter(|c| c.kind == "DaemonSet") {
                queue.add(Key::new(&meta.namespace, &owner.name));
            }
        });
    }
    sets.synced().await;
    pods.synced().await;
    nodes.synced().await;
    revisions.synced().await;
    let controller = DaemonSets {
        sets,
        pods,
        nodes,
        revisions,
        api: cx.api,
        clock: cx.clock.clone(),
        recorder: cx.recorder,
        freshness: Freshness::default(),
        failures: Failures::default(),
    };
    run(Arc::new(controller), queue, 2, cx.clock, cx.stop).await;
    Ok(())
}

struct DaemonSets {
    sets: Informer<DaemonSet>,
    pods: Informer<Pod>,
    nodes: Informer<Node>,
    revisions: Informer<ControllerRevision>,
    api: Api,
    clock: Clock,
    recorder: Recorder,
    freshness: Freshness,
    failures: Failures,
}

#[async_trait]
impl Controller for DaemonSets {
    type Key = Key;
    type Observed = Observed;
    type Plan = Plan;

    async fn observe(&self, key: &Key) -> Result<Option<Observed>, BoxError> {
        let Some(set) = self.sets.get(key) else {
            self.freshness.forget(key);
            self.failures.forget(key);
            return Ok(None);
        };
        let seen = self.pods.seen();
        let mut pods = self.pods.by_index(BY_CONTROLLER, &set.metadata.uid);
        let alive = pods.iter().filter(|p| !p.metadata.is_deleting()).map(|p| p.metadata.uid.as_str());
        let fresh = self.freshness.is_fresh(key, seen, alive, Timestamp::now());
        pods.extend(self.pods.by_index(ORPHANS, &key.namespace));
        let revisions = revisions_of(&self.revisions, &set.metadata, &set.spec.selector);
        let held_back = self.failures.held_back(key, self.clock.now());
        Ok(Some(Observed { set, pods, nodes: self.nodes.list(), revisions, held_back, fresh }))
    }

    fn plan(&self, observed: &Observed, now: Timestamp) -> Plan {
        plan::plan(observed, now)
    }

    async fn act(&self, observed: &Observed, plan: Plan) -> Result<Outcome, BoxError> {
        let set = &observed.set;
        let key = set.metadata.key();
        let about = ObjectRef::of(&**set);
        if plan.selects_everything {
            let text = "This daemon set is selecting all pods. A non-empty selector is required.";
            self.recorder.warning(&about, "SelectingAll", text);
            return Ok(Outcome::Done);
        }
        adopt_revisions(&self.api, &**set, &observed.revisions).await?;
        if let Some(revise) = &plan.revise {
            match self.revise(set, revise).await? {
                // The event of the revision brings the next round.
                true => return Ok(Outcome::Done),
                false => {
                    let count = set.status.collision_count.unwrap_or(0) + 1;
                    owners::write_status(&self.api, &**set, &json!({"collisionCount": count})).await?;
                    return Ok(Outcome::Requeue);
                }
            }
        }
        let pod = |key: &Key| observed.pods.iter().find(|p| p.metadata.key() == *key);
        let pods_resource = Resource::of::<Pod>();
        for pod in plan.release.iter().filter_map(pod) {
            owners::release(&self.api, &set.metadata, &pods_resource, &pod.metadata).await?;
        }
        for pod in plan.adopt.iter().filter_map(pod) {
            owners::adopt(&self.api, &**set, &pods_resource, &pod.metadata).await?;
        }
        let mut result = self.create(set, &key, &about, &plan).await;
        for pod in plan.delete.iter().filter_map(pod) {
            match pod.status.phase.as_str() {
                "Failed" => {
                    let node = fit::target_node(pod);
                    self.failures.note(&key, node, self.clock.now());
                    let text =
                        format!("Found failed daemon pod {} on node {node}, will try to kill it", pod.metadata.key());
                    self.recorder.warning(&about, "FailedDaemonPod", text);
                }
                "Succeeded" => {
                    let node = fit::target_node(pod);
                    let text = format!(
                        "Found succeeded daemon pod {} on node {node}, will try to delete it",
                        pod.metadata.key()
                    );
                    self.recorder.normal(&about, "SucceededDaemonPod", text);
                }
                _ => {}
            }
            if let Err(err) = self.delete(&key, &about, pod).await {
                result = Err(err);
            }
        }
        for revision in &plan.forget {
            self.forget(revision).await?;
        }
        if plan.status != set.status {
            owners::write_status(&self.api, &**set, &serde_json::to_value(&plan.status)?).await?;
        }
        result?;
        let held = self.failures.next(&key, self.clock.now());
        let again = plan.again.into_iter().chain(held).min();
        Ok(again.map_or(Outcome::Done, Outcome::RequeueAfter))
    }
}

impl DaemonSets {
    /// Sees to the revision of the newest template; `false` on a collision of hashes.
    async fn revise(&self, set: &DaemonSet, revise: &Revise) -> Result<bool, BoxError> {
        let resource = Resource::of::<ControllerRevision>();
        let namespace = &set.metadata.namespace;
        match revise {
            Revise::Create { name, body } => {
                match self.api.create::<IgnoredAny>(&resource.collection(namespace), body).await {
                    Err(err) if err.is_already_exists() => {
                        let live: ControllerRevision = self.api.get(&resource.at(namespace, name)).await?;
                        let same = live.data == body["data"] && live.metadata.is_controlled_by(&set.metadata.uid);
                        Ok(same)
                    }
                    Err(err) if err.has_cause("NamespaceTerminating") => Ok(true),
                    other => Ok(other.map(|_| true)?),
                }
            }
            Revise::Renumber { name, revision } => {
                let patch = Patch::Merge(json!({"revision": revision}));
                self.api.patch::<IgnoredAny>(&resource.at(namespace, name), &patch).await?;
                Ok(true)
            }
            Revise::Label { name } => {
                let patch = Patch::Merge(json!({"metadata": {"labels": {HASH_LABEL: name}}}));
                self.api.patch::<IgnoredAny>(&resource.at(namespace, name), &patch).await?;
                Ok(true)
            }
            Revise::Merge { hash, pods, others } => {
                // The pods first: without its revision a pod's hash would be an old one.
                let patch = Patch::Merge(json!({"metadata": {"labels": {HASH_LABEL: hash}}}));
                for pod in pods {
                    let target = Resource::of::<Pod>().at(&pod.namespace, &pod.name);
                    match self.api.patch::<Pod>(&target, &patch).await {
                        Ok(pod) => self.freshness.wrote(&set.metadata.key(), pod.metadata.rv(), Timestamp::now()),
                        Err(err) if err.is_not_found() => {}
                        Err(err) => return Err(err.into()),
                    }
                }
                for other in others {
                    self.forget(other).await?;
                }
                Ok(true)
            }
        }
    }

    /// Deletes a revision.
    async fn forget(&self, revision: &Key) -> Result<(), ApiError> {
        let target = Resource::of::<ControllerRevision>().at(&revision.namespace, &revision.name);
        match self.api.delete(&target, &DeleteOptions::default()).await {
            Err(err) if err.is_not_found() => Ok(()),
            other => other,
        }
    }

    async fn create(&self, set: &DaemonSet, key: &Key, about: &ObjectRef, plan: &Plan) -> Result<(), ApiError> {
        let collection = Resource::of::<Pod>().collection(&key.namespace);
        let mut left = plan.create.as_slice();
        let mut batch = 1;
        while !left.is_empty() {
            let (now, later) = left.split_at(batch.min(left.len()));
            let bodies: Vec<Value> = now.iter().map(|node| fit::pod_for_node(set, node, &plan.hash)).collect();
            let requests = bodies.iter().map(|body| self.api.create::<Pod>(&collection, body));
            let mut failed = None;
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

/// The labels of a template.
fn template_labels(template: &Value) -> BTreeMap<String, String> {
    serde_json::from_value(template["metadata"]["labels"].clone()).unwrap_or_default()
}
