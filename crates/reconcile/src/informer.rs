//! Shared informers: one list and one watch for each view and [`Options`], a cache with indexes, and handlers.
//!
//! Follows `k8s.io/client-go/tools/cache` (reflector and shared informer). The list is streamed
//! (`sendInitialEvents`); a server that refuses gets a paged list and a watch. A watch that ends is resumed from
//! the last version seen, bookmarks included; a version that is too old (410) makes a new list, of which handlers
//! see the difference. There is no periodic relist.
//!
//! Guarantees: handlers of one informer are called in order, one at a time, after the cache has the change; a
//! handler added late first gets `Added` for what is cached. A handler must be short, must not block and must not
//! subscribe to the same informer.

use std::any::{Any, TypeId};
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use http::Method;
use orkd_base::{Backoff, BoxError, CancellationToken, Supervisor, TaskHandle, TaskKind, chain};
use parking_lot::{Mutex, RwLock};
use tokio::sync::watch;

use crate::api::METADATA;
use crate::resource::push_query;
use crate::store::Store;
use crate::watch::{Frame, WatchStream};
use crate::{Api, ApiError, Client, Key, ListOptions, Resource, Status, View};

/// A change of a cached object.
#[derive(Debug)]
pub enum Event<T> {
    /// The object is new to the cache.
    Added(Arc<T>),
    /// The object has another version.
    Updated {
        /// Before.
        old: Arc<T>,
        /// Now.
        new: Arc<T>,
    },
    /// The object is gone; this was its last known state.
    Deleted(Arc<T>),
}

impl<T> Clone for Event<T> {
    fn clone(&self) -> Self {
        match self {
            Event::Added(object) => Event::Added(object.clone()),
            Event::Updated { old, new } => Event::Updated { old: old.clone(), new: new.clone() },
            Event::Deleted(object) => Event::Deleted(object.clone()),
        }
    }
}

impl<T: View> Event<T> {
    /// The object as it is now, or as it was last.
    pub fn object(&self) -> &Arc<T> {
        match self {
            Event::Added(object) | Event::Deleted(object) => object,
            Event::Updated { new, .. } => new,
        }
    }

    /// The object before the change, if it was cached.
    pub fn old(&self) -> Option<&Arc<T>> {
        match self {
            Event::Updated { old, .. } => Some(old),
            _ => None,
        }
    }

    /// The object's key.
    pub fn key(&self) -> Key {
        self.object().meta().key()
    }

    /// Whether the object is gone.
    pub fn is_deleted(&self) -> bool {
        matches!(self, Event::Deleted(_))
    }
}

/// Which objects an informer holds. The default is all.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Options {
    /// Namespace; empty for all.
    pub namespace: String,
    /// Field selector; empty for all.
    pub fields: String,
    /// Label selector; empty for all.
    pub labels: String,
    /// Whether only metadata is asked for (`PartialObjectMetadata`). The view must do with it.
    pub metadata_only: bool,
}

impl Options {
    /// Objects that a field selector matches.
    pub fn fields(selector: impl Into<String>) -> Self {
        Options { fields: selector.into(), ..Options::default() }
    }

    /// Objects that a label selector matches.
    pub fn labels(selector: impl Into<String>) -> Self {
        Options { labels: selector.into(), ..Options::default() }
    }

    /// Objects of one namespace.
    pub fn namespace(mut self, namespace: impl Into<String>) -> Self {
        self.namespace = namespace.into();
        self
    }

    /// Only metadata.
    pub fn metadata_only() -> Self {
        Options { metadata_only: true, ..Options::default() }
    }
}

/// Gives one shared informer for each view and options. Cheap to clone.
#[derive(Clone)]
pub struct Informers(Arc<Factory>);

struct Factory {
    api: Api,
    supervisor: Supervisor,
    shared: Mutex<HashMap<(TypeId, Options), Shared>>,
}

struct Shared {
    informer: Box<dyn Any + Send + Sync>,
    synced: watch::Receiver<bool>,
}

