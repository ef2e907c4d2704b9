//! How a machine becomes a node: by a token it gets a credential, by the credential its certificates.
//!
//! 1. The token names the hash of the cluster's authority. The first handshake accepts that authority and no other,
//!    so that a join cannot be intercepted.
//! 2. With the bootstrap token the node asks for its client certificate (`system:node:NAME`) by a
//!    CertificateSigningRequest, which the cluster approves and signs.
//! 3. With that it asks for the certificate of its own server (kubelet), for its name and address, and for a client
//!    certificate of `system:kube-proxy` for what runs beside the kubelet: as a node it may read nothing of others.
//!
//! All are kept below the data directory and made again before they end ([`renew`]). Upstream:
//! `pkg/kubelet/certificate/bootstrap`, `kubeadm join`.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use http::Uri;
use jiff::Timestamp;
use orkd_pki::cert::{Certificate, Identity, Profile};
use orkd_pki::csr;
use orkd_pki::files::{self, Durability, Mode};
use orkd_pki::key::Key;
use orkd_pki::kubeconfig::Kubeconfig;
use orkd_pki::tls::PinnedCa;
use orkd_pki::token::JoinToken;
use orkd_reconcile::{Api, ApiError, Resource};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::net::TcpStream;

use crate::progress::Progress;

const REQUESTS: Resource =
    Resource::new("certificates.k8s.io", "v1", "certificatesigningrequests", "CertificateSigningRequest", false);

/// How long the cluster may take to sign.
const PATIENCE: Duration = Duration::from_secs(60);

/// Where a node keeps what it is known by.
#[derive(Clone, Debug)]
pub struct Files {
    dir: PathBuf,
}

impl Files {
    /// Below the agent's directory.
    pub fn new(agent_dir: &Path) -> Files {
        Files { dir: agent_dir.join("tls") }
    }

    /// The cluster's authority.
    pub fn ca(&self) -> PathBuf {
        self.dir.join("ca.crt")
    }

    /// The kubeconfig with the node's credential.
    pub fn kubeconfig(&self) -> PathBuf {
        self.dir.join("kubelet.kubeconfig")
    }

    /// The kubeconfig with the credential of proxy, network and DNS.
    pub fn proxy_kubeconfig(&self) -> PathBuf {
        self.dir.join("kube-proxy.kubeconfig")
    }

    fn certificate(&self, name: &str) -> PathBuf {
        self.dir.join(format!("{name}.crt"))
    }

    fn key(&self, name: &str) -> PathBuf {
        self.dir.join(format!("{name}.key"))
    }

    /// A certificate and its key, if they are there and whole.
    pub fn load(&self, name: &str) -> Option<Identity> {
        let certificate = files::read(&self.certificate(name)).ok()??;
        let key = files::read(&self.key(name)).ok()??;
        Identity::from_pem(&certificate, &key).ok()
    }

    fn save(&self, name: &str, certificate: &str, key: &Key) -> anyhow::Result<()> {
        files::private_dir(&self.dir)?;
        files::write(&self.key(name), key.to_pem().as_bytes(), Mode::Private, Durability::Synced)?;
        files::write(&self.certificate(name), certificate.as_bytes(), Mode::Public, Durability::Synced)?;
        Ok(())
    }
}

/// The name of the pair with which a node is a client, and of that with which it serves.
pub const CLIENT: &str = "client";
/// See [`CLIENT`].
pub const SERVING: &str = "serving";
/// The pair of proxy, network and DNS.
pub const PROXY: &str = "kube-proxy";
/// Who they are.
const PROXY_USER: &str = "system:kube-proxy";

