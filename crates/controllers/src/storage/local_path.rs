//! The provisioner of `orkd.io/local-path`: volumes that are folders of a node.
//!
//! It is an external provisioner like any other: the binder asks it by an annotation of the claim, and deletes nothing.
//! A volume is made for the node that the scheduler chose for the first pod; the node's kubelet makes the folder when
//! it first mounts it, and removes it when it is asked to, through the API server's proxy to nodes. Only then the
//! volume goes. The folders of a node that is gone went with it. Why so: `docs/decisions/0005-local-volumes.md`.

use orkd_base::BoxError;
use orkd_reconcile::{Api, DeleteOptions, Informer, Key, ObjectRef, Outcome, Queue, Recorder, Resource, Target, work};
use serde::de::IgnoredAny;
use serde_json::{Value, json};

use super::expand::wants_to_grow;
use super::views::{Claim, StorageClass, Volume, default_class};
use super::{PROVISIONED_BY, SELECTED_NODE};
use crate::views::{Node, condition};
use crate::{ControllerSpec, Cx};

/// How the list of controllers names it.
pub const SPEC: ControllerSpec = ControllerSpec {
    name: "local-path-provisioner",
    service_account: "local-path-provisioner",
    run: |cx| Box::pin(start(cx)),
};

/// What classes name.
pub const PROVISIONER: &str = "orkd.io/local-path";
/// On a node: below which folder its volumes are.
pub const ROOT: &str = "orkd.io/local-path";
/// Below which folder volumes are where the node says nothing.
const DEFAULT_ROOT: &str = "/var/lib/orkd/agent/storage";

/// The class of a fresh cluster.
pub const CLASS: &str = "orkd-local";

const HOSTNAME: &str = "kubernetes.io/hostname";

#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Item {
    Claim(Key),
    Volume(Key),
}

impl std::fmt::Display for Item {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Item::Claim(key) => write!(f, "claim {key}"),
            Item::Volume(key) => write!(f, "volume {key}"),
        }
    }
}

async fn start(cx: Cx) -> Result<(), BoxError> {
    let claims: Informer<Claim> = cx.informers.informer();
    let volumes: Informer<Volume> = cx.informers.informer();
    let classes: Informer<StorageClass> = cx.informers.informer();
    let nodes: Informer<Node> = cx.informers.informer();
    let queue: Queue<Item> = cx.queue(SPEC.name);
    {
        let queue = queue.clone();
        claims.subscribe(move |event| {
            let claim = event.object();
            if !event.is_deleted() && (is_ours(claim) || wants_to_grow(claim)) {
                queue.add(Item::Claim(event.key()));
            }
        });
    }
    {
        let queue = queue.clone();
        volumes.subscribe(move |event| {
            if !event.is_deleted() && is_over(event.object()) {
                queue.add(Item::Volume(event.key()));
            }
        });
    }
    claims.synced().await;
    volumes.synced().await;
    classes.synced().await;
    nodes.synced().await;
    let provisioner = Provisioner { claims, volumes, classes, nodes, api: cx.api, recorder: cx.recorder };
    provisioner.publish().await;
    let provisioner = &provisioner;
    work(queue, 4, cx.stop, |item| async move {
        match item {
            Item::Claim(key) => provisioner.claim(&key).await,
            Item::Volume(key) => provisioner.remove(&key).await,
        }
    })
    .await;
    Ok(())
}

/// Whether a claim waits for us.
fn is_ours(claim: &Claim) -> bool {
    claim.metadata.annotation(super::PROVISIONER) == Some(PROVISIONER)
        && claim.spec.volume_name.is_empty()
        && !claim.metadata.is_deleting()
}

/// Whether a volume of ours has no claim any more and shall go.
fn is_over(volume: &Volume) -> bool {
    volume.provisioned_by() == PROVISIONER
        && volume.status.phase == "Released"
        && volume.spec.persistent_volume_reclaim_policy == "Delete"
}

struct Provisioner {
    claims: Informer<Claim>,
    volumes: Informer<Volume>,
    classes: Informer<StorageClass>,
    nodes: Informer<Node>,
    api: Api,
    recorder: Recorder,
}

