//! `SelfSubjectAccessReview`.

use crate::kind::Kind;
use crate::kinds::{CREATE_ONLY, Facts, facts};

/// The kind `SelfSubjectAccessReview`.
pub struct SelfSubjectAccessReview;

impl Kind for SelfSubjectAccessReview {
    facts!(Facts {
        kind: "SelfSubjectAccessReview",
        plural: "selfsubjectaccessreviews",
        verbs: CREATE_ONLY,
        ..Facts::cluster("authorization.k8s.io", "v1")
    });
}
