//! Security contexts of pods and containers, host namespaces, sysctls.
//! Upstream: `ValidatePodSecurityContext`, `ValidateSecurityContext`.

use std::collections::BTreeSet;
use std::sync::LazyLock;

use regex::Regex;

use super::{containers, descending_path};
use crate::field::ErrorList;
use crate::object::View;

/// User and group numbers are positive 32-bit integers or 0.
fn id(errs: &mut ErrorList, v: &View<'_>) {
    if let Some(n) = v.int()
        && !(0..=i64::from(i32::MAX)).contains(&n)
    {
        errs.invalid(v.path(), n, "must be between 0 and 2147483647, inclusive");
    }
}

/// What a pod says of its containers' security, and of the host's namespaces.
pub fn pod(errs: &mut ErrorList, spec: &View<'_>, is_pod: bool) {
    let v = spec.get("securityContext");
    if spec.get("hostNetwork").is_true() {
        containers::host_network(errs, spec, is_pod);
    }
    if spec.get("hostPID").is_true() && spec.get("shareProcessNamespace").is_true() {
        errs.invalid(
            &v.path().child("shareProcessNamespace"),
            true,
            "ShareProcessNamespace and HostPID cannot both be enabled",
        );
    }
    if spec.get("hostUsers").bool() == Some(false) {
        for field in ["hostNetwork", "hostPID", "hostIPC"] {
            if spec.get(field).is_true() {
                errs.forbidden(spec.get(field).path(), "when `hostUsers` is false");
            }
        }
    }
    for field in ["fsGroup", "runAsUser", "runAsGroup"] {
        id(errs, &v.get(field));
    }
    for group in v.items("supplementalGroups") {
        id(errs, &group);
    }
    for (field, supported) in
        [("fsGroupChangePolicy", ["Always", "OnRootMismatch"]), ("supplementalGroupsPolicy", ["Merge", "Strict"])]
    {
        let policy = v.get(field);
        if policy.is_set() && !supported.contains(&policy.str()) {
            errs.not_supported(policy.path(), policy.str(), &supported);
        }
    }
    sysctls(errs, &v.get("sysctls"), spec);
    seccomp(errs, &v.get("seccompProfile"));
    app_armor(errs, &v.get("appArmorProfile"));
}

fn sysctls(errs: &mut ErrorList, list: &View<'_>, spec: &View<'_>) {
    const SEGMENT: &str = "[a-z0-9]([-_a-z0-9]*[a-z0-9])?";
    static RE: LazyLock<Regex> =
        LazyLock::new(|| Regex::new(&format!("^({SEGMENT}[\\./])*{SEGMENT}$")).expect("constant pattern compiles"));
    let mut seen = BTreeSet::new();
    for sysctl in list.list() {
        let name = sysctl.get("name");
        if name.str().is_empty() {
            errs.required(name.path(), "");
            continue;
        }
        if name.len() > 253 || !RE.is_match(name.str()) {
            errs.invalid(
                name.path(),
                name.str(),
                format!("must have at most 253 characters and match regex ^({SEGMENT}[\\./])*{SEGMENT}$"),
            );
        } else if !seen.insert(name.str()) {
            errs.duplicate(name.path(), name.str());
        }
        let dotted = name.str().replace('/', ".");
        if spec.get("hostNetwork").is_true() && dotted.starts_with("net.") {
            errs.invalid(name.path(), name.str(), "may not be specified when 'hostNetwork' is true");
        }
        let ipc =
            ["kernel.shm", "kernel.msg", "fs.mqueue."].iter().any(|p| dotted.starts_with(p)) || dotted == "kernel.sem";
        if spec.get("hostIPC").is_true() && ipc {
            errs.invalid(name.path(), name.str(), "may not be specified when 'hostIPC' is true");
        }
    }
}

