//! Who asked for a certificate is written into the request by the server and by nobody else
//! (`pkg/registry/certificates/certificates.PrepareForCreate`).

use async_trait::async_trait;
use orkd_api::status::Status;
use serde_json::{Value, json};

use crate::registry::hook::Nothing;
use crate::registry::{Finish, Hook, HookContext};

/// The hook of CertificateSigningRequests.
pub struct Requester;

#[async_trait]
impl Hook for Requester {
    async fn begin_create(&self, cx: &HookContext<'_>, obj: &mut Value) -> Result<Box<dyn Finish>, Status> {
        let user = cx.writer.user();
        if let Some(spec) = obj.get_mut("spec").and_then(Value::as_object_mut) {
            for field in ["username", "uid", "groups", "extra"] {
                spec.remove(field);
            }
            spec.insert("username".into(), json!(user.name));
            if !user.uid.is_empty() {
                spec.insert("uid".into(), json!(user.uid));
            }
            spec.insert("groups".into(), json!(user.groups));
            if !user.extra.is_empty() {
                spec.insert("extra".into(), json!(user.extra));
            }
        }
        Ok(Box::new(Nothing))
    }
}
