//! The numbers of the controllers, beside their budgets: the release binary in a process of its own, and what loads it in
//! others. Nodes are hollow: kubelets on the runtime in memory (`crates/kubelet/examples/hollow.rs`).
//!
//! Beside each time stands the processor time of the processes that are measured: on two cores nothing can be faster than
//! half of it, whatever else the machine does. `ORKD_BENCH_SHARE=0.1` measures a tenth of everything.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use futures_util::StreamExt;
use serde_json::{Value, json};

use super::http::Client;
use super::process::{Usage, load};
use super::server::{Process, Server, binary, release};

/// Requests that the bench has under way at a time.
const AT_A_TIME: usize = 32;
/// Nothing that is waited for may take longer.
const LIMIT: Duration = Duration::from_secs(900);
const JSON: &str = "application/json";
const MERGE: &str = "application/merge-patch+json";

/// A part of the whole, as `ORKD_BENCH_SHARE` says.
#[expect(clippy::cast_precision_loss, clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a size")]
fn share(full: usize) -> usize {
    let share: f64 = std::env::var("ORKD_BENCH_SHARE").ok().and_then(|s| s.parse().ok()).unwrap_or(1.0);
    ((full as f64 * share) as usize).max(1)
}

/// Time and processor time since a moment.
struct Clock {
    start: Instant,
    pids: Vec<u32>,
    before: Usage,
}

impl Clock {
    fn start(pids: &[u32]) -> Clock {
        Clock { start: Instant::now(), pids: pids.to_vec(), before: Usage::of(pids) }
    }

    fn print(&self, what: &str, budget: Option<f64>) {
        let (took, cpu) = (self.start.elapsed().as_secs_f64(), Usage::of(&self.pids).since(&self.before));
        let budget = against(took, "s", budget);
        println!("{what:<56} {took:>7.2} {budget}; CPU {:.2} s; load {}", cpu.as_secs_f64(), load());
    }
}

/// A unit, and what is wanted of it, if anything is.
fn against(measured: f64, unit: &str, budget: Option<f64>) -> String {
    match budget {
        None => unit.to_owned(),
        Some(budget) if measured <= budget => format!("{unit} of {budget}"),
        Some(budget) => format!("{unit} of {budget}  (missed)"),
    }
}

fn print_memory(what: &str, megabytes: f64, budget: Option<f64>) {
    println!("{what:<56} {megabytes:>7.0} {}", against(megabytes, "MB", budget));
}

async fn get(client: &Client, path: &str) -> Result<Value> {
    let answer = client.send("GET", path, String::new(), &[]).await?;
    Ok(if answer.code == 404 { Value::Null } else { serde_json::from_slice(&answer.body)? })
}

async fn send(client: &Client, method: &str, path: &str, kind: &str, body: &Value) -> Result<Value> {
    let answer = client.send(method, path, body.to_string(), &[("content-type", kind)]).await?;
    let text = String::from_utf8_lossy(&answer.body);
    ensure!((200..300).contains(&answer.code), "{method} {path}: {} {text}", answer.code);
    Ok(serde_json::from_slice(&answer.body)?)
}

/// Sends many requests, some at a time.
async fn send_all(
    client: &Client,
    method: &str,
    kind: &str,
    requests: impl Iterator<Item = (String, Value)>,
) -> Result<()> {
    let all = requests.map(|(path, body)| async move { send(client, method, &path, kind, &body).await.map(drop) });
    let mut all = futures_util::stream::iter(all).buffer_unordered(AT_A_TIME);
    while let Some(done) = all.next().await {
        done?;
    }
    Ok(())
}

