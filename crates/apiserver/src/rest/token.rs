//! `serviceaccounts/token`: makes a token (`pkg/registry/core/serviceaccount/storage/token.go`).

use std::sync::Arc;

use async_trait::async_trait;
use jiff::{SignedDuration, Timestamp};
use orkd_api::status::Status;
use orkd_pki::jwt::{Claims, Kubernetes, Reference, Signer};
use serde_json::{Value, json};

use super::{Call, Reply, Rest, body};
use crate::Body;
use crate::admission::service_account::EXPIRATION_SECONDS;
use crate::admission::{Operation, meta};

/// How long a pod's token of [`EXPIRATION_SECONDS`] really lives, for clients that do not read it again: one year.
const EXTENDED_SECONDS: i64 = 365 * 24 * 3600;

/// The handler.
pub struct Token {
    signer: Arc<Signer>,
    audiences: Vec<String>,
    longest: Option<i64>,
    extends: bool,
}

impl Token {
    /// Signs with `signer`; `audiences` are the API server's.
    pub fn new(signer: Arc<Signer>, audiences: Vec<String>) -> Self {
        Token { signer, audiences, longest: None, extends: true }
    }

    /// No token lives longer than these seconds.
    pub fn limit(self, longest: Option<i64>) -> Self {
        Token { longest: longest.filter(|s| *s > 0), ..self }
    }

    /// Whether a pod's token lives longer than was asked for, for clients that do not read it again.
    pub fn extend(self, extends: bool) -> Self {
        Token { extends, ..self }
    }
}

#[async_trait]
impl Rest for Token {
    async fn serve(&self, call: Call, request: http::Request<Body>) -> Result<Reply, Status> {
        let mut review = body::read(&call, request, "TokenRequest").await?;
        let (namespace, name) = (call.info.namespace.as_str(), call.info.name.as_str());
        let bad = |text: String| Err(Status::bad_request(text));
        for (field, wanted) in [("name", name), ("namespace", namespace)] {
            let given = meta(&review, field);
            if !given.is_empty() && given != wanted {
                return bad(format!(
                    "the {field} of the object ({given}) does not match the {field} on the URL ({wanted})"
                ));
            }
        }
        // Node restriction looks at what was asked for, before the audiences are filled in.
        call.admit(Operation::Create, &mut review).await?;
        let writer = call.writer();
        let account = writer.get("", "serviceaccounts", namespace, name).await?;
        let audiences: Vec<String> = match review["spec"]["audiences"].as_array() {
            Some(list) if !list.is_empty() => list.iter().filter_map(|a| a.as_str().map(str::to_owned)).collect(),
            _ => self.audiences.clone(),
        };
        review["spec"]["audiences"] = json!(audiences);
        body::validate(&call, "TokenRequest", &review)?;
        let bound = bind(&call, &account, &review["spec"]["boundObjectRef"]).await?;
        let mut asked = review["spec"]["expirationSeconds"].as_i64().unwrap_or(3600);
        if let Some(longest) = self.longest.filter(|longest| asked > *longest) {
            call.warnings.add(format!("requested expiration of {asked} seconds shortened to {longest} seconds"));
            asked = longest;
            review["spec"]["expirationSeconds"] = json!(asked);
        }
        let given = meta(&review, "uid");
        if !given.is_empty() && given != meta(&account, "uid") {
            let why = format!(
                "the UID in the token request ({given}) does not match the UID of the service account ({})",
                meta(&account, "uid")
            );
            return Err(Status::conflict("", "serviceaccounts", name, &why));
        }
        let own = if self.extends { &self.audiences[..] } else { &[] };
        let claims = claims(&account, audiences, bound, asked, own, call.now);
        let token = self.signer.sign(claims).map_err(|e| {
            tracing::error!(error = %e, "failed to sign a token");
            Status::internal("failed to generate token")
        })?;
        let expires = call.now.checked_add(SignedDuration::from_secs(asked)).unwrap_or(Timestamp::MAX);
        let mut answer = json!({
            "kind": "TokenRequest",
            "apiVersion": "authentication.k8s.io/v1",
            "metadata": {
                "name": name, "namespace": namespace, "creationTimestamp": crate::registry::stamp(call.now),
            },
            "spec": review["spec"],
            "status": { "token": token, "expirationTimestamp": crate::registry::stamp(expires) },
        });
        if let Some(managed) = review["metadata"].get("managedFields") {
            answer["metadata"]["managedFields"] = managed.clone();
        }
        Ok(Reply::Object(201, answer))
    }
}

