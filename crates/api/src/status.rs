//! The `Status` object that answers a failed request (and some that succeed).
//!
//! Follows `k8s.io/apimachinery/pkg/api/errors`: codes, reasons and message texts are what clients test.

use serde_json::{Value, json};

use crate::field::ErrorList;
use crate::kind::Name;

/// A failed request, ready to be sent. `reason` and `code` agree as upstream pairs them.
#[derive(Clone, Debug, PartialEq)]
pub struct Status {
    /// The HTTP status code.
    pub code: u16,
    /// The machine-readable reason (`NotFound`, `Conflict`, ...); empty where upstream sends none. Webhooks have their own.
    pub reason: Name,
    /// The text for a person.
    pub message: String,
    /// What the failure is about.
    pub details: Option<Details>,
}

/// What a failure is about.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Details {
    /// The object's name.
    pub name: String,
    /// The API group.
    pub group: String,
    /// The resource, or the kind where upstream sends the kind.
    pub kind: String,
    /// The object's UID.
    pub uid: String,
    /// Causes, one a problem.
    pub causes: Vec<Cause>,
    /// When to try again, in seconds; 0 for unsaid.
    pub retry_after_seconds: u32,
}

/// One cause of a failure.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Cause {
    /// The machine-readable reason.
    pub reason: String,
    /// The text.
    pub message: String,
    /// The field path, where there is one.
    pub field: String,
}

/// `resource` or `resource.group`, as upstream's `GroupResource.String`.
pub fn group_resource(group: &str, resource: &str) -> String {
    if group.is_empty() { resource.to_owned() } else { format!("{resource}.{group}") }
}

impl Status {
    /// A failure with no details.
    pub fn new(code: u16, reason: &'static str, message: impl Into<String>) -> Self {
        Status { code, reason: reason.into(), message: message.into(), details: None }
    }

    fn about(mut self, group: &str, kind: &str, name: &str) -> Self {
        self.details =
            Some(Details { name: name.into(), group: group.into(), kind: kind.into(), ..Details::default() });
        self
    }

    /// 404 for an object that does not exist.
    pub fn not_found(group: &str, resource: &str, name: &str) -> Self {
        let gr = group_resource(group, resource);
        Status::new(404, "NotFound", format!("{gr} {name:?} not found")).about(group, resource, name)
    }

    /// 404 for a path that is not served.
    pub fn no_such_path() -> Self {
        Status {
            details: Some(Details::default()),
            ..Status::new(404, "NotFound", "the server could not find the requested resource")
        }
    }

    /// 409 for a create of what exists.
    pub fn already_exists(group: &str, resource: &str, name: &str) -> Self {
        let gr = group_resource(group, resource);
        Status::new(409, "AlreadyExists", format!("{gr} {name:?} already exists")).about(group, resource, name)
    }

    /// 409 for a lost race.
    pub fn conflict(group: &str, resource: &str, name: &str, cause: &str) -> Self {
        let gr = group_resource(group, resource);
        Status::new(409, "Conflict", format!("Operation cannot be fulfilled on {gr} {name:?}: {cause}"))
            .about(group, resource, name)
    }

    /// 403 with upstream's wording.
    pub fn forbidden(group: &str, resource: &str, name: &str, cause: &str) -> Self {
        let gr = group_resource(group, resource);
        let message = if gr.is_empty() {
            format!("forbidden: {cause}")
        } else if name.is_empty() {
            format!("{gr} is forbidden: {cause}")
        } else {
            format!("{gr} {name:?} is forbidden: {cause}")
        };
        Status::new(403, "Forbidden", message).about(group, resource, name)
    }

    /// 401.
    pub fn unauthorized() -> Self {
        Status::new(401, "Unauthorized", "Unauthorized")
    }

    /// 400 with a text.
    pub fn bad_request(message: impl Into<String>) -> Self {
        Status::new(400, "BadRequest", message)
    }

