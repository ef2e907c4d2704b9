//! The environment of a container (pure): literals, ConfigMaps, Secrets, fields, resources, services, and the
//! `$(VAR)` expansion. Follows upstream `makeEnvironmentVariables` and `third_party/forked/golang/expansion`.

use std::collections::{BTreeMap, HashMap};

use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::{Container, Pod, ResourceFieldSelector, Service};

use crate::{pod, resources};

/// ConfigMaps and Secrets a container's environment is made of, by name.
#[derive(Debug, Clone, Default)]
pub struct Sources {
    /// ConfigMaps; `None` means: it does not exist.
    pub config_maps: HashMap<String, Option<BTreeMap<String, String>>>,
    /// Secrets; `None` means: it does not exist.
    pub secrets: HashMap<String, Option<BTreeMap<String, ByteString>>>,
}

/// What a field reference may name besides the pod itself.
#[derive(Debug, Clone, Default)]
pub struct Facts {
    /// Addresses of the pod.
    pub pod_ips: Vec<String>,
    /// Addresses of the node.
    pub host_ips: Vec<String>,
    /// Allocatable cpu (thousandths) and memory (bytes) of the node, for containers without limits.
    pub allocatable: (i64, i64),
    /// Allocatable ephemeral storage (bytes).
    pub ephemeral_storage: i64,
}

/// `$(NAME)` is replaced where NAME is known, `$$` stands for `$`, anything else stays.
pub fn expand(text: &str, lookup: &dyn Fn(&str) -> Option<String>) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('$') {
        out.push_str(&rest[..at]);
        let after = &rest[at + 1..];
        rest = if let Some(tail) = after.strip_prefix('$') {
            out.push('$');
            tail
        } else if let Some(inner) = after.strip_prefix('(') {
            match inner.find(')') {
                Some(end) => {
                    let name = &inner[..end];
                    match lookup(name) {
                        Some(value) => out.push_str(&value),
                        None => {
                            out.push_str("$(");
                            out.push_str(name);
                            out.push(')');
                        }
                    }
                    &inner[end + 1..]
                }
                // An unclosed reference is kept as it is.
                None => {
                    out.push_str("$(");
                    inner
                }
            }
        } else {
            out.push('$');
            after
        };
    }
    out.push_str(rest);
    out
}

/// The value of a pod's field, as `fieldRef` names it.
pub fn field(pod: &Pod, facts: &Facts, path: &str) -> Result<String, String> {
    let subscript = |prefix: &str| path.strip_prefix(prefix)?.strip_prefix("['")?.strip_suffix("']");
    if let Some(key) = subscript("metadata.annotations") {
        return Ok(pod::annotation(pod, key).unwrap_or_default().to_owned());
    }
    if let Some(key) = subscript("metadata.labels") {
        return Ok(pod.metadata.labels.as_ref().and_then(|l| l.get(key)).cloned().unwrap_or_default());
    }
    let spec = pod::spec(pod);
    Ok(match path {
        "metadata.name" => pod::name(pod).to_owned(),
        "metadata.namespace" => pod::namespace(pod).to_owned(),
        "metadata.uid" => pod::uid(pod).to_owned(),
        "metadata.annotations" => format_map(pod.metadata.annotations.as_ref()),
        "metadata.labels" => format_map(pod.metadata.labels.as_ref()),
        "spec.nodeName" => spec.node_name.clone().unwrap_or_default(),
        "spec.serviceAccountName" => spec.service_account_name.clone().unwrap_or_default(),
        "status.hostIP" => facts.host_ips.first().cloned().unwrap_or_default(),
        "status.hostIPs" => facts.host_ips.join(","),
        "status.podIP" => facts.pod_ips.first().cloned().unwrap_or_default(),
        "status.podIPs" => facts.pod_ips.join(","),
        _ => return Err(format!("unsupported fieldPath: {path}")),
    })
}

/// Labels or annotations as the downward API writes them: `key="value"` lines, sorted.
pub fn format_map(map: Option<&BTreeMap<String, String>>) -> String {
    let lines: Vec<_> = map.into_iter().flatten().map(|(k, v)| format!("{k}={v:?}")).collect();
    lines.join("\n")
}

