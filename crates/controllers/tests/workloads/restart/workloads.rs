//! Workloads: pods and what makes, counts, scales and removes them.

use orkd_reconcile::Propagation::{Background, Foreground, Orphan};
use serde_json::{Value, json};

use super::{Change, Do, Scenario, Until, scenarios};
use crate::world::ended;
use crate::{jobs, stateful};

scenarios! {
    a_job_counts_exactly_once,
    an_indexed_job_with_failures_counts_exactly_once,
    a_job_that_has_ended_goes_after_its_time,
    a_cron_job_runs_once,
    a_deployment_rolls,
    a_stateful_set_rolls,
    a_daemon_set_rolls,
    a_deployment_goes_with_all_it_owns,
    a_deployment_goes_before_what_it_owns,
    a_deployment_leaves_orphans,
    a_replication_controller_keeps_its_pods_and_a_budget_counts_them,
    a_stateful_set_takes_over_what_another_left_behind,
    a_daemon_set_takes_over_what_another_left_behind,
    an_autoscaler_keeps_the_bounds,
}

fn is_complete(job: &Value) -> bool {
    let conditions = job["status"]["conditions"].as_array();
    conditions.into_iter().flatten().any(|c| matches!(c["type"].as_str(), Some("Complete" | "Failed")))
}

fn template(app: &str, image: &str) -> Value {
    json!({"metadata": {"labels": {"app": app}},
        "spec": {"terminationGracePeriodSeconds": 0, "containers": [{"name": "c", "image": image}]}})
}

fn deployment(name: &str, replicas: u32) -> Value {
    json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": name},
        "spec": {"replicas": replicas, "selector": {"matchLabels": {"app": name}}, "template": template(name, "one")}})
}

/// Another image for all pods.
fn two() -> Change {
    Change::Merge(json!({"spec": {"template": {"spec": {"containers": [{"name": "c", "image": "two"}]}}}}))
}

fn a_job_counts_exactly_once() -> Scenario {
    Scenario {
        controllers: &["job-controller"],
        kubelet: |_| ended(0),
        objects: vec![("batch/v1:jobs", jobs::job("sum", |_| ()))],
        story: vec![Until("batch/v1:jobs/sum", is_complete)],
        compared: &["batch/v1:jobs", "pods"],
        ..Scenario::default()
    }
}

fn an_indexed_job_with_failures_counts_exactly_once() -> Scenario {
    let body = jobs::job("indexed", |j| {
        j["spec"]["completionMode"] = "Indexed".into();
        j["spec"]["backoffLimitPerIndex"] = 1.into();
    });
    Scenario {
        controllers: &["job-controller"],
        kubelet: |p| ended(i32::from(p["metadata"]["annotations"]["batch.kubernetes.io/job-completion-index"] == "1")),
        objects: vec![("batch/v1:jobs", body)],
        story: vec![Until("batch/v1:jobs/indexed", is_complete)],
        compared: &["batch/v1:jobs", "pods"],
        ..Scenario::default()
    }
}

fn a_job_that_has_ended_goes_after_its_time() -> Scenario {
    Scenario {
        controllers: &["job-controller", "ttl-after-finished-controller", "garbage-collector-controller"],
        kubelet: |_| ended(0),
        objects: vec![("batch/v1:jobs", jobs::job("short", |j| j["spec"]["ttlSecondsAfterFinished"] = 0.into()))],
        story: vec![Until("batch/v1:jobs/short", Value::is_null)],
        compared: &["batch/v1:jobs", "pods"],
        ..Scenario::default()
    }
}

fn a_cron_job_runs_once() -> Scenario {
    let body = json!({
        "apiVersion": "batch/v1", "kind": "CronJob", "metadata": {"name": "cron"},
        "spec": {"schedule": "@every 1s", "concurrencyPolicy": "Forbid", "jobTemplate": {"spec": {
            "template": {"spec": {"restartPolicy": "Never", "containers": [{"name": "c", "image": "i"}]}}}}},
    });
    Scenario {
        controllers: &["cronjob-controller", "job-controller"],
        objects: vec![("batch/v1:cronjobs", body)],
        story: vec![Until("batch/v1:cronjobs/cron", |c| {
            c["status"]["active"].as_array().is_some_and(|a| a.len() == 1)
                && c["status"]["lastScheduleTime"].is_string()
        })],
        compared: &["batch/v1:cronjobs", "pods"],
        ..Scenario::default()
    }
}

fn a_deployment_rolls() -> Scenario {
    Scenario {
        controllers: &["deployment-controller", "replicaset-controller"],
        objects: vec![("apps/v1:deployments", deployment("web", 2))],
        story: vec![
            Until("apps/v1:deployments/web", |d| d["status"]["availableReplicas"] == 2),
            Do("apps/v1:deployments/web", two()),
            Until("apps/v1:deployments/web", |d| {
                d["status"]["observedGeneration"] == d["metadata"]["generation"]
                    && d["status"]["updatedReplicas"] == 2
                    && d["status"]["replicas"] == 2
                    && d["status"]["availableReplicas"] == 2
            }),
        ],
        compared: &["apps/v1:deployments", "apps/v1:replicasets", "pods"],
        ..Scenario::default()
    }
}

