//! Follows the definitions and serves what they say.
//!
//! Everything is worked out from what is stored, so that a restart, another API server and a first run are the same path.
//! A round goes, for all definitions at once: names are given, in the order in which they were asked for; caches are
//! opened; the snapshot of what is served is swapped; then, and only then, a definition is called established. Changes
//! that come while a round runs are taken together by the next one, so a burst of definitions costs a few rounds.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use futures_util::{StreamExt, stream};
use jiff::Timestamp;
use orkd_api::apiextensions::conditions::{self, Used};
use orkd_api::custom::{CustomKind, Source};
use orkd_api::kind::Kind;
use orkd_api::object::{at, text};
use orkd_api::status::Status;
use serde_json::Value;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tracing::{error, warn};

use super::{DEFINITIONS, GROUP, Versions, emptying};
use crate::alloc::cluster_ip::system_user;
use crate::cache::{Changed, Changes, Entry, WatchCache};
use crate::pipeline::{ApiServer, WeakServer};
use crate::resources::Resource;
use crate::writer::Writer;

/// How many definitions are worked on at a time.
const AT_ONCE: usize = 16;
/// What could not be done is tried again after so long.
const AGAIN: Duration = Duration::from_secs(2);

/// Serves what the definitions say, from now until the server ends. When it returns, what they said before is served.
pub async fn start(server: &ApiServer) {
    let Some(changes) = server.reader().subscribe(GROUP, DEFINITIONS) else { return };
    let mut definitions = Definitions {
        server: server.downgrade(),
        changes,
        known: BTreeMap::new(),
        served: HashMap::new(),
        emptying: HashSet::new(),
        jobs: JoinSet::new(),
        again: None,
    };
    definitions.take_ready();
    definitions.round(server.clone()).await;
    let stop = server.stopping().clone();
    tokio::spawn(async move {
        tokio::select! {
            () = stop.cancelled() => {}
            () = definitions.run() => {}
        }
    });
}

/// A definition as far as it matters here: without its versions, which are the larger part.
type Definition = Value;

/// What is served of a definition.
struct Served {
    /// The definition it was made of: UID and generation.
    of: (String, i64),
    kinds: Vec<Arc<CustomKind>>,
    versions: Arc<Versions>,
    cache: Arc<WatchCache>,
    resources: Vec<Arc<Resource>>,
    terminating: bool,
}

struct Definitions {
    server: WeakServer,
    changes: Changes,
    known: BTreeMap<String, Definition>,
    served: HashMap<String, Served>,
    /// Definitions whose objects are being removed.
    emptying: HashSet<String>,
    jobs: JoinSet<(String, Result<(), Status>)>,
    /// When to look again at what could not be done.
    again: Option<Instant>,
}

/// What is to be done to a definition.
type Change = Box<dyn Fn(&mut Value) + Send + Sync>;

async fn write_status(writer: Writer, name: String, change: Change) -> (String, Result<Value, Status>) {
    let change = |definition: &mut Value| {
        change(definition);
        Ok(())
    };
    let written = writer.update_with(GROUP, DEFINITIONS, "status", "", &name, change).await;
    (name, written)
}

fn trimmed(mut definition: Value) -> Definition {
    if let Some(spec) = definition["spec"].as_object_mut() {
        spec.remove("versions");
        spec.remove("conversion");
    }
    if let Some(metadata) = definition["metadata"].as_object_mut() {
        metadata.remove("managedFields");
    }
    definition
}

fn identity(definition: &Value) -> (String, i64) {
    let generation = at(definition, &["metadata", "generation"]).as_i64().unwrap_or_default();
    (text(definition, &["metadata", "uid"]).to_owned(), generation)
}

