//! A second machine joins with a token, runs pods, and may do no more than a node may.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use orkd_tests::cluster::{Cluster, agent_args as agent, load_busybox};
use orkd_tests::kubectl::Kubectl;
use orkd_tests::machine::Machine;
use orkd_tests::{eventually, is_root, orkd};

/// What an agent says that cannot join.
fn refused(machine: &Machine, server: &str, token: &str) -> Result<String> {
    let args = agent(machine, server, token);
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let out = machine.output(&orkd(), &args)?;
    ensure!(!out.status.success(), "it joins with {token}");
    Ok(String::from_utf8_lossy(&out.stderr).into_owned())
}

#[test]
fn a_second_machine_joins_and_is_held_to_its_rights() -> Result<()> {
    if !is_root() {
        return Ok(());
    }
    let cluster = Cluster::control_plane(&[])?;
    let k = cluster.kubectl()?;
    let server = format!("https://{}:6443", cluster.machine.ip);
    let kubeconfig = cluster.kubeconfig().display().to_string();
    let token = cluster.token("1h")?;
    // What is printed to be run elsewhere names an address that is good elsewhere.
    let command = ["token", "create", "--print-join-command", "--kubeconfig", &kubeconfig];
    let command = String::from_utf8(cluster.machine.output(&orkd(), &command)?.stdout)?;
    ensure!(command.starts_with(&format!("sudo orkd agent --join {server} --token ")), "{command}");
    let worker = cluster.switch.machine("worker")?;

    // Bad tokens first: each is refused with what to do.
    let parts: Vec<&str> = token.split('.').collect();
    let [version, hash, id, _] = parts[..] else { anyhow::bail!("{token} is no join token") };
    let wrong = refused(&worker, &server, &format!("{version}.{hash}.{id}.0123456789abcdef"))?;
    ensure!(wrong.contains("does not accept the token"), "{wrong}");
    let foreign = refused(&worker, &server, &format!("{version}.{}.{id}.0123456789abcdef", "0".repeat(64)))?;
    ensure!(foreign.contains("is not the server this token was made on"), "{foreign}");
    let short = cluster.token("1s")?;
    let expired = eventually("the token to expire", Duration::from_secs(20), || {
        let listed = k.ok("get secrets -n kube-system -o json").map_err(|e| e.to_string())?;
        let id = short.split('.').nth(2).unwrap_or_default();
        // Expired tokens are removed by a controller, or refused while they are there.
        if listed.contains(&format!("bootstrap-token-{id}")) {
            std::thread::sleep(Duration::from_secs(1));
        }
        refused(&worker, &server, &short).map_err(|e| e.to_string())
    })?;
    ensure!(expired.contains("does not accept the token"), "{expired}");

    let mut process = worker.spawn(&orkd(), &agent(&worker, &server, &token), "agent.log")?;
    eventually("the second node to be Ready", Duration::from_secs(60), || {
        if process.has_ended() {
            return Err(process.tail(30));
        }
        let node = k.json("get node worker").map_err(|e| format!("{e}\n{}", process.tail(20)))?;
        let conditions = node["status"]["conditions"].as_array().cloned().unwrap_or_default();
        let ready = conditions.iter().any(|c| c["type"] == "Ready" && c["status"] == "True");
        if ready { Ok(()) } else { Err(format!("{conditions:?}\n{}", process.tail(20))) }
    })?;
    load_busybox(&worker)?;
    k.ok("create secret generic hidden --from-literal=a=b")?;
    k.ok("create secret generic used --from-literal=a=b")?;
    k.apply(
        "apiVersion: v1\nkind: Pod\nmetadata: {name: p}\nspec:\n  containers:\n  - name: c\n    image: \
         orkd.local/busybox:latest\n    imagePullPolicy: IfNotPresent\n    command: [sleep, '1000']\n    envFrom:\n    - \
         secretRef: {name: used}\n",
    )?;
    k.ok("wait --for=condition=Ready pod/p --timeout=60s").with_context(|| process.tail(30))?;
    assert_eq!(k.ok_args(&["exec", "p", "--", "sh", "-c", "echo $a"], "")?.trim(), "b");

    // The node's own credential.
    let credential = worker.path("data/agent/tls/kubelet.kubeconfig");
    let node = Kubectl { machine: &worker, binary: k.binary.clone(), kubeconfig: credential };
    ensure!(node.ok("get secret used -o name").is_ok(), "a secret that its pod uses");
    let hidden = node.fails("get secret hidden")?;
    ensure!(hidden.contains("Forbidden") && hidden.contains("hidden"), "{hidden}");
    ensure!(node.fails("get secrets")?.contains("forbidden"));
    k.apply("apiVersion: v1\nkind: Node\nmetadata: {name: other}\n")?;
    let patch = node.run(
        &["patch", "node", "other", "--subresource=status", "--type=merge", "-p", r#"{"status":{"phase":"x"}}"#],
        "",
    )?;
    ensure!(patch.code != 0 && patch.stderr.contains("orbidden"), "{patch:?}");

    // A restart needs no token.
    drop(process);
    let args: Vec<String> = agent(&worker, &server, "").into_iter().filter(|a| !a.starts_with("--token")).collect();
    let again = worker.spawn(&orkd(), &args, "agent2.log")?;
    let started = k.ok("get pod p -o jsonpath={.status.containerStatuses[0].state.running.startedAt}")?;
    eventually("the agent to run again", Duration::from_secs(30), || {
        let log = again.tail(50);
        if log.contains("the node runs") { Ok(()) } else { Err(log) }
    })?;
    assert_eq!(k.ok("get pod p -o jsonpath={.status.containerStatuses[0].state.running.startedAt}")?, started);
    assert_eq!(k.ok("get pod p -o jsonpath={.status.containerStatuses[0].restartCount}")?, "0");
    Ok(())
}
