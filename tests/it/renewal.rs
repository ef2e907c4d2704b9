//! Certificates that end soon are renewed, and used, without a restart of anything.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use k8s_openapi::jiff::Timestamp;
use orkd_pki::cert::Certificate;
use orkd_pki::kubeconfig::Kubeconfig;
use orkd_tests::client::{Client, Credential};
use orkd_tests::cluster::{Cluster, load_busybox, node_args};
use orkd_tests::{eventually, is_root, orkd};

/// How long certificates live here; a third before the end they are renewed.
const LIFE: &str = "60s";

/// The certificate a server shows.
async fn shown(kubeconfig: &Path, at: SocketAddr) -> Result<Certificate> {
    let stream = Credential::of(kubeconfig)?.at(at).connect(&[b"http/1.1"]).await?;
    let chain = stream.get_ref().1.peer_certificates().context("it shows none")?;
    Ok(Certificate::from_der(chain.first().context("it shows none")?)?)
}

/// What everybody shows at a moment.
struct Shown {
    server: Certificate,
    kubelet: Certificate,
    agent: Certificate,
    server_client: Certificate,
    admin: Certificate,
}

impl Shown {
    fn named(&self) -> [(&'static str, &Certificate); 5] {
        [
            ("the API server's", &self.server),
            ("the kubelet's on the server's machine", &self.kubelet),
            ("the agent's kubelet's", &self.agent),
            ("the agent's own", &self.server_client),
            ("the administrator's", &self.admin),
        ]
    }
}

fn read(path: &Path) -> Result<Certificate> {
    Ok(Certificate::from_pem(&std::fs::read_to_string(path)?)?)
}

fn look(cluster: &Cluster, client: PathBuf, agent: SocketAddr) -> Result<Shown> {
    let kubeconfig = cluster.kubeconfig();
    let own = SocketAddr::from((cluster.machine.ip, 10250));
    let admin = Kubeconfig::load(&kubeconfig)?.resolve()?.identity()?.context("a certificate")?.certificate;
    let server_client = read(&client)?;
    cluster.machine.inside(move || async move {
        Ok(Shown {
            server: shown(&kubeconfig, "127.0.0.1:6443".parse()?).await?,
            kubelet: shown(&kubeconfig, own).await?,
            agent: shown(&kubeconfig, agent).await?,
            server_client,
            admin,
        })
    })
}

#[test]
fn certificates_are_renewed_while_running() -> Result<()> {
    if !is_root() {
        return Ok(());
    }
    let cluster = Cluster::node(&[&format!("--cluster-signing-duration={LIFE}")])?;
    let worker = cluster.switch.machine("worker")?;
    let k = cluster.kubectl()?;
    let kubeconfig = cluster.kubeconfig().display().to_string();
    let token = cluster.machine.output(&orkd(), &["token", "create", "--kubeconfig", &kubeconfig])?;
    let token = String::from_utf8_lossy(&token.stdout).trim().to_owned();
    let server = format!("--join=https://{}:6443", cluster.machine.ip);
    let mut args = vec!["agent".to_owned(), server, format!("--token={token}")];
    args.extend(node_args(&worker));
    let mut agent = worker.spawn(&orkd(), &args, "agent.log")?;
    cluster.wait_ready("worker").with_context(|| agent.tail(30))?;
    load_busybox(&worker)?;
    for node in ["server", "worker"] {
        k.apply(&format!(
            "apiVersion: v1\nkind: Pod\nmetadata: {{name: on-{node}}}\nspec:\n  nodeName: {node}\n  containers:\n  - {{name: \
             c, image: 'orkd.local/busybox:latest', imagePullPolicy: IfNotPresent, command: [sleep, '1000']}}\n"
        ))?;
    }
    k.ok("wait --for=condition=Ready pod/on-server pod/on-worker --timeout=30s").with_context(|| agent.tail(30))?;

    let client = worker.path("data/agent/tls/client.crt");
    let agent_address = SocketAddr::from((worker.ip, 10250));
    let first = look(&cluster, client.clone(), agent_address)?;
    let ends = first.named().iter().map(|(_, c)| c.not_after).max().context("certificates")?;
    // All of them, and then on until the last of the first is long over.
    eventually("every certificate to be another", Duration::from_secs(90), || {
        let now = look(&cluster, client.clone(), agent_address).map_err(|e| format!("{e:#}"))?;
        let same: Vec<&str> = now
            .named()
            .iter()
            .zip(first.named())
            .filter(|((_, now), (_, then))| now.serial == then.serial)
            .map(|((name, _), _)| *name)
            .collect();
        if same.is_empty() && Timestamp::now() > ends { Ok(()) } else { Err(format!("the same: {same:?}")) }
    })
    .with_context(|| format!("{}\n{}", cluster.log(), agent.tail(30)))?;

    // With the first ones gone, both nodes report, and both kubelets are reached.
    let path = cluster.kubeconfig();
    cluster.machine.inside(move || async move {
        let client = Client::new(&path).await?;
        for node in ["server", "worker"] {
            let lease = format!("/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases/{node}");
            tokio::time::timeout(Duration::from_secs(30), async {
                loop {
                    let lease = client.get(&lease).await?;
                    let renewed: Timestamp = lease["spec"]["renewTime"].as_str().context("a time")?.parse()?;
                    if renewed > ends {
                        return Ok::<_, anyhow::Error>(());
                    }
                    tokio::time::sleep(Duration::from_millis(200)).await;
                }
            })
            .await
            .with_context(|| format!("{node} has not renewed its lease since {ends}"))??;
            let health = client.get(&format!("/api/v1/nodes/{node}/proxy/healthz")).await?;
            ensure!(health == "ok", "{health}");
        }
        Ok(())
    })?;
    for node in ["server", "worker"] {
        cluster.wait_ready(node)?;
        assert_eq!(k.ok(&format!("exec on-{node} -- echo hi"))?, "hi\n");
    }
    k.ok("delete pod on-worker --now")?;
    ensure!(!agent.has_ended(), "{}", agent.tail(30));
    assert_eq!(k.ok("get nodes -o jsonpath={.items[*].status.conditions[?(@.type=='Ready')].status}")?, "True True");
    Ok(())
}
