//! Deployments: one replica set for each template, brought in and out in good order.
//!
//! Follows `pkg/controller/deployment`: the replica set of the newest template is found by comparing templates (the
//! hash label left out), made under a name that carries the template's hash, and scaled against the old ones by the
//! strategy. One step is taken a round; the change it makes brings the next round.
//!
//! [`plan`](plan::plan) decides, [`template`] has the hash and the annotations, [`scale`] the arithmetic,
//! [`progress`] the status and its conditions.
//!
//! Left out: the rollback annotation of `extensions/v1beta1`, gone from the API since 1.16 (`kubectl rollout undo`
//! patches the template).

mod plan;
mod progress;
mod scale;
pub(crate) mod template;

pub(crate) use scale::int_or_percent;

use std::sync::Arc;

use async_trait::async_trait;
use jiff::Timestamp;
use orkd_base::{BoxError, Clock};
use orkd_reconcile::{
    Api, Controller, DeleteOptions, Informer, Key, ObjectRef, Outcome, Patch, Recorder, Resource, run,
};
use serde::de::IgnoredAny;
use serde_json::{Value, json};

use crate::owners;
use crate::replica_set::{BY_CONTROLLER, ORPHANS, add_owner_indexes};
use crate::views::{Deployment, Pod, ReplicaSet};
use crate::{ControllerSpec, Cx};
use plan::{Observed, Plan, Step};

/// How the list of controllers names it.
pub const SPEC: ControllerSpec = ControllerSpec {
    name: "deployment-controller",
    service_account: "deployment-controller",
    run: |cx| Box::pin(start(cx)),
};

async fn start(cx: Cx) -> Result<(), BoxError> {
    let deployments: Informer<Deployment> = cx.informers.informer();
    let sets: Informer<ReplicaSet> = cx.informers.informer();
    let pods: Informer<Pod> = cx.informers.informer();
    add_owner_indexes(&sets);
    add_owner_indexes(&pods);
    let queue = cx.queue(SPEC.name);
    {
        let queue = queue.clone();
        deployments.subscribe(move |event| queue.add(event.key()));
    }
    {
        let (queue, deployments) = (queue.clone(), deployments.clone());
        sets.subscribe(move |event| {
            let set = event.object();
            for meta in event.old().map(|old| &old.metadata).into_iter().chain([&set.metadata]) {
                if let Some(owner) = meta.controller().filter(|c| c.kind == "Deployment" && c.group() == "apps") {
                    queue.add(Key::new(&meta.namespace, &owner.name));
                }
            }
            if set.metadata.controller().is_none() && !event.is_deleted() {
                for deployment in deployments.list_namespace(&set.metadata.namespace) {
                    if deployment.spec.selector.matches(&set.metadata.labels) {
                        queue.add(deployment.metadata.key());
                    }
                }
            }
        });
    }
    {
        // A recreating deployment waits for the last of its old pods.
        let (queue, deployments, sets) = (queue.clone(), deployments.clone(), sets.clone());
        pods.subscribe(move |event| {
            if !event.is_deleted() && !crate::pods::is_terminal(event.object()) {
                return;
            }
            let meta = &event.object().metadata;
            let Some(owner) = meta.controller().filter(|c| c.kind == "ReplicaSet") else { return };
            let Some(set) = sets.get_named(&meta.namespace, &owner.name) else { return };
            let Some(owner) = set.metadata.controller() else { return };
            let key = Key::new(&meta.namespace, &owner.name);
            if deployments.get(&key).is_some_and(|d| d.spec.strategy.kind == "Recreate") {
                queue.add(key);
            }
        });
    }
    deployments.synced().await;
    sets.synced().await;
    pods.synced().await;
    let clock = cx.clock.clone();
    let controller = Deployments { deployments, sets, pods, api: cx.api, clock, recorder: cx.recorder };
    run(Arc::new(controller), queue, 5, cx.clock, cx.stop).await;
    Ok(())
}

struct Deployments {
    deployments: Informer<Deployment>,
    sets: Informer<ReplicaSet>,
    pods: Informer<Pod>,
    api: Api,
    clock: Clock,
    recorder: Recorder,
}

#[async_trait]
impl Controller for Deployments {
    type Key = Key;
    type Observed = Observed;
    type Plan = Plan;

    async fn observe(&self, key: &Key) -> Result<Option<Observed>, BoxError> {
        let Some(deployment) = self.deployments.get(key) else { return Ok(None) };
        let mut candidates = self.sets.by_index(BY_CONTROLLER, &deployment.metadata.uid);
        candidates.extend(self.sets.by_index(ORPHANS, &key.namespace));
        // Whether pods of a set run is asked by strategy Recreate only.
        let mut running = Vec::new();
        if deployment.spec.strategy.kind == "Recreate" {
            for set in &candidates {
                let pods = self.pods.by_index(BY_CONTROLLER, &set.metadata.uid);
                if pods.iter().any(|p| !crate::pods::is_terminal(p)) {
                    running.push(set.metadata.uid.clone());
                }
            }
        }
        Ok(Some(Observed { deployment, candidates, running }))
    }

