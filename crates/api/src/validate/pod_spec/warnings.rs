//! Warnings about what a pod spec says that is accepted but hardly meant.
//! Upstream: `GetWarningsForPod`, `GetWarningsForPodTemplate` in `pkg/api/pod/warnings.go`.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use crate::object::{View, at, same};

/// Warnings for a pod; none for what the old one had already.
pub fn pod(new: &Value, old: Option<&Value>) -> Vec<String> {
    let root = View::root(new);
    of(&root.get("spec"), &root.get("metadata"), old.is_some_and(|old| same(at(old, &["spec"]), at(new, &["spec"]))))
}

/// A warning for a new object whose name makes a poor host name; `what` is what it is used in.
pub fn pod_name(new: &Value, old: Option<&Value>, what: &str) -> Vec<String> {
    let problems = crate::names::dns_label(crate::table::name(new), false);
    if old.is_some() || problems.is_empty() {
        return Vec::new();
    }
    vec![format!(
        "metadata.name: this is used in {what}, which can result in surprising behavior; a DNS label is recommended: [{}]",
        problems.join(" ")
    )]
}

/// Warnings for a workload whose pods have its name in theirs.
pub fn workload(new: &Value, old: Option<&Value>) -> Vec<String> {
    let mut warnings = pod_name(new, old, "Pod names and hostnames");
    warnings.extend(template(new, old));
    warnings
}

/// Warnings about the amounts a claim asks for, at `path`.
pub fn claim_spec(spec: &View<'_>) -> Vec<String> {
    let mut out = Vec::new();
    for list in ["requests", "limits"] {
        let amounts = spec.get("resources").get(list);
        if let Some(text) = amounts.get("storage").opt_str().filter(|t| is_fractional(t)) {
            out.push(fractional(&amounts, "storage", text));
        }
    }
    out
}

fn is_fractional(text: &str) -> bool {
    text.parse::<crate::quantity::Quantity>().is_ok_and(|q| q.milli_value() % 1000 != 0)
}

fn fractional(amounts: &View<'_>, resource: &str, text: &str) -> String {
    let value = crate::field::quote(text);
    format!("{}: fractional byte value {value} is invalid, must be an integer", amounts.path().key(resource))
}

/// Warnings for the template of a workload, at `spec.template`.
pub fn template(new: &Value, old: Option<&Value>) -> Vec<String> {
    template_at(&View::root(new).dig("spec.template"), old.map(|old| at(old, &["spec", "template"])))
}

/// Warnings for a template anywhere.
pub fn template_at(template: &View<'_>, old: Option<&Value>) -> Vec<String> {
    let unchanged = old.is_some_and(|old| same(old, template.value()));
    if unchanged || !template.is_set() {
        return Vec::new();
    }
    of(&template.get("spec"), &template.get("metadata"), false)
}

