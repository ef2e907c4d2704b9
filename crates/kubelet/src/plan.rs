//! What to do next for a pod: a pure function of its spec and of what the runtime has.
//!
//! Follows upstream's `computePodActions` and `computeInitContainerActions`
//! (`pkg/kubelet/kuberuntime/kuberuntime_manager.go`, `kuberuntime_container.go`). The executor ([`crate::act`]) makes
//! no choices of its own, except that it delays restarts that are in back-off.

use std::collections::HashMap;

use k8s_openapi::api::core::v1::{Container, Pod, PodSpec};
use orkd_cri::v1::{self, ContainerState};

use crate::allocation::{Grant, same};
use crate::pod::{self, Kind, Observed, Place, container_hash, is_ready, is_sidecar, keys, state};
use crate::resize::Resize;

/// What probes have found out, by container id. Absent: nothing yet.
#[derive(Debug, Clone, Default)]
pub struct ProbeView {
    /// Liveness: false means failed.
    pub liveness: HashMap<String, bool>,
    /// Startup.
    pub startup: HashMap<String, bool>,
    /// Readiness.
    pub readiness: HashMap<String, bool>,
}

/// Why a container is killed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KillReason {
    /// Its liveness probe failed.
    Liveness,
    /// Its startup probe failed.
    Startup,
    /// The runtime does not know its state.
    Unknown,
    /// Anything else.
    Other,
}

/// A container to kill.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kill {
    /// Runtime id.
    pub id: String,
    /// Its name.
    pub name: String,
    /// The text of the event.
    pub message: String,
    /// Why.
    pub reason: KillReason,
}

/// What to do.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Actions {
    /// Stop everything of the pod, its sandbox included.
    pub kill_pod: bool,
    /// Then create a sandbox.
    pub create_sandbox: bool,
    /// The sandbox to use or to replace.
    pub sandbox_id: Option<String>,
    /// The attempt number of the sandbox to create.
    pub attempt: u32,
    /// Containers to kill.
    pub kill: Vec<Kill>,
    /// What changes of the containers that stay.
    pub resize: Resize,
    /// Containers to start, in order: ephemeral, init, ordinary.
    pub start: Vec<Place>,
}

impl Actions {
    /// Nothing to do.
    pub fn is_empty(&self) -> bool {
        !self.kill_pod
            && !self.create_sandbox
            && self.kill.is_empty()
            && self.start.is_empty()
            && self.resize.is_empty()
    }
}

/// The restart policy that holds for a container: its own where it has one.
fn policy<'a>(spec: &'a PodSpec, container: &'a Container) -> &'a str {
    container.restart_policy.as_deref().unwrap_or_else(|| pod::restart_policy(spec))
}

/// Whether a rule of the container asks for a restart after this exit code.
fn rule_restarts(container: &Container, exit_code: i32) -> bool {
    container.restart_policy_rules.iter().flatten().any(|rule| {
        let Some(codes) = &rule.exit_codes else { return false };
        let listed = codes.values.iter().flatten().any(|v| *v == exit_code);
        rule.action == "Restart" && if codes.operator == "NotIn" { !listed } else { listed }
    })
}

/// Whether a container that does not run is to be started (again).
pub fn should_restart(pod: &Pod, container: &Container, status: Option<&v1::ContainerStatus>) -> bool {
    if pod.metadata.deletion_timestamp.is_some() {
        return false;
    }
    let Some(status) = status else { return true };
    match state(status) {
        ContainerState::ContainerRunning => false,
        ContainerState::ContainerUnknown | ContainerState::ContainerCreated => true,
        ContainerState::ContainerExited => {
            if rule_restarts(container, status.exit_code) {
                return true;
            }
            match policy(&pod::spec(pod), container) {
                "Never" => false,
                "OnFailure" => status.exit_code != 0,
                _ => true,
            }
        }
    }
}

/// Whether the pod needs a new sandbox; the attempt it would have; the sandbox there is.
pub fn sandbox_changed(pod: &Pod, observed: &Observed) -> (bool, u32, Option<String>) {
    let Some(latest) = observed.sandboxes.first() else { return (true, 0, None) };
    let attempt = latest.metadata.as_ref().map_or(0, |m| m.attempt);
    let ready = observed.sandboxes.iter().filter(|s| is_ready(s)).count();
    if ready > 1 || !is_ready(latest) {
        return (true, attempt + 1, Some(latest.id.clone()));
    }
    let has_ip = latest.network.as_ref().is_some_and(|n| !n.ip.is_empty());
    if !pod::host_network(pod) && !has_ip {
        return (true, attempt + 1, Some(latest.id.clone()));
    }
    (false, attempt, Some(latest.id.clone()))
}

