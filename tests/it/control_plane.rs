//! The control plane alone: `orkd server --disable-agent` and stock kubectl.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use orkd_tests::cluster::Cluster;
use orkd_tests::kubectl::{self, Kubectl};
use orkd_tests::{eventually, is_root};
use serde_json::Value;

const CONFIG_MAP: &str = "
apiVersion: v1
kind: ConfigMap
metadata:
  name: one
  labels: {app: tour}
data:
  colour: red
";

#[test]
fn kubectl_tour_of_the_api() -> Result<()> {
    if !is_root() {
        return Ok(());
    }
    let cluster = Cluster::control_plane(&[])?;
    for (i, binary) in kubectl::all().into_iter().enumerate() {
        let k = cluster.kubectl_of(binary);
        let ns = format!("tour-{i}");
        k.ok(&format!("create namespace {ns}"))?;
        k.ok(&format!("config set-context --current --namespace={ns}"))?;
        objects(&k)?;
        patches(&k)?;
        questions(&k)?;
        k.ok("config set-context --current --namespace=default")?;
        k.ok(&format!("delete namespace {ns} --timeout=60s"))?;
        ensure!(k.fails(&format!("get namespace {ns}"))?.contains("NotFound"));
    }
    Ok(())
}

fn objects(k: &Kubectl<'_>) -> Result<()> {
    assert_eq!(k.apply(CONFIG_MAP)?, "configmap/one created\n");
    assert_eq!(k.apply(CONFIG_MAP)?, "configmap/one unchanged\n");
    assert_eq!(k.apply(&CONFIG_MAP.replace("red", "blue"))?, "configmap/one configured\n");
    assert_eq!(k.ok("get cm one -o jsonpath={.data.colour}")?, "blue");
    assert_eq!(k.ok("get cm -l app=tour -o name")?, "configmap/one\n");
    assert_eq!(k.ok("get cm --field-selector metadata.name=one -o name")?, "configmap/one\n");
    let table = k.ok("get cm one")?;
    let mut lines = table.lines();
    assert_eq!(lines.next().map(|l| l.split_whitespace().collect::<Vec<_>>()), Some(vec!["NAME", "DATA", "AGE"]));
    assert_eq!(lines.next().map(|l| l.split_whitespace().take(2).collect::<Vec<_>>()), Some(vec!["one", "1"]));
    for form in ["yaml", "json", "wide", "name", "custom-columns=A:.metadata.name", "go-template={{.kind}}"] {
        ensure!(k.ok(&format!("get cm one -o {form}"))?.contains("one") || form.starts_with("go-template"));
    }
    let diff = k.run(&["diff", "-f", "-"], &CONFIG_MAP.replace("red", "green"))?;
    ensure!(diff.code == 1 && diff.stdout.contains("green"), "{diff:?}");

    let exists = k.fails("create configmap one")?;
    ensure!(exists.contains("configmaps \"one\" already exists"), "{exists}");
    let missing = k.fails("get cm missing")?;
    ensure!(missing.contains("configmaps \"missing\" not found"), "{missing}");

    k.ok("create secret generic s --from-literal=a=b")?;
    assert_eq!(k.ok("get secret s -o jsonpath={.data.a}")?, "Yg==");
    k.ok("create serviceaccount robot")?;
    let token = k.ok("create token robot")?;
    ensure!(token.split('.').count() == 3, "{token}");
    k.ok("create role reader --verb=get --resource=configmaps")?;
    k.ok("create rolebinding robot-reads --role=reader --serviceaccount=default:robot")?;
    k.ok("delete secret s --now")?;
    k.ok("delete cm one")?;
    Ok(())
}

