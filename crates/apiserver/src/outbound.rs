//! Requests of the API server to others over HTTP: webhooks that authenticate and authorize, issuers of tokens.
//!
//! Small bodies both ways, a deadline, a limit on what is read, and one idle connection kept for each endpoint.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, Request, Uri, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use orkd_pki::kubeconfig::Kubeconfig;
use orkd_pki::tls;
use parking_lot::Mutex;
use rustls_pki_types::{CertificateDer, ServerName, pem::PemObject};
use serde_json::Value;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

/// The most that is read of an answer.
const MAX_ANSWER: usize = 4 << 20;

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
    bearer: Option<HeaderValue>,
    timeout: Duration,
    idle: Mutex<Option<SendRequest<Full<Bytes>>>>,
}

impl Endpoint {
    /// A server by URL. `authorities` are PEM; the system's where none are given.
    pub fn new(url: &str, authorities: Option<&str>, timeout: Duration) -> Result<Self, String> {
        Self::with(url, authorities, None, None, timeout)
    }

    /// The server of a kubeconfig's current context, as `--authentication-token-webhook-config-file` has it.
    pub fn from_kubeconfig(path: &Path, timeout: Duration) -> Result<Self, String> {
        let text = |e: orkd_pki::Error| format!("{}: {e}", path.display());
        let resolved = Kubeconfig::load(path).map_err(text)?.resolve().map_err(text)?;
        let identity = resolved.identity().map_err(text)?;
        let token = resolved.token.as_deref();
        Self::with(&resolved.server, resolved.authorities.as_deref(), identity.as_ref(), token, timeout)
    }

    fn with(
        url: &str,
        authorities: Option<&str>,
        identity: Option<&orkd_pki::Identity>,
        token: Option<&str>,
        timeout: Duration,
    ) -> Result<Self, String> {
        let uri: Uri = url.parse().map_err(|e| format!("{url:?}: {e}"))?;
        let host = uri.host().ok_or_else(|| format!("{url:?} names no host"))?;
        let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
        let tls = match uri.scheme_str() {
            Some("http") => None,
            Some("https") => {
                let roots = roots(authorities)?;
                Some(Arc::new(tls::client_config(roots, identity).map_err(|e| e.to_string())?))
            }
            _ => return Err(format!("{url:?} is neither http nor https")),
        };
        let port = uri.port_u16().unwrap_or(if tls.is_some() { 443 } else { 80 });
        let bearer = match token {
            Some(token) => {
                let mut value = HeaderValue::from_str(&format!("Bearer {token}")).map_err(|e| e.to_string())?;
                value.set_sensitive(true);
                Some(value)
            }
            None => None,
        };
        Ok(Endpoint { url: uri, host, port, tls, bearer, timeout, idle: Mutex::default() })
    }

    /// Posts JSON.
    pub async fn post(&self, body: &Value) -> Result<Answer, String> {
        self.post_text(body.to_string()).await
    }

    /// Posts JSON as it is.
    pub async fn post_text(&self, body: String) -> Result<Answer, String> {
        let request = self.request("POST").header(header::CONTENT_TYPE, "application/json");
        let request = request.body(Full::from(body)).map_err(|e| e.to_string())?;
        self.send(request).await
    }

    /// Gets what the URL names.
    pub async fn get(&self) -> Result<Answer, String> {
        let request = self.request("GET").body(Full::default()).map_err(|e| e.to_string())?;
        self.send(request).await
    }

    fn request(&self, method: &str) -> http::request::Builder {
        let path = self.url.path_and_query().map_or("/", |p| p.as_str());
        let mut builder = Request::builder()
            .method(method)
            .uri(path)
            .header(header::HOST, self.url.authority().map_or(self.host.as_str(), |a| a.as_str()))
            .header(header::ACCEPT, "application/json")
            .header(header::USER_AGENT, "kube-apiserver");
        if let Some(bearer) = &self.bearer {
            builder = builder.header(header::AUTHORIZATION, bearer.clone());
        }
        builder
    }

    async fn send(&self, request: Request<Full<Bytes>>) -> Result<Answer, String> {
        let asking = async {
            let idle = self.idle.lock().take();
            if let Some(mut connection) = idle
                && connection.ready().await.is_ok()
                && let Ok(response) = connection.send_request(request.clone()).await
            {
                return self.read(connection, response).await;
            }
            let mut connection = self.connect().await?;
            let response = connection.send_request(request).await.map_err(|e| e.to_string())?;
            self.read(connection, response).await
        };
        let answer = tokio::time::timeout(self.timeout, asking).await;
        answer.unwrap_or_else(|_| Err("context deadline exceeded".into())).map_err(|e| format!("{}: {e}", self.url))
    }

    async fn read(
        &self,
        connection: SendRequest<Full<Bytes>>,
        response: http::Response<hyper::body::Incoming>,
    ) -> Result<Answer, String> {
        let (parts, body) = response.into_parts();
        let body = Limited::new(body, MAX_ANSWER).collect().await.map_err(|e| e.to_string())?.to_bytes();
        *self.idle.lock() = Some(connection);
        Ok(Answer { status: parts.status.as_u16(), body })
    }

    async fn connect(&self) -> Result<SendRequest<Full<Bytes>>, String> {
        let tcp = TcpStream::connect((self.host.as_str(), self.port)).await;
        let tcp = tcp.map_err(|e| format!("dial tcp {}:{}: {e}", self.host, self.port))?;
        // Only a matter of speed.
        let _ = tcp.set_nodelay(true);
        match &self.tls {
            None => handshake(tcp).await,
            Some(config) => {
                let name = ServerName::try_from(self.host.clone()).map_err(|e| e.to_string())?;
                let stream = TlsConnector::from(config.clone()).connect(name, tcp).await.map_err(|e| e.to_string())?;
                handshake(stream).await
            }
        }
    }
}

async fn handshake<S>(stream: S) -> Result<SendRequest<Full<Bytes>>, String>
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
