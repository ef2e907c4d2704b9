//! All controllers against the real API server on an embedded store, in process, each with its own identity and no
//! more rights than upstream's roles give it. A small task plays the kubelet.

use std::sync::Arc;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use orkd_apiserver::bootstrap::Facts;
use orkd_apiserver::cache::Caches;
use orkd_apiserver::pipeline::ApiServer;
use orkd_apiserver::security::{self, Guard, Options};
use orkd_apiserver::user::{InProcess, MASTERS, UserInfo};
use orkd_base::{CancellationToken, Clock, Supervisor, TaskKind};
use orkd_controllers::{Composition, Config, Signers, run_all};
use orkd_pki::cluster::{ClusterPki, ServerNames};
use orkd_pki::{Key as PrivateKey, Profile, csr};
use orkd_reconcile::{Api, DeleteOptions, Informers, LeaderElection, LeaderElector, Patch, Propagation, Target};
use orkd_store::backends::embedded;
use serde_json::{Value, json};

struct World {
    /// What the metrics API answers; null: there is none.
    metrics: Arc<std::sync::Mutex<Value>>,
    api: Api,
    supervisor: Supervisor,
    server: ApiServer,
    _guard: Guard,
    _dir: tempfile::TempDir,
}

fn client(server: &ApiServer, user: UserInfo) -> kube::Client {
    client_with(server, user, Arc::default())
}

/// A client that gets pod metrics from here.
fn client_with(server: &ApiServer, user: UserInfo, metrics: Arc<std::sync::Mutex<Value>>) -> kube::Client {
    let router = server.router();
    let service = tower::service_fn(move |request: http::Request<kube::client::Body>| {
        let metrics = match request.uri().path().starts_with("/apis/metrics.k8s.io/") {
            true => metrics.lock().expect("a lock").clone(),
            false => Value::Null,
        };
        let mut request = request.map(orkd_apiserver::Body::new);
        request.extensions_mut().insert(InProcess(user.clone()));
        let router = router.clone();
        async move {
            if metrics.is_null() {
                return tower::ServiceExt::oneshot(router, request).await;
            }
            Ok(http::Response::new(orkd_apiserver::Body::from(metrics.to_string())))
        }
    });
    kube::Client::new(service, "default")
}

impl World {
    async fn start() -> World {
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
        let admin = client(&server, UserInfo::new("admin", &[MASTERS]));
        let ca = Arc::new(pki.ca);
        let of_server = server.clone();
        let metrics = Arc::<std::sync::Mutex<Value>>::default();
        let of_metrics = metrics.clone();
        run_all(Composition {
            informers: Informers::new(admin.clone(), supervisor.clone()),
            supervisor: supervisor.clone(),
            clock: Clock::real(),
            config: Config {
                cluster_cidrs: vec!["10.42.0.0/16".parse().expect("cidr")],
                root_ca_pem: ca.certificate().to_pem(),
                signers: Some(Signers { client: ca.clone(), serving: ca, longest: orkd_pki::cert::LEAF_LIFETIME }),
                ..Config::default()
            },
            client: Box::new(move |account| {
                client_with(&of_server, UserInfo::service_account("kube-system", account), of_metrics.clone()).into()
            }),
        });
        World { metrics, api: Api::new(admin, "test"), supervisor, server, _guard: guard, _dir: dir }
    }

    async fn get(&self, path: &str) -> Option<Value> {
        match self.api.get(&Target::path(path)).await {
            Ok(object) => Some(object),
            Err(err) if err.is_not_found() => None,
            Err(err) => panic!("{err}"),
        }
    }

    async fn items(&self, path: &str) -> Vec<Value> {
        let list = self.get(path).await.unwrap_or_default();
        list["items"].as_array().cloned().unwrap_or_default()
    }

    async fn create(&self, path: &str, body: Value) -> Value {
        self.api.create(&Target::path(path), &body).await.unwrap_or_else(|e| panic!("{}", orkd_base::chain(&e)))
    }

    async fn merge(&self, path: &str, body: Value) -> Value {
        let patched = self.api.patch(&Target::path(path), &Patch::Merge(body)).await;
        patched.unwrap_or_else(|e| panic!("{}", orkd_base::chain(&e)))
    }

    async fn delete(&self, path: &str, options: DeleteOptions) {
        self.api.delete(&Target::path(path), &options).await.unwrap_or_else(|e| panic!("{}", orkd_base::chain(&e)));
    }

