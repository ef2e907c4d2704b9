//! Verbs, lists and watches as clients see them.

use std::sync::Arc;

use serde_json::{Value, json};

use crate::harness::{Cluster, cluster, config_map};

const CM: &str = "/api/v1/namespaces/default/configmaps";

fn rv(v: &Value) -> String {
    v["metadata"]["resourceVersion"].as_str().unwrap_or_default().to_owned()
}

#[tokio::test]
async fn an_object_lives_and_dies() {
    let c = cluster().await;
    let (code, made) = c.post(CM, config_map("a", "1")).await;
    assert_eq!(code, 201, "{made}");
    let meta = &made["metadata"];
    assert_eq!(meta["namespace"], "default");
    assert_eq!(meta["uid"].as_str().map(str::len), Some(36));
    assert!(meta["creationTimestamp"].is_string() && !rv(&made).is_empty());
    assert_eq!(meta["managedFields"][0]["operation"], "Update");
    let (code, got) = c.get(&format!("{CM}/a")).await;
    assert_eq!((code, &got), (200, &made));

    let mut wanted = got.clone();
    wanted["data"]["k"] = json!("2");
    let (code, put) = c.put(&format!("{CM}/a"), &wanted).await;
    assert_eq!(code, 200, "{put}");
    assert_ne!(rv(&put), rv(&got));
    let (code, stale) = c.put(&format!("{CM}/a"), &wanted).await;
    assert_eq!((code, stale["reason"].as_str()), (409, Some("Conflict")));
    // The same again changes nothing, so it is no write.
    let (_, again) = c.put(&format!("{CM}/a"), &put).await;
    assert_eq!(rv(&again), rv(&put));

    let (code, gone) = c.delete(&format!("{CM}/a")).await;
    assert_eq!(code, 200);
    assert_eq!(gone["status"], "Success");
    assert_eq!(gone["details"]["kind"], "configmaps");
    assert_eq!(c.get(&format!("{CM}/a")).await.0, 404);
}

