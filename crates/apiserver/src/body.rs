//! Reading request bodies, within limits.

use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt;
use orkd_api::status::Status;

use crate::Body;

/// The largest body taken (`MaxRequestBodyBytes` of `k8s.io/apiserver`).
pub const MAX_BODY: usize = 3 * 1024 * 1024;

/// Reads a body to its end.
pub async fn read(body: Body) -> Result<Bytes, Status> {
    let too_large = || Status::too_large(format!("Request entity too large: limit is {MAX_BODY}"));
    if http_body::Body::size_hint(&body).lower() > MAX_BODY as u64 {
        return Err(too_large());
    }
    let mut body = body;
    let mut first: Option<Bytes> = None;
    let mut all = BytesMut::new();
    while let Some(frame) = body.frame().await {
        let frame =
            frame.map_err(|e| Status::new(400, "BadRequest", format!("failed to read the request body: {e}")))?;
        let Ok(data) = frame.into_data() else { continue };
        if all.len() + first.as_ref().map_or(0, Bytes::len) + data.len() > MAX_BODY {
            return Err(too_large());
        }
        match (&first, all.is_empty()) {
            (None, true) => first = Some(data),
            _ => {
                if let Some(first) = first.take() {
                    all.extend_from_slice(&first);
                }
                all.extend_from_slice(&data);
            }
        }
    }
    Ok(first.unwrap_or_else(|| all.freeze()))
}
