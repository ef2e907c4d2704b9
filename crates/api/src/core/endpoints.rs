//! `Endpoints`, the old form of [`EndpointSlice`](crate::discovery). Upstream: `pkg/registry/core/endpoint/strategy.go`,
//! `ValidateEndpoints`.

use serde_json::{Value, json};

use crate::field::ErrorList;
use crate::kind::{Cells, Cx, Kind, MetaPass};
use crate::kinds::{AGE, Facts, NAME, facts};
use crate::object::{View, at, default_text, items_mut, list, remove, set, text};
use crate::table::{age, name};
use crate::validate::{PROTOCOLS, dns_label_at, ip, ip_address, non_special_ip, port_number};

/// The kind `Endpoints`.
pub struct Endpoints;

impl Kind for Endpoints {
    facts!(Facts {
        kind: "Endpoints",
        plural: "endpoints",
        short_names: &["ep"],
        prefix: "services/endpoints",
        columns: &[NAME, ("Endpoints", "string", "", 0), AGE],
        ..Facts::namespaced("", "v1")
    });

    fn meta_passes(&self, _subresource: Option<&str>) -> &'static [MetaPass] {
        &[MetaPass::Changed, MetaPass::New]
    }

    fn default(&self, obj: &mut Value) {
        for subset in items_mut(obj, "subsets") {
            for port in items_mut(subset, "ports") {
                default_text(port, "protocol", "TCP");
            }
        }
    }

    fn validate(&self, _cx: &Cx<'_>, obj: &Value) -> ErrorList {
        let mut errs = ErrorList::new();
        for subset in View::root(obj).items("subsets") {
            if subset.get("addresses").is_empty() && subset.get("notReadyAddresses").is_empty() {
                errs.required(subset.path(), "must specify `addresses` or `notReadyAddresses`");
            }
            for field in ["addresses", "notReadyAddresses"] {
                for address in subset.items(field) {
                    endpoint_address(&mut errs, &address);
                }
            }
            let named = subset.get("ports").len() > 1;
            for port in subset.items("ports") {
                let port_name = port.get("name");
                if port_name.str().is_empty() {
                    if named {
                        errs.required(port_name.path(), "");
                    }
                } else {
                    dns_label_at(&mut errs, &port_name);
                }
                port_number(&mut errs, port.get("port").int().unwrap_or_default(), port.get("port").path());
                let protocol = port.get("protocol");
                if protocol.str().is_empty() {
                    errs.required(protocol.path(), "");
                } else if !PROTOCOLS.contains(&protocol.str()) {
                    errs.not_supported(protocol.path(), protocol.str(), &PROTOCOLS);
                }
                let app = port.get("appProtocol");
                if app.is_set() {
                    crate::validate::labels::name(&mut errs, app.str(), app.path());
                }
            }
        }
        errs
    }

    fn canonicalize(&self, obj: &mut Value) {
        let repacked = super::endpoint_subsets::repack(list(obj, &["subsets"]));
        if repacked.is_empty() {
            remove(obj, &["subsets"]);
        } else {
            set(obj, &["subsets"], repacked);
        }
    }

    fn warnings(&self, _cx: &Cx<'_>, new: &Value, _old: Option<&Value>) -> Vec<String> {
        let mut warnings = Vec::new();
        for subset in View::root(new).items("subsets") {
            for field in ["addresses", "notReadyAddresses"] {
                warnings.extend(subset.items(field).iter().flat_map(|a| ip::address_warnings(&a.get("ip"))));
            }
        }
        warnings
    }

    fn deprecation(&self) -> Option<std::borrow::Cow<'_, str>> {
        Some("v1 Endpoints is deprecated in v1.33+; use discovery.k8s.io/v1 EndpointSlice".into())
    }

    fn create_on_update(&self) -> bool {
        true
    }

    fn cells(&self, obj: &Value, now: jiff::Timestamp) -> Cells {
        vec![json!(name(obj)), json!(shown(obj)), json!(age(obj, now))]
    }
}

fn endpoint_address(errs: &mut ErrorList, address: &View<'_>) {
    let ip = address.get("ip");
    ip_address(errs, ip.str(), ip.path());
    let hostname = address.get("hostname");
    if !hostname.str().is_empty() {
        dns_label_at(errs, &hostname);
    }
    let node = address.get("nodeName");
    if let Some(value) = node.opt_str() {
        for problem in crate::names::dns_subdomain(value, false) {
            errs.invalid(node.path(), value, problem);
        }
    }
    non_special_ip(errs, ip.str(), ip.path());
}

/// The first three addresses and how many more there are. Upstream: `formatEndpoints`.
fn shown(obj: &Value) -> String {
    const MAX: usize = 3;
    let mut all: Vec<String> = Vec::new();
    let subsets = list(obj, &["subsets"]);
    if subsets.is_empty() {
        return "<none>".into();
    }
    for subset in subsets {
        let addresses = list(subset, &["addresses"]);
        let ports = list(subset, &["ports"]);
        if ports.is_empty() {
            all.extend(addresses.iter().map(|a| text(a, &["ip"]).to_owned()));
        }
        for port in ports {
            let number = at(port, &["port"]).as_i64().unwrap_or_default();
            all.extend(addresses.iter().map(|a| match text(a, &["ip"]) {
                ip if ip.contains(':') => format!("[{ip}]:{number}"),
                ip => format!("{ip}:{number}"),
            }));
        }
    }
    let mut text = all.iter().take(MAX).cloned().collect::<Vec<_>>().join(",");
    if all.len() > MAX {
        text.push_str(&format!(" + {} more...", all.len() - MAX));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn three_addresses_are_shown() {
        let addresses: Vec<Value> = (1..=5).map(|i| json!({"ip": format!("10.0.0.{i}")})).collect();
        assert_eq!(
            shown(&json!({"subsets": [{"addresses": addresses, "ports": [{"port": 80}]}]})),
            "10.0.0.1:80,10.0.0.2:80,10.0.0.3:80 + 2 more..."
        );
        assert_eq!(shown(&json!({})), "<none>");
    }
}
