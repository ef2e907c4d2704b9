//! `Pod`: containers that run together on one node.
//!
//! Upstream: `pkg/registry/core/pod/strategy.go`. A pod is changed through many doors (itself, `status`,
//! `ephemeralcontainers`, `resize`); each lets its own part through, see `prepare_update` here and [`update`].

use serde_json::{Map, Value, json};

use crate::field::ErrorList;
use crate::kind::{Cells, Cx, Kind, MetaPass, Name};
use crate::kinds::{AGE, CONNECT, CREATE_ONLY, Facts, NAME, PROXY, READ_WRITE, STATUS, Sub, facts};
use crate::object::{View, at, at_mut, items_mut, list, restore, set, text};
use crate::strategy::{RESET_STATUS, first_generation, next_generation};
use crate::validate::pod_spec;

mod bind;
mod cells;
pub mod defaults;
pub mod update;

pub use bind::bind;

/// The kind `Pod`.
pub struct Pod;

impl Kind for Pod {
    facts!(Facts {
        kind: "Pod",
        plural: "pods",
        short_names: &["po"],
        categories: &["all"],
        subresources: &[
            Sub("attach", "PodAttachOptions", None, CONNECT),
            Sub("binding", "Binding", None, CREATE_ONLY),
            Sub("ephemeralcontainers", "", None, READ_WRITE),
            Sub("eviction", "Eviction", Some(("policy", "v1")), CREATE_ONLY),
            Sub("exec", "PodExecOptions", None, CONNECT),
            Sub("log", "", None, &["get"]),
            Sub("portforward", "PodPortForwardOptions", None, CONNECT),
            Sub("proxy", "PodProxyOptions", None, PROXY),
            Sub("resize", "", None, READ_WRITE),
            STATUS
        ],
        columns: &[
            NAME,
            ("Ready", "string", "", 0),
            ("Status", "string", "", 0),
            ("Restarts", "string", "", 0),
            AGE,
            ("IP", "string", "", 1),
            ("Node", "string", "", 1),
            ("Nominated Node", "string", "", 1),
            ("Readiness Gates", "string", "", 1)
        ],
        ..Facts::namespaced("", "v1")
    });

