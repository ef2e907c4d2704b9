//! Audit, metrics, health and flow control of a server without a socket.

use std::sync::Arc;

use http_body_util::BodyExt;
use orkd_apiserver::audit::{self, Audit};
use orkd_apiserver::flowcontrol::Control;
use orkd_apiserver::flowcontrol::keeper::Keeper;
use orkd_apiserver::user::{InProcess, UserInfo};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;

use crate::harness::{Cluster, cluster_with, config_map};

const POLICY: &str = r#"
apiVersion: audit.k8s.io/v1
kind: Policy
omitManagedFields: true
rules:
- level: None
  resources: [{group: "", resources: [namespaces]}]
- level: RequestResponse
  verbs: [create, delete, list]
  resources: [{group: "", resources: [configmaps]}]
- level: Request
  verbs: [patch, update]
- level: Metadata
  omitStages: [RequestReceived]
"#;

struct Audited {
    cluster: Cluster,
    path: std::path::PathBuf,
    _dir: tempfile::TempDir,
}

impl Audited {
    async fn new() -> Audited {
        let dir = tempfile::tempdir().expect("directory");
        let path = dir.path().join("audit.log");
        let options =
            audit::Options { policy: Some(POLICY.into()), log: Some(path.clone()), ..audit::Options::default() };
        let audit = Audit::open(options).expect("a good policy");
        Audited { cluster: cluster_with(|b| b.audit(audit)).await, path, _dir: dir }
    }

    /// The events since the last time.
    fn events(&self) -> Vec<Value> {
        let text = std::fs::read_to_string(&self.path).expect("a log");
        std::fs::write(&self.path, "").expect("emptied");
        text.lines().map(|l| serde_json::from_str(l).expect("an event")).collect()
    }

    fn stages(&self) -> Vec<String> {
        let text = |e: &Value, f: &str| e[f].as_str().unwrap_or_default().to_owned();
        self.events().iter().map(|e| format!("{} {}", text(e, "level"), text(e, "stage"))).collect()
    }
}

#[tokio::test]
async fn each_level_writes_what_it_is_to_write() {
    let audited = Audited::new().await;
    let c = &audited.cluster;
    audited.events();
    let url = "/api/v1/namespaces/default/configmaps";
    c.post(url, config_map("a", "1")).await;
    let events = audited.events();
    assert_eq!(events.len(), 2, "{events:?}");
    assert_eq!((&events[0]["stage"], &events[1]["stage"]), (&json!("RequestReceived"), &json!("ResponseComplete")));
    assert_eq!(events[0]["auditID"], events[1]["auditID"]);
    assert!(events[0].get("responseStatus").is_none() && events[0].get("requestObject").is_none());
    let done = &events[1];
    assert_eq!(done["verb"], "create");
    assert_eq!(done["user"], json!({"username": "admin", "groups": ["system:masters", "system:authenticated"]}));
    assert_eq!(
        done["objectRef"],
        json!({"resource": "configmaps", "namespace": "default", "name": "a", "apiVersion": "v1"})
    );
    assert_eq!(done["requestObject"]["data"], json!({"k": "1"}));
    assert_eq!(done["responseObject"]["metadata"]["name"], "a");
    assert!(done["responseObject"]["metadata"].get("managedFields").is_none());
    assert_eq!(done["responseStatus"], json!({"metadata": {}, "code": 201}));
    assert_eq!(done["annotations"]["authorization.k8s.io/decision"], "allow");

    c.patch(&format!("{url}/a"), "application/merge-patch+json", json!({"data": {"k": "2"}})).await;
    let events = audited.events();
    assert_eq!(events[1]["requestObject"], json!({"data": {"k": "2"}}));
    assert!(events[1].get("responseObject").is_none());

    // Protobuf, and a failure.
    c.send("GET", url, b"", &[("accept", "application/vnd.kubernetes.protobuf")]).await;
    let events = audited.events();
    assert_eq!(events[1]["responseObject"]["items"][0]["metadata"]["name"], "a");
    c.get(&format!("{url}/none")).await;
    let events = audited.events();
    assert_eq!(events.len(), 1);
    let status = &events[0]["responseStatus"];
    assert_eq!(
        (&status["code"], &status["reason"], &status["status"]),
        (&json!(404), &json!("NotFound"), &json!("Failure"))
    );
    c.delete(&format!("{url}/a")).await;
    let events = audited.events();
    assert_eq!(events[1]["responseStatus"]["status"], "Success");
    assert_eq!(events[1]["responseStatus"]["details"]["name"], "a");

    c.get("/api/v1/namespaces").await;
    assert!(audited.events().is_empty());
}

