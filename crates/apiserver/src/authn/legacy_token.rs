//! Tokens that stand in Secrets of type `kubernetes.io/service-account-token` (`pkg/serviceaccount/legacy.go`): good for
//! as long as the Secret holds them and their account exists. The day of the last use is noted in a label of the Secret.

use std::sync::{Arc, OnceLock, Weak};

use async_trait::async_trait;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;
use orkd_pki::jwt::{LegacyClaims, Refusal, Verifier};
use serde_json::{Value, json};

use super::bearer::{TokenAuthenticator, TokenVerdict};
use crate::admission::{items, meta};
use crate::alloc::cluster_ip::system_user;
use crate::lookup::{Lookup, get_fresh};
use crate::pipeline::{ApiServer, Inner};
use crate::user::UserInfo;
use crate::writer::Writer;

/// The label with the day of the last use.
pub const LAST_USED: &str = "kubernetes.io/legacy-token-last-used";
/// The label with the day since when a token that was made by the system and is not used counts no more.
pub const INVALID_SINCE: &str = "kubernetes.io/legacy-token-invalid-since";

/// Authenticates by such a token.
pub struct LegacyTokens {
    verifier: Arc<Verifier>,
    objects: Lookup,
    server: Later,
}

/// The server, which is made after its authenticators and holds them.
pub(crate) type Later = Arc<OnceLock<Weak<Inner>>>;

impl LegacyTokens {
    /// Checks signatures with `verifier` and looks Secrets and accounts up in `objects`. Uses are noted through `server`,
    /// as soon as there is one.
    pub(crate) fn new(verifier: Arc<Verifier>, objects: Lookup, server: Later) -> Self {
        LegacyTokens { verifier, objects, server }
    }

    async fn check(&self, token: &str, now: Timestamp) -> Result<Option<UserInfo>, String> {
        let claims = match self.verifier.verify_legacy(token) {
            Ok(claims) => claims,
            Err(Refusal::Foreign) => return Ok(None),
            Err(why) => return Err(why.to_string()),
        };
        let (namespace, name) = (claims.namespace.as_str(), claims.account.as_str());
        for (claim, what) in [
            (&claims.sub, "sub"),
            (&claims.namespace, "namespace"),
            (&claims.secret, "secretName"),
            (&claims.account, "serviceAccountName"),
            (&claims.uid, "serviceAccountUID"),
        ] {
            if claim.is_empty() {
                return Err(format!("{what} claim is missing"));
            }
        }
        if claims.sub != format!("system:serviceaccount:{namespace}:{name}") {
            return Err("sub claim is invalid".into());
        }
        let find = async |resource: &str, name: &str| {
            get_fresh(&*self.objects, "", resource, namespace, name).await.map_err(|s| s.message)
        };
        let invalidated = || "service account token has been invalidated".to_owned();
        let secret = find("secrets", &claims.secret).await?.ok_or_else(invalidated)?;
        if is_deleted(&secret) {
            return Err(invalidated());
        }
        let held = STANDARD.decode(secret["data"]["token"].as_str().unwrap_or_default()).unwrap_or_default();
        if held != token.as_bytes() {
            return Err("service account token does not match server's copy".into());
        }
        let account = find("serviceaccounts", name).await?;
        let account = account.ok_or_else(|| format!("serviceaccounts {name:?} not found"))?;
        if is_deleted(&account) {
            return Err(format!("service account {namespace}/{name} has been deleted"));
        }
        if meta(&account, "uid") != claims.uid {
            return Err(format!(
                "service account UID ({}) does not match claim ({})",
                meta(&account, "uid"),
                claims.uid
            ));
        }
        let labels = &secret["metadata"]["labels"];
        if labels[INVALID_SINCE].as_str().is_some_and(|since| !since.is_empty()) {
            return Err(format!(
                "the token in secret {namespace}/{0} for service account {namespace}/{name} has been marked invalid. Use \
                 tokens from the TokenRequest API or manually created secret-based tokens, or remove the \
                 '{INVALID_SINCE}' label from the secret to temporarily allow use of this token",
                claims.secret
            ));
        }
        if items(&account["secrets"]).iter().any(|s| s["name"] == claims.secret.as_str()) {
            tracing::debug!(namespace, secret = claims.secret, "an auto-generated token is in use");
        }
        let today = now.strftime("%Y-%m-%d").to_string();
        if labels[LAST_USED] != today.as_str() {
            self.note(&claims, &secret, today);
        }
        let mut user = UserInfo::service_account(namespace, name);
        user.uid = claims.uid;
        Ok(Some(user))
    }

