//! Authorization: Node, RBAC and webhook authorizers, asked in order; the first that allows or denies decides.

use async_trait::async_trait;

use crate::route::RequestInfo;
use crate::user::UserInfo;

/// What is to be decided.
#[derive(Clone, Debug)]
pub struct Attributes<'a> {
    /// Who.
    pub user: &'a UserInfo,
    /// What.
    pub request: &'a RequestInfo,
}

/// What an authorizer says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Allowed, with the reason for audit.
    Allow(String),
    /// Denied, whatever others say.
    Deny(String),
    /// Not known here, with the reason; if all say so the request is forbidden.
    NoOpinion(String),
}

/// Decides whether a user may do something (`k8s.io/apiserver/pkg/authorization/authorizer.Authorizer`).
#[async_trait]
pub trait Authorizer: Send + Sync + 'static {
    /// Decides.
    async fn authorize(&self, attributes: &Attributes<'_>) -> Decision;
}
