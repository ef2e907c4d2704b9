//! Images from a real registry, through containerd's mirror configuration.

use std::path::Path;
use std::time::Duration;

use anyhow::{Result, ensure};
use orkd_tests::cluster::Cluster;
use orkd_tests::kubectl::Kubectl;
use orkd_tests::machine::{Machine, Process};
use orkd_tests::{eventually, is_root};

/// The registries that pods name; containerd's configuration sends them to servers of the test.
const OPEN: &str = "registry.example.com";
const GUARDED: &str = "private.example.com";
/// `puller` with the password `opensesame`.
const HTPASSWD: &str = "puller:$2y$05$abcdefghijklmnopqrstuuQbLfdQZSxZ9gjhA5V9o8Tyc6aQRO0Qi\n";

/// Starts Debian's registry; `None` (said on standard output) where it is not installed.
fn registry(machine: &Machine, name: &str, port: u16, guarded: bool) -> Result<Option<Process>> {
    let binary = Path::new("/usr/bin/docker-registry");
    if !binary.is_file() {
        println!("skipped: no docker-registry (apt-get install docker-registry)");
        return Ok(None);
    }
    let storage = machine.path(name).display().to_string();
    let mut config = format!(
        "version: 0.1\nstorage: {{filesystem: {{rootdirectory: {storage}}}}}\nhttp: {{addr: '127.0.0.1:{port}'}}\n"
    );
    if guarded {
        let file = machine.path("htpasswd");
        std::fs::write(&file, HTPASSWD)?;
        config.push_str(&format!("auth: {{htpasswd: {{realm: test, path: {}}}}}\n", file.display()));
    }
    let file = machine.path(&format!("{name}.yaml"));
    std::fs::write(&file, config)?;
    let log = format!("{name}.log");
    let mut process = machine.spawn(binary, &["serve".into(), file.display().to_string()], &log)?;
    eventually("the registry to answer", Duration::from_secs(20), || {
        if process.has_ended() {
            return Err(format!("docker-registry has ended:\n{}", process.tail(20)));
        }
        machine.sh(&format!("curl -s --max-time 2 http://127.0.0.1:{port}/v2/")).map_err(|e| e.to_string())
    })?;
    let hosts = machine.path("registries.d").join(if guarded { GUARDED } else { OPEN });
    std::fs::create_dir_all(&hosts)?;
    let url = format!("http://127.0.0.1:{port}");
    let text = format!("server = \"{url}\"\n[host.\"{url}\"]\n  capabilities = [\"pull\", \"resolve\"]\n");
    std::fs::write(hosts.join("hosts.toml"), text)?;
    Ok(Some(process))
}

/// Copies the test's image from containerd into a registry.
fn push(machine: &Machine, reference: &str, login: &str) -> Result<()> {
    let ctr = format!("ctr --address {} -n k8s.io", machine.path("data/run/containerd/containerd.sock").display());
    machine.sh(&format!("{ctr} images push --plain-http {login} {reference} orkd.local/busybox:latest"))?;
    Ok(())
}

fn pod(name: &str, image: &str, secret: &str) -> String {
    format!(
        "
apiVersion: v1
kind: Pod
metadata: {{name: {name}}}
spec:
  imagePullSecrets: [{secret}]
  containers:
  - {{name: c, image: '{image}', command: [sleep, '3600']}}
"
    )
}

fn running(cluster: &Cluster, k: &Kubectl<'_>, name: &str) -> Result<()> {
    k.ok(&format!("wait --for=condition=Ready pod/{name} --timeout=30s")).map(drop).map_err(|e| {
        let seen = k.ok(&format!("describe pod {name}")).unwrap_or_default();
        e.context(format!("{seen}\n{}", cluster.log()))
    })
}

/// Waits until the container waits with a reason; the message beside it.
fn waits(k: &Kubectl<'_>, name: &str, reason: &str) -> Result<String> {
    eventually(&format!("{name} to be in {reason}"), Duration::from_secs(40), || {
        let pod = k.json(&format!("get pod {name}")).map_err(|e| e.to_string())?;
        let waiting = &pod["status"]["containerStatuses"][0]["state"]["waiting"];
        if waiting["reason"] == reason {
            Ok(waiting["message"].as_str().unwrap_or_default().to_owned())
        } else {
            Err(pod["status"].to_string())
        }
    })
}

