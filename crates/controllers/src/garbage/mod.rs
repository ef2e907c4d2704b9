//! Garbage collection: objects go when all their owners are gone.
//!
//! Follows `pkg/controller/garbagecollector`. The metadata of everything that can be listed, watched and deleted is
//! watched ([`graph`]); an object whose owners are all absent is deleted, with absence proved by the API itself;
//! an object deleted in the foreground waits until the dependents that block it are gone; one deleted with orphaning
//! waits until it has been taken out of its dependents' owners.
//!
//! Which resources there are is asked at the start and whenever custom resource definitions or API services change;
//! built-in resources do not change while a server runs.

mod graph;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use orkd_base::BoxError;
use orkd_reconcile::{
    Api, ApiError, DeleteOptions, Event, Gates, Informer, Key, Meta, Options, Outcome, OwnerRef, Patch, Propagation,
    Queue, Recorder, Resource, View, work,
};
use parking_lot::Mutex;
use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::{Value, json};
use tokio::sync::watch;

use crate::discovery::{Discovery, discover};
use crate::{ControllerSpec, Cx};
use graph::{Any, FOREGROUND, Graph, Node, ORPHAN, Task};

/// How the list of controllers names it.
pub const SPEC: ControllerSpec = ControllerSpec {
    name: "garbage-collector-controller",
    service_account: "generic-garbage-collector",
    run: |cx| Box::pin(start(cx)),
};

/// How many objects are looked at at once, and how many of them may wait for one group of the API.
const WORKERS: (usize, usize) = (20, 20);
/// How long a change may take: longer than the server lets it.
const CHANGES: Duration = Duration::from_secs(65);

/// The whole metadata of any object.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Whole {
    metadata: Meta,
}

/// What changes with which resources there are.
#[derive(Default)]
struct Known {
    discovery: Discovery,
    monitors: HashMap<(String, String), Informer<Any>>,
}

struct Collector {
    api: Api,
    gates: Gates,
    /// The same for changes, which admission may slow down.
    changes: Gates,
    graph: Arc<Mutex<Graph>>,
    queue: Queue<Task>,
    recorder: Recorder,
    known: Mutex<Known>,
    /// Whether everything is watched and has been listed.
    ready: watch::Sender<bool>,
}

async fn start(cx: Cx) -> Result<(), BoxError> {
    let supervisor = cx.supervisor.child();
    let collector = Arc::new(Collector {
        api: cx.api.clone(),
        gates: Gates::new(WORKERS.1),
        changes: Gates::new(WORKERS.1).patient(CHANGES),
        graph: Arc::default(),
        queue: cx.queue(SPEC.name),
        recorder: cx.recorder.clone(),
        known: Mutex::default(),
        ready: watch::Sender::new(false),
    });
    let changed = Arc::new(tokio::sync::Notify::new());
    let refresh = {
        let (collector, changed, cx, supervisor) = (collector.clone(), changed.clone(), cx.clone(), supervisor.clone());
        async move {
            let mut definitions: Vec<Informer<Any>> = Vec::new();
            loop {
                match collector.refresh(&cx, &supervisor).await {
                    Ok(()) => {
                        if definitions.is_empty() {
                            definitions = collector.watch_definitions(&changed);
                        }
                        changed.notified().await;
                        // Several come at once, and it takes a moment until they are served.
                        tokio::time::sleep(Duration::from_millis(500)).await;
                    }
                    Err(err) => {
                        tracing::debug!(error = %orkd_base::chain(&err), "cannot ask what is served yet");
                        tokio::time::sleep(Duration::from_secs(1)).await;
                    }
                }
            }
        }
    };
    let worker = collector.clone();
    let working = work(collector.queue.clone(), WORKERS.0, cx.stop.clone(), move |task| {
        let collector = worker.clone();
        async move {
            let mut ready = collector.ready.subscribe();
            // The sender is held by the collector.
            let _ = ready.wait_for(|ready| *ready).await;
            match task {
                Task::Delete(uid) => collector.attempt_to_delete(&uid).await,
                Task::Orphan(uid) => collector.orphan_dependents(&uid).await,
            }
        }
    });
    tokio::select! {
        biased;
        () = working => {}
        () = refresh => {}
        () = cx.stop.cancelled() => {}
    }
    supervisor.shutdown(Duration::from_secs(2)).await;
    Ok(())
}

