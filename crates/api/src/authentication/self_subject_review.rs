//! `SelfSubjectReview`.

use crate::kind::Kind;
use crate::kinds::{CREATE_ONLY, Facts, facts};

/// The kind `SelfSubjectReview`.
pub struct SelfSubjectReview;

impl Kind for SelfSubjectReview {
    facts!(Facts {
        kind: "SelfSubjectReview",
        plural: "selfsubjectreviews",
        verbs: CREATE_ONLY,
        ..Facts::cluster("authentication.k8s.io", "v1")
    });
}
