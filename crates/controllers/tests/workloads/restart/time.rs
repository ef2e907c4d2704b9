//! What time brings about: schedules, deadlines, back-offs, and what is given up after a while.

use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use orkd_reconcile::Propagation::Background;
use serde_json::{Value, json};

use super::{Change, Do, Meanwhile, Pass, Repeat, Scenario, Until, scenarios};
use crate::world::{ended, failed_now};
use crate::{jobs, stateful};

scenarios! {
    a_cron_job_serves_its_times_and_keeps_its_history,
    a_cron_job_replaces_what_runs,
    a_cron_job_waits_for_what_runs,
    a_job_has_a_deadline,
    a_job_waits_longer_with_each_failure,
    a_job_is_kept_for_its_time,
    a_rollout_that_does_not_progress_says_so,
    pods_of_a_deployment_are_available_after_a_while,
    pods_of_a_replication_controller_are_available_after_a_while,
    pods_of_a_stateful_set_are_available_after_a_while,
    pods_of_a_daemon_set_are_available_after_a_while,
    a_silent_node_is_tainted,
    pods_tolerate_a_taint_for_a_while,
    pods_tolerate_a_taint_of_their_device_for_a_while,
    pods_of_a_node_that_is_gone_go_after_a_while,
    a_request_for_a_certificate_is_not_kept_for_ever,
    a_bootstrap_token_expires,
    a_volume_leaves_a_silent_node_after_a_while,
    a_pod_that_was_to_be_disrupted_and_is_still_there_counts_again,
    an_autoscaler_waits_before_it_takes_away,
}

const YEAR: Duration = Duration::from_secs(366 * 86_400);

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn has(object: &Value, kind: &str, status: &str, reason: &str) -> bool {
    let conditions = object["status"]["conditions"].as_array();
    conditions.into_iter().flatten().any(|c| c["type"] == kind && c["status"] == status && c["reason"] == reason)
}

fn items(list: &Value) -> impl Iterator<Item = &Value> {
    list["items"].as_array().into_iter().flatten()
}

fn template(app: &str) -> Value {
    json!({"metadata": {"labels": {"app": app}},
        "spec": {"terminationGracePeriodSeconds": 0, "containers": [{"name": "c", "image": "one"}]}})
}

/// A cron job whose time comes once a year.
fn yearly(policy: &str) -> (&'static str, Value) {
    let body = json!({
        "apiVersion": "batch/v1", "kind": "CronJob", "metadata": {"name": "cron"},
        "spec": {"schedule": "@yearly", "concurrencyPolicy": policy, "successfulJobsHistoryLimit": 1,
            "jobTemplate": {"spec": {"template": {"spec": {"restartPolicy": "Never",
                "containers": [{"name": "c", "image": "i"}]}}}}}});
    ("batch/v1:cronjobs", body)
}

const CRON: &str = "batch/v1:cronjobs/cron";

fn a_cron_job_serves_its_times_and_keeps_its_history() -> Scenario {
    fn is_served(cron: &Value) -> bool {
        cron["status"]["lastSuccessfulTime"].is_string() && cron["status"]["active"].is_null()
    }
    Scenario {
        controllers: &["cronjob-controller", "job-controller"],
        kubelet: |_| ended(0),
        objects: vec![yearly("Allow")],
        story: vec![
            Pass(YEAR),
            Until(CRON, is_served),
            Do(CRON, Change::Merge(json!({"metadata": {"annotations": {"first": "served"}}}))),
            Pass(YEAR),
            // The first job goes when the second has ended.
            Until("pods", |list| items(list).count() == 2),
            Until("batch/v1:jobs", |list| {
                let done = |job: &&Value| has(job, "Complete", "True", "CompletionsReached");
                items(list).count() == 1 && items(list).filter(done).count() == 1
            }),
            Until(CRON, is_served),
        ],
        compared: &["batch/v1:cronjobs", "batch/v1:jobs"],
        ..Scenario::default()
    }
}

