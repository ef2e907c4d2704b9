//! What of a pod may change, by each of its doors.
//!
//! Upstream: `ValidatePodUpdate`, `ValidatePodStatusUpdate`, `ValidatePodEphemeralContainersUpdate`,
//! `ValidatePodResize` in `pkg/apis/core/validation/validation.go`.

use std::collections::BTreeSet;

use serde_json::Value;

use crate::field::{ErrorList, Path};
use crate::kind::Cx;
use crate::object::{View, at, at_mut, items_mut, list, remove, restore, same, text};
use crate::validate::{difference, go_value, internal, pod_spec};

const MIRROR: &str = "kubernetes.io/config.mirror";

/// Annotations that are set once, or never again. Upstream: `ValidatePodSpecificAnnotationUpdates`.
fn annotations(errs: &mut ErrorList, new: &View<'_>, old: &Value) {
    const APP_ARMOR: &str = "container.apparmor.security.beta.kubernetes.io/";
    let what = |key: &str| match key {
        MIRROR => Some("mirror pod annotation"),
        key if key.starts_with(APP_ARMOR) => Some("AppArmor annotations"),
        _ => None,
    };
    let annotations = new.dig("metadata.annotations");
    let before = View::root(old).dig("metadata.annotations");
    for (key, v) in before.entries() {
        if let Some(what) = what(key).filter(|_| annotations.get_named(key).value() != v.value()) {
            errs.forbidden(&annotations.path().key(key), format!("may not remove or update {what}"));
        }
    }
    for (key, _) in annotations.entries() {
        if let Some(what) = what(key).filter(|_| !before.get_named(key).is_set()) {
            errs.forbidden(&annotations.path().key(key), format!("may not add {what}"));
        }
    }
    pod_spec::annotations(errs, &annotations, &new.get("spec"));
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
        for container in &containers.list() {
            let image = container.get("image");
            if image.str().is_empty() {
                errs.required(image.path(), "");
            }
            pod_spec::containers::image_padding(&mut errs, container);
        }
    }
    if !deadline(&mut errs, &spec, old_spec) {
        return errs;
    }
    let gated = !list(old_spec, &["schedulingGates"]).is_empty();
    tolerations(&mut errs, &spec, old_spec);
    gates(&mut errs, &spec, old_spec);

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
                gate.get("name").path(),
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
        if selector.get_named(key).value() != before {
            errs.invalid(
                selector.path(),
                selector.value(),
                "only additions to spec.nodeSelector are allowed (no mutations or deletions)",
            );
            break;
        }
    }
    restore(munged, old, &["nodeSelector"]);
    const TERM: &str = "k8s.io/api/core/v1.NodeSelectorTerm";
    const REQUIRED: [&str; 4] =
        ["affinity", "nodeAffinity", "requiredDuringSchedulingIgnoredDuringExecution", "nodeSelectorTerms"];
    let (terms, before) = (list(spec.value(), &REQUIRED), list(old, &REQUIRED));
    if !before.is_empty() {
        let path = REQUIRED.iter().fold(spec.path().clone(), |p, f| p.child(f));
        if terms.len() != before.len() {
            errs.invalid(
                &path,
                go_value::shown(TERM, at(spec.value(), &REQUIRED)),
                "no additions/deletions to non-empty NodeSelectorTerms list are allowed",
            );
        } else {
            for (i, (term, _)) in terms.iter().zip(before).enumerate().filter(|(_, (now, then))| !narrower(now, then)) {
                let shown = go_value::shown(TERM, term);
                errs.invalid(&path.index(i), shown, "only additions are allowed (no mutations or deletions)");
            }
        }
    }
    restore(munged, old, &["affinity", "nodeAffinity"]);
    if at(old, &["affinity"]).is_null() && same(at(munged, &["affinity"]), &Value::Null) {
        remove(munged, &["affinity"]);
    }
}

