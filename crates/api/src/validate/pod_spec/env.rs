//! Environment variables. Upstream: `ValidateEnv`, `ValidateEnvFrom`.

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
        let v = source.get(field);
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
    if let Some((field, key)) = subscript(path.str()) {
        let problems = match field {
            "metadata.annotations" => crate::names::qualified_name(&key.to_lowercase()),
            "metadata.labels" => crate::names::qualified_name(key),
            _ => {
                errs.invalid(path.path(), path.str(), "does not support subscript");
                return;
            }
        };
        for problem in problems {
            errs.invalid(path.path(), path.str(), problem);
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
    let (container, resource, divisor) = (v.get("containerName"), v.get("resource"), v.get("divisor"));
    if volume && container.str().is_empty() {
        errs.required(container.path(), "");
    }
    let name = resource.str();
    if name.is_empty() {
        errs.required(resource.path(), "");
    } else if name.starts_with("limits.hugepages-") || name.starts_with("requests.hugepages-") {
    } else if !RESOURCES.contains(&name) {
        errs.not_supported(resource.path(), name, &RESOURCES);
    }
    let text = divisor.str();
    const BYTES: [&str; 13] = ["1", "1k", "1M", "1G", "1T", "1P", "1E", "1Ki", "1Mi", "1Gi", "1Ti", "1Pi", "1Ei"];
    if text.is_empty() || text == "0" {
        return;
    }
    let kind = name.split_once('.').map_or("", |(_, kind)| kind);
    if kind == "cpu" && !matches!(text, "1m" | "1") {
        errs.invalid(divisor.path(), "cpu", "only divisor's values 1m and 1 are supported with the cpu resource");
    } else if matches!(kind, "memory" | "ephemeral-storage") && !BYTES.contains(&text) {
        errs.invalid(
            divisor.path(),
            kind,
            format!("only divisor's values 1, 1k, 1M, 1G, 1T, 1P, 1E, 1Ki, 1Mi, 1Gi, 1Ti, 1Pi, 1Ei are supported with the {kind} resource"),
        );
    }
}

fn key_ref(errs: &mut ErrorList, v: &View<'_>) {
    let (name, key) = (v.get("name"), v.get("key"));
    if name.str().is_empty() {
        errs.required(name.path(), "");
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
        if let Some(problem) = name_problem(prefix.str()) {
            errs.invalid(prefix.path(), prefix.str(), problem);
        }
        let mut count = 0;
        for field in ["configMapRef", "secretRef"] {
            let v = from.get(field);
            if v.is_set() {
                count += 1;
                if v.get("name").str().is_empty() {
                    errs.required(v.get("name").path(), "");
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
                {"name": "a=b"}]})),
            [
                "spec.containers[0].env[0].valueFrom: Invalid value: \"\": may not be specified when `value` is not empty",
                "spec.containers[0].env[1].valueFrom.fieldRef.fieldPath: Invalid value: \"spec.nope\": error converting \
                 fieldPath: field label not supported: spec.nope",
                "spec.containers[0].env[3].name: Invalid value: \"a=b\": a valid environment variable name must consist \
                 only of printable ASCII characters other than '='",
            ]
        );
    }
}
