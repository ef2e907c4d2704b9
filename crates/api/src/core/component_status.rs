//! `ComponentStatus`: how the parts of the control plane are. Read only and made up on the spot.
//!
//! Upstream: `pkg/registry/core/componentstatus/rest.go`.

use serde_json::{Value, json};

use crate::kind::{Cells, Kind};
use crate::kinds::{Facts, NAME, facts};
use crate::object::list;
use crate::table::name;

/// The kind `ComponentStatus`.
pub struct ComponentStatus;

impl Kind for ComponentStatus {
    facts!(Facts {
        kind: "ComponentStatus",
        plural: "componentstatuses",
        short_names: &["cs"],
        verbs: &["get", "list"],
        columns: &[NAME, ("Status", "string", "", 0), ("Message", "string", "", 0), ("Error", "string", "", 0)],
        ..Facts::cluster("", "v1")
    });

    fn deprecation(&self) -> Option<std::borrow::Cow<'_, str>> {
        Some("v1 ComponentStatus is deprecated in v1.19+".into())
    }

    fn cells(&self, obj: &Value, _now: jiff::Timestamp) -> Cells {
        let conditions = list(obj, &["conditions"]);
        let healthy = conditions.iter().find(|c| c["type"] == "Healthy");
        let text = |field: &str| healthy.and_then(|c| c[field].as_str()).unwrap_or_default().to_owned();
        let status = match healthy.map(|c| c["status"] == "True") {
            Some(true) => "Healthy",
            Some(false) => "Unhealthy",
            None => "Unknown",
        };
        vec![json!(name(obj)), json!(status), json!(text("message")), json!(text("error"))]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cells() {
        let check = |conditions: Value, expected: [&str; 4]| {
            let obj = json!({"metadata": {"name": "etcd-0"}, "conditions": conditions});
            assert_eq!(ComponentStatus.cells(&obj, jiff::Timestamp::UNIX_EPOCH), expected.map(|c| json!(c)));
        };
        check(json!([{"type": "Healthy", "status": "True", "message": "ok"}]), ["etcd-0", "Healthy", "ok", ""]);
        check(json!([{"type": "Healthy", "status": "False", "error": "x"}]), ["etcd-0", "Unhealthy", "", "x"]);
    }
}
