//! The four patch types of the PATCH verb, and who owns which field of an object.
//!
//! All functions are pure and work on values beside their schema ([`crate::schema::Node`]).
//!
//! # What the server calls
//!
//! With `cx` an [`apply::Cx`] of the request, and objects in the version of the request:
//!
//! - **Create.** Decode and default `new`, then [`apply::update`]`(&cx, None, &mut new)`, then mutating admission.
//! - **Update.** Decode and default `new`, then [`apply::update`]`(&cx, Some(&live), &mut new)`, then mutating
//!   admission, then [`apply::keep_times`]`(&live, &mut new)`.
//! - **Patch.** Clone `live`; [`json::Patch::apply`], [`merge::apply`] or [`strategic::apply`]; bring the result
//!   into normal form and default it; go on as for an update.
//! - **Apply** (`application/apply-patch+yaml`). [`apply::apply`]`(&cx, live, &applied, force)` with the
//!   configuration as the client sent it, before any defaults; bring the result into normal form and default it;
//!   then mutating admission, then [`apply::keep_times`]. No `live` makes it a create.
//!
//! Mutating admission that leaves the managed fields malformed has them put back by [`apply::after_admission`].
//!
//! In the conflict-retry loop all of it is repeated on the newer `live`. [`apply::keep_times`] makes a write that
//! changes nothing equal to `live`, so that nothing is committed; it is called on what would be committed.
//!
//! `scale` is a view of its parent: [`apply::scale::to_scale`] gives the scale its managed fields before the write
//! and [`apply::scale::to_parent`] takes them back after it.
//!
//! Errors are the [`Status`] to be answered.

pub mod apply;
pub mod json;
pub mod merge;
pub mod names;
pub mod strategic;

pub(crate) mod go;
#[cfg(test)]
mod oracle;
#[cfg(test)]
pub(crate) mod testing;

pub use names::{manager_from_user_agent, validate_managed_fields, validate_manager};

use serde_json::Value;

use crate::status::Status;

/// The error of code that upstream lets fail with a plain Go error: a 500 without a reason.
fn plain_error(message: impl Into<String>) -> Status {
    Status::new(500, "", message)
}

/// A patch as upstream's error texts show it: Go's print of the decoded JSON, such as `map[spec:map[replicas:x]]`.
pub fn shown(patch: &Value) -> String {
    go::v(patch)
}

/// About the bytes of a value in compact JSON.
fn json_size(value: &Value) -> usize {
    match value {
        Value::Null | Value::Bool(_) => 4,
        Value::Number(n) => n.to_string().len(),
        Value::String(s) => s.len() + 2,
        Value::Array(list) => list.iter().map(|v| json_size(v) + 1).sum::<usize>() + 2,
        Value::Object(map) => map.iter().map(|(k, v)| k.len() + 4 + json_size(v)).sum::<usize>() + 2,
    }
}
