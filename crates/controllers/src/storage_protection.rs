//! Claims, volumes and classes of their attributes that are in use stay until nobody uses them: three controllers that
//! put a finalizer on and take it off.
//!
//! Follows `pkg/controller/volume/pvcprotection`, `pvprotection` and `vacprotection`. A claim is in use while a pod that
//! has a node names it; a volume while it is bound; a class while a claim or a volume names it.

use std::sync::Arc;

use orkd_base::BoxError;
use orkd_reconcile::{
    Api, ApiError, Informer, Key, ListOptions, Meta, Outcome, Queue, Resource, View, null_default, work,
};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::views::{Pod, view};
use crate::{ControllerSpec, Cx};

/// How the list of controllers names the one of claims.
pub const CLAIMS: ControllerSpec = ControllerSpec {
    name: "persistentvolumeclaim-protection-controller",
    service_account: "pvc-protection-controller",
    run: |cx| Box::pin(claims(cx)),
};

/// How the list of controllers names the one of volumes.
pub const VOLUMES: ControllerSpec = ControllerSpec {
    name: "persistentvolume-protection-controller",
    service_account: "pv-protection-controller",
    run: |cx| Box::pin(volumes(cx)),
};

/// How the list of controllers names the one of classes.
pub const CLASSES: ControllerSpec = ControllerSpec {
    name: "volumeattributesclass-protection-controller",
    service_account: "volumeattributesclass-protection-controller",
    run: |cx| Box::pin(classes(cx)),
};

const CLAIM_FINALIZER: &str = "kubernetes.io/pvc-protection";
const VOLUME_FINALIZER: &str = "kubernetes.io/pv-protection";
const CLASS_FINALIZER: &str = "kubernetes.io/vac-protection";
const BY_CLAIM: &str = "claim";
const BY_CLASS: &str = "class";

/// A claim, as far as protection goes.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct ProtectedClaim {
    metadata: Meta,
    spec: ClassName,
    status: ClaimStatus,
}
view!(ProtectedClaim, "", "v1", "PersistentVolumeClaim", "persistentvolumeclaims");

/// A volume, as far as protection goes.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct ProtectedVolume {
    metadata: Meta,
    spec: ClassName,
    status: Phase,
}
view!(ProtectedVolume, "", "v1", "PersistentVolume", "persistentvolumes", false);

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct Phase {
    phase: String,
}

/// A class of attributes, as far as protection goes.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct ProtectedClass {
    metadata: Meta,
}
view!(ProtectedClass, "storage.k8s.io", "v1", "VolumeAttributesClass", "volumeattributesclasses", false);

/// The class that is wished for.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct ClassName {
    #[serde(deserialize_with = "null_default")]
    volume_attributes_class_name: String,
}

/// The class that a claim has, and the one it is being changed to.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct ClaimStatus {
    #[serde(deserialize_with = "null_default")]
    current_volume_attributes_class_name: String,
    #[serde(deserialize_with = "null_default")]
    modify_volume_status: Modification,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Modification {
    target_volume_attributes_class_name: String,
}

impl ProtectedClaim {
    /// The classes it uses; an empty name for none.
    fn classes(&self) -> [&String; 3] {
        [
            &self.spec.volume_attributes_class_name,
            &self.status.current_volume_attributes_class_name,
            &self.status.modify_volume_status.target_volume_attributes_class_name,
        ]
    }
}

/// What is to be done about a finalizer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    Add,
    Remove,
    Nothing,
}

/// Decides about one object.
fn step(meta: &Meta, finalizer: &str, in_use: bool) -> Step {
    let has = meta.finalizers.iter().any(|f| f == finalizer);
    match (meta.is_deleting(), has) {
        (true, true) if !in_use => Step::Remove,
        (false, false) => Step::Add,
        _ => Step::Nothing,
    }
}

/// Does it, on the object as it is now.
async fn apply<T: View>(api: &Api, key: &Key, finalizer: &str, step: Step) -> Result<(), ApiError> {
    let change = |object: &mut Value| {
        let list = object["metadata"]["finalizers"].as_array().cloned().unwrap_or_default();
        let has = list.iter().any(|f| f == finalizer);
        let deleting = object["metadata"]["deletionTimestamp"].is_string();
        let mut list = list;
        match step {
            Step::Add if !has && !deleting => list.push(json!(finalizer)),
            Step::Remove if has && deleting => list.retain(|f| f != finalizer),
            _ => return false,
        }
        object["metadata"]["finalizers"] = json!(list);
        true
    };
    let target = Resource::of::<T>().at(&key.namespace, &key.name);
    match api.modify(&target, "", change).await {
        Err(err) if err.is_not_found() => Ok(()),
        other => other.map(|_| ()),
    }
}

