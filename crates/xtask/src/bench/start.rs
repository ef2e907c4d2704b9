//! The numbers of a one-node cluster: how fast it is there, how fast pods are, and what it costs at rest.
//!
//! Everything runs in namespaces of the test harness, on real parts (containerd, runc, iptables). Times are taken in
//! this process and include the start of the client that asks (nsenter and curl, a few milliseconds); polls are
//! 10 ms apart, pods are watched.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use base64::Engine as _;
use orkd_store::bench::{Budget, Figure};
use orkd_tests::cluster::{Cluster, busybox_archive, import};
use serde_json::{Value, json};

use super::server::binary;

/// How long the cluster rests before its memory is read.
const SETTLE: Duration = Duration::from_secs(60);
/// How long idle cost is counted.
const IDLE: Duration = Duration::from_secs(30);
/// Nothing that is waited for may take longer.
const LIMIT: Duration = Duration::from_secs(90);
const PODS: &str = "/api/v1/namespaces/default/pods";

/// Measures and prints.
pub fn run() -> Result<()> {
    ensure!(orkd_tests::is_root(), "this bench makes namespaces and containers: run it as root");
    let binary = binary()?;
    println!("measuring {}", binary.display());
    let mut cluster = Cluster::prepare(&["--log-level=info"])?;
    cluster.binary = binary.clone();
    let archive = busybox_archive(&cluster.machine)?;

    let start = Instant::now();
    cluster.launch()?;
    let done = startup(&cluster, start, &archive);
    done.map_err(|e| e.context(cluster.log()))?;

    let api = Api::new(&cluster)?;
    idle(&cluster)?;
    pods(&api).map_err(|e| e.context(cluster.log()))?;
    #[expect(clippy::cast_precision_loss, reason = "a number to print")]
    let size = std::fs::metadata(&binary)?.len() as f64 / 1e6;
    print("size of the binary (stripped in the release profile)", size, "MB", Some(40.0));
    Ok(())
}

fn print(what: &str, measured: f64, unit: &'static str, limit: Option<f64>) {
    println!("{}", Figure { what: what.into(), measured, unit, budget: limit.map(Budget::AtMost) });
}

fn print_time(what: &str, took: Duration, limit_ms: f64) {
    print(what, took.as_secs_f64() * 1000.0, "ms", Some(limit_ms));
}

