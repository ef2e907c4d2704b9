//! Drivers register: their sockets are looked for, they are asked who they are, and the cluster is told.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::time::Duration;

use orkd_reconcile::{Api, ApiError, Patch, Resource};
use serde::de::IgnoredAny;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use super::proto::{Capabilities, Empty, NodeInfo, PluginInfo, RegistrationStatus, Rpc};
use super::{Driver, Drivers, Plugin};
use crate::dra;

const NODES: Resource = Resource::new("", "v1", "nodes", "Node", false);
const CSI_NODES: Resource = Resource::new("storage.k8s.io", "v1", "csinodes", "CSINode", false);
/// On a node: what drivers call it.
const NODE_IDS: &str = "csi.volume.kubernetes.io/nodeid";

/// How often a driver that could not be registered is asked again.
const AGAIN: Duration = Duration::from_secs(5);

/// The drivers of a node, of storage and of devices: both register at the same place.
#[derive(Clone, Default)]
pub struct Known {
    /// Of storage.
    pub storage: Drivers,
    /// Of devices.
    pub devices: dra::Drivers,
}

/// Keeps the drivers of a node known, until stopped: those whose sockets are in `ROOT/plugins_registry`.
pub async fn run(api: Api, node: String, root: PathBuf, drivers: Known, stop: CancellationToken) {
    let dir = root.join("plugins_registry");
    if let Err(error) = std::fs::create_dir_all(&dir).and_then(|()| std::fs::create_dir_all(root.join("plugins"))) {
        tracing::warn!(%error, "no folder for the sockets of storage drivers");
        return;
    }
    let mut changes = watch(&dir);
    let mut asked: HashMap<PathBuf, std::time::SystemTime> = HashMap::new();
    loop {
        let seen = sockets(&dir);
        let gone: Vec<PathBuf> = asked.keys().filter(|s| !seen.contains_key(*s)).cloned().collect();
        for socket in gone {
            asked.remove(&socket);
            drivers.devices.remove(&socket);
            forget(&api, &node, &drivers.storage, &socket).await;
        }
        let mut left = false;
        for (socket, made) in seen {
            if asked.get(&socket) == Some(&made) {
                continue;
            }
            match register(&api, &node, &drivers, &socket).await {
                Ok(()) => {
                    asked.insert(socket, made);
                }
                Err(error) => {
                    left = true;
                    tracing::warn!(socket = %socket.display(), error, "plugin not registered");
                }
            }
        }
        tokio::select! {
            () = stop.cancelled() => return,
            changed = changes.recv() => if changed.is_none() { return },
            () = tokio::time::sleep(AGAIN), if left => {}
        }
    }
}

/// The sockets of a folder, and when they were made: a driver that starts anew makes another.
fn sockets(dir: &Path) -> BTreeMap<PathBuf, std::time::SystemTime> {
    use std::os::unix::fs::FileTypeExt;
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    let sockets = entries.filter(|e| e.file_type().is_ok_and(|t| t.is_socket()));
    let made = |e: &std::fs::DirEntry| e.metadata().and_then(|m| m.modified()).unwrap_or(std::time::UNIX_EPOCH);
    sockets.filter(|e| !e.file_name().to_string_lossy().starts_with('.')).map(|e| (e.path(), made(&e))).collect()
}

/// Tells when something in a folder changes.
fn watch(dir: &Path) -> tokio::sync::mpsc::Receiver<()> {
    use futures_util::StreamExt;
    use inotify::{Inotify, WatchMask};
    let (sender, receiver) = tokio::sync::mpsc::channel(1);
    let watched = Inotify::init().and_then(|inotify| {
        inotify.watches().add(dir, WatchMask::CREATE | WatchMask::DELETE | WatchMask::MOVE)?;
        inotify.into_event_stream(vec![0; 4096])
    });
    tokio::spawn(async move {
        match watched {
            Ok(mut events) => {
                while !sender.is_closed() && events.next().await.is_some() {
                    // One that waits is enough.
                    let _ = sender.try_send(());
                }
            }
            Err(error) => {
                tracing::warn!(%error, "sockets of storage drivers cannot be watched, they are looked for");
                while sender.send(()).await.is_ok() {
                    tokio::time::sleep(AGAIN).await;
                }
            }
        }
    });
    receiver
}

async fn register(api: &Api, node: &str, drivers: &Known, socket: &Path) -> Result<(), String> {
    let registrar = Plugin::at(socket);
    let info: PluginInfo = registrar.call("/pluginregistration.Registration/GetInfo", Empty {}).await?;
    let outcome = match info.kind.as_str() {
        "CSIPlugin" => accept(api, node, &drivers.storage, socket, &info).await,
        "DRAPlugin" => drivers.devices.add(&info.name, socket, endpoint(&info, socket), &info.supported_versions),
        // There is nobody to hand others to.
        _ => return Ok(()),
    };
    let status = RegistrationStatus {
        plugin_registered: outcome.is_ok(),
        error: outcome.as_ref().err().cloned().unwrap_or_default(),
    };
    let told: Result<Empty, String> =
        registrar.call("/pluginregistration.Registration/NotifyRegistrationStatus", status).await;
    outcome.and(told.map(drop))
}

/// Where a plugin serves: at the socket it registered by, if it does not say.
fn endpoint<'a>(info: &'a PluginInfo, socket: &'a Path) -> &'a Path {
    match info.endpoint.trim_start_matches("unix://") {
        "" => socket,
        said => Path::new(said),
    }
}