impl Informers {
    /// Informers that read by `client` and run under `supervisor`.
    pub fn new(client: impl Into<Client>, supervisor: Supervisor) -> Self {
        Informers::with_api(Api::new(client, "informers"), supervisor)
    }

    /// Informers that read by `api`.
    pub fn with_api(api: Api, supervisor: Supervisor) -> Self {
        Informers(Arc::new(Factory { api, supervisor, shared: Mutex::new(HashMap::new()) }))
    }

    /// The informer of all objects of a view; started when first asked for.
    pub fn informer<T: View>(&self) -> Informer<T> {
        self.informer_with(Options::default())
    }

    /// The informer of some objects of a view; started when first asked for.
    pub fn informer_with<T: View>(&self, options: Options) -> Informer<T> {
        let mut shared = self.0.shared.lock();
        let id = (TypeId::of::<T>(), options.clone());
        if let Some(informer) = shared.get(&id).and_then(|s| s.informer.downcast_ref::<Informer<T>>()) {
            return informer.clone();
        }
        let informer = Informer::start(self.0.api.clone(), &self.0.supervisor, Resource::of::<T>(), options);
        let entry = Shared { informer: Box::new(informer.clone()), synced: informer.0.synced.subscribe() };
        shared.insert(id, entry);
        informer
    }

    /// Waits until all informers asked for so far hold their first list.
    pub async fn synced(&self) {
        let waiting: Vec<_> = self.0.shared.lock().values().map(|s| s.synced.clone()).collect();
        for mut synced in waiting {
            // The sender lives as long as the informer, which the factory holds.
            let _ = synced.wait_for(|synced| *synced).await;
        }
    }

    /// What the informers read by.
    pub fn api(&self) -> &Api {
        &self.0.api
    }

    /// What the informers run under.
    pub fn supervisor(&self) -> &Supervisor {
        &self.0.supervisor
    }
}

/// A cache that follows the API, shared by all who hold it. Cheap to clone.
pub struct Informer<T>(Arc<Inner<T>>);

impl<T> Clone for Informer<T> {
    fn clone(&self) -> Self {
        Informer(self.0.clone())
    }
}

type Handler<T> = Box<dyn FnMut(&Event<T>) + Send>;

struct Inner<T> {
    resource: Resource,
    store: RwLock<Store<T>>,
    /// Held while the cache changes and handlers are called, so that late handlers miss nothing.
    handlers: Mutex<Vec<Handler<T>>>,
    synced: watch::Sender<bool>,
    /// The newest version seen, as a number.
    seen: watch::Sender<u64>,
    task: Mutex<Option<TaskHandle>>,
}

impl<T: View> Informer<T> {
    /// Starts an informer of its own, for a resource that may differ from the view's: for kinds known at run time
    /// only. [`Informers`] is for the others.
    pub fn start(api: Api, supervisor: &Supervisor, resource: Resource, options: Options) -> Self {
        let informer = Informer::detached(resource.clone());
        let inner = informer.0.clone();
        let task = supervisor.run(TaskKind::Informer, format!("informer {resource}"), move |stop| {
            let reflector = Reflector {
                api: api.clone(),
                resource: resource.clone(),
                options: options.clone(),
                inner: inner.clone(),
                streaming: true,
                version: None,
            };
            async move {
                reflector.run(stop).await;
                Ok::<(), BoxError>(())
            }
        });
        *informer.0.task.lock() = Some(task);
        informer
    }

    /// An informer that nobody fills but [`Informer::replace`] and [`Informer::apply`]: for tests of what reads one.
    pub fn detached(resource: Resource) -> Self {
        Informer(Arc::new(Inner {
            resource,
            store: RwLock::new(Store::new()),
            handlers: Mutex::new(Vec::new()),
            synced: watch::Sender::new(false),
            seen: watch::Sender::new(0),
            task: Mutex::new(None),
        }))
    }

    /// Stops following the API; what is cached stays.
    pub fn stop(&self) {
        if let Some(task) = self.0.task.lock().as_ref() {
            task.cancel();
        }
    }

    /// The resource followed.
    pub fn resource(&self) -> &Resource {
        &self.0.resource
    }

