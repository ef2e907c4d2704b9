//! The part of the kubectl tour that needs a node, with the oldest and the newest kubectl at hand.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use orkd_tests::cluster::Cluster;
use orkd_tests::kubectl::{self, Kubectl};
use orkd_tests::{eventually, is_root};

const IMAGE: &str = "orkd.local/busybox:latest";

pub(crate) fn pod(name: &str, script: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, labels: {{app: {name}}}}}\nspec:\n  \
         terminationGracePeriodSeconds: 1\n  containers:\n  - name: c\n    image: {IMAGE}\n    imagePullPolicy: \
         IfNotPresent\n    stdin: true\n    command: [sh, -c, {script:?}]\n"
    )
}

/// Runs a part of the tour with each kubectl, in a namespace of its own.
pub(crate) fn tour(what: impl Fn(&Cluster, &Kubectl<'_>) -> Result<()>) -> Result<()> {
    if !is_root() {
        return Ok(());
    }
    let cluster = Cluster::node(&[])?;
    for (i, binary) in kubectl::oldest_and_newest()?.into_iter().enumerate() {
        part(&cluster, &cluster.kubectl_of(binary), &format!("tour-{i}"), &what)?;
    }
    Ok(())
}

/// Runs a part of the tour with a kubectl, in a namespace of its own.
pub(crate) fn part(
    cluster: &Cluster,
    k: &Kubectl<'_>,
    namespace: &str,
    what: impl Fn(&Cluster, &Kubectl<'_>) -> Result<()>,
) -> Result<()> {
    k.ok(&format!("create namespace {namespace}"))?;
    k.ok(&format!("config set-context --current --namespace={namespace}"))?;
    what(cluster, k).with_context(|| format!("with {}", k.binary.display()))?;
    k.ok("config set-context --current --namespace=default")?;
    k.ok(&format!("delete namespace {namespace} --wait=false"))?;
    Ok(())
}

#[test]
fn a_tour_of_running_containers() -> Result<()> {
    tour(|cluster, k| {
        logs(k)?;
        exec(cluster, k)?;
        copy(cluster, k)?;
        forward(cluster, k)?;
        run(k)
    })
}

#[test]
fn a_tour_of_nodes_and_ends() -> Result<()> {
    tour(|_, k| {
        describe(k)?;
        rollout(k)?;
        ends(k)?;
        nodes(k)
    })
}

fn logs(k: &Kubectl<'_>) -> Result<()> {
    k.apply(&pod("log", "echo one; echo two; echo three; exec sleep 1000"))?;
    k.apply(&pod("again", "echo run $HOSTNAME; test -f /dev/termination-log && sleep 1; exit 4"))?;
    k.ok("wait --for=condition=Ready pod/log --timeout=30s")?;
    eventually("the log", Duration::from_secs(10), || match k.ok("logs log") {
        Ok(text) if text == "one\ntwo\nthree\n" => Ok(()),
        other => Err(format!("{other:?}")),
    })?;
    assert_eq!(k.ok("logs log --tail=1")?, "three\n");
    assert_eq!(k.ok("logs log --since=1h --tail=2")?, "two\nthree\n");
    assert_eq!(k.ok("logs log --since-time=2100-01-01T00:00:00Z")?, "");
    assert_eq!(k.ok("logs -l app=log --prefix --tail=1")?, "[pod/log/c] three\n");
    assert_eq!(k.ok("logs log --limit-bytes=5")?, "one\nt");
    let stamped = k.ok("logs log --timestamps --tail=1")?;
    let (time, text) = stamped.split_once(' ').context("a time")?;
    ensure!(text == "three\n" && time.len() >= 20 && time.contains('T'), "{stamped}");
    let unknown = k.fails("logs log -c nothing")?;
    ensure!(unknown.contains("container nothing is not valid for pod log"), "{unknown}");
    let previous = k.fails("logs log --previous")?;
    ensure!(previous.contains("previous terminated container \"c\" in pod \"log\" not found"), "{previous}");

    // Following ends with the container.
    k.apply(
        &pod("follow", "for i in 1 2 3; do echo $i; sleep 1; done").replace("spec:", "spec:\n  restartPolicy: Never"),
    )?;
    k.ok("wait --for=condition=PodScheduled pod/follow --timeout=10s")?;
    let followed = eventually("the container to start", Duration::from_secs(20), || {
        k.ok("logs -f follow").map_err(|e| e.to_string())
    })?;
    assert_eq!(followed, "1\n2\n3\n");
    k.ok("wait --for=jsonpath={.status.phase}=Succeeded pod/follow --timeout=20s")?;

    eventually("a log of the run before", Duration::from_secs(20), || match k.ok("logs again --previous") {
        Ok(text) if text == "run again\n" => Ok(()),
        other => Err(format!("{other:?}")),
    })
}

pub(crate) fn exec(cluster: &Cluster, k: &Kubectl<'_>) -> Result<()> {
    let out = k.run(&["exec", "log", "--", "sh", "-c", "echo out; echo err >&2; exit 7"], "")?;
    assert_eq!((out.stdout.as_str(), out.code), ("out\n", 7), "{out:?}");
    assert_eq!(out.stderr, "err\ncommand terminated with exit code 7\n");
    let piped = k.run(&["exec", "-i", "log", "--", "sh", "-c", "cat; echo end"], "a\nb\n")?;
    assert_eq!((piped.stdout.as_str(), piped.code), ("a\nb\nend\n", 0), "{piped:?}");
    assert_eq!(piped.stderr, "");
    let large = "0123456789abcde\n".repeat(40_000);
    let echoed = k.run(&["exec", "-i", "log", "--", "cat"], &large)?;
    ensure!(echoed.code == 0 && echoed.stdout == large, "{} {}", echoed.stdout.len(), echoed.stderr);
    let missing = k.run(&["exec", "log", "--", "no-such-program"], "")?;
    ensure!(missing.code != 0 && missing.stderr.contains("no-such-program"), "{missing:?}");

    // A terminal: both streams are one, and lines end as terminals end them.
    let (kubectl, config) = (k.binary.display(), k.kubeconfig.display());
    let terminal = cluster.machine.sh(&format!(
        "KUBECONFIG={config} script -qec '{kubectl} exec -it log -- sh -c \"test -t 0 && echo terminal; stty size\"' \
         /dev/null </dev/null"
    ))?;
    ensure!(terminal.contains("terminal\r\n"), "{terminal:?}");

    // Attached to a shell, which reads what is typed.
    k.apply(&pod("shell", "while read line; do echo got $line; done; sleep 1000"))?;
    k.ok("wait --for=condition=Ready pod/shell --timeout=30s")?;
    let mut child = k
        .command(&["attach", "-i", "shell"])
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::null())
        .spawn()?;
    let written = child.stdin.as_mut().context("piped").and_then(|s| Ok(std::io::Write::write_all(s, b"hi\n")?));
    let seen = eventually("the shell to answer", Duration::from_secs(10), || match k.ok("logs shell") {
        Ok(text) if text == "got hi\n" => Ok(()),
        other => Err(format!("{other:?}")),
    });
    let _ = child.kill();
    let _ = child.wait();
    written.and(seen)
}

pub(crate) fn copy(cluster: &Cluster, k: &Kubectl<'_>) -> Result<()> {
    let (to, back) = (cluster.machine.path("to"), cluster.machine.path("back"));
    std::fs::write(&to, "x".repeat(300_000))?;
    k.ok(&format!("cp {} log:/tmp/copy", to.display()))?;
    assert_eq!(k.ok("exec log -- wc -c /tmp/copy")?.trim(), "300000 /tmp/copy");
    k.ok(&format!("cp log:/tmp/copy {}", back.display()))?;
    ensure!(std::fs::read(&to)? == std::fs::read(&back)?, "the copy differs");
    Ok(())
}

pub(crate) fn forward(cluster: &Cluster, k: &Kubectl<'_>) -> Result<()> {
    k.apply(&pod("www", "echo forwarded > /tmp/index.html; exec httpd -f -p 8080 -h /tmp"))?;
    k.ok("wait --for=condition=Ready pod/www --timeout=30s")?;
    let mut child = k
        .command(&["port-forward", "pod/www", "18080:8080"])
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::null())
        .spawn()?;
    let answers = eventually("an answer through the tunnel", Duration::from_secs(10), || {
        // Twice: a second connection in the same tunnel.
        cluster.machine.sh("curl -sf --max-time 2 127.0.0.1:18080/ http://127.0.0.1:18080/").map_err(|e| e.to_string())
    });
    let _ = child.kill();
    let _ = child.wait();
    // The child was nsenter; kubectl itself is ended by its command line, inside the machine.
    let _ = cluster
        .machine
        .sh("for d in /proc/[0-9]*; do grep -qs [p]ort-forward $d/cmdline && kill ${d#/proc/}; done; true");
    assert_eq!(answers?, "forwarded\nforwarded\n");
    Ok(())
}

