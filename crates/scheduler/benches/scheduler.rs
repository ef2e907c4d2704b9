//! The scheduler against the API server on an embedded store, in one process: pods made before, from the scheduler's start
//! to the last binding seen by a watch. `cargo xtask bench scheduler`, or `cargo bench -p orkd-scheduler`.
//!
//! `ORKD_BENCH_SHARE=0.1` measures a tenth of everything; `ORKD_BENCH_ONLY` names a workload. The workloads are those of
//! upstream's `scheduler_perf`; beside each figure stands what was measured of a stock scheduler, API server and etcd on
//! such a machine, and the processor time of the process: scheduler, API server, store and the watch that counts. On two
//! cores nothing can be faster than half of that, and nothing is slower on a machine that does nothing else.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use http_body_util::BodyExt;
use orkd_apiserver::bootstrap::Facts;
use orkd_apiserver::cache::Caches;
use orkd_apiserver::pipeline::ApiServer;
use orkd_apiserver::security::{self, Guard, Options};
use orkd_apiserver::user::{InProcess, MASTERS, UserInfo};
use orkd_base::{Supervisor, TaskKind};
use orkd_pki::cluster::{ClusterPki, ServerNames};
use orkd_reconcile::{Api, Client, Informers, ListOptions, Target};
use orkd_store::backends::embedded;
use serde::de::IgnoredAny;
use serde_json::{Value, json};

/// As the binary's.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// How many requests the bench itself makes at a time.
const AT_A_TIME: usize = 64;

struct Workload {
    name: &'static str,
    nodes: usize,
    pods: usize,
    /// Pods a second that are wanted, and what a stock scheduler does.
    budget: f64,
    stock: f64,
    spec: fn() -> Value,
}

fn basic() -> Value {
    json!({"automountServiceAccountToken": false, "containers": [{"name": "c", "image": "registry.k8s.io/pause:3.10",
        "resources": {"requests": {"cpu": "100m", "memory": "500Mi"}}}]})
}

fn anti_affinity() -> Value {
    let mut spec = basic();
    spec["affinity"] = json!({"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [
        {"topologyKey": "kubernetes.io/hostname", "labelSelector": {"matchLabels": {"color": "green"}}}]}});
    spec
}

fn spread() -> Value {
    let mut spec = basic();
    spec["topologySpreadConstraints"] = json!([{"maxSkew": 5, "topologyKey": "topology.kubernetes.io/zone",
        "whenUnsatisfiable": "DoNotSchedule", "labelSelector": {"matchLabels": {"color": "green"}}}]);
    spec
}

const WORKLOADS: [Workload; 3] = [
    Workload { name: "SchedulingBasic", nodes: 5000, pods: 10_000, budget: 5000.0, stock: 315.0, spec: basic },
    Workload {
        name: "required anti-affinity",
        nodes: 5000,
        pods: 2000,
        budget: 1000.0,
        stock: 104.0,
        spec: anti_affinity,
    },
    Workload { name: "topology spread", nodes: 5000, pods: 5000, budget: 2000.0, stock: 214.0, spec: spread },
];

struct World {
    server: ApiServer,
    supervisor: Supervisor,
    _guard: Guard,
    _dir: tempfile::TempDir,
}

impl World {
    async fn new() -> World {
        let dir = tempfile::tempdir().expect("a directory");
        let pki = ClusterPki::load_or_create(&dir.path().join("pki"), ServerNames::default(), jiff::Timestamp::now());
        let pki = pki.expect("pki");
        let store = embedded::Embedded::open(dir.path().join("db"), embedded::Options::default()).expect("a store");
        let kinds = orkd_api::kinds::all().into_iter().map(Arc::from).collect();
        let caches = Caches::open(Arc::new(store), kinds).await.expect("caches");
        let cidr = "10.43.0.0/16".parse().expect("a range");
        let options = Options { service_cidrs: vec![cidr], ..Options::default() };
        let (builder, guard) =
            security::secure(ApiServer::builder(caches.clone()), &caches, &pki, &options).expect("secured");
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
        World { server, supervisor: Supervisor::new(), _guard: guard, _dir: dir }
    }

