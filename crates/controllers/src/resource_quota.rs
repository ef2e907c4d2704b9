//! Resource quotas: counts what is used, so that admission knows what is left.
//!
//! Follows `pkg/controller/resourcequota`. Admission charges a quota before an object is stored; this controller makes
//! `status.hard` follow `spec.hard`, counts what is there when something goes away, and puts right what was charged for
//! objects that were never stored. What an object uses is [`orkd_api::quota`]'s to say, for both.
//!
//! Counting lists the namespace anew: only namespaces with quotas are counted, and only when something was freed, so
//! nothing is cached for it. The status is written on the version that was read before the lists, so that a charge in
//! between makes the write fail. A charge *before* belongs to an object that may not be stored yet; therefore a lower
//! count waits until the quota has been left alone for a moment.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Weak};
use std::time::Duration;

use async_trait::async_trait;
use jiff::Timestamp;
use orkd_api::quota::{self, Amounts, Evaluator, add, amounts};
use orkd_base::{BoxError, Clock};
use orkd_reconcile::{
    Api, Controller, Informer, Informers, Key, ListOptions, Meta, Options, Outcome, Queue, Resource, View,
    null_default, run,
};
use parking_lot::Mutex;
use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::{Value, json};

use crate::discovery::discover;
use crate::views::{Pod, Service, view};
use crate::{ControllerSpec, Cx, pods};

/// How the list of controllers names it.
pub const SPEC: ControllerSpec = ControllerSpec {
    name: "resourcequota-controller",
    service_account: "resourcequota-controller",
    run: |cx| Box::pin(start(cx)),
};

/// All quotas are counted anew after this long, as upstream's `--resource-quota-sync-period`.
const RESYNC: Duration = Duration::from_secs(300);
/// How long a quota must have been left alone before less is written.
const QUIET: Duration = Duration::from_millis(250);
/// How long less may wait for that.
const PATIENCE: Duration = Duration::from_secs(5);
/// After a charge it is seen whether the object was stored.
const RECHECK: Duration = Duration::from_secs(10);
/// The same after a quota began to count something.
const FIRST_RECHECK: Duration = Duration::from_secs(1);

/// A quota.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct ResourceQuota {
    metadata: Meta,
    spec: Hard,
    status: Status,
}
view!(ResourceQuota, "", "v1", "ResourceQuota", "resourcequotas");

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
struct Hard {
    #[serde(deserialize_with = "null_default")]
    hard: BTreeMap<String, Value>,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
struct Status {
    #[serde(deserialize_with = "null_default")]
    hard: BTreeMap<String, Value>,
    #[serde(deserialize_with = "null_default")]
    used: BTreeMap<String, Value>,
}

/// An object of which only the name and the namespace are known.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, from = "Whole")]
pub struct Counted(Meta);

#[derive(Default, Deserialize)]
#[serde(default)]
struct Whole {
    metadata: Meta,
}

impl From<Whole> for Counted {
    fn from(whole: Whole) -> Self {
        let mut meta = whole.metadata;
        meta.labels = Default::default();
        meta.annotations = Default::default();
        meta.owner_references = Default::default();
        meta.finalizers = Default::default();
        Counted(meta)
    }
}

impl View for Counted {
    const GROUP: &'static str = "";
    const VERSION: &'static str = "v1";
    const KIND: &'static str = "PartialObjectMetadata";
    const PLURAL: &'static str = "";
    fn meta(&self) -> &Meta {
        &self.0
    }
}

/// Group and plural of what the names of quotas count, as far as they say.
fn resources_of<'n>(names: impl Iterator<Item = &'n String>) -> BTreeSet<(String, String)> {
    const KNOWN: [(&str, &str); 8] = [
        ("", "pods"),
        ("", "services"),
        ("", "persistentvolumeclaims"),
        ("resource.k8s.io", "resourceclaims"),
        ("", "configmaps"),
        ("", "secrets"),
        ("", "replicationcontrollers"),
        ("", "resourcequotas"),
    ];
    let mut found = BTreeSet::new();
    for name in names {
        if let Some((group, resource)) = quota::counted(name) {
            found.insert((group.to_owned(), resource.to_owned()));
            continue;
        }
        for (group, resource) in KNOWN {
            if !Evaluator::of(group, resource).matching([name]).is_empty() {
                found.insert((group.to_owned(), resource.to_owned()));
            }
        }
    }
    found
}