#[tokio::test]
async fn what_stays_open_has_a_beginning_and_an_end() {
    let audited = Audited::new().await;
    audited.events();
    let watch = audited.cluster.watch("/api/v1/secrets?watch=1&resourceVersion=0").await;
    assert_eq!(audited.stages(), ["Metadata ResponseStarted"]);
    let text = orkd_apiserver::metrics::text(&audited.cluster.server);
    let open = "apiserver_longrunning_requests{component=\"apiserver\",group=\"\",resource=\"secrets\",scope=\"cluster\",\
                subresource=\"\",verb=\"WATCH\",version=\"v1\"} ";
    let value =
        |text: &str| text.lines().find_map(|l| l.strip_prefix(open)).map(|v| v.parse::<f64>().expect("a number"));
    let before = value(&text).expect("counted");
    drop(watch);
    assert_eq!(audited.stages(), ["Metadata ResponseComplete"]);
    let text = orkd_apiserver::metrics::text(&audited.cluster.server);
    assert_eq!(value(&text), Some(before - 1.0));
}

#[tokio::test]
async fn refused_requests_say_so() {
    let audited = Audited::new().await;
    audited.events();
    let ann = InProcess(UserInfo::new("ann", &[]));
    let request =
        http::Request::get("/api/v1/secrets").extension(ann).body(orkd_apiserver::Body::empty()).expect("request");
    let response = audited.cluster.server.router().oneshot(request).await.expect("infallible");
    assert_eq!(response.status(), 403);
    let events = audited.events();
    assert_eq!(events[0]["annotations"]["authorization.k8s.io/decision"], "forbid");
    assert_eq!(events[0]["responseStatus"]["reason"], "Forbidden");
}

#[tokio::test]
async fn metrics_have_upstreams_names() {
    let c = cluster_with(|b| b).await;
    c.get("/api/v1/namespaces/default/configmaps").await;
    c.get("/readyz").await;
    let response = c.raw("GET", "/metrics", b"", &[]).await;
    assert!(response.headers()["content-type"].to_str().is_ok_and(|t| t.starts_with("text/plain; version=0.0.4")));
    let text = response.into_body().collect().await.expect("body").to_bytes();
    let text = String::from_utf8_lossy(&text);
    for line in [
        "apiserver_request_total{code=\"200\",component=\"apiserver\",dry_run=\"\",group=\"\",resource=\"configmaps\",\
         scope=\"namespace\",subresource=\"\",verb=\"LIST\",version=\"v1\"} ",
        "apiserver_request_duration_seconds_bucket{component=\"apiserver\",dry_run=\"\",group=\"\",resource=\"configmaps\",\
         scope=\"namespace\",subresource=\"\",verb=\"LIST\",version=\"v1\",le=\"0.005\"} ",
        "apiserver_response_sizes_count{component=\"apiserver\",",
        "apiserver_current_inflight_requests{request_kind=\"readOnly\"} ",
        "apiserver_storage_objects{resource=\"configmaps\"} 0",
        "authentication_attempts{result=\"success\"} ",
        "authorization_attempts_total{result=\"allowed\"} ",
        "process_resident_memory_bytes ",
        "kubernetes_build_info{",
    ] {
        assert!(text.contains(line), "{line} is missing in\n{text}");
    }
    let names: std::collections::BTreeSet<&str> = text.lines().filter_map(|l| l.strip_prefix("# TYPE ")).collect();
    assert_eq!(names.len(), text.matches("# TYPE ").count(), "a family is written twice");
    let (_, slis) = c.get("/metrics/slis").await;
    let slis = slis.as_str().expect("text");
    assert!(slis.contains("kubernetes_healthcheck{name=\"etcd\",type=\"readyz\"} 1"), "{slis}");
    assert!(!slis.contains("apiserver_"), "{slis}");
}

