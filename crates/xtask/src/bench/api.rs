//! The load of an API server: any Kubernetes API server, given a kubeconfig.
//!
//! Sixteen requests are in flight over four HTTP/2 connections. For each operation the rate, the times in which half
//! and 99 of 100 were done, and the processor time the server took are printed, beside what a stock API server with
//! etcd needed on a machine of two cores (BASELINE of the project's facts) and the target. The server's processes are
//! given, or found by the port they listen on when they run on this machine.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::{Value, json};
use tokio::sync::mpsc;

use super::http::{Client, Target};
use super::process::Usage;

/// Requests in flight.
const IN_FLIGHT: usize = 16;
/// Connections.
const CONNECTIONS: usize = 4;
const CONFIG_MAPS: usize = 5_000;
const PODS: usize = 3_000;
const WATCHERS: usize = 100;
const UPDATES: usize = 500;
const NAMESPACE: &str = "bench-api";

/// A stock API server's figure: operations a second and processor microseconds of one.
struct Stock {
    rate: f64,
    cpu: f64,
    /// The share of the stock figure that is aimed at.
    share: f64,
}

const fn read(rate: f64, cpu: f64) -> Stock {
    Stock { rate, cpu, share: 1.0 / 5.0 }
}

const fn write(rate: f64, cpu: f64) -> Stock {
    Stock { rate, cpu, share: 1.0 / 3.0 }
}

/// Measures and prints.
pub fn run(kubeconfig: &Path, pids: &[u32], only: &[String]) -> Result<()> {
    let runtime = tokio::runtime::Runtime::new()?;
    runtime.block_on(async {
        let target = Target::load(kubeconfig)?;
        let pids = if pids.is_empty() { super::process::listening(target.port)? } else { pids.to_vec() };
        if pids.is_empty() {
            println!("the server's process was not found: no processor time");
        }
        let clients = Client::several(&target, CONNECTIONS).await?;
        let bench = Bench { clients, pids, only: only.to_vec() };
        bench.prepare().await?;
        let done = bench.all(&target).await;
        bench.clean().await?;
        done
    })
}

struct Bench {
    clients: Vec<Client>,
    pids: Vec<u32>,
    only: Vec<String>,
}

fn config_maps() -> String {
    format!("/api/v1/namespaces/{NAMESPACE}/configmaps")
}

fn pods() -> String {
    format!("/api/v1/namespaces/{NAMESPACE}/pods")
}

fn config_map(i: usize, value: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "ConfigMap",
        "metadata": {"name": format!("c{i:05}"), "labels": {"group": (i / 50).to_string()}},
        "data": {"k": value, "filling": "x".repeat(900)},
    })
}

fn pod(i: usize) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": format!("p{i:05}"), "labels": {"app": "bench", "group": (i / 50).to_string()}},
        "spec": {
            "schedulerName": "none", "automountServiceAccountToken": false,
            "containers": [{
                "name": "c", "image": "registry.example/app:1.0", "command": ["/app"], "args": ["--serve"],
                "env": [{"name": "A", "value": "1"}, {"name": "B", "value": "2"}],
                "ports": [{"containerPort": 8080}],
                "resources": {"requests": {"cpu": "100m", "memory": "64Mi"}, "limits": {"memory": "128Mi"}},
                "readinessProbe": {"httpGet": {"path": "/", "port": 8080}},
            }],
        },
    })
}

/// One request of a load.
struct Ask {
    method: &'static str,
    path: String,
    body: String,
    headers: Vec<(&'static str, &'static str)>,
}

impl Ask {
    fn new(method: &'static str, path: String) -> Self {
        Ask { method, path, body: String::new(), headers: Vec::new() }
    }

    fn body(mut self, kind: &'static str, body: &Value) -> Self {
        self.body = body.to_string();
        self.headers.push(("content-type", kind));
        self
    }

    fn accept(mut self, accept: &'static str) -> Self {
        self.headers.push(("accept", accept));
        self
    }
}

const JSON: &str = "application/json";

impl Bench {
    async fn one(&self, ask: Ask) -> Result<(u16, usize)> {
        let answer = self.clients[0].send(ask.method, &ask.path, ask.body, &ask.headers).await?;
        Ok((answer.code, answer.body.len()))
    }

    async fn prepare(&self) -> Result<()> {
        let namespace = json!({"metadata": {"name": NAMESPACE}});
        let (code, _) = self.one(Ask::new("POST", "/api/v1/namespaces".into()).body(JSON, &namespace)).await?;
        ensure!(code == 201 || code == 409, "the namespace: {code}");
        // Where no controller makes it.
        let account = json!({"metadata": {"name": "default"}});
        let path = format!("/api/v1/namespaces/{NAMESPACE}/serviceaccounts");
        let (code, _) = self.one(Ask::new("POST", path).body(JSON, &account)).await?;
        ensure!(code == 201 || code == 409, "the service account: {code}");
        Ok(())
    }

