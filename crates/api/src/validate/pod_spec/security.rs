//! Security contexts of pods and containers, host namespaces, sysctls.
//! Upstream: `ValidatePodSecurityContext`, `ValidateSecurityContext`.

use std::collections::BTreeSet;
use std::sync::LazyLock;

use regex::Regex;

use super::{descending_path, os};
use crate::field::{ErrorList, Path};
use crate::object::View;
use crate::validate::internal;

/// User and group numbers are positive 32-bit integers or 0.
pub fn id(errs: &mut ErrorList, v: &View<'_>) {
    if let Some(n) = v.int()
        && !(0..=i64::from(i32::MAX)).contains(&n)
    {
        errs.invalid(v.path(), n, "must be between 0 and 2147483647, inclusive");
    }
}

/// Users of its own do not go with the host's namespaces. Upstream: `validateHostUsers`, whose paths these are.
pub fn host_users(errs: &mut ErrorList, spec: &View<'_>) {
    if spec.get("hostUsers").bool() != Some(false) {
        return;
    }
    for (field, shown) in [("hostNetwork", "hostNetwork"), ("hostPID", "HostPID"), ("hostIPC", "HostIPC")] {
        if spec.get(field).is_true() {
            errs.forbidden(&spec.path().child(shown), "when `pod.Spec.HostUsers` is false");
        }
    }
}

/// What a pod says of its containers' security.
pub fn pod(errs: &mut ErrorList, spec: &View<'_>) {
    let v = spec.get("securityContext");
    for field in ["fsGroup", "runAsUser", "runAsGroup"] {
        id(errs, &v.get(field));
    }
    for group in v.items("supplementalGroups") {
        id(errs, &group);
    }
    if spec.get("hostPID").is_true() && spec.get("shareProcessNamespace").is_true() {
        errs.invalid(
            &v.path().child("shareProcessNamespace"),
            true,
            "ShareProcessNamespace and HostPID cannot both be enabled",
        );
    }
    sysctls(errs, &v.get("sysctls"), spec);
    policy(errs, &v.get("fsGroupChangePolicy"), &["Always", "OnRootMismatch"]);
    seccomp(errs, &v.get("seccompProfile"));
    os::windows_options(errs, &v.get("windowsOptions"));
    app_armor(errs, &v.get("appArmorProfile"));
    policy(errs, &v.get("supplementalGroupsPolicy"), &["Merge", "Strict"]);
    // `MountOption` comes with `SELinuxMount`, which is off.
    policy(errs, &v.get("seLinuxChangePolicy"), &["Recursive"]);
}

fn policy(errs: &mut ErrorList, v: &View<'_>, supported: &[&str]) {
    if v.is_set() && !supported.contains(&v.str()) {
        errs.not_supported(v.path(), v.str(), supported);
    }
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
        } else if name.len() > 253 || !RE.is_match(name.str()) {
            errs.invalid(
                name.path(),
                name.str(),
                format!("must have at most 253 characters and match regex ^({SEGMENT}[\\./])*{SEGMENT}$"),
            );
        } else if !seen.insert(name.str()) {
            errs.duplicate(name.path(), name.str());
        }
        let dotted = name.str().replace('/', ".");
        let ipc =
            ["kernel.shm", "kernel.msg", "fs.mqueue."].iter().any(|p| dotted.starts_with(p)) || dotted == "kernel.sem";
        if spec.get("hostNetwork").is_true() && dotted.starts_with("net.") {
            errs.invalid(name.path(), name.str(), "may not be specified when 'hostNetwork' is true");
        } else if spec.get("hostIPC").is_true() && ipc {
            errs.invalid(name.path(), name.str(), "may not be specified when 'hostIPC' is true");
        }
    }
}

const PROFILE_TYPES: [&str; 3] = ["Localhost", "RuntimeDefault", "Unconfined"];

/// Upstream: `validateSeccompProfileField`.
fn seccomp(errs: &mut ErrorList, v: &View<'_>) {
    if !v.is_set() {
        return;
    }
    let (ty, local) = (v.get("type"), v.get("localhostProfile"));
    if ty.str().is_empty() {
        errs.required(ty.path(), "type is required when seccompProfile is set");
    } else if !PROFILE_TYPES.contains(&ty.str()) {
        errs.not_supported(ty.path(), ty.str(), &PROFILE_TYPES);
    }
    if ty.str() != "Localhost" {
        if local.is_set() {
            let shown = internal::shown(internal::PROFILE, v.value());
            errs.invalid(local.path(), shown, "can only be set when seccomp type is Localhost");
        }
    } else if local.is_set() {
        descending_path(errs, local.path(), local.str());
    } else {
        errs.required(local.path(), "must be set when seccomp type is Localhost");
    }
}

