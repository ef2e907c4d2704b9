//! The API server as one service: composition ([`Builder`]) and the order in which a request passes its stages.

use std::collections::HashMap;
use std::sync::{Arc, Weak};

use arc_swap::ArcSwap;
use orkd_api::kind::{Features, Name};
use orkd_api::status::Status;
use orkd_store::Store;
use serde_json::Value;
use tokio_util::sync::CancellationToken;

use crate::admission::{Operation, Plugin};
use crate::audit::Audit;
use crate::authn::Authenticator;
use crate::authz::Authorizer;
use crate::cache::{Caches, Reader};
use crate::flowcontrol::{Control, Flow};
use crate::impersonation::Remembered;
use crate::metrics::{AdmissionTimes, Metrics};
use crate::openapi::Documents;
use crate::registry::options::WriteOptions;
use crate::registry::{self, Hook, Request, Target};
use crate::resources::{Resource, Resources};
use crate::rest::{Call, Rest};

/// An admission plugin and how long it takes.
pub type Admitter = (Arc<dyn Plugin>, AdmissionTimes);

/// Collects the parts of an API server.
pub struct Builder {
    caches: Arc<Caches>,
    authenticators: Vec<Box<dyn Authenticator>>,
    authorizers: Vec<Arc<dyn Authorizer>>,
    admission: Vec<Admitter>,
    hooks: HashMap<(Name, Name), Arc<dyn Hook>>,
    rest: HashMap<(Name, Name, Name), Arc<dyn Rest>>,
    features: Features,
    version: String,
    flow: Flow,
    checks: Vec<(String, Check)>,
    paths: HashMap<String, PathHandler>,
    audit: Option<Arc<Audit>>,
    fairness: Option<Arc<Control>>,
    stopping: CancellationToken,
}

/// A readiness check: `Err` tells why it is not ready.
pub type Check = Box<dyn Fn() -> Result<(), String> + Send + Sync>;

/// Answers a fixed path outside the resources (`/.well-known/openid-configuration`).
pub type PathHandler = Arc<dyn Fn(&http::request::Parts) -> http::Response<crate::Body> + Send + Sync>;

impl Builder {
    /// Adds an authenticator; they are asked in order.
    pub fn authenticator(mut self, authenticator: impl Authenticator) -> Self {
        self.authenticators.push(Box::new(authenticator));
        self
    }

    /// Adds an authorizer; they are asked in order. Without any, everything is forbidden.
    pub fn authorizer(mut self, authorizer: Arc<dyn Authorizer>) -> Self {
        self.authorizers.push(authorizer);
        self
    }

    /// Adds admission plugins, in upstream's order.
    pub fn admission(mut self, plugins: impl IntoIterator<Item = Arc<dyn Plugin>>) -> Self {
        self.admission.extend(plugins.into_iter().map(|plugin| {
            let times = AdmissionTimes::new(Some(plugin.name()));
            (plugin, times)
        }));
        self
    }

    /// Serves a subresource (or, with an empty one, a resource) by a handler of its own.
    pub fn rest(mut self, group: &str, resource: &str, subresource: &str, handler: Arc<dyn Rest>) -> Self {
        let own = |s: &str| Name::Owned(s.to_owned());
        self.rest.insert((own(group), own(resource), own(subresource)), handler);
        self
    }

    /// Hooks the creation, change and removal of a resource's objects.
    pub fn hook(mut self, group: &str, resource: &str, hook: Arc<dyn Hook>) -> Self {
        self.hooks.insert((Name::Owned(group.to_owned()), Name::Owned(resource.to_owned())), hook);
        self
    }

    /// Sets feature gates.
    pub fn features(mut self, features: Features) -> Self {
        self.features = features;
        self
    }

    /// Sets what `/version` says in `gitVersion` after `v1.36.2+`.
    pub fn version(mut self, version: &str) -> Self {
        self.version = version.into();
        self
    }

    /// Limits requests in flight.
    pub fn flow(mut self, flow: Flow) -> Self {
        self.flow = flow;
        self
    }