/// Polls until it is so.
fn until(what: &str, mut probe: impl FnMut() -> Result<bool>) -> Result<()> {
    let start = Instant::now();
    loop {
        let last = match probe() {
            Ok(true) => return Ok(()),
            Ok(false) => "not yet".to_owned(),
            Err(error) => format!("{error:#}"),
        };
        ensure!(start.elapsed() < LIMIT, "{what}: not within {LIMIT:?}; last seen: {last}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// From the start of the process to the first answer of examples/hello.
fn startup(cluster: &Cluster, start: Instant, archive: &Path) -> Result<()> {
    let machine = &cluster.machine;
    std::thread::scope(|scope| {
        // Beside the rest: the image is loaded as soon as containerd answers.
        let loaded = scope.spawn(|| {
            until("containerd", || import(machine, archive).map(|()| true))?;
            anyhow::Ok(start.elapsed())
        });
        until("/readyz", || Ok(machine.sh("curl -ksf --max-time 2 https://127.0.0.1:6443/readyz")?.trim() == "ok"))?;
        print_time("/readyz from an empty directory", start.elapsed(), 500.0);
        until("the kubeconfig", || Ok(cluster.kubeconfig().exists()))?;
        let api = Api::new(cluster)?;
        let applied = scope.spawn(|| {
            let hello = orkd_tests::root().join("examples/hello").display().to_string();
            cluster.kubectl()?.ok(&format!("apply -f {hello}"))
        });
        until("the node", || Ok(is_ready(&api.get("/api/v1/nodes/server")?)))?;
        print_time("node Ready", start.elapsed(), 3000.0);
        let dns = {
            let mut ip = String::new();
            until("the DNS service", || {
                let service = api.get("/api/v1/namespaces/kube-system/services/kube-dns")?;
                ip = service["spec"]["clusterIP"].as_str().context("clusterIP")?.to_owned();
                Ok(true)
            })?;
            ip
        };
        let ask = format!(
            "ip=$(busybox nslookup -type=a hello.default.svc.cluster.local {dns} | awk '/^Address/ {{a=$2}} END {{print \
             a}}'); case $ip in *:53|'') echo no name yet >&2; exit 1;; esac; curl -sf --max-time 2 http://$ip/"
        );
        until("an answer of hello", || Ok(machine.sh(&ask)?.starts_with("hello from")))?;
        print_time("first answer through Service and DNS name", start.elapsed(), 8000.0);
        applied.join().map_err(|_| anyhow::anyhow!("kubectl apply panicked"))??;
        let took = loaded.join().map_err(|_| anyhow::anyhow!("the import panicked"))??;
        print("  of which until the image was loaded", took.as_secs_f64() * 1000.0, "ms", None);
        Ok(())
    })
}

/// What it costs when nothing happens.
fn idle(cluster: &Cluster) -> Result<()> {
    let kubectl = cluster.kubectl()?;
    kubectl.ok("rollout status deployment/hello --timeout=60s")?;
    let pid = cluster.server.as_ref().context("it runs")?.pid();
    std::thread::sleep(SETTLE.saturating_sub(IDLE));
    let (cpu, writes) = (cpu_ms(pid)?, writes(pid)?);
    std::thread::sleep(IDLE);
    let seconds = IDLE.as_secs_f64();
    let cpu = (cpu_ms(pid)? - cpu) / seconds;
    #[expect(clippy::cast_precision_loss, reason = "a number to print")]
    let writes = self::writes(pid)?.saturating_sub(writes) as f64 / seconds;
    print("RSS of orkd 60 s after the example runs", status_mb(pid, "VmRSS")?, "MB", Some(60.0));
    print("  of which anonymous", status_mb(pid, "RssAnon")?, "MB", None);
    print("  of which the binary's file", status_mb(pid, "RssFile")?, "MB", None);
    print("  threads", std::fs::read_dir(format!("/proc/{pid}/task"))?.count() as f64, "", None);
    print("idle CPU (/proc/PID/stat over 30 s)", cpu, "ms/s", Some(3.0));
    print("  write calls (/proc/PID/io), sockets included", writes, "1/s", None);
    match syncs(cluster, pid) {
        Ok(count) => print("idle fsync and fdatasync calls (strace over 30 s)", count / seconds, "1/s", Some(1.0)),
        Err(error) => println!("idle fsyncs: not measured, {error:#}"),
    }
    Ok(())
}

/// CPU time of a process so far; ticks are 10 ms.
fn cpu_ms(pid: i32) -> Result<f64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let (_, fields) = stat.rsplit_once(')').context("the name's end")?;
    let fields: Vec<&str> = fields.split_whitespace().collect();
    let ticks = |i: usize| -> Result<f64> { Ok(fields.get(i).context("a short stat file")?.parse()?) };
    Ok((ticks(11)? + ticks(12)?) * 10.0)
}

fn writes(pid: i32) -> Result<u64> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/io"))?;
    Ok(text.lines().find_map(|l| l.strip_prefix("syscw: ")).context("syscw")?.parse()?)
}

fn status_mb(pid: i32, field: &str) -> Result<f64> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = text.lines().find(|l| l.starts_with(field)).with_context(|| field.to_owned())?;
    let kb: f64 = line.split_whitespace().nth(1).context("a number")?.parse()?;
    Ok(kb * 1024.0 / 1e6)
}

/// Counts syncs by strace, in a window of its own, because tracing costs CPU.
fn syncs(cluster: &Cluster, pid: i32) -> Result<f64> {
    let file = cluster.machine.path("strace");
    let out = std::process::Command::new("timeout")
        .args(["-s", "INT", &IDLE.as_secs().to_string(), "strace", "-f", "-qq", "-e", "trace=fsync,fdatasync", "-o"])
        .arg(&file)
        .args(["-p", &pid.to_string()])
        .output()?;
    let text = std::fs::read_to_string(&file)
        .with_context(|| format!("strace: {}", String::from_utf8_lossy(&out.stderr).trim()))?;
    // A call that another thread interrupts has a second line, "resumed".
    let calls = text.lines().filter(|l| l.contains("sync(")).count();
    #[expect(clippy::cast_precision_loss, reason = "a number to print")]
    Ok(calls as f64)
}

/// One pod at a time, and thirty at once.
fn pods(api: &Api<'_>) -> Result<()> {
    let mut watch = Watch::start(api, "app=bench")?;
    let mut took = Vec::new();
    for i in 0..10 {
        let start = Instant::now();
        api.post(&[pod(&format!("one-{i}"))])?;
        watch.until_ready(1)?;
        took.push(start.elapsed());
    }
    took.sort();
    let at = |i: usize| took.get(i).copied().unwrap_or_default();
    print_time("one pod from POST to Ready, p50 of 10", at(5), 250.0);
    print("  slowest of them", at(9).as_secs_f64() * 1000.0, "ms", None);
    let many: Vec<Value> = (0..30).map(|i| pod(&format!("many-{i}"))).collect();
    let start = Instant::now();
    api.post(&many)?;
    watch.until_ready(30)?;
    print_time("30 pods at once, until the last is Ready", start.elapsed(), 2000.0);
    Ok(())
}

