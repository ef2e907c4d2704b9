//! `SubjectAccessReview`.

use crate::kind::Kind;
use crate::kinds::{CREATE_ONLY, Facts, facts};

/// The kind `SubjectAccessReview`.
pub struct SubjectAccessReview;

impl Kind for SubjectAccessReview {
    facts!(Facts {
        kind: "SubjectAccessReview",
        plural: "subjectaccessreviews",
        verbs: CREATE_ONLY,
        ..Facts::cluster("authorization.k8s.io", "v1")
    });
}
