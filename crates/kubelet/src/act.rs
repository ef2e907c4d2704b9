//! Carries out what [`crate::plan`] decided: sandboxes, containers, hooks. Makes no choices, except that a restart in
//! back-off waits.

use std::collections::HashMap;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Container, LifecycleHandler, Pod, Secret};
use k8s_openapi::jiff::Timestamp;
use orkd_cri::v1;
use orkd_reconcile::EventType;
use tokio_util::sync::CancellationToken;

use crate::allocation;
use crate::env::{self, Sources};
use crate::node_context::NodeContext;
use crate::plan::Actions;
use crate::pod::{self, Kind, Observed, Place};
use crate::probes::http;
use crate::resize;
use crate::retry::{Retries, go_seconds};
use crate::spec::{self, ContainerFacts};
use crate::status::generate::Waiting;
use crate::volumes::Mounted;

/// What a worker remembers of its pod between syncs.
#[derive(Default)]
pub struct Memory {
    /// Back-off of restarts.
    pub retries: Retries,
    /// Why containers wait.
    pub waiting: HashMap<String, Waiting>,
}

/// What came of acting.
#[derive(Debug, Default)]
pub struct Done {
    /// Look again after this time.
    pub again: Option<Duration>,
}

impl Done {
    fn at_most(&mut self, wait: Duration) {
        self.again = Some(self.again.map_or(wait, |w| w.min(wait)));
    }
}

/// How long to wait after an error that has no back-off of its own.
const ERROR_WAIT: Duration = Duration::from_secs(10);
/// How long a sandbox that nobody wants any more may take until it is given up.
const SANDBOX_PATIENCE: Duration = Duration::from_secs(10);

/// Does something long unless the pod is to end; `None` if it is.
async fn unless<T>(ending: &CancellationToken, work: impl Future<Output = T>) -> Option<T> {
    tokio::select! {
        biased;
        () = ending.cancelled() => None,
        done = work => Some(done),
    }
}

