//! Node selectors and node affinity. Upstream: `plugins/nodeaffinity`,
//! `k8s.io/component-helpers/scheduling/corev1/nodeaffinity`.

use std::collections::BTreeMap;

use crate::framework::{Event, Filter, Score, Verdicts, normalize};
use crate::model::{NodeSelectorTerm, Requirement};
use crate::nodes::Nodes;
use crate::pod::PodInfo;

const REASON: &str = "node(s) didn't match Pod's node affinity/selector";

/// See the module.
pub struct NodeAffinity;

/// Whether a value (absent: `None`) satisfies a requirement.
fn satisfies(value: Option<&str>, requirement: &Requirement) -> bool {
    let wanted = || requirement.values.iter().map(String::as_str);
    let compare = |holds: fn(i64, i64) -> bool| {
        let limit = requirement.values.first().and_then(|v| v.parse::<i64>().ok());
        let have = value.and_then(|v| v.parse::<i64>().ok());
        requirement.values.len() == 1 && have.zip(limit).is_some_and(|(have, limit)| holds(have, limit))
    };
    match requirement.operator.as_str() {
        "In" => value.is_some_and(|v| wanted().any(|w| w == v)),
        "NotIn" => value.is_none_or(|v| wanted().all(|w| w != v)),
        "Exists" => value.is_some(),
        "DoesNotExist" => value.is_none(),
        "Gt" => compare(|have, limit| have > limit),
        "Lt" => compare(|have, limit| have < limit),
        _ => false,
    }
}

fn matches_term(term: &NodeSelectorTerm, name: &str, labels: &BTreeMap<String, String>) -> bool {
    if term.match_expressions.is_empty() && term.match_fields.is_empty() {
        return false;
    }
    term.match_expressions.iter().all(|r| satisfies(labels.get(&r.key).map(String::as_str), r))
        && term.match_fields.iter().all(|r| r.key == "metadata.name" && satisfies(Some(name), r))
}

fn is_wanted(pod: &PodInfo, nodes: &Nodes, i: usize) -> bool {
    let labels = &nodes.labels[i];
    pod.node_selector.iter().all(|(k, v)| labels.get(k) == Some(v))
        && pod.node_affinity.required.as_ref().is_none_or(|required| {
            required.node_selector_terms.iter().any(|term| matches_term(term, &nodes.names[i], labels))
        })
}

impl Filter for NodeAffinity {
    fn name(&self) -> &'static str {
        "NodeAffinity"
    }

    fn filter(&self, pod: &PodInfo, nodes: &Nodes, candidates: &[usize], verdicts: &mut Verdicts) {
        if pod.node_selector.is_empty() && pod.node_affinity.required.is_none() {
            return;
        }
        let refusal = verdicts.refusal(Filter::name(self), REASON, true);
        for &i in candidates {
            if verdicts.is_fit(i) && !is_wanted(pod, nodes, i) {
                verdicts.refuse(i, refusal);
            }
        }
    }

    fn may_help(&self, event: Event<'_>, pod: &PodInfo, nodes: &Nodes) -> bool {
        let Event::Node { position, change } = event else { return false };
        (change.added || change.labels) && is_wanted(pod, nodes, position)
    }
}

impl Score for NodeAffinity {
    fn name(&self) -> &'static str {
        "NodeAffinity"
    }

    fn weight(&self) -> i64 {
        2
    }

    fn score(&self, pod: &PodInfo, nodes: &Nodes, feasible: &[usize], scores: &mut [i64]) {
        let preferred = &pod.node_affinity.preferred;
        if preferred.is_empty() {
            return;
        }
        for (score, &i) in scores.iter_mut().zip(feasible) {
            *score = preferred
                .iter()
                .filter(|p| matches_term(&p.preference, &nodes.names[i], &nodes.labels[i]))
                .map(|p| p.weight)
                .sum();
        }
        normalize(scores, false);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(value: Option<&str>, operator: &str, values: &[&str], expected: bool) {
        let requirement = Requirement {
            key: "k".into(),
            operator: operator.into(),
            values: values.iter().map(|v| (*v).to_owned()).collect(),
        };
        assert_eq!(satisfies(value, &requirement), expected, "{value:?} {operator} {values:?}");
    }

    #[test]
    fn operators() {
        check(Some("a"), "In", &["a", "b"], true);
        check(None, "In", &["a"], false);
        check(None, "NotIn", &["a"], true);
        check(Some("a"), "NotIn", &["a"], false);
        check(Some(""), "Exists", &[], true);
        check(None, "DoesNotExist", &[], true);
        check(Some("5"), "Gt", &["4"], true);
        check(Some("x"), "Gt", &["4"], false);
        check(Some("3"), "Lt", &["4"], true);
    }
}
