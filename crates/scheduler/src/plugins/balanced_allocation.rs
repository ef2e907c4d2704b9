//! A node whose cpu and memory would be used to the same degree is better. Upstream:
//! `plugins/noderesources/balanced_allocation.go`.

use crate::framework::{MAX_SCORE, Score};
use crate::nodes::{CPU, MEMORY, Nodes};
use crate::pod::PodInfo;

/// See the module.
pub struct BalancedAllocation;

impl Score for BalancedAllocation {
    fn name(&self) -> &'static str {
        "NodeResourcesBalancedAllocation"
    }

    fn weight(&self) -> i64 {
        1
    }

    fn score(&self, pod: &PodInfo, nodes: &Nodes, feasible: &[usize], scores: &mut [i64]) {
        // A pod that requests nothing does not change the balance.
        if pod.requests.is_empty() {
            return;
        }
        let request = |resource: &str| pod.requests.get(resource).copied().unwrap_or(0);
        let wanted = [(CPU, request("cpu")), (MEMORY, request("memory"))];
        for (score, &i) in scores.iter_mut().zip(feasible) {
            let fractions = wanted.map(|(column, wanted)| {
                let has = nodes.allocatable[column][i];
                let used = nodes.used[column][i] + wanted;
                if has == 0 { 0.0 } else { (used as f64 / has as f64).min(1.0) }
            });
            let deviation = (fractions[0] - fractions[1]).abs() / 2.0;
            *score = ((1.0 - deviation) * MAX_SCORE as f64) as i64;
        }
    }
}
