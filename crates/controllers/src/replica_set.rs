//! Replica sets: keeps as many pods as asked for.
//!
//! Follows `pkg/controller/replicaset/replica_set.go`: pods are claimed by controller reference and labels, made in
//! batches that double while all goes well, and given up in upstream's order; the status counts what is there.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use jiff::Timestamp;
use orkd_base::{BoxError, Clock};
use orkd_reconcile::{
    Api, ApiError, Controller, DeleteOptions, Informer, Key, ObjectRef, Outcome, Recorder, Resource, Shared, View, run,
};
use serde_json::{Value, json};

use crate::freshness::Freshness;
use crate::owners::{self, Claim};
use crate::pods;
use crate::views::{Condition, Pod, ReplicaSet, ReplicaSetStatus, condition};
use crate::{ControllerSpec, Cx};

/// How the list of controllers names it.
pub const SPEC: ControllerSpec = ControllerSpec {
    name: "replicaset-controller",
    service_account: "replicaset-controller",
    run: |cx| Box::pin(start(cx)),
};

/// The most pods made or deleted in one round.
const BURST: usize = 500;

/// Indexes of pods that several controllers use.
pub(crate) const BY_CONTROLLER: &str = "controller-uid";
pub(crate) const ORPHANS: &str = "orphans-of-namespace";

/// Adds the indexes of pods by their controller's uid and of those without one.
pub(crate) fn add_owner_indexes<T: View>(informer: &Informer<T>) {
    informer.add_index(BY_CONTROLLER, |o| o.meta().controller().map(|c| c.uid.clone()).into_iter().collect());
    informer.add_index(ORPHANS, |o| match o.meta().controller() {
        None => vec![o.meta().namespace.to_string()],
        Some(_) => Vec::new(),
    });
}

/// A kind that keeps a number of pods as a replica set does: replica sets, and replication controllers.
pub(crate) trait Replicated: View {
    /// Whether the status tells how many pods are going.
    const COUNTS_TERMINATING: bool = true;

    /// The object as a replica set.
    fn set(&self) -> &ReplicaSet;
}

impl Replicated for ReplicaSet {
    fn set(&self) -> &ReplicaSet {
        self
    }
}

async fn start(cx: Cx) -> Result<(), BoxError> {
    follow::<ReplicaSet>(cx, SPEC.name).await
}

/// Runs the controller of a kind.
pub(crate) async fn follow<T: Replicated>(cx: Cx, name: &'static str) -> Result<(), BoxError> {
    let sets: Informer<T> = cx.informers.informer();
    let pods: Informer<Pod> = cx.informers.informer();
    add_owner_indexes(&pods);
    add_owner_indexes(&sets);
    let queue = cx.queue(name);
    {
        let queue = queue.clone();
        sets.subscribe(move |event| queue.add(event.key()));
    }
    {
        let (queue, sets) = (queue.clone(), sets.clone());
        pods.subscribe(move |event| {
            let pod = event.object();
            // Both owners when it changed hands.
            for meta in event.old().map(|old| &old.metadata).into_iter().chain([&pod.metadata]) {
                if let Some(owner) = meta.controller().filter(|c| c.kind == T::KIND && c.group() == T::GROUP) {
                    queue.add(Key::new(&meta.namespace, &owner.name));
                }
            }
            if pod.metadata.controller().is_none() && !event.is_deleted() {
                for set in sets.list_namespace(&pod.metadata.namespace) {
                    if set.set().spec.selector.matches(&pod.metadata.labels) {
                        queue.add(set.meta().key());
                    }
                }
            }
        });
    }
    sets.synced().await;
    pods.synced().await;
    let clock = cx.clock.clone();
    let freshness = Freshness::default();
    let controller = ReplicaSets { sets, pods, api: cx.api, clock, recorder: cx.recorder, freshness };
    run(Arc::new(controller), queue, 5, cx.clock, cx.stop).await;
    Ok(())
}

struct ReplicaSets<T> {
    sets: Informer<T>,
    pods: Informer<Pod>,
    api: Api,
    clock: Clock,
    recorder: Recorder,
    freshness: Freshness,
}

