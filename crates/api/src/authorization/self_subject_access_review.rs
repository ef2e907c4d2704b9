//! `SelfSubjectAccessReview`: may I do something? Never stored.

use serde_json::Value;

use super::review;
use crate::field::ErrorList;
use crate::kind::{Cx, Kind};
use crate::kinds::{CREATE_ONLY, Facts, facts};
use crate::object::View;

/// The kind `SelfSubjectAccessReview`.
pub struct SelfSubjectAccessReview;

impl Kind for SelfSubjectAccessReview {
    facts!(Facts {
        kind: "SelfSubjectAccessReview",
        plural: "selfsubjectaccessreviews",
        verbs: CREATE_ONLY,
        ..Facts::cluster("authorization.k8s.io", "v1")
    });

    fn default(&self, obj: &mut Value) {
        review::default(obj);
    }

    fn validate(&self, _cx: &Cx<'_>, obj: &Value) -> ErrorList {
        let mut errs = ErrorList::new();
        let spec = View::root(obj).get("spec");
        review::attributes(&mut errs, &spec);
        review::selectors(&mut errs, &spec);
        review::metadata(&mut errs, obj, false);
        errs
    }
}
