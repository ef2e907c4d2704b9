//! What one request needs of the world, each fetched once and only if somebody asks: the labels of its namespace,
//! parameters, its object in other versions, the answers of the authorizer.

use std::borrow::Cow;
use std::sync::{Arc, OnceLock};

use orkd_api::kind::Scope;
use orkd_api::schema::Node;
use orkd_api::status::Status;
use orkd_cel::library::authorizer::{Answer, Answers, Question};
use parking_lot::Mutex;
use serde_json::Value;
use tokio::sync::OnceCell;

use super::super::Request;
use super::asked::{Asked, BodyKind, Door};
use super::input;
use super::policy::{ParamKind, ParamRef, Which};
use super::rules::{self, Constraints};
use super::webhook::review::Verdict;
use crate::authz::{Attributes, Authorizer, Decision};
use crate::codec;
use crate::lookup::{Lookup, get_fresh};
use crate::pipeline::{ApiServer, WeakServer};
use crate::registry::{self, options::FieldValidation};
use crate::resources::{Resource, api_version};
use crate::route::RequestInfo;
use crate::user::UserInfo;

/// What the plugins of this folder are made of.
pub struct World {
    objects: Lookup,
    authorizer: Arc<dyn Authorizer>,
    server: OnceLock<WeakServer>,
}

impl World {
    /// Reads objects and asks an authorizer.
    pub fn new(objects: Lookup, authorizer: Arc<dyn Authorizer>) -> World {
        World { objects, authorizer, server: OnceLock::new() }
    }

    /// The server whose requests these are.
    pub fn bind(&self, server: &WeakServer) {
        // A plugin is bound once.
        let _ = self.server.set(server.clone());
    }

    /// The server, while it is there.
    pub fn server(&self) -> Option<ApiServer> {
        self.server.get().and_then(WeakServer::upgrade)
    }
}

/// A request in the hands of one plugin.
pub struct Round<'r> {
    world: &'r World,
    request: &'r Request<'r>,
    /// As rules see it.
    pub asked: Asked<'r>,
    /// The resource asked for, then those of [`Asked::others`].
    resources: Vec<Arc<Resource>>,
    namespace: OnceCell<Arc<Value>>,
    /// The part of the namespace that expressions see.
    shown_namespace: OnceLock<Value>,
    /// What expressions asked the authorizer.
    pub answers: Answers,
    /// What another program converted, the last first: several hooks ask for the same.
    remembered: Mutex<Vec<Conversion>>,
}

/// How many conversions are remembered: an object and the one before, in two other versions.
const REMEMBERED: usize = 4;

/// An object in another version.
struct Conversion {
    to: String,
    of: Value,
    made: Value,
}

impl Conversion {
    fn is(&self, to: &str, of: &Value) -> bool {
        self.to == to && self.of == *of
    }
}

/// Which resources share the storage of one, itself first.
fn views(server: Option<&ApiServer>, request: &Request<'_>) -> Vec<Arc<Resource>> {
    let Some(server) = server else { return Vec::new() };
    let resources = server.resources();
    let info = request.resource;
    let Some(own) = resources.get(&info.group, &info.version, &info.plural) else { return Vec::new() };
    let same = |r: &&Arc<Resource>| {
        r.info().storage_prefix == info.storage_prefix && !info.storage_prefix.is_empty() && !Arc::ptr_eq(r, own)
    };
    std::iter::once(own).chain(resources.iter().filter(same)).cloned().collect()
}

