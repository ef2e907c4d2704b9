//! What a cluster needs: namespaces and their furniture, nodes, certificates, roles, tokens.

use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use orkd_pki::{Key, Profile, csr};
use orkd_reconcile::Propagation::Background;
use serde_json::{Value, json};

use super::{Change, Do, Meanwhile, Pass, Scenario, Until, scenarios};

scenarios! {
    a_namespace_is_furnished,
    a_namespace_is_emptied,
    a_quota_is_counted,
    a_node_gets_its_range_and_its_taints,
    pods_leave_a_tainted_node,
    pods_of_a_node_out_of_service_go,
    a_certificate_is_approved_signed_and_forgotten,
    a_role_gathers_its_rules,
    a_bootstrap_token_signs_and_ends,
    a_token_is_filled_in_and_goes_with_its_account,
    an_unused_token_is_marked_and_goes,
    the_types_of_a_policy_are_checked,
    a_range_of_addresses_comes_and_goes,
}

const DAY: Duration = Duration::from_secs(86_400);

fn encode(text: &str) -> String {
    STANDARD.encode(text)
}

fn node(name: &str, taints: Value) -> (&'static str, Value) {
    let node = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name}, "spec": {"taints": taints}});
    ("/api/v1/nodes", node)
}

fn pod(name: &str, node: &str, spec: Value) -> (&'static str, Value) {
    let mut pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": {
        "nodeName": node, "automountServiceAccountToken": false, "terminationGracePeriodSeconds": 0,
        "containers": [{"name": "c", "image": "i"}]}});
    pod["spec"].as_object_mut().expect("a spec").extend(spec.as_object().cloned().unwrap_or_default());
    ("pods", pod)
}

fn a_namespace_is_furnished() -> Scenario {
    Scenario {
        controllers: &["serviceaccount-controller", "root-ca-certificate-publisher-controller"],
        story: vec![
            Until("configmaps/kube-root-ca.crt", |m| m["data"]["ca.crt"].is_string()),
            Do("serviceaccounts/default", Change::Delete(Background)),
            Until("serviceaccounts/default", |a| !a.is_null()),
            Do("configmaps/kube-root-ca.crt", Change::Merge(json!({"data": {"ca.crt": "mine", "more": "x"}}))),
            Until("configmaps/kube-root-ca.crt", |m| m["data"]["ca.crt"] != "mine" && m["data"]["more"].is_null()),
        ],
        compared: &["configmaps", "serviceaccounts"],
        ..Scenario::default()
    }
}

fn a_namespace_is_emptied() -> Scenario {
    let map = |name: &str| {
        let json = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}});
        ("/api/v1/namespaces/extra-NAMESPACE/configmaps", json)
    };
    let extra = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "extra-NAMESPACE"}});
    Scenario {
        controllers: &["namespace-controller"],
        objects: vec![("/api/v1/namespaces", extra), map("a"), map("b")],
        story: vec![
            Do("/api/v1/namespaces/extra-NAMESPACE", Change::Delete(Background)),
            Until("/api/v1/namespaces/extra-NAMESPACE", Value::is_null),
        ],
        compared: &["/api/v1/namespaces/extra-NAMESPACE/configmaps", "/api/v1/namespaces/extra-NAMESPACE"],
        ..Scenario::default()
    }
}

fn a_quota_is_counted() -> Scenario {
    let quota = json!({"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "small"},
        "spec": {"hard": {"pods": "5", "count/configmaps": "9"}}});
    Scenario {
        controllers: &["resourcequota-controller"],
        objects: vec![
            pod("before", "a-NAMESPACE", json!({})),
            ("resourcequotas", quota),
            pod("web", "a-NAMESPACE", json!({})),
            ("configmaps", json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "one"}})),
        ],
        story: vec![
            Until("resourcequotas/small", |q| {
                q["status"]["used"]["pods"] == "2" && q["status"]["used"]["count/configmaps"] == "1"
            }),
            Do("pods/before", Change::Delete(Background)),
            Until("resourcequotas/small", |q| q["status"]["used"]["pods"] == "1"),
            Do("resourcequotas/small", Change::Merge(json!({"spec": {"hard": {"pods": "4"}}}))),
            Until("resourcequotas/small", |q| q["status"]["hard"]["pods"] == "4"),
        ],
        compared: &["resourcequotas"],
        ..Scenario::default()
    }
}

/// That a node reports its readiness.
fn reports(status: &str) -> Change {
    let at = "2026-01-01T00:00:00Z";
    Change::Merge(json!({"status": {"conditions": [{"type": "Ready", "status": status, "reason": "KubeletReady",
        "lastHeartbeatTime": at, "lastTransitionTime": at}]}}))
}

