//! `HorizontalPodAutoscaler` of `autoscaling/v1`: a view of the [v2 form](super::v2) that knows CPU only.
//!
//! What this form cannot say (other metrics, behaviour, conditions) it carries in annotations, so that a client that
//! reads and writes it loses nothing. Upstream: `pkg/apis/autoscaling/v1/conversion.go`; the annotations hold the v2
//! form of their parts here, upstream's hold the v1 form.

use serde_json::{Value, json};

use super::v2;
use crate::field::ErrorList;
use crate::kind::Kind;
use crate::kind::{Cells, Cx};
use crate::kinds::{AGE, Facts, NAME, STATUS, facts};
use crate::object::{at, at_mut, default_value, remove, restore, set};
use crate::strategy::reset_spec_or_status;

/// The kind `HorizontalPodAutoscaler`.
pub struct HorizontalPodAutoscaler;

impl Kind for HorizontalPodAutoscaler {
    facts!(Facts {
        kind: "HorizontalPodAutoscaler",
        plural: "horizontalpodautoscalers",
        short_names: &["hpa"],
        categories: &["all"],
        subresources: &[STATUS],
        columns: &[
            NAME,
            ("Reference", "string", "", 0),
            ("Targets", "string", "", 0),
            ("MinPods", "string", "", 0),
            ("MaxPods", "string", "", 0),
            ("Replicas", "string", "", 0),
            AGE
        ],
        ..Facts::namespaced("autoscaling", "v1")
    });

    fn default(&self, obj: &mut Value) {
        if let Some(spec) = at_mut(obj, &["spec"]) {
            default_value(spec, "minReplicas", 1);
        }
    }

    fn to_storage(&self, obj: &mut Value) {
        set(obj, &["apiVersion"], "autoscaling/v2");
        let mut metrics = unpack(obj, METRICS).and_then(|v| v.as_array().cloned()).unwrap_or_default();
        if let Some(percent) = remove(obj, &["spec", "targetCPUUtilizationPercentage"]) {
            metrics.insert(
                0,
                json!({"type": "Resource", "resource": {"name": "cpu",
                "target": {"type": "Utilization", "averageUtilization": percent}}}),
            );
        }
        if !metrics.is_empty() {
            set(obj, &["spec", "metrics"], metrics);
        }
        let mut current = unpack(obj, CURRENT_METRICS).and_then(|v| v.as_array().cloned()).unwrap_or_default();
        if let Some(percent) = remove(obj, &["status", "currentCPUUtilizationPercentage"]) {
            current.insert(
                0,
                json!({"type": "Resource", "resource": {"name": "cpu",
                "current": {"averageUtilization": percent}}}),
            );
        }
        if !current.is_empty() {
            set(obj, &["status", "currentMetrics"], current);
        }
        if let Some(status) = at_mut(obj, &["status"]) {
            // The stored form leaves a zero out and always says which metrics there are.
            if at(status, &["currentReplicas"]) == 0 {
                remove(status, &["currentReplicas"]);
            }
            default_value(status, "currentMetrics", Value::Null);
        }
        for (annotation, path) in [(BEHAVIOR, ["spec", "behavior"]), (CONDITIONS, ["status", "conditions"])] {
            if let Some(value) = unpack(obj, annotation) {
                set(obj, &path, value);
            }
        }
    }

    fn to_served(&self, obj: &mut Value) {
        set(obj, &["apiVersion"], "autoscaling/v1");
        if let Some(spec) = at_mut(obj, &["spec"]) {
            let mut first = true;
            let is_cpu =
                |m: &Value| m["resource"]["name"] == "cpu" && m["resource"]["target"]["averageUtilization"].is_i64();
            let cpu = crate::object::list(spec, &["metrics"]).iter().find(|m| is_cpu(m)).cloned();
            let others: Vec<Value> = crate::object::list(spec, &["metrics"])
                .iter()
                .filter(|m| !(is_cpu(m) && std::mem::replace(&mut first, false)))
                .cloned()
                .collect();
            remove(spec, &["metrics"]);
            if let Some(cpu) = cpu {
                set(spec, &["targetCPUUtilizationPercentage"], cpu["resource"]["target"]["averageUtilization"].clone());
            }
            pack(obj, METRICS, others.into());
        }
        if let Some(status) = at_mut(obj, &["status"]) {
            let is_cpu =
                |m: &Value| m["resource"]["name"] == "cpu" && m["resource"]["current"]["averageUtilization"].is_i64();
            let cpu = crate::object::list(status, &["currentMetrics"]).iter().find(|m| is_cpu(m)).cloned();
            let others = v2::split(status, "currentMetrics", is_cpu);
            remove(status, &["currentMetrics"]);
            if let Some(cpu) = cpu {
                set(
                    status,
                    &["currentCPUUtilizationPercentage"],
                    cpu["resource"]["current"]["averageUtilization"].clone(),
                );
            }
            default_value(status, "currentReplicas", 0);
            pack(obj, CURRENT_METRICS, others.into());
        }
        for (annotation, path) in [(BEHAVIOR, ["spec", "behavior"]), (CONDITIONS, ["status", "conditions"])] {
            if let Some(value) = remove(obj, &path) {
                pack(obj, annotation, value);
            }
        }
    }

