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
    let runtime = match dial_spdy(url, "v4.channel.k8s.io").await {
        Ok(runtime) => runtime,
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
        // Channels of the kind before: the runtime knows them itself (`pkg/kubelet/server/server.go`, `proxyStream`).
        return pass(request, url, stop).await;
    }
    let runtime = match dial_spdy(url, "portforward.k8s.io").await {
        Ok(runtime) => runtime,
        Err(why) => return text(StatusCode::INTERNAL_SERVER_ERROR, why),
    };
    accept_websocket(request, Some(remote::TUNNEL), move |client| async move {
        tokio::select! {
            () = stop.cancelled() => {}
            ended = remote::tunnel(client, runtime) => log_end(ended),
        }
    })
}

/// The ports a WebSocket client names, for channels are made of them; a SPDY client names them as it goes
/// (`k8s.io/cri-streaming/pkg/streaming/portforward`, `NewV4Options`).
pub fn forwarded_ports<B>(request: &Request<B>) -> Result<Vec<i32>, String> {
    let websocket = is_websocket(request.headers());
    if !websocket || offered(request.headers()).iter().any(|o| o == remote::TUNNEL) {
        return Ok(Vec::new());
    }
    let named: Vec<String> = super::pairs(request.uri().query().unwrap_or_default())
        .filter(|(key, _)| key == "port")
        .map(|(_, value)| value)
        .collect();
    if named.is_empty() {
        return Err("query parameter \"port\" is required".into());
    }
    let mut ports = Vec::new();
    for text in named.iter().flat_map(|n| n.split(',')) {
        match text.parse::<u16>() {
            Ok(0) => return Err(format!("port {text:?} must be > 0")),
            Ok(port) => ports.push(i32::from(port)),
            Err(_) if text.is_empty() => return Err("query parameter \"port\" cannot be empty".into()),
            Err(error) => return Err(format!("unable to parse {text:?} as a port: {error}")),
        }
    }
    Ok(ports)
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

/// What of a handshake goes to the runtime as the client said it, and back.
const HANDSHAKE: [HeaderName; 7] = [
    PROTOCOL_VERSION,
    header::UPGRADE,
    header::SEC_WEBSOCKET_KEY,
    header::SEC_WEBSOCKET_VERSION,
    header::SEC_WEBSOCKET_PROTOCOL,
    header::SEC_WEBSOCKET_ACCEPT,
    header::ORIGIN,
];

fn handshake_of(headers: &HeaderMap) -> HeaderMap {
    let mut taken = HeaderMap::new();
    for name in HANDSHAKE {
        for value in headers.get_all(&name) {
            taken.append(name.clone(), value.clone());
        }
    }
    taken
}

/// Connects a client with the runtime, byte for byte.
async fn pass(mut request: Request<Incoming>, url: &str, stop: CancellationToken) -> Response<Body> {
    let (head, runtime) = match dial(url, request.method().clone(), handshake_of(request.headers())).await {
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
    response.headers_mut().extend(handshake_of(&head));
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

/// Upgrades a connection to the runtime's streaming server to SPDY, for a version of what is spoken over it.
async fn dial_spdy(url: &str, version: &'static str) -> Result<TokioIo<Upgraded>, String> {
    let mut handshake = HeaderMap::new();
    handshake.insert(header::UPGRADE, HeaderValue::from_static("SPDY/3.1"));
    handshake.insert(PROTOCOL_VERSION, HeaderValue::from_static(version));
    dial(url, Method::POST, handshake).await.map(|(_, runtime)| runtime)
}

/// Upgrades a connection to the runtime's streaming server.
async fn dial(url: &str, method: Method, handshake: HeaderMap) -> Result<(HeaderMap, TokioIo<Upgraded>), String> {
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
    let mut request = Request::builder()
        .method(method)
        .uri(path)
        .header(header::HOST, format!("{host}:{port}"))
        .header(header::CONNECTION, "Upgrade")
        .body(Empty::<Bytes>::new())
        .map_err(|e| what(&e))?;
    request.headers_mut().extend(handshake);
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_websocket_client_names_its_ports() {
        let check = |protocol: Option<&str>, query: &str, expected: Result<&[i32], &str>| {
            let mut request = Request::get(format!("/portForward/ns/p?{query}"));
            if let Some(protocol) = protocol {
                request = request
                    .header(header::CONNECTION, "Upgrade")
                    .header(header::UPGRADE, "websocket")
                    .header(header::SEC_WEBSOCKET_PROTOCOL, protocol);
            }
            let got = forwarded_ports(&request.body(()).expect("a request"));
            assert_eq!(got.as_deref().map_err(String::as_str), expected, "{query}");
        };
        check(None, "", Ok(&[]));
        check(Some(remote::TUNNEL), "", Ok(&[]));
        let old = Some("v4.channel.k8s.io");
        check(old, "port=80,8080&port=9", Ok(&[80, 8080, 9]));
        check(old, "", Err("query parameter \"port\" is required"));
        check(old, "port=", Err("query parameter \"port\" cannot be empty"));
        check(old, "port=0", Err("port \"0\" must be > 0"));
        check(old, "port=x", Err("unable to parse \"x\" as a port: invalid digit found in string"));
    }

    #[test]
    fn a_handshake_is_passed_on_and_nothing_else() {
        let mut headers = HeaderMap::new();
        for name in ["upgrade", "sec-websocket-key", "x-stream-protocol-version", "authorization", "cookie", "host"] {
            headers.append(name, HeaderValue::from_static("x"));
        }
        headers.append("x-stream-protocol-version", HeaderValue::from_static("y"));
        let passed = handshake_of(&headers);
        assert_eq!(passed.len(), 4);
        assert!(!passed.contains_key("authorization") && !passed.contains_key("cookie"));
    }
}
