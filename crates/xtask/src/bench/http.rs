//! A small HTTP/2 client that costs little beside the server it measures.

use std::path::Path;
use std::sync::Arc;

use anyhow::{Context as _, Result, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::{Bytes, BytesMut};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http2::{Builder, SendRequest};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use serde_yaml::Value;

/// A server and how to show who one is.
pub struct Target {
    /// Host name or address.
    pub host: String,
    /// Port.
    pub port: u16,
    tls: Arc<rustls::ClientConfig>,
    token: Option<String>,
}

fn data(of: &Value, name: &str) -> Result<Option<Vec<u8>>> {
    if let Some(text) = of[format!("{name}-data")].as_str() {
        return Ok(Some(STANDARD.decode(text).context("base64")?));
    }
    match of[name].as_str() {
        Some(file) => Ok(Some(std::fs::read(file).with_context(|| format!("reading {file}"))?)),
        None => Ok(None),
    }
}

impl Target {
    /// The current context of a kubeconfig.
    pub fn load(path: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(path).with_context(|| format!("reading {}", path.display()))?;
        let config: Value = serde_yaml::from_str(&text)?;
        let named = |list: &str, name: &Value| {
            let all = config[list].as_sequence().into_iter().flatten();
            all.into_iter().find(|e| e["name"] == *name).cloned().with_context(|| format!("no {name:?} in {list}"))
        };
        let context = named("contexts", &config["current-context"])?["context"].clone();
        let cluster = named("clusters", &context["cluster"])?["cluster"].clone();
        let user = named("users", &context["user"])?["user"].clone();
        let server = cluster["server"].as_str().context("no server")?;
        let rest = server.strip_prefix("https://").context("the server is no https:// address")?.trim_end_matches('/');
        let (host, port) = rest.rsplit_once(':').map_or((rest, "443"), |(h, p)| (h, p));
        let mut roots = rustls::RootCertStore::empty();
        let authority = data(&cluster, "certificate-authority")?.context("no certificate authority")?;
        for certificate in CertificateDer::pem_slice_iter(&authority) {
            roots.add(certificate?)?;
        }
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let builder = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots);
        let mut tls = match (data(&user, "client-certificate")?, data(&user, "client-key")?) {
            (Some(chain), Some(key)) => {
                let chain = CertificateDer::pem_slice_iter(&chain).collect::<Result<Vec<_>, _>>()?;
                builder.with_client_auth_cert(chain, PrivateKeyDer::from_pem_slice(&key)?)?
            }
            _ => builder.with_no_client_auth(),
        };
        tls.alpn_protocols = vec![b"h2".to_vec()];
        Ok(Target {
            host: host.trim_matches(['[', ']']).to_owned(),
            port: port.parse().context("port")?,
            tls: Arc::new(tls),
            token: user["token"].as_str().map(str::to_owned),
        })
    }
}

/// An answer.
pub struct Answer {
    /// Status code.
    pub code: u16,
    /// The whole body.
    pub body: Bytes,
}

/// A connection. Cheap to clone.
#[derive(Clone)]
pub struct Client {
    sender: SendRequest<Full<Bytes>>,
    authority: Arc<str>,
    token: Option<Arc<str>>,
}

impl Client {
    /// Opens some connections.
    pub async fn several(target: &Target, count: usize) -> Result<Vec<Client>> {
        let mut clients = Vec::new();
        for _ in 0..count {
            clients.push(Client::open(target).await?);
        }
        Ok(clients)
    }

    async fn open(target: &Target) -> Result<Client> {
        let stream = tokio::net::TcpStream::connect((target.host.as_str(), target.port)).await?;
        stream.set_nodelay(true)?;
        let name = ServerName::try_from(target.host.clone())?;
        let stream = tokio_rustls::TlsConnector::from(target.tls.clone()).connect(name, stream).await?;
        let (sender, connection) = Builder::new(TokioExecutor::new())
            .initial_stream_window_size(4 << 20)
            .initial_connection_window_size(32 << 20)
            .max_frame_size(1 << 18)
            .handshake(TokioIo::new(stream))
            .await?;
        tokio::spawn(connection);
        Ok(Client {
            sender,
            authority: format!("{}:{}", target.host, target.port).into(),
            token: target.token.clone().map(Into::into),
        })
    }

    async fn request(
        &self,
        method: &str,
        path: &str,
        body: String,
        headers: &[(&str, &str)],
    ) -> Result<hyper::Response<hyper::body::Incoming>> {
        let mut request = hyper::Request::builder()
            .method(method)
            .uri(format!("https://{}{path}", self.authority))
            .header("user-agent", "orkd-bench");
        if let Some(token) = &self.token {
            request = request.header("authorization", format!("Bearer {token}"));
        }
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let mut sender = self.sender.clone();
        Ok(sender.send_request(request.body(Full::new(body.into()))?).await?)
    }

    /// Sends a request and reads the answer.
    pub async fn send(&self, method: &str, path: &str, body: String, headers: &[(&str, &str)]) -> Result<Answer> {
        let response = self.request(method, path, body, headers).await?;
        let code = response.status().as_u16();
        Ok(Answer { code, body: response.into_body().collect().await?.to_bytes() })
    }

    /// Begins a watch.
    pub async fn lines(&self, path: &str) -> Result<Lines> {
        let response = self.request("GET", path, String::new(), &[]).await?;
        ensure!(response.status() == 200, "{path}: {}", response.status());
        Ok(Lines { body: response.into_body(), buffer: BytesMut::new() })
    }
}

/// The lines of an answer that does not end.
pub struct Lines {
    body: hyper::body::Incoming,
    buffer: BytesMut,
}

impl Lines {
    /// The next line; `None` at the end.
    pub async fn next(&mut self) -> Result<Option<Bytes>> {
        loop {
            if let Some(end) = self.buffer.iter().position(|b| *b == b'\n') {
                return Ok(Some(self.buffer.split_to(end + 1).freeze()));
            }
            match self.body.frame().await {
                None => return Ok(None),
                Some(frame) => {
                    if let Ok(data) = frame?.into_data() {
                        self.buffer.extend_from_slice(&data);
                    }
                }
            }
        }
    }
}
