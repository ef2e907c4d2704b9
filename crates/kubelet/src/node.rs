//! The Node object: registration, status, heartbeat lease. Follows upstream `pkg/kubelet/kubelet_node_status.go` and
//! `pkg/kubelet/nodestatus/setters.go`.
//!
//! The lease is renewed every 10 s; the status is sent when it changed, and every 5 min otherwise.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::Node;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::jiff::Timestamp;
use orkd_cri::{Runtime, v1};
use orkd_reconcile::{Api, ApiError, Event, Informer, Patch, Recorder, Resource, micro_time, time};
use serde_json::{Map, Value, json};
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::eviction::pressure::Condition as Pressure;
use crate::eviction::thresholds::Signal;
use crate::views::NodeView;
use crate::{eviction, node_events};

const NODES: Resource = Resource::new("", "v1", "nodes", "Node", false);
const LEASES: Resource = Resource::new("coordination.k8s.io", "v1", "leases", "Lease", true);

/// How often the lease is renewed.
const RENEW: Duration = Duration::from_secs(10);
/// How long the lease is believed.
const LEASE_SECONDS: i64 = 40;
/// How often the status is sent if nothing changed.
const REPORT: Duration = Duration::from_secs(300);
/// The most images a status names.
const MAX_IMAGES: usize = 50;

/// What the node says of itself.
#[derive(Debug, Clone, Default)]
pub struct NodeSettings {
    /// Its name.
    pub name: String,
    /// Its addresses.
    pub ips: Vec<IpAddr>,
    /// Labels it registers with, besides the usual ones.
    pub labels: BTreeMap<String, String>,
    /// Taints it registers with.
    pub taints: Vec<Value>,
    /// The most pods.
    pub max_pods: u32,
    /// The port of its server.
    pub port: u16,
    /// Its name as the operating system has it.
    pub hostname: String,
    /// Below which folder the volumes are that it provisions; empty if it provisions none.
    pub storage: String,
    /// How it defends itself, and so what it keeps back from pods. Nothing is short on a hollow node.
    pub eviction: eviction::Settings,
}

impl NodeSettings {
    /// What pods may have of a machine.
    pub fn allocatable(&self, capacity: Capacity) -> Capacity {
        let kept = |signal, all: u64| all - self.eviction.reserved(signal, all);
        Capacity {
            cpus: capacity.cpus,
            memory: kept(Signal::Memory, capacity.memory),
            storage: kept(Signal::NodeFs, capacity.storage),
        }
    }
}

/// What the machine has.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Capacity {
    /// Cores.
    pub cpus: u64,
    /// Bytes of memory.
    pub memory: u64,
    /// Bytes of disk below the kubelet's folder.
    pub storage: u64,
}

/// Asks the machine.
pub fn capacity(root: &std::path::Path) -> Capacity {
    let cpus = std::thread::available_parallelism().map_or(1, |n| n.get() as u64);
    let meminfo = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let kilobytes = meminfo
        .lines()
        .find_map(|l| l.strip_prefix("MemTotal:"))
        .and_then(|l| l.split_whitespace().next()?.parse::<u64>().ok())
        .unwrap_or_default();
    let storage = rustix::fs::statvfs(root).map_or(0, |s| s.f_blocks * s.f_frsize);
    Capacity { cpus, memory: kilobytes * 1024, storage }
}

fn read_trimmed(path: &str) -> String {
    std::fs::read_to_string(path).unwrap_or_default().trim().to_owned()
}

fn os_image() -> String {
    let text = std::fs::read_to_string("/etc/os-release").unwrap_or_default();
    let name = text.lines().find_map(|l| l.strip_prefix("PRETTY_NAME="));
    name.map_or_else(|| "Unknown".to_owned(), |n| n.trim_matches('"').to_owned())
}

fn arch() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

/// The labels every node has.
fn labels(settings: &NodeSettings) -> BTreeMap<String, String> {
    let mut out = settings.labels.clone();
    for key in ["kubernetes.io/arch", "beta.kubernetes.io/arch"] {
        out.insert(key.to_owned(), arch().to_owned());
    }
    for key in ["kubernetes.io/os", "beta.kubernetes.io/os"] {
        out.insert(key.to_owned(), "linux".to_owned());
    }
    out.insert("kubernetes.io/hostname".to_owned(), settings.name.clone());
    out
}

