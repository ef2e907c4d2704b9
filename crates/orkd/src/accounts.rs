//! Clients with the identities of service accounts, for a controller manager that runs alone.
//!
//! With the role's credential it makes the service account of each controller and asks for short-lived tokens, so
//! that every controller may do what its own role says and no more. Follows upstream's
//! `k8s.io/controller-manager/pkg/clientbuilder/client_builder_dynamic.go`.

use std::sync::Arc;

use anyhow::Context;
use http::header::AUTHORIZATION;
use http::{HeaderValue, Request, StatusCode};
use jiff::Timestamp;
use kube::client::Body;
use orkd_base::BoxError;
use orkd_reconcile::{Api, ApiError, Resource};
use serde_json::{Value, json};
use tokio::sync::Mutex;

const ACCOUNTS: Resource = Resource::new("", "v1", "serviceaccounts", "ServiceAccount", true);
const NAMESPACE: &str = "kube-system";
/// How long a token is asked for.
const LIFETIME_SECONDS: i64 = 3600;

/// Makes the clients.
#[derive(Clone)]
pub struct Accounts {
    /// Requests as the role.
    role: Api,
    /// Requests without a credential.
    bare: kube::Client,
}

impl Accounts {
    /// Accounts that are made and asked for by `role`, and used through `bare`, which has no credential.
    pub fn new(role: kube::Client, bare: kube::Client) -> Accounts {
        Accounts { role: Api::new(role, "service-account-tokens"), bare }
    }

    /// A client with the identity of a service account in `kube-system`. Its token is asked for with the first
    /// request, and again when most of its time has passed or the server no longer takes it.
    pub fn client(&self, account: &str) -> kube::Client {
        let tokens = Arc::new(Tokens { role: self.role.clone(), account: account.to_owned(), held: Mutex::default() });
        let bare = self.bare.clone();
        let service = tower::service_fn(move |mut request: Request<Body>| {
            let (tokens, bare) = (tokens.clone(), bare.clone());
            async move {
                let bearer = tokens.bearer().await?;
                request.headers_mut().insert(AUTHORIZATION, bearer.clone());
                let response = bare.send(request).await?;
                if response.status() == StatusCode::UNAUTHORIZED {
                    tokens.forget(&bearer).await;
                }
                Ok::<_, BoxError>(response)
            }
        });
        kube::Client::new(service, "default")
    }
}

/// The token of one account.
struct Tokens {
    role: Api,
    account: String,
    held: Mutex<Option<Held>>,
}

struct Held {
    bearer: HeaderValue,
    renew_at: Timestamp,
}

impl Tokens {
    async fn bearer(&self) -> Result<HeaderValue, BoxError> {
        // Locked while asking, so that one request asks for all that wait.
        let mut held = self.held.lock().await;
        let now = Timestamp::now();
        if let Some(held) = held.as_ref().filter(|h| now < h.renew_at) {
            return Ok(held.bearer.clone());
        }
        let new = self.ask(now).await.with_context(|| format!("no token for service account {}", self.account))?;
        let bearer = new.bearer.clone();
        *held = Some(new);
        Ok(bearer)
    }

    async fn forget(&self, refused: &HeaderValue) {
        let mut held = self.held.lock().await;
        if held.as_ref().is_some_and(|h| h.bearer == *refused) {
            *held = None;
        }
    }

    async fn ask(&self, now: Timestamp) -> anyhow::Result<Held> {
        let answer = match self.request().await {
            Err(error) if error.is_not_found() => {
                self.make().await?;
                self.request().await?
            }
            other => other?,
        };
        let token = answer["status"]["token"].as_str().context("the answer has no token")?;
        let expires = answer["status"]["expirationTimestamp"].as_str().and_then(|t| t.parse().ok());
        let mut bearer = HeaderValue::from_str(&format!("Bearer {token}"))?;
        bearer.set_sensitive(true);
        Ok(Held { bearer, renew_at: renew_at(now, expires) })
    }

    async fn request(&self) -> Result<Value, ApiError> {
        let body = json!({
            "apiVersion": "authentication.k8s.io/v1",
            "kind": "TokenRequest",
            "spec": {"audiences": [], "expirationSeconds": LIFETIME_SECONDS},
        });
        self.role.create(&ACCOUNTS.at(NAMESPACE, &self.account).sub("token"), &body).await
    }

    async fn make(&self) -> Result<(), ApiError> {
        let account = json!({
            "apiVersion": "v1",
            "kind": "ServiceAccount",
            "metadata": {"name": self.account, "namespace": NAMESPACE},
        });
        match self.role.create::<Value>(&ACCOUNTS.collection(NAMESPACE), &account).await {
            Err(error) if !error.is_already_exists() => Err(error),
            _ => Ok(()),
        }
    }
}

/// When four fifths of a token's time have passed; of the time asked for where the server does not say.
fn renew_at(now: Timestamp, expires: Option<Timestamp>) -> Timestamp {
    let seconds = expires.map_or(LIFETIME_SECONDS, |e| e.as_second() - now.as_second()).max(0);
    now + std::time::Duration::from_secs(seconds.unsigned_abs() * 4 / 5)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_renewed_before_they_expire() {
        let check = |lifetime: Option<i64>, expected: i64| {
            let now = Timestamp::UNIX_EPOCH;
            let expires = lifetime.and_then(|s| Timestamp::from_second(s).ok());
            assert_eq!(renew_at(now, expires).as_second(), expected, "{lifetime:?}");
        };
        check(Some(3600), 2880);
        check(Some(100), 80);
        check(Some(-5), 0);
        check(None, 2880);
    }
}
