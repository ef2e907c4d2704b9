//! Pod workers on the fake runtime.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{ContainerStatus, PodCondition, PodStatus};
use orkd_cri::{Code, Error, Fake, RuntimeService};
use orkd_kubelet::stats::Stats;
use serde_json::json;

use crate::harness::{node, run, state};

#[tokio::test]
async fn a_pod_starts_and_ends() {
    let fake = Arc::new(Fake::new());
    let cx = node(fake.clone(), None, None);
    let pod = run(&cx, "u1", json!({"containers": [{"name": "c", "image": "app:1"}]})).await;
    let status = pod.ready().await;
    assert_eq!(status.phase.as_deref(), Some("Running"));
    assert_eq!(status.pod_ip.as_deref(), Some("10.200.0.1"));
    let changes = ["GetContainerEvents", "RunPodSandbox", "PullImage", "CreateContainer", "StartContainer"];
    assert_eq!(fake.changes(), changes);
    pod.delete(1).await;
    assert!(fake.changes().ends_with(&["StopContainer", "StopPodSandbox", "RemovePodSandbox"]));
}

#[tokio::test]
async fn a_pod_whose_port_is_taken_is_turned_away() {
    let cx = node(Arc::new(Fake::new()), None, None);
    let spec = json!({"containers": [
        {"name": "c", "image": "app:1", "ports": [{"containerPort": 80, "hostPort": 21017}]}]});
    let first = run(&cx, "h1", spec.clone()).await;
    first.ready().await;
    let second = run(&cx, "h2", spec.clone()).await;
    let status = second.until("turned away", |s| s.phase.as_deref() == Some("Failed")).await;
    assert_eq!(status.reason.as_deref(), Some("NodePorts"));
    let text =
        "Pod was rejected: Predicate NodePorts failed: node(s) didn't have free ports for the requested pod ports";
    assert_eq!(status.message.as_deref(), Some(text));
    second.delete(0).await;
    first.delete(0).await;
    let third = run(&cx, "h3", spec).await;
    third.ready().await;
    third.delete(0).await;
}

#[tokio::test]
async fn a_container_that_fails_again_waits() {
    let fake = Arc::new(Fake::new());
    let cx = node(fake.clone(), None, None);
    let pod = run(&cx, "u2", json!({"containers": [{"name": "c", "image": "app:1"}]})).await;
    pod.ready().await;
    let first = fake.containers_named("c");
    assert!(fake.exit_container(&first[0], 1));
    // The first restart is at once, the second waits.
    let status = pod.until("restarted", |s| state(s) == "running" && restarts(s) == 1).await;
    assert_eq!(status.phase.as_deref(), Some("Running"));
    let second = fake.containers_named("c");
    assert!(fake.exit_container(second.last().expect("one"), 2));
    let status = pod.until("in back-off", |s| state(s) == "CrashLoopBackOff").await;
    let container = status.container_statuses.iter().flatten().next().cloned().unwrap_or_default();
    let waiting = container.state.and_then(|s| s.waiting).and_then(|w| w.message).unwrap_or_default();
    assert_eq!(waiting, "back-off 10s restarting failed container=c pod=p_default(u2)");
    let last = container.last_state.and_then(|s| s.terminated).unwrap_or_default();
    assert_eq!(last.exit_code, 2);
    pod.delete(0).await;
}

/// A pod deleted while the runtime makes its sandbox or starts its container leaves nothing behind, although the runtime
/// finishes what it had begun.
#[tokio::test(start_paused = true)]
async fn a_pod_deleted_while_it_starts_leaves_nothing() {
    for (n, call) in ["RunPodSandbox", "StartContainer"].into_iter().enumerate() {
        for at in [0, 100, 300, 600] {
            let fake = Arc::new(Fake::new());
            fake.slow(call, Duration::from_millis(500));
            let cx = node(fake.clone(), None, None);
            let pod = run(&cx, &format!("s{n}{at}"), json!({"containers": [{"name": "c", "image": "app:1"}]})).await;
            tokio::time::sleep(Duration::from_millis(at)).await;
            pod.delete(1).await;
            let calls = fake.calls();
            tokio::time::sleep(Duration::from_secs(5)).await;
            let left = fake.list_pod_sandboxes(HashMap::new()).await.expect("sandboxes");
            let running = fake.list_containers(HashMap::new()).await.expect("containers");
            assert!(
                left.is_empty() && running.is_empty(),
                "{call}, deleted after {at} ms: {left:?} {running:?} {calls:?}"
            );
        }
    }
}

#[tokio::test]
async fn faults_of_the_runtime_show_in_the_status() {
    let fake = Arc::new(Fake::new());
    fake.fail_next("PullImage", Error::new(Code::NotFound, "no such image"));
    let cx = node(fake.clone(), None, None);
    let pod = run(&cx, "u3", json!({"containers": [{"name": "c", "image": "app:1"}]})).await;
    let status = pod.until("failed", |s| state(s) == "ImagePullBackOff").await;
    assert_eq!(status.phase.as_deref(), Some("Pending"));
    pod.ready().await;
    pod.delete(0).await;
}

