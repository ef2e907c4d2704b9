//! A node whose resources would be used to the same degree is better. Upstream:
//! `plugins/noderesources/balanced_allocation.go`.

use serde::Deserialize;

use super::node_resources_fit::{Weighted, cpu_and_memory, has_and_used};
use crate::framework::{Cx, MAX_SCORE, Plugin, Point, State};

/// `NodeResourcesBalancedAllocationArgs`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Args {
    /// The resources that count.
    pub resources: Vec<Weighted>,
}

/// See the module.
pub struct BalancedAllocation {
    resources: Vec<Weighted>,
}

impl BalancedAllocation {
    /// With arguments.
    pub fn new(args: Args) -> BalancedAllocation {
        BalancedAllocation { resources: if args.resources.is_empty() { cpu_and_memory() } else { args.resources } }
    }
}

/// The standard deviation; half the difference of two.
fn deviation(fractions: &[f64]) -> f64 {
    match fractions {
        [] | [_] => 0.0,
        [a, b] => (a - b).abs() / 2.0,
        all => {
            let mean = all.iter().sum::<f64>() / all.len() as f64;
            (all.iter().map(|f| (f - mean) * (f - mean)).sum::<f64>() / all.len() as f64).sqrt()
        }
    }
}

impl Plugin for BalancedAllocation {
    fn name(&self) -> &'static str {
        "NodeResourcesBalancedAllocation"
    }

    fn points(&self) -> &'static [Point] {
        &[Point::PreScore, Point::Score]
    }

    fn is_local(&self) -> bool {
        true
    }

    fn score(&self, cx: &Cx<'_>, _state: &State, nodes: &[u32], scores: &mut [i64]) {
        let template = cx.template();
        // A pod that requests nothing does not change the balance.
        if self.resources.iter().all(|r| template.request(&r.name) == 0) {
            return;
        }
        let columns: Vec<_> = self.resources.iter().map(|r| (&r.name, cx.cluster.nodes.resource(&r.name))).collect();
        let mut fractions = Vec::with_capacity(columns.len());
        for (score, i) in scores.iter_mut().zip(nodes) {
            fractions.clear();
            for (resource, column) in &columns {
                let (has, used) = has_and_used(cx.cluster, template, resource, true, *column, *i as usize);
                if has > 0 {
                    fractions.push((used as f64 / has as f64).min(1.0));
                }
            }
            *score = ((1.0 - deviation(&fractions)) * MAX_SCORE as f64) as i64;
        }
    }
}
