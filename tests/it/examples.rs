//! Each folder of `examples/` is a page that is true: its commands are run as they stand on a real node with a stock
//! kubectl, print what the page shows, and leave nothing behind.

use std::collections::{BTreeMap, VecDeque};
use std::path::Path;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use orkd_tests::cluster::Cluster;
use orkd_tests::kubectl::{self, Kubectl};
use orkd_tests::session::{Session, steps};
use orkd_tests::{eventually, is_root, root};

/// How many examples run at the same time.
const WORKERS: usize = 5;

/// How long what an example leaves may take to go.
const PATIENCE: Duration = Duration::from_secs(60);

/// What each page says about the image, so that its example runs on any cluster.
const IMAGE: &str = "sed -i 's|orkd.local/busybox:latest|busybox:1.37|' *.yaml";

/// The folders of `examples/`; only those that `ORKD_EXAMPLES` names (separated by commas) if it is set.
fn folders() -> Result<Vec<String>> {
    let only = std::env::var("ORKD_EXAMPLES").ok();
    let mut found = Vec::new();
    for entry in std::fs::read_dir(root().join("examples"))? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if entry.path().is_dir() && only.as_deref().is_none_or(|o| o.split(',').any(|n| n == name)) {
            found.push(name);
        }
    }
    found.sort();
    Ok(found)
}

/// The page of an example.
fn page(folder: &str) -> Result<String> {
    let path = root().join("examples").join(folder).join("README.md");
    std::fs::read_to_string(&path).with_context(|| path.display().to_string())
}

#[test]
fn each_example_has_a_page_with_commands() -> Result<()> {
    let contents = std::fs::read_to_string(root().join("examples/README.md"))?;
    for folder in folders()? {
        let page = page(&folder)?;
        ensure!(contents.contains(&format!("]({folder})")), "examples/README.md does not name {folder}");
        ensure!(page.starts_with(&format!("# {folder}\n")), "{folder}: its page's title is not its name");
        let commands: Vec<String> = steps(&page).into_iter().map(|s| s.command).collect();
        let shown = steps(&page).iter().filter(|s| !s.shown.is_empty()).count();
        ensure!(shown >= 1, "{folder}: its page shows no output");
        ensure!(commands.iter().any(|c| c.starts_with("kubectl apply")), "{folder}: applies nothing");
        ensure!(commands.iter().any(|c| c.starts_with("kubectl delete -f .")), "{folder}: deletes nothing");
        let manifests = manifests(&root().join("examples").join(&folder))?;
        ensure!(!manifests.contains("namespace:"), "{folder}: works in one namespace only");
        if manifests.contains("orkd.local/busybox") {
            ensure!(page.contains(IMAGE), "{folder}: does not say how to use another image");
        }
    }
    Ok(())
}

/// All manifests of a folder.
fn manifests(folder: &Path) -> Result<String> {
    let mut text = String::new();
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        if path.extension().is_some_and(|e| e == "yaml") {
            text.push_str(&std::fs::read_to_string(path)?);
        }
    }
    Ok(text)
}

#[test]
fn each_example_does_what_its_page_shows() -> Result<()> {
    if !is_root() {
        return Ok(());
    }
    let cluster = Cluster::node(&[])?;
    // What examples keep on the node goes with the machine.
    cluster.machine.sh("mount -t tmpfs tmpfs /mnt")?;
    let binary = kubectl::newest()?;
    std::fs::create_dir(cluster.machine.path("bin"))?;
    std::os::unix::fs::symlink(&binary, cluster.machine.path("bin/kubectl"))?;

    let queue: Mutex<VecDeque<String>> = Mutex::new(folders()?.into());
    let failures: Mutex<Vec<String>> = Mutex::new(Vec::new());
    let take = || queue.lock().expect("no panic holds it").pop_front();
    std::thread::scope(|scope| {
        for _ in 0..WORKERS {
            scope.spawn(|| {
                while let Some(folder) = take() {
                    let began = Instant::now();
                    let outcome = example(&cluster, &folder);
                    println!("{folder}: {:.1} s", began.elapsed().as_secs_f64());
                    if let Err(error) = outcome {
                        let state = state(&cluster, &folder);
                        println!("{folder}: {error:#}\n{state}");
                        failures.lock().expect("no panic holds it").push(format!("{folder}: {error:#}"));
                    }
                }
            });
        }
    });
    let failures = failures.into_inner().expect("no panic holds it");
    ensure!(failures.is_empty(), "{}\n{}", failures.join("\n\n"), cluster.log());
    Ok(())
}

