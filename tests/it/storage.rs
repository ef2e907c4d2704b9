//! Volumes on a real node: a stateful set keeps its data on the class that a fresh cluster has.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use orkd_tests::cluster::Cluster;
use orkd_tests::{eventually, is_root};
use serde_json::{Value, json};

/// One replica that counts its starts in a file, as another user than root.
const WORKLOAD: &str = r#"
apiVersion: v1
kind: Service
metadata: {name: db}
spec: {clusterIP: None, selector: {app: db}, ports: [{port: 80}]}
---
apiVersion: apps/v1
kind: StatefulSet
metadata: {name: db}
spec:
  replicas: 1
  serviceName: db
  selector: {matchLabels: {app: db}}
  template:
    metadata: {labels: {app: db}}
    spec:
      terminationGracePeriodSeconds: 0
      securityContext: {runAsUser: 1000, fsGroup: 2000}
      containers:
      - name: c
        image: orkd.local/busybox:latest
        imagePullPolicy: IfNotPresent
        command: [sh, -c, "echo started >> /data/log; echo deep > /sub/file; sleep 31337"]
        volumeMounts:
        - {name: data, mountPath: /data}
        - {name: data, mountPath: /sub, subPath: some/where}
  volumeClaimTemplates:
  - metadata: {name: data}
    spec: {accessModes: [ReadWriteOnce], resources: {requests: {storage: 1Mi}}}
"#;

#[test]
fn a_stateful_set_keeps_its_data() -> Result<()> {
    if !is_root() {
        return Ok(());
    }
    let mut cluster = Cluster::node(&[])?;
    let storage = cluster.machine.path("data").join("agent/storage");
    {
        let k = cluster.kubectl()?;
        eventually("the default class", Duration::from_secs(20), || {
            let classes = k.ok("get storageclass").map_err(|e| e.to_string())?;
            if classes.contains("orkd-local (default)") { Ok(()) } else { Err(classes) }
        })?;
        k.ok_args(&["apply", "-f", "-"], WORKLOAD)?;
        let started = |times: usize| {
            eventually(&format!("{times} starts"), Duration::from_secs(60), || {
                let log = k.ok("exec db-0 -- cat /data/log").map_err(|e| e.to_string())?;
                if log.lines().count() == times { Ok(()) } else { Err(log) }
            })
            .map_err(|e| {
                let seen = k.ok("describe pods,pvc,pv").unwrap_or_default();
                e.context(format!("{seen}\n{}", cluster.log()))
            })
        };
        started(1)?;
        let claim = k.ok("get pvc data-db-0 -o jsonpath={.status.phase}/{.spec.storageClassName}")?;
        ensure!(claim == "Bound/orkd-local", "{claim}");
        let mode = k.ok("exec db-0 -- stat -c %g:%a /data")?;
        ensure!(mode.trim().starts_with("2000:2"), "the volume belongs to the pod's group: {mode}");
        let deep = k.ok("exec db-0 -- cat /data/some/where/file")?;
        ensure!(deep.trim() == "deep", "{deep}");
        // Another pod of the name has the same data.
        k.ok("delete pod db-0")?;
        started(2)?;
    }
    // So has one after orkd was killed.
    cluster.kill()?;
    cluster.boot()?;
    let k = cluster.kubectl()?;
    eventually("the data after a restart", Duration::from_secs(60), || {
        let log = k.ok("exec db-0 -- cat /data/log").map_err(|e| e.to_string())?;
        if log.lines().count() >= 2 { Ok(()) } else { Err(log) }
    })?;
    let folders = std::fs::read_dir(&storage)?.count();
    ensure!(folders == 1, "{folders} folders");
    // Also a kubelet that did not mount the volume itself says how full it is.
    eventually("how full the volume is", Duration::from_secs(60), || {
        let metrics = k.ok("get --raw /api/v1/nodes/server/proxy/metrics").map_err(|e| e.to_string())?;
        let series = "kubelet_volume_stats_capacity_bytes{namespace=\"default\",persistentvolumeclaim=\"data-db-0\"}";
        let value = metrics.lines().find_map(|l| l.strip_prefix(series)?.trim().parse::<f64>().ok());
        if value.is_some_and(|bytes| bytes > 0.0) { Ok(()) } else { Err(metrics) }
    })?;
    let summary: Value = serde_json::from_str(&k.ok("get --raw /api/v1/nodes/server/proxy/stats/summary")?)?;
    let pods = summary["pods"].as_array().cloned().unwrap_or_default();
    let pod = pods.iter().find(|p| p["podRef"]["name"] == "db-0").context("the pod is measured")?;
    let volumes = pod["volume"].as_array().cloned().unwrap_or_default();
    let volume = volumes.iter().find(|v| v["name"] == "data").context("the volume is measured")?;
    assert_eq!(volume["pvcRef"], json!({"name": "data-db-0", "namespace": "default"}));
    ensure!(volume["usedBytes"].as_u64() > Some(0), "{volume}");
    // The claim goes, and with it volume and folder.
    k.ok("delete statefulset db")?;
    k.ok("delete pvc data-db-0 --wait=false")?;
    eventually("volume and folder go", Duration::from_secs(60), || {
        let volumes = k.ok("get pv,pvc -o name").map_err(|e| e.to_string())?;
        let folders = std::fs::read_dir(&storage).map_err(|e| e.to_string())?.count();
        if volumes.trim().is_empty() && folders == 0 { Ok(()) } else { Err(format!("{volumes}, {folders} folders")) }
    })
    .map_err(|e| e.context(cluster.log()))?;
    Ok(())
}
