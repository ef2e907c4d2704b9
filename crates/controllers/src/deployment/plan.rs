//! One step of a deployment, decided from what is there.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use orkd_reconcile::{Key, Resource};
use serde_json::{Map, Value, json};

use super::template::{self, DESIRED, HASH_LABEL, MAX, REVISION};
use super::{progress, scale};
use crate::owners::{self, Claim};
use crate::views::{Deployment, DeploymentStatus, ReplicaSet};

/// What is known of one deployment.
pub struct Observed {
    pub deployment: Arc<Deployment>,
    /// Replica sets that are its own or nobody's.
    pub candidates: Vec<Arc<ReplicaSet>>,
    /// Uids of the replica sets that have pods which have not ended; filled for strategy `Recreate`.
    pub running: Vec<String>,
}

/// What is to be done for one deployment.
#[derive(Debug, Default)]
pub struct Plan {
    pub selects_everything: bool,
    pub adopt: Vec<Key>,
    pub release: Vec<Key>,
    pub steps: Vec<Step>,
    pub status: Option<DeploymentStatus>,
    pub again: Option<Duration>,
}

/// One write.
#[derive(Debug, PartialEq)]
pub enum Step {
    /// Makes the replica set of the newest template.
    Create { name: String, replicas: i32, body: Value },
    /// Changes a replica set; with the counts when it is scaled.
    Patch { set: Key, patch: Value, scaled: Option<(i32, i32)> },
    /// Deletes an old replica set.
    Delete { set: Key, uid: String },
    /// Notes the revision on the deployment.
    Revision(String),
}

pub fn plan(observed: &Observed, now: Timestamp) -> Plan {
    let deployment = &*observed.deployment;
    let mut plan = Plan::default();
    if deployment.spec.selector.is_empty() {
        plan.selects_everything = true;
        if deployment.status.observed_generation < deployment.metadata.generation {
            plan.status = Some(DeploymentStatus {
                observed_generation: deployment.metadata.generation,
                ..deployment.status.clone()
            });
        }
        return plan;
    }
    let mut all: Vec<Arc<ReplicaSet>> = Vec::new();
    for set in &observed.candidates {
        match owners::claim(&deployment.metadata, &deployment.spec.selector, &set.metadata) {
            Claim::Keep => all.push(set.clone()),
            Claim::Adopt => {
                plan.adopt.push(set.metadata.key());
                all.push(set.clone());
            }
            Claim::Release => plan.release.push(set.metadata.key()),
            Claim::Ignore => {}
        }
    }
    all.sort_by(|a, b| {
        let order = |s: &ReplicaSet| (s.metadata.creation_timestamp, s.metadata.name.clone());
        order(a).cmp(&order(b))
    });
    // The oldest that has the template is the new one: history makes no twins.
    let new = all.iter().find(|s| template::same(&template::of_set(s), &deployment.spec.template)).cloned();
    let old: Vec<Arc<ReplicaSet>> =
        all.iter().filter(|s| new.as_ref().is_none_or(|n| n.metadata.uid != s.metadata.uid)).cloned().collect();
    let mut round = Round { deployment, all, new, old, now, plan };

    if deployment.metadata.is_deleting() {
        round.plan.status = Some(round.paused_status());
        return round.plan;
    }
    if let Some(change) = progress::pause_change(deployment, now) {
        let mut status = deployment.status.clone();
        progress::apply(&mut status, change);
        round.plan.status = Some(status);
        // The status comes back as an event and with it the next round.
        return round.plan;
    }
    if deployment.spec.paused {
        round.prepare_new(false);
        if round.plan.steps.is_empty() {
            round.scale_all();
        }
        if round.plan.steps.is_empty() {
            round.clean_up();
        }
        round.finish_paused();
        return round.plan;
    }
    if round.is_scaling() {
        round.prepare_new(false);
        if round.plan.steps.is_empty() {
            round.scale_all();
        }
        round.finish_paused();
        return round.plan;
    }
    if deployment.spec.strategy.kind == "Recreate" {
        round.recreate(&observed.running);
    } else {
        round.roll();
    }
    round.plan
}

