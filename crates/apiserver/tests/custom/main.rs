//! Custom resources over HTTP, against a whole API server.

mod burst;
#[path = "../common/mod.rs"]
mod common;
mod conversion;
mod harness;

use common::World;
use harness::{Api, DEFINITIONS, Events, WIDGETS, condition, definition, widget};
use orkd_apiserver::user::UserInfo;
use serde_json::{Value, json};

#[tokio::test(flavor = "multi_thread")]
async fn what_is_defined_is_served() {
    let api = Api::start().await;
    let (code, _) = api.get(WIDGETS).await;
    assert_eq!(code, 404);
    let defined = api.define(definition(json!({}))).await;
    let reasons: Vec<&Value> =
        defined["status"]["conditions"].as_array().expect("conditions").iter().map(|c| &c["reason"]).collect();
    assert_eq!(reasons, ["NoConflicts", "InitialNamesAccepted"]);
    assert_eq!(defined["status"]["acceptedNames"], defined["spec"]["names"]);
    assert_eq!(defined["status"]["storedVersions"], json!(["v1"]));

    // Whoever sees that it is established can ask at once.
    let (_, groups) = api.get("/apis").await;
    assert!(groups["groups"].as_array().expect("groups").iter().any(|g| g["name"] == "example.com"));
    let (_, list) = api.get("/apis/example.com/v1").await;
    let names: Vec<&Value> = list["resources"].as_array().expect("resources").iter().map(|r| &r["name"]).collect();
    assert_eq!(names, ["widgets", "widgets/scale", "widgets/status"]);

    let made = api.ok("POST", WIDGETS, widget("a", json!({"color": "red", "unknown": 1}))).await;
    assert_eq!(made["spec"], json!({"color": "red", "size": 3}), "pruned and with defaults");
    assert_eq!((&made["metadata"]["generation"], &made["kind"]), (&json!(1), &json!("Widget")));
    let (_, got) = api.get(&format!("{WIDGETS}/a")).await;
    assert_eq!(got, made);
    let (_, list) = api.get(WIDGETS).await;
    assert_eq!((&list["kind"], &list["items"][0]), (&json!("WidgetList"), &made), "items say what they are");

    let mut changed = made.clone();
    changed["spec"]["size"] = json!(4);
    let changed = api.ok("PUT", &format!("{WIDGETS}/a"), changed).await;
    assert_eq!(changed["metadata"]["generation"], 2);
    let (code, refused) = api.call("PUT", &format!("{WIDGETS}/a"), made.clone()).await;
    assert_eq!((code, &refused["reason"]), (409, &json!("Conflict")));
    let (code, refused) = api.call("POST", WIDGETS, json!({"apiVersion": "example.com/v2", "kind": "Widget"})).await;
    let text = "the API version in the data (example.com/v2) does not match the expected API version (example.com/v1)";
    assert_eq!((code, &refused["message"]), (400, &json!(text)));
    let (code, refused) =
        api.call("POST", &format!("{WIDGETS}?fieldValidation=Strict"), widget("b", json!({"nope": 1}))).await;
    assert_eq!(code, 400, "{refused}");
    assert!(refused["message"].as_str().expect("text").contains("unknown field \"spec.nope\""), "{refused}");
    let (code, refused) = api.call("POST", WIDGETS, widget("b", json!({"size": "big"}))).await;
    assert_eq!((code, &refused["details"]["causes"][0]["field"]), (422, &json!("spec.size")), "{refused}");
    let (code, dry) = api.call("POST", &format!("{WIDGETS}?dryRun=All"), widget("b", json!({}))).await;
    assert_eq!((code, api.get(&format!("{WIDGETS}/b")).await.0), (201, 404), "{dry}");

    let gone = api.ok("DELETE", &format!("{WIDGETS}/a"), Value::Null).await;
    assert_eq!(gone["status"], "Success");
    assert_eq!(api.get(&format!("{WIDGETS}/a")).await.0, 404);
}

