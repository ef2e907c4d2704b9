//! Attaches volumes of CSI drivers to nodes, and detaches them (`pkg/controller/volume/attachdetach`).
//!
//! What a node's pods claim shall be attached: a `VolumeAttachment` asks the driver's attacher for it. What nobody claims
//! any more is detached when the node no longer says that it uses it, or cannot say so (it is gone, or out of service, or
//! has been silent for six minutes). What is attached stands in the node's status, where kubelets look for it.
//!
//! Attachments that others made, with names of their own, are left alone.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use orkd_base::{BoxError, Clock};
use orkd_reconcile::{
    Api, DeleteOptions, EventType, Informer, Key, Meta, ObjectRef, Outcome, Queue, Recorder, Resource, View,
    null_default, work,
};
use parking_lot::Mutex;
use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::claim::Told;
use super::views::{Claim, Volume};
use crate::views::{Node, Pod, condition, view};
use crate::{ControllerSpec, Cx, pods};

/// How the list of controllers names it.
pub const SPEC: ControllerSpec = ControllerSpec {
    name: "attachdetach-controller",
    service_account: "attachdetach-controller",
    run: |cx| Box::pin(start(cx)),
};

const BY_NODE: &str = "attaching-node";
const BY_CLAIM: &str = "mounted-claim";

/// For how long a driver's attacher may be silent until that is told, in seconds.
const ATTACHER_PATIENCE: i64 = 120;

/// After how long a node that is silent is believed to use nothing.
const SILENT: i64 = 360;

/// An attachment.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Attachment {
    /// Metadata.
    pub metadata: Meta,
    /// Specification.
    pub spec: AttachmentSpec,
    /// Status.
    pub status: AttachmentStatus,
}
view!(Attachment, "storage.k8s.io", "v1", "VolumeAttachment", "volumeattachments", false);

/// What is attached.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct AttachmentSpec {
    /// Who attaches.
    pub attacher: String,
    /// To which node.
    pub node_name: String,
    /// What.
    pub source: AttachmentSource,
}

/// What is attached.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct AttachmentSource {
    /// The volume.
    pub persistent_volume_name: String,
}

/// Whether it is attached.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct AttachmentStatus {
    /// Whether it is.
    pub attached: bool,
    /// Why it is not.
    pub attach_error: Option<AttachError>,
}

/// Why a volume is not attached.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct AttachError {
    /// Text.
    #[serde(deserialize_with = "null_default")]
    pub message: String,
}

/// A driver.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Driver {
    /// Metadata.
    pub metadata: Meta,
    /// Specification.
    pub spec: DriverSpec,
}
view!(Driver, "storage.k8s.io", "v1", "CSIDriver", "csidrivers", false);

/// What a driver needs.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct DriverSpec {
    /// Whether its volumes are attached; `None` for yes.
    pub attach_required: Option<bool>,
}

