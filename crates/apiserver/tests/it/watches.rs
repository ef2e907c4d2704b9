//! Watches: where they begin, what they tell, when they end.

use futures_util::{SinkExt, StreamExt};
use http_body_util::BodyExt;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use crate::harness::{Cluster, cluster, cluster_with, config_map};
use crate::socket::listening;

const CM: &str = "/api/v1/namespaces/default/configmaps";

fn rv(v: &Value) -> String {
    v["metadata"]["resourceVersion"].as_str().unwrap_or_default().to_owned()
}

fn labelled(name: &str, label: &str) -> Value {
    let mut object = config_map(name, "1");
    object["metadata"]["labels"] = json!({"l": label});
    object
}

/// Two objects and their version, a forgotten version.
async fn fixture() -> (Cluster, String, String) {
    let c = cluster().await;
    let (_, first) = c.post(CM, config_map("a", "1")).await;
    c.post(CM, config_map("b", "1")).await;
    let (_, list) = c.get(CM).await;
    (c, rv(&first), rv(&list))
}

#[tokio::test]
async fn options_are_checked_as_upstream_does() {
    let (c, _, now) = fixture().await;
    let cases = [
        (
            "resourceVersionMatch=NotOlderThan",
            "resourceVersionMatch: Forbidden: resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided",
        ),
        (
            "sendInitialEvents=true",
            "resourceVersionMatch: Forbidden: sendInitialEvents requires setting resourceVersionMatch to NotOlderThan",
        ),
        (
            "sendInitialEvents=true&resourceVersionMatch=Exact",
            "[resourceVersionMatch: Forbidden: sendInitialEvents requires setting resourceVersionMatch to NotOlderThan, resourceVersionMatch: Unsupported value: \"Exact\": supported values: \"NotOlderThan\"]",
        ),
        (
            "sendInitialEvents=true&resourceVersionMatch=NotOlderThan&continue=x",
            "resourceVersionMatch: Forbidden: resourceVersionMatch is forbidden when continue is provided",
        ),
    ];
    for (query, expected) in cases {
        let (code, v) = c.get(&format!("{CM}?watch=1&resourceVersion={now}&{query}")).await;
        let want = format!("ListOptions.meta.k8s.io \"\" is invalid: {expected}");
        assert_eq!((code, v["message"].as_str()), (422, Some(want.as_str())), "{query}");
    }
}

#[tokio::test]
async fn a_watch_begins_where_it_is_told_to() {
    let (c, first, now) = fixture().await;
    let whole = "ADDED a,ADDED b,ADDED later";
    let cases = [
        ("".to_owned(), whole),
        ("resourceVersion=0".to_owned(), whole),
        (format!("resourceVersion={first}"), "ADDED b,ADDED later"),
        (format!("resourceVersion={now}"), "ADDED later"),
        // A version that is not there yet is waited for.
        ("resourceVersion=1000000".to_owned(), ""),
        ("sendInitialEvents=true&resourceVersionMatch=NotOlderThan".to_owned(), whole),
        (format!("sendInitialEvents=true&resourceVersionMatch=NotOlderThan&resourceVersion={first}"), whole),
        ("sendInitialEvents=false&resourceVersionMatch=NotOlderThan".to_owned(), "ADDED later"),
        ("sendInitialEvents=false&resourceVersionMatch=NotOlderThan&resourceVersion=0".to_owned(), "ADDED later"),
        (
            format!("sendInitialEvents=false&resourceVersionMatch=NotOlderThan&resourceVersion={first}"),
            "ADDED b,ADDED later",
        ),
    ];
    let mut watches = Vec::new();
    for (query, expected) in cases {
        let watch = c.watch(&format!("{CM}?watch=1&timeoutSeconds=1&{query}")).await;
        watches.push((query, expected, watch));
    }
    c.post(CM, config_map("later", "1")).await;
    for (query, expected, mut watch) in watches {
        let mut lines = Vec::new();
        loop {
            match watch.line().await.as_str() {
                "end" => break,
                line => lines.push(line.to_owned()),
            }
        }
        assert_eq!(lines.join(","), expected, "{query}");
    }
}

