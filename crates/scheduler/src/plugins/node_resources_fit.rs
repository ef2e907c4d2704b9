//! A node must have what the pod requests; how full it should be is a matter of the strategy. Upstream:
//! `plugins/noderesources/fit.go`, `resource_allocation.go`, `least_allocated.go`, `most_allocated.go`,
//! `requested_to_capacity_ratio.go`.

use serde::Deserialize;

use crate::cluster::Cluster;
use crate::framework::{Cx, Event, MAX_SCORE, Plugin, Point, PreFilter, State, Verdicts, no_state};
use crate::nodes::{PODS, Rows};
use crate::pod::{Body, PodInfo};

const TOO_MANY_PODS: &str = "Too many pods";

/// `NodeResourcesFitArgs`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Args {
    /// Resources that are not looked at.
    pub ignored_resources: Vec<String>,
    /// Groups of resources (`example.com`) that are not looked at.
    pub ignored_resource_groups: Vec<String>,
    /// How nodes are rated.
    pub scoring_strategy: Option<Strategy>,
}

/// `ScoringStrategy`.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Strategy {
    /// Which; there is no default where anything else of it is said.
    #[serde(rename = "type", default = "not_said")]
    pub ty: StrategyType,
    /// The resources that count.
    pub resources: Vec<Weighted>,
    /// The shape of `RequestedToCapacityRatio`.
    pub requested_to_capacity_ratio: Option<Ratio>,
}

fn not_said() -> StrategyType {
    StrategyType::Other(String::new())
}

/// The strategies.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(from = "String")]
pub enum StrategyType {
    /// The emptier the better.
    #[default]
    LeastAllocated,
    /// The fuller the better.
    MostAllocated,
    /// By a line through points.
    RequestedToCapacityRatio,
    /// One that is not known; the configuration is refused.
    Other(String),
}

impl From<String> for StrategyType {
    fn from(text: String) -> StrategyType {
        match text.as_str() {
            "LeastAllocated" => StrategyType::LeastAllocated,
            "MostAllocated" => StrategyType::MostAllocated,
            "RequestedToCapacityRatio" => StrategyType::RequestedToCapacityRatio,
            _ => StrategyType::Other(text),
        }
    }
}

/// A resource and what it counts for.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Weighted {
    /// The resource.
    pub name: String,
    /// 1 to 100; 1 without.
    pub weight: i64,
}

/// `RequestedToCapacityRatioParam`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Ratio {
    /// The points.
    pub shape: Vec<ShapePoint>,
}

/// A point of a line.
#[derive(Clone, Copy, Debug, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ShapePoint {
    /// How much is used, in percent.
    pub utilization: i64,
    /// How good that is, from 0 to 10.
    pub score: i64,
}

impl Default for Strategy {
    fn default() -> Self {
        Strategy { ty: StrategyType::default(), resources: cpu_and_memory(), requested_to_capacity_ratio: None }
    }
}

/// What counts where nothing else is said.
pub fn cpu_and_memory() -> Vec<Weighted> {
    ["cpu", "memory"].map(|name| Weighted { name: name.into(), weight: 1 }).into()
}

/// See the module.
pub struct NodeResourcesFit {
    args: Args,
    strategy: Strategy,
}

impl NodeResourcesFit {
    /// With arguments.
    pub fn new(args: Args) -> NodeResourcesFit {
        let mut strategy = args.scoring_strategy.clone().unwrap_or_default();
        if strategy.resources.is_empty() {
            strategy.resources = cpu_and_memory();
        }
        strategy.resources.iter_mut().filter(|r| r.weight == 0).for_each(|r| r.weight = 1);
        NodeResourcesFit { args, strategy }
    }

    fn counts(&self, resource: &str) -> bool {
        let native = !resource.contains('/') || resource.starts_with("kubernetes.io/");
        native
            || !(self.args.ignored_resources.iter().any(|r| r == resource)
                || self.args.ignored_resource_groups.iter().any(|g| resource.split('/').next() == Some(g)))
    }

