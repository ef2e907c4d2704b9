//! Through TLS and a real client.

use std::process::Command;
use std::sync::Arc;

use arc_swap::ArcSwap;
use orkd_apiserver::serve::serve;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::harness::{Cluster, cluster};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kubectl_works_through_the_socket() {
    if Command::new("kubectl").arg("version").arg("--client").output().is_err() {
        eprintln!("skipped: no kubectl");
        return;
    }
    let c = cluster().await;
    let Listening { port, stop, task: server } = listening(&c).await;
    let dir = tempfile::tempdir().expect("temporary directory");
    let kubectl = |args: &[&str], stdin: &str| {
        let mut command = Command::new("kubectl");
        command
            .arg(format!("--server=https://127.0.0.1:{port}"))
            .args(["--insecure-skip-tls-verify", "--token=x", "--request-timeout=20s"])
            .arg(format!("--cache-dir={}", dir.path().display()))
            .args(args)
            .env("KUBECONFIG", "/dev/null")
            .env("HOME", dir.path());
        let file = dir.path().join("stdin");
        std::fs::write(&file, stdin).expect("file");
        command.stdin(std::fs::File::open(&file).expect("file"));
        tokio::task::spawn_blocking(move || {
            let out = command.output().expect("kubectl runs");
            format!("{}{}", String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr))
        })
    };
    let run = |args: &'static [&'static str], stdin: &'static str| {
        let job = kubectl(args, stdin);
        async move { job.await.expect("joins") }
    };
    let check = |out: String, part: &str| assert!(out.contains(part), "{part:?} is not in:\n{out}");
    check(run(&["version"], "").await, "Server Version: v1.36.2+orkd");
    check(run(&["create", "configmap", "a", "--from-literal=k=v"], "").await, "configmap/a created");
    check(run(&["get", "configmaps", "a"], "").await, "a      1");
    check(run(&["get", "cm", "a", "-o", "jsonpath={.data.k}"], "").await, "v");
    let manifest = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: b}\ndata: {k: '1'}\n";
    check(run(&["apply", "-f", "-"], manifest).await, "configmap/b created");
    check(run(&["apply", "-f", "-"], manifest).await, "configmap/b unchanged");
    let changed = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: b}\ndata: {k: '2'}\n";
    check(run(&["apply", "-f", "-"], changed).await, "configmap/b configured");
    check(run(&["apply", "--server-side", "-f", "-"], changed).await, "configmap/b serverside-applied");
    // The owner by client-side apply has moved over.
    let managers = ["get", "cm", "b", "--show-managed-fields", "-o", "jsonpath={.metadata.managedFields[*].manager}"];
    // (kubectl gives the annotation to a manager of its own, so that it may still be applied the old way.)
    // They stand in the order of their times, which may be one second or two.
    let managers = kubectl(&managers, "").await.expect("joins");
    let mut managers: Vec<&str> = managers.split_whitespace().collect();
    managers.sort_unstable();
    assert_eq!(managers, ["kubectl", "kubectl-last-applied"]);
    check(run(&["label", "cm", "b", "x=y"], "").await, "configmap/b labeled");
    check(run(&["get", "cm", "-l", "x=y", "-o", "name"], "").await, "configmap/b");
    check(run(&["create", "namespace", "n"], "").await, "namespace/n created");
    check(run(&["api-resources"], "").await, "configmaps");
    check(run(&["explain", "configmap.data"], "").await, "FIELD: data");
    check(run(&["create", "deployment", "d", "--image=x"], "").await, "deployment.apps/d created");
    check(run(&["scale", "deployment", "d", "--replicas=3"], "").await, "deployment.apps/d scaled");
    check(run(&["get", "deployment", "d"], "").await, "0/3");
    let wait = ["wait", "--for=jsonpath={.data.k}=2", "cm/b", "--timeout=15s"];
    check(kubectl(&wait, "").await.expect("joins"), "configmap/b condition met");
    check(run(&["get", "cm", "b", "-o", "yaml"], "").await, "  k: \"2\"");
    check(run(&["get", "cm", "b", "-o", "wide", "--show-labels"], "").await, "x=y");
    let again = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: b}\ndata: {k: '3'}\n";
    check(run(&["diff", "-f", "-"], again).await, "+  k: \"3\"");
    check(run(&["apply", "--dry-run=server", "-f", "-"], again).await, "configmap/b configured (server dry run)");
    check(
        run(&["apply", "--dry-run=server", "-f", "-"], "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: new}\n")
            .await,
        "created (server dry run)",
    );
    check(run(&["replace", "-f", "-"], again).await, "configmap/b replaced");
    let json_patch =
        ["patch", "cm", "b", "--type=json", "-p", "[{\"op\":\"add\",\"path\":\"/data/x\",\"value\":\"y\"}]"];
    check(kubectl(&json_patch, "").await.expect("joins"), "configmap/b patched");
    check(run(&["annotate", "cm", "b", "a=b"], "").await, "configmap/b annotated");
    let typo = "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: e}\nspec: {replica: 1}\n";
    check(run(&["apply", "-f", "-"], typo).await, "unknown field \"spec.replica\"");
    check(run(&["explain", "pod", "--recursive"], "").await, "containers");
    check(run(&["explain", "deployment.spec.strategy"], "").await, "rollingUpdate");
    check(run(&["explain", "deployment.spec.strategy"], "").await, "How old pods are replaced.");
    // The older form reads version 2 in protobuf.
    let old = run(&["explain", "deployment.spec.strategy", "--output=plaintext-openapiv2"], "").await;
    check(old.clone(), "RESOURCE: strategy <Object>");
    check(old.clone(), "rollingUpdate\t<Object>");
    check(old, "How old pods are replaced.");
    check(run(&["get", "all", "-A"], "").await, "deployment.apps/d");
    check(run(&["set", "image", "deployment/d", "x=y:2"], "").await, "deployment.apps/d image updated");
    check(run(&["get", "deployment", "d", "-o", "wide"], "").await, "y:2");
    check(run(&["get", "events", "-A"], "").await, "No resources found");
    check(run(&["get", "widgets"], "").await, "the server doesn't have a resource type \"widgets\"");
    check(run(&["delete", "deployment", "--all"], "").await, "deployment.apps \"d\" deleted");
    check(run(&["delete", "cm", "a"], "").await, "configmap \"a\" deleted");
    check(run(&["get", "cm", "a"], "").await, "Error from server (NotFound): configmaps \"a\" not found");
    stop.cancel();
    tokio::time::timeout(std::time::Duration::from_secs(30), server).await.expect("the server ends").expect("cleanly");
}

