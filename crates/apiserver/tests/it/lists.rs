//! Which data a read may be of: `resourceVersion`, `resourceVersionMatch`, `limit` and `continue` in all combinations.

use serde_json::{Value, json};

use crate::harness::{Cluster, cluster, config_map};

const CM: &str = "/api/v1/namespaces/default/configmaps";

fn rv(v: &Value) -> String {
    v["metadata"]["resourceVersion"].as_str().unwrap_or_default().to_owned()
}

/// Five objects, one of them made after `MID`; `OLD` is forgotten by the store, `FUTURE` is not there yet.
struct Fixture {
    cluster: Cluster,
    old: String,
    mid: String,
    now: String,
    token: String,
    old_token: String,
}

async fn fixture() -> Fixture {
    let c = cluster().await;
    for i in 0..3 {
        c.post(CM, config_map(&format!("c{i}"), "1")).await;
    }
    let (_, page) = c.get(&format!("{CM}?limit=1")).await;
    let (old, old_token) = (rv(&page), page["metadata"]["continue"].as_str().unwrap_or_default().to_owned());
    c.post(CM, config_map("c3", "1")).await;
    let compacted = c.store.current_revision().await.expect("revision");
    let (_, page) = c.get(&format!("{CM}?limit=1")).await;
    let (mid, token) = (rv(&page), page["metadata"]["continue"].as_str().unwrap_or_default().to_owned());
    c.post(CM, config_map("c4", "1")).await;
    let (_, list) = c.get(CM).await;
    c.store.compact(compacted).await.expect("compacted");
    Fixture { cluster: c, old, mid, now: rv(&list), token, old_token }
}

impl Fixture {
    /// `CODE REASON message` of a failure; the names and `more` where there is a next page, and of which version.
    async fn list(&self, query: &str) -> String {
        let query = query
            .replace("$OLDTOKEN", &self.old_token)
            .replace("$TOKEN", &self.token)
            .replace("$OLD", &self.old)
            .replace("$MID", &self.mid)
            .replace("$NOW", &self.now)
            .replace("$FUTURE", "1000000");
        let (code, v) = self.cluster.get(&format!("{CM}?{query}")).await;
        if code != 200 {
            return format!(
                "{code} {} {}",
                v["reason"].as_str().unwrap_or("-"),
                v["message"].as_str().unwrap_or_default()
            );
        }
        let names: Vec<&str> =
            v["items"].as_array().into_iter().flatten().filter_map(|o| o["metadata"]["name"].as_str()).collect();
        let version = match rv(&v) {
            v if v == self.mid => "mid",
            v if v == self.now => "now",
            _ => "other",
        };
        let more = match (v["metadata"]["continue"].is_string(), v["metadata"]["remainingItemCount"].as_i64()) {
            (false, _) => String::new(),
            (true, None) => " more".into(),
            (true, Some(n)) => format!(" more {n}"),
        };
        format!("{version} {}{more}", names.join(","))
    }
}

