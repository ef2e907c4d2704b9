//! The CRI v1 client over a unix socket.
//!
//! One HTTP/2 connection carries everything; it is made on first use and made again after the runtime restarted.
//! Answers up to 16 MiB are read (a node full of images outgrows the usual 4 MiB). Every call has a deadline:
//! two minutes unless said otherwise, four for creating sandboxes (as upstream's remote runtime), none for pulls
//! and event streams.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use async_trait::async_trait;
use futures_util::{StreamExt, TryStreamExt};
use hyper_util::rt::TokioIo;
use tonic::Request;
use tonic::transport::{Channel, Endpoint, Uri};

use crate::proto::containerd::services::events::v1 as ctd_events;
use crate::v1::image_service_client::ImageServiceClient;
use crate::v1::runtime_service_client::RuntimeServiceClient;
use crate::{Code, ContainerEvent, Error, EventStream, ImageService, Result, RuntimeService, v1};

/// The largest answer read.
const MAX_MESSAGE: usize = 16 << 20;
/// Deadline of ordinary calls.
const CALL: Duration = Duration::from_secs(120);
/// Deadline of creating and stopping sandboxes.
const SANDBOX: Duration = Duration::from_secs(240);

/// A CRI v1 client.
#[derive(Clone)]
pub struct Client {
    channel: Channel,
    socket: PathBuf,
}

impl std::fmt::Debug for Client {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Client").field("socket", &self.socket).finish()
    }
}

impl Client {
    /// A client of the runtime at a socket, given as a path or as `unix:///path`. Does not connect yet. Must be
    /// called inside a tokio runtime.
    pub fn new(endpoint: &str) -> Result<Self> {
        let path = endpoint.strip_prefix("unix://").unwrap_or(endpoint);
        if !path.starts_with('/') {
            return Err(Error::new(
                Code::InvalidArgument,
                format!("container runtime endpoint {endpoint:?} is not an absolute path of a unix socket"),
            ));
        }
        let socket = PathBuf::from(path);
        let target = socket.clone();
        let connector = tower::service_fn(move |_: Uri| {
            let target = target.clone();
            async move { tokio::net::UnixStream::connect(target).await.map(TokioIo::new) }
        });
        // The authority is never resolved; the connector goes to the socket.
        let channel = Endpoint::from_static("http://localhost").connect_with_connector_lazy(connector);
        Ok(Self { channel, socket })
    }

    /// The socket this client talks to.
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    pub(crate) fn channel(&self) -> Channel {
        self.channel.clone()
    }

    fn runtime(&self) -> RuntimeServiceClient<Channel> {
        RuntimeServiceClient::new(self.channel.clone())
            .max_decoding_message_size(MAX_MESSAGE)
            .max_encoding_message_size(MAX_MESSAGE)
    }

    fn images(&self) -> ImageServiceClient<Channel> {
        ImageServiceClient::new(self.channel.clone())
            .max_decoding_message_size(MAX_MESSAGE)
            .max_encoding_message_size(MAX_MESSAGE)
    }

    /// containerd's own events on the same socket, where CRI's are not offered.
    async fn containerd_events(&self) -> Result<Option<EventStream>> {
        let mut client =
            ctd_events::events_client::EventsClient::new(self.channel.clone()).max_decoding_message_size(MAX_MESSAGE);
        let filters = ["/tasks/start", "/tasks/exit", "/tasks/delete", "/tasks/oom", "/containers/create"]
            .map(|topic| format!("topic==\"{topic}\",namespace==\"k8s.io\""))
            .to_vec();
        let Some(stream) =
            opened(async move { client.subscribe(ctd_events::SubscribeRequest { filters }).await }).await?
        else {
            return Ok(None);
        };
        let events = stream.filter_map(|item| async move {
            match item {
                Ok(envelope) => {
                    let value = envelope.event?.value;
                    if envelope.topic == "/tasks/exit" {
                        let exit: ctd_events::TaskExit = prost::Message::decode(value.as_slice()).ok()?;
                        // The end of a command run inside a container is not the end of the container.
                        let ended = exit.id == exit.container_id;
                        let id = exit.container_id;
                        return ended.then_some(Ok(ContainerEvent { id, sandbox_id: None, pod_uid: None, ended }));
                    }
                    let event: ctd_events::TaskEvent = prost::Message::decode(value.as_slice()).ok()?;
                    let id = event.container_id;
                    Some(Ok(ContainerEvent { id, sandbox_id: None, pod_uid: None, ended: false }))
                }
                Err(status) => Some(Err(status.into())),
            }
        });
        Ok(Some(events.boxed()))
    }
}

