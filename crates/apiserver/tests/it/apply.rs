//! Server-side apply through the server, story by story as in upstream's `test/integration/apiserver/apply`.

use std::fmt::Write;

use serde_json::{Value, json};

use crate::harness::{Cluster, cluster, config_map};

const CM: &str = "/api/v1/namespaces/default/configmaps";
const PODS: &str = "/api/v1/namespaces/default/pods";
const DEPLOYMENTS: &str = "/apis/apps/v1/namespaces/default/deployments";
const DAEMON_SETS: &str = "/apis/apps/v1/namespaces/default/daemonsets";
const STATEFUL_SETS: &str = "/apis/apps/v1/namespaces/default/statefulsets";
const MERGE: &str = "application/merge-patch+json";
const JSON: &str = "application/json-patch+json";
const APPLY: &str = "application/apply-patch+yaml";

fn rv(v: &Value) -> String {
    v["metadata"]["resourceVersion"].as_str().unwrap_or_default().to_owned()
}

async fn apply(c: &Cluster, url: &str, manager: &str, body: &Value) -> (u16, Value) {
    let separator = if url.contains('?') { '&' } else { '?' };
    c.patch(&format!("{url}{separator}fieldManager={manager}"), APPLY, body.clone()).await
}

/// `manager operation subresource fields` of every entry.
fn owners(object: &Value) -> Vec<String> {
    let list = object["metadata"]["managedFields"].as_array();
    let line = |e: &Value| {
        let text = |f: &str| e[f].as_str().unwrap_or("-").to_owned();
        format!("{} {} {} {}", text("manager"), text("operation"), text("subresource"), e["fieldsV1"])
    };
    list.into_iter().flatten().map(line).collect()
}

fn pod(name: &str, spec: Value) -> Value {
    let mut pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": spec});
    if pod["spec"]["containers"].is_null() {
        pod["spec"]["containers"] = json!([{"name": "a", "image": "one"}]);
    }
    pod
}

fn workload(kind: &str, name: &str, spec: Value, containers: Value) -> Value {
    let mut object = json!({"apiVersion": "apps/v1", "kind": kind, "metadata": {"name": name, "labels": {"app": "x"}},
        "spec": {"selector": {"matchLabels": {"app": "x"}},
            "template": {"metadata": {"labels": {"app": "x"}}, "spec": {"containers": containers}}}});
    if let (Some(to), Value::Object(more)) = (object["spec"].as_object_mut(), spec) {
        to.extend(more);
    }
    object
}

/// Waits until the clock shows another second, which is what times of managed fields tell.
async fn another_second() {
    tokio::time::sleep(std::time::Duration::from_millis(1100)).await;
}

#[tokio::test]
async fn applying_again_is_no_write_however_values_are_written() {
    let c = cluster().await;
    let mut map = config_map("m", "v");
    map["metadata"]["creationTimestamp"] = Value::Null;
    map["metadata"]["resourceVersion"] = Value::Null;
    let mut empty = workload("Deployment", "d", json!({"replicas": 1}), json!([{"name": "a", "image": "i"}]));
    empty["spec"]["template"]["metadata"]["annotations"] = json!({});
    let limits = json!([{"name": "a", "image": "i", "resources": {"limits": {"memory": "2048Mi"}}}]);
    let claims = json!([{"metadata": {"name": "c"},
        "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1024Mi"}}}}]);
    let set = workload("StatefulSet", "s", json!({"serviceName": "s", "volumeClaimTemplates": claims}), limits);
    let cases =
        [(format!("{CM}/m"), map), (format!("{DEPLOYMENTS}/d"), empty), (format!("{STATEFUL_SETS}/s"), set.clone())];
    let mut made = Vec::new();
    for (url, body) in &cases {
        let (code, v) = apply(&c, url, "m", body).await;
        assert_eq!(code, 201, "{v}");
        made.push(v);
    }
    another_second().await;
    for ((url, body), before) in cases.iter().zip(&made) {
        let (code, v) = apply(&c, url, "m", body).await;
        assert_eq!((code, &v), (200, before), "{url}");
    }
    // So is a PUT of the same.
    let (code, v) = c.put(&format!("{STATEFUL_SETS}/s?fieldManager=m"), &set).await;
    assert_eq!((code, rv(&v)), (200, rv(&made[2])), "{v}");
    // A member that stands for a choice is not nothing.
    let with = |volume: Value| pod("p", json!({"volumes": [volume]}));
    let (_, first) = apply(&c, &format!("{PODS}/p"), "m", &with(json!({"name": "v", "emptyDir": {}}))).await;
    let (code, second) = apply(&c, &format!("{PODS}/p"), "m", &with(json!({"name": "v"}))).await;
    assert_eq!(code, 200, "{second}");
    assert_ne!(rv(&first), rv(&second));
}