    /// Waits until what a path answers is right; the last answer is in the failure.
    async fn eventually(&self, what: &str, path: &str, right: impl Fn(&Value) -> bool) -> Value {
        let deadline = Instant::now() + Duration::from_secs(20);
        loop {
            let state = self.get(path).await.unwrap_or(Value::Null);
            if right(&state) {
                return state;
            }
            assert!(Instant::now() < deadline, "{what}: {path} is {state:#}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Makes every pod of the cluster run, as a kubelet would.
    fn play_kubelet(&self) {
        let api = self.api.clone();
        self.supervisor.spawn(TaskKind::Node, "kubelet", move |stop| async move {
            let mut next = 1;
            while !stop.is_cancelled() {
                let pods: Value = api.get(&Target::path("/api/v1/pods")).await.unwrap_or_default();
                for pod in pods["items"].as_array().into_iter().flatten() {
                    if pod["status"]["phase"] == "Running" {
                        continue;
                    }
                    let meta = &pod["metadata"];
                    let text = |v: &Value| v.as_str().unwrap_or_default().to_owned();
                    let path =
                        format!("/api/v1/namespaces/{}/pods/{}/status", text(&meta["namespace"]), text(&meta["name"]));
                    let ip = format!("10.42.0.{next}");
                    next += 1;
                    let now = orkd_reconcile::time(Timestamp::now());
                    let status = json!({"status": {
                        "phase": "Running", "podIP": ip, "podIPs": [{"ip": ip}], "startTime": now,
                        "conditions": [{"type": "Ready", "status": "True", "lastTransitionTime": now}],
                    }});
                    // Pods come and go; the next look finds what is left.
                    let _ = api.patch::<Value>(&Target::path(path), &Patch::Merge(status)).await;
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        });
    }

    async fn stop(self) {
        self.supervisor.shutdown(Duration::from_secs(5)).await;
        self.server.caches().stop();
        self.server.store().close().await;
    }
}

const DEPLOYMENTS: &str = "/apis/apps/v1/namespaces/default/deployments";
const SETS: &str = "/apis/apps/v1/namespaces/default/replicasets";
const PODS: &str = "/api/v1/namespaces/default/pods";

fn deployment(name: &str, replicas: u32) -> Value {
    json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": name, "labels": {"app": name}},
        "spec": {
            "replicas": replicas, "selector": {"matchLabels": {"app": name}},
            "template": {
                "metadata": {"labels": {"app": name}},
                "spec": {"containers": [{"name": "c", "image": "example/one",
                    "ports": [{"name": "web", "containerPort": 8080}]}]},
            },
        },
    })
}

fn count(list: &Value) -> usize {
    list["items"].as_array().map_or(0, Vec::len)
}

fn progressing(deployment: &Value) -> &str {
    let conditions = deployment["status"]["conditions"].as_array();
    let found = conditions.into_iter().flatten().find(|c| c["type"] == "Progressing");
    found.and_then(|c| c["reason"].as_str()).unwrap_or("")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deployment_runs_rolls_and_goes() {
    let world = World::start().await;
    world.play_kubelet();
    // Endpoints are pods of nodes that are there.
    world.create("/api/v1/nodes", json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "n1"}})).await;
    let mut placed = deployment("web", 3);
    let spec = &mut placed["spec"]["template"]["spec"];
    spec["nodeName"] = "n1".into();
    // No kubelet ends them.
    spec["terminationGracePeriodSeconds"] = 0.into();
    world.create(DEPLOYMENTS, placed).await;
    world
        .create(
            "/api/v1/namespaces/default/services",
            json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "web"},
                "spec": {"selector": {"app": "web"}, "ports": [{"port": 80, "targetPort": "web"}]}}),
        )
        .await;
    let web = format!("{DEPLOYMENTS}/web");
    let complete = |d: &Value| {
        d["status"]["availableReplicas"] == 3
            && d["status"]["updatedReplicas"] == 3
            && d["status"]["replicas"] == 3
            && progressing(d) == "NewReplicaSetAvailable"
            && d["status"]["observedGeneration"] == d["metadata"]["generation"]
    };
    let first = world.eventually("three pods run", &web, complete).await;
    assert_eq!(first["metadata"]["annotations"]["deployment.kubernetes.io/revision"], "1");

    let slices =
        "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices?labelSelector=kubernetes.io/service-name%3Dweb";
    let ready = |list: &Value| {
        let slices = list["items"].as_array().into_iter().flatten();
        slices
            .flat_map(|s| s["endpoints"].as_array().cloned().unwrap_or_default())
            .filter(|e| e["conditions"]["ready"] == true)
            .count()
    };
    world.eventually("three endpoints", slices, |list| ready(list) == 3).await;
    let endpoints = world
        .eventually("the older form", "/api/v1/namespaces/default/endpoints/web", |e| {
            e["subsets"][0]["addresses"].as_array().is_some_and(|a| a.len() == 3)
        })
        .await;
    assert_eq!(endpoints["subsets"][0]["ports"][0]["port"], 8080);

    // Another image: a second set, the first at zero.
    let image = json!({"spec": {"template": {"spec": {"containers": [{"name": "c", "image": "example/two",
        "ports": [{"name": "web", "containerPort": 8080}]}]}}}});
    world.merge(&web, image).await;
    let rolled = world.eventually("rolled out", &web, complete).await;
    assert_eq!(rolled["metadata"]["annotations"]["deployment.kubernetes.io/revision"], "2");
    let sets = world
        .eventually("one set is left with pods", SETS, |list| {
            let sizes: Vec<i64> = list["items"]
                .as_array()
                .into_iter()
                .flatten()
                .filter_map(|s| s["status"]["replicas"].as_i64())
                .collect();
            sizes.iter().filter(|s| **s == 3).count() == 1 && sizes.iter().sum::<i64>() == 3
        })
        .await;
    assert_eq!(count(&sets), 2);

    // A label that no longer fits releases a pod, and another is made.
    let pods = world.items(PODS).await;
    let name = pods[0]["metadata"]["name"].as_str().expect("a name").to_owned();
    let path = format!("{PODS}/{name}");
    world.merge(&path, json!({"metadata": {"labels": {"app": "debug"}}})).await;
    let released = world
        .eventually("released", &path, |p| p["metadata"]["ownerReferences"].as_array().is_none_or(Vec::is_empty))
        .await;
    assert_eq!(released["metadata"]["labels"]["app"], "debug");
    world.eventually("replaced", &web, complete).await;
    world.eventually("three endpoints again", slices, |list| ready(list) == 3).await;

    // Events say what happened.
    let events = world.items("/api/v1/namespaces/default/events").await;
    let said = |text: &str| events.iter().any(|e| e["message"].as_str().is_some_and(|m| m.contains(text)));
    assert!(said("Scaled up replica set web-") && said("Created pod: web-"), "{events:#?}");

    // The deployment takes its sets and pods along; the released pod stays.
    world.delete(&web, DeleteOptions::default().propagation(Propagation::Background)).await;
    world.eventually("sets are gone", SETS, |list| count(list) == 0).await;
    world.eventually("one pod is left", PODS, |list| count(list) == 1).await;
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn owners_go_in_the_foreground_or_leave_orphans() {
    let world = World::start().await;
    world.play_kubelet();
    for name in ["front", "orphans"] {
        world.create(DEPLOYMENTS, deployment(name, 1)).await;
        let path = format!("{DEPLOYMENTS}/{name}");
        world.eventually("available", &path, |d| d["status"]["availableReplicas"] == 1).await;
    }
    world.delete(&format!("{DEPLOYMENTS}/orphans"), DeleteOptions::default().propagation(Propagation::Orphan)).await;
    world.eventually("gone", &format!("{DEPLOYMENTS}/orphans"), Value::is_null).await;
    let sets = world.items(&format!("{SETS}?labelSelector=app%3Dorphans")).await;
    assert_eq!(sets.len(), 1, "the set stays");
    assert!(sets[0]["metadata"]["ownerReferences"].as_array().is_none_or(Vec::is_empty));

    world.delete(&format!("{DEPLOYMENTS}/front"), DeleteOptions::default().propagation(Propagation::Foreground)).await;
    world.eventually("gone", &format!("{DEPLOYMENTS}/front"), Value::is_null).await;
    let left = world.items(&format!("{SETS}?labelSelector=app%3Dfront")).await;
    assert!(left.is_empty(), "the set went first");
    world.eventually("pods went", &format!("{PODS}?labelSelector=app%3Dfront"), |l| count(l) == 0).await;
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reference_into_another_namespace_is_told_and_collected() {
    let world = World::start().await;
    world
        .create("/api/v1/namespaces", json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "m"}}))
        .await;
    let map = |name: &str, owners: Value| json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name, "ownerReferences": owners}});
    let owner = world.create("/api/v1/namespaces/default/configmaps", map("owner", json!([]))).await;
    let uid = owner["metadata"]["uid"].as_str().expect("a uid");
    let reference = json!([{"apiVersion": "v1", "kind": "ConfigMap", "name": "owner", "uid": uid}]);
    let mine = "/api/v1/namespaces/default/configmaps/mine";
    world.create("/api/v1/namespaces/default/configmaps", map("mine", reference.clone())).await;
    world.create("/api/v1/namespaces/m/configmaps", map("lost", reference)).await;
    world.eventually("collected", "/api/v1/namespaces/m/configmaps/lost", Value::is_null).await;
    let text =
        format!("ownerRef [v1/ConfigMap, namespace: m, name: owner, uid: {uid}] does not exist in namespace \"m\"");
    let told = |list: &Value| {
        let said = |e: &Value| e["reason"] == "OwnerRefInvalidNamespace" && e["message"] == text.as_str();
        list["items"].as_array().into_iter().flatten().any(|e| said(e) && e["involvedObject"]["name"] == "lost")
    };
    world.eventually("told", "/api/v1/namespaces/m/events", told).await;
    assert!(world.get(mine).await.is_some(), "what is owned within its namespace stays");
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_namespace_is_furnished_and_emptied() {
    let world = World::start().await;
    let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "team"}});
    world.create("/api/v1/namespaces", namespace).await;
    world.eventually("an account", "/api/v1/namespaces/team/serviceaccounts/default", |a| !a.is_null()).await;
    let map = "/api/v1/namespaces/team/configmaps/kube-root-ca.crt";
    world.eventually("the authority", map, |m| m["data"]["ca.crt"].is_string()).await;
    world.merge(map, json!({"data": {"ca.crt": "forged"}})).await;
    world.eventually("put right", map, |m| m["data"]["ca.crt"] != "forged").await;
    world
        .create(
            "/api/v1/namespaces/team/configmaps",
            json!({"apiVersion": "v1", "kind": "ConfigMap",
                "metadata": {"name": "held", "finalizers": ["example.com/hold"]}}),
        )
        .await;
    world.delete("/api/v1/namespaces/team", DeleteOptions::default()).await;
    let held = world
        .eventually("says what is in the way", "/api/v1/namespaces/team", |ns| {
            let conditions = ns["status"]["conditions"].as_array();
            conditions.into_iter().flatten().any(|c| {
                c["type"] == "NamespaceFinalizersRemaining"
                    && c["message"].as_str().is_some_and(|m| m.contains("example.com/hold in 1 resource instances"))
            })
        })
        .await;
    assert_eq!(held["status"]["phase"], "Terminating");
    world.merge("/api/v1/namespaces/team/configmaps/held", json!({"metadata": {"finalizers": null}})).await;
    world.eventually("gone", "/api/v1/namespaces/team", Value::is_null).await;
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_daemon_set_covers_nodes_and_rolls() {
    let world = World::start().await;
    world.play_kubelet();
    for name in ["n1", "n2"] {
        world.create("/api/v1/nodes", json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name}})).await;
        let now = orkd_reconcile::time(Timestamp::now());
        let ready = json!({"status": {"conditions": [
            {"type": "Ready", "status": "True", "lastHeartbeatTime": now, "lastTransitionTime": now}]}});
        world.merge(&format!("/api/v1/nodes/{name}/status"), ready).await;
    }
    let sets = "/apis/apps/v1/namespaces/default/daemonsets";
    let mut body = deployment("agent", 0);
    body["kind"] = "DaemonSet".into();
    body["spec"].as_object_mut().expect("a spec").remove("replicas");
    world.create(sets, body).await;
    let agent = format!("{sets}/agent");
    let covered = |d: &Value| {
        d["status"]["numberAvailable"] == 2
            && d["status"]["updatedNumberScheduled"] == 2
            && d["status"]["observedGeneration"] == d["metadata"]["generation"]
    };
    world.eventually("two pods run", &agent, covered).await;
    let image = json!({"spec": {"template": {"spec": {"containers": [{"name": "c", "image": "example/two"}]}}}});
    world.merge(&agent, image).await;
    world.eventually("rolled out", &agent, covered).await;
    let pods = world.items(PODS).await;
    assert!(pods.iter().all(|p| p["spec"]["containers"][0]["image"] == "example/two"), "{pods:#?}");
    assert_eq!(world.items("/apis/apps/v1/namespaces/default/controllerrevisions").await.len(), 2);
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stateful_set_comes_rolls_and_shrinks_in_order() {
    let world = World::start().await;
    world.play_kubelet();
    let sets = "/apis/apps/v1/namespaces/default/statefulsets";
    let mut body = deployment("db", 3);
    body["kind"] = "StatefulSet".into();
    body["spec"]["serviceName"] = "db".into();
    world.create(sets, body).await;
    let db = format!("{sets}/db");
    let whole = |n: i64| {
        move |s: &Value| {
            let status = &s["status"];
            status["readyReplicas"] == n
                && status["updatedReplicas"] == n
                && status["replicas"] == n
                && status["currentRevision"] == status["updateRevision"]
                && status["observedGeneration"] == s["metadata"]["generation"]
        }
    };
    world.eventually("three pods run", &db, whole(3)).await;
    let image = json!({"spec": {"template": {"spec": {"containers": [{"name": "c", "image": "example/two"}]}}}});
    world.merge(&db, image).await;
    world.eventually("rolled out", &db, whole(3)).await;
    world.merge(&db, json!({"spec": {"replicas": 1}})).await;
    world.eventually("one is left", &db, whole(1)).await;
    let pods = world.items(PODS).await;
    assert_eq!(pods.len(), 1);
    assert_eq!(
        (&pods[0]["metadata"]["name"], &pods[0]["spec"]["containers"][0]["image"]),
        (&json!("db-0"), &json!("example/two"))
    );
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_runs_to_its_end() {
    let world = World::start().await;
    let jobs = "/apis/batch/v1/namespaces/default/jobs";
    let job = json!({
        "apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "sum"},
        "spec": {"completions": 3, "parallelism": 2, "template": {"spec": {
            "restartPolicy": "Never", "containers": [{"name": "c", "image": "example/one"}]}}},
    });
    world.create(jobs, job).await;
    // Pods end as soon as they are seen.
    let api = world.api.clone();
    world.supervisor.spawn(TaskKind::Node, "kubelet", move |stop| async move {
        while !stop.is_cancelled() {
            let pods: Value = api.get(&Target::path(PODS)).await.unwrap_or_default();
            for pod in pods["items"].as_array().into_iter().flatten().filter(|p| p["status"]["phase"] == "Pending") {
                let path = format!("{PODS}/{}/status", pod["metadata"]["name"].as_str().unwrap_or_default());
                let done = Patch::Merge(json!({"status": {"phase": "Succeeded"}}));
                let _ = api.patch::<Value>(&Target::path(path), &done).await;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    });
    let done = world
        .eventually("complete", &format!("{jobs}/sum"), |j| {
            let conditions = j["status"]["conditions"].as_array();
            conditions.into_iter().flatten().any(|c| c["type"] == "Complete")
        })
        .await;
    assert_eq!((done["status"]["succeeded"].as_i64(), done["status"]["failed"].as_i64().unwrap_or(0)), (Some(3), 0));
    let pods = world.items(PODS).await;
    assert_eq!(pods.len(), 3);
    assert!(pods.iter().all(|p| p["metadata"]["finalizers"].as_array().is_none_or(Vec::is_empty)), "{pods:#?}");
    // Finished jobs go when their time is over, and their pods with them.
    world.merge(&format!("{jobs}/sum"), json!({"spec": {"ttlSecondsAfterFinished": 0}})).await;
    world.eventually("gone", &format!("{jobs}/sum"), Value::is_null).await;
    world.eventually("pods are gone", PODS, |l| count(l) == 0).await;
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_gets_its_range_its_taints_and_its_certificate() {
    let world = World::start().await;
    let node = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "n1"}});
    world.create("/api/v1/nodes", node).await;
    world.eventually("a range", "/api/v1/nodes/n1", |n| n["spec"]["podCIDR"] == "10.42.0.0/24").await;
    let now = orkd_reconcile::time(Timestamp::now());
    let status = |ready: &str| {
        json!({"status": {"conditions": [
            {"type": "Ready", "status": ready, "lastHeartbeatTime": now, "lastTransitionTime": now, "reason": "r"}]}})
    };
    let taints = |n: &Value| {
        let taints = n["spec"]["taints"].as_array();
        taints.into_iter().flatten().filter_map(|t| t["key"].as_str().map(str::to_owned)).collect::<Vec<_>>()
    };
    world.merge("/api/v1/nodes/n1/status", status("True")).await;
    world.eventually("no taint", "/api/v1/nodes/n1", |n| taints(n).is_empty()).await;
    world.merge("/api/v1/nodes/n1/status", status("False")).await;
    world.eventually("a taint", "/api/v1/nodes/n1", |n| taints(n) == ["node.kubernetes.io/not-ready"]).await;

    let key = PrivateKey::generate().expect("a key");
    let pem = csr::create(&key, &Profile::client("system:node:n1", &["system:nodes"])).expect("a request");
    let bootstrapper =
        Api::new(client(&world.server, UserInfo::new("system:bootstrap:abcdef", &["system:bootstrappers"])), "test");
    let body = json!({
        "apiVersion": "certificates.k8s.io/v1", "kind": "CertificateSigningRequest", "metadata": {"name": "n1"},
        "spec": {"request": base64(pem.as_bytes()), "signerName": "kubernetes.io/kube-apiserver-client-kubelet",
            "usages": ["digital signature", "client auth"]},
    });
    let requests = "/apis/certificates.k8s.io/v1/certificatesigningrequests";
    bootstrapper.create::<Value>(&Target::path(requests), &body).await.expect("accepted");
    let signed =
        world.eventually("signed", &format!("{requests}/n1"), |r| r["status"]["certificate"].is_string()).await;
    assert_eq!(signed["status"]["conditions"][0]["reason"], "AutoApproved");
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_leads_and_hands_over() {
    let world = World::start().await;
    let elect = |who: &'static str, stop: CancellationToken, led: tokio::sync::mpsc::UnboundedSender<&'static str>| {
        let config = LeaderElection { retry: Duration::from_millis(50), ..LeaderElection::new("test", who) };
        let elector = LeaderElector::new(world.api.clone(), config, Clock::real());
        tokio::spawn(elector.run(stop, move |token| async move {
            let _ = led.send(who);
            token.cancelled().await;
        }))
    };
    let (sender, mut leaders) = tokio::sync::mpsc::unbounded_channel();
    let (first, second) = (CancellationToken::new(), CancellationToken::new());
    let a = elect("a", first.clone(), sender.clone());
    assert_eq!(leaders.recv().await, Some("a"));
    let b = elect("b", second.clone(), sender);
    let lease = "/apis/coordination.k8s.io/v1/namespaces/kube-system/leases/test";
    world.eventually("a holds it", lease, |l| l["spec"]["holderIdentity"] == "a").await;
    first.cancel();
    let next = tokio::time::timeout(Duration::from_secs(20), leaders.recv()).await;
    assert_eq!(next.ok().flatten(), Some("b"));
    let held = world.eventually("b holds it", lease, |l| l["spec"]["holderIdentity"] == "b").await;
    assert_eq!(held["spec"]["leaseTransitions"], 1);
    second.cancel();
    assert!(a.await.expect("ends").is_ok() && b.await.expect("ends").is_ok());
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn quotas_are_counted_and_replenished() {
    let world = World::start().await;
    let quotas = "/api/v1/namespaces/default/resourcequotas";
    let hard = json!({"pods": "3", "configmaps": "3", "count/deployments.apps": "1", "services.nodeports": "2"});
    let quota = json!({"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "q"}, "spec": {"hard": hard}});
    world.create(quotas, quota).await;
    let q = format!("{quotas}/q");
    let used = |q: &Value, name: &str| q["status"]["used"][name].as_str().unwrap_or("none").to_owned();
    // The authority's map is there, or comes.
    world.eventually("counted", &q, |q| q["status"]["hard"] == hard && used(q, "configmaps") == "1").await;
    world.create(DEPLOYMENTS, deployment("web", 5)).await;
    world.eventually("no more than three pods", &q, |q| used(q, "pods") == "3").await;
    world
        .eventually("the set says why", SETS, |list| {
            let status = &list["items"][0]["status"];
            let conditions = status["conditions"].as_array();
            status["replicas"] == 3
                && conditions.into_iter().flatten().any(|c| {
                    c["type"] == "ReplicaFailure"
                        && c["message"].as_str().is_some_and(|m| m.contains("exceeded quota: q, requested: pods=1"))
                })
        })
        .await;
    assert_eq!(count(&world.get(PODS).await.unwrap_or_default()), 3);
    let map = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "m"}});
    world.create("/api/v1/namespaces/default/configmaps", map).await;
    world.eventually("charged", &q, |q| used(q, "configmaps") == "2").await;
    world.delete("/api/v1/namespaces/default/configmaps/m", DeleteOptions::default()).await;
    world.eventually("given back", &q, |q| used(q, "configmaps") == "1").await;
    world.merge(&q, json!({"spec": {"hard": {"pods": "9", "configmaps": null}}})).await;
    world
        .eventually("more room", &q, |q| {
            q["status"]["hard"]["pods"] == "9" && used(q, "pods") == "5" && used(q, "configmaps") == "none"
        })
        .await;
    world.delete(&format!("{DEPLOYMENTS}/web"), DeleteOptions::default().propagation(Propagation::Background)).await;
    world
        .eventually("all given back", &q, |q| used(q, "pods") == "0" && used(q, "count/deployments.apps") == "0")
        .await;
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn claims_and_volumes_in_use_stay() {
    let world = World::start().await;
    let claims = "/api/v1/namespaces/default/persistentvolumeclaims";
    let claim = |name: &str| {
        json!({"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": name},
            "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}})
    };
    for name in ["used", "free"] {
        let made = world.create(claims, claim(name)).await;
        assert_eq!(made["metadata"]["finalizers"], json!(["kubernetes.io/pvc-protection"]));
    }
    let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"}, "spec": {
        "nodeName": "n1", "terminationGracePeriodSeconds": 0, "containers": [{"name": "c", "image": "i"}],
        "volumes": [{"name": "v", "persistentVolumeClaim": {"claimName": "used"}}]}});
    world.create("/api/v1/nodes", json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "n1"}})).await;
    world.create(PODS, pod).await;
    for name in ["used", "free"] {
        world.delete(&format!("{claims}/{name}"), DeleteOptions::default()).await;
    }
    world.eventually("the free one goes", &format!("{claims}/free"), Value::is_null).await;
    let held = world.get(&format!("{claims}/used")).await.expect("held");
    assert!(held["metadata"]["deletionTimestamp"].is_string());
    world.delete(&format!("{PODS}/p"), DeleteOptions::default().grace(0)).await;
    world.eventually("the other follows its pod", &format!("{claims}/used"), Value::is_null).await;

    let volumes = "/api/v1/persistentvolumes";
    let volume = json!({"apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": "pv"}, "spec": {
        "capacity": {"storage": "1Gi"}, "accessModes": ["ReadWriteOnce"], "storageClassName": "manual",
        "persistentVolumeReclaimPolicy": "Retain", "hostPath": {"path": "/tmp/x"}}});
    world.create(volumes, volume).await;
    let claim = json!({"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": "of-pv"}, "spec": {
        "accessModes": ["ReadWriteOnce"], "storageClassName": "manual", "resources": {"requests": {"storage": "1Gi"}}}});
    world.create(claims, claim).await;
    let path = format!("{volumes}/pv");
    world.eventually("bound", &path, |v| v["status"]["phase"] == "Bound").await;
    world.delete(&path, DeleteOptions::default()).await;
    world.eventually("held while bound", &path, |v| v["metadata"]["deletionTimestamp"].is_string()).await;
    world.delete(&format!("{claims}/of-pv"), DeleteOptions::default()).await;
    world.eventually("gone", &path, Value::is_null).await;
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replication_controller_keeps_its_pods() {
    let world = World::start().await;
    world.play_kubelet();
    let controllers = "/api/v1/namespaces/default/replicationcontrollers";
    let mut body = deployment("old", 2);
    body["apiVersion"] = "v1".into();
    body["kind"] = "ReplicationController".into();
    body["spec"]["selector"] = json!({"app": "old"});
    world.create(controllers, body).await;
    let old = format!("{controllers}/old");
    let kept = |n: i64| {
        move |c: &Value| {
            c["status"]["availableReplicas"] == n
                && c["status"]["replicas"] == n
                && c["status"]["observedGeneration"] == c["metadata"]["generation"]
        }
    };
    world.eventually("two pods run", &old, kept(2)).await;
    let pods = world.items(PODS).await;
    let owner = &pods[0]["metadata"]["ownerReferences"][0];
    assert_eq!((&owner["kind"], &owner["apiVersion"]), (&json!("ReplicationController"), &json!("v1")));
    let name = pods[0]["metadata"]["name"].as_str().expect("a name");
    world.delete(&format!("{PODS}/{name}"), DeleteOptions::default().grace(0)).await;
    world.eventually("replaced", PODS, |l| count(l) == 2 && !l.to_string().contains(name)).await;
    world.merge(&old, json!({"spec": {"replicas": 1}})).await;
    world.eventually("one is left", &old, kept(1)).await;
    world
        .eventually("an event", "/api/v1/namespaces/default/events", |list| {
            let said =
                |e: &Value| e["reason"] == "SuccessfulDelete" && e["source"]["component"] == "replication-controller";
            list["items"].as_array().into_iter().flatten().any(said)
        })
        .await;
    world.delete(&old, DeleteOptions::default().propagation(Propagation::Background)).await;
    world.eventually("pods go along", PODS, |l| count(l) == 0).await;
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn budgets_guard_evictions() {
    let world = World::start().await;
    world.play_kubelet();
    world.create(DEPLOYMENTS, deployment("web", 3)).await;
    let web = format!("{DEPLOYMENTS}/web");
    world.eventually("three pods run", &web, |d| d["status"]["availableReplicas"] == 3).await;
    let budgets = "/apis/policy/v1/namespaces/default/poddisruptionbudgets";
    let budget = |name: &str, spec: Value| {
        let mut spec = spec;
        spec["selector"] = json!({"matchLabels": {"app": "web"}});
        json!({"apiVersion": "policy/v1", "kind": "PodDisruptionBudget", "metadata": {"name": name}, "spec": spec})
    };
    world.create(budgets, budget("b", json!({"maxUnavailable": "34%"}))).await;
    let b = format!("{budgets}/b");
    let counted = world.eventually("counted", &b, |b| b["status"]["currentHealthy"] == 3).await;
    assert_eq!(counted["status"]["disruptionsAllowed"], 2, "{counted}");
    assert_eq!(counted["status"]["expectedPods"], 3);
    world.merge(&b, json!({"spec": {"maxUnavailable": null, "minAvailable": 3}})).await;
    let tight = world.eventually("no room", &b, |b| b["status"]["disruptionsAllowed"] == 0).await;
    assert_eq!(tight["status"]["conditions"][0]["reason"], "InsufficientPods");
    let pod = world.items(PODS).await[0]["metadata"]["name"].as_str().expect("a name").to_owned();
    let refused = world.api.evict("default", &pod, &DeleteOptions::default()).await.expect_err("refused");
    assert!(refused.is_too_many_requests() && refused.has_cause("DisruptionBudget"), "{refused}");
    assert!(refused.message().starts_with("Cannot evict pod as it would violate the pod's disruption budget."));

    // One may go; it is remembered until it is gone, and its successor makes room again.
    world.merge(&b, json!({"spec": {"minAvailable": 2}})).await;
    world.eventually("room for one", &b, |b| b["status"]["disruptionsAllowed"] == 1).await;
    world.api.evict("default", &pod, &DeleteOptions::default().grace(0)).await.expect("evicted");
    world
        .eventually("room again", &b, |b| {
            b["status"]["disruptionsAllowed"] == 1
                && b["status"]["disruptedPods"].as_object().is_none_or(|p| p.is_empty())
        })
        .await;
    // A pod that was not meant is not evicted.
    let pod = world.items(PODS).await[0]["metadata"]["name"].as_str().expect("a name").to_owned();
    let other = DeleteOptions::default().uid("11111111-2222-3333-4444-555555555555");
    let refused = world.api.evict("default", &pod, &other).await.expect_err("refused");
    let text = format!("Operation cannot be fulfilled on Pod {pod:?}: the UID in the precondition (11111111-");
    assert!(refused.is_conflict() && refused.message().starts_with(&text), "{refused}");
    // A budget that selects everything covers pods without labels, too.
    let all = json!({"apiVersion": "policy/v1", "kind": "PodDisruptionBudget", "metadata": {"name": "all"},
        "spec": {"minAvailable": 100, "selector": {}}});
    world
        .create("/api/v1/namespaces", json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "bare"}}))
        .await;
    let bare = "/api/v1/namespaces/bare/pods";
    world.create("/apis/policy/v1/namespaces/bare/poddisruptionbudgets", all).await;
    world
        .create(
            bare,
            json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"}, "spec": {
        "automountServiceAccountToken": false, "containers": [{"name": "c", "image": "i"}]}}),
        )
        .await;
    let counted = "/apis/policy/v1/namespaces/bare/poddisruptionbudgets/all";
    world.eventually("it is counted", counted, |b| b["status"]["currentHealthy"] == 1).await;
    let refused = world.api.evict("bare", "p", &DeleteOptions::default()).await.expect_err("refused");
    assert!(refused.is_too_many_requests(), "{refused}");
    // Two budgets for one pod are one too many.
    world.create(budgets, budget("c", json!({"minAvailable": 1}))).await;
    let pod = world.items(PODS).await[0]["metadata"]["name"].as_str().expect("a name").to_owned();
    let refused = world.api.evict("default", &pod, &DeleteOptions::default()).await.expect_err("refused");
    let text = "This pod has more than one PodDisruptionBudget, which the eviction subresource does not support.";
    assert_eq!((refused.code(), refused.message().as_str()), (500, text));
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_autoscaler_follows_its_metrics() {
    let world = World::start().await;
    world.play_kubelet();
    let mut body = deployment("web", 2);
    body["spec"]["template"]["spec"]["containers"][0]["resources"] = json!({"requests": {"cpu": "100m"}});
    world.create(DEPLOYMENTS, body).await;
    let web = format!("{DEPLOYMENTS}/web");
    world.eventually("two pods run", &web, |d| d["status"]["availableReplicas"] == 2).await;
    let scalers = "/apis/autoscaling/v2/namespaces/default/horizontalpodautoscalers";
    let resource = json!({"type": "Resource", "resource": {
        "name": "cpu", "target": {"type": "Utilization", "averageUtilization": 50}}});
    let scaler = |max: u32, behavior: Value| {
        json!({"apiVersion": "autoscaling/v2", "kind": "HorizontalPodAutoscaler", "metadata": {"name": "web"}, "spec": {
            "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "web"},
            "minReplicas": 1, "maxReplicas": max, "metrics": [resource], "behavior": behavior}})
    };
    // Nothing measures yet: the reason stands in conditions and events.
    world.create(scalers, scaler(10, json!({"scaleDown": {"stabilizationWindowSeconds": 0}}))).await;
    let path = format!("{scalers}/web");
    let condition = |h: &Value, kind: &str| {
        let all = h["status"]["conditions"].as_array();
        let found = all.into_iter().flatten().find(|c| c["type"] == kind).cloned();
        found.unwrap_or_default()
    };
    let blind = world
        .eventually("says what is missing", &path, |h| {
            condition(h, "ScalingActive")["reason"] == "FailedGetResourceMetric"
        })
        .await;
    assert_eq!(
        condition(&blind, "ScalingActive")["message"],
        "the HPA was unable to compute the replica count: failed to get cpu utilization: unable to get metrics for \
         resource cpu: unable to fetch metrics from resource metrics API: the server could not find the requested \
         resource (get pods.metrics.k8s.io)"
    );
    assert_eq!(condition(&blind, "AbleToScale")["reason"], "SucceededGetScale");

    // Busy pods are joined by others, as fast as the rules let them.
    let measure = async |cpu: &str| {
        let pods = world.items(PODS).await;
        let items: Vec<Value> = pods
            .iter()
            .map(|pod| {
                json!({"metadata": {"name": pod["metadata"]["name"], "namespace": "default"},
                    "timestamp": "2100-01-01T00:00:00Z", "window": "15s",
                    "containers": [{"name": "c", "usage": {"cpu": cpu, "memory": "1Mi"}}]})
            })
            .collect();
        *world.metrics.lock().expect("a lock") = json!({"kind": "PodMetricsList", "items": items});
    };
    measure("150m").await;
    world.merge(&path, json!({"spec": {"maxReplicas": 5}})).await;
    world.eventually("as many as may be", &web, |d| d["spec"]["replicas"] == 5).await;
    let scaled = world.eventually("says so", &path, |h| h["status"]["desiredReplicas"] == 5).await;
    assert_eq!(condition(&scaled, "ScalingActive")["reason"], "ValidMetricFound");
    assert_eq!(condition(&scaled, "ScalingLimited")["reason"], "TooManyReplicas");
    assert_eq!(
        scaled["status"]["currentMetrics"][0]["resource"]["current"],
        json!({"averageUtilization": 150, "averageValue": "150m"})
    );
    assert!(scaled["status"]["lastScaleTime"].is_string());
    world.eventually("five pods run", &web, |d| d["status"]["availableReplicas"] == 5).await;
    measure("10m").await;
    world.merge(&path, json!({"spec": {"maxReplicas": 6}})).await;
    world.eventually("idle pods go", &web, |d| d["spec"]["replicas"] == 1).await;
    for text in [
        "New size: 5; reason: cpu resource utilization (percentage of request) above target",
        "New size: 1; reason: All metrics below target",
    ] {
        world
            .eventually("an event", "/api/v1/namespaces/default/events", |list| {
                list["items"].as_array().into_iter().flatten().any(|e| e["message"] == text)
            })
            .await;
    }
    world.stop().await;
}

