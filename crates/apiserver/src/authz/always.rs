//! `AlwaysAllow` and `AlwaysDeny` (`k8s.io/apiserver/pkg/authorization/authorizerfactory`).

use async_trait::async_trait;
use serde_json::json;

use super::{Attributes, Authorizer, Decision, Rules};
use crate::user::UserInfo;

/// Allows everything to everyone.
pub struct AlwaysAllow;

#[async_trait]
impl Authorizer for AlwaysAllow {
    async fn authorize(&self, _attributes: &Attributes<'_>) -> Decision {
        Decision::Allow(String::new())
    }

    async fn rules(&self, _user: &UserInfo, _namespace: &str) -> Rules {
        Rules {
            resources: vec![json!({"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"]})],
            paths: vec![json!({"verbs": ["*"], "nonResourceURLs": ["*"]})],
            ..Rules::default()
        }
    }
}

/// Allows nothing to anyone; `system:masters` were asked for before.
pub struct AlwaysDeny;

#[async_trait]
impl Authorizer for AlwaysDeny {
    async fn authorize(&self, _attributes: &Attributes<'_>) -> Decision {
        Decision::NoOpinion("Everything is forbidden.".into())
    }

    async fn rules(&self, _user: &UserInfo, _namespace: &str) -> Rules {
        Rules::default()
    }
}