    fn client(&self, user: UserInfo) -> Client {
        let (router, user) = (self.server.router(), InProcess(user));
        Client::straight(move |request| {
            let mut request = request.map(orkd_apiserver::Body::from);
            request.extensions_mut().insert(user.clone());
            tower::ServiceExt::oneshot(router.clone(), request)
        })
    }
}

async fn make(api: &Api, path: &str, bodies: impl Iterator<Item = Value>) {
    let requests = bodies.map(|body| async move {
        api.create::<IgnoredAny>(&Target::path(path), &body).await.expect("made");
    });
    futures_util::stream::iter(requests).buffer_unordered(AT_A_TIME).collect::<()>().await;
}

fn node(i: usize) -> Value {
    let name = format!("node-{i}");
    let amounts = json!({"cpu": "4", "memory": "32Gi", "pods": "110"});
    json!({"apiVersion": "v1", "kind": "Node",
        "metadata": {"name": name, "labels": {"kubernetes.io/hostname": name,
            "topology.kubernetes.io/zone": format!("zone-{}", i % 3)}},
        "status": {"allocatable": amounts, "capacity": amounts}})
}

/// Processor time of this process, of user and system.
fn processor_time() -> Duration {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let fields = stat.rsplit_once(')').map_or("", |(_, rest)| rest).split_whitespace();
    // The 14th and 15th, of which two are before the bracket; a hundred ticks a second on every architecture.
    let ticks: u64 = fields.skip(11).take(2).filter_map(|f| f.parse::<u64>().ok()).sum();
    Duration::from_millis(10 * ticks)
}

/// How many processes wanted a core in the last minute.
fn load() -> String {
    let text = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split(' ').next().unwrap_or_default().to_owned()
}

/// What was asked of the API server so far: how often, by verb, resource and answer.
fn requests() -> BTreeMap<String, u64> {
    let mut text = String::new();
    orkd_base::metrics::render(&mut text);
    let label = |line: &str, name: &str| {
        let rest = line.split_once(&format!("{name}=\"")).map_or("", |(_, rest)| rest);
        rest.split('"').next().unwrap_or_default().to_owned()
    };
    let counted = text.lines().filter(|l| l.starts_with("apiserver_request_total{"));
    let mut all = BTreeMap::new();
    for line in counted {
        let [verb, resource, subresource, code] =
            ["verb", "resource", "subresource", "code"].map(|name| label(line, name));
        let count = line.rsplit(' ').next().and_then(|n| n.parse::<u64>().ok()).unwrap_or(0);
        *all.entry(format!("{verb} {resource}/{subresource} {code}")).or_default() += count;
    }
    all
}

/// Counts the pods that are bound from now on. It reads no more of an object than it must: what it costs is not what is
/// measured.
async fn count_bound(api: &Api, bound: Arc<AtomicUsize>) {
    const PODS: &str = "/api/v1/pods";
    let list = api.list::<IgnoredAny>(&Target::path(PODS), &ListOptions { limit: 1, ..ListOptions::default() }).await;
    let version = list.expect("a list").metadata.resource_version;
    // Those that have a node: a pod is added when it gets one.
    let path = format!("{PODS}?watch=true&fieldSelector=spec.nodeName!%3D&resourceVersion={version}");
    let answer = api.stream(http::Method::GET, &path, "application/json").await.expect("a watch");
    tokio::spawn(async move {
        let mut body = answer.into_body();
        // A line of a change begins so; in an object a quote would be escaped.
        const ADDED: &[u8] = br#"{"type":"ADDED","object""#;
        let mut is_new_line = true;
        while let Some(Ok(frame)) = body.frame().await {
            let Ok(data) = frame.into_data() else { continue };
            for line in data.split_inclusive(|b| *b == b'\n') {
                if is_new_line && line.starts_with(ADDED) {
                    bound.fetch_add(1, Ordering::Relaxed);
                }
                is_new_line = line.ends_with(b"\n");
            }
        }
    });
}

