//! Requests of the API server to others over HTTP: webhooks that authenticate, authorize and admit, issuers of tokens.
//!
//! Small bodies both ways, a deadline, a limit on what is read, and a few idle connections kept for each endpoint. What
//! went wrong is said as Go says it: people know those texts.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::{HeaderValue, Request, Uri, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use orkd_pki::kubeconfig::{Credential, Kubeconfig};
use orkd_pki::tls;
use parking_lot::Mutex;
use rustls_pki_types::{CertificateDer, ServerName, pem::PemObject};
use serde_json::Value;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

/// The most that is read of an answer.
const MAX_ANSWER: usize = 4 << 20;

/// How many idle connections are kept for an endpoint.
const MAX_IDLE: usize = 8;

/// Where the system's authorities are, first found.
const SYSTEM_ROOTS: [&str; 3] =
    ["/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt", "/etc/ssl/cert.pem"];

/// An answer.
#[derive(Debug)]
pub struct Answer {
    /// HTTP status.
    pub status: u16,
    /// Body.
    pub body: Bytes,
}

/// One server to ask.
pub struct Endpoint {
    url: Uri,
    host: String,
    port: u16,
    tls: Option<Arc<rustls::ClientConfig>>,
    authorization: Option<HeaderValue>,
    agent: &'static str,
    timeout: Duration,
    idle: Mutex<Vec<Connection>>,
}

type Connection = SendRequest<Full<Bytes>>;

/// Where to connect to: a name or address, and a port.
pub type Address = (String, u16);

impl Endpoint {
    /// A server by URL. `authorities` are PEM; the system's where none are given.
    pub fn new(url: &str, authorities: Option<&str>, timeout: Duration) -> Result<Self, String> {
        Self::with(url, authorities, &Credential::default(), timeout)
    }

    /// A server by URL, to which the API server shows a credential, and whose name there is another.
    pub fn shown(
        url: &str,
        authorities: Option<&str>,
        credential: &Credential,
        agent: &'static str,
    ) -> Result<Self, String> {
        let endpoint = Self::with(url, authorities, credential, Duration::ZERO)?;
        Ok(Endpoint { agent, ..endpoint })
    }

    /// The server of a kubeconfig's current context, as `--authentication-token-webhook-config-file` has it.
    pub fn from_kubeconfig(path: &Path, timeout: Duration) -> Result<Self, String> {
        let text = |e: orkd_pki::Error| format!("{}: {e}", path.display());
        let resolved = Kubeconfig::load(path).map_err(text)?.resolve().map_err(text)?;
        let identity = resolved.identity().map_err(text)?;
        let credential = Credential { identity, token: resolved.token.clone(), basic: None };
        Self::with(&resolved.server, resolved.authorities.as_deref(), &credential, timeout)
    }

    fn with(url: &str, authorities: Option<&str>, credential: &Credential, timeout: Duration) -> Result<Self, String> {
        let uri: Uri = url.parse().map_err(|e| format!("{url:?}: {e}"))?;
        let host = uri.host().ok_or_else(|| format!("{url:?} names no host"))?;
        let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
        let tls = match uri.scheme_str() {
            Some("http") => None,
            Some("https") => {
                let roots = roots(authorities)?;
                let config = tls::client_config(roots, credential.identity.as_ref());
                Some(Arc::new(config.map_err(|e| e.to_string())?))
            }
            _ => return Err(format!("{url:?} is neither http nor https")),
        };
        let port = uri.port_u16().unwrap_or(if tls.is_some() { 443 } else { 80 });
        let authorization = authorization(credential)?;
        let agent = "kube-apiserver";
        Ok(Endpoint { url: uri, host, port, tls, authorization, agent, timeout, idle: Mutex::default() })
    }

    /// Posts JSON.
    pub async fn post(&self, body: &Value) -> Result<Answer, String> {
        self.post_text(body.to_string()).await
    }

    /// Posts JSON as it is.
    pub async fn post_text(&self, body: String) -> Result<Answer, String> {
        let request = self.request("POST", self.path()).header(header::CONTENT_TYPE, "application/json");
        let request = request.body(Full::from(body)).map_err(|e| e.to_string())?;
        self.send(request).await
    }

    /// Gets what the URL names.
    pub async fn get(&self) -> Result<Answer, String> {
        let request = self.request("GET", self.path()).body(Full::default()).map_err(|e| e.to_string())?;
        self.send(request).await
    }

