//! A runtime in memory. It keeps the state a real one keeps (sandboxes, containers, images, events), can be asked
//! which calls it got ([`Fake::calls`]) and be told to fail some ([`Fake::fail_next`], [`Fake::fail_always`]) or to take
//! its time ([`Fake::slow`]), and its containers can be made to end ([`Fake::exit_container`]). A kubelet on it is a
//! hollow node.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use async_trait::async_trait;
use futures_util::StreamExt;
use parking_lot::Mutex;
use tokio::sync::broadcast;

use crate::v1::{ContainerState, PodSandboxState};
use crate::{Code, ContainerEvent, Error, EventStream, ImageService, Result, RuntimeService, v1};

/// Calls kept for questions; older ones are forgotten.
const MAX_CALLS: usize = 10_000;

/// A call the fake got: its CRI name and the id or image it was about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FakeCall {
    /// The call, for example `RunPodSandbox`.
    pub name: &'static str,
    /// What it was about: a sandbox, container or image.
    pub subject: String,
}

struct FakeSandbox {
    config: v1::PodSandboxConfig,
    handler: String,
    state: PodSandboxState,
    created_at: i64,
    ip: String,
}

struct FakeContainer {
    config: v1::ContainerConfig,
    sandbox: String,
    status: v1::ContainerStatus,
}

#[derive(Default)]
struct State {
    next: u64,
    sandboxes: BTreeMap<String, FakeSandbox>,
    containers: BTreeMap<String, FakeContainer>,
    images: BTreeMap<String, v1::Image>,
    calls: VecDeque<FakeCall>,
    fail_next: HashMap<&'static str, VecDeque<Error>>,
    fail_always: HashMap<&'static str, Error>,
    slow: HashMap<&'static str, Duration>,
    exec: HashMap<String, v1::ExecSyncResponse>,
}

/// The fake runtime.
pub struct Fake {
    state: Arc<Mutex<State>>,
    events: broadcast::Sender<ContainerEvent>,
    ip_prefix: [u8; 2],
}

impl Default for Fake {
    fn default() -> Self {
        Self::new()
    }
}

fn now() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| i64::try_from(d.as_nanos()).unwrap_or(i64::MAX))
}

impl Fake {
    /// A runtime with nothing in it, whose pods get addresses in 10.200.0.0/16.
    pub fn new() -> Self {
        Self::with_ip_prefix([10, 200])
    }

    /// As [`Fake::new`], with another /16 for pod addresses.
    pub fn with_ip_prefix(ip_prefix: [u8; 2]) -> Self {
        Self { state: Arc::default(), events: broadcast::channel(1024).0, ip_prefix }
    }

    /// The calls so far, oldest first.
    pub fn calls(&self) -> Vec<FakeCall> {
        self.state.lock().calls.iter().cloned().collect()
    }

