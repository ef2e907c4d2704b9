//! The API group `authentication.k8s.io`.

use crate::kind::Kind;

pub mod self_subject_review;
pub mod token_request;
pub mod token_review;

/// The kinds of the group.
pub fn all() -> Vec<Box<dyn Kind>> {
    vec![Box::new(token_review::TokenReview), Box::new(self_subject_review::SelfSubjectReview)]
}
