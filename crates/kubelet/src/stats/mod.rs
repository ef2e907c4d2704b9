//! What the node, its pods and their containers use, for whoever asks: `/stats/summary` and `/metrics/*`.
//!
//! The figures are those of the cgroups that [`crate::cgroup`] makes for pods and the runtime for containers below
//! them; which containers there are the runtime says. Upstream: `pkg/kubelet/stats`, `pkg/kubelet/server/stats`, and
//! cAdvisor for the figures themselves.
//!
//! Invariant: nothing is measured while nobody asks; [`crate::eviction`] asks for the machine, and for pods only when they
//! have limits or one must go. A rate needs two looks; where the last one is too long ago a
//! question for rates waits a second for another ([`rate`]). Counters are answered at once.
//!
//! Missing, against upstream: accelerators, pressure stall information, and the system containers `kubelet` and
//! `runtime`.

pub mod disk;
mod prometheus;
pub mod rate;
pub mod summary;
pub mod usage;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::{join, join_all};
use jiff::Timestamp;
use k8s_openapi::api::core::v1 as core;
use orkd_cri::v1;
use parking_lot::Mutex;

use crate::cgroup::Cgroups;
use crate::node_context::NodeContext;
use crate::pod::{self, keys};
use crate::spec::log_directory;
use disk::{Filesystem, Folders, Held};
use rate::{History, Point};
use summary::Summary;
use usage::{Interface, Usage};

/// How long a question for rates waits for its second look.
const SECOND_LOOK: Duration = Duration::from_secs(1);

/// The node's own place among the cgroups, in the history.
const MACHINE: &str = "/";

/// Plugins whose volumes are of the node's own disk or memory, with the folders they use.
const VOLUMES: [&str; 5] = ["empty-dir", "configmap", "secret", "downward-api", "projected"];

/// Everything measured at one moment.
#[derive(Debug, Default)]
pub struct Snapshot {
    /// The moment.
    pub at: Timestamp,
    /// The node's name.
    pub node_name: String,
    /// When the machine started.
    pub started: Timestamp,
    /// The whole machine.
    pub node: Measured,
    /// How many cores it has.
    pub cores: u64,
    /// All pods together.
    pub pods_cgroup: Option<Measured>,
    /// What went through the machine's network.
    pub interfaces: Vec<Interface>,
    /// Pods that run, by namespace and name.
    pub pods: Vec<Pod>,
    /// What is on disks, where that was asked for.
    pub disks: Option<Disks>,
}

/// What something used, when it was looked at.
#[derive(Debug, Clone, Default)]
pub struct Measured {
    /// When.
    pub at: Timestamp,
    /// What.
    pub usage: Usage,
    /// Nanoseconds of cores a second, where that can be told.
    pub rate: Option<u64>,
}

/// A pod that runs.
#[derive(Debug, Clone, Default)]
pub struct Pod {
    /// Name.
    pub name: String,
    /// Namespace.
    pub namespace: String,
    /// Uid.
    pub uid: String,
    /// When its sandbox was made.
    pub started: Timestamp,
    /// Its sandbox.
    pub sandbox: String,
    /// Its cgroup; empty on a node without.
    pub cgroup: String,
    /// What it used.
    pub measured: Option<Measured>,
    /// What went through its network; nothing for a pod in the host's.
    pub interfaces: Vec<Interface>,
    /// Its containers that run, by name.
    pub containers: Vec<Container>,
}

/// A container that runs.
#[derive(Debug, Clone, Default)]
pub struct Container {
    /// Name.
    pub name: String,
    /// Id.
    pub id: String,
    /// Image.
    pub image: String,
    /// When it was made.
    pub started: Timestamp,
    /// Its cgroup; empty on a node without.
    pub cgroup: String,
    /// What it used.
    pub measured: Option<Measured>,
}

/// What is on disks.
#[derive(Debug, Default)]
pub struct Disks {
    /// Where the kubelet's folder is.
    pub node: Option<Filesystem>,
    /// Where images and writable layers are.
    pub images: Option<Filesystem>,
    /// What images and layers hold of it.
    pub images_held: Option<Held>,
    /// By container id.
    pub containers: HashMap<String, ContainerDisk>,
    /// By pod uid.
    pub volumes: HashMap<String, Vec<VolumeDisk>>,
    /// The most processes there can be, and how many there are.
    pub processes: Option<(i64, i64)>,
}