#[tokio::test]
async fn a_streamed_list_ends_with_a_marked_bookmark() {
    let (c, _, now) = fixture().await;
    let query = "watch=1&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true";
    for accept in ["", "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1"] {
        let response = c.raw("GET", &format!("{CM}?{query}&timeoutSeconds=5"), b"", &[("accept", accept)]).await;
        let mut watch = crate::harness::Events::of(response);
        assert_eq!([watch.line().await, watch.line().await], ["ADDED a", "ADDED b"]);
        let mark = watch.next().await.expect("a bookmark");
        assert_eq!(mark["type"], "BOOKMARK");
        assert_eq!(mark["object"]["metadata"]["annotations"]["k8s.io/initial-events-end"], "true");
        assert_eq!(rv(&mark["object"]), now);
        let kind = if accept.is_empty() { "ConfigMap" } else { "PartialObjectMetadata" };
        assert_eq!(mark["object"]["kind"], kind);
    }
    // Without leave for bookmarks there is none.
    let mut watch = c
        .watch(&format!("{CM}?watch=1&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&timeoutSeconds=1"))
        .await;
    assert_eq!([watch.line().await, watch.line().await, watch.line().await], ["ADDED a", "ADDED b", "end"]);
}

#[tokio::test]
async fn a_forgotten_version_is_an_event_of_the_stream() {
    let (c, _, _) = fixture().await;
    // A server that starts knows nothing of what was before.
    let c = c.restarted().await;
    let (code, events) = c.get(&format!("{CM}?watch=1&resourceVersion=1&timeoutSeconds=1")).await;
    assert_eq!((code, events["type"].as_str()), (200, Some("ERROR")), "{events}");
    let status = &events["object"];
    assert_eq!((status["code"].as_i64(), status["reason"].as_str()), (Some(410), Some("Expired")));
    let message = status["message"].as_str().unwrap_or_default();
    assert!(message.starts_with("too old resource version: 1 ("), "{message}");
}

#[tokio::test]
async fn selectors_make_additions_and_deletions() {
    let c = cluster().await;
    c.post(CM, labelled("in", "1")).await;
    c.post(CM, labelled("out", "2")).await;
    let (_, list) = c.get(CM).await;
    let query = format!("watch=1&timeoutSeconds=1&resourceVersion={}", rv(&list));
    let mut watch = c.watch(&format!("{CM}?{query}&labelSelector=l%3D1")).await;
    let mut named = c.watch(&format!("{CM}?{query}&fieldSelector=metadata.name%3Dout")).await;
    let set = |label: &str| json!({"metadata": {"labels": {"l": label}}});
    for (name, label) in [("out", "3"), ("out", "1"), ("in", "2")] {
        c.patch(&format!("{CM}/{name}"), "application/merge-patch+json", set(label)).await;
    }
    c.patch(&format!("{CM}/out"), "application/merge-patch+json", json!({"data": {"k": "2"}})).await;
    c.delete(&format!("{CM}/in")).await;
    c.delete(&format!("{CM}/out")).await;
    let mut seen = Vec::new();
    let mut last = Value::Null;
    while let Some(event) = watch.next().await {
        let object = &event["object"];
        seen.push(format!(
            "{} {} {}",
            event["type"].as_str().unwrap_or_default(),
            object["metadata"]["name"].as_str().unwrap_or_default(),
            object["metadata"]["labels"]["l"].as_str().unwrap_or_default()
        ));
        last = event;
    }
    // What leaves the selection is shown as it was, with the version of the change.
    assert_eq!(seen, ["ADDED out 1", "DELETED in 1", "MODIFIED out 1", "DELETED out 1"]);
    assert!(rv(&last["object"]).parse::<u64>().unwrap_or(0) > rv(&list).parse().unwrap_or(0));
    let mut lines = Vec::new();
    loop {
        match named.line().await.as_str() {
            "end" => break,
            line => lines.push(line.to_owned()),
        }
    }
    assert_eq!(lines, ["MODIFIED out", "MODIFIED out", "MODIFIED out", "DELETED out"]);
}

