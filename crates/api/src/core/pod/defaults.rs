//! Defaults of pods and of everything that holds a pod template.
//!
//! Upstream: `pkg/apis/core/v1/defaults.go`. Idempotent: what is set stays.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::object::{at, at_mut, default_number, default_text, default_value, items_mut, list, set, text};
use crate::quantity::Quantity;

/// The lists of containers of a pod spec.
pub const CONTAINER_LISTS: [&str; 3] = ["initContainers", "containers", "ephemeralContainers"];

/// Defaults of a pod: those of its spec, and those that templates do not get.
pub fn pod(obj: &mut Value) {
    let Some(spec) = at_mut(obj, &["spec"]) else { return };
    pod_spec(spec);
    default_value(spec, "enableServiceLinks", true);
    let host_network = at(spec, &["hostNetwork"]) == &Value::Bool(true);
    for field in CONTAINER_LISTS {
        for container in items_mut(spec, field) {
            if field != "ephemeralContainers" {
                requests_from_limits(container);
            }
            if host_network && field != "ephemeralContainers" {
                host_ports(container);
            }
        }
    }
    pod_requests(spec);
}

/// Requests of the pod as a whole, where it has resources of its own: what its containers ask for together, else its
/// limits. Upstream: `setDefaultPodRequests`.
fn pod_requests(spec: &mut Value) {
    if at(spec, &["resources"]).is_null() {
        return;
    }
    for (name, amount) in container_requests(spec) {
        if is_of_pods(&name) && at(spec, &["resources", "requests", &name]).is_null() {
            set(spec, &["resources", "requests", &name], amount.to_string());
        }
    }
    for (name, amount) in at(spec, &["resources", "limits"]).as_object().cloned().unwrap_or_default() {
        if is_of_pods(&name) && at(spec, &["resources", "requests", &name]).is_null() {
            set(spec, &["resources", "requests", &name], amount);
        }
    }
}

/// Resources a pod can have as a whole.
pub(crate) fn is_of_pods(resource: &str) -> bool {
    matches!(resource, "cpu" | "memory") || resource.starts_with("hugepages-")
}

/// What the containers of a pod request together: the containers that run side by side added up, or the one init
/// container that wants more than those. Upstream: `resourcehelper.AggregateContainerRequests`.
pub fn container_requests(spec: &Value) -> BTreeMap<String, Quantity> {
    let amounts = |container: &Value| -> Vec<(String, Quantity)> {
        let requests = at(container, &["resources", "requests"]).as_object().into_iter().flatten();
        requests.filter_map(|(name, v)| Some((name.clone(), v.as_str()?.parse().ok()?))).collect()
    };
    let mut side_by_side: BTreeMap<String, Quantity> = BTreeMap::new();
    let mut at_start: BTreeMap<String, Quantity> = BTreeMap::new();
    let mut sidecars: BTreeMap<String, Quantity> = BTreeMap::new();
    let sum = |into: &mut BTreeMap<String, Quantity>, container: &Value| {
        for (name, amount) in amounts(container) {
            let entry = into.entry(name).or_insert(Quantity::ZERO);
            *entry = *entry + amount;
        }
    };
    for container in list(spec, &["containers"]) {
        sum(&mut side_by_side, container);
    }
    for container in list(spec, &["initContainers"]) {
        if text(container, &["restartPolicy"]) == "Always" {
            sum(&mut side_by_side, container);
            sum(&mut sidecars, container);
            continue;
        }
        // It runs beside the side-cars started before it.
        let mut now = sidecars.clone();
        sum(&mut now, container);
        for (name, amount) in now {
            let entry = at_start.entry(name).or_insert(amount);
            *entry = (*entry).max(amount);
        }
    }
    for (name, amount) in at_start {
        let entry = side_by_side.entry(name).or_insert(amount);
        *entry = (*entry).max(amount);
    }
    side_by_side
}

/// Defaults of the template of a workload, at `spec.template`.
pub fn template(obj: &mut Value) {
    if let Some(spec) = at_mut(obj, &["spec", "template", "spec"]) {
        pod_spec(spec);
    }
}

/// Defaults of a pod spec.
pub fn pod_spec(spec: &mut Value) {
    if !spec.is_object() {
        return;
    }
    default_text(spec, "dnsPolicy", "ClusterFirst");
    default_text(spec, "restartPolicy", "Always");
    default_text(spec, "schedulerName", "default-scheduler");
    default_value(spec, "securityContext", json!({}));
    default_value(spec, "terminationGracePeriodSeconds", 30);
    service_account(spec);
    for field in CONTAINER_LISTS {
        for container in items_mut(spec, field) {
            self::container(container);
        }
    }
    for volume in items_mut(spec, "volumes") {
        self::volume(volume);
    }
}

