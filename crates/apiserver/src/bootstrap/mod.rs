//! What a cluster is born with: system namespaces, roles and bindings, priority classes, APIServices, the `kubernetes`
//! Service with its endpoints, the ServiceCIDR and a few ConfigMaps.
//!
//! Runs at every start, before the server is ready: what is missing is made, what is less than it should be is
//! completed, what operators have added stays. All writes go through the registry; after the namespaces they run at
//! once, so that one group commit of the store takes them all.

pub mod api_services;
pub mod keep;
pub mod roles;

use std::net::IpAddr;

use futures_util::future::join_all;
use ipnet::IpNet;
use jiff::Timestamp;
use orkd_api::status::Status;
use orkd_pki::kubeconfig::{Cluster, Kubeconfig, Named};
use serde_json::{Value, json};

use crate::alloc::cluster_ip::{Family, system_user};
use crate::authn::front_proxy::RequestHeaders;
use crate::pipeline::ApiServer;
use crate::registry::options::DeleteOptions;
use crate::writer::Writer;

const RBAC: &str = "rbac.authorization.k8s.io";
const NETWORKING: &str = "networking.k8s.io";

/// The namespaces of the system, in the order they are made.
pub const NAMESPACES: [&str; 4] = ["default", "kube-system", "kube-public", "kube-node-lease"];

/// What is said about this cluster.
#[derive(Clone, Debug)]
pub struct Facts {
    /// Ranges of cluster IPs; the first address of the first is that of the `kubernetes` Service.
    pub service_cidrs: Vec<IpNet>,
    /// Addresses that other machines and pods reach this server at.
    pub advertise: Vec<IpAddr>,
    /// The port of the server's socket.
    pub port: u16,
    /// The authority of client certificates, PEM.
    pub client_ca_pem: String,
    /// The authority of front proxies, PEM.
    pub front_proxy_ca_pem: String,
    /// Which headers of front proxies name users.
    pub request_headers: RequestHeaders,
    /// The authority of the server's certificate, PEM.
    pub server_ca_pem: String,
}

/// Makes what is missing. The first failure, after everything has been tried.
pub async fn run(server: &ApiServer, facts: &Facts, now: Timestamp) -> Result<(), Status> {
    let writer = Writer::new(server.clone(), system_user()).manager("kube-apiserver");
    let cx = Cx { server, writer };
    let namespaces = NAMESPACES.map(|name| {
        let object = json!({ "metadata": { "name": name, "labels": { "kubernetes.io/metadata.name": name } } });
        cx.ensure("", "namespaces", "", name, object)
    });
    first_error(join_all(namespaces).await)?;
    for (resource, name) in roles::RETIRED {
        if cx.stored(RBAC, resource, "", name).is_some() {
            cx.writer.delete(RBAC, resource, "", name, DeleteOptions::default()).await?;
        }
    }
    let roles = roles::all();
    let (roles, maps, rest) = futures_util::future::join3(
        join_all(roles.iter().map(|o| cx.role(o))),
        async {
            let maps = config_maps(facts).into_iter().map(|(ns, name, data)| cx.config_map(ns, name, data));
            let (mut maps, since) = futures_util::future::join(join_all(maps), cx.token_tracking(now)).await;
            maps.push(since);
            maps
        },
        async {
            let classes = join_all(PRIORITY_CLASSES.map(|(name, value, description)| {
                let object = json!({
                    "metadata": { "name": name }, "value": value, "description": description,
                    "preemptionPolicy": "PreemptLowerPriority",
                });
                cx.ensure("scheduling.k8s.io", "priorityclasses", "", name, object)
            }));
            let services = api_services::all().collect::<Vec<_>>();
            let services =
                join_all(services.iter().map(|(name, object)| {
                    cx.ensure("apiregistration.k8s.io", "apiservices", "", name, object.clone())
                }));
            let (classes, services, network) =
                futures_util::future::join3(classes, services, cx.network(facts, now)).await;
            first_error(classes).and(first_error(services)).and(network)
        },
    )
    .await;
    first_error(roles).and(first_error(maps)).and(rest)
}

fn first_error(results: impl IntoIterator<Item = Result<(), Status>>) -> Result<(), Status> {
    results.into_iter().collect()
}

const PRIORITY_CLASSES: [(&str, i64, &str); 2] = [
    (
        "system-cluster-critical",
        2_000_000_000,
        "Used for system critical pods that must run in the cluster, but can be moved to another node if necessary.",
    ),
    (
        "system-node-critical",
        2_000_001_000,
        "Used for system critical pods that must not be moved from their current node.",
    ),
];

