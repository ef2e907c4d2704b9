//! What a pod takes. Upstream: `k8s.io/component-helpers/resource/helpers.go`.

use std::collections::BTreeMap;

use orkd_api::quantity::Quantity;

use crate::model::{Container, ContainerStatus, Pod};

/// Requests scoring assumes of containers that state none (`pkg/scheduler/util/pod_resources.go`).
const DEFAULT_MILLI_CPU: i64 = 100;
const DEFAULT_MEMORY: i64 = 200 * 1024 * 1024;

type Amounts = BTreeMap<String, i64>;

/// Whether an init container goes on running beside the others.
pub fn is_sidecar(container: &Container) -> bool {
    container.restart_policy.as_deref() == Some("Always")
}

/// A quantity in the unit that is counted: thousandths for `cpu`. What does not parse counts as nothing; the API
/// server lets none of that through.
pub fn parse_amount(resource: &str, text: &str) -> i64 {
    match text.parse::<Quantity>() {
        Ok(q) if resource == "cpu" => q.milli_value(),
        Ok(q) => q.value(),
        Err(_) => 0,
    }
}

/// The requests of a pod, none of them zero, and cpu and memory for scoring.
pub fn of_pod(pod: &Pod) -> (Vec<(String, i64)>, (i64, i64)) {
    let plain = most(pod, |c| granted(pod, c));
    let scored = most(pod, |c| {
        let mut requests = granted(pod, c);
        requests.entry("cpu".into()).or_insert(DEFAULT_MILLI_CPU);
        requests.entry("memory".into()).or_insert(DEFAULT_MEMORY);
        requests
    });
    let scored = (scored.get("cpu").copied().unwrap_or(0), scored.get("memory").copied().unwrap_or(0));
    (plain.into_iter().filter(|(_, n)| *n > 0).collect(), scored)
}

fn parse(requests: &BTreeMap<String, String>) -> Amounts {
    requests.iter().map(|(resource, text)| (resource.clone(), parse_amount(resource, text))).collect()
}

/// What a container takes: what it asks for, or what it has while a resize is under way, whichever is more; a resize
/// that cannot be counts for nothing.
fn granted(pod: &Pod, container: &Container) -> Amounts {
    let asked = parse(&container.resources.requests);
    let statuses = pod.status.container_statuses.iter().chain(&pod.status.init_container_statuses);
    let Some(status) = statuses.into_iter().find(|s| !s.name.is_empty() && s.name == container.name) else {
        return asked;
    };
    let has = |status: &ContainerStatus| {
        let mut has = parse(&status.resources.requests);
        at_least(&mut has, &parse(&status.allocated_resources));
        has
    };
    let infeasible = pod.status.conditions.iter().any(|c| c.ty == "PodResizePending" && c.reason == "Infeasible");
    let mut amounts = has(status);
    if !infeasible || amounts.is_empty() {
        at_least(&mut amounts, &asked);
    }
    amounts
}

fn add(to: &mut Amounts, more: &Amounts) {
    for (resource, n) in more {
        let sum = to.entry(resource.clone()).or_default();
        *sum = sum.saturating_add(*n);
    }
}

fn at_least(to: &mut Amounts, other: &Amounts) {
    for (resource, n) in other {
        let most = to.entry(resource.clone()).or_default();
        *most = (*most).max(*n);
    }
}

/// What a pod takes at most at any time: all containers and sidecars together, or one init container with the
/// sidecars before it; requests of the pod as a whole win.
fn most(pod: &Pod, of: impl Fn(&Container) -> Amounts) -> Amounts {
    let spec = &pod.spec;
    let mut total = Amounts::new();
    for container in &spec.containers {
        add(&mut total, &of(container));
    }
    let mut sidecars = Amounts::new();
    let mut init = Amounts::new();
    for container in &spec.init_containers {
        let mut now = of(container);
        if is_sidecar(container) {
            add(&mut total, &now);
            add(&mut sidecars, &now);
            now = sidecars.clone();
        } else {
            add(&mut now, &sidecars);
        }
        at_least(&mut init, &now);
    }
    at_least(&mut total, &init);
    total.extend(parse(&spec.resources.requests));
    add(&mut total, &parse(&spec.overhead));
    total
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn requests(pod: Value) -> BTreeMap<String, i64> {
        of_pod(&serde_json::from_value(pod).expect("a pod")).0.into_iter().collect()
    }

    fn check(spec: Value, cpu: i64, memory: i64) {
        let got = requests(json!({"metadata": {"name": "p"}, "spec": spec}));
        assert_eq!((got["cpu"], got["memory"]), (cpu, memory));
    }

    fn container(cpu: &str, memory: &str) -> Value {
        json!({"name": "c", "resources": {"requests": {"cpu": cpu, "memory": memory}}})
    }

    #[test]
    fn requests_are_the_most_at_any_time() {
        check(json!({"containers": [container("100m", "1Mi"), container("1", "1Mi")]}), 1100, 2 << 20);
        check(
            json!({"containers": [container("100m", "1Mi")], "initContainers": [container("50m", "5Mi")]}),
            100,
            5 << 20,
        );
        let mut sidecar = container("100m", "1Mi");
        sidecar["restartPolicy"] = json!("Always");
        check(
            json!({"containers": [container("100m", "1Mi")], "initContainers": [sidecar, container("300m", "1Mi")]}),
            400,
            2 << 20,
        );
        check(json!({"containers": [container("1", "1Mi")], "overhead": {"cpu": "10m"}}), 1010, 1 << 20);
        check(json!({"containers": [container("1", "1Mi")], "resources": {"requests": {"cpu": "2"}}}), 2000, 1 << 20);
    }

    #[test]
    fn a_resize_counts_for_what_is_more() {
        let pod = |asked: &str, has: &str, condition: Value| {
            let status =
                json!({"name": "c", "allocatedResources": {"cpu": has}, "resources": {"requests": {"cpu": has}}});
            let pod = json!({"spec": {"containers": [container(asked, "1Mi")]},
                "status": {"containerStatuses": [status], "conditions": [condition]}});
            requests(pod)["cpu"]
        };
        assert_eq!(pod("1", "2", json!({})), 2000, "it has more until the node has taken it back");
        assert_eq!(pod("3", "2", json!({})), 3000, "it may get more at any time");
        let never = json!({"type": "PodResizePending", "status": "True", "reason": "Infeasible"});
        assert_eq!(pod("3", "2", never), 2000);
    }
}