impl Collector {
    /// Follows the resources there are now, and no others.
    async fn refresh(&self, cx: &Cx, supervisor: &orkd_base::Supervisor) -> Result<(), ApiError> {
        let found = discover(&self.api).await?;
        let mut fresh = Vec::new();
        {
            let mut known = self.known.lock();
            let mut wanted = HashMap::new();
            for served in &found.preferred {
                let resource = &served.resource;
                let followed = ["list", "watch", "delete"].iter().all(|verb| served.can(verb));
                let told = resource.plural == "events" && matches!(&*resource.group, "" | "events.k8s.io");
                if followed && !told {
                    wanted.insert((resource.group.to_string(), resource.plural.to_string()), resource.clone());
                }
            }
            known.monitors.retain(|id, monitor| {
                // A group that did not answer is not a group that is gone.
                let unknown = found.failed.iter().any(|(gv, _)| gv.split('/').next() == Some(id.0.as_str()));
                let keep = unknown || wanted.get(id).is_some_and(|r| r == monitor.resource());
                if !keep {
                    monitor.stop();
                    let mut graph = self.graph.lock();
                    for object in monitor.list() {
                        graph.remove(&object.meta().uid).into_iter().for_each(|t| self.queue.add(t));
                    }
                }
                keep
            });
            for (id, resource) in wanted {
                if known.monitors.contains_key(&id) {
                    continue;
                }
                let api = cx.informers.api().clone();
                let monitor = Informer::<Any>::start(api, supervisor, resource.clone(), Options::metadata_only());
                self.follow(&monitor, Arc::new(resource));
                fresh.push(monitor.clone());
                known.monitors.insert(id, monitor);
            }
            known.discovery = found;
        }
        // Nothing is decided on half a graph. One resource that cannot be listed does not stop the rest for ever.
        let synced = futures_util::future::join_all(fresh.iter().map(Informer::synced));
        if tokio::time::timeout(Duration::from_secs(30), synced).await.is_err() {
            let late: Vec<String> = fresh.iter().filter(|m| !m.is_synced()).map(|m| m.resource().to_string()).collect();
            tracing::warn!(resources = ?late, "not listed in time; collecting without them");
        }
        self.ready.send_replace(true);
        Ok(())
    }

    fn follow(&self, monitor: &Informer<Any>, resource: Arc<Resource>) {
        let (graph, queue, recorder) = (self.graph.clone(), self.queue.clone(), self.recorder.clone());
        monitor.subscribe(move |event| {
            let mut graph = graph.lock();
            let tasks = match event {
                Event::Deleted(object) => graph.remove(&object.meta().uid),
                Event::Added(object) | Event::Updated { new: object, .. } => {
                    graph.apply(Node::new(resource.clone(), object.clone()))
                }
            };
            for (node, owner) in graph.take_misled() {
                recorder.warning(&node.about(), "OwnerRefInvalidNamespace", misled(&node.key().namespace, &owner));
            }
            tasks.into_iter().for_each(|task| queue.add(task));
        });
    }

    /// Asks for a refresh when what is served changes.
    fn watch_definitions(&self, changed: &Arc<tokio::sync::Notify>) -> Vec<Informer<Any>> {
        let known = self.known.lock();
        [("apiextensions.k8s.io", "customresourcedefinitions"), ("apiregistration.k8s.io", "apiservices")]
            .iter()
            .filter_map(|(group, plural)| known.monitors.get(&((*group).to_owned(), (*plural).to_owned())))
            .map(|monitor| {
                let changed = changed.clone();
                monitor.subscribe(move |_| changed.notify_one());
                monitor.clone()
            })
            .collect()
    }

    async fn live(&self, resource: &Resource, key: &Key) -> Result<Option<Meta>, ApiError> {
        let target = resource.at(&key.namespace, &key.name);
        match self.gates.ask(&resource.group, self.api.get_metadata::<Whole>(&target)).await {
            Ok(object) => Ok(Some(object.metadata)),
            Err(err) if err.is_not_found() => Ok(None),
            Err(err) => Err(err),
        }
    }

    fn gone(&self, uid: &str) {
        let tasks = self.graph.lock().remove(uid);
        tasks.into_iter().for_each(|task| self.queue.add(task));
    }