/// Polls until it is so.
async fn until(server: &Server, what: &str, client: &Client, path: &str, right: impl Fn(&Value) -> bool) -> Result<()> {
    let start = Instant::now();
    loop {
        let state = get(client, path).await?;
        if right(&state) {
            return Ok(());
        }
        ensure!(start.elapsed() < LIMIT, "{what}: {path} is {}; log:\n{}", state["status"], server.log());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

async fn namespace(server: &Server, client: &Client, name: &str) -> Result<()> {
    send(client, "POST", "/api/v1/namespaces", JSON, &json!({"metadata": {"name": name}})).await?;
    let account = format!("/api/v1/namespaces/{name}/serviceaccounts/default");
    until(server, "the account", client, &account, |a| !a.is_null()).await
}

async fn delete_namespace(server: &Server, client: &Client, name: &str) -> Result<()> {
    let path = format!("/api/v1/namespaces/{name}");
    send(client, "DELETE", &path, JSON, &json!({})).await?;
    until(server, "the namespace", client, &path, Value::is_null).await
}

fn template(name: &str, image: &str) -> Value {
    json!({"metadata": {"labels": {"app": name}},
        "spec": {"automountServiceAccountToken": false, "terminationGracePeriodSeconds": 0,
            "containers": [{"name": "c", "image": image}]}})
}

fn deployment(name: &str, replicas: usize, image: &str) -> Value {
    json!({"metadata": {"name": name}, "spec": {"replicas": replicas, "selector": {"matchLabels": {"app": name}},
        "template": template(name, image)}})
}

/// Measures and prints.
pub fn run() -> Result<()> {
    println!("measuring {}", binary()?.display());
    let runtime = tokio::runtime::Runtime::new()?;
    runtime.block_on(async {
        wide().await?;
        rollout().await?;
        memory().await
    })
}

/// One large Deployment, and large namespaces that go away.
async fn wide() -> Result<()> {
    let server = Server::start(&["--disable-scheduler"]).await?;
    let client = server.client().await?;
    let pids = [server.pid()];
    let replicas = share(10_000);
    namespace(&server, &client, "wide").await?;
    let path = "/apis/apps/v1/namespaces/wide/deployments";
    let clock = Clock::start(&pids);
    send(&client, "POST", path, JSON, &deployment("wide", replicas, "one")).await?;
    until(&server, "pods", &client, &format!("{path}/wide"), |d| d["status"]["replicas"] == json!(replicas)).await?;
    clock.print(&format!("a Deployment from 0 to {replicas} replicas, pods created"), Some(10.0));
    let clock = Clock::start(&pids);
    delete_namespace(&server, &client, "wide").await?;
    clock.print(&format!("deletion of a namespace with these {replicas} pods"), Some(10.0));

    namespace(&server, &client, "maps").await?;
    let maps = share(10_000);
    let map = |n: usize| ("/api/v1/namespaces/maps/configmaps".into(), json!({"metadata": {"name": format!("m-{n}")}}));
    send_all(&client, "POST", JSON, (0..maps).map(map)).await?;
    let clock = Clock::start(&pids);
    delete_namespace(&server, &client, "maps").await?;
    clock.print(&format!("deletion of a namespace with {maps} ConfigMaps"), Some(10.0));
    Ok(())
}

/// Many Deployments updated at once, on hollow nodes.
async fn rollout() -> Result<()> {
    let server = Server::start(&[]).await?;
    let client = server.client().await?;
    // Old and new pods of all fit at once.
    let (many, nodes) = (share(2_000), share(50).max(1));
    let hollow = hollow(&server, nodes)?;
    let ready = |list: &Value| {
        let is_ready = |n: &Value| {
            let conditions = n["status"]["conditions"].as_array().into_iter().flatten();
            conditions.into_iter().any(|c| c["type"] == "Ready" && c["status"] == "True")
        };
        list["items"].as_array().is_some_and(|all| all.len() == nodes && all.iter().all(is_ready))
    };
    until(&server, "hollow nodes", &client, "/api/v1/nodes", ready).await?;
    namespace(&server, &client, "many").await?;
    let path = "/apis/apps/v1/namespaces/many/deployments";
    let named = |n: usize| (path.to_owned(), deployment(&format!("d-{n}"), 1, "one"));
    let complete = |list: &Value| {
        let is_complete = |d: &Value| {
            let status = &d["status"];
            let one = ["updatedReplicas", "replicas", "availableReplicas"].iter().all(|f| status[*f] == 1);
            one && status["observedGeneration"] == d["metadata"]["generation"]
        };
        list["items"].as_array().is_some_and(|all| all.len() == many && all.iter().all(is_complete))
    };
    let pids = [server.pid(), hollow.pid()];
    let clock = Clock::start(&pids);
    send_all(&client, "POST", JSON, (0..many).map(named)).await?;
    until(&server, "the first template", &client, path, complete).await?;
    clock.print(&format!("{many} Deployments created, their pods available"), None);
    let clock = Clock::start(&pids);
    let (of_server, of_hollow) = (Clock::start(&pids[..1]), Clock::start(&pids[1..]));
    let image = json!({"spec": {"template": {"spec": {"containers": [{"name": "c", "image": "two"}]}}}});
    let strategic = "application/strategic-merge-patch+json";
    send_all(&client, "PATCH", strategic, (0..many).map(|n| (format!("{path}/d-{n}"), image.clone()))).await?;
    until(&server, "the second template", &client, path, complete).await?;
    clock.print(&format!("{many} Deployments updated at once, converged"), Some(60.0));
    of_server.print("  of which the server", None);
    of_hollow.print(&format!("  of which {nodes} hollow nodes"), None);
    Ok(())
}

fn hollow(server: &Server, nodes: usize) -> Result<Process> {
    let program = release()?.join("examples/hollow");
    ensure!(program.is_file(), "{} is not there: cargo xtask bench makes it", program.display());
    server.beside(&program, &[], &[&nodes.to_string()])
}

/// What the controllers and the scheduler hold at many pods, each in a process of its own.
async fn memory() -> Result<()> {
    let server = Server::start(&["--disable-scheduler", "--disable-controller-manager"]).await?;
    let client = server.client().await?;
    let (pods, nodes, sets) = (share(150_000), share(5_000), share(1_500));
    let account = json!({"metadata": {"name": "default"}});
    send(&client, "POST", "/api/v1/namespaces/default/serviceaccounts", JSON, &account).await?;
    let node = |n: usize| {
        let amounts = json!({"cpu": "32", "memory": "256Gi", "pods": "250"});
        let labels = json!({"kubernetes.io/hostname": format!("n-{n}"), "kubernetes.io/os": "linux"});
        let conditions = json!([{"type": "Ready", "status": "True", "reason": "KubeletReady", "message": ""}]);
        let status = json!({"allocatable": amounts, "capacity": amounts, "conditions": conditions});
        (
            "/api/v1/nodes".to_owned(),
            json!({"metadata": {"name": format!("n-{n}"), "labels": labels}, "status": status}),
        )
    };
    send_all(&client, "POST", JSON, (0..nodes).map(node)).await?;
    // Pods of sets that are content with them, or controllers would have something to do.
    let path = "/apis/apps/v1/namespaces/default/replicasets";
    let each = pods / sets;
    let mut owners = Vec::with_capacity(sets);
    for n in 0..sets {
        let name = format!("set-{n}");
        let mut set = deployment(&name, each, "registry.example/app:1.0");
        set["spec"]["template"] = template(&name, "registry.example/app:1.0");
        let made = send(&client, "POST", path, JSON, &set).await?;
        owners.push(made["metadata"]["uid"].as_str().context("a uid")?.to_owned());
    }
    let pod = |n: usize| {
        let (set, name) = (n / each, format!("set-{}", n / each));
        let mut pod = template(&name, "registry.example/app:1.0");
        pod["metadata"]["name"] = json!(format!("{name}-{n:06}"));
        pod["metadata"]["ownerReferences"] = json!([{"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": name,
            "uid": owners[set], "controller": true, "blockOwnerDeletion": true}]);
        pod["spec"]["nodeName"] = json!(format!("n-{}", n % nodes));
        pod["spec"]["containers"][0]["resources"] = json!({"requests": {"cpu": "100m", "memory": "64Mi"}});
        ("/api/v1/namespaces/default/pods".to_owned(), pod)
    };
    send_all(&client, "POST", JSON, (0..each * sets).map(pod)).await?;
    // A kubelet's word, so that informers hold what they hold of pods that run.
    let status = |n: usize| {
        let path = format!("/api/v1/namespaces/default/pods/set-{}-{n:06}/status", n / each);
        let ip = format!("10.{}.{}.{}", n >> 16, (n >> 8) & 255, n & 255);
        let condition = |ty: &str| json!({"type": ty, "status": "True", "lastTransitionTime": "2026-01-01T00:00:00Z"});
        let conditions = ["Initialized", "Ready", "ContainersReady", "PodScheduled"].map(condition);
        let container = json!({"name": "c", "ready": true, "started": true, "restartCount": 0,
            "image": "registry.example/app:1.0", "imageID": format!("sha256:{}", "0".repeat(64)),
            "containerID": format!("containerd://{n:064}"), "state": {"running": {"startedAt": "2026-01-01T00:00:00Z"}}});
        (
            path,
            json!({"status": {"phase": "Running", "podIP": ip, "podIPs": [{"ip": ip}], "hostIP": "192.0.2.1",
            "startTime": "2026-01-01T00:00:00Z", "conditions": conditions, "containerStatuses": [container]}}),
        )
    };
    send_all(&client, "PATCH", MERGE, (0..each * sets).map(status)).await?;
    print_memory(&format!("API server and store at {pods} pods"), Usage::of(&[server.pid()]).rss_mb, None);
    let mut sum = 0.0;
    for role in ["scheduler", "controller-manager"] {
        let process = server.beside(&binary()?, &[role, "--kubeconfig"], &["--leader-elect=false"])?;
        let held = settled(process.pid()).await;
        print_memory(&format!("{role} at {pods} pods and {nodes} nodes"), held, None);
        sum += held;
    }
    print_memory("both together", sum, Some(1000.0));
    Ok(())
}

/// The memory of a process once it grows no more.
async fn settled(pid: u32) -> f64 {
    let mut last = Usage::of(&[pid]);
    loop {
        tokio::time::sleep(Duration::from_secs(3)).await;
        let now = Usage::of(&[pid]);
        // It has read everything when it has nothing to do any more.
        if now.since(&last) < Duration::from_millis(300) {
            return now.rss_mb;
        }
        last = now;
    }
}