/// Carries out a plan. A pod that is to end (`ending`) waits neither for an image nor for a hook, and for its sandbox
/// only so long. Making and starting a container is never left half done: a request that is given up may have its
/// effect later, when nobody looks any more.
pub async fn act(
    cx: &NodeContext,
    pod: &Arc<Pod>,
    observed: &Observed,
    actions: &Actions,
    mounted: &Mounted,
    memory: &mut Memory,
    ending: &CancellationToken,
) -> Done {
    let mut done = Done::default();
    let spec = pod::spec(pod);
    if actions.kill_pod {
        if actions.create_sandbox && actions.sandbox_id.is_some() {
            let text = "Pod sandbox changed, it will be killed and re-created.";
            cx.event(pod, EventType::Normal, "SandboxChanged", text);
        }
        if let Err(error) = kill_pod(cx, pod, observed, None).await {
            tracing::warn!(pod = pod::full_name(pod), %error, "pod not killed");
            cx.event(pod, EventType::Warning, "FailedKillPod", format!("error killing pod: {error}"));
            done.at_most(ERROR_WAIT);
            return done;
        }
    } else {
        for kill in &actions.kill {
            let found = pod::find_container(&spec, &kill.name);
            let place = found.as_ref().map_or(Place { kind: Kind::App, index: 0 }, |(p, _)| *p);
            let container = found.map(|(_, c)| c);
            let probe_grace = container.as_ref().and_then(|c| {
                use crate::plan::KillReason;
                let probe = match kill.reason {
                    KillReason::Liveness => c.liveness_probe.as_ref(),
                    KillReason::Startup => c.startup_probe.as_ref(),
                    _ => None,
                };
                probe.and_then(|p| p.termination_grace_period_seconds)
            });
            let grace = probe_grace.unwrap_or_else(|| pod::grace_period(pod));
            let killed =
                kill_container(cx, pod, place, container.as_ref(), &kill.id, &kill.name, grace, &kill.message).await;
            if let Err(error) = killed {
                tracing::warn!(pod = pod::full_name(pod), container = kill.name, %error, "container not killed");
                done.at_most(ERROR_WAIT);
                return done;
            }
        }
    }
    if !actions.kill_pod
        && !actions.resize.is_empty()
        && let Err(message) = resize::carry_out(cx, pod, &actions.resize).await
    {
        tracing::warn!(pod = pod::full_name(pod), message, "pod not resized");
        if let Some(generation) = cx.allocations.fail(pod, &message, Timestamp::now()) {
            let text = allocation::event_message("error", pod, generation, &message);
            cx.event(pod, EventType::Warning, "ResizeError", text);
        }
        done.at_most(ERROR_WAIT);
    }
    if actions.start.is_empty() && !actions.create_sandbox {
        return done;
    }
    // The runtime knows more now than when it was asked.
    let fresh = if actions.kill_pod || !actions.kill.is_empty() {
        match cx.observe(pod::uid(pod)).await {
            Ok(fresh) => fresh,
            Err(_) => {
                done.at_most(Duration::from_secs(1));
                return done;
            }
        }
    } else {
        observed.clone()
    };
    let attempt = actions.attempt;
    let sandbox_config = spec::sandbox_config(pod, attempt, &cx.sandbox_facts(pod));
    let (sandbox_id, ips) = if actions.create_sandbox {
        let impatient = async {
            ending.cancelled().await;
            tokio::time::sleep(SANDBOX_PATIENCE).await;
        };
        let made = tokio::select! {
            biased;
            made = create_sandbox(cx, pod, &sandbox_config, &spec) => made,
            // The network plugin hangs; the runtime cleans up after itself.
            () = impatient => return done,
        };
        match made {
            Ok(made) => made,
            Err(message) => {
                cx.event(pod, EventType::Warning, "FailedCreatePodSandBox", message);
                done.at_most(ERROR_WAIT);
                return done;
            }
        }
    } else {
        (actions.sandbox_id.clone().unwrap_or_default(), fresh.ips())
    };
    for place in &actions.start {
        if ending.is_cancelled() {
            break;
        }
        let Some(container) = pod::container_at(&spec, *place) else { continue };
        let started = Starting {
            cx,
            pod,
            place: *place,
            container: &container,
            sandbox_id: &sandbox_id,
            sandbox_config: &sandbox_config,
            observed: &fresh,
            ips: &ips,
            mounted,
            ending,
        };
        match started.start(memory).await {
            Ok(()) => {
                memory.waiting.remove(&container.name);
            }
            Err((waiting, wait)) => {
                memory.waiting.insert(container.name.clone(), waiting);
                done.at_most(wait);
                if place.kind == Kind::Init {
                    break;
                }
            }
        }
    }
    done
}

async fn create_sandbox(
    cx: &NodeContext,
    pod: &Pod,
    config: &v1::PodSandboxConfig,
    spec: &k8s_openapi::api::core::v1::PodSpec,
) -> Result<(String, Vec<String>), String> {
    if !cx.hollow {
        std::fs::create_dir_all(&config.log_directory)
            .map_err(|e| format!("Failed to create pod sandbox: create {}: {e}", config.log_directory))?;
    }
    let handler = spec.runtime_class_name.as_deref().unwrap_or_default();
    let id = cx
        .runtime
        .run_pod_sandbox(config.clone(), handler)
        .await
        .map_err(|e| format!("Failed to create pod sandbox: {e}"))?;
    cx.owners.write().insert(id.clone(), pod::uid(pod).to_owned());
    let status =
        cx.runtime.pod_sandbox_status(&id).await.map_err(|e| format!("Failed to get pod sandbox status: {e}"))?;
    let ips = Observed::new(vec![status], Vec::new()).ips();
    Ok((id, ips))
}

/// One container about to be started.
struct Starting<'a> {
    cx: &'a NodeContext,
    pod: &'a Arc<Pod>,
    place: Place,
    container: &'a Container,
    sandbox_id: &'a str,
    sandbox_config: &'a v1::PodSandboxConfig,
    observed: &'a Observed,
    ips: &'a [String],
    mounted: &'a Mounted,
    ending: &'a CancellationToken,
}

type Failed = (Waiting, Duration);

