//! Loads the caches from the store and applies its changes.

use std::sync::{Arc, Weak};
use std::time::Duration;

use futures_util::StreamExt;
use orkd_store::{Error, EventKind, RangeRequest, Revision, WatchMessage, WatchStream};
use tokio_util::sync::CancellationToken;
use tracing::{error, warn};

use super::Caches;
use super::watch_cache::{Map, WatchCache};

/// All keys of Kubernetes objects begin with this.
pub const ROOT: &str = "/registry/";
const PAGE: usize = 5000;
/// How often histories are looked through that nothing is added to.
const SWEEP: Duration = Duration::from_secs(60);

/// Reads everything at one revision into the caches. The revision.
pub(super) async fn load(caches: &Caches) -> Result<Revision, Error> {
    let mut maps: std::collections::HashMap<&str, Map> = caches.by_prefix.keys().map(|p| (&**p, Map::new())).collect();
    let mut request = RangeRequest { prefix: ROOT.into(), limit: PAGE, ..RangeRequest::default() };
    let revision = loop {
        let page = caches.store.range(request.clone()).await?;
        for record in &page.records {
            let Some((cache, key)) = locate(caches, &record.key) else { continue };
            match cache.entry(key, &record.value, record.mod_revision.0) {
                Some(entry) => {
                    if let Some(map) = maps.get_mut(&*cache.prefix) {
                        map.insert(entry.key.clone(), Arc::new(entry));
                    }
                }
                None => error!(key = record.key, "a stored record cannot be read, it is left out"),
            }
        }
        match page.records.last() {
            Some(last) if page.more => {
                request.start = format!("{}\0", last.key);
                request.revision = Some(page.revision);
            }
            _ => break page.revision,
        }
    };
    for (prefix, map) in maps {
        if let Some(cache) = caches.by_prefix.get(prefix) {
            cache.reset(map, revision.0);
        }
    }
    caches.progress.advance(revision.0);
    Ok(revision)
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
    for cache in caches.by_prefix.values() {
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
                caches.upgrade()?.by_prefix.values().for_each(|cache| cache.trim());
                continue;
            }
        };
        let caches = caches.upgrade()?;
        match message {
            Some(Ok(WatchMessage::Events(events))) => {
                for event in events {
                    let revision = event.record.mod_revision;
                    *at = (*at).max(revision);
                    let Some((cache, key)) = locate(&caches, &event.record.key) else { continue };
                    match event.kind {
                        EventKind::Delete => cache.apply(key, None, revision.0),
                        EventKind::Put => match cache.changed(key, &event.record.value, revision.0) {
                            Some(entry) => cache.apply(key, Some(entry), revision.0),
                            None => {
                                error!(key = event.record.key, "a stored record cannot be read, it is left out");
                                cache.apply(key, None, revision.0);
                            }
                        },
                    }
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

/// The cache of a storage key and the key below its prefix. Prefixes have one part or two.
fn locate<'c, 'k>(caches: &'c Caches, key: &'k str) -> Option<(&'c Arc<WatchCache>, &'k str)> {
    let rest = key.strip_prefix(ROOT)?;
    let first = rest.find('/')?;
    if let Some(cache) = caches.by_prefix.get(&rest[..first]) {
        return Some((cache, &rest[first + 1..]));
    }
    let second = first + 1 + rest[first + 1..].find('/')?;
    Some((caches.by_prefix.get(&rest[..second])?, &rest[second + 1..]))
}
