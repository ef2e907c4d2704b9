//! Pods leave nodes whose `NoExecute` taints they do not tolerate, when they tolerate them no longer.
//!
//! Follows `pkg/controller/tainteviction`. The time runs from when the taint was set, so that a restart of ours
//! prolongs nothing; for a taint that does not say when, from when the pod was first seen with it.

use std::collections::HashMap;
use std::time::Duration;

use jiff::Timestamp;
use orkd_base::BoxError;
use orkd_reconcile::{DeleteOptions, Informer, Key, ObjectRef, Outcome, Patch, Queue, Resource, time, work};
use parking_lot::Mutex;
use serde::de::IgnoredAny;
use serde_json::json;

use crate::node_lifecycle::{BY_NODE, add_node_index};
use crate::views::{Node, Pod, Taint, Toleration};
use crate::{ControllerSpec, Cx};

/// How the list of controllers names it.
pub const SPEC: ControllerSpec = ControllerSpec {
    name: "taint-eviction-controller",
    service_account: "node-controller",
    run: |cx| Box::pin(start(cx)),
};

async fn start(cx: Cx) -> Result<(), BoxError> {
    let nodes: Informer<Node> = cx.informers.informer();
    let pods: Informer<Pod> = cx.informers.informer();
    add_node_index(&pods);
    let queue: Queue<Key> = Queue::new(SPEC.name);
    {
        let (queue, nodes) = (queue.clone(), nodes.clone());
        pods.subscribe(move |event| {
            let pod = event.object();
            if event.is_deleted() || pod.spec.node_name.is_empty() {
                return;
            }
            let placed = event.old().is_none_or(|old| {
                old.spec.node_name != pod.spec.node_name || old.spec.tolerations != pod.spec.tolerations
            });
            let tainted = nodes.get_named("", &pod.spec.node_name).is_none_or(|n| executes(&n).next().is_some());
            if placed && tainted {
                queue.add(event.key());
            }
        });
    }
    {
        let (queue, pods) = (queue.clone(), pods.clone());
        nodes.subscribe(move |event| {
            let node = event.object();
            let before: Vec<_> = event.old().map(|old| executes(old).collect()).unwrap_or_default();
            if event.is_deleted() || before == executes(node).collect::<Vec<_>>() {
                return;
            }
            for pod in pods.by_index(BY_NODE, &node.metadata.name) {
                queue.add(pod.metadata.key());
            }
        });
    }
    nodes.synced().await;
    pods.synced().await;
    // Since when the pods that are only tolerated for a while are.
    let since: Mutex<HashMap<Key, (String, Timestamp)>> = Mutex::default();
    let (cx_ref, nodes, pods, since) = (&cx, &nodes, &pods, &since);
    work(queue, 8, cx.stop.clone(), |key| async move {
        let pod = pods.get(&key).filter(|p| !p.metadata.is_deleting());
        let node = pod.as_ref().and_then(|p| nodes.get_named("", &p.spec.node_name));
        let (Some(pod), Some(node)) = (pod, node) else {
            since.lock().remove(&key);
            return Ok(Outcome::Done);
        };
        let taints: Vec<&Taint> = executes(&node).collect();
        let now = cx_ref.clock.now();
        let first = {
            let mut since = since.lock();
            match since.get(&key) {
                Some((uid, first)) if *uid == pod.metadata.uid && !taints.is_empty() => *first,
                _ => {
                    since.insert(key.clone(), (pod.metadata.uid.clone(), now));
                    now
                }
            }
        };
        let stay = decide(&taints, &pod.spec.tolerations, first, now);
        if let Stay::For(left) = stay {
            return Ok(Outcome::RequeueAfter(left));
        }
        since.lock().remove(&key);
        if stay == Stay::No {
            evict(cx_ref, &pod).await?;
        }
        Ok(Outcome::Done)
    })
    .await;
    Ok(())
}

