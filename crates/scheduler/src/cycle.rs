//! One scheduling cycle: filter, score, choose. Upstream: `pkg/scheduler/schedule_one.go`.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::classes::{Class, Classes};
use crate::cluster::Cluster;
use crate::framework::{Candidate, Cx, Point, PostFilter, PreFilter, PreScore, State, Verdicts, no_state};
use crate::metrics::Meters;
use crate::pod::PodInfo;
use crate::profile::Profile;

/// Nodes are filtered in blocks of this size, so that a cycle ends soon after it has found enough.
const BLOCK: usize = 256;

/// Below this number of nodes all are looked at.
const MIN_FEASIBLE: usize = 100;

/// Why no node will do.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Unfit {
    /// Number of nodes.
    pub nodes: usize,
    /// What was known before any node was looked at.
    pub before: Option<String>,
    /// How many nodes each reason concerns.
    pub reasons: BTreeMap<String, usize>,
    /// Nodes that removing pods could help.
    pub resolvable: Vec<u32>,
    /// The plugins that refused some node.
    pub plugins: Vec<&'static str>,
    /// What was tried about it.
    pub after: String,
}

impl Unfit {
    /// The text of the condition and the event, as upstream's (`framework.FitError`).
    pub fn message(&self) -> String {
        if self.nodes == 0 {
            return "no nodes available to schedule pods".into();
        }
        let mut text = format!("0/{} nodes are available:", self.nodes);
        match &self.before {
            Some(before) => text.push_str(&format!(" {before}.")),
            None => {
                let mut parts: Vec<String> = self.reasons.iter().map(|(reason, n)| format!("{n} {reason}")).collect();
                parts.sort();
                if !parts.is_empty() {
                    text.push_str(&format!(" {}.", parts.join(", ")));
                }
            }
        }
        if !self.after.is_empty() {
            text.push_str(&format!(" {}", self.after));
        }
        text
    }
}

/// Why a cycle found no node.
#[derive(Clone, Debug, PartialEq)]
pub enum NotFound {
    /// No node will do.
    Unfit(Unfit),
    /// It cannot be said now.
    Failed(String),
}

/// What plugins keep during a cycle.
#[derive(Default)]
pub struct Prepared {
    /// By position in the profile.
    states: Vec<Option<State>>,
    local: Vec<usize>,
    global: Vec<usize>,
}

impl Prepared {
    /// What a plugin keeps.
    pub fn state(&self, plugin: usize) -> Option<&State> {
        self.states.get(plugin).and_then(Option::as_ref)
    }
}

struct Searched {
    feasible: Vec<u32>,
    as_nominated: bool,
    refused: Option<Unfit>,
}

/// The nodes that will do.
pub struct Found {
    /// Their positions.
    pub feasible: Vec<u32>,
    /// What plugins keep.
    pub prepared: Prepared,
    /// Whether only the node was looked at that the pod is nominated for.
    pub as_nominated: bool,
    /// What the others were refused for, where extenders may refuse more ([`Algorithm::has_extenders`]).
    pub refused: Option<Unfit>,
}

/// Finds nodes for pods.
#[derive(Default)]
pub struct Algorithm {
    /// The profiles.
    pub profiles: Vec<Profile>,
    /// What is known.
    pub cluster: Cluster,
    /// Whether servers are asked as well: as many nodes are looked for as if all were rated, and refusals are kept.
    pub has_extenders: bool,
    /// What each profile tells of itself.
    pub meters: Vec<Meters>,
    classes: Classes,
    /// Where the search begins next, so that all nodes get their turn.
    start: usize,
    scratch: Verdicts,
}

/// How many feasible nodes are enough (`numFeasibleNodesToFind`).
pub fn enough(nodes: usize, percentage: i64) -> usize {
    if nodes < MIN_FEASIBLE {
        return nodes;
    }
    let percentage = match usize::try_from(percentage) {
        Ok(n) if n > 0 => n.min(100),
        _ => 50usize.saturating_sub(nodes / 125).max(5),
    };
    (nodes * percentage / 100).max(MIN_FEASIBLE)
}

impl Algorithm {
    /// With profiles.
    pub fn new(profiles: Vec<Profile>) -> Algorithm {
        let meters = profiles.iter().map(|p| Meters::new(&p.name)).collect();
        Algorithm { profiles, meters, ..Algorithm::default() }
    }

    /// The position of the profile of a `schedulerName`.
    pub fn profile_of(&self, scheduler_name: &str) -> Option<usize> {
        self.profiles.iter().position(|p| p.name == scheduler_name)
    }

    /// Finds the nodes that will do for a pod: the one it is nominated for if that will do, or as many as are enough.
    ///
    /// # Errors
    /// Why none will do.
    pub fn find(&mut self, profile: usize, pod: &Arc<PodInfo>) -> Result<Found, (NotFound, Prepared)> {
        self.find_anew(profile, pod, true)
    }

