//! The cache of one informer: objects by key, and indexes over them.

use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ops::Bound;
use std::sync::Arc;

use crate::{Event, Key, View};

type IndexFn<T> = Box<dyn Fn(&T) -> Vec<String> + Send + Sync>;
/// Where an index is defined.
type Place = &'static std::panic::Location<'static>;

pub(crate) struct Store<T> {
    objects: BTreeMap<Key, Arc<T>>,
    indexes: HashMap<&'static str, Index<T>>,
}

struct Index<T> {
    values_of: IndexFn<T>,
    objects: HashMap<String, BTreeSet<ByKey<T>>>,
    at: Place,
}

impl<T: View> Index<T> {
    fn add(&mut self, object: &Arc<T>) {
        for value in (self.values_of)(object) {
            self.objects.entry(value).or_default().replace(ByKey(object.clone()));
        }
    }

    fn remove(&mut self, object: &Arc<T>) {
        let by_key = ByKey(object.clone());
        for value in (self.values_of)(object) {
            if let Some(objects) = self.objects.get_mut(&value) {
                objects.remove(&by_key);
                if objects.is_empty() {
                    self.objects.remove(&value);
                }
            }
        }
    }
}

/// An object that stands for its key: an index needs a pointer for each.
struct ByKey<T>(Arc<T>);

impl<T: View> ByKey<T> {
    fn key(&self) -> (&str, &str) {
        let meta = self.0.meta();
        (&meta.namespace, &meta.name)
    }
}

impl<T: View> PartialEq for ByKey<T> {
    fn eq(&self, other: &Self) -> bool {
        self.key() == other.key()
    }
}

impl<T: View> Eq for ByKey<T> {}

impl<T: View> PartialOrd for ByKey<T> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl<T: View> Ord for ByKey<T> {
    fn cmp(&self, other: &Self) -> Ordering {
        self.key().cmp(&other.key())
    }
}

impl<T: View> Store<T> {
    pub(crate) fn new() -> Self {
        Store { objects: BTreeMap::new(), indexes: HashMap::new() }
    }

    /// Adds an index that is defined at a place in the program, unless there is one of the name; where that is defined.
    pub(crate) fn add_index(&mut self, name: &'static str, values_of: IndexFn<T>, at: Place) -> Place {
        if let Some(index) = self.indexes.get(name) {
            return index.at;
        }
        let mut index = Index { values_of, objects: HashMap::new(), at };
        for object in self.objects.values() {
            index.add(object);
        }
        self.indexes.insert(name, index);
        at
    }

    /// Stores an object. `None` when it is the version that is stored already.
    pub(crate) fn upsert(&mut self, object: Arc<T>) -> Option<Event<T>> {
        let key = object.meta().key();
        let old = self.objects.get(&key).cloned();
        if let Some(old) = &old {
            if old.meta().resource_version == object.meta().resource_version && old.meta().uid == object.meta().uid {
                return None;
            }
            for index in self.indexes.values_mut() {
                index.remove(old);
            }
        }
        for index in self.indexes.values_mut() {
            index.add(&object);
        }
        self.objects.insert(key, object.clone());
        Some(match old {
            None => Event::Added(object),
            Some(old) => Event::Updated { old, new: object },
        })
    }

    /// Removes an object; the event carries its last state.
    pub(crate) fn remove(&mut self, key: &Key, last: Option<Arc<T>>) -> Option<Event<T>> {
        let old = self.objects.remove(key)?;
        for index in self.indexes.values_mut() {
            index.remove(&old);
        }
        Some(Event::Deleted(last.unwrap_or(old)))
    }

    /// Makes the store hold exactly `objects`; gives the events of the difference, deletions first.
    pub(crate) fn replace(&mut self, objects: Vec<Arc<T>>) -> Vec<Event<T>> {
        let fresh: BTreeMap<Key, &Arc<T>> = objects.iter().map(|o| (o.meta().key(), o)).collect();
        let gone: Vec<Key> = self
            .objects
            .iter()
            .filter(|(key, old)| fresh.get(*key).is_none_or(|new| new.meta().uid != old.meta().uid))
            .map(|(key, _)| key.clone())
            .collect();
        drop(fresh);
        let mut events: Vec<Event<T>> = gone.iter().filter_map(|key| self.remove(key, None)).collect();
        events.extend(objects.into_iter().filter_map(|o| self.upsert(o)));
        events
    }

    pub(crate) fn get(&self, key: &Key) -> Option<Arc<T>> {
        self.objects.get(key).cloned()
    }

    pub(crate) fn list(&self) -> Vec<Arc<T>> {
        self.objects.values().cloned().collect()
    }