/// What a token is bound to, beside its account.
#[derive(Default)]
struct Bound {
    pod: Option<Reference>,
    secret: Option<Reference>,
    node: Option<Reference>,
}

fn reference(object: &Value) -> Reference {
    Reference { name: meta(object, "name").into(), uid: meta(object, "uid").into() }
}

async fn bind(call: &Call, account: &Value, wanted: &Value) -> Result<Bound, Status> {
    if !wanted.is_object() {
        return Ok(Bound::default());
    }
    let text = |f: &str| wanted[f].as_str().unwrap_or_default();
    let (namespace, name) = (call.info.namespace.as_str(), text("name"));
    let writer = call.writer();
    let mut bound = Bound::default();
    let found = match (text("apiVersion"), text("kind")) {
        ("v1", "Pod") => {
            let pod = writer.get("", "pods", namespace, name).await?;
            let runs_as = pod["spec"]["serviceAccountName"].as_str().unwrap_or_default();
            if runs_as != meta(account, "name") {
                return Err(Status::bad_request(format!(
                    "cannot bind token for serviceaccount {:?} to pod running with different serviceaccount name.",
                    meta(account, "name")
                )));
            }
            if let Some(node) = pod["spec"]["nodeName"].as_str().filter(|n| !n.is_empty()) {
                // Told for information; the node may be gone.
                let known = call.server.reader().get("", "nodes", "", node).map(|e| e.decode());
                bound.node = Some(
                    known.map_or_else(|| Reference { name: node.into(), uid: String::new() }, |node| reference(&node)),
                );
            }
            bound.pod = Some(reference(&pod));
            pod
        }
        ("v1", "Secret") => {
            let secret = writer.get("", "secrets", namespace, name).await?;
            bound.secret = Some(reference(&secret));
            secret
        }
        ("v1", "Node") => {
            let node = writer.get("", "nodes", "", name).await?;
            bound.node = Some(reference(&node));
            node
        }
        (version, kind) => {
            let (group, version) = version.split_once('/').unwrap_or(("", version));
            return Err(Status::bad_request(format!(
                "cannot bind token to object of type {group}/{version}, Kind={kind}"
            )));
        }
    };
    let (asked, uid) = (text("uid"), meta(&found, "uid"));
    if !asked.is_empty() && asked != uid {
        let why = format!(
            "the UID in the bound object reference ({asked}) does not match the UID in record. The object might have \
             been deleted and then recreated"
        );
        return Err(Status::conflict("", text("kind"), name, &why));
    }
    Ok(bound)
}

fn claims(
    account: &Value,
    audiences: Vec<String>,
    bound: Bound,
    asked: i64,
    own_audiences: &[String],
    now: Timestamp,
) -> Claims {
    let (namespace, name) = (meta(account, "namespace"), meta(account, "name"));
    let now = now.as_second();
    let is_own = audiences.iter().all(|a| own_audiences.contains(a));
    let extend = bound.pod.is_some() && asked == EXPIRATION_SECONDS && is_own;
    let (lives, warnafter) = if extend { (EXTENDED_SECONDS, Some(now + asked)) } else { (asked, None) };
    Claims {
        aud: audiences,
        exp: Some(now.saturating_add(lives)),
        iat: Some(now),
        nbf: Some(now),
        iss: String::new(),
        jti: uuid::Uuid::new_v4().to_string(),
        sub: format!("system:serviceaccount:{namespace}:{name}"),
        kubernetes: Kubernetes {
            namespace: namespace.into(),
            node: bound.node,
            pod: bound.pod,
            secret: bound.secret,
            serviceaccount: reference(account),
            warnafter,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pods_tokens_live_longer_than_they_say() {
        let account = json!({"metadata": {"namespace": "a", "name": "sa", "uid": "u"}});
        let own = ["api".to_owned()];
        let check = |audience: &str, pod: bool, asked: i64, lives: i64, warns: bool| {
            let pod = pod.then(|| Reference { name: "p".into(), uid: "up".into() });
            let bound = Bound { pod, ..Bound::default() };
            let claims = claims(&account, vec![audience.into()], bound, asked, &own, Timestamp::UNIX_EPOCH);
            assert_eq!((claims.exp, claims.kubernetes.warnafter.is_some()), (Some(lives), warns), "{audience} {asked}");
            assert_eq!(claims.sub, "system:serviceaccount:a:sa");
        };
        check("api", true, 3607, EXTENDED_SECONDS, true);
        check("api", true, 3600, 3600, false);
        check("api", false, 3607, 3607, false);
        check("vault", true, 3607, 3607, false);
    }
}
