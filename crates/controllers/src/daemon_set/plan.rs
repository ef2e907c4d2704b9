//! What is to be done for a daemon set.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use orkd_reconcile::Key;
use serde_json::{Value, json};

use super::fit::{Fit, fit, target_node};
use super::{ControllerRevision, DaemonSet, DaemonSetStatus, HASH_LABEL, template_labels};
use crate::deployment::{int_or_percent, template};
use crate::owners::{self, Claim};
use crate::pods;
use crate::views::{Node, Pod};

/// What is known of one daemon set.
pub struct Observed {
    pub set: Arc<DaemonSet>,
    /// Pods that are its own or nobody's.
    pub pods: Vec<Arc<Pod>>,
    pub nodes: Vec<Arc<Node>>,
    /// Its revisions.
    pub revisions: Vec<Arc<ControllerRevision>>,
    /// Nodes whose failed pod is not replaced yet.
    pub held_back: HashSet<String>,
    /// Whether the cache has seen our last deeds.
    pub fresh: bool,
}

/// What is to be done for one daemon set.
#[derive(Debug, Default, PartialEq)]
pub struct Plan {
    pub selects_everything: bool,
    /// First of all, and alone: the revision of the template.
    pub revise: Option<Revise>,
    /// The hash of the newest template.
    pub hash: String,
    pub adopt: Vec<Key>,
    pub release: Vec<Key>,
    /// Nodes that get a pod.
    pub create: Vec<String>,
    pub delete: Vec<Key>,
    /// Old revisions beyond the limit.
    pub forget: Vec<Key>,
    pub status: DaemonSetStatus,
    pub again: Option<Duration>,
}

/// What is to be done about the revision of the newest template.
#[derive(Debug, PartialEq)]
pub enum Revise {
    /// It is new.
    Create { name: String, body: Value },
    /// It is an old one that has come back.
    Renumber { name: String, revision: i64 },
    /// One without the label of its hash gets it: its name serves, which no other has.
    Label { name: String },
    /// Several are of the newest template: pods of the others become those of one, and the others go
    /// (`dedupCurHistories`).
    Merge { hash: String, pods: Vec<Key>, others: Vec<Key> },
}

/// The most pods made in one round.
const BURST: usize = 250;

pub fn plan(observed: &Observed, now: Timestamp) -> Plan {
    let set = &*observed.set;
    let mut plan = Plan { status: set.status.clone(), ..Plan::default() };
    if set.spec.selector.is_empty() {
        plan.selects_everything = true;
        return plan;
    }
    if set.metadata.is_deleting() {
        return plan;
    }
    let newest = match current_revision(observed) {
        Ok(revision) => revision,
        Err(revise) => {
            plan.revise = Some(revise);
            return plan;
        }
    };
    plan.hash = newest.metadata.label(HASH_LABEL).unwrap_or_default().to_owned();

    let mut by_node: BTreeMap<&str, Vec<&Arc<Pod>>> = BTreeMap::new();
    for pod in &observed.pods {
        // One that has ended and is being deleted is in nobody's way, whoever still holds it.
        if pods::is_terminal(pod) && pod.metadata.is_deleting() {
            continue;
        }
        match owners::claim(&set.metadata, &set.spec.selector, &pod.metadata) {
            Claim::Keep => by_node.entry(target_node(pod)).or_default().push(pod),
            Claim::Adopt => {
                plan.adopt.push(pod.metadata.key());
                by_node.entry(target_node(pod)).or_default().push(pod);
            }
            Claim::Release => plan.release.push(pod.metadata.key()),
            Claim::Ignore => {}
        }
    }
    let fits: BTreeMap<&str, Fit> = observed.nodes.iter().map(|n| (&*n.metadata.name, fit(set, n))).collect();
    if observed.fresh {
        manage(&mut plan, observed, &by_node, &fits, now);
        if plan.create.is_empty() && plan.delete.is_empty() && set.spec.update_strategy.kind != "OnDelete" {
            roll(&mut plan, set, &by_node, &fits, now);
        }
        forget(&mut plan, observed, newest);
    }
    plan.status = status(set, &plan.hash, &by_node, &fits, now);
    if !observed.fresh {
        // What this generation asks for has not been looked at.
        plan.status.observed_generation = set.status.observed_generation;
    }
    if set.spec.min_ready_seconds > 0 && plan.status.number_ready != plan.status.number_available {
        let waits = by_node.values().flatten().filter_map(|p| pods::available_in(p, set.spec.min_ready_seconds, now));
        plan.again = waits.filter(|s| *s > 0).min().map(|s| Duration::from_secs(s.unsigned_abs()));
    }
    plan
}

