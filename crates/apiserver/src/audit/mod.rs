//! Audit (`k8s.io/apiserver/pkg/audit`, `endpoints/filters/audit.go`): what the policy asks for is written down at
//! the stages of a request, to a log file and to a webhook.
//!
//! Invariant: what waits to be written is bounded in number and bytes, and in batch mode nothing of a request waits
//! for a backend. Start reading at [`Audit::begin`].

pub mod batch;
pub mod event;
mod legacy;
pub mod log;
pub mod policy;
pub mod truncate;
pub mod webhook;

use std::io::Read;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use http::Response;
use http::request::Parts;
use http_body_util::BodyExt;
use jiff::Timestamp;
use orkd_api::schema::Type;
use orkd_api::status::Status;
use orkd_base::metrics::{Counter, Family};
use parking_lot::Mutex;
use serde_json::Value;
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

use crate::Body;
use crate::route::RequestInfo;
use crate::user::UserInfo;
use crate::warning::Annotations;
use batch::{Batching, Pace, Queue};
use event::{Head, ObjectFacts, ResponseStatus};
use log::{Keep, LogFile};
use policy::{Level, Policy, Stage};
use truncate::Limits;
use webhook::Receiver;

static EVENTS: Family<Counter> = Family::counter(
    "apiserver_audit_event_total",
    "[ALPHA] Counter of audit events generated and sent to the audit backend.",
    &[],
);
static LEVELS: Family<Counter> = Family::counter(
    "apiserver_audit_level_total",
    "[ALPHA] Counter of policy levels for audit events (1 per request).",
    &["level"],
);
static ERRORS: Family<Counter> = Family::counter(
    "apiserver_audit_error_total",
    "[ALPHA] Counter of audit events that failed to be audited properly. Plugin identifies the plugin affected by the \
     error.",
    &["plugin"],
);
static REJECTED: Family<Counter> = Family::counter(
    "apiserver_audit_requests_rejected_total",
    "[ALPHA] Counter of apiserver requests rejected due to an error in audit logging backend.",
    &[],
);

/// How a backend takes events.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mode {
    /// In batches, beside the requests.
    Batch,
    /// Each with its request; a failure is counted.
    #[default]
    Blocking,
    /// Each with its request; a request that cannot be written down is refused.
    BlockingStrict,
}

/// How a webhook takes events: in batches, if nothing else is said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WebhookMode(pub Mode);

impl Default for WebhookMode {
    fn default() -> Self {
        WebhookMode(Mode::Batch)
    }
}

impl std::str::FromStr for Mode {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "batch" => Ok(Mode::Batch),
            "blocking" => Ok(Mode::Blocking),
            "blocking-strict" => Ok(Mode::BlockingStrict),
            _ => Err(format!("invalid audit mode {text:?}: batch, blocking or blocking-strict")),
        }
    }
}

/// What an operator asks for.
#[derive(Default)]
pub struct Options {
    /// Text of the policy (`--audit-policy-file`).
    pub policy: Option<String>,
    /// The log file (`--audit-log-path`); `-` is standard output.
    pub log: Option<PathBuf>,
    /// How the file takes events.
    pub log_mode: Mode,
    /// How the batches of the file are made.
    pub log_batching: Batching,
    /// What the file takes of large events (`--audit-log-truncate-*`); all of them if `None`.
    pub log_limits: Option<Limits>,
    /// How the file is kept.
    pub keep: Keep,
    /// The webhook (`--audit-webhook-config-file`).
    pub webhook: Option<Arc<dyn Receiver>>,
    /// How it takes events.
    pub webhook_mode: WebhookMode,
    /// How the batches of the webhook are made.
    pub batching: Batching,
    /// What the webhook takes of large events.
    pub webhook_limits: Option<Limits>,
    /// The first pause after a failure of the webhook; growing.
    pub webhook_pause: Duration,
}

enum Target {
    Log { file: Arc<LogFile>, strict: bool },
    LogQueue { file: Arc<LogFile>, queue: Queue },
    Webhook { receiver: Arc<dyn Receiver>, pause: Duration, strict: bool },
    WebhookQueue { receiver: Arc<dyn Receiver>, pause: Duration, queue: Queue },
}

/// A backend and what it takes.
struct Backend {
    target: Target,
    limits: Option<Limits>,
}