/// What is known of one replica set.
pub struct Observed<T = ReplicaSet> {
    set: Arc<T>,
    /// Pods that are its own or nobody's.
    pods: Vec<Arc<Pod>>,
    /// How many active pods of the same owner run on a node; known where there may be too many.
    related: HashMap<Shared<String>, usize>,
    /// Whether the cache has seen our last deeds.
    fresh: bool,
}

/// What is to be done for one replica set.
#[derive(Debug, Default, PartialEq)]
pub struct Plan {
    adopt: Vec<Key>,
    release: Vec<Key>,
    create: usize,
    delete: Vec<Key>,
    status: ReplicaSetStatus,
    again: Option<Duration>,
}

#[async_trait]
impl<T: Replicated> Controller for ReplicaSets<T> {
    type Key = Key;
    type Observed = Observed<T>;
    type Plan = Plan;

    async fn observe(&self, key: &Key) -> Result<Option<Observed<T>>, BoxError> {
        let Some(set) = self.sets.get(key) else {
            self.freshness.forget(key);
            return Ok(None);
        };
        // The version is read before the pods: what is fresh by it is in the list.
        let seen = self.pods.seen();
        let mut pods = self.pods.by_index(BY_CONTROLLER, &set.meta().uid);
        let alive = pods.iter().filter(|p| !p.metadata.is_deleting()).map(|p| p.metadata.uid.as_str());
        let fresh = self.freshness.is_fresh(key, seen, alive, Timestamp::now());
        pods.extend(self.pods.by_index(ORPHANS, &key.namespace));
        // Of ten thousand pods that come or go one by one most rounds have none to choose from.
        let surplus = pods.iter().filter(|p| pods::is_active(p)).count() > wanted(set.set());
        let related = if surplus { self.related(&set) } else { HashMap::new() };
        Ok(Some(Observed { set, pods, related, fresh }))
    }

    fn plan(&self, observed: &Observed<T>, now: Timestamp) -> Plan {
        plan(observed, now)
    }

    async fn act(&self, observed: &Observed<T>, plan: Plan) -> Result<Outcome, BoxError> {
        let set = &observed.set;
        let key = set.meta().key();
        let pods_resource = Resource::of::<Pod>();
        let pod = |key: &Key| observed.pods.iter().find(|p| p.metadata.key() == *key);
        for pod in plan.release.iter().filter_map(pod) {
            owners::release(&self.api, set.meta(), &pods_resource, &pod.metadata).await?;
        }
        for pod in plan.adopt.iter().filter_map(pod) {
            owners::adopt(&self.api, &**set, &pods_resource, &pod.metadata).await?;
        }
        let result = if plan.create > 0 {
            self.create(set, &key, plan.create).await
        } else {
            self.delete(set, &key, plan.delete.iter().filter_map(pod)).await
        };
        let failure = result.as_ref().err().map(|err| {
            (if plan.create > 0 { "FailedCreate" } else { "FailedDelete" }, err.message(), self.clock.now())
        });
        let status = with_failure(plan.status, failure);
        let standing = &set.set().status;
        if status != *standing || set.meta().generation != standing.observed_generation {
            owners::write_status(&self.api, &**set, &serde_json::to_value(status)?).await?;
        }
        result?;
        Ok(plan.again.map_or(Outcome::Done, Outcome::RequeueAfter))
    }
}

impl<T: Replicated> ReplicaSets<T> {
    /// How many active pods of a set's owner run on each node.
    fn related(&self, set: &Arc<T>) -> HashMap<Shared<String>, usize> {
        let siblings = match set.meta().controller() {
            Some(owner) => self.sets.by_index(BY_CONTROLLER, &owner.uid),
            None => vec![set.clone()],
        };
        let mut related = HashMap::new();
        for sibling in siblings {
            for pod in self.pods.by_index(BY_CONTROLLER, &sibling.meta().uid) {
                if pods::is_active(&pod) {
                    *related.entry(pod.spec.node_name.clone()).or_insert(0) += 1;
                }
            }
        }
        related
    }

