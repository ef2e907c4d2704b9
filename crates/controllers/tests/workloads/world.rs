//! An API server, controllers that can be killed, a scheduler, and a kubelet and an attacher that are played.

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use orkd_apiserver::bootstrap::Facts;
use orkd_apiserver::cache::Caches;
use orkd_apiserver::pipeline::ApiServer;
use orkd_apiserver::security::{self, Guard, Options};
use orkd_apiserver::user::{InProcess, MASTERS, UserInfo};
use orkd_base::{Clock, Supervisor, TaskKind};
use orkd_controllers::{Composition, Config, MANAGER, Signers, run_some};
use orkd_pki::cluster::{ClusterPki, ServerNames};
use orkd_reconcile::{Api, DeleteOptions, Informers, Patch, Target};
use orkd_store::backends::embedded;
use serde_json::{Value, json};
use tokio::sync::Notify;

/// Kills a process at its n-th write: the write is done, its answer never arrives, and nothing is sent after it.
#[derive(Default)]
pub struct Fate {
    /// After how many writes; 0 for never.
    at: usize,
    /// The namespace of the story; what is written into others does not count.
    namespace: String,
    writes: AtomicUsize,
    /// Requests that the server works on.
    asking: AtomicUsize,
    /// How many objects were made, by path; shared with the process that goes on.
    made: Arc<Mutex<BTreeMap<String, usize>>>,
    died: Notify,
}

impl Fate {
    pub fn at(write: usize, namespace: &str) -> Arc<Fate> {
        Arc::new(Fate { at: write, namespace: namespace.to_owned(), ..Fate::default() })
    }

    /// That of the process that is started after the death of this one, and lives.
    pub fn reborn(&self) -> Arc<Fate> {
        Arc::new(Fate { namespace: self.namespace.clone(), made: self.made.clone(), ..Fate::default() })
    }

    /// How many objects both made, by path, with `NAMESPACE` for the namespace.
    pub fn made(&self) -> BTreeMap<String, usize> {
        self.made.lock().expect("a lock").clone()
    }

    /// Whether a request changes something of the story. Events are told, not decided by; a review changes nothing.
    fn counts(&self, request: &http::Request<impl Sized>) -> bool {
        let path = request.uri().path();
        let of = path.split_once("/namespaces/").map_or("", |(_, rest)| rest.split('/').next().unwrap_or_default());
        let elsewhere = of.starts_with("run-") && of != self.namespace;
        request.method() != http::Method::GET && !path.ends_with("/events") && !path.ends_with("reviews") && !elsewhere
    }

    fn note(&self, path: &str) {
        if self.namespace.is_empty() {
            return;
        }
        let path = path.replace(&self.namespace, "NAMESPACE");
        *self.made.lock().expect("a lock").entry(path).or_default() += 1;
    }

    pub fn writes(&self) -> usize {
        self.writes.load(Ordering::SeqCst)
    }

    fn is_dead(&self) -> bool {
        self.at > 0 && self.writes() >= self.at
    }

    /// Waits until the server has done what the dead one asked for: the next one comes later than that.
    pub async fn settled(&self) {
        while self.asking.load(Ordering::SeqCst) > 0 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    /// Waits for the death.
    pub async fn death(&self) {
        loop {
            let notified = self.died.notified();
            if self.is_dead() {
                return;
            }
            notified.await;
        }
    }
}

/// What is answered instead of the API server.
#[derive(Clone, Debug)]
pub enum Stub {
    /// This.
    Answer(Value),
    /// Nothing, ever.
    Hang,
}

/// Which paths are not answered by the API server, and how often each was asked. One that ends with a slash stands for all
/// that begin so.
#[derive(Clone, Default)]
pub struct Stubs(Arc<Mutex<BTreeMap<String, (Stub, usize)>>>);

impl Stubs {
    /// Answers a path from now on.
    pub fn set(&self, path: &str, stub: Stub) {
        self.0.lock().expect("a lock").insert(path.to_owned(), (stub, 0));
    }

    /// How often a path was asked.
    pub fn asked(&self, path: &str) -> usize {
        self.0.lock().expect("a lock").get(path).map_or(0, |(_, asked)| *asked)
    }

