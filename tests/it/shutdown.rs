//! The end of a server under load: no request that was taken is left without its answer, watches end in order, and
//! `/readyz` says so first. And its front door: bodies and heads have limits.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use orkd_pki::kubeconfig::Kubeconfig;
use orkd_pki::{cert, tls};
use orkd_tests::cluster::Cluster;
use orkd_tests::is_root;
use serde_json::Value;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

type Sender = SendRequest<Full<Bytes>>;

async fn connect(kubeconfig: &Kubeconfig) -> Result<Sender> {
    let resolved = kubeconfig.resolve()?;
    let authority = cert::chain_from_pem(&resolved.authorities.clone().context("an authority")?)?;
    let identity = resolved.identity()?.context("a certificate")?;
    let config = Arc::new(tls::client_config(tls::roots(authority)?, Some(&identity))?);
    let tcp = TcpStream::connect("127.0.0.1:6443").await?;
    let stream = TlsConnector::from(config).connect("127.0.0.1".try_into()?, tcp).await?;
    let (sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    tokio::spawn(connection);
    Ok(sender)
}

fn request(method: &str, url: &str, body: &str) -> Result<Request<Full<Bytes>>> {
    let request = Request::builder().method(method).uri(url).header("host", "127.0.0.1");
    Ok(request.header("content-type", "application/json").body(Full::from(body.to_owned()))?)
}

fn provider() {
    // Two tests of one process may both be the first.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
}

/// What clients in a loop saw.
#[derive(Default)]
struct Seen {
    acknowledged: Mutex<Vec<String>>,
    /// Writes whose connection was closed in place of an answer: they must not have been taken.
    unanswered: Mutex<Vec<String>>,
    answered: AtomicU32,
    told_to_go: AtomicU32,
    ending: AtomicBool,
}

/// Writes and reads until the server is gone.
async fn client(kubeconfig: &Kubeconfig, id: usize, seen: &Seen) -> Result<()> {
    for round in 0.. {
        let Ok(mut sender) = connect(kubeconfig).await else {
            ensure!(seen.ending.load(Ordering::Relaxed), "no connection before the end");
            return Ok(());
        };
        for i in 0.. {
            let name = format!("c{id}-{round}-{i}");
            let body = format!("{{\"apiVersion\":\"v1\",\"kind\":\"ConfigMap\",\"metadata\":{{\"name\":\"{name}\"}}}}");
            if sender.ready().await.is_err() {
                break;
            }
            let writing = i % 2 == 0;
            let (method, url) = match writing {
                true => ("POST", "/api/v1/namespaces/default/configmaps".to_owned()),
                false => ("GET", "/api/v1/namespaces/default/configmaps?limit=5".to_owned()),
            };
            let response = match sender.send_request(request(method, &url, if writing { &body } else { "" })?).await {
                Ok(response) => response,
                Err(error) => {
                    ensure!(seen.ending.load(Ordering::Relaxed), "{method} {name}: {error:?}");
                    if writing {
                        seen.unanswered.lock().expect("no panic").push(name);
                    }
                    break;
                }
            };
            let (parts, body) = response.into_parts();
            let body =
                body.collect().await.with_context(|| format!("the answer to {method} {name} is cut"))?.to_bytes();
            match parts.status.as_u16() {
                200 | 201 => {
                    seen.answered.fetch_add(1, Ordering::Relaxed);
                    if writing {
                        seen.acknowledged.lock().expect("no panic").push(name);
                    }
                }
                429 => {
                    ensure!(parts.headers.contains_key("retry-after"), "{:?}", parts.headers);
                    seen.told_to_go.fetch_add(1, Ordering::Relaxed);
                }
                code => bail!("{method} {name}: {code} {body:?}"),
            }
        }
    }
    Ok(())
}

#[test]
fn no_request_is_lost_at_the_end_of_a_server() -> Result<()> {
    if !is_root() {
        return Ok(());
    }
    let mut cluster = Cluster::control_plane(&[])?;
    let kubeconfig = Kubeconfig::load(&cluster.kubeconfig())?;
    let pid = cluster.server.as_ref().context("it runs")?.pid();
    let seen = Arc::new(Seen::default());
    let inside = seen.clone();
    cluster.machine.inside(move || async move {
        provider();
        let seen = inside;
        let mut watcher = connect(&kubeconfig).await?;
        let watch = "/api/v1/namespaces/default/configmaps?watch=1&resourceVersion=0";
        let watching = watcher.send_request(request("GET", watch, "")?).await?.into_body();
        let mut health = connect(&kubeconfig).await?;
        let clients = (0..8).map(|id| client(&kubeconfig, id, &seen));
        let clients = futures_util::future::try_join_all(clients);
        let end = async {
            while seen.answered.load(Ordering::Relaxed) < 400 {
                tokio::task::yield_now().await;
            }
            seen.ending.store(true, Ordering::Relaxed);
            nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGTERM)?;
            // The connection for health was there before: it tells what comes.
            let begun = Instant::now();
            loop {
                let Ok(answer) = health.send_request(request("GET", "/readyz", "")?).await else {
                    return Ok(false);
                };
                let failing = answer.status() == 500;
                let text = answer.into_body().collect().await?.to_bytes();
                if failing {
                    ensure!(String::from_utf8_lossy(&text).contains("[-]shutdown failed"), "{text:?}");
                    return Ok(true);
                }
                ensure!(begun.elapsed() < Duration::from_secs(10), "still ready");
            }
        };
        // The watch ends whole: its last line is a line.
        let watched = async {
            let all = watching.collect().await.context("the watch is cut")?.to_bytes();
            ensure!(all.ends_with(b"}\n"), "{:?}", &all[all.len().saturating_sub(80)..]);
            Ok(())
        };
        let (_, told, ()) = tokio::try_join!(clients, end, watched)?;
        ensure!(told, "readyz did not fail before the door was closed");
        Ok(())
    })?;
    let mut process = cluster.server.take().context("it runs")?;
    let status = process.wait(Duration::from_secs(30))?;
    ensure!(status.success(), "{status}: {}", process.tail(20));
    cluster.boot()?;
    let list = cluster.kubectl()?.json("get cm")?;
    let stored: std::collections::BTreeSet<&str> =
        list["items"].as_array().context("a list")?.iter().filter_map(|o| o["metadata"]["name"].as_str()).collect();
    let (answered, told) = (seen.answered.load(Ordering::Relaxed), seen.told_to_go.load(Ordering::Relaxed));
    let list = |names: &Mutex<Vec<String>>| std::mem::take(&mut *names.lock().expect("no panic"));
    let (acknowledged, unanswered) = (list(&seen.acknowledged), list(&seen.unanswered));
    for name in &acknowledged {
        ensure!(stored.contains(name.as_str()), "{name} was acknowledged and is lost");
    }
    for name in &unanswered {
        ensure!(!stored.contains(name.as_str()), "{name} was taken and not answered");
    }
    println!(
        "{answered} requests answered, {told} sent elsewhere, {} writes kept, {} not taken",
        acknowledged.len(),
        unanswered.len()
    );
    Ok(())
}

