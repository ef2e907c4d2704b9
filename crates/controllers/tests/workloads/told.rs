//! What controllers tell of their deeds: upstream's reasons and words, which people search for and script on.

use orkd_reconcile::DeleteOptions;
use serde_json::{Value, json};

use crate::world::{World, ended, running};
use crate::{jobs, stateful};

const EVENTS: &str = "/api/v1/namespaces/default/events";

/// Waits until each of these was told: kind, type, reason, the beginning of the text, and the source.
async fn told(world: &World, expected: &[(&str, &str, &str, &str, &str)]) {
    for (kind, sort, reason, text, source) in expected {
        let is = |e: &Value| {
            e["involvedObject"]["kind"] == *kind
                && (&e["type"], &e["reason"], &e["source"]["component"])
                    == (&json!(sort), &json!(reason), &json!(source))
                && e["message"].as_str().is_some_and(|m| m.starts_with(text))
        };
        let any = |list: &Value| list["items"].as_array().into_iter().flatten().any(is);
        world.eventually(&format!("{kind} tells {reason}: {text}"), EVENTS, any).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stateful_set_tells_of_pods_and_claims() {
    let world = World::start(&["statefulset-controller"]).await;
    world.play_kubelet(running);
    const SETS: &str = "/apis/apps/v1/namespaces/default/statefulsets";
    world.create(SETS, stateful::set("db", 1, |_| ())).await;
    let path = format!("{SETS}/db");
    let set = world.eventually("it runs", &path, |s| s["status"]["readyReplicas"] == 1).await;
    assert_eq!(set["status"]["collisionCount"], 0);
    world.merge(&path, json!({"spec": {"replicas": 0}})).await;
    let of = "statefulset-controller";
    let expected = [
        ("StatefulSet", "Normal", "SuccessfulCreate", "create Claim data-db-0 Pod db-0 in StatefulSet db success", of),
        ("StatefulSet", "Normal", "SuccessfulCreate", "create Pod db-0 in StatefulSet db successful", of),
        ("StatefulSet", "Normal", "SuccessfulDelete", "delete Pod db-0 in StatefulSet db successful", of),
    ];
    told(&world, &expected).await;
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stateful_set_tells_what_it_waits_for() {
    let world = World::start(&["statefulset-controller"]).await;
    const CLAIMS: &str = "/api/v1/namespaces/default/persistentvolumeclaims";
    // Somebody holds the claim of a pod that is to come.
    let claim = json!({"apiVersion": "v1", "kind": "PersistentVolumeClaim",
        "metadata": {"name": "data-db-0", "finalizers": ["example.com/held"]},
        "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Mi"}}}});
    world.create(CLAIMS, claim).await;
    world.delete(&format!("{CLAIMS}/data-db-0"), DeleteOptions::default()).await;
    world.create("/apis/apps/v1/namespaces/default/statefulsets", stateful::set("db", 1, |_| ())).await;
    let text = "create Pod db-0 in StatefulSet db failed error: pvc data-db-0 is being deleted";
    told(&world, &[("StatefulSet", "Warning", "FailedCreate", text, "statefulset-controller")]).await;
    world.merge(&format!("{CLAIMS}/data-db-0"), json!({"metadata": {"finalizers": null}})).await;
    world.count("then it comes", "/api/v1/namespaces/default/pods", 1).await;
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_daemon_set_tells_of_pods_that_ended() {
    let world = World::start(&["daemonset-controller"]).await;
    // They fail, as those that a node refuses do.
    world.play_kubelet(|_| ended(1));
    world.create("/api/v1/nodes", json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "a"}})).await;
    let body = json!({"apiVersion": "apps/v1", "kind": "DaemonSet", "metadata": {"name": "agent"},
        "spec": {"selector": {"matchLabels": {"app": "agent"}},
            "template": {"metadata": {"labels": {"app": "agent"}}, "spec": {
                "terminationGracePeriodSeconds": 0, "tolerations": [{"operator": "Exists"}],
                "containers": [{"name": "c", "image": "one"}]}}}});
    world.create("/apis/apps/v1/namespaces/default/daemonsets", body).await;
    let of = "daemonset-controller";
    let expected = [
        ("DaemonSet", "Normal", "SuccessfulCreate", "Created pod: agent-", of),
        ("DaemonSet", "Warning", "FailedDaemonPod", "Found failed daemon pod default/agent-", of),
        ("DaemonSet", "Normal", "SuccessfulDelete", "Deleted pod: agent-", of),
    ];
    told(&world, &expected).await;
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn jobs_and_cron_jobs_tell_of_their_ends() {
    let world = World::start(&["job-controller", "cronjob-controller"]).await;
    world.play_kubelet(|pod| match pod["metadata"]["labels"]["fails"].as_str() {
        Some(_) => ended(1),
        None => ended(0),
    });
    const JOBS: &str = "/apis/batch/v1/namespaces/default/jobs";
    world.create(JOBS, jobs::job("good", |_| ())).await;
    let bad = jobs::job("bad", |j| {
        j["spec"]["backoffLimit"] = 0.into();
        j["spec"]["template"]["metadata"]["labels"] = json!({"fails": "always"});
    });
    world.create(JOBS, bad).await;
    world.create(JOBS, jobs::job("later", |j| j["spec"]["suspend"] = true.into())).await;
    let cron = json!({"apiVersion": "batch/v1", "kind": "CronJob", "metadata": {"name": "cron"},
        "spec": {"schedule": "@every 1s", "successfulJobsHistoryLimit": 0, "jobTemplate": {"spec": {
            "template": {"spec": {"restartPolicy": "Never", "containers": [{"name": "c", "image": "i"}]}}}}}});
    world.create("/apis/batch/v1/namespaces/default/cronjobs", cron).await;
    let (of, by) = ("job-controller", "cronjob-controller");
    told(&world, &[("Job", "Normal", "Suspended", "Job suspended", of)]).await;
    world.merge(&format!("{JOBS}/later"), json!({"spec": {"suspend": false}})).await;
    let expected = [
        ("Job", "Normal", "SuccessfulCreate", "Created pod: good-", of),
        ("Job", "Normal", "Completed", "Job completed", of),
        ("Job", "Warning", "BackoffLimitExceeded", "Job has reached the specified backoff limit", of),
        ("Job", "Normal", "Resumed", "Job resumed", of),
        ("CronJob", "Normal", "SuccessfulCreate", "Created job cron-", by),
        ("CronJob", "Normal", "SawCompletedJob", "Saw completed job: cron-", by),
        ("CronJob", "Normal", "SuccessfulDelete", "Deleted job cron-", by),
    ];
    told(&world, &expected).await;
    world.stop().await;
}