async fn start(cx: Cx) -> Result<(), BoxError> {
    let pods: Informer<Pod> = cx.informers.informer();
    let claims: Informer<Claim> = cx.informers.informer();
    let volumes: Informer<Volume> = cx.informers.informer();
    let nodes: Informer<Node> = cx.informers.informer();
    let attachments: Informer<Attachment> = cx.informers.informer();
    let drivers: Informer<Driver> = cx.informers.informer();
    let mounted = |p: &Pod| !p.spec.node_name.is_empty() && !p.spec.volumes.is_empty() && !pods::is_terminal(p);
    pods.add_index(BY_NODE, move |p| if mounted(p) { vec![p.spec.node_name.to_string()] } else { Vec::new() });
    pods.add_index(BY_CLAIM, move |p| {
        p.spec.volumes.iter().filter(|_| mounted(p)).map(|v| v.claim_of(&p.metadata).to_string()).collect()
    });
    attachments.add_index(BY_NODE, |a| vec![a.spec.node_name.clone()]);
    let queue: Queue<Key> = cx.queue(SPEC.name);
    {
        let queue = queue.clone();
        pods.subscribe(move |event| {
            let pod = event.object();
            if !pod.spec.node_name.is_empty() && !pod.spec.volumes.is_empty() {
                queue.add(Key::new("", &pod.spec.node_name));
            }
        });
    }
    {
        let (queue, pods) = (queue.clone(), pods.clone());
        claims.subscribe(move |event| {
            for pod in pods.by_index(BY_CLAIM, &event.key().to_string()) {
                queue.add(Key::new("", &pod.spec.node_name));
            }
        });
    }
    {
        let queue = queue.clone();
        attachments.subscribe(move |event| queue.add(Key::new("", &event.object().spec.node_name)));
    }
    {
        let (queue, attachments) = (queue.clone(), attachments.clone());
        nodes.subscribe(move |event| {
            // Heartbeats are many: only nodes that are new or have attachments, or say so, are looked at.
            let says = !event.object().status.volumes_attached.is_empty();
            if says || event.old().is_none() || !attachments.by_index(BY_NODE, &event.key().name).is_empty() {
                queue.add(event.key());
            }
        });
    }
    pods.synced().await;
    claims.synced().await;
    volumes.synced().await;
    nodes.synced().await;
    attachments.synced().await;
    drivers.synced().await;
    let attacher = Attacher {
        pods,
        claims,
        volumes,
        nodes,
        attachments,
        drivers,
        api: cx.api,
        recorder: cx.recorder,
        clock: cx.clock,
        told: Mutex::default(),
    };
    let attacher = &attacher;
    work(queue, 2, cx.stop, |key| async move { attacher.node(&key.name).await }).await;
    Ok(())
}

struct Attacher {
    pods: Informer<Pod>,
    claims: Informer<Claim>,
    volumes: Informer<Volume>,
    nodes: Informer<Node>,
    attachments: Informer<Attachment>,
    drivers: Informer<Driver>,
    api: Api,
    recorder: Recorder,
    clock: Clock,
    /// By node: what its pods were told already of attachments that it waits for, by their names.
    told: Mutex<HashMap<String, HashSet<(String, String)>>>,
}

/// A volume that a node's pods claim.
struct Wanted {
    volume: Arc<Volume>,
    claim: Key,
    pods: Vec<Arc<Pod>>,
}

/// The name of an attachment (`getAttachmentName`).
fn name_of(volume: &Volume, node: &str) -> Option<String> {
    let csi = volume.spec.csi.as_ref()?;
    let hash = Sha256::digest(format!("{}{}{node}", csi.volume_handle, csi.driver));
    Some(format!("csi-{}", hash.iter().map(|b| format!("{b:02x}")).collect::<String>()))
}

/// Whether a name is of the form that we give.
fn is_ours(name: &str) -> bool {
    name.strip_prefix("csi-").is_some_and(|h| h.len() == 64 && h.bytes().all(|b| b.is_ascii_hexdigit()))
}

/// How nodes name a volume.
fn unique_name(volume: &Volume) -> Option<String> {
    volume.spec.csi.as_ref().map(|csi| format!("kubernetes.io/csi/{}^{}", csi.driver, csi.volume_handle))
}

/// Whether a volume may be at several nodes at once.
fn may_be_shared(volume: &Volume) -> bool {
    volume.spec.access_modes.iter().any(|m| m == "ReadWriteMany" || m == "ReadOnlyMany")
}

/// Whether an attachment that nobody wants may go. `None` for yes; else why not yet.
fn held_by(node: Option<&Node>, volume: &str, now: Timestamp) -> Option<&'static str> {
    let node = node?;
    if !node.status.volumes_in_use.iter().any(|v| v == volume) {
        return None;
    }
    if node.spec.taints.iter().any(|t| t.key == "node.kubernetes.io/out-of-service") {
        return None;
    }
    let ready = condition(&node.status.conditions, "Ready");
    let silent_since = ready.filter(|c| c.status != "True").and_then(|c| c.last_transition_time);
    match silent_since {
        Some(since) if now.as_second() - since.as_second() >= SILENT => None,
        _ => Some("the node uses it"),
    }
}

/// What is told of a volume that may be at one node only and is at another, where these pods use it
/// (`reportMultiAttachError`).
fn exclusive(volume: &str, users: &[&str]) -> String {
    let why = match users {
        [] => "Volume is already exclusively attached to one node and can't be attached to another".to_owned(),
        users => format!("Volume is already used by pod(s) {}", users.join(", ")),
    };
    format!("Multi-Attach error for volume {volume:?} {why}")
}

