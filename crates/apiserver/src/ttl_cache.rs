//! Answers that are believed for a while: of webhooks that authenticate and authorize.

use std::collections::HashMap;
use std::hash::Hash;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

/// A bounded map whose entries end. Full, it first drops what has ended, then everything.
pub(crate) struct TtlCache<K, V> {
    entries: Mutex<HashMap<K, (Instant, V)>>,
    capacity: usize,
}

impl<K: Hash + Eq, V: Clone> TtlCache<K, V> {
    pub(crate) fn new(capacity: usize) -> Self {
        TtlCache { entries: Mutex::default(), capacity }
    }

    /// What is known and has not ended.
    pub(crate) fn get(&self, key: &K, now: Instant) -> Option<V> {
        let entries = self.entries.lock();
        entries.get(key).filter(|(until, _)| now < *until).map(|(_, value)| value.clone())
    }

    /// Remembers for a time.
    pub(crate) fn put(&self, key: K, value: V, ttl: Duration, now: Instant) {
        if ttl.is_zero() {
            return;
        }
        let mut entries = self.entries.lock();
        if entries.len() >= self.capacity {
            entries.retain(|_, (until, _)| now < *until);
            if entries.len() >= self.capacity {
                entries.clear();
            }
        }
        entries.insert(key, (now + ttl, value));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_end_and_are_bounded() {
        let cache = TtlCache::new(2);
        let start = Instant::now();
        let at = |s: u64| start + Duration::from_secs(s);
        cache.put(1, "a", Duration::from_secs(10), at(0));
        assert_eq!(cache.get(&1, at(9)), Some("a"));
        assert_eq!(cache.get(&1, at(10)), None);
        cache.put(2, "b", Duration::from_secs(100), at(0));
        cache.put(3, "c", Duration::from_secs(100), at(11));
        assert_eq!((cache.get(&1, at(11)), cache.get(&2, at(11)), cache.get(&3, at(11))), (None, Some("b"), Some("c")));
        cache.put(4, "d", Duration::from_secs(100), at(12));
        assert_eq!((cache.get(&2, at(12)), cache.get(&4, at(12))), (None, Some("d")));
        cache.put(5, "e", Duration::ZERO, at(12));
        assert_eq!(cache.get(&5, at(12)), None);
    }
}
