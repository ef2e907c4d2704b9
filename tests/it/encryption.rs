//! Encryption at rest: what a running server writes to a real etcd and to its own store, and rotation while it runs.

use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use orkd_store::envelope::hash;
use orkd_tests::cluster::Cluster;
use orkd_tests::kubectl::Kubectl;
use orkd_tests::{eventually, is_root, replace};
use serde_json::{Value, json};

use crate::etcd::etcd;

// The service that the store's own tests have.
#[allow(dead_code, reason = "they use more of it")]
#[path = "../../crates/store/tests/it/fake_kms.rs"]
mod fake_kms;
use fake_kms::Knobs;

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

/// A key management service of the test's own, which can be ended and begun again.
struct Kms {
    knobs: Knobs,
    directory: PathBuf,
    runtime: Option<tokio::runtime::Runtime>,
}

impl Kms {
    fn new(directory: &Path) -> Self {
        Kms { knobs: Knobs::default(), directory: directory.to_owned(), runtime: None }
    }

    fn begin(&mut self) -> Result<()> {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
        runtime.block_on(async { fake_kms::serve_with(&self.directory, self.knobs.clone()) });
        self.runtime = Some(runtime);
        Ok(())
    }

    fn end(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }

    fn provider(&self) -> String {
        let socket = self.directory.join("kms.sock");
        format!("{{kms: {{apiVersion: v2, name: vault, timeout: 1s, endpoint: 'unix://{}'}}}}", socket.display())
    }
}

const RELOADS: &str = "apiserver_encryption_config_controller_automatic_reloads_total{";

/// Whether a series that has all these texts counts something.
fn counted(k: &Kubectl<'_>, texts: &[&str]) -> Result<(), String> {
    let metrics = told(k.ok("get --raw /metrics"))?;
    let found = metrics.lines().any(|l| !l.ends_with(" 0") && texts.iter().all(|t| l.contains(t)));
    if found { Ok(()) } else { Err(format!("nothing is counted of {texts:?}")) }
}

fn told(result: Result<String>) -> Result<String, String> {
    result.map_err(|e| e.to_string())
}

