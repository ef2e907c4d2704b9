//! Which nodes a daemon's pod fits, and the pod made for one (`Predicates`, `daemon/util`).

use orkd_reconcile::Requirement;
use serde_json::{Value, json};

use super::{DaemonSet, HASH_LABEL};
use crate::owners;
use crate::taint_eviction::tolerates;
use crate::views::{Node, Pod, Toleration};

/// Taints that every daemon tolerates, with their effects; the last only on the node's own network.
const TOLERATED: [(&str, &str); 7] = [
    ("node.kubernetes.io/not-ready", "NoExecute"),
    ("node.kubernetes.io/unreachable", "NoExecute"),
    ("node.kubernetes.io/disk-pressure", "NoSchedule"),
    ("node.kubernetes.io/memory-pressure", "NoSchedule"),
    ("node.kubernetes.io/pid-pressure", "NoSchedule"),
    ("node.kubernetes.io/unschedulable", "NoSchedule"),
    ("node.kubernetes.io/network-unavailable", "NoSchedule"),
];

/// What holds for a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fit {
    /// Whether it should have a pod.
    pub should_run: bool,
    /// Whether a pod that it has may stay.
    pub may_stay: bool,
}

/// Whether a node should have a pod of the set (`NodeShouldRunDaemonPod`).
pub fn fit(set: &DaemonSet, node: &Node) -> Fit {
    const NO: Fit = Fit { should_run: false, may_stay: false };
    let spec = &set.spec.template["spec"];
    let wanted = spec["nodeName"].as_str().unwrap_or("");
    if !wanted.is_empty() && *wanted != *node.metadata.name {
        return NO;
    }
    if !selector_matches(spec, node) {
        return NO;
    }
    let tolerations: Vec<Toleration> =
        tolerations(set).into_iter().filter_map(|t| serde_json::from_value(t).ok()).collect();
    let untolerated = |effect: &str| {
        node.spec.taints.iter().any(|t| t.effect == effect && !tolerations.iter().any(|tol| tolerates(tol, t)))
    };
    if untolerated("NoExecute") {
        return NO;
    }
    Fit { should_run: !untolerated("NoSchedule"), may_stay: true }
}

/// Node selector and required node affinity of a template.
fn selector_matches(spec: &Value, node: &Node) -> bool {
    let labels = &node.metadata.labels;
    let plain = spec["nodeSelector"].as_object();
    if !plain.into_iter().flatten().all(|(k, v)| labels.get(k).map(String::as_str) == v.as_str()) {
        return false;
    }
    let required = &spec["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"];
    let Some(terms) = required["nodeSelectorTerms"].as_array() else { return true };
    // Any term, all of its requirements; an empty term matches nothing.
    terms.iter().any(|term| {
        let part = |field: &str| term[field].as_array().cloned().unwrap_or_default();
        let (expressions, fields) = (part("matchExpressions"), part("matchFields"));
        let holds = |requirement: &Value, labels: &std::collections::BTreeMap<String, String>| {
            serde_json::from_value::<Requirement>(requirement.clone()).is_ok_and(|r| match r.operator.as_str() {
                "Gt" | "Lt" => compares(&r, labels),
                _ => r.matches(labels),
            })
        };
        let of_node = [("metadata.name".to_owned(), node.metadata.name.to_string())].into();
        !(expressions.is_empty() && fields.is_empty())
            && expressions.iter().all(|e| holds(e, labels))
            && fields.iter().all(|f| holds(f, &of_node))
    })
}

fn compares(r: &Requirement, labels: &std::collections::BTreeMap<String, String>) -> bool {
    let number = |text: Option<&String>| text.and_then(|t| t.parse::<i64>().ok());
    match (number(labels.get(&r.key)), number(r.values.first())) {
        (Some(has), Some(bound)) => {
            if r.operator == "Gt" {
                has > bound
            } else {
                has < bound
            }
        }
        _ => false,
    }
}