/// The value of a container's resource, as `resourceFieldRef` names it.
pub fn resource(container: &Container, selector: &ResourceFieldSelector, facts: &Facts) -> Result<String, String> {
    let divisor = selector.divisor.as_ref().map(|q| q.0.as_str()).filter(|d| !matches!(*d, "" | "0")).unwrap_or("1");
    let resources = container.resources.as_ref();
    let (kind, name) = selector
        .resource
        .split_once('.')
        .ok_or_else(|| format!("unsupported container resource : {}", selector.resource))?;
    let quantity = match kind {
        "limits" => resources::limit(resources, name),
        "requests" => resources.and_then(|r| r.requests.as_ref()?.get(name).cloned()),
        _ => return Err(format!("unsupported container resource : {}", selector.resource)),
    };
    let ceil = |value: i64, by: i64| if by <= 0 { value } else { value / by + i64::from(value % by != 0) };
    if name == "cpu" {
        let value = quantity.and_then(|q| resources::milli(&q.0));
        let value = value.unwrap_or(if kind == "limits" { facts.allocatable.0 } else { 0 });
        return Ok(ceil(value, resources::milli(divisor).unwrap_or(1000)).to_string());
    }
    let fallback = match (kind, name) {
        ("limits", "memory") => facts.allocatable.1,
        ("limits", "ephemeral-storage") => facts.ephemeral_storage,
        _ => 0,
    };
    let value = quantity.and_then(|q| resources::units(&q.0)).unwrap_or(fallback);
    Ok(ceil(value, resources::units(divisor).unwrap_or(1)).to_string())
}

/// The variables that announce services of the namespace (and `kubernetes` of the default one).
pub fn services(services: &[Service], namespace: &str, links: bool) -> BTreeMap<String, String> {
    let mut out = BTreeMap::new();
    for service in services {
        let (Some(name), Some(spec)) = (service.metadata.name.as_deref(), service.spec.as_ref()) else { continue };
        let home = service.metadata.namespace.as_deref().unwrap_or_default();
        let master = home == "default" && name == "kubernetes";
        let ip = spec.cluster_ip.as_deref().unwrap_or_default();
        if ip.is_empty() || ip == "None" || !(master || (links && home == namespace)) {
            continue;
        }
        // A service of the pod's own namespace wins over the default one of the same name.
        if master
            && home != namespace
            && services.iter().any(|s| {
                links && s.metadata.name.as_deref() == Some(name) && s.metadata.namespace.as_deref() == Some(namespace)
            })
        {
            continue;
        }
        let prefix = name.to_uppercase().replace('-', "_");
        let ports = spec.ports.as_deref().unwrap_or_default();
        let Some(first) = ports.first() else { continue };
        out.insert(format!("{prefix}_SERVICE_HOST"), ip.to_owned());
        out.insert(format!("{prefix}_SERVICE_PORT"), first.port.to_string());
        let host = if ip.contains(':') { format!("[{ip}]") } else { ip.to_owned() };
        for (i, port) in ports.iter().enumerate() {
            if let Some(port_name) = port.name.as_deref().filter(|n| !n.is_empty()) {
                let suffix = port_name.to_uppercase().replace('-', "_");
                out.insert(format!("{prefix}_SERVICE_PORT_{suffix}"), port.port.to_string());
            }
            let protocol = port.protocol.as_deref().unwrap_or("TCP");
            let lower = protocol.to_lowercase();
            let url = format!("{lower}://{host}:{}", port.port);
            if i == 0 {
                out.insert(format!("{prefix}_PORT"), url.clone());
            }
            let base = format!("{prefix}_PORT_{}_{protocol}", port.port);
            out.insert(format!("{base}_PROTO"), lower);
            out.insert(format!("{base}_PORT"), port.port.to_string());
            out.insert(format!("{base}_ADDR"), ip.to_owned());
            out.insert(base, url);
        }
    }
    out
}

