//! Sends pod statuses, each only when it changed, one request at a time for a pod.
//!
//! Follows upstream `pkg/kubelet/status/status_manager.go`: the status is patched with the uid as a precondition; a pod
//! that is being deleted and has nothing left on the node is deleted for good, with a grace period of 0.

use std::collections::HashMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Pod, PodStatus};
use orkd_base::{Backoff, Supervisor, TaskKind};
use orkd_reconcile::{Api, ApiError, DeleteOptions, Meta, Patch, Resource};
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::conditions::{OWNED, is_ours};
use crate::pod;

const PODS: Resource = Resource::new("", "v1", "pods", "Pod", true);

/// What stands under a name.
#[derive(serde::Deserialize)]
struct Standing {
    metadata: Meta,
}

struct Entry {
    pod: Arc<Pod>,
    status: PodStatus,
    /// What the API was last told.
    sent: Option<PodStatus>,
    /// Nothing of the pod is left on this node.
    finished: bool,
}

/// Statuses by uid. Cheap to clone.
#[derive(Clone, Default)]
pub struct StatusManager(Arc<Inner>);

#[derive(Default)]
struct Inner {
    entries: Mutex<HashMap<String, Entry>>,
    changed: Mutex<Vec<String>>,
    /// Uids of mirror pods, by namespace and name.
    mirrors: Mutex<HashMap<(String, String), String>>,
    wake: Notify,
}

impl StatusManager {
    /// The status last set for a pod, or the API's.
    pub fn get(&self, pod: &Pod) -> PodStatus {
        let entries = self.0.entries.lock();
        let known = entries.get(pod::uid(pod)).map(|e| e.status.clone());
        known.or_else(|| pod.status.clone()).unwrap_or_default()
    }

    /// The status last set for a uid.
    pub fn of(&self, uid: &str) -> Option<PodStatus> {
        self.0.entries.lock().get(uid).map(|e| e.status.clone())
    }

    /// Sets a pod's status.
    pub fn set(&self, pod: &Arc<Pod>, status: PodStatus) {
        self.put(pod, status, false);
    }

    /// Sets the last status of a pod of which nothing is left on the node.
    pub fn finish(&self, pod: &Arc<Pod>, status: PodStatus) {
        self.put(pod, status, true);
    }

    fn put(&self, pod: &Arc<Pod>, status: PodStatus, finished: bool) {
        let uid = pod::uid(pod).to_owned();
        {
            let mut entries = self.0.entries.lock();
            let entry = entries.entry(uid.clone()).or_insert_with(|| Entry {
                pod: pod.clone(),
                status: PodStatus::default(),
                sent: pod.status.clone(),
                finished: false,
            });
            entry.pod = pod.clone();
            entry.status = status;
            entry.finished |= finished;
        }
        self.touch(uid);
    }

    fn touch(&self, uid: String) {
        let mut changed = self.0.changed.lock();
        if !changed.contains(&uid) {
            changed.push(uid);
        }
        drop(changed);
        self.0.wake.notify_one();
    }

    /// Tells of the mirror pod of a static pod; it is told the status anew.
    pub fn mirror(&self, mirror: &Pod, uid: Option<String>) {
        let name = (pod::namespace(mirror).to_owned(), pod::name(mirror).to_owned());
        let changed = match uid {
            Some(uid) => self.0.mirrors.lock().insert(name.clone(), uid.clone()) != Some(uid),
            None => self.0.mirrors.lock().remove(&name).is_some(),
        };
        if !changed {
            return;
        }
        let mut found = None;
        for (uid, entry) in self.0.entries.lock().iter_mut() {
            let same = pod::namespace(&entry.pod) == name.0 && pod::name(&entry.pod) == name.1;
            if same && pod::is_static(&entry.pod) {
                entry.sent = None;
                found = Some(uid.clone());
            }
        }
        if let Some(uid) = found {
            self.touch(uid);
        }
    }

    /// Forgets a pod that is gone from the API.
    pub fn forget(&self, uid: &str) {
        self.0.entries.lock().remove(uid);
    }