/// What became of an event: whether it is kept as far as is known, and what is still to come.
struct Sent {
    kept: bool,
    pending: Vec<oneshot::Receiver<bool>>,
}

impl Sent {
    /// Waits for those that take events one by one; false where a strict one failed.
    async fn settle(self) -> bool {
        let mut kept = self.kept;
        for outcome in self.pending {
            // Gone without a word: the server ends.
            kept &= outcome.await.unwrap_or(true);
        }
        kept
    }
}

/// The audit of a server.
pub struct Audit {
    policy: Policy,
    backends: Vec<Backend>,
}

impl Audit {
    /// Opens what the options ask for; `None` where that is nothing. The error is for the operator.
    pub fn open(options: Options) -> Result<Option<Arc<Audit>>, String> {
        let Some(text) = options.policy else {
            if options.log.is_some() || options.webhook.is_some() {
                tracing::warn!("no audit policy file was given: no events will be recorded");
            }
            return Ok(None);
        };
        let policy = Policy::parse(&text)?;
        let mut backends = Vec::new();
        let queue = |batching: Batching, limits: Option<Limits>| {
            let max_bytes = limits.map_or(batching.max_bytes, |l| l.batch);
            Queue::new(Batching { max_bytes, ..batching })
        };
        if let Some(path) = options.log {
            let file =
                LogFile::open(&path, options.keep).map_err(|e| format!("cannot write {}: {e}", path.display()))?;
            let (file, limits) = (Arc::new(file), options.log_limits);
            let target = match options.log_mode {
                Mode::Batch => Target::LogQueue { file, queue: queue(options.log_batching, limits) },
                mode => Target::Log { file, strict: mode == Mode::BlockingStrict },
            };
            backends.push(Backend { target, limits });
        }
        if let Some(receiver) = options.webhook {
            let pause = if options.webhook_pause.is_zero() { Duration::from_secs(10) } else { options.webhook_pause };
            let limits = options.webhook_limits;
            let target = match options.webhook_mode.0 {
                Mode::Batch => Target::WebhookQueue { receiver, pause, queue: queue(options.batching, limits) },
                mode => Target::Webhook { receiver, pause, strict: mode == Mode::BlockingStrict },
            };
            backends.push(Backend { target, limits });
        }
        if backends.is_empty() {
            tracing::warn!("no audit backend was given: the audit policy has no effect");
            return Ok(None);
        }
        Ok(Some(Arc::new(Audit { policy, backends })))
    }

    /// Carries batches to their backends until told to stop; then what is left.
    pub async fn run(&self, stop: CancellationToken) {
        let running = self.backends.iter().map(|backend| carry(&backend.target, &stop));
        futures_util::future::join_all(running).await;
    }

    /// Begins the record of a request, where the policy wants one, and writes that it was received. `user` is none for a
    /// request whose credential was refused.
    pub async fn begin(
        self: &Arc<Self>,
        user: Option<&UserInfo>,
        info: &RequestInfo,
        parts: &Parts,
        audit_id: &str,
        annotations: &Annotations,
    ) -> Result<Option<Arc<Record>>, Status> {
        let verdict = self.policy.verdict(user, info);
        LEVELS.with(&[verdict.map_or("None", |v| v.level.name())]).inc();
        let Some(verdict) = verdict else { return Ok(None) };
        let head = Head::new(verdict.clone(), audit_id.to_owned(), Timestamp::now(), parts, user, info);
        let record = Record { audit: self.clone(), head, annotations: annotations.clone(), state: Mutex::default() };
        if user.is_some() && !record.emit(Stage::RequestReceived).settle().await {
            REJECTED.with(&[]).inc();
            record.state.lock().done = true;
            return Err(Status::internal("failed to store audit event"));
        }
        Ok(Some(Arc::new(record)))
    }

