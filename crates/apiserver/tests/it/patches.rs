//! Patches of all forms through the server: what is refused and how, who owns what.

use serde_json::{Value, json};

use crate::harness::{Cluster, cluster, config_map};

const CM: &str = "/api/v1/namespaces/default/configmaps";
const DEPLOYMENTS: &str = "/apis/apps/v1/namespaces/default/deployments";
const JSON: &str = "application/json-patch+json";
const MERGE: &str = "application/merge-patch+json";
const STRATEGIC: &str = "application/strategic-merge-patch+json";
const APPLY: &str = "application/apply-patch+yaml";

fn rv(v: &Value) -> String {
    v["metadata"]["resourceVersion"].as_str().unwrap_or_default().to_owned()
}

fn deployment(name: &str) -> Value {
    json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": name}, "spec": {
        "replicas": 2, "selector": {"matchLabels": {"app": "x"}},
        "template": {"metadata": {"labels": {"app": "x"}}, "spec": {"containers": [
            {"name": "a", "image": "i", "ports": [{"containerPort": 80}], "env": [{"name": "A", "value": "1"}]},
        ]}},
    }})
}

/// `manager operation subresource` of every entry.
fn managers(object: &Value) -> Vec<String> {
    let list = object["metadata"]["managedFields"].as_array();
    let text = |e: &Value, f: &str| e[f].as_str().unwrap_or("-").to_owned();
    let line = |e: &Value| format!("{} {} {}", text(e, "manager"), text(e, "operation"), text(e, "subresource"));
    list.into_iter().flatten().map(line).collect()
}

fn fields<'v>(object: &'v Value, manager: &str) -> &'v Value {
    let list = object["metadata"]["managedFields"].as_array();
    list.into_iter().flatten().find(|e| e["manager"] == manager).map_or(&Value::Null, |e| &e["fieldsV1"])
}

async fn check(c: &Cluster, url: &str, kind: &str, patch: Value, expected: &str) {
    let (code, v) = c.patch(url, kind, patch.clone()).await;
    let got = format!("{code} {} {}", v["reason"].as_str().unwrap_or("-"), v["message"].as_str().unwrap_or_default());
    assert!(got.trim_end().starts_with(expected), "{kind} {patch}:\n  got {got}\n want {expected}");
}

#[tokio::test]
async fn values_of_the_wrong_type_are_refused_in_upstreams_words() {
    let c = cluster().await;
    assert_eq!(c.post(DEPLOYMENTS, deployment("d")).await.0, 201);
    let d = format!("{DEPLOYMENTS}/d");
    let invalid = "422 Invalid  \"\" is invalid: patch: Invalid value: ";
    check(
        &c,
        &d,
        STRATEGIC,
        json!({"spec": {"replicas": "x"}}),
        &format!("{invalid}\"map[spec:map[replicas:x]]\": unrecognized type: int32"),
    )
    .await;
    check(
        &c,
        &d,
        STRATEGIC,
        json!({"spec": {"template": []}}),
        &format!("{invalid}\"map[spec:map[template:[]]]\": cannot restore struct from: slice"),
    )
    .await;
    check(&c, &d, MERGE, json!({"spec": {"replicas": "x"}}), invalid).await;
    let (_, v) = c.patch(&d, MERGE, json!({"spec": {"replicas": "x"}})).await;
    let message = v["message"].as_str().unwrap_or_default();
    assert!(
        message
            .ends_with("json: cannot unmarshal string into Go struct field DeploymentSpec.spec.replicas of type int32"),
        "{message}"
    );
    check(&c, &d, MERGE, json!([]), "400 BadRequest ").await;
    check(&c, &d, STRATEGIC, json!("x"), "400 BadRequest ").await;
    check(&c, &d, JSON, json!([{"op": "replace", "path": "/nope/x", "value": 1}]), "422 Invalid ").await;
    check(&c, &d, JSON, json!([{"op": "jump", "path": "/nope"}]), "422 Invalid ").await;
}