/// What a container has on disks.
#[derive(Debug, Clone, Copy, Default)]
pub struct ContainerDisk {
    /// Its writable layer.
    pub rootfs: Option<Held>,
    /// Its logs.
    pub logs: Option<Held>,
}

/// What a volume holds.
#[derive(Debug, Clone)]
pub struct VolumeDisk {
    /// Its name in the pod.
    pub name: String,
    /// The file system it is on.
    pub filesystem: Option<Filesystem>,
    /// What it holds.
    pub held: Option<Held>,
    /// Whether it takes room on the node's disk.
    pub on_disk: bool,
    /// The claim it is of; its file system says what it holds then.
    pub claim: Option<String>,
}

/// The machine alone: what there is to see without asking for pods.
#[derive(Debug, Clone, Copy, Default)]
pub struct Machine {
    /// Its memory.
    pub memory: Option<usage::Memory>,
    /// That of all pods together.
    pub pods: Option<usage::Memory>,
    /// Where the kubelet's folder is.
    pub node: Option<Filesystem>,
    /// Where images and writable layers are.
    pub images: Option<Filesystem>,
    /// Whether these are two file systems.
    pub images_apart: bool,
    /// The most processes there can be, and how many there are.
    pub processes: Option<(i64, i64)>,
}

/// What a question wants to know beside counters.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Wanted {
    rates: bool,
    networks: bool,
    disks: bool,
}

/// Tells the pods of the node.
type Known = Box<dyn Fn() -> Vec<Arc<core::Pod>> + Send + Sync>;

/// Measures a node.
pub struct Stats {
    context: Arc<NodeContext>,
    known: Known,
    history: Arc<Mutex<History>>,
    folders: Arc<Folders>,
    /// Where the runtime keeps images, once it has said so.
    images: Arc<Mutex<Option<PathBuf>>>,
}

impl Stats {
    /// Measures a node, of which `known` tells the pods.
    pub fn new(context: Arc<NodeContext>, known: impl Fn() -> Vec<Arc<core::Pod>> + Send + Sync + 'static) -> Self {
        Stats {
            context,
            known: Box::new(known),
            history: Arc::default(),
            folders: Arc::default(),
            images: Arc::default(),
        }
    }

    /// The machine, without its pods.
    pub async fn machine(&self) -> Machine {
        if self.images.lock().is_none()
            && let Ok(info) = self.context.runtime.image_fs_info().await
        {
            let place = info.image_filesystems.into_iter().find_map(|fs| fs.fs_id);
            *self.images.lock() = place.map(|id| PathBuf::from(id.mountpoint));
        }
        let (images, cgroups) = (self.images.lock().clone(), self.context.cgroups.clone());
        let root = self.context.volumes.root().to_owned();
        let looked = tokio::task::spawn_blocking(move || {
            let proc = |file: &str| std::fs::read_to_string(Path::new("/proc").join(file)).unwrap_or_default();
            let device = |path: &Path| Some(std::fs::metadata(path).ok()?.dev());
            let apart = images.as_deref().and_then(device).is_some_and(|images| device(&root) != Some(images));
            Machine {
                memory: usage::of_machine(&proc("meminfo"), "").0,
                pods: cgroups.and_then(|c| c.usage(&c.all_pods()).memory),
                node: disk::filesystem(&root),
                images: images.as_deref().and_then(disk::filesystem),
                images_apart: apart,
                processes: processes(),
            }
        });
        looked.await.unwrap_or_else(|error| {
            tracing::error!(%error, "measuring the machine failed");
            Machine::default()
        })
    }

    /// What these pods use, disks included and rates left out.
    ///
    /// # Errors
    /// The runtime does not say which containers there are.
    pub async fn of(&self, pods: &[Arc<core::Pod>]) -> orkd_cri::Result<Snapshot> {
        self.snapshot_of(pods, Wanted { disks: true, ..Wanted::default() }).await
    }