/// ConfigMaps: namespace, name, data.
fn config_maps(facts: &Facts) -> Vec<(&'static str, &'static str, Value)> {
    let headers = &facts.request_headers;
    let list = |names: &[String]| json!(names).to_string();
    let mut authentication = json!({
            "client-ca-file": facts.client_ca_pem,
            "requestheader-allowed-names": list(&headers.allowed_names),
            "requestheader-client-ca-file": facts.front_proxy_ca_pem,
            "requestheader-extra-headers-prefix": list(&headers.extra_prefixes),
            "requestheader-group-headers": list(&headers.groups),
            "requestheader-username-headers": list(&headers.username),
    });
    if !headers.uid.is_empty() {
        authentication["requestheader-uid-headers"] = json!(list(&headers.uid));
    }
    let mut maps = vec![("kube-system", "extension-apiserver-authentication", authentication)];
    if let Some(text) = cluster_info(facts) {
        maps.push(("kube-public", "cluster-info", json!({ "kubeconfig": text })));
    }
    maps
}

/// The kubeconfig without a user that `cluster-info` carries; a controller signs it with the bootstrap tokens.
fn cluster_info(facts: &Facts) -> Option<String> {
    use base64::Engine;
    let address = facts.advertise.first()?;
    let host = match address {
        IpAddr::V4(ip) => ip.to_string(),
        IpAddr::V6(ip) => format!("[{ip}]"),
    };
    let cluster = Cluster {
        server: format!("https://{host}:{}", facts.port),
        certificate_authority_data: Some(base64::engine::general_purpose::STANDARD.encode(&facts.server_ca_pem)),
        ..Cluster::default()
    };
    let config = Kubeconfig {
        api_version: "v1".into(),
        kind: "Config".into(),
        clusters: vec![Named::new("", cluster)],
        ..Kubeconfig::default()
    };
    config.to_yaml().ok()
}

struct Cx<'a> {
    server: &'a ApiServer,
    writer: Writer,
}

