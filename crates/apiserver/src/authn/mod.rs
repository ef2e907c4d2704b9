//! Authentication: each authenticator is one file and one line in the list that composition builds.

use async_trait::async_trait;

use crate::user::UserInfo;

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
