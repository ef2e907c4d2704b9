//! What of a pod may change, by each of its doors.
//!
//! Upstream: `ValidatePodUpdate`, `ValidatePodStatusUpdate`, `ValidatePodEphemeralContainersUpdate`,
//! `ValidatePodResize` in `pkg/apis/core/validation/validation.go`.

use serde_json::Value;

use crate::field::{ErrorList, Path};
use crate::kind::Cx;
use crate::object::{View, at, at_mut, items_mut, list, remove, restore, same, text};
use crate::validate::pod_spec;

const MIRROR: &str = "kubernetes.io/config.mirror";

fn annotations(errs: &mut ErrorList, new: &View<'_>, old: &Value) {
    let annotations = new.dig("metadata.annotations");
    let (now, before) = (annotations.get(MIRROR), at(old, &["metadata", "annotations", MIRROR]));
    let path = annotations.path().key(MIRROR);
    match (before.as_str(), now.opt_str()) {
        (None, Some(_)) => errs.forbidden(&path, "may not add mirror pod annotation"),
        (Some(a), b) if b != Some(a) => errs.forbidden(&path, "may not remove or update mirror pod annotation"),
        _ => {}
    }
}

/// An update through the pod itself: images, the deadline (shorter), more tolerations, gates (fewer), and while gates
/// are there the choice of nodes (narrower).
pub fn pod(cx: &Cx<'_>, new: &Value, old: &Value) -> ErrorList {
    let mut errs = pod_spec::pod(cx, new);
    let root = View::root(new);
    let spec = root.get("spec");
    let old_spec = at(old, &["spec"]);
    annotations(&mut errs, &root, old);
    for field in ["containers", "initContainers"] {
        let containers = spec.get(field);
        if containers.len() != list(old_spec, &[field]).len() {
            errs.forbidden(containers.path(), "pod updates may not add or remove containers");
            return errs;
        }
        for (container, before) in containers.list().iter().zip(list(old_spec, &[field])) {
            let image = container.get("image");
            if image.str().is_empty() {
                errs.required(image.path(), "");
            }
            if image.str() != text(before, &["image"]) && image.str().trim() != image.str() {
                errs.invalid(image.path(), image.str(), "must not have leading or trailing whitespace");
            }
        }
    }
    if !deadline(&mut errs, &spec, old_spec) {
        return errs;
    }
    let gated = !list(old_spec, &["schedulingGates"]).is_empty();
    gates(&mut errs, &spec, old_spec);
    tolerations(&mut errs, &spec, old_spec);

    let mut munged = spec.value().clone();
    for field in ["containers", "initContainers"] {
        for (container, before) in items_mut(&mut munged, field).zip(list(old_spec, &[field])) {
            restore(container, before, &["image"]);
        }
    }
    for field in ["activeDeadlineSeconds", "schedulingGates", "tolerations"] {
        restore(&mut munged, old_spec, &[field]);
    }
    // A negative grace period may be repaired.
    if at(old_spec, &["terminationGracePeriodSeconds"]).as_i64().is_some_and(|n| n < 0)
        && at(&munged, &["terminationGracePeriodSeconds"]).as_i64() == Some(1)
    {
        restore(&mut munged, old_spec, &["terminationGracePeriodSeconds"]);
    }
    if gated {
        narrower_nodes(&mut errs, &spec, old_spec, &mut munged);
    }
    if !same(&munged, old_spec) {
        errs.forbidden(
            spec.path(),
            format!(
                "pod updates may not change fields other than `spec.containers[*].image`,`spec.initContainers[*].image`,\
                 `spec.activeDeadlineSeconds`,`spec.tolerations` (only additions to existing tolerations),\
                 `spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)\n{}",
                difference(&munged, old_spec)
            ),
        );
    }
    errs
}

/// The deadline may be set, or made shorter. Returns whether to go on.
fn deadline(errs: &mut ErrorList, spec: &View<'_>, old: &Value) -> bool {
    let v = spec.get("activeDeadlineSeconds");
    let before = at(old, &["activeDeadlineSeconds"]).as_i64();
    match (v.int(), before) {
        (Some(n), _) if !(0..=i64::from(i32::MAX)).contains(&n) => {
            errs.invalid(v.path(), n, "must be between 0 and 2147483647, inclusive");
            false
        }
        (Some(n), Some(before)) if before < n => {
            errs.invalid(v.path(), n, "must be less than or equal to previous value");
            false
        }
        (None, Some(_)) => {
            errs.invalid(v.path(), &Value::Null, "must not update from a positive integer to nil value");
            true
        }
        _ => true,
    }
}

fn gates(errs: &mut ErrorList, spec: &View<'_>, old: &Value) {
    let before = list(old, &["schedulingGates"]);
    for gate in spec.items("schedulingGates") {
        if !before.iter().any(|g| g.get("name") == gate.value().get("name")) {
            errs.forbidden(
                gate.path(),
                "only deletion is allowed, but found new scheduling gate '".to_owned() + gate.get("name").str() + "'",
            );
        }
    }
}

