//! Pods and containers in the runtime's words (pure): sandbox configuration, container configuration, security.
//! Follows upstream `pkg/kubelet/kuberuntime/{kuberuntime_sandbox,kuberuntime_container,security_context}*.go`.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};

use k8s_openapi::api::core::v1::{Capabilities, Container, Pod, SELinuxOptions, SeccompProfile};
use orkd_cri::v1;

use crate::env::expand;
use crate::pod::{self, Kind, container_hash, keys};
use crate::{dns, resources};

/// Paths a container does not see, unless its procMount says otherwise.
const MASKED_PATHS: [&str; 11] = [
    "/proc/asound",
    "/proc/acpi",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/sys/firmware",
];
/// Paths a container may only read.
const READONLY_PATHS: [&str; 5] = ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

/// What a sandbox depends on besides its pod.
#[derive(Debug, Clone, Default)]
pub struct SandboxFacts {
    /// `/var/log/pods`.
    pub log_dir: PathBuf,
    /// The pod's cgroup.
    pub cgroup_parent: String,
    /// The host's resolv.conf.
    pub host_dns: v1::DnsConfig,
    /// Addresses of the cluster's DNS.
    pub cluster_dns: Vec<String>,
    /// The cluster's domain.
    pub cluster_domain: String,
    /// Where seccomp profiles of type Localhost are.
    pub seccomp_dir: PathBuf,
}

/// The folder of a pod's logs.
pub fn log_directory(log_dir: &Path, pod: &Pod) -> PathBuf {
    log_dir.join(format!("{}_{}_{}", pod::namespace(pod), pod::name(pod), pod::uid(pod)))
}

fn namespaces(pod: &Pod, target: Option<&str>) -> v1::NamespaceOption {
    let spec = pod::spec(pod);
    let node_if = |on: Option<bool>, otherwise: v1::NamespaceMode| {
        i32::from(if on == Some(true) { v1::NamespaceMode::Node } else { otherwise })
    };
    let pid = match target {
        Some(_) => v1::NamespaceMode::Target.into(),
        None if spec.host_pid != Some(true) && spec.share_process_namespace == Some(true) => {
            v1::NamespaceMode::Pod.into()
        }
        None => node_if(spec.host_pid, v1::NamespaceMode::Container),
    };
    v1::NamespaceOption {
        network: node_if(spec.host_network, v1::NamespaceMode::Pod),
        pid,
        ipc: node_if(spec.host_ipc, v1::NamespaceMode::Pod),
        target_id: target.unwrap_or_default().to_owned(),
        userns_options: None,
    }
}

fn seccomp(profile: Option<&SeccompProfile>, seccomp_dir: &Path) -> v1::SecurityProfile {
    use v1::security_profile::ProfileType;
    let (kind, reference) = match profile.map(|p| p.type_.as_str()) {
        Some("RuntimeDefault") => (ProfileType::RuntimeDefault, String::new()),
        Some("Localhost") => {
            let name = profile.and_then(|p| p.localhost_profile.as_deref()).unwrap_or_default();
            (ProfileType::Localhost, seccomp_dir.join(name).to_string_lossy().into_owned())
        }
        _ => (ProfileType::Unconfined, String::new()),
    };
    v1::SecurityProfile { profile_type: kind.into(), localhost_ref: reference }
}

