//! What is served: resources by group, version and plural, as one snapshot that is swapped as a whole.

use std::collections::HashMap;
use std::sync::Arc;

use orkd_api::kind::{Kind, Name, ResourceInfo};
use serde_json::Value;

use crate::cache::entry::Entry;
use crate::cache::{Caches, WatchCache, is_stored};
use crate::registry::Hook;
use crate::rest::Rest;
use crate::selector::Filter;

/// One served resource.
pub struct Resource {
    /// Its behaviour.
    pub kind: Arc<dyn Kind>,
    /// Its objects; `None` for a resource that is not stored (reviews).
    pub cache: Option<Arc<WatchCache>>,
    /// What it owns beside its record.
    pub hook: Option<Arc<dyn Hook>>,
    /// Handlers by subresource; the empty name for the resource itself.
    pub rest: HashMap<Name, Arc<dyn Rest>>,
    view: bool,
}

impl Resource {
    /// The facts.
    pub fn info(&self) -> &ResourceInfo {
        self.kind.info()
    }

    /// `group/version`, or `v1`.
    pub fn api_version(&self) -> String {
        api_version(&self.info().group, &self.info().version)
    }

    /// Whether objects are stored in another kind's form.
    pub fn is_view(&self) -> bool {
        self.view
    }

    /// The kind in whose form objects are stored.
    pub fn stored_kind(&self) -> &dyn Kind {
        match &self.cache {
            Some(cache) if self.view => &*cache.kind,
            _ => &*self.kind,
        }
    }

    /// Turns a stored object into the form served here.
    pub fn to_served(&self, object: &mut Value) {
        if self.view {
            self.kind.to_served(object);
            self.head(object, self.info());
        }
    }

    /// Whether objects are stored in the form served here.
    pub fn is_stored_as_served(&self) -> bool {
        !self.view
    }

    /// Turns an object into the form stored.
    pub fn to_storage(&self, object: &mut Value) {
        if let (true, Some(cache)) = (self.view, &self.cache) {
            self.kind.to_storage(object);
            self.head(object, cache.kind.info());
        }
    }

    /// Whether an object matches. Fields of a view are those of the form served.
    pub fn matches(&self, filter: &Filter, entry: &Arc<Entry>) -> bool {
        if self.view && filter.by_fields() {
            return self.served(entry).is_some_and(|e| filter.matches(&e));
        }
        filter.matches(entry)
    }

    fn head(&self, object: &mut Value, info: &ResourceInfo) {
        if let Some(map) = object.as_object_mut() {
            map.insert("apiVersion".into(), api_version(&info.group, &info.version).into());
            map.insert("kind".into(), info.kind.to_string().into());
        }
    }

    /// An entry in the form served here; the same entry where no conversion is needed.
    pub fn served(&self, entry: &Arc<Entry>) -> Option<Arc<Entry>> {
        if !self.view {
            return Some(entry.clone());
        }
        entry.view(&self.info().type_name, |value| {
            let mut object = value.clone();
            self.to_served(&mut object);
            crate::registry::set_version(&mut object, None);
            let bytes = crate::codec::encode_stored(&*self.kind, &object);
            Entry::new(&*self.kind, true, entry.key.clone(), &bytes, entry.revision)
        })
    }
}

/// `group/version`, or the version alone for core.
pub fn api_version(group: &str, version: &str) -> String {
    if group.is_empty() { version.to_owned() } else { format!("{group}/{version}") }
}

/// The resources served, in the order they were listed.
#[derive(Default)]
pub struct Resources {
    all: Vec<Arc<Resource>>,
    by_plural: HashMap<Name, Vec<usize>>,
}

impl Resources {
    /// Builds the snapshot.
    pub fn new(
        caches: &Caches,
        hooks: &HashMap<(Name, Name), Arc<dyn Hook>>,
        rest: &HashMap<(Name, Name, Name), Arc<dyn Rest>>,
    ) -> Self {
        let mut resources = Resources::default();
        for kind in caches.kinds() {
            let info = kind.info();
            let cache = is_stored(&**kind).then(|| caches.cache(&info.storage_prefix).cloned()).flatten();
            let view = cache.as_ref().is_some_and(|c| !std::ptr::eq(c.kind.info(), info));
            let plural = info.plural.clone();
            let resource = Resource {
                kind: kind.clone(),
                cache,
                hook: hooks.get(&(info.group.clone(), info.plural.clone())).cloned(),
                rest: rest
                    .iter()
                    .filter(|((g, r, _), _)| *g == info.group && *r == info.plural)
                    .map(|((_, _, sub), handler)| (sub.clone(), handler.clone()))
                    .collect(),
                view,
            };
            resources.by_plural.entry(plural).or_default().push(resources.all.len());
            resources.all.push(Arc::new(resource));
        }
        resources
    }

    /// The resource of a path.
    pub fn get(&self, group: &str, version: &str, plural: &str) -> Option<&Arc<Resource>> {
        let same = |r: &&Arc<Resource>| r.info().group == group && r.info().version == version;
        self.named(plural).find(same)
    }

    /// The resources of a plural name, in every group and version.
    fn named(&self, plural: &str) -> impl Iterator<Item = &Arc<Resource>> {
        self.by_plural.get(plural).into_iter().flatten().filter_map(|i| self.all.get(*i))
    }

    /// The first version of a resource.
    pub fn any_version(&self, group: &str, plural: &str) -> Option<&Arc<Resource>> {
        self.named(plural).find(|r| r.info().group == group)
    }

    /// All resources in their order.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Resource>> {
        self.all.iter()
    }
}
