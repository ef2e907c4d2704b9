//! The API group `authorization.k8s.io`.

use crate::kind::Kind;

pub mod local_subject_access_review;
mod review;
pub mod self_subject_access_review;
pub mod self_subject_rules_review;
pub mod subject_access_review;

/// The kinds of the group.
pub fn all() -> Vec<Box<dyn Kind>> {
    vec![
        Box::new(subject_access_review::SubjectAccessReview),
        Box::new(local_subject_access_review::LocalSubjectAccessReview),
        Box::new(self_subject_access_review::SelfSubjectAccessReview),
        Box::new(self_subject_rules_review::SelfSubjectRulesReview),
    ]
}