/// Tolerations may be added; of those there are only the seconds may change.
fn tolerations(errs: &mut ErrorList, spec: &View<'_>, old: &Value) {
    let v = spec.get("tolerations");
    let bare = |t: &Value| {
        let mut t = t.clone();
        remove(&mut t, &["tolerationSeconds"]);
        t
    };
    for before in list(old, &["tolerations"]) {
        if !v.list().iter().any(|t| same(&bare(t.value()), &bare(before))) {
            errs.forbidden(v.path(), "existing toleration can not be modified except its tolerationSeconds");
            return;
        }
    }
    pod_spec::scheduling::tolerations(errs, &v);
}

/// A pod that waits at a gate may get more requirements on its node, never fewer.
fn narrower_nodes(errs: &mut ErrorList, spec: &View<'_>, old: &Value, munged: &mut Value) {
    let selector = spec.get("nodeSelector");
    for (key, before) in at(old, &["nodeSelector"]).as_object().into_iter().flatten() {
        if selector.get(key).value() != before {
            errs.invalid(
                selector.path(),
                selector.value(),
                "only additions to spec.nodeSelector are allowed (no mutations or deletions)",
            );
            break;
        }
    }
    restore(munged, old, &["nodeSelector"]);
    const REQUIRED: [&str; 4] =
        ["affinity", "nodeAffinity", "requiredDuringSchedulingIgnoredDuringExecution", "nodeSelectorTerms"];
    let (terms, before) = (list(spec.value(), &REQUIRED), list(old, &REQUIRED));
    if !before.is_empty() {
        let path = REQUIRED.iter().fold(spec.path().clone(), |p, f| p.child(f));
        if terms.len() != before.len() {
            errs.invalid(
                &path,
                at(spec.value(), &REQUIRED),
                "no additions/deletions to non-empty NodeSelectorTerms list are allowed",
            );
        }
        for (i, (term, before)) in terms.iter().zip(before).enumerate() {
            let grown = ["matchExpressions", "matchFields"].iter().all(|f| {
                let (now, before) = (list(term, &[f]), list(before, &[f]));
                now.len() >= before.len() && now.iter().zip(before).all(|(a, b)| same(a, b))
            });
            if !grown {
                errs.invalid(&path.index(i), term, "only additions are allowed (no mutations or deletions)");
            }
        }
    }
    restore(munged, old, &["affinity"]);
}

/// The fields that differ, one line each, old and new.
fn difference(new: &Value, old: &Value) -> String {
    let mut lines = Vec::new();
    let keys: std::collections::BTreeSet<&String> =
        [new, old].into_iter().filter_map(Value::as_object).flat_map(|m| m.keys()).collect();
    for key in keys {
        let (a, b) = (at(old, &[key]), at(new, &[key]));
        if !same(a, b) {
            lines.push(format!("-  {key}: {a}\n+  {key}: {b}"));
        }
    }
    lines.join("\n")
}

/// An update through `status`.
pub fn status(new: &Value, old: &Value) -> ErrorList {
    let mut errs = ErrorList::new();
    let root = View::root(new);
    annotations(&mut errs, &root, old);
    let status = root.get("status");
    let nominated = status.get("nominatedNodeName");
    if !nominated.str().is_empty() && nominated.str() != text(old, &["status", "nominatedNodeName"]) {
        crate::validate::dns_subdomain_at(&mut errs, &nominated);
    }
    let policy = text(old, &["spec", "restartPolicy"]);
    for (statuses, containers) in [("containerStatuses", "containers"), ("initContainerStatuses", "initContainers")] {
        transitions(&mut errs, &status.get(statuses), old, statuses, containers, policy);
    }
    let ips = status.get("podIPs");
    for ip in ips.list() {
        crate::validate::ip_address(&mut errs, ip.get("ip").str(), ip.get("ip").path());
    }
    if ips.len() > 1 {
        let v6 = ips.list().iter().filter(|ip| ip.get("ip").str().contains(':')).count();
        if ips.len() > 2 || v6 != 1 {
            errs.invalid(ips.path(), ips.value(), "may specify no more than one IP for each IP family");
        }
    }
    errs
}

/// A container that ended and is not to be started again cannot be shown running.
fn transitions(errs: &mut ErrorList, now: &View<'_>, old: &Value, statuses: &str, containers: &str, policy: &str) {
    if policy == "Always" {
        return;
    }
    for (i, before) in list(old, &["status", statuses]).iter().enumerate() {
        let terminated = at(before, &["state", "terminated"]);
        if terminated.is_null() {
            continue;
        }
        let failed = at(terminated, &["exitCode"]).as_i64().unwrap_or_default() != 0;
        let stays = list(old, &["spec", containers])
            .iter()
            .any(|c| c.get("name") == before.get("name") && text(c, &["restartPolicy"]) == "Always");
        if (failed && policy == "OnFailure") || stays {
            continue;
        }
        for status in now.list() {
            if status.value().get("name") == before.get("name") && !status.dig("state.terminated").is_set() {
                let path: Path = now.path().index(i).child("state");
                errs.forbidden(&path, "may not be transitioned to non-terminated state");
            }
        }
    }
}