fn selinux(options: Option<&SELinuxOptions>) -> Option<v1::SeLinuxOption> {
    let o = options?;
    let text = |t: &Option<String>| t.clone().unwrap_or_default();
    Some(v1::SeLinuxOption { user: text(&o.user), role: text(&o.role), r#type: text(&o.type_), level: text(&o.level) })
}

fn int(value: Option<i64>) -> Option<v1::Int64Value> {
    value.map(|value| v1::Int64Value { value })
}

/// Supplemental groups of every process of the pod: those listed and the fsGroup.
fn groups(pod: &Pod) -> Vec<i64> {
    let spec = pod::spec(pod);
    let Some(security) = &spec.security_context else { return Vec::new() };
    security.fs_group.into_iter().chain(security.supplemental_groups.iter().flatten().copied()).collect()
}

fn groups_policy(pod: &Pod) -> i32 {
    let spec = pod::spec(pod);
    match spec.security_context.as_ref().and_then(|s| s.supplemental_groups_policy.as_deref()) {
        Some("Strict") => v1::SupplementalGroupsPolicy::Strict.into(),
        _ => v1::SupplementalGroupsPolicy::Merge.into(),
    }
}

/// The configuration of a pod's sandbox.
pub fn sandbox_config(pod: &Pod, attempt: u32, facts: &SandboxFacts) -> v1::PodSandboxConfig {
    let spec = pod::spec(pod);
    let mut labels: HashMap<String, String> = pod.metadata.labels.clone().into_iter().flatten().collect();
    for (key, value) in
        [(keys::POD_NAME, pod::name(pod)), (keys::POD_NAMESPACE, pod::namespace(pod)), (keys::POD_UID, pod::uid(pod))]
    {
        labels.insert(key.to_owned(), value.to_owned());
    }
    let sidecars = spec.init_containers.iter().flatten().filter(|c| pod::is_sidecar(c));
    let ports = spec.containers.iter().chain(sidecars).flat_map(|c| c.ports.iter().flatten());
    let port_mappings = ports
        .filter(|p| p.host_port.is_some_and(|h| h > 0) && !pod::host_network(pod))
        .map(|p| v1::PortMapping {
            protocol: match p.protocol.as_deref() {
                Some("UDP") => v1::Protocol::Udp,
                Some("SCTP") => v1::Protocol::Sctp,
                _ => v1::Protocol::Tcp,
            }
            .into(),
            container_port: p.container_port,
            host_port: p.host_port.unwrap_or_default(),
            host_ip: p.host_ip.clone().unwrap_or_default(),
        })
        .collect();
    let security = spec.security_context.as_ref();
    let all = pod::all_containers(&spec);
    let privileged = all.iter().any(|(_, c)| c.security_context.as_ref().is_some_and(|s| s.privileged == Some(true)));
    let sysctls = security.and_then(|s| s.sysctls.as_ref()).into_iter().flatten();
    let hostname = match pod::host_network(pod) {
        true => String::new(),
        false => {
            let (host, domain) = dns::hostname(pod, &facts.cluster_domain);
            match spec.set_hostname_as_fqdn == Some(true) && !domain.is_empty() {
                true => format!("{host}.{domain}"),
                false => host,
            }
        }
    };
    v1::PodSandboxConfig {
        metadata: Some(v1::PodSandboxMetadata {
            name: pod::name(pod).to_owned(),
            uid: pod::uid(pod).to_owned(),
            namespace: pod::namespace(pod).to_owned(),
            attempt,
        }),
        hostname,
        log_directory: log_directory(&facts.log_dir, pod).to_string_lossy().into_owned(),
        dns_config: Some(dns::config(pod, &facts.host_dns, &facts.cluster_dns, &facts.cluster_domain)),
        port_mappings,
        labels,
        annotations: pod.metadata.annotations.clone().into_iter().flatten().collect(),
        linux: Some(v1::LinuxPodSandboxConfig {
            cgroup_parent: facts.cgroup_parent.clone(),
            security_context: Some(v1::LinuxSandboxSecurityContext {
                namespace_options: Some(namespaces(pod, None)),
                selinux_options: selinux(security.and_then(|s| s.se_linux_options.as_ref())),
                run_as_user: int(security.and_then(|s| s.run_as_user)),
                run_as_group: int(security.and_then(|s| s.run_as_user.and(s.run_as_group))),
                supplemental_groups: groups(pod),
                supplemental_groups_policy: groups_policy(pod),
                privileged,
                // The pause process needs no more than the default allows.
                seccomp: Some(v1::SecurityProfile {
                    profile_type: v1::security_profile::ProfileType::RuntimeDefault.into(),
                    localhost_ref: String::new(),
                }),
                ..v1::LinuxSandboxSecurityContext::default()
            }),
            sysctls: sysctls.map(|s| (s.name.clone(), s.value.clone())).collect(),
            ..v1::LinuxPodSandboxConfig::default()
        }),
    }
}

fn capabilities(c: Option<&Capabilities>) -> Option<v1::Capability> {
    let c = c?;
    let list = |l: &Option<Vec<String>>| l.clone().unwrap_or_default();
    Some(v1::Capability {
        add_capabilities: list(&c.add),
        drop_capabilities: list(&c.drop),
        add_ambient_capabilities: Vec::new(),
    })
}

/// The security of a container: its own settings over its pod's. `image_user` is what the image says.
pub fn security(
    pod: &Pod,
    container: &Container,
    image_user: (Option<i64>, &str),
    target: Option<&str>,
    seccomp_dir: &Path,
) -> v1::LinuxContainerSecurityContext {
    let spec = pod::spec(pod);
    let whole = spec.security_context.as_ref();
    let own = container.security_context.as_ref();
    let user = own.and_then(|s| s.run_as_user).or_else(|| whole.and_then(|s| s.run_as_user));
    let group = own.and_then(|s| s.run_as_group).or_else(|| whole.and_then(|s| s.run_as_group));
    let privileged = own.is_some_and(|s| s.privileged == Some(true));
    let profile =
        own.and_then(|s| s.seccomp_profile.as_ref()).or_else(|| whole.and_then(|s| s.seccomp_profile.as_ref()));
    let se = own.and_then(|s| s.se_linux_options.as_ref()).or_else(|| whole.and_then(|s| s.se_linux_options.as_ref()));
    let unmasked = own.is_some_and(|s| s.proc_mount.as_deref() == Some("Unmasked"));
    let paths = |list: &[&str]| match unmasked || privileged {
        true => Vec::new(),
        false => list.iter().map(|p| (*p).to_owned()).collect(),
    };
    let app_armor =
        own.and_then(|s| s.app_armor_profile.as_ref()).or_else(|| whole.and_then(|s| s.app_armor_profile.as_ref()));
    let app_armor = app_armor.map(|p| {
        use v1::security_profile::ProfileType;
        let kind = match p.type_.as_str() {
            "Localhost" => ProfileType::Localhost,
            "Unconfined" => ProfileType::Unconfined,
            _ => ProfileType::RuntimeDefault,
        };
        let localhost_ref = p.localhost_profile.clone().unwrap_or_default();
        v1::SecurityProfile { profile_type: kind.into(), localhost_ref }
    });
    v1::LinuxContainerSecurityContext {
        capabilities: capabilities(own.and_then(|s| s.capabilities.as_ref())),
        privileged,
        namespace_options: Some(namespaces(pod, target)),
        selinux_options: selinux(se),
        run_as_user: int(user.or(image_user.0)),
        run_as_group: int(group),
        run_as_username: if user.or(image_user.0).is_none() { image_user.1.to_owned() } else { String::new() },
        readonly_rootfs: own.is_some_and(|s| s.read_only_root_filesystem == Some(true)),
        supplemental_groups: groups(pod),
        supplemental_groups_policy: groups_policy(pod),
        no_new_privs: own.is_some_and(|s| s.allow_privilege_escalation == Some(false)),
        masked_paths: paths(&MASKED_PATHS),
        readonly_paths: paths(&READONLY_PATHS),
        seccomp: Some(match privileged {
            true => seccomp(None, seccomp_dir),
            false => seccomp(profile, seccomp_dir),
        }),
        apparmor: app_armor,
        ..v1::LinuxContainerSecurityContext::default()
    }
}

/// Checks `runAsNonRoot`. The text is upstream's.
pub fn verify_non_root(pod: &Pod, container: &Container, image_user: (Option<i64>, &str)) -> Result<(), String> {
    let spec = pod::spec(pod);
    let whole = spec.security_context.as_ref();
    let own = container.security_context.as_ref();
    let wanted = own.and_then(|s| s.run_as_non_root).or_else(|| whole.and_then(|s| s.run_as_non_root));
    if wanted != Some(true) {
        return Ok(());
    }
    let at = format!("(pod: {:?}, container: {})", pod::full_name(pod), container.name);
    let user = own.and_then(|s| s.run_as_user).or_else(|| whole.and_then(|s| s.run_as_user));
    match (user, image_user) {
        (Some(0), _) => Err(format!("container's runAsUser breaks non-root policy {at}")),
        (Some(_), _) => Ok(()),
        (None, (Some(0), _)) => Err(format!("container has runAsNonRoot and image will run as root {at}")),
        (None, (None, name)) if !name.is_empty() => Err(format!(
            "container has runAsNonRoot and image has non-numeric user ({name}), cannot verify user is non-root {at}"
        )),
        (None, (None, _)) => Err(format!("container has runAsNonRoot and image will run as root {at}")),
        (None, _) => Ok(()),
    }
}

/// What a container depends on besides its pod.
#[derive(Debug, Clone, Default)]
pub struct ContainerFacts {
    /// Ordinary, init or ephemeral.
    pub kind: Option<Kind>,
    /// How often it was restarted.
    pub attempt: u32,
    /// The image's id.
    pub image_ref: String,
    /// The user the image names: (uid, name).
    pub image_user: (Option<i64>, String),
    /// The environment.
    pub env: BTreeMap<String, String>,
    /// Volume mounts, /etc/hosts and the termination log.
    pub mounts: Vec<v1::Mount>,
    /// Memory of the node, for `oom_score_adj`.
    pub memory_capacity: i64,
    /// The container whose processes an ephemeral container sees.
    pub target_id: Option<String>,
    /// Where seccomp profiles of type Localhost are.
    pub seccomp_dir: PathBuf,
    /// Its devices, as the runtime calls them.
    pub devices: Vec<String>,
}

/// The configuration of a container.
pub fn container_config(pod: &Pod, container: &Container, facts: &ContainerFacts) -> v1::ContainerConfig {
    let lookup = |name: &str| facts.env.get(name).cloned();
    let expanded = |list: &Option<Vec<String>>| list.iter().flatten().map(|t| expand(t, &lookup)).collect();
    let labels = [
        (keys::POD_NAME, pod::name(pod)),
        (keys::POD_NAMESPACE, pod::namespace(pod)),
        (keys::POD_UID, pod::uid(pod)),
        (keys::CONTAINER_NAME, container.name.as_str()),
    ];
    let mut annotations = HashMap::from([
        (keys::CONTAINER_HASH.to_owned(), container_hash(container)),
        (keys::RESTART_COUNT.to_owned(), facts.attempt.to_string()),
        (
            keys::TERMINATION_PATH.to_owned(),
            container.termination_message_path.clone().unwrap_or_else(|| "/dev/termination-log".to_owned()),
        ),
        (
            keys::TERMINATION_POLICY.to_owned(),
            container.termination_message_policy.clone().unwrap_or_else(|| "File".to_owned()),
        ),
        (keys::POD_GRACE.to_owned(), pod::grace_period(pod).to_string()),
    ]);
    if let Some(seconds) = pod.metadata.deletion_grace_period_seconds {
        annotations.insert(keys::POD_DELETION_GRACE.to_owned(), seconds.to_string());
    }
    let (uid, name) = &facts.image_user;
    v1::ContainerConfig {
        metadata: Some(v1::ContainerMetadata { name: container.name.clone(), attempt: facts.attempt }),
        image: Some(v1::ImageSpec {
            image: facts.image_ref.clone(),
            user_specified_image: container.image.clone().unwrap_or_default(),
            ..v1::ImageSpec::default()
        }),
        command: expanded(&container.command),
        args: expanded(&container.args),
        working_dir: container.working_dir.clone().unwrap_or_default(),
        envs: facts.env.iter().map(|(k, v)| v1::KeyValue { key: k.clone(), value: v.clone() }).collect(),
        mounts: facts.mounts.clone(),
        cdi_devices: facts.devices.iter().map(|name| v1::CdiDevice { name: name.clone() }).collect(),
        labels: labels.into_iter().map(|(k, v)| (k.to_owned(), v.to_owned())).collect(),
        annotations,
        log_path: format!("{}/{}.log", container.name, facts.attempt),
        stdin: container.stdin == Some(true),
        stdin_once: container.stdin_once == Some(true),
        tty: container.tty == Some(true),
        linux: Some(v1::LinuxContainerConfig {
            resources: Some(resources::container_resources(pod, container, facts.memory_capacity)),
            security_context: Some(security(
                pod,
                container,
                (*uid, name),
                facts.target_id.as_deref(),
                &facts.seccomp_dir,
            )),
        }),
        ..v1::ContainerConfig::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn pod(spec: serde_json::Value) -> Pod {
        let meta = json!({"name": "p", "namespace": "n", "uid": "u"});
        serde_json::from_value(json!({"metadata": meta, "spec": spec})).unwrap_or_default()
    }

    #[test]
    fn non_root_is_verified() {
        let check = |pod_user: Option<i64>, image: (Option<i64>, &str), expected: &str| {
            let pod = pod(json!({"containers": [{"name": "c"}],
                                 "securityContext": {"runAsNonRoot": true, "runAsUser": pod_user}}));
            let spec = pod::spec(&pod);
            let container = spec.containers.first().cloned().unwrap_or_default();
            let text = verify_non_root(&pod, &container, image).err().unwrap_or_default();
            assert_eq!(text.split(" (pod").next(), Some(expected));
        };
        check(Some(1), (Some(0), ""), "");
        check(Some(0), (Some(1), ""), "container's runAsUser breaks non-root policy");
        check(None, (Some(0), ""), "container has runAsNonRoot and image will run as root");
        check(None, (None, ""), "container has runAsNonRoot and image will run as root");
        check(None, (Some(5), ""), "");
        check(
            None,
            (None, "web"),
            "container has runAsNonRoot and image has non-numeric user (web), cannot verify user is non-root",
        );
    }

    #[test]
    fn a_container_is_told_what_its_pod_says() {
        let pod = pod(json!({
            "hostPID": true,
            "securityContext": {"runAsUser": 7, "fsGroup": 9, "supplementalGroups": [3]},
            "containers": [{"name": "c", "command": ["sh", "$(A)"], "securityContext": {
                "privileged": true, "capabilities": {"add": ["NET_ADMIN"]}}}],
        }));
        let spec = pod::spec(&pod);
        let container = spec.containers.first().cloned().unwrap_or_default();
        let facts = ContainerFacts {
            env: BTreeMap::from([("A".to_owned(), "1".to_owned())]),
            attempt: 2,
            devices: vec!["example.com/gpu=1".to_owned()],
            ..ContainerFacts::default()
        };
        let made = container_config(&pod, &container, &facts);
        assert_eq!(made.command, ["sh", "1"]);
        assert_eq!(made.log_path, "c/2.log");
        assert_eq!(made.cdi_devices, [v1::CdiDevice { name: "example.com/gpu=1".to_owned() }]);
        let linux = made.linux.unwrap_or_default();
        let security = linux.security_context.unwrap_or_default();
        assert_eq!(security.run_as_user.map(|u| u.value), Some(7));
        assert_eq!(security.supplemental_groups, [9, 3]);
        assert!(security.privileged && security.masked_paths.is_empty());
        assert_eq!(security.namespace_options.map(|o| o.pid), Some(v1::NamespaceMode::Node.into()));
    }
}
