//! Everything passes, nothing passes (`plugin/pkg/admission/admit`, `deny`): kept for their names.

use async_trait::async_trait;
use orkd_api::status::Status;
use serde_json::Value;

use super::{Plugin, Request};

/// Lets everything pass.
pub struct AlwaysAdmit;

#[async_trait]
impl Plugin for AlwaysAdmit {
    fn name(&self) -> &'static str {
        "AlwaysAdmit"
    }
}

/// Lets nothing pass.
pub struct AlwaysDeny;

const DENIED: &str = "admission control is denying all modifications";

#[async_trait]
impl Plugin for AlwaysDeny {
    fn name(&self) -> &'static str {
        "AlwaysDeny"
    }

    async fn admit(&self, request: &Request<'_>, object: &mut Value, _: &mut Vec<String>) -> Result<(), Status> {
        Err(request.forbidden(object, DENIED))
    }

    async fn validate(&self, request: &Request<'_>, object: &Value, _: &mut Vec<String>) -> Result<(), Status> {
        Err(request.forbidden(object, DENIED))
    }
}
