//! Sends a pod to its node by the `binding` subresource. Upstream: `plugins/defaultbinder`.

use std::sync::Arc;

use orkd_reconcile::Api;

use crate::cluster::Cluster;
use crate::framework::{Act, Plugin, Point};
use crate::pod::PodInfo;

/// See the module.
pub struct DefaultBinder {
    /// How to reach the API; without it no pod is ever sent.
    pub api: Option<Api>,
}

impl Plugin for DefaultBinder {
    fn name(&self) -> &'static str {
        "DefaultBinder"
    }

    fn points(&self) -> &'static [Point] {
        &[Point::Bind]
    }

    fn bind(&self, _cluster: &Cluster, pod: &Arc<PodInfo>, node: &str) -> Option<Act> {
        let (api, pod, node) = (self.api.clone()?, pod.clone(), node.to_owned());
        Some(Box::pin(async move {
            api.bind(&pod.meta.namespace, &pod.meta.name, pod.uid(), &node).await.map_err(|e| e.to_string())
        }))
    }
}
