//! A webhook that knows tokens (`k8s.io/apiserver/plugin/pkg/authenticator/token/webhook`,
//! `pkg/authentication/token/cache`): a TokenReview is posted, its verdict is believed for a while.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::bearer::{TokenAuthenticator, TokenVerdict};
use crate::outbound::Endpoint;
use crate::ttl_cache::TtlCache;
use crate::user::UserInfo;

const TIMEOUT: Duration = Duration::from_secs(30);
const ATTEMPTS: u32 = 5;
const FIRST_PAUSE: Duration = Duration::from_millis(500);
const REMEMBERED: usize = 4096;

/// Asks the webhook.
pub struct TokenWebhook {
    endpoint: Endpoint,
    version: String,
    /// The API server's audiences: what a webhook that says nothing of audiences stands for.
    implicit: Vec<String>,
    ttl: Duration,
    cache: TtlCache<[u8; 32], TokenVerdict>,
}

impl TokenWebhook {
    /// The server of a kubeconfig, asked in `v1` or `v1beta1`.
    pub fn new(kubeconfig: &Path, version: &str, implicit: Vec<String>, ttl: Duration) -> Result<Self, String> {
        if !["v1", "v1beta1"].contains(&version) {
            return Err(format!(
                "unsupported webhook authenticator version {version:?}, supported versions are v1, v1beta1"
            ));
        }
        let endpoint = Endpoint::from_kubeconfig(kubeconfig, TIMEOUT)?;
        Ok(TokenWebhook { endpoint, version: version.into(), implicit, ttl, cache: TtlCache::new(REMEMBERED) })
    }

    async fn ask(&self, token: &str, audiences: &[String]) -> Result<TokenVerdict, String> {
        let review = json!({
            "kind": "TokenReview",
            "apiVersion": format!("authentication.k8s.io/{}", self.version),
            "metadata": {},
            "spec": { "token": token, "audiences": audiences },
            "status": { "user": {} },
        });
        let answer = retried(&self.endpoint, &review).await?;
        Ok(verdict(&answer["status"], audiences, &self.implicit))
    }
}

/// Posts until the webhook has answered with an object, a few times.
pub(crate) async fn retried(endpoint: &Endpoint, review: &Value) -> Result<Value, String> {
    let mut pause = FIRST_PAUSE;
    let mut attempt = 1;
    loop {
        let failure = match endpoint.post(review).await {
            Ok(answer) if (200..300).contains(&answer.status) => {
                return serde_json::from_slice(&answer.body).map_err(|e| format!("the webhook's answer: {e}"));
            }
            // What a server says about the question does not change; what it says about itself may.
            Ok(answer) if answer.status < 500 && answer.status != 429 => {
                return Err(format!("the webhook answered with status {}", answer.status));
            }
            Ok(answer) => format!("the webhook answered with status {}", answer.status),
            Err(error) => error,
        };
        if attempt == ATTEMPTS {
            return Err(failure);
        }
        attempt += 1;
        tokio::time::sleep(pause).await;
        pause = pause * 3 / 2;
    }
}

fn verdict(status: &Value, asked: &[String], implicit: &[String]) -> TokenVerdict {
    if status["authenticated"] != true {
        return match status["error"].as_str().unwrap_or_default() {
            "" => TokenVerdict::NotMine,
            why => TokenVerdict::Bad(why.to_owned()),
        };
    }
    let texts = |v: &Value| {
        let list = v.as_array().map(Vec::as_slice).unwrap_or_default();
        list.iter().filter_map(|t| t.as_str().map(str::to_owned)).collect::<Vec<_>>()
    };
    let named = texts(&status["audiences"]);
    // A webhook that names no audience speaks for the API server.
    let good = if named.is_empty() { implicit } else { &named };
    let granted: Vec<String> = asked.iter().filter(|a| good.contains(a)).cloned().collect();
    if granted.is_empty() {
        return TokenVerdict::NotMine;
    }
    let user = &status["user"];
    let text = |field: &str| user[field].as_str().unwrap_or_default().to_owned();
    let extra: BTreeMap<String, Vec<String>> =
        user["extra"].as_object().into_iter().flatten().map(|(k, v)| (k.clone(), texts(v))).collect();
    let user = UserInfo { name: text("username"), uid: text("uid"), groups: texts(&user["groups"]), extra };
    TokenVerdict::User(user, granted)
}

#[async_trait]
impl TokenAuthenticator for TokenWebhook {
    async fn token(&self, token: &str, audiences: &[String]) -> TokenVerdict {
        let mut hash = Sha256::new();
        for part in audiences.iter().map(String::as_str).chain([token]) {
            hash.update((part.len() as u64).to_be_bytes());
            hash.update(part);
        }
        let key: [u8; 32] = hash.finalize().into();
        if let Some(known) = self.cache.get(&key, Instant::now()) {
            return known;
        }
        match self.ask(token, audiences).await {
            Ok(verdict) => {
                self.cache.put(key, verdict.clone(), self.ttl, Instant::now());
                verdict
            }
            // That it could not be asked is not remembered.
            Err(why) => {
                tracing::warn!(why, "the authentication webhook failed");
                TokenVerdict::Bad(why)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reviews_are_read() {
        let api = ["api".to_owned()];
        let check = |status: Value, expected: TokenVerdict| assert_eq!(verdict(&status, &api, &api), expected);
        let ann = UserInfo {
            name: "ann".into(),
            uid: "7".into(),
            groups: vec!["dev".into()],
            extra: [("k".to_owned(), vec!["v".to_owned()])].into(),
        };
        let user = json!({"username": "ann", "uid": "7", "groups": ["dev"], "extra": {"k": ["v"]}});
        check(json!({"authenticated": true, "user": user}), TokenVerdict::User(ann.clone(), api.to_vec()));
        check(
            json!({"authenticated": true, "user": user, "audiences": ["api", "x"]}),
            TokenVerdict::User(ann, api.to_vec()),
        );
        check(json!({"authenticated": true, "user": user, "audiences": ["x"]}), TokenVerdict::NotMine);
        check(json!({"authenticated": false, "error": "no"}), TokenVerdict::Bad("no".into()));
        check(json!({}), TokenVerdict::NotMine);
    }
}