async fn start(cx: Cx) -> Result<(), BoxError> {
    let quotas: Informer<ResourceQuota> = cx.informers.informer();
    let pods: Informer<Pod> = cx.informers.informer();
    let services: Informer<Service> = cx.informers.informer();
    let queue: Queue<Key> = cx.queue(SPEC.name);
    let controller = Arc::new_cyclic(|me| Quotas {
        me: me.clone(),
        api: cx.api.clone(),
        informers: cx.informers.clone(),
        supervisor: cx.supervisor.child(),
        quotas: quotas.clone(),
        queue: queue.clone(),
        clock: cx.clock.clone(),
        monitors: Mutex::default(),
        touched: Mutex::default(),
    });
    {
        let controller = controller.clone();
        quotas.subscribe(move |event| {
            let quota = event.object();
            controller.touch(&quota.metadata, event.is_deleted());
            let asked = |q: &ResourceQuota| (q.metadata.generation, q.spec.clone());
            match event.old() {
                _ if event.is_deleted() => {}
                Some(old) if asked(old) == asked(quota) && old.status != quota.status => {
                    // What was made while the quota did not count yet was not charged.
                    let first = old.status.hard.is_empty();
                    controller.queue.add_after(event.key(), if first { FIRST_RECHECK } else { RECHECK });
                }
                Some(old) if asked(old) == asked(quota) => {}
                _ => controller.queue.add(event.key()),
            }
        });
    }
    {
        let controller = controller.clone();
        pods.subscribe(move |event| {
            let pod = event.object();
            let freed = event.old().is_some_and(|old| {
                pods::is_terminal(pod) && !pods::is_terminal(old) || old.metadata.generation != pod.metadata.generation
            });
            if freed || event.is_deleted() {
                controller.freed(&pod.metadata.namespace);
            }
        });
    }
    {
        let controller = controller.clone();
        services.subscribe(move |event| {
            let service = event.object();
            let ports = |s: &Service| (s.spec.kind.clone(), s.spec.ports.len());
            if event.is_deleted() || event.old().is_some_and(|old| ports(old) != ports(service)) {
                controller.freed(&service.metadata.namespace);
            }
        });
    }
    quotas.synced().await;
    run(controller.clone(), queue, 5, cx.clock, cx.stop).await;
    controller.supervisor.shutdown(Duration::from_secs(2)).await;
    Ok(())
}

struct Quotas {
    /// Itself, for handlers of events.
    me: Weak<Quotas>,
    api: Api,
    informers: Informers,
    supervisor: orkd_base::Supervisor,
    quotas: Informer<ResourceQuota>,
    queue: Queue<Key>,
    clock: Clock,
    /// Resources that are followed because a quota names them. `None`: they are not served.
    monitors: Mutex<HashMap<(String, String), Monitor>>,
    /// When quotas were last changed, and since when less waits to be written.
    touched: Mutex<HashMap<Key, Touched>>,
}

struct Monitor {
    resource: Resource,
    /// Held, so that it goes on.
    _informer: Option<Informer<Counted>>,
}

struct Touched {
    version: u64,
    at: Timestamp,
    waiting_since: Option<Timestamp>,
}

impl Quotas {
    /// Something of a namespace was freed.
    fn freed(&self, namespace: &str) {
        for quota in self.quotas.list_namespace(namespace) {
            self.queue.add(quota.metadata.key());
        }
    }

    fn touch(&self, meta: &Meta, deleted: bool) {
        let mut touched = self.touched.lock();
        if deleted {
            touched.remove(&meta.key());
            return;
        }
        let now = self.clock.now();
        let entry = touched.entry(meta.key()).or_insert(Touched { version: 0, at: now, waiting_since: None });
        if entry.version != meta.rv() {
            entry.version = meta.rv();
            entry.at = now;
        }
    }

    /// For how long less must still wait; `None` when it may be written.
    fn wait(&self, key: &Key, now: Timestamp) -> Option<Duration> {
        let mut touched = self.touched.lock();
        let entry = touched.get_mut(key)?;
        let since = |t: Timestamp| Duration::try_from(now.duration_since(t)).unwrap_or_default();
        let waited = since(*entry.waiting_since.get_or_insert(now));
        let quiet = since(entry.at);
        if quiet >= QUIET || waited >= PATIENCE {
            entry.waiting_since = None;
            return None;
        }
        Some(QUIET.saturating_sub(quiet).max(Duration::from_millis(10)))
    }