    /// As [`Algorithm::find`]; without `nomination` as if the pod were nominated for no node.
    ///
    /// # Errors
    /// Why none will do.
    pub fn find_anew(
        &mut self,
        profile: usize,
        pod: &Arc<PodInfo>,
        nomination: bool,
    ) -> Result<Found, (NotFound, Prepared)> {
        let total = self.cluster.nodes.len();
        if total == 0 {
            return Err((NotFound::Unfit(Unfit::default()), Prepared::default()));
        }
        let start = Instant::now();
        let prepared = self.prepare(profile, pod);
        let status = match &prepared {
            Ok(_) => "Success",
            Err(NotFound::Failed(_)) => "Error",
            Err(NotFound::Unfit(unfit)) if unfit.resolvable.is_empty() => "UnschedulableAndUnresolvable",
            Err(NotFound::Unfit(_)) => "Unschedulable",
        };
        self.meters[profile].point(Point::PreFilter, status, start.elapsed());
        let (prepared, only) = prepared.map_err(|not_found| (not_found, Prepared::default()))?;
        let start = Instant::now();
        let mut class = self.classes.take((profile, &self.profiles[profile]), &self.cluster, pod);
        let result = self.search(profile, pod, &prepared, only, &mut class, nomination);
        self.classes.put(profile, pod, class);
        self.meters[profile].point(Point::Filter, "Success", start.elapsed());
        match result {
            Ok(Searched { feasible, as_nominated, refused }) => Ok(Found { feasible, prepared, as_nominated, refused }),
            Err(not_found) => Err((not_found, prepared)),
        }
    }

