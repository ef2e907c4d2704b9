//! Hollow nodes: kubelets on the runtime in memory, all of them in this process. They register, hold leases, start
//! what is bound to them and say so, and no container runs. For benches of everything else.
//!
//! `cargo run --release -p orkd-kubelet --example hollow -- KUBECONFIG NODES` until it is ended.

use std::sync::Arc;

use orkd_base::Supervisor;
use orkd_cri::Fake;

/// Kubelets that share a client: one connection cannot carry all of them.
const SHARE: usize = 10;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args().skip(1);
    let (Some(kubeconfig), Some(nodes)) = (args.next(), args.next()) else {
        return Err("hollow KUBECONFIG NODES".into());
    };
    // Another provider may have been installed: either will do.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let nodes: usize = nodes.parse()?;
    let supervisor = Supervisor::new();
    let mut client = None;
    for i in 0..nodes {
        if i % SHARE == 0 {
            let kubeconfig = kube::config::Kubeconfig::read_from(&kubeconfig)?;
            let mut config = kube::Config::from_custom_kubeconfig(kubeconfig, &Default::default()).await?;
            // Watches are silent for as long as nothing happens.
            config.read_timeout = None;
            client = Some(kube::Client::try_from(config)?);
        }
        let Some(client) = client.clone() else { continue };
        let config = orkd_kubelet::Config::hollow(&format!("hollow-{i}"), Arc::new(Fake::new()));
        orkd_kubelet::start(config, client, &supervisor).await?;
    }
    let fatal = supervisor.failed().await;
    Err(format!("{}: {}", fatal.task, fatal.error).into())
}
