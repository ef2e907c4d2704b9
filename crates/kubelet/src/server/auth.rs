//! Who may use the node server: client certificates of the cluster and bearer tokens, allowed by the API server.
//!
//! As upstream's webhook mode: the user is asked about with a SubjectAccessReview on `nodes/SUBRESOURCE` of this node;
//! tokens are reviewed with a TokenReview. Answers are kept for a short while.

use std::collections::HashMap;
use std::time::Duration;

use jiff::Timestamp;
use orkd_pki::cert::Certificate;
use orkd_pki::tls::ClientVerifier;
use orkd_reconcile::{Api, Resource};
use parking_lot::Mutex;
use rustls_pki_types::CertificateDer;
use serde_json::{Value, json};
use tokio::time::Instant;

const ACCESS: Resource =
    Resource::new("authorization.k8s.io", "v1", "subjectaccessreviews", "SubjectAccessReview", false);
const TOKENS: Resource = Resource::new("authentication.k8s.io", "v1", "tokenreviews", "TokenReview", false);

/// How long an answer is kept.
const KEPT: Duration = Duration::from_secs(30);

/// How many answers are kept.
const MOST: usize = 1024;

/// A user.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct User {
    name: String,
    groups: Vec<String>,
}

/// Why a request is refused: the code and the text.
#[derive(Debug, PartialEq, Eq)]
pub struct Refused(pub u16, pub String);

/// Decides who may do what.
pub struct Guard {
    api: Api,
    node: String,
    verifier: ClientVerifier,
    allowed: Mutex<HashMap<(User, String, String), Instant>>,
}

/// The subresources of `nodes` that a path stands for; one that is allowed is enough (`pkg/kubelet/server/auth.go`,
/// fine-grained authorization included).
pub fn subresources(path: &str) -> &'static [&'static str] {
    match path.split('/').nth(1).unwrap_or_default() {
        "stats" => &["stats"],
        "metrics" => &["metrics"],
        "logs" => &["log"],
        "checkpoint" => &["checkpoint"],
        "pods" | "runningpods" => &["pods", "proxy"],
        "healthz" => &["healthz", "proxy"],
        "configz" => &["configz", "proxy"],
        _ => &["proxy"],
    }
}

impl Guard {
    /// A guard that asks through `api`.
    pub fn new(api: Api, node: &str, verifier: ClientVerifier) -> Self {
        Guard { api, node: node.into(), verifier, allowed: Mutex::default() }
    }

    /// Lets a request pass or says why not.
    pub async fn check(
        &self,
        chain: &[CertificateDer<'static>],
        token: Option<&str>,
        method: &http::Method,
        path: &str,
    ) -> Result<(), Refused> {
        let user = self.user(chain, token).await?;
        let verb = match *method {
            http::Method::POST => "create",
            http::Method::PUT => "update",
            http::Method::DELETE => "delete",
            http::Method::PATCH => "patch",
            _ => "get",
        };
        let mut refused = Vec::new();
        for subresource in subresources(path) {
            if self.is_allowed(&user, verb, subresource).await? {
                return Ok(());
            }
            refused.push(*subresource);
        }
        let named = refused.join(", ");
        Err(Refused(
            403,
            format!("Forbidden (user={}, verb={verb}, resource=nodes, subresource(s)=[{named}])", user.name),
        ))
    }

    async fn is_allowed(&self, user: &User, verb: &str, subresource: &str) -> Result<bool, Refused> {
        let question = (user.clone(), verb.to_owned(), subresource.to_owned());
        let now = Instant::now();
        if self.allowed.lock().get(&question).is_some_and(|until| *until > now) {
            return Ok(true);
        }
        let review = json!({
            "apiVersion": "authorization.k8s.io/v1",
            "kind": "SubjectAccessReview",
            "spec": {
                "user": user.name,
                "groups": user.groups,
                "resourceAttributes": {
                    "verb": verb, "version": "v1", "resource": "nodes", "subresource": subresource, "name": self.node,
                },
            },
        });
        let answer: Value = self.ask(&ACCESS, &review).await?;
        if answer["status"]["allowed"] != true {
            return Ok(false);
        }
        let mut allowed = self.allowed.lock();
        if allowed.len() >= MOST {
            allowed.clear();
        }
        allowed.insert(question, now + KEPT);
        Ok(true)
    }

    async fn user(&self, chain: &[CertificateDer<'static>], token: Option<&str>) -> Result<User, Refused> {
        let unauthorized = || Refused(401, "Unauthorized".into());
        if let Some(leaf) = chain.first() {
            self.verifier.verify(chain, Timestamp::now()).map_err(|_| unauthorized())?;
            let certificate = Certificate::from_der(leaf).map_err(|_| unauthorized())?;
            let mut groups = certificate.organizations.clone();
            groups.push("system:authenticated".into());
            return Ok(User { name: certificate.common_name, groups });
        }
        let token = token.ok_or_else(unauthorized)?;
        let review = json!({
            "apiVersion": "authentication.k8s.io/v1",
            "kind": "TokenReview",
            "spec": {"token": token},
        });
        let answer = self.ask(&TOKENS, &review).await?;
        let status = &answer["status"];
        if status["authenticated"] != true {
            return Err(unauthorized());
        }
        let groups = status["user"]["groups"].as_array().cloned().unwrap_or_default();
        Ok(User {
            name: status["user"]["username"].as_str().unwrap_or_default().into(),
            groups: groups.iter().filter_map(|g| g.as_str().map(str::to_owned)).collect(),
        })
    }

    async fn ask(&self, resource: &Resource, review: &Value) -> Result<Value, Refused> {
        self.api.create::<Value>(&resource.collection(""), review).await.map_err(|error| {
            tracing::warn!(%error, "cannot ask the API server about a request");
            Refused(500, "the API server cannot be asked".into())
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_subresources_of_nodes() {
        let check = |path: &str, expected: &[&str]| assert_eq!(subresources(path), expected, "{path}");
        check("/containerLogs/ns/pod/c", &["proxy"]);
        check("/stats/summary", &["stats"]);
        check("/metrics", &["metrics"]);
        check("/metrics/resource", &["metrics"]);
        check("/logs/", &["log"]);
        check("/pods", &["pods", "proxy"]);
        check("/runningpods/", &["pods", "proxy"]);
        check("/healthz", &["healthz", "proxy"]);
        check("/statsx", &["proxy"]);
        check("/", &["proxy"]);
    }
}