#[tokio::test]
async fn a_pod_that_may_not_restart_ends_by_itself() {
    let fake = Arc::new(Fake::new());
    let cx = node(fake.clone(), None, None);
    let spec = json!({"restartPolicy": "Never", "initContainers": [{"name": "i", "image": "app:1"}],
                      "containers": [{"name": "c", "image": "app:1"}]});
    let pod = run(&cx, "u4", spec).await;
    let running = |name: &'static str| {
        let fake = fake.clone();
        move |_: &_| !fake.containers_named(name).is_empty()
    };
    pod.until("initializing", running("i")).await;
    while !fake.exit_container(&fake.containers_named("i")[0], 0) {
        tokio::task::yield_now().await;
    }
    pod.until("started", |s| state(s) == "running").await;
    assert!(fake.exit_container(&fake.containers_named("c")[0], 0));
    let status = pod.until("succeeded", |s| s.phase.as_deref() == Some("Succeeded")).await;
    let ready = status.conditions.iter().flatten().find(|c| c.type_ == "Ready").cloned().unwrap_or_default();
    assert_eq!(ready.reason.as_deref(), Some("PodCompleted"));
    pod.delete(0).await;
}

/// A hollow node has no cgroups: it tells what runs, and no figures but its own.
#[tokio::test]
async fn pods_are_told_of_without_figures_where_there_are_no_cgroups() {
    let fake = Arc::new(Fake::new());
    let cx = node(fake.clone(), None, None);
    let pod = run(&cx, "u5", json!({"containers": [{"name": "c", "image": "app:1"}]})).await;
    pod.ready().await;
    let handle = pod.handle.clone();
    let stats = Stats::new(cx.clone(), move || vec![handle.pod()]);
    let summary = serde_json::to_value(stats.summary(false).await.expect("the runtime answers")).expect("encoded");
    assert_eq!(summary["pods"][0]["podRef"], json!({"name": "p", "namespace": "default", "uid": "u5"}));
    let container = &summary["pods"][0]["containers"][0];
    assert!(container["name"] == "c" && container["cpu"].is_null(), "{container}");
    let rate = summary["node"]["cpu"]["usageNanoCores"].as_u64();
    assert!(rate.is_some() && summary["node"]["memory"]["workingSetBytes"].as_u64() > Some(0), "{summary}");
    let text = stats.resource_metrics().await;
    let started = r#"container_start_time_seconds{container="c",namespace="default",pod="p"} "#;
    assert!(text.contains(started) && text.contains("\nresource_scrape_error 0\n"), "{text}");
    fake.fail_next("ListPodSandbox", Error::new(Code::Unavailable, "gone"));
    assert!(stats.resource_metrics().await.contains("\nresource_scrape_error 1\n"));
    pod.delete(0).await;
}

/// A resize of two containers, one of which restarts for it. What the runtime refuses is tried again.
#[tokio::test(start_paused = true)]
async fn a_pod_is_resized_while_it_runs() {
    let fake = Arc::new(Fake::new());
    let cx = node(fake.clone(), None, None);
    let container = |name: &str, policy: &str, cpu: &str| {
        json!({"name": name, "image": "app:1", "resources": {"requests": {"cpu": cpu}, "limits": {"cpu": cpu}},
               "resizePolicy": [{"resourceName": "cpu", "restartPolicy": policy}]})
    };
    let spec = |cpu: &str| {
        let containers = [container("anew", "RestartContainer", cpu), container("kept", "NotRequired", cpu)];
        json!({"containers": containers})
    };
    let pod = run(&cx, "z1", spec("100m")).await;
    pod.ready().await;
    let shown = |status: &PodStatus| -> Vec<(i32, String)> {
        let limit = |c: &ContainerStatus| Some(c.resources.as_ref()?.limits.as_ref()?.get("cpu")?.0.clone());
        let containers = status.container_statuses.iter().flatten();
        containers.map(|c| (c.restart_count, limit(c).unwrap_or_default())).collect()
    };
    let resizing = |status: &PodStatus| -> Vec<PodCondition> {
        let conditions = status.conditions.iter().flatten();
        conditions.filter(|c| c.type_.starts_with("PodResize")).cloned().collect()
    };
    let says = |wanted: [(i32, &str); 2]| {
        let wanted = wanted.map(|(restarts, cpu)| (restarts, cpu.to_owned()));
        move |status: &PodStatus| shown(status) == wanted && resizing(status).is_empty()
    };
    pod.until("as asked", says([(0, "100m"), (0, "100m")])).await;

    fake.fail_always("UpdateContainerResources", Error::new(Code::Internal, "no room"));
    pod.resize(spec("200m"));
    let failed = |status: &PodStatus| resizing(status).iter().any(|c| c.reason.as_deref() == Some("Error"));
    let status = pod.until("not resized yet", failed).await;
    let condition = resizing(&status).pop().unwrap_or_default();
    assert_eq!((condition.type_.as_str(), condition.observed_generation), ("PodResizeInProgress", Some(2)));
    assert!(condition.message.is_some_and(|m| m.contains("no room")));
    fake.heal();
    pod.until("resized", says([(1, "200m"), (0, "200m")])).await;
    let kept = fake.containers_named("kept");
    let told = fake.container_status(&kept[0]).await.expect("a status").resources.and_then(|r| r.linux);
    assert_eq!((kept.len(), told.map(|l| (l.cpu_quota, l.cpu_shares))), (1, Some((20_000, 204))));

    pod.resize(spec("100m"));
    pod.until("as before", says([(2, "100m"), (0, "100m")])).await;
    pod.delete(0).await;
    assert!(cx.allocations.conditions("z1").is_empty());
}

fn restarts(status: &PodStatus) -> i32 {
    status.container_statuses.iter().flatten().map(|c| c.restart_count).sum()
}