    fn plan(&self, observed: &Observed, now: Timestamp) -> Plan {
        plan::plan(observed, now)
    }

    async fn act(&self, observed: &Observed, plan: Plan) -> Result<Outcome, BoxError> {
        let deployment = &observed.deployment;
        let about = ObjectRef::of(&**deployment);
        let sets = Resource::of::<ReplicaSet>();
        let set = |key: &Key| observed.candidates.iter().find(|s| s.metadata.key() == *key);
        if plan.selects_everything {
            self.recorder.warning(
                &about,
                "SelectingAll",
                "This deployment is selecting all pods. A non-empty selector is required.",
            );
        }
        for set in plan.release.iter().filter_map(set) {
            owners::release(&self.api, &deployment.metadata, &sets, &set.metadata).await?;
        }
        for set in plan.adopt.iter().filter_map(set) {
            owners::adopt(&self.api, &**deployment, &sets, &set.metadata).await?;
        }
        let (mut failed, mut revision) = (None, None);
        let mut status = plan.status;
        for step in plan.steps {
            match step {
                Step::Create { body, name, replicas } => match self.create(observed, &name, &body).await {
                    Ok(Created::New) => {
                        if replicas > 0 {
                            let text = format!("Scaled up replica set {name} from 0 to {replicas}");
                            self.recorder.normal(&about, "ScalingReplicaSet", text);
                        }
                    }
                    Ok(Created::Was) => {}
                    Ok(Created::Collision) => {
                        let count = deployment.status.collision_count.unwrap_or(0) + 1;
                        tracing::debug!(deployment = %about.name, name, count, "template hash collided");
                        owners::write_status(&self.api, &**deployment, &json!({"collisionCount": count})).await?;
                        return Ok(Outcome::Requeue);
                    }
                    Err(err) => {
                        if let Some(message) = err.downcast_ref::<orkd_reconcile::ApiError>().map(|e| e.message()) {
                            let text = format!("Failed to create new replica set {name:?}: {message}");
                            self.recorder.warning(&about, progress::FAILED_CREATE, &text);
                            status = progress::with_creation_failure(deployment, status, text, self.clock.now());
                        }
                        failed = Some(err);
                    }
                },
                Step::Patch { set, patch, scaled } => {
                    let target = sets.at(&set.namespace, &set.name);
                    self.api.patch::<IgnoredAny>(&target, &Patch::Merge(patch)).await?;
                    if let Some((from, to)) = scaled {
                        let direction = if to > from { "up" } else { "down" };
                        let text = format!("Scaled {direction} replica set {} from {from} to {to}", set.name);
                        self.recorder.normal(&about, "ScalingReplicaSet", text);
                    }
                }
                Step::Delete { set, uid } => {
                    let options = DeleteOptions::default().uid(&uid);
                    match self.api.delete(&sets.at(&set.namespace, &set.name), &options).await {
                        Err(err) if err.is_not_found() || err.is_conflict() => {}
                        other => other?,
                    }
                }
                // By the same write as the status, as upstream's: no new generation comes of it.
                Step::Revision(noted) => revision = Some(noted),
            }
        }
        let revision = revision.filter(|_| failed.is_none());
        let status = status.filter(|status| *status != deployment.status);
        if status.is_some() || revision.is_some() {
            let status = status.map_or(Ok(json!({})), serde_json::to_value)?;
            let note = revision.as_deref().map(|revision| (template::REVISION, revision));
            owners::write_status_and_note(&self.api, &**deployment, &status, note).await?;
        }
        match failed {
            Some(err) => Err(err),
            None => Ok(plan.again.map_or(Outcome::Done, Outcome::RequeueAfter)),
        }
    }
}

enum Created {
    New,
    /// It was there already and is the right one.
    Was,
    /// Another template has the name.
    Collision,
}

impl Deployments {
    async fn create(&self, observed: &Observed, name: &str, body: &Value) -> Result<Created, BoxError> {
        let deployment = &observed.deployment;
        let sets = Resource::of::<ReplicaSet>();
        let namespace = &deployment.metadata.namespace;
        match self.api.create::<IgnoredAny>(&sets.collection(namespace), body).await {
            Ok(_) => Ok(Created::New),
            Err(err) if err.is_already_exists() => {
                let live: ReplicaSet = self.api.get(&sets.at(namespace, name)).await?;
                let ours = live.metadata.is_controlled_by(&deployment.metadata.uid)
                    && template::same(&template::of_set(&live), &deployment.spec.template);
                if ours {
                    return Ok(Created::Was);
                }
                // A collision counts once the deployment itself is known to be what we think it is.
                let live: Deployment =
                    self.api.get(&Resource::of::<Deployment>().at(namespace, &deployment.metadata.name)).await?;
                if live.metadata.uid != deployment.metadata.uid {
                    return Err(err.into());
                }
                Ok(Created::Collision)
            }
            Err(err) if err.has_cause("NamespaceTerminating") => Ok(Created::Was),
            Err(err) => Err(err.into()),
        }
    }
}