/// `serviceAccount` is the old name of `serviceAccountName`; both always say the same.
fn service_account(spec: &mut Value) {
    let name = match text(spec, &["serviceAccountName"]) {
        "" => text(spec, &["serviceAccount"]),
        name => name,
    }
    .to_owned();
    if !name.is_empty() {
        set(spec, &["serviceAccountName"], name.as_str());
        set(spec, &["serviceAccount"], name);
    }
}

fn container(c: &mut Value) {
    if !c.is_object() {
        return;
    }
    let policy = pull_policy(text(c, &["image"]));
    default_text(c, "imagePullPolicy", policy);
    default_text(c, "terminationMessagePath", "/dev/termination-log");
    default_text(c, "terminationMessagePolicy", "File");
    default_value(c, "resources", json!({}));
    for port in items_mut(c, "ports") {
        default_text(port, "protocol", "TCP");
    }
    for env in items_mut(c, "env") {
        if let Some(source) = env.get_mut("valueFrom") {
            field_sources(source);
        }
    }
    for name in ["livenessProbe", "readinessProbe", "startupProbe"] {
        if let Some(probe) = at_mut(c, &[name]) {
            default_number(probe, "timeoutSeconds", 1);
            default_number(probe, "periodSeconds", 10);
            default_number(probe, "successThreshold", 1);
            default_number(probe, "failureThreshold", 3);
            handler(probe);
        }
    }
    for name in ["postStart", "preStop"] {
        if let Some(hook) = at_mut(c, &["lifecycle", name]) {
            handler(hook);
        }
    }
}

fn handler(h: &mut Value) {
    if let Some(http) = at_mut(h, &["httpGet"]) {
        default_text(http, "path", "/");
        default_text(http, "scheme", "HTTP");
    }
    if let Some(grpc) = at_mut(h, &["grpc"]) {
        default_value(grpc, "service", "");
    }
}

fn field_sources(source: &mut Value) {
    if let Some(field) = at_mut(source, &["fieldRef"]) {
        default_text(field, "apiVersion", "v1");
    }
    if let Some(resource) = at_mut(source, &["resourceFieldRef"]) {
        default_value(resource, "divisor", "0");
    }
}

/// The pull policy of an image nobody gave one: `Always` for the tag `latest`, said or implied.
///
/// Upstream: `SetDefaults_Container` with `pkg/util/parsers.ParseImageName`.
pub fn pull_policy(image: &str) -> &'static str {
    let (name, digest) = match image.split_once('@') {
        Some((name, digest)) => (name, Some(digest)),
        None => (image, None),
    };
    let last = name.rsplit('/').next().unwrap_or(name);
    match last.split_once(':') {
        Some((_, "latest")) => "Always",
        None if digest.is_none() && !image.is_empty() => "Always",
        _ => "IfNotPresent",
    }
}

/// Missing requests are the limits, for every resource that has a limit.
fn requests_from_limits(container: &mut Value) {
    let Some(limits) = at(container, &["resources", "limits"]).as_object().cloned() else { return };
    for (name, amount) in limits {
        if at(container, &["resources", "requests", &name]).is_null() {
            set(container, &["resources", "requests", &name], amount);
        }
    }
}

/// On the host's network, a container's port is the host's.
fn host_ports(container: &mut Value) {
    for port in items_mut(container, "ports") {
        if let Some(number) = port.get("containerPort").and_then(Value::as_i64) {
            default_number(port, "hostPort", number);
        }
    }
}

const MODE: i64 = 0o644;

fn volume(v: &mut Value) {
    let Some(map) = v.as_object() else { return };
    if map.iter().all(|(key, value)| key == "name" || value.is_null()) {
        set(v, &["emptyDir"], json!({}));
        return;
    }
    for name in ["secret", "configMap", "downwardAPI", "projected"] {
        if let Some(source) = at_mut(v, &[name]) {
            default_value(source, "defaultMode", MODE);
            if name == "downwardAPI" {
                items_mut(source, "items").for_each(field_sources);
            }
        }
    }
    if let Some(projected) = at_mut(v, &["projected"]) {
        for source in items_mut(projected, "sources") {
            if let Some(token) = at_mut(source, &["serviceAccountToken"]) {
                default_value(token, "expirationSeconds", 3600);
            }
            if let Some(api) = at_mut(source, &["downwardAPI"]) {
                items_mut(api, "items").for_each(field_sources);
            }
        }
    }
    if let Some(path) = at_mut(v, &["hostPath"]) {
        default_value(path, "type", "");
    }
    if let Some(image) = at_mut(v, &["image"]) {
        let policy = pull_policy(text(image, &["reference"]));
        default_text(image, "pullPolicy", policy);
    }
    if let Some(claim) = at_mut(v, &["ephemeral", "volumeClaimTemplate"]) {
        default_value(claim, "metadata", json!({}));
        if let Some(spec) = at_mut(claim, &["spec"]) {
            default_value(spec, "volumeMode", "Filesystem");
        }
    }
    network_disks(v);
}