fn taints(node: &Value) -> Vec<(&str, &str)> {
    let text = |v: &'_ Value| v.as_str().is_some();
    let taints = node["spec"]["taints"].as_array().into_iter().flatten().filter(|t| text(&t["key"]));
    taints.map(|t| (t["key"].as_str().unwrap_or(""), t["effect"].as_str().unwrap_or(""))).collect()
}

fn a_node_gets_its_range_and_its_taints() -> Scenario {
    const A: &str = "/api/v1/nodes/a-NAMESPACE";
    const B: &str = "/api/v1/nodes/b-NAMESPACE";
    fn is_furnished(node: &Value) -> bool {
        node["spec"]["podCIDR"].is_string() && node["metadata"]["annotations"]["node.alpha.kubernetes.io/ttl"] == "0"
    }
    Scenario {
        controllers: &["node-lifecycle-controller", "node-ipam-controller", "ttl-controller"],
        objects: vec![
            node("a-NAMESPACE", json!([])),
            node("b-NAMESPACE", json!([])),
            pod("web", "a-NAMESPACE", json!({"tolerations": [{"operator": "Exists"}]})),
        ],
        story: vec![
            Until(A, is_furnished),
            Until(B, is_furnished),
            Do("/api/v1/nodes/a-NAMESPACE/status", reports("True")),
            Do("/api/v1/nodes/b-NAMESPACE/status", reports("True")),
            Until(A, |n| taints(n).is_empty()),
            Until(B, |n| taints(n).is_empty()),
            Do("/api/v1/nodes/a-NAMESPACE/status", reports("False")),
            Until(A, |n| taints(n).iter().filter(|(key, _)| *key == "node.kubernetes.io/not-ready").count() == 2),
            Until("pods/web", |p| p["status"]["conditions"][0]["status"] == "False"),
            Do("/api/v1/nodes/a-NAMESPACE/status", reports("True")),
            Until(A, |n| taints(n).is_empty()),
        ],
        compared: &[A, B, "pods"],
        ..Scenario::default()
    }
}

fn pods_leave_a_tainted_node() -> Scenario {
    let tolerating = json!({"tolerations": [{"operator": "Exists"}]});
    let leaving = json!({"tolerations": [
        {"key": "broken", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 0}]});
    Scenario {
        controllers: &["taint-eviction-controller"],
        objects: vec![
            node("a-NAMESPACE", json!([])),
            pod("stays", "a-NAMESPACE", tolerating),
            pod("one", "a-NAMESPACE", json!({})),
            pod("two", "a-NAMESPACE", leaving),
        ],
        story: vec![
            Do(
                "/api/v1/nodes/a-NAMESPACE",
                Change::Merge(json!({"spec": {"taints": [{"key": "broken", "effect": "NoExecute"}]}})),
            ),
            Until("pods/one", Value::is_null),
            Until("pods/two", Value::is_null),
        ],
        compared: &["pods"],
        ..Scenario::default()
    }
}

fn pods_of_a_node_out_of_service_go() -> Scenario {
    let slow = json!({"terminationGracePeriodSeconds": 300, "tolerations": [{"operator": "Exists"}]});
    Scenario {
        controllers: &["pod-garbage-collector-controller"],
        objects: vec![
            node("a-NAMESPACE", json!([{"key": "node.kubernetes.io/out-of-service", "effect": "NoExecute"}])),
            pod("one", "a-NAMESPACE", slow.clone()),
            pod("two", "a-NAMESPACE", slow.clone()),
            pod("stays", "a-NAMESPACE", slow),
        ],
        story: vec![
            Do("pods/one", Change::Delete(Background)),
            Do("pods/two", Change::Delete(Background)),
            Until("pods/one", Value::is_null),
            Until("pods/two", Value::is_null),
            // A story's pods must not be left to the next one.
            Do("pods/stays", Change::Delete(Background)),
            Until("pods/stays", Value::is_null),
        ],
        compared: &["pods"],
        ..Scenario::default()
    }
}

