//! What a runtime answers when it cannot.

/// The gRPC code.
pub use tonic::Code;

/// Result of a call to the runtime.
pub type Result<T> = std::result::Result<T, Error>;

/// A failed call. Printed as Go's gRPC prints it, because the text ends in events that people and tools read:
/// `rpc error: code = NotFound desc = …`.
#[derive(Debug, Clone, thiserror::Error)]
#[error("rpc error: code = {} desc = {message}", code_name(*.code))]
pub struct Error {
    /// The gRPC code.
    pub code: Code,
    /// The runtime's words.
    pub message: String,
}

impl Error {
    /// An error with a code and a text.
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        Self { code, message: message.into() }
    }

    /// The thing asked about is not there.
    pub fn is_not_found(&self) -> bool {
        self.code == Code::NotFound || (self.code == Code::Unknown && self.message.contains("not found"))
    }

    /// The runtime does not know this call.
    pub fn is_unimplemented(&self) -> bool {
        self.code == Code::Unimplemented
    }

    /// The call took longer than it may.
    pub fn is_timeout(&self) -> bool {
        self.code == Code::DeadlineExceeded
    }

    /// Nobody answers at the socket.
    pub fn is_unavailable(&self) -> bool {
        self.code == Code::Unavailable
    }
}

impl From<tonic::Status> for Error {
    fn from(status: tonic::Status) -> Self {
        Self { code: status.code(), message: status.message().to_owned() }
    }
}

/// The name Go gives a gRPC code.
fn code_name(code: Code) -> &'static str {
    match code {
        Code::Ok => "OK",
        Code::Cancelled => "Canceled",
        Code::Unknown => "Unknown",
        Code::InvalidArgument => "InvalidArgument",
        Code::DeadlineExceeded => "DeadlineExceeded",
        Code::NotFound => "NotFound",
        Code::AlreadyExists => "AlreadyExists",
        Code::PermissionDenied => "PermissionDenied",
        Code::ResourceExhausted => "ResourceExhausted",
        Code::FailedPrecondition => "FailedPrecondition",
        Code::Aborted => "Aborted",
        Code::OutOfRange => "OutOfRange",
        Code::Unimplemented => "Unimplemented",
        Code::Internal => "Internal",
        Code::Unavailable => "Unavailable",
        Code::DataLoss => "DataLoss",
        Code::Unauthenticated => "Unauthenticated",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prints_as_go_does() {
        let e = Error::new(Code::NotFound, "no such image");
        assert_eq!(e.to_string(), "rpc error: code = NotFound desc = no such image");
    }
}
