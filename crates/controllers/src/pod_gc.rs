//! Pods that nobody else removes.
//!
//! Follows `pkg/controller/podgc`: pods bound to nodes that are gone (after a grace in which the node may come
//! back), pods that are being deleted before they were scheduled, pods of nodes out of service, and the oldest
//! ended pods beyond a threshold.

use std::time::Duration;

use orkd_base::BoxError;
use orkd_reconcile::{DeleteOptions, Informer, Key, Outcome, Patch, Queue, Resource, time, work};
use serde::de::IgnoredAny;
use serde_json::json;

use crate::node_lifecycle::{BY_NODE, add_node_index};
use crate::pods::is_terminal;
use crate::views::{Node, Pod, condition};
use crate::{ControllerSpec, Cx};

/// How the list of controllers names it.
pub const SPEC: ControllerSpec = ControllerSpec {
    name: "pod-garbage-collector-controller",
    service_account: "pod-garbage-collector",
    run: |cx| Box::pin(start(cx)),
};

/// How many ended pods are kept.
const THRESHOLD: usize = 12_500;
/// How long a node may be gone before its pods are.
const QUARANTINE: Duration = Duration::from_secs(40);
const OUT_OF_SERVICE: &str = "node.kubernetes.io/out-of-service";

async fn start(cx: Cx) -> Result<(), BoxError> {
    let nodes: Informer<Node> = cx.informers.informer();
    let pods: Informer<Pod> = cx.informers.informer();
    add_node_index(&pods);
    nodes.synced().await;
    let queue: Queue<Key> = cx.queue(SPEC.name);
    {
        let (queue, nodes) = (queue.clone(), nodes.clone());
        pods.subscribe(move |event| {
            if event.is_deleted() {
                return;
            }
            let pod = event.object();
            let node = &pod.spec.node_name;
            if node.is_empty() {
                if pod.metadata.is_deleting() {
                    queue.add(event.key());
                }
            } else {
                match nodes.get_named("", node) {
                    None => queue.add_after(event.key(), QUARANTINE),
                    Some(node) if out_of_service(&node) && pod.metadata.is_deleting() => queue.add(event.key()),
                    Some(_) => {}
                }
            }
            if is_terminal(pod) && event.old().is_none_or(|old| !is_terminal(old)) {
                // The empty key stands for the count of ended pods.
                queue.add_after(Key::default(), Duration::from_secs(20));
            }
        });
    }
    {
        let (queue, pods) = (queue.clone(), pods.clone());
        nodes.subscribe(move |event| {
            let delay = if event.is_deleted() {
                QUARANTINE
            } else if out_of_service(event.object()) {
                Duration::ZERO
            } else {
                return;
            };
            for pod in pods.by_index(BY_NODE, &event.object().metadata.name) {
                queue.add_after(pod.metadata.key(), delay);
            }
        });
    }
    pods.synced().await;
    let (cx_ref, nodes, pods) = (&cx, &nodes, &pods);
    work(queue, 2, cx.stop.clone(), |key| async move {
        if key == Key::default() {
            for pod in surplus(pods, THRESHOLD) {
                remove(cx_ref, &pod, None).await?;
            }
            return Ok(Outcome::Done);
        }
        let Some(pod) = pods.get(&key) else { return Ok(Outcome::Done) };
        let node = nodes.get_named("", &pod.spec.node_name);
        match reason(&pod, node.as_deref()) {
            None => {}
            Some(Reason::Orphaned) => {
                // The cache may be behind: only the API knows that a node is gone.
                let target = Resource::of::<Node>().at("", &pod.spec.node_name);
                match cx_ref.api.get::<IgnoredAny>(&target).await {
                    Err(err) if err.is_not_found() => {
                        remove(cx_ref, &pod, Some("PodGC: node no longer exists")).await?
                    }
                    other => other.map(|_| ())?,
                }
            }
            Some(Reason::Other) => remove(cx_ref, &pod, None).await?,
        }
        Ok(Outcome::Done)
    })
    .await;
    Ok(())
}

#[derive(Debug, PartialEq)]
enum Reason {
    /// Its node is gone.
    Orphaned,
    /// It is unscheduled or on a node out of service, and is being deleted.
    Other,
}

fn reason(pod: &Pod, node: Option<&Node>) -> Option<Reason> {
    if pod.spec.node_name.is_empty() {
        return pod.metadata.is_deleting().then_some(Reason::Other);
    }
    match node {
        None => Some(Reason::Orphaned),
        Some(node) => (pod.metadata.is_deleting() && out_of_service(node)).then_some(Reason::Other),
    }
}

