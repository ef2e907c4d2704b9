//! Probes: one task for each probe of each container. Follows upstream `pkg/kubelet/prober/worker.go`.
//!
//! Results are kept by container id; a change wakes the pod's worker.

mod grpc;
mod handler;
pub mod http;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Container, Pod, Probe};
use k8s_openapi::jiff::Timestamp;
use orkd_base::{Supervisor, TaskKind};
use orkd_cri::{Runtime, v1};
use orkd_reconcile::{EventType, ObjectRef, Recorder};
use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;

use crate::plan::ProbeView;
use crate::pod::{self, Kind, Observed};
use crate::worker::Handle;

/// What a probe is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Purpose {
    /// Restart what hangs.
    Liveness,
    /// Take out of services what is not ready.
    Readiness,
    /// Hold back the others until it has started.
    Startup,
}

impl Purpose {
    fn name(self) -> &'static str {
        match self {
            Self::Liveness => "Liveness",
            Self::Readiness => "Readiness",
            Self::Startup => "Startup",
        }
    }
}

/// A list of words as Go's `%v` prints it.
pub fn go_list(words: &[String]) -> String {
    format!("[{}]", words.join(" "))
}

/// A container that runs.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Run {
    id: String,
    started_at: i64,
    ip: String,
}

type TaskKey = (String, String, Purpose);

#[derive(Default)]
struct State {
    view: ProbeView,
    runs: HashMap<(String, String), Run>,
    tasks: HashMap<TaskKey, CancellationToken>,
}

/// All probes of the node. Cheap to clone.
#[derive(Clone)]
pub struct Probes {
    state: Arc<Mutex<State>>,
    runtime: Arc<dyn Runtime>,
    recorder: Recorder,
    supervisor: Supervisor,
}

impl Probes {
    /// No probes yet.
    pub fn new(runtime: Arc<dyn Runtime>, recorder: Recorder, supervisor: Supervisor) -> Self {
        Self { state: Arc::default(), runtime, recorder, supervisor }
    }

    /// The results so far.
    pub fn view(&self) -> ProbeView {
        self.state.lock().view.clone()
    }

    /// Tells what runs, and starts the probes of a pod, which is asked at `ip`.
    pub fn watch(&self, pod: &Arc<Pod>, observed: &Observed, ip: &str, handle: &Arc<Handle>) {
        let spec = pod::spec(pod);
        let uid = pod::uid(pod).to_owned();
        for (place, container) in pod::all_containers(&spec) {
            let probes = [
                (Purpose::Liveness, &container.liveness_probe),
                (Purpose::Readiness, &container.readiness_probe),
                (Purpose::Startup, &container.startup_probe),
            ];
            if place.kind == Kind::Ephemeral || probes.iter().all(|(_, p)| p.is_none()) {
                continue;
            }
            if place.kind == Kind::Init && !pod::is_sidecar(&container) {
                continue;
            }
            let running =
                observed.latest(&container.name).filter(|s| pod::state(s) == v1::ContainerState::ContainerRunning);
            let run = running.map(|s| Run { id: s.id.clone(), started_at: s.started_at, ip: ip.to_owned() });
            let key = (uid.clone(), container.name.clone());
            let mut state = self.state.lock();
            match run {
                Some(run) => state.runs.insert(key, run),
                None => state.runs.remove(&key),
            };
            for (purpose, probe) in probes {
                let Some(probe) = probe else { continue };
                let key = (uid.clone(), container.name.clone(), purpose);
                if state.tasks.contains_key(&key) {
                    continue;
                }
                let cancel = CancellationToken::new();
                state.tasks.insert(key.clone(), cancel.clone());
                let list = if place.kind == Kind::Init { "initContainers" } else { "containers" };
                let task = Task {
                    probes: self.clone(),
                    key,
                    probe: probe.clone(),
                    container: container.clone(),
                    handle: handle.clone(),
                    about: ObjectRef {
                        api_version: "v1".to_owned(),
                        kind: "Pod".to_owned(),
                        namespace: pod::namespace(pod).to_owned(),
                        name: pod::name(pod).to_owned(),
                        uid: uid.clone(),
                        resource_version: String::new(),
                        field_path: format!("spec.{list}{{{}}}", container.name),
                    },
                };
                self.supervisor.spawn(TaskKind::Worker, "probe", move |stop| async move {
                    tokio::select! {
                        () = stop.cancelled() => {}
                        () = cancel.cancelled() => {}
                        () = task.run() => {}
                    }
                });
            }
        }
    }

    /// A pod that is ending is asked no more whether it lives or has started.
    pub fn stop_readiness(&self, uid: &str) {
        let mut state = self.state.lock();
        state.tasks.retain(|(pod, _, purpose), cancel| {
            let stop = pod == uid && *purpose != Purpose::Readiness;
            if stop {
                cancel.cancel();
            }
            !stop
        });
    }

    /// Ends the probes of a pod and forgets their results.
    pub fn forget(&self, uid: &str) {
        let mut state = self.state.lock();
        state.tasks.retain(|(pod, _, _), cancel| {
            if pod == uid {
                cancel.cancel();
            }
            pod != uid
        });
        let gone: Vec<Run> = state.runs.iter().filter(|((pod, _), _)| pod == uid).map(|(_, r)| r.clone()).collect();
        state.runs.retain(|(pod, _), _| pod != uid);
        for run in gone {
            state.view.liveness.remove(&run.id);
            state.view.readiness.remove(&run.id);
            state.view.startup.remove(&run.id);
        }
    }
}

