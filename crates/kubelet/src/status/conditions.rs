//! The conditions of a pod the kubelet owns (pure). Follows upstream `pkg/kubelet/status/generate.go`.

use k8s_openapi::api::core::v1::{ContainerStatus, Pod, PodCondition, PodSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;

use crate::pod;

/// Conditions the kubelet writes; the others belong to someone else and are left alone.
pub const OWNED: [&str; 7] = [
    "PodReadyToStartContainers",
    "Initialized",
    "Ready",
    "ContainersReady",
    "PodScheduled",
    crate::allocation::PENDING,
    crate::allocation::IN_PROGRESS,
];

/// The condition of a pod that goes to make room; others than the kubelet set it as well.
pub const DISRUPTION: &str = "DisruptionTarget";
/// The reason by which the kubelet knows its own.
const BY_KUBELET: &str = "TerminationByKubelet";

/// Whether a condition is the kubelet's to write.
pub fn is_ours(condition: &PodCondition) -> bool {
    let kind = condition.type_.as_str();
    OWNED.contains(&kind) || (kind == DISRUPTION && condition.reason.as_deref() == Some(BY_KUBELET))
}

fn condition(kind: &str, status: bool, reason: &str, message: String) -> PodCondition {
    let text = |s: &str| (!s.is_empty()).then(|| s.to_owned());
    PodCondition {
        type_: kind.to_owned(),
        status: if status { "True" } else { "False" }.to_owned(),
        reason: text(reason),
        message: text(&message),
        ..PodCondition::default()
    }
}

/// A list as Go's `%s` of a slice prints it.
fn list(names: &[&str]) -> String {
    format!("[{}]", names.join(" "))
}

fn find<'a>(statuses: &'a [ContainerStatus], name: &str) -> Option<&'a ContainerStatus> {
    statuses.iter().find(|s| s.name == name)
}

/// Whether an ordinary container was started at least once.
pub fn any_regular_started(spec: &PodSpec, statuses: &[ContainerStatus]) -> bool {
    spec.containers.iter().filter_map(|c| find(statuses, &c.name)).any(|s| {
        let current = s.state.as_ref().is_some_and(|st| st.running.is_some() || st.terminated.is_some());
        current || s.last_state.as_ref().is_some_and(|st| st.terminated.is_some())
    })
}

/// `ContainersReady`.
pub fn containers_ready(spec: &PodSpec, all: &[ContainerStatus], phase: &str) -> PodCondition {
    let sidecars = spec.init_containers.iter().flatten().filter(|c| pod::is_sidecar(c));
    let (mut unknown, mut unready) = (Vec::new(), Vec::new());
    for container in sidecars.chain(&spec.containers) {
        match find(all, &container.name) {
            None => unknown.push(container.name.as_str()),
            Some(status) if !status.ready => unready.push(container.name.as_str()),
            Some(_) => {}
        }
    }
    if phase == "Succeeded" && unknown.is_empty() {
        return condition("ContainersReady", false, "PodCompleted", String::new());
    }
    if phase == "Failed" {
        return condition("ContainersReady", false, "PodFailed", String::new());
    }
    let mut messages = Vec::new();
    if !unknown.is_empty() {
        messages.push(format!("containers with unknown status: {}", list(&unknown)));
    }
    if !unready.is_empty() {
        messages.push(format!("containers with unready status: {}", list(&unready)));
    }
    match messages.is_empty() {
        true => condition("ContainersReady", true, "", String::new()),
        false => condition("ContainersReady", false, "ContainersNotReady", messages.join(", ")),
    }
}

/// `Ready`: the containers and the readiness gates.
pub fn ready(pod: &Pod, others: &[PodCondition], containers: &PodCondition) -> PodCondition {
    if containers.status != "True" {
        return PodCondition { type_: "Ready".to_owned(), ..containers.clone() };
    }
    let spec = pod::spec(pod);
    let messages: Vec<_> = spec
        .readiness_gates
        .iter()
        .flatten()
        .filter_map(|gate| {
            let kind = &gate.condition_type;
            match others.iter().find(|c| c.type_ == *kind) {
                None => Some(format!("corresponding condition of pod readiness gate \"{kind}\" does not exist.")),
                Some(c) if c.status != "True" => {
                    Some(format!("the status of pod readiness gate \"{kind}\" is not \"True\", but {}", c.status))
                }
                Some(_) => None,
            }
        })
        .collect();
    match messages.is_empty() {
        true => condition("Ready", true, "", String::new()),
        false => condition("Ready", false, "ReadinessGatesNotReady", messages.join(", ")),
    }
}

