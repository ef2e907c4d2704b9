//! Reads from the cache without HTTP, for admission plugins, authorizers and handlers.

use std::collections::VecDeque;
use std::sync::Arc;

use orkd_api::kind::Kind;

use super::watch_cache::{Bucket, Change, WatchCache, Watcher};
use super::{Caches, Entry, is_stored};

/// A cheap handle on the caches. Reads are of the cache as it stands (every write answered by this server is
/// in it); [`Reader::fresh`] makes them linearizable.
#[derive(Clone)]
pub struct Reader(Arc<Caches>);

/// A change of one object, as [`Changes`] tells it.
#[derive(Clone, Debug)]
pub enum Changed {
    /// Everything known before is void; what stands now follows as `Put`s.
    Reset,
    /// An object is new (`old` is none) or changed.
    Put {
        /// Before.
        old: Option<Arc<Entry>>,
        /// After.
        new: Arc<Entry>,
    },
    /// An object is gone.
    Delete {
        /// Its last state.
        old: Arc<Entry>,
    },
}

impl Reader {
    pub(super) fn new(caches: Arc<Caches>) -> Self {
        Reader(caches)
    }

    fn find(&self, group: &str, resource: &str) -> Option<Arc<WatchCache>> {
        let kind = self.kind(group, resource)?;
        self.0.cache(&kind.info().storage_prefix)
    }

    /// The kind of a stored resource.
    pub fn kind(&self, group: &str, resource: &str) -> Option<&Arc<dyn Kind>> {
        self.0.kinds().iter().find(|k| {
            let info = k.info();
            info.plural == resource && info.group == group && is_stored(&***k)
        })
    }

    /// One object; `namespace` is empty for cluster-wide resources.
    pub fn get(&self, group: &str, resource: &str, namespace: &str, name: &str) -> Option<Arc<Entry>> {
        let cache = self.find(group, resource)?;
        if namespace.is_empty() { cache.get(name) } else { cache.get(&format!("{namespace}/{name}")) }
    }

    /// All objects of a resource, or those of one namespace, by key.
    pub fn list(&self, group: &str, resource: &str, namespace: Option<&str>) -> Vec<Arc<Entry>> {
        let Some(cache) = self.find(group, resource) else { return Vec::new() };
        let snapshot = cache.snapshot();
        match namespace {
            None => snapshot.map.values().cloned().collect(),
            Some(ns) => {
                let prefix = format!("{ns}/");
                let from: &str = &prefix;
                let range = snapshot.map.range::<_, str>((std::ops::Bound::Included(from), std::ops::Bound::Unbounded));
                range.take_while(|(k, _)| k.starts_with(&prefix)).map(|(_, e)| e.clone()).collect()
            }
        }
    }

    /// The changes of a resource, beginning with a `Reset` and what stands now.
    pub fn subscribe(&self, group: &str, resource: &str) -> Option<Changes> {
        let cache = self.find(group, resource)?;
        let mut changes = Changes { cache, watcher: None, backlog: VecDeque::new() };
        changes.restart();
        Some(changes)
    }

    /// Waits until everything acknowledged before the call can be read.
    pub async fn fresh(&self) -> Result<(), orkd_store::Error> {
        self.0.fresh().await.map(|_| ())
    }
}

/// The changes of one resource in order, none lost.
pub struct Changes {
    cache: Arc<WatchCache>,
    watcher: Option<Watcher>,
    backlog: VecDeque<Changed>,
}

impl Changes {
    fn restart(&mut self) {
        let (snapshot, watcher) = self.cache.snapshot_and_watch(Bucket::All);
        self.backlog.clear();
        self.backlog.push_back(Changed::Reset);
        self.backlog.extend(snapshot.map.values().map(|e| Changed::Put { old: None, new: e.clone() }));
        self.watcher = Some(watcher);
    }

    /// The next change that is there already; `None` while there is none. A consumer that looks before each use
    /// (an authorizer) is thereby as fresh as the cache, without a task of its own.
    pub fn ready(&mut self) -> Option<Changed> {
        loop {
            if let Some(changed) = self.backlog.pop_front() {
                return Some(changed);
            }
            match self.watcher.as_mut()?.ready() {
                Ok(Some(change)) => {
                    if let Some(changed) = told(&change) {
                        return Some(changed);
                    }
                }
                Ok(None) => return None,
                Err(_) => self.restart(),
            }
        }
    }

    /// Waits for the next change.
    pub async fn next(&mut self) -> Changed {
        loop {
            if let Some(changed) = self.backlog.pop_front() {
                return changed;
            }
            let next = match self.watcher.as_mut() {
                Some(watcher) => watcher.next().await,
                None => return std::future::pending().await,
            };
            match next {
                Ok(change) => {
                    if let Some(changed) = told(&change) {
                        return changed;
                    }
                }
                Err(_) => self.restart(),
            }
        }
    }
}

fn told(change: &Change) -> Option<Changed> {
    match (&change.old, &change.new) {
        (old, Some(new)) => Some(Changed::Put { old: old.clone(), new: new.clone() }),
        (Some(old), None) => Some(Changed::Delete { old: old.clone() }),
        (None, None) => None,
    }
}
