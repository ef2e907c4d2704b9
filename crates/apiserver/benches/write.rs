//! `cargo bench -p orkd-apiserver --bench write`: what one write costs, beside its budget.
//!
//! A whole server in this process, with everything that stands in the way of a request but sockets: authentication,
//! authorization, flow control, admission, the embedded store and the watch cache. Sixteen requests are in flight on one
//! thread, as in `cargo xtask bench api`. Printed are the processor time of all threads and the allocations of one
//! operation; the first depends on the machine and on what else it does, the second on nothing.
//!
//! Instructions say the same every time. Each operation is a part of its own of
//!
//! ```text
//! valgrind --tool=callgrind --dump-before='*bench_begins*' --dump-before='*bench_ends*' target/release/deps/write-HASH
//! ```
//!
//! whose `totals:` are those of `ORKD_BENCH_OPERATIONS` operations (1,000 unless it says otherwise): the second file of
//! the run is the first operation's, the fourth the second's. `ORKD_BENCH_ONLY` names operations; others are then done
//! once where later ones need their objects, and not measured.

use std::alloc::{GlobalAlloc, Layout};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures_util::StreamExt;
use orkd_apiserver::Body;
use orkd_apiserver::bootstrap::Facts;
use orkd_apiserver::cache::Caches;
use orkd_apiserver::pipeline::ApiServer;
use orkd_apiserver::security::{self, Guard, Options};
use orkd_apiserver::user::{InProcess, MASTERS, UserInfo};
use orkd_pki::cluster::{ClusterPki, ServerNames};
use orkd_store::backends::embedded;
use serde_json::{Value, json};
use tower::ServiceExt;

/// The binary's allocator, counted.
struct Counting;

static ALLOCATIONS: AtomicU64 = AtomicU64::new(0);
static MIMALLOC: mimalloc::MiMalloc = mimalloc::MiMalloc;

// SAFETY: everything is done by mimalloc; the count is beside it.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        // SAFETY: the caller's promises are those that mimalloc asks for.
        unsafe { MIMALLOC.alloc(layout) }
    }

    unsafe fn realloc(&self, ptr: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        // SAFETY: as above.
        unsafe { MIMALLOC.realloc(ptr, layout, new_size) }
    }

    unsafe fn dealloc(&self, ptr: *mut u8, layout: Layout) {
        // SAFETY: as above.
        unsafe { MIMALLOC.dealloc(ptr, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// How many requests are in flight.
const IN_FLIGHT: usize = 16;

/// One kind of request, made for the objects `0..`.
struct Operation {
    name: &'static str,
    /// Microseconds of processor time that one may take.
    budget: f64,
    method: &'static str,
    path: fn(usize) -> String,
    media_type: &'static str,
    body: fn(usize) -> Value,
    user: fn() -> UserInfo,
    agent: &'static str,
}

const JSON: &str = "application/json";

fn admin() -> UserInfo {
    UserInfo::new("admin", &[MASTERS])
}

fn scheduler() -> UserInfo {
    UserInfo::new("system:kube-scheduler", &[])
}

fn node() -> UserInfo {
    UserInfo::new("system:node:node-0", &["system:nodes"])
}

fn config_maps(_: usize) -> String {
    "/api/v1/namespaces/default/configmaps".into()
}

fn one_config_map(i: usize) -> String {
    format!("/api/v1/namespaces/default/configmaps/c{i:05}")
}

fn config_map(i: usize, value: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "ConfigMap",
        "metadata": {"name": format!("c{i:05}"), "labels": {"group": (i / 50).to_string()}},
        "data": {"k": value, "filling": "x".repeat(900)},
    })
}

fn pod(i: usize) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": format!("p{i:05}"), "labels": {"app": "bench", "group": (i / 50).to_string()}},
        "spec": {
            "schedulerName": "none", "automountServiceAccountToken": false,
            "containers": [{
                "name": "c", "image": "registry.example/app:1.0", "command": ["/app"], "args": ["--serve"],
                "env": [{"name": "A", "value": "1"}, {"name": "B", "value": "2"}],
                "ports": [{"containerPort": 8080}],
                "resources": {"requests": {"cpu": "100m", "memory": "64Mi"}, "limits": {"memory": "128Mi"}},
                "readinessProbe": {"httpGet": {"path": "/", "port": 8080}},
            }],
        },
    })
}

fn binding(i: usize) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Binding", "metadata": {"namespace": "default", "name": format!("p{i:05}")},
        "target": {"kind": "Node", "name": "node-0"},
    })
}

