//! What is answered to `Accept`, `Accept-Encoding` and `Content-Type`.

use http_body_util::BodyExt;
use serde_json::{Value, json};

use crate::harness::{Cluster, Events, cluster, config_map};

const CM: &str = "/api/v1/namespaces/default/configmaps";
const TABLE: &str = "application/json;as=Table;g=meta.k8s.io;v=v1";
const PROTOBUF: &str = "application/vnd.kubernetes.protobuf";
const ONLY: &str = "only the following media types are accepted: application/json, application/yaml, application/vnd.kubernetes.protobuf";

/// What upstream's router says of media types that none of a route's are named by.
const ROUTED: &str = "406: Not Acceptable\n\nAvailable representations: application/json, application/yaml, application/vnd.kubernetes.protobuf";
const STREAMS: &str = ", application/json;stream=watch, application/vnd.kubernetes.protobuf;stream=watch";

/// `CODE TYPE kind`, or `CODE reason: message`.
async fn ask(c: &Cluster, method: &str, url: &str, body: &str, headers: &[(&str, &str)]) -> String {
    let response = c.raw(method, url, body.as_bytes(), headers).await;
    let code = response.status().as_u16();
    let ty = response.headers().get("content-type").and_then(|v| v.to_str().ok()).unwrap_or_default().to_owned();
    let bytes = response.into_body().collect().await.expect("body").to_bytes();
    if ty.starts_with(PROTOBUF) {
        let meta = orkd_api::codec::protobuf::identify(&bytes).expect("envelope");
        return format!("{code} protobuf {}", meta.kind);
    }
    if ty == "application/yaml" {
        let text = String::from_utf8_lossy(&bytes);
        let kind = text.lines().find_map(|l| l.strip_prefix("kind: ")).unwrap_or_default();
        return format!("{code} yaml {kind}");
    }
    let v: Value = serde_json::from_slice(&bytes).expect("JSON");
    if v["kind"] == "Status" && v["status"] == "Failure" {
        let text = |f: &str| v[f].as_str().unwrap_or_default().to_owned();
        return format!("{code} {}: {}", text("reason"), text("message"));
    }
    format!("{code} {ty} {}", v["kind"].as_str().unwrap_or_default())
}

#[tokio::test]
async fn answers_come_as_they_are_accepted() {
    let c = cluster().await;
    c.post(CM, config_map("a", "1")).await;
    let not_acceptable = format!("406 NotAcceptable: {ONLY}");
    let one_routed = format!("406 NotAcceptable: {ROUTED}");
    let many_routed = format!("406 NotAcceptable: {ROUTED}{STREAMS}");
    let table_or_protobuf = format!("{PROTOBUF};as=Table;g=meta.k8s.io;v=v1");
    let protobuf_next = format!("{table_or_protobuf},{TABLE}");
    let metadata = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1";
    let metadata_list = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1";
    let one = format!("{CM}/a");
    let cases: &[(&str, &str, &str)] = &[
        ("", &one, "200 application/json ConfigMap"),
        ("*/*", CM, "200 application/json ConfigMapList"),
        ("application/json;q=0.2,application/yaml;q=0.9", CM, "200 yaml ConfigMapList"),
        (PROTOBUF, CM, "200 protobuf ConfigMapList"),
        (PROTOBUF, &one, "200 protobuf ConfigMap"),
        ("application/cbor", CM, &many_routed),
        ("application/cbor,application/json;q=0.5", CM, "200 application/json ConfigMapList"),
        ("text/html", &one, &one_routed),
        ("application/*", &one, &one_routed),
        (TABLE, CM, "200 application/json Table"),
        (TABLE, &one, "200 application/json Table"),
        ("application/yaml;as=Table;g=meta.k8s.io;v=v1", CM, "200 yaml Table"),
        ("application/json;as=Table;g=meta.k8s.io;v=v1beta1", CM, "200 application/json Table"),
        ("application/json;as=Table;g=meta.k8s.io;v=v2", CM, &not_acceptable),
        (&table_or_protobuf, CM, &not_acceptable),
        (&protobuf_next, CM, "200 application/json Table"),
        (metadata, &one, "200 application/json PartialObjectMetadata"),
        (metadata_list, CM, "200 application/json PartialObjectMetadataList"),
        (
            metadata,
            CM,
            "406 NotAcceptable: you requested PartialObjectMetadata, but the requested object is a list (*core.ConfigMapList)",
        ),
        (
            metadata_list,
            &one,
            "406 NotAcceptable: you requested PartialObjectMetadataList, but the requested object is not a list (*core.ConfigMap)",
        ),
        // A failure has no other shape; it comes in what is accepted, or in JSON.
        (TABLE, "/api/v1/namespaces/default/configmaps/none", "404 NotFound: configmaps \"none\" not found"),
        (PROTOBUF, "/api/v1/namespaces/default/configmaps/none", "404 protobuf Status"),
    ];
    for (accept, url, expected) in cases {
        let headers = [("accept", *accept)];
        assert_eq!(
            ask(&c, "GET", url, "", &headers[usize::from(accept.is_empty())..]).await,
            *expected,
            "{accept} {url}"
        );
    }
}

