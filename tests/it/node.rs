//! A real node: containerd, runc, the CNI plugins, iptables, and stock kubectl.

use std::time::Duration;

use anyhow::{Result, ensure};
use orkd_tests::cluster::Cluster;
use orkd_tests::{eventually, is_root};

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