/// `type` says which profile; only `Localhost` names a file.
fn profile(errs: &mut ErrorList, v: &View<'_>, what: &str, short: &str) -> bool {
    if !v.is_set() {
        return false;
    }
    let (ty, local) = (v.get("type"), v.get("localhostProfile"));
    match ty.str() {
        "Localhost" => {
            if !local.is_set() {
                errs.required(local.path(), format!("must be set when {short} type is Localhost"));
                return false;
            }
            return true;
        }
        _ if local.is_set() => {
            errs.invalid(local.path(), local.value(), format!("can only be set when {short} type is Localhost"));
        }
        _ => {}
    }
    match ty.str() {
        "" => errs.required(ty.path(), format!("type is required when {what} is set")),
        "RuntimeDefault" | "Unconfined" => {}
        other => errs.not_supported(ty.path(), other, &["Localhost", "RuntimeDefault", "Unconfined"]),
    }
    false
}

fn seccomp(errs: &mut ErrorList, v: &View<'_>) {
    if profile(errs, v, "seccompProfile", "seccomp") {
        let local = v.get("localhostProfile");
        descending_path(errs, local.path(), local.str());
    }
}

fn app_armor(errs: &mut ErrorList, v: &View<'_>) {
    if profile(errs, v, "appArmorProfile", "AppArmor") {
        let local = v.get("localhostProfile");
        let trimmed = local.str().trim();
        if trimmed.is_empty() {
            errs.required(local.path(), "must be set when AppArmor type is Localhost");
        } else if trimmed != local.str() {
            errs.invalid(local.path(), local.str(), "must not be padded with whitespace");
        }
        if local.len() > 4095 {
            errs.too_long(local.path(), 4095);
        }
    }
}

/// The security context of a container.
pub fn container(errs: &mut ErrorList, v: &View<'_>, host_users: bool) {
    if !v.is_set() {
        return;
    }
    for field in ["runAsUser", "runAsGroup"] {
        id(errs, &v.get(field));
    }
    let mount = v.get("procMount");
    if mount.is_set() && !matches!(mount.str(), "Default" | "Unmasked") {
        errs.not_supported(mount.path(), mount.str(), &["Default", "Unmasked"]);
    }
    if host_users && mount.str() == "Unmasked" {
        errs.invalid(mount.path(), mount.str(), "`hostUsers` must be false to use `Unmasked`");
    }
    seccomp(errs, &v.get("seccompProfile"));
    if v.get("allowPrivilegeEscalation").bool() == Some(false) {
        if v.get("privileged").is_true() {
            errs.invalid(
                v.path(),
                v.value(),
                "cannot set `allowPrivilegeEscalation` to false and `privileged` to true",
            );
        }
        for capability in v.get("capabilities").items("add") {
            if capability.str() == "CAP_SYS_ADMIN" {
                errs.invalid(
                    v.path(),
                    v.value(),
                    "cannot set `allowPrivilegeEscalation` to false and `capabilities.Add` CAP_SYS_ADMIN",
                );
            }
        }
    }
    app_armor(errs, &v.get("appArmorProfile"));
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use crate::validate::pod_spec::tests::{container_problems, problems};

    #[test]
    fn privileged_containers_may_escalate() {
        assert_eq!(
            container_problems(
                json!({"securityContext": {"privileged": true, "allowPrivilegeEscalation": false, "runAsUser": -1}})
            ),
            [
                "spec.containers[0].securityContext.runAsUser: Invalid value: -1: must be between 0 and 2147483647, inclusive",
                "spec.containers[0].securityContext: Invalid value: {\"allowPrivilegeEscalation\":false,\"privileged\":true,\
                 \"runAsUser\":-1}: cannot set `allowPrivilegeEscalation` to false and `privileged` to true",
            ]
        );
    }

    #[test]
    fn host_ports_are_the_ports_on_the_hosts_network() {
        assert_eq!(
            problems(
                json!({"hostNetwork": true, "containers": [{"name": "c", "image": "i", "ports": [{"containerPort": 80, "hostPort": 81}]}],
                "securityContext": {"seccompProfile": {"type": "Localhost"}, "sysctls": [{"name": "net.ipv4.ip_forward", "value": "1"}]}})
            ),
            [
                "spec.containers[0].ports[0].hostPort: Invalid value: 81: must match `containerPort` when `hostNetwork` is true",
                "spec.securityContext.sysctls[0].name: Invalid value: \"net.ipv4.ip_forward\": may not be specified when \
                 'hostNetwork' is true",
                "spec.securityContext.seccompProfile.localhostProfile: Required value: must be set when seccomp type is Localhost",
            ]
        );
    }
}