struct Round<'a> {
    deployment: &'a Deployment,
    /// All replica sets of the deployment, oldest first.
    all: Vec<Arc<ReplicaSet>>,
    new: Option<Arc<ReplicaSet>>,
    old: Vec<Arc<ReplicaSet>>,
    now: Timestamp,
    plan: Plan,
}

impl Round<'_> {
    fn recreate(&mut self, running: &[String]) {
        // Old ones go first, and their pods with them.
        for set in active(&self.old) {
            self.scale(&set, 0);
        }
        if !self.plan.steps.is_empty() {
            return self.finish();
        }
        if self.old.iter().any(|s| running.contains(&s.metadata.uid)) {
            return self.finish();
        }
        self.prepare_new(true);
        if let Some(new) = self.new.clone()
            && self.plan.steps.is_empty()
        {
            self.scale(&new, scale::wanted(self.deployment));
        }
        if self.is_complete() {
            self.clean_up();
        }
        self.finish();
    }

    fn roll(&mut self) {
        self.prepare_new(true);
        let Some(new) = self.new.clone().filter(|_| self.plan.steps.is_empty()) else { return self.finish() };
        // The new one.
        let (wanted, has) = (scale::wanted(self.deployment), scale::asked(&new));
        let target = if has > wanted {
            wanted
        } else {
            scale::new_set(self.deployment, self.all.iter().map(|s| scale::asked(s)).sum(), has)
        };
        if target != has {
            self.scale(&new, target);
            return self.finish();
        }
        // The old ones.
        self.shrink_old(&new);
        if self.plan.steps.is_empty() && self.is_complete() {
            self.clean_up();
        }
        self.finish();
    }

    /// Scales old sets down as far as availability allows (`reconcileOldReplicaSets`).
    fn shrink_old(&mut self, new: &ReplicaSet) {
        let mut old = active(&self.old);
        let old_pods: i32 = old.iter().map(|s| scale::asked(s)).sum();
        if old_pods == 0 {
            return;
        }
        let least = scale::wanted(self.deployment) - scale::max_unavailable(self.deployment);
        let new_unavailable = scale::asked(new) - new.status.available_replicas;
        let all_pods = old_pods + scale::asked(new);
        let mut budget = all_pods - least - new_unavailable;
        if budget <= 0 {
            return;
        }
        // Those that are not available anyway go first.
        let mut targets: Vec<i32> = old.iter().map(|s| scale::asked(s)).collect();
        for (set, target) in old.iter().zip(&mut targets) {
            if budget == 0 {
                break;
            }
            let sick = (*target - set.status.available_replicas).max(0).min(budget);
            *target -= sick;
            budget -= sick;
        }
        // Then, oldest first, what availability can spare. What was just given up was not available, so it does
        // not count against it.
        let available: i32 = self.all.iter().map(|s| s.status.available_replicas).sum();
        let mut spare = (available - least).max(0);
        for (set, target) in old.iter_mut().zip(&mut targets) {
            let step = (*target).min(spare);
            *target -= step;
            spare -= step;
            if *target != scale::asked(set) {
                self.scale(set, *target);
            }
        }
    }

    /// Finds or makes the new replica set and its revision (`getAllReplicaSetsAndSyncRevision`).
    fn prepare_new(&mut self, create: bool) {
        let deployment = self.deployment;
        let old_revision = self.old.iter().map(|s| template::revision(s)).max().unwrap_or(0);
        let revision = old_revision + 1;
        let Some(new) = self.new.clone() else {
            if create {
                self.create_new(revision);
            }
            return;
        };
        let changes = template::annotation_changes(deployment, &new, revision);
        let mut patch = Map::new();
        if !changes.is_empty() {
            patch.insert("metadata".into(), json!({"annotations": changes}));
        }
        if new.spec.min_ready_seconds != deployment.spec.min_ready_seconds {
            patch.insert("spec".into(), json!({"minReadySeconds": deployment.spec.min_ready_seconds}));
        }
        if !patch.is_empty() {
            self.patch(&new, Value::Object(patch), None);
            return;
        }
        if let Some(revision) = new.metadata.annotation(REVISION)
            && deployment.metadata.annotation(REVISION) != Some(revision)
        {
            self.plan.steps.push(Step::Revision(revision.to_owned()));
        }
    }

    fn create_new(&mut self, revision: i64) {
        let deployment = self.deployment;
        let meta = &deployment.metadata;
        let hash = template::hash(&deployment.spec.template, deployment.status.collision_count);
        let name = format!("{}-{hash}", meta.name);
        let mut template = deployment.spec.template.clone();
        if !template["metadata"].is_object() {
            template["metadata"] = json!({});
        }
        if !template["metadata"]["labels"].is_object() {
            template["metadata"]["labels"] = json!({});
        }
        template["metadata"]["labels"][HASH_LABEL] = hash.as_str().into();
        let all: i32 = self.all.iter().map(|s| scale::asked(s)).sum();
        let replicas = scale::new_set(deployment, all, 0);
        let mut annotations = template::copied(deployment);
        annotations.insert(REVISION.into(), revision.to_string());
        annotations.extend(self.scale_annotations());
        let mut selector = json!({});
        let s = &deployment.spec.selector;
        let mut labels = s.match_labels.clone();
        labels.insert(HASH_LABEL.into(), hash);
        selector["matchLabels"] = json!(labels);
        if !s.match_expressions.is_empty() {
            let expression = |r: &orkd_reconcile::Requirement| {
                let mut e = json!({"key": r.key, "operator": r.operator});
                if !r.values.is_empty() {
                    e["values"] = json!(r.values);
                }
                e
            };
            selector["matchExpressions"] = s.match_expressions.iter().map(expression).collect();
        }
        let body = json!({
            "apiVersion": Resource::of::<ReplicaSet>().api_version(), "kind": "ReplicaSet",
            "metadata": {
                "name": name, "namespace": &*meta.namespace, "annotations": annotations,
                "labels": template["metadata"]["labels"],
                "ownerReferences": [owners::controller_ref(deployment)],
            },
            "spec": {
                "replicas": replicas, "minReadySeconds": deployment.spec.min_ready_seconds,
                "selector": selector, "template": template,
            },
        });
        self.plan.steps.push(Step::Create { name, replicas, body });
        if meta.annotation(REVISION) != Some(revision.to_string().as_str()) {
            self.plan.steps.push(Step::Revision(revision.to_string()));
        }
    }

    fn scale_annotations(&self) -> [(String, String); 2] {
        let wanted = scale::wanted(self.deployment);
        let most = wanted + scale::max_surge(self.deployment);
        [(DESIRED.into(), wanted.to_string()), (MAX.into(), most.to_string())]
    }

    /// Whether the deployment was scaled since its sets were (`isScalingEvent`).
    fn is_scaling(&self) -> bool {
        active(&self.all)
            .iter()
            .any(|s| scale::annotation(s, DESIRED).is_some_and(|desired| desired != scale::wanted(self.deployment)))
    }

    /// Spreads a changed size over the sets (`scale`).
    fn scale_all(&mut self) {
        let sized = active(&self.all);
        let sole = match sized.as_slice() {
            [] => self.new.clone().or_else(|| self.all.last().cloned()),
            [one] => Some(one.clone()),
            _ => None,
        };
        if let Some(sole) = sole {
            if scale::asked(&sole) != scale::wanted(self.deployment) {
                self.scale(&sole, scale::wanted(self.deployment));
            } else if !sized.is_empty() && !scale::is_up_to_date(self.deployment, &sole) {
                self.scale(&sole, scale::asked(&sole));
            }
            return;
        }
        if let Some(new) = self.new.clone()
            && is_saturated(self.deployment, &new)
        {
            for old in active(&self.old) {
                self.scale(&old, 0);
            }
            return;
        }
        if self.deployment.spec.strategy.kind != "RollingUpdate" {
            return;
        }
        let mut sets = sized;
        let total: i32 = sets.iter().map(|s| scale::asked(s)).sum();
        let allowed = match scale::wanted(self.deployment) {
            0 => 0,
            wanted => wanted + scale::max_surge(self.deployment),
        };
        let to_add = allowed - total;
        // Larger ones take first; of equal ones the newer when growing, the older when shrinking.
        sets.sort_by(|a, b| {
            let size = scale::asked(b).cmp(&scale::asked(a));
            let age = a.metadata.creation_timestamp.cmp(&b.metadata.creation_timestamp);
            size.then(if to_add > 0 { age.reverse() } else { age })
        });
        let mut added = 0;
        let mut targets = Vec::new();
        for set in &sets {
            let share = if to_add == 0 { 0 } else { scale::proportion(self.deployment, set, to_add, added) };
            targets.push(scale::asked(set) + share);
            added += share;
        }
        if let Some(first) = targets.first_mut() {
            *first = (*first + to_add - added).max(0);
        }
        for (set, target) in sets.iter().zip(targets) {
            if target != scale::asked(set) || !scale::is_up_to_date(self.deployment, set) {
                self.scale(set, target);
            }
        }
    }

    /// Deletes old sets beyond the history limit (`cleanupDeployment`).
    fn clean_up(&mut self) {
        let limit = self.deployment.spec.revision_history_limit.unwrap_or(i32::MAX);
        if limit == i32::MAX {
            return;
        }
        let mut old: Vec<_> = self.old.iter().filter(|s| !s.metadata.is_deleting()).collect();
        old.sort_by_key(|s| (template::revision(s), s.metadata.creation_timestamp));
        let Ok(limit) = usize::try_from(limit) else { return };
        let surplus = old.len().saturating_sub(limit);
        let steps: Vec<Step> = old
            .into_iter()
            .take(surplus)
            .filter(|s| {
                s.status.replicas == 0 && scale::asked(s) == 0 && s.metadata.generation <= s.status.observed_generation
            })
            .map(|s| Step::Delete { set: s.metadata.key(), uid: s.metadata.uid.clone() })
            .collect();
        self.plan.steps.extend(steps);
    }

    fn scale(&mut self, set: &ReplicaSet, to: i32) {
        let from = scale::asked(set);
        let annotations: Map<String, Value> =
            self.scale_annotations().into_iter().map(|(k, v)| (k, Value::String(v))).collect();
        if from == to && scale::is_up_to_date(self.deployment, set) {
            return;
        }
        let patch = json!({"metadata": {"annotations": annotations}, "spec": {"replicas": to}});
        self.patch(set, patch, (from != to).then_some((from, to)));
    }

    /// A change of the very version that was seen: what others changed meanwhile is looked at first.
    fn patch(&mut self, set: &ReplicaSet, mut patch: Value, scaled: Option<(i32, i32)>) {
        if !patch["metadata"].is_object() {
            patch["metadata"] = json!({});
        }
        patch["metadata"]["uid"] = set.metadata.uid.as_str().into();
        patch["metadata"]["resourceVersion"] = set.metadata.resource_version.as_str().into();
        self.plan.steps.push(Step::Patch { set: set.metadata.key(), patch, scaled });
    }

    fn is_complete(&self) -> bool {
        let status = progress::counts(self.deployment, &self.all, self.new.as_deref(), self.now);
        progress::is_complete(self.deployment, &status)
    }

    fn finish(&mut self) {
        let (mut status, again) = progress::rollout(self.deployment, &self.all, self.new.as_deref(), self.now);
        for step in &self.plan.steps {
            if let Step::Create { name, .. } = step {
                progress::with_new_set(self.deployment, &mut status, name, true, self.now);
            }
        }
        if let Some(new) = &self.new {
            progress::with_new_set(self.deployment, &mut status, &new.metadata.name, false, self.now);
        }
        self.plan.status = Some(status);
        self.plan.again = again;
    }

    fn finish_paused(&mut self) {
        self.plan.status = Some(self.paused_status());
    }

    fn paused_status(&self) -> DeploymentStatus {
        progress::counts(self.deployment, &self.all, self.new.as_deref(), self.now)
    }
}

