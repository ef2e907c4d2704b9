//! From what the runtime has to what the API shows (pure). Follows upstream `pkg/kubelet/kubelet_pods.go`
//! (`generateAPIPodStatus`, `convertToAPIContainerStatuses`, `getPhase`) and `pkg/kubelet/prober`'s
//! `UpdatePodStatus`.

use std::collections::{BTreeMap, HashMap};

use k8s_openapi::api::core::v1::{
    Container, ContainerState, ContainerStateRunning, ContainerStateTerminated, ContainerStateWaiting, ContainerStatus,
    HostIP, Pod, PodIP, PodSpec, PodStatus,
};
use k8s_openapi::api::core::v1::{PodCondition, ResourceRequirements};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity as Text;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use orkd_api::quantity::Quantity;
use orkd_cri::v1;

use super::conditions;
use crate::allocation::Grant;
use crate::plan::{self, ProbeView};
use crate::pod::{self, Kind, Observed, is_sidecar, keys};
use crate::resources;

/// Why a container could not be started: the waiting state it is shown in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Waiting {
    /// For example `ImagePullBackOff`.
    pub reason: String,
    /// The details.
    pub message: String,
}

/// Everything a status depends on besides the pod and the runtime.
#[derive(Debug, Clone, Default)]
pub struct Context {
    /// What was reported last.
    pub old: PodStatus,
    /// Probe results.
    pub probes: ProbeView,
    /// Reasons of containers that could not be started, by name.
    pub waiting: HashMap<String, Waiting>,
    /// The node's addresses.
    pub host_ips: Vec<String>,
    /// The name of the runtime, for container ids.
    pub runtime: String,
    /// No container of the pod runs or will run again.
    pub terminal: bool,
    /// What the kubelet itself decided (deadline, eviction, admission). It is shown when nothing runs any more.
    pub forced: Option<Forced>,
    /// Termination messages by container id.
    pub messages: HashMap<String, String>,
    /// What is in force of the pod's resources, if that is not what it was granted.
    pub in_force: Option<Grant>,
    /// The conditions of its resize.
    pub resizing: Vec<PodCondition>,
}

/// Why a pod ends although nobody asked for it and its containers did not end by themselves.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Forced {
    /// Phase.
    pub phase: String,
    /// Reason.
    pub reason: String,
    /// Message.
    pub message: String,
    /// It makes room for others (`DisruptionTarget`).
    pub disrupted: bool,
    /// It was never taken: its containers have no status.
    pub rejected: bool,
}

fn time(nanoseconds: i64) -> Option<Time> {
    let timestamp = Timestamp::from_nanosecond(i128::from(nanoseconds)).ok()?;
    // The API keeps whole seconds.
    Timestamp::from_second(timestamp.as_second()).ok().map(Time)
}

/// One container of the runtime, as the API shows it.
fn convert(cx: &Context, status: &v1::ContainerStatus, old: Option<&ContainerStatus>) -> ContainerStatus {
    let id = format!("{}://{}", cx.runtime, status.id);
    let image = status.image.as_ref().map(|i| match i.user_specified_image.is_empty() {
        true => i.image.clone(),
        false => i.user_specified_image.clone(),
    });
    let mut out = ContainerStatus {
        name: pod::container_name(status).to_owned(),
        image: image.unwrap_or_default(),
        image_id: status.image_ref.clone(),
        container_id: Some(id.clone()),
        restart_count: pod::restart_count(status),
        ..ContainerStatus::default()
    };
    let terminated = |exit_code, reason: &str, message: Option<String>| ContainerState {
        terminated: Some(ContainerStateTerminated {
            container_id: Some(id.clone()),
            exit_code,
            reason: Some(reason.to_owned()),
            message: message.filter(|m| !m.is_empty()),
            started_at: time(status.started_at),
            finished_at: time(status.finished_at),
            signal: None,
        }),
        ..ContainerState::default()
    };
    out.state = Some(match pod::state(status) {
        v1::ContainerState::ContainerRunning => ContainerState {
            running: Some(ContainerStateRunning { started_at: time(status.started_at) }),
            ..ContainerState::default()
        },
        v1::ContainerState::ContainerExited => {
            let reason = match status.reason.as_str() {
                "" if status.exit_code == 0 => "Completed",
                "" => "Error",
                reason => reason,
            };
            let told = cx.messages.get(&status.id).cloned();
            let message = told.unwrap_or_else(|| status.message.clone());
            terminated(status.exit_code, reason, Some(message))
        }
        v1::ContainerState::ContainerUnknown
            if old.and_then(|o| o.state.as_ref()).is_some_and(|s| s.running.is_some()) =>
        {
            out.restart_count += 1;
            let message = "The container could not be located when the pod was terminated";
            terminated(137, "ContainerStatusUnknown", Some(message.to_owned()))
        }
        v1::ContainerState::ContainerCreated | v1::ContainerState::ContainerUnknown => {
            ContainerState { waiting: Some(ContainerStateWaiting::default()), ..ContainerState::default() }
        }
    });
    out
}