#[tokio::test]
async fn a_large_object_is_stored_without_owners() {
    let c = cluster().await;
    let mut data = serde_json::Map::new();
    for i in 0..9999 {
        data.insert(
            format!("this-key-is-long-so-that-the-names-of-all-fields-are-longer-than-the-object-{i}"),
            json!("A"),
        );
    }
    let large = |name: &str| json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": data});
    let small = |name: &str| config_map(name, "v");
    let (code, created) = c.post(CM, large("created")).await;
    assert_eq!(code, 201, "{}", created["message"]);
    for name in ["updated", "patched"] {
        assert_eq!(c.post(CM, small(name)).await.0, 201);
    }
    let (code, updated) = c.put(&format!("{CM}/updated"), &large("updated")).await;
    assert_eq!(code, 200, "{}", updated["message"]);
    let (code, patched) = c.patch(&format!("{CM}/patched"), MERGE, json!({"data": data})).await;
    assert_eq!(code, 200, "{}", patched["message"]);
    for object in [created, updated, patched] {
        assert!(object["metadata"]["managedFields"].is_null());
        // Who applies is to own something, and somebody what was there before.
        let name = object["metadata"]["name"].as_str().expect("a name");
        let bare = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}});
        let (code, v) = apply(&c, &format!("{CM}/{name}"), "m", &bare).await;
        assert_eq!((code, v["message"].as_str()), (500, Some("etcdserver: request is too large")));
    }
}

#[tokio::test]
async fn managers_of_one_name_become_one() {
    let c = cluster().await;
    let url = format!("{PODS}/p");
    let label = |key: &str| json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"labels": {key: "1"}}});
    let renamed = |mut object: Value, field: &str, to: Value| {
        for entry in object["metadata"]["managedFields"].as_array_mut().expect("managers") {
            entry[field] = to.clone();
        }
        object
    };
    let mut first = pod("p", json!({}));
    first["metadata"]["labels"] = json!({"a": "1"});
    apply(&c, &url, "one", &first).await;
    let (_, v) = apply(&c, &url, "two", &label("b")).await;
    let (code, v) = c.put(&url, &renamed(v, "manager", json!("both"))).await;
    let b = r#"{"f:metadata":{"f:labels":{"f:b":{}}}}"#;
    assert_eq!((code, owners(&v)), (200, vec![format!("both Apply - {b}")]), "the last counts");

    let url = format!("{PODS}/q");
    apply(&c, &url, "first", &pod("q", json!({}))).await;
    c.patch(&format!("{url}?fieldManager=one"), MERGE, json!({"metadata": {"labels": {"a": "1"}}})).await;
    let (_, v) = c.patch(&format!("{url}?fieldManager=two"), MERGE, json!({"metadata": {"labels": {"b": "1"}}})).await;
    let (_, v) = c.put(&url, &renamed(v, "manager", json!("both"))).await;
    assert_eq!(owners(&v).len(), 2, "{v}");
    assert_eq!(owners(&v)[1], format!("both Update - {b}"));

    // The same with entries of subresources.
    let url = format!("{PODS}/r");
    apply(&c, &url, "first", &pod("r", json!({}))).await;
    apply(&c, &url, "labels", &label("a")).await;
    let (code, v) = apply(&c, &format!("{url}/status"), "labels", &label("b")).await;
    assert_eq!((code, v["metadata"]["labels"].clone()), (200, json!({"a": "1", "b": "1"})));
    assert_eq!(owners(&v)[2], format!("labels Apply status {b}"));
    let (_, v) = c.put(&url, &renamed(v, "subresource", json!(""))).await;
    assert_eq!(owners(&v).len(), 2, "{v}");
    assert_eq!(owners(&v)[1], format!("labels Apply - {b}"));
}

