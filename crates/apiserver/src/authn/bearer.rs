//! Bearer tokens: `Authorization: Bearer T`, or, for browsers' WebSockets, the subprotocol
//! `base64url.bearer.authorization.k8s.io.T` (`k8s.io/apiserver/pkg/authentication/request/{bearertoken,websocket}`).

use async_trait::async_trait;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use super::{Authenticator, Verdict};
use crate::user::UserInfo;

/// What a token authenticator says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TokenVerdict {
    /// Not a token of this sort.
    NotMine,
    /// The user, and which of the audiences asked for the token is good for (empty where the authenticator knows
    /// no audiences: the token is the API server's own).
    User(UserInfo, Vec<String>),
    /// A token of this sort, and bad. The text is for the log and for TokenReview.
    Bad(String),
}

/// Finds out whose a token is (`authenticator.Token`).
#[async_trait]
pub trait TokenAuthenticator: Send + Sync + 'static {
    /// Looks at a token. `audiences`: for whom the token must be; the API server's own for requests.
    async fn token(&self, token: &str, audiences: &[String]) -> TokenVerdict;
}

/// Every token authenticator, in order.
pub struct Bearer {
    list: Vec<Box<dyn TokenAuthenticator>>,
    audiences: Vec<String>,
}

impl Bearer {
    /// Authenticators in the order they are asked, and the API server's audiences.
    pub fn new(list: Vec<Box<dyn TokenAuthenticator>>, audiences: Vec<String>) -> Self {
        Bearer { list, audiences }
    }

    /// The API server's audiences.
    pub fn audiences(&self) -> &[String] {
        &self.audiences
    }

    /// Whose a token is, for these audiences; for the API server's own where none are named. TokenReview asks this.
    pub async fn review(&self, token: &str, audiences: &[String]) -> TokenVerdict {
        let audiences = if audiences.is_empty() { &self.audiences } else { audiences };
        let mut bad: Vec<String> = Vec::new();
        for authenticator in &self.list {
            match authenticator.token(token, audiences).await {
                TokenVerdict::NotMine => {}
                TokenVerdict::Bad(why) => bad.push(why),
                TokenVerdict::User(user, granted) => {
                    if !granted.is_empty() {
                        return TokenVerdict::User(user, granted);
                    }
                    // The authenticator knows no audiences: its tokens are for the API server.
                    let own: Vec<String> = audiences.iter().filter(|a| self.audiences.contains(a)).cloned().collect();
                    if own.is_empty() {
                        bad.push("token audiences do not match".into());
                    } else {
                        return TokenVerdict::User(user, own);
                    }
                }
            }
        }
        match bad.len() {
            0 => TokenVerdict::NotMine,
            1 => TokenVerdict::Bad(bad.remove(0)),
            _ => TokenVerdict::Bad(format!("[{}]", bad.join(", "))),
        }
    }
}

#[async_trait]
impl Authenticator for std::sync::Arc<Bearer> {
    async fn authenticate(&self, parts: &http::request::Parts) -> Verdict {
        let Some(token) = token_of(parts) else { return Verdict::NotMine };
        match self.review(&token, &[]).await {
            TokenVerdict::User(user, _) => Verdict::User(user),
            TokenVerdict::Bad(why) => Verdict::Bad(why),
            TokenVerdict::NotMine => Verdict::Bad("invalid bearer token".into()),
        }
    }
}

/// The subprotocol that carries a token.
pub const WEBSOCKET_TOKEN: &str = "base64url.bearer.authorization.k8s.io.";

/// The token a request shows; `None` for none.
pub fn token_of(parts: &http::request::Parts) -> Option<String> {
    if let Some(value) = parts.headers.get(http::header::AUTHORIZATION).and_then(|v| v.to_str().ok()) {
        let mut words = value.trim().split(' ');
        if words.next().is_some_and(|scheme| scheme.eq_ignore_ascii_case("bearer")) {
            return words.next().filter(|t| !t.is_empty()).map(str::to_owned);
        }
    }
    let offered = parts.headers.get_all(http::header::SEC_WEBSOCKET_PROTOCOL);
    offered.iter().filter_map(|v| v.to_str().ok()).flat_map(|v| v.split(',')).find_map(|protocol| {
        let encoded = protocol.trim().strip_prefix(WEBSOCKET_TOKEN)?;
        let bytes = URL_SAFE_NO_PAD.decode(encoded.trim_end_matches('=')).ok()?;
        String::from_utf8(bytes).ok().filter(|t| !t.is_empty())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_found_in_both_places() {
        let check = |name: &str, value: &str, expected: Option<&str>| {
            let (parts, ()) = http::Request::get("/").header(name, value).body(()).expect("request").into_parts();
            assert_eq!(token_of(&parts).as_deref(), expected, "{name}: {value}");
        };
        check("authorization", "Bearer abc", Some("abc"));
        check("authorization", "bearer abc def", Some("abc"));
        check("authorization", "Bearer ", None);
        check("authorization", "Bearer", None);
        check("authorization", "Basic abc", None);
        check("sec-websocket-protocol", "v4.channel.k8s.io, base64url.bearer.authorization.k8s.io.YWJj", Some("abc"));
        check("sec-websocket-protocol", "base64url.bearer.authorization.k8s.io.!!", None);
    }
}