/// An update through `ephemeralcontainers`: they can be added, not changed nor taken away.
pub fn ephemeral_containers(cx: &Cx<'_>, new: &Value, old: &Value) -> ErrorList {
    let mut errs = ErrorList::new();
    let v = View::root(new).dig("spec.ephemeralContainers");
    if !at(old, &["metadata", "annotations", MIRROR]).is_null() {
        errs.forbidden(&Path::new("spec"), "static pods do not support ephemeral containers");
        return errs;
    }
    errs.extend(pod_spec::pod(cx, new));
    for before in list(old, &["spec", "ephemeralContainers"]) {
        let name = text(before, &["name"]);
        match v.list().iter().find(|c| c.get("name").str() == name) {
            None => errs.forbidden(
                v.path(),
                format!("existing ephemeral containers {} may not be removed\n", crate::field::quote(name)),
            ),
            Some(now) if !same(now.value(), before) => {
                errs.forbidden(
                    v.path(),
                    format!("existing ephemeral containers {} may not be changed\n", crate::field::quote(name)),
                );
            }
            Some(_) => {}
        }
    }
    errs
}

/// An update through `resize`: CPU and memory of containers, as long as the quality of service stays.
pub fn resize(cx: &Cx<'_>, new: &Value, old: &Value) -> ErrorList {
    let mut errs = pod_spec::pod(cx, new);
    let root = View::root(new);
    let spec = root.get("spec");
    if !at(old, &["metadata", "annotations", MIRROR]).is_null() {
        errs.forbidden(&Path::root(), "static pods cannot be resized");
        return errs;
    }
    if text(old, &["spec", "os", "name"]) == "windows" {
        errs.forbidden(&Path::root(), "windows pods cannot be resized");
        return errs;
    }
    let before_class = super::defaults::qos_class(at(old, &["spec"]));
    let class = super::defaults::qos_class(spec.value());
    if class != before_class {
        errs.invalid(
            root.dig("status.qosClass").path(),
            class,
            format!("Pod QOS Class may not change as a result of resizing. Current: {before_class}, New: {class}"),
        );
    }
    let mut munged = spec.value().clone();
    for field in ["containers", "initContainers"] {
        for (container, before) in items_mut(&mut munged, field).zip(list(old, &["spec", field])) {
            let fixed = field == "initContainers" && text(before, &["restartPolicy"]) != "Always";
            if fixed {
                continue;
            }
            for kind in ["requests", "limits"] {
                for resource in ["cpu", "memory"] {
                    restore(container, before, &["resources", kind, resource]);
                }
            }
            restore(container, before, &["resizePolicy"]);
        }
    }
    if let Some(resources) = at_mut(&mut munged, &["resources"]) {
        for kind in ["requests", "limits"] {
            for resource in ["cpu", "memory"] {
                restore(resources, at(old, &["spec", "resources"]), &[kind, resource]);
            }
        }
    }
    if !same(&munged, at(old, &["spec"])) {
        errs.forbidden(
            spec.path(),
            format!("only cpu and memory resources are mutable\n{}", difference(&munged, at(old, &["spec"]))),
        );
    }
    errs
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::kind::Features;

    fn problems(change: impl FnOnce(&mut Value)) -> Vec<String> {
        let mut old = json!({"metadata": {"name": "x"}, "spec": {"nodeName": "n", "containers": [{"name": "c", "image": "a:1"}],
            "tolerations": [{"operator": "Exists", "key": "k", "effect": "NoExecute"}]}});
        super::super::defaults::pod(&mut old);
        let mut new = old.clone();
        change(&mut new);
        let features = Features::default();
        let cx = Cx { now: jiff::Timestamp::UNIX_EPOCH, subresource: None, user: "t", features: &features };
        pod(&cx, &new, &old).0.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn images_and_tolerations_may_change() {
        assert!(problems(|p| p["spec"]["containers"][0]["image"] = json!("a:2")).is_empty());
        assert!(problems(|p| p["spec"]["activeDeadlineSeconds"] = json!(5)).is_empty());
        assert!(problems(|p| p["spec"]["tolerations"][0]["tolerationSeconds"] = json!(5)).is_empty());
    }

    #[test]
    fn the_rest_may_not() {
        let errs = problems(|p| p["spec"]["nodeName"] = json!("m"));
        assert!(errs[0].starts_with("spec: Forbidden: pod updates may not change fields other than"), "{errs:?}");
        assert_eq!(
            problems(|p| p["spec"]["tolerations"] = json!([])),
            ["spec.tolerations: Forbidden: existing toleration can not be modified except its tolerationSeconds"]
        );
        assert_eq!(
            problems(|p| p["spec"]["containers"] = json!([])),
            [
                "spec.containers: Required value",
                "spec.containers: Forbidden: pod updates may not add or remove containers"
            ]
        );
    }
}
