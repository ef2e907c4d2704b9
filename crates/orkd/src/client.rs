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
    let what = || format!("cannot use kubeconfig {}", path.display());
    let kubeconfig = kube::config::Kubeconfig::read_from(path).with_context(what)?;
    let mut config = kube::Config::from_custom_kubeconfig(kubeconfig, &Default::default()).await.with_context(what)?;
    // Watches are silent for as long as nothing happens.
    config.read_timeout = None;
    kube::Client::try_from(config).with_context(what)
}
