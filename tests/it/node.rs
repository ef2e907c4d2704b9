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

/// A pod gets more and less while it runs: what its containers see changes, and one restarts for it because it wants to. A
/// limit does not go below what is in use, and what no node has is refused.
#[test]
fn a_pod_is_resized_in_place() -> Result<()> {
    if !is_root() {
        return Ok(());
    }
    let cluster = Cluster::node(&[])?;
    let k = cluster.kubectl()?;
    let container = |name: &str, policy: &str, more: Value| {
        let mut container = json!({"name": name, "image": "orkd.local/busybox:latest",
            "imagePullPolicy": "IfNotPresent", "command": ["sleep", "3600"],
            "resizePolicy": [{"resourceName": "memory", "restartPolicy": policy}],
            "resources": {"requests": {"cpu": "200m", "memory": "32Mi"}, "limits": {"cpu": "300m", "memory": "64Mi"}}});
        container.as_object_mut().into_iter().for_each(|c| c.extend(more.as_object().cloned().unwrap_or_default()));
        container
    };
    let told = json!({"path": "cpu", "resourceFieldRef": {"containerName": "kept", "resource": "limits.cpu", "divisor": "1m"}});
    let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"}, "spec": {
        "terminationGracePeriodSeconds": 0, "volumes": [{"name": "told", "downwardAPI": {"items": [told]}}],
        "containers": [
            container("kept", "NotRequired", json!({"volumeMounts": [{"name": "told", "mountPath": "/told"}]})),
            container("anew", "RestartContainer", json!({}))]}});
    k.ok_args(&["create", "-f", "-"], &pod.to_string())?;
    let now = || -> Result<Value> { Ok(serde_json::from_str(&k.ok("get pod p -o json")?)?) };
    // Restarts and resources of a container, and the conditions of the resize with their reasons.
    let seen = |pod: &Value, name: &str| {
        let statuses = pod["status"]["containerStatuses"].as_array().into_iter().flatten();
        let status = statuses.into_iter().find(|c| c["name"] == name).cloned().unwrap_or_default();
        let limits = &status["resources"]["limits"];
        let conditions = pod["status"]["conditions"].as_array().into_iter().flatten();
        let resizing = conditions.filter(|c| c["type"].as_str().is_some_and(|t| t.starts_with("PodResize")));
        let resizing: Vec<String> = resizing.map(|c| format!(" {} {}", c["reason"], c["message"])).collect();
        let (restarts, cpu, memory) = (&status["restartCount"], &limits["cpu"], &limits["memory"]);
        format!("{restarts} {} {cpu} {memory}{}", status["ready"], resizing.concat())
    };
    let until = |name: &str, wanted: &dyn Fn(&str) -> bool| {
        eventually(&format!("what is wanted of {name}"), PATIENCE, || {
            let said = now().map(|pod| seen(&pod, name)).map_err(|e| e.to_string())?;
            if wanted(&said) { Ok(()) } else { Err(said) }
        })
        .map_err(|e| e.context(format!("{}\n{}", k.ok("describe pod p").unwrap_or_default(), cluster.log())))
    };
    let exactly = |name: &str, wanted: &str| until(name, &|said| said == wanted);
    let resize = |name: &str, resources: Value| {
        let patch = json!({"spec": {"containers": [{"name": name, "resources": resources}]}}).to_string();
        k.ok_args(&["patch", "pod", "p", "--subresource", "resize", "-p", &patch], "")
    };
    // What a container sees of its cgroup, in the words of either hierarchy.
    let cgroup = |name: &str| {
        let script = "cd /sys/fs/cgroup; cat memory.max cpu.max 2>/dev/null || \
                      cat memory/memory.limit_in_bytes cpu/cpu.cfs_quota_us cpu/cpu.cfs_period_us";
        let text = k.ok_args(&["exec", "p", "-c", name, "--", "sh", "-c", script], "")?;
        Ok::<_, anyhow::Error>(text.split_whitespace().collect::<Vec<_>>().join(" "))
    };
    exactly("kept", r#"0 true "300m" "64Mi""#)?;
    ensure!(cgroup("kept")? == "67108864 30000 100000", "{}", cgroup("kept")?);

    resize(
        "kept",
        json!({"requests": {"cpu": "250m", "memory": "48Mi"}, "limits": {"cpu": "400m", "memory": "96Mi"}}),
    )?;
    exactly("kept", r#"0 true "400m" "96Mi""#)?;
    ensure!(cgroup("kept")? == "100663296 40000 100000", "{}", cgroup("kept")?);
    eventually("the file follows", PATIENCE, || match k.ok("exec p -c kept -- cat /told/cpu") {
        Ok(said) if said.trim() == "400" => Ok(()),
        said => Err(format!("{said:?}")),
    })?;
    resize(
        "kept",
        json!({"requests": {"cpu": "100m", "memory": "16Mi"}, "limits": {"cpu": "200m", "memory": "32Mi"}}),
    )?;
    exactly("kept", r#"0 true "200m" "32Mi""#)?;
    ensure!(cgroup("kept")? == "33554432 20000 100000", "{}", cgroup("kept")?);

    resize("kept", json!({"requests": {"memory": "8Ki"}, "limits": {"memory": "8Ki"}}))?;
    until("kept", &|said| {
        said.starts_with(r#"0 true "200m" "32Mi" "Error" "cannot decrease memory limits: "#)
            && said.contains(r#"container \"kept\" memory limit (8192) below current usage ("#)
    })?;
    resize("kept", json!({"requests": {"memory": "16Mi"}, "limits": {"memory": "32Mi"}}))?;
    exactly("kept", r#"0 true "200m" "32Mi""#)?;

    resize("anew", json!({"limits": {"cpu": "400m"}}))?;
    exactly("anew", r#"0 true "400m" "64Mi""#)?;
    resize("anew", json!({"limits": {"memory": "80Mi"}}))?;
    exactly("anew", r#"1 true "400m" "80Mi""#)?;
    ensure!(cgroup("anew")? == "83886080 40000 100000", "{}", cgroup("anew")?);

    resize("anew", json!({"requests": {"cpu": "9000"}, "limits": {"cpu": "9000"}}))?;
    until("anew", &|said| {
        let text = r#""Infeasible" "Node didn't have enough capacity: cpu, requested: 9000100, capacity: "#;
        said.starts_with(&format!(r#"1 true "400m" "80Mi" {text}"#))
    })?;
    resize("anew", json!({"requests": {"cpu": "200m"}, "limits": {"cpu": "400m"}}))?;
    exactly("anew", r#"1 true "400m" "80Mi""#)?;
    exactly("kept", r#"0 true "200m" "32Mi""#)?;
    ensure!(now()?["status"]["qosClass"] == "Burstable");
    eventually("events tell of it", PATIENCE, || {
        let said = k.ok("get events -o jsonpath={.items[*].reason}").map_err(|e| e.to_string())?;
        let wanted = ["ResizeStarted", "ResizeCompleted", "ResizeError", "ResizeInfeasible"];
        if wanted.iter().all(|reason| said.contains(reason)) { Ok(()) } else { Err(said) }
    })?;
    Ok(())
}
