//! Denied is denied: a table of requests over HTTP to a running server, against roles, the node authorizer, node
//! restriction, escalation, impersonation and the guards of certificates.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use orkd_pki::{Authority, Key, Profile, csr};
use orkd_tests::cluster::Cluster;
use orkd_tests::kubectl::Kubectl;
use orkd_tests::{eventually, is_root};
use serde_json::{Value, json};

const TABLE: &str = include_str!("denied.txt");

/// Users by static token: name, user, groups. The token is the name.
const USERS: [(&str, &str, &str); 21] = [
    ("root", "root", "system:masters"),
    ("nobody", "nobody", ""),
    ("dev", "dev", "devs"),
    ("named", "named", ""),
    ("viewer", "viewer", ""),
    ("editor", "editor", ""),
    ("owner", "owner", ""),
    ("ops", "ops", ""),
    ("collector", "collector", ""),
    ("deputy", "deputy", ""),
    ("stand-in", "stand-in", ""),
    ("approver", "approver", ""),
    ("n1", "system:node:n1", "system:nodes"),
    ("n2", "system:node:n2", "system:nodes"),
    ("half-node", "system:node:n1", ""),
    ("stray", "stray", "system:nodes"),
    ("scheduler", "system:kube-scheduler", ""),
    ("manager", "system:kube-controller-manager", ""),
    ("proxy", "system:kube-proxy", ""),
    ("joiner", "joiner", "system:bootstrappers"),
    ("spare", "spare", ""),
];

const OBJECTS: &str = r#"
apiVersion: v1
kind: Namespace
metadata: {name: a}
---
apiVersion: v1
kind: Namespace
metadata: {name: b}
---
apiVersion: v1
kind: Namespace
metadata: {name: baseline, labels: {pod-security.kubernetes.io/enforce: baseline}}
---
apiVersion: v1
kind: Namespace
metadata: {name: restricted, labels: {pod-security.kubernetes.io/enforce: restricted}}
---
apiVersion: v1
kind: ServiceAccount
metadata: {name: robot, namespace: a}
---
apiVersion: v1
kind: ServiceAccount
metadata: {name: robot, namespace: b}
---
apiVersion: v1
kind: Node
metadata: {name: n1}
---
apiVersion: v1
kind: Node
metadata: {name: n2}
---
apiVersion: v1
kind: Secret
metadata: {name: s1, namespace: a}
---
apiVersion: v1
kind: Secret
metadata: {name: s2, namespace: a}
---
apiVersion: v1
kind: Secret
metadata: {name: s1, namespace: b}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: only, namespace: a}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: other, namespace: a}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: only, namespace: b}
---
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {name: claim, namespace: a}
spec: {accessModes: [ReadWriteOnce], volumeName: vol, storageClassName: "", resources: {requests: {storage: 1Gi}}}
---
apiVersion: v1
kind: PersistentVolume
metadata: {name: vol}
spec:
  accessModes: [ReadWriteOnce]
  capacity: {storage: 1Gi}
  hostPath: {path: /tmp}
  claimRef: {apiVersion: v1, kind: PersistentVolumeClaim, namespace: a, name: claim}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata: {name: reader, namespace: a}
