//! A pod with scheduling gates waits until they are gone. Upstream: `plugins/schedulinggates`.

use crate::cluster::Cluster;
use crate::framework::{Plugin, Point};
use crate::pod::PodInfo;

/// See the module.
pub struct SchedulingGates;

/// Upstream's name.
pub const NAME: &str = "SchedulingGates";

impl Plugin for SchedulingGates {
    fn name(&self) -> &'static str {
        NAME
    }

    fn points(&self) -> &'static [Point] {
        &[Point::PreEnqueue]
    }

    fn pre_enqueue(&self, _cluster: &Cluster, pod: &PodInfo) -> Option<String> {
        (!pod.gates.is_empty()).then(|| format!("waiting for scheduling gates: [{}]", pod.gates.join(" ")))
    }
}
