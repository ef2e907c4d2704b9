//! What `kubectl get pods` shows. Upstream: `printPod` in `pkg/printers/internalversion/printers.go`.

use jiff::Timestamp;
use serde_json::{Value, json};

use crate::kind::Cells;
use crate::object::{at, list, text};
use crate::table::{age, name, or_none, since};

/// A side-car: an init container that keeps running.
fn is_sidecar(container: &Value) -> bool {
    text(container, &["restartPolicy"]) == "Always"
}

fn number(v: &Value, field: &str) -> i64 {
    at(v, &[field]).as_i64().unwrap_or_default()
}

fn is_true(pod: &Value, condition: &str) -> bool {
    list(pod, &["status", "conditions"]).iter().any(|c| c["type"] == condition && c["status"] == "True")
}

/// Restarts so far and the time of the last one.
#[derive(Default)]
struct Restarts {
    count: i64,
    last: Option<Timestamp>,
}

impl Restarts {
    fn add(&mut self, status: &Value) {
        self.count += number(status, "restartCount");
        let ended = text(status, &["lastState", "terminated", "finishedAt"]).parse::<Timestamp>().ok();
        self.last = self.last.max(ended);
    }
}

/// How a container ended, for the status column.
fn ended(terminated: &Value) -> String {
    match (text(terminated, &["reason"]), number(terminated, "signal")) {
        ("", 0) => format!("ExitCode:{}", number(terminated, "exitCode")),
        ("", signal) => format!("Signal:{signal}"),
        (reason, _) => reason.to_owned(),
    }
}