    fn rate(&self, has: i64, used: i64) -> i64 {
        match &self.strategy.ty {
            StrategyType::LeastAllocated | StrategyType::Other(_) if used > has => 0,
            StrategyType::LeastAllocated | StrategyType::Other(_) => part(has - used, has),
            StrategyType::MostAllocated => part(used.min(has), has),
            StrategyType::RequestedToCapacityRatio => {
                let shape = self.strategy.requested_to_capacity_ratio.as_ref().map_or(&[][..], |r| &r.shape);
                line(shape, if used > has { 100 } else { part(used, has) })
            }
        }
    }
}

/// `100 * amount / whole`, of amounts that fill an `i64`.
fn part(amount: i64, whole: i64) -> i64 {
    match amount.checked_mul(MAX_SCORE) {
        Some(product) => product / whole,
        None => (i128::from(amount) * i128::from(MAX_SCORE) / i128::from(whole)) as i64,
    }
}

/// A line through points (`helper.BuildBrokenLinearFunction`), in steps of a tenth of the best score.
fn line(shape: &[ShapePoint], at: i64) -> i64 {
    let score = |p: &ShapePoint| p.score * (MAX_SCORE / 10);
    let Some(right) = shape.iter().position(|p| at <= p.utilization) else { return shape.last().map_or(0, score) };
    let to = &shape[right];
    let Some(from) = right.checked_sub(1).map(|left| &shape[left]) else { return score(to) };
    score(from) + (score(to) - score(from)) * (at - from.utilization) / (to.utilization - from.utilization)
}

/// What a node has of a resource and what of it would be used, as scoring counts it: cpu and memory with something for
/// containers that state nothing (unless `exact`). A resource that a pod does not ask for does not count, if it is
/// none of the basic ones.
pub(super) fn has_and_used(
    cluster: &Cluster,
    pod: &Body,
    resource: &str,
    exact: bool,
    column: Option<usize>,
    i: usize,
) -> (i64, i64) {
    let rows: &Rows = &cluster.nodes.rows;
    let Some(column) = column else { return (0, 0) };
    let has = rows.allocatable[column][i];
    match resource {
        "cpu" if !exact => (has, rows.scored[i].0 + pod.scored.0),
        "memory" if !exact => (has, rows.scored[i].1 + pod.scored.1),
        _ => {
            let wanted = pod.request(resource);
            let basic = matches!(resource, "cpu" | "memory" | "ephemeral-storage");
            if wanted == 0 && !basic { (0, 0) } else { (has, rows.used[column][i] + wanted) }
        }
    }
}

/// Whether a resource that a node has none of is given as devices there.
fn is_of_devices(cluster: &Cluster, pod: &PodInfo, resource: &str, has: i64) -> bool {
    has == 0 && !pod.template.extended.is_empty() && cluster.devices.class_for(resource).is_some()
}

