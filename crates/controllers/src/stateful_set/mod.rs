//! Stateful sets: pods with names, an order and claims of their own.
//!
//! Follows `pkg/controller/statefulset`: pods `NAME-0`, `NAME-1`, ... come one after the other and go the other way
//! round (all at once with `Parallel`); claims are made from templates, and stay or go with the set or the pod; templates
//! are kept as controller revisions, and a rolling update replaces pods from the highest ordinal down to the partition.

mod plan;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use async_trait::async_trait;
use jiff::Timestamp;
use orkd_base::BoxError;
use orkd_reconcile::{
    Api, ApiError, Controller, DeleteOptions, Informer, Key, LabelSelector, Meta, ObjectRef, Outcome, Patch, Recorder,
    Resource, View, null_default, run,
};
use serde::de::IgnoredAny;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::daemon_set::{ControllerRevision, adopt_revisions, revisions_of};
use crate::freshness::Freshness;
use crate::owners;
use crate::replica_set::{BY_CONTROLLER, ORPHANS, add_owner_indexes};
use crate::storage::views::Claim;
use crate::views::{Condition, Pod, view};
use crate::{ControllerSpec, Cx};
use plan::{Action, Observed, Plan, Revise};

/// How the list of controllers names it.
pub const SPEC: ControllerSpec = ControllerSpec {
    name: "statefulset-controller",
    service_account: "statefulset-controller",
    run: |cx| Box::pin(start(cx)),
};

const CLAIMS: Resource = Resource::new("", "v1", "persistentvolumeclaims", "PersistentVolumeClaim", true);

/// A stateful set.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct StatefulSet {
    /// Metadata.
    pub metadata: Meta,
    /// Specification.
    pub spec: StatefulSetSpec,
    /// Status.
    pub status: StatefulSetStatus,
}
view!(StatefulSet, "apps", "v1", "StatefulSet", "statefulsets");

/// What is asked of a stateful set.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct StatefulSetSpec {
    /// How many pods.
    pub replicas: Option<i32>,
    /// Which pods.
    pub selector: LabelSelector,
    /// What pods are made of.
    pub template: Value,
    /// The service that names them.
    pub service_name: String,
    /// `OrderedReady` or `Parallel`.
    pub pod_management_policy: String,
    /// How new pods replace old ones.
    pub update_strategy: UpdateStrategy,
    /// How long a pod must be ready to count as available.
    pub min_ready_seconds: i32,
    /// How many old revisions are kept.
    pub revision_history_limit: Option<i32>,
    /// What each pod's claims are made of.
    #[serde(deserialize_with = "null_default")]
    pub volume_claim_templates: Vec<Value>,
    /// Where ordinals begin.
    #[serde(deserialize_with = "null_default")]
    pub ordinals: Ordinals,
    /// What becomes of claims.
    #[serde(deserialize_with = "null_default")]
    pub persistent_volume_claim_retention_policy: Retention,
}

/// What becomes of claims: `Retain` or `Delete`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Retention {
    /// When the set goes.
    pub when_deleted: String,
    /// When their pod is one too many.
    pub when_scaled: String,
}

/// Where ordinals begin.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Ordinals {
    /// The first.
    pub start: i32,
}

/// How new pods replace old ones.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct UpdateStrategy {
    /// `RollingUpdate` or `OnDelete`.
    #[serde(rename = "type")]
    pub kind: String,
    /// Parameters.
    #[serde(deserialize_with = "null_default")]
    pub rolling_update: RollingUpdate,
}

/// Parameters of a rolling update.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct RollingUpdate {
    /// Pods below this ordinal keep their revision.
    pub partition: Option<i32>,
    /// How many pods may be missing at once: a number or a percentage; null for one after the other.
    pub max_unavailable: Value,
}

/// The status of a stateful set.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct StatefulSetStatus {
    /// The generation this is about.
    pub observed_generation: i64,
    /// Pods.
    pub replicas: i32,
    /// Ready pods.
    pub ready_replicas: i32,
    /// Pods of the current revision.
    pub current_replicas: i32,
    /// Pods of the newest revision.
    pub updated_replicas: i32,
    /// Available pods.
    pub available_replicas: i32,
    /// Name of the current revision.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub current_revision: String,
    /// Name of the newest revision.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub update_revision: String,
    /// How often two templates had one hash.
    pub collision_count: Option<i32>,
    /// Conditions.
    #[serde(deserialize_with = "null_default", skip_serializing_if = "Vec::is_empty")]
    pub conditions: Vec<Condition>,
}