/// Joins a cluster: afterwards [`Files::kubeconfig`] is the node's credential. Does nothing where it is good already.
///
/// # Errors
/// A token or an authority that is not the cluster's, a server that cannot be reached, a request that is refused:
/// each with what to do.
pub async fn join(
    server: &str,
    token: Option<&str>,
    node: &str,
    files: &Files,
    progress: &Progress,
) -> anyhow::Result<()> {
    let now = Timestamp::now();
    if let Some(identity) = files.load(CLIENT)
        && identity.certificate.common_name == format!("system:node:{node}")
        && identity.certificate.is_valid_at(now)
        && files.kubeconfig().exists()
    {
        return Ok(());
    }
    let token = token.context("--token is needed to join: make one on the server with `orkd token create`")?;
    let token: JoinToken = token.parse().context("--token")?;
    let authority = progress.wait("the server", meet(server, &token.ca_hash)).await?;
    files::private_dir(&files.dir)?;
    files::write(&files.ca(), authority.to_pem().as_bytes(), Mode::Public, Durability::Synced)?;

    let bootstrap = Kubeconfig::for_token(server, &authority.to_pem(), "bootstrap", &token.bootstrap.to_string());
    let api = Api::new(connect(&bootstrap).await?, "orkd-join");
    let key = Key::generate()?;
    let profile = Profile::client(&format!("system:node:{node}"), &["system:nodes"]);
    let request = csr::create(&key, &profile)?;
    let wanted = Wanted { signer: "kubernetes.io/kube-apiserver-client-kubelet", usage: "client auth" };
    let certificate = progress
        .wait("the cluster to sign this node's certificate", obtain(&api, &wanted, &request))
        .await
        .map_err(|e| explain(e, server))?;
    files.save(CLIENT, &certificate, &key)?;
    Kubeconfig::for_files(server, &authority.to_pem(), "node", &files.certificate(CLIENT), &files.key(CLIENT))
        .save(&files.kubeconfig())?;
    progress.done("joined the cluster");
    Ok(())
}

fn explain(error: anyhow::Error, server: &str) -> anyhow::Error {
    match error.downcast_ref::<ApiError>().map(ApiError::code) {
        Some(401) => error.context(format!(
            "{server} does not accept the token: it is wrong or has expired; make another with `orkd token create`"
        )),
        Some(403) => error.context(format!("{server} does not let this token join machines")),
        _ => error,
    }
}

/// The serving certificate of a node, from the cluster; what is there and good is kept.
///
/// # Errors
/// A request that is refused or not answered.
pub async fn serving(api: &Api, node: &str, ip: IpAddr, files: &Files) -> anyhow::Result<Identity> {
    let now = Timestamp::now();
    if let Some(identity) = files.load(SERVING)
        && !identity.certificate.needs_renewal(now)
        && identity.certificate.ips.contains(&ip)
        && identity.certificate.common_name == format!("system:node:{node}")
    {
        return Ok(identity);
    }
    let key = Key::generate()?;
    let mut profile = Profile::server(&format!("system:node:{node}"), vec![node.to_owned()], vec![ip]);
    profile.organizations = vec!["system:nodes".into()];
    let wanted = Wanted { signer: "kubernetes.io/kubelet-serving", usage: "server auth" };
    let certificate = obtain(api, &wanted, &csr::create(&key, &profile)?).await?;
    files.save(SERVING, &certificate, &key)?;
    files.load(SERVING).context("the certificate that was signed cannot be read")
}

/// The client certificate of proxy, network and DNS, asked for with the node's credential; what is there and good is kept.
/// Afterwards [`Files::proxy_kubeconfig`] holds it.
///
/// # Errors
/// As [`serving`].
pub async fn proxy(api: &Api, files: &Files) -> anyhow::Result<Identity> {
    let path = files.proxy_kubeconfig();
    if let Some(identity) = files.load(PROXY)
        && !identity.certificate.needs_renewal(Timestamp::now())
        && path.exists()
    {
        return Ok(identity);
    }
    let key = Key::generate()?;
    let wanted = Wanted { signer: "kubernetes.io/kube-apiserver-client", usage: "client auth" };
    let request = csr::create(&key, &Profile::client(PROXY_USER, &[]))?;
    let certificate = obtain(api, &wanted, &request).await?;
    files.save(PROXY, &certificate, &key)?;
    let node = Kubeconfig::load(&files.kubeconfig())?.resolve()?;
    let authority = node.authorities.context("the node's kubeconfig names no certificate authority")?;
    Kubeconfig::for_files(&node.server, &authority, PROXY, &files.certificate(PROXY), &files.key(PROXY)).save(&path)?;
    files.load(PROXY).context("the certificate that was signed cannot be read")
}

