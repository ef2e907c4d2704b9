//! Namespaces that end: everything in them is deleted, then they are let go.
//!
//! Follows `pkg/controller/namespace/deletion`: pods go first, then all other resources that discovery names; the
//! conditions of the namespace say what is in the way; when nothing is left the `kubernetes` finalizer is taken
//! off, and the API server removes the namespace.
//!
//! Differs: upstream waits five seconds before it begins and half the pods' grace between rounds; here a round
//! begins at once and the next after at most five seconds.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::Timestamp;
use orkd_base::BoxError;
use orkd_reconcile::{
    Api, DeleteOptions, Gates, Informer, Key, ListOptions, Meta, Outcome, Propagation, Queue, RateLimit, Resource,
    time, work,
};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::discovery::{Served, discover};
use crate::views::Namespace;
use crate::{ControllerSpec, Cx};

/// How the list of controllers names it.
pub const SPEC: ControllerSpec = ControllerSpec {
    name: "namespace-controller",
    service_account: "namespace-controller",
    run: |cx| Box::pin(start(cx)),
};

const FINALIZER: &str = "kubernetes";
/// How often a namespace that cannot end is tried at least.
const LONGEST_WAIT: Duration = Duration::from_secs(60);
/// How many namespaces end at once, and how many of them may wait for one group of the API.
const WORKERS: (usize, usize) = (10, 8);

async fn start(cx: Cx) -> Result<(), BoxError> {
    let namespaces: Informer<Namespace> = cx.informers.informer();
    let limit = RateLimit { cap: LONGEST_WAIT, ..RateLimit::default() };
    let queue: Queue<Key> = cx.queue_with(SPEC.name, limit);
    {
        let queue = queue.clone();
        namespaces.subscribe(move |event| {
            let namespace = event.object();
            if !event.is_deleted() && namespace.metadata.is_deleting() {
                queue.add(event.key());
            }
        });
    }
    namespaces.synced().await;
    let gates = Gates::new(WORKERS.1);
    let (api, namespaces, gates) = (&cx.api, &namespaces, &gates);
    work(queue, WORKERS.0, cx.stop, |key| async move {
        match namespaces.get(&key).filter(|ns| ns.metadata.is_deleting()) {
            Some(namespace) => end(api, gates, &namespace).await,
            None => Ok(Outcome::Done),
        }
    })
    .await;
    Ok(())
}

