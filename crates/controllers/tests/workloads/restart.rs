//! Survival of restart at every write: a scenario is run once to count its writes, then once for each of them, with
//! the controllers killed right after it (the write is done, the answer never arrives) and started anew. All must end
//! in the same state.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use orkd_base::Supervisor;
use orkd_reconcile::{DeleteOptions, Propagation};
use serde_json::{Value, json};

use crate::world::{Fate, World, ended, running, soon};
use crate::{jobs, stateful};

/// Whether an answer is right.
type Right = fn(&Value) -> bool;

/// What is done when the first part has ended.
enum Change {
    Merge(Value),
    Delete(Propagation),
}

/// What a scenario is about. `NAMESPACE` in objects and paths stands for the namespace of the run; a path that begins with
/// a slash is whole, others are below the namespace.
struct Scenario {
    controllers: &'static [&'static str],
    /// Objects to make, by path below the namespace.
    objects: Vec<(&'static str, Value)>,
    /// When it has ended: a path below the namespace and what its answer must say.
    ends: (&'static str, Right),
    /// A change made then: of what, and what must be so at the end.
    then: Option<(&'static str, Change, &'static str, Right)>,
    /// What is compared.
    compared: &'static [&'static str],
}

/// About how many kills a scenario gets: more writes than that are sampled evenly.
const KILLS: usize = 14;

async fn survives(decide: fn(&Value) -> Option<Value>, scenario: Scenario) {
    let world = World::empty().await;
    world.play_kubelet(decide);
    let (expected, writes) = run(&world, &scenario, 0).await;
    assert!(writes > 2, "the scenario writes {writes} times");
    let step = writes.div_ceil(KILLS).max(1);
    for kill in (1..=writes).step_by(step) {
        let (state, _) = run(&world, &scenario, kill).await;
        assert_eq!(state, expected, "killed after write {kill} of {writes}");
    }
    world.stop().await;
}

/// Runs a scenario in a namespace of its own. Returns the state it ends in and how many writes that took.
async fn run(world: &World, scenario: &Scenario, kill: usize) -> (BTreeMap<String, Vec<Value>>, usize) {
    let namespace = format!("run-{kill}");
    let of = |path: &str| {
        let path = path.replace("NAMESPACE", &namespace);
        match path.split_once(':') {
            _ if path.starts_with('/') => path,
            Some((group, rest)) => format!("/apis/{group}/namespaces/{namespace}/{rest}"),
            None => format!("/api/v1/namespaces/{namespace}/{path}"),
        }
    };
    let named = |body: &Value| -> Value {
        serde_json::from_str(&body.to_string().replace("NAMESPACE", &namespace)).expect("an object")
    };
    world
        .create("/api/v1/namespaces", json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}}))
        .await;
    world.account(&namespace).await;
    let fate = Fate::at(kill);
    let supervisor = Supervisor::new();
    world.control(&supervisor, scenario.controllers, &fate);
    for (path, body) in &scenario.objects {
        world.create(&of(path), named(body)).await;
    }
    let story = async {
        let (path, right) = &scenario.ends;
        world.eventually("the end of the first part", &of(path), right).await;
        if let Some((path, change, watched, right)) = &scenario.then {
            match change {
                Change::Merge(change) => drop(world.merge(&of(path), change.clone()).await),
                Change::Delete(policy) => {
                    world.delete(&of(path), DeleteOptions::default().propagation(*policy)).await;
                }
            }
            world.eventually("the end of the second part", &of(watched), right).await;
        }
    };
    let mut next = None;
    {
        tokio::pin!(story);
        let died = tokio::select! {
            () = &mut story => false,
            () = fate.death() => true,
        };
        if died {
            supervisor.shutdown(Duration::from_millis(1)).await;
            let again = Supervisor::new();
            world.control(&again, scenario.controllers, &Arc::default());
            next = Some(again);
            soon("the story after a kill", story).await;
        }
    }
    // What was begun is let come to its end: the state must be the same twice.
    let mut state = look(world, scenario, &of).await;
    let mut quiet = 0;
    while quiet < 5 {
        tokio::time::sleep(Duration::from_millis(40)).await;
        let now = look(world, scenario, &of).await;
        quiet = if now == state { quiet + 1 } else { 0 };
        state = now;
    }
    supervisor.shutdown(Duration::from_millis(1)).await;
    if let Some(next) = next {
        next.shutdown(Duration::from_millis(1)).await;
    }
    for (path, body) in &scenario.objects {
        let body = named(body);
        let target = format!("{}/{}", of(path), body["metadata"]["name"].as_str().unwrap_or(""));
        if world.get(&target).await.is_some() {
            world.delete(&target, DeleteOptions::default()).await;
        }
    }
    (state, fate.writes())
}

