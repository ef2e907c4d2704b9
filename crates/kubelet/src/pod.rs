//! Small questions about a pod, answered in one place (pure).

use std::borrow::Cow;

use k8s_openapi::api::core::v1::{Container, EphemeralContainer, Pod, PodSpec};
use orkd_cri::v1;

/// Labels and annotations that tie sandboxes and containers to their pod; the names are upstream's, so that tools
/// that look at the runtime find what they expect, and a restarted kubelet finds its own.
pub mod keys {
    /// Label: pod name.
    pub const POD_NAME: &str = "io.kubernetes.pod.name";
    /// Label: pod namespace.
    pub const POD_NAMESPACE: &str = "io.kubernetes.pod.namespace";
    /// Label: pod uid.
    pub const POD_UID: &str = "io.kubernetes.pod.uid";
    /// Label: container name.
    pub const CONTAINER_NAME: &str = "io.kubernetes.container.name";
    /// Annotation: hash of what a change of makes the container restart.
    pub const CONTAINER_HASH: &str = "io.kubernetes.container.hash";
    /// Annotation: how often the container was restarted before.
    pub const RESTART_COUNT: &str = "io.kubernetes.container.restartCount";
    /// Annotation: where the container writes its termination message.
    pub const TERMINATION_PATH: &str = "io.kubernetes.container.terminationMessagePath";
    /// Annotation: where the message is taken from.
    pub const TERMINATION_POLICY: &str = "io.kubernetes.container.terminationMessagePolicy";
    /// Annotation: the pod's grace period.
    pub const POD_GRACE: &str = "io.kubernetes.pod.terminationGracePeriod";
    /// Annotation: the pod's grace period when it was deleted.
    pub const POD_DELETION_GRACE: &str = "io.kubernetes.pod.deletionGracePeriod";
    /// Annotation of a pod: where it came from (`file`, `api`).
    pub const SOURCE: &str = "kubernetes.io/config.source";
    /// Annotation of a static pod: hash of its manifest.
    pub const CONFIG_HASH: &str = "kubernetes.io/config.hash";
    /// Annotation of a mirror pod: the hash of the static pod it mirrors.
    pub const MIRROR: &str = "kubernetes.io/config.mirror";
    /// Annotation: when the kubelet first saw the pod.
    pub const SEEN: &str = "kubernetes.io/config.seen";
}

/// The spec of a pod; an empty one for a pod without.
pub fn spec(pod: &Pod) -> Cow<'_, PodSpec> {
    pod.spec.as_ref().map_or_else(|| Cow::Owned(PodSpec::default()), Cow::Borrowed)
}

/// The uid, empty if there is none.
pub fn uid(pod: &Pod) -> &str {
    pod.metadata.uid.as_deref().unwrap_or_default()
}

/// The name, empty if there is none.
pub fn name(pod: &Pod) -> &str {
    pod.metadata.name.as_deref().unwrap_or_default()
}

/// The namespace, empty if there is none.
pub fn namespace(pod: &Pod) -> &str {
    pod.metadata.namespace.as_deref().unwrap_or_default()
}

/// `name_namespace(uid)`: how messages name a pod.
pub fn full_name(pod: &Pod) -> String {
    format!("{}_{}({})", name(pod), namespace(pod), uid(pod))
}

/// An annotation.
pub fn annotation<'a>(pod: &'a Pod, key: &str) -> Option<&'a str> {
    pod.metadata.annotations.as_ref()?.get(key).map(String::as_str)
}

/// The pod came from a manifest on this node.
pub fn is_static(pod: &Pod) -> bool {
    annotation(pod, keys::SOURCE).is_some_and(|s| s != "api")
}

/// The object is the API's image of a static pod.
pub fn is_mirror(pod: &Pod) -> bool {
    annotation(pod, keys::MIRROR).is_some()
}

/// The pod is in the host's network namespace.
pub fn host_network(pod: &Pod) -> bool {
    pod.spec.as_ref().and_then(|s| s.host_network).unwrap_or_default()
}

/// The phase, empty if there is none.
pub fn phase(pod: &Pod) -> &str {
    pod.status.as_ref().and_then(|s| s.phase.as_deref()).unwrap_or_default()
}

/// `Failed` or `Succeeded`: nothing of it runs or will run.
pub fn is_terminal_phase(phase: &str) -> bool {
    matches!(phase, "Failed" | "Succeeded")
}

/// The restart policy of the pod.
pub fn restart_policy(spec: &PodSpec) -> &str {
    spec.restart_policy.as_deref().unwrap_or("Always")
}

/// An init container that keeps running beside the others (a sidecar).
pub fn is_sidecar(container: &Container) -> bool {
    container.restart_policy.as_deref() == Some("Always")
}

/// What kind of container this is in its pod.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    /// Runs before the others, or beside them from early on.
    Init,
    /// An ordinary one.
    App,
    /// Added later, for debugging.
    Ephemeral,
}

/// Where in the pod's spec a container stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Place {
    /// Which list.
    pub kind: Kind,
    /// Which entry.
    pub index: usize,
}

/// The container at a place.
pub fn container_at(spec: &PodSpec, place: Place) -> Option<Container> {
    match place.kind {
        Kind::Init => spec.init_containers.as_ref()?.get(place.index).cloned(),
        Kind::App => spec.containers.get(place.index).cloned(),
        Kind::Ephemeral => spec.ephemeral_containers.as_ref()?.get(place.index).map(from_ephemeral),
    }
}