/// One round of ending a namespace.
async fn end(api: &Api, gates: &Gates, namespace: &Namespace) -> Result<Outcome, BoxError> {
    let meta = &namespace.metadata;
    let target = Resource::of::<Namespace>().at("", &meta.name);
    let live: Namespace = match api.get(&target).await {
        Err(err) if err.is_not_found() => return Ok(Outcome::Done),
        other => other?,
    };
    if live.metadata.uid != meta.uid || !live.metadata.is_deleting() {
        return Ok(Outcome::Done);
    }
    if live.status.phase != "Terminating" {
        let phase = |ns: &mut Value| {
            let differs = ns["metadata"]["uid"] == meta.uid.as_str() && ns["status"]["phase"] != "Terminating";
            if differs {
                ns["status"]["phase"] = "Terminating".into();
            }
            differs
        };
        api.modify(&target, "status", phase).await?;
    }
    if !live.spec.finalizers.iter().any(|f| f == FINALIZER) {
        return Ok(Outcome::Done);
    }
    let found = discover(api).await?;
    let mut report = Report::default();
    for (group_version, why) in &found.failed {
        report.discovery_failures.push(format!("{group_version}: {why}"));
    }
    let deletable = |s: &&Served| s.resource.namespaced && s.can("delete");
    let (pods, others): (Vec<&Served>, Vec<&Served>) = found
        .preferred
        .iter()
        .filter(deletable)
        .partition(|s| s.resource.group.is_empty() && s.resource.plural == "pods");
    for served in &pods {
        delete_all(api, gates, &meta.name, served, &mut report).await;
    }
    // Pods may need what else is there in order to end well.
    if report.remaining.is_empty() && report.failures.is_empty() {
        for served in &others {
            delete_all(api, gates, &meta.name, served, &mut report).await;
        }
    }
    let conditions = report.conditions(&time(Timestamp::now()));
    let written = api
        .modify(&target, "status", |ns| ns["metadata"]["uid"] == meta.uid.as_str() && merge_conditions(ns, &conditions))
        .await;
    match written {
        Err(err) if err.is_not_found() => return Ok(Outcome::Done),
        other => other.map(|_| ())?,
    }
    if !report.failures.is_empty() || !report.discovery_failures.is_empty() {
        return Err(report.failures.into_iter().chain(report.discovery_failures).collect::<Vec<_>>().join("; ").into());
    }
    if !report.remaining.is_empty() {
        // Pods end at their own pace; a short look now and then finds them gone soon enough.
        let wait = if report.grace > 0 { report.grace.unsigned_abs().div_ceil(2).clamp(1, 5) } else { 1 };
        return Ok(Outcome::RequeueAfter(Duration::from_secs(wait)));
    }
    let finalized = api
        .modify(&target, "finalize", |ns| {
            let Some(finalizers) = ns["spec"]["finalizers"].as_array_mut() else { return false };
            let before = finalizers.len();
            finalizers.retain(|f| f != FINALIZER);
            ns["metadata"]["uid"] == meta.uid.as_str()
                && before != ns["spec"]["finalizers"].as_array().map_or(0, Vec::len)
        })
        .await;
    match finalized {
        Err(err) if err.is_not_found() => {}
        other => other.map(|_| ())?,
    }
    Ok(Outcome::Done)
}

/// The metadata of what is left, with a pod's grace.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Left {
    metadata: Meta,
}

async fn delete_all(api: &Api, gates: &Gates, namespace: &str, served: &Served, report: &mut Report) {
    let resource = &served.resource;
    let collection = resource.collection(namespace);
    let list = ListOptions { metadata_only: true, ..ListOptions::default() };
    let background = DeleteOptions::default().propagation(Propagation::Background);
    // Most are empty: a look is cheaper than a deletion and is needed anyway.
    if !served.can("list") {
        return;
    }
    // A group that is silent is in the way of this namespace, but of no other and of nothing else in it.
    let left = match gates.ask(&resource.group, api.list_all::<Left>(&collection, &list)).await {
        Ok(list) => list.items,
        // Not served any more, or not allowed: nothing that we could delete.
        Err(err) if err.is_not_found() || err.code() == 405 => return,
        Err(err) => return report.failures.push(err.message()),
    };
    if left.is_empty() {
        return;
    }
    let mut deleted = Ok(());
    if served.can("deletecollection") {
        deleted = api.delete_collection(&collection, &ListOptions::default(), &background).await;
    }
    if !served.can("deletecollection") || deleted.as_ref().is_err_and(|err| matches!(err.code(), 404 | 405)) {
        deleted = Ok(());
        for item in &left {
            let target = resource.at(namespace, &item.metadata.name);
            match api.delete(&target, &background.clone().uid(&item.metadata.uid)).await {
                Err(err) if err.is_not_found() || err.is_conflict() => {}
                Err(err) => deleted = Err(err),
                Ok(()) => {}
            }
        }
    }
    if let Err(err) = deleted {
        report.failures.push(err.message());
    }
    match gates.ask(&resource.group, api.list_all::<Left>(&collection, &list)).await {
        Ok(list) => report.left(namespace, resource, &list.items, Timestamp::now()),
        Err(err) => report.failures.push(err.message()),
    }
}

/// What is in the way of a namespace's end.
#[derive(Debug, Default)]
struct Report {
    discovery_failures: Vec<String>,
    failures: Vec<String>,
    /// Resources of which something is left that nothing keeps any more.
    unexpected: Vec<String>,
    remaining: BTreeMap<String, usize>,
    finalizers: BTreeMap<String, usize>,
    /// The longest grace of what ends.
    grace: i64,
}