/// Of two times of a cron job whose jobs run for ever, and what is so after the second.
fn overlapping(policy: &str, then: super::Step) -> Scenario {
    Scenario {
        controllers: &["cronjob-controller", "job-controller"],
        objects: vec![yearly(policy)],
        story: vec![
            Pass(YEAR),
            Until("batch/v1:jobs", |list| items(list).any(|j| j["status"]["ready"] == 1)),
            Until(CRON, |c| c["status"]["active"].as_array().is_some_and(|a| a.len() == 1)),
            Pass(YEAR),
            then,
            Until("batch/v1:jobs", |list| items(list).count() == 1 && items(list).all(|j| j["status"]["ready"] == 1)),
        ],
        compared: &["batch/v1:cronjobs", "batch/v1:jobs"],
        ..Scenario::default()
    }
}

fn a_cron_job_replaces_what_runs() -> Scenario {
    /// Whether the second time was served.
    fn is_second(cron: &Value) -> bool {
        let year = |time: &Value| time.as_str().and_then(|t| t.get(..4)?.parse::<i32>().ok()).unwrap_or(0);
        year(&cron["status"]["lastScheduleTime"]) == year(&cron["metadata"]["creationTimestamp"]) + 2
    }
    overlapping("Replace", Until(CRON, is_second))
}

fn a_cron_job_waits_for_what_runs() -> Scenario {
    overlapping("Forbid", Until("events", |list| items(list).any(|e| e["reason"] == "JobAlreadyActive")))
}

const JOBS: &str = "batch/v1:jobs";

fn a_job_has_a_deadline() -> Scenario {
    let body = jobs::job("long", |j| j["spec"]["activeDeadlineSeconds"] = 600.into());
    Scenario {
        controllers: &["job-controller"],
        objects: vec![(JOBS, body)],
        story: vec![
            Until("batch/v1:jobs/long", |j| j["status"]["ready"] == 2 && j["status"]["startTime"].is_string()),
            Pass(seconds(601)),
            Until("batch/v1:jobs/long", |j| has(j, "Failed", "True", "DeadlineExceeded")),
            Until("pods", |list| items(list).count() == 0),
        ],
        compared: &[JOBS, "pods"],
        ..Scenario::default()
    }
}

fn a_job_waits_longer_with_each_failure() -> Scenario {
    let body = jobs::job("broken", |j| {
        j["spec"] = json!({"backoffLimit": 3, "template": j["spec"]["template"]});
    });
    Scenario {
        controllers: &["job-controller"],
        kubelet: |_| failed_now(),
        objects: vec![(JOBS, body)],
        story: vec![Meanwhile(seconds(1), "batch/v1:jobs/broken", |j| {
            has(j, "Failed", "True", "BackoffLimitExceeded")
        })],
        compared: &[JOBS, "pods"],
        ..Scenario::default()
    }
}

fn a_job_is_kept_for_its_time() -> Scenario {
    Scenario {
        controllers: &["job-controller", "ttl-after-finished-controller", "garbage-collector-controller"],
        kubelet: |_| ended(0),
        objects: vec![(JOBS, jobs::job("done", |j| j["spec"]["ttlSecondsAfterFinished"] = 3600.into()))],
        story: vec![
            Until("batch/v1:jobs/done", |j| has(j, "Complete", "True", "CompletionsReached")),
            Pass(seconds(3601)),
            Until("batch/v1:jobs/done", Value::is_null),
            Until("pods", |list| items(list).count() == 0),
        ],
        compared: &[JOBS, "pods"],
        ..Scenario::default()
    }
}

fn a_rollout_that_does_not_progress_says_so() -> Scenario {
    let body = json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web"},
        "spec": {"replicas": 2, "progressDeadlineSeconds": 600, "selector": {"matchLabels": {"app": "web"}},
            "template": template("web")}});
    const WEB: &str = "apps/v1:deployments/web";
    Scenario {
        controllers: &["deployment-controller", "replicaset-controller"],
        kubelet: |_| None,
        objects: vec![("apps/v1:deployments", body)],
        story: vec![
            Until(WEB, |d| d["status"]["unavailableReplicas"] == 2),
            Meanwhile(seconds(60), WEB, |d| has(d, "Progressing", "False", "ProgressDeadlineExceeded")),
        ],
        compared: &["apps/v1:deployments", "apps/v1:replicasets", "pods"],
        ..Scenario::default()
    }
}

