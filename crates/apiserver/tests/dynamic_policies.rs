//! Policies as clients meet them: what they refuse, in which words; warnings; parameters; the authorizer.

mod common;

use common::{World, admin};
use http::Request;
use orkd_apiserver::Body;
use orkd_apiserver::user::{InProcess, UserInfo};
use serde_json::{Value, json};
use tower::ServiceExt;

const GROUP: &str = "/apis/admissionregistration.k8s.io/v1";
const MAPS: &str = "/api/v1/namespaces/team/configmaps";

async fn create(world: &World, path: &str, body: Value) {
    let (code, made) = world.call(&admin(), "POST", path, body).await;
    assert_eq!(code, 201, "{made}");
}

async fn team(world: &World) {
    let labels = json!({"env": "prod"});
    let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "team", "labels": labels}});
    create(world, "/api/v1/namespaces", namespace).await;
}

/// A policy about config maps, and a binding of the same name.
async fn policy(world: &World, name: &str, spec: Value, binding: Value) {
    let rules = json!([{"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE", "UPDATE", "DELETE"],
        "resources": ["configmaps"]}]);
    let (mut policy, mut bound) = (
        json!({"metadata": {"name": name}, "spec": {"matchConstraints": {"resourceRules": rules}}}),
        json!({"metadata": {"name": name}, "spec": {"policyName": name, "validationActions": ["Deny"]}}),
    );
    for (object, more) in [(&mut policy, spec), (&mut bound, binding)] {
        for (field, value) in more.as_object().into_iter().flatten() {
            object["spec"][field] = value.clone();
        }
    }
    create(world, &format!("{GROUP}/validatingadmissionpolicies"), policy).await;
    create(world, &format!("{GROUP}/validatingadmissionpolicybindings"), bound).await;
}

fn map(name: &str, data: Value) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": data})
}

