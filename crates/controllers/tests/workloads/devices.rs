//! Devices from their slices to the pods that use them, with nobody played but the nodes: the API server, the scheduler,
//! the controller of claims and the garbage collector.

use orkd_reconcile::DeleteOptions;
use serde_json::{Value, json};

use crate::world::World;

const CONTROLLERS: &[&str] = &["resourceclaim-controller", "garbage-collector-controller"];
const DRA: &str = "/apis/resource.k8s.io/v1";
const CLAIMS: &str = "/apis/resource.k8s.io/v1/namespaces/default/resourceclaims";
const PODS: &str = "/api/v1/namespaces/default/pods";
const NODES: &str = "/api/v1/nodes";
const DRIVER: &str = "gpu.example.com";

/// Two nodes, `a` with a device of each model and `b` with a large one, and the class `large`, which asks for that.
async fn machines(world: &World) {
    let amounts = json!({"cpu": "4", "memory": "8Gi", "pods": "20"});
    let device = |name: &str, model: &str| json!({"name": name, "attributes": {"model": {"string": model}}});
    for (name, devices) in
        [("a", json!([device("a0", "small"), device("a1", "large")])), ("b", json!([device("b0", "large")]))]
    {
        let node = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name, "labels":
            {"kubernetes.io/hostname": name}}, "status": {"allocatable": amounts, "capacity": amounts}});
        world.create(NODES, node).await;
        // What the node controller does for a node that is ready.
        world.merge(&format!("{NODES}/{name}"), json!({"spec": {"taints": null}})).await;
        let slice = json!({"apiVersion": "resource.k8s.io/v1", "kind": "ResourceSlice", "metadata": {"name": name},
            "spec": {"driver": DRIVER, "nodeName": name, "devices": devices,
                "pool": {"name": name, "generation": 1, "resourceSliceCount": 1}}});
        world.create(&format!("{DRA}/resourceslices"), slice).await;
    }
    let expression = format!("device.driver == '{DRIVER}' && device.attributes['{DRIVER}'].model == 'large'");
    let class = json!({"apiVersion": "resource.k8s.io/v1", "kind": "DeviceClass", "metadata": {"name": "large"},
        "spec": {"selectors": [{"cel": {"expression": expression}}]}});
    world.create(&format!("{DRA}/deviceclasses"), class).await;
}

fn one_large() -> Value {
    json!({"devices": {"requests": [{"name": "r", "exactly": {"deviceClassName": "large"}}]}})
}

/// A pod with one claim: `{"resourceClaimName": ..}` or `{"resourceClaimTemplateName": ..}`.
async fn pod(world: &World, name: &str, mut claim: Value) {
    claim["name"] = "dev".into();
    let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": {
        "automountServiceAccountToken": false, "resourceClaims": [claim],
        "containers": [{"name": "c", "image": "i", "resources": {"claims": [{"name": "dev"}]}}]}});
    world.create(PODS, pod).await;
}

/// Waits until a pod has a node; which, and what its claim from a template is called.
async fn placed(world: &World, name: &str) -> (String, String) {
    let pod = world.eventually("a node", &format!("{PODS}/{name}"), |p| p["spec"]["nodeName"].is_string()).await;
    let text = |v: &Value| v.as_str().unwrap_or_default().to_owned();
    (text(&pod["spec"]["nodeName"]), text(&pod["status"]["resourceClaimStatuses"][0]["resourceClaimName"]))
}

/// Waits until a pod is refused with a text, in its condition and in an event.
async fn refused(world: &World, name: &str, text: &str) {
    let says = |p: &Value| {
        let conditions = p["status"]["conditions"].as_array();
        let found = conditions.into_iter().flatten().find(|c| c["type"] == "PodScheduled");
        found.is_some_and(|c| c["status"] == "False" && c["reason"] == "Unschedulable" && c["message"] == text)
    };
    world.eventually(text, &format!("{PODS}/{name}"), says).await;
    let tells = |list: &Value| {
        let mut events = list["items"].as_array().into_iter().flatten();
        events.any(|e| e["involvedObject"]["name"] == name && e["reason"] == "FailedScheduling" && e["message"] == text)
    };
    world.eventually("an event", "/api/v1/namespaces/default/events", tells).await;
}