    /// Where the objects of resources are; what is not served is left out. Resources that nobody follows yet are
    /// followed from now on.
    async fn locate(&self, wanted: &BTreeSet<(String, String)>) -> Result<Vec<Resource>, BoxError> {
        let missing = |quotas: &Quotas| {
            let monitors = quotas.monitors.lock();
            wanted.iter().filter(|w| !monitors.contains_key(*w)).cloned().collect::<Vec<_>>()
        };
        let missing = missing(self);
        if !missing.is_empty() {
            let served = discover(&self.api).await?;
            for id in missing {
                let same = |s: &&crate::discovery::Served| s.resource.group == id.0 && s.resource.plural == id.1;
                let Some(found) = served.preferred.iter().find(same).filter(|s| s.can("list") && s.can("watch")) else {
                    continue;
                };
                self.follow(id, found.resource.clone());
            }
        }
        let monitors = self.monitors.lock();
        Ok(wanted.iter().filter_map(|w| monitors.get(w)).map(|m| m.resource.clone()).collect())
    }

    fn follow(&self, id: (String, String), resource: Resource) {
        let own = matches!((id.0.as_str(), id.1.as_str()), ("", "pods" | "services"));
        let changes = id.1 == "persistentvolumeclaims" || id.1 == "resourceclaims";
        let informer = (!own).then(|| {
            let api = self.informers.api().clone();
            let informer =
                Informer::<Counted>::start(api, &self.supervisor, resource.clone(), Options::metadata_only());
            let quotas = self.me.clone();
            informer.subscribe(move |event| {
                let Some(quotas) = quotas.upgrade() else { return };
                if event.is_deleted() || (changes && event.old().is_some()) {
                    quotas.freed(&event.object().meta().namespace);
                }
            });
            informer
        });
        self.monitors.lock().entry(id).or_insert(Monitor { resource, _informer: informer });
    }

    async fn list(&self, resource: &Resource, options: ListOptions, namespace: &str) -> Result<Vec<Value>, BoxError> {
        Ok(self.api.list_all::<Value>(&resource.collection(namespace), &options).await?.items)
    }
}

/// What is known of one quota.
pub struct Observed {
    quota: Value,
    /// The objects counted, by resource.
    objects: Vec<(Evaluator, Vec<Value>)>,
}

/// The status to write, and whether something of it is less than before.
#[derive(Debug, PartialEq)]
pub struct Plan {
    status: Value,
    changed: bool,
    lower: bool,
}

#[async_trait]
impl Controller for Quotas {
    type Key = Key;
    type Observed = Observed;
    type Plan = Plan;

    async fn observe(&self, key: &Key) -> Result<Option<Observed>, BoxError> {
        if self.quotas.get(key).is_none() {
            return Ok(None);
        }
        let options = ListOptions { fields: format!("metadata.name={}", key.name), ..ListOptions::default() };
        let Some(quota) =
            self.list(&Resource::of::<ResourceQuota>(), options, &key.namespace).await?.into_iter().next()
        else {
            return Ok(None);
        };
        let hard = amounts(&quota["spec"]["hard"]);
        let wanted = resources_of(hard.keys());
        let mut objects = Vec::new();
        for resource in self.locate(&wanted).await? {
            let evaluator = Evaluator::of(&resource.group, &resource.plural);
            let options = ListOptions { metadata_only: evaluator.only_counts(), ..ListOptions::default() };
            objects.push((evaluator, self.list(&resource, options, &key.namespace).await?));
        }
        Ok(Some(Observed { quota, objects }))
    }

    fn plan(&self, observed: &Observed, now: Timestamp) -> Plan {
        plan(observed, now)
    }

    async fn act(&self, observed: &Observed, plan: Plan) -> Result<Outcome, BoxError> {
        if !plan.changed {
            return Ok(Outcome::RequeueAfter(RESYNC));
        }
        let text = |f: &str| observed.quota["metadata"][f].as_str().unwrap_or_default();
        let key = Key::new(text("namespace"), text("name"));
        if plan.lower
            && let Some(wait) = self.wait(&key, self.clock.now())
        {
            return Ok(Outcome::RequeueAfter(wait));
        }
        let mut object = observed.quota.clone();
        object["apiVersion"] = json!("v1");
        object["kind"] = json!("ResourceQuota");
        object["status"] = plan.status;
        let target = Resource::of::<ResourceQuota>().at(&key.namespace, &key.name).sub("status");
        match self.api.update::<IgnoredAny>(&target, &object).await {
            Err(err) if err.is_not_found() => Ok(Outcome::Done),
            // Somebody was charged meanwhile: count again.
            Err(err) if err.is_conflict() => Ok(Outcome::RequeueAfter(Duration::from_millis(20))),
            Err(err) => Err(err.into()),
            Ok(_) => Ok(Outcome::RequeueAfter(RESYNC)),
        }
    }
}

