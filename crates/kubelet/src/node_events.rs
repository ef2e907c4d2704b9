//! What is told of a node in events when its status changes (pure).
//!
//! Follows upstream `pkg/kubelet/nodestatus/setters.go` (`ReadyCondition`, `MemoryPressureCondition`, `NodeStatus`) and
//! `recordNodeStatusEvent` of `pkg/kubelet/kubelet_node_status.go`.

use orkd_reconcile::{EventType, ObjectRef};
use serde_json::Value;

/// Conditions, their status and what it is called in events.
const TOLD: [(&str, &str, &str); 8] = [
    ("MemoryPressure", "True", "NodeHasInsufficientMemory"),
    ("MemoryPressure", "False", "NodeHasSufficientMemory"),
    ("DiskPressure", "True", "NodeHasDiskPressure"),
    ("DiskPressure", "False", "NodeHasNoDiskPressure"),
    ("PIDPressure", "True", "NodeHasInsufficientPID"),
    ("PIDPressure", "False", "NodeHasSufficientPID"),
    ("Ready", "True", "NodeReady"),
    ("Ready", "False", "NodeNotReady"),
];

/// An event: its type, reason and message.
pub type Told = (EventType, &'static str, String);

/// The reference of the kubelet's own events: the name stands for the unique id, where `kubectl describe` looks for it.
pub fn reference(node: &str) -> ObjectRef {
    ObjectRef { kind: "Node".into(), name: node.into(), uid: node.into(), ..ObjectRef::default() }
}

/// What to tell when a node's status was `before` (null for a node that is new) and is `now`.
pub fn changes(node: &str, before: &Value, now: &Value) -> Vec<Told> {
    let mut told = Vec::new();
    let boot = |status: &Value| status["nodeInfo"]["bootID"].as_str().unwrap_or_default().to_owned();
    if !boot(before).is_empty() && boot(before) != boot(now) {
        let text = format!("Node {node} has been rebooted, boot id: {}", boot(now));
        told.push((EventType::Warning, "Rebooted", text));
    }
    for (kind, status, reason) in TOLD {
        let was = condition(before, kind);
        // That a node is not ready when it is born is no news.
        let news = was != Some(status) && (kind != "Ready" || was.is_some());
        if news && condition(now, kind) == Some(status) {
            told.push((EventType::Normal, reason, is_now(node, reason)));
        }
    }
    told
}

/// What to tell when a node is cordoned or uncordoned.
pub fn schedulable(node: &str, unschedulable: bool) -> Told {
    let reason = if unschedulable { "NodeNotSchedulable" } else { "NodeSchedulable" };
    (EventType::Normal, reason, is_now(node, reason))
}

fn is_now(node: &str, reason: &str) -> String {
    format!("Node {node} status is now: {reason}")
}

/// The status of a condition.
pub fn condition<'a>(status: &'a Value, kind: &str) -> Option<&'a str> {
    let conditions = status["conditions"].as_array()?;
    conditions.iter().find(|c| c["type"] == kind)?["status"].as_str()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// A status from `Type=Status` words and a boot id.
    fn status(conditions: &str, boot: &str) -> Value {
        let conditions: Vec<Value> = conditions
            .split_whitespace()
            .filter_map(|c| c.split_once('='))
            .map(|(kind, status)| json!({"type": kind, "status": status}))
            .collect();
        json!({"conditions": conditions, "nodeInfo": {"bootID": boot}})
    }

    fn check(before: &Value, now: &Value, reasons: &[&str]) {
        let told: Vec<&str> = changes("n", before, now).iter().map(|t| t.1).collect();
        assert_eq!(told, reasons, "{before} {now}");
    }

    #[test]
    fn each_change_is_told_once() {
        let well = status("MemoryPressure=False DiskPressure=False PIDPressure=False Ready=True", "1");
        let new = ["NodeHasSufficientMemory", "NodeHasNoDiskPressure", "NodeHasSufficientPID"];
        check(&Value::Null, &well, &new);
        check(&well, &well, &[]);
        let starting = status("MemoryPressure=False DiskPressure=False PIDPressure=False Ready=False", "1");
        check(&Value::Null, &starting, &new);
        check(&starting, &well, &["NodeReady"]);
        check(&well, &starting, &["NodeNotReady"]);
        let full = status("MemoryPressure=True DiskPressure=True PIDPressure=True Ready=True", "1");
        check(&well, &full, &["NodeHasInsufficientMemory", "NodeHasDiskPressure", "NodeHasInsufficientPID"]);
        // Silent for a while: the controller had said Unknown.
        let unknown = status("MemoryPressure=Unknown DiskPressure=Unknown PIDPressure=Unknown Ready=Unknown", "1");
        check(&unknown, &well, &[&new[..], &["NodeReady"]].concat());
    }

    #[test]
    fn texts_are_upstreams() {
        let reboot = changes("n", &status("Ready=True", "1"), &status("Ready=True", "2"));
        assert_eq!(reboot, [(EventType::Warning, "Rebooted", "Node n has been rebooted, boot id: 2".to_owned())]);
        assert_eq!(schedulable("n", true).2, "Node n status is now: NodeNotSchedulable");
        assert_eq!(schedulable("n", false).2, "Node n status is now: NodeSchedulable");
    }
}