impl Provisioner {
    /// Makes the class that a fresh cluster has. It is the default unless there is another.
    async fn publish(&self) {
        if self.classes.get(&Key::new("", CLASS)).is_some() {
            return;
        }
        let default = default_class(&self.classes.list()).is_none();
        let body = class(default);
        match self.api.create::<IgnoredAny>(&Resource::of::<StorageClass>().collection(""), &body).await {
            Err(err) if !err.is_already_exists() => {
                tracing::warn!(error = %orkd_base::chain(&err), "the storage class {CLASS} was not made");
            }
            _ => {}
        }
    }

    async fn claim(&self, key: &Key) -> Result<Outcome, BoxError> {
        let Some(claim) = self.claims.get(key) else { return Ok(Outcome::Done) };
        if wants_to_grow(&claim) {
            self.grow(&claim).await?;
        }
        if is_ours(&claim) {
            self.provision(&claim).await?;
        }
        Ok(Outcome::Done)
    }

    async fn provision(&self, claim: &Claim) -> Result<(), BoxError> {
        let about = ObjectRef::of(claim);
        let Some(class) = self.classes.get(&Key::new("", claim.class())) else { return Ok(()) };
        if class.provisioner != PROVISIONER {
            return Ok(());
        }
        let node = match claim.metadata.annotation(SELECTED_NODE) {
            Some(name) => match self.nodes.get(&Key::new("", name)) {
                None => return self.place_anew(claim, name).await,
                found => found,
            },
            None if class.waits() => return Ok(()),
            None => choose(&self.nodes.list(), &claim.metadata.uid),
        };
        let failed = |why: &str| {
            let text = format!("failed to provision volume with StorageClass {:?}: {why}", claim.class());
            self.recorder.warning(&about, "ProvisioningFailed", text.clone());
            Err(text.into())
        };
        let Some(node) = node else { return failed("there is no node for it") };
        if claim.mode() == "Block" {
            return failed("folders are no block devices");
        }
        let name = format!("pvc-{}", claim.metadata.uid);
        if self.volumes.get(&Key::new("", &name)).is_some() {
            return Ok(());
        }
        let text = format!("External provisioner is provisioning volume for claim \"{}\"", claim.metadata.key());
        self.recorder.normal(&about, "Provisioning", text);
        let body = volume(&name, claim, &class, &node);
        match self.api.create::<IgnoredAny>(&Resource::of::<Volume>().collection(""), &body).await {
            Err(err) if err.is_already_exists() => {}
            Err(err) => return failed(&err.message()),
            Ok(_) => {
                self.recorder.normal(
                    &about,
                    "ProvisioningSucceeded",
                    format!("Successfully provisioned volume {name}"),
                );
            }
        }
        Ok(())
    }

    /// The node that the scheduler chose is not there: it is to choose again, as external provisioners ask it to.
    async fn place_anew(&self, claim: &Claim, node: &str) -> Result<(), BoxError> {
        match self.api.get::<IgnoredAny>(&Resource::of::<Node>().at("", node)).await {
            // The cache was behind: its event does not bring the claim back, so the error does.
            Ok(_) => return Err(format!("node {node:?} is not known yet").into()),
            Err(err) if err.is_not_found() => {}
            Err(err) => return Err(err.into()),
        }
        let text = format!("failed to get target node: node {node:?} not found");
        self.recorder.warning(&ObjectRef::of(claim), "ProvisioningFailed", text);
        let meta = &claim.metadata;
        let target = Resource::of::<Claim>().at(&meta.namespace, &meta.name);
        let released = self
            .api
            .modify(&target, "", |live| live["metadata"]["uid"] == meta.uid.as_str() && forget_node(live, node));
        match released.await {
            Err(err) if err.is_not_found() => Ok(()),
            other => Ok(other.map(|_| ())?),
        }
    }

