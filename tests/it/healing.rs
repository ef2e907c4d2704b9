//! What breaks is made whole: containers, pods, endpoints, and orkd itself.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use orkd_tests::cluster::Cluster;
use orkd_tests::kubectl::Kubectl;
use orkd_tests::{eventually, is_root};
use serde_json::Value;

/// Two web servers that are ready while `/tmp/bad` is absent, a Service, a pod to kill and a pod that fails.
pub(crate) const WORKLOAD: &str = r#"
apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
  replicas: 2
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      terminationGracePeriodSeconds: 1
      containers:
      - name: c
        image: orkd.local/busybox:latest
        imagePullPolicy: IfNotPresent
        command: [sleep, "31337"]
        ports: [{containerPort: 80}]
        readinessProbe: {exec: {command: [sh, -c, "! test -f /tmp/bad"]}, periodSeconds: 1, failureThreshold: 1}
---
apiVersion: v1
kind: Service
metadata: {name: web}
spec: {selector: {app: web}, ports: [{port: 80}]}
---
apiVersion: v1
kind: Pod
metadata: {name: victim}
spec:
  containers:
  - {name: c, image: "orkd.local/busybox:latest", imagePullPolicy: IfNotPresent, command: [sleep, "41414"]}
"#;

const CRASH: &str = r#"
apiVersion: v1
kind: Pod
metadata: {name: crash}
spec:
  containers:
  - {name: c, image: "orkd.local/busybox:latest", imagePullPolicy: IfNotPresent, command: [sh, -c, "exit 3"]}
"#;

/// Waits until an object answers `good`; the object.
fn until(k: &Kubectl<'_>, what: &str, line: &str, good: impl Fn(&Value) -> bool) -> Result<Value> {
    eventually(what, Duration::from_secs(30), || {
        let object = k.json(line).map_err(|e| e.to_string())?;
        if good(&object) { Ok(object) } else { Err(object.to_string()) }
    })
}

pub(crate) fn processes(cluster: &Cluster, command: &str) -> Result<Vec<String>> {
    cluster.machine.processes(command)
}

fn names(list: &Value) -> Vec<String> {
    let items = list["items"].as_array().map(Vec::as_slice).unwrap_or_default();
    items.iter().filter_map(|o| Some(o["metadata"]["name"].as_str()?.to_owned())).collect()
}

/// The pods behind the Service that are ready.
fn endpoints(slices: &Value) -> Vec<String> {
    let slices = slices["items"].as_array().map(Vec::as_slice).unwrap_or_default();
    let mut found: Vec<String> = slices
        .iter()
        .flat_map(|s| s["endpoints"].as_array().map(Vec::as_slice).unwrap_or_default())
        .filter(|e| e["conditions"]["ready"] == true)
        .filter_map(|e| Some(e["targetRef"]["name"].as_str()?.to_owned()))
        .collect();
    found.sort();
    found
}

/// The wait before the next restart, as the kubelet writes it.
fn wait(restarts: u64) -> String {
    match 10 << (restarts - 1) {
        seconds @ 0..60 => format!("{seconds}s"),
        seconds => format!("{}m{}s", seconds / 60, seconds % 60),
    }
}

const SLICES: &str = "get endpointslices -l kubernetes.io/service-name=web";

