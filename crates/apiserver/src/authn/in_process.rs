//! Loops of this process: their identity was set at composition and travels as a request extension, which nothing
//! that comes from a socket can carry.

use async_trait::async_trait;

use super::{Authenticator, Verdict};
use crate::user::InProcess;

/// Takes the identity of [`InProcess`].
pub struct InProcessIdentity;

#[async_trait]
impl Authenticator for InProcessIdentity {
    async fn authenticate(&self, parts: &http::request::Parts) -> Verdict {
        match parts.extensions.get::<InProcess>() {
            Some(InProcess(user)) => Verdict::User(user.clone()),
            None => Verdict::NotMine,
        }
    }
}
