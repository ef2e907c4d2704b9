//! The numbers of the controllers, beside their budgets: all of them against the real API server on an embedded store, in
//! one process. `cargo xtask bench controllers`, or `cargo bench -p orkd-controllers`.
//!
//! `ORKD_BENCH_SHARE=0.1` measures a tenth of everything.

#[path = "../tests/workloads/world.rs"]
#[allow(dead_code)]
mod world;

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use orkd_base::{Clock, Supervisor};
use orkd_controllers::views::Pod;
use orkd_reconcile::{Api, DeleteOptions, Informer, Informers, Patch, Resource, Target};
use serde::de::IgnoredAny;
use serde_json::{Value, json};
use world::World;

/// How many requests the bench itself makes at a time.
const AT_A_TIME: usize = 64;

fn share(full: usize) -> usize {
    let share: f64 = std::env::var("ORKD_BENCH_SHARE").ok().and_then(|s| s.parse().ok()).unwrap_or(1.0);
    #[expect(clippy::cast_precision_loss, clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a size")]
    let part = (full as f64 * share) as usize;
    part.max(1)
}

fn print(what: &str, measured: f64, unit: &str, budget: f64) {
    let verdict = if measured <= budget { "" } else { "  (missed)" };
    println!("{what:<72} {measured:>10.2} {unit:<3} of {budget} {unit}{verdict}");
}

/// Megabytes of this process in memory.
fn resident() -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|l| l.strip_prefix("VmRSS:")).unwrap_or("0");
    line.split_whitespace().next().and_then(|kb| kb.parse::<f64>().ok()).unwrap_or(0.0) / 1024.0
}

async fn until(what: &str, api: &Api, path: &str, right: impl Fn(&Value) -> bool) {
    let start = Instant::now();
    loop {
        let state: Value = api.get(&Target::path(path)).await.unwrap_or(Value::Null);
        if right(&state) {
            return;
        }
        assert!(start.elapsed() < Duration::from_secs(900), "{what}: {path} is {}", state["status"]);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

async fn make(api: &Api, path: &str, bodies: impl Iterator<Item = Value>) {
    let requests = bodies.map(|body| async move {
        api.create::<IgnoredAny>(&Target::path(path), &body).await.expect("made");
    });
    futures_util::stream::iter(requests).buffer_unordered(AT_A_TIME).collect::<()>().await;
}

fn deployment(name: &str, replicas: usize, image: &str) -> Value {
    json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": name},
        "spec": {"replicas": replicas, "selector": {"matchLabels": {"app": name}}, "template": {
            "metadata": {"labels": {"app": name}},
            "spec": {"automountServiceAccountToken": false, "terminationGracePeriodSeconds": 0,
                "containers": [{"name": "c", "image": image}]}}},
    })
}

async fn namespace(world: &World, name: &str) {
    let body = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}});
    world.create("/api/v1/namespaces", body).await;
    let account = format!("/api/v1/namespaces/{name}/serviceaccounts/default");
    until("the account", &world.api, &account, |a| !a.is_null()).await;
}

/// Every pod that is made runs and is ready at once.
fn hollow_kubelet(world: &World) {
    let informers = Informers::with_api(world.api.clone(), world.supervisor.clone());
    let pods: Informer<Pod> = informers.informer();
    let (sender, receiver) = tokio::sync::mpsc::unbounded_channel();
    pods.subscribe(move |event| {
        let pod = event.object();
        if !event.is_deleted() && pod.status.phase != "Running" && !pod.metadata.is_deleting() {
            let _ = sender.send(event.key());
        }
    });
    let api = world.api.clone();
    tokio::spawn(async move {
        let keys = futures_util::stream::unfold(receiver, |mut r| async move { r.recv().await.map(|k| (k, r)) });
        keys.for_each_concurrent(AT_A_TIME, |key| {
            let api = api.clone();
            async move {
                let status = json!({"status": {"phase": "Running", "conditions": [
                    {"type": "Ready", "status": "True", "lastTransitionTime": "2026-01-01T00:00:00Z"}]}});
                let target = Resource::of::<Pod>().at(&key.namespace, &key.name).sub("status");
                let _ = api.patch::<IgnoredAny>(&target, &Patch::Merge(status)).await;
            }
        })
        .await;
        drop(informers);
    });
}