/// Upstream: `ValidateAppArmorProfileField`.
fn app_armor(errs: &mut ErrorList, v: &View<'_>) {
    if !v.is_set() {
        return;
    }
    let (ty, local) = (v.get("type"), v.get("localhostProfile"));
    match ty.str() {
        "Localhost" => {
            let trimmed = local.str().trim();
            if local.is_set() && trimmed != local.str() {
                errs.invalid(local.path(), local.str(), "must not be padded with whitespace");
            } else if trimmed.is_empty() {
                errs.required(local.path(), "must be set when AppArmor type is Localhost");
            }
            if local.len() > 4095 {
                errs.too_long(local.path(), 4095);
            }
        }
        "RuntimeDefault" | "Unconfined" => {
            if local.is_set() {
                errs.invalid(local.path(), local.str(), "can only be set when AppArmor type is Localhost");
            }
        }
        "" => errs.required(ty.path(), "type is required when appArmorProfile is set"),
        other => errs.not_supported(ty.path(), other, &PROFILE_TYPES),
    }
}

const SECCOMP_POD: &str = "seccomp.security.alpha.kubernetes.io/pod";
const SECCOMP_CONTAINER: &str = "container.seccomp.security.alpha.kubernetes.io/";
const APP_ARMOR: &str = "container.apparmor.security.beta.kubernetes.io/";

/// Annotations that were fields once. Upstream: `ValidateSeccompPodAnnotations`, `ValidateAppArmorPodAnnotations`.
pub fn annotations(errs: &mut ErrorList, annotations: &View<'_>, spec: &View<'_>) {
    let profile = |errs: &mut ErrorList, key: &str, v: &View<'_>| {
        let path = annotations.path().child(key);
        match v.str().strip_prefix("localhost/") {
            _ if matches!(v.str(), "runtime/default" | "docker/default" | "unconfined") => {}
            Some(file) => descending_path(errs, &path, file),
            None => errs.invalid(&path, v.str(), "must be a valid seccomp profile"),
        }
    };
    if annotations.get(SECCOMP_POD).is_set() {
        profile(errs, SECCOMP_POD, &annotations.get(SECCOMP_POD));
    }
    for (key, v) in annotations.entries().iter().filter(|(key, _)| key.starts_with(SECCOMP_CONTAINER)) {
        profile(errs, key, v);
    }
    for (key, v) in annotations.entries() {
        let Some(container) = key.strip_prefix(APP_ARMOR) else { continue };
        if !os::containers(spec).iter().any(|c| c.get("name").str() == container) {
            errs.invalid(v.path(), container, "container not found");
        }
        if !matches!(v.str(), "" | "runtime/default" | "unconfined") && !v.str().starts_with("localhost/") {
            let problem = format!("invalid AppArmor profile name: {}", crate::field::quote(v.str()));
            errs.invalid(v.path(), v.str(), problem);
        }
    }
}

/// Where both an annotation and a field name a profile, they name the same one. Upstream:
/// `validateSeccompAnnotationsAndFields`, `validateAppArmorAnnotationsAndFieldsMatchOnCreate`.
pub fn annotations_match(errs: &mut ErrorList, annotations: &View<'_>, spec: &View<'_>) {
    const SECCOMP: &str = "seccompProfile";
    let of_pod = spec.get("securityContext");
    one_matches(errs, "seccomp", &annotations.get(SECCOMP_POD), &of_pod.get(SECCOMP), of_pod.get(SECCOMP).path());
    for container in os::containers(spec) {
        let annotation = annotations.get_named(&format!("{SECCOMP_CONTAINER}{}", container.get("name").str()));
        let field = container.get("securityContext").get(SECCOMP);
        one_matches(errs, "seccomp", &annotation, &field, field.path());
    }
    if spec.dig("os.name").str() == "windows" {
        return;
    }
    for container in os::containers(spec) {
        let annotation = annotations.get_named(&format!("{APP_ARMOR}{}", container.get("name").str()));
        let own = container.dig("securityContext.appArmorProfile");
        let field = if own.is_set() { own.clone() } else { of_pod.get("appArmorProfile") };
        one_matches(errs, "apparmor", &annotation, &field, own.path());
    }
}

