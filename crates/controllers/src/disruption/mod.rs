//! Pod disruption budgets: counts the pods of each, so that evictions know whether one more may go.
//!
//! Follows `pkg/controller/disruption/disruption.go`. How many pods there should be is told by their owners: those
//! that are known here by the caches, any other by its scale subresource. Evictions that were granted are remembered in
//! the status until the pod goes, or for two minutes. Beside that, a pod that was marked for disruption and did not go
//! loses its mark after two minutes.

mod plan;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use jiff::Timestamp;
use orkd_base::{BoxError, Clock};
use orkd_reconcile::{
    Api, ApiError, Controller, EventType, Gates, Informer, Key, LabelSelector, Meta, ObjectRef, Outcome, OwnerRef,
    Patch, Queue, Recorder, Resource, View, null_default, run, time, work,
};
use parking_lot::Mutex;
use serde::de::IgnoredAny;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::discovery::{Discovery, discover};
use crate::replica_set::Replicated;
use crate::replication_controller::ReplicationController;
use crate::stateful_set::StatefulSet;
use crate::views::{Condition, Deployment, Pod, ReplicaSet, condition, view};
use crate::{ControllerSpec, Cx, pods};
use plan::{Expected, Observed, Plan};

/// How the list of controllers names it.
pub const SPEC: ControllerSpec = ControllerSpec {
    name: "disruption-controller",
    service_account: "disruption-controller",
    run: |cx| Box::pin(start(cx)),
};

/// How long a pod may take to go after its eviction was granted, and how long a mark stays on one that does not go.
const PATIENCE: Duration = Duration::from_secs(120);
/// How many budgets are counted at once, and how many of them may wait for the scales of one group of the API.
const WORKERS: (usize, usize) = (4, 4);

/// A disruption budget.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Budget {
    metadata: Meta,
    spec: BudgetSpec,
    status: BudgetStatus,
}
view!(Budget, "policy", "v1", "PodDisruptionBudget", "poddisruptionbudgets");

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct BudgetSpec {
    min_available: Value,
    max_unavailable: Value,
    /// Without one no pod is covered; an empty one covers all of the namespace.
    selector: Option<LabelSelector>,
}

/// What a budget's status says.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct BudgetStatus {
    current_healthy: i32,
    desired_healthy: i32,
    disruptions_allowed: i32,
    expected_pods: i32,
    observed_generation: i64,
    /// Pods whose eviction was granted, and when.
    #[serde(deserialize_with = "null_default", skip_serializing_if = "std::collections::BTreeMap::is_empty")]
    disrupted_pods: std::collections::BTreeMap<String, Timestamp>,
    #[serde(deserialize_with = "null_default")]
    conditions: Vec<Condition>,
}

impl Budget {
    fn covers(&self, pod: &Meta) -> bool {
        self.spec.selector.as_ref().is_some_and(|s| s.matches(&pod.labels))
    }
}

async fn start(cx: Cx) -> Result<(), BoxError> {
    let budgets: Informer<Budget> = cx.informers.informer();
    let pods: Informer<Pod> = cx.informers.informer();
    let controller = Arc::new(Disruption {
        sets: cx.informers.informer(),
        deployments: cx.informers.informer(),
        stateful: cx.informers.informer(),
        controllers: cx.informers.informer(),
        budgets: budgets.clone(),
        pods: pods.clone(),
        recorder: cx.recorder.clone(),
        gates: Gates::new(WORKERS.1),
        api: cx.api.clone(),
        clock: cx.clock.clone(),
        served: Mutex::default(),
    });
    let queue: Queue<Key> = cx.queue(SPEC.name);
    let stale: Queue<Key> = cx.queue("stale_pod_disruption");
    {
        let queue = queue.clone();
        budgets.subscribe(move |event| {
            if !event.is_deleted() {
                queue.add(event.key());
            }
        });
    }
    {
        let (queue, stale, budgets) = (queue.clone(), stale.clone(), budgets.clone());
        pods.subscribe(move |event| {
            let pod = event.object();
            for budget in budgets.list_namespace(&pod.metadata.namespace) {
                let touched = budget.covers(&pod.metadata) || event.old().is_some_and(|o| budget.covers(&o.metadata));
                if touched {
                    queue.add(budget.metadata.key());
                }
            }
            if !event.is_deleted() && marked_since(pod).is_some() {
                stale.add(event.key());
            }
        });
    }
    // A scaled owner changes what is expected.
    follow_owners(&controller, &queue);
    budgets.synced().await;
    pods.synced().await;
    controller.sets.synced().await;
    controller.deployments.synced().await;
    controller.stateful.synced().await;
    controller.controllers.synced().await;
    let cleaner = controller.clone();
    let cleaning = work(stale, 1, cx.stop.clone(), move |key| {
        let cleaner = cleaner.clone();
        async move { cleaner.unmark(&key).await }
    });
    tokio::join!(run(controller, queue, WORKERS.0, cx.clock, cx.stop), cleaning);
    Ok(())
}

