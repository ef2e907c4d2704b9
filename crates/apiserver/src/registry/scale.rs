//! The `scale` subresource of the workload kinds (`autoscaling/v1.Scale`).
//!
//! Upstream: `pkg/registry/apps/deployment/storage.ScaleREST` and its siblings. Whoever writes a scale owns
//! `spec.replicas` of the object, through the door `scale`.

use orkd_api::status::Status;
use serde_json::{Value, json};

use super::{Target, meta_text};

/// The scale of an object.
pub fn from_object(object: &Value) -> Value {
    let meta = &object["metadata"];
    let mut scale = json!({
        "kind": "Scale",
        "apiVersion": "autoscaling/v1",
        "metadata": {},
        "spec": {},
        "status": {"replicas": object["status"]["replicas"].as_i64().unwrap_or(0)},
    });
    for field in ["name", "namespace", "uid", "resourceVersion", "creationTimestamp"] {
        if !meta[field].is_null() {
            scale["metadata"][field] = meta[field].clone();
        }
    }
    if let Some(replicas) = object["spec"]["replicas"].as_i64().filter(|n| *n != 0) {
        scale["spec"]["replicas"] = json!(replicas);
    }
    let selector = selector_text(&object["spec"]["selector"]);
    if !selector.is_empty() {
        scale["status"]["selector"] = json!(selector);
    }
    scale
}

/// A selector as text: that of a replication controller is a plain map, others are label selectors.
pub fn selector_text(selector: &Value) -> String {
    let Some(map) = selector.as_object() else { return String::new() };
    let structured = map.contains_key("matchLabels") || map.contains_key("matchExpressions");
    let mut parts: Vec<(String, String)> = Vec::new();
    let labels = if structured { selector["matchLabels"].as_object() } else { Some(map) };
    for (key, value) in labels.into_iter().flatten() {
        parts.push((key.clone(), format!("{key}={}", value.as_str().unwrap_or_default())));
    }
    for expression in selector["matchExpressions"].as_array().into_iter().flatten() {
        let key = expression["key"].as_str().unwrap_or_default();
        let mut values: Vec<&str> =
            expression["values"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
        values.sort_unstable();
        let values = values.join(",");
        parts.push((
            key.to_owned(),
            match expression["operator"].as_str().unwrap_or_default() {
                "In" => format!("{key} in ({values})"),
                "NotIn" => format!("{key} notin ({values})"),
                "Exists" => key.to_owned(),
                "DoesNotExist" => format!("!{key}"),
                _ => continue,
            },
        ));
    }
    parts.sort();
    parts.into_iter().map(|(_, text)| text).collect::<Vec<_>>().join(",")
}

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
    object["spec"]["replicas"] = json!(replicas);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn selectors_read_as_upstream_prints_them() {
        let check = |selector: Value, text: &str| assert_eq!(selector_text(&selector), text);
        check(json!({"app": "x", "a": "b"}), "a=b,app=x");
        check(
            json!({"matchLabels": {"app": "x"}, "matchExpressions": [
                {"key": "tier", "operator": "In", "values": ["b", "a"]}, {"key": "gone", "operator": "DoesNotExist"}]}),
            "app=x,!gone,tier in (a,b)",
        );
        check(json!({}), "");
    }
}
