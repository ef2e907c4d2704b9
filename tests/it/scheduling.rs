//! The scheduler against the API server, with nodes that are only said to be there.

use std::time::Duration;

use anyhow::{Result, ensure};
use orkd_tests::cluster::Cluster;
use orkd_tests::kubectl::Kubectl;
use orkd_tests::{eventually, is_root};
use serde_json::{Value, json};

const PATIENCE: Duration = Duration::from_secs(30);

fn node(name: &str, zone: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Node",
        "metadata": {"name": name, "labels": {"kubernetes.io/hostname": name, "zone": zone}},
        "status": {"allocatable": {"cpu": "2", "memory": "1Gi", "pods": "10"},
            "capacity": {"cpu": "2", "memory": "1Gi", "pods": "10"},
            "conditions": [{"type": "Ready", "status": "True", "reason": "Said", "message": ""}]}})
}

fn pod(name: &str, spec: Value) -> Value {
    let mut pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "labels": {"app": name}},
        "spec": {"terminationGracePeriodSeconds": 0, "containers": [{"name": "c", "image": "example.com/x:1"}]}});
    if let (Some(into), Some(from)) = (pod["spec"].as_object_mut(), spec.as_object()) {
        into.extend(from.clone());
    }
    pod
}

fn requests(cpu: &str) -> Value {
    json!([{"name": "c", "image": "example.com/x:1", "resources": {"requests": {"cpu": cpu}}}])
}

/// Waits until a pod has a node; which.
fn node_of(k: &Kubectl<'_>, pod: &str) -> Result<String> {
    let described = || k.ok(&format!("describe pod {pod}")).unwrap_or_default();
    let node = eventually("a node for the pod", PATIENCE, || {
        match k.ok(&format!("get pod {pod} -o jsonpath={{.spec.nodeName}}")) {
            Ok(node) if !node.is_empty() => Ok(node),
            Ok(_) => Err("none yet".into()),
            Err(e) => Err(e.to_string()),
        }
    });
    node.map_err(|e| e.context(described()))
}

/// Waits for the condition `PodScheduled` to be false for a reason; its message.
fn refusal(k: &Kubectl<'_>, pod: &str, reason: &str) -> Result<String> {
    eventually("a refusal of the pod", PATIENCE, || {
        let object = k.json(&format!("get pod {pod}")).map_err(|e| e.to_string())?;
        let conditions = object["status"]["conditions"].as_array().cloned().unwrap_or_default();
        let found = conditions.iter().find(|c| c["type"] == "PodScheduled" && c["status"] == "False");
        match found {
            Some(c) if c["reason"] == reason => Ok(c["message"].as_str().unwrap_or_default().to_owned()),
            _ => Err(format!("{conditions:?}")),
        }
    })
}

fn create(k: &Kubectl<'_>, object: &Value) -> Result<()> {
    k.ok_args(&["create", "-f", "-"], &object.to_string()).map(drop)
}

#[test]
fn pods_are_placed_as_upstream_places_them() -> Result<()> {
    if !is_root() {
        return Ok(());
    }
    let cluster = Cluster::control_plane(&["--disable-controller-manager"])?;
    let k = &cluster.kubectl()?;
    eventually("a service account", PATIENCE, || k.ok("create serviceaccount default").map_err(|e| e.to_string()))?;
    create(k, &pod("early", json!({})))?;
    assert_eq!(refusal(k, "early", "Unschedulable")?, "no nodes available to schedule pods");
    for (name, zone) in [("n1", "x"), ("n2", "x"), ("n3", "y")] {
        create(k, &node(name, zone))?;
        // What the node controller does for a node that is ready.
        k.ok(&format!("taint node {name} node.kubernetes.io/not-ready:NoSchedule-"))?;
    }
    node_of(k, "early")?;
    k.ok("delete pod early --wait=false")?;

    between_pods(k)?;
    gates(k)?;
    preemption(k)?;
    volumes(k)
}

fn between_pods(k: &Kubectl<'_>) -> Result<()> {
    let shy = json!({"affinity": {"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [
        {"topologyKey": "zone", "labelSelector": {"matchExpressions": [
            {"key": "app", "operator": "In", "values": ["shy1", "shy2", "shy3"]}]}}]}}});
    create(k, &pod("shy1", shy.clone()))?;
    create(k, &pod("shy2", shy.clone()))?;
    let (one, two) = (node_of(k, "shy1")?, node_of(k, "shy2")?);
    ensure!((one == "n3") != (two == "n3"), "one in each zone, not on {one} and {two}");
    create(k, &pod("shy3", shy))?;
    let message = refusal(k, "shy3", "Unschedulable")?;
    assert_eq!(
        message,
        "0/3 nodes are available: 3 node(s) didn't match pod anti-affinity rules. no new claims to deallocate, preemption: \
         0/3 nodes are available: 3 No preemption victims found for incoming pod."
    );
    let events = k.ok("get events --field-selector involvedObject.name=shy3,reason=FailedScheduling -o name")?;
    ensure!(!events.is_empty(), "no event");
    // A pod that goes makes room for the one that waits.
    k.ok(&format!("delete pod {} --wait=false", if one == "n3" { "shy1" } else { "shy2" }))?;
    assert_eq!(node_of(k, "shy3")?, "n3");
    k.ok("delete pods --all --wait=false")?;
    Ok(())
}

