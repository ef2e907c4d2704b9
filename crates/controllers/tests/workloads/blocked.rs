//! What is broken stops nothing else: sources of metrics, scales, provisioners, webhooks, groups of the API, quotas that are
//! used up.
//!
//! Each test breaks more objects than their controller has workers, and then asks for one that is well.

use std::time::{Duration, Instant};

use orkd_reconcile::Target;
use serde_json::{Value, json};

use crate::jobs;
use crate::stateful;
use crate::world::{Stub, World, ended, running};

const AGGREGATED: &str = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList,application/json";
/// A group that takes requests and does not answer.
const BROKEN: &str = "/apis/broken.example.com/";

/// Lets discovery name [`BROKEN`] with its resource `widgets`, before all other groups.
async fn serve_broken_group(world: &World) {
    let mut groups: Value = world.api.get_as(&Target::path("/apis"), AGGREGATED).await.expect("discovery");
    let group = json!({"metadata": {"name": "broken.example.com"}, "versions": [{"version": "v1", "resources": [{
        "resource": "widgets", "scope": "Namespaced", "verbs": ["get", "list", "delete", "deletecollection"],
        "responseKind": {"group": "broken.example.com", "version": "v1", "kind": "Widget"}}]}]});
    groups["items"].as_array_mut().expect("groups").insert(0, group);
    world.stubs.set("/apis", Stub::Answer(groups));
    world.stubs.set(BROKEN, Stub::Hang);
}