    /// The answer of `/stats/summary`.
    ///
    /// # Errors
    /// The runtime does not say which containers there are.
    pub async fn summary(&self, only_cpu_and_memory: bool) -> orkd_cri::Result<Summary> {
        let all = !only_cpu_and_memory;
        let snapshot = self.snapshot(Wanted { rates: true, networks: all, disks: all }).await?;
        Ok(Summary::new(&snapshot))
    }

    /// The answer of `/metrics/resource`.
    pub async fn resource_metrics(&self) -> String {
        match self.snapshot(Wanted::default()).await {
            Ok(snapshot) => prometheus::resource(Some(&snapshot)),
            Err(error) => {
                tracing::warn!(%error, "cannot measure pods");
                prometheus::resource(None)
            }
        }
    }

    /// The answer of `/metrics/cadvisor`.
    ///
    /// # Errors
    /// The runtime does not say which containers there are.
    pub async fn cadvisor_metrics(&self) -> orkd_cri::Result<String> {
        let snapshot = self.snapshot(Wanted { networks: true, ..Wanted::default() }).await?;
        Ok(prometheus::cadvisor(&snapshot))
    }

    /// The answer of `/metrics`: what is to be said of the kubelet itself.
    ///
    /// # Errors
    /// The runtime does not say which containers there are.
    pub async fn kubelet_metrics(&self) -> orkd_cri::Result<String> {
        let runtime = &self.context.runtime;
        let (sandboxes, containers) =
            join(runtime.list_pod_sandboxes(HashMap::new()), runtime.list_containers(HashMap::new())).await;
        let ready = sandboxes?.iter().filter(|s| is_ready(s)).count();
        let mut claims = BTreeMap::new();
        for pod in (self.known)() {
            let volumes = self.claims_of(pod::uid(&pod)).await.into_iter();
            let of = |v: VolumeDisk| Some(((pod::namespace(&pod).to_owned(), v.claim?), v.filesystem?));
            claims.extend(volumes.filter_map(of));
        }
        let evictions = self.context.pressures.counts();
        Ok(prometheus::kubelet(&self.context.node_name, ready, &containers?, &evictions, &claims))
    }

    /// The volumes of a pod's claims.
    async fn claims_of(&self, uid: &str) -> Vec<VolumeDisk> {
        let volumes = &self.context.volumes;
        let measured = volumes.claimed_by(uid).into_iter().map(|claimed| async move {
            let filesystem = volumes.room(&claimed).await?;
            let held =
                Held { bytes: filesystem.used, inodes: filesystem.inodes.saturating_sub(filesystem.inodes_free) };
            let (name, claim) = (claimed.volume, Some(claimed.claim));
            Some(VolumeDisk { name, filesystem: Some(filesystem), held: Some(held), on_disk: false, claim })
        });
        join_all(measured).await.into_iter().flatten().collect()
    }

    async fn snapshot(&self, wanted: Wanted) -> orkd_cri::Result<Snapshot> {
        self.snapshot_of(&(self.known)(), wanted).await
    }

    async fn snapshot_of(&self, known: &[Arc<core::Pod>], wanted: Wanted) -> orkd_cri::Result<Snapshot> {
        let runtime = &self.context.runtime;
        let (sandboxes, containers) =
            join(runtime.list_pod_sandboxes(HashMap::new()), runtime.list_containers(HashMap::new())).await;
        let cgroups = self.context.cgroups.as_ref();
        let mut pods = running(known, sandboxes?, containers?, |pod| cgroups.map(|c| c.pod(pod)).unwrap_or_default());
        let mut disks = None;
        if wanted.disks {
            disks = Some(self.disks(known, &pods).await);
        }
        let mut snapshot = self.measure(std::mem::take(&mut pods), wanted).await;
        if wanted.rates && lacks_rates(&snapshot) {
            tokio::time::sleep(SECOND_LOOK).await;
            snapshot = self.measure(snapshot.pods, wanted).await;
        }
        snapshot.disks = disks;
        Ok(snapshot)
    }

