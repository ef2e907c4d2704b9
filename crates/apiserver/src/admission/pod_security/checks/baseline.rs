//! The checks of the baseline level.

use std::collections::BTreeSet;

use serde_json::Value;

use super::super::super::items;
use super::{Pod, Violation, containers, plural, quoted, setters, texts};

const DEFAULT_CAPABILITIES: [&str; 13] = [
    "AUDIT_WRITE",
    "CHOWN",
    "DAC_OVERRIDE",
    "FOWNER",
    "FSETID",
    "KILL",
    "MKNOD",
    "NET_BIND_SERVICE",
    "SETFCAP",
    "SETGID",
    "SETPCAP",
    "SETUID",
    "SYS_CHROOT",
];

pub(super) fn app_armor(pod: &Pod<'_>) -> Option<Violation> {
    let bad = |context: &Value| {
        let kind = context["appArmorProfile"]["type"].as_str();
        context["appArmorProfile"].is_object() && !matches!(kind, Some("RuntimeDefault" | "Localhost"))
    };
    let mut values: BTreeSet<String> = BTreeSet::new();
    let contexts = std::iter::once(pod.context()).chain(pod.containers().map(|c| &c["securityContext"]));
    for context in contexts.filter(|c| bad(c)) {
        values.insert(context["appArmorProfile"]["type"].as_str().unwrap_or_default().to_owned());
    }
    let names = pod.bad(|c| bad(&c["securityContext"]));
    let mut who: Vec<String> = setters(bad(pod.context()), &names).into_iter().collect();
    let mut values: Vec<String> = values.into_iter().collect();
    let allowed = |v: &str| v.is_empty() || v == "runtime/default" || v.starts_with("localhost/");
    let annotations = pod.annotations.as_object().into_iter().flatten();
    let forbidden: BTreeSet<String> = annotations
        .filter_map(|(k, v)| Some((k, v.as_str()?)))
        .filter(|(k, v)| k.starts_with("container.apparmor.security.beta.kubernetes.io/") && !allowed(v))
        .map(|(k, v)| format!("{k}={v:?}"))
        .collect();
    if !forbidden.is_empty() {
        who.push(plural("annotation", "annotations", forbidden.len()).to_owned());
        values.extend(forbidden);
    }
    if who.is_empty() {
        return None;
    }
    let reason = plural("forbidden AppArmor profile", "forbidden AppArmor profiles", values.len());
    let detail = format!(
        "{} must not set AppArmor profile type to {}",
        who.join(" and "),
        quoted(values.iter().map(String::as_str))
    );
    Violation::new(reason, detail)
}

pub(super) fn capabilities(pod: &Pod<'_>) -> Option<Violation> {
    let extra = |c: &Value| -> BTreeSet<String> {
        let added = texts(&c["securityContext"]["capabilities"]["add"]);
        added.filter(|a| !DEFAULT_CAPABILITIES.contains(a)).map(str::to_owned).collect()
    };
    let names = pod.bad(|c| !extra(c).is_empty());
    if names.is_empty() {
        return None;
    }
    let all: BTreeSet<String> = pod.containers().flat_map(extra).collect();
    let detail = format!(
        "{} must not include {} in securityContext.capabilities.add",
        containers(&names),
        quoted(all.iter().map(String::as_str))
    );
    Violation::new("non-default capabilities", detail)
}

pub(super) fn host_namespaces(pod: &Pod<'_>) -> Option<Violation> {
    let shared: Vec<String> = ["hostNetwork", "hostPID", "hostIPC"]
        .into_iter()
        .filter(|field| pod.spec[*field] == true)
        .map(|field| format!("{field}=true"))
        .collect();
    if shared.is_empty() { None } else { Violation::new("host namespaces", shared.join(", ")) }
}

pub(super) fn host_path_volumes(pod: &Pod<'_>) -> Option<Violation> {
    let volumes = items(&pod.spec["volumes"]).iter().filter(|v| v["hostPath"].is_object());
    let names: Vec<&str> = volumes.filter_map(|v| v["name"].as_str()).collect();
    if names.is_empty() {
        return None;
    }
    let detail = format!("{} {}", plural("volume", "volumes", names.len()), quoted(names));
    Violation::new("hostPath volumes", detail)
}

