//! What a pod takes. Upstream: `k8s.io/component-helpers/resource/helpers.go`.

use std::collections::BTreeMap;

use orkd_api::quantity::Quantity;

use crate::model::{Container, Pod, Resources};

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

/// The requests of a pod, none of them zero, and cpu and memory for scoring (`PodRequests` with `UseStatusResources`
/// and `InPlacePodLevelResourcesVerticalScalingEnabled`).
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

/// What a container takes; the statuses of init containers that end count for nothing.
fn granted(pod: &Pod, container: &Container) -> Amounts {
    let sidecars = &pod.status.init_container_statuses;
    let statuses =
        pod.status.container_statuses.iter().chain(is_sidecar(container).then_some(sidecars).into_iter().flatten());
    let status = statuses.into_iter().find(|s| !s.name.is_empty() && s.name == container.name);
    let has = status.and_then(|s| Some((s.resources.as_ref()?, &s.allocated_resources)));
    resized(pod, &container.resources.requests, has)
}

/// What is asked for, or what is there while a resize is under way, whichever is more; a resize that cannot be counts for
/// nothing. `has` is what is in force, if that is known, and what the node has granted.
fn resized(
    pod: &Pod,
    asked: &BTreeMap<String, String>,
    has: Option<(&Resources, &BTreeMap<String, String>)>,
) -> Amounts {
    let asked = parse(asked);
    let Some((in_force, granted)) = has else { return asked };
    let mut amounts = parse(&in_force.requests);
    at_least(&mut amounts, &parse(granted));
    let infeasible = pod.status.conditions.iter().any(|c| c.ty == "PodResizePending" && c.reason == "Infeasible");
    if !infeasible {
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
    if !spec.resources.requests.is_empty() {
        let has = pod.status.resources.as_ref().map(|in_force| (in_force, &pod.status.allocated_resources));
        total.extend(resized(pod, &spec.resources.requests, has));
    }
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
        assert_eq!(pod("3", "2", never.clone()), 2000);
        let later = json!({"type": "PodResizePending", "status": "True", "reason": "Deferred"});
        assert_eq!(pod("3", "2", later), 3000, "the node may get room for it");
        let whole = |asked: &str, has: &str, condition: &Value| {
            let requests = |cpu: &str| json!({"requests": {"cpu": cpu}});
            let pod = json!({"spec": {"containers": [container("1", "1Mi")], "resources": requests(asked)},
                "status": {"resources": requests(has), "allocatedResources": {"cpu": has}, "conditions": [condition]}});
            super::tests::requests(pod)["cpu"]
        };
        assert_eq!(whole("3", "2", &json!({})), 3000, "the pod as a whole is resized like its containers");
        assert_eq!(whole("2", "4", &json!({})), 4000);
        assert_eq!(whole("3", "2", &never), 2000);
    }

    #[test]
    fn statuses_count_only_where_containers_are_resized() {
        let init = |restart: Value, resources: Value| {
            let status = json!({"name": "c", "allocatedResources": {"cpu": "5"}, "resources": resources});
            let mut container = container("1", "1Mi");
            container["restartPolicy"] = restart;
            let pod = json!({"spec": {"containers": [], "initContainers": [container]},
                "status": {"initContainerStatuses": [status]}});
            requests(pod)["cpu"]
        };
        assert_eq!(init(json!("Always"), json!({})), 5000);
        assert_eq!(init(Value::Null, json!({})), 1000, "one that ends is not resized");
        assert_eq!(init(json!("Always"), Value::Null), 1000, "nothing is known to be in force");
    }
}