    fn meta_passes(&self, subresource: Option<&str>) -> &'static [MetaPass] {
        MetaPass::of_door(subresource, &[MetaPass::Changed, MetaPass::New])
    }

    fn default(&self, obj: &mut Value) {
        defaults::pod(obj);
    }

    fn prepare_create(&self, _cx: &Cx<'_>, obj: &mut Value) {
        first_generation(obj);
        let mut status = json!({"phase": "Pending", "qosClass": defaults::qos_class(at(obj, &["spec"]))});
        merge_label_keys(obj);
        if !list(obj, &["spec", "schedulingGates"]).is_empty() {
            status["conditions"] = json!([{
                "type": "PodScheduled", "status": "False", "reason": "SchedulingGated",
                "message": "Scheduling is blocked due to non-empty scheduling gates",
                "lastProbeTime": null, "lastTransitionTime": null,
            }]);
        }
        set(obj, &["status"], status);
    }

    fn prepare_update(&self, cx: &Cx<'_>, new: &mut Value, old: &Value) {
        match cx.subresource {
            Some("status") => {
                restore(new, old, &["spec"]);
                for field in ["generation", "deletionTimestamp", "ownerReferences"] {
                    restore(new, old, &["metadata", field]);
                }
                if text(new, &["status", "qosClass"]).is_empty() || !text(old, &["status", "qosClass"]).is_empty() {
                    restore(new, old, &["status", "qosClass"]);
                }
                pod_ips(new);
            }
            Some("ephemeralcontainers") => {
                let asked = at(new, &["spec", "ephemeralContainers"]).clone();
                keep_all_but_resource_version(new, old);
                set(new, &["spec", "ephemeralContainers"], asked);
                next_generation(new, old, &["spec"]);
            }
            Some("resize") => {
                let asked = new.clone();
                keep_all_but_resource_version(new, old);
                resize(new, &asked);
                next_generation(new, old, &["spec"]);
            }
            _ => {
                restore(new, old, &["status"]);
                next_generation(new, old, &["spec"]);
            }
        }
    }

    fn validate(&self, cx: &Cx<'_>, obj: &Value) -> ErrorList {
        let mut errs = pod_spec::pod(cx, obj);
        let spec = View::root(obj).get("spec");
        let (node, ephemeral) = (spec.get("nodeName"), spec.get("ephemeralContainers"));
        if !ephemeral.is_empty() {
            errs.forbidden(ephemeral.path(), "cannot be set on create");
        }
        if !node.is_empty() && !spec.get("schedulingGates").is_empty() {
            errs.forbidden(node.path(), "cannot be set until all schedulingGates have been cleared");
        }
        pod_spec::security::annotations_match(&mut errs, &View::root(obj).dig("metadata.annotations"), &spec);
        errs
    }

    fn validate_update(&self, cx: &Cx<'_>, new: &Value, old: &Value) -> ErrorList {
        match cx.subresource {
            Some("status") => update::status(new, old),
            Some("ephemeralcontainers") => update::ephemeral_containers(cx, new, old),
            Some("resize") => update::resize(cx, new, old),
            _ => update::pod(cx, new, old),
        }
    }

    fn warnings(&self, cx: &Cx<'_>, new: &Value, old: Option<&Value>) -> Vec<String> {
        if cx.subresource == Some("status") {
            return Vec::new();
        }
        let mut warnings = pod_spec::warnings::pod_name(new, old, "the Pod's hostname");
        warnings.extend(pod_spec::warnings::pod(new, old));
        warnings
    }

    fn selectable_lists(&self) -> &'static [&'static str] {
        &["podIPs"]
    }

    fn field_label<'l>(&self, label: &'l str) -> Result<&'l str, String> {
        match label {
            // A name that the field had once.
            "spec.host" => Ok("spec.nodeName"),
            "metadata.name" | "metadata.namespace" => Ok(label),
            _ if self.selectable_fields(&Value::Null).iter().any(|(known, _)| known == label) => Ok(label),
            _ => Err(format!("field label not supported: {label}")),
        }
    }

    fn selectable_fields(&self, obj: &Value) -> Vec<(Name, String)> {
        let ips = list(obj, &["status", "podIPs"]);
        let ip = match ips.first() {
            Some(first) => text(first, &["ip"]),
            None => text(obj, &["status", "podIP"]),
        };
        let mut fields: Vec<(Name, String)> =
            ["spec.nodeName", "spec.restartPolicy", "spec.schedulerName", "spec.serviceAccountName"]
                .into_iter()
                .map(|path| (path.into(), text(obj, &path.split('.').collect::<Vec<_>>()).to_owned()))
                .collect();
        let host_network = at(obj, &["spec", "hostNetwork"]) == &Value::Bool(true);
        fields.push(("spec.hostNetwork".into(), host_network.to_string()));
        fields.push(("status.phase".into(), text(obj, &["status", "phase"]).to_owned()));
        fields.push(("status.podIP".into(), ip.to_owned()));
        fields.push(("status.podIPs".into(), ip.to_owned()));
        fields.push(("status.nominatedNodeName".into(), text(obj, &["status", "nominatedNodeName"]).to_owned()));
        fields
    }

    fn cells(&self, obj: &Value, now: jiff::Timestamp) -> Cells {
        cells::cells(obj, now)
    }

    fn row_conditions(&self, obj: &Value) -> Vec<Value> {
        let (reason, message) = match text(obj, &["status", "phase"]) {
            "Succeeded" => ("Succeeded", "The pod has completed successfully."),
            "Failed" => ("Failed", "The pod failed."),
            _ => return Vec::new(),
        };
        vec![json!({"type": "Completed", "status": "True", "reason": reason, "message": message})]
    }

    fn reset_fields(&self, subresource: Option<&str>) -> &'static [&'static [&'static str]] {
        match subresource {
            Some("status") => &[&["spec"], &["metadata", "deletionTimestamp"], &["metadata", "ownerReferences"]],
            Some("ephemeralcontainers" | "resize") => &[&["spec"], &["status"]],
            _ => RESET_STATUS,
        }
    }

    /// A pod gets the time it asked for, or the request; none when no node has it or when it is over already.
    fn graceful_delete(&self, obj: &Value, asked: Option<i64>) -> Option<i64> {
        let period = asked.or_else(|| at(obj, &["spec", "terminationGracePeriodSeconds"]).as_i64()).unwrap_or(0);
        let over = matches!(text(obj, &["status", "phase"]), "Succeeded" | "Failed");
        if over || text(obj, &["spec", "nodeName"]).is_empty() {
            return Some(0);
        }
        // A negative period means the shortest that still lets the node see the deletion.
        Some(if period < 0 { 1 } else { period })
    }
}