    /// Sends statuses until cancelled.
    pub async fn run(self, api: Api, supervisor: Supervisor, cancel: CancellationToken) {
        let busy: Arc<Mutex<HashMap<String, bool>>> = Arc::default();
        loop {
            let changed = std::mem::take(&mut *self.0.changed.lock());
            for uid in changed {
                // One request at a time for a pod; a change meanwhile is looked at afterwards.
                if let Some(again) = busy.lock().get_mut(&uid) {
                    *again = true;
                    continue;
                }
                busy.lock().insert(uid.clone(), false);
                let (this, api, busy) = (self.clone(), api.clone(), busy.clone());
                supervisor.spawn(TaskKind::Worker, "pod status", move |stop| async move {
                    let mut backoff =
                        Backoff::new(std::time::Duration::from_millis(200), std::time::Duration::from_secs(10));
                    loop {
                        match this.send(&api, &uid).await {
                            Ok(()) => {
                                let mut busy = busy.lock();
                                if busy.get(&uid) == Some(&true) {
                                    busy.insert(uid.clone(), false);
                                    continue;
                                }
                                busy.remove(&uid);
                                return;
                            }
                            Err(error) => {
                                tracing::warn!(
                                    error = orkd_base::chain(&error).to_string(),
                                    uid,
                                    "pod status not sent"
                                );
                                tokio::select! {
                                    () = stop.cancelled() => return,
                                    () = tokio::time::sleep(backoff.next_delay()) => {}
                                }
                            }
                        }
                    }
                });
            }
            tokio::select! {
                () = cancel.cancelled() => return,
                () = self.0.wake.notified() => {}
            }
        }
    }

    /// Brings the API up to date about one pod.
    async fn send(&self, api: &Api, uid: &str) -> Result<(), ApiError> {
        let Some((pod, status, sent, finished)) =
            self.0.entries.lock().get(uid).map(|e| (e.pod.clone(), e.status.clone(), e.sent.clone(), e.finished))
        else {
            return Ok(());
        };
        let target = PODS.at(pod::namespace(&pod), pod::name(&pod));
        let api_uid = match pod::is_static(&pod) {
            false => uid.to_owned(),
            // A static pod is shown by its mirror.
            true => {
                let name = (pod::namespace(&pod).to_owned(), pod::name(&pod).to_owned());
                let Some(mirror) = self.0.mirrors.lock().get(&name).cloned() else { return Ok(()) };
                mirror
            }
        };
        if let Some(patch) = status_patch(&api_uid, sent.as_ref(), &status) {
            match api.patch::<serde::de::IgnoredAny>(&target.sub("status"), &Patch::Strategic(patch)).await {
                Ok(_) => {
                    if let Some(entry) = self.0.entries.lock().get_mut(uid) {
                        entry.sent = Some(status);
                    }
                }
                Err(e) => return self.refused(api, &pod, uid, &api_uid, e).await,
            }
        }
        if finished && pod.metadata.deletion_timestamp.is_some() {
            let options = DeleteOptions::default().grace(0).uid(uid);
            match api.delete(&target, &options).await {
                Ok(_) => self.forget(uid),
                Err(e) => return self.refused(api, &pod, uid, uid, e).await,
            }
        }
        Ok(())
    }

    /// What an error of the API means: the pod is gone, another has its name now, or the request lost a race with other
    /// writers and is made again.
    async fn refused(&self, api: &Api, pod: &Pod, uid: &str, api_uid: &str, error: ApiError) -> Result<(), ApiError> {
        let gone = match error.is_conflict() {
            false => error.is_not_found(),
            true => match api.get_metadata::<Standing>(&PODS.at(pod::namespace(pod), pod::name(pod))).await {
                Ok(standing) => standing.metadata.uid != api_uid,
                Err(e) => e.is_not_found(),
            },
        };
        if !gone {
            return Err(error);
        }
        if !pod::is_static(pod) {
            self.forget(uid);
        }
        Ok(())
    }
}