    async fn attempt_to_delete(&self, uid: &str) -> Result<Outcome, BoxError> {
        let Some(node) = self.graph.lock().node(uid).cloned() else { return Ok(Outcome::Done) };
        if node.is_deleting() && !node.deletes_dependents() {
            return Ok(Outcome::Done);
        }
        let live = match self.live(&node.resource, &node.key()).await? {
            Some(live) if live.uid == uid => live,
            _ => {
                self.gone(uid);
                return Ok(Outcome::Done);
            }
        };
        if node.deletes_dependents() {
            return self.finish_foreground(uid, &node, &live).await;
        }
        if live.owner_references.is_empty() {
            return Ok(Outcome::Done);
        }
        let mut solid = Vec::new();
        let mut absent = Vec::new();
        let mut waiting = Vec::new();
        for owner in &live.owner_references {
            match self.state(owner, &node).await? {
                State::There => solid.push(owner),
                State::Waiting => waiting.push(owner),
                State::Absent => absent.push(owner),
                // Nothing may be concluded from such a reference; the object is left alone.
                State::OutOfReach => return Ok(Outcome::Done),
            }
        }
        let target = node.resource.at(&live.namespace, &live.name);
        let precise = DeleteOptions::default().uid(uid).resource_version(&live.resource_version);
        if !solid.is_empty() {
            if absent.is_empty() && waiting.is_empty() {
                return Ok(Outcome::Done);
            }
            let gone: Vec<&str> = absent.iter().chain(&waiting).map(|o| o.uid.as_str()).collect();
            self.drop_owners(&node.resource, &live, &gone).await?;
            return Ok(Outcome::Done);
        }
        let dependents = self.graph.lock().dependents(uid);
        let policy = if !waiting.is_empty() && !dependents.is_empty() {
            if dependents.iter().any(Node::deletes_dependents) {
                // A circle of owners that all wait: this one lets go of its blocks.
                self.unblock(&node.resource, &live).await?;
            }
            Propagation::Foreground
        } else if live.finalizers.iter().any(|f| f == ORPHAN) {
            Propagation::Orphan
        } else if live.finalizers.iter().any(|f| f == FOREGROUND) {
            Propagation::Foreground
        } else {
            Propagation::Background
        };
        let options = if policy == Propagation::Foreground && !waiting.is_empty() {
            // The version may have moved by our own patch.
            DeleteOptions::default().uid(uid)
        } else {
            precise
        };
        match self.changes.ask(&node.resource.group, self.api.delete(&target, &options.propagation(policy))).await {
            Err(err) if err.is_not_found() => {
                self.gone(uid);
                Ok(Outcome::Done)
            }
            // It changed meanwhile: look again.
            Err(err) if err.is_conflict() => Ok(Outcome::Requeue),
            other => Ok(other.map(|()| Outcome::Done)?),
        }
    }

    /// What is known of one owner.
    async fn state(&self, owner: &OwnerRef, of: &Node) -> Result<State, BoxError> {
        let (key, resource) = (of.key(), &of.resource);
        if let Some(node) = self.graph.lock().node(&owner.uid) {
            let visible = !node.resource.namespaced || node.key().namespace == key.namespace;
            let same = *node.key().name == *owner.name && *node.resource.kind == *owner.kind;
            if visible && same {
                return Ok(if node.deletes_dependents() { State::Waiting } else { State::There });
            }
        }
        let known = self.known.lock().discovery.of_kind(&owner.api_version, &owner.kind).cloned();
        let Some(owner_resource) = known else {
            return Err(format!("owner of unknown kind {} {}", owner.api_version, owner.kind).into());
        };
        if owner_resource.namespaced && !resource.namespaced {
            tracing::debug!(object = %key, owner = owner.name, "a cluster-wide object cannot have a namespaced owner");
            return Ok(State::OutOfReach);
        }
        let namespace = if owner_resource.namespaced { &*key.namespace } else { "" };
        Ok(match self.live(&owner_resource, &Key::new(namespace, &owner.name)).await? {
            Some(live) if live.uid == owner.uid => {
                let waits = live.is_deleting() && live.finalizers.iter().any(|f| f == FOREGROUND);
                if waits { State::Waiting } else { State::There }
            }
            _ => State::Absent,
        })
    }

