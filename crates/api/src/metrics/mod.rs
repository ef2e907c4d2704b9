//! The API group `metrics.k8s.io`: what nodes and pods use. Upstream leaves it to a second server (metrics-server);
//! here the API server answers itself, from what kubelets say.
//!
//! Upstream: `k8s.io/metrics/pkg/apis/metrics/v1beta1`, `pkg/api` of `sigs.k8s.io/metrics-server`.

use serde_json::{Value, json};

use crate::kind::{Cells, Kind};
use crate::kinds::NAME;
use crate::object::{list, text};
use crate::quantity::Quantity;
use crate::table::name;

pub mod node_metrics;
pub mod pod_metrics;

/// The kinds of the group.
pub fn all() -> Vec<Box<dyn Kind>> {
    vec![Box::new(node_metrics::NodeMetrics), Box::new(pod_metrics::PodMetrics)]
}

/// The group.
const GROUP: &str = "metrics.k8s.io";
/// Its only version.
const VERSION: &str = "v1beta1";

/// Columns of both kinds: one for each resource that is measured, and over which time.
const COLUMNS: &[(&str, &str, &str, i32)] =
    &[NAME, ("cpu", "string", "quantity", 0), ("memory", "string", "quantity", 0), ("Window", "string", "duration", 0)];

/// The cells of an object whose usages are these.
fn cells(obj: &Value, usages: &[&Value]) -> Cells {
    let sum = |resource: &str| {
        let amounts = usages.iter().filter_map(|u| u[resource].as_str()?.parse::<Quantity>().ok());
        amounts.fold(Quantity::ZERO, |sum, amount| sum + amount).to_string()
    };
    vec![json!(name(obj)), json!(sum("cpu")), json!(sum("memory")), json!(text(obj, &["window"]))]
}

/// The usages of a pod's containers.
fn of_containers(obj: &Value) -> Vec<&Value> {
    list(obj, &["containers"]).iter().map(|c| &c["usage"]).collect()
}