    pub(crate) fn list_namespace(&self, namespace: &str) -> Vec<Arc<T>> {
        let from = Key::new(namespace, "");
        self.objects
            .range((Bound::Included(from), Bound::Unbounded))
            .take_while(|(key, _)| &*key.namespace == namespace)
            .map(|(_, object)| object.clone())
            .collect()
    }

    pub(crate) fn by_index(&self, name: &str, value: &str) -> Option<Vec<Arc<T>>> {
        let index = self.indexes.get(name)?;
        Some(index.objects.get(value).into_iter().flatten().map(|object| object.0.clone()).collect())
    }

    pub(crate) fn index_values(&self, name: &str) -> Vec<String> {
        self.indexes.get(name).map(|index| index.objects.keys().cloned().collect()).unwrap_or_default()
    }

    pub(crate) fn len(&self) -> usize {
        self.objects.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Meta;
    use serde::Deserialize;

    #[derive(Debug, Deserialize)]
    struct Thing {
        metadata: Meta,
    }
    impl View for Thing {
        const GROUP: &'static str = "";
        const VERSION: &'static str = "v1";
        const KIND: &'static str = "Thing";
        const PLURAL: &'static str = "things";
        fn meta(&self) -> &Meta {
            &self.metadata
        }
    }

    fn thing(name: &str, uid: &str, rv: u64, colour: &str) -> Arc<Thing> {
        let json = format!(
            r#"{{"metadata":{{"namespace":"n","name":"{name}","uid":"{uid}","resourceVersion":"{rv}",
                "labels":{{"colour":"{colour}"}}}}}}"#
        );
        Arc::new(serde_json::from_str(&json).expect("a thing"))
    }

    fn text(event: &Event<Thing>) -> String {
        match event {
            Event::Added(o) => format!("+{}", o.metadata.name),
            Event::Updated { new, .. } => format!("~{}", new.metadata.name),
            Event::Deleted(o) => format!("-{}", o.metadata.name),
        }
    }

    fn names(objects: Vec<Arc<Thing>>) -> Vec<String> {
        objects.iter().map(|o| o.metadata.name.to_string()).collect()
    }

    #[test]
    fn a_relist_becomes_the_events_of_the_difference() {
        let mut store = Store::new();
        for o in [thing("same", "1", 1, "red"), thing("new", "2", 2, "red"), thing("gone", "3", 3, "red")] {
            assert!(store.upsert(o).is_some());
        }
        store.upsert(thing("twin", "4", 4, "red"));
        let events = store.replace(vec![
            thing("same", "1", 1, "red"),
            thing("new", "2", 9, "blue"),
            thing("twin", "5", 10, "blue"),
            thing("fresh", "6", 11, "blue"),
        ]);
        assert_eq!(events.iter().map(text).collect::<Vec<_>>(), ["-gone", "-twin", "~new", "+twin", "+fresh"]);
    }

    #[test]
    fn indexes_follow_changes() {
        let mut store = Store::new();
        store.upsert(thing("a", "1", 1, "red"));
        store.add_index(
            "colour",
            Box::new(|t: &Thing| t.metadata.label("colour").map(str::to_owned).into_iter().collect()),
            std::panic::Location::caller(),
        );
        store.upsert(thing("b", "2", 2, "red"));
        store.upsert(thing("a", "1", 3, "blue"));
        assert_eq!(store.by_index("colour", "red").map(names), Some(vec!["b".to_owned()]));
        assert_eq!(store.by_index("colour", "blue").map(names), Some(vec!["a".to_owned()]));
        store.remove(&Key::new("n", "a"), None);
        assert_eq!(store.by_index("colour", "blue").map(names), Some(vec![]));
        assert_eq!(store.index_values("colour"), ["red"]);
        assert!(store.by_index("size", "1").is_none());
        assert_eq!(names(store.list_namespace("n")), ["b"]);
        assert!(store.list_namespace("m").is_empty());
    }

    #[test]
    fn who_shares_an_informer_adds_the_same_index() {
        let things: crate::Informer<Thing> = crate::Informer::detached(crate::Resource::of::<Thing>());
        for _ in 0..2 {
            things.add_index("name", |t| vec![t.metadata.name.to_string()]);
        }
        things.apply(Arc::into_inner(thing("a", "1", 1, "red")).expect("the only one"));
        assert_eq!(things.by_index("name", "a").len(), 1);
    }

    #[test]
    #[should_panic(expected = "two indexes name")]
    fn two_indexes_of_a_name_are_a_mistake() {
        let things: crate::Informer<Thing> = crate::Informer::detached(crate::Resource::of::<Thing>());
        things.add_index("name", |t| vec![t.metadata.name.to_string()]);
        things.add_index("name", |_| Vec::new());
    }
}
