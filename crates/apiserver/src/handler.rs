//! The way of one request through the stages: route, authentication, impersonation, flow control, authorization,
//! verb. Upstream: `server.DefaultBuildHandlerChain`.

use std::convert::Infallible;
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::Poll;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::FutureExt;
use http::header::HeaderValue;
use http::request::Parts;
use http::{Request, Response};
use orkd_api::kind::Scope;
use orkd_api::status::{Details, Status};
use tracing::{Instrument, error};

use crate::audit::{self, Record};
use crate::authn::Verdict;
use crate::authz::{Attributes, Decision, forbidden};
use crate::flowcontrol::{self, Uids, estimate, fixed, put_headers};
use crate::metrics::{self, requests::Answer};
use crate::negotiation::{self, Offer, Wanted};
use crate::pipeline::ApiServer;
use crate::query::Query;
use crate::rest::{Call, Reply};
use crate::route::{self, RequestInfo};
use crate::user::{InProcess, UserInfo};
use crate::verbs::{self, Context, read, watch, write};
use crate::warning::Warnings;
use crate::{Body, discovery, health, impersonation, openapi, respond};

/// What the requests that do not stream may take in all.
const TIMEOUT: Duration = Duration::from_secs(60);

/// The API server as a tower service, for sockets and for clients in this process alike.
#[derive(Clone)]
pub struct Router(ApiServer);

impl ApiServer {
    /// The server as a service.
    pub fn router(&self) -> Router {
        Router(self.clone())
    }
}

impl<B> tower::Service<Request<B>> for Router
where
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, Infallible>> + Send>>;

    fn poll_ready(&mut self, _cx: &mut std::task::Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let server = self.0.clone();
        let request = request.map(Body::new);
        Box::pin(async move { Ok(handle(server, request).await) })
    }
}

/// Everything a stage may find out about a request, for metrics, headers and audit.
struct Flight {
    audit_id: HeaderValue,
    started: Instant,
    warnings: Warnings,
    record: OnceLock<Arc<Record>>,
    flow: OnceLock<(Uids, Duration)>,
}

/// Serves one request.
async fn handle(server: ApiServer, request: Request<Body>) -> Response<Body> {
    let flight = Flight {
        audit_id: request.headers().get("audit-id").filter(|v| v.len() <= 64).cloned().unwrap_or_else(fresh_id),
        started: Instant::now(),
        warnings: Warnings::default(),
        record: OnceLock::new(),
        flow: OnceLock::new(),
    };
    let query = Query::parse(request.uri().query().unwrap_or_default());
    let info = route::route(request.method(), request.uri().path(), &query);
    // For answers of stages before the verb; a client that accepts nothing we have gets JSON.
    let wanted = negotiation::negotiate(request.headers(), &query, Offer::Plain).unwrap_or_else(|_| Wanted::fallback());
    let outcome = match &info {
        None => Err(Status::new(400, "BadRequest", "unable to determine kind and namespace from url")),
        Some(info) => {
            let stages = stages(&server, info, &query, request, &flight);
            match AssertUnwindSafe(stages).catch_unwind().await {
                Ok(outcome) => outcome,
                Err(panic) => {
                    let text = panic
                        .downcast_ref::<String>()
                        .map(String::as_str)
                        .or_else(|| panic.downcast_ref::<&str>().copied())
                        .unwrap_or("unknown");
                    error!(path = info.path, verb = info.verb, panic = text, "a request panicked");
                    if let Some(record) = flight.record.get() {
                        record.panicked(text);
                    }
                    Err(Status::internal("This request caused apiserver to panic. Look in the logs for details."))
                }
            }
        }
    };
    let (mut response, failure) = match outcome {
        Ok(response) => (response, None),
        Err(status) => (respond::failure(&wanted, &status), Some(status)),
    };
    let stays_open = failure.is_none() && info.as_ref().is_some_and(is_long_running);
    if let Some(record) = flight.record.into_inner() {
        response = record.answered(response, failure.as_ref(), stays_open).await;
    }
    let headers = response.headers_mut();
    for warning in flight.warnings.headers() {
        headers.append(http::header::WARNING, warning);
    }
    headers.insert("audit-id", flight.audit_id);
    let flow = flight.flow.into_inner();
    if let Some((uids, _)) = &flow {
        put_headers(headers, uids);
    }
    let Some(info) = &info else { return response };
    let answer = Answer {
        code: response.status().as_u16(),
        took: flight.started.elapsed(),
        waited: flow.map_or(Duration::ZERO, |(_, waited)| waited),
        size: http_body::Body::size_hint(response.body()).exact(),
        stays_open,
    };
    match server.metrics().record(&server, info, &query, &answer) {
        Some(open) => crate::body::follow(response, open),
        None => response,
    }
}