    /// Reads the cgroups of these pods, away from the threads that serve.
    async fn measure(&self, pods: Vec<Pod>, wanted: Wanted) -> Snapshot {
        let (cgroups, history) = (self.context.cgroups.clone(), self.history.clone());
        let node_name = self.context.node_name.clone();
        let looked = tokio::task::spawn_blocking(move || look(pods, cgroups.as_ref(), &history, wanted));
        let snapshot = looked.await.unwrap_or_else(|error| {
            tracing::error!(%error, "measuring pods failed");
            Snapshot::default()
        });
        Snapshot { node_name, ..snapshot }
    }

    async fn disks(&self, known: &[Arc<core::Pod>], pods: &[Pod]) -> Disks {
        let context = &self.context;
        // A runtime that does not tell leaves these out.
        let (layers, images) = join(context.runtime.list_container_stats(), context.runtime.image_fs_info()).await;
        let (mut layers_held, mut mount) = (HashMap::new(), None);
        for stats in layers.unwrap_or_default() {
            if let (Some(attributes), Some(layer)) = (stats.attributes, stats.writable_layer) {
                layers_held.insert(attributes.id, written(&layer));
            }
        }
        let images = images.ok().and_then(|info| info.image_filesystems.into_iter().next());
        if let Some(images) = &images {
            mount = images.fs_id.as_ref().map(|id| PathBuf::from(&id.mountpoint));
        }
        let mut folders = Vec::new();
        for pod in pods {
            let Some(object) = known.iter().find(|p| pod::uid(p) == pod.uid) else { continue };
            let logs = log_directory(&context.log_dir, object);
            let containers = pod.containers.iter().map(|c| (c.id.clone(), logs.join(&c.name))).collect();
            folders.push(PodFolders {
                uid: pod.uid.clone(),
                volumes: context.volumes.pod_dir(&pod.uid).join("volumes"),
                containers,
            });
        }
        let claims = join_all(pods.iter().map(async |pod| (pod.uid.clone(), self.claims_of(&pod.uid).await))).await;
        let (root, known) = (context.volumes.root().to_owned(), self.folders.clone());
        let walked = tokio::task::spawn_blocking(move || {
            let mut disks = Disks {
                node: disk::filesystem(&root),
                images: mount.as_deref().and_then(disk::filesystem),
                images_held: images.as_ref().map(written),
                processes: processes(),
                ..Disks::default()
            };
            for pod in folders {
                for (id, logs) in pod.containers {
                    // Logs grow from moment to moment and are few files.
                    let own = ContainerDisk { rootfs: layers_held.get(&id).copied(), logs: disk::held(&logs, 1000) };
                    disks.containers.insert(id, own);
                }
                disks.volumes.insert(pod.uid, volumes(&pod.volumes, &known));
            }
            for (uid, volumes) in claims {
                disks.volumes.entry(uid).or_default().extend(volumes);
            }
            disks
        });
        walked.await.unwrap_or_else(|error| {
            tracing::error!(%error, "measuring disks failed");
            Disks::default()
        })
    }
}

/// Where the files of a pod are.
struct PodFolders {
    uid: String,
    volumes: PathBuf,
    /// Ids with folders of logs.
    containers: Vec<(String, PathBuf)>,
}

fn is_ready(sandbox: &v1::PodSandbox) -> bool {
    sandbox.state == i32::from(v1::PodSandboxState::SandboxReady)
}

fn written(usage: &v1::FilesystemUsage) -> Held {
    Held { bytes: usage.used_bytes.map_or(0, |v| v.value), inodes: usage.inodes_used.map_or(0, |v| v.value) }
}

/// A moment as the runtime tells it.
fn moment(nanos: i64) -> Timestamp {
    Timestamp::from_nanosecond(nanos.into()).unwrap_or_default()
}