    /// Hands an event to every backend.
    fn send<F: Fn() -> Option<String>>(&self, event: &truncate::Event<F>) -> Sent {
        EVENTS.with(&[]).inc();
        let (mut kept, mut pending) = (true, Vec::new());
        for Backend { target, limits } in &self.backends {
            let Some(event) = event.within(*limits) else {
                lost("truncate", 1, "event is too large even after truncating");
                continue;
            };
            match target {
                Target::Log { file, strict } => {
                    if let Err(error) = file.write_events(std::slice::from_ref(event)) {
                        lost("log", 1, &error.to_string());
                        kept &= !strict;
                    }
                }
                Target::LogQueue { queue, .. } => {
                    if !queue.push(event.clone()) {
                        lost("log", 1, "the buffer is full");
                    }
                }
                Target::Webhook { receiver, pause, strict } => {
                    pending.extend(post(receiver.clone(), event.clone(), *pause, *strict));
                }
                Target::WebhookQueue { queue, .. } => {
                    if !queue.push(event.clone()) {
                        lost("webhook", 1, "the buffer is full");
                    }
                }
            }
        }
        Sent { kept, pending }
    }
}

/// Posts one event beside the request, which waits for it where it can: what is under way is bounded by the requests that
/// are. None where the server has ended.
fn post(receiver: Arc<dyn Receiver>, event: String, pause: Duration, strict: bool) -> Option<oneshot::Receiver<bool>> {
    let runtime = tokio::runtime::Handle::try_current().ok()?;
    let (tell, outcome) = oneshot::channel();
    runtime.spawn(async move {
        let sent = webhook::send(&*receiver, std::slice::from_ref(&event), pause).await;
        if let Err(error) = &sent {
            lost("webhook", 1, error);
        }
        // The request may have gone.
        let _ = tell.send(sent.is_ok() || !strict);
    });
    Some(outcome)
}

/// Carries the batches of one backend.
async fn carry(target: &Target, stop: &CancellationToken) {
    let mut pace = Pace::default();
    match target {
        Target::Log { .. } | Target::Webhook { .. } => {}
        Target::LogQueue { file, queue } => {
            while let Some(events) = queue.next(stop, &mut pace).await {
                if let Err(error) = file.write_events(&events) {
                    lost("log", events.len(), &error.to_string());
                }
            }
        }
        Target::WebhookQueue { receiver, queue, pause } => {
            while let Some(events) = queue.next(stop, &mut pace).await {
                // At the end nothing is waited for.
                let pause = if stop.is_cancelled() { Duration::ZERO } else { *pause };
                if let Err(error) = webhook::send(&**receiver, &events, pause).await {
                    lost("webhook", events.len(), &error);
                }
            }
        }
    }
}

fn lost(plugin: &str, count: usize, why: &str) {
    ERRORS.with(&[plugin]).add(count as u64);
    tracing::error!(plugin, count, why, "audit events were lost");
}

/// The record of one request. Dropped without an answer, it says that the connection was closed early.
pub struct Record {
    audit: Arc<Audit>,
    head: Head,
    annotations: Annotations,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    body: event::Body,
    done: bool,
    /// What of the request is still under way: the answer, and sessions that outlive it.
    held: u32,
}

tokio::task_local! {
    static CURRENT: Arc<Record>;
}

/// Runs what serves a request so that [`request_object`] and [`request_patch`] find its record.
pub async fn scope<F: Future>(record: Option<Arc<Record>>, serve: F) -> F::Output {
    match record {
        Some(record) => CURRENT.scope(record, serve).await,
        None => serve.await,
    }
}

/// The record of the request being served here, to be given to a task that goes on with it.
pub fn current() -> Option<Arc<Record>> {
    CURRENT.try_with(Arc::clone).ok()
}

/// Keeps the request being served here from being complete until this is dropped: for sessions (exec, attach,
/// port-forward) that go on after the answer that began them.
pub fn hold() -> Option<Hold> {
    current().map(Hold::of)
}

/// See [`hold`].
pub struct Hold(Arc<Record>);

impl Hold {
    fn of(record: Arc<Record>) -> Self {
        record.state.lock().held += 1;
        Hold(record)
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        let over = {
            let mut state = self.0.state.lock();
            state.held -= 1;
            // Before the answer nothing is complete.
            state.held == 0 && state.body.status.is_some()
        };
        if over {
            self.0.end(Stage::ResponseComplete);
        }
    }
}

/// Notes the object that a request carries.
pub fn request_object(object: &Value) {
    let _ = CURRENT.try_with(|record| record.note_object(object));
}

/// Notes the patch that a request carries.
pub fn request_patch(patch: &[u8]) {
    let _ = CURRENT.try_with(|record| {
        if record.level() >= Level::Request {
            let strictness = orkd_api::codec::Strictness::Ignore;
            let read = orkd_api::codec::yaml::decode_untyped(patch, strictness);
            record.state.lock().body.request_object = read.ok().map(|(value, _)| value.to_string().into());
        }
    });
}

