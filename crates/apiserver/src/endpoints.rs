//! Where a Service leads, for connections that the API server makes itself: it stands outside of the cluster's network as
//! far as cluster IPs go, so it takes an endpoint (`k8s.io/kube-aggregator/pkg/apiserver.NewEndpointServiceResolver`).

use rand::seq::SliceRandom;
use serde_json::Value;

use crate::admission::items;
use crate::cache::Reader;
use crate::outbound::Address;

/// The ready endpoints of a Service's port; the port goes by the name it has in the Service.
pub fn ready(reader: &Reader, namespace: &str, service: &str, port: &str) -> Vec<Address> {
    let slices = reader.list("discovery.k8s.io", "endpointslices", Some(namespace));
    let mut found = Vec::new();
    for slice in slices.iter().filter(|s| s.label("kubernetes.io/service-name") == Some(service)) {
        of_slice(&slice.decode(), port, &mut found);
    }
    found
}

fn of_slice(slice: &Value, port: &str, found: &mut Vec<Address>) {
    let ports = items(&slice["ports"]);
    let named = |p: &&Value| {
        let name = p["name"].as_str().unwrap_or_default();
        name == port || (port.is_empty() && ports.len() == 1)
    };
    let number = ports.iter().find(named).and_then(|p| p["port"].as_u64()).and_then(|p| u16::try_from(p).ok());
    let Some(number) = number else { return };
    for endpoint in items(&slice["endpoints"]).iter().filter(|e| e["conditions"]["ready"] != false) {
        if let Some(ip) = items(&endpoint["addresses"]).first().and_then(Value::as_str) {
            found.push((ip.to_owned(), number));
        }
    }
}

/// How many endpoints are tried.
const MAX_TRIED: usize = 3;

/// Addresses behind a port of a Service, at random; the error is upstream's.
pub fn addresses(reader: &Reader, namespace: &str, service: &str, port: u16) -> Result<Vec<Address>, String> {
    let object = reader.get("", "services", namespace, service).map(|e| e.decode());
    let object = object.ok_or_else(|| format!("service {service:?} not found"))?;
    if object["spec"]["type"] == "ExternalName" {
        let name = object["spec"]["externalName"].as_str().unwrap_or_default();
        return Ok(vec![(name.to_owned(), port)]);
    }
    let found = items(&object["spec"]["ports"]).iter().find(|p| p["port"] == port);
    let found = found.ok_or_else(|| format!("no service port {port} found for service {service:?}"))?;
    let mut all = ready(reader, namespace, service, found["name"].as_str().unwrap_or_default());
    if all.is_empty() {
        return Err(format!("no endpoints available for service {service:?}"));
    }
    all.shuffle(&mut rand::rng());
    all.truncate(MAX_TRIED);
    Ok(all)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn ready_endpoints_of_a_port() {
        let check = |slice: Value, port: &str, expected: &[(&str, u16)]| {
            let mut found = Vec::new();
            of_slice(&slice, port, &mut found);
            let expected: Vec<Address> = expected.iter().map(|(ip, port)| ((*ip).to_owned(), *port)).collect();
            assert_eq!(found, expected);
        };
        let slice = |ports: Value| {
            json!({"ports": ports, "endpoints": [{"addresses": ["10.0.0.1"]},
                {"addresses": ["10.0.0.2"], "conditions": {"ready": false}},
                {"addresses": ["10.0.0.3"], "conditions": {"ready": true}}]})
        };
        check(slice(json!([{"name": "web", "port": 8443}])), "web", &[("10.0.0.1", 8443), ("10.0.0.3", 8443)]);
        check(slice(json!([{"name": "web", "port": 8443}])), "", &[("10.0.0.1", 8443), ("10.0.0.3", 8443)]);
        check(
            slice(json!([{"name": "a", "port": 1}, {"name": "b", "port": 2}])),
            "b",
            &[("10.0.0.1", 2), ("10.0.0.3", 2)],
        );
        check(slice(json!([{"name": "a", "port": 1}, {"name": "b", "port": 2}])), "", &[]);
        check(slice(json!([{"name": "a", "port": 1}])), "b", &[]);
    }
}
