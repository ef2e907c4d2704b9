//! `SubjectAccessReview`: may somebody do something? Never stored.

use serde_json::Value;

use super::review;
use crate::field::ErrorList;
use crate::kind::{Cx, Kind};
use crate::kinds::{CREATE_ONLY, Facts, facts};
use crate::object::View;

/// The kind `SubjectAccessReview`.
pub struct SubjectAccessReview;

impl Kind for SubjectAccessReview {
    facts!(Facts {
        kind: "SubjectAccessReview",
        plural: "subjectaccessreviews",
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
        review::subject(&mut errs, &spec);
        review::selectors(&mut errs, &spec);
        review::metadata(&mut errs, obj, false);
        errs
    }
}