/// A request that gives up after a while. The server is told, and the wait here is bounded as well, because a
/// runtime that hangs does not read deadlines.
async fn call<Q, A, F>(deadline: Duration, request: Q, f: impl FnOnce(Request<Q>) -> F) -> Result<A>
where
    F: Future<Output = std::result::Result<tonic::Response<A>, tonic::Status>>,
{
    let mut request = Request::new(request);
    request.set_timeout(deadline);
    match tokio::time::timeout(deadline + Duration::from_secs(1), f(request)).await {
        Ok(Ok(answer)) => Ok(answer.into_inner()),
        // tonic reports an expired deadline as Cancelled; upstream's client as DeadlineExceeded.
        Ok(Err(status)) if status.code() == Code::Cancelled && status.message().contains("imeout") => {
            Err(Error::new(Code::DeadlineExceeded, "context deadline exceeded"))
        }
        Ok(Err(status)) => Err(status.into()),
        Err(_) => Err(Error::new(Code::DeadlineExceeded, "context deadline exceeded")),
    }
}

/// Opens a stream of events; `None` if the server does not know the call. A server that has nothing to say yet sends
/// not even the head of its answer: after a moment of silence the stream is taken to be open.
async fn opened<T, F>(
    call: F,
) -> Result<Option<futures_util::stream::BoxStream<'static, std::result::Result<T, tonic::Status>>>>
where
    T: Send + 'static,
    F: Future<Output = std::result::Result<tonic::Response<tonic::Streaming<T>>, tonic::Status>> + Send + 'static,
{
    let late = futures_util::stream::once(call).map_ok(tonic::Response::into_inner).try_flatten();
    let mut stream = late.boxed().peekable();
    match tokio::time::timeout(Duration::from_millis(50), std::pin::Pin::new(&mut stream).peek()).await {
        Ok(Some(Err(status))) if status.code() == Code::Unimplemented => Ok(None),
        _ => Ok(Some(stream.boxed())),
    }
}

fn missing(what: &str) -> Error {
    Error::new(Code::Internal, format!("the runtime's answer has no {what}"))
}

#[async_trait]
impl RuntimeService for Client {
    async fn version(&self) -> Result<v1::VersionResponse> {
        let mut c = self.runtime();
        call(CALL, v1::VersionRequest { version: "v1".to_owned() }, |r| c.version(r)).await
    }

    async fn status(&self) -> Result<v1::StatusResponse> {
        let mut c = self.runtime();
        call(CALL, v1::StatusRequest { verbose: false }, |r| c.status(r)).await
    }

    async fn runtime_config(&self) -> Result<Option<v1::RuntimeConfigResponse>> {
        let mut c = self.runtime();
        match call(CALL, v1::RuntimeConfigRequest {}, |r| c.runtime_config(r)).await {
            Ok(answer) => Ok(Some(answer)),
            Err(e) if e.is_unimplemented() => Ok(None),
            Err(e) => Err(e),
        }
    }

    async fn update_runtime_config(&self, pod_cidr: &str) -> Result<()> {
        let mut c = self.runtime();
        let request = v1::UpdateRuntimeConfigRequest {
            runtime_config: Some(v1::RuntimeConfig {
                network_config: Some(v1::NetworkConfig { pod_cidr: pod_cidr.to_owned() }),
            }),
        };
        call(CALL, request, |r| c.update_runtime_config(r)).await.map(drop)
    }

    async fn run_pod_sandbox(&self, config: v1::PodSandboxConfig, handler: &str) -> Result<String> {
        let mut c = self.runtime();
        let request = v1::RunPodSandboxRequest { config: Some(config), runtime_handler: handler.to_owned() };
        call(SANDBOX, request, |r| c.run_pod_sandbox(r)).await.map(|a| a.pod_sandbox_id)
    }

    async fn stop_pod_sandbox(&self, id: &str) -> Result<()> {
        let mut c = self.runtime();
        let request = v1::StopPodSandboxRequest { pod_sandbox_id: id.to_owned() };
        call(SANDBOX, request, |r| c.stop_pod_sandbox(r)).await.map(drop)
    }

