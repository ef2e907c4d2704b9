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
