//! Warnings about what a pod spec says that is accepted but hardly meant.
//! Upstream: `GetWarningsForPod`, `GetWarningsForPodTemplate` in `pkg/api/pod/warnings.go`.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use crate::field::Path;
use crate::object::{View, at};
use crate::validate::ip;

use super::virtual_paths;

/// Warnings for a new pod; updates of pods are too many to be looked at.
pub fn pod(new: &Value, old: Option<&Value>) -> Vec<String> {
    let root = View::root(new);
    if old.is_some() { Vec::new() } else { of(&root.get("spec"), &root.get("metadata"), false) }
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
    template_at("spec.template", new, old)
}

/// Warnings for the template of an object whose generation is new.
pub fn template_at(path: &'static str, new: &Value, old: Option<&Value>) -> Vec<String> {
    let generation = |obj| at(obj, &["metadata", "generation"]);
    let template = View::root(new).dig(path);
    if old.is_some_and(|old| generation(old) == generation(new)) {
        return Vec::new();
    }
    template_of(&template)
}

/// Warnings for a template.
pub fn template_of(template: &View<'_>) -> Vec<String> {
    if !template.is_set() {
        return Vec::new();
    }
    of(&template.get("spec"), &template.get("metadata"), true)
}

/// Warnings for the spec and metadata of a pod, or of the template of pods.
fn of(spec: &View<'_>, meta: &View<'_>, is_template: bool) -> Vec<String> {
    let mut out = Vec::new();
    node_labels(&mut out, spec);
    spread(&mut out, spec);
    let annotations = meta.get("annotations");
    const REPLACED: [(&str, &str); 3] = [
        (
            "scheduler.alpha.kubernetes.io/critical-pod",
            "non-functional in v1.16+; use the \"priorityClassName\" field instead",
        ),
        ("security.alpha.kubernetes.io/sysctls", "non-functional in v1.11+; use the \"sysctls\" field instead"),
        ("security.alpha.kubernetes.io/unsafe-sysctls", "non-functional in v1.11+; use the \"sysctls\" field instead"),
    ];
    for (key, text) in REPLACED {
        annotated(&mut out, &annotations, key, text);
    }
    volumes(&mut out, spec);
    out.extend(virtual_paths::overlapping(spec));
    duplicates(&mut out, &spec.items("hostAliases"), "ip");
    let secrets = spec.items("imagePullSecrets");
    duplicates(&mut out, &secrets, "name");
    for name in secrets.iter().map(|secret| secret.get("name")).filter(|name| name.str().is_empty()) {
        out.push(format!("{}: invalid empty name \"\"", name.path()));
    }
    amounts(&mut out, &spec.get("overhead"), "memory");
    amounts(&mut out, &spec.get("overhead"), "ephemeral-storage");
    const SECCOMP: &str = "non-functional in v1.27+; use the \"seccompProfile\" field instead";
    let has = |v: &View<'_>, profile: &str| v.get("securityContext").get_named(profile).is_set();
    if !has(spec, "seccompProfile") {
        annotated(&mut out, &annotations, "seccomp.security.alpha.kubernetes.io/pod", SECCOMP);
    }
    let fields = ["initContainers", "containers", "ephemeralContainers"];
    let containers: Vec<View<'_>> = fields.iter().flat_map(|field| spec.items(field)).collect();
    for container in &containers {
        let name = container.get("name").str();
        if !has(container, "seccompProfile") {
            let key = format!("container.seccomp.security.alpha.kubernetes.io/{name}");
            annotated(&mut out, &annotations, &key, SECCOMP);
        }
        if is_template && !has(spec, "appArmorProfile") && !has(container, "appArmorProfile") {
            let key = format!("container.apparmor.security.beta.kubernetes.io/{name}");
            annotated(
                &mut out,
                &annotations,
                &key,
                "deprecated since v1.30; use the \"appArmorProfile\" field instead",
            );
        }
        for resource in ["memory", "ephemeral-storage"] {
            for list in ["limits", "requests"] {
                amounts(&mut out, &container.get("resources").get(list), resource);
            }
        }
        env(&mut out, container);
    }
    ports(&mut out, &containers);
    let grace = spec.get("terminationGracePeriodSeconds");
    if grace.int().is_some_and(|n| n < 0) {
        out.push(format!("{}: must be >= 0; negative values are invalid and will be treated as 1", grace.path()));
    }
    affinity(&mut out, spec);
    out.extend(spec.dig("dnsConfig").items("nameservers").iter().flat_map(ip::address_warnings));
    out.extend(spec.items("hostAliases").iter().flat_map(|alias| ip::address_warnings(&alias.get("ip"))));
    out
}