#[tokio::test(flavor = "multi_thread")]
async fn patches_apply_and_the_other_doors() {
    let api = Api::start().await;
    api.define(definition(json!({}))).await;
    let a = format!("{WIDGETS}/a");
    let (code, made) = api
        .patch(&format!("{a}?fieldManager=me"), "apply-patch+yaml", widget("a", json!({"color": "red", "replicas": 2})))
        .await;
    assert_eq!(code, 201, "{made}");
    let owned = &made["metadata"]["managedFields"][0];
    assert_eq!((&owned["manager"], &owned["operation"]), (&json!("me"), &json!("Apply")));
    assert_eq!(owned["fieldsV1"], json!({"f:spec": {"f:color": {}, "f:replicas": {}}}));
    let (code, conflict) =
        api.patch(&format!("{a}?fieldManager=you"), "apply-patch+yaml", widget("a", json!({"color": "blue"}))).await;
    assert_eq!((code, &conflict["reason"]), (409, &json!("Conflict")));
    let (code, merged) = api.patch(&a, "merge-patch+json", json!({"spec": {"size": 7, "color": null}})).await;
    assert_eq!((code, &merged["spec"]), (200, &json!({"replicas": 2, "size": 7})));
    let (code, patched) =
        api.patch(&a, "json-patch+json", json!([{"op": "add", "path": "/spec/color", "value": "green"}])).await;
    assert_eq!((code, &patched["spec"]["color"]), (200, &json!("green")));
    let (code, refused) = api.patch(&a, "strategic-merge-patch+json", json!({"spec": {"size": 8}})).await;
    let text = "the body of the request was in an unknown format - accepted media types include: \
                application/json-patch+json, application/merge-patch+json, application/apply-patch+yaml";
    assert_eq!((code, &refused["message"]), (415, &json!(text)));

    // Status and spec have doors of their own.
    let status = json!({"status": {"replicas": 1, "selector": "app=a"}, "spec": {"size": 99}});
    let (code, told) = api.patch(&format!("{a}/status"), "merge-patch+json", status.clone()).await;
    assert_eq!((code, &told["status"]["replicas"], &told["spec"]["size"]), (200, &json!(1), &json!(7)));
    let (_, told) = api.patch(&a, "merge-patch+json", json!({"status": {"replicas": 5}})).await;
    assert_eq!(told["status"]["replicas"], 1);
    let (_, scale) = api.get(&format!("{a}/scale")).await;
    assert_eq!((&scale["kind"], &scale["spec"]), (&json!("Scale"), &json!({"replicas": 2})));
    assert_eq!(scale["status"], json!({"replicas": 1, "selector": "app=a"}));
    let (code, scaled) = api.patch(&format!("{a}/scale"), "merge-patch+json", json!({"spec": {"replicas": 5}})).await;
    assert_eq!((code, &scaled["spec"]["replicas"]), (200, &json!(5)), "{scaled}");
    let (_, got) = api.get(&a).await;
    assert_eq!((&got["spec"]["replicas"], &got["metadata"]["generation"]), (&json!(5), &json!(4)));

    // Selectable fields, tables, metadata alone.
    api.ok("POST", WIDGETS, widget("b", json!({"color": "blue"}))).await;
    let (code, list) = api.get(&format!("{WIDGETS}?fieldSelector=spec.color%3Dblue")).await;
    let names: Vec<&Value> = list["items"]
        .as_array()
        .unwrap_or_else(|| panic!("{code} {list}"))
        .iter()
        .map(|i| &i["metadata"]["name"])
        .collect();
    assert_eq!(names, ["b"]);
    let (code, refused) = api.get(&format!("{WIDGETS}?fieldSelector=spec.size%3D1")).await;
    assert_eq!(code, 400, "{refused}");
    let table = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json";
    let (_, _, body) = api.raw("GET", WIDGETS, &[("accept", table)], Vec::new()).await;
    let table: Value = serde_json::from_slice(&body).expect("a table");
    let columns: Vec<&Value> =
        table["columnDefinitions"].as_array().expect("columns").iter().map(|c| &c["name"]).collect();
    assert_eq!((&table["kind"], columns), (&json!("Table"), vec![&json!("Name"), &json!("Size")]));
    assert_eq!(table["rows"][0]["cells"], json!(["a", 7]));
    let metadata = "application/vnd.kubernetes.protobuf;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1";
    let (code, media, body) = api.raw("GET", WIDGETS, &[("accept", metadata)], Vec::new()).await;
    assert_eq!((code, media.as_str()), (200, "application/vnd.kubernetes.protobuf"));
    assert!(body.starts_with(b"k8s\0"));

    // There is no protobuf of the objects themselves.
    let protobuf = "application/vnd.kubernetes.protobuf";
    let (code, _, body) = api.raw("GET", &a, &[("accept", protobuf)], Vec::new()).await;
    assert_eq!(code, 406, "{}", String::from_utf8_lossy(&body));
    let (code, media, _) = api.raw("GET", &a, &[("accept", &format!("{protobuf},application/json"))], Vec::new()).await;
    assert_eq!((code, media.as_str()), (200, "application/json"));
    let (code, _, body) = api.raw("POST", WIDGETS, &[("content-type", protobuf)], b"k8s\0\x0a\x00".to_vec()).await;
    assert_eq!(code, 400, "{}", String::from_utf8_lossy(&body));
}