/// A workload of two pods that are ready and become available in ten minutes; `count` says how many are.
fn available(
    controllers: &'static [&'static str],
    collection: &'static str,
    path: &'static str,
    mut body: Value,
    ready: super::Right,
    count: super::Right,
) -> Scenario {
    body["spec"]["minReadySeconds"] = 600.into();
    let nodes = ["a-NAMESPACE", "b-NAMESPACE"]
        .map(|name| ("/api/v1/nodes", json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name}})));
    let mut objects = Vec::from(nodes);
    objects.push((collection, body));
    Scenario {
        controllers,
        objects,
        story: vec![Until(path, ready), Pass(seconds(601)), Until(path, count)],
        compared: match collection {
            "apps/v1:statefulsets" => &["apps/v1:statefulsets", "pods"],
            "apps/v1:daemonsets" => &["apps/v1:daemonsets", "pods"],
            "replicationcontrollers" => &["replicationcontrollers", "pods"],
            _ => &["apps/v1:deployments", "apps/v1:replicasets", "pods"],
        },
        ..Scenario::default()
    }
}

fn is_ready(set: &Value) -> bool {
    set["status"]["readyReplicas"] == 2 && set["status"]["availableReplicas"].as_i64().unwrap_or(0) == 0
}

fn is_available(set: &Value) -> bool {
    set["status"]["availableReplicas"] == 2
}

fn pods_of_a_deployment_are_available_after_a_while() -> Scenario {
    let body = json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web"},
        "spec": {"replicas": 2, "progressDeadlineSeconds": 1000, "selector": {"matchLabels": {"app": "web"}},
            "template": template("web")}});
    available(
        &["deployment-controller", "replicaset-controller"],
        "apps/v1:deployments",
        "apps/v1:deployments/web",
        body,
        is_ready,
        is_available,
    )
}

fn pods_of_a_replication_controller_are_available_after_a_while() -> Scenario {
    let body = json!({"apiVersion": "v1", "kind": "ReplicationController", "metadata": {"name": "old"},
        "spec": {"replicas": 2, "selector": {"app": "old"}, "template": template("old")}});
    available(
        &["replication-controller"],
        "replicationcontrollers",
        "replicationcontrollers/old",
        body,
        is_ready,
        is_available,
    )
}

fn pods_of_a_stateful_set_are_available_after_a_while() -> Scenario {
    // The second pod waits until the first is available.
    let body = stateful::set("db", 2, |s| s["spec"]["podManagementPolicy"] = "Parallel".into());
    let path = "apps/v1:statefulsets/db";
    available(&["statefulset-controller"], "apps/v1:statefulsets", path, body, is_ready, is_available)
}

fn pods_of_a_daemon_set_are_available_after_a_while() -> Scenario {
    let mut template = template("agent");
    template["spec"]["tolerations"] = json!([{"operator": "Exists"}]);
    let body = json!({"apiVersion": "apps/v1", "kind": "DaemonSet", "metadata": {"name": "agent"},
        "spec": {"selector": {"matchLabels": {"app": "agent"}}, "template": template}});
    available(
        &["daemonset-controller"],
        "apps/v1:daemonsets",
        "apps/v1:daemonsets/agent",
        body,
        |d| d["status"]["numberReady"] == 2 && d["status"]["numberAvailable"].as_i64().unwrap_or(0) == 0,
        |d| d["status"]["numberAvailable"] == 2,
    )
}

fn node(name: &str) -> (&'static str, Value) {
    ("/api/v1/nodes", json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name}}))
}

