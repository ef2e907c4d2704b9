//! Autoscalers of several metrics.

use serde_json::{Value, json};

use crate::world::{Stub, World, running};

const SCALERS: &str = "/apis/autoscaling/v2/namespaces/default/horizontalpodautoscalers";
const DEPLOYMENTS: &str = "/apis/apps/v1/namespaces/default/deployments";

fn condition(object: &Value, kind: &str) -> Value {
    let conditions = object["status"]["conditions"].as_array();
    conditions.into_iter().flatten().find(|c| c["type"] == kind).cloned().unwrap_or_default()
}

/// A metric that cannot be read keeps its place in the status, and does not keep the others from adding pods.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_metric_that_cannot_be_read_holds_back_less_only() {
    let world =
        World::start(&["horizontal-pod-autoscaler-controller", "deployment-controller", "replicaset-controller"]).await;
    world.play_kubelet(running);
    let value = |amount: &str| {
        Stub::Answer(json!({"kind": "ExternalMetricValueList", "apiVersion": "external.metrics.k8s.io/v1beta1",
            "metadata": {}, "items": [{"metricName": "queue", "metricLabels": {}, "value": amount,
                "timestamp": "2026-01-01T00:00:00Z"}]}))
    };
    const QUEUE: &str = "/apis/external.metrics.k8s.io/v1beta1/namespaces/default/queue";
    world.stubs.set(QUEUE, value("40"));
    let deployment = json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web"},
        "spec": {"replicas": 2, "selector": {"matchLabels": {"app": "web"}}, "template": {
            "metadata": {"labels": {"app": "web"}}, "spec": {"containers": [{"name": "c", "image": "one"}]}}}});
    world.create(DEPLOYMENTS, deployment).await;
    let web = format!("{DEPLOYMENTS}/web");
    world.eventually("two run", &web, |d| d["status"]["availableReplicas"] == 2).await;

    let external = |name: &str, selector: Value| {
        json!({"type": "External", "external": {"metric": {"name": name, "selector": selector},
            "target": {"type": "AverageValue", "averageValue": "10"}}})
    };
    let metrics = json!([external("lost", json!({"matchLabels": {"a": "b"}})), external("queue", Value::Null)]);
    let scaler = json!({"apiVersion": "autoscaling/v2", "kind": "HorizontalPodAutoscaler", "metadata": {"name": "web"},
        "spec": {"scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "web"},
            "minReplicas": 1, "maxReplicas": 9, "metrics": metrics}});
    world.create(SCALERS, scaler).await;
    world.eventually("four run", &web, |d| d["status"]["availableReplicas"] == 4).await;
    let path = format!("{SCALERS}/web");
    let status = world.eventually("it is told", &path, |s| s["status"]["desiredReplicas"] == 4).await;
    let shown = &status["status"]["currentMetrics"];
    assert_eq!(
        (&shown[0]["type"], &shown[1]["external"]["metric"]["name"]),
        (&json!(""), &json!("queue")),
        "{shown:#}"
    );
    assert_eq!(condition(&status, "ScalingActive")["reason"], "ValidMetricFound");

    // Fewer there are not, for the other might ask for more.
    world.stubs.set(QUEUE, value("10"));
    world.merge(&path, json!({"spec": {"maxReplicas": 8}})).await;
    let status =
        world.eventually("it knows not enough", &path, |s| condition(s, "ScalingActive")["status"] == "False").await;
    let active = condition(&status, "ScalingActive");
    assert_eq!(active["reason"], "FailedGetExternalMetric");
    let begin = "the HPA was unable to compute the replica count: failed to get lost external metric: unable to get \
                 external metric default/lost/&LabelSelector{MatchLabels:map[string]string{a: b,},MatchExpressions:\
                 []LabelSelectorRequirement{},}: unable to fetch metrics from external metrics API: ";
    let message = active["message"].as_str().unwrap_or_default();
    assert!(message.starts_with(begin), "{message}");
    let shown = &status["status"]["currentMetrics"];
    assert_eq!((&shown[0]["type"], &shown[1]["type"]), (&json!(""), &json!("External")), "{shown:#}");
    assert_eq!(world.get(&web).await.expect("the deployment")["spec"]["replicas"], 4);
    let begin = "invalid metrics (1 invalid out of 2), first error is: failed to get lost external metric value: failed to \
                 get lost external metric: unable to get external metric default/lost/&LabelSelector{";
    let told = |e: &Value| {
        e["reason"] == "FailedComputeMetricsReplicas" && e["message"].as_str().is_some_and(|m| m.starts_with(begin))
    };
    world
        .eventually("an event tells", "/api/v1/namespaces/default/events", |events| {
            events["items"].as_array().into_iter().flatten().any(told)
        })
        .await;
    world.stop().await;
}

/// The texts that people look for when an autoscaler does nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_target_that_is_not_there_is_told() {
    let world = World::start(&["horizontal-pod-autoscaler-controller"]).await;
    let check = async |kind: &str, version: &str, expected: &str| {
        let name = kind.to_lowercase();
        let scaler = json!({"apiVersion": "autoscaling/v2", "kind": "HorizontalPodAutoscaler",
            "metadata": {"name": name}, "spec": {"maxReplicas": 3,
                "scaleTargetRef": {"apiVersion": version, "kind": kind, "name": "lost"}}});
        world.create(SCALERS, scaler).await;
        let path = format!("{SCALERS}/{name}");
        let told = world.eventually("it is told", &path, |s| condition(s, "AbleToScale")["status"] == "False").await;
        let able = condition(&told, "AbleToScale");
        let text = format!("the HPA controller was unable to get the target's current scale: {expected}");
        assert_eq!((&able["reason"], &able["message"]), (&json!("FailedGetScale"), &json!(text)));
    };
    check("Deployment", "apps/v1", r#"deployments/scale.apps "lost" not found"#).await;
    check("StatefulSet", "apps/v1", r#"statefulsets.apps "lost" not found"#).await;
    check("Widget", "example.com/v1", r#"no matches for kind "Widget" in group "example.com""#).await;
    world.stop().await;
}