async fn until(what: &str, right: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !right() {
        assert!(Instant::now() < deadline, "{what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

fn condition(object: &Value, kind: &str) -> Value {
    let all = object["status"]["conditions"].as_array();
    all.into_iter().flatten().find(|c| c["type"] == kind).cloned().unwrap_or_default()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_metric_source_that_hangs_stops_no_other_autoscaler() {
    const DEPLOYMENTS: &str = "/apis/apps/v1/namespaces/default/deployments";
    const SCALERS: &str = "/apis/autoscaling/v2/namespaces/default/horizontalpodautoscalers";
    const METRICS: &str = "/apis/external.metrics.k8s.io/";
    let world = World::start(&["horizontal-pod-autoscaler-controller"]).await;
    world.stubs.set(METRICS, Stub::Hang);
    for name in ["busy", "web"] {
        let body = json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": name}, "spec": {
            "selector": {"matchLabels": {"app": name}}, "template": {"metadata": {"labels": {"app": name}},
                "spec": {"containers": [{"name": "c", "image": "i"}]}}}});
        world.create(DEPLOYMENTS, body).await;
        // Nobody counts its pods here: the selector is what an autoscaler asks for.
    }
    let scaler = |name: &str, target: &str, least: u32| {
        json!({"apiVersion": "autoscaling/v2", "kind": "HorizontalPodAutoscaler", "metadata": {"name": name}, "spec": {
            "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": target},
            "minReplicas": least, "maxReplicas": 9, "metrics": [{"type": "External", "external": {
                "metric": {"name": "queue"}, "target": {"type": "AverageValue", "averageValue": "1"}}}]}})
    };
    for n in 0..80 {
        world.create(SCALERS, scaler(&format!("busy-{n}"), "busy", 1)).await;
    }
    until("the source is asked", || world.stubs.asked(METRICS) >= 5).await;
    let asked = Instant::now();
    world.create(SCALERS, scaler("web", "web", 3)).await;
    world.eventually("scaled", &format!("{DEPLOYMENTS}/web"), |d| d["spec"]["replicas"] == 3).await;
    assert!(asked.elapsed() < Duration::from_secs(9), "it waited {:?}", asked.elapsed());
    // Those that are concerned say why.
    let list = world
        .eventually("they say why", SCALERS, |list| {
            let scalers = list["items"].as_array().into_iter().flatten();
            scalers.filter(|h| condition(h, "ScalingActive")["reason"] == "FailedGetExternalMetric").count() >= 60
        })
        .await;
    let scalers = list["items"].as_array().expect("a list");
    let why: Vec<Value> = scalers.iter().map(|h| condition(h, "ScalingActive")["message"].clone()).collect();
    assert!(why.iter().any(|w| w.as_str().is_some_and(|w| w.contains("external.metrics.k8s.io"))), "{why:?}");
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_scale_that_hangs_stops_no_other_budget() {
    const PODS: &str = "/api/v1/namespaces/default/pods";
    const BUDGETS: &str = "/apis/policy/v1/namespaces/default/poddisruptionbudgets";
    let world = World::start(&["disruption-controller"]).await;
    serve_broken_group(&world).await;
    world.play_kubelet(running);
    let pod = |name: &str, owners: Value| {
        json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "labels": {"app": name},
            "ownerReferences": owners}, "spec": {"automountServiceAccountToken": false,
            "containers": [{"name": "c", "image": "i"}]}})
    };
    let budget = |name: &str, app: &str, spec: Value| {
        let mut budget = json!({"apiVersion": "policy/v1", "kind": "PodDisruptionBudget", "metadata": {"name": name},
            "spec": {"selector": {"matchLabels": {"app": app}}}});
        budget["spec"].as_object_mut().expect("a spec").extend(spec.as_object().cloned().unwrap_or_default());
        budget
    };
    let widget = json!([{"apiVersion": "broken.example.com/v1", "kind": "Widget", "name": "w", "uid": "u",
        "controller": true}]);
    world.create(PODS, pod("stuck", widget)).await;
    for n in 0..20 {
        world.create(BUDGETS, budget(&format!("stuck-{n}"), "stuck", json!({"maxUnavailable": 1}))).await;
    }
    until("the scale is asked for", || world.stubs.asked(BROKEN) >= 4).await;
    let asked = Instant::now();
    world.create(PODS, pod("well", Value::Null)).await;
    world.create(BUDGETS, budget("well", "well", json!({"minAvailable": 0}))).await;
    world
        .eventually("counted", &format!("{BUDGETS}/well"), |b| {
            b["status"]["currentHealthy"] == 1 && b["status"]["disruptionsAllowed"] == 1
        })
        .await;
    assert!(asked.elapsed() < Duration::from_secs(9), "it waited {:?}", asked.elapsed());
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_group_that_hangs_is_in_the_way_of_namespaces_only_where_it_must() {
    let world = World::start(&["namespace-controller"]).await;
    serve_broken_group(&world).await;
    for n in 0..24 {
        let name = format!("end-{n}");
        let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}});
        world.create("/api/v1/namespaces", namespace).await;
        let map =
            json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "left", "labels": {"of": "end"}}});
        world.create(&format!("/api/v1/namespaces/{name}/configmaps"), map).await;
    }
    for n in 0..24 {
        world.delete(&format!("/api/v1/namespaces/end-{n}"), Default::default()).await;
    }
    // What can be deleted is, and the namespaces say what is in the way.
    world.count("emptied", "/api/v1/configmaps?labelSelector=of%3Dend", 0).await;
    let stuck = world
        .eventually("says why", "/api/v1/namespaces/end-0", |n| {
            condition(n, "NamespaceDeletionContentFailure")["status"] == "True"
        })
        .await;
    let why = condition(&stuck, "NamespaceDeletionContentFailure")["message"].clone();
    assert!(why.as_str().is_some_and(|w| w.contains("broken.example.com")), "{why}");
    // It answers again: all end.
    world.stubs.set(BROKEN, Stub::Answer(json!({"kind": "PartialObjectMetadataList", "items": []})));
    for n in 0..24 {
        world.eventually("ends", &format!("/api/v1/namespaces/end-{n}"), Value::is_null).await;
    }
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn claims_without_a_provisioner_stop_no_other() {
    const CLAIMS: &str = "/api/v1/namespaces/default/persistentvolumeclaims";
    let world = World::start(&["persistentvolume-controller", "local-path-provisioner"]).await;
    let class = json!({"apiVersion": "storage.k8s.io/v1", "kind": "StorageClass", "metadata": {"name": "nobodys"},
        "provisioner": "nobody.example.com"});
    world.create("/apis/storage.k8s.io/v1/storageclasses", class).await;
    let claim = |name: &str, class: &str| {
        json!({"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": name}, "spec": {
            "accessModes": ["ReadWriteOnce"], "storageClassName": class,
            "resources": {"requests": {"storage": "1Gi"}}}})
    };
    for n in 0..40 {
        world.create(CLAIMS, claim(&format!("stuck-{n}"), "nobodys")).await;
    }
    let volume = json!({"apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": "vol"}, "spec": {
        "accessModes": ["ReadWriteOnce"], "capacity": {"storage": "1Gi"}, "storageClassName": "manual",
        "hostPath": {"path": "/data"}}});
    let asked = Instant::now();
    world.create("/api/v1/persistentvolumes", volume).await;
    world.create(CLAIMS, claim("well", "manual")).await;
    world.eventually("bound", &format!("{CLAIMS}/well"), |c| c["status"]["phase"] == "Bound").await;
    assert!(asked.elapsed() < Duration::from_secs(9), "it waited {:?}", asked.elapsed());
    world
        .eventually("says what it waits for", "/api/v1/namespaces/default/events", |list| {
            list["items"].as_array().into_iter().flatten().any(|e| {
                e["reason"] == "ExternalProvisioning"
                    && e["message"].as_str().is_some_and(|m| m.contains("'nobody.example.com'"))
            })
        })
        .await;
    let stuck = world.get(&format!("{CLAIMS}/stuck-0")).await.expect("a claim");
    assert_eq!(stuck["status"]["phase"], "Pending");
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_quota_refuses_stops_no_other() {
    let world = World::start(&["statefulset-controller", "job-controller", "resourcequota-controller"]).await;
    world.play_kubelet(|pod| if pod["metadata"]["labels"]["job-name"].is_string() { ended(0) } else { running(pod) });
    let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "full"}});
    world.create("/api/v1/namespaces", namespace).await;
    world.account("full").await;
    let quota = json!({"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "none"},
        "spec": {"hard": {"pods": "0", "persistentvolumeclaims": "0"}}});
    world.create("/api/v1/namespaces/full/resourcequotas", quota).await;
    world
        .eventually("in force", "/api/v1/namespaces/full/resourcequotas/none", |q| q["status"]["hard"]["pods"] == "0")
        .await;
    let of = |namespace: &str| {
        (
            format!("/apis/apps/v1/namespaces/{namespace}/statefulsets"),
            format!("/apis/batch/v1/namespaces/{namespace}/jobs"),
        )
    };
    let (sets, jobs) = of("full");
    for n in 0..20 {
        world.create(&sets, stateful::set(&format!("db-{n}"), 1, |_| ())).await;
        world.create(&jobs, jobs::job(&format!("sum-{n}"), |_| ())).await;
    }
    for (reason, text) in [
        ("FailedCreate", "persistentvolumeclaims \"data-db-0-0\" is forbidden: exceeded quota: none"),
        ("FailedCreate", "Error creating: pods "),
    ] {
        world
            .eventually("says why", "/api/v1/namespaces/full/events", |list| {
                list["items"]
                    .as_array()
                    .into_iter()
                    .flatten()
                    .any(|e| e["reason"] == reason && e["message"].as_str().is_some_and(|m| m.contains(text)))
            })
            .await;
    }
    let asked = Instant::now();
    let (sets, jobs) = of("default");
    world.create(&sets, stateful::set("db", 2, |_| ())).await;
    world.create(&jobs, jobs::job("sum", |_| ())).await;
    world.eventually("ready", &format!("{sets}/db"), |s| s["status"]["readyReplicas"] == 2).await;
    world.eventually("complete", &format!("{jobs}/sum"), |j| condition(j, "Complete")["status"] == "True").await;
    assert!(asked.elapsed() < Duration::from_secs(9), "it waited {:?}", asked.elapsed());
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_webhook_that_hangs_stops_no_other_set() {
    let world = World::start(&["replicaset-controller"]).await;
    let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "broken"}});
    world.create("/api/v1/namespaces", namespace).await;
    // Whoever makes a pod there waits.
    world.stubs.set("/api/v1/namespaces/broken/pods", Stub::Hang);
    let set = |name: &str| {
        json!({"apiVersion": "apps/v1", "kind": "ReplicaSet", "metadata": {"name": name}, "spec": {
            "replicas": 2, "selector": {"matchLabels": {"app": name}}, "template": {
                "metadata": {"labels": {"app": name}}, "spec": {"containers": [{"name": "c", "image": "i"}]}}}})
    };
    for n in 0..20 {
        world.create("/apis/apps/v1/namespaces/broken/replicasets", set(&format!("stuck-{n}"))).await;
    }
    until("pods are asked for", || world.stubs.asked("/api/v1/namespaces/broken/pods") >= 5).await;
    world.create("/apis/apps/v1/namespaces/default/replicasets", set("well")).await;
    world.count("made", "/api/v1/namespaces/default/pods", 2).await;
    world.stop().await;
}