/// The strategic merge patch from one status to another; `None` if they are the same. Lists of containers and addresses
/// are replaced as a whole, as they are ours; conditions merge by type.
pub fn status_patch(uid: &str, old: Option<&PodStatus>, new: &PodStatus) -> Option<Value> {
    let to_map = |s: &PodStatus| match serde_json::to_value(s) {
        Ok(Value::Object(map)) => map,
        _ => serde_json::Map::new(),
    };
    let (before, after) = (old.map(to_map).unwrap_or_default(), to_map(new));
    let mut patch = serde_json::Map::new();
    for (key, value) in &after {
        if before.get(key) == Some(value) {
            continue;
        }
        if key == "conditions" {
            let known = before.get("conditions").and_then(Value::as_array);
            let ours = new.conditions.iter().flatten().filter(|c| is_ours(c));
            let ours = ours.filter_map(|c| serde_json::to_value(c).ok());
            let changed: Vec<Value> = ours
                .filter(|c| !known.is_some_and(|list| list.contains(c)))
                .map(|mut c| {
                    // What a condition no longer says must be taken back.
                    if let Some(map) = c.as_object_mut() {
                        for field in ["reason", "message"] {
                            map.entry(field).or_insert(Value::Null);
                        }
                    }
                    c
                })
                .collect();
            // What is ours and no longer holds is taken away.
            let gone = old.and_then(|s| s.conditions.as_deref()).unwrap_or_default().iter();
            let kept = |kind: &str| new.conditions.iter().flatten().any(|c| c.type_ == kind);
            let gone = gone
                .filter(|c| OWNED.contains(&c.type_.as_str()) && !kept(&c.type_))
                .map(|c| json!({"$patch": "delete", "type": c.type_}));
            let changed: Vec<Value> = changed.into_iter().chain(gone).collect();
            if !changed.is_empty() {
                patch.insert(key.clone(), Value::Array(changed));
            }
            continue;
        }
        // These merge by a key in the API; as a whole they are replaced.
        let value = match (key.as_str(), value) {
            ("podIPs" | "hostIPs", Value::Array(items)) => {
                let mut items = items.clone();
                items.push(json!({"$patch": "replace"}));
                Value::Array(items)
            }
            _ => value.clone(),
        };
        patch.insert(key.clone(), value);
    }
    for key in before.keys().filter(|k| !after.contains_key(*k)) {
        patch.insert(key.clone(), Value::Null);
    }
    (!patch.is_empty()).then(|| json!({"metadata": {"uid": uid}, "status": patch}))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_changed_is_sent() {
        let check = |old: Value, new: Value, expected: Value| {
            let read = |v: Value| serde_json::from_value::<PodStatus>(v).unwrap_or_default();
            let made = status_patch("u", Some(&read(old)), &read(new));
            assert_eq!(made.map_or(Value::Null, |p| p["status"].clone()), expected);
        };
        check(json!({"phase": "Running"}), json!({"phase": "Running"}), Value::Null);
        check(
            json!({"phase": "Pending", "reason": "x"}),
            json!({"phase": "Running"}),
            json!({"phase": "Running", "reason": null}),
        );
        check(
            json!({"conditions": [{"type": "Ready", "status": "False", "reason": "r"},
                                  {"type": "mine", "status": "True"}]}),
            json!({"conditions": [{"type": "Ready", "status": "True"}, {"type": "mine", "status": "True"}]}),
            json!({"conditions": [{"type": "Ready", "status": "True", "reason": null, "message": null}]}),
        );
        check(
            json!({"conditions": [{"type": "Ready", "status": "True"}, {"type": "mine", "status": "True"},
                                  {"type": "PodResizePending", "status": "True"}]}),
            json!({"conditions": [{"type": "Ready", "status": "True"}]}),
            json!({"conditions": [{"$patch": "delete", "type": "PodResizePending"}]}),
        );
        // A disruption is told of by whoever makes it.
        let disruption =
            |reason: &str| json!({"type": "DisruptionTarget", "status": "True", "reason": reason, "message": "m"});
        let own = json!({"conditions": [disruption("TerminationByKubelet")]});
        check(json!({}), own.clone(), own);
        check(json!({}), json!({"conditions": [disruption("EvictionByEvictionAPI")]}), Value::Null);
    }
}
