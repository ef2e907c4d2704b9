//! Pods that a real node ends itself: they write more than they may, or the node runs out of memory.

use std::time::Duration;

use anyhow::{Result, ensure};
use orkd_tests::cluster::Cluster;
use orkd_tests::kubectl::Kubectl;
use orkd_tests::{eventually, is_root};
use serde_json::{Value, json};

/// The kubelet looks every ten seconds, and the runtime measures layers as often.
const PATIENCE: Duration = Duration::from_secs(90);

fn create(k: &Kubectl<'_>, name: &str, script: &str, resources: Value, volume: Value) -> Result<()> {
    let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": {
        "terminationGracePeriodSeconds": 1,
        "volumes": [{"name": "scratch", "emptyDir": volume}],
        "containers": [{"name": "c", "image": "orkd.local/busybox:latest", "imagePullPolicy": "Never",
            "command": ["sh", "-c", format!("{script}; trap 'exit 0' TERM; while :; do sleep 1; done")],
            "resources": resources, "volumeMounts": [{"name": "scratch", "mountPath": "/scratch"}]}]}});
    k.ok_args(&["create", "-f", "-"], &pod.to_string()).map(drop)
}

/// Waits until a pod has been evicted; what it was told.
fn eviction(k: &Kubectl<'_>, pod: &str) -> Result<String> {
    let message = eventually(&format!("pod {pod} to be evicted"), PATIENCE, || {
        let status = k.json(&format!("get pod {pod}")).map_err(|e| e.to_string())?["status"].take();
        match (status["phase"].as_str(), status["reason"].as_str()) {
            (Some("Failed"), Some("Evicted")) => Ok(status["message"].as_str().unwrap_or_default().to_owned()),
            _ => Err(status.to_string()),
        }
    })?;
    let events = k.json(&format!("get events --field-selector involvedObject.name={pod},reason=Evicted"))?;
    ensure!(events["items"][0]["message"] == message.as_str(), "{events}");
    ensure!(events["items"][0]["type"] == "Warning", "{events}");
    Ok(message)
}

#[test]
fn pods_that_take_too_much_are_evicted() -> Result<()> {
    if !is_root() {
        return Ok(());
    }
    let mut cluster = Cluster::node(&[])?;
    let k = cluster.kubectl()?;
    let limit = json!({"limits": {"ephemeral-storage": "1Mi"}});
    create(&k, "modest", "echo x > /scratch/x; echo x > /x", limit.clone(), json!({"sizeLimit": "1Mi"}))?;
    let write = |path: &str| format!("dd if=/dev/zero of={path}/large bs=1M count=4");
    create(&k, "hoarder", &write("/scratch"), json!({}), json!({"sizeLimit": "1Mi"}))?;
    create(&k, "writer", &write(""), limit, json!({}))?;
    assert_eq!(eviction(&k, "hoarder")?, "Usage of EmptyDir volume \"scratch\" exceeds the limit \"1Mi\". ");
    assert_eq!(
        eviction(&k, "writer")?,
        "Pod ephemeral local storage usage exceeds the total limit of containers 1Mi. "
    );
    let phase = |pod: &str| k.ok(&format!("get pod {pod} -o jsonpath={{.status.phase}}"));
    assert_eq!(phase("modest")?, "Running");

    // With a threshold that no machine can hold, the last one has to go, and the node says why it takes no more.
    drop(k);
    cluster.stop()?;
    cluster.argue(&["--eviction-hard=memory.available<1Ei".to_owned()]);
    cluster.boot()?;
    let k = cluster.kubectl()?;
    let message = eviction(&k, "modest")?;
    let start = "The node was low on resource: memory. Threshold quantity: 1Ei, available: ";
    ensure!(message.starts_with(start), "{message}");
    eventually("the node to be under pressure", PATIENCE, || {
        let node = k.json("get node server").map_err(|e| e.to_string())?;
        let conditions = node["status"]["conditions"].as_array().cloned().unwrap_or_default();
        let is = conditions.iter().any(|c| c["type"] == "MemoryPressure" && c["status"] == "True");
        let taints = node["spec"]["taints"].as_array().cloned().unwrap_or_default();
        let tainted = taints.iter().any(|t| t["key"] == "node.kubernetes.io/memory-pressure");
        if is && tainted { Ok(()) } else { Err(format!("{conditions:?} {taints:?}")) }
    })?;
    let metrics = k.ok("get --raw /api/v1/nodes/server/proxy/metrics")?;
    ensure!(metrics.contains("kubelet_evictions{eviction_signal=\"memory.available\"} 1"), "{metrics}");
    Ok(())
}
