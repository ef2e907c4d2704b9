//! What a v1.36 server was recorded to answer, asked of ours: bad requests, and defaults of good ones.

mod common;

use std::path::PathBuf;

use common::{World, admin};
use http::Request;
use orkd_apiserver::Body;
use orkd_apiserver::user::InProcess;
use serde_json::{Value, json};

fn recording(name: &str) -> Option<Vec<Value>> {
    let shared = std::env::var_os("ORKD_SHARED").map(PathBuf::from);
    let shared = shared.unwrap_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../../shared"));
    let Ok(text) = std::fs::read_to_string(shared.join("kubernetes-1.36/recorded").join(name)) else {
        eprintln!("skipped: no ../shared");
        return None;
    };
    Some(serde_json::from_str(&text).expect("recording is JSON"))
}

async fn ask(world: &World, case: &Value) -> (u16, Value) {
    let text = |f: &str| case[f].as_str().unwrap_or_default();
    let (path, query) = (text("path"), text("query"));
    let joiner = if path.contains('?') { '&' } else { '?' };
    let uri = if query.is_empty() { path.to_owned() } else { format!("{path}{joiner}{query}") };
    let body = match &case["request"] {
        Value::Null => Body::empty(),
        Value::String(raw) => Body::from(raw.clone()),
        object => Body::from(object.to_string()),
    };
    let request = Request::builder().method(text("method")).uri(uri).header("content-type", text("contentType"));
    world.send(request.extension(InProcess(admin())).body(body).expect("request")).await
}

async fn world_with_defaults() -> World {
    let world = World::start().await;
    let account = json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "default"}});
    assert_eq!(world.call(&admin(), "POST", "/api/v1/namespaces/default/serviceaccounts", account).await.0, 201);
    let map = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "kube-root-ca.crt"}});
    assert_eq!(world.call(&admin(), "POST", "/api/v1/namespaces/default/configmaps", map).await.0, 201);
    world
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bad_requests_get_the_recorded_answer() {
    let Some(cases) = recording("errors.json") else { return };
    let world = world_with_defaults().await;
    let mut wrong = Vec::new();
    for case in &cases {
        let (status, mut answer) = ask(&world, case).await;
        let mut expected = case["response"].clone();
        if case["case"] == "E rv too large" {
            // The revision of the recording's store is not ours.
            answer["message"] = json!("");
            expected["message"] = json!("");
        }
        if json!(status) != case["status"] || answer != expected {
            wrong.push(format!(
                "{}\n  expected {} {expected}\n  got      {status} {answer}",
                case["case"], case["status"]
            ));
        }
    }
    assert!(wrong.is_empty(), "{} differ:\n{}", wrong.len(), wrong.join("\n"));
}

/// Takes off what differs from one run to the next.
fn normal(value: &mut Value, token_volume: &str) {
    match value {
        Value::String(text) if text.starts_with("kube-api-access-") => *text = token_volume.into(),
        Value::String(text) if text.len() == 36 && text.split('-').map(str::len).eq([8, 4, 4, 4, 12]) => {
            *text = "UID".into();
        }
        Value::Array(list) => list.iter_mut().for_each(|v| normal(v, token_volume)),
        Value::Object(map) => map.values_mut().for_each(|v| normal(v, token_volume)),
        _ => {}
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn good_requests_get_the_recorded_defaults() {
    let Some(cases) = recording("defaulting.json") else { return };
    let world = world_with_defaults().await;
    let mut wrong = Vec::new();
    for case in &cases {
        let (status, mut answer) = ask(&world, case).await;
        let mut expected = case["response"].clone();
        for object in [&mut answer, &mut expected] {
            if let Some(meta) = object["metadata"].as_object_mut() {
                for field in ["uid", "creationTimestamp", "managedFields", "generation", "resourceVersion"] {
                    meta.remove(field);
                }
            }
            normal(object, "kube-api-access-x");
            if object["status"]["lastPhaseTransitionTime"].is_string() {
                object["status"]["lastPhaseTransitionTime"] = json!("");
            }
        }
        if json!(status) != case["status"] || answer != expected {
            wrong.push(format!(
                "{}\n  expected {} {expected}\n  got      {status} {answer}",
                case["case"], case["status"]
            ));
        }
    }
    assert!(wrong.is_empty(), "{} differ:\n{}", wrong.len(), wrong.join("\n"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_store_is_a_component() {
    let world = world_with_defaults().await;
    let (code, list) = world.call(&admin(), "GET", "/api/v1/componentstatuses", Value::Null).await;
    assert_eq!((code, &list["kind"]), (200, &json!("ComponentStatusList")), "{list}");
    assert_eq!(list["items"][0]["metadata"]["name"], "etcd-0");
    let (code, one) = world.call(&admin(), "GET", "/api/v1/componentstatuses/etcd-0", Value::Null).await;
    assert_eq!((code, &one["conditions"][0]["status"]), (200, &json!("True")), "{one}");
    assert_eq!(world.call(&admin(), "GET", "/api/v1/componentstatuses/x", Value::Null).await.0, 404);
    assert_eq!(world.call(&admin(), "DELETE", "/api/v1/componentstatuses/etcd-0", Value::Null).await.0, 405);
    let request =
        Request::get("/api/v1/componentstatuses").header("accept", "application/json;as=Table;v=v1;g=meta.k8s.io");
    let (_, table) = world.send(request.extension(InProcess(admin())).body(Body::empty()).expect("request")).await;
    assert_eq!(table["rows"][0]["cells"], json!(["etcd-0", "Healthy", "ok", ""]), "{table}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_is_born_with_its_own_api_services() {
    let Some(theirs) = recording("bootstrap/apiservices.json") else { return };
    let world = world_with_defaults().await;
    let (_, list) = world.call(&admin(), "GET", "/apis/apiregistration.k8s.io/v1/apiservices", Value::Null).await;
    let plain = |service: &Value| {
        let mut condition = service["status"]["conditions"][0].clone();
        condition.as_object_mut().expect("condition").remove("lastTransitionTime");
        json!([service["metadata"]["name"], service["metadata"]["labels"], service["spec"], condition])
    };
    let ours: Vec<Value> = list["items"].as_array().into_iter().flatten().map(plain).collect();
    assert_eq!(ours, theirs.iter().map(plain).collect::<Vec<_>>());
}
