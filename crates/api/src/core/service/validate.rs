//! Rules of services. Upstream: `ValidateService`, `ValidateServiceUpdate`, `GetWarningsForService`.

use std::collections::BTreeSet;

use serde_json::Value;

use crate::field::{ErrorList, Path};
use crate::object::{View, at, list, same, text};
use crate::validate::{
    PROTOCOLS, dns_label_at, ip_address, labels, non_special_ip, one_of, port_number, port_number_or_name,
};

const TYPES: [&str; 4] = ["ClusterIP", "ExternalName", "LoadBalancer", "NodePort"];
const KUBELET_PORT: i64 = 10250;
const MAX_AFFINITY_SECONDS: i64 = 86400;

/// A service; `old` is what it was before an update.
pub(super) fn service(obj: &Value, old: Option<&Value>) -> ErrorList {
    let mut errs = ErrorList::new();
    let spec = View::root(obj).get("spec");
    let (ports, ty, address) = (spec.get("ports"), spec.get("type"), spec.get("clusterIP"));
    let headless = address.str() == "None";
    if ports.is_empty() && !headless && ty.str() != "ExternalName" {
        errs.required(ports.path(), "");
    }
    match ty.str() {
        "LoadBalancer" => {
            for port in ports.list() {
                if port.get("port").int() == Some(KUBELET_PORT) {
                    errs.invalid(
                        port.path(),
                        KUBELET_PORT,
                        "may not expose port 10250 externally since it is used by kubelet",
                    );
                }
            }
            if headless {
                errs.invalid(
                    &spec.get("clusterIPs").path().index(0),
                    "None",
                    "may not be set to 'None' for LoadBalancer services",
                );
            }
        }
        "NodePort" if headless => {
            errs.invalid(
                &spec.get("clusterIPs").path().index(0),
                "None",
                "may not be set to 'None' for NodePort services",
            );
        }
        "ExternalName" => external_name(&mut errs, &spec),
        _ => {}
    }
    let mut names = BTreeSet::new();
    for port in ports.list() {
        self::port(&mut errs, &port, ports.len() > 1, &mut names);
    }
    labels::labels(&mut errs, &spec.get("selector"));
    affinity(&mut errs, &spec);
    cluster_ips(&mut errs, &spec);
    for ip in spec.get("externalIPs").list() {
        if ip.str().parse::<std::net::IpAddr>().is_ok() {
            non_special_ip(&mut errs, ip.str(), ip.path());
        } else {
            ip_address(&mut errs, ip.str(), ip.path());
        }
    }
    one_of(&mut errs, &ty, &TYPES);
    if ty.str() == "ClusterIP" {
        for port in ports.list() {
            let node = port.get("nodePort");
            if node.int().unwrap_or_default() != 0 {
                errs.forbidden(node.path(), "may not be used when `type` is 'ClusterIP'");
            }
        }
    }
    duplicates(&mut errs, &ports);
    source_ranges(&mut errs, obj, &spec);
    load_balancer(&mut errs, &spec, old);
    traffic(&mut errs, &spec);
    errs
}

fn external_name(errs: &mut ErrorList, spec: &View<'_>) {
    for (field, detail) in [
        ("clusterIPs", "may not be set for ExternalName services"),
        ("ipFamilies", "may not be set for ExternalName services"),
        ("ipFamilyPolicy", "may not be set for ExternalName services"),
    ] {
        let v = spec.get(field);
        if !v.is_empty() {
            errs.forbidden(v.path(), detail);
        }
    }
    let name = spec.get("externalName");
    // The final dot of an absolute name is allowed.
    let value = name.str().strip_suffix('.').unwrap_or(name.str());
    if value.is_empty() {
        errs.required(name.path(), "");
    } else {
        for problem in crate::names::dns_subdomain(value, false) {
            errs.invalid(name.path(), value, problem);
        }
    }
}

fn port<'a>(errs: &mut ErrorList, port: &View<'a>, named: bool, seen: &mut BTreeSet<&'a str>) {
    let name = port.get("name");
    if name.str().is_empty() {
        if named {
            errs.required(name.path(), "");
        }
    } else {
        dns_label_at(errs, &name);
        if !seen.insert(name.str()) {
            errs.duplicate(name.path(), name.str());
        }
    }
    port_number(errs, port.get("port").int().unwrap_or_default(), port.get("port").path());
    one_of(errs, &port.get("protocol"), &PROTOCOLS);
    port_number_or_name(errs, &port.get("targetPort"));
    let app = port.get("appProtocol");
    if app.is_set() {
        for problem in crate::names::qualified_name(app.str()) {
            errs.invalid(app.path(), app.str(), problem);
        }
    }
}

