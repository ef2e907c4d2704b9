//! What is served: resources by group, version and plural, as one snapshot that is swapped as a whole.

use std::collections::HashMap;
use std::sync::{Arc, OnceLock};

use orkd_api::kind::{Kind, Name, ResourceInfo};
use orkd_api::patch::apply::versions::{Form, View};
use orkd_api::status::Status;
use serde_json::Value;

use crate::cache::entry::Entry;
use crate::cache::{Caches, WatchCache, is_stored};
use crate::custom::Versions;
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
    form: Stored,
    /// Hash of what OpenAPI documents say of it.
    pub(crate) fingerprint: OnceLock<[u8; 32]>,
}

/// The form in which objects are stored.
enum Stored {
    /// The form served.
    Served,
    /// That of another built-in kind.
    Other,
    /// That of a version of a custom resource, which may differ from object to object.
    Custom(Custom),
}

struct Custom {
    /// Names the definition it is of, and its generation.
    definition: String,
    versions: Arc<Versions>,
    /// The definition is being removed: nothing new is made.
    terminating: bool,
}

impl Resource {
    /// A version of a custom resource. `definition` names what it is of, a generation of a definition.
    pub(crate) fn custom(
        kind: Arc<dyn Kind>,
        cache: Arc<WatchCache>,
        definition: String,
        versions: Arc<Versions>,
        terminating: bool,
    ) -> Self {
        Resource {
            kind,
            cache: Some(cache),
            hook: None,
            rest: HashMap::new(),
            form: Stored::Custom(Custom { definition, versions, terminating }),
            fingerprint: OnceLock::new(),
        }
    }

    /// A resource of which nothing is stored.
    pub fn unstored(kind: Arc<dyn Kind>) -> Self {
        let (rest, fingerprint) = (HashMap::new(), OnceLock::new());
        Resource { kind, cache: None, hook: None, rest, form: Stored::Served, fingerprint }
    }

    /// The facts.
    pub fn info(&self) -> &ResourceInfo {
        self.kind.info()
    }

    /// `group/version`, or `v1`.
    pub fn api_version(&self) -> String {
        api_version(&self.info().group, &self.info().version)
    }

    /// The kind of lists.
    pub fn list_kind(&self) -> String {
        match self.kind.custom() {
            Some(custom) => custom.list_kind().to_owned(),
            None => format!("{}List", self.info().kind),
        }
    }

    /// Names the definition it is of, and its generation; nothing for a built-in kind.
    pub(crate) fn definition(&self) -> &str {
        match &self.form {
            Stored::Custom(custom) => &custom.definition,
            _ => "",
        }
    }

    /// Whether objects may be stored in another form than the one served here.
    pub fn is_view(&self) -> bool {
        match &self.form {
            Stored::Served => false,
            Stored::Other => true,
            Stored::Custom(custom) => custom.versions.are_many(),
        }
    }

    /// Whether an object that is written here is stored in the form served here.
    pub fn is_stored_as_served(&self) -> bool {
        match &self.form {
            Stored::Served => true,
            Stored::Other => false,
            Stored::Custom(_) => self.cache.as_ref().is_some_and(|c| c.kind.info().version == self.info().version),
        }
    }

    /// Whether another program turns objects from one version into another.
    pub fn is_converted_remotely(&self) -> bool {
        matches!(&self.form, Stored::Custom(custom) if custom.versions.is_remote())
    }

    /// Whether nothing new is to be made: the definition is being removed.
    pub fn is_terminating(&self) -> bool {
        matches!(&self.form, Stored::Custom(custom) if custom.terminating)
    }

    /// The kind in whose form objects are stored.
    pub fn stored_kind(&self) -> &dyn Kind {
        match &self.cache {
            Some(cache) => &*cache.kind,
            None => &*self.kind,
        }
    }

    /// Turns a stored object into the form served here.
    pub async fn to_served(&self, object: &mut Value) -> Result<(), Status> {
        self.converted(object, &self.kind).await
    }

    /// Turns an object of the form served here into the form stored.
    pub async fn to_storage(&self, object: &mut Value) -> Result<(), Status> {
        match &self.cache {
            Some(cache) => self.converted(object, &cache.kind).await,
            None => Ok(()),
        }
    }

    async fn converted(&self, object: &mut Value, to: &Arc<dyn Kind>) -> Result<(), Status> {
        match &self.form {
            Stored::Custom(custom) => custom.versions.convert(std::slice::from_mut(object), &to.info().version).await,
            _ => {
                self.turn(object, Arc::ptr_eq(to, &self.kind));
                Ok(())
            }
        }
    }

    /// Turns an object of the form served here into the form in which another resource of the same storage serves it.
    pub async fn to_form_of(&self, other: &Resource, object: &mut Value) -> Result<(), Status> {
        match &other.form {
            // Every object says of which version it is.
            Stored::Custom(_) => other.to_served(object).await,
            _ => {
                self.turn(object, false);
                other.turn(object, true);
                Ok(())
            }
        }
    }

    /// Turns an object between the form served and the form stored, where that needs nobody else's help.
    pub fn turn(&self, object: &mut Value, to_served: bool) {
        let Some(cache) = &self.cache else { return };
        match (&self.form, to_served) {
            (Stored::Served, _) => {}
            (Stored::Other, true) => {
                self.kind.to_served(object);
                head(object, self.info());
            }
            (Stored::Other, false) => {
                self.kind.to_storage(object);
                head(object, cache.kind.info());
            }
            (Stored::Custom(custom), _) => {
                let to = if to_served { &self.kind } else { &cache.kind };
                custom.versions.turn(object, &to.info().version);
            }
        }
    }

