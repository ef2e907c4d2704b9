//! A pod as cycles see it: everything a plugin needs, worked out once.

use std::collections::BTreeMap;

use jiff::Timestamp;
use orkd_api::quantity::Quantity;
use orkd_reconcile::Key;

use crate::model::{Container, NodeAffinity, Pod, Toleration};

/// Requests scoring assumes of containers that state none (`pkg/scheduler/util/pod_resources.go`).
const DEFAULT_MILLI_CPU: i64 = 100;
const DEFAULT_MEMORY: i64 = 200 * 1024 * 1024;

/// A host port: protocol, address, port.
pub type HostPort = (String, String, u16);

/// What a cycle knows of a pod.
#[derive(Clone, Debug, Default)]
pub struct PodInfo {
    /// Key.
    pub key: Key,
    /// UID.
    pub uid: String,
    /// Resource version it was read at.
    pub resource_version: String,
    /// Version of the spec.
    pub generation: i64,
    /// Priority.
    pub priority: i64,
    /// When it was made.
    pub created: Option<Timestamp>,
    /// Requests by resource: `cpu` in thousandths, the rest in units.
    pub requests: BTreeMap<String, i64>,
    /// Cpu and memory for scoring: what states none counts as something.
    pub scored: (i64, i64),
    /// Host ports.
    pub host_ports: Vec<HostPort>,
    /// Labels the node must have.
    pub node_selector: BTreeMap<String, String>,
    /// Node affinity.
    pub node_affinity: NodeAffinity,
    /// Tolerations.
    pub tolerations: Vec<Toleration>,
    /// The node that the spec names, if any.
    pub node_name: String,
}

impl PodInfo {
    /// Works out a pod.
    pub fn new(pod: &Pod) -> PodInfo {
        let spec = &pod.spec;
        let mut requests = pod_requests(pod, |c| requests_of(&c.resources.requests));
        let scored = pod_requests(pod, |c| {
            let mut requests = requests_of(&c.resources.requests);
            requests.entry("cpu".into()).or_insert(DEFAULT_MILLI_CPU);
            requests.entry("memory".into()).or_insert(DEFAULT_MEMORY);
            requests
        });
        requests.retain(|_, amount| *amount > 0);
        let sidecars = spec.init_containers.iter().filter(|c| is_sidecar(c));
        let host_ports = spec
            .containers
            .iter()
            .chain(sidecars)
            .flat_map(|c| &c.ports)
            .filter(|p| p.host_port > 0)
            .map(|p| {
                let or = |text: &str, default: &str| if text.is_empty() { default.into() } else { text.to_owned() };
                (or(&p.protocol, "TCP"), or(&p.host_ip, "0.0.0.0"), p.host_port)
            })
            .collect();
        PodInfo {
            key: pod.metadata.key(),
            uid: pod.metadata.uid.clone(),
            resource_version: pod.metadata.resource_version.clone(),
            generation: pod.metadata.generation,
            priority: spec.priority.unwrap_or(0),
            created: pod.metadata.creation_timestamp,
            scored: (amount(&scored, "cpu"), amount(&scored, "memory")),
            requests,
            host_ports,
            node_selector: spec.node_selector.clone(),
            node_affinity: spec.affinity.node_affinity.clone(),
            tolerations: spec.tolerations.clone(),
            node_name: spec.node_name.clone(),
        }
    }
}

fn amount(of: &BTreeMap<String, i64>, resource: &str) -> i64 {
    of.get(resource).copied().unwrap_or(0)
}

fn is_sidecar(container: &Container) -> bool {
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

fn requests_of(requests: &BTreeMap<String, String>) -> BTreeMap<String, i64> {
    requests.iter().map(|(resource, text)| (resource.clone(), parse_amount(resource, text))).collect()
}

fn add(to: &mut BTreeMap<String, i64>, more: &BTreeMap<String, i64>) {
    for (resource, n) in more {
        let sum = to.entry(resource.clone()).or_default();
        *sum = sum.saturating_add(*n);
    }
}

fn at_least(to: &mut BTreeMap<String, i64>, other: &BTreeMap<String, i64>) {
    for (resource, n) in other {
        let most = to.entry(resource.clone()).or_default();
        *most = (*most).max(*n);
    }
}

/// What a pod takes at most at any time (`k8s.io/component-helpers/resource.PodRequests`): all containers and
/// sidecars together, or one init container with the sidecars before it; requests of the pod as a whole win.
fn pod_requests(pod: &Pod, of: impl Fn(&Container) -> BTreeMap<String, i64>) -> BTreeMap<String, i64> {
    let spec = &pod.spec;
    let mut total = BTreeMap::new();
    for container in &spec.containers {
        add(&mut total, &of(container));
    }
    let mut sidecars = BTreeMap::new();
    let mut init = BTreeMap::new();
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
    for (resource, n) in requests_of(&spec.resources.requests) {
        total.insert(resource, n);
    }
    add(&mut total, &requests_of(&spec.overhead));
    total
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn check(spec: serde_json::Value, cpu: i64, memory: i64) {
        let pod: Pod = serde_json::from_value(json!({"metadata": {"name": "p"}, "spec": spec})).expect("a pod");
        let info = PodInfo::new(&pod);
        assert_eq!((amount(&info.requests, "cpu"), amount(&info.requests, "memory")), (cpu, memory));
    }

    fn container(cpu: &str, memory: &str) -> serde_json::Value {
        json!({"resources": {"requests": {"cpu": cpu, "memory": memory}}})
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
}
