//! Claims of devices (`resource.k8s.io/v1`): made from the templates that pods name, freed when nobody uses them.
//!
//! Follows `pkg/controller/resourceclaim`: a claim that is made for a pod carries the pod's name for it as an annotation,
//! by which it is found again after a crash; the pod's status says what the claim is called. Pods that ended, or are gone,
//! are taken out of `reservedFor`; a claim that the last of them used loses its allocation and the finalizer that
//! protected it, and goes if it was made for a pod that is done. A claim that is allocated and that nobody reserves is left
//! alone, and so is the finalizer of one that is not allocated yet: the scheduler is about to use it. A pod that was sent
//! to its node past the scheduler gets its reservations here.

use std::sync::Arc;

use orkd_base::BoxError;
use orkd_reconcile::{
    Api, DeleteOptions, Informer, Key, Meta, ObjectRef, Outcome, Patch, Queue, Recorder, Resource, View, null_default,
    work,
};
use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::{Map, Value, json};

use crate::replica_set::{BY_CONTROLLER, add_owner_indexes};
use crate::views::{Pod, PodClaim, PodClaimStatus, view};
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
pub(crate) const BY_CLAIM: &str = "resource-claim";
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

pub(crate) fn add_claim_index(pods: &Informer<Pod>) {
    pods.add_index(BY_CLAIM, |p| names(p).map(|name| Key::new(&p.metadata.namespace, name).to_string()).collect());
}