    /// Asks plugins before nodes are looked at: what they keep, and the only nodes that can do, with the plugins that
    /// say so.
    #[expect(clippy::type_complexity, reason = "a pair of results used once")]
    fn prepare(
        &mut self,
        profile: usize,
        pod: &Arc<PodInfo>,
    ) -> Result<(Prepared, Option<(BTreeSet<String>, Vec<&'static str>)>), NotFound> {
        let profile = &self.profiles[profile];
        let total = self.cluster.nodes.len();
        let mut prepared = Prepared { states: Vec::new(), local: Vec::new(), global: Vec::new() };
        prepared.states.resize_with(profile.len(), || Some(no_state()));
        let mut only: Option<(BTreeSet<String>, Vec<&'static str>)> = None;
        for i in profile.at(Point::PreFilter) {
            let plugin = profile.plugin(*i);
            let refuse = |reason: String, unresolvable: bool, plugins: Vec<&'static str>, cluster: &mut Cluster| {
                let resolvable = if unresolvable { Vec::new() } else { cluster.nodes.order().to_vec() };
                Err(NotFound::Unfit(Unfit {
                    nodes: total,
                    before: Some(reason),
                    resolvable,
                    plugins,
                    ..Unfit::default()
                }))
            };
            match plugin.pre_filter(&mut self.cluster, pod) {
                PreFilter::Skip => prepared.states[*i] = None,
                PreFilter::Go(state) => prepared.states[*i] = Some(state),
                PreFilter::Only(state, names) => {
                    prepared.states[*i] = Some(state);
                    let names: BTreeSet<String> = names.into_iter().collect();
                    let (left, by) = only.get_or_insert_with(|| (names.clone(), Vec::new()));
                    left.retain(|n| names.contains(n));
                    by.push(plugin.name());
                    if left.is_empty() {
                        by.sort_unstable();
                        let reason = match by.len() {
                            1 => format!("node(s) didn't satisfy plugin {}", by[0]),
                            _ => format!("node(s) didn't satisfy plugin(s) [{}] simultaneously", by.join(" ")),
                        };
                        return refuse(reason, true, by.clone(), &mut self.cluster);
                    }
                }
                PreFilter::Refuse { reason, unresolvable } => {
                    return refuse(reason, unresolvable, vec![plugin.name()], &mut self.cluster);
                }
                PreFilter::Fail(why) => {
                    return Err(NotFound::Failed(format!("running PreFilter plugin {:?}: {why}", plugin.name())));
                }
            }
        }
        // Results of local plugins are kept as long as no other plugin is called between them.
        for i in profile.at(Point::Filter) {
            if prepared.states[*i].is_none() {
                continue;
            }
            if profile.plugin(*i).is_local() && prepared.global.is_empty() {
                prepared.local.push(*i);
            } else {
                prepared.global.push(*i);
            }
        }
        Ok((prepared, only))
    }

    fn search(
        &mut self,
        profile: usize,
        pod: &Arc<PodInfo>,
        prepared: &Prepared,
        only: Option<(BTreeSet<String>, Vec<&'static str>)>,
        class: &mut Class,
        nomination: bool,
    ) -> Result<Searched, NotFound> {
        let profile = &self.profiles[profile];
        let cluster = &mut self.cluster;
        let scratch = &mut self.scratch;
        let total = cluster.nodes.len();
        let crowd = crowd(cluster, pod);
        let uses_scratch = !prepared.global.is_empty() || !crowd.is_empty();
        if uses_scratch {
            scratch.reset(cluster.nodes.width());
        }
        let mut judge = |cluster: &mut Cluster, class: &mut Class, block: &[u32], feasible: &mut Vec<u32>| {
            let cx = Cx { cluster, pod, nodes: total };
            class.refresh(profile, &cx, &prepared.local, block);
            if !uses_scratch {
                feasible.extend(block.iter().copied().filter(|i| class.verdicts.is_fit(*i as usize)));
                return;
            }
            let fit: Vec<u32> = block.iter().copied().filter(|i| class.verdicts.is_fit(*i as usize)).collect();
            for i in &prepared.global {
                if let Some(state) = &prepared.states[*i] {
                    profile.plugin(*i).filter(&cx, state, &fit, scratch);
                }
            }
            for i in fit {
                let n = i as usize;
                if scratch.is_fit(n)
                    && let Some((_, pods)) = crowd.iter().find(|(at, _)| *at == n)
                {
                    let with = with_pods(cluster, n, pods, |cluster| {
                        let mut verdicts = Verdicts::new(cluster.nodes.width());
                        judge_one(cluster, profile, pod, prepared, i, &mut verdicts);
                        verdicts
                    });
                    for refusal in with.of(n) {
                        let number = scratch.refusal(refusal.plugin, refusal.reason.clone(), refusal.unresolvable);
                        scratch.refuse(n, number);
                    }
                }
                if scratch.is_fit(n) {
                    feasible.push(i);
                }
            }
        };
        let mut feasible = Vec::new();
        // Room was made there: it is the one to try first.
        let nominated = cluster.nominated.node_of(pod.uid()).filter(|_| nomination);
        if let Some(i) = nominated.and_then(|n| cluster.nodes.position(n)) {
            judge(cluster, class, &[i as u32], &mut feasible);
            if !feasible.is_empty() {
                return Ok(Searched { feasible, as_nominated: true, refused: None });
            }
        }
        let all = cluster.nodes.order();
        let candidates: Arc<[u32]> = match &only {
            Some((names, _)) => names.iter().filter_map(|n| cluster.nodes.position(n)).map(|i| i as u32).collect(),
            None => all.clone(),
        };
        let wanted = match profile.at(Point::Score).is_empty() && !self.has_extenders {
            true => 1,
            false => enough(candidates.len(), profile.percentage),
        };
        let mut looked = 0;
        let mut block = Vec::with_capacity(BLOCK);
        while looked < candidates.len() && feasible.len() < wanted {
            block.clear();
            let end = candidates.len().min(looked + BLOCK);
            block.extend((looked..end).map(|n| candidates[(self.start + n) % candidates.len()]));
            let before = feasible.len();
            judge(cluster, class, &block, &mut feasible);
            if feasible.len() > wanted {
                // As if nodes had been looked at one by one.
                let last = feasible[wanted - 1];
                looked += block.iter().position(|i| *i == last).map_or(block.len(), |at| at + 1);
                feasible.truncate(wanted);
            } else {
                looked += block.len();
            }
            debug_assert!(feasible.len() >= before);
        }
        let first = self.start;
        self.start = (self.start + looked) % total;
        if let Some(why) = scratch.failure().filter(|_| uses_scratch) {
            return Err(NotFound::Failed(why.clone()));
        }
        if !feasible.is_empty() && !self.has_extenders {
            return Ok(Searched { feasible, as_nominated: false, refused: None });
        }
        let mut unfit = Unfit { nodes: total, ..Unfit::default() };
        let nodes = || (first..first + looked).map(|n| candidates[n % candidates.len()] as usize);
        class.verdicts.count(nodes(), &mut unfit.reasons, &mut unfit.plugins);
        unfit.resolvable = nodes().filter(|i| class.verdicts.is_resolvable(*i)).map(|i| i as u32).collect();
        if uses_scratch {
            let rest = || nodes().filter(|i| class.verdicts.is_fit(*i));
            scratch.count(rest(), &mut unfit.reasons, &mut unfit.plugins);
            unfit.resolvable.extend(rest().filter(|i| scratch.is_resolvable(*i)).map(|i| i as u32));
        }
        if let Some((_, mut plugins)) = only {
            plugins.sort_unstable();
            if total > candidates.len() {
                let reason = format!("node(s) didn't satisfy plugin(s) [{}]", plugins.join(" "));
                unfit.reasons.insert(reason, total - candidates.len());
            }
            plugins.retain(|p| !unfit.plugins.contains(p));
            unfit.plugins.extend(plugins);
        }
        match feasible.is_empty() {
            true => Err(NotFound::Unfit(unfit)),
            false => Ok(Searched { feasible, as_nominated: false, refused: Some(unfit) }),
        }
    }

    /// Rates the nodes that will do: for each the weighted sum of all plugins.
    pub fn rate(&mut self, profile: usize, pod: &Arc<PodInfo>, found: &mut Found) -> Vec<i64> {
        let mut class = self.classes.take((profile, &self.profiles[profile]), &self.cluster, pod);
        let index = profile;
        let start = Instant::now();
        let profile = &self.profiles[profile];
        let feasible = &found.feasible;
        let nodes = self.cluster.nodes.len();
        {
            let cx = Cx { cluster: &self.cluster, pod, nodes };
            class.refresh(profile, &cx, &found.prepared.local, feasible);
        }
        let mut totals: Vec<i64> = feasible.iter().map(|i| class.sums[*i as usize]).collect();
        let mut scores = vec![0i64; feasible.len()];
        let mut before = Duration::ZERO;
        for i in profile.at(Point::Score) {
            let plugin = profile.plugin(*i);
            if plugin.is_local() && !plugin.normalizes() {
                continue;
            }
            let begun = Instant::now();
            let pre_score = match profile.at(Point::PreScore).contains(i) {
                true => plugin.pre_score(&mut self.cluster, pod, feasible),
                false => PreScore::Go(no_state()),
            };
            before += begun.elapsed();
            let PreScore::Go(state) = pre_score else { continue };
            let cx = Cx { cluster: &self.cluster, pod, nodes };
            match class.raw.iter().find(|(p, _)| p == i) {
                Some((_, raw)) => scores.iter_mut().zip(feasible).for_each(|(s, n)| *s = raw[*n as usize]),
                None => {
                    scores.fill(0);
                    plugin.score(&cx, &state, feasible, &mut scores);
                }
            }
            if plugin.normalizes() {
                plugin.normalize(&cx, &state, feasible, &mut scores);
            }
            let weight = profile.weight(*i);
            for (total, score) in totals.iter_mut().zip(&scores) {
                *total += weight * score;
            }
        }
        self.classes.put(index, pod, class);
        self.meters[index].point(Point::PreScore, "Success", before);
        self.meters[index].point(Point::Score, "Success", start.elapsed().saturating_sub(before));
        totals
    }

    /// Finds a node for a pod; `tie` chooses among the best (any number).
    ///
    /// # Errors
    /// Why no node will do.
    pub fn schedule(&mut self, profile: usize, pod: &Arc<PodInfo>, tie: usize) -> Result<u32, (NotFound, Prepared)> {
        let mut found = self.find(profile, pod)?;
        if let [only] = found.feasible[..] {
            return Ok(only);
        }
        let totals = self.rate(profile, pod, &mut found);
        Ok(best(&found.feasible, &totals, tie))
    }

    /// Looks for a way to make room, after no node did.
    pub fn post_filter(
        &mut self,
        profile: usize,
        pod: &Arc<PodInfo>,
        prepared: &Prepared,
        unfit: &Unfit,
        seed: usize,
    ) -> PostFilter {
        let (start, meters) = (Instant::now(), &self.meters[profile]);
        let profile = &self.profiles[profile];
        let mut texts = Vec::new();
        let mut hopeless = false;
        for plugin in profile.calls(Point::PostFilter) {
            let mut trial = Trial { cluster: &mut self.cluster, profile, pod, prepared, seed };
            match plugin.post_filter(&mut trial, unfit) {
                found @ (PostFilter::Room(_) | PostFilter::Doing(..)) => {
                    meters.point(Point::PostFilter, "Success", start.elapsed());
                    return found;
                }
                PostFilter::Nothing(text) => texts.push(text),
                PostFilter::Hopeless(text) => {
                    hopeless = true;
                    texts.push(text);
                }
            }
        }
        meters.point(Point::PostFilter, "Unschedulable", start.elapsed());
        texts.retain(|t| !t.is_empty());
        let text = texts.join(", ");
        if hopeless { PostFilter::Hopeless(text) } else { PostFilter::Nothing(text) }
    }
}

/// The node with the highest total; `tie` chooses among several.
pub fn best(feasible: &[u32], totals: &[i64], tie: usize) -> u32 {
    let max = totals.iter().copied().max().unwrap_or(0);
    let winners = totals.iter().filter(|t| **t == max).count().max(1);
    let mut at = totals.iter().zip(feasible).filter(|(t, _)| **t == max).map(|(_, i)| *i);
    at.nth(tie % winners).unwrap_or(feasible[0])
}

/// The nodes that pods of at least this pod's priority are nominated for: they may come there at any time, so the pod
/// must fit with them and without (`RunFilterPluginsWithNominatedPods`).
fn crowd(cluster: &Cluster, pod: &PodInfo) -> Vec<(usize, Vec<Arc<PodInfo>>)> {
    let mut crowd = Vec::new();
    for (node, pods) in cluster.nominated.nodes() {
        let Some(i) = cluster.nodes.position(node) else { continue };
        let pods: Vec<_> = pods.iter().filter(|p| bears_on(p, pod)).cloned().collect();
        if !pods.is_empty() {
            crowd.push((i, pods));
        }
    }
    crowd
}

fn bears_on(nominated: &PodInfo, pod: &PodInfo) -> bool {
    nominated.template.priority >= pod.template.priority && nominated.uid() != pod.uid()
}

/// Runs something with pods put on a node for the while.
fn with_pods<T>(cluster: &mut Cluster, node: usize, pods: &[Arc<PodInfo>], run: impl FnOnce(&mut Cluster) -> T) -> T {
    let pods: Vec<_> = pods.iter().filter(|p| cluster.nodes.node_of(p.uid()).is_none()).cloned().collect();
    for pod in &pods {
        cluster.nodes.put(node, pod.clone());
    }
    let result = run(cluster);
    for pod in &pods {
        cluster.nodes.take(node, pod.uid());
    }
    result
}

/// All filters on one node.
fn judge_one(
    cluster: &Cluster,
    profile: &Profile,
    pod: &PodInfo,
    prepared: &Prepared,
    node: u32,
    verdicts: &mut Verdicts,
) {
    let cx = Cx { cluster, pod, nodes: cluster.nodes.len() };
    for i in prepared.local.iter().chain(&prepared.global) {
        let Some(state) = &prepared.states[*i] else { continue };
        profile.plugin(*i).filter(&cx, state, &[node], verdicts);
        if !verdicts.is_fit(node as usize) {
            return;
        }
    }
}

/// The cluster, to try things out on: whatever is changed must be put back.
pub struct Trial<'a> {
    /// The cluster.
    pub cluster: &'a mut Cluster,
    /// The pod that found no node.
    pub pod: &'a Arc<PodInfo>,
    profile: &'a Profile,
    prepared: &'a Prepared,
    /// Any number, to begin somewhere else each time.
    pub seed: usize,
}

impl Trial<'_> {
    /// Judges one node as it is now, with the pods nominated for it and without; what is held against it.
    pub fn judge(&mut self, node: u32) -> Verdicts {
        let (cluster, profile, pod, prepared) = (&mut *self.cluster, self.profile, self.pod, self.prepared);
        let mut verdicts = Verdicts::new(cluster.nodes.width());
        let name = cluster.nodes.rows.name(node as usize).to_owned();
        let nominated: Vec<_> = cluster.nominated.on(&name).iter().filter(|p| bears_on(p, pod)).cloned().collect();
        if !nominated.is_empty() {
            with_pods(cluster, node as usize, &nominated, |cluster| {
                judge_one(cluster, profile, pod, prepared, node, &mut verdicts);
            });
        }
        if verdicts.is_fit(node as usize) {
            judge_one(cluster, profile, pod, prepared, node, &mut verdicts);
        }
        verdicts
    }
}

