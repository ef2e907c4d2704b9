//! Environment variables. Upstream: `ValidateEnv`, `ValidateEnvFrom`.

use super::resources;
use crate::field::ErrorList;
use crate::object::View;
use crate::validate::config_map_key_problems;

/// Fields of the pod an environment variable may be made of.
const FIELDS: [&str; 9] = [
    "metadata.name",
    "metadata.namespace",
    "metadata.uid",
    "spec.nodeName",
    "spec.serviceAccountName",
    "status.hostIP",
    "status.hostIPs",
    "status.podIP",
    "status.podIPs",
];

/// Resources of a container an environment variable or file may be made of.
const RESOURCES: [&str; 6] = [
    "limits.cpu",
    "limits.ephemeral-storage",
    "limits.memory",
    "requests.cpu",
    "requests.ephemeral-storage",
    "requests.memory",
];

fn name_problem(name: &str) -> Option<&'static str> {
    let good = name.chars().all(|c| (' '..='~').contains(&c) && c != '=');
    (!good)
        .then_some("a valid environment variable name must consist only of printable ASCII characters other than '='")
}

/// The list `env` of a container.
pub fn env(errs: &mut ErrorList, list: &View<'_>) {
    for var in list.list() {
        let name = var.get("name");
        if name.str().is_empty() {
            errs.required(name.path(), "");
        } else if let Some(problem) = name_problem(name.str()) {
            errs.invalid(name.path(), name.str(), problem);
        }
        let source = var.get("valueFrom");
        if source.is_set() {
            value_from(errs, &source, !var.get("value").str().is_empty());
        }
    }
}

fn value_from(errs: &mut ErrorList, source: &View<'_>, has_value: bool) {
    let mut count = 0;
    let mut given = |field: &str| {
        let v = source.get_named(field);
        count += usize::from(v.is_set());
        v.is_set().then_some(v)
    };
    if let Some(field) = given("fieldRef") {
        field_ref(errs, &field, &FIELDS);
    }
    if let Some(resource) = given("resourceFieldRef") {
        resource_ref(errs, &resource, false);
    }
    for field in ["configMapKeyRef", "secretKeyRef"] {
        if let Some(reference) = given(field) {
            key_ref(errs, &reference);
        }
    }
    if let Some(file) = given("fileKeyRef") {
        for field in ["key", "volumeName", "path"] {
            if file.get(field).str().is_empty() {
                errs.required(file.get(field).path(), "");
            }
        }
        super::descending_path(errs, file.get("path").path(), file.get("path").str());
    }
    if count == 0 {
        errs.invalid(
            source.path(),
            "",
            "must specify one of: `fieldRef`, `resourceFieldRef`, `configMapKeyRef`, `secretKeyRef` or `fileKeyRef`",
        );
    } else if has_value {
        errs.invalid(source.path(), "", "may not be specified when `value` is not empty");
    } else if count > 1 {
        errs.invalid(source.path(), "", "may not have more than one field specified at a time");
    }
}

/// A reference to a field of the pod. Labels and annotations can be named one by one: `metadata.labels['a']`.
/// Upstream: `validateObjectFieldSelector`.
pub fn field_ref(errs: &mut ErrorList, v: &View<'_>, fields: &[&str]) {
    let (version, path) = (v.get("apiVersion"), v.get("fieldPath"));
    if version.str().is_empty() {
        errs.required(version.path(), "");
        return;
    }
    if path.str().is_empty() {
        errs.required(path.path(), "");
        return;
    }
    if version.str() != "v1" {
        let problem = format!("error converting fieldPath: unsupported pod version: {}", version.str());
        errs.invalid(path.path(), path.str(), problem);
        return;
    }
    if let Some((field, key)) = subscript(path.str()) {
        let key = match field {
            "metadata.annotations" => key.to_lowercase(),
            "metadata.labels" => key.to_owned(),
            _ => {
                let problem =
                    format!("error converting fieldPath: field label does not support subscript: {}", path.str());
                errs.invalid(path.path(), path.str(), problem);
                return;
            }
        };
        for problem in crate::names::qualified_name(&key) {
            errs.invalid(v.path(), &key, problem);
        }
        return;
    }
    const KNOWN: [&str; 5] =
        ["metadata.annotations", "metadata.labels", "spec.restartPolicy", "spec.schedulerName", "status.phase"];
    if !FIELDS.contains(&path.str()) && !KNOWN.contains(&path.str()) {
        let problem = format!("error converting fieldPath: field label not supported: {}", path.str());
        errs.invalid(path.path(), path.str(), problem);
    } else if !fields.contains(&path.str()) {
        errs.not_supported(path.path(), path.str(), fields);
    }
}

/// Splits `a.b['key']`.
fn subscript(path: &str) -> Option<(&str, &str)> {
    path.strip_suffix("']")?.split_once("['")
}

/// A reference to a resource of a container. In a volume it names the container.
/// Upstream: `validateContainerResourceFieldSelector`.
pub fn resource_ref(errs: &mut ErrorList, v: &View<'_>, volume: bool) {
    let (container, resource) = (v.get("containerName"), v.get("resource"));
    let name = resource.str();
    let huge = name.starts_with("limits.hugepages-") || name.starts_with("requests.hugepages-");
    if volume && container.str().is_empty() {
        errs.required(container.path(), "");
    } else if name.is_empty() {
        errs.required(resource.path(), "");
    } else if !huge && !RESOURCES.contains(&name) {
        errs.not_supported(resource.path(), name, &RESOURCES);
    }
    divisor(errs, name, huge, &v.get("divisor"));
}

