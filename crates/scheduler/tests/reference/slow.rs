//! The reference: nothing kept, nothing clever.

use std::collections::{BTreeMap, BTreeSet};

use orkd_reconcile::LabelSelector;
use orkd_scheduler::model::{Node, Pod, PodAffinityTerm, SpreadConstraint, Taint};
use orkd_scheduler::requests;
use serde_json::Value;

type Labels = BTreeMap<String, String>;

/// What the reference says of a pod.
#[derive(Debug, Default)]
pub struct Outcome {
    /// The nodes that will do, with their ratings.
    pub scores: BTreeMap<String, i64>,
    /// How many nodes each reason concerns.
    pub reasons: BTreeMap<String, usize>,
    /// Nodes that removing pods could help.
    pub resolvable: Vec<String>,
}

/// The cluster, as it is said.
#[derive(Default)]
pub struct Cluster {
    pub nodes: BTreeMap<String, Node>,
    pub pods: BTreeMap<String, (Pod, String)>,
    pub namespaces: BTreeMap<String, Labels>,
}

fn decode(pod: &Value) -> Pod {
    serde_json::from_value(pod.clone()).expect("a pod")
}

fn matches(selector: Option<&LabelSelector>, labels: &Labels) -> bool {
    selector.is_some_and(|s| s.matches(labels))
}

fn number(of: &BTreeMap<String, String>, resource: &str) -> i64 {
    of.get(resource).map_or(0, |text| requests::parse_amount(resource, text))
}

fn request(pod: &Pod, resource: &str) -> i64 {
    requests::of_pod(pod).0.iter().find(|(r, _)| r == resource).map_or(0, |(_, n)| *n)
}

fn tolerated(pod: &Pod, taint: &Taint) -> bool {
    pod.spec.tolerations.iter().any(|t| t.tolerates(taint))
}

fn hard(taint: &&Taint) -> bool {
    matches!(taint.effect.as_str(), "NoSchedule" | "NoExecute")
}

fn wanted_node(pod: &Pod, node: &Node) -> bool {
    pod.spec.node_selector.iter().all(|(k, v)| node.metadata.labels.get(k) == Some(v))
}

fn host_ports(pod: &Pod) -> BTreeSet<u16> {
    pod.spec.containers.iter().flat_map(|c| &c.ports).map(|p| p.host_port).filter(|p| *p > 0).collect()
}

impl Cluster {
    pub fn place(&mut self, pod: &Value, node: &str) {
        let pod = decode(pod);
        self.pods.insert(pod.metadata.uid.clone(), (pod, node.to_owned()));
    }

    fn pods_on<'a>(&'a self, node: &'a str) -> impl Iterator<Item = &'a Pod> {
        self.pods.values().filter(move |(_, n)| n == node).map(|(p, _)| p)
    }

    /// Pods on nodes that there are, with their nodes.
    fn all_pods(&self) -> impl Iterator<Item = (&Pod, &Node)> {
        self.pods.values().filter_map(|(p, n)| Some((p, self.nodes.get(n)?)))
    }

    fn term_means(&self, term: &PodAffinityTerm, owner: &Pod, pod: &Pod) -> bool {
        let namespace = &*pod.metadata.namespace;
        let none = Labels::new();
        let labels = self.namespaces.get(namespace).unwrap_or(&none);
        let in_namespace = if term.namespaces.is_empty() && term.namespace_selector.is_none() {
            *owner.metadata.namespace == *namespace
        } else {
            term.namespaces.iter().any(|n| n == namespace)
                || term.namespace_selector.as_ref().is_some_and(|s| s.matches(labels))
        };
        in_namespace && matches(term.label_selector.as_ref(), &pod.metadata.labels)
    }

    pub fn schedule(&self, pod: &Value) -> Outcome {
        let pod = decode(pod);
        let mut outcome = Outcome::default();
        let mut feasible = Vec::new();
        for (name, node) in &self.nodes {
            let held = self.filter(&pod, node);
            if held.is_empty() {
                feasible.push(node);
                continue;
            }
            if held.iter().all(|(_, unresolvable)| !unresolvable) {
                outcome.resolvable.push(name.clone());
            }
            for (reason, _) in held {
                *outcome.reasons.entry(reason).or_default() += 1;
            }
        }
        let plugins: [(i64, Vec<i64>); 7] = [
            (3, self.taint_scores(&pod, &feasible)),
            (2, self.affinity_scores(&pod, &feasible)),
            (1, self.least_allocated(&pod, &feasible)),
            (1, self.balanced(&pod, &feasible)),
            (1, self.images(&pod, &feasible)),
            (2, self.spread_scores(&pod, &feasible)),
            (2, self.pod_affinity_scores(&pod, &feasible)),
        ];
        for (i, node) in feasible.iter().enumerate() {
            let total = plugins.iter().map(|(weight, scores)| weight * scores[i]).sum();
            outcome.scores.insert(node.metadata.name.to_string(), total);
        }
        outcome
    }