    /// Adds a check to `/readyz`.
    pub fn ready_check(mut self, name: &str, check: impl Fn() -> Result<(), String> + Send + Sync + 'static) -> Self {
        self.checks.push((name.into(), Box::new(check)));
        self
    }

    /// Answers a path outside the resources.
    pub fn path(mut self, path: &str, handler: PathHandler) -> Self {
        self.paths.insert(path.into(), handler);
        self
    }

    /// Lets requests in by priority and fairness, in place of the fixed limits.
    pub fn fairness(mut self, control: Option<Arc<Control>>) -> Self {
        self.fairness = control;
        self
    }

    /// Writes requests down.
    pub fn audit(mut self, audit: Option<Arc<Audit>>) -> Self {
        self.audit = audit;
        self
    }

    /// Sets the token that ends watches at shutdown.
    pub fn stopping(mut self, token: CancellationToken) -> Self {
        self.stopping = token;
        self
    }

    /// The server.
    pub fn build(self) -> ApiServer {
        let resources = Resources::new(&self.caches, &self.hooks, &self.rest);
        let server = ApiServer(Arc::new(Inner {
            resources: ArcSwap::from_pointee(resources),
            caches: self.caches,
            authenticators: self.authenticators,
            authorizers: self.authorizers,
            admission: self.admission,
            features: self.features,
            version: self.version,
            flow: self.flow,
            metrics: Metrics::default(),
            documents: Documents::default(),
            checks: self.checks,
            paths: self.paths,
            audit: self.audit,
            fairness: self.fairness,
            stopping: self.stopping,
            impersonations: Remembered::default(),
        }));
        for (plugin, _) in server.admission() {
            plugin.bind(&server.downgrade());
        }
        server
    }
}

/// The API server. Cheap to clone.
#[derive(Clone)]
pub struct ApiServer(pub(crate) Arc<Inner>);

/// A server that may be gone, for parts that the server owns.
#[derive(Clone)]
pub struct WeakServer(Weak<Inner>);

impl WeakServer {
    /// The server, while it is there.
    pub fn upgrade(&self) -> Option<ApiServer> {
        self.0.upgrade().map(ApiServer)
    }
}

pub(crate) struct Inner {
    pub(crate) resources: ArcSwap<Resources>,
    pub(crate) caches: Arc<Caches>,
    pub(crate) authenticators: Vec<Box<dyn Authenticator>>,
    pub(crate) authorizers: Vec<Arc<dyn Authorizer>>,
    pub(crate) admission: Vec<Admitter>,
    pub(crate) features: Features,
    pub(crate) version: String,
    pub(crate) flow: Flow,
    pub(crate) metrics: Metrics,
    pub(crate) documents: Documents,
    pub(crate) checks: Vec<(String, Check)>,
    pub(crate) paths: HashMap<String, PathHandler>,
    pub(crate) audit: Option<Arc<Audit>>,
    pub(crate) fairness: Option<Arc<Control>>,
    pub(crate) stopping: CancellationToken,
    pub(crate) impersonations: Remembered,
}

impl ApiServer {
    /// Begins composition on open caches (made first, because authorizers and plugins read from them).
    pub fn builder(caches: Arc<Caches>) -> Builder {
        Builder {
            caches,
            authenticators: Vec::new(),
            authorizers: Vec::new(),
            admission: Vec::new(),
            hooks: HashMap::new(),
            rest: HashMap::new(),
            features: Features::default(),
            version: "orkd".into(),
            flow: Flow::default(),
            checks: Vec::new(),
            paths: HashMap::new(),
            audit: None,
            fairness: None,
            stopping: CancellationToken::new(),
        }
    }

    /// The server without keeping it alive.
    pub fn downgrade(&self) -> WeakServer {
        WeakServer(Arc::downgrade(&self.0))
    }

    /// The caches.
    pub fn caches(&self) -> &Arc<Caches> {
        &self.0.caches
    }

    /// Reads without HTTP.
    pub fn reader(&self) -> Reader {
        self.0.caches.reader()
    }

