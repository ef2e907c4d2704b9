//! What a pod's runtime class adds to it: overhead, node selector, tolerations
//! (`plugin/pkg/admission/runtimeclass`).

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
        if request.operation != Operation::Create || !request.is("", "pods", "") {
            return Ok(());
        }
        let name = object["spec"]["runtimeClassName"].as_str().unwrap_or_default().to_owned();
        if name.is_empty() {
            let has = object["spec"]["overhead"].as_object().is_some_and(|o| !o.is_empty());
            let text = "pod rejected: Pod Overhead set without corresponding RuntimeClass defined Overhead";
            return if has { Err(request.forbidden(object, text)) } else { Ok(()) };
        }
        let found = get_fresh(&*self.objects, "node.k8s.io", "runtimeclasses", "", &name).await?;
        let Some(class) = found else {
            return Err(request.forbidden(object, &format!("pod rejected: RuntimeClass {name:?} not found")));
        };
        apply(object, &class).map_err(|why| request.forbidden(object, &why))
    }
}

fn apply(pod: &mut Value, class: &Value) -> Result<(), String> {
    let fixed = &class["overhead"]["podFixed"];
    let given = pod["spec"]["overhead"].as_object().filter(|o| !o.is_empty()).cloned();
    match (fixed.as_object().filter(|o| !o.is_empty()), given) {
        (Some(fixed), None) => pod["spec"]["overhead"] = json!(fixed),
        (Some(fixed), Some(given)) if *fixed != given => {
            return Err("pod rejected: Pod's Overhead doesn't match RuntimeClass's defined Overhead".into());
        }
        (None, Some(_)) => {
            return Err("pod rejected: Pod Overhead set without corresponding RuntimeClass defined Overhead".into());
        }
        _ => {}
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
}
