//! The state machine of one pod: syncing, terminating, terminated. Follows upstream `pkg/kubelet/pod_workers.go`.
//!
//! A worker is woken by changes of its pod, by container events, by probe results and by its own timers, and looks at
//! everything anew each time. It ends when its pod is gone from the API and nothing of it is left on the node.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::jiff::Timestamp;
use orkd_base::Backoff;
use orkd_cri::v1;
use orkd_reconcile::EventType;
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::act::{self, Memory};
use crate::admit::Refusal;
use crate::allocation::{self, Grant};
use crate::eviction;
use crate::node_context::NodeContext;
use crate::plan;
use crate::pod::{self, Observed};
use crate::status::generate::{self, Context, Forced};
use crate::volumes::{Mounted, Volumes};

/// How often volumes that can change are looked at.
const VOLUME_REFRESH: Duration = Duration::from_secs(60);
/// Longest termination message.
const MAX_MESSAGE: usize = 4096;

/// A pod that goes although nobody deleted it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Eviction {
    /// What it is told.
    pub message: String,
    /// How many seconds it has at most; its own grace period without.
    pub grace: Option<i64>,
    /// It makes room for others.
    pub disrupts: bool,
}

/// What is wanted of a worker.
#[derive(Clone)]
struct Wanted {
    pod: Arc<Pod>,
    /// The pod is gone from the API.
    gone: bool,
    /// The node has no room for it.
    evicted: Option<Eviction>,
}

impl Wanted {
    /// Whether somebody wants the pod to end.
    fn is_ending(&self) -> bool {
        self.gone || self.pod.metadata.deletion_timestamp.is_some() || self.evicted.is_some()
    }

    /// How long the pod may take to end, in seconds.
    fn grace(&self) -> i64 {
        let own = pod::grace_period(&self.pod);
        self.evicted.as_ref().and_then(|e| e.grace).map_or(own, |most| own.min(most))
    }
}

/// The handle of a worker.
pub struct Handle {
    wanted: Mutex<Wanted>,
    wake: Notify,
    released: AtomicBool,
}

impl Handle {
    /// A worker's handle.
    pub fn new(pod: Arc<Pod>) -> Arc<Self> {
        let wanted = Wanted { pod, gone: false, evicted: None };
        Arc::new(Self { wanted: Mutex::new(wanted), wake: Notify::new(), released: AtomicBool::new(false) })
    }

    /// The pod changed.
    pub fn update(&self, pod: Arc<Pod>) {
        self.wanted.lock().pod = pod;
        self.wake.notify_one();
    }

    /// The pod is gone from the API.
    pub fn gone(&self) {
        self.wanted.lock().gone = true;
        self.wake.notify_one();
    }

    /// The pod has to go; who said so first is heard.
    pub fn evict(&self, eviction: Eviction) {
        self.wanted.lock().evicted.get_or_insert(eviction);
        self.wake.notify_one();
    }

    /// Whether nothing of the pod runs any more, and it holds no volumes.
    pub fn is_released(&self) -> bool {
        self.released.load(Ordering::Acquire)
    }

    /// Something of the pod may have changed on the node.
    pub fn wake(&self) {
        self.wake.notify_one();
    }

    /// The pod as last seen.
    pub fn pod(&self) -> Arc<Pod> {
        self.wanted.lock().pod.clone()
    }

    fn wanted(&self) -> Wanted {
        self.wanted.lock().clone()
    }
}

/// What of a pod its downward volumes tell and can change: labels, annotations, resources.
type Told = (Option<BTreeMap<String, String>>, Option<BTreeMap<String, String>>, Grant);

struct Worker {
    cx: Arc<NodeContext>,
    handle: Arc<Handle>,
    memory: Memory,
    mounted: Option<Mounted>,
    refreshed: Instant,
    /// What the volumes were last written with.
    refreshed_for: Told,
    mount_wait: Duration,
    forced: Option<Forced>,
    messages: HashMap<String, String>,
}

