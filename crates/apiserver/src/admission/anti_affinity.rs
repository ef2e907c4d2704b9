//! Required anti-affinity may keep pods apart by host only (`plugin/pkg/admission/antiaffinity`).

use async_trait::async_trait;
use orkd_api::status::Status;
use serde_json::Value;

use super::{Operation, Plugin, Request, items};

/// The plugin.
pub struct LimitPodHardAntiAffinityTopology;

#[async_trait]
impl Plugin for LimitPodHardAntiAffinityTopology {
    fn name(&self) -> &'static str {
        "LimitPodHardAntiAffinityTopology"
    }

    async fn validate(&self, request: &Request<'_>, object: &Value, _: &mut Vec<String>) -> Result<(), Status> {
        let writes = matches!(request.operation, Operation::Create | Operation::Update);
        if !writes || !request.is("", "pods", "") {
            return Ok(());
        }
        let required = &object["spec"]["affinity"]["podAntiAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"];
        for term in items(required) {
            let key = term["topologyKey"].as_str().unwrap_or_default();
            if key != "kubernetes.io/hostname" {
                let why = format!(
                    "affinity.PodAntiAffinity.RequiredDuringScheduling has TopologyKey {key} but only key \
                     kubernetes.io/hostname is allowed"
                );
                return Err(request.forbidden(object, &why));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::testing::{kind, request};
    use super::*;
    use crate::user::UserInfo;

    #[tokio::test]
    async fn hosts_only() {
        let (kind, user) = (kind("pods"), UserInfo::new("u", &[]));
        let create = request(&*kind, Operation::Create, "", "", &user, None);
        let pod = |key: &str| {
            json!({"metadata": {"name": "p"}, "spec": {"affinity": {"podAntiAffinity": {
                "requiredDuringSchedulingIgnoredDuringExecution": [{"topologyKey": key}]}}}})
        };
        let plugin = LimitPodHardAntiAffinityTopology;
        assert!(plugin.validate(&create, &pod("kubernetes.io/hostname"), &mut Vec::new()).await.is_ok());
        let refused = plugin.validate(&create, &pod("zone"), &mut Vec::new()).await.expect_err("a zone");
        assert!(refused.message.contains("has TopologyKey zone but only key kubernetes.io/hostname"));
    }
}
