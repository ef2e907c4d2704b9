//! The conditions of an autoscaler.

use jiff::Timestamp;
use orkd_reconcile::time;
use serde_json::{Value, json};

/// Why a metric could not be used.
pub(super) struct Failure {
    /// Reason of condition and event.
    pub(super) reason: &'static str,
    /// Text.
    pub(super) why: String,
}

/// The conditions, in the order they were first set.
pub(super) struct Conditions {
    all: Vec<Value>,
    now: Timestamp,
}

impl Conditions {
    /// Those of a status.
    pub(super) fn of(status: &Value, now: Timestamp) -> Self {
        Conditions { all: status["conditions"].as_array().cloned().unwrap_or_default(), now }
    }

    /// Sets one; its time changes with its status only.
    pub(super) fn set(&mut self, kind: &str, holds: bool, reason: &str, message: impl Into<String>) {
        let status = if holds { "True" } else { "False" };
        let at = match self.all.iter().position(|c| c["type"] == kind) {
            Some(at) => at,
            None => {
                self.all.push(json!({ "type": kind }));
                self.all.len() - 1
            }
        };
        let condition = &mut self.all[at];
        if condition["status"] != status {
            condition["lastTransitionTime"] = time(self.now).into();
        }
        condition["status"] = status.into();
        condition["reason"] = reason.into();
        condition["message"] = message.into().into();
    }

    /// As the status has them.
    pub(super) fn to_value(&self) -> Value {
        json!(self.all)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_changes_with_the_status() {
        let now: Timestamp = "2026-01-01T00:00:00Z".parse().expect("a time");
        let mut conditions = Conditions::of(&Value::Null, now);
        conditions.set("AbleToScale", true, "A", "a");
        let mut later =
            Conditions::of(&json!({ "conditions": conditions.to_value() }), now + jiff::SignedDuration::from_secs(9));
        later.set("AbleToScale", true, "B", "b");
        assert_eq!(later.to_value()[0]["lastTransitionTime"], "2026-01-01T00:00:00Z");
        later.set("AbleToScale", false, "C", "c");
        assert_eq!(
            later.to_value(),
            json!([{"type": "AbleToScale", "status": "False", "reason": "C", "message": "c",
                "lastTransitionTime": "2026-01-01T00:00:09Z"}])
        );
    }
}