/// The environment of a container, or the text of a CreateContainerConfigError.
pub fn environment(
    pod: &Pod,
    container: &Container,
    facts: &Facts,
    sources: &Sources,
    mut from_services: BTreeMap<String, String>,
) -> Result<BTreeMap<String, String>, String> {
    let namespace = pod::namespace(pod);
    let mut result: BTreeMap<String, String> = BTreeMap::new();
    for from in container.env_from.iter().flatten() {
        let prefix = from.prefix.as_deref().unwrap_or_default();
        if let Some(reference) = &from.config_map_ref {
            match sources.config_maps.get(&reference.name).and_then(Option::as_ref) {
                Some(data) => result.extend(data.iter().map(|(k, v)| (format!("{prefix}{k}"), v.clone()))),
                None if reference.optional == Some(true) => {}
                None => return Err(format!("configmap \"{}\" not found", reference.name)),
            }
        } else if let Some(reference) = &from.secret_ref {
            match sources.secrets.get(&reference.name).and_then(Option::as_ref) {
                Some(data) => result.extend(
                    data.iter().map(|(k, v)| (format!("{prefix}{k}"), String::from_utf8_lossy(&v.0).into_owned())),
                ),
                None if reference.optional == Some(true) => {}
                None => return Err(format!("secret \"{}\" not found", reference.name)),
            }
        }
    }
    let mut known: HashMap<String, String> = HashMap::new();
    for var in container.env.iter().flatten() {
        let value = if let Some(text) = var.value.as_deref().filter(|v| !v.is_empty()) {
            expand(text, &|name| {
                known.get(name).or_else(|| result.get(name)).or_else(|| from_services.get(name)).cloned()
            })
        } else if let Some(source) = &var.value_from {
            if let Some(reference) = &source.field_ref {
                field(pod, facts, &reference.field_path)?
            } else if let Some(selector) = &source.resource_field_ref {
                let spec = pod::spec(pod);
                let named = selector.container_name.as_deref().filter(|n| !n.is_empty());
                let other = named.and_then(|n| pod::find_container(&spec, n)).map(|(_, c)| c);
                resource(other.as_ref().unwrap_or(container), selector, facts)?
            } else if let Some(reference) = &source.config_map_key_ref {
                let optional = reference.optional == Some(true);
                let Some(data) = sources.config_maps.get(&reference.name).and_then(Option::as_ref) else {
                    if optional {
                        continue;
                    }
                    return Err(format!("configmap \"{}\" not found", reference.name));
                };
                match data.get(&reference.key) {
                    Some(value) => value.clone(),
                    None if optional => continue,
                    None => {
                        return Err(format!(
                            "couldn't find key {} in ConfigMap {namespace}/{}",
                            reference.key, reference.name
                        ));
                    }
                }
            } else if let Some(reference) = &source.secret_key_ref {
                let optional = reference.optional == Some(true);
                let Some(data) = sources.secrets.get(&reference.name).and_then(Option::as_ref) else {
                    if optional {
                        continue;
                    }
                    return Err(format!("secret \"{}\" not found", reference.name));
                };
                match data.get(&reference.key) {
                    Some(value) => String::from_utf8_lossy(&value.0).into_owned(),
                    None if optional => continue,
                    None => {
                        return Err(format!(
                            "couldn't find key {} in Secret {namespace}/{}",
                            reference.key, reference.name
                        ));
                    }
                }
            } else {
                String::new()
            }
        } else {
            String::new()
        };
        known.insert(var.name.clone(), value.clone());
        result.insert(var.name.clone(), value);
    }
    from_services.extend(result);
    Ok(from_services)
}