fn run(k: &Kubectl<'_>) -> Result<()> {
    let image = format!("--image={IMAGE}");
    let base = ["run", "once", "--rm", "-i", "--restart=Never", "--image-pull-policy=IfNotPresent", &image, "--"];
    let out = k.run(&[&base[..], &["sh", "-c", "cat; exit 5"]].concat(), "typed\n")?;
    ensure!(out.stdout.contains("typed\n") && out.code == 5, "{out:?}");
    ensure!(k.fails("get pod once")?.contains("pods \"once\" not found"));
    Ok(())
}

fn describe(k: &Kubectl<'_>) -> Result<()> {
    k.apply(&pod("shown", "exec sleep 1000"))?;
    k.ok("wait --for=condition=Ready pod/shown --timeout=30s")?;
    let text = eventually("the pod's events", Duration::from_secs(10), || {
        let text = k.ok("describe pod shown").map_err(|e| e.to_string())?;
        if text.contains("Started") { Ok(text) } else { Err(text) }
    })?;
    for part in ["Running", "QoS Class:", "BestEffort", "Successfully assigned tour-", "/shown to server", "Created"] {
        ensure!(text.contains(part), "{part}: {text}");
    }
    let text = k.ok("describe node server")?;
    for line in [
        "KubeletReady",
        "Container Runtime Version:",
        "containerd://",
        "Allocated resources:",
        "shown",
        "node-controller",
    ] {
        ensure!(text.contains(line), "{line}: {text}");
    }
    let wide = k.ok("get pods -o wide")?;
    ensure!(wide.contains("server") && wide.contains("1/1"), "{wide}");
    let top = k.ok("top node")?;
    ensure!(top.lines().nth(1).is_some_and(|l| l.starts_with("server ")), "{top}");
    Ok(())
}