fn pod(name: &str, spec: Value) -> (&'static str, Value) {
    let mut pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "labels": {"app": "web"}},
        "spec": {"nodeName": "a-NAMESPACE", "automountServiceAccountToken": false, "terminationGracePeriodSeconds": 0,
            "tolerations": [{"operator": "Exists"}], "containers": [{"name": "c", "image": "i"}]}});
    pod["spec"].as_object_mut().expect("a spec").extend(spec.as_object().cloned().unwrap_or_default());
    ("pods", pod)
}

fn report(status: &str) -> Value {
    json!({"status": {"conditions": [{"type": "Ready", "status": status, "reason": "KubeletReady",
        "lastHeartbeatTime": "NOW", "lastTransitionTime": "NOW"}]}})
}

fn reports(status: &str) -> Change {
    Change::Merge(report(status))
}

const A: &str = "/api/v1/nodes/a-NAMESPACE";

fn a_silent_node_is_tainted() -> Scenario {
    fn is_free(node: &Value) -> bool {
        node["spec"]["taints"].as_array().is_none_or(Vec::is_empty)
    }
    let mut story = vec![
        Do("/api/v1/nodes/a-NAMESPACE/status", reports("True")),
        Do("/api/v1/nodes/b-NAMESPACE/status", reports("True")),
        Until(A, is_free),
        Until("/api/v1/nodes/b-NAMESPACE", is_free),
        Until("pods/web", |p| p["status"]["conditions"][0]["status"] == "True"),
    ];
    // A controller that was started anew meanwhile waits for the whole grace. The other node goes on reporting: if it was
    // taken for silent too, because its report was on the way when time passed, the next one says otherwise.
    for _ in 0..4 {
        story.push(Pass(seconds(40)));
        story.push(Do("/api/v1/nodes/b-NAMESPACE/status", reports("True")));
    }
    story.extend([
        Repeat("/api/v1/nodes/b-NAMESPACE/status", report("True"), A, |n| {
            let taints = n["spec"]["taints"].as_array();
            let unreachable = |t: &&Value| t["key"] == "node.kubernetes.io/unreachable";
            taints.into_iter().flatten().filter(unreachable).count() == 2
        }),
        Until(A, |n| has(n, "Ready", "Unknown", "NodeStatusUnknown")),
        Until("pods/web", |p| p["status"]["conditions"][0]["status"] == "False"),
        Repeat("/api/v1/nodes/a-NAMESPACE/status", report("True"), A, is_free),
    ]);
    Scenario {
        controllers: &["node-lifecycle-controller"],
        objects: vec![node("a-NAMESPACE"), node("b-NAMESPACE"), pod("web", json!({}))],
        story,
        compared: &[A, "pods"],
        ..Scenario::default()
    }
}

fn pods_tolerate_a_taint_for_a_while() -> Scenario {
    let tolerating = |seconds: u64| {
        json!({"tolerations": [{"key": "broken", "operator": "Exists", "effect": "NoExecute",
            "tolerationSeconds": seconds}]})
    };
    let taint = json!({"spec": {"taints": [{"key": "broken", "effect": "NoExecute", "timeAdded": "NOW"}]}});
    Scenario {
        controllers: &["taint-eviction-controller"],
        objects: vec![
            node("a-NAMESPACE"),
            pod("short", tolerating(300)),
            pod("long", tolerating(7200)),
            pod("stays", json!({})),
        ],
        story: vec![
            Do(A, Change::Merge(taint)),
            Pass(seconds(301)),
            Until("pods/short", Value::is_null),
            Until("pods/long", Value::is_object),
            Pass(seconds(7200)),
            Until("pods/long", Value::is_null),
        ],
        compared: &["pods"],
        ..Scenario::default()
    }
}