/// Whether the container differs from the one that runs.
fn changed(container: &Container, status: &v1::ContainerStatus) -> bool {
    status.annotations.get(keys::CONTAINER_HASH).is_some_and(|hash| *hash != container_hash(container))
}

fn place(kind: Kind, index: usize) -> Place {
    Place { kind, index }
}

/// A container whose resize needs a restart.
fn resized(status: &v1::ContainerStatus, container: &Container) -> Kill {
    let message = format!("Container {} resize requires restart", container.name);
    Kill { id: status.id.clone(), name: container.name.clone(), message, reason: KillReason::Other }
}

/// The plan for a pod, as it was granted; `in_force` is what its containers have, if that is something else.
pub fn plan(pod: &Pod, observed: &Observed, probes: &ProbeView, in_force: Option<&Grant>) -> Actions {
    let spec = pod::spec(pod);
    let never = pod::restart_policy(&spec) == "Never";
    let (create_sandbox, attempt, sandbox_id) = sandbox_changed(pod, observed);
    let mut actions = Actions { kill_pod: create_sandbox, create_sandbox, sandbox_id, attempt, ..Actions::default() };
    let any_created = spec.containers.iter().any(|c| observed.latest(&c.name).is_some());
    let has_init = spec.init_containers.as_ref().is_some_and(|c| !c.is_empty());

    if create_sandbox {
        if never && attempt != 0 && !observed.containers.is_empty() {
            // A pod that may not restart does not get a second sandbox.
            actions.create_sandbox = false;
            return actions;
        }
        let wanted: Vec<_> = spec
            .containers
            .iter()
            .enumerate()
            .filter(|(_, c)| {
                let succeeded = observed
                    .latest(&c.name)
                    .is_some_and(|s| state(s) == ContainerState::ContainerExited && s.exit_code == 0);
                !(policy(&spec, c) == "OnFailure" && succeeded)
            })
            .map(|(i, _)| place(Kind::App, i))
            .collect();
        if wanted.is_empty() && any_created {
            actions.create_sandbox = false;
            return actions;
        }
        // A new sandbox starts from the beginning.
        actions.start = if has_init { vec![place(Kind::Init, 0)] } else { wanted };
        return actions;
    }

    for (i, container) in spec.ephemeral_containers.iter().flatten().enumerate() {
        if observed.latest(&container.name).is_none() {
            actions.start.push(place(Kind::Ephemeral, i));
        }
    }

    actions.resize.pod = in_force.is_some_and(|has| !same(has.pod.as_ref(), spec.resources.as_ref()));
    let (initialized, init_start) = plan_init(pod, &spec, observed, (probes, in_force), never, &mut actions);
    if actions.kill_pod {
        actions.start.clear();
        return actions;
    }
    if !initialized {
        actions.start.extend(init_start);
        return actions;
    }

    let mut keep = 0;
    let mut app_start = Vec::new();
    for (i, container) in spec.containers.iter().enumerate() {
        let status = observed.latest(&container.name);
        let Some(status) = status.filter(|s| state(s) == ContainerState::ContainerRunning) else {
            if should_restart(pod, container, status) {
                app_start.push(place(Kind::App, i));
                if let Some(unknown) = status.filter(|s| state(s) == ContainerState::ContainerUnknown) {
                    actions.kill.push(Kill {
                        id: unknown.id.clone(),
                        name: container.name.clone(),
                        message: "Container is in \"unknown\" state, try killing it before restart".to_owned(),
                        reason: KillReason::Unknown,
                    });
                }
            }
            continue;
        };
        let mut restart = policy(&spec, container) != "Never";
        let (message, reason) = if changed(container, status) {
            restart = true;
            (format!("Container {} definition changed", container.name), KillReason::Other)
        } else if probes.liveness.get(&status.id) == Some(&false) {
            (format!("Container {} failed liveness probe", container.name), KillReason::Liveness)
        } else if probes.startup.get(&status.id) == Some(&false) {
            (format!("Container {} failed startup probe", container.name), KillReason::Startup)
        } else if in_force.is_some_and(|has| !actions.resize.add(container, &status.id, has)) {
            actions.kill.push(resized(status, container));
            app_start.push(place(Kind::App, i));
            continue;
        } else {
            keep += 1;
            continue;
        };
        let message = if restart { format!("{message}, will be restarted") } else { message };
        if restart {
            app_start.push(place(Kind::App, i));
        }
        actions.kill.push(Kill { id: status.id.clone(), name: container.name.clone(), message, reason });
    }
    if keep == 0 && app_start.is_empty() {
        // Nothing runs and nothing will: the sidecars go with the rest.
        actions.kill_pod = true;
        actions.start.clear();
        return actions;
    }
    actions.start.extend(init_start);
    actions.start.extend(app_start);
    actions
}

