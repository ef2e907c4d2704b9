//! Claims of generic ephemeral volumes (`pkg/controller/volume/ephemeral`).

use std::sync::Arc;

use orkd_base::BoxError;
use orkd_reconcile::{Api, Informer, Key, ObjectRef, Outcome, Queue, Recorder, Resource, work};
use serde_json::{Value, json};

use super::views::Claim;
use crate::views::Pod;
use crate::{ControllerSpec, Cx, owners};

/// How the list of controllers names it.
pub const SPEC: ControllerSpec = ControllerSpec {
    name: "ephemeral-volume-controller",
    service_account: "ephemeral-volume-controller",
    run: |cx| Box::pin(start(cx)),
};

/// Pods by the keys of the claims that are made for them.
const BY_CLAIM: &str = "ephemeral-claim";

async fn start(cx: Cx) -> Result<(), BoxError> {
    let pods: Informer<Pod> = cx.informers.informer();
    let claims: Informer<Claim> = cx.informers.informer();
    pods.add_index(BY_CLAIM, |p| {
        p.spec.volumes.iter().filter(|v| v.is_ephemeral()).map(|v| v.claim_of(&p.metadata).to_string()).collect()
    });
    let queue: Queue<Key> = cx.queue(SPEC.name);
    {
        let queue = queue.clone();
        pods.subscribe(move |event| {
            let pod = event.object();
            if !event.is_deleted() && pod.spec.volumes.iter().any(|v| v.is_ephemeral()) {
                queue.add(event.key());
            }
        });
    }
    {
        let (queue, pods) = (queue.clone(), pods.clone());
        claims.subscribe(move |event| {
            if event.is_deleted() {
                for pod in pods.by_index(BY_CLAIM, &event.key().to_string()) {
                    queue.add(pod.metadata.key());
                }
            }
        });
    }
    pods.synced().await;
    claims.synced().await;
    let (api, recorder, pods, claims) = (&cx.api, &cx.recorder, &pods, &claims);
    work(queue, 2, cx.stop, |key| async move {
        if let Some(pod) = pods.get(&key).filter(|p| !p.metadata.is_deleting()) {
            make_claims(api, recorder, claims, &pod).await?;
        }
        Ok(Outcome::Done)
    })
    .await;
    Ok(())
}

async fn make_claims(api: &Api, recorder: &Recorder, claims: &Informer<Claim>, pod: &Arc<Pod>) -> Result<(), BoxError> {
    for volume in pod.spec.volumes.iter().filter(|v| v.is_ephemeral()) {
        let key = volume.claim_of(&pod.metadata);
        let tell = |why: &str| {
            recorder.warning(
                &ObjectRef::of(&**pod),
                "FailedBinding",
                format!("ephemeral volume {}: {why}", volume.name),
            );
        };
        if let Some(claim) = claims.get(&key) {
            if !claim.metadata.is_controlled_by(&pod.metadata.uid) {
                let text = format!("PVC {key} was not created for pod {} (pod is not owner)", pod.metadata.key());
                tell(&text);
                return Err(text.into());
            }
            continue;
        }
        // The template is read from the pod itself: the cache does not hold it.
        let target = Resource::of::<Pod>().at(&key.namespace, &pod.metadata.name);
        let live: Value = match api.get(&target).await {
            Err(err) if err.is_not_found() => return Ok(()),
            other => other?,
        };
        if live["metadata"]["uid"] != pod.metadata.uid.as_str() {
            return Ok(());
        }
        let volumes = live["spec"]["volumes"].as_array();
        let Some(template) = volumes
            .into_iter()
            .flatten()
            .find(|v| v["name"] == *volume.name)
            .map(|v| &v["ephemeral"]["volumeClaimTemplate"])
        else {
            continue;
        };
        let body = claim(pod, &key, template);
        match api.create::<Claim>(&Resource::of::<Claim>().collection(&key.namespace), &body).await {
            Err(err) if err.is_already_exists() || err.has_cause("NamespaceTerminating") => {}
            Err(err) => {
                tell(&format!("create PVC {}: {}", key.name, err.message()));
                return Err(err.into());
            }
            Ok(_) => {}
        }
    }
    Ok(())
}

fn claim(pod: &Pod, key: &Key, template: &Value) -> Value {
    let mut metadata = json!({
        "name": &*key.name, "namespace": &*key.namespace, "ownerReferences": [owners::controller_ref(pod)],
    });
    for field in ["labels", "annotations"] {
        if template["metadata"][field].is_object() {
            metadata[field] = template["metadata"][field].clone();
        }
    }
    json!({"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": metadata, "spec": template["spec"]})
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_claim_is_what_its_template_says_and_goes_with_its_pod() {
        let pod: Pod =
            serde_json::from_value(json!({"metadata": {"namespace": "n", "name": "web", "uid": "u"}})).expect("a pod");
        let spec = json!({"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}});
        let check = |template: Value, labels: Value, annotations: Value| {
            let made = claim(&pod, &Key::new("n", "web-scratch"), &template);
            let meta = &made["metadata"];
            assert_eq!((&meta["name"], &meta["namespace"]), (&json!("web-scratch"), &json!("n")));
            assert_eq!((&meta["labels"], &meta["annotations"]), (&labels, &annotations));
            let owner = &meta["ownerReferences"][0];
            assert_eq!(
                (&owner["kind"], &owner["uid"], &owner["controller"]),
                (&json!("Pod"), &json!("u"), &json!(true))
            );
            assert_eq!(made["spec"], spec);
        };
        check(json!({"spec": spec}), Value::Null, Value::Null);
        let metadata = json!({"labels": {"a": "b"}, "annotations": {"c": "d"}});
        check(json!({"metadata": metadata, "spec": spec}), json!({"a": "b"}), json!({"c": "d"}));
    }
}
