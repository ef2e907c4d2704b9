//! Pods stay five minutes on a node that is gone or not ready, unless they say otherwise
//! (`plugin/pkg/admission/defaulttolerationseconds`).

use async_trait::async_trait;
use orkd_api::status::Status;
use serde_json::{Value, json};

use super::{Operation, Plugin, Request, items};

const SECONDS: i64 = 300;

/// The plugin.
pub struct DefaultTolerationSeconds;

#[async_trait]
impl Plugin for DefaultTolerationSeconds {
    fn name(&self) -> &'static str {
        "DefaultTolerationSeconds"
    }

    async fn admit(
        &self,
        request: &Request<'_>,
        object: &mut Value,
        _warnings: &mut Vec<String>,
    ) -> Result<(), Status> {
        let writes = matches!(request.operation, Operation::Create | Operation::Update);
        if !writes || !request.is("", "pods", "") || !object["spec"].is_object() {
            return Ok(());
        }
        let mut tolerations = items(&object["spec"]["tolerations"]).to_vec();
        let before = tolerations.len();
        for key in ["node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable"] {
            let text = |t: &Value, f: &str| t[f].as_str().unwrap_or_default().to_owned();
            let tolerated = tolerations.iter().take(before).any(|t| {
                ["", key].contains(&text(t, "key").as_str()) && ["", "NoExecute"].contains(&text(t, "effect").as_str())
            });
            if !tolerated {
                tolerations.push(json!({
                    "key": key, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": SECONDS,
                }));
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
    async fn only_what_is_not_tolerated_is_added() {
        let check = async |tolerations: Value, expected: usize| {
            let (kind, user) = (kind("pods"), UserInfo::new("u", &[]));
            let request = request(&*kind, Operation::Create, "", "", &user, None);
            let mut pod = json!({"spec": {"tolerations": tolerations}});
            DefaultTolerationSeconds.admit(&request, &mut pod, &mut Vec::new()).await.expect("admitted");
            assert_eq!(items(&pod["spec"]["tolerations"]).len(), expected, "{pod}");
        };
        check(json!([]), 2).await;
        check(json!([{"operator": "Exists"}]), 1).await;
        check(json!([{"key": "node.kubernetes.io/not-ready", "effect": "NoSchedule"}]), 3).await;
        check(json!([{"key": "node.kubernetes.io/not-ready", "effect": "NoExecute"}]), 2).await;
    }
}