/// The pods that run, with their containers that do (pure). Of several sandboxes or containers of the same name the
/// newest counts. What belongs to no pod of this node is left out.
fn running(
    known: &[Arc<core::Pod>],
    mut sandboxes: Vec<v1::PodSandbox>,
    mut containers: Vec<v1::Container>,
    cgroup_of: impl Fn(&core::Pod) -> String,
) -> Vec<Pod> {
    sandboxes.retain(is_ready);
    sandboxes.sort_by_key(|s| std::cmp::Reverse(s.created_at));
    containers.retain(|c| c.state == i32::from(v1::ContainerState::ContainerRunning));
    containers.sort_by_key(|c| std::cmp::Reverse(c.created_at));
    let mut pods: Vec<Pod> = Vec::new();
    for object in known {
        let uid = pod::uid(object);
        let label = |s: &&v1::PodSandbox| s.labels.get(keys::POD_UID).is_some_and(|u| u == uid);
        let Some(sandbox) = sandboxes.iter().find(label) else { continue };
        let cgroup = cgroup_of(object);
        let mut own: Vec<Container> = Vec::new();
        for c in containers.iter().filter(|c| c.pod_sandbox_id == sandbox.id) {
            let name = c.labels.get(keys::CONTAINER_NAME).or(c.metadata.as_ref().map(|m| &m.name));
            let name = name.cloned().unwrap_or_default();
            if own.iter().any(|o| o.name == name) {
                continue;
            }
            own.push(Container {
                name,
                id: c.id.clone(),
                image: c.image.as_ref().map(|i| i.image.clone()).unwrap_or_default(),
                started: moment(c.created_at),
                cgroup: if cgroup.is_empty() { String::new() } else { format!("{cgroup}/{}", c.id) },
                measured: None,
            });
        }
        own.sort_by(|a, b| a.name.cmp(&b.name));
        pods.push(Pod {
            name: pod::name(object).to_owned(),
            namespace: pod::namespace(object).to_owned(),
            uid: uid.to_owned(),
            started: moment(sandbox.created_at),
            // A pod in the host's network has none of its own.
            sandbox: if pod::host_network(object) { String::new() } else { sandbox.id.clone() },
            cgroup,
            containers: own,
            ..Pod::default()
        });
    }
    pods.sort_by(|a, b| (&a.namespace, &a.name).cmp(&(&b.namespace, &b.name)));
    pods
}

/// Whether something has a counter and no rate yet.
fn lacks_rates(snapshot: &Snapshot) -> bool {
    let containers = snapshot.pods.iter().flat_map(|p| &p.containers).map(|c| &c.measured);
    let pods = snapshot.pods.iter().map(|p| &p.measured);
    let measured = containers.chain(pods).flatten().chain(std::iter::once(&snapshot.node));
    measured.into_iter().any(|m| m.usage.cpu.is_some() && m.rate.is_none())
}

/// Looks at everything once.
fn look(mut pods: Vec<Pod>, cgroups: Option<&Cgroups>, history: &Mutex<History>, wanted: Wanted) -> Snapshot {
    let proc = |file: &str| std::fs::read_to_string(Path::new("/proc").join(file)).unwrap_or_default();
    let stat = proc("stat");
    let at = Timestamp::now();
    let (memory, swap) = usage::of_machine(&proc("meminfo"), &proc("vmstat"));
    let cpu = cgroups.and_then(|c| c.usage(MACHINE).cpu).or_else(|| usage::busy(&stat));
    let machine = Usage { cpu, memory, swap, processes: None };
    let mut seen = HashSet::new();
    let mut measured = |key: &str, usage: Usage, at: Timestamp, born: Option<Timestamp>| {
        let count = usage.cpu;
        seen.insert(key.to_owned());
        let rate = count.and_then(|count| history.lock().observe(key, Point { at, count }, born));
        Measured { at, usage, rate }
    };
    let node = measured(MACHINE, machine, at, None);
    let mut pods_cgroup = None;
    if let Some(cgroups) = cgroups {
        let all = cgroups.all_pods();
        pods_cgroup = Some(measured(&all, cgroups.usage(&all), Timestamp::now(), None));
        for pod in &mut pods {
            for container in &mut pod.containers {
                let usage = cgroups.usage(&container.cgroup);
                let at = Timestamp::now();
                container.measured = Some(measured(&container.cgroup, usage, at, Some(container.started)));
            }
            let usage = cgroups.usage(&pod.cgroup);
            pod.measured = Some(measured(&pod.cgroup, usage, Timestamp::now(), Some(pod.started)));
            if wanted.networks && !pod.sandbox.is_empty() {
                let process = cgroups.processes(&format!("{}/{}", pod.cgroup, pod.sandbox)).into_iter().next();
                let dev = process.map(|pid| proc(&format!("{pid}/net/dev"))).unwrap_or_default();
                pod.interfaces = usage::interfaces(&dev);
            }
        }
    }
    history.lock().keep(|key| seen.contains(key));
    Snapshot {
        at,
        started: usage::boot_time(&stat).and_then(|s| Timestamp::from_second(s).ok()).unwrap_or_default(),
        node,
        cores: std::thread::available_parallelism().map_or(1, |n| n.get() as u64),
        pods_cgroup,
        interfaces: if wanted.networks { usage::interfaces(&proc("net/dev")) } else { Vec::new() },
        pods,
        ..Snapshot::default()
    }
}