    async fn remove_pod_sandbox(&self, id: &str) -> Result<()> {
        let mut c = self.runtime();
        let request = v1::RemovePodSandboxRequest { pod_sandbox_id: id.to_owned() };
        call(SANDBOX, request, |r| c.remove_pod_sandbox(r)).await.map(drop)
    }

    async fn pod_sandbox_status(&self, id: &str) -> Result<v1::PodSandboxStatus> {
        let mut c = self.runtime();
        let request = v1::PodSandboxStatusRequest { pod_sandbox_id: id.to_owned(), verbose: false };
        call(CALL, request, |r| c.pod_sandbox_status(r)).await?.status.ok_or_else(|| missing("status"))
    }

    async fn list_pod_sandboxes(&self, labels: HashMap<String, String>) -> Result<Vec<v1::PodSandbox>> {
        let mut c = self.runtime();
        let filter = v1::PodSandboxFilter { label_selector: labels, ..Default::default() };
        let request = v1::ListPodSandboxRequest { filter: Some(filter) };
        call(CALL, request, |r| c.list_pod_sandbox(r)).await.map(|a| a.items)
    }

    async fn create_container(
        &self,
        sandbox_id: &str,
        config: v1::ContainerConfig,
        sandbox: v1::PodSandboxConfig,
    ) -> Result<String> {
        let mut c = self.runtime();
        let request = v1::CreateContainerRequest {
            pod_sandbox_id: sandbox_id.to_owned(),
            config: Some(config),
            sandbox_config: Some(sandbox),
        };
        call(CALL, request, |r| c.create_container(r)).await.map(|a| a.container_id)
    }

    async fn start_container(&self, id: &str) -> Result<()> {
        let mut c = self.runtime();
        let request = v1::StartContainerRequest { container_id: id.to_owned() };
        call(CALL, request, |r| c.start_container(r)).await.map(drop)
    }

    async fn stop_container(&self, id: &str, grace_seconds: i64) -> Result<()> {
        let mut c = self.runtime();
        let request = v1::StopContainerRequest { container_id: id.to_owned(), timeout: grace_seconds.max(0) };
        let deadline = CALL + Duration::from_secs(grace_seconds.max(0).unsigned_abs());
        call(deadline, request, |r| c.stop_container(r)).await.map(drop)
    }

    async fn remove_container(&self, id: &str) -> Result<()> {
        let mut c = self.runtime();
        let request = v1::RemoveContainerRequest { container_id: id.to_owned() };
        call(CALL, request, |r| c.remove_container(r)).await.map(drop)
    }

    async fn list_containers(&self, labels: HashMap<String, String>) -> Result<Vec<v1::Container>> {
        let mut c = self.runtime();
        let filter = v1::ContainerFilter { label_selector: labels, ..Default::default() };
        let request = v1::ListContainersRequest { filter: Some(filter) };
        call(CALL, request, |r| c.list_containers(r)).await.map(|a| a.containers)
    }

    async fn container_status(&self, id: &str) -> Result<v1::ContainerStatus> {
        let mut c = self.runtime();
        let request = v1::ContainerStatusRequest { container_id: id.to_owned(), verbose: false };
        call(CALL, request, |r| c.container_status(r)).await?.status.ok_or_else(|| missing("status"))
    }

    async fn container_status_verbose(&self, id: &str) -> Result<v1::ContainerStatusResponse> {
        let mut c = self.runtime();
        let request = v1::ContainerStatusRequest { container_id: id.to_owned(), verbose: true };
        call(CALL, request, |r| c.container_status(r)).await
    }

    async fn update_container_resources(&self, id: &str, linux: v1::LinuxContainerResources) -> Result<()> {
        let mut c = self.runtime();
        let request = v1::UpdateContainerResourcesRequest {
            container_id: id.to_owned(),
            linux: Some(linux),
            ..Default::default()
        };
        call(CALL, request, |r| c.update_container_resources(r)).await.map(drop)
    }

    async fn reopen_container_log(&self, id: &str) -> Result<()> {
        let mut c = self.runtime();
        let request = v1::ReopenContainerLogRequest { container_id: id.to_owned() };
        call(CALL, request, |r| c.reopen_container_log(r)).await.map(drop)
    }

