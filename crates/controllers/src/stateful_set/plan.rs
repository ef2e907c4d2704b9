//! What is to be done for a stateful set.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use orkd_reconcile::Key;
use serde_json::{Value, json};

use super::{StatefulSet, StatefulSetStatus};
use crate::daemon_set::{ControllerRevision, HASH_LABEL};
use crate::deployment::{int_or_percent, template};
use crate::owners::{self, Claim};
use crate::pods;
use crate::storage::views::Claim as Claimed;
use crate::views::Pod;

/// What is known of one stateful set.
pub struct Observed {
    pub set: Arc<StatefulSet>,
    /// Pods that are its own or nobody's.
    pub pods: Vec<Arc<Pod>>,
    /// Its revisions.
    pub revisions: Vec<Arc<ControllerRevision>>,
    /// The claims of its namespace that its pods may use, by name.
    pub claims: BTreeMap<String, Arc<Claimed>>,
    /// Whether the cache has seen our last deeds.
    pub fresh: bool,
}

/// What is to be done for one stateful set.
#[derive(Debug, Default, PartialEq)]
pub struct Plan {
    /// First of all, and alone: the revision of the template.
    pub revise: Option<Revise>,
    pub adopt: Vec<Key>,
    pub release: Vec<Key>,
    /// In order.
    pub actions: Vec<Action>,
    /// Old revisions beyond the limit.
    pub forget: Vec<Key>,
    pub status: StatefulSetStatus,
    pub again: Option<Duration>,
}

