//! What a v1.36 server was recorded to answer, asked of ours: bad requests, and defaults of good ones.

mod common;

use std::path::PathBuf;

use common::{World, admin};
use http::Request;
use http_body_util::BodyExt;
use orkd_api::codec;
use orkd_api::schema::Type;
use orkd_apiserver::Body;
use orkd_apiserver::user::InProcess;
use serde_json::{Value, json};
use tower::ServiceExt;

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
    // A group that is another server's upstream.
    let upstreams = |service: &&Value| service["metadata"]["name"] != "v1beta1.metrics.k8s.io";
    let ours: Vec<Value> = list["items"].as_array().into_iter().flatten().filter(upstreams).map(plain).collect();
    assert_eq!(ours, theirs.iter().map(plain).collect::<Vec<_>>());
}

const PROTOBUF: &str = "application/vnd.kubernetes.protobuf";

/// Asks for protobuf; the answer decoded as a kind.
async fn in_protobuf(
    world: &World,
    method: &str,
    uri: &str,
    body: Vec<u8>,
    accept: &str,
    kind: (&str, &str),
) -> (u16, Value) {
    let (api_version, kind) = kind;
    let ty = Type::of_api_version(api_version, kind).unwrap_or_else(|| panic!("{api_version} {kind} has a type"));
    let request = Request::builder().method(method).uri(uri).header("accept", accept).header("content-type", PROTOBUF);
    let request = request.extension(InProcess(admin())).body(Body::from(body)).expect("request");
    let response = world.server.router().oneshot(request).await.expect("infallible");
    let code = response.status().as_u16();
    assert_eq!(response.headers()["content-type"], PROTOBUF, "{method} {uri}");
    let bytes = response.into_body().collect().await.expect("body").to_bytes();
    if code >= 300 {
        let status = Type::of_api_version("v1", "Status").expect("Status");
        return (code, codec::protobuf::decode(&bytes, status).expect("a Status"));
    }
    let meta = codec::protobuf::identify(&bytes).expect("envelope");
    assert_eq!((meta.api_version.as_str(), meta.kind.as_str()), (api_version, kind), "{method} {uri}");
    (code, codec::protobuf::decode(&bytes, ty).unwrap_or_else(|e| panic!("{method} {uri}: {e}")))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_kind_speaks_protobuf() {
    let Some(cases) = recording("defaulting.json") else { return };
    let world = world_with_defaults().await;
    let mut seen = 0;
    for case in cases {
        let text = |v: &Value| v.as_str().unwrap_or_default().to_owned();
        let (path, mut request) = (text(&case["path"]), case["request"].clone());
        if request["metadata"]["name"] == "x" {
            request["metadata"]["name"] = json!(format!("x{seen}"));
        }
        let (api_version, kind) = (text(&request["apiVersion"]), text(&request["kind"]));
        let ty = Type::of_api_version(&api_version, &kind).expect("a type");
        let (object, _) =
            codec::json::decode(request.to_string().as_bytes(), ty, codec::Strictness::Strict).expect("an object");
        let mut body = Vec::new();
        codec::protobuf::encode(&object, ty, &mut body);
        let this = (api_version.as_str(), kind.as_str());
        let (code, made) = in_protobuf(&world, "POST", &path, body.clone(), PROTOBUF, this).await;
        assert_eq!(code, 201, "{}: {made}", case["case"]);
        seen += 1;
        if kind.ends_with("Review") {
            continue;
        }
        let name = text(&made["metadata"]["name"]);
        let uri = format!("{path}/{name}");
        // The server may be at work on it (definitions get a status): both are of one revision.
        let mut stored = Value::Null;
        let mut shown = loop {
            let (_, shown) = in_protobuf(&world, "GET", &uri, Vec::new(), PROTOBUF, this).await;
            let (_, now) = world.call(&admin(), "GET", &uri, Value::Null).await;
            if std::mem::replace(&mut stored, now) == stored {
                break shown;
            }
        };
        codec::normalize(&mut shown, ty, codec::Strictness::Ignore).expect("an object");
        let mut wanted = stored.clone();
        // What is embedded has no type in protobuf, here as upstream.
        for claim in wanted["spec"]["volumeClaimTemplates"].as_array_mut().into_iter().flatten() {
            claim.as_object_mut().expect("a claim").retain(|k, _| !matches!(k.as_str(), "kind" | "apiVersion"));
        }
        codec::normalize(&mut wanted, ty, codec::Strictness::Ignore).expect("an object");
        assert_eq!(shown, wanted, "{uri}");

        let list_kind = format!("{kind}List");
        let (_, list) = in_protobuf(&world, "GET", &path, Vec::new(), PROTOBUF, (&api_version, &list_kind)).await;
        let names = |list: &Value| -> Vec<String> {
            list["items"].as_array().into_iter().flatten().map(|i| text(&i["metadata"]["name"])).collect()
        };
        let revision = text(&list["metadata"]["resourceVersion"]);
        let at = format!("{path}?resourceVersion={revision}&resourceVersionMatch=Exact");
        let (_, plain) = world.call(&admin(), "GET", &at, Value::Null).await;
        assert_eq!((names(&list), &list["metadata"]), (names(&plain), &plain["metadata"]), "{path}");

        let metadata = format!("{PROTOBUF};as=PartialObjectMetadata;g=meta.k8s.io;v=v1");
        let partial = ("meta.k8s.io/v1", "PartialObjectMetadata");
        let (_, shown) = in_protobuf(&world, "GET", &uri, Vec::new(), &metadata, partial).await;
        assert_eq!(shown["metadata"]["uid"], stored["metadata"]["uid"], "{uri}");

        // A second one is refused, in the same tongue.
        if kind != "Event" {
            let (code, refused) = in_protobuf(&world, "POST", &path, body, PROTOBUF, this).await;
            assert_eq!((code, &refused["reason"]), (409, &json!("AlreadyExists")), "{path}: {refused}");
        }
    }
    assert!(seen >= 50, "{seen} kinds");
}