/// Runs a worker to its end. Returns true when nothing of the pod is left.
pub async fn run(cx: Arc<NodeContext>, handle: Arc<Handle>, stop: CancellationToken) -> bool {
    let mut worker = Worker {
        cx,
        handle,
        memory: Memory::default(),
        mounted: None,
        refreshed: Instant::now(),
        refreshed_for: Told::default(),
        mount_wait: Duration::from_millis(500),
        forced: None,
        messages: HashMap::new(),
    };
    tokio::select! {
        () = stop.cancelled() => false,
        () = worker.live() => true,
    }
}

impl Worker {
    async fn live(&mut self) {
        self.admit().await;
        while !self.should_end() {
            let again = self.sync().await;
            if self.should_end() {
                break;
            }
            let again = again.unwrap_or(Duration::from_secs(24 * 3600));
            tokio::select! {
                () = self.handle.wake.notified() => {}
                () = tokio::time::sleep(again) => {}
            }
        }
        if let Some(eviction) = self.handle.wanted().evicted {
            self.forced.get_or_insert(Forced {
                phase: "Failed".to_owned(),
                reason: eviction::REASON.to_owned(),
                message: eviction.message,
                disrupted: eviction.disrupts,
                rejected: false,
            });
        }
        self.terminate().await;
        self.cx.allocations.release(pod::uid(&self.handle.pod()));
        self.terminated().await;
    }

    /// Turns a pod away that the node has no room for now, or that is none for it, unless it was here before.
    async fn admit(&mut self) {
        let pod = self.handle.pod();
        if self.should_end() {
            return;
        }
        let short = eviction::admit::refusal(&pod, &self.cx.pressures.conditions());
        let refused = match short {
            Some(message) => Err(Refusal { reason: eviction::REASON.to_owned(), message }),
            None => self.cx.allocations.take(&pod, |other| self.cx.has_ended(other)),
        };
        let Err(Refusal { reason, message }) = refused else {
            // It may have changed before the others could see that it is here.
            self.cx.allocations.look_at(&self.handle.pod());
            return;
        };
        let is_new =
            self.cx.observe(pod::uid(&pod)).await.is_ok_and(|o| o.containers.is_empty() && o.sandboxes.is_empty());
        if !is_new {
            self.cx.allocations.keep(&pod);
            return;
        }
        if self.should_end() {
            return;
        }
        self.cx.event(&pod, EventType::Warning, &reason, message.clone());
        self.forced = Some(Forced {
            phase: "Failed".to_owned(),
            reason,
            message: format!("Pod was rejected: {message}"),
            disrupted: false,
            rejected: true,
        });
    }

    /// Whether the pod is to be ended.
    fn should_end(&self) -> bool {
        let wanted = self.handle.wanted();
        wanted.is_ending() || pod::is_terminal_phase(pod::phase(&wanted.pod)) || self.forced.is_some()
    }

    /// Shows what there is. Returns the phase shown.
    fn show(&mut self, pod: &Arc<Pod>, observed: &Observed, terminal: bool, finished: bool) -> String {
        self.read_messages(observed);
        let cx = Context {
            old: self.cx.status.get(pod),
            probes: self.cx.probes.view(),
            waiting: self.memory.waiting.clone(),
            host_ips: self.cx.facts.read().host_ips.clone(),
            runtime: self.cx.runtime_name.clone(),
            terminal,
            forced: self.forced.clone(),
            messages: self.messages.clone(),
            in_force: self.cx.allocations.of(pod).1,
            resizing: self.cx.allocations.conditions(pod::uid(pod)),
        };
        let status = generate::pod_status(pod, observed, &cx, Timestamp::now());
        let phase = status.phase.clone().unwrap_or_default();
        match finished {
            true => self.cx.status.finish(pod, status),
            false => self.cx.status.set(pod, status),
        }
        phase
    }