#[tokio::test(flavor = "multi_thread")]
async fn who_deletes_a_definition_deletes_its_objects() {
    let api = Api::start().await;
    api.define(definition(json!({}))).await;
    let at = format!("{DEFINITIONS}/widgets.example.com");
    let mut kept = widget("kept", json!({}));
    kept["metadata"]["finalizers"] = json!(["example.com/mine"]);
    api.ok("POST", WIDGETS, kept).await;
    api.ok("POST", WIDGETS, widget("free", json!({}))).await;
    let mut events = Events::of(&api, &format!("{WIDGETS}?watch=true&resourceVersion=0")).await;
    for name in ["free", "kept"] {
        assert_eq!(events.next().await.expect("an event")["object"]["metadata"]["name"], name);
    }
    let deleted = api.ok("DELETE", &at, Value::Null).await;
    assert_eq!(deleted["metadata"]["finalizers"], json!(["customresourcecleanup.apiextensions.k8s.io"]));
    assert_eq!(condition(&deleted, "Terminating")["reason"], "InstanceDeletionPending");
    api.until(&format!("{WIDGETS}/free"), |code, _| code == 404).await;
    let waiting = api.until(&at, |_, d| condition(d, "Terminating")["reason"] == "InstanceDeletionInProgress").await;
    assert_eq!(condition(&waiting, "Terminating")["status"], "True");
    let (code, refused) = api.call("POST", WIDGETS, widget("late", json!({}))).await;
    let text = "create not allowed while custom resource definition is terminating";
    assert_eq!((code, &refused["message"]), (405, &json!(text)));
    let (code, _) =
        api.patch(&format!("{WIDGETS}/kept"), "merge-patch+json", json!({"metadata": {"finalizers": null}})).await;
    assert_eq!(code, 200);
    api.until(&at, |code, _| code == 404).await;
    api.until(WIDGETS, |code, _| code == 404).await;
    let mut kinds = Vec::new();
    while let Some(event) = events.next().await {
        kinds.push(format!("{} {}", event["type"].as_str().unwrap_or_default(), event["object"]["metadata"]["name"]));
    }
    assert_eq!(kinds.first().map(String::as_str), Some("DELETED \"free\""));
    assert_eq!(kinds.last().map(String::as_str), Some("DELETED \"kept\""));
    let (_, groups) = api.get("/apis").await;
    assert!(!groups.to_string().contains("example.com"));

    // Made again, it is empty.
    api.define(definition(json!({}))).await;
    let (code, list) = api.get(WIDGETS).await;
    assert_eq!((code, &list["items"]), (200, &json!([])));
}