fn a_stateful_set_rolls() -> Scenario {
    Scenario {
        controllers: &["statefulset-controller"],
        objects: vec![("apps/v1:statefulsets", stateful::set("db", 2, |_| ()))],
        story: vec![
            Until("apps/v1:statefulsets/db", |s| s["status"]["readyReplicas"] == 2),
            Do("apps/v1:statefulsets/db", two()),
            Until("apps/v1:statefulsets/db", |s| {
                s["status"]["observedGeneration"] == s["metadata"]["generation"]
                    && s["status"]["updatedReplicas"] == 2
                    && s["status"]["readyReplicas"] == 2
                    && s["status"]["currentRevision"] == s["status"]["updateRevision"]
            }),
        ],
        compared: &["apps/v1:statefulsets", "apps/v1:controllerrevisions", "pods", "persistentvolumeclaims"],
        ..Scenario::default()
    }
}

/// The story of a set of two pods that goes and leaves all behind, and is there again.
fn left_behind(collection: &'static str, path: &'static str, set: &Value) -> Vec<super::Step> {
    fn is_owned(revisions: &Value) -> bool {
        let items = revisions["items"].as_array();
        items.is_some_and(|i| i.len() == 1 && i[0]["metadata"]["ownerReferences"].is_array())
    }
    fn are_owned(pods: &Value) -> bool {
        let items = pods["items"].as_array();
        items.is_some_and(|i| i.len() == 2 && i.iter().all(|p| p["metadata"]["ownerReferences"].is_array()))
    }
    let all_there: super::Right = |s| {
        let status = &s["status"];
        status["updatedReplicas"] == 2 && status["readyReplicas"] == 2
            || status["updatedNumberScheduled"] == 2 && status["numberReady"] == 2
    };
    vec![
        Until(path, all_there),
        Do(path, Change::Delete(Orphan)),
        Until(path, Value::is_null),
        Do(collection, Change::Make(set.clone())),
        Until(path, all_there),
        Until("apps/v1:controllerrevisions", is_owned),
        Until("pods", are_owned),
    ]
}

fn a_stateful_set_takes_over_what_another_left_behind() -> Scenario {
    let set = stateful::set("db", 2, |_| ());
    let mut story = left_behind("apps/v1:statefulsets", "apps/v1:statefulsets/db", &set);
    // Nothing is made anew.
    let mark = json!({"metadata": {"annotations": {"kept": "yes"}}});
    story.insert(1, Do("pods/db-0", Change::Merge(mark.clone())));
    story.insert(2, Do("pods/db-1", Change::Merge(mark)));
    fn is_kept(pod: &Value) -> bool {
        pod["metadata"]["annotations"]["kept"] == "yes" && pod["metadata"]["deletionTimestamp"].is_null()
    }
    story.extend([Until("pods/db-0", is_kept), Until("pods/db-1", is_kept)]);
    Scenario {
        controllers: &["statefulset-controller", "garbage-collector-controller"],
        objects: vec![("apps/v1:statefulsets", set)],
        story,
        compared: &["apps/v1:statefulsets", "apps/v1:controllerrevisions", "pods"],
        ..Scenario::default()
    }
}

fn a_daemon_set_takes_over_what_another_left_behind() -> Scenario {
    let mut template = template("agent", "one");
    template["spec"]["tolerations"] = json!([{"operator": "Exists"}]);
    let set = json!({"apiVersion": "apps/v1", "kind": "DaemonSet", "metadata": {"name": "agent"},
        "spec": {"selector": {"matchLabels": {"app": "agent"}}, "template": template}});
    let node = |n: &str| {
        let name = format!("{n}-NAMESPACE");
        ("/api/v1/nodes", json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name}}))
    };
    Scenario {
        controllers: &["daemonset-controller", "garbage-collector-controller"],
        story: left_behind("apps/v1:daemonsets", "apps/v1:daemonsets/agent", &set),
        objects: vec![node("a"), node("b"), ("apps/v1:daemonsets", set)],
        compared: &["apps/v1:daemonsets", "apps/v1:controllerrevisions", "pods"],
        ..Scenario::default()
    }
}