/// Whether a term asks for all that it did, and more if it did at all: an empty one chooses no node.
fn narrower(now: &Value, before: &Value) -> bool {
    const FIELDS: [&str; 2] = ["matchExpressions", "matchFields"];
    if FIELDS.iter().all(|field| list(before, &[field]).is_empty()) {
        return FIELDS.iter().all(|field| list(now, &[field]).is_empty());
    }
    FIELDS.iter().all(|field| {
        let (now, before) = (list(now, &[field]), list(before, &[field]));
        now.len() >= before.len() && now.iter().zip(before).all(|(a, b)| same(a, b))
    })
}

/// An update through `status`.
pub fn status(new: &Value, old: &Value) -> ErrorList {
    let mut errs = ErrorList::new();
    let root = View::root(new);
    annotations(&mut errs, &root, old);
    let status = root.get("status");
    conditions(&mut errs, &status.get("conditions"));
    let nominated = status.get("nominatedNodeName");
    if !nominated.str().is_empty() && nominated.str() != text(old, &["status", "nominatedNodeName"]) {
        crate::validate::dns_subdomain_at(&mut errs, &nominated);
    }
    crate::validate::immutable_field(&mut errs, new, old, &["status", "qosClass"]);
    let policy = text(old, &["spec", "restartPolicy"]);
    for (statuses, containers, policy) in [
        ("containerStatuses", "containers", policy),
        ("initContainerStatuses", "initContainers", policy),
        // Nothing starts these again.
        ("ephemeralContainerStatuses", "ephemeralContainers", "Never"),
    ] {
        transitions(&mut errs, &status.get(statuses), old, statuses, containers, policy);
    }
    claim_statuses(&mut errs, &status, &root.get("spec"));
    let pods = status.get("podIPs");
    addresses(&mut errs, &pods);
    one_of_each_family(&mut errs, &pods);
    duplicate_addresses(&mut errs, &pods);
    let (host, hosts) = (status.get("hostIP"), status.get("hostIPs"));
    if let Some(first) = hosts.list().first().map(|first| first.get("ip")).filter(|first| first.str() != host.str()) {
        errs.invalid(first.path(), first.str(), "must be equal to `hostIP`");
    }
    addresses(&mut errs, &hosts);
    duplicate_addresses(&mut errs, &hosts);
    one_of_each_family(&mut errs, &hosts);
    users(&mut errs, &status, text(new, &["spec", "os", "name"]) == "windows");
    allocated(&mut errs, &status.get("containerStatuses"), &root.dig("spec.containers"));
    allocated(&mut errs, &status.get("initContainerStatuses"), &root.dig("spec.initContainers"));
    for container in status.items("ephemeralContainerStatuses") {
        let allocated = container.get("allocatedResourcesStatus");
        if !allocated.is_empty() {
            errs.forbidden(allocated.path(), "must not be specified in container status");
        }
    }
    errs
}

/// Conditions of others than the system have names with a domain. Upstream looks for them below `metadata`.
fn conditions(errs: &mut ErrorList, list: &View<'_>) {
    let path = Path::new("metadata").child("conditions");
    for (i, condition) in list.list().iter().enumerate() {
        let ty = condition.get("type").str();
        if !matches!(ty, "PodScheduled" | "Ready" | "Initialized") {
            for problem in crate::names::qualified_name(ty) {
                errs.invalid(&path.index(i).child("Type"), ty, problem);
            }
        }
    }
}

/// Claims made for the pod, each once. Upstream: `validatePodResourceClaimStatuses`.
fn claim_statuses(errs: &mut ErrorList, status: &View<'_>, spec: &View<'_>) {
    let known: Vec<&str> = spec.items("resourceClaims").iter().map(|c| c.get("name").str()).collect();
    let mut seen = BTreeSet::new();
    for claim in status.items("resourceClaimStatuses") {
        let (name, made) = (claim.get("name"), claim.get("resourceClaimName"));
        if !known.contains(&name.str()) {
            errs.invalid(name.path(), name.str(), "must match the name of an entry in `spec.resourceClaims`");
        }
        if !seen.insert(name.str()) {
            errs.duplicate(name.path(), name.str());
        }
        if made.is_set() {
            for problem in crate::names::dns_subdomain(made.str(), false) {
                errs.invalid(name.path(), made.str(), problem);
            }
        }
    }
}