fn message(answer: &(u16, Value)) -> (u16, &str) {
    (answer.0, answer.1["message"].as_str().unwrap_or_default())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_policy_refuses_what_its_binding_covers() {
    let world = World::start().await;
    team(&world).await;
    let spec = json!({
        "variables": [{"name": "size", "expression": "has(object.data) ? size(object.data) : 0"}],
        "validations": [
            {"expression": "request.operation == 'DELETE' || variables.size < 2", "messageExpression":
                "'has ' + string(variables.size) + ' keys in ' + namespaceObject.metadata.name"},
            {"expression": "request.operation != 'DELETE' || oldObject.metadata.name != 'kept'", "reason": "Forbidden"}]});
    let binding = json!({"matchResources": {"namespaceSelector": {"matchLabels": {"env": "prod"}}}});
    policy(&world, "small", spec, binding).await;
    let write = async |method: &str, path: &str, body: Value| world.call(&admin(), method, path, body).await;

    let refused = write("POST", MAPS, map("big", json!({"a": "1", "b": "2"}))).await;
    let text = "ValidatingAdmissionPolicy 'small' with binding 'small' denied request: has 2 keys in team";
    assert_eq!(message(&refused), (422, format!("configmaps \"big\" is forbidden: {text}").as_str()));
    assert_eq!(refused.1["reason"], "Invalid");
    assert_eq!(
        refused.1["details"],
        json!({"name": "big", "kind": "configmaps", "causes": [{"message": text}]}),
        "{}",
        refused.1
    );
    assert_eq!(write("POST", MAPS, map("kept", json!({"a": "1"}))).await.0, 201);
    // An update, by patch.
    let patch = Request::patch(format!("{MAPS}/kept")).header("content-type", "application/merge-patch+json");
    let patch = patch.extension(InProcess(admin())).body(Body::from(r#"{"data":{"b":"2"}}"#)).expect("a request");
    assert_eq!(world.send(patch).await.0, 422);
    let refused = write("DELETE", &format!("{MAPS}/kept"), Value::Null).await;
    let text = "configmaps \"kept\" is forbidden: ValidatingAdmissionPolicy 'small' with binding 'small' denied request: \
                failed expression: request.operation != 'DELETE' || oldObject.metadata.name != 'kept'";
    assert_eq!((message(&refused), &refused.1["reason"]), ((403, text), &json!("Forbidden")));

    // Elsewhere, and once the namespace says something else, it is not meant; nor after the binding is gone.
    let elsewhere = "/api/v1/namespaces/default/configmaps";
    assert_eq!(write("POST", elsewhere, map("big", json!({"a": "1", "b": "2"}))).await.0, 201);
    assert_eq!(write("DELETE", &format!("{GROUP}/validatingadmissionpolicybindings/small"), Value::Null).await.0, 200);
    assert_eq!(write("POST", MAPS, map("big", json!({"a": "1", "b": "2"}))).await.0, 201);
    assert_eq!(write("DELETE", &format!("{MAPS}/kept"), Value::Null).await.0, 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn warnings_and_failures() {
    let world = World::start().await;
    team(&world).await;
    let no = json!({"validations": [{"expression": "false", "message": "no good"}]});
    policy(&world, "warns", no, json!({"validationActions": ["Warn", "Audit"]})).await;
    let request = Request::post(MAPS).header("content-type", "application/json").extension(InProcess(admin()));
    let request = request.body(Body::from(map("m", json!({})).to_string())).expect("a request");
    let response = world.server.router().oneshot(request).await.expect("infallible");
    assert_eq!(response.status(), 201);
    let warning = response.headers()["warning"].to_str().expect("text");
    let text = "299 - \"Validation failed for ValidatingAdmissionPolicy 'warns' with binding 'warns': no good\"";
    assert_eq!(warning, text);

    let bad = json!({"validations": [{"expression": "object.nope == 1"}]});
    let mut lax = bad.clone();
    lax["failurePolicy"] = json!("Ignore");
    policy(&world, "lax", lax, json!({})).await;
    assert_eq!(world.call(&admin(), "POST", MAPS, map("n", json!({}))).await.0, 201);
    policy(&world, "strict", bad, json!({})).await;
    let refused = world.call(&admin(), "POST", MAPS, map("o", json!({}))).await;
    let text = "configmaps \"o\" is forbidden: ValidatingAdmissionPolicy 'strict' with binding 'strict' denied request: \
                expression 'object.nope == 1' resulted in error: no such key: nope";
    assert_eq!(message(&refused), (422, text));
    // Policies are not about policies: a bad one can always be taken away.
    let path = format!("{GROUP}/validatingadmissionpolicies/strict");
    assert_eq!(world.call(&admin(), "DELETE", &path, Value::Null).await.0, 200);
    assert_eq!(world.call(&admin(), "POST", MAPS, map("o", json!({}))).await.0, 201);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn parameters_are_found_by_name_and_by_labels() {
    let world = World::start().await;
    team(&world).await;
    let spec = |kind: Value| {
        json!({"paramKind": kind, "matchConditions": [{"name": "own", "expression": "request.name.startsWith('m')"}],
        "validations": [{"expression": "!has(object.data) || size(object.data) <= int(params.data.most)",
            "messageExpression": "'at most ' + params.data.most + ' of ' + params.metadata.name"}]})
    };
    let config_map = json!({"apiVersion": "v1", "kind": "ConfigMap"});
    let named = json!({"paramRef": {"name": "limits", "parameterNotFoundAction": "Deny"}});
    policy(&world, "named", spec(config_map.clone()), named).await;
    let write = async |name: &str, data: Value| {
        let answer = world.call(&admin(), "POST", MAPS, map(name, data)).await;
        let text = answer.1["message"].as_str().unwrap_or_default();
        (answer.0, text.split(" denied request: ").last().unwrap_or_default().to_owned())
    };
    let missing = "failed to configure binding: no params found for policy binding with `Deny` parameterNotFoundAction";
    assert_eq!(write("m1", json!({})).await, (422, missing.to_owned()));
    // The policy does not tell who its parameters are, but its binding must be able to find them.
    let path = format!("{GROUP}/validatingadmissionpolicybindings/named");
    let (_, mut binding) = world.call(&admin(), "GET", &path, Value::Null).await;
    binding["spec"]["paramRef"]["parameterNotFoundAction"] = json!("Allow");
    assert_eq!(world.call(&admin(), "PUT", &path, binding).await.0, 200);
    assert_eq!(write("limits", json!({"most": "1"})).await.0, 201);
    assert_eq!(write("m1", json!({"a": "1", "b": "2"})).await, (422, "at most 1 of limits".into()));
    assert_eq!(write("m1", json!({"a": "1"})).await.0, 201);

    let selected = json!({"paramRef": {"selector": {"matchLabels": {"l": "x"}}, "namespace": "default",
        "parameterNotFoundAction": "Allow"}});
    policy(&world, "selected", spec(config_map), selected).await;
    let with_labels = |name: &str, most: &str| {
        let mut map = map(name, json!({"most": most}));
        map["metadata"]["labels"] = json!({"l": "x"});
        map
    };
    for (name, most) in [("a", "9"), ("b", "0")] {
        create(&world, "/api/v1/namespaces/default/configmaps", with_labels(name, most)).await;
    }
    assert_eq!(write("m2", json!({"a": "1"})).await, (422, "at most 0 of b".into()));

    let unknown = json!({"apiVersion": "none.example.com/v1", "kind": "None"});
    policy(&world, "aaa", spec(unknown), json!({"paramRef": {"name": "x", "parameterNotFoundAction": "Deny"}})).await;
    let why = "failed to configure policy: failed to find resource referenced by paramKind: 'none.example.com/v1, \
               Kind=None'";
    assert_eq!(write("m3", json!({})).await, (422, why.into()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn expressions_ask_the_authorizer() {
    let world = World::start().await;
    team(&world).await;
    let role = json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole", "metadata": {"name": "writer"},
        "rules": [{"apiGroups": [""], "resources": ["configmaps"], "verbs": ["*"]}]});
    create(&world, "/apis/rbac.authorization.k8s.io/v1/clusterroles", role).await;
    let bind = |name: &str, role: &str| {
        json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding", "metadata": {"name": name},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": role},
            "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": "ann"}]})
    };
    let bindings = "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings";
    create(&world, bindings, bind("ann", "writer")).await;
    let spec = json!({"validations": [{"message": "ask for the verb",
        "expression": "authorizer.requestResource.check('bless').allowed() && \
            !authorizer.serviceAccount('team', 'default').group('apps').resource('deployments').check('get').allowed()"},
        {"message": "nodes", "expression": "authorizer.group('').resource('nodes').check('get').allowed()"}]});
    policy(&world, "asks", spec, json!({"matchResources": {"namespaceSelector": {"matchLabels": {"env": "prod"}}}}))
        .await;
    let ann = UserInfo::new("ann", &[]);
    let write = async |name: &str| world.call(&ann, "POST", MAPS, map(name, json!({}))).await;
    let refused = write("m").await;
    assert!(message(&refused).1.ends_with("denied request: nodes"), "{refused:?}");
    create(&world, bindings, bind("ann-sees", "view")).await;
    let nodes = json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole", "metadata": {"name": "nodes"},
        "rules": [{"apiGroups": [""], "resources": ["nodes"], "verbs": ["get"]}]});
    create(&world, "/apis/rbac.authorization.k8s.io/v1/clusterroles", nodes).await;
    create(&world, bindings, bind("ann-nodes", "nodes")).await;
    assert_eq!(write("m").await.0, 201);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn equivalent_versions_and_subresources_are_matched() {
    let world = World::start().await;
    team(&world).await;
    // The rule is about v1; autoscalers are written in v2.
    let rules = json!([{"apiGroups": ["autoscaling"], "apiVersions": ["v1"], "operations": ["CREATE"],
            "resources": ["horizontalpodautoscalers"]}]);
    let v1 = "object.apiVersion == 'autoscaling/v1' && request.kind.version == 'v1' && request.requestKind.version == 'v2' \
              && object.spec.targetCPUUtilizationPercentage > 50";
    let spec =
        json!({"matchConstraints": {"resourceRules": rules}, "validations": [{"expression": v1, "message": "v1"}]});
    policy(&world, "hpa", spec, json!({})).await;
    let autoscaler = |name: &str, percent: u32| {
        json!({"apiVersion": "autoscaling/v2", "kind": "HorizontalPodAutoscaler", "metadata": {"name": name},
            "spec": {"scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "d"}, "maxReplicas": 3,
                "metrics": [{"type": "Resource", "resource": {"name": "cpu",
                    "target": {"type": "Utilization", "averageUtilization": percent}}}]}})
    };
    let path = "/apis/autoscaling/v2/namespaces/team/horizontalpodautoscalers";
    let refused = world.call(&admin(), "POST", path, autoscaler("a", 20)).await;
    assert!(message(&refused).1.ends_with("denied request: v1"), "{refused:?}");
    create(&world, path, autoscaler("a", 80)).await;

    let rules = json!([{"apiGroups": ["apps"], "apiVersions": ["v1"], "operations": ["UPDATE"],
        "resources": ["deployments/scale"]}]);
    let scaled = "object.kind == 'Scale' && object.spec.replicas < 3 && request.kind.kind == 'Scale' && \
                  request.subResource == 'scale' && oldObject.spec.replicas == 1";
    let spec =
        json!({"matchConstraints": {"resourceRules": rules}, "validations": [{"expression": scaled, "message": "no"}]});
    policy(&world, "scale", spec, json!({})).await;
    let deployments = "/apis/apps/v1/namespaces/team/deployments";
    let template = json!({"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "c", "image": "i"}]}});
    let deployment = json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "d"},
        "spec": {"replicas": 1, "selector": {"matchLabels": {"a": "b"}}, "template": template}});
    create(&world, deployments, deployment).await;
    let scale = |n: u32| {
        json!({"apiVersion": "autoscaling/v1", "kind": "Scale", "metadata": {"name": "d", "namespace": "team"},
        "spec": {"replicas": n}})
    };
    let path = format!("{deployments}/d/scale");
    assert_eq!(world.call(&admin(), "PUT", &path, scale(5)).await.0, 422);
    let (code, answer) = world.call(&admin(), "PUT", &path, scale(2)).await;
    assert_eq!(code, 200, "{answer}");
}

