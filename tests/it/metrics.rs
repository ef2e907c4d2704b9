//! What nodes and pods use, and an autoscaler that follows it: stock kubectl on a real node, with nothing installed.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use orkd_tests::cluster::Cluster;
use orkd_tests::kubectl::Kubectl;
use orkd_tests::{eventually, is_root};
use serde_json::Value;

const IMAGE: &str = "orkd.local/busybox:latest";

/// Bytes that the container `hold` keeps in memory.
const HELD_MIB: u64 = 64;

/// One container uses all the CPU it gets, another a known amount of memory.
fn used() -> String {
    let container = |name: &str, script: &str, more: &str| {
        format!(
            "  - name: {name}\n    image: {IMAGE}\n    imagePullPolicy: IfNotPresent\n    command: [sh, -c, {script:?}]\n{more}"
        )
    };
    let hold = format!("dd if=/dev/zero of=/held/file bs=1M count={HELD_MIB}; exec sleep 1000");
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: used, labels: {{app: used}}}}\nspec:\n  \
         terminationGracePeriodSeconds: 1\n  volumes:\n  - {{name: held, emptyDir: {{medium: Memory}}}}\n  \
         containers:\n{}{}",
        container("burn", "while :; do :; done", "    resources: {requests: {cpu: 500m}}\n"),
        container("hold", &hold, "    volumeMounts: [{name: held, mountPath: /held}]\n"),
    )
}

/// The rows of `kubectl top`, in words.
fn rows(text: &str) -> Vec<Vec<&str>> {
    text.lines().skip(1).map(|l| l.split_whitespace().collect()).collect()
}

/// `250m` of CPU or `64Mi` of memory.
fn amount(text: &str) -> Result<u64> {
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    text[..end].parse().with_context(|| text.to_owned())
}

