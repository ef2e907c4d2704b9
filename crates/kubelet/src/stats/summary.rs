//! The answer of `/stats/summary`, in upstream's shape (`k8s.io/kubelet/pkg/apis/stats/v1alpha1`), made of what was
//! measured (pure).

use jiff::Timestamp;
use serde::Serialize;

use super::disk::{Filesystem, Held};
use super::usage::{Interface, Memory, Swap};
use super::{Container, Measured, Pod, Snapshot};

/// The interface whose figures stand for a pod or a node.
const DEFAULT_INTERFACE: &str = "eth0";

/// A node and its pods.
#[derive(Debug, Serialize)]
pub struct Summary {
    node: NodeStats,
    pods: Vec<PodStats>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct NodeStats {
    node_name: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    system_containers: Vec<ContainerStats>,
    start_time: String,
    #[serde(flatten)]
    used: Used,
    #[serde(skip_serializing_if = "Option::is_none")]
    network: Option<NetworkStats>,
    #[serde(skip_serializing_if = "Option::is_none")]
    fs: Option<FsStats>,
    #[serde(skip_serializing_if = "Option::is_none")]
    runtime: Option<RuntimeStats>,
    #[serde(skip_serializing_if = "Option::is_none")]
    rlimit: Option<RlimitStats>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct PodStats {
    pod_ref: PodReference,
    start_time: String,
    containers: Vec<ContainerStats>,
    #[serde(flatten)]
    used: Used,
    #[serde(skip_serializing_if = "Option::is_none")]
    network: Option<NetworkStats>,
    #[serde(rename = "volume", skip_serializing_if = "Vec::is_empty")]
    volumes: Vec<VolumeStats>,
    #[serde(rename = "ephemeral-storage", skip_serializing_if = "Option::is_none")]
    ephemeral_storage: Option<FsStats>,
    #[serde(rename = "process_stats", skip_serializing_if = "Option::is_none")]
    processes: Option<ProcessStats>,
}

#[derive(Debug, Serialize)]
struct PodReference {
    name: String,
    namespace: String,
    uid: String,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct ContainerStats {
    name: String,
    start_time: String,
    #[serde(flatten)]
    used: Used,
    #[serde(skip_serializing_if = "Option::is_none")]
    rootfs: Option<FsStats>,
    #[serde(skip_serializing_if = "Option::is_none")]
    logs: Option<FsStats>,
}

/// What a node, a pod or a container used.
#[derive(Debug, Default, Serialize)]
struct Used {
    #[serde(skip_serializing_if = "Option::is_none")]
    cpu: Option<CpuStats>,
    #[serde(skip_serializing_if = "Option::is_none")]
    memory: Option<MemoryStats>,
    #[serde(skip_serializing_if = "Option::is_none")]
    swap: Option<SwapStats>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct CpuStats {
    time: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    usage_nano_cores: Option<u64>,
    usage_core_nano_seconds: u64,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct MemoryStats {
    time: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    available_bytes: Option<u64>,
    usage_bytes: u64,
    working_set_bytes: u64,
    rss_bytes: u64,
    page_faults: u64,
    major_page_faults: u64,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct SwapStats {
    time: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    swap_available_bytes: Option<u64>,
    swap_usage_bytes: u64,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct InterfaceStats {
    name: String,
    rx_bytes: u64,
    rx_errors: u64,
    tx_bytes: u64,
    tx_errors: u64,
}

#[derive(Debug, Serialize)]
struct NetworkStats {
    time: String,
    #[serde(flatten)]
    default: Option<InterfaceStats>,
    interfaces: Vec<InterfaceStats>,
}

/// A file system, or what is used of one for a purpose.
#[derive(Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
struct FsStats {
    time: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    available_bytes: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    capacity_bytes: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    used_bytes: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    inodes_free: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    inodes: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    inodes_used: Option<u64>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct VolumeStats {
    #[serde(flatten)]
    fs: FsStats,
    name: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pvc_ref: Option<ClaimReference>,
}

#[derive(Debug, Serialize)]
struct ClaimReference {
    name: String,
    namespace: String,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct RuntimeStats {
    image_fs: FsStats,
    #[serde(skip_serializing_if = "Option::is_none")]
    container_fs: Option<FsStats>,
}

#[derive(Debug, Serialize)]
struct RlimitStats {
    time: String,
    #[serde(rename = "maxpid")]
    max_pid: i64,
    #[serde(rename = "curproc")]
    running: i64,
}

#[derive(Debug, Serialize)]
struct ProcessStats {
    #[serde(rename = "process_count")]
    count: u64,
}

fn time(at: Timestamp) -> String {
    orkd_api::time::format_time(at)
}

fn used(measured: &Measured) -> Used {
    let at = time(measured.at);
    let memory = |m: &Memory| MemoryStats {
        time: at.clone(),
        available_bytes: m.limit.map(|l| l.saturating_sub(m.working_set)),
        usage_bytes: m.usage,
        working_set_bytes: m.working_set,
        rss_bytes: m.rss,
        page_faults: m.faults,
        major_page_faults: m.major_faults,
    };
    let swap = |s: &Swap| SwapStats {
        time: at.clone(),
        swap_available_bytes: s.limit.map(|l| l.saturating_sub(s.usage)),
        swap_usage_bytes: s.usage,
    };
    Used {
        cpu: measured.usage.cpu.map(|total| CpuStats {
            time: at.clone(),
            usage_nano_cores: measured.rate,
            usage_core_nano_seconds: total,
        }),
        memory: measured.usage.memory.as_ref().map(memory),
        swap: measured.usage.swap.as_ref().map(swap),
    }
}

fn network(at: Timestamp, interfaces: &[Interface]) -> Option<NetworkStats> {
    let one = |i: &Interface| InterfaceStats {
        name: i.name.clone(),
        rx_bytes: i.rx_bytes,
        rx_errors: i.rx_errors,
        tx_bytes: i.tx_bytes,
        tx_errors: i.tx_errors,
    };
    (!interfaces.is_empty()).then(|| NetworkStats {
        time: time(at),
        default: interfaces.iter().find(|i| i.name == DEFAULT_INTERFACE).map(one),
        interfaces: interfaces.iter().map(one).collect(),
    })
}

/// A whole file system.
fn whole(at: Timestamp, fs: &Filesystem) -> FsStats {
    FsStats {
        used_bytes: Some(fs.used),
        inodes_used: Some(fs.inodes.saturating_sub(fs.inodes_free)),
        ..room(at, Some(fs))
    }
}

/// What is used of a file system for a purpose.
fn part(at: Timestamp, fs: Option<&Filesystem>, held: Option<Held>) -> FsStats {
    FsStats { used_bytes: held.map(|h| h.bytes), inodes_used: held.map(|h| h.inodes), ..room(at, fs) }
}

fn room(at: Timestamp, fs: Option<&Filesystem>) -> FsStats {
    FsStats {
        time: time(at),
        available_bytes: fs.map(|fs| fs.available),
        capacity_bytes: fs.map(|fs| fs.capacity),
        inodes: fs.map(|fs| fs.inodes),
        inodes_free: fs.map(|fs| fs.inodes_free),
        ..FsStats::default()
    }
}

fn container(snapshot: &Snapshot, container: &Container) -> ContainerStats {
    let disks = snapshot.disks.as_ref();
    let own = disks.and_then(|d| d.containers.get(&container.id));
    ContainerStats {
        name: container.name.clone(),
        start_time: time(container.started),
        used: container.measured.as_ref().map(used).unwrap_or_default(),
        rootfs: own.map(|own| part(snapshot.at, disks.and_then(|d| d.images.as_ref()), own.rootfs)),
        logs: own.map(|own| part(snapshot.at, disks.and_then(|d| d.node.as_ref()), own.logs)),
    }
}

fn pod(snapshot: &Snapshot, pod: &Pod) -> PodStats {
    let disks = snapshot.disks.as_ref();
    let volumes = disks.and_then(|d| d.volumes.get(&pod.uid)).map(Vec::as_slice).unwrap_or_default();
    let ephemeral = disks.map(|disks| {
        let mut sum = Held::default();
        for own in pod.containers.iter().filter_map(|c| disks.containers.get(&c.id)) {
            sum += own.rootfs.unwrap_or_default();
            sum += own.logs.unwrap_or_default();
        }
        for volume in volumes.iter().filter(|v| v.on_disk) {
            sum += volume.held.unwrap_or_default();
        }
        part(snapshot.at, disks.node.as_ref(), Some(sum))
    });
    let processes: Vec<u64> = pod.containers.iter().filter_map(|c| c.measured.as_ref()?.usage.processes).collect();
    PodStats {
        pod_ref: PodReference { name: pod.name.clone(), namespace: pod.namespace.clone(), uid: pod.uid.clone() },
        start_time: time(pod.started),
        containers: pod.containers.iter().map(|c| container(snapshot, c)).collect(),
        used: pod.measured.as_ref().map(used).unwrap_or_default(),
        network: network(snapshot.at, &pod.interfaces),
        volumes: volumes
            .iter()
            .map(|v| VolumeStats {
                fs: part(snapshot.at, v.filesystem.as_ref(), v.held),
                name: v.name.clone(),
                pvc_ref: v.claim.clone().map(|name| ClaimReference { name, namespace: pod.namespace.clone() }),
            })
            .collect(),
        ephemeral_storage: ephemeral,
        processes: (!processes.is_empty()).then(|| ProcessStats { count: processes.iter().sum() }),
    }
}

impl Summary {
    /// What is told of a snapshot.
    pub fn new(snapshot: &Snapshot) -> Self {
        let disks = snapshot.disks.as_ref();
        let pods_cgroup = snapshot.pods_cgroup.as_ref().map(|measured| ContainerStats {
            name: "pods".to_owned(),
            start_time: time(snapshot.started),
            used: used(measured),
            rootfs: None,
            logs: None,
        });
        let runtime = disks.and_then(|d| d.images.as_ref().map(|fs| (d, fs))).map(|(disks, fs)| RuntimeStats {
            image_fs: part(snapshot.at, Some(fs), disks.images_held),
            container_fs: Some(part(snapshot.at, Some(fs), disks.images_held)),
        });
        Summary {
            node: NodeStats {
                node_name: snapshot.node_name.clone(),
                system_containers: pods_cgroup.into_iter().collect(),
                start_time: time(snapshot.started),
                used: used(&snapshot.node),
                network: disks.and_then(|_| network(snapshot.at, &snapshot.interfaces)),
                fs: disks.and_then(|d| d.node.as_ref()).map(|fs| whole(snapshot.at, fs)),
                runtime,
                rlimit: disks.and_then(|d| d.processes).map(|(max_pid, running)| RlimitStats {
                    time: time(snapshot.at),
                    max_pid,
                    running,
                }),
            },
            pods: snapshot.pods.iter().map(|p| pod(snapshot, p)).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::tests::snapshot;
    use super::*;

    #[test]
    fn the_shape_is_upstreams() {
        let at = "2026-01-01T00:01:00Z";
        let memory = json!({
            "time": at, "availableBytes": 96, "usageBytes": 5, "workingSetBytes": 4, "rssBytes": 3, "pageFaults": 2,
            "majorPageFaults": 1,
        });
        let cpu = json!({"time": at, "usageNanoCores": 500, "usageCoreNanoSeconds": 1_500_000_000u64});
        let swap = json!({"time": at, "swapUsageBytes": 0});
        let eth0 = json!({"name": "eth0", "rxBytes": 1, "rxErrors": 0, "txBytes": 2, "txErrors": 0});
        let room = json!({"time": at, "availableBytes": 60, "capacityBytes": 100, "inodesFree": 6, "inodes": 10});
        let with = |used: u64, inodes: u64| {
            let mut fs = room.clone();
            fs["usedBytes"] = json!(used);
            fs["inodesUsed"] = json!(inodes);
            fs
        };
        let mut volume = with(8, 2);
        volume["name"] = json!("scratch");
        let network = json!({
            "time": at, "name": "eth0", "rxBytes": 1, "rxErrors": 0, "txBytes": 2, "txErrors": 0, "interfaces": [eth0],
        });
        let expected = json!({
            "node": {
                "nodeName": "n", "startTime": "2026-01-01T00:00:00Z", "cpu": cpu, "memory": memory, "swap": swap,
                "systemContainers": [{
                    "name": "pods", "startTime": "2026-01-01T00:00:00Z", "cpu": cpu, "memory": memory, "swap": swap,
                }],
                "network": network, "fs": with(40, 4),
                "runtime": {"imageFs": with(30, 3), "containerFs": with(30, 3)},
                "rlimit": {"time": at, "maxpid": 32768, "curproc": 100},
            },
            "pods": [{
                "podRef": {"name": "p", "namespace": "ns", "uid": "u"}, "startTime": "2026-01-01T00:00:00Z",
                "containers": [{
                    "name": "c", "startTime": "2026-01-01T00:00:00Z", "cpu": cpu, "memory": memory, "swap": swap,
                    "rootfs": with(4, 1), "logs": with(2, 1),
                }],
                "cpu": cpu, "memory": memory, "swap": swap, "network": network,
                "volume": [volume], "ephemeral-storage": with(14, 4), "process_stats": {"process_count": 2},
            }],
        });
        assert_eq!(serde_json::to_value(Summary::new(&snapshot())).expect("encoded"), expected);
    }

    #[test]
    fn volumes_of_claims_name_them_and_are_not_the_pods_own() {
        let mut seen = snapshot();
        let volumes = &mut seen.disks.as_mut().expect("disks").volumes;
        let volume = &mut volumes.get_mut("u").expect("a pod")[0];
        (volume.claim, volume.on_disk) = (Some("data".into()), false);
        let summary = serde_json::to_value(Summary::new(&seen)).expect("encoded");
        let pod = &summary["pods"][0];
        assert_eq!(pod["volume"][0]["pvcRef"], json!({"name": "data", "namespace": "ns"}));
        assert_eq!(pod["ephemeral-storage"]["usedBytes"], json!(6));
    }

    #[test]
    fn cpu_and_memory_alone_have_no_disks() {
        let mut only = snapshot();
        only.disks = None;
        let summary = serde_json::to_value(Summary::new(&only)).expect("encoded");
        for gone in ["/node/fs", "/node/rlimit", "/node/network", "/pods/0/volume", "/pods/0/containers/0/rootfs"] {
            assert_eq!(summary.pointer(gone), None, "{gone}");
        }
        assert!(summary.pointer("/pods/0/containers/0/memory/workingSetBytes").is_some());
    }
}