#[tokio::test]
async fn a_write_is_answered_with_what_a_read_shows() {
    let c = cluster().await;
    let text = |answer: http::Response<orkd_apiserver::Body>| async {
        let bytes = http_body_util::BodyExt::collect(answer.into_body()).await.expect("body").to_bytes();
        String::from_utf8(bytes.to_vec()).expect("text")
    };
    let url = format!("{CM}/a");
    let made = text(c.raw("POST", CM, config_map("a", "1").to_string().as_bytes(), &[]).await).await;
    assert_eq!(made, text(c.raw("GET", &url, b"", &[]).await).await);
    let mut wanted: Value = serde_json::from_str(&made).expect("an object");
    wanted["data"]["k"] = json!("2");
    let put = text(c.raw("PUT", &url, wanted.to_string().as_bytes(), &[]).await).await;
    assert_eq!(put, text(c.raw("GET", &url, b"", &[]).await).await);
    assert!(put.contains(r#""data":{"k":"2"}"#), "{put}");
    // What is not stored has the version of what is, and is shown all the same.
    let merge = [("content-type", "application/merge-patch+json")];
    let dry = text(c.raw("PATCH", &format!("{url}?dryRun=All"), br#"{"data":{"k":"3"}}"#, &merge).await).await;
    assert!(dry.contains(r#""data":{"k":"3"}"#), "{dry}");
    let pretty = text(c.raw("PATCH", &format!("{url}?pretty=true"), br#"{"data":{"k":"4"}}"#, &merge).await).await;
    assert!(pretty.contains("\n    \"k\": \"4\"\n"), "{pretty}");
}

#[tokio::test]
async fn patches_of_every_form() {
    let c = cluster().await;
    c.post(CM, config_map("a", "1")).await;
    let url = format!("{CM}/a");
    let (code, v) = c.patch(&url, "application/merge-patch+json", json!({"data": {"m": "1"}})).await;
    assert_eq!((code, v["data"]["m"].as_str()), (200, Some("1")), "{v}");
    let json_patch = json!([{"op": "replace", "path": "/data/m", "value": "2"}]);
    let (code, v) = c.patch(&url, "application/json-patch+json", json_patch).await;
    assert_eq!((code, v["data"]["m"].as_str()), (200, Some("2")), "{v}");
    let (code, v) =
        c.patch(&url, "application/strategic-merge-patch+json", json!({"metadata": {"labels": {"x": "y"}}})).await;
    assert_eq!((code, v["metadata"]["labels"]["x"].as_str()), (200, Some("y")), "{v}");
    let applied = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "b"}, "data": {"k": "1"}});
    let apply = format!("{CM}/b?fieldManager=me");
    let (code, v) = c.patch(&apply, "application/apply-patch+yaml", applied.clone()).await;
    assert_eq!(code, 201, "{v}");
    assert_eq!(v["metadata"]["managedFields"][0]["operation"], "Apply");
    let (code, again) = c.patch(&apply, "application/apply-patch+yaml", applied.clone()).await;
    assert_eq!((code, rv(&again)), (200, rv(&v)), "applying again is no write");
    let other = format!("{CM}/b?fieldManager=other");
    let mut theirs = applied;
    theirs["data"]["k"] = json!("2");
    let (code, v) = c.patch(&other, "application/apply-patch+yaml", theirs.clone()).await;
    assert_eq!(code, 409, "{v}");
    let (code, v) = c.patch(&format!("{other}&force=true"), "application/apply-patch+yaml", theirs).await;
    assert_eq!((code, v["data"]["k"].as_str()), (200, Some("2")), "{v}");
}

#[tokio::test]
async fn names_are_generated_and_dry_runs_leave_nothing() {
    let c = cluster().await;
    let body = json!({"metadata": {"generateName": "gen-"}});
    let (code, v) = c.post(CM, body.clone()).await;
    assert_eq!(code, 201, "{v}");
    assert!(v["metadata"]["name"].as_str().is_some_and(|n| n.starts_with("gen-") && n.len() == 9));
    let (code, v) = c.post(&format!("{CM}?dryRun=All"), config_map("dry", "1")).await;
    assert_eq!((code, v["metadata"]["resourceVersion"].is_null()), (201, true), "{v}");
    assert_eq!(c.get(&format!("{CM}/dry")).await.0, 404);
    let (code, v) = c.post(&format!("{CM}?dryRun=Some"), config_map("dry", "1")).await;
    assert_eq!(code, 422, "{v}");
}

#[tokio::test]
async fn finalizers_and_propagation_hold_an_object() {
    let c = cluster().await;
    let mut body = config_map("held", "1");
    body["metadata"]["finalizers"] = json!(["example.com/hold"]);
    c.post(CM, body).await;
    let url = format!("{CM}/held");
    let (code, v) = c.delete(&url).await;
    assert_eq!(code, 200);
    assert!(v["metadata"]["deletionTimestamp"].is_string(), "{v}");
    assert_eq!(v["metadata"]["deletionGracePeriodSeconds"], 0);
    let (code, v) = c.patch(&url, "application/merge-patch+json", json!({"metadata": {"finalizers": null}})).await;
    assert_eq!(code, 200, "{v}");
    assert_eq!(c.get(&url).await.0, 404);

    c.post(CM, config_map("fg", "1")).await;
    let (_, v) = c.delete(&format!("{CM}/fg?propagationPolicy=Foreground")).await;
    assert_eq!(v["metadata"]["finalizers"], json!(["foregroundDeletion"]), "{v}");
    c.post(CM, config_map("or", "1")).await;
    let options = json!({"kind": "DeleteOptions", "apiVersion": "v1", "propagationPolicy": "Orphan"});
    let (_, v) = c.send("DELETE", &format!("{CM}/or"), options.to_string().as_bytes(), &[]).await;
    assert_eq!(v["metadata"]["finalizers"], json!(["orphan"]), "{v}");

    c.post(CM, config_map("pre", "1")).await;
    let options = json!({"preconditions": {"uid": "other"}});
    let (code, v) = c.send("DELETE", &format!("{CM}/pre"), options.to_string().as_bytes(), &[]).await;
    assert_eq!(code, 409, "{v}");
}

#[tokio::test]
async fn a_namespace_terminates_through_finalize() {
    let c = cluster().await;
    c.post("/api/v1/namespaces", json!({"metadata": {"name": "n"}})).await;
    let url = "/api/v1/namespaces/n";
    let (code, v) = c.delete(url).await;
    assert_eq!(code, 200, "{v}");
    assert_eq!(v["status"]["phase"], "Terminating");
    let (_, mut v) = c.get(url).await;
    v["spec"]["finalizers"] = json!([]);
    let (code, v) = c.put(&format!("{url}/finalize"), &v).await;
    assert_eq!(code, 200, "{v}");
    assert_eq!(c.get(url).await.0, 404);
}

#[tokio::test]
async fn lists_page_and_continue_tokens_hold_their_revision() {
    let c = cluster().await;
    for i in 0..5 {
        let mut body = config_map(&format!("c{i}"), "1");
        body["metadata"]["labels"] = json!({"odd": (i % 2 == 1).to_string()});
        c.post(CM, body).await;
    }
    let names = |v: &Value| -> Vec<String> {
        v["items"]
            .as_array()
            .into_iter()
            .flatten()
            .map(|o| o["metadata"]["name"].as_str().unwrap_or("").into())
            .collect()
    };
    let (_, page) = c.get(&format!("{CM}?limit=2")).await;
    assert_eq!(page["kind"], "ConfigMapList");
    assert_eq!(names(&page), ["c0", "c1"]);
    assert_eq!(page["metadata"]["remainingItemCount"], 3);
    assert!(page["items"][0]["kind"].is_null(), "items of a list have no kind");
    c.delete(&format!("{CM}/c3")).await;
    let token = page["metadata"]["continue"].as_str().unwrap_or_default();
    let (_, rest) = c.get(&format!("{CM}?limit=5&continue={token}")).await;
    assert_eq!(names(&rest), ["c2", "c3", "c4"], "the page is of the token's revision");
    assert_eq!(rv(&rest), rv(&page));
    let (_, odd) = c.get(&format!("{CM}?labelSelector=odd%3Dtrue")).await;
    assert_eq!(names(&odd), ["c1"]);
    let (_, one) = c.get(&format!("{CM}?fieldSelector=metadata.name%3Dc2")).await;
    assert_eq!(names(&one), ["c2"]);
    let (_, all) = c.get("/api/v1/configmaps?resourceVersion=0&limit=1").await;
    assert_eq!(names(&all).len(), 4, "version 0 knows no limit");
    let (_, exact) = c.get(&format!("{CM}?resourceVersion={}&resourceVersionMatch=Exact", rv(&page))).await;
    assert_eq!(names(&exact).len(), 5);
    let (code, v) = c.get(&format!("{CM}?resourceVersionMatch=Exact")).await;
    assert_eq!(code, 422, "{v}");
}

#[tokio::test]
async fn a_watch_tells_every_change_in_order() {
    let c = cluster().await;
    c.post(CM, config_map("a", "1")).await;
    let (_, list) = c.get(CM).await;
    let mut from_list = c.watch(&format!("{CM}?watch=true&resourceVersion={}", rv(&list))).await;
    let mut from_now = c.watch(&format!("{CM}?watch=1")).await;
    let selector = format!("{CM}?watch=1&labelSelector=x&resourceVersion={}", rv(&list));
    let mut selected = c.watch(&selector).await;
    let mut named =
        c.watch(&format!("{CM}?watch=1&fieldSelector=metadata.name%3Db&resourceVersion={}", rv(&list))).await;
    let mut elsewhere =
        c.watch(&format!("/api/v1/namespaces/kube-system/configmaps?watch=1&resourceVersion={}", rv(&list))).await;
    let merge = "application/merge-patch+json";
    let (_, b) = c.post(CM, config_map("b", "1")).await;
    c.patch(&format!("{CM}/a"), merge, json!({"metadata": {"labels": {"x": "1"}}})).await;
    c.patch(&format!("{CM}/a"), merge, json!({"metadata": {"labels": {"x": null}}})).await;
    c.delete(&format!("{CM}/b")).await;
    for expected in ["ADDED b", "MODIFIED a", "MODIFIED a"] {
        assert_eq!(from_list.line().await, expected);
    }
    let gone = from_list.next().await.unwrap_or_default();
    assert_eq!(gone["type"], "DELETED");
    assert_ne!(rv(&gone["object"]), rv(&b), "a removal has the revision of the removal");
    for expected in ["ADDED a", "ADDED b", "MODIFIED a", "MODIFIED a", "DELETED b"] {
        assert_eq!(from_now.line().await, expected);
    }
    for expected in ["ADDED a", "DELETED a"] {
        assert_eq!(selected.line().await, expected);
    }
    for expected in ["ADDED b", "DELETED b"] {
        assert_eq!(named.line().await, expected);
    }
    c.post("/api/v1/namespaces/kube-system/configmaps", config_map("other", "1")).await;
    assert_eq!(elsewhere.line().await, "ADDED other");
}

#[tokio::test]
async fn watch_list_ends_with_its_bookmark() {
    let c = cluster().await;
    c.post(CM, config_map("a", "1")).await;
    let url = format!(
        "{CM}?watch=1&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true&timeoutSeconds=1"
    );
    let mut events = c.watch(&url).await;
    assert_eq!(events.line().await, "ADDED a");
    let mark = events.next().await.unwrap_or_default();
    assert_eq!(mark["type"], "BOOKMARK");
    assert_eq!(mark["object"]["metadata"]["annotations"]["k8s.io/initial-events-end"], "true");
    assert!(!rv(&mark["object"]).is_empty());
    // The time of the watch is over in a second; a last bookmark may come before.
    while let Some(event) = events.next().await {
        assert_eq!(event["type"], "BOOKMARK");
    }
    let (code, v) = c.get(&format!("{CM}?watch=1&sendInitialEvents=true")).await;
    assert_eq!(code, 422, "{v}");
}

#[tokio::test]
async fn too_old_and_too_new_versions_are_told() {
    let c = cluster().await;
    let mut events = c.watch(&format!("{CM}?watch=1&resourceVersion=1&timeoutSeconds=1")).await;
    // Whether revision 1 is still known is the cache's business at this point: it was started before it.
    let _ = events.next().await;
    let (code, v) = c.get(&format!("{CM}?resourceVersion=99999999")).await;
    assert_eq!(code, 504, "{v}");
    let (code, v) = c.get(&format!("{CM}?watch=1&resourceVersion=abc")).await;
    assert_eq!(code, 400, "{v}");
}

#[tokio::test]
async fn tables_and_metadata_have_their_shapes() {
    let c = cluster().await;
    c.post(CM, config_map("a", "1")).await;
    let table = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json";
    let (_, v) = c.send("GET", CM, b"", &[("accept", table)]).await;
    assert_eq!(v["kind"], "Table");
    assert_eq!(v["columnDefinitions"][0]["name"], "Name");
    assert_eq!(v["rows"][0]["cells"][0], "a");
    assert_eq!(v["rows"][0]["object"]["kind"], "PartialObjectMetadata");
    let meta = "application/json;as=PartialObjectMetadataList;v=v1;g=meta.k8s.io";
    let (_, v) = c.send("GET", CM, b"", &[("accept", meta)]).await;
    assert_eq!(v["kind"], "PartialObjectMetadataList");
    assert!(v["items"][0]["data"].is_null() && v["items"][0]["metadata"]["uid"].is_string());
    let (code, v) = c.send("GET", CM, b"", &[("accept", "text/html")]).await;
    assert_eq!((code, v["reason"].as_str()), (406, Some("NotAcceptable")));
}

#[tokio::test]
async fn fifty_writers_lose_no_update() {
    let c = Arc::new(cluster().await);
    c.post(CM, config_map("n", "0")).await;
    let url = format!("{CM}/n");
    let one = |c: Arc<Cluster>, url: String| async move {
        loop {
            let (_, mut v) = c.get(&url).await;
            let n: u32 = v["data"]["k"].as_str().and_then(|t| t.parse().ok()).unwrap_or(0);
            v["data"]["k"] = json!((n + 1).to_string());
            match c.put(&url, &v).await {
                (200, _) => return,
                (409, _) => {}
                (code, v) => panic!("{code} {v}"),
            }
        }
    };
    let tasks: Vec<_> = (0..50).map(|_| tokio::spawn(one(c.clone(), url.clone()))).collect();
    for task in tasks {
        task.await.expect("writer");
    }
    assert_eq!(c.get(&url).await.1["data"]["k"], "50");
    // Unconditional patches of one object at once all succeed.
    let patch = |i: usize| {
        let (c, url) = (c.clone(), url.clone());
        tokio::spawn(async move {
            c.patch(&url, "application/merge-patch+json", json!({"data": {format!("p{i}"): "1"}})).await.0
        })
    };
    let tasks: Vec<_> = (0..30).map(patch).collect();
    for task in tasks {
        assert_eq!(task.await.expect("writer"), 200);
    }
    assert_eq!(c.get(&url).await.1["data"].as_object().map(serde_json::Map::len), Some(31));
}

#[tokio::test]
async fn a_slow_watcher_holds_nobody_up_and_loses_nothing() {
    let c = cluster().await;
    let (_, list) = c.get(CM).await;
    // Nobody reads this one until the end.
    let mut slow = c.watch(&format!("{CM}?watch=1&resourceVersion={}", rv(&list))).await;
    c.post(CM, config_map("n", "0")).await;
    for i in 1..=600 {
        let (code, v) =
            c.patch(&format!("{CM}/n"), "application/merge-patch+json", json!({"data": {"k": i.to_string()}})).await;
        assert_eq!(code, 200, "{v}");
    }
    assert_eq!(slow.line().await, "ADDED n");
    for i in 1..=600 {
        let event = slow.next().await.unwrap_or_default();
        assert_eq!(event["object"]["data"]["k"], i.to_string(), "{}", event["type"]);
    }
}

#[tokio::test]
async fn hostile_bodies_are_refused() {
    let c = cluster().await;
    let huge = format!("{{\"data\":{{\"k\":\"{}\"}}}}", "x".repeat(4 << 20));
    let (code, v) = c.send("POST", CM, huge.as_bytes(), &[]).await;
    assert_eq!((code, v["reason"].as_str()), (413, Some("RequestEntityTooLarge")));
    let deep = format!("{}{}", "[".repeat(200_000), "]".repeat(200_000));
    for url in [CM, "/api/v1/namespaces/default/pods"] {
        let (code, _) = c.send("POST", url, deep.as_bytes(), &[]).await;
        assert_eq!(code, 400);
    }
    let nested = format!("{{\"data\":{}1{}}}", "{\"a\":".repeat(100_000), "}".repeat(100_000));
    let (code, _) = c.send("POST", CM, nested.as_bytes(), &[]).await;
    assert_eq!(code, 400);
    c.post(CM, config_map("a", "1")).await;
    let (code, _) = c
        .send("PATCH", &format!("{CM}/a"), nested.as_bytes(), &[("content-type", "application/merge-patch+json")])
        .await;
    assert!((400..500).contains(&code), "{code}");
    for body in [&b"\xff\xfe\x00"[..], b"k8s\0\xff\xff\xff", b"null", b"[]", b"\"x\"", b"1e999"] {
        for kind in ["application/json", "application/yaml", "application/vnd.kubernetes.protobuf"] {
            let (code, v) = c.send("POST", CM, body, &[("content-type", kind)]).await;
            assert!((400..500).contains(&code), "{code} {v} for {body:?} as {kind}");
        }
    }
}

#[tokio::test]
async fn strangers_are_forbidden_in_upstreams_words() {
    let c = cluster().await;
    let headers = [("impersonate-user", "x")];
    let (code, v) = c.send("GET", "/api/v1/namespaces/default/pods", b"", &headers).await;
    assert_eq!(code, 403);
    assert_eq!(
        v["message"],
        "pods is forbidden: User \"x\" cannot list resource \"pods\" in API group \"\" in the namespace \"default\""
    );
}

#[tokio::test]
async fn a_scale_is_a_view_of_its_parent() {
    let c = cluster().await;
    let pod = json!({"metadata": {"labels": {"app": "x"}}, "spec": {"containers": [{"name": "c", "image": "i"}]}});
    let body = json!({"metadata": {"name": "d"}, "spec": {
        "replicas": 2, "selector": {"matchLabels": {"app": "x"}}, "template": pod}});
    let base = "/apis/apps/v1/namespaces/default/deployments";
    let (code, v) = c.post(base, body).await;
    assert_eq!(code, 201, "{v}");
    let url = format!("{base}/d/scale");
    let (code, mut scale) = c.get(&url).await;
    assert_eq!((code, scale["spec"]["replicas"].as_i64()), (200, Some(2)), "{scale}");
    assert_eq!(scale["status"]["selector"], "app=x");
    scale["spec"]["replicas"] = json!(5);
    let (code, v) = c.put(&url, &scale).await;
    assert_eq!((code, v["spec"]["replicas"].as_i64()), (200, Some(5)), "{v}");
    let (code, v) = c.patch(&url, "application/merge-patch+json", json!({"spec": {"replicas": 1}})).await;
    assert_eq!((code, v["spec"]["replicas"].as_i64()), (200, Some(1)), "{v}");
    let (_, v) = c.get(&format!("{base}/d")).await;
    assert_eq!(v["spec"]["replicas"], 1);
    assert_eq!(v["metadata"]["generation"], 3, "{v}");
    let applied =
        json!({"apiVersion": "autoscaling/v1", "kind": "Scale", "metadata": {"name": "d"}, "spec": {"replicas": 7}});
    let apply = |force: bool| format!("{url}?fieldManager=me&force={force}");
    let (code, v) = c.patch(&format!("{url}?fieldManager=me"), "application/apply-patch+yaml", applied.clone()).await;
    assert_eq!(code, 409, "the replicas are another's: {v}");
    let (code, v) = c.patch(&apply(true), "application/apply-patch+yaml", applied).await;
    assert_eq!((code, v["spec"]["replicas"].as_i64()), (200, Some(7)), "{v}");
    let (_, v) = c.get(&format!("{base}/d")).await;
    let owner = v["metadata"]["managedFields"].as_array().into_iter().flatten().find(|m| m["manager"] == "me");
    assert_eq!(owner.map(|m| (&m["operation"], &m["subresource"])), Some((&json!("Apply"), &json!("scale"))), "{v}");
}

#[tokio::test]
async fn protobuf_goes_both_ways() {
    let c = cluster().await;
    c.post(CM, config_map("a", "1")).await;
    let accept = [("accept", "application/vnd.kubernetes.protobuf")];
    let response = c.raw("GET", &format!("{CM}/a"), b"", &accept).await;
    assert_eq!(response.headers()["content-type"], "application/vnd.kubernetes.protobuf");
    let bytes = http_body_util::BodyExt::collect(response.into_body()).await.expect("body").to_bytes();
    assert!(bytes.starts_with(b"k8s\0"));
    c.delete(&format!("{CM}/a")).await;
    let ty = orkd_api::schema::Type::of_kind("", "v1", "ConfigMap").expect("type");
    let mut value = orkd_api::codec::protobuf::decode(&bytes, ty).expect("decodes");
    value["metadata"]["resourceVersion"] = json!("");
    let mut out = Vec::new();
    orkd_api::codec::protobuf::encode(&value, ty, &mut out);
    let kind = [("content-type", "application/vnd.kubernetes.protobuf")];
    let (code, v) = c.send("POST", CM, &out, &kind).await;
    assert_eq!((code, v["data"]["k"].as_str()), (201, Some("1")), "{v}");
}

#[tokio::test]
async fn deleting_a_collection_spares_what_is_not_selected() {
    let c = cluster().await;
    for (name, label) in [("a", "1"), ("b", "1"), ("c", "2")] {
        let mut body = config_map(name, "x");
        body["metadata"]["labels"] = json!({"l": label});
        c.post(CM, body).await;
    }
    let (code, v) = c.delete(&format!("{CM}?labelSelector=l%3D1")).await;
    assert_eq!((code, v["items"].as_array().map(Vec::len)), (200, Some(2)), "{v}");
    let (_, v) = c.get(CM).await;
    assert_eq!(v["items"].as_array().map(Vec::len), Some(1), "{v}");
}

#[tokio::test]
async fn long_lists_stream_in_every_form() {
    let c = cluster().await;
    for i in 0..40 {
        c.post(CM, config_map(&format!("c{i:02}"), &format!("{i}{}", "x".repeat(5000)))).await;
    }
    let (_, expected) = c.get(CM).await;
    assert_eq!(expected["items"].as_array().map(Vec::len), Some(40));
    let read = |r: http::Response<orkd_apiserver::Body>| async move {
        let length = r.headers().get("content-length").map(|v| v.to_str().unwrap_or_default().to_owned());
        let bytes = http_body_util::BodyExt::collect(r.into_body()).await.expect("body").to_bytes();
        assert!(length.is_none_or(|l| l == bytes.len().to_string()), "the announced length is true");
        bytes
    };
    let response = c.raw("GET", CM, b"", &[("accept-encoding", "gzip")]).await;
    assert_eq!(response.headers()["content-encoding"], "gzip");
    let bytes = read(response).await;
    let mut text = Vec::new();
    std::io::Read::read_to_end(&mut flate2::read::GzDecoder::new(&bytes[..]), &mut text).expect("gzip");
    assert_eq!(serde_json::from_slice::<Value>(&text).expect("JSON"), expected);
    let ty = orkd_api::schema::Type::of_kind("", "v1", "ConfigMapList").expect("type");
    for url in [CM.to_owned(), format!("{CM}?limit=2")] {
        let (_, expected) = c.get(&url).await;
        let bytes = read(c.raw("GET", &url, b"", &[("accept", "application/vnd.kubernetes.protobuf")]).await).await;
        let mut list = orkd_api::codec::protobuf::decode(&bytes, ty).expect("protobuf");
        for item in list["items"].as_array_mut().expect("items") {
            let map = item.as_object_mut().expect("object");
            map.remove("kind");
            map.remove("apiVersion");
        }
        assert_eq!(list, expected);
    }
}

#[tokio::test]
async fn metadata_comes_in_protobuf_too() {
    let c = cluster().await;
    c.post(CM, config_map("a", "1")).await;
    let accept = "application/vnd.kubernetes.protobuf;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1";
    let response = c.raw("GET", CM, b"", &[("accept", accept)]).await;
    assert_eq!(response.headers()["content-type"], "application/vnd.kubernetes.protobuf");
    let bytes = http_body_util::BodyExt::collect(response.into_body()).await.expect("body").to_bytes();
    let meta = orkd_api::codec::protobuf::identify(&bytes).expect("envelope");
    assert_eq!((meta.kind.as_str(), meta.api_version.as_str()), ("PartialObjectMetadataList", "meta.k8s.io/v1"));
}

#[tokio::test]
async fn events_of_both_groups_are_one_storage() {
    let c = cluster().await;
    let body = json!({
        "metadata": {"name": "e"}, "reason": "Why", "message": "what", "type": "Normal", "source": {"component": "me"},
        "involvedObject": {"kind": "Pod", "name": "p", "namespace": "default"},
    });
    let (code, v) = c.post("/api/v1/namespaces/default/events", body).await;
    assert_eq!(code, 201, "{v}");
    let (code, v) = c.get("/apis/events.k8s.io/v1/namespaces/default/events/e").await;
    assert_eq!(
        (code, v["note"].as_str(), v["apiVersion"].as_str()),
        (200, Some("what"), Some("events.k8s.io/v1")),
        "{v}"
    );
    let count = |v: &Value| v["items"].as_array().map(Vec::len);
    let core = "/api/v1/namespaces/default/events?fieldSelector=involvedObject.name%3D";
    assert_eq!(count(&c.get(&format!("{core}p")).await.1), Some(1));
    assert_eq!(count(&c.get(&format!("{core}q")).await.1), Some(0));
    let new = "/apis/events.k8s.io/v1/namespaces/default/events?fieldSelector=reason%3DWhy";
    assert_eq!(count(&c.get(new).await.1), Some(1));
}

#[tokio::test]
async fn a_token_expires_with_the_stores_history_and_says_how_to_go_on() {
    let c = cluster().await;
    for i in 0..4 {
        c.post(CM, config_map(&format!("c{i}"), "1")).await;
    }
    let (_, page) = c.get(&format!("{CM}?limit=1")).await;
    let token = page["metadata"]["continue"].as_str().unwrap_or_default();
    c.post(CM, config_map("later", "1")).await;
    let now = c.store.current_revision().await.expect("revision");
    c.store.compact(now).await.expect("compacted");
    let (code, v) = c.get(&format!("{CM}?limit=1&continue={token}")).await;
    assert_eq!((code, v["reason"].as_str()), (410, Some("Expired")), "{v}");
    let token = v["metadata"]["continue"].as_str().unwrap_or_default();
    let (code, rest) = c.get(&format!("{CM}?continue={token}")).await;
    assert_eq!((code, rest["items"].as_array().map(Vec::len)), (200, Some(4)), "{rest}");
    assert_ne!(rv(&rest), rv(&page), "the rest is of now");
}

#[tokio::test]
async fn what_lives_in_no_namespace_loses_the_one_it_names() {
    let c = cluster().await;
    const ROLES: &str = "/apis/rbac.authorization.k8s.io/v1/clusterroles";
    let role = json!({"metadata": {"name": "r", "namespace": "somewhere"}, "rules": []});
    let (code, mut v) = c.post(ROLES, role).await;
    assert_eq!((code, &v["metadata"]["namespace"]), (201, &Value::Null), "{v}");
    v["metadata"]["namespace"] = "somewhere".into();
    let (code, v) = c.put(&format!("{ROLES}/r"), &v).await;
    assert_eq!((code, &v["metadata"]["namespace"]), (200, &Value::Null), "{v}");
    let patch = json!({"metadata": {"namespace": "somewhere", "labels": {"a": "b"}}});
    let (code, v) = c.patch(&format!("{ROLES}/r"), "application/merge-patch+json", patch).await;
    assert_eq!(
        (code, &v["metadata"]["namespace"], v["metadata"]["labels"]["a"].as_str()),
        (200, &Value::Null, Some("b"))
    );
    let apply = json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole",
        "metadata": {"name": "s", "namespace": "somewhere"}});
    let (code, v) = c.patch(&format!("{ROLES}/s?fieldManager=m"), "application/apply-patch+yaml", apply).await;
    assert_eq!((code, &v["metadata"]["namespace"]), (201, &Value::Null), "{v}");
}

#[tokio::test]
async fn a_body_of_another_version_is_told_so() {
    let c = cluster().await;
    let check = async |url: &str, api_version: &str, kind: &str, want: &str| {
        let (code, v) = c.post(url, json!({"apiVersion": api_version, "kind": kind, "metadata": {"name": "x"}})).await;
        let message = v["message"].as_str().unwrap_or_default();
        assert!(code == 400 && message == want, "{api_version} {kind}: {code} {message}");
    };
    let scheme = "in scheme \"pkg/api/legacyscheme/scheme.go:30\"";
    check(
        "/api/v1/namespaces",
        "v2",
        "Namespace",
        &format!("Namespace in version \"v2\" cannot be handled as a Namespace: no kind \"Namespace\" is registered for version \"v2\" {scheme}"),
    )
    .await;
    let url = "/apis/autoscaling/v1/namespaces/default/horizontalpodautoscalers";
    let other = "the API version in the data (autoscaling/v2) does not match the expected API version (autoscaling/v1)";
    check(url, "autoscaling/v2", "HorizontalPodAutoscaler", other).await;
}

#[tokio::test]
async fn dependents_of_the_oldest_kinds_stay_where_nobody_says_otherwise() {
    let c = cluster().await;
    let pod = json!({"metadata": {"labels": {"a": "b"}},
        "spec": {"restartPolicy": "Always", "containers": [{"name": "c", "image": "i"}]}});
    let mut once = pod.clone();
    once["spec"]["restartPolicy"] = "Never".into();
    let controller =
        json!({"metadata": {"name": "x"}, "spec": {"replicas": 0, "selector": {"a": "b"}, "template": pod}});
    let job = json!({"metadata": {"name": "x"}, "spec": {"template": once}});
    for (url, body, warns) in [
        ("/api/v1/namespaces/default/replicationcontrollers", controller, false),
        ("/apis/batch/v1/namespaces/default/jobs", job, true),
    ] {
        let one = format!("{url}/x");
        assert_eq!(c.post(url, body.clone()).await.0, 201, "{url}");
        let response = c.raw("DELETE", &one, b"", &[]).await;
        let warning = response.headers().get("warning").and_then(|w| w.to_str().ok()).unwrap_or_default().to_owned();
        assert_eq!(warning.contains("child pods are preserved by default when jobs are deleted"), warns, "{url}");
        let (_, v) = c.get(&one).await;
        assert_eq!(
            v["metadata"]["finalizers"],
            json!(["orphan"]),
            "{url}: the garbage collector lets go of them first"
        );
        let freed = json!({"metadata": {"finalizers": null}});
        c.patch(&one, "application/merge-patch+json", freed).await;
        assert_eq!(c.post(url, body).await.0, 201, "{url}");
        let response = c.raw("DELETE", &format!("{one}?propagationPolicy=Background"), b"", &[]).await;
        assert!(response.headers().get("warning").is_none(), "{url}");
        assert_eq!(c.get(&one).await.0, 404, "{url}");
    }
}

#[tokio::test]
async fn what_the_system_fills_in_is_not_for_clients_to_say() {
    let c = cluster().await;
    let url = "/api/v1/namespaces/default/configmaps";
    let mut asked = crate::harness::config_map("x", "1");
    for (field, value) in [("selfLink", json!("/x")), ("deletionGracePeriodSeconds", json!(5)), ("uid", json!("u"))] {
        asked["metadata"][field] = value;
    }
    let (code, mut v) = c.post(url, asked).await;
    let meta = &v["metadata"];
    assert_eq!(
        (code, &meta["selfLink"], &meta["deletionGracePeriodSeconds"]),
        (201, &Value::Null, &Value::Null),
        "{v}"
    );
    assert_ne!(meta["uid"], "u");
    v["metadata"]["selfLink"] = "/x".into();
    let (code, v) = c.put(&format!("{url}/x"), &v).await;
    assert_eq!((code, &v["metadata"]["selfLink"]), (200, &Value::Null), "{v}");
    // These two are made where they are put, others are not.
    let class = json!({"metadata": {"name": "x"}, "handler": "h"});
    assert_eq!(c.put("/apis/node.k8s.io/v1/runtimeclasses/x", &class).await.0, 201);
    let service = json!({"metadata": {"name": "x"}, "spec": {"type": "ExternalName", "externalName": "a.b"}});
    assert_eq!(c.put("/api/v1/namespaces/default/services/x", &service).await.0, 201);
    assert_eq!(c.put(&format!("{url}/y"), &crate::harness::config_map("y", "1")).await.0, 404);
}
