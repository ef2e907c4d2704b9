//! A client that sends and accepts nothing but protobuf: client-go's way with built-in types, without client-go.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use futures_util::future::BoxFuture;
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use orkd_api::codec::protobuf;
use orkd_api::schema::Type;
use orkd_pki::kubeconfig::Kubeconfig;
use orkd_pki::{cert, tls};
use orkd_tests::cluster::Cluster;
use orkd_tests::is_root;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::IMAGE;

const PROTOBUF: &str = "application/vnd.kubernetes.protobuf";

struct Client {
    sender: SendRequest<Full<Bytes>>,
}

impl Client {
    async fn connect(kubeconfig: &Kubeconfig) -> Result<Client> {
        let resolved = kubeconfig.resolve()?;
        let authority = cert::chain_from_pem(&resolved.authorities.clone().context("an authority")?)?;
        let identity = resolved.identity()?.context("a certificate")?;
        let config = Arc::new(tls::client_config(tls::roots(authority)?, Some(&identity))?);
        let tcp = TcpStream::connect("127.0.0.1:6443").await?;
        let stream = TlsConnector::from(config).connect("127.0.0.1".try_into()?, tcp).await?;
        let (sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
        tokio::spawn(connection.with_upgrades());
        Ok(Client { sender })
    }

    async fn send(&mut self, method: &str, url: &str, body: Option<(&str, Vec<u8>)>) -> Result<Response<Incoming>> {
        let mut request = Request::builder().method(method).uri(url).header("host", "127.0.0.1");
        request = request.header("accept", PROTOBUF).header("user-agent", "protobuf-tour");
        let (kind, bytes) = body.unwrap_or_default();
        if !kind.is_empty() {
            request = request.header("content-type", kind);
        }
        self.sender.ready().await?;
        Ok(self.sender.send_request(request.body(Full::from(bytes))?).await?)
    }

    /// Sends an object and reads one; a failure is a `Status`.
    async fn call(&mut self, method: &str, url: &str, body: Option<&Value>) -> Result<(u16, Value)> {
        let body = body.map(|value| (PROTOBUF, encode(value)));
        self.exchange(method, url, body).await
    }

    /// Patches, which have no protobuf form: the answer has.
    async fn patch(&mut self, url: &str, kind: &str, body: Value) -> Result<(u16, Value)> {
        self.exchange("PATCH", url, Some((kind, body.to_string().into_bytes()))).await
    }

    async fn exchange(&mut self, method: &str, url: &str, body: Option<(&str, Vec<u8>)>) -> Result<(u16, Value)> {
        let response = self.send(method, url, body).await?;
        let (parts, body) = response.into_parts();
        let bytes = body.collect().await?.to_bytes();
        assert_eq!(parts.headers["content-type"], PROTOBUF, "{method} {url}: {bytes:?}");
        Ok((parts.status.as_u16(), decode(&bytes).with_context(|| format!("{method} {url}"))?))
    }
}

fn encode(value: &Value) -> Vec<u8> {
    let text = |f: &str| value[f].as_str().unwrap_or_default();
    let ty = Type::of_api_version(text("apiVersion"), text("kind")).expect("a type with a schema");
    let mut out = Vec::new();
    protobuf::encode(value, ty, &mut out);
    out
}

fn decode(bytes: &[u8]) -> Result<Value> {
    ensure!(bytes.starts_with(b"k8s\0"), "{bytes:?}");
    let meta = protobuf::identify(bytes).map_err(|e| anyhow::anyhow!(e.message))?;
    let ty = Type::of_api_version(&meta.api_version, &meta.kind).with_context(|| format!("{meta:?}"))?;
    let mut value = protobuf::decode(bytes, ty).map_err(|e| anyhow::anyhow!(e.message))?;
    value["kind"] = meta.kind.into();
    value["apiVersion"] = meta.api_version.into();
    Ok(value)
}

/// The fields of a message that are bytes, by number.
fn fields(mut bytes: &[u8]) -> Result<Vec<(u64, &[u8])>> {
    let mut all = Vec::new();
    while !bytes.is_empty() {
        let (tag, len) = (varint(&mut bytes)?, varint(&mut bytes)?);
        ensure!(tag & 7 == 2, "wire type of tag {tag}");
        let len = usize::try_from(len)?;
        ensure!(len <= bytes.len(), "a field of {len} bytes in {}", bytes.len());
        all.push((tag >> 3, &bytes[..len]));
        bytes = &bytes[len..];
    }
    Ok(all)
}

fn varint(bytes: &mut &[u8]) -> Result<u64> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let (first, rest) = bytes.split_first().context("the message is cut")?;
        *bytes = rest;
        value |= u64::from(first & 0x7f) << shift;
        if first & 0x80 == 0 {
            return Ok(value);
        }
    }
    anyhow::bail!("a varint without end")
}

