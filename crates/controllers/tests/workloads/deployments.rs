//! Deployments: names that are taken, and what is told on the way.

use orkd_reconcile::{DeleteOptions, Propagation};
use serde_json::{Value, json};

use crate::world::{World, running};

const DEPLOYMENTS: &str = "/apis/apps/v1/namespaces/default/deployments";
const SETS: &str = "/apis/apps/v1/namespaces/default/replicasets";

fn deployment(replicas: i32) -> Value {
    json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web"},
        "spec": {"replicas": replicas, "selector": {"matchLabels": {"app": "web"}}, "template": {
            "metadata": {"labels": {"app": "web"}},
            "spec": {"terminationGracePeriodSeconds": 0, "containers": [{"name": "c", "image": "one"}]}}}})
}

/// `test/integration/deployment: TestDeploymentHashCollision`: a replica set of another template has the name.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_name_that_is_taken_is_counted_as_a_collision() {
    let world = World::start(&["deployment-controller", "replicaset-controller", "garbage-collector-controller"]).await;
    world.play_kubelet(running);
    let path = format!("{DEPLOYMENTS}/web");
    world.create(DEPLOYMENTS, deployment(1)).await;
    world.eventually("it runs", &path, |d| d["status"]["availableReplicas"] == 1).await;
    let taken = world.items(SETS).await.remove(0)["metadata"]["name"].clone();
    world.delete(&path, DeleteOptions::default().propagation(Propagation::Background)).await;
    world.count("all goes", SETS, 0).await;

    let foreign = json!({"apiVersion": "apps/v1", "kind": "ReplicaSet", "metadata": {"name": taken},
        "spec": {"replicas": 0, "selector": {"matchLabels": {"app": "other"}}, "template": {
            "metadata": {"labels": {"app": "other"}}, "spec": {"containers": [{"name": "c", "image": "two"}]}}}});
    world.create(SETS, foreign).await;
    world.create(DEPLOYMENTS, deployment(1)).await;
    let status = world.eventually("it runs all the same", &path, |d| d["status"]["availableReplicas"] == 1).await;
    assert_eq!(status["status"]["collisionCount"], 1);
    let sets = world.items(SETS).await;
    let own: Vec<&Value> = sets.iter().filter(|s| s["spec"]["replicas"] == 1).collect();
    assert_eq!((sets.len(), own.len()), (2, 1));
    assert_ne!(own[0]["metadata"]["name"], taken);
    world.stop().await;
}

/// Events and conditions of a life, in upstream's words.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_happens_is_told_in_upstreams_words() {
    let world = World::start(&["deployment-controller", "replicaset-controller"]).await;
    world.play_kubelet(running);
    let path = format!("{DEPLOYMENTS}/web");
    world.create(DEPLOYMENTS, deployment(2)).await;
    world.eventually("two run", &path, |d| d["status"]["availableReplicas"] == 2).await;
    let set = world.items(SETS).await.remove(0)["metadata"]["name"].as_str().expect("a name").to_owned();
    let is_done = |d: &Value| {
        let conditions = d["status"]["conditions"].as_array();
        conditions.into_iter().flatten().any(|c| c["reason"] == "NewReplicaSetAvailable")
    };
    let told = world.eventually("it is done", &path, is_done).await;
    let condition = |kind: &str| {
        let conditions = told["status"]["conditions"].as_array();
        let found = conditions.into_iter().flatten().find(|c| c["type"] == kind).cloned().unwrap_or_default();
        format!("{} {}: {}", found["status"], found["reason"], found["message"].as_str().unwrap_or_default())
    };
    let text = format!(r#""True" "NewReplicaSetAvailable": ReplicaSet "{set}" has successfully progressed."#);
    assert_eq!(condition("Progressing"), text);
    let text = r#""True" "MinimumReplicasAvailable": Deployment has minimum availability."#;
    assert_eq!(condition("Available"), text);
    world.merge(&path, json!({"spec": {"replicas": 1}})).await;
    world.eventually("one runs", &path, |d| d["status"]["replicas"] == 1).await;
    let expected = [
        ("Deployment", "ScalingReplicaSet", format!("Scaled up replica set {set} from 0 to 2")),
        ("Deployment", "ScalingReplicaSet", format!("Scaled down replica set {set} from 2 to 1")),
        ("ReplicaSet", "SuccessfulCreate", format!("Created pod: {set}-")),
        ("ReplicaSet", "SuccessfulDelete", format!("Deleted pod: {set}-")),
    ];
    world
        .eventually("events", "/api/v1/namespaces/default/events", |events| {
            expected.iter().all(|(kind, reason, text)| {
                events["items"].as_array().into_iter().flatten().any(|e| {
                    e["involvedObject"]["kind"] == *kind
                        && e["reason"] == *reason
                        && e["message"].as_str().is_some_and(|m| m.starts_with(text.as_str()))
                })
            })
        })
        .await;
    world.stop().await;
}