fn pods_tolerate_a_taint_of_their_device_for_a_while() -> Scenario {
    const CLAIMS: &str = "resource.k8s.io/v1:resourceclaims";
    const SLICE: &str = "/apis/resource.k8s.io/v1/resourceslices/slice-NAMESPACE";
    fn is_reserved(claim: &Value) -> bool {
        claim["status"]["reservedFor"].as_array().is_some_and(|r| r.len() == 1)
    }
    let claim = |name: &str| {
        json!({"apiVersion": "resource.k8s.io/v1", "kind": "ResourceClaim", "metadata": {"name": name},
            "spec": {"devices": {"requests": [{"name": "r", "exactly": {"deviceClassName": "gpu"}}]}}})
    };
    let user = |claim: &'static str| {
        let claims = json!({"resourceClaims": [{"name": "g", "resourceClaimName": claim}]});
        pod(claim, claims)
    };
    // The scheduler is played, and sends the pods past it; the controller of claims reserves.
    let allocated = |device: &str, seconds: Option<u64>| {
        let toleration = json!({"operator": "Exists", "effect": "NoExecute", "tolerationSeconds": seconds});
        let result = json!({"request": "r", "driver": "gpu.example.com", "pool": "NAMESPACE", "device": device,
            "tolerations": [toleration]});
        Change::Merge(json!({"status": {"allocation": {"devices": {"results": [result]}}}}))
    };
    let slice = json!({"apiVersion": "resource.k8s.io/v1", "kind": "ResourceSlice",
        "metadata": {"name": "slice-NAMESPACE"}, "spec": {"driver": "gpu.example.com", "nodeName": "a-NAMESPACE",
            "pool": {"name": "NAMESPACE", "generation": 1, "resourceSliceCount": 1},
            "devices": [{"name": "a"}, {"name": "b"}]}});
    let taints = json!([{"key": "broken", "effect": "NoExecute", "timeAdded": "NOW"}]);
    let tainted = json!({"spec": {"devices": [{"name": "a", "taints": taints}, {"name": "b", "taints": taints}]}});
    Scenario {
        controllers: &["device-taint-eviction-controller", "resourceclaim-controller"],
        objects: vec![
            node("a-NAMESPACE"),
            ("/apis/resource.k8s.io/v1/resourceslices", slice),
            (CLAIMS, claim("short")),
            (CLAIMS, claim("stays")),
            user("short"),
            user("stays"),
        ],
        story: vec![
            Do("resource.k8s.io/v1:resourceclaims/short/status", allocated("a", Some(300))),
            Do("resource.k8s.io/v1:resourceclaims/stays/status", allocated("b", None)),
            Until("resource.k8s.io/v1:resourceclaims/short", is_reserved),
            Until("resource.k8s.io/v1:resourceclaims/stays", is_reserved),
            Do(SLICE, Change::Merge(tainted)),
            Pass(seconds(301)),
            Until("pods/short", Value::is_null),
            Until("resource.k8s.io/v1:resourceclaims/short", |c| c["status"]["reservedFor"].is_null()),
            Until("pods/stays", |p| p["metadata"]["deletionTimestamp"].is_null()),
        ],
        compared: &["pods", CLAIMS],
        ..Scenario::default()
    }
}

fn pods_of_a_node_that_is_gone_go_after_a_while() -> Scenario {
    Scenario {
        controllers: &["pod-garbage-collector-controller"],
        objects: vec![node("a-NAMESPACE"), node("b-NAMESPACE"), pod("one", json!({})), pod("two", json!({}))],
        story: vec![Do(A, Change::Delete(Background)), Meanwhile(seconds(10), "pods", |list| items(list).count() == 0)],
        compared: &["pods"],
        ..Scenario::default()
    }
}

fn a_request_for_a_certificate_is_not_kept_for_ever() -> Scenario {
    let key = orkd_pki::Key::generate().expect("a key");
    let pem = orkd_pki::csr::create(&key, &orkd_pki::Profile::client("somebody", &[])).expect("a request");
    let request = |name: &str| {
        json!({"apiVersion": "certificates.k8s.io/v1", "kind": "CertificateSigningRequest", "metadata": {"name": name},
            "spec": {"request": STANDARD.encode(&pem), "usages": ["client auth"], "signerName": "example.com/mine"}})
    };
    const REQUESTS: &str = "/apis/certificates.k8s.io/v1/certificatesigningrequests";
    Scenario {
        controllers: &["certificatesigningrequest-cleaner-controller"],
        objects: vec![(REQUESTS, request("one-NAMESPACE")), (REQUESTS, request("two-NAMESPACE"))],
        story: vec![Pass(seconds(86_401)), Until(REQUESTS, |list| items(list).count() == 0)],
        compared: &[REQUESTS],
        ..Scenario::default()
    }
}

