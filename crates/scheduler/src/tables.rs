//! Counts of pods by domain, kept while pods come and go and never counted anew.
//!
//! A [`Table`] counts, for each domain of one label, the pods that something applies to: those a selector matches
//! (affinity), those that have a term (the affinity of pods that are placed already), those a spread constraint
//! counts. A pod that is placed or goes away adds to or takes from the tables it is linked with; which those are is
//! worked out once for a template. A table is made, and filled from what is placed, when a pod first needs it.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use crate::model::{Taint, Toleration};
use crate::pod::{AffinityTerm, Body, NodeWishes, PodInfo, PodSet, Template};
use crate::selector::Selector;
use crate::topology::{NOWHERE, Topology};

/// Tables that are in use at most before those that nobody has asked for lately are dropped.
const SWEEP_AT: usize = 512;
/// Templates whose links are remembered.
const LINKS: usize = 65_536;

/// Which nodes count for a spread constraint.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Eligibility {
    /// Labels they must have.
    pub keys: Vec<String>,
    /// What they must be, if that matters.
    pub node: Option<NodeWishes>,
    /// Taints that must be tolerated, if that matters.
    pub tolerations: Option<Vec<Toleration>>,
}

impl Eligibility {
    /// Whether a node counts.
    pub fn holds(&self, name: &str, labels: &BTreeMap<String, String>, taints: &[Taint]) -> bool {
        self.keys.iter().all(|k| labels.contains_key(k))
            && self.node.as_ref().is_none_or(|n| n.matches(name, labels))
            && self.tolerations.as_ref().is_none_or(|t| crate::plugins::tolerates_all(t, taints))
    }
}

/// What a table counts.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Counted {
    /// Pods that belong to all of these sets.
    Pods(Vec<PodSet>),
    /// Pods that must not be with such pods.
    Shunning(PodSet),
    /// Pods that must be with such pods.
    Needing(PodSet),
    /// Pods that should be with such pods, by weight; or not, by negative weight.
    Wishing(PodSet),
    /// Pods of a namespace that are not on their way out, on nodes that count.
    Spread(Arc<str>, Selector, Eligibility),
}

/// Names a table.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Spec {
    /// What is counted.
    pub counted: Counted,
    /// Label that makes the domains.
    pub key: String,
}

/// What spreading needs beside the counts.
#[derive(Debug, Default)]
pub struct SpreadState {
    /// By node: whether it counts.
    eligible: Vec<bool>,
    /// By domain: how many of its nodes count.
    nodes: Vec<u32>,
    /// How many domains have a node that counts.
    domains: usize,
    /// By count: how many domains have it.
    histogram: Vec<u32>,
    /// The smallest count.
    min: usize,
}

impl SpreadState {
    fn bucket(&mut self, count: i64) -> &mut u32 {
        let at = count.max(0) as usize;
        if self.histogram.len() <= at {
            self.histogram.resize(at + 1, 0);
        }
        &mut self.histogram[at]
    }

    fn enter(&mut self, count: i64) {
        *self.bucket(count) += 1;
        let at = count.max(0) as usize;
        if self.domains == 0 || at < self.min {
            self.min = at;
        }
        self.domains += 1;
    }

    fn leave(&mut self, count: i64) {
        *self.bucket(count) -= 1;
        self.domains -= 1;
        if self.domains == 0 {
            self.min = 0;
            return;
        }
        while self.histogram[self.min] == 0 {
            self.min += 1;
        }
    }
}

/// Counts by domain.
#[derive(Debug)]
pub struct Table {
    spec: Spec,
    /// The key, in [`Topology`].
    pub key: usize,
    counts: Vec<i64>,
    /// All counts together.
    pub total: i64,
    /// How many pods are counted.
    pods: i64,
    spread: Option<SpreadState>,
    used: u64,
}

impl Table {
    /// The count of a domain.
    pub fn count(&self, domain: u32) -> i64 {
        self.counts.get(domain as usize).copied().unwrap_or(0)
    }

    /// The counts by domain; domains beyond the end have none.
    pub fn counts(&self) -> &[i64] {
        &self.counts
    }

    /// How many domains have a node that counts, and the smallest count among them.
    pub fn domains_and_min(&self) -> (usize, i64) {
        self.spread.as_ref().map_or((0, 0), |s| (s.domains, s.min as i64))
    }

    /// Whether a domain has a node that counts.
    pub fn has_domain(&self, domain: u32) -> bool {
        self.spread.as_ref().is_some_and(|s| s.nodes.get(domain as usize).is_some_and(|n| *n > 0))
    }

