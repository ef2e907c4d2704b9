//! One pod worker without an API server.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use k8s_openapi::api::core::v1::{ConfigMap, Pod, PodStatus, Secret};
use k8s_openapi::jiff::Timestamp;
use orkd_base::Supervisor;
use orkd_cri::Runtime;
use orkd_kubelet::allocation::{self, Allocations};
use orkd_kubelet::cgroup::Cgroups;
use orkd_kubelet::dra::{Drivers, Manager};
use orkd_kubelet::eviction::Pressures;
use orkd_kubelet::images::Images;
use orkd_kubelet::node_context::{NodeContext, NodeFacts};
use orkd_kubelet::objects::Objects;
use orkd_kubelet::pod;
use orkd_kubelet::probes::Probes;
use orkd_kubelet::status::manager::StatusManager;
use orkd_kubelet::volumes::Volumes;
use orkd_kubelet::worker::{self, Handle};
use orkd_reconcile::Recorder;
use parking_lot::RwLock;
use serde_json::json;
use tokio_util::sync::CancellationToken;

/// A ConfigMap `settings` with the key `colour`, and nothing else.
struct Few;

#[async_trait]
impl Objects for Few {
    async fn config_map(&self, _: &str, name: &str) -> Result<Option<ConfigMap>, String> {
        let data = BTreeMap::from([("colour".to_owned(), "blue".to_owned())]);
        Ok((name == "settings").then(|| ConfigMap { data: Some(data), ..ConfigMap::default() }))
    }
    async fn secret(&self, _: &str, _: &str) -> Result<Option<Secret>, String> {
        Ok(None)
    }
    async fn token(&self, _: &Pod, _: &str, _: Option<&str>, _: Duration) -> Result<(String, Timestamp), String> {
        Ok(("token".to_owned(), Timestamp::MAX))
    }
}

/// A node around a runtime. `dir` is where files go, or nothing for a hollow node.
pub fn node(runtime: Arc<dyn Runtime>, dir: Option<&Path>, cgroups: Option<Cgroups>) -> Arc<NodeContext> {
    let root = dir.unwrap_or(Path::new("/nonexistent"));
    let recorder = Recorder::discarding();
    Arc::new(NodeContext {
        node_name: "n".to_owned(),
        runtime_name: "containerd".to_owned(),
        images: Images::new(runtime.clone()),
        volumes: Volumes::new(root.join("kubelet"), Arc::new(Few)),
        devices: Manager::new(None, Arc::new(Few), Drivers::default()),
        objects: Arc::new(Few),
        cgroups,
        hollow: dir.is_none(),
        probes: Probes::new(runtime.clone(), recorder.clone(), Supervisor::new()),
        recorder,
        status: StatusManager::default(),
        services: Box::new(|_| Vec::new()),
        log_dir: root.join("logs"),
        seccomp_dir: root.join("seccomp"),
        cluster_dns: Vec::new(),
        cluster_domain: "cluster.local".to_owned(),
        resolv_conf: "/etc/resolv.conf".into(),
        facts: RwLock::new(NodeFacts { host_ips: vec!["127.0.0.1".to_owned()], ..NodeFacts::default() }),
        pressures: Pressures::default(),
        allocations: Allocations::default(),
        owners: RwLock::default(),
        runtime,
    })
}

/// A pod that a worker looks after.
pub struct Running {
    pub cx: Arc<NodeContext>,
    pub handle: Arc<Handle>,
    pub uid: String,
    pub stop: CancellationToken,
    task: tokio::task::JoinHandle<bool>,
}

/// Starts a worker; container events wake it.
pub async fn run(cx: &Arc<NodeContext>, uid: &str, spec: serde_json::Value) -> Running {
    let pod: Pod = serde_json::from_value(json!({
        "metadata": {"name": "p", "namespace": "default", "uid": uid}, "spec": spec,
    }))
    .expect("a pod");
    let handle = Handle::new(Arc::new(pod));
    let stop = CancellationToken::new();
    let events = cx.runtime.container_events().await.ok().flatten();
    let (waker, stopped) = (handle.clone(), stop.clone());
    tokio::spawn(async move {
        let Some(mut events) = events else { return };
        loop {
            tokio::select! {
                () = stopped.cancelled() => return,
                event = futures_util::StreamExt::next(&mut events) => match event {
                    Some(Ok(_)) => waker.wake(),
                    _ => return,
                }
            }
        }
    });
    let task = tokio::spawn(worker::run(cx.clone(), handle.clone(), stop.clone()));
    Running { cx: cx.clone(), handle, uid: uid.to_owned(), stop, task }
}

impl Running {
    /// Waits until the status says what is asked; shows the last one otherwise.
    pub async fn until(&self, what: &str, wanted: impl Fn(&PodStatus) -> bool) -> PodStatus {
        let deadline = tokio::time::Instant::now() + Duration::from_secs(60);
        loop {
            let status = self.cx.status.of(&self.uid).unwrap_or_default();
            if wanted(&status) {
                return status;
            }
            assert!(
                tokio::time::Instant::now() < deadline,
                "not {what}: {}",
                serde_json::to_string_pretty(&status).unwrap_or_default()
            );
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Waits until the pod is ready.
    pub async fn ready(&self) -> PodStatus {
        self.until("ready", |s| s.conditions.iter().flatten().any(|c| c.type_ == "Ready" && c.status == "True")).await
    }

    /// Deletes the pod as the API does, and waits for the worker's end.
    pub async fn delete(self, grace: i64) {
        let mut pod = (*self.handle.pod()).clone();
        pod.metadata.deletion_timestamp = Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(Timestamp::now()));
        pod.metadata.deletion_grace_period_seconds = Some(grace);
        self.handle.update(Arc::new(pod));
        self.until("ended", |s| s.phase.as_deref().is_some_and(pod::is_terminal_phase)).await;
        self.handle.gone();
        assert!(self.task.await.expect("the worker"), "the worker ended by itself");
        self.stop.cancel();
    }

    /// Changes the spec as the API does, and decides as the node's loop does.
    pub fn resize(&self, spec: serde_json::Value) {
        let mut pod = (*self.handle.pod()).clone();
        pod.spec = Some(serde_json::from_value(spec).expect("a spec"));
        pod.metadata.generation = Some(pod.metadata.generation.unwrap_or(1) + 1);
        let pod = Arc::new(pod);
        self.handle.update(pod.clone());
        assert_eq!(allocation::retry(&self.cx, &[pod]), std::slice::from_ref(&self.uid));
        self.handle.wake();
    }

    /// Ends the worker as a restart of the kubelet does.
    pub async fn forget(self) {
        self.stop.cancel();
        assert!(!self.task.await.expect("the worker"));
    }
}

/// The state of the only container, in a word: `running`, a waiting reason or an exit code.
pub fn state(status: &PodStatus) -> String {
    let container = status.container_statuses.iter().flatten().next().cloned().unwrap_or_default();
    let state = container.state.unwrap_or_default();
    if state.running.is_some() {
        return "running".to_owned();
    }
    match (state.waiting, state.terminated) {
        (Some(w), _) => w.reason.unwrap_or_default(),
        (_, Some(t)) => t.exit_code.to_string(),
        _ => String::new(),
    }
}
