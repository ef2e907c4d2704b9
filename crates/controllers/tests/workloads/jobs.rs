//! Jobs.

use orkd_reconcile::{DeleteOptions, Propagation};
use serde_json::{Value, json};

use crate::world::{World, ended, running};

const JOBS: &str = "/apis/batch/v1/namespaces/default/jobs";
const PODS: &str = "/api/v1/namespaces/default/pods";

pub fn job(name: &str, change: impl FnOnce(&mut Value)) -> Value {
    let mut job = json!({
        "apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": name},
        "spec": {"parallelism": 2, "completions": 3, "template": {"spec": {
            "restartPolicy": "Never", "containers": [{"name": "c", "image": "i"}]}}},
    });
    change(&mut job);
    job
}

fn has(job: &Value, condition: &str) -> bool {
    let conditions = job["status"]["conditions"].as_array();
    conditions.into_iter().flatten().any(|c| c["type"] == condition && c["status"] == "True")
}

fn reason(job: &Value, condition: &str) -> String {
    let conditions = job["status"]["conditions"].as_array();
    let found = conditions.into_iter().flatten().find(|c| c["type"] == condition);
    found.and_then(|c| c["reason"].as_str()).unwrap_or("").to_owned()
}

fn index(pod: &Value) -> &str {
    pod["metadata"]["annotations"]["batch.kubernetes.io/job-completion-index"].as_str().unwrap_or("")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_counts_each_pod_once_and_takes_them_along() {
    let world = World::start(&["job-controller", "garbage-collector-controller"]).await;
    world.play_kubelet(|_| ended(0));
    world.create(JOBS, job("sum", |_| ())).await;
    let path = format!("{JOBS}/sum");
    let done = world.eventually("complete", &path, |j| has(j, "Complete")).await;
    assert_eq!((&done["status"]["succeeded"], &done["status"]["failed"]), (&json!(3), &Value::Null), "{done:#}");
    assert_eq!(reason(&done, "SuccessCriteriaMet"), "CompletionsReached");
    assert!(done["status"]["completionTime"].is_string());
    let pods = world.items(PODS).await;
    assert_eq!(pods.len(), 3);
    assert!(pods.iter().all(|p| p["metadata"]["finalizers"].is_null()), "no pod waits to be counted");
    world.delete(&path, DeleteOptions::default().propagation(Propagation::Background)).await;
    world.count("pods go", PODS, 0).await;
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_that_is_deleted_leaves_no_pod_behind() {
    let world = World::start(&["job-controller", "garbage-collector-controller"]).await;
    world.play_kubelet(running);
    for policy in [Propagation::Background, Propagation::Foreground] {
        world.create(JOBS, job("long", |_| ())).await;
        world.eventually("runs", &format!("{JOBS}/long"), |j| j["status"]["ready"] == 2).await;
        world.delete(&format!("{JOBS}/long"), DeleteOptions::default().propagation(policy)).await;
        world.count("pods go", PODS, 0).await;
        world.eventually("the job goes", &format!("{JOBS}/long"), Value::is_null).await;
    }
    world.create(JOBS, job("orphans", |_| ())).await;
    world.eventually("runs", &format!("{JOBS}/orphans"), |j| j["status"]["active"] == 2).await;
    world.delete(&format!("{JOBS}/orphans"), DeleteOptions::default().propagation(Propagation::Orphan)).await;
    world
        .eventually("orphans wait for nobody", PODS, |list| {
            let pods = list["items"].as_array().cloned().unwrap_or_default();
            pods.len() == 2 && pods.iter().all(|p| p["metadata"]["finalizers"].is_null())
        })
        .await;
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn indexes_fail_on_their_own() {
    let world = World::start(&["job-controller"]).await;
    world.play_kubelet(|p| ended(i32::from(index(p) == "1")));
    let body = job("indexed", |j| {
        j["spec"]["completionMode"] = "Indexed".into();
        j["spec"]["backoffLimitPerIndex"] = 1.into();
    });
    world.create(JOBS, body).await;
    let path = format!("{JOBS}/indexed");
    let failed = world.eventually("failed", &path, |j| has(j, "Failed")).await;
    assert_eq!(reason(&failed, "Failed"), "FailedIndexes");
    let status = &failed["status"];
    assert_eq!((&status["completedIndexes"], &status["failedIndexes"]), (&json!("0,2"), &json!("1")), "{status:#}");
    assert_eq!((&status["succeeded"], &status["failed"]), (&json!(2), &json!(2)));
    let pods = world.items(PODS).await;
    let counts: Vec<&str> = pods
        .iter()
        .filter(|p| index(p) == "1")
        .filter_map(|p| p["metadata"]["annotations"]["batch.kubernetes.io/job-index-failure-count"].as_str())
        .collect();
    assert!(counts.contains(&"0") && counts.contains(&"1"), "{counts:?}");
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn policies_decide_about_failures_and_success() {
    let world = World::start(&["job-controller"]).await;
    world.play_kubelet(|p| match p["metadata"]["labels"]["job-name"].as_str() {
        Some("policy") => ended(42),
        _ if index(p) == "0" => ended(0),
        _ => running(p),
    });
    let rules = json!({"rules": [{"action": "FailJob", "onExitCodes": {"operator": "In", "values": [42]}}]});
    world.create(JOBS, job("policy", |j| j["spec"]["podFailurePolicy"] = rules)).await;
    let failed = world.eventually("failed", &format!("{JOBS}/policy"), |j| has(j, "Failed")).await;
    assert_eq!(reason(&failed, "FailureTarget"), "PodFailurePolicy");
    let body = job("leader", |j| {
        j["spec"]["completionMode"] = "Indexed".into();
        j["spec"]["successPolicy"] = json!({"rules": [{"succeededIndexes": "0"}]});
    });
    world.create(JOBS, body).await;
    let done = world.eventually("done", &format!("{JOBS}/leader"), |j| has(j, "Complete")).await;
    assert_eq!(reason(&done, "Complete"), "SuccessPolicy");
    assert_eq!((&done["status"]["completedIndexes"], &done["status"]["active"]), (&json!("0"), &Value::Null));
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_stands_still_and_goes_on() {
    let world = World::start(&["job-controller"]).await;
    world.play_kubelet(running);
    world.create(JOBS, job("pause", |j| j["spec"]["suspend"] = true.into())).await;
    let path = format!("{JOBS}/pause");
    let still = world.eventually("suspended", &path, |j| has(j, "Suspended")).await;
    assert!(still["status"]["startTime"].is_null());
    // Where its pods may go can still be said.
    let place = json!({"spec": {"template": {"spec": {"nodeSelector": {"disk": "fast"}}}}});
    world.merge(&path, place).await;
    world.merge(&path, json!({"spec": {"suspend": false}})).await;
    world.eventually("runs", &path, |j| j["status"]["ready"] == 2 && j["status"]["startTime"].is_string()).await;
    assert!(world.items(PODS).await.iter().all(|p| p["spec"]["nodeSelector"]["disk"] == "fast"));
    world.merge(&path, json!({"spec": {"suspend": true}})).await;
    let still = world.eventually("suspended again", &path, |j| j["status"]["active"].is_null()).await;
    world.count("no pods", PODS, 0).await;
    assert_eq!(still["status"]["failed"], Value::Null, "what was suspended has not failed");
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pod_without_owner_is_adopted_and_one_that_does_not_fit_is_released() {
    let world = World::start(&["job-controller"]).await;
    world.play_kubelet(running);
    world.create(JOBS, job("own", |j| j["spec"]["parallelism"] = 1.into())).await;
    world.eventually("runs", &format!("{JOBS}/own"), |j| j["status"]["active"] == 1).await;
    let pod = world.items(PODS).await.remove(0);
    let path = format!("{PODS}/{}", pod["metadata"]["name"].as_str().expect("a name"));
    world.merge(&path, json!({"metadata": {"ownerReferences": null}})).await;
    let held = |p: &Value| p["metadata"]["finalizers"] == json!(["batch.kubernetes.io/job-tracking"]);
    world
        .eventually("adopted and counted on", &path, |p| {
            p["metadata"]["ownerReferences"][0]["kind"] == "Job" && held(p)
        })
        .await;
    let other = json!({"metadata": {"labels": {"batch.kubernetes.io/controller-uid": "x"}}});
    world.merge(&path, other).await;
    world.eventually("released", &path, |p| p["metadata"]["ownerReferences"].is_null() && !held(p)).await;
    world.count("replaced", PODS, 2).await;
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_that_another_manages_is_left_alone() {
    let world = World::start(&["job-controller"]).await;
    world.play_kubelet(|_| ended(0));
    let managed_by = |manager: &'static str| move |j: &mut Value| j["spec"]["managedBy"] = manager.into();
    world.create(JOBS, job("theirs", managed_by("example.com/queue"))).await;
    world.create(JOBS, job("ours", managed_by("kubernetes.io/job-controller"))).await;
    world.eventually("ours is done", &format!("{JOBS}/ours"), |j| has(j, "Complete")).await;
    let theirs = world.get(&format!("{JOBS}/theirs")).await.expect("the other");
    assert!(theirs["status"]["startTime"].is_null() && theirs["status"]["active"].is_null(), "{theirs:#}");
    let pods = world.items(PODS).await;
    assert!(pods.iter().all(|p| p["metadata"]["ownerReferences"][0]["name"] == "ours"), "{pods:#?}");
    world.stop().await;
}
