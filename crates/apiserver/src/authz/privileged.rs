//! Members of `system:masters` may do everything
//! (`k8s.io/apiserver/pkg/authorization/authorizerfactory.NewPrivilegedGroups`).

use async_trait::async_trait;

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

    /// Upstream's resolver of rules does not know of it: what the members see are the rules of `cluster-admin`.
    async fn rules(&self, _user: &UserInfo, _namespace: &str) -> Rules {
        Rules::default()
    }
}