/// The candidate that costs least (`pickOneNodeForPreemption`): the fewest broken budgets, the least important
/// highest victim, the smallest sum of priorities, the fewest victims, the youngest of the highest.
pub fn cheapest(candidates: Vec<Candidate>) -> Option<Candidate> {
    use std::cmp::Reverse;
    candidates.into_iter().min_by_key(|c| {
        let priorities = c.victims.iter().map(|v| v.template.priority);
        let highest = priorities.clone().max().unwrap_or(i64::MIN);
        let sum: i64 = priorities.map(|p| p + i64::from(i32::MAX) + 1).sum();
        let oldest = (c.victims.iter())
            .filter(|v| v.template.priority == highest)
            .map(|v| v.started.map_or(i128::MAX, |t| t.as_nanosecond()))
            .min();
        (c.violations, c.victims.first().map(|v| v.template.priority), sum, c.victims.len(), Reverse(oldest))
    })
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::config::default_profile;
    use crate::nodes::tests::{cpu, merge, node};
    use crate::plugins::Doors;
    use crate::pod::tests::{labelled, pod};

    fn cluster(nodes: &[(&str, &str, Value)]) -> Algorithm {
        let mut algorithm = Algorithm::new(vec![default_profile(&Doors::default())]);
        for (name, cpu, extra) in nodes {
            algorithm.cluster.nodes.set_node(&node(name, cpu, extra.clone()));
        }
        algorithm
    }

    fn in_zone(zone: &str) -> Value {
        json!({"metadata": {"labels": {"zone": zone}}})
    }

    /// Schedules a pod; the node's name, or the text of the refusal with what was tried about it.
    fn outcome(algorithm: &mut Algorithm, pod: &Arc<PodInfo>) -> String {
        match algorithm.schedule(0, pod, 0) {
            Ok(i) => algorithm.cluster.nodes.rows.name(i as usize).to_owned(),
            Err((NotFound::Failed(why), _)) => why,
            Err((NotFound::Unfit(mut unfit), prepared)) => {
                match algorithm.post_filter(0, pod, &prepared, &unfit, 0) {
                    PostFilter::Room(candidates) => {
                        let candidate = cheapest(candidates).expect("candidates are not empty");
                        let victims: Vec<&str> = candidate.victims.iter().map(|v| &*v.meta.name).collect();
                        let node = algorithm.cluster.nodes.rows.name(candidate.node as usize);
                        return format!("{node} without {}", victims.join(" "));
                    }
                    PostFilter::Nothing(why) | PostFilter::Hopeless(why) | PostFilter::Doing(why, _) => {
                        unfit.after = why
                    }
                }
                unfit.message()
            }
        }
    }

    fn check(algorithm: &mut Algorithm, spec: Value, expected: &str) {
        assert_eq!(outcome(algorithm, &pod("p", spec)), expected);
    }

    #[test]
    fn the_emptier_node_wins() {
        let mut a = cluster(&[("a", "1", json!({})), ("b", "1", json!({}))]);
        a.cluster.nodes.place(pod("x", cpu("500m")), "a");
        check(&mut a, cpu("100m"), "b");
        a.cluster.nodes.place(pod("y", cpu("900m")), "b");
        check(&mut a, cpu("100m"), "a");
    }

    #[test]
    fn refusals_are_told_as_upstream_tells_them() {
        check(&mut cluster(&[]), cpu("1"), "no nodes available to schedule pods");
        let mut a = cluster(&[
            ("a", "1", json!({})),
            ("b", "4", json!({"spec": {"unschedulable": true}})),
            ("c", "4", json!({"spec": {"taints": [{"key": "k", "value": "v", "effect": "NoSchedule"}]}})),
        ]);
        check(
            &mut a,
            cpu("2"),
            "0/3 nodes are available: 1 Insufficient cpu, 1 node(s) had untolerated taint(s), 1 node(s) were unschedulable. \
             no new claims to deallocate, preemption: 0/3 nodes are available: 3 Preemption is not helpful for scheduling.",
        );
        a.cluster.nodes.place(pod("x", cpu("900m")), "a");
        check(
            &mut a,
            cpu("500m"),
            "0/3 nodes are available: 1 Insufficient cpu, 1 node(s) had untolerated taint(s), 1 node(s) were unschedulable. \
             no new claims to deallocate, preemption: 0/3 nodes are available: 1 No preemption victims found for incoming \
             pod, 2 Preemption is not helpful for scheduling.",
        );
        let mut spec = cpu("2");
        spec["tolerations"] = json!([{"key": "k", "operator": "Exists"}]);
        check(&mut a, spec.clone(), "c");
        spec["tolerations"] = json!([{"operator": "Exists"}]);
        spec["nodeSelector"] = json!({"kubernetes.io/hostname": "b"});
        check(&mut a, spec, "b");
    }

    #[test]
    fn a_pod_bound_to_a_node_name_is_told_about_the_others() {
        let mut a = cluster(&[("a", "1", json!({})), ("b", "4", json!({})), ("c", "4", json!({}))]);
        let mut spec = cpu("2");
        spec["affinity"] = json!({"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [
            {"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["a"]}]}]}}});
        check(
            &mut a,
            spec.clone(),
            "0/3 nodes are available: 1 Insufficient cpu, 2 node(s) didn't satisfy plugin(s) [NodeAffinity]. no new claims \
             to deallocate, preemption: 0/3 nodes are available: 3 Preemption is not helpful for scheduling.",
        );
        merge(&mut spec, &cpu("1"));
        check(&mut a, spec, "a");
    }

    #[test]
    fn host_ports_are_taken_once() {
        let mut a = cluster(&[("a", "1", json!({}))]);
        let spec = json!({"containers": [{"ports": [{"hostPort": 80}]}]});
        check(&mut a, spec.clone(), "a");
        a.cluster.nodes.place(pod("x", spec.clone()), "a");
        check(
            &mut a,
            spec,
            "0/1 nodes are available: 1 node(s) didn't have free ports for the requested pod ports. no new claims to \
             deallocate, preemption: 0/1 nodes are available: 1 No preemption victims found for incoming pod.",
        );
    }

    fn anti_affinity(key: &str, app: &str) -> Value {
        json!({"affinity": {"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [
            {"topologyKey": key, "labelSelector": {"matchLabels": {"app": app}}}]}}})
    }

    #[test]
    fn pods_keep_away_from_each_other_both_ways() {
        let mut a = cluster(&[("a", "1", in_zone("x")), ("b", "1", in_zone("x")), ("c", "1", in_zone("y"))]);
        a.cluster.nodes.place(labelled("x", json!({"app": "web"}), json!({})), "a");
        let shy = labelled("p", json!({"app": "db"}), anti_affinity("zone", "web"));
        assert_eq!(outcome(&mut a, &shy), "c");
        a.cluster.nodes.place(shy, "c");
        // Now both zones are taken: one by the web, one by who does not want to be with it.
        let web = labelled("w", json!({"app": "web"}), json!({"nodeSelector": {"zone": "y"}}));
        assert_eq!(
            outcome(&mut a, &web),
            "0/3 nodes are available: 1 node(s) didn't satisfy existing pods anti-affinity rules, 2 node(s) didn't match \
             Pod's node affinity/selector. no new claims to deallocate, preemption: 0/3 nodes are available: 1 No \
             preemption victims found for incoming pod, 2 Preemption is not helpful for scheduling.",
        );
        a.cluster.nodes.unplace("p");
        assert_eq!(outcome(&mut a, &web), "c");
    }

    #[test]
    fn the_first_of_a_group_goes_anywhere_and_the_others_follow() {
        let mut a = cluster(&[("a", "1", in_zone("x")), ("b", "1", in_zone("y")), ("c", "1", json!({}))]);
        let together = |name: &str, selector: Value| {
            let term = json!({"topologyKey": "zone", "labelSelector": {"matchLabels": {"app": "web"}}});
            let spec = json!({"nodeSelector": selector, "affinity": {"podAffinity": {
                "requiredDuringSchedulingIgnoredDuringExecution": [term]}}});
            labelled(name, json!({"app": "web"}), spec)
        };
        let first = together("first", json!({"zone": "y"}));
        assert_eq!(outcome(&mut a, &first), "b");
        a.cluster.nodes.place(first, "b");
        assert_eq!(outcome(&mut a, &together("second", json!({}))), "b");
    }

    #[test]
    fn pods_are_spread_over_domains() {
        let mut a = cluster(&[("a", "1", in_zone("x")), ("b", "1", in_zone("x")), ("c", "1", in_zone("y"))]);
        let spread = |name: &str| {
            labelled(
                name,
                json!({"app": "web"}),
                json!({"containers": [{}], "topologySpreadConstraints": [{"maxSkew": 1, "topologyKey": "zone",
                "whenUnsatisfiable": "DoNotSchedule", "labelSelector": {"matchLabels": {"app": "web"}}}]}),
            )
        };
        a.cluster.nodes.place(spread("1"), "a");
        assert_eq!(outcome(&mut a, &spread("2")), "c");
        a.cluster.nodes.set_node(&node(
            "c",
            "1",
            json!({"metadata": {"labels": {"zone": "y"}}, "spec": {"unschedulable": true}}),
        ));
        assert_eq!(
            outcome(&mut a, &spread("2")),
            "0/3 nodes are available: 1 node(s) were unschedulable, 2 node(s) didn't match pod topology spread constraints. \
             no new claims to deallocate, preemption: 0/3 nodes are available: 1 Preemption is not helpful for scheduling, 2 \
             No preemption victims found for incoming pod.",
        );
        // Without that zone there is nothing to be spread over.
        a.cluster.nodes.remove_node("c");
        assert_eq!(outcome(&mut a, &spread("2")), "b");
    }

    fn important(name: &str, priority: i64, cpu_amount: &str, extra: Value) -> Arc<PodInfo> {
        let mut spec = cpu(cpu_amount);
        spec["priority"] = json!(priority);
        merge(&mut spec, &extra);
        labelled(name, json!({"app": name}), spec)
    }

    #[test]
    fn less_important_pods_make_room() {
        let mut a = cluster(&[("a", "1", json!({})), ("b", "1", json!({}))]);
        for (name, priority, cpu, node) in [("x", 5, "600m", "a"), ("y", 1, "300m", "a"), ("z", 7, "900m", "b")] {
            a.cluster.nodes.place(important(name, priority, cpu, json!({})), node);
        }
        assert_eq!(outcome(&mut a, &important("p", 10, "400m", json!({}))), "a without y");
        assert_eq!(
            outcome(&mut a, &important("p", 10, "500m", json!({}))),
            "a without x",
            "the more important stays if it can"
        );
        assert_eq!(outcome(&mut a, &important("p", 6, "1", json!({}))), "a without x y");
        let never = important("p", 10, "400m", json!({"preemptionPolicy": "Never"}));
        assert_eq!(
            outcome(&mut a, &never),
            "0/2 nodes are available: 2 Insufficient cpu. no new claims to deallocate, preemption: not eligible due to \
             preemptionPolicy=Never.",
        );
        assert_eq!(
            outcome(&mut a, &important("p", 0, "400m", json!({}))),
            "0/2 nodes are available: 2 Insufficient cpu. no new claims to deallocate, preemption: 0/2 nodes are available: \
             2 No preemption victims found for incoming pod.",
        );
    }

    #[test]
    fn who_waits_for_victims_takes_no_more() {
        let victim = |reason: &str| {
            let condition = json!({"type": "DisruptionTarget", "status": "True", "reason": reason});
            let mut spec = cpu("900m");
            spec["priority"] = json!(1);
            crate::pod::tests::from_json(json!({"metadata": {"name": "v", "namespace": "default", "uid": "v",
                "deletionTimestamp": "2020-01-01T00:00:00Z"}, "spec": spec, "status": {"conditions": [condition]}}))
        };
        let p = important("p", 9, "500m", json!({}));
        let told = |reason: &str, nominated: &str| {
            let mut a = cluster(&[("a", "1", json!({})), ("b", "100m", json!({}))]);
            a.cluster.nodes.place(victim(reason), "a");
            a.cluster.nominated.add(&p, nominated);
            outcome(&mut a, &p)
        };
        assert_eq!(
            told("PreemptionByScheduler", "a"),
            "0/2 nodes are available: 2 Insufficient cpu. no new claims to deallocate, preemption: not eligible due to a \
             terminating pod on the nominated node.",
        );
        assert_eq!(told("EvictionByEvictionAPI", "a"), "a without v", "that was not for its sake");
        assert_eq!(told("PreemptionByScheduler", "b"), "a without v", "there is no hope where it was nominated");
    }

    #[test]
    fn preemption_puts_everything_back() {
        let mut a = cluster(&[("a", "1", in_zone("x")), ("b", "1", in_zone("y"))]);
        a.cluster.nodes.place(important("x", 1, "100m", anti_affinity("zone", "p")), "a");
        a.cluster.nodes.place(important("y", 1, "100m", anti_affinity("zone", "p")), "b");
        let p = important("p", 9, "100m", anti_affinity("zone", "y"));
        let before = outcome(&mut a, &p);
        assert_eq!(outcome(&mut a, &p), before);
        assert_eq!(a.cluster.nodes.rows.used[0], [100, 100]);
        a.cluster.nodes.unplace("x");
        assert_eq!(outcome(&mut a, &p), "a");
    }

    #[test]
    fn budgets_are_broken_last() {
        let mut a = cluster(&[("a", "1", json!({})), ("b", "1", json!({}))]);
        a.cluster.nodes.place(important("x", 1, "900m", json!({})), "a");
        a.cluster.nodes.place(important("y", 5, "900m", json!({})), "b");
        let p = important("p", 9, "500m", json!({}));
        assert_eq!(outcome(&mut a, &p), "a without x");
        let budget: crate::model::DisruptionBudget = serde_json::from_value(json!({
            "metadata": {"namespace": "default", "name": "keep"}, "spec": {"selector": {"matchLabels": {"app": "x"}}},
            "status": {"disruptionsAllowed": 0}}))
        .expect("a budget");
        a.cluster.budgets.insert(budget.metadata.key(), Arc::new(budget));
        assert_eq!(outcome(&mut a, &p), "b without y");
    }

    #[test]
    fn a_place_that_was_made_is_kept_for_whom_it_was_made() {
        let mut a = cluster(&[("a", "1", json!({}))]);
        let p = important("p", 9, "600m", json!({}));
        a.cluster.nominated.add(&p, "a");
        let other = important("q", 5, "600m", json!({}));
        assert!(outcome(&mut a, &other).starts_with("0/1 nodes are available: 1 Insufficient cpu."));
        assert_eq!(outcome(&mut a, &important("q", 10, "600m", json!({}))), "a", "the more important need not care");
        assert_eq!(outcome(&mut a, &p), "a");
    }

    #[test]
    fn large_clusters_are_searched_in_part_and_in_turn() {
        assert_eq!((enough(50, 0), enough(1000, 0), enough(5000, 0), enough(20000, 0)), (50, 420, 500, 1000));
        assert_eq!((enough(1000, 100), enough(1000, 5)), (1000, 100));
        let nodes: Vec<_> = (0..1000).map(|i| (format!("n{i}"), "1", json!({}))).collect();
        let nodes: Vec<_> = nodes.iter().map(|(n, c, e)| (n.as_str(), *c, e.clone())).collect();
        let mut a = cluster(&nodes);
        let p = pod("p", cpu("1m"));
        let found = a.find(0, &p).map_err(|(why, _)| why).expect("it fits");
        assert_eq!(found.feasible, (0..420).collect::<Vec<u32>>());
        let found = a.find(0, &p).map_err(|(why, _)| why).expect("it fits");
        assert_eq!(found.feasible, (420..840).collect::<Vec<u32>>());
        let found = a.find(0, &p).map_err(|(why, _)| why).expect("it fits");
        assert_eq!(found.feasible, (840..1000).chain(0..260).collect::<Vec<u32>>());
    }
}