fn waiting(reason: &str, message: impl Into<String>) -> Waiting {
    Waiting { reason: reason.to_owned(), message: message.into() }
}

impl Starting<'_> {
    fn event(&self, kind: EventType, reason: &str, message: String) {
        self.cx.container_event(self.pod, self.place, &self.container.name, kind, reason, message);
    }

    fn fail(&self, reason: &str, message: String) -> Failed {
        self.event(EventType::Warning, "Failed", format!("Error: {message}"));
        (waiting(reason, message), ERROR_WAIT)
    }

    async fn start(&self, memory: &mut Memory) -> Result<(), Failed> {
        let (cx, pod, container) = (self.cx, self.pod, self.container);
        let latest = self.observed.latest(&container.name);
        self.check_back_off(memory, latest)?;
        let secrets = self.pull_secrets().await;
        let report = |kind: EventType, reason: &str, message: String| self.event(kind, reason, message);
        let pull = cx.images.ensure(pod, container, &secrets, self.sandbox_config, &report);
        let image = match unless(self.ending, pull).await {
            None => return Err((waiting("ContainerCreating", ""), ERROR_WAIT)),
            Some(Ok(image)) => image,
            Some(Err(why)) => {
                self.event(EventType::Warning, "Failed", format!("Error: {}", why.reason));
                let wait = cx.images.waiting(pod, container).unwrap_or(ERROR_WAIT);
                return Err((why, wait));
            }
        };
        let attempt = latest.map_or(0, |s| pod::restart_count(s) + 1);
        let attempt = u32::try_from(attempt).unwrap_or_default();
        let target_id = pod::spec(pod)
            .ephemeral_containers
            .iter()
            .flatten()
            .filter(|c| self.place.kind == Kind::Ephemeral && c.name == container.name)
            .find_map(|c| c.target_container_name.as_deref())
            .and_then(|name| self.observed.latest(name))
            .map(|s| s.id.clone());
        let config_error = |message: String| self.fail("CreateContainerConfigError", message);
        let user = (image.uid, image.user.as_str());
        spec::verify_non_root(pod, container, user).map_err(config_error)?;
        let environment = self.environment().await.map_err(config_error)?;
        let mounts = self.mounts(&environment).map_err(config_error)?;
        let facts = ContainerFacts {
            kind: Some(self.place.kind),
            attempt,
            image_ref: image.id,
            image_user: (image.uid, image.user),
            env: environment,
            mounts,
            memory_capacity: cx.facts.read().memory,
            target_id,
            seccomp_dir: cx.seccomp_dir.clone(),
            devices: cx.devices.devices_of(pod, container),
        };
        let config = spec::container_config(pod, container, &facts);
        let granted = container.resources.clone().unwrap_or_default();
        cx.allocations.put_in_force(pod::uid(pod), &container.name, granted);
        if !cx.hollow {
            let dir = spec::log_directory(&cx.log_dir, pod).join(&container.name);
            std::fs::create_dir_all(&dir)
                .map_err(|e| self.fail("CreateContainerError", format!("create {}: {e}", dir.display())))?;
        }
        let id = cx
            .runtime
            .create_container(self.sandbox_id, config, self.sandbox_config.clone())
            .await
            .map_err(|e| self.fail("CreateContainerError", e.message))?;
        cx.owners.write().insert(id.clone(), pod::uid(pod).to_owned());
        self.event(EventType::Normal, "Created", "Container created".to_owned());
        if let Err(e) = cx.runtime.start_container(&id).await {
            return Err(self.fail("RunContainerError", e.message));
        }
        self.event(EventType::Normal, "Started", "Container started".to_owned());
        self.forget_old().await;
        self.post_start(&id).await
    }

    fn check_back_off(&self, memory: &mut Memory, latest: Option<&v1::ContainerStatus>) -> Result<(), Failed> {
        let ended = latest.filter(|s| pod::state(s) == v1::ContainerState::ContainerExited);
        let Some(ended) = ended else { return Ok(()) };
        let now = Timestamp::now();
        let at = Timestamp::from_nanosecond(i128::from(ended.finished_at)).unwrap_or(now);
        // A container that was resized starts anew (`GetBackoffKey`).
        let (hash, resources) = (pod::container_hash(self.container), &self.container.resources);
        let key = format!("{}_{hash}_{resources:?}", self.container.name);
        if let Some(left) = memory.retries.waiting(&key, at, now) {
            let (name, full) = (&self.container.name, pod::full_name(self.pod));
            let text = format!("Back-off restarting failed container {name} in pod {full}");
            self.event(EventType::Warning, "BackOff", text);
            let wait = go_seconds(memory.retries.wait(&key));
            let message = format!("back-off {wait} restarting failed container={name} pod={full}");
            return Err((waiting("CrashLoopBackOff", message), left));
        }
        memory.retries.lengthen(&key, at, now);
        Ok(())
    }

    async fn pull_secrets(&self) -> Vec<Secret> {
        let mut out = Vec::new();
        let spec = pod::spec(self.pod);
        for reference in spec.image_pull_secrets.iter().flatten() {
            // A secret that is not there is not used; the pull may work without it.
            if let Ok(Some(secret)) = self.cx.objects.secret(pod::namespace(self.pod), &reference.name).await {
                out.push(secret);
            }
        }
        out
    }

    async fn environment(&self) -> Result<std::collections::BTreeMap<String, String>, String> {
        let namespace = pod::namespace(self.pod);
        let (maps, secrets) = env::references(self.container);
        let mut sources = Sources::default();
        for name in maps {
            let found = self.cx.objects.config_map(namespace, &name).await?;
            sources.config_maps.insert(name, found.map(|m| m.data.unwrap_or_default()));
        }
        for name in secrets {
            let found = self.cx.objects.secret(namespace, &name).await?;
            sources.secrets.insert(name, found.map(|s| s.data.unwrap_or_default()));
        }
        let links = pod::spec(self.pod).enable_service_links.unwrap_or(true);
        let services = env::services(&(self.cx.services)(namespace), namespace, links);
        let mut facts = self.cx.env_facts(self.pod, self.observed);
        if !pod::host_network(self.pod) {
            facts.pod_ips = self.ips.to_vec();
        }
        env::environment(self.pod, self.container, &facts, &sources, services)
    }

    fn mounts(&self, environment: &std::collections::BTreeMap<String, String>) -> Result<Vec<v1::Mount>, String> {
        let mut mounts = Vec::new();
        let (cx, pod, container) = (self.cx, self.pod, self.container);
        for (index, mount) in container.volume_mounts.iter().flatten().enumerate() {
            let base = self.mounted.get(&mount.name);
            let Some(base) = base else {
                if cx.hollow {
                    continue;
                }
                return Err(format!("volume \"{}\" is not mounted", mount.name));
            };
            let lookup = |name: &str| environment.get(name).cloned();
            let sub = match mount.sub_path_expr.as_deref().filter(|s| !s.is_empty()) {
                Some(text) => env::expand(text, &lookup),
                None => mount.sub_path.clone().unwrap_or_default(),
            };
            let host_path = match sub.is_empty() {
                true => base.clone(),
                false => cx.volumes.sub_path(pod, (&mount.name, base), &container.name, index, &sub)?,
            };
            let propagation = match mount.mount_propagation.as_deref() {
                Some("HostToContainer") => v1::MountPropagation::PropagationHostToContainer,
                Some("Bidirectional") => v1::MountPropagation::PropagationBidirectional,
                _ => v1::MountPropagation::PropagationPrivate,
            };
            let container_path = match mount.mount_path.starts_with('/') {
                true => mount.mount_path.clone(),
                false => format!("/{}", mount.mount_path),
            };
            mounts.push(v1::Mount {
                container_path,
                host_path: host_path.to_string_lossy().into_owned(),
                readonly: mount.read_only == Some(true),
                propagation: propagation.into(),
                ..v1::Mount::default()
            });
        }
        if cx.hollow {
            return Ok(mounts);
        }
        let failed = |path: &Path, e: std::io::Error| format!("{}: {e}", path.display());
        let dir = cx.volumes.pod_dir(pod::uid(pod));
        std::fs::create_dir_all(&dir).map_err(|e| failed(&dir, e))?;
        let plain = |container_path: &str, host: &Path| v1::Mount {
            container_path: container_path.to_owned(),
            host_path: host.to_string_lossy().into_owned(),
            ..v1::Mount::default()
        };
        if !mounts.iter().any(|m| m.container_path == "/etc/hosts") {
            let path = dir.join("etc-hosts");
            let host = std::fs::read_to_string("/etc/hosts").unwrap_or_default();
            let text = crate::dns::hosts_file(pod, self.ips, &cx.cluster_domain, &host);
            std::fs::write(&path, text).map_err(|e| failed(&path, e))?;
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).map_err(|e| failed(&path, e))?;
            mounts.push(plain("/etc/hosts", &path));
        }
        let message_path = container.termination_message_path.as_deref().unwrap_or("/dev/termination-log");
        if !message_path.is_empty() {
            let folder = dir.join("containers").join(&container.name);
            std::fs::create_dir_all(&folder).map_err(|e| failed(&folder, e))?;
            let path = folder.join(format!("{:08x}", rand::random::<u32>()));
            std::fs::write(&path, []).map_err(|e| failed(&path, e))?;
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o666)).map_err(|e| failed(&path, e))?;
            mounts.push(plain(message_path, &path));
        }
        Ok(mounts)
    }

    /// Keeps one dead container of a name, for its logs and its last state.
    async fn forget_old(&self) {
        let same = self.observed.containers.iter().filter(|c| pod::container_name(c) == self.container.name);
        let dead = same.filter(|c| pod::state(c) != v1::ContainerState::ContainerRunning);
        for old in dead.skip(1) {
            if self.cx.runtime.remove_container(&old.id).await.is_ok() {
                if !self.cx.hollow {
                    let _ = std::fs::remove_file(&old.log_path);
                }
                self.cx.owners.write().remove(&old.id);
            }
        }
    }

    async fn post_start(&self, id: &str) -> Result<(), Failed> {
        let hook = self.container.lifecycle.as_ref().and_then(|l| l.post_start.as_ref());
        let Some(hook) = hook else { return Ok(()) };
        let ip = self.ips.first().cloned().unwrap_or_default();
        let ran = unless(self.ending, run_hook(self.cx, hook, self.container, id, &ip, None)).await;
        let Some(Err(message)) = ran else { return Ok(()) };
        self.event(EventType::Warning, "FailedPostStartHook", "PostStartHook failed".to_owned());
        let grace = pod::grace_period(self.pod);
        let text = "FailedPostStartHook";
        let name = &self.container.name;
        let killed = kill_container(self.cx, self.pod, self.place, Some(self.container), id, name, grace, text).await;
        if let Err(error) = killed {
            tracing::warn!(%error, "container with a failed postStart hook not killed");
        }
        Err((waiting("PostStartHookError", message), ERROR_WAIT))
    }
}

