//! A real node: containerd, runc, the CNI plugins, iptables, and stock kubectl.

use std::time::Duration;

use anyhow::{Result, ensure};
use orkd_tests::cluster::Cluster;
use orkd_tests::{eventually, is_root};
use serde_json::{Value, json};

/// How long anything takes at most.
const PATIENCE: Duration = Duration::from_secs(90);

/// From an empty directory to an answer by address, node port and name.
#[test]
fn hello_answers_everywhere() -> Result<()> {
    if !is_root() {
        return Ok(());
    }
    let cluster = Cluster::node(&[])?;
    let k = cluster.kubectl()?;
    let hello = orkd_tests::root().join("examples/hello").display().to_string();
    k.ok(&format!("apply -f {hello}"))?;
    k.ok("rollout status deployment/hello --timeout=60s").map_err(|e| {
        let seen = k.ok("describe pods").unwrap_or_default();
        e.context(format!("{seen}\n{}", cluster.log()))
    })?;
    let ip = k.ok("get service hello -o jsonpath={.spec.clusterIP}")?;
    let port = k.ok("get service hello -o jsonpath={.spec.ports[0].nodePort}")?;
    let node_ip = cluster.machine.ip;
    for url in [format!("http://{ip}/"), format!("http://{node_ip}:{port}/"), format!("http://127.0.0.1:{port}/")] {
        let answer = eventually(&format!("an answer of {url}"), Duration::from_secs(20), || {
            cluster.machine.sh(&format!("curl -sf --max-time 2 {url}")).map_err(|e| e.to_string())
        })?;
        ensure!(answer.starts_with("hello from hello-"), "{answer}");
    }
    let answer = k.ok_args(
        &[
            "run",
            "client",
            "--rm",
            "-i",
            "--restart=Never",
            "--image=orkd.local/busybox:latest",
            "--image-pull-policy=IfNotPresent",
            "--",
            "wget",
            "-qO-",
            "http://hello.default.svc.cluster.local/",
        ],
        "",
    )?;
    ensure!(answer.contains("hello from hello-"), "{answer}");
    Ok(())
}

/// The steps of upstream's conformance tests of preemption and of a stateful set whose pod is refused: they put an extended
/// resource into the capacity of nodes, and send pods past the scheduler to a node whose port is taken.
#[test]
fn a_node_has_what_it_is_given_and_refuses_what_it_has_not() -> Result<()> {
    if !is_root() {
        return Ok(());
    }
    let cluster = Cluster::node(&[])?;
    let k = cluster.kubectl()?;
    let node = k.ok("get nodes -o jsonpath={.items[0].metadata.name}")?;
    let until = |what: &str, path: &str, wanted: &dyn Fn(&str) -> bool| {
        eventually(what, PATIENCE, || match k.ok(path) {
            Ok(said) if wanted(&said) => Ok(()),
            Ok(said) => Err(said),
            Err(error) => Err(error.to_string()),
        })
        .map_err(|e| e.context(k.ok("get pods,events -A").unwrap_or_default()))
    };
    let capacity = |amount: Value| {
        let patch = json!({"status": {"capacity": {"example.com/dongle": amount}}}).to_string();
        k.ok_args(&["patch", "node", &node, "--subresource=status", "--type=merge", "-p", &patch], "")
    };
    let allocatable = format!(r"get node {node} -o jsonpath={{.status.allocatable.example\.com/dongle}}");
    capacity("3".into())?;
    until("what can be allocated", &allocatable, &|said| said == "3")?;

    let pod = |name: &str, more: Value| {
        let mut pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": {
            "terminationGracePeriodSeconds": 1, "containers": [{"name": "c", "image": "orkd.local/busybox:latest",
                "imagePullPolicy": "IfNotPresent", "command": ["sleep", "3600"]}]}});
        for (key, value) in more.as_object().into_iter().flatten() {
            match key.as_str() {
                "ports" | "resources" => pod["spec"]["containers"][0][key] = value.clone(),
                _ => pod["spec"][key] = value.clone(),
            }
        }
        pod
    };
    let create = |object: &Value| k.ok_args(&["create", "-f", "-"], &object.to_string());
    let two = json!({"limits": {"example.com/dongle": "2"}});
    create(&pod("low", json!({"resources": two})))?;
    until("the first runs", "get pod low -o jsonpath={.status.phase}", &|said| said == "Running")?;
    create(&json!({"apiVersion": "scheduling.k8s.io/v1", "kind": "PriorityClass", "metadata": {"name": "high"},
        "value": 1000}))?;
    create(&pod("high", json!({"resources": two, "priorityClassName": "high"})))?;
    until("the second takes its place", "get pod high -o jsonpath={.status.phase}", &|said| said == "Running")?;
    until("the first is gone", "get pods -o name", &|said| !said.contains("pod/low"))?;
    capacity(Value::Null)?;
    until("nothing to allocate", &allocatable, &str::is_empty)?;

    let port = json!([{"containerPort": 21017, "hostPort": 21017}]);
    create(&pod("conflict", json!({"ports": port, "nodeName": node})))?;
    until("the port is taken", "get pod conflict -o jsonpath={.status.phase}", &|said| said == "Running")?;
    let mut template = pod("", json!({"ports": port, "nodeName": node}));
    template["metadata"] = json!({"labels": {"app": "set"}});
    create(&json!({"apiVersion": "apps/v1", "kind": "StatefulSet", "metadata": {"name": "set"}, "spec": {
        "selector": {"matchLabels": {"app": "set"}}, "template": {"metadata": template["metadata"],
            "spec": template["spec"]}}}))?;
    until("its pod is made again", "get events -o jsonpath={.items[*].reason}", &|said| {
        said.contains("NodePorts") && said.contains("SuccessfulDelete")
    })?;
    k.ok("delete pod conflict")?;
    until("its pod runs", "get pod set-0 -o jsonpath={.status.phase}", &|said| said == "Running")?;
    Ok(())
}