async fn start(cx: Cx) -> Result<(), BoxError> {
    let sets: Informer<StatefulSet> = cx.informers.informer();
    let pods: Informer<Pod> = cx.informers.informer();
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
                if let Some(owner) = meta.controller().filter(|c| c.kind == "StatefulSet" && c.group() == "apps") {
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
        let queue = queue.clone();
        revisions.subscribe(move |event| {
            let meta = &event.object().metadata;
            if let Some(owner) = meta.controller().filter(|c| c.kind == "StatefulSet") {
                queue.add(Key::new(&meta.namespace, &owner.name));
            }
        });
    }
    let claims: Informer<Claim> = cx.informers.informer();
    {
        let (queue, sets) = (queue.clone(), sets.clone());
        claims.subscribe(move |event| {
            // A claim that goes may be waited for, and one that came may need owners.
            let meta = &event.object().metadata;
            for set in sets.list_namespace(&meta.namespace) {
                let of = |t: &Value| {
                    let volume = t["metadata"]["name"].as_str().unwrap_or("");
                    meta.name
                        .strip_prefix(volume)
                        .is_some_and(|rest| rest.starts_with(&format!("-{}-", set.metadata.name)))
                };
                if set.spec.volume_claim_templates.iter().any(of) {
                    queue.add(set.metadata.key());
                }
            }
        });
    }
    sets.synced().await;
    pods.synced().await;
    revisions.synced().await;
    claims.synced().await;
    let freshness = Freshness::default();
    let controller = StatefulSets { sets, pods, revisions, claims, api: cx.api, recorder: cx.recorder, freshness };
    run(Arc::new(controller), queue, 5, cx.clock, cx.stop).await;
    Ok(())
}

struct StatefulSets {
    sets: Informer<StatefulSet>,
    pods: Informer<Pod>,
    revisions: Informer<ControllerRevision>,
    claims: Informer<Claim>,
    api: Api,
    recorder: Recorder,
    freshness: Freshness,
}

#[async_trait]
impl Controller for StatefulSets {
    type Key = Key;
    type Observed = Observed;
    type Plan = Plan;

    async fn observe(&self, key: &Key) -> Result<Option<Observed>, BoxError> {
        let Some(set) = self.sets.get(key) else {
            self.freshness.forget(key);
            return Ok(None);
        };
        let seen = self.pods.seen();
        let mut pods = self.pods.by_index(BY_CONTROLLER, &set.metadata.uid);
        let alive = pods.iter().filter(|p| !p.metadata.is_deleting()).map(|p| p.metadata.uid.as_str());
        let fresh = self.freshness.is_fresh(key, seen, alive, Timestamp::now());
        pods.extend(self.pods.by_index(ORPHANS, &key.namespace));
        let revisions = revisions_of(&self.revisions, &set.metadata, &set.spec.selector);
        let mut claims = BTreeMap::new();
        if !set.spec.volume_claim_templates.is_empty() {
            let first = set.spec.ordinals.start;
            let end = first.saturating_add(set.spec.replicas.unwrap_or(1).max(0));
            let mut names: BTreeSet<String> = pods.iter().map(|p| p.metadata.name.to_string()).collect();
            names.extend((first..end).map(|ordinal| format!("{}-{ordinal}", set.metadata.name)));
            for template in &set.spec.volume_claim_templates {
                let volume = template["metadata"]["name"].as_str().unwrap_or("");
                for pod in &names {
                    let name = format!("{volume}-{pod}");
                    if let Some(claim) = self.claims.get_named(&key.namespace, &name) {
                        claims.insert(name, claim);
                    }
                }
            }
        }
        Ok(Some(Observed { set, pods, revisions, claims, fresh }))
    }

    fn plan(&self, observed: &Observed, now: Timestamp) -> Plan {
        plan::plan(observed, now)
    }

