//! How long kubelets may keep secrets and config maps before they ask again: the larger the cluster, the longer
//! (`pkg/controller/ttl`, annotation `node.alpha.kubernetes.io/ttl`).

use std::sync::atomic::{AtomicUsize, Ordering};

use orkd_base::BoxError;
use orkd_reconcile::{Informer, Key, Outcome, Patch, Queue, Resource, work};
use serde::de::IgnoredAny;
use serde_json::json;

use crate::views::Node;
use crate::{ControllerSpec, Cx};

/// How the list of controllers names it.
pub const SPEC: ControllerSpec =
    ControllerSpec { name: "ttl-controller", service_account: "ttl-controller", run: |cx| Box::pin(start(cx)) };

const TTL: &str = "node.alpha.kubernetes.io/ttl";

/// From how many nodes, up to how many, and for how many seconds. The ranges overlap, so that a cluster at a border does
/// not change its mind with each node.
const STEPS: [(usize, usize, u32); 5] =
    [(0, 100, 0), (90, 500, 15), (450, 1000, 30), (900, 2000, 60), (1800, usize::MAX, 300)];

async fn start(cx: Cx) -> Result<(), BoxError> {
    let nodes: Informer<Node> = cx.informers.informer();
    let queue: Queue<Key> = cx.queue(SPEC.name);
    {
        let queue = queue.clone();
        nodes.subscribe(move |event| {
            // Heartbeats change no annotation.
            let same =
                event.old().is_some_and(|old| old.metadata.annotation(TTL) == event.object().metadata.annotation(TTL));
            if !same {
                queue.add(event.key());
            }
        });
    }
    nodes.synced().await;
    let step = AtomicUsize::new(0);
    let (nodes, step, queue_ref, api) = (&nodes, &step, &queue, &cx.api);
    work(queue.clone(), 2, cx.stop, |key| async move {
        let all = nodes.list();
        let before = step.load(Ordering::Relaxed);
        let now = next(before, all.len());
        if now != before {
            step.store(now, Ordering::Relaxed);
            all.iter().for_each(|n| queue_ref.add(n.metadata.key()));
        }
        let wanted = STEPS.get(now).map_or(0, |s| s.2).to_string();
        let Some(node) = nodes.get(&key).filter(|n| n.metadata.annotation(TTL) != Some(&wanted)) else {
            return Ok(Outcome::Done);
        };
        let patch = json!({"metadata": {"uid": node.metadata.uid, "annotations": {TTL: wanted}}});
        match api.patch::<IgnoredAny>(&Resource::of::<Node>().at("", &key.name), &Patch::Strategic(patch)).await {
            Err(err) if err.is_not_found() || err.is_conflict() => {}
            other => drop(other?),
        }
        Ok(Outcome::Done)
    })
    .await;
    Ok(())
}

fn next(mut step: usize, nodes: usize) -> usize {
    while step + 1 < STEPS.len() && nodes > STEPS[step].1 {
        step += 1;
    }
    while step > 0 && nodes < STEPS[step].0 {
        step -= 1;
    }
    step
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn borders_are_wide() {
        let mut step = 0;
        for (nodes, ttl) in [(1, 0), (100, 0), (101, 15), (95, 15), (89, 0), (5000, 300), (1900, 300), (1000, 60)] {
            step = next(step, nodes);
            assert_eq!(STEPS[step].2, ttl, "{nodes} nodes");
        }
    }
}
