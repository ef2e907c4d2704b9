//! Configurations, compiled, as fresh as the watch cache: their changes are taken in when a request comes by.

use std::collections::BTreeMap;
use std::sync::Arc;

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use serde_json::Value;

use super::policy::{Binding, Body, Policy};
use crate::authz::feed::{Change, Feed};

/// The objects of one resource, each made into a `T` once a generation.
pub struct Compiled<T> {
    feed: Box<dyn Feed>,
    make: Make<T>,
    objects: BTreeMap<Arc<str>, (Generation, Arc<T>)>,
}

type Make<T> = Box<dyn Fn(&Value) -> T + Send + Sync>;

/// What changes when an object says something else: its uid and generation.
type Generation = (String, i64);

fn generation(object: &Value) -> Generation {
    let meta = &object["metadata"];
    (meta["uid"].as_str().unwrap_or_default().to_owned(), meta["generation"].as_i64().unwrap_or(0))
}

impl<T> Compiled<T> {
    /// Nothing yet; `feed` brings the objects.
    pub fn new(feed: Box<dyn Feed>, make: impl Fn(&Value) -> T + Send + Sync + 'static) -> Self {
        Compiled { feed, make: Box::new(make), objects: BTreeMap::new() }
    }

    /// Takes in the changes that are there. Whether anything that counts has changed.
    pub fn sync(&mut self) -> bool {
        let mut changed = false;
        while let Some(change) = self.feed.ready() {
            changed |= match change {
                Change::Reset => !std::mem::take(&mut self.objects).is_empty(),
                Change::Delete(key) => self.objects.remove(&key).is_some(),
                Change::Put(key, json) => {
                    // What is in the cache is JSON.
                    let object = serde_json::from_slice(&json).unwrap_or_default();
                    let generation = generation(&object);
                    let known = self.objects.get(&key).is_some_and(|(g, _)| *g == generation);
                    if !known {
                        self.objects.insert(key, (generation, Arc::new((self.make)(&object))));
                    }
                    !known
                }
            };
        }
        changed
    }

    /// The objects by name.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<T>> {
        self.objects.values().map(|(_, made)| made)
    }
}

/// A policy that is bound, with its bindings by name.
#[derive(Debug)]
pub struct Hook<B> {
    /// The policy.
    pub policy: Arc<Policy<B>>,
    /// Its bindings.
    pub bindings: Vec<Arc<Binding>>,
}

/// The bound policies of one kind.
pub struct Hooks<B> {
    sources: Mutex<(Compiled<Policy<B>>, Compiled<Binding>)>,
    joined: ArcSwap<Vec<Hook<B>>>,
}

impl<B: Body> Hooks<B> {
    /// None yet; the feeds bring policies and bindings.
    pub fn new(policies: Box<dyn Feed>, bindings: Box<dyn Feed>) -> Self {
        let sources = (Compiled::new(policies, Policy::new), Compiled::new(bindings, Binding::new));
        Hooks { sources: Mutex::new(sources), joined: ArcSwap::default() }
    }

    /// Those there are now, by the names of the policies.
    pub fn now(&self) -> Arc<Vec<Hook<B>>> {
        let mut sources = self.sources.lock();
        let (policies, bindings) = &mut *sources;
        if policies.sync() | bindings.sync() {
            let bound = |policy: &Arc<Policy<B>>| {
                let of = |binding: &&Arc<Binding>| binding.policy == policy.name;
                let bindings: Vec<_> = bindings.iter().filter(of).cloned().collect();
                (!bindings.is_empty()).then(|| Hook { policy: policy.clone(), bindings })
            };
            self.joined.store(Arc::new(policies.iter().filter_map(bound).collect()));
        }
        self.joined.load_full()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::policy::Envs;
    use super::*;
    use crate::authz::feed::fake::FakeFeed;

    struct Text(String);

    impl Body for Text {
        const POLICIES: &'static str = "policies";
        const BINDINGS: &'static str = "bindings";

        fn compile(spec: &Value, _: &Envs) -> Self {
            Text(spec["text"].as_str().unwrap_or_default().to_owned())
        }
    }

    #[test]
    fn policies_follow_the_cache_and_are_compiled_once_a_generation() {
        let (policies, bindings) = (FakeFeed::default(), FakeFeed::default());
        let hooks: Hooks<Text> = Hooks::new(Box::new(policies.clone()), Box::new(bindings.clone()));
        let policy = |name: &str, generation: i64, text: &str| {
            policies.put(
                json!({"metadata": {"name": name, "uid": name, "generation": generation}, "spec": {"text": text}}),
            );
        };
        let bind = |name: &str, policy: &str| {
            bindings.put(json!({"metadata": {"name": name, "uid": name}, "spec": {"policyName": policy}}));
        };
        let shown = || -> Vec<String> {
            let one = |hook: &Hook<Text>| {
                let names: Vec<&str> = hook.bindings.iter().map(|b| &*b.name).collect();
                format!("{} {} {}", hook.policy.name, hook.policy.body.0, names.join(","))
            };
            hooks.now().iter().map(one).collect()
        };
        assert_eq!(shown(), [""; 0]);
        policy("b", 1, "one");
        policy("a", 1, "two");
        assert_eq!(shown(), [""; 0], "nothing is bound");
        bind("y", "b");
        bind("x", "b");
        bind("z", "none");
        assert_eq!(shown(), ["b one x,y"]);
        bind("w", "a");
        policy("b", 1, "a change of status");
        assert_eq!(shown(), ["a two w", "b one x,y"]);
        policy("b", 2, "three");
        bindings.delete("x");
        assert_eq!(shown(), ["a two w", "b three y"]);
        policies.reset();
        policy("a", 1, "two");
        assert_eq!(shown(), ["a two w"]);
    }
}
