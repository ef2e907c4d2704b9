//! The watch cache: every served object in memory as encoded bytes, fed by one watch over the whole store.
//!
//! A read is answered from here: LIST takes a snapshot in O(1), WATCH shares frames, GET shares bytes. A
//! consistent read asks the store for its current revision and waits until the cache has reached it.
//!
//! Invariant: changes are applied in the order of revisions, whole commits at a time; what [`Progress`] says has
//! been applied to every resource and handed to every watcher.

mod dispatch;
pub mod entry;
pub mod reader;
mod sparse;
pub mod splice;
pub mod watch_cache;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use orkd_api::kind::Kind;
use orkd_store::{Error, Store};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

pub use entry::Entry;
pub use reader::{Changed, Changes, Reader};
pub use watch_cache::{Bucket, Change, Gone, Intake, Snapshot, WatchCache, Watcher};

/// How far the cache is.
pub struct Progress {
    revision: watch::Sender<u64>,
}

impl Progress {
    fn new() -> Self {
        Progress { revision: watch::channel(0).0 }
    }

    /// Every commit up to this revision is in the cache.
    pub fn revision(&self) -> u64 {
        *self.revision.borrow()
    }

    fn advance(&self, revision: u64) {
        self.revision.send_if_modified(|now| {
            let later = revision > *now;
            *now = (*now).max(revision);
            later
        });
    }

    /// Waits until a revision is in the cache; false if that did not happen in time.
    pub async fn reach(&self, revision: u64, within: Duration) -> bool {
        if self.revision() >= revision {
            return true;
        }
        let mut rx = self.revision.subscribe();
        tokio::time::timeout(within, rx.wait_for(|now| *now >= revision)).await.is_ok_and(|r| r.is_ok())
    }
}

/// The caches of all stored resources.
pub struct Caches {
    store: Arc<dyn Store>,
    kinds: Vec<Arc<dyn Kind>>,
    by_prefix: ArcSwap<ByPrefix>,
    progress: Arc<Progress>,
    stop: CancellationToken,
}

/// The caches that follow a prefix: one, but two while one takes the place of the other ([`Caches::follow`]).
type ByPrefix = HashMap<String, Vec<Arc<WatchCache>>>;

/// Whether objects of a kind are stored (review kinds are not).
pub fn is_stored(kind: &dyn Kind) -> bool {
    let info = kind.info();
    info.verbs.contains(&"watch") && !info.storage_prefix.is_empty()
}

impl Caches {
    /// Loads everything from the store and follows it from then on. Ends when the last clone is dropped or
    /// [`Caches::stop`] is called.
    pub async fn open(store: Arc<dyn Store>, kinds: Vec<Arc<dyn Kind>>) -> Result<Arc<Caches>, Error> {
        let progress = Arc::new(Progress::new());
        let mut by_prefix = ByPrefix::new();
        for kind in kinds.iter().filter(|k| is_stored(&***k)) {
            let prefix = kind.info().storage_prefix.to_string();
            // Of several views of one storage the first listed is the stored form.
            by_prefix
                .entry(prefix.clone())
                .or_insert_with(|| vec![Arc::new(WatchCache::new(prefix, kind.clone(), progress.clone(), None))]);
        }
        let by_prefix = ArcSwap::from_pointee(by_prefix);
        let stop = CancellationToken::new();
        let caches = Arc::new(Caches { store, kinds, by_prefix, progress, stop });
        let from = dispatch::load(&caches).await?;
        tokio::spawn(dispatch::run(Arc::downgrade(&caches), from, caches.stop.clone()));
        Ok(caches)
    }

    /// The store behind.
    pub fn store(&self) -> &Arc<dyn Store> {
        &self.store
    }

    /// The kinds served from the start on. Those of custom resources come and go ([`Caches::follow`]).
    pub fn kinds(&self) -> &[Arc<dyn Kind>] {
        &self.kinds
    }

    /// The cache of a storage prefix.
    pub fn cache(&self, prefix: &str) -> Option<Arc<WatchCache>> {
        self.by_prefix.load().get(prefix)?.first().cloned()
    }

    /// Follows the objects of another kind from now on. What `intake` makes of a record is what the cache holds. A
    /// cache that follows the same prefix already goes on until it is forgotten ([`Caches::forget`]).
    pub async fn follow(&self, kind: Arc<dyn Kind>, intake: Intake) -> Result<Arc<WatchCache>, Error> {
        let prefix = kind.info().storage_prefix.to_string();
        let cache = Arc::new(WatchCache::loading(prefix.clone(), kind, self.progress.clone(), intake));
        // What is committed from here on waits in the cache until what stands has been read.
        self.change(|all| all.entry(prefix.clone()).or_default().push(cache.clone()));
        match dispatch::load_one(self, &cache).await {
            Ok(()) => Ok(cache),
            Err(error) => {
                self.forget(&cache);
                Err(error)
            }
        }
    }

    /// Ceases to follow the objects of a kind; watches of them end.
    pub fn forget(&self, cache: &Arc<WatchCache>) {
        self.change(|all| {
            if let Some(list) = all.get_mut(&cache.prefix) {
                list.retain(|c| !Arc::ptr_eq(c, cache));
            }
            all.retain(|_, list| !list.is_empty());
        });
        cache.close();
    }

    fn change(&self, change: impl Fn(&mut ByPrefix)) {
        self.by_prefix.rcu(|now| {
            let mut next = ByPrefix::clone(now);
            change(&mut next);
            next
        });
    }

    /// How far the cache is.
    pub fn progress(&self) -> &Progress {
        &self.progress
    }

    /// The read handle for plugins, authorizers and handlers.
    pub fn reader(self: &Arc<Self>) -> Reader {
        Reader::new(self.clone())
    }

    /// Waits until the cache holds every commit acknowledged before the call. The revision it then has at least.
    pub async fn fresh(&self) -> Result<u64, Error> {
        let now = self.store.current_revision().await?.0;
        if self.progress.reach(now, Duration::from_secs(3)).await {
            Ok(now)
        } else {
            Err(Error::Unavailable(format!("the cache has not reached revision {now} in time")))
        }
    }

    /// Ends following the store; watchers end.
    pub fn stop(&self) {
        self.stop.cancel();
    }
}

impl Drop for Caches {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}
