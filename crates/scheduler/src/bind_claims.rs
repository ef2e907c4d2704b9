//! Writes what was decided about a pod's claims of devices, and waits until the devices are prepared. Upstream:
//! `bindClaim`, `PreBind` and `Unreserve` in `plugins/dynamicresources/dynamicresources.go`.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use orkd_base::{Supervisor, TaskKind};
use orkd_reconcile::{Api, ApiError, DeleteOptions, EventType, Informer, Key, Patch, Recorder, Resource, Target};
use serde::de::IgnoredAny;
use serde_json::{Value, json};
use tokio::sync::{mpsc, watch};
use tracing::warn;

use crate::devices::extended::{ANNOTATION, Asked, Made};
use crate::devices::{Decision, Readiness, is_overdue, is_reserved_for, readiness};
use crate::feed::Message;
use crate::model::{Allocation, Consumer, ResourceClaim};
use crate::pod::PodInfo;
use crate::status::reference;

/// Keeps a claim that has devices.
const FINALIZER: &str = "resource.kubernetes.io/delete-protection";

/// How often a write is tried that someone else came before.
const TRIES: usize = 5;

/// What is needed to bind claims.
#[derive(Clone)]
pub struct ClaimBinder {
    /// The API.
    pub api: Api,
    /// Claims.
    pub claims: Informer<ResourceClaim>,
    /// Changes whenever one of them does.
    pub changed: watch::Receiver<u64>,
    /// Back to the loop: what was written, before the informer shows it.
    pub messages: mpsc::UnboundedSender<Message>,
    /// Events, by profile.
    pub recorders: Arc<BTreeMap<String, Recorder>>,
    /// What tasks run under.
    pub supervisor: Supervisor,
}

/// Whether some device of a claim has to be waited for.
fn has_to_wait(claim: &ResourceClaim) -> bool {
    let results = claim.status.allocation.iter().flat_map(|a| &a.devices.results);
    results.into_iter().any(|r| !r.binding_conditions.is_empty())
}

fn target(key: &Key) -> Target {
    Resource::of::<ResourceClaim>().at(&key.namespace, &key.name)
}

impl ClaimBinder {
    /// Writes, and waits.
    ///
    /// # Errors
    /// What keeps the claims from being the pod's: the pod is to be scheduled anew.
    pub async fn bind(&self, pod: &PodInfo, node: &str, decision: Decision, timeout: Duration) -> Result<(), String> {
        let mut waits = Vec::new();
        if let Some((made, allocation)) = decision.made {
            let claim = self.make(pod, &made).await?;
            let claim = self.reserve(pod, claim, Some(allocation)).await?;
            let status = json!({"extendedResourceClaimStatus": {
                "requestMappings": made.mappings, "resourceClaimName": claim.metadata.name}});
            let patch = Patch::Strategic(json!({"metadata": {"uid": pod.uid()}, "status": status}));
            let at = Resource::of::<PodInfo>().at(&pod.meta.namespace, &pod.meta.name).sub("status");
            let told = self.api.patch::<IgnoredAny>(&at, &patch).await;
            told.map_err(|e| format!("update pod {} ExtendedResourceClaimStatus: {e}", pod.key()))?;
            waits.extend(Some(claim).filter(|c| has_to_wait(c)));
        }
        for (claim, allocation) in decision.claims {
            let claim = match is_reserved_for(&claim, pod) {
                true => claim,
                false => self.reserve(pod, claim, allocation).await?,
            };
            waits.extend(Some(claim).filter(|c| has_to_wait(c)));
        }
        if waits.is_empty() {
            return Ok(());
        }
        let text = format!("waiting for binding conditions for device on node {node}");
        if let Some(recorder) = self.recorders.get(&pod.template.scheduler_name) {
            let what = ("BindingConditionsPending", "Scheduling");
            recorder.act(&reference(pod), None, EventType::Normal, what, text);
        }
        let mut changed = self.changed.clone();
        let ready = async {
            loop {
                changed.mark_unchanged();
                if self.are_ready(pod, &waits, timeout)? {
                    return Ok(());
                }
                if changed.changed().await.is_err() {
                    return Err("the scheduler is stopping".to_owned());
                }
            }
        };
        tokio::time::timeout(timeout, ready).await.unwrap_or_else(|_| Err("device binding timeout".into()))
    }