fn affinity(errs: &mut ErrorList, spec: &View<'_>) {
    let (affinity, config) = (spec.get("sessionAffinity"), spec.get("sessionAffinityConfig"));
    one_of(errs, &affinity, &["ClientIP", "None"]);
    match affinity.str() {
        "ClientIP" => {
            let timeout = config.dig("clientIP.timeoutSeconds");
            if !config.is_set() {
                errs.required(config.path(), "when session affinity type is ClientIP");
            } else if !config.get("clientIP").is_set() {
                errs.required(config.get("clientIP").path(), "when session affinity type is ClientIP");
            } else if let Some(seconds) = timeout.int() {
                if !(1..=MAX_AFFINITY_SECONDS).contains(&seconds) {
                    errs.invalid(
                        timeout.path(),
                        seconds,
                        format!("must be greater than 0 and less than {MAX_AFFINITY_SECONDS}"),
                    );
                }
            } else {
                errs.required(timeout.path(), "when session affinity type is ClientIP");
            }
        }
        "None" if config.is_set() => {
            errs.forbidden(config.path(), "must not be set when session affinity is None");
        }
        _ => {}
    }
}

/// Addresses and families. Upstream: `ValidateServiceClusterIPsRelatedFields`.
fn cluster_ips(errs: &mut ErrorList, spec: &View<'_>) {
    if spec.get("type").str() == "ExternalName" {
        return;
    }
    let (one, many) = (spec.get("clusterIP"), spec.get("clusterIPs"));
    let first = many.strs().first().copied().unwrap_or_default();
    if one.str().is_empty() && !many.is_empty() {
        errs.required(one.path(), "must be set when `clusterIPs` has values");
    } else if !one.str().is_empty() && !many.is_empty() && one.str() != first {
        errs.invalid(many.path(), many.value(), "first value must match `clusterIP`");
    } else if !one.str().is_empty()
        && many.is_empty()
        && one.str() != "None"
        && one.str().parse::<std::net::IpAddr>().is_err()
    {
        ip_address(errs, one.str(), one.path());
    }
    for address in many.list() {
        if address.str() == "None" {
            if many.len() > 1 {
                errs.invalid(address.path(), address.str(), "'None' must be the first and only value");
            }
        } else if address.str().parse::<std::net::IpAddr>().is_err() {
            ip_address(errs, address.str(), address.path());
        }
    }
    if many.len() > 2 {
        errs.invalid(many.path(), many.value(), "may only hold up to 2 values");
    }
    let families = spec.get("ipFamilies");
    let mut seen = BTreeSet::new();
    for family in families.list() {
        if !matches!(family.str(), "IPv4" | "IPv6") {
            errs.not_supported(family.path(), family.str(), &["IPv4", "IPv6"]);
        }
        if !seen.insert(family.str()) {
            errs.duplicate(family.path(), family.str());
        }
    }
    let policy = spec.get("ipFamilyPolicy");
    const POLICIES: [&str; 3] = ["PreferDualStack", "RequireDualStack", "SingleStack"];
    if policy.is_set() && !POLICIES.contains(&policy.str()) {
        errs.not_supported(policy.path(), policy.str(), &POLICIES);
    }
    for (address, family) in many.list().iter().zip(families.strs()) {
        let Ok(ip) = address.str().parse::<std::net::IpAddr>() else { continue };
        if ip.is_ipv6() != (family == "IPv6") {
            errs.invalid(
                address.path(),
                address.str(),
                format!("expected an {family} value as indicated by `ipFamilies[{}]`", index_of(address.path())),
            );
        }
    }
}

fn index_of(path: &Path) -> &str {
    path.as_str().rsplit_once('[').map_or("0", |(_, tail)| tail.trim_end_matches(']'))
}

fn duplicates(errs: &mut ErrorList, ports: &View<'_>) {
    let mut nodes = BTreeSet::new();
    for port in ports.list() {
        let node = port.get("nodePort");
        let number = node.int().unwrap_or_default();
        if number != 0 && !nodes.insert((port.get("protocol").str(), number)) {
            errs.duplicate(node.path(), number.to_string().as_str());
        }
    }
    let mut numbers = BTreeSet::new();
    for port in ports.list() {
        let (protocol, number) = (port.get("protocol").str(), port.get("port").int().unwrap_or_default());
        if !numbers.insert((protocol, number)) {
            errs.duplicate(port.path(), &serde_json::json!({"protocol": protocol, "port": number}));
        }
    }
}