    /// What the first plugin that refuses a node holds against it.
    fn filter(&self, pod: &Pod, node: &Node) -> Vec<(String, bool)> {
        let one = |reason: &str, unresolvable: bool| vec![(reason.to_owned(), unresolvable)];
        let cordon =
            Taint { key: "node.kubernetes.io/unschedulable".into(), value: String::new(), effect: "NoSchedule".into() };
        if node.spec.unschedulable && !tolerated(pod, &cordon) {
            return one("node(s) were unschedulable", true);
        }
        if node.spec.taints.iter().filter(hard).any(|t| !tolerated(pod, t)) {
            return one("node(s) had untolerated taint(s)", true);
        }
        if !wanted_node(pod, node) {
            return one("node(s) didn't match Pod's node affinity/selector", true);
        }
        let name = &*node.metadata.name;
        if self.pods_on(name).any(|p| !host_ports(p).is_disjoint(&host_ports(pod))) {
            return one("node(s) didn't have free ports for the requested pod ports", false);
        }
        let mut held = Vec::new();
        if self.pods_on(name).count() as i64 + 1 > number(&node.status.allocatable, "pods") {
            held.push(("Too many pods".to_owned(), false));
        }
        for resource in ["cpu", "memory"] {
            let wanted = request(pod, resource);
            let has = number(&node.status.allocatable, resource);
            let used: i64 = self.pods_on(name).map(|p| request(p, resource)).sum();
            if wanted > 0 && wanted > has - used {
                held.push((format!("Insufficient {resource}"), wanted > has));
            }
        }
        if !held.is_empty() {
            return held;
        }
        if let Some((reason, unresolvable)) = self.spread_refusal(pod, node) {
            return one(reason, unresolvable);
        }
        if let Some((reason, unresolvable)) = self.affinity_refusal(pod, node) {
            return one(reason, unresolvable);
        }
        Vec::new()
    }

    fn counts_for(&self, pod: &Pod, c: &SpreadConstraint, keys: &[&str], node: &Node) -> bool {
        keys.iter().all(|k| node.metadata.labels.contains_key(*k))
            && (c.node_affinity_policy.as_deref() == Some("Ignore") || wanted_node(pod, node))
            && (c.node_taints_policy.as_deref() != Some("Honor")
                || node.spec.taints.iter().filter(hard).all(|t| tolerated(pod, t)))
    }

    /// Pods of a node that a constraint counts.
    fn counted(&self, pod: &Pod, c: &SpreadConstraint, node: &str) -> i64 {
        if c.label_selector.as_ref().is_some_and(LabelSelector::is_empty) {
            return 0;
        }
        let counts = |p: &&Pod| {
            !p.metadata.is_deleting()
                && p.metadata.namespace == pod.metadata.namespace
                && matches(c.label_selector.as_ref(), &p.metadata.labels)
        };
        self.pods_on(node).filter(counts).count() as i64
    }

    fn spread_refusal(&self, pod: &Pod, node: &Node) -> Option<(&'static str, bool)> {
        let constraints: Vec<&SpreadConstraint> =
            (pod.spec.topology_spread_constraints.iter()).filter(|c| c.when_unsatisfiable == "DoNotSchedule").collect();
        let keys: Vec<&str> = constraints.iter().map(|c| c.topology_key.as_str()).collect();
        for c in &constraints {
            let Some(value) = node.metadata.labels.get(&c.topology_key) else {
                return Some(("node(s) didn't match pod topology spread constraints (missing required label)", true));
            };
            let mut domains: BTreeMap<&str, i64> = BTreeMap::new();
            for other in self.nodes.values().filter(|n| self.counts_for(pod, c, &keys, n)) {
                let count = self.counted(pod, c, &other.metadata.name);
                *domains.entry(&other.metadata.labels[&c.topology_key]).or_default() += count;
            }
            let enough = domains.len() as i64 >= c.min_domains.unwrap_or(1);
            let min = if enough { domains.values().copied().min().unwrap_or(0) } else { 0 };
            let itself = i64::from(matches(c.label_selector.as_ref(), &pod.metadata.labels));
            if domains.get(value.as_str()).copied().unwrap_or(0) + itself - min > c.max_skew {
                return Some(("node(s) didn't match pod topology spread constraints", false));
            }
        }
        None
    }