    /// Makes the claim for the extended resources of a pod.
    async fn make(&self, pod: &PodInfo, made: &Made) -> Result<Arc<ResourceClaim>, String> {
        let meta = &pod.meta;
        let request = |asked: &Asked| {
            json!({"name": asked.name, "exactly": {
                "deviceClassName": asked.class, "allocationMode": "ExactCount", "count": asked.count}})
        };
        let owner = json!({"apiVersion": "v1", "kind": "Pod", "name": meta.name, "uid": meta.uid, "controller": true});
        let body = json!({"apiVersion": "resource.k8s.io/v1", "kind": "ResourceClaim", "metadata": {
                "generateName": format!("{}-extended-resources-", meta.name), "namespace": meta.namespace,
                "annotations": {ANNOTATION: "true"}, "ownerReferences": [owner]},
            "spec": {"devices": {"requests": made.requests.iter().map(request).collect::<Vec<_>>()}}});
        let collection = Resource::of::<ResourceClaim>().collection(&meta.namespace);
        let created: Result<ResourceClaim, ApiError> = self.api.create(&collection, &body).await;
        let created = created.map_err(|e| format!("create claim for extended resources {}/: {e}", meta.namespace))?;
        let created = Arc::new(created);
        // The loop has ended: nobody needs to know.
        let _ = self.messages.send(Message::DeviceClaimWritten(created.clone()));
        Ok(created)
    }

    /// Reserves a claim for a pod, with the devices that were found for it, if it has none.
    async fn reserve(
        &self,
        pod: &PodInfo,
        claim: Arc<ResourceClaim>,
        allocation: Option<Allocation>,
    ) -> Result<Arc<ResourceClaim>, String> {
        let key = claim.metadata.key();
        let mut claim = claim;
        let mut tries = 0;
        loop {
            match self.try_to_reserve(pod, &key, claim, allocation.as_ref()).await {
                Ok(written) => {
                    // The loop has ended: nobody needs to know.
                    let _ = self.messages.send(Message::DeviceClaimWritten(written.clone()));
                    return Ok(written);
                }
                Err(Denied::Lost) if tries < TRIES => tries += 1,
                Err(Denied::Lost) => return Err(format!("add reservation to claim {key}: too many conflicts")),
                Err(Denied::Because(why)) => return Err(why),
            }
            let current = self.api.get(&target(&key)).await;
            claim = Arc::new(current.map_err(|e| format!("get updated claim {key} after conflict: {e}"))?);
        }
    }

    async fn try_to_reserve(
        &self,
        pod: &PodInfo,
        key: &Key,
        mut claim: Arc<ResourceClaim>,
        allocation: Option<&Allocation>,
    ) -> Result<Arc<ResourceClaim>, Denied> {
        if claim.metadata.is_deleting() {
            return Err(Denied::Because(format!("claim {key} got deleted in the meantime")));
        }
        if let Some(allocation) = allocation {
            if claim.status.allocation.is_some() {
                return Err(Denied::Because(format!("claim {key} got allocated elsewhere in the meantime")));
            }
            // It must be there before the devices are: who deletes the claim would lose sight of them.
            if !claim.metadata.finalizers.iter().any(|f| f == FINALIZER) {
                let mut finalizers = claim.metadata.finalizers.to_vec();
                finalizers.push(FINALIZER.to_owned());
                let body = json!({"metadata": {"uid": claim.metadata.uid, "finalizers": finalizers,
                    "resourceVersion": claim.metadata.resource_version}});
                let written = self.api.patch(&target(key), &Patch::Merge(body)).await;
                claim = Arc::new(written.map_err(|e| denied(&e, &format!("add finalizer to claim {key}")))?);
            }
            return self.write(pod, key, &claim, Some(allocation), "add allocation and reservation to claim").await;
        }
        self.write(pod, key, &claim, None, "add reservation to claim").await
    }

    async fn write(
        &self,
        pod: &PodInfo,
        key: &Key,
        claim: &ResourceClaim,
        allocation: Option<&Allocation>,
        what: &str,
    ) -> Result<Arc<ResourceClaim>, Denied> {
        let mut reserved = claim.status.reserved_for.clone();
        reserved.push(Consumer {
            resource: "pods".into(),
            name: pod.meta.name.to_string(),
            uid: pod.uid().to_owned(),
            ..Consumer::default()
        });
        let mut status = json!({"reservedFor": reserved});
        if let Some(allocation) = allocation {
            let allocation = Allocation { allocation_timestamp: Some(now()), ..allocation.clone() };
            status["allocation"] = serde_json::to_value(allocation).unwrap_or(Value::Null);
        }
        let metadata = json!({"uid": claim.metadata.uid, "resourceVersion": claim.metadata.resource_version});
        let patch = Patch::Merge(json!({"metadata": metadata, "status": status}));
        let written = self.api.patch(&target(key).sub("status"), &patch).await;
        written.map(Arc::new).map_err(|e| denied(&e, &format!("{what} {key}")))
    }