/// Whether a pod's volumes name a claim; one made for the pod counts, too.
fn names_claim(pod: &Value, claim: &str) -> bool {
    let name = pod["metadata"]["name"].as_str().unwrap_or_default();
    let scheduled = pod["spec"]["nodeName"].as_str().is_some_and(|n| !n.is_empty());
    let volumes = pod["spec"]["volumes"].as_array();
    scheduled
        && volumes.into_iter().flatten().any(|v| {
            let own = || format!("{name}-{}", v["name"].as_str().unwrap_or_default());
            v["persistentVolumeClaim"]["claimName"] == claim || v["ephemeral"].is_object() && own() == claim
        })
}

async fn claims(cx: Cx) -> Result<(), BoxError> {
    let claims: Informer<ProtectedClaim> = cx.informers.informer();
    let pods: Informer<Pod> = cx.informers.informer();
    pods.add_index(BY_CLAIM, |pod| {
        pod.spec.volumes.iter().map(|volume| volume.claim_of(&pod.metadata).to_string()).collect()
    });
    let queue: Queue<Key> = cx.queue(CLAIMS.name);
    {
        let queue = queue.clone();
        claims.subscribe(move |event| {
            if !event.is_deleted() {
                queue.add(event.key());
            }
        });
    }
    {
        let (queue, claims) = (queue.clone(), claims.clone());
        pods.subscribe(move |event| {
            let pod = event.object();
            for key in pod.spec.volumes.iter().map(|volume| volume.claim_of(&pod.metadata)) {
                // Only what is waiting to go cares about pods.
                if claims.get(&key).is_some_and(|c| c.metadata.is_deleting()) {
                    queue.add(key);
                }
            }
        });
    }
    claims.synced().await;
    pods.synced().await;
    let (api, claims, pods) = (&cx.api, &claims, &pods);
    work(queue, 5, cx.stop, |key| async move {
        let Some(claim) = claims.get(&key) else { return Ok(Outcome::Done) };
        let users = pods.by_index(BY_CLAIM, &key.to_string());
        let in_use = users.iter().any(|pod: &Arc<Pod>| !pod.spec.node_name.is_empty());
        let step = step(&claim.metadata, CLAIM_FINALIZER, in_use);
        if step == Step::Remove {
            // The cache may be behind: the API has the last word.
            let pods = Resource::of::<Pod>().collection(&key.namespace);
            let live = api.list_all::<Value>(&pods, &ListOptions::default()).await?;
            if live.items.iter().any(|pod| names_claim(pod, &key.name)) {
                return Ok(Outcome::Done);
            }
        }
        if step != Step::Nothing {
            apply::<ProtectedClaim>(api, &key, CLAIM_FINALIZER, step).await?;
        }
        Ok(Outcome::Done)
    })
    .await;
    Ok(())
}

async fn volumes(cx: Cx) -> Result<(), BoxError> {
    let volumes: Informer<ProtectedVolume> = cx.informers.informer();
    let queue: Queue<Key> = cx.queue(VOLUMES.name);
    {
        let queue = queue.clone();
        volumes.subscribe(move |event| {
            if !event.is_deleted() {
                queue.add(event.key());
            }
        });
    }
    volumes.synced().await;
    let (api, volumes) = (&cx.api, &volumes);
    work(queue, 5, cx.stop, |key| async move {
        let Some(volume) = volumes.get(&key) else { return Ok(Outcome::Done) };
        let step = step(&volume.metadata, VOLUME_FINALIZER, volume.status.phase == "Bound");
        if step != Step::Nothing {
            apply::<ProtectedVolume>(api, &key, VOLUME_FINALIZER, step).await?;
        }
        Ok(Outcome::Done)
    })
    .await;
    Ok(())
}

