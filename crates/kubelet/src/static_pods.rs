//! Static pods: manifests in a folder of this node, run without the API, and shown in it by mirror pods. Follows
//! upstream `pkg/kubelet/config/file.go`, `common.go` and `pkg/kubelet/pod/mirror_client.go`.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use inotify::{Inotify, WatchMask};
use k8s_openapi::api::core::v1::{Pod, Toleration};
use k8s_openapi::jiff::Timestamp;
use orkd_api::codec::Strictness;
use orkd_api::codec::yaml;
use orkd_reconcile::{Api, DeleteOptions, Resource};
use serde_json::json;
use sha2::{Digest, Sha256};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::pod::{self, keys};

const PODS: Resource = Resource::new("", "v1", "pods", "Pod", true);
const NODES: Resource = Resource::new("", "v1", "nodes", "Node", false);
/// A larger manifest is not read.
const MAX_MANIFEST: u64 = 10 << 20;

/// A change of the manifests: the pod, and whether it is gone.
pub type Change = (Arc<Pod>, bool);

/// The static pod a manifest describes (pure).
pub fn parse(text: &[u8], path: &str, node_name: &str) -> Result<Pod, String> {
    let (mut value, _) = yaml::decode_untyped(text, Strictness::Ignore).map_err(|e| e.to_string())?;
    if value.get("kind").and_then(|k| k.as_str()) != Some("Pod") {
        return Err("it is no Pod".to_owned());
    }
    if let Some(map) = value.as_object_mut() {
        map.remove("status");
    }
    let mut pod: Pod = serde_json::from_value(value).map_err(|e| e.to_string())?;
    let name = pod.metadata.name.clone().filter(|n| !n.is_empty()).ok_or("its pod has no name")?;
    let mut hash = Sha256::new();
    hash.update(text);
    hash.update(node_name);
    hash.update(path);
    let hash = hex::encode(hash.finalize()).get(..32).unwrap_or_default().to_owned();
    pod.metadata.name = Some(format!("{name}-{}", node_name.to_lowercase()));
    pod.metadata.namespace.get_or_insert_with(|| "default".to_owned());
    pod.metadata.uid = Some(pod.metadata.uid.filter(|u| !u.is_empty()).unwrap_or_else(|| hash.clone()));
    let annotations = pod.metadata.annotations.get_or_insert_with(BTreeMap::new);
    annotations.insert(keys::CONFIG_HASH.to_owned(), hash);
    annotations.insert(keys::SOURCE.to_owned(), "file".to_owned());
    let spec = pod.spec.as_mut().ok_or("its pod has no spec")?;
    if spec.containers.is_empty() {
        return Err("its pod has no containers".to_owned());
    }
    if spec.service_account_name.as_deref().is_some_and(|s| !s.is_empty()) {
        return Err("a static pod may not name a service account".to_owned());
    }
    spec.node_name = Some(node_name.to_owned());
    // Nothing evicts what the API does not control.
    spec.tolerations.get_or_insert_default().push(Toleration {
        operator: Some("Exists".to_owned()),
        effect: Some("NoExecute".to_owned()),
        ..Toleration::default()
    });
    Ok(pod)
}

/// Reads all manifests of a folder; those that cannot be read are told of and left out.
fn read(dir: &Path, node_name: &str) -> HashMap<String, Arc<Pod>> {
    let mut out = HashMap::new();
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        let path = entry.path();
        let hidden = entry.file_name().to_string_lossy().starts_with('.');
        let Ok(metadata) = fs::metadata(&path) else { continue };
        if hidden || !metadata.is_file() || metadata.len() > MAX_MANIFEST {
            continue;
        }
        let made = fs::read(&path)
            .map_err(|e| e.to_string())
            .and_then(|text| parse(&text, &path.to_string_lossy(), node_name));
        match made {
            Ok(mut pod) => {
                let seen = Timestamp::now().to_string();
                pod.metadata.annotations.get_or_insert_default().insert(keys::SEEN.to_owned(), seen);
                out.insert(pod::uid(&pod).to_owned(), Arc::new(pod));
            }
            Err(error) => tracing::warn!(path = %path.display(), error, "manifest of a static pod not taken"),
        }
    }
    out
}