fn pod(name: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": name, "labels": {"app": "bench"}},
        "spec": {
            "terminationGracePeriodSeconds": 0,
            "containers": [{"name": "c", "image": "orkd.local/busybox:latest", "imagePullPolicy": "IfNotPresent",
                "command": ["sleep", "3600"]}],
        },
    })
}

fn is_ready(object: &Value) -> bool {
    let conditions = object["status"]["conditions"].as_array();
    conditions.into_iter().flatten().any(|c| c["type"] == "Ready" && c["status"] == "True")
}

/// The API as the administrator, by curl on the machine.
struct Api<'a> {
    cluster: &'a Cluster,
    flags: Vec<String>,
}

impl<'a> Api<'a> {
    fn new(cluster: &'a Cluster) -> Result<Api<'a>> {
        let config: Value = serde_yaml::from_str(&std::fs::read_to_string(cluster.kubeconfig())?)?;
        let mut flags = vec!["-sS".to_owned()];
        let parts = [
            ("--cacert", &config["clusters"][0]["cluster"]["certificate-authority-data"]),
            ("--cert", &config["users"][0]["user"]["client-certificate-data"]),
            ("--key", &config["users"][0]["user"]["client-key-data"]),
        ];
        for (flag, data) in parts {
            let data = data.as_str().with_context(|| format!("the kubeconfig has no {flag}"))?;
            let file = cluster.machine.path(&format!("admin{flag}.pem"));
            std::fs::write(&file, base64::engine::general_purpose::STANDARD.decode(data)?)?;
            flags.extend([flag.to_owned(), file.display().to_string()]);
        }
        Ok(Api { cluster, flags })
    }

    fn command(&self) -> std::process::Command {
        let mut command = self.cluster.machine.command("curl");
        command.args(&self.flags);
        command
    }

    fn get(&self, path: &str) -> Result<Value> {
        let out = self.command().arg(format!("https://127.0.0.1:6443{path}")).output()?;
        ensure!(out.status.success(), "GET {path}: {}", String::from_utf8_lossy(&out.stderr));
        Ok(serde_json::from_slice(&out.stdout)?)
    }

    /// Creates pods, one request each, over one connection.
    fn post(&self, pods: &[Value]) -> Result<()> {
        let mut command = self.cluster.machine.command("curl");
        for (i, pod) in pods.iter().enumerate() {
            if i > 0 {
                command.arg("--next");
            }
            command.args(&self.flags).args(["-f", "-o", "/dev/null", "-H", "Content-Type: application/json", "-d"]);
            command.arg(pod.to_string()).arg(format!("https://127.0.0.1:6443{PODS}"));
        }
        let out = command.output()?;
        ensure!(out.status.success(), "POST {PODS}: {}", String::from_utf8_lossy(&out.stderr));
        Ok(())
    }
}

/// An open watch of pods.
struct Watch {
    child: Child,
    lines: std::sync::mpsc::Receiver<String>,
    seen: std::collections::BTreeSet<String>,
}

impl Watch {
    fn start(api: &Api<'_>, selector: &str) -> Result<Watch> {
        let url = format!("https://127.0.0.1:6443{PODS}?watch=true&labelSelector={selector}");
        let mut child = api.command().arg("-N").arg(url).stdout(Stdio::piped()).spawn()?;
        let output = child.stdout.take().context("it has an output")?;
        let (send, lines) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            for line in BufReader::new(output).lines().map_while(Result::ok) {
                if send.send(line).is_err() {
                    return;
                }
            }
        });
        Ok(Watch { child, lines, seen: std::collections::BTreeSet::new() })
    }

    /// Waits until so many more pods are Ready.
    fn until_ready(&mut self, more: usize) -> Result<()> {
        let goal = self.seen.len() + more;
        let deadline = Instant::now() + LIMIT;
        while self.seen.len() < goal {
            let left = deadline.saturating_duration_since(Instant::now());
            let line = self.lines.recv_timeout(left).with_context(|| format!("{} of {goal} Ready", self.seen.len()))?;
            let event: Value = serde_json::from_str(&line)?;
            let object = &event["object"];
            if is_ready(object) {
                self.seen.insert(object["metadata"]["name"].as_str().unwrap_or_default().to_owned());
            }
        }
        Ok(())
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
