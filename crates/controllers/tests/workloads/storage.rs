//! Volumes and claims.

use orkd_reconcile::{Patch, Target};
use serde_json::{Value, json};

use crate::world::World;

const CLAIMS: &str = "/api/v1/namespaces/default/persistentvolumeclaims";
const VOLUMES: &str = "/api/v1/persistentvolumes";
const CONTROLLERS: &[&str] = &[
    "persistentvolume-controller",
    "local-path-provisioner",
    "ephemeral-volume-controller",
    "attachdetach-controller",
    "volume-expand-controller",
];

fn claim(name: &str, change: impl FnOnce(&mut Value)) -> Value {
    let mut claim = json!({
        "apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": name},
        "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}},
    });
    change(&mut claim);
    claim
}

fn volume(name: &str, change: impl FnOnce(&mut Value)) -> Value {
    let mut volume = json!({
        "apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": name},
        "spec": {"accessModes": ["ReadWriteOnce"], "capacity": {"storage": "2Gi"}, "storageClassName": "manual",
            "persistentVolumeReclaimPolicy": "Retain", "hostPath": {"path": "/data"}},
    });
    change(&mut volume);
    volume
}

/// Lets an object that is protected go, as the protection controllers would.
async fn unprotect(world: &World, path: &str) {
    let patch = Patch::Merge(json!({"metadata": {"finalizers": null}}));
    match world.api.patch::<Value>(&Target::path(path), &patch).await {
        // Nothing held it.
        Err(err) if err.is_not_found() => {}
        other => drop(other.expect("unprotected")),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_claim_gets_the_volume_that_suits_it() {
    let world = World::start(CONTROLLERS).await;
    world.create(VOLUMES, volume("big", |v| v["spec"]["capacity"]["storage"] = "9Gi".into())).await;
    world.create(VOLUMES, volume("fits", |_| ())).await;
    for name in ["big", "fits"] {
        world.eventually("free", &format!("{VOLUMES}/{name}"), |v| v["status"]["phase"] == "Available").await;
    }
    let manual = |c: &mut Value| c["spec"]["storageClassName"] = "manual".into();
    world.create(CLAIMS, claim("data", manual)).await;
    let path = format!("{CLAIMS}/data");
    let bound = world.eventually("bound", &path, |c| c["status"]["phase"] == "Bound").await;
    assert_eq!(
        (&bound["spec"]["volumeName"], &bound["status"]["capacity"]["storage"]),
        (&json!("fits"), &json!("2Gi"))
    );
    let annotations = &bound["metadata"]["annotations"];
    assert_eq!(annotations["pv.kubernetes.io/bind-completed"], "yes");
    assert_eq!(annotations["pv.kubernetes.io/bound-by-controller"], "yes");
    let taken = world.eventually("taken", &format!("{VOLUMES}/fits"), |v| v["status"]["phase"] == "Bound").await;
    assert_eq!(taken["spec"]["claimRef"]["uid"], bound["metadata"]["uid"]);
    // A second claim waits for a volume, and gets it when it comes.
    world
        .create(
            CLAIMS,
            claim("more", |c| {
                manual(c);
                c["spec"]["resources"]["requests"]["storage"] = "20Gi".into();
            }),
        )
        .await;
    world.create(VOLUMES, volume("huge", |v| v["spec"]["capacity"]["storage"] = "30Gi".into())).await;
    world.eventually("bound later", &format!("{CLAIMS}/more"), |c| c["spec"]["volumeName"] == "huge").await;
    // The claim goes, the volume stays with its data.
    world.delete(&path, Default::default()).await;
    unprotect(&world, &path).await;
    world.eventually("released", &format!("{VOLUMES}/fits"), |v| v["status"]["phase"] == "Released").await;
    // The volume of a bound claim goes: the claim is lost.
    world.delete(&format!("{VOLUMES}/huge"), Default::default()).await;
    unprotect(&world, &format!("{VOLUMES}/huge")).await;
    world.eventually("lost", &format!("{CLAIMS}/more"), |c| c["status"]["phase"] == "Lost").await;
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fresh_cluster_has_volumes() {
    let world = World::start(CONTROLLERS).await;
    let class = "/apis/storage.k8s.io/v1/storageclasses/orkd-local";
    let made = world.eventually("a class", class, |c| !c.is_null()).await;
    assert_eq!(made["metadata"]["annotations"]["storageclass.kubernetes.io/is-default-class"], "true");
    let node = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "n1",
        "labels": {"kubernetes.io/hostname": "host-1"}, "annotations": {"orkd.io/local-path": "/data/orkd"}}});
    world.create("/api/v1/nodes", node).await;
    world.create(CLAIMS, claim("data", |_| ())).await;
    let path = format!("{CLAIMS}/data");
    world.eventually("the class", &path, |c| c["spec"]["storageClassName"] == "orkd-local").await;
    world
        .eventually("says what it waits for", "/api/v1/namespaces/default/events", |list| {
            list["items"].as_array().into_iter().flatten().any(|e| e["reason"] == "WaitForFirstConsumer")
        })
        .await;
    // The scheduler has chosen.
    world.merge(&path, json!({"metadata": {"annotations": {"volume.kubernetes.io/selected-node": "n1"}}})).await;
    let bound = world.eventually("bound", &path, |c| c["status"]["phase"] == "Bound").await;
    let name = bound["spec"]["volumeName"].as_str().expect("a volume").to_owned();
    assert_eq!(name, format!("pvc-{}", bound["metadata"]["uid"].as_str().unwrap_or("")));
    let made = world.get(&format!("{VOLUMES}/{name}")).await.expect("the volume");
    assert_eq!(made["spec"]["local"]["path"], format!("/data/orkd/{name}_default_data"));
    assert_eq!(made["metadata"]["annotations"]["pv.kubernetes.io/provisioned-by"], "orkd.io/local-path");
    // It grows.
    world.merge(&path, json!({"spec": {"resources": {"requests": {"storage": "5Gi"}}}})).await;
    world.eventually("grown", &path, |c| c["status"]["capacity"]["storage"] == "5Gi").await;
    // Claim and node go; with them the volume.
    world.delete("/api/v1/nodes/n1", Default::default()).await;
    world.delete(&path, Default::default()).await;
    unprotect(&world, &path).await;
    let volume = format!("{VOLUMES}/{name}");
    world
        .eventually("the volume goes", &volume, |v| v.is_null() || !v["metadata"]["deletionTimestamp"].is_null())
        .await;
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_claim_whose_node_went_is_placed_anew() {
    let world = World::start(CONTROLLERS).await;
    world.eventually("a class", "/apis/storage.k8s.io/v1/storageclasses/orkd-local", |c| !c.is_null()).await;
    const SELECTED: &str = "volume.kubernetes.io/selected-node";
    let placed = |c: &mut Value| c["metadata"]["annotations"] = json!({SELECTED: "gone"});
    world.create(CLAIMS, claim("data", placed)).await;
    let path = format!("{CLAIMS}/data");
    world.eventually("no node", &path, |c| c["metadata"]["annotations"][SELECTED].is_null()).await;
    told(&world, "ProvisioningFailed", "failed to get target node: node \"gone\" not found").await;
    world.stop().await;
}

/// Waits for an event about the claim `data`.
async fn told(world: &World, reason: &str, text: &str) {
    let events = "/api/v1/namespaces/default/events?fieldSelector=involvedObject.name%3Ddata";
    let said = |e: &Value| e["reason"] == reason && e["message"] == text;
    world.eventually(reason, events, |l| l["items"].as_array().into_iter().flatten().any(said)).await;
}

/// What the sidecars of a CSI driver do (external-provisioner, external-resizer), as they do it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_driver_outside_makes_grows_and_removes_a_volume() {
    let world = World::start(CONTROLLERS).await;
    let class = json!({"apiVersion": "storage.k8s.io/v1", "kind": "StorageClass", "metadata": {"name": "fast"},
        "provisioner": "disk.example.com", "volumeBindingMode": "WaitForFirstConsumer", "allowVolumeExpansion": true});
    world.create("/apis/storage.k8s.io/v1/storageclasses", class).await;
    let made = world.create(CLAIMS, claim("data", |c| c["spec"]["storageClassName"] = "fast".into())).await;
    told(&world, "WaitForFirstConsumer", "waiting for first consumer to be created before binding").await;
    let path = format!("{CLAIMS}/data");
    world.merge(&path, json!({"metadata": {"annotations": {"volume.kubernetes.io/selected-node": "n1"}}})).await;
    let asked = world
        .eventually("somebody is asked", &path, |c| {
            c["metadata"]["annotations"]["volume.kubernetes.io/storage-provisioner"] == "disk.example.com"
        })
        .await;
    let older = &asked["metadata"]["annotations"]["volume.beta.kubernetes.io/storage-provisioner"];
    assert_eq!(older, "disk.example.com");
    let text = "Waiting for a volume to be created either by the external provisioner 'disk.example.com' or manually by \
                the system administrator. If volume creation is delayed, please verify that the provisioner is running \
                and correctly registered.";
    told(&world, "ExternalProvisioning", text).await;

    let uid = made["metadata"]["uid"].as_str().expect("a uid");
    let name = format!("pvc-{uid}");
    let body = volume(&name, |v| {
        v["metadata"]["annotations"] = json!({"pv.kubernetes.io/provisioned-by": "disk.example.com"});
        v["metadata"]["finalizers"] = json!(["external-provisioner.volume.kubernetes.io/finalizer"]);
        v["spec"] = json!({"accessModes": ["ReadWriteOnce"], "capacity": {"storage": "1Gi"}, "storageClassName": "fast",
            "persistentVolumeReclaimPolicy": "Delete", "csi": {"driver": "disk.example.com", "volumeHandle": "h"},
            "claimRef": {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "namespace": "default", "name": "data",
                "uid": uid}});
    });
    world.create(VOLUMES, body).await;
    let bound = world.eventually("bound", &path, |c| c["status"]["phase"] == "Bound").await;
    assert_eq!(bound["spec"]["volumeName"], name.as_str());
    assert_eq!(bound["metadata"]["annotations"]["pv.kubernetes.io/bind-completed"], "yes");
    let volume = format!("{VOLUMES}/{name}");
    let taken = world.eventually("taken", &volume, |v| v["status"]["phase"] == "Bound").await;
    // The driver chose the claim, nobody here did.
    assert!(taken["metadata"]["annotations"]["pv.kubernetes.io/bound-by-controller"].is_null());

    // It grows in the driver's time; what the driver notes stays.
    world.merge(&path, json!({"spec": {"resources": {"requests": {"storage": "3Gi"}}}})).await;
    told(&world, "ExternalExpanding", "waiting for an external controller to expand this PVC").await;
    let status = format!("{path}/status");
    let begins = json!({"status": {"conditions": [{"type": "Resizing", "status": "True"}],
        "allocatedResources": {"storage": "3Gi"},
        "allocatedResourceStatuses": {"storage": "ControllerResizeInProgress"}}});
    world.merge(&status, begins).await;
    world.merge(&volume, json!({"spec": {"capacity": {"storage": "3Gi"}}})).await;
    let ends = json!({"status": {"conditions": null, "allocatedResourceStatuses": null,
        "capacity": {"storage": "3Gi"}}});
    let grown = world.merge(&status, ends).await;
    assert_eq!(grown["status"]["allocatedResources"]["storage"], "3Gi");

    // The claim goes; the volume is the driver's to remove.
    world.delete(&path, Default::default()).await;
    unprotect(&world, &path).await;
    world.eventually("released", &volume, |v| v["status"]["phase"] == "Released").await;
    world.delete(&volume, Default::default()).await;
    unprotect(&world, &volume).await;
    world.eventually("removed", &volume, Value::is_null).await;
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pod_has_claims_of_its_own() {
    let world = World::start(CONTROLLERS).await;
    let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "web"}, "spec": {
        "automountServiceAccountToken": false, "containers": [{"name": "c", "image": "i"}],
        "volumes": [{"name": "scratch", "ephemeral": {"volumeClaimTemplate": {"metadata": {"labels": {"a": "b"}},
            "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}}}}]}});
    let pod = world.create("/api/v1/namespaces/default/pods", pod).await;
    let claim = world.eventually("a claim", &format!("{CLAIMS}/web-scratch"), |c| !c.is_null()).await;
    assert_eq!(claim["metadata"]["ownerReferences"][0]["uid"], pod["metadata"]["uid"]);
    assert_eq!(claim["metadata"]["labels"]["a"], "b");
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn volumes_of_drivers_are_attached_and_detached() {
    let world = World::start(CONTROLLERS).await;
    world.create("/api/v1/nodes", json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "n1"}})).await;
    let csi = volume("disk", |v| {
        let spec = v["spec"].as_object_mut().expect("a spec");
        spec.remove("hostPath");
        spec.insert("csi".into(), json!({"driver": "disk.example.com", "volumeHandle": "h"}));
    });
    world.create(VOLUMES, csi).await;
    world.create(CLAIMS, claim("data", |c| c["spec"]["storageClassName"] = "manual".into())).await;
    world.eventually("bound", &format!("{CLAIMS}/data"), |c| c["status"]["phase"] == "Bound").await;
    let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "web"}, "spec": {"nodeName": "n1",
        "automountServiceAccountToken": false, "containers": [{"name": "c", "image": "i"}],
        "volumes": [{"name": "d", "persistentVolumeClaim": {"claimName": "data"}}]}});
    world.create("/api/v1/namespaces/default/pods", pod).await;
    let list = "/apis/storage.k8s.io/v1/volumeattachments";
    world.count("asked for", list, 1).await;
    let asked = world.items(list).await.remove(0);
    assert_eq!((&asked["spec"]["attacher"], &asked["spec"]["nodeName"]), (&json!("disk.example.com"), &json!("n1")));
    let name = asked["metadata"]["name"].as_str().expect("a name");
    world.merge(&format!("{list}/{name}/status"), json!({"status": {"attached": true}})).await;
    world
        .eventually("the node hears", "/api/v1/nodes/n1", |n| {
            n["status"]["volumesAttached"][0]["name"] == "kubernetes.io/csi/disk.example.com^h"
        })
        .await;
    world.delete("/api/v1/namespaces/default/pods/web", orkd_reconcile::DeleteOptions::default().grace(0)).await;
    world.count("detached", list, 0).await;
    world.eventually("the node hears", "/api/v1/nodes/n1", |n| n["status"]["volumesAttached"].is_null()).await;
    world.stop().await;
}