/// The resources of a container that was made: what it was granted, or what is in force while it runs, as the runtime tells
/// it or else as it was set (`convertContainerStatusResources`). Amounts that the kernel cannot tell apart are shown as they
/// were granted.
fn resources_shown(
    container: &Container,
    kind: Kind,
    status: &v1::ContainerStatus,
    in_force: Option<&Grant>,
) -> Option<ResourceRequirements> {
    if kind == Kind::Ephemeral || (kind == Kind::Init && !is_sidecar(container)) {
        return None;
    }
    let granted = container.resources.clone().unwrap_or_default();
    if pod::state(status) != v1::ContainerState::ContainerRunning {
        return Some(granted);
    }
    let mut shown = in_force.and_then(|has| has.containers.get(&container.name)).cloned().unwrap_or(granted);
    let Some(told) = status.resources.as_ref().and_then(|r| r.linux.as_ref()) else { return Some(shown) };
    let [request, limit, memory] = resources::in_force(told);
    let tell = |list: Option<&mut BTreeMap<String, Text>>, name: &str, told: Option<i64>, least: i64| {
        let (Some(list), Some(told)) = (list, told) else { return };
        let (milli, cpu) = (|text: &Text| resources::milli(&text.0), name == "cpu");
        let number = |text: &Text| if cpu { milli(text) } else { resources::units(&text.0) };
        let known = list.get(name).and_then(number).unwrap_or_default();
        if known != told && (known > least || told > least) {
            let amount = if cpu { Quantity::from_milli(told) } else { Quantity::from_bytes(told) };
            list.insert(name.to_owned(), Text(amount.to_string()));
        }
    };
    tell(shown.requests.as_mut(), "cpu", request, resources::MIN_SHARES);
    tell(shown.limits.as_mut(), "cpu", limit, resources::MIN_MILLI_LIMIT);
    tell(shown.limits.as_mut(), "memory", memory, 0);
    Some(shown)
}

