//! Authorization: Node, RBAC and webhook authorizers, asked in order; the first that allows or denies decides.
//! [`modes`] says which there are.

pub mod always;
pub mod feed;
pub mod forbidden;
pub mod modes;
pub mod node;
pub mod privileged;
pub mod rbac;
pub mod union;
pub mod webhook;

use async_trait::async_trait;

use crate::route::RequestInfo;
use crate::user::UserInfo;

pub use forbidden::forbidden;
pub use node::NodeAuthorizer;
pub use privileged::Privileged;
pub use rbac::Rbac;
pub use union::Union;

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

    /// The rules that hold for a user in a namespace, for SelfSubjectRulesReview
    /// (`authorizer.RuleResolver`). The default is an authorizer that cannot tell.
    async fn rules(&self, _user: &UserInfo, _namespace: &str) -> Rules {
        Rules { incomplete: true, ..Rules::default() }
    }
}

/// The rules that hold for a user.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Rules {
    /// Rules about resources, as `authorization.k8s.io/v1.ResourceRule`.
    pub resources: Vec<serde_json::Value>,
    /// Rules about other paths, as `NonResourceRule`.
    pub paths: Vec<serde_json::Value>,
    /// Whether there may be more.
    pub incomplete: bool,
    /// What went wrong while collecting them; empty for nothing.
    pub error: String,
}