/// The client certificate, replaced where it is in the last third of its life.
///
/// # Errors
/// As [`serving`].
pub async fn renew(api: &Api, node: &str, files: &Files) -> anyhow::Result<Identity> {
    let identity = files.load(CLIENT).context("this node has no client certificate")?;
    if !identity.certificate.needs_renewal(Timestamp::now()) {
        return Ok(identity);
    }
    let key = Key::generate()?;
    let profile = Profile::client(&format!("system:node:{node}"), &["system:nodes"]);
    let wanted = Wanted { signer: "kubernetes.io/kube-apiserver-client-kubelet", usage: "client auth" };
    let certificate = obtain(api, &wanted, &csr::create(&key, &profile)?).await?;
    files.save(CLIENT, &certificate, &key)?;
    files.load(CLIENT).context("the certificate that was signed cannot be read")
}

/// Shakes hands with the server and gives its authority, if that has the hash.
async fn meet(server: &str, hash: &str) -> anyhow::Result<Certificate> {
    let uri: Uri =
        server.parse().with_context(|| format!("--join {server}: expected a URL such as https://10.0.0.1:6443"))?;
    ensure!(uri.scheme_str() == Some("https"), "--join {server}: it must be an https URL");
    let host = uri.host().with_context(|| format!("--join {server}: it names no host"))?.trim_matches(['[', ']']);
    let stream = TcpStream::connect((host, uri.port_u16().unwrap_or(6443)))
        .await
        .with_context(|| format!("cannot reach {server}; is it up, and does a firewall let this machine through?"))?;
    let pin = PinnedCa::new(hash);
    let name = rustls::pki_types::ServerName::try_from(host.to_owned())?;
    let connector = tokio_rustls::TlsConnector::from(std::sync::Arc::new(pin.client_config()?));
    if let Err(error) = connector.connect(name, stream).await {
        bail!("{server} is not the server this token was made on ({error}); make a new token there");
    }
    pin.authority().context("the server shows no authority")
}

/// A client from a kubeconfig in memory.
async fn connect(kubeconfig: &Kubeconfig) -> anyhow::Result<kube::Client> {
    let parsed = kube::config::Kubeconfig::from_yaml(&kubeconfig.to_yaml()?)?;
    let config = kube::Config::from_custom_kubeconfig(parsed, &Default::default()).await?;
    Ok(kube::Client::try_from(config)?)
}

/// What sort of certificate is asked for.
struct Wanted {
    signer: &'static str,
    usage: &'static str,
}

#[derive(Debug, Deserialize)]
struct Answer {
    #[serde(default)]
    status: AnswerStatus,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct AnswerStatus {
    certificate: Option<String>,
    conditions: Vec<Condition>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Condition {
    #[serde(rename = "type")]
    ty: String,
    message: String,
}

/// Asks for a certificate and waits for it; PEM.
async fn obtain(api: &Api, wanted: &Wanted, request: &str) -> anyhow::Result<String> {
    let body = json!({
        "apiVersion": "certificates.k8s.io/v1",
        "kind": "CertificateSigningRequest",
        "metadata": {"generateName": "csr-"},
        "spec": {
            "request": BASE64_STANDARD.encode(request),
            "signerName": wanted.signer,
            "usages": ["digital signature", wanted.usage],
        },
    });
    let made: Value = api.create(&REQUESTS.collection(""), &body).await?;
    let name = made["metadata"]["name"].as_str().context("the request that was made has no name")?;
    let target = REQUESTS.at("", name);
    let deadline = tokio::time::Instant::now() + PATIENCE;
    let mut wait = Duration::from_millis(20);
    loop {
        let answer: Answer = api.get(&target).await?;
        if let Some(text) = answer.status.certificate.filter(|c| !c.is_empty()) {
            return Ok(String::from_utf8(BASE64_STANDARD.decode(text)?)?);
        }
        if let Some(no) = answer.status.conditions.iter().find(|c| c.ty == "Denied" || c.ty == "Failed") {
            bail!("the cluster refuses to sign {name}: {}", no.message);
        }
        if tokio::time::Instant::now() > deadline {
            bail!("the cluster has not signed {name} within {PATIENCE:?}; see `kubectl describe csr {name}`");
        }
        tokio::time::sleep(wait).await;
        wait = (wait * 2).min(Duration::from_secs(1));
    }
}