impl Report {
    fn left(&mut self, namespace: &str, resource: &Resource, items: &[Left], now: Timestamp) {
        if items.is_empty() {
            return;
        }
        let ends = |meta: &Meta| {
            let grace = meta.deletion_grace_period_seconds.unwrap_or(0);
            grace > 0 && meta.deletion_timestamp.is_some_and(|at| at > now)
        };
        if !items.iter().any(|item| ends(&item.metadata) || !item.metadata.finalizers.is_empty()) {
            let (group, version, plural) = (&resource.group, &resource.version, &resource.plural);
            self.unexpected.push(format!(
                "unexpected items still remain in namespace: {namespace} for gvr: {group}/{version}, Resource={plural}"
            ));
        }
        self.remaining.insert(format!("{}.{}", resource.plural, resource.group), items.len());
        for item in items {
            for finalizer in &item.metadata.finalizers {
                *self.finalizers.entry(finalizer.clone()).or_insert(0) += 1;
            }
            self.grace = self.grace.max(item.metadata.deletion_grace_period_seconds.unwrap_or(0));
        }
    }

    /// The conditions of the namespace (`status_condition_utils.go`).
    fn conditions(&self, now: &str) -> Vec<Value> {
        let condition = |kind: &str, bad: Option<(&str, String)>, good: (&str, &str)| {
            let (status, reason, message) = match bad {
                Some((reason, message)) => ("True", reason, message),
                None => ("False", good.0, good.1.to_owned()),
            };
            json!({"type": kind, "status": status, "reason": reason, "message": message, "lastTransitionTime": now})
        };
        let counts = |map: &BTreeMap<String, usize>, word: &str| {
            map.iter().map(|(k, n)| format!("{k} {word} {n} resource instances")).collect::<Vec<_>>().join(", ")
        };
        let failed = (!self.discovery_failures.is_empty()).then(|| {
            let text = format!(
                "Discovery failed for some groups, {} failing: unable to retrieve the complete list of server APIs: {}",
                self.discovery_failures.len(),
                sorted(self.discovery_failures.iter())
            );
            ("DiscoveryFailed", text)
        });
        let failures = self.failures.len() + self.unexpected.len();
        let content = (failures > 0).then(|| {
            let all = sorted(self.failures.iter().chain(&self.unexpected));
            ("ContentDeletionFailed", format!("Failed to delete all resource types, {failures} remaining: {all}"))
        });
        let remaining = (!self.remaining.is_empty()).then(|| {
            ("SomeResourcesRemain", format!("Some resources are remaining: {}", counts(&self.remaining, "has")))
        });
        let finalizers = (!self.finalizers.is_empty()).then(|| {
            let text =
                format!("Some content in the namespace has finalizers remaining: {}", counts(&self.finalizers, "in"));
            ("SomeFinalizersRemain", text)
        });
        vec![
            condition(
                "NamespaceDeletionDiscoveryFailure",
                failed,
                ("ResourcesDiscovered", "All resources successfully discovered"),
            ),
            condition(
                "NamespaceDeletionGroupVersionParsingFailure",
                None,
                ("ParsedGroupVersions", "All legacy kube types successfully parsed"),
            ),
            condition(
                "NamespaceDeletionContentFailure",
                content,
                ("ContentDeleted", "All content successfully deleted, may be waiting on finalization"),
            ),
            condition("NamespaceContentRemaining", remaining, ("ContentRemoved", "All content successfully removed")),
            condition(
                "NamespaceFinalizersRemaining",
                finalizers,
                ("ContentHasNoFinalizers", "All content-preserving finalizers finished"),
            ),
        ]
    }
}