/// One write.
#[derive(Debug, PartialEq)]
pub enum Action {
    /// Makes a pod, its claims first.
    Create { claims: Vec<Value>, body: Value },
    /// A pod cannot be made: a claim of its name is being deleted.
    Blocked { pod: String, claim: String },
    /// Deletes a pod.
    Delete(Key),
    /// Makes claims of a pod that waits for them.
    Claims { pod: Key, claims: Vec<Value> },
    /// Gives a pod the labels it must have.
    Label { pod: Key, labels: BTreeMap<&'static str, String> },
    /// Gives a claim these owners in place of those with the uids of `gone`.
    Own { claim: Key, refs: Vec<Value>, gone: Vec<String> },
}

/// Label of a pod: its name.
const POD_NAME: &str = "statefulset.kubernetes.io/pod-name";
/// Label of a pod: its ordinal.
const POD_INDEX: &str = "apps.kubernetes.io/pod-index";

/// What is to be done about the revision of the newest template.
#[derive(Debug, PartialEq)]
pub enum Revise {
    /// It is new.
    Create { name: String, body: Value },
    /// It is an old one that has come back.
    Renumber { name: String, revision: i64 },
}

pub fn plan(observed: &Observed, now: Timestamp) -> Plan {
    let set = &*observed.set;
    let mut plan = Plan { status: set.status.clone(), ..Plan::default() };
    if set.spec.selector.is_empty() {
        return plan;
    }
    let newest = match newest_revision(observed) {
        Ok(revision) => revision,
        Err(_) if set.metadata.is_deleting() => return plan,
        Err(revise) => {
            plan.revise = Some(revise);
            return plan;
        }
    };
    let current =
        observed.revisions.iter().find(|r| *r.metadata.name == *set.status.current_revision).unwrap_or(newest);

    let mut own: BTreeMap<i32, &Arc<Pod>> = BTreeMap::new();
    for pod in &observed.pods {
        // Only names of the set's own form are its pods.
        let Some(ordinal) = ordinal(set, pod) else { continue };
        match owners::claim(&set.metadata, &set.spec.selector, &pod.metadata) {
            Claim::Keep => {
                own.insert(ordinal, pod);
            }
            Claim::Adopt => {
                plan.adopt.push(pod.metadata.key());
                own.insert(ordinal, pod);
            }
            Claim::Release => plan.release.push(pod.metadata.key()),
            Claim::Ignore => {}
        }
    }
    plan.status = status(set, &own, current, newest, now);
    if set.metadata.is_deleting() {
        // Its pods are the garbage collector's; how many there are is still told.
        return plan;
    }
    if observed.fresh {
        let sync = Sync { set, own: &own, claims: &observed.claims, current, newest, now };
        plan.actions = sync.actions();
        plan.forget = forget(observed, current, newest);
    }
    if set.spec.min_ready_seconds > 0 && plan.status.ready_replicas != plan.status.available_replicas {
        let waits = own.values().filter_map(|p| pods::available_in(p, set.spec.min_ready_seconds, now));
        plan.again = waits.filter(|s| *s > 0).min().map(|s| Duration::from_secs(s.unsigned_abs()));
    }
    plan
}

/// `NAME-ORDINAL`.
fn ordinal(set: &StatefulSet, pod: &Pod) -> Option<i32> {
    let rest = pod.metadata.name.strip_prefix(&*set.metadata.name)?.strip_prefix('-')?;
    let plain = rest == "0" || !rest.starts_with('0');
    rest.parse().ok().filter(|n: &i32| plain && *n >= 0)
}

fn revision_of(pod: &Pod) -> &str {
    pod.metadata.label(HASH_LABEL).unwrap_or("")
}

fn newest_revision(observed: &Observed) -> Result<&Arc<ControllerRevision>, Revise> {
    let set = &*observed.set;
    let mut with_patch = set.spec.template.clone();
    with_patch["$patch"] = "replace".into();
    let highest = observed.revisions.iter().map(|r| r.revision).max().unwrap_or(0);
    let same = |r: &&Arc<ControllerRevision>| template::same(&r.data["spec"]["template"], &with_patch);
    if let Some(found) = observed.revisions.iter().filter(same).max_by_key(|r| r.revision) {
        if found.revision < highest {
            return Err(Revise::Renumber { name: found.metadata.name.to_string(), revision: highest + 1 });
        }
        return Ok(found);
    }
    let hash = template::hash(&set.spec.template, set.status.collision_count);
    let name = format!("{}-{hash}", set.metadata.name);
    let mut labels = set.spec.template["metadata"]["labels"].clone();
    if !labels.is_object() {
        labels = json!({});
    }
    labels["controller.kubernetes.io/hash"] = hash.into();
    let body = json!({
        "apiVersion": "apps/v1", "kind": "ControllerRevision",
        "metadata": {
            "name": name, "namespace": &*set.metadata.namespace, "labels": labels,
            "annotations": set.metadata.annotations, "ownerReferences": [owners::controller_ref(set)],
        },
        "data": {"spec": {"template": with_patch}}, "revision": highest + 1,
    });
    Err(Revise::Create { name, body })
}

fn is_ready(pod: &Pod) -> bool {
    pod.status.phase == "Running" && pods::is_ready(pod)
}

fn is_healthy(set: &StatefulSet, pod: &Pod, now: Timestamp) -> bool {
    is_ready(pod) && !pod.metadata.is_deleting() && pods::is_available(pod, set.spec.min_ready_seconds, now)
}

/// What one round decides from.
struct Sync<'a> {
    set: &'a StatefulSet,
    own: &'a BTreeMap<i32, &'a Arc<Pod>>,
    claims: &'a BTreeMap<String, Arc<Claimed>>,
    current: &'a ControllerRevision,
    newest: &'a ControllerRevision,
    now: Timestamp,
}