#[tokio::test]
async fn health_is_told_check_by_check() {
    let c = cluster_with(|b| b.ready_check("mine", || Err("not yet".into()))).await;
    let (code, text) = c.get("/readyz?verbose&exclude=etcd").await;
    let text = text.as_str().expect("text");
    assert_eq!(code, 500);
    assert!(text.contains("[+]etcd excluded: ok\n") && text.contains("[-]mine failed: reason withheld\n"), "{text}");
    assert!(
        text.contains("[+]poststarthook/rbac/bootstrap-roles ok\n") && text.ends_with("readyz check failed\n"),
        "{text}"
    );
    let (code, text) = c.get("/livez?verbose").await;
    assert_eq!(code, 200);
    assert!(
        text.as_str().is_some_and(
            |t| t.starts_with("[+]ping ok\n[+]log ok\n[+]etcd ok\n") && t.ends_with("livez check passed\n")
        )
    );
    assert_eq!(c.get("/livez/etcd").await, (200, json!("ok")));
    assert_eq!(c.get("/readyz/mine").await, (500, json!("internal server error: not yet\n")));
    assert_eq!(c.get("/readyz/poststarthook/rbac/bootstrap-roles").await.0, 200);
    assert_eq!(c.get("/readyz/nothing").await.0, 404);
}

const FLOW: &str = "/apis/flowcontrol.apiserver.k8s.io/v1";

