//! The `scale` subresource of the workload kinds (`autoscaling/v1.Scale`).
//!
//! Upstream: `pkg/registry/apps/deployment/storage.ScaleREST` and its siblings. Whoever writes a scale owns
//! `spec.replicas` of the object, through the door `scale`.

use orkd_api::status::Status;
use serde_json::Value;

use super::{Target, meta_text};

pub use orkd_api::apps::scale::of as from_object;

/// Puts the wish of a scale into its object.
pub fn into_object(target: &Target<'_>, scale: &Value, object: &mut Value) -> Result<(), Status> {
    let replicas = scale["spec"]["replicas"].as_i64().unwrap_or(0);
    if replicas < 0 {
        let mut errors = orkd_api::field::ErrorList::new();
        let path = orkd_api::field::Path::new("spec").child("replicas");
        errors.invalid(&path, replicas, "must be greater than or equal to 0");
        return Err(Status::invalid("autoscaling", "Scale", meta_text(scale, "name"), &errors));
    }
    let uid = meta_text(scale, "uid");
    if !uid.is_empty() && uid != meta_text(object, "uid") {
        return Err(target.conflict(&format!(
            "Precondition failed: UID in precondition: {uid}, UID in object meta: {}",
            meta_text(object, "uid")
        )));
    }
    let version = meta_text(scale, "resourceVersion");
    if !version.is_empty() && version != meta_text(object, "resourceVersion") {
        return Err(target.conflict(super::MODIFIED));
    }
    orkd_api::apps::scale::apply(scale, object);
    Ok(())
}
