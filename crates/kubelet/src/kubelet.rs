//! The composition of a node agent: runtime, workers, status, node object, events.

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use k8s_openapi::api::core::v1::Pod;
use orkd_base::{Supervisor, TaskKind};
use orkd_cri::{Client, Runtime, v1};
use orkd_reconcile::{Api, Informer, Informers, Options, Recorder};
use parking_lot::{Mutex, RwLock};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::allocation::{self, Allocations};
use crate::cgroup::Cgroups;
use crate::containerd::{self, Supervised};
use crate::csi;
use crate::dra;
use crate::eviction::{self, Pressures};
use crate::image_gc;
use crate::images::Images;
use crate::log_rotation;
use crate::node::{self, NodeSettings};
use crate::node_context::{NodeContext, NodeFacts};
use crate::objects::ApiObjects;
use crate::pod::{self, keys};
use crate::probes::Probes;
use crate::static_pods;
use crate::status::manager::StatusManager;
use crate::views::{NodeView, PodView, ServiceView};
use crate::volumes::Volumes;
use crate::worker::{self, Handle};

/// How long until a mirror pod that could not be made is tried again.
const MIRROR_RETRY: Duration = Duration::from_secs(1);
/// How often resizes that wait are decided anew, whatever happens.
const RESIZE_RETRY: Duration = Duration::from_secs(180);
/// How often the runtime is looked over, for what no event told.
const RELIST: Duration = Duration::from_secs(30);

/// Which runtime the node drives.
#[derive(Clone)]
pub enum RuntimeChoice {
    /// A containerd that the kubelet starts and supervises.
    Supervised(containerd::Options),
    /// A runtime that runs already, at a socket (`unix:///path` or a path).
    Endpoint(String),
    /// A runtime in this process (the fake, of a hollow node).
    Given(Arc<dyn Runtime>),
}

/// How a node agent is set up.
#[derive(Clone)]
pub struct Config {
    /// Name, addresses, labels, taints, `max_pods` and port of the node.
    pub node: NodeSettings,
    /// The kubelet's folder (`/var/lib/kubelet` by custom).
    pub root_dir: PathBuf,
    /// Where logs of pods are, `/var/log/pods`.
    pub log_dir: PathBuf,
    /// The runtime.
    pub runtime: RuntimeChoice,
    /// Below which cgroup pods are, `/` if the node has the machine for itself.
    pub cgroup_root: String,
    /// Addresses of the cluster's DNS.
    pub cluster_dns: Vec<IpAddr>,
    /// The cluster's domain.
    pub cluster_domain: String,
    /// The host's resolv.conf.
    pub resolv_conf: PathBuf,
    /// Where manifests of static pods are.
    pub manifest_dir: Option<PathBuf>,
    /// When images that are not used go.
    pub image_gc: image_gc::Policy,
    /// Nothing is written to disk, mounted or put into cgroups.
    pub hollow: bool,
}

impl Config {
    /// A node with the usual places below a data folder.
    pub fn new(node: NodeSettings, data_dir: &std::path::Path, run_dir: &std::path::Path) -> Self {
        Self {
            node,
            root_dir: data_dir.join("kubelet"),
            log_dir: PathBuf::from("/var/log/pods"),
            runtime: RuntimeChoice::Supervised(containerd::Options::under(data_dir, run_dir)),
            cgroup_root: "/".to_owned(),
            cluster_dns: Vec::new(),
            cluster_domain: "cluster.local".to_owned(),
            resolv_conf: PathBuf::from("/etc/resolv.conf"),
            manifest_dir: None,
            image_gc: image_gc::Policy::default(),
            hollow: false,
        }
    }

