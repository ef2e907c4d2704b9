//! Encryption at rest: what a running server writes to a real etcd and to its own store, and rotation while it runs.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use orkd_tests::cluster::Cluster;
use orkd_tests::{eventually, is_root};
use serde_json::{Value, json};

use crate::etcd::etcd;

const K1: &str = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";
const K2: &str = "//79/Pv6+fj39vX08/Lx8O/u7ezr6uno5+bl5OPi4eA=";

fn configuration(providers: &[&str]) -> String {
    format!(
        "apiVersion: apiserver.config.k8s.io/v1\nkind: EncryptionConfiguration\nresources:\n- resources: [secrets, \
         '*.apps']\n  providers: [{}]\n",
        providers.join(", ")
    )
}

fn keys(cipher: &str, list: &[(&str, &str)]) -> String {
    let list: Vec<String> = list.iter().map(|(n, k)| format!("{{name: {n}, secret: {k}}}")).collect();
    format!("{{{cipher}: {{keys: [{}]}}}}", list.join(", "))
}

/// Puts another file in the place of the old one, as editors do.
fn replace(file: &Path, text: &str) -> Result<()> {
    let new = file.with_extension("new");
    std::fs::write(&new, text)?;
    std::fs::rename(&new, file)?;
    Ok(())
}

#[test]
fn a_server_encrypts_what_it_writes_and_rotates_keys_while_it_runs() -> Result<()> {
    if !is_root() {
        return Ok(());
    }
    let directory = tempfile::tempdir()?;
    let file = directory.path().join("encryption.yaml");
    std::fs::write(&file, configuration(&[&keys("aescbc", &[("key1", K1)]), "{identity: {}}"]))?;
    let mut cluster = Cluster::prepare(&[
        "--disable-agent",
        "--datastore-endpoint=http://127.0.0.1:2379",
        &format!("--encryption-provider-config={}", file.display()),
    ])?;
    let Some(_etcd) = etcd(&cluster.machine)? else { return Ok(()) };
    cluster.boot()?;
    // The value in etcd, by its gateway.
    let raw = |cluster: &Cluster, key: &str| -> Result<Vec<u8>> {
        let request = json!({ "key": STANDARD.encode(key) });
        let out = cluster.machine.sh(&format!("curl -sf http://127.0.0.1:2379/v3/kv/range -d '{request}'"))?;
        let answer: Value = serde_json::from_str(&out)?;
        let value = answer["kvs"][0]["value"].as_str().with_context(|| format!("no {key} in {answer}"))?;
        Ok(STANDARD.decode(value)?)
    };
    let begins = |cluster: &Cluster, key: &str, prefix: &str| -> Result<()> {
        let value = raw(cluster, key)?;
        let shown = String::from_utf8_lossy(&value[..value.len().min(60)]).into_owned();
        ensure!(value.starts_with(prefix.as_bytes()), "{key} begins with {shown:?}, not with {prefix:?}");
        Ok(())
    };
    const SECRET: &str = "/registry/secrets/default/s";
    {
        let k = cluster.kubectl()?;
        k.ok("create secret generic s --from-literal=password=opensesame")?;
        k.ok("create configmap c --from-literal=colour=red")?;
        k.ok("create deployment d --image=example.com/x --replicas=0")?;
        begins(&cluster, SECRET, "k8s:enc:aescbc:v1:key1:")?;
        begins(&cluster, "/registry/deployments/default/d", "k8s:enc:aescbc:v1:key1:")?;
        begins(&cluster, "/registry/configmaps/default/c", "{")?;
        ensure!(k.ok("get secret s -o jsonpath={.data.password}")? == "b3BlbnNlc2FtZQ==");
        ensure!(k.ok("get --raw /readyz/kms-providers")? == "ok");

        // Another key, and another cipher, without a restart. A write that changes nothing carries it over.
        let second = keys("aesgcm", &[("key2", K2)]);
        replace(&file, &configuration(&[&second, &keys("aescbc", &[("key1", K1)]), "{identity: {}}"]))?;
        eventually("the new key to be in use", Duration::from_secs(20), || {
            k.ok("create secret generic probe --dry-run=client -o yaml").map_err(|e| e.to_string())?;
            let probe = "apiVersion: v1\nkind: Secret\nmetadata: {name: probe}\nstringData: {at: \"1\"}\n";
            k.apply(probe).map_err(|e| e.to_string())?;
            k.ok("get secret probe -o name").map_err(|e| e.to_string())?;
            let done = begins(&cluster, "/registry/secrets/default/probe", "k8s:enc:aesgcm:v1:key2:");
            k.ok("delete secret probe").map_err(|e| e.to_string())?;
            done.map_err(|e| e.to_string())
        })?;
        begins(&cluster, SECRET, "k8s:enc:aescbc:v1:key1:")?;
        let version = k.ok("get secret s -o jsonpath={.metadata.resourceVersion}")?;
        let all = k.ok("get secrets -o json")?;
        k.ok_args(&["replace", "-f", "-"], &all)?;
        begins(&cluster, SECRET, "k8s:enc:aesgcm:v1:key2:")?;
        ensure!(k.ok("get secret s -o jsonpath={.metadata.resourceVersion}")? != version, "it was written");
        let version = k.ok("get secret s -o jsonpath={.metadata.resourceVersion}")?;
        let all = k.ok("get secrets -o json")?;
        k.ok_args(&["replace", "-f", "-"], &all)?;
        ensure!(k.ok("get secret s -o jsonpath={.metadata.resourceVersion}")? == version, "once is enough");

        // A file that makes no sense changes nothing.
        replace(&file, "kind: Nonsense\n")?;
        k.ok("create secret generic t --from-literal=a=b")?;
        begins(&cluster, "/registry/secrets/default/t", "k8s:enc:aesgcm:v1:key2:")?;
    }
    // A restart with the new key alone: the deployment was not carried over, and the server says which key is missing.
    std::fs::write(&file, configuration(&[&keys("aesgcm", &[("key2", K2)])]))?;
    cluster.stop()?;
    cluster.launch()?;
    let mut process = cluster.server.take().context("it was started")?;
    eventually("the server to refuse to start", Duration::from_secs(30), || {
        if process.has_ended() { Ok(()) } else { Err("it runs".into()) }
    })?;
    let said = process.tail(20);
    ensure!(said.contains("/registry/deployments/") && said.contains("no matching prefix found"), "{said}");
    drop(process);
    std::fs::write(&file, configuration(&[&keys("aesgcm", &[("key2", K2)]), &keys("aescbc", &[("key1", K1)])]))?;
    cluster.boot()?;
    let k = cluster.kubectl()?;
    ensure!(k.ok("get secret s -o jsonpath={.data.password}")? == "b3BlbnNlc2FtZQ==");
    ensure!(k.ok("get deployment d -o name")? == "deployment.apps/d\n");
    Ok(())
}