    /// The store behind. For the registry and for allocators of this crate.
    pub fn store(&self) -> &Arc<dyn Store> {
        self.0.caches.store()
    }

    /// Feature gates.
    pub fn features(&self) -> &Features {
        &self.0.features
    }

    /// Admission plugins in order.
    pub fn admission(&self) -> &[Admitter] {
        &self.0.admission
    }

    /// Authorizers in order.
    pub fn authorizers(&self) -> &[Arc<dyn Authorizer>] {
        &self.0.authorizers
    }

    /// Authenticators in order (TokenReview asks them, too).
    pub fn authenticators(&self) -> &[Box<dyn Authenticator>] {
        &self.0.authenticators
    }

    /// What `/version` says.
    pub fn git_version(&self) -> String {
        format!("v1.36.2+{}", self.0.version)
    }

    /// Limits of requests in flight.
    pub(crate) fn flow(&self) -> &Flow {
        &self.0.flow
    }

    /// OpenAPI documents.
    pub(crate) fn documents(&self) -> &Documents {
        &self.0.documents
    }

    /// Counters.
    pub(crate) fn metrics(&self) -> &Metrics {
        &self.0.metrics
    }

    /// Checks of `/readyz`.
    pub(crate) fn checks(&self) -> &[(String, Check)] {
        &self.0.checks
    }

    /// The paths outside the resources that have handlers.
    pub(crate) fn fixed_paths(&self) -> impl Iterator<Item = &str> {
        self.0.paths.keys().map(String::as_str)
    }

    /// The handler of a path outside the resources.
    pub(crate) fn path_handler(&self, path: &str) -> Option<PathHandler> {
        self.0.paths.get(path).cloned()
    }

    /// Priority and fairness, where it is on.
    pub(crate) fn impersonations(&self) -> &Remembered {
        &self.0.impersonations
    }

    pub(crate) fn fairness(&self) -> Option<&Arc<Control>> {
        self.0.fairness.as_ref()
    }

    /// What writes requests down, if anything.
    pub(crate) fn audit(&self) -> Option<&Arc<Audit>> {
        self.0.audit.as_ref()
    }

    /// Cancelled when the server is about to end: watches end, `/readyz` fails.
    pub fn stopping(&self) -> &CancellationToken {
        &self.0.stopping
    }

    /// What is served.
    pub fn resources(&self) -> arc_swap::Guard<Arc<Resources>> {
        self.0.resources.load()
    }

    /// Serves these custom resources and no others, beside those built in.
    pub(crate) fn serve_custom(&self, custom: &[Arc<Resource>]) {
        self.0.resources.rcu(|now| now.with_custom(custom.iter().cloned()));
        self.documents().forget_others(&self.resources());
    }

    /// A resource in its first version; 404 where it is not served.
    pub fn resource(&self, group: &str, resource: &str) -> Result<Arc<Resource>, Status> {
        self.resources().any_version(group, resource).cloned().ok_or_else(Status::no_such_path)
    }

    /// Runs both phases of admission for a handler.
    pub async fn admit_call(&self, call: &Call, operation: Operation, object: &mut Value) -> Result<(), Status> {
        let info = &call.info;
        let resource = self
            .resources()
            .get(&info.group, &info.version, &info.resource)
            .cloned()
            .ok_or_else(Status::no_such_path)?;
        let target = Target { resource, subresource: &info.subresource, namespace: &info.namespace, name: &info.name };
        let request =
            Request { server: self, user: &call.user, now: call.now, warnings: call.warnings.clone(), info: None };
        let dry = call.dry_run();
        // What opens a stream has no options beside the object.
        let options = match operation {
            Operation::Connect => Value::Null,
            _ => WriteOptions::parse(&call.query, &call.user_agent, "CreateOptions", false)?.to_value("CreateOptions"),
        };
        registry::strategy::mutate(&request, &target, operation, object, None, &options, dry).await?;
        registry::strategy::check(&request, &target, operation, object, None, &options, dry).await
    }
}
