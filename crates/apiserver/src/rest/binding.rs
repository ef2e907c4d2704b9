//! `pods/binding` and `bindings`: puts a pod on a node (`pkg/registry/core/pod/storage.BindingREST`).

use async_trait::async_trait;
use orkd_api::core::pod;
use orkd_api::status::Status;

use super::{Call, Reply, Rest, body};
use crate::Body;
use crate::admission::Operation;
use crate::registry::rewrite::rewrite;
use crate::registry::{Request, Target};

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
        let request = Request {
            server: &call.server,
            user: &call.user,
            now: call.now,
            warnings: call.warnings.clone(),
            info: None,
        };
        let pods = call.server.resource("", "pods")?;
        let target = Target { resource: pods, subresource: "", namespace: &call.info.namespace, name: &name };
        rewrite(&request, &target, call.dry_run(), &|pod| {
            pod::bind(pod, &binding, call.now).map_err(|why| Status::conflict("", "pods/binding", &name, &why))
        })
        .await?;
        Ok(Reply::Object(201, body::success()))
    }
}
