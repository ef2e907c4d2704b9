//! Built-in admission as clients meet it: quotas that many writers share, pod security, limit ranges, and the plugins
//! an operator turns on.

mod common;

use std::sync::Arc;

use common::{World, admin};
use http::Request;
use http_body_util::BodyExt;
use orkd_apiserver::Body;
use orkd_apiserver::admission::PluginConfigs;
use orkd_apiserver::user::{InProcess, UserInfo};
use serde_json::{Value, json};
use tower::ServiceExt;

const NS: &str = "/api/v1/namespaces/team";

async fn team(world: &World) {
    let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "team"}});
    let (code, made) = world.call(&admin(), "POST", "/api/v1/namespaces", namespace).await;
    assert_eq!(code, 201, "{made}");
    let account = json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "default"}});
    assert_eq!(world.call(&admin(), "POST", &format!("{NS}/serviceaccounts"), account).await.0, 201);
}

/// A quota as its controller would leave it.
async fn quota(world: &World, name: &str, spec: Value, used: Value) {
    let hard = spec["hard"].clone();
    let quota = json!({"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": name}, "spec": spec});
    let (code, mut made) = world.call(&admin(), "POST", &format!("{NS}/resourcequotas"), quota).await;
    assert_eq!(code, 201, "{made}");
    made["status"] = json!({"hard": hard, "used": used});
    let path = format!("{NS}/resourcequotas/{name}/status");
    let (code, made) = world.call(&admin(), "PUT", &path, made).await;
    assert_eq!(code, 200, "{made}");
}

async fn used(world: &World, name: &str) -> Value {
    world.call(&admin(), "GET", &format!("{NS}/resourcequotas/{name}"), Value::Null).await.1["status"]["used"].clone()
}

fn message(answer: &(u16, Value)) -> (u16, &str) {
    (answer.0, answer.1["message"].as_str().unwrap_or_default())
}

