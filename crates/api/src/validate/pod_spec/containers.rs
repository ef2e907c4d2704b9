//! Containers: regular, init (side-cars among them) and ephemeral ones.
//! Upstream: `validateContainers`, `validateInitContainers`, `validateEphemeralContainers`.

use std::collections::BTreeSet;

use super::{PodContext, env, handlers, resources, security, volumes};
use crate::field::ErrorList;
use crate::object::View;
use crate::validate::{PROTOCOLS, dns_label_at, one_of, port_name, port_number};

/// The containers of a pod; there must be one.
pub fn regular(errs: &mut ErrorList, list: &View<'_>, pod: &PodContext<'_>) {
    if list.is_empty() {
        errs.required(list.path(), "");
        return;
    }
    let mut seen = BTreeSet::new();
    for container in list.list() {
        common(errs, &container, pod);
        if !seen.insert(container.get("name").str()) {
            errs.duplicate(container.get("name").path(), container.get("name").str());
        }
        handlers::lifecycle(errs, &container.get("lifecycle"), pod.grace_seconds);
        handlers::probes(errs, &container, pod.grace_seconds);
        restart_policy(errs, &container);
    }
    host_ports(errs, &list.list());
}

/// Init containers run one by one, so each may use the ports of the others; their names are unique among all.
pub fn init(errs: &mut ErrorList, list: &View<'_>, regular: &View<'_>, pod: &PodContext<'_>) {
    let mut seen: BTreeSet<&str> = regular.list().iter().map(|c| c.get("name").str()).collect();
    for container in list.list() {
        common(errs, &container, pod);
        restart_policy(errs, &container);
        unique(errs, &container, &mut seen);
        host_ports(errs, std::slice::from_ref(&container));
        if container.get("restartPolicy").str() == "Always" {
            handlers::lifecycle(errs, &container.get("lifecycle"), pod.grace_seconds);
            handlers::probes(errs, &container, pod.grace_seconds);
            continue;
        }
        for field in ["lifecycle", "livenessProbe", "readinessProbe", "startupProbe"] {
            if container.get(field).is_set() {
                errs.forbidden(
                    container.get(field).path(),
                    "may not be set for init containers without restartPolicy=Always",
                );
            }
        }
    }
}

/// Ephemeral containers come later and promise nothing: no ports, probes, hooks or resources.
pub fn ephemeral(errs: &mut ErrorList, spec: &View<'_>, pod: &PodContext<'_>) {
    const FORBIDDEN: [&str; 9] = [
        "ports",
        "resources",
        "resizePolicy",
        "restartPolicy",
        "restartPolicyRules",
        "livenessProbe",
        "readinessProbe",
        "startupProbe",
        "lifecycle",
    ];
    let others: BTreeSet<&str> =
        ["containers", "initContainers"].iter().flat_map(|f| spec.items(f)).map(|c| c.get("name").str()).collect();
    let mut seen = others.clone();
    for container in spec.items("ephemeralContainers") {
        common(errs, &container, pod);
        image_padding(errs, &container);
        if !seen.insert(container.get("name").str()) {
            errs.duplicate(container.get("name").path(), container.get("name").str());
        }
        let target = container.get("targetContainerName");
        if !target.str().is_empty() && !others.contains(target.str()) {
            errs.not_found(target.path(), target.str());
        }
        for field in FORBIDDEN {
            let v = container.get(field);
            // A policy is a text that may be empty, the rest are lists and structs.
            if !v.is_empty() || (field == "restartPolicy" && v.is_set()) {
                errs.forbidden(v.path(), "cannot be set for an Ephemeral Container");
            }
        }
        for mount in container.items("volumeMounts") {
            for field in ["subPath", "subPathExpr"] {
                if !mount.get(field).str().is_empty() {
                    errs.forbidden(mount.get(field).path(), "cannot be set for an Ephemeral Container");
                }
            }
        }
    }
}

/// Pods refuse what templates always took. Upstream: `validateContainerOnlyForPod`.
pub fn image_padding(errs: &mut ErrorList, container: &View<'_>) {
    let image = container.get("image");
    if image.str().trim() != image.str() {
        errs.invalid(image.path(), image.str(), "must not have leading or trailing whitespace");
    }
}

/// A name not taken yet; no name is no clash. Upstream: in `validateInitContainers`.
fn unique<'a>(errs: &mut ErrorList, container: &View<'a>, seen: &mut BTreeSet<&'a str>) {
    let name = container.get("name");
    if seen.contains(name.str()) {
        errs.duplicate(name.path(), name.str());
    } else if !name.str().is_empty() {
        seen.insert(name.str());
    }
}