pub(super) fn host_ports(pod: &Pod<'_>) -> Option<Violation> {
    let ports = |c: &Value| -> BTreeSet<String> {
        let ports = items(&c["ports"]).iter().filter_map(|p| p["hostPort"].as_i64());
        ports.filter(|p| *p != 0).map(|p| p.to_string()).collect()
    };
    let names = pod.bad(|c| !ports(c).is_empty());
    if names.is_empty() {
        return None;
    }
    let all: BTreeSet<String> = pod.containers().flat_map(ports).collect();
    let detail = format!(
        "{} {} {} {}",
        containers(&names),
        plural("uses", "use", names.len()),
        plural("hostPort", "hostPorts", all.len()),
        all.into_iter().collect::<Vec<_>>().join(", ")
    );
    Violation::new("hostPort", detail)
}

pub(super) fn host_probes(pod: &Pod<'_>) -> Option<Violation> {
    let hosts = |c: &Value| -> BTreeSet<String> {
        let (probes, hooks) = (["livenessProbe", "readinessProbe", "startupProbe"], ["postStart", "preStop"]);
        let handlers = probes.iter().map(|p| &c[*p]).chain(hooks.iter().map(|h| &c["lifecycle"][*h]));
        let hosts = handlers.flat_map(|h| [&h["httpGet"]["host"], &h["tcpSocket"]["host"]]);
        hosts.filter_map(Value::as_str).filter(|h| !h.is_empty()).map(str::to_owned).collect()
    };
    let names: BTreeSet<&str> = pod.bad(|c| !hosts(c).is_empty()).into_iter().collect();
    if names.is_empty() {
        return None;
    }
    let names: Vec<&str> = names.into_iter().collect();
    let all: BTreeSet<String> = pod.containers().flat_map(hosts).collect();
    let detail = format!(
        "{} {} {} {}",
        containers(&names),
        plural("uses", "use", names.len()),
        plural("probe or lifecycle host", "probe or lifecycle hosts", all.len()),
        quoted(all.iter().map(String::as_str))
    );
    Violation::new("probe or lifecycle host", detail)
}

pub(super) fn privileged(pod: &Pod<'_>) -> Option<Violation> {
    let names = pod.bad(|c| c["securityContext"]["privileged"] == true);
    if names.is_empty() {
        return None;
    }
    let detail = format!("{} must not set securityContext.privileged=true", containers(&names));
    Violation::new("privileged", detail)
}

pub(super) fn proc_mount(pod: &Pod<'_>) -> Option<Violation> {
    let mount = |c: &Value| c["securityContext"]["procMount"].as_str().filter(|m| *m != "Default").map(str::to_owned);
    let names = pod.bad(|c| mount(c).is_some());
    if names.is_empty() {
        return None;
    }
    let all: BTreeSet<String> = pod.containers().filter_map(mount).collect();
    let detail = format!(
        "{} must not set securityContext.procMount to {}",
        containers(&names),
        quoted(all.iter().map(String::as_str))
    );
    Violation::new("procMount", detail)
}

pub(super) fn proc_mount_35(pod: &Pod<'_>) -> Option<Violation> {
    if pod.in_user_namespace() { None } else { proc_mount(pod) }
}

fn selinux_with(pod: &Pod<'_>, types: &[&str]) -> Option<Violation> {
    let text = |options: &Value, field: &str| options[field].as_str().unwrap_or_default().to_owned();
    let bad = |context: &Value| {
        let options = &context["seLinuxOptions"];
        let kind = text(options, "type");
        (!kind.is_empty() && !types.contains(&kind.as_str()))
            || !text(options, "user").is_empty()
            || !text(options, "role").is_empty()
    };
    let names = pod.bad(|c| bad(&c["securityContext"]));
    let who = setters(bad(pod.context()), &names)?;
    let contexts = || std::iter::once(pod.context()).chain(pod.containers().map(|c| &c["securityContext"]));
    let any = |field: &str| contexts().any(|c| !text(&c["seLinuxOptions"], field).is_empty());
    let wrong: BTreeSet<String> = contexts()
        .map(|c| text(&c["seLinuxOptions"], "type"))
        .filter(|t| !t.is_empty() && !types.contains(&t.as_str()))
        .collect();
    let mut data = Vec::new();
    if !wrong.is_empty() {
        data.push(format!("{} {}", plural("type", "types", wrong.len()), quoted(wrong.iter().map(String::as_str))));
    }
    for field in ["user", "role"] {
        if any(field) {
            data.push(format!("{field} may not be set"));
        }
    }
    let detail = format!("{who} set forbidden securityContext.seLinuxOptions: {}", data.join("; "));
    Violation::new("seLinuxOptions", detail)
}