impl Definitions {
    async fn run(mut self) {
        loop {
            let again = self.again;
            let wait = async move {
                match again {
                    Some(at) => tokio::time::sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                changed = self.changes.next() => self.take(changed),
                Some(done) = self.jobs.join_next() => {
                    if let Ok((name, outcome)) = done {
                        self.emptying.remove(&name);
                        if let Err(status) = outcome {
                            warn!(definition = name, why = status.message, "objects are not removed yet");
                            self.look_again();
                            continue;
                        }
                    }
                }
                () = wait => self.again = None,
            }
            self.take_ready();
            let Some(server) = self.server.upgrade() else { return };
            self.round(server).await;
        }
    }

    fn look_again(&mut self) {
        self.again.get_or_insert_with(|| Instant::now() + AGAIN);
    }

    fn take_ready(&mut self) {
        while let Some(changed) = self.changes.ready() {
            self.take(changed);
        }
    }

    fn take(&mut self, changed: Changed) {
        match changed {
            Changed::Reset => self.known.clear(),
            Changed::Put { new, .. } => self.keep(&new),
            Changed::Delete { old } => drop(self.known.remove(old.name())),
        }
    }

    fn keep(&mut self, entry: &Entry) {
        self.known.insert(entry.name().to_owned(), trimmed(entry.decode()));
    }

    async fn round(&mut self, server: ApiServer) {
        self.accept_names(&server).await;
        self.serve(&server).await;
        self.establish(&server).await;
        self.empty(&server);
    }

    /// Writes the status of definitions, and takes over what it then is.
    async fn write(&mut self, server: &ApiServer, changes: Vec<(String, Change)>) {
        let writer = Writer::new(server.clone(), system_user()).manager("kube-apiserver");
        let writing: Vec<_> =
            changes.into_iter().map(|(name, change)| write_status(writer.clone(), name, change)).collect();
        let outcomes: Vec<_> = stream::iter(writing).buffer_unordered(AT_ONCE).collect().await;
        for (name, written) in outcomes {
            match written {
                Ok(definition) => drop(self.known.insert(name, trimmed(definition))),
                Err(status) if status.code == 404 => {}
                Err(status) => {
                    warn!(definition = name, why = status.message, "the status of a definition cannot be written");
                    self.look_again();
                }
            }
        }
    }

    /// Gives definitions the names they ask for, the older first.
    async fn accept_names(&mut self, server: &ApiServer) {
        let mut order: Vec<String> = self.known.keys().cloned().collect();
        let created =
            |name: &String| self.known.get(name).map(|d| text(d, &["metadata", "creationTimestamp"]).to_owned());
        order.sort_by_cached_key(created);
        let now = Timestamp::now();
        let mut next = self.known.clone();
        let mut changes: Vec<(String, Change)> = Vec::new();
        for name in order {
            let Some(definition) = next.get(&name).filter(|d| needs_names(d)).cloned() else { continue };
            let used = Arc::new(names_in_use(server, &next, &name, text(&definition, &["spec", "group"])));
            let mut named = definition.clone();
            conditions::accept_names(&mut named, &used, now);
            conditions::tell_approval(&mut named, now);
            if named["status"] != definition["status"] {
                next.insert(name.clone(), named);
                let change = move |definition: &mut Value| {
                    conditions::accept_names(definition, &used, now);
                    conditions::tell_approval(definition, now);
                };
                changes.push((name, Box::new(change)));
            }
        }
        self.write(server, changes).await;
    }

    /// Opens caches for what is new, swaps the snapshot, and closes those of what is gone.
    async fn serve(&mut self, server: &ApiServer) {
        let wanted = |d: &&Definition| conditions::is_to_be_served(d);
        let missing: Vec<(String, Value)> = self
            .known
            .iter()
            .filter(|(name, d)| wanted(d) && self.served.get(*name).is_none_or(|s| s.of != identity(d)))
            .filter_map(|(name, _)| Some((name.clone(), server.reader().get(GROUP, DEFINITIONS, "", name)?.decode())))
            .collect();
        let making: Vec<_> =
            missing.into_iter().map(|(name, definition)| make(server.clone(), name, definition)).collect();
        let made: Vec<_> = stream::iter(making).buffer_unordered(AT_ONCE).collect().await;
        let mut is_changed = !made.is_empty();
        let mut gone: Vec<Arc<WatchCache>> = Vec::new();
        for (name, made) in made {
            match made {
                Ok(made) => gone.extend(self.served.insert(name, made).map(|s| s.cache)),
                Err(why) => {
                    error!(definition = name, why, "the objects of a definition cannot be served");
                    self.look_again();
                }
            }
        }
        let known = &self.known;
        let stays = |name: &String| known.get(name).as_ref().is_some_and(wanted);
        let leaving = self.served.extract_if(|name, _| !stays(name)).map(|(_, s)| s.cache);
        let before = gone.len();
        gone.extend(leaving);
        is_changed |= gone.len() > before;
        for (name, served) in &mut self.served {
            let terminating = self.known.get(name).is_some_and(|d| conditions::is_true(d, "Terminating"));
            if served.terminating != terminating {
                served.terminating = terminating;
                served.resources = served.make_resources();
                is_changed = true;
            }
        }
        if is_changed {
            let in_order = self.known.keys().filter_map(|name| self.served.get(name));
            let all: Vec<Arc<Resource>> = in_order.flat_map(|s| s.resources.iter().cloned()).collect();
            server.serve_custom(&all);
        }
        gone.iter().for_each(|cache| server.caches().forget(cache));
    }

    /// Calls definitions established whose objects are served by now.
    async fn establish(&mut self, server: &ApiServer) {
        let now = Timestamp::now();
        let open = self.known.iter().filter(|(name, d)| {
            self.served.contains_key(*name)
                && conditions::is_true(d, "NamesAccepted")
                && !conditions::is_true(d, "Established")
        });
        let establish = || -> Change { Box::new(move |d| conditions::establish(d, now)) };
        let changes = open.map(|(name, _)| (name.clone(), establish())).collect();
        self.write(server, changes).await;
    }

    /// Begins to remove the objects of definitions that are being deleted.
    fn empty(&mut self, server: &ApiServer) {
        for (name, definition) in &self.known {
            if !conditions::is_to_be_emptied(definition) || self.emptying.contains(name) {
                continue;
            }
            let established = conditions::is_true(definition, "Established");
            let resource = self.served.get(name).filter(|_| established).map(Served::storage);
            let job = emptying::run(server.clone(), name.clone(), resource);
            let name = name.clone();
            self.emptying.insert(name.clone());
            self.jobs.spawn(async move { (name, job.await) });
        }
    }
}

/// Whether there is anything to be said about the names of a definition: mostly it has those it asks for.
fn needs_names(definition: &Definition) -> bool {
    let (wanted, accepted) = (at(definition, &["spec", "names"]), at(definition, &["status", "acceptedNames"]));
    wanted != accepted
        || !conditions::is_true(definition, "NamesAccepted")
        || text(definition, &["spec", "group"]).ends_with("k8s.io")
        || text(definition, &["spec", "group"]).ends_with("kubernetes.io")
}

/// The names that others have in a group: built-in kinds, and definitions other than `except`.
fn names_in_use(server: &ApiServer, known: &BTreeMap<String, Definition>, except: &str, group: &str) -> Used {
    let mut used = Used::default();
    for resource in server.resources().built_in() {
        let info = resource.info();
        if info.group == group {
            let short = info.short_names.iter().map(|n| &**n);
            let list_kind = resource.list_kind();
            used.add([&*info.plural, &*info.singular].into_iter().chain(short), [&*info.kind, list_kind.as_str()]);
        }
    }
    let others = known.iter().filter(|(name, d)| *name != except && text(d, &["spec", "group"]) == group);
    others.for_each(|(_, definition)| used.add_accepted(definition));
    used
}

/// Opens what a definition says, and tells whose it is.
async fn make(server: ApiServer, name: String, definition: Value) -> (String, Result<Served, String>) {
    let made = open(&server, &definition).await;
    (name, made)
}

async fn open(server: &ApiServer, definition: &Value) -> Result<Served, String> {
    let kinds = CustomKind::all(definition).map_err(|e| e.to_string())?;
    let source = source(server, text(definition, &["metadata", "name"]));
    let kinds: Vec<Arc<CustomKind>> = kinds.into_iter().map(|k| Arc::new(k.with_source(source.clone()))).collect();
    let storage = kinds.iter().find(|kind| kind.is_storage()).ok_or("no version is the one objects are stored in")?;
    let following = server.caches().follow(storage.clone(), Versions::intake(kinds.clone()));
    let cache = following.await.map_err(|e| e.to_string())?;
    let versions = Arc::new(Versions::new(kinds.clone(), definition, server.reader()));
    let terminating = conditions::is_true(definition, "Terminating");
    let mut served = Served { of: identity(definition), kinds, versions, cache, resources: Vec::new(), terminating };
    served.resources = served.make_resources();
    Ok(served)
}

/// Where the kinds of a definition read what they do not keep: the texts that OpenAPI shows.
fn source(server: &ApiServer, name: &str) -> Source {
    let (caches, name) = (Arc::downgrade(server.caches()), name.to_owned());
    Source::new(move || Some(caches.upgrade()?.reader().get(GROUP, DEFINITIONS, "", &name)?.decode()))
}

impl Served {
    fn make_resources(&self) -> Vec<Arc<Resource>> {
        self.kinds.iter().filter(|kind| kind.is_served()).map(|kind| self.resource(kind.clone())).collect()
    }

    fn resource(&self, kind: Arc<dyn Kind>) -> Arc<Resource> {
        let definition = format!("{}/{}", self.of.0, self.of.1);
        Arc::new(Resource::custom(kind, self.cache.clone(), definition, self.versions.clone(), self.terminating))
    }

    /// The version objects are stored in, which need not be served.
    fn storage(&self) -> Arc<Resource> {
        self.resource(self.cache.kind.clone())
    }
}
