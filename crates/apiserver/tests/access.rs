//! Who comes in by what: webhooks, issuers of tokens, proxies, impersonation, and the order of authorizers, against
//! real servers on the loopback address.

mod common;

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use common::{World, admin};
use http::Request;
use http_body_util::BodyExt;
use hyper_util::rt::TokioIo;
use jiff::Timestamp;
use orkd_apiserver::Body;
use orkd_apiserver::authn::Anonymous;
use orkd_apiserver::authn::front_proxy::RequestHeaders;
use orkd_apiserver::authn::oidc::{Issuer, Source};
use orkd_apiserver::user::{InProcess, MASTERS, Peer, UserInfo};
use orkd_pki::jwt::{Claims, Signer, Verifier};
use orkd_pki::kubeconfig::Kubeconfig;
use orkd_pki::{Authority, Key, Profile, tls};
use serde_json::{Value, json};
use tokio::net::TcpListener;

type Answering = Arc<dyn Fn(&str, Value) -> (u16, Value) + Send + Sync>;

/// A server that answers JSON with JSON, over TLS where it has a certificate. Its port.
async fn serve(tls: Option<Arc<rustls::ServerConfig>>, answer: Answering) -> u16 {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("a port");
    let port = listener.local_addr().expect("address").port();
    tokio::spawn(async move {
        loop {
            let (tcp, _) = listener.accept().await.expect("a connection");
            let (tls, answer) = (tls.clone(), answer.clone());
            tokio::spawn(async move {
                let service = hyper::service::service_fn(move |request: Request<hyper::body::Incoming>| {
                    let answer = answer.clone();
                    async move {
                        let path = request.uri().path().to_owned();
                        let body = request.into_body().collect().await?.to_bytes();
                        let (status, value) = answer(&path, serde_json::from_slice(&body).unwrap_or_default());
                        let response = http::Response::builder().status(status).body(value.to_string());
                        Ok::<_, hyper::Error>(response.expect("a response"))
                    }
                });
                let http = hyper::server::conn::http1::Builder::new();
                match tls {
                    None => drop(http.serve_connection(TokioIo::new(tcp), service).await),
                    Some(config) => {
                        if let Ok(stream) = tokio_rustls::TlsAcceptor::from(config).accept(tcp).await {
                            drop(http.serve_connection(TokioIo::new(stream), service).await);
                        }
                    }
                }
            });
        }
    });
    port
}

fn kubeconfig(directory: &Path, port: u16) -> std::path::PathBuf {
    let path = directory.join("webhook.kubeconfig");
    let config = Kubeconfig::for_token(&format!("http://127.0.0.1:{port}/hook"), "", "kube-apiserver", "t");
    config.save(&path).expect("written");
    path
}