fn patches(k: &Kubectl<'_>) -> Result<()> {
    k.ok("create deployment d --image=example.com/x:1 --replicas=2")?;
    assert_eq!(k.ok("scale deployment d --replicas=3")?, "deployment.apps/d scaled\n");
    assert_eq!(k.ok("get deployment d -o jsonpath={.spec.replicas}")?, "3");
    k.ok("set image deployment/d x=example.com/x:2")?;
    k.ok("label deployment d tier=web")?;
    k.ok("annotate deployment d note=hi")?;
    k.ok_args(&["patch", "deployment", "d", "--type=merge", "-p", r#"{"spec":{"paused":true}}"#], "")?;
    k.ok_args(&["patch", "deployment", "d", "--type=json", "-p", r#"[{"op":"remove","path":"/spec/paused"}]"#], "")?;
    let containers = r#"{"spec":{"template":{"spec":{"containers":[{"name":"x","env":[{"name":"A","value":"b"}]}]}}}}"#;
    k.ok_args(&["patch", "deployment", "d", "-p", containers], "")?;
    assert_eq!(k.ok("get deployment d -o jsonpath={.spec.template.spec.containers[0].image}")?, "example.com/x:2");

    // Server-side apply: another manager's field is a conflict, force takes it over.
    let mine = "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: d}\nspec: {replicas: 5}\n";
    let refused = k.run(&["apply", "--server-side", "--field-manager=me", "-f", "-"], mine)?;
    ensure!(refused.code != 0 && refused.stderr.contains("conflict"), "{refused:?}");
    k.ok_args(&["apply", "--server-side", "--field-manager=me", "--force-conflicts", "-f", "-"], mine)?;
    let managers = k.json("get deployment d --show-managed-fields")?;
    let names: Vec<&str> = managers["metadata"]["managedFields"]
        .as_array()
        .context("managed fields")?
        .iter()
        .filter_map(|m| m["manager"].as_str())
        .collect();
    ensure!(names.contains(&"me"), "{names:?}");

    eventually("a pod of each revision", Duration::from_secs(20), || {
        let sets = k.json("get rs").map_err(|e| e.to_string())?;
        let count = sets["items"].as_array().map_or(0, Vec::len);
        if count >= 2 { Ok(()) } else { Err(format!("{count} replica sets")) }
    })?;
    let history = k.ok("rollout history deployment/d")?;
    ensure!(history.contains("REVISION"), "{history}");
    k.ok("rollout undo deployment/d --to-revision=1")?;
    assert_eq!(k.ok("get deployment d -o jsonpath={.spec.template.spec.containers[0].image}")?, "example.com/x:1");
    k.ok("expose deployment d --port=80 --target-port=8080")?;
    ensure!(k.ok("get service d -o jsonpath={.spec.clusterIP}")?.starts_with("10.43."));
    let described = k.ok("describe deployment d")?;
    ensure!(described.contains("RollingUpdateStrategy"), "{described}");
    k.ok("delete deployment d --cascade=orphan")?;
    ensure!(!k.ok("get rs -o name")?.is_empty(), "orphans stay");
    k.ok("delete rs --all --cascade=foreground --timeout=60s")?;
    eventually("the pods to be collected", Duration::from_secs(30), || {
        let pods = k.ok("get pods -o name").map_err(|e| e.to_string())?;
        if pods.is_empty() { Ok(()) } else { Err(pods) }
    })
}

fn questions(k: &Kubectl<'_>) -> Result<()> {
    ensure!(k.ok("cluster-info")?.contains("is running at"));
    ensure!(k.ok("version")?.contains("v1.36"));
    let resources = k.ok("api-resources --verbs=list -o name")?;
    for resource in ["pods", "deployments.apps", "roles.rbac.authorization.k8s.io", "leases.coordination.k8s.io"] {
        ensure!(resources.lines().any(|l| l == resource), "{resource} is missing in {resources}");
    }
    let explained = k.ok("explain deployment.spec.template.spec.containers --recursive")?;
    ensure!(explained.contains("livenessProbe") && explained.contains("<[]Container>"), "{explained}");
    assert_eq!(k.ok("auth can-i create pods")?.trim(), "yes");
    let no = k.run(&["auth", "can-i", "list", "secrets", "--as=system:serviceaccount:default:default"], "")?;
    assert_eq!(no.stdout.trim(), "no");
    ensure!(k.ok("auth whoami")?.contains("orkd-admin"));
    let bad = k.run(&["apply", "-f", "-"], "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: x}\nspce: {}\n")?;
    ensure!(bad.code != 0 && bad.stderr.contains("unknown field \"spce\""), "{bad:?}");
    let metrics = k.fails("top nodes")?;
    // There is no node to tell of.
    ensure!(metrics.contains("metrics not available yet"), "{metrics}");
    Ok(())
}

/// Acknowledged writes survive `kill -9` at any moment; a revision is never given twice; a watch goes on or is told
/// that its place is gone.
#[test]
fn acknowledged_writes_survive_kills() -> Result<()> {
    if !is_root() {
        return Ok(());
    }
    let mut cluster = Cluster::control_plane(&[])?;
    let binary = kubectl::newest()?;
    let mut journal: BTreeMap<String, u64> = BTreeMap::new();
    let rounds = if std::env::var_os("ORKD_LONG").is_some() { 20 } else { 5 };
    for round in 0..rounds {
        // A row of creates in one process, each told on a line when it is acknowledged.
        let manifest: String = (0..200)
            .map(|i| format!("---\napiVersion: v1\nkind: ConfigMap\nmetadata: {{name: r{round}-{i}}}\n"))
            .collect();
        let path = cluster.machine.path("many.yaml");
        std::fs::write(&path, manifest)?;
        let file = path.display().to_string();
        let mut child = cluster
            .kubectl_of(binary.clone())
            .command(&["create", "-f", &file, "-o", "jsonpath={.metadata.name} {.metadata.resourceVersion}{\"\\n\"}"])
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()?;
        let mut lines = BufReader::new(child.stdout.take().context("piped")?).lines();
        let after = 5 + round * 13 % 90;
        for _ in 0..after {
            let Some(line) = lines.next() else { break };
            note(&mut journal, &line?)?;
        }
        cluster.kill()?;
        for line in lines {
            note(&mut journal, &line?)?;
        }
        let _ = child.wait();
        cluster.boot()?;
    }
    let list = cluster.kubectl()?.json("get cm")?;
    let stored: BTreeMap<&str, &Value> = list["items"]
        .as_array()
        .context("a list")?
        .iter()
        .filter_map(|o| Some((o["metadata"]["name"].as_str()?, &o["metadata"]["resourceVersion"])))
        .collect();
    for (name, revision) in &journal {
        let found = stored.get(name.as_str()).with_context(|| format!("{name} was acknowledged and is lost"))?;
        assert_eq!(found.as_str(), Some(revision.to_string().as_str()), "{name}");
    }
    let mut revisions: Vec<u64> = journal.values().copied().collect();
    revisions.sort_unstable();
    revisions.dedup();
    assert_eq!(revisions.len(), journal.len(), "a revision was given twice");
    ensure!(journal.len() >= rounds * 5, "only {} writes were acknowledged", journal.len());
    println!("{} acknowledged writes survived {rounds} kills", journal.len());
    Ok(())
}

fn note(journal: &mut BTreeMap<String, u64>, line: &str) -> Result<()> {
    // The line that was being written when the server died may be cut.
    let Some((name, revision)) = line.split_once(' ') else { return Ok(()) };
    let Ok(revision) = revision.parse() else { return Ok(()) };
    ensure!(journal.insert(name.to_owned(), revision).is_none(), "{name} was created twice");
    Ok(())
}

#[test]
fn unknown_keys_and_taken_ports_are_one_clear_line() -> Result<()> {
    if !is_root() {
        return Ok(());
    }
    let cluster = Cluster::control_plane(&[])?;
    let machine = &cluster.machine;
    let file = machine.path("config.yaml");
    std::fs::write(&file, "data-dri: /x\n")?;
    let out = machine.output(&orkd_tests::orkd(), &["server", "--config", &file.display().to_string()])?;
    let text = String::from_utf8_lossy(&out.stderr).into_owned();
    ensure!(!out.status.success() && text.lines().count() == 1, "{text}");
    ensure!(text.contains("unknown key \"data-dri\"") && text.contains("\"data-dir\""), "{text}");

    let dir = machine.path("other").display().to_string();
    let out = machine.output(&orkd_tests::orkd(), &["server", "--disable-agent", "--data-dir", &dir])?;
    let text = String::from_utf8_lossy(&out.stderr).into_owned();
    ensure!(!out.status.success() && text.contains("0.0.0.0:6443 is taken"), "{text}");
    Ok(())
}
