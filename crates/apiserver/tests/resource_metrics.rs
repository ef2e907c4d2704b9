//! `metrics.k8s.io` on a whole API server in process, with kubelets that answer and one that does not.

mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use common::{World, admin};
use http::Request;
use http_body_util::BodyExt;
use hyper_util::rt::TokioIo;
use jiff::Timestamp;
use orkd_apiserver::Body;
use orkd_apiserver::user::{InProcess, UserInfo};
use orkd_pki::Profile;
use serde_json::{Value, json};
use tower::ServiceExt;

const METRICS: &str = "/apis/metrics.k8s.io/v1beta1";

/// A kubelet whose pod `p` uses half a core and 3 MiB, and whose node a whole core. Counts how often it is asked.
async fn kubelet(world: &World) -> (u16, Arc<AtomicUsize>) {
    let profile = Profile::server("system:node:n1", vec![], vec![[127, 0, 0, 1].into()]);
    let identity = world.pki.ca.issue(&profile, Timestamp::now()).expect("certificate");
    let mut tls = orkd_pki::tls::server_config(&identity, &[]).expect("tls");
    tls.alpn_protocols.clear();
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(tls));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("bound");
    let port = listener.local_addr().expect("address").port();
    let (asked, started) = (Arc::new(AtomicUsize::new(0)), Instant::now());
    let count = asked.clone();
    tokio::spawn(async move {
        loop {
            let Ok((tcp, _)) = listener.accept().await else { return };
            let (acceptor, count) = (acceptor.clone(), count.clone());
            tokio::spawn(async move {
                let stream = acceptor.accept(tcp).await.expect("handshake");
                let service = hyper::service::service_fn(move |request: Request<hyper::body::Incoming>| {
                    count.fetch_add(1, Ordering::Relaxed);
                    let known = request.uri() == "/metrics/resource";
                    let (now, busy) = (Timestamp::now().as_millisecond(), started.elapsed().as_secs_f64());
                    let of_pod = r#"container="c",namespace="default",pod="p""#;
                    let text = format!(
                        "node_cpu_usage_seconds_total {busy} {now}\nnode_memory_working_set_bytes 1.048576e+08 {now}\n\
                         container_cpu_usage_seconds_total{{{of_pod}}} {} {now}\n\
                         container_memory_working_set_bytes{{{of_pod}}} 3.145728e+06 {now}\n",
                        busy / 2.0
                    );
                    let code = if known { 200 } else { 404 };
                    async move { http::Response::builder().status(code).body(Body::from(text)) }
                });
                let connection = hyper::server::conn::http1::Builder::new();
                let _ = connection.serve_connection(TokioIo::new(stream), service).await;
            });
        }
    });
    (port, asked)
}

async fn node(world: &World, name: &str, port: u16) {
    let node = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name, "labels": {"which": name}}});
    assert_eq!(world.call(&admin(), "POST", "/api/v1/nodes", node).await.0, 201);
    let path = format!("/api/v1/nodes/{name}");
    let mut node = world.call(&admin(), "GET", &path, Value::Null).await.1;
    node["status"] = json!({"addresses": [{"type": "InternalIP", "address": "127.0.0.1"}],
        "daemonEndpoints": {"kubeletEndpoint": {"Port": port}}});
    assert_eq!(world.call(&admin(), "PUT", &format!("{path}/status"), node).await.0, 200);
}

async fn pod(world: &World, name: &str, node: &str, phase: &str) {
    let path = "/api/v1/namespaces/default/pods";
    let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "labels": {"app": name}},
        "spec": {"nodeName": node, "containers": [{"name": "c", "image": "app"}]}});
    let (code, mut pod) = world.call(&admin(), "POST", path, pod).await;
    assert_eq!(code, 201, "{pod}");
    pod["status"]["phase"] = json!(phase);
    assert_eq!(world.call(&admin(), "PUT", &format!("{path}/{name}/status"), pod).await.0, 200);
}