fn a_certificate_is_approved_signed_and_forgotten() -> Scenario {
    let key = Key::generate().expect("a key");
    let pem = csr::create(&key, &Profile::client("system:node:n1", &["system:nodes"])).expect("a request");
    let request = |name: &str| {
        json!({"apiVersion": "certificates.k8s.io/v1", "kind": "CertificateSigningRequest", "metadata": {"name": name},
            "spec": {"request": STANDARD.encode(&pem), "usages": ["digital signature", "client auth"],
                "signerName": "kubernetes.io/kube-apiserver-client-kubelet"}})
    };
    const REQUESTS: &str = "/apis/certificates.k8s.io/v1/certificatesigningrequests";
    const REQUEST: &str = "/apis/certificates.k8s.io/v1/certificatesigningrequests/n1-NAMESPACE";
    Scenario {
        controllers: &[
            "certificatesigningrequest-approving-controller",
            "certificatesigningrequest-signing-controller",
            "certificatesigningrequest-cleaner-controller",
        ],
        objects: vec![(REQUESTS, request("n1-NAMESPACE"))],
        story: vec![
            Until(REQUEST, |r| r["status"]["certificate"].is_string()),
            Pass(Duration::from_secs(3601)),
            Until(REQUEST, Value::is_null),
        ],
        compared: &[REQUESTS],
        ..Scenario::default()
    }
}

fn a_role_gathers_its_rules() -> Scenario {
    let rule = |resource: &str| json!({"apiGroups": [""], "resources": [resource], "verbs": ["get"]});
    let whole = json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole",
        "metadata": {"name": "whole-NAMESPACE"}, "rules": [],
        "aggregationRule": {"clusterRoleSelectors": [{"matchLabels": {"to": "NAMESPACE"}}]}});
    let part = json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole",
        "metadata": {"name": "part-NAMESPACE", "labels": {"to": "NAMESPACE"}}, "rules": [rule("pods")]});
    const ROLES: &str = "/apis/rbac.authorization.k8s.io/v1/clusterroles";
    const WHOLE: &str = "/apis/rbac.authorization.k8s.io/v1/clusterroles/whole-NAMESPACE";
    Scenario {
        controllers: &["clusterrole-aggregation-controller"],
        objects: vec![(ROLES, whole), (ROLES, part)],
        story: vec![
            Until(WHOLE, |r| r["rules"][0]["resources"][0] == "pods"),
            Do(
                "/apis/rbac.authorization.k8s.io/v1/clusterroles/part-NAMESPACE",
                Change::Merge(json!({"rules": [rule("pods"), rule("services")]})),
            ),
            Until(WHOLE, |r| r["rules"][1]["resources"][0] == "services"),
        ],
        compared: &[WHOLE],
        ..Scenario::default()
    }
}

fn bootstrap_token(id: &str, expiration: &str) -> (&'static str, Value) {
    let secret = json!({"apiVersion": "v1", "kind": "Secret", "type": "bootstrap.kubernetes.io/token",
        "metadata": {"name": format!("bootstrap-token-{id}")}, "data": {
            "token-id": encode(id), "token-secret": encode("0123456789abcdef"),
            "usage-bootstrap-signing": encode("true"), "expiration": encode(expiration)}});
    ("/api/v1/namespaces/kube-system/secrets", secret)
}

fn a_bootstrap_token_signs_and_ends() -> Scenario {
    const INFO: &str = "/api/v1/namespaces/kube-public/configmaps/cluster-info";
    Scenario {
        controllers: &["bootstrap-signer-controller", "token-cleaner-controller"],
        objects: vec![
            bootstrap_token("abcdef", "2999-01-01T00:00:00Z"),
            bootstrap_token("past00", "2001-01-01T00:00:00Z"),
        ],
        story: vec![
            Until(INFO, |m| m["data"]["jws-kubeconfig-abcdef"].is_string()),
            Until("/api/v1/namespaces/kube-system/secrets/bootstrap-token-past00", Value::is_null),
            Do("/api/v1/namespaces/kube-system/secrets/bootstrap-token-abcdef", Change::Delete(Background)),
            Until(INFO, |m| m["data"]["jws-kubeconfig-abcdef"].is_null()),
        ],
        compared: &[INFO],
        ..Scenario::default()
    }
}

/// A Secret with a token of an account.
fn token(name: &str, account: &str) -> (&'static str, Value) {
    let secret = json!({"apiVersion": "v1", "kind": "Secret", "type": "kubernetes.io/service-account-token",
        "metadata": {"name": name, "annotations": {"kubernetes.io/service-account.name": account}}});
    ("secrets", secret)
}

fn account(name: &str, secrets: Value) -> (&'static str, Value) {
    let account = json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": name}, "secrets": secrets});
    ("serviceaccounts", account)
}

fn a_token_is_filled_in_and_goes_with_its_account() -> Scenario {
    fn is_filled(secret: &Value) -> bool {
        ["token", "namespace", "ca.crt"].iter().all(|key| secret["data"][key].is_string())
    }
    Scenario {
        controllers: &["serviceaccount-token-controller"],
        objects: vec![account("bot", Value::Null), token("one", "bot"), token("two", "bot")],
        story: vec![
            Until("secrets/one", is_filled),
            Until("secrets/two", is_filled),
            Do("serviceaccounts/bot", Change::Delete(Background)),
            Until("secrets/one", Value::is_null),
            Until("secrets/two", Value::is_null),
        ],
        compared: &["secrets", "serviceaccounts"],
        ..Scenario::default()
    }
}