/// The statuses of one list of containers.
fn container_statuses(
    pod: &Pod,
    observed: &Observed,
    cx: &Context,
    kind: Kind,
    containers: &[Container],
    old: &[ContainerStatus],
    has_init: bool,
) -> Vec<ContainerStatus> {
    let default_reason = if has_init { "PodInitializing" } else { "ContainerCreating" };
    let waiting = |reason: &str, message: Option<String>| ContainerState {
        waiting: Some(ContainerStateWaiting { reason: Some(reason.to_owned()), message }),
        ..ContainerState::default()
    };
    let old: HashMap<&str, &ContainerStatus> = old.iter().map(|s| (s.name.as_str(), s)).collect();
    let mut statuses: BTreeMap<&str, ContainerStatus> = BTreeMap::new();
    for container in containers {
        let mut status = ContainerStatus {
            name: container.name.clone(),
            image: container.image.clone().unwrap_or_default(),
            state: Some(waiting(default_reason, None)),
            last_state: Some(ContainerState::default()),
            ..ContainerStatus::default()
        };
        if let Some(before) = old.get(container.name.as_str()) {
            let before_state = before.state.as_ref();
            if before_state.is_some_and(|s| s.terminated.is_some()) {
                status = (*before).clone();
            } else {
                status.restart_count = before.restart_count;
                status.last_state = before.last_state.clone();
                // It ran and the runtime has forgotten it: it ended, nobody knows how.
                let vanished = observed.latest(&container.name).is_none()
                    && before_state.is_some_and(|s| s.running.is_some())
                    && before.last_state.as_ref().is_none_or(|s| s.terminated.is_none());
                if vanished {
                    status.last_state = Some(ContainerState {
                        terminated: Some(ContainerStateTerminated {
                            exit_code: 137,
                            reason: Some("ContainerStatusUnknown".to_owned()),
                            message: Some(
                                "The container could not be located when the pod was deleted.  The container used \
                                 to be Running"
                                    .to_owned(),
                            ),
                            ..ContainerStateTerminated::default()
                        }),
                        ..ContainerState::default()
                    });
                    status.restart_count += 1;
                }
            }
        }
        statuses.insert(&container.name, status);
    }
    // Newest first: the first of a name is the current one, the second the last.
    let mut seen: HashMap<&str, u32> = HashMap::new();
    for status in &observed.containers {
        let name = pod::container_name(status);
        let Some(slot) = statuses.get_mut(name) else { continue };
        let count = seen.entry(name).or_default();
        match *count {
            0 => {
                let last = slot.last_state.take();
                *slot = convert(cx, status, old.get(name).copied());
                let container = containers.iter().find(|c| c.name == name);
                slot.resources = container.and_then(|c| resources_shown(c, kind, status, cx.in_force.as_ref()));
                // The container before may be gone from the runtime; what was reported of it stays.
                slot.last_state = last.filter(|s| s.terminated.is_some()).or_else(|| {
                    let before = old.get(name).and_then(|o| o.state.clone());
                    let other = before
                        .as_ref()
                        .and_then(|s| s.terminated.as_ref())
                        .is_some_and(|t| t.container_id != slot.container_id);
                    before.filter(|_| other)
                });
                if slot.last_state.is_none() {
                    slot.last_state = Some(ContainerState::default());
                }
            }
            1 => slot.last_state = convert(cx, status, None).state,
            _ => {}
        }
        *count += 1;
    }
    // Containers that were to be started and could not be.
    for container in containers {
        let latest = observed.latest(&container.name);
        let exited_well =
            latest.is_some_and(|s| pod::state(s) == v1::ContainerState::ContainerExited && s.exit_code == 0);
        if kind == Kind::Init && !is_sidecar(container) && exited_well {
            continue;
        }
        if kind == Kind::Ephemeral && latest.is_some() || !plan::should_restart(pod, container, latest) {
            continue;
        }
        let Some(reason) = cx.waiting.get(&container.name) else { continue };
        let Some(status) = statuses.get_mut(container.name.as_str()) else { continue };
        if status.state.as_ref().is_some_and(|s| s.terminated.is_some()) {
            status.last_state = status.state.take();
        }
        status.state = Some(waiting(&reason.reason, Some(reason.message.clone()).filter(|m| !m.is_empty())));
    }
    match kind {
        // In the order of the spec.
        Kind::Init => containers.iter().filter_map(|c| statuses.remove(c.name.as_str())).collect(),
        Kind::App | Kind::Ephemeral => statuses.into_values().collect(),
    }
}

/// `started` and `ready` of running containers, from the probes.
fn apply_probes(statuses: &mut [ContainerStatus], containers: &[Container], kind: Kind, probes: &ProbeView) {
    for status in statuses {
        let Some(container) = containers.iter().find(|c| c.name == status.name) else { continue };
        let state = status.state.as_ref();
        if kind == Kind::Ephemeral {
            continue;
        }
        if kind == Kind::Init && !is_sidecar(container) {
            status.started = Some(false);
            status.ready = state.and_then(|s| s.terminated.as_ref()).is_some_and(|t| t.exit_code == 0);
            continue;
        }
        let running = state.is_some_and(|s| s.running.is_some());
        let id = status.container_id.as_deref().and_then(|id| id.split_once("://")).map_or("", |(_, id)| id);
        let result = |results: &HashMap<String, bool>, has_probe: bool| match results.get(id) {
            Some(passed) => *passed,
            None => !has_probe,
        };
        let started = running && result(&probes.startup, container.startup_probe.is_some());
        status.started = Some(started);
        status.ready = started && result(&probes.readiness, container.readiness_probe.is_some());
    }
}