/// A kubectl with a configuration of its own, for it holds the current namespace.
fn kubectl_in<'a>(cluster: &'a Cluster, folder: &str) -> Result<Kubectl<'a>> {
    let kubeconfig = cluster.machine.path(&format!("{folder}.kubeconfig"));
    Ok(Kubectl { kubeconfig, ..cluster.kubectl()? })
}

/// Runs an example in a namespace of its own, and sees to it that nothing is left.
fn example(cluster: &Cluster, folder: &str) -> Result<()> {
    let k = kubectl_in(cluster, folder)?;
    std::fs::copy(cluster.kubeconfig(), &k.kubeconfig)?;
    k.ok(&format!("create namespace {folder}"))?;
    k.ok(&format!("config set-context --current --namespace={folder}"))?;
    let path = format!("{}:{}", cluster.machine.path("bin").display(), std::env::var("PATH")?);
    let environment = [
        ("PATH", path),
        ("KUBECONFIG", k.kubeconfig.display().to_string()),
        ("HOME", cluster.machine.dir.path().display().to_string()),
    ];
    let mut session = Session {
        machine: &cluster.machine,
        folder: root().join("examples").join(folder),
        environment: environment.map(|(name, value)| (name.to_owned(), value)).into_iter().collect::<BTreeMap<_, _>>(),
    };
    session.run(&page(folder)?)?;
    nothing_is_left(cluster, &k, folder)
}

/// Waits until a namespace holds only what each one has, no volume was made for it, and its containers are gone.
fn nothing_is_left(cluster: &Cluster, k: &Kubectl<'_>, namespace: &str) -> Result<()> {
    let kinds = k.ok("api-resources --namespaced --verbs=list,create -o name")?;
    let kinds: Vec<&str> = kinds.lines().filter(|kind| !kind.starts_with("events")).collect();
    let list = format!("get {} --ignore-not-found -o name", kinds.join(","));
    let socket = cluster.machine.path("data/run/containerd/containerd.sock");
    let containers = format!(
        "ctr --address {} -n k8s.io containers ls -q 'labels.\"io.kubernetes.pod.namespace\"=={namespace}'",
        socket.display()
    );
    let volumes =
        "get persistentvolumes -o jsonpath={range.items[*]}{.spec.claimRef.namespace}/{.metadata.name}{'\\n'}{end}";
    eventually("nothing is left", PATIENCE, || {
        let objects = k.ok(&list).map_err(|e| e.to_string())?;
        let own = ["configmap/kube-root-ca.crt", "serviceaccount/default"];
        let mut left: Vec<String> = objects.lines().filter(|l| !own.contains(l)).map(str::to_owned).collect();
        let volumes = k.ok(volumes).map_err(|e| e.to_string())?;
        left.extend(volumes.lines().filter(|l| l.starts_with(&format!("{namespace}/"))).map(str::to_owned));
        left.extend(cluster.machine.sh(&containers).map_err(|e| e.to_string())?.lines().map(str::to_owned));
        if left.is_empty() { Ok(()) } else { Err(left.join(" ")) }
    })?;
    k.ok(&format!("delete namespace {namespace} --timeout={}s", PATIENCE.as_secs()))?;
    Ok(())
}

/// What one would look at when an example does not do what it should.
fn state(cluster: &Cluster, folder: &str) -> String {
    let look = |line: &str| {
        let out = kubectl_in(cluster, folder).and_then(|k| k.run(&line.split(' ').collect::<Vec<_>>(), ""));
        out.map_or_else(|e| e.to_string(), |o| o.stdout + &o.stderr)
    };
    format!(
        "{}\n{}\n{}",
        look("get all,pvc -o wide"),
        look("get events --sort-by=.metadata.creationTimestamp"),
        look("describe pods")
    )
}