    async fn act(&self, observed: &Observed, plan: Plan) -> Result<Outcome, BoxError> {
        let set = &observed.set;
        let key = set.metadata.key();
        let about = ObjectRef::of(&**set);
        adopt_revisions(&self.api, &**set, &observed.revisions).await?;
        if let Some(revise) = &plan.revise {
            if self.revise(set, revise).await? {
                return Ok(Outcome::Done);
            }
            let count = set.status.collision_count.unwrap_or(0) + 1;
            owners::write_status(&self.api, &**set, &json!({"collisionCount": count})).await?;
            return Ok(Outcome::Requeue);
        }
        let pods = Resource::of::<Pod>();
        let pod = |key: &Key| observed.pods.iter().find(|p| p.metadata.key() == *key);
        for pod in plan.release.iter().filter_map(pod) {
            owners::release(&self.api, &set.metadata, &pods, &pod.metadata).await?;
        }
        for pod in plan.adopt.iter().filter_map(pod) {
            owners::adopt(&self.api, &**set, &pods, &pod.metadata).await?;
        }
        let mut result: Result<(), BoxError> = Ok(());
        for action in &plan.actions {
            let done: Result<(), BoxError> = match action {
                Action::Create { claims, body } => {
                    self.create(set, &key, &about, claims, body).await.map_err(Into::into)
                }
                Action::Delete(key_of_pod) => match pod(key_of_pod) {
                    Some(pod) => self.delete(&key, &about, pod).await.map_err(Into::into),
                    None => Ok(()),
                },
                Action::Blocked { pod, claim } => {
                    let why = format!("pvc {claim} is being deleted");
                    self.pod_failed(&about, pod, &why);
                    // It is looked at again ever later, and when the claim has gone.
                    Err(why.into())
                }
                Action::Claims { pod, claims } => {
                    let made = self.create_claims(set, &key, &about, claims, &pod.name).await;
                    made.map(|_| ()).map_err(|(_, err)| err.into())
                }
                Action::Label { pod, labels } => {
                    let patch = Patch::Strategic(json!({"metadata": {"labels": labels}}));
                    let patched = self.api.patch::<IgnoredAny>(&pods.at(&pod.namespace, &pod.name), &patch).await;
                    let done = patched.map(|_| ()).map_err(Into::into);
                    if done.is_ok() {
                        let text = format!("update Pod {} in StatefulSet {} successful", pod.name, set.metadata.name);
                        self.recorder.normal(&about, "SuccessfulUpdate", text);
                    }
                    done
                }
                Action::Own { claim, refs, gone } => self.own(claim, refs, gone).await.map_err(Into::into),
            };
            if let Err(err) = done {
                result = Err(err);
                break;
            }
        }
        for revision in &plan.forget {
            let target = Resource::of::<ControllerRevision>().at(&revision.namespace, &revision.name);
            match self.api.delete(&target, &DeleteOptions::default()).await {
                Err(err) if err.is_not_found() => {}
                other => other?,
            }
        }
        if plan.status != set.status {
            owners::write_status(&self.api, &**set, &serde_json::to_value(&plan.status)?).await?;
        }
        result?;
        Ok(plan.again.map_or(Outcome::Done, Outcome::RequeueAfter))
    }
}