/// The budgets of a namespace are counted anew when one of its owners of pods is scaled.
fn follow_owners(controller: &Arc<Disruption>, queue: &Queue<Key>) {
    let again = || {
        let (queue, budgets) = (queue.clone(), controller.budgets.clone());
        move |namespace: &str| {
            for budget in budgets.list_namespace(namespace) {
                queue.add(budget.metadata.key());
            }
        }
    };
    let of = again();
    controller.sets.subscribe(move |event| {
        if event.old().is_none_or(|old| old.spec.replicas != event.object().spec.replicas) {
            of(&event.object().metadata.namespace);
        }
    });
    let of = again();
    controller.deployments.subscribe(move |event| {
        if event.old().is_none_or(|old| old.spec.replicas != event.object().spec.replicas) {
            of(&event.object().metadata.namespace);
        }
    });
    let of = again();
    controller.stateful.subscribe(move |event| {
        if event.old().is_none_or(|old| old.spec.replicas != event.object().spec.replicas) {
            of(&event.object().metadata.namespace);
        }
    });
    let of = again();
    controller.controllers.subscribe(move |event| {
        if event.old().is_none_or(|old| old.set().spec.replicas != event.object().set().spec.replicas) {
            of(&event.object().set().metadata.namespace);
        }
    });
}

struct Disruption {
    budgets: Informer<Budget>,
    pods: Informer<Pod>,
    sets: Informer<ReplicaSet>,
    deployments: Informer<Deployment>,
    stateful: Informer<StatefulSet>,
    controllers: Informer<ReplicationController>,
    api: Api,
    gates: Gates,
    recorder: Recorder,
    clock: Clock,
    served: Mutex<Option<Arc<Discovery>>>,
}

/// An owner of pods and how many it is to have.
struct Scale {
    uid: String,
    replicas: i32,
}

impl Disruption {
    /// The owner of a pod that decides how many there are. `None`: nobody knows it.
    async fn scale_of(&self, namespace: &str, owner: &OwnerRef) -> Result<Option<Scale>, BoxError> {
        let key = Key::new(namespace, &owner.name);
        let scale = |meta: &Meta, replicas: Option<i32>| {
            (meta.uid == owner.uid).then(|| Scale { uid: meta.uid.clone(), replicas: replicas.unwrap_or(1) })
        };
        match (owner.group(), owner.kind.as_str()) {
            ("", "ReplicationController") => {
                let found = self.controllers.get(&key);
                Ok(found.and_then(|c| scale(&c.set().metadata, c.set().spec.replicas)))
            }
            ("apps" | "extensions", "ReplicaSet") => {
                let Some(set) = self.sets.get(&key).filter(|s| s.metadata.uid == owner.uid) else { return Ok(None) };
                match set.metadata.controller().filter(|o| o.kind == "Deployment" && o.group() == "apps") {
                    None => Ok(scale(&set.metadata, set.spec.replicas)),
                    Some(parent) => {
                        let deployment = self.deployments.get(&Key::new(namespace, &parent.name));
                        let deployment = deployment.filter(|d| d.metadata.uid == parent.uid);
                        Ok(deployment
                            .map(|d| Scale { uid: d.metadata.uid.clone(), replicas: d.spec.replicas.unwrap_or(1) }))
                    }
                }
            }
            ("apps", "StatefulSet") => {
                let found = self.stateful.get(&key);
                Ok(found.and_then(|s| scale(&s.metadata, s.spec.replicas)))
            }
            _ => self.scale_subresource(namespace, owner).await,
        }
    }