fn source_ranges(errs: &mut ErrorList, obj: &Value, spec: &View<'_>) {
    const ANNOTATION: &str = "service.beta.kubernetes.io/load-balancer-source-ranges";
    let ranges = spec.get("loadBalancerSourceRanges");
    let annotation = at(obj, &["metadata", "annotations", ANNOTATION]);
    if !ranges.is_empty() {
        if spec.get("type").str() != "LoadBalancer" {
            errs.forbidden(ranges.path(), "may only be used when `type` is 'LoadBalancer'");
        }
        for range in ranges.list() {
            crate::validate::cidr(errs, range.str().trim(), range.path());
        }
    } else if let Some(text) = annotation.as_str() {
        let path = Path::new("metadata").child("annotations").key(ANNOTATION);
        if spec.get("type").str() != "LoadBalancer" {
            errs.forbidden(&path, "may only be used when `type` is 'LoadBalancer'");
        }
        let bad = text.split(',').map(str::trim).any(|r| r.parse::<ipnet::IpNet>().is_err());
        if bad && !text.trim().is_empty() {
            errs.invalid(&path, text, "must be a list of IP ranges. For example, 10.240.0.0/24,10.250.0.0/24");
        }
    }
}

fn load_balancer(errs: &mut ErrorList, spec: &View<'_>, old: Option<&Value>) {
    let balanced = spec.get("type").str() == "LoadBalancer";
    let (allocate, class) = (spec.get("allocateLoadBalancerNodePorts"), spec.get("loadBalancerClass"));
    if balanced && !allocate.is_set() {
        errs.required(allocate.path(), "");
    }
    if !balanced && allocate.is_set() {
        errs.forbidden(allocate.path(), "may only be used when `type` is 'LoadBalancer'");
    }
    if !class.is_set() {
        if balanced
            && let Some(old) = old
            && text(old, &["spec", "type"]) == "LoadBalancer"
            && !at(old, &["spec", "loadBalancerClass"]).is_null()
        {
            errs.invalid(class.path(), class.value(), "may not change once set");
        }
        return;
    }
    for problem in crate::names::qualified_name(class.str()) {
        errs.invalid(class.path(), class.str(), problem);
    }
    if !balanced {
        errs.forbidden(class.path(), "may only be used when `type` is 'LoadBalancer'");
    }
    if let Some(old) = old
        && text(old, &["spec", "type"]) == "LoadBalancer"
        && !same(at(old, &["spec", "loadBalancerClass"]), class.value())
    {
        errs.invalid(class.path(), class.value(), "may not change once set");
    }
}

fn traffic(errs: &mut ErrorList, spec: &View<'_>) {
    let (external, internal) = (spec.get("externalTrafficPolicy"), spec.get("internalTrafficPolicy"));
    let exposed = match spec.get("type").str() {
        "LoadBalancer" | "NodePort" => true,
        "ClusterIP" => !spec.get("externalIPs").is_empty(),
        _ => false,
    };
    match external.str() {
        "" => {
            if exposed {
                errs.required(external.path(), "");
            }
        }
        policy => {
            if !exposed {
                errs.invalid(external.path(), policy, "may only be set for externally-accessible services");
            }
            if !matches!(policy, "Cluster" | "Local") {
                errs.not_supported(external.path(), policy, &["Cluster", "Local"]);
            }
        }
    }
    let health = spec.get("healthCheckNodePort");
    match health.int().unwrap_or_default() {
        0 => {}
        n => {
            port_number(errs, n, health.path());
            if spec.get("type").str() != "LoadBalancer" || external.str() != "Local" {
                errs.invalid(
                    health.path(),
                    n,
                    "may only be set when `type` is 'LoadBalancer' and `externalTrafficPolicy` is 'Local'",
                );
            }
        }
    }
    // It may stay on a service that has become an alias: it was not looked at before, and stored objects have it.
    if internal.is_set() && !matches!(internal.str(), "Cluster" | "Local") {
        errs.not_supported(internal.path(), internal.str(), &["Cluster", "Local"]);
    }
    let distribution = spec.get("trafficDistribution");
    const DISTRIBUTIONS: [&str; 3] = ["PreferClose", "PreferSameNode", "PreferSameZone"];
    if distribution.is_set() && !DISTRIBUTIONS.contains(&distribution.str()) {
        errs.not_supported(distribution.path(), distribution.str(), &DISTRIBUTIONS);
    }
}

/// A changed service: addresses stay while the type has them.
pub(super) fn update(new: &Value, old: &Value) -> ErrorList {
    let mut errs = ErrorList::new();
    let has_address = |obj: &Value| text(obj, &["spec", "type"]) != "ExternalName";
    if has_address(new) && has_address(old) {
        let first = |obj: &Value| match list(obj, &["spec", "clusterIPs"]).first() {
            Some(ip) => ip.clone(),
            None => at(obj, &["spec", "clusterIP"]).clone(),
        };
        if !same(&first(old), &Value::Null) && first(new) != first(old) {
            let path = Path::new("spec").child("clusterIPs").index(0);
            errs.invalid(&path, &first(new), "may not change once set");
        }
        let family = list(old, &["spec", "ipFamilies"]).first();
        if family.is_some() && list(new, &["spec", "ipFamilies"]).first() != family {
            let path = Path::new("spec").child("ipFamilies");
            let index = path.index(0);
            let now = list(new, &["spec", "ipFamilies"]).first().cloned().unwrap_or_default();
            errs.invalid(&index, &now, "may not change once set");
        }
    }
    errs.extend(service(new, Some(old)));
    errs
}