#[tokio::test]
async fn a_subresource_leaves_managers_alone_whatever_it_is_sent() {
    let c = cluster().await;
    let (_, made) = apply(&c, &format!("{PODS}/p"), "m", &pod("p", json!({}))).await;
    let entry = json!({"manager": "x", "operation": "Update", "apiVersion": "v1", "fieldsType": "FieldsV1",
        "fieldsV1": {"f:spec": {"f:containers": {}}}});
    let patch = json!({"metadata": {"managedFields": [entry]},
        "status": {"conditions": [{"type": "Mine", "status": "True"}]}});
    let (code, v) = c.patch(&format!("{PODS}/p/status?fieldManager=u"), MERGE, patch).await;
    assert_eq!(code, 200, "{v}");
    assert_eq!(v["metadata"]["managedFields"][0], made["metadata"]["managedFields"][0]);
    assert!(owners(&v)[1].starts_with("u Update status "), "{v}");
}

#[tokio::test]
async fn elements_of_one_key_are_owned_as_one() {
    let c = cluster().await;
    let containers = |ports: &[(&str, u16)], env: &[(&str, &str)]| {
        let ports: Vec<Value> = ports.iter().map(|(n, p)| json!({"name": n, "containerPort": p})).collect();
        let env: Vec<Value> = env.iter().map(|(n, v)| json!({"name": n, "value": v})).collect();
        json!([{"name": "nginx", "image": "nginx", "ports": ports, "env": env}])
    };
    let set = |containers: Value| workload("DaemonSet", "d", json!({}), containers);
    let count = |v: &Value, list: &str| v["spec"]["template"]["spec"]["containers"][0][list].as_array().map(Vec::len);
    // The fields of a manager in the one container.
    let in_container = |v: &Value, manager: &str| {
        let list = v["metadata"]["managedFields"].as_array().cloned().unwrap_or_default();
        let entry = list.into_iter().find(|e| e["manager"] == manager).unwrap_or_default();
        entry["fieldsV1"]["f:spec"]["f:template"]["f:spec"]["f:containers"][r#"k:{"name":"nginx"}"#].clone()
    };
    let url = format!("{DAEMON_SETS}/d");
    let created = set(containers(
        &[("port0", 1), ("port1", 80), ("port2", 80)],
        &[("ENV0", "0"), ("PATH", "/bin"), ("PATH", "$PATH:/usr/bin")],
    ));
    let (code, v) = c.post(&format!("{DAEMON_SETS}?fieldManager=create"), created).await;
    assert_eq!((code, count(&v, "ports"), count(&v, "env")), (201, Some(3), Some(3)), "{v}");
    let owned = in_container(&v, "create");
    let (path, port) = (r#"k:{"name":"PATH"}"#, r#"k:{"containerPort":80,"protocol":"TCP"}"#);
    assert_eq!((&owned["f:env"][path], &owned["f:ports"][port]), (&json!({}), &json!({})));
    assert_eq!(owned["f:env"][r#"k:{"name":"ENV0"}"#], json!({".": {}, "f:name": {}, "f:value": {}}));
    let template = &v["metadata"]["managedFields"][0]["fieldsV1"]["f:metadata"]["f:annotations"];
    assert_eq!(template, &json!({".": {}, "f:deprecated.daemonset.template.generation": {}}));

    // Others are added beside them.
    let mut others = set(containers(&[("port3", 443)], &[("HOME", "/usr/home")]));
    others["spec"]["template"].as_object_mut().expect("a template").remove("metadata");
    let (code, v) = apply(&c, &url, "apply", &others).await;
    assert_eq!((code, count(&v, "ports"), count(&v, "env")), (200, Some(4), Some(4)), "{v}");
    assert_eq!(in_container(&v, "create"), owned, "nothing is taken from it");
    let tcp = r#"k:{"containerPort":443,"protocol":"TCP"}"#;
    assert_eq!(in_container(&v, "apply")["f:ports"], json!({tcp: {".": {}, "f:containerPort": {}, "f:name": {}}}));

    // An update of some of one key takes all of it.
    let updated = set(containers(
        &[("port0", 1), ("port3", 443), ("port4", 80), ("port5", 80)],
        &[("ENV0", "0"), ("PATH", "/bin"), ("PATH", "$PATH:/usr/bin:/usr/local/bin"), ("HOME", "/usr/home")],
    ));
    let (code, v) = c.put(&format!("{url}?fieldManager=update"), &updated).await;
    assert_eq!((code, count(&v, "ports"), count(&v, "env")), (200, Some(4), Some(4)), "{v}");
    assert_eq!(in_container(&v, "update"), json!({"f:env": {path: {}}, "f:ports": {port: {}}}));
    let left = in_container(&v, "create");
    assert!(left["f:env"][path].is_null() && left["f:ports"][port].is_null(), "{left}");

    // By force one takes the place of all.
    let mut one = set(containers(&[("port80", 80)], &[("PATH", "/usr/bin")]));
    one["spec"]["template"].as_object_mut().expect("a template").remove("metadata");
    let (code, v) = apply(&c, &format!("{url}?force=true"), "apply", &one).await;
    assert_eq!((code, count(&v, "ports"), count(&v, "env")), (200, Some(2), Some(2)), "{v}");
    assert_eq!(in_container(&v, "apply")["f:env"], json!({path: {".": {}, "f:name": {}, "f:value": {}}}));
    assert_eq!(in_container(&v, "update"), Value::Null);
}

#[tokio::test]
async fn who_owned_a_whole_that_has_parts_by_now_does_not_stand_in_the_way() {
    let c = cluster().await;
    let reference = json!({"apiVersion": "v1", "kind": "PersistentVolumeClaim", "name": "c", "namespace": "default",
        "resourceVersion": "15499", "uid": "2018e302-7b12-406c-9fa2-e52535d29e48"});
    let volume = |claim: Value| {
        json!({"apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": "v", "labels": {"type": "local"}},
            "spec": {"storageClassName": "", "capacity": {"storage": "16Mi"}, "accessModes": ["ReadWriteOnce"],
                "hostPath": {"path": "/tmp/x"}, "claimRef": claim}})
    };
    const VOLUMES: &str = "/api/v1/persistentvolumes";
    let (code, made) = c.post(VOLUMES, volume(reference)).await;
    assert_eq!(code, 201, "{made}");
    let entry = |manager: &str, operation: &str, fields: Value| {
        json!({"apiVersion": "v1", "fieldsType": "FieldsV1", "fieldsV1": fields, "manager": manager,
            "operation": operation, "time": "2022-06-08T23:46:32Z"})
    };
    let before = json!([
        entry("m", "Apply", json!({"f:metadata": {"f:labels": {"f:type": {}}}, "f:spec": {"f:storageClassName": {}}})),
        entry("controller", "Update", json!({"f:spec": {"f:claimRef": {}}})),
    ]);
    let (code, _) = c.patch(&format!("{VOLUMES}/v"), MERGE, json!({"metadata": {"managedFields": before}})).await;
    assert_eq!(code, 200);
    let (code, v) =
        apply(&c, &format!("{VOLUMES}/v"), "m", &volume(json!({"name": "c", "namespace": "default"}))).await;
    assert_eq!((code, &v["spec"]["claimRef"]), (200, &made["spec"]["claimRef"]), "{v}");
    let [own, controller] = &owners(&v)[..] else { panic!("{v}") };
    assert!(own.contains(r#""f:claimRef":{"f:name":{},"f:namespace":{}}"#), "{own}");
    assert_eq!(controller, r#"controller Update - {"f:spec":{"f:claimRef":{}}}"#);
}

#[tokio::test]
async fn many_updaters_are_put_together() {
    let c = cluster().await;
    const HOOKS: &str = "/apis/admissionregistration.k8s.io/v1/validatingwebhookconfigurations";
    // YAML with commas that JSON has not.
    let body = b"{\"apiVersion\": \"admissionregistration.k8s.io/v1\", \"kind\": \"ValidatingWebhookConfiguration\",
        \"metadata\": {\"name\": \"w\", \"labels\": {\"applier\": \"true\"},},}";
    let url = format!("{HOOKS}/w?fieldManager=apply");
    let (code, mut v) = c.send("PATCH", &url, body, &[("content-type", APPLY)]).await;
    assert_eq!(code, 201, "{v}");
    for i in 0..20 {
        let mut name = String::new();
        let _ = write!(name, "updater{i}");
        let patch = json!({"metadata": {"labels": {&name: "new"}}});
        v = c.patch(&format!("{HOOKS}/w?fieldManager={name}"), MERGE, patch).await.1;
    }
    let owners = owners(&v);
    assert_eq!(owners.len(), 11, "ten who update, and who applied");
    assert!(owners[0].starts_with("apply Apply ") && owners[1].starts_with("ancient-changes Update "), "{owners:?}");
}

#[tokio::test]
async fn fields_are_owned_across_the_versions_of_a_kind() {
    let c = cluster().await;
    let url = |version: &str| format!("/apis/autoscaling/{version}/namespaces/default/horizontalpodautoscalers/h");
    let scaler = |version: &str, spec: Value| {
        json!({"apiVersion": format!("autoscaling/{version}"), "kind": "HorizontalPodAutoscaler", "metadata": {"name": "h"},
            "spec": spec})
    };
    let target = json!({"apiVersion": "apps/v1", "kind": "Deployment", "name": "d"});
    let cpu = |percent: i64| {
        json!([{"type": "Resource", "resource": {"name": "cpu",
            "target": {"type": "Utilization", "averageUtilization": percent}}}])
    };
    let spec = json!({"maxReplicas": 5, "scaleTargetRef": target, "metrics": cpu(50)});
    let (code, v) = apply(&c, &url("v2"), "a", &scaler("v2", spec)).await;
    assert_eq!(code, 201, "{v}");
    let other = scaler("v1", json!({"maxReplicas": 5, "targetCPUUtilizationPercentage": 60}));
    let (code, v) = apply(&c, &url("v1"), "b", &other).await;
    let wanted = "Apply failed with 1 conflict: conflict with \"a\": .spec.metrics";
    assert_eq!((code, v["message"].as_str()), (409, Some(wanted)), "{v}");
    // An update through one version takes from who owns in another.
    let (code, v) = c.patch(&format!("{}?fieldManager=u", url("v1")), MERGE, json!({"spec": {"maxReplicas": 7}})).await;
    assert_eq!(code, 200, "{v}");
    let versions: Vec<&str> = v["metadata"]["managedFields"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|e| e["apiVersion"].as_str())
        .collect();
    assert_eq!(versions, ["autoscaling/v2", "autoscaling/v1"]);
    let (_, v) = c.get(&url("v2")).await;
    assert!(!owners(&v)[0].contains("f:maxReplicas") && owners(&v)[0].contains("f:metrics"), "{v}");
    assert_eq!(owners(&v)[1], r#"u Update - {"f:spec":{"f:maxReplicas":{}}}"#);
    // Who goes on in another version leaves nothing behind.
    let (code, v) = apply(&c, &url("v1"), "a", &scaler("v1", json!({"scaleTargetRef": target}))).await;
    assert_eq!((code, &v["spec"]["targetCPUUtilizationPercentage"]), (200, &Value::Null), "{v}");
}

#[tokio::test]
async fn an_owner_that_is_doubled_by_a_patch_is_said_to_be_after_admission() {
    let c = cluster().await;
    let owner =
        json!({"apiVersion": "v1", "kind": "ConfigMap", "name": "o", "uid": "c1e7bc2a-0001-4000-8000-000000000000"});
    let mut map = config_map("m", "v");
    map["metadata"]["ownerReferences"] = json!([owner, owner]);
    let warning = async |method: &str, url: &str, kind: &str, body: Value| {
        let response = c.raw(method, url, body.to_string().as_bytes(), &[("content-type", kind)]).await;
        assert!(response.status().is_success(), "{}", response.status());
        let all: Vec<String> = response.headers().get_all("warning").iter().map(|w| format!("{w:?}")).collect();
        assert_eq!(all.len(), 1, "{all:?}");
        all[0].clone()
    };
    let made = warning("POST", CM, "application/json", map.clone()).await;
    assert!(made.contains("contains duplicate entries; API server"), "{made}");
    let put = warning("PUT", &format!("{CM}/m"), "application/json", map).await;
    assert!(put.contains("contains duplicate entries; API server"), "{put}");
    let add = json!([{"op": "add", "path": "/metadata/ownerReferences/-", "value": owner}]);
    let patched = warning("PATCH", &format!("{CM}/m"), JSON, add).await;
    assert!(patched.contains("contains duplicate entries after mutating admission happens"), "{patched}");
    let (_, v) = c.get(&format!("{CM}/m")).await;
    assert_eq!(v["metadata"]["ownerReferences"].as_array().map(Vec::len), Some(1));
}
