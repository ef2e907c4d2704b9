//! Audit of a running server: its flags, the file, and its rotation.

use std::collections::BTreeSet;

use anyhow::{Context, Result, ensure};
use orkd_tests::cluster::Cluster;
use orkd_tests::is_root;
use serde_json::Value;

const POLICY: &str = "
apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived]
rules:
- level: None
  users: ['system:kube-scheduler', 'system:kube-controller-manager', 'system:apiserver']
- level: None
  userGroups: ['system:serviceaccounts:kube-system']
- level: RequestResponse
  resources: [{group: '', resources: [secrets, configmaps]}]
- level: Metadata
";

#[test]
fn what_kubectl_does_is_written_down() -> Result<()> {
    if !is_root() {
        return Ok(());
    }
    // The machine is there before the server, so that the policy can be.
    let mut cluster = Cluster::prepare(&["--disable-agent"])?;
    let (policy, log) = (cluster.machine.path("policy.yaml"), cluster.machine.path("audit/audit.log"));
    std::fs::write(&policy, POLICY)?;
    cluster.argue(&[
        format!("--audit-policy-file={}", policy.display()),
        format!("--audit-log-path={}", log.display()),
        "--audit-log-maxsize=1".into(),
        "--audit-log-maxbackup=2".into(),
    ]);
    cluster.boot()?;
    let k = cluster.kubectl()?;
    k.ok("create configmap seen --from-literal=a=b")?;
    k.ok("create serviceaccount robot")?;
    let refused = k.run(&["get", "pods", "--as=ann"], "")?;
    ensure!(refused.code != 0, "{refused:?}");
    k.ok("get pods --as=ann --as-group=system:masters")?;
    let read = || -> Result<Vec<Value>> {
        let text = std::fs::read_to_string(&log)?;
        text.lines().map(|l| serde_json::from_str(l).with_context(|| l.to_owned())).collect()
    };
    let events = read()?;
    let find = |what: &dyn Fn(&Value) -> bool| events.iter().find(|e| what(e)).context("no such event");
    let create = find(&|e| e["verb"] == "create" && e["objectRef"]["resource"] == "configmaps")?;
    assert_eq!(create["requestObject"]["data"]["a"], "b");
    assert_eq!(create["responseObject"]["kind"], "ConfigMap");
    assert_eq!(create["objectRef"]["name"], "seen");
    ensure!(create["user"]["username"] == "orkd-admin" && create["sourceIPs"][0] == "127.0.0.1", "{create}");
    ensure!(create["userAgent"].as_str().is_some_and(|a| a.starts_with("kubectl")), "{create}");
    let account = find(&|e| e["verb"] == "create" && e["objectRef"]["resource"] == "serviceaccounts")?;
    assert_eq!(account["objectRef"]["name"], "robot");
    ensure!(account.get("requestObject").is_none(), "{account}");
    let forbidden = find(&|e| e["responseStatus"]["code"] == 403)?;
    assert_eq!(forbidden["impersonatedUser"]["username"], "ann");
    assert_eq!(forbidden["annotations"]["authorization.k8s.io/decision"], "forbid");
    let allowed =
        find(&|e| e["impersonatedUser"]["groups"].as_array().is_some_and(|g| g.iter().any(|g| g == "system:masters")))?;
    ensure!(allowed["user"]["username"] == "orkd-admin" && allowed["responseStatus"]["code"] == 200, "{allowed}");
    let stages: BTreeSet<&str> = events.iter().filter_map(|e| e["stage"].as_str()).collect();
    ensure!(!stages.contains("RequestReceived") && stages.contains("ResponseComplete"), "{stages:?}");
    let users: BTreeSet<&str> = events.iter().filter_map(|e| e["user"]["username"].as_str()).collect();
    ensure!(!users.contains("system:kube-scheduler"), "{users:?}");

    // Rotation: a megabyte a file, two kept.
    let big =
        format!("apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: big}}\ndata: {{k: {}}}\n", "x".repeat(300_000));
    for i in 0..8 {
        k.ok_args(&["replace", "--force", "-f", "-"], &big.replace("k:", &format!("k{i}:")))
            .or_else(|_| k.apply(&big))?;
    }
    let files = std::fs::read_dir(log.parent().context("a directory")?)?.count();
    ensure!((2..=3).contains(&files), "{files} files");
    ensure!(std::fs::metadata(&log)?.len() < 2 << 20);
    cluster.stop()
}