async fn look(world: &World, scenario: &Scenario, of: &impl Fn(&str) -> String) -> BTreeMap<String, Vec<Value>> {
    let mut state = BTreeMap::new();
    for path in scenario.compared {
        let answer = world.get(&of(path)).await.unwrap_or(Value::Null);
        let items = answer["items"].as_array().cloned();
        let mut items: Vec<Value> = items.unwrap_or_else(|| vec![answer]).iter().map(essence).collect();
        items.sort_by_key(Value::to_string);
        state.insert((*path).to_owned(), items);
    }
    state
}

/// An object without what differs from run to run: names that are made up, times, versions.
fn essence(object: &Value) -> Value {
    let mut object = object.clone();
    let owners = object["metadata"]["ownerReferences"].as_array().map_or(0, Vec::len);
    let finalizers = object["metadata"]["finalizers"].clone();
    let deleting = !object["metadata"]["deletionTimestamp"].is_null();
    let named = object["metadata"]["generateName"].is_null();
    let numbered = object["metadata"]["name"].as_str().is_some_and(|n| n.contains("run-"));
    let name = if named && !numbered { object["metadata"]["name"].clone() } else { Value::Null };
    object["metadata"] = json!({"name": name, "owners": owners, "finalizers": finalizers, "deleting": deleting});
    let status = &object["status"];
    let conditions: Vec<Value> = status["conditions"]
        .as_array()
        .into_iter()
        .flatten()
        .filter(|c| c["type"] != "Progressing")
        .map(|c| json!([c["type"], c["status"], c["reason"]]))
        .collect();
    let counts: BTreeMap<&String, &Value> =
        status.as_object().into_iter().flatten().filter(|(k, v)| v.is_number() && *k != "observedGeneration").collect();
    let endpoints = object["endpoints"].as_array().map(Vec::len);
    let active = status["active"].as_array().map(Vec::len);
    let rest =
        json!([status["phase"], status["completedIndexes"], status["failedIndexes"], conditions, endpoints, active]);
    json!({"metadata": object["metadata"], "replicas": object["spec"]["replicas"], "counts": counts, "rest": rest})
}