/// A warning for an annotation, where it is.
fn annotated(out: &mut Vec<String>, annotations: &View<'_>, key: &str, text: &str) {
    if annotations.get_named(key).is_set() {
        out.push(format!("{}: {text}", annotations.path().key(key)));
    }
}

/// Sources that do nothing, or soon will not.
fn volumes(out: &mut Vec<String>, spec: &View<'_>) {
    const GONE: [(&str, &str, &str); 9] = [
        ("photonPersistentDisk", "photonPersistentDisk", "deprecated in v1.11, non-functional in v1.16+"),
        ("gitRepo", "gitRepo", "deprecated in v1.11"),
        ("scaleIO", "scaleIO", "deprecated in v1.16, non-functional in v1.22+"),
        ("flocker", "flocker", "deprecated in v1.22, non-functional in v1.25+"),
        ("storageos", "storageOS", "deprecated in v1.22, non-functional in v1.25+"),
        ("quobyte", "quobyte", "deprecated in v1.22, non-functional in v1.25+"),
        ("glusterfs", "glusterfs", "deprecated in v1.25, non-functional in v1.26+"),
        ("cephfs", "cephfs", "deprecated in v1.28, non-functional in v1.31+"),
        ("rbd", "rbd", "deprecated in v1.28, non-functional in v1.31+"),
    ];
    for volume in spec.items("volumes") {
        for (field, shown, text) in GONE {
            if volume.get(field).is_set() {
                out.push(format!("{}: {text}", volume.path().child(shown)));
            }
        }
        out.extend(claim_spec(&volume.dig("ephemeral.volumeClaimTemplate.spec")));
    }
}

/// Amounts of bytes that are not whole.
fn amounts(out: &mut Vec<String>, amounts: &View<'_>, resource: &str) {
    if let Some(text) = amounts.get_named(resource).opt_str().filter(|text| is_fractional(text)) {
        out.push(fractional(amounts, resource, text));
    }
}

/// What is to be said of a label of nodes that has another name now. Upstream: `GetNodeLabelDeprecatedMessage`.
pub(crate) fn moved(key: &str) -> Option<&'static str> {
    const MOVED: [(&str, &str); 6] = [
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
        (
            "beta.kubernetes.io/instance-type",
            "deprecated since v1.17; use \"node.kubernetes.io/instance-type\" instead",
        ),
        ("node-role.kubernetes.io/master", "use \"node-role.kubernetes.io/control-plane\" instead"),
    ];
    MOVED.iter().find(|(old, _)| *old == key).map(|(_, text)| *text)
}

fn node_labels(out: &mut Vec<String>, spec: &View<'_>) {
    for (key, v) in spec.get("nodeSelector").entries() {
        if let Some(text) = moved(key) {
            out.push(format!("{}: {text}", v.path()));
        }
    }
    let node = spec.dig("affinity.nodeAffinity");
    let required = node.dig("requiredDuringSchedulingIgnoredDuringExecution.nodeSelectorTerms").list();
    out.extend(required.iter().flat_map(node_selector_term));
    // Values of what is required are checked, those of what is preferred were not always.
    for preferred in node.items("preferredDuringSchedulingIgnoredDuringExecution") {
        for expression in preferred.get("preference").items("matchExpressions") {
            out.extend(old_key(&expression));
            for value in expression.items("values") {
                let problems = crate::names::label_value(value.str());
                out.extend(problems.iter().map(|why| format!("{}: {} is invalid, {why}", value.path(), value.str())));
            }
        }
    }
}