/// The init containers: whether all have done their part, and which to start.
fn plan_init(
    pod: &Pod,
    spec: &PodSpec,
    observed: &Observed,
    (probes, in_force): (&ProbeView, Option<&Grant>),
    never: bool,
    actions: &mut Actions,
) -> (bool, Vec<Place>) {
    let Some(containers) = spec.init_containers.as_ref().filter(|c| !c.is_empty()) else { return (true, Vec::new()) };
    // Once an ordinary container was made, the init containers are behind us, even if the runtime forgot them.
    let mut has_initialized = spec.containers.iter().any(|c| {
        observed
            .latest(&c.name)
            .is_some_and(|s| matches!(state(s), ContainerState::ContainerCreated | ContainerState::ContainerRunning))
    });
    let mut previously = has_initialized;
    let last = containers.len() - 1;
    let mut start = Vec::new();
    let Actions { kill: kills, resize, .. } = &mut *actions;
    let mut kill = |status: &v1::ContainerStatus, container: &Container, message: String, reason| {
        kills.push(Kill { id: status.id.clone(), name: container.name.clone(), message, reason });
    };
    for (i, container) in containers.iter().enumerate().rev() {
        let sidecar = is_sidecar(container);
        let Some(status) = observed.latest(&container.name) else {
            if previously && sidecar {
                start.push(i);
            }
            continue;
        };
        if previously && !sidecar {
            continue;
        }
        let failed = status.exit_code != 0;
        match state(status) {
            // Created and started are one step; a container left in between failed to start.
            ContainerState::ContainerCreated => start.push(i),
            ContainerState::ContainerRunning if !sidecar => {}
            ContainerState::ContainerRunning => {
                let startup = container.startup_probe.as_ref().map(|_| probes.startup.get(&status.id));
                match startup {
                    Some(None) => {}
                    Some(Some(false)) => {
                        let message = format!("Init container {} failed startup probe", container.name);
                        kill(status, container, message, KillReason::Startup);
                        start.push(i);
                    }
                    Some(Some(true)) | None => {
                        if i == last {
                            has_initialized = true;
                        } else if !previously {
                            start.push(i + 1);
                        }
                        if changed(container, status) {
                            let message = format!("Init container {} definition changed", container.name);
                            kill(status, container, message, KillReason::Other);
                            start.push(i);
                        } else if container.liveness_probe.is_some() && probes.liveness.get(&status.id) == Some(&false)
                        {
                            let message = format!("Init container {} failed liveness probe", container.name);
                            kill(status, container, message, KillReason::Liveness);
                            start.push(i);
                        } else if in_force.is_some_and(|has| !resize.add(container, &status.id, has)) {
                            let Kill { message, reason, .. } = resized(status, container);
                            kill(status, container, message, reason);
                            start.push(i);
                        }
                    }
                }
            }
            ContainerState::ContainerExited if sidecar => {
                if i == last && spec.containers.iter().any(|c| observed.latest(&c.name).is_some()) {
                    has_initialized = true;
                }
                start.push(i);
            }
            ContainerState::ContainerExited if failed => {
                if !should_restart(pod, container, Some(status)) && never_restarts(never, container, status) {
                    actions.kill_pod = true;
                    return (false, Vec::new());
                }
                start.push(i);
            }
            ContainerState::ContainerExited => {
                if i == last {
                    has_initialized = true;
                } else {
                    start.push(i + 1);
                }
            }
            ContainerState::ContainerUnknown => {
                if !sidecar && never {
                    actions.kill_pod = true;
                    return (false, Vec::new());
                }
                let message = "Init container is in \"unknown\" state, try killing it before restart".to_owned();
                kill(status, container, message, KillReason::Unknown);
                start.push(i);
            }
        }
        previously = true;
    }
    if !previously {
        start.push(0);
    }
    start.reverse();
    start.dedup();
    (has_initialized, start.into_iter().map(|i| place(Kind::Init, i)).collect())
}

