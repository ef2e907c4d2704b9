//! WebSocket sessions of exec, attach, port-forward and log, translated for the node
//! (`k8s.io/apimachinery/pkg/util/{httpstream/wsstream,portforward}`, `k8s.io/apiserver/pkg/util/proxy`).
//!
//! Towards the kubelet there is SPDY only: containerd 1.6 knows no WebSocket protocol in which the end of stdin can be
//! told, and with SPDY it can. So a client's channels become SPDY streams here; the tunnelled port-forward of current
//! kubectl is SPDY already and is taken out of its WebSocket messages.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use futures_util::{SinkExt, StreamExt};
use http::header::{self, HeaderMap, HeaderValue};
use http::{Request, Response, StatusCode};
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;
use orkd_api::status::Status;
use orkd_streaming::remote::{self, Streams, TUNNEL};
use tokio_tungstenite::tungstenite::Message;

use super::dial::{Address, Dialer};
use crate::Body;

/// The protocols of logs.
const READERS: [(&str, bool); 3] = [("binary.k8s.io", false), ("base64.binary.k8s.io", true), ("", false)];

/// The subprotocols that a client offers.
fn offered(headers: &HeaderMap) -> Vec<&str> {
    let values = headers.get_all(header::SEC_WEBSOCKET_PROTOCOL).iter().filter_map(|v| v.to_str().ok());
    let all = values.flat_map(|v| v.split(',')).map(str::trim);
    all.filter(|p| !p.is_empty() && !p.starts_with(crate::authn::bearer::WEBSOCKET_TOKEN)).collect()
}

