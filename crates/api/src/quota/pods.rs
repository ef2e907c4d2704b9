//! What pods use (`pkg/quota/v1/evaluator/core/pods.go`, `k8s.io/component-helpers/resource`).

use std::collections::{BTreeMap, BTreeSet};

use jiff::{SignedDuration, Timestamp};
use serde_json::Value;

use super::{Amounts, Scope, add, amounts, at_least};
use crate::quantity::Quantity;

const DEVICES: &str = "deviceclass.resource.kubernetes.io/";

fn items(value: &Value) -> &[Value] {
    value.as_array().map(Vec::as_slice).unwrap_or_default()
}

/// Whether a pod still counts: it has not ended, and if it is being deleted its grace is not over.
pub fn is_charged(pod: &Value, now: Timestamp) -> bool {
    if matches!(pod["status"]["phase"].as_str(), Some("Succeeded" | "Failed")) {
        return false;
    }
    let meta = &pod["metadata"];
    let deleted = meta["deletionTimestamp"].as_str().and_then(|t| t.parse::<Timestamp>().ok());
    match (deleted, meta["deletionGracePeriodSeconds"].as_i64()) {
        (Some(deleted), Some(grace)) => {
            let over = deleted.checked_add(SignedDuration::from_secs(grace)).unwrap_or(Timestamp::MAX);
            now <= over
        }
        _ => true,
    }
}

/// Whether a pod has a deadline.
pub fn is_terminating(pod: &Value) -> bool {
    pod["spec"]["activeDeadlineSeconds"].as_i64().is_some_and(|s| s >= 0)
}

/// Whether a pod asks for no CPU and no memory.
pub fn is_best_effort(pod: &Value) -> bool {
    if let Some(class) = pod["status"]["qosClass"].as_str().filter(|c| !c.is_empty()) {
        return class == "BestEffort";
    }
    let spec = &pod["spec"];
    let asks = |resources: &Value| {
        [&resources["requests"], &resources["limits"]].into_iter().any(|list| {
            let list = amounts(list);
            ["cpu", "memory"].iter().any(|n| list.get(*n).is_some_and(|q| q.sign() > 0))
        })
    };
    let containers = items(&spec["containers"]).iter().chain(items(&spec["initContainers"]));
    !asks(&spec["resources"]) && !containers.into_iter().any(|c| asks(&c["resources"]))
}

/// What is set for the whole pod, of what can be.
fn pod_level(pod: &Value, part: &str) -> Amounts {
    let mut all = amounts(&pod["spec"]["resources"][part]);
    all.retain(|name, _| matches!(name.as_str(), "cpu" | "memory") || name.starts_with("hugepages-"));
    all
}

/// The sum over containers, with init containers and sidecars as they run one after the other.
fn aggregate(pod: &Value, of: impl Fn(&Value) -> Amounts) -> Amounts {
    let spec = &pod["spec"];
    let mut sum = Amounts::new();
    for container in items(&spec["containers"]) {
        add(&mut sum, &of(container));
    }
    let (mut sidecars, mut most) = (Amounts::new(), Amounts::new());
    for container in items(&spec["initContainers"]) {
        let mut own = of(container);
        if container["restartPolicy"] == "Always" {
            add(&mut sum, &own);
            add(&mut sidecars, &own);
            own = sidecars.clone();
        } else {
            add(&mut own, &sidecars);
        }
        at_least(&mut most, &own);
    }
    at_least(&mut sum, &most);
    sum
}

/// What a pod requests, overhead included; while it is being resized, what it may still hold.
pub fn pod_requests(pod: &Value) -> Amounts {
    let status = &pod["status"];
    let statuses: BTreeMap<&str, &Value> = items(&status["containerStatuses"])
        .iter()
        .chain(items(&status["initContainerStatuses"]))
        .filter_map(|s| Some((s["name"].as_str()?, s)))
        .collect();
    let infeasible =
        items(&status["conditions"]).iter().any(|c| c["type"] == "PodResizePending" && c["reason"] == "Infeasible");
    let mut all = aggregate(pod, |container| {
        let mut own = amounts(&container["resources"]["requests"]);
        if let Some(status) = container["name"].as_str().and_then(|n| statuses.get(n)) {
            let held = amounts(&status["resources"]["requests"]);
            let allocated = amounts(&status["allocatedResources"]);
            if infeasible && (!held.is_empty() || !allocated.is_empty()) {
                own = held;
            } else {
                at_least(&mut own, &held);
            }
            at_least(&mut own, &allocated);
        }
        own
    });
    all.extend(pod_level(pod, "requests"));
    add(&mut all, &amounts(&pod["spec"]["overhead"]));
    all
}