    /// A hollow node: it runs pods on a runtime in memory.
    pub fn hollow(name: &str, runtime: Arc<dyn Runtime>) -> Self {
        let node = NodeSettings {
            name: name.to_owned(),
            hostname: name.to_owned(),
            ips: vec![IpAddr::from([127, 0, 0, 1])],
            max_pods: 110,
            port: 10250,
            ..NodeSettings::default()
        };
        let nowhere = PathBuf::from("/nonexistent");
        Self { runtime: RuntimeChoice::Given(runtime), hollow: true, ..Self::new(node, &nowhere, &nowhere) }
    }
}

/// What keeps a node from starting.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The supervised containerd.
    #[error(transparent)]
    Containerd(#[from] containerd::Error),
    /// The runtime.
    #[error("container runtime: {0}")]
    Runtime(#[from] orkd_cri::Error),
    /// A folder or cgroup.
    #[error("{what}: {source}")]
    Io {
        /// What was tried.
        what: String,
        /// Why not.
        source: std::io::Error,
    },
}

/// A node agent that runs. Cheap to clone.
#[derive(Clone)]
pub struct Kubelet {
    /// What its workers share; the node server reads it.
    pub context: Arc<NodeContext>,
    workers: Arc<Mutex<HashMap<String, Arc<Handle>>>>,
}

impl Kubelet {
    /// The pods of this node, as last seen.
    pub fn pods(&self) -> Vec<Arc<Pod>> {
        self.workers.lock().values().map(|h| h.pod()).collect()
    }

    /// The pod of this namespace and name.
    pub fn find(&self, namespace: &str, name: &str) -> Option<Arc<Pod>> {
        self.pods().into_iter().find(|p| pod::namespace(p) == namespace && pod::name(p) == name)
    }

    fn wake_all(&self) {
        for handle in self.workers.lock().values() {
            handle.wake();
        }
    }

    fn wake(&self, uid: &str) {
        if let Some(handle) = self.workers.lock().get(uid) {
            handle.wake();
        }
    }

    /// Takes a change of a pod.
    fn take(&self, pod: Arc<Pod>, gone: bool, supervisor: &Supervisor, ended: &mpsc::UnboundedSender<String>) {
        let uid = pod::uid(&pod).to_owned();
        let mut workers = self.workers.lock();
        if let Some(handle) = workers.get(&uid) {
            handle.update(pod.clone());
            self.context.allocations.look_at(&pod);
            if gone {
                handle.gone();
                self.context.allocations.release(&uid);
            }
            return;
        }
        if gone {
            return;
        }
        let handle = Handle::new(pod);
        workers.insert(uid.clone(), handle.clone());
        let (context, ended) = (self.context.clone(), ended.clone());
        supervisor.spawn(TaskKind::Worker, format!("pod {uid}"), move |stop| async move {
            if worker::run(context, handle, stop).await {
                let _ = ended.send(uid);
            }
        });
    }

    /// Kills and removes what runs here and belongs to no pod of the API.
    async fn remove_orphans(&self, known: &HashSet<String>) {
        let cx = &self.context;
        cx.allocations.forget_others(known);
        let Ok(sandboxes) = cx.runtime.list_pod_sandboxes(HashMap::new()).await else { return };
        for sandbox in sandboxes {
            let Some(uid) = sandbox.labels.get(keys::POD_UID) else { continue };
            if known.contains(uid) {
                continue;
            }
            tracing::info!(uid, sandbox = sandbox.id, "removing a pod that is gone from the API");
            let containers = HashMap::from([(keys::POD_UID.to_owned(), uid.clone())]);
            for container in cx.runtime.list_containers(containers).await.unwrap_or_default() {
                let grace = container.annotations.get(keys::POD_GRACE).and_then(|g| g.parse().ok()).unwrap_or(2i64);
                if let Err(error) = cx.runtime.stop_container(&container.id, grace.min(30)).await {
                    tracing::warn!(container = container.id, %error, "orphan not stopped");
                }
            }
            let stopped = cx.runtime.stop_pod_sandbox(&sandbox.id).await;
            if stopped.is_ok() {
                let _ = cx.runtime.remove_pod_sandbox(&sandbox.id).await;
            }
        }
        if cx.hollow {
            return;
        }
        for uid in cx.volumes.pods_on_disk() {
            if !known.contains(&uid) {
                if let Err(error) = cx.devices.unprepare(&uid).await {
                    tracing::warn!(uid, error, "devices of a pod that is gone not taken back");
                }
                if let Err(error) = cx.volumes.detach(&uid).await.and_then(|()| cx.volumes.teardown(&uid)) {
                    tracing::warn!(uid, %error, "folder of a pod that is gone not removed");
                }
                if let Some(cgroups) = &cx.cgroups {
                    let _ = cgroups.remove_pod(&uid);
                }
            }
        }
    }

    /// Decides resizes: when something changed that may decide them, and every so often.
    async fn follow_resizes(self, cancel: CancellationToken) {
        loop {
            tokio::select! {
                () = cancel.cancelled() => return,
                () = self.context.allocations.stirred() => {}
                () = tokio::time::sleep(RESIZE_RETRY) => {}
            }
            for uid in allocation::retry(&self.context, &self.pods()) {
                self.wake(&uid);
            }
        }
    }

    /// Wakes workers when their containers do something.
    async fn follow_events(self, supervisor: Supervisor, cancel: CancellationToken) {
        let mut backoff = orkd_base::Backoff::new(Duration::from_millis(100), Duration::from_secs(5));
        let mut states = HashMap::new();
        loop {
            let subscribed = tokio::select! {
                () = cancel.cancelled() => return,
                subscribed = self.context.runtime.container_events() => subscribed,
            };
            match subscribed {
                Ok(Some(mut events)) => {
                    backoff.reset();
                    // What happened before the subscription is found by looking.
                    self.wake_all();
                    let mut look = tokio::time::interval_at(tokio::time::Instant::now() + RELIST, RELIST);
                    look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
                    loop {
                        let event = tokio::select! {
                            () = cancel.cancelled() => return,
                            event = events.next() => event,
                            _ = look.tick() => {
                                self.relist(&mut states).await;
                                continue;
                            }
                        };
                        let Some(Ok(event)) = event else { break };
                        if event.ended {
                            // containerd tells of an end before CRI knows of it.
                            let kubelet = self.clone();
                            supervisor.spawn(TaskKind::Worker, "container end", move |_| kubelet.wait_ended(event.id));
                            continue;
                        }
                        let owner = event.pod_uid.or_else(|| self.context.owners.read().get(&event.id).cloned());
                        // One without an owner is being made by a worker, which looks again anyway.
                        if let Some(uid) = owner {
                            self.wake(&uid);
                        }
                    }
                }
                Ok(None) => {
                    tokio::select! {
                        () = cancel.cancelled() => return,
                        () = tokio::time::sleep(Duration::from_secs(1)) => {}
                    }
                    self.relist(&mut states).await;
                    continue;
                }
                Err(error) => tracing::debug!(%error, "container events"),
            }
            tokio::select! {
                () = cancel.cancelled() => return,
                () = tokio::time::sleep(backoff.next_delay()) => {}
            }
        }
    }

    /// Waits until CRI too knows that a container or sandbox ended, and wakes its worker.
    async fn wait_ended(self, id: String) {
        let mut wait = Duration::from_millis(5);
        let deadline = tokio::time::Instant::now() + Duration::from_secs(10);
        loop {
            let running = match self.context.runtime.container_status(&id).await {
                Ok(status) => pod::state(&status) == v1::ContainerState::ContainerRunning,
                Err(_) => self.context.runtime.pod_sandbox_status(&id).await.is_ok_and(|s| pod::is_ready(&s)),
            };
            if !running || tokio::time::Instant::now() > deadline {
                break;
            }
            tokio::time::sleep(wait).await;
            wait = (wait * 2).min(Duration::from_millis(500));
        }
        let owner = self.context.owners.read().get(&id).cloned();
        if let Some(uid) = owner {
            self.wake(&uid);
        }
    }

    /// Compares what the runtime has with what it had, and wakes the workers of what changed: the net under the events,
    /// and all there is for a runtime without them.
    async fn relist(&self, states: &mut HashMap<String, (String, i32)>) {
        let cx = &self.context;
        let (Ok(containers), Ok(sandboxes)) =
            (cx.runtime.list_containers(HashMap::new()).await, cx.runtime.list_pod_sandboxes(HashMap::new()).await)
        else {
            return;
        };
        let uid = |labels: &HashMap<String, String>| labels.get(keys::POD_UID).cloned().unwrap_or_default();
        let containers = containers.into_iter().map(|c| (c.id, (uid(&c.labels), c.state)));
        let sandboxes = sandboxes.into_iter().map(|s| (s.id, (uid(&s.labels), s.state)));
        let now: HashMap<_, _> = containers.chain(sandboxes).collect();
        let changed = now.iter().filter(|(id, state)| states.get(*id) != Some(state)).map(|(_, (uid, _))| uid);
        let gone = states.iter().filter(|(id, _)| !now.contains_key(*id)).map(|(_, (uid, _))| uid);
        let uids: HashSet<&String> = changed.chain(gone).collect();
        for uid in uids {
            self.wake(uid);
        }
        *states = now;
    }
}

/// Starts a node agent. It is complete when this returns: the runtime answers, and the loops run as tasks of the
/// supervisor until that is shut down. Pods go on running then.
pub async fn start(config: Config, client: kube::Client, supervisor: &Supervisor) -> Result<Kubelet, Error> {
    let io = |what: &str| {
        let what = what.to_owned();
        move |source| Error::Io { what, source }
    };
    let runtime: Arc<dyn Runtime> = match config.runtime.clone() {
        RuntimeChoice::Supervised(options) => {
            let supervised = Supervised::start(options).await?;
            let client = supervised.client();
            supervisor.spawn(TaskKind::Process, "containerd", move |stop| supervised.supervise(stop));
            Arc::new(client)
        }
        RuntimeChoice::Endpoint(endpoint) => Arc::new(Client::new(&endpoint)?),
        RuntimeChoice::Given(runtime) => runtime,
    };
    let version = runtime.version().await?;
    let cgroups = match config.hollow {
        true => None,
        false => {
            std::fs::create_dir_all(config.root_dir.join("pods")).map_err(io("create the kubelet's folder"))?;
            std::fs::create_dir_all(&config.log_dir).map_err(io("create the folder of pod logs"))?;
            let cgroups = Cgroups::new(&config.cgroup_root);
            cgroups.create_classes().map_err(io("create the cgroups of pods"))?;
            Some(cgroups)
        }
    };
    let api = Api::with_user_agent(
        client.clone(),
        &format!("kubelet/v1.36.0 (linux/{}) orkd/{}", std::env::consts::ARCH, env!("CARGO_PKG_VERSION")),
    );
    let recorder = Recorder::new(api.clone(), supervisor, "kubelet", &config.node.name);
    let informers = Informers::with_api(api.clone(), supervisor.clone());
    let services: Option<Informer<ServiceView>> = (!config.hollow).then(|| informers.informer());
    let pods: Informer<PodView> =
        informers.informer_with(Options::fields(format!("spec.nodeName={}", config.node.name)));
    let own: Informer<NodeView> =
        informers.informer_with(Options::fields(format!("metadata.name={}", config.node.name)));
    let objects = Arc::new(ApiObjects(client));
    let status = StatusManager::default();
    let drivers = csi::Known::default();
    let mut settings = config.node.clone();
    let allocatable = settings.allocatable(node::capacity(&config.root_dir));
    let bytes = |number: u64| i64::try_from(number).unwrap_or(i64::MAX);
    let ips: Vec<String> = config.node.ips.iter().map(IpAddr::to_string).collect();
    let context = Arc::new(NodeContext {
        node_name: config.node.name.clone(),
        images: Images::new(runtime.clone()),
        volumes: Volumes::new(config.root_dir.clone(), objects.clone())
            .with_drivers(&config.node.name, drivers.storage.clone()),
        devices: dra::Manager::new(
            (!config.hollow).then_some(config.root_dir.as_path()),
            objects.clone(),
            drivers.devices.clone(),
        ),
        objects,
        cgroups,
        hollow: config.hollow,
        probes: Probes::new(runtime.clone(), recorder.clone(), supervisor.clone()),
        recorder,
        status: status.clone(),
        services: Box::new(move |namespace| {
            let Some(services) = &services else { return Vec::new() };
            let own = services.list_namespace(namespace);
            let master = services.get_named("default", "kubernetes").filter(|_| namespace != "default");
            own.into_iter().chain(master).map(|s| (*s.object).clone()).collect()
        }),
        log_dir: config.log_dir.clone(),
        seccomp_dir: config.root_dir.join("seccomp"),
        cluster_dns: config.cluster_dns.iter().map(IpAddr::to_string).collect(),
        cluster_domain: config.cluster_domain.clone(),
        resolv_conf: config.resolv_conf.clone(),
        facts: RwLock::new(NodeFacts {
            host_ips: ips,
            milli_cpu: bytes(allocatable.cpus * 1000),
            memory: bytes(allocatable.memory),
            storage: bytes(allocatable.storage),
        }),
        pressures: Pressures::default(),
        allocations: Allocations::of_node(own.clone(), (!config.hollow).then_some(config.root_dir.as_path())),
        owners: RwLock::default(),
        runtime_name: version.runtime_name,
        runtime: runtime.clone(),
    });
    let kubelet = Kubelet { context, workers: Arc::default() };

    let mirror_api = api.clone();
    let (root, node_api) = (config.root_dir.clone(), api.clone());
    if !config.hollow {
        settings.storage = kubelet.context.volumes.storage().to_string_lossy().into_owned();
    }
    supervisor.spawn(TaskKind::Node, "node status", {
        let (runtime, recorder) = (runtime.clone(), kubelet.context.recorder.clone());
        let pressures = kubelet.context.pressures.watch();
        let sources = node::Sources { runtime, root, own, pressures };
        move |stop| node::run(node_api, settings, sources, recorder, stop)
    });
    if !config.hollow {
        let (slices, own, devices) = (api.clone(), config.node.name.clone(), drivers.devices.clone());
        supervisor.spawn(TaskKind::Node, "slices", move |stop| dra::slices::run(slices, own, devices, stop));
        let (api, name, root) = (api.clone(), config.node.name.clone(), config.root_dir.clone());
        supervisor.spawn(TaskKind::Node, "drivers", move |stop| csi::run(api, name, root, drivers, stop));
    }
    supervisor.spawn(TaskKind::Node, "pod statuses", {
        let supervisor = supervisor.clone();
        move |stop| status.run(api, supervisor, stop)
    });
    supervisor.spawn(TaskKind::Node, "container events", {
        let (kubelet, supervisor) = (kubelet.clone(), supervisor.clone());
        move |stop| kubelet.follow_events(supervisor, stop)
    });
    supervisor.spawn(TaskKind::Node, "resizes", {
        let kubelet = kubelet.clone();
        move |stop| kubelet.follow_resizes(stop)
    });
    let (changes, static_pods) = mpsc::unbounded_channel();
    if let Some(dir) = config.manifest_dir.clone() {
        let name = config.node.name.clone();
        let changes = changes.clone();
        supervisor.spawn(TaskKind::Node, "static pods", move |stop| static_pods::watch(dir, name, changes, stop));
    }
    if !config.hollow {
        let log_dir = config.log_dir.clone();
        let images = Arc::new(image_gc::Collector::new(runtime.clone(), config.image_gc));
        let (collector, recorder) = (images.clone(), kubelet.context.recorder.clone());
        let name = config.node.name.clone();
        supervisor
            .spawn(TaskKind::Housekeeping, "image garbage collection", move |stop| collector.run(name, recorder, stop));
        let manager = eviction::Manager::new(config.node.eviction.clone(), kubelet.context.clone(), images);
        let workers = kubelet.workers.clone();
        supervisor.spawn(TaskKind::Housekeeping, "eviction", move |stop| {
            manager.run(move || workers.lock().values().cloned().collect(), stop)
        });
        supervisor.spawn(TaskKind::Housekeeping, "log rotation", move |stop| log_rotation::run(log_dir, runtime, stop));
    }
    let sources = Sources { pods, informers, api: mirror_api, static_pods, _keep: changes };
    supervisor.spawn(TaskKind::Node, "pods", {
        let (kubelet, supervisor) = (kubelet.clone(), supervisor.clone());
        move |stop| follow_pods(kubelet, sources, supervisor, stop)
    });
    Ok(kubelet)
}

/// Where pods come from.
struct Sources {
    pods: Informer<PodView>,
    informers: Informers,
    api: Api,
    static_pods: mpsc::UnboundedReceiver<static_pods::Change>,
    /// Keeps the channel open on a node without static pods.
    _keep: mpsc::UnboundedSender<static_pods::Change>,
}

/// Hands changes of pods to their workers.
async fn follow_pods(kubelet: Kubelet, mut sources: Sources, supervisor: Supervisor, stop: CancellationToken) {
    let mut changes = sources.pods.channel();
    let (ended, mut ends) = mpsc::unbounded_channel();
    let mut statics: HashMap<String, Arc<Pod>> = HashMap::new();
    // Environments need the services, and nothing is an orphan before the pods are known. Static pods do not wait for
    // an API server, which may be one of them.
    let mut synced = false;
    let mut mirror_again = false;
    loop {
        let mirrors_changed = tokio::select! {
            () = stop.cancelled() => return,
            () = sources.informers.synced(), if !synced => {
                synced = true;
                let pods = sources.pods.list();
                let known = pods.iter().map(|p| pod::uid(&p.object).to_owned()).chain(statics.keys().cloned());
                let (known, orphans): (HashSet<String>, _) = (known.collect(), kubelet.clone());
                supervisor.spawn(TaskKind::Worker, "orphans", move |_| async move {
                    orphans.remove_orphans(&known).await;
                });
                true
            }
            change = changes.recv(), if synced => {
                let Some(change) = change else { return };
                let pod = change.object().object.clone();
                if pod::is_mirror(&pod) {
                    let uid = (!change.is_deleted()).then(|| pod::uid(&pod).to_owned());
                    kubelet.context.status.mirror(&pod, uid);
                    true
                } else {
                    kubelet.take(pod, change.is_deleted(), &supervisor, &ended);
                    false
                }
            }
            Some((pod, gone)) = sources.static_pods.recv() => {
                let uid = pod::uid(&pod).to_owned();
                match gone {
                    true => statics.remove(&uid),
                    false => statics.insert(uid, pod.clone()),
                };
                kubelet.take(pod, gone, &supervisor, &ended);
                synced
            }
            () = tokio::time::sleep(MIRROR_RETRY), if mirror_again => true,
            Some(uid) = ends.recv() => {
                kubelet.workers.lock().remove(&uid);
                // A manifest that came back while its pod was ending.
                if let Some(pod) = statics.get(&uid) {
                    kubelet.take(pod.clone(), false, &supervisor, &ended);
                }
                false
            }
        };
        if mirrors_changed {
            let mirrors: Vec<_> =
                sources.pods.list().iter().map(|p| p.object.clone()).filter(|p| pod::is_mirror(p)).collect();
            if !(mirrors.is_empty() && statics.is_empty()) {
                let wanted: Vec<_> = statics.values().cloned().collect();
                let name = &kubelet.context.node_name;
                mirror_again = !static_pods::sync_mirrors(&sources.api, name, &wanted, &mirrors).await;
            }
        }
    }
}