fn of(spec: &View<'_>, meta: &View<'_>, unchanged: bool) -> Vec<String> {
    let mut out = Vec::new();
    if unchanged {
        return out;
    }
    node_labels(&mut out, spec);
    for (key, v) in meta.get("annotations").entries() {
        let replaced = if key == "seccomp.security.alpha.kubernetes.io/pod"
            || key.starts_with("container.seccomp.security.alpha.kubernetes.io/")
        {
            Some("non-functional in v1.27+; use the \"seccompProfile\" field instead")
        } else if key == "scheduler.alpha.kubernetes.io/critical-pod" {
            Some("non-functional in v1.16+; use the \"priorityClassName\" field instead")
        } else if matches!(key, "security.alpha.kubernetes.io/sysctls" | "security.alpha.kubernetes.io/unsafe-sysctls")
        {
            Some("non-functional in v1.11+; use the \"sysctls\" field instead")
        } else if key.starts_with("container.apparmor.security.beta.kubernetes.io/") {
            Some("deprecated since v1.30; use the \"appArmorProfile\" field instead")
        } else {
            None
        };
        if let Some(replaced) = replaced {
            out.push(format!("{}: {replaced}", v.path()));
        }
    }
    for volume in spec.items("volumes") {
        const GONE: [(&str, &str); 5] = [
            ("gitRepo", "deprecated in v1.11"),
            ("scaleIO", "deprecated in v1.16, non-functional in v1.22+"),
            ("flocker", "deprecated in v1.22, non-functional in v1.25+"),
            ("storageos", "deprecated in v1.22, non-functional in v1.25+"),
            ("quobyte", "deprecated in v1.22, non-functional in v1.25+"),
        ];
        const GONE_LATER: [(&str, &str); 4] = [
            ("photonPersistentDisk", "deprecated in v1.11, non-functional in v1.16+"),
            ("glusterfs", "deprecated in v1.25, non-functional in v1.26+"),
            ("rbd", "deprecated in v1.28, non-functional in v1.31+"),
            ("cephfs", "deprecated in v1.28, non-functional in v1.31+"),
        ];
        for (field, text) in GONE.iter().chain(&GONE_LATER) {
            if volume.get(field).is_set() {
                out.push(format!("{}: {text}", volume.get(field).path()));
            }
        }
    }
    duplicates(&mut out, spec.items("hostAliases"), "ip", spec.get("hostAliases").path().as_str());
    duplicate_pull_secrets(&mut out, spec);
    for field in ["initContainers", "containers", "ephemeralContainers"] {
        for container in spec.items(field) {
            of_container(&mut out, &container);
        }
    }
    if spec.get("terminationGracePeriodSeconds").int().is_some_and(|n| n < 0) {
        out.push(format!(
            "{}: must be >= 0; negative values are invalid and will be treated as 1",
            spec.get("terminationGracePeriodSeconds").path()
        ));
    }
    spread(&mut out, spec);
    out
}

fn node_labels(out: &mut Vec<String>, spec: &View<'_>) {
    const MOVED: [(&str, &str); 4] = [
        ("beta.kubernetes.io/arch", "deprecated since v1.14; use \"kubernetes.io/arch\" instead"),
        ("beta.kubernetes.io/os", "deprecated since v1.14; use \"kubernetes.io/os\" instead"),
        (
            "failure-domain.beta.kubernetes.io/region",
            "deprecated since v1.17; use \"topology.kubernetes.io/region\" instead",
        ),
        (
            "failure-domain.beta.kubernetes.io/zone",
            "deprecated since v1.17; use \"topology.kubernetes.io/zone\" instead",
        ),
    ];
    let moved = |key: &str| MOVED.iter().find(|(old, _)| *old == key).map(|(_, text)| *text);
    for (key, v) in spec.get("nodeSelector").entries() {
        if let Some(text) = moved(key) {
            out.push(format!("{}: {text}", v.path()));
        }
    }
    let node = spec.dig("affinity.nodeAffinity");
    let required = node.dig("requiredDuringSchedulingIgnoredDuringExecution.nodeSelectorTerms").list();
    let preferred = node.items("preferredDuringSchedulingIgnoredDuringExecution");
    let terms = required.into_iter().chain(preferred.iter().map(|p| p.get("preference")));
    for expression in terms.flat_map(|t| t.items("matchExpressions")) {
        let key = expression.get("key");
        if let Some(text) = moved(key.str()) {
            out.push(format!("{}: {} is {text}", key.path(), key.str()));
        }
    }
}

fn duplicates(out: &mut Vec<String>, list: Vec<View<'_>>, field: &str, path: &str) {
    let mut seen: BTreeMap<&str, usize> = BTreeMap::new();
    for (i, item) in list.iter().enumerate() {
        let value = item.get(field).str();
        match seen.get(value) {
            Some(_) => out.push(format!("{path}[{i}].{field}: duplicate ip {}", crate::field::quote(value))),
            None => {
                seen.insert(value, i);
            }
        }
    }
}