/// Runs a lifecycle hook to its end.
async fn run_hook(
    cx: &NodeContext,
    hook: &LifecycleHandler,
    container: &Container,
    id: &str,
    ip: &str,
    limit: Option<Duration>,
) -> Result<(), String> {
    let run = async {
        if let Some(exec) = &hook.exec {
            let command = exec.command.clone().unwrap_or_default();
            let answer = cx.runtime.exec_sync(id, command.clone(), 0).await.map_err(|e| e.to_string())?;
            if answer.exit_code != 0 {
                let output = [answer.stdout, answer.stderr].concat();
                let text = String::from_utf8_lossy(&output).into_owned();
                return Err(format!(
                    "Exec lifecycle hook ({}) for Container {:?} failed - error: command '{}' exited with {}: {}, \
                     message: {text:?}",
                    crate::probes::go_list(&command),
                    container.name,
                    command.join(" "),
                    answer.exit_code,
                    text
                ));
            }
            return Ok(());
        }
        if let Some(get) = &hook.http_get {
            let request = http::Request::of(get, container, ip, http::Sender::Hook)?;
            return http::hook(&request, Duration::from_secs(30)).await;
        }
        if let Some(sleep) = &hook.sleep {
            tokio::time::sleep(Duration::from_secs(sleep.seconds.max(0).unsigned_abs())).await;
        }
        Ok(())
    };
    match limit {
        None => run.await,
        Some(limit) => {
            tokio::time::timeout(limit, run).await.unwrap_or_else(|_| Err("the hook took too long".to_owned()))
        }
    }
}