#[tokio::test]
async fn a_configuration_that_does_not_fit_is_a_failed_typed_object() {
    let c = cluster().await;
    let url = format!("{DEPLOYMENTS}/d?fieldManager=m");
    let of = |spec: Value| json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "d", "namespace": "default"}, "spec": spec});
    let failed = "500 - failed to create typed patch object (default/d; apps/v1, Kind=Deployment): ";
    for (spec, text) in [
        (json!({"replicas": "x"}), ".spec.replicas: expected numeric (int or float), got string"),
        (json!({"nope": 1}), ".spec.nope: field not declared in schema"),
        (json!({"paused": "yes"}), ".spec.paused: expected boolean, got &{yes}"),
        (json!({"selector": []}), ".spec.selector: expected map, got &{[]}"),
        (
            json!({"template": {"spec": {"containers": [{"name": "a"}, {"name": "a"}]}}}),
            ".spec.template.spec.containers: duplicate entries for key [name=\"a\"]",
        ),
    ] {
        check(&c, &url, APPLY, of(spec), &format!("{failed}{text}")).await;
    }
    check(&c, &url, APPLY, json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "d"}}), "400 BadRequest ")
        .await;
    let mut managed = of(json!({}));
    managed["metadata"]["managedFields"] = json!([{"manager": "x"}]);
    check(&c, &url, APPLY, managed, "400 BadRequest metadata.managedFields must be nil").await;
    let none = format!("{DEPLOYMENTS}/d");
    check(&c, &none, APPLY, of(json!({})), "422 Invalid PatchOptions.meta.k8s.io \"\" is invalid: fieldManager: Required value: is required for apply patch").await;
    let (code, v) = c.send("PATCH", &url, b"a: 1\na: 2\n: ", &[("content-type", APPLY)]).await;
    assert_eq!((code, v["reason"].as_str()), (400, Some("BadRequest")), "{v}");
}

#[tokio::test]
async fn unknown_and_double_fields_follow_the_field_validation() {
    let c = cluster().await;
    c.post(CM, config_map("a", "1")).await;
    let unknown = br#"{"nope":1,"data":{"x":"1"}}"#.as_slice();
    let double = br#"{"data":{"x":"1","x":"2"}}"#.as_slice();
    for (body, text) in [(unknown, "unknown field \"nope\""), (double, "duplicate field \"data.x\"")] {
        for kind in [MERGE, STRATEGIC] {
            let send = |mode: &str| {
                let url = format!("{CM}/a?fieldValidation={mode}");
                let c = &c;
                async move {
                    let response = c.raw("PATCH", &url, body, &[("content-type", kind)]).await;
                    let warning = response.headers().get("warning").map(|v| v.to_str().unwrap_or_default().to_owned());
                    (response.status().as_u16(), warning)
                }
            };
            let warning = format!("299 - \"{}\"", text.replace('"', "\\\""));
            assert_eq!(send("Warn").await, (200, Some(warning)), "{kind}");
            assert_eq!(send("Ignore").await, (200, None), "{kind}");
            assert_eq!(send("Strict").await, (422, None), "{kind}");
            let strict = format!("{CM}/a?fieldValidation=Strict");
            let (_, v) = c.send("PATCH", &strict, body, &[("content-type", kind)]).await;
            let message = v["message"].as_str().unwrap_or_default();
            assert!(message.ends_with(&format!("strict decoding error: {text}")), "{kind}: {message}");
        }
    }
}

