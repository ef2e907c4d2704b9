//! Reads of objects by plugins, authenticators and authorizers, as a seam: the watch cache in production, a map in
//! tests.

use std::sync::Arc;

use async_trait::async_trait;
use orkd_api::status::Status;
use serde_json::Value;

use crate::cache::Reader;
use crate::registry;

/// Reads objects. What it tells is as old as the watch cache, which holds every write this server has answered;
/// [`Objects::fresh`] makes it linearizable.
#[async_trait]
pub trait Objects: Send + Sync + 'static {
    /// One object; `namespace` is empty for cluster-wide resources.
    fn get(&self, group: &str, resource: &str, namespace: &str, name: &str) -> Option<Arc<Value>>;

    /// A label of an object, without reading the rest of it. The outer `None`: there is no such object.
    fn label(&self, group: &str, resource: &str, namespace: &str, name: &str, label: &str) -> Option<Option<String>> {
        let object = self.get(group, resource, namespace, name)?;
        Some(object["metadata"]["labels"].get(label).and_then(Value::as_str).map(str::to_owned))
    }

    /// A field that objects are selected by, without reading the rest of the object; empty where it is unset. `None`: there
    /// is no such object.
    fn field(&self, group: &str, resource: &str, namespace: &str, name: &str, field: &str) -> Option<String> {
        let object = self.get(group, resource, namespace, name)?;
        let found = field.split('.').try_fold(&*object, |value, name| value.get(name));
        Some(found.and_then(Value::as_str).unwrap_or_default().to_owned())
    }

    /// All objects of a resource, or those of one namespace, ordered by key.
    fn list(&self, group: &str, resource: &str, namespace: Option<&str>) -> Vec<Arc<Value>>;

    /// Waits until everything acknowledged before the call can be read.
    async fn fresh(&self) -> Result<(), Status>;
}

/// A handle on objects.
pub type Lookup = Arc<dyn Objects>;

#[async_trait]
impl Objects for Reader {
    fn get(&self, group: &str, resource: &str, namespace: &str, name: &str) -> Option<Arc<Value>> {
        Reader::get(self, group, resource, namespace, name).map(|e| Arc::new(e.decode()))
    }

    fn label(&self, group: &str, resource: &str, namespace: &str, name: &str, label: &str) -> Option<Option<String>> {
        let entry = Reader::get(self, group, resource, namespace, name)?;
        Some(entry.label(label).map(str::to_owned))
    }

    fn field(&self, group: &str, resource: &str, namespace: &str, name: &str, field: &str) -> Option<String> {
        let entry = Reader::get(self, group, resource, namespace, name)?;
        Some(entry.field(field).unwrap_or_default().to_owned())
    }

    fn list(&self, group: &str, resource: &str, namespace: Option<&str>) -> Vec<Arc<Value>> {
        Reader::list(self, group, resource, namespace).into_iter().map(|e| Arc::new(e.decode())).collect()
    }

    async fn fresh(&self) -> Result<(), Status> {
        Reader::fresh(self).await.map_err(|e| registry::store_error(&e))
    }
}

/// One object, where needed after waiting for the cache: a miss is only believed when the cache is fresh.
pub async fn get_fresh(
    objects: &dyn Objects,
    group: &str,
    resource: &str,
    namespace: &str,
    name: &str,
) -> Result<Option<Arc<Value>>, Status> {
    if let Some(found) = objects.get(group, resource, namespace, name) {
        return Ok(Some(found));
    }
    objects.fresh().await?;
    Ok(objects.get(group, resource, namespace, name))
}

/// Objects in a map, for tests.
#[cfg(test)]
pub(crate) mod fake {
    use std::collections::BTreeMap;
    use std::sync::Arc;

    use async_trait::async_trait;
    use orkd_api::status::Status;
    use parking_lot::Mutex;
    use serde_json::Value;

    use super::{Lookup, Objects};

    /// Objects by resource, namespace and name.
    #[derive(Default)]
    pub(crate) struct Fake(Mutex<BTreeMap<(String, String, String), Arc<Value>>>);

    impl Fake {
        /// A fake with these objects: resource (`pods`, `roles`, ...) and object.
        pub(crate) fn with(objects: impl IntoIterator<Item = (&'static str, Value)>) -> Arc<Fake> {
            let fake = Arc::new(Fake::default());
            for (resource, object) in objects {
                fake.put(resource, object);
            }
            fake
        }

        pub(crate) fn put(&self, resource: &str, object: Value) {
            let text = |f: &str| object["metadata"][f].as_str().unwrap_or_default().to_owned();
            self.0.lock().insert((resource.to_owned(), text("namespace"), text("name")), Arc::new(object));
        }

        pub(crate) fn remove(&self, resource: &str, namespace: &str, name: &str) {
            self.0.lock().remove(&(resource.to_owned(), namespace.to_owned(), name.to_owned()));
        }

        pub(crate) fn lookup(self: &Arc<Self>) -> Lookup {
            Arc::<Fake>::clone(self)
        }
    }

    #[async_trait]
    impl Objects for Fake {
        fn get(&self, _group: &str, resource: &str, namespace: &str, name: &str) -> Option<Arc<Value>> {
            self.0.lock().get(&(resource.to_owned(), namespace.to_owned(), name.to_owned())).cloned()
        }

        fn list(&self, _group: &str, resource: &str, namespace: Option<&str>) -> Vec<Arc<Value>> {
            let all = self.0.lock();
            let of = all.iter().filter(|((r, ns, _), _)| r == resource && namespace.is_none_or(|n| n == ns));
            of.map(|(_, v)| Arc::clone(v)).collect()
        }

        async fn fresh(&self) -> Result<(), Status> {
            Ok(())
        }
    }
}
