//! A whole API server on an embedded store, in process: born with its roles, it knows its users, keeps them to their
//! rights, and hands out addresses, ports and tokens.

mod common;

use std::sync::Arc;

use common::{World, admin};
use http::Request;
use http_body_util::BodyExt;
use jiff::Timestamp;
use orkd_apiserver::Body;
use orkd_apiserver::user::{InProcess, MASTERS, Peer, UserInfo};
use orkd_pki::cluster::ClusterPki;
use orkd_pki::{Key, Profile, csr};
use serde_json::{Value, json};
use tower::ServiceExt;

fn message(answer: &(u16, Value)) -> (u16, &str) {
    (answer.0, answer.1["message"].as_str().unwrap_or_default())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_is_born_as_recorded_and_knows_its_users() {
    let world = World::start().await;
    let (status, roles) =
        world.call(&admin(), "GET", "/apis/rbac.authorization.k8s.io/v1/clusterroles", Value::Null).await;
    let upstreams = |role: &&Value| {
        let name = role["metadata"]["name"].as_str().unwrap_or_default();
        !name.starts_with("orkd:") && name != "system:aggregated-metrics-reader"
    };
    let count = roles["items"].as_array().into_iter().flatten().filter(upstreams).count();
    assert_eq!((status, count), (200, 69));
    let (_, service) = world.call(&admin(), "GET", "/api/v1/namespaces/default/services/kubernetes", Value::Null).await;
    assert_eq!(service["spec"]["clusterIP"], "10.43.0.1");
    let (status, ip) =
        world.call(&admin(), "GET", "/apis/networking.k8s.io/v1/ipaddresses/10.43.0.1", Value::Null).await;
    assert_eq!((status, &ip["spec"]["parentRef"]["name"]), (200, &json!("kubernetes")));
    let cidr = world.call(&admin(), "GET", "/apis/networking.k8s.io/v1/servicecidrs/kubernetes", Value::Null).await.1;
    assert_eq!(cidr["status"]["conditions"][0]["status"], "True", "{cidr}");

    // Nobody, with a certificate, with a bad one.
    let request = |peer: Option<Peer>, path: &str| {
        let builder = Request::get(path);
        let builder = match peer {
            Some(peer) => builder.extension(peer),
            None => builder,
        };
        builder.body(Body::empty()).expect("request")
    };
    let anonymous = world.send(request(None, "/api/v1/pods")).await;
    let text = "pods is forbidden: User \"system:anonymous\" cannot list resource \"pods\" in API group \"\" at the \
                cluster scope";
    assert_eq!(message(&anonymous), (403, text));
    assert_eq!(world.send(request(None, "/version")).await.0, 200);
    let peer = |ca: &orkd_pki::Authority, name: &str, groups: &[&str]| {
        let leaf = ca.issue(&Profile::client(name, groups), Timestamp::now()).expect("leaf").certificate;
        Some(Peer { certificates: vec![leaf.to_rustls()], ..Peer::default() })
    };
    assert_eq!(world.send(request(peer(&world.pki.ca, "a", &[MASTERS]), "/api/v1/pods")).await.0, 200);
    let denied = world.send(request(peer(&world.pki.ca, "a", &["dev"]), "/api/v1/pods")).await;
    let text = "pods is forbidden: User \"a\" cannot list resource \"pods\" in API group \"\" at the cluster scope";
    assert_eq!(message(&denied), (403, text));
    let foreign = orkd_pki::Authority::create("x", Timestamp::now()).expect("ca");
    assert_eq!(world.send(request(peer(&foreign, "a", &[MASTERS]), "/api/v1/pods")).await.0, 401);

    // A second start changes nothing.
    let revision = |list: &Value| list["metadata"]["resourceVersion"].clone();
    let before = world.call(&admin(), "GET", "/api/v1/namespaces", Value::Null).await.1;
    let World { server, dir, .. } = world;
    server.store().close().await;
    server.caches().stop();
    drop(server);
    let world = World::start_in(dir).await;
    let after = world.call(&admin(), "GET", "/api/v1/namespaces", Value::Null).await.1;
    assert_eq!(revision(&before), revision(&after));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn services_get_addresses_and_ports_once() {
    let world = World::start().await;
    let path = "/api/v1/namespaces/default/services";
    let service = |name: &str, spec: Value| json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": name}, "spec": spec});
    let ports = json!([{"port": 80}]);
    let (status, first) =
        world.call(&admin(), "POST", path, service("a", json!({"type": "NodePort", "ports": ports}))).await;
    assert_eq!(status, 201, "{first}");
    let ip = first["spec"]["clusterIP"].as_str().expect("ip").to_owned();
    let port = first["spec"]["ports"][0]["nodePort"].as_i64().expect("port");
    assert!(ip.starts_with("10.43.") && (30000..=32767).contains(&port), "{first}");
    let taken = world.call(&admin(), "POST", path, service("b", json!({"clusterIP": ip, "ports": ports}))).await;
    let text = format!(
        "Service \"b\" is invalid: spec.clusterIPs: Invalid value: [\"{ip}\"]: failed to allocate IP {ip}: provided IP is \
         already allocated"
    );
    assert_eq!(message(&taken), (422, text.as_str()));
    let same = json!({"type": "NodePort", "ports": [{"port": 80, "nodePort": port}]});
    let taken = world.call(&admin(), "POST", path, service("b", same)).await;
    let text = format!(
        "Service \"b\" is invalid: spec.ports[0].nodePort: Invalid value: {port}: provided port is already allocated"
    );
    assert_eq!(message(&taken), (422, text.as_str()));
    let low = json!({"type": "NodePort", "ports": [{"port": 80, "nodePort": 80}]});
    let low = world.call(&admin(), "POST", path, service("x", low)).await;
    let text = "Service \"x\" is invalid: spec.ports[0].nodePort: Invalid value: 80: provided port is not in the valid \
                range. The range of valid ports is 30000-32767";
    assert_eq!(message(&low), (422, text));
    let outside =
        world.call(&admin(), "POST", path, service("x", json!({"clusterIP": "1.2.3.4", "ports": ports}))).await;
    let text = "Service \"x\" is invalid: spec.clusterIPs: Invalid value: [\"1.2.3.4\"]: failed to allocate IP 1.2.3.4: \
                the provided network does not match the current range";
    assert_eq!(message(&outside), (422, text));

    // A dry run invents them and keeps nothing.
    let count = async || {
        let list = world.call(&admin(), "GET", "/apis/networking.k8s.io/v1/ipaddresses", Value::Null).await.1;
        list["items"].as_array().map_or(0, Vec::len)
    };
    assert_eq!(count().await, 2);
    let dry = format!("{path}?dryRun=All");
    let spec = json!({"type": "LoadBalancer", "externalTrafficPolicy": "Local",
        "ports": [{"name": "h", "port": 80}, {"name": "d", "port": 53, "protocol": "UDP"}]});
    let (status, dry) = world.call(&admin(), "POST", &dry, service("d", spec)).await;
    assert_eq!(status, 201, "{dry}");
    assert_eq!(dry["spec"]["clusterIP"], "10.43.0.0");
    assert_eq!(dry["spec"]["ports"][1]["nodePort"], 32770);
    assert_eq!(dry["spec"]["healthCheckNodePort"], 32771);
    assert_eq!(count().await, 2);

    // A change of type gives the port back; a removal gives the address back.
    let one = format!("{path}/a");
    let patch = Request::patch(&one).header("content-type", "application/merge-patch+json");
    let patch = patch.extension(InProcess(admin())).body(Body::from(r#"{"spec":{"type":"ClusterIP"}}"#));
    let (status, changed) = world.send(patch.expect("request")).await;
    assert_eq!((status, &changed["spec"]["clusterIP"]), (200, &json!(ip)), "{changed}");
    let reuse = json!({"type": "NodePort", "ports": [{"port": 80, "nodePort": port}]});
    let (status, again) = world.call(&admin(), "POST", path, service("e", reuse)).await;
    assert_eq!(status, 201, "{again}");
    let (status, gone) = world.call(&admin(), "DELETE", &one, Value::Null).await;
    assert_eq!(status, 200, "{gone}");
    let released =
        world.call(&admin(), "GET", &format!("/apis/networking.k8s.io/v1/ipaddresses/{ip}"), Value::Null).await;
    assert_eq!(released.0, 404);

    // Through every type and back: what a type does not have is given back, what it has is taken.
    let path = format!("{path}/e");
    let change = async |spec: Value| {
        let patch = Request::patch(&path).header("content-type", "application/merge-patch+json");
        let patch = patch.extension(InProcess(admin())).body(Body::from(json!({ "spec": spec }).to_string()));
        let (status, service) = world.send(patch.expect("request")).await;
        assert_eq!(status, 200, "{service}");
        service["spec"].clone()
    };
    let alias = change(json!({"type": "ExternalName", "externalName": "a.example.com"})).await;
    assert_eq!((alias.get("clusterIP"), alias["ports"][0].get("nodePort")), (None, None), "{alias}");
    assert_eq!(count().await, 1);
    let plain = change(json!({"type": "ClusterIP", "externalName": null})).await;
    assert!(plain["clusterIP"].as_str().is_some_and(|ip| ip.starts_with("10.43.")), "{plain}");
    assert_eq!(count().await, 2);
    let balanced = change(json!({"type": "LoadBalancer", "externalTrafficPolicy": "Local"})).await;
    let port = |v: &Value| v.as_i64().is_some_and(|p| (30000..=32767).contains(&p));
    assert!(port(&balanced["ports"][0]["nodePort"]) && port(&balanced["healthCheckNodePort"]), "{balanced}");
    assert_eq!(balanced["clusterIP"], plain["clusterIP"]);
    let again = change(json!({"type": "ClusterIP"})).await;
    assert_eq!((again["ports"][0].get("nodePort"), again.get("healthCheckNodePort")), (None, None), "{again}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pods_are_bound_and_their_tokens_end_with_them() {
    let world = World::start().await;
    let account = json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "default"}});
    let made = world.call(&admin(), "POST", "/api/v1/namespaces/default/serviceaccounts", account).await;
    assert_eq!(made.0, 201, "{}", made.1);
    let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"},
        "spec": {"containers": [{"name": "c", "image": "nginx"}]}});
    let made = world.call(&admin(), "POST", "/api/v1/namespaces/default/pods", pod).await;
    assert_eq!(made.0, 201, "{}", made.1);
    let pod = made.1;
    let scheduler = UserInfo::new("system:kube-scheduler", &[]);
    let binding = json!({"apiVersion": "v1", "kind": "Binding", "metadata": {"name": "p"},
        "target": {"kind": "Node", "name": "n1"}});
    let path = "/api/v1/namespaces/default/pods/p/binding";
    let dry = world.call(&scheduler, "POST", &format!("{path}?dryRun=All"), binding.clone()).await;
    assert_eq!(dry.0, 201, "{}", dry.1);
    let (status, done) = world.call(&scheduler, "POST", path, binding.clone()).await;
    assert_eq!((status, &done["status"]), (201, &json!("Success")), "{done}");
    let again = world.call(&scheduler, "POST", path, binding).await;
    let text = "Operation cannot be fulfilled on pods/binding \"p\": pod p is already assigned to node \"n1\"";
    assert_eq!(message(&again), (409, text));
    let bound = world.call(&admin(), "GET", "/api/v1/namespaces/default/pods/p", Value::Null).await.1;
    assert_eq!(bound["spec"]["nodeName"], "n1");
    assert_eq!(bound["status"]["conditions"][0]["type"], "PodScheduled");
    assert_eq!(bound["metadata"]["managedFields"], pod["metadata"]["managedFields"], "a binding owns nothing");
    assert_ne!(bound["metadata"]["resourceVersion"], pod["metadata"]["resourceVersion"]);
    let nowhere = path.replace("/p/", "/q/");
    let binding = json!({"apiVersion": "v1", "kind": "Binding", "metadata": {"name": "q"},
        "target": {"kind": "Node", "name": "n1"}});
    let nowhere = world.call(&scheduler, "POST", &nowhere, binding).await;
    assert_eq!(message(&nowhere), (404, "pods \"q\" not found"));

    let (n1, n2) =
        (UserInfo::new("system:node:n1", &["system:nodes"]), UserInfo::new("system:node:n2", &["system:nodes"]));
    let request = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest",
        "spec": {"expirationSeconds": 3607, "boundObjectRef": {"apiVersion": "v1", "kind": "Pod", "name": "p",
            "uid": pod["metadata"]["uid"]}}});
    let path = "/api/v1/namespaces/default/serviceaccounts/default/token";
    let denied = world.call(&n2, "POST", path, request.clone()).await;
    assert_eq!(denied.0, 403, "{}", denied.1);
    let (status, made) = world.call(&n1, "POST", path, request).await;
    assert_eq!(status, 201, "{made}");
    let token = made["status"]["token"].as_str().expect("token").to_owned();

    let review = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview", "spec": {"token": token}});
    let (status, known) = world.call(&admin(), "POST", "/apis/authentication.k8s.io/v1/tokenreviews", review).await;
    assert_eq!((status, &known["status"]["user"]["username"]), (201, &json!("system:serviceaccount:default:default")));
    assert_eq!(known["status"]["user"]["extra"]["authentication.kubernetes.io/pod-name"], json!(["p"]));

    let forbidden = world.get_with_token(&token, "/api/v1/namespaces/default/pods").await;
    assert_eq!(forbidden.0, 403);
    let grant = json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "RoleBinding", "metadata": {"name": "v"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "view"},
        "subjects": [{"kind": "ServiceAccount", "name": "default", "namespace": "default"}]});
    let path = "/apis/rbac.authorization.k8s.io/v1/namespaces/default/rolebindings";
    let made = world.call(&admin(), "POST", path, grant.clone()).await;
    assert_eq!(made.0, 201, "{}", made.1);
    assert_eq!(world.get_with_token(&token, "/api/v1/namespaces/default/pods").await.0, 200);

    // Nobody grants what he does not hold.
    let mut more = grant;
    more["metadata"]["name"] = json!("more");
    more["roleRef"]["name"] = json!("cluster-admin");
    let editor = UserInfo::new("editor", &[]);
    let role = json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding",
        "metadata": {"name": "e"}, "subjects": [{"kind": "User", "name": "editor", "apiGroup": "rbac.authorization.k8s.io"}],
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "admin"}});
    let made = world.call(&admin(), "POST", "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings", role).await;
    assert_eq!(made.0, 201, "{}", made.1);
    let refused = world.call(&editor, "POST", path, more).await;
    let text = "rolebindings.rbac.authorization.k8s.io \"more\" is forbidden: user \"editor\" \
                (groups=[\"system:authenticated\"]) is attempting to grant RBAC permissions not currently held:";
    assert!(refused.0 == 403 && message(&refused).1.starts_with(text), "{}", refused.1);

    // The token ends with its pod.
    let (status, gone) =
        world.call(&admin(), "DELETE", "/api/v1/namespaces/default/pods/p?gracePeriodSeconds=0", Value::Null).await;
    assert_eq!(status, 200, "{gone}");
    assert_eq!(world.get_with_token(&token, "/api/v1/namespaces/default/pods").await.0, 401);
    assert_eq!(world.get_with_token("nonsense", "/version").await.0, 401);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_keep_to_their_own() {
    let world = World::start().await;
    let n1 = UserInfo::new("system:node:n1", &["system:nodes"]);
    let node = |name: &str| json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name}});
    let (status, made) = world.call(&n1, "POST", "/api/v1/nodes", node("n1")).await;
    assert_eq!(status, 201, "{made}");
    assert_eq!(made["spec"]["taints"][0]["key"], "node.kubernetes.io/not-ready");
    let other = world.call(&n1, "POST", "/api/v1/nodes", node("n2")).await;
    let text = "nodes \"n2\" is forbidden: node \"n1\" is not allowed to modify node \"n2\"";
    assert_eq!(message(&other), (403, text));
    let secret = world.call(&n1, "GET", "/api/v1/namespaces/kube-system/secrets/x", Value::Null).await;
    let text = "secrets \"x\" is forbidden: User \"system:node:n1\" cannot get resource \"secrets\" in API group \"\" in the \
                namespace \"kube-system\": no relationship found between node 'n1' and this object";
    assert_eq!(message(&secret), (403, text));

    let key = Key::generate().expect("key");
    let profile = Profile::client("system:node:n1", &["system:nodes"]);
    let pem = csr::create(&key, &profile).expect("request");
    use base64::Engine;
    let request = json!({"apiVersion": "certificates.k8s.io/v1", "kind": "CertificateSigningRequest",
        "metadata": {"name": "c"}, "spec": {"request": base64::engine::general_purpose::STANDARD.encode(pem),
            "signerName": "kubernetes.io/kube-apiserver-client-kubelet", "usages": ["digital signature", "client auth"]}});
    let bootstrapper = UserInfo::new("system:bootstrap:abcdef", &["system:bootstrappers"]);
    let path = "/apis/certificates.k8s.io/v1/certificatesigningrequests";
    let (status, made) = world.call(&bootstrapper, "POST", path, request).await;
    assert_eq!((status, &made["spec"]["username"]), (201, &json!("system:bootstrap:abcdef")), "{made}");

    let review = json!({"apiVersion": "authorization.k8s.io/v1", "kind": "SelfSubjectRulesReview", "spec": {"namespace": "default"}});
    let (status, rules) =
        world.call(&bootstrapper, "POST", "/apis/authorization.k8s.io/v1/selfsubjectrulesreviews", review).await;
    assert_eq!((status, &rules["status"]["incomplete"]), (201, &json!(false)), "{rules}");
    let review = json!({"apiVersion": "authorization.k8s.io/v1", "kind": "SelfSubjectAccessReview",
        "spec": {"resourceAttributes": {"verb": "create", "group": "certificates.k8s.io", "resource": "certificatesigningrequests"}}});
    let (_, allowed) =
        world.call(&bootstrapper, "POST", "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews", review).await;
    assert_eq!(allowed["status"]["allowed"], true, "{allowed}");
}

