//! Pods leave nodes whose `NoExecute` taints they do not tolerate, when they tolerate them no longer.
//!
//! Follows `pkg/controller/tainteviction`. Upstream's time runs from when it saw pod and taint together. Here it runs from
//! when the taint was set or the pod came to the node, whichever was later, so that a restart of ours prolongs nothing;
//! for a taint that does not say when, from when the pod was first seen with it.

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
    let queue: Queue<Key> = cx.queue(SPEC.name);
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
    let since: Mutex<HashMap<Key, Stage>> = Mutex::default();
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
            let since = since.lock();
            since.get(&key).filter(|s| s.uid == pod.metadata.uid).map_or(now, |s| s.first)
        };
        let stay = decide(&taints, &pod.spec.tolerations, placed_at(&pod), first, now);
        if let Stay::For(left) = stay {
            since.lock().insert(key, Stage { uid: pod.metadata.uid.clone(), first });
            return Ok(Outcome::RequeueAfter(left));
        }
        let was_to_go = since.lock().remove(&key).is_some();
        if stay == Stay::ForEver && was_to_go {
            let text = format!("Cancelling deletion of Pod {key}");
            cx_ref.recorder.normal(&ObjectRef::of(&*pod), "TaintManagerEviction", text);
        }
        if stay == Stay::No {
            evict(cx_ref, &pod).await?;
        }
        Ok(Outcome::Done)
    })
    .await;
    Ok(())
}

/// A pod that is to go when its time is up.
struct Stage {
    uid: String,
    /// When it was first seen with taints that it tolerates for a while only.
    first: Timestamp,
}

/// When a pod came to its node.
fn placed_at(pod: &Pod) -> Timestamp {
    let scheduled = pod.status.conditions.iter().find(|c| c.kind == "PodScheduled" && c.status == "True");
    scheduled.and_then(|c| c.last_transition_time).or(pod.metadata.creation_timestamp).unwrap_or(Timestamp::MIN)
}

async fn evict(cx: &Cx, pod: &Pod) -> Result<(), BoxError> {
    let text = format!("Marking for deletion Pod {}", pod.metadata.key());
    cx.recorder.normal(&ObjectRef::of(pod), "TaintManagerEviction", text);
    disrupt(cx, pod, "DeletionByTaintManager", "Taint manager: deleting due to NoExecute taint").await
}

/// Deletes a pod, after it was noted why in its condition `DisruptionTarget`.
pub(crate) async fn disrupt(cx: &Cx, pod: &Pod, reason: &str, message: &str) -> Result<(), BoxError> {
    let meta = &pod.metadata;
    let target = Resource::of::<Pod>().at(&meta.namespace, &meta.name);
    let patch = json!({
        "metadata": {"uid": meta.uid},
        "status": {"conditions": [{
            "type": "DisruptionTarget", "status": "True", "reason": reason, "message": message,
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

/// Of the tolerations of a taint the first counts. `placed`: when the pod came to the node; `first`: when it was first seen
/// with taints that it tolerates for a while only.
fn decide(taints: &[&Taint], tolerations: &[Toleration], placed: Timestamp, first: Timestamp, now: Timestamp) -> Stay {
    let mut end: Option<i64> = None;
    for taint in taints {
        let Some(used) = tolerations.iter().find(|t| tolerates(t, taint)) else { return Stay::No };
        let Some(seconds) = used.toleration_seconds else { continue };
        let since = taint.time_added.unwrap_or(first).max(placed).as_second();
        let at = since.saturating_add(seconds.max(0));
        end = Some(end.map_or(at, |e| e.min(at)));
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
        assert_eq!(decide(&[&taint], &tolerations, Timestamp::MIN, now, now), expected, "{tolerations:?}");
    }

    #[test]
    fn a_taint_that_does_not_say_since_when_counts_from_when_it_was_seen() {
        let taint = Taint { key: "mine".into(), effect: "NoExecute".into(), ..Taint::default() };
        let tolerations: Vec<Toleration> =
            serde_json::from_str(r#"[{"key":"mine","operator":"Exists","tolerationSeconds":5}]"#).expect("tolerations");
        let at = |s| Timestamp::from_second(s).expect("a time");
        let decide = |first, now| decide(&[&taint], &tolerations, Timestamp::MIN, first, now);
        assert_eq!(decide(at(10), at(12)), Stay::For(Duration::from_secs(3)));
        assert_eq!(decide(at(10), at(15)), Stay::No);
    }

    #[test]
    fn a_pod_that_came_later_has_its_whole_time() {
        let at = |s| Timestamp::from_second(s).expect("a time");
        let taint =
            Taint { key: "mine".into(), effect: "NoExecute".into(), time_added: Some(at(10)), ..Taint::default() };
        let tolerations: Vec<Toleration> =
            serde_json::from_str(r#"[{"key":"mine","operator":"Exists","tolerationSeconds":60}]"#)
                .expect("tolerations");
        let stay = decide(&[&taint], &tolerations, at(1000), at(1001), at(1001));
        assert_eq!(stay, Stay::For(Duration::from_secs(59)));
        let pod: Pod = serde_json::from_value(json!({"metadata": {"creationTimestamp": "1970-01-01T00:00:05Z"},
            "status": {"conditions": [{"type": "PodScheduled", "status": "True",
                "lastTransitionTime": "1970-01-01T00:16:40Z"}]}}))
        .expect("a pod");
        assert_eq!(placed_at(&pod), at(1000));
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
        let both = |a: &str, b: &str| format!("[{},{}]", a.trim_matches(['[', ']']), b.trim_matches(['[', ']']));
        check(&both(r#"[{"operator":"Exists"}]"#, &seconds(60)), Stay::ForEver);
        check(&both(&seconds(60), r#"[{"operator":"Exists"}]"#), Stay::No);
        check(r#"[{"key":"node.kubernetes.io/unreachable","effect":"NoSchedule","operator":"Exists"}]"#, Stay::No);
    }
}
