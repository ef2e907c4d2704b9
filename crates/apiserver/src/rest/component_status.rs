//! `componentstatuses`: how the store behind the server is. Upstream asks the controller manager and the scheduler too;
//! here these are loops of the same process and have no address to be asked at.
//!
//! Upstream: `pkg/registry/core/componentstatus/rest.go`.

use async_trait::async_trait;
use orkd_api::status::Status;
use serde_json::json;

use super::{Call, Reply, Rest, made};
use crate::Body;
use crate::negotiation::{self, Offer};

/// The handler of `componentstatuses`.
pub struct ComponentStatuses;

const NAME: &str = "etcd-0";

#[async_trait]
impl Rest for ComponentStatuses {
    async fn serve(&self, call: Call, request: http::Request<Body>) -> Result<Reply, Status> {
        let wanted = negotiation::negotiate(request.headers(), &call.query, Offer::Objects)?;
        let condition = match call.server.store().current_revision().await {
            Ok(_) => json!({ "type": "Healthy", "status": "True", "message": "ok" }),
            Err(error) => json!({ "type": "Healthy", "status": "False", "error": error.to_string() }),
        };
        let item = json!({ "metadata": { "name": NAME }, "conditions": [condition] });
        let one = call.info.verb == "get";
        if one && call.info.name != NAME {
            return Err(Status::not_found("", "componentstatuses", &call.info.name));
        }
        if one { made::one(&call, &wanted, item) } else { made::list(&call, &wanted, vec![item]) }
    }
}
