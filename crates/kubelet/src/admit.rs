//! Which pods the node takes (pure): the scheduler may have been passed by, or have known less than the node does.
//!
//! Follows `pkg/kubelet/lifecycle/predicate.go`: what a pod asks for is there, its selector and affinity fit the node, its
//! ports are free, and it tolerates what evicts. The first thing that is wrong is told, in upstream's words. Differs: only
//! pods that are new here are looked at, as a restart of the kubelet is no reason to end what runs; a pod that was deleted
//! without grace, and may be ending still, is in nobody's way; and a critical pod that finds no room is taken, where upstream
//! would evict others for it.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::core::v1::{Node, NodeSelectorRequirement, NodeSelectorTerm, Pod, PodSpec, Taint, Toleration};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

use crate::eviction::admit::is_critical;
use crate::{pod, resources};

/// Why a pod is not taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// In one word.
    pub reason: String,
    /// In more of them.
    pub message: String,
}

impl Refusal {
    fn predicate(name: &str, why: &str) -> Self {
        Refusal { reason: name.to_owned(), message: format!("Predicate {name} failed: {why}") }
    }
}

/// Why a node with these `others` does not take a pod. Of a node that is not known yet only the ports are.
pub fn refusal(object: &Pod, node: Option<&Node>, others: &[&Pod]) -> Option<Refusal> {
    let spec = pod::spec(object);
    if let Some(node) = node {
        if !is_critical(object)
            && let Some(short) = shortage(&spec, node, others)
        {
            return Some(short);
        }
        if !selects(&spec, node) {
            return Some(Refusal::predicate("NodeAffinity", "node(s) didn't match Pod's node affinity/selector"));
        }
    }
    let used: Vec<Port> = others.iter().flat_map(|other| ports(&pod::spec(other))).collect();
    if ports(&spec).iter().any(|port| used.iter().any(|other| port.conflicts(other))) {
        let why = "node(s) didn't have free ports for the requested pod ports";
        return Some(Refusal::predicate("NodePorts", why));
    }
    let taints = node.and_then(|n| n.spec.as_ref()).and_then(|s| s.taints.as_deref()).unwrap_or_default();
    let evicts =
        |taint: &&Taint| taint.effect == "NoExecute" && !spec.tolerations.iter().flatten().any(|t| tolerates(t, taint));
    if !pod::is_static(object) && taints.iter().any(|taint| evicts(&taint)) {
        return Some(Refusal::predicate("TaintToleration", "node(s) had taints that the pod didn't tolerate"));
    }
    None
}

/// What of a resource there is, in thousandths of cores or whole units of the rest.
fn amount(all: Option<&BTreeMap<String, Quantity>>, name: &str) -> Option<i64> {
    let text = &all?.get(name)?.0;
    if name == "cpu" { resources::milli(text) } else { resources::units(text) }
}

/// What pods may use of a resource of a node.
pub fn allocatable(node: &Node, name: &str) -> Option<i64> {
    amount(node.status.as_ref()?.allocatable.as_ref(), name)
}

/// The first resource that a pod asks for more of than is left (`NodeResourcesFit`). What the node does not have at all is
/// no concern of it.
pub fn shortage(spec: &PodSpec, node: &Node, others: &[&Pod]) -> Option<Refusal> {
    let allocatable = node.status.as_ref().and_then(|s| s.allocatable.as_ref());
    let short = |name: &str, requested: i64, used: i64, capacity: i64| Refusal {
        reason: format!("OutOf{name}"),
        message: format!(
            "Node didn't have enough resource: {name}, requested: {requested}, used: {used}, capacity: {capacity}"
        ),
    };
    let count = i64::try_from(others.len()).unwrap_or(i64::MAX);
    if let Some(most) = amount(allocatable, "pods").filter(|most| count >= *most) {
        return Some(short("pods", 1, count, most));
    }
    let mut names = vec!["cpu", "memory", "ephemeral-storage"];
    let asked = asked_for(spec);
    names
        .extend(asked.iter().map(String::as_str).filter(|name| !["cpu", "memory", "ephemeral-storage"].contains(name)));
    for name in names {
        let requested = resources::pod_request(spec, name);
        let Some(capacity) = amount(allocatable, name).filter(|_| requested > 0) else { continue };
        let used = others.iter().map(|other| resources::pod_request(&pod::spec(other), name)).sum::<i64>();
        if requested > capacity.saturating_sub(used) {
            return Some(short(name, requested, used, capacity));
        }
    }
    None
}

