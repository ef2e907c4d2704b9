//! Upgraded connections: the client's on one side, the runtime's streaming server on the other.

use bytes::Bytes;
use http::header::{self, HeaderMap, HeaderName};
use http::{HeaderValue, Method, Request, Response, StatusCode, Uri};
use http_body_util::{BodyExt, Empty};
use hyper::body::Incoming;
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use orkd_streaming::pass;
use orkd_streaming::remote::{self, Streams};
use tokio::net::TcpStream;
use tokio_util::sync::CancellationToken;

use super::{Body, text};

/// Versions of the remote command protocol that a SPDY client may speak, and that of port-forward.
const PROTOCOL_VERSION: HeaderName = HeaderName::from_static("x-stream-protocol-version");

/// A session of exec or attach.
pub async fn command(
    request: Request<Incoming>,
    url: &str,
    streams: Streams,
    stop: CancellationToken,
) -> Response<Body> {
    if is_spdy(request.headers()) {
        return pass(request, url, stop).await;
    }
    if !is_websocket(request.headers()) {
        return text(StatusCode::BAD_REQUEST, "Upgrade request required");
    }
    let offered = offered(request.headers());
    let offered: Vec<&str> = offered.iter().map(String::as_str).collect();
    let Some(protocol) = remote::choose(&offered) else {
        return text(StatusCode::FORBIDDEN, format!("none of the subprotocols {offered:?} is known"));
    };
    let runtime = match dial(url, &[HeaderValue::from_static("v4.channel.k8s.io")]).await {
        Ok((_, runtime)) => runtime,
        Err(why) => return text(StatusCode::INTERNAL_SERVER_ERROR, why),
    };
    accept_websocket(request, (!offered.is_empty()).then_some(protocol.name), move |client| async move {
        tokio::select! {
            () = stop.cancelled() => {}
            ended = remote::translate(client, runtime, protocol, streams) => log_end(ended),
        }
    })
}

/// A session of port-forward.
pub async fn port_forward(request: Request<Incoming>, url: &str, stop: CancellationToken) -> Response<Body> {
    if is_spdy(request.headers()) {
        return pass(request, url, stop).await;
    }
    if !is_websocket(request.headers()) {
        return text(StatusCode::BAD_REQUEST, "Upgrade request required");
    }
    if !offered(request.headers()).iter().any(|o| o == remote::TUNNEL) {
        return text(StatusCode::FORBIDDEN, format!("the subprotocol must be {}", remote::TUNNEL));
    }
    let runtime = match dial(url, &[HeaderValue::from_static("portforward.k8s.io")]).await {
        Ok((_, runtime)) => runtime,
        Err(why) => return text(StatusCode::INTERNAL_SERVER_ERROR, why),
    };
    accept_websocket(request, Some(remote::TUNNEL), move |client| async move {
        tokio::select! {
            () = stop.cancelled() => {}
            ended = remote::tunnel(client, runtime) => log_end(ended),
        }
    })
}

fn log_end(ended: std::io::Result<()>) {
    if let Err(error) = ended {
        tracing::debug!(%error, "streaming session ended");
    }
}

fn has(headers: &HeaderMap, name: HeaderName, wanted: &str) -> bool {
    headers
        .get_all(name)
        .iter()
        .filter_map(|v| v.to_str().ok())
        .flat_map(|v| v.split(','))
        .any(|v| v.trim().eq_ignore_ascii_case(wanted))
}

fn is_spdy(headers: &HeaderMap) -> bool {
    has(headers, header::CONNECTION, "upgrade") && has(headers, header::UPGRADE, "SPDY/3.1")
}

fn is_websocket(headers: &HeaderMap) -> bool {
    has(headers, header::CONNECTION, "upgrade") && has(headers, header::UPGRADE, "websocket")
}

/// The subprotocols a client offers, in its order.
fn offered(headers: &HeaderMap) -> Vec<String> {
    headers
        .get_all(header::SEC_WEBSOCKET_PROTOCOL)
        .iter()
        .filter_map(|v| v.to_str().ok())
        .flat_map(|v| v.split(','))
        .map(|v| v.trim().to_owned())
        .filter(|v| !v.is_empty())
        .collect()
}

