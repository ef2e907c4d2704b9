//! A new node is tainted until it is ready (`plugin/pkg/admission/nodetaint`).

use async_trait::async_trait;
use orkd_api::status::Status;
use serde_json::{Value, json};

use super::{Operation, Plugin, Request, items};

/// The taint of a node that is not ready.
pub const NOT_READY: &str = "node.kubernetes.io/not-ready";

/// The plugin.
pub struct TaintNodesByCondition;

#[async_trait]
impl Plugin for TaintNodesByCondition {
    fn name(&self) -> &'static str {
        "TaintNodesByCondition"
    }

    async fn admit(
        &self,
        request: &Request<'_>,
        object: &mut Value,
        _warnings: &mut Vec<String>,
    ) -> Result<(), Status> {
        if !request.is("", "nodes", "") || request.operation != Operation::Create {
            return Ok(());
        }
        let taints = items(&object["spec"]["taints"]);
        if taints.iter().any(|t| t["key"] == NOT_READY && t["effect"] == "NoSchedule") {
            return Ok(());
        }
        let mut taints = taints.to_vec();
        taints.push(json!({ "key": NOT_READY, "effect": "NoSchedule" }));
        object["spec"]["taints"] = json!(taints);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{kind, request};
    use super::*;
    use crate::user::UserInfo;

    #[tokio::test]
    async fn the_taint_is_added_once() {
        let (kind, user) = (kind("nodes"), UserInfo::new("u", &[]));
        let request = request(&*kind, Operation::Create, "", "", &user, None);
        let mut node = json!({"metadata": {"name": "n"}, "spec": {}});
        for _ in 0..2 {
            TaintNodesByCondition.admit(&request, &mut node, &mut Vec::new()).await.expect("admitted");
            assert_eq!(node["spec"]["taints"], json!([{"key": NOT_READY, "effect": "NoSchedule"}]));
        }
    }
}