#[tokio::test]
async fn every_directive_of_a_strategic_patch_works() {
    let c = cluster().await;
    assert_eq!(c.post(DEPLOYMENTS, deployment("d")).await.0, 201);
    let d = format!("{DEPLOYMENTS}/d");
    let spec = |pod: Value| json!({"spec": {"template": {"spec": pod}}});
    let names = |v: &Value| -> Vec<String> {
        let list = v["spec"]["template"]["spec"]["containers"].as_array();
        list.into_iter().flatten().map(|c| c["name"].as_str().unwrap_or_default().to_owned()).collect()
    };
    // A new element of a list goes where the patch says.
    let order = json!({"$setElementOrder/containers": [{"name": "b"}, {"name": "a"}], "containers": [{"name": "b", "image": "j"}]});
    let (code, v) = c.patch(&d, STRATEGIC, spec(order)).await;
    assert_eq!((code, names(&v)), (200, vec!["b".into(), "a".into()]), "{v}");
    let (_, v) = c.patch(&d, STRATEGIC, spec(json!({"containers": [{"name": "b", "$patch": "delete"}]}))).await;
    assert_eq!(names(&v), ["a"]);
    let env = json!({"containers": [{"name": "a", "env": [{"name": "B", "value": "2"}]}]});
    let (_, v) = c.patch(&d, STRATEGIC, spec(env)).await;
    assert_eq!(v["spec"]["template"]["spec"]["containers"][0]["env"].as_array().map(Vec::len), Some(2));
    let env = json!({"containers": [{"name": "a", "env": [{"$patch": "replace"}, {"name": "C", "value": "3"}]}]});
    let (_, v) = c.patch(&d, STRATEGIC, spec(env)).await;
    assert_eq!(v["spec"]["template"]["spec"]["containers"][0]["env"], json!([{"name": "C", "value": "3"}]));
    // The strategy's parameters go with its type.
    let strategy = json!({"spec": {"strategy": {"$retainKeys": ["type"], "type": "Recreate"}}});
    let (code, v) = c.patch(&d, STRATEGIC, strategy).await;
    assert_eq!((code, &v["spec"]["strategy"]), (200, &json!({"type": "Recreate"})), "{v}");
    let labels = json!({"metadata": {"labels": {"$patch": "replace", "only": "this"}}});
    c.patch(&d, STRATEGIC, json!({"metadata": {"labels": {"x": "y"}, "finalizers": ["a.b/c", "a.b/d"]}})).await;
    let (_, v) = c.patch(&d, STRATEGIC, labels).await;
    assert_eq!(v["metadata"]["labels"], json!({"only": "this"}));
    let (_, v) = c.patch(&d, STRATEGIC, json!({"metadata": {"$deleteFromPrimitiveList/finalizers": ["a.b/c"]}})).await;
    assert_eq!(v["metadata"]["finalizers"], json!(["a.b/d"]), "{v}");
    check(
        &c,
        &d,
        STRATEGIC,
        json!({"metadata": {"labels": {"$patch": "jump"}}}),
        "500 - unknown patch type: jump in map: map[$patch:jump]",
    )
    .await;
    check(
        &c,
        &d,
        STRATEGIC,
        spec(json!({"containers": [{"image": "x"}]})),
        "500 - map: map[image:x] does not contain declared merge key: name",
    )
    .await;
}

#[tokio::test]
async fn each_door_owns_its_own_fields() {
    let c = cluster().await;
    let apply = |manager: &str, sub: &str| format!("{DEPLOYMENTS}/d{sub}?fieldManager={manager}");
    let (code, v) = c.patch(&apply("one", ""), APPLY, deployment("d")).await;
    assert_eq!((code, managers(&v)), (201, vec!["one Apply -".into()]), "{v}");
    // Through the main door a status is nobody's, through its own the spec is.
    let mut with_status = deployment("d");
    with_status["status"] = json!({"replicas": 5});
    let (_, v) = c.patch(&apply("one", ""), APPLY, with_status).await;
    assert!(fields(&v, "one")["f:status"].is_null() && v["status"]["replicas"].is_null(), "{v}");
    let status = json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "d"},
        "spec": {"replicas": 9}, "status": {"replicas": 2}});
    let (code, v) = c.patch(&apply("two", "/status"), APPLY, status).await;
    assert_eq!(
        (code, v["spec"]["replicas"].as_i64(), v["status"]["replicas"].as_i64()),
        (200, Some(2), Some(2)),
        "{v}"
    );
    assert_eq!(fields(&v, "two"), &json!({"f:status": {"f:replicas": {}}}));
    assert_eq!(managers(&v), ["one Apply -", "two Apply status"]);
    // The scale's owner takes the replicas from the object's.
    let (code, _) =
        c.patch(&format!("{DEPLOYMENTS}/d/scale?fieldManager=hpa"), MERGE, json!({"spec": {"replicas": 4}})).await;
    assert_eq!(code, 200);
    let (_, v) = c.get(&format!("{DEPLOYMENTS}/d")).await;
    assert_eq!(fields(&v, "hpa"), &json!({"f:spec": {"f:replicas": {}}}));
    assert!(fields(&v, "one")["f:spec"]["f:replicas"].is_null(), "{v}");
    assert_eq!(managers(&v), ["one Apply -", "two Apply status", "hpa Update scale"]);
    // Who gives everything up is forgotten.
    let nothing = json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "d"}});
    let (_, v) = c.patch(&apply("two", "/status"), APPLY, nothing).await;
    assert_eq!(managers(&v), ["one Apply -", "hpa Update scale"], "{v}");
    assert!(v["status"]["replicas"].is_null(), "{v}");
}