/// The status of a service: the addresses of its load balancer.
pub(super) fn status(obj: &Value) -> ErrorList {
    let mut errs = ErrorList::new();
    let root = View::root(obj);
    let ingress = root.dig("status.loadBalancer.ingress");
    if !ingress.is_empty() && text(obj, &["spec", "type"]) != "LoadBalancer" {
        errs.forbidden(ingress.path(), "may only be used when `spec.type` is \"LoadBalancer\"");
    }
    for entry in ingress.list() {
        let (ip, hostname, mode) = (entry.get("ip"), entry.get("hostname"), entry.get("ipMode"));
        if !ip.str().is_empty() {
            ip_address(&mut errs, ip.str(), ip.path());
        }
        match (ip.str().is_empty(), mode.opt_str()) {
            (true, Some(_)) => errs.forbidden(mode.path(), "may not be specified when `ip` is not set"),
            (false, None) => errs.required(mode.path(), "must be specified when `ip` is set"),
            (false, Some(value)) if !matches!(value, "Proxy" | "VIP") => {
                errs.not_supported(mode.path(), value, &["Proxy", "VIP"]);
            }
            _ => {}
        }
        if !hostname.str().is_empty() {
            crate::validate::dns_subdomain_at(&mut errs, &hostname);
            if hostname.str().parse::<std::net::IpAddr>().is_ok() {
                errs.invalid(hostname.path(), hostname.str(), "must be a DNS name, not an IP address");
            }
        }
    }
    errs
}

/// What is accepted but hardly meant.
pub(super) fn warnings(new: &Value, old: Option<&Value>) -> Vec<String> {
    let mut warnings = Vec::new();
    let spec = View::root(new).get("spec");
    let hints = |obj| at(obj, &["metadata", "annotations"]);
    if old.is_some_and(|old| same(at(old, &["spec"]), spec.value()) && same(hints(old), hints(new))) {
        return warnings;
    }
    const HINTS: &str = "service.kubernetes.io/topology-aware-hints";
    if !at(new, &["metadata", "annotations", HINTS]).is_null() {
        warnings
            .push(format!("annotation {HINTS} is deprecated, please use service.kubernetes.io/topology-mode instead"));
    }
    if spec.get("clusterIP").str() == "None" {
        if !spec.get("loadBalancerIP").str().is_empty() {
            warnings.push("spec.loadBalancerIP is ignored for headless services".to_owned());
        }
        if !spec.get("externalIPs").is_empty() {
            warnings.push("spec.externalIPs is ignored for headless services".to_owned());
        }
        if spec.get("sessionAffinity").str() == "ClientIP" {
            warnings.push("spec.SessionAffinity is ignored for headless services".to_owned());
        }
    }
    if spec.get("trafficDistribution").str() == "PreferClose" {
        warnings
            .push("spec.trafficDistribution: PreferClose is deprecated since v1.35; use PreferSameZone instead".into());
    }
    warnings
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::core::service::Service;
    use crate::kind::Kind;

    fn problems(spec: Value) -> Vec<String> {
        let mut obj = json!({"metadata": {"name": "x"}, "spec": spec});
        Service.default(&mut obj);
        service(&obj, None).0.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn ports_must_be_there_and_in_range() {
        assert_eq!(problems(json!({})), ["spec.ports: Required value"]);
        assert_eq!(
            problems(json!({"ports": [{"port": 70000}]})),
            [
                "spec.ports[0].port: Invalid value: 70000: must be between 1 and 65535, inclusive",
                "spec.ports[0].targetPort: Invalid value: 70000: must be between 1 and 65535, inclusive",
            ]
        );
        assert_eq!(
            problems(json!({"ports": [{"port": 80}, {"port": 80, "name": "b"}]})),
            [
                "spec.ports[0].name: Required value",
                "spec.ports[1]: Duplicate value: {\"port\":80,\"protocol\":\"TCP\"}"
            ]
        );
    }

    #[test]
    fn an_address_once_given_stays() {
        let of = |ip: &str| {
            json!({"spec": {"type": "ClusterIP", "clusterIP": ip, "clusterIPs": [ip], "sessionAffinity": "None",
            "ports": [{"port": 80, "protocol": "TCP", "targetPort": 80}]}})
        };
        let texts: Vec<String> = update(&of("10.43.0.8"), &of("10.43.0.7")).0.iter().map(ToString::to_string).collect();
        assert_eq!(texts, ["spec.clusterIPs[0]: Invalid value: \"10.43.0.8\": may not change once set"]);
    }
}