    /// How many pods an owner of any kind is to have, by its scale subresource.
    async fn scale_subresource(&self, namespace: &str, owner: &OwnerRef) -> Result<Option<Scale>, BoxError> {
        let Some(resource) = self.resource_of(owner).await? else {
            return Err(format!("no matches for kind {:?} in version {:?}", owner.kind, owner.api_version).into());
        };
        let target = resource.at(namespace, &owner.name);
        match self.gates.ask(&resource.group, self.api.get::<Value>(&target.sub("scale"))).await {
            Ok(scale) => {
                let uid = scale["metadata"]["uid"].as_str().unwrap_or_default();
                let replicas = scale["spec"]["replicas"].as_i64().and_then(|n| i32::try_from(n).ok()).unwrap_or(0);
                Ok((uid == owner.uid).then(|| Scale { uid: uid.to_owned(), replicas }))
            }
            // Either the object is gone, or its kind cannot be scaled.
            Err(err) if err.is_not_found() && resource.group != "apps" && !is_about(&err, &owner.name) => {
                Err(format!("{resource} does not implement the scale subresource").into())
            }
            Err(err) if err.is_not_found() && owner.kind == "DaemonSet" => {
                Err(format!("{resource} does not implement the scale subresource").into())
            }
            Err(err) if err.is_not_found() => Ok(None),
            Err(err) => Err(err.into()),
        }
    }

    async fn resource_of(&self, owner: &OwnerRef) -> Result<Option<Resource>, ApiError> {
        let known = self.served.lock().clone();
        if let Some(found) = known.and_then(|k| k.of_kind(&owner.api_version, &owner.kind).cloned()) {
            return Ok(Some(found));
        }
        let fresh = Arc::new(discover(&self.api).await?);
        let found = fresh.of_kind(&owner.api_version, &owner.kind).cloned();
        *self.served.lock() = Some(fresh);
        Ok(found)
    }

    /// How many pods the owners of these pods are to have in all.
    async fn expected(&self, namespace: &str, pods: &[Arc<Pod>]) -> Result<Expected, BoxError> {
        let mut scales: HashMap<String, i32> = HashMap::new();
        let mut by_owner: HashMap<String, ()> = HashMap::new();
        let mut unmanaged = Vec::new();
        for pod in pods {
            let Some(owner) = pod.metadata.controller() else {
                unmanaged.push(pod.metadata.name.to_string());
                continue;
            };
            if by_owner.insert(owner.uid.clone(), ()).is_some() {
                continue;
            }
            match self.scale_of(namespace, owner).await? {
                Some(scale) => {
                    scales.insert(scale.uid, scale.replicas);
                }
                None => return Err(format!("found no controllers for pod {:?}", pod.metadata.name).into()),
            }
        }
        Ok(Expected { count: scales.values().copied().fold(0, i32::saturating_add), unmanaged })
    }

    /// Takes the mark off a pod that was to be disrupted and is still there.
    async fn unmark(&self, key: &Key) -> Result<Outcome, BoxError> {
        let Some(pod) = self.pods.get(key) else { return Ok(Outcome::Done) };
        let Some(since) = marked_since(&pod) else { return Ok(Outcome::Done) };
        let now = self.clock.now();
        let elapsed = Duration::try_from(now.duration_since(since)).unwrap_or_default();
        if elapsed < PATIENCE {
            return Ok(Outcome::RequeueAfter(PATIENCE - elapsed));
        }
        let patch = json!({"metadata": {"uid": pod.metadata.uid}, "status": {"conditions": [{
            "type": "DisruptionTarget", "status": "False", "lastTransitionTime": time(now), "reason": null, "message": null,
        }]}});
        let target = Resource::of::<Pod>().at(&key.namespace, &key.name).sub("status");
        match self.api.patch::<IgnoredAny>(&target, &Patch::Strategic(patch)).await {
            Err(err) if err.is_not_found() || err.is_conflict() => Ok(Outcome::Done),
            other => Ok(other.map(|_| Outcome::Done)?),
        }
    }
}

/// Whether a 404 is about an object of this name, and not about a path.
fn is_about(err: &ApiError, name: &str) -> bool {
    err.message().contains(&format!("{name:?} not found"))
}

/// Since when a pod that is neither going nor over is marked to be disrupted.
fn marked_since(pod: &Pod) -> Option<Timestamp> {
    if pod.metadata.is_deleting() || pods::is_terminal(pod) {
        return None;
    }
    // The kubelet takes as long as it takes.
    let mark = condition(&pod.status.conditions, "DisruptionTarget").filter(|c| c.status == "True" && !c.by_kubelet)?;
    mark.last_transition_time
}

#[async_trait]
impl Controller for Disruption {
    type Key = Key;
    type Observed = Observed;
    type Plan = Plan;