#[tokio::test]
async fn a_bookmark_comes_before_the_end() {
    let (c, _, now) = fixture().await;
    let query = format!("watch=1&timeoutSeconds=3&resourceVersion={now}");
    let mut with = c.watch(&format!("{CM}?{query}&allowWatchBookmarks=true")).await;
    let mut without = c.watch(&format!("{CM}?{query}")).await;
    // Another resource's change moves the version that the bookmark tells.
    let (_, other) = c.post("/api/v1/namespaces/default/secrets", json!({"metadata": {"name": "s"}})).await;
    let mark = with.next().await.expect("a bookmark");
    assert_eq!(mark["type"], "BOOKMARK");
    assert_eq!(
        mark["object"],
        json!({
            "kind": "ConfigMap", "apiVersion": "v1",
            "metadata": {"resourceVersion": rv(&mark["object"])},
        })
    );
    let number = |v: &Value| rv(v).parse::<u64>().unwrap_or(0);
    assert!(number(&mark["object"]) >= number(&other), "{mark}");
    assert_eq!([with.line().await, without.line().await], ["end", "end"]);
}

#[tokio::test]
async fn bookmarks_come_about_once_a_minute() {
    let (c, _, now) = fixture().await;
    let url = format!("{CM}?watch=1&timeoutSeconds=600&allowWatchBookmarks=true&resourceVersion={now}");
    let mut body = c.raw("GET", &url, b"", &[]).await.into_body();
    // From here on time passes as soon as nobody has anything to do.
    tokio::time::pause();
    let begun = tokio::time::Instant::now();
    for expected in [54..=67, 114..=127] {
        let frame = body.frame().await.expect("the watch is open").expect("a frame").into_data().expect("data");
        let event: Value = serde_json::from_slice(&frame).expect("an event");
        assert_eq!((&event["type"], rv(&event["object"])), (&json!("BOOKMARK"), now.clone()));
        let after = begun.elapsed().as_secs();
        assert!(expected.contains(&after), "after {after} s");
    }
}

#[tokio::test]
async fn a_stopping_server_ends_watches_and_sends_others_away() {
    let stop = CancellationToken::new();
    let c = cluster_with(|b| b.stopping(stop.clone())).await;
    let mut watch = c.watch(&format!("{CM}?watch=1")).await;
    c.post(CM, config_map("a", "1")).await;
    assert_eq!(watch.line().await, "ADDED a");
    stop.cancel();
    assert_eq!(watch.line().await, "end");
    let response = c.raw("GET", CM, b"", &[]).await;
    assert_eq!(response.status(), 429);
    assert_eq!(response.headers()["retry-after"], "5");
    assert_eq!(response.headers()["connection"], "close");
    let text = response.into_body().collect().await.expect("body").to_bytes();
    assert_eq!(text, "The apiserver is shutting down, please try again later.\n");
    assert_eq!(c.raw("GET", "/livez", b"", &[]).await.status(), 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watch_over_websocket_has_an_event_a_message() {
    let c = cluster().await;
    c.post(CM, config_map("a", "1")).await;
    let server = listening(&c).await;
    for (accept, is_text) in [("application/json", true), ("application/vnd.kubernetes.protobuf", false)] {
        let request = http::Request::get(format!("wss://127.0.0.1:{}{CM}?watch=1", server.port))
            .header("host", "127.0.0.1")
            .header("accept", accept)
            .header("connection", "Upgrade")
            .header("upgrade", "websocket")
            .header("sec-websocket-version", "13")
            .header("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ==")
            .body(())
            .expect("request");
        let stream = server.connect().await;
        let (mut socket, response) = tokio_tungstenite::client_async(request, stream).await.expect("switches");
        assert_eq!(response.status(), 101);
        let message = socket.next().await.expect("a message").expect("no error");
        assert_eq!(message.is_text(), is_text);
        if is_text {
            let event: Value = serde_json::from_slice(&message.into_data()).expect("JSON");
            assert_eq!(
                (event["type"].as_str(), event["object"]["metadata"]["name"].as_str()),
                (Some("ADDED"), Some("a"))
            );
        } else {
            assert!(message.into_data().starts_with(b"\x0a\x05ADDED\x12"), "an event without a frame");
        }
        socket.close(None).await.expect("closes");
        let _ = socket.flush().await;
    }
    server.stop.cancel();
    server.task.await.expect("ends");
}
