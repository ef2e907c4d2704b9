//! The roles as separate processes over HTTPS, each with its own credential.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Result, ensure};
use orkd_pki::kubeconfig::Kubeconfig;
use orkd_pki::{Authority, Profile};
use orkd_tests::cluster::{Cluster, node_args};
use orkd_tests::kubectl::{self, Kubectl};
use orkd_tests::machine::Process;
use orkd_tests::{eventually, is_root};

/// Writes a kubeconfig for a user, signed by the cluster's authority.
fn credential(cluster: &Cluster, file: &str, user: &str, groups: &[&str]) -> Result<PathBuf> {
    let tls = cluster.machine.path("data/server/tls");
    let certificate = std::fs::read_to_string(tls.join("ca.crt"))?;
    let authority = Authority::from_pem(&certificate, &std::fs::read_to_string(tls.join("ca.key"))?)?;
    let now = k8s_openapi::jiff::Timestamp::now();
    let identity = authority.issue(&Profile::client(user, groups), now)?;
    let path = cluster.machine.path(file);
    Kubeconfig::for_identity("https://127.0.0.1:6443", &certificate, user, &identity).save(&path)?;
    Ok(path)
}

fn role(cluster: &Cluster, command: &str, kubeconfig: &std::path::Path, extra: &[String]) -> Result<Process> {
    let mut args = vec![command.to_owned(), format!("--kubeconfig={}", kubeconfig.display())];
    args.extend_from_slice(extra);
    cluster.machine.spawn(&orkd_tests::orkd(), &args, &format!("{command}.log"))
}

#[test]
fn roles_run_apart_each_with_its_credential() -> Result<()> {
    if !is_root() {
        return Ok(());
    }
    let cluster = Cluster::control_plane(&["--disable-controller-manager", "--disable-scheduler"])?;
    let manager = credential(&cluster, "manager.kubeconfig", "system:kube-controller-manager", &[])?;
    let scheduler = credential(&cluster, "scheduler.kubeconfig", "system:kube-scheduler", &[])?;
    let kubelet = credential(&cluster, "kubelet.kubeconfig", "system:node:server", &["system:nodes"])?;
    let k = cluster.kubectl()?;

    // With another role's credential nothing is done, and the log says why.
    let mut wrong = role(&cluster, "controller-manager", &scheduler, &[])?;
    eventually("a refusal in the log", Duration::from_secs(30), || {
        let log = wrong.tail(50);
        let refused = log.contains("User \\\"system:kube-scheduler\\\" cannot")
            || log.contains("User \"system:kube-scheduler\" cannot");
        if refused { Ok(()) } else { Err(log) }
    })?;
    if !wrong.has_ended() {
        wrong.signal(nix::sys::signal::Signal::SIGTERM);
        wrong.wait(Duration::from_secs(30))?;
    }
    let as_scheduler = Kubectl { machine: &cluster.machine, binary: kubectl::newest()?, kubeconfig: scheduler.clone() };
    let refused = as_scheduler.fails("create serviceaccount intruder")?;
    let text = "User \"system:kube-scheduler\" cannot create resource \"serviceaccounts\"";
    ensure!(refused.contains("is forbidden") && refused.contains(text), "{refused}");

    let tls = cluster.machine.path("data/server/tls");
    let signing = [
        format!("--cluster-signing-cert-file={}", tls.join("ca.crt").display()),
        format!("--cluster-signing-key-file={}", tls.join("ca.key").display()),
    ];
    let mut manager = role(&cluster, "controller-manager", &manager, &signing)?;
    let scheduler = role(&cluster, "scheduler", &scheduler, &[])?;
    let mut node = node_args(&cluster.machine);
    node.push("--hollow".into());
    let kubelet = role(&cluster, "kubelet", &kubelet, &node)?;
    let log = manager.log.clone();
    let logs = || {
        format!("{}\n{}\n{}", std::fs::read_to_string(&log).unwrap_or_default(), scheduler.tail(20), kubelet.tail(20))
    };
    cluster.wait_ready("server").map_err(|e| e.context(logs()))?;
    k.ok("create deployment d --image=example.com/x:1 --replicas=3")?;
    k.ok("rollout status deployment/d --timeout=60s").map_err(|e| e.context(logs()))?;
    let nodes = k.ok("get pods -o jsonpath={.items[*].spec.nodeName}")?;
    assert_eq!(nodes, "server server server");

    k.ok("create namespace short")?;
    k.ok("delete namespace short --timeout=60s").map_err(|e| e.context(logs()))?;

    // Each controller came with its own identity.
    let accounts = k.ok("get serviceaccounts -n kube-system -o name")?;
    for account in ["deployment-controller", "replicaset-controller", "namespace-controller"] {
        ensure!(accounts.contains(account), "{accounts}");
    }

    // One that is asked to end gives its lease up, and the next need not wait.
    manager.signal(nix::sys::signal::Signal::SIGTERM);
    let ended = manager.wait(Duration::from_secs(10))?;
    ensure!(ended.success(), "the controller manager ends with {ended}:\n{}", manager.tail(20));
    assert_eq!(k.ok("get lease kube-controller-manager -n kube-system -o jsonpath={.spec.holderIdentity}")?, "");
    Ok(())
}