#[test]
fn top_tells_what_is_used() -> Result<()> {
    if !is_root() {
        return Ok(());
    }
    let cluster = Cluster::node(&[])?;
    let k = cluster.kubectl()?;
    k.apply(&used())?;
    k.ok("wait --for=condition=Ready pod/used --timeout=60s")?;

    // While other work shares the machine the burner gets less than a core; it never gets more.
    let held = HELD_MIB..HELD_MIB + 16;
    let text = eventually("the figures of the pod", Duration::from_secs(60), || {
        let text = k.ok("top pod used --containers --no-headers=false").map_err(|e| e.to_string())?;
        let of = |name: &str| rows(&text).into_iter().find(|r| r.get(1) == Some(&name)).map(|r| (r[2], r[3]));
        let (Some(burn), Some(hold)) = (of("burn"), of("hold")) else { return Err(text) };
        let number = |t: &str| amount(t).map_err(|e| e.to_string());
        let fits = (100..=1100).contains(&number(burn.0)?)
            && number(hold.0)? < 100
            && held.contains(&number(hold.1)?)
            && number(burn.1)? < 16;
        if fits { Ok(text) } else { Err(text) }
    })?;
    eprintln!("{text}");

    // The counter of the container is that of its only process, however much that got.
    let before = cpu_of_first(&k)?;
    let counted = counter(&k)?;
    let after = cpu_of_first(&k)?;
    ensure!((before - 0.5..after + 1.0).contains(&counted), "{before} {counted} {after}");

    let sorted = k.ok("top pod -A --sort-by=cpu")?;
    ensure!(rows(&sorted).first().is_some_and(|r| r[1] == "used"), "{sorted}");
    let selected = k.ok("top pod -l app=used")?;
    ensure!(rows(&selected).len() == 1, "{selected}");
    let other = k.run(&["top", "pod", "-l", "app=other"], "")?;
    ensure!(other.stdout.is_empty() && other.stderr.contains("No resources found"), "{other:?}");
    let nodes = k.ok("top node")?;
    let node = rows(&nodes);
    ensure!(node.len() == 1 && node[0][0] == "server" && amount(node[0][1])? >= 100, "{nodes}");
    ensure!(amount(node[0][3])? > HELD_MIB, "{nodes}");
    eprintln!("{sorted}\n{nodes}");
    let service = k.ok("get apiservice v1beta1.metrics.k8s.io --no-headers")?;
    ensure!(service.contains("Local") && service.contains("True"), "{service}");

    // The rest of what a node tells of itself. containerd counts what its images use every ten seconds: on a node this
    // young it may still say nothing.
    let summary = eventually("the figures of the images", Duration::from_secs(60), || {
        let text = k.ok("get --raw /api/v1/nodes/server/proxy/stats/summary").map_err(|e| e.to_string())?;
        let summary: Value = serde_json::from_str(&text).map_err(|e| e.to_string())?;
        let used = &summary["node"]["runtime"]["imageFs"]["usedBytes"];
        if used.as_u64() > Some(0) { Ok(summary) } else { Err(text) }
    })?;
    let pod = summary["pods"].as_array().into_iter().flatten().find(|p| p["podRef"]["name"] == "used");
    let pod = pod.context("the pod is in the summary")?;
    for part in ["/network/rxBytes", "/ephemeral-storage/usedBytes", "/containers/0/rootfs/usedBytes", "/startTime"] {
        ensure!(!pod.pointer(part).unwrap_or(&Value::Null).is_null(), "{part}: {pod}");
    }
    let volume = &pod["volume"].as_array().context("volumes")?.iter().find(|v| v["name"] == "held");
    let volume = volume.and_then(|v| v["usedBytes"].as_u64()).context("the volume")?;
    ensure!(held.contains(&(volume >> 20)), "{pod}");
    ensure!(summary["node"]["fs"]["capacityBytes"].as_u64() > Some(0), "{}", summary["node"]);
    let cadvisor = k.ok("get --raw /api/v1/nodes/server/proxy/metrics/cadvisor")?;
    let labels = r#"namespace="default",pod="used""#;
    let burner =
        |l: &&str| l.starts_with(r#"container_cpu_usage_seconds_total{container="burn""#) && l.contains(labels);
    ensure!(cadvisor.lines().any(|l| burner(&l)), "{cadvisor}");
    let own = k.ok("get --raw /api/v1/nodes/server/proxy/metrics")?;
    ensure!(own.contains("kubelet_running_pods 1\n"), "{own}");
    Ok(())
}

/// Seconds of CPU that the burner's process took.
fn cpu_of_first(k: &Kubectl<'_>) -> Result<f64> {
    let stat = k.ok("exec used -c burn -- cat /proc/1/stat")?;
    let after = stat.rsplit_once(") ").map_or("", |(_, rest)| rest);
    let ticks: Vec<f64> = after.split_whitespace().skip(11).take(2).filter_map(|t| t.parse().ok()).collect();
    ensure!(ticks.len() == 2, "{stat}");
    Ok((ticks[0] + ticks[1]) / 100.0)
}

/// Seconds of CPU that the kubelet counts of the burner.
fn counter(k: &Kubectl<'_>) -> Result<f64> {
    let text = k.ok("get --raw /api/v1/nodes/server/proxy/metrics/resource")?;
    let name = r#"container_cpu_usage_seconds_total{container="burn",namespace="default",pod="used"} "#;
    let line = text.lines().find_map(|l| l.strip_prefix(name)).with_context(|| text.clone())?;
    Ok(line.split(' ').next().unwrap_or_default().parse()?)
}

/// A deployment whose pods burn CPU while a file is there.
fn worker() -> String {
    let script = "while :; do while [ -f /tmp/load ]; do :; done; sleep 1; done";
    format!(
        "apiVersion: apps/v1\nkind: Deployment\nmetadata: {{name: work}}\nspec:\n  selector: {{matchLabels: {{app: \
         work}}}}\n  template:\n    metadata: {{labels: {{app: work}}}}\n    spec:\n      terminationGracePeriodSeconds: \
         1\n      containers:\n      - name: c\n        image: {IMAGE}\n        imagePullPolicy: IfNotPresent\n        \
         command: [sh, -c, {script:?}]\n        resources: {{requests: {{cpu: 100m}}}}\n"
    )
}

#[test]
fn an_autoscaler_follows_the_load_up_and_down() -> Result<()> {
    if !is_root() {
        return Ok(());
    }
    let cluster = Cluster::node(&[])?;
    let k = cluster.kubectl()?;
    k.apply(&worker())?;
    k.ok("rollout status deployment/work --timeout=60s")?;
    let pod = k.ok("get pod -l app=work -o jsonpath={.items[0].metadata.name}")?;
    k.ok(&format!("exec {pod} -- touch /tmp/load"))?;
    k.ok("autoscale deployment/work --cpu-percent=50 --min=1 --max=3")?;
    // Down at once, where the default would wait five minutes.
    let patch = r#"{"spec":{"behavior":{"scaleDown":{"stabilizationWindowSeconds":1}}}}"#;
    k.ok_args(&["patch", "hpa", "work", "--type=merge", "-p", patch], "")?;
    let replicas = |wanted: &str| {
        eventually(&format!("{wanted} replicas"), Duration::from_secs(80), || {
            let text = k.ok("get deployment work -o jsonpath={.status.readyReplicas}").map_err(|e| e.to_string())?;
            if text == wanted { Ok(()) } else { Err(format!("{text}: {:?}", k.ok("describe hpa work"))) }
        })
    };
    replicas("3")?;
    let shown = k.ok("get hpa work --no-headers")?;
    ensure!(shown.contains("%/50%"), "{shown}");
    k.ok(&format!("exec {pod} -- rm /tmp/load"))?;
    replicas("1")?;
    eprintln!("{}", k.ok("describe hpa work")?);
    Ok(())
}
