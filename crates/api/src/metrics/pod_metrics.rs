//! `PodMetrics`: what the containers of a pod use. Read only and made up on the spot.
//!
//! Upstream: `pkg/api/pod.go` of `sigs.k8s.io/metrics-server`.

use serde_json::Value;

use super::{COLUMNS, GROUP, VERSION, cells, of_containers};
use crate::kind::{Cells, Kind};
use crate::kinds::{Facts, facts};

/// The kind `PodMetrics`.
pub struct PodMetrics;

impl Kind for PodMetrics {
    facts!(Facts {
        kind: "PodMetrics",
        plural: "pods",
        singular: "pod",
        verbs: &["get", "list"],
        columns: COLUMNS,
        ..Facts::namespaced(GROUP, VERSION)
    });

    fn cells(&self, obj: &Value, _now: jiff::Timestamp) -> Cells {
        cells(obj, &of_containers(obj))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_row_is_the_sum_of_the_containers() {
        let usage = |cpu: &str, memory: &str| json!({"name": "c", "usage": {"cpu": cpu, "memory": memory}});
        let check = |containers: Value, expected: [&str; 4]| {
            let pod = json!({"metadata": {"name": "p"}, "window": "10s", "containers": containers});
            assert_eq!(PodMetrics.cells(&pod, jiff::Timestamp::UNIX_EPOCH), expected.map(|c| json!(c)));
        };
        check(json!([usage("1500n", "4Ki"), usage("500n", "4Ki")]), ["p", "2u", "8Ki", "10s"]);
        check(json!([]), ["p", "0", "0", "10s"]);
    }
}
