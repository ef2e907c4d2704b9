//! One scheduling cycle: filter, score, choose. Upstream: `pkg/scheduler/schedule_one.go`.

use std::collections::BTreeMap;

use crate::framework::{Filter, Score, Verdicts};
use crate::nodes::Nodes;
use crate::pod::PodInfo;

/// Nodes are filtered in blocks of this size, so that a cycle ends soon after it has found enough.
const BLOCK: usize = 256;

/// Below this number of nodes all are looked at.
const MIN_FEASIBLE: usize = 100;

/// A profile: the plugins a cycle runs.
pub struct Profile {
    /// Filters, in order.
    pub filters: Vec<Box<dyn Filter>>,
    /// Scores.
    pub scores: Vec<Box<dyn Score>>,
}

impl Default for Profile {
    fn default() -> Self {
        Profile { filters: crate::plugins::filters(), scores: crate::plugins::scores() }
    }
}

/// Why no node will do.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Unfit {
    /// Number of nodes.
    pub nodes: usize,
    /// How many nodes each reason concerns.
    pub reasons: BTreeMap<String, usize>,
    /// How many nodes removing pods could not help.
    pub unresolvable: usize,
    /// The plugins that refused some node.
    pub plugins: Vec<&'static str>,
}

impl Unfit {
    /// The text of the condition and the event, as upstream's (`framework.FitError`).
    pub fn message(&self) -> String {
        if self.nodes == 0 {
            return "no nodes available to schedule pods".into();
        }
        let mut parts: Vec<String> = self.reasons.iter().map(|(reason, n)| format!("{n} {reason}")).collect();
        parts.sort();
        let mut text = format!("0/{} nodes are available: {}.", self.nodes, parts.join(", "));
        let helpless = self.nodes - self.unresolvable;
        let mut tries = Vec::new();
        if helpless > 0 {
            tries.push(format!("{helpless} No preemption victims found for incoming pod"));
        }
        if self.unresolvable > 0 {
            tries.push(format!("{} Preemption is not helpful for scheduling", self.unresolvable));
        }
        tries.sort();
        text.push_str(&format!(" preemption: 0/{} nodes are available: {}.", self.nodes, tries.join(", ")));
        text
    }
}

/// How many feasible nodes are enough (`numFeasibleNodesToFind`, `percentageOfNodesToScore` 0).
pub fn enough(nodes: usize) -> usize {
    if nodes < MIN_FEASIBLE {
        return nodes;
    }
    let percentage = 50usize.saturating_sub(nodes / 125).max(5);
    (nodes * percentage / 100).max(MIN_FEASIBLE)
}

/// Finds a node for a pod; its position. `start` is where the search begins, and moves on, so that all nodes get
/// their turn; `tie` chooses among the best (any number).
///
/// # Errors
/// Why no node will do.
pub fn schedule(
    profile: &Profile,
    nodes: &Nodes,
    pod: &PodInfo,
    start: &mut usize,
    tie: usize,
) -> Result<usize, Unfit> {
    let total = nodes.len();
    let wanted = enough(total);
    let mut verdicts = Verdicts::new(total);
    let mut feasible = Vec::with_capacity(wanted.min(total));
    let mut looked = 0;
    let mut block = Vec::with_capacity(BLOCK);
    while looked < total && feasible.len() < wanted {
        block.clear();
        block.extend((looked..total.min(looked + BLOCK)).map(|n| (*start + n) % total));
        for filter in &profile.filters {
            filter.filter(pod, nodes, &block, &mut verdicts);
        }
        for &i in &block {
            looked += 1;
            if verdicts.is_fit(i) {
                feasible.push(i);
                if feasible.len() == wanted {
                    break;
                }
            }
        }
    }
    if feasible.is_empty() {
        let (reasons, plugins) = verdicts.summary();
        let unresolvable = (0..total).filter(|i| !verdicts.is_resolvable(*i)).count();
        return Err(Unfit { nodes: total, reasons, unresolvable, plugins });
    }
    *start = (*start + looked) % total;
    Ok(best(profile, nodes, pod, &feasible, tie))
}