    /// The names of the calls so far, without those that only look.
    pub fn changes(&self) -> Vec<&'static str> {
        let looks = ["Version", "Status", "ListPodSandbox", "ListContainers", "ContainerStatus", "PodSandboxStatus"];
        let images = ["ListImages", "ImageStatus", "ImageFsInfo", "RuntimeConfig"];
        let state = self.state.lock();
        state.calls.iter().map(|c| c.name).filter(|n| !looks.contains(n) && !images.contains(n)).collect()
    }

    /// Makes the next such call fail. May be given several times; they fail in order.
    pub fn fail_next(&self, call: &'static str, error: Error) {
        self.state.lock().fail_next.entry(call).or_default().push_back(error);
    }

    /// Makes every such call fail, until [`Fake::heal`].
    pub fn fail_always(&self, call: &'static str, error: Error) {
        self.state.lock().fail_always.insert(call, error);
    }

    /// Makes `RunPodSandbox` or `StartContainer` take this long. As with a real runtime, a call that its caller gives up
    /// has its effect all the same.
    pub fn slow(&self, call: &'static str, takes: Duration) {
        self.state.lock().slow.insert(call, takes);
    }

    /// Changes the state, now or when the call's time is over.
    async fn take_time<T: Send + 'static>(
        &self,
        call: &'static str,
        effect: impl FnOnce(&mut State) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let Some(takes) = self.state.lock().slow.get(call).copied() else { return effect(&mut self.state.lock()) };
        let state = self.state.clone();
        let late = tokio::spawn(async move {
            tokio::time::sleep(takes).await;
            effect(&mut state.lock())
        });
        late.await.unwrap_or_else(|e| Err(Error::new(Code::Internal, e.to_string())))
    }

    /// Takes back [`Fake::fail_next`] and [`Fake::fail_always`].
    pub fn heal(&self) {
        let mut state = self.state.lock();
        state.fail_next.clear();
        state.fail_always.clear();
    }

    /// What a command run by ExecSync answers, chosen by its first word; anything else exits 0 in silence.
    pub fn answer_exec(&self, first_word: &str, answer: v1::ExecSyncResponse) {
        self.state.lock().exec.insert(first_word.to_owned(), answer);
    }

    /// Ids of the containers with this name, oldest first.
    pub fn containers_named(&self, name: &str) -> Vec<String> {
        let state = self.state.lock();
        let mut found: Vec<_> = state
            .containers
            .iter()
            .filter(|(_, c)| c.config.metadata.as_ref().is_some_and(|m| m.name == name))
            .map(|(id, c)| (c.status.created_at, id.clone()))
            .collect();
        found.sort();
        found.into_iter().map(|(_, id)| id).collect()
    }

    /// What a container was created with.
    pub fn container_config(&self, id: &str) -> Option<v1::ContainerConfig> {
        self.state.lock().containers.get(id).map(|c| c.config.clone())
    }

    /// What a sandbox was created with.
    pub fn sandbox_config(&self, id: &str) -> Option<v1::PodSandboxConfig> {
        self.state.lock().sandboxes.get(id).map(|s| s.config.clone())
    }

    /// Puts an image on the node.
    pub fn add_image(&self, name: &str) {
        let mut state = self.state.lock();
        let image = fake_image(name);
        state.images.insert(name.to_owned(), image);
    }

    /// Ends a running container; false if there is none of this id that runs.
    pub fn exit_container(&self, id: &str, exit_code: i32) -> bool {
        let done = {
            let mut state = self.state.lock();
            state.containers.get_mut(id).is_some_and(|c| end(&mut c.status, exit_code))
        };
        if done {
            self.tell(id);
        }
        done
    }

    /// Ends a sandbox as if its pause process died.
    pub fn kill_sandbox(&self, id: &str) {
        if let Some(sandbox) = self.state.lock().sandboxes.get_mut(id) {
            sandbox.state = PodSandboxState::SandboxNotready;
        }
        self.tell(id);
    }

    fn tell(&self, id: &str) {
        let (sandbox_id, pod_uid) = {
            let state = self.state.lock();
            let sandbox = state.containers.get(id).map_or(id, |c| c.sandbox.as_str());
            let uid = state.sandboxes.get(sandbox).and_then(|s| s.config.metadata.as_ref()).map(|m| m.uid.clone());
            (Some(sandbox.to_owned()), uid)
        };
        // Nobody listening is fine.
        let _ = self.events.send(ContainerEvent { id: id.to_owned(), sandbox_id, pod_uid, ended: false });
    }

    fn enter(&self, name: &'static str, subject: &str) -> Result<parking_lot::MutexGuard<'_, State>> {
        let mut state = self.state.lock();
        if state.calls.len() == MAX_CALLS {
            state.calls.pop_front();
        }
        state.calls.push_back(FakeCall { name, subject: subject.to_owned() });
        if let Some(error) = state.fail_next.get_mut(name).and_then(VecDeque::pop_front) {
            return Err(error);
        }
        if let Some(error) = state.fail_always.get(name) {
            return Err(error.clone());
        }
        Ok(state)
    }
}

/// Marks a container as ended; false if it did not run.
fn end(status: &mut v1::ContainerStatus, exit_code: i32) -> bool {
    if status.state != i32::from(ContainerState::ContainerRunning) {
        return false;
    }
    status.state = ContainerState::ContainerExited.into();
    status.finished_at = now();
    status.exit_code = exit_code;
    status.reason = if exit_code == 0 { "Completed" } else { "Error" }.to_owned();
    true
}

fn fake_image(name: &str) -> v1::Image {
    // A stable stand-in for a digest: FNV-1a of the name, padded to 64 digits.
    let hash = name.bytes().fold(0xcbf2_9ce4_8422_2325u64, |h, b| (h ^ u64::from(b)).wrapping_mul(0x100_0000_01b3));
    let id = format!("sha256:{hash:064x}");
    let repository = name.rsplit_once(':').map_or(name, |(r, t)| if t.contains('/') { name } else { r });
    v1::Image {
        repo_digests: vec![format!("{repository}@{id}")],
        id,
        repo_tags: vec![name.to_owned()],
        size: 1 << 20,
        ..Default::default()
    }
}

fn matches(labels: &HashMap<String, String>, wanted: &HashMap<String, String>) -> bool {
    wanted.iter().all(|(k, v)| labels.get(k) == Some(v))
}

