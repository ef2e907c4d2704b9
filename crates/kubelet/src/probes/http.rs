//! HTTP requests of probes and hooks: one request, and the redirects that stay on its host.
//! Follows upstream `pkg/probe/http`; texts are Go's.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http_body_util::{BodyExt, Empty, LengthLimitError, Limited};
use hyper_util::rt::TokioIo;
use k8s_openapi::api::core::v1::{Container, HTTPGetAction};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;

use super::handler::{dial_error, port};

/// Redirects followed before a request is given up, as Go's client.
const REDIRECTS: usize = 10;
/// Bytes of an answer that are read.
const BODY: usize = 10 << 10;

/// On whose behalf a request is sent; the server sees it in `User-Agent`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sender {
    /// A probe.
    Probe,
    /// A lifecycle hook.
    Hook,
}

/// A request of a probe or hook.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// Whether by TLS.
    pub tls: bool,
    /// Host to connect to: a name or an address, IPv6 without brackets.
    pub host: String,
    /// Port.
    pub port: u16,
    /// Path and query; starts with a slash.
    pub path: String,
    /// Headers, `Host` included where the action sets one.
    pub headers: HeaderMap,
}

/// What a server answered when there was nothing more to follow.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// Status code; between 300 and 399 for a redirect that leads to another host or nowhere.
    pub status: u16,
    /// The first ten KiB of the body; nothing of a longer one.
    pub body: String,
}

/// What of a path a request line cannot hold is escaped, a fragment dropped, as Go's `url.URL.String`.
fn escaped(path: &str) -> String {
    let path = path.split('#').next().unwrap_or_default();
    let mut out = String::with_capacity(path.len() + 1);
    if !path.starts_with('/') {
        out.push('/');
    }
    for byte in path.bytes() {
        match byte {
            0..=b' ' | 0x7f.. | b'"' | b'<' | b'>' | b'\\' | b'^' | b'`' | b'{' | b'|' | b'}' => {
                out.push_str(&format!("%{byte:02X}"));
            }
            _ => out.push(char::from(byte)),
        }
    }
    out
}

impl Request {
    /// The request of an action of `container`, asked at `ip` unless the action names a host.
    pub fn of(get: &HTTPGetAction, container: &Container, ip: &str, sender: Sender) -> Result<Self, String> {
        let mut headers = HeaderMap::new();
        for set in get.http_headers.iter().flatten() {
            let invalid = |_| format!("net/http: invalid header field {:?}", set.name);
            let name = HeaderName::try_from(set.name.as_str()).map_err(|e| invalid(e.to_string()))?;
            headers.append(name, HeaderValue::try_from(set.value.as_str()).map_err(|e| invalid(e.to_string()))?);
        }
        let agent = match sender {
            Sender::Probe => "kube-probe/1.36",
            Sender::Hook => "kube-lifecycle/1.36",
        };
        for (name, default) in [(header::USER_AGENT, agent), (header::ACCEPT, "*/*")] {
            match headers.get(&name).map(HeaderValue::is_empty) {
                None => drop(headers.insert(name, HeaderValue::from_static(default))),
                Some(true) => drop(headers.remove(name)),
                Some(false) => {}
            }
        }
        Ok(Self {
            tls: get.scheme.as_deref() == Some("HTTPS"),
            host: get.host.as_deref().filter(|h| !h.is_empty()).unwrap_or(ip).to_owned(),
            port: port(&get.port, container)?,
            path: escaped(get.path.as_deref().unwrap_or_default()),
            headers,
        })
    }

    fn authority(&self) -> String {
        match self.host.contains(':') {
            true => format!("[{}]:{}", self.host, self.port),
            false => format!("{}:{}", self.host, self.port),
        }
    }

    fn url(&self) -> String {
        format!("{}://{}{}", if self.tls { "https" } else { "http" }, self.authority(), self.path)
    }

    /// Where `location` leads from here, if it stays on this host (any port of it).
    fn redirected(&self, location: &str) -> Option<Self> {
        let mut next = self.clone();
        let rest = match location.split_once("://") {
            Some((scheme, rest)) if !scheme.contains(['/', '?', '#']) => {
                next.tls = match scheme {
                    "http" => false,
                    "https" => true,
                    _ => return None,
                };
                Some(rest)
            }
            _ => location.strip_prefix("//"),
        };
        let Some(rest) = rest else {
            let at = match location.chars().next() {
                None | Some('#') => self.path.clone(),
                Some('/') => location.to_owned(),
                Some('?') => format!("{}{location}", self.path.split('?').next().unwrap_or_default()),
                Some(_) => {
                    let path = self.path.split('?').next().unwrap_or_default();
                    let folder = path.rfind('/').map_or("/", |slash| &path[..=slash]);
                    format!("{folder}{location}")
                }
            };
            next.path = escaped(&at);
            return Some(next);
        };
        let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
        let authority: http::uri::Authority = rest[..end].parse().ok()?;
        if authority.host().trim_start_matches('[').trim_end_matches(']') != self.host {
            return None;
        }
        next.port = authority.port_u16().unwrap_or(if next.tls { 443 } else { 80 });
        next.path = escaped(&rest[end..]);
        // An absolute address replaces the host the action asked for.
        next.headers.remove(header::HOST);
        Some(next)
    }