/// The object becomes the old one; only the version the client wants to replace stays. Labels and annotations are
/// the client's to change through no such door.
fn keep_all_but_resource_version(new: &mut Value, old: &Value) {
    let version = at(new, &["metadata", "resourceVersion"]).clone();
    let managed = at(new, &["metadata", "managedFields"]).clone();
    *new = old.clone();
    for (field, value) in [("resourceVersion", version), ("managedFields", managed)] {
        if !value.is_null() {
            set(new, &["metadata", field], value);
        }
    }
}

/// Takes over from `asked` what `resize` may change: resources and resize policies of containers. Containers that are
/// others, or in another order, are taken over as they are, for validation to refuse (`dropNonResizeUpdates`).
fn resize(pod: &mut Value, asked: &Value) {
    let Some(spec) = at_mut(pod, &["spec"]) else { return };
    for field in ["containers", "initContainers"] {
        let (theirs, ours) = (list(asked, &["spec", field]), list(spec, &[field]));
        if !ours.iter().map(|c| text(c, &["name"])).eq(theirs.iter().map(|c| text(c, &["name"]))) {
            set(spec, &[field], theirs);
            continue;
        }
        for (container, theirs) in items_mut(spec, field).zip(theirs) {
            restore(container, theirs, &["resources"]);
            restore(container, theirs, &["resizePolicy"]);
        }
    }
    restore(spec, at(asked, &["spec"]), &["resources"]);
}

/// `podIP` is the first of `podIPs`; a client that knows only one of them sets both.
fn pod_ips(pod: &mut Value) {
    let Some(status) = at_mut(pod, &["status"]) else { return };
    for (one, many) in [("podIP", "podIPs"), ("hostIP", "hostIPs")] {
        let single = text(status, &[one]).to_owned();
        match list(status, &[many]).first().map(|first| text(first, &["ip"]).to_owned()) {
            None if !single.is_empty() => set(status, &[many], json!([{"ip": single}])),
            Some(first) if single.is_empty() && !first.is_empty() => set(status, &[one], first),
            _ => {}
        }
    }
}

/// Turns `matchLabelKeys` into requirements on the values the pod has for those labels, so that the scheduler sees
/// plain selectors. Upstream: `applyMatchLabelKeysAndMismatchLabelKeys`, `applyMatchLabelKeysInPodTopologySpread`.
fn merge_label_keys(pod: &mut Value) {
    let labels = at(pod, &["metadata", "labels"]).as_object().cloned().unwrap_or_default();
    let Some(spec) = at_mut(pod, &["spec"]) else { return };
    for kind in ["podAffinity", "podAntiAffinity"] {
        let Some(affinity) = at_mut(spec, &["affinity", kind]) else { continue };
        for term in items_mut(affinity, "requiredDuringSchedulingIgnoredDuringExecution") {
            add_requirements(term, &labels, true);
        }
        for weighted in items_mut(affinity, "preferredDuringSchedulingIgnoredDuringExecution") {
            if let Some(term) = at_mut(weighted, &["podAffinityTerm"]) {
                add_requirements(term, &labels, true);
            }
        }
    }
    for constraint in items_mut(spec, "topologySpreadConstraints") {
        add_requirements(constraint, &labels, false);
    }
}