#[tokio::test(flavor = "multi_thread")]
async fn names_are_given_once() {
    let api = Api::start().await;
    api.define(definition(json!({}))).await;
    let mut other = definition(json!({"names": {"plural": "gadgets", "kind": "Widget", "listKind": "GadgetList"}}));
    other["metadata"]["name"] = json!("gadgets.example.com");
    api.ok("POST", DEFINITIONS, other).await;
    let at = format!("{DEFINITIONS}/gadgets.example.com");
    let refused = api.until(&at, |_, d| condition(d, "NamesAccepted")["status"] == "False").await;
    assert_eq!(condition(&refused, "NamesAccepted")["reason"], "SingularConflict".replace("Singular", "Kind"));
    assert_eq!(condition(&refused, "Established")["reason"], "NotAccepted");
    assert_eq!(api.get("/apis/example.com/v1/gadgets").await.0, 404);
    // When the other goes, the names are free.
    api.ok("DELETE", &format!("{DEFINITIONS}/widgets.example.com"), Value::Null).await;
    api.established("gadgets.example.com").await;
    assert_eq!(api.get("/apis/example.com/v1/gadgets").await.0, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_serves_what_was_defined() {
    let api = Api::start().await;
    api.define(definition(json!({}))).await;
    let made = api.ok("POST", WIDGETS, widget("a", json!({"color": "red"}))).await;
    let World { server, dir, guard, pki } = api.0;
    server.stopping().cancel();
    server.caches().stop();
    server.store().close().await;
    drop((server, guard, pki));
    let again = Api(World::start_in(dir).await);
    let (code, got) = again.get(&format!("{WIDGETS}/a")).await;
    assert_eq!((code, got), (200, made));
}

#[tokio::test(flavor = "multi_thread")]
async fn policies_and_roles_hold_for_custom_kinds() {
    let api = Api::start().await;
    api.define(definition(json!({}))).await;
    let group = "/apis/admissionregistration.k8s.io/v1";
    api.ok(
        "POST",
        &format!("{group}/validatingadmissionpolicies"),
        json!({"apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingAdmissionPolicy",
            "metadata": {"name": "small"}, "spec": {"failurePolicy": "Fail",
            "matchConstraints": {"resourceRules": [{"apiGroups": ["example.com"], "apiVersions": ["*"],
                "operations": ["CREATE", "UPDATE"], "resources": ["widgets"]}]},
            "validations": [{"expression": "object.spec.size < 10", "message": "too large"}]}}),
    )
    .await;
    api.ok(
        "POST",
        &format!("{group}/validatingadmissionpolicybindings"),
        json!({"apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingAdmissionPolicyBinding",
            "metadata": {"name": "small"}, "spec": {"policyName": "small", "validationActions": ["Deny"]}}),
    )
    .await;
    api.ok("POST", WIDGETS, widget("a", json!({}))).await;
    let (code, refused) = api.call("POST", WIDGETS, widget("b", json!({"size": 11}))).await;
    assert_eq!(code, 422, "{refused}");
    assert!(refused["message"].as_str().is_some_and(|m| m.contains("too large")), "{refused}");
    let (code, _) = api.patch(&format!("{WIDGETS}/a"), "merge-patch+json", json!({"spec": {"size": 11}})).await;
    assert_eq!(code, 422);

    // Nobody else may anything until a role names them.
    let user = UserInfo::new("jo", &["system:authenticated"]);
    let (code, refused) = api.0.call(&user, "GET", WIDGETS, Value::Null).await;
    let text = "widgets.example.com is forbidden: User \"jo\" cannot list resource \"widgets\" in API group \
                \"example.com\" in the namespace \"default\"";
    assert_eq!((code, &refused["message"]), (403, &json!(text)));
    let rbac = "/apis/rbac.authorization.k8s.io/v1/namespaces/default";
    api.ok(
        "POST",
        &format!("{rbac}/roles"),
        json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "Role", "metadata": {"name": "see"},
            "rules": [{"apiGroups": ["example.com"], "resources": ["widgets"], "verbs": ["list"]}]}),
    )
    .await;
    api.ok(
        "POST",
        &format!("{rbac}/rolebindings"),
        json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "RoleBinding", "metadata": {"name": "jo"},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "see"},
            "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": "jo"}]}),
    )
    .await;
    assert_eq!(api.0.call(&user, "GET", WIDGETS, Value::Null).await.0, 200);
    assert_eq!(api.0.call(&user, "DELETE", &format!("{WIDGETS}/a"), Value::Null).await.0, 403);
}