/// What pods are told of an attachment, and when there may be something else to tell.
fn word_of(attachment: &Attachment, volume: &Volume, now: Timestamp) -> (Option<Told>, Option<Duration>) {
    let name = &*volume.metadata.name;
    if attachment.status.attached {
        let text = format!("AttachVolume.Attach succeeded for volume {name:?} ");
        return (Some((EventType::Normal, "SuccessfulAttachVolume", text)), None);
    }
    let failed = |why: &str| {
        let text = format!("AttachVolume.Attach failed for volume {name:?} : {why}");
        Some((EventType::Warning, "FailedAttachVolume", text))
    };
    if let Some(error) = &attachment.status.attach_error {
        return (failed(&error.message), None);
    }
    let since = attachment.metadata.creation_timestamp.map_or(now.as_second(), |at| at.as_second());
    let left = since + ATTACHER_PATIENCE - now.as_second();
    if left > 0 {
        return (None, Some(Duration::from_secs(left.unsigned_abs())));
    }
    let (driver, handle) =
        volume.spec.csi.as_ref().map_or(("", ""), |csi| (csi.driver.as_str(), csi.volume_handle.as_str()));
    let why = format!("timed out waiting for external-attacher of {driver} CSI driver to attach volume {handle}");
    (failed(&why), None)
}

impl Attacher {
    /// What the pods of a node claim of drivers that attach.
    fn wanted(&self, node: &str) -> BTreeMap<String, Wanted> {
        let mut wanted: BTreeMap<String, Wanted> = BTreeMap::new();
        for pod in self.pods.by_index(BY_NODE, node) {
            for volume in &pod.spec.volumes {
                let key = volume.claim_of(&pod.metadata);
                let Some(claim) = self.claims.get(&key) else { continue };
                let Some(volume) = self.volumes.get(&Key::new("", &claim.spec.volume_name)) else { continue };
                let bound = claim.status.phase == "Bound" && volume.is_for(&claim);
                let Some(csi) = volume.spec.csi.as_ref().filter(|_| bound) else { continue };
                let driver = self.drivers.get(&Key::new("", &csi.driver));
                if driver.is_some_and(|d| d.spec.attach_required == Some(false)) {
                    continue;
                }
                let Some(name) = name_of(&volume, node) else { continue };
                let new = || Wanted { volume, claim: key, pods: Vec::new() };
                wanted.entry(name).or_insert_with(new).pods.push(pod.clone());
            }
        }
        wanted
    }

    async fn node(&self, name: &str) -> Result<Outcome, BoxError> {
        let node = self.nodes.get(&Key::new("", name));
        let wanted = if node.is_some() { self.wanted(name) } else { BTreeMap::new() };
        let attachments = self.attachments.by_index(BY_NODE, name);
        let mut again = None;
        self.forget(name, |id| wanted.contains_key(id));
        for (id, wanted) in &wanted {
            match attachments.iter().find(|a| *a.metadata.name == **id) {
                None => {
                    if !self.attach(id, name, wanted).await? {
                        again = Some(Duration::from_secs(5));
                    }
                }
                Some(attachment) => {
                    if let Some(wait) = self.tell(name, attachment, wanted) {
                        again = Some(again.map_or(wait, |again: Duration| again.min(wait)));
                    }
                }
            }
        }
        let mut attached: Vec<String> = attachments
            .iter()
            .filter(|a| a.status.attached && !a.metadata.is_deleting())
            .filter_map(|a| wanted.get(&*a.metadata.name))
            .filter_map(|w| unique_name(&w.volume))
            .collect();
        let now = self.clock.now();
        let mut leaving = Vec::new();
        for attachment in &attachments {
            let meta = &attachment.metadata;
            if wanted.contains_key(&*meta.name) || meta.is_deleting() || !is_ours(&meta.name) {
                continue;
            }
            let volume = self.volumes.get(&Key::new("", &attachment.spec.source.persistent_volume_name));
            let unique = volume.as_deref().and_then(unique_name);
            if let Some(unique) = &unique
                && held_by(node.as_deref(), unique, now).is_some()
            {
                attached.push(unique.clone());
                again = Some(Duration::from_secs(30));
                continue;
            }
            leaving.push(meta.clone());
        }
        // The node hears of it first: it must not mount what is about to go.
        if let Some(node) = &node {
            self.say(node, attached).await?;
        }
        for meta in leaving {
            let target = Resource::of::<Attachment>().at("", &meta.name);
            match self.api.delete(&target, &DeleteOptions::default().uid(&meta.uid)).await {
                Err(err) if err.is_not_found() || err.is_conflict() => {}
                other => other?,
            }
        }
        Ok(again.map_or(Outcome::Done, Outcome::RequeueAfter))
    }