fn out_of_service(node: &Node) -> bool {
    let ready = condition(&node.status.conditions, "Ready").is_some_and(|c| c.status == "True");
    !ready && node.spec.taints.iter().any(|t| t.key == OUT_OF_SERVICE)
}

/// The oldest ended pods beyond a threshold, those that were evicted first.
fn surplus(pods: &Informer<Pod>, threshold: usize) -> Vec<std::sync::Arc<Pod>> {
    let mut ended: Vec<_> = pods.list().into_iter().filter(|p| is_terminal(p)).collect();
    if ended.len() <= threshold {
        return Vec::new();
    }
    // What was evicted has been replaced; what ended by itself is still looked at.
    let evicted = |p: &Pod| p.status.phase == "Failed" && p.status.reason == "Evicted";
    ended.sort_by_key(|p| (!evicted(p), p.metadata.creation_timestamp, p.metadata.key()));
    ended.truncate(ended.len() - threshold);
    ended
}

/// Ends a pod in its status, with a disruption condition if there is a text for it, and removes it at once.
async fn remove(cx: &Cx, pod: &Pod, disruption: Option<&str>) -> Result<(), BoxError> {
    let meta = &pod.metadata;
    let target = Resource::of::<Pod>().at(&meta.namespace, &meta.name);
    if !is_terminal(pod) {
        let mut status = json!({"phase": "Failed"});
        if let Some(message) = disruption {
            status["conditions"] = json!([{
                "type": "DisruptionTarget", "status": "True", "reason": "DeletionByPodGC",
                "message": message, "lastTransitionTime": time(cx.clock.now()),
            }]);
        }
        let patch = json!({"metadata": {"uid": meta.uid}, "status": status});
        match cx.api.patch::<IgnoredAny>(&target.sub("status"), &Patch::Strategic(patch)).await {
            Err(err) if err.is_not_found() || err.is_conflict() => return Ok(()),
            other => other.map(|_| ())?,
        }
    }
    match cx.api.delete(&target, &DeleteOptions::default().uid(&meta.uid).grace(0)).await {
        Err(err) if err.is_not_found() || err.is_conflict() => Ok(()),
        other => Ok(other?),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(node: &str, deleting: bool) -> Pod {
        let mut json = json!({"metadata": {"name": "p"}, "spec": {"nodeName": node}});
        if deleting {
            json["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z".into();
        }
        serde_json::from_value(json).expect("a pod")
    }

    #[test]
    fn pods_that_nobody_else_removes() {
        let node: Node = serde_json::from_value(json!({"metadata": {"name": "n"}})).expect("a node");
        let mut out = node.clone();
        out.spec.taints = vec![crate::views::Taint { key: OUT_OF_SERVICE.into(), ..Default::default() }];
        assert_eq!(reason(&pod("", true), None), Some(Reason::Other));
        assert_eq!(reason(&pod("", false), None), None);
        assert_eq!(reason(&pod("n", false), None), Some(Reason::Orphaned));
        assert_eq!(reason(&pod("n", true), Some(&node)), None);
        assert_eq!(reason(&pod("n", true), Some(&out)), Some(Reason::Other));
    }

    #[test]
    fn the_oldest_ended_pods_go() {
        let pods: Informer<Pod> = Informer::detached(Resource::of::<Pod>());
        let ended = |name: &str, second: u32| {
            serde_json::from_value::<Pod>(json!({
                "metadata": {"name": name, "creationTimestamp": format!("2026-01-01T00:00:0{second}Z")},
                "status": {"phase": "Succeeded"},
            }))
            .expect("a pod")
        };
        pods.replace(vec![ended("new", 9), ended("old", 1), ended("middle", 5)], 1);
        let names: Vec<_> = surplus(&pods, 2).iter().map(|p| p.metadata.name.to_string()).collect();
        assert_eq!(names, ["old"]);
        let evicted: Pod = serde_json::from_value(json!({
            "metadata": {"name": "evicted", "creationTimestamp": "2026-01-01T00:00:10Z"},
            "status": {"phase": "Failed", "reason": "Evicted"},
        }))
        .expect("a pod");
        pods.replace(vec![ended("new", 9), ended("old", 1), evicted], 2);
        let names: Vec<_> = surplus(&pods, 2).iter().map(|p| p.metadata.name.to_string()).collect();
        assert_eq!(names, ["evicted"]);
    }
}