async fn measure(workload: &Workload, share: f64) {
    let part = |n: usize| ((n as f64 * share) as usize).max(1);
    let (nodes, pods) = (part(workload.nodes), part(workload.pods));
    let world = World::new().await;
    let admin = Api::new(world.client(UserInfo::new("admin", &[MASTERS])), "bench");
    let account = json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "default"}});
    make(&admin, "/api/v1/namespaces/default/serviceaccounts", [account].into_iter()).await;
    make(&admin, "/api/v1/nodes", (0..nodes).map(node)).await;
    // New nodes are tainted until they are ready; nobody says that these are.
    let untaint = (0..nodes).map(|i| {
        let admin = &admin;
        async move {
            let target = Target::path(format!("/api/v1/nodes/node-{i}"));
            let patch = orkd_reconcile::Patch::Merge(json!({"spec": {"taints": null}}));
            admin.patch::<IgnoredAny>(&target, &patch).await.expect("untainted");
        }
    });
    futures_util::stream::iter(untaint).buffer_unordered(AT_A_TIME).collect::<()>().await;
    let pod = |i: usize| {
        json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": format!("pod-{i}"), "labels": {"color": "green"}},
            "spec": (workload.spec)()})
    };
    make(&admin, "/api/v1/namespaces/default/pods", (0..pods).map(pod)).await;
    // A watch of its own sees what is bound.
    let bound = Arc::new(AtomicUsize::new(0));
    count_bound(&admin, bound.clone()).await;
    let asked = requests();
    let (start, before) = (Instant::now(), processor_time());
    let client = world.client(UserInfo::new("system:kube-scheduler", &[]));
    let informers = Informers::new(client.clone(), world.supervisor.clone());
    let api = Api::new(client, "kube-scheduler");
    let config = Arc::new(orkd_scheduler::Config::default());
    let tasks = world.supervisor.clone();
    world.supervisor.run(TaskKind::Controller, "scheduler", move |stop| {
        let (informers, api) = (informers.clone(), api.clone());
        orkd_scheduler::run(config.clone(), informers, api, String::new(), tasks.clone(), stop)
    });
    while bound.load(Ordering::Relaxed) < pods {
        let bound = bound.load(Ordering::Relaxed);
        assert!(start.elapsed() < Duration::from_secs(600), "{}: {bound} of {pods} pods bound", workload.name);
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let cpu = processor_time() - before;
    let rate = pods as f64 / start.elapsed().as_secs_f64();
    let verdict = if rate >= workload.budget { "" } else { "  (missed)" };
    let what = format!("{}, {nodes} nodes, {pods} pods", workload.name);
    let (each, two_cores) = (cpu.as_micros() / pods as u128, 2.0 * pods as f64 / cpu.as_secs_f64());
    println!(
        "{what:<52} {rate:>6.0} pods/s of {}{verdict}; CPU {each} us a pod ({two_cores:.0} pods/s on two idle cores); \
         load {}; stock {}",
        workload.budget,
        load(),
        workload.stock
    );
    let now = requests();
    let more = now.iter().map(|(what, n)| (what, n - asked.get(what).copied().unwrap_or(0))).filter(|(_, n)| *n > 1);
    println!("    {}", more.map(|(what, n)| format!("{what}: {n}")).collect::<Vec<_>>().join(", "));
    world.supervisor.token(orkd_base::Stage::Loops).cancel();
}

#[tokio::main]
async fn main() {
    let share: f64 = std::env::var("ORKD_BENCH_SHARE").ok().and_then(|s| s.parse().ok()).unwrap_or(1.0);
    let only = std::env::var("ORKD_BENCH_ONLY").unwrap_or_default();
    for workload in WORKLOADS.iter().filter(|w| w.name.contains(&only)) {
        measure(workload, share).await;
    }
}