#[test]
fn large_bodies_and_heads_are_refused() -> Result<()> {
    if !is_root() {
        return Ok(());
    }
    let cluster = Cluster::control_plane(&[])?;
    let kubeconfig = Kubeconfig::load(&cluster.kubeconfig())?;
    cluster.machine.inside(move || async move {
        provider();
        let url = "/api/v1/namespaces/default/configmaps";
        let map =
            |size: usize| format!("{{\"metadata\":{{\"name\":\"big\"}},\"data\":{{\"k\":\"{}\"}}}}", "x".repeat(size));
        let mut sender = connect(&kubeconfig).await?;
        let response = sender.send_request(request("POST", url, &map((3 << 20) + 1000))?).await?;
        assert_eq!(response.status(), 413);
        let status: Value = serde_json::from_slice(&response.into_body().collect().await?.to_bytes())?;
        assert_eq!(status["reason"], "RequestEntityTooLarge");
        let mut sender = connect(&kubeconfig).await?;
        let mut long = request("GET", url, "")?;
        long.headers_mut().insert("x-long", "x".repeat(2 << 20).parse()?);
        match sender.send_request(long).await {
            Ok(response) => assert_eq!(response.status(), 431),
            Err(error) => println!("the connection is closed: {error}"),
        }
        let mut sender = connect(&kubeconfig).await?;
        assert_eq!(sender.send_request(request("GET", "/readyz", "")?).await?.status(), 200);
        Ok(())
    })
}