    /// 422 with one cause a problem. `kind` is the object's kind, not its resource.
    pub fn invalid(group: &str, kind: &str, name: &str, errors: &ErrorList) -> Self {
        let gk = group_resource(group, kind);
        let texts: Vec<String> = {
            let mut seen = std::collections::HashSet::new();
            errors.0.iter().map(ToString::to_string).filter(|t| seen.insert(t.clone())).collect()
        };
        let joined = match texts.len() {
            1 => texts[0].clone(),
            _ => format!("[{}]", texts.join(", ")),
        };
        let mut status =
            Status::new(422, "Invalid", format!("{gk} {name:?} is invalid: {joined}")).about(group, kind, name);
        if let Some(details) = &mut status.details {
            details.causes = errors
                .0
                .iter()
                .map(|e| Cause { reason: e.kind.reason().into(), message: e.body(), field: e.path.text() })
                .collect();
        }
        status
    }

    /// 405.
    pub fn method_not_supported(group: &str, resource: &str, action: &str) -> Self {
        let gr = group_resource(group, resource);
        Status::new(405, "MethodNotAllowed", format!("{action} is not supported on resources of kind {gr:?}"))
            .about(group, resource, "")
    }

    /// 410: the revision asked for is gone.
    pub fn expired(message: impl Into<String>) -> Self {
        Status::new(410, "Expired", message)
    }

    /// 413.
    pub fn too_large(message: impl Into<String>) -> Self {
        Status::new(413, "RequestEntityTooLarge", message)
    }

    /// 429 with a delay.
    pub fn too_many_requests(message: impl Into<String>, retry_after_seconds: u32) -> Self {
        Status {
            details: Some(Details { retry_after_seconds, ..Details::default() }),
            ..Status::new(429, "TooManyRequests", message)
        }
    }

    /// 500. The text is shown to the client: keep internals out of it.
    pub fn internal(message: impl Into<String>) -> Self {
        let text = message.into();
        Status {
            details: Some(Details {
                causes: vec![Cause { message: text.clone(), ..Cause::default() }],
                ..Details::default()
            }),
            ..Status::new(500, "InternalError", format!("Internal error occurred: {text}"))
        }
    }

    /// 503.
    pub fn unavailable(message: impl Into<String>) -> Self {
        Status::new(503, "ServiceUnavailable", message)
    }

    /// 504 that asks for another try.
    pub fn server_timeout(message: impl Into<String>, retry_after_seconds: u32) -> Self {
        Status {
            details: Some(Details { retry_after_seconds, ..Details::default() }),
            ..Status::new(504, "Timeout", message)
        }
    }

    /// The object on the wire.
    pub fn to_value(&self) -> Value {
        let mut v = json!({
            "kind": "Status", "apiVersion": "v1", "metadata": {},
            "status": "Failure", "message": self.message, "code": self.code,
        });
        if !self.reason.is_empty() {
            v["reason"] = json!(self.reason);
        }
        if let Some(d) = &self.details {
            let mut details = serde_json::Map::new();
            for (k, text) in [("name", &d.name), ("group", &d.group), ("kind", &d.kind), ("uid", &d.uid)] {
                if !text.is_empty() {
                    details.insert(k.into(), json!(text));
                }
            }
            if !d.causes.is_empty() {
                let causes: Vec<Value> = d
                    .causes
                    .iter()
                    .map(|c| {
                        let mut m = serde_json::Map::new();
                        for (k, text) in [("reason", &c.reason), ("message", &c.message), ("field", &c.field)] {
                            if !text.is_empty() {
                                m.insert(k.into(), json!(text));
                            }
                        }
                        Value::Object(m)
                    })
                    .collect();
                details.insert("causes".into(), Value::Array(causes));
            }
            if d.retry_after_seconds > 0 {
                details.insert("retryAfterSeconds".into(), json!(d.retry_after_seconds));
            }
            v["details"] = Value::Object(details);
        }
        v
    }
}

impl std::fmt::Display for Status {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Status {}