/// Names of ConfigMaps and Secrets an environment is made of.
pub fn references(container: &Container) -> (Vec<String>, Vec<String>) {
    let (mut maps, mut secrets) = (Vec::new(), Vec::new());
    for from in container.env_from.iter().flatten() {
        maps.extend(from.config_map_ref.as_ref().map(|r| r.name.clone()));
        secrets.extend(from.secret_ref.as_ref().map(|r| r.name.clone()));
    }
    for source in container.env.iter().flatten().filter_map(|v| v.value_from.as_ref()) {
        maps.extend(source.config_map_key_ref.as_ref().map(|r| r.name.clone()));
        secrets.extend(source.secret_key_ref.as_ref().map(|r| r.name.clone()));
    }
    for list in [&mut maps, &mut secrets] {
        list.sort();
        list.dedup();
    }
    (maps, secrets)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn expansion() {
        let check = |text: &str, expected: &str| {
            let lookup = |name: &str| (name == "A").then(|| "1".to_owned());
            assert_eq!(expand(text, &lookup), expected, "{text}");
        };
        check("$(A)", "1");
        check("x$(A)y$(B)z", "x1y$(B)z");
        check("$$(A)", "$(A)");
        check("$A $", "$A $");
        check("$(A", "$(A");
        check("$$$(A)", "$1");
        check("é$(A)é", "é1é");
    }

    #[test]
    fn an_environment_is_put_together() {
        let pod: Pod = serde_json::from_value(json!({
            "metadata": {"name": "p", "namespace": "n", "labels": {"a": "b"}},
            "spec": {"containers": [{"name": "c"}]},
        }))
        .unwrap_or_default();
        let sources = Sources {
            config_maps: HashMap::from([("m".to_owned(), Some(BTreeMap::from([("k".to_owned(), "v".to_owned())])))]),
            secrets: HashMap::new(),
        };
        let check = |env: serde_json::Value, expected: Result<&str, &str>| {
            let container: Container = serde_json::from_value(json!({"name": "c", "env": env})).unwrap_or_default();
            let facts =
                Facts { pod_ips: vec!["10.0.0.1".to_owned()], allocatable: (2000, 1 << 30), ..Facts::default() };
            let made = environment(&pod, &container, &facts, &sources, BTreeMap::new());
            let last = made.map(|m| m.get("X").cloned().unwrap_or_else(|| "absent".to_owned()));
            assert_eq!(last.as_deref().map_err(String::as_str), expected);
        };
        check(json!([{"name": "A", "value": "1"}, {"name": "X", "value": "$(A)$(B)"}]), Ok("1$(B)"));
        check(json!([{"name": "X", "valueFrom": {"fieldRef": {"fieldPath": "metadata.labels['a']"}}}]), Ok("b"));
        check(json!([{"name": "X", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}}]), Ok("10.0.0.1"));
        check(json!([{"name": "X", "valueFrom": {"resourceFieldRef": {"resource": "limits.cpu"}}}]), Ok("2"));
        check(json!([{"name": "X", "valueFrom": {"configMapKeyRef": {"name": "m", "key": "k"}}}]), Ok("v"));
        check(
            json!([{"name": "X", "valueFrom": {"configMapKeyRef": {"name": "m", "key": "z"}}}]),
            Err("couldn't find key z in ConfigMap n/m"),
        );
        check(
            json!([{"name": "X", "valueFrom": {"secretKeyRef": {"name": "s", "key": "z"}}}]),
            Err("secret \"s\" not found"),
        );
        check(
            json!([{"name": "X", "valueFrom": {"secretKeyRef": {"name": "s", "key": "z", "optional": true}}}]),
            Ok("absent"),
        );
    }

    #[test]
    fn services_are_announced() {
        let list: Vec<Service> = serde_json::from_value(json!([
            {"metadata": {"name": "my-db", "namespace": "n"},
             "spec": {"clusterIP": "10.0.0.5", "ports": [{"name": "sql", "port": 5432}]}},
            {"metadata": {"name": "headless", "namespace": "n"}, "spec": {"clusterIP": "None", "ports": [{"port": 1}]}},
            {"metadata": {"name": "other", "namespace": "m"}, "spec": {"clusterIP": "10.0.0.6", "ports": [{"port": 1}]}},
        ]))
        .unwrap_or_default();
        let made = services(&list, "n", true);
        assert_eq!(made.get("MY_DB_SERVICE_HOST").map(String::as_str), Some("10.0.0.5"));
        assert_eq!(made.get("MY_DB_SERVICE_PORT_SQL").map(String::as_str), Some("5432"));
        assert_eq!(made.get("MY_DB_PORT_5432_TCP").map(String::as_str), Some("tcp://10.0.0.5:5432"));
        assert_eq!(made.len(), 8);
        assert!(services(&list, "n", false).is_empty());
    }
}
