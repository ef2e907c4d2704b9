//! Rules of services. Upstream: `ValidateService`, `ValidateServiceUpdate`, `GetWarningsForService`.

use std::collections::BTreeSet;

use serde_json::Value;

use crate::field::{ErrorList, Path, Shown};
use crate::object::{View, at, same, text};
use crate::validate::{
    PROTOCOLS, dns_label_at, ip, ip_address, labels, non_special_ip, one_of, port_number, port_number_or_name,
};

const TYPES: [&str; 4] = ["ClusterIP", "ExternalName", "LoadBalancer", "NodePort"];
const HINTS: &str = "service.kubernetes.io/topology-aware-hints";
const MAX_AFFINITY_SECONDS: i64 = 86400;

/// A service.
pub(super) fn service(obj: &Value) -> ErrorList {
    let mut errs = ErrorList::new();
    let spec = View::root(obj).get("spec");
    let (ports, ty) = (spec.get("ports"), spec.get("type"));
    let headless = is_headless(&spec);
    topology_annotations(&mut errs, &View::root(obj).dig("metadata.annotations"));
    if ports.is_empty() && !headless && ty.str() != "ExternalName" {
        errs.required(ports.path(), "");
    }
    match ty.str() {
        ty @ ("LoadBalancer" | "NodePort") if headless => {
            let problem = format!("may not be set to 'None' for {ty} services");
            errs.invalid(&spec.get("clusterIPs").path().index(0), "None", problem);
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
        if ip::address(&mut errs, ip.str(), ip.path()).is_some() {
            non_special_ip(&mut errs, ip.str(), ip.path());
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
    load_balancer(&mut errs, &spec);
    traffic(&mut errs, &spec);
    errs
}

/// Whether a service has no address of its own.
fn is_headless(spec: &View<'_>) -> bool {
    let addresses = spec.get("clusterIPs").strs();
    addresses == ["None"] || (addresses.is_empty() && spec.get("clusterIP").str() == "None")
}

/// The old and the new annotation for the same thing say the same.
fn topology_annotations(errs: &mut ErrorList, annotations: &View<'_>) {
    const MODE: &str = "service.kubernetes.io/topology-mode";
    let (hints, mode) = (annotations.get(HINTS), annotations.get(MODE));
    if hints.is_set() && mode.is_set() && hints.str() != mode.str() {
        let problem = format!("must match annotations[{HINTS}] when both are specified");
        errs.invalid(&annotations.path().key(MODE), mode.str(), problem);
    }
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
        errs.invalid(many.path(), many.value(), "must be empty when `clusterIP` is not specified");
    } else if !one.str().is_empty() && many.is_empty() {
        errs.required(many.path(), "");
    } else if one.str() != first {
        errs.invalid(many.path(), many.value(), "first value must match `clusterIP`");
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
    let mut well_formed = true;
    for (i, address) in many.list().iter().enumerate() {
        if i == 0 && address.str() == "None" {
            if many.len() > 1 {
                well_formed = false;
                errs.invalid(many.path(), many.value(), "'None' must be the first and only value");
            }
        } else {
            well_formed &= ip::address(errs, address.str(), address.path()).is_some();
        }
    }
    if many.len() > 2 {
        errs.invalid(many.path(), many.value(), "may only hold up to 2 values");
    }
    // What follows makes sense of addresses only.
    if !well_formed {
        return;
    }
    if many.len() > 1 && !ip::is_dual_stack(many.strs()) {
        errs.invalid(many.path(), many.value(), "may specify no more than one IP for each IP family");
    }
    if is_headless(spec) {
        return;
    }
    for (i, (address, family)) in many.list().iter().zip(families.strs()).enumerate() {
        let is_v6 = address.str().contains(':');
        if matches!((family, is_v6), ("IPv4", true) | ("IPv6", false)) {
            let problem = format!("expected an {family} value as indicated by `ipFamilies[{i}]`");
            errs.invalid(address.path(), address.str(), problem);
        }
    }
}

fn duplicates(errs: &mut ErrorList, ports: &View<'_>) {
    let mut nodes = BTreeSet::new();
    for port in ports.list() {
        let node = port.get("nodePort");
        let number = node.int().unwrap_or_default();
        if number != 0 && !nodes.insert((port.get("protocol").str(), number)) {
            errs.duplicate(node.path(), number);
        }
    }
    let mut numbers = BTreeSet::new();
    for port in ports.list() {
        let (protocol, number) = (port.get("protocol").str(), port.get("port").int().unwrap_or_default());
        if !numbers.insert((protocol, number)) {
            // A `core.ServicePort` that has nothing but these two.
            let shown = format!(
                "{{\"Name\":\"\",\"Protocol\":{},\"AppProtocol\":null,\"Port\":{number},\"TargetPort\":0,\"NodePort\":0}}",
                crate::field::quote(protocol)
            );
            errs.duplicate(port.path(), Shown::raw(shown));
        }
    }
}

fn source_ranges(errs: &mut ErrorList, obj: &Value, spec: &View<'_>) {
    const ANNOTATION: &str = "service.beta.kubernetes.io/load-balancer-source-ranges";
    let ranges = spec.get("loadBalancerSourceRanges");
    let annotation = at(obj, &["metadata", "annotations", ANNOTATION]);
    if !ranges.is_empty() {
        // Upstream's path begins with a capital here.
        let path = spec.path().child("LoadBalancerSourceRanges");
        if spec.get("type").str() != "LoadBalancer" {
            errs.forbidden(&path, "may only be used when `type` is 'LoadBalancer'");
        }
        for (i, range) in ranges.strs().iter().enumerate() {
            ip::cidr(errs, range.trim(), &path.index(i));
        }
    } else if let Some(text) = annotation.as_str() {
        let path = Path::new("metadata").child("annotations").key(ANNOTATION);
        if spec.get("type").str() != "LoadBalancer" {
            errs.forbidden(&path, "may only be used when `type` is 'LoadBalancer'");
        }
        for range in text.trim().split(',').filter(|_| !text.trim().is_empty()) {
            ip::cidr(errs, range.trim(), &path);
        }
    }
}

fn load_balancer(errs: &mut ErrorList, spec: &View<'_>) {
    let balanced = spec.get("type").str() == "LoadBalancer";
    let allocate = spec.get("allocateLoadBalancerNodePorts");
    if balanced && !allocate.is_set() {
        errs.required(allocate.path(), "");
    }
    if !balanced && allocate.is_set() {
        errs.forbidden(allocate.path(), "may only be used when `type` is 'LoadBalancer'");
    }
    class(errs, spec);
}

/// The class of load balancers, a qualified name. Upstream: `validateLoadBalancerClassField`.
fn class(errs: &mut ErrorList, spec: &View<'_>) {
    let balanced = spec.get("type").str() == "LoadBalancer";
    let class = spec.get("loadBalancerClass");
    if balanced && class.is_set() {
        for problem in crate::names::qualified_name(class.str()) {
            errs.invalid(class.path(), class.str(), problem);
        }
    } else if class.is_set() {
        errs.forbidden(class.path(), "may only be used when `type` is 'LoadBalancer'");
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
        "" if exposed => errs.required(external.path(), ""),
        "" => {}
        policy if !exposed => {
            errs.invalid(external.path(), policy, "may only be set for externally-accessible services");
        }
        "Cluster" | "Local" => {}
        other => errs.not_supported(external.path(), other, &["Cluster", "Local"]),
    }
    let health = spec.get("healthCheckNodePort");
    match (health.int().unwrap_or_default(), super::needs_health_check_node_port(spec.value())) {
        (0, false) => {}
        (0, true) => errs.required(health.path(), ""),
        (n, true) => port_number(errs, n, health.path()),
        (n, false) => errs.invalid(
            health.path(),
            n,
            "may only be set when `type` is 'LoadBalancer' and `externalTrafficPolicy` is 'Local'",
        ),
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
    let (now, before) = (View::root(new).get("spec"), View::root(old).get("spec"));
    if now.get("type").str() != "ExternalName" && before.get("type").str() != "ExternalName" {
        let headless = (is_headless(&before), is_headless(&now));
        if headless != (true, true) {
            kept_addresses(&mut errs, &now, &before);
        }
        if headless == (false, false) {
            kept_families(&mut errs, &now, &before);
        }
    }
    let class = now.get("loadBalancerClass");
    if [&now, &before].iter().all(|spec| spec.get("type").str() == "LoadBalancer")
        && !same(before.get("loadBalancerClass").value(), class.value())
    {
        errs.invalid(class.path(), class.value(), "may not change once set");
    }
    // What is wrong with the class is said of the change, and again of the service.
    self::class(&mut errs, &now);
    if super::needs_health_check_node_port(before.value())
        && super::needs_health_check_node_port(now.value())
        && !same(before.get("healthCheckNodePort").value(), now.get("healthCheckNodePort").value())
    {
        errs.forbidden(now.get("healthCheckNodePort").path(), "field is immutable");
    }
    errs.extend(service(new));
    errs
}

const RELEASED: &str = "SingleStack";

/// Addresses stay; a second one may come, and go again with the policy that says so.
/// Upstream: `validateUpgradeDowngradeClusterIPs`.
fn kept_addresses(errs: &mut ErrorList, now: &View<'_>, before: &View<'_>) {
    let all = now.get("clusterIPs");
    let (new, old) = (all.strs(), before.get("clusterIPs").strs());
    if new.len() == old.len() {
        for i in (0..old.len()).filter(|i| old.get(*i) != new.get(*i)) {
            errs.invalid(&all.path().index(i), all.value(), "may not change once set");
        }
        return;
    }
    let first = all.path().index(0);
    if new.is_empty() {
        errs.invalid(&first, all.value(), "primary clusterIP can not be unset");
    } else if old.first().is_some_and(|ip| Some(ip) != new.first()) {
        errs.invalid(&first, all.value(), "may not change once set");
    }
    let policy = now.get("ipFamilyPolicy");
    if old.len() > new.len() && new.len() == 1 && policy.str() != RELEASED {
        let problem = "must be set to 'SingleStack' when releasing the secondary clusterIP";
        errs.invalid(policy.path(), policy.value(), problem);
    }
}

/// The same for the families of the addresses. Upstream: `validateUpgradeDowngradeIPFamilies`.
fn kept_families(errs: &mut ErrorList, now: &View<'_>, before: &View<'_>) {
    let all = now.get("ipFamilies");
    let addresses = now.get("clusterIPs");
    let (new, old) = (all.strs(), before.get("ipFamilies").strs());
    let first = all.path().index(0);
    if new.len() == old.len() {
        for _ in (0..old.len()).filter(|i| old.get(*i) != new.get(*i)) {
            errs.invalid(&first, all.value(), "may not change once set");
        }
        return;
    }
    let released = old.len() > new.len();
    if released && addresses.is_empty() {
        errs.invalid(&first, all.value(), "primary ipFamily can not be unset");
    }
    if !new.is_empty() && old.first().is_some_and(|family| Some(family) != new.first()) {
        // Upstream shows the addresses.
        errs.invalid(&first, addresses.value(), "may not change once set");
    }
    let policy = now.get("ipFamilyPolicy");
    if released && new.len() == 1 && policy.str() != RELEASED {
        let problem = "must be set to 'SingleStack' when releasing the secondary ipFamily";
        errs.invalid(policy.path(), policy.value(), problem);
    }
}

/// The status of a service: the addresses of its load balancer.
pub(super) fn status(obj: &Value) -> ErrorList {
    let mut errs = ErrorList::new();
    let root = View::root(obj);
    let ingress = root.dig("status.loadBalancer.ingress");
    if !ingress.is_empty() && text(obj, &["spec", "type"]) != "LoadBalancer" {
        errs.forbidden(ingress.path(), "may only be used when `spec.type` is 'LoadBalancer'");
        return errs;
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
            if ip::sloppy(hostname.str()).is_some() {
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
    if !at(new, &["metadata", "annotations", HINTS]).is_null() {
        warnings
            .push(format!("annotation {HINTS} is deprecated, please use service.kubernetes.io/topology-mode instead"));
    }
    let (ty, external) = (spec.get("type").str(), spec.get("externalIPs"));
    let headless = ty == "ClusterIP" && spec.get("clusterIP").str() == "None";
    if !headless && ty != "ExternalName" {
        warnings.extend(spec.items("clusterIPs").iter().flat_map(ip::address_warnings));
    }
    if headless {
        if !spec.get("loadBalancerIP").str().is_empty() {
            warnings.push("spec.loadBalancerIP is ignored for headless services".to_owned());
        }
        if !external.is_empty() {
            warnings.push("spec.externalIPs is ignored for headless services".to_owned());
        }
        if spec.get("sessionAffinity").str() != "None" {
            warnings.push("spec.SessionAffinity is ignored for headless services".to_owned());
        }
    }
    warnings.extend(external.list().iter().flat_map(ip::address_warnings));
    if !external.is_empty() && !headless && ty != "ExternalName" {
        warnings.push("spec.externalIPs is deprecated and may no longer be implemented in some clusters".to_owned());
    }
    warnings.extend(ip::address_warnings(&spec.get("loadBalancerIP")));
    warnings.extend(spec.items("loadBalancerSourceRanges").iter().flat_map(ip::cidr_warnings));
    if ty == "ExternalName" && !external.is_empty() {
        warnings.push("spec.externalIPs is ignored when spec.type is \"ExternalName\"".to_owned());
    }
    if ty != "ExternalName" && !spec.get("externalName").is_empty() {
        warnings.push("spec.externalName is ignored when spec.type is not \"ExternalName\"".to_owned());
    }
    if spec.get("trafficDistribution").str() == "PreferClose" {
        warnings.push("spec.trafficDistribution: \"PreferClose\" is deprecated; use \"PreferSameZone\"".to_owned());
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
        service(&obj).0.iter().map(ToString::to_string).collect()
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
                "spec.ports[1]: Duplicate value: {\"Name\":\"\",\"Protocol\":\"TCP\",\"AppProtocol\":null,\"Port\":80,\
                 \"TargetPort\":0,\"NodePort\":0}"
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
        assert_eq!(texts, ["spec.clusterIPs[0]: Invalid value: [\"10.43.0.8\"]: may not change once set"]);
    }

    /// A service with these addresses, families and policy.
    fn stacked(addresses: &[&str], families: &[&str], policy: &str) -> Value {
        json!({"spec": {"type": "ClusterIP", "clusterIP": addresses.first(), "clusterIPs": addresses,
            "ipFamilies": families, "ipFamilyPolicy": policy, "sessionAffinity": "None", "internalTrafficPolicy": "Cluster",
            "ports": [{"port": 80, "protocol": "TCP", "targetPort": 80}]}})
    }

    #[test]
    fn a_second_address_comes_and_goes_with_the_policy() {
        let single = |policy| stacked(&["10.43.0.7"], &["IPv4"], policy);
        let dual = |policy| stacked(&["10.43.0.7", "fd00::7"], &["IPv4", "IPv6"], policy);
        let check = |new: &Value, old: &Value, expected: &[&str]| {
            let texts: Vec<String> = update(new, old).0.iter().map(ToString::to_string).collect();
            assert_eq!(texts, expected);
        };
        check(&dual("PreferDualStack"), &single("SingleStack"), &[]);
        check(&single("SingleStack"), &dual("PreferDualStack"), &[]);
        check(
            &single("PreferDualStack"),
            &dual("PreferDualStack"),
            &[
                "spec.ipFamilyPolicy: Invalid value: \"PreferDualStack\": must be set to 'SingleStack' when releasing the \
                 secondary clusterIP",
                "spec.ipFamilyPolicy: Invalid value: \"PreferDualStack\": must be set to 'SingleStack' when releasing the \
                 secondary ipFamily",
            ],
        );
        check(
            &stacked(&["10.43.0.7", "fd00::8"], &["IPv4", "IPv6"], "PreferDualStack"),
            &dual("PreferDualStack"),
            &["spec.clusterIPs[1]: Invalid value: [\"10.43.0.7\",\"fd00::8\"]: may not change once set"],
        );
        check(
            &stacked(&["fd00::7", "10.43.0.7"], &["IPv4", "IPv6"], "PreferDualStack"),
            &single("SingleStack"),
            &[
                "spec.clusterIPs[0]: Invalid value: [\"fd00::7\",\"10.43.0.7\"]: may not change once set",
                "spec.clusterIPs[0]: Invalid value: \"fd00::7\": expected an IPv4 value as indicated by `ipFamilies[0]`",
                "spec.clusterIPs[1]: Invalid value: \"10.43.0.7\": expected an IPv6 value as indicated by `ipFamilies[1]`",
            ],
        );
    }

    #[test]
    fn addresses_and_ranges_are_well_formed() {
        assert_eq!(
            problems(json!({"clusterIP": "None", "clusterIPs": ["None", "x"], "loadBalancerSourceRanges": ["y"],
                "ports": [{"port": 80}], "loadBalancerClass": "a/b", "externalTrafficPolicy": "Local"})),
            [
                "spec.clusterIPs: Invalid value: [\"None\",\"x\"]: 'None' must be the first and only value",
                "spec.clusterIPs[1]: Invalid value: \"x\": must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)",
                "spec.LoadBalancerSourceRanges: Forbidden: may only be used when `type` is 'LoadBalancer'",
                "spec.LoadBalancerSourceRanges[0]: Invalid value: \"y\": must be a valid CIDR value, (e.g. 10.9.8.0/24 or \
                 2001:db8::/64)",
                "spec.loadBalancerClass: Forbidden: may only be used when `type` is 'LoadBalancer'",
                "spec.externalTrafficPolicy: Invalid value: \"Local\": may only be set for externally-accessible services",
            ]
        );
    }

    #[test]
    fn what_is_hardly_meant_is_said() {
        let of = |spec: Value| warnings(&json!({"spec": spec}), None);
        assert_eq!(
            of(
                json!({"type": "ClusterIP", "clusterIP": "10.0.0.1", "clusterIPs": ["10.0.0.1"], "sessionAffinity": "None",
                "externalIPs": ["010.1.1.1"], "loadBalancerSourceRanges": ["10.1.2.3/8"], "externalName": "x",
                "trafficDistribution": "PreferClose"})
            ),
            [
                "spec.externalIPs[0]: non-standard IP address \"010.1.1.1\" will be considered invalid in a future Kubernetes \
                 release: use \"10.1.1.1\"",
                "spec.externalIPs is deprecated and may no longer be implemented in some clusters",
                "spec.loadBalancerSourceRanges[0]: CIDR value \"10.1.2.3/8\" is ambiguous in this context (should be \
                 \"10.0.0.0/8\" or \"10.1.2.3/32\"?)",
                "spec.externalName is ignored when spec.type is not \"ExternalName\"",
                "spec.trafficDistribution: \"PreferClose\" is deprecated; use \"PreferSameZone\"",
            ]
        );
        assert_eq!(
            of(
                json!({"type": "ClusterIP", "clusterIP": "None", "clusterIPs": ["None"], "sessionAffinity": "ClientIP"})
            ),
            ["spec.SessionAffinity is ignored for headless services"]
        );
    }
}