    /// Waits until the cache holds the first list and handlers have seen it.
    pub async fn synced(&self) {
        // The sender is held by `self`.
        let _ = self.0.synced.subscribe().wait_for(|synced| *synced).await;
    }

    /// Whether the cache holds the first list.
    pub fn is_synced(&self) -> bool {
        *self.0.synced.borrow()
    }

    /// The newest version seen, as a number; 0 before the first list.
    pub fn seen(&self) -> u64 {
        *self.0.seen.borrow()
    }

    /// Waits until the cache has seen a version, to read one's own writes.
    pub async fn caught_up(&self, version: u64) {
        let _ = self.0.seen.subscribe().wait_for(|seen| *seen >= version).await;
    }

    /// Adds an index: for every object the values it is found by. Whoever shares the informer may add the same index
    /// again, by the same line of the program; another index of the name would be as likely to be the one that counts.
    #[track_caller]
    pub fn add_index(&self, name: &'static str, values_of: impl Fn(&T) -> Vec<String> + Send + Sync + 'static) {
        let at = std::panic::Location::caller();
        let there = self.0.store.write().add_index(name, Box::new(values_of), at);
        if there != at {
            orkd_base::never!("informer of {} has two indexes {name}: of {there} and {at}", self.0.resource);
        }
    }

    /// The objects that an index gives a value for; none if there is no such index.
    pub fn by_index(&self, name: &str, value: &str) -> Vec<Arc<T>> {
        match self.0.store.read().by_index(name, value) {
            Some(objects) => objects,
            None => {
                orkd_base::never!("informer of {} has no index {name}", self.0.resource);
                Vec::new()
            }
        }
    }

    /// All values of an index.
    pub fn index_values(&self, name: &str) -> Vec<String> {
        self.0.store.read().index_values(name)
    }

    /// The object of a key.
    pub fn get(&self, key: &Key) -> Option<Arc<T>> {
        self.0.store.read().get(key)
    }

    /// The object of a namespace and a name.
    pub fn get_named(&self, namespace: &str, name: &str) -> Option<Arc<T>> {
        self.get(&Key::new(namespace, name))
    }

    /// All objects, ordered by key.
    pub fn list(&self) -> Vec<Arc<T>> {
        self.0.store.read().list()
    }

    /// All objects of a namespace, ordered by name.
    pub fn list_namespace(&self, namespace: &str) -> Vec<Arc<T>> {
        self.0.store.read().list_namespace(namespace)
    }

    /// How many objects there are.
    pub fn len(&self) -> usize {
        self.0.store.read().len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Adds a handler, which is first given what is cached.
    pub fn subscribe(&self, mut handler: impl FnMut(&Event<T>) + Send + 'static) {
        let mut handlers = self.0.handlers.lock();
        for object in self.list() {
            handler(&Event::Added(object));
        }
        handlers.push(Box::new(handler));
    }

    /// Changes as a channel, for loops that wait on several things. Unbounded: the receiver must keep up; it is
    /// dropped from the informer when it is gone.
    pub fn channel(&self) -> tokio::sync::mpsc::UnboundedReceiver<Event<T>> {
        let (sender, receiver) = tokio::sync::mpsc::unbounded_channel();
        self.subscribe(move |event| {
            // A receiver that is gone needs nothing.
            let _ = sender.send(event.clone());
        });
        receiver
    }

    /// Makes the cache hold exactly these objects; handlers see the difference.
    pub fn replace(&self, objects: Vec<T>, version: u64) {
        self.0.replace(objects.into_iter().map(Arc::new).collect(), version);
    }

    /// Adds or changes one object in the cache.
    pub fn apply(&self, object: T) {
        self.0.apply(object);
    }

    /// Removes one object from the cache; it carries its last state.
    pub fn remove(&self, last: T) {
        self.0.remove(last);
    }
}

impl<T: View> Inner<T> {
    fn advance(&self, version: u64) {
        self.seen.send_if_modified(|seen| {
            let newer = version > *seen;
            if newer {
                *seen = version;
            }
            newer
        });
    }