    fn add(&mut self, node: usize, domain: u32, weight: i64, sign: i64) {
        self.pods += sign;
        if domain == NOWHERE || self.spread.as_ref().is_some_and(|s| !s.eligible.get(node).copied().unwrap_or(false)) {
            return;
        }
        let at = domain as usize;
        if self.counts.len() <= at {
            self.counts.resize(at + 1, 0);
        }
        let before = self.counts[at];
        self.counts[at] += sign * weight;
        self.total += sign * weight;
        if let Some(spread) = &mut self.spread {
            // The smallest count may only be passed by when the domain leaves its bucket, so it enters the new first.
            spread.enter(before + sign * weight);
            spread.leave(before);
        }
    }

    /// A node begins or ceases to count for spreading; no pod of it is counted at this moment.
    fn set_eligible(&mut self, node: usize, domain: u32, eligible: bool) {
        let Some(spread) = &mut self.spread else { return };
        if spread.eligible.len() <= node {
            spread.eligible.resize(node + 1, false);
        }
        let before = std::mem::replace(&mut spread.eligible[node], eligible);
        if domain == NOWHERE {
            return;
        }
        let at = domain as usize;
        if spread.nodes.len() <= at {
            spread.nodes.resize(at + 1, 0);
        }
        let count = self.counts.get(at).copied().unwrap_or(0);
        match (before, eligible) {
            (false, true) => {
                spread.nodes[at] += 1;
                if spread.nodes[at] == 1 {
                    spread.enter(count);
                }
            }
            (true, false) => {
                spread.nodes[at] -= 1;
                if spread.nodes[at] == 0 {
                    spread.leave(count);
                }
            }
            _ => {}
        }
    }
}

/// A table that a pod is counted in, with its weight; whether only while it is not on its way out.
#[derive(Clone, Copy, Debug)]
struct Link {
    table: usize,
    weight: i64,
    only_alive: bool,
}

#[derive(Debug)]
struct Links {
    epoch: u64,
    links: Arc<[Link]>,
}

/// What a table needs to know of a node.
pub struct NodeFacts<'a> {
    /// Position.
    pub node: usize,
    /// Name.
    pub name: &'a str,
    /// Labels.
    pub labels: &'a BTreeMap<String, String>,
    /// Taints.
    pub taints: &'a [Taint],
    /// Pods.
    pub pods: &'a [Arc<PodInfo>],
}

/// All tables.
#[derive(Debug, Default)]
pub struct Tables {
    slots: Vec<Option<Table>>,
    index: HashMap<Spec, usize>,
    by_namespace: HashMap<Arc<str>, Vec<usize>>,
    everywhere: Vec<usize>,
    /// Labels that make domains.
    pub topology: Topology,
    namespaces: HashMap<Arc<str>, BTreeMap<String, String>>,
    links: HashMap<u64, Links>,
    epoch: u64,
    clock: u64,
    sweep_at: usize,
}

static NO_LABELS: BTreeMap<String, String> = BTreeMap::new();

impl Tables {
    /// Changes whenever a table comes or goes: what was worked out of the set of tables holds no longer.
    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    /// A table; it counts as asked for.
    pub fn get(&self, id: usize) -> Option<&Table> {
        self.slots.get(id).and_then(Option::as_ref)
    }

    /// Keeps a table from being dropped for a while.
    pub fn touch(&mut self, id: usize) {
        self.clock += 1;
        let now = self.clock;
        if let Some(Some(table)) = self.slots.get_mut(id) {
            table.used = now;
        }
    }

    /// Labels of a namespace.
    pub fn namespace_labels(&self, namespace: &str) -> &BTreeMap<String, String> {
        self.namespaces.get(namespace).unwrap_or(&NO_LABELS)
    }