impl StatefulSets {
    /// Makes or renumbers the revision of the newest template; `false` on a collision of hashes.
    async fn revise(&self, set: &StatefulSet, revise: &Revise) -> Result<bool, BoxError> {
        let resource = Resource::of::<ControllerRevision>();
        let namespace = &set.metadata.namespace;
        match revise {
            Revise::Create { name, body } => {
                match self.api.create::<IgnoredAny>(&resource.collection(namespace), body).await {
                    Err(err) if err.is_already_exists() => {
                        let live: ControllerRevision = self.api.get(&resource.at(namespace, name)).await?;
                        Ok(live.data == body["data"] && live.metadata.is_controlled_by(&set.metadata.uid))
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
        }
    }

    /// Makes the claims of a pod, then the pod.
    async fn create(
        &self,
        set: &StatefulSet,
        key: &Key,
        about: &ObjectRef,
        claims: &[Value],
        body: &Value,
    ) -> Result<(), ApiError> {
        let (name, of) = (body["metadata"]["name"].as_str().unwrap_or(""), &set.metadata.name);
        match self.create_claims(set, key, about, claims, name).await {
            Ok(true) => {}
            Ok(false) => return Ok(()),
            Err((claim, err)) => {
                self.pod_failed(about, name, &format!("failed to create PVC {claim}: {}", err.message()));
                return Err(err);
            }
        }
        match self.api.create::<Pod>(&Resource::of::<Pod>().collection(&key.namespace), body).await {
            Ok(pod) => {
                self.freshness.wrote(key, pod.metadata.rv(), Timestamp::now());
                let text = format!("create Pod {name} in StatefulSet {of} successful");
                self.recorder.normal(about, "SuccessfulCreate", text);
                Ok(())
            }
            Err(err) if err.has_cause("NamespaceTerminating") => Ok(()),
            Err(err) => {
                // One of the name that the cache has not shown yet is no failure to tell of.
                if !err.is_already_exists() {
                    self.pod_failed(about, name, &err.message());
                }
                Err(err)
            }
        }
    }

    /// Tells that a pod could not be made (`recordPodEvent`).
    fn pod_failed(&self, about: &ObjectRef, pod: &str, why: &str) {
        let text = format!("create Pod {pod} in StatefulSet {} failed error: {why}", about.name);
        self.recorder.warning(about, "FailedCreate", text);
    }

    /// Makes claims; `false` when the namespace ends, the claim with the error when one cannot be made.
    async fn create_claims<'a>(
        &self,
        set: &StatefulSet,
        key: &Key,
        about: &ObjectRef,
        claims: &'a [Value],
        name: &str,
    ) -> Result<bool, (&'a str, ApiError)> {
        let of = &set.metadata.name;
        for claim in claims {
            let claim_name = claim["metadata"]["name"].as_str().unwrap_or("");
            match self.api.create::<IgnoredAny>(&CLAIMS.collection(&key.namespace), claim).await {
                Ok(_) => {
                    let text = format!("create Claim {claim_name} Pod {name} in StatefulSet {of} success");
                    self.recorder.normal(about, "SuccessfulCreate", text);
                }
                Err(err) if err.is_already_exists() => {}
                Err(err) if err.has_cause("NamespaceTerminating") => return Ok(false),
                Err(err) => {
                    let text = format!(
                        "create Claim {claim_name} for Pod {name} in StatefulSet {of} failed error: {}",
                        err.message()
                    );
                    self.recorder.warning(about, "FailedCreate", text);
                    return Err((claim_name, err));
                }
            }
        }
        Ok(true)
    }

    /// Changes the owners of a claim, among which others stay.
    async fn own(&self, claim: &Key, refs: &[Value], gone: &[String]) -> Result<(), ApiError> {
        let target = CLAIMS.at(&claim.namespace, &claim.name);
        let changed = self.api.modify(&target, "", |live| {
            let before = live["metadata"]["ownerReferences"].as_array().cloned().unwrap_or_default();
            let ours = |r: &Value| gone.iter().any(|uid| r["uid"] == uid.as_str());
            let mut after: Vec<Value> = before.iter().filter(|r| !ours(r)).cloned().collect();
            after.extend(refs.iter().cloned());
            live["metadata"]["ownerReferences"] = after.clone().into();
            after != before
        });
        match changed.await {
            Err(err) if err.is_not_found() => Ok(()),
            other => other.map(|_| ()),
        }
    }

    async fn delete(&self, key: &Key, about: &ObjectRef, pod: &Pod) -> Result<(), ApiError> {
        let meta = &pod.metadata;
        self.freshness.deleting(key, &meta.uid, Timestamp::now());
        let target = Resource::of::<Pod>().at(&meta.namespace, &meta.name);
        let (verb, event) = match self.api.delete(&target, &DeleteOptions::default().uid(&meta.uid)).await {
            Ok(()) => ("successful".to_owned(), Ok(())),
            Err(err) => {
                self.freshness.not_deleted(key, &meta.uid);
                if err.is_not_found() || err.is_conflict() {
                    return Ok(());
                }
                (format!("failed error: {}", err.message()), Err(err))
            }
        };
        let text = format!("delete Pod {} in StatefulSet {} {verb}", meta.name, about.name);
        match &event {
            Ok(()) => self.recorder.normal(about, "SuccessfulDelete", text),
            Err(_) => self.recorder.warning(about, "FailedDelete", text),
        }
        event
    }
}