/// The phase.
pub fn phase(spec: &PodSpec, all: &[ContainerStatus], terminal: bool) -> &'static str {
    let find = |name: &str| all.iter().find(|s| s.name == name);
    let last_ended =
        |s: &ContainerStatus| s.last_state.as_ref().and_then(|l| l.terminated.as_ref()).map(|t| t.exit_code);
    let policy = pod::restart_policy(spec);
    let (mut pending, mut pending_sidecars, mut failed) = (0, 0, 0);
    for container in spec.init_containers.iter().flatten() {
        let sidecar = is_sidecar(container);
        let Some(status) = find(&container.name) else {
            if sidecar {
                pending_sidecars += 1
            } else {
                pending += 1
            }
            continue;
        };
        let state = status.state.clone().unwrap_or_default();
        if sidecar {
            let waiting_first = state.running.is_none() && state.terminated.is_none() && last_ended(status).is_none();
            if (state.running.is_some() && status.started != Some(true)) || waiting_first {
                pending_sidecars += 1;
            }
        } else if let Some(ended) = state.terminated {
            failed += usize::from(ended.exit_code != 0);
        } else if state.running.is_some() {
            pending += 1;
        } else {
            match last_ended(status) {
                Some(0) => {}
                Some(_) => {
                    failed += 1;
                    pending += 1;
                }
                None => pending += 1,
            }
        }
    }
    let (mut unknown, mut running, mut waiting, mut stopped, mut succeeded) = (0, 0, 0, 0, 0);
    for container in &spec.containers {
        let Some(status) = find(&container.name) else {
            unknown += 1;
            continue;
        };
        let state = status.state.clone().unwrap_or_default();
        if state.running.is_some() {
            running += 1;
        } else if let Some(ended) = state.terminated {
            stopped += 1;
            succeeded += usize::from(ended.exit_code == 0);
        } else if state.waiting.is_some() {
            if last_ended(status).is_some() { stopped += 1 } else { waiting += 1 }
        } else {
            unknown += 1;
        }
    }
    if failed > 0 && policy == "Never" {
        return "Failed";
    }
    let initialized = conditions::any_regular_started(spec, all);
    if !terminal && (pending > 0 || (pending_sidecars > 0 && !initialized)) || (waiting > 0 && !terminal) {
        return "Pending";
    }
    if terminal {
        // Nothing of it will run again: containers never started count as failed.
        return if stopped == succeeded && stopped == spec.containers.len() { "Succeeded" } else { "Failed" };
    }
    match () {
        () if running > 0 && unknown == 0 => "Running",
        () if running == 0 && stopped > 0 && unknown == 0 => match policy {
            "Always" => "Running",
            _ if stopped == succeeded => "Succeeded",
            "Never" => "Failed",
            _ => "Running",
        },
        () => "Pending",
    }
}