struct Task {
    probes: Probes,
    key: TaskKey,
    probe: Probe,
    container: Container,
    handle: Arc<Handle>,
    about: ObjectRef,
}

impl Task {
    fn current(&self) -> Option<Run> {
        self.probes.state.lock().runs.get(&(self.key.0.clone(), self.key.1.clone())).cloned()
    }

    fn set(&self, id: &str, passed: bool) {
        let changed = {
            let mut state = self.probes.state.lock();
            let results = match self.key.2 {
                Purpose::Liveness => &mut state.view.liveness,
                Purpose::Readiness => &mut state.view.readiness,
                Purpose::Startup => &mut state.view.startup,
            };
            results.insert(id.to_owned(), passed) != Some(passed)
        };
        if changed {
            self.handle.wake();
        }
    }

    async fn run(self) {
        let seconds = |n: Option<i32>, default: u64| n.and_then(|n| u64::try_from(n).ok()).unwrap_or(default);
        let period = Duration::from_secs(seconds(self.probe.period_seconds, 10).max(1));
        let delay = i64::try_from(seconds(self.probe.initial_delay_seconds, 0)).unwrap_or_default();
        let purpose = self.key.2;
        let (mut id, mut streak, mut last, mut hold) = (String::new(), 0u64, None::<bool>, false);
        // A new container is noticed within this time; the period counts from its start.
        let glance = Duration::from_millis(100).min(period);
        let mut next = tokio::time::Instant::now();
        loop {
            tokio::time::sleep_until(next).await;
            let now = tokio::time::Instant::now();
            let Some(run) = self.current() else {
                next = now + glance;
                continue;
            };
            if run.id != id {
                id.clone_from(&run.id);
                (streak, last, hold) = (0, None, false);
                match purpose {
                    Purpose::Liveness => self.set(&id, true),
                    Purpose::Readiness => self.set(&id, false),
                    Purpose::Startup => {}
                }
            }
            if hold {
                // The container is about to be restarted.
                next = now + period;
                continue;
            }
            let age = Timestamp::now().as_second() - run.started_at / 1_000_000_000;
            if age < delay {
                next = now + Duration::from_millis(250);
                continue;
            }
            let started = match self.container.startup_probe {
                None => true,
                Some(_) => self.probes.state.lock().view.startup.get(&id) == Some(&true),
            };
            if (purpose == Purpose::Startup) == started && self.container.startup_probe.is_some() {
                next = now + if purpose == Purpose::Startup { period } else { glance };
                continue;
            }
            next = now + period;
            let passed = self.attempt(&run).await;
            if last == Some(passed) {
                streak += 1;
            } else {
                (last, streak) = (Some(passed), 1);
            }
            let needed = match passed {
                true => seconds(self.probe.success_threshold, 1),
                false => seconds(self.probe.failure_threshold, 3),
            };
            if streak < needed {
                continue;
            }
            self.set(&id, passed);
            if !passed && purpose != Purpose::Readiness {
                hold = true;
                streak = 0;
            }
        }
    }

    async fn attempt(&self, run: &Run) -> bool {
        let limit = self.probe.timeout_seconds.and_then(|t| u64::try_from(t).ok()).unwrap_or(1).max(1);
        let timeout = Duration::from_secs(limit);
        let outcome = if let Some(exec) = &self.probe.exec {
            let command = exec.command.clone().unwrap_or_default();
            match self.probes.runtime.exec_sync(&run.id, command.clone(), i64::try_from(limit).unwrap_or(1)).await {
                Ok(answer) if answer.exit_code == 0 => Ok(()),
                Ok(answer) => Err(String::from_utf8_lossy(&[answer.stdout, answer.stderr].concat()).into_owned()),
                Err(e) if e.is_timeout() => {
                    Err(format!("command timed out: {:?} timed out after {limit}s", command.join(" ")))
                }
                Err(e) => Err(e.to_string()),
            }
        } else if let Some(get) = &self.probe.http_get {
            match http::Request::of(get, &self.container, &run.ip, http::Sender::Probe) {
                Ok(request) => match http::probe(&request, timeout).await {
                    http::Outcome::Success => Ok(()),
                    http::Outcome::Failure(why) => Err(why),
                    http::Outcome::Warning(what) => {
                        let text = format!("{} probe warning: {what}", self.key.2.name());
                        self.probes.recorder.event(&self.about, EventType::Warning, "ProbeWarning", text);
                        Ok(())
                    }
                },
                Err(why) => Err(why),
            }
        } else if let Some(action) = &self.probe.tcp_socket {
            handler::tcp(action, &self.container, &run.ip, timeout).await
        } else if let Some(action) = &self.probe.grpc {
            let service = action.service.as_deref().unwrap_or_default();
            match u16::try_from(action.port) {
                Ok(port) => grpc::check(&run.ip, port, service, timeout).await,
                Err(_) => Err(format!("invalid port number: {}", action.port)),
            }
        } else {
            Err("missing probe handler".to_owned())
        };
        match outcome {
            Ok(()) => true,
            Err(why) => {
                // A container that is gone meanwhile is nobody's fault.
                if self.current().as_ref() == Some(run) {
                    let text = format!("{} probe failed: {why}", self.key.2.name());
                    self.probes.recorder.event(&self.about, EventType::Warning, "Unhealthy", text);
                }
                false
            }
        }
    }
}