    fn affinity_refusal(&self, pod: &Pod, node: &Node) -> Option<(&'static str, bool)> {
        let labels = &node.metadata.labels;
        let near = |other: &Node, key: &str| labels.get(key).is_some_and(|v| other.metadata.labels.get(key) == Some(v));
        let with = &pod.spec.affinity.pod_affinity.required;
        let belongs = |p: &Pod| with.iter().all(|t| self.term_means(t, pod, p));
        let any_anywhere = self
            .all_pods()
            .any(|(p, n)| belongs(p) && with.iter().any(|t| n.metadata.labels.contains_key(&t.topology_key)));
        let first = !any_anywhere && belongs(pod);
        for term in with {
            let met = self.all_pods().any(|(p, n)| belongs(p) && near(n, &term.topology_key));
            if !labels.contains_key(&term.topology_key) || !(met || first) {
                return Some(("node(s) didn't match pod affinity rules", true));
            }
        }
        for term in &pod.spec.affinity.pod_anti_affinity.required {
            if self.all_pods().any(|(p, n)| self.term_means(term, pod, p) && near(n, &term.topology_key)) {
                return Some(("node(s) didn't match pod anti-affinity rules", false));
            }
        }
        for (other, at) in self.all_pods() {
            let shuns = |t: &PodAffinityTerm| self.term_means(t, other, pod) && near(at, &t.topology_key);
            if other.spec.affinity.pod_anti_affinity.required.iter().any(shuns) {
                return Some(("node(s) didn't satisfy existing pods anti-affinity rules", false));
            }
        }
        None
    }

    fn taint_scores(&self, pod: &Pod, nodes: &[&Node]) -> Vec<i64> {
        let soft = |n: &&Node| {
            let bad = |t: &&Taint| {
                t.effect == "PreferNoSchedule"
                    && !pod
                        .spec
                        .tolerations
                        .iter()
                        .any(|x| (x.effect.is_empty() || x.effect == "PreferNoSchedule") && x.tolerates(t))
            };
            n.spec.taints.iter().filter(bad).count() as i64
        };
        let raw: Vec<i64> = nodes.iter().map(soft).collect();
        let max = raw.iter().copied().max().unwrap_or(0);
        raw.into_iter().map(|s| if max == 0 { 100 } else { 100 - 100 * s / max }).collect()
    }

    fn affinity_scores(&self, pod: &Pod, nodes: &[&Node]) -> Vec<i64> {
        let score = |n: &&Node| {
            let holds = |t: &orkd_scheduler::model::PreferredTerm| {
                t.preference
                    .match_expressions
                    .iter()
                    .all(|r| r.operator == "In" && n.metadata.labels.get(&r.key).is_some_and(|v| r.values.contains(v)))
            };
            pod.spec.affinity.node_affinity.preferred.iter().filter(|t| holds(t)).map(|t| t.weight).sum::<i64>()
        };
        let raw: Vec<i64> = nodes.iter().map(score).collect();
        let max = raw.iter().copied().max().unwrap_or(0);
        raw.into_iter().map(|s| if max == 0 { 0 } else { 100 * s / max }).collect()
    }

    fn least_allocated(&self, pod: &Pod, nodes: &[&Node]) -> Vec<i64> {
        let score = |n: &&Node| {
            let used = |f: fn((i64, i64)) -> i64| {
                let there: i64 = self.pods_on(&n.metadata.name).map(|p| f(requests::of_pod(p).1)).sum();
                there + f(requests::of_pod(pod).1)
            };
            let rate = |resource: &str, used: i64| {
                let has = number(&n.status.allocatable, resource);
                if used > has { 0 } else { (has - used) * 100 / has }
            };
            (rate("cpu", used(|s| s.0)) + rate("memory", used(|s| s.1))) / 2
        };
        nodes.iter().map(score).collect()
    }

    fn balanced(&self, pod: &Pod, nodes: &[&Node]) -> Vec<i64> {
        let score = |n: &&Node| {
            if request(pod, "cpu") == 0 && request(pod, "memory") == 0 {
                return 0;
            }
            let fraction = |resource: &str| {
                let used: i64 = self.pods_on(&n.metadata.name).map(|p| request(p, resource)).sum();
                let has = number(&n.status.allocatable, resource);
                ((used + request(pod, resource)) as f64 / has as f64).min(1.0)
            };
            ((1.0 - (fraction("cpu") - fraction("memory")).abs() / 2.0) * 100.0) as i64
        };
        nodes.iter().map(score).collect()
    }