async fn whoami(world: &World, token: &str) -> (u16, Value) {
    let request = Request::post("/apis/authentication.k8s.io/v1/selfsubjectreviews")
        .header("authorization", format!("Bearer {token}"))
        .header("content-type", "application/json")
        .body(Body::from(r#"{"apiVersion":"authentication.k8s.io/v1","kind":"SelfSubjectReview"}"#));
    let (status, review) = world.send(request.expect("request")).await;
    (status, review["status"]["userInfo"].clone())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_webhook_knows_tokens_and_is_asked_once() {
    let directory = tempfile::tempdir().expect("directory");
    let asked = Arc::new(AtomicUsize::new(0));
    let count = asked.clone();
    let port = serve(
        None,
        Arc::new(move |path, review| {
            count.fetch_add(1, Ordering::SeqCst);
            assert_eq!(
                (path, &review["kind"], &review["apiVersion"]),
                ("/hook", &json!("TokenReview"), &json!("authentication.k8s.io/v1"))
            );
            let status = match review["spec"]["token"].as_str() {
                Some("good") => {
                    json!({"authenticated": true, "user": {"username": "ann", "uid": "7", "groups": ["dev"],
                    "extra": {"k": ["v"]}}})
                }
                Some("elsewhere") => {
                    json!({"authenticated": true, "user": {"username": "ann"}, "audiences": ["other"]})
                }
                _ => json!({"authenticated": false}),
            };
            (200, json!({"kind": "TokenReview", "apiVersion": "authentication.k8s.io/v1", "status": status}))
        }),
    )
    .await;
    let file = kubeconfig(directory.path(), port);
    let world = World::start_changed(|options| {
        options.token_webhook = Some((file, "v1".into(), Duration::from_secs(120)));
        options.static_tokens = Some("file-token,carl,1,ops\n".into());
    })
    .await;
    for _ in 0..3 {
        let (status, user) = whoami(&world, "good").await;
        assert_eq!(status, 201);
        assert_eq!((&user["username"], &user["uid"], &user["extra"]["k"]), (&json!("ann"), &json!("7"), &json!(["v"])));
        assert_eq!(user["groups"], json!(["dev", "system:authenticated"]));
    }
    assert_eq!(asked.load(Ordering::SeqCst), 1, "its answer is believed for a while");
    assert_eq!(whoami(&world, "elsewhere").await.0, 401, "a token for others");
    assert_eq!(whoami(&world, "bad").await.0, 401);
    assert_eq!(whoami(&world, "bad").await.0, 401);
    assert_eq!(asked.load(Ordering::SeqCst), 3);
    assert_eq!(whoami(&world, "file-token").await.1["username"], "carl");
    assert_eq!(asked.load(Ordering::SeqCst), 3, "the file is asked first");
    // A review of the token, by the API.
    let review = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview", "spec": {"token": "good"}});
    let path = "/apis/authentication.k8s.io/v1/tokenreviews";
    let (status, review) = world.call(&admin(), "POST", path, review).await;
    assert_eq!((status, &review["status"]["user"]["username"]), (201, &json!("ann")), "{review}");
    let review = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview",
        "spec": {"token": "good", "audiences": ["nobody"]}});
    let (_, review) = world.call(&admin(), "POST", path, review).await;
    assert_ne!(review["status"]["authenticated"], json!(true), "{review}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_webhook_authorizes_in_its_place_in_the_order() {
    let directory = tempfile::tempdir().expect("directory");
    let asked = Arc::new(AtomicUsize::new(0));
    let count = asked.clone();
    let port = serve(
        None,
        Arc::new(move |_, review| {
            count.fetch_add(1, Ordering::SeqCst);
            let spec = &review["spec"];
            let status = match (spec["user"].as_str(), spec["resourceAttributes"]["resource"].as_str()) {
                (Some("ann"), Some("pods")) => json!({"allowed": true, "reason": "she may"}),
                (Some("viewer"), Some("services")) => json!({"allowed": false, "denied": true, "reason": "not these"}),
                _ => json!({"allowed": false, "reason": "I do not know"}),
            };
            (200, json!({"kind": "SubjectAccessReview", "apiVersion": "authorization.k8s.io/v1", "status": status}))
        }),
    )
    .await;
    let file = kubeconfig(directory.path(), port);
    let world = World::start_changed(|options| {
        options.authorization.modes = ["Node", "Webhook", "RBAC"].map(str::to_owned).to_vec();
        options.authorization.webhook_config = Some(file);
        options.authorization.webhook.version = "v1".into();
    })
    .await;
    let binding = json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding",
        "metadata": {"name": "v"}, "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "view"},
        "subjects": [{"kind": "User", "name": "viewer", "apiGroup": "rbac.authorization.k8s.io"}]});
    let bindings = "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings";
    assert_eq!(world.call(&admin(), "POST", bindings, binding).await.0, 201);
    assert_eq!(asked.load(Ordering::SeqCst), 0, "masters are not asked about");
    let ask = async |user: &str, path: &str| {
        let (status, answer) = world.call(&UserInfo::new(user, &[]), "GET", path, Value::Null).await;
        (status, answer["message"].as_str().unwrap_or_default().to_owned())
    };
    assert_eq!(ask("ann", "/api/v1/pods").await.0, 200);
    assert_eq!(ask("ann", "/api/v1/pods").await.0, 200);
    assert_eq!(asked.load(Ordering::SeqCst), 1);
    let (status, why) = ask("ann", "/api/v1/secrets").await;
    assert_eq!(status, 403);
    assert!(why.ends_with("I do not know"), "{why}");
    assert_eq!(ask("viewer", "/api/v1/pods").await.0, 200, "roles are asked after it");
    let (status, why) = ask("viewer", "/api/v1/services").await;
    assert_eq!(status, 403, "what it denies no role gives");
    assert!(why.ends_with("not these"), "{why}");
    // Its rules cannot be told.
    let review = json!({"apiVersion": "authorization.k8s.io/v1", "kind": "SelfSubjectRulesReview", "spec": {"namespace": "default"}});
    let path = "/apis/authorization.k8s.io/v1/selfsubjectrulesreviews";
    let (_, review) = world.call(&UserInfo::new("viewer", &[]), "POST", path, review).await;
    assert_eq!(review["status"]["incomplete"], json!(true), "{review}");
    assert_eq!(review["status"]["evaluationError"], "webhook authorizer does not support user rule resolution");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn conditions_say_what_a_webhook_is_asked_about_and_files_change() {
    let directory = tempfile::tempdir().expect("directory");
    let asked = Arc::new(AtomicUsize::new(0));
    let count = asked.clone();
    let port = serve(
        None,
        Arc::new(move |_, review| {
            count.fetch_add(1, Ordering::SeqCst);
            let status =
                match review["spec"]["resourceAttributes"]["labelSelector"]["requirements"][0]["values"][0].as_str() {
                    Some("broken") => return (500, Value::Null),
                    Some("denied") => json!({"allowed": false, "denied": true, "reason": "not these"}),
                    _ => json!({"allowed": true}),
                };
            (200, json!({"kind": "SubjectAccessReview", "apiVersion": "authorization.k8s.io/v1", "status": status}))
        }),
    )
    .await;
    let hook = kubeconfig(directory.path(), port);
    let file = |conditions: &[&str], others: &str| {
        let conditions: Vec<Value> = conditions.iter().map(|c| json!({"expression": c})).collect();
        let webhook = json!({"type": "Webhook", "name": "mine", "webhook": {
            "failurePolicy": "Deny", "subjectAccessReviewVersion": "v1", "timeout": "3s",
            "cacheAuthorizedRequests": false, "cacheUnauthorizedRequests": false,
            "connectionInfo": {"type": "KubeConfigFile", "kubeConfigFile": hook.display().to_string()},
            "matchConditionSubjectAccessReviewVersion": "v1", "matchConditions": conditions}});
        format!(
            "apiVersion: apiserver.config.k8s.io/v1\nkind: AuthorizationConfiguration\nauthorizers: [{webhook}{others}]\n"
        )
    };
    let text =
        file(&["request.user == 'ann'", "request.resourceAttributes.resource == 'pods'"], ", {type: RBAC, name: rbac}");
    let world = World::start_changed(|options| options.authorization.config = Some(text)).await;
    let ask = async |user: &str, path: &str| world.call(&UserInfo::new(user, &[]), "GET", path, Value::Null).await.0;
    // (status, how often it was asked)
    let check = async |user: &str, path: &str, status: u16, calls: usize| {
        let before = asked.load(Ordering::SeqCst);
        assert_eq!((ask(user, path).await, asked.load(Ordering::SeqCst) - before), (status, calls), "{user} {path}");
    };
    check("ann", "/api/v1/pods", 200, 1).await;
    check("ann", "/api/v1/secrets", 403, 0).await;
    check("bob", "/api/v1/pods", 403, 0).await;
    check("ann", "/api/v1/pods?labelSelector=a%3Ddenied", 403, 1).await;
    // The second condition has no value for what is no resource: the failure policy decides, whatever roles say.
    check("ann", "/version", 403, 0).await;
    check("bob", "/version", 200, 0).await;

    // Another file takes its place; one that makes no sense, or forgets an authorizer, changes nothing.
    world.guard.authorization_changed(&file(&["request.user == 'bob'"], ", {type: RBAC, name: rbac}")).expect("taken");
    check("ann", "/api/v1/pods", 403, 0).await;
    check("bob", "/api/v1/pods", 200, 1).await;
    let why = world.guard.authorization_changed(&file(&["request.nope"], ", {type: RBAC, name: rbac}"));
    assert!(why.as_ref().is_err_and(|why| why.contains("undefined field 'nope'")), "{why:?}");
    let why = world.guard.authorization_changed(&file(&[], ""));
    assert_eq!(why, Err("missing required types: [RBAC]".into()));
    check("bob", "/api/v1/pods", 200, 1).await;

    let mut text = String::new();
    orkd_base::metrics::render(&mut text);
    for expected in [
        "apiserver_authorization_match_condition_exclusions_total{name=\"mine\",type=\"Webhook\"}",
        "apiserver_authorization_match_condition_evaluation_errors_total{name=\"mine\",type=\"Webhook\"} 1\n",
        "apiserver_authorization_match_condition_evaluation_seconds_count{name=\"mine\",type=\"Webhook\"}",
        "apiserver_authorization_webhook_evaluations_total{name=\"mine\",result=\"success\"} 4\n",
        "apiserver_authorization_decisions_total{decision=\"denied\",name=\"mine\",type=\"Webhook\"} 2\n",
        "apiserver_authorization_decisions_total{decision=\"allowed\",name=\"rbac\",type=\"RBAC\"}",
    ] {
        assert!(text.contains(expected), "no {expected}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tokens_of_an_issuer_are_users() {
    let now = Timestamp::now();
    let authority = Authority::create("issuers", now).expect("ca");
    let identity = authority.issue(&Profile::server("i", vec!["localhost".into()], Vec::new()), now).expect("leaf");
    let config = tls::server_config(&identity, &[]).expect("config");
    let key = Key::generate().expect("key");
    let published = Arc::new(parking_lot::Mutex::new(Verifier::new([&key], Vec::new()).expect("verifier").key_set()));
    let url = Arc::new(std::sync::OnceLock::<String>::new());
    let (served, at) = (published.clone(), url.clone());
    let port = serve(
        Some(Arc::new(config)),
        Arc::new(move |path, _| {
            let url = at.get().expect("known");
            match path {
                "/.well-known/openid-configuration" => (200, json!({"issuer": url, "jwks_uri": format!("{url}/keys")})),
                "/keys" => (200, served.lock().clone()),
                _ => (404, Value::Null),
            }
        }),
    )
    .await;
    url.set(format!("https://localhost:{port}")).expect("once");
    let issuer_url = url.get().expect("known").clone();
    let issuer = Issuer {
        url: issuer_url.clone(),
        authorities: Some(authority.certificate().to_pem()),
        audiences: vec!["cluster".into()],
        username: Source::claim("sub", "oidc:"),
        algorithms: vec!["ES256".into()],
        ..Issuer::default()
    };
    let world = World::start_changed(|options| options.issuers = vec![issuer]).await;
    let token = |key: &Key, issuer: &str, audience: &str, lives: i64| {
        let claims = Claims {
            aud: vec![audience.into()],
            exp: Some(now.as_second() + lives),
            sub: "ann".into(),
            jti: "42".into(),
            ..Claims::default()
        };
        Signer::new(key, issuer).expect("signer").sign(claims).expect("token")
    };
    let (status, user) = whoami(&world, &token(&key, &issuer_url, "cluster", 600)).await;
    assert_eq!((status, &user["username"]), (201, &json!("oidc:ann")), "{user}");
    assert_eq!(user["extra"]["authentication.kubernetes.io/credential-id"], json!(["JTI=42"]));
    assert_eq!(whoami(&world, &token(&key, &issuer_url, "others", 600)).await.0, 401);
    assert_eq!(whoami(&world, &token(&key, &issuer_url, "cluster", -600)).await.0, 401);
    assert_eq!(whoami(&world, &token(&key, "https://elsewhere", "cluster", 600)).await.0, 401);
    let foreign = Key::generate().expect("key");
    assert_eq!(whoami(&world, &token(&foreign, &issuer_url, "cluster", 600)).await.0, 401);

    // A changed configuration: other audiences, nobody anonymous.
    let anonymous = || Request::get("/version").body(Body::empty()).expect("request");
    assert_eq!(world.send(anonymous()).await.0, 200);
    let text = format!(
        "apiVersion: apiserver.config.k8s.io/v1\nkind: AuthenticationConfiguration\nanonymous: {{enabled: false}}\njwt:\n- \
         issuer: {{url: '{issuer_url}', audiences: [others], certificateAuthority: {}}}\n  claimMappings: {{username: \
         {{claim: sub, prefix: ''}}}}\n",
        json!(authority.certificate().to_pem())
    );
    world.guard.authentication_changed(&text).expect("taken over");
    assert_eq!(whoami(&world, &token(&key, &issuer_url, "cluster", 600)).await.0, 401);
    assert_eq!(whoami(&world, &token(&key, &issuer_url, "others", 600)).await.1["username"], "ann");
    assert_eq!(world.send(anonymous()).await.0, 401);

    // Expressions make the user; a file that makes no sense changes nothing; one that says nothing of the anonymous user
    // lets him in.
    let with = |rest: &str| {
        format!(
            "apiVersion: apiserver.config.k8s.io/v1\nkind: AuthenticationConfiguration\njwt:\n- issuer: {{url: '{issuer_url}', \
             audiences: [others], certificateAuthority: {}}}\n  {rest}\n",
            json!(authority.certificate().to_pem())
        )
    };
    let made = with(
        "claimMappings: {username: {expression: \"'made:' + claims.sub\"}, extra: [{key: example.com/aud, valueExpression: \
         claims.aud}]}",
    );
    let why = world.guard.authentication_changed(&with("claimMappings: {username: {expression: claims.}}"));
    assert!(why.as_ref().is_err_and(|why| why.contains("jwt[0].claimMappings.username.expression")), "{why:?}");
    assert_eq!(whoami(&world, &token(&key, &issuer_url, "others", 600)).await.1["username"], "ann");
    world.guard.authentication_changed(&made).expect("taken over");
    let user = whoami(&world, &token(&key, &issuer_url, "others", 600)).await.1;
    assert_eq!((&user["username"], &user["extra"]["example.com/aud"]), (&json!("made:ann"), &json!(["others"])));
    assert_eq!(world.send(anonymous()).await.0, 200);
    world
        .guard
        .authentication_changed(&made.replace(
            "claimMappings",
            "userValidationRules: [{expression: user.username != 'made:ann'}]\n  claimMappings",
        ))
        .expect("taken over");
    assert_eq!(whoami(&world, &token(&key, &issuer_url, "others", 600)).await.0, 401);
}

fn as_user(user: &UserInfo, headers: &[(&str, &str)]) -> Request<Body> {
    let mut request = Request::post("/apis/authentication.k8s.io/v1/selfsubjectreviews")
        .header("content-type", "application/json")
        .extension(InProcess(user.clone()));
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let body = r#"{"apiVersion":"authentication.k8s.io/v1","kind":"SelfSubjectReview"}"#;
    request.body(Body::from(body)).expect("request")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_part_of_another_identity_has_to_be_allowed() {
    let world = World::start().await;
    let post = async |resource: &str, object: Value| {
        let path = format!("/apis/rbac.authorization.k8s.io/v1/{resource}");
        let (status, answer) = world.call(&admin(), "POST", &path, object).await;
        assert_eq!(status, 201, "{answer}");
    };
    let rule = |group: &str, resource: &str, names: Value| json!({"apiGroups": [group], "resources": [resource], "resourceNames": names, "verbs": ["impersonate"]});
    post(
        "clusterroles",
        json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole", "metadata": {"name": "deputy"},
        "rules": [
            rule("", "users", json!(["ann", "system:anonymous"])), rule("", "groups", json!(["dev"])),
            rule("authentication.k8s.io", "uids", json!(["7"])),
            rule("authentication.k8s.io", "userextras/scopes", json!(["view"])),
            {"apiGroups": [""], "resources": ["serviceaccounts"], "resourceNames": ["robot"], "verbs": ["impersonate"]},
        ]}),
    )
    .await;
    post(
        "clusterrolebindings",
        json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding", "metadata": {"name": "deputy"},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "deputy"},
            "subjects": [{"kind": "User", "name": "deputy", "apiGroup": "rbac.authorization.k8s.io"}]}),
    )
    .await;
    let deputy = UserInfo::new("deputy", &[]);
    let ask = async |headers: &[(&str, &str)]| {
        let (status, answer) = world.send(as_user(&deputy, headers)).await;
        (status, answer["status"]["userInfo"].clone(), answer["message"].as_str().unwrap_or_default().to_owned())
    };
    let ann = ("Impersonate-User", "ann");
    let (status, user, _) =
        ask(&[ann, ("Impersonate-Group", "dev"), ("Impersonate-Uid", "7"), ("Impersonate-Extra-Scopes", "view")]).await;
    assert_eq!(status, 201);
    assert_eq!(
        user,
        json!({"username": "ann", "uid": "7", "groups": ["dev", "system:authenticated"], "extra": {"scopes": ["view"]}})
    );
    for denied in [
        [("Impersonate-User", "bob"), ("Impersonate-Group", "dev")],
        [ann, ("Impersonate-Group", "ops")],
        [ann, ("Impersonate-Group", MASTERS)],
        [ann, ("Impersonate-Uid", "8")],
        [ann, ("Impersonate-Extra-Scopes", "all")],
        [ann, ("Impersonate-Extra-Other", "view")],
    ] {
        let (status, _, why) = ask(&denied).await;
        assert_eq!(status, 403, "{denied:?}: {why}");
        assert!(why.contains("User \"deputy\" cannot impersonate resource"), "{why}");
    }
    let (_, user, _) = ask(&[("Impersonate-User", "system:serviceaccount:default:robot")]).await;
    let groups = json!(["system:serviceaccounts", "system:serviceaccounts:default", "system:authenticated"]);
    assert_eq!(user["groups"], groups, "an account's groups are its own");
    let (status, _, why) = ask(&[("Impersonate-User", "system:anonymous")]).await;
    assert_eq!(status, 403, "the anonymous user is not among the authenticated: {why}");
    assert!(why.contains("User \"system:anonymous\" cannot create"), "{why}");
    let (status, _, why) = ask(&[("Impersonate-Group", "dev")]).await;
    assert_eq!(status, 400, "{why}");
    assert!(
        why.contains("Groups:[]string{\"dev\"}, Extra:map[string][]string(nil)} without impersonating a user"),
        "{why}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn constrained_impersonation_is_for_some_requests_only() {
    let world = World::start().await;
    let grant = async |name: &str, rules: Value| {
        let role = json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole", "metadata": {"name": name},
            "rules": rules});
        let binding = json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding",
            "metadata": {"name": name},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": name},
            "subjects": [{"kind": "User", "name": name, "apiGroup": "rbac.authorization.k8s.io"}]});
        for (resource, object) in [("clusterroles", role), ("clusterrolebindings", binding)] {
            let path = format!("/apis/rbac.authorization.k8s.io/v1/{resource}");
            let (status, answer) = world.call(&admin(), "POST", &path, object).await;
            assert_eq!(status, 201, "{answer}");
        }
    };
    let rule = |group: &str, resource: &str, verb: &str| json!({"apiGroups": [group], "resources": [resource], "verbs": [verb]});
    grant("bob", json!([rule("", "pods", "list"), rule("", "secrets", "list")])).await;
    let authentication = "authentication.k8s.io";
    grant(
        "deputy",
        json!([
            rule(authentication, "users", "impersonate:user-info"),
            rule("", "pods", "impersonate-on:user-info:list"),
            rule(authentication, "serviceaccounts", "impersonate:serviceaccount"),
            rule(authentication, "nodes", "impersonate:arbitrary-node"),
            rule("", "pods", "impersonate-on:arbitrary-node:list"),
        ]),
    )
    .await;
    let ask = async |who: &str, path: &str, headers: &[(&str, &str)]| {
        let mut request = Request::get(path).extension(InProcess(UserInfo::new(who, &[])));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let (status, answer) = world.send(request.body(Body::empty()).expect("request")).await;
        (status, answer["message"].as_str().unwrap_or_default().to_owned())
    };
    let bob = ("Impersonate-User", "bob");
    assert_eq!(ask("deputy", "/api/v1/pods", &[bob]).await.0, 200);
    // What bob may and the deputy may not do in his place.
    let (status, why) = ask("deputy", "/api/v1/secrets", &[bob]).await;
    assert_eq!(
        (status, why.as_str()),
        (
            403,
            "secrets is forbidden: User \"deputy\" cannot impersonate-on:user-info:list resource \"secrets\" in API group \
             \"\" at the cluster scope"
        )
    );
    // What the deputy may do in his place and bob may not.
    let (status, why) = ask("deputy", "/api/v1/pods", &[("Impersonate-User", "carl")]).await;
    assert!(status == 403 && why.contains("User \"carl\" cannot list"), "{why}");
    let (status, why) = ask("deputy", "/api/v1/pods", &[bob, ("Impersonate-Group", "dev")]).await;
    assert!(status == 403 && why.contains("cannot impersonate:user-info resource \"groups\""), "{why}");
    let (status, why) = ask("deputy", "/api/v1/pods", &[bob, ("Impersonate-Group", MASTERS)]).await;
    assert!(status == 403 && why.ends_with("impersonating the system:masters group is not allowed"), "{why}");
    // A service account: he may be it, and do nothing in its place.
    let account = ("Impersonate-User", "system:serviceaccount:default:robot");
    let (status, why) = ask("deputy", "/api/v1/pods", &[account]).await;
    assert!(status == 403 && why.contains("cannot impersonate-on:serviceaccount:list resource \"pods\""), "{why}");
    // A node, which lists its pods only.
    let node = ("Impersonate-User", "system:node:n1");
    let (status, why) = ask("deputy", "/api/v1/pods?fieldSelector=spec.nodeName%3Dn1", &[node]).await;
    assert_eq!(status, 200, "{why}");
    // Who has no right of any sort is told what the first way asked.
    let (status, why) = ask("nobody", "/api/v1/pods", &[bob]).await;
    assert!(status == 403 && why.contains("User \"nobody\" cannot impersonate-on:user-info:list"), "{why}");

    let mut text = String::new();
    orkd_base::metrics::render(&mut text);
    for expected in [
        "apiserver_impersonation_attempts_total{decision=\"allowed\",mode=\"user-info\"} 2\n",
        "apiserver_impersonation_attempts_total{decision=\"allowed\",mode=\"arbitrary-node\"} 1\n",
        "apiserver_impersonation_authorization_attempts_duration_seconds_count{decision=\"denied\",mode=\"legacy\"}",
    ] {
        assert!(text.contains(expected), "no {expected}");
    }
}

