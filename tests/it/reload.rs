//! Who may come in, changed while the server runs: structured authentication and authorization, authorities of clients.

use std::time::Duration;

use anyhow::{Result, ensure};
use orkd_pki::{Authority, Profile};
use orkd_tests::cluster::Cluster;
use orkd_tests::{eventually, is_root, replace};

const GROUP: &str = "apiVersion: apiserver.config.k8s.io/v1";

fn authorization(first: &str) -> String {
    format!(
        "{GROUP}\nkind: AuthorizationConfiguration\nauthorizers: [{first}{{type: Node, name: node}}, {{type: RBAC, name: rbac}}]\n"
    )
}

#[test]
fn files_of_access_are_taken_over_while_the_server_runs() -> Result<()> {
    if !is_root() {
        return Ok(());
    }
    let directory = tempfile::tempdir()?;
    let path = |name: &str| directory.path().join(name);
    let now = jiff::Timestamp::now();
    let (old, new) = (Authority::create("old", now)?, Authority::create("new", now)?);
    let ann = new.issue(&Profile::client("ann", &[]), now)?;
    std::fs::write(path("ann.pem"), format!("{}{}", ann.certificate.to_pem(), ann.key.to_pem()))?;
    std::fs::write(path("clients.pem"), old.certificate().to_pem())?;
    std::fs::write(path("authn.yaml"), format!("{GROUP}\nkind: AuthenticationConfiguration\n"))?;
    std::fs::write(path("authz.yaml"), authorization(""))?;
    let cluster = Cluster::control_plane(&[
        &format!("--client-ca-file={}", path("clients.pem").display()),
        &format!("--authentication-config={}", path("authn.yaml").display()),
        &format!("--authorization-config={}", path("authz.yaml").display()),
    ])?;
    let k = cluster.kubectl()?;
    let ask = |what: &str| -> Result<String, String> {
        let line = format!("curl -ks -o /dev/null -w '%{{http_code}}' https://127.0.0.1:6443{what}");
        cluster.machine.sh(&line).map_err(|e| e.to_string())
    };
    let pods = format!("/api/v1/pods --cert {}", path("ann.pem").display());
    let becomes = |what: &str, expected: &str| {
        eventually(&format!("{expected} for {what}"), Duration::from_secs(30), || {
            let code = ask(what)?;
            if code == expected { Ok(()) } else { Err(code) }
        })
    };
    let reloads = |what: &str, status: &str, expected: u32| {
        let name = format!("apiserver_{what}_config_controller_automatic_reloads_total{{");
        eventually(&format!("{expected} times {status} of {what}"), Duration::from_secs(30), || {
            let metrics = k.ok("get --raw /metrics").map_err(|e| e.to_string())?;
            let line = metrics.lines().find(|l| l.starts_with(&name) && l.contains(&format!("status=\"{status}\"")));
            match line {
                Some(line) if line.ends_with(&format!(" {expected}")) => Ok(()),
                other => Err(format!("{other:?}")),
            }
        })
    };

    // Authorities of clients.
    becomes(&pods, "401")?;
    replace(&path("clients.pem"), &new.certificate().to_pem())?;
    becomes(&pods, "403")?;
    replace(&path("clients.pem"), "no certificate at all")?;
    eventually("the refusal to be told", Duration::from_secs(30), || {
        let log = cluster.log();
        let told = log.lines().any(|l| l.contains("is not taken over") && l.contains("clients.pem"));
        if told { Ok(()) } else { Err(log) }
    })?;
    ensure!(ask(&pods).is_ok_and(|code| code == "403"), "the authority in force stays");
    eventually("clients to be told whom the server trusts", Duration::from_secs(30), || {
        let map =
            k.json("get configmap extension-apiserver-authentication -n kube-system").map_err(|e| e.to_string())?;
        let told = map["data"]["client-ca-file"].as_str().unwrap_or_default();
        if told.contains(new.certificate().to_pem().trim()) { Ok(()) } else { Err(told.to_owned()) }
    })?;

    // Authorizers.
    replace(&path("authz.yaml"), &authorization("{type: AlwaysAllow, name: alwaysallow}, "))?;
    becomes(&pods, "200")?;
    reloads("authorization", "success", 1)?;
    replace(&path("authz.yaml"), &format!("{GROUP}\nkind: AuthorizationConfiguration\nauthorizers: []\n"))?;
    reloads("authorization", "failure", 1)?;
    ensure!(ask(&pods).is_ok_and(|code| code == "200"), "what was in force stays");
    replace(&path("authz.yaml"), &authorization(""))?;
    becomes(&pods, "403")?;
    reloads("authorization", "success", 2)?;

    // The anonymous user.
    becomes("/version", "200")?;
    let only = "anonymous: {enabled: true, conditions: [{path: /livez}]}";
    replace(&path("authn.yaml"), &format!("{GROUP}\nkind: AuthenticationConfiguration\n{only}\n"))?;
    becomes("/version", "401")?;
    ensure!(ask("/livez").is_ok_and(|code| code == "200"));
    replace(&path("authn.yaml"), "kind: Nonsense\n")?;
    reloads("authentication", "failure", 1)?;
    reloads("authentication", "success", 1)?;
    ensure!(ask("/version").is_ok_and(|code| code == "401"), "what was in force stays");
    ensure!(ask(&pods).is_ok_and(|code| code == "403"), "other ways in are as they were");
    let metrics = k.ok("get --raw /metrics")?;
    for what in ["authentication", "authorization"] {
        for name in ["automatic_reload_last_timestamp_seconds", "last_config_info"] {
            ensure!(metrics.contains(&format!("apiserver_{what}_config_controller_{name}{{")), "no {what} {name}");
        }
    }
    Ok(())
}