#[tokio::test]
async fn every_combination_reads_what_upstream_reads() {
    let f = fixture().await;
    const ALL: &str = "now c0,c1,c2,c3,c4";
    const EXPIRED: &str = "410 Expired The resourceVersion for the provided list is too old.";
    const EXPIRED_PAGE: &str = "410 Expired The provided continue parameter is too old to display a consistent list \
                                result. You can start a new list without the continue parameter.";
    const NO_VERSION: &str = "422 Invalid ListOptions.meta.k8s.io \"\" is invalid: resourceVersionMatch: Forbidden: \
                              resourceVersionMatch is forbidden unless resourceVersion is provided";
    const NOT_ZERO: &str = "422 Invalid ListOptions.meta.k8s.io \"\" is invalid: resourceVersionMatch: Forbidden: \
                            resourceVersionMatch \"exact\" is forbidden for resourceVersion \"0\"";
    let future = format!("504 Timeout Timeout: Too large resource version: 1000000, current: {}", f.now);
    let cases: &[(&str, &str)] = &[
        // No version: linearizable.
        ("", ALL),
        ("limit=2", "now c0,c1 more 3"),
        ("limit=5", ALL),
        ("resourceVersionMatch=Exact", NO_VERSION),
        ("resourceVersionMatch=NotOlderThan", NO_VERSION),
        ("limit=2&resourceVersionMatch=NotOlderThan", NO_VERSION),
        // 0: anything, and no limit.
        ("resourceVersion=0", ALL),
        ("resourceVersion=0&limit=2", ALL),
        ("resourceVersion=0&resourceVersionMatch=NotOlderThan", ALL),
        ("resourceVersion=0&limit=2&resourceVersionMatch=NotOlderThan", ALL),
        ("resourceVersion=0&resourceVersionMatch=Exact", NOT_ZERO),
        // A version: not older than it; exact where asked, and by tradition with a limit.
        ("resourceVersion=$MID", ALL),
        ("resourceVersion=$MID&resourceVersionMatch=NotOlderThan", ALL),
        ("resourceVersion=$MID&resourceVersionMatch=NotOlderThan&limit=2", "now c0,c1 more 3"),
        ("resourceVersion=$MID&resourceVersionMatch=Exact", "mid c0,c1,c2,c3"),
        ("resourceVersion=$MID&resourceVersionMatch=Exact&limit=3", "mid c0,c1,c2 more 1"),
        ("resourceVersion=$MID&limit=3", "mid c0,c1,c2 more 1"),
        // One that is forgotten.
        ("resourceVersion=$OLD", ALL),
        ("resourceVersion=$OLD&resourceVersionMatch=NotOlderThan", ALL),
        ("resourceVersion=$OLD&resourceVersionMatch=Exact", EXPIRED),
        ("resourceVersion=$OLD&resourceVersionMatch=Exact&limit=2", EXPIRED_PAGE),
        ("resourceVersion=$OLD&limit=2", EXPIRED_PAGE),
        // One that is not there yet.
        ("resourceVersion=$FUTURE", &future),
        ("resourceVersion=$FUTURE&resourceVersionMatch=NotOlderThan", &future),
        ("resourceVersion=$FUTURE&resourceVersionMatch=Exact", &future),
        // Tokens.
        ("continue=$TOKEN", "mid c1,c2,c3"),
        ("continue=$TOKEN&limit=2", "mid c1,c2 more 1"),
        ("continue=$TOKEN&resourceVersion=0", "mid c1,c2,c3"),
        (
            "continue=$TOKEN&resourceVersion=$MID",
            "400 BadRequest specifying resource version is not allowed when using continue",
        ),
        ("continue=$OLDTOKEN", EXPIRED),
        ("continue=zz", "400 BadRequest invalid continue token: continue key is not valid: "),
        (
            "continue=$TOKEN&resourceVersion=$MID&resourceVersionMatch=Exact",
            "422 Invalid ListOptions.meta.k8s.io \"\" is invalid: resourceVersionMatch: Forbidden: resourceVersionMatch \
             is forbidden when continue is provided",
        ),
        // What selects: the count of what remains is not told.
        ("limit=1&labelSelector=!x", "now c0 more"),
        ("fieldSelector=metadata.name%3Dc2", "now c2"),
        ("fieldSelector=metadata.name!%3Dc2&limit=2", "now c0,c1 more"),
        (
            "fieldSelector=spec.x%3Dc2",
            "400 BadRequest \"spec.x\" is not a known field selector: only \"metadata.name\", \"metadata.namespace\"",
        ),
        ("labelSelector=a%20b%20c", "400 BadRequest unable to parse requirement: found 'b', expected: "),
        // Nonsense.
        (
            "resourceVersion=abc",
            "400 BadRequest invalid resource version: resourceVersion: Invalid value: \"abc\": strconv.ParseUint: \
             parsing \"abc\": invalid syntax",
        ),
        ("resourceVersion=1&resourceVersionMatch=Newest", "422 Invalid ListOptions.meta.k8s.io \"\" is invalid: "),
        (
            "sendInitialEvents=true",
            "422 Invalid ListOptions.meta.k8s.io \"\" is invalid: sendInitialEvents: Forbidden: \
             sendInitialEvents is forbidden for list",
        ),
        ("limit=x", "400 BadRequest strconv.ParseInt: parsing \"x\": invalid syntax"),
        ("timeoutSeconds=1&limit=1", "now c0 more 4"),
    ];
    for (query, expected) in cases {
        let got = f.list(query).await;
        // Refusals may say more than the case does.
        let fits = if expected.starts_with('4') { got.starts_with(expected) } else { got == *expected };
        assert!(fits, "{query}:\n  got {got}\n want {expected}");
    }
}

