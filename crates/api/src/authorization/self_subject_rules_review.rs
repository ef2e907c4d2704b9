//! `SelfSubjectRulesReview`: what may I do in this namespace? Never stored.

use serde_json::{Value, json};

use crate::kind::Kind;
use crate::kinds::{CREATE_ONLY, Facts, facts};
use crate::object::default_value;

/// The kind `SelfSubjectRulesReview`.
pub struct SelfSubjectRulesReview;

impl Kind for SelfSubjectRulesReview {
    facts!(Facts {
        kind: "SelfSubjectRulesReview",
        plural: "selfsubjectrulesreviews",
        verbs: CREATE_ONLY,
        ..Facts::cluster("authorization.k8s.io", "v1")
    });

    fn default(&self, obj: &mut Value) {
        default_value(obj, "metadata", json!({}));
    }
}