fn pod(name: &str, resources: Value) -> Value {
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name},
        "spec": {"containers": [{"name": "c", "image": "i", "resources": resources}]}})
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fifty_writers_never_overshoot() {
    let world = Arc::new(World::start().await);
    team(&world).await;
    let hard = json!({"configmaps": "20", "count/configmaps": "30", "services": "40", "services.nodeports": "15"});
    let none = json!({"configmaps": "0", "count/configmaps": "0", "services": "0", "services.nodeports": "0"});
    quota(&world, "q", json!({"hard": hard}), none).await;
    let counter = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "counter"}, "data": {"n": "0"}});
    assert_eq!(world.call(&admin(), "POST", "/api/v1/namespaces/default/configmaps", counter).await.0, 201);

    let writers = (0..50).map(|i| {
        let world = world.clone();
        tokio::spawn(async move {
            let map = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": format!("m{i}")}});
            let map = world.call(&admin(), "POST", &format!("{NS}/configmaps"), map).await;
            let service = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": format!("s{i}")},
                "spec": {"type": "NodePort", "ports": [{"port": 80}], "selector": {"a": "b"}}});
            let service = world.call(&admin(), "POST", &format!("{NS}/services"), service).await;
            // Optimistic concurrency: read, add one, write, again until nobody was faster.
            let path = "/api/v1/namespaces/default/configmaps/counter";
            loop {
                let (_, mut object) = world.call(&admin(), "GET", path, Value::Null).await;
                let n: u32 = object["data"]["n"].as_str().and_then(|n| n.parse().ok()).expect("a number");
                object["data"]["n"] = (n + 1).to_string().into();
                match world.call(&admin(), "PUT", path, object).await {
                    (200, _) => break,
                    (409, _) => {}
                    other => panic!("{other:?}"),
                }
            }
            (map, service)
        })
    });
    let (mut maps, mut ports) = (0, std::collections::BTreeSet::new());
    for writer in writers.collect::<Vec<_>>() {
        let (map, service) = writer.await.expect("a writer");
        match message(&map) {
            (201, _) => maps += 1,
            (code, text) => {
                assert_eq!(code, 403, "{text}");
                let why = "exceeded quota: q, requested: configmaps=1, used: configmaps=20, limited: configmaps=20";
                assert!(text.ends_with(why), "{text}");
            }
        }
        if service.0 == 201 {
            let port = service.1["spec"]["ports"][0]["nodePort"].as_u64().expect("a port");
            assert!((30000..=32767).contains(&port) && ports.insert(port), "{port} was handed out twice");
        } else {
            assert!(message(&service).1.contains("exceeded quota: q, requested: services.nodeports=1"), "{service:?}");
        }
    }
    assert_eq!((maps, ports.len()), (20, 15));
    assert_eq!(
        used(&world, "q").await,
        json!({"configmaps": "20", "count/configmaps": "20", "services": "15", "services.nodeports": "15"})
    );
    let (_, list) = world.call(&admin(), "GET", &format!("{NS}/configmaps"), Value::Null).await;
    assert_eq!(list["items"].as_array().map(Vec::len), Some(20));
    let (_, counter) = world.call(&admin(), "GET", "/api/v1/namespaces/default/configmaps/counter", Value::Null).await;
    assert_eq!(counter["data"]["n"], "50");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn quotas_speak_upstreams_words() {
    let world = World::start().await;
    team(&world).await;
    let pods = format!("{NS}/pods");
    let create = async |body: Value| world.call(&admin(), "POST", &pods, body).await;
    let hard = json!({"pods": "2", "requests.cpu": "1", "limits.memory": "1Gi"});
    let zero = json!({"pods": "0", "requests.cpu": "0", "limits.memory": "0"});
    quota(&world, "compute", json!({"hard": hard}), zero).await;
    let refused = create(pod("silent", json!({}))).await;
    let text = "pods \"silent\" is forbidden: failed quota: compute: must specify limits.memory for: c; requests.cpu \
                for: c";
    assert_eq!(message(&refused), (403, text));
    let resources =
        |cpu: &str, memory: &str| json!({"requests": {"cpu": cpu}, "limits": {"memory": memory, "cpu": "2"}});
    let (code, made) = create(pod("a", resources("600m", "512Mi"))).await;
    assert_eq!(code, 201, "{made}");
    let refused = create(pod("b", resources("600m", "512Mi"))).await;
    let text = "pods \"b\" is forbidden: exceeded quota: compute, requested: requests.cpu=600m, used: \
                requests.cpu=600m, limited: requests.cpu=1";
    assert_eq!(message(&refused), (403, text));
    assert_eq!(used(&world, "compute").await, json!({"pods": "1", "requests.cpu": "600m", "limits.memory": "512Mi"}));

    // A dry run is refused alike and charges nothing.
    let (code, _) = world.call(&admin(), "POST", &format!("{pods}?dryRun=All"), pod("b", resources("1m", "1Mi"))).await;
    assert_eq!(code, 201);
    assert_eq!(used(&world, "compute").await["pods"], "1");

    // Scopes: a pod with a deadline is of another quota.
    quota(&world, "short", json!({"hard": {"pods": "0"}, "scopes": ["Terminating"]}), json!({"pods": "0"})).await;
    let mut short = pod("short", resources("1m", "1Mi"));
    short["spec"]["activeDeadlineSeconds"] = json!(5);
    let refused = create(short).await;
    assert!(message(&refused).1.contains("exceeded quota: short, requested: pods=1"), "{refused:?}");
    assert_eq!(create(pod("long", resources("1m", "1Mi"))).await.0, 201);
}