#[tokio::test]
async fn a_version_that_is_not_there_yet_says_when_to_come_back() {
    let f = fixture().await;
    for url in [format!("{CM}?resourceVersion=1000000"), format!("{CM}/c0?resourceVersion=1000000")] {
        let response = f.cluster.raw("GET", &url, b"", &[]).await;
        assert_eq!(response.headers().get("retry-after").map(|v| v.as_bytes()), Some(&b"1"[..]), "{url}");
        let (code, v) = f.cluster.get(&url).await;
        assert_eq!((code, v["reason"].as_str()), (504, Some("Timeout")), "{v}");
        let details = json!({
            "causes": [{"reason": "ResourceVersionTooLarge", "message": "Too large resource version"}],
            "retryAfterSeconds": 1,
        });
        assert_eq!(v["details"], details, "{url}");
    }
}

#[tokio::test]
async fn an_expired_page_goes_on_with_what_stands() {
    let f = fixture().await;
    let (code, v) = f.cluster.get(&format!("{CM}?limit=2&continue={}", f.old_token)).await;
    assert_eq!((code, v["reason"].as_str()), (410, Some("Expired")), "{v}");
    assert!(v["message"].as_str().is_some_and(|m| m.contains("or use the continue token in this response")), "{v}");
    let token = v["metadata"]["continue"].as_str().expect("a token");
    assert_eq!(f.list(&format!("limit=2&continue={token}")).await, "now c1,c2 more 2");
    let (_, v) = f.cluster.get(&format!("{CM}?limit=2&continue={token}")).await;
    let token = v["metadata"]["continue"].as_str().expect("a token");
    assert_eq!(f.list(&format!("limit=2&continue={token}")).await, "now c3,c4");
}

#[tokio::test]
async fn one_object_is_read_by_the_same_rules() {
    let f = fixture().await;
    for (version, code) in [("", 200), ("0", 200), (&*f.old, 200), (&*f.now, 200), ("x", 400)] {
        let (got, v) = f.cluster.get(&format!("{CM}/c0?resourceVersion={version}")).await;
        assert_eq!(got, code, "{version}: {v}");
    }
}

#[tokio::test]
async fn flow_schemas_are_shown_in_the_order_they_are_asked_in() {
    const SCHEMAS: &str = "/apis/flowcontrol.apiserver.k8s.io/v1/flowschemas";
    let c = cluster().await;
    for (name, precedence) in [("a", 300), ("b", 100), ("c", 200), ("d", 100)] {
        let spec = json!({"matchingPrecedence": precedence, "priorityLevelConfiguration": {"name": "exempt"}});
        let schema = json!({"metadata": {"name": name}, "spec": spec});
        let (code, answer) = c.post(SCHEMAS, schema).await;
        assert_eq!(code, 201, "{answer}");
    }
    let (_, list) = c.get(SCHEMAS).await;
    let names = |items: &Value, at: &str| -> Vec<String> {
        let items = items.as_array().into_iter().flatten();
        items.filter_map(|item| item.pointer(at)?.as_str().map(str::to_owned)).collect()
    };
    assert_eq!(names(&list["items"], "/metadata/name"), ["a", "b", "c", "d"]);
    let table = [("accept", "application/json;as=Table;v=v1;g=meta.k8s.io")];
    let (_, table) = c.send("GET", SCHEMAS, b"", &table).await;
    assert_eq!(names(&table["rows"], "/cells/0"), ["b", "d", "c", "a"]);
}