/// Nobody grants what he does not hold, nor has it gathered by a label; what the garbage collector changes grants nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn roles_and_bindings_grant_no_more_than_their_writer_holds() {
    const ROLES: &str = "/apis/rbac.authorization.k8s.io/v1/clusterroles";
    const BINDINGS: &str = "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings";
    let world = World::start().await;
    let role = |name: &str, rules: Value| json!({"metadata": {"name": name}, "rules": rules});
    let binding = |name: &str, role: &str| {
        json!({"metadata": {"name": name},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": role},
            "subjects": [{"kind": "User", "name": "clerk", "apiGroup": "rbac.authorization.k8s.io"}]})
    };
    let pods = json!([{"apiGroups": [""], "resources": ["pods"], "verbs": ["list"]}]);
    let clerk_rules = json!([
        {"apiGroups": [""], "resources": ["pods"], "verbs": ["list"]},
        {"apiGroups": ["rbac.authorization.k8s.io"], "resources": ["clusterroles", "clusterrolebindings"],
            "verbs": ["create", "update", "patch", "get"]},
    ]);
    let nodes = json!([{"apiGroups": [""], "resources": ["nodes"], "verbs": ["delete"]}]);
    for (path, object) in [
        (ROLES, role("clerk", clerk_rules)),
        (ROLES, role("nodes", nodes.clone())),
        (BINDINGS, binding("clerk", "clerk")),
    ] {
        assert_eq!(world.call(&admin(), "POST", path, object).await.0, 201);
    }
    let clerk = UserInfo::new("clerk", &[]);
    let send = async |method: &str, path: &str, body: Value| {
        let media = if method == "PATCH" { "application/merge-patch+json" } else { "application/json" };
        let request = Request::builder().method(method).uri(path).header("content-type", media);
        let request = request.extension(InProcess(clerk.clone())).body(Body::from(body.to_string()));
        let (code, answer) = world.send(request.expect("a request")).await;
        (code, answer["message"].as_str().unwrap_or_default().to_owned())
    };
    let not_held = "user \"clerk\" (groups=[\"system:authenticated\"]) is attempting to grant RBAC permissions not currently \
                    held:\n{APIGroups:[\"\"], Resources:[\"nodes\"], Verbs:[\"delete\"]}";
    let refused = |resource: &str, name: &str, why: &str| {
        (403, format!("{resource}.rbac.authorization.k8s.io {name:?} is forbidden: {why}"))
    };
    assert_eq!(send("POST", ROLES, role("pods", pods.clone())).await.0, 201);
    assert_eq!(send("POST", ROLES, role("more", nodes)).await, refused("clusterroles", "more", not_held));
    assert_eq!(send("POST", BINDINGS, binding("b", "pods")).await.0, 201);
    assert_eq!(send("POST", BINDINGS, binding("c", "nodes")).await, refused("clusterrolebindings", "c", not_held));
    let missing = "clusterroles.rbac.authorization.k8s.io \"none\" not found";
    assert_eq!(send("POST", BINDINGS, binding("d", "none")).await, (404, missing.into()));
    let mut gathers = role("gathers", pods);
    gathers["aggregationRule"] = json!({"clusterRoleSelectors": [{"matchLabels": {"a": "b"}}]});
    let gathering = "must have cluster-admin privileges to use an aggregationRule";
    assert_eq!(send("POST", ROLES, gathers).await, refused("clusterroles", "gathers", gathering));
    // A label has a role gathered by others: it is a change like any other.
    let path = format!("{ROLES}/nodes");
    let label = json!({"metadata": {"labels": {"rbac.authorization.k8s.io/aggregate-to-view": "true"}}});
    assert_eq!(send("PATCH", &path, label).await, refused("clusterroles", "nodes", not_held));
    let finalizer = json!({"metadata": {"finalizers": ["example.com/wait"]}});
    assert_eq!(send("PATCH", &path, finalizer).await.0, 200);
}

