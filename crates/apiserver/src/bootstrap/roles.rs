//! Upstream's bootstrap roles and bindings, from a compact table, and ours.
//!
//! `roles.txt` holds the facts of `plugin/pkg/auth/authorizer/rbac/bootstrappolicy` as a v1.36 server shows them; a
//! test compares it with the recording, and writes it anew with `ORKD_UPDATE=1`. One object a paragraph:
//!
//! ```text
//! ClusterRole NAME [aggregate-to=TARGET] [aggregates=TARGET]
//!   VERBS GROUPS RESOURCES [NAMES]        the core group is written `-`
//!   VERBS @ PATHS
//! RoleBinding NAMESPACE/NAME Role/NAME SUBJECT...
//! ```
//!
//! The rules of the three roles that aggregate others (`admin`, `edit`, `view`) are not in the table: they are
//! collected here, as the aggregation controller does later.

use serde_json::{Map, Value, json};

use crate::authz::rbac::rule::Rule;

const TABLE: &str = include_str!("roles.txt");

const GROUP: &str = "rbac.authorization.k8s.io";

/// What our own parts need beside upstream's. Names begin with `orkd:`, but for the role that metrics-server brings
/// along: who may view, edit or administer a namespace may see what it uses.
const OURS: &str = "\
ClusterRole system:aggregated-metrics-reader aggregate-to=admin aggregate-to=edit aggregate-to=view
  get,list,watch metrics.k8s.io nodes,pods
ClusterRoleBinding orkd:kubelet-clients ClusterRole/system:kubelet-api-admin Group/orkd:kubelet-clients
ClusterRoleBinding orkd:node-proxy-approver \
 ClusterRole/system:certificates.k8s.io:kube-apiserver-client-approver \
 ServiceAccount/kube-system/certificate-controller
ClusterRoleBinding orkd:node-bootstrapper ClusterRole/system:node-bootstrapper Group/system:bootstrappers
ClusterRoleBinding orkd:node-autoapprove-bootstrap \
 ClusterRole/system:certificates.k8s.io:certificatesigningrequests:nodeclient Group/system:bootstrappers
ClusterRoleBinding orkd:node-autoapprove-renewal \
 ClusterRole/system:certificates.k8s.io:certificatesigningrequests:selfnodeclient Group/system:nodes
ClusterRole orkd:local-path-provisioner
  get,list,watch - persistentvolumeclaims,nodes
  update - persistentvolumeclaims
  update,patch - persistentvolumeclaims/status
  get,list,watch,create,delete,update - persistentvolumes
  get,list,watch,create storage.k8s.io storageclasses
  delete - nodes/proxy
  create,patch,update -,events.k8s.io events
ClusterRoleBinding orkd:local-path-provisioner \
 ClusterRole/orkd:local-path-provisioner ServiceAccount/kube-system/local-path-provisioner
ClusterRoleBinding orkd:kubelet-serving-approver \
 ClusterRole/system:certificates.k8s.io:kubelet-serving-approver ServiceAccount/kube-system/certificate-controller
ClusterRole orkd:dns-controller
  get,list,watch - nodes
ClusterRoleBinding orkd:dns-controller ClusterRole/orkd:dns-controller ServiceAccount/kube-system/dns-controller
Role kube-system/orkd:dns-controller
  create,get,patch - services kube-dns
  create,delete,get,patch discovery.k8s.io endpointslices
RoleBinding kube-system/orkd:dns-controller Role/orkd:dns-controller ServiceAccount/kube-system/dns-controller
";

/// What earlier versions made and what is not wanted any more: resource and name.
pub const RETIRED: [(&str, &str); 1] = [("clusterrolebindings", "orkd:node-proxier")];

/// One of the four kinds, complete but for what the server sets.
#[derive(Clone, Debug, PartialEq)]
pub struct Object {
    /// Plural, such as `clusterroles`.
    pub resource: &'static str,
    /// Namespace; empty for cluster-wide kinds.
    pub namespace: String,
    /// Name.
    pub name: String,
    /// The object.
    pub value: Value,
}