impl Cx<'_> {
    fn stored(&self, group: &str, resource: &str, namespace: &str, name: &str) -> Option<Value> {
        self.server.reader().get(group, resource, namespace, name).map(|e| e.decode())
    }

    /// Makes an object that is not there.
    async fn ensure(
        &self,
        group: &str,
        resource: &str,
        namespace: &str,
        name: &str,
        object: Value,
    ) -> Result<(), Status> {
        if self.stored(group, resource, namespace, name).is_some() {
            return Ok(());
        }
        match self.writer.create(group, resource, namespace, object).await {
            Ok(_) => Ok(()),
            Err(status) if status.reason == "AlreadyExists" => Ok(()),
            Err(status) => Err(about(status, resource, name)),
        }
    }

    async fn role(&self, wanted: &roles::Object) -> Result<(), Status> {
        let (resource, namespace, name) = (wanted.resource, wanted.namespace.as_str(), wanted.name.as_str());
        let Some(stored) = self.stored(RBAC, resource, namespace, name) else {
            return self.ensure(RBAC, resource, namespace, name, wanted.value.clone()).await;
        };
        let done = match roles::reconcile(&wanted.value, &stored) {
            Ok(None) => Ok(()),
            Ok(Some(_)) => {
                let changed = self.writer.update_with(RBAC, resource, "", namespace, name, |object| {
                    if let Ok(Some(changed)) = roles::reconcile(&wanted.value, object) {
                        *object = changed;
                    }
                    Ok(())
                });
                changed.await.map(|_| ())
            }
            Err(roles::Recreate) => {
                self.writer.delete(RBAC, resource, namespace, name, DeleteOptions::default()).await?;
                self.writer.create(RBAC, resource, namespace, wanted.value.clone()).await.map(|_| ())
            }
        };
        done.map_err(|s| about(s, resource, name))
    }

    /// Since when the use of legacy tokens is watched: set once.
    async fn token_tracking(&self, now: Timestamp) -> Result<(), Status> {
        const NAME: &str = "kube-apiserver-legacy-service-account-token-tracking";
        let since = now.strftime("%Y-%m-%d").to_string();
        let object = json!({ "metadata": { "name": NAME, "namespace": "kube-system" }, "data": { "since": since } });
        self.ensure("", "configmaps", "kube-system", NAME, object).await
    }

    async fn config_map(&self, namespace: &str, name: &str, data: Value) -> Result<(), Status> {
        match self.stored("", "configmaps", namespace, name) {
            None => {
                let object = json!({ "metadata": { "name": name, "namespace": namespace }, "data": data });
                self.ensure("", "configmaps", namespace, name, object).await
            }
            Some(stored) if has_all(&stored["data"], &data) => Ok(()),
            Some(_) => {
                let changed = self.writer.update_with("", "configmaps", "", namespace, name, |object| {
                    for (key, value) in data.as_object().into_iter().flatten() {
                        object["data"][key] = value.clone();
                    }
                    Ok(())
                });
                changed.await.map(|_| ()).map_err(|s| about(s, "configmaps", name))
            }
        }
    }

    /// ServiceCIDR, `kubernetes` Service, its Endpoints and slices.
    async fn network(&self, facts: &Facts, now: Timestamp) -> Result<(), Status> {
        self.service_cidr(facts, now).await?;
        let Some(ip) = facts.service_cidrs.first().and_then(|net| net.hosts().next()) else { return Ok(()) };
        // The first of `hosts` is the network's own address for IPv6.
        let net = facts.service_cidrs.first().map(IpNet::network);
        let ip = if Some(ip) == net { next(ip) } else { ip };
        let family = Family::of(ip);
        let service = json!({
            "metadata": {
                "name": "kubernetes", "namespace": "default",
                "labels": { "component": "apiserver", "provider": "kubernetes" },
            },
            "spec": {
                "clusterIP": ip.to_string(), "clusterIPs": [ip.to_string()],
                "ipFamilies": [family.name()], "ipFamilyPolicy": "SingleStack",
                "ports": [{ "name": "https", "port": 443, "protocol": "TCP", "targetPort": facts.port }],
                "sessionAffinity": "None", "type": "ClusterIP",
            },
        });
        let service = self.ensure("", "services", "default", "kubernetes", service);
        let (service, endpoints) = futures_util::future::join(service, self.endpoints(facts, family)).await;
        service.and(endpoints)
    }

    async fn service_cidr(&self, facts: &Facts, now: Timestamp) -> Result<(), Status> {
        let cidrs: Vec<String> = facts.service_cidrs.iter().map(|net| net.trunc().to_string()).collect();
        let object = json!({
            "metadata": { "name": "kubernetes", "finalizers": ["networking.k8s.io/service-cidr-finalizer"] },
            "spec": { "cidrs": cidrs },
        });
        self.ensure(NETWORKING, "servicecidrs", "", "kubernetes", object).await?;
        let ready = |object: &Value| {
            crate::admission::items(&object["status"]["conditions"]).iter().any(|c| c["type"] == "Ready")
        };
        if self.stored(NETWORKING, "servicecidrs", "", "kubernetes").is_some_and(|o| ready(&o)) {
            return Ok(());
        }
        let changed = self.writer.update_with(NETWORKING, "servicecidrs", "status", "", "kubernetes", |object| {
            if !ready(object) {
                object["status"]["conditions"] = json!([{
                    "type": "Ready", "status": "True", "reason": "", "message": "Kubernetes Service CIDR is ready",
                    "lastTransitionTime": crate::registry::stamp(now),
                }]);
            }
            Ok(())
        });
        changed.await.map(|_| ()).map_err(|s| about(s, "servicecidrs", "kubernetes"))
    }

    async fn endpoints(&self, facts: &Facts, family: Family) -> Result<(), Status> {
        let mut addresses: Vec<String> =
            facts.advertise.iter().filter(|ip| Family::of(**ip) == family).map(IpAddr::to_string).collect();
        addresses.sort();
        if addresses.is_empty() {
            return Ok(());
        }
        let ports = json!([{ "name": "https", "port": facts.port, "protocol": "TCP" }]);
        let subsets = json!([{
            "addresses": addresses.iter().map(|ip| json!({ "ip": ip })).collect::<Vec<_>>(), "ports": ports,
        }]);
        let endpoints = json!({
            "metadata": {
                "name": "kubernetes", "namespace": "default",
                "labels": { "endpointslice.kubernetes.io/skip-mirror": "true" },
            },
            "subsets": subsets,
        });
        let listed = addresses.iter().map(|ip| json!({ "addresses": [ip], "conditions": { "ready": true } }));
        let listed = json!(listed.collect::<Vec<_>>());
        let slice = json!({
            "metadata": {
                "name": "kubernetes", "namespace": "default",
                "labels": { "kubernetes.io/service-name": "kubernetes" },
            },
            "addressType": family.name(), "endpoints": listed, "ports": ports,
        });
        let (a, b) = futures_util::future::join(
            self.keep("", "endpoints", endpoints, &["subsets"]),
            self.keep("discovery.k8s.io", "endpointslices", slice, &["endpoints", "ports"]),
        )
        .await;
        a.and(b)
    }

    /// Makes `default/kubernetes` of a kind, or brings its fields up to date.
    async fn keep(&self, group: &str, resource: &str, wanted: Value, fields: &[&str]) -> Result<(), Status> {
        let Some(stored) = self.stored(group, resource, "default", "kubernetes") else {
            return self.ensure(group, resource, "default", "kubernetes", wanted).await;
        };
        if fields.iter().all(|f| stored[*f] == wanted[*f]) {
            return Ok(());
        }
        let changed = self.writer.update_with(group, resource, "", "default", "kubernetes", |object| {
            for field in fields {
                object[*field] = wanted[*field].clone();
            }
            Ok(())
        });
        changed.await.map(|_| ()).map_err(|s| about(s, resource, "kubernetes"))
    }
}

fn next(ip: IpAddr) -> IpAddr {
    match ip {
        IpAddr::V4(ip) => IpAddr::V4(ip.to_bits().saturating_add(1).into()),
        IpAddr::V6(ip) => IpAddr::V6(ip.to_bits().saturating_add(1).into()),
    }
}

fn has_all(stored: &Value, wanted: &Value) -> bool {
    wanted.as_object().into_iter().flatten().all(|(k, v)| stored.get(k) == Some(v))
}

/// Says which object failed.
fn about(mut status: Status, resource: &str, name: &str) -> Status {
    status.message = format!("failed to set up {resource}/{name}: {}", status.message);
    status
}