    async fn clean(&self) -> Result<()> {
        for path in [pods(), config_maps()] {
            self.one(Ask::new("DELETE", format!("{path}?gracePeriodSeconds=0"))).await?;
        }
        self.one(Ask::new("DELETE", format!("/api/v1/namespaces/{NAMESPACE}"))).await?;
        Ok(())
    }

    fn wanted(&self, what: &str) -> bool {
        self.only.is_empty() || self.only.iter().any(|o| what.contains(o.as_str()))
    }

    /// Puts a load on the server and prints what came of it.
    async fn load(
        &self,
        what: &str,
        count: usize,
        stock: &Stock,
        ask: impl Fn(usize) -> Ask + Send + Sync + 'static,
    ) -> Result<()> {
        if !self.wanted(what) {
            return Ok(());
        }
        let before = Usage::of(&self.pids);
        let start = Instant::now();
        let (ask, next) = (Arc::new(ask), Arc::new(AtomicUsize::new(0)));
        let mut tasks = Vec::new();
        for worker in 0..IN_FLIGHT {
            let (client, ask, next) = (self.clients[worker % CONNECTIONS].clone(), ask.clone(), next.clone());
            tasks.push(tokio::spawn(async move {
                let mut times = Vec::new();
                loop {
                    let i = next.fetch_add(1, Ordering::Relaxed);
                    if i >= count {
                        return anyhow::Ok(times);
                    }
                    let Ask { method, path, body, headers } = ask(i);
                    let start = Instant::now();
                    let answer = client.send(method, &path, body, &headers).await?;
                    times.push(start.elapsed());
                    if !(200..300).contains(&answer.code) {
                        bail!("{method} {path}: {} {}", answer.code, String::from_utf8_lossy(&answer.body));
                    }
                }
            }));
        }
        let mut times = Vec::new();
        for task in tasks {
            times.append(&mut task.await??);
        }
        let took = start.elapsed();
        report(what, count, took, &mut times, Usage::of(&self.pids).since(&before), stock);
        Ok(())
    }

    async fn all(&self, target: &Target) -> Result<()> {
        println!(
            "{:<44} {:>9} {:>8} {:>8} {:>9} {:>9} {:>9} {:>9}",
            "operation", "per s", "p50 ms", "p99 ms", "CPU us", "target", "stock us", "stock/s"
        );
        let one = |i: usize| format!("{}/c{:05}", config_maps(), i % CONFIG_MAPS);
        let make = |i: usize| Ask::new("POST", config_maps()).body(JSON, &config_map(i, "0"));
        self.load("create ConfigMap, 1 KB", CONFIG_MAPS, &write(1_822.0, 842.0), make).await?;
        self.load("get ConfigMap", 2 * CONFIG_MAPS, &read(4_037.0, 394.0), move |i| Ask::new("GET", one(i))).await?;
        let update = move |i: usize| Ask::new("PUT", one(i)).body(JSON, &config_map(i % CONFIG_MAPS, "1"));
        self.load("update ConfigMap", CONFIG_MAPS, &write(1_431.0, 1_166.0), update).await?;
        let merge = move |i: usize| {
            Ask::new("PATCH", one(i)).body("application/merge-patch+json", &json!({"data": {"k": format!("m{i}")}}))
        };
        self.load("merge patch ConfigMap", CONFIG_MAPS, &write(1_384.0, 1_222.0), merge).await?;
        let apply = move |i: usize| {
            let path = format!("{}?fieldManager=bench&force=true", one(i));
            Ask::new("PATCH", path).body("application/apply-patch+yaml", &config_map(i % CONFIG_MAPS, &format!("a{i}")))
        };
        self.load("server-side apply ConfigMap", CONFIG_MAPS, &write(1_210.0, 1_392.0), apply).await?;
        let list = |query: &'static str| move |_: usize| Ask::new("GET", format!("{}{query}", config_maps()));
        self.load("list 5,000 ConfigMaps, resourceVersion=0", 100, &read(31.0, 49_320.0), list("?resourceVersion=0"))
            .await?;
        self.load("list by label, 50 of 5,000", 1_000, &read(605.0, 2_711.0), |i| {
            let group = i % (CONFIG_MAPS / 50);
            Ask::new("GET", format!("{}?labelSelector=group%3D{group}", config_maps()))
        })
        .await?;
        let make = |i: usize| Ask::new("POST", pods()).body(JSON, &pod(i));
        self.load("create Pod", PODS, &write(1_082.0, 1_447.0), make).await?;
        let list = |query: &'static str, accept: &'static str| {
            move |_: usize| Ask::new("GET", format!("{}{query}", pods())).accept(accept)
        };
        self.load(
            "list 3,000 Pods, JSON, resourceVersion=0",
            60,
            &read(19.0, 83_782.0),
            list("?resourceVersion=0", JSON),
        )
        .await?;
        self.load("list 3,000 Pods, consistent", 60, &read(20.0, 81_761.0), list("", JSON)).await?;
        let protobuf = "application/vnd.kubernetes.protobuf";
        self.load("list 3,000 Pods, protobuf", 60, &read(33.0, 48_479.0), list("?resourceVersion=0", protobuf)).await?;
        let table = "application/json;as=Table;v=v1;g=meta.k8s.io";
        self.load("list 3,000 Pods, Table", 60, &read(28.0, 59_649.0), list("?resourceVersion=0", table)).await?;
        self.watchers(target).await?;
        if self.wanted("delete a collection of 5,000") {
            let before = Usage::of(&self.pids);
            let start = Instant::now();
            let (code, _) = self.one(Ask::new("DELETE", config_maps())).await?;
            ensure!(code == 200, "the collection: {code}");
            let took = start.elapsed();
            let stock = write(1.0 / 5.5, 6_760_000.0);
            report("delete a collection of 5,000", 1, took, &mut [took], Usage::of(&self.pids).since(&before), &stock);
        }
        let rss = Usage::of(&self.pids).rss_mb;
        println!("RSS at the end: {rss:.0} MB (target 150, stock with etcd 965)");
        Ok(())
    }