#[test]
fn the_embedded_store_holds_no_secret_in_the_clear() -> Result<()> {
    if !is_root() {
        return Ok(());
    }
    let directory = tempfile::tempdir()?;
    let file = directory.path().join("encryption.yaml");
    std::fs::write(&file, configuration(&[&keys("secretbox", &[("key1", K1)]), "{identity: {}}"]))?;
    let mut cluster = Cluster::control_plane(&[&format!("--encryption-provider-config={}", file.display())])?;
    let marker = "bGllcyBpbiB0aGUgY2xlYXI";
    cluster.kubectl()?.ok(&format!("create secret generic s --from-literal=password={marker}"))?;
    cluster.kubectl()?.ok(&format!("create configmap c --from-literal=seen={marker}-config"))?;
    cluster.stop()?;
    let db = cluster.machine.path("data/server/db");
    let encoded = STANDARD.encode(marker);
    let found = cluster.machine.sh(&format!("grep -rlac 'k8s:enc:secretbox:v1:key1:' {} || true", db.display()))?;
    ensure!(!found.trim().is_empty(), "nothing encrypted in {}", db.display());
    let clear = cluster.machine.sh(&format!("grep -rla '{encoded}' {} || true", db.display()))?;
    ensure!(clear.trim().is_empty(), "in the clear: {clear}");
    cluster.boot()?;
    let k = cluster.kubectl()?;
    ensure!(k.ok("get secret s -o jsonpath={.data.password}")? == encoded);
    Ok(())
}