fn fresh_id() -> HeaderValue {
    HeaderValue::from_str(&uuid::Uuid::new_v4().to_string()).unwrap_or(HeaderValue::from_static("unknown"))
}

async fn stages(
    server: &ApiServer,
    info: &RequestInfo,
    query: &Query,
    request: Request<Body>,
    flight: &Flight,
) -> Result<Response<Body>, Status> {
    let (mut parts, body) = request.into_parts();
    if let Some(refusal) = late(server, info, &parts) {
        return Ok(refusal);
    }
    let limit = if is_long_running(info) { None } else { Some(deadline(query)?) };
    let begun = Instant::now();
    let user = match authenticate(server, &parts).await {
        Ok(user) => user,
        Err(status) => {
            metrics::authenticated(None, begun.elapsed());
            if let Some(record) = begin_audit(server, None, info, &parts, flight).await? {
                record.refused(audit::tried(&parts), status.code);
            }
            return Err(status);
        }
    };
    metrics::authenticated(Some(&user.name), begun.elapsed());
    let record = begin_audit(server, Some(&user), info, &parts, flight).await?;
    if let Some(record) = &record {
        // It is set once.
        let _ = flight.record.set(record.clone());
    }
    let user = match impersonation::impersonate(server, &user, info, &mut parts).await? {
        None => user,
        Some(other) => {
            if let Some(record) = &record {
                record.impersonated(&other.user, &other.constraint);
            }
            other.user
        }
    };
    let _under_way = (!is_long_running(info)).then(|| server.metrics().enter(is_read(info)));
    let permit = match enter(server, &user, info, query, flight).await {
        Some(permit) => permit,
        None => {
            metrics::terminated("429", &info.verb);
            let mut response = respond::text(429, "Too many requests, please try again later.\n");
            response.headers_mut().insert(http::header::RETRY_AFTER, HeaderValue::from_static("1"));
            return Ok(response);
        }
    };
    allow(server, &user, info, flight).await?;
    let verb = verb(server, info, query, user, parts, body, flight);
    let verb = audit::scope(record, verb);
    let answer = match limit {
        None => verb.await,
        Some(limit) => tokio::time::timeout(limit, verb)
            .await
            .unwrap_or_else(|_| Err(Status::server_timeout("request did not complete within the allotted timeout", 1))),
    };
    drop(permit);
    answer
}

/// Sends those away who come while the server ends: another server, or this one restarted, will have them. The loops
/// of this process and questions about its health are answered to the end (`genericfilters.WithRetryAfter`).
fn late(server: &ApiServer, info: &RequestInfo, parts: &Parts) -> Option<Response<Body>> {
    let exempt = parts.extensions.get::<InProcess>().is_some()
        || ["/healthz", "/livez", "/readyz", "/metrics"].iter().any(|p| info.path.starts_with(p));
    if exempt || !server.stopping().is_cancelled() {
        return None;
    }
    let mut response = respond::text(429, "The apiserver is shutting down, please try again later.\n");
    let headers = response.headers_mut();
    headers.insert(http::header::RETRY_AFTER, HeaderValue::from_static("5"));
    // HTTP/2 has no such header; its connections are told to go by a frame.
    if parts.version < http::Version::HTTP_2 {
        headers.insert(http::header::CONNECTION, HeaderValue::from_static("close"));
    }
    Some(response)
}

/// How long a request may take: what it asks for, where that is less than the server's own limit
/// (`filters.WithRequestDeadline`).
fn deadline(query: &Query) -> Result<Duration, Status> {
    let text = query.text("timeout");
    if text.is_empty() {
        return Ok(TIMEOUT);
    }
    let nanos = orkd_api::time::parse_duration(text)
        .map_err(|e| Status::bad_request(format!("invalid timeout specified in the request URL - {e}")))?;
    Ok(match u64::try_from(nanos) {
        Ok(nanos) if nanos > 0 => Duration::from_nanos(nanos).min(TIMEOUT),
        _ => TIMEOUT,
    })
}

