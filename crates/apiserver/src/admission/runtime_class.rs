//! What a pod's runtime class adds to it: overhead, node selector, tolerations
//! (`plugin/pkg/admission/runtimeclass`).

use std::sync::Arc;

use async_trait::async_trait;
use orkd_api::status::Status;
use serde_json::{Value, json};

use super::{Operation, Plugin, Request, items};
use crate::lookup::{Lookup, get_fresh};

/// The plugin.
pub struct RuntimeClass {
    objects: Lookup,
}

impl RuntimeClass {
    /// Reads runtime classes here.
    pub fn new(objects: Lookup) -> Self {
        RuntimeClass { objects }
    }
}

#[async_trait]
impl Plugin for RuntimeClass {
    fn name(&self) -> &'static str {
        "RuntimeClass"
    }

    async fn admit(
        &self,
        request: &Request<'_>,
        object: &mut Value,
        _warnings: &mut Vec<String>,
    ) -> Result<(), Status> {
        match self.class(request, object).await? {
            Some(class) => apply(object, &class).map_err(|why| request.forbidden(object, &why)),
            None => Ok(()),
        }
    }

    async fn validate(&self, request: &Request<'_>, object: &Value, _warnings: &mut Vec<String>) -> Result<(), Status> {
        if !is_new_pod(request) {
            return Ok(());
        }
        let class = self.class(request, object).await?;
        check(object, class.as_deref()).map_err(|why| request.forbidden(object, why))
    }
}

fn is_new_pod(request: &Request<'_>) -> bool {
    request.operation == Operation::Create && request.is("", "pods", "")
}

impl RuntimeClass {
    /// The class that a new pod names.
    async fn class(&self, request: &Request<'_>, object: &Value) -> Result<Option<Arc<Value>>, Status> {
        let name = object["spec"]["runtimeClassName"].as_str().unwrap_or_default();
        if !is_new_pod(request) || name.is_empty() {
            return Ok(None);
        }
        let found = get_fresh(&*self.objects, "node.k8s.io", "runtimeclasses", "", name).await?;
        let missing = || request.forbidden(object, &format!("pod rejected: RuntimeClass {name:?} not found"));
        found.ok_or_else(missing).map(Some)
    }
}

/// The overhead of a class; none where it is empty.
fn overhead(of: &Value) -> Option<&serde_json::Map<String, Value>> {
    of.as_object().filter(|o| !o.is_empty())
}

/// Whether a pod has the overhead of its class, and none without one.
fn check(pod: &Value, class: Option<&Value>) -> Result<(), &'static str> {
    match (class.and_then(|c| overhead(&c["overhead"]["podFixed"])), overhead(&pod["spec"]["overhead"])) {
        (None, Some(_)) => Err("pod rejected: Pod Overhead set without corresponding RuntimeClass defined Overhead"),
        (Some(fixed), given) if given != Some(fixed) => Err(MISMATCH),
        _ => Ok(()),
    }
}

const MISMATCH: &str = "pod rejected: Pod's Overhead doesn't match RuntimeClass's defined Overhead";

fn apply(pod: &mut Value, class: &Value) -> Result<(), String> {
    if let Some(fixed) = overhead(&class["overhead"]["podFixed"]) {
        match overhead(&pod["spec"]["overhead"]) {
            Some(given) if given != fixed => return Err(MISMATCH.into()),
            _ => pod["spec"]["overhead"] = json!(fixed),
        }
    }
    let scheduling = &class["scheduling"];
    for (key, value) in scheduling["nodeSelector"].as_object().into_iter().flatten() {
        let wanted = value.as_str().unwrap_or_default();
        match pod["spec"]["nodeSelector"].get(key).and_then(Value::as_str) {
            Some(own) if own != wanted => {
                return Err(format!(
                    "conflict: runtimeClass.scheduling.nodeSelector[{key}] = {wanted}; \
                     pod.spec.nodeSelector[{key}] = {own}"
                ));
            }
            _ => pod["spec"]["nodeSelector"][key] = value.clone(),
        }
    }
    let mut tolerations = items(&pod["spec"]["tolerations"]).to_vec();
    let before = tolerations.len();
    for toleration in items(&scheduling["tolerations"]) {
        if !tolerations.contains(toleration) {
            tolerations.push(toleration.clone());
        }
    }
    if tolerations.len() != before {
        pod["spec"]["tolerations"] = json!(tolerations);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_class_adds_what_it_says() {
        let class = json!({"overhead": {"podFixed": {"cpu": "100m"}}, "scheduling": {"nodeSelector": {"a": "b"},
            "tolerations": [{"key": "t"}]}});
        let mut pod = json!({"spec": {}});
        assert_eq!(apply(&mut pod, &class), Ok(()));
        let whole = json!({"overhead": {"cpu": "100m"}, "nodeSelector": {"a": "b"}, "tolerations": [{"key": "t"}]});
        assert_eq!(pod["spec"], whole);
        assert_eq!(apply(&mut pod, &class), Ok(()));
        assert_eq!(pod["spec"], whole);
        let text = "conflict: runtimeClass.scheduling.nodeSelector[a] = b; pod.spec.nodeSelector[a] = c";
        assert_eq!(apply(&mut json!({"spec": {"nodeSelector": {"a": "c"}}}), &class), Err(text.into()));
        assert!(apply(&mut json!({"spec": {"overhead": {"cpu": "1"}}}), &class).is_err());
    }

    #[test]
    fn overhead_is_that_of_the_class() {
        let with = |cpu: &str| json!({"spec": {"overhead": {"cpu": cpu}}});
        let class = |overhead: Value| json!({"overhead": overhead});
        let fixed = class(json!({"podFixed": {"cpu": "1"}}));
        assert_eq!(check(&json!({"spec": {}}), None), Ok(()));
        assert_eq!(check(&with("1"), Some(&fixed)), Ok(()));
        assert_eq!(check(&with("2"), Some(&fixed)), Err(MISMATCH));
        assert_eq!(
            check(&json!({"spec": {}}), Some(&fixed)),
            Err(MISMATCH),
            "it was named after the class was asked for"
        );
        for class in [None, Some(&class(Value::Null))] {
            let text = "pod rejected: Pod Overhead set without corresponding RuntimeClass defined Overhead";
            assert_eq!(check(&with("1"), class), Err(text));
        }
    }
}