impl Record {
    fn level(&self) -> Level {
        self.head.verdict.level
    }

    fn note_object(&self, object: &Value) {
        let mut state = self.state.lock();
        state.body.object = ObjectFacts::of(object);
        if self.level() >= Level::Request {
            state.body.request_object = Some(event::object_json(object, self.head.verdict.omit_managed_fields));
        }
    }

    /// Notes whom the request acts as, and by which verb of constrained impersonation; empty for none.
    pub fn impersonated(&self, user: &UserInfo, constraint: &str) {
        let body = &mut self.state.lock().body;
        body.impersonated = Some(user.clone());
        constraint.clone_into(&mut body.constraint);
    }

    fn emit(&self, stage: Stage) -> Sent {
        if self.head.verdict.omit_stages.contains(&stage) {
            return Sent { kept: true, pending: Vec::new() };
        }
        let at = if stage == Stage::RequestReceived { self.head.received } else { Timestamp::now() };
        let body = self.state.lock().body.clone();
        let annotations = self.annotations.all(self.level() >= Level::Request);
        let whole = self.head.encode(stage, at, &body, &annotations);
        let shorten = || {
            let bare = event::Body { request_object: None, response_object: None, ..body.clone() };
            let mut annotations = annotations.clone();
            annotations.insert(truncate::ANNOTATION.into(), "true".into());
            (self.level() >= Level::Request).then(|| self.head.encode(stage, at, &bare, &annotations))
        };
        self.audit.send(&truncate::Event::new(whole, shorten))
    }

    /// Writes down how the request ended, unless that is done. Few can wait for it.
    fn end(&self, stage: Stage) -> Option<Sent> {
        // The lock is given back before the event is written.
        let done = std::mem::replace(&mut self.state.lock().done, true);
        (!done).then(|| self.emit(stage))
    }

    /// As [`Record::end`], and waits for backends that take events one by one. The answer is there: it stays as it is.
    async fn complete(&self) {
        if let Some(sent) = self.end(Stage::ResponseComplete) {
            sent.settle().await;
        }
    }

    /// The server failed over the request.
    pub fn panicked(&self, why: &str) {
        self.state.lock().body.status = Some(ResponseStatus {
            status: "Failure",
            message: format!("APIServer panic'd: {why}"),
            reason: "InternalError".into(),
            code: 500,
            ..ResponseStatus::default()
        });
        self.end(Stage::Panic);
    }

    /// A credential was refused; `tried` says how it was shown.
    pub fn refused(&self, tried: String, code: u16) {
        let status = ResponseStatus { message: tried, ..ResponseStatus::code(code) };
        self.state.lock().body.status = Some(status);
        self.end(Stage::ResponseStarted);
    }

    /// Takes down an answer; `failure` is the `Status` it was made of. What stays open is followed to its end.
    pub async fn answered(
        self: Arc<Self>,
        response: Response<Body>,
        failure: Option<&Status>,
        stays_open: bool,
    ) -> Response<Body> {
        let code = response.status().as_u16();
        let status = failure.map_or_else(|| ResponseStatus::code(code), ResponseStatus::failure);
        self.state.lock().body.status = Some(status);
        if stays_open {
            let hold = Hold::of(Arc::clone(&self));
            self.emit(Stage::ResponseStarted).settle().await;
            return crate::body::follow(response, hold);
        }
        // What a delete says of itself is a `Status`, and belongs to the metadata.
        let whole = self.level() == Level::RequestResponse;
        if !whole && self.head.verb() != "delete" {
            self.complete().await;
            return response;
        }
        let (parts, body) = response.into_parts();
        let bytes = body.collect().await.map(http_body_util::Collected::to_bytes).unwrap_or_default();
        if let Some(object) = decode(&parts.headers, &bytes) {
            let mut state = self.state.lock();
            if object["kind"] == "Status" && failure.is_none() {
                state.body.status = Some(ResponseStatus {
                    status: if object["status"] == "Success" { "Success" } else { "Failure" },
                    message: object["message"].as_str().unwrap_or_default().to_owned(),
                    reason: object["reason"].as_str().unwrap_or_default().to_owned(),
                    details: object.get("details").cloned(),
                    code,
                });
            }
            if whole {
                state.body.response_object = Some(event::object_json(&object, self.head.verdict.omit_managed_fields));
            }
        }
        self.complete().await;
        Response::from_parts(parts, Body::from(bytes))
    }
}