/// Upstream: `validatePodIPs`, `validateHostIPs`.
fn addresses(errs: &mut ErrorList, list: &View<'_>) {
    for ip in list.list() {
        crate::validate::ip_address(errs, ip.get("ip").str(), ip.path());
    }
}

fn one_of_each_family(errs: &mut ErrorList, list: &View<'_>) {
    let ips = list.list();
    let texts = ips.iter().map(|ip| ip.get("ip").str());
    if ips.len() > 2 || (ips.len() == 2 && !crate::validate::ip::is_dual_stack(texts)) {
        let shown = internal::shown_list(internal::IP, list.value());
        errs.invalid(list.path(), shown, "may specify no more than one IP for each IP family");
    }
}

fn duplicate_addresses(errs: &mut ErrorList, list: &View<'_>) {
    let mut seen = BTreeSet::new();
    for ip in list.list() {
        if !seen.insert(ip.get("ip").str()) {
            errs.duplicate(ip.path(), internal::shown(internal::IP, ip.value()));
        }
    }
}

/// How the devices of containers are, each a resource that the container asks for or claims.
/// Upstream: `validateContainerStatusAllocatedResourcesStatus`.
fn allocated(errs: &mut ErrorList, statuses: &View<'_>, containers: &View<'_>) {
    let containers = containers.list();
    for status in statuses.list() {
        let container = containers.iter().find(|c| c.get("name").str() == status.get("name").str());
        for resource in status.items("allocatedResourcesStatus") {
            let name = resource.get("name");
            if let Some(problem) = container.and_then(|container| not_asked_for(container, name.str())) {
                errs.invalid(name.path(), name.str(), problem);
            }
            let mut seen = BTreeSet::new();
            for device in resource.items("resources") {
                let (health, id) = (device.get("health"), device.get("resourceID"));
                const HEALTH: [&str; 3] = ["Healthy", "Unhealthy", "Unknown"];
                if !HEALTH.contains(&health.str()) {
                    errs.not_supported(health.path(), health.str(), &HEALTH);
                }
                if !seen.insert(id.str()) {
                    errs.duplicate(id.path(), id.str());
                }
            }
        }
    }
}