    /// A folder has no size: more is granted at once.
    async fn grow(&self, claim: &Claim) -> Result<(), BoxError> {
        let volume = self.volumes.get(&Key::new("", &claim.spec.volume_name));
        let Some(volume) = volume.filter(|v| v.provisioned_by() == PROVISIONER && v.is_for(claim)) else {
            return Ok(());
        };
        let size = claim.spec.resources.requests.get("storage").cloned().unwrap_or_default();
        if volume.size() < claim.size() {
            let target = Resource::of::<Volume>().at("", &volume.metadata.name);
            self.api
                .modify(&target, "", |live| {
                    live["spec"]["capacity"]["storage"] = size.as_str().into();
                    true
                })
                .await?;
        }
        let meta = &claim.metadata;
        let target = Resource::of::<Claim>().at(&meta.namespace, &meta.name);
        self.api
            .modify(&target, "status", |live| {
                live["status"]["capacity"]["storage"] = size.as_str().into();
                true
            })
            .await?;
        let text = format!("Resize volume {} succeeded", volume.metadata.name);
        self.recorder.normal(&ObjectRef::of(claim), "VolumeResizeSuccessful", text);
        Ok(())
    }

    /// Removes the folder, then the volume.
    async fn remove(&self, key: &Key) -> Result<Outcome, BoxError> {
        let Some(volume) = self.volumes.get(key).filter(|v| is_over(v)) else { return Ok(Outcome::Done) };
        if let (Some(node), Some(folder)) = (self.node_of(&volume), folder_of(&volume)) {
            let target = Target::path(format!("/api/v1/nodes/{}/proxy/orkd/volumes/{folder}", node.metadata.name));
            if let Err(err) = self.api.delete(&target, &DeleteOptions::default()).await
                && !err.is_not_found()
            {
                let text = format!("folder {folder} of node {} was not removed: {}", node.metadata.name, err.message());
                self.recorder.warning(&ObjectRef::of(&*volume), "VolumeFailedDelete", text);
                return Err(err.into());
            }
        }
        let options = DeleteOptions::default().uid(&volume.metadata.uid);
        match self.api.delete(&Resource::of::<Volume>().at("", &key.name), &options).await {
            Err(err) if err.is_not_found() || err.is_conflict() => {}
            other => other?,
        }
        Ok(Outcome::Done)
    }

    fn node_of(&self, volume: &Volume) -> Option<std::sync::Arc<Node>> {
        let hostname = hostname_of(volume)?;
        self.nodes.list().into_iter().find(|n| hostname_label(n) == hostname)
    }
}

fn hostname_label(node: &Node) -> &str {
    node.metadata.label(HOSTNAME).unwrap_or(&node.metadata.name)
}

/// Takes the choice of a node off a claim that has no volume yet, if it is still this one.
fn forget_node(claim: &mut Value, node: &str) -> bool {
    let free = claim["spec"]["volumeName"].as_str().is_none_or(str::is_empty);
    match claim["metadata"]["annotations"].as_object_mut() {
        Some(all) if free && all.get(SELECTED_NODE).is_some_and(|n| n == node) => all.remove(SELECTED_NODE).is_some(),
        _ => false,
    }
}

/// The node that a volume's affinity names.
fn hostname_of(volume: &Volume) -> Option<String> {
    let affinity = volume.spec.node_affinity.as_ref()?;
    let terms = affinity.pointer("/required/nodeSelectorTerms")?.as_array()?;
    let expressions = terms.iter().filter_map(|t| t["matchExpressions"].as_array()).flatten();
    let named = expressions.filter(|e| e["key"] == HOSTNAME).filter_map(|e| e["values"][0].as_str());
    named.map(str::to_owned).next()
}

/// The name of a volume's folder.
fn folder_of(volume: &Volume) -> Option<&str> {
    volume.spec.local.as_ref()?.path.rsplit('/').next().filter(|n| !n.is_empty())
}

/// For a class that does not wait: a node that is ready, the same for the same claim.
fn choose(nodes: &[std::sync::Arc<Node>], uid: &str) -> Option<std::sync::Arc<Node>> {
    let ready = |n: &Node| condition(&n.status.conditions, "Ready").is_some_and(|c| c.status == "True");
    let mut fit: Vec<_> = nodes.iter().filter(|n| ready(n) && !n.spec.unschedulable).collect();
    fit.sort_by(|a, b| a.metadata.name.cmp(&b.metadata.name));
    let sum: usize = uid.bytes().map(usize::from).sum();
    fit.get(sum % fit.len().max(1)).map(|n| (*n).clone())
}

