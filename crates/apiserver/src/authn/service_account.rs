//! Service account tokens: JWTs of this cluster, bound to a service account and optionally to a pod, secret or node
//! (`pkg/serviceaccount/{jwt,claims,util}.go`).
//!
//! The signature of a token is checked once and remembered; its time and the objects it is bound to are looked at
//! on every request, so that a deleted pod's token ends with the pod.

use std::collections::HashMap;
use std::sync::Arc;

use async_trait::async_trait;
use jiff::Timestamp;
use orkd_api::status::Status;
use orkd_pki::jwt::{Claims, Reference, Refusal, Verifier};
use parking_lot::Mutex;
use serde_json::Value;
use sha2::{Digest, Sha256};

use super::CREDENTIAL_ID;
use super::bearer::{TokenAuthenticator, TokenVerdict};
use crate::lookup::{Lookup, get_fresh};
use crate::user::UserInfo;

/// How many tokens' signatures are remembered.
const REMEMBERED: usize = 8192;

/// How long an object that is being deleted is still believed in, in seconds (go-jose's leeway).
const LEEWAY: i64 = 60;

/// Authenticates by service account token.
pub struct ServiceAccountTokens {
    verifier: Arc<Verifier>,
    objects: Lookup,
    checked: Mutex<HashMap<[u8; 32], Arc<Claims>>>,
}

impl ServiceAccountTokens {
    /// Checks signatures with `verifier` and looks bound objects up in `objects`.
    pub fn new(verifier: Arc<Verifier>, objects: Lookup) -> Self {
        ServiceAccountTokens { verifier, objects, checked: Mutex::default() }
    }

    fn claims(&self, token: &str, now: Timestamp) -> Result<Arc<Claims>, Refusal> {
        let hash: [u8; 32] = Sha256::digest(token).into();
        if let Some(claims) = self.checked.lock().get(&hash)
            && claims.exp.is_none_or(|t| now.as_second() - LEEWAY <= t)
        {
            return Ok(Arc::clone(claims));
        }
        let claims = Arc::new(self.verifier.verify(token, now.as_second())?);
        let mut checked = self.checked.lock();
        if checked.len() >= REMEMBERED {
            checked.clear();
        }
        checked.insert(hash, Arc::clone(&claims));
        Ok(claims)
    }

    async fn check(&self, token: &str, audiences: &[String], now: Timestamp) -> TokenVerdict {
        let claims = match self.claims(token, now) {
            Ok(claims) => claims,
            Err(Refusal::Foreign) => return TokenVerdict::NotMine,
            Err(why) => return TokenVerdict::Bad(why.to_string()),
        };
        let granted: Vec<String> = claims.aud.iter().filter(|a| audiences.contains(a)).cloned().collect();
        if granted.is_empty() {
            return TokenVerdict::Bad(format!(
                "token audiences {:?} is invalid for the target audiences {audiences:?}",
                claims.aud
            ));
        }
        match self.bound(&claims, now).await {
            Ok(()) => TokenVerdict::User(user_of(&claims), granted),
            Err(why) => TokenVerdict::Bad(why),
        }
    }

    /// Whether everything the token is bound to still exists and is the same.
    async fn bound(&self, claims: &Claims, now: Timestamp) -> Result<(), String> {
        let (bound, namespace) = (&claims.kubernetes, claims.kubernetes.namespace.as_str());
        let account = &bound.serviceaccount;
        if claims.sub != format!("system:serviceaccount:{namespace}:{}", account.name) {
            return Err("subject does not match the service account".into());
        }
        self.exists("serviceaccounts", "service account", namespace, account, now).await?;
        if let Some(secret) = &bound.secret {
            self.exists("secrets", "secret", namespace, secret, now).await?;
        }
        if let Some(pod) = &bound.pod {
            self.exists("pods", "pod", namespace, pod, now).await?;
        } else if let Some(node) = &bound.node {
            // Beside a pod the node is told for information only.
            self.exists("nodes", "node", "", node, now).await?;
        }
        Ok(())
    }

    async fn exists(
        &self,
        resource: &str,
        what: &str,
        namespace: &str,
        wanted: &Reference,
        now: Timestamp,
    ) -> Result<(), String> {
        let found = get_fresh(&*self.objects, "", resource, namespace, &wanted.name);
        let object = found.await.map_err(|e: Status| e.message)?;
        let Some(object) = object else { return Err(format!("{what} {namespace}/{} is gone", wanted.name)) };
        let meta = &object["metadata"];
        if is_gone(meta, now) {
            return Err(format!("{what} {namespace}/{} is being deleted", wanted.name));
        }
        if meta["uid"].as_str().unwrap_or_default() != wanted.uid {
            return Err(format!("{what} {namespace}/{} is another one by now", wanted.name));
        }
        Ok(())
    }
}

