//! Stateful sets with claims.

use serde_json::{Value, json};

use crate::world::{World, running};

const SETS: &str = "/apis/apps/v1/namespaces/default/statefulsets";
const CLAIMS: &str = "/api/v1/namespaces/default/persistentvolumeclaims";

pub fn set(name: &str, replicas: i32, change: impl FnOnce(&mut Value)) -> Value {
    let mut set = json!({
        "apiVersion": "apps/v1", "kind": "StatefulSet", "metadata": {"name": name},
        "spec": {"replicas": replicas, "serviceName": name, "selector": {"matchLabels": {"app": name}},
            "template": {"metadata": {"labels": {"app": name}}, "spec": {
                "terminationGracePeriodSeconds": 0, "containers": [{"name": "c", "image": "example/one"}]}},
            "volumeClaimTemplates": [{"metadata": {"name": "data"}, "spec": {"accessModes": ["ReadWriteOnce"],
                "resources": {"requests": {"storage": "1Mi"}}}}]},
    });
    change(&mut set);
    set
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn claims_follow_the_policy() {
    let world = World::start(&["statefulset-controller", "garbage-collector-controller", "job-controller"]).await;
    world.play_kubelet(running);
    let policy = json!({"whenScaled": "Delete", "whenDeleted": "Delete"});
    let body = set("db", 3, |s| s["spec"]["persistentVolumeClaimRetentionPolicy"] = policy);
    world.create(SETS, body).await;
    let path = format!("{SETS}/db");
    world.eventually("three", &path, |s| s["status"]["readyReplicas"] == 3).await;
    let claim = world.get(&format!("{CLAIMS}/data-db-0")).await.expect("a claim");
    assert_eq!(claim["metadata"]["ownerReferences"][0]["kind"], "StatefulSet", "{claim:#}");
    world.merge(&path, json!({"spec": {"replicas": 2}})).await;
    world
        .eventually("the third goes with its pod", &format!("{CLAIMS}/data-db-2"), |c| {
            c.is_null() || !c["metadata"]["deletionTimestamp"].is_null()
        })
        .await;
    let path = format!("{SETS}/db");
    world.merge(&path, json!({"spec": {"template": {"spec": {"containers": [{"name": "c", "image": "two"}]}}}})).await;
    let rolled = world
        .eventually("rolled", &path, |s| {
            s["status"]["updatedReplicas"] == 2 && s["status"]["currentRevision"] == s["status"]["updateRevision"]
        })
        .await;
    assert_eq!(rolled["status"]["currentReplicas"], 2);
    world.delete(&path, Default::default()).await;
    world
        .eventually("the others go with the set", CLAIMS, |list| {
            let claims = list["items"].as_array().cloned().unwrap_or_default();
            claims.iter().all(|c| !c["metadata"]["deletionTimestamp"].is_null())
        })
        .await;
    world.stop().await;
}