    /// An object that is of version `from` in version `to`, where that needs nobody else's help, with what is to be known
    /// of who owns its fields there.
    pub(crate) fn in_version<'r>(
        &'r self,
        all: &'r Resources,
        object: &Value,
        from: &str,
        to: &str,
        subresource: Option<&str>,
    ) -> View<'r> {
        let of = |kind: &'r dyn Kind, object: Value| match kind.node() {
            Some(node) => View::Of(Form { object, node, reset_fields: kind.reset_fields(subresource) }),
            None => View::Closed,
        };
        let mut object = object.clone();
        if let Stored::Custom(custom) = &self.form {
            let Some(kind) = custom.versions.kind(to) else { return View::Gone };
            if custom.versions.is_remote() && from != to {
                return View::Closed;
            }
            custom.versions.turn(&mut object, &kind.info().version);
            return of(kind, object);
        }
        let same = |r: &&Arc<Resource>| match (&r.cache, &self.cache) {
            (Some(a), Some(b)) => Arc::ptr_eq(a, b),
            _ => false,
        };
        let version = |name: &str| all.named(&self.info().plural).filter(same).find(|r| r.api_version() == name);
        let (Some(from), Some(to)) = (version(from), version(to)) else { return View::Gone };
        if !Arc::ptr_eq(from, to) {
            from.turn(&mut object, false);
            to.turn(&mut object, true);
        }
        of(&*to.kind, object)
    }

    /// Has entries converted that are to be [`Resource::served`], where another program does it.
    pub async fn prepare<'e>(&self, entries: impl IntoIterator<Item = &'e Arc<Entry>>) -> Result<(), Status> {
        match &self.form {
            Stored::Custom(custom) if custom.versions.is_remote() => custom.versions.prepare(&self.kind, entries).await,
            _ => Ok(()),
        }
    }

    /// Whether an object matches. Fields of a view are those of the form served.
    pub fn matches(&self, filter: &Filter, entry: &Arc<Entry>) -> bool {
        if self.is_view() && filter.by_fields() {
            return self.served(entry).is_some_and(|e| filter.matches(&e));
        }
        filter.matches(entry)
    }

    /// An entry in the form served here; the same entry where no conversion is needed. Where another program converts,
    /// only what has been prepared ([`Resource::prepare`]).
    pub fn served(&self, entry: &Arc<Entry>) -> Option<Arc<Entry>> {
        match &self.form {
            Stored::Served => return Some(entry.clone()),
            Stored::Custom(custom) => {
                if !custom.versions.are_many() || entry.is_of(&self.info().group, &self.info().version) {
                    return Some(entry.clone());
                }
                if custom.versions.is_remote() {
                    return entry.known_view(&self.info().type_name);
                }
            }
            Stored::Other => {}
        }
        entry.view(&self.info().type_name, |value| {
            let mut object = value.clone();
            self.turn(&mut object, true);
            view(&*self.kind, object, entry)
        })
    }
}

/// An entry in another form.
pub(crate) fn view(kind: &dyn Kind, mut object: Value, entry: &Entry) -> Option<Entry> {
    crate::registry::set_version(&mut object, None);
    let bytes = crate::codec::encode_stored(kind, &object);
    Entry::new(kind, true, entry.key.clone(), &bytes, entry.revision)
}

fn head(object: &mut Value, info: &ResourceInfo) {
    if let Some(map) = object.as_object_mut() {
        map.insert("apiVersion".into(), api_version(&info.group, &info.version).into());
        map.insert("kind".into(), info.kind.to_string().into());
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
    /// How many are built in. They come first.
    built_in: usize,
}

impl Resources {
    /// The built-in resources.
    pub fn new(
        caches: &Caches,
        hooks: &HashMap<(Name, Name), Arc<dyn Hook>>,
        rest: &HashMap<(Name, Name, Name), Arc<dyn Rest>>,
    ) -> Self {
        let mut resources = Resources::default();
        for kind in caches.kinds() {
            let info = kind.info();
            let cache = is_stored(&**kind).then(|| caches.cache(&info.storage_prefix)).flatten();
            let view = cache.as_ref().is_some_and(|c| !std::ptr::eq(c.kind.info(), info));
            resources.add(Arc::new(Resource {
                kind: kind.clone(),
                cache,
                hook: hooks.get(&(info.group.clone(), info.plural.clone())).cloned(),
                rest: rest
                    .iter()
                    .filter(|((g, r, _), _)| *g == info.group && *r == info.plural)
                    .map(|((_, _, sub), handler)| (sub.clone(), handler.clone()))
                    .collect(),
                form: if view { Stored::Other } else { Stored::Served },
                fingerprint: OnceLock::new(),
            }));
        }
        resources.built_in = resources.all.len();
        resources
    }

    /// The same built-in resources with other custom ones.
    pub(crate) fn with_custom(&self, custom: impl IntoIterator<Item = Arc<Resource>>) -> Resources {
        let mut resources = Resources { built_in: self.built_in, ..Resources::default() };
        self.built_in().cloned().chain(custom).for_each(|resource| resources.add(resource));
        resources
    }

    fn add(&mut self, resource: Arc<Resource>) {
        self.by_plural.entry(resource.info().plural.clone()).or_default().push(self.all.len());
        self.all.push(resource);
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

    /// Those that are there whatever the definitions say.
    pub(crate) fn built_in(&self) -> impl Iterator<Item = &Arc<Resource>> {
        self.all[..self.built_in.min(self.all.len())].iter()
    }
}