async fn accept(api: &Api, node: &str, drivers: &Drivers, socket: &Path, info: &PluginInfo) -> Result<(), String> {
    let ours = |v: &String| v.trim_start_matches('v').split('.').next() == Some("1");
    if !info.supported_versions.iter().any(ours) {
        return Err(format!(
            "none of the CSI versions reported by this driver are supported: {:?}",
            info.supported_versions
        ));
    }
    let plugin = Plugin::at(endpoint(info, socket));
    let identity: NodeInfo = plugin.call("/csi.v1.Node/NodeGetInfo", Empty {}).await?;
    let capabilities: Capabilities = plugin.call("/csi.v1.Node/NodeGetCapabilities", Empty {}).await?;
    let can = |rpc: Rpc| capabilities.capabilities.iter().filter_map(|c| c.rpc.as_ref()).any(|c| c.kind() == rpc);
    let driver = Driver {
        plugin,
        socket: socket.to_owned(),
        stages: can(Rpc::StageUnstage),
        groups: can(Rpc::VolumeMountGroup),
        measures: can(Rpc::GetVolumeStats),
        precise: can(Rpc::SingleNodeMultiWriter),
    };
    drivers.0.write().insert(info.name.clone(), driver);
    tell(api, node, &info.name, &identity).await.map_err(|e| orkd_base::chain(&e).to_string())?;
    tracing::info!(driver = info.name, "storage driver registered");
    Ok(())
}

async fn forget(api: &Api, node: &str, drivers: &Drivers, socket: &Path) {
    let name = {
        let mut all = drivers.0.write();
        let name = all.iter().find(|(_, d)| d.socket == socket).map(|(name, _)| name.clone());
        name.inspect(|name| {
            all.remove(name);
        })
    };
    let Some(name) = name else { return };
    let removed = api.modify(&CSI_NODES.at("", node), "", |live| without(live, &name)).await;
    if let Err(error) = removed
        && !error.is_not_found()
    {
        tracing::warn!(driver = name, error = %orkd_base::chain(&error), "the cluster was not told that a driver is gone");
    }
}

/// Tells the cluster of a driver: the `CSINode`, the node's annotation, the labels of its topology.
async fn tell(api: &Api, node: &str, driver: &str, info: &NodeInfo) -> Result<(), ApiError> {
    let live: Value = api.get(&NODES.at("", node)).await?;
    let entry = entry(driver, info);
    let body = json!({
        "apiVersion": "storage.k8s.io/v1", "kind": "CSINode",
        "metadata": {"name": node, "ownerReferences": [
            {"apiVersion": "v1", "kind": "Node", "name": node, "uid": live["metadata"]["uid"]}]},
        "spec": {"drivers": [entry]},
    });
    match api.create::<IgnoredAny>(&CSI_NODES.collection(""), &body).await {
        Err(err) if err.is_already_exists() => {
            api.modify(&CSI_NODES.at("", node), "", |live| with(live, driver, &entry)).await?;
        }
        other => drop(other?),
    }
    let ids = live["metadata"]["annotations"][NODE_IDS].as_str().and_then(|t| serde_json::from_str::<Value>(t).ok());
    let mut ids = ids.filter(Value::is_object).unwrap_or_else(|| json!({}));
    ids[driver] = info.node_id.as_str().into();
    let labels = info.accessible_topology.as_ref().map(|t| &t.segments);
    let mut metadata = json!({"annotations": {NODE_IDS: ids.to_string()}});
    if let Some(labels) = labels.filter(|l| !l.is_empty()) {
        metadata["labels"] = json!(labels);
    }
    api.patch::<IgnoredAny>(&NODES.at("", node), &Patch::Strategic(json!({"metadata": metadata}))).await.map(drop)
}

/// What a `CSINode` says of a driver.
fn entry(driver: &str, info: &NodeInfo) -> Value {
    let mut keys: Vec<&String> = info.accessible_topology.iter().flat_map(|t| t.segments.keys()).collect();
    keys.sort();
    let mut entry = json!({"name": driver, "nodeID": info.node_id, "topologyKeys": keys});
    if info.max_volumes_per_node > 0 {
        entry["allocatable"] = json!({"count": info.max_volumes_per_node});
    }
    entry
}

/// Puts a driver into a `CSINode`; whether that changes it.
fn with(node: &mut Value, driver: &str, entry: &Value) -> bool {
    let mut all = node["spec"]["drivers"].as_array().cloned().unwrap_or_default();
    if all.contains(entry) {
        return false;
    }
    all.retain(|d| d["name"] != driver);
    all.push(entry.clone());
    node["spec"]["drivers"] = all.into();
    true
}

/// Takes a driver out of a `CSINode`; whether that changes it.
fn without(node: &mut Value, driver: &str) -> bool {
    let Some(all) = node["spec"]["drivers"].as_array_mut() else { return false };
    let before = all.len();
    all.retain(|d| d["name"] != driver);
    all.len() < before
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_driver_stands_once_in_the_csi_node() {
        let info = NodeInfo {
            node_id: "n-1".into(),
            max_volumes_per_node: 8,
            accessible_topology: Some(super::super::proto::Topology {
                segments: HashMap::from([("zone".to_owned(), "a".to_owned())]),
            }),
        };
        let one = entry("d", &info);
        let expected = json!({"name": "d", "nodeID": "n-1", "topologyKeys": ["zone"], "allocatable": {"count": 8}});
        assert_eq!(one, expected);
        let mut node = json!({"spec": {"drivers": [{"name": "other"}]}});
        assert!(with(&mut node, "d", &one) && !with(&mut node, "d", &one));
        let changed = entry("d", &NodeInfo { node_id: "n-2".into(), ..NodeInfo::default() });
        assert!(with(&mut node, "d", &changed));
        assert_eq!(
            node["spec"]["drivers"],
            json!([{"name": "other"}, {"name": "d", "nodeID": "n-2", "topologyKeys": []}])
        );
        assert!(without(&mut node, "d") && !without(&mut node, "d"));
    }
}