    fn of(&self, path: &str) -> Option<Stub> {
        let mut stubs = self.0.lock().expect("a lock");
        let (_, (stub, asked)) = stubs
            .iter_mut()
            .find(|(of, _)| path == of.as_str() || (of.ends_with('/') && path.starts_with(of.as_str())))?;
        *asked += 1;
        Some(stub.clone())
    }
}

fn client(server: &ApiServer, user: UserInfo, fate: Arc<Fate>, stubs: Stubs) -> kube::Client {
    let router = server.router();
    let service = tower::service_fn(move |request: http::Request<kube::client::Body>| {
        let mut request = request.map(orkd_apiserver::Body::new);
        request.extensions_mut().insert(InProcess(user.clone()));
        let (router, fate, stub) = (router.clone(), fate.clone(), stubs.of(request.uri().path()));
        async move {
            match stub {
                Some(Stub::Hang) => std::future::pending::<()>().await,
                Some(Stub::Answer(answer)) => {
                    return Ok(http::Response::new(orkd_apiserver::Body::from(answer.to_string())));
                }
                None => {}
            }
            let counts = fate.counts(&request);
            let made = (request.method() == http::Method::POST).then(|| request.uri().path().to_owned());
            if fate.is_dead() {
                std::future::pending::<()>().await;
            }
            // The server does what it was asked for, also when the one who asked dies meanwhile.
            let life = fate.clone();
            life.asking.fetch_add(1, Ordering::SeqCst);
            let done = tokio::spawn(async move {
                let answer: Result<http::Response<_>, std::convert::Infallible> =
                    tower::ServiceExt::oneshot(router, request).await;
                let created = answer.as_ref().is_ok_and(|a| a.status() == http::StatusCode::CREATED);
                if let Some(path) = made.filter(|_| counts && created) {
                    life.note(&path);
                }
                life.asking.fetch_sub(1, Ordering::SeqCst);
                answer
            });
            let answer = done.await.expect("the server answers");
            if counts {
                fate.writes.fetch_add(1, Ordering::SeqCst);
                if fate.is_dead() {
                    fate.died.notify_waiters();
                    std::future::pending::<()>().await;
                }
            }
            answer
        }
    });
    kube::Client::new(service, "default")
}

pub struct World {
    pub api: Api,
    pub supervisor: Supervisor,
    pub server: ApiServer,
    pub stubs: Stubs,
    config: Config,
    _guard: Guard,
    _dir: tempfile::TempDir,
}

impl World {
    /// An API server without controllers.
    pub async fn empty() -> World {
        if std::env::var_os(orkd_base::telemetry::FILTER_ENV).is_some() {
            // The first test of the process does it for all.
            let _ = orkd_base::telemetry::init(orkd_base::telemetry::Format::Human, "info");
        }
        let dir = tempfile::tempdir().expect("dir");
        let pki = ClusterPki::load_or_create(&dir.path().join("pki"), ServerNames::default(), Timestamp::now());
        let pki = pki.expect("pki");
        let store = embedded::Embedded::open(dir.path().join("db"), embedded::Options::default()).expect("store");
        let kinds = orkd_api::kinds::all().into_iter().map(Arc::from).collect();
        let caches = Caches::open(Arc::new(store), kinds).await.expect("caches");
        let cidr = "10.43.0.0/16".parse().expect("cidr");
        let options = Options { service_cidrs: vec![cidr], ..Options::default() };
        let builder = ApiServer::builder(caches.clone());
        let (builder, guard) = security::secure(builder, &caches, &pki, &options).expect("secured");
        let server = builder.build();
        let facts = Facts {
            service_cidrs: vec![cidr],
            advertise: vec![[192, 0, 2, 1].into()],
            port: 6443,
            client_ca_pem: pki.ca_pem(),
            front_proxy_ca_pem: pki.front_proxy_ca.certificate().to_pem(),
            request_headers: orkd_apiserver::authn::front_proxy::RequestHeaders::standard(vec![
                "front-proxy-client".into(),
            ]),
            server_ca_pem: pki.ca_pem(),
        };
        guard.bootstrap(&server, &facts).await.expect("bootstrap");
        let supervisor = Supervisor::new();
        let stubs = Stubs::default();
        let admin = client(&server, UserInfo::new("admin", &[MASTERS]), Arc::default(), Stubs::default());
        let signer = orkd_pki::jwt::Signer::new(&pki.service_account_key, "test").expect("a signer");
        let ca = Arc::new(pki.ca);
        let config = Config {
            cluster_cidrs: vec!["10.42.0.0/16".parse().expect("cidr")],
            root_ca_pem: ca.certificate().to_pem(),
            signers: Some(Signers { client: ca.clone(), serving: ca, longest: orkd_pki::cert::LEAF_LIFETIME }),
            token_signer: Some(Arc::new(signer)),
            ..Config::default()
        };
        World { api: Api::new(admin, "test"), supervisor, server, stubs, config, _guard: guard, _dir: dir }
    }

