//! Clients of loops: in process with an identity, or over HTTPS with a kubeconfig.

use std::convert::Infallible;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use arc_swap::ArcSwap;
use http::{Request, Response};
use orkd_apiserver::Body;
use orkd_apiserver::handler::Router;
use orkd_apiserver::user::{InProcess, UserInfo};
use orkd_base::metrics::{Counter, Family};
use orkd_base::{BoxError, Supervisor, TaskKind, chain};
use orkd_pki::kubeconfig::{Kubeconfig, Resolved};
use orkd_reconcile::Client;
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;
use tracing::{info, warn};

/// How often a kubeconfig and the files it names are looked at, as client-go does.
const LOOK: Duration = Duration::from_secs(300);

static REQUESTS: Family<Counter> = Family::counter(
    "rest_client_requests_total",
    "[ALPHA] Number of HTTP requests, partitioned by status code, method, and host.",
    &["code", "host", "method"],
);

/// A client whose requests go to the router without a socket, as `user`: for loops.
pub fn in_process(router: Router, user: UserInfo) -> Client {
    let user = InProcess(user);
    Client::straight(move |request| serve(router.clone(), user.clone(), request.map(Body::from)))
}

/// The same for what is written against [`kube::Client`].
pub fn in_process_kube(router: Router, user: UserInfo) -> kube::Client {
    let user = InProcess(user);
    let service = tower::service_fn(move |request: Request<kube::client::Body>| {
        serve(router.clone(), user.clone(), request.map(Body::new))
    });
    kube::Client::new(service, "default")
}

async fn serve(router: Router, user: InProcess, mut request: Request<Body>) -> Result<Response<Body>, Infallible> {
    request.extensions_mut().insert(user);
    let method = request.method().clone();
    let response = router.oneshot(request).await?;
    REQUESTS.with(&[response.status().as_str(), "in-process", method.as_str()]).inc();
    Ok(response)
}

/// A client that uses the credential and address of a kubeconfig file.
///
/// # Errors
/// The file cannot be read, or what it names is not there.
pub async fn from_kubeconfig(path: &Path) -> anyhow::Result<kube::Client> {
    connect(path, config(path).await?)
}

/// A client whose credential may change while it is used: what it sends after [`Renewable::reload`] goes over new
/// connections, with what the files say then.
#[derive(Clone)]
pub struct Renewable {
    path: PathBuf,
    current: Arc<ArcSwap<(Resolved, kube::Client)>>,
}

impl Renewable {
    /// Reads a kubeconfig for the first time.
    ///
    /// # Errors
    /// As [`from_kubeconfig`].
    pub async fn new(path: &Path) -> anyhow::Result<Renewable> {
        let current = read(path).await?;
        Ok(Renewable { path: path.to_owned(), current: Arc::new(ArcSwap::from_pointee(current)) })
    }

    /// The client.
    pub fn client(&self) -> kube::Client {
        let current = self.current.clone();
        let service = tower::service_fn(move |request: Request<kube::client::Body>| {
            let client = current.load().1.clone();
            async move { client.send(request).await.map_err(BoxError::from) }
        });
        kube::Client::new(service, "default")
    }

    /// Reads the kubeconfig again; whether it says something else.
    ///
    /// # Errors
    /// As [`from_kubeconfig`]; what was read before stays in use.
    pub async fn reload(&self) -> anyhow::Result<bool> {
        let read = read(&self.path).await?;
        let is_new = read.0 != self.current.load().0;
        if is_new {
            self.current.store(Arc::new(read));
        }
        Ok(is_new)
    }

    /// Reads the kubeconfig again from time to time, for a role whose credential others renew.
    pub fn follow(&self, supervisor: &Supervisor) {
        let this = self.clone();
        supervisor.spawn(TaskKind::Housekeeping, "credential", move |stop: CancellationToken| async move {
            loop {
                tokio::select! {
                    () = stop.cancelled() => return,
                    () = tokio::time::sleep(LOOK) => {}
                }
                match this.reload().await {
                    Ok(true) => info!(file = %this.path.display(), "the credential is new, and used from now on"),
                    Ok(false) => {}
                    Err(error) => warn!(error = %chain(&*error), "the credential stays as it was"),
                }
            }
        });
    }
}

async fn read(path: &Path) -> anyhow::Result<(Resolved, kube::Client)> {
    let client = from_kubeconfig(path).await?;
    let resolved = Kubeconfig::load(path).and_then(|k| k.resolve()).with_context(|| unusable(path))?;
    Ok((resolved, client))
}

/// A client that uses the address of a kubeconfig file and no credential.
///
/// # Errors
/// As [`from_kubeconfig`].
pub async fn without_credential(path: &Path) -> anyhow::Result<kube::Client> {
    let mut config = config(path).await?;
    config.auth_info = kube::config::AuthInfo::default();
    connect(path, config)
}

async fn config(path: &Path) -> anyhow::Result<kube::Config> {
    if let Err(error) = std::fs::File::open(path) {
        bail!("cannot read kubeconfig {}: {error}; name another with --kubeconfig", path.display());
    }
    let kubeconfig = kube::config::Kubeconfig::read_from(path).with_context(|| unusable(path))?;
    let config = kube::Config::from_custom_kubeconfig(kubeconfig, &Default::default()).await;
    let mut config = config.with_context(|| unusable(path))?;
    // Watches are silent for as long as nothing happens.
    config.read_timeout = None;
    Ok(config)
}

fn connect(path: &Path, config: kube::Config) -> anyhow::Result<kube::Client> {
    kube::Client::try_from(config).with_context(|| unusable(path))
}

fn unusable(path: &Path) -> String {
    format!("cannot use kubeconfig {}", path.display())
}
