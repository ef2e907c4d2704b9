//! Carrying out a resize that was granted: what has to change (pure), in which order (pure), and changing it.
//!
//! Follows upstream's `computePodResizeAction`, `doPodResizeAction` and `validateMemoryResizeAction`
//! (`pkg/kubelet/kuberuntime/kuberuntime_manager.go`). Differs: a pod that has no limit yet gets it after its containers.

use std::sync::Arc;

use k8s_openapi::api::core::v1::{Container, Pod, ResourceRequirements};

use crate::allocation::{Grant, adopt};
use crate::node_context::NodeContext;
use crate::{pod, resources};

/// A resource of a running container that changes while it runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Update {
    /// Runtime id.
    pub id: String,
    /// Its name.
    pub name: String,
    /// The limit in force, 0 for none.
    pub from: i64,
    /// The limit granted.
    pub to: i64,
}

/// What changes of a pod. Decreases come before increases.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Resize {
    /// Containers whose memory changes.
    pub memory: Vec<Update>,
    /// Containers whose cpu changes.
    pub cpu: Vec<Update>,
    /// The pod as a whole changes, whatever its containers do.
    pub pod: bool,
}

impl Resize {
    /// Nothing changes.
    pub fn is_empty(&self) -> bool {
        self.memory.is_empty() && self.cpu.is_empty() && !self.pod
    }

    /// Adds what of a running container differs from what is in force. Returns false where the container has to restart for
    /// it.
    pub fn add(&mut self, container: &Container, id: &str, in_force: &Grant) -> bool {
        let Some(has) = in_force.containers.get(&container.name) else { return true };
        let wanted = container.resources.as_ref();
        let restarts = |name: &str| {
            let policies = container.resize_policy.iter().flatten();
            policies.into_iter().any(|p| p.resource_name == name && p.restart_policy == "RestartContainer")
        };
        let change = |name: &str| {
            let limits = (resources::limited(Some(has), name), resources::limited(wanted, name));
            let requests = (resources::requested(Some(has), name), resources::requested(wanted, name));
            let direction = if limits.0 == limits.1 { requests } else { limits };
            (direction.0 != direction.1).then_some((direction, limits))
        };
        let changes = [("memory", change("memory")), ("cpu", change("cpu"))];
        if changes.iter().any(|(name, change)| change.is_some() && restarts(name)) {
            self.pod = true;
            return false;
        }
        for (name, change) in changes {
            let Some(((before, after), (from, to))) = change else { continue };
            let update = Update { id: id.to_owned(), name: container.name.clone(), from, to };
            let list = if name == "memory" { &mut self.memory } else { &mut self.cpu };
            match after < before {
                true => list.insert(0, update),
                false => list.push(update),
            }
        }
        true
    }
}

/// What a pod's cgroup says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Bytes at most, if there is a limit.
    pub memory: Option<i64>,
    /// Microseconds of cpu a period at most, if there is a limit.
    pub quota: Option<i64>,
    /// Its share of cpu.
    pub shares: i64,
}

impl Limits {
    /// What a pod's cgroup is to say.
    pub fn of(object: &Pod) -> Limits {
        let (request, cpu, memory) = resources::pod_totals(&pod::spec(object));
        let some = |n: i64| (n > 0).then_some(n);
        Limits { memory: some(memory), quota: some(cpu).map(resources::quota), shares: resources::shares(request) }
    }
}

/// One step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step<'a> {
    /// The pod's memory limit.
    Memory(i64),
    /// The pod's cpu quota.
    Quota(i64),
    /// The pod's cpu shares.
    Shares(i64),
    /// A resource of a container.
    Container(&'a Update, &'static str),
}

