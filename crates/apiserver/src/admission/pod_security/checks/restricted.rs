//! The checks of the restricted level.

use std::collections::BTreeSet;

use serde_json::Value;

use super::super::super::items;
use super::baseline::{self, bad_seccomp};
use super::{Pod, Violation, containers, plural, quoted, setters, texts};

pub(super) fn privilege_escalation(pod: &Pod<'_>) -> Option<Violation> {
    let names = pod.bad(|c| c["securityContext"]["allowPrivilegeEscalation"] != false);
    if names.is_empty() {
        return None;
    }
    let detail = format!("{} must set securityContext.allowPrivilegeEscalation=false", containers(&names));
    Violation::new("allowPrivilegeEscalation != false", detail)
}

pub(super) fn privilege_escalation_25(pod: &Pod<'_>) -> Option<Violation> {
    if pod.is_windows() { None } else { privilege_escalation(pod) }
}

pub(super) fn capabilities(pod: &Pod<'_>) -> Option<Violation> {
    fn of(c: &Value) -> &Value {
        &c["securityContext"]["capabilities"]
    }
    let keeps = pod.bad(|c| !texts(&of(c)["drop"]).any(|d| d == "ALL"));
    let adds = pod.bad(|c| texts(&of(c)["add"]).any(|a| a != "NET_BIND_SERVICE"));
    let mut details = Vec::new();
    if !keeps.is_empty() {
        details.push(format!("{} must set securityContext.capabilities.drop=[\"ALL\"]", containers(&keeps)));
    }
    if !adds.is_empty() {
        let all: BTreeSet<&str> =
            pod.containers().flat_map(|c| texts(&of(c)["add"])).filter(|a| *a != "NET_BIND_SERVICE").collect();
        details.push(format!(
            "{} must not include {} in securityContext.capabilities.add",
            containers(&adds),
            quoted(all)
        ));
    }
    if details.is_empty() { None } else { Violation::new("unrestricted capabilities", details.join("; ")) }
}

pub(super) fn capabilities_25(pod: &Pod<'_>) -> Option<Violation> {
    if pod.is_windows() { None } else { capabilities(pod) }
}

pub(super) fn volumes(pod: &Pod<'_>) -> Option<Violation> {
    const ALLOWED: [&str; 9] = [
        "configMap",
        "csi",
        "downwardAPI",
        "emptyDir",
        "ephemeral",
        "image",
        "persistentVolumeClaim",
        "projected",
        "secret",
    ];
    const OTHERS: [&str; 21] = [
        "hostPath",
        "gcePersistentDisk",
        "awsElasticBlockStore",
        "gitRepo",
        "nfs",
        "iscsi",
        "glusterfs",
        "rbd",
        "flexVolume",
        "cinder",
        "cephfs",
        "flocker",
        "fc",
        "azureFile",
        "vsphereVolume",
        "quobyte",
        "azureDisk",
        "photonPersistentDisk",
        "portworxVolume",
        "scaleIO",
        "storageos",
    ];
    let bad: Vec<&Value> = items(&pod.spec["volumes"])
        .iter()
        .filter(|v| !ALLOWED.iter().any(|sort| v.get(*sort).is_some_and(Value::is_object)))
        .collect();
    if bad.is_empty() {
        return None;
    }
    let sort = |v: &&Value| OTHERS.iter().find(|s| v.get(**s).is_some_and(Value::is_object)).map_or("unknown", |s| *s);
    let sorts: BTreeSet<&str> = bad.iter().map(sort).collect();
    let detail = format!(
        "{} {} {} {} {}",
        plural("volume", "volumes", bad.len()),
        quoted(bad.iter().filter_map(|v| v["name"].as_str())),
        plural("uses", "use", bad.len()),
        plural("restricted volume type", "restricted volume types", sorts.len()),
        quoted(sorts)
    );
    Violation::new("restricted volume types", detail)
}

pub(super) fn run_as_non_root(pod: &Pod<'_>) -> Option<Violation> {
    const REASON: &str = "runAsNonRoot != true";
    fn set(context: &Value) -> Option<bool> {
        context["runAsNonRoot"].as_bool()
    }
    let explicit = pod.bad(|c| set(&c["securityContext"]) == Some(false));
    if let Some(who) = setters(set(pod.context()) == Some(false), &explicit) {
        return Violation::new(REASON, format!("{who} must not set securityContext.runAsNonRoot=false"));
    }
    let implicit = pod.bad(|c| set(&c["securityContext"]).is_none());
    if set(pod.context()) == Some(true) || implicit.is_empty() {
        return None;
    }
    Violation::new(REASON, format!("pod or {} must set securityContext.runAsNonRoot=true", containers(&implicit)))
}

pub(super) fn run_as_non_root_35(pod: &Pod<'_>) -> Option<Violation> {
    if pod.in_user_namespace() { None } else { run_as_non_root(pod) }
}

pub(super) fn run_as_user(pod: &Pod<'_>) -> Option<Violation> {
    let root = |context: &Value| context["runAsUser"] == 0;
    let names = pod.bad(|c| root(&c["securityContext"]));
    let who = setters(root(pod.context()), &names)?;
    Violation::new("runAsUser=0", format!("{who} must not set runAsUser=0"))
}

pub(super) fn run_as_user_35(pod: &Pod<'_>) -> Option<Violation> {
    if pod.in_user_namespace() { None } else { run_as_user(pod) }
}

pub(super) fn seccomp(pod: &Pod<'_>) -> Option<Violation> {
    if let Some(violation) = baseline::seccomp(pod) {
        return Some(violation);
    }
    fn set(context: &Value) -> bool {
        context["seccompProfile"].is_object() && bad_seccomp(context).is_none()
    }
    let implicit = pod.bad(|c| !set(&c["securityContext"]));
    if set(pod.context()) || implicit.is_empty() {
        return None;
    }
    let detail = format!(
        "pod or {} must set securityContext.seccompProfile.type to \"RuntimeDefault\" or \"Localhost\"",
        containers(&implicit)
    );
    Violation::new("seccompProfile", detail)
}

pub(super) fn seccomp_25(pod: &Pod<'_>) -> Option<Violation> {
    if pod.is_windows() { None } else { seccomp(pod) }
}
