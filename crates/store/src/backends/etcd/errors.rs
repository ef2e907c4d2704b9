//! What etcd's errors mean to a caller of the store.

use std::error::Error as _;

use crate::Error;

/// The numbers of gRPC's status codes that are looked at; the client does not re-export its type of them.
mod code {
    pub const INVALID_ARGUMENT: i32 = 3;
    pub const RESOURCE_EXHAUSTED: i32 = 8;
    pub const UNAVAILABLE: i32 = 14;
}

/// The error of a request.
pub(super) fn unavailable(error: etcd_client::Error) -> Error {
    match error {
        etcd_client::Error::GRpcStatus(status) => {
            let text = status.message().to_string();
            match status.code() as i32 {
                code::INVALID_ARGUMENT if text.contains("request is too large") => Error::TooLarge(text),
                code::RESOURCE_EXHAUSTED if text.contains("larger than max") => Error::TooLarge(text),
                _ => Error::Unavailable(with_cause(&text, status.source())),
            }
        }
        other => Error::Unavailable(with_cause(&other.to_string(), other.source())),
    }
}

/// The text and the innermost reason of it, which is what says "connection refused".
fn with_cause(text: &str, source: Option<&(dyn std::error::Error + 'static)>) -> String {
    let mut innermost = source;
    while let Some(next) = innermost.and_then(|error| error.source()) {
        innermost = Some(next);
    }
    match innermost.map(ToString::to_string) {
        Some(cause) if !text.contains(&cause) => format!("etcd: {text}: {cause}"),
        _ => format!("etcd: {text}"),
    }
}

/// Whether another try of a read may succeed: an endpoint is gone, or the member has lost its leader.
pub(super) fn is_transient(error: &etcd_client::Error) -> bool {
    match error {
        etcd_client::Error::GRpcStatus(status) => status.code() as i32 == code::UNAVAILABLE,
        etcd_client::Error::TransportError(_) => true,
        _ => false,
    }
}

/// Whether the request certainly did not reach a member: nobody listened.
pub(super) fn was_not_sent(error: &etcd_client::Error) -> bool {
    let etcd_client::Error::GRpcStatus(status) = error else { return false };
    let mut next = status.source();
    while let Some(error) = next {
        if let Some(io) = error.downcast_ref::<std::io::Error>() {
            use std::io::ErrorKind::{ConnectionRefused, HostUnreachable, NetworkUnreachable};
            return matches!(io.kind(), ConnectionRefused | HostUnreachable | NetworkUnreachable);
        }
        next = error.source();
    }
    false
}

/// Whether etcd says that the revision is compacted.
pub(super) fn is_compacted(text: &str) -> bool {
    text.contains("required revision has been compacted")
}

/// Whether etcd says that the revision is not there yet.
pub(super) fn is_future(text: &str) -> bool {
    text.contains("required revision is a future revision")
}