fn gates(k: &Kubectl<'_>) -> Result<()> {
    create(k, &pod("gated", json!({"schedulingGates": [{"name": "example.com/wait"}]})))?;
    refusal(k, "gated", "SchedulingGated")?;
    k.ok_args(&["patch", "pod", "gated", "--type=merge", "-p", r#"{"spec":{"schedulingGates":[]}}"#], "")?;
    node_of(k, "gated")?;
    k.ok("delete pod gated --wait=false")?;
    Ok(())
}

fn preemption(k: &Kubectl<'_>) -> Result<()> {
    let class = |name: &str, value: i64| {
        json!({"apiVersion": "scheduling.k8s.io/v1", "kind": "PriorityClass",
        "metadata": {"name": name}, "value": value})
    };
    create(k, &class("low", 10))?;
    create(k, &class("high", 1000))?;
    for name in ["low1", "low2", "low3"] {
        create(k, &pod(name, json!({"priorityClassName": "low", "containers": requests("1500m")})))?;
    }
    let before = ["low1", "low2", "low3"].map(|p| node_of(k, p));
    create(k, &pod("high", json!({"priorityClassName": "high", "containers": requests("1500m")})))?;
    let node = node_of(k, "high")?;
    let left = k.ok("get pods -o name")?;
    let gone: Vec<&str> = ["low1", "low2", "low3"].into_iter().filter(|p| !left.contains(p)).collect();
    let [victim] = gone[..] else { anyhow::bail!("one pod makes room, not {gone:?}") };
    let uid = k.ok("get pod high -o jsonpath={.metadata.uid}")?;
    let expected = format!("Preempted by pod {uid} on node {node}");
    eventually("the event of the victim", PATIENCE, || {
        let selector = format!("involvedObject.name={victim},reason=Preempted");
        let message = k.ok(&format!("get events --field-selector {selector} -o jsonpath={{.items[0].message}}"));
        let message = message.map_err(|e| e.to_string())?;
        if message == expected { Ok(()) } else { Err(message) }
    })?;
    let of_victim = &before[["low1", "low2", "low3"].iter().position(|p| *p == victim).unwrap_or(0)];
    assert_eq!(of_victim.as_ref().ok(), Some(&node));
    k.ok("delete pods --all --wait=false")?;
    Ok(())
}

fn volumes(k: &Kubectl<'_>) -> Result<()> {
    create(
        k,
        &json!({"apiVersion": "storage.k8s.io/v1", "kind": "StorageClass", "metadata": {"name": "local"},
        "provisioner": "kubernetes.io/no-provisioner", "volumeBindingMode": "WaitForFirstConsumer"}),
    )?;
    create(k, &pod("wants", json!({"volumes": [{"name": "v", "persistentVolumeClaim": {"claimName": "claim"}}]})))?;
    assert_eq!(
        refusal(k, "wants", "Unschedulable")?,
        "0/3 nodes are available: persistentvolumeclaim \"claim\" not found. no new claims to deallocate, preemption: 0/3 \
         nodes are available: 3 Preemption is not helpful for scheduling."
    );
    create(
        k,
        &json!({"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": "claim"}, "spec": {
        "storageClassName": "local", "accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}}),
    )?;
    let text = "3 node(s) didn't find available persistent volumes to bind";
    eventually("a refusal for want of a volume", PATIENCE, || match refusal(k, "wants", "Unschedulable") {
        Ok(message) if message.contains(text) => Ok(()),
        Ok(message) => Err(message),
        Err(e) => Err(e.to_string()),
    })?;
    create(
        k,
        &json!({"apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": "disk"}, "spec": {
        "storageClassName": "local", "accessModes": ["ReadWriteOnce"], "capacity": {"storage": "2Gi"},
        "local": {"path": "/disk"}, "nodeAffinity": {"required": {"nodeSelectorTerms": [{"matchExpressions": [
            {"key": "kubernetes.io/hostname", "operator": "In", "values": ["n2"]}]}]}}}}),
    )?;
    // What the volume controller does, which does not run here.
    let available = r#"{"status":{"phase":"Available"}}"#;
    k.ok_args(&["patch", "pv", "disk", "--subresource=status", "--type=merge", "-p", available], "")?;
    eventually("the volume to be promised to the claim", PATIENCE, || {
        match k.ok("get pv disk -o jsonpath={.spec.claimRef.name}") {
            Ok(name) if name == "claim" => Ok(()),
            Ok(name) => Err(name),
            Err(e) => Err(e.to_string()),
        }
    })?;
    ensure!(
        k.ok("get pod wants -o jsonpath={.spec.nodeName}")?.is_empty(),
        "the pod goes only when the claim is bound"
    );
    let bound =
        r#"{"metadata":{"annotations":{"pv.kubernetes.io/bind-completed":"yes"}},"spec":{"volumeName":"disk"}}"#;
    k.ok_args(&["patch", "pvc", "claim", "--type=merge", "-p", bound], "")?;
    assert_eq!(node_of(k, "wants")?, "n2");
    Ok(())
}