/// Whether the new set has all the pods that were asked for and they are available (`IsSaturated`).
fn is_saturated(deployment: &Deployment, set: &ReplicaSet) -> bool {
    let wanted = scale::wanted(deployment);
    scale::annotation(set, DESIRED) == Some(wanted)
        && scale::asked(set) == wanted
        && set.status.available_replicas == wanted
}

fn active(sets: &[Arc<ReplicaSet>]) -> Vec<Arc<ReplicaSet>> {
    sets.iter().filter(|s| scale::asked(s) > 0).cloned().collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::views::condition;

    const NOW: &str = "2026-01-01T01:00:00Z";

    fn deployment(change: impl FnOnce(&mut Value)) -> Arc<Deployment> {
        let mut json = json!({
            "metadata": {"namespace": "n", "name": "web", "uid": "d", "generation": 2,
                "annotations": {"note": "x", REVISION: "1"}},
            "spec": {
                "replicas": 4, "selector": {"matchLabels": {"app": "x"}}, "progressDeadlineSeconds": 600,
                "revisionHistoryLimit": 1,
                "template": {"metadata": {"labels": {"app": "x"}}, "spec": {"containers": [{"image": "v2"}]}},
                "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 1}},
            },
        });
        change(&mut json);
        Arc::new(serde_json::from_value(json).expect("a deployment"))
    }

    /// A replica set of an image: asked for, there, available.
    fn set(image: &str, asked: i32, there: i32, available: i32) -> Arc<ReplicaSet> {
        let json = json!({
            "metadata": {"namespace": "n", "name": image, "uid": image, "labels": {"app": "x"}, "generation": 1,
                "creationTimestamp": format!("2026-01-01T00:00:0{}Z", &image[1..]), "resourceVersion": "7",
                "ownerReferences": [{"uid": "d", "controller": true}],
                "annotations": {"note": "x", REVISION: &image[1..], DESIRED: "4", MAX: "5"}},
            "spec": {"replicas": asked, "template": {
                "metadata": {"labels": {"app": "x", HASH_LABEL: image}},
                "spec": {"containers": [{"image": image}]}}},
            "status": {"replicas": there, "readyReplicas": available, "availableReplicas": available,
                "observedGeneration": 1},
        });
        Arc::new(serde_json::from_str(&json.to_string()).expect("a replica set"))
    }

    fn run(deployment: &Arc<Deployment>, sets: &[Arc<ReplicaSet>], running: &[&str]) -> Plan {
        let observed = Observed {
            deployment: deployment.clone(),
            candidates: sets.to_vec(),
            running: running.iter().map(|s| (*s).to_owned()).collect(),
        };
        plan(&observed, NOW.parse().expect("a time"))
    }

    fn check(deployment: &Arc<Deployment>, sets: &[Arc<ReplicaSet>], running: &[&str], expected: &[&str]) {
        let steps: Vec<String> = run(deployment, sets, running)
            .steps
            .iter()
            .map(|step| match step {
                Step::Create { replicas, .. } => format!("create {replicas}"),
                Step::Patch { set, scaled: Some((from, to)), .. } => format!("{} {from}->{to}", set.name),
                Step::Patch { set, .. } => format!("{} annotate", set.name),
                Step::Delete { set, .. } => format!("delete {}", set.name),
                Step::Revision(r) => format!("revision {r}"),
            })
            .collect();
        assert_eq!(steps, expected);
    }

    #[test]
    fn a_new_deployment_gets_its_replica_set() {
        let fresh = deployment(|d| d["metadata"]["annotations"] = json!({}));
        check(&fresh, &[], &[], &["create 4", "revision 1"]);
        let plan = run(&fresh, &[], &[]);
        let Some(Step::Create { body, name, .. }) = plan.steps.first() else { panic!("a creation") };
        let hash = &name["web-".len()..];
        assert_eq!(body["spec"]["selector"]["matchLabels"], json!({"app": "x", HASH_LABEL: hash}));
        assert_eq!(body["spec"]["template"]["metadata"]["labels"][HASH_LABEL], hash);
        assert_eq!(body["metadata"]["annotations"][MAX], "5");
        let status = plan.status.expect("a status");
        let progressing = condition(&status.conditions, "Progressing").expect("a condition");
        assert_eq!(
            (progressing.reason.as_str(), progressing.message.clone()),
            ("NewReplicaSetCreated", format!("Created new replica set {name:?}"))
        );
    }

    #[test]
    fn a_rolling_update_takes_one_step_after_the_other() {
        let d = deployment(|d| d["metadata"]["annotations"][REVISION] = "2".into());
        check(&d, &[set("v1", 4, 4, 4)], &[], &["create 1"]);
        check(&d, &[set("v1", 4, 4, 4), set("v2", 1, 1, 0)], &[], &["v1 4->3"]);
        check(&d, &[set("v1", 3, 3, 3), set("v2", 1, 1, 0)], &[], &["v2 1->2"]);
        check(&d, &[set("v1", 3, 3, 3), set("v2", 2, 2, 0)], &[], &[]);
        check(&d, &[set("v1", 3, 3, 3), set("v2", 2, 2, 2)], &[], &["v1 3->1"]);
        check(&d, &[set("v1", 0, 0, 0), set("v2", 4, 4, 4)], &[], &[]);
    }

    #[test]
    fn sick_old_pods_go_first() {
        let d = deployment(|d| d["metadata"]["annotations"][REVISION] = "2".into());
        check(&d, &[set("v1", 4, 4, 1), set("v2", 1, 1, 0)], &[], &["v1 4->3"]);
    }

    #[test]
    fn history_beyond_the_limit_goes() {
        let d = deployment(|d| {
            d["metadata"]["annotations"][REVISION] = "3".into();
            d["spec"]["template"]["spec"]["containers"][0]["image"] = "v3".into();
        });
        let sets = [set("v1", 0, 0, 0), set("v2", 0, 0, 0), set("v3", 4, 4, 4)];
        let settled = Arc::new(Deployment {
            status: DeploymentStatus { observed_generation: 2, ..DeploymentStatus::default() },
            ..(*d).clone()
        });
        check(&settled, &sets, &[], &["delete v1"]);
    }

    #[test]
    fn an_undo_gives_the_old_set_a_new_revision() {
        let d = deployment(|d| {
            d["metadata"]["annotations"][REVISION] = "2".into();
            d["spec"]["template"]["spec"]["containers"][0]["image"] = "v1".into();
        });
        let sets = [set("v1", 0, 0, 0), set("v2", 4, 4, 4)];
        check(&d, &sets, &[], &["v1 annotate"]);
        let plan = run(&d, &sets, &[]);
        let Some(Step::Patch { patch, .. }) = plan.steps.first() else { panic!("a patch") };
        assert_eq!(
            patch["metadata"]["annotations"],
            json!({
                REVISION: "3", super::super::template::REVISION_HISTORY: "1",
            })
        );
    }

    #[test]
    fn recreate_waits_for_the_last_old_pod() {
        let d = deployment(|d| {
            d["spec"]["strategy"] = json!({"type": "Recreate"});
            d["metadata"]["annotations"][REVISION] = "2".into();
        });
        check(&d, &[set("v1", 4, 4, 4)], &["v1"], &["v1 4->0"]);
        check(&d, &[set("v1", 0, 1, 0)], &["v1"], &[]);
        check(&d, &[set("v1", 0, 0, 0)], &[], &["create 4"]);
    }

    #[test]
    fn a_changed_size_is_spread_in_proportion() {
        let d = deployment(|d| {
            d["spec"]["replicas"] = 8.into();
            d["metadata"]["annotations"][REVISION] = "2".into();
        });
        check(&d, &[set("v1", 3, 3, 3), set("v2", 2, 2, 0)], &[], &["v1 3->5", "v2 2->4"]);
        check(&d, &[set("v2", 4, 4, 4)], &[], &["v2 4->8"]);
    }

    /// `TestScale` of `sync_test.go`: what replica sets (the newest first) become when a deployment is scaled, without a
    /// surge.
    #[test]
    fn a_changed_size_is_spread_as_upstream_spreads_it() {
        let check = |from: i32, to: i32, sizes: &[i32], expected: &[i32]| {
            let newest = format!("v{}", sizes.len());
            let d = deployment(|d| {
                d["spec"]["replicas"] = to.into();
                d["spec"]["strategy"]["rollingUpdate"] = json!({"maxSurge": 0, "maxUnavailable": 1});
                d["spec"]["template"]["spec"]["containers"][0]["image"] = newest.into();
                d["metadata"]["annotations"][REVISION] = sizes.len().to_string().into();
            });
            let sets: Vec<Arc<ReplicaSet>> = sizes
                .iter()
                .zip((1..=sizes.len()).rev())
                .map(|(size, number)| {
                    let mut set = (*set(&format!("v{number}"), *size, *size, 0)).clone();
                    let mut annotations = (*set.metadata.annotations).clone();
                    annotations.insert(DESIRED.into(), from.to_string());
                    annotations.insert(MAX.into(), from.to_string());
                    set.metadata.annotations = annotations.into();
                    Arc::new(set)
                })
                .collect();
            let mut after: Vec<i32> = sizes.to_vec();
            for step in run(&d, &sets, &[]).steps {
                if let Step::Patch { set, scaled: Some((_, to)), .. } = step {
                    let at = sets.iter().position(|s| s.metadata.key() == set).expect("a set");
                    after[at] = to;
                }
            }
            assert_eq!(after, expected, "{from} to {to}");
        };
        check(10, 12, &[10], &[12]);
        check(10, 5, &[10], &[5]);
        check(5, 10, &[2, 3], &[4, 6]);
        check(5, 3, &[2, 3], &[1, 2]);
        check(9, 4, &[8, 1], &[4, 0]);
        check(7, 10, &[2, 3, 2], &[3, 4, 3]);
        check(13, 8, &[2, 8, 3], &[1, 5, 2]);
        // Leftovers go to the largest, of equals to the newest.
        check(3, 4, &[1, 1, 1], &[2, 1, 1]);
        check(3, 5, &[1, 1, 1], &[2, 2, 1]);
        // Nothing is left.
        check(10, 0, &[3, 3, 4], &[0, 0, 0]);
    }

    #[test]
    fn a_paused_deployment_scales_and_does_not_roll() {
        let d = deployment(|d| {
            d["spec"]["paused"] = true.into();
            d["spec"]["replicas"] = 5.into();
            d["status"] = json!({"conditions": [{"type": "Progressing", "status": "Unknown",
                "reason": "DeploymentPaused"}]});
        });
        check(&d, &[set("v1", 4, 4, 4)], &[], &["v1 4->5"]);
        let unpaused = deployment(|d| d["spec"]["paused"] = true.into());
        let plan = run(&unpaused, &[set("v1", 4, 4, 4)], &[]);
        let status = plan.status.expect("a status");
        assert_eq!(condition(&status.conditions, "Progressing").map(|c| c.reason.as_str()), Some("DeploymentPaused"));
    }

    #[test]
    fn a_roll_out_that_stands_still_times_out() {
        let d = deployment(|d| {
            d["metadata"]["annotations"][REVISION] = "2".into();
            d["status"] = json!({"replicas": 5, "updatedReplicas": 2, "readyReplicas": 3, "availableReplicas": 3,
                "conditions": [{"type": "Progressing", "status": "True", "reason": "ReplicaSetUpdated",
                    "lastUpdateTime": "2026-01-01T00:49:59Z", "lastTransitionTime": "2026-01-01T00:40:00Z"}]});
        });
        let plan = run(&d, &[set("v1", 3, 3, 3), set("v2", 2, 2, 0)], &[]);
        let status = plan.status.expect("a status");
        let progressing = condition(&status.conditions, "Progressing").expect("a condition");
        assert_eq!(
            (progressing.status.as_str(), progressing.reason.as_str(), progressing.message.as_str()),
            ("False", "ProgressDeadlineExceeded", "ReplicaSet \"v2\" has timed out progressing.")
        );
    }
}
