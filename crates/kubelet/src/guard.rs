//! Who may use a port beside the API server's: client certificates of the cluster and bearer tokens, allowed by the API
//! server.
//!
//! As upstream's delegated authentication and authorization: tokens are reviewed with a TokenReview, what a user may do is
//! asked about with a SubjectAccessReview. Permissions are kept for a short while.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use orkd_pki::cert::Certificate;
use orkd_pki::tls::ClientVerifier;
use orkd_reconcile::{Api, Resource};
use parking_lot::{Mutex, RwLock};
use rustls_pki_types::CertificateDer;
use serde_json::{Value, json};
use tokio::time::Instant;

const ACCESS: Resource =
    Resource::new("authorization.k8s.io", "v1", "subjectaccessreviews", "SubjectAccessReview", false);
const TOKENS: Resource = Resource::new("authentication.k8s.io", "v1", "tokenreviews", "TokenReview", false);

/// How long a permission is kept.
const KEPT: Duration = Duration::from_secs(30);

/// How many are kept.
const MOST: usize = 1024;

/// A user.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct User {
    /// Name.
    pub name: String,
    /// Groups.
    pub groups: Vec<String>,
}

impl User {
    /// Who shows nothing.
    pub fn anonymous() -> User {
        User { name: "system:anonymous".into(), groups: vec!["system:unauthenticated".into()] }
    }
}

/// Why a request is refused: the code and the text.
#[derive(Debug, PartialEq, Eq)]
pub struct Refused(pub u16, pub String);

/// What someone wants to do.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Wish {
    /// A verb on a subresource of a node.
    Node {
        /// The verb.
        verb: &'static str,
        /// The subresource.
        subresource: &'static str,
        /// The node.
        node: String,
    },
    /// A verb on a path.
    Path {
        /// The verb: the method in lower case.
        verb: String,
        /// The path.
        path: String,
    },
}

impl Wish {
    /// As a SubjectAccessReview has it: the field and its value.
    fn attributes(&self) -> (&'static str, Value) {
        match self {
            Wish::Node { verb, subresource, node } => (
                "resourceAttributes",
                json!({"verb": verb, "version": "v1", "resource": "nodes", "subresource": subresource, "name": node}),
            ),
            Wish::Path { verb, path } => ("nonResourceAttributes", json!({"verb": verb, "path": path})),
        }
    }
}

/// Decides who may do what.
pub struct Guard {
    users: Api,
    access: Api,
    verifier: RwLock<Option<Arc<ClientVerifier>>>,
    allowed: Mutex<HashMap<(User, Wish), Instant>>,
}

impl Guard {
    /// A guard that asks who someone is through `users` and what they may do through `access`; without a verifier no client
    /// certificate is believed.
    pub fn new(users: Api, access: Api, verifier: Option<ClientVerifier>) -> Self {
        Guard { users, access, verifier: RwLock::new(verifier.map(Arc::new)), allowed: Mutex::default() }
    }

    /// From now on believes the client certificates that another verifier does.
    pub fn believe(&self, verifier: ClientVerifier) {
        *self.verifier.write() = Some(Arc::new(verifier));
    }

    /// Who shows a chain of certificates or a token; `None` for who shows nothing.
    ///
    /// # Errors
    /// What is shown is not believed.
    pub async fn user(&self, chain: &[CertificateDer<'static>], token: Option<&str>) -> Result<Option<User>, Refused> {
        let unauthorized = || Refused(401, "Unauthorized".into());
        let verifier = self.verifier.read().clone();
        if let (Some(leaf), Some(verifier)) = (chain.first(), verifier) {
            verifier.verify(chain, Timestamp::now()).map_err(|_| unauthorized())?;
            let certificate = Certificate::from_der(leaf).map_err(|_| unauthorized())?;
            let mut groups = certificate.organizations.clone();
            groups.push("system:authenticated".into());
            return Ok(Some(User { name: certificate.common_name, groups }));
        }
        let Some(token) = token else { return Ok(None) };
        let review = json!({
            "apiVersion": "authentication.k8s.io/v1",
            "kind": "TokenReview",
            "spec": {"token": token},
        });
        let answer = ask(&self.users, &TOKENS, &review).await?;
        let status = &answer["status"];
        if status["authenticated"] != true {
            return Err(unauthorized());
        }
        let groups = status["user"]["groups"].as_array().cloned().unwrap_or_default();
        Ok(Some(User {
            name: status["user"]["username"].as_str().unwrap_or_default().into(),
            groups: groups.iter().filter_map(|g| g.as_str().map(str::to_owned)).collect(),
        }))
    }

    /// Whether a user may do something.
    ///
    /// # Errors
    /// The API server cannot be asked.
    pub async fn may(&self, user: &User, wish: &Wish) -> Result<bool, Refused> {
        let question = (user.clone(), wish.clone());
        let now = Instant::now();
        if self.allowed.lock().get(&question).is_some_and(|until| *until > now) {
            return Ok(true);
        }
        let (field, attributes) = wish.attributes();
        let review = json!({
            "apiVersion": "authorization.k8s.io/v1",
            "kind": "SubjectAccessReview",
            "spec": {"user": user.name, "groups": user.groups, field: attributes},
        });
        let answer: Value = ask(&self.access, &ACCESS, &review).await?;
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
}

async fn ask(api: &Api, resource: &Resource, review: &Value) -> Result<Value, Refused> {
    api.create::<Value>(&resource.collection(""), review).await.map_err(|error| {
        tracing::warn!(%error, "cannot ask the API server about a request");
        Refused(500, "the API server cannot be asked".into())
    })
}
