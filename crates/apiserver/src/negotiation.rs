//! Content negotiation.

use bytes::Bytes;
use http::request::Parts;
use orkd_api::status::Status;
use serde_json::Value;

use crate::rest::Call;

/// Decodes the body of a call into the kind of its door.
pub fn decode_body(_call: &Call, _parts: &Parts, bytes: &Bytes) -> Result<Value, Status> {
    serde_json::from_slice(bytes).map_err(|e| Status::new(400, "BadRequest", e.to_string()))
}