/// Ends a container: preStop hook, stop signal, kill.
#[allow(clippy::too_many_arguments)]
pub async fn kill_container(
    cx: &NodeContext,
    pod: &Pod,
    place: Place,
    container: Option<&Container>,
    id: &str,
    name: &str,
    grace: i64,
    message: &str,
) -> orkd_cri::Result<()> {
    let text = if message.is_empty() { format!("Stopping container {name}") } else { message.to_owned() };
    cx.container_event(pod, place, name, EventType::Normal, "Killing", text);
    let started = std::time::Instant::now();
    let hook = container.and_then(|c| Some((c, c.lifecycle.as_ref()?.pre_stop.as_ref()?)));
    if let Some((container, hook)) = hook
        && grace > 0
    {
        let ip = cx.status.of(pod::uid(pod)).and_then(|s| s.pod_ip).unwrap_or_default();
        let limit = Duration::from_secs(grace.unsigned_abs());
        if run_hook(cx, hook, container, id, &ip, Some(limit)).await.is_err() {
            cx.container_event(
                pod,
                place,
                name,
                EventType::Warning,
                "FailedPreStopHook",
                "PreStopHook failed".to_owned(),
            );
        }
    }
    let used = i64::try_from(started.elapsed().as_secs()).unwrap_or_default();
    // Two seconds at least, unless the pod is to go at once.
    let left = if grace > 0 { (grace - used).max(2).min(grace.max(2)) } else { 0 };
    match cx.runtime.stop_container(id, left).await {
        Err(e) if !e.is_not_found() => Err(e),
        _ => Ok(()),
    }
}

