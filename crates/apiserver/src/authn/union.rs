//! Asks authenticators in order.

use std::sync::Arc;

use arc_swap::ArcSwap;
use async_trait::async_trait;

use super::{Anonymous, Authenticator, Verdict};
use crate::user::{AUTHENTICATED, UNAUTHENTICATED, UserInfo};

/// All authenticators of a server. The first that knows the user decides. Where none does, a credential that was
/// shown and is bad makes the request unauthenticated (401); no credential at all makes it anonymous, where the
/// anonymous user is let in.
pub struct Union {
    list: Vec<Box<dyn Authenticator>>,
    anonymous: Arc<ArcSwap<Anonymous>>,
}

impl Union {
    /// A union of authenticators in the order they are asked.
    pub fn new(list: Vec<Box<dyn Authenticator>>, anonymous: Anonymous) -> Self {
        Union { list, anonymous: Arc::new(ArcSwap::from_pointee(anonymous)) }
    }

    /// Where anonymous requests are let in; may be replaced while the server runs.
    pub fn anonymous(&self) -> Arc<ArcSwap<Anonymous>> {
        Arc::clone(&self.anonymous)
    }
}

#[async_trait]
impl Authenticator for Union {
    async fn authenticate(&self, parts: &http::request::Parts) -> Verdict {
        let mut bad: Option<String> = None;
        for authenticator in &self.list {
            match authenticator.authenticate(parts).await {
                Verdict::User(user) => return Verdict::User(authenticated(user)),
                Verdict::NotMine => {}
                Verdict::Bad(why) => {
                    bad = Some(match bad {
                        Some(before) => format!("{before}; {why}"),
                        None => why,
                    });
                }
            }
        }
        match bad {
            Some(why) => Verdict::Bad(why),
            None if self.anonymous.load().admits(parts.uri.path()) => Verdict::User(UserInfo::anonymous()),
            None => Verdict::NotMine,
        }
    }
}

/// Adds `system:authenticated`, as `group.AuthenticatedGroupAdder` does.
fn authenticated(mut user: UserInfo) -> UserInfo {
    if !user.in_group(AUTHENTICATED) && !user.in_group(UNAUTHENTICATED) && user.name != "system:anonymous" {
        user.groups.push(AUTHENTICATED.into());
    }
    user
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Says(Verdict);

    #[async_trait]
    impl Authenticator for Says {
        async fn authenticate(&self, _parts: &http::request::Parts) -> Verdict {
            self.0.clone()
        }
    }

    async fn check(says: &[Verdict], path: &str, expected: Verdict) {
        let list = says.iter().map(|v| Box::new(Says(v.clone())) as Box<dyn Authenticator>).collect();
        let (parts, ()) = http::Request::get(path).body(()).expect("request").into_parts();
        assert_eq!(Union::new(list, Anonymous::default()).authenticate(&parts).await, expected);
    }

    #[tokio::test]
    async fn the_first_user_wins_and_bad_credentials_are_never_anonymous() {
        let (user, bad) = (Verdict::User(UserInfo::new("a", &[])), Verdict::Bad("no".into()));
        check(&[bad.clone(), user.clone()], "/api", user).await;
        check(&[Verdict::NotMine, bad.clone()], "/healthz", bad).await;
        check(&[Verdict::NotMine], "/healthz", Verdict::User(UserInfo::anonymous())).await;
        check(&[Verdict::NotMine], "/api/v1/pods", Verdict::User(UserInfo::anonymous())).await;
        let plain = UserInfo { name: "a".into(), ..UserInfo::default() };
        check(&[Verdict::User(plain)], "/api", Verdict::User(UserInfo::new("a", &[]))).await;
    }
}
