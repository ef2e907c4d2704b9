//! `TokenRequest`, the body of the subresource `token` of service accounts.
//!
//! Upstream: `pkg/apis/authentication/v1/defaults.go`, `pkg/apis/authentication/validation`.

use serde_json::Value;

use crate::field::ErrorList;
use crate::kind::{Cx, Kind};
use crate::kinds::{CREATE_ONLY, Facts, facts};
use crate::object::{View, at, set};

/// The kind `TokenRequest`.
pub struct TokenRequest;

impl Kind for TokenRequest {
    facts!(Facts {
        kind: "TokenRequest",
        plural: "token",
        verbs: CREATE_ONLY,
        ..Facts::namespaced("authentication.k8s.io", "v1")
    });

    fn default(&self, obj: &mut Value) {
        if at(obj, &["spec", "expirationSeconds"]).is_null() {
            set(obj, &["spec", "expirationSeconds"], 3600);
        }
    }

    fn validate(&self, _cx: &Cx<'_>, obj: &Value) -> ErrorList {
        let mut errs = ErrorList::new();
        let duration = View::root(obj).dig("spec.expirationSeconds");
        let seconds = duration.int().unwrap_or_default();
        if seconds < 600 {
            errs.invalid(duration.path(), seconds, "may not specify a duration less than 10 minutes");
        }
        if seconds > 1 << 32 {
            errs.invalid(duration.path(), seconds, "may not specify a duration larger than 2^32 seconds");
        }
        errs
    }
}
