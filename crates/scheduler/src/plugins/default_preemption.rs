//! Less important pods make room. Upstream: `plugins/defaultpreemption`, `pkg/scheduler/framework/preemption`.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::Deserialize;

use crate::cluster::Cluster;
use crate::cycle::{Trial, Unfit};
use crate::framework::{Candidate, Plugin, Point, PostFilter};
use crate::pod::PodInfo;
use crate::selector::Selector;

const NO_VICTIMS: &str = "No preemption victims found for incoming pod";
const NOT_HELPFUL: &str = "Preemption is not helpful for scheduling";

/// `DefaultPreemptionArgs`.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Args {
    /// How many of the nodes are tried, in percent.
    pub min_candidate_nodes_percentage: i64,
    /// How many at least.
    pub min_candidate_nodes_absolute: i64,
}

impl Default for Args {
    fn default() -> Self {
        Args { min_candidate_nodes_percentage: 10, min_candidate_nodes_absolute: 100 }
    }
}

/// See the module.
#[derive(Default)]
pub struct DefaultPreemption {
    args: Args,
}

/// Upstream's name.
pub const NAME: &str = "DefaultPreemption";

impl DefaultPreemption {
    /// With arguments.
    pub fn new(args: Args) -> DefaultPreemption {
        DefaultPreemption { args }
    }

    fn wanted(&self, nodes: usize) -> usize {
        let share = nodes as i64 * self.args.min_candidate_nodes_percentage / 100;
        (share.max(self.args.min_candidate_nodes_absolute) as usize).min(nodes)
    }
}

/// Why a pod may not preempt; `None` if it may.
fn ineligible(cluster: &Cluster, pod: &PodInfo, unfit: &Unfit) -> Option<&'static str> {
    if !pod.template.may_preempt {
        return Some("not eligible due to preemptionPolicy=Never.");
    }
    let i = cluster.nodes.position(cluster.nominated.node_of(pod.uid())?)?;
    // Where room was made, and is no longer of use.
    if !unfit.resolvable.contains(&(i as u32)) {
        return None;
    }
    let is_leaving = |p: &&Arc<PodInfo>| {
        p.template.priority < pod.template.priority
            && p.is_terminating()
            && p.condition("DisruptionTarget")
                .is_some_and(|c| c.status == "True" && c.reason == "PreemptionByScheduler")
    };
    let leaving = cluster.nodes.rows.pods[i].iter().find(is_leaving);
    leaving.map(|_| "not eligible due to a terminating pod on the nominated node.")
}

/// The more important pod first: by priority, then the one that runs longer (`util.MoreImportantPod`).
fn by_importance(pods: &mut [Arc<PodInfo>]) {
    pods.sort_by(|a, b| {
        let started = |p: &PodInfo| p.started.map_or(i128::MAX, |t| t.as_nanosecond());
        b.template.priority.cmp(&a.template.priority).then(started(a).cmp(&started(b)))
    });
}

/// Parts pods into those whose removal breaks a disruption budget and the others, in the order they have.
fn by_violation(cluster: &Cluster, pods: &[Arc<PodInfo>]) -> (Vec<Arc<PodInfo>>, Vec<Arc<PodInfo>>) {
    let mut budgets: Vec<_> = (cluster.budgets.values())
        .map(|b| (b, Selector::of(b.spec.selector.as_ref()), b.status.disruptions_allowed))
        .filter(|(_, selector, _)| !selector.is_empty())
        .collect();
    let (mut violating, mut others) = (Vec::new(), Vec::new());
    for pod in pods {
        let mut violates = false;
        for (budget, selector, allowed) in &mut budgets {
            if budget.metadata.namespace != pod.meta.namespace
                || pod.template.labels.is_empty()
                || !selector.matches(&pod.template.labels)
                || budget.status.disrupted_pods.contains_key(&*pod.meta.name)
            {
                continue;
            }
            *allowed -= 1;
            violates |= *allowed < 0;
        }
        if violates { violating.push(pod.clone()) } else { others.push(pod.clone()) }
    }
    (violating, others)
}