fn event(i: usize) -> Value {
    let name = format!("p{i:05}");
    json!({
        "apiVersion": "v1", "kind": "Event",
        "metadata": {"name": format!("{name}.187a1b2c3d4e5f60"), "namespace": "default"},
        "involvedObject": {"kind": "Pod", "namespace": "default", "name": name, "apiVersion": "v1",
            "uid": "0b4ff4a1-9c1e-4c3c-9d0f-4a3e4a8f7a10", "resourceVersion": "1234"},
        "reason": "Scheduled", "message": format!("Successfully assigned default/{name} to node-0"), "type": "Normal",
        "source": {"component": "default-scheduler"},
        "firstTimestamp": "2026-11-21T12:00:00Z", "lastTimestamp": "2026-11-21T12:00:00Z", "count": 1,
        "eventTime": null, "reportingComponent": "default-scheduler", "reportingInstance": "",
    })
}

/// What a kubelet says of a pod that has started.
fn started(_: usize) -> Value {
    let condition = |kind: &str| {
        json!({"type": kind, "status": "True", "lastProbeTime": null,
        "lastTransitionTime": "2026-11-21T12:00:00Z", "observedGeneration": 1})
    };
    let order = ["PodReadyToStartContainers", "Initialized", "Ready", "ContainersReady", "PodScheduled"];
    json!({
        "status": {
            "$setElementOrder/conditions": order.map(|kind| json!({"type": kind})),
            "conditions": order[..4].iter().map(|kind| condition(kind)).collect::<Vec<_>>(),
            "containerStatuses": [{
                "name": "c", "ready": true, "restartCount": 0, "started": true, "lastState": {},
                "image": "registry.example/app:1.0",
                "imageID": "registry.example/app@sha256:4bc6d1f4a3e0c6d8e0b6e5f3a2d1c0b9a8f7e6d5c4b3a291807f6e5d4c3b2a19",
                "containerID": "containerd://9d1f0c7f2f4b6a8e0d2c4b6a8f0e1d3c5b7a9f8e6d4c2b0a1f3e5d7c9b8a6f4e",
                "state": {"running": {"startedAt": "2026-11-21T12:00:00Z"}},
            }],
            "hostIP": "192.0.2.7", "hostIPs": [{"ip": "192.0.2.7"}], "phase": "Running", "podIP": "10.42.0.9",
            "podIPs": [{"ip": "10.42.0.9"}], "startTime": "2026-11-21T12:00:00Z",
        },
    })
}

/// Later ones work on the objects of earlier ones. The budgets of what `bench api` measures are its own, less what a socket
/// takes; those of a binding and an event leave half of two cores' time at 5,000 pods a second to everything else.
const OPERATIONS: [Operation; 8] = [
    Operation {
        name: "create ConfigMap, 1 KB",
        budget: 230.0,
        method: "POST",
        path: config_maps,
        media_type: JSON,
        body: |i| config_map(i, "0"),
        user: admin,
        agent: "bench",
    },
    Operation {
        name: "update ConfigMap",
        budget: 330.0,
        method: "PUT",
        path: one_config_map,
        media_type: JSON,
        body: |i| config_map(i, "1"),
        user: admin,
        agent: "bench",
    },
    Operation {
        name: "merge patch ConfigMap",
        budget: 350.0,
        method: "PATCH",
        path: one_config_map,
        media_type: "application/merge-patch+json",
        body: |i| json!({"data": {"k": format!("m{i}")}}),
        user: admin,
        agent: "bench",
    },
    Operation {
        name: "server-side apply ConfigMap",
        budget: 400.0,
        method: "PATCH",
        path: |i| format!("{}?fieldManager=bench&force=true", one_config_map(i)),
        media_type: "application/apply-patch+yaml",
        body: |i| config_map(i, "a"),
        user: admin,
        agent: "bench",
    },
    Operation {
        name: "create Pod",
        budget: 400.0,
        method: "POST",
        path: |_| "/api/v1/namespaces/default/pods".into(),
        media_type: JSON,
        body: pod,
        user: admin,
        agent: "bench",
    },
    Operation {
        name: "bind Pod",
        budget: 100.0,
        method: "POST",
        path: |i| format!("/api/v1/namespaces/default/pods/p{i:05}/binding"),
        media_type: JSON,
        body: binding,
        user: scheduler,
        agent: "kube-scheduler/v1.36.0",
    },
    Operation {
        name: "create Event",
        budget: 100.0,
        method: "POST",
        path: |_| "/api/v1/namespaces/default/events".into(),
        media_type: JSON,
        body: event,
        user: scheduler,
        agent: "kube-scheduler/v1.36.0",
    },
    Operation {
        name: "patch status of Pod",
        budget: 300.0,
        method: "PATCH",
        path: |i| format!("/api/v1/namespaces/default/pods/p{i:05}/status"),
        media_type: "application/strategic-merge-patch+json",
        body: started,
        user: node,
        agent: "kubelet/v1.36.0",
    },
];