/// A mutating policy about config maps, and a binding of the same name.
async fn mutating(world: &World, name: &str, spec: Value) {
    let rules = json!([{"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE", "UPDATE"],
        "resources": ["configmaps"]}]);
    let mut policy = json!({"metadata": {"name": name}, "spec": {"matchConstraints": {"resourceRules": rules},
        "reinvocationPolicy": "Never"}});
    for (field, value) in spec.as_object().into_iter().flatten() {
        policy["spec"][field] = value.clone();
    }
    create(world, &format!("{GROUP}/mutatingadmissionpolicies"), policy).await;
    let binding = json!({"metadata": {"name": name}, "spec": {"policyName": name}});
    create(world, &format!("{GROUP}/mutatingadmissionpolicybindings"), binding).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mutating_policies_change_objects_before_they_are_validated() {
    let world = World::start().await;
    team(&world).await;
    let apply =
        |expression: &str| json!({"patchType": "ApplyConfiguration", "applyConfiguration": {"expression": expression}});
    let patch = |expression: &str| json!({"patchType": "JSONPatch", "jsonPatch": {"expression": expression}});
    let labels = "Object{metadata: Object.metadata{labels: {'env': namespaceObject.metadata.labels.env}}}";
    let unlabelled = json!([{"name": "no-label", "expression": "!has(object.metadata.labels)"}]);
    mutating(&world, "a", json!({"mutations": [apply(labels)], "matchConditions": unlabelled})).await;
    // Sees what the first has done, and what it did itself.
    let counted = "[JSONPatch{op: 'add', path: '/data/labels', value: string(size(object.metadata.labels))}, \
                   JSONPatch{op: 'add', path: '/data/by', value: request.userInfo.username}]";
    let tested =
        "[JSONPatch{op: 'test', path: '/data/by', value: 'nobody'}, JSONPatch{op: 'remove', path: '/data/by'}]";
    mutating(&world, "b", json!({"mutations": [patch(counted), patch(tested)]})).await;
    let checked = "object.metadata.labels.env == 'prod' && object.data.by == 'admin'";
    policy(&world, "checks", json!({"validations": [{"expression": checked}]}), json!({})).await;
    let (code, made) = world.call(&admin(), "POST", MAPS, map("m", json!({"own": "x"}))).await;
    assert_eq!(code, 201, "{made}");
    assert_eq!(made["metadata"]["labels"], json!({"env": "prod"}));
    assert_eq!(made["data"], json!({"own": "x", "labels": "1", "by": "admin"}));

    let wrong = apply("Object{metadata: Object.metadata{name: string(object.data.nope)}}");
    mutating(&world, "c", json!({"mutations": [wrong]})).await;
    let refused = world.call(&admin(), "POST", MAPS, map("n", json!({"own": "x"}))).await;
    let text = "policy 'c' with binding 'c' denied request: expression 'Object{metadata: Object.metadata{name: \
                string(object.data.nope)}}' resulted in error: no such key: nope";
    assert_eq!((message(&refused), &refused.1["reason"]), ((403, text), &json!("Invalid")));
    assert_eq!(refused.1["details"]["causes"], json!([{"message": text}]));
    let path = format!("{GROUP}/mutatingadmissionpolicies/c");
    let (_, mut lax) = world.call(&admin(), "GET", &path, Value::Null).await;
    lax["spec"]["failurePolicy"] = json!("Ignore");
    assert_eq!(world.call(&admin(), "PUT", &path, lax).await.0, 200);
    assert_eq!(world.call(&admin(), "POST", MAPS, map("n", json!({"own": "x"}))).await.0, 201);
}
