//! The managed fields of a `Scale`: those managers of its parent that own the number of replicas.
//!
//! Follows `apimachinery/pkg/util/managedfields/scalehandler.go`.

use serde_json::Value;

use super::managed::{Managed, Manager, ManagerId};
use super::path::PathElement;
use super::set::Set;

/// The version in which a scale is served.
pub const SCALE_VERSION: &str = "autoscaling/v1";

fn set_of(path: &[&str]) -> Set {
    Set::of_fields([path])
}

fn elements(path: &[&str]) -> Vec<PathElement> {
    path.iter().map(|name| PathElement::field(name)).collect()
}

/// Versions aside: a manager that updates the parent and one that updates its scale are written differently.
fn same_manager(a: &ManagerId, b: &ManagerId) -> bool {
    a.manager == b.manager && a.operation == b.operation && a.subresource == b.subresource
}

/// The managed fields for the scale of a parent: each manager that owns `replicas` (a path of names, such as
/// `["spec", "replicas"]`) in `api_version` owns `spec.replicas` of the scale.
pub fn to_scale(parent: &Value, api_version: &str, replicas: &[&str]) -> Result<Option<Value>, String> {
    let mut scale = Managed::new();
    let path = elements(replicas);
    for (id, manager) in Managed::of(parent)?.iter() {
        if manager.api_version == api_version && manager.fields.has(&path) {
            let mut id = id.clone();
            if !id.api_version.is_empty() {
                SCALE_VERSION.clone_into(&mut id.api_version);
            }
            let fields = set_of(&["spec", "replicas"]);
            scale.put(id, Manager { api_version: SCALE_VERSION.to_owned(), fields, time: manager.time.clone() });
        }
    }
    Ok(scale.encode())
}

/// The managed fields of the parent after a write of its scale, whose managed fields are `scale`: who no longer
/// owns the replicas there loses them here, who owns them there owns them here.
pub fn to_parent(
    parent: &Value,
    scale: Option<&Value>,
    api_version: &str,
    replicas: &[&str],
) -> Result<Option<Value>, String> {
    let path = elements(replicas);
    let replicas = set_of(replicas);
    let mut owners = scale.map_or(Ok(Managed::new()), Managed::decode)?;
    let mut out = Managed::new();
    for (id, manager) in Managed::of(parent)?.iter() {
        let mut manager = manager.clone();
        if manager.api_version == api_version && manager.fields.has(&path) {
            let owner = owners.iter().map(|(owner, _)| owner).find(|owner| same_manager(owner, id)).cloned();
            match owner {
                Some(owner) => {
                    owners.remove(&owner);
                }
                None => manager.fields = manager.fields.difference(&replicas),
            }
        }
        if !manager.fields.is_empty() {
            out.put(id.clone(), manager);
        }
    }
    let scale_path = elements(&["spec", "replicas"]);
    for (id, owner) in owners.iter().filter(|(_, o)| o.fields.has(&scale_path)) {
        let mut id = id.clone();
        if !id.api_version.is_empty() {
            api_version.clone_into(&mut id.api_version);
        }
        let fields = out.get(&id).map(|m| m.fields.clone()).unwrap_or_default().union(replicas.clone());
        out.put(id, Manager { api_version: api_version.to_owned(), fields, time: owner.time.clone() });
    }
    Ok(out.encode())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn entry(manager: &str, operation: &str, version: &str, subresource: &str, fields: Value) -> Value {
        let mut entry = json!({
            "manager": manager, "operation": operation, "apiVersion": version, "time": "2026-01-01T00:00:00Z",
            "fieldsType": "FieldsV1", "fieldsV1": fields,
        });
        if !subresource.is_empty() {
            entry["subresource"] = subresource.into();
        }
        entry
    }

    #[test]
    fn replicas_change_hands_through_the_scale() {
        let path = ["spec", "replicas"];
        let replicas = || json!({"f:spec": {"f:replicas": {}}});
        let both = || json!({"f:spec": {"f:replicas": {}, "f:paused": {}}});
        let parent = json!({"metadata": {"managedFields": [
            entry("a", "Apply", "apps/v1", "", both()),
            entry("u", "Update", "apps/v1", "", json!({"f:status": {}})),
        ]}});
        let scale = to_scale(&parent, "apps/v1", &path).expect("well-formed");
        assert_eq!(scale, Some(json!([entry("a", "Apply", "autoscaling/v1", "", replicas())])));
        // Nothing changes hands.
        assert_eq!(
            to_parent(&parent, scale.as_ref(), "apps/v1", &path).expect("well-formed").as_ref(),
            parent["metadata"].get("managedFields")
        );
        // The autoscaler takes over.
        let scale = json!([entry("hpa", "Update", "autoscaling/v1", "scale", replicas())]);
        assert_eq!(
            to_parent(&parent, Some(&scale), "apps/v1", &path).expect("well-formed"),
            Some(json!([
                entry("a", "Apply", "apps/v1", "", json!({"f:spec": {"f:paused": {}}})),
                entry("hpa", "Update", "apps/v1", "scale", replicas()),
                entry("u", "Update", "apps/v1", "", json!({"f:status": {}})),
            ]))
        );
    }
}