/// A failed init container that will not be tried again.
fn never_restarts(never: bool, container: &Container, status: &v1::ContainerStatus) -> bool {
    let never = container.restart_policy.as_deref().map_or(never, |p| p == "Never");
    never && !rule_restarts(container, status.exit_code)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn container(name: &str, sandbox_age: i64, state: ContainerState, exit_code: i32) -> v1::ContainerStatus {
        v1::ContainerStatus {
            id: format!("id-{name}"),
            metadata: Some(v1::ContainerMetadata { name: name.to_owned(), attempt: 0 }),
            created_at: sandbox_age,
            state: state.into(),
            exit_code,
            ..Default::default()
        }
    }

    fn ready_sandbox() -> v1::PodSandboxStatus {
        v1::PodSandboxStatus {
            id: "s".to_owned(),
            network: Some(v1::PodSandboxNetworkStatus { ip: "10.0.0.1".to_owned(), ..Default::default() }),
            ..Default::default()
        }
    }

    /// A pod `a`, `b` with init containers `i`, `j`, and a sandbox that is ready. A state is `R`unning, `C`reated,
    /// `U`nknown or an exit code. The answer is what the plan does, in words.
    fn check(policy: &str, init: &[&str], states: &[(&str, &str)], expected: &str) {
        let named = |n: &&str| match n.strip_suffix('*') {
            Some(sidecar) => json!({"name": sidecar, "image": "x", "restartPolicy": "Always"}),
            None => json!({"name": n, "image": "x"}),
        };
        let pod: Pod = serde_json::from_value(json!({
            "metadata": {"name": "p", "namespace": "n", "uid": "u"},
            "spec": {
                "restartPolicy": policy,
                "initContainers": init.iter().map(named).collect::<Vec<_>>(),
                "containers": [{"name": "a", "image": "x"}, {"name": "b", "image": "x"}],
            },
        }))
        .unwrap_or_default();
        let mut observed = Observed::default();
        for (n, s) in states {
            let made = match *s {
                "R" => container(n, 0, ContainerState::ContainerRunning, 0),
                "C" => container(n, 0, ContainerState::ContainerCreated, 0),
                "U" => container(n, 0, ContainerState::ContainerUnknown, 0),
                code => container(n, 0, ContainerState::ContainerExited, code.parse().unwrap_or(1)),
            };
            if *n == "sandbox" {
                let mut sandbox = ready_sandbox();
                sandbox.state = if *s == "R" { 0 } else { 1 };
                observed.sandboxes.push(sandbox);
            } else {
                observed.containers.push(made);
            }
        }
        let probes = ProbeView { liveness: HashMap::from([("id-dead".to_owned(), false)]), ..Default::default() };
        let actions = plan(&pod, &observed, &probes, None);
        let spec = pod::spec(&pod);
        let mut words = Vec::new();
        if actions.kill_pod {
            words.push("kill-pod".to_owned());
        }
        if actions.create_sandbox {
            words.push(format!("sandbox-{}", actions.attempt));
        }
        words.extend(actions.kill.iter().map(|k| format!("kill-{}", k.name)));
        words.extend(actions.start.iter().filter_map(|p| pod::container_at(&spec, *p)).map(|c| c.name));
        assert_eq!(words.join(" "), expected, "{policy} init {init:?} with {states:?}");
    }

    #[test]
    fn a_new_pod_gets_a_sandbox_and_its_first_containers() {
        check("Always", &[], &[], "kill-pod sandbox-0 a b");
        check("Always", &["i", "j"], &[], "kill-pod sandbox-0 i");
    }

    #[test]
    fn containers_restart_by_policy() {
        let sandbox = ("sandbox", "R");
        check("Always", &[], &[sandbox, ("a", "R"), ("b", "R")], "");
        check("Always", &[], &[sandbox, ("a", "0"), ("b", "R")], "a");
        check("OnFailure", &[], &[sandbox, ("a", "0"), ("b", "R")], "");
        check("OnFailure", &[], &[sandbox, ("a", "3"), ("b", "R")], "a");
        check("Never", &[], &[sandbox, ("a", "3"), ("b", "R")], "");
        check("Never", &[], &[sandbox, ("a", "3"), ("b", "0")], "kill-pod");
        check("OnFailure", &[], &[sandbox, ("a", "0"), ("b", "0")], "kill-pod");
        check("Always", &[], &[sandbox, ("a", "U"), ("b", "R")], "kill-a a");
    }

    #[test]
    fn init_containers_run_one_after_the_other() {
        let sandbox = ("sandbox", "R");
        let init = &["i", "j"];
        check("Always", init, &[sandbox], "i");
        check("Always", init, &[sandbox, ("i", "R")], "");
        check("Always", init, &[sandbox, ("i", "0")], "j");
        check("Always", init, &[sandbox, ("i", "1")], "i");
        check("Never", init, &[sandbox, ("i", "1")], "kill-pod");
        check("Always", init, &[sandbox, ("i", "0"), ("j", "0")], "a b");
        check("Always", init, &[sandbox, ("a", "R"), ("b", "R")], "");
        check("Always", init, &[sandbox, ("i", "C")], "i");
    }

    #[test]
    fn sidecars_run_beside_and_end_with_the_others() {
        let sandbox = ("sandbox", "R");
        let init = &["s*", "j"];
        check("Always", init, &[sandbox, ("s", "R")], "j");
        check("Always", init, &[sandbox, ("s", "R"), ("j", "0")], "a b");
        check("Always", init, &[sandbox, ("s", "1"), ("j", "0"), ("a", "R"), ("b", "R")], "s");
        check("Never", init, &[sandbox, ("s", "R"), ("j", "0"), ("a", "0"), ("b", "1")], "kill-pod");
        check("Never", &["s*"], &[sandbox, ("s", "R"), ("a", "0"), ("b", "0")], "kill-pod");
    }

    /// What a resize from 1 to 2 cores of a sidecar and two containers does, one of which restarts for it.
    #[test]
    fn a_resize_changes_what_runs_and_restarts_what_must() {
        let pod = |cpu: &str| -> Pod {
            let named = |name: &str, policy: &str| {
                json!({"name": name, "resources": {"limits": {"cpu": cpu}}, "restartPolicy": "Always",
                       "resizePolicy": [{"resourceName": "cpu", "restartPolicy": policy}]})
            };
            let spec = json!({"initContainers": [named("s", "NotRequired"), named("t", "RestartContainer")],
                "containers": [named("a", "NotRequired"), named("b", "RestartContainer"), named("c", "NotRequired")]});
            serde_json::from_value(json!({"metadata": {"uid": "u"}, "spec": spec})).unwrap_or_default()
        };
        let mut observed = Observed { sandboxes: vec![ready_sandbox()], containers: Vec::new() };
        for (name, runs) in [("s", true), ("t", true), ("a", true), ("b", true), ("c", false)] {
            let state = if runs { ContainerState::ContainerRunning } else { ContainerState::ContainerExited };
            observed.containers.push(container(name, 0, state, 0));
        }
        let (granted, in_force) = (pod("2"), Grant::of(&pod("1")));
        let actions = plan(&granted, &observed, &ProbeView::default(), Some(&in_force));
        let updated: Vec<&str> = actions.resize.cpu.iter().map(|u| u.name.as_str()).collect();
        assert_eq!((updated, actions.resize.pod, actions.kill_pod), (vec!["s", "a"], true, false));
        let killed: Vec<(&str, &str)> = actions.kill.iter().map(|k| (k.name.as_str(), k.message.as_str())).collect();
        assert_eq!(
            killed,
            [("t", "Container t resize requires restart"), ("b", "Container b resize requires restart")]
        );
        let spec = pod::spec(&granted);
        let started = actions.start.iter().filter_map(|p| pod::container_at(&spec, *p)).map(|c| c.name);
        assert_eq!(started.collect::<Vec<_>>(), ["t", "b", "c"]);
        let settled = plan(&granted, &observed, &ProbeView::default(), Some(&Grant::of(&granted)));
        assert!(settled.resize.is_empty() && settled.kill.is_empty());
    }

    #[test]
    fn a_dead_sandbox_is_replaced_where_the_policy_allows() {
        check("Always", &[], &[("sandbox", "1"), ("a", "137"), ("b", "137")], "kill-pod sandbox-1 a b");
        check("Never", &[], &[("sandbox", "1"), ("a", "137"), ("b", "0")], "kill-pod");
        check("OnFailure", &[], &[("sandbox", "1"), ("a", "0"), ("b", "0")], "kill-pod");
        check("OnFailure", &[], &[("sandbox", "1"), ("a", "0"), ("b", "1")], "kill-pod sandbox-1 b");
    }
}