/// The tolerations of the set's pods, ours included.
fn tolerations(set: &DaemonSet) -> Vec<Value> {
    let spec = &set.spec.template["spec"];
    let mut all: Vec<Value> = spec["tolerations"].as_array().cloned().unwrap_or_default();
    let count = if spec["hostNetwork"] == true { TOLERATED.len() } else { TOLERATED.len() - 1 };
    for (key, effect) in &TOLERATED[..count] {
        let toleration = json!({"key": key, "operator": "Exists", "effect": effect});
        // Ours takes the place of one that says the same for a while only.
        let same = |t: &&mut Value| {
            ["key", "operator", "effect"].iter().all(|f| t[*f] == toleration[*f])
                && t["value"].as_str().is_none_or(str::is_empty)
        };
        match all.iter_mut().find(same) {
            Some(theirs) => *theirs = toleration,
            None => all.push(toleration),
        }
    }
    all
}

/// The node a pod is on or meant for; empty if for none.
pub fn target_node(pod: &Pod) -> &str {
    if pod.spec.node_name.is_empty() { pod.spec.affinity.node_name().unwrap_or("") } else { &pod.spec.node_name }
}

/// The pod for a node: the template, owned, labelled with its revision, and drawn to the node.
pub fn pod_for_node(set: &DaemonSet, node: &str, hash: &str) -> Value {
    let template = &set.spec.template;
    let mut metadata = json!({
        "generateName": format!("{}-", set.metadata.name),
        "namespace": &*set.metadata.namespace,
        "ownerReferences": [owners::controller_ref(set)],
    });
    for field in ["labels", "annotations", "finalizers"] {
        if !template["metadata"][field].is_null() {
            metadata[field] = template["metadata"][field].clone();
        }
    }
    if !metadata["labels"].is_object() {
        metadata["labels"] = json!({});
    }
    metadata["labels"][HASH_LABEL] = hash.into();
    let generation = set.metadata.annotation("deprecated.daemonset.template.generation");
    if let Some(generation) = generation {
        metadata["labels"]["pod-template-generation"] = generation.into();
    }
    let mut spec = template["spec"].clone();
    spec["tolerations"] = tolerations(set).into();
    if !spec["affinity"].is_object() {
        spec["affinity"] = json!({});
    }
    if !spec["affinity"]["nodeAffinity"].is_object() {
        spec["affinity"]["nodeAffinity"] = json!({});
    }
    // The node fits what the template asks for: its name is all that is left to say.
    spec["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"] = json!({
        "nodeSelectorTerms": [{"matchFields": [{"key": "metadata.name", "operator": "In", "values": [node]}]}],
    });
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec})
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_daemon_tolerates_what_its_node_suffers() {
        let check = |spec: Value, expected: &[&str]| {
            let set: DaemonSet =
                serde_json::from_value(json!({"spec": {"template": {"spec": spec}}})).expect("a daemon set");
            let texts: Vec<String> = tolerations(&set)
                .iter()
                .map(|t| {
                    let key = t["key"].as_str().unwrap_or_default().trim_start_matches("node.kubernetes.io/");
                    format!("{key}:{}{}", t["effect"].as_str().unwrap_or_default(), t["tolerationSeconds"])
                })
                .collect();
            assert_eq!(texts, expected);
        };
        let ours = [
            "not-ready:NoExecutenull",
            "unreachable:NoExecutenull",
            "disk-pressure:NoSchedulenull",
            "memory-pressure:NoSchedulenull",
            "pid-pressure:NoSchedulenull",
            "unschedulable:NoSchedulenull",
        ];
        check(json!({}), &ours);
        let host = [&ours[..], &["network-unavailable:NoSchedulenull"]].concat();
        check(json!({"hostNetwork": true}), &host);
        // One of its own stays, one that ends is made to last.
        let own = json!({"tolerations": [{"key": "mine", "operator": "Exists", "effect": "NoSchedule"},
            {"key": "node.kubernetes.io/not-ready", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 5}]});
        check(own, &[&["mine:NoSchedulenull"], &ours[..]].concat());
    }
}