fn one_matches(errs: &mut ErrorList, what: &str, annotation: &View<'_>, field: &View<'_>, path: &Path) {
    if !annotation.is_set() || !field.is_set() {
        return;
    }
    let text = annotation.str();
    let same_type = match field.get("type").str() {
        "Unconfined" => text == "unconfined",
        "RuntimeDefault" => text == "runtime/default" || (what == "seccomp" && text == "docker/default"),
        "Localhost" => text.starts_with("localhost/"),
        _ => true,
    };
    if !same_type {
        errs.forbidden(&path.child("type"), format!("{what} type in annotation and field must match"));
    } else if field.get("type").str() == "Localhost"
        && text.strip_prefix("localhost/") != field.get("localhostProfile").opt_str()
    {
        errs.forbidden(&path.child("localhostProfile"), format!("{what} profile in annotation and field must match"));
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
            let problem = "cannot set `allowPrivilegeEscalation` to false and `privileged` to true";
            errs.invalid(v.path(), internal::shown(internal::SECURITY_CONTEXT, v.value()), problem);
        }
        for capability in v.get("capabilities").items("add") {
            if capability.str() == "CAP_SYS_ADMIN" {
                let problem = "cannot set `allowPrivilegeEscalation` to false and `capabilities.Add` CAP_SYS_ADMIN";
                errs.invalid(v.path(), internal::shown(internal::SECURITY_CONTEXT, v.value()), problem);
            }
        }
    }
    os::windows_options(errs, &v.get("windowsOptions"));
    app_armor(errs, &v.get("appArmorProfile"));
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::validate::pod_spec::tests::{container_problems, problems};

    #[test]
    fn privileged_containers_may_escalate() {
        assert_eq!(
            container_problems(
                json!({"securityContext": {"privileged": true, "allowPrivilegeEscalation": false, "runAsUser": -1}})
            ),
            [
                "spec.containers[0].securityContext.runAsUser: Invalid value: -1: must be between 0 and 2147483647, inclusive",
                "spec.containers[0].securityContext: Invalid value: {\"Capabilities\":null,\"Privileged\":true,\
                 \"SELinuxOptions\":null,\"WindowsOptions\":null,\"RunAsUser\":-1,\"RunAsGroup\":null,\"RunAsNonRoot\":null,\
                 \"ReadOnlyRootFilesystem\":null,\"AllowPrivilegeEscalation\":false,\"ProcMount\":null,\
                 \"SeccompProfile\":null,\"AppArmorProfile\":null}: cannot set `allowPrivilegeEscalation` to false and `privileged` to true",
            ]
        );
    }

    #[test]
    fn old_annotations_agree_with_the_fields() {
        let pod = json!({"metadata": {"annotations": {
            "seccomp.security.alpha.kubernetes.io/pod": "unconfined",
            "container.seccomp.security.alpha.kubernetes.io/c": "nonsense",
            "container.apparmor.security.beta.kubernetes.io/c": "localhost/a",
            "container.apparmor.security.beta.kubernetes.io/x": "nonsense"}},
            "spec": {"securityContext": {"seccompProfile": {"type": "RuntimeDefault"}}, "containers": [{"name": "c",
                "securityContext": {"appArmorProfile": {"type": "Localhost", "localhostProfile": "b"}}}]}});
        let root = View::root(&pod);
        let (notes, spec) = (root.dig("metadata.annotations"), root.get("spec"));
        let mut errs = ErrorList::new();
        annotations(&mut errs, &notes, &spec);
        annotations_match(&mut errs, &notes, &spec);
        assert_eq!(
            crate::validate::testing::texts(&errs),
            [
                "metadata.annotations.container.seccomp.security.alpha.kubernetes.io/c: Invalid value: \"nonsense\": must be a \
                 valid seccomp profile",
                "metadata.annotations[container.apparmor.security.beta.kubernetes.io/x]: Invalid value: \"x\": container not found",
                "metadata.annotations[container.apparmor.security.beta.kubernetes.io/x]: Invalid value: \"nonsense\": invalid \
                 AppArmor profile name: \"nonsense\"",
                "spec.securityContext.seccompProfile.type: Forbidden: seccomp type in annotation and field must match",
                "spec.containers[0].securityContext.appArmorProfile.localhostProfile: Forbidden: apparmor profile in annotation \
                 and field must match",
            ]
        );
    }

    #[test]
    fn profiles_and_policies_are_of_those_there_are() {
        assert_eq!(
            problems(json!({"containers": [{"name": "c", "image": "i"}], "hostUsers": false, "hostNetwork": true,
                "securityContext": {"seccompProfile": {"type": "Unconfined", "localhostProfile": "x"},
                    "seLinuxChangePolicy": "MountOption", "appArmorProfile": {"localhostProfile": "x"}}})),
            [
                "spec.securityContext.seccompProfile.localhostProfile: Invalid value: {\"Type\":\"Unconfined\",\
                 \"LocalhostProfile\":\"x\"}: can only be set when seccomp type is Localhost",
                "spec.securityContext.appArmorProfile.type: Required value: type is required when appArmorProfile is set",
                "spec.securityContext.seLinuxChangePolicy: Unsupported value: \"MountOption\": supported values: \"Recursive\"",
                "spec.hostNetwork: Forbidden: when `pod.Spec.HostUsers` is false",
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