/// The status of a pod.
pub fn pod_status(pod: &Pod, observed: &Observed, cx: &Context, now: Timestamp) -> PodStatus {
    let spec = pod::spec(pod);
    let init = spec.init_containers.clone().unwrap_or_default();
    let ephemeral: Vec<_> = spec.ephemeral_containers.iter().flatten().map(pod::from_ephemeral).collect();
    let old = |list: &Option<Vec<ContainerStatus>>| list.clone().unwrap_or_default();
    let make = |kind, containers: &[Container], old: Vec<ContainerStatus>, has_init| {
        let mut list = container_statuses(pod, observed, cx, kind, containers, &old, has_init);
        apply_probes(&mut list, containers, kind, &cx.probes);
        if cx.terminal {
            end_all(&mut list);
        }
        list
    };
    let containers = make(Kind::App, &spec.containers, old(&cx.old.container_statuses), !init.is_empty());
    let inits = make(Kind::Init, &init, old(&cx.old.init_container_statuses), true);
    let ephemerals = make(Kind::Ephemeral, &ephemeral, old(&cx.old.ephemeral_container_statuses), false);
    let all: Vec<_> = containers.iter().chain(&inits).cloned().collect();

    let mut out = PodStatus {
        qos_class: Some(cx.old.qos_class.clone().unwrap_or_else(|| resources::qos_class(&spec).to_owned())),
        start_time: cx.old.start_time.clone().or_else(|| time(now.as_nanosecond().try_into().unwrap_or_default())),
        nominated_node_name: cx.old.nominated_node_name.clone(),
        resource_claim_statuses: cx.old.resource_claim_statuses.clone(),
        observed_generation: pod.metadata.generation,
        ..PodStatus::default()
    };
    let mut phase_now = phase(&spec, &all, cx.terminal).to_owned();
    // A phase that is final stays.
    for before in [cx.old.phase.as_deref(), Some(pod::phase(pod))].into_iter().flatten() {
        if pod::is_terminal_phase(before) && !pod::is_terminal_phase(&phase_now) {
            phase_now = before.to_owned();
        }
    }
    if cx.old.phase.as_deref() == Some(phase_now.as_str()) {
        out.reason = cx.old.reason.clone();
        out.message = cx.old.message.clone();
    }
    // Who replaces a pod that has failed does so when it is gone.
    if let Some(forced) = cx.forced.as_ref().filter(|_| cx.terminal) {
        phase_now.clone_from(&forced.phase);
        out.reason = Some(forced.reason.clone()).filter(|r| !r.is_empty());
        out.message = Some(forced.message.clone()).filter(|m| !m.is_empty());
    }

    let old_conditions = cx.old.conditions.clone().unwrap_or_default();
    let shown = pod.status.as_ref().and_then(|s| s.conditions.clone()).unwrap_or_default();
    let mut list: Vec<_> = shown.iter().filter(|c| !conditions::OWNED.contains(&c.type_.as_str())).cloned().collect();
    let has_sandbox = observed.sandboxes.first().is_some_and(|s| {
        pod::is_ready(s) && (pod::host_network(pod) || s.network.as_ref().is_some_and(|n| !n.ip.is_empty()))
    });
    let containers_ready = conditions::containers_ready(&spec, &all, &phase_now);
    let ready = conditions::ready(pod, &list, &containers_ready);
    list.push(conditions::ready_to_start(has_sandbox));
    list.push(conditions::initialized(&spec, &all, &phase_now));
    list.push(ready);
    list.push(containers_ready);
    list.push(conditions::scheduled());
    if let Some(forced) = cx.forced.as_ref().filter(|f| f.disrupted) {
        list.retain(|c| c.type_ != conditions::DISRUPTION);
        list.push(conditions::disrupted(&forced.message));
    }
    for c in list.iter_mut().filter(|c| conditions::is_ours(c)) {
        c.observed_generation = pod.metadata.generation;
    }
    list.extend(cx.resizing.iter().cloned());
    conditions::with_times(&mut list, if old_conditions.is_empty() { &shown } else { &old_conditions }, now);
    out.conditions = Some(list);
    out.phase = Some(phase_now);

    out.host_ip = cx.host_ips.first().cloned();
    out.host_ips = Some(cx.host_ips.iter().map(|ip| HostIP { ip: ip.clone() }).collect());
    let ips = match pod::host_network(pod) {
        true => cx.host_ips.clone(),
        false => observed.ips(),
    };
    // The address of a pod that has ended is kept as it was.
    match ips.is_empty() {
        true => {
            out.pod_ip = cx.old.pod_ip.clone();
            out.pod_ips = cx.old.pod_ips.clone();
        }
        false => {
            out.pod_ip = ips.first().cloned();
            out.pod_ips = Some(ips.into_iter().map(|ip| PodIP { ip }).collect());
        }
    }
    // What containers have as well, the pod has if it asks for something as a whole.
    if let Some(granted) = &spec.resources {
        out.allocated_resources = granted.requests.clone();
        out.resources = cx.in_force.as_ref().map_or_else(|| Some(granted.clone()), |has| has.pod.clone());
    }
    let rejected = cx.forced.as_ref().is_some_and(|f| f.rejected);
    let some = |list: Vec<ContainerStatus>| (!list.is_empty() && !rejected).then_some(list);
    out.container_statuses = some(containers);
    out.init_container_statuses = some(inits);
    out.ephemeral_container_statuses = some(ephemerals);
    out
}

/// In a pod that is over, what was running when it was last seen has ended, nobody knows how.
fn end_all(statuses: &mut [ContainerStatus]) {
    for status in statuses {
        let state = status.state.get_or_insert_default();
        if state.running.is_some() {
            *state = ContainerState {
                terminated: Some(ContainerStateTerminated {
                    exit_code: 137,
                    reason: Some("ContainerStatusUnknown".to_owned()),
                    message: Some("The container could not be located when the pod was terminated".to_owned()),
                    ..ContainerStateTerminated::default()
                }),
                ..ContainerState::default()
            };
        }
        status.ready = false;
        status.started = Some(false);
    }
}