fn is_complete(job: &Value) -> bool {
    let conditions = job["status"]["conditions"].as_array();
    conditions.into_iter().flatten().any(|c| matches!(c["type"].as_str(), Some("Complete" | "Failed")))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_counts_exactly_once() {
    let scenario = Scenario {
        controllers: &["job-controller"],
        objects: vec![("batch/v1:jobs", jobs::job("sum", |_| ()))],
        ends: ("batch/v1:jobs/sum", is_complete),
        then: None,
        compared: &["batch/v1:jobs", "pods"],
    };
    survives(|_| ended(0), scenario).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_indexed_job_with_failures_counts_exactly_once() {
    let body = jobs::job("indexed", |j| {
        j["spec"]["completionMode"] = "Indexed".into();
        j["spec"]["backoffLimitPerIndex"] = 1.into();
    });
    let decide =
        |p: &Value| ended(i32::from(p["metadata"]["annotations"]["batch.kubernetes.io/job-completion-index"] == "1"));
    let scenario = Scenario {
        controllers: &["job-controller"],
        objects: vec![("batch/v1:jobs", body)],
        ends: ("batch/v1:jobs/indexed", is_complete),
        then: None,
        compared: &["batch/v1:jobs", "pods"],
    };
    survives(decide, scenario).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deployment_rolls() {
    let body = json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web"},
        "spec": {"replicas": 2, "selector": {"matchLabels": {"app": "web"}}, "template": {
            "metadata": {"labels": {"app": "web"}},
            "spec": {"terminationGracePeriodSeconds": 0, "containers": [{"name": "c", "image": "one"}]}}},
    });
    let two = json!({"spec": {"template": {"spec": {"containers": [{"name": "c", "image": "two"}]}}}});
    let scenario = Scenario {
        controllers: &["deployment-controller", "replicaset-controller"],
        objects: vec![("apps/v1:deployments", body)],
        ends: ("apps/v1:deployments/web", |d| d["status"]["availableReplicas"] == 2),
        then: Some(("apps/v1:deployments/web", Change::Merge(two), "apps/v1:deployments/web", |d| {
            d["status"]["observedGeneration"] == d["metadata"]["generation"]
                && d["status"]["updatedReplicas"] == 2
                && d["status"]["replicas"] == 2
                && d["status"]["availableReplicas"] == 2
        })),
        compared: &["apps/v1:deployments", "apps/v1:replicasets", "pods"],
    };
    survives(running, scenario).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stateful_set_rolls() {
    let two = json!({"spec": {"template": {"spec": {"containers": [{"name": "c", "image": "two"}]}}}});
    let scenario = Scenario {
        controllers: &["statefulset-controller"],
        objects: vec![("apps/v1:statefulsets", stateful::set("db", 2, |_| ()))],
        ends: ("apps/v1:statefulsets/db", |s| s["status"]["readyReplicas"] == 2),
        then: Some(("apps/v1:statefulsets/db", Change::Merge(two), "apps/v1:statefulsets/db", |s| {
            s["status"]["observedGeneration"] == s["metadata"]["generation"]
                && s["status"]["updatedReplicas"] == 2
                && s["status"]["readyReplicas"] == 2
                && s["status"]["currentRevision"] == s["status"]["updateRevision"]
        })),
        compared: &["apps/v1:statefulsets", "apps/v1:controllerrevisions", "pods", "persistentvolumeclaims"],
    };
    survives(running, scenario).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_daemon_set_rolls() {
    let body = json!({
        "apiVersion": "apps/v1", "kind": "DaemonSet", "metadata": {"name": "agent"},
        "spec": {"selector": {"matchLabels": {"app": "agent"}}, "template": {
            "metadata": {"labels": {"app": "agent"}},
            // New nodes are tainted until they are ready.
            "spec": {"terminationGracePeriodSeconds": 0, "tolerations": [{"operator": "Exists"}], "containers": [{"name": "c", "image": "one"}]}}},
    });
    let node = |n: &str| {
        let name = format!("{n}-NAMESPACE");
        ("/api/v1/nodes", json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name}}))
    };
    let two = json!({"spec": {"template": {"spec": {"containers": [{"name": "c", "image": "two"}]}}}});
    let scenario = Scenario {
        controllers: &["daemonset-controller"],
        objects: vec![node("a"), node("b"), ("apps/v1:daemonsets", body)],
        ends: ("apps/v1:daemonsets/agent", |d| d["status"]["numberAvailable"] == 2),
        then: Some(("apps/v1:daemonsets/agent", Change::Merge(two), "apps/v1:daemonsets/agent", |d| {
            d["status"]["observedGeneration"] == d["metadata"]["generation"]
                && d["status"]["updatedNumberScheduled"] == 2
                && d["status"]["numberAvailable"] == 2
        })),
        compared: &["apps/v1:daemonsets", "apps/v1:controllerrevisions", "pods"],
    };
    survives(running, scenario).await;
}

