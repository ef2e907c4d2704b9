//! `LocalSubjectAccessReview`: may somebody do something in this namespace? Never stored.

use serde_json::Value;

use super::review;
use crate::field::ErrorList;
use crate::kind::{Cx, Kind};
use crate::kinds::{CREATE_ONLY, Facts, facts};
use crate::object::View;

/// The kind `LocalSubjectAccessReview`.
pub struct LocalSubjectAccessReview;

impl Kind for LocalSubjectAccessReview {
    facts!(Facts {
        kind: "LocalSubjectAccessReview",
        plural: "localsubjectaccessreviews",
        verbs: CREATE_ONLY,
        ..Facts::namespaced("authorization.k8s.io", "v1")
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
        review::metadata(&mut errs, obj, true);
        let namespace = spec.dig("resourceAttributes.namespace");
        if spec.get("resourceAttributes").is_set()
            && namespace.str() != crate::object::text(obj, &["metadata", "namespace"])
        {
            errs.invalid(namespace.path(), namespace.str(), "must match metadata.namespace");
        }
        let path = spec.get("nonResourceAttributes");
        if path.is_set() {
            errs.invalid(path.path(), review::shown(&path), "disallowed on this kind of request");
        }
        errs
    }
}