/// When a container is started again, and the exit codes for which it is otherwise.
/// Upstream: `validateContainerRestartPolicy`.
fn restart_policy(errs: &mut ErrorList, container: &View<'_>) {
    const POLICIES: [&str; 3] = ["Always", "Never", "OnFailure"];
    const ACTIONS: [&str; 2] = ["Restart", "RestartAllContainers"];
    const OPERATORS: [&str; 2] = ["In", "NotIn"];
    let (policy, rules) = (container.get("restartPolicy"), container.get("restartPolicyRules"));
    if policy.is_set() {
        if !POLICIES.contains(&policy.str()) {
            errs.not_supported(policy.path(), policy.str(), &POLICIES);
        }
    } else if !rules.is_empty() {
        errs.required(policy.path(), "must specify restartPolicy when restart rules are used");
    }
    if rules.len() > 20 {
        errs.too_many(rules.path(), rules.len(), 20);
    }
    for rule in rules.list() {
        let (action, codes) = (rule.get("action"), rule.get("exitCodes"));
        if !ACTIONS.contains(&action.str()) {
            errs.not_supported(action.path(), action.str(), &ACTIONS);
        }
        if !codes.is_set() {
            errs.required(codes.path(), "must be specified");
            continue;
        }
        let (operator, values) = (codes.get("operator"), codes.get("values"));
        if !OPERATORS.contains(&operator.str()) {
            errs.not_supported(operator.path(), operator.str(), &OPERATORS);
        }
        if values.len() > 255 {
            errs.too_many(values.path(), values.len(), 255);
        }
    }
}

fn common(errs: &mut ErrorList, container: &View<'_>, pod: &PodContext<'_>) {
    let name = container.get("name");
    if name.str().is_empty() {
        errs.required(name.path(), "");
    } else {
        dns_label_at(errs, &name);
    }
    let image = container.get("image");
    if image.str().is_empty() {
        errs.required(image.path(), "");
    }
    let message = container.get("terminationMessagePolicy");
    match message.str() {
        "File" | "FallbackToLogsOnError" => {}
        "" => errs.required(message.path(), ""),
        other => errs.not_supported(message.path(), other, &["File", "FallbackToLogsOnError"]),
    }
    ports(errs, &container.get("ports"));
    env::env(errs, &container.get("env"));
    env::env_from(errs, &container.get("envFrom"));
    volumes::mounts(errs, container, &pod.volumes);
    volumes::devices(errs, container, &pod.volumes);
    one_of(errs, &container.get("imagePullPolicy"), &["Always", "IfNotPresent", "Never"]);
    resources::requirements(errs, &container.get("resources"), &pod.claims);
    resize_policy(errs, &container.get("resizePolicy"), pod.restart_policy);
    security::container(errs, &container.get("securityContext"), pod.host_users);
}

fn ports(errs: &mut ErrorList, list: &View<'_>) {
    let mut seen = BTreeSet::new();
    for port in list.list() {
        let name = port.get("name");
        if !name.str().is_empty() {
            let problems = port_name(name.str());
            if problems.is_empty() {
                if !seen.insert(name.str()) {
                    errs.duplicate(name.path(), name.str());
                }
            } else {
                for problem in problems {
                    errs.invalid(name.path(), name.str(), problem);
                }
            }
        }
        let (inner, outer) = (port.get("containerPort"), port.get("hostPort"));
        match inner.int().unwrap_or_default() {
            0 => errs.required(inner.path(), ""),
            n => port_number(errs, n, inner.path()),
        }
        match outer.int().unwrap_or_default() {
            0 => {}
            n => port_number(errs, n, outer.path()),
        }
        one_of(errs, &port.get("protocol"), &PROTOCOLS);
    }
}

