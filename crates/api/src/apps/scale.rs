//! `Scale` of `autoscaling/v1`, the body of the subresource `scale` of workloads.

use serde_json::{Map, Value, json};

use crate::field::ErrorList;
use crate::kind::{Cells, Cx, Kind};
use crate::kinds::{AGE, CREATE_ONLY, Facts, facts};
use crate::object::{View, at, set};
use crate::table::{age, name};
use crate::validate::non_negative;

/// The kind `Scale`.
pub struct Scale;

impl Kind for Scale {
    facts!(Facts {
        kind: "Scale",
        plural: "scale",
        verbs: CREATE_ONLY,
        columns: &[("Name", "string", "", 0), ("Desired", "integer", "", 0), ("Available", "integer", "", 0), AGE,],
        ..Facts::namespaced("autoscaling", "v1")
    });

    fn validate(&self, _cx: &Cx<'_>, obj: &Value) -> ErrorList {
        let mut errs = ErrorList::new();
        non_negative(&mut errs, &View::root(obj).dig("spec.replicas"));
        errs
    }

    fn cells(&self, obj: &Value, now: jiff::Timestamp) -> Cells {
        let count = |path: &[&str]| at(obj, path).as_i64().unwrap_or_default();
        let (desired, available) = (count(&["spec", "replicas"]), count(&["status", "replicas"]));
        vec![json!(name(obj)), json!(desired), json!(available), json!(age(obj, now))]
    }
}

/// The scale of a workload. Upstream: `scaleFromDeployment` and its like.
pub fn of(workload: &Value) -> Value {
    let mut metadata = Map::new();
    for field in ["name", "namespace", "uid", "resourceVersion", "creationTimestamp"] {
        let value = at(workload, &["metadata", field]);
        if !value.is_null() {
            metadata.insert(field.into(), value.clone());
        }
    }
    let count = |path: &[&str]| at(workload, path).as_i64().unwrap_or_default();
    let mut scale = json!({
        "apiVersion": "autoscaling/v1", "kind": "Scale", "metadata": metadata,
        "spec": {}, "status": {"replicas": count(&["status", "replicas"])},
    });
    if count(&["spec", "replicas"]) != 0 {
        scale["spec"]["replicas"] = json!(count(&["spec", "replicas"]));
    }
    let selector = selector_text(at(workload, &["spec", "selector"]));
    if !selector.is_empty() {
        scale["status"]["selector"] = json!(selector);
    }
    scale
}

/// A selector as text: that of a replication controller is a plain map, others are label selectors.
fn selector_text(selector: &Value) -> String {
    let text = if selector.get("matchLabels").is_some() || selector.get("matchExpressions").is_some() {
        crate::table::label_selector(selector)
    } else {
        crate::table::labels(selector)
    };
    Some(text).filter(|t| t != "<none>").unwrap_or_default()
}

/// Writes the number a scale asks for into the workload. The preconditions of the scale's metadata (uid,
/// resourceVersion) are the caller's.
pub fn apply(scale: &Value, workload: &mut Value) {
    set(workload, &["spec", "replicas"], at(scale, &["spec", "replicas"]).as_i64().unwrap_or_default());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_scale_of_a_workload_says_how_many_and_which_pods() {
        let deployment = json!({"metadata": {"name": "x", "namespace": "d"}, "status": {"replicas": 1},
            "spec": {"replicas": 2, "selector": {"matchLabels": {"app": "x"}}}});
        let mut scale = of(&deployment);
        assert_eq!(scale["spec"], json!({"replicas": 2}));
        assert_eq!(scale["status"], json!({"replicas": 1, "selector": "app=x"}));
        scale["spec"] = json!({});
        let mut scaled = deployment;
        apply(&scale, &mut scaled);
        assert_eq!(scaled["spec"]["replicas"], 0);
    }

    #[test]
    fn selectors_read_as_upstream_prints_them() {
        let check = |selector: Value, text: &str| assert_eq!(selector_text(&selector), text);
        check(json!({"app": "x", "a": "b"}), "a=b,app=x");
        check(
            json!({"matchLabels": {"app": "x"}, "matchExpressions": [
                {"key": "tier", "operator": "In", "values": ["b", "a"]},
                {"key": "gone", "operator": "DoesNotExist"}]}),
            "app=x,!gone,tier in (a,b)",
        );
        check(json!({}), "");
        check(Value::Null, "");
    }
}