/// Everything that is served, asked for in another namespace by an account that may everything in its own.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_account_of_one_namespace_reaches_nothing_of_another() {
    let world = World::start().await;
    let binding = json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "RoleBinding", "metadata": {"name": "all"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "cluster-admin"},
        "subjects": [{"kind": "ServiceAccount", "name": "robot", "namespace": "default"}]});
    let path = "/apis/rbac.authorization.k8s.io/v1/namespaces/default/rolebindings";
    assert_eq!(world.call(&admin(), "POST", path, binding).await.0, 201);
    let robot = UserInfo::service_account("default", "robot");
    let resources = world.server.resources();
    let (mut asked, mut own) = (0, 0);
    for resource in resources.iter().filter(|r| r.info().scope == orkd_api::kind::Scope::Namespaced) {
        let info = resource.info();
        let root =
            if info.group.is_empty() { "/api/v1".to_owned() } else { format!("/apis/{}/{}", info.group, info.version) };
        let subresources = info.subresources.iter().map(|s| (format!("/x/{}", s.name), s.verbs));
        let paths: Vec<(String, &[&str])> = std::iter::once((String::new(), info.verbs))
            .chain(std::iter::once(("/x".to_owned(), info.verbs)))
            .chain(subresources)
            .collect();
        for (tail, verbs) in paths {
            for verb in verbs {
                let method = match (*verb, tail.is_empty()) {
                    ("list" | "watch", true) | ("get", false) => "GET",
                    ("create", _) if tail != "/x" => "POST",
                    ("update", false) => "PUT",
                    ("patch", false) => "PATCH",
                    ("deletecollection", true) | ("delete", false) => "DELETE",
                    _ => continue,
                };
                let path = |namespace: &str| {
                    let watch = if *verb == "watch" { "?watch=1&timeoutSeconds=1" } else { "" };
                    format!("{root}/namespaces/{namespace}/{}{tail}{watch}", info.plural)
                };
                let path = path("kube-system");
                let (status, answer) = world.call(&robot, method, &path, json!({})).await;
                assert_eq!(status, 403, "{method} {path}: {answer}");
                asked += 1;
                if method == "GET" && tail.is_empty() && *verb == "list" {
                    let path = path.replace("kube-system", "default");
                    assert_eq!(world.call(&robot, method, &path, Value::Null).await.0, 200, "{path}");
                    own += 1;
                }
            }
        }
    }
    assert!(asked > 300 && own > 30, "{asked} {own}");
    // Nor anything that is in no namespace.
    for path in ["/api/v1/namespaces", "/api/v1/nodes", "/api/v1/persistentvolumes", "/api/v1/pods", "/api/v1/secrets"]
    {
        assert_eq!(world.call(&robot, "GET", path, Value::Null).await.0, 403, "{path}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn proxies_name_users_in_the_headers_that_were_chosen() {
    let now = Timestamp::now();
    let proxies = Authority::create("proxies", now).expect("ca");
    let headers = RequestHeaders {
        allowed_names: vec!["gate".into()],
        username: vec!["X-First".into(), "X-User".into()],
        uid: vec!["X-Uid".into()],
        groups: vec!["X-Group".into()],
        extra_prefixes: vec!["X-More-".into()],
    };
    let pem = proxies.certificate().to_pem();
    let world = World::start_changed(|options| {
        options.proxy_authorities = Some(pem);
        options.request_headers = headers;
        options.anonymous = Anonymous::Off;
    })
    .await;
    let ask = async |authority: &Authority, name: &str, headers: &[(&str, &str)]| {
        let leaf = authority.issue(&Profile::client(name, &[]), now).expect("leaf").certificate;
        let mut request = as_user(&admin(), headers);
        request.extensions_mut().clear();
        request.extensions_mut().insert(Peer { certificates: vec![leaf.to_rustls()], ..Peer::default() });
        let (status, answer) = world.send(request).await;
        (status, answer["status"]["userInfo"].clone())
    };
    let said = [("X-User", "ann"), ("X-Uid", "7"), ("X-Group", "dev"), ("X-Group", "ops"), ("X-More-Team", "a")];
    let (status, user) = ask(&proxies, "gate", &said).await;
    assert_eq!(status, 201, "{user}");
    let expected = json!({"username": "ann", "uid": "7", "groups": ["dev", "ops", "system:authenticated"],
        "extra": {"team": ["a"]}});
    assert_eq!(user, expected);
    assert_eq!(ask(&proxies, "someone", &said).await.0, 401, "not a proxy");
    let own = &world.pki.ca;
    assert_eq!(ask(own, "carl", &said).await.1["username"], "carl", "a client is itself, whatever it says");
    assert_eq!(ask(&proxies, "gate", &[("X-Remote-User", "ann")]).await.0, 401, "these headers are not believed");
    let map = "/api/v1/namespaces/kube-system/configmaps/extension-apiserver-authentication";
    let (_, map) = world.call(&admin(), "GET", map, Value::Null).await;
    assert_eq!(map["data"]["requestheader-username-headers"], "[\"X-First\",\"X-User\"]");
    assert_eq!(map["data"]["requestheader-allowed-names"], "[\"gate\"]");
    assert_eq!(map["data"]["requestheader-uid-headers"], "[\"X-Uid\"]");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn token_requests_are_bounded_and_documents_say_how_to_check_them() {
    let world = World::start_changed(|options| {
        options.max_token_seconds = Some(7200);
        options.extend_tokens = false;
    })
    .await;
    let accounts = "/api/v1/namespaces/default/serviceaccounts";
    let account = json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "a"}});
    let (_, account) = world.call(&admin(), "POST", accounts, account).await;
    let ask = async |spec: Value, meta: Value| {
        let body =
            json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "metadata": meta, "spec": spec});
        world.call(&admin(), "POST", &format!("{accounts}/a/token"), body).await
    };
    let (status, answer) = ask(json!({"expirationSeconds": 100_000, "audiences": ["x"]}), json!({})).await;
    assert_eq!((status, &answer["spec"]["expirationSeconds"]), (201, &json!(7200)), "{answer}");
    let text = |v: &Value| v["message"].as_str().unwrap_or_default().to_owned();
    let (status, short) = ask(json!({"expirationSeconds": 10}), json!({})).await;
    assert_eq!(status, 422);
    assert!(text(&short).contains("may not specify a duration less than 10 minutes"), "{short}");
    let (status, other) = ask(json!({}), json!({"uid": "another"})).await;
    assert_eq!(status, 409, "{other}");
    let (status, _) = ask(json!({}), json!({"uid": account["metadata"]["uid"]})).await;
    assert_eq!(status, 201);
    let (status, _) =
        ask(json!({"boundObjectRef": {"kind": "Pod", "apiVersion": "v1", "name": "nope"}}), json!({})).await;
    assert_eq!(status, 404);
    let (status, bad) =
        ask(json!({"boundObjectRef": {"kind": "Lease", "apiVersion": "v1", "name": "l"}}), json!({})).await;
    assert_eq!(status, 400, "{bad}");
    // A token for another audience is not the API server's; a review for that audience takes it.
    let token = answer["status"]["token"].as_str().expect("token");
    assert_eq!(world.get_with_token(token, "/api").await.0, 401);
    let review = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview", "spec": {"token": token, "audiences": ["x", "y"]}});
    let (_, review) = world.call(&admin(), "POST", "/apis/authentication.k8s.io/v1/tokenreviews", review).await;
    assert_eq!(review["status"]["audiences"], json!(["x"]), "{review}");

    let reader = UserInfo::service_account("default", "a");
    let (status, document) = world.call(&reader, "GET", "/.well-known/openid-configuration", Value::Null).await;
    assert_eq!(
        (status, &document["jwks_uri"]),
        (200, &json!("https://kubernetes.default.svc.cluster.local/openid/v1/jwks"))
    );
    let request = Request::get("/openid/v1/jwks").extension(InProcess(reader)).body(Body::empty()).expect("request");
    let response = tower::ServiceExt::oneshot(world.server.router(), request).await.expect("infallible");
    assert_eq!(response.headers()["content-type"], "application/jwk-set+json");
    let keys = response.into_body().collect().await.expect("body").to_bytes();
    let keys = orkd_pki::oidc::KeySet::parse(&keys).expect("keys");
    let claims = keys.verify(token, &[orkd_pki::oidc::Algorithm::ES256]).expect("signed by a published key");
    assert_eq!(claims["sub"], "system:serviceaccount:default:a");
}