/// The steps of a resize. A pod never has less than its containers: it grows before them, and shrinks after them. Limits
/// that nobody asks for stay as they are.
pub fn steps<'a>(resize: &'a Resize, has: &Limits, wanted: &Limits) -> Vec<Step<'a>> {
    let grows = |has: Option<i64>, wanted: i64| has.is_some_and(|has| wanted > has);
    let shrinks = |has: Option<i64>, wanted: i64| has.is_none_or(|has| wanted < has);
    let mut steps = Vec::new();
    if !resize.memory.is_empty() || resize.pod {
        steps.extend(wanted.memory.filter(|to| grows(has.memory, *to)).map(Step::Memory));
        steps.extend(resize.memory.iter().map(|update| Step::Container(update, "memory")));
        steps.extend(wanted.memory.filter(|to| shrinks(has.memory, *to)).map(Step::Memory));
    }
    if !resize.cpu.is_empty() || resize.pod {
        steps.extend(wanted.quota.filter(|to| grows(has.quota, *to)).map(Step::Quota));
        steps.extend((wanted.shares > has.shares).then_some(Step::Shares(wanted.shares)));
        steps.extend(resize.cpu.iter().map(|update| Step::Container(update, "cpu")));
        steps.extend((wanted.shares < has.shares).then_some(Step::Shares(wanted.shares)));
        steps.extend(wanted.quota.filter(|to| shrinks(has.quota, *to)).map(Step::Quota));
    }
    steps
}

/// No memory limit goes below what is in use. `used` tells that of a container, or of the pod.
fn check_memory(
    resize: &Resize,
    has: &Limits,
    wanted: &Limits,
    used: impl Fn(Option<&Update>) -> Option<u64>,
) -> Result<(), String> {
    let mut errors = Vec::new();
    let mut check = |what: &str, limit: i64, used: Option<u64>| match used {
        None => errors.push(format!("missing {what} memory usage")),
        Some(used) if used >= limit.unsigned_abs() => {
            errors.push(format!("attempting to set {what} memory limit ({limit}) below current usage ({used})"));
        }
        Some(_) => {}
    };
    if let Some(limit) = wanted.memory.filter(|limit| has.memory.is_none_or(|has| *limit < has)) {
        check("pod", limit, used(None));
    }
    for update in resize.memory.iter().filter(|u| u.to != 0 && (u.from == 0 || u.to < u.from)) {
        check(&format!("container {:?}", update.name), update.to, used(Some(update)));
    }
    match errors.as_slice() {
        [] => Ok(()),
        [one] => Err(format!("cannot decrease memory limits: {one}")),
        more => Err(format!("cannot decrease memory limits: [{}]", more.join(", "))),
    }
}

/// Carries out a resize of a pod, as it was granted. What was done before an error stays done.
///
/// # Errors
/// What could not be done; it is to be tried again.
pub async fn carry_out(cx: &NodeContext, object: &Arc<Pod>, resize: &Resize) -> Result<(), String> {
    let (uid, spec) = (pod::uid(object), pod::spec(object));
    let wanted = Limits::of(object);
    let groups = cx.cgroups.as_ref().map(|groups| (groups, groups.pod(object)));
    let has = groups.as_ref().map_or(wanted, |(groups, cgroup)| groups.limits(cgroup));
    if let Some((groups, cgroup)) = groups.as_ref().filter(|_| !resize.memory.is_empty() || resize.pod) {
        let used = |update: Option<&Update>| {
            let of = update.map_or_else(|| cgroup.clone(), |u| format!("{cgroup}/{}", u.id));
            groups.usage(&of).memory.map(|memory| memory.usage)
        };
        check_memory(resize, &has, &wanted, used)?;
    }
    for step in steps(resize, &has, &wanted) {
        match (step, &groups) {
            (Step::Container(update, name), _) => {
                let Some((_, container)) = pod::find_container(&spec, &update.name) else { continue };
                let granted = container.resources.clone().unwrap_or_default();
                let in_force = cx.allocations.of(object).1.and_then(|mut has| has.containers.remove(&update.name));
                let mut now: ResourceRequirements = in_force.unwrap_or_else(|| granted.clone());
                adopt(&mut now, &granted, name);
                let container = Container { resources: Some(now.clone()), ..container };
                let linux = resources::container_resources(object, &container, cx.facts.read().memory);
                cx.runtime.update_container_resources(&update.id, linux).await.map_err(|e| e.to_string())?;
                cx.allocations.put_in_force(uid, &update.name, now);
            }
            (Step::Memory(bytes), Some((groups, cgroup))) => groups.set_memory(cgroup, bytes).map_err(failed)?,
            (Step::Quota(quota), Some((groups, cgroup))) => groups.set_quota(cgroup, quota).map_err(failed)?,
            (Step::Shares(shares), Some((groups, cgroup))) => groups.set_shares(cgroup, shares).map_err(failed)?,
            (_, None) => {}
        }
    }
    cx.allocations.put_pod_in_force(uid, spec.resources.clone());
    Ok(())
}

