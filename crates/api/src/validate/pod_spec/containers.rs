//! Containers: regular, init (side-cars among them) and ephemeral ones.
//! Upstream: `validateContainers`, `validateInitContainers`, `validateEphemeralContainers`.

use std::collections::BTreeSet;

use serde_json::Value;

use super::{PodContext, env, handlers, resources, security, volumes};
use crate::field::ErrorList;
use crate::object::View;
use crate::validate::{PROTOCOLS, dns_label_at, ip_address, one_of, port_name, port_number};

/// The containers of a pod; there must be one.
pub fn regular(errs: &mut ErrorList, list: &View<'_>, pod: &PodContext<'_>) {
    if list.is_empty() {
        errs.required(list.path(), "");
        return;
    }
    let mut seen = BTreeSet::new();
    for container in list.list() {
        common(errs, &container, pod);
        unique(errs, &container, &mut seen);
        handlers::lifecycle(errs, &container.get("lifecycle"), pod.grace_seconds);
        handlers::probes(errs, &container, pod.grace_seconds);
        restart_policy(errs, &container, &["Always", "OnFailure", "Never"]);
    }
    host_ports(errs, &list.list());
}

/// Init containers run one by one, so each may use the ports of the others; their names are unique among all.
pub fn init(errs: &mut ErrorList, list: &View<'_>, regular: &View<'_>, pod: &PodContext<'_>) {
    let mut seen: BTreeSet<&str> = regular.list().iter().map(|c| c.get("name").str()).collect();
    for container in list.list() {
        common(errs, &container, pod);
        restart_policy(errs, &container, &["Always", "OnFailure", "Never"]);
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
    const ALLOWED: [&str; 17] = [
        "name",
        "image",
        "command",
        "args",
        "workingDir",
        "envFrom",
        "env",
        "volumeMounts",
        "volumeDevices",
        "terminationMessagePath",
        "terminationMessagePolicy",
        "imagePullPolicy",
        "securityContext",
        "stdin",
        "stdinOnce",
        "tty",
        "targetContainerName",
    ];
    let others: BTreeSet<&str> =
        ["containers", "initContainers"].iter().flat_map(|f| spec.items(f)).map(|c| c.get("name").str()).collect();
    let mut seen = others.clone();
    for container in spec.items("ephemeralContainers") {
        common(errs, &container, pod);
        unique(errs, &container, &mut seen);
        let target = container.get("targetContainerName");
        if !target.str().is_empty() && !others.contains(target.str()) {
            errs.not_found(target.path(), target.str());
        }
        for mount in container.items("volumeMounts") {
            for field in ["subPath", "subPathExpr"] {
                if !mount.get(field).str().is_empty() {
                    errs.forbidden(mount.get(field).path(), "cannot be set for an Ephemeral Container");
                }
            }
        }
        for (field, value) in container.map().into_iter().flatten() {
            let empty = match value {
                Value::Null => true,
                Value::Array(list) => list.is_empty(),
                Value::Object(map) => map.is_empty(),
                _ => false,
            };
            if !empty && !ALLOWED.contains(&field.as_str()) {
                errs.forbidden(container.get(field).path(), "cannot be set for an Ephemeral Container");
            }
        }
    }
}

fn unique<'a>(errs: &mut ErrorList, container: &View<'a>, seen: &mut BTreeSet<&'a str>) {
    let name = container.get("name");
    if !name.str().is_empty() && !seen.insert(name.str()) {
        errs.duplicate(name.path(), name.str());
    }
}

fn restart_policy(errs: &mut ErrorList, container: &View<'_>, supported: &[&str]) {
    let policy = container.get("restartPolicy");
    if policy.is_set() && !supported.contains(&policy.str()) {
        errs.not_supported(policy.path(), policy.str(), supported);
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
        other => errs.not_supported(message.path(), other, &["FallbackToLogsOnError", "File"]),
    }
    ports(errs, &container.get("ports"));
    env::env(errs, &container.get("env"));
    env::env_from(errs, &container.get("envFrom"));
    volumes::mounts(errs, container, &pod.volumes);
    volumes::devices(errs, container, &pod.volumes);
    one_of(errs, &container.get("imagePullPolicy"), &["Always", "IfNotPresent", "Never"]);
    resources::requirements(errs, &container.get("resources"), &pod.claims);
    resize_policy(errs, &container.get("resizePolicy"));
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
        let ip = port.get("hostIP");
        if !ip.str().is_empty() {
            ip_address(errs, ip.str(), ip.path());
        }
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
    for field in ["containers", "initContainers"] {
        for container in spec.items(field) {
            for port in container.items("ports") {
                let outer = port.get("hostPort");
                let number = outer.int().unwrap_or_default();
                if (is_pod || number != 0) && number != port.get("containerPort").int().unwrap_or_default() {
                    errs.invalid(outer.path(), number, "must match `containerPort` when `hostNetwork` is true");
                }
            }
        }
    }
}

fn resize_policy(errs: &mut ErrorList, list: &View<'_>) {
    let mut seen = BTreeSet::new();
    for policy in list.list() {
        let resource = policy.get("resourceName");
        if !seen.insert(resource.str()) {
            errs.duplicate(policy.path(), resource.str());
        }
        match resource.str() {
            "cpu" | "memory" => {}
            "" => errs.required(resource.path(), ""),
            other => errs.not_supported(resource.path(), other, &["cpu", "memory"]),
        }
        one_of(errs, &policy.get("restartPolicy"), &["NotRequired", "RestartContainer"]);
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
