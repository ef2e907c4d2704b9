//! The control plane on a real etcd instead of the embedded store.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use orkd_tests::cluster::Cluster;
use orkd_tests::machine::{Machine, Process};
use orkd_tests::{eventually, is_root};

const CONFIG_MAP: &str = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: one}\ndata: {colour: red}\n";

/// Starts Debian's etcd on a machine; `None` (said on standard output) where it is not installed.
pub(crate) fn etcd(machine: &Machine) -> Result<Option<Process>> {
    let binary = Path::new("/usr/bin/etcd");
    if !binary.is_file() {
        println!("skipped: no etcd (apt-get install etcd-server)");
        return Ok(None);
    }
    let args = [
        format!("--data-dir={}", machine.path("etcd").display()),
        "--listen-client-urls=http://127.0.0.1:2379".into(),
        "--advertise-client-urls=http://127.0.0.1:2379".into(),
        "--listen-peer-urls=http://127.0.0.1:2380".into(),
    ];
    let mut process = machine.spawn(binary, &args, "etcd.log")?;
    eventually("etcd to answer", Duration::from_secs(30), || {
        if process.has_ended() {
            return Err(format!("etcd has ended:\n{}", process.tail(20)));
        }
        machine.sh("curl -sf --max-time 2 http://127.0.0.1:2379/health").map_err(|e| e.to_string())
    })?;
    Ok(Some(process))
}

/// Create, get, watch, apply, delete, and a restart of the server, with nothing kept but what etcd has.
#[test]
fn control_plane_lives_on_etcd() -> Result<()> {
    if !is_root() {
        return Ok(());
    }
    let mut cluster = Cluster::prepare(&["--disable-agent", "--datastore-endpoint=http://127.0.0.1:2379"])?;
    let Some(mut etcd) = etcd(&cluster.machine)? else { return Ok(()) };
    cluster.boot()?;
    {
        let k = cluster.kubectl()?;
        let mut watch = k
            .command(&[
                "get",
                "configmap",
                "-w",
                "--output-watch-events",
                "-o",
                "jsonpath={.type} {.object.metadata.name}={.object.data.colour}{\"\\n\"}",
            ])
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()?;
        let lines = BufReader::new(watch.stdout.take().context("piped")?).lines();
        let (told, seen) = std::sync::mpsc::channel();
        // It ends with the watch, which ends with its machine.
        std::thread::spawn(move || lines.map_while(Result::ok).try_for_each(|line| told.send(line)).is_ok());
        // Every cluster has this one: once it is seen, the watch is open.
        let expect = |wanted: &str| -> Result<()> {
            loop {
                let line = seen.recv_timeout(Duration::from_secs(20)).with_context(|| format!("never saw {wanted}"))?;
                if line.starts_with(wanted) {
                    return Ok(());
                }
            }
        };
        expect("ADDED kube-root-ca.crt")?;
        assert_eq!(k.apply(CONFIG_MAP)?, "configmap/one created\n");
        expect("ADDED one=red")?;
        assert_eq!(k.apply(&CONFIG_MAP.replace("red", "blue"))?, "configmap/one configured\n");
        expect("MODIFIED one=blue")?;
        let server_side = ["apply", "--server-side", "--force-conflicts", "-f", "-"];
        k.ok_args(&server_side, &CONFIG_MAP.replace("red", "green"))?;
        expect("MODIFIED one=green")?;
        k.ok("create configmap gone")?;
        k.ok("delete configmap gone")?;
        expect("DELETED gone")?;
        watch.kill()?;
        watch.wait()?;

        k.ok("create deployment d --image=example.com/x:1 --replicas=2")?;
        pods(&cluster, 2)?;
        k.ok("create namespace short")?;
        k.ok("delete namespace short --timeout=60s")?;
    }
    let before = cluster.kubectl()?.json("get configmap one")?["metadata"].clone();

    cluster.stop()?;
    cluster.boot()?;
    let k = cluster.kubectl()?;
    let after = k.json("get configmap one")?;
    assert_eq!(after["metadata"], before);
    assert_eq!(after["data"]["colour"], "green");
    ensure!(k.fails("get configmap gone")?.contains("NotFound"));
    k.ok("scale deployment d --replicas=3")?;
    pods(&cluster, 3)?;
    ensure!(!cluster.machine.path("data/server/db").exists(), "the embedded store was made beside etcd");
    ensure!(!etcd.has_ended(), "etcd has ended:\n{}", etcd.tail(20));
    Ok(())
}

fn pods(cluster: &Cluster, count: usize) -> Result<()> {
    let k = cluster.kubectl()?;
    eventually(&format!("{count} pods"), Duration::from_secs(20), || {
        let pods = k.ok("get pods -o name").map_err(|e| e.to_string())?;
        if pods.lines().count() == count { Ok(()) } else { Err(format!("{pods}\n{}", cluster.log())) }
    })
}