/// Leave to be served, held until the answer begins. What it holds is nothing to a request that stays open.
#[expect(dead_code, reason = "held for their drop")]
enum Leave {
    Nothing,
    Fixed(fixed::Permit),
    Fair(flowcontrol::Permit),
}

/// Asks flow control for leave; `None` if there are too many requests.
async fn enter(
    server: &ApiServer,
    user: &UserInfo,
    info: &RequestInfo,
    query: &Query,
    flight: &Flight,
) -> Option<Leave> {
    let stays_open = is_long_running(info);
    let Some(control) = server.fairness() else {
        return if stays_open { Some(Leave::Nothing) } else { server.flow().enter(info).map(Leave::Fixed) };
    };
    // A watch has work to do before it is quiet.
    if stays_open && info.verb != "watch" {
        return Some(Leave::Nothing);
    }
    let stored = || {
        let resources = server.resources();
        let resource = resources.get(&info.group, &info.version, &info.resource);
        resource.and_then(|r| r.cache.as_ref()).map_or(0, |c| c.len())
    };
    let (uids, leave) = match control.enter(user, info, || estimate::seats(info, query, stored)).await {
        Ok(permit) => (Some((permit.uids(), permit.waited)), Some(Leave::Fair(permit))),
        Err(refused) => (refused.uids().map(|uids| (uids, Duration::ZERO)), None),
    };
    if let Some(uids) = uids {
        // It is set once.
        let _ = flight.flow.set(uids);
    }
    leave
}

/// Begins the audit record of a request, where there is audit.
async fn begin_audit(
    server: &ApiServer,
    user: Option<&UserInfo>,
    info: &RequestInfo,
    parts: &Parts,
    flight: &Flight,
) -> Result<Option<Arc<Record>>, Status> {
    let Some(audit) = server.audit() else { return Ok(None) };
    let id = flight.audit_id.to_str().unwrap_or_default();
    audit.begin(user, info, parts, id, flight.warnings.annotations()).await
}

/// Asks the authorizers, and notes for audit what they say.
async fn allow(server: &ApiServer, user: &UserInfo, info: &RequestInfo, flight: &Flight) -> Result<(), Status> {
    let begun = Instant::now();
    let decision = decide(server, user, info).await;
    let (result, noted, reason) = match &decision {
        Decision::Allow(reason) => ("allowed", "allow", reason),
        Decision::Deny(reason) => ("denied", "forbid", reason),
        Decision::NoOpinion(reason) => ("no-opinion", "forbid", reason),
    };
    metrics::authorized(result, begun.elapsed());
    if flight.record.get().is_some() {
        let notes = flight.warnings.annotations();
        notes.add("authorization.k8s.io/decision", noted);
        notes.add("authorization.k8s.io/reason", reason.as_str());
    }
    outcome(user, info, &decision)
}

fn is_read(info: &RequestInfo) -> bool {
    matches!(info.verb.as_str(), "get" | "list" | "watch" | "head")
}

/// Requests that stay open by their nature count against no limit.
fn is_long_running(info: &RequestInfo) -> bool {
    matches!(info.verb.as_str(), "watch" | "proxy")
        || matches!(info.subresource.as_str(), "attach" | "exec" | "proxy" | "log" | "portforward")
}

async fn authenticate(server: &ApiServer, parts: &Parts) -> Result<UserInfo, Status> {
    for authenticator in server.authenticators() {
        match authenticator.authenticate(parts).await {
            Verdict::User(user) => return Ok(user),
            Verdict::NotMine => {}
            Verdict::Bad(why) => tracing::debug!(why, "a credential was refused"),
        }
    }
    Err(Status::unauthorized())
}

/// Asks the authorizers. Where none allows, the request is forbidden; so it is where there is none.
pub(crate) async fn authorize(server: &ApiServer, user: &UserInfo, info: &RequestInfo) -> Result<(), Status> {
    outcome(user, info, &decide(server, user, info).await)
}