fn is_gone(meta: &Value, now: Timestamp) -> bool {
    let deleted = meta["deletionTimestamp"].as_str().and_then(|t| t.parse::<Timestamp>().ok());
    deleted.is_some_and(|at| at.as_second() < now.as_second() - LEEWAY)
}

/// The user a token speaks for.
fn user_of(claims: &Claims) -> UserInfo {
    let bound = &claims.kubernetes;
    let mut user = UserInfo::service_account(&bound.namespace, &bound.serviceaccount.name);
    user.uid.clone_from(&bound.serviceaccount.uid);
    let mut say = |key: &str, value: &str| {
        if !value.is_empty() {
            user.extra.insert(key.to_owned(), vec![value.to_owned()]);
        }
    };
    if !claims.jti.is_empty() {
        say(CREDENTIAL_ID, &format!("JTI={}", claims.jti));
    }
    if let Some(pod) = &bound.pod {
        say("authentication.kubernetes.io/pod-name", &pod.name);
        say("authentication.kubernetes.io/pod-uid", &pod.uid);
    }
    if let Some(node) = &bound.node {
        say("authentication.kubernetes.io/node-name", &node.name);
        say("authentication.kubernetes.io/node-uid", &node.uid);
    }
    user
}

#[async_trait]
impl TokenAuthenticator for ServiceAccountTokens {
    async fn token(&self, token: &str, audiences: &[String]) -> TokenVerdict {
        self.check(token, audiences, Timestamp::now()).await
    }
}

#[cfg(test)]
mod tests {
    use jiff::SignedDuration;
    use orkd_pki::Key;
    use orkd_pki::jwt::{Kubernetes, Signer};
    use serde_json::json;

    use super::*;
    use crate::lookup::fake::Fake;

    #[tokio::test]
    async fn a_token_ends_with_what_it_is_bound_to() {
        let now: Timestamp = "2026-11-21T00:00:00Z".parse().expect("time");
        let key = Key::generate().expect("key");
        let meta = |name: &str, uid: &str| json!({"metadata": {"namespace": "d", "name": name, "uid": uid}});
        let fake = Fake::with([("serviceaccounts", meta("a", "ua")), ("pods", meta("p", "up"))]);
        let verifier = Arc::new(Verifier::new([&key], vec!["iss".into()]).expect("verifier"));
        let authn = ServiceAccountTokens::new(verifier, fake.lookup());
        let reference = |name: &str, uid: &str| Reference { name: name.into(), uid: uid.into() };
        let claims = Claims {
            aud: vec!["api".into(), "other".into()],
            exp: Some(now.as_second() + 600),
            sub: "system:serviceaccount:d:a".into(),
            jti: "j".into(),
            kubernetes: Kubernetes {
                namespace: "d".into(),
                serviceaccount: reference("a", "ua"),
                pod: Some(reference("p", "up")),
                node: Some(reference("n", "un")),
                ..Kubernetes::default()
            },
            ..Claims::default()
        };
        let token = Signer::new(&key, "iss").expect("signer").sign(claims).expect("token");
        let api = ["api".to_owned()];
        let TokenVerdict::User(user, granted) = authn.check(&token, &api, now).await else { panic!("not known") };
        assert_eq!(user.name, "system:serviceaccount:d:a");
        assert_eq!(user.groups, ["system:serviceaccounts", "system:serviceaccounts:d", "system:authenticated"]);
        assert_eq!(user.extra["authentication.kubernetes.io/node-name"], ["n"]);
        assert_eq!(granted, api);

        let bad = async |now: Timestamp, audience: &str| {
            let verdict = authn.check(&token, &[audience.to_owned()], now).await;
            matches!(verdict, TokenVerdict::Bad(_))
        };
        assert!(bad(now, "third").await);
        assert!(bad(now + SignedDuration::from_mins(12), "api").await);
        fake.put("pods", meta("p", "another"));
        assert!(bad(now, "api").await);
        fake.remove("pods", "d", "p");
        assert!(bad(now, "api").await);
        fake.put("pods", meta("p", "up"));
        assert!(!bad(now, "api").await);
        fake.remove("serviceaccounts", "d", "a");
        assert!(bad(now, "api").await);
        assert_eq!(authn.check("abc", &api, now).await, TokenVerdict::NotMine);
    }
}