fn add_requirements(term: &mut Value, labels: &Map<String, Value>, both: bool) {
    if at(term, &["labelSelector"]).is_null() {
        return;
    }
    let mut expressions = list(term, &["labelSelector", "matchExpressions"]).to_vec();
    let before = expressions.len();
    for (field, operator) in [("matchLabelKeys", "In"), ("mismatchLabelKeys", "NotIn")] {
        if !both && operator == "NotIn" {
            continue;
        }
        for key in list(term, &[field]).iter().filter_map(Value::as_str) {
            if let Some(value) = labels.get(key) {
                let requirement = json!({"key": key, "operator": operator, "values": [value]});
                if !expressions.contains(&requirement) {
                    expressions.push(requirement);
                }
            }
        }
    }
    if expressions.len() > before {
        set(term, &["labelSelector", "matchExpressions"], expressions);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kind::Features;

    fn cx<'a>(features: &'a Features, subresource: Option<&'a str>) -> Cx<'a> {
        Cx { now: jiff::Timestamp::UNIX_EPOCH, subresource, user: "test", features }
    }

    #[test]
    fn a_new_pod_is_pending_whatever_the_client_says() {
        let features = Features::default();
        let mut pod = json!({"spec": {"containers": [{"name": "a"}]}, "status": {"phase": "Running"}});
        Pod.prepare_create(&cx(&features, None), &mut pod);
        assert_eq!(pod["status"], json!({"phase": "Pending", "qosClass": "BestEffort"}));
        assert_eq!(pod["metadata"]["generation"], 1);
    }

    #[test]
    fn status_and_spec_have_their_own_doors() {
        let features = Features::default();
        let old = json!({"metadata": {"generation": 1}, "spec": {"nodeName": "n"}, "status": {"phase": "Pending"}});
        let asked = json!({"spec": {"nodeName": "m"}, "status": {"phase": "Running", "podIP": "10.0.0.1"}});
        let mut new = asked.clone();
        Pod.prepare_update(&cx(&features, Some("status")), &mut new, &old);
        assert_eq!(new["spec"], old["spec"]);
        assert_eq!(new["status"]["podIPs"], json!([{"ip": "10.0.0.1"}]));
        let mut new = asked;
        Pod.prepare_update(&cx(&features, None), &mut new, &old);
        assert_eq!((&new["status"], &new["metadata"]["generation"]), (&old["status"], &json!(2)));
    }

    #[test]
    fn label_keys_become_requirements() {
        let features = Features::default();
        let mut pod = json!({"metadata": {"labels": {"v": "1"}}, "spec": {"topologySpreadConstraints": [
            {"matchLabelKeys": ["v", "absent"], "labelSelector": {}}]}});
        Pod.prepare_create(&cx(&features, None), &mut pod);
        assert_eq!(
            pod["spec"]["topologySpreadConstraints"][0]["labelSelector"]["matchExpressions"],
            json!([{"key": "v", "operator": "In", "values": ["1"]}])
        );
    }

    #[test]
    fn grace_ends_at_once_for_pods_no_node_has() {
        let running = json!({"spec": {"nodeName": "n", "terminationGracePeriodSeconds": 30}});
        assert_eq!(Pod.graceful_delete(&running, None), Some(30));
        assert_eq!(Pod.graceful_delete(&running, Some(0)), Some(0));
        assert_eq!(Pod.graceful_delete(&json!({"spec": {}}), Some(30)), Some(0));
    }
}
