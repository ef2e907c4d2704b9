//! Patches.
pub mod apply;
pub mod json;
pub mod merge;
pub mod strategic;

mod go;
#[cfg(test)]
mod testing;

use crate::status::Status;
use serde_json::Value;

/// The error of code that upstream lets fail with a plain Go error: a 500 without a reason.
fn plain_error(message: impl Into<String>) -> Status {
    Status::new(500, "", message)
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