    fn images(&self, pod: &Pod, nodes: &[&Node]) -> Vec<i64> {
        let image = &pod.spec.containers[0].image;
        let has = |n: &Node| n.status.images.iter().find(|i| i.names.contains(image)).map(|i| i.size_bytes);
        let spread = self.nodes.values().filter(|n| has(n).is_some()).count() as f64 / self.nodes.len() as f64;
        let score = |n: &&Node| {
            let size = has(n).map_or(0, |size| (size as f64 * spread) as i64);
            let (least, most) = (23 << 20, 1000 << 20);
            100 * (size.clamp(least, most) - least) / (most - least)
        };
        nodes.iter().map(score).collect()
    }

    fn spread_scores(&self, pod: &Pod, nodes: &[&Node]) -> Vec<i64> {
        let constraints: Vec<&SpreadConstraint> = (pod.spec.topology_spread_constraints.iter())
            .filter(|c| c.when_unsatisfiable == "ScheduleAnyway")
            .collect();
        if constraints.is_empty() {
            return vec![0; nodes.len()];
        }
        let keys: Vec<&str> = constraints.iter().map(|c| c.topology_key.as_str()).collect();
        let rated = |n: &Node| keys.iter().all(|k| n.metadata.labels.contains_key(*k));
        let among: Vec<&&Node> = nodes.iter().filter(|n| rated(n)).collect();
        let raw: Vec<Option<i64>> = (nodes.iter())
            .map(|n| {
                if !rated(n) {
                    return None;
                }
                let mut sum = 0.0;
                for c in &constraints {
                    let value = &n.metadata.labels[&c.topology_key];
                    let (count, size) = if c.topology_key == "kubernetes.io/hostname" {
                        (self.counted(pod, c, &n.metadata.name), among.len())
                    } else {
                        let values: BTreeSet<_> = among.iter().map(|n| &n.metadata.labels[&c.topology_key]).collect();
                        let same = (self.nodes.values()).filter(|o| {
                            self.counts_for(pod, c, &keys, o) && o.metadata.labels[&c.topology_key] == *value
                        });
                        (same.map(|o| self.counted(pod, c, &o.metadata.name)).sum(), values.len())
                    };
                    sum += count as f64 * ((size + 2) as f64).ln() + (c.max_skew - 1) as f64;
                }
                Some(sum.round() as i64)
            })
            .collect();
        let max = raw.iter().flatten().copied().max().unwrap_or(0);
        let min = raw.iter().flatten().copied().min().unwrap_or(0);
        let scale = |s: Option<i64>| match s {
            None => 0,
            Some(_) if max == 0 => 100,
            Some(s) => 100 * (max + min - s) / max,
        };
        raw.into_iter().map(scale).collect()
    }

    fn pod_affinity_scores(&self, pod: &Pod, nodes: &[&Node]) -> Vec<i64> {
        let score = |n: &&Node| {
            let near = |other: &Node, key: &str| {
                n.metadata.labels.get(key).is_some_and(|v| other.metadata.labels.get(key) == Some(v))
            };
            let mut sum = 0;
            for (other, at) in self.all_pods() {
                for (sign, mine, theirs) in [
                    (1, &pod.spec.affinity.pod_affinity, &other.spec.affinity.pod_affinity),
                    (-1, &pod.spec.affinity.pod_anti_affinity, &other.spec.affinity.pod_anti_affinity),
                ] {
                    for t in &mine.preferred {
                        let term = &t.pod_affinity_term;
                        if self.term_means(term, pod, other) && near(at, &term.topology_key) {
                            sum += sign * t.weight;
                        }
                    }
                    for t in &theirs.preferred {
                        let term = &t.pod_affinity_term;
                        if self.term_means(term, other, pod) && near(at, &term.topology_key) {
                            sum += sign * t.weight;
                        }
                    }
                }
                for term in &other.spec.affinity.pod_affinity.required {
                    if self.term_means(term, other, pod) && near(at, &term.topology_key) {
                        sum += 1;
                    }
                }
            }
            sum
        };
        let raw: Vec<i64> = nodes.iter().map(score).collect();
        let (min, max) = (raw.iter().copied().min().unwrap_or(0), raw.iter().copied().max().unwrap_or(0));
        let scale = |s: i64| if max == min { 0 } else { (100.0 * ((s - min) as f64 / (max - min) as f64)) as i64 };
        raw.into_iter().map(scale).collect()
    }
}