impl Sync<'_> {
    /// The ordinals there shall be: the first, and the first beyond.
    fn range(&self) -> (i32, i32) {
        let first = self.set.spec.ordinals.start;
        (first, first.saturating_add(self.set.spec.replicas.unwrap_or(1).max(0)))
    }

    /// The next writes (`updateStatefulSet`, `processReplica`, `processCondemned`).
    fn actions(&self) -> Vec<Action> {
        let set = self.set;
        let ordered = set.spec.pod_management_policy != "Parallel";
        let (first, end) = self.range();
        let mut actions = Vec::new();
        for ordinal in first..end {
            let stop = self.replica(&mut actions, ordinal);
            if stop && ordered {
                return actions;
            }
        }
        let healthy = |pod: &Pod| is_healthy(set, pod, self.now);
        // The lowest pod that is not well may go although others are not well either.
        let missing = (first..end).any(|o| self.own.get(&o).is_none_or(|p| !healthy(p)));
        let condemned = || self.own.iter().filter(|(ordinal, _)| !(first..end).contains(*ordinal));
        let lowest = condemned().find(|(_, p)| !healthy(p)).map(|(o, _)| *o).filter(|_| !missing);
        for (ordinal, pod) in condemned().rev() {
            self.fix_claims(&mut actions, *ordinal, pod);
            if pod.metadata.is_deleting() || ordered && !healthy(pod) && lowest != Some(*ordinal) {
                if ordered {
                    return actions;
                }
                continue;
            }
            actions.push(Action::Delete(pod.metadata.key()));
            if ordered {
                return actions;
            }
        }
        if set.spec.update_strategy.kind != "OnDelete" && actions.iter().all(|a| matches!(a, Action::Own { .. })) {
            actions.extend(self.roll());
        }
        actions
    }

    /// What is to be done for one ordinal; whether an ordered set waits for it.
    fn replica(&self, actions: &mut Vec<Action>, ordinal: i32) -> bool {
        let set = self.set;
        let Some(pod) = self.own.get(&ordinal) else {
            let (claims, body) = make(set, ordinal, self.current, self.newest);
            // A claim of a pod of the same name that is gone goes first.
            let stale = claims.iter().any(|c| self.claims.get(text(c)).is_some_and(|c| c.is_stale_for(text(&body))));
            let leaving = |c: &&Value| self.claims.get(text(c)).is_some_and(|c| c.metadata.is_deleting());
            match claims.iter().find(leaving) {
                _ if stale => {}
                Some(claim) => {
                    actions.push(Action::Blocked { pod: text(&body).to_owned(), claim: text(claim).to_owned() });
                }
                None => actions.push(Action::Create { claims: self.owned(claims, ordinal, None), body }),
            }
            return true;
        };
        if pods::is_terminal(pod) {
            if !pod.metadata.is_deleting() {
                // Once it is gone it is made again.
                actions.push(Action::Delete(pod.metadata.key()));
            }
            return true;
        }
        if pod.status.phase == "Pending" && !pod.metadata.is_deleting() {
            let (claims, _) = make(set, ordinal, self.current, self.newest);
            let missing: Vec<Value> = claims.into_iter().filter(|c| !self.claims.contains_key(text(c))).collect();
            if !missing.is_empty() {
                actions
                    .push(Action::Claims { pod: pod.metadata.key(), claims: self.owned(missing, ordinal, Some(pod)) });
            }
        }
        if !is_healthy(set, pod, self.now) && set.spec.pod_management_policy != "Parallel" {
            return true;
        }
        if !pod.metadata.is_deleting() {
            let labels = [(POD_NAME, pod.metadata.name.to_string()), (POD_INDEX, ordinal.to_string())];
            let wrong = |(key, value): &(&str, String)| pod.metadata.label(key) != Some(value);
            if labels.iter().any(wrong) {
                actions.push(Action::Label { pod: pod.metadata.key(), labels: BTreeMap::from(labels) });
            }
        }
        self.fix_claims(actions, ordinal, pod);
        false
    }

    /// Claims to be made, with their owners.
    fn owned(&self, mut claims: Vec<Value>, ordinal: i32, pod: Option<&Pod>) -> Vec<Value> {
        let (of_set, of_pod) = self.owners(ordinal);
        for claim in &mut claims {
            let mut refs = Vec::new();
            if of_set {
                refs.push(owners::controller_ref(self.set));
            }
            if let Some(pod) = pod.filter(|_| of_pod) {
                refs.push(owners::controller_ref(pod));
            }
            if !refs.is_empty() {
                claim["metadata"]["ownerReferences"] = refs.into();
            }
        }
        claims
    }

    /// Whether the set, and whether the pod, takes the claims of an ordinal along.
    fn owners(&self, ordinal: i32) -> (bool, bool) {
        let (first, end) = self.range();
        let condemned = !(first..end).contains(&ordinal);
        let policy = &self.set.spec.persistent_volume_claim_retention_policy;
        let (scaled, deleted) = (policy.when_scaled == "Delete", policy.when_deleted == "Delete");
        (deleted && !(scaled && condemned), scaled && condemned)
    }

    /// Sees to it that claims have the owners they should (`UpdatePodClaimForRetentionPolicy`).
    fn fix_claims(&self, actions: &mut Vec<Action>, ordinal: i32, pod: &Pod) {
        let (of_set, of_pod) = self.owners(ordinal);
        for template in &self.set.spec.volume_claim_templates {
            let volume = template["metadata"]["name"].as_str().unwrap_or("");
            let name = format!("{volume}-{}", pod.metadata.name);
            let Some(claim) = self.claims.get(&name).filter(|c| !c.metadata.is_deleting()) else { continue };
            let owned = |uid: &str| claim.metadata.owner_references.iter().any(|o| o.uid == uid);
            // An owner that users set is theirs.
            let foreign = claim.metadata.controller().is_some_and(|o| {
                o.uid != self.set.metadata.uid
                    && o.uid != pod.metadata.uid
                    && (o.kind != "Pod" || o.name != *pod.metadata.name)
            });
            if foreign || owned(&self.set.metadata.uid) == of_set && owned(&pod.metadata.uid) == of_pod {
                continue;
            }
            let mut refs = Vec::new();
            if of_set {
                refs.push(owners::controller_ref(self.set));
            }
            if of_pod {
                refs.push(owners::controller_ref(pod));
            }
            let gone = vec![self.set.metadata.uid.clone(), pod.metadata.uid.clone()];
            actions.push(Action::Own { claim: claim.metadata.key(), refs, gone });
        }
    }

    /// Old pods that may be replaced now.
    fn roll(&self) -> Vec<Action> {
        let (first, end) = self.range();
        let rolling = &self.set.spec.update_strategy.rolling_update;
        let lowest = first.saturating_add(rolling.partition.unwrap_or(0)).clamp(first, end);
        let old = |pod: &Pod| revision_of(pod) != &*self.newest.metadata.name && !pod.metadata.is_deleting();
        let healthy = |pod: &Pod| is_healthy(self.set, pod, self.now);
        if rolling.max_unavailable.is_null() {
            for (_, pod) in self.own.range(lowest..end).rev() {
                if old(pod) {
                    return vec![Action::Delete(pod.metadata.key())];
                }
                if !healthy(pod) {
                    return Vec::new();
                }
            }
            return Vec::new();
        }
        let most = int_or_percent(&rolling.max_unavailable, self.set.spec.replicas.unwrap_or(1), false).max(1);
        let unavailable = (first..end).filter(|o| self.own.get(o).is_none_or(|p| !healthy(p))).count();
        let room = usize::try_from(most).unwrap_or(1).saturating_sub(unavailable);
        let old = || self.own.range(lowest..end).rev().map(|(_, p)| *p).filter(|p| old(p));
        // Those that are not well do nobody good as they are: they make no room and need none.
        let sick = old().filter(|p| !healthy(p));
        sick.chain(old().filter(|p| healthy(p)).take(room)).map(|p| Action::Delete(p.metadata.key())).collect()
    }
}

