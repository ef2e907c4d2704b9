//! `LocalSubjectAccessReview`.

use crate::kind::Kind;
use crate::kinds::{CREATE_ONLY, Facts, facts};

/// The kind `LocalSubjectAccessReview`.
pub struct LocalSubjectAccessReview;

impl Kind for LocalSubjectAccessReview {
    facts!(Facts {
        kind: "LocalSubjectAccessReview",
        plural: "localsubjectaccessreviews",
        verbs: CREATE_ONLY,
        ..Facts::namespaced("authorization.k8s.io", "v1")
    });
}