/// The file a container's termination message is in, on the host, and how to read it: (path, policy).
pub fn termination_message_source(status: &v1::ContainerStatus) -> Option<(String, String)> {
    let path = status.annotations.get(keys::TERMINATION_PATH)?;
    let mount = status.mounts.iter().find(|m| m.container_path == *path)?;
    let policy = status.annotations.get(keys::TERMINATION_POLICY).cloned().unwrap_or_default();
    Some((mount.host_path.clone(), policy))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    /// A pod with containers a and b in states written as `R`, `W` (waiting), `W:code` (waiting after an end) or an
    /// exit code.
    fn check(policy: &str, states: [&str; 2], terminal: bool, expected: &str) {
        let spec: PodSpec = serde_json::from_value(json!({
            "restartPolicy": policy, "containers": [{"name": "a"}, {"name": "b"}],
        }))
        .unwrap_or_default();
        let all: Vec<ContainerStatus> = ["a", "b"]
            .iter()
            .zip(states)
            .map(|(name, s)| {
                let ended = |code: &str| json!({"terminated": {"exitCode": code.parse::<i32>().unwrap_or(1)}});
                let (state, last) = match s.split_once(':') {
                    Some((_, code)) => (json!({"waiting": {}}), ended(code)),
                    None if s == "R" => (json!({"running": {}}), json!({})),
                    None if s == "W" => (json!({"waiting": {}}), json!({})),
                    None => (ended(s), json!({})),
                };
                let v = json!({"name": name, "image": "", "imageID": "", "ready": false, "restartCount": 0,
                               "state": state, "lastState": last});
                serde_json::from_value(v).unwrap_or_default()
            })
            .collect();
        assert_eq!(phase(&spec, &all, terminal), expected, "{policy} {states:?} {terminal}");
    }

    #[test]
    fn phases() {
        check("Always", ["R", "R"], false, "Running");
        check("Always", ["W", "R"], false, "Pending");
        check("Always", ["W:1", "R"], false, "Running");
        check("Always", ["1", "1"], false, "Running");
        check("OnFailure", ["0", "1"], false, "Running");
        check("OnFailure", ["0", "0"], false, "Succeeded");
        check("Never", ["0", "1"], false, "Failed");
        check("Never", ["0", "0"], false, "Succeeded");
        check("Never", ["0", "R"], false, "Running");
        check("Always", ["0", "137"], true, "Failed");
        check("Always", ["0", "0"], true, "Succeeded");
        check("Always", ["W", "0"], true, "Failed");
    }

    #[test]
    fn a_container_in_back_off_waits_and_keeps_its_last_end() {
        let pod: Pod = serde_json::from_value(json!({
            "metadata": {"name": "p", "namespace": "n", "uid": "u"},
            "spec": {"containers": [{"name": "a", "image": "x"}]},
        }))
        .unwrap_or_default();
        let dead = |id: &str, at: i64| v1::ContainerStatus {
            id: id.to_owned(),
            metadata: Some(v1::ContainerMetadata { name: "a".to_owned(), attempt: 1 }),
            created_at: at,
            state: v1::ContainerState::ContainerExited.into(),
            exit_code: 2,
            ..Default::default()
        };
        let observed = Observed::new(Vec::new(), vec![dead("one", 1), dead("two", 2)]);
        let waiting = Waiting { reason: "CrashLoopBackOff".to_owned(), message: "back-off 10s".to_owned() };
        let cx = Context {
            waiting: HashMap::from([("a".to_owned(), waiting)]),
            runtime: "containerd".to_owned(),
            ..Context::default()
        };
        let status = pod_status(&pod, &observed, &cx, Timestamp::UNIX_EPOCH);
        let container = status.container_statuses.and_then(|l| l.into_iter().next()).unwrap_or_default();
        let state = container.state.unwrap_or_default();
        assert_eq!(state.waiting.and_then(|w| w.reason).as_deref(), Some("CrashLoopBackOff"));
        let last = container.last_state.and_then(|s| s.terminated).unwrap_or_default();
        assert_eq!((last.exit_code, last.container_id.as_deref()), (2, Some("containerd://two")));
        assert_eq!(container.restart_count, 1);
        assert_eq!(status.phase.as_deref(), Some("Running"));
    }
}