#[tokio::test]
async fn reviews_say_who_asked() {
    let world = World::start().await;
    let fields = |v: &Value| v["metadata"]["managedFields"][0].clone();
    let access = |kind: &str, spec: Value| json!({"kind": kind, "spec": spec});
    let pods = json!({"namespace": "default", "verb": "get", "resource": "pods"});
    const AUTHORIZATION: &str = "/apis/authorization.k8s.io/v1";
    let path = format!("{AUTHORIZATION}/selfsubjectaccessreviews?fieldManager=me");
    let own = access("SelfSubjectAccessReview", json!({"resourceAttributes": pods}));
    let (code, v) = world.call(&admin(), "POST", &path, own).await;
    let spec =
        json!({"f:spec": {"f:resourceAttributes": {".": {}, "f:namespace": {}, "f:resource": {}, "f:verb": {}}}});
    assert_eq!((code, &fields(&v)["fieldsV1"], fields(&v)["manager"].as_str()), (201, &spec, Some("me")), "{v}");
    let path = format!("{AUTHORIZATION}/namespaces/default/localsubjectaccessreviews");
    let local = access("LocalSubjectAccessReview", json!({"user": "u", "resourceAttributes": pods}));
    let (code, v) = world.call(&admin(), "POST", &path, local).await;
    assert_eq!((code, v["metadata"]["namespace"].as_str()), (201, Some("default")), "{v}");
    // These two are answered with what was not sent.
    let path = format!("{AUTHORIZATION}/selfsubjectrulesreviews");
    let rules = access("SelfSubjectRulesReview", json!({"namespace": "default"}));
    let (code, v) = world.call(&admin(), "POST", &path, rules).await;
    assert_eq!((code, &v["spec"], &v["metadata"]), (201, &json!({}), &json!({})), "{v}");
    let path = "/apis/authentication.k8s.io/v1/selfsubjectreviews";
    let (code, v) = world.call(&admin(), "POST", path, json!({"metadata": {"labels": {"a": "b"}}})).await;
    assert_eq!((code, v["metadata"].as_object().map(|m| m.len())), (201, Some(1)), "{v}");
    let account = json!({"metadata": {"name": "a"}});
    world.call(&admin(), "POST", "/api/v1/namespaces/default/serviceaccounts", account).await;
    let path = "/api/v1/namespaces/default/serviceaccounts/a/token";
    let (code, v) = world.call(&admin(), "POST", path, json!({"spec": {"expirationSeconds": 600}})).await;
    assert_eq!((code, fields(&v)["subresource"].as_str()), (201, Some("token")), "{v}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_makes_an_object_by_an_update_or_an_apply_may_create_it() {
    let world = World::start().await;
    const ROLES: &str = "/apis/rbac.authorization.k8s.io/v1/namespaces/default";
    let panda = UserInfo::new("panda", &[]);
    let let_panda = async |verbs: Value| {
        let meta = json!({"name": "panda"});
        let role = json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "Role", "metadata": meta, "rules": [
            {"verbs": verbs, "apiGroups": ["", "coordination.k8s.io"], "resources": ["configmaps", "leases"]}]});
        let binding = json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "RoleBinding", "metadata": meta,
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "panda"},
            "subjects": [{"kind": "User", "name": "panda", "apiGroup": "rbac.authorization.k8s.io"}]});
        for (plural, body) in [("roles", role), ("rolebindings", binding)] {
            let (code, answer) = world.call(&admin(), "PUT", &format!("{ROLES}/{plural}/panda"), body).await;
            assert!(code < 300, "{answer}");
        }
    };
    let apply = async || {
        let body = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "m"}, "data": {"k": "v"}});
        let request = Request::patch("/api/v1/namespaces/default/configmaps/m?fieldManager=m")
            .header("content-type", "application/apply-patch+yaml")
            .extension(InProcess(panda.clone()));
        world.send(request.body(Body::from(body.to_string())).expect("request")).await
    };
    let put = async || {
        let body =
            json!({"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"name": "l"}, "spec": {}});
        world.call(&panda, "PUT", "/apis/coordination.k8s.io/v1/namespaces/default/leases/l", body).await
    };
    let refused = |verb: &str, what: &str, name: &str, group: &str| {
        format!(
            "{what}{} {name:?} is forbidden: User \"panda\" cannot {verb} resource {what:?} in API group {group:?} in the \
             namespace \"default\"",
            if group.is_empty() { String::new() } else { format!(".{group}") },
        )
    };
    let check = |(code, answer): (u16, Value), wanted: String| {
        assert_eq!((code, answer["message"].as_str()), (403, Some(wanted.as_str())), "{answer}");
    };
    check(apply().await, refused("patch", "configmaps", "m", ""));
    let_panda(json!(["patch", "update"])).await;
    check(apply().await, refused("create", "configmaps", "m", ""));
    check(put().await, refused("create", "leases", "l", "coordination.k8s.io"));
    let_panda(json!(["patch", "update", "create"])).await;
    assert_eq!((apply().await.0, put().await.0), (201, 201));
    // What is there by now is changed without it.
    let_panda(json!(["patch", "update"])).await;
    assert_eq!(apply().await.0, 200);
}
