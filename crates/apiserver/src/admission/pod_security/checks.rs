//! The checks of both levels, in every version (`k8s.io/pod-security-admission/policy`).
//!
//! A check looks at a pod's metadata and spec and says what is forbidden: a reason and details, in upstream's words.

mod baseline;
mod restricted;

use std::collections::BTreeSet;

use serde_json::Value;

use super::super::items;
use super::policy::{Level, LevelVersion, Version};

/// What is forbidden in a pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// What it is.
    pub reason: String,
    /// Where it is.
    pub detail: String,
}

impl Violation {
    fn new(reason: impl Into<String>, detail: impl Into<String>) -> Option<Violation> {
        Some(Violation { reason: reason.into(), detail: detail.into() })
    }
}

/// A pod under check.
struct Pod<'v> {
    annotations: &'v Value,
    spec: &'v Value,
}

impl<'v> Pod<'v> {
    /// All containers: init containers first, ephemeral ones last.
    fn containers(&self) -> impl Iterator<Item = &'v Value> + use<'v> {
        let spec = self.spec;
        ["initContainers", "containers", "ephemeralContainers"].into_iter().flat_map(|list| items(&spec[list]))
    }

    /// The names of the containers a test holds for.
    fn bad(&self, test: impl Fn(&Value) -> bool) -> Vec<&'v str> {
        self.containers().filter(|c| test(c)).map(|c| c["name"].as_str().unwrap_or_default()).collect()
    }

    fn context(&self) -> &'v Value {
        &self.spec["securityContext"]
    }

    fn is_windows(&self) -> bool {
        self.spec["os"]["name"] == "windows"
    }

    /// Whether root in the pod is nobody on the host.
    fn in_user_namespace(&self) -> bool {
        self.spec["hostUsers"] == false
    }
}

/// `"a", "b"`.
fn quoted<'t>(names: impl IntoIterator<Item = &'t str>) -> String {
    names.into_iter().map(|n| format!("\"{n}\"")).collect::<Vec<_>>().join(", ")
}

/// `container "a"`, `containers "a", "b"`.
fn containers(names: &[&str]) -> String {
    format!("{} {}", plural("container", "containers", names.len()), quoted(names.iter().copied()))
}

fn plural<'t>(one: &'t str, many: &'t str, count: usize) -> &'t str {
    if count == 1 { one } else { many }
}

/// Who set something: the pod, containers, or both.
fn setters(pod: bool, names: &[&str]) -> Option<String> {
    let mut all = Vec::new();
    if pod {
        all.push("pod".to_owned());
    }
    if !names.is_empty() {
        all.push(containers(names));
    }
    (!all.is_empty()).then(|| all.join(" and "))
}

fn texts(list: &Value) -> impl Iterator<Item = &str> {
    items(list).iter().filter_map(Value::as_str)
}

