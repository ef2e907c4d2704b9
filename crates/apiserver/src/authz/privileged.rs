//! Members of `system:masters` may do everything
//! (`k8s.io/apiserver/pkg/authorization/authorizerfactory.NewPrivilegedGroups`).

use async_trait::async_trait;
use serde_json::json;

use super::{Attributes, Authorizer, Decision, Rules};
use crate::user::{MASTERS, UserInfo};

/// Allows everything to `system:masters`.
pub struct Privileged;

#[async_trait]
impl Authorizer for Privileged {
    async fn authorize(&self, attributes: &Attributes<'_>) -> Decision {
        if attributes.user.in_group(MASTERS) {
            Decision::Allow(String::new())
        } else {
            Decision::NoOpinion(String::new())
        }
    }

    async fn rules(&self, user: &UserInfo, _namespace: &str) -> Rules {
        if !user.in_group(MASTERS) {
            return Rules::default();
        }
        Rules {
            resources: vec![json!({"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"]})],
            paths: vec![json!({"verbs": ["*"], "nonResourceURLs": ["*"]})],
            ..Rules::default()
        }
    }
}
