//! The verbs: what a routed, authorized request does.

pub mod items;
pub mod list;
pub mod read;
pub mod table;
pub mod watch;
pub mod write;

use std::sync::Arc;

use http::Response;
use http::request::Parts;
use orkd_api::kind::Scope;
use orkd_api::status::Status;

use crate::Body;
use crate::pipeline::ApiServer;
use crate::query::Query;
use crate::registry::Target;
use crate::resources::Resource;
use crate::route::RequestInfo;
use crate::user::UserInfo;
use crate::warning::Warnings;

/// One request on its way through a verb.
pub struct Context<'a> {
    /// The server.
    pub server: &'a ApiServer,
    /// Who asks.
    pub user: &'a UserInfo,
    /// What is asked for.
    pub info: &'a RequestInfo,
    /// The resource.
    pub resource: Arc<Resource>,
    /// The decoded query.
    pub query: &'a Query,
    /// The head of the request.
    pub parts: &'a Parts,
    /// Texts for `Warning` headers.
    pub warnings: &'a Warnings,
}

impl Context<'_> {
    /// What the registry is to address.
    pub fn target(&self) -> Target<'_> {
        let namespaced = self.resource.info().scope == Scope::Namespaced;
        Target {
            resource: self.resource.clone(),
            subresource: &self.info.subresource,
            namespace: if namespaced { &self.info.namespace } else { "" },
            name: &self.info.name,
        }
    }

    /// The `User-Agent` header.
    pub fn user_agent(&self) -> &str {
        self.parts.headers.get(http::header::USER_AGENT).and_then(|v| v.to_str().ok()).unwrap_or_default()
    }
}

/// The answer of a verb.
pub type Answer = Result<Response<Body>, Status>;

/// A number in a query.
pub(crate) fn number(query: &Query, name: &str) -> Result<Option<i64>, Status> {
    match query.get(name) {
        None | Some("") => Ok(None),
        Some(text) => text
            .parse()
            .map(Some)
            .map_err(|_| Status::new(400, "BadRequest", format!("strconv.ParseInt: parsing {text:?}: invalid syntax"))),
    }
}

/// A resourceVersion in a query: `None` for none given.
pub(crate) fn version(text: &str) -> Result<Option<u64>, Status> {
    if text.is_empty() {
        return Ok(None);
    }
    text.parse().map(Some).map_err(|_| {
        Status::new(
            400,
            "BadRequest",
            format!(
                "invalid resource version: resourceVersion: Invalid value: {text:?}: strconv.ParseUint: parsing {text:?}: \
                 invalid syntax"
            ),
        )
    })
}

/// 504 for a resourceVersion that the cache does not reach in time.
pub(crate) fn too_large(asked: u64, current: u64) -> Status {
    let mut status =
        Status::server_timeout(format!("Timeout: Too large resource version: {asked}, current: {current}"), 1);
    if let Some(details) = &mut status.details {
        details.causes.push(orkd_api::status::Cause {
            reason: "ResourceVersionTooLarge".into(),
            message: "Too large resource version".into(),
            field: String::new(),
        });
    }
    status
}

/// Waits until the cache is not older than what a read asks for (`None`: linearizable, 0: anything).
pub(crate) async fn not_older(server: &ApiServer, version: Option<u64>) -> Result<(), Status> {
    match version {
        None => server.caches().fresh().await.map(|_| ()).map_err(|e| crate::registry::store_error(&e)),
        Some(0) => Ok(()),
        Some(asked) => {
            let progress = server.caches().progress();
            if progress.revision() >= asked {
                return Ok(());
            }
            // The cache may be behind the store; a revision beyond the store's will not come.
            let current = server.caches().fresh().await.map_err(|e| crate::registry::store_error(&e))?;
            if current >= asked || progress.reach(asked, std::time::Duration::from_secs(3)).await {
                Ok(())
            } else {
                Err(too_large(asked, progress.revision().max(current)))
            }
        }
    }
}
