//! Clients of loops: in process with an identity, or over HTTPS with a kubeconfig.

use std::path::Path;

use anyhow::Context;
use http::Request;
use orkd_apiserver::handler::Router;
use orkd_apiserver::user::{InProcess, UserInfo};
use tower::ServiceExt;

/// A client whose requests go to the router without a socket, as `user`.
pub fn in_process(router: Router, user: UserInfo) -> kube::Client {
    let service = router.map_request(move |mut request: Request<kube::client::Body>| {
        request.extensions_mut().insert(InProcess(user.clone()));
        request
    });
    kube::Client::new(service, "default")
}

/// A client that uses the credential and address of a kubeconfig file.
///
/// # Errors
/// The file cannot be read, or what it names is not there.
pub async fn from_kubeconfig(path: &Path) -> anyhow::Result<kube::Client> {
    connect(path, config(path).await?)
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