/// Every bootstrap object, roles before bindings.
pub fn all() -> Vec<Object> {
    let mut objects = parse(TABLE);
    objects.extend(parse(OURS));
    // Ours have a part in upstream's.
    aggregate(&mut objects);
    objects.sort_by_key(|o| o.resource.ends_with("bindings"));
    objects
}

/// The rules of the cluster role `system:node`, which the node authorizer applies itself.
pub fn node_rules() -> Vec<Rule> {
    let own = TABLE.lines().skip_while(|l| *l != "ClusterRole system:node").skip(1).take_while(|l| l.starts_with("  "));
    serde_json::from_value(own.filter_map(parse_rule).collect()).unwrap_or_default()
}

/// Reads a table. Lines that make no sense give nothing: the table is a constant under test.
fn parse(table: &str) -> Vec<Object> {
    let mut objects: Vec<Object> = Vec::new();
    for line in table.lines().filter(|l| !l.is_empty() && !l.starts_with('#')) {
        if let Some(rule) = line.strip_prefix("  ") {
            if let Some(rules) = objects.last_mut().and_then(|o| o.value["rules"].as_array_mut()) {
                rules.extend(parse_rule(rule));
            }
        } else if let Some(object) = parse_head(line) {
            objects.push(object);
        }
    }
    aggregate(&mut objects);
    objects
}

fn list(text: &str) -> Value {
    text.split(',').map(|p| if p == "-" { "" } else { p }).collect::<Vec<_>>().into()
}

fn parse_rule(text: &str) -> Option<Value> {
    let mut words = text.split_whitespace();
    let (verbs, groups, things) = (words.next()?, words.next()?, words.next()?);
    if groups == "@" {
        return Some(json!({ "verbs": list(verbs), "nonResourceURLs": list(things) }));
    }
    let mut rule = json!({ "verbs": list(verbs), "apiGroups": list(groups), "resources": list(things) });
    if let Some(names) = words.next() {
        rule["resourceNames"] = list(names);
    }
    Some(rule)
}

fn parse_head(line: &str) -> Option<Object> {
    let mut words = line.split_whitespace();
    let (kind, full) = (words.next()?, words.next()?);
    let (namespace, name) = match kind {
        "Role" | "RoleBinding" => full.split_once('/')?,
        _ => ("", full),
    };
    let mut value = json!({
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": kind,
        "metadata": {
            "name": name,
            "annotations": { "rbac.authorization.kubernetes.io/autoupdate": "true" },
            "labels": { "kubernetes.io/bootstrapping": "rbac-defaults" },
        },
    });
    if !namespace.is_empty() {
        value["metadata"]["namespace"] = json!(namespace);
    }
    let resource = match kind {
        "ClusterRole" | "Role" => {
            value["rules"] = json!([]);
            for word in words {
                match word.split_once('=')? {
                    ("aggregate-to", target) => {
                        value["metadata"]["labels"][aggregate_label(target)] = json!("true");
                    }
                    ("aggregates", target) => {
                        let labels = Map::from_iter([(aggregate_label(target), json!("true"))]);
                        value["aggregationRule"] = json!({ "clusterRoleSelectors": [{ "matchLabels": labels }] });
                    }
                    _ => return None,
                }
            }
            if kind == "Role" { "roles" } else { "clusterroles" }
        }
        "ClusterRoleBinding" | "RoleBinding" => {
            let (role_kind, role) = words.next()?.split_once('/')?;
            value["roleRef"] = json!({ "apiGroup": GROUP, "kind": role_kind, "name": role });
            let subjects: Vec<Value> = words.filter_map(parse_subject).collect();
            if !subjects.is_empty() {
                value["subjects"] = json!(subjects);
            }
            if kind == "RoleBinding" { "rolebindings" } else { "clusterrolebindings" }
        }
        _ => return None,
    };
    Some(Object { resource, namespace: namespace.into(), name: name.into(), value })
}

