//! What a pod costs in memory in all controllers together: their caches, the indexes over them, and what the garbage
//! collector knows. They run against a server that is played, which has many pods of replica sets that are content.

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures_util::{StreamExt, stream};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, StreamBody};
use orkd_base::{BoxError, Clock, Supervisor};
use orkd_controllers::{Composition, Config, run_all};
use orkd_reconcile::Informers;
use serde_json::{Value, json};

/// Bytes a pod may cost: 150,000 of them 240 MB, where scheduler and controllers together may have 1,000 MB.
const BUDGET: usize = 1600;

const SETS: usize = 40;
const NODES: usize = 50;

/// Counts what is allocated and not freed.
struct Counting;

static HELD: AtomicUsize = AtomicUsize::new(0);

// SAFETY: everything is done by the system's allocator; the count is beside it.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        HELD.fetch_add(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller's promises are those that the system's allocator asks for.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, ptr: *mut u8, layout: Layout) {
        HELD.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: as above.
        unsafe { System.dealloc(ptr, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn uid(kind: usize, n: usize) -> String {
    format!("{kind:08x}-0000-4000-8000-{n:012x}")
}

fn node(n: usize) -> Value {
    json!({"kind": "Node", "apiVersion": "v1",
        "metadata": {"name": format!("n-{n}"), "uid": uid(1, n), "resourceVersion": "1",
            "annotations": {"node.alpha.kubernetes.io/ttl": "0"}},
        "status": {"conditions": [{"type": "Ready", "status": "True"}]}})
}

fn set(n: usize, pods: usize) -> Value {
    json!({"kind": "ReplicaSet", "apiVersion": "apps/v1",
        "metadata": {"name": format!("set-{n}"), "namespace": "shop", "uid": uid(2, n), "resourceVersion": "2",
            "generation": 1},
        "spec": {"replicas": pods, "selector": {"matchLabels": {"app": format!("set-{n}")}},
            "template": {"metadata": {"labels": {"app": format!("set-{n}")}}}},
        "status": {"replicas": pods, "fullyLabeledReplicas": pods, "readyReplicas": pods, "availableReplicas": pods,
            "terminatingReplicas": 0, "observedGeneration": 1}})
}

/// A pod as the API server has it once it runs.
fn pod(n: usize) -> Value {
    let (of, app) = (n % SETS, format!("set-{}", n % SETS));
    let (ip, host) = (format!("10.42.{}.{}", n >> 8, n & 255), format!("192.0.2.{}", n % NODES));
    let toleration = |key: &str| json!({"key": format!("node.kubernetes.io/{key}"), "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 300});
    // No two pods become ready in the same second.
    let since = jiff::Timestamp::from_second(1_767_225_600 + n as i64).expect("a time").to_string();
    let condition = |ty: &str| json!({"type": ty, "status": "True", "observedGeneration": 1, "lastProbeTime": null, "lastTransitionTime": since});
    let conditions =
        ["PodReadyToStartContainers", "Initialized", "Ready", "ContainersReady", "PodScheduled"].map(condition);
    json!({"kind": "Pod", "apiVersion": "v1",
        "metadata": {"name": format!("{app}-{n:05}"), "generateName": format!("{app}-"), "namespace": "shop",
            "uid": uid(3, n), "resourceVersion": (1000 + n).to_string(), "generation": 1, "creationTimestamp": since,
            "labels": {"app": app, "pod-template-hash": "5d8f6c7b9", "tier": "front"},
            "annotations": {"example.com/checksum": "0123456789abcdef"},
            "ownerReferences": [{"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": app, "uid": uid(2, of),
                "controller": true, "blockOwnerDeletion": true}],
            "managedFields": [{"manager": "kubelet", "operation": "Update", "fieldsV1": {"f:status": {}}}]},
        "spec": {"nodeName": format!("n-{}", n % NODES), "restartPolicy": "Always", "serviceAccountName": "default",
            "schedulerName": "default-scheduler", "tolerations": [toleration("not-ready"), toleration("unreachable")],
            "volumes": [{"name": "token", "projected": {"sources": []}}],
            "containers": [{"name": "c", "image": "registry.example/app:1.0",
                "ports": [{"name": "web", "containerPort": 8080, "protocol": "TCP"}]}]},
        "status": {"phase": "Running", "podIP": ip, "podIPs": [{"ip": ip}], "hostIP": host, "conditions": conditions,
            "containerStatuses": [{"name": "c", "ready": true, "restartCount": 0, "image": "registry.example/app:1.0",
                "containerID": format!("containerd://{n:064x}"), "state": {"running": {"startedAt": since}}}]}})
}

fn resources(all: &[(&str, &str)]) -> Value {
    let one = |(name, kind): &(&str, &str)| json!({"name": name, "kind": kind, "namespaced": true, "verbs": ["delete", "list", "watch", "get"]});
    json!({"kind": "APIResourceList", "resources": all.iter().map(one).collect::<Vec<_>>()})
}

type Body = UnsyncBoxBody<Bytes, BoxError>;

/// The server that is played.
struct Server {
    pods: usize,
    /// How many watches of pods have been read to where nothing happens any more.
    read: AtomicUsize,
}

impl Server {
    fn objects(&self, path: &str) -> Vec<Value> {
        match path {
            "/api/v1/pods" => (0..self.pods).map(pod).collect(),
            "/api/v1/nodes" => (0..NODES).map(node).collect(),
            "/apis/apps/v1/replicasets" => (0..SETS).map(|n| set(n, self.pods / SETS)).collect(),
            _ => Vec::new(),
        }
    }

    fn answer(self: &Arc<Self>, path: &str, query: &str) -> http::Response<Body> {
        let json = |value: Value| {
            let frame = Ok(http_body::Frame::data(Bytes::from(value.to_string())));
            http::Response::new(StreamBody::new(stream::iter([frame])).boxed_unsync())
        };
        match path {
            "/api" => return json(json!({"kind": "APIVersions", "versions": ["v1"]})),
            "/apis" => {
                let apps = json!({"groupVersion": "apps/v1", "version": "v1"});
                return json(json!({"kind": "APIGroupList",
                    "groups": [{"name": "apps", "versions": [apps], "preferredVersion": apps}]}));
            }
            "/api/v1" => return json(resources(&[("pods", "Pod")])),
            "/apis/apps/v1" => return json(resources(&[("replicasets", "ReplicaSet")])),
            _ if !query.contains("watch=true") => {
                let none = json!({"kind": "Status", "code": 404, "reason": "NotFound", "message": "not found"});
                let mut answer = json(none);
                *answer.status_mut() = http::StatusCode::NOT_FOUND;
                return answer;
            }
            _ => {}
        }
        let events = self.objects(path).into_iter().map(|object| json!({"type": "ADDED", "object": object}));
        let end = json!({"type": "BOOKMARK", "object": {"metadata": {"resourceVersion": "1000000",
            "annotations": {"k8s.io/initial-events-end": "true"}}}});
        let frame = |event: Value| Ok::<_, BoxError>(http_body::Frame::data(Bytes::from(format!("{event}\n"))));
        let server = Arc::clone(self);
        let is_pods = path == "/api/v1/pods";
        let end = stream::once(async move {
            server.read.fetch_add(usize::from(is_pods), Ordering::Relaxed);
            end
        });
        let frames = stream::iter(events).chain(end).map(frame).chain(stream::pending());
        http::Response::new(StreamBody::new(frames).boxed_unsync())
    }
}

/// What is held once all controllers know so many pods.
async fn held_with(pods: usize) -> usize {
    let server = Arc::new(Server { pods, read: AtomicUsize::new(0) });
    let played = server.clone();
    let service = tower::service_fn(move |request: http::Request<kube::client::Body>| {
        let answer = played.answer(request.uri().path(), request.uri().query().unwrap_or_default());
        async move { Ok::<_, BoxError>(answer) }
    });
    let client = kube::Client::new(service, "default");
    let supervisor = Supervisor::new();
    let before = HELD.load(Ordering::Relaxed);
    run_all(Composition {
        informers: Informers::new(client.clone(), supervisor.clone()),
        supervisor: supervisor.clone(),
        clock: Clock::real(),
        config: Config::default(),
        client: Box::new(move |_| client.clone().into()),
    });
    // The controllers' own cache of pods, and the garbage collector's.
    let limit = tokio::time::Instant::now() + Duration::from_secs(120);
    let (mut last, mut same) = (0, 0);
    while same < 5 {
        assert!(tokio::time::Instant::now() < limit, "the controllers do not come to rest");
        tokio::time::sleep(Duration::from_millis(100)).await;
        let held = HELD.load(Ordering::Relaxed) - before;
        let is_read = server.read.load(Ordering::Relaxed) >= 2;
        same = if is_read && held.abs_diff(last) < last / 200 { same + 1 } else { 0 };
        last = held;
    }
    supervisor.shutdown(Duration::from_secs(5)).await;
    last
}

#[tokio::test]
async fn a_pod_costs_little_in_all_controllers_together() {
    let (few, many) = (SETS * 25, SETS * 150);
    let cost = (held_with(many).await - held_with(few).await) / (many - few);
    println!("a pod costs {cost} bytes");
    assert!(cost <= BUDGET, "a pod costs {cost} bytes of {BUDGET}");
}
