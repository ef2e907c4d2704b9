//! The DNS loop of a node: informers keep the zone, the server answers from it.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use orkd_base::BoxError;
use orkd_reconcile::{Informer, Informers, Key, Meta, Options, View, null_default};
use parking_lot::RwLock;
use serde::Deserialize;
use tokio_util::sync::CancellationToken;

use crate::forward::Forwarder;
use crate::server::Server;
use crate::zone::{Endpoint, Port, ServiceNames, Zone};

/// What the DNS of a node needs to know.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where to listen.
    pub listen: SocketAddr,
    /// The cluster's domain, such as `cluster.local`.
    pub domain: String,
    /// Who is asked about other names, in this order.
    pub upstream: Vec<SocketAddr>,
}

/// What is read of a Service.
#[derive(Debug, Deserialize)]
struct Service {
    metadata: Meta,
    #[serde(default)]
    spec: ServiceSpec,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct ServiceSpec {
    #[serde(rename = "type")]
    ty: String,
    #[serde(rename = "clusterIPs")]
    cluster_ips: Vec<String>,
    external_name: String,
    ports: Vec<ServicePort>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct ServicePort {
    name: String,
    protocol: String,
    port: u16,
}

impl View for Service {
    const GROUP: &'static str = "";
    const VERSION: &'static str = "v1";
    const KIND: &'static str = "Service";
    const PLURAL: &'static str = "services";
    fn meta(&self) -> &Meta {
        &self.metadata
    }
}

/// What is read of the slices of headless services.
#[derive(Debug, Deserialize)]
struct Slice {
    metadata: Meta,
    #[serde(default, deserialize_with = "null_default")]
    endpoints: Vec<SliceEndpoint>,
    #[serde(default, deserialize_with = "null_default")]
    ports: Vec<SlicePort>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct SliceEndpoint {
    addresses: Vec<String>,
    hostname: Option<String>,
    conditions: Conditions,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Conditions {
    ready: Option<bool>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct SlicePort {
    name: Option<String>,
    protocol: Option<String>,
    port: Option<u16>,
}

impl Slice {
    fn service(&self) -> &str {
        self.metadata.label("kubernetes.io/service-name").unwrap_or_default()
    }
}

impl View for Slice {
    const GROUP: &'static str = "discovery.k8s.io";
    const VERSION: &'static str = "v1";
    const KIND: &'static str = "EndpointSlice";
    const PLURAL: &'static str = "endpointslices";
    fn meta(&self) -> &Meta {
        &self.metadata
    }
}

/// What a service contributes to the zone.
fn names(service: &Service, slices: &[Arc<Slice>]) -> ServiceNames {
    let spec = &service.spec;
    if spec.ty == "ExternalName" {
        return ServiceNames { external_name: Some(spec.external_name.clone()), ..ServiceNames::default() };
    }
    let port = |name: &str, protocol: &str, port| Port {
        name: name.to_ascii_lowercase(),
        protocol: if protocol.is_empty() { "tcp".into() } else { protocol.to_ascii_lowercase() },
        port,
    };
    let cluster_ips: Vec<IpAddr> = spec.cluster_ips.iter().filter_map(|ip| ip.parse().ok()).collect();
    let mut endpoints: BTreeMap<IpAddr, Endpoint> = BTreeMap::new();
    if cluster_ips.is_empty() {
        for slice in slices {
            let ports = slice.ports.iter().filter_map(|p| {
                let (name, protocol) =
                    (p.name.as_deref().unwrap_or_default(), p.protocol.as_deref().unwrap_or_default());
                (!name.is_empty()).then_some(port(name, protocol, p.port?))
            });
            let ports: Vec<Port> = ports.collect();
            for endpoint in slice.endpoints.iter().filter(|e| e.conditions.ready.unwrap_or(true)) {
                for ip in endpoint.addresses.iter().filter_map(|a| a.parse::<IpAddr>().ok()) {
                    let entry = endpoints.entry(ip).or_insert_with(|| Endpoint {
                        ip,
                        hostname: endpoint.hostname.clone().filter(|h| !h.is_empty()),
                        ports: Vec::new(),
                    });
                    entry.ports.extend(ports.iter().filter(|p| !entry.ports.contains(p)).cloned().collect::<Vec<_>>());
                }
            }
        }
    }
    ServiceNames {
        cluster_ips,
        external_name: None,
        ports: spec.ports.iter().filter(|p| !p.name.is_empty()).map(|p| port(&p.name, &p.protocol, p.port)).collect(),
        endpoints: endpoints.into_values().collect(),
    }
}

/// Runs until `stop`.
///
/// # Errors
/// The domain is none, or the address cannot be listened on.
pub async fn run(config: Config, informers: Informers, stop: CancellationToken) -> Result<(), BoxError> {
    let zone = Arc::new(RwLock::new(Zone::new(&config.domain)?));
    let services: Informer<Service> = informers.informer();
    let slices: Informer<Slice> = informers.informer_with(Options::labels("service.kubernetes.io/headless"));
    slices.add_index("service", |s| vec![format!("{}/{}", s.metadata.namespace, s.service())]);

    let refresh = {
        let (zone, services, slices) = (zone.clone(), services.clone(), slices.clone());
        move |key: &Key| {
            let names = services.get(key).map(|s| names(&s, &slices.by_index("service", &key.to_string())));
            zone.write().set(&key.namespace, &key.name, names);
        }
    };
    let refresh_of_slice = refresh.clone();
    services.subscribe(move |event| refresh(&event.key()));
    slices.subscribe(move |event| {
        let slice = event.object();
        refresh_of_slice(&Key::new(&slice.metadata.namespace, slice.service()));
    });
    tokio::select! {
        () = stop.cancelled() => return Ok(()),
        () = async { services.synced().await; slices.synced().await } => {}
    }
    let server = Server::bind(config.listen, zone, Forwarder::new(config.upstream)).await?;
    tracing::info!(listen = %config.listen, domain = config.domain, "cluster DNS answers");
    server.run(stop).await;
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_headless_service_has_the_names_of_its_ready_endpoints() {
        let service: Service = serde_json::from_value(json!({
            "metadata": {"name": "db", "namespace": "data"},
            "spec": {"type": "ClusterIP", "clusterIPs": ["None"], "ports": [{"name": "SQL", "port": 5432}]},
        }))
        .expect("a service");
        let slice: Slice = serde_json::from_value(json!({
            "metadata": {"name": "db-1", "namespace": "data"},
            "endpoints": [
                {"addresses": ["10.42.0.5"], "hostname": "db-0", "conditions": {"ready": true}},
                {"addresses": ["10.42.0.6"], "conditions": {"ready": false}},
            ],
            "ports": [{"name": "sql", "port": 5432, "protocol": "TCP"}],
        }))
        .expect("a slice");
        let got = names(&service, &[Arc::new(slice)]);
        assert_eq!(got.cluster_ips, Vec::<IpAddr>::new());
        assert_eq!(got.endpoints.len(), 1);
        assert_eq!(got.endpoints[0].hostname.as_deref(), Some("db-0"));
        assert_eq!(got.endpoints[0].ports, [Port { name: "sql".into(), protocol: "tcp".into(), port: 5432 }]);
        assert_eq!(got.ports[0].name, "sql");
    }
}