fn text(claim: &Value) -> &str {
    claim["metadata"]["name"].as_str().unwrap_or("")
}

/// A pod of an ordinal, of the revision it is due (`newVersionedStatefulSetPod`).
fn make(
    set: &StatefulSet,
    ordinal: i32,
    current: &ControllerRevision,
    newest: &ControllerRevision,
) -> (Vec<Value>, Value) {
    let first = set.spec.ordinals.start;
    let keeps_current = set.spec.update_strategy.kind != "OnDelete"
        && match set.spec.update_strategy.rolling_update.partition {
            None => ordinal < first + set.status.current_replicas,
            Some(partition) => ordinal < first + partition,
        };
    let revision = if keeps_current { current } else { newest };
    let template = if *revision.metadata.name == *newest.metadata.name {
        &set.spec.template
    } else {
        &revision.data["spec"]["template"]
    };
    let name = format!("{}-{ordinal}", set.metadata.name);
    let mut metadata = json!({
        "name": name, "generateName": format!("{}-", set.metadata.name), "namespace": &*set.metadata.namespace,
        "ownerReferences": [owners::controller_ref(set)],
    });
    for field in ["labels", "annotations", "finalizers"] {
        if !template["metadata"][field].is_null() {
            metadata[field] = template["metadata"][field].clone();
        }
    }
    if !metadata["labels"].is_object() {
        metadata["labels"] = json!({});
    }
    metadata["labels"][POD_NAME] = name.as_str().into();
    metadata["labels"][POD_INDEX] = ordinal.to_string().into();
    metadata["labels"][HASH_LABEL] = (*revision.metadata.name).into();
    let mut spec = template["spec"].clone();
    spec["hostname"] = name.as_str().into();
    if !set.spec.service_name.is_empty() {
        spec["subdomain"] = set.spec.service_name.as_str().into();
    }
    // Claims come before the volumes of the template, and take the place of those of their names.
    let (mut claims, mut volumes) = (Vec::new(), Vec::new());
    let mut others: Vec<Value> = spec["volumes"].as_array().cloned().unwrap_or_default();
    for template in &set.spec.volume_claim_templates {
        let volume = template["metadata"]["name"].as_str().unwrap_or("");
        let claim_name = format!("{volume}-{name}");
        let mut claim = json!({
            "apiVersion": "v1", "kind": "PersistentVolumeClaim",
            "metadata": {"name": claim_name, "namespace": &*set.metadata.namespace}, "spec": template["spec"],
        });
        let mut labels = template["metadata"]["labels"].clone();
        if !labels.is_object() {
            labels = json!({});
        }
        for (key, value) in &set.spec.selector.match_labels {
            labels[key] = value.as_str().into();
        }
        claim["metadata"]["labels"] = labels;
        if template["metadata"]["annotations"].is_object() {
            claim["metadata"]["annotations"] = template["metadata"]["annotations"].clone();
        }
        claims.push(claim);
        others.retain(|v| v["name"] != volume);
        volumes.push(json!({"name": volume, "persistentVolumeClaim": {"claimName": claim_name}}));
    }
    volumes.extend(others);
    if !volumes.is_empty() {
        spec["volumes"] = volumes.into();
    }
    (claims, json!({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}))
}