const ALL: &[&str] = &[
    "deployment-controller",
    "replicaset-controller",
    "daemonset-controller",
    "statefulset-controller",
    "job-controller",
    "cronjob-controller",
    "endpointslice-controller",
    "endpoints-controller",
    "namespace-controller",
    "garbage-collector-controller",
    "serviceaccount-controller",
    "node-lifecycle-controller",
    "taint-eviction-controller",
    "pod-garbage-collector-controller",
    "persistentvolume-controller",
    "attachdetach-controller",
];

#[tokio::main]
async fn main() {
    let world = World::empty().await;
    world.control(&world.supervisor, ALL, Clock::real(), &Arc::default());

    namespace(&world, "wide").await;
    let wide = share(10_000);
    let path = "/apis/apps/v1/namespaces/wide/deployments";
    let start = Instant::now();
    world.create(path, deployment("wide", wide, "one")).await;
    let all = i64::try_from(wide).expect("a size");
    until("pods", &world.api, &format!("{path}/wide"), |d| d["status"]["replicas"] == all).await;
    print(&format!("a Deployment from 0 to {wide} replicas, pods created"), start.elapsed().as_secs_f64(), "s", 10.0);
    world.delete("/api/v1/namespaces/wide", DeleteOptions::default()).await;
    until("the namespace", &world.api, "/api/v1/namespaces/wide", Value::is_null).await;

    namespace(&world, "maps").await;
    let maps = share(10_000);
    let body = |n: usize| json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": format!("m-{n}")}});
    make(&world.api, "/api/v1/namespaces/maps/configmaps", (0..maps).map(body)).await;
    let start = Instant::now();
    world.delete("/api/v1/namespaces/maps", DeleteOptions::default()).await;
    until("the namespace", &world.api, "/api/v1/namespaces/maps", Value::is_null).await;
    print(&format!("deletion of a namespace with {maps} ConfigMaps"), start.elapsed().as_secs_f64(), "s", 10.0);

    namespace(&world, "many").await;
    hollow_kubelet(&world);
    let many = share(2_000);
    let path = "/apis/apps/v1/namespaces/many/deployments";
    make(&world.api, path, (0..many).map(|n| deployment(&format!("d-{n}"), 1, "one"))).await;
    let complete = |list: &Value| {
        list["items"].as_array().is_some_and(|items| {
            items.len() == many
                && items.iter().all(|d| {
                    let status = &d["status"];
                    status["observedGeneration"] == d["metadata"]["generation"]
                        && status["updatedReplicas"] == 1
                        && status["replicas"] == 1
                        && status["availableReplicas"] == 1
                })
        })
    };
    until("the first template", &world.api, path, complete).await;
    let start = Instant::now();
    let api = &world.api;
    let updates = (0..many).map(|n| async move {
        let image = json!({"spec": {"template": {"spec": {"containers": [{"name": "c", "image": "two"}]}}}});
        api.patch::<IgnoredAny>(&Target::path(format!("{path}/d-{n}")), &Patch::Merge(image)).await.expect("updated");
    });
    futures_util::stream::iter(updates).buffer_unordered(AT_A_TIME).collect::<()>().await;
    until("the second template", &world.api, path, complete).await;
    print(&format!("{many} Deployments updated at once, converged"), start.elapsed().as_secs_f64(), "s", 60.0);
    world.stop().await;
    memory().await;
}

/// What all controllers hold at many pods: what the process grows by when they start.
async fn memory() {
    let world = World::empty().await;
    let pods = share(150_000);
    world.account("default").await;
    let body = |n: usize| {
        json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": format!("p-{n}"), "labels": {"app": "x"},
            "ownerReferences": [{"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "r", "uid": "u", "controller": true}]},
            "spec": {"nodeName": format!("n-{}", n % 5000), "automountServiceAccountToken": false,
                "containers": [{"name": "c", "image": "example/image", "ports": [{"containerPort": 80}]}]}})
    };
    make(&world.api, "/api/v1/namespaces/default/pods", (0..pods).map(body)).await;
    let before = resident();
    let supervisor = Supervisor::new();
    // Nothing that would act on pods without nodes and owners: their caches are the same.
    world.control(
        &supervisor,
        &["deployment-controller", "replicaset-controller", "job-controller"],
        Clock::real(),
        &Arc::default(),
    );
    tokio::time::sleep(Duration::from_secs(1)).await;
    let mut last = resident();
    loop {
        tokio::time::sleep(Duration::from_secs(2)).await;
        let now = resident();
        if (now - last).abs() < 1.0 {
            break;
        }
        last = now;
    }
    print(&format!("caches of all controllers at {pods} pods"), resident() - before, "MB", 1000.0);
    supervisor.shutdown(Duration::from_millis(10)).await;
    world.stop().await;
}
