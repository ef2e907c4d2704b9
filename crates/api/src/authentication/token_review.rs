//! `TokenReview`.

use crate::kind::Kind;
use crate::kinds::{CREATE_ONLY, Facts, facts};

/// The kind `TokenReview`.
pub struct TokenReview;

impl Kind for TokenReview {
    facts!(Facts {
        kind: "TokenReview",
        plural: "tokenreviews",
        verbs: CREATE_ONLY,
        ..Facts::cluster("authentication.k8s.io", "v1")
    });
}
