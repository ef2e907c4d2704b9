//! Passing a request on to a backend, upgrades included (`k8s.io/apimachinery/pkg/util/proxy.UpgradeAwareHandler`).
//!
//! A connection that switches protocols is tunnelled byte for byte ([`super::websocket`] has the sessions that are
//! translated). The client's credential never goes on: the backend knows the API server.

use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::{Request, Response, StatusCode, Uri};
use hyper_util::rt::TokioIo;
use orkd_api::status::Status;
use orkd_streaming::pass;

use super::dial::{Address, Dialer};
use crate::Body;
use crate::authn::bearer::WEBSOCKET_TOKEN;

/// Headers of one hop.
const HOP: [&str; 7] =
    ["connection", "keep-alive", "proxy-authenticate", "proxy-authorization", "te", "trailer", "transfer-encoding"];

/// Whether a request asks to switch protocols.
pub(super) fn is_upgrade(headers: &HeaderMap) -> bool {
    let connection = headers.get_all(header::CONNECTION).iter().filter_map(|v| v.to_str().ok());
    connection.flat_map(|v| v.split(',')).any(|v| v.trim().eq_ignore_ascii_case("upgrade"))
        && headers.contains_key(header::UPGRADE)
}

/// Whether it is to WebSocket.
pub(super) fn is_websocket(headers: &HeaderMap) -> bool {
    let upgrade = headers.get(header::UPGRADE).and_then(|v| v.to_str().ok());
    is_upgrade(headers) && upgrade.is_some_and(|v| v.eq_ignore_ascii_case("websocket"))
}

/// Sends a request on to `target` (path and query) of a backend and gives its answer back.
pub(super) async fn forward(
    dialer: &Dialer,
    address: &Address,
    target: &str,
    mut request: Request<Body>,
) -> Result<Response<Body>, Status> {
    let upgrades = is_upgrade(request.headers());
    let client = upgrades.then(|| hyper::upgrade::on(&mut request));
    let (parts, body) = request.into_parts();
    let uri: Uri = target.parse().map_err(|_| Status::bad_request("the path cannot be passed on"))?;
    let mut onward = Request::builder().method(parts.method).uri(uri);
    if let Some(headers) = onward.headers_mut() {
        *headers = onward_headers(&parts.headers, upgrades);
        let host = HeaderValue::from_str(&address.authority());
        headers.insert(header::HOST, host.map_err(|_| Status::bad_request("the host cannot be named"))?);
    }
    let body = if upgrades { Body::empty() } else { body };
    let onward = onward.body(body).map_err(|_| Status::bad_request("the request cannot be passed on"))?;
    let mut sender = dialer.connect(address).await?;
    let mut response = sender
        .send_request(onward)
        .await
        .map_err(|e| Status::unavailable(format!("error trying to reach service: {e}")))?;
    if response.status() != StatusCode::SWITCHING_PROTOCOLS {
        let (mut parts, body) = response.into_parts();
        HOP.iter().for_each(|name| drop(parts.headers.remove(*name)));
        return Ok(Response::from_parts(parts, Body::new(body)));
    }
    let Some(client) = client else {
        return Err(Status::internal("the backend switched protocols without being asked"));
    };
    let backend = hyper::upgrade::on(&mut response);
    let hold = crate::audit::hold();
    tokio::spawn(async move {
        let _hold = hold;
        let (client, backend) = match tokio::try_join!(client, backend) {
            Ok(both) => both,
            Err(error) => {
                tracing::debug!(%error, "a connection could not be upgraded");
                return;
            }
        };
        if let Err(error) = pass::join(TokioIo::new(client), TokioIo::new(backend)).await {
            tracing::debug!(%error, "a tunnel ended");
        }
    });
    let (parts, _) = response.into_parts();
    let mut answer = Response::new(Body::empty());
    *answer.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    *answer.headers_mut() = parts.headers;
    Ok(answer)
}

/// The headers that go on: none of one hop, none that says who the client is or was.
fn onward_headers(from: &HeaderMap, upgrades: bool) -> HeaderMap {
    let mut out = HeaderMap::new();
    for (name, value) in from {
        let text = name.as_str();
        let secret = *name == header::AUTHORIZATION
            || text.starts_with("impersonate-")
            || text.starts_with("x-remote-")
            || *name == header::COOKIE && upgrades;
        let hop = HOP.contains(&text) && !(upgrades && text == "connection");
        if secret || hop || *name == header::HOST || (*name == header::UPGRADE && !upgrades) {
            continue;
        }
        if *name == header::SEC_WEBSOCKET_PROTOCOL {
            if let Some(value) = without_token(value) {
                out.append(name.clone(), value);
            }
            continue;
        }
        out.append(name.clone(), value.clone());
    }
    out
}

/// The offered subprotocols without the one that carries a token; `None` where none is left.
fn without_token(value: &HeaderValue) -> Option<HeaderValue> {
    let text = value.to_str().ok()?;
    let left: Vec<&str> = text.split(',').map(str::trim).filter(|p| !p.starts_with(WEBSOCKET_TOKEN)).collect();
    if left.is_empty() { None } else { HeaderValue::from_str(&left.join(", ")).ok() }
}

/// Says to the backend who was in between.
pub(super) fn add_forwarded(headers: &mut HeaderMap, peer: Option<std::net::SocketAddr>) {
    let Some(peer) = peer else { return };
    let name = HeaderName::from_static("x-forwarded-for");
    let before = headers.get(&name).and_then(|v| v.to_str().ok()).map(|v| format!("{v}, "));
    let all = format!("{}{}", before.unwrap_or_default(), peer.ip());
    if let Ok(value) = HeaderValue::from_str(&all) {
        headers.insert(name, value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_stay_here() {
        let mut headers = HeaderMap::new();
        for (name, value) in [
            ("authorization", "Bearer x"),
            ("impersonate-user", "a"),
            ("x-remote-user", "a"),
            ("connection", "Upgrade"),
            ("upgrade", "websocket"),
            ("host", "h"),
            ("sec-websocket-protocol", "v5.channel.k8s.io, base64url.bearer.authorization.k8s.io.abc"),
            ("accept", "*/*"),
        ] {
            headers.append(name, HeaderValue::from_static(value));
        }
        assert!(is_websocket(&headers));
        let mut names: Vec<String> = onward_headers(&headers, true).keys().map(ToString::to_string).collect();
        names.sort();
        assert_eq!(names, ["accept", "connection", "sec-websocket-protocol", "upgrade"]);
        assert_eq!(onward_headers(&headers, true)["sec-websocket-protocol"], "v5.channel.k8s.io");
        assert!(!onward_headers(&headers, false).contains_key("upgrade"));
    }
}
