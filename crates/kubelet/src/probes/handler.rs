//! One probe attempt: http, tcp, exec. Texts are upstream's (`pkg/probe`), which are Go's.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Empty, Limited};
use hyper_util::rt::TokioIo;
use k8s_openapi::api::core::v1::{Container, HTTPGetAction, TCPSocketAction};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;

/// A request of an http probe or hook.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HttpRequest {
    /// Whether by TLS.
    pub tls: bool,
    /// Host to connect to.
    pub host: String,
    /// Port.
    pub port: u16,
    /// Path and query.
    pub path: String,
    /// Headers.
    pub headers: Vec<(String, String)>,
}

impl HttpRequest {
    fn authority(&self) -> String {
        match self.host.contains(':') {
            true => format!("[{}]:{}", self.host, self.port),
            false => format!("{}:{}", self.host, self.port),
        }
    }

    fn url(&self) -> String {
        format!("{}://{}{}", if self.tls { "https" } else { "http" }, self.authority(), self.path)
    }
}

/// A port by number or by name.
pub fn port(port: &IntOrString, container: &Container) -> Result<u16, String> {
    let number = match port {
        IntOrString::Int(n) => Some(*n),
        IntOrString::String(name) => {
            let named = container.ports.iter().flatten().find(|p| p.name.as_deref() == Some(name));
            match named.map(|p| p.container_port).or_else(|| name.parse().ok()) {
                Some(n) => Some(n),
                None => return Err(format!("couldn't find port: {name:?}")),
            }
        }
    };
    let number = number.and_then(|n| u16::try_from(n).ok()).filter(|n| *n > 0);
    number.ok_or_else(|| format!("invalid port number: {port:?}"))
}

/// The request of an http action.
pub fn http(get: &HTTPGetAction, container: &Container, ip: &str) -> Result<HttpRequest, String> {
    let path = get.path.as_deref().unwrap_or_default();
    Ok(HttpRequest {
        tls: get.scheme.as_deref() == Some("HTTPS"),
        host: get.host.as_deref().filter(|h| !h.is_empty()).unwrap_or(ip).to_owned(),
        port: port(&get.port, container)?,
        path: if path.starts_with('/') { path.to_owned() } else { format!("/{path}") },
        headers: get.http_headers.iter().flatten().map(|h| (h.name.clone(), h.value.clone())).collect(),
    })
}

/// What Go says of a failed connection.
fn dial_error(address: &str, error: &std::io::Error) -> String {
    let what = match error.raw_os_error() {
        Some(libc::ECONNREFUSED) => "connection refused".to_owned(),
        Some(libc::EHOSTUNREACH) => "no route to host".to_owned(),
        Some(libc::ENETUNREACH) => "network is unreachable".to_owned(),
        _ => error.to_string().to_lowercase(),
    };
    format!("dial tcp {address}: connect: {what}")
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

async fn send<S>(stream: S, request: &HttpRequest) -> Result<(u16, String), String>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(|e| e.to_string())?;
    let mut builder = hyper::Request::get(&request.path);
    let has = |name: &str| request.headers.iter().any(|(n, _)| n.eq_ignore_ascii_case(name));
    if !has("host") {
        builder = builder.header("Host", request.authority());
    }
    if !has("user-agent") {
        builder = builder.header("User-Agent", "kube-probe/1.36");
    }
    if !has("accept") {
        builder = builder.header("Accept", "*/*");
    }
    builder = builder.header("Connection", "close");
    for (name, value) in request.headers.iter().filter(|(_, v)| !v.is_empty()) {
        builder = builder.header(name, value);
    }
    let built = builder.body(Empty::<Bytes>::new()).map_err(|e| e.to_string())?;
    let exchange = async {
        let answer = sender.send_request(built).await.map_err(|e| e.to_string())?;
        let status = answer.status().as_u16();
        let body = Limited::new(answer.into_body(), 10 << 10).collect().await;
        let text = body.map(|b| String::from_utf8_lossy(&b.to_bytes()).into_owned()).unwrap_or_default();
        Ok((status, text))
    };
    tokio::pin!(connection);
    tokio::select! {
        biased;
        outcome = exchange => outcome,
        // Polled for its progress; its end shows in the exchange.
        _ = async { let _ = (&mut connection).await; std::future::pending::<()>().await } => Err("EOF".to_owned()),
    }
}

/// Sends the request; the answer's body where its status is below 400.
pub async fn http_get(request: &HttpRequest, timeout: Duration) -> Result<String, String> {
    let wrapped = |why: String| format!("Get {:?}: {why}", request.url());
    let exchange = async {
        let address = request.authority();
        let stream = TcpStream::connect(&address).await.map_err(|e| dial_error(&address, &e))?;
        if !request.tls {
            return send(stream, request).await;
        }
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = rustls::ClientConfig::builder_with_provider(provider.clone())
            .with_safe_default_protocol_versions()
            .map_err(|e| e.to_string())?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(AnyCertificate(provider)))
            .with_no_client_auth();
        let name = ServerName::try_from(request.host.clone()).map_err(|e| e.to_string())?;
        let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
        let stream = connector.connect(name, stream).await.map_err(|e| e.to_string())?;
        send(stream, request).await
    };
    match tokio::time::timeout(timeout, exchange).await {
        Err(_) => Err(wrapped("context deadline exceeded (Client.Timeout exceeded while awaiting headers)".to_owned())),
        Ok(Err(why)) => Err(wrapped(why)),
        Ok(Ok((status, body))) if (200..400).contains(&status) => Ok(body),
        Ok(Ok((status, _))) => Err(format!("HTTP probe failed with statuscode: {status}")),
    }
}

/// Connects and hangs up.
pub async fn tcp(action: &TCPSocketAction, container: &Container, ip: &str, timeout: Duration) -> Result<(), String> {
    let host = action.host.as_deref().filter(|h| !h.is_empty()).unwrap_or(ip);
    let port = port(&action.port, container)?;
    let address = if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") };
    let connect = async {
        match address.parse::<SocketAddr>() {
            Ok(socket) => TcpStream::connect(socket).await,
            Err(_) => TcpStream::connect(&address).await,
        }
    };
    match tokio::time::timeout(timeout, connect).await {
        Err(_) => Err(format!("dial tcp {address}: i/o timeout")),
        Ok(Err(e)) => Err(dial_error(&address, &e)),
        Ok(Ok(_)) => Ok(()),
    }
}
