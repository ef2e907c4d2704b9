//! Helm with the project's own chart (`tests/charts/orkd-tour`): 25 kinds and more, hooks, lookups, a test.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use orkd_tests::cluster::Cluster;
use orkd_tests::{eventually, is_root};
use serde_json::Value;

fn helm() -> Option<PathBuf> {
    let found = std::env::var_os("ORKD_TOOLS").map(|dir| PathBuf::from(dir).join("helm")).filter(|p| p.is_file());
    if found.is_none() {
        println!("skipped: no helm (tests/tools.sh fetches it)");
    }
    found
}

struct Helm<'a> {
    cluster: &'a Cluster,
    binary: PathBuf,
}

impl Helm<'_> {
    fn run(&self, line: &str) -> Result<(bool, String)> {
        let args: Vec<&str> = line.split_whitespace().collect();
        let mut command = self.cluster.machine.command(&self.binary);
        command.env("KUBECONFIG", self.cluster.kubeconfig()).env("HOME", self.cluster.machine.dir.path());
        let out = command.args(&args).output()?;
        let text = format!("{}{}", String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr));
        Ok((out.status.success(), text))
    }

    fn ok(&self, line: &str) -> Result<String> {
        let (ok, text) = self.run(line)?;
        ensure!(ok, "helm {line}: {text}\n{}", self.cluster.log());
        Ok(text)
    }

    fn json(&self, line: &str) -> Result<Value> {
        let text = self.ok(line)?;
        serde_json::from_str(&text).with_context(|| text)
    }
}

#[test]
fn helm_installs_upgrades_rolls_back_tests_and_removes() -> Result<()> {
    if !is_root() {
        return Ok(());
    }
    let Some(binary) = helm() else { return Ok(()) };
    let cluster = Cluster::node(&[])?;
    let helm = Helm { cluster: &cluster, binary };
    let k = cluster.kubectl()?;
    let chart = orkd_tests::root().join("tests/charts/orkd-tour").canonicalize()?;
    let chart = chart.display();

    let installed = helm.ok(&format!("install tour {chart} --create-namespace -n charts --wait --timeout 60s"))?;
    ensure!(installed.contains("STATUS: deployed") && installed.contains("hello from tour, revision 1"), "{installed}");
    ensure!(installed.contains("The API is at 10.43.0.1") && installed.contains("by Ingress"), "{installed}");
    let manifest = helm.ok("get manifest tour -n charts")?;
    let kinds: BTreeSet<&str> = manifest.lines().filter_map(|l| l.strip_prefix("kind: ")).collect();
    ensure!(kinds.len() >= 25, "{kinds:?}");
    let password = "get secret tour -n charts -o jsonpath={.data.password}";
    let first = k.ok(password)?;
    ensure!(first.len() > 20, "{first}");

    // The lookup keeps the password; the schema of the values is checked.
    helm.ok(&format!("upgrade tour {chart} -n charts --wait --timeout 60s --set greeting=hi,replicas=2"))?;
    assert_eq!(k.ok(password)?, first);
    assert_eq!(k.ok("get configmap tour -n charts -o jsonpath={.data.greeting}")?, "hi");
    assert_eq!(k.ok("get deployment tour -n charts -o jsonpath={.status.readyReplicas}")?, "2");
    let (ok, refused) = helm.run(&format!("upgrade tour {chart} -n charts --set replicas=-1"))?;
    ensure!(!ok && refused.contains("replicas"), "{refused}");

    // A hook that fails: the upgrade is undone where that is asked for, and left failed where it is not.
    let failing = format!("upgrade tour {chart} -n charts --timeout 60s --set failHook=true,greeting=never");
    let (ok, text) = helm.run(&format!("{failing} --atomic"))?;
    ensure!(!ok && text.contains("pre-upgrade hook"), "{text}");
    let statuses = |helm: &Helm<'_>| -> Result<Vec<String>> {
        let history = helm.json("history tour -n charts -o json")?;
        let all = history.as_array().context("a list")?;
        Ok(all.iter().map(|r| format!("{} {}", r["revision"], r["status"].as_str().unwrap_or_default())).collect())
    };
    assert_eq!(statuses(&helm)?, ["1 superseded", "2 superseded", "3 failed", "4 deployed"]);
    assert_eq!(k.ok("get configmap tour -n charts -o jsonpath={.data.greeting}")?, "hi");
    let (ok, _) = helm.run(&failing)?;
    ensure!(!ok);

    helm.ok("rollback tour 1 -n charts --wait --timeout 60s")?;
    assert_eq!(k.ok("get configmap tour -n charts -o jsonpath={.data.greeting}")?, "hello");
    let (ok, tested) = helm.run("test tour -n charts --timeout 60s")?;
    ensure!(
        ok,
        "{tested}{:?}{:?}",
        k.run(&["logs", "tour-test", "-n", "charts"], ""),
        k.ok("get pods,endpointslices -n charts -o wide")
    );
    ensure!(tested.contains("Phase:          Succeeded") || tested.contains("Succeeded"), "{tested}");
    let listed = helm.json("list -n charts -o json")?;
    ensure!(listed[0]["status"] == "deployed" && listed[0]["revision"] == "6", "{listed}");

    helm.ok("uninstall tour -n charts --wait --timeout 60s")?;
    for kind in ["deployment", "statefulset", "daemonset", "cronjob", "service", "ingress", "role", "lease"] {
        let left = k.ok(&format!("get {kind} -n charts -o name"))?;
        ensure!(left.is_empty(), "{left}");
    }
    for kind in ["clusterrole", "storageclass", "priorityclass", "ingressclass", "runtimeclass", "pv"] {
        let left = k.ok(&format!("get {kind} -o name"))?;
        ensure!(!left.contains("charts-tour"), "{left}");
    }
    // Helm leaves the hook that failed and the test.
    eventually("the pods to be gone", Duration::from_secs(30), || match k.ok("get pods -n charts -o name") {
        Ok(left) if left.lines().all(|l| l.ends_with("-test") || l.contains("-before-")) => Ok(()),
        other => Err(format!("{other:?}")),
    })
}