fn an_unused_token_is_marked_and_goes() -> Scenario {
    let secrets = json!([{"name": "one"}, {"name": "two"}, {"name": "mounted"}]);
    let mounts = json!({"volumes": [{"name": "t", "secret": {"secretName": "mounted"}}]});
    fn is_marked(secret: &Value) -> bool {
        secret["metadata"]["labels"]["kubernetes.io/legacy-token-invalid-since"].is_string()
    }
    Scenario {
        controllers: &["legacy-serviceaccount-token-cleaner-controller"],
        objects: vec![
            account("bot", secrets),
            token("one", "bot"),
            token("two", "bot"),
            token("mounted", "bot"),
            pod("user", "a-NAMESPACE", mounts),
        ],
        story: vec![
            Meanwhile(DAY * 100, "secrets/one", is_marked),
            Until("secrets/two", is_marked),
            Meanwhile(DAY * 100, "secrets/one", Value::is_null),
            Until("secrets/two", Value::is_null),
            Until("secrets/mounted", |s| s.is_object() && !is_marked(s)),
        ],
        compared: &["secrets"],
        ..Scenario::default()
    }
}

fn the_types_of_a_policy_are_checked() -> Scenario {
    const POLICIES: &str = "/apis/admissionregistration.k8s.io/v1/validatingadmissionpolicies";
    const POLICY: &str = "/apis/admissionregistration.k8s.io/v1/validatingadmissionpolicies/policy-NAMESPACE";
    let validations = |expression: &str| json!([{"expression": expression}]);
    let policy = json!({"apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingAdmissionPolicy",
        "metadata": {"name": "policy-NAMESPACE"}, "spec": {
            "paramKind": {"apiVersion": "v1", "kind": "ConfigMap"},
            "matchConstraints": {"resourceRules": [{"operations": ["CREATE"], "apiGroups": ["apps"],
                "apiVersions": ["v1"], "resources": ["deployments"]}]},
            "validations": validations("object.spec.replicas > '1' && params.data['a'] > 1")}});
    Scenario {
        controllers: &["validatingadmissionpolicy-status-controller"],
        objects: vec![(POLICIES, policy)],
        story: vec![
            Until(POLICY, |p| {
                let warnings = &p["status"]["typeChecking"]["expressionWarnings"];
                let warning = warnings[0]["warning"].as_str().unwrap_or_default();
                let problems = ["'_>_' applied to '(int, string)'", "'_>_' applied to '(string, int)'"];
                warnings[0]["fieldRef"] == "spec.validations[0].expression"
                    && warning.starts_with("apps/v1, Kind=Deployment: ERROR: <input>:1:22: ")
                    && problems.iter().all(|p| warning.contains(p))
            }),
            Do(POLICY, Change::Merge(json!({"spec": {"validations": validations("object.spec.replicas > 1")}}))),
            Until(POLICY, |p| {
                p["status"]["observedGeneration"] == 2 && p["status"]["typeChecking"]["expressionWarnings"].is_null()
            }),
        ],
        compared: &[POLICY],
        ..Scenario::default()
    }
}

fn a_range_of_addresses_comes_and_goes() -> Scenario {
    const RANGES: &str = "/apis/networking.k8s.io/v1/servicecidrs";
    const RANGE: &str = "/apis/networking.k8s.io/v1/servicecidrs/more-NAMESPACE";
    const SERVICE: &str = "services/web";
    let range = json!({"apiVersion": "networking.k8s.io/v1", "kind": "ServiceCIDR",
        "metadata": {"name": "more-NAMESPACE"}, "spec": {"cidrs": ["10.99.0.0/24"]}});
    let service = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "web"},
        "spec": {"clusterIP": "10.99.0.7", "ports": [{"port": 80}]}});
    Scenario {
        controllers: &["service-cidr-controller"],
        objects: vec![(RANGES, range), ("services", service)],
        story: vec![
            Until(RANGE, |r| r["status"]["conditions"][0]["status"] == "True"),
            Do(RANGE, Change::Delete(Background)),
            Until(RANGE, |r| r["status"]["conditions"][0]["reason"] == "Terminating"),
            Do(SERVICE, Change::Delete(Background)),
            // Everybody has ten seconds to learn of the deletion.
            Pass(Duration::from_secs(3600)),
            Until(RANGE, Value::is_null),
        ],
        compared: &[RANGE],
        ..Scenario::default()
    }
}