    async fn exec_sync(&self, id: &str, cmd: Vec<String>, timeout_seconds: i64) -> Result<v1::ExecSyncResponse> {
        let mut c = self.runtime();
        let timeout = timeout_seconds.max(0);
        let request = v1::ExecSyncRequest { container_id: id.to_owned(), cmd, timeout };
        // The runtime enforces the timeout; ours is only for a runtime that does not.
        let deadline = match timeout {
            0 => Duration::from_secs(24 * 3600),
            seconds => CALL + Duration::from_secs(seconds.unsigned_abs()),
        };
        call(deadline, request, |r| c.exec_sync(r)).await
    }

    async fn exec(&self, request: v1::ExecRequest) -> Result<String> {
        let mut c = self.runtime();
        call(CALL, request, |r| c.exec(r)).await.map(|a| a.url)
    }

    async fn attach(&self, request: v1::AttachRequest) -> Result<String> {
        let mut c = self.runtime();
        call(CALL, request, |r| c.attach(r)).await.map(|a| a.url)
    }

    async fn port_forward(&self, request: v1::PortForwardRequest) -> Result<String> {
        let mut c = self.runtime();
        call(CALL, request, |r| c.port_forward(r)).await.map(|a| a.url)
    }

    async fn container_stats(&self, id: &str) -> Result<Option<v1::ContainerStats>> {
        let mut c = self.runtime();
        let request = v1::ContainerStatsRequest { container_id: id.to_owned() };
        call(CALL, request, |r| c.container_stats(r)).await.map(|a| a.stats)
    }

    async fn list_container_stats(&self) -> Result<Vec<v1::ContainerStats>> {
        let mut c = self.runtime();
        call(CALL, v1::ListContainerStatsRequest { filter: None }, |r| c.list_container_stats(r)).await.map(|a| a.stats)
    }

    async fn pod_sandbox_stats(&self, id: &str) -> Result<Option<v1::PodSandboxStats>> {
        let mut c = self.runtime();
        let request = v1::PodSandboxStatsRequest { pod_sandbox_id: id.to_owned() };
        match call(CALL, request, |r| c.pod_sandbox_stats(r)).await {
            Ok(answer) => Ok(answer.stats),
            Err(e) if e.is_unimplemented() => Ok(None),
            Err(e) => Err(e),
        }
    }

    async fn container_events(&self) -> Result<Option<EventStream>> {
        let mut c = self.runtime();
        let Some(stream) = opened(async move { c.get_container_events(v1::GetEventsRequest {}).await }).await? else {
            return self.containerd_events().await;
        };
        let events = stream.map(|item| match item {
            Ok(event) => {
                let sandbox = event.pod_sandbox_status;
                Ok(ContainerEvent {
                    id: event.container_id,
                    pod_uid: sandbox.as_ref().and_then(|s| s.metadata.as_ref()).map(|m| m.uid.clone()),
                    sandbox_id: sandbox.map(|s| s.id),
                    ended: false,
                })
            }
            Err(status) => Err(status.into()),
        });
        Ok(Some(events.boxed()))
    }
}

#[async_trait]
impl ImageService for Client {
    async fn list_images(&self) -> Result<Vec<v1::Image>> {
        let mut c = self.images();
        call(CALL, v1::ListImagesRequest { filter: None }, |r| c.list_images(r)).await.map(|a| a.images)
    }

    async fn image_status(&self, image: v1::ImageSpec) -> Result<Option<v1::Image>> {
        let mut c = self.images();
        let request = v1::ImageStatusRequest { image: Some(image), verbose: false };
        call(CALL, request, |r| c.image_status(r)).await.map(|a| a.image)
    }

    async fn pull_image(
        &self,
        image: v1::ImageSpec,
        auth: Option<v1::AuthConfig>,
        sandbox: Option<v1::PodSandboxConfig>,
    ) -> Result<String> {
        // No deadline: a pull takes what it takes; containerd gives up by itself when no progress is made.
        let request = v1::PullImageRequest { image: Some(image), auth, sandbox_config: sandbox };
        Ok(self.images().pull_image(request).await?.into_inner().image_ref)
    }

    async fn remove_image(&self, image: v1::ImageSpec) -> Result<()> {
        let mut c = self.images();
        call(CALL, v1::RemoveImageRequest { image: Some(image) }, |r| c.remove_image(r)).await.map(drop)
    }

    async fn image_fs_info(&self) -> Result<v1::ImageFsInfoResponse> {
        let mut c = self.images();
        call(CALL, v1::ImageFsInfoRequest {}, |r| c.image_fs_info(r)).await
    }
}