impl Drop for Record {
    fn drop(&mut self) {
        if self.state.lock().done {
            return;
        }
        // The client went before it was answered.
        self.state.lock().body.status.get_or_insert_with(|| ResponseStatus {
            status: "Success",
            message: "Connection closed early".into(),
            ..ResponseStatus::code(200)
        });
        self.end(Stage::ResponseComplete);
    }
}

/// The object of an answer, whatever its encoding.
fn decode(headers: &http::HeaderMap, bytes: &[u8]) -> Option<Value> {
    let text = |name| headers.get(name).and_then(|v: &http::HeaderValue| v.to_str().ok()).unwrap_or_default();
    let mut plain = Vec::new();
    let bytes = if text(http::header::CONTENT_ENCODING) == "gzip" {
        flate2::read::GzDecoder::new(bytes).read_to_end(&mut plain).ok()?;
        &plain
    } else {
        bytes
    };
    let media_type = text(http::header::CONTENT_TYPE);
    if media_type.starts_with("application/vnd.kubernetes.protobuf") {
        let meta = orkd_api::codec::protobuf::identify(bytes).ok()?;
        let ty = Type::of_api_version(&meta.api_version, &meta.kind)?;
        let mut value = orkd_api::codec::protobuf::decode(bytes, ty).ok()?;
        value["apiVersion"] = meta.api_version.into();
        value["kind"] = meta.kind.into();
        return Some(value);
    }
    if media_type.starts_with("application/yaml") {
        let strictness = orkd_api::codec::Strictness::Ignore;
        return orkd_api::codec::yaml::decode_untyped(bytes, strictness).ok().map(|(value, _)| value);
    }
    serde_json::from_slice(bytes).ok()
}