#[tokio::test]
async fn a_write_of_no_change_is_none() {
    let c = cluster().await;
    let (_, made) = c.patch(&format!("{DEPLOYMENTS}/d?fieldManager=m"), APPLY, deployment("d")).await;
    let d = format!("{DEPLOYMENTS}/d");
    let (_, again) = c.patch(&format!("{d}?fieldManager=m"), APPLY, deployment("d")).await;
    assert_eq!(again, made, "times included");
    for (kind, patch) in [
        (MERGE, json!({"spec": {"replicas": 2}})),
        (MERGE, json!({"metadata": {"labels": null}})),
        (STRATEGIC, json!({"spec": {"template": {"spec": {"containers": [{"name": "a", "image": "i"}]}}}})),
        (JSON, json!([{"op": "replace", "path": "/spec/replicas", "value": 2}])),
        (JSON, json!([])),
    ] {
        let (code, v) = c.patch(&format!("{d}?fieldManager=other"), kind, patch).await;
        assert_eq!((code, rv(&v)), (200, rv(&made)), "{kind}");
        assert_eq!(v["metadata"]["managedFields"], made["metadata"]["managedFields"]);
    }
    let (_, v) = c.put(&d, &made).await;
    assert_eq!(rv(&v), rv(&made));
    let (_, v) = c.patch(&format!("{d}?fieldManager=other&dryRun=All"), MERGE, json!({"spec": {"replicas": 3}})).await;
    assert_eq!((v["spec"]["replicas"].as_i64(), rv(&v)), (Some(3), rv(&made)), "a dry run changes no version");
}

#[tokio::test]
async fn a_client_side_apply_moves_over() {
    let c = cluster().await;
    // What kubectl writes: the configuration in an annotation, by its own name.
    let mut first = config_map("a", "1");
    first["metadata"]["annotations"] =
        json!({"kubectl.kubernetes.io/last-applied-configuration": config_map("a", "1").to_string()});
    c.post(&format!("{CM}?fieldManager=kubectl-client-side-apply"), first).await;
    let url = format!("{CM}/a?fieldManager=kubectl");
    let (code, v) = c.patch(&url, APPLY, config_map("a", "2")).await;
    assert_eq!((code, v["data"]["k"].as_str()), (200, Some("2")), "no conflict with itself: {v}");
    let last = v["metadata"]["annotations"]["kubectl.kubernetes.io/last-applied-configuration"].as_str();
    assert!(last.is_some_and(|l| l.contains("\"2\"")), "the annotation follows: {last:?}");
    // Then kubectl joins the two entries.
    let index = managers(&v).iter().position(|m| m.starts_with("kubectl-client-side-apply"));
    if let Some(index) = index {
        let patch = json!([
            {"op": "remove", "path": format!("/metadata/managedFields/{index}")},
            {"op": "replace", "path": "/metadata/resourceVersion", "value": rv(&v)},
        ]);
        let (code, v) = c.patch(&format!("{CM}/a"), JSON, patch).await;
        assert_eq!((code, managers(&v)), (200, vec!["kubectl Apply -".into()]), "{v}");
    }
}