/// Every container with its place.
pub fn all_containers(spec: &PodSpec) -> Vec<(Place, Container)> {
    let init = spec.init_containers.iter().flatten().cloned().map(|c| (Kind::Init, c));
    let app = spec.containers.iter().cloned().map(|c| (Kind::App, c));
    let ephemeral = spec.ephemeral_containers.iter().flatten().map(|c| (Kind::Ephemeral, from_ephemeral(c)));
    let mut counts = [0usize; 3];
    init.chain(app)
        .chain(ephemeral)
        .map(|(kind, container)| {
            let slot = &mut counts[kind as usize];
            let place = Place { kind, index: *slot };
            *slot += 1;
            (place, container)
        })
        .collect()
}

/// The container of this name, with its place.
pub fn find_container(spec: &PodSpec, name: &str) -> Option<(Place, Container)> {
    all_containers(spec).into_iter().find(|(_, c)| c.name == name)
}

/// An ephemeral container has the fields of a container.
pub fn from_ephemeral(c: &EphemeralContainer) -> Container {
    Container {
        args: c.args.clone(),
        command: c.command.clone(),
        env: c.env.clone(),
        env_from: c.env_from.clone(),
        image: c.image.clone(),
        image_pull_policy: c.image_pull_policy.clone(),
        lifecycle: c.lifecycle.clone(),
        liveness_probe: c.liveness_probe.clone(),
        name: c.name.clone(),
        ports: c.ports.clone(),
        readiness_probe: c.readiness_probe.clone(),
        resources: c.resources.clone(),
        resize_policy: c.resize_policy.clone(),
        restart_policy: c.restart_policy.clone(),
        restart_policy_rules: c.restart_policy_rules.clone(),
        security_context: c.security_context.clone(),
        startup_probe: c.startup_probe.clone(),
        stdin: c.stdin,
        stdin_once: c.stdin_once,
        termination_message_path: c.termination_message_path.clone(),
        termination_message_policy: c.termination_message_policy.clone(),
        tty: c.tty,
        volume_devices: c.volume_devices.clone(),
        volume_mounts: c.volume_mounts.clone(),
        working_dir: c.working_dir.clone(),
    }
}

/// Hash of the parts of a container whose change makes it restart: its name and image, as upstream.
pub fn container_hash(container: &Container) -> String {
    let text = format!("{}\0{}", container.name, container.image.as_deref().unwrap_or_default());
    let hash = text.bytes().fold(0x811c_9dc5u32, |h, b| (h ^ u32::from(b)).wrapping_mul(0x0100_0193));
    format!("{hash:x}")
}

/// What the runtime has of one pod, newest first.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Observed {
    /// Its sandboxes.
    pub sandboxes: Vec<v1::PodSandboxStatus>,
    /// Its containers, dead ones included.
    pub containers: Vec<v1::ContainerStatus>,
}

impl Observed {
    /// Sorts newest first.
    pub fn new(mut sandboxes: Vec<v1::PodSandboxStatus>, mut containers: Vec<v1::ContainerStatus>) -> Self {
        sandboxes.sort_by_key(|s| std::cmp::Reverse(s.created_at));
        containers.sort_by_key(|c| std::cmp::Reverse(c.created_at));
        Self { sandboxes, containers }
    }

    /// The newest container of this name.
    pub fn latest(&self, name: &str) -> Option<&v1::ContainerStatus> {
        self.containers.iter().find(|c| container_name(c) == name)
    }

    /// Whether nothing runs, no sandbox either.
    pub fn is_quiet(&self) -> bool {
        let running = self.containers.iter().any(|c| state(c) == v1::ContainerState::ContainerRunning);
        !running && !self.sandboxes.iter().any(is_ready)
    }

    /// The addresses of the newest sandbox.
    pub fn ips(&self) -> Vec<String> {
        let network = self.sandboxes.first().filter(|s| is_ready(s)).and_then(|s| s.network.as_ref());
        let Some(network) = network else { return Vec::new() };
        let more = network.additional_ips.iter().map(|ip| ip.ip.clone());
        std::iter::once(network.ip.clone()).chain(more).filter(|ip| !ip.is_empty()).collect()
    }
}

/// The name of a container.
pub fn container_name(status: &v1::ContainerStatus) -> &str {
    status
        .labels
        .get(keys::CONTAINER_NAME)
        .map(String::as_str)
        .or_else(|| status.metadata.as_ref().map(|m| m.name.as_str()))
        .unwrap_or_default()
}

/// The state of a container.
pub fn state(status: &v1::ContainerStatus) -> v1::ContainerState {
    v1::ContainerState::try_from(status.state).unwrap_or(v1::ContainerState::ContainerUnknown)
}

/// Whether a sandbox is ready.
pub fn is_ready(sandbox: &v1::PodSandboxStatus) -> bool {
    sandbox.state == i32::from(v1::PodSandboxState::SandboxReady)
}

/// The restart count a container was created with.
pub fn restart_count(status: &v1::ContainerStatus) -> i32 {
    let annotated = status.annotations.get(keys::RESTART_COUNT).and_then(|n| n.parse().ok());
    annotated.or_else(|| status.metadata.as_ref().map(|m| m.attempt.cast_signed())).unwrap_or_default()
}

/// How long the pod may take to end, in seconds.
pub fn grace_period(pod: &Pod) -> i64 {
    let deletion = pod.metadata.deletion_timestamp.as_ref().and(pod.metadata.deletion_grace_period_seconds);
    deletion.or_else(|| pod.spec.as_ref()?.termination_grace_period_seconds).unwrap_or(30)
}