fn status(
    set: &StatefulSet,
    own: &BTreeMap<i32, &Arc<Pod>>,
    current: &ControllerRevision,
    newest: &ControllerRevision,
    now: Timestamp,
) -> StatefulSetStatus {
    let count =
        |test: &dyn Fn(&Pod) -> bool| i32::try_from(own.values().filter(|p| test(p)).count()).unwrap_or(i32::MAX);
    let of = |revision: &ControllerRevision| {
        let name = revision.metadata.name.clone();
        move |p: &Pod| !p.metadata.is_deleting() && *revision_of(p) == *name
    };
    let ready = |p: &Pod| p.status.phase == "Running" && pods::is_ready(p);
    let mut status = StatefulSetStatus {
        observed_generation: set.metadata.generation,
        replicas: count(&|_| true),
        ready_replicas: count(&ready),
        available_replicas: count(&|p| ready(p) && pods::is_available(p, set.spec.min_ready_seconds, now)),
        current_replicas: count(&of(current)),
        updated_replicas: count(&of(newest)),
        current_revision: current.metadata.name.to_string(),
        update_revision: newest.metadata.name.to_string(),
        collision_count: Some(set.status.collision_count.unwrap_or(0)),
        conditions: set.status.conditions.clone(),
    };
    // A roll-out that has come through makes the newest revision the current one.
    let wanted = set.spec.replicas.unwrap_or(1);
    let through = status.updated_replicas == wanted && status.replicas == wanted && status.ready_replicas == wanted;
    if set.spec.update_strategy.kind != "OnDelete" && through {
        status.current_revision = status.update_revision.clone();
        status.current_replicas = status.updated_replicas;
    }
    status
}

