//! Claims of devices (`resource.k8s.io/v1`): made from the templates that pods name, freed when nobody uses them.
//!
//! Follows `pkg/controller/resourceclaim`: a claim that is made for a pod carries the pod's name for it as an annotation,
//! by which it is found again after a crash; the pod's status says what the claim is called. Pods that ended, or are gone,
//! are taken out of `reservedFor`; a claim that nobody reserves any more loses its allocation and the finalizer that
//! protected it, and goes if it was made for a pod that is done.

use std::sync::Arc;

use orkd_base::BoxError;
use orkd_reconcile::{
    Api, DeleteOptions, Informer, Key, Meta, ObjectRef, Outcome, Patch, Queue, Recorder, Resource, View, null_default,
    work,
};
use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::{Value, json};

use crate::replica_set::{BY_CONTROLLER, add_owner_indexes};
use crate::views::{Pod, PodClaim, view};
use crate::{ControllerSpec, Cx, owners, pods};

/// How the list of controllers names it.
pub const SPEC: ControllerSpec = ControllerSpec {
    name: "resourceclaim-controller",
    service_account: "resource-claim-controller",
    run: |cx| Box::pin(start(cx)),
};

/// On a claim made from a template: the pod's name for it.
const POD_CLAIM: &str = "resource.kubernetes.io/pod-claim-name";
/// Keeps a claim that is allocated.
const FINALIZER: &str = "resource.kubernetes.io/delete-protection";
/// Pods by the keys of the claims they name.
const BY_CLAIM: &str = "resource-claim";
/// Pods by the keys of the templates they name.
const BY_TEMPLATE: &str = "resource-claim-template";

/// A claim of devices.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct ResourceClaim {
    /// Metadata.
    pub metadata: Meta,
    /// Status.
    pub status: ResourceClaimStatus,
}
view!(ResourceClaim, "resource.k8s.io", "v1", "ResourceClaim", "resourceclaims");

/// The status of a claim of devices.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ResourceClaimStatus {
    /// Whether devices are allocated.
    pub allocation: Option<Value>,
    /// Who uses them.
    #[serde(deserialize_with = "null_default")]
    pub reserved_for: Vec<Consumer>,
}

/// A user of a claim.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Consumer {
    /// Group; empty for core.
    pub api_group: String,
    /// Plural of the kind.
    pub resource: String,
    /// Name.
    pub name: String,
    /// Uid.
    pub uid: String,
}

/// A template of claims.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Template {
    /// Metadata.
    pub metadata: Meta,
    /// Metadata and spec of the claims.
    pub spec: Value,
}
view!(Template, "resource.k8s.io", "v1", "ResourceClaimTemplate", "resourceclaimtemplates");

#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Item {
    Pod(Key),
    Claim(Key),
}

impl std::fmt::Display for Item {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Item::Pod(key) => write!(f, "pod {key}"),
            Item::Claim(key) => write!(f, "claim {key}"),
        }
    }
}

async fn start(cx: Cx) -> Result<(), BoxError> {
    let pods: Informer<Pod> = cx.informers.informer();
    let claims: Informer<ResourceClaim> = cx.informers.informer();
    let templates: Informer<Template> = cx.informers.informer();
    add_owner_indexes(&claims);
    pods.add_index(BY_CLAIM, |p| names(p).map(|name| Key::new(&p.metadata.namespace, name).to_string()).collect());
    pods.add_index(BY_TEMPLATE, |p| {
        let of = p.spec.resource_claims.iter().filter_map(|c| c.resource_claim_template_name.as_deref());
        of.map(|name| Key::new(&p.metadata.namespace, name).to_string()).collect()
    });
    let queue: Queue<Item> = Queue::new(SPEC.name);
    {
        let (queue, claims) = (queue.clone(), claims.clone());
        pods.subscribe(move |event| {
            let pod = event.object();
            if pod.spec.resource_claims.is_empty() {
                return;
            }
            if !event.is_deleted() {
                queue.add(Item::Pod(event.key()));
            }
            for name in names(pod) {
                queue.add(Item::Claim(Key::new(&pod.metadata.namespace, name)));
            }
            for claim in claims.by_index(BY_CONTROLLER, &pod.metadata.uid) {
                queue.add(Item::Claim(claim.metadata.key()));
            }
        });
    }
    {
        let (queue, pods) = (queue.clone(), pods.clone());
        claims.subscribe(move |event| {
            let meta = &event.object().metadata;
            queue.add(Item::Claim(event.key()));
            if let Some(owner) = meta.controller().filter(|o| o.kind == "Pod") {
                queue.add(Item::Pod(Key::new(&meta.namespace, &owner.name)));
            }
            for pod in pods.by_index(BY_CLAIM, &event.key().to_string()) {
                queue.add(Item::Pod(pod.metadata.key()));
            }
        });
    }
    {
        let (queue, pods) = (queue.clone(), pods.clone());
        templates.subscribe(move |event| {
            if !event.is_deleted() {
                for pod in pods.by_index(BY_TEMPLATE, &event.key().to_string()) {
                    queue.add(Item::Pod(pod.metadata.key()));
                }
            }
        });
    }
    pods.synced().await;
    claims.synced().await;
    templates.synced().await;
    let controller = ResourceClaims { pods, claims, templates, api: cx.api, recorder: cx.recorder };
    let controller = &controller;
    work(queue, 4, cx.stop, |item| async move {
        match item {
            Item::Pod(key) => controller.pod(&key).await,
            Item::Claim(key) => controller.claim(&key).await,
        }
    })
    .await;
    Ok(())
}