    /// 100 watchers see 500 updates each.
    async fn watchers(&self, target: &Target) -> Result<()> {
        let what = "100 watchers x 500 updates, delivered";
        if !self.wanted(what) {
            return Ok(());
        }
        let path = config_maps();
        let object = |i: usize| {
            json!({
                "apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "watched"},
                "data": {"sent": i.to_string(), "filling": "x".repeat(900)},
            })
        };
        let (code, _) = self.one(Ask::new("POST", path.clone()).body(JSON, &object(0))).await?;
        ensure!(code == 201 || code == 409, "the watched object: {code}");
        let clients = Client::several(target, CONNECTIONS).await?;
        let (tx, mut rx) = mpsc::unbounded_channel::<(usize, Instant)>();
        let mut tasks = Vec::new();
        for i in 0..WATCHERS {
            let url = format!("{path}?watch=1&resourceVersion=0&fieldSelector=metadata.name%3Dwatched");
            let mut lines = clients[i % CONNECTIONS].lines(&url).await?;
            let tx = tx.clone();
            tasks.push(tokio::spawn(async move {
                while let Some(line) = lines.next().await? {
                    // Found without decoding, which would be this process's load.
                    let at = line.windows(8).position(|w| w == b"\"sent\":\"").context("no number")?;
                    let digits = line[at + 8..].iter().take_while(|b| b.is_ascii_digit());
                    let number = digits.fold(0usize, |n, b| n * 10 + usize::from(b - b'0'));
                    if tx.send((number, Instant::now())).is_err() || number >= UPDATES {
                        break;
                    }
                }
                anyhow::Ok(())
            }));
        }
        drop(tx);
        for _ in 0..WATCHERS {
            rx.recv().await.context("a watch did not begin")?;
        }
        let before = Usage::of(&self.pids);
        let start = Instant::now();
        let mut sent = vec![start];
        let one = format!("{path}/watched");
        for i in 1..=UPDATES {
            sent.push(Instant::now());
            let (code, _) = self.one(Ask::new("PUT", one.clone()).body(JSON, &object(i))).await?;
            ensure!(code == 200, "update {i}: {code}");
        }
        let mut times = Vec::new();
        while let Some((number, seen)) = rx.recv().await {
            if let Some(at) = sent.get(number).filter(|_| number > 0) {
                times.push(seen.duration_since(*at));
            }
        }
        for task in tasks {
            task.await??;
        }
        let took = start.elapsed();
        let count = times.len();
        ensure!(count == WATCHERS * UPDATES, "{count} events arrived, {} were due", WATCHERS * UPDATES);
        report(what, count, took, &mut times, Usage::of(&self.pids).since(&before), &read(25_705.0, 49.0));
        Ok(())
    }
}

#[expect(clippy::cast_precision_loss, reason = "numbers to print")]
fn report(what: &str, count: usize, took: Duration, times: &mut [Duration], cpu: Duration, stock: &Stock) {
    times.sort_unstable();
    let at = |share: f64| {
        let index = ((times.len() as f64 * share) as usize).min(times.len().saturating_sub(1));
        times.get(index).map_or(0.0, |t| t.as_secs_f64() * 1e3)
    };
    let cpu_us = cpu.as_secs_f64() * 1e6 / count as f64;
    let target = stock.cpu * stock.share;
    println!(
        "{what:<44} {:>9.0} {:>8.2} {:>8.2} {cpu_us:>9.0} {target:>9.0} {:>9.0} {:>9.0}{}",
        count as f64 / took.as_secs_f64(),
        at(0.5),
        at(0.99),
        stock.cpu,
        stock.rate,
        if cpu_us > target { "  missed" } else { "" }
    );
}