fn aggregate_label(target: &str) -> String {
    format!("rbac.authorization.k8s.io/aggregate-to-{target}")
}

fn parse_subject(text: &str) -> Option<Value> {
    let (kind, name) = text.split_once('/')?;
    Some(match kind {
        "ServiceAccount" => {
            let (namespace, name) = name.split_once('/')?;
            json!({ "kind": kind, "name": name, "namespace": namespace })
        }
        _ => json!({ "apiGroup": GROUP, "kind": kind, "name": name }),
    })
}

/// Fills the rules of aggregating roles, in the order the controller does: roles by name, a rule once. Rounds, since
/// `edit` is aggregated and aggregates.
fn aggregate(objects: &mut [Object]) {
    for _ in 0..3 {
        let sources: Vec<(Value, Vec<Value>)> = objects
            .iter()
            .map(|o| {
                let rules = o.value["rules"].as_array().cloned().unwrap_or_default();
                (o.value["metadata"]["labels"].clone(), rules)
            })
            .collect();
        for object in objects.iter_mut() {
            let Some(selector) = object.value["aggregationRule"]["clusterRoleSelectors"][0]["matchLabels"].as_object()
            else {
                continue;
            };
            let mut rules: Vec<Value> = Vec::new();
            for (labels, from) in &sources {
                if selector.iter().all(|(k, v)| labels.get(k) == Some(v)) {
                    for rule in from {
                        if !rules.contains(rule) {
                            rules.push(rule.clone());
                        }
                    }
                }
            }
            object.value["rules"] = json!(rules);
        }
    }
}

/// What has to change in a stored object so that it is at least what upstream wants: `None` where nothing has to
/// (`pkg/apis/rbac` `reconciliation`): rules and subjects are added, never taken away; an object whose annotation
/// `rbac.authorization.kubernetes.io/autoupdate` is `false` is left alone. A binding whose role differs has to be
/// made anew: `Err`.
pub fn reconcile(wanted: &Value, stored: &Value) -> Result<Option<Value>, Recreate> {
    let meta = |v: &Value, part: &str| v["metadata"][part].as_object().cloned().unwrap_or_default();
    let autoupdate = &stored["metadata"]["annotations"]["rbac.authorization.kubernetes.io/autoupdate"];
    if autoupdate == "false" {
        return Ok(None);
    }
    if wanted.get("roleRef").is_some() {
        let same = |part: &str| wanted["roleRef"][part] == stored["roleRef"][part];
        if !same("kind") || !same("name") {
            return Err(Recreate);
        }
    }
    let mut changed = stored.clone();
    for part in ["annotations", "labels"] {
        let mut all = meta(wanted, part);
        all.extend(meta(stored, part));
        if !all.is_empty() {
            changed["metadata"][part] = Value::Object(all);
        }
    }
    if let Some(rule) = wanted.get("aggregationRule") {
        // The rules of an aggregating role are the controller's.
        changed["aggregationRule"] = rule.clone();
    } else {
        add_missing(&mut changed, wanted, "rules");
    }
    add_missing(&mut changed, wanted, "subjects");
    Ok((changed != *stored).then_some(changed))
}

/// The binding's role is not the one wanted, and a role cannot be changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Recreate;

