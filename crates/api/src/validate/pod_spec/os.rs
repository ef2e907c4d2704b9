//! What pods of one operating system have and those of the other lack.
//! Upstream: `validateOS`, `validateLinux`, `validateWindows`, `validateWindowsHostProcessPod`,
//! `validateWindowsSecurityContextOptions`.

use std::sync::LazyLock;

use regex::Regex;

use crate::field::ErrorList;
use crate::object::View;

/// The containers of a pod in upstream's order (`VisitContainersWithPath`).
pub(super) fn containers<'a>(spec: &View<'a>) -> Vec<View<'a>> {
    ["initContainers", "containers", "ephemeralContainers"].iter().flat_map(|list| spec.items(list)).collect()
}

/// `os`, and what the system named does not have.
pub fn os(errs: &mut ErrorList, spec: &View<'_>) {
    let os = spec.get("os");
    if !os.is_set() {
        return;
    }
    match os.get("name").str() {
        "" => errs.required(os.get("name").path(), "cannot be empty"),
        "linux" => linux(errs, spec),
        "windows" => windows(errs, spec),
        other => errs.not_supported(os.path(), other, &["linux", "windows"]),
    }
}

fn linux(errs: &mut ErrorList, spec: &View<'_>) {
    let holders = std::iter::once(spec.clone()).chain(containers(spec));
    for options in holders.map(|holder| holder.dig("securityContext.windowsOptions")).filter(View::is_set) {
        errs.forbidden(options.path(), "windows options cannot be set for a linux pod");
    }
}

/// Whether a field says something that Windows does not know: switches and lists say nothing when off or empty.
fn says(v: &View<'_>, field: &str) -> bool {
    match field {
        "hostPID" | "hostIPC" => v.is_true(),
        "securityContext.sysctls" => !v.is_empty(),
        _ => v.is_set(),
    }
}

fn windows(errs: &mut ErrorList, spec: &View<'_>) {
    const POD: [&str; 15] = [
        "securityContext.appArmorProfile",
        "securityContext.seLinuxOptions",
        "hostUsers",
        "hostPID",
        "hostIPC",
        "securityContext.seccompProfile",
        "securityContext.fsGroup",
        "securityContext.fsGroupChangePolicy",
        "securityContext.sysctls",
        "shareProcessNamespace",
        "securityContext.runAsUser",
        "securityContext.runAsGroup",
        "securityContext.supplementalGroups",
        "securityContext.supplementalGroupsPolicy",
        "securityContext.seLinuxChangePolicy",
    ];
    const CONTAINER: [&str; 10] = [
        "appArmorProfile",
        "seLinuxOptions",
        "seccompProfile",
        "capabilities",
        "readOnlyRootFilesystem",
        "privileged",
        "allowPrivilegeEscalation",
        "procMount",
        "runAsUser",
        "runAsGroup",
    ];
    let mut forbid = |v: View<'_>, field: &str| {
        if says(&v, field) {
            errs.forbidden(v.path(), "cannot be set for a windows pod");
        }
    };
    POD.iter().for_each(|field| forbid(spec.dig(field), field));
    for container in containers(spec) {
        CONTAINER.iter().for_each(|field| forbid(container.get("securityContext").get(field), field));
    }
}

/// Containers that run as processes of a Windows host: all of a pod or none, and on the host's network.
pub fn host_process(errs: &mut ErrorList, spec: &View<'_>) {
    const HOST_PROCESS: &str = "securityContext.windowsOptions.hostProcess";
    let of_pod = spec.dig(HOST_PROCESS).bool();
    let containers = containers(spec);
    let mut on_host = 0;
    for container in &containers {
        let v = container.dig(HOST_PROCESS);
        if let (Some(pod), Some(own)) = (of_pod, v.bool())
            && pod != own
        {
            let problem = format!("pod hostProcess value must be identical if both are specified, was {pod}");
            errs.invalid(v.path(), own, problem);
        }
        on_host += usize::from(v.bool().or(of_pod) == Some(true));
    }
    if on_host == 0 {
        return;
    }
    if on_host != containers.len() {
        let problem = "If pod contains any hostProcess containers then all containers must be HostProcess containers";
        errs.invalid(spec.path(), "", problem);
    }
    let network = spec.get("hostNetwork");
    if !network.is_true() {
        let problem = "hostNetwork must be true if pod contains any hostProcess containers";
        errs.invalid(network.path(), false, problem);
    }
}

fn regex(pattern: &str) -> Regex {
    Regex::new(pattern).expect("constant pattern compiles")
}

/// `windowsOptions` of a security context.
pub fn windows_options(errs: &mut ErrorList, v: &View<'_>) {
    const MAX_SPEC_KIB: usize = 64;
    let (name, spec, user) = (v.get("gmsaCredentialSpecName"), v.get("gmsaCredentialSpec"), v.get("runAsUserName"));
    if name.is_set() {
        super::dns_subdomain_at(errs, &name);
    }
    if spec.is_set() {
        if spec.is_empty() {
            errs.invalid(spec.path(), "", "gmsaCredentialSpec cannot be an empty string");
        } else if spec.len() > MAX_SPEC_KIB * 1024 {
            let problem = format!("gmsaCredentialSpec size must be under {MAX_SPEC_KIB} KiB");
            errs.invalid(spec.path(), spec.str(), problem);
        }
    }
    if let Some(name) = user.opt_str() {
        for problem in user_name_problems(name) {
            errs.invalid(user.path(), name, problem);
        }
    }
}