fn duplicate_pull_secrets(out: &mut Vec<String>, spec: &View<'_>) {
    let mut seen: BTreeMap<&str, usize> = BTreeMap::new();
    for (i, secret) in spec.items("imagePullSecrets").iter().enumerate() {
        let name = secret.get("name");
        if name.str().is_empty() {
            out.push(format!("{}: invalid empty name {}", name.path(), crate::field::quote("")));
            continue;
        }
        if seen.insert(name.str(), i).is_some() {
            out.push(format!("{}: duplicate name {}", name.path(), crate::field::quote(name.str())));
        }
    }
}

fn of_container(out: &mut Vec<String>, c: &View<'_>) {
    let mut seen: BTreeSet<&str> = BTreeSet::new();
    for var in c.items("env") {
        let name = var.get("name").str();
        if !seen.insert(name) {
            out.push(format!(
                "{}: hides previous definition of {}, which may be dropped when using apply",
                var.path(),
                crate::field::quote(name)
            ));
        }
    }
    for list in ["limits", "requests"] {
        for resource in ["memory", "ephemeral-storage"] {
            let amounts = c.get("resources").get(list);
            let v = amounts.get(resource);
            let Some(text) = v.opt_str() else { continue };
            if is_fractional(text) {
                out.push(fractional(&amounts, resource, text));
            }
        }
    }
    let mut ports: BTreeMap<(i64, &str), String> = BTreeMap::new();
    for port in c.items("ports") {
        let key = (port.get("containerPort").int().unwrap_or_default(), port.get("protocol").str());
        match ports.get(&key) {
            Some(first) => out.push(format!("{}: duplicate port definition with {first}", port.path())),
            None => {
                ports.insert(key, port.path().to_string());
            }
        }
    }
}

fn spread(out: &mut Vec<String>, spec: &View<'_>) {
    for constraint in spec.items("topologySpreadConstraints") {
        let selector = constraint.get("labelSelector");
        if !selector.is_set() {
            out.push(format!("{}: a null labelSelector results in matching no pod", selector.path()));
        }
    }
    for kind in ["podAffinity", "podAntiAffinity"] {
        let affinity = spec.get("affinity").get(kind);
        let required = affinity.items("requiredDuringSchedulingIgnoredDuringExecution");
        let preferred = affinity.items("preferredDuringSchedulingIgnoredDuringExecution");
        for term in required.into_iter().chain(preferred.iter().map(|p| p.get("podAffinityTerm"))) {
            if !term.get("labelSelector").is_set() {
                out.push(format!(
                    "{}: a null labelSelector results in matching no pod",
                    term.get("labelSelector").path()
                ));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    #[test]
    fn what_is_hardly_meant_is_said() {
        let pod = json!({"spec": {"nodeSelector": {"beta.kubernetes.io/os": "linux"}, "containers": [{
            "env": [{"name": "A"}, {"name": "A"}], "resources": {"limits": {"memory": "100m"}},
            "ports": [{"containerPort": 1, "protocol": "TCP"}, {"containerPort": 1, "protocol": "TCP"}]}]}});
        assert_eq!(
            super::pod(&pod, None),
            [
                "spec.nodeSelector[beta.kubernetes.io/os]: deprecated since v1.14; use \"kubernetes.io/os\" instead",
                "spec.containers[0].env[1]: hides previous definition of \"A\", which may be dropped when using apply",
                "spec.containers[0].resources.limits[memory]: fractional byte value \"100m\" is invalid, must be an integer",
                "spec.containers[0].ports[1]: duplicate port definition with spec.containers[0].ports[0]",
            ]
        );
        assert!(super::pod(&pod, Some(&pod)).is_empty());
    }

    #[test]
    fn a_name_with_dots_makes_a_poor_host_name() {
        let warnings = super::workload(&json!({"metadata": {"name": "a.b"}}), None);
        assert!(
            warnings[0].starts_with(
                "metadata.name: this is used in Pod names and hostnames, which can result in surprising behavior; a DNS \
                 label is recommended: [a lowercase RFC 1123 label must"
            ),
            "{warnings:?}"
        );
        assert!(super::workload(&json!({"metadata": {"name": "a"}}), None).is_empty());
    }
}