fn outcome(user: &UserInfo, info: &RequestInfo, decision: &Decision) -> Result<(), Status> {
    match decision {
        Decision::Allow(_) => Ok(()),
        Decision::Deny(reason) | Decision::NoOpinion(reason) => {
            Err(forbidden(&Attributes { user, request: info }, reason))
        }
    }
}

/// What the authorizers come to: the first that has an opinion decides.
async fn decide(server: &ApiServer, user: &UserInfo, info: &RequestInfo) -> Decision {
    let attributes = Attributes { user, request: info };
    let mut reasons = Vec::new();
    for authorizer in server.authorizers() {
        match authorizer.authorize(&attributes).await {
            Decision::NoOpinion(reason) if reason.is_empty() => {}
            Decision::NoOpinion(reason) => reasons.push(reason),
            decision => return decision,
        }
    }
    Decision::NoOpinion(reasons.join("\n"))
}

fn no_such_path() -> Response<Body> {
    respond::text(404, "404 page not found\n")
}

fn method_not_allowed() -> Status {
    Status {
        details: Some(Details::default()),
        ..Status::new(405, "MethodNotAllowed", "the server does not allow this method on the requested resource")
    }
}

async fn verb(
    server: &ApiServer,
    info: &RequestInfo,
    query: &Query,
    user: UserInfo,
    parts: Parts,
    body: Body,
    flight: &Flight,
) -> Result<Response<Body>, Status> {
    if !info.is_resource {
        return other_path(server, info, query, &parts).await;
    }
    let resources = server.resources();
    let Some(resource) = resources.get(&info.group, &info.version, &info.resource).cloned() else {
        let served = resources.iter().any(|r| r.info().group == info.group && r.info().version == info.version);
        return if served { Err(Status::no_such_path()) } else { Ok(no_such_path()) };
    };
    drop(resources);
    let facts = resource.info();
    let namespaced = facts.scope == Scope::Namespaced;
    let has_namespace = !info.namespace.is_empty() && info.resource != "namespaces";
    let named = !info.name.is_empty() && !matches!(info.verb.as_str(), "list" | "watch");
    if has_namespace != namespaced && (has_namespace || named) {
        return Err(Status::no_such_path());
    }
    flight.warnings.extend(resource.kind.deprecation().map(std::borrow::Cow::into_owned));
    if let Some(handler) = resource.rest.get(info.subresource.as_str()) {
        let allowed = match info.subresource.as_str() {
            "" => facts.verbs,
            sub => facts.subresources.iter().find(|s| s.name == sub).map_or(&[][..], |s| s.verbs),
        };
        let proxies = info.subresource == "proxy";
        let connects = proxies || matches!(info.subresource.as_str(), "exec" | "attach" | "portforward");
        if !proxies && !allowed.contains(&info.verb.as_str()) {
            return Err(method_not_allowed());
        }
        if !connects {
            negotiation::check_route(&parts.headers, &negotiation::produced(info))?;
        }
        let call = Call {
            info: info.clone(),
            user,
            query: query.clone(),
            kind: resource.kind.clone(),
            server: server.clone(),
            warnings: flight.warnings.clone(),
            user_agent: parts
                .headers
                .get(http::header::USER_AGENT)
                .and_then(|v| v.to_str().ok())
                .unwrap_or_default()
                .to_owned(),
            now: jiff::Timestamp::now(),
        };
        let wanted = negotiation::negotiate(&parts.headers, query, Offer::Plain);
        return match handler.serve(call, Request::from_parts(parts, body)).await? {
            Reply::Object(code, value) => Ok(respond::object(&wanted?, code, &value)),
            Reply::Raw(response) => Ok(response),
        };
    }
    let allowed = if info.subresource.is_empty() {
        facts.verbs
    } else {
        match facts.subresources.iter().find(|s| s.name == info.subresource) {
            Some(sub) if sub.kind == facts.kind || sub.name == "scale" => sub.verbs,
            _ => return Err(Status::no_such_path()),
        }
    };
    let with_name = matches!(info.verb.as_str(), "get" | "update" | "patch" | "delete");
    let fits = allowed.contains(&info.verb.as_str())
        && (info.verb != "create" || (!named && has_namespace == namespaced))
        && (!with_name || named)
        && (info.verb != "deletecollection" || has_namespace == namespaced);
    if !fits {
        return Err(method_not_allowed());
    }
    if resource.cache.is_none() {
        // A kind that is not stored is served by a handler or not at all.
        return Err(Status::no_such_path());
    }
    if resource.kind.custom().is_none() {
        negotiation::check_route(&parts.headers, &negotiation::produced(info))?;
    }
    if matches!(info.verb.as_str(), "get" | "list" | "watch") {
        let cx = Context { server, user: &user, info, resource, query, parts: &parts, warnings: &flight.warnings };
        return match info.verb.as_str() {
            "get" => read::get(&cx).await,
            "list" => verbs::list::list(&cx).await,
            _ => watch::watch(&cx).await,
        };
    }
    // A change that has begun is ended, also when its client has gone: what a hook took for it (an address, a port)
    // is kept or given back.
    let (server, info, query, warnings) = (server.clone(), info.clone(), query.clone(), flight.warnings.clone());
    let change = async move {
        let cx = Context {
            server: &server,
            user: &user,
            info: &info,
            resource,
            query: &query,
            parts: &parts,
            warnings: &warnings,
        };
        match info.verb.as_str() {
            "create" => boxed(write::create(&cx, body)).await,
            "update" => boxed(write::update(&cx, body)).await,
            "patch" => boxed(write::patch(&cx, body)).await,
            "delete" => boxed(write::delete(&cx, body)).await,
            "deletecollection" => boxed(write::delete_collection(&cx, body)).await,
            _ => Err(method_not_allowed()),
        }
    };
    let change = audit::scope(audit::current(), change);
    match tokio::spawn(change.in_current_span()).await {
        Ok(answer) => answer,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            Err(_) => Err(Status::unavailable("the server is shutting down")),
        },
    }
}