    /// Reads the termination messages of containers that ended.
    fn read_messages(&mut self, observed: &Observed) {
        for status in &observed.containers {
            if pod::state(status) != v1::ContainerState::ContainerExited || self.messages.contains_key(&status.id) {
                continue;
            }
            let Some((path, policy)) = generate::termination_message_source(status) else { continue };
            let mut text = std::fs::read(path).map(|b| String::from_utf8_lossy(&b).into_owned()).unwrap_or_default();
            if text.is_empty() && policy == "FallbackToLogsOnError" && status.exit_code != 0 {
                text = crate::logs::tail_of(std::path::Path::new(&status.log_path), 80, 2048);
            }
            if text.len() > MAX_MESSAGE {
                let cut = (0..=MAX_MESSAGE).rev().find(|i| text.is_char_boundary(*i)).unwrap_or_default();
                text.truncate(cut);
            }
            if text.is_empty() {
                text.clone_from(&status.message);
            }
            self.messages.insert(status.id.clone(), text);
        }
        self.messages.retain(|id, _| observed.containers.iter().any(|c| c.id == *id));
    }

    /// One look at everything. Returns when to look again.
    async fn sync(&mut self) -> Option<Duration> {
        let wanted = self.handle.pod();
        let cx = self.cx.clone();
        let uid = pod::uid(&wanted).to_owned();
        let observed = match cx.observe(&uid).await {
            Ok(observed) => observed,
            Err(error) => {
                tracing::warn!(pod = pod::full_name(&wanted), %error, "the runtime cannot be asked");
                return Some(Duration::from_secs(2));
            }
        };
        let runs =
            |name: &str| observed.latest(name).is_some_and(|s| pod::state(s) == v1::ContainerState::ContainerRunning);
        let done = cx.allocations.settle(&wanted, runs, Timestamp::now());
        let (pod, in_force) = cx.allocations.of(&wanted);
        if let Some(generation) = done {
            // A container that ended by itself meanwhile is made anew without a step that makes room for it.
            if let Some(Err(error)) = cx.cgroups.as_ref().map(|cgroups| cgroups.create_pod(&pod)) {
                tracing::warn!(pod = pod::full_name(&pod), %error, "cgroup of a resized pod not set");
            }
            let text = allocation::event_message("completed", &pod, generation, "");
            cx.event(&pod, EventType::Normal, "ResizeCompleted", text);
        }
        let ip = cx.env_facts(&pod, &observed).pod_ips.first().cloned().unwrap_or_default();
        cx.probes.watch(&pod, &observed, &ip, &self.handle);
        let phase = self.show(&pod, &observed, false, false);
        if pod::is_terminal_phase(&phase) {
            let status = cx.status.get(&pod);
            self.forced = Some(Forced {
                phase,
                reason: status.reason.unwrap_or_default(),
                message: status.message.unwrap_or_default(),
                ..Forced::default()
            });
            return None;
        }
        let mut again = None;
        if let Some(seconds) = pod::spec(&pod).active_deadline_seconds {
            let started = cx.status.get(&pod).start_time.map(|t| t.0).unwrap_or_else(Timestamp::now);
            let left = started.as_second() + seconds - Timestamp::now().as_second();
            if left <= 0 {
                let message = "Pod was active on the node longer than the specified deadline".to_owned();
                cx.event(&pod, EventType::Normal, "DeadlineExceeded", message.clone());
                self.forced = Some(Forced {
                    phase: "Failed".to_owned(),
                    reason: "DeadlineExceeded".to_owned(),
                    message,
                    ..Forced::default()
                });
                return None;
            }
            again = Some(Duration::from_secs(left.unsigned_abs()));
        }
        if let Some(wait) = self.prepare(&pod, &observed).await {
            return Some(again.map_or(wait, |a| a.min(wait)));
        }
        let actions = plan::plan(&pod, &observed, &cx.probes.view(), in_force.as_ref());
        if !actions.is_empty() {
            let mounted = self.mounted.clone().unwrap_or_default();
            let handle = self.handle.clone();
            let mut memory = std::mem::take(&mut self.memory);
            let ending = CancellationToken::new();
            let done = {
                let ended = async {
                    loop {
                        if handle.wanted().is_ending() {
                            return;
                        }
                        handle.wake.notified().await;
                    }
                };
                let mut acting =
                    std::pin::pin!(act::act(&cx, &pod, &observed, &actions, &mounted, &mut memory, &ending));
                tokio::select! {
                    biased;
                    done = &mut acting => done,
                    () = ended => {
                        ending.cancel();
                        acting.await
                    }
                }
            };
            self.memory = memory;
            // Wake-ups that came while acting were swallowed above.
            self.handle.wake.notify_one();
            if let Some(wait) = done.again {
                again = Some(again.map_or(wait, |a| a.min(wait)));
                // Shown now; the next look comes after the wait, not at once.
                if let Ok(observed) = cx.observe(&uid).await {
                    self.show(&pod, &observed, false, false);
                }
                self.settle().await;
            }
        }
        if Volumes::can_change(&pod) && !cx.hollow {
            again = Some(again.map_or(VOLUME_REFRESH, |a| a.min(VOLUME_REFRESH)));
        }
        again
    }