/// Two containers cannot have the same port of the node.
fn host_ports(errs: &mut ErrorList, containers: &[View<'_>]) {
    let mut seen = BTreeSet::new();
    for container in containers {
        for port in container.items("ports") {
            let host = port.get("hostPort");
            let number = host.int().unwrap_or_default();
            if number == 0 {
                continue;
            }
            let key = format!("{}/{}/{number}", port.get("protocol").str(), port.get("hostIP").str());
            if !seen.insert(key.clone()) {
                errs.duplicate(host.path(), &key);
            }
        }
    }
}

/// On the host's network a port is the same inside and outside. A template may leave the outer one to the pod's
/// defaults. Upstream: `validateHostNetwork`.
pub(super) fn host_network(errs: &mut ErrorList, spec: &View<'_>, is_pod: bool) {
    if !spec.get("hostNetwork").is_true() {
        return;
    }
    for container in spec.items("containers") {
        for port in container.items("ports") {
            let outer = port.get("hostPort");
            let number = outer.int().unwrap_or_default();
            if (is_pod || number != 0) && number != port.get("containerPort").int().unwrap_or_default() {
                errs.invalid(outer.path(), number, "must match `containerPort` when `hostNetwork` is true");
            }
        }
    }
}

/// What a change of resources does to a container. What is wrong is said of the list, as upstream does.
fn resize_policy(errs: &mut ErrorList, list: &View<'_>, pod_policy: &str) {
    let mut seen = BTreeSet::new();
    for item in list.list() {
        let (resource, policy) = (item.get("resourceName"), item.get("restartPolicy"));
        if !seen.insert(resource.str()) {
            errs.duplicate(item.path(), resource.str());
        }
        for (v, supported) in [(&resource, ["cpu", "memory"]), (&policy, ["NotRequired", "RestartContainer"])] {
            if v.str().is_empty() {
                errs.required(list.path(), "");
            } else if !supported.contains(&v.str()) {
                errs.not_supported(list.path(), v.str(), &supported);
            }
        }
        if pod_policy == "Never" && policy.str() != "NotRequired" {
            errs.invalid(list.path(), policy.str(), "must be 'NotRequired' when `restartPolicy` is 'Never'");
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use crate::validate::pod_spec::tests::{container_problems, problems};

    #[test]
    fn container_names_are_unique_over_all_lists() {
        let c = |name: &str| json!({"name": name, "image": "i"});
        assert_eq!(
            problems(json!({"containers": [c("a"), c("a")], "initContainers": [c("a")]})),
            ["spec.containers[1].name: Duplicate value: \"a\"", "spec.initContainers[0].name: Duplicate value: \"a\""]
        );
    }

    #[test]
    fn ports_are_numbers_in_range_and_taken_once() {
        assert_eq!(
            container_problems(json!({"ports": [
                {"containerPort": 80, "hostPort": 80}, {"containerPort": 81, "hostPort": 80}, {"containerPort": 70000}, {}]})),
            [
                "spec.containers[0].ports[2].containerPort: Invalid value: 70000: must be between 1 and 65535, inclusive",
                "spec.containers[0].ports[3].containerPort: Required value",
                "spec.containers[0].ports[1].hostPort: Duplicate value: \"TCP//80\"",
            ]
        );
    }

    #[test]
    fn restart_rules_need_a_policy_and_are_well_formed() {
        assert_eq!(
            container_problems(json!({"restartPolicyRules": [{"action": "Stop"}]})),
            [
                "spec.containers[0].restartPolicy: Required value: must specify restartPolicy when restart rules are used",
                "spec.containers[0].restartPolicyRules[0].action: Unsupported value: \"Stop\": supported values: \
                 \"Restart\", \"RestartAllContainers\"",
                "spec.containers[0].restartPolicyRules[0].exitCodes: Required value: must be specified",
            ]
        );
        assert_eq!(
            container_problems(json!({"restartPolicy": "Sometimes",
                "restartPolicyRules": [{"action": "Restart", "exitCodes": {"values": [1]}}]})),
            [
                "spec.containers[0].restartPolicy: Unsupported value: \"Sometimes\": supported values: \"Always\", \
                 \"Never\", \"OnFailure\"",
                "spec.containers[0].restartPolicyRules[0].exitCodes.operator: Unsupported value: \"\": supported values: \
                 \"In\", \"NotIn\"",
            ]
        );
    }

    #[test]
    fn a_resize_restarts_nothing_that_is_never_restarted() {
        let policy = |name: &str, policy: &str| json!({"resourceName": name, "restartPolicy": policy});
        let container = json!({"name": "c", "image": "i",
            "resizePolicy": [policy("cpu", "RestartContainer"), policy("cpu", "NotRequired"), policy("disk", "")]});
        assert_eq!(
            problems(json!({"restartPolicy": "Never", "containers": [container]})),
            [
                "spec.containers[0].resizePolicy: Invalid value: \"RestartContainer\": must be 'NotRequired' when \
                 `restartPolicy` is 'Never'",
                "spec.containers[0].resizePolicy[1]: Duplicate value: \"cpu\"",
                "spec.containers[0].resizePolicy: Unsupported value: \"disk\": supported values: \"cpu\", \"memory\"",
                "spec.containers[0].resizePolicy: Required value",
                "spec.containers[0].resizePolicy: Invalid value: \"\": must be 'NotRequired' when `restartPolicy` is \
                 'Never'",
            ]
        );
    }

    #[test]
    fn init_containers_have_no_probes_unless_they_stay() {
        let init = |restart: serde_json::Value| {
            json!({"containers": [{"name": "c", "image": "i"}],
                "initContainers": [{"name": "i", "image": "i", "restartPolicy": restart, "readinessProbe": {"tcpSocket": {"port": 1}}}]})
        };
        assert_eq!(
            problems(init(json!(null))),
            [
                "spec.initContainers[0].readinessProbe: Forbidden: may not be set for init containers without restartPolicy=Always"
            ]
        );
        assert!(problems(init(json!("Always"))).is_empty());
    }
}