/// What the status depends on, as last seen.
#[derive(Debug, Clone, Default)]
pub struct Seen {
    /// What the machine has.
    pub capacity: Capacity,
    /// Name and version of the runtime.
    pub runtime_version: String,
    /// Why the runtime or its network is not ready.
    pub not_ready: Option<String>,
    /// Images: names and size.
    pub images: Vec<(Vec<String>, u64)>,
    /// Volumes of storage drivers that are mounted.
    pub volumes_in_use: Vec<String>,
    /// What is short.
    pub pressures: Vec<Pressure>,
    /// Extended resources that somebody else gave the node, and how much of them can be allocated; `None` for those that
    /// are to go.
    pub extended: BTreeMap<String, Option<String>>,
}

/// Whether a resource is one that a cluster made up (`IsExtendedResourceName`).
fn is_extended(name: &str) -> bool {
    name.contains('/') && !name.contains("kubernetes.io/") && !name.starts_with("requests.")
}

/// What follows from the capacity that a node's object says it has: extended resources are put there by administrators, and
/// all of them can be allocated (`MachineInfo` of `pkg/kubelet/nodestatus/setters.go`).
fn extended(node: &Node) -> BTreeMap<String, Option<String>> {
    let resources = |said: Option<&BTreeMap<String, Quantity>>| {
        let all = said.into_iter().flatten().filter(|(name, _)| is_extended(name));
        all.map(|(name, amount)| (name.clone(), amount.0.clone())).collect::<BTreeMap<_, _>>()
    };
    let status = node.status.as_ref();
    let gone = resources(status.and_then(|s| s.allocatable.as_ref())).into_keys().map(|name| (name, None));
    let there = resources(status.and_then(|s| s.capacity.as_ref()));
    gone.chain(there.into_iter().map(|(name, amount)| (name, Some(amount)))).collect()
}

/// Whether what can be allocated of extended resources is not what there is.
fn lacks(node: &Node) -> bool {
    let allocatable = node.status.as_ref().and_then(|s| s.allocatable.as_ref());
    let said = |name: &String| allocatable.and_then(|all| all.get(name)).map(|amount| &amount.0);
    extended(node).iter().any(|(name, amount)| said(name) != amount.as_ref())
}

/// The status (pure), without times.
pub fn status(settings: &NodeSettings, seen: &Seen) -> Value {
    let c = seen.capacity;
    let resources = |c: Capacity, storage: String| {
        json!({
            "cpu": c.cpus.to_string(), "memory": format!("{}Ki", c.memory / 1024),
            "pods": settings.max_pods.to_string(), "ephemeral-storage": storage,
            "hugepages-1Gi": "0", "hugepages-2Mi": "0",
        })
    };
    let allocatable = settings.allocatable(c);
    let mut addresses: Vec<Value> =
        settings.ips.iter().map(|ip| json!({"type": "InternalIP", "address": ip.to_string()})).collect();
    addresses.push(json!({"type": "Hostname", "address": settings.hostname}));
    let images: Vec<Value> =
        seen.images.iter().take(MAX_IMAGES).map(|(names, size)| json!({"names": names, "sizeBytes": size})).collect();
    let condition = |kind: &str, status: bool, reason: &str, message: &str| json!({"type": kind, "status": if status { "True" } else { "False" }, "reason": reason, "message": message});
    let pressure = |short: Pressure| {
        let is = seen.pressures.contains(&short);
        let (reason, message) = match (short, is) {
            (Pressure::Memory, true) => ("KubeletHasInsufficientMemory", "kubelet has insufficient memory available"),
            (Pressure::Memory, false) => ("KubeletHasSufficientMemory", "kubelet has sufficient memory available"),
            (Pressure::Disk, true) => ("KubeletHasDiskPressure", "kubelet has disk pressure"),
            (Pressure::Disk, false) => ("KubeletHasNoDiskPressure", "kubelet has no disk pressure"),
            (Pressure::Pid, true) => ("KubeletHasInsufficientPID", "kubelet has insufficient PID available"),
            (Pressure::Pid, false) => ("KubeletHasSufficientPID", "kubelet has sufficient PID available"),
        };
        condition(short.name(), is, reason, message)
    };
    let ready = match &seen.not_ready {
        None => condition("Ready", true, "KubeletReady", "kubelet is posting ready status"),
        Some(why) => condition("Ready", false, "KubeletNotReady", why),
    };
    let mut status = json!({
        "capacity": resources(c, format!("{}Ki", c.storage / 1024)),
        "allocatable": resources(allocatable, allocatable.storage.to_string()),
        "addresses": addresses,
        "daemonEndpoints": {"kubeletEndpoint": {"Port": settings.port}},
        "nodeInfo": {
            "machineID": read_trimmed("/etc/machine-id"),
            "systemUUID": read_trimmed("/sys/class/dmi/id/product_uuid"),
            "bootID": read_trimmed("/proc/sys/kernel/random/boot_id"),
            "kernelVersion": read_trimmed("/proc/sys/kernel/osrelease"),
            "osImage": os_image(),
            "containerRuntimeVersion": seen.runtime_version,
            "kubeletVersion": "v1.36.0",
            "kubeProxyVersion": "",
            "operatingSystem": "linux",
            "architecture": arch(),
        },
        "images": images,
        "conditions": [
            pressure(Pressure::Memory),
            pressure(Pressure::Disk),
            pressure(Pressure::Pid),
            ready,
        ],
    });
    for (name, amount) in &seen.extended {
        status["allocatable"][name] = json!(amount);
    }
    if !seen.volumes_in_use.is_empty() {
        status["volumesInUse"] = json!(seen.volumes_in_use);
    }
    status
}