    /// Takes back the wake-up left for ourselves, unless something else woke us too.
    async fn settle(&self) {
        tokio::select! {
            biased;
            () = self.handle.wake.notified() => {}
            () = std::future::ready(()) => {}
        }
    }

    /// Folders, cgroup and volumes. Returns how long to wait if they are not ready.
    async fn prepare(&mut self, pod: &Arc<Pod>, observed: &Observed) -> Option<Duration> {
        let cx = self.cx.clone();
        if cx.hollow {
            return None;
        }
        if let Err(why) = cx.devices.prepare(pod).await {
            // Without them its containers would run and not have what they were promised.
            let text = format!("Failed to prepare dynamic resources: {why}");
            cx.event(pod, EventType::Warning, "FailedPrepareDynamicResources", text);
            let wait = self.mount_wait;
            self.mount_wait = (wait * 2).min(Duration::from_secs(122));
            return Some(wait);
        }
        let told = (pod.metadata.labels.clone(), pod.metadata.annotations.clone(), Grant::of(pod));
        let fresh = self.refreshed.elapsed() < VOLUME_REFRESH && told == self.refreshed_for;
        if self.mounted.is_some() && (!Volumes::can_change(pod) || fresh) {
            return None;
        }
        if self.mounted.is_none()
            && let Some(cgroups) = &cx.cgroups
            // In the middle of a resize, the steps that are left set the rest.
            && let Err(error) = cgroups.create_pod(&cx.allocations.of(pod).1.map_or_else(|| pod.clone(), |g| g.apply(pod)))
        {
            let message = format!("error: failed to create the cgroup of the pod: {error}");
            cx.event(pod, EventType::Warning, "FailedCreatePodContainer", message);
            return Some(Duration::from_secs(10));
        }
        match cx.volumes.setup(pod, &cx.env_facts(pod, observed)).await {
            Ok(mounted) => {
                self.mounted = Some(mounted);
                self.refreshed_for = told;
                self.refreshed = Instant::now();
                self.mount_wait = Duration::from_millis(500);
                None
            }
            Err(errors) => {
                for error in errors {
                    let text = format!("MountVolume.SetUp failed for volume \"{}\" : {}", error.volume, error.message);
                    cx.event(pod, EventType::Warning, "FailedMount", text);
                }
                if self.mounted.is_some() {
                    // What is mounted stays as it was.
                    self.refreshed = Instant::now();
                    return None;
                }
                let wait = self.mount_wait;
                self.mount_wait = (wait * 2).min(Duration::from_secs(122));
                Some(wait)
            }
        }
    }

