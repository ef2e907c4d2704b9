//! Managed fields, as the registry uses them: who owns which field after a write ([`orkd_api::patch::apply`]).

use jiff::Timestamp;
use orkd_api::kind::Kind;
use orkd_api::patch::apply::versions::{Versions, View};
use orkd_api::patch::apply::{self, Cx};
use orkd_api::schema::Node;
use orkd_api::status::Status;
use serde_json::Value;

use crate::registry::{Request, Target, scale};
use crate::resources::{Resource, Resources, api_version};

/// The other versions of a resource, seen through the same subresource.
struct Others<'r> {
    resource: &'r Resource,
    resources: &'r Resources,
    subresource: Option<&'r str>,
}

impl Versions for Others<'_> {
    fn view(&self, object: &Value, from: &str, to: &str) -> View<'_> {
        self.resource.in_version(self.resources, object, from, to, self.subresource)
    }
}

/// Who writes, through what.
struct Writer<'w> {
    kind: &'w dyn Kind,
    manager: &'w str,
    /// Empty for the object itself.
    subresource: &'w str,
    now: Timestamp,
}

impl Writer<'_> {
    /// Runs `f` with the circumstances of the write; `None` for a kind without a schema.
    fn with_cx<T>(&self, versions: Option<&dyn Versions>, f: impl FnOnce(&Cx<'_>) -> T) -> Option<T> {
        let info = self.kind.info();
        let node = self.kind.node()?;
        let api_version = api_version(&info.group, &info.version);
        let subresource = (!self.subresource.is_empty()).then_some(self.subresource);
        let cx = Cx {
            node,
            api_version: &api_version,
            kind: &info.kind,
            manager: if self.manager.is_empty() { "unknown" } else { self.manager },
            subresource,
            reset_fields: self.kind.reset_fields(subresource),
            versions,
            now: self.now,
        };
        Some(f(&cx))
    }
}

fn with_cx<T>(request: &Request<'_>, target: &Target<'_>, manager: &str, f: impl FnOnce(&Cx<'_>) -> T) -> Option<T> {
    let resources = request.server.resources();
    let subresource = (!target.subresource.is_empty()).then_some(target.subresource);
    let others = Others { resource: &target.resource, resources: &resources, subresource };
    let kind = &*target.resource.kind;
    let writer = Writer { kind, manager, subresource: target.subresource, now: request.now };
    writer.with_cx(Some(&others), f)
}

/// Records that `manager` wrote `object` at the target by create, update or patch; `live` is what stood before.
pub fn update(request: &Request<'_>, target: &Target<'_>, live: Option<&Value>, object: &mut Value, manager: &str) {
    with_cx(request, target, manager, |cx| apply::update(cx, live, object));
}

/// Records that `manager` made an object that is not stored.
pub fn made(kind: &dyn Kind, object: &mut Value, manager: &str, subresource: &str, now: Timestamp) {
    Writer { kind, manager, subresource, now }.with_cx(None, |cx| apply::update(cx, None, object));
}

/// Applies `patch` for `manager` at the target: the merged object, without defaults.
pub fn apply(
    request: &Request<'_>,
    target: &Target<'_>,
    live: Option<&Value>,
    patch: &Value,
    manager: &str,
    force: bool,
) -> Result<Value, Status> {
    with_cx(request, target, manager, |cx| apply::apply(cx, live, patch, force))
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
        versions: None,
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