/// What is wrong with a Windows user, with a domain before a backslash or without.
fn user_name_problems(name: &str) -> Vec<String> {
    const MAX_DOMAIN: usize = 256;
    const MAX_USER: usize = 104;
    static NET_BIOS: LazyLock<Regex> = LazyLock::new(|| regex(r#"^[^\\/:*?"<>|.][^\\/:*?"<>|]{0,14}$"#));
    static DNS: LazyLock<Regex> = LazyLock::new(|| {
        const LABEL: &str = "[a-zA-Z0-9](?:[a-zA-Z0-9-]{0,61}[a-zA-Z0-9])?";
        regex(&format!(r"^{LABEL}(?:\.{LABEL})*$"))
    });
    if name.is_empty() {
        return vec!["runAsUserName cannot be an empty string".into()];
    }
    if name.chars().any(|c| c.is_ascii_control()) {
        return vec!["runAsUserName cannot contain control characters".into()];
    }
    let (domain, user) = match name.split('\\').collect::<Vec<_>>().as_slice() {
        [user] => (None, *user),
        [domain, user] => (Some(*domain), *user),
        _ => return vec!["runAsUserName cannot contain more than one backslash".into()],
    };
    let mut problems = Vec::new();
    if let Some(domain) = domain {
        if domain.len() >= MAX_DOMAIN {
            problems.push(format!("runAsUserName's Domain length must be under {MAX_DOMAIN} characters"));
        }
        if !NET_BIOS.is_match(domain) && !DNS.is_match(domain) {
            problems.push("runAsUserName's Domain doesn't match the NetBios nor the DNS format".into());
        }
    }
    if user.is_empty() {
        problems.push("runAsUserName's User cannot be empty".into());
    } else if user.len() > MAX_USER {
        problems.push(format!("runAsUserName's User length must not be longer than {MAX_USER} characters"));
    }
    if !user.is_empty() && user.chars().all(|c| c == '.' || c == ' ') {
        problems.push("runAsUserName's User cannot contain only periods or spaces".into());
    }
    if user.contains(|c| r#""/\:;|=,+*?<>@[]"#.contains(c)) {
        problems.push(r#"runAsUserName's User cannot contain the following characters: "/\:;|=,+*?<>@[]"#.into());
    }
    problems
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::validate::pod_spec::tests::problems;

    #[test]
    fn each_system_lacks_what_the_other_has() {
        let pod = |os: &str, pod: Value, container: Value| {
            problems(json!({"os": {"name": os}, "securityContext": pod, "hostPID": true,
                "containers": [{"name": "c", "image": "i", "securityContext": container}]}))
        };
        assert_eq!(
            pod("linux", json!({"windowsOptions": {}}), json!({"windowsOptions": {"runAsUserName": "x"}})),
            [
                "spec.securityContext.windowsOptions: Forbidden: windows options cannot be set for a linux pod",
                "spec.containers[0].securityContext.windowsOptions: Forbidden: windows options cannot be set for a linux pod",
            ]
        );
        assert_eq!(
            pod("windows", json!({"runAsUser": 1}), json!({"privileged": false})),
            [
                "spec.hostPID: Forbidden: cannot be set for a windows pod",
                "spec.securityContext.runAsUser: Forbidden: cannot be set for a windows pod",
                "spec.containers[0].securityContext.privileged: Forbidden: cannot be set for a windows pod",
            ]
        );
        assert_eq!(
            pod("beos", json!({}), json!({})),
            ["spec.os: Unsupported value: \"beos\": supported values: \"linux\", \"windows\""]
        );
        assert_eq!(pod("", json!({}), json!({})), ["spec.os.name: Required value: cannot be empty"]);
    }

    #[test]
    fn processes_of_the_host_are_all_or_none() {
        let c = |name: &str, host: bool| json!({"name": name, "image": "i", "securityContext": {"windowsOptions": {"hostProcess": host}}});
        assert_eq!(
            problems(json!({"containers": [c("a", true), c("b", false)],
                "securityContext": {"windowsOptions": {"hostProcess": true}}})),
            [
                "spec.containers[1].securityContext.windowsOptions.hostProcess: Invalid value: false: pod hostProcess value \
                 must be identical if both are specified, was true",
                "spec: Invalid value: \"\": If pod contains any hostProcess containers then all containers must be \
                 HostProcess containers",
                "spec.hostNetwork: Invalid value: false: hostNetwork must be true if pod contains any hostProcess containers",
            ]
        );
    }

    #[test]
    fn windows_users_have_names() {
        for good in ["user", "DOMAIN\\user", "a.example.com\\user name"] {
            assert_eq!(user_name_problems(good), [""; 0], "{good}");
        }
        for (bad, problem) in [
            ("", "runAsUserName cannot be an empty string"),
            ("a\nb", "runAsUserName cannot contain control characters"),
            ("a\\b\\c", "runAsUserName cannot contain more than one backslash"),
            ("?\\b", "runAsUserName's Domain doesn't match the NetBios nor the DNS format"),
            ("a\\", "runAsUserName's User cannot be empty"),
            ("..", "runAsUserName's User cannot contain only periods or spaces"),
            ("a@b", "runAsUserName's User cannot contain the following characters: \"/\\:;|=,+*?<>@[]"),
        ] {
            assert_eq!(user_name_problems(bad), [problem], "{bad}");
        }
    }
}
