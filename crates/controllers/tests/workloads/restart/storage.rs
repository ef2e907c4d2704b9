//! Claims, volumes and devices.

use orkd_reconcile::Propagation::Background;
use serde_json::{Value, json};

use super::{Change, Do, Scenario, Until, scenarios};

scenarios! {
    a_claim_is_bound_and_its_volume_released,
    a_claim_gets_a_folder,
    what_is_in_use_stays,
    a_class_of_attributes_stays_for_its_claims,
    a_volume_of_a_driver_is_attached_and_detached,
    a_claim_that_shall_grow_waits_for_its_driver,
    a_pod_gets_claims_of_disks_and_devices,
}

fn claim(name: &str, class: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": name},
        "spec": {"accessModes": ["ReadWriteOnce"], "storageClassName": class,
            "resources": {"requests": {"storage": "1Gi"}}}})
}

/// A volume for the claims of the run, of a source.
fn volume(source: Value) -> Value {
    let mut volume = json!({"apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": "vol-NAMESPACE"},
        "spec": {"accessModes": ["ReadWriteOnce"], "capacity": {"storage": "2Gi"}, "storageClassName": "NAMESPACE",
            "persistentVolumeReclaimPolicy": "Retain"}});
    volume["spec"].as_object_mut().expect("a spec").extend(source.as_object().cloned().unwrap_or_default());
    volume
}

fn csi() -> Value {
    volume(json!({"csi": {"driver": "disk.example.com", "volumeHandle": "NAMESPACE"}}))
}

fn node() -> Value {
    json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "a-NAMESPACE"}})
}

/// A pod on the node that uses the claim `data`.
fn user() -> Value {
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "web"}, "spec": {
        "nodeName": "a-NAMESPACE", "automountServiceAccountToken": false, "terminationGracePeriodSeconds": 0,
        "containers": [{"name": "c", "image": "i"}],
        "volumes": [{"name": "d", "persistentVolumeClaim": {"claimName": "data"}}]}})
}

const VOLUME: &str = "/api/v1/persistentvolumes/vol-NAMESPACE";
const CLAIM: &str = "persistentvolumeclaims/data";

fn is_bound(object: &Value) -> bool {
    object["status"]["phase"] == "Bound"
}

fn a_claim_is_bound_and_its_volume_released() -> Scenario {
    let volume = volume(json!({"hostPath": {"path": "/data"}}));
    Scenario {
        controllers: &["persistentvolume-controller", "persistentvolumeclaim-protection-controller"],
        objects: vec![("/api/v1/persistentvolumes", volume), ("persistentvolumeclaims", claim("data", "NAMESPACE"))],
        story: vec![
            Until(CLAIM, is_bound),
            Do(CLAIM, Change::Delete(Background)),
            Until(VOLUME, |v| v["status"]["phase"] == "Released"),
        ],
        compared: &["persistentvolumeclaims", VOLUME],
        ..Scenario::default()
    }
}

fn a_claim_gets_a_folder() -> Scenario {
    let mut claim = claim("data", "orkd-local");
    claim["metadata"]["annotations"] = json!({"volume.kubernetes.io/selected-node": "a-NAMESPACE"});
    Scenario {
        controllers: &["persistentvolume-controller", "local-path-provisioner"],
        objects: vec![("/api/v1/nodes", node()), ("persistentvolumeclaims", claim)],
        story: vec![
            Until(CLAIM, is_bound),
            Do(CLAIM, Change::Merge(json!({"spec": {"resources": {"requests": {"storage": "3Gi"}}}}))),
            Until(CLAIM, |c| c["status"]["capacity"]["storage"] == "3Gi"),
        ],
        compared: &["persistentvolumeclaims"],
        ..Scenario::default()
    }
}

fn what_is_in_use_stays() -> Scenario {
    let volume = volume(json!({"hostPath": {"path": "/data"}}));
    Scenario {
        controllers: &[
            "persistentvolume-controller",
            "persistentvolumeclaim-protection-controller",
            "persistentvolume-protection-controller",
        ],
        objects: vec![
            ("/api/v1/nodes", node()),
            ("/api/v1/persistentvolumes", volume),
            ("persistentvolumeclaims", claim("data", "NAMESPACE")),
            ("pods", user()),
        ],
        story: vec![
            Until(CLAIM, |c| is_bound(c) && c["metadata"]["finalizers"][0] == "kubernetes.io/pvc-protection"),
            Until(VOLUME, |v| is_bound(v) && v["metadata"]["finalizers"][0] == "kubernetes.io/pv-protection"),
            Do(VOLUME, Change::Delete(Background)),
            Do(CLAIM, Change::Delete(Background)),
            Until(CLAIM, |c| !c["metadata"]["deletionTimestamp"].is_null()),
            Do("pods/web", Change::Delete(Background)),
            Until(CLAIM, Value::is_null),
            Until(VOLUME, Value::is_null),
        ],
        compared: &["persistentvolumeclaims", VOLUME, "pods"],
        ..Scenario::default()
    }
}

