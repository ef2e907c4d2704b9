//! The way of requests to an API server: over the network, or straight into the server of this process.
//!
//! A [`kube::Client`] hands each request to a task of its own, which calls the service and hands the answer back; that is
//! what lets it be cloned whatever the service is. A server in this process is a function that anyone may call: what goes
//! straight to it costs no change of tasks and no body in a box for the way there.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::BodyExt;
use http_body_util::combinators::UnsyncBoxBody;
use orkd_base::BoxError;

/// The body of an answer.
pub struct Body(UnsyncBoxBody<Bytes, BoxError>);

impl Body {
    fn new<B>(body: B) -> Body
    where
        B: http_body::Body<Data = Bytes> + Send + 'static,
        B::Error: Into<BoxError>,
    {
        Body(body.map_err(Into::into).boxed_unsync())
    }
}

impl http_body::Body for Body {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<http_body::Frame<Bytes>, BoxError>>> {
        Pin::new(&mut self.0).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.0.is_end_stream()
    }

    fn size_hint(&self) -> http_body::SizeHint {
        self.0.size_hint()
    }
}

/// What comes of a request.
type Answer = Pin<Box<dyn Future<Output = Result<Response<Body>, BoxError>> + Send>>;

/// How requests get to an API server, with an identity. Cheap to clone.
#[derive(Clone)]
pub struct Client(Way);

#[derive(Clone)]
enum Way {
    Network(kube::Client),
    Straight(Arc<dyn Fn(Request<Bytes>) -> Answer + Send + Sync>),
}

impl From<kube::Client> for Client {
    fn from(client: kube::Client) -> Self {
        Client(Way::Network(client))
    }
}

impl Client {
    /// Requests that a function answers: a server of this process.
    pub fn straight<F, Fut, B, E>(serve: F) -> Client
    where
        F: Fn(Request<Bytes>) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<Response<B>, E>> + Send + 'static,
        B: http_body::Body<Data = Bytes> + Send + 'static,
        B::Error: Into<BoxError>,
        E: Into<BoxError>,
    {
        Client(Way::Straight(Arc::new(move |request| {
            let answer = serve(request);
            Box::pin(async move {
                let answer = answer.await.map_err(Into::into)?;
                Ok(answer.map(Body::new))
            })
        })))
    }

    /// Sends a request.
    pub(crate) fn send(&self, request: Request<Bytes>) -> Answer {
        match &self.0 {
            Way::Network(client) => {
                let client = client.clone();
                Box::pin(async move {
                    let answer = client.send(request.map(kube::client::Body::from)).await?;
                    Ok(answer.map(Body::new))
                })
            }
            Way::Straight(serve) => serve(request),
        }
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::Full;

    use super::*;
    use crate::{Api, ApiError, Target};

    #[tokio::test]
    async fn a_request_goes_straight_to_a_function() {
        let client = Client::straight(|request: Request<Bytes>| async move {
            if request.uri().path() == "/broken" {
                return Err(std::io::Error::other("away"));
            }
            let text = format!("\"{} {} {:?}\"", request.method(), request.uri(), request.body().len());
            Ok(Response::new(Full::new(Bytes::from(text))))
        });
        let api = Api::new(client, "test");
        assert_eq!(api.get::<String>(&Target::path("/a?b=c")).await.expect("an answer"), "GET /a?b=c 0");
        assert_eq!(api.create::<String>(&Target::path("/a"), &[1]).await.expect("an answer"), "POST /a 3");
        let failed = api.get::<String>(&Target::path("/broken")).await;
        assert!(matches!(failed, Err(ApiError::Transport { .. })), "{failed:?}");
    }
}
