//! `TokenRequest`, the body of the subresource `token`.

use crate::kind::Kind;
use crate::kinds::{CREATE_ONLY, Facts, facts};

/// The kind `TokenRequest`.
pub struct TokenRequest;

impl Kind for TokenRequest {
    facts!(Facts {
        kind: "TokenRequest",
        plural: "token",
        verbs: CREATE_ONLY,
        ..Facts::namespaced("authentication.k8s.io", "v1")
    });
}