    /// Whether the devices of a pod's claims are prepared by now (`isPodReadyForBinding`).
    fn are_ready(&self, pod: &PodInfo, claims: &[Arc<ResourceClaim>], timeout: Duration) -> Result<bool, String> {
        for written in claims {
            let key = written.metadata.key();
            let Some(claim) = self.claims.get(&key) else {
                return Err(format!("could not find ResourceClaim \"{key}\""));
            };
            if claim.metadata.rv() < written.metadata.rv() {
                return Ok(false);
            }
            if !is_reserved_for(&claim, pod) {
                // The pod is gone, or someone made it so.
                return Err(format!("claim {} is not reserved for the pod any more", key.name));
            }
            match readiness(&claim) {
                Readiness::Ready => {}
                Readiness::Waits if is_overdue(&claim, timeout, Timestamp::now()) => {
                    return Err(format!("claim {} binding timeout", key.name));
                }
                Readiness::Waits => return Ok(false),
                Readiness::Failed(why) => return Err(why),
            }
        }
        Ok(true)
    }

    /// Takes a pod out of those that may use a claim; in the background.
    pub fn release(&self, claim: &ResourceClaim, pod: &PodInfo) {
        let (api, key) = (self.api.clone(), claim.metadata.key());
        let body = json!({"metadata": {"uid": claim.metadata.uid},
            "status": {"reservedFor": [{"$patch": "delete", "uid": pod.uid()}]}});
        let messages = self.messages.clone();
        self.supervisor.spawn(TaskKind::Worker, "release claim", move |_| async move {
            let released = api.patch::<ResourceClaim>(&target(&key).sub("status"), &Patch::Strategic(body)).await;
            match released {
                // The loop has ended: nobody needs to know.
                Ok(claim) => drop(messages.send(Message::DeviceClaimWritten(Arc::new(claim)))),
                // It is tried again when the pod is.
                Err(e) => warn!(claim = %key, error = %e, "cannot release claim"),
            }
        });
    }

    /// Removes a claim that was made for a pod, protected or not.
    ///
    /// # Errors
    /// It cannot be removed.
    pub async fn delete(&self, claim: &ResourceClaim) -> Result<(), String> {
        let at = target(&claim.metadata.key());
        let finalizers: Vec<&String> = claim.metadata.finalizers.iter().filter(|f| *f != FINALIZER).collect();
        let body = json!({"metadata": {"uid": claim.metadata.uid, "finalizers": finalizers}});
        let gone = |e: ApiError| if e.is_not_found() { Ok(()) } else { Err(e.to_string()) };
        if let Err(e) = self.api.patch::<IgnoredAny>(&at, &Patch::Merge(body)).await {
            return gone(e);
        }
        let deleted = self.api.delete(&at, &DeleteOptions::default().uid(&claim.metadata.uid)).await;
        deleted.or_else(gone)
    }

    /// The same, while nobody waits for it.
    pub fn delete_in_background(&self, claim: &Arc<ResourceClaim>) {
        let (binder, claim) = (self.clone(), claim.clone());
        self.supervisor.spawn(TaskKind::Worker, "delete claim", move |_| async move {
            if let Err(why) = binder.delete(&claim).await {
                warn!(claim = %claim.metadata.key(), why, "cannot delete the claim for extended resources");
            }
        });
    }

    /// Takes the devices of a claim away that nobody uses.
    ///
    /// # Errors
    /// Someone came before.
    pub async fn deallocate(&self, claim: &ResourceClaim) -> Result<(), String> {
        let key = claim.metadata.key();
        let body = json!({"metadata": {"uid": claim.metadata.uid, "resourceVersion": claim.metadata.resource_version},
            "status": {"allocation": null, "reservedFor": null, "devices": null}});
        let freed = self.api.patch::<ResourceClaim>(&target(&key).sub("status"), &Patch::Merge(body)).await;
        let freed = freed.map_err(|e| e.to_string())?;
        // The loop has ended: nobody needs to know.
        let _ = self.messages.send(Message::DeviceClaimWritten(Arc::new(freed)));
        Ok(())
    }
}

/// Why a claim was not written.
enum Denied {
    /// Someone came before: it may be tried again.
    Lost,
    /// It is not to be had.
    Because(String),
}

fn denied(error: &ApiError, what: &str) -> Denied {
    if error.is_conflict() { Denied::Lost } else { Denied::Because(format!("{what}: {error}")) }
}

/// The time, in whole seconds as the API keeps it.
fn now() -> Timestamp {
    let now = Timestamp::now();
    Timestamp::from_second(now.as_second()).unwrap_or(now)
}