    fn dispatch(&self, handlers: &mut [Handler<T>], events: &[Event<T>]) {
        for event in events {
            for handler in handlers.iter_mut() {
                handler(event);
            }
        }
    }

    fn replace(&self, objects: Vec<Arc<T>>, version: u64) {
        let mut handlers = self.handlers.lock();
        let events = self.store.write().replace(objects);
        self.advance(version);
        self.dispatch(&mut handlers, &events);
        drop(handlers);
        self.synced.send_replace(true);
    }

    fn apply(&self, object: T) {
        let version = object.meta().rv();
        let mut handlers = self.handlers.lock();
        let mut event = self.store.write().upsert(Arc::new(object));
        self.advance(version);
        // An object that was deleted and made again while nobody looked is two objects.
        if let Some(Event::Updated { old, new }) = &event
            && old.meta().uid != new.meta().uid
        {
            let (old, new) = (old.clone(), new.clone());
            self.dispatch(&mut handlers, &[Event::Deleted(old)]);
            event = Some(Event::Added(new));
        }
        self.dispatch(&mut handlers, event.as_slice());
    }

    fn remove(&self, last: T) {
        let version = last.meta().rv();
        let mut handlers = self.handlers.lock();
        let key = last.meta().key();
        let event = self.store.write().remove(&key, Some(Arc::new(last)));
        self.advance(version);
        self.dispatch(&mut handlers, event.as_slice());
    }
}

/// Keeps one informer's cache by requests.
struct Reflector<T> {
    api: Api,
    resource: Resource,
    options: Options,
    inner: Arc<Inner<T>>,
    /// Whether the server streams lists, as far as we know.
    streaming: bool,
    /// The version to resume from; `None` when a list is needed.
    version: Option<String>,
}

/// How a session with the server ended.
enum Ended {
    /// The server ended the watch in good order.
    Resume,
    /// The version is too old: list again.
    Expired,
    /// The server does not stream lists.
    NoStreaming,
    /// Something failed.
    Failed(BoxError),
}

/// How long a streamed list may be silent before the server is taken for one that does not know it.
const STREAM_SILENCE: Duration = Duration::from_secs(15);

impl<T: View> Reflector<T> {
    async fn run(mut self, stop: CancellationToken) {
        let mut backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(30));
        let mut failures = 0u32;
        loop {
            let started = Instant::now();
            let ended = tokio::select! {
                biased;
                () = stop.cancelled() => return,
                ended = self.session() => ended,
            };
            let lasted = started.elapsed() > Duration::from_secs(5);
            if lasted {
                backoff.reset();
                failures = 0;
            }
            match ended {
                Ended::Resume if lasted => continue,
                Ended::NoStreaming => {
                    self.streaming = false;
                    continue;
                }
                Ended::Resume => {}
                Ended::Expired => {
                    tracing::debug!(resource = %self.resource, "version expired, listing again");
                    self.version = None;
                }
                Ended::Failed(err) => {
                    failures += 1;
                    let error = chain(&*err).to_string();
                    if failures == 3 {
                        tracing::warn!(resource = %self.resource, error, "cannot follow, trying on");
                    } else {
                        tracing::debug!(resource = %self.resource, error, "cannot follow, trying on");
                    }
                }
            }
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                () = tokio::time::sleep(backoff.next_delay()) => {}
            }
        }
    }

    async fn session(&mut self) -> Ended {
        if self.version.is_none()
            && !self.streaming
            && let Err(err) = Box::pin(self.list()).await
        {
            return Ended::Failed(err.into());
        }
        // The initial events of a streamed list; `None` once the cache is whole.
        let mut initial: Option<BTreeMap<Key, Arc<T>>> = self.version.is_none().then(BTreeMap::new);
        // Watches end by themselves, at different times.
        let lifetime = Duration::from_secs(300 + rand::random::<u64>() % 300);
        let path = self.watch_path(initial.is_some(), lifetime);
        let accept = if self.options.metadata_only { METADATA } else { "application/json" };
        // In a box, as the list: a watch that runs keeps no room for how it began.
        let answer = match Box::pin(self.api.stream(Method::GET, &path, accept)).await {
            Ok(answer) => answer,
            Err(err) if err.is_gone() => return Ended::Expired,
            Err(err) if initial.is_some() && matches!(err.code(), 400 | 405 | 422) => return Ended::NoStreaming,
            Err(err) => return Ended::Failed(err.into()),
        };
        let mut stream = WatchStream::new(answer.into_body());
        let deadline = tokio::time::Instant::now() + lifetime + Duration::from_secs(30);
        loop {
            let silence = match initial {
                Some(_) => deadline.min(tokio::time::Instant::now() + STREAM_SILENCE),
                None => deadline,
            };
            let frame = match tokio::time::timeout_at(silence, stream.next::<T>()).await {
                Err(_) if initial.is_some() => return Ended::NoStreaming,
                Err(_) => return Ended::Failed("the watch outlived its time".into()),
                Ok(Err(err)) => return Ended::Failed(err),
                Ok(Ok(None)) => return Ended::Resume,
                Ok(Ok(Some(frame))) => frame,
            };
            match frame {
                Frame::Applied(object) => match &mut initial {
                    Some(objects) => {
                        objects.insert(object.meta().key(), Arc::new(object));
                    }
                    None => {
                        let version = object.meta().resource_version.clone();
                        self.inner.apply(object);
                        self.version = Some(version);
                    }
                },
                Frame::Deleted(object) => match &mut initial {
                    Some(objects) => {
                        objects.remove(&object.meta().key());
                    }
                    None => {
                        let version = object.meta().resource_version.clone();
                        self.inner.remove(object);
                        self.version = Some(version);
                    }
                },
                Frame::Bookmark { resource_version, initial_end } => match initial.take() {
                    Some(objects) if initial_end => {
                        self.fill(objects.into_values().collect(), resource_version);
                    }
                    None => {
                        self.inner.advance(resource_version.parse().unwrap_or(0));
                        self.version = Some(resource_version);
                    }
                    unfinished => initial = unfinished,
                },
                Frame::Undecodable { error, resource_version } => {
                    tracing::error!(resource = %self.resource, %error, "an object cannot be read and is left out");
                    if initial.is_none() && !resource_version.is_empty() {
                        self.version = Some(resource_version);
                    }
                }
                Frame::Error(status) if status.code == 410 || matches!(status.reason.as_str(), "Expired" | "Gone") => {
                    return Ended::Expired;
                }
                Frame::Error(status) => return Ended::Failed(watch_failed(&path, status).into()),
            }
        }
    }

    async fn list(&mut self) -> Result<(), ApiError> {
        let collection = self.resource.collection(&self.options.namespace);
        let options = ListOptions {
            labels: self.options.labels.clone(),
            fields: self.options.fields.clone(),
            metadata_only: self.options.metadata_only,
            ..ListOptions::default()
        };
        let list = self.api.list_all::<T>(&collection, &options).await?;
        self.fill(list.items.into_iter().map(Arc::new).collect(), list.metadata.resource_version);
        Ok(())
    }

    fn fill(&mut self, objects: Vec<Arc<T>>, version: String) {
        self.inner.replace(objects, version.parse().unwrap_or(0));
        self.version = Some(version);
    }

    fn watch_path(&self, initial: bool, lifetime: Duration) -> String {
        let mut path = self.resource.collection(&self.options.namespace).path;
        push_query(&mut path, "watch", "true");
        push_query(&mut path, "allowWatchBookmarks", "true");
        push_query(&mut path, "timeoutSeconds", &lifetime.as_secs().to_string());
        for (key, value) in [("labelSelector", &self.options.labels), ("fieldSelector", &self.options.fields)] {
            if !value.is_empty() {
                push_query(&mut path, key, value);
            }
        }
        if initial {
            push_query(&mut path, "sendInitialEvents", "true");
            push_query(&mut path, "resourceVersionMatch", "NotOlderThan");
        } else if let Some(version) = &self.version {
            push_query(&mut path, "resourceVersion", version);
        }
        path
    }
}

fn watch_failed(path: &str, status: Status) -> ApiError {
    ApiError::Status { op: format!("GET {path}"), status: Box::new(status) }
}
