//! What a cluster is born with comes back when it is deleted while the server runs: system namespaces, the ConfigMaps
//! that clients trust the server by, the `kubernetes` Service
//! (`pkg/controlplane/controller/{systemnamespaces,clusterauthenticationtrust,kubernetesservice}`).

use std::sync::Arc;

use arc_swap::ArcSwap;
use futures_util::FutureExt;
use futures_util::future::select_all;
use tokio_util::sync::CancellationToken;

use super::{Facts, NAMESPACES};
use crate::cache::{Changed, Changes};
use crate::pipeline::ApiServer;

/// Resources that are looked at, and the keys of the objects that are kept.
const KEPT: [(&str, &[&str]); 3] = [
    ("namespaces", &NAMESPACES),
    ("configmaps", &["kube-system/extension-apiserver-authentication", "kube-public/cluster-info"]),
    ("services", &["default/kubernetes"]),
];

/// Makes again what is deleted, until told to stop. What is said about the cluster may change meanwhile.
pub async fn run(server: ApiServer, facts: Arc<ArcSwap<Facts>>, stop: CancellationToken) {
    let reader = server.reader();
    let mut feeds: Vec<(&[&str], Changes)> =
        KEPT.iter().filter_map(|(resource, keys)| Some((*keys, reader.subscribe("", resource)?))).collect();
    if feeds.is_empty() {
        return;
    }
    loop {
        let next = select_all(feeds.iter_mut().map(|(keys, feed)| async { (*keys, feed.next().await) }.boxed()));
        let (keys, changed) = tokio::select! {
            () = stop.cancelled() => return,
            (next, _, _) = next => next,
        };
        let Changed::Delete { old } = changed else { continue };
        if !keys.contains(&&*old.key) {
            continue;
        }
        if let Err(status) = super::run(&server, &facts.load_full(), jiff::Timestamp::now()).await {
            tracing::warn!(why = status.message, "what the system needs could not be made again");
        }
    }
}