struct World {
    server: ApiServer,
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
        let world = World { server, _guard: guard, _dir: dir };
        let account = json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "default"}});
        let node = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "node-0"}});
        for (path, body) in [("/api/v1/namespaces/default/serviceaccounts", account), ("/api/v1/nodes", node)] {
            let code = world.send(request("POST", path, JSON, &body, admin(), "bench")).await;
            assert!(code == 201 || code == 409, "{path}: {code}");
        }
        world
    }

    async fn send(&self, request: http::Request<Body>) -> u16 {
        let response = self.server.router().oneshot(request).await.expect("infallible");
        let code = response.status().as_u16();
        let bytes = http_body_util::BodyExt::collect(response.into_body()).await.expect("a body").to_bytes();
        if code >= 300 {
            eprintln!("{code}: {}", String::from_utf8_lossy(&bytes));
        }
        code
    }

    async fn send_all(&self, requests: Vec<http::Request<Body>>) -> usize {
        let codes = futures_util::stream::iter(requests).map(|r| self.send(r)).buffer_unordered(IN_FLIGHT);
        codes.filter(|code| std::future::ready((200..300).contains(code))).count().await
    }
}

fn request(method: &str, path: &str, kind: &str, body: &Value, user: UserInfo, agent: &str) -> http::Request<Body> {
    let request = http::Request::builder()
        .method(method)
        .uri(path)
        .header("content-type", kind)
        .header("accept", JSON)
        .header("user-agent", agent)
        .extension(InProcess(user));
    request.body(Body::from(body.to_string())).expect("a request")
}

/// Processor time of all threads of this process.
fn processor_time() -> Duration {
    let threads = std::fs::read_dir("/proc/self/task").expect("threads");
    let nanos = threads.flatten().map(|thread| {
        let text = std::fs::read_to_string(thread.path().join("schedstat")).unwrap_or_default();
        text.split(' ').next().and_then(|n| n.parse::<u64>().ok()).unwrap_or_default()
    });
    Duration::from_nanos(nanos.sum())
}

/// Where a profile of one operation begins.
#[inline(never)]
fn bench_begins(name: &str) {
    std::hint::black_box(name);
}

/// And where it ends.
#[inline(never)]
fn bench_ends(name: &str) {
    std::hint::black_box(name);
}

async fn measure(world: &World, operation: &Operation, count: usize, is_wanted: bool) {
    let of = |i| {
        request(
            operation.method,
            &(operation.path)(i),
            operation.media_type,
            &(operation.body)(i),
            (operation.user)(),
            operation.agent,
        )
    };
    let requests: Vec<_> = (0..count).map(of).collect();
    if !is_wanted {
        assert_eq!(world.send_all(requests).await, count, "{}", operation.name);
        return;
    }
    let (cpu, allocations) = (processor_time(), ALLOCATIONS.load(Ordering::Relaxed));
    bench_begins(operation.name);
    let done = world.send_all(requests).await;
    bench_ends(operation.name);
    let (cpu, allocations) = (processor_time() - cpu, ALLOCATIONS.load(Ordering::Relaxed) - allocations);
    assert_eq!(done, count, "{}", operation.name);
    let each = cpu.as_secs_f64() * 1e6 / count as f64;
    let verdict = if each > operation.budget { "  missed" } else { "" };
    println!(
        "{:<28} {each:>6.0} us of {:>4.0}{verdict:<9} {:>6} allocations",
        operation.name,
        operation.budget,
        allocations / count as u64
    );
}

fn main() {
    let only = std::env::var("ORKD_BENCH_ONLY").unwrap_or_default();
    let count = std::env::var("ORKD_BENCH_OPERATIONS").ok().and_then(|n| n.parse().ok()).unwrap_or(1000);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let world = World::new().await;
        for operation in &OPERATIONS {
            measure(&world, operation, count, operation.name.contains(&only)).await;
        }
    });
}