fn base64(bytes: &[u8]) -> String {
    use ::base64::Engine;
    ::base64::engine::general_purpose::STANDARD.encode(bytes)
}

const DEFINITIONS: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";

/// Makes a definition of widgets with a scale, while everything runs.
async fn define_widgets(world: &World) {
    world
        .create(
            DEFINITIONS,
            json!({
                "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
                "metadata": {"name": "widgets.example.com"},
                "spec": {"group": "example.com", "scope": "Namespaced",
                    "names": {"plural": "widgets", "kind": "Widget"},
                    "versions": [{"name": "v1", "served": true, "storage": true,
                        "subresources": {"status": {}, "scale": {"specReplicasPath": ".spec.replicas",
                            "statusReplicasPath": ".status.replicas", "labelSelectorPath": ".status.selector"}},
                        "schema": {"openAPIV3Schema": {"type": "object",
                            "x-kubernetes-preserve-unknown-fields": true}}}]},
            }),
        )
        .await;
    let established = |d: &Value| {
        let conditions = d["status"]["conditions"].as_array();
        conditions.into_iter().flatten().any(|c| c["type"] == "Established" && c["status"] == "True")
    };
    world.eventually("widgets are served", &format!("{DEFINITIONS}/widgets.example.com"), established).await;
}

fn widget(name: &str, namespace: &str, owner: Option<&Value>) -> Value {
    let mut widget = json!({"apiVersion": "example.com/v1", "kind": "Widget",
        "metadata": {"name": name, "namespace": namespace}, "spec": {"replicas": 1}});
    if let Some(owner) = owner {
        widget["metadata"]["ownerReferences"] = json!([owned_by(owner)]);
    }
    widget
}

