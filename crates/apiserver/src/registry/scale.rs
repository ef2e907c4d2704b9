//! The `scale` subresource (`autoscaling/v1.Scale`) of the workload kinds and of custom resources that have one.
//!
//! Upstream: `pkg/registry/apps/deployment/storage.ScaleREST` and its siblings; for custom resources
//! `apiextensions-apiserver/pkg/registry/customresource.ScaleREST`. Whoever writes a scale owns the number of replicas of
//! the object, through the door `scale`.

use std::sync::{Arc, LazyLock};

use orkd_api::apps::scale::Scale;
use orkd_api::custom::ScalePaths;
use orkd_api::field::{ErrorList, Path};
use orkd_api::kind::Kind;
use orkd_api::object::{at, set};
use orkd_api::status::Status;
use serde_json::Value;

use super::{Target, meta_text};
use crate::resources::Resource;

fn paths(kind: &dyn Kind) -> Option<&ScalePaths> {
    kind.custom()?.scale()
}

fn names(path: &[String]) -> Vec<&str> {
    path.iter().map(String::as_str).collect()
}

/// Where the number of replicas stands in the objects of a kind.
pub fn replicas(kind: &dyn Kind) -> Vec<&str> {
    paths(kind).map_or_else(|| vec!["spec", "replicas"], |paths| names(&paths.spec_replicas))
}

/// The scale of an object. The error is a custom object that does not say how many it wants.
pub fn of(kind: &dyn Kind, object: &Value) -> Result<Value, Status> {
    if let Some(paths) = paths(kind)
        && at(object, &names(&paths.spec_replicas)).is_null()
    {
        return Err(Status::internal(format!(
            "the spec replicas field {:?} does not exist",
            format!(".{}", paths.spec_replicas.join("."))
        )));
    }
    Ok(shown(kind, object))
}

/// The same, zero where the object does not say how many it wants.
pub fn shown(kind: &dyn Kind, object: &Value) -> Value {
    let mut scale = orkd_api::apps::scale::of(object);
    let Some(paths) = paths(kind) else { return scale };
    let count = |path: &[String]| at(object, &names(path)).as_i64().unwrap_or_default();
    scale["spec"] = Value::Object(orkd_api::Map::new());
    if count(&paths.spec_replicas) != 0 {
        scale["spec"]["replicas"] = count(&paths.spec_replicas).into();
    }
    scale["status"] = serde_json::json!({"replicas": count(&paths.status_replicas)});
    if let Some(selector) = paths.selector.as_ref().and_then(|path| at(object, &names(path)).as_str())
        && !selector.is_empty()
    {
        scale["status"]["selector"] = selector.into();
    }
    scale
}

/// Puts the number a scale asks for into its object, and nothing else.
pub fn put(kind: &dyn Kind, scale: &Value, object: &mut Value) {
    set(object, &replicas(kind), scale["spec"]["replicas"].as_i64().unwrap_or_default());
}

/// 404 about the object whose scale is read. Upstream's storages differ in how they name it, and autoscalers pass it on.
pub fn not_found(target: &Target<'_>) -> Status {
    let info = target.resource.info();
    let group = match (&*info.group, &*info.plural) {
        ("apps", "deployments" | "replicasets") => "apps",
        ("", "replicationcontrollers") => "autoscaling",
        _ => return target.not_found(),
    };
    Status::not_found(group, &format!("{}/scale", info.plural), target.name)
}

/// Scales as a resource of their own, for the shapes that answers have.
pub fn resource() -> &'static Resource {
    static SCALES: LazyLock<Resource> = LazyLock::new(|| Resource::unstored(Arc::new(Scale)));
    &SCALES
}

/// Puts the wish of a scale into its object, if it is one that can be met.
pub fn into_object(target: &Target<'_>, scale: &Value, object: &mut Value) -> Result<(), Status> {
    let replicas = scale["spec"]["replicas"].as_i64().unwrap_or(0);
    if replicas < 0 {
        let mut errors = ErrorList::new();
        let path = Path::new("spec").child("replicas");
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
    put(&*target.resource.kind, scale, object);
    Ok(())
}