impl Plugin for NodeResourcesFit {
    fn name(&self) -> &'static str {
        "NodeResourcesFit"
    }

    fn points(&self) -> &'static [Point] {
        &[Point::PreFilter, Point::Filter, Point::PreScore, Point::Score]
    }

    fn is_local(&self) -> bool {
        true
    }

    fn pre_filter(&self, _cluster: &mut Cluster, _pod: &PodInfo) -> PreFilter {
        PreFilter::Go(no_state())
    }

    fn filter(&self, cx: &Cx<'_>, _state: &State, candidates: &[u32], verdicts: &mut Verdicts) {
        let nodes = &cx.cluster.nodes;
        let rows = &nodes.rows;
        let requests: Vec<_> = (cx.pod.template.requests.iter())
            .filter(|(resource, _)| self.counts(resource))
            .map(|(resource, wanted)| (resource.as_str(), *wanted, nodes.resource(resource)))
            .collect();
        for i in candidates.iter().map(|i| *i as usize) {
            // One plugin may hold several things against a node: who is judged is settled first.
            if !verdicts.is_fit(i) {
                continue;
            }
            if rows.used[PODS][i] + 1 > rows.allocatable[PODS][i] {
                let refusal = verdicts.refusal(self.name(), TOO_MANY_PODS, false);
                verdicts.refuse(i, refusal);
            }
            for (resource, wanted, column) in &requests {
                let (has, used) = column.map_or((0, 0), |c| (rows.allocatable[c][i], rows.used[c][i]));
                if *wanted > has - used && !is_of_devices(cx.cluster, cx.pod, resource, has) {
                    // What the empty node does not have, no eviction gives.
                    let refusal = verdicts.refusal(self.name(), format!("Insufficient {resource}"), *wanted > has);
                    verdicts.refuse(i, refusal);
                }
            }
        }
    }

    fn score(&self, cx: &Cx<'_>, _state: &State, nodes: &[u32], scores: &mut [i64]) {
        let template = cx.template();
        let columns: Vec<_> = self.strategy.resources.iter().map(|r| (r, cx.cluster.nodes.resource(&r.name))).collect();
        for (score, i) in scores.iter_mut().zip(nodes) {
            let (mut sum, mut weights) = (0, 0);
            for (resource, column) in &columns {
                let (has, used) = has_and_used(cx.cluster, template, &resource.name, false, *column, *i as usize);
                if has == 0 {
                    continue;
                }
                let rated = self.rate(has, used);
                // Of the points of a line only those above zero count.
                if rated > 0 || self.strategy.ty != StrategyType::RequestedToCapacityRatio {
                    sum += rated * resource.weight;
                    weights += resource.weight;
                }
            }
            *score = match (weights, &self.strategy.ty) {
                (0, _) => 0,
                (_, StrategyType::RequestedToCapacityRatio) => (sum as f64 / weights as f64).round() as i64,
                _ => sum / weights,
            };
        }
    }

    fn may_help(&self, event: Event<'_>, pod: &PodInfo, cluster: &Cluster) -> bool {
        let nodes = &cluster.nodes;
        match event {
            Event::Node { position, change } => {
                (change.added || change.allocatable)
                    && pod.template.requests.iter().filter(|(r, _)| self.counts(r)).all(|(resource, wanted)| {
                        let has = nodes.resource(resource).map_or(0, |c| nodes.rows.allocatable[c][position]);
                        *wanted <= has || is_of_devices(cluster, pod, resource, has)
                    })
            }
            // A class may stand for what no node has.
            Event::Devices => !pod.template.extended.is_empty(),
            // At least its place among the node's pods is free now.
            Event::PodGone(_) => true,
            Event::PodChanged { old, new } | Event::Itself { old, new } => {
                pod.template.requests.iter().any(|(r, _)| new.template.request(r) < old.template.request(r))
            }
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_broken_at_their_points() {
        let shape = [(0, 0), (50, 10), (100, 5)].map(|(utilization, score)| ShapePoint { utilization, score });
        let check = |at: i64, expected: i64| assert_eq!(line(&shape, at), expected, "at {at}");
        check(0, 0);
        check(25, 50);
        check(50, 100);
        check(75, 75);
        check(100, 50);
    }

    #[test]
    fn strategies_rate_as_upstream() {
        let fit = |ty| {
            NodeResourcesFit::new(Args {
                scoring_strategy: Some(Strategy { ty, ..Strategy::default() }),
                ..Args::default()
            })
        };
        assert_eq!(fit(StrategyType::LeastAllocated).rate(1000, 300), 70);
        assert_eq!(fit(StrategyType::LeastAllocated).rate(1000, 1300), 0);
        assert_eq!(fit(StrategyType::MostAllocated).rate(1000, 300), 30);
        assert_eq!(fit(StrategyType::MostAllocated).rate(1000, 1300), 100);
        assert_eq!(fit(StrategyType::LeastAllocated).rate(i64::MAX, 1), 99);
    }
}