    /// The tables of pods that are placed whose terms name pods like this one.
    pub fn terms_that_match<'a>(&'a self, template: &'a Body) -> impl Iterator<Item = (usize, &'a Counted)> {
        let here = self.by_namespace.get(&template.namespace).into_iter().flatten();
        let labels = self.namespace_labels(&template.namespace);
        here.chain(&self.everywhere).filter_map(move |id| {
            let counted = &self.get(*id)?.spec.counted;
            match counted {
                Counted::Shunning(set) | Counted::Needing(set) | Counted::Wishing(set)
                    if set.matches(template, labels) =>
                {
                    Some((*id, counted))
                }
                _ => None,
            }
        })
    }

    /// The table of a specification; made and filled if there is none. `nodes` are all that there are.
    pub fn table<'a>(&mut self, spec: Spec, nodes: impl Fn() -> Box<dyn Iterator<Item = NodeFacts<'a>> + 'a>) -> usize {
        if let Some(id) = self.index.get(&spec).copied() {
            self.touch(id);
            return id;
        }
        self.sweep();
        let key = self.topology.acquire(&spec.key, nodes().map(|n| (n.node, n.labels)));
        let spread = matches!(spec.counted, Counted::Spread(..)).then(SpreadState::default);
        let mut table =
            Table { spec: spec.clone(), key, counts: Vec::new(), total: 0, pods: 0, spread, used: self.clock };
        self.fill(&mut table, nodes());
        let id = match self.slots.iter().position(Option::is_none) {
            Some(id) => id,
            None => {
                self.slots.push(None);
                self.slots.len() - 1
            }
        };
        self.slots[id] = Some(table);
        for namespace in namespaces_of(&spec.counted).into_iter().flatten() {
            self.by_namespace.entry(namespace).or_default().push(id);
        }
        if namespaces_of(&spec.counted).is_none() {
            self.everywhere.push(id);
        }
        self.index.insert(spec, id);
        self.epoch += 1;
        id
    }

    fn fill<'a>(&self, table: &mut Table, nodes: impl Iterator<Item = NodeFacts<'a>>) {
        let mut weights: HashMap<u64, i64> = HashMap::new();
        for facts in nodes {
            let domain = self.topology.domain(table.key, facts.node);
            if let Counted::Spread(_, _, eligibility) = &table.spec.counted {
                let eligible = eligibility.holds(facts.name, facts.labels, facts.taints);
                table.set_eligible(facts.node, domain, eligible);
            }
            for pod in facts.pods {
                let template = &pod.template;
                let weight = *weights.entry(template.id).or_insert_with(|| self.weight(&table.spec, template));
                if weight != 0 && !(table.spread.is_some() && pod.is_terminating()) {
                    table.add(facts.node, domain, weight, 1);
                }
            }
        }
    }

    /// What a pod counts for.
    fn weight(&self, spec: &Spec, template: &Body) -> i64 {
        let has = |terms: &[AffinityTerm], set: &PodSet| {
            terms.iter().filter(|t| t.key == spec.key && t.pods == *set).count() as i64
        };
        match &spec.counted {
            Counted::Pods(sets) => {
                let labels = self.namespace_labels(&template.namespace);
                i64::from(sets.iter().all(|s| s.matches(template, labels)))
            }
            Counted::Shunning(set) => has(&template.anti_affinity, set),
            Counted::Needing(set) => has(&template.affinity, set),
            Counted::Wishing(set) => {
                let these = template.preferred_affinity.iter().filter(|(_, t)| t.key == spec.key && t.pods == *set);
                these.map(|(w, _)| *w).sum()
            }
            // An empty selector counts nothing (`countPodsMatchSelector`).
            Counted::Spread(namespace, selector, _) => i64::from(
                *namespace == template.namespace && !selector.is_empty() && selector.matches(&template.labels),
            ),
        }
    }

    fn links(&mut self, template: &Template) -> Arc<[Link]> {
        if let Some(known) = self.links.get(&template.id)
            && known.epoch == self.epoch
        {
            return known.links.clone();
        }
        let mut links = Vec::new();
        let here = self.by_namespace.get(&template.namespace).into_iter().flatten();
        let counting = here.chain(&self.everywhere).copied().filter(|id| {
            matches!(self.get(*id).map(|t| &t.spec.counted), Some(Counted::Pods(_) | Counted::Spread(..)))
        });
        let owned = terms_of(template).filter_map(|spec| self.index.get(&spec).copied());
        for id in counting.chain(owned) {
            let Some(table) = self.get(id) else { continue };
            let weight = self.weight(&table.spec, template);
            if weight != 0 {
                links.push(Link { table: id, weight, only_alive: table.spread.is_some() });
            }
        }
        links.sort_by_key(|l: &Link| l.table);
        links.dedup_by_key(|l| l.table);
        if self.links.len() >= LINKS {
            self.links.clear();
        }
        let links: Arc<[Link]> = links.into();
        self.links.insert(template.id, Links { epoch: self.epoch, links: links.clone() });
        links
    }

    /// Makes the tables of a pod's own terms, before it is counted for the first time.
    pub fn own<'a>(
        &mut self,
        template: &Template,
        nodes: impl Fn() -> Box<dyn Iterator<Item = NodeFacts<'a>> + 'a> + Clone,
    ) {
        if self.links.get(&template.id).is_some_and(|l| l.epoch == self.epoch) {
            return;
        }
        for spec in terms_of(template) {
            self.table(spec, nodes.clone());
        }
    }

    /// Counts a pod on a node (`sign` 1), or no longer (-1).
    pub fn count(&mut self, node: usize, pod: &PodInfo, sign: i64) {
        if self.index.is_empty() {
            return;
        }
        let links = self.links(&pod.template);
        for link in links.iter().filter(|l| !(l.only_alive && pod.is_terminating())) {
            let Some(table) = self.slots.get_mut(link.table).and_then(Option::as_mut) else { continue };
            let domain = self.topology.domain(table.key, node);
            table.add(node, domain, link.weight, sign);
        }
    }

    /// A node comes, with labels and taints, and no pod counted yet.
    pub fn attach(&mut self, facts: &NodeFacts<'_>) {
        self.topology.link(facts.node, facts.labels);
        for table in self.slots.iter_mut().flatten() {
            if let Counted::Spread(_, _, eligibility) = &table.spec.counted {
                let eligible = eligibility.holds(facts.name, facts.labels, facts.taints);
                table.set_eligible(facts.node, self.topology.domain(table.key, facts.node), eligible);
            }
        }
    }

    /// A node goes, none of its pods counted any more.
    pub fn detach(&mut self, node: usize) {
        for table in self.slots.iter_mut().flatten() {
            table.set_eligible(node, self.topology.domain(table.key, node), false);
        }
        self.topology.unlink(node);
    }

    /// A namespace has other labels: what was counted by them is counted anew.
    pub fn set_namespace<'a>(
        &mut self,
        namespace: &str,
        labels: Option<&BTreeMap<String, String>>,
        nodes: impl Fn() -> Box<dyn Iterator<Item = NodeFacts<'a>> + 'a>,
    ) -> bool {
        if self.namespaces.get(namespace).unwrap_or(&NO_LABELS) == labels.unwrap_or(&NO_LABELS) {
            return false;
        }
        match labels {
            Some(labels) => self.namespaces.insert(namespace.into(), labels.clone()),
            None => self.namespaces.remove(namespace),
        };
        for id in 0..self.slots.len() {
            if !self.slots[id].as_ref().is_some_and(|t| reads_namespace_labels(&t.spec.counted)) {
                continue;
            }
            let Some(old) = self.slots[id].take() else { continue };
            let spread = old.spread.as_ref().map(|_| SpreadState::default());
            let mut table = Table { counts: Vec::new(), total: 0, pods: 0, spread, ..old };
            self.fill(&mut table, nodes());
            self.slots[id] = Some(table);
        }
        self.epoch += 1;
        true
    }

    fn sweep(&mut self) {
        if self.index.len() < self.sweep_at.max(SWEEP_AT) {
            return;
        }
        let mut ages: Vec<u64> = self.slots.iter().flatten().map(|t| t.used).collect();
        ages.sort_unstable();
        let young = ages.get(ages.len() / 2).copied().unwrap_or(0);
        for id in 0..self.slots.len() {
            let Some(table) = &self.slots[id] else { continue };
            // Terms of placed pods stay while there is such a pod: they bear on pods that do not know of them.
            let bound = !matches!(table.spec.counted, Counted::Pods(_) | Counted::Spread(..)) && table.pods > 0;
            if bound || table.used >= young {
                continue;
            }
            self.topology.release(table.key);
            self.index.remove(&table.spec);
            self.everywhere.retain(|t| *t != id);
            self.by_namespace.values_mut().for_each(|t| t.retain(|t| *t != id));
            self.slots[id] = None;
        }
        self.by_namespace.retain(|_, tables| !tables.is_empty());
        self.links.clear();
        self.epoch += 1;
        self.sweep_at = 2 * self.index.len();
    }
}

