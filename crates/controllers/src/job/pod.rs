//! The pod of a job.

use serde_json::{Value, json};

use super::types::{FINALIZER, INDEX, INDEX_FAILURES, INDEX_IGNORED, Job};
use crate::owners;

/// A pod to be made.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NewPod {
    /// Its index, if the job has such.
    pub index: Option<i32>,
    /// How many of the index failed before, and how many of them were ignored, if that is counted.
    pub failures: Option<(i32, i32)>,
}

/// The longest name that is completed by the API server.
const LONGEST: usize = 58;

/// What is sent to make a pod.
pub fn body(job: &Job, new: &NewPod) -> Value {
    let template = &job.spec.template;
    let mut metadata = json!({
        "namespace": &*job.metadata.namespace, "ownerReferences": [owners::controller_ref(job)],
    });
    for field in ["labels", "annotations"] {
        if template["metadata"][field].is_object() {
            metadata[field] = template["metadata"][field].clone();
        }
    }
    let mut finalizers: Vec<Value> = template["metadata"]["finalizers"].as_array().cloned().unwrap_or_default();
    if !finalizers.iter().any(|f| f == FINALIZER) {
        finalizers.push(FINALIZER.into());
    }
    metadata["finalizers"] = finalizers.into();
    let mut spec = template["spec"].clone();
    let name = &*job.metadata.name;
    metadata["generateName"] = match new.index {
        None => format!("{name}-"),
        Some(index) => with_index(name, index),
    }
    .into();
    if let Some(index) = new.index {
        for field in ["labels", "annotations"] {
            if !metadata[field].is_object() {
                metadata[field] = json!({});
            }
            metadata[field][INDEX] = index.to_string().into();
        }
        spec["hostname"] = format!("{name}-{index}").into();
        for list in ["containers", "initContainers"] {
            for container in spec[list].as_array_mut().into_iter().flatten() {
                name_index(container);
            }
        }
    }
    if let Some((failures, ignored)) = new.failures {
        metadata["annotations"][INDEX_FAILURES] = failures.to_string().into();
        if ignored > 0 {
            metadata["annotations"][INDEX_IGNORED] = ignored.to_string().into();
        }
    }
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec})
}

/// The beginning of a name, cut so that the index is not (`podGenerateNameWithIndex`).
fn with_index(name: &str, index: i32) -> String {
    let end = format!("-{index}-");
    let room = LONGEST.saturating_sub(end.len());
    format!("{}{end}", name.get(..room).unwrap_or(name))
}

/// `JOB_COMPLETION_INDEX`, unless the template has its own.
fn name_index(container: &mut Value) {
    if !container["env"].is_array() {
        container["env"] = json!([]);
    }
    let Some(env) = container["env"].as_array_mut() else { return };
    if !env.iter().any(|e| e["name"] == "JOB_COMPLETION_INDEX") {
        let path = format!("metadata.labels['{INDEX}']");
        env.push(json!({"name": "JOB_COMPLETION_INDEX", "valueFrom": {"fieldRef": {"fieldPath": path}}}));
    }
}