/// The warnings of an answer.
async fn warnings(world: &World, method: &str, path: &str, body: Value) -> (u16, Vec<String>) {
    let request = Request::builder().method(method).uri(path).header(
        "content-type",
        match method {
            "PATCH" => "application/merge-patch+json",
            _ => "application/json",
        },
    );
    let request = request.extension(InProcess(admin())).body(Body::from(body.to_string())).expect("a request");
    let response = world.server.router().oneshot(request).await.expect("infallible");
    let texts = response.headers().get_all("warning").iter().filter_map(|w| w.to_str().ok().map(str::to_owned));
    let (code, texts) = (response.status().as_u16(), texts.collect());
    response.into_body().collect().await.expect("a body");
    (code, texts)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pod_security_refuses_and_warns() {
    let world = World::start().await;
    team(&world).await;
    let mut bad = pod("bad", json!({}));
    bad["spec"]["hostNetwork"] = json!(true);
    assert_eq!(world.call(&admin(), "POST", &format!("{NS}/pods"), bad.clone()).await.0, 201);
    let labels = json!({"metadata": {"labels": {"pod-security.kubernetes.io/enforce": "baseline",
        "pod-security.kubernetes.io/warn": "restricted"}}});
    let (code, texts) = warnings(&world, "PATCH", NS, labels).await;
    assert_eq!(code, 200);
    let expected = [
        "299 - \"existing pods in namespace \\\"team\\\" violate the new PodSecurity enforce level \
         \\\"baseline:latest\\\"\"",
        "299 - \"bad: host namespaces\"",
    ];
    assert_eq!(texts, expected);
    bad["metadata"]["name"] = json!("worse");
    let refused = world.call(&admin(), "POST", &format!("{NS}/pods"), bad).await;
    let text = "pods \"worse\" is forbidden: violates PodSecurity \"baseline:latest\": host namespaces \
                (hostNetwork=true)";
    assert_eq!(message(&refused), (403, text));
    assert_eq!(refused.1["reason"], "Forbidden");
    let (code, texts) = warnings(&world, "POST", &format!("{NS}/pods"), pod("plain", json!({}))).await;
    assert_eq!((code, texts.len()), (201, 1), "{texts:?}");
    assert!(texts[0].starts_with("299 - \"would violate PodSecurity \\\"restricted:latest\\\": allowPrivilege"));
    let template = json!({"metadata": {"labels": {"a": "b"}}, "spec": pod("x", json!({}))["spec"]});
    let deployment = json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "d"},
        "spec": {"selector": {"matchLabels": {"a": "b"}}, "template": template}});
    let (code, texts) = warnings(&world, "POST", "/apis/apps/v1/namespaces/team/deployments", deployment).await;
    assert_eq!((code, texts.len()), (201, 1), "{texts:?}");
    let wrong = json!({"metadata": {"labels": {"pod-security.kubernetes.io/enforce": "strict"}}});
    let (code, refused) = {
        let request = Request::patch(NS).header("content-type", "application/merge-patch+json");
        let request = request.extension(InProcess(admin())).body(Body::from(wrong.to_string())).expect("a request");
        world.send(request).await
    };
    assert_eq!((code, refused["reason"].as_str()), (422, Some("Invalid")), "{refused}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn limit_ranges_default_and_bound() {
    let world = World::start().await;
    team(&world).await;
    let range = json!({"apiVersion": "v1", "kind": "LimitRange", "metadata": {"name": "r"}, "spec": {"limits": [
        {"type": "Container", "default": {"cpu": "500m"}, "defaultRequest": {"cpu": "250m"}, "max": {"cpu": "1"}},
        {"type": "Pod", "max": {"cpu": "1500m"}},
        {"type": "PersistentVolumeClaim", "min": {"storage": "1Gi"}, "max": {"storage": "2Gi"}}]}});
    let (code, made) = world.call(&admin(), "POST", &format!("{NS}/limitranges"), range).await;
    assert_eq!(code, 201, "{made}");
    let (code, made) = world.call(&admin(), "POST", &format!("{NS}/pods"), pod("a", json!({}))).await;
    assert_eq!(code, 201, "{made}");
    assert_eq!(
        made["spec"]["containers"][0]["resources"],
        json!({"limits": {"cpu": "500m"}, "requests": {"cpu": "250m"}})
    );
    let note = "LimitRanger plugin set: cpu request for container c; cpu limit for container c";
    assert_eq!(made["metadata"]["annotations"]["kubernetes.io/limit-ranger"], note);
    let big = json!({"requests": {"cpu": "2"}, "limits": {"cpu": "2"}});
    let refused = world.call(&admin(), "POST", &format!("{NS}/pods"), pod("b", big)).await;
    let text = "pods \"b\" is forbidden: [maximum cpu usage per Container is 1, but limit is 2, maximum cpu usage per \
                Pod is 1500m, but limit is 2]";
    assert_eq!(message(&refused), (403, text));
    let claim = |size: &str| {
        json!({"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": "c"}, "spec": {
            "accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": size}}}})
    };
    let refused = world.call(&admin(), "POST", &format!("{NS}/persistentvolumeclaims"), claim("3Gi")).await;
    let text = "persistentvolumeclaims \"c\" is forbidden: maximum storage usage per PersistentVolumeClaim is 2Gi, \
                but request is 3Gi";
    assert_eq!(message(&refused), (403, text));
    assert_eq!(world.call(&admin(), "POST", &format!("{NS}/persistentvolumeclaims"), claim("1Gi")).await.0, 201);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn operators_turn_plugins_on_and_configure_them() {
    let configs = PluginConfigs::default()
        .with("EventRateLimit", json!({"limits": [{"type": "User", "qps": 1, "burst": 1}]}))
        .with("PodSecurity", json!({"defaults": {"enforce": "baseline"}, "exemptions": {"usernames": ["root"]}}));
    let on = ["NamespaceAutoProvision", "AlwaysPullImages", "EventRateLimit", "DenyServiceExternalIPs"];
    let world = World::start_with(tempfile::tempdir().expect("dir"), |options| orkd_apiserver::security::Options {
        enable_admission: on.map(str::to_owned).into(),
        disable_admission: vec!["ServiceAccount".into()],
        admission_configs: configs,
        ..options
    })
    .await;
    // The namespace comes with its first object.
    let map = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "m"}});
    assert_eq!(world.call(&admin(), "POST", &format!("{NS}/configmaps"), map).await.0, 201);
    assert_eq!(world.call(&admin(), "GET", NS, Value::Null).await.0, 200);
    let (code, made) = world.call(&admin(), "POST", &format!("{NS}/pods"), pod("p", json!({}))).await;
    assert_eq!((code, made["spec"]["containers"][0]["imagePullPolicy"].as_str()), (201, Some("Always")), "{made}");
    let mut host = pod("h", json!({}));
    host["spec"]["hostPID"] = json!(true);
    assert_eq!(world.call(&admin(), "POST", &format!("{NS}/pods"), host.clone()).await.0, 403);
    let root = UserInfo::new("root", &[orkd_apiserver::user::MASTERS]);
    assert_eq!(world.call(&root, "POST", &format!("{NS}/pods"), host).await.0, 201);
    let service = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "s"},
        "spec": {"ports": [{"port": 80}], "externalIPs": ["192.0.2.1"]}});
    let refused = world.call(&admin(), "POST", &format!("{NS}/services"), service).await;
    assert_eq!(
        message(&refused),
        (403, "services \"s\" is forbidden: Use of external IPs is denied by admission control")
    );
    let event = |name: &str| {
        json!({"apiVersion": "v1", "kind": "Event", "metadata": {"name": name, "namespace": "team"},
            "involvedObject": {"kind": "Pod", "name": "p", "namespace": "team"}, "reason": "R", "message": "m",
            "type": "Normal"})
    };
    assert_eq!(world.call(&admin(), "POST", &format!("{NS}/events"), event("e1")).await.0, 201);
    assert_eq!(world.call(&admin(), "POST", &format!("{NS}/events"), event("e2")).await.0, 429);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn evictions_ask_the_budget() {
    let world = World::start().await;
    team(&world).await;
    // phase, ready, policy, desired, healthy, allowed: the answer.
    let check = async |phase: &str, ready: bool, policy: Value, counts: [i64; 3], expected: u16| {
        let mut body = pod("p", json!({}));
        body["metadata"]["labels"] = json!({"a": "b"});
        body["spec"]["terminationGracePeriodSeconds"] = json!(0);
        let (code, made) = world.call(&admin(), "POST", &format!("{NS}/pods"), body).await;
        assert_eq!(code, 201, "{made}");
        let mut status = made.clone();
        status["status"]["phase"] = json!(phase);
        status["status"]["conditions"] = json!([{"type": "Ready", "status": if ready { "True" } else { "False" }}]);
        assert_eq!(world.call(&admin(), "PUT", &format!("{NS}/pods/p/status"), status).await.0, 200);
        let budgets = "/apis/policy/v1/namespaces/team/poddisruptionbudgets";
        let budget = json!({"apiVersion": "policy/v1", "kind": "PodDisruptionBudget", "metadata": {"name": "b"},
            "spec": {"minAvailable": 1, "selector": {"matchLabels": {"a": "b"}}, "unhealthyPodEvictionPolicy": policy}});
        let (code, mut budget) = world.call(&admin(), "POST", budgets, budget).await;
        assert_eq!(code, 201, "{budget}");
        budget["status"] = json!({"observedGeneration": 1, "desiredHealthy": counts[0], "currentHealthy": counts[1],
            "disruptionsAllowed": counts[2], "expectedPods": 1});
        assert_eq!(world.call(&admin(), "PUT", &format!("{budgets}/b/status"), budget).await.0, 200);
        // Both versions are taken, whatever the path says.
        let version = if expected == 429 { "policy/v1beta1" } else { "policy/v1" };
        let eviction = json!({"apiVersion": version, "kind": "Eviction", "metadata": {"name": "p"}});
        let (code, said) = world.call(&admin(), "POST", &format!("{NS}/pods/p/eviction"), eviction).await;
        assert_eq!(code, expected, "{phase} {ready} {policy} {counts:?}: {said}");
        let (_, after) = world.call(&admin(), "GET", &format!("{budgets}/b"), Value::Null).await;
        let (left, _) = world.call(&admin(), "GET", &format!("{NS}/pods/p"), Value::Null).await;
        assert_eq!(left, if expected == 201 { 404 } else { 200 });
        if expected == 429 {
            assert_eq!(said["details"]["causes"][0]["reason"], "DisruptionBudget", "{said}");
            assert_eq!(said["message"], "Cannot evict pod as it would violate the pod's disruption budget.");
            world.call(&admin(), "DELETE", &format!("{NS}/pods/p?gracePeriodSeconds=0"), Value::Null).await;
        }
        world.call(&admin(), "DELETE", &format!("{budgets}/b"), Value::Null).await;
        after["status"]["disruptionsAllowed"].as_i64().unwrap_or(0)
    };
    let (healthy, always) = (json!("IfHealthyBudget"), json!("AlwaysAllow"));
    assert_eq!(check("Running", true, healthy.clone(), [1, 2, 1], 201).await, 0, "a place was taken");
    check("Running", true, healthy.clone(), [1, 1, 0], 429).await;
    check("Running", true, always.clone(), [1, 1, 0], 429).await;
    assert_eq!(check("Running", false, always, [1, 0, 0], 201).await, 0, "the unhealthy need no place");
    check("Running", false, healthy.clone(), [1, 0, 0], 429).await;
    assert_eq!(check("Running", false, healthy.clone(), [1, 1, 1], 201).await, 1, "none was taken");
    check("Pending", false, healthy.clone(), [1, 0, 0], 201).await;
    check("Succeeded", false, healthy, [1, 0, 0], 201).await;
}