/// Tells of the static pods of a folder, and of changes, until cancelled.
pub async fn watch(dir: PathBuf, node_name: String, changes: mpsc::UnboundedSender<Change>, cancel: CancellationToken) {
    let mask = WatchMask::CLOSE_WRITE | WatchMask::MOVE | WatchMask::DELETE | WatchMask::CREATE;
    let mut known: HashMap<String, Arc<Pod>> = HashMap::new();
    loop {
        // The watch first, so that nothing is missed between the look and the wait.
        let events = Inotify::init().and_then(|i| {
            i.watches().add(&dir, mask)?;
            i.into_event_stream(vec![0; 4096])
        });
        let now = read(&dir, &node_name);
        for (uid, pod) in &known {
            if !now.contains_key(uid) {
                let _ = changes.send((pod.clone(), true));
            }
        }
        for (uid, pod) in &now {
            if !known.contains_key(uid) {
                let _ = changes.send((pod.clone(), false));
            }
        }
        known = now;
        let changed = async {
            match events {
                Ok(mut events) => {
                    let _ = events.next().await;
                    // Editors write in several steps.
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
                // The folder is not there yet.
                Err(_) => tokio::time::sleep(Duration::from_secs(20)).await,
            }
        };
        tokio::select! {
            () = cancel.cancelled() => return,
            () = changed => {}
        }
    }
}

/// Makes the mirror pods those of the static pods: missing ones are created, foreign ones deleted. Returns false if that
/// has to be tried again.
pub async fn sync_mirrors(api: &Api, node_name: &str, statics: &[Arc<Pod>], mirrors: &[Arc<Pod>]) -> bool {
    let mut done = true;
    let name_of = |p: &Pod| (pod::namespace(p).to_owned(), pod::name(p).to_owned());
    let hash_of = |p: &Pod| pod::annotation(p, keys::CONFIG_HASH).map(str::to_owned);
    let wanted: HashMap<_, _> = statics.iter().map(|p| (name_of(p), p)).collect();
    let mut present = HashSet::new();
    for mirror in mirrors {
        let same = wanted.get(&name_of(mirror)).is_some_and(|p| {
            hash_of(p).as_deref() == pod::annotation(mirror, keys::MIRROR)
                && mirror.metadata.deletion_timestamp.is_none()
        });
        present.insert(name_of(mirror));
        if !same {
            let target = PODS.at(pod::namespace(mirror), pod::name(mirror));
            let options = DeleteOptions::default().grace(0).uid(pod::uid(mirror));
            if let Err(error) = api.delete(&target, &options).await
                && !error.is_not_found()
            {
                tracing::warn!(error = orkd_base::chain(&error).to_string(), "mirror pod not deleted");
                done = false;
            }
        }
    }
    let missing: Vec<_> = wanted.iter().filter(|(name, _)| !present.contains(*name)).collect();
    if missing.is_empty() {
        return done;
    }
    // A mirror belongs to its node; admission insists on it.
    let node = api.get::<serde_json::Value>(&NODES.at("", node_name)).await;
    let Ok(node) = node else { return false };
    let owner = json!([{"apiVersion": "v1", "kind": "Node", "name": node_name,
                        "uid": node.pointer("/metadata/uid"), "controller": true}]);
    for (name, pod) in missing {
        let mut mirror = (***pod).clone();
        mirror.metadata.uid = None;
        let hash = hash_of(pod).unwrap_or_default();
        mirror.metadata.annotations.get_or_insert_default().insert(keys::MIRROR.to_owned(), hash);
        let mut body = serde_json::to_value(&mirror).unwrap_or_default();
        if let Some(map) = body.as_object_mut() {
            map.insert("apiVersion".to_owned(), json!("v1"));
            map.insert("kind".to_owned(), json!("Pod"));
        }
        if let Some(metadata) = body.get_mut("metadata").and_then(|m| m.as_object_mut()) {
            metadata.insert("ownerReferences".to_owned(), owner.clone());
        }
        let made = api.create::<serde::de::IgnoredAny>(&PODS.collection(&name.0), &body).await;
        if let Err(error) = made
            && !error.is_already_exists()
        {
            tracing::warn!(error = orkd_base::chain(&error).to_string(), "mirror pod not created");
            done = false;
        }
    }
    done
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn manifests_become_static_pods() {
        let text = b"apiVersion: v1\nkind: Pod\nmetadata: {name: web}\nspec:\n  containers: [{name: a, image: x}]\n";
        let pod = parse(text, "/m/web.yaml", "Node-1").unwrap_or_default();
        assert_eq!((pod::name(&pod), pod::namespace(&pod)), ("web-node-1", "default"));
        assert_eq!(pod::uid(&pod).len(), 32);
        assert!(pod::is_static(&pod) && !pod::is_mirror(&pod));
        let check = |text: &str, expected: &str| {
            assert_eq!(parse(text.as_bytes(), "p", "n").err().as_deref(), Some(expected), "{text}");
        };
        check("kind: Service\nmetadata: {name: x}\n", "it is no Pod");
        check("kind: Pod\napiVersion: v1\nmetadata: {}\nspec: {containers: []}\n", "its pod has no name");
        check("kind: Pod\napiVersion: v1\nmetadata: {name: a}\nspec: {containers: []}\n", "its pod has no containers");
    }
}