fn not_found(what: &str, id: &str) -> Error {
    Error::new(Code::NotFound, format!("{what} {id:?}: not found"))
}

#[async_trait]
impl RuntimeService for Fake {
    async fn version(&self) -> Result<v1::VersionResponse> {
        drop(self.enter("Version", "")?);
        Ok(v1::VersionResponse {
            version: "0.1.0".to_owned(),
            runtime_name: "fake".to_owned(),
            runtime_version: "0.1.0".to_owned(),
            runtime_api_version: "v1".to_owned(),
        })
    }

    async fn status(&self) -> Result<v1::StatusResponse> {
        drop(self.enter("Status", "")?);
        let condition =
            |kind: &str| v1::RuntimeCondition { r#type: kind.to_owned(), status: true, ..Default::default() };
        Ok(v1::StatusResponse {
            status: Some(v1::RuntimeStatus { conditions: vec![condition("RuntimeReady"), condition("NetworkReady")] }),
            ..Default::default()
        })
    }

    async fn runtime_config(&self) -> Result<Option<v1::RuntimeConfigResponse>> {
        drop(self.enter("RuntimeConfig", "")?);
        Ok(None)
    }

    async fn update_runtime_config(&self, pod_cidr: &str) -> Result<()> {
        self.enter("UpdateRuntimeConfig", pod_cidr).map(drop)
    }

    async fn run_pod_sandbox(&self, config: v1::PodSandboxConfig, handler: &str) -> Result<String> {
        let name = config.metadata.as_ref().map(|m| format!("{}/{}", m.namespace, m.name)).unwrap_or_default();
        drop(self.enter("RunPodSandbox", &name)?);
        let ([a, b], handler) = (self.ip_prefix, handler.to_owned());
        let run = move |state: &mut State| {
            state.next += 1;
            let n = state.next;
            let id = format!("{n:064x}");
            let host_network = config
                .linux
                .as_ref()
                .and_then(|l| l.security_context.as_ref()?.namespace_options.as_ref())
                .is_some_and(|o| o.network == i32::from(v1::NamespaceMode::Node));
            let ip = if host_network { String::new() } else { format!("{a}.{b}.{}.{}", (n >> 8) & 0xff, n & 0xff) };
            let ready = PodSandboxState::SandboxReady;
            state.sandboxes.insert(id.clone(), FakeSandbox { config, handler, state: ready, created_at: now(), ip });
            Ok(id)
        };
        let id = self.take_time("RunPodSandbox", run).await?;
        self.tell(&id);
        Ok(id)
    }

    async fn stop_pod_sandbox(&self, id: &str) -> Result<()> {
        {
            let mut state = self.enter("StopPodSandbox", id)?;
            if let Some(sandbox) = state.sandboxes.get_mut(id) {
                sandbox.state = PodSandboxState::SandboxNotready;
            }
            for container in state.containers.values_mut().filter(|c| c.sandbox == id) {
                end(&mut container.status, 137);
            }
        }
        self.tell(id);
        Ok(())
    }

    async fn remove_pod_sandbox(&self, id: &str) -> Result<()> {
        let mut state = self.enter("RemovePodSandbox", id)?;
        state.sandboxes.remove(id);
        state.containers.retain(|_, c| c.sandbox != id);
        Ok(())
    }

    async fn pod_sandbox_status(&self, id: &str) -> Result<v1::PodSandboxStatus> {
        let state = self.enter("PodSandboxStatus", id)?;
        let sandbox = state.sandboxes.get(id).ok_or_else(|| not_found("sandbox", id))?;
        Ok(v1::PodSandboxStatus {
            id: id.to_owned(),
            metadata: sandbox.config.metadata.clone(),
            state: sandbox.state.into(),
            created_at: sandbox.created_at,
            network: Some(v1::PodSandboxNetworkStatus { ip: sandbox.ip.clone(), additional_ips: Vec::new() }),
            linux: None,
            labels: sandbox.config.labels.clone(),
            annotations: sandbox.config.annotations.clone(),
            runtime_handler: sandbox.handler.clone(),
        })
    }

    async fn list_pod_sandboxes(&self, labels: HashMap<String, String>) -> Result<Vec<v1::PodSandbox>> {
        let state = self.enter("ListPodSandbox", "")?;
        let items =
            state.sandboxes.iter().filter(|(_, s)| matches(&s.config.labels, &labels)).map(|(id, s)| v1::PodSandbox {
                id: id.clone(),
                metadata: s.config.metadata.clone(),
                state: s.state.into(),
                created_at: s.created_at,
                labels: s.config.labels.clone(),
                annotations: s.config.annotations.clone(),
                runtime_handler: s.handler.clone(),
            });
        Ok(items.collect())
    }

    async fn create_container(
        &self,
        sandbox_id: &str,
        config: v1::ContainerConfig,
        _sandbox: v1::PodSandboxConfig,
    ) -> Result<String> {
        let name = config.metadata.as_ref().map(|m| m.name.clone()).unwrap_or_default();
        let id = {
            let mut state = self.enter("CreateContainer", &name)?;
            if !state.sandboxes.contains_key(sandbox_id) {
                return Err(not_found("sandbox", sandbox_id));
            }
            state.next += 1;
            let id = format!("{:064x}", state.next);
            let image = config.image.as_ref().map(|i| i.image.clone()).unwrap_or_default();
            let found = state.images.values().find(|i| i.id == image || i.repo_tags.contains(&image));
            let status = v1::ContainerStatus {
                id: id.clone(),
                metadata: config.metadata.clone(),
                state: ContainerState::ContainerCreated.into(),
                created_at: now(),
                image_ref: found.and_then(|i| i.repo_digests.first().cloned()).unwrap_or_default(),
                image_id: found.map(|i| i.id.clone()).unwrap_or_default(),
                image: config.image.clone(),
                labels: config.labels.clone(),
                annotations: config.annotations.clone(),
                mounts: config.mounts.clone(),
                log_path: config.log_path.clone(),
                ..Default::default()
            };
            state.containers.insert(id.clone(), FakeContainer { config, sandbox: sandbox_id.to_owned(), status });
            id
        };
        self.tell(&id);
        Ok(id)
    }

    async fn start_container(&self, id: &str) -> Result<()> {
        drop(self.enter("StartContainer", id)?);
        let started = id.to_owned();
        let start = move |state: &mut State| {
            let container = state.containers.get_mut(&started).ok_or_else(|| not_found("container", &started))?;
            container.status.state = ContainerState::ContainerRunning.into();
            container.status.started_at = now();
            Ok(())
        };
        self.take_time("StartContainer", start).await?;
        self.tell(id);
        Ok(())
    }

    async fn stop_container(&self, id: &str, _grace_seconds: i64) -> Result<()> {
        let done = {
            let mut state = self.enter("StopContainer", id)?;
            state.containers.get_mut(id).is_some_and(|c| end(&mut c.status, 143))
        };
        if done {
            self.tell(id);
        }
        Ok(())
    }

    async fn remove_container(&self, id: &str) -> Result<()> {
        self.enter("RemoveContainer", id)?.containers.remove(id);
        Ok(())
    }

    async fn list_containers(&self, labels: HashMap<String, String>) -> Result<Vec<v1::Container>> {
        let state = self.enter("ListContainers", "")?;
        let items = state.containers.values().filter(|c| matches(&c.config.labels, &labels)).map(|c| v1::Container {
            id: c.status.id.clone(),
            pod_sandbox_id: c.sandbox.clone(),
            metadata: c.config.metadata.clone(),
            image: c.config.image.clone(),
            image_ref: c.status.image_ref.clone(),
            state: c.status.state,
            created_at: c.status.created_at,
            labels: c.config.labels.clone(),
            annotations: c.config.annotations.clone(),
            image_id: c.status.image_id.clone(),
        });
        Ok(items.collect())
    }

    async fn container_status(&self, id: &str) -> Result<v1::ContainerStatus> {
        let state = self.enter("ContainerStatus", id)?;
        state.containers.get(id).map(|c| c.status.clone()).ok_or_else(|| not_found("container", id))
    }

    async fn container_status_verbose(&self, id: &str) -> Result<v1::ContainerStatusResponse> {
        let status = self.container_status(id).await?;
        Ok(v1::ContainerStatusResponse { status: Some(status), info: HashMap::new() })
    }

    async fn update_container_resources(&self, id: &str, linux: v1::LinuxContainerResources) -> Result<()> {
        let mut state = self.enter("UpdateContainerResources", id)?;
        let container = state.containers.get_mut(id).ok_or_else(|| not_found("container", id))?;
        container.status.resources = Some(v1::ContainerResources { linux: Some(linux) });
        Ok(())
    }

    async fn reopen_container_log(&self, id: &str) -> Result<()> {
        self.enter("ReopenContainerLog", id).map(drop)
    }

    async fn exec_sync(&self, id: &str, cmd: Vec<String>, _timeout_seconds: i64) -> Result<v1::ExecSyncResponse> {
        let state = self.enter("ExecSync", id)?;
        Ok(cmd.first().and_then(|word| state.exec.get(word)).cloned().unwrap_or_default())
    }

    async fn exec(&self, request: v1::ExecRequest) -> Result<String> {
        drop(self.enter("Exec", &request.container_id)?);
        Err(Error::new(Code::Unimplemented, "the fake runtime does not stream"))
    }

    async fn attach(&self, request: v1::AttachRequest) -> Result<String> {
        drop(self.enter("Attach", &request.container_id)?);
        Err(Error::new(Code::Unimplemented, "the fake runtime does not stream"))
    }

    async fn port_forward(&self, request: v1::PortForwardRequest) -> Result<String> {
        drop(self.enter("PortForward", &request.pod_sandbox_id)?);
        Err(Error::new(Code::Unimplemented, "the fake runtime does not stream"))
    }

    async fn container_stats(&self, id: &str) -> Result<Option<v1::ContainerStats>> {
        self.enter("ContainerStats", id).map(|_| None)
    }

    async fn list_container_stats(&self) -> Result<Vec<v1::ContainerStats>> {
        self.enter("ListContainerStats", "").map(|_| Vec::new())
    }

    async fn pod_sandbox_stats(&self, id: &str) -> Result<Option<v1::PodSandboxStats>> {
        self.enter("PodSandboxStats", id).map(|_| None)
    }

    async fn container_events(&self) -> Result<Option<EventStream>> {
        drop(self.enter("GetContainerEvents", "")?);
        let receiver = self.events.subscribe();
        let stream = futures_util::stream::unfold(receiver, |mut receiver| async move {
            match receiver.recv().await {
                Ok(event) => Some((Ok(event), receiver)),
                Err(broadcast::error::RecvError::Lagged(n)) => {
                    Some((Err(Error::new(Code::ResourceExhausted, format!("{n} events were missed"))), receiver))
                }
                Err(broadcast::error::RecvError::Closed) => None,
            }
        });
        Ok(Some(stream.boxed()))
    }
}

#[async_trait]
impl ImageService for Fake {
    async fn list_images(&self) -> Result<Vec<v1::Image>> {
        Ok(self.enter("ListImages", "")?.images.values().cloned().collect())
    }