    /// Posts JSON to another path of the URL's server, within the caller's time. Where a connection has to be made,
    /// `addresses` says where to: they are tried in order.
    pub async fn post_to(
        &self,
        path: &str,
        body: String,
        addresses: impl FnOnce() -> Result<Vec<Address>, String>,
    ) -> Result<Answer, String> {
        let request = self.request("POST", path).header(header::CONTENT_TYPE, "application/json");
        let request = request.body(Full::from(body)).map_err(|e| e.to_string())?;
        self.exchange(request, addresses).await
    }

    /// Name and port of the URL's server.
    pub fn address(&self) -> Address {
        (self.host.clone(), self.port)
    }

    fn path(&self) -> &str {
        self.url.path_and_query().map_or("/", |p| p.as_str())
    }

    fn request(&self, method: &str, path: &str) -> http::request::Builder {
        let mut builder = Request::builder()
            .method(method)
            .uri(path)
            .header(header::HOST, self.url.authority().map_or(self.host.as_str(), |a| a.as_str()))
            .header(header::ACCEPT, "application/json")
            .header(header::USER_AGENT, self.agent);
        if let Some(value) = &self.authorization {
            builder = builder.header(header::AUTHORIZATION, value.clone());
        }
        builder
    }

    async fn send(&self, request: Request<Full<Bytes>>) -> Result<Answer, String> {
        let asking = self.exchange(request, || Ok(vec![self.address()]));
        let answer = tokio::time::timeout(self.timeout, asking).await;
        answer.unwrap_or_else(|_| Err(DEADLINE.into())).map_err(|e| format!("{}: {e}", self.url))
    }

    async fn exchange(
        &self,
        request: Request<Full<Bytes>>,
        addresses: impl FnOnce() -> Result<Vec<Address>, String>,
    ) -> Result<Answer, String> {
        // One that was idle may have been closed meanwhile, and so may the next.
        while let Some(mut connection) = self.take_idle() {
            if connection.ready().await.is_ok()
                && let Ok(response) = connection.send_request(request.clone()).await
            {
                return self.read(connection, response).await;
            }
        }
        let mut connection = self.connect(&addresses()?).await?;
        let response = connection.send_request(request).await.map_err(|e| http_error(&e))?;
        self.read(connection, response).await
    }

    fn take_idle(&self) -> Option<Connection> {
        self.idle.lock().pop()
    }

    async fn read(
        &self,
        connection: Connection,
        response: http::Response<hyper::body::Incoming>,
    ) -> Result<Answer, String> {
        let (parts, body) = response.into_parts();
        let body = Limited::new(body, MAX_ANSWER).collect().await.map_err(|e| e.to_string())?.to_bytes();
        let mut idle = self.idle.lock();
        if idle.len() < MAX_IDLE {
            idle.push(connection);
        }
        Ok(Answer { status: parts.status.as_u16(), body })
    }

    async fn connect(&self, addresses: &[Address]) -> Result<Connection, String> {
        let mut failure = "no address to connect to".to_owned();
        for address in addresses {
            match self.connect_to(address).await {
                Ok(connection) => return Ok(connection),
                Err(why) => failure = why,
            }
        }
        Err(failure)
    }

    async fn connect_to(&self, (host, port): &Address) -> Result<Connection, String> {
        let tcp = TcpStream::connect((host.as_str(), *port)).await.map_err(|e| dial_error(host, *port, &e))?;
        // Only a matter of speed.
        let _ = tcp.set_nodelay(true);
        match &self.tls {
            None => handshake(tcp).await,
            Some(config) => {
                let name = ServerName::try_from(self.host.clone()).map_err(|e| e.to_string())?;
                let stream = TlsConnector::from(config.clone()).connect(name, tcp).await;
                handshake(stream.map_err(|e| tls_error(&self.host, &e))?).await
            }
        }
    }
}

/// The header that shows a credential: a token comes before a password.
fn authorization(credential: &Credential) -> Result<Option<HeaderValue>, String> {
    let text = match (&credential.token, &credential.basic) {
        (Some(token), _) => format!("Bearer {token}"),
        (None, Some((name, password))) => format!("Basic {}", STANDARD.encode(format!("{name}:{password}"))),
        (None, None) => return Ok(None),
    };
    let mut value = HeaderValue::from_str(&text).map_err(|e| e.to_string())?;
    value.set_sensitive(true);
    Ok(Some(value))
}

/// What is said of a request that took too long.
pub const DEADLINE: &str = "context deadline exceeded";

/// Why there is no connection (`net.OpError`).
fn dial_error(host: &str, port: u16, error: &io::Error) -> String {
    let why = match error.kind() {
        io::ErrorKind::ConnectionRefused => "connect: connection refused".to_owned(),
        io::ErrorKind::HostUnreachable => "connect: no route to host".to_owned(),
        io::ErrorKind::NetworkUnreachable => "connect: network is unreachable".to_owned(),
        io::ErrorKind::TimedOut => "connect: connection timed out".to_owned(),
        _ if error.to_string().starts_with("failed to lookup address") => {
            return format!("dial tcp: lookup {host}: no such host");
        }
        _ => error.to_string(),
    };
    let host = if host.contains(':') { format!("[{host}]") } else { host.to_owned() };
    format!("dial tcp {host}:{port}: {why}")
}

