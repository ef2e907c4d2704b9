//! Whether the caches have seen what a controller did.
//!
//! Upstream counts expected events (`ControllerExpectations`). We remember the versions that our creations were
//! answered with, and the uids that we deleted: the cache is fresh when it has seen the highest version and holds
//! none of the deleted objects alive. After five minutes memory yields to the cache, as upstream's does.

use std::collections::{HashMap, HashSet};

use jiff::Timestamp;
use orkd_reconcile::Key;
use parking_lot::Mutex;

/// What a controller did lately, for each of its objects.
#[derive(Default)]
pub struct Freshness(Mutex<HashMap<Key, Deeds>>);

#[derive(Default)]
struct Deeds {
    version: u64,
    deleted: HashSet<String>,
    at: Timestamp,
}

/// How long memory counts.
const TRUST_SECONDS: i64 = 300;

impl Freshness {
    /// Notes that an object was created or changed, at a version.
    pub fn wrote(&self, key: &Key, version: u64, now: Timestamp) {
        let mut all = self.0.lock();
        let deeds = all.entry(key.clone()).or_default();
        deeds.version = deeds.version.max(version);
        deeds.at = now;
    }

    /// Notes that an object is about to be deleted.
    pub fn deleting(&self, key: &Key, uid: &str, now: Timestamp) {
        let mut all = self.0.lock();
        let deeds = all.entry(key.clone()).or_default();
        deeds.deleted.insert(uid.to_owned());
        deeds.at = now;
    }

    /// Notes that a deletion failed.
    pub fn not_deleted(&self, key: &Key, uid: &str) {
        if let Some(deeds) = self.0.lock().get_mut(key) {
            deeds.deleted.remove(uid);
        }
    }

    /// Whether the cache, which has `seen` a version and holds `alive` uids that are not being deleted, knows all
    /// deeds. What is known is forgotten.
    pub fn is_fresh<'a>(&self, key: &Key, seen: u64, alive: impl Iterator<Item = &'a str>, now: Timestamp) -> bool {
        let mut all = self.0.lock();
        let Some(deeds) = all.get_mut(key) else { return true };
        let alive: HashSet<&str> = alive.collect();
        deeds.deleted.retain(|uid| alive.contains(uid.as_str()));
        let known = deeds.version <= seen && deeds.deleted.is_empty();
        if known || now.as_second() - deeds.at.as_second() > TRUST_SECONDS {
            all.remove(key);
            return true;
        }
        false
    }

    /// Forgets an object.
    pub fn forget(&self, key: &Key) {
        self.0.lock().remove(key);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cache_is_stale_until_it_has_seen_all_deeds() {
        let (freshness, key, now) = (Freshness::default(), Key::new("n", "rs"), Timestamp::UNIX_EPOCH);
        assert!(freshness.is_fresh(&key, 0, std::iter::empty(), now));
        freshness.wrote(&key, 7, now);
        freshness.deleting(&key, "a", now);
        assert!(!freshness.is_fresh(&key, 6, std::iter::empty(), now), "version 7 has not been seen");
        freshness.deleting(&key, "a", now);
        assert!(!freshness.is_fresh(&key, 7, ["a"].into_iter(), now), "a is alive");
        assert!(freshness.is_fresh(&key, 7, ["b"].into_iter(), now));
        freshness.wrote(&key, 9, now);
        let later = Timestamp::from_second(301).expect("a time");
        assert!(freshness.is_fresh(&key, 7, std::iter::empty(), later), "memory yields");
    }
}