fn add_missing(stored: &mut Value, wanted: &Value, part: &str) {
    let Some(wanted) = wanted[part].as_array() else { return };
    let mut all = stored[part].as_array().cloned().unwrap_or_default();
    let before = all.len();
    for item in wanted {
        if !all.contains(item) {
            all.push(item.clone());
        }
    }
    if all.len() != before {
        stored[part] = json!(all);
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::path::PathBuf;

    use super::*;

    fn recording(name: &str) -> Option<Vec<Value>> {
        let shared = std::env::var_os("ORKD_SHARED").map(PathBuf::from);
        let shared = shared.unwrap_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../../shared"));
        let path = shared.join("kubernetes-1.36/recorded/bootstrap").join(name);
        let Ok(text) = std::fs::read_to_string(&path) else {
            eprintln!("skipped: no ../shared");
            return None;
        };
        Some(serde_json::from_str(&text).expect("recording is JSON"))
    }

    const FILES: [(&str, &str, &str); 4] = [
        ("clusterroles.json", "ClusterRole", "clusterroles"),
        ("roles.json", "Role", "roles"),
        ("clusterrolebindings.json", "ClusterRoleBinding", "clusterrolebindings"),
        ("rolebindings.json", "RoleBinding", "rolebindings"),
    ];

    fn join(v: &Value) -> String {
        let parts = v.as_array().expect("list").iter().map(|p| match p.as_str().expect("text") {
            "" => "-",
            text => text,
        });
        parts.collect::<Vec<_>>().join(",")
    }

    fn render(kind: &str, object: &Value) -> String {
        let meta = &object["metadata"];
        let name = meta["name"].as_str().expect("name");
        let mut out = match meta["namespace"].as_str() {
            Some(ns) => format!("{kind} {ns}/{name}"),
            None => format!("{kind} {name}"),
        };
        if kind.ends_with("Binding") {
            let role = &object["roleRef"];
            out += &format!(" {}/{}", role["kind"].as_str().expect("kind"), role["name"].as_str().expect("name"));
            for s in object["subjects"].as_array().into_iter().flatten() {
                let text = |f: &str| s[f].as_str().expect("text");
                out += &match text("kind") {
                    "ServiceAccount" => format!(" ServiceAccount/{}/{}", text("namespace"), text("name")),
                    kind => format!(" {kind}/{}", text("name")),
                };
            }
            return out + "\n";
        }
        const LABEL: &str = "rbac.authorization.k8s.io/aggregate-to-";
        for label in meta["labels"].as_object().expect("labels").keys() {
            if let Some(target) = label.strip_prefix(LABEL) {
                out += &format!(" aggregate-to={target}");
            }
        }
        if let Some(selectors) = object["aggregationRule"]["clusterRoleSelectors"].as_array() {
            for label in selectors[0]["matchLabels"].as_object().expect("labels").keys() {
                out += &format!(" aggregates={}", label.strip_prefix(LABEL).expect("aggregate label"));
            }
            return out + "\n";
        }
        out += "\n";
        for rule in object["rules"].as_array().into_iter().flatten() {
            out += &match rule.get("nonResourceURLs") {
                Some(urls) => format!("  {} @ {}", join(&rule["verbs"]), join(urls)),
                None => format!("  {} {} {}", join(&rule["verbs"]), join(&rule["apiGroups"]), join(&rule["resources"])),
            };
            if let Some(names) = rule.get("resourceNames") {
                out += &format!(" {}", join(names));
            }
            out += "\n";
        }
        out
    }

    #[test]
    fn the_table_is_what_was_recorded() {
        let mut table = String::from("# Bootstrap roles and bindings of Kubernetes v1.36. Form: see roles.rs.\n");
        for (file, kind, _) in FILES {
            let Some(objects) = recording(file) else { return };
            objects.iter().for_each(|o| table += &render(kind, o));
        }
        if std::env::var_os("ORKD_UPDATE").is_some() {
            let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("src/bootstrap/roles.txt");
            std::fs::write(path, &table).expect("written");
        } else {
            assert!(table == TABLE, "roles.txt differs from the recording: run this test with ORKD_UPDATE=1");
        }
    }

    #[test]
    fn objects_are_what_was_recorded() {
        let parsed = parse(TABLE);
        for (file, kind, resource) in FILES {
            let Some(objects) = recording(file) else { return };
            assert_eq!(objects.len(), parsed.iter().filter(|o| o.resource == resource).count(), "{file}");
            for mut expected in objects {
                let text = |f: &str| expected["metadata"][f].as_str().unwrap_or_default().to_owned();
                let (ns, name) = (text("namespace"), text("name"));
                let ours = parsed.iter().find(|o| o.resource == resource && o.namespace == ns && o.name == name);
                let mut ours = ours.unwrap_or_else(|| panic!("{kind} {name} is missing")).value.clone();
                ours.as_object_mut().expect("object").retain(|k, _| k != "apiVersion" && k != "kind");
                if expected["rules"].is_null() {
                    expected["rules"] = ours["rules"].clone();
                }
                if expected.get("aggregationRule").is_some() {
                    // The recording's order is the controller's map order: compare as sets.
                    let sorted =
                        |v: &Value| v["rules"].as_array().expect("rules").iter().map(Value::to_string).collect();
                    let (a, b): (BTreeMap<String, ()>, BTreeMap<String, ()>) = {
                        let set = |l: Vec<String>| l.into_iter().map(|t| (t, ())).collect();
                        (set(sorted(&ours)), set(sorted(&expected)))
                    };
                    assert_eq!(a, b, "{name}");
                    expected["rules"] = ours["rules"].clone();
                }
                if kind.ends_with("Binding") {
                    expected.as_object_mut().expect("object").remove("rules");
                    ours.as_object_mut().expect("object").remove("rules");
                }
                assert_eq!(ours, expected, "{kind} {name}");
            }
        }
    }

    #[test]
    fn stored_objects_gain_what_is_missing_and_lose_nothing() {
        let all = all();
        let wanted =
            &all.iter().find(|o| o.name == "system:basic-user" && o.resource == "clusterroles").expect("role").value;
        assert_eq!(reconcile(wanted, wanted), Ok(None));
        let mut stored = wanted.clone();
        let extra = json!({"verbs": ["get"], "apiGroups": [""], "resources": ["pods"]});
        stored["rules"] = json!([extra]);
        stored["metadata"]["labels"]["mine"] = json!("1");
        let changed = reconcile(wanted, &stored).expect("no other role").expect("changed");
        assert_eq!(changed["rules"][0], extra);
        assert_eq!(changed["rules"].as_array().map(Vec::len), wanted["rules"].as_array().map(|r| r.len() + 1));
        assert_eq!(changed["metadata"]["labels"]["mine"], "1");
        stored["metadata"]["annotations"]["rbac.authorization.kubernetes.io/autoupdate"] = json!("false");
        assert_eq!(reconcile(wanted, &stored), Ok(None));
        let binding = &all.iter().find(|o| o.resource == "clusterrolebindings").expect("binding").value;
        let mut other = binding.clone();
        other["roleRef"]["name"] = json!("x");
        assert_eq!(reconcile(binding, &other), Err(Recreate));
    }

    #[test]
    fn our_own_bindings_are_understood() {
        let ours = parse(OURS);
        assert_eq!(ours.len(), 13);
        for object in &ours {
            // Upstream's names are upstream's alone.
            let of_metrics_server = object.name == "system:aggregated-metrics-reader";
            assert!(object.name.starts_with("orkd:") || of_metrics_server, "{}", object.name);
            let binding = object.resource.ends_with("bindings");
            assert_eq!(object.value["subjects"][0]["name"].is_string(), binding, "{}", object.name);
            assert_eq!(object.value["rules"][0]["verbs"].is_array(), !binding, "{}", object.name);
        }
        let node =
            all().into_iter().find(|o| o.resource == "clusterroles" && o.name == "system:node").expect("it is there");
        let rules: Vec<Rule> = serde_json::from_value(node.value["rules"].clone()).expect("rules");
        assert!(!rules.is_empty() && node_rules() == rules);
        let view = all().into_iter().find(|o| o.resource == "clusterroles" && o.name == "view").expect("a role");
        let rules = view.value["rules"].as_array().cloned().unwrap_or_default();
        assert!(rules.iter().any(|r| r["apiGroups"][0] == "metrics.k8s.io"), "{rules:?}");
    }
}
