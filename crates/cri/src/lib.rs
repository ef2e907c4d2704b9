//! The container runtime interface: traits the kubelet works against, a gRPC client that speaks CRI v1 over a
//! unix socket, the few services of containerd itself that CRI has no word for (its events, and importing an
//! image from memory), and an in-memory [`Fake`] that can be asked what happened and told what to break.
//!
//! Invariant: nothing here decides anything; policy lives in the kubelet. Invariant: an answer `Unimplemented` of an
//! optional call is not an error here but `None` ([`RuntimeService::container_events`],
//! [`RuntimeService::runtime_config`]): containerd 1.6 knows neither.

pub mod containerd;
mod error;
mod fake;
mod grpc;
/// Generated from `proto/` by `cargo xtask gen-cri`.
pub mod proto {
    /// CRI `runtime.v1`.
    #[allow(missing_docs, clippy::all, clippy::pedantic, rust_2018_idioms)]
    pub mod v1 {
        include!("gen/runtime.v1.rs");
    }
    /// containerd's own services.
    #[allow(missing_docs, clippy::all, clippy::pedantic, rust_2018_idioms)]
    pub mod containerd {
        /// Shared types.
        pub mod types {
            include!("gen/containerd.types.rs");
        }
        /// Services.
        pub mod services {
            /// Content store.
            pub mod content {
                /// v1.
                pub mod v1 {
                    include!("gen/containerd.services.content.v1.rs");
                }
            }
            /// Events.
            pub mod events {
                /// v1.
                pub mod v1 {
                    include!("gen/containerd.services.events.v1.rs");
                }
            }
            /// Image names.
            pub mod images {
                /// v1.
                pub mod v1 {
                    include!("gen/containerd.services.images.v1.rs");
                }
            }
            /// Leases.
            pub mod leases {
                /// v1.
                pub mod v1 {
                    include!("gen/containerd.services.leases.v1.rs");
                }
            }
        }
    }
}

use std::collections::HashMap;

use async_trait::async_trait;
use futures_util::stream::BoxStream;

pub use error::{Code, Error, Result};
pub use fake::{Fake, FakeCall};
pub use grpc::Client;
pub use proto::v1;

/// Something happened to a container or a sandbox; look at the pod again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ContainerEvent {
    /// The container's or sandbox's id.
    pub id: String,
    /// The sandbox the container belongs to, where the runtime says so.
    pub sandbox_id: Option<String>,
    /// The uid of the pod, where the runtime says so.
    pub pod_uid: Option<String>,
    /// The container's process ended, and the runtime's own view of it may lag behind this event for a moment.
    pub ended: bool,
}

/// A stream of container events; its end means: subscribe again and relist.
pub type EventStream = BoxStream<'static, Result<ContainerEvent>>;

/// Pod sandboxes and containers.
#[async_trait]
pub trait RuntimeService: Send + Sync + 'static {
    /// Name and version of the runtime.
    async fn version(&self) -> Result<v1::VersionResponse>;
    /// Conditions `RuntimeReady` and `NetworkReady`, handlers, features.
    async fn status(&self) -> Result<v1::StatusResponse>;
    /// The cgroup driver; `None` where the runtime does not know the call.
    async fn runtime_config(&self) -> Result<Option<v1::RuntimeConfigResponse>>;
    /// Tells the runtime the pod network of this node.
    async fn update_runtime_config(&self, pod_cidr: &str) -> Result<()>;

    /// Creates and starts a sandbox; returns its id.
    async fn run_pod_sandbox(&self, config: v1::PodSandboxConfig, handler: &str) -> Result<String>;
    /// Stops what runs in the sandbox and frees its network. Idempotent.
    async fn stop_pod_sandbox(&self, id: &str) -> Result<()>;
    /// Removes a sandbox and its containers. Idempotent.
    async fn remove_pod_sandbox(&self, id: &str) -> Result<()>;
    /// The sandbox's state and addresses.
    async fn pod_sandbox_status(&self, id: &str) -> Result<v1::PodSandboxStatus>;
    /// Sandboxes with all the labels given.
    async fn list_pod_sandboxes(&self, labels: HashMap<String, String>) -> Result<Vec<v1::PodSandbox>>;

    /// Creates a container in a sandbox; returns its id.
    async fn create_container(
        &self,
        sandbox_id: &str,
        config: v1::ContainerConfig,
        sandbox: v1::PodSandboxConfig,
    ) -> Result<String>;
    /// Starts a created container.
    async fn start_container(&self, id: &str) -> Result<()>;
    /// Stops a container: its stop signal, then a kill after `grace_seconds`. Idempotent.
    async fn stop_container(&self, id: &str, grace_seconds: i64) -> Result<()>;
    /// Removes a container, running or not. Idempotent.
    async fn remove_container(&self, id: &str) -> Result<()>;
    /// Containers with all the labels given.
    async fn list_containers(&self, labels: HashMap<String, String>) -> Result<Vec<v1::Container>>;
    /// A container's state.
    async fn container_status(&self, id: &str) -> Result<v1::ContainerStatus>;
    /// A container's state and the runtime's verbose info (its pid, among others).
    async fn container_status_verbose(&self, id: &str) -> Result<v1::ContainerStatusResponse>;
    /// Changes the limits of a running container.
    async fn update_container_resources(&self, id: &str, linux: v1::LinuxContainerResources) -> Result<()>;
    /// Makes the runtime open the log file anew, after a rotation.
    async fn reopen_container_log(&self, id: &str) -> Result<()>;

    /// Runs a command to its end. A timeout of 0 means none.
    async fn exec_sync(&self, id: &str, cmd: Vec<String>, timeout_seconds: i64) -> Result<v1::ExecSyncResponse>;
    /// The URL of a streaming endpoint for a command.
    async fn exec(&self, request: v1::ExecRequest) -> Result<String>;
    /// The URL of a streaming endpoint attached to a container.
    async fn attach(&self, request: v1::AttachRequest) -> Result<String>;
    /// The URL of a streaming endpoint for ports of a sandbox.
    async fn port_forward(&self, request: v1::PortForwardRequest) -> Result<String>;

    /// Usage of one container.
    async fn container_stats(&self, id: &str) -> Result<Option<v1::ContainerStats>>;
    /// Usage of every container.
    async fn list_container_stats(&self) -> Result<Vec<v1::ContainerStats>>;
    /// Usage of a sandbox, its network among others.
    async fn pod_sandbox_stats(&self, id: &str) -> Result<Option<v1::PodSandboxStats>>;

    /// Container events; `None` where the runtime has none to offer, and the caller must look by itself.
    async fn container_events(&self) -> Result<Option<EventStream>>;
}

/// Images on the node.
#[async_trait]
pub trait ImageService: Send + Sync + 'static {
    /// Every image.
    async fn list_images(&self) -> Result<Vec<v1::Image>>;
    /// One image, if present.
    async fn image_status(&self, image: v1::ImageSpec) -> Result<Option<v1::Image>>;
    /// Pulls an image; returns its reference (its id, for containerd).
    async fn pull_image(
        &self,
        image: v1::ImageSpec,
        auth: Option<v1::AuthConfig>,
        sandbox: Option<v1::PodSandboxConfig>,
    ) -> Result<String>;
    /// Removes an image. Idempotent.
    async fn remove_image(&self, image: v1::ImageSpec) -> Result<()>;
    /// Where images are kept and how much they take.
    async fn image_fs_info(&self) -> Result<v1::ImageFsInfoResponse>;
}

/// A runtime that is both.
pub trait Runtime: RuntimeService + ImageService {}
impl<T: RuntimeService + ImageService> Runtime for T {}
