//! What authorizers that keep an index of their own are fed with: the changes of one resource, taken when a decision
//! is due. An authorizer is thereby as fresh as the watch cache, without a task of its own.

use std::sync::Arc;

use bytes::Bytes;

use crate::cache::{Changed, Changes, Reader};

/// A change of one object.
#[derive(Clone, Debug)]
pub enum Change {
    /// Everything known before is void; what stands now follows as `Put`s.
    Reset,
    /// An object is new or changed: its key below the resource (`NAMESPACE/NAME` or `NAME`) and its JSON.
    Put(Arc<str>, Bytes),
    /// An object is gone.
    Delete(Arc<str>),
}

/// The changes of one resource in order, none lost.
pub trait Feed: Send + 'static {
    /// The next change that is there already; `None` while there is none.
    fn ready(&mut self) -> Option<Change>;
}

impl Feed for Changes {
    fn ready(&mut self) -> Option<Change> {
        Some(match Changes::ready(self)? {
            Changed::Reset => Change::Reset,
            Changed::Put { new, .. } => Change::Put(Arc::clone(&new.key), new.json().clone()),
            Changed::Delete { old } => Change::Delete(Arc::clone(&old.key)),
        })
    }
}

/// A feed of a resource that is not served: there are no changes.
pub struct Nothing;

impl Feed for Nothing {
    fn ready(&mut self) -> Option<Change> {
        None
    }
}

/// The feed of a resource.
pub fn of(reader: &Reader, group: &str, resource: &str) -> Box<dyn Feed> {
    match reader.subscribe(group, resource) {
        Some(changes) => Box::new(changes),
        None => Box::new(Nothing),
    }
}

/// A key's namespace (empty for cluster-wide objects) and name.
pub fn split(key: &str) -> (&str, &str) {
    key.split_once('/').unwrap_or(("", key))
}

#[cfg(test)]
pub(crate) mod fake {
    use std::collections::VecDeque;
    use std::sync::Arc;

    use parking_lot::Mutex;
    use serde_json::Value;

    use super::{Change, Feed};

    /// A feed that a test writes to.
    #[derive(Clone, Default)]
    pub(crate) struct FakeFeed(Arc<Mutex<VecDeque<Change>>>);

    impl FakeFeed {
        pub(crate) fn put(&self, object: Value) {
            let meta = |f: &str| object["metadata"][f].as_str().unwrap_or_default().to_owned();
            let key = match meta("namespace").as_str() {
                "" => meta("name"),
                ns => format!("{ns}/{}", meta("name")),
            };
            self.0.lock().push_back(Change::Put(key.into(), object.to_string().into()));
        }

        pub(crate) fn delete(&self, key: &str) {
            self.0.lock().push_back(Change::Delete(key.into()));
        }

        pub(crate) fn reset(&self) {
            self.0.lock().push_back(Change::Reset);
        }
    }

    impl Feed for FakeFeed {
        fn ready(&mut self) -> Option<Change> {
            self.0.lock().pop_front()
        }
    }
}
