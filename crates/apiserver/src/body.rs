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
    let mut body = body;
    if http_body::Body::size_hint(&body).lower() > MAX_BODY as u64 {
        pass_over(&mut body).await;
        return Err(too_large());
    }
    let mut first: Option<Bytes> = None;
    let mut all = BytesMut::new();
    while let Some(frame) = body.frame().await {
        let frame =
            frame.map_err(|e| Status::new(400, "BadRequest", format!("failed to read the request body: {e}")))?;
        let Ok(data) = frame.into_data() else { continue };
        if all.len() + first.as_ref().map_or(0, Bytes::len) + data.len() > MAX_BODY {
            drop((first, all));
            pass_over(&mut body).await;
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

/// Reads and forgets what still comes, up to the limit once more: a client that is writing does not read the answer, and
/// would be cut off before it.
async fn pass_over(body: &mut Body) {
    let mut left = MAX_BODY * 2;
    while let Some(Ok(frame)) = body.frame().await {
        let len = frame.data_ref().map_or(0, Bytes::len);
        if len > left {
            return;
        }
        left -= len;
    }
}

/// An answer that keeps `guard` until its body has ended or is given up.
pub fn follow(response: http::Response<Body>, guard: impl Send + Unpin + 'static) -> http::Response<Body> {
    response.map(|body| Body::new(Followed { body, _guard: guard }))
}

struct Followed<G> {
    body: Body,
    _guard: G,
}

impl<G: Unpin> http_body::Body for Followed<G> {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: std::pin::Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Result<http_body::Frame<Bytes>, axum::Error>>> {
        std::pin::Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> http_body::SizeHint {
        self.body.size_hint()
    }
}