#[tokio::test]
async fn writes_answer_in_other_shapes_too() {
    let c = cluster().await;
    let body = config_map("a", "1").to_string();
    let metadata = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1";
    assert_eq!(ask(&c, "POST", CM, &body, &[("accept", metadata)]).await, "201 application/json PartialObjectMetadata");
    let url = format!("{CM}/a");
    assert_eq!(ask(&c, "PUT", &url, &body, &[("accept", TABLE)]).await, "200 application/json Table");
    let patch = [("accept", TABLE), ("content-type", "application/merge-patch+json")];
    assert_eq!(ask(&c, "PATCH", &url, "{\"data\":{\"x\":\"y\"}}", &patch).await, "200 application/json Table");
    assert_eq!(ask(&c, "DELETE", &url, "", &[("accept", TABLE)]).await, "200 application/json Status");
    c.post(CM, config_map("b", "1")).await;
    assert_eq!(ask(&c, "DELETE", CM, "", &[("accept", TABLE)]).await, "200 application/json Table");
}

#[tokio::test]
async fn bodies_of_unknown_encodings_are_refused() {
    let c = cluster().await;
    let text = "415 UnsupportedMediaType: the body of the request was in an unknown format - accepted media types \
                include: application/json, application/yaml, application/vnd.kubernetes.protobuf";
    for kind in ["application/cbor", "text/plain", "application/x-www-form-urlencoded"] {
        assert_eq!(ask(&c, "POST", CM, "{}", &[("content-type", kind)]).await, text, "{kind}");
    }
    c.post(CM, config_map("a", "1")).await;
    let (code, v) =
        c.send("PATCH", &format!("{CM}/a"), b"{}", &[("content-type", "application/apply-patch+cbor")]).await;
    assert_eq!((code, v["reason"].as_str()), (415, Some("UnsupportedMediaType")), "{v}");
    let yaml = "metadata: {name: a-b}\ndata: {k: v}\n";
    let kind = [("content-type", "application/yaml; charset=utf-8")];
    assert_eq!(ask(&c, "POST", CM, yaml, &kind).await, "201 application/json ConfigMap");
}

#[tokio::test]
async fn json_is_indented_for_people() {
    let c = cluster().await;
    c.post(CM, config_map("a", "1")).await;
    let is_pretty = async |query: &str, headers: &[(&str, &str)]| {
        let response = c.raw("GET", &format!("{CM}/a{query}"), b"", headers).await;
        let bytes = response.into_body().collect().await.expect("body").to_bytes();
        bytes.starts_with(b"{\n  \"kind\": \"ConfigMap\",\n  \"apiVersion\": \"v1\",\n  \"metadata\": {\n    \"name\"")
    };
    for (query, headers, expected) in [
        ("", vec![], false),
        ("?pretty=true", vec![], true),
        ("?pretty=1", vec![], true),
        ("?pretty=0", vec![("user-agent", "curl/8")], false),
        ("?pretty=", vec![], false),
        ("", vec![("user-agent", "curl/8.1")], true),
        ("", vec![("user-agent", "Mozilla/5.0 (X11)")], true),
        ("", vec![("accept", "application/json;pretty=1")], true),
    ] {
        assert_eq!(is_pretty(query, &headers).await, expected, "{query} {headers:?}");
    }
}

#[tokio::test]
async fn long_answers_alone_are_compressed() {
    let c = cluster().await;
    c.post(CM, config_map("small", "1")).await;
    c.post(CM, config_map("large", &"x".repeat(140 * 1024))).await;
    let encoding = async |url: &str, accept: &str| {
        let response = c.raw("GET", url, b"", &[("accept-encoding", accept)]).await;
        let encoding = response.headers().get("content-encoding").map(|v| v.to_str().unwrap_or_default().to_owned());
        (encoding, response.headers().get("vary").is_some())
    };
    assert_eq!(encoding(&format!("{CM}/small"), "gzip").await, (None, false));
    assert_eq!(encoding(&format!("{CM}/large"), "deflate, gzip;q=0.5").await, (Some("gzip".into()), true));
    assert_eq!(encoding(&format!("{CM}/large"), "identity").await, (None, false));
    assert_eq!(encoding(CM, "gzip").await, (Some("gzip".into()), true));
}

