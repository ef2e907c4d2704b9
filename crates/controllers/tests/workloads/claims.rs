//! Claims of devices are made, used and freed, with the controller killed after each of its writes. The scheduler is
//! played.

use std::time::Duration;

use orkd_base::{Clock, Supervisor};
use orkd_reconcile::DeleteOptions;
use serde_json::{Value, json};

use crate::world::{Fate, World, soon};

const CONTROLLERS: &[&str] = &["resourceclaim-controller"];
const FINALIZER: &str = "resource.kubernetes.io/delete-protection";

fn requests() -> Value {
    json!({"devices": {"requests": [{"name": "r", "exactly": {"deviceClassName": "gpu"}}]}})
}

fn pod(name: &str, node: Option<&str>, claims: Value) -> Value {
    let mut pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": {
        "automountServiceAccountToken": false, "containers": [{"name": "c", "image": "i"}], "resourceClaims": claims}});
    if let Some(node) = node {
        pod["spec"]["nodeName"] = node.into();
    }
    pod
}

/// Gives a claim a device, and users by name and UID, as the scheduler does.
async fn allocate(world: &World, path: &str, users: &[(&str, &str)]) {
    world.merge(path, json!({"metadata": {"finalizers": [FINALIZER]}})).await;
    let users: Vec<Value> =
        users.iter().map(|(name, uid)| json!({"resource": "pods", "name": name, "uid": uid})).collect();
    let results = json!([{"request": "r", "driver": "gpu.example.com", "pool": "n", "device": "x"}]);
    let status = json!({"allocation": {"devices": {"results": results}}, "reservedFor": users});
    world.merge(&format!("{path}/status"), json!({"status": status})).await;
}

/// A pod with a claim from a template and one that it shares with a pod that is gone; one that was sent to its node past
/// the scheduler. Ends when the first has ended and all is free again.
async fn story(world: &World, namespace: &str) {
    let claims = format!("/apis/resource.k8s.io/v1/namespaces/{namespace}/resourceclaims");
    let pods = format!("/api/v1/namespaces/{namespace}/pods");
    let claim = |name: &str| json!({"apiVersion": "resource.k8s.io/v1", "kind": "ResourceClaim", "metadata": {"name": name}, "spec": requests()});
    let template = json!({"apiVersion": "resource.k8s.io/v1", "kind": "ResourceClaimTemplate", "metadata": {"name": "t"},
        "spec": {"metadata": {"labels": {"of": "t"}}, "spec": requests()}});
    world.create(&claims.replace("resourceclaims", "resourceclaimtemplates"), template).await;
    world.create(&claims, claim("shared")).await;
    world.create(&claims, claim("direct")).await;
    let wanted =
        json!([{"name": "own", "resourceClaimTemplateName": "t"}, {"name": "shared", "resourceClaimName": "shared"}]);
    let made = world.create(&pods, pod("web", None, wanted)).await;
    let uid = made["metadata"]["uid"].as_str().unwrap_or_default();
    let path = format!("{pods}/web");
    let named = |p: &Value| p["status"]["resourceClaimStatuses"][0]["resourceClaimName"].is_string();
    let web = world.eventually("the claim of the template", &path, named).await;
    let own = web["status"]["resourceClaimStatuses"][0]["resourceClaimName"].as_str().unwrap_or_default();
    let own = format!("{claims}/{own}");
    assert_eq!(world.get(&own).await.unwrap_or_default()["metadata"]["labels"]["of"], "t");
    allocate(world, &own, &[("web", uid)]).await;
    allocate(world, &format!("{claims}/shared"), &[("web", uid), ("ghost", "gone")]).await;
    let users = |c: &Value| c["status"]["reservedFor"].as_array().map_or(0, Vec::len);
    world.eventually("who is gone is out", &format!("{claims}/shared"), |c| users(c) == 1).await;
    allocate(world, &format!("{claims}/direct"), &[]).await;
    let direct = json!([{"name": "d", "resourceClaimName": "direct"}]);
    world.create(&pods, pod("placed", Some("n"), direct)).await;
    world.eventually("a reservation", &format!("{claims}/direct"), |c| users(c) == 1).await;
    world.merge(&format!("{path}/status"), json!({"status": {"phase": "Succeeded"}})).await;
    world.eventually("its own claim goes", &own, Value::is_null).await;
    let is_free = |c: &Value| users(c) == 0 && c["status"]["allocation"].is_null();
    world.eventually("the other is free", &format!("{claims}/shared"), is_free).await;
    let direct = world.get(&format!("{claims}/direct")).await.unwrap_or_default();
    assert_eq!((users(&direct), direct["status"]["allocation"].is_null()), (1, false), "it is in use: {direct:#}");
    // Whatever protected it does so no more.
    world.delete(&format!("{claims}/shared"), DeleteOptions::default()).await;
    world.eventually("it can be removed", &format!("{claims}/shared"), Value::is_null).await;
    assert_eq!(world.items(&claims).await.len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn claims_of_devices_survive_restarts() {
    let world = World::empty().await;
    let mut writes = 0;
    let mut kill = 0;
    while kill <= writes {
        let namespace = format!("run-{kill:03}");
        let body = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}});
        world.create("/api/v1/namespaces", body).await;
        world.account(&namespace).await;
        let fate = Fate::at(kill, &namespace);
        let first = Supervisor::new();
        world.control(&first, CONTROLLERS, Clock::real(), &fate);
        let second = Supervisor::new();
        let story = story(&world, &namespace);
        tokio::pin!(story);
        let died = tokio::select! {
            () = &mut story => false,
            () = fate.death() => true,
        };
        first.shutdown(Duration::from_millis(1)).await;
        if died {
            fate.settled().await;
            world.control(&second, CONTROLLERS, Clock::real(), &fate.reborn());
            soon("the story after a kill", story).await;
        }
        second.shutdown(Duration::from_millis(1)).await;
        let claims = "/apis/resource.k8s.io/v1/namespaces/NAMESPACE/resourceclaims";
        assert_eq!(fate.made().get(claims), Some(&1), "killed after write {kill}: a claim is made once");
        writes = writes.max(if kill == 0 { fate.writes() } else { 0 });
        kill += 1;
    }
    assert!(writes > 6, "the story takes {writes} writes");
    world.stop().await;
}
