//! Pods with claims for devices. Upstream: `plugins/dynamicresources`.
//!
//! Devices are not allocated: a pod that claims any is refused, and says so. For all others the plugin only adds what
//! upstream's adds to the text of a refusal.

use crate::cluster::Cluster;
use crate::cycle::{Trial, Unfit};
use crate::framework::{Plugin, Point, PostFilter, PreFilter};
use crate::pod::PodInfo;

/// See the module.
pub struct DynamicResources;

impl Plugin for DynamicResources {
    fn name(&self) -> &'static str {
        "DynamicResources"
    }

    fn points(&self) -> &'static [Point] {
        &[Point::PreFilter, Point::PostFilter]
    }

    fn pre_filter(&self, _cluster: &mut Cluster, pod: &PodInfo) -> PreFilter {
        if pod.template.resource_claims.is_empty() {
            return PreFilter::Skip;
        }
        let reason = "dynamic resource allocation is not available".to_owned();
        PreFilter::Refuse { reason, unresolvable: true }
    }

    fn post_filter(&self, _trial: &mut Trial<'_>, _unfit: &Unfit) -> PostFilter {
        PostFilter::Nothing("no new claims to deallocate".into())
    }
}