#[tokio::test]
async fn tables_hold_what_is_asked_for() {
    let c = cluster().await;
    c.post(CM, config_map("a", "1")).await;
    let table = async |query: &str| {
        let (code, v) = c.send("GET", &format!("{CM}{query}"), b"", &[("accept", TABLE)]).await;
        assert!(code == 200 || code == 400, "{v}");
        v
    };
    let v = table("").await;
    assert_eq!(v["rows"][0]["cells"][0], "a");
    assert_eq!(v["rows"][0]["object"]["kind"], "PartialObjectMetadata");
    assert_eq!(v["rows"][0]["object"]["apiVersion"], "meta.k8s.io/v1");
    assert_eq!(v["columnDefinitions"][0]["name"], "Name");
    assert!(table("?includeObject=None").await["rows"][0]["object"].is_null());
    assert_eq!(table("?includeObject=Object").await["rows"][0]["object"]["data"]["k"], "1");
    assert_eq!(
        table("?includeObject=All").await["message"],
        "Unable to convert to Table as requested: includeObject: Invalid value: \"All\": must be 'Metadata', 'Object', 'None', or empty"
    );
    assert_eq!(c.get(&format!("{CM}?includeObject=All")).await.0, 200, "it is about tables only");
}

#[tokio::test]
async fn watches_come_in_other_shapes_too() {
    let c = cluster().await;
    c.post(CM, config_map("a", "1")).await;
    c.post(CM, config_map("b", "1")).await;
    let url = format!("{CM}?watch=1&timeoutSeconds=1");
    let not_streamed = format!("406 NotAcceptable: {ROUTED}{STREAMS}");
    assert_eq!(ask(&c, "GET", &url, "", &[("accept", "application/cbor")]).await, not_streamed);
    for accept in ["application/yaml", "application/yaml,application/json"] {
        assert_eq!(ask(&c, "GET", &url, "", &[("accept", accept)]).await, "406 yaml Status", "{accept}");
    }
    let mut table = Events::of(c.raw("GET", &url, b"", &[("accept", TABLE)]).await);
    let (first, second) = (table.next().await.expect("first"), table.next().await.expect("second"));
    assert_eq!(first["object"]["columnDefinitions"][0]["name"], "Name");
    assert_eq!(first["object"]["rows"][0]["cells"][0], "a");
    assert_eq!(second["object"]["columnDefinitions"], Value::Null, "headers come once");
    assert_eq!(second["object"]["rows"][0]["cells"][0], "b");
    let accept = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1";
    let mut metadata = Events::of(c.raw("GET", &url, b"", &[("accept", accept)]).await);
    let event = metadata.next().await.expect("an event");
    assert_eq!(event["object"]["kind"], "PartialObjectMetadata");
    assert_eq!(event["object"].as_object().map(serde_json::Map::len), Some(3), "{event}");
    let response = c.raw("GET", &url, b"", &[("accept", PROTOBUF)]).await;
    assert_eq!(response.headers()["content-type"], "application/vnd.kubernetes.protobuf;stream=watch");
}

#[tokio::test]
async fn a_scale_is_shown_like_other_objects() {
    let c = cluster().await;
    let pod = json!({"metadata": {"labels": {"app": "x"}}, "spec": {"containers": [{"name": "c", "image": "i"}]}});
    let body = json!({"metadata": {"name": "d"}, "spec": {"selector": {"matchLabels": {"app": "x"}}, "template": pod}});
    let base = "/apis/apps/v1/namespaces/default/deployments";
    assert_eq!(c.post(base, body).await.0, 201);
    let scale = format!("{base}/d/scale");
    assert_eq!(ask(&c, "GET", &scale, "", &[("accept", PROTOBUF)]).await, "200 protobuf Scale");
    let metadata = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1";
    assert_eq!(ask(&c, "GET", &scale, "", &[("accept", metadata)]).await, "200 application/json PartialObjectMetadata");
    let body = json!({"metadata": {"name": "d"}, "spec": {"replicas": 3}}).to_string();
    for (method, body) in [("PUT", body.as_bytes()), ("GET", b"")] {
        let (code, v) = c.send(method, &scale, body, &[("accept", TABLE), ("content-type", "application/json")]).await;
        let names: Vec<&str> =
            v["columnDefinitions"].as_array().into_iter().flatten().filter_map(|c| c["name"].as_str()).collect();
        assert_eq!((code, names), (200, vec!["Name", "Desired", "Available", "Age"]), "{v}");
        let cells = &v["rows"][0]["cells"];
        assert_eq!((&cells[0], &cells[1], &cells[2]), (&json!("d"), &json!(3), &json!(0)), "{v}");
    }
}