/// Millionths of a core.
fn micro(cpu: &Value) -> i64 {
    let text = cpu.as_str().expect("a quantity");
    let (number, unit) = text.split_at(text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len()));
    let number: i64 = number.parse().expect("a number");
    match unit {
        "n" => number / 1000,
        "u" => number,
        "m" => number * 1000,
        "" => number * 1_000_000,
        other => panic!("{other}"),
    }
}

fn names(list: &Value) -> Vec<&str> {
    list["items"].as_array().into_iter().flatten().filter_map(|i| i["metadata"]["name"].as_str()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kubelets_are_asked_what_they_use() {
    let world = World::start().await;
    let account = json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "default"}});
    world.call(&admin(), "POST", "/api/v1/namespaces/default/serviceaccounts", account).await;
    let (port, asked) = kubelet(&world).await;
    node(&world, "n1", port).await;
    // Takes connections and says nothing.
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("bound");
    node(&world, "silent", silent.local_addr().expect("address").port()).await;
    pod(&world, "p", "n1", "Running").await;
    pod(&world, "waits", "n1", "Pending").await;
    pod(&world, "lost", "silent", "Running").await;
    let get = async |path: &str| world.call(&admin(), "GET", &format!("{METRICS}{path}"), Value::Null).await;
    assert_eq!(asked.load(Ordering::Relaxed), 0, "nobody has asked");

    let started = Instant::now();
    let (code, nodes) = get("/nodes").await;
    assert_eq!((code, names(&nodes)), (200, vec!["n1"]), "{nodes}");
    assert!(started.elapsed() < Duration::from_secs(9), "a silent kubelet is not waited for: {:?}", started.elapsed());
    let n1 = &nodes["items"][0];
    assert!((800_000..1_200_000).contains(&micro(&n1["usage"]["cpu"])), "{n1}");
    assert_eq!((&n1["usage"]["memory"], &n1["metadata"]["labels"]), (&json!("100Mi"), &json!({"which": "n1"})));
    let window = orkd_api::time::parse_duration(n1["window"].as_str().unwrap_or_default());
    assert!(window.is_ok_and(|nanos| nanos >= 900_000_000), "{n1}");

    // What was seen a moment ago is told again, and the silent one is left alone.
    let started = Instant::now();
    let (_, pods) = get("/pods").await;
    assert_eq!(names(&pods), ["p"], "{pods}");
    assert!(started.elapsed() < Duration::from_secs(1), "{:?}", started.elapsed());
    assert_eq!(asked.load(Ordering::Relaxed), 2);
    let p = &pods["items"][0];
    assert_eq!((&p["containers"][0]["name"], &p["containers"][0]["usage"]["memory"]), (&json!("c"), &json!("3Mi")));
    assert!((400_000..600_000).contains(&micro(&p["containers"][0]["usage"]["cpu"])), "{p}");

    // Selectors, names, and what is not there.
    let listed = async |path: &str| names(&get(path).await.1).len();
    assert_eq!(listed("/namespaces/default/pods?labelSelector=app%3Dp").await, 1);
    assert_eq!(listed("/namespaces/default/pods?labelSelector=app%3Dother").await, 0);
    assert_eq!(listed("/namespaces/kube-system/pods").await, 0);
    assert_eq!(listed("/pods?fieldSelector=metadata.namespace%3Ddefault").await, 1);
    assert_eq!(listed("/nodes?labelSelector=which%3Dn1").await, 1);
    assert_eq!(get("/pods?fieldSelector=status.phase%3DRunning").await.0, 400);
    assert_eq!(get("/pods?watch=true").await.0, 405);
    let (code, one) = get("/namespaces/default/pods/p").await;
    assert_eq!((code, &one["kind"], &one["apiVersion"]), (200, &json!("PodMetrics"), &json!("metrics.k8s.io/v1beta1")));
    let missing = async |path: &str| {
        let (code, status) = get(path).await;
        assert_eq!(code, 404, "{status}");
        status["message"].as_str().unwrap_or_default().to_owned()
    };
    assert_eq!(missing("/namespaces/default/pods/none").await, "pods \"default/none\" not found");
    let of_pod = "podmetrics.metrics.k8s.io \"default/waits\" not found";
    assert_eq!(missing("/namespaces/default/pods/waits").await, of_pod);
    assert_eq!(missing("/nodes/silent").await, "nodemetrics.metrics.k8s.io \"silent\" not found");

    // Other shapes and encodings.
    let raw = async |path: &str, accept: &str| {
        let request = Request::get(format!("{METRICS}{path}")).header("accept", accept);
        let request = request.extension(InProcess(admin())).body(Body::empty()).expect("request");
        let response = world.server.router().oneshot(request).await.expect("infallible");
        response.into_body().collect().await.expect("body").to_bytes()
    };
    let table: Value =
        serde_json::from_slice(&raw("/nodes", "application/json;as=Table;v=v1;g=meta.k8s.io").await).expect("JSON");
    let columns: Vec<&Value> =
        table["columnDefinitions"].as_array().into_iter().flatten().map(|c| &c["name"]).collect();
    assert_eq!(columns, [&json!("Name"), &json!("cpu"), &json!("memory"), &json!("Window")]);
    let row = &table["rows"][0];
    assert_eq!((&row["cells"][0], &row["cells"][2]), (&json!("n1"), &json!("100Mi")), "{table}");
    assert_eq!(row["object"]["metadata"]["name"], "n1");
    let protobuf = raw("/pods", "application/vnd.kubernetes.protobuf").await;
    assert!(protobuf.starts_with(b"k8s\0") && protobuf.windows(14).any(|w| w == b"PodMetricsList"), "{protobuf:?}");
    let text = b"3Mi";
    assert!(protobuf.windows(text.len()).any(|w| w == text), "{protobuf:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_group_is_shown_and_may_be_read_by_viewers() {
    let world = World::start().await;
    let get = async |user: &UserInfo, path: &str| world.call(user, "GET", path, Value::Null).await;
    let (code, list) = get(&admin(), METRICS).await;
    let facts: Vec<String> = list["resources"]
        .as_array()
        .into_iter()
        .flatten()
        .map(|r| format!("{} {} {} {} {}", r["name"], r["singularName"], r["namespaced"], r["kind"], r["verbs"]))
        .collect();
    let expected =
        [r#""nodes" "node" false "NodeMetrics" ["get","list"]"#, r#""pods" "pod" true "PodMetrics" ["get","list"]"#];
    assert_eq!((code, facts), (200, expected.map(str::to_owned).to_vec()));
    let path = "/apis/apiregistration.k8s.io/v1/apiservices/v1beta1.metrics.k8s.io";
    let service = get(&admin(), path).await.1;
    let available = &service["status"]["conditions"][0];
    assert_eq!((&available["type"], &available["status"]), (&json!("Available"), &json!("True")), "{service}");
    let document = get(&admin(), "/openapi/v3/apis/metrics.k8s.io/v1beta1").await.1;
    let schema = &document["components"]["schemas"]["io.k8s.metrics.pkg.apis.metrics.v1beta1.PodMetrics"];
    assert_eq!(schema["properties"]["window"]["description"], "The time before that over which CPU is averaged.");

    let viewer = UserInfo::new("viewer", &[]);
    let pods = format!("{METRICS}/namespaces/default/pods");
    assert_eq!(get(&viewer, &pods).await.0, 403);
    let grant = json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "RoleBinding",
        "metadata": {"name": "v"}, "subjects": [{"kind": "User", "name": "viewer", "apiGroup": "rbac.authorization.k8s.io"}],
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "view"}});
    let path = "/apis/rbac.authorization.k8s.io/v1/namespaces/default/rolebindings";
    assert_eq!(world.call(&admin(), "POST", path, grant).await.0, 201);
    assert_eq!(get(&viewer, &pods).await.0, 200);
    assert_eq!(get(&viewer, &format!("{METRICS}/nodes")).await.0, 403);
}
