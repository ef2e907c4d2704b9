//! Asks authorizers in order (`k8s.io/apiserver/pkg/authorization/union`).

use std::sync::Arc;

use async_trait::async_trait;

use super::{Attributes, Authorizer, Decision, Rules};
use crate::user::UserInfo;

/// All authorizers of a server.
pub struct Union(Vec<Arc<dyn Authorizer>>);

impl Union {
    /// A union of authorizers in the order they are asked.
    pub fn new(list: Vec<Arc<dyn Authorizer>>) -> Self {
        Union(list)
    }
}

#[async_trait]
impl Authorizer for Union {
    async fn authorize(&self, attributes: &Attributes<'_>) -> Decision {
        let mut reasons = Vec::new();
        for authorizer in &self.0 {
            match authorizer.authorize(attributes).await {
                Decision::NoOpinion(reason) => {
                    if !reason.is_empty() {
                        reasons.push(reason);
                    }
                }
                decided => return decided,
            }
        }
        Decision::NoOpinion(reasons.join("\n"))
    }

    async fn rules(&self, user: &UserInfo, namespace: &str) -> Rules {
        let mut all = Rules::default();
        let mut errors = Vec::new();
        for authorizer in &self.0 {
            let rules = authorizer.rules(user, namespace).await;
            all.resources.extend(rules.resources);
            all.paths.extend(rules.paths);
            all.incomplete |= rules.incomplete;
            if !rules.error.is_empty() {
                errors.push(rules.error);
            }
        }
        all.error = match errors.len() {
            0 | 1 => errors.pop().unwrap_or_default(),
            _ => format!("[{}]", errors.join(", ")),
        };
        all
    }
}