rules:
- {apiGroups: [""], resources: [pods, configmaps], verbs: [get, list, watch]}
- {apiGroups: [""], resources: [pods/log], verbs: [get]}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {name: readers, namespace: a}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: Role, name: reader}
subjects:
- {kind: Group, name: devs, apiGroup: rbac.authorization.k8s.io}
- {kind: ServiceAccount, name: robot, namespace: a}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata: {name: named, namespace: a}
rules:
- {apiGroups: [""], resources: [configmaps], resourceNames: [only], verbs: [get, update]}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {name: named, namespace: a}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: Role, name: named}
subjects: [{kind: User, name: named, apiGroup: rbac.authorization.k8s.io}]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {name: viewer}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: view}
subjects: [{kind: User, name: viewer, apiGroup: rbac.authorization.k8s.io}]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {name: editor, namespace: a}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: edit}
subjects: [{kind: User, name: editor, apiGroup: rbac.authorization.k8s.io}]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {name: owner, namespace: a}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: admin}
subjects: [{kind: User, name: owner, apiGroup: rbac.authorization.k8s.io}]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata: {name: ops}
rules:
- {apiGroups: [""], resources: [nodes], verbs: [get, list]}
- {apiGroups: [""], resources: [pods/eviction], verbs: [create]}
- {nonResourceURLs: [/metrics, /healthz/*], verbs: [get]}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {name: ops}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: ops}
subjects: [{kind: User, name: ops, apiGroup: rbac.authorization.k8s.io}]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata: {name: collected}
aggregationRule: {clusterRoleSelectors: [{matchLabels: {collect: "yes"}}]}
rules: []
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata: {name: part-volumes, labels: {collect: "yes"}}
rules: [{apiGroups: [""], resources: [persistentvolumes], verbs: [list]}]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata: {name: part-classes, labels: {collect: "yes"}}
rules: [{apiGroups: [storage.k8s.io], resources: [storageclasses], verbs: [list]}]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {name: collector}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: collected}
subjects: [{kind: User, name: collector, apiGroup: rbac.authorization.k8s.io}]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata: {name: deputy}
rules:
- {apiGroups: [""], resources: [users], resourceNames: [viewer], verbs: [impersonate]}
- {apiGroups: [""], resources: [groups], resourceNames: [devs], verbs: [impersonate]}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {name: deputy}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: deputy}
subjects: [{kind: User, name: deputy, apiGroup: rbac.authorization.k8s.io}]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata: {name: stand-in}
rules:
- {apiGroups: [authentication.k8s.io], resources: [users], resourceNames: [viewer], verbs: ["impersonate:user-info"]}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {name: stand-in}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: stand-in}
subjects: [{kind: User, name: stand-in, apiGroup: rbac.authorization.k8s.io}]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata: {name: stand-in, namespace: a}
rules:
- {apiGroups: [""], resources: [pods], verbs: ["impersonate-on:user-info:list", "impersonate-on:serviceaccount:list"]}
- apiGroups: [authentication.k8s.io]
  resources: [serviceaccounts]
  resourceNames: [robot]
  verbs: ["impersonate:serviceaccount"]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {name: stand-in, namespace: a}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: Role, name: stand-in}
subjects: [{kind: User, name: stand-in, apiGroup: rbac.authorization.k8s.io}]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata: {name: approver}
rules:
- apiGroups: [certificates.k8s.io]
  resources: [certificatesigningrequests/approval, certificatesigningrequests/status]
  verbs: [update]
- {apiGroups: [certificates.k8s.io], resources: [signers], resourceNames: [example.com/one], verbs: [approve]}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {name: approver}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: approver}
subjects: [{kind: User, name: approver, apiGroup: rbac.authorization.k8s.io}]
"#;

/// Pods, as soon as their namespaces have accounts.
const PODS: &str = r#"
apiVersion: v1
kind: Pod
metadata: {name: p1, namespace: a}
spec:
  nodeName: n1
  containers:
  - name: c
    image: example.com/x
    env: [{name: E, valueFrom: {secretKeyRef: {name: s1, key: k}}}]
    envFrom: [{configMapRef: {name: only}}]
  volumes: [{name: v, persistentVolumeClaim: {claimName: claim}}]
---
apiVersion: v1
kind: Pod
metadata: {name: p1, namespace: b}
spec: {nodeName: n2, containers: [{name: c, image: example.com/x}]}
---
apiVersion: v1
kind: Pod
metadata: {name: p2, namespace: b}
spec: {nodeName: n2, containers: [{name: c, image: example.com/x, envFrom: [{secretRef: {name: s1}}]}]}
"#;

struct Row<'t> {
    line: &'t str,
    user: &'t str,
    verb: &'t str,
    resource: &'t str,
    namespace: &'t str,
    name: &'t str,
    allowed: bool,
    body: Option<&'t str>,
}

fn rows() -> Result<Vec<Row<'static>>> {
    let mut rows = Vec::new();
    for line in TABLE.lines().filter(|l| !l.trim().is_empty() && !l.starts_with('#')) {
        let words: Vec<&str> = line.split_whitespace().collect();
        let [user, verb, resource, namespace, name, allowed, body @ ..] = words.as_slice() else { bail!("{line}") };
        let dash = |s: &'static str| if s == "-" { "" } else { s };
        rows.push(Row {
            line,
            user,
            verb,
            resource,
            namespace: dash(namespace),
            name: dash(name),
            allowed: match *allowed {
                "yes" => true,
                "no" => false,
                other => bail!("{other} in {line}"),
            },
            body: body.first().copied(),
        });
    }
    Ok(rows)
}

impl Row<'_> {
    fn method(&self) -> &'static str {
        match self.verb {
            "create" => "POST",
            "update" => "PUT",
            "patch" => "PATCH",
            "delete" | "deletecollection" => "DELETE",
            _ => "GET",
        }
    }

    fn path(&self) -> String {
        if self.resource.starts_with('/') {
            return self.resource.to_owned();
        }
        let (resource, query) = self.resource.split_once('?').unwrap_or((self.resource, ""));
        let (resource, subresource) = resource.split_once('/').unwrap_or((resource, ""));
        let (plural, group) = resource.split_once('.').unwrap_or((resource, ""));
        let mut path = if group.is_empty() { "/api/v1".to_owned() } else { format!("/apis/{group}/v1") };
        if !self.namespace.is_empty() {
            path += &format!("/namespaces/{}", self.namespace);
        }
        path += &format!("/{plural}");
        for part in [self.name, subresource].into_iter().filter(|p| !p.is_empty()) {
            path += &format!("/{part}");
        }
        match (self.verb, query) {
            ("watch", _) => path += "?watch=true&timeoutSeconds=1",
            (_, "") => {}
            (_, query) => path += &format!("?{query}"),
        }
        path
    }
}

/// A line of curl's configuration.
fn quoted(text: &str) -> String {
    format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""))
}

/// Sends every row; the status and the text of each answer.
fn send(
    cluster: &Cluster,
    rows: &[Row<'_>],
    tokens: &BTreeMap<String, String>,
    bodies: &BTreeMap<&str, Value>,
) -> Result<Vec<(u16, String)>> {
    let mut config = String::new();
    for (i, row) in rows.iter().enumerate() {
        if i > 0 {
            config.push_str("next\n");
        }
        let (user, whom) = row.user.split_once('>').unwrap_or((row.user, ""));
        let mut headers = Vec::new();
        if user != "anonymous" {
            let token = tokens.get(user).with_context(|| format!("no user {user}"))?;
            headers.push(format!("Authorization: Bearer {token}"));
        }
        let mut names = whom.split('+').filter(|n| !n.is_empty());
        headers.extend(names.next().map(|n| format!("Impersonate-User: {n}")));
        headers.extend(names.map(|n| format!("Impersonate-Group: {n}")));
        let answer = cluster.machine.path(&format!("answer-{i}"));
        let mut say = |key: &str, value: &str| writeln!(config, "{key} = {}", quoted(value));
        say("url", &format!("https://127.0.0.1:6443{}", row.path()))?;
        say("request", row.method())?;
        say("output", &answer.display().to_string())?;
        say("write-out", "%{http_code}\\n")?;
        if row.method() != "GET" {
            let kind = if row.verb == "patch" { "application/merge-patch+json" } else { "application/json" };
            headers.push(format!("Content-Type: {kind}"));
            let body = match row.body {
                Some(name) => bodies.get(name).with_context(|| format!("no body {name}"))?.to_string(),
                None => "{}".into(),
            };
            let file = cluster.machine.path(&format!("body-{i}"));
            std::fs::write(&file, body)?;
            say("data-binary", &format!("@{}", file.display()))?;
        }
        for header in headers {
            say("header", &header)?;
        }
        // An answer to a stream that is refused comes before its body is read: HTTP/1.1 bears that better.
        config.push_str("insecure\nhttp1.1\nsilent\nmax-time = 20\n");
    }
    let file = cluster.machine.path("requests.curl");
    // curl unescapes what it reads: the line break of the output format must reach it as two characters.
    std::fs::write(&file, config.replace("\\\\n\"", "\\n\""))?;
    let out = cluster.machine.sh(&format!("curl -K {}", file.display()))?;
    let codes: Vec<u16> = out.lines().map(|l| l.trim().parse().unwrap_or_default()).collect();
    ensure!(codes.len() == rows.len(), "{} answers to {} requests", codes.len(), rows.len());
    let text = |i: usize| std::fs::read_to_string(cluster.machine.path(&format!("answer-{i}"))).unwrap_or_default();
    Ok(codes.into_iter().enumerate().map(|(i, code)| (code, text(i))).collect())
}

fn uid(k: &Kubectl<'_>, what: &str) -> Result<String> {
    k.ok(&format!("get {what} -o jsonpath={{.metadata.uid}}"))
}

/// What the rows send.
fn bodies(k: &Kubectl<'_>) -> Result<BTreeMap<&'static str, Value>> {
    let (p1, p2, n1) = (uid(k, "pod p1 -n a")?, uid(k, "pod p2 -n b")?, uid(k, "node n1")?);
    let n2 = uid(k, "node n2")?;
    let token = |pod: &str, uid: &str, audiences: Value| {
        json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {"audiences": audiences,
            "boundObjectRef": {"apiVersion": "v1", "kind": "Pod", "name": pod, "uid": uid}}})
    };
    let lease = |name: &str| {
        json!({"apiVersion": "coordination.k8s.io/v1", "kind": "Lease",
            "metadata": {"name": name, "namespace": "kube-node-lease"}, "spec": {"holderIdentity": name}})
    };
    let mirror = |name: &str, node: &str, node_uid: &str, more: Value| {
        let mut spec = json!({"nodeName": node, "containers": [{"name": "c", "image": "example.com/x"}]});
        for (key, value) in more.as_object().into_iter().flatten() {
            spec[key] = value.clone();
        }
        json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": "a",
            "annotations": {"kubernetes.io/config.mirror": "x", "kubernetes.io/config.source": "file"},
            "ownerReferences": [{"apiVersion": "v1", "kind": "Node", "name": node, "uid": node_uid, "controller": true}]},
            "spec": spec})
    };
    // Pods that pod security looks at: more of the pod's specification and of its container's security context.
    let pod = |name: &str, more: Value, context: Value| {
        let mut spec = json!({"containers": [{"name": "c", "image": "example.com/x", "securityContext": context}]});
        for (key, value) in more.as_object().into_iter().flatten() {
            spec[key] = value.clone();
        }
        json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": spec})
    };
    let tight = json!({"allowPrivilegeEscalation": false, "runAsNonRoot": true, "capabilities": {"drop": ["ALL"]},
        "seccompProfile": {"type": "RuntimeDefault"}});
    let binding = |name: &str, role: &str| {
        json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "RoleBinding",
            "metadata": {"name": name, "namespace": "a"},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": role},
            "subjects": [{"kind": "User", "name": "spare", "apiGroup": "rbac.authorization.k8s.io"}]})
    };
    let decided = |name: &str| -> Result<Value> {
        let mut request = k.json(&format!("get csr {name}"))?;
        request["status"]["conditions"] =
            json!([{"type": "Approved", "status": "True", "reason": "t", "message": "t"}]);
        Ok(request)
    };
    let issued = || -> Result<Value> {
        let authority = Authority::create("x", jiff::Timestamp::now())?;
        let mut request = k.json("get csr csr1")?;
        request["status"]["certificate"] = json!(STANDARD.encode(authority.certificate().to_pem()));
        Ok(request)
    };
    Ok(BTreeMap::from([
        ("@token-p1", token("p1", &p1, json!([]))),
        ("@token-p2", token("p2", &p2, json!([]))),
        ("@token-audience", token("p1", &p1, json!(["somebody-else"]))),
        ("@token-unbound", json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {}})),
        ("@lease-n1", lease("n1")),
        ("@lease-n2", lease("n2")),
        (
            "@csinode-n2",
            json!({"apiVersion": "storage.k8s.io/v1", "kind": "CSINode", "metadata": {"name": "n2"},
                "spec": {"drivers": []}}),
        ),
        ("@node-n3", json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "n3"}})),
        ("@label-restricted", json!({"metadata": {"labels": {"node-restriction.kubernetes.io/x": "y"}}})),
        ("@label-own", json!({"metadata": {"labels": {"example.com/x": "y"}}})),
        ("@taint", json!({"spec": {"taints": [{"key": "x", "effect": "NoSchedule"}]}})),
        (
            "@eviction-p2",
            json!({"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": "p2", "namespace": "b"}}),
        ),
        (
            "@pod-plain",
            json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "x", "namespace": "a"},
                "spec": {"nodeName": "n1", "containers": [{"name": "c", "image": "example.com/x"}]}}),
        ),
        ("@pod", pod("plain", json!({}), json!({}))),
        ("@pod-privileged", pod("privileged", json!({}), json!({"privileged": true}))),
        ("@pod-host-network", pod("net", json!({"hostNetwork": true}), json!({}))),
        ("@pod-host-path", pod("path", json!({"volumes": [{"name": "v", "hostPath": {"path": "/"}}]}), tight.clone())),
        ("@pod-host-pid", pod("pid", json!({"hostPID": true}), tight.clone())),
        ("@pod-root", pod("as-root", json!({}), json!({"runAsUser": 0}))),
        ("@pod-capable", pod("capable", json!({}), json!({"capabilities": {"add": ["SYS_ADMIN"]}}))),
        ("@pod-tight", pod("tight", json!({}), tight)),
        ("@mirror", mirror("m1", "n1", &n1, json!({}))),
        ("@mirror-of-n2", mirror("m2", "n2", &n2, json!({}))),
        (
            "@mirror-with-secret",
            mirror("m3", "n1", &n1, json!({"volumes": [{"name": "s", "secret": {"secretName": "s1"}}]})),
        ),
        (
            "@role-nodes",
            json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "Role",
                "metadata": {"name": "grab", "namespace": "a"},
                "rules": [{"apiGroups": [""], "resources": ["pods/binding"], "verbs": ["create"]}]}),
        ),
        ("@bind-cluster-admin", binding("grab-all", "cluster-admin")),
        ("@bind-view", binding("share", "view")),
        ("@approve-1", decided("csr1")?),
        ("@approve-2", decided("csr2")?),
        ("@issue-1", issued()?),
    ]))
}

fn request(name: &str, signer: &str) -> Result<String> {
    let pem = csr::create(&Key::generate()?, &Profile::client("someone", &[]))?;
    Ok(json!({"apiVersion": "certificates.k8s.io/v1", "kind": "CertificateSigningRequest", "metadata": {"name": name},
        "spec": {"signerName": signer, "usages": ["client auth"], "request": STANDARD.encode(pem)}})
    .to_string())
}

#[test]
fn denied_is_denied() -> Result<()> {
    if !is_root() {
        return Ok(());
    }
    let rows = rows()?;
    ensure!(rows.len() >= 200, "{} rows", rows.len());
    let directory = tempfile::tempdir()?;
    let file = directory.path().join("tokens.csv");
    let lines = USERS.iter().map(|(token, user, groups)| format!("{token}-token,{user},{token},\"{groups}\"\n"));
    std::fs::write(&file, lines.collect::<String>())?;
    let cluster = Cluster::control_plane(&[&format!("--token-auth-file={}", file.display())])?;
    let k = cluster.kubectl()?;
    k.apply(OBJECTS)?;
    k.apply(&request("csr1", "example.com/one")?)?;
    k.apply(&request("csr2", "example.com/two")?)?;
    eventually("accounts and collected rules", Duration::from_secs(30), || {
        for ns in ["a", "b", "baseline", "restricted"] {
            k.ok(&format!("get serviceaccount default -n {ns}")).map_err(|e| e.to_string())?;
        }
        let role = k.json("get clusterrole collected").map_err(|e| e.to_string())?;
        match role["rules"].as_array().map_or(0, Vec::len) {
            2 => Ok(()),
            other => Err(format!("{other} rules")),
        }
    })?;
    k.apply(PODS)?;

    let mut tokens: BTreeMap<String, String> =
        USERS.iter().map(|(token, _, _)| ((*token).to_owned(), format!("{token}-token"))).collect();
    tokens.insert("impostor".into(), "nobody-knows-this".into());
    for ns in ["a", "b"] {
        tokens.insert(format!("sa-{ns}"), k.ok(&format!("create token robot -n {ns}"))?.trim().to_owned());
    }
    let answers = send(&cluster, &rows, &tokens, &bodies(&k)?)?;
    let mut wrong = String::new();
    for (row, (code, text)) in rows.iter().zip(&answers) {
        let denied = matches!(code, 401 | 403);
        // No kubelet runs behind these nodes: what gets as far as asking one was allowed.
        let broken = *code == 0 || (500..600).contains(code) && !text.contains("no preferred addresses found");
        if denied == row.allowed || broken {
            let short: String = text.chars().take(300).collect();
            writeln!(wrong, "{}\n    {code} {short}", row.line)?;
        }
    }
    ensure!(wrong.is_empty(), "{} rows in all; wrong are:\n{wrong}", rows.len());
    println!("{} rows", rows.len());
    Ok(())
}

/// The credential ends with what it is bound to.
#[test]
fn tokens_end_with_what_they_are_bound_to() -> Result<()> {
    if !is_root() {
        return Ok(());
    }
    let cluster = Cluster::control_plane(&[])?;
    let k = cluster.kubectl()?;
    eventually("the account", Duration::from_secs(30), || {
        k.ok("get serviceaccount default").map_err(|e| e.to_string())
    })?;
    k.ok("create serviceaccount robot")?;
    k.apply(
        "apiVersion: v1\nkind: Pod\nmetadata: {name: p}\nspec: {serviceAccountName: robot, nodeName: nope, containers: \
         [{name: c, image: example.com/x}]}\n",
    )?;
    k.ok("create secret generic s")?;
    let answer = |token: &str| -> Result<String> {
        let out = cluster.machine.sh(&format!(
            "curl -ks -o /dev/null -w '%{{http_code}}' -H 'Authorization: Bearer {}' https://127.0.0.1:6443/api",
            token.trim()
        ))?;
        Ok(out)
    };
    for (bound, make, end) in [
        (
            "pod",
            "create token robot --bound-object-kind=Pod --bound-object-name=p",
            "delete pod p --force --grace-period=0",
        ),
        ("secret", "create token robot --bound-object-kind=Secret --bound-object-name=s", "delete secret s"),
        ("account", "create token robot", "delete serviceaccount robot"),
    ] {
        let token = k.ok(make)?;
        ensure!(answer(&token)? == "200", "a token of the {bound} is good");
        k.ok(end)?;
        let after = answer(&token)?;
        ensure!(after == "401", "the token of a deleted {bound} is answered with {after}");
    }

    // A token in a Secret: filled in, good, marked as used, gone with its account.
    k.ok("create serviceaccount old")?;
    k.apply(
        "apiVersion: v1\nkind: Secret\ntype: kubernetes.io/service-account-token\nmetadata: {name: old-token, annotations: \
         {kubernetes.io/service-account.name: old}}\n",
    )?;
    let token = eventually("the token", Duration::from_secs(20), || {
        let secret = k.json("get secret old-token").map_err(|e| e.to_string())?;
        let text = |f: &str| STANDARD.decode(secret["data"][f].as_str().unwrap_or_default()).unwrap_or_default();
        match (text("token"), text("namespace"), text("ca.crt")) {
            (token, namespace, ca) if !token.is_empty() && namespace == b"default" && ca.starts_with(b"-----BEGIN") => {
                String::from_utf8(token).map_err(|e| e.to_string())
            }
            _ => Err(secret["data"].to_string()),
        }
    })?;
    ensure!(answer(&token)? == "200", "a token of a Secret is good");
    eventually("the use to be noted", Duration::from_secs(20), || {
        let secret = k.json("get secret old-token").map_err(|e| e.to_string())?;
        let label = &secret["metadata"]["labels"]["kubernetes.io/legacy-token-last-used"];
        if label.is_string() { Ok(()) } else { Err(secret["metadata"].to_string()) }
    })?;
    k.ok("label secret old-token kubernetes.io/legacy-token-invalid-since=2026-01-01")?;
    ensure!(answer(&token)? == "401", "a token that is marked is bad");
    k.ok("label secret old-token kubernetes.io/legacy-token-invalid-since-")?;
    ensure!(answer(&token)? == "200", "a token that is marked no more is good");
    k.ok("delete serviceaccount old")?;
    ensure!(answer(&token)? == "401", "the token of a deleted account is bad");
    eventually("the Secret to go with its account", Duration::from_secs(20), || {
        let left = k.run(&["get", "secret", "old-token"], "").map_err(|e| e.to_string())?;
        if left.stderr.contains("NotFound") { Ok(()) } else { Err(left.stdout) }
    })?;
    Ok(())
}