/// Events of a watch: frames of four bytes of length and a `WatchEvent`, whose object is in an envelope of its own.
struct Events {
    body: Incoming,
    buffer: Vec<u8>,
}

impl Events {
    async fn next(&mut self) -> Result<(String, Value)> {
        loop {
            if let Some((head, rest)) = self.buffer.split_first_chunk::<4>() {
                let len = usize::try_from(u32::from_be_bytes(*head))?;
                if rest.len() >= len {
                    let frame = rest[..len].to_vec();
                    self.buffer.drain(..4 + len);
                    let event = fields(&frame)?;
                    let kind = event.iter().find(|f| f.0 == 1).context("a type")?.1;
                    let object = fields(event.iter().find(|f| f.0 == 2).context("an object")?.1)?;
                    let raw = object.iter().find(|f| f.0 == 1).context("bytes")?.1;
                    return Ok((String::from_utf8(kind.to_vec())?, decode(raw)?));
                }
            }
            let frame = self.body.frame().await.context("the watch goes on")??;
            self.buffer.extend_from_slice(&frame.into_data().unwrap_or_default());
        }
    }
}

fn within<'f, T>(seconds: u64, future: impl Future<Output = Result<T>> + Send + 'f) -> BoxFuture<'f, Result<T>> {
    Box::pin(async move { tokio::time::timeout(Duration::from_secs(seconds), future).await.context("in time")? })
}

#[test]
fn protobuf_alone_tours_api_and_node() -> Result<()> {
    if !is_root() {
        return Ok(());
    }
    let cluster = Cluster::node(&[])?;
    let kubeconfig = Kubeconfig::load(&cluster.kubeconfig())?;
    let done = cluster.machine.inside(move || async move {
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let mut client = Client::connect(&kubeconfig).await?;
        let (mut follower, mut other) = (Client::connect(&kubeconfig).await?, Client::connect(&kubeconfig).await?);
        within(30, objects(&mut client, &mut follower)).await.context("objects")?;
        within(30, patches(&mut client)).await.context("patches")?;
        within(90, pods(&mut client, &mut other)).await.context("pods")
    });
    done.with_context(|| cluster.log())
}