/// The devices of a claim, and the names of those it is reserved for, in order.
fn use_of(claim: &Value) -> (Vec<&str>, Vec<&str>) {
    let texts = |list: &'static str, field: &str| -> Vec<&str> {
        let mut found: Vec<&str> = (claim.pointer(list).and_then(Value::as_array).into_iter().flatten())
            .filter_map(|v| v[field].as_str())
            .collect();
        found.sort_unstable();
        found
    };
    (texts("/status/allocation/devices/results", "device"), texts("/status/reservedFor", "name"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pods_share_devices_compete_for_them_and_leave_them_to_others() {
    let world = World::start(CONTROLLERS).await;
    machines(&world).await;
    world.schedule();
    let claim = json!({"apiVersion": "resource.k8s.io/v1", "kind": "ResourceClaim", "metadata": {"name": "shared"},
        "spec": one_large()});
    world.create(CLAIMS, claim).await;
    let template = json!({"apiVersion": "resource.k8s.io/v1", "kind": "ResourceClaimTemplate",
        "metadata": {"name": "own"}, "spec": {"metadata": {"labels": {"of": "own"}}, "spec": one_large()}});
    world.create(&CLAIMS.replace("resourceclaims", "resourceclaimtemplates"), template).await;

    // Two pods share a claim: one device, one node, both are told of.
    pod(&world, "share-1", json!({"resourceClaimName": "shared"})).await;
    pod(&world, "share-2", json!({"resourceClaimName": "shared"})).await;
    let shared_node = placed(&world, "share-1").await.0;
    assert_eq!(placed(&world, "share-2").await.0, shared_node);
    let shared_path = format!("{CLAIMS}/shared");
    let shared = world.get(&shared_path).await.expect("the claim");
    let (shared_device, other) = if shared_node == "a" { ("a1", ("b", "b0")) } else { ("b0", ("a", "a1")) };
    assert_eq!(use_of(&shared), (vec![shared_device], vec!["share-1", "share-2"]), "{shared:#}");
    assert_eq!(shared["metadata"]["finalizers"], json!(["resource.kubernetes.io/delete-protection"]));

    // A pod takes what is left, and the next one waits: it never gets the small device.
    pod(&world, "first", json!({"resourceClaimTemplateName": "own"})).await;
    let (node, own) = placed(&world, "first").await;
    let own_path = format!("{CLAIMS}/{own}");
    let made = world.get(&own_path).await.expect("the claim of the template");
    assert_eq!((node.as_str(), use_of(&made)), (other.0, (vec![other.1], vec!["first"])), "{made:#}");
    assert_eq!(made["metadata"]["labels"]["of"], "own");
    pod(&world, "second", json!({"resourceClaimTemplateName": "own"})).await;
    let text = "0/2 nodes are available: 2 cannot allocate all claims. still not schedulable, preemption: 0/2 nodes are \
                available: 2 Preemption is not helpful for scheduling.";
    refused(&world, "second", text).await;

    // Its claim goes with the first pod, and its device to the second.
    world.delete(&format!("{PODS}/first"), DeleteOptions::default().grace(0)).await;
    let (node, second) = placed(&world, "second").await;
    let taken = world.get(&format!("{CLAIMS}/{second}")).await.expect("the claim of the second");
    assert_eq!((node.as_str(), use_of(&taken)), (other.0, (vec![other.1], vec!["second"])), "{taken:#}");
    world.eventually("the claim of the first goes", &own_path, Value::is_null).await;

    // A shared claim keeps its device until the last of its pods is done, whether that is deleted or has ended.
    pod(&world, "third", json!({"resourceClaimTemplateName": "own"})).await;
    refused(&world, "third", text).await;
    world.delete(&format!("{PODS}/share-1"), DeleteOptions::default().grace(0)).await;
    let left = |c: &Value| use_of(c) == (vec![shared_device], vec!["share-2"]);
    world.eventually("one is out, the device stays", &shared_path, left).await;
    let ended = json!({"status": {"phase": "Succeeded"}});
    world.merge(&format!("{PODS}/share-2/status"), ended).await;
    assert_eq!(placed(&world, "third").await.0, shared_node);
    let free = |c: &Value| c["status"]["allocation"].is_null() && c["status"]["reservedFor"].is_null();
    world.eventually("the shared claim is free", &shared_path, free).await;
    world.stop().await;
}
