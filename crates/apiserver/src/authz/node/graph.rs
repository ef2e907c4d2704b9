//! What each node's pods refer to (`plugin/pkg/auth/authorizer/node/{graph,graph_populator}.go`,
//! `pkg/api/v1/pod.VisitPodSecretNames`).
//!
//! References are counted, so that one pod's end does not take away what another still needs.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use serde_json::Value;

use super::super::feed::{Change, split};

/// A sort of object a node may be related to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Thing {
    /// A pod bound to the node.
    Pod,
    /// A Secret.
    Secret,
    /// A ConfigMap.
    ConfigMap,
    /// A ServiceAccount.
    ServiceAccount,
    /// A PersistentVolumeClaim.
    Claim,
    /// A PersistentVolume.
    Volume,
    /// A VolumeAttachment.
    Attachment,
    /// A ResourceClaim.
    ResourceClaim,
    /// A ResourceSlice.
    Slice,
}

type Reference = (Thing, String, String);

struct PodRefs {
    node: String,
    refs: HashSet<Reference>,
}

/// What a volume leads to: the claim it is bound to and the secrets its driver wants.
struct VolumeRefs {
    claim: (String, String),
    secrets: Vec<(String, String)>,
}

/// The relations.
#[derive(Default)]
pub struct Graph {
    pods: HashMap<Arc<str>, PodRefs>,
    counts: HashMap<String, HashMap<Reference, usize>>,
    volumes: HashMap<Arc<str>, VolumeRefs>,
    attachments: HashMap<Arc<str>, String>,
    slices: HashMap<Arc<str>, String>,
}

impl Graph {
    /// Takes in a change of a pod.
    pub fn pod(&mut self, change: Change) {
        match change {
            Change::Reset => {
                self.pods.clear();
                self.counts.clear();
            }
            Change::Put(key, json) => {
                self.forget_pod(&key);
                let Ok(pod) = serde_json::from_slice::<Value>(&json) else { return };
                let node = text(&pod["spec"]["nodeName"]);
                if node.is_empty() {
                    return;
                }
                let (namespace, name) = split(&key);
                let refs = pod_refs(&pod, namespace, name);
                let counts = self.counts.entry(node.clone()).or_default();
                for reference in &refs {
                    *counts.entry(reference.clone()).or_default() += 1;
                }
                self.pods.insert(key, PodRefs { node, refs });
            }
            Change::Delete(key) => self.forget_pod(&key),
        }
    }

    fn forget_pod(&mut self, key: &str) {
        let Some(old) = self.pods.remove(key) else { return };
        let Some(counts) = self.counts.get_mut(&old.node) else { return };
        for reference in old.refs {
            if let Some(count) = counts.get_mut(&reference) {
                *count -= 1;
                if *count == 0 {
                    counts.remove(&reference);
                }
            }
        }
        if counts.is_empty() {
            self.counts.remove(&old.node);
        }
    }

    /// Takes in a change of a persistent volume.
    pub fn volume(&mut self, change: Change) {
        match change {
            Change::Reset => self.volumes.clear(),
            Change::Delete(key) => drop(self.volumes.remove(&key)),
            Change::Put(key, json) => {
                let Ok(volume) = serde_json::from_slice::<Value>(&json) else { return };
                let spec = &volume["spec"];
                let claim = (text(&spec["claimRef"]["namespace"]), text(&spec["claimRef"]["name"]));
                self.volumes.insert(key, VolumeRefs { secrets: volume_secrets(spec, &claim.0), claim });
            }
        }
    }

    /// Takes in a change of a volume attachment.
    pub fn attachment(&mut self, change: Change) {
        match change {
            Change::Reset => self.attachments.clear(),
            Change::Delete(key) => drop(self.attachments.remove(&key)),
            Change::Put(key, json) => {
                let Ok(attachment) = serde_json::from_slice::<Value>(&json) else { return };
                self.attachments.insert(key, text(&attachment["spec"]["nodeName"]));
            }
        }
    }

    /// Takes in a change of a resource slice.
    pub fn slice(&mut self, change: Change) {
        match change {
            Change::Reset => self.slices.clear(),
            Change::Delete(key) => drop(self.slices.remove(&key)),
            Change::Put(key, json) => {
                let Ok(slice) = serde_json::from_slice::<Value>(&json) else { return };
                self.slices.insert(key, text(&slice["spec"]["nodeName"]));
            }
        }
    }

