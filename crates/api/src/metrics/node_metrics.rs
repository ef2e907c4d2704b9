//! `NodeMetrics`: what a node uses. Read only and made up on the spot.
//!
//! Upstream: `pkg/api/node.go` of `sigs.k8s.io/metrics-server`.

use serde_json::Value;

use super::{COLUMNS, GROUP, VERSION, cells};
use crate::kind::{Cells, Kind};
use crate::kinds::{Facts, facts};

/// The kind `NodeMetrics`.
pub struct NodeMetrics;

impl Kind for NodeMetrics {
    facts!(Facts {
        kind: "NodeMetrics",
        plural: "nodes",
        singular: "node",
        verbs: &["get", "list"],
        columns: COLUMNS,
        ..Facts::cluster(GROUP, VERSION)
    });

    fn cells(&self, obj: &Value, _now: jiff::Timestamp) -> Cells {
        cells(obj, &[&obj["usage"]])
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_row_is_what_the_node_uses() {
        let node = json!({
            "metadata": {"name": "n"}, "window": "15.2s", "usage": {"cpu": "123456789n", "memory": "1024Ki"},
        });
        let cells = NodeMetrics.cells(&node, jiff::Timestamp::UNIX_EPOCH);
        assert_eq!(cells, ["n", "123456789n", "1Mi", "15.2s"].map(|c| json!(c)));
    }

    #[test]
    fn facts_are_those_of_metrics_server() {
        let info = NodeMetrics.info();
        assert_eq!(info.type_name, "k8s.io/metrics/pkg/apis/metrics/v1beta1.NodeMetrics");
        assert_eq!((&*info.plural, &*info.singular), ("nodes", "node"));
        assert!(crate::schema::Type::of_kind("metrics.k8s.io", "v1beta1", "NodeMetrics").is_some());
    }
}
