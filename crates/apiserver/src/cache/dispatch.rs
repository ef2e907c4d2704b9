//! Loads the caches from the store and applies its changes.

use std::collections::HashMap;
use std::sync::{Arc, Weak};
use std::time::Duration;

use futures_util::StreamExt;
use orkd_store::{Error, Event, EventKind, RangeRequest, Record, Revision, WatchMessage, WatchStream};
use tokio_util::sync::CancellationToken;
use tracing::{error, warn};

use super::entry::Entry;
use super::watch_cache::{Map, WatchCache};
use super::{ByPrefix, Caches};

/// All keys of Kubernetes objects begin with this.
pub const ROOT: &str = "/registry/";
const PAGE: usize = 5000;
/// How often histories are looked through that nothing is added to.
const SWEEP: Duration = Duration::from_secs(60);

/// Reads everything at one revision into the caches. The revision.
pub(super) async fn load(caches: &Caches) -> Result<Revision, Error> {
    let all = caches.by_prefix.load_full();
    let mut maps: HashMap<&str, Vec<Map>> =
        all.iter().map(|(prefix, following)| (&**prefix, vec![Map::new(); following.len()])).collect();
    let revision = read(caches, ROOT.to_owned(), |record| {
        let Some((following, key)) = locate(&all, &record.key) else { return };
        for (i, cache) in following.iter().enumerate() {
            if let (Some(entry), Some(maps)) = (entry(cache, key, record), maps.get_mut(&*cache.prefix)) {
                maps[i].insert(entry.key.clone(), Arc::new(entry));
            }
        }
    })
    .await?;
    for (prefix, maps) in maps {
        for (cache, map) in all.get(prefix).into_iter().flatten().zip(maps) {
            cache.reset(map, revision.0);
        }
    }
    caches.progress.advance(revision.0);
    Ok(revision)
}

/// Reads what one cache is to hold.
pub(super) async fn load_one(caches: &Caches, cache: &WatchCache) -> Result<(), Error> {
    let prefix = format!("{ROOT}{}/", cache.prefix);
    let mut map = Map::new();
    let revision = read(caches, prefix.clone(), |record| {
        let key = record.key.strip_prefix(&prefix).unwrap_or_default();
        if let Some(entry) = entry(cache, key, record) {
            map.insert(entry.key.clone(), Arc::new(entry));
        }
    })
    .await?;
    cache.loaded(map, revision.0);
    Ok(())
}

/// Goes through everything under a prefix at one revision. The revision.
async fn read(caches: &Caches, prefix: String, mut take: impl FnMut(&Record)) -> Result<Revision, Error> {
    let mut request = RangeRequest { prefix, limit: PAGE, ..RangeRequest::default() };
    loop {
        let page = caches.store.range(request.clone()).await?;
        page.records.iter().for_each(&mut take);
        match page.records.last() {
            Some(last) if page.more => {
                request.start = format!("{}\0", last.key);
                request.revision = Some(page.revision);
            }
            _ => return Ok(page.revision),
        }
    }
}

fn entry(cache: &WatchCache, key: &str, record: &Record) -> Option<Entry> {
    let entry = cache.entry(key, &record.value, record.mod_revision.0);
    if entry.is_none() {
        error!(key = record.key, "a stored record cannot be read, it is left out");
    }
    entry
}

/// Follows the store until told to stop. After a break it goes on where it was; where the store has forgotten
/// that, it loads anew.
pub(super) async fn run(caches: Weak<Caches>, from: Revision, stop: CancellationToken) {
    let mut at = from;
    let mut pause = Duration::from_millis(50);
    loop {
        let Some(strong) = caches.upgrade() else { return };
        let started = tokio::select! {
            biased;
            () = stop.cancelled() => return,
            started = strong.store.watch(ROOT, at) => started,
        };
        drop(strong);
        let why = match started {
            Ok(stream) => {
                pause = Duration::from_millis(50);
                match follow(&caches, stream, &mut at, &stop).await {
                    None => return,
                    Some(why) => why,
                }
            }
            Err(why) => why,
        };
        let Some(strong) = caches.upgrade() else { return };
        match why {
            Error::Closed => return end(&strong),
            Error::Compacted { .. } | Error::Slow => {
                warn!(error = %why, "the store's history was lost, loading anew");
                match load(&strong).await {
                    Ok(revision) => {
                        at = revision;
                        continue;
                    }
                    Err(error) => warn!(%error, "loading from the store failed"),
                }
            }
            why => warn!(error = %why, "watching the store failed"),
        }
        drop(strong);
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(pause) => pause = (pause * 2).min(Duration::from_secs(5)),
        }
    }
}

fn end(caches: &Caches) {
    for cache in caches.by_prefix.load().values().flatten() {
        cache.end_watchers();
    }
}

/// Applies what the stream says. The error that ended it; `None` when told to stop.
async fn follow(
    caches: &Weak<Caches>,
    mut stream: WatchStream,
    at: &mut Revision,
    stop: &CancellationToken,
) -> Option<Error> {
    let mut sweep = tokio::time::interval_at(tokio::time::Instant::now() + SWEEP, SWEEP);
    sweep.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        let message = tokio::select! {
            biased;
            () = stop.cancelled() => {
                if let Some(caches) = caches.upgrade() {
                    end(&caches);
                }
                return None;
            }
            message = stream.next() => message,
            _ = sweep.tick() => {
                caches.upgrade()?.by_prefix.load().values().flatten().for_each(|cache| cache.trim());
                continue;
            }
        };
        let caches = caches.upgrade()?;
        match message {
            Some(Ok(WatchMessage::Events(events))) => {
                let all = caches.by_prefix.load();
                for event in events {
                    *at = (*at).max(event.record.mod_revision);
                    let Some((following, key)) = locate(&all, &event.record.key) else { continue };
                    following.iter().for_each(|cache| apply(cache, key, &event));
                }
                caches.progress.advance(at.0);
            }
            Some(Ok(WatchMessage::Progress(revision))) => {
                *at = (*at).max(revision);
                caches.progress.advance(at.0);
            }
            Some(Err(error)) => return Some(error),
            None => return Some(Error::Unavailable("the watch ended".into())),
        }
    }
}

fn apply(cache: &WatchCache, key: &str, event: &Event) {
    let revision = event.record.mod_revision.0;
    match event.kind {
        EventKind::Delete => cache.apply(key, None, revision),
        EventKind::Put => match cache.changed(key, &event.record.value, revision) {
            Some(entry) => cache.apply(key, Some(entry), revision),
            None => {
                error!(key = event.record.key, "a stored record cannot be read, it is left out");
                cache.apply(key, None, revision);
            }
        },
    }
}

/// The caches that follow a storage key, and the key below their prefix. Prefixes have one part or two.
fn locate<'c, 'k>(all: &'c ByPrefix, key: &'k str) -> Option<(&'c [Arc<WatchCache>], &'k str)> {
    let rest = key.strip_prefix(ROOT)?;
    let first = rest.find('/')?;
    if let Some(following) = all.get(&rest[..first]) {
        return Some((following, &rest[first + 1..]));
    }
    let second = first + 1 + rest[first + 1..].find('/')?;
    Some((all.get(&rest[..second])?, &rest[second + 1..]))
}