/// The pods that must go from a node; or what keeps the pod from it even without them, each with its count.
fn victims(trial: &mut Trial<'_>, node: u32) -> Result<Candidate, Vec<String>> {
    let i = node as usize;
    let priority = trial.pod.template.priority;
    let mut potential: Vec<Arc<PodInfo>> =
        trial.cluster.nodes.rows.pods[i].iter().filter(|p| p.template.priority < priority).cloned().collect();
    if potential.is_empty() {
        return Err(vec![NO_VICTIMS.into()]);
    }
    for pod in &potential {
        trial.cluster.nodes.take(i, pod.uid());
    }
    let without = trial.judge(node);
    if !without.is_fit(i) {
        for pod in potential {
            trial.cluster.nodes.put(i, pod);
        }
        return Err(without.of(i).map(|r| r.reason.to_string()).collect());
    }
    by_importance(&mut potential);
    let (violating, others) = by_violation(trial.cluster, &potential);
    let (mut victims, mut violations) = (Vec::new(), 0);
    // As many as possible stay, the most important first.
    for (pods, violates) in [(violating, 1), (others, 0)] {
        for pod in pods {
            trial.cluster.nodes.put(i, pod.clone());
            if !trial.judge(node).is_fit(i) {
                trial.cluster.nodes.take(i, pod.uid());
                violations += violates;
                victims.push(pod);
            }
        }
    }
    for pod in &victims {
        trial.cluster.nodes.put(i, pod.clone());
    }
    by_importance(&mut victims);
    if victims.is_empty() {
        return Err(vec![format!("expected at least one victim pod on node {:?}", trial.cluster.nodes.rows.name(i))]);
    }
    Ok(Candidate { node, victims, violations })
}

impl Plugin for DefaultPreemption {
    fn name(&self) -> &'static str {
        NAME
    }

    fn points(&self) -> &'static [Point] {
        &[Point::PreEnqueue, Point::PostFilter]
    }

    fn pre_enqueue(&self, cluster: &Cluster, pod: &PodInfo) -> Option<String> {
        let busy = cluster.preempting.contains(pod.uid());
        busy.then(|| "waiting for the preemption for this pod to be finished".into())
    }

    fn post_filter(&self, trial: &mut Trial<'_>, unfit: &Unfit) -> PostFilter {
        if let Some(reason) = ineligible(trial.cluster, trial.pod, unfit) {
            return PostFilter::Nothing(format!("preemption: {reason}"));
        }
        let potential = &unfit.resolvable;
        let wanted = self.wanted(potential.len());
        let offset = if potential.is_empty() { 0 } else { trial.seed % potential.len() };
        let mut candidates: Vec<Candidate> = Vec::new();
        let mut reasons: BTreeMap<String, usize> = BTreeMap::new();
        let mut tried = 0;
        for n in 0..potential.len() {
            let peaceful = candidates.iter().any(|c| c.violations == 0);
            if peaceful && candidates.len() >= wanted {
                break;
            }
            tried += 1;
            match victims(trial, potential[(offset + n) % potential.len()]) {
                Ok(candidate) => candidates.push(candidate),
                Err(why) => why.into_iter().for_each(|reason| *reasons.entry(reason).or_default() += 1),
            }
        }
        if !candidates.is_empty() {
            candidates.sort_by_key(|c| c.violations > 0);
            return PostFilter::Room(candidates);
        }
        if unfit.nodes > tried {
            reasons.insert(NOT_HELPFUL.into(), unfit.nodes - tried);
        }
        let text = Unfit { nodes: unfit.nodes, reasons, ..Unfit::default() }.message();
        PostFilter::Hopeless(format!("preemption: {text}"))
    }
}