/// The first of ours that the client offers, too; the nameless one where it offers none.
fn choose<T: Copy>(headers: &HeaderMap, ours: &[(&'static str, T)]) -> Option<(&'static str, T)> {
    let offered = offered(headers);
    ours.iter().find(|(name, _)| if offered.is_empty() { name.is_empty() } else { offered.contains(name) }).copied()
}

fn none_supported(headers: &HeaderMap) -> Status {
    Status::bad_request(format!("unable to negotiate websocket subprotocol, client supports {:?}", offered(headers)))
}

/// A session that has been asked for and not yet answered.
struct Handshake {
    upgrade: OnUpgrade,
    answer: Response<Body>,
}

impl Handshake {
    fn new(mut request: Request<Body>, protocol: &str) -> Result<Self, Status> {
        let upgrade = hyper::upgrade::on(&mut request);
        Handshake::of(upgrade, request.headers(), protocol)
    }

    fn of(upgrade: OnUpgrade, headers: &HeaderMap, protocol: &str) -> Result<Self, Status> {
        let key = headers.get(header::SEC_WEBSOCKET_KEY);
        let key = key.ok_or_else(|| Status::bad_request("the header Sec-WebSocket-Key is missing"))?;
        let mut answer = Response::new(Body::empty());
        *answer.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
        let headers = answer.headers_mut();
        headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
        headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
        let bad = |_| Status::bad_request("the WebSocket handshake cannot be answered");
        headers.insert(header::SEC_WEBSOCKET_ACCEPT, HeaderValue::from_str(&accept(key.as_bytes())).map_err(bad)?);
        if !protocol.is_empty() {
            headers.insert(header::SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_str(protocol).map_err(bad)?);
        }
        Ok(Handshake { upgrade, answer })
    }

    /// Answers, and runs the session once the connection has switched.
    fn run<F, S>(self, session: S) -> Response<Body>
    where
        S: FnOnce(Client) -> F + Send + 'static,
        F: Future<Output = ()> + Send,
    {
        let upgrade = self.upgrade;
        let hold = crate::audit::hold();
        tokio::spawn(async move {
            let _hold = hold;
            match upgrade.await {
                Ok(io) => session(TokioIo::new(io)).await,
                Err(error) => tracing::debug!(%error, "a WebSocket session did not begin"),
            }
        });
        self.answer
    }
}

type Client = TokioIo<Upgraded>;

/// RFC 6455, 4.2.2: proof that the handshake was understood.
fn accept(key: &[u8]) -> String {
    let mut text = key.to_vec();
    text.extend_from_slice(b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11");
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA1_FOR_LEGACY_USE_ONLY, &text);
    STANDARD.encode(digest)
}

/// Asks the kubelet for a SPDY connection. `Err(Ok(..))` is its own answer where it does not switch.
async fn connect(
    dialer: &Dialer,
    address: &Address,
    target: &str,
    protocol: &'static str,
) -> Result<Upgraded, Result<Response<Body>, Status>> {
    let request = Request::post(target)
        .header(header::HOST, address.authority())
        .header(header::CONNECTION, "Upgrade")
        .header(header::UPGRADE, "SPDY/3.1")
        .header("x-stream-protocol-version", protocol)
        .header(header::CONTENT_LENGTH, "0")
        .body(Body::empty())
        .map_err(|_| Err(Status::bad_request("the request cannot be passed on")))?;
    let mut sender = dialer.connect(address).await.map_err(Err)?;
    let failed = |e: hyper::Error| Err(Status::internal(format!("error sending request: {e}")));
    let mut response = sender.send_request(request).await.map_err(failed)?;
    if response.status() != StatusCode::SWITCHING_PROTOCOLS {
        let (parts, body) = response.into_parts();
        return Err(Ok(Response::from_parts(parts, Body::new(body))));
    }
    hyper::upgrade::on(&mut response).await.map_err(failed)
}

/// Serves exec and attach.
pub(super) async fn command(
    dialer: &Dialer,
    address: &Address,
    target: &str,
    streams: Streams,
    request: Request<Body>,
) -> Result<Response<Body>, Status> {
    let offered = offered(request.headers());
    let protocol = remote::choose(&offered).ok_or_else(|| none_supported(request.headers()))?;
    // Where none is offered none may be named.
    let name = if offered.is_empty() { "" } else { protocol.name };
    let handshake = Handshake::new(request, name)?;
    let backend = match connect(dialer, address, target, "v4.channel.k8s.io").await {
        Ok(backend) => backend,
        Err(answer) => return answer,
    };
    Ok(handshake.run(move |client| async move {
        if let Err(error) = remote::translate(client, TokioIo::new(backend), protocol, streams).await {
            tracing::debug!(%error, "a remote command's session ended");
        }
    }))
}

/// Serves port-forward where the client speaks SPDY in messages. `None` gives the request back: another protocol.
pub(super) fn is_tunnel(headers: &HeaderMap) -> bool {
    offered(headers).contains(&TUNNEL)
}

/// Serves that.
pub(super) async fn tunnel(
    dialer: &Dialer,
    address: &Address,
    target: &str,
    request: Request<Body>,
) -> Result<Response<Body>, Status> {
    let handshake = Handshake::new(request, TUNNEL)?;
    let backend = match connect(dialer, address, target, "portforward.k8s.io").await {
        Ok(backend) => backend,
        Err(answer) => return answer,
    };
    Ok(handshake.run(move |client| async move {
        if let Err(error) = remote::tunnel(client, TokioIo::new(backend)).await {
            tracing::debug!(%error, "a forwarded port's session ended");
        }
    }))
}

/// Sends a log as messages.
pub(super) fn log(request: Request<Body>, body: Body) -> Result<Response<Body>, Status> {
    let (protocol, base64) = choose(request.headers(), &READERS).ok_or_else(|| none_supported(request.headers()))?;
    let handshake = Handshake::new(request, protocol)?;
    Ok(handshake.run(move |client| async move {
        let (mut to_client, mut from_client) = remote::websocket(client).await.split();
        let send = async {
            let mut chunks = body.into_data_stream();
            while let Some(Ok(chunk)) = chunks.next().await {
                let message = if base64 { Message::text(STANDARD.encode(&chunk)) } else { Message::Binary(chunk) };
                if to_client.send(message).await.is_err() {
                    return;
                }
            }
            remote::end(&mut to_client).await;
        };
        let gone = async { while let Some(Ok(_)) = from_client.next().await {} };
        tokio::select! {
            () = send => {}
            () = gone => {}
        }
    }))
}

/// Whether a request asks for a WebSocket.
pub(crate) fn is_asked_for(headers: &HeaderMap) -> bool {
    let has = |name: header::HeaderName, word: &str| {
        let values = headers.get_all(name).iter().filter_map(|v| v.to_str().ok());
        values.flat_map(|v| v.split(',')).any(|v| v.trim().eq_ignore_ascii_case(word))
    };
    has(header::CONNECTION, "upgrade") && has(header::UPGRADE, "websocket")
}

/// Sends the events of a watch, each as a message (`handlers.WatchServer.HandleWS`).
pub(crate) fn messages(
    parts: &http::request::Parts,
    media_type: &'static str,
    text: bool,
    events: impl futures_util::Stream<Item = Bytes> + Send + 'static,
) -> Result<Response<Body>, Status> {
    let upgrade = parts.extensions.get::<OnUpgrade>().cloned();
    let upgrade = upgrade.ok_or_else(|| Status::bad_request("this connection cannot switch to WebSocket"))?;
    // Upstream names the protocol back where one alone is offered, and has none of its own.
    let protocol = match offered(&parts.headers).as_slice() {
        [one] => *one,
        _ => "",
    };
    let mut handshake = Handshake::of(upgrade, &parts.headers, protocol)?;
    handshake.answer.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(media_type));
    Ok(handshake.run(move |client| async move {
        let (mut to_client, mut from_client) = remote::websocket(client).await.split();
        let send = async {
            let mut events = std::pin::pin!(events);
            while let Some(event) = events.next().await {
                let message = match std::str::from_utf8(&event) {
                    Ok(line) if text => Message::text(line),
                    _ => Message::Binary(event),
                };
                if to_client.send(message).await.is_err() {
                    return;
                }
            }
            remote::end(&mut to_client).await;
        };
        let gone = async { while let Some(Ok(_)) = from_client.next().await {} };
        tokio::select! {
            () = send => {}
            () = gone => {}
        }
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_handshake_is_answered_as_the_rfc_says() {
        assert_eq!(accept(b"dGhlIHNhbXBsZSBub25jZQ=="), "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
    }

    #[test]
    fn the_best_common_protocol_is_chosen() {
        let check = |offer: &'static str, expected: Option<&str>| {
            let mut headers = HeaderMap::new();
            if !offer.is_empty() {
                headers.insert(header::SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(offer));
            }
            assert_eq!(remote::choose(&offered(&headers)).map(|p| p.name), expected, "{offer}");
        };
        check("v4.channel.k8s.io, v5.channel.k8s.io", Some("v5.channel.k8s.io"));
        check("channel.k8s.io, base64url.bearer.authorization.k8s.io.abc", Some("channel.k8s.io"));
        check("base64url.bearer.authorization.k8s.io.abc", Some("channel.k8s.io"));
        check("", Some("channel.k8s.io"));
        check("v9.channel.k8s.io", None);
    }
}
