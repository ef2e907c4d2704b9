//! Handlers of what the generic registry cannot do: subresources with a body of their own (`pods/binding`,
//! `pods/eviction`, `serviceaccounts/token`, reviews) and streams (`pods/log`, `exec`, `attach`, `portforward`,
//! `proxy`).
//!
//! A handler is one file and one line in the composition: `builder.rest(GROUP, RESOURCE, SUBRESOURCE, handler)`.
//! It is called after authentication, flow control and authorization; what it writes goes through
//! [`Call::writer`], which runs the same registry path as a client's request.

pub mod binding;
mod body;
pub mod component_status;
mod connect;
pub mod dial;
pub mod eviction;
pub(crate) mod handlers;
mod made;
pub mod pod_stream;
pub mod proxy;
pub mod resource_metrics;
pub mod review;
pub mod token;
mod tunnel;
pub(crate) mod websocket;

use async_trait::async_trait;
use orkd_api::kind::Kind;
use orkd_api::status::Status;
use serde_json::Value;
use std::sync::Arc;

use crate::Body;
use crate::admission::Operation;
use crate::pipeline::ApiServer;
use crate::query::Query;
use crate::route::RequestInfo;
use crate::user::UserInfo;
use crate::warning::Warnings;
use crate::writer::Writer;

/// Everything known of a request when its handler is called.
#[derive(Clone)]
pub struct Call {
    /// What is asked for.
    pub info: RequestInfo,
    /// Who asks (after impersonation).
    pub user: UserInfo,
    /// The decoded query.
    pub query: Query,
    /// The kind of the resource (not of the subresource).
    pub kind: Arc<dyn Kind>,
    /// The server.
    pub server: ApiServer,
    /// Texts for `Warning` headers.
    pub warnings: Warnings,
    /// The `User-Agent` header, for field managers.
    pub user_agent: String,
    /// The time.
    pub now: jiff::Timestamp,
}

/// What a handler answers.
pub enum Reply {
    /// An object with its HTTP status; encoded as the client asked. `apiVersion` and `kind` must be set.
    Object(u16, Value),
    /// A response that is passed on as it is.
    Raw(http::Response<Body>),
}

/// Serves one resource or subresource for all its verbs.
#[async_trait]
pub trait Rest: Send + Sync + 'static {
    /// Serves a request. The body has not been read: [`Call::object`] reads and decodes it; streams take
    /// `hyper::upgrade::on(request)`.
    async fn serve(&self, call: Call, request: http::Request<Body>) -> Result<Reply, Status>;
}

impl Call {
    /// Whether the request asks for a dry run (`dryRun=All`; its validity was checked before).
    pub fn dry_run(&self) -> bool {
        self.query.all("dryRun").any(|v| v == "All")
    }

    /// Reads and decodes the body into the kind that discovery names for this door (the subresource's, or the
    /// resource's own), with strictness as `fieldValidation` asks and defaults of the schema.
    pub async fn object(&self, request: http::Request<Body>) -> Result<Value, Status> {
        let (parts, body) = request.into_parts();
        let bytes = crate::body::read(body).await?;
        crate::negotiation::decode_body(self, &parts, &bytes).inspect(crate::audit::request_object)
    }

    /// Writes as the asking user, without asking the authorizers again.
    pub fn writer(&self) -> Writer {
        Writer::new(self.server.clone(), self.user.clone())
    }

    /// Runs both phases of admission on a body that is not stored itself (`pods/eviction`, connect options).
    pub async fn admit(&self, operation: Operation, object: &mut Value) -> Result<(), Status> {
        self.server.admit_call(self, operation, object).await
    }
}