/// What a pod is limited to, overhead included where there is a limit.
pub fn pod_limits(pod: &Value) -> Amounts {
    let mut all = aggregate(pod, |container| amounts(&container["resources"]["limits"]));
    all.extend(pod_level(pod, "limits"));
    let overhead = amounts(&pod["spec"]["overhead"]);
    for (name, limit) in &mut all {
        if let Some(more) = overhead.get(name) {
            *limit = *limit + *more;
        }
    }
    all
}

fn is_native(name: &str) -> bool {
    !name.contains('/') || name.contains("kubernetes.io/")
}

fn is_extended(name: &str) -> bool {
    (!is_native(name) && !name.starts_with("requests.")) || name.starts_with(DEVICES)
}

/// Whether pods use a name of a quota (but for `count/pods`).
pub(super) fn uses(name: &str) -> bool {
    if name.starts_with("hugepages-") || name.starts_with("requests.hugepages-") {
        return true;
    }
    if let Some(rest) = name.strip_prefix("requests.") {
        return matches!(rest, "cpu" | "memory" | "ephemeral-storage") || !is_native(name) || rest.starts_with(DEVICES);
    }
    let plain = name.strip_prefix("limits.").unwrap_or(name);
    name == "pods" || matches!(plain, "cpu" | "memory" | "ephemeral-storage")
}

/// Requests and limits under the names of quotas.
fn named(requests: &Amounts, limits: &Amounts) -> Amounts {
    let mut all = Amounts::from([("pods".to_owned(), Quantity::from_int(1))]);
    for name in ["cpu", "memory", "ephemeral-storage"] {
        if let Some(request) = requests.get(name) {
            all.insert(name.into(), *request);
            all.insert(format!("requests.{name}"), *request);
        }
        if let Some(limit) = limits.get(name) {
            all.insert(format!("limits.{name}"), *limit);
        }
    }
    for (name, request) in requests {
        if name.starts_with("hugepages-") {
            all.insert(name.clone(), *request);
            all.insert(format!("requests.{name}"), *request);
        } else if is_extended(name) {
            all.insert(format!("requests.{name}"), *request);
        }
    }
    all
}

/// What a pod uses beside being counted.
pub(super) fn usage(pod: &Value, now: Timestamp) -> Amounts {
    if is_charged(pod, now) { named(&pod_requests(pod), &pod_limits(pod)) } else { Amounts::new() }
}

/// CPU and memory under quota must be stated by every container, unless the pod states them as a whole.
pub(super) fn constraints(required: &BTreeSet<String>, pod: &Value) -> Result<(), String> {
    const STATED: [&str; 6] = ["cpu", "memory", "requests.cpu", "requests.memory", "limits.cpu", "limits.memory"];
    if !pod_level(pod, "requests").is_empty() || !pod_level(pod, "limits").is_empty() {
        return Ok(());
    }
    let spec = &pod["spec"];
    let mut missing: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for container in items(&spec["containers"]).iter().chain(items(&spec["initContainers"])) {
        let resources = &container["resources"];
        let stated = named(&amounts(&resources["requests"]), &amounts(&resources["limits"]));
        for name in STATED.iter().filter(|n| required.contains(**n) && !stated.contains_key(**n)) {
            missing.entry(name).or_default().insert(container["name"].as_str().unwrap_or_default());
        }
    }
    if missing.is_empty() {
        return Ok(());
    }
    let text = |(name, containers): (&str, BTreeSet<&str>)| {
        format!("{name} for: {}", containers.into_iter().collect::<Vec<_>>().join(","))
    };
    Err(format!("must specify {}", missing.into_iter().map(text).collect::<Vec<_>>().join("; ")))
}

/// Whether a pod is of a scope.
pub(super) fn in_scope(scope: &Scope, pod: &Value) -> bool {
    match scope.name.as_str() {
        "Terminating" => is_terminating(pod),
        "NotTerminating" => !is_terminating(pod),
        "BestEffort" => is_best_effort(pod),
        "NotBestEffort" => !is_best_effort(pod),
        "PriorityClass" => {
            let class = pod["spec"]["priorityClassName"].as_str().filter(|c| !c.is_empty());
            if scope.operator == "Exists" { class.is_some() } else { scope.accepts(class) }
        }
        "CrossNamespacePodAffinity" => crosses_namespaces(&pod["spec"]["affinity"]),
        _ => false,
    }
}