fn best(profile: &Profile, nodes: &Nodes, pod: &PodInfo, feasible: &[usize], tie: usize) -> usize {
    if let [only] = feasible {
        return *only;
    }
    let mut totals = vec![0i64; feasible.len()];
    let mut scores = vec![0i64; feasible.len()];
    for plugin in &profile.scores {
        scores.fill(0);
        plugin.score(pod, nodes, feasible, &mut scores);
        for (total, score) in totals.iter_mut().zip(&scores) {
            *total += score * plugin.weight();
        }
    }
    let max = totals.iter().copied().max().unwrap_or(0);
    let winners: Vec<usize> = feasible.iter().zip(&totals).filter(|(_, t)| **t == max).map(|(i, _)| *i).collect();
    winners[tie % winners.len()]
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::nodes::tests::{cpu, node, pod};

    fn cluster(nodes: &[(&str, &str, Value)]) -> Nodes {
        let mut all = Nodes::default();
        for (name, cpu, extra) in nodes {
            all.set_node(&node(name, cpu, extra.clone()));
        }
        all
    }

    /// Schedules a pod with `spec`; the node's name or the text of the refusal.
    fn check(nodes: &Nodes, spec: Value, expected: &str) {
        let got = match schedule(&Profile::default(), nodes, &pod("p", spec), &mut 0, 0) {
            Ok(i) => nodes.names[i].to_string(),
            Err(unfit) => unfit.message(),
        };
        assert_eq!(got, expected);
    }

    #[test]
    fn the_emptier_node_wins() {
        let mut nodes = cluster(&[("a", "1", json!({})), ("b", "1", json!({}))]);
        nodes.place(pod("x", cpu("500m")), "a");
        check(&nodes, cpu("100m"), "b");
    }

    #[test]
    fn refusals_are_told_as_upstream_tells_them() {
        check(&Nodes::default(), cpu("1"), "no nodes available to schedule pods");
        let mut nodes = cluster(&[
            ("a", "1", json!({})),
            ("b", "4", json!({"spec": {"unschedulable": true}})),
            ("c", "4", json!({"spec": {"taints": [{"key": "k", "value": "v", "effect": "NoSchedule"}]}})),
        ]);
        check(
            &nodes,
            cpu("2"),
            "0/3 nodes are available: 1 Insufficient cpu, 1 node(s) had untolerated taint(s), 1 node(s) were unschedulable. \
             preemption: 0/3 nodes are available: 3 Preemption is not helpful for scheduling.",
        );
        nodes.place(pod("x", cpu("900m")), "a");
        check(
            &nodes,
            cpu("500m"),
            "0/3 nodes are available: 1 Insufficient cpu, 1 node(s) had untolerated taint(s), 1 node(s) were unschedulable. \
             preemption: 0/3 nodes are available: 1 No preemption victims found for incoming pod, 2 Preemption is not \
             helpful for scheduling.",
        );
        let mut spec = cpu("2");
        spec["tolerations"] = json!([{"key": "k", "operator": "Exists"}]);
        check(&nodes, spec.clone(), "c");
        spec["tolerations"] = json!([{"operator": "Exists"}]);
        spec["nodeSelector"] = json!({"kubernetes.io/hostname": "b"});
        check(&nodes, spec, "b");
    }

    #[test]
    fn host_ports_are_taken_once() {
        let mut nodes = cluster(&[("a", "1", json!({}))]);
        let spec = json!({"containers": [{"ports": [{"hostPort": 80}]}]});
        check(&nodes, spec.clone(), "a");
        nodes.place(pod("x", spec.clone()), "a");
        check(
            &nodes,
            spec,
            "0/1 nodes are available: 1 node(s) didn't have free ports for the requested pod ports. preemption: 0/1 nodes \
             are available: 1 No preemption victims found for incoming pod.",
        );
    }

    #[test]
    fn large_clusters_are_searched_in_part_and_in_turn() {
        assert_eq!((enough(50), enough(1000), enough(5000), enough(20000)), (50, 420, 500, 1000));
        let mut nodes = Nodes::default();
        for i in 0..1000 {
            nodes.set_node(&node(&format!("n{i}"), "1", json!({})));
        }
        let mut start = 0;
        let first = schedule(&Profile::default(), &nodes, &pod("p", cpu("1m")), &mut start, 0).expect("it fits");
        assert!(start > 0 && start < 1000 && first < start);
    }
}