/// The resources that a pod's containers name.
fn asked_for(spec: &PodSpec) -> BTreeSet<String> {
    let containers = spec.init_containers.iter().flatten().chain(&spec.containers);
    let all = containers.filter_map(|c| c.resources.as_ref()).chain(&spec.resources);
    all.flat_map(|r| r.requests.iter().chain(&r.limits)).flat_map(BTreeMap::keys).cloned().collect()
}

/// A port of the node that a pod takes.
#[derive(Debug)]
struct Port {
    ip: String,
    protocol: String,
    number: i32,
}

impl Port {
    fn conflicts(&self, other: &Port) -> bool {
        const ALL: &str = "0.0.0.0";
        self.number == other.number
            && self.protocol == other.protocol
            && (self.ip == other.ip || self.ip == ALL || other.ip == ALL)
    }
}

fn ports(spec: &PodSpec) -> Vec<Port> {
    let sidecars = spec.init_containers.iter().flatten().filter(|c| pod::is_sidecar(c));
    let all = spec.containers.iter().chain(sidecars).flat_map(|c| c.ports.iter().flatten());
    let text = |said: &Option<String>, default: &str| {
        said.as_ref().filter(|text| !text.is_empty()).cloned().unwrap_or_else(|| default.to_owned())
    };
    all.filter_map(|p| {
        let number = p.host_port.filter(|number| *number > 0)?;
        Some(Port { ip: text(&p.host_ip, "0.0.0.0"), protocol: text(&p.protocol, "TCP"), number })
    })
    .collect()
}

/// Whether a pod's selector and required affinity fit a node (`GetRequiredNodeAffinity`).
fn selects(spec: &PodSpec, node: &Node) -> bool {
    let labels = node.metadata.labels.clone().unwrap_or_default();
    if spec.node_selector.iter().flatten().any(|(key, value)| labels.get(key) != Some(value)) {
        return false;
    }
    let affinity = spec.affinity.as_ref().and_then(|a| a.node_affinity.as_ref());
    let Some(required) = affinity.and_then(|a| a.required_during_scheduling_ignored_during_execution.as_ref()) else {
        return true;
    };
    let name = BTreeMap::from([("metadata.name".to_owned(), node.metadata.name.clone().unwrap_or_default())]);
    let fits = |term: &NodeSelectorTerm| {
        let (by_labels, by_fields) = (term.match_expressions.as_deref(), term.match_fields.as_deref());
        let (by_labels, by_fields) = (by_labels.unwrap_or_default(), by_fields.unwrap_or_default());
        // A term that says nothing fits nothing.
        !(by_labels.is_empty() && by_fields.is_empty())
            && by_labels.iter().all(|r| meets(r, &labels))
            && by_fields.iter().all(|r| meets(r, &name))
    };
    required.node_selector_terms.iter().any(fits)
}

fn meets(requirement: &NodeSelectorRequirement, labels: &BTreeMap<String, String>) -> bool {
    let value = labels.get(&requirement.key);
    let wanted = requirement.values.as_deref().unwrap_or_default();
    let number = |text: &String| text.parse::<i64>().ok();
    let compared = || Some(number(value?)?.cmp(&number(wanted.first()?)?));
    match requirement.operator.as_str() {
        "In" => value.is_some_and(|v| wanted.contains(v)),
        "NotIn" => value.is_none_or(|v| !wanted.contains(v)),
        "Exists" => value.is_some(),
        "DoesNotExist" => value.is_none(),
        "Gt" => compared().is_some_and(std::cmp::Ordering::is_gt),
        "Lt" => compared().is_some_and(std::cmp::Ordering::is_lt),
        _ => false,
    }
}