async fn classes(cx: Cx) -> Result<(), BoxError> {
    let classes: Informer<ProtectedClass> = cx.informers.informer();
    let claims: Informer<ProtectedClaim> = cx.informers.informer();
    let volumes: Informer<ProtectedVolume> = cx.informers.informer();
    let named = |names: &[&String]| names.iter().filter(|n| !n.is_empty()).map(|n| (*n).clone()).collect::<Vec<_>>();
    claims.add_index(BY_CLASS, move |claim| named(&claim.classes()));
    volumes.add_index(BY_CLASS, move |volume| named(&[&volume.spec.volume_attributes_class_name]));
    let queue: Queue<Key> = cx.queue(CLASSES.name);
    {
        let queue = queue.clone();
        classes.subscribe(move |event| {
            if !event.is_deleted() {
                queue.add(event.key());
            }
        });
    }
    // Whoever may have given up a class, or taken another.
    {
        let queue = queue.clone();
        claims.subscribe(move |event| {
            let before = event.old().or(event.is_deleted().then(|| event.object()));
            before.into_iter().flat_map(|c| named(&c.classes())).for_each(|name| queue.add(Key::new("", &name)));
        });
    }
    {
        let queue = queue.clone();
        volumes.subscribe(move |event| {
            let before = event.old().or(event.is_deleted().then(|| event.object()));
            let names = before.into_iter().flat_map(|v| named(&[&v.spec.volume_attributes_class_name]));
            names.for_each(|name| queue.add(Key::new("", &name)));
        });
    }
    classes.synced().await;
    claims.synced().await;
    volumes.synced().await;
    let (api, classes, claims, volumes) = (&cx.api, &classes, &claims, &volumes);
    work(queue, 1, cx.stop, |key| async move {
        let Some(class) = classes.get(&key) else { return Ok(Outcome::Done) };
        let in_use =
            !claims.by_index(BY_CLASS, &key.name).is_empty() || !volumes.by_index(BY_CLASS, &key.name).is_empty();
        let step = step(&class.metadata, CLASS_FINALIZER, in_use);
        if step == Step::Remove && is_used_now(api, &key.name).await? {
            return Ok(Outcome::Done);
        }
        if step != Step::Nothing {
            apply::<ProtectedClass>(api, &key, CLASS_FINALIZER, step).await?;
        }
        Ok(Outcome::Done)
    })
    .await;
    Ok(())
}

/// Whether the API, which has the last word, knows a user of a class.
async fn is_used_now(api: &Api, class: &str) -> Result<bool, ApiError> {
    let all = ListOptions::default();
    let claims = Resource::of::<ProtectedClaim>().collection("");
    let claims = api.list_all::<ProtectedClaim>(&claims, &all).await?;
    if claims.items.iter().any(|c| c.classes().into_iter().any(|name| name == class)) {
        return Ok(true);
    }
    let volumes = Resource::of::<ProtectedVolume>().collection("");
    let volumes = api.list_all::<ProtectedVolume>(&volumes, &all).await?;
    Ok(volumes.items.iter().any(|v| v.spec.volume_attributes_class_name == class))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finalizers_come_and_go() {
        let check = |deleting: bool, has: bool, in_use: bool, expected: Step| {
            let mut json = json!({"name": "c", "finalizers": if has { vec![CLAIM_FINALIZER] } else { vec![] }});
            if deleting {
                json["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
            }
            let meta: Meta = serde_json::from_value(json).expect("metadata");
            assert_eq!(step(&meta, CLAIM_FINALIZER, in_use), expected);
        };
        check(false, false, false, Step::Add);
        check(false, true, false, Step::Nothing);
        check(true, true, true, Step::Nothing);
        check(true, true, false, Step::Remove);
        check(true, false, false, Step::Nothing);
    }

    #[test]
    fn pods_on_a_node_use_claims() {
        let pod = |node: &str, volume: Value| json!({"metadata": {"name": "p"}, "spec": {"nodeName": node, "volumes": [volume]}});
        let named = json!({"name": "v", "persistentVolumeClaim": {"claimName": "c"}});
        assert!(names_claim(&pod("n", named.clone()), "c"));
        assert!(!names_claim(&pod("", named.clone()), "c"));
        assert!(!names_claim(&pod("n", named), "d"));
        assert!(names_claim(&pod("n", json!({"name": "v", "ephemeral": {}})), "p-v"));
    }
}