fn a_volume_of_a_driver_is_attached_and_detached() -> Scenario {
    Scenario {
        controllers: &["persistentvolume-controller", "attachdetach-controller"],
        objects: vec![
            ("/api/v1/nodes", node()),
            ("/api/v1/persistentvolumes", csi()),
            ("persistentvolumeclaims", claim("data", "NAMESPACE")),
            ("pods", user()),
        ],
        story: vec![
            Until("/api/v1/nodes/a-NAMESPACE", |n| n["status"]["volumesAttached"][0]["name"].is_string()),
            Do("pods/web", Change::Delete(Background)),
            Until("/api/v1/nodes/a-NAMESPACE", |n| n["status"]["volumesAttached"].is_null()),
            Until("/apis/storage.k8s.io/v1/volumeattachments", |l| l["items"].as_array().is_some_and(Vec::is_empty)),
        ],
        compared: &["/api/v1/nodes/a-NAMESPACE", "/apis/storage.k8s.io/v1/volumeattachments", "persistentvolumeclaims"],
        ..Scenario::default()
    }
}

fn a_claim_that_shall_grow_waits_for_its_driver() -> Scenario {
    let class = json!({"apiVersion": "storage.k8s.io/v1", "kind": "StorageClass", "metadata": {"name": "NAMESPACE"},
        "provisioner": "disk.example.com", "allowVolumeExpansion": true});
    Scenario {
        controllers: &["persistentvolume-controller", "volume-expand-controller"],
        objects: vec![
            ("/apis/storage.k8s.io/v1/storageclasses", class),
            ("/api/v1/persistentvolumes", csi()),
            ("persistentvolumeclaims", claim("data", "NAMESPACE")),
        ],
        story: vec![
            Until(CLAIM, is_bound),
            Do(CLAIM, Change::Merge(json!({"spec": {"resources": {"requests": {"storage": "3Gi"}}}}))),
            Until("events", |list| {
                list["items"].as_array().into_iter().flatten().any(|e| e["reason"] == "ExternalExpanding")
            }),
        ],
        compared: &["persistentvolumeclaims"],
        ..Scenario::default()
    }
}

fn a_pod_gets_claims_of_disks_and_devices() -> Scenario {
    let template = json!({"apiVersion": "resource.k8s.io/v1", "kind": "ResourceClaimTemplate", "metadata": {"name": "gpu"},
        "spec": {"spec": {"devices": {"requests": [{"name": "one", "exactly": {"deviceClassName": "gpu"}}]}}}});
    let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "web"}, "spec": {
        "automountServiceAccountToken": false,
        "containers": [{"name": "c", "image": "i", "resources": {"claims": [{"name": "g"}]}}],
        "resourceClaims": [{"name": "g", "resourceClaimTemplateName": "gpu"}],
        "volumes": [{"name": "scratch", "ephemeral": {"volumeClaimTemplate": {
            "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}}}}]}});
    Scenario {
        controllers: &["resourceclaim-controller", "ephemeral-volume-controller"],
        kubelet: |_| None,
        objects: vec![("resource.k8s.io/v1:resourceclaimtemplates", template), ("pods", pod)],
        story: vec![
            Until("pods/web", |p| p["status"]["resourceClaimStatuses"][0]["resourceClaimName"].is_string()),
            // One that has ended has no use for its devices.
            Do("pods/web/status", Change::Merge(json!({"status": {"phase": "Succeeded"}}))),
            Until("resource.k8s.io/v1:resourceclaims", |l| l["items"].as_array().is_some_and(Vec::is_empty)),
        ],
        compared: &["resource.k8s.io/v1:resourceclaims", "persistentvolumeclaims"],
        ..Scenario::default()
    }
}

fn a_class_of_attributes_stays_for_its_claims() -> Scenario {
    const CLASSES: &str = "/apis/storage.k8s.io/v1/volumeattributesclasses";
    const CLASS: &str = "/apis/storage.k8s.io/v1/volumeattributesclasses/fast-NAMESPACE";
    let class = json!({"apiVersion": "storage.k8s.io/v1", "kind": "VolumeAttributesClass",
        "metadata": {"name": "fast-NAMESPACE"}, "driverName": "disk.example.com", "parameters": {"iops": "1000"}});
    let mut claim = claim("data", "NAMESPACE");
    claim["spec"]["volumeAttributesClassName"] = json!("fast-NAMESPACE");
    Scenario {
        controllers: &["volumeattributesclass-protection-controller", "persistentvolumeclaim-protection-controller"],
        objects: vec![(CLASSES, class), ("persistentvolumeclaims", claim)],
        story: vec![
            Do(CLASS, Change::Delete(Background)),
            Until(CLASS, |c| c["metadata"]["deletionTimestamp"].is_string()),
            Do(CLAIM, Change::Delete(Background)),
            Until(CLASS, Value::is_null),
        ],
        compared: &[CLASS, "persistentvolumeclaims"],
        ..Scenario::default()
    }
}
