//! Webhooks as clients meet them, asked over TLS: what is sent, what answers do, what becomes of requests when a webhook
//! fails, is slow, or is none.

mod common;

use std::sync::Arc;

use common::{World, admin, https};
use http::Request;
use orkd_apiserver::Body;
use orkd_apiserver::user::InProcess;
use serde_json::{Value, json};
use tokio::sync::{Semaphore, mpsc};
use tower::ServiceExt;

const GROUP: &str = "/apis/admissionregistration.k8s.io/v1";
const MAPS: &str = "/api/v1/namespaces/default/configmaps";

/// What a webhook answers to a review.
type Answer = Arc<dyn Fn(&Value) -> Value + Send + Sync>;

/// A webhook of the test's own: HTTPS on a port of 127.0.0.1.
struct Hook {
    server: https::Server,
    /// The reviews it was sent.
    reviews: mpsc::UnboundedReceiver<Value>,
    /// An answer takes a permit.
    permits: Arc<Semaphore>,
}

impl Hook {
    async fn start(answer: impl Fn(&Value) -> Value + Send + Sync + 'static) -> Hook {
        let (sender, reviews) = mpsc::unbounded_channel();
        let permits = Arc::new(Semaphore::new(Semaphore::MAX_PERMITS));
        let (answer, gate): (Answer, _) = (Arc::new(answer), permits.clone());
        let server = https::serve(move |https::Asked { path, headers, body: mut review }| {
            let (sender, answer, gate) = (sender.clone(), answer.clone(), gate.clone());
            async move {
                review["path"] = json!(path);
                for name in ["authorization", "user-agent"] {
                    review[name] = json!(headers.get(name).map(|v| v.to_str().expect("text")));
                }
                // Who does not listen any more has seen enough.
                let _ = sender.send(review.clone());
                gate.acquire().await.expect("open").forget();
                let mut said = answer(&review);
                let code = said["code"].take().as_u64().unwrap_or(200);
                let text = match said["text"].take() {
                    Value::String(text) => text,
                    _ => {
                        if said.get("uid").is_none() {
                            said["uid"] = review["request"]["uid"].clone();
                        }
                        json!({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "response": said})
                            .to_string()
                    }
                };
                (u16::try_from(code).expect("a code"), text)
            }
        })
        .await;
        Hook { server, reviews, permits }
    }

    /// The webhook with this name, for config maps.
    fn webhook(&self, name: &str) -> Value {
        json!({"name": name, "sideEffects": "None", "admissionReviewVersions": ["v1"],
            "clientConfig": {"url": format!("https://127.0.0.1:{}/check", self.server.port),
                "caBundle": self.server.bundle()},
            "rules": [{"apiGroups": [""], "apiVersions": ["v1"], "operations": ["*"], "resources": ["configmaps"]}]})
    }

    /// The reviews that came since.
    fn seen(&mut self) -> Vec<Value> {
        std::iter::from_fn(|| self.reviews.try_recv().ok()).collect()
    }
}

async fn configure(world: &World, kind: &str, name: &str, webhooks: Value) {
    let path = format!("{GROUP}/{kind}webhookconfigurations");
    let body = json!({"metadata": {"name": name}, "webhooks": webhooks});
    let (code, made) = world.call(&admin(), "POST", &path, body).await;
    assert_eq!(code, 201, "{made}");
}

fn map(name: &str, data: Value) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": data})
}