/// The revision of the newest template, or what is to be done to have one.
fn current_revision(observed: &Observed) -> Result<&Arc<ControllerRevision>, Revise> {
    let set = &*observed.set;
    let mut with_patch = set.spec.template.clone();
    with_patch["$patch"] = "replace".into();
    let data = json!({"spec": {"template": with_patch}});
    if let Some(bare) = observed.revisions.iter().find(|r| r.metadata.label(HASH_LABEL).is_none()) {
        return Err(Revise::Label { name: bare.metadata.name.to_string() });
    }
    let highest = observed.revisions.iter().map(|r| r.revision).max().unwrap_or(0);
    let same = |r: &&Arc<ControllerRevision>| template::same(&r.data["spec"]["template"], &with_patch);
    let equal: Vec<&Arc<ControllerRevision>> = observed.revisions.iter().filter(same).collect();
    if let Some(found) = equal.iter().copied().max_by_key(|r| r.revision) {
        if equal.len() > 1 {
            return Err(merge(observed, found, &equal));
        }
        if found.revision < highest {
            return Err(Revise::Renumber { name: found.metadata.name.to_string(), revision: highest + 1 });
        }
        return Ok(found);
    }
    let hash = template::hash(&set.spec.template, set.status.collision_count);
    let name = format!("{}-{hash}", set.metadata.name);
    let mut labels = template_labels(&set.spec.template);
    labels.insert(HASH_LABEL.into(), hash);
    let body = json!({
        "apiVersion": "apps/v1", "kind": "ControllerRevision",
        "metadata": {
            "name": name, "namespace": &*set.metadata.namespace, "labels": labels,
            "annotations": set.metadata.annotations, "ownerReferences": [owners::controller_ref(set)],
        },
        "data": data, "revision": highest + 1,
    });
    Err(Revise::Create { name, body })
}

/// Makes one of several revisions of the same template.
fn merge(observed: &Observed, keep: &ControllerRevision, equal: &[&Arc<ControllerRevision>]) -> Revise {
    let others = || equal.iter().filter(|r| r.metadata.uid != keep.metadata.uid);
    let hash_of = |meta: &orkd_reconcile::Meta| meta.label(HASH_LABEL).unwrap_or_default().to_owned();
    let hashes: HashSet<String> = others().map(|r| hash_of(&r.metadata)).collect();
    let of_others = observed
        .pods
        .iter()
        .filter(|p| p.metadata.is_controlled_by(&observed.set.metadata.uid) && hashes.contains(&hash_of(&p.metadata)));
    Revise::Merge {
        hash: hash_of(&keep.metadata),
        pods: of_others.map(|p| p.metadata.key()).collect(),
        others: others().map(|r| r.metadata.key()).collect(),
    }
}

/// The order of pods of one node: those that have a node first, then by age (`podByCreationTimestampAndPhase`).
fn seniority(pod: &Pod) -> impl Ord + use<> {
    (pod.spec.node_name.is_empty(), pod.metadata.creation_timestamp, pod.metadata.name.clone())
}