/// The names of the claims that a pod uses, as far as they are known.
fn names(pod: &Pod) -> impl Iterator<Item = &str> {
    let direct = pod.spec.resource_claims.iter().filter_map(|c| c.resource_claim_name.as_deref());
    direct.chain(pod.status.resource_claim_statuses.iter().filter_map(|c| c.resource_claim_name.as_deref()))
}

/// Whether a pod uses nothing any more.
fn is_done(pod: &Pod) -> bool {
    pods::is_terminal(pod) || pod.metadata.is_deleting() && pod.spec.node_name.is_empty()
}

struct ResourceClaims {
    pods: Informer<Pod>,
    claims: Informer<ResourceClaim>,
    templates: Informer<Template>,
    api: Api,
    recorder: Recorder,
}

impl ResourceClaims {
    async fn pod(&self, key: &Key) -> Result<Outcome, BoxError> {
        let Some(pod) = self.pods.get(key).filter(|p| !p.metadata.is_deleting() && !is_done(p)) else {
            return Ok(Outcome::Done);
        };
        let own = self.claims.by_index(BY_CONTROLLER, &pod.metadata.uid);
        let mut statuses = Vec::new();
        let mut changed = false;
        for wanted in pod.spec.resource_claims.iter().filter(|c| c.resource_claim_template_name.is_some()) {
            let known = pod.status.resource_claim_statuses.iter().find(|s| s.name == wanted.name);
            let name = match known.and_then(|s| s.resource_claim_name.clone()) {
                Some(name) => name,
                None => {
                    changed = true;
                    match own.iter().find(|c| c.metadata.annotation(POD_CLAIM) == Some(&wanted.name)) {
                        Some(claim) => claim.metadata.name.to_string(),
                        None => self.make(&pod, wanted).await?,
                    }
                }
            };
            statuses.push(json!({"name": wanted.name, "resourceClaimName": name}));
        }
        if changed {
            let body = json!({
                "apiVersion": "v1", "kind": "Pod",
                "metadata": {"name": &*key.name, "namespace": &*key.namespace, "uid": pod.metadata.uid},
                "status": {"resourceClaimStatuses": statuses},
            });
            let patch = Patch::Apply { manager: "ResourceClaimController".into(), force: true, body };
            let target = Resource::of::<Pod>().at(&key.namespace, &key.name).sub("status");
            match self.api.patch::<IgnoredAny>(&target, &patch).await {
                Err(err) if err.is_not_found() || err.is_conflict() => {}
                other => drop(other?),
            }
        }
        Ok(Outcome::Done)
    }

    /// Makes a claim from a template. Returns its name.
    async fn make(&self, pod: &Arc<Pod>, wanted: &PodClaim) -> Result<String, BoxError> {
        let meta = &pod.metadata;
        let template_name = wanted.resource_claim_template_name.as_deref().unwrap_or("");
        let failed = |why: String| {
            let text = format!("PodResourceClaim {}: {why}", wanted.name);
            self.recorder.warning(&ObjectRef::of(&**pod), "FailedResourceClaimCreation", text.clone());
            BoxError::from(text)
        };
        // Another round may have made it and not yet be seen: only the API knows.
        let live: orkd_reconcile::List<ResourceClaim> = self
            .api
            .list_all(&Resource::of::<ResourceClaim>().collection(&meta.namespace), &Default::default())
            .await?;
        let ours = |c: &&ResourceClaim| {
            c.metadata.is_controlled_by(&meta.uid) && c.metadata.annotation(POD_CLAIM) == Some(&wanted.name)
        };
        if let Some(claim) = live.items.iter().find(ours) {
            return Ok(claim.metadata.name.to_string());
        }
        let Some(template) = self.templates.get_named(&meta.namespace, template_name) else {
            let text = format!("resourceclaimtemplate.resource.k8s.io {template_name:?} not found");
            return Err(failed(format!("resource claim template {template_name:?}: {text}")));
        };
        let body = body(pod, wanted, &template.spec);
        let collection = Resource::of::<ResourceClaim>().collection(&meta.namespace);
        match self.api.create::<ResourceClaim>(&collection, &body).await {
            Ok(claim) => Ok(claim.metadata.name.to_string()),
            Err(err) => Err(failed(format!("create ResourceClaim: {}", err.message()))),
        }
    }