/// Why a server is not believed (`crypto/tls`, `crypto/x509`).
fn tls_error(host: &str, error: &io::Error) -> String {
    use rustls::CertificateError as Bad;
    let inner = error.get_ref().and_then(|e| e.downcast_ref::<rustls::Error>());
    let why = match inner {
        Some(rustls::Error::InvalidCertificate(Bad::UnknownIssuer | Bad::BadSignature)) => {
            "certificate signed by unknown authority".to_owned()
        }
        Some(rustls::Error::InvalidCertificate(Bad::NotValidForName | Bad::NotValidForNameContext { .. })) => {
            format!("certificate is not valid for any names, but wanted to match {host}")
        }
        Some(rustls::Error::InvalidCertificate(
            Bad::Expired | Bad::ExpiredContext { .. } | Bad::NotValidYet | Bad::NotValidYetContext { .. },
        )) => "certificate has expired or is not yet valid".to_owned(),
        _ if error.kind() == io::ErrorKind::UnexpectedEof => return "EOF".to_owned(),
        Some(other) => return format!("tls: {other}"),
        None => return error.to_string(),
    };
    format!("tls: failed to verify certificate: x509: {why}")
}

fn http_error(error: &hyper::Error) -> String {
    if error.is_incomplete_message() { "EOF".to_owned() } else { error.to_string() }
}

async fn handshake<S>(stream: S) -> Result<Connection, String>
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
{
    let (sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(|e| e.to_string())?;
    tokio::spawn(async move {
        if let Err(error) = connection.await {
            tracing::debug!(%error, "a connection to a webhook or issuer ended");
        }
    });
    Ok(sender)
}

/// Trusted authorities: those given as PEM, or the system's.
fn roots(authorities: Option<&str>) -> Result<Arc<rustls::RootCertStore>, String> {
    match authorities {
        Some(pem) => {
            let list = orkd_pki::cert::chain_from_pem(pem).map_err(|e| e.to_string())?;
            tls::roots(list).map_err(|e| e.to_string())
        }
        None => {
            let text = SYSTEM_ROOTS.iter().find_map(|p| std::fs::read(p).ok()).unwrap_or_default();
            let mut store = rustls::RootCertStore::empty();
            // The system's list may hold certificates that are of no use here: they are left out.
            store.add_parsable_certificates(CertificateDer::pem_slice_iter(&text).flatten());
            Ok(Arc::new(store))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_are_shown() {
        let check = |token: Option<&str>, basic: Option<(&str, &str)>, expected: Option<&str>| {
            let basic = basic.map(|(name, password)| (name.to_owned(), password.to_owned()));
            let credential = Credential { identity: None, token: token.map(str::to_owned), basic };
            assert_eq!(authorization(&credential), Ok(expected.map(HeaderValue::from_str).transpose().expect("text")));
        };
        check(None, None, None);
        check(Some("t"), None, Some("Bearer t"));
        check(None, Some(("n", "p")), Some("Basic bjpw"));
        check(Some("t"), Some(("n", "p")), Some("Bearer t"));
    }

    #[test]
    fn failures_are_told_as_go_does() {
        let dial = |kind: io::ErrorKind| dial_error("10.0.0.1", 443, &io::Error::from(kind));
        assert_eq!(dial(io::ErrorKind::ConnectionRefused), "dial tcp 10.0.0.1:443: connect: connection refused");
        let lookup = io::Error::other("failed to lookup address information: Name or service not known");
        assert_eq!(dial_error("a.b.svc", 443, &lookup), "dial tcp: lookup a.b.svc: no such host");
        let refused = io::Error::from(io::ErrorKind::ConnectionRefused);
        assert!(dial_error("::1", 1, &refused).starts_with("dial tcp [::1]:1: "));
        let tls = |error: rustls::CertificateError| {
            tls_error("h", &io::Error::other(rustls::Error::InvalidCertificate(error)))
        };
        let text = "tls: failed to verify certificate: x509: certificate signed by unknown authority";
        assert_eq!(tls(rustls::CertificateError::UnknownIssuer), text);
        assert!(tls(rustls::CertificateError::NotValidForName).ends_with("but wanted to match h"));
        assert_eq!(tls_error("h", &io::Error::from(io::ErrorKind::UnexpectedEof)), "EOF");
    }
}