fn failed(error: std::io::Error) -> String {
    format!("failed to set pod cgroup config: {error}")
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    /// What has to change of a container `c` with these resources in force and granted: `memory` and `cpu` in the order of
    /// steps, or `restart`.
    fn check(in_force: Value, granted: Value, policy: Value, expected: &str) {
        let pod = |resources: &Value| -> Pod {
            let container = json!({"name": "c", "resources": resources, "resizePolicy": policy});
            serde_json::from_value(json!({"spec": {"containers": [container]}})).expect("a pod")
        };
        let container = pod(&granted).spec.map(|s| s.containers[0].clone()).unwrap_or_default();
        let mut resize = Resize::default();
        let told = match resize.add(&container, "id", &Grant::of(&pod(&in_force))) {
            false => "restart".to_owned(),
            true => {
                let told = |(name, list): (&str, &Vec<Update>)| {
                    list.iter().map(|u| format!("{name} {}-{}", u.from, u.to)).collect::<Vec<_>>()
                };
                let all = [("memory", &resize.memory), ("cpu", &resize.cpu)];
                all.into_iter().flat_map(told).collect::<Vec<_>>().join(" ")
            }
        };
        assert_eq!(told, expected, "{in_force} {granted}");
    }

    fn resources(cpu: (&str, &str), memory: (&str, &str)) -> Value {
        json!({"requests": {"cpu": cpu.0, "memory": memory.0}, "limits": {"cpu": cpu.1, "memory": memory.1}})
    }

    #[test]
    fn what_differs_is_changed_and_restarts_where_the_policy_says_so() {
        let old = || resources(("10m", "20m"), ("1", "2"));
        let none = || json!(null);
        check(old(), old(), none(), "");
        check(old(), resources(("0.01", "20m"), ("1", "2")), none(), "");
        check(old(), resources(("10m", "30m"), ("1", "2")), none(), "cpu 20-30");
        check(old(), resources(("5m", "20m"), ("1", "2")), none(), "cpu 20-20");
        check(old(), resources(("10m", "20m"), ("2", "2")), none(), "memory 2-2");
        check(old(), resources(("10m", "30m"), ("1", "1")), none(), "memory 2-1 cpu 20-30");
        check(
            json!({"requests": {"cpu": "1"}}),
            json!({"requests": {"cpu": "1"}, "limits": {"cpu": "2"}}),
            none(),
            "cpu 0-2000",
        );
        let policy = |cpu: &str, memory: &str| {
            let of = |name: &str, policy: &str| json!({"resourceName": name, "restartPolicy": policy});
            json!([of("cpu", cpu), of("memory", memory)])
        };
        let (stays, restarts) = ("NotRequired", "RestartContainer");
        check(old(), resources(("10m", "30m"), ("1", "2")), policy(stays, restarts), "cpu 20-30");
        check(old(), resources(("10m", "30m"), ("1", "2")), policy(restarts, stays), "restart");
        check(old(), resources(("10m", "20m"), ("2", "2")), policy(stays, restarts), "restart");
        check(old(), resources(("10m", "30m"), ("1", "3")), policy(stays, restarts), "restart");
        check(old(), old(), policy(restarts, restarts), "");
    }

    fn update(name: &str, from: i64, to: i64) -> Update {
        Update { id: name.to_owned(), name: name.to_owned(), from, to }
    }

    fn limits(memory: i64, quota: i64, shares: i64) -> Limits {
        let some = |n: i64| (n > 0).then_some(n);
        Limits { memory: some(memory), quota: some(quota), shares }
    }

    #[test]
    fn pods_grow_before_their_containers_and_shrink_after_them() {
        let check = |resize: Resize, has: Limits, wanted: Limits, expected: &str| {
            let word = |step: &Step<'_>| match step {
                Step::Memory(to) => format!("memory={to}"),
                Step::Quota(to) => format!("quota={to}"),
                Step::Shares(to) => format!("shares={to}"),
                Step::Container(update, name) => format!("{name}:{}", update.name),
            };
            let told: Vec<String> = steps(&resize, &has, &wanted).iter().map(word).collect();
            assert_eq!(told.join(" "), expected, "{has:?} {wanted:?}");
        };
        let memory = |list: &[Update]| Resize { memory: list.to_vec(), ..Resize::default() };
        let cpu = |list: &[Update]| Resize { cpu: list.to_vec(), ..Resize::default() };
        let both = [update("b", 4, 2), update("a", 1, 5)];
        check(memory(&both), limits(5, 9, 9), limits(7, 1, 1), "memory=7 memory:b memory:a");
        check(memory(&both), limits(9, 9, 9), limits(7, 1, 1), "memory:b memory:a memory=7");
        check(memory(&both), limits(7, 9, 9), limits(7, 1, 1), "memory:b memory:a");
        check(memory(&both), limits(0, 0, 9), limits(7, 0, 9), "memory:b memory:a memory=7");
        check(memory(&both), limits(5, 0, 9), limits(0, 0, 9), "memory:b memory:a");
        check(cpu(&both), limits(5, 10, 10), limits(7, 20, 20), "quota=20 shares=20 cpu:b cpu:a");
        check(cpu(&both), limits(5, 20, 20), limits(7, 10, 10), "cpu:b cpu:a shares=10 quota=10");
        check(cpu(&both), limits(5, 10, 20), limits(7, 20, 10), "quota=20 cpu:b cpu:a shares=10");
        let pod = Resize { pod: true, ..Resize::default() };
        check(pod, limits(5, 20, 10), limits(7, 10, 20), "memory=7 shares=20 quota=10");
        check(Resize::default(), limits(5, 20, 10), limits(7, 10, 20), "");
    }

    #[test]
    fn memory_limits_stay_above_what_is_used() {
        let check = |has: i64, wanted: i64, list: &[Update], used: Option<u64>, expected: &str| {
            let resize = Resize { memory: list.to_vec(), ..Resize::default() };
            let told = check_memory(&resize, &limits(has, 0, 2), &limits(wanted, 0, 2), |_| used);
            assert_eq!(told.err().unwrap_or_default(), expected);
        };
        check(90, 50, &[update("c", 90, 50)], Some(49), "");
        check(90, 100, &[update("c", 90, 100)], Some(200), "");
        check(90, 90, &[update("c", 90, 90)], None, "");
        let one = "cannot decrease memory limits: attempting to set container \"c\" memory limit (50) below current usage (50)";
        check(0, 0, &[update("c", 90, 50)], Some(50), one);
        check(0, 0, &[update("c", 0, 50)], Some(50), one);
        let two = "cannot decrease memory limits: [attempting to set pod memory limit (50) below current usage (60), \
                   attempting to set container \"c\" memory limit (50) below current usage (60)]";
        check(90, 50, &[update("c", 90, 50)], Some(60), two);
        check(90, 50, &[], None, "cannot decrease memory limits: missing pod memory usage");
    }
}