#[tokio::test]
async fn each_kind_names_the_fields_it_is_selected_by() {
    let c = crate::harness::cluster().await;
    let ask = async |url: &str, selector: &str| {
        let (code, v) = c.get(&format!("{url}?fieldSelector={selector}%3Dx")).await;
        if code == 200 { "ok".to_owned() } else { v["message"].as_str().unwrap_or_default().to_owned() }
    };
    let pods = "/api/v1/pods";
    let (events, jobs) = ("/api/v1/events", "/apis/batch/v1/jobs");
    let slices = "/apis/resource.k8s.io/v1/resourceslices";
    for (url, fields) in [
        (
            pods,
            "metadata.name metadata.namespace spec.nodeName spec.host spec.restartPolicy spec.schedulerName \
            spec.serviceAccountName spec.hostNetwork status.phase status.podIP status.podIPs status.nominatedNodeName",
        ),
        (
            events,
            "involvedObject.kind involvedObject.namespace involvedObject.name involvedObject.uid \
            involvedObject.apiVersion involvedObject.resourceVersion involvedObject.fieldPath reason \
            reportingComponent source type metadata.name metadata.namespace",
        ),
        ("/api/v1/namespaces", "metadata.name status.phase"),
        ("/api/v1/nodes", "metadata.name spec.unschedulable"),
        ("/api/v1/secrets", "type metadata.name metadata.namespace"),
        ("/api/v1/services", "spec.clusterIP spec.type metadata.name metadata.namespace"),
        ("/api/v1/replicationcontrollers", "status.replicas metadata.name metadata.namespace"),
        (jobs, "status.successful metadata.name metadata.namespace"),
        ("/apis/certificates.k8s.io/v1/certificatesigningrequests", "metadata.name spec.signerName"),
        (slices, "metadata.name spec.nodeName spec.driver"),
        // Whoever says nothing of its own takes both.
        ("/apis/storage.k8s.io/v1/storageclasses", "metadata.name metadata.namespace"),
    ] {
        for field in fields.split_whitespace() {
            assert_eq!(ask(url, field).await, "ok", "{url} {field}");
        }
    }
    let unsupported = |field: &str| format!("field label not supported: {field}");
    for (url, field, expected) in [
        (pods, "spec.foo", unsupported("spec.foo")),
        (events, "note", unsupported("note")),
        ("/api/v1/namespaces", "name", unsupported("name")),
        ("/api/v1/nodes", "metadata.namespace", unsupported("metadata.namespace")),
        (jobs, "status.failed", "field label \"status.failed\" not supported for batchv1.Job".into()),
        (slices, "spec.x", "field label not supported for resource.k8s.io/v1, Kind=ResourceSlice: spec.x".into()),
        (
            "/apis/apps/v1/deployments",
            "spec.replicas",
            "\"spec.replicas\" is not a known field selector: only \"metadata.name\", \"metadata.namespace\"".into(),
        ),
    ] {
        assert_eq!(ask(url, field).await, expected, "{url} {field}");
    }
    // The old name of the field selects by it.
    let pod = serde_json::json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"},
        "spec": {"nodeName": "n1", "containers": [{"name": "c", "image": "i"}]}});
    assert_eq!(c.post("/api/v1/namespaces/default/pods", pod).await.0, 201);
    let (_, v) = c.get(&format!("{pods}?fieldSelector=spec.host%3Dn1")).await;
    assert_eq!(v["items"].as_array().map(Vec::len), Some(1));
}