fn class(default: bool) -> Value {
    json!({
        "apiVersion": "storage.k8s.io/v1", "kind": "StorageClass",
        "metadata": {"name": CLASS, "annotations": {
            "storageclass.kubernetes.io/is-default-class": if default { "true" } else { "false" }}},
        "provisioner": PROVISIONER, "reclaimPolicy": "Delete", "volumeBindingMode": "WaitForFirstConsumer",
        "allowVolumeExpansion": true,
    })
}

fn volume(name: &str, claim: &Claim, class: &StorageClass, node: &Node) -> Value {
    let meta = &claim.metadata;
    let root = node.metadata.annotation(ROOT).filter(|r| r.starts_with('/')).unwrap_or(DEFAULT_ROOT);
    let path = format!("{}/{name}_{}_{}", root.trim_end_matches('/'), meta.namespace, meta.name);
    let mut spec = json!({
        "capacity": {"storage": claim.spec.resources.requests.get("storage")},
        "accessModes": claim.spec.access_modes,
        "volumeMode": "Filesystem",
        "storageClassName": claim.class(),
        "persistentVolumeReclaimPolicy": class.reclaim_policy.as_deref().unwrap_or("Delete"),
        "claimRef": {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "namespace": &*meta.namespace,
            "name": &*meta.name, "uid": meta.uid, "resourceVersion": meta.resource_version},
        "local": {"path": path},
        "nodeAffinity": {"required": {"nodeSelectorTerms": [{"matchExpressions": [
            {"key": HOSTNAME, "operator": "In", "values": [hostname_label(node)]}]}]}},
    });
    if let Some(class) = &claim.spec.volume_attributes_class_name {
        spec["volumeAttributesClassName"] = class.as_str().into();
    }
    json!({
        "apiVersion": "v1", "kind": "PersistentVolume",
        "metadata": {"name": name, "annotations": {PROVISIONED_BY: PROVISIONER}}, "spec": spec,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_volume_is_a_folder_of_the_chosen_node() {
        let claim: Claim = serde_json::from_value(json!({
            "metadata": {"namespace": "n", "name": "data", "uid": "u"},
            "spec": {"accessModes": ["ReadWriteOnce"], "storageClassName": "orkd-local",
                "resources": {"requests": {"storage": "1Gi"}}}}))
        .expect("a claim");
        let class = StorageClass { provisioner: PROVISIONER.into(), ..StorageClass::default() };
        let node: Node = serde_json::from_value(json!({"metadata": {"name": "n1",
            "labels": {HOSTNAME: "host-1"}, "annotations": {ROOT: "/data/orkd/"}}}))
        .expect("a node");
        let body = volume("pvc-u", &claim, &class, &node);
        assert_eq!(body["spec"]["local"]["path"], "/data/orkd/pvc-u_n_data");
        let volume: Volume = serde_json::from_value(body).expect("a volume");
        assert_eq!(hostname_of(&volume).as_deref(), Some("host-1"));
        assert_eq!(folder_of(&volume), Some("pvc-u_n_data"));
        assert!(volume.is_for(&claim) && volume.provisioned_by() == PROVISIONER);
        assert!(!is_over(&volume));
    }

    #[test]
    fn a_choice_is_taken_back_only_while_it_stands_and_nothing_is_bound() {
        let check = |chosen: &str, volume: &str, expected: bool| {
            let mut claim = json!({"metadata": {"annotations": {SELECTED_NODE: chosen, "a": "b"}},
                "spec": {"volumeName": volume}});
            assert_eq!(forget_node(&mut claim, "n1"), expected);
            let left = claim["metadata"]["annotations"].as_object().map_or(0, |all| all.len());
            assert_eq!(left, if expected { 1 } else { 2 });
        };
        check("n1", "", true);
        check("n2", "", false);
        check("n1", "v", false);
        assert!(!forget_node(&mut json!({"metadata": {}, "spec": {}}), "n1"));
    }
}
