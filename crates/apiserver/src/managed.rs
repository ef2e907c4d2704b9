//! Managed fields, as the registry uses them: who owns which field after a write ([`orkd_api::patch::apply`]).

use jiff::Timestamp;
use orkd_api::kind::Kind;
use orkd_api::patch::apply::{self, Cx};
use orkd_api::schema::Node;
use orkd_api::status::Status;
use serde_json::Value;

use crate::registry::scale;
use crate::resources::api_version;

/// Runs `f` with the circumstances of a write; `None` for a kind without a schema.
fn with_cx<T>(
    kind: &dyn Kind,
    manager: &str,
    subresource: &str,
    now: Timestamp,
    f: impl FnOnce(&Cx<'_>) -> T,
) -> Option<T> {
    let info = kind.info();
    let node = kind.node()?;
    let api_version = api_version(&info.group, &info.version);
    let subresource = (!subresource.is_empty()).then_some(subresource);
    let cx = Cx {
        node,
        api_version: &api_version,
        kind: &info.kind,
        manager: if manager.is_empty() { "unknown" } else { manager },
        subresource,
        reset_fields: kind.reset_fields(subresource),
        now,
    };
    Some(f(&cx))
}

/// Records that `manager` wrote `object` through `subresource` (empty for the object itself) by create, update or
/// patch; `live` is what stood before.
pub fn update(
    kind: &dyn Kind,
    live: Option<&Value>,
    object: &mut Value,
    manager: &str,
    subresource: &str,
    now: Timestamp,
) -> Result<(), Status> {
    with_cx(kind, manager, subresource, now, |cx| apply::update(cx, live, object));
    Ok(())
}

/// Applies `patch` for `manager`: the merged object, without defaults.
pub fn apply(
    kind: &dyn Kind,
    live: Option<&Value>,
    patch: &Value,
    manager: &str,
    force: bool,
    subresource: &str,
    now: Timestamp,
) -> Result<Value, Status> {
    with_cx(kind, manager, subresource, now, |cx| apply::apply(cx, live, patch, force))
        .unwrap_or_else(|| Err(Status::internal("this kind has no schema to apply by")))
}

/// Applies `patch` to the scale of `live` for `manager`: the scale, and the managed fields its object then has.
pub fn apply_scale(
    live: &Value,
    scale: &Value,
    patch: &Value,
    manager: &str,
    force: bool,
    kind: &dyn Kind,
    now: Timestamp,
) -> Result<(Value, Option<Value>), Status> {
    let api_version = &api_version(&kind.info().group, &kind.info().version);
    let replicas = &scale::replicas(kind)[..];
    let failed = |text: String| Status::new(500, "", text);
    let node = Node::of_kind("autoscaling", "v1", "Scale").ok_or_else(|| Status::internal("no schema of Scale"))?;
    let mut scale = scale.clone();
    if let Some(list) = apply::scale::to_scale(live, api_version, replicas).map_err(failed)? {
        scale["metadata"]["managedFields"] = list;
    }
    let cx = Cx {
        node,
        api_version: apply::scale::SCALE_VERSION,
        kind: "Scale",
        manager,
        subresource: Some("scale"),
        reset_fields: &[],
        now,
    };
    let applied = apply::apply(&cx, Some(&scale), patch, force)?;
    let owners = applied["metadata"].get("managedFields");
    let managed = apply::scale::to_parent(live, owners, api_version, replicas).map_err(failed)?;
    Ok((applied, managed))
}

/// Where nothing but the times of managed fields differs, takes the times that stand, so that a write of no change
/// is none.
pub fn keep_times(new: &mut Value, old: &Value) {
    apply::keep_times(old, new);
}