/// Large futures live on the heap, each by itself.
fn boxed<'f, T>(future: impl Future<Output = T> + Send + 'f) -> Pin<Box<dyn Future<Output = T> + Send + 'f>> {
    Box::pin(future)
}

/// Metrics as an answer.
pub fn metrics_text(text: String) -> Response<Body> {
    let mut response = respond::text(200, text);
    let media_type = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8; escaping=underscores");
    response.headers_mut().insert(http::header::CONTENT_TYPE, media_type);
    response
}

/// Paths outside the resources.
async fn other_path(
    server: &ApiServer,
    info: &RequestInfo,
    query: &Query,
    parts: &Parts,
) -> Result<Response<Body>, Status> {
    let path = info.path.trim_end_matches('/');
    let segments: Vec<&str> = path.split('/').skip(1).collect();
    if !matches!(info.verb.as_str(), "get" | "head") {
        return Ok(no_such_path());
    }
    let served = match segments.as_slice() {
        [] | [""] => Some(discovery::root(server, parts).await),
        ["api" | "apis", ..] => discovery::serve(server, parts, query, &segments)?,
        ["version"] => Some(discovery::version(server, parts)?),
        ["healthz" | "livez" | "readyz", ..] => health::serve(server, &segments, query).await,
        ["metrics"] => Some(metrics_text(metrics::text(server))),
        ["debug", "api_priority_and_fairness", what] => {
            server.fairness().and_then(|c| flowcontrol::debug::dump(c, what)).map(|text| respond::text(200, text))
        }
        ["metrics", "slis"] => Some(metrics_text(metrics::slis())),
        ["openapi", "v3", ..] => openapi::v3(server, parts, &segments[2..], query),
        ["openapi", "v2"] => Some(openapi::v2(server, parts)),
        _ => None,
    };
    match served {
        Some(response) => Ok(response),
        None => match server.path_handler(path) {
            Some(handler) => Ok(handler(parts)),
            None => Ok(no_such_path()),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_may_ask_for_less_time() {
        let check = |query: &str, expected: Result<u64, &str>| {
            let got = deadline(&Query::parse(query)).map(|d| d.as_secs()).map_err(|s| s.message);
            assert_eq!(got, expected.map_err(str::to_owned), "{query}");
        };
        check("", Ok(60));
        check("timeout=20s", Ok(20));
        check("timeout=0s", Ok(60));
        check("timeout=1h", Ok(60));
        check("timeout=-5s", Ok(60));
        check("timeout=x", Err("invalid timeout specified in the request URL - time: invalid duration \"x\""));
    }
}