fn a_daemon_set_rolls() -> Scenario {
    let mut template = template("agent", "one");
    // New nodes are tainted until they are ready.
    template["spec"]["tolerations"] = json!([{"operator": "Exists"}]);
    let body = json!({"apiVersion": "apps/v1", "kind": "DaemonSet", "metadata": {"name": "agent"},
        "spec": {"selector": {"matchLabels": {"app": "agent"}}, "template": template}});
    let node = |n: &str| {
        let name = format!("{n}-NAMESPACE");
        ("/api/v1/nodes", json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name}}))
    };
    Scenario {
        controllers: &["daemonset-controller"],
        objects: vec![node("a"), node("b"), ("apps/v1:daemonsets", body)],
        story: vec![
            Until("apps/v1:daemonsets/agent", |d| d["status"]["numberAvailable"] == 2),
            Do("apps/v1:daemonsets/agent", two()),
            Until("apps/v1:daemonsets/agent", |d| {
                d["status"]["observedGeneration"] == d["metadata"]["generation"]
                    && d["status"]["updatedNumberScheduled"] == 2
                    && d["status"]["numberAvailable"] == 2
            }),
        ],
        compared: &["apps/v1:daemonsets", "apps/v1:controllerrevisions", "pods"],
        ..Scenario::default()
    }
}

/// A deployment of two pods that goes, by a policy; and what is so then.
fn goes(policy: orkd_reconcile::Propagation, then: Vec<super::Step>) -> Scenario {
    let mut story = vec![
        Until("apps/v1:deployments/web", |d| d["status"]["availableReplicas"] == 2),
        Do("apps/v1:deployments/web", Change::Delete(policy)),
        Until("apps/v1:deployments/web", Value::is_null),
    ];
    story.extend(then);
    Scenario {
        controllers: &["deployment-controller", "replicaset-controller", "garbage-collector-controller"],
        objects: vec![("apps/v1:deployments", deployment("web", 2))],
        story,
        compared: &["apps/v1:deployments", "apps/v1:replicasets", "pods"],
        ..Scenario::default()
    }
}

fn is_empty(list: &Value) -> bool {
    list["items"].as_array().is_some_and(Vec::is_empty)
}

fn a_deployment_goes_with_all_it_owns() -> Scenario {
    goes(Background, vec![Until("apps/v1:replicasets", is_empty), Until("pods", is_empty)])
}

fn a_deployment_goes_before_what_it_owns() -> Scenario {
    goes(Foreground, Vec::new())
}

fn a_deployment_leaves_orphans() -> Scenario {
    goes(Orphan, Vec::new())
}

fn a_replication_controller_keeps_its_pods_and_a_budget_counts_them() -> Scenario {
    let body = json!({"apiVersion": "v1", "kind": "ReplicationController", "metadata": {"name": "old"},
        "spec": {"replicas": 2, "selector": {"app": "old"}, "template": template("old", "one")}});
    let budget = json!({"apiVersion": "policy/v1", "kind": "PodDisruptionBudget", "metadata": {"name": "one"},
        "spec": {"minAvailable": 1, "selector": {"matchLabels": {"app": "old"}}}});
    Scenario {
        controllers: &["replication-controller", "disruption-controller"],
        objects: vec![("replicationcontrollers", body), ("policy/v1:poddisruptionbudgets", budget)],
        story: vec![
            Until("policy/v1:poddisruptionbudgets/one", |b| b["status"]["currentHealthy"] == 2),
            Do("replicationcontrollers/old", Change::Merge(json!({"spec": {"replicas": 3}}))),
            Until("policy/v1:poddisruptionbudgets/one", |b| {
                b["status"]["currentHealthy"] == 3 && b["status"]["disruptionsAllowed"] == 2
            }),
        ],
        compared: &["replicationcontrollers", "policy/v1:poddisruptionbudgets", "pods"],
        ..Scenario::default()
    }
}

fn an_autoscaler_keeps_the_bounds() -> Scenario {
    let scaler = json!({"apiVersion": "autoscaling/v2", "kind": "HorizontalPodAutoscaler", "metadata": {"name": "web"},
        "spec": {"scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "web"},
            "minReplicas": 3, "maxReplicas": 5,
            "metrics": [{"type": "Resource", "resource": {"name": "cpu",
                "target": {"type": "Utilization", "averageUtilization": 50}}}]}});
    const SCALER: &str = "autoscaling/v2:horizontalpodautoscalers/web";
    Scenario {
        controllers: &["horizontal-pod-autoscaler-controller", "deployment-controller", "replicaset-controller"],
        objects: vec![
            ("apps/v1:deployments", deployment("web", 1)),
            ("autoscaling/v2:horizontalpodautoscalers", scaler),
        ],
        story: vec![
            Until("apps/v1:deployments/web", |d| d["status"]["availableReplicas"] == 3),
            Do(SCALER, Change::Merge(json!({"spec": {"minReplicas": 1, "maxReplicas": 2}}))),
            Until("apps/v1:deployments/web", |d| d["status"]["replicas"] == 2),
        ],
        compared: &["apps/v1:deployments", "apps/v1:replicasets", "pods"],
        ..Scenario::default()
    }
}