    /// Asks for an attachment; `false` if the volume is still elsewhere.
    async fn attach(&self, id: &str, node: &str, wanted: &Wanted) -> Result<bool, BoxError> {
        let volume = &*wanted.volume;
        let mut elsewhere = self.attachments.list();
        elsewhere.retain(|a| a.spec.source.persistent_volume_name == *volume.metadata.name && a.spec.node_name != node);
        if !may_be_shared(volume) && !elsewhere.is_empty() {
            let mut users = self.pods.by_index(BY_CLAIM, &wanted.claim.to_string());
            users.retain(|pod| elsewhere.iter().any(|a| *a.spec.node_name == *pod.spec.node_name));
            let users: Vec<&str> = users.iter().map(|pod| &*pod.metadata.name).collect();
            let text = exclusive(&volume.metadata.name, &users);
            if self.is_news(node, id, &text) {
                for pod in &wanted.pods {
                    self.recorder.warning(&ObjectRef::of(&**pod), "FailedAttachVolume", text.clone());
                }
            }
            return Ok(false);
        }
        let body = json!({
            "apiVersion": "storage.k8s.io/v1", "kind": "VolumeAttachment", "metadata": {"name": id},
            "spec": {"attacher": volume.spec.csi.as_ref().map(|c| &c.driver), "nodeName": node,
                "source": {"persistentVolumeName": &*volume.metadata.name}},
        });
        match self.api.create::<IgnoredAny>(&Resource::of::<Attachment>().collection(""), &body).await {
            Err(err) if err.is_already_exists() => {}
            other => drop(other?),
        }
        Ok(true)
    }

    /// Tells the pods that wait, each thing once. Returns when to look again at an attacher that is silent.
    fn tell(&self, node: &str, attachment: &Attachment, wanted: &Wanted) -> Option<Duration> {
        let id = &*attachment.metadata.name;
        let (said, wait) = word_of(attachment, &wanted.volume, self.clock.now());
        if let Some((kind, reason, text)) = said {
            for pod in wanted.pods.iter().filter(|p| p.status.phase == "Pending") {
                if self.is_news(node, id, &format!("{} {text}", pod.metadata.uid)) {
                    self.recorder.event(&ObjectRef::of(&**pod), kind, reason, text.clone());
                }
            }
        }
        wait
    }

    /// Whether something has not been told yet of an attachment; it has from now on.
    fn is_news(&self, node: &str, id: &str, text: &str) -> bool {
        self.told.lock().entry(node.to_owned()).or_default().insert((id.to_owned(), text.to_owned()))
    }

    /// Forgets what was told of attachments of a node that are not wanted any more.
    fn forget(&self, node: &str, wanted: impl Fn(&str) -> bool) {
        let mut told = self.told.lock();
        if let Some(of_node) = told.get_mut(node) {
            of_node.retain(|(id, _)| wanted(id));
            if of_node.is_empty() {
                told.remove(node);
            }
        }
    }