/// `Initialized`.
pub fn initialized(spec: &PodSpec, all: &[ContainerStatus], phase: &str) -> PodCondition {
    let (mut unknown, mut incomplete) = (Vec::new(), Vec::new());
    for container in spec.init_containers.iter().flatten() {
        let done = |s: &ContainerStatus| match pod::is_sidecar(container) {
            true => s.started == Some(true),
            false => s.ready,
        };
        match find(all, &container.name) {
            None => unknown.push(container.name.as_str()),
            Some(s) if !done(s) => incomplete.push(container.name.as_str()),
            Some(_) => {}
        }
    }
    if phase == "Succeeded" && unknown.is_empty() {
        return condition("Initialized", true, "PodCompleted", String::new());
    }
    if any_regular_started(spec, all) {
        return condition("Initialized", true, "", String::new());
    }
    let mut messages = Vec::new();
    if !unknown.is_empty() {
        messages.push(format!("containers with unknown status: {}", list(&unknown)));
    }
    if !incomplete.is_empty() {
        messages.push(format!("containers with incomplete status: {}", list(&incomplete)));
    }
    match messages.is_empty() {
        true => condition("Initialized", true, "", String::new()),
        false => condition("Initialized", false, "ContainersNotInitialized", messages.join(", ")),
    }
}

/// `PodReadyToStartContainers`: there is a sandbox with its network.
pub fn ready_to_start(has_sandbox: bool) -> PodCondition {
    condition("PodReadyToStartContainers", has_sandbox, "", String::new())
}

/// `PodScheduled`.
pub fn scheduled() -> PodCondition {
    condition("PodScheduled", true, "", String::new())
}

/// `DisruptionTarget`: the node runs out of something.
pub fn disrupted(message: &str) -> PodCondition {
    condition(DISRUPTION, true, BY_KUBELET, message.to_owned())
}

/// Gives conditions their transition time: the old one's while the status stays, else `now`.
pub fn with_times(conditions: &mut [PodCondition], old: &[PodCondition], now: Timestamp) {
    for c in conditions.iter_mut().filter(|c| is_ours(c) && c.last_transition_time.is_none()) {
        let before = old.iter().find(|o| o.type_ == c.type_ && o.status == c.status);
        c.last_transition_time = before.and_then(|o| o.last_transition_time.clone()).or(Some(Time(now)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn messages_are_upstreams() {
        let pod: Pod = serde_json::from_value(json!({
            "spec": {"containers": [{"name": "a"}, {"name": "b"}], "initContainers": [{"name": "i"}],
                     "readinessGates": [{"conditionType": "x/y"}]},
        }))
        .unwrap_or_default();
        let spec = pod::spec(&pod);
        let check = |statuses: serde_json::Value, ready_text: &str, init_text: &str| {
            let all: Vec<ContainerStatus> = serde_json::from_value(statuses).unwrap_or_default();
            let containers = containers_ready(&spec, &all, "Pending");
            assert_eq!(ready(&pod, &[], &containers).message.as_deref().unwrap_or(""), ready_text);
            assert_eq!(initialized(&spec, &all, "Pending").message.as_deref().unwrap_or(""), init_text);
        };
        let status = |name: &str, ready: bool| json!({"name": name, "ready": ready, "image": "", "imageID": "", "restartCount": 0});
        check(json!([]), "containers with unknown status: [a b]", "containers with unknown status: [i]");
        check(
            json!([status("a", true), status("b", false), status("i", false)]),
            "containers with unready status: [b]",
            "containers with incomplete status: [i]",
        );
        check(
            json!([status("a", true), status("b", true), status("i", true)]),
            "corresponding condition of pod readiness gate \"x/y\" does not exist.",
            "",
        );
    }
}
