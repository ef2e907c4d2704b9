//! Authentication: each authenticator is one file and one line in the list that composition builds.
//!
//! [`Union`] asks them in upstream's order (`pkg/kubeapiserver/authenticator/config.go`): the identity of a loop of
//! this process, front-proxy headers, client certificates, bearer tokens, and last the anonymous user, who by
//! default is let in everywhere and may read health and version.

pub mod anonymous;
pub mod bearer;
pub mod bootstrap_token;
pub mod config;
pub mod front_proxy;
pub mod in_process;
pub mod legacy_token;
pub mod oidc;
pub mod service_account;
pub mod static_token;
pub mod union;
pub mod webhook;
pub mod x509;

use async_trait::async_trait;

use crate::user::UserInfo;

pub use anonymous::Anonymous;
pub use bearer::{Bearer, TokenAuthenticator, TokenVerdict};
pub use union::Union;

/// What an authenticator says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The request shows no credential of this sort: the next authenticator is asked.
    NotMine,
    /// This is the user.
    User(UserInfo),
    /// The credential is of this sort and bad. The next authenticator is still asked (a token may be another's);
    /// if none knows the user, the answer is 401. The text is for the log only.
    Bad(String),
}

/// Finds out who makes a request (`k8s.io/apiserver/pkg/authentication/authenticator.Request`).
#[async_trait]
pub trait Authenticator: Send + Sync + 'static {
    /// Looks at the head of a request. Extensions carry [`crate::user::Peer`].
    async fn authenticate(&self, parts: &http::request::Parts) -> Verdict;
}

/// The key under which a user's extra facts name the credential.
pub const CREDENTIAL_ID: &str = "authentication.kubernetes.io/credential-id";