#[tokio::test]
async fn flow_control_follows_its_objects() {
    let control = Control::new(600);
    let c = cluster_with(|b| b.fairness(Some(control.clone()))).await;
    let keeper = Keeper::new(&c.server, control);
    keeper.prepare().await.expect("the default objects");
    let stop = CancellationToken::new();
    let stopped = stop.clone();
    let task = tokio::spawn(async move { keeper.run(stopped).await });
    let eventually = async |what: &str, probe: &dyn Fn(&Value) -> bool, url: &str| {
        let limit = std::time::Instant::now() + std::time::Duration::from_secs(10);
        loop {
            let (_, seen) = c.get(url).await;
            if probe(&seen) {
                return seen;
            }
            assert!(std::time::Instant::now() < limit, "{what}: {seen}");
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
    };
    // Masters are exempt, and the answer says so.
    let found = |o: &Value| o["status"]["conditions"][0]["reason"] == "Found";
    let schema = eventually("a condition", &found, &format!("{FLOW}/flowschemas/exempt")).await;
    let (_, level) = c.get(&format!("{FLOW}/prioritylevelconfigurations/exempt")).await;
    let response = c.raw("GET", "/api/v1/pods", b"", &[]).await;
    let header = |name: &str| response.headers()[name].to_str().unwrap_or_default().to_owned();
    assert_eq!(header("x-kubernetes-pf-flowschema-uid"), schema["metadata"]["uid"]);
    assert_eq!(header("x-kubernetes-pf-prioritylevel-uid"), level["metadata"]["uid"]);

    // A mandatory object is put right, a suggested one that is gone comes back.
    let spec = json!({"spec": {"limited": {"nominalConcurrencyShares": 77}}});
    let url = format!("{FLOW}/prioritylevelconfigurations/catch-all");
    c.patch(&url, "application/merge-patch+json", spec).await;
    eventually("the level as it was", &|o| o["spec"]["limited"]["nominalConcurrencyShares"] == 5, &url).await;
    let url = format!("{FLOW}/prioritylevelconfigurations/workload-low");
    assert_eq!(c.delete(&url).await.0, 200);
    eventually("the level to be back", &|o| o["spec"]["type"] == "Limited", &url).await;

    // A schema of ours, first without its level.
    let mine = json!({"apiVersion": "flowcontrol.apiserver.k8s.io/v1", "kind": "FlowSchema", "metadata": {"name": "mine"},
        "spec": {"matchingPrecedence": 5, "priorityLevelConfiguration": {"name": "mine"}, "rules": [{"subjects": [
            {"kind": "User", "user": {"name": "ann"}}], "nonResourceRules": [{"verbs": ["*"], "nonResourceURLs": ["*"]}]}]}});
    assert_eq!(c.post(&format!("{FLOW}/flowschemas"), mine).await.0, 201);
    let url = format!("{FLOW}/flowschemas/mine");
    eventually("dangling", &|o| o["status"]["conditions"][0]["status"] == "True", &url).await;
    let level = json!({"apiVersion": "flowcontrol.apiserver.k8s.io/v1", "kind": "PriorityLevelConfiguration",
        "metadata": {"name": "mine"}, "spec": {"type": "Limited", "limited": {"nominalConcurrencyShares": 1,
        "limitResponse": {"type": "Reject"}}}});
    assert_eq!(c.post(&format!("{FLOW}/prioritylevelconfigurations"), level).await.0, 201);
    let schema = eventually("found", &|o| o["status"]["conditions"][0]["status"] == "False", &url).await;
    let ask = async || {
        let ann = InProcess(UserInfo::new("ann", &[]));
        let request =
            http::Request::get("/version").extension(ann).body(orkd_apiserver::Body::empty()).expect("request");
        c.server.router().oneshot(request).await.expect("infallible")
    };
    let limit = std::time::Instant::now() + std::time::Duration::from_secs(10);
    while ask().await.headers()["x-kubernetes-pf-flowschema-uid"]
        != schema["metadata"]["uid"].as_str().unwrap_or_default()
    {
        assert!(std::time::Instant::now() < limit, "the schema is not in force");
        tokio::task::yield_now().await;
    }
    let (_, dump) = c.get("/debug/api_priority_and_fairness/dump_priority_levels").await;
    assert!(dump.as_str().is_some_and(|d| d.contains("mine,")), "{dump}");
    stop.cancel();
    task.await.expect("ends");
}

#[tokio::test]
async fn too_many_requests_are_sent_away() {
    let control = Control::new(600);
    let level = json!({"metadata": {"name": "none", "uid": "l"}, "spec": {"type": "Limited", "limited": {
        "nominalConcurrencyShares": 0, "lendablePercent": 0, "borrowingLimitPercent": 0,
        "limitResponse": {"type": "Reject"}}}});
    let schema = json!({"metadata": {"name": "none", "uid": "s"}, "spec": {"matchingPrecedence": 0,
        "priorityLevelConfiguration": {"name": "none"}, "rules": [{"subjects": [{"kind": "User", "user": {"name": "bob"}}],
        "resourceRules": [{"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"], "namespaces": ["*"], "clusterScope": true}]}]}});
    control.configure(&[schema], &[level]);
    let c = Arc::new(cluster_with(|b| b.fairness(Some(control.clone()))).await);
    // The one seat that every level has is taken by somebody who is slow to send.
    let bob = || InProcess(UserInfo::new("bob", &["system:masters"]));
    let (sender, body) = tokio::sync::mpsc::unbounded_channel::<Result<bytes::Bytes, std::convert::Infallible>>();
    let body = tokio_stream::wrappers::UnboundedReceiverStream::new(body);
    let slow = http::Request::post("/api/v1/namespaces/default/configmaps").extension(bob());
    let slow =
        slow.header("content-type", "application/json").body(axum::body::Body::from_stream(body)).expect("request");
    let router = c.server.router();
    let slow = tokio::spawn(router.oneshot(slow));
    let ask = async || {
        let request =
            http::Request::get("/api/v1/pods").extension(bob()).body(orkd_apiserver::Body::empty()).expect("request");
        c.server.router().oneshot(request).await.expect("infallible")
    };
    let limit = std::time::Instant::now() + std::time::Duration::from_secs(10);
    let refused = loop {
        let response = ask().await;
        if response.status() == 429 {
            break response;
        }
        assert!(std::time::Instant::now() < limit, "nothing is refused");
        tokio::task::yield_now().await;
    };
    assert_eq!(refused.headers()["retry-after"], "1");
    assert_eq!(refused.headers()["x-kubernetes-pf-flowschema-uid"], "s");
    assert_eq!(refused.headers()["x-kubernetes-pf-prioritylevel-uid"], "l");
    assert_eq!(c.get("/api/v1/pods").await.0, 200, "others are served");
    let whole = serde_json::to_vec(&config_map("late", "1")).expect("JSON");
    sender.send(Ok(whole.into())).expect("it is read");
    drop(sender);
    assert_eq!(slow.await.expect("no panic").expect("infallible").status(), 201);
    assert_eq!(ask().await.status(), 200);
}