/// Ends everything of a pod: containers side by side, sidecars after the others in reverse order, then sandboxes.
pub async fn kill_pod(cx: &NodeContext, pod: &Pod, observed: &Observed, grace: Option<i64>) -> orkd_cri::Result<()> {
    let grace = grace.unwrap_or_else(|| pod::grace_period(pod));
    let spec = pod::spec(pod);
    let deadline = std::time::Instant::now() + Duration::from_secs(grace.max(0).unsigned_abs());
    let running: Vec<_> = observed
        .containers
        .iter()
        .filter(|c| pod::state(c) == v1::ContainerState::ContainerRunning)
        .map(|c| (c.id.clone(), pod::container_name(c).to_owned(), pod::find_container(&spec, pod::container_name(c))))
        .collect();
    let is_sidecar = |found: &Option<(Place, Container)>| {
        found.as_ref().is_some_and(|(place, c)| place.kind == Kind::Init && pod::is_sidecar(c))
    };
    let kill = |id: String, name: String, found: Option<(Place, Container)>| async move {
        let place = found.as_ref().map_or(Place { kind: Kind::App, index: 0 }, |(p, _)| *p);
        let left = deadline.saturating_duration_since(std::time::Instant::now()).as_secs();
        let left = if grace > 0 { i64::try_from(left).unwrap_or_default().max(1) } else { 0 };
        kill_container(cx, pod, place, found.as_ref().map(|(_, c)| c), &id, &name, left, "").await
    };
    let (mut sidecars, others): (Vec<_>, Vec<_>) = running.into_iter().partition(|(_, _, f)| is_sidecar(f));
    let kills = others.into_iter().map(|(id, name, found)| kill(id, name, found));
    for outcome in futures_util::future::join_all(kills).await {
        outcome?;
    }
    sidecars.sort_by_key(|(_, _, found)| std::cmp::Reverse(found.as_ref().map(|(p, _)| *p)));
    for (id, name, found) in sidecars {
        kill(id, name, found).await?;
    }
    for sandbox in &observed.sandboxes {
        match cx.runtime.stop_pod_sandbox(&sandbox.id).await {
            Err(e) if !e.is_not_found() => return Err(e),
            _ => {}
        }
    }
    Ok(())
}