fn a_bootstrap_token_expires() -> Scenario {
    let encode = |text: &str| STANDARD.encode(text);
    // A day is longer than all runs take.
    let tomorrow = orkd_reconcile::time(jiff::Timestamp::now() + seconds(86_400));
    let secret = json!({"apiVersion": "v1", "kind": "Secret", "type": "bootstrap.kubernetes.io/token",
        "metadata": {"name": "bootstrap-token-fedcba"}, "data": {
            "token-id": encode("fedcba"), "token-secret": encode("0123456789abcdef"),
            "usage-bootstrap-signing": encode("true"), "expiration": encode(&tomorrow)}});
    const INFO: &str = "/api/v1/namespaces/kube-public/configmaps/cluster-info";
    Scenario {
        controllers: &["bootstrap-signer-controller", "token-cleaner-controller"],
        objects: vec![("/api/v1/namespaces/kube-system/secrets", secret)],
        story: vec![
            Until(INFO, |m| m["data"]["jws-kubeconfig-fedcba"].is_string()),
            Pass(seconds(86_402)),
            Until("/api/v1/namespaces/kube-system/secrets/bootstrap-token-fedcba", Value::is_null),
            Until(INFO, |m| m["data"]["jws-kubeconfig-fedcba"].is_null()),
        ],
        compared: &[INFO],
        ..Scenario::default()
    }
}

fn a_volume_leaves_a_silent_node_after_a_while() -> Scenario {
    let volume = json!({"apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": "vol-NAMESPACE"},
        "spec": {"accessModes": ["ReadWriteOnce"], "capacity": {"storage": "2Gi"}, "storageClassName": "NAMESPACE",
            "csi": {"driver": "disk.example.com", "volumeHandle": "NAMESPACE"}}});
    let claim = json!({"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": "data"},
        "spec": {"accessModes": ["ReadWriteOnce"], "storageClassName": "NAMESPACE",
            "resources": {"requests": {"storage": "1Gi"}}}});
    let volumes = json!({"volumes": [{"name": "d", "persistentVolumeClaim": {"claimName": "data"}}]});
    const ATTACHMENTS: &str = "/apis/storage.k8s.io/v1/volumeattachments";
    fn is_empty(list: &Value) -> bool {
        items(list).count() == 0
    }
    let in_use = json!({"status": {"volumesInUse": ["kubernetes.io/csi/disk.example.com^NAMESPACE"], "conditions": [
        {"type": "Ready", "status": "Unknown", "reason": "NodeStatusUnknown", "lastTransitionTime": "NOW"}]}});
    Scenario {
        controllers: &["persistentvolume-controller", "attachdetach-controller"],
        objects: vec![
            node("a-NAMESPACE"),
            ("/api/v1/persistentvolumes", volume),
            ("persistentvolumeclaims", claim),
            pod("web", volumes),
        ],
        story: vec![
            Until(A, |n| n["status"]["volumesAttached"][0]["name"].is_string()),
            Do("/api/v1/nodes/a-NAMESPACE/status", Change::Merge(in_use)),
            Do("pods/web", Change::Delete(Background)),
            Until("pods/web", Value::is_null),
            Until(ATTACHMENTS, |list| !is_empty(list)),
            Pass(seconds(361)),
            Until(ATTACHMENTS, is_empty),
        ],
        compared: &[ATTACHMENTS, "persistentvolumeclaims"],
        ..Scenario::default()
    }
}