#[tokio::test]
async fn a_patch_neither_renames_an_object_nor_changes_its_type() {
    let c = cluster().await;
    assert_eq!(c.post(DEPLOYMENTS, deployment("d")).await.0, 201);
    let d = format!("{DEPLOYMENTS}/d");
    let other_name = "400 BadRequest the name of the object (e) does not match the name on the URL (d)";
    let other_namespace =
        "400 BadRequest the namespace of the provided object does not match the namespace sent on the request";
    for kind in [MERGE, STRATEGIC] {
        check(&c, &d, kind, json!({"metadata": {"name": "e"}}), other_name).await;
        check(&c, &d, kind, json!({"metadata": {"namespace": "kube-system"}}), other_namespace).await;
        let (code, v) = c.patch(&d, kind, json!({"metadata": {"namespace": null}})).await;
        assert_eq!((code, v["metadata"]["namespace"].as_str()), (200, Some("default")), "{v}");
    }
    let nameless = "400 BadRequest the name of the object (d based on URL) was undeterminable: name must be provided";
    check(&c, &d, JSON, json!([{"op": "replace", "path": "", "value": {}}]), nameless).await;
    // Nobody looks at the type in a patch by merge keys; after the others the object is what it says to be.
    for (patch, problem) in [
        (json!({"kind": "Foo"}), "no kind \"Foo\" is registered for version \"apps/v1\""),
        (json!({"apiVersion": "apps/v9"}), "no kind \"Deployment\" is registered for version \"apps/v9\""),
        (json!({"apiVersion": "v1", "kind": "Pod"}), "converting (v1.Pod) to (apps.Deployment): unknown conversion"),
    ] {
        let (code, v) = c.patch(&d, STRATEGIC, patch.clone()).await;
        assert_eq!((code, v["kind"].as_str(), v["apiVersion"].as_str()), (200, Some("Deployment"), Some("apps/v1")));
        let (code, v) = c.patch(&d, MERGE, patch.clone()).await;
        let message = v["message"].as_str().unwrap_or_default();
        assert!(code == 422 && message.contains(problem), "{patch}: {code} {message}");
    }
    let (_, v) = c.get(&d).await;
    assert_eq!((v["kind"].as_str(), v["apiVersion"].as_str()), (Some("Deployment"), Some("apps/v1")));
    // What is applied must say its name, where it does not stand yet.
    let unnamed = json!({"apiVersion": "apps/v1", "kind": "Deployment"});
    assert_eq!(c.patch(&format!("{d}?fieldManager=m"), APPLY, unnamed.clone()).await.0, 200);
    let missing = nameless.replace("(d based", "(f based");
    check(&c, &format!("{DEPLOYMENTS}/f?fieldManager=m"), APPLY, unnamed, &missing).await;
    let mut scale = c.get(&format!("{d}/scale")).await.1;
    scale["metadata"]["name"] = "e".into();
    let (code, v) = c.put(&format!("{d}/scale"), &scale).await;
    assert_eq!(format!("{code} BadRequest {}", v["message"].as_str().unwrap_or_default()), other_name);
}

#[tokio::test]
async fn operations_of_a_json_patch_are_validated_like_fields() {
    let c = cluster().await;
    c.post(CM, config_map("a", "1")).await;
    let of = |mode: &str| format!("{CM}/a?fieldValidation={mode}");
    let decoding = "400 BadRequest error decoding patch: json: cannot unmarshal ";
    check(&c, &of("Warn"), JSON, json!({}), &format!("{decoding}object into Go value of type []handlers.jsonPatchOp"))
        .await;
    check(&c, &of("Warn"), JSON, json!(["x"]), &format!("{decoding}string into Go value of type handlers.jsonPatchOp"))
        .await;
    let number = format!("{decoding}number into Go struct field jsonPatchOp.op of type string");
    check(&c, &of("Strict"), JSON, json!([{"op": 1}]), &number).await;
    check(
        &c,
        &of("Ignore"),
        JSON,
        json!({}),
        "400 BadRequest json: cannot unmarshal object into Go value of type jsonpatch.Patch",
    )
    .await;
    let body = br#"[{"op":"add","op":"add","path":"/data/b","value":"2","more":1}]"#;
    let texts = ["json patch duplicate field \"[0].op\"", "json patch unknown field \"[0].more\""];
    let response = c.raw("PATCH", &of("Warn"), body, &[("content-type", JSON)]).await;
    let warnings: Vec<String> = response.headers().get_all("warning").iter().map(|w| format!("{w:?}")).collect();
    assert_eq!((response.status().as_u16(), warnings.len()), (200, 2), "{warnings:?}");
    let (code, v) = c.send("PATCH", &of("Strict"), body, &[("content-type", JSON)]).await;
    let message = v["message"].as_str().unwrap_or_default();
    assert!(code == 422 && message.ends_with(&format!("strict decoding error: {}", texts.join(", "))), "{message}");
    // The decoder of strategic patches says nothing more than Go's.
    for (kind, text) in [(STRATEGIC, "unexpected end"), (MERGE, "error decoding patch: unexpected end")] {
        let (code, v) = c.send("PATCH", &of("Warn"), b"{", &[("content-type", kind)]).await;
        assert!(code == 400 && v["message"].as_str().is_some_and(|m| m.starts_with(text)), "{kind}: {v}");
    }
}