    /// Notes the use, beside the request.
    fn note(&self, claims: &LegacyClaims, secret: &Value, today: String) {
        let Some(server) = self.server.get().and_then(Weak::upgrade) else { return };
        let writer = Writer::new(ApiServer(server), system_user());
        let (namespace, name, uid) = (claims.namespace.clone(), claims.secret.clone(), meta(secret, "uid").to_owned());
        tokio::spawn(async move {
            let noted = writer.update_with("", "secrets", "", &namespace, &name, |secret| {
                if meta(secret, "uid") == uid && secret["metadata"]["labels"][LAST_USED] != today.as_str() {
                    if !secret["metadata"]["labels"].is_object() {
                        secret["metadata"]["labels"] = json!({});
                    }
                    secret["metadata"]["labels"][LAST_USED] = json!(today);
                }
                Ok(())
            });
            if let Err(status) = noted.await {
                tracing::warn!(namespace, name, why = status.message, "the use of a token could not be noted");
            }
        });
    }
}

fn is_deleted(object: &Value) -> bool {
    object["metadata"]["deletionTimestamp"].is_string()
}

#[async_trait]
impl TokenAuthenticator for LegacyTokens {
    async fn token(&self, token: &str, _audiences: &[String]) -> TokenVerdict {
        match self.check(token, Timestamp::now()).await {
            Ok(Some(user)) => TokenVerdict::User(user, Vec::new()),
            Ok(None) => TokenVerdict::NotMine,
            Err(why) => TokenVerdict::Bad(why),
        }
    }
}

#[cfg(test)]
mod tests {
    use orkd_pki::Key;
    use orkd_pki::jwt::Signer;

    use super::*;
    use crate::lookup::fake::Fake;

    #[tokio::test]
    async fn tokens_are_good_while_their_secret_holds_them() {
        let key = Key::generate().expect("key");
        let verifier = Arc::new(Verifier::new([&key], vec!["iss".into()]).expect("verifier"));
        let signer = Signer::new(&key, "iss").expect("signer");
        let token = signer.sign_legacy(&LegacyClaims::new("d", "s", "a", "ua")).expect("token");
        let secret = |token: &str, labels: Value| {
            json!({"metadata": {"namespace": "d", "name": "s", "uid": "us", "labels": labels},
                "type": "kubernetes.io/service-account-token", "data": {"token": STANDARD.encode(token)}})
        };
        let account = |uid: &str| json!({"metadata": {"namespace": "d", "name": "a", "uid": uid}});
        let fake = Fake::with([("secrets", secret(&token, Value::Null)), ("serviceaccounts", account("ua"))]);
        let tokens = LegacyTokens::new(verifier, fake.lookup(), Arc::default());
        let TokenVerdict::User(user, _) = tokens.token(&token, &[]).await else { panic!("not known") };
        assert_eq!((user.name.as_str(), user.uid.as_str()), ("system:serviceaccount:d:a", "ua"));
        let refused = async |part: &str| match tokens.token(&token, &[]).await {
            TokenVerdict::Bad(why) => assert!(why.contains(part), "{why}"),
            other => panic!("{other:?}"),
        };
        fake.put("secrets", secret("another", Value::Null));
        refused("server's copy").await;
        fake.put("secrets", secret(&token, json!({INVALID_SINCE: "2026-01-01"})));
        refused("marked invalid").await;
        fake.put("secrets", secret(&token, Value::Null));
        fake.put("serviceaccounts", account("other"));
        refused("does not match claim").await;
        fake.remove("serviceaccounts", "d", "a");
        refused("not found").await;
        fake.remove("secrets", "d", "s");
        refused("invalidated").await;
        let other = Signer::new(&key, "iss").expect("signer").sign(orkd_pki::jwt::Claims::default()).expect("token");
        assert_eq!(tokens.token(&other, &[]).await, TokenVerdict::NotMine);
    }
}
