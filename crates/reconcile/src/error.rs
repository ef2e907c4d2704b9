//! What a request to the API can fail with.

use std::time::Duration;

use orkd_base::BoxError;
use serde::Deserialize;

/// A request that failed.
#[derive(Debug, thiserror::Error)]
pub enum ApiError {
    /// The server answered with a `Status`.
    #[error("{op}: {}", .status.message)]
    Status {
        /// Method and path.
        op: String,
        /// The answer.
        status: Box<Status>,
    },
    /// The server could not be asked.
    #[error("{op}: request failed")]
    Transport {
        /// Method and path.
        op: String,
        /// Why.
        #[source]
        source: BoxError,
    },
    /// The answer was not what was expected.
    #[error("{op}: cannot decode the answer")]
    Decode {
        /// Method and path.
        op: String,
        /// Why.
        #[source]
        source: BoxError,
    },
}

/// The `Status` of a failed request.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Status {
    /// HTTP status code.
    pub code: u16,
    /// Machine-readable reason.
    pub reason: String,
    /// Text for people.
    pub message: String,
    /// Details.
    pub details: Option<StatusDetails>,
}

/// Details of a [`Status`].
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct StatusDetails {
    /// When to try again.
    pub retry_after_seconds: u32,
    /// Causes.
    #[serde(deserialize_with = "crate::null_default")]
    pub causes: Vec<StatusCause>,
}

/// One cause of a [`Status`].
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct StatusCause {
    /// Machine-readable reason, such as `NamespaceTerminating`.
    pub reason: String,
    /// Text.
    pub message: String,
    /// Field path.
    pub field: String,
}

impl ApiError {
    /// The server's answer, if it gave one.
    pub fn status(&self) -> Option<&Status> {
        match self {
            ApiError::Status { status, .. } => Some(status),
            _ => None,
        }
    }

    /// The HTTP status code; 0 without an answer.
    pub fn code(&self) -> u16 {
        self.status().map_or(0, |s| s.code)
    }

    /// The machine-readable reason; empty without one.
    pub fn reason(&self) -> &str {
        self.status().map_or("", |s| s.reason.as_str())
    }

    /// The server's text, or the error's.
    pub fn message(&self) -> String {
        match self.status() {
            Some(status) => status.message.clone(),
            None => orkd_base::chain(self).to_string(),
        }
    }

    /// 404: it does not exist.
    pub fn is_not_found(&self) -> bool {
        self.code() == 404
    }

    /// 409 `AlreadyExists`.
    pub fn is_already_exists(&self) -> bool {
        self.reason() == "AlreadyExists"
    }

    /// 409 `Conflict`: a race was lost or a precondition did not hold.
    pub fn is_conflict(&self) -> bool {
        self.code() == 409 && !self.is_already_exists()
    }

    /// 410 or the reason `Expired`: the resource version is too old.
    pub fn is_gone(&self) -> bool {
        self.code() == 410 || matches!(self.reason(), "Expired" | "Gone")
    }

    /// 403.
    pub fn is_forbidden(&self) -> bool {
        self.code() == 403
    }

    /// 422: the object is invalid.
    pub fn is_invalid(&self) -> bool {
        self.code() == 422
    }

    /// 429.
    pub fn is_too_many_requests(&self) -> bool {
        self.code() == 429
    }

    /// Whether a cause with this reason was given, such as `NamespaceTerminating`.
    pub fn has_cause(&self, reason: &str) -> bool {
        self.status().and_then(|s| s.details.as_ref()).is_some_and(|d| d.causes.iter().any(|c| c.reason == reason))
    }

    /// What the server asked to wait before another try.
    pub fn retry_after(&self) -> Option<Duration> {
        let seconds = self.status()?.details.as_ref()?.retry_after_seconds;
        (seconds > 0).then(|| Duration::from_secs(seconds.into()))
    }
}
