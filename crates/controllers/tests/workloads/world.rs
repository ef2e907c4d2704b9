//! An API server, controllers that can be killed, and a kubelet that is played.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use orkd_apiserver::bootstrap::Facts;
use orkd_apiserver::cache::Caches;
use orkd_apiserver::pipeline::ApiServer;
use orkd_apiserver::security::{self, Guard, Options};
use orkd_apiserver::user::{InProcess, MASTERS, UserInfo};
use orkd_base::{Clock, Supervisor, TaskKind};
use orkd_controllers::{Composition, Config, run_some};
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
    writes: AtomicUsize,
    died: Notify,
}

impl Fate {
    pub fn at(write: usize) -> Arc<Fate> {
        Arc::new(Fate { at: write, ..Fate::default() })
    }

    pub fn writes(&self) -> usize {
        self.writes.load(Ordering::SeqCst)
    }

    fn is_dead(&self) -> bool {
        self.at > 0 && self.writes() >= self.at
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

fn client(server: &ApiServer, user: UserInfo, fate: Arc<Fate>) -> kube::Client {
    let router = server.router();
    let service = tower::service_fn(move |request: http::Request<kube::client::Body>| {
        let mut request = request.map(orkd_apiserver::Body::new);
        request.extensions_mut().insert(InProcess(user.clone()));
        let (router, fate) = (router.clone(), fate.clone());
        async move {
            // Events are told, not decided by.
            let path = request.uri().path();
            let writes = request.method() != http::Method::GET && !path.ends_with("/events");
            if fate.is_dead() {
                std::future::pending::<()>().await;
            }
            let answer = tower::ServiceExt::oneshot(router, request).await;
            if writes {
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
        let admin = client(&server, UserInfo::new("admin", &[MASTERS]), Arc::default());
        World { api: Api::new(admin, "test"), supervisor, server, _guard: guard, _dir: dir }
    }

    /// An API server with the controllers of these names.
    pub async fn start(names: &'static [&'static str]) -> World {
        let world = World::empty().await;
        world.account("default").await;
        world.control(&world.supervisor, names, &Arc::default());
        world
    }

    /// Makes the account that pods of a namespace have.
    pub async fn account(&self, namespace: &str) {
        let account = json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "default"}});
        self.create(&format!("/api/v1/namespaces/{namespace}/serviceaccounts"), account).await;
    }

    /// Runs controllers until the supervisor ends, or their fate is fulfilled.
    pub fn control(&self, supervisor: &Supervisor, names: &'static [&'static str], fate: &Arc<Fate>) {
        let admin = client(&self.server, UserInfo::new("admin", &[MASTERS]), Arc::default());
        let (server, fate) = (self.server.clone(), fate.clone());
        let composition = Composition {
            informers: Informers::new(admin, supervisor.clone()),
            supervisor: supervisor.clone(),
            clock: Clock::real(),
            config: Config::default(),
            client: Box::new(move |account| {
                client(&server, UserInfo::service_account("kube-system", account), fate.clone())
            }),
        };
        run_some(composition, |name| names.contains(&name));
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
    let phase = if code == 0 { "Succeeded" } else { "Failed" };
    let long_ago = orkd_reconcile::time(Timestamp::from_second(Timestamp::now().as_second() - 3600).expect("a time"));
    Some(json!({"phase": phase, "containerStatuses": [{"name": "c", "image": "i", "imageID": "", "restartCount": 0,
        "ready": false, "state": {"terminated": {"exitCode": code, "startedAt": long_ago, "finishedAt": long_ago}}}]}))
}

/// Tries a future for at most a minute.
pub async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(60), future).await.unwrap_or_else(|_| panic!("{what} took a minute"))
}