/// A kubelet that answers logs, tells the path it was asked for, and echoes what an upgraded connection sends.
async fn fake_kubelet(pki: &ClusterPki) -> u16 {
    use hyper_util::rt::TokioIo;
    let profile = Profile::server("system:node:n1", vec![], vec![[127, 0, 0, 1].into()]);
    let identity = pki.ca.issue(&profile, Timestamp::now()).expect("certificate");
    let mut tls = orkd_pki::tls::server_config(&identity, &[]).expect("tls");
    tls.alpn_protocols.clear();
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(tls));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("bound");
    let port = listener.local_addr().expect("address").port();
    tokio::spawn(async move {
        loop {
            let Ok((tcp, _)) = listener.accept().await else { return };
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                let stream = acceptor.accept(tcp).await.expect("handshake");
                let client = stream.get_ref().1.peer_certificates().expect("client certificate")[0].clone();
                let client = orkd_pki::Certificate::from_der(&client).expect("certificate").common_name;
                let service = hyper::service::service_fn(move |mut request: http::Request<hyper::body::Incoming>| {
                    let client = client.clone();
                    async move {
                        let told = format!("{client} {} {}", request.method(), request.uri());
                        if !request.headers().contains_key("upgrade") {
                            let status = if told.contains("previous") { 400 } else { 200 };
                            let response = http::Response::builder().status(status).body(Body::from(told));
                            return response;
                        }
                        let upgrade = hyper::upgrade::on(&mut request);
                        tokio::spawn(async move {
                            let mut io = TokioIo::new(upgrade.await.expect("upgraded"));
                            use tokio::io::{AsyncReadExt, AsyncWriteExt};
                            io.write_all(format!("{told}\n").as_bytes()).await.expect("written");
                            let mut all = Vec::new();
                            io.read_to_end(&mut all).await.expect("read");
                            io.write_all(&all).await.expect("written");
                            io.shutdown().await.expect("closed");
                        });
                        let response = http::Response::builder().status(101).header("connection", "Upgrade");
                        response.header("upgrade", "SPDY/3.1").body(Body::empty())
                    }
                });
                let connection = hyper::server::conn::http1::Builder::new();
                let _ = connection.serve_connection(TokioIo::new(stream), service).with_upgrades().await;
            });
        }
    });
    port
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn streams_reach_the_kubelet_and_end() {
    use hyper_util::rt::TokioIo;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let world = World::start().await;
    let port = fake_kubelet(&world.pki).await;
    let node = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "n1"}});
    assert_eq!(world.call(&admin(), "POST", "/api/v1/nodes", node.clone()).await.0, 201);
    let mut node = world.call(&admin(), "GET", "/api/v1/nodes/n1", Value::Null).await.1;
    node["status"] = json!({"addresses": [{"type": "InternalIP", "address": "127.0.0.1"}],
        "daemonEndpoints": {"kubeletEndpoint": {"Port": port}}});
    let (status, node) = world.call(&admin(), "PUT", "/api/v1/nodes/n1/status", node).await;
    assert_eq!(status, 200, "{node}");
    let account = json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "default"}});
    world.call(&admin(), "POST", "/api/v1/namespaces/default/serviceaccounts", account).await;
    let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"},
        "spec": {"nodeName": "n1", "containers": [{"name": "c", "image": "nginx"}]}});
    let made = world.call(&admin(), "POST", "/api/v1/namespaces/default/pods", pod).await;
    assert_eq!(made.0, 201, "{}", made.1);

    let path = "/api/v1/namespaces/default/pods/p/log?tailLines=3&follow=true";
    let (status, text) = world.call(&admin(), "GET", path, Value::Null).await;
    let expected = "kube-apiserver-kubelet-client GET /containerLogs/default/p/c?follow=true&tailLines=3";
    assert_eq!((status, text.as_str()), (200, Some(expected)));
    let path = "/api/v1/namespaces/default/pods/p/log?previous=true";
    let refused = world.call(&admin(), "GET", path, Value::Null).await;
    assert_eq!((refused.0, refused.1["reason"].as_str()), (400, Some("BadRequest")), "{}", refused.1);
    let (status, text) = world.call(&admin(), "GET", "/api/v1/nodes/n1/proxy/healthz?x=1", Value::Null).await;
    assert_eq!((status, text.as_str()), (200, Some("kube-apiserver-kubelet-client GET /healthz?x=1")));
    let plain = world.call(&admin(), "POST", "/api/v1/namespaces/default/pods/p/exec?command=a", Value::Null).await;
    assert_eq!(message(&plain), (400, "Upgrade request required"));

    // A client on a connection that can be upgraded.
    let (near, far) = tokio::io::duplex(1 << 16);
    let router = world.server.router();
    tokio::spawn(async move {
        let service = hyper::service::service_fn(move |mut request: http::Request<hyper::body::Incoming>| {
            let user = request.headers().get("x-test-user").map(|v| v.to_str().expect("text").to_owned());
            let user = user.map_or_else(admin, |name| UserInfo::new(name, &[]));
            request.extensions_mut().insert(InProcess(user));
            router.clone().oneshot(request)
        });
        let connection = hyper::server::conn::http1::Builder::new();
        connection.serve_connection(TokioIo::new(far), service).with_upgrades().await.expect("served");
    });
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(near)).await.expect("client");
    tokio::spawn(connection.with_upgrades());
    let exec = |user: &str, method: &str| {
        let path = "/api/v1/namespaces/default/pods/p/exec?command=cat&command=a%20b&stdin=true&stdout=true";
        let request = Request::builder().method(method).uri(path).header("host", "x").header("x-test-user", user);
        let request = request.header("connection", "Upgrade").header("upgrade", "SPDY/3.1");
        request.header("authorization", "Bearer secret").body(Body::empty()).expect("request")
    };
    // A reader may GET the subresource, but a stream needs `create`.
    let role = json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole", "metadata": {"name": "r"},
        "rules": [{"verbs": ["get"], "apiGroups": [""], "resources": ["pods/exec"]}]});
    let path = "/apis/rbac.authorization.k8s.io/v1/clusterroles";
    assert_eq!(world.call(&admin(), "POST", path, role).await.0, 201);
    let bound = json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding", "metadata": {"name": "r"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "r"},
        "subjects": [{"kind": "User", "name": "reader", "apiGroup": "rbac.authorization.k8s.io"}]});
    let path = "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings";
    assert_eq!(world.call(&admin(), "POST", path, bound).await.0, 201);
    let refused = sender.send_request(exec("reader", "GET")).await.expect("answer");
    assert_eq!(refused.status(), 403);
    drop(refused.into_body().collect().await.expect("body"));
    sender.ready().await.expect("ready");

    let admin_request = {
        let mut request = exec("admin", "POST");
        request.headers_mut().remove("x-test-user");
        request
    };
    let mut response = sender.send_request(admin_request).await.expect("answer");
    assert_eq!(
        (response.status().as_u16(), &response.headers()["upgrade"]),
        (101, &http::HeaderValue::from_static("SPDY/3.1"))
    );
    let mut io = TokioIo::new(hyper::upgrade::on(&mut response).await.expect("upgraded"));
    io.write_all(b"hello").await.expect("written");
    io.shutdown().await.expect("closed");
    let mut all = String::new();
    io.read_to_string(&mut all).await.expect("read");
    let path = "kube-apiserver-kubelet-client POST /exec/default/p/c?input=1&output=1&command=cat&command=a%20b\nhello";
    assert_eq!(all, path);
}
