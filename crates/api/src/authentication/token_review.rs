//! `TokenReview`: who holds this token? Never stored; answered by the API server's authenticators.

use serde_json::{Value, json};

use crate::kind::Kind;
use crate::kinds::{CREATE_ONLY, Facts, facts};
use crate::object::default_value;

/// The kind `TokenReview`.
pub struct TokenReview;

impl Kind for TokenReview {
    facts!(Facts {
        kind: "TokenReview",
        plural: "tokenreviews",
        verbs: CREATE_ONLY,
        ..Facts::cluster("authentication.k8s.io", "v1")
    });

    fn default(&self, obj: &mut Value) {
        default_value(obj, "metadata", json!({}));
    }
}
