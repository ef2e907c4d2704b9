//! Requests as a client of the API makes them, from a thread in a machine's network ([`crate::machine::Machine::thread`]).

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use http::{Request, Response};
use http_body_util::BodyExt;
use kube::client::Body;
use orkd_pki::cert::{Identity, chain_from_pem};
use orkd_pki::kubeconfig::Kubeconfig;
use orkd_pki::tls;
use rustls::RootCertStore;
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// A client with the credential of a kubeconfig.
#[derive(Clone)]
pub struct Client(kube::Client);

impl Client {
    /// A client with the credential and address of a kubeconfig file.
    pub async fn new(kubeconfig: &Path) -> Result<Client> {
        // Two tests of one process may both be the first.
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let kubeconfig = kube::config::Kubeconfig::read_from(kubeconfig)?;
        let mut config = kube::Config::from_custom_kubeconfig(kubeconfig, &Default::default()).await?;
        config.read_timeout = None;
        Ok(Client(kube::Client::try_from(config)?))
    }

    /// Sends a request; the head of the answer and its body to come.
    pub async fn open(&self, method: &str, path: &str, kind: &str, body: &str) -> Result<Response<Body>> {
        let request = Request::builder().method(method).uri(path).header("content-type", kind);
        let request = request.header("accept", "application/json").body(Body::from(body.as_bytes().to_vec()))?;
        let answer = tokio::time::timeout(PATIENCE, self.0.send(request)).await;
        Ok(answer.with_context(|| format!("{method} {path}: no answer within {PATIENCE:?}"))??)
    }

    /// Sends a request; the code and object of the answer.
    pub async fn send(&self, method: &str, path: &str, kind: &str, body: &str) -> Result<(u16, Value)> {
        let answer = self.open(method, path, kind, body).await?;
        let code = answer.status().as_u16();
        let bytes = tokio::time::timeout(PATIENCE, answer.into_body().collect()).await??.to_bytes();
        let value = serde_json::from_slice(&bytes)
            .unwrap_or_else(|_| Value::String(String::from_utf8_lossy(&bytes).into_owned()));
        Ok((code, value))
    }

    /// Reads an object.
    pub async fn get(&self, path: &str) -> Result<Value> {
        let (code, value) = self.send("GET", path, "application/json", "").await?;
        ensure!(code == 200, "GET {path}: {code} {value}");
        Ok(value)
    }

    /// Makes an object; the code and object of the answer.
    pub async fn create(&self, path: &str, object: &Value) -> Result<(u16, Value)> {
        self.send("POST", path, "application/json", &object.to_string()).await
    }
}

/// What a connection of a test's own is made with.
pub struct Credential {
    address: SocketAddr,
    roots: Arc<RootCertStore>,
    identity: Option<Identity>,
}

/// A connection, on which the test says what it likes.
pub type Socket = TlsStream<TcpStream>;

impl Credential {
    /// That of a kubeconfig.
    pub fn of(kubeconfig: &Path) -> Result<Credential> {
        let resolved = Kubeconfig::load(kubeconfig)?.resolve()?;
        let authorities = chain_from_pem(resolved.authorities.as_deref().unwrap_or_default())?;
        let address = resolved.server.strip_prefix("https://").context("an https URL")?.parse()?;
        Ok(Credential { address, roots: tls::roots(authorities)?, identity: resolved.identity()? })
    }

    /// The same server, another client; `None` shows no certificate.
    pub fn with(self, identity: Option<Identity>) -> Credential {
        Credential { identity, ..self }
    }

    /// The same authorities and client, another server.
    pub fn at(self, address: SocketAddr) -> Credential {
        Credential { address, ..self }
    }

    /// Connects.
    pub async fn connect(&self, protocols: &[&[u8]]) -> Result<Socket> {
        let mut config = tls::client_config(self.roots.clone(), self.identity.as_ref())?;
        config.alpn_protocols = protocols.iter().map(|p| p.to_vec()).collect();
        let stream = TcpStream::connect(self.address).await?;
        let name = rustls::pki_types::ServerName::from(self.address.ip());
        Ok(TlsConnector::from(Arc::new(config)).connect(name, stream).await?)
    }

    /// Sends bytes over a connection of HTTP/1.1 and reads until the server ends it, or has sent a whole answer.
    pub async fn ask(&self, request: &[u8]) -> Result<String> {
        let mut stream = self.connect(&[b"http/1.1"]).await?;
        let exchange = async {
            // A server that refuses may do so before it has read all.
            let _ = stream.write_all(request).await;
            let _ = stream.flush().await;
            let mut answer = Vec::new();
            let mut buffer = [0; 16 << 10];
            while let Ok(n @ 1..) = stream.read(&mut buffer).await {
                answer.extend_from_slice(&buffer[..n]);
            }
            String::from_utf8_lossy(&answer).into_owned()
        };
        tokio::time::timeout(PATIENCE, exchange).await.context("the server neither answers nor ends")
    }
}

/// The lines of a body, as they come.
pub struct Lines {
    body: Body,
    buffer: Vec<u8>,
}

impl Lines {
    /// The lines of this body.
    pub fn new(body: Body) -> Lines {
        Lines { body, buffer: Vec::new() }
    }

    /// The next line; `None` at the end, also where it is a broken one.
    pub async fn next(&mut self) -> Option<Vec<u8>> {
        loop {
            if let Some(end) = self.buffer.iter().position(|b| *b == b'\n') {
                let rest = self.buffer.split_off(end + 1);
                return Some(std::mem::replace(&mut self.buffer, rest));
            }
            let data: Bytes = match self.body.frame().await {
                Some(Ok(frame)) => frame.into_data().unwrap_or_default(),
                _ => return None,
            };
            self.buffer.extend_from_slice(&data);
        }
    }
}

/// The resource version of an object or list.
pub fn revision(object: &Value) -> Option<u64> {
    object["metadata"]["resourceVersion"].as_str()?.parse().ok()
}