async fn evict(cx: &Cx, pod: &Pod) -> Result<(), BoxError> {
    let meta = &pod.metadata;
    let text = format!("Marking for deletion Pod {}", meta.key());
    cx.recorder.normal(&ObjectRef::of(pod), "TaintManagerEviction", text);
    let target = Resource::of::<Pod>().at(&meta.namespace, &meta.name);
    let patch = json!({
        "metadata": {"uid": meta.uid},
        "status": {"conditions": [{
            "type": "DisruptionTarget", "status": "True", "reason": "DeletionByTaintManager",
            "message": "Taint manager: deleting due to NoExecute taint",
            "lastTransitionTime": time(cx.clock.now()),
        }]},
    });
    match cx.api.patch::<IgnoredAny>(&target.sub("status"), &Patch::Strategic(patch)).await {
        Err(err) if err.is_not_found() || err.is_conflict() => return Ok(()),
        other => other.map(|_| ())?,
    }
    match cx.api.delete(&target, &DeleteOptions::default().uid(&meta.uid)).await {
        Err(err) if err.is_not_found() || err.is_conflict() => Ok(()),
        other => Ok(other?),
    }
}

fn executes(node: &Node) -> impl Iterator<Item = &Taint> {
    node.spec.taints.iter().filter(|t| t.effect == "NoExecute")
}

/// How long a pod stays on its node.
#[derive(Debug, PartialEq)]
enum Stay {
    ForEver,
    For(Duration),
    No,
}

/// `first`: when the pod was first seen with taints that it tolerates for a while only.
fn decide(taints: &[&Taint], tolerations: &[Toleration], first: Timestamp, now: Timestamp) -> Stay {
    let mut end: Option<i64> = None;
    for taint in taints {
        let used: Vec<&Toleration> = tolerations.iter().filter(|t| tolerates(t, taint)).collect();
        if used.is_empty() {
            return Stay::No;
        }
        let since = taint.time_added.unwrap_or(first).as_second();
        for seconds in used.iter().filter_map(|t| t.toleration_seconds) {
            let at = since.saturating_add(seconds.max(0));
            end = Some(end.map_or(at, |e| e.min(at)));
        }
    }
    match end {
        None => Stay::ForEver,
        Some(end) if end <= now.as_second() => Stay::No,
        Some(end) => Stay::For(Duration::from_secs((end - now.as_second()).unsigned_abs())),
    }
}

/// Whether a toleration tolerates a taint (`ToleratesTaint`).
pub(crate) fn tolerates(toleration: &Toleration, taint: &Taint) -> bool {
    if !toleration.effect.is_empty() && toleration.effect != taint.effect {
        return false;
    }
    if !toleration.key.is_empty() && toleration.key != taint.key {
        return false;
    }
    match toleration.operator.as_str() {
        "Exists" => true,
        "" | "Equal" => !toleration.key.is_empty() && toleration.value == taint.value,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(tolerations: &str, expected: Stay) {
        let taint = Taint {
            key: "node.kubernetes.io/unreachable".into(),
            effect: "NoExecute".into(),
            time_added: Some(Timestamp::from_second(1000).expect("a time")),
            ..Taint::default()
        };
        let tolerations: Vec<Toleration> = serde_json::from_str(tolerations).expect("tolerations");
        let now = Timestamp::from_second(1100).expect("a time");
        assert_eq!(decide(&[&taint], &tolerations, now, now), expected, "{tolerations:?}");
    }

    #[test]
    fn a_taint_that_does_not_say_since_when_counts_from_when_it_was_seen() {
        let taint = Taint { key: "mine".into(), effect: "NoExecute".into(), ..Taint::default() };
        let tolerations: Vec<Toleration> =
            serde_json::from_str(r#"[{"key":"mine","operator":"Exists","tolerationSeconds":5}]"#).expect("tolerations");
        let at = |s| Timestamp::from_second(s).expect("a time");
        assert_eq!(decide(&[&taint], &tolerations, at(10), at(12)), Stay::For(Duration::from_secs(3)));
        assert_eq!(decide(&[&taint], &tolerations, at(10), at(15)), Stay::No);
    }

    #[test]
    fn pods_stay_as_long_as_they_tolerate() {
        check("[]", Stay::No);
        check(r#"[{"operator":"Exists"}]"#, Stay::ForEver);
        let unreachable = "node.kubernetes.io/unreachable";
        let seconds = |n: i64| format!(r#"[{{"key":"{unreachable}","operator":"Exists","tolerationSeconds":{n}}}]"#);
        check(&seconds(300), Stay::For(Duration::from_secs(200)));
        check(&seconds(60), Stay::No);
        check(&seconds(0), Stay::No);
        check(r#"[{"key":"other","operator":"Exists"}]"#, Stay::No);
        check(r#"[{"key":"node.kubernetes.io/unreachable","effect":"NoSchedule","operator":"Exists"}]"#, Stay::No);
    }
}
