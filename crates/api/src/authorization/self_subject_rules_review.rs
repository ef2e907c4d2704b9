//! `SelfSubjectRulesReview`.

use crate::kind::Kind;
use crate::kinds::{CREATE_ONLY, Facts, facts};

/// The kind `SelfSubjectRulesReview`.
pub struct SelfSubjectRulesReview;

impl Kind for SelfSubjectRulesReview {
    facts!(Facts {
        kind: "SelfSubjectRulesReview",
        plural: "selfsubjectrulesreviews",
        verbs: CREATE_ONLY,
        ..Facts::cluster("authorization.k8s.io", "v1")
    });
}