    /// Makes pods: first one, then two, then four, as long as none fails.
    async fn create(&self, set: &T, key: &Key, count: usize) -> Result<(), ApiError> {
        let about = ObjectRef::of(set);
        let body = pod_from_template(set);
        let collection = Resource::of::<Pod>().collection(&key.namespace);
        let mut left = count;
        let mut batch = 1;
        while left > 0 {
            batch = left.min(batch);
            let requests = (0..batch).map(|_| self.api.create::<Pod>(&collection, &body));
            let mut failed = None;
            for result in futures_util::future::join_all(requests).await {
                match result {
                    Ok(pod) => {
                        self.freshness.wrote(key, pod.metadata.rv(), Timestamp::now());
                        self.recorder.normal(&about, "SuccessfulCreate", format!("Created pod: {}", pod.metadata.name));
                    }
                    // The namespace is going: pods are neither possible nor missed.
                    Err(err) if err.has_cause("NamespaceTerminating") => return Ok(()),
                    Err(err) => {
                        self.recorder.warning(&about, "FailedCreate", format!("Error creating: {}", err.message()));
                        failed = Some(err);
                    }
                }
            }
            if let Some(err) = failed {
                return Err(err);
            }
            left -= batch;
            batch *= 2;
        }
        Ok(())
    }

    async fn delete<'a>(&self, set: &T, key: &Key, pods: impl Iterator<Item = &'a Arc<Pod>>) -> Result<(), ApiError> {
        let about = ObjectRef::of(set);
        let requests = pods.map(|pod| {
            let about = &about;
            async move {
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
        });
        futures_util::future::join_all(requests).await.into_iter().collect()
    }
}

fn wanted(set: &ReplicaSet) -> usize {
    usize::try_from(set.spec.replicas.unwrap_or(1)).unwrap_or(0)
}

fn plan<T: Replicated>(observed: &Observed<T>, now: Timestamp) -> Plan {
    let set = observed.set.set();
    let mut plan = Plan::default();
    let mut active: Vec<&Arc<Pod>> = Vec::new();
    let mut terminating = 0;
    for pod in &observed.pods {
        let claim = owners::claim(&set.metadata, &set.spec.selector, &pod.metadata);
        if pods::is_active(pod) {
            match claim {
                Claim::Keep => active.push(pod),
                Claim::Adopt => {
                    plan.adopt.push(pod.metadata.key());
                    active.push(pod);
                }
                Claim::Release => plan.release.push(pod.metadata.key()),
                Claim::Ignore => {}
            }
        } else if claim == Claim::Keep && pod.metadata.is_deleting() && !pods::is_terminal(pod) {
            terminating += 1;
        }
    }
    let wanted = wanted(set);
    if observed.fresh && !set.metadata.is_deleting() {
        if active.len() < wanted {
            plan.create = (wanted - active.len()).min(BURST);
        } else if active.len() > wanted {
            let related = |pod: &Pod| observed.related.get(&pod.spec.node_name).copied().unwrap_or(0);
            let mut ranked: Vec<_> =
                active.iter().map(|pod| (pods::deletion_rank(pod, related(pod), now), pod.metadata.key())).collect();
            ranked.sort();
            let count = (active.len() - wanted).min(BURST);
            plan.delete = ranked.into_iter().take(count).map(|(_, key)| key).collect();
        }
    }
    plan.status = status(set, &active, T::COUNTS_TERMINATING.then_some(terminating), now);
    if set.spec.min_ready_seconds > 0 && plan.status.ready_replicas != plan.status.available_replicas {
        plan.again = active
            .iter()
            .filter_map(|pod| pods::available_in(pod, set.spec.min_ready_seconds, now))
            .filter(|seconds| *seconds > 0)
            .min()
            .map(|seconds| Duration::from_secs(seconds.unsigned_abs()));
    }
    plan
}