    /// Ends everything of the pod, and tries until that worked. A shorter grace period given meanwhile counts.
    async fn terminate(&mut self) {
        let cx = self.cx.clone();
        loop {
            let wanted = self.handle.wanted();
            let pod = cx.allocations.granted(&wanted.pod);
            cx.probes.stop_readiness(pod::uid(&pod));
            let observed = match cx.observe(pod::uid(&pod)).await {
                Ok(observed) => observed,
                Err(error) => {
                    tracing::warn!(pod = pod::full_name(&pod), %error, "the runtime cannot be asked");
                    tokio::time::sleep(Duration::from_secs(2)).await;
                    continue;
                }
            };
            self.show(&pod, &observed, false, false);
            let grace = wanted.grace();
            let handle = self.handle.clone();
            let shorter = async {
                loop {
                    handle.wake.notified().await;
                    if handle.wanted().grace() < grace {
                        return;
                    }
                }
            };
            let outcome = tokio::select! {
                outcome = act::kill_pod(&cx, &pod, &observed, Some(grace)) => outcome,
                () = shorter => continue,
            };
            match outcome {
                Ok(()) => return,
                Err(error) => {
                    let text = format!("error killing pod: {error}");
                    cx.event(&pod, EventType::Warning, "FailedKillPod", text);
                    tokio::time::sleep(Duration::from_secs(2)).await;
                }
            }
        }
    }

    /// The pod has ended: frees what it held, shows its last status, waits until it is gone, removes the rest.
    async fn terminated(&mut self) {
        let cx = self.cx.clone();
        let pod = cx.allocations.granted(&self.handle.pod());
        let uid = pod::uid(&pod).to_owned();
        cx.probes.forget(&uid);
        // What keeps a folder or a cgroup busy may be a sandbox that came up after its request was given up.
        let mut wait = Backoff::new(Duration::from_millis(100), Duration::from_secs(1));
        let observed = loop {
            let observed = self.quiet(&pod).await;
            self.show(&pod, &observed, true, false);
            match self.release(&uid).await {
                Ok(()) => break observed,
                Err(error) => tracing::warn!(pod = pod::full_name(&pod), %error, "pod not taken down yet"),
            }
            tokio::time::sleep(wait.next_delay()).await;
        };
        self.handle.released.store(true, Ordering::Release);
        loop {
            let wanted = self.handle.wanted();
            let deleting = wanted.gone || wanted.pod.metadata.deletion_timestamp.is_some();
            self.show(&cx.allocations.granted(&wanted.pod), &observed, true, deleting);
            if wanted.gone {
                break;
            }
            self.handle.wake.notified().await;
        }
        for sandbox in &self.quiet(&pod).await.sandboxes {
            if let Err(error) = cx.runtime.remove_pod_sandbox(&sandbox.id).await {
                tracing::warn!(sandbox = sandbox.id, %error, "sandbox not removed");
            }
        }
        if !cx.hollow {
            let _ = std::fs::remove_dir_all(crate::spec::log_directory(&cx.log_dir, &pod));
        }
        cx.owners.write().retain(|_, owner| *owner != uid);
        cx.allocations.forget(&uid);
        cx.status.forget(&uid);
    }

    /// Waits until nothing of the pod runs, and ends at once what came up while the rest was ended.
    async fn quiet(&self, pod: &Pod) -> Observed {
        let mut wait = Backoff::new(Duration::from_millis(50), Duration::from_secs(1));
        loop {
            match self.cx.observe(pod::uid(pod)).await {
                Ok(observed) if observed.is_quiet() => return observed,
                Ok(observed) => {
                    if let Err(error) = act::kill_pod(&self.cx, pod, &observed, Some(0)).await {
                        tracing::warn!(pod = pod::full_name(pod), %error, "pod not killed");
                    }
                }
                Err(error) => tracing::warn!(pod = pod::full_name(pod), %error, "the runtime cannot be asked"),
            }
            tokio::time::sleep(wait.next_delay()).await;
        }
    }

    /// Gives back the devices, the volumes and the cgroup of a pod.
    async fn release(&self, uid: &str) -> std::io::Result<()> {
        if self.cx.hollow {
            return Ok(());
        }
        self.cx.devices.unprepare(uid).await.map_err(std::io::Error::other)?;
        self.cx.volumes.detach(uid).await?;
        self.cx.volumes.teardown(uid)?;
        self.cx.cgroups.as_ref().map_or(Ok(()), |cgroups| cgroups.remove_pod(uid))
    }
}
