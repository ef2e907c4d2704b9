//! Reading and writing `metadata` (`metav1.ObjectMeta`) of an object without decoding it into a struct.
//!
//! What is absent or of another type reads as empty. Setters create `metadata` where it is missing and remove a
//! field that is set to empty, as Go's `omitempty` does.

use serde_json::{Value, json};

use crate::Map;

/// `metadata`, where it is an object.
pub fn metadata(object: &Value) -> Option<&Map> {
    object.get("metadata")?.as_object()
}

/// `metadata` to be changed; made where it is missing. `None` where the object is no map.
pub fn metadata_mut(object: &mut Value) -> Option<&mut Map> {
    let metadata = object.as_object_mut()?.entry("metadata").or_insert_with(|| json!({}));
    if !metadata.is_object() {
        *metadata = json!({});
    }
    metadata.as_object_mut()
}

fn text<'a>(object: &'a Value, field: &str) -> &'a str {
    metadata(object).and_then(|m| m.get(field)).and_then(Value::as_str).unwrap_or_default()
}

fn set_text(object: &mut Value, field: &str, value: &str) {
    let Some(metadata) = metadata_mut(object) else { return };
    if value.is_empty() {
        metadata.remove(field);
    } else {
        metadata.insert(field.into(), value.into());
    }
}

/// The object's `kind`.
pub fn kind(object: &Value) -> &str {
    object.get("kind").and_then(Value::as_str).unwrap_or_default()
}

/// The object's `apiVersion`.
pub fn api_version(object: &Value) -> &str {
    object.get("apiVersion").and_then(Value::as_str).unwrap_or_default()
}

/// Says what kind the object is.
pub fn set_type(object: &mut Value, api_version: &str, kind: &str) {
    if let Some(map) = object.as_object_mut() {
        map.insert("apiVersion".into(), api_version.into());
        map.insert("kind".into(), kind.into());
    }
}

/// `metadata.name`.
pub fn name(object: &Value) -> &str {
    text(object, "name")
}

/// `metadata.generateName`.
pub fn generate_name(object: &Value) -> &str {
    text(object, "generateName")
}

/// `metadata.namespace`.
pub fn namespace(object: &Value) -> &str {
    text(object, "namespace")
}

/// `metadata.uid`.
pub fn uid(object: &Value) -> &str {
    text(object, "uid")
}

/// `metadata.resourceVersion`.
pub fn resource_version(object: &Value) -> &str {
    text(object, "resourceVersion")
}

/// `metadata.creationTimestamp`.
pub fn creation_timestamp(object: &Value) -> &str {
    text(object, "creationTimestamp")
}

/// `metadata.deletionTimestamp`; `None` for an object that is not being deleted.
pub fn deletion_timestamp(object: &Value) -> Option<&str> {
    Some(text(object, "deletionTimestamp")).filter(|t| !t.is_empty())
}

/// `metadata.deletionGracePeriodSeconds`.
pub fn deletion_grace_period_seconds(object: &Value) -> Option<i64> {
    metadata(object)?.get("deletionGracePeriodSeconds")?.as_i64()
}

/// `metadata.generation`, 0 where there is none.
pub fn generation(object: &Value) -> i64 {
    metadata(object).and_then(|m| m.get("generation")).and_then(Value::as_i64).unwrap_or(0)
}

/// `metadata.labels`.
pub fn labels(object: &Value) -> Option<&Map> {
    metadata(object)?.get("labels")?.as_object()
}

/// The value of a label.
pub fn label<'a>(object: &'a Value, key: &str) -> Option<&'a str> {
    labels(object)?.get(key)?.as_str()
}

/// `metadata.annotations`.
pub fn annotations(object: &Value) -> Option<&Map> {
    metadata(object)?.get("annotations")?.as_object()
}

/// The value of an annotation.
pub fn annotation<'a>(object: &'a Value, key: &str) -> Option<&'a str> {
    annotations(object)?.get(key)?.as_str()
}

/// `metadata.finalizers`.
pub fn finalizers(object: &Value) -> impl Iterator<Item = &str> {
    let list = metadata(object).and_then(|m| m.get("finalizers")).and_then(Value::as_array);
    list.into_iter().flatten().filter_map(Value::as_str)
}

