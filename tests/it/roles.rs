//! The roles as separate processes over HTTPS, each with its own credential.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Result, ensure};
use orkd_pki::kubeconfig::Kubeconfig;
use orkd_pki::{Authority, Profile};
use orkd_tests::cluster::{Cluster, load_busybox, node_args};
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

const CLUSTER_DNS: &str = "10.43.0.10";

/// What a controller manager is told that signs for nodes, gives them their ranges and publishes their DNS.
fn manager_args(cluster: &Cluster) -> Vec<String> {
    let tls = cluster.machine.path("data/server/tls");
    vec![
        format!("--cluster-signing-cert-file={}", tls.join("ca.crt").display()),
        format!("--cluster-signing-key-file={}", tls.join("ca.key").display()),
        "--cluster-cidr=10.42.0.0/16".into(),
        format!("--cluster-dns={CLUSTER_DNS}"),
    ]
}

/// A whole cluster of processes that are one role each: the application answers by address, node port and name.
#[test]
fn a_node_of_separate_roles_serves() -> Result<()> {
    if !is_root() {
        return Ok(());
    }
    let cluster = Cluster::control_plane(&["--disable-controller-manager", "--disable-scheduler"])?;
    let (machine, ip) = (&cluster.machine, cluster.machine.ip);
    let mut kubelet = node_args(machine);
    kubelet.extend([format!("--cluster-dns={CLUSTER_DNS}"), "--node-labels=orkd.io/dns-port=10053".into()]);
    let proxy = [
        "--node-name=server".into(),
        format!("--node-ip={ip}"),
        "--dns".into(),
        format!("--cluster-dns={CLUSTER_DNS}"),
    ];
    let mut running = Vec::new();
    for (command, user, groups, args) in [
        ("controller-manager", "system:kube-controller-manager", &[][..], manager_args(&cluster)),
        ("scheduler", "system:kube-scheduler", &[], Vec::new()),
        ("kubelet", "system:node:server", &["system:nodes"], kubelet),
        ("proxy", "system:kube-proxy", &[], proxy.to_vec()),
    ] {
        let kubeconfig = credential(&cluster, &format!("{command}.kubeconfig"), user, groups)?;
        running.push(role(&cluster, command, &kubeconfig, &args)?);
    }
    let logs = || running.iter().map(|p| p.tail(20)).collect::<Vec<_>>().join("\n");
    cluster.wait_ready("server").map_err(|e| e.context(logs()))?;
    load_busybox(machine)?;
    let k = cluster.kubectl()?;
    k.ok(&format!("apply -f {}", orkd_tests::root().join("examples/hello").display()))?;
    k.ok("rollout status deployment/hello --timeout=60s").map_err(|e| e.context(logs()))?;
    let service = k.json("get service hello")?;
    let (address, port) =
        (service["spec"]["clusterIP"].as_str().unwrap_or_default(), &service["spec"]["ports"][0]["nodePort"]);
    for url in [format!("http://{address}/"), format!("http://{ip}:{port}/")] {
        let answer = eventually(&format!("an answer of {url}"), Duration::from_secs(20), || {
            machine.sh(&format!("curl -sf --max-time 2 {url}")).map_err(|e| e.to_string())
        })
        .map_err(|e| e.context(logs()))?;
        ensure!(answer.starts_with("hello from hello-"), "{answer}");
    }
    let pod = k.ok("get pods -l app=hello -o jsonpath={.items[0].metadata.name}")?;
    let by_name = eventually("an answer by name", Duration::from_secs(20), || {
        k.ok(&format!("exec {pod} -- timeout 5 wget -qO- http://hello.default.svc.cluster.local/"))
            .map_err(|e| e.to_string())
    })
    .map_err(|e| e.context(logs()))?;
    ensure!(by_name.starts_with("hello from hello-"), "{by_name}");

    // Endpoints that go leave the rules of the proxy.
    k.ok("scale deployment hello --replicas=0")?;
    k.ok("delete pods -l app=hello --now")?;
    eventually("the Service to refuse", Duration::from_secs(20), || {
        match machine.sh(&format!("curl -s --max-time 2 http://{address}/ || echo \"exit $?\"")) {
            Ok(text) if text.trim() == "exit 7" => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
}

/// Health of a role is for everyone, figures for those who may read them.
fn ports(cluster: &Cluster, k: &Kubectl<'_>) -> Result<()> {
    k.ok("create serviceaccount reader")?;
    k.ok("create clusterrole reads-figures --verb=get --non-resource-url=/metrics,/configz")?;
    k.ok("create clusterrolebinding reads-figures --clusterrole=reads-figures --serviceaccount=default:reader")?;
    let reader = k.ok("create token reader")?;
    let nobody = k.ok("create token default")?;
    let tls = cluster.machine.path("data/server/tls");
    let authority = Authority::from_pem(
        &std::fs::read_to_string(tls.join("ca.crt"))?,
        &std::fs::read_to_string(tls.join("ca.key"))?,
    )?;
    let admin = authority.issue(&Profile::client("root", &["system:masters"]), k8s_openapi::jiff::Timestamp::now())?;
    let (certificate, key) = (cluster.machine.path("root.crt"), cluster.machine.path("root.key"));
    std::fs::write(&certificate, admin.certificate.to_pem())?;
    std::fs::write(&key, admin.key.to_pem())?;
    let admin = format!("--cert {} --key {}", certificate.display(), key.display());
    for (port, metric, config) in [
        (10257, "workqueue_adds_total", "kubecontrollermanager.config.k8s.io"),
        (10259, "scheduler_", "componentconfig"),
    ] {
        let ask = |path: &str, who: &str| {
            let answer = format!("curl -sk -w '\\n%{{http_code}}' {who} https://127.0.0.1:{port}{path}");
            cluster.machine.sh(&answer)
        };
        let check = |path: &str, who: &str, code: &str, text: &str| {
            eventually(&format!("{code} from {port}{path}"), Duration::from_secs(60), || {
                let answer = ask(path, who).map_err(|e| e.to_string())?;
                let good = answer.trim_end().ends_with(code) && answer.contains(text);
                if good {
                    Ok(())
                } else {
                    Err(answer.chars().rev().take(300).collect::<String>().chars().rev().collect())
                }
            })
        };
        let bearer = |token: &str| format!("-H 'Authorization: Bearer {}'", token.trim());
        for path in ["/healthz", "/livez", "/readyz"] {
            check(path, "", "200", "ok")?;
        }
        check("/metrics", "", "403", "forbidden: User \\\"system:anonymous\\\" cannot get path")?;
        check("/metrics", &bearer("nonsense"), "401", "Unauthorized")?;
        check("/metrics", &bearer(&nobody), "403", "system:serviceaccount:default:default")?;
        check("/metrics", &bearer(&reader), "200", metric)?;
        check("/configz", &bearer(&reader), "200", config)?;
        check("/metrics", &admin, "200", metric)?;
    }
    Ok(())
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
    let stranger = credential(&cluster, "stranger.kubeconfig", "system:kube-proxy-of-nobody", &[])?;
    let mut hollow = node_args(&cluster.machine);
    hollow.push("--hollow".into());
    for (command, kubeconfig, user, args) in [
        ("controller-manager", &scheduler, "system:kube-scheduler", &[][..]),
        ("scheduler", &kubelet, "system:node:server", &[]),
        ("kubelet", &scheduler, "system:kube-scheduler", &hollow),
        ("proxy", &stranger, "system:kube-proxy-of-nobody", &[]),
    ] {
        let mut wrong = role(&cluster, command, kubeconfig, args)?;
        eventually(&format!("a refusal in the log of the {command}"), Duration::from_secs(30), || {
            let log = wrong.tail(50);
            // As text or within quotes.
            let refused = log.replace('\\', "").contains(&format!("User \"{user}\" cannot"));
            if refused { Ok(()) } else { Err(log) }
        })?;
        if !wrong.has_ended() {
            wrong.signal(nix::sys::signal::Signal::SIGTERM);
            wrong.wait(Duration::from_secs(30))?;
        }
        std::fs::remove_file(&wrong.log)?;
    }
    ensure!(k.ok("get nodes -o name")?.is_empty(), "a node was registered with the scheduler's credential");
    let as_scheduler = Kubectl { machine: &cluster.machine, binary: kubectl::newest()?, kubeconfig: scheduler.clone() };
    let refused = as_scheduler.fails("create serviceaccount intruder")?;
    let text = "User \"system:kube-scheduler\" cannot create resource \"serviceaccounts\"";
    ensure!(refused.contains("is forbidden") && refused.contains(text), "{refused}");

    let mut manager = role(&cluster, "controller-manager", &manager, &manager_args(&cluster))?;
    let scheduler = role(&cluster, "scheduler", &scheduler, &[])?;
    hollow.push("--node-labels=orkd.io/dns-port=10053".into());
    let kubelet = role(&cluster, "kubelet", &kubelet, &hollow)?;
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

    // The controllers publish the cluster DNS, for the nodes that say they have one.
    eventually("the node in the slice of the cluster DNS", Duration::from_secs(20), || {
        let address =
            k.ok("get service kube-dns -n kube-system -o jsonpath={.spec.clusterIP}").map_err(|e| e.to_string())?;
        let slice = k.json("get endpointslice kube-dns-10053 -n kube-system").map_err(|e| e.to_string())?;
        let endpoint = &slice["endpoints"][0];
        let good =
            address == CLUSTER_DNS && endpoint["nodeName"] == "server" && endpoint["conditions"]["ready"] == true;
        if good { Ok(()) } else { Err(format!("{address} {slice}")) }
    })
    .map_err(|e| e.context(logs()))?;
    let may = |what: &str| -> Result<String> {
        let line = format!("auth can-i {what} --as=system:serviceaccount:kube-system:dns-controller");
        Ok(k.run(&line.split(' ').collect::<Vec<_>>(), "")?.stdout.trim().to_owned())
    };
    for what in ["list nodes", "patch service/kube-dns -n kube-system", "create endpointslices -n kube-system"] {
        assert_eq!(may(what)?, "yes", "{what}");
    }
    for what in ["get secrets -n kube-system", "patch service/other -n kube-system", "create services", "patch nodes"] {
        assert_eq!(may(what)?, "no", "{what}");
    }

    ports(&cluster, &k).map_err(|e| e.context(logs()))?;

    // Each controller came with its own identity.
    let accounts = k.ok("get serviceaccounts -n kube-system -o name")?;
    for account in ["deployment-controller", "replicaset-controller", "namespace-controller", "dns-controller"] {
        ensure!(accounts.contains(account), "{accounts}");
    }

    // One that is asked to end gives its lease up, and the next need not wait.
    manager.signal(nix::sys::signal::Signal::SIGTERM);
    let ended = manager.wait(Duration::from_secs(10))?;
    ensure!(ended.success(), "the controller manager ends with {ended}:\n{}", manager.tail(20));
    assert_eq!(k.ok("get lease kube-controller-manager -n kube-system -o jsonpath={.spec.holderIdentity}")?, "");
    Ok(())
}