    async fn observe(&self, key: &Key) -> Result<Option<Observed>, BoxError> {
        let Some(budget) = self.budgets.get(key) else { return Ok(None) };
        let mut pods = self.pods.list_namespace(&key.namespace);
        pods.retain(|pod| budget.covers(&pod.metadata));
        let needs_scale = !budget.spec.max_unavailable.is_null() || budget.spec.min_available.is_string();
        let expected = match needs_scale {
            true => self.expected(&key.namespace, &pods).await.map_err(|e| e.to_string()),
            false => Ok(Expected { count: i32::try_from(pods.len()).unwrap_or(i32::MAX), unmanaged: Vec::new() }),
        };
        Ok(Some(Observed { budget, pods, expected }))
    }

    fn plan(&self, observed: &Observed, now: Timestamp) -> Plan {
        plan::plan(observed, now)
    }

    async fn act(&self, observed: &Observed, plan: Plan) -> Result<Outcome, BoxError> {
        let budget = &observed.budget;
        let about = ObjectRef::of(&**budget);
        for (event_type, reason, message) in &plan.events {
            self.recorder.event(&about, *event_type, reason, message.clone());
        }
        for pod in &plan.not_deleted {
            if let Some(pod) = observed.pods.iter().find(|p| *p.metadata.name == **pod) {
                let meta = &budget.metadata;
                let text =
                    format!("Pod was expected by PDB {}/{} to be deleted but it wasn't", meta.namespace, meta.name);
                self.recorder.event(&ObjectRef::of(&**pod), EventType::Warning, "NotDeleted", text);
            }
        }
        if let Some(status) = &plan.status {
            let mut value = serde_json::to_value(status)?;
            // The message is always there, also where it is empty.
            for condition in value["conditions"].as_array_mut().into_iter().flatten() {
                if condition.get("message").is_none() {
                    condition["message"] = json!("");
                }
            }
            if status.disrupted_pods.is_empty() {
                value["disruptedPods"] = Value::Null;
            }
            self.write(budget, &value).await?;
        }
        if let Err(why) = &observed.expected {
            return Err(why.clone().into());
        }
        Ok(plan.again.map_or(Outcome::Done, Outcome::RequeueAfter))
    }
}

impl Disruption {
    /// Writes a status on the version that was seen: an eviction that was granted meanwhile must not be forgotten.
    async fn write(&self, budget: &Budget, status: &Value) -> Result<(), BoxError> {
        let seen = budget.metadata.resource_version.clone();
        let target = Resource::of::<Budget>().at(&budget.metadata.namespace, &budget.metadata.name);
        let mut live: Value = match self.api.get(&target).await {
            Err(err) if err.is_not_found() => return Ok(()),
            other => other?,
        };
        if live["metadata"]["resourceVersion"] != seen.as_str() {
            return Err("the budget has changed meanwhile".into());
        }
        if !live["status"].is_object() {
            live["status"] = json!({});
        }
        for (field, value) in status.as_object().into_iter().flatten() {
            live["status"][field] = value.clone();
        }
        match self.api.update::<IgnoredAny>(&target.sub("status"), &live).await {
            Err(err) if err.is_not_found() => Ok(()),
            other => Ok(other.map(|_| ())?),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_is_stale_unless_the_kubelet_set_it_or_the_pod_goes() {
        let check = |reason: Value, change: Value, stale: bool| {
            let mut pod = json!({"metadata": {"name": "p"}, "status": {"phase": "Running", "conditions": [{
                "type": "DisruptionTarget", "status": "True", "reason": reason,
                "lastTransitionTime": "2026-01-01T00:00:00Z"}]}});
            for (part, fields) in change.as_object().into_iter().flatten() {
                for (field, value) in fields.as_object().into_iter().flatten() {
                    pod[part][field] = value.clone();
                }
            }
            let pod: Pod = serde_json::from_value(pod).expect("a pod");
            assert_eq!(marked_since(&pod).is_some(), stale, "{reason} {change}");
        };
        check(json!("EvictionByEvictionAPI"), json!({}), true);
        check(Value::Null, json!({}), true);
        check(json!("TerminationByKubelet"), json!({}), false);
        check(json!("EvictionByEvictionAPI"), json!({"status": {"phase": "Failed"}}), false);
        let deleted = json!({"metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z"}});
        check(json!("EvictionByEvictionAPI"), deleted, false);
    }
}
