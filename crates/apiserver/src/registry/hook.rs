//! Hooks of the registry for resources that own something beside their record: a Service owns cluster IPs and
//! node ports. Upstream: `BeginCreate`, `BeginUpdate`, `AfterDelete` of `registry/generic/registry.Store`.

use async_trait::async_trait;
use orkd_api::status::Status;
use serde_json::Value;

use crate::writer::Writer;

/// The circumstances of a hook.
pub struct HookContext<'a> {
    /// Writes as the asking user (wrap another identity with [`Writer::as_user`]).
    pub writer: &'a Writer,
    /// Nothing may be kept.
    pub dry_run: bool,
    /// Subresource; empty for the object itself.
    pub subresource: &'a str,
}

/// Ends what a hook began, exactly once.
#[async_trait]
pub trait Finish: Send {
    /// `committed`: whether the object was stored. If not, whatever was taken is given back.
    async fn finish(self: Box<Self>, committed: bool);
}

/// Nothing to end.
pub struct Nothing;

#[async_trait]
impl Finish for Nothing {
    async fn finish(self: Box<Self>, _committed: bool) {}
}

/// Takes and gives back what belongs to objects of one resource.
#[async_trait]
pub trait Hook: Send + Sync + 'static {
    /// Before a create: after mutating admission, name and uid are set, before prepare and validate. May change the
    /// object (fill in addresses).
    async fn begin_create(&self, _cx: &HookContext<'_>, _obj: &mut Value) -> Result<Box<dyn Finish>, Status> {
        Ok(Box::new(Nothing))
    }

    /// Before an update: after mutating admission, before prepare and validate. Called again when the commit
    /// loses a race, after the first call was finished with `false`.
    async fn begin_update(
        &self,
        _cx: &HookContext<'_>,
        _new: &mut Value,
        _old: &Value,
    ) -> Result<Box<dyn Finish>, Status> {
        Ok(Box::new(Nothing))
    }

    /// After the record is gone.
    async fn after_delete(&self, _cx: &HookContext<'_>, _old: &Value) {}
}
