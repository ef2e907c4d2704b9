//! `pods/eviction`: deletes a pod in the name of order (`pkg/registry/core/pod/storage/eviction.go`).
//!
//! PodDisruptionBudgets are not served yet, so nothing holds an eviction back.

use async_trait::async_trait;
use orkd_api::status::Status;
use serde_json::{Value, json};

use super::{Call, Reply, Rest, body};
use crate::Body;
use crate::admission::{Operation, items};
use crate::query::Query;
use crate::registry::options::DeleteOptions;

/// The handler.
pub struct Eviction;

#[async_trait]
impl Rest for Eviction {
    async fn serve(&self, call: Call, request: http::Request<Body>) -> Result<Reply, Status> {
        let mut eviction = body::read(&call, request, "Eviction").await?;
        body::same_name(&call, &eviction, "Eviction")?;
        call.admit(Operation::Create, &mut eviction).await?;
        body::validate(&call, "Eviction", &eviction)?;
        let (namespace, name) = (call.info.namespace.as_str(), call.info.name.as_str());
        let mut options = DeleteOptions::parse(&Query::default(), &eviction["deleteOptions"])?;
        options.dry_run |= call.dry_run();
        let writer = call.writer();
        let pod = writer.get("", "pods", namespace, name).await?;
        if let Some(uid) = &options.uid
            && pod["metadata"]["uid"] != **uid
        {
            let why = format!(
                "Precondition failed: UID in precondition: {uid}, UID in object meta: {}",
                pod["metadata"]["uid"].as_str().unwrap_or_default()
            );
            return Err(Status::conflict("", "pods", name, &why));
        }
        let ending = pod["metadata"]["deletionTimestamp"].is_string();
        if !options.dry_run && !ending && !is_over(&pod) {
            let stamp = crate::registry::stamp(call.now);
            let marked = writer.update_with("", "pods", "status", namespace, name, |object| {
                mark(object, &stamp);
                Ok(())
            });
            marked.await?;
        }
        writer.delete("", "pods", namespace, name, options).await?;
        Ok(Reply::Object(201, body::success()))
    }
}

fn is_over(pod: &Value) -> bool {
    matches!(pod["status"]["phase"].as_str(), Some("Succeeded" | "Failed"))
}

/// Says on the pod why it will end.
fn mark(pod: &mut Value, stamp: &str) {
    const TYPE: &str = "DisruptionTarget";
    let mut conditions = items(&pod["status"]["conditions"]).to_vec();
    if conditions.iter().any(|c| c["type"] == TYPE && c["status"] == "True") {
        return;
    }
    conditions.retain(|c| c["type"] != TYPE);
    conditions.push(json!({
        "type": TYPE, "status": "True", "reason": "EvictionByEvictionAPI", "message": "Eviction API: evicting",
        "lastProbeTime": null, "lastTransitionTime": stamp,
    }));
    pod["status"]["conditions"] = json!(conditions);
}