    async fn image_status(&self, image: v1::ImageSpec) -> Result<Option<v1::Image>> {
        let state = self.enter("ImageStatus", &image.image)?;
        Ok(state.images.values().find(|i| i.id == image.image || i.repo_tags.contains(&image.image)).cloned())
    }

    async fn pull_image(
        &self,
        image: v1::ImageSpec,
        _auth: Option<v1::AuthConfig>,
        _sandbox: Option<v1::PodSandboxConfig>,
    ) -> Result<String> {
        let mut state = self.enter("PullImage", &image.image)?;
        let pulled = fake_image(&image.image);
        let id = pulled.id.clone();
        state.images.insert(image.image, pulled);
        Ok(id)
    }

    async fn remove_image(&self, image: v1::ImageSpec) -> Result<()> {
        let mut state = self.enter("RemoveImage", &image.image)?;
        state.images.retain(|_, i| i.id != image.image && !i.repo_tags.contains(&image.image));
        Ok(())
    }

    async fn image_fs_info(&self) -> Result<v1::ImageFsInfoResponse> {
        self.enter("ImageFsInfo", "").map(|_| v1::ImageFsInfoResponse::default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn containers_live_and_die_and_faults_are_injected() -> Result<()> {
        let fake = Fake::new();
        let Some(mut events) = fake.container_events().await? else { return Err(not_found("events", "")) };
        fake.fail_next("RunPodSandbox", Error::new(Code::Unknown, "no network"));
        assert!(fake.run_pod_sandbox(v1::PodSandboxConfig::default(), "").await.is_err());
        let sandbox = fake.run_pod_sandbox(v1::PodSandboxConfig::default(), "").await?;
        let config = v1::ContainerConfig {
            metadata: Some(v1::ContainerMetadata { name: "c".to_owned(), attempt: 0 }),
            ..Default::default()
        };
        let id = fake.create_container(&sandbox, config, v1::PodSandboxConfig::default()).await?;
        fake.start_container(&id).await?;
        assert!(fake.exit_container(&id, 3));
        assert!(!fake.exit_container(&id, 3), "only once");
        assert_eq!(fake.container_status(&id).await?.exit_code, 3);
        assert_eq!(fake.containers_named("c"), std::slice::from_ref(&id));
        let first = events.next().await.transpose()?;
        assert_eq!(first.map(|e| e.id), Some(sandbox.clone()));
        fake.remove_pod_sandbox(&sandbox).await?;
        assert!(fake.container_status(&id).await.is_err_and(|e| e.is_not_found()));
        Ok(())
    }
}
