//! What the tests of the kinds share.

use serde_json::Value;

use crate::field::ErrorList;
use crate::kind::{Cx, Features, Kind};

/// Calls `f` with the circumstances of a test.
pub(crate) fn with_cx<T>(subresource: Option<&str>, f: impl FnOnce(&Cx<'_>) -> T) -> T {
    let features = Features::default();
    f(&Cx { now: jiff::Timestamp::UNIX_EPOCH, subresource, user: "test", features: &features })
}

/// The problems as texts.
pub(crate) fn texts(errs: &ErrorList) -> Vec<String> {
    errs.0.iter().map(ToString::to_string).collect()
}

/// What is wrong with a new object, metadata aside.
pub(crate) fn problems(kind: &dyn Kind, obj: &Value) -> Vec<String> {
    with_cx(None, |cx| texts(&kind.validate(cx, obj)))
}

/// What is wrong with a changed object, metadata aside.
pub(crate) fn problems_of_update(kind: &dyn Kind, subresource: Option<&str>, new: &Value, old: &Value) -> Vec<String> {
    with_cx(subresource, |cx| texts(&kind.validate_update(cx, new, old)))
}