    async fn claim(&self, key: &Key) -> Result<Outcome, BoxError> {
        let Some(claim) = self.claims.get(key) else { return Ok(Outcome::Done) };
        let mut valid = Vec::new();
        for consumer in &claim.status.reserved_for {
            if self.is_in_use(key, consumer).await? {
                valid.push(consumer.uid.clone());
            }
        }
        let target = Resource::of::<ResourceClaim>().at(&key.namespace, &key.name);
        let same = |live: &Value| live["metadata"]["uid"] == claim.metadata.uid.as_str();
        let free = valid.is_empty();
        let held = claim.metadata.finalizers.iter().any(|f| f == FINALIZER);
        if valid.len() < claim.status.reserved_for.len() || free && held && claim.status.allocation.is_some() {
            let seen: Vec<&str> = claim.status.reserved_for.iter().map(|c| c.uid.as_str()).collect();
            let changed = self.api.modify(&target, "status", |live| {
                if !same(live) {
                    return false;
                }
                let Some(status) = live["status"].as_object_mut() else { return false };
                let before = status.get("reservedFor").and_then(Value::as_array).cloned().unwrap_or_default();
                // Whoever came meanwhile stays.
                let stays = |c: &Value| {
                    let uid = c["uid"].as_str().unwrap_or("");
                    valid.iter().any(|v| v == uid) || !seen.contains(&uid)
                };
                let after: Vec<Value> = before.iter().filter(|c| stays(c)).cloned().collect();
                if after.is_empty() {
                    status.remove("reservedFor");
                    status.remove("allocation");
                    status.remove("devices");
                } else {
                    status.insert("reservedFor".into(), after.into());
                }
                true
            });
            match changed.await {
                Err(err) if err.is_not_found() => return Ok(Outcome::Done),
                other => drop(other?),
            }
            return Ok(Outcome::Done);
        }
        if held && claim.status.allocation.is_none() {
            let freed = self.api.modify(&target, "", |live| {
                let Some(finalizers) = live["metadata"]["finalizers"].as_array_mut() else { return false };
                let before = finalizers.len();
                finalizers.retain(|f| f != FINALIZER);
                finalizers.len() < before
            });
            match freed.await {
                Err(err) if err.is_not_found() => return Ok(Outcome::Done),
                other => drop(other?),
            }
        }
        if free && !claim.metadata.is_deleting() && self.is_of_done_pod(&claim) {
            match self.api.delete(&target, &DeleteOptions::default().uid(&claim.metadata.uid)).await {
                Err(err) if err.is_not_found() || err.is_conflict() => {}
                other => other?,
            }
        }
        Ok(Outcome::Done)
    }

    /// Whether a consumer still uses a claim. Others than pods are not ours to judge.
    async fn is_in_use(&self, claim: &Key, consumer: &Consumer) -> Result<bool, BoxError> {
        if consumer.resource != "pods" || !consumer.api_group.is_empty() {
            return Ok(true);
        }
        let key = Key::new(&claim.namespace, &consumer.name);
        if let Some(pod) = self.pods.get(&key).filter(|p| p.metadata.uid == consumer.uid) {
            return Ok(!is_done(&pod));
        }
        // The cache may lag behind.
        match self.api.get::<Pod>(&Resource::of::<Pod>().at(&key.namespace, &key.name)).await {
            Ok(pod) => Ok(pod.metadata.uid == consumer.uid && !is_done(&pod)),
            Err(err) if err.is_not_found() => Ok(false),
            Err(err) => Err(err.into()),
        }
    }

    /// Whether a claim was made for a pod that is done.
    fn is_of_done_pod(&self, claim: &ResourceClaim) -> bool {
        let meta = &claim.metadata;
        let Some(owner) = meta.controller().filter(|o| o.kind == "Pod" && o.group().is_empty()) else { return false };
        let pod = self.pods.get(&Key::new(&meta.namespace, &owner.name));
        pod.is_some_and(|p| p.metadata.uid == owner.uid && is_done(&p))
    }
}

/// A claim of a template, for a pod.
fn body(pod: &Pod, wanted: &PodClaim, template: &Value) -> Value {
    let meta = &pod.metadata;
    let prefix = format!("{}-{}-", meta.name, wanted.name);
    let prefix = prefix.get(..58).unwrap_or(&prefix);
    let mut metadata = json!({
        "generateName": prefix, "namespace": &*meta.namespace, "ownerReferences": [owners::controller_ref(pod)],
    });
    let of = &template["metadata"];
    if of["labels"].is_object() {
        metadata["labels"] = of["labels"].clone();
    }
    metadata["annotations"] = if of["annotations"].is_object() { of["annotations"].clone() } else { json!({}) };
    metadata["annotations"][POD_CLAIM] = wanted.name.as_str().into();
    json!({"apiVersion": "resource.k8s.io/v1", "kind": "ResourceClaim", "metadata": metadata,
        "spec": template["spec"]})
}
