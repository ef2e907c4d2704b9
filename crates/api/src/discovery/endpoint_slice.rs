//! `EndpointSlice`. Upstream: `pkg/registry/discovery/endpointslice/strategy.go`, `pkg/apis/discovery/validation`.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use crate::field::ErrorList;
use crate::kind::{Cells, Cx, Kind, MetaPass};
use crate::kinds::{AGE, Facts, NAME, facts};
use crate::object::{View, at, default_value, items_mut, list, remove, same, set, text};
use crate::strategy::{first_generation, next_generation};
use crate::table::{age, name};
use crate::validate::{PROTOCOLS, dns_label_at, immutable_field, ip, labels, non_special_ip};

/// The kind `EndpointSlice`.
pub struct EndpointSlice;

const MAX_ENDPOINTS: usize = 1000;
const MAX_ADDRESSES: usize = 100;
const MAX_PORTS: usize = 20_000;
const MAX_TOPOLOGY_LABELS: usize = 16;
const MAX_ZONE_HINTS: usize = 8;

impl Kind for EndpointSlice {
    facts!(Facts {
        kind: "EndpointSlice",
        plural: "endpointslices",
        columns: &[
            NAME,
            ("AddressType", "string", "", 0),
            ("Ports", "string", "", 0),
            ("Endpoints", "string", "", 0),
            AGE
        ],
        ..Facts::namespaced("discovery.k8s.io", "v1")
    });

    fn default(&self, obj: &mut Value) {
        for port in items_mut(obj, "ports") {
            default_value(port, "name", "");
            default_value(port, "protocol", "TCP");
        }
        for endpoint in items_mut(obj, "endpoints") {
            default_value(endpoint, "conditions", json!({}));
        }
    }

    fn prepare_create(&self, _cx: &Cx<'_>, obj: &mut Value) {
        first_generation(obj);
        drop_topology(obj);
    }

    fn prepare_update(&self, _cx: &Cx<'_>, new: &mut Value, old: &Value) {
        next_generation(new, old, &["addressType", "endpoints", "ports"]);
        let labels = |obj| at(obj, &["metadata", "labels"]);
        let generation = at(old, &["metadata", "generation"]);
        if at(new, &["metadata", "generation"]) == generation && !same(labels(new), labels(old)) {
            let next = generation.as_i64().unwrap_or_default() + 1;
            set(new, &["metadata", "generation"], next);
        }
        if !same(at(new, &["endpoints"]), at(old, &["endpoints"])) {
            drop_topology(new);
        }
    }

    fn validate(&self, _cx: &Cx<'_>, obj: &Value) -> ErrorList {
        let mut errs = ErrorList::new();
        let root = View::root(obj);
        let ty = root.get("addressType");
        match ty.str() {
            "" => errs.required(ty.path(), ""),
            "IPv4" | "IPv6" | "FQDN" => {}
            other => errs.not_supported(ty.path(), other, &["FQDN", "IPv4", "IPv6"]),
        }
        let endpoints = root.get("endpoints");
        if endpoints.len() > MAX_ENDPOINTS {
            errs.too_many(endpoints.path(), endpoints.len(), MAX_ENDPOINTS);
        } else {
            for endpoint in endpoints.list() {
                validate_endpoint(&mut errs, &endpoint, ty.str());
            }
        }
        validate_ports(&mut errs, &root.get("ports"));
        errs
    }

    fn validate_update(&self, cx: &Cx<'_>, new: &Value, old: &Value) -> ErrorList {
        let mut errs = self.validate(cx, new);
        immutable_field(&mut errs, new, old, &["addressType"]);
        errs
    }

    fn warnings(&self, _cx: &Cx<'_>, new: &Value, _old: Option<&Value>) -> Vec<String> {
        if !matches!(text(new, &["addressType"]), "IPv4" | "IPv6") {
            return Vec::new();
        }
        let endpoints = View::root(new).items("endpoints");
        endpoints.iter().flat_map(|e| e.items("addresses")).flat_map(|a| ip::address_warnings(&a)).collect()
    }

    fn meta_passes(&self, _subresource: Option<&str>) -> &'static [MetaPass] {
        &[MetaPass::New]
    }

    fn cells(&self, obj: &Value, now: jiff::Timestamp) -> Cells {
        let ports = list(obj, &["ports"]).iter().map(|p| match at(p, &["port"]).as_i64() {
            Some(n) => n.to_string(),
            None if !text(p, &["name"]).is_empty() => text(p, &["name"]).to_owned(),
            None => "*".to_owned(),
        });
        let addresses = list(obj, &["endpoints"])
            .iter()
            .flat_map(|e| list(e, &["addresses"]))
            .map(|a| a.as_str().unwrap_or_default().to_owned());
        vec![
            json!(name(obj)),
            json!(text(obj, &["addressType"])),
            json!(first_three(ports.collect())),
            json!(first_three(addresses.collect())),
            json!(age(obj, now)),
        ]
    }
}

/// The first three and how many more. Upstream: `listWithMoreString`.
fn first_three(all: Vec<String>) -> String {
    const MAX: usize = 3;
    match all.len() {
        0 => "<unset>".into(),
        n if n > MAX => format!("{} + {} more...", all.get(..MAX).unwrap_or_default().join(","), n - MAX),
        _ => all.join(","),
    }
}