/// Defaults of the volume types that need a cluster or a cloud of their own.
pub(crate) fn network_disks(v: &mut Value) {
    if let Some(iscsi) = at_mut(v, &["iscsi"]) {
        default_text(iscsi, "iscsiInterface", "default");
    }
    if let Some(rbd) = at_mut(v, &["rbd"]) {
        default_text(rbd, "pool", "rbd");
        default_text(rbd, "user", "admin");
        default_text(rbd, "keyring", "/etc/ceph/keyring");
    }
    if let Some(disk) = at_mut(v, &["azureDisk"]) {
        default_value(disk, "cachingMode", "ReadWrite");
        default_value(disk, "kind", "Shared");
        default_value(disk, "fsType", "ext4");
        default_value(disk, "readOnly", false);
    }
    if let Some(scale) = at_mut(v, &["scaleIO"]) {
        default_text(scale, "storageMode", "ThinProvisioned");
        default_text(scale, "fsType", "xfs");
    }
}

/// The quality-of-service class of a pod spec: `Guaranteed` when every container limits CPU and memory and requests
/// exactly that, `BestEffort` when none asks for anything, else `Burstable`.
///
/// Upstream: `pkg/apis/core/v1/helper/qos.ComputePodQOS`.
pub fn qos_class(spec: &Value) -> &'static str {
    let quantity = |v: &Value| v.as_str().map(str::to_owned).or_else(|| v.as_f64().map(|n| n.to_string()));
    let nonzero = |v: &Value| quantity(v).filter(|q| q.chars().any(|c| ('1'..='9').contains(&c)));
    let mut all: Vec<&Value> = Vec::new();
    if !at(spec, &["resources", "requests"]).is_null() || !at(spec, &["resources", "limits"]).is_null() {
        all.push(spec);
    } else {
        for field in ["containers", "initContainers"] {
            all.extend(list(spec, &[field]));
        }
    }
    let (mut anything, mut guaranteed) = (false, true);
    for holder in all {
        for name in ["cpu", "memory"] {
            let request = nonzero(at(holder, &["resources", "requests", name]));
            let limit = nonzero(at(holder, &["resources", "limits", name]));
            anything |= request.is_some() || limit.is_some();
            guaranteed &= limit.is_some() && (request.is_none() || request == limit);
        }
    }
    match (anything, guaranteed) {
        (false, _) => "BestEffort",
        (true, true) => "Guaranteed",
        (true, false) => "Burstable",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pull_policy_follows_the_tag() {
        let cases = [
            ("nginx", "Always"),
            ("nginx:latest", "Always"),
            ("host:5000/nginx", "Always"),
            ("host:5000/nginx:1", "IfNotPresent"),
            ("nginx@sha256:00", "IfNotPresent"),
            ("nginx:latest@sha256:00", "Always"),
            ("", "IfNotPresent"),
        ];
        for (image, policy) in cases {
            assert_eq!(pull_policy(image), policy, "{image}");
        }
    }

    #[test]
    fn a_pod_asks_for_what_its_containers_ask_for() {
        let c = |cpu: &str| json!({"resources": {"requests": {"cpu": cpu}}});
        let mut pod = json!({"spec": {"resources": {"limits": {"cpu": "2", "memory": "1Gi"}},
            "containers": [c("100m"), c("200m")], "initContainers": [c("1")]}});
        super::pod(&mut pod);
        assert_eq!(pod["spec"]["resources"]["requests"], json!({"cpu": "1", "memory": "1Gi"}));
    }

    #[test]
    fn qos_is_guaranteed_only_when_every_container_is_limited() {
        let limited = json!({"resources": {"limits": {"cpu": "1", "memory": "1Gi"}}});
        assert_eq!(qos_class(&json!({"containers": [limited]})), "Guaranteed");
        assert_eq!(qos_class(&json!({"containers": [limited, {"name": "b"}]})), "Burstable");
        assert_eq!(qos_class(&json!({"containers": [{"name": "b"}]})), "BestEffort");
    }
}