#[test]
fn what_breaks_is_made_whole() -> Result<()> {
    if !is_root() {
        return Ok(());
    }
    let cluster = Cluster::node(&[])?;
    let k = cluster.kubectl()?;
    k.apply(CRASH)?;
    k.apply(WORKLOAD)?;
    k.ok("rollout status deployment/web --timeout=30s").with_context(|| cluster.log())?;
    k.ok("wait --for=condition=Ready pod/victim --timeout=30s")?;

    // A container that fails again and again.
    let crash = until(&k, "a back-off", "get pod crash", |p| {
        p["status"]["containerStatuses"][0]["state"]["waiting"]["reason"] == "CrashLoopBackOff"
    })?;
    let status = &crash["status"]["containerStatuses"][0];
    let uid = crash["metadata"]["uid"].as_str().context("a uid")?;
    // How often it has been tried by now is the machine's affair; each time doubles the wait.
    let restarts = status["restartCount"].as_u64().context("restarts")?;
    ensure!((1..6).contains(&restarts), "{status}");
    assert_eq!(
        status["state"]["waiting"]["message"],
        format!("back-off {} restarting failed container=c pod=crash_default({uid})", wait(restarts))
    );
    assert_eq!(status["lastState"]["terminated"]["exitCode"], 3);
    assert_eq!(status["lastState"]["terminated"]["reason"], "Error");
    assert_eq!(crash["status"]["phase"], "Running");
    ensure!(k.ok("get pod crash")?.contains("CrashLoopBackOff"));
    until(&k, "the event", "get events --field-selector involvedObject.name=crash,reason=BackOff", |l| {
        let message = format!("Back-off restarting failed container c in pod crash_default({uid})");
        l["items"].as_array().is_some_and(|i| i.iter().any(|e| e["message"] == message && e["type"] == "Warning"))
    })?;

    // A container that is killed.
    let before = processes(&cluster, "sleep 41414")?;
    ensure!(before.len() == 1, "{before:?}");
    let pid = before[0].split(' ').next().unwrap_or_default().to_owned();
    cluster.machine.sh(&format!("kill -9 {pid}"))?;
    let victim = until(&k, "the container to run again", "get pod victim", |p| {
        let status = &p["status"]["containerStatuses"][0];
        status["restartCount"] == 1 && status["state"]["running"].is_object() && status["ready"] == true
    })?;
    assert_eq!(victim["status"]["containerStatuses"][0]["lastState"]["terminated"]["exitCode"], 137);
    let after = processes(&cluster, "sleep 41414")?;
    ensure!(after.len() == 1 && after != before, "{before:?} {after:?}");

    // A pod that is deleted.
    let first = names(&k.json("get pods -l app=web")?);
    let [gone, kept] = &first[..] else { anyhow::bail!("{first:?}") };
    k.ok(&format!("delete pod {gone}"))?;
    until(&k, "a pod in its place", SLICES, |s| {
        let ready = endpoints(s);
        ready.len() == 2 && ready.contains(kept) && !ready.contains(gone)
    })?;

    // A pod that is not ready.
    k.ok(&format!("exec {kept} -- touch /tmp/bad"))?;
    until(&k, "the endpoint to leave", SLICES, |s| endpoints(s).len() == 1 && !endpoints(s).contains(kept))?;
    ensure!(k.ok(&format!("get pod {kept}"))?.contains("0/1"));
    until(&k, "the event", &format!("get events --field-selector involvedObject.name={kept},reason=Unhealthy"), |l| {
        l["items"][0]["message"].as_str().is_some_and(|m| m.starts_with("Readiness probe failed: "))
    })?;
    k.ok(&format!("exec {kept} -- rm /tmp/bad"))?;
    until(&k, "the endpoint to come back", SLICES, |s| endpoints(s).len() == 2 && endpoints(s).contains(kept))?;
    assert_eq!(k.ok(&format!("get pod {kept} -o jsonpath={{.status.containerStatuses[0].restartCount}}"))?, "0");

    // A pod that is taken out to be looked at.
    k.ok(&format!("label pod {kept} app=debug --overwrite"))?;
    until(&k, "a pod in its place", SLICES, |s| endpoints(s).len() == 2 && !endpoints(s).contains(kept))?;
    let debug = until(&k, "the pod to be released", &format!("get pod {kept}"), |p| {
        p["metadata"]["ownerReferences"].as_array().is_none_or(Vec::is_empty)
    })?;
    assert_eq!(debug["status"]["phase"], "Running");
    assert_eq!(k.ok(&format!("exec {kept} -- echo still here"))?.trim(), "still here");

    // The back-off ends, and is twice as long the next time.
    eventually("a longer back-off", Duration::from_secs(90), || {
        let crash = k.json("get pod crash").map_err(|e| e.to_string())?;
        let status = &crash["status"]["containerStatuses"][0];
        let message = status["state"]["waiting"]["message"].as_str().unwrap_or_default();
        let again = status["restartCount"].as_u64().filter(|&again| (restarts + 1..8).contains(&again));
        match again {
            Some(again) if message.starts_with(&format!("back-off {} ", wait(again))) => Ok(()),
            _ => Err(status.to_string()),
        }
    })
}