#[test]
fn a_key_management_service_encrypts_rotates_fails_and_comes_back() -> Result<()> {
    if !is_root() {
        return Ok(());
    }
    let directory = tempfile::tempdir()?;
    let mut kms = Kms::new(directory.path());
    kms.begin()?;
    let file = directory.path().join("encryption.yaml");
    std::fs::write(&file, configuration(&[&kms.provider(), "{identity: {}}"]))?;
    let mut cluster = Cluster::control_plane(&[&format!("--encryption-provider-config={}", file.display())])?;
    let password = |k: &Kubectl<'_>, name: &str| k.ok(&format!("get secret {name} -o jsonpath={{.data.password}}"));
    let encoded = STANDARD.encode("nobody-reads-this");
    {
        let k = cluster.kubectl()?;
        k.ok("create secret generic first --from-literal=password=nobody-reads-this")?;
        ensure!(password(&k, "first")? == encoded);
        for path in ["/readyz/kms-providers", "/healthz/kms-providers"] {
            ensure!(k.ok(&format!("get --raw {path}"))? == "ok", "{path}");
        }
        // A restart does not heal a service, so `livez` does not ask.
        ensure!(k.run(&["get", "--raw", "/livez/kms-providers"], "")?.code != 0);

        // The service has another key: what is written from now on has it, what stands is read.
        kms.knobs.key.store(3, Ordering::SeqCst);
        let probe = |n: u32| format!("create secret generic probe-{n} --from-literal=password=nobody-reads-this");
        let mut n = 0;
        eventually("the new key to be in use", Duration::from_secs(60), || {
            n += 1;
            told(k.ok(&probe(n)))?;
            counted(&k, &["apiserver_envelope_encryption_key_id_hash_total", "\"to_storage\"", &hash("key-3")])
        })?;
        ensure!(password(&k, "first")? == encoded && password(&k, "probe-1")? == encoded);
    }
    // What stands in the store, and a start that knows no seed yet.
    cluster.stop()?;
    let db = cluster.machine.path("data/server/db");
    let grep = |what: &str| cluster.machine.sh(&format!("grep -rlac '{what}' {} || true", db.display()));
    ensure!(!grep("k8s:enc:kms:v2:vault:")?.trim().is_empty(), "nothing encrypted in {}", db.display());
    let clear = grep(&encoded)?;
    ensure!(clear.trim().is_empty(), "in the clear: {clear}");
    let before = kms.knobs.decrypted.load(Ordering::SeqCst);
    cluster.boot()?;
    ensure!(kms.knobs.decrypted.load(Ordering::SeqCst) == before + 2, "each of two seeds is asked for once");
    {
        let k = cluster.kubectl()?;
        ensure!(password(&k, "first")? == encoded && password(&k, "probe-1")? == encoded);

        // Gone: reads go on, health tells, and a file that needs it is not taken over.
        kms.end();
        replace(&file, &configuration(&[&kms.provider().replace("vault", "other"), &kms.provider()]))?;
        eventually("the failure to be told", Duration::from_secs(60), || {
            counted(&k, &[RELOADS, "status=\"failure\""])?;
            let refused = k.run(&["get", "--raw", "/readyz/kms-providers"], "").map_err(|e| e.to_string())?;
            let said = refused.stderr.contains("kmsv2 Provider vault is not healthy");
            if refused.code != 0 && said { Ok(()) } else { Err(format!("{} {}", refused.stdout, refused.stderr)) }
        })?;
        ensure!(password(&k, "first")? == encoded);

        // Back: the file that waited for it is taken over by itself.
        kms.begin()?;
        eventually("the file to be taken over", Duration::from_secs(60), || {
            counted(&k, &[RELOADS, "status=\"success\""])
        })?;
        k.ok("create secret generic other --from-literal=password=nobody-reads-this")?;
        ensure!(password(&k, "first")? == encoded);
        ensure!(k.ok("get --raw /readyz/kms-providers")? == "ok");
    }
    cluster.stop()?;
    let found = cluster.machine.sh(&format!("grep -rlac 'k8s:enc:kms:v2:other:' {} || true", db.display()))?;
    ensure!(!found.trim().is_empty(), "the second service writes");

    // Without it what is stored cannot be read: the server says so and does not start.
    kms.end();
    cluster.launch()?;
    let mut process = cluster.server.take().context("it was started")?;
    eventually("the server to refuse to start", Duration::from_secs(90), || {
        if process.has_ended() { Ok(()) } else { Err("it runs".into()) }
    })?;
    let said = process.tail(20);
    ensure!(said.contains("failed to decrypt DEK, error: rpc error: code = Unavailable"), "{said}");
    Ok(())
}

#[test]
fn without_its_key_management_service_a_new_server_writes_no_secret_and_says_why() -> Result<()> {
    if !is_root() {
        return Ok(());
    }
    let directory = tempfile::tempdir()?;
    let mut kms = Kms::new(directory.path());
    let file = directory.path().join("encryption.yaml");
    std::fs::write(&file, configuration(&[&kms.provider(), "{identity: {}}"]))?;
    let mut cluster =
        Cluster::prepare(&["--disable-agent", &format!("--encryption-provider-config={}", file.display())])?;
    cluster.launch()?;
    let k = cluster.kubectl()?;
    eventually("the server to answer", Duration::from_secs(60), || told(k.ok("get namespace default")))?;
    let refused = k.run(&["create", "secret", "generic", "s", "--from-literal=a=b"], "")?;
    ensure!(
        refused.code != 0 && refused.stderr.contains("the KMS provider vault has not answered yet"),
        "{} {}",
        refused.stdout,
        refused.stderr
    );
    let ready = k.run(&["get", "--raw", "/readyz?verbose"], "")?;
    ensure!(ready.code != 0 && format!("{}{}", ready.stdout, ready.stderr).contains("[-]kms-providers failed"));
    k.ok("create configmap c --from-literal=a=b")?;
    kms.begin()?;
    eventually("the service to be found", Duration::from_secs(30), || {
        told(k.ok("create secret generic s --from-literal=a=b"))
    })?;
    ensure!(k.ok("get --raw /readyz/kms-providers")? == "ok");
    Ok(())
}