    /// Writes into a node's status what is attached to it.
    async fn say(&self, node: &Node, mut attached: Vec<String>) -> Result<(), BoxError> {
        attached.sort();
        attached.dedup();
        let mut before: Vec<&str> = node.status.volumes_attached.iter().map(|v| v.name.as_str()).collect();
        before.sort_unstable();
        if before == attached {
            return Ok(());
        }
        let list: Vec<Value> = attached.iter().map(|name| json!({"name": name, "devicePath": ""})).collect();
        let target = Resource::of::<Node>().at("", &node.metadata.name);
        let changed = self.api.modify(&target, "status", |live| {
            let before = live["status"]["volumesAttached"].take();
            match list.is_empty() {
                true => {
                    if let Some(status) = live["status"].as_object_mut() {
                        status.remove("volumesAttached");
                    }
                }
                false => live["status"]["volumesAttached"] = list.clone().into(),
            }
            live["status"]["volumesAttached"] != before
        });
        match changed.await {
            Err(err) if err.is_not_found() => Ok(()),
            other => Ok(other.map(|_| ())?),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attachments_have_upstreams_names() {
        let volume: Volume =
            serde_json::from_value(json!({"spec": {"csi": {"driver": "d", "volumeHandle": "h"}}})).expect("a volume");
        let name = name_of(&volume, "n").expect("a name");
        // `printf hdn | sha256sum`
        assert_eq!(name, format!("csi-{}", sha(b"hdn")));
        assert!(is_ours(&name) && !is_ours("csi-e2e") && !is_ours("va-1"));
        assert_eq!(unique_name(&volume).as_deref(), Some("kubernetes.io/csi/d^h"));
    }

    fn sha(bytes: &[u8]) -> String {
        Sha256::digest(bytes).iter().map(|b| format!("{b:02x}")).collect()
    }

    #[test]
    fn what_a_node_uses_is_not_taken_from_it() {
        let node = |change: fn(&mut Value)| {
            let mut json = json!({"metadata": {"name": "n"}, "spec": {}, "status": {"volumesInUse": ["v"],
                "conditions": [{"type": "Ready", "status": "True", "lastTransitionTime": "2026-01-01T00:00:00Z"}]}});
            change(&mut json);
            serde_json::from_value::<Node>(json).expect("a node")
        };
        let held = |node: &Node| held_by(Some(node), "v", "2026-01-01T00:06:00Z".parse().expect("a time")).is_some();
        assert!(held(&node(|_| ())));
        assert!(!held(&node(|n| n["status"]["volumesInUse"] = json!([]))));
        let out = |n: &mut Value| n["spec"]["taints"] = json!([{"key": "node.kubernetes.io/out-of-service"}]);
        assert!(!held(&node(out)));
        assert!(!held(&node(|n| n["status"]["conditions"][0]["status"] = "Unknown".into())));
        assert!(held_by(None, "v", Timestamp::UNIX_EPOCH).is_none());
    }

    #[test]
    fn pods_are_told_what_their_volume_waits_for() {
        let volume: Volume = serde_json::from_value(json!({"metadata": {"name": "v"},
            "spec": {"csi": {"driver": "d.example.com", "volumeHandle": "h"}}}))
        .expect("a volume");
        let check = |status: Value, second: i64, expected: &str, wait: Option<u64>| {
            let attachment: Attachment = serde_json::from_value(json!({"metadata": {"name": "a",
                "creationTimestamp": "1970-01-01T00:00:00Z"}, "status": status}))
            .expect("an attachment");
            let (said, again) = word_of(&attachment, &volume, Timestamp::from_second(second).expect("a time"));
            let said = said.map_or(String::new(), |(_, reason, text)| format!("{reason}: {text}"));
            assert_eq!((said.as_str(), again), (expected, wait.map(Duration::from_secs)));
        };
        let text = "SuccessfulAttachVolume: AttachVolume.Attach succeeded for volume \"v\" ";
        check(json!({"attached": true}), 500, text, None);
        let failed = |why: &str| format!("FailedAttachVolume: AttachVolume.Attach failed for volume \"v\" : {why}");
        check(json!({"attachError": {"message": "no such disk"}}), 5, &failed("no such disk"), None);
        check(json!({"attached": false}), 20, "", Some(100));
        let text = "timed out waiting for external-attacher of d.example.com CSI driver to attach volume h";
        check(json!({"attached": false}), 120, &failed(text), None);
        let alone = "Multi-Attach error for volume \"v\" Volume is already exclusively attached to one node and can't be \
                     attached to another";
        assert_eq!(exclusive("v", &[]), alone);
        let text = "Multi-Attach error for volume \"v\" Volume is already used by pod(s) a, b";
        assert_eq!(exclusive("v", &["a", "b"]), text);
    }
}