    fn prepare_create(&self, _cx: &Cx<'_>, obj: &mut Value) {
        set(obj, &["status"], json!({"currentReplicas": 0, "desiredReplicas": 0}));
    }

    fn prepare_update(&self, cx: &Cx<'_>, new: &mut Value, old: &Value) {
        restore(new, old, if cx.subresource == Some("status") { &["spec"] } else { &["status"] });
    }

    /// What is checked upstream, too, is the form that knows everything: paths are those of v2.
    fn validate(&self, cx: &Cx<'_>, obj: &Value) -> ErrorList {
        v2::validate(cx, &self.stored(obj), &Value::Null)
    }

    fn validate_update(&self, cx: &Cx<'_>, new: &Value, old: &Value) -> ErrorList {
        if cx.subresource == Some("status") {
            v2::status(new)
        } else {
            v2::validate(cx, &self.stored(new), &self.stored(old))
        }
    }

    fn cells(&self, obj: &Value, now: jiff::Timestamp) -> Cells {
        v2::cells(&self.stored(obj), now)
    }

    fn reset_fields(&self, subresource: Option<&str>) -> &'static [&'static [&'static str]] {
        reset_spec_or_status(subresource)
    }
}

impl HorizontalPodAutoscaler {
    fn stored(&self, obj: &Value) -> Value {
        let mut stored = obj.clone();
        self.to_storage(&mut stored);
        stored
    }
}

const METRICS: &str = "autoscaling.alpha.kubernetes.io/metrics";
const CURRENT_METRICS: &str = "autoscaling.alpha.kubernetes.io/current-metrics";
const CONDITIONS: &str = "autoscaling.alpha.kubernetes.io/conditions";
const BEHAVIOR: &str = "autoscaling.alpha.kubernetes.io/behavior";

/// Writes a part into an annotation, unless it is empty.
fn pack(obj: &mut Value, annotation: &str, part: Value) {
    if !crate::object::same(&part, &Value::Null) {
        set(obj, &["metadata", "annotations", annotation], part.to_string());
    }
}

/// Takes a part out of an annotation. A client's text that is no JSON stays what it is: an annotation.
fn unpack(obj: &mut Value, annotation: &str) -> Option<Value> {
    let path = ["metadata", "annotations", annotation];
    let part = serde_json::from_str(at(obj, &path).as_str()?).ok()?;
    remove(obj, &path);
    if crate::object::same(at(obj, &["metadata", "annotations"]), &Value::Null) {
        remove(obj, &["metadata", "annotations"]);
    }
    Some(part)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn problems_are_those_of_the_other_form() {
        let obj = json!({"metadata": {"name": "h"}, "spec": {"maxReplicas": 0, "minReplicas": 1, "targetCPUUtilizationPercentage": 0,
            "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "d"}}});
        assert_eq!(
            crate::validate::testing::problems(&HorizontalPodAutoscaler, &obj),
            [
                "spec.maxReplicas: Required value: must be set and greater than 0",
                "spec.maxReplicas: Invalid value: 0: must be greater than or equal to `minReplicas`",
                "spec.metrics[0].resource.target.averageUtilization: Invalid value: 0: must be greater than 0",
            ]
        );
    }

    #[test]
    fn nothing_is_lost_between_the_forms() {
        let stored = json!({"apiVersion": "autoscaling/v2", "metadata": {"name": "h"},
            "spec": {"behavior": {"scaleUp": {"selectPolicy": "Min"}}, "metrics": [
                {"type": "Resource", "resource": {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 70}}},
                {"type": "Pods", "pods": {"metric": {"name": "m"}}}]}});
        let mut v1 = stored.clone();
        HorizontalPodAutoscaler.to_served(&mut v1);
        assert_eq!(v1["spec"], json!({"targetCPUUtilizationPercentage": 70}));
        HorizontalPodAutoscaler.to_storage(&mut v1);
        assert_eq!(v1, stored);
    }
}