impl<'r> Round<'r> {
    /// Begins with a request.
    pub fn new(world: &'r World, request: &'r Request<'r>) -> Round<'r> {
        let resources = views(world.server().as_ref(), request);
        let others = resources.iter().skip(1).map(|r| Door::of(r.info(), request.subresource)).collect();
        Round {
            world,
            request,
            asked: Asked::new(request, others),
            resources,
            namespace: OnceCell::new(),
            shown_namespace: OnceLock::new(),
            answers: Answers::default(),
            remembered: Mutex::default(),
        }
    }

    /// The door at which a request is meant, if it is. The error is a namespace that does not exist, or a selector that
    /// is none; it is told only where everything else fits.
    pub async fn door(&self, constraints: &Constraints, object: &Value) -> Result<Option<&Door>, Status> {
        let Some(door) = constraints.door(&self.asked) else { return Ok(None) };
        if !constraints.selects_object(object, self.request.old).map_err(Status::internal)? {
            return Ok(None);
        }
        let Some(selector) = constraints.namespace_selector(&self.asked).map_err(Status::internal)? else {
            return Ok(Some(door));
        };
        let selected = if rules::brings_namespace(&self.asked) {
            selector.matches_object(object)
        } else {
            selector.matches_object(&**self.namespace().await?)
        };
        Ok(selected.then_some(door))
    }

    async fn namespace(&self) -> Result<&Arc<Value>, Status> {
        let name = self.asked.namespace;
        let find = async || {
            let found = get_fresh(&*self.world.objects, "", "namespaces", "", name).await?;
            found.ok_or_else(|| Status::not_found("", "namespaces", name))
        };
        self.namespace.get_or_try_init(find).await
    }

    /// What expressions see as `namespaceObject`: null for what is in no namespace, and for namespaces themselves.
    pub async fn shown_namespace(&self) -> Result<&Value, Status> {
        if self.asked.namespace.is_empty() || self.asked.own.is_namespaces() {
            return Ok(&Value::Null);
        }
        let namespace = self.namespace().await?;
        Ok(self.shown_namespace.get_or_init(|| input::namespace(namespace)))
    }

    /// An object in the form of a door. The error is that of the program that converts.
    pub async fn shown<'o>(&self, door: &Door, object: &'o Value) -> Result<Cow<'o, Value>, Status> {
        if !object.is_object() {
            return Ok(Cow::Borrowed(object));
        }
        if self.asked.subresource == "scale" {
            return Ok(Cow::Owned(registry::scale::shown(self.request.kind, object)));
        }
        self.converted(&self.asked.own, door, object).await
    }

    /// The object that stands behind what a door shows, `shown` put in place of what [`Round::shown`] made of `object`.
    async fn put_back(&self, door: &Door, shown: Value, object: &mut Value) -> Result<(), Status> {
        if self.asked.subresource == "scale" {
            registry::scale::put(self.request.kind, &shown, object);
        } else {
            *object = self.converted(door, &self.asked.own, &shown).await?.into_owned();
        }
        Ok(())
    }

    async fn converted<'o>(&self, from: &Door, to: &Door, object: &'o Value) -> Result<Cow<'o, Value>, Status> {
        // A body of a kind of its own is the same at every door.
        if from == to || from.body == to.body {
            return Ok(Cow::Borrowed(object));
        }
        let resource = |door: &Door| {
            self.resources.iter().find(|r| r.info().group == door.group && r.info().version == door.version)
        };
        let (Some(from), Some(to)) = (resource(from), resource(to)) else { return Ok(Cow::Borrowed(object)) };
        let version = &*to.info().version;
        if to.is_converted_remotely()
            && let Some(known) = self.remembered.lock().iter().find(|c| c.is(version, object))
        {
            return Ok(Cow::Owned(known.made.clone()));
        }
        let mut made = object.clone();
        from.to_form_of(to, &mut made).await?;
        if to.is_converted_remotely() {
            let conversion = Conversion { to: version.to_owned(), of: object.clone(), made: made.clone() };
            let mut remembered = self.remembered.lock();
            remembered.truncate(REMEMBERED - 1);
            remembered.insert(0, conversion);
        }
        Ok(Cow::Owned(made))
    }

    /// The object before; null without one.
    pub fn old(&self) -> &'r Value {
        self.request.old.unwrap_or(&Value::Null)
    }

    /// Whether nothing will be stored.
    pub fn is_dry_run(&self) -> bool {
        self.request.dry_run
    }

    /// The server, while it is there.
    pub fn server(&self) -> Option<ApiServer> {
        self.world.server()
    }

    /// Tells the client and the audit log what a webhook said to them.
    pub fn pass_on(&self, webhook: &str, verdict: Verdict, warnings: &mut Vec<String>) {
        warnings.extend(verdict.warnings);
        for (key, value) in verdict.annotations {
            self.request.annotations.add(format!("{webhook}/{key}"), value);
        }
    }

    /// Puts what a policy or webhook has made of an object, as a door shows it, in the object's place: brought into normal
    /// form, with defaults. Whether it is another one than was `shown`. The error says what is no field or of a wrong type.
    pub async fn replace(
        &self,
        door: &Door,
        shown: &Value,
        mut made: Value,
        object: &mut Value,
    ) -> Result<bool, String> {
        let Some(map) = made.as_object_mut() else { return Err("the result of a patch is not an object".into()) };
        for field in ["apiVersion", "kind"] {
            map.insert(field.to_owned(), shown[field].clone());
        }
        let body = &door.body;
        let own = self.resource_of(body);
        let kind = match own {
            Some(resource) => codec::Door::of(&*resource.kind),
            None => codec::Door::built_in(&body.group, &body.version, &body.kind),
        };
        codec::normalize(&mut made, kind, FieldValidation::Ignore)?;
        let changed = made != *shown;
        if let Some(resource) = own {
            codec::default(&*resource.kind, &mut made);
            resource.kind.default(&mut made);
        }
        self.put_back(door, made, object).await.map_err(|status| status.message)?;
        Ok(changed)
    }

    fn resource_of(&self, body: &BodyKind) -> Option<&Arc<Resource>> {
        self.resources.iter().find(|r| {
            let info = r.info();
            info.kind == body.kind && info.group == body.group && info.version == body.version
        })
    }

    /// The schema of a body.
    pub fn node(&self, body: &BodyKind) -> Option<Node<'_>> {
        match self.resource_of(body) {
            Some(resource) => resource.kind.node(),
            None => Node::of_kind(&body.group, &body.version, &body.kind),
        }
    }

    /// What expressions see as `request`.
    pub fn request_value(&self, door: &Door, uid: &str) -> Value {
        let request = self.request;
        input::request(&self.asked, door, uid, request.user, request.options, request.dry_run)
    }

    /// The parameters that a binding gives its policy (`generic.CollectParams`): null where it has none; nothing where
    /// there are none and that is allowed.
    pub async fn params(&self, kind: Option<&ParamKind>, params: Option<&ParamRef>) -> Result<Vec<Arc<Value>>, String> {
        let (Some(kind), Some(params)) = (kind, params) else { return Ok(vec![Arc::new(Value::Null)]) };
        let resource = self.param_resource(kind)?;
        let namespaced = resource.info().scope == Scope::Namespaced;
        let namespace = match (namespaced, &*params.namespace, self.asked.namespace) {
            (false, "", _) => "",
            (false, ..) => {
                return Err("paramRef.namespace must not be provided for a cluster-scoped `paramKind`".into());
            }
            (true, "", "") => {
                let text = "cannot use namespaced paramRef in policy binding that matches cluster-scoped resources";
                return Err(text.into());
            }
            (true, "", own) => own,
            (true, given, _) => given,
        };
        let found: Vec<_> = match &params.which {
            Which::Bad(why) => return Err(why.clone()),
            Which::Named(name) => self.param(&resource, namespace, name).await?.into_iter().collect(),
            Which::Selected(selector) => {
                let Some(cache) = &resource.cache else { return Ok(Vec::new()) };
                let snapshot = cache.snapshot();
                let selected = snapshot.map.values().filter(|e| {
                    (!namespaced || e.namespace() == namespace) && selector.matches(|label| e.label(label))
                });
                let selected: Vec<_> = selected.cloned().collect();
                resource.prepare(&selected).await.map_err(|s| s.message)?;
                selected.iter().filter_map(|e| resource.served(e)).map(|e| Arc::new(e.decode())).collect()
            }
        };
        if found.is_empty() && params.must_exist {
            return Err("no params found for policy binding with `Deny` parameterNotFoundAction".into());
        }
        Ok(found)
    }

    /// The resource whose objects are of a kind.
    pub fn param_resource(&self, kind: &ParamKind) -> Result<Arc<Resource>, String> {
        let server = self.world.server();
        let resources = server.as_ref().map(ApiServer::resources);
        let is = |r: &&Arc<Resource>| {
            let info = r.info();
            info.kind == *kind.kind && api_version(&info.group, &info.version) == *kind.api_version && r.cache.is_some()
        };
        let found = resources.as_ref().and_then(|resources| resources.iter().find(is).cloned());
        found.ok_or_else(|| format!("failed to find resource referenced by paramKind: '{kind}'"))
    }

    async fn param(&self, resource: &Resource, namespace: &str, name: &str) -> Result<Option<Arc<Value>>, String> {
        let Some(cache) = &resource.cache else { return Ok(None) };
        let key = registry::key(namespace, name);
        let mut entry = cache.get(&key);
        if entry.is_none() {
            self.world.objects.fresh().await.map_err(|s| s.message)?;
            entry = cache.get(&key);
        }
        resource.prepare(&entry).await.map_err(|s| s.message)?;
        Ok(entry.and_then(|e| resource.served(&e)).map(|e| Arc::new(e.decode())))
    }

    /// Asks the authorizer what expressions have asked since. Whether there was anything: then they are to be evaluated
    /// anew.
    pub async fn answer(&self) -> bool {
        let open = self.answers.open();
        let asked = !open.is_empty();
        for question in open {
            let answer = self.ask(&question).await;
            self.answers.put(question, answer);
        }
        asked
    }

    async fn ask(&self, question: &Question) -> Answer {
        let account = question.account.as_ref().map(|(ns, name)| UserInfo::service_account(ns, name));
        let is_resource = question.path.is_empty();
        let request = RequestInfo {
            is_resource,
            path: question.path.clone(),
            verb: question.verb.clone(),
            group: question.group.clone(),
            version: if is_resource { "*".into() } else { String::new() },
            namespace: question.namespace.clone(),
            resource: question.resource.clone(),
            subresource: question.subresource.clone(),
            name: question.name.clone(),
            field_selector: question.field_selector.clone(),
            ..RequestInfo::default()
        };
        let user = account.as_ref().unwrap_or(self.request.user);
        let (allowed, reason) = match self.world.authorizer.authorize(&Attributes { user, request: &request }).await {
            Decision::Allow(reason) => (true, reason),
            Decision::Deny(reason) | Decision::NoOpinion(reason) => (false, reason),
        };
        Answer { allowed, reason, error: String::new() }
    }
}