/// Texts in the order in which they stay the same from round to round.
fn sorted<'t>(texts: impl Iterator<Item = &'t String>) -> String {
    let mut texts: Vec<&str> = texts.map(String::as_str).collect();
    texts.sort_unstable();
    texts.join(", ")
}

/// Puts conditions into a namespace's status; returns whether anything but a time changed.
fn merge_conditions(namespace: &mut Value, conditions: &[Value]) -> bool {
    if !namespace["status"].is_object() {
        namespace["status"] = json!({});
    }
    if !namespace["status"]["conditions"].is_array() {
        namespace["status"]["conditions"] = json!([]);
    }
    let Some(current) = namespace["status"]["conditions"].as_array_mut() else { return false };
    let mut changed = false;
    for new in conditions {
        match current.iter_mut().find(|c| c["type"] == new["type"]) {
            None => {
                current.push(new.clone());
                changed = true;
            }
            Some(old) if old["status"] != new["status"] => {
                *old = new.clone();
                changed = true;
            }
            Some(old) if old["reason"] != new["reason"] || old["message"] != new["message"] => {
                old["reason"] = new["reason"].clone();
                old["message"] = new["message"].clone();
                changed = true;
            }
            Some(_) => {}
        }
    }
    changed
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn conditions_say_what_is_left() {
        let mut report = Report::default();
        let left =
            |metadata: Value| -> Left { serde_json::from_value(json!({"metadata": metadata})).expect("metadata") };
        let now: Timestamp = "2026-01-01T00:00:10Z".parse().expect("a time");
        let held = left(json!({"name": "a", "finalizers": ["x/y"], "deletionGracePeriodSeconds": 30}));
        report.left("n", &Resource::new("apps", "v1", "deployments", "Deployment", true), &[held], now);
        let conditions = report.conditions("2026-01-01T00:00:00Z");
        let texts: Vec<(&str, &str)> = conditions
            .iter()
            .map(|c| (c["status"].as_str().unwrap_or(""), c["message"].as_str().unwrap_or("")))
            .collect();
        assert_eq!(texts[0], ("False", "All resources successfully discovered"));
        assert_eq!(texts[3], ("True", "Some resources are remaining: deployments.apps has 1 resource instances"));
        assert_eq!(
            texts[4],
            ("True", "Some content in the namespace has finalizers remaining: x/y in 1 resource instances")
        );
        assert_eq!(report.grace, 30);
        let mut namespace = json!({});
        assert!(merge_conditions(&mut namespace, &conditions));
        assert!(!merge_conditions(&mut namespace, &report.conditions("2026-01-01T00:00:09Z")));

        // A pod within its grace is expected, one beyond it is not.
        let pods = Resource::new("", "v1", "pods", "Pod", true);
        let ending = |second: u8| {
            let at = format!("2026-01-01T00:00:{second:02}Z");
            left(json!({"name": "p", "deletionTimestamp": at, "deletionGracePeriodSeconds": 30}))
        };
        let content = |second: u8| {
            let mut report = Report { failures: vec!["z is forbidden".into()], ..Report::default() };
            report.left("n", &pods, &[ending(second)], now);
            report.conditions("2026-01-01T00:00:00Z")[2]["message"].as_str().unwrap_or_default().to_owned()
        };
        assert_eq!(content(30), "Failed to delete all resource types, 1 remaining: z is forbidden");
        let text = "Failed to delete all resource types, 2 remaining: unexpected items still remain in namespace: n for \
                    gvr: /v1, Resource=pods, z is forbidden";
        assert_eq!(content(5), text);
        let failures = vec!["b.example.com/v1: down".into(), "a.example.com/v1: silent".into()];
        let report = Report { discovery_failures: failures, ..Report::default() };
        let text = "Discovery failed for some groups, 2 failing: unable to retrieve the complete list of server APIs: \
                    a.example.com/v1: silent, b.example.com/v1: down";
        assert_eq!(report.conditions("2026-01-01T00:00:00Z")[0]["message"], text);
    }
}