/// The tables that a pod's own terms are counted in.
fn terms_of(template: &Body) -> impl Iterator<Item = Spec> + '_ {
    let spec = |counted: fn(PodSet) -> Counted, t: &AffinityTerm| Spec {
        counted: counted(t.pods.clone()),
        key: t.key.clone(),
    };
    let shunned = template.anti_affinity.iter().map(move |t| spec(Counted::Shunning, t));
    let needed = template.affinity.iter().map(move |t| spec(Counted::Needing, t));
    let wished = template.preferred_affinity.iter().map(move |(_, t)| spec(Counted::Wishing, t));
    shunned.chain(needed).chain(wished)
}

fn reads_namespace_labels(counted: &Counted) -> bool {
    match counted {
        Counted::Pods(sets) => sets.iter().any(|s| s.namespace_selector.is_some()),
        // Whether a placed pod has a term does not depend on what the term names.
        _ => false,
    }
}

/// The namespaces whose pods can be meant; `None` for any.
fn namespaces_of(counted: &Counted) -> Option<Vec<Arc<str>>> {
    match counted {
        Counted::Pods(sets) => {
            // All sets must match, so those of any one are enough.
            sets.iter().find(|s| s.namespace_selector.is_none()).map(|s| s.namespaces.clone())
        }
        Counted::Shunning(set) | Counted::Needing(set) | Counted::Wishing(set) => {
            set.namespace_selector.is_none().then(|| set.namespaces.clone())
        }
        Counted::Spread(namespace, ..) => Some(vec![namespace.clone()]),
    }
}