async fn start(cx: Cx) -> Result<(), BoxError> {
    let pods: Informer<Pod> = cx.informers.informer();
    let claims: Informer<ResourceClaim> = cx.informers.informer();
    let templates: Informer<Template> = cx.informers.informer();
    add_owner_indexes(&claims);
    add_claim_index(&pods);
    pods.add_index(BY_TEMPLATE, |p| {
        let of = p.spec.resource_claims.iter().filter_map(|c| c.resource_claim_template_name.as_deref());
        of.map(|name| Key::new(&p.metadata.namespace, name).to_string()).collect()
    });
    let queue: Queue<Item> = cx.queue(SPEC.name);
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
pub(crate) fn names(pod: &Pod) -> impl Iterator<Item = &str> {
    let direct = pod.spec.resource_claims.iter().filter_map(|c| c.resource_claim_name.as_deref());
    direct.chain(pod.status.resource_claim_statuses.iter().filter_map(|c| c.resource_claim_name.as_deref()))
}

/// Whether a pod uses nothing any more.
fn is_done(pod: &Pod) -> bool {
    pods::is_terminal(pod) || pod.metadata.is_deleting() && pod.spec.node_name.is_empty()
}

/// Whether a claim is reserved for a pod.
pub(crate) fn is_reserved_for(claim: &ResourceClaim, pod: &Pod) -> bool {
    claim.status.reserved_for.iter().any(|c| c.uid == pod.metadata.uid)
}

/// What is to be done about a claim.
#[derive(Debug, Default, PartialEq, Eq)]
struct Plan {
    /// The UIDs of those that have no use for it any more.
    leave: Vec<String>,
    /// Whether its devices are free then.
    deallocate: bool,
    /// Whether it needs no protection then.
    unprotect: bool,
    /// Whether it may be removed then, if its pod is done.
    is_free: bool,
}

/// What is to be done about a claim of which `done` have no use any more (`syncClaim`).
fn plan(claim: &ResourceClaim, done: &[&str]) -> Plan {
    let held = claim.metadata.finalizers.iter().any(|f| f == FINALIZER);
    let is_free = claim.status.reserved_for.iter().all(|c| done.contains(&c.uid.as_str()));
    let last_left = is_free && !done.is_empty();
    let goes = is_free && claim.metadata.is_deleting();
    Plan {
        leave: done.iter().map(|uid| (*uid).to_owned()).collect(),
        deallocate: held && claim.status.allocation.is_some() && (last_left || goes),
        unprotect: held && (last_left || goes),
        is_free,
    }
}

/// Takes users out of a claim's status, and its devices with the last of them. Whoever came meanwhile stays, and keeps
/// the devices. Returns whether there is something to write.
fn take_out(status: &mut Map<String, Value>, plan: &Plan) -> bool {
    let before = status.get("reservedFor").and_then(Value::as_array).cloned().unwrap_or_default();
    let leaves = |c: &Value| plan.leave.iter().any(|uid| c["uid"] == uid.as_str());
    let after: Vec<Value> = before.iter().filter(|c| !leaves(c)).cloned().collect();
    let frees = plan.deallocate && after.is_empty() && status.contains_key("allocation");
    if after.len() == before.len() && (!frees || !plan.leave.is_empty()) {
        return false;
    }
    if frees {
        status.remove("allocation");
        status.remove("devices");
    }
    if after.is_empty() {
        status.remove("reservedFor");
    } else {
        status.insert("reservedFor".into(), after.into());
    }
    true
}

/// The beginning of the name of a claim that is made for a pod: both names, shortened alike where they are too long.
fn base_name(pod: &str, claim: &str) -> String {
    const MOST: usize = 57;
    let whole = format!("{pod}-{claim}-");
    if whole.len() <= MOST {
        return whole;
    }
    let part = |text: &str| text.get(..text.len() * MOST / whole.len()).unwrap_or(text).to_owned();
    format!("{}-{}", part(pod), part(claim))
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
        let mut statuses = Vec::new();
        let mut changed = false;
        for wanted in pod.spec.resource_claims.iter().filter(|c| c.resource_claim_template_name.is_some()) {
            let known = pod.status.resource_claim_statuses.iter().find(|s| s.name == wanted.name);
            let name = match known {
                // It was found before that no claim is needed.
                Some(PodClaimStatus { resource_claim_name: None, .. }) => None,
                Some(PodClaimStatus { resource_claim_name: Some(name), .. }) if self.is_own(&pod, name) => {
                    Some(name.clone())
                }
                _ => {
                    changed = true;
                    Some(self.find_or_make(&pod, wanted).await?)
                }
            };
            let mut status = json!({"name": wanted.name});
            if let Some(name) = name {
                status["resourceClaimName"] = name.into();
            }
            statuses.push(status);
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
        if !pod.spec.node_name.is_empty() {
            self.reserve(&pod).await?;
        }
        Ok(Outcome::Done)
    }

    /// Whether a claim is there and was made for a pod.
    fn is_own(&self, pod: &Pod, claim: &str) -> bool {
        let claim = self.claims.get_named(&pod.metadata.namespace, claim);
        claim.is_some_and(|c| c.metadata.is_controlled_by(&pod.metadata.uid))
    }

    /// The claim of a pod that was made from a template, or would have been. Returns its name.
    async fn find_or_make(&self, pod: &Arc<Pod>, wanted: &PodClaim) -> Result<String, BoxError> {
        let meta = &pod.metadata;
        let template_name = wanted.resource_claim_template_name.as_deref().unwrap_or("");
        let failed = |why: String| {
            let text = format!("PodResourceClaim {}: {why}", wanted.name);
            self.recorder.warning(&ObjectRef::of(&**pod), "FailedResourceClaimCreation", text.clone());
            BoxError::from(text)
        };
        let ours = |c: &ResourceClaim| {
            c.metadata.is_controlled_by(&meta.uid) && c.metadata.annotation(POD_CLAIM) == Some(&wanted.name)
        };
        if let Some(claim) = self.claims.by_index(BY_CONTROLLER, &meta.uid).iter().find(|c| ours(c)) {
            return Ok(claim.metadata.name.to_string());
        }
        // Another round may have made it and not yet be seen: only the API knows.
        let live: orkd_reconcile::List<ResourceClaim> = self
            .api
            .list_all(&Resource::of::<ResourceClaim>().collection(&meta.namespace), &Default::default())
            .await?;
        if let Some(claim) = live.items.iter().find(|c| ours(c)) {
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
            // The claim's name is not known yet: upstream's text has a gap there as well.
            Err(err) => Err(failed(format!("create ResourceClaim : {}", err.message()))),
        }
    }

    /// Reserves the claims of a pod that has a node and that the scheduler did not reserve them for.
    async fn reserve(&self, pod: &Pod) -> Result<(), BoxError> {
        let meta = &pod.metadata;
        for name in names(pod) {
            let Some(claim) = self.claims.get_named(&meta.namespace, name) else { continue };
            if claim.status.allocation.is_none() || claim.metadata.is_deleting() || is_reserved_for(&claim, pod) {
                continue;
            }
            let user = json!({"resource": "pods", "name": &*meta.name, "uid": meta.uid});
            let body = json!({"metadata": {"uid": claim.metadata.uid}, "status": {"reservedFor": [user]}});
            let target = Resource::of::<ResourceClaim>().at(&meta.namespace, name).sub("status");
            let reserved = self.api.patch::<IgnoredAny>(&target, &Patch::Strategic(body)).await;
            reserved.map_err(|e| format!("reserve claim {} for pod: {e}", claim.metadata.key()))?;
        }
        Ok(())
    }

    async fn claim(&self, key: &Key) -> Result<Outcome, BoxError> {
        let Some(claim) = self.claims.get(key) else { return Ok(Outcome::Done) };
        let mut done = Vec::new();
        for consumer in &claim.status.reserved_for {
            if !self.is_in_use(key, consumer).await? {
                done.push(consumer.uid.as_str());
            }
        }
        let plan = plan(&claim, &done);
        let target = Resource::of::<ResourceClaim>().at(&key.namespace, &key.name);
        let same = |live: &Value| live["metadata"]["uid"] == claim.metadata.uid.as_str();
        if !plan.leave.is_empty() || plan.deallocate {
            let changed = self.api.modify(&target, "status", |live| {
                same(live) && live["status"].as_object_mut().is_some_and(|status| take_out(status, &plan))
            });
            match changed.await {
                Err(err) if err.is_not_found() => return Ok(Outcome::Done),
                other => drop(other?),
            }
        }
        if plan.unprotect {
            let freed = self.api.modify(&target, "", |live| {
                let in_use = !live["status"]["allocation"].is_null() || !live["status"]["reservedFor"].is_null();
                if !same(live) || in_use {
                    return false;
                }
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
        if plan.is_free && !claim.metadata.is_deleting() && self.is_of_done_pod(&claim) {
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

    /// Whether a claim was made for a pod that is done, or was replaced. Those of pods that are gone are collected.
    fn is_of_done_pod(&self, claim: &ResourceClaim) -> bool {
        let meta = &claim.metadata;
        let Some(owner) = meta.controller().filter(|o| o.kind == "Pod" && o.group().is_empty()) else { return false };
        let pod = self.pods.get(&Key::new(&meta.namespace, &owner.name));
        pod.is_some_and(|p| p.metadata.uid != owner.uid || is_done(&p))
    }
}

/// A claim of a template, for a pod.
fn body(pod: &Pod, wanted: &PodClaim, template: &Value) -> Value {
    let meta = &pod.metadata;
    let mut metadata = json!({
        "generateName": base_name(&meta.name, &wanted.name), "namespace": &*meta.namespace,
        "ownerReferences": [owners::controller_ref(pod)],
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

#[cfg(test)]
mod tests {
    use super::*;

    fn claim(users: &[&str], allocated: bool, held: bool, deleting: bool) -> ResourceClaim {
        let users: Vec<Value> = users.iter().map(|u| json!({"resource": "pods", "name": u, "uid": u})).collect();
        let mut claim = json!({"metadata": {"name": "c", "uid": "c"}, "status": {"reservedFor": users}});
        if allocated {
            claim["status"]["allocation"] = json!({"devices": {}});
        }
        if held {
            claim["metadata"]["finalizers"] = json!([FINALIZER]);
        }
        if deleting {
            claim["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
        }
        serde_json::from_value(claim).expect("a claim")
    }

    #[test]
    fn the_last_user_takes_the_devices_along() {
        let check = |claim: ResourceClaim, done: &[&str], expected: &str| {
            let Plan { leave, deallocate, unprotect, is_free } = plan(&claim, done);
            let mut told = leave;
            for (is, word) in [(deallocate, "deallocate"), (unprotect, "unprotect"), (is_free, "free")] {
                if is {
                    told.push(word.to_owned());
                }
            }
            assert_eq!(told.join(" "), expected);
        };
        check(claim(&["a", "b"], true, true, false), &["a"], "a");
        check(claim(&["a", "b"], true, true, false), &["a", "b"], "a b deallocate unprotect free");
        check(claim(&["a"], true, true, true), &[], "");
        // Chosen in advance, or about to be: not ours.
        check(claim(&[], true, true, false), &[], "free");
        check(claim(&[], false, true, false), &[], "free");
        check(claim(&[], true, true, true), &[], "deallocate unprotect free");
        check(claim(&[], false, true, true), &[], "unprotect free");
        // What nobody protected is not ours either.
        check(claim(&["a"], true, false, false), &["a"], "a free");
    }

    #[test]
    fn whoever_came_meanwhile_stays() {
        let user = |uid: &str| json!({"resource": "pods", "name": uid, "uid": uid});
        let plan = plan(&claim(&["a"], true, true, false), &["a"]);
        let check = |users: &[&str], expected: Option<Value>| {
            let users: Vec<Value> = users.iter().map(|u| user(u)).collect();
            let mut status = json!({"reservedFor": users, "allocation": {}, "devices": []});
            let map = status.as_object_mut().expect("an object");
            let writes = take_out(map, &plan);
            assert_eq!(writes.then_some(status), expected);
        };
        check(&["a"], Some(json!({})));
        check(&["a", "b"], Some(json!({"reservedFor": [user("b")], "allocation": {}, "devices": []})));
        check(&["b"], None);
        // Someone else took the user out and left the devices: they are not ours to take.
        check(&[], None);
    }

    #[test]
    fn long_names_are_shortened_alike() {
        assert_eq!(base_name("web", "gpu"), "web-gpu-");
        let long = base_name(&"p".repeat(60), &"c".repeat(40));
        assert_eq!(long, format!("{}-{}", "p".repeat(33), "c".repeat(22)));
        assert!(base_name(&"p".repeat(63), "c").len() <= 57);
    }
}
