//! No new external IPs in services (`plugin/pkg/admission/network/denyserviceexternalips`).

use async_trait::async_trait;
use orkd_api::status::Status;
use serde_json::Value;

use super::{Operation, Plugin, Request, items};

/// The plugin.
pub struct DenyServiceExternalIps;

#[async_trait]
impl Plugin for DenyServiceExternalIps {
    fn name(&self) -> &'static str {
        "DenyServiceExternalIPs"
    }

    async fn validate(&self, request: &Request<'_>, object: &Value, _: &mut Vec<String>) -> Result<(), Status> {
        let writes = matches!(request.operation, Operation::Create | Operation::Update);
        if !writes || !request.is("", "services", "") {
            return Ok(());
        }
        let old = request.old.map(|o| items(&o["spec"]["externalIPs"])).unwrap_or_default();
        if items(&object["spec"]["externalIPs"]).iter().all(|ip| old.contains(ip)) {
            return Ok(());
        }
        Err(request.forbidden(object, "Use of external IPs is denied by admission control"))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::testing::{kind, request};
    use super::*;
    use crate::user::UserInfo;

    #[tokio::test]
    async fn those_that_are_there_may_stay() {
        let (kind, user) = (kind("services"), UserInfo::new("u", &[]));
        let service = |ips: &[&str]| json!({"metadata": {"name": "s"}, "spec": {"externalIPs": ips}});
        let old = service(&["192.0.2.1", "192.0.2.2"]);
        let update = request(&*kind, Operation::Update, "", "s", &user, Some(&old));
        let plugin = DenyServiceExternalIps;
        assert!(plugin.validate(&update, &service(&["192.0.2.2"]), &mut Vec::new()).await.is_ok());
        assert!(plugin.validate(&update, &service(&["192.0.2.3"]), &mut Vec::new()).await.is_err());
        let create = request(&*kind, Operation::Create, "", "s", &user, None);
        assert!(plugin.validate(&create, &service(&["192.0.2.2"]), &mut Vec::new()).await.is_err());
        assert!(plugin.validate(&create, &service(&[]), &mut Vec::new()).await.is_ok());
    }
}