/// The unit an amount is given in. Upstream: `validateContainerResourceDivisor`.
fn divisor(errs: &mut ErrorList, resource: &str, huge: bool, v: &View<'_>) {
    const BYTES: [&str; 13] = ["1", "1k", "1M", "1G", "1T", "1P", "1E", "1Ki", "1Mi", "1Gi", "1Ti", "1Pi", "1Ei"];
    let Some(amount) = resources::parsed(v).filter(|amount| !amount.is_zero()) else { return };
    let (allowed, what) = match resource.split_once('.') {
        Some((_, "cpu")) => {
            if !matches!(amount.to_string().as_str(), "1m" | "1") {
                let problem = "only divisor's values 1m and 1 are supported with the cpu resource";
                errs.invalid(v.path(), resource, problem);
            }
            return;
        }
        Some((_, "memory")) => (BYTES, "memory"),
        Some((_, "ephemeral-storage")) => (BYTES, "local ephemeral storage"),
        _ if huge => (BYTES, "hugepages"),
        _ => return,
    };
    if !allowed.contains(&amount.to_string().as_str()) {
        let values = allowed.join(", ");
        errs.invalid(
            v.path(),
            resource,
            format!("only divisor's values {values} are supported with the {what} resource"),
        );
    }
}

fn key_ref(errs: &mut ErrorList, v: &View<'_>) {
    let (name, key) = (v.get("name"), v.get("key"));
    for problem in crate::names::dns_subdomain(name.str(), false) {
        errs.invalid(name.path(), name.str(), problem);
    }
    if key.str().is_empty() {
        errs.required(key.path(), "");
    } else {
        for problem in config_map_key_problems(key.str()) {
            errs.invalid(key.path(), key.str(), problem);
        }
    }
}

/// The list `envFrom` of a container.
pub fn env_from(errs: &mut ErrorList, list: &View<'_>) {
    for from in list.list() {
        let prefix = from.get("prefix");
        if let Some(problem) = name_problem(prefix.str()).filter(|_| !prefix.str().is_empty()) {
            errs.invalid(prefix.path(), prefix.str(), problem);
        }
        let mut count = 0;
        for field in ["configMapRef", "secretRef"] {
            let v = from.get(field);
            if v.is_set() {
                count += 1;
                let name = v.get("name");
                if name.str().is_empty() {
                    errs.required(name.path(), "");
                } else {
                    for problem in crate::names::dns_subdomain(name.str(), true) {
                        errs.invalid(name.path(), name.str(), problem);
                    }
                }
            }
        }
        match count {
            0 => errs.invalid(list.path(), "", "must specify one of: `configMapRef` or `secretRef`"),
            1 => {}
            _ => errs.invalid(list.path(), "", "may not have more than one field specified at a time"),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use crate::validate::pod_spec::tests::container_problems;

    #[test]
    fn a_variable_has_one_source() {
        assert_eq!(
            container_problems(json!({"env": [
                {"name": "A", "value": "x", "valueFrom": {"configMapKeyRef": {"name": "c", "key": "k"}}},
                {"name": "B", "valueFrom": {"fieldRef": {"fieldPath": "spec.nope"}}},
                {"name": "C", "valueFrom": {"fieldRef": {"fieldPath": "metadata.labels['a']"}}},
                {"name": "D", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name['a']"}}},
                {"name": "E", "valueFrom": {"secretKeyRef": {"name": "S", "key": "k"}}},
                {"name": "F", "valueFrom": {"resourceFieldRef": {"resource": "limits.cpu", "divisor": "2"}}},
                {"name": "G", "valueFrom": {"resourceFieldRef": {"resource": "limits.cpu", "divisor": "1000m"}}},
                {"name": "a=b"}]})),
            [
                "spec.containers[0].env[0].valueFrom: Invalid value: \"\": may not be specified when `value` is not empty",
                "spec.containers[0].env[1].valueFrom.fieldRef.fieldPath: Invalid value: \"spec.nope\": error converting \
                 fieldPath: field label not supported: spec.nope",
                "spec.containers[0].env[3].valueFrom.fieldRef.fieldPath: Invalid value: \"metadata.name['a']\": error \
                 converting fieldPath: field label does not support subscript: metadata.name['a']",
                "spec.containers[0].env[4].valueFrom.secretKeyRef.name: Invalid value: \"S\": a lowercase RFC 1123 subdomain \
                 must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an \
                 alphanumeric character (e.g. 'example.com', regex used for validation is \
                 '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')",
                "spec.containers[0].env[5].valueFrom.resourceFieldRef.divisor: Invalid value: \"limits.cpu\": only divisor's \
                 values 1m and 1 are supported with the cpu resource",
                "spec.containers[0].env[7].name: Invalid value: \"a=b\": a valid environment variable name must consist \
                 only of printable ASCII characters other than '='",
            ]
        );
    }
}