/// The most processes there can be, and how many there are.
fn processes() -> Option<(i64, i64)> {
    let most = std::fs::read_to_string("/proc/sys/kernel/pid_max").ok()?.trim().parse().ok()?;
    let load = std::fs::read_to_string("/proc/loadavg").ok()?;
    // `0.1 0.1 0.1 RUNNING/ALL LAST`
    let all = load.split_whitespace().nth(3)?.split_once('/')?.1.parse().ok()?;
    Some((most, all))
}

/// The volumes of a pod that the kubelet filled itself.
fn volumes(folder: &Path, known: &Folders) -> Vec<VolumeDisk> {
    let mut found = Vec::new();
    for plugin in VOLUMES {
        let entries = std::fs::read_dir(folder.join(format!("kubernetes.io~{plugin}")));
        for entry in entries.into_iter().flatten().flatten() {
            let path = entry.path();
            let filesystem = disk::filesystem(&path);
            let in_memory = rustix::fs::statfs(&path).is_ok_and(|s| s.f_type == libc::TMPFS_MAGIC);
            found.push(VolumeDisk {
                name: entry.file_name().to_string_lossy().into_owned(),
                filesystem,
                held: known.held(&path),
                on_disk: !in_memory,
                claim: None,
            });
        }
    }
    found.sort_by(|a, b| a.name.cmp(&b.name));
    found
}

#[cfg(test)]
pub(crate) mod tests {
    use serde_json::json;

    use super::usage::{Memory, Swap};
    use super::*;

    /// A node with one pod of one container, everything measured.
    pub(crate) fn snapshot() -> Snapshot {
        let at: Timestamp = "2026-01-01T00:01:00Z".parse().unwrap_or_default();
        let started: Timestamp = "2026-01-01T00:00:00Z".parse().unwrap_or_default();
        let memory = Memory { usage: 5, working_set: 4, rss: 3, faults: 2, major_faults: 1, limit: Some(100) };
        let usage = Usage {
            cpu: Some(1_500_000_000),
            memory: Some(memory),
            swap: Some(Swap { usage: 0, limit: None }),
            processes: Some(2),
        };
        let measured = Measured { at, usage, rate: Some(500) };
        let interfaces = vec![Interface { name: "eth0".into(), rx_bytes: 1, tx_bytes: 2, ..Interface::default() }];
        let container = Container {
            name: "c".into(),
            id: "id".into(),
            image: "image".into(),
            started,
            cgroup: "/kubepods/podu/id".into(),
            measured: Some(measured.clone()),
        };
        let pod = Pod {
            name: "p".into(),
            namespace: "ns".into(),
            uid: "u".into(),
            started,
            sandbox: "sandbox".into(),
            cgroup: "/kubepods/podu".into(),
            measured: Some(measured.clone()),
            interfaces: interfaces.clone(),
            containers: vec![container],
        };
        let filesystem = Filesystem { capacity: 100, available: 60, used: 40, inodes: 10, inodes_free: 6 };
        let held = |bytes: u64, inodes: u64| Some(Held { bytes, inodes });
        let own = ContainerDisk { rootfs: held(4, 1), logs: held(2, 1) };
        let volume = VolumeDisk {
            name: "scratch".into(),
            filesystem: Some(filesystem),
            held: held(8, 2),
            on_disk: true,
            claim: None,
        };
        Snapshot {
            at,
            node_name: "n".into(),
            started,
            node: measured.clone(),
            cores: 2,
            pods_cgroup: Some(measured),
            interfaces,
            pods: vec![pod],
            disks: Some(Disks {
                node: Some(filesystem),
                images: Some(filesystem),
                images_held: held(30, 3),
                containers: HashMap::from([("id".to_owned(), own)]),
                volumes: HashMap::from([("u".to_owned(), vec![volume])]),
                processes: Some((32768, 100)),
            }),
        }
    }