fn message(answer: &(u16, Value)) -> (u16, &str) {
    (answer.0, answer.1["message"].as_str().unwrap_or_default())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_validating_webhook_is_sent_a_review_and_may_refuse() {
    let world = World::start().await;
    let mut hook = Hook::start(|review| {
        let bad = review["request"]["object"]["data"]["bad"].is_string();
        json!({"allowed": !bad, "warnings": ["look out"],
            "status": {"message": "bad data", "reason": "OfItsOwn", "code": 418}})
    })
    .await;
    configure(&world, "validating", "v", json!([hook.webhook("check.example.com")])).await;
    assert_eq!(world.call(&admin(), "POST", MAPS, map("good", json!({"a": "b"}))).await.0, 201);
    let refused = world.call(&admin(), "POST", MAPS, map("worse", json!({"bad": "x"}))).await;
    let text = "admission webhook \"check.example.com\" denied the request: bad data";
    assert_eq!((message(&refused), &refused.1["reason"]), ((418, text), &json!("OfItsOwn")));

    let seen = hook.seen();
    let review = &seen[0];
    assert_eq!((&review["apiVersion"], &review["kind"]), (&json!("admission.k8s.io/v1"), &json!("AdmissionReview")));
    assert_eq!(review["path"], "/check?timeout=10s");
    let request = &review["request"];
    let kind = json!({"group": "", "version": "v1", "kind": "ConfigMap"});
    let resource = json!({"group": "", "version": "v1", "resource": "configmaps"});
    for (field, expected) in [
        ("kind", &kind),
        ("requestKind", &kind),
        ("resource", &resource),
        ("requestResource", &resource),
        ("name", &json!("good")),
        ("namespace", &json!("default")),
        ("operation", &json!("CREATE")),
        ("oldObject", &Value::Null),
        ("dryRun", &json!(false)),
    ] {
        assert_eq!(&request[field], expected, "{field}");
    }
    let options = |kind: &str| json!({"kind": kind, "apiVersion": "meta.k8s.io/v1"});
    assert_eq!(request["options"], options("CreateOptions"));
    assert_eq!(request["userInfo"]["username"], "admin");
    assert_eq!(request["object"]["data"], json!({"a": "b"}));
    assert!(request["object"]["metadata"]["uid"].is_string() && request["object"]["kind"] == "ConfigMap");
    assert!(request["uid"].as_str().is_some_and(|uid| uid.len() == 36));

    // The options are those that the request says; a patch has those of an update.
    let path = format!("{MAPS}/good?fieldManager=me&fieldValidation=Strict");
    let patch =
        Request::patch(path).extension(InProcess(admin())).header("content-type", "application/merge-patch+json");
    let patch = patch.body(Body::from("{\"data\":{\"c\":\"d\"}}")).expect("a request");
    assert_eq!(world.send(patch).await.0, 200);
    let mut said = options("UpdateOptions");
    said["fieldManager"] = json!("me");
    said["fieldValidation"] = json!("Strict");
    assert_eq!(hook.seen()[0]["request"]["options"], said);

    let delete = Request::delete(format!("{MAPS}/good")).extension(InProcess(admin())).body(Body::empty());
    let response = world.server.router().oneshot(delete.expect("a request")).await.expect("infallible");
    assert_eq!(response.status(), 200);
    assert_eq!(response.headers()["warning"], "299 - \"look out\"");
    let seen = hook.seen();
    assert_eq!((&seen[0]["request"]["object"], &seen[0]["request"]["operation"]), (&Value::Null, &json!("DELETE")));
    assert_eq!(seen[0]["request"]["oldObject"]["metadata"]["name"], "good");

    // Of a collection each object is shown, and the name of none is told.
    assert_eq!(world.call(&admin(), "POST", MAPS, map("one", json!({}))).await.0, 201);
    hook.seen();
    let path = format!("{MAPS}?fieldSelector=metadata.name%3Done");
    assert_eq!(world.call(&admin(), "DELETE", &path, Value::Null).await.0, 200);
    let seen = hook.seen();
    assert_eq!((&seen[0]["request"]["name"], &seen[0]["request"]["namespace"]), (&Value::Null, &json!("default")));
    assert_eq!(seen[0]["request"]["oldObject"]["metadata"]["name"], "one");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_webhook_that_cannot_be_asked_fails_as_its_policy_says() {
    let world = World::start().await;
    let hook = Hook::start(|review| match review["request"]["name"].as_str().unwrap_or_default() {
        "oops" => json!({"code": 500, "text": "oops"}),
        "other" => json!({"uid": "other", "allowed": true}),
        "garbage" => json!({"text": "<html>"}),
        _ => json!({"allowed": true}),
    })
    .await;
    // Nobody listens here any more.
    let gone =
        tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port").local_addr().expect("an address").port();
    let refused = async |webhook: Value, name: &str, path: &str| {
        configure(&world, "validating", "v", json!([webhook])).await;
        let answer = world.call(&admin(), "POST", path, map(name, json!({}))).await;
        let configuration = format!("{GROUP}/validatingwebhookconfigurations/v");
        assert_eq!(world.call(&admin(), "DELETE", &configuration, Value::Null).await.0, 200, "it can be taken away");
        (answer.0, answer.1["message"].as_str().unwrap_or_default().to_owned())
    };
    let internal =
        |why: &str| (500, format!("Internal error occurred: failed calling webhook \"a.example.com\": {why}"));
    let webhook = || hook.webhook("a.example.com");
    let dead = || {
        let mut webhook = webhook();
        webhook["clientConfig"]["url"] = json!(format!("https://127.0.0.1:{gone}/"));
        webhook
    };
    let post =
        format!("failed to call webhook: Post \"https://127.0.0.1:{gone}/?timeout=10s\": dial tcp 127.0.0.1:{gone}");
    assert_eq!(refused(dead(), "m", MAPS).await, internal(&format!("{post}: connect: connection refused")));
    let mut open = dead();
    open["failurePolicy"] = json!("Ignore");
    assert_eq!(refused(open, "open", MAPS).await.0, 201);
    let mut stranger = webhook();
    stranger["clientConfig"]["caBundle"] = {
        let other =
            orkd_pki::authority::Authority::create("other", jiff::Timestamp::now()).expect("ca").certificate().to_pem();
        json!(base64::Engine::encode(&base64::engine::general_purpose::STANDARD, other))
    };
    let url = format!("https://127.0.0.1:{}/check?timeout=10s", hook.server.port);
    let text = "tls: failed to verify certificate: x509: certificate signed by unknown authority";
    assert_eq!(
        refused(stranger, "m", MAPS).await,
        internal(&format!("failed to call webhook: Post \"{url}\": {text}"))
    );
    let text = "failed to call webhook: an error on the server (\"oops\") has prevented the request from succeeding";
    assert_eq!(refused(webhook(), "oops", MAPS).await, internal(text));
    let (code, text) = refused(webhook(), "other", MAPS).await;
    assert!(code == 500 && text.contains("received invalid webhook response: expected response.uid="), "{text}");
    let (code, text) = refused(webhook(), "garbage", MAPS).await;
    assert!(
        code == 500 && text.contains("failed to call webhook: couldn't get version/kind; json parse error: "),
        "{text}"
    );
    let mut service = webhook();
    service["clientConfig"] = json!({"service": {"namespace": "default", "name": "none", "path": "/x"}});
    let text =
        "failed to call webhook: Post \"https://none.default.svc:443/x?timeout=10s\": service \"none\" not found";
    assert_eq!(refused(service, "m", MAPS).await, internal(text));

    // A dry run is only for those who have no side effects; what was tolerated once stays.
    let dry = format!("{MAPS}?dryRun=All");
    assert_eq!(refused(webhook(), "m", &dry).await.0, 201);
    let mut conditional = webhook();
    conditional["matchConditions"] = json!([{"name": "a", "expression": "object.metadata.name != 'm'"}]);
    conditional["clientConfig"]["url"] = json!(format!("https://127.0.0.1:{gone}/"));
    assert_eq!(refused(conditional.clone(), "m", MAPS).await.0, 201);
    assert_eq!(refused(conditional.clone(), "n", MAPS).await.0, 500);
    conditional["matchConditions"][0]["expression"] = json!("object.nope");
    let text = "configmaps \"o\" is forbidden: expression 'object.nope' resulted in error: no such key: nope";
    assert_eq!(refused(conditional, "o", MAPS).await, (403, text.to_owned()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mutating_webhooks_patch_one_after_the_other_and_again_if_needed() {
    let world = World::start().await;
    let patch = |operations: Value| {
        let patch = base64::Engine::encode(&base64::engine::general_purpose::STANDARD, operations.to_string());
        json!({"allowed": true, "patchType": "JSONPatch", "patch": patch})
    };
    // Counts how often it sees an object, and what it sees.
    let mut first = Hook::start(move |review| {
        let times = review["request"]["object"]["data"]["times"].as_str().map_or(0, str::len);
        patch(json!([{"op": "add", "path": "/data/times", "value": "x".repeat(times + 1)}]))
    })
    .await;
    let mut second = Hook::start(move |review| {
        if review["request"]["object"]["data"]["second"].is_string() {
            return json!({"allowed": true});
        }
        patch(json!([{"op": "add", "path": "/data/second", "value": "was here"},
            {"op": "add", "path": "/nothing", "value": "that is known"}]))
    })
    .await;
    let mut again = first.webhook("first.example.com");
    again["reinvocationPolicy"] = json!("IfNeeded");
    configure(&world, "mutating", "a", json!([again])).await;
    configure(&world, "mutating", "b", json!([second.webhook("second.example.com")])).await;
    let (code, made) = world.call(&admin(), "POST", MAPS, map("m", json!({"own": "data"}))).await;
    assert_eq!(code, 201, "{made}");
    assert_eq!(made["data"], json!({"own": "data", "times": "xx", "second": "was here"}));
    assert_eq!(made.get("nothing"), None, "what is no field is dropped");
    let (one, two) = (first.seen(), second.seen());
    assert_eq!((one.len(), two.len()), (2, 1), "the second does not ask to see it again");
    assert_eq!(two[0]["request"]["object"]["data"]["times"], "x");
    assert_eq!(one[1]["request"]["object"]["data"]["second"], "was here");
    // On an update the second changes nothing, so nobody is asked again.
    let (code, made) = world.call(&admin(), "PUT", &format!("{MAPS}/m"), made).await;
    assert_eq!((code, &made["data"]["times"]), (200, &json!("xxx")), "{made}");
    assert_eq!((first.seen().len(), second.seen().len()), (1, 1));
    // A scale is patched as such, and what it stands for is scaled.
    let third = Hook::start(move |_| patch(json!([{"op": "replace", "path": "/spec/replicas", "value": 4}]))).await;
    let mut scale = third.webhook("scale.example.com");
    scale["rules"] = json!([{"apiGroups": ["apps"], "apiVersions": ["v1"], "operations": ["UPDATE"],
        "resources": ["deployments/scale"]}]);
    configure(&world, "mutating", "c", json!([scale])).await;
    let template = json!({"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "c", "image": "i"}]}});
    let deployment = json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "d"},
        "spec": {"selector": {"matchLabels": {"a": "b"}}, "template": template}});
    let path = "/apis/apps/v1/namespaces/default/deployments";
    assert_eq!(world.call(&admin(), "POST", path, deployment).await.0, 201);
    let wish = json!({"apiVersion": "autoscaling/v1", "kind": "Scale", "metadata": {"name": "d", "namespace": "default"},
        "spec": {"replicas": 9}});
    let (code, scaled) = world.call(&admin(), "PUT", &format!("{path}/d/scale"), wish).await;
    assert_eq!((code, &scaled["spec"]["replicas"]), (200, &json!(4)), "{scaled}");
    // Nothing can be patched where there is nothing.
    let text = "Internal error occurred: admission webhook \"first.example.com\" attempted to modify the object, which is \
                not supported for this operation";
    let refused = world.call(&admin(), "DELETE", &format!("{MAPS}/m"), Value::Null).await;
    assert_eq!(message(&refused), (500, text));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_service_stands_for_its_address_and_its_name_is_verified() {
    let world = World::start().await;
    let mut hook = Hook::start(|_| json!({"allowed": true})).await;
    let service = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "hook"},
        "spec": {"type": "ExternalName", "externalName": "localhost"}});
    let (code, made) = world.call(&admin(), "POST", "/api/v1/namespaces/default/services", service).await;
    assert_eq!(code, 201, "{made}");
    let mut webhook = hook.webhook("a.example.com");
    let ca = webhook["clientConfig"]["caBundle"].take();
    webhook["clientConfig"] = json!({"caBundle": ca,
        "service": {"namespace": "default", "name": "hook", "path": "/deep/path", "port": hook.server.port}});
    configure(&world, "validating", "v", json!([webhook])).await;
    for n in 0..3 {
        let (code, made) = world.call(&admin(), "POST", MAPS, map(&format!("m{n}"), json!({}))).await;
        assert_eq!(code, 201, "{made}");
    }
    let seen = hook.seen();
    assert_eq!((seen.len(), &seen[2]["path"]), (3, &json!("/deep/path?timeout=10s")));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_silent_webhook_holds_up_nothing_but_what_it_is_asked_about() {
    let world = Arc::new(World::start().await);
    let mut hook = Hook::start(|_| json!({"allowed": false, "status": {"message": "late"}})).await;
    hook.permits.forget_permits(Semaphore::MAX_PERMITS);
    let mut slow = hook.webhook("slow.example.com");
    slow["timeoutSeconds"] = json!(30);
    configure(&world, "mutating", "slow", json!([slow])).await;
    let create = |path: &'static str, body: Value| {
        let world = world.clone();
        tokio::spawn(async move { world.call(&admin(), "POST", path, body).await })
    };
    let waiting: Vec<_> = (0..20).map(|n| create(MAPS, map(&format!("m{n}"), json!({})))).collect();
    for _ in 0..20 {
        hook.reviews.recv().await.expect("a review");
    }
    // All twenty wait for their answers. Meanwhile, others are served: each of these is answered while they wait.
    let secrets = "/api/v1/namespaces/default/secrets";
    for n in 0..20 {
        let secret = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": format!("s{n}")}});
        assert_eq!(create(secrets, secret).await.expect("a task").0, 201);
    }
    let (code, list) = world.call(&admin(), "GET", MAPS, Value::Null).await;
    assert_eq!(code, 200, "{list}");
    assert!(waiting.iter().all(|task| !task.is_finished()));
    // Nor does it hold up its own removal.
    let path = format!("{GROUP}/mutatingwebhookconfigurations/slow");
    assert_eq!(world.call(&admin(), "DELETE", &path, Value::Null).await.0, 200);
    assert_eq!(create(MAPS, map("free", json!({}))).await.expect("a task").0, 201);
    hook.permits.add_permits(20);
    for task in waiting {
        let refused = task.await.expect("a task");
        assert_eq!(message(&refused), (400, "admission webhook \"slow.example.com\" denied the request: late"));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn streams_are_admitted_before_anything_else() {
    let world = World::start().await;
    let mut hook =
        Hook::start(|review| json!({"allowed": review["request"]["name"] != "no", "status": {"message": "not here"}}))
            .await;
    let mut webhook = hook.webhook("connect.example.com");
    webhook["rules"] = json!([{"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CONNECT"],
        "resources": ["pods/*", "services/proxy"]}]);
    configure(&world, "validating", "v", json!([webhook])).await;
    let pods = "/api/v1/namespaces/default/pods";
    // No such pod, and no protocol to switch to: the webhook is asked all the same.
    let denied = "admission webhook \"connect.example.com\" denied the request: not here";
    for path in ["exec?command=sh", "attach", "portforward", "proxy/x"] {
        let refused = world.call(&admin(), "POST", &format!("{pods}/no/{path}"), Value::Null).await;
        assert_eq!(message(&refused), (400, denied), "{path}");
    }
    hook.seen();
    let exec = "exec?command=sh&command=-c&container=main&stdin=true&tty=1";
    let refused = world.call(&admin(), "POST", &format!("{pods}/yes/{exec}"), Value::Null).await;
    assert_eq!(message(&refused), (404, "pods \"yes\" not found"));
    let proxy = "/api/v1/namespaces/default/services/http:yes:80/proxy/a/b/?c=d";
    assert_eq!(world.call(&admin(), "GET", proxy, Value::Null).await.0, 404);
    let seen = hook.seen();
    let request = &seen[0]["request"];
    assert_eq!(
        request["object"],
        json!({"kind": "PodExecOptions", "apiVersion": "v1", "command": ["sh", "-c"], "container": "main", "stdin": true,
            "tty": true})
    );
    assert_eq!((&request["operation"], &request["subResource"]), (&json!("CONNECT"), &json!("exec")));
    assert_eq!((&request["options"], &request["oldObject"]), (&Value::Null, &Value::Null));
    let request = &seen[1]["request"];
    assert_eq!(request["object"], json!({"kind": "ServiceProxyOptions", "apiVersion": "v1", "path": "/a/b/"}));
    assert_eq!(request["name"], "http:yes:80");

    let dry = world.call(&admin(), "POST", &format!("{pods}/yes/exec?dryRun=All"), Value::Null).await;
    assert_eq!(message(&dry), (400, "dryRun is not supported"));
    let put = world.call(&admin(), "PUT", &format!("{pods}/yes/exec"), json!({})).await;
    assert_eq!(put.0, 405);
    assert!(hook.seen().is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_webhook_is_shown_the_credential_that_is_for_it() {
    let mut hook = Hook::start(|_| json!({"allowed": true})).await;
    let dir = tempfile::tempdir().expect("dir");
    let file = dir.path().join("webhooks.kubeconfig");
    let port = hook.server.port;
    let users = format!(
        "apiVersion: v1\nkind: Config\nusers:\n- {{name: '127.0.0.1:{port}', user: {{token: for-the-address}}}}\n\
         - {{name: '*', user: {{username: any, password: one}}}}\n"
    );
    std::fs::write(&file, users).expect("written");
    let config = json!({"apiVersion": "apiserver.config.k8s.io/v1", "kind": "WebhookAdmissionConfiguration",
        "kubeConfigFile": file});
    let world = World::start_changed(|options| {
        options.admission_configs =
            std::mem::take(&mut options.admission_configs).with("ValidatingAdmissionWebhook", config.clone());
    })
    .await;
    let validating = hook.webhook("check.example.com");
    let mut by_name = hook.webhook("name.example.com");
    by_name["clientConfig"]["url"] = json!(format!("https://localhost:{port}/check"));
    configure(&world, "validating", "v", json!([validating, by_name])).await;
    configure(&world, "mutating", "m", json!([hook.webhook("change.example.com")])).await;
    assert_eq!(world.call(&admin(), "POST", MAPS, map("a", json!({}))).await.0, 201);
    let mut shown: Vec<Value> = hook.seen().into_iter().map(|review| review["authorization"].clone()).collect();
    // The mutating webhook comes first, and its plugin names no file.
    assert_eq!(shown.remove(0), Value::Null);
    shown.sort_by_key(Value::to_string);
    assert_eq!(shown, ["Basic YW55Om9uZQ==", "Bearer for-the-address"]);
    assert_eq!(world.call(&admin(), "DELETE", &format!("{MAPS}/a"), Value::Null).await.0, 200);
    assert!(hook.seen().iter().all(|review| review["user-agent"] == "kube-apiserver-admission"));
}
