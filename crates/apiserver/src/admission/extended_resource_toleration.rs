//! Pods that ask for extended resources tolerate the nodes kept for them
//! (`plugin/pkg/admission/extendedresourcetoleration`).

use std::collections::BTreeSet;

use async_trait::async_trait;
use orkd_api::status::Status;
use serde_json::{Value, json};

use super::{Operation, Plugin, Request, items};

/// The plugin.
pub struct ExtendedResourceToleration;

fn is_extended(name: &str) -> bool {
    name.contains('/') && !name.contains("kubernetes.io/") && !name.starts_with("requests.")
}

#[async_trait]
impl Plugin for ExtendedResourceToleration {
    fn name(&self) -> &'static str {
        "ExtendedResourceToleration"
    }

    async fn admit(&self, request: &Request<'_>, object: &mut Value, _: &mut Vec<String>) -> Result<(), Status> {
        let writes = matches!(request.operation, Operation::Create | Operation::Update);
        if !writes || !request.is("", "pods", "") {
            return Ok(());
        }
        let spec = &object["spec"];
        let containers = items(&spec["containers"]).iter().chain(items(&spec["initContainers"]));
        let asked: BTreeSet<String> = containers
            .filter_map(|c| c["resources"]["requests"].as_object())
            .flat_map(|requests| requests.keys().filter(|n| is_extended(n)).cloned())
            .collect();
        let mut tolerations = items(&spec["tolerations"]).to_vec();
        let before = tolerations.len();
        for name in asked {
            if !tolerations.iter().any(|t| t["key"] == *name && t["effect"] == "NoSchedule") {
                tolerations.push(json!({"key": name, "operator": "Exists", "effect": "NoSchedule"}));
            }
        }
        if tolerations.len() != before {
            object["spec"]["tolerations"] = json!(tolerations);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{kind, request};
    use super::*;
    use crate::user::UserInfo;

    #[tokio::test]
    async fn a_toleration_for_each_resource() {
        let (kind, user) = (kind("pods"), UserInfo::new("u", &[]));
        let create = request(&*kind, Operation::Create, "", "", &user, None);
        let mut pod = json!({"spec": {"containers": [{"resources": {"requests": {"cpu": "1", "example.com/b": "1",
            "example.com/a": "1"}}}]}});
        for _ in 0..2 {
            ExtendedResourceToleration.admit(&create, &mut pod, &mut Vec::new()).await.expect("admitted");
        }
        let keys: Vec<&str> = items(&pod["spec"]["tolerations"]).iter().filter_map(|t| t["key"].as_str()).collect();
        assert_eq!(keys, ["example.com/a", "example.com/b"]);
    }
}
