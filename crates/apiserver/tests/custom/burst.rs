//! Many definitions at once: what it takes until they are served, and what an empty kind costs.

use std::time::Instant;

use futures_util::{StreamExt, stream};
use serde_json::{Value, json};

use crate::harness::{Api, DEFINITIONS, condition, definition};

const MANY: usize = 200;

/// Resident memory in KiB.
fn resident() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|l| l.strip_prefix("VmRSS:")).unwrap_or_default();
    line.trim().trim_end_matches(" kB").parse().unwrap_or_default()
}

#[tokio::test(flavor = "multi_thread")]
async fn many_definitions_at_once_are_served_and_cost_little() {
    let api = Api::start().await;
    let (begun, before) = (Instant::now(), resident());
    let make = |i: usize| {
        let names = json!({"plural": format!("things{i}"), "kind": format!("Thing{i}")});
        let mut one = definition(json!({"names": names, "group": format!("g{}.example.com", i % 20)}));
        one["metadata"]["name"] = json!(format!("things{i}.g{}.example.com", i % 20));
        one
    };
    stream::iter((0..MANY).map(make))
        .for_each_concurrent(16, |one| async { drop(api.ok("POST", DEFINITIONS, one).await) })
        .await;
    let made = begun.elapsed();
    let all = |_: u16, list: &Value| {
        let items = list["items"].as_array().into_iter().flatten();
        items.filter(|d| condition(d, "Established")["status"] == "True").count() == MANY
    };
    api.until(DEFINITIONS, all).await;
    let established = begun.elapsed();
    let cost = resident().saturating_sub(before);
    let (_, groups) = api.get("/apis").await;
    let ours = groups["groups"].as_array().into_iter().flatten();
    assert_eq!(ours.filter(|g| g["name"].as_str().is_some_and(|n| n.ends_with(".example.com"))).count(), 20);
    let list = |i: usize| format!("/apis/g{}.example.com/v1/things{i}", i % 20);
    for i in [0, 7, MANY - 1] {
        assert_eq!(api.get(&list(i)).await.0, 200);
    }
    let (code, document) = api.get("/openapi/v3/apis/g7.example.com/v1").await;
    assert_eq!(code, 200);
    assert!(document["components"]["schemas"]["com.example.g7.v1.Thing7"].is_object());
    eprintln!(
        "{MANY} definitions: made in {made:?}, served after {established:?}; {} KiB each, what the store and the \
         requests took included",
        cost / MANY
    );
    // Its own record, the schema and an empty cache: a small part of this.
    assert!(cost / MANY < 512, "{} KiB each", cost / MANY);
}

#[tokio::test(flavor = "multi_thread")]
async fn documents_follow_definitions() {
    let api = Api::start().await;
    let index = |v: &Value| v["paths"]["apis/example.com/v1"]["serverRelativeURL"].as_str().map(str::to_owned);
    let (_, before) = api.get("/openapi/v3").await;
    assert_eq!(index(&before), None);
    api.define(definition(json!({}))).await;
    let (_, after) = api.get("/openapi/v3").await;
    assert_eq!(after["paths"]["apis/apps/v1"], before["paths"]["apis/apps/v1"], "others stay as they are");
    let address = index(&after).expect("it is there");
    let (code, document) = api.get(&address).await;
    assert_eq!(code, 200);
    let schema = &document["components"]["schemas"]["com.example.v1.Widget"];
    assert_eq!(schema["properties"]["spec"]["properties"]["size"]["default"], 3, "{schema:#}");
    let kinds = json!([{"group": "example.com", "kind": "Widget", "version": "v1"}]);
    assert_eq!(schema["x-kubernetes-group-version-kind"], kinds);
    let path = &document["paths"]["/apis/example.com/v1/namespaces/{namespace}/widgets/{name}/scale"];
    assert!(path["get"].is_object());
    let (_, v2) = api.get("/openapi/v2").await;
    assert!(v2["definitions"]["com.example.v1.Widget"]["properties"]["spec"].is_object());

    // Another schema is another document, and aggregated discovery has another tag when the kind is gone.
    let at = format!("{DEFINITIONS}/widgets.example.com");
    let (_, mut changed) = api.get(&at).await;
    changed["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]["properties"]["size"]["default"] =
        json!(4);
    api.ok("PUT", &at, changed).await;
    let after = api.until("/openapi/v3", |_, v| index(v).is_some_and(|a| a != address)).await;
    let (_, document) = api.get(&index(&after).expect("it is there")).await;
    let schema = &document["components"]["schemas"]["com.example.v1.Widget"];
    assert_eq!(schema["properties"]["spec"]["properties"]["size"]["default"], 4);
    api.ok("DELETE", &at, Value::Null).await;
    api.until("/openapi/v3", |_, v| index(v).is_none()).await;
    assert_eq!(api.get("/openapi/v3/apis/example.com/v1").await.0, 404);
}
