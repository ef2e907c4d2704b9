//! What a request over HTTP/1.1 still sends when it has been answered.
//!
//! A refusal may not need the body (no such path, not allowed). The next request comes behind it on the same connection,
//! so that it has to be read, or the connection to be closed, which a client that is still writing takes for a failure.
//! As Go's `net/http` does (`response.finishRequest`), a short body is read before the answer is sent; a connection with a
//! long one is closed.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use http::header::EXPECT;
use http::{Request, Version};
use http_body::{Body, Frame, SizeHint};
use http_body_util::BodyExt;
use parking_lot::Mutex;

/// So much is read and forgotten (`maxPostHandlerReadBytes`).
const LIMIT: usize = 256 << 10;
/// So long it is waited for.
const PATIENCE: Duration = Duration::from_secs(10);

/// Where a body goes that is dropped before its end.
pub struct Rest<B>(Arc<Mutex<Option<B>>>);

/// A body that is not lost when it is dropped before its end.
pub struct Lent<B> {
    /// Taken by the drop.
    body: Option<B>,
    rest: Arc<Mutex<Option<B>>>,
}

/// Lends the body of a request out; nothing remains of one that HTTP/2 carries, or that the client will not send unless it
/// is asked to.
pub fn lend<B: Body>(request: Request<B>) -> (Request<Lent<B>>, Option<Rest<B>>) {
    let rest = Arc::new(Mutex::new(None));
    let wanted = request.version() < Version::HTTP_2 && !request.headers().contains_key(EXPECT);
    let request = request.map(|body| Lent { body: Some(body), rest: rest.clone() });
    (request, wanted.then_some(Rest(rest)))
}

impl<B: Body + Unpin> Rest<B> {
    /// Reads what is left, if it is not too much.
    pub async fn read(self) {
        let rest = self.0.lock().take();
        let Some(mut body) = rest.filter(|body| body.size_hint().lower() <= LIMIT as u64) else { return };
        let read = async {
            let mut left = LIMIT;
            while let Some(Ok(frame)) = body.frame().await {
                let len = frame.data_ref().map_or(0, bytes::Buf::remaining);
                if len > left {
                    return;
                }
                left -= len;
            }
        };
        // Who sends nothing more is not waited for; hyper closes the connection.
        let _ = tokio::time::timeout(PATIENCE, read).await;
    }
}

impl<B: Body + Unpin> Body for Lent<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        match &mut self.body {
            Some(body) => Pin::new(body).poll_frame(cx),
            None => Poll::Ready(None),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.body.as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.body.as_ref().map(Body::size_hint).unwrap_or_default()
    }
}

impl<B> Drop for Lent<B> {
    fn drop(&mut self) {
        *self.rest.lock() = self.body.take();
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use http_body_util::{Full, StreamBody};

    use super::*;

    fn request(version: Version, headers: &[(&str, &str)]) -> Request<Full<Bytes>> {
        let mut request = Request::post("/").version(version);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        request.body(Full::new(Bytes::from_static(b"text"))).expect("a request")
    }

    #[tokio::test]
    async fn what_is_read_leaves_nothing_and_what_is_dropped_is_back() {
        let (lent, rest) = lend(request(Version::HTTP_11, &[]));
        let read = lent.into_body().collect().await.expect("a body").to_bytes();
        assert_eq!(read, "text");
        let rest = rest.expect("HTTP/1.1");
        assert!(rest.0.lock().as_ref().is_none_or(Body::is_end_stream));

        let (lent, rest) = lend(request(Version::HTTP_11, &[]));
        drop(lent);
        let rest = rest.expect("HTTP/1.1");
        assert!(rest.0.lock().as_ref().is_some_and(|body| !body.is_end_stream()));
        rest.read().await;

        assert!(lend(request(Version::HTTP_2, &[])).1.is_none());
        assert!(lend(request(Version::HTTP_11, &[("expect", "100-continue")])).1.is_none());
    }

    #[tokio::test]
    async fn no_more_is_read_than_the_limit() {
        let sent = Arc::new(Mutex::new(0));
        let count = sent.clone();
        let chunks = futures_util::stream::repeat_with(move || {
            *count.lock() += 1;
            Ok::<_, std::convert::Infallible>(Frame::data(Bytes::from(vec![0; LIMIT / 4])))
        });
        let request = Request::post("/").body(StreamBody::new(chunks)).expect("a request");
        let (lent, rest) = lend(request);
        drop(lent);
        rest.expect("HTTP/1.1").read().await;
        assert_eq!(*sent.lock(), 5, "the first beyond the limit is the last");
    }
}