fn claim(name: &str, class: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": name},
        "spec": {"accessModes": ["ReadWriteOnce"], "storageClassName": class,
            "resources": {"requests": {"storage": "1Gi"}}}})
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_claim_is_bound_and_its_volume_released() {
    let volume = json!({"apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": "vol-NAMESPACE"},
        "spec": {"accessModes": ["ReadWriteOnce"], "capacity": {"storage": "2Gi"}, "storageClassName": "NAMESPACE",
            "persistentVolumeReclaimPolicy": "Retain", "hostPath": {"path": "/data"}}});
    let scenario = Scenario {
        controllers: &["persistentvolume-controller", "persistentvolumeclaim-protection-controller"],
        objects: vec![("/api/v1/persistentvolumes", volume), ("persistentvolumeclaims", claim("data", "NAMESPACE"))],
        ends: ("persistentvolumeclaims/data", |c| c["status"]["phase"] == "Bound"),
        then: Some((
            "persistentvolumeclaims/data",
            Change::Delete(Propagation::Background),
            "/api/v1/persistentvolumes/vol-NAMESPACE",
            |v| v["status"]["phase"] == "Released",
        )),
        compared: &["persistentvolumeclaims", "/api/v1/persistentvolumes/vol-NAMESPACE"],
    };
    survives(running, scenario).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_claim_gets_a_folder() {
    let node = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "a-NAMESPACE"}});
    let mut claim = claim("data", "orkd-local");
    claim["metadata"]["annotations"] = json!({"volume.kubernetes.io/selected-node": "a-NAMESPACE"});
    let grow = json!({"spec": {"resources": {"requests": {"storage": "3Gi"}}}});
    let scenario = Scenario {
        controllers: &["persistentvolume-controller", "local-path-provisioner"],
        objects: vec![("/api/v1/nodes", node), ("persistentvolumeclaims", claim)],
        ends: ("persistentvolumeclaims/data", |c| c["status"]["phase"] == "Bound"),
        then: Some(("persistentvolumeclaims/data", Change::Merge(grow), "persistentvolumeclaims/data", |c| {
            c["status"]["capacity"]["storage"] == "3Gi"
        })),
        compared: &["persistentvolumeclaims"],
    };
    survives(running, scenario).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deployment_goes_with_all_it_owns() {
    let body = json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web"},
        "spec": {"replicas": 2, "selector": {"matchLabels": {"app": "web"}}, "template": {
            "metadata": {"labels": {"app": "web"}},
            "spec": {"terminationGracePeriodSeconds": 0, "containers": [{"name": "c", "image": "one"}]}}},
    });
    let scenario = Scenario {
        controllers: &["deployment-controller", "replicaset-controller", "garbage-collector-controller"],
        objects: vec![("apps/v1:deployments", body)],
        ends: ("apps/v1:deployments/web", |d| d["status"]["availableReplicas"] == 2),
        then: Some((
            "apps/v1:deployments/web",
            Change::Delete(Propagation::Foreground),
            "apps/v1:deployments/web",
            Value::is_null,
        )),
        compared: &["apps/v1:deployments", "apps/v1:replicasets", "pods"],
    };
    survives(running, scenario).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_namespace_is_emptied() {
    let map = |name: &str| {
        let json = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}});
        ("/api/v1/namespaces/extra-NAMESPACE/configmaps", json)
    };
    let extra = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "extra-NAMESPACE"}});
    let scenario = Scenario {
        controllers: &["namespace-controller"],
        objects: vec![("/api/v1/namespaces", extra), map("a"), map("b")],
        ends: ("/api/v1/namespaces/extra-NAMESPACE/configmaps/b", |m| !m.is_null()),
        then: Some((
            "/api/v1/namespaces/extra-NAMESPACE",
            Change::Delete(Propagation::Background),
            "/api/v1/namespaces/extra-NAMESPACE",
            Value::is_null,
        )),
        compared: &["/api/v1/namespaces/extra-NAMESPACE/configmaps"],
    };
    survives(running, scenario).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cron_job_runs_once() {
    let body = json!({
        "apiVersion": "batch/v1", "kind": "CronJob", "metadata": {"name": "cron"},
        "spec": {"schedule": "@every 1s", "concurrencyPolicy": "Forbid", "jobTemplate": {"spec": {
            "template": {"spec": {"restartPolicy": "Never", "containers": [{"name": "c", "image": "i"}]}}}}},
    });
    let scenario = Scenario {
        controllers: &["cronjob-controller", "job-controller"],
        objects: vec![("batch/v1:cronjobs", body)],
        ends: ("batch/v1:cronjobs/cron", |c| {
            c["status"]["active"].as_array().is_some_and(|a| a.len() == 1)
                && c["status"]["lastScheduleTime"].is_string()
        }),
        then: None,
        compared: &["batch/v1:cronjobs", "pods"],
    };
    survives(running, scenario).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_that_has_ended_goes_after_its_time() {
    let scenario = Scenario {
        controllers: &["job-controller", "ttl-after-finished-controller", "garbage-collector-controller"],
        objects: vec![("batch/v1:jobs", jobs::job("short", |j| j["spec"]["ttlSecondsAfterFinished"] = 0.into()))],
        ends: ("batch/v1:jobs/short", Value::is_null),
        then: None,
        compared: &["batch/v1:jobs", "pods"],
    };
    survives(|_| ended(0), scenario).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_service_has_its_endpoints() {
    let pod = |name: &'static str| {
        let json = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "labels": {"app": "web"}},
            "spec": {"nodeName": "n1", "automountServiceAccountToken": false,
                "containers": [{"name": "c", "image": "i"}]}});
        ("pods", json)
    };
    let service = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "web"},
        "spec": {"selector": {"app": "web"}, "ports": [{"port": 80}]}});
    let decide = |p: &Value| {
        let ip = if p["metadata"]["name"] == "a" { "10.42.0.1" } else { "10.42.0.2" };
        let mut status = running(p)?;
        status["podIP"] = ip.into();
        status["podIPs"] = json!([{"ip": ip}]);
        Some(status)
    };
    let scenario = Scenario {
        controllers: &["endpointslice-controller", "endpoints-controller"],
        objects: vec![("services", service), pod("a"), pod("b")],
        ends: ("discovery.k8s.io/v1:endpointslices", |list| {
            let slices = list["items"].as_array().into_iter().flatten();
            let endpoints = slices.flat_map(|s| s["endpoints"].as_array().cloned().unwrap_or_default());
            endpoints.filter(|e| e["conditions"]["ready"] == true).count() == 2
        }),
        then: Some((
            "pods/b",
            Change::Merge(json!({"metadata": {"labels": {"app": "other"}}})),
            "endpoints/web",
            |e| e["subsets"][0]["addresses"].as_array().is_some_and(|a| a.len() == 1),
        )),
        compared: &["discovery.k8s.io/v1:endpointslices", "endpoints"],
    };
    survives(decide, scenario).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replication_controller_keeps_its_pods_and_a_budget_counts_them() {
    let body = json!({
        "apiVersion": "v1", "kind": "ReplicationController", "metadata": {"name": "old"},
        "spec": {"replicas": 2, "selector": {"app": "old"}, "template": {
            "metadata": {"labels": {"app": "old"}},
            "spec": {"terminationGracePeriodSeconds": 0, "containers": [{"name": "c", "image": "one"}]}}},
    });
    let budget = json!({"apiVersion": "policy/v1", "kind": "PodDisruptionBudget", "metadata": {"name": "one"},
        "spec": {"minAvailable": 1, "selector": {"matchLabels": {"app": "old"}}}});
    let more = json!({"spec": {"replicas": 3}});
    let scenario = Scenario {
        controllers: &["replication-controller", "disruption-controller"],
        objects: vec![("replicationcontrollers", body), ("policy/v1:poddisruptionbudgets", budget)],
        ends: ("policy/v1:poddisruptionbudgets/one", |b| b["status"]["currentHealthy"] == 2),
        then: Some(("replicationcontrollers/old", Change::Merge(more), "policy/v1:poddisruptionbudgets/one", |b| {
            b["status"]["currentHealthy"] == 3 && b["status"]["disruptionsAllowed"] == 2
        })),
        compared: &["replicationcontrollers", "policy/v1:poddisruptionbudgets", "pods"],
    };
    survives(running, scenario).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pod_gets_claims_of_disks_and_devices() {
    let template = json!({"apiVersion": "resource.k8s.io/v1", "kind": "ResourceClaimTemplate", "metadata": {"name": "gpu"},
        "spec": {"spec": {"devices": {"requests": [{"name": "one", "exactly": {"deviceClassName": "gpu"}}]}}}});
    let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "web"}, "spec": {
        "automountServiceAccountToken": false,
        "containers": [{"name": "c", "image": "i", "resources": {"claims": [{"name": "g"}]}}],
        "resourceClaims": [{"name": "g", "resourceClaimTemplateName": "gpu"}],
        "volumes": [{"name": "scratch", "ephemeral": {"volumeClaimTemplate": {
            "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}}}}]}});
    let scenario = Scenario {
        controllers: &["resourceclaim-controller", "ephemeral-volume-controller"],
        objects: vec![("resource.k8s.io/v1:resourceclaimtemplates", template), ("pods", pod)],
        ends: ("pods/web", |p| p["status"]["resourceClaimStatuses"][0]["resourceClaimName"].is_string()),
        // One that has ended has no use for its devices.
        then: Some((
            "pods/web/status",
            Change::Merge(json!({"status": {"phase": "Succeeded"}})),
            "resource.k8s.io/v1:resourceclaims",
            |list| list["items"].as_array().is_some_and(Vec::is_empty),
        )),
        compared: &["resource.k8s.io/v1:resourceclaims", "persistentvolumeclaims"],
    };
    survives(|_| None, scenario).await;
}