/// Old revisions beyond the limit that nothing is of.
fn forget(observed: &Observed, current: &ControllerRevision, newest: &ControllerRevision) -> Vec<Key> {
    let limit = usize::try_from(observed.set.spec.revision_history_limit.unwrap_or(10)).unwrap_or(0);
    let mut old: Vec<&Arc<ControllerRevision>> = observed
        .revisions
        .iter()
        .filter(|r| ![&current.metadata.name, &newest.metadata.name].contains(&&r.metadata.name))
        .filter(|r| !observed.pods.iter().any(|p| *revision_of(p) == *r.metadata.name))
        .collect();
    old.sort_by_key(|r| r.revision);
    let surplus = old.len().saturating_sub(limit);
    old.into_iter().take(surplus).map(|r| r.metadata.key()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(change: impl FnOnce(&mut Value)) -> Arc<StatefulSet> {
        let mut json = json!({
            "metadata": {"namespace": "n", "name": "db", "uid": "s"},
            "spec": {"replicas": 2, "serviceName": "db", "selector": {"matchLabels": {"app": "x"}},
                "template": {"metadata": {"labels": {"app": "x"}}, "spec": {"containers": [{"image": "one"}]}},
                "updateStrategy": {"type": "RollingUpdate"},
                "volumeClaimTemplates": [{"metadata": {"name": "data"}, "spec": {"accessModes": ["ReadWriteOnce"]}}]},
            "status": {"currentRevision": "db-old"},
        });
        change(&mut json);
        Arc::new(serde_json::from_value(json).expect("a stateful set"))
    }

    fn revision(name: &str, template: &Value, number: i64) -> Arc<ControllerRevision> {
        Arc::new(
            serde_json::from_value(json!({
                "metadata": {"namespace": "n", "name": name, "uid": name}, "revision": number,
                "data": {"spec": {"template": template}},
            }))
            .expect("a revision"),
        )
    }

    fn pod(name: &str, revision: &str, ready: bool) -> Arc<Pod> {
        let ready = if ready { "True" } else { "False" };
        let ordinal = name.rsplit('-').next().expect("an ordinal");
        Arc::new(
            serde_json::from_value(json!({
                "metadata": {"namespace": "n", "name": name, "uid": name, "labels": {"app": "x", HASH_LABEL: revision, POD_NAME: name, POD_INDEX: ordinal},
                    "ownerReferences": [{"uid": "s", "controller": true}]},
                "status": {"phase": "Running", "conditions": [{"type": "Ready", "status": ready}]},
            }))
            .expect("a pod"),
        )
    }

    /// The claims of `db-0` to `db-4`.
    fn claims() -> BTreeMap<String, Arc<Claimed>> {
        let claim = |n: i32| {
            let name = format!("data-db-{n}");
            let json = json!({"metadata": {"namespace": "n", "name": name, "uid": name}});
            (name, Arc::new(serde_json::from_value(json).expect("a claim")))
        };
        (0..5).map(claim).collect()
    }

    fn check(set: &Arc<StatefulSet>, pods: Vec<Arc<Pod>>, expected: &[&str]) -> Plan {
        let mut template = set.spec.template.clone();
        template["$patch"] = "replace".into();
        let revisions = vec![revision("db-old", &json!({"spec": {"old": true}}), 1), revision("db-new", &template, 2)];
        let observed = Observed { set: set.clone(), pods, revisions, claims: claims(), fresh: true };
        let plan = plan(&observed, "2026-01-01T00:00:00Z".parse().expect("a time"));
        let texts: Vec<String> = plan
            .actions
            .iter()
            .map(|a| match a {
                Action::Create { body, .. } => {
                    let meta = &body["metadata"];
                    format!(
                        "+{} {}",
                        meta["name"].as_str().unwrap_or(""),
                        meta["labels"][HASH_LABEL].as_str().unwrap_or("")
                    )
                }
                Action::Blocked { pod, claim } => format!("{pod} waits for {claim}"),
                Action::Delete(key) => format!("-{}", key.name),
                Action::Claims { claims, .. } => format!("claims {}", claims.len()),
                Action::Label { pod, .. } => format!("label {}", pod.name),
                Action::Own { claim, refs, .. } => {
                    let kinds: Vec<&str> = refs.iter().filter_map(|r| r["kind"].as_str()).collect();
                    format!("own {} by {}", claim.name, kinds.join(","))
                }
            })
            .collect();
        assert_eq!(texts, expected);
        plan
    }

    #[test]
    fn pods_come_one_after_the_other() {
        let plan = check(&set(|_| {}), vec![], &["+db-0 db-new"]);
        let Some(Action::Create { claims, body }) = plan.actions.first() else { panic!("a creation") };
        assert_eq!(claims[0]["metadata"]["name"], "data-db-0");
        assert_eq!(body["spec"]["volumes"][0]["persistentVolumeClaim"]["claimName"], "data-db-0");
        assert_eq!(body["metadata"]["generateName"], "db-");
        assert_eq!((body["spec"]["hostname"].as_str(), body["spec"]["subdomain"].as_str()), (Some("db-0"), Some("db")));
        check(&set(|_| {}), vec![pod("db-0", "db-new", false)], &[]);
        check(&set(|_| {}), vec![pod("db-0", "db-new", true)], &["+db-1 db-new"]);
        let parallel = set(|s| s["spec"]["podManagementPolicy"] = "Parallel".into());
        check(&parallel, vec![], &["+db-0 db-new", "+db-1 db-new"]);
    }

    #[test]
    fn claims_take_the_place_of_volumes_of_their_names() {
        let set = set(|s| {
            s["spec"]["template"]["spec"]["volumes"] =
                json!([{"name": "conf", "emptyDir": {}}, {"name": "data", "emptyDir": {}}]);
        });
        let plan = check(&set, vec![], &["+db-0 db-new"]);
        let Some(Action::Create { body, .. }) = plan.actions.first() else { panic!("a creation") };
        let names: Vec<_> = body["spec"]["volumes"].as_array().into_iter().flatten().map(|v| &v["name"]).collect();
        assert_eq!(names, ["data", "conf"]);
    }

    #[test]
    fn pods_go_the_other_way_round() {
        let pods = ["db-0", "db-1", "db-2", "db-3"].map(|n| pod(n, "db-new", true)).to_vec();
        check(&set(|_| {}), pods, &["-db-3"]);
        // One that is not well holds up those above it.
        let none = set(|s| s["spec"]["replicas"] = 0.into());
        check(&none, vec![pod("db-0", "db-new", false), pod("db-1", "db-new", false)], &[]);
        check(&none, vec![pod("db-0", "db-new", false), pod("db-1", "db-new", true)], &["-db-1"]);
        check(&none, vec![pod("db-0", "db-new", false)], &["-db-0"]);
        let parallel = set(|s| {
            s["spec"]["replicas"] = 0.into();
            s["spec"]["podManagementPolicy"] = "Parallel".into();
        });
        check(&parallel, vec![pod("db-0", "db-new", false), pod("db-1", "db-new", false)], &["-db-1", "-db-0"]);
    }

    #[test]
    fn pods_that_have_ended_are_made_again() {
        let mut failed = (*pod("db-0", "db-new", false)).clone();
        failed.status.phase = "Failed".into();
        check(&set(|_| {}), vec![Arc::new(failed)], &["-db-0"]);
    }

    #[test]
    fn several_may_be_replaced_at_once() {
        let all = || (0..4).map(|n| pod(&format!("db-{n}"), "db-old", true)).collect::<Vec<_>>();
        let most = |most: Value| {
            set(move |s| {
                s["spec"]["replicas"] = 4.into();
                s["spec"]["updateStrategy"]["rollingUpdate"] = json!({"maxUnavailable": most, "partition": 1});
            })
        };
        check(&most(2.into()), all(), &["-db-3", "-db-2"]);
        check(&most("25%".into()), all(), &["-db-3"]);
        check(&most(9.into()), all(), &["-db-3", "-db-2", "-db-1"]);
        let parallel = set(|s| {
            s["spec"]["replicas"] = 4.into();
            s["spec"]["podManagementPolicy"] = "Parallel".into();
            s["spec"]["updateStrategy"]["rollingUpdate"] = json!({"maxUnavailable": 2});
        });
        let mut some = all();
        some[3] = pod("db-3", "db-new", false);
        check(&parallel, some, &["-db-2"]);
        // A revision that never comes up is left behind, whatever the budget says; the well are spared.
        let broken: Vec<_> = (0..4).map(|n| pod(&format!("db-{n}"), "db-old", n == 3)).collect();
        check(&parallel, broken, &["-db-2", "-db-1", "-db-0"]);
    }

    #[test]
    fn a_pod_waits_until_a_claim_of_its_name_has_gone() {
        let mut claims = claims();
        let mut leaving = (*claims["data-db-0"]).clone();
        leaving.metadata.deletion_timestamp = "2026-01-01T00:00:00Z".parse().ok();
        claims.insert("data-db-0".into(), Arc::new(leaving));
        let set = set(|_| {});
        let mut template = set.spec.template.clone();
        template["$patch"] = "replace".into();
        let revisions = vec![revision("db-new", &template, 2)];
        let observed = Observed { set, pods: Vec::new(), revisions, claims, fresh: true };
        let plan = plan(&observed, "2026-01-01T00:00:00Z".parse().expect("a time"));
        assert_eq!(plan.actions, [Action::Blocked { pod: "db-0".into(), claim: "data-db-0".into() }]);
    }

    #[test]
    fn a_set_that_goes_tells_what_is_left() {
        let going = set(|s| {
            s["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z".into();
            s["metadata"]["generation"] = 3.into();
        });
        let plan = check(&going, vec![pod("db-0", "db-new", true)], &[]);
        assert_eq!((plan.status.replicas, plan.status.observed_generation), (1, 3));
        assert_eq!(plan.status.collision_count, Some(0));
    }

    #[test]
    fn claims_go_with_the_set_or_with_the_pod() {
        let policy = |scaled: &'static str, deleted: &'static str| {
            set(move |s| {
                s["spec"]["replicas"] = 1.into();
                s["spec"]["persistentVolumeClaimRetentionPolicy"] =
                    json!({"whenScaled": scaled, "whenDeleted": deleted});
            })
        };
        let two = || vec![pod("db-0", "db-new", true), pod("db-1", "db-new", true)];
        check(&policy("Retain", "Retain"), two(), &["-db-1"]);
        let both = ["own data-db-0 by StatefulSet", "own data-db-1 by StatefulSet", "-db-1"];
        check(&policy("Retain", "Delete"), two(), &both);
        check(&policy("Delete", "Retain"), two(), &["own data-db-1 by Pod", "-db-1"]);
        check(&policy("Delete", "Delete"), two(), &["own data-db-0 by StatefulSet", "own data-db-1 by Pod", "-db-1"]);
        let plan = check(&policy("Delete", "Delete"), vec![], &["+db-0 db-new"]);
        let Some(Action::Create { claims, .. }) = plan.actions.first() else { panic!("a creation") };
        assert_eq!(claims[0]["metadata"]["ownerReferences"][0]["kind"], "StatefulSet");
    }

    #[test]
    fn ordinals_begin_where_they_are_told_to() {
        let from = |start: i32| set(move |s| s["spec"]["ordinals"] = json!({"start": start}));
        check(&from(3), vec![], &["+db-3 db-new"]);
        check(&from(3), vec![pod("db-3", "db-new", true)], &["+db-4 db-new"]);
        let two = || vec![pod("db-3", "db-new", true), pod("db-4", "db-new", true)];
        check(&from(3), two(), &[]);
        // Another beginning moves the set; what is outside goes once the others are there.
        check(&from(4), two(), &["+db-5 db-new"]);
        check(&from(4), vec![pod("db-5", "db-new", true), two().remove(0), two().remove(1)], &["-db-3"]);
        check(&from(0), two(), &["+db-0 db-new"]);
        // A partition is counted from the beginning.
        let partition = set(|s| {
            s["spec"]["ordinals"] = json!({"start": 3});
            s["spec"]["updateStrategy"]["rollingUpdate"] = json!({"partition": 1});
        });
        check(&partition, vec![pod("db-3", "db-old", true), pod("db-4", "db-old", true)], &["-db-4"]);
        check(&partition, vec![pod("db-3", "db-old", true), pod("db-4", "db-new", true)], &[]);
        check(&partition, vec![pod("db-4", "db-new", true)], &["+db-3 db-old"]);
    }

    #[test]
    fn on_delete_leaves_old_pods_alone() {
        let manual = set(|s| s["spec"]["updateStrategy"] = json!({"type": "OnDelete"}));
        let plan = check(&manual, vec![pod("db-0", "db-old", true), pod("db-1", "db-old", true)], &[]);
        assert_eq!((plan.status.current_revision.as_str(), plan.status.update_revision.as_str()), ("db-old", "db-new"));
        check(&manual, vec![pod("db-1", "db-old", true)], &["+db-0 db-new"]);
    }

    #[test]
    fn a_rolling_update_goes_down_to_the_partition() {
        let old = || vec![pod("db-0", "db-old", true), pod("db-1", "db-old", true)];
        check(&set(|_| {}), old(), &["-db-1"]);
        check(&set(|_| {}), vec![pod("db-0", "db-old", true), pod("db-1", "db-new", false)], &[]);
        check(&set(|_| {}), vec![pod("db-0", "db-old", true), pod("db-1", "db-new", true)], &["-db-0"]);
        let partition = |n: i32| set(move |s| s["spec"]["updateStrategy"]["rollingUpdate"] = json!({"partition": n}));
        check(&partition(1), vec![pod("db-0", "db-old", true), pod("db-1", "db-new", true)], &[]);
        check(&partition(2), vec![pod("db-0", "db-old", true)], &["+db-1 db-old"]);
        let plan = check(&set(|_| {}), vec![pod("db-0", "db-new", true), pod("db-1", "db-new", true)], &[]);
        assert_eq!(plan.status.current_revision, "db-new");
    }
}