    #[test]
    fn what_runs_is_what_the_runtime_says_of_known_pods() {
        let object = |name: &str, uid: &str| -> Arc<core::Pod> {
            let pod = json!({"metadata": {"name": name, "namespace": "ns", "uid": uid}, "spec": {"containers": []}});
            Arc::new(serde_json::from_value(pod).expect("a pod"))
        };
        let labels = |uid: &str, container: &str| {
            HashMap::from([
                (keys::POD_UID.to_owned(), uid.to_owned()),
                (keys::CONTAINER_NAME.to_owned(), container.to_owned()),
            ])
        };
        let sandbox = |id: &str, uid: &str, ready: bool, created_at: i64| v1::PodSandbox {
            id: id.into(),
            state: if ready { v1::PodSandboxState::SandboxReady } else { v1::PodSandboxState::SandboxNotready }.into(),
            created_at,
            labels: labels(uid, ""),
            ..v1::PodSandbox::default()
        };
        let container = |id: &str, sandbox: &str, name: &str, running: bool, created_at: i64| v1::Container {
            id: id.into(),
            pod_sandbox_id: sandbox.into(),
            state: if running { v1::ContainerState::ContainerRunning } else { v1::ContainerState::ContainerExited }
                .into(),
            created_at,
            labels: labels("", name),
            ..v1::Container::default()
        };
        let known = [object("b", "ub"), object("a", "ua"), object("ended", "ue"), object("new", "un")];
        let sandboxes = vec![
            sandbox("old", "ua", false, 1),
            sandbox("sa", "ua", true, 2),
            sandbox("sb", "ub", true, 3),
            sandbox("se", "ue", false, 4),
            sandbox("so", "nobody", true, 5),
        ];
        let containers = vec![
            container("1", "sa", "main", false, 1),
            container("2", "sa", "main", true, 2_000_000_000),
            container("3", "sa", "aside", true, 3),
            container("4", "so", "main", true, 4),
        ];
        let pods = running(&known, sandboxes, containers, |p| format!("/pod{}", pod::uid(p)));
        let told: Vec<(String, Vec<String>)> =
            pods.iter().map(|p| (p.name.clone(), p.containers.iter().map(|c| c.cgroup.clone()).collect())).collect();
        let expected = [("a".to_owned(), vec!["/podua/3".to_owned(), "/podua/2".to_owned()]), ("b".into(), vec![])];
        assert_eq!(told, expected);
        assert_eq!(pods[0].containers[1].started, Timestamp::from_second(2).unwrap_or_default());
    }

    #[test]
    fn a_second_look_is_taken_for_what_has_no_rate_only() {
        let mut seen = snapshot();
        assert!(!lacks_rates(&seen));
        seen.pods[0].containers[0].measured.as_mut().expect("measured").rate = None;
        assert!(lacks_rates(&seen));
        // A host that does not count it never will.
        seen.pods[0].containers[0].measured.as_mut().expect("measured").usage.cpu = None;
        assert!(!lacks_rates(&seen));
    }

    #[test]
    fn the_machine_itself_is_measured() {
        let history = Mutex::default();
        let first = look(Vec::new(), None, &history, Wanted { networks: true, ..Wanted::default() });
        assert!(first.node.usage.cpu.is_some_and(|c| c > 0) && first.node.rate.is_none());
        let memory = first.node.usage.memory.expect("memory");
        assert!(memory.limit.is_some_and(|l| l > memory.working_set), "{memory:?}");
        assert!(first.started > Timestamp::UNIX_EPOCH && first.started < first.at);
    }
}
