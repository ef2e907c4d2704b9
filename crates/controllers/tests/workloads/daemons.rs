//! Daemon sets and their revisions.

use serde_json::{Value, json};

use crate::world::{World, running};

const SETS: &str = "/apis/apps/v1/namespaces/default/daemonsets";
const REVISIONS: &str = "/apis/apps/v1/namespaces/default/controllerrevisions";
const PODS: &str = "/api/v1/namespaces/default/pods";
const HASH: &str = "controller-revision-hash";

/// `TestDaemonSetHistory` of upstream's integration tests, and `dedupCurHistories`: a backup that is restored, or an older
/// server, may have left several revisions of one template.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn revisions_of_one_template_become_one() {
    let world = World::start(&["daemonset-controller"]).await;
    world.play_kubelet(running);
    world.create("/api/v1/nodes", json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "a"}})).await;
    let body = json!({"apiVersion": "apps/v1", "kind": "DaemonSet", "metadata": {"name": "agent"},
        "spec": {"selector": {"matchLabels": {"app": "agent"}}, "updateStrategy": {"type": "OnDelete"},
            "template": {"metadata": {"labels": {"app": "agent"}}, "spec": {
                "tolerations": [{"operator": "Exists"}], "containers": [{"name": "c", "image": "one"}]}}}});
    world.create(SETS, body).await;
    let path = format!("{SETS}/agent");
    world.eventually("it runs", &path, |d| d["status"]["updatedNumberScheduled"] == 1).await;

    let pod = world.items(PODS).await.remove(0);
    let pod_path = format!("{PODS}/{}", pod["metadata"]["name"].as_str().expect("a name"));
    world.merge(&pod_path, json!({"metadata": {"labels": {HASH: "twin"}}})).await;
    let none = |d: &Value| d["status"]["updatedNumberScheduled"].as_i64().unwrap_or(0) == 0;
    world.eventually("the pod is of another", &path, none).await;

    let kept = world.items(REVISIONS).await.remove(0);
    let mut twin = kept.clone();
    twin["metadata"] = json!({"name": "agent-twin", "labels": {"app": "agent", HASH: "twin"},
        "ownerReferences": kept["metadata"]["ownerReferences"]});
    (twin["apiVersion"], twin["kind"]) = (json!("apps/v1"), json!("ControllerRevision"));
    twin["revision"] = json!(0);
    world.create(REVISIONS, twin).await;
    world.eventually("the pod is of the one that is kept", &path, |d| d["status"]["updatedNumberScheduled"] == 1).await;
    let left =
        world.eventually("the other goes", REVISIONS, |l| l["items"].as_array().is_some_and(|i| i.len() == 1)).await;
    assert_eq!(left["items"][0]["metadata"]["uid"], kept["metadata"]["uid"]);
    let moved = world.get(&pod_path).await.expect("the pod");
    assert_eq!(moved["metadata"]["uid"], pod["metadata"]["uid"], "no pod is made anew");
    assert_eq!(moved["metadata"]["labels"][HASH], kept["metadata"]["labels"][HASH]);
    world.stop().await;
}

/// One without the label that tells its pods gets it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_revision_without_its_label_gets_it() {
    let world = World::start(&["daemonset-controller"]).await;
    let body = json!({"apiVersion": "apps/v1", "kind": "DaemonSet", "metadata": {"name": "agent"},
        "spec": {"selector": {"matchLabels": {"app": "agent"}},
            "template": {"metadata": {"labels": {"app": "agent"}}, "spec": {"containers": [{"name": "c", "image": "one"}]}}}});
    world.create(SETS, body).await;
    let one = |list: &Value| list["items"].as_array().is_some_and(|i| i.len() == 1);
    let made = world.eventually("a revision", REVISIONS, one).await["items"][0].clone();
    let name = made["metadata"]["name"].as_str().expect("a name").to_owned();
    let path = format!("{REVISIONS}/{name}");
    world.merge(&path, json!({"metadata": {"labels": {HASH: null}}})).await;
    world.eventually("the label is back", &path, |r| r["metadata"]["labels"][HASH] == name.as_str()).await;
    world.stop().await;
}