/// Warnings for a term that chooses nodes by labels that have another name now.
/// Upstream: `GetWarningsForNodeSelectorTerm`.
pub fn node_selector_term(term: &View<'_>) -> Vec<String> {
    term.items("matchExpressions").iter().filter_map(old_key).collect()
}

fn old_key(expression: &View<'_>) -> Option<String> {
    let key = expression.get("key");
    Some(format!("{}: {} is {}", key.path(), key.str(), moved(key.str())?))
}

/// Values that come twice in a list of objects.
fn duplicates(out: &mut Vec<String>, list: &[View<'_>], field: &str) {
    let mut seen = BTreeSet::new();
    for v in list.iter().map(|item| item.get_named(field)) {
        if !seen.insert(v.str()) {
            out.push(format!("{}: duplicate {field} {}", v.path(), crate::field::quote(v.str())));
        }
    }
}

/// Variables that are set again, other than by adding to what they are.
fn env(out: &mut Vec<String>, container: &View<'_>) {
    let mut seen = BTreeSet::new();
    for var in container.items("env") {
        let (name, value) = (var.get("name").str(), var.get("value").str());
        let itself = format!("$({name})");
        let adds = !var.get("valueFrom").is_set() && value.contains(&itself) && value != itself;
        if !seen.insert(name) && !adds {
            out.push(format!(
                "{}: hides previous definition of {}, which may be dropped when using apply",
                var.path(),
                crate::field::quote(name)
            ));
        }
    }
}

/// Ports of all containers that are in each other's way.
fn ports(out: &mut Vec<String>, containers: &[View<'_>]) {
    let number = |port: &View<'_>, field: &str| port.get_named(field).int().unwrap_or_default();
    let mut seen: BTreeMap<(i64, &str), Vec<View<'_>>> = BTreeMap::new();
    for port in containers.iter().flat_map(|c| c.items("ports")) {
        let (host, address) = (number(&port, "hostPort"), port.get("hostIP").str());
        let (inner, protocol) = (number(&port, "containerPort"), port.get("protocol").str());
        if !address.is_empty() && host == 0 {
            out.push(format!(
                "{}: hostIP set without hostPort: {{Name:{} HostPort:0 ContainerPort:{inner} Protocol:{protocol} \
                 HostIP:{address}}}",
                port.path(),
                port.get("name").str(),
            ));
        }
        let others = seen.entry((inner, protocol)).or_default();
        for other in others.iter() {
            let (other_host, other_address) = (number(other, "hostPort"), other.get("hostIP").str());
            let what = if (host, address) == (other_host, other_address) {
                "duplicate"
            } else if host == 0 || other_host == 0 {
                "overlapping"
            } else if host == other_host && address.is_empty() != other_address.is_empty() {
                "dangerously ambiguous"
            } else {
                continue;
            };
            out.push(format!("{}: {what} port definition with {}", port.path(), other.path()));
        }
        others.push(port);
    }
    let mut names: BTreeMap<&str, Path> = BTreeMap::new();
    for port in containers.iter().flat_map(|c| c.items("ports")) {
        let name = port.get("name").str();
        match names.get(name) {
            Some(first) => out.push(format!(
                "{}: duplicate port name {} with {first}, services and probes that select ports by name will use {first}",
                port.path(),
                crate::field::quote(name)
            )),
            None if name.is_empty() => {}
            None => drop(names.insert(name, port.path().clone())),
        }
    }
}

/// Constraints whose topology has another name now, or that match nothing.
fn spread(out: &mut Vec<String>, spec: &View<'_>) {
    for constraint in spec.items("topologySpreadConstraints") {
        let key = constraint.get("topologyKey");
        if let Some(text) = moved(key.str()) {
            out.push(format!("{}: {} is {text}", key.path(), key.str()));
        }
        null_selector(out, &constraint);
    }
}

fn null_selector(out: &mut Vec<String>, v: &View<'_>) {
    let selector = v.get("labelSelector");
    if !selector.is_set() {
        out.push(format!("{}: a null labelSelector results in matching no pod", selector.path()));
    }
}

fn affinity(out: &mut Vec<String>, spec: &View<'_>) {
    for kind in ["podAffinity", "podAntiAffinity"] {
        let affinity = spec.get("affinity").get(kind);
        let required = affinity.items("requiredDuringSchedulingIgnoredDuringExecution");
        let preferred = affinity.items("preferredDuringSchedulingIgnoredDuringExecution");
        for term in required.into_iter().chain(preferred.iter().map(|p| p.get("podAffinityTerm"))) {
            null_selector(out, &term);
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
                "spec.containers[0].resources.limits[memory]: fractional byte value \"100m\" is invalid, must be an integer",
                "spec.containers[0].env[1]: hides previous definition of \"A\", which may be dropped when using apply",
                "spec.containers[0].ports[1]: duplicate port definition with spec.containers[0].ports[0]",
            ]
        );
        assert!(super::pod(&pod, Some(&pod)).is_empty());
    }

    #[test]
    fn each_warning_has_its_place() {
        let container = |fields: serde_json::Value| json!({"spec": {"containers": [fields]}});
        for (pod, expected) in [
            (container(json!({"env": [{"name": "A", "value": "a"}, {"name": "A", "value": "$(A)b"}]})), &[][..]),
            (
                container(json!({"env": [{"name": "A"}, {"name": "A", "value": "$(A)"}]})),
                &[
                    "spec.containers[0].env[1]: hides previous definition of \"A\", which may be dropped when using apply",
                ],
            ),
            (
                json!({"spec": {
                    "initContainers": [{"ports": [{"containerPort": 80, "hostPort": 8080, "protocol": "TCP"}]}],
                    "containers": [{"ports": [
                        {"containerPort": 80, "protocol": "TCP"},
                        {"containerPort": 80, "hostPort": 8080, "hostIP": "10.0.0.1", "protocol": "TCP"},
                        {"containerPort": 80, "protocol": "UDP", "hostIP": "10.0.0.1"}]}]}}),
                &[
                    "spec.containers[0].ports[0]: overlapping port definition with spec.initContainers[0].ports[0]",
                    "spec.containers[0].ports[1]: dangerously ambiguous port definition with spec.initContainers[0].ports[0]",
                    "spec.containers[0].ports[1]: overlapping port definition with spec.containers[0].ports[0]",
                    "spec.containers[0].ports[2]: hostIP set without hostPort: {Name: HostPort:0 ContainerPort:80 \
                     Protocol:UDP HostIP:10.0.0.1}",
                ],
            ),
            (
                json!({"spec": {"volumes": [{"storageos": {}}, {"name": "v", "projected": {"sources": [
                    {"serviceAccountToken": {"path": "token"}}, {"downwardAPI": {"items": [{"path": "token"}]}}]}}]}}),
                &[
                    "spec.volumes[0].storageOS: deprecated in v1.22, non-functional in v1.25+",
                    "volume \"v\" (Projected): overlapping paths: \"token\" (DownwardAPI) with \"token\" (ServiceAccountToken)",
                ],
            ),
            (
                json!({"spec": {"topologySpreadConstraints": [{"topologyKey": "failure-domain.beta.kubernetes.io/zone"}],
                    "imagePullSecrets": [{}, {"name": "a"}, {"name": "a"}], "overhead": {"memory": "1m"}}}),
                &[
                    "spec.topologySpreadConstraints[0].topologyKey: failure-domain.beta.kubernetes.io/zone is deprecated \
                     since v1.17; use \"topology.kubernetes.io/zone\" instead",
                    "spec.topologySpreadConstraints[0].labelSelector: a null labelSelector results in matching no pod",
                    "spec.imagePullSecrets[2].name: duplicate name \"a\"",
                    "spec.imagePullSecrets[0].name: invalid empty name \"\"",
                    "spec.overhead[memory]: fractional byte value \"1m\" is invalid, must be an integer",
                ],
            ),
            (
                json!({"metadata": {"annotations": {"container.seccomp.security.alpha.kubernetes.io/a": "x",
                    "container.apparmor.security.beta.kubernetes.io/a": "x"}},
                    "spec": {"containers": [{"name": "a"}], "hostAliases": [{"ip": "010.0.0.1"}]}}),
                &[
                    "metadata.annotations[container.seccomp.security.alpha.kubernetes.io/a]: non-functional in v1.27+; use \
                     the \"seccompProfile\" field instead",
                    "spec.hostAliases[0].ip: non-standard IP address \"010.0.0.1\" will be considered invalid in a future \
                     Kubernetes release: use \"10.0.0.1\"",
                ],
            ),
        ] {
            assert_eq!(super::pod(&pod, None), expected, "{pod}");
        }
    }

    #[test]
    fn preferences_of_nodes_and_names_of_ports_are_looked_at() {
        let port = |name: &str, n: i64| json!([{"name": name, "containerPort": n, "protocol": "TCP"}]);
        let term =
            json!({"matchExpressions": [{"key": "beta.kubernetes.io/arch", "operator": "In", "values": ["a", "b c"]}]});
        let pod = json!({"spec": {
            "affinity": {"nodeAffinity": {
                "requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [term]},
                "preferredDuringSchedulingIgnoredDuringExecution": [{"weight": 1, "preference": term}]}},
            "containers": [{"ports": port("web", 80)}, {"ports": port("web", 81)}, {"ports": port("", 82)}]}});
        let old = |at: &str| {
            format!(
                "spec.affinity.nodeAffinity.{at}.matchExpressions[0].key: beta.kubernetes.io/arch is deprecated since v1.14; \
                 use \"kubernetes.io/arch\" instead"
            )
        };
        let warnings = super::pod(&pod, None);
        assert_eq!(warnings[0], old("requiredDuringSchedulingIgnoredDuringExecution.nodeSelectorTerms[0]"));
        assert_eq!(warnings[1], old("preferredDuringSchedulingIgnoredDuringExecution[0].preference"));
        let value = "spec.affinity.nodeAffinity.preferredDuringSchedulingIgnoredDuringExecution[0].preference.\
                     matchExpressions[0].values[1]: b c is invalid, a valid label must be an empty string or consist of";
        assert!(warnings[2].starts_with(value), "{warnings:?}");
        assert_eq!(
            warnings[3..],
            [
                "spec.containers[1].ports[0]: duplicate port name \"web\" with spec.containers[0].ports[0], services and \
              probes that select ports by name will use spec.containers[0].ports[0]"
            ]
        );
    }

    #[test]
    fn a_template_is_warned_of_when_its_generation_is_new() {
        let template = json!({"annotations": {"container.apparmor.security.beta.kubernetes.io/a": "x"}});
        let workload = |generation: i64| {
            json!({"metadata": {"generation": generation}, "spec": {"template": {"metadata": template,
                "spec": {"containers": [{"name": "a"}]}}}})
        };
        let warnings = super::template(&workload(2), Some(&workload(1)));
        assert_eq!(
            warnings,
            ["spec.template.metadata.annotations[container.apparmor.security.beta.kubernetes.io/a]: deprecated since \
              v1.30; use the \"appArmorProfile\" field instead"]
        );
        assert!(super::template(&workload(1), Some(&workload(1))).is_empty());
        assert_eq!(super::template(&workload(1), None), warnings);
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