async fn objects(client: &mut Client, follower: &mut Client) -> Result<()> {
    let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "tour"}});
    let (code, made) = client.call("POST", "/api/v1/namespaces", Some(&namespace)).await?;
    ensure!(code == 201 && made["status"]["phase"] == "Active", "{code} {made}");
    let url = "/api/v1/namespaces/tour/configmaps";
    let (_, list) = client.call("GET", &format!("{url}?fieldSelector=metadata.name=none"), None).await?;
    ensure!(list["kind"] == "ConfigMapList" && list["items"].as_array().is_none_or(Vec::is_empty), "{list}");
    let version = list["metadata"]["resourceVersion"].as_str().context("a version")?;
    let watch = format!("{url}?watch=1&labelSelector=n&allowWatchBookmarks=true&resourceVersion={version}");
    let response = follower.send("GET", &watch, None).await?;
    assert_eq!(response.headers()["content-type"], "application/vnd.kubernetes.protobuf;stream=watch");
    let mut events = Events { body: response.into_body(), buffer: Vec::new() };
    for i in 0..4 {
        let map = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": format!("m{i}"),
            "labels": {"n": i.to_string()}}, "data": {"k": "v"}, "binaryData": {"b": "AAE="}});
        let (code, made) = client.call("POST", url, Some(&map)).await?;
        ensure!(code == 201 && made["binaryData"]["b"] == "AAE=" && made["metadata"]["uid"].is_string(), "{made}");
        let (kind, seen) = events.next().await?;
        assert_eq!((kind.as_str(), &seen), ("ADDED", &made));
    }
    let (code, page) = client.call("GET", &format!("{url}?limit=3&labelSelector=n"), None).await?;
    assert_eq!((code, page["items"].as_array().map(Vec::len)), (200, Some(3)));
    let token = page["metadata"]["continue"].as_str().context("a token")?;
    let (_, rest) = client.call("GET", &format!("{url}?limit=3&labelSelector=n&continue={token}"), None).await?;
    assert_eq!(rest["items"].as_array().map(Vec::len), Some(1));
    let (_, read) = client.call("GET", &format!("{url}/m0"), None).await?;
    assert_eq!(read["data"]["k"], "v");

    let mut changed = read.clone();
    changed["data"]["k"] = "w".into();
    let (code, put) = client.call("PUT", &format!("{url}/m0"), Some(&changed)).await?;
    assert_eq!((code, &put["data"]["k"]), (200, &json!("w")));
    assert_eq!(events.next().await?, ("MODIFIED".into(), put));
    let (code, status) = client.call("PUT", &format!("{url}/m0"), Some(&changed)).await?;
    assert_eq!((code, &status["kind"], &status["reason"]), (409, &json!("Status"), &json!("Conflict")));
    let (code, status) = client.call("GET", &format!("{url}/none"), None).await?;
    assert_eq!((code, &status["details"]["kind"]), (404, &json!("configmaps")));

    let options = json!({"apiVersion": "v1", "kind": "DeleteOptions", "preconditions": {"uid": "other"}});
    let (code, status) = client.call("DELETE", &format!("{url}/m0"), Some(&options)).await?;
    assert_eq!((code, &status["reason"]), (409, &json!("Conflict")));
    let (code, status) = client.call("DELETE", &format!("{url}/m0"), None).await?;
    assert_eq!((code, &status["status"]), (200, &json!("Success")));
    assert_eq!(events.next().await?.0, "DELETED");
    let (code, _) = client.call("DELETE", &format!("{url}?labelSelector=n"), None).await?;
    assert_eq!(code, 200);
    for _ in 0..3 {
        assert_eq!(events.next().await?.0, "DELETED");
    }
    // A watch that is too old to follow says so in a frame.
    drop(events);
    let response =
        client.send("GET", &format!("{url}?watch=1&resourceVersion=999999999&timeoutSeconds=1"), None).await?;
    assert_eq!(response.status(), 200);
    let _ = response.into_body().collect().await?;
    let metadata = "application/vnd.kubernetes.protobuf;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1";
    let request = Request::get("/api/v1/namespaces").header("host", "x").header("accept", metadata);
    client.sender.ready().await?;
    let response = client.sender.send_request(request.body(Full::default())?).await?;
    let list = decode(&response.into_body().collect().await?.to_bytes())?;
    ensure!(list["kind"] == "PartialObjectMetadataList" && list["items"][0]["metadata"]["name"].is_string(), "{list}");
    Ok(())
}

async fn patches(client: &mut Client) -> Result<()> {
    let url = "/apis/apps/v1/namespaces/tour/deployments";
    let deployment = json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "d"}, "spec": {
        "replicas": 0, "selector": {"matchLabels": {"a": "b"}}, "template": {"metadata": {"labels": {"a": "b"}},
        "spec": {"containers": [{"name": "c", "image": "x:1"}]}}}});
    let (code, made) = client.call("POST", url, Some(&deployment)).await?;
    ensure!(code == 201 && made["spec"]["strategy"]["rollingUpdate"]["maxSurge"] == "25%", "{made}");
    ensure!(made["spec"]["replicas"] == 0, "a zero that was said stays: {made}");
    let url = format!("{url}/d");
    let containers = |image: &str| {
        json!({"spec": {"selector": {"matchLabels": {"a": "b"}}, "template": {"metadata": {"labels": {"a": "b"}},
            "spec": {"containers": [{"name": "c", "image": image}]}}}})
    };
    let image = |d: &Value| d["spec"]["template"]["spec"]["containers"][0]["image"].clone();
    let (_, d) = client.patch(&url, "application/strategic-merge-patch+json", containers("x:2")).await?;
    assert_eq!(image(&d), "x:2");
    let (_, d) = client.patch(&url, "application/merge-patch+json", json!({"spec": {"paused": true}})).await?;
    assert_eq!(d["spec"]["paused"], true);
    let remove = json!([{"op": "remove", "path": "/spec/paused"}]);
    let (_, d) = client.patch(&url, "application/json-patch+json", remove).await?;
    ensure!(d["spec"]["paused"].is_null(), "{d}");
    let mut applied = containers("x:3");
    applied["apiVersion"] = "apps/v1".into();
    applied["kind"] = "Deployment".into();
    let apply = format!("{url}?fieldManager=me");
    let (code, status) = client.patch(&apply, "application/apply-patch+yaml", applied.clone()).await?;
    ensure!(code == 409 && status["details"]["causes"][0]["reason"] == "FieldManagerConflict", "{status}");
    let (code, d) = client.patch(&format!("{apply}&force=true"), "application/apply-patch+yaml", applied).await?;
    ensure!(code == 200 && image(&d) == "x:3", "{d}");
    let managers = d["metadata"]["managedFields"].as_array().context("managers")?;
    ensure!(managers.iter().any(|m| m["manager"] == "me" && m["fieldsV1"]["f:spec"].is_object()), "{managers:?}");
    let (code, scale) = client.call("GET", &format!("{url}/scale"), None).await?;
    assert_eq!((code, &scale["kind"]), (200, &json!("Scale")));
    let review = json!({"apiVersion": "authorization.k8s.io/v1", "kind": "SelfSubjectAccessReview", "spec":
        {"resourceAttributes": {"verb": "get", "resource": "pods"}}});
    let (code, answer) =
        client.call("POST", "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews", Some(&review)).await?;
    assert_eq!((code, &answer["status"]["allowed"]), (201, &json!(true)));
    let token = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest",
        "spec": {"audiences": [], "expirationSeconds": 600}});
    let (code, token) =
        client.call("POST", "/api/v1/namespaces/tour/serviceaccounts/default/token", Some(&token)).await?;
    ensure!(code == 201 && token["status"]["token"].is_string(), "{code} {token}");
    let (code, _) = client.call("DELETE", &url, None).await?;
    assert_eq!(code, 200);
    Ok(())
}

