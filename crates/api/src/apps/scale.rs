//! `Scale`, the body of the subresource `scale`.

use crate::kind::Kind;
use crate::kinds::{CREATE_ONLY, Facts, facts};

/// The kind `Scale`.
pub struct Scale;

impl Kind for Scale {
    facts!(Facts { kind: "Scale", plural: "scale", verbs: CREATE_ONLY, ..Facts::namespaced("autoscaling", "v1") });
}