/// Whether a toleration tolerates a taint (`ToleratesTaint`).
fn tolerates(toleration: &Toleration, taint: &Taint) -> bool {
    let said = |field: &Option<String>| field.clone().filter(|text| !text.is_empty());
    said(&toleration.effect).is_none_or(|effect| effect == taint.effect)
        && said(&toleration.key).is_none_or(|key| key == taint.key)
        && match said(&toleration.operator).as_deref() {
            Some("Exists") => true,
            None | Some("Equal") => said(&toleration.key).is_some() && said(&toleration.value) == said(&taint.value),
            Some(_) => false,
        }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn a_pod(spec: Value) -> Pod {
        serde_json::from_value(json!({"metadata": {"name": "p", "uid": "p"}, "spec": spec})).expect("a pod")
    }

    fn node() -> Node {
        serde_json::from_value(json!({
            "metadata": {"name": "n1", "labels": {"disk": "ssd", "cores": "8"}},
            "spec": {"taints": [{"key": "quiet", "effect": "NoSchedule"}]},
            "status": {"allocatable": {"cpu": "2", "memory": "1Gi", "ephemeral-storage": "1Gi", "pods": "3",
                "example.com/dongle": "4"}},
        }))
        .expect("a node")
    }

    /// The message of the refusal of a pod beside others.
    #[track_caller]
    fn check(spec: Value, others: &[Value], expected: Option<(&str, &str)>) {
        let others: Vec<Pod> = others.iter().cloned().map(a_pod).collect();
        let found = refusal(&a_pod(spec.clone()), Some(&node()), &others.iter().collect::<Vec<_>>());
        let found = found.as_ref().map(|r| (r.reason.as_str(), r.message.as_str()));
        assert_eq!(found, expected, "{spec}");
    }

    fn asks(requests: Value) -> Value {
        json!({"containers": [{"name": "c", "resources": {"requests": requests}}]})
    }

    #[test]
    fn what_is_asked_for_must_be_left() {
        check(asks(json!({"cpu": "2", "memory": "1Gi"})), &[], None);
        let text = "Node didn't have enough resource: cpu, requested: 1600, used: 500, capacity: 2000";
        check(asks(json!({"cpu": "1600m"})), &[asks(json!({"cpu": "500m"}))], Some(("OutOfcpu", text)));
        let text = "Node didn't have enough resource: memory, requested: 1073741825, used: 0, capacity: 1073741824";
        check(asks(json!({"memory": "1073741825"})), &[], Some(("OutOfmemory", text)));
        let text = "Node didn't have enough resource: example.com/dongle, requested: 3, used: 2, capacity: 4";
        let dongles = |n: &str| asks(json!({"example.com/dongle": n}));
        check(dongles("3"), &[dongles("2")], Some(("OutOfexample.com/dongle", text)));
        check(dongles("2"), &[dongles("2")], None);
        // What no node has is somebody else's to give.
        check(asks(json!({"example.com/unknown": "1"})), &[], None);
        let none = || asks(json!({}));
        let text = "Node didn't have enough resource: pods, requested: 1, used: 3, capacity: 3";
        check(none(), &[none(), none(), none()], Some(("OutOfpods", text)));
        let mut critical = asks(json!({"cpu": "5"}));
        critical["priority"] = 2_000_000_000.into();
        check(critical, &[], None);
    }

    #[test]
    fn ports_must_be_free() {
        let port = |ip: &str, protocol: &str, number: i32| {
            json!({"containers": [{"name": "c", "ports": [
                {"containerPort": 80, "hostIP": ip, "protocol": protocol, "hostPort": number}]}]})
        };
        let text = "Predicate NodePorts failed: node(s) didn't have free ports for the requested pod ports";
        let taken = Some(("NodePorts", text));
        check(port("", "TCP", 8080), &[port("", "TCP", 8080)], taken);
        check(port("10.0.0.1", "TCP", 8080), &[port("", "TCP", 8080)], taken);
        check(port("0.0.0.0", "", 8080), &[port("10.0.0.1", "TCP", 8080)], taken);
        check(port("10.0.0.1", "TCP", 8080), &[port("10.0.0.2", "TCP", 8080)], None);
        check(port("", "UDP", 8080), &[port("", "TCP", 8080)], None);
        check(port("", "TCP", 8081), &[port("", "TCP", 8080)], None);
        check(port("", "TCP", 0), &[port("", "TCP", 0)], None);
        let sidecar = json!({"containers": [], "initContainers": [{"name": "s", "restartPolicy": "Always",
            "ports": [{"containerPort": 80, "hostPort": 8080}]}]});
        check(port("", "TCP", 8080), &[sidecar], taken);
        let found = refusal(&a_pod(port("", "TCP", 1)), None, &[&a_pod(port("", "TCP", 1))]);
        assert_eq!(found.map(|r| r.reason).as_deref(), Some("NodePorts"), "of a node that is not known yet");
    }

    #[test]
    fn the_node_must_be_one_that_is_selected() {
        let text = "Predicate NodeAffinity failed: node(s) didn't match Pod's node affinity/selector";
        let not = Some(("NodeAffinity", text));
        let selector = |selector: Value| json!({"containers": [], "nodeSelector": selector});
        check(selector(json!({"disk": "ssd"})), &[], None);
        check(selector(json!({"disk": "hdd"})), &[], not);
        let affinity = |terms: Value| {
            json!({"containers": [], "affinity": {"nodeAffinity": {
                "requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": terms}}}})
        };
        let label = |key: &str, operator: &str, values: &[&str]| {
            affinity(json!([{"matchExpressions": [{"key": key, "operator": operator, "values": values}]}]))
        };
        check(label("disk", "In", &["hdd", "ssd"]), &[], None);
        check(label("disk", "NotIn", &["ssd"]), &[], not);
        check(label("other", "NotIn", &["ssd"]), &[], None);
        check(label("other", "Exists", &[]), &[], not);
        check(label("other", "DoesNotExist", &[]), &[], None);
        check(label("cores", "Gt", &["4"]), &[], None);
        check(label("cores", "Lt", &["4"]), &[], not);
        let name = |name: &str| json!({"matchFields": [{"key": "metadata.name", "operator": "In", "values": [name]}]});
        check(affinity(json!([name("n1")])), &[], None);
        check(affinity(json!([name("n2")])), &[], not);
        check(affinity(json!([name("n2"), name("n1")])), &[], None);
        check(affinity(json!([{}])), &[], not);
    }

    #[test]
    fn what_evicts_must_be_tolerated() {
        let mut tainted = node();
        let taint = json!([{"key": "broken", "value": "yes", "effect": "NoExecute"}]);
        tainted.spec.as_mut().expect("a spec").taints = serde_json::from_value(taint).expect("taints");
        let reason = |tolerations: Value| {
            let object = a_pod(json!({"containers": [], "tolerations": tolerations}));
            refusal(&object, Some(&tainted), &[]).map(|r| r.reason)
        };
        assert_eq!(reason(json!([])).as_deref(), Some("TaintToleration"));
        assert_eq!(reason(json!([{"key": "broken", "value": "no"}])).as_deref(), Some("TaintToleration"));
        assert_eq!(reason(json!([{"key": "broken", "value": "yes", "effect": "NoExecute"}])), None);
        assert_eq!(reason(json!([{"operator": "Exists"}])), None);
        check(json!({"containers": []}), &[], None);
    }
}