fn status(set: &ReplicaSet, active: &[&Arc<Pod>], terminating: Option<i32>, now: Timestamp) -> ReplicaSetStatus {
    let template_labels: HashMap<String, String> = template(set)
        .pointer("/metadata/labels")
        .and_then(|labels| serde_json::from_value(labels.clone()).ok())
        .unwrap_or_default();
    let mut status = ReplicaSetStatus {
        terminating_replicas: terminating,
        observed_generation: set.metadata.generation,
        conditions: set.status.conditions.clone(),
        ..ReplicaSetStatus::default()
    };
    // Most pods have the labels of the one before, which are the same value then.
    let mut last = None;
    for pod in active {
        let labels = &pod.metadata.labels;
        let is_full = match last {
            Some((same, is_full)) if labels == same => is_full,
            _ => template_labels.iter().all(|(k, v)| labels.get(k) == Some(v)),
        };
        last = Some((labels, is_full));
        status.replicas += 1;
        status.fully_labeled_replicas += i32::from(is_full);
        if pods::is_ready(pod) {
            status.ready_replicas += 1;
            status.available_replicas += i32::from(pods::is_available(pod, set.spec.min_ready_seconds, now));
        }
    }
    status
}

/// Sets or clears the `ReplicaFailure` condition. One that stands already is left as it is.
fn with_failure(mut status: ReplicaSetStatus, failure: Option<(&str, String, Timestamp)>) -> ReplicaSetStatus {
    match failure {
        None => status.conditions.retain(|c| c.kind != "ReplicaFailure"),
        Some((reason, message, now)) if condition(&status.conditions, "ReplicaFailure").is_none() => {
            let seconds = Timestamp::from_second(now.as_second()).unwrap_or(now);
            status.conditions.push(Condition {
                kind: "ReplicaFailure".into(),
                status: "True".into(),
                reason: reason.into(),
                message,
                last_transition_time: Some(seconds),
                ..Condition::default()
            });
        }
        Some(_) => {}
    }
    status
}

fn template(set: &ReplicaSet) -> Value {
    set.spec.template.as_ref().and_then(|raw| serde_json::from_str(raw.get()).ok()).unwrap_or(Value::Null)
}