    /// Whether an object is related to a node.
    pub fn reaches(&self, node: &str, thing: Thing, namespace: &str, name: &str) -> bool {
        let direct = |thing: Thing, namespace: &str, name: &str| {
            let wanted = (thing, namespace.to_owned(), name.to_owned());
            self.counts.get(node).is_some_and(|counts| counts.contains_key(&wanted))
        };
        let claimed = |v: &VolumeRefs| direct(Thing::Claim, &v.claim.0, &v.claim.1);
        match thing {
            Thing::Volume => self.volumes.get(name).is_some_and(claimed),
            Thing::Slice => self.slices.get(name).is_some_and(|n| n == node),
            Thing::Attachment => self.attachments.get(name).is_some_and(|n| n == node),
            Thing::Secret if direct(Thing::Secret, namespace, name) => true,
            Thing::Secret => {
                let wants = |v: &&VolumeRefs| v.secrets.iter().any(|(ns, n)| ns == namespace && n == name);
                self.volumes.values().filter(wants).any(claimed)
            }
            _ => direct(thing, namespace, name),
        }
    }
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

fn items(value: &Value) -> &[Value] {
    value.as_array().map(Vec::as_slice).unwrap_or_default()
}

/// Whether a pod reads a secret.
pub fn names_secret(pod: &Value) -> bool {
    let mut found = false;
    visit(&pod["spec"], "", &mut |thing, name| {
        found |= thing == Thing::Secret && name.as_str().is_some_and(|n| !n.is_empty());
    });
    found
}

/// Calls `add` with the secrets, config maps and claims that a pod of this name reads; names may be empty.
fn visit(spec: &Value, name: &str, add: &mut dyn FnMut(Thing, &Value)) {
    for secret in items(&spec["imagePullSecrets"]) {
        add(Thing::Secret, &secret["name"]);
    }
    for list in ["containers", "initContainers", "ephemeralContainers"] {
        for container in items(&spec[list]) {
            for from in items(&container["envFrom"]) {
                add(Thing::Secret, &from["secretRef"]["name"]);
                add(Thing::ConfigMap, &from["configMapRef"]["name"]);
            }
            for env in items(&container["env"]) {
                add(Thing::Secret, &env["valueFrom"]["secretKeyRef"]["name"]);
                add(Thing::ConfigMap, &env["valueFrom"]["configMapKeyRef"]["name"]);
            }
        }
    }
    for volume in items(&spec["volumes"]) {
        add(Thing::Secret, &volume["secret"]["secretName"]);
        add(Thing::ConfigMap, &volume["configMap"]["name"]);
        add(Thing::Claim, &volume["persistentVolumeClaim"]["claimName"]);
        add(Thing::Secret, &volume["azureFile"]["secretName"]);
        add(Thing::Secret, &volume["csi"]["nodePublishSecretRef"]["name"]);
        for driver in ["cephfs", "cinder", "flexVolume", "rbd", "scaleIO", "iscsi", "storageos"] {
            add(Thing::Secret, &volume[driver]["secretRef"]["name"]);
        }
        if volume.get("ephemeral").is_some_and(|e| !e.is_null()) {
            let claim = format!("{name}-{}", volume["name"].as_str().unwrap_or_default());
            add(Thing::Claim, &Value::String(claim));
        }
        for source in items(&volume["projected"]["sources"]) {
            add(Thing::Secret, &source["secret"]["name"]);
            add(Thing::ConfigMap, &source["configMap"]["name"]);
        }
    }
}

fn pod_refs(pod: &Value, namespace: &str, name: &str) -> HashSet<Reference> {
    let mut refs = HashSet::new();
    let mut add = |thing: Thing, name: &Value| {
        if let Some(name) = name.as_str().filter(|n| !n.is_empty()) {
            refs.insert((thing, namespace.to_owned(), name.to_owned()));
        }
    };
    add(Thing::Pod, &Value::String(name.to_owned()));
    // A mirror pod stands for what runs already from a file: it opens nothing.
    if pod["metadata"]["annotations"].get("kubernetes.io/config.mirror").is_some() {
        return refs;
    }
    let spec = &pod["spec"];
    add(Thing::ServiceAccount, &spec["serviceAccountName"]);
    visit(spec, name, &mut add);
    let made = |name: &Value| {
        let statuses = items(&pod["status"]["resourceClaimStatuses"]);
        statuses.iter().find(|s| s["name"] == *name).map_or(&Value::Null, |s| &s["resourceClaimName"])
    };
    for claim in items(&spec["resourceClaims"]) {
        add(Thing::ResourceClaim, &claim["resourceClaimName"]);
        // The name of a claim made from a template stands in the status.
        add(Thing::ResourceClaim, made(&claim["name"]));
    }
    add(Thing::ResourceClaim, &pod["status"]["extendedResourceClaimStatus"]["resourceClaimName"]);
    refs
}

/// Secrets that a volume's driver wants on the node (`pkg/api/v1/persistentvolume.VisitPVSecretNames`).
fn volume_secrets(spec: &Value, claim_namespace: &str) -> Vec<(String, String)> {
    let mut secrets = Vec::new();
    let mut add = |namespace: &Value, name: &Value| {
        if let Some(name) = name.as_str().filter(|n| !n.is_empty()) {
            let namespace = namespace.as_str().filter(|n| !n.is_empty()).unwrap_or(claim_namespace);
            secrets.push((namespace.to_owned(), name.to_owned()));
        }
    };
    let azure = &spec["azureFile"];
    add(&azure["secretNamespace"], &azure["secretName"]);
    for driver in ["cephfs", "cinder", "flexVolume", "rbd", "scaleIO", "iscsi", "storageos"] {
        let secret = &spec[driver]["secretRef"];
        add(&secret["namespace"], &secret["name"]);
    }
    for reference in ["nodePublishSecretRef", "nodeStageSecretRef", "nodeExpandSecretRef"] {
        let secret = &spec["csi"][reference];
        add(&secret["namespace"], &secret["name"]);
    }
    secrets
}