/// The cells of a pod.
pub fn cells(pod: &Value, now: Timestamp) -> Cells {
    let phase = text(pod, &["status", "phase"]);
    let mut reason = match text(pod, &["status", "reason"]) {
        "" => phase,
        reason => reason,
    }
    .to_owned();
    if list(pod, &["status", "conditions"])
        .iter()
        .any(|c| c["type"] == "PodScheduled" && c["reason"] == "SchedulingGated")
    {
        reason = "SchedulingGated".into();
    }

    let init = list(pod, &["spec", "initContainers"]);
    let mut total = list(pod, &["spec", "containers"]).len() + init.iter().filter(|c| is_sidecar(c)).count();
    let mut ready = 0usize;
    let mut restarts = Restarts::default();
    let mut sidecar_restarts = Restarts::default();
    let mut initializing = false;
    for (i, status) in list(pod, &["status", "initContainerStatuses"]).iter().enumerate() {
        restarts.add(status);
        let sidecar = init.iter().any(|c| c["name"] == status["name"] && is_sidecar(c));
        if sidecar {
            sidecar_restarts.add(status);
        }
        let terminated = at(status, &["state", "terminated"]);
        let waiting = text(status, &["state", "waiting", "reason"]);
        if !terminated.is_null() && number(terminated, "exitCode") == 0 {
            continue;
        }
        if sidecar && at(status, &["started"]) == &Value::Bool(true) {
            ready += usize::from(at(status, &["ready"]) == &Value::Bool(true));
            continue;
        }
        reason = if !terminated.is_null() {
            format!("Init:{}", ended(terminated))
        } else if !waiting.is_empty() && waiting != "PodInitializing" {
            format!("Init:{waiting}")
        } else {
            format!("Init:{i}/{}", init.len())
        };
        initializing = true;
        break;
    }

    if !initializing || is_true(pod, "Initialized") {
        restarts = sidecar_restarts;
        let mut running = false;
        for status in list(pod, &["status", "containerStatuses"]).iter().rev() {
            restarts.add(status);
            let terminated = at(status, &["state", "terminated"]);
            let waiting = text(status, &["state", "waiting", "reason"]);
            if !waiting.is_empty() {
                reason = waiting.to_owned();
            } else if !terminated.is_null() {
                reason = ended(terminated);
            } else if at(status, &["ready"]) == &Value::Bool(true) && !at(status, &["state", "running"]).is_null() {
                running = true;
                ready += 1;
            }
        }
        if reason == "Completed" && running {
            reason = if is_true(pod, "Ready") { "Running" } else { "NotReady" }.into();
        }
    }

    if !at(pod, &["metadata", "deletionTimestamp"]).is_null() {
        if text(pod, &["status", "reason"]) == "NodeLost" {
            reason = "Unknown".into();
        } else if !matches!(phase, "Succeeded" | "Failed") {
            reason = "Terminating".into();
        }
    }

    let restarts_text = match restarts.last {
        Some(last) if restarts.count != 0 => {
            format!("{} ({} ago)", restarts.count, since(Some(&last.to_string()), now))
        }
        _ => restarts.count.to_string(),
    };
    let ip = match list(pod, &["status", "podIPs"]).first() {
        Some(first) => text(first, &["ip"]),
        None => text(pod, &["status", "podIP"]),
    };
    let gates = list(pod, &["spec", "readinessGates"]);
    let gates_text = if gates.is_empty() {
        "<none>".to_owned()
    } else {
        let met = gates.iter().filter(|g| is_true(pod, text(g, &["conditionType"]))).count();
        format!("{met}/{}", gates.len())
    };
    total = total.max(ready);
    vec![
        json!(name(pod)),
        json!(format!("{ready}/{total}")),
        json!(reason),
        json!(restarts_text),
        json!(age(pod, now)),
        json!(or_none(ip)),
        json!(or_none(text(pod, &["spec", "nodeName"]))),
        json!(or_none(text(pod, &["status", "nominatedNodeName"]))),
        json!(gates_text),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(pod: Value, expected: &str) {
        let now: Timestamp = "2026-01-01T00:01:00Z".parse().expect("a time");
        let mut pod = pod;
        crate::object::set(&mut pod, &["metadata", "creationTimestamp"], "2026-01-01T00:00:00Z");
        let cells = cells(&pod, now);
        let shown: Vec<&str> = cells.iter().skip(1).map(|c| c.as_str().unwrap_or("?")).collect();
        assert_eq!(shown.join(" | "), expected);
    }

    #[test]
    fn a_pending_pod_shows_its_phase() {
        check(
            json!({"spec": {"containers": [{"name": "a"}]}, "status": {"phase": "Pending"}}),
            "0/1 | Pending | 0 | 60s | <none> | <none> | <none> | <none>",
        );
    }

    #[test]
    fn a_crashing_container_shows_its_back_off_and_last_restart() {
        let status = json!({"name": "a", "restartCount": 1, "state": {"waiting": {"reason": "CrashLoopBackOff"}},
            "lastState": {"terminated": {"finishedAt": "2026-01-01T00:00:55Z", "exitCode": 1}}});
        check(
            json!({"spec": {"containers": [{"name": "a"}], "nodeName": "n"},
                "status": {"phase": "Running", "podIPs": [{"ip": "10.0.0.1"}], "containerStatuses": [status]}}),
            "0/1 | CrashLoopBackOff | 1 (5s ago) | 60s | 10.0.0.1 | n | <none> | <none>",
        );
    }

    #[test]
    fn init_containers_count_down_and_sidecars_count_as_containers() {
        check(
            json!({"spec": {"containers": [{"name": "a"}], "initContainers": [{"name": "i"}, {"name": "s", "restartPolicy": "Always"}]},
                "status": {"phase": "Pending", "initContainerStatuses": [{"name": "i", "state": {"running": {}}}]}}),
            "0/2 | Init:0/2 | 0 | 60s | <none> | <none> | <none> | <none>",
        );
        check(
            json!({"metadata": {"deletionTimestamp": "2026-01-01T00:00:30Z"}, "spec": {"containers": [{"name": "a"}]},
                "status": {"phase": "Running", "containerStatuses": [{"name": "a", "ready": true, "state": {"running": {}}}]}}),
            "1/1 | Terminating | 0 | 60s | <none> | <none> | <none> | <none>",
        );
    }
}