/// What of topology the beta had is of no use to v1. Upstream: `dropTopologyOnV1`.
fn drop_topology(obj: &mut Value) {
    for endpoint in items_mut(obj, "endpoints") {
        remove(endpoint, &["deprecatedTopology"]);
    }
}

fn validate_endpoint(errs: &mut ErrorList, endpoint: &View<'_>, ty: &str) {
    let addresses = endpoint.get("addresses");
    if addresses.is_empty() {
        errs.required(addresses.path(), "must contain at least 1 address");
    } else if addresses.len() > MAX_ADDRESSES {
        errs.too_many(addresses.path(), addresses.len(), MAX_ADDRESSES);
    }
    for address in addresses.list() {
        match ty {
            "IPv4" | "IPv6" => {
                if ip::sloppy(address.str()).is_none_or(|ip| ip.is_ipv4() != (ty == "IPv4")) {
                    errs.invalid(address.path(), address.str(), format!("must be a valid {ty} address"));
                }
                non_special_ip(errs, address.str(), address.path());
            }
            "FQDN" => crate::validate::fqdn(errs, address.str(), address.path()),
            _ => {}
        }
    }
    let node = endpoint.get("nodeName");
    if let Some(value) = node.opt_str() {
        for problem in crate::names::dns_subdomain(value, false) {
            errs.invalid(node.path(), value, problem);
        }
    }
    let topology = endpoint.get("deprecatedTopology");
    if topology.len() > MAX_TOPOLOGY_LABELS {
        errs.too_many(topology.path(), topology.len(), MAX_TOPOLOGY_LABELS);
    }
    labels::labels(errs, &topology);
    let hostname = endpoint.get("hostname");
    if hostname.is_set() {
        dns_label_at(errs, &hostname);
    }
    for (field, max) in [("forZones", MAX_ZONE_HINTS), ("forNodes", MAX_ZONE_HINTS)] {
        let hints = endpoint.get("hints").get(field);
        if hints.len() > max {
            errs.too_many(hints.path(), hints.len(), max);
            return;
        }
        let mut seen = BTreeSet::new();
        for hint in hints.list() {
            let name = hint.get("name");
            if !seen.insert(name.str()) {
                errs.duplicate(name.path(), name.str());
            }
            if field == "forZones" {
                labels::value(errs, name.str(), name.path());
            } else {
                for problem in crate::names::dns_subdomain(name.str(), false) {
                    errs.invalid(name.path(), name.str(), problem);
                }
            }
        }
    }
}

fn validate_ports(errs: &mut ErrorList, ports: &View<'_>) {
    if ports.len() > MAX_PORTS {
        errs.too_many(ports.path(), ports.len(), MAX_PORTS);
        return;
    }
    let mut seen = BTreeSet::new();
    for port in ports.list() {
        let (name, protocol, app) = (port.get("name"), port.get("protocol"), port.get("appProtocol"));
        if !name.str().is_empty() {
            dns_label_at(errs, &name);
        }
        if !seen.insert(name.str()) {
            errs.duplicate(name.path(), name.str());
        }
        if !protocol.is_set() {
            errs.required(protocol.path(), "");
        } else if !PROTOCOLS.contains(&protocol.str()) {
            errs.not_supported(protocol.path(), protocol.str(), &PROTOCOLS);
        }
        if app.is_set() {
            labels::name(errs, app.str(), app.path());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::validate::testing::{problems, problems_of_update};

    #[test]
    fn slices() {
        let names = |n: usize| (0..n).map(|i| json!({"name": format!("n{i}")})).collect::<Vec<_>>();
        for (slice, expected) in [
            (json!({"addressType": "IPv4"}), vec![]),
            (json!({}), vec!["addressType: Required value"]),
            (
                json!({"addressType": "IPv4", "endpoints": [
                    {}, {"addresses": ["fd00::1"]}, {"addresses": ["10.0.0.1"], "nodeName": "a/b"},
                    {"addresses": ["10.0.0.1"], "hints": {"forZones": names(9), "forNodes": names(9)}}]}),
                vec![
                    "endpoints[0].addresses: Required value: must contain at least 1 address",
                    r#"endpoints[1].addresses[0]: Invalid value: "fd00::1": must be a valid IPv4 address"#,
                    "endpoints[2].nodeName: Invalid value: \"a/b\": a lowercase RFC 1123 subdomain must consist of lower \
                     case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character \
                     (e.g. 'example.com', regex used for validation is \
                     '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')",
                    "endpoints[3].hints.forZones: Too many: 9: must have at most 8 items",
                ],
            ),
            (
                json!({"addressType": "FQDN", "ports": [
                    {"name": "a"}, {"name": "a", "protocol": "ICMP"}]}),
                vec![
                    "ports[0].protocol: Required value",
                    r#"ports[1].name: Duplicate value: "a""#,
                    r#"ports[1].protocol: Unsupported value: "ICMP": supported values: "SCTP", "TCP", "UDP""#,
                ],
            ),
        ] {
            assert_eq!(problems(&EndpointSlice, &slice), expected, "{slice}");
        }
        let of = |ty: &str| json!({"addressType": ty});
        assert_eq!(
            problems_of_update(&EndpointSlice, None, &of("IPv6"), &of("IPv4")),
            [r#"addressType: Invalid value: "IPv6": field is immutable"#]
        );
    }
}