/// Connects a SPDY client with the runtime, byte for byte.
async fn pass(mut request: Request<Incoming>, url: &str, stop: CancellationToken) -> Response<Body> {
    let versions: Vec<HeaderValue> = request.headers().get_all(PROTOCOL_VERSION).iter().cloned().collect();
    let (head, runtime) = match dial(url, &versions).await {
        Ok(connected) => connected,
        Err(why) => return text(StatusCode::INTERNAL_SERVER_ERROR, why),
    };
    let client = hyper::upgrade::on(&mut request);
    tokio::spawn(async move {
        let Ok(client) = client.await else { return };
        tokio::select! {
            () = stop.cancelled() => {}
            ended = pass::join(TokioIo::new(client), runtime) => log_end(ended),
        }
    });
    let mut response = switching();
    response.headers_mut().insert(header::UPGRADE, HeaderValue::from_static("SPDY/3.1"));
    for version in head.get_all(PROTOCOL_VERSION) {
        response.headers_mut().append(PROTOCOL_VERSION, version.clone());
    }
    response
}

fn switching() -> Response<Body> {
    let mut response = Response::new(Empty::new().boxed());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
    response
}

fn accept_websocket<F, Fut>(
    mut request: Request<Incoming>,
    protocol: Option<&'static str>,
    session: F,
) -> Response<Body>
where
    F: FnOnce(TokioIo<Upgraded>) -> Fut + Send + 'static,
    Fut: Future<Output = ()> + Send,
{
    let key = request.headers().get(header::SEC_WEBSOCKET_KEY).cloned();
    let Some(key) = key.filter(|_| request.method() == Method::GET) else {
        return text(StatusCode::BAD_REQUEST, "not a WebSocket handshake");
    };
    let accept = tokio_tungstenite::tungstenite::handshake::derive_accept_key(key.as_bytes());
    let client = hyper::upgrade::on(&mut request);
    tokio::spawn(async move {
        if let Ok(client) = client.await {
            session(TokioIo::new(client)).await;
        }
    });
    let mut response = switching();
    let headers = response.headers_mut();
    headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
    if let Ok(accept) = HeaderValue::from_str(&accept) {
        headers.insert(header::SEC_WEBSOCKET_ACCEPT, accept);
    }
    if let Some(protocol) = protocol {
        headers.insert(header::SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(protocol));
    }
    response
}

/// Upgrades a connection to the runtime's streaming server to SPDY.
async fn dial(url: &str, versions: &[HeaderValue]) -> Result<(HeaderMap, TokioIo<Upgraded>), String> {
    let what = |why: &dyn std::fmt::Display| format!("error dialing backend: {why}");
    let uri: Uri = url.parse().map_err(|e| what(&e))?;
    let (Some(host), Some(port)) = (uri.host(), uri.port_u16()) else {
        return Err(what(&"the runtime's URL has no port"));
    };
    let stream = TcpStream::connect((host.trim_matches(['[', ']']), port)).await.map_err(|e| what(&e))?;
    let _ = stream.set_nodelay(true);
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(|e| what(&e))?;
    tokio::spawn(async move {
        // Its end is seen by whoever holds the upgraded half.
        let _ = connection.with_upgrades().await;
    });
    let path = uri.path_and_query().map_or("/", |p| p.as_str());
    let mut request = Request::post(path)
        .header(header::HOST, format!("{host}:{port}"))
        .header(header::CONNECTION, "Upgrade")
        .header(header::UPGRADE, "SPDY/3.1")
        .body(Empty::<Bytes>::new())
        .map_err(|e| what(&e))?;
    for version in versions {
        request.headers_mut().append(PROTOCOL_VERSION, version.clone());
    }
    let response = sender.send_request(request).await.map_err(|e| what(&e))?;
    if response.status() != StatusCode::SWITCHING_PROTOCOLS {
        let status = response.status();
        let body = http_body_util::Limited::new(response.into_body(), 4096).collect().await;
        let body = body.map(|b| String::from_utf8_lossy(&b.to_bytes()).into_owned()).unwrap_or_default();
        return Err(what(&format!("the runtime answers {status}: {}", body.trim())));
    }
    let head = response.headers().clone();
    let upgraded = hyper::upgrade::on(response).await.map_err(|e| what(&e))?;
    Ok((head, TokioIo::new(upgraded)))
}