/// What of a pod may not change when orkd starts again.
pub(crate) const FACTS: &str = "{range .items[*]}{.metadata.uid} {.status.podIP} {.status.containerStatuses[0].containerID} \
                     {.status.containerStatuses[0].restartCount} \
                     {.status.containerStatuses[0].state.running.startedAt}{\"\\n\"}{end}";

#[test]
fn containers_outlive_a_killed_orkd() -> Result<()> {
    if !is_root() {
        return Ok(());
    }
    let mut cluster = Cluster::node(&[])?;
    let k = cluster.kubectl()?;
    k.apply(WORKLOAD)?;
    k.ok("rollout status deployment/web --timeout=30s").with_context(|| cluster.log())?;
    k.ok("wait --for=condition=Ready pod/victim --timeout=30s")?;
    let web = processes(&cluster, "sleep 31337")?;
    let victim = processes(&cluster, "sleep 41414")?;
    ensure!(web.len() == 2 && victim.len() == 1, "{web:?} {victim:?}");
    let facts = |k: &Kubectl<'_>| k.ok_args(&["get", "pods", "-o", &format!("jsonpath={FACTS}")], "");
    let pods = facts(&k)?;
    assert_eq!(pods.lines().count(), 3, "{pods}");

    for round in 1..=3 {
        cluster.kill()?;
        assert_eq!(processes(&cluster, "sleep 31337")?, web, "while orkd is away");
        let renewed = |k: &Kubectl<'_>| k.ok("get lease -n kube-node-lease server -o jsonpath={.spec.renewTime}");
        let start = Instant::now();
        let restarted = cluster.machine.sh("date -u +%Y-%m-%dT%H:%M:%S.%6N")?;
        cluster.boot()?;
        let k = cluster.kubectl()?;
        eventually("the node to be Ready again", Duration::from_secs(10), || {
            let renewed = renewed(&k).map_err(|e| e.to_string())?;
            let ready = k.ok("get node server").map_err(|e| e.to_string())?;
            let ready = ready.split_whitespace().any(|w| w == "Ready");
            if ready && renewed.as_str() > restarted.trim() { Ok(()) } else { Err(format!("{ready} {renewed}")) }
        })
        .with_context(|| cluster.log())?;
        let took = start.elapsed();
        ensure!(took < Duration::from_secs(10), "the node is Ready after {took:?}");
        println!("Ready {took:?} after restart {round}");

        // The kubelet works on its pods, and makes new ones.
        let answer = eventually("exec to work", Duration::from_secs(10), || {
            k.ok("exec victim -- echo hi").map_err(|e| e.to_string())
        })?;
        assert_eq!(answer.trim(), "hi");
        let name = format!("after-{round}");
        k.ok(&format!("run {name} --image=orkd.local/busybox:latest --image-pull-policy=IfNotPresent -- sleep 1000"))?;
        k.ok(&format!("wait --for=condition=Ready pod/{name} --timeout=20s")).with_context(|| cluster.log())?;
        k.ok(&format!("delete pod {name} --now"))?;
        assert_eq!(processes(&cluster, "sleep 31337")?, web);
        assert_eq!(processes(&cluster, "sleep 41414")?, victim);
        assert_eq!(facts(&k)?, pods);
    }
    Ok(())
}
