//! Values that many objects have in common, kept once.
//!
//! The pods of a replica set have the same labels, owners and tolerations, those of a node the same node; a cluster has
//! some hundreds of such values and 150,000 pods. A view that holds them as [`Shared`] costs a pointer for each.
//!
//! A type is kept in a pool of its own ([`Common`]); what nobody holds any more is swept out of it when it has doubled, so
//! that a pool is at most twice as large as what is in use.

use std::borrow::Borrow;
use std::collections::{BTreeMap, HashSet};
use std::fmt;
use std::hash::{Hash, Hasher};
use std::ops::Deref;
use std::sync::{Arc, LazyLock};

use parking_lot::Mutex;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::OwnerRef;

/// A value that is kept once however often it occurs. Cheap to clone and to compare; made from a value by `into`.
pub struct Shared<T>(Arc<T>);

/// A type whose equal values are kept once; [`common`](crate::common) implements it.
pub trait Common: Eq + Hash + Default + Send + Sync + 'static {
    /// Where they are kept.
    fn pool() -> &'static Pool<Self>;
}

/// Makes types [`Common`]: `common!(BTreeMap<String, String>, Vec<OwnerRef>);`
#[macro_export]
macro_rules! common {
    ($($ty:ty),+ $(,)?) => {
        $(impl $crate::Common for $ty {
            fn pool() -> &'static $crate::Pool<Self> {
                static POOL: std::sync::LazyLock<$crate::Pool<$ty>> = std::sync::LazyLock::new($crate::Pool::new);
                &POOL
            }
        })+
    };
}

common!(String, BTreeMap<String, String>, Vec<OwnerRef>, Vec<String>);

/// Holds each value of a type once.
pub struct Pool<T> {
    /// The value that most objects have where they have none; it is found without a lock.
    default: Arc<T>,
    kept: Mutex<Kept<Arc<T>>>,
}

struct Kept<A> {
    values: HashSet<A>,
    /// The size at which those are swept out that nobody else holds.
    sweep_at: usize,
}

/// The size below which a pool is not swept.
const SWEEP_LEAST: usize = 1024;

impl<A: Eq + Hash + Clone> Kept<A> {
    fn new() -> Self {
        Kept { values: HashSet::new(), sweep_at: SWEEP_LEAST }
    }

    /// The value that is kept already, or this one from now on.
    fn keep<Q>(&mut self, value: Q, make: impl FnOnce(Q) -> A, is_held: impl Fn(&A) -> bool) -> A
    where
        A: Borrow<Q>,
        Q: Eq + Hash,
    {
        if let Some(kept) = self.values.get(&value) {
            return kept.clone();
        }
        let kept = make(value);
        self.add(kept, is_held)
    }

    fn add(&mut self, value: A, is_held: impl Fn(&A) -> bool) -> A {
        if self.values.len() >= self.sweep_at {
            self.values.retain(is_held);
            self.values.shrink_to(2 * self.values.len());
            self.sweep_at = (2 * self.values.len()).max(SWEEP_LEAST);
        }
        self.values.insert(value.clone());
        value
    }
}

impl<T: Eq + Hash + Default> Pool<T> {
    /// An empty one.
    #[expect(clippy::new_without_default, reason = "only `common!` makes pools")]
    pub fn new() -> Self {
        Pool { default: Arc::default(), kept: Mutex::new(Kept::new()) }
    }

    fn keep(&self, value: T) -> Arc<T> {
        if value == *self.default {
            return self.default.clone();
        }
        self.kept.lock().keep(value, Arc::new, |held| Arc::strong_count(held) > 1)
    }
}

impl<T> Clone for Shared<T> {
    fn clone(&self) -> Self {
        Shared(self.0.clone())
    }
}

impl<T> Deref for Shared<T> {
    type Target = T;
    fn deref(&self) -> &T {
        &self.0
    }
}

impl<T: Common> From<T> for Shared<T> {
    fn from(value: T) -> Self {
        Shared(T::pool().keep(value))
    }
}

impl From<&str> for Shared<String> {
    fn from(text: &str) -> Self {
        text.to_owned().into()
    }
}

impl<const N: usize> From<[(String, String); N]> for Shared<BTreeMap<String, String>> {
    fn from(pairs: [(String, String); N]) -> Self {
        BTreeMap::from(pairs).into()
    }
}

impl<T: Common> Default for Shared<T> {
    fn default() -> Self {
        Shared(T::pool().default.clone())
    }
}