fn crosses_namespaces(affinity: &Value) -> bool {
    let crosses = |term: &Value| !items(&term["namespaces"]).is_empty() || term["namespaceSelector"].is_object();
    ["podAffinity", "podAntiAffinity"].iter().any(|sort| {
        let of = &affinity[*sort];
        items(&of["requiredDuringSchedulingIgnoredDuringExecution"]).iter().any(crosses)
            || items(&of["preferredDuringSchedulingIgnoredDuringExecution"])
                .iter()
                .any(|weighted| crosses(&weighted["podAffinityTerm"]))
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn container(name: &str, cpu: &str, memory: &str) -> Value {
        json!({"name": name, "resources": {"requests": {"cpu": cpu, "memory": memory}, "limits": {"cpu": cpu}}})
    }

    fn shown(amounts: &Amounts) -> String {
        amounts.iter().map(|(k, v)| format!("{k}={v}")).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn init_containers_sidecars_and_overhead_are_counted_as_they_run() {
        let mut sidecar = container("s", "1", "1Gi");
        sidecar["restartPolicy"] = json!("Always");
        let pod = json!({"spec": {
            "containers": [container("a", "100m", "1Gi"), container("b", "200m", "1Gi")],
            "initContainers": [sidecar, container("i", "2", "64Mi")],
            "overhead": {"cpu": "50m", "memory": "10Mi"},
        }});
        assert_eq!(shown(&pod_requests(&pod)), "cpu=3050m memory=3082Mi");
        assert_eq!(shown(&pod_limits(&pod)), "cpu=3050m");
        let whole =
            json!({"spec": {"resources": {"requests": {"cpu": "4"}}, "containers": [container("a", "1", "1Gi")]}});
        assert_eq!(shown(&pod_requests(&whole)), "cpu=4 memory=1Gi");
    }

    #[test]
    fn names_of_quotas() {
        let pod = json!({"spec": {"containers": [{"name": "c", "resources": {
            "requests": {"cpu": "1", "hugepages-2Mi": "4Mi", "example.com/gpu": "2"}, "limits": {"memory": "1Gi"}}}]}});
        assert_eq!(
            shown(&usage(&pod, Timestamp::UNIX_EPOCH)),
            "cpu=1 hugepages-2Mi=4Mi limits.memory=1Gi pods=1 requests.cpu=1 requests.example.com/gpu=2 \
             requests.hugepages-2Mi=4Mi"
        );
        for name in ["pods", "cpu", "limits.memory", "requests.example.com/gpu", "hugepages-1Gi"] {
            assert!(uses(name), "{name}");
        }
        for name in ["services", "limits.example.com/gpu", "requests.storage", "count/pods"] {
            assert!(!uses(name), "{name}");
        }
    }

    #[test]
    fn a_pod_at_its_end_is_not_charged() {
        let now: Timestamp = "2026-01-01T00:01:00Z".parse().expect("a time");
        assert!(is_charged(&json!({"status": {"phase": "Running"}}), now));
        assert!(!is_charged(&json!({"status": {"phase": "Failed"}}), now));
        let going = |grace: i64| json!({"metadata": {"deletionTimestamp": "2026-01-01T00:00:30Z", "deletionGracePeriodSeconds": grace}});
        assert!(is_charged(&going(30), now));
        assert!(!is_charged(&going(29), now));
    }

    #[test]
    fn what_is_missing_is_named_with_its_containers() {
        let pod =
            json!({"spec": {"containers": [{"name": "b"}, {"name": "a", "resources": {"limits": {"cpu": "1"}}}]}});
        let required: BTreeSet<String> = ["limits.cpu", "requests.memory", "pods"].map(String::from).into();
        let text = "must specify limits.cpu for: b; requests.memory for: a,b";
        assert_eq!(constraints(&required, &pod), Err(text.to_owned()));
    }

    #[test]
    fn scopes_of_pods() {
        let check = |name: &str, operator: &str, values: &[&str], pod: Value, expected: bool| {
            let values = values.iter().map(|v| (*v).to_owned()).collect();
            let scope = Scope { name: name.into(), operator: operator.into(), values };
            assert_eq!(in_scope(&scope, &pod), expected, "{scope:?} {pod}");
        };
        let class = json!({"spec": {"priorityClassName": "high"}});
        check("PriorityClass", "Exists", &[], class.clone(), true);
        check("PriorityClass", "Exists", &[], json!({}), false);
        check("PriorityClass", "In", &["high"], class.clone(), true);
        check("PriorityClass", "NotIn", &["high"], class.clone(), false);
        check("PriorityClass", "NotIn", &["high"], json!({}), true);
        check("PriorityClass", "DoesNotExist", &[], json!({}), true);
        check("Terminating", "Exists", &[], json!({"spec": {"activeDeadlineSeconds": 5}}), true);
        check("NotTerminating", "Exists", &[], json!({"spec": {}}), true);
        check("BestEffort", "Exists", &[], json!({"spec": {"containers": [{"name": "c"}]}}), true);
        check("NotBestEffort", "Exists", &[], json!({"spec": {"containers": [container("c", "1", "1")]}}), true);
        let affinity = json!({"spec": {"affinity": {"podAffinity": {
            "requiredDuringSchedulingIgnoredDuringExecution": [{"namespaces": ["x"]}]}}}});
        check("CrossNamespacePodAffinity", "Exists", &[], affinity, true);
        check("CrossNamespacePodAffinity", "Exists", &[], class, false);
    }
}
