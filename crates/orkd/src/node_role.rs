//! A node that runs in a server says so: it has the role `control-plane`, as nodes of kubeadm and k3s have it, and no taint.
//!
//! Kubelets may not give themselves roles (`NodeRestriction`), so the server labels its own node, and again when the node
//! was removed and has come back.

use std::time::Duration;

use orkd_base::{Backoff, chain};
use orkd_kubelet::views::NodeView;
use orkd_reconcile::{Api, Informer, Patch, Resource, View};
use serde::de::IgnoredAny;
use serde_json::json;
use tokio_util::sync::CancellationToken;
use tracing::warn;

/// `kubectl get nodes` shows what comes after the stroke.
const LABEL: &str = "node-role.kubernetes.io/control-plane";

/// Keeps the role on the node that `own` has, until stopped.
pub async fn run(api: Api, own: Informer<NodeView>, stop: CancellationToken) {
    let mut changes = own.channel();
    loop {
        let change = tokio::select! {
            () = stop.cancelled() => return,
            change = changes.recv() => change,
        };
        let Some(change) = change else { return };
        let node = change.object().meta();
        if change.is_deleted() || node.labels.contains_key(LABEL) {
            continue;
        }
        let target = Resource::of::<NodeView>().at("", &node.name);
        let patch = Patch::Merge(json!({"metadata": {"uid": node.uid, "labels": {LABEL: ""}}}));
        let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(5));
        while let Err(error) = api.patch::<IgnoredAny>(&target, &patch).await {
            // Another node has the name now, or none: that is another change.
            if error.is_not_found() || error.is_conflict() {
                break;
            }
            warn!(error = %chain(&error), "this node did not get its role; trying again");
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(backoff.next_delay()) => {}
            }
        }
    }
}