#[tokio::test]
async fn discovery_comes_as_it_is_accepted() {
    let c = cluster().await;
    let routed = format!("406 NotAcceptable: {ROUTED}");
    let only = format!("406 NotAcceptable: {ONLY}");
    let aggregated = |media: &str| format!("{media};g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList");
    let json = aggregated("application/json");
    for (accept, url, expected) in [
        (PROTOBUF, "/api", "200 protobuf APIVersions"),
        (PROTOBUF, "/apis", "200 protobuf APIGroupList"),
        (PROTOBUF, "/apis/apps", "200 protobuf APIGroup"),
        (PROTOBUF, "/api/v1", "200 protobuf APIResourceList"),
        (PROTOBUF, "/apis/apps/v1", "200 protobuf APIResourceList"),
        ("application/yaml", "/apis/apps/v1", "200 yaml APIResourceList"),
        (&aggregated(PROTOBUF), "/apis", "200 protobuf APIGroupDiscoveryList"),
        (&aggregated(PROTOBUF), "/api", "200 protobuf APIGroupDiscoveryList"),
        (&format!("application/json,{json}"), "/apis", &format!("200 {json} APIGroupDiscoveryList")),
        (&json, "/apis/apps", &only),
        (TABLE, "/apis", &only),
        (TABLE, "/api/v1", &only),
        ("text/html", "/apis", &only),
        ("text/html", "/apis/apps", &only),
        ("text/html", "/api", &routed),
        ("text/html", "/api/v1", &routed),
        ("text/html", "/apis/apps/v1", &routed),
    ] {
        assert_eq!(ask(&c, "GET", url, "", &[("accept", accept)]).await, expected, "{accept} {url}");
    }
    let version = ask(&c, "GET", "/version", "", &[("accept", "text/html")]).await;
    assert_eq!(version, "406 NotAcceptable: 406: Not Acceptable\n\nAvailable representations: application/json");
    let version = ask(&c, "GET", "/version", "", &[("accept", "application/yaml")]).await;
    assert_eq!(version, "406 yaml Status", "a failure comes as it is accepted");
}

/// The JSON form and the protobuf form of a document of discovery say the same.
#[tokio::test]
async fn protobuf_discovery_says_what_json_says() {
    let c = cluster().await;
    let body = async |url: &str, accept: &str| {
        let response = c.raw("GET", url, b"", &[("accept", accept)]).await;
        assert_eq!(response.status(), 200, "{url} {accept}");
        let headers = response.headers().clone();
        (headers, response.into_body().collect().await.expect("body").to_bytes())
    };
    let aggregated = ";g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";
    for (url, params) in [
        ("/api", ""),
        ("/apis", ""),
        ("/apis/apps", ""),
        ("/apis/apps/v1", ""),
        ("/api", aggregated),
        ("/apis", aggregated),
    ] {
        let (headers, json) = body(url, &format!("application/json{params}")).await;
        let (other, protobuf) = body(url, &format!("{PROTOBUF}{params}")).await;
        let json: Value = serde_json::from_slice(&json).expect("JSON");
        let api_version = json["apiVersion"].as_str().unwrap_or_default();
        let ty = orkd_api::schema::Type::of_api_version(api_version, json["kind"].as_str().expect("a kind"));
        let mut decoded = orkd_api::codec::protobuf::decode(&protobuf, ty.expect("a type")).expect("decoded");
        // A zero is written in protobuf and left out of JSON.
        fn without_empty(value: &mut Value) {
            match value {
                Value::Object(map) => {
                    map.values_mut().for_each(without_empty);
                    map.retain(|_, v| !v.is_null() && *v != json!("") && *v != json!({}) && *v != json!([]));
                }
                Value::Array(list) => list.iter_mut().for_each(without_empty),
                _ => {}
            }
        }
        let mut json = json;
        for value in [&mut json, &mut decoded] {
            without_empty(value);
            for field in ["apiVersion", "kind"] {
                value.as_object_mut().expect("an object").remove(field);
            }
        }
        assert_eq!(decoded, json, "{url}{params}");
        assert_eq!(headers.get("etag"), other.get("etag"), "the tag is that of the JSON form");
    }
}

#[tokio::test]
async fn discovery_may_be_kept_as_long_as_it_is_the_same() {
    let c = cluster().await;
    let accept = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";
    let first = c.raw("GET", "/apis", b"", &[("accept", accept)]).await;
    let text = |name: &str| first.headers()[name].to_str().expect("text").to_owned();
    let tag = text("etag");
    assert_eq!((tag.len(), text("vary"), text("cache-control")), (130, "Accept".into(), "public".into()));
    let again = c.raw("GET", "/apis", b"", &[("accept", accept), ("if-none-match", &tag)]).await;
    assert_eq!((again.status().as_u16(), again.headers()["etag"].to_str().expect("text")), (304, &*tag));
    for url in ["/api", "/apis"] {
        let plain = c.raw("GET", url, b"", &[("accept", "application/json")]).await;
        assert_eq!((plain.headers()["vary"].to_str().expect("text"), plain.headers().get("etag")), ("Accept", None));
    }
}