fn rollout(k: &Kubectl<'_>) -> Result<()> {
    k.apply(&format!(
        "apiVersion: apps/v1\nkind: Deployment\nmetadata: {{name: d}}\nspec:\n  replicas: 2\n  selector: {{matchLabels: \
         {{app: d}}}}\n  template:\n    metadata: {{labels: {{app: d}}}}\n    spec:\n      terminationGracePeriodSeconds: \
         1\n      containers:\n      - {{name: c, image: \"{IMAGE}\", imagePullPolicy: IfNotPresent, command: [sleep, \
         '1000']}}\n"
    ))?;
    let done = "deployment \"d\" successfully rolled out";
    ensure!(k.ok("rollout status deployment/d --timeout=30s")?.contains(done));
    assert_eq!(k.ok("set env deployment/d A=b")?, "deployment.apps/d env updated\n");
    ensure!(k.ok("rollout status deployment/d --timeout=30s")?.contains(done));
    // The pod that kubectl chooses may be an old one on its way out.
    eventually("the new variable", Duration::from_secs(10), || match k.ok("exec deployment/d -- env") {
        Ok(text) if text.lines().any(|l| l == "A=b") => Ok(()),
        other => Err(format!("{other:?}")),
    })?;
    assert_eq!(k.ok("rollout undo deployment/d")?, "deployment.apps/d rolled back\n");
    ensure!(k.ok("rollout status deployment/d --timeout=30s")?.contains(done));
    assert_eq!(k.ok("wait --for=condition=Available deployment/d --timeout=20s")?, "deployment.apps/d condition met\n");
    Ok(())
}