pub(super) fn selinux(pod: &Pod<'_>) -> Option<Violation> {
    selinux_with(pod, &["container_t", "container_init_t", "container_kvm_t"])
}

pub(super) fn selinux_31(pod: &Pod<'_>) -> Option<Violation> {
    selinux_with(pod, &["container_t", "container_init_t", "container_kvm_t", "container_engine_t"])
}

/// Annotations stood for the field before 1.19.
pub(super) fn seccomp_annotations(pod: &Pod<'_>) -> Option<Violation> {
    let pod_key = "seccomp.security.alpha.kubernetes.io/pod".to_owned();
    let keys = pod.containers().filter_map(|c| c["name"].as_str());
    let keys = keys.map(|name| format!("container.seccomp.security.alpha.kubernetes.io/{name}"));
    let valid = |v: &str| v == "runtime/default" || v == "docker/default" || v.starts_with("localhost/");
    let forbidden: BTreeSet<String> = std::iter::once(pod_key)
        .chain(keys)
        .filter_map(|key| {
            let value = pod.annotations.get(&key)?.as_str()?;
            (!valid(value)).then(|| format!("{key}={value:?}"))
        })
        .collect();
    if forbidden.is_empty() {
        return None;
    }
    let detail = format!(
        "forbidden {} {}",
        plural("annotation", "annotations", forbidden.len()),
        forbidden.iter().cloned().collect::<Vec<_>>().join(", ")
    );
    Violation::new("seccompProfile", detail)
}

/// The type of a profile that may not be, where there is one.
pub(super) fn bad_seccomp(context: &Value) -> Option<&str> {
    let profile = &context["seccompProfile"];
    let kind = profile["type"].as_str().unwrap_or_default();
    (profile.is_object() && !matches!(kind, "Localhost" | "RuntimeDefault")).then_some(kind)
}

pub(super) fn seccomp(pod: &Pod<'_>) -> Option<Violation> {
    let names = pod.bad(|c| bad_seccomp(&c["securityContext"]).is_some());
    let who = setters(bad_seccomp(pod.context()).is_some(), &names)?;
    let contexts = std::iter::once(pod.context()).chain(pod.containers().map(|c| &c["securityContext"]));
    let values: BTreeSet<&str> = contexts.filter_map(bad_seccomp).collect();
    let detail = format!("{who} must not set securityContext.seccompProfile.type to {}", quoted(values));
    Violation::new("seccompProfile", detail)
}

const SYSCTLS: [&str; 12] = [
    "kernel.shm_rmid_forced",
    "net.ipv4.ip_local_port_range",
    "net.ipv4.tcp_syncookies",
    "net.ipv4.ping_group_range",
    "net.ipv4.ip_unprivileged_port_start",
    "net.ipv4.ip_local_reserved_ports",
    "net.ipv4.tcp_keepalive_time",
    "net.ipv4.tcp_fin_timeout",
    "net.ipv4.tcp_keepalive_intvl",
    "net.ipv4.tcp_keepalive_probes",
    "net.ipv4.tcp_rmem",
    "net.ipv4.tcp_wmem",
];

fn sysctls_with(pod: &Pod<'_>, count: usize) -> Option<Violation> {
    let names = items(&pod.context()["sysctls"]).iter().filter_map(|s| s["name"].as_str());
    let forbidden: Vec<&str> = names.filter(|name| !SYSCTLS[..count].contains(name)).collect();
    if forbidden.is_empty() { None } else { Violation::new("forbidden sysctls", forbidden.join(", ")) }
}

pub(super) fn sysctls(pod: &Pod<'_>) -> Option<Violation> {
    sysctls_with(pod, 5)
}

pub(super) fn sysctls_27(pod: &Pod<'_>) -> Option<Violation> {
    sysctls_with(pod, 6)
}

pub(super) fn sysctls_29(pod: &Pod<'_>) -> Option<Violation> {
    sysctls_with(pod, 10)
}

pub(super) fn sysctls_32(pod: &Pod<'_>) -> Option<Violation> {
    sysctls_with(pod, 12)
}

pub(super) fn windows_host_process(pod: &Pod<'_>) -> Option<Violation> {
    let host = |context: &Value| context["windowsOptions"]["hostProcess"] == true;
    let names = pod.bad(|c| host(&c["securityContext"]));
    let who = setters(host(pod.context()), &names)?;
    Violation::new("hostProcess", format!("{who} must not set securityContext.windowsOptions.hostProcess=true"))
}
