//! `pods/binding` and `bindings`: puts a pod on a node (`pkg/registry/core/pod/storage.BindingREST`).

use async_trait::async_trait;
use orkd_api::core::pod;
use orkd_api::status::Status;

use super::{Call, Reply, Rest, body};
use crate::Body;
use crate::admission::Operation;

/// The handler.
pub struct Binding;

#[async_trait]
impl Rest for Binding {
    async fn serve(&self, call: Call, request: http::Request<Body>) -> Result<Reply, Status> {
        let mut binding = body::read(&call, request, "Binding").await?;
        body::same_name(&call, &binding, "Binding")?;
        call.admit(Operation::Create, &mut binding).await?;
        body::validate(&call, "Binding", &binding)?;
        let name = match call.info.name.as_str() {
            "" => binding["metadata"]["name"].as_str().unwrap_or_default().to_owned(),
            name => name.to_owned(),
        };
        if name.is_empty() {
            return Err(Status::bad_request("name is required"));
        }
        let now = call.now;
        let writer = call.writer().dry_run(call.dry_run());
        let manager = crate::registry::options::manager_of(&call.user_agent);
        let writer = if manager.is_empty() { writer } else { writer.manager(&manager) };
        let bound = writer.update_with("", "pods", "binding", &call.info.namespace, &name, |object| {
            pod::bind(object, &binding, now).map_err(|why| Status::conflict("", "pods/binding", &name, &why))
        });
        bound.await?;
        Ok(Reply::Object(201, body::success()))
    }
}
