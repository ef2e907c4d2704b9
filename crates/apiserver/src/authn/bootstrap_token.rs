//! Bootstrap tokens: Secrets `kube-system/bootstrap-token-ID`
//! (`plugin/pkg/auth/authenticator/token/bootstrap`).

use async_trait::async_trait;
use base64::Engine;
use jiff::Timestamp;
use orkd_pki::token::BootstrapToken;
use serde_json::Value;
use sha2::{Digest, Sha256};

use super::bearer::{TokenAuthenticator, TokenVerdict};
use crate::lookup::Lookup;
use crate::user::UserInfo;

/// The group of everyone with a bootstrap token.
pub const BOOTSTRAPPERS: &str = "system:bootstrappers";

/// Authenticates by the Secrets of the cluster.
pub struct BootstrapTokens {
    objects: Lookup,
}

impl BootstrapTokens {
    /// Reads Secrets here.
    pub fn new(objects: Lookup) -> Self {
        BootstrapTokens { objects }
    }
}

#[async_trait]
impl TokenAuthenticator for BootstrapTokens {
    async fn token(&self, token: &str, _audiences: &[String]) -> TokenVerdict {
        let Ok(token) = token.parse::<BootstrapToken>() else { return TokenVerdict::NotMine };
        match self.objects.get("", "secrets", "kube-system", &token.secret_name()) {
            None => TokenVerdict::NotMine,
            Some(secret) => check(&token, &secret, Timestamp::now()),
        }
    }
}

fn check(token: &BootstrapToken, secret: &Value, now: Timestamp) -> TokenVerdict {
    if secret["metadata"].get("deletionTimestamp").is_some_and(|t| !t.is_null())
        || secret["type"] != "bootstrap.kubernetes.io/token"
        || !same(&data(secret, "token-secret"), &token.secret)
        || data(secret, "token-id") != token.id
        || is_expired(&data(secret, "expiration"), now)
        || data(secret, "usage-bootstrap-authentication") != "true"
    {
        return TokenVerdict::NotMine;
    }
    let mut groups = vec![BOOTSTRAPPERS.to_owned()];
    for group in data(secret, "auth-extra-groups").split(',').map(str::trim).filter(|g| !g.is_empty()) {
        if !is_bootstrap_group(group) {
            return TokenVerdict::NotMine;
        }
        groups.push(group.to_owned());
    }
    let user = UserInfo { name: format!("system:bootstrap:{}", token.id), groups, ..UserInfo::default() };
    TokenVerdict::User(user, Vec::new())
}

/// A value of a Secret as text; empty where there is none.
fn data(secret: &Value, key: &str) -> String {
    let encoded = secret["data"][key].as_str().unwrap_or_default();
    let bytes = base64::engine::general_purpose::STANDARD.decode(encoded).unwrap_or_default();
    String::from_utf8(bytes).unwrap_or_default()
}

/// Compares without telling by its time how much agrees.
fn same(a: &str, b: &str) -> bool {
    !b.is_empty() && Sha256::digest(a) == Sha256::digest(b)
}

/// An expiration that cannot be read counts as passed.
fn is_expired(text: &str, now: Timestamp) -> bool {
    !text.is_empty() && text.parse::<Timestamp>().map_or(true, |at| at <= now)
}

/// `\Asystem:bootstrappers:[a-z0-9:-]{0,255}[a-z0-9]\z`
fn is_bootstrap_group(group: &str) -> bool {
    let allowed = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    group.strip_prefix("system:bootstrappers:").is_some_and(|rest| {
        rest.len() <= 256
            && rest.bytes().all(|b| allowed(b) || b == b':' || b == b'-')
            && rest.bytes().last().is_some_and(allowed)
    })
}

#[cfg(test)]
mod tests {
    use base64::engine::general_purpose::STANDARD;
    use serde_json::json;

    use super::*;

    #[test]
    fn the_secret_decides() {
        let now: Timestamp = "2026-11-21T00:00:00Z".parse().expect("time");
        let token: BootstrapToken = "abcdef.0123456789abcdef".parse().expect("token");
        let check = |change: &dyn Fn(&mut Value)| {
            let e = |t: &str| STANDARD.encode(t);
            let mut secret = json!({
                "metadata": {"name": "bootstrap-token-abcdef"}, "type": "bootstrap.kubernetes.io/token",
                "data": {"token-id": e("abcdef"), "token-secret": e("0123456789abcdef"),
                    "expiration": e("2026-11-22T00:00:00Z"), "usage-bootstrap-authentication": e("true"),
                    "auth-extra-groups": e("system:bootstrappers:a:b")},
            });
            change(&mut secret);
            match super::check(&token, &secret, now) {
                TokenVerdict::User(user, _) => Some(user),
                _ => None,
            }
        };
        let user = check(&|_| ()).expect("good");
        assert_eq!(user.name, "system:bootstrap:abcdef");
        assert_eq!(user.groups, ["system:bootstrappers", "system:bootstrappers:a:b"]);
        let set = |key: &'static str, value: &'static str| {
            check(&move |s: &mut Value| s["data"][key] = json!(STANDARD.encode(value)))
        };
        assert_eq!(set("token-secret", "0123456789abcdee"), None);
        assert_eq!(set("expiration", "2026-11-20T00:00:00Z"), None);
        assert_eq!(set("expiration", "soon"), None);
        assert_eq!(set("usage-bootstrap-authentication", "false"), None);
        assert_eq!(set("auth-extra-groups", "system:masters"), None);
        assert_eq!(check(&|s| s["type"] = json!("Opaque")), None);
        assert_eq!(check(&|s| s["metadata"]["deletionTimestamp"] = json!("2026-11-20T00:00:00Z")), None);
    }
}