fn not_asked_for(container: &View<'_>, name: &str) -> Option<&'static str> {
    let resources = container.get("resources");
    if !name.starts_with("claim:") {
        let asked = resources.get("requests").get_named(name).is_set();
        return (!asked).then_some("must match one of the container's resource requests");
    }
    let claimed = resources.items("claims").iter().any(|claim| {
        let request = claim.get("request").str();
        let slash = if request.is_empty() { "" } else { "/" };
        name == ["claim:", claim.get("name").str(), slash, request].concat()
    });
    (!claimed).then_some(
        "must match one of the container's resource claims in a format 'claim:<claimName>/<request>' or \
         'claim:<claimName>' if request is empty",
    )
}

/// Who the processes of containers run as. Upstream: `validateContainerStatusUsers`.
fn users(errs: &mut ErrorList, status: &View<'_>, windows: bool) {
    for list in ["containerStatuses", "initContainerStatuses", "ephemeralContainerStatuses"] {
        for container in status.items(list) {
            let linux = container.dig("user.linux");
            let here = View::at(container.path().child("linux"), linux.value());
            if windows && linux.is_set() {
                errs.forbidden(here.path(), "cannot be set for a windows pod");
            } else if linux.is_set() {
                pod_spec::security::id(errs, &here.get("uid"));
                pod_spec::security::id(errs, &here.get("gid"));
                here.items("supplementalGroups").iter().for_each(|group| pod_spec::security::id(errs, group));
            }
        }
    }
}

/// Whether a container that ended like this is started again: by its own policy and rules, else by the pod's.
fn restarts(container: &Value, policy: &str, code: i64) -> bool {
    let rule = list(container, &["restartPolicyRules"]).iter().any(|rule| {
        let among = list(rule, &["exitCodes", "values"]).iter().any(|v| v.as_i64() == Some(code));
        match text(rule, &["exitCodes", "operator"]) {
            "In" => among,
            "NotIn" => !among,
            _ => false,
        }
    });
    let policy = match text(container, &["restartPolicy"]) {
        "" => policy,
        own => own,
    };
    rule || policy == "Always" || (policy == "OnFailure" && code != 0)
}

/// A container that ended and is not to be started again cannot be shown running.
fn transitions(errs: &mut ErrorList, now: &View<'_>, old: &Value, statuses: &str, containers: &str, policy: &str) {
    for (i, before) in list(old, &["status", statuses]).iter().enumerate() {
        let terminated = at(before, &["state", "terminated"]);
        if terminated.is_null() {
            continue;
        }
        let code = at(terminated, &["exitCode"]).as_i64().unwrap_or_default();
        let container = list(old, &["spec", containers]).iter().find(|c| c.get("name") == before.get("name"));
        if restarts(container.unwrap_or(&Value::Null), policy, code) {
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
    let root = View::root(new);
    let v = root.dig("spec.ephemeralContainers");
    if !at(old, &["metadata", "annotations", MIRROR]).is_null() {
        errs.forbidden(&Path::unnamed(), "static pods do not support ephemeral containers");
        return errs;
    }
    errs.extend(pod_spec::pod(cx, new));
    annotations(&mut errs, &root, old);
    for before in list(old, &["spec", "ephemeralContainers"]) {
        let name = text(before, &["name"]);
        match v.list().iter().find(|c| c.get("name").str() == name) {
            None => errs.forbidden(
                v.path(),
                format!("existing ephemeral containers {} may not be removed\n", crate::field::quote(name)),
            ),
            Some(now) if !same(now.value(), before) => {
                let (name, changes) = (crate::field::quote(name), difference(now.value(), before));
                errs.forbidden(v.path(), format!("existing ephemeral containers {name} may not be changed\n{changes}"));
            }
            Some(_) => {}
        }
    }
    errs
}

/// An update through `resize`: CPU and memory of containers and side-cars, more or less but not none, as long as the
/// quality of service stays. Upstream: `ValidatePodResize`.
pub fn resize(cx: &Cx<'_>, new: &Value, old: &Value) -> ErrorList {
    let mut errs = pod_spec::pod(cx, new);
    let root = View::root(new);
    let spec = root.get("spec");
    let refused = if !at(old, &["metadata", "annotations", MIRROR]).is_null() {
        Some("static pods cannot be resized")
    } else if text(old, &["spec", "os", "name"]) == "windows" {
        Some("windows pods cannot be resized")
    } else {
        None
    };
    if let Some(why) = refused {
        errs = ErrorList::new();
        errs.forbidden(&Path::unnamed(), why);
        return errs;
    }
    let class = match text(old, &["status", "qosClass"]) {
        "" => super::defaults::qos_class(at(old, &["spec"])),
        class => class,
    };
    if class != super::defaults::qos_class(spec.value()) {
        let shown = text(new, &["status", "qosClass"]);
        errs.invalid(spec.path(), shown, "Pod QOS Class may not change as a result of resizing");
    }
    let running = list(old, &["status", "containerStatuses"]).iter().find(|c| !at(c, &["state", "running"]).is_null());
    if running.is_some_and(|status| at(status, &["resources"]).is_null()) {
        errs.forbidden(spec.path(), "Pod running on node without support for resize");
    }
    if !same_containers(&mut errs, &spec, old) {
        return errs;
    }
    for field in ["initContainers", "containers"] {
        for (container, before) in spec.items(field).iter().zip(list(old, &["spec", field])) {
            if field == "containers" || is_sidecar(before) {
                nothing_removed(&mut errs, &container.get("resources"), before);
            }
        }
    }
    let mut munged = spec.value().clone();
    for field in ["containers", "initContainers"] {
        for (container, before) in items_mut(&mut munged, field).zip(list(old, &["spec", field])) {
            let resizable = field == "containers" || is_sidecar(before);
            if resizable {
                restore_compute(container, before);
                restore(container, before, &["resizePolicy"]);
            }
            if !same(container, before) {
                errs.forbidden(
                    spec.path(),
                    match (field, resizable) {
                        ("containers", _) => "only cpu and memory resources are mutable",
                        (_, true) => "only cpu and memory resources for sidecar containers are mutable",
                        (_, false) => "resources for non-sidecar init containers are immutable",
                    },
                );
            }
        }
    }
    restore_compute(&mut munged, at(old, &["spec"]));
    if errs.is_empty() && !same(&munged, at(old, &["spec"])) {
        errs.forbidden(spec.path(), "only cpu and memory resources are mutable");
    }
    errs
}

fn is_sidecar(container: &Value) -> bool {
    text(container, &["restartPolicy"]) == "Always"
}

/// Whether the containers are the same, in the same order. Upstream: `validatePodResizeContainerOrdering`.
fn same_containers(errs: &mut ErrorList, spec: &View<'_>, old: &Value) -> bool {
    let mut same = true;
    for field in ["containers", "initContainers"] {
        let (containers, before) = (spec.items(field), list(old, &["spec", field]));
        if containers.len() != before.len() {
            errs.forbidden(spec.get(field).path(), format!("{field} may not be added or removed on resize"));
            same = false;
            continue;
        }
        for (container, before) in containers.iter().zip(before) {
            let name = container.get("name");
            if name.str() != text(before, &["name"]) {
                errs.forbidden(name.path(), format!("{field} may not be renamed or reordered on resize"));
                same = false;
            }
        }
    }
    same
}

/// What a container asked for it still asks for. Upstream: `validateContainerResize`.
fn nothing_removed(errs: &mut ErrorList, resources: &View<'_>, before: &Value) {
    for (list, what) in [("requests", "resource requests"), ("limits", "resource limits")] {
        let now = resources.get(list);
        let mut names = at(before, &["resources", list]).as_object().into_iter().flatten().map(|(name, _)| name);
        if names.any(|name| !now.map().is_some_and(|m| m.contains_key(name))) {
            errs.forbidden(now.path(), format!("{what} cannot be removed"));
        }
    }
}

fn restore_compute(holder: &mut Value, before: &Value) {
    if at_mut(holder, &["resources"]).is_none() {
        return;
    }
    for kind in ["requests", "limits"] {
        for resource in ["cpu", "memory"] {
            restore(holder, before, &["resources", kind, resource]);
        }
    }
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

    /// What a status update of a pod with these fields says.
    fn status_problems(change: impl FnOnce(&mut Value)) -> Vec<String> {
        let old = json!({"metadata": {"name": "x"}, "spec": {"restartPolicy": "Never", "containers": [
            {"name": "a", "resources": {"requests": {"example.com/nic": "1"}, "claims": [{"name": "c", "request": "r"}, {"name": "d"}]}},
            {"name": "b", "restartPolicy": "Never", "restartPolicyRules": [
                {"action": "Restart", "exitCodes": {"operator": "In", "values": [3]}}]}]},
            "status": {"qosClass": "BestEffort", "hostIP": "10.0.0.9", "containerStatuses": [
                {"name": "a", "state": {"terminated": {"exitCode": 3}}}, {"name": "b", "state": {"terminated": {"exitCode": 3}}}]}});
        let mut new = old.clone();
        change(&mut new["status"]);
        status(&new, &old).0.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_status_tells_what_can_be() {
        assert_eq!(
            status_problems(|s| {
                s["containerStatuses"] =
                    json!([{"name": "a", "state": {"running": {}}}, {"name": "b", "state": {"running": {}}}]);
            }),
            ["status.containerStatuses[0].state: Forbidden: may not be transitioned to non-terminated state"]
        );
        assert_eq!(
            status_problems(|s| {
                s["qosClass"] = json!("Guaranteed");
                s["podIPs"] = json!([{"ip": "10.0.0.1"}, {"ip": "10.0.0.1"}]);
                s["hostIPs"] = json!([{"ip": "x"}]);
                s["conditions"] = json!([{"type": "Ready"}, {"type": "a b"}]);
                s["resourceClaimStatuses"] = json!([{"name": "c"}]);
            }),
            [
                "metadata.conditions[1].Type: Invalid value: \"a b\": name part must consist of alphanumeric characters, '-', \
                 '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyName',  or 'my.name',  or \
                 '123-abc', regex used for validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')",
                "status.qosClass: Invalid value: \"Guaranteed\": field is immutable",
                "status.resourceClaimStatuses[0].name: Invalid value: \"c\": must match the name of an entry in \
                 `spec.resourceClaims`",
                "status.podIPs: Invalid value: [{\"IP\":\"10.0.0.1\"},{\"IP\":\"10.0.0.1\"}]: may specify no more than one IP for \
                 each IP family",
                "status.podIPs[1]: Duplicate value: {\"IP\":\"10.0.0.1\"}",
                "status.hostIPs[0].ip: Invalid value: \"x\": must be equal to `hostIP`",
                "status.hostIPs[0]: Invalid value: \"x\": must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)",
            ]
        );
    }

    #[test]
    fn the_addresses_and_devices_of_a_pod_are_told_once() {
        let health = |name: &str, devices: Value| json!({"name": name, "resources": devices});
        let state = json!({"terminated": {"exitCode": 3}});
        assert_eq!(
            status_problems(|s| {
                s["hostIPs"] = json!([{"ip": "10.0.0.9"}, {"ip": "10.0.0.9"}]);
                s["containerStatuses"][0]["allocatedResourcesStatus"] = json!([
                    health(
                        "gpu",
                        json!([{"resourceID": "0", "health": "Ill"}, {"resourceID": "0", "health": "Unknown"}])
                    ),
                    health("claim:c", json!([])),
                    health("claim:c/r", json!([])),
                    health("claim:d", json!([])),
                    health("example.com/nic", json!([]))
                ]);
                s["ephemeralContainerStatuses"] =
                    json!([{"name": "e", "state": state, "allocatedResourcesStatus": [health("gpu", json!([]))]}]);
            }),
            [
                "status.hostIPs[1]: Duplicate value: {\"IP\":\"10.0.0.9\"}",
                "status.hostIPs: Invalid value: [{\"IP\":\"10.0.0.9\"},{\"IP\":\"10.0.0.9\"}]: may specify no more than one IP \
                 for each IP family",
                "status.containerStatuses[0].allocatedResourcesStatus[0].name: Invalid value: \"gpu\": must match one of the \
                 container's resource requests",
                "status.containerStatuses[0].allocatedResourcesStatus[0].resources[0].health: Unsupported value: \"Ill\": \
                 supported values: \"Healthy\", \"Unhealthy\", \"Unknown\"",
                "status.containerStatuses[0].allocatedResourcesStatus[0].resources[1].resourceID: Duplicate value: \"0\"",
                "status.containerStatuses[0].allocatedResourcesStatus[1].name: Invalid value: \"claim:c\": must match one of \
                 the container's resource claims in a format 'claim:<claimName>/<request>' or 'claim:<claimName>' if request \
                 is empty",
                "status.ephemeralContainerStatuses[0].allocatedResourcesStatus: Forbidden: must not be specified in \
                 container status",
            ]
        );
    }

    /// What a resize of a pod with one container and one init container says.
    fn resize_problems(change: impl FnOnce(&mut Value)) -> Vec<String> {
        let asks = json!({"requests": {"cpu": "1", "memory": "1Gi"}, "limits": {"cpu": "2"}});
        let mut old = json!({"metadata": {"name": "x", "namespace": "d"}, "spec": {
            "containers": [{"name": "c", "image": "i", "resources": asks}],
            "initContainers": [{"name": "i", "image": "i", "resources": asks}]},
            "status": {"qosClass": "Burstable"}});
        super::super::defaults::pod(&mut old);
        let mut new = old.clone();
        change(&mut new);
        let features = Features::default();
        let cx = Cx { now: jiff::Timestamp::UNIX_EPOCH, subresource: Some("resize"), user: "t", features: &features };
        resize(&cx, &new, &old).0.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_resize_changes_cpu_and_memory_only() {
        assert_eq!(
            resize_problems(|p| p["spec"]["containers"][0]["resources"]["requests"]["cpu"] = json!("500m")),
            [""; 0]
        );
        assert_eq!(
            resize_problems(|p| p["spec"]["containers"][0]["resources"]["limits"]["memory"] = json!("2Gi")),
            [""; 0]
        );
        assert_eq!(
            resize_problems(|p| {
                p["spec"]["containers"][0]["resources"] = json!({"requests": {"cpu": "1"}, "limits": {}});
                p["spec"]["initContainers"][0]["resources"]["requests"]["cpu"] = json!("2");
            }),
            [
                "spec.containers[0].resources.requests: Forbidden: resource requests cannot be removed",
                "spec.containers[0].resources.limits: Forbidden: resource limits cannot be removed",
                "spec: Forbidden: resources for non-sidecar init containers are immutable",
            ]
        );
        assert_eq!(
            resize_problems(|p| p["spec"]["containers"][0]["resources"]["requests"]["ephemeral-storage"] = json!("1")),
            ["spec: Forbidden: only cpu and memory resources are mutable"]
        );
        assert_eq!(
            resize_problems(|p| {
                p["spec"]["containers"][0]["resources"] = json!({"requests": {"cpu": "1", "memory": "1Gi"},
                    "limits": {"cpu": "1", "memory": "1Gi"}});
                p["spec"]["initContainers"][0]["resources"] = p["spec"]["containers"][0]["resources"].clone();
            })[0],
            "spec: Invalid value: \"Burstable\": Pod QOS Class may not change as a result of resizing"
        );
        let other = "spec.containers[0].name: Forbidden: containers may not be renamed or reordered on resize";
        assert_eq!(resize_problems(|p| p["spec"]["containers"][0]["name"] = json!("d")), [other]);
        let fewer = "spec.initContainers: Forbidden: initContainers may not be added or removed on resize";
        assert_eq!(resize_problems(|p| p["spec"]["initContainers"] = json!([])), [fewer]);
    }

    /// What validation sees is what was asked for, where containers are others.
    #[test]
    fn a_resize_hides_no_other_containers() {
        use crate::kind::Kind;
        let pod = |names: [&str; 2]| {
            let containers = names.map(|n| json!({"name": n, "image": n, "resources": {"requests": {"cpu": n.len()}}}));
            json!({"metadata": {"name": "x"}, "spec": {"containers": containers}})
        };
        let features = Features::default();
        let cx = Cx { now: jiff::Timestamp::UNIX_EPOCH, subresource: Some("resize"), user: "t", features: &features };
        let names = |asked: [&str; 2]| -> Vec<Value> {
            let mut new = pod(asked);
            super::super::Pod.prepare_update(&cx, &mut new, &pod(["a", "b"]));
            list(&new, &["spec", "containers"]).iter().map(|c| c["name"].clone()).collect()
        };
        assert_eq!(names(["b", "a"]), ["b", "a"]);
        assert_eq!(names(["a", "long"]), ["a", "long"]);
    }

    #[test]
    fn a_pod_at_a_gate_may_be_sent_to_fewer_nodes_only() {
        let terms = |values: Value| {
            json!({"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [
                {"matchExpressions": values}]}}})
        };
        let one = json!({"key": "a", "operator": "Exists"});
        let problems = |change: fn(&mut Value)| {
            let mut old = json!({"metadata": {"name": "x"}, "spec": {"schedulingGates": [{"name": "g"}],
                "containers": [{"name": "c", "image": "i"}], "affinity": terms(json!([one]))}});
            super::super::defaults::pod(&mut old);
            let mut new = old.clone();
            change(&mut new["spec"]);
            let features = Features::default();
            let cx = Cx { now: jiff::Timestamp::UNIX_EPOCH, subresource: None, user: "t", features: &features };
            pod(&cx, &new, &old).0.iter().map(ToString::to_string).collect::<Vec<_>>()
        };
        const TERMS: &str = "/affinity/nodeAffinity/requiredDuringSchedulingIgnoredDuringExecution/nodeSelectorTerms/0";
        assert_eq!(problems(|s| s["nodeSelector"] = json!({"a": "b"})), [""; 0]);
        assert_eq!(
            problems(|s| {
                let term = s.pointer_mut(TERMS).and_then(|t| t["matchExpressions"].as_array_mut()).expect("terms");
                term.push(json!({"key": "b", "operator": "Exists"}));
            }),
            [""; 0]
        );
        assert!(problems(|s| s["affinity"]["podAffinity"] = json!({}))[..].is_empty());
        assert!(
            problems(|s| {
                s["affinity"]["podAntiAffinity"] = json!({"requiredDuringSchedulingIgnoredDuringExecution": [
                    {"topologyKey": "k", "labelSelector": {}}]});
            })[0]
                .starts_with("spec: Forbidden: pod updates may not change fields other than")
        );
        assert_eq!(
            problems(|s| {
                let term = s.pointer_mut(TERMS).expect("terms");
                *term = json!({"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["n"]}]});
            }),
            [
                "spec.affinity.nodeAffinity.requiredDuringSchedulingIgnoredDuringExecution.nodeSelectorTerms[0]: Invalid value: \
              {\"MatchExpressions\":null,\"MatchFields\":[{\"Key\":\"metadata.name\",\"Operator\":\"In\",\"Values\":[\"n\"]}]}: \
              only additions are allowed (no mutations or deletions)"
            ]
        );
        assert_eq!(
            problems(|s| {
                s.pointer_mut(TERMS.trim_end_matches("/0")).and_then(Value::as_array_mut).expect("terms").push(json!({
                    "matchExpressions": [{"key": "b", "operator": "Exists"}]}));
            }),
            [
                "spec.affinity.nodeAffinity.requiredDuringSchedulingIgnoredDuringExecution.nodeSelectorTerms: Invalid value: \
              [{\"MatchExpressions\":[{\"Key\":\"a\",\"Operator\":\"Exists\",\"Values\":null}],\"MatchFields\":null},\
              {\"MatchExpressions\":[{\"Key\":\"b\",\"Operator\":\"Exists\",\"Values\":null}],\"MatchFields\":null}]: \
              no additions/deletions to non-empty NodeSelectorTerms list are allowed"
            ]
        );
        assert_eq!(
            problems(|s| s["schedulingGates"] = json!([{"name": "g"}, {"name": "h"}])),
            ["spec.schedulingGates[1].name: Forbidden: only deletion is allowed, but found new scheduling gate 'h'"]
        );
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
