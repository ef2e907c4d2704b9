//! Several versions of a kind: without conversion, and with a webhook that converts.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use serde_json::{Value, json};

use crate::common::https;
use crate::harness::{Api, DEFINITIONS, Events, definition, version, widget};

const V1: &str = "/apis/example.com/v1/namespaces/default/widgets";
const V2: &str = "/apis/example.com/v2/namespaces/default/widgets";

fn names(list: &Value) -> Vec<&str> {
    list["items"].as_array().into_iter().flatten().filter_map(|i| i["metadata"]["name"].as_str()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn versions_without_conversion_are_one_object() {
    let api = Api::start().await;
    let mut second = version("v2", false);
    second["schema"]["openAPIV3Schema"]["properties"]["spec"]["properties"]["added"] = json!({"type": "string"});
    second.as_object_mut().expect("a version").remove("selectableFields");
    api.define(definition(json!({"versions": [version("v1", true), second]}))).await;
    let (_, group) = api.get("/apis/example.com").await;
    assert_eq!(group["preferredVersion"]["version"], "v2");

    let made = api.ok("POST", V1, widget("a", json!({"color": "red"}))).await;
    let (_, seen) = api.get(&format!("{V2}/a")).await;
    assert_eq!(seen["apiVersion"], "example.com/v2");
    assert_eq!((&seen["metadata"], &seen["spec"]), (&made["metadata"], &made["spec"]));
    let mut other = widget("b", json!({"added": "x"}));
    other["apiVersion"] = json!("example.com/v2");
    let other = api.ok("POST", V2, other).await;
    assert_eq!(other["spec"]["added"], "x");
    let (_, lost) = api.get(&format!("{V1}/b")).await;
    assert_eq!((&lost["apiVersion"], &lost["spec"]), (&json!("example.com/v1"), &json!({"size": 3})));
    let (_, list) = api.get(V2).await;
    assert_eq!((names(&list), &list["items"][0]["apiVersion"]), (vec!["a", "b"], &json!("example.com/v2")));

    // Another storage version: what is stored already stays as it is and is seen in every version.
    let at = format!("{DEFINITIONS}/widgets.example.com");
    let (_, mut stored) = api.get(&at).await;
    stored["spec"]["versions"][0]["storage"] = json!(false);
    stored["spec"]["versions"][1]["storage"] = json!(true);
    let mut events = Events::of(&api, &format!("{V1}?watch=true&resourceVersion=0")).await;
    let changed = api.ok("PUT", &at, stored).await;
    assert_eq!(changed["status"]["storedVersions"], json!(["v1", "v2"]));
    // The watch ends, for its clients to come back.
    while events.next().await.is_some() {}
    let made = api
        .ok(
            "POST",
            V2,
            json!({"apiVersion": "example.com/v2", "kind": "Widget", "metadata": {"name": "c"},
            "spec": {"added": "y"}}),
        )
        .await;
    assert_eq!(made["spec"]["added"], "y");
    for (path, api_version) in [(V1, "example.com/v1"), (V2, "example.com/v2")] {
        let (_, list) = api.get(path).await;
        assert_eq!(names(&list), ["a", "b", "c"]);
        assert!(list["items"].as_array().expect("items").iter().all(|i| i["apiVersion"] == api_version), "{list}");
    }
    let store = api.0.server.store();
    let record = async |name: &str| {
        let record = store.get(&format!("/registry/example.com/widgets/default/{name}")).await.expect("read");
        serde_json::from_slice::<Value>(&record.expect("a record").value).expect("JSON")
    };
    assert_eq!(record("a").await["apiVersion"], "example.com/v1");
    assert_eq!(record("c").await["apiVersion"], "example.com/v2");
    let (code, touched) = api.patch(&format!("{V1}/a"), "merge-patch+json", json!({"spec": {"color": "blue"}})).await;
    assert_eq!((code, &touched["apiVersion"]), (200, &json!("example.com/v1")));
    assert_eq!(record("a").await["apiVersion"], "example.com/v2", "a write brings it to the storage version");
    let (_, seen) = api.get(&format!("{V2}/a")).await;
    assert_eq!(seen["spec"]["color"], "blue");
    // Who owns a field in one version owns it in the other.
    let applied = async |path: &str, manager: &str, color: &str| {
        let mut body = widget("owned", json!({"color": color}));
        body["apiVersion"] = json!(if path == V1 { "example.com/v1" } else { "example.com/v2" });
        api.patch(&format!("{path}/owned?fieldManager={manager}"), "apply-patch+yaml", body).await
    };
    assert_eq!(applied(V1, "one", "red").await.0, 201);
    let (code, refused) = applied(V2, "two", "blue").await;
    let wanted = "Apply failed with 1 conflict: conflict with \"one\": .spec.color";
    assert_eq!((code, refused["message"].as_str()), (409, Some(wanted)), "{refused}");
}

/// What a webhook makes of `spec.color` (v1) and `spec.paint` (v2).
fn convert(object: &Value, to: &str) -> Value {
    let mut object = object.clone();
    object["apiVersion"] = json!(to);
    let (from, into) = if to.ends_with("v2") { ("color", "paint") } else { ("paint", "color") };
    if let Some(spec) = object["spec"].as_object_mut()
        && let Some(value) = spec.remove(from)
    {
        spec.insert(into.into(), value);
    }
    object
}

/// Defines widgets in two versions, which a server converts.
async fn define(api: &Api, server: &https::Server) {
    let mut second = version("v2", false);
    let properties = &mut second["schema"]["openAPIV3Schema"]["properties"]["spec"]["properties"];
    properties["paint"] = json!({"type": "string"});
    properties.as_object_mut().expect("fields").remove("color");
    second.as_object_mut().expect("a version").remove("selectableFields");
    let conversion = json!({"strategy": "Webhook", "webhook": {"conversionReviewVersions": ["v1"],
        "clientConfig": {"url": format!("https://127.0.0.1:{}/convert", server.port), "caBundle": server.bundle()}}});
    api.define(definition(json!({"versions": [version("v1", true), second], "conversion": conversion}))).await;
}

/// A server that converts widgets.
async fn converter() -> https::Server {
    https::serve(|https::Asked { body: review, .. }| async move {
        let request = &review["request"];
        let to = request["desiredAPIVersion"].as_str().expect("a version");
        let objects: Vec<Value> =
            request["objects"].as_array().expect("objects").iter().map(|o| convert(o, to)).collect();
        let answer = json!({"apiVersion": review["apiVersion"], "kind": "ConversionReview", "response": {
            "uid": request["uid"], "result": {"status": "Success"}, "convertedObjects": objects}});
        (200, answer.to_string())
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_webhook_converts() {
    let api = Api::start().await;
    let (calls, broken) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicBool::new(false)));
    let (counted, fails) = (calls.clone(), broken.clone());
    let server = https::serve(move |https::Asked { path, body: review, .. }| {
        counted.fetch_add(1, Ordering::SeqCst);
        let fails = fails.load(Ordering::SeqCst);
        async move {
            assert_eq!(path, "/convert?timeout=30s");
            let request = &review["request"];
            let to = request["desiredAPIVersion"].as_str().expect("a version").to_owned();
            let objects: Vec<Value> =
                request["objects"].as_array().expect("objects").iter().map(|o| convert(o, &to)).collect();
            let result = match fails {
                true => json!({"status": "Failure", "message": "the paint is dry"}),
                false => json!({"status": "Success"}),
            };
            let answer = json!({"apiVersion": review["apiVersion"], "kind": "ConversionReview", "response": {
                "uid": request["uid"], "result": result, "convertedObjects": objects}});
            (200, answer.to_string())
        }
    })
    .await;
    define(&api, &server).await;

    for i in 0..20 {
        api.ok("POST", V1, widget(&format!("w{i:02}"), json!({"color": "red"}))).await;
    }
    assert_eq!(calls.load(Ordering::SeqCst), 0, "the storage version needs nobody");
    let (_, list) = api.get(V2).await;
    assert_eq!(list["items"].as_array().map(Vec::len), Some(20));
    assert!(list["items"].as_array().expect("items").iter().all(|i| i["spec"] == json!({"paint": "red", "size": 3})));
    assert_eq!(calls.load(Ordering::SeqCst), 1, "once for a list");
    let (_, one) = api.get(&format!("{V2}/w07")).await;
    assert_eq!(one["spec"]["paint"], "red");
    api.get(V2).await;
    assert_eq!(calls.load(Ordering::SeqCst), 1, "what it said is kept");

    // Writes in the other version, and what watchers of either see.
    let mut events = Events::of(&api, &format!("{V2}?watch=true&fieldSelector=metadata.name%3Dw07")).await;
    assert_eq!(events.next().await.expect("an event")["object"]["spec"]["paint"], "red");
    let (code, patched) = api.patch(&format!("{V2}/w07"), "merge-patch+json", json!({"spec": {"paint": "blue"}})).await;
    assert_eq!((code, &patched["spec"]["paint"]), (200, &json!("blue")), "{patched}");
    let event = events.next().await.expect("an event");
    assert_eq!((&event["type"], &event["object"]["spec"]["paint"]), (&json!("MODIFIED"), &json!("blue")));
    let (_, seen) = api.get(&format!("{V1}/w07")).await;
    assert_eq!(seen["spec"], json!({"color": "blue", "size": 3}));
    api.ok("DELETE", &format!("{V1}/w07"), Value::Null).await;
    let event = events.next().await.expect("an event");
    assert_eq!((&event["type"], &event["object"]["apiVersion"]), (&json!("DELETED"), &json!("example.com/v2")));

    // What it refuses is told in upstream's words; the stored version is served all the same.
    broken.store(true, Ordering::SeqCst);
    api.ok("POST", V1, widget("z", json!({"color": "red"}))).await;
    let text = "conversion webhook for example.com/v1, Kind=Widget failed: the paint is dry";
    for path in [format!("{V2}/z"), V2.to_owned()] {
        let (code, refused) = api.get(&path).await;
        assert_eq!((code, &refused["message"]), (500, &json!(text)));
    }
    let mut body = widget("y", json!({"paint": "red"}));
    body["apiVersion"] = json!("example.com/v2");
    let (code, refused) = api.call("POST", V2, body).await;
    let text = "conversion webhook for example.com/v2, Kind=Widget failed: the paint is dry";
    assert_eq!((code, &refused["message"]), (500, &json!(text)));
    assert_eq!(api.get(&format!("{V1}/z")).await.0, 200);

    let (_, _, metrics) = api.raw("GET", "/metrics", &[], Vec::new()).await;
    let metrics = String::from_utf8(metrics).expect("text");
    for series in [
        "apiserver_conversion_webhook_request_total{failure_type=\"\",result=\"success\"}",
        "apiserver_conversion_webhook_request_total{failure_type=\"conversion_webhook_malformed_response_failure\",result=\"failure\"}",
        "apiserver_conversion_webhook_duration_seconds_count{failure_type=\"\",result=\"success\"}",
        "apiserver_crd_conversion_webhook_duration_seconds_count{crd_name=\"widgets.example.com\",from_version=\"v1\",\
         succeeded=\"true\",to_version=\"v2\"}",
        "apiserver_crd_conversion_webhook_duration_seconds_count{crd_name=\"widgets.example.com\",from_version=\"v2\",\
         succeeded=\"false\",to_version=\"v1\"}",
    ] {
        assert!(metrics.contains(series), "{series}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn rules_about_another_version_see_what_the_webhook_makes() {
    let api = Api::start().await;
    let server = converter().await;
    define(&api, &server).await;
    let group = "/apis/admissionregistration.k8s.io/v1";
    let rule =
        json!([{"apiGroups": ["example.com"], "apiVersions": ["v2"], "operations": ["*"], "resources": ["widgets"]}]);
    let put = async |kind: &str, spec: Value| {
        let path = format!("{group}/{kind}");
        api.ok("POST", &path, json!({"metadata": {"name": "paint"}, "spec": spec.clone()})).await;
    };
    put(
        "validatingadmissionpolicies",
        json!({"matchConstraints": {"matchPolicy": "Equivalent", "resourceRules": rule},
            "validations": [{"expression": "object.spec.paint != 'black' && object.apiVersion == 'example.com/v2'"}]}),
    )
    .await;
    put("validatingadmissionpolicybindings", json!({"policyName": "paint", "validationActions": ["Deny"]})).await;
    put(
        "mutatingadmissionpolicies",
        json!({"matchConstraints": {"matchPolicy": "Equivalent", "resourceRules": rule}, "reinvocationPolicy": "Never",
            "failurePolicy": "Fail",
            "matchConditions": [{"name": "pale", "expression": "object.spec.paint.startsWith('pale ')"}],
            "mutations": [{"patchType": "ApplyConfiguration", "applyConfiguration": {
                "expression": "Object{spec: Object.spec{paint: object.spec.paint.replace('pale ', '')}}"}}]}),
    )
    .await;
    put("mutatingadmissionpolicybindings", json!({"policyName": "paint"})).await;

    let made = api.ok("POST", V1, widget("a", json!({"color": "pale red"}))).await;
    assert_eq!((&made["apiVersion"], &made["spec"]), (&json!("example.com/v1"), &json!({"color": "red", "size": 3})));
    let (code, refused) = api.call("POST", V1, widget("b", json!({"color": "pale black"}))).await;
    let why = "failed expression: object.spec.paint != 'black' && object.apiVersion == 'example.com/v2'";
    assert_eq!(code, 422, "{refused}");
    assert!(refused["message"].as_str().is_some_and(|m| m.ends_with(why)), "{refused}");
}