    /// Lets an object go whose dependents have gone, or hurries them.
    async fn finish_foreground(&self, uid: &str, node: &Node, live: &Meta) -> Result<Outcome, BoxError> {
        let mut blocking = self.graph.lock().dependents(uid);
        blocking.retain(|d| d.owners().iter().any(|o| o.uid == uid && o.block_owner_deletion));
        if blocking.is_empty() {
            self.drop_finalizer(&node.resource, live, FOREGROUND).await?;
            return Ok(Outcome::Done);
        }
        for dependent in blocking.iter().filter(|d| !d.deletes_dependents()) {
            self.queue.add(Task::Delete(dependent.uid().to_owned()));
        }
        Ok(Outcome::Done)
    }

    async fn orphan_dependents(&self, uid: &str) -> Result<Outcome, BoxError> {
        let (node, dependents) = {
            let graph = self.graph.lock();
            match graph.node(uid) {
                Some(node) => (node.clone(), graph.dependents(uid)),
                None => return Ok(Outcome::Done),
            }
        };
        for node in dependents {
            let Some(live) = self.live(&node.resource, &node.key()).await? else { continue };
            if live.uid == node.uid() && live.owner_references.iter().any(|o| o.uid == uid) {
                self.drop_owners(&node.resource, &live, &[uid]).await?;
            }
        }
        if let Some(live) = self.live(&node.resource, &node.key()).await?
            && live.uid == uid
        {
            self.drop_finalizer(&node.resource, &live, ORPHAN).await?;
        }
        Ok(Outcome::Done)
    }

    async fn drop_owners(&self, resource: &Resource, live: &Meta, uids: &[&str]) -> Result<(), BoxError> {
        let left: Vec<Value> =
            live.owner_references.iter().filter(|o| !uids.contains(&o.uid.as_str())).map(owner_json).collect();
        self.patch(resource, live, json!({"ownerReferences": left})).await
    }

    async fn unblock(&self, resource: &Resource, live: &Meta) -> Result<(), BoxError> {
        let mut owners: Vec<Value> = live.owner_references.iter().map(owner_json).collect();
        owners.iter_mut().for_each(|o| o["blockOwnerDeletion"] = false.into());
        self.patch(resource, live, json!({"ownerReferences": owners})).await
    }

    async fn drop_finalizer(&self, resource: &Resource, live: &Meta, finalizer: &str) -> Result<(), BoxError> {
        if !live.finalizers.iter().any(|f| f == finalizer) {
            return Ok(());
        }
        let left: Vec<&String> = live.finalizers.iter().filter(|f| *f != finalizer).collect();
        self.patch(resource, live, json!({"finalizers": left})).await
    }

    /// Changes the metadata of the very version that was read; merge patches are understood by every kind.
    async fn patch(&self, resource: &Resource, live: &Meta, mut metadata: Value) -> Result<(), BoxError> {
        metadata["uid"] = live.uid.as_str().into();
        metadata["resourceVersion"] = live.resource_version.as_str().into();
        let target = resource.at(&live.namespace, &live.name);
        let patch = Patch::Merge(json!({"metadata": metadata}));
        match self.changes.ask(&resource.group, self.api.patch::<IgnoredAny>(&target, &patch)).await {
            Err(err) if err.is_not_found() => Ok(()),
            other => Ok(other.map(|_| ())?),
        }
    }
}

/// What is told about an object that names an owner of another namespace (`reportInvalidNamespaceOwnerRef`).
fn misled(namespace: &str, owner: &OwnerRef) -> String {
    format!(
        "ownerRef [{}/{}, namespace: {namespace}, name: {}, uid: {}] does not exist in namespace {namespace:?}",
        owner.api_version, owner.kind, owner.name, owner.uid
    )
}

fn owner_json(owner: &OwnerRef) -> Value {
    let mut json = json!({
        "apiVersion": owner.api_version, "kind": owner.kind, "name": owner.name, "uid": owner.uid,
    });
    if owner.controller {
        json["controller"] = true.into();
    }
    if owner.block_owner_deletion {
        json["blockOwnerDeletion"] = true.into();
    }
    json
}

/// Whether an owner is there.
enum State {
    There,
    /// It is, and waits for its dependents to go.
    Waiting,
    Absent,
    /// It could not be seen from the object.
    OutOfReach,
}
