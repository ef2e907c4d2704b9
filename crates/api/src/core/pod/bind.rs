//! The binding of a pod to a node.
//!
//! Upstream: `setPodNodeAndMetadata` in `pkg/registry/core/pod/storage/storage.go`. It changes the record below everything
//! that guards an object: nobody comes to own the fields that it sets, and nothing is defaulted or checked again.

use serde_json::{Value, json};

use crate::codec::json::Outline;
use crate::field::quote;
use crate::object::{at, text};

/// Binds a stored pod to the node that a binding names, and adds the binding's labels and annotations to the pod's. The
/// error is the cause of the conflict.
pub fn bind(pod: &mut Outline<'_>, binding: &Value, now: jiff::Timestamp) -> Result<(), String> {
    let broken = || "the stored pod cannot be read".to_owned();
    let meta = pod.open("metadata").ok_or_else(broken)?;
    let name = meta.text("name");
    let asked = text(binding, &["metadata", "uid"]);
    if !asked.is_empty() && asked != meta.text("uid") {
        let uid = meta.text("uid");
        return Err(format!("Precondition failed: UID in precondition: {asked}, UID in object meta: {uid}"));
    }
    if !meta.get("deletionTimestamp").is_null() {
        return Err(format!("pod {name} is being deleted, cannot be assigned to a host"));
    }
    for field in ["annotations", "labels"] {
        let given = at(binding, &["metadata", field]).as_object().filter(|given| !given.is_empty());
        let Some(given) = given else { continue };
        let own = meta.open(field).ok_or_else(broken)?;
        given.iter().for_each(|(key, value)| own.set(key, value.clone()));
    }
    let spec = pod.open("spec").ok_or_else(broken)?;
    let node = spec.text("nodeName");
    if !node.is_empty() {
        return Err(format!("pod {name} is already assigned to node {}", quote(&node)));
    }
    if spec.get("schedulingGates").as_array().is_some_and(|gates| !gates.is_empty()) {
        return Err(format!("pod {name} has non-empty .spec.schedulingGates"));
    }
    spec.set("nodeName", text(binding, &["target", "name"]).into());
    let status = pod.open("status").ok_or_else(broken)?;
    // It has one: nobody is to keep a place for it any more (`ClearingNominatedNodeNameAfterBinding`).
    status.remove("nominatedNodeName");
    let conditions = scheduled(status.get("conditions"), now);
    status.set("conditions", conditions);
    Ok(())
}

/// The conditions with `PodScheduled`; the time of its last transition stays if it was true before
/// (`podutil.UpdatePodCondition`).
fn scheduled(conditions: Value, now: jiff::Timestamp) -> Value {
    let mut conditions = match conditions {
        Value::Array(conditions) => conditions,
        _ => Vec::new(),
    };
    let time = Value::String(now.strftime("%Y-%m-%dT%H:%M:%SZ").to_string());
    let condition =
        |time| json!({"type": "PodScheduled", "status": "True", "lastProbeTime": null, "lastTransitionTime": time});
    match conditions.iter_mut().find(|c| c["type"] == "PodScheduled") {
        Some(existing) => {
            let time = if existing["status"] == "True" { existing["lastTransitionTime"].take() } else { time };
            *existing = condition(time);
        }
        None => conditions.push(condition(time)),
    }
    conditions.into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::json::to_vec;
    use crate::schema::Type;

    fn bound(pod: &Value, binding: &Value) -> Result<Value, String> {
        let ty = Type::of_kind("", "v1", "Pod").expect("a type");
        let bytes = to_vec(pod, ty);
        let mut outline = Outline::read(&bytes, ty).expect("an object");
        bind(&mut outline, binding, jiff::Timestamp::UNIX_EPOCH)?;
        let mut out = Vec::new();
        outline.write(&mut out);
        let value: Value = serde_json::from_slice(&out).expect("JSON");
        assert_eq!(to_vec(&value, ty), out, "it is written as it would be encoded");
        Ok(value)
    }

    const THEN: &str = "1970-01-01T00:00:00Z";

    #[test]
    fn a_pod_is_bound_once() {
        let binding = json!({"target": {"name": "n"}});
        let mut pod = json!({"metadata": {"name": "p"}, "spec": {"containers": [{"name": "c"}], "priority": 0}});
        pod["status"] = json!({"phase": "Pending", "nominatedNodeName": "n"});
        let after = bound(&pod, &binding).expect("bound");
        let condition =
            json!({"type": "PodScheduled", "status": "True", "lastProbeTime": null, "lastTransitionTime": THEN});
        pod["spec"]["nodeName"] = json!("n");
        // Nobody keeps a place for it any more.
        pod["status"] = json!({"phase": "Pending", "conditions": [condition]});
        assert_eq!(after, pod);
        assert_eq!(bound(&after, &binding), Err("pod p is already assigned to node \"n\"".into()));
    }

    #[test]
    fn what_cannot_be_bound_says_why() {
        let pod = |meta: Value, spec: Value| {
            let mut pod = json!({"metadata": {"name": "p", "uid": "u"}, "spec": spec});
            meta.as_object().into_iter().flatten().for_each(|(k, v)| pod["metadata"][k] = v.clone());
            pod
        };
        let to = |uid: &str| json!({"metadata": {"uid": uid}, "target": {"name": "n"}});
        let check = |pod: Value, binding: Value, why: &str| assert_eq!(bound(&pod, &binding), Err(why.to_owned()));
        let other = "Precondition failed: UID in precondition: v, UID in object meta: u";
        check(pod(json!({}), json!({})), to("v"), other);
        let going = json!({"deletionTimestamp": THEN});
        check(pod(going, json!({})), to("u"), "pod p is being deleted, cannot be assigned to a host");
        let gated = json!({"schedulingGates": [{"name": "g"}]});
        check(pod(json!({}), gated), to(""), "pod p has non-empty .spec.schedulingGates");
        check(pod(json!({}), json!(7)), to(""), "the stored pod cannot be read");
        assert!(bound(&pod(json!({}), json!({"schedulingGates": []})), &to("u")).is_ok());
    }

    #[test]
    fn labels_and_annotations_of_the_binding_go_with_it() {
        let pod = json!({"metadata": {"name": "p", "labels": {"b": "1", "z": "1"}}, "spec": {}, "status": {}});
        let binding = json!({"metadata": {"labels": {"a": "2", "z": "2"}, "annotations": {"n": "x\"y"}},
            "target": {"name": "n"}});
        let after = bound(&pod, &binding).expect("bound");
        assert_eq!(after["metadata"]["labels"], json!({"a": "2", "b": "1", "z": "2"}));
        assert_eq!(after["metadata"]["annotations"], json!({"n": "x\"y"}));
    }

    #[test]
    fn the_condition_that_said_no_says_yes() {
        let conditions = |status: &str| {
            json!({"metadata": {}, "spec": {}, "status": {"conditions": [{"type": "Other", "status": "True"},
                {"type": "PodScheduled", "status": status, "reason": "Unschedulable", "message": "m",
                    "lastTransitionTime": "2026-01-01T00:00:00Z"}]}})
        };
        for (status, time) in [("False", THEN), ("True", "2026-01-01T00:00:00Z")] {
            let after = bound(&conditions(status), &json!({"target": {"name": "n"}})).expect("bound");
            let expected = json!([{"type": "Other", "status": "True"},
                {"type": "PodScheduled", "status": "True", "lastProbeTime": null, "lastTransitionTime": time}]);
            assert_eq!(after["status"]["conditions"], expected);
        }
    }
}