    /// An API server with the controllers of these names.
    pub async fn start(names: &'static [&'static str]) -> World {
        let world = World::empty().await;
        world.account("default").await;
        world.control(&world.supervisor, names, Clock::real(), &Arc::default());
        world
    }

    /// Makes the account that pods of a namespace have.
    pub async fn account(&self, namespace: &str) {
        let account = json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "default"}});
        self.create(&format!("/api/v1/namespaces/{namespace}/serviceaccounts"), account).await;
    }

    /// Runs controllers until the supervisor ends, or their fate is fulfilled.
    pub fn control(&self, supervisor: &Supervisor, names: &'static [&'static str], clock: Clock, fate: &Arc<Fate>) {
        let admin = client(&self.server, UserInfo::new("admin", &[MASTERS]), Arc::default(), Stubs::default());
        let (server, fate, stubs) = (self.server.clone(), fate.clone(), self.stubs.clone());
        let composition = Composition {
            informers: Informers::new(admin, supervisor.clone()),
            supervisor: supervisor.clone(),
            clock,
            config: self.config.clone(),
            client: Box::new(move |account| {
                let user = match account {
                    MANAGER => UserInfo::new(MANAGER, &[]),
                    account => UserInfo::service_account("kube-system", account),
                };
                client(&server, user, fate.clone(), stubs.clone()).into()
            }),
        };
        run_some(composition, |name| names.contains(&name));
    }

    /// Runs the scheduler until the world ends, with the rights that upstream's role gives it.
    pub fn schedule(&self) {
        let user = UserInfo::new("system:kube-scheduler", &[]);
        let client = client(&self.server, user, Arc::default(), Stubs::default());
        let informers = Informers::new(client.clone(), self.supervisor.clone());
        let api = Api::new(client, "kube-scheduler");
        let (config, tasks) = (Arc::new(orkd_scheduler::Config::default()), self.supervisor.clone());
        self.supervisor.run(TaskKind::Controller, "scheduler", move |stop| {
            let (informers, api) = (informers.clone(), api.clone());
            orkd_scheduler::run(config.clone(), informers, api, String::new(), tasks.clone(), stop)
        });
    }

    pub async fn get(&self, path: &str) -> Option<Value> {
        match self.api.get(&Target::path(path)).await {
            Ok(object) => Some(object),
            Err(err) if err.is_not_found() => None,
            Err(err) => panic!("{err}"),
        }
    }

    pub async fn items(&self, path: &str) -> Vec<Value> {
        let list = self.get(path).await.unwrap_or_default();
        list["items"].as_array().cloned().unwrap_or_default()
    }

    pub async fn create(&self, path: &str, body: Value) -> Value {
        self.api.create(&Target::path(path), &body).await.unwrap_or_else(|e| panic!("{}", orkd_base::chain(&e)))
    }

    pub async fn merge(&self, path: &str, body: Value) -> Value {
        let patched = self.api.patch(&Target::path(path), &Patch::Merge(body)).await;
        patched.unwrap_or_else(|e| panic!("{}", orkd_base::chain(&e)))
    }

    pub async fn delete(&self, path: &str, options: DeleteOptions) {
        self.api.delete(&Target::path(path), &options).await.unwrap_or_else(|e| panic!("{}", orkd_base::chain(&e)));
    }

    /// Waits until what a path answers is right; the last answer is in the failure.
    pub async fn eventually(&self, what: &str, path: &str, right: impl Fn(&Value) -> bool) -> Value {
        let deadline = Instant::now() + Duration::from_secs(30);
        loop {
            let state = self.get(path).await.unwrap_or(Value::Null);
            if right(&state) {
                return state;
            }
            assert!(Instant::now() < deadline, "{what}: {path} is {state:#}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Waits until a list has the right size.
    pub async fn count(&self, what: &str, path: &str, wanted: usize) {
        self.eventually(what, path, |list| list["items"].as_array().map_or(0, Vec::len) == wanted).await;
    }

    /// Plays the kubelet: gives every pod that has not ended the status that `decide` says, if any.
    pub fn play_kubelet(&self, decide: impl Fn(&Value) -> Option<Value> + Send + Sync + 'static) {
        let api = self.api.clone();
        self.supervisor.spawn(TaskKind::Node, "kubelet", move |stop| async move {
            while !stop.is_cancelled() {
                let pods: Value = api.get(&Target::path("/api/v1/pods")).await.unwrap_or_default();
                for pod in pods["items"].as_array().into_iter().flatten() {
                    let text = |name: &str| pod["metadata"][name].as_str().unwrap_or_default().to_owned();
                    let path = format!("/api/v1/namespaces/{}/pods/{}", text("namespace"), text("name"));
                    let over = matches!(pod["status"]["phase"].as_str(), Some("Succeeded" | "Failed"));
                    let Some(status) = decide(pod).filter(|_| !over) else { continue };
                    if status["phase"] == pod["status"]["phase"] {
                        continue;
                    }
                    // Pods come and go; the next look finds what is left.
                    let patch = Patch::Merge(json!({"status": status}));
                    let _ = api.patch::<Value>(&Target::path(format!("{path}/status")), &patch).await;
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        });
    }

    /// Plays the attacher of every driver: what is asked for is attached.
    pub fn play_attacher(&self) {
        let api = self.api.clone();
        self.supervisor.spawn(TaskKind::Node, "attacher", move |stop| async move {
            const ATTACHMENTS: &str = "/apis/storage.k8s.io/v1/volumeattachments";
            while !stop.is_cancelled() {
                let all: Value = api.get(&Target::path(ATTACHMENTS)).await.unwrap_or_default();
                for asked in all["items"].as_array().into_iter().flatten().filter(|a| a["status"]["attached"] != true) {
                    let name = asked["metadata"]["name"].as_str().unwrap_or_default();
                    let patch = Patch::Merge(json!({"status": {"attached": true}}));
                    // It may have gone meanwhile.
                    let _ = api.patch::<Value>(&Target::path(format!("{ATTACHMENTS}/{name}/status")), &patch).await;
                }
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        });
    }

    pub async fn stop(self) {
        self.supervisor.shutdown(Duration::from_secs(5)).await;
        self.server.caches().stop();
        self.server.store().close().await;
    }
}

/// A pod that runs and is ready.
pub fn running(_: &Value) -> Option<Value> {
    let now = orkd_reconcile::time(Timestamp::now());
    Some(json!({"phase": "Running", "startTime": now,
        "conditions": [{"type": "Ready", "status": "True", "lastTransitionTime": now}]}))
}

/// A pod that ended with a code, an hour ago: nothing waits.
pub fn ended(code: i32) -> Option<Value> {
    ended_at(code, Timestamp::now() - Duration::from_secs(3600))
}

/// A pod that has just failed.
pub fn failed_now() -> Option<Value> {
    ended_at(1, Timestamp::now())
}

fn ended_at(code: i32, at: Timestamp) -> Option<Value> {
    let phase = if code == 0 { "Succeeded" } else { "Failed" };
    let at = orkd_reconcile::time(at);
    Some(json!({"phase": phase, "containerStatuses": [{"name": "c", "image": "i", "imageID": "", "restartCount": 0,
        "ready": false, "state": {"terminated": {"exitCode": code, "startedAt": at, "finishedAt": at}}}]}))
}

/// Tries a future for at most a minute.
pub async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(60), future).await.unwrap_or_else(|_| panic!("{what} took a minute"))
}