/// Why a runtime is not ready, from its conditions; the text is upstream's.
pub fn not_ready(status: &v1::StatusResponse) -> Option<String> {
    let conditions = status.status.as_ref().map(|s| s.conditions.as_slice()).unwrap_or_default();
    let bad = |kind: &str| {
        let found = conditions.iter().find(|c| c.r#type == kind);
        match found {
            Some(c) if c.status => None,
            Some(c) => Some(format!("{kind}=false reason:{} message:{}", c.reason, c.message)),
            None => Some(format!("{kind}=false reason: message:")),
        }
    };
    if let Some(why) = bad("RuntimeReady") {
        return Some(format!("container runtime not ready: {why}"));
    }
    bad("NetworkReady").map(|why| format!("container runtime network not ready: {why}"))
}

/// Looks at the runtime.
pub async fn look(runtime: &Arc<dyn Runtime>, root: &std::path::Path, with_images: bool) -> Seen {
    let volumes_in_use = crate::csi::in_use(root);
    let mut seen = Seen { capacity: capacity(root), volumes_in_use, ..Seen::default() };
    match runtime.version().await {
        Ok(v) => seen.runtime_version = format!("{}://{}", v.runtime_name, v.runtime_version),
        Err(error) => {
            seen.not_ready = Some(format!("container runtime is down: {error}"));
            return seen;
        }
    }
    seen.not_ready = match runtime.status().await {
        Ok(status) => not_ready(&status),
        Err(error) => Some(format!("container runtime status check may not have completed yet: {error}")),
    };
    if with_images && let Ok(images) = runtime.list_images().await {
        seen.images = images
            .into_iter()
            .map(|i| (i.repo_digests.into_iter().chain(i.repo_tags).take(5).collect::<Vec<_>>(), i.size))
            .filter(|(names, _)| !names.is_empty())
            .collect();
        seen.images.sort_by(|a, b| b.1.cmp(&a.1).then_with(|| a.0.cmp(&b.0)));
    }
    seen
}

/// Puts the times into conditions: those of the same type and status are kept from `old`.
fn with_times(mut status: Value, old: &Value, now: Timestamp) -> Value {
    let before = old.get("conditions").and_then(Value::as_array).cloned().unwrap_or_default();
    for c in status.get_mut("conditions").and_then(Value::as_array_mut).into_iter().flatten() {
        let same = before.iter().find(|o| o.get("type") == c.get("type") && o.get("status") == c.get("status"));
        let since = same.and_then(|o| o.get("lastTransitionTime")).cloned();
        let stamp = json!(time(now));
        if let Some(map) = c.as_object_mut() {
            map.insert("lastTransitionTime".to_owned(), since.unwrap_or_else(|| stamp.clone()));
            map.insert("lastHeartbeatTime".to_owned(), stamp);
        }
    }
    status
}

/// Registers the node: creates it, or brings the labels of an existing one up to date. The node, and whether it is new.
async fn register(api: &Api, settings: &NodeSettings, status: &Value) -> Result<(Value, bool), ApiError> {
    let mut metadata = Map::new();
    metadata.insert("name".to_owned(), json!(settings.name));
    metadata.insert("labels".to_owned(), json!(labels(settings)));
    let mut annotations = json!({"volumes.kubernetes.io/controller-managed-attach-detach": "true"});
    if !settings.storage.is_empty() {
        annotations["orkd.io/local-path"] = settings.storage.as_str().into();
    }
    metadata.insert("annotations".to_owned(), annotations.clone());
    let mut spec = Map::new();
    if !settings.taints.is_empty() {
        spec.insert("taints".to_owned(), json!(settings.taints));
    }
    let now = Timestamp::now();
    let body = json!({
        "apiVersion": "v1", "kind": "Node", "metadata": metadata, "spec": spec,
        "status": with_times(status.clone(), &Value::Null, now),
    });
    match api.create::<Value>(&NODES.collection(""), &body).await {
        Ok(node) => Ok((node, true)),
        Err(e) if e.is_already_exists() => {
            let metadata = json!({"labels": labels(settings), "annotations": annotations});
            let patch = Patch::Strategic(json!({"metadata": metadata}));
            Ok((api.patch::<Value>(&NODES.at("", &settings.name), &patch).await?, false))
        }
        Err(e) => Err(e),
    }
}

async fn renew(api: &Api, settings: &NodeSettings, node_uid: &str) -> Result<(), ApiError> {
    let target = LEASES.at("kube-node-lease", &settings.name);
    let spec = json!({
        "holderIdentity": settings.name, "leaseDurationSeconds": LEASE_SECONDS,
        "renewTime": micro_time(Timestamp::now()),
    });
    match api.patch::<serde::de::IgnoredAny>(&target, &Patch::Merge(json!({"spec": spec}))).await {
        Err(e) if e.is_not_found() => {}
        other => return other.map(drop),
    }
    let body = json!({
        "apiVersion": "coordination.k8s.io/v1", "kind": "Lease",
        "metadata": {
            "name": settings.name, "namespace": "kube-node-lease",
            "ownerReferences": [{"apiVersion": "v1", "kind": "Node", "name": settings.name, "uid": node_uid}],
        },
        "spec": spec,
    });
    api.create::<serde::de::IgnoredAny>(&LEASES.collection("kube-node-lease"), &body).await.map(drop)
}

/// Whether the API has another status of a condition than it was told: the node lifecycle controller has given up on
/// a node whose leases did not get through, or a condition was overwritten.
fn contradicts(told: &Value, node: &Node) -> bool {
    let conditions = node.status.as_ref().and_then(|s| s.conditions.as_deref()).unwrap_or_default();
    let told = told.get("conditions").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    told.iter().any(|t| {
        let there = conditions.iter().find(|c| t["type"] == c.type_.as_str());
        there.is_none_or(|c| t["status"] != c.status.as_str())
    })
}

/// Waits until something of the node's object asks for an answer: a condition that is not what was `told`, extended resources
/// that were put there or taken away. Tells in an event when the node is cordoned.
async fn asked(
    changes: &mut tokio::sync::mpsc::UnboundedReceiver<Event<NodeView>>,
    told: Option<&Value>,
    tell: &impl Fn(Vec<node_events::Told>),
    name: &str,
) {
    while let Some(change) = changes.recv().await {
        let Event::Updated { old, new } = &change else { continue };
        let cordoned = |n: &NodeView| n.object.spec.as_ref().and_then(|s| s.unschedulable).unwrap_or_default();
        if cordoned(old) != cordoned(new) {
            tell(vec![node_events::schedulable(name, cordoned(new))]);
        }
        if lacks(&new.object) || told.is_some_and(|told| contradicts(told, &new.object)) {
            return;
        }
    }
    std::future::pending().await
}

/// What the status is made of.
pub struct Sources {
    /// The runtime.
    pub runtime: Arc<dyn Runtime>,
    /// The kubelet's folder.
    pub root: std::path::PathBuf,
    /// The node's object.
    pub own: Informer<NodeView>,
    /// What is short.
    pub pressures: watch::Receiver<Vec<Pressure>>,
}

/// Keeps the node registered, its lease fresh and its status true, until cancelled.
pub async fn run(api: Api, settings: NodeSettings, sources: Sources, recorder: Recorder, cancel: CancellationToken) {
    let Sources { runtime, root, own, mut pressures } = sources;
    let about = node_events::reference(&settings.name);
    let tell = |events: Vec<node_events::Told>| {
        for (kind, reason, message) in events {
            recorder.event(&about, kind, reason, message);
        }
    };
    recorder.normal(&about, "Starting", "Starting kubelet.");
    let mut changes = own.channel();
    let mut backoff = orkd_base::Backoff::new(Duration::from_millis(100), Duration::from_secs(7));
    let (mut sent, new) = loop {
        let seen = look(&runtime, &root, true).await;
        match register(&api, &settings, &status(&settings, &seen)).await {
            Ok(registered) => {
                tracing::info!(node = settings.name, "node registered");
                break registered;
            }
            Err(error) => {
                tracing::warn!(error = orkd_base::chain(&error).to_string(), "node not registered yet");
                tokio::select! {
                    () = cancel.cancelled() => return,
                    () = tokio::time::sleep(backoff.next_delay()) => {}
                }
            }
        }
    };
    let uid = sent.pointer("/metadata/uid").and_then(Value::as_str).unwrap_or_default().to_owned();
    let mut old = sent.get_mut("status").map(Value::take).unwrap_or_default();
    if new {
        tell(node_events::changes(&settings.name, &Value::Null, &old));
    }
    let mut told: Option<Value> = None;
    let (mut reported, mut renewed, mut images_at) = (Instant::now(), None::<Instant>, None::<Instant>);
    let mut images = Vec::new();
    loop {
        let with_images = images_at.is_none_or(|at| at.elapsed() > Duration::from_secs(60));
        let mut seen = look(&runtime, &root, with_images).await;
        if with_images {
            images.clone_from(&seen.images);
            images_at = Some(Instant::now());
        } else {
            seen.images.clone_from(&images);
        }
        seen.pressures.clone_from(&pressures.borrow_and_update());
        seen.extended = own.get_named("", &settings.name).map(|node| extended(&node.object)).unwrap_or_default();
        let ready = seen.not_ready.is_none();
        let now_status = status(&settings, &seen);
        let there = own.get_named("", &settings.name).filter(|_| told.is_some());
        if let Some(node) = there.filter(|node| contradicts(&now_status, &node.object)) {
            // The times since when conditions are as they are start anew, and what is told too.
            old = json!(node.object.status);
            told = None;
        }
        if told.as_ref() != Some(&now_status) || reported.elapsed() > REPORT {
            let mut stamped = with_times(now_status.clone(), &old, Timestamp::now());
            if stamped.get("volumesInUse").is_none() && old.get("volumesInUse").is_some() {
                stamped["volumesInUse"] = Value::Null;
            }
            let patch = Patch::Strategic(json!({"status": stamped}));
            match api.patch::<Value>(&NODES.at("", &settings.name).sub("status"), &patch).await {
                Ok(_) => {
                    if told.is_none() || old.get("conditions") != stamped.get("conditions") {
                        tracing::debug!(node = settings.name, ready, "node status sent");
                    }
                    tell(node_events::changes(&settings.name, &old, &stamped));
                    old = stamped;
                    told = Some(now_status);
                    reported = Instant::now();
                }
                Err(error) if error.is_not_found() => {
                    // Somebody deleted the node; it comes back.
                    if let Err(error) = register(&api, &settings, &now_status).await {
                        tracing::warn!(error = orkd_base::chain(&error).to_string(), "node not registered again");
                    }
                }
                Err(error) => tracing::warn!(error = orkd_base::chain(&error).to_string(), "node status not sent"),
            }
        }
        if renewed.is_none_or(|at| at.elapsed() >= RENEW - Duration::from_millis(50)) {
            match renew(&api, &settings, &uid).await {
                Ok(()) => renewed = Some(Instant::now()),
                Err(error) => tracing::warn!(error = orkd_base::chain(&error).to_string(), "node lease not renewed"),
            }
        }
        // While the network is being set up every moment counts; later nothing is urgent.
        let wait = if ready && told.is_some() { RENEW } else { Duration::from_millis(100) };
        tokio::select! {
            () = cancel.cancelled() => return,
            () = asked(&mut changes, told.as_ref(), &tell, &settings.name) => {}
            Ok(()) = pressures.changed() => {}
            () = tokio::time::sleep(wait) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resources_that_a_cluster_made_up_can_be_allocated() {
        let node = |capacity: Value, allocatable: Value| -> Node {
            let status = json!({"capacity": capacity, "allocatable": allocatable});
            serde_json::from_value(json!({"metadata": {"name": "n"}, "status": status})).expect("a node")
        };
        let check = |capacity: Value, allocatable: Value, expected: Value| {
            let node = node(capacity, allocatable);
            assert_eq!(json!(extended(&node)), expected);
            let shown = status(&NodeSettings::default(), &Seen { extended: extended(&node), ..Seen::default() });
            assert_eq!(shown["allocatable"].get("example.com/x"), expected.get("example.com/x"));
            lacks(&node)
        };
        assert!(check(json!({"example.com/x": "3", "cpu": "2"}), json!({"cpu": "1"}), json!({"example.com/x": "3"})));
        assert!(check(json!({"example.com/x": "3"}), json!({"example.com/x": "5"}), json!({"example.com/x": "3"})));
        assert!(!check(json!({"example.com/x": "3"}), json!({"example.com/x": "3"}), json!({"example.com/x": "3"})));
        assert!(check(json!({"cpu": "2"}), json!({"example.com/x": "3"}), json!({"example.com/x": null})));
        let native = json!({"hugepages-2Mi": "0", "kubernetes.io/x": "1", "requests.example.com/x": "1"});
        assert!(!check(native, json!({}), json!({})));
        assert!(!check(json!({}), json!({}), json!({})));
        // The word of this group that tests of upstream use.
        assert!(check(json!({"scheduling.k8s.io/foo": "5"}), json!({}), json!({"scheduling.k8s.io/foo": "5"})));
    }

    #[test]
    fn readiness_follows_the_runtime() {
        let condition = |kind: &str, status: bool| v1::RuntimeCondition {
            r#type: kind.to_owned(),
            status,
            reason: "NetworkPluginNotReady".to_owned(),
            message: "cni plugin not initialized".to_owned(),
        };
        let answer = |conditions| v1::StatusResponse {
            status: Some(v1::RuntimeStatus { conditions }),
            ..v1::StatusResponse::default()
        };
        let all = vec![condition("RuntimeReady", true), condition("NetworkReady", true)];
        assert_eq!(not_ready(&answer(all)), None);
        let network = vec![condition("RuntimeReady", true), condition("NetworkReady", false)];
        assert_eq!(
            not_ready(&answer(network)).as_deref(),
            Some(
                "container runtime network not ready: NetworkReady=false reason:NetworkPluginNotReady message:cni \
                 plugin not initialized"
            )
        );
    }

    #[test]
    fn what_is_short_is_said_and_what_is_kept_back_is_not_given_away() {
        let settings = NodeSettings { max_pods: 110, ..NodeSettings::default() };
        let capacity = Capacity { cpus: 2, memory: 8 << 30, storage: 100 << 30 };
        let seen = Seen { capacity, pressures: vec![Pressure::Disk], ..Seen::default() };
        let status = status(&settings, &seen);
        let told = |kind: &str| {
            let conditions = status["conditions"].as_array().into_iter().flatten();
            let found = conditions.filter(|c| c["type"] == kind).map(|c| format!("{} {}", c["status"], c["reason"]));
            found.collect::<String>()
        };
        assert_eq!(told("DiskPressure"), r#""True" "KubeletHasDiskPressure""#);
        assert_eq!(told("MemoryPressure"), r#""False" "KubeletHasSufficientMemory""#);
        assert_eq!(
            (&status["capacity"]["memory"], &status["allocatable"]["memory"]),
            (&json!("8388608Ki"), &json!("8286208Ki"))
        );
        let tenth = (100u64 << 30) / 10;
        let storage: u64 =
            status["allocatable"]["ephemeral-storage"].as_str().and_then(|s| s.parse().ok()).expect("bytes");
        assert!(storage.abs_diff((100 << 30) - tenth) < 1000, "{storage}");
    }

    #[test]
    fn transition_times_stay() {
        let status = |s: &str| json!({"conditions": [{"type": "Ready", "status": s}]});
        let first = with_times(status("True"), &Value::Null, Timestamp::UNIX_EPOCH);
        let later = Timestamp::from_second(100).unwrap_or_default();
        let second = with_times(status("True"), &first, later);
        let at = |v: &Value| v["conditions"][0]["lastTransitionTime"].clone();
        assert_eq!(at(&first), at(&second));
        assert_ne!(at(&first), at(&with_times(status("False"), &first, later)));
    }
}