type Function = fn(&Pod<'_>) -> Option<Violation>;

/// A check: since which minor version which function does it.
struct Check {
    id: &'static str,
    level: Level,
    since: &'static [(u32, Function)],
    /// The check of the lower level that it stands for.
    overrides: &'static str,
}

const fn check(id: &'static str, level: Level, since: &'static [(u32, Function)]) -> Check {
    Check { id, level, since, overrides: "" }
}

const fn instead(id: &'static str, overrides: &'static str, since: &'static [(u32, Function)]) -> Check {
    Check { id, level: Level::Restricted, since, overrides }
}

/// All checks, ordered by id: results are shown in this order, those of the lower level first.
const CHECKS: &[Check] = &[
    check(
        "allowPrivilegeEscalation",
        Level::Restricted,
        &[(8, restricted::privilege_escalation), (25, restricted::privilege_escalation_25)],
    ),
    check("appArmorProfile", Level::Baseline, &[(0, baseline::app_armor)]),
    check("capabilities_baseline", Level::Baseline, &[(0, baseline::capabilities)]),
    instead(
        "capabilities_restricted",
        "capabilities_baseline",
        &[(22, restricted::capabilities), (25, restricted::capabilities_25)],
    ),
    check("hostNamespaces", Level::Baseline, &[(0, baseline::host_namespaces)]),
    check("hostPathVolumes", Level::Baseline, &[(0, baseline::host_path_volumes)]),
    check("hostPorts", Level::Baseline, &[(0, baseline::host_ports)]),
    check("hostProbesAndHostLifecycle", Level::Baseline, &[(34, baseline::host_probes)]),
    check("privileged", Level::Baseline, &[(0, baseline::privileged)]),
    check("procMount_baseline", Level::Baseline, &[(0, baseline::proc_mount), (35, baseline::proc_mount_35)]),
    instead("procMount_restricted", "procMount_baseline", &[(35, baseline::proc_mount)]),
    instead("restrictedVolumes", "hostPathVolumes", &[(0, restricted::volumes)]),
    check("runAsNonRoot", Level::Restricted, &[(0, restricted::run_as_non_root), (35, restricted::run_as_non_root_35)]),
    check("runAsUser", Level::Restricted, &[(23, restricted::run_as_user), (35, restricted::run_as_user_35)]),
    check("seLinuxOptions", Level::Baseline, &[(0, baseline::selinux), (31, baseline::selinux_31)]),
    check("seccompProfile_baseline", Level::Baseline, &[(0, baseline::seccomp_annotations), (19, baseline::seccomp)]),
    instead(
        "seccompProfile_restricted",
        "seccompProfile_baseline",
        &[(19, restricted::seccomp), (25, restricted::seccomp_25)],
    ),
    check(
        "sysctls",
        Level::Baseline,
        &[(0, baseline::sysctls), (27, baseline::sysctls_27), (29, baseline::sysctls_29), (32, baseline::sysctls_32)],
    ),
    check("windowsHostProcess", Level::Baseline, &[(0, baseline::windows_host_process)]),
];

/// What a level forbids in a pod.
pub fn evaluate(policy: LevelVersion, meta: &Value, spec: &Value) -> Vec<Violation> {
    if policy.is_privileged() {
        return Vec::new();
    }
    let minor = match policy.version {
        Version::Minor(minor) => minor,
        Version::Latest => u32::MAX,
    };
    let function = |c: &Check| c.since.iter().rev().find(|(since, _)| *since <= minor).map(|(_, f)| *f);
    let active: Vec<(&Check, Function)> =
        CHECKS.iter().filter(|c| c.level <= policy.level).filter_map(|c| Some((c, function(c)?))).collect();
    let overridden: BTreeSet<&str> = active.iter().map(|(c, _)| c.overrides).collect();
    let pod = Pod { annotations: &meta["annotations"], spec };
    let of_level = |level: Level| active.iter().filter(move |(c, _)| c.level == level);
    of_level(Level::Baseline)
        .chain(of_level(Level::Restricted))
        .filter(|(c, _)| !overridden.contains(c.id))
        .filter_map(|(_, f)| f(&pod))
        .collect()
}

/// The violations in one line, with details.
pub fn details(violations: &[Violation]) -> String {
    let one = |v: &Violation| {
        if v.detail.is_empty() { v.reason.clone() } else { format!("{} ({})", v.reason, v.detail) }
    };
    violations.iter().map(one).collect::<Vec<_>>().join(", ")
}

/// The violations in one line, without details.
pub fn reasons(violations: &[Violation]) -> String {
    violations.iter().map(|v| v.reason.as_str()).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn check(level: &str, spec: Value, expected: &str) {
        check_with(level, json!({}), spec, expected);
    }

    /// `level` is `restricted` or `restricted:v1.20`.
    fn check_with(level: &str, annotations: Value, mut spec: Value, expected: &str) {
        let (name, version) = level.split_once(':').unwrap_or((level, "latest"));
        let policy = LevelVersion {
            level: Level::parse(name).expect("a level"),
            version: Version::parse(version).expect("a version"),
        };
        if spec.get("containers").is_none() {
            spec["containers"] = json!([{"name": "a"}]);
        }
        let found = details(&evaluate(policy, &json!({"annotations": annotations}), &spec));
        assert_eq!(found, expected, "{level} {spec}");
    }

    /// A spec that the restricted level allows, with more.
    fn good(more: Value) -> Value {
        let mut spec = json!({
            "securityContext": {"runAsNonRoot": true, "seccompProfile": {"type": "RuntimeDefault"}},
            "containers": [{"name": "a", "securityContext": {
                "allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"]}}}],
        });
        for (key, value) in more.as_object().cloned().unwrap_or_default() {
            spec[key] = value;
        }
        spec
    }

    fn container(context: Value) -> Value {
        json!({"containers": [{"name": "a", "securityContext": context}]})
    }

    #[test]
    fn ids_are_unique_and_in_order() {
        let ids: Vec<&str> = CHECKS.iter().map(|c| c.id).collect();
        let mut sorted = ids.clone();
        sorted.sort_unstable();
        sorted.dedup();
        assert_eq!(ids, sorted);
        for check in CHECKS {
            assert!(check.since.windows(2).all(|w| w[0].0 < w[1].0), "{}", check.id);
            assert!(check.overrides.is_empty() || ids.contains(&check.overrides), "{}", check.id);
        }
    }

    #[test]
    fn a_plain_pod_is_baseline_and_not_restricted() {
        check("baseline", json!({}), "");
        check("privileged", json!({"hostNetwork": true}), "");
        check(
            "restricted",
            json!({}),
            "allowPrivilegeEscalation != false (container \"a\" must set \
             securityContext.allowPrivilegeEscalation=false), unrestricted capabilities (container \"a\" must set \
             securityContext.capabilities.drop=[\"ALL\"]), runAsNonRoot != true (pod or container \"a\" must set \
             securityContext.runAsNonRoot=true), seccompProfile (pod or container \"a\" must set \
             securityContext.seccompProfile.type to \"RuntimeDefault\" or \"Localhost\")",
        );
        check("restricted", good(json!({})), "");
        check(
            "restricted:v1.0",
            json!({}),
            "runAsNonRoot != true (pod or container \"a\" must set securityContext.runAsNonRoot=true)",
        );
    }

    #[test]
    fn the_host_stays_apart() {
        check(
            "baseline",
            json!({"hostNetwork": true, "hostPID": true, "hostIPC": true}),
            "host namespaces (hostNetwork=true, hostPID=true, hostIPC=true)",
        );
        let volumes = json!({"volumes": [{"name": "v", "hostPath": {"path": "/"}}, {"name": "w", "emptyDir": {}}]});
        check("baseline", volumes.clone(), "hostPath volumes (volume \"v\")");
        check(
            "restricted",
            good(volumes),
            "restricted volume types (volume \"v\" uses restricted volume type \"hostPath\")",
        );
        check(
            "restricted",
            good(json!({"volumes": [{"name": "v", "nfs": {}}, {"name": "w", "gitRepo": {}}]})),
            "restricted volume types (volumes \"v\", \"w\" use restricted volume types \"gitRepo\", \"nfs\")",
        );
        let port = |p: u16| json!({"hostPort": p});
        check(
            "baseline",
            json!({"containers": [{"name": "a", "ports": [port(80)]}, {"name": "b", "ports": [port(0), port(443)]}]}),
            "hostPort (containers \"a\", \"b\" use hostPorts 443, 80)",
        );
        let probe = json!({"containers": [{"name": "a", "livenessProbe": {"httpGet": {"host": "10.0.0.1"}},
            "lifecycle": {"preStop": {"tcpSocket": {"host": "10.0.0.2"}}}}]});
        check(
            "baseline",
            probe.clone(),
            "probe or lifecycle host (container \"a\" uses probe or lifecycle hosts \"10.0.0.1\", \"10.0.0.2\")",
        );
        check("baseline:v1.33", probe, "");
    }

    #[test]
    fn privileges_are_kept_low() {
        check(
            "baseline",
            container(json!({"privileged": true})),
            "privileged (container \"a\" must not set securityContext.privileged=true)",
        );
        let capabilities = json!({"capabilities": {"add": ["SYS_ADMIN", "CHOWN"], "drop": ["ALL"]},
            "allowPrivilegeEscalation": false});
        check(
            "baseline",
            container(capabilities.clone()),
            "non-default capabilities (container \"a\" must not include \"SYS_ADMIN\" in \
             securityContext.capabilities.add)",
        );
        check(
            "restricted",
            good(container(capabilities)),
            "unrestricted capabilities (container \"a\" must not include \"CHOWN\", \"SYS_ADMIN\" in \
             securityContext.capabilities.add)",
        );
        check(
            "baseline",
            container(json!({"procMount": "Unmasked"})),
            "procMount (container \"a\" must not set securityContext.procMount to \"Unmasked\")",
        );
        let mut spec = container(json!({"procMount": "Unmasked"}));
        spec["hostUsers"] = json!(false);
        check("baseline", spec.clone(), "");
        check(
            "baseline:v1.34",
            spec,
            "procMount (container \"a\" must not set securityContext.procMount to \"Unmasked\")",
        );
        check(
            "baseline",
            json!({"securityContext": {"windowsOptions": {"hostProcess": true}}}),
            "hostProcess (pod must not set securityContext.windowsOptions.hostProcess=true)",
        );
    }

    #[test]
    fn root_is_refused() {
        let pod = |context: Value| {
            let mut spec = good(json!({}));
            for (key, value) in context.as_object().cloned().unwrap_or_default() {
                spec["securityContext"][key] = value;
            }
            spec
        };
        check("restricted", pod(json!({"runAsUser": 0})), "runAsUser=0 (pod must not set runAsUser=0)");
        check("restricted:v1.22", pod(json!({"runAsUser": 0})), "");
        check(
            "restricted",
            pod(json!({"runAsNonRoot": false})),
            "runAsNonRoot != true (pod must not set securityContext.runAsNonRoot=false)",
        );
        let mut inside = pod(json!({"runAsNonRoot": false, "runAsUser": 0}));
        inside["hostUsers"] = json!(false);
        check("restricted", inside, "");
    }

    #[test]
    fn profiles_stay_on() {
        check(
            "baseline",
            json!({"securityContext": {"seccompProfile": {"type": "Unconfined"}}}),
            "seccompProfile (pod must not set securityContext.seccompProfile.type to \"Unconfined\")",
        );
        let old = json!({"seccomp.security.alpha.kubernetes.io/pod": "unconfined"});
        check_with(
            "baseline:v1.18",
            old,
            json!({}),
            "seccompProfile (forbidden annotation seccomp.security.alpha.kubernetes.io/pod=\"unconfined\")",
        );
        check(
            "baseline",
            json!({"securityContext": {"appArmorProfile": {"type": "Unconfined"}}}),
            "forbidden AppArmor profile (pod must not set AppArmor profile type to \"Unconfined\")",
        );
        let annotation = json!({"container.apparmor.security.beta.kubernetes.io/a": "unconfined"});
        check_with(
            "baseline",
            annotation,
            json!({}),
            "forbidden AppArmor profile (annotation must not set AppArmor profile type to \
             \"container.apparmor.security.beta.kubernetes.io/a=\"unconfined\"\")",
        );
        let selinux = |options: Value| json!({"securityContext": {"seLinuxOptions": options}});
        check(
            "baseline",
            selinux(json!({"type": "x", "user": "u", "role": "r"})),
            "seLinuxOptions (pod set forbidden securityContext.seLinuxOptions: type \"x\"; user may not be set; role \
             may not be set)",
        );
        check("baseline", selinux(json!({"type": "container_engine_t"})), "");
        check(
            "baseline:v1.30",
            selinux(json!({"type": "container_engine_t"})),
            "seLinuxOptions (pod set forbidden securityContext.seLinuxOptions: type \"container_engine_t\")",
        );
        let sysctls = |name: &str| json!({"securityContext": {"sysctls": [{"name": name}]}});
        check("baseline", sysctls("net.ipv4.tcp_rmem"), "");
        check("baseline:v1.31", sysctls("net.ipv4.tcp_rmem"), "forbidden sysctls (net.ipv4.tcp_rmem)");
        check("baseline", sysctls("kernel.msgmax"), "forbidden sysctls (kernel.msgmax)");
    }

    #[test]
    fn windows_knows_other_means() {
        let spec = json!({"os": {"name": "windows"}, "securityContext": {"runAsNonRoot": true}});
        check("restricted", spec.clone(), "");
        assert!(
            !evaluate(
                LevelVersion { level: Level::Restricted, version: Version::Minor(24) },
                &json!({}),
                &json!({"os": {"name": "windows"}, "containers": [{"name": "a"}]})
            )
            .is_empty()
        );
    }
}