/// Pods that are missing or too many (`podsShouldBeOnNode`).
fn manage(
    plan: &mut Plan,
    observed: &Observed,
    by_node: &BTreeMap<&str, Vec<&Arc<Pod>>>,
    fits: &BTreeMap<&str, Fit>,
    now: Timestamp,
) {
    let set = &*observed.set;
    // A pod for a node that has gone is never placed, and then nobody else removes it.
    let gone = by_node.iter().filter(|(node, _)| !node.is_empty() && !fits.contains_key(*node));
    let lost = gone.flat_map(|(_, pods)| pods).filter(|p| p.spec.node_name.is_empty() && !p.metadata.is_deleting());
    plan.delete.extend(lost.map(|p| p.metadata.key()));
    let desired = fits.values().filter(|f| f.should_run).count();
    let surges = limits(set, desired).0 > 0;
    for (node, fit) in fits {
        let pods = by_node.get(node).map(Vec::as_slice).unwrap_or_default();
        if !fit.may_stay {
            plan.delete.extend(pods.iter().filter(|p| !p.metadata.is_deleting()).map(|p| p.metadata.key()));
            continue;
        }
        let mut running: Vec<&Arc<Pod>> = Vec::new();
        for pod in pods.iter().filter(|p| !p.metadata.is_deleting()) {
            match pod.status.phase.as_str() {
                // One that fails again and again is replaced ever later.
                "Failed" if observed.held_back.contains(*node) => {}
                "Failed" | "Succeeded" => plan.delete.push(pod.metadata.key()),
                _ => running.push(pod),
            }
        }
        if running.is_empty() {
            // A pod that ends is waited for: two do not share a node's ports.
            if fit.should_run && pods.is_empty() && plan.create.len() < BURST {
                plan.create.push((*node).to_owned());
            }
            continue;
        }
        // The oldest stays; while surging the oldest of the newest template too, until it can take over.
        running.sort_by_key(|p| seniority(p));
        if !surges {
            plan.delete.extend(running.iter().skip(1).map(|p| p.metadata.key()));
            continue;
        }
        let (new, old): (Vec<&Arc<Pod>>, Vec<&Arc<Pod>>) = running.into_iter().partition(|p| is_updated(p, &plan.hash));
        plan.delete.extend(new.iter().skip(1).chain(old.iter().skip(1)).map(|p| p.metadata.key()));
        if let (Some(new), Some(old)) = (new.first(), old.first())
            && (!pods::is_ready(old) || pods::is_available(new, set.spec.min_ready_seconds, now))
        {
            plan.delete.push(old.metadata.key());
        }
    }
}

/// How many pods may be too many, and how many missing, during a roll-out.
fn limits(set: &DaemonSet, desired: usize) -> (i32, i32) {
    let desired = i32::try_from(desired).unwrap_or(i32::MAX);
    let parameters = set.spec.update_strategy.rolling_update.clone().unwrap_or_default();
    if set.spec.update_strategy.kind == "OnDelete" {
        return (0, 1);
    }
    let surge = int_or_percent(&parameters.max_surge, desired, true);
    let unavailable = int_or_percent(&parameters.max_unavailable, desired, true);
    if surge == 0 { (0, unavailable.max(1)) } else { (surge, unavailable) }
}

/// Old pods that may be replaced now, nodes that may have two (`rollingUpdate`).
fn roll(
    plan: &mut Plan,
    set: &DaemonSet,
    by_node: &BTreeMap<&str, Vec<&Arc<Pod>>>,
    fits: &BTreeMap<&str, Fit>,
    now: Timestamp,
) {
    let desired = fits.values().filter(|f| f.should_run).count();
    let (surge, unavailable) = limits(set, desired);
    let available = |pod: &Pod| pods::is_available(pod, set.spec.min_ready_seconds, now);
    let (mut used, mut at_once, mut later) = (0, Vec::new(), Vec::new());
    // Surging only: how many nodes are served, and pods that serve where none should run.
    let (mut served, mut misplaced) = (0, Vec::new());
    for (node, fit) in fits.iter().filter(|(node, f)| f.should_run || by_node.contains_key(*node)) {
        let pods = by_node.get(node).map(Vec::as_slice).unwrap_or_default();
        let staying = pods.iter().filter(|p| !p.metadata.is_deleting());
        let (new, old): (Vec<&&Arc<Pod>>, Vec<&&Arc<Pod>>) = staying.partition(|p| is_updated(p, &plan.hash));
        if new.len() > 1 || old.len() > 1 {
            used += 1;
            continue;
        }
        let (new, old) = (new.first().copied(), old.first().copied());
        served += usize::from(old.or(new).is_some_and(|p| available(p)));
        match (surge > 0, new, old) {
            (false, None, Some(old)) if available(old) => later.push(old),
            (false, None, Some(old)) => {
                // It does nobody good as it is.
                used += 1;
                at_once.push(old);
            }
            (false, Some(new), None) => used += i32::from(!available(new)),
            (false, _, _) => used += 1,
            (true, None, Some(old)) => match (fit.should_run, available(old)) {
                (true, true) => later.push(old),
                (true, false) => at_once.push(old),
                (false, true) => misplaced.push(old),
                (false, false) => plan.delete.push(old.metadata.key()),
            },
            (true, Some(new), Some(_)) if !available(new) => used += 1,
            (true, Some(_), Some(old)) => plan.delete.push(old.metadata.key()),
            (true, _, None) => {}
        }
    }
    let most = if surge > 0 { surge } else { unavailable };
    later.truncate(usize::try_from(most - used).unwrap_or(0));
    let chosen = at_once.into_iter().chain(later);
    if surge > 0 {
        // Where none should run a pod stays until another serves in its place.
        let spare = served.saturating_sub(desired);
        plan.delete.extend(misplaced.into_iter().take(spare).map(|p| p.metadata.key()));
        plan.create.extend(chosen.map(|p| target_node(p).to_owned()));
    } else {
        plan.delete.extend(chosen.map(|p| p.metadata.key()));
    }
}