fn a_pod_that_was_to_be_disrupted_and_is_still_there_counts_again() -> Scenario {
    let budget = json!({"apiVersion": "policy/v1", "kind": "PodDisruptionBudget", "metadata": {"name": "one"},
        "spec": {"minAvailable": 1, "selector": {"matchLabels": {"app": "web"}}}});
    const BUDGET: &str = "policy/v1:poddisruptionbudgets/one";
    let mark = json!({"status": {"conditions": [{"type": "Ready", "status": "True"}, {"type": "DisruptionTarget",
        "status": "True", "reason": "EvictionByEvictionAPI", "lastTransitionTime": "NOW"}]}});
    fn is_marked(pod: &Value) -> bool {
        let conditions = pod["status"]["conditions"].as_array();
        conditions.into_iter().flatten().any(|c| c["type"] == "DisruptionTarget" && c["status"] == "True")
    }
    Scenario {
        controllers: &["disruption-controller"],
        objects: vec![pod("a", json!({})), pod("b", json!({})), ("policy/v1:poddisruptionbudgets", budget)],
        story: vec![
            Until(BUDGET, |b| b["status"]["currentHealthy"] == 2),
            Do("pods/a/status", Change::Merge(mark)),
            Do(
                "policy/v1:poddisruptionbudgets/one/status",
                Change::Merge(json!({"status": {"disruptedPods": {"a": "NOW"}}})),
            ),
            Until(BUDGET, |b| b["status"]["currentHealthy"] == 1),
            Pass(seconds(121)),
            Until("pods/a", |p| !is_marked(p)),
            Until(BUDGET, |b| b["status"]["currentHealthy"] == 2 && b["status"]["disruptedPods"].is_null()),
        ],
        compared: &["policy/v1:poddisruptionbudgets", "pods"],
        ..Scenario::default()
    }
}

fn an_autoscaler_waits_before_it_takes_away() -> Scenario {
    let body = json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web"},
        "spec": {"replicas": 3, "selector": {"matchLabels": {"app": "web"}}, "template": template("web")}});
    let scaler = json!({"apiVersion": "autoscaling/v2", "kind": "HorizontalPodAutoscaler", "metadata": {"name": "web"},
        "spec": {"scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "web"},
            "minReplicas": 1, "maxReplicas": 5,
            "metrics": [{"type": "External", "external": {"metric": {"name": "queue"},
                "target": {"type": "AverageValue", "averageValue": "10"}}}]}});
    let metric = json!({"kind": "ExternalMetricValueList", "apiVersion": "external.metrics.k8s.io/v1beta1",
        "metadata": {}, "items": [{"metricName": "queue", "metricLabels": {}, "value": "10",
            "timestamp": "2026-01-01T00:00:00Z"}]});
    const SCALER: &str = "autoscaling/v2:horizontalpodautoscalers/web";
    const WEB: &str = "apps/v1:deployments/web";
    Scenario {
        controllers: &["horizontal-pod-autoscaler-controller", "deployment-controller", "replicaset-controller"],
        stubs: vec![("/apis/external.metrics.k8s.io/v1beta1/namespaces/NAMESPACE/queue", metric)],
        objects: vec![("apps/v1:deployments", body), ("autoscaling/v2:horizontalpodautoscalers", scaler)],
        story: vec![
            // It may have looked before there were pods.
            Until(WEB, |d| d["status"]["availableReplicas"] == 3),
            Meanwhile(seconds(5), SCALER, |s| has(s, "AbleToScale", "True", "ScaleDownStabilized")),
            Until(WEB, |d| d["spec"]["replicas"] == 3),
            Meanwhile(seconds(15), WEB, |d| d["status"]["replicas"] == 1),
            Meanwhile(seconds(5), SCALER, |s| has(s, "AbleToScale", "True", "ReadyForNewScale")),
            Until(WEB, |d| {
                let count = |name: &str| d["status"][name].as_i64().unwrap_or(0);
                count("readyReplicas") == 1 && count("availableReplicas") == 1 && count("terminatingReplicas") == 0
            }),
        ],
        compared: &["apps/v1:deployments", "apps/v1:replicasets", "pods"],
        ..Scenario::default()
    }
}