/// Waits for an event of a pod that starts with a text.
fn event(k: &Kubectl<'_>, name: &str, kind: &str, reason: &str, text: &str) -> Result<()> {
    let field = format!("get events --field-selector involvedObject.name={name}");
    eventually(&format!("{kind} {reason} {text:?}"), Duration::from_secs(40), || {
        let events = k.json(&field).map_err(|e| e.to_string())?;
        let seen: Vec<(&str, &str, &str)> = events["items"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(|e| Some((e["type"].as_str()?, e["reason"].as_str()?, e["message"].as_str()?)))
            .collect();
        let found = seen.iter().any(|(t, r, m)| *t == kind && *r == reason && m.starts_with(text));
        if found { Ok(()) } else { Err(format!("{seen:#?}")) }
    })
}

#[test]
fn images_come_from_a_registry() -> Result<()> {
    if !is_root() {
        return Ok(());
    }
    let cluster = Cluster::node(&[])?;
    let machine = &cluster.machine;
    let Some(_open) = registry(machine, "open", 5000, false)? else { return Ok(()) };
    let Some(_guarded) = registry(machine, "guarded", 5001, true)? else { return Ok(()) };
    push(machine, "127.0.0.1:5000/team/busybox:v1", "")?;
    push(machine, "127.0.0.1:5001/team/busybox:v1", "--user puller:opensesame")?;
    let k = cluster.kubectl()?;

    // By tag, through the mirror.
    let image = format!("{OPEN}/team/busybox:v1");
    k.apply(&pod("pulled", &image, ""))?;
    running(&cluster, &k, "pulled")?;
    event(&k, "pulled", "Normal", "Pulling", &format!("Pulling image \"{image}\""))?;
    event(&k, "pulled", "Normal", "Pulled", &format!("Successfully pulled image \"{image}\" in "))?;
    let status = k.json("get pod pulled")?["status"]["containerStatuses"][0].clone();
    let id = status["imageID"].as_str().unwrap_or_default();
    ensure!(id.starts_with(&format!("{OPEN}/team/busybox@sha256:")), "{status}");

    // By digest.
    k.apply(&pod("digest", id, ""))?;
    running(&cluster, &k, "digest")?;

    // What is not there: the error first, then the back-off that names it, and it comes once it is there.
    let missing = format!("{OPEN}/team/missing:v1");
    k.apply(&pod("missing", &missing, ""))?;
    let message = waits(&k, "missing", "ImagePullBackOff")?;
    let start = format!("Back-off pulling image \"{missing}\": ErrImagePull: ");
    ensure!(message.starts_with(&start) && message.contains("not found"), "{message}");
    event(&k, "missing", "Warning", "Failed", &format!("Failed to pull image \"{missing}\": "))?;
    event(&k, "missing", "Warning", "Failed", "Error: ErrImagePull")?;
    event(&k, "missing", "Normal", "BackOff", &format!("Back-off pulling image \"{missing}\""))?;
    event(&k, "missing", "Warning", "Failed", "Error: ImagePullBackOff")?;
    push(machine, "127.0.0.1:5000/team/missing:v1", "")?;
    running(&cluster, &k, "missing")?;

    // A registry that asks for a password: refused without, served with the pull secret.
    let image = format!("{GUARDED}/team/busybox:v1");
    k.apply(&pod("stranger", &image, ""))?;
    let message = waits(&k, "stranger", "ImagePullBackOff")?;
    ensure!(message.contains("authorization failed") || message.contains("401 Unauthorized"), "{message}");
    k.ok(&format!(
        "create secret docker-registry pull --docker-server={GUARDED} --docker-username=puller --docker-password=opensesame"
    ))?;
    k.apply(&pod("friend", &image, "{name: pull}"))?;
    running(&cluster, &k, "friend")
}