/// The pod that a replica set's template asks for.
fn pod_from_template<T: Replicated>(owner: &T) -> Value {
    let set = owner.set();
    let template = template(set);
    let mut metadata = json!({
        "generateName": format!("{}-", set.metadata.name),
        "namespace": &*set.metadata.namespace,
        "ownerReferences": [owners::controller_ref(owner)],
    });
    for field in ["labels", "annotations", "finalizers"] {
        if let Some(value) = template.pointer(&format!("/metadata/{field}")).filter(|v| !v.is_null()) {
            metadata[field] = value.clone();
        }
    }
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": template["spec"]})
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: &str = "2026-01-01T01:00:00Z";

    fn set(spec: Value) -> Arc<ReplicaSet> {
        let json = json!({
            "metadata": {"namespace": "n", "name": "web", "uid": "set", "generation": 3},
            "spec": spec,
        });
        Arc::new(serde_json::from_str(&json.to_string()).expect("a replica set"))
    }

    fn spec(replicas: i32) -> Value {
        json!({
            "replicas": replicas, "selector": {"matchLabels": {"app": "x"}},
            "template": {"metadata": {"labels": {"app": "x"}}, "spec": {"containers": [{"name": "c"}]}},
        })
    }

    fn pod(name: &str, change: impl FnOnce(&mut Value)) -> Arc<Pod> {
        let mut json = json!({
            "metadata": {"namespace": "n", "name": name, "uid": name, "labels": {"app": "x"},
                "creationTimestamp": "2026-01-01T00:00:00Z",
                "ownerReferences": [{"uid": "set", "controller": true}]},
            "spec": {"nodeName": "n1"},
            "status": {"phase": "Running",
                "conditions": [{"type": "Ready", "status": "True", "lastTransitionTime": "2026-01-01T00:10:00Z"}]},
        });
        change(&mut json);
        Arc::new(serde_json::from_str(&json.to_string()).expect("a pod"))
    }

    /// The plan as text: `create=N delete=a,b adopt=.. release=.. replicas/ready/available`.
    fn check(spec: Value, pods: Vec<Arc<Pod>>, fresh: bool, expected: &str) {
        let observed = Observed { set: set(spec), pods, related: HashMap::new(), fresh };
        let plan = plan(&observed, NOW.parse().expect("a time"));
        let names = |keys: &[Key]| keys.iter().map(|k| k.name.to_string()).collect::<Vec<_>>().join(",");
        let s = &plan.status;
        let text = format!(
            "create={} delete={} adopt={} release={} {}/{}/{}",
            plan.create,
            names(&plan.delete),
            names(&plan.adopt),
            names(&plan.release),
            s.replicas,
            s.ready_replicas,
            s.available_replicas
        );
        assert_eq!(text, expected);
    }

    #[test]
    fn pods_are_made_and_given_up() {
        let plain = |name: &str| pod(name, |_| {});
        check(spec(2), vec![], true, "create=2 delete= adopt= release= 0/0/0");
        check(spec(2), vec![], false, "create=0 delete= adopt= release= 0/0/0");
        check(spec(2), vec![plain("a"), plain("b")], true, "create=0 delete= adopt= release= 2/2/2");
        check(spec(9999), vec![], true, "create=500 delete= adopt= release= 0/0/0");
        let unready = pod("u", |p| p["status"]["conditions"][0]["status"] = "False".into());
        check(spec(1), vec![plain("a"), unready], true, "create=0 delete=u adopt= release= 2/1/1");
    }

    #[test]
    fn ended_and_deleted_pods_are_replaced() {
        let failed = pod("f", |p| p["status"]["phase"] = "Failed".into());
        let going = pod("g", |p| p["metadata"]["deletionTimestamp"] = NOW.into());
        check(spec(1), vec![failed, going], true, "create=1 delete= adopt= release= 0/0/0");
    }

    #[test]
    fn a_changed_label_releases_a_pod_and_an_orphan_is_adopted() {
        let released = pod("r", |p| p["metadata"]["labels"]["app"] = "debug".into());
        let orphan = pod("o", |p| p["metadata"]["ownerReferences"] = json!([]));
        check(spec(1), vec![released.clone()], true, "create=1 delete= adopt= release=r 0/0/0");
        check(spec(1), vec![released, orphan], true, "create=0 delete= adopt=o release=r 1/1/1");
    }

    #[test]
    fn availability_comes_after_a_while() {
        let mut spec = spec(1);
        spec["minReadySeconds"] = 10.into();
        let young = pod("y", |p| {
            p["status"]["conditions"][0]["lastTransitionTime"] = "2026-01-01T00:59:57Z".into();
        });
        let observed = Observed { set: set(spec), pods: vec![young], related: HashMap::new(), fresh: true };
        let plan = plan(&observed, NOW.parse().expect("a time"));
        assert_eq!((plan.status.available_replicas, plan.again), (0, Some(Duration::from_secs(7))));
    }

    #[test]
    fn the_order_of_giving_up_is_upstreams() {
        let now: Timestamp = NOW.parse().expect("a time");
        let mut pods = [
            pod("ready-restarted", |p| p["status"]["containerStatuses"] = json!([{"restartCount": 3}])),
            pod("ready", |_| {}),
            pod("cheap", |p| {
                p["metadata"]["annotations"] = json!({"controller.kubernetes.io/pod-deletion-cost": "-1"});
            }),
            pod("not-ready", |p| p["status"]["conditions"] = json!([])),
            pod("pending", |p| p["status"] = json!({"phase": "Pending"})),
            pod("unassigned", |p| {
                p["spec"] = json!({});
                p["status"] = json!({"phase": "Pending"});
            }),
        ];
        pods.sort_by_key(|p| pods::deletion_rank(p, 0, now));
        let names: Vec<&str> = pods.iter().map(|p| &*p.metadata.name).collect();
        assert_eq!(names, ["unassigned", "pending", "not-ready", "cheap", "ready-restarted", "ready"]);
    }

    #[test]
    fn pods_carry_template_and_owner() {
        let pod = pod_from_template(&*set(spec(1)));
        assert_eq!(pod["metadata"]["generateName"], "web-");
        assert_eq!(pod["metadata"]["labels"], json!({"app": "x"}));
        assert_eq!(pod["metadata"]["ownerReferences"][0]["kind"], "ReplicaSet");
        assert_eq!(pod["spec"]["containers"][0]["name"], "c");
    }
}
