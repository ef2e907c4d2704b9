//! Calls a webhook.

use std::time::Instant;

use orkd_api::status::Status;
use orkd_base::metrics::{Counter, Family, Histogram};
use serde_json::Value;

use super::super::asked::Door;
use super::super::round::Round;
use super::config::Webhook;
use super::review::{self, Verdict};
use crate::admission::Operation;

static TIMES: Family<Histogram> = Family::histogram(
    "apiserver_admission_webhook_admission_duration_seconds",
    "[STABLE] Admission webhook latency histogram in seconds, identified by name and broken out for each operation and API \
     resource and type (validate or admit).",
    &["name", "operation", "rejected", "type"],
    &[0.005, 0.025, 0.1, 0.5, 1.0, 2.5, 10.0, 25.0],
);
static REQUESTS: Family<Counter> = Family::counter(
    "apiserver_admission_webhook_request_total",
    "[ALPHA] Admission webhook request total, identified by name and broken out for each admission type (validating or \
     mutating) and operation. Additional labels specify whether the request was rejected or not and an HTTP status code. \
     Codes greater than 600 are truncated to 600, to keep the metrics cardinality bounded.",
    &["code", "name", "operation", "rejected", "type"],
);
static REJECTIONS: Family<Counter> = Family::counter(
    "apiserver_admission_webhook_rejection_count",
    "[ALPHA] Admission webhook rejection count, identified by name and broken out for each admission type (validating or \
     admit) and operation. Additional labels specify an error type (calling_webhook_error or apiserver_internal_error if an \
     error occurred; no_error otherwise) and optionally a non-zero rejection code if the webhook rejects the request with an \
     HTTP status code (honored by the apiserver when the code is greater or equal to 400). Codes greater than 600 are \
     truncated to 600, to keep the metrics cardinality bounded.",
    &["error_type", "name", "operation", "rejection_code", "type"],
);
static FAIL_OPEN: Family<Counter> = Family::counter(
    "apiserver_admission_webhook_fail_open_count",
    "[ALPHA] Admission webhook fail open count, identified by name and broken out for each admission type (validating or \
     mutating).",
    &["name", "type"],
);

/// Why a webhook did not let a request pass.
#[derive(Clone, Debug, PartialEq)]
pub enum Failure {
    /// It could not be asked, or its answer is none: `failurePolicy` decides. What went wrong, and the code that metrics
    /// tell.
    Calling(String, u16),
    /// It said no.
    Rejected(Status),
    /// It cannot be asked about such a request, or what it wants cannot be done.
    Unusable(Status),
}

/// Which kind of webhook is called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Mutating.
    Admit,
    /// Validating.
    Validating,
}

impl Phase {
    fn as_str(self) -> &'static str {
        match self {
            Phase::Admit => "admit",
            Phase::Validating => "validating",
        }
    }
}

/// Asks a webhook about objects in the form of a door. Warnings and notes for audit are the caller's to pass on.
pub async fn call(
    round: &Round<'_>,
    hook: &Webhook,
    phase: Phase,
    door: &Door,
    object: &Value,
    old: &Value,
) -> Result<Verdict, Failure> {
    if round.is_dry_run() && !hook.dry_runs {
        let text = format!("admission webhook {:?} does not support dry run", hook.name);
        return Err(Failure::Unusable(Status::bad_request(text)));
    }
    let Some(version) = hook.version else {
        let why =
            "could not create admission objects: webhook does not accept known AdmissionReview versions (v1, v1beta1)";
        return Err(Failure::Calling(why.into(), 400));
    };
    let server = hook.server.as_ref().map_err(|e| Failure::Calling(format!("could not get REST client: {e}"), 500))?;
    let uid = uuid::Uuid::new_v4().to_string();
    let question = review::question(version, round.request_value(door, &uid), object, old);
    let reader = round.server().map(|server| server.reader());
    let answer = server.post(question.to_string(), hook.timeout, reader).await;
    let failed =
        |why: &dyn std::fmt::Display, code: u16| Failure::Calling(format!("failed to call webhook: {why}"), code);
    let answer = answer.map_err(|e| failed(&e, 503))?;
    if !(200..300).contains(&answer.status) {
        return Err(failed(&review::failure(answer.status, &answer.body), answer.status));
    }
    let said: Value = serde_json::from_slice(&answer.body)
        .map_err(|e| failed(&format_args!("couldn't get version/kind; json parse error: {e}"), 503))?;
    let verdict = review::verdict(version, &uid, phase == Phase::Admit, &said)
        .map_err(|e| Failure::Calling(format!("received invalid webhook response: {e}"), 503))?;
    Ok(verdict)
}

/// What a call came to, for [`count`].
pub fn rejected(hook: &Webhook, verdict: &Verdict) -> Result<(), Failure> {
    if verdict.allowed { Ok(()) } else { Err(Failure::Rejected(review::refusal(&hook.name, &verdict.result))) }
}

/// Counts a call, and turns what it came to into what becomes of the request. `true`: it passes although the webhook
/// could not be asked.
pub fn conclude(
    hook: &Webhook,
    phase: Phase,
    operation: Operation,
    begun: Instant,
    outcome: Result<(), Failure>,
) -> Result<bool, Status> {
    let (name, phase, operation) = (&*hook.name, phase.as_str(), operation.as_str());
    let fails_open = matches!(outcome, Err(Failure::Calling(..))) && hook.fails_open;
    let is_rejected = outcome.is_err() && !fails_open;
    let (code, error_type) = match &outcome {
        Ok(()) => (200, ""),
        Err(Failure::Calling(_, code)) => (*code, "calling_webhook_error"),
        Err(Failure::Rejected(status)) => (status.code, "no_error"),
        Err(Failure::Unusable(_)) => (0, "apiserver_internal_error"),
    };
    let (code, refusal) = (code.min(600).to_string(), if is_rejected { "true" } else { "false" });
    TIMES.with(&[name, operation, refusal, phase]).observe(begun.elapsed().as_secs_f64());
    REQUESTS.with(&[&code, name, operation, refusal, phase]).inc();
    if is_rejected {
        REJECTIONS.with(&[error_type, name, operation, &code, phase]).inc();
    }
    match outcome {
        Ok(()) => Ok(false),
        Err(Failure::Calling(why, _)) if hook.fails_open => {
            tracing::warn!(webhook = name, why, "failed calling webhook, failing open");
            FAIL_OPEN.with(&[name, phase]).inc();
            Ok(true)
        }
        Err(Failure::Calling(why, _)) => {
            tracing::warn!(webhook = name, why, "failed calling webhook, failing closed");
            Err(Status::internal(format!("failed calling webhook {name:?}: {why}")))
        }
        Err(Failure::Rejected(status) | Failure::Unusable(status)) => Err(status),
    }
}