async fn pods(client: &mut Client, other: &mut Client) -> Result<()> {
    let url = "/api/v1/namespaces/tour/pods";
    let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"}, "spec": {
        "terminationGracePeriodSeconds": 1, "containers": [{"name": "c", "image": IMAGE,
        "imagePullPolicy": "IfNotPresent", "command": ["sh", "-c", "echo one; exec sleep 1000"]}]}});
    let (code, made) = client.call("POST", url, Some(&pod)).await?;
    ensure!(code == 201, "{made}");
    let response = other.send("GET", &format!("{url}?watch=1&fieldSelector=metadata.name=p"), None).await?;
    let mut events = Events { body: response.into_body(), buffer: Vec::new() };
    loop {
        let (_, pod) = events.next().await?;
        if pod["status"]["phase"] == "Running" {
            ensure!(pod["status"]["containerStatuses"][0]["state"]["running"]["startedAt"].is_string(), "{pod}");
            break;
        }
    }
    drop(events);
    loop {
        let response = client.send("GET", &format!("{url}/p/log"), None).await?;
        assert_eq!(response.headers()["content-type"], "text/plain");
        if response.into_body().collect().await?.to_bytes() == "one\n" {
            break;
        }
    }
    exec(client, &format!("{url}/p/exec?command=sh&command=-c&command=echo+out;exit+2&stdout=true")).await?;
    Ok(())
}

/// `exec` over a WebSocket, whose channels carry no protobuf: the head of the request asks for it all the same.
async fn exec(client: &mut Client, url: &str) -> Result<()> {
    let request = Request::get(url)
        .header("host", "127.0.0.1")
        .header("accept", PROTOBUF)
        .header("connection", "Upgrade")
        .header("upgrade", "websocket")
        .header("sec-websocket-version", "13")
        .header("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ==")
        .header("sec-websocket-protocol", "v5.channel.k8s.io")
        .body(Full::default())?;
    client.sender.ready().await?;
    let response = client.sender.send_request(request).await?;
    assert_eq!(response.status(), 101);
    assert_eq!(response.headers()["sec-websocket-accept"], "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
    let mut io = TokioIo::new(hyper::upgrade::on(response).await?);
    let (mut out, mut status) = (Vec::new(), Vec::new());
    loop {
        let mut head = [0u8; 2];
        io.read_exact(&mut head).await?;
        let len = match head[1] & 0x7f {
            126 => u64::from(io.read_u16().await?),
            127 => io.read_u64().await?,
            len => u64::from(len),
        };
        let mut payload = vec![0; usize::try_from(len)?];
        io.read_exact(&mut payload).await?;
        match (head[0] & 0x0f, payload.split_first()) {
            (8, _) => break,
            (2, Some((1, data))) => out.extend_from_slice(data),
            (2, Some((3, data))) => status.extend_from_slice(data),
            _ => {}
        }
    }
    // Closed in turn, masked as clients must; the server may be gone already.
    let _ = io.write_all(&[0x88, 0x80, 0, 0, 0, 0]).await;
    assert_eq!(String::from_utf8(out)?, "out\n");
    let status: Value = serde_json::from_slice(&status)?;
    assert_eq!(status["details"]["causes"][0], json!({"reason": "ExitCode", "message": "2"}));
    Ok(())
}