impl<T: Common> PartialEq for Shared<T> {
    /// Equal values are one value.
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl<T: Common> Eq for Shared<T> {}

impl PartialEq<str> for Shared<String> {
    fn eq(&self, other: &str) -> bool {
        **self == *other
    }
}

impl PartialEq<&str> for Shared<String> {
    fn eq(&self, other: &&str) -> bool {
        **self == **other
    }
}

impl<T: Common + Ord> PartialOrd for Shared<T> {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl<T: Common + Ord> Ord for Shared<T> {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.0.cmp(&other.0)
    }
}

impl<T: Common> Hash for Shared<T> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.0.hash(state);
    }
}

impl Borrow<str> for Shared<String> {
    fn borrow(&self) -> &str {
        self
    }
}

impl<T: fmt::Debug> fmt::Debug for Shared<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl<T: fmt::Display> fmt::Display for Shared<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl<'a, T> IntoIterator for &'a Shared<T>
where
    &'a T: IntoIterator,
{
    type Item = <&'a T as IntoIterator>::Item;
    type IntoIter = <&'a T as IntoIterator>::IntoIter;
    fn into_iter(self) -> Self::IntoIter {
        (&**self).into_iter()
    }
}

impl<'de, T: Common + Deserialize<'de>> Deserialize<'de> for Shared<T> {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        // `null` where a list or an object may stand is none of it.
        Ok(Option::<T>::deserialize(d)?.map(Shared::from).unwrap_or_default())
    }
}

impl<T: Serialize> Serialize for Shared<T> {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        self.0.serialize(s)
    }
}

/// Texts that many objects have in common, such as namespaces: `#[serde(deserialize_with = "shared_text")]`.
pub fn shared_text<'de, D: Deserializer<'de>>(d: D) -> Result<Arc<str>, D::Error> {
    struct Text;
    impl serde::de::Visitor<'_> for Text {
        type Value = Arc<str>;
        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a string")
        }
        fn visit_str<E>(self, text: &str) -> Result<Arc<str>, E> {
            let mut texts = TEXTS.lock();
            if let Some(kept) = texts.values.get(text) {
                return Ok(kept.clone());
            }
            Ok(texts.add(text.into(), |held| Arc::strong_count(held) > 1))
        }
    }
    d.deserialize_str(Text)
}

static TEXTS: LazyLock<Mutex<Kept<Arc<str>>>> = LazyLock::new(|| Mutex::new(Kept::new()));

#[cfg(test)]
mod tests {
    use super::*;

    type Labels = BTreeMap<String, String>;

    fn labels(json: &str) -> Shared<Labels> {
        serde_json::from_str(json).expect("labels")
    }

    #[test]
    fn equal_values_are_one() {
        let (a, b) = (labels(r#"{"app":"x"}"#), labels(r#"{ "app": "x" }"#));
        assert!(a == b && std::ptr::eq(&*a, &*b));
        assert!(a != labels(r#"{"app":"y"}"#));
        assert!(labels("null") == Shared::default() && labels("{}").is_empty());
        assert_eq!(serde_json::to_string(&a).expect("json"), r#"{"app":"x"}"#);
        let text: Shared<String> = "Running".into();
        assert!(text == "Running" && text == Shared::from("Running".to_owned()) && text != "Failed");
    }

    #[test]
    fn what_nobody_holds_is_swept_out() {
        let mut kept: Kept<Arc<u64>> = Kept::new();
        let is_held = |a: &Arc<u64>| Arc::strong_count(a) > 1;
        let held: Vec<_> = (0..10).map(|n| kept.keep(n, Arc::new, is_held)).collect();
        for n in 10..100_000 {
            kept.keep(n, Arc::new, is_held);
        }
        assert!(kept.values.len() <= SWEEP_LEAST, "{}", kept.values.len());
        for (n, value) in (0..).zip(&held) {
            assert!(Arc::ptr_eq(value, &kept.keep(n, Arc::new, is_held)), "{n} is held and must be the same");
        }
    }

    #[test]
    fn namespaces_are_kept_once() {
        #[derive(Deserialize)]
        struct In {
            #[serde(deserialize_with = "shared_text")]
            namespace: Arc<str>,
        }
        let read = |json: &str| serde_json::from_str::<In>(json).expect("json").namespace;
        let (plain, escaped) = (read(r#"{"namespace":"shop"}"#), read(r#"{"namespace":"sh\u006fp"}"#));
        assert!(Arc::ptr_eq(&plain, &escaped) && &*plain == "shop");
    }
}