/// `metadata.ownerReferences`.
pub fn owner_references(object: &Value) -> &[Value] {
    let list = metadata(object).and_then(|m| m.get("ownerReferences")).and_then(Value::as_array);
    list.map_or(&[], Vec::as_slice)
}

/// The owner that manages the object (`controller: true`).
pub fn controller(object: &Value) -> Option<&Value> {
    owner_references(object).iter().find(|o| o.get("controller") == Some(&Value::Bool(true)))
}

/// Sets `metadata.name`.
pub fn set_name(object: &mut Value, name: &str) {
    set_text(object, "name", name);
}

/// Sets `metadata.namespace`.
pub fn set_namespace(object: &mut Value, namespace: &str) {
    set_text(object, "namespace", namespace);
}

/// Sets `metadata.uid`.
pub fn set_uid(object: &mut Value, uid: &str) {
    set_text(object, "uid", uid);
}

/// Sets `metadata.resourceVersion`; empty removes it, as stored objects have none.
pub fn set_resource_version(object: &mut Value, version: &str) {
    set_text(object, "resourceVersion", version);
}

/// Sets `metadata.creationTimestamp`.
pub fn set_creation_timestamp(object: &mut Value, now: jiff::Timestamp) {
    set_text(object, "creationTimestamp", &crate::time::format_time(now));
}

/// Sets `metadata.deletionTimestamp` and the grace period that led to it.
pub fn set_deletion(object: &mut Value, at: jiff::Timestamp, grace_seconds: i64) {
    set_text(object, "deletionTimestamp", &crate::time::format_time(at));
    if let Some(metadata) = metadata_mut(object) {
        metadata.insert("deletionGracePeriodSeconds".into(), grace_seconds.into());
    }
}

/// Sets `metadata.generation`.
pub fn set_generation(object: &mut Value, generation: i64) {
    if let Some(metadata) = metadata_mut(object) {
        metadata.insert("generation".into(), generation.into());
    }
}

/// Sets or, with `None`, removes an entry of `metadata.labels` or `metadata.annotations` (`field`).
pub fn set_entry(object: &mut Value, field: &str, key: &str, value: Option<&str>) {
    let Some(metadata) = metadata_mut(object) else { return };
    match value {
        Some(value) => {
            let map = metadata.entry(field).or_insert_with(|| json!({}));
            if !map.is_object() {
                *map = json!({});
            }
            map[key] = value.into();
        }
        None => {
            let Some(map) = metadata.get_mut(field).and_then(Value::as_object_mut) else { return };
            map.remove(key);
            if map.is_empty() {
                metadata.remove(field);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accessors_and_setters() {
        let mut o = json!({"kind": "Pod", "apiVersion": "v1"});
        assert_eq!((name(&o), generation(&o), owner_references(&o).len()), ("", 0, 0));
        set_name(&mut o, "x");
        set_namespace(&mut o, "d");
        set_entry(&mut o, "labels", "a", Some("b"));
        set_generation(&mut o, 2);
        let now: jiff::Timestamp = "2026-11-21T05:45:00.7Z".parse().expect("time");
        set_creation_timestamp(&mut o, now);
        set_deletion(&mut o, now, 30);
        let expected = json!({"kind": "Pod", "apiVersion": "v1", "metadata": {"name": "x", "namespace": "d",
            "labels": {"a": "b"}, "generation": 2, "creationTimestamp": "2026-11-21T05:45:00Z",
            "deletionTimestamp": "2026-11-21T05:45:00Z", "deletionGracePeriodSeconds": 30}});
        assert_eq!(o, expected);
        assert_eq!((label(&o, "a"), deletion_timestamp(&o)), (Some("b"), Some("2026-11-21T05:45:00Z")));
        set_entry(&mut o, "labels", "a", None);
        set_namespace(&mut o, "");
        assert!(labels(&o).is_none() && namespace(&o).is_empty());
        o["metadata"]["ownerReferences"] = json!([{"uid": "1"}, {"uid": "2", "controller": true}]);
        assert_eq!(controller(&o).map(|c| &c["uid"]), Some(&json!("2")));
        set_name(&mut Value::Null, "x");
    }
}