fn ends(k: &Kubectl<'_>) -> Result<()> {
    for name in ["now", "force"] {
        k.apply(&pod(name, "trap : TERM; while :; do sleep 1000; done").replace("Seconds: 1", "Seconds: 600"))?;
        k.ok(&format!("wait --for=condition=Ready pod/{name} --timeout=30s"))?;
    }
    let now = k.ok("delete pod now --now")?;
    ensure!(now.starts_with("pod \"now\" deleted"), "{now}");
    let force = k.run(&["delete", "pod", "force", "--force", "--grace-period=0"], "")?;
    ensure!(force.code == 0 && force.stderr.contains("Immediate deletion does not wait"), "{force:?}");
    ensure!(force.stdout.starts_with("pod \"force\" force deleted"), "{force:?}");
    ensure!(k.fails("get pod now")?.contains("not found"));
    Ok(())
}

fn nodes(k: &Kubectl<'_>) -> Result<()> {
    // The server gives its node the role; kubelets may not do that themselves.
    eventually("the role of the node", Duration::from_secs(20), || {
        let nodes = k.ok("get nodes --no-headers").map_err(|e| e.to_string())?;
        if nodes.split_whitespace().nth(2) == Some("control-plane") { Ok(()) } else { Err(nodes) }
    })?;
    ensure!(k.ok("get node server -o jsonpath={.spec.taints}")?.is_empty());
    assert_eq!(k.ok("label node server tour=yes")?, "node/server labeled\n");
    assert_eq!(k.ok("annotate node server tour=yes")?, "node/server annotated\n");
    ensure!(k.ok("get nodes -l tour=yes -o name")?.contains("node/server"));
    assert_eq!(k.ok("label node server tour-")?, "node/server unlabeled\n");
    assert_eq!(k.ok("annotate node server tour-")?, "node/server annotated\n");

    assert_eq!(k.ok("taint node server tour=yes:NoSchedule")?, "node/server tainted\n");
    k.apply(&pod("waits", "exec sleep 1000"))?;
    k.ok("wait --for=condition=PodScheduled=false pod/waits --timeout=10s")?;
    let message = k.ok("get pod waits -o jsonpath={.status.conditions[?(@.type=='PodScheduled')].message}")?;
    ensure!(message.contains("1 node(s) had untolerated taint(s)"), "{message}");
    assert_eq!(k.ok("taint node server tour:NoSchedule-")?, "node/server untainted\n");
    k.ok("wait --for=condition=Ready pod/waits --timeout=30s")?;

    assert_eq!(k.ok("cordon server")?, "node/server cordoned\n");
    ensure!(k.ok("get node server")?.contains("Ready,SchedulingDisabled"));
    assert_eq!(k.ok("cordon server")?, "node/server already cordoned\n");
    let refused = k.fails("drain server --ignore-daemonsets")?;
    ensure!(refused.contains("cannot delete"), "{refused}");
    let drained = k.ok("drain server --ignore-daemonsets --force --delete-emptydir-data --timeout=120s")?;
    ensure!(drained.contains("pod/waits evicted") && drained.contains("node/server drained"), "{drained}");
    ensure!(k.fails("get pod waits")?.contains("not found"));
    assert_eq!(k.ok("uncordon server")?, "node/server uncordoned\n");
    Ok(())
}