fn plan(observed: &Observed, now: Timestamp) -> Plan {
    let quota = &observed.quota;
    let hard = amounts(&quota["spec"]["hard"]);
    let scopes = quota::scopes(&quota["spec"]);
    let (old_hard, old_used) = (amounts(&quota["status"]["hard"]), amounts(&quota["status"]["used"]));
    let mut used: Amounts = quota::mask(&old_used, hard.keys());
    for (evaluator, objects) in &observed.objects {
        let names = evaluator.matching(hard.keys());
        let mut counted: Amounts = names.iter().map(|n| (n.clone(), orkd_api::quantity::Quantity::ZERO)).collect();
        for object in objects.iter().filter(|o| scopes.iter().all(|s| evaluator.in_scope(s, o))) {
            add(&mut counted, &quota::mask(&evaluator.usage(object, now), &names));
        }
        used.extend(counted);
    }
    let missing = !quota["status"]["hard"].is_object() || !quota["status"]["used"].is_object();
    Plan {
        changed: missing || hard != old_hard || used != old_used,
        lower: old_used.iter().any(|(name, old)| used.get(name).is_some_and(|new| new < old)),
        status: json!({"hard": quota::to_value(&hard), "used": quota::to_value(&used)}),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(cpu: &str, phase: &str, deadline: bool) -> Value {
        let mut pod = json!({"spec": {"containers": [{"name": "c", "resources": {"requests": {"cpu": cpu}}}]},
            "status": {"phase": phase}});
        if deadline {
            pod["spec"]["activeDeadlineSeconds"] = json!(5);
        }
        pod
    }

    fn check(quota: Value, objects: Vec<(Evaluator, Vec<Value>)>, expected: Value, changed: bool, lower: bool) {
        let plan = plan(&Observed { quota, objects }, Timestamp::UNIX_EPOCH);
        assert_eq!((&plan.status["used"], plan.changed, plan.lower), (&expected, changed, lower));
    }

    #[test]
    fn what_is_there_is_counted() {
        let pods = || {
            let all = vec![pod("1", "Running", false), pod("500m", "Pending", true), pod("2", "Succeeded", false)];
            vec![(Evaluator::of("", "pods"), all)]
        };
        let hard = json!({"pods": "10", "count/pods": "10", "requests.cpu": "4", "widgets": "1"});
        let spec = json!({"hard": hard});
        let counted = json!({"pods": "2", "count/pods": "3", "requests.cpu": "1500m"});
        check(json!({"spec": spec}), pods(), counted.clone(), true, false);
        let standing = |used: Value| json!({"spec": spec, "status": {"hard": hard, "used": used}});
        check(standing(counted.clone()), pods(), counted.clone(), false, false);
        let more = json!({"pods": "3", "count/pods": "3", "requests.cpu": "1500m", "gone": "1"});
        check(standing(more), pods(), counted, true, true);
        let scoped = json!({"spec": {"hard": {"pods": "5"}, "scopes": ["Terminating"]}});
        check(scoped, pods(), json!({"pods": "1"}), true, false);
    }

    #[test]
    fn names_tell_what_is_to_be_counted() {
        let check = |names: &[&str], expected: &[&str]| {
            let names: Vec<String> = names.iter().map(|n| (*n).to_owned()).collect();
            let found = resources_of(names.iter());
            let found: Vec<String> = found.iter().map(|(g, r)| format!("{r}.{g}")).collect();
            assert_eq!(found, expected);
        };
        check(&["pods", "requests.cpu"], &["pods."]);
        check(&["count/widgets.example.com", "count/deployments.apps"], &["deployments.apps", "widgets.example.com"]);
        check(&["gold.storageclass.storage.k8s.io/requests.storage"], &["persistentvolumeclaims."]);
        check(&["services.nodeports", "configmaps"], &["configmaps.", "services."]);
    }
}