fn owned_by(owner: &Value) -> Value {
    json!({"apiVersion": owner["apiVersion"], "kind": owner["kind"], "name": owner["metadata"]["name"],
        "uid": owner["metadata"]["uid"], "blockOwnerDeletion": true})
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn owners_and_dependents_may_be_custom() {
    let world = World::start().await;
    define_widgets(&world).await;
    let widgets = "/apis/example.com/v1/namespaces/default/widgets";
    let maps = "/api/v1/namespaces/default/configmaps";
    let map = |name: &str, owner: Option<&Value>| {
        json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name,
            "ownerReferences": owner.map(|o| vec![owned_by(o)]).unwrap_or_default()}})
    };

    // What a custom object owns goes with it, and it with its owner.
    let root = world.create(maps, map("root", None)).await;
    let middle = world.create(widgets, widget("middle", "default", Some(&root))).await;
    world.create(maps, map("leaf", Some(&middle))).await;
    world.delete(&format!("{maps}/root"), DeleteOptions::default()).await;
    world.eventually("goes with its owner", &format!("{widgets}/middle"), Value::is_null).await;
    world.eventually("goes with the widget", &format!("{maps}/leaf"), Value::is_null).await;

    // In the foreground a custom object waits for what it owns, built in or custom.
    let root = world.create(widgets, widget("root", "default", None)).await;
    world.create(maps, map("leaf", Some(&root))).await;
    let mut held = widget("held", "default", Some(&root));
    held["metadata"]["finalizers"] = json!(["example.com/held"]);
    world.create(widgets, held).await;
    let foreground = DeleteOptions::default().propagation(Propagation::Foreground);
    world.delete(&format!("{widgets}/root"), foreground).await;
    world.eventually("goes first", &format!("{maps}/leaf"), Value::is_null).await;
    world
        .eventually("is being deleted", &format!("{widgets}/held"), |w| w["metadata"]["deletionTimestamp"].is_string())
        .await;
    let waiting = world.get(&format!("{widgets}/root")).await.expect("it waits");
    assert_eq!(waiting["metadata"]["finalizers"], json!(["foregroundDeletion"]));
    world.merge(&format!("{widgets}/held"), json!({"metadata": {"finalizers": null}})).await;
    world.eventually("goes last", &format!("{widgets}/root"), Value::is_null).await;
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_custom_kind_is_scaled_counted_and_emptied_with_its_namespace() {
    let world = World::start().await;
    define_widgets(&world).await;
    world
        .create("/api/v1/namespaces", json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "n"}}))
        .await;
    let widgets = "/apis/example.com/v1/namespaces/n/widgets";
    world
        .create(
            "/api/v1/namespaces/n/resourcequotas",
            json!({"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "two"},
                "spec": {"hard": {"count/widgets.example.com": "2"}}}),
        )
        .await;
    let quota = "/api/v1/namespaces/n/resourcequotas/two";
    let used = |count: &str| {
        let count = count.to_owned();
        move |q: &Value| q["status"]["used"]["count/widgets.example.com"] == count.as_str()
    };
    world.eventually("counts none", quota, used("0")).await;
    world.create(widgets, widget("a", "n", None)).await;
    world.create(widgets, widget("b", "n", None)).await;
    world.eventually("counts two", quota, used("2")).await;
    let third: Result<Value, _> = world.api.create(&Target::path(widgets), &widget("c", "n", None)).await;
    let refused = third.expect_err("more than the quota").message();
    assert!(refused.contains("exceeded quota: two, requested: count/widgets.example.com=1"), "{refused}");
    world.delete(&format!("{widgets}/b"), DeleteOptions::default()).await;
    world.eventually("counts one", quota, used("1")).await;

    // Too few are made more, whatever the metrics.
    world.merge(&format!("{widgets}/a/status"), json!({"status": {"replicas": 1, "selector": "app=a"}})).await;
    world
        .create(
            "/apis/autoscaling/v2/namespaces/n/horizontalpodautoscalers",
            json!({"apiVersion": "autoscaling/v2", "kind": "HorizontalPodAutoscaler", "metadata": {"name": "a"},
                "spec": {"scaleTargetRef": {"apiVersion": "example.com/v1", "kind": "Widget", "name": "a"},
                    "minReplicas": 3, "maxReplicas": 5, "metrics": [{"type": "Resource", "resource": {
                        "name": "cpu", "target": {"type": "Utilization", "averageUtilization": 50}}}]}}),
        )
        .await;
    world.eventually("is scaled", &format!("{widgets}/a"), |w| w["spec"]["replicas"] == 3).await;

    world.delete("/api/v1/namespaces/n", DeleteOptions::default()).await;
    world.eventually("is emptied and goes", "/api/v1/namespaces/n", Value::is_null).await;
    assert!(world.items("/apis/example.com/v1/widgets").await.is_empty());
    world.stop().await;
}
