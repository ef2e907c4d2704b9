//! Claims and volumes that are in use stay until nobody uses them: two controllers that put a finalizer on and take it
//! off.
//!
//! Follows `pkg/controller/volume/pvcprotection` and `pvprotection`. A claim is in use while a pod that has a node
//! names it; a volume while it is bound.

use std::sync::Arc;

use orkd_base::BoxError;
use orkd_reconcile::{Api, ApiError, Informer, Key, ListOptions, Meta, Outcome, Queue, Resource, View, work};
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

const CLAIM_FINALIZER: &str = "kubernetes.io/pvc-protection";
const VOLUME_FINALIZER: &str = "kubernetes.io/pv-protection";
const BY_CLAIM: &str = "claim";

/// A claim, as far as protection goes.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct ProtectedClaim {
    metadata: Meta,
}
view!(ProtectedClaim, "", "v1", "PersistentVolumeClaim", "persistentvolumeclaims");

/// A volume, as far as protection goes.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct ProtectedVolume {
    metadata: Meta,
    status: Phase,
}
view!(ProtectedVolume, "", "v1", "PersistentVolume", "persistentvolumes", false);

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct Phase {
    phase: String,
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