fn is_updated(pod: &Pod, hash: &str) -> bool {
    !hash.is_empty() && pod.metadata.label(HASH_LABEL) == Some(hash)
}

/// Old revisions beyond the limit, of those that no pod is of (`cleanupHistory`).
fn forget(plan: &mut Plan, observed: &Observed, newest: &ControllerRevision) {
    let limit = usize::try_from(observed.set.spec.revision_history_limit.unwrap_or(10)).unwrap_or(0);
    let live = |r: &ControllerRevision| {
        let hash = r.metadata.label(HASH_LABEL);
        observed.pods.iter().any(|p| hash.is_some() && p.metadata.label(HASH_LABEL) == hash)
    };
    let mut old: Vec<&Arc<ControllerRevision>> =
        observed.revisions.iter().filter(|r| r.metadata.uid != newest.metadata.uid).collect();
    old.sort_by_key(|r| r.revision);
    // Those that pods are of count towards the limit and stay.
    let surplus = old.len().saturating_sub(limit);
    plan.forget = old.into_iter().filter(|r| !live(r)).take(surplus).map(|r| r.metadata.key()).collect();
}

fn status(
    set: &DaemonSet,
    hash: &str,
    by_node: &BTreeMap<&str, Vec<&Arc<Pod>>>,
    fits: &BTreeMap<&str, Fit>,
    now: Timestamp,
) -> DaemonSetStatus {
    let mut status = DaemonSetStatus {
        observed_generation: set.metadata.generation,
        collision_count: set.status.collision_count,
        conditions: set.status.conditions.clone(),
        ..DaemonSetStatus::default()
    };
    for (node, fit) in fits {
        let oldest = by_node.get(node).into_iter().flatten().min_by_key(|p| seniority(p));
        if !fit.should_run {
            status.number_misscheduled += i32::from(oldest.is_some());
            continue;
        }
        status.desired_number_scheduled += 1;
        let Some(pod) = oldest else { continue };
        status.current_number_scheduled += 1;
        status.number_ready += i32::from(pods::is_ready(pod));
        status.number_available += i32::from(pods::is_available(pod, set.spec.min_ready_seconds, now));
        status.updated_number_scheduled += i32::from(is_updated(pod, hash));
    }
    status.number_unavailable = status.desired_number_scheduled - status.number_available;
    status
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(change: impl FnOnce(&mut Value)) -> Arc<DaemonSet> {
        let mut json = json!({
            "metadata": {"namespace": "n", "name": "agent", "uid": "d", "generation": 1},
            "spec": {"selector": {"matchLabels": {"app": "x"}},
                "template": {"metadata": {"labels": {"app": "x"}}, "spec": {"containers": [{"image": "one"}]}},
                "updateStrategy": {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 1}}},
        });
        change(&mut json);
        Arc::new(serde_json::from_value(json).expect("a daemon set"))
    }

    fn node(name: &str, change: impl FnOnce(&mut Value)) -> Arc<Node> {
        let mut json = json!({"metadata": {"name": name, "labels": {"disk": "ssd"}}});
        change(&mut json);
        Arc::new(serde_json::from_value(json).expect("a node"))
    }

    fn pod(node: &str, hash: &str, ready: bool) -> Arc<Pod> {
        let ready = if ready { "True" } else { "False" };
        Arc::new(
            serde_json::from_value(json!({
                "metadata": {"namespace": "n", "name": format!("on-{node}"), "uid": node,
                    "labels": {"app": "x", HASH_LABEL: hash}, "ownerReferences": [{"uid": "d", "controller": true}]},
                "spec": {"affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution":
                    {"nodeSelectorTerms": [{"matchFields": [
                        {"key": "metadata.name", "operator": "In", "values": [node]}]}]}}}},
                "status": {"phase": "Running", "conditions": [{"type": "Ready", "status": ready}]},
            }))
            .expect("a pod"),
        )
    }

    fn revision(set: &DaemonSet, hash: &str) -> Arc<ControllerRevision> {
        Arc::new(
            serde_json::from_value(json!({
                "metadata": {"namespace": "n", "name": hash, "uid": hash, "labels": {HASH_LABEL: hash}},
                "data": {"spec": {"template": set.spec.template}}, "revision": 1,
            }))
            .expect("a revision"),
        )
    }

    fn check(set: &Arc<DaemonSet>, nodes: Vec<Arc<Node>>, pods: Vec<Arc<Pod>>, expected: &str) {
        let mut stored = revision(set, "new");
        Arc::make_mut(&mut stored).data["spec"]["template"]["$patch"] = "replace".into();
        let observed = Observed {
            set: set.clone(),
            pods,
            nodes,
            revisions: vec![stored],
            held_back: HashSet::from(["held".to_owned()]),
            fresh: true,
        };
        let plan = plan(&observed, "2026-01-01T00:00:00Z".parse().expect("a time"));
        let deleted: Vec<String> = plan.delete.iter().map(|k| k.name.to_string()).collect();
        let s = &plan.status;
        let text = format!(
            "create={} delete={} {}/{}/{}",
            plan.create.join(","),
            deleted.join(","),
            s.desired_number_scheduled,
            s.current_number_scheduled,
            s.number_available
        );
        assert_eq!(text, expected);
    }

    #[test]
    fn the_template_is_kept_as_a_revision() {
        let set = set(|_| {});
        let observed = |revisions| Observed {
            set: set.clone(),
            pods: vec![],
            nodes: vec![],
            revisions,
            held_back: HashSet::new(),
            fresh: true,
        };
        let now = "2026-01-01T00:00:00Z".parse().expect("a time");
        let Some(Revise::Create { name, body }) = plan(&observed(vec![]), now).revise else { panic!("a revision") };
        assert_eq!(body["data"]["spec"]["template"]["$patch"], "replace");
        assert_eq!((body["revision"].as_i64(), name.starts_with("agent-")), (Some(1), true));
        let mut kept: ControllerRevision = serde_json::from_value(body).expect("a revision");
        assert!(plan(&observed(vec![Arc::new(kept.clone())]), now).revise.is_none());
        let newer = ControllerRevision { revision: 2, ..(*revision(&set, "newer")).clone() };
        kept.revision = 1;
        let again = plan(&observed(vec![Arc::new(kept), Arc::new(newer)]), now).revise;
        assert_eq!(again, Some(Revise::Renumber { name, revision: 3 }));
    }

    #[test]
    fn revisions_of_one_template_are_merged() {
        let set = set(|_| {});
        let stored = |hash: &str, number: i64| {
            let mut stored = (*revision(&set, hash)).clone();
            stored.data["spec"]["template"]["$patch"] = "replace".into();
            stored.revision = number;
            stored
        };
        let revise = |revisions: Vec<ControllerRevision>| {
            let pods = vec![pod("a", "twin", true), pod("b", "kept", true), pod("c", "old", true)];
            let revisions = revisions.into_iter().map(Arc::new).collect();
            let nodes = ["a", "b", "c"].map(|n| node(n, |_| {})).to_vec();
            let held_back = HashSet::new();
            let observed = Observed { set: set.clone(), pods, nodes, revisions, held_back, fresh: true };
            plan(&observed, "2026-01-01T00:00:00Z".parse().expect("a time")).revise
        };
        let mut old = (*revision(&set, "old")).clone();
        old.data["spec"]["template"]["spec"] = json!({});
        let expected = Revise::Merge {
            hash: "kept".into(),
            pods: vec![Key::new("n", "on-a")],
            others: vec![Key::new("n", "twin")],
        };
        assert_eq!(revise(vec![stored("kept", 3), stored("twin", 2), old.clone()]), Some(expected));
        assert_eq!(revise(vec![stored("kept", 3), old.clone()]), None);
        let mut bare = stored("bare", 3);
        bare.metadata.labels = Default::default();
        assert_eq!(revise(vec![bare, old]), Some(Revise::Label { name: "bare".into() }));
    }

    #[test]
    fn history_has_a_limit_that_revisions_in_use_count_towards() {
        let set = set(|s| s["spec"]["revisionHistoryLimit"] = 1.into());
        let mut newest = (*revision(&set, "new")).clone();
        newest.data["spec"]["template"]["$patch"] = "replace".into();
        newest.revision = 4;
        let old = |hash: &str, number: i64| {
            let mut old = (*revision(&set, hash)).clone();
            old.data["spec"]["template"]["spec"] = json!({"old": number});
            old.revision = number;
            Arc::new(old)
        };
        let revisions = vec![old("c", 3), old("a", 1), old("b", 2), Arc::new(newest)];
        let (pods, nodes) = (vec![pod("n1", "a", true)], vec![node("n1", |_| {})]);
        let observed = Observed { set, pods, nodes, revisions, held_back: HashSet::new(), fresh: true };
        let forget = plan(&observed, "2026-01-01T00:00:00Z".parse().expect("a time")).forget;
        assert_eq!(forget.iter().map(|k| &*k.name).collect::<Vec<_>>(), ["b", "c"]);
    }

    #[test]
    fn every_node_that_fits_gets_a_pod() {
        let tainted = |effect: &'static str| {
            move |n: &mut Value| {
                n["spec"]["taints"] = json!([{"key": "mine", "effect": effect}]);
            }
        };
        let nodes = vec![
            node("a", |_| {}),
            node("b", tainted("NoSchedule")),
            node("c", |n| {
                n["spec"]["taints"] = json!([{"key": "node.kubernetes.io/not-ready", "effect": "NoExecute"}])
            }),
        ];
        check(&set(|_| {}), nodes, vec![], "create=a,c delete= 2/0/0");
        let nodes = || vec![node("a", tainted("NoExecute")), node("b", tainted("NoSchedule"))];
        check(&set(|_| {}), nodes(), vec![pod("a", "new", true), pod("b", "new", true)], "create= delete=on-a 0/0/0");
        let ssd = set(|s| s["spec"]["template"]["spec"]["nodeSelector"] = json!({"disk": "ssd"}));
        let nodes = vec![node("a", |_| {}), node("b", |n| n["metadata"]["labels"] = json!({}))];
        check(&ssd, nodes, vec![], "create=a delete= 1/0/0");
    }

    #[test]
    fn a_rolling_update_keeps_availability() {
        let nodes = || ["a", "b", "c"].map(|n| node(n, |_| {})).to_vec();
        let old =
            |ready: [bool; 3]| ["a", "b", "c"].iter().zip(ready).map(|(n, r)| pod(n, "old", r)).collect::<Vec<_>>();
        let set = set(|_| {});
        check(&set, nodes(), old([true; 3]), "create= delete=on-a 3/3/3");
        check(&set, nodes(), old([true, false, true]), "create= delete=on-b 3/3/2");
        let mixed = vec![pod("a", "new", false), pod("b", "old", true), pod("c", "old", true)];
        check(&set, nodes(), mixed, "create= delete= 3/3/2");
    }

    #[test]
    fn on_delete_leaves_old_pods_alone() {
        let manual = set(|s| s["spec"]["updateStrategy"] = json!({"type": "OnDelete"}));
        let nodes = vec![node("a", |_| {}), node("b", |_| {})];
        check(&manual, nodes, vec![pod("a", "old", true)], "create=b delete= 2/1/1");
    }

    #[test]
    fn a_surge_has_two_pods_on_a_node_for_a_while() {
        let nodes = || ["a", "b", "c"].map(|n| node(n, |_| {})).to_vec();
        let surge = |surge: Value| {
            set(move |s| {
                s["spec"]["updateStrategy"]["rollingUpdate"] = json!({"maxUnavailable": 0, "maxSurge": surge});
            })
        };
        let named = |name: &str, node: &str, hash: &str, ready: bool| {
            let mut pod = (*pod(node, hash, ready)).clone();
            pod.metadata.name = name.into();
            Arc::new(pod)
        };
        let old =
            |ready: [bool; 3]| ["a", "b", "c"].iter().zip(ready).map(|(n, r)| pod(n, "old", r)).collect::<Vec<_>>();
        check(&surge(1.into()), nodes(), old([true; 3]), "create=a delete= 3/3/3");
        check(&surge("50%".into()), nodes(), old([true; 3]), "create=a,b delete= 3/3/3");
        check(&surge(1.into()), nodes(), old([true, true, false]), "create=c,a delete= 3/3/2");
        let with = |ready| [old([true; 3]), vec![named("z-new", "a", "new", ready)]].concat();
        check(&surge(1.into()), nodes(), with(false), "create= delete= 3/3/3");
        check(&surge(1.into()), nodes(), with(true), "create= delete=on-a 3/3/3");
        let mut broken = old([false, true, true]);
        broken.push(named("z-new", "a", "new", false));
        check(&surge(1.into()), nodes(), broken, "create= delete=on-a 3/3/2");
    }

    #[test]
    fn pods_where_none_should_run_are_replaced_elsewhere_first() {
        let tainted = || node("t", |n| n["spec"]["taints"] = json!([{"key": "mine", "effect": "NoSchedule"}]));
        let nodes = || vec![node("a", |_| {}), tainted()];
        // Without a surge it is one of those that are due.
        let pods = |hash: &str, ready: bool| vec![pod("a", hash, ready), pod("t", "old", true)];
        check(&set(|_| {}), nodes(), pods("new", true), "create= delete=on-t 1/1/1");
        check(&set(|_| {}), nodes(), pods("new", false), "create= delete= 1/1/0");
        // With one it stays until its place is served.
        let surge = set(|s| {
            s["spec"]["updateStrategy"]["rollingUpdate"] = json!({"maxUnavailable": 0, "maxSurge": 1});
        });
        check(&surge, nodes(), pods("new", false), "create= delete= 1/1/0");
        check(&surge, nodes(), pods("new", true), "create= delete=on-t 1/1/1");
        let broken = vec![pod("a", "new", false), pod("t", "old", false)];
        check(&surge, nodes(), broken, "create= delete=on-t 1/1/0");
    }

    #[test]
    fn of_two_pods_of_a_node_the_one_that_is_placed_stays() {
        let mut placed = (*pod("a", "new", true)).clone();
        placed.metadata.name = "z-placed".into();
        placed.spec.node_name = "a".into();
        check(
            &set(|_| {}),
            vec![node("a", |_| {})],
            vec![pod("a", "new", true), Arc::new(placed)],
            "create= delete=on-a 1/1/1",
        );
    }

    #[test]
    fn a_pod_that_ended_and_is_held_by_others_is_replaced() {
        let mut held = (*pod("a", "new", false)).clone();
        held.status.phase = "Failed".into();
        held.metadata.deletion_timestamp = "2026-01-01T00:00:00Z".parse().ok();
        check(&set(|_| {}), vec![node("a", |_| {})], vec![Arc::new(held)], "create=a delete= 1/0/0");
    }

    #[test]
    fn a_generation_is_observed_once_it_was_acted_on() {
        let observed = |fresh: bool| {
            let set = set(|_| {});
            let mut stored = (*revision(&set, "new")).clone();
            stored.data["spec"]["template"]["$patch"] = "replace".into();
            let revisions = vec![Arc::new(stored)];
            let observed = Observed { set, pods: vec![], nodes: vec![], revisions, held_back: HashSet::new(), fresh };
            plan(&observed, "2026-01-01T00:00:00Z".parse().expect("a time")).status.observed_generation
        };
        assert_eq!((observed(false), observed(true)), (0, 1));
    }

    #[test]
    fn a_pod_that_waits_for_a_node_that_has_gone_goes() {
        let mut bound = (*pod("left", "new", true)).clone();
        bound.spec.node_name = "left".into();
        let pods = vec![pod("a", "new", true), pod("gone", "new", false), Arc::new(bound)];
        check(&set(|_| {}), vec![node("a", |_| {})], pods, "create= delete=on-gone 1/1/1");
    }

    #[test]
    fn a_pod_that_fails_again_is_replaced_later() {
        let failed = |node: &str| {
            let mut pod = (*pod(node, "new", false)).clone();
            pod.status.phase = "Failed".into();
            Arc::new(pod)
        };
        let nodes = vec![node("a", |_| {}), node("held", |_| {})];
        check(&set(|_| {}), nodes, vec![failed("a"), failed("held")], "create= delete=on-a 2/2/0");
    }
}