/// A server that listens.
pub struct Listening {
    pub port: u16,
    pub stop: CancellationToken,
    pub task: tokio::task::JoinHandle<()>,
}

/// Serves a cluster on a free port.
pub async fn listening(c: &Cluster) -> Listening {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind");
    let port = listener.local_addr().expect("address").port();
    let config = orkd_pki::tls::server_config(&identity(), &[]).expect("TLS configuration");
    let tls = Arc::new(ArcSwap::from_pointee(config));
    let stop = CancellationToken::new();
    let task = tokio::spawn(serve(listener, tls, c.server.router(), stop.clone()));
    Listening { port, stop, task }
}

impl Listening {
    /// Connects with HTTP/1.1.
    pub async fn connect(&self) -> tokio_rustls::client::TlsStream<tokio::net::TcpStream> {
        let mut config = orkd_pki::tls::unverified_client_config().expect("TLS configuration");
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        let stream = tokio::net::TcpStream::connect(("127.0.0.1", self.port)).await.expect("connects");
        let name = "localhost".try_into().expect("a name");
        tokio_rustls::TlsConnector::from(Arc::new(config)).connect(name, stream).await.expect("handshake")
    }
}

fn identity() -> orkd_pki::cert::Identity {
    let now = jiff::Timestamp::now();
    let authority = orkd_pki::authority::Authority::create("test", now).expect("authority");
    let profile = orkd_pki::cert::Profile::server("test", vec!["localhost".into()], vec![[127, 0, 0, 1].into()]);
    authority.issue(&profile, now).expect("certificate")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_under_way_is_served_to_its_end() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    let c = cluster().await;
    let server = listening(&c).await;
    let mut stream = server.connect().await;
    let body = crate::harness::config_map("late", "1").to_string();
    let head = format!(
        "POST /api/v1/namespaces/default/configmaps HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n\
         content-length: {}\r\nexpect: 100-continue\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes()).await.expect("written");
    stream.flush().await.expect("flushed");
    // The server asks for the body: the request is under way.
    let mut buffer = vec![0; 4096];
    let n = stream.read(&mut buffer).await.expect("read");
    assert!(buffer[..n].starts_with(b"HTTP/1.1 100"), "{}", String::from_utf8_lossy(&buffer[..n]));
    server.stop.cancel();
    stream.write_all(body.as_bytes()).await.expect("written");
    stream.flush().await.expect("flushed");
    let mut answer = Vec::new();
    // A peer that closes without a farewell is an error of TLS and of no matter here.
    let _ = stream.read_to_end(&mut answer).await;
    let answer = String::from_utf8_lossy(&answer);
    assert!(answer.starts_with("HTTP/1.1 201"), "{answer}");
    tokio::time::timeout(std::time::Duration::from_secs(30), server.task)
        .await
        .expect("the server ends")
        .expect("cleanly");
    assert!(tokio::net::TcpStream::connect(("127.0.0.1", server.port)).await.is_err(), "nobody listens any more");
    assert_eq!(c.get("/api/v1/namespaces/default/configmaps/late").await.0, 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refusal_that_needs_no_body_leaves_the_connection_open() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    let c = cluster().await;
    let server = listening(&c).await;
    let mut stream = server.connect().await;
    stream
        .write_all(b"POST /apis/nobody/v1/knows HTTP/1.1\r\nhost: x\r\ncontent-length: 4\r\n\r\n")
        .await
        .expect("sent");
    stream.flush().await.expect("flushed");
    // The answer is made meanwhile; that this is long enough is not needed for the test to pass.
    tokio::time::sleep(std::time::Duration::from_millis(300)).await;
    stream.write_all(b"text").await.expect("the server reads");
    stream.write_all(b"GET /version HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await.expect("sent");
    stream.flush().await.expect("flushed");
    let mut answers = Vec::new();
    let _ = stream.read_to_end(&mut answers).await;
    let answers = String::from_utf8_lossy(&answers);
    assert!(answers.starts_with("HTTP/1.1 404") && answers.contains("HTTP/1.1 200"), "{answers}");
    server.stop.cancel();
}
