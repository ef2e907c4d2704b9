//! A node that runs out of memory, on the fake runtime: what there is is the machine's, what must be left is more.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::PodStatus;
use orkd_cri::Fake;
use orkd_kubelet::eviction::{Manager, Settings, thresholds};
use orkd_kubelet::image_gc::{Collector, Policy};
use orkd_kubelet::node_context::NodeContext;
use orkd_kubelet::pod;
use orkd_kubelet::worker::Handle;
use serde_json::json;
use tokio::time::Instant;

use crate::harness::{node, run, state};

fn manager(cx: &Arc<NodeContext>, hard: &str) -> Manager {
    let thresholds = thresholds(&[hard.to_owned()], &[], &[], &[]).expect("thresholds");
    let images = Arc::new(Collector::new(cx.runtime.clone(), Policy::default()));
    Manager::new(Settings { thresholds, ..Settings::default() }, cx.clone(), images)
}

fn uids(handles: &[Arc<Handle>]) -> Vec<String> {
    handles.iter().map(|h| pod::uid(&h.pod()).to_owned()).collect()
}

fn failed(status: &PodStatus) -> bool {
    status.phase.as_deref() == Some("Failed")
}

#[tokio::test]
async fn pods_go_one_by_one_and_no_new_ones_are_taken() {
    let cx = node(Arc::new(Fake::new()), None, None);
    let containers = json!([{"name": "c", "image": "app:1"}]);
    let important = run(&cx, "important", json!({"priority": 10, "containers": containers})).await;
    let other = run(&cx, "other", json!({"containers": containers})).await;
    important.ready().await;
    other.ready().await;
    let handles = [important.handle.clone(), other.handle.clone()];

    let mut calm = manager(&cx, "memory.available<1");
    assert!(calm.pass(&handles, Instant::now()).await.is_empty());
    let mut manager = manager(&cx, "memory.available<1Ei");
    assert_eq!(uids(&manager.pass(&handles, Instant::now()).await), ["other"]);
    let status = other.until("evicted", failed).await;
    let message = status.message.clone().unwrap_or_default();
    let start = "The node was low on resource: memory. Threshold quantity: 1Ei, available: ";
    assert!(message.starts_with(start), "{message}");
    assert_eq!(status.reason.as_deref(), Some("Evicted"));
    let mut conditions = status.conditions.iter().flatten();
    let target = conditions.find(|c| c.type_ == "DisruptionTarget").expect("the condition");
    assert_eq!((target.status.as_str(), target.reason.as_deref()), ("True", Some("TerminationByKubelet")));
    assert_eq!(target.message.as_deref(), Some(message.as_str()));
    assert_eq!(state(&important.ready().await), "running");

    while !other.handle.is_released() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(uids(&manager.pass(&handles, Instant::now()).await), ["important"]);
    important.until("evicted", failed).await;
    assert_eq!(cx.pressures.counts().get("memory.available"), Some(&2));

    let late = run(&cx, "late", json!({"containers": containers})).await;
    let status = late.until("rejected", failed).await;
    let told = (status.reason.as_deref(), status.message.as_deref(), status.container_statuses);
    let text = "Pod was rejected: The node had condition: [MemoryPressure]. ";
    assert_eq!(told, (Some("Evicted"), Some(text), None));
    let resources = json!({"requests": {"memory": "1Mi"}});
    let asks = json!({"containers": [{"name": "c", "image": "app:1", "resources": resources}]});
    run(&cx, "asks", asks).await.ready().await;
}