/// How a refused request showed who it was (`getAuthMethods`).
pub fn tried(parts: &Parts) -> String {
    let mut methods = Vec::new();
    let header = parts.headers.get(http::header::AUTHORIZATION).and_then(|v| v.to_str().ok()).unwrap_or_default();
    match header.trim().split_once(' ').map(|(scheme, _)| scheme.to_ascii_lowercase()).as_deref() {
        Some("basic") => methods.push("basic"),
        Some("bearer") => methods.push("bearer"),
        _ => {}
    }
    if parts.extensions.get::<crate::user::Peer>().is_some_and(|p| !p.certificates.is_empty()) {
        methods.push("x509");
    }
    match methods.as_slice() {
        [] => "Authentication failed, no credentials provided".into(),
        methods => format!("Authentication failed, attempted: {}", methods.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use async_trait::async_trait;
    use http::Request;

    use super::*;
    use crate::query::Query;

    /// A webhook that answers with the same status each time, and remembers the stages it was told.
    struct Told(u16, Mutex<Vec<String>>);

    #[async_trait]
    impl Receiver for Told {
        async fn post(&self, body: String) -> Result<u16, String> {
            let list: Value = serde_json::from_str(&body).map_err(|e| e.to_string())?;
            let stages = list["items"].as_array().into_iter().flatten();
            self.1.lock().extend(stages.map(|e| e["stage"].as_str().unwrap_or_default().to_owned()));
            Ok(self.0)
        }
    }

    fn audit(answer: u16, mode: Mode) -> (Arc<Told>, Arc<Audit>) {
        let told = Arc::new(Told(answer, Mutex::default()));
        let options = Options {
            policy: Some("apiVersion: audit.k8s.io/v1\nkind: Policy\nrules: [{level: Metadata}]\n".into()),
            webhook: Some(told.clone()),
            webhook_mode: WebhookMode(mode),
            webhook_pause: Duration::from_millis(1),
            ..Options::default()
        };
        (told, Audit::open(options).expect("opens").expect("has a backend"))
    }

    #[tokio::test(start_paused = true)]
    async fn large_events_lose_their_objects_and_larger_ones_are_lost() {
        let received = Arc::new(Told(200, Mutex::default()));
        let directory = tempfile::tempdir().expect("directory");
        let log = directory.path().join("audit.log");
        let options = Options {
            policy: Some("apiVersion: audit.k8s.io/v1\nkind: Policy\nrules: [{level: Request}]\n".into()),
            log: Some(log.clone()),
            log_limits: Some(Limits { event: 1000, batch: 1000 }),
            webhook: Some(received.clone()),
            webhook_mode: WebhookMode(Mode::Blocking),
            ..Options::default()
        };
        let audit = Audit::open(options).expect("opens").expect("has backends");
        for size in [10, 5000] {
            let record = begin(&audit).await.expect("taken").expect("wanted");
            record.note_object(&serde_json::json!({"metadata": {"name": "b"}, "data": "x".repeat(size)}));
            record.answered(Response::new(Body::empty()), None, false).await;
        }
        // Metadata alone may be too much: the log is silent then.
        let record = begin(&audit).await.expect("taken").expect("wanted");
        record.impersonated(&UserInfo::new("y".repeat(2000), &[]), "");
        record.answered(Response::new(Body::empty()), None, false).await;
        let text = std::fs::read_to_string(&log).expect("read");
        let events: Vec<Value> = text.lines().map(|l| serde_json::from_str(l).expect("JSON")).collect();
        let complete: Vec<&Value> = events.iter().filter(|e| e["stage"] == "ResponseComplete").collect();
        assert_eq!(complete.len(), 2, "{text}");
        assert_eq!(complete[0]["requestObject"]["data"], "xxxxxxxxxx");
        assert!(complete[0].get("annotations").is_none());
        assert!(complete[1].get("requestObject").is_none(), "{}", complete[1]);
        assert_eq!(complete[1]["annotations"]["audit.k8s.io/truncated"], "true");
        assert_eq!(complete[1]["objectRef"]["name"], "b");
        let posted = received.1.lock().iter().filter(|stage| *stage == "ResponseComplete").count();
        assert_eq!(posted, 3, "the webhook has no limits");
    }

    async fn begin(audit: &Arc<Audit>) -> Result<Option<Arc<Record>>, Status> {
        let path = "/api/v1/namespaces/a/pods/b/exec";
        let (parts, ()) = Request::get(path).body(()).expect("request").into_parts();
        let info = crate::route::route(&parts.method, path, &Query::parse("")).expect("routed");
        audit.begin(Some(&UserInfo::new("ann", &[])), &info, &parts, "id", &Annotations::default()).await
    }

    #[tokio::test(start_paused = true)]
    async fn a_webhook_that_blocks_has_each_event_before_the_answer() {
        let (told, audit) = audit(200, Mode::Blocking);
        let record = begin(&audit).await.expect("taken").expect("wanted");
        assert_eq!(*told.1.lock(), ["RequestReceived"]);
        record.answered(Response::new(Body::empty()), None, false).await;
        assert_eq!(*told.1.lock(), ["RequestReceived", "ResponseComplete"]);
    }

    #[tokio::test(start_paused = true)]
    async fn only_a_strict_webhook_refuses_requests() {
        for (mode, refused) in [(Mode::Blocking, false), (Mode::BlockingStrict, true)] {
            let (told, audit) = audit(500, mode);
            assert_eq!(begin(&audit).await.is_err(), refused, "{mode:?}");
            assert_eq!(told.1.lock().len(), 5, "each try is one");
        }
    }

    #[tokio::test]
    async fn a_session_is_complete_when_it_is_over() {
        let (told, audit) = audit(200, Mode::Blocking);
        let record = begin(&audit).await.expect("taken").expect("wanted");
        let session = scope(Some(record.clone()), async { hold() }).await.expect("held");
        let response = record.answered(Response::new(Body::empty()), None, true).await;
        drop(response);
        assert_eq!(*told.1.lock(), ["RequestReceived", "ResponseStarted"]);
        drop(session);
        tokio::time::timeout(Duration::from_secs(10), async {
            while told.1.lock().len() < 3 {
                tokio::task::yield_now().await;
            }
        })
        .await
        .expect("told in the end");
        assert_eq!(told.1.lock()[2], "ResponseComplete");
        // One that ends before the answer completes nothing by itself.
        let record = begin(&audit).await.expect("taken").expect("wanted");
        drop(scope(Some(record.clone()), async { hold() }).await);
        assert!(!record.state.lock().done);
    }
}
