//! What needs a terminal or an editor, and remote commands of clients that speak SPDY.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Result, ensure};
use orkd_tests::cluster::Cluster;
use orkd_tests::is_root;
use orkd_tests::kubectl::{self, Kubectl};
use orkd_tests::terminal::Terminal;

use crate::tour;

/// Tells the size of its terminal for each line it reads, and ends with 6.
const SIZES: &str = "while read line; do test \"$line\" = end && exit 6; stty size; done";

fn script(path: &Path, text: &str) -> Result<()> {
    std::fs::write(path, format!("#!/bin/sh\n{text}\n"))?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755))?;
    Ok(())
}

/// The kubectl given, with WebSockets turned off.
fn over_spdy(cluster: &Cluster, kubectl: &Path, i: usize) -> Result<PathBuf> {
    let path = cluster.machine.path(&format!("kubectl-spdy-{i}"));
    let off = "export KUBECTL_REMOTE_COMMAND_WEBSOCKETS=false KUBECTL_PORT_FORWARD_WEBSOCKETS=false";
    script(&path, &format!("{off}\nexec {} \"$@\"", kubectl.display()))?;
    Ok(path)
}

#[test]
fn a_tour_of_editors_and_terminals() -> Result<()> {
    tour::tour(|cluster, k| {
        edit(cluster, k)?;
        k.apply(&tour::pod("log", "echo one; exec sleep 1000"))?;
        terminals(k)
    })
}

#[test]
fn a_tour_over_spdy() -> Result<()> {
    if !is_root() {
        return Ok(());
    }
    let cluster = Cluster::node(&[])?;
    for (i, binary) in kubectl::oldest_and_newest()?.into_iter().enumerate() {
        let spdy = over_spdy(&cluster, &binary, i)?;
        tour::part(&cluster, &cluster.kubectl_of(spdy), &format!("spdy-{i}"), |cluster, k| {
            k.apply(&tour::pod("log", "echo one; exec sleep 1000"))?;
            k.ok("wait --for=condition=Ready pod/log --timeout=30s")?;
            let spoken = k.run(&["exec", "-v=9", "log", "--", "true"], "")?;
            let told = spoken.stderr.to_ascii_lowercase();
            ensure!(spoken.code == 0 && told.contains("x-stream-protocol-version"), "{spoken:?}");
            ensure!(!told.contains("sec-websocket"), "{spoken:?}");
            tour::exec(cluster, k)?;
            tour::copy(cluster, k)?;
            tour::forward(cluster, k)?;
            terminals(k)
        })?;
    }
    Ok(())
}

fn edit(cluster: &Cluster, k: &Kubectl<'_>) -> Result<()> {
    k.ok("create configmap edited --from-literal=colour=red")?;
    let editor = cluster.machine.path("editor");
    let edit = |change: &str, args: &[&str]| -> Result<(String, i32)> {
        script(&editor, change)?;
        let out = k.command(&[&["edit"], args].concat()).env("KUBE_EDITOR", &editor).output()?;
        let text = [out.stdout, out.stderr].concat();
        Ok((String::from_utf8_lossy(&text).into_owned(), out.status.code().unwrap_or(-1)))
    };
    let (said, code) = edit("sed -i 's/colour: red/colour: blue/' \"$1\"", &["configmap", "edited"])?;
    assert_eq!((said.as_str(), code), ("configmap/edited edited\n", 0));
    assert_eq!(k.ok("get configmap edited -o jsonpath={.data.colour}")?, "blue");
    let (said, code) = edit("true", &["configmap", "edited"])?;
    assert_eq!((said.as_str(), code), ("Edit cancelled, no changes made.\n", 0));
    // What the server refuses is shown in the editor again; unchanged, it is given up and kept in a file.
    let (said, code) = edit("sed -i 's/colour: blue/colour: [blue]/' \"$1\"", &["configmap", "edited"])?;
    ensure!(code != 0 && said.contains("configmaps \"edited\" was not valid") || said.contains("error:"), "{said}");
    assert_eq!(k.ok("get configmap edited -o jsonpath={.data.colour}")?, "blue");

    k.ok("create deployment edited --image=example.com/x:1 --replicas=0")?;
    let change = "sed -i 's/revisionHistoryLimit: 10/revisionHistoryLimit: 4/' \"$1\"";
    let (said, code) = edit(change, &["deployment", "edited", "-o", "json"])?;
    ensure!(code == 0 && said.contains("no changes made"), "JSON has quotes: {said}");
    let (said, code) = edit(change, &["deployment", "edited"])?;
    assert_eq!((said.as_str(), code), ("deployment.apps/edited edited\n", 0));
    assert_eq!(k.ok("get deployment edited -o jsonpath={.spec.revisionHistoryLimit}")?, "4");
    Ok(())
}

fn terminals(k: &Kubectl<'_>) -> Result<()> {
    k.apply(&tour::pod("screen", SIZES).replace("stdin: true", "stdin: true\n    tty: true"))?;
    k.ok("wait --for=condition=Ready pod/log pod/screen --timeout=30s")?;
    for args in [&["exec", "-it", "log", "--", "sh", "-c", SIZES][..], &["attach", "-it", "screen"]] {
        let mut terminal = Terminal::start(&k.command(args), 24, 80)?;
        terminal.ask_until("\r", "24 80")?;
        terminal.resize(50, 132)?;
        terminal.ask_until("\r", "50 132")?;
        // What is typed is echoed by the terminal in the container, and lines end as terminals end them.
        terminal.write("end\r")?;
        if args[0] == "exec" {
            let shown = terminal.shown();
            ensure!(shown.contains("\r\n"), "{shown:?}");
            assert_eq!(terminal.end()?, 6);
        } else {
            // The container has ended, and with it the session.
            let code = terminal.end()?;
            ensure!(code == 0 || code == 6, "attach exits with {code}");
            k.ok("wait --for=jsonpath={.status.containerStatuses[0].restartCount}=1 pod/screen --timeout=30s")?;
        }
    }
    Ok(())
}