    async fn exchange<S>(&self, stream: S) -> Result<(Answer, Option<String>), String>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(|e| e.to_string())?;
        let mut request = hyper::Request::get(&self.path).body(Empty::<Bytes>::new()).map_err(|e| e.to_string())?;
        request.headers_mut().clone_from(&self.headers);
        if !self.headers.contains_key(header::HOST) {
            let host = HeaderValue::try_from(self.authority()).map_err(|e| e.to_string())?;
            request.headers_mut().insert(header::HOST, host);
        }
        request.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
        let exchange = async {
            let answer = sender.send_request(request).await.map_err(|e| e.to_string())?;
            let status = answer.status().as_u16();
            let location = answer.headers().get(header::LOCATION).and_then(|l| l.to_str().ok());
            let location = location.filter(|l| !l.is_empty()).map(str::to_owned);
            let body = match Limited::new(answer.into_body(), BODY).collect().await {
                Ok(body) => String::from_utf8_lossy(&body.to_bytes()).into_owned(),
                Err(e) if e.is::<LengthLimitError>() => String::new(),
                Err(e) => return Err(e.to_string()),
            };
            Ok((Answer { status, body }, location))
        };
        tokio::pin!(connection);
        tokio::select! {
            biased;
            outcome = exchange => outcome,
            // Polled for its progress; its end shows in the exchange.
            _ = async { let _ = (&mut connection).await; std::future::pending::<()>().await } => Err("EOF".to_owned()),
        }
    }

    /// The answer to this request, and where it says to ask.
    async fn ask(&self) -> Result<(Answer, Option<String>), String> {
        let address = self.authority();
        let stream = TcpStream::connect(&address).await.map_err(|e| dial_error(&address, &e))?;
        if !self.tls {
            return self.exchange(stream).await;
        }
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = rustls::ClientConfig::builder_with_provider(provider.clone())
            .with_safe_default_protocol_versions()
            .map_err(|e| e.to_string())?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(AnyCertificate(provider)))
            .with_no_client_auth();
        let name = ServerName::try_from(self.host.clone()).map_err(|e| e.to_string())?;
        let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
        let stream = connector.connect(name, stream).await.map_err(|e| match tls_error(&e) {
            Some(rustls::Error::InvalidMessage(_)) => PLAIN.to_owned(),
            _ => e.to_string(),
        })?;
        self.exchange(stream).await
    }

    /// Sends the request and follows where it is sent on this host; the last answer.
    pub async fn send(&self, timeout: Duration) -> Result<Answer, String> {
        let mut request = self.clone();
        let exchange = async {
            for _ in 0..REDIRECTS {
                let (answer, location) = request.ask().await?;
                let elsewhere = matches!(answer.status, 301 | 302 | 303 | 307 | 308);
                match location.filter(|_| elsewhere).and_then(|l| request.redirected(&l)) {
                    Some(next) => request = next,
                    None => return Ok(answer),
                }
            }
            Err(format!("stopped after {REDIRECTS} redirects"))
        };
        match tokio::time::timeout(timeout, exchange).await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(why)) => Err(format!("Get {:?}: {why}", request.url())),
            Err(_) => Err(format!(
                "Get {:?}: context deadline exceeded (Client.Timeout exceeded while awaiting headers)",
                self.url()
            )),
        }
    }
}

/// What Go says of a server without TLS that is asked with TLS.
const PLAIN: &str = "http: server gave HTTP response to HTTPS client";

fn tls_error(error: &std::io::Error) -> Option<&rustls::Error> {
    error.get_ref()?.downcast_ref()
}

/// The outcome of an http probe.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// Passed.
    Success,
    /// Passed, and something to tell of it.
    Warning(String),
    /// Failed, and why.
    Failure(String),
}

/// Sends the request of a probe and judges the answer.
pub async fn probe(request: &Request, timeout: Duration) -> Outcome {
    match request.send(timeout).await {
        Ok(Answer { status: 200..300, .. }) => Outcome::Success,
        Ok(Answer { status: 300..400, body }) => {
            Outcome::Warning(format!("Probe terminated redirects, Response body: {body}"))
        }
        Ok(Answer { status, .. }) => Outcome::Failure(format!("HTTP probe failed with statuscode: {status}")),
        Err(why) => Outcome::Failure(why),
    }
}

/// Sends the request of a hook, which any answer satisfies. A server without TLS is asked once more without, and
/// then without credentials. Follows upstream `pkg/kubelet/lifecycle/handlers.go`.
pub async fn hook(request: &Request, timeout: Duration) -> Result<(), String> {
    match request.send(timeout).await {
        Err(why) if request.tls && why.ends_with(PLAIN) => {
            let mut plain = Request { tls: false, ..request.clone() };
            plain.headers.remove(header::AUTHORIZATION);
            plain.send(timeout).await.map(drop)
        }
        outcome => outcome.map(drop),
    }
}

/// A probe asks a pod for its own sake; it takes any certificate, as upstream.
#[derive(Debug)]
struct AnyCertificate(Arc<rustls::crypto::CryptoProvider>);

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }
    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &rustls::DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }
    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &rustls::DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }
    fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests;
