//! Finds addresses and ports that no Service uses, and Services whose addresses or ports are not marked as taken
//! (`pkg/registry/core/service/{ipallocator,portallocator}/controller`).
//!
//! Runs once after start and again some minutes later. What looks leaked may belong to a Service that is just being
//! made by another server: it is given back only if it is still unused at the second look.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

use orkd_api::status::Status;
use serde_json::Value;
use tokio_util::sync::CancellationToken;

use super::cluster_ip::{self, Owner};
use super::node_port::{NodePorts, Ports};
use super::service::{addresses, all_ports};
use crate::admission::meta;
use crate::lookup::Lookup;
use crate::writer::Writer;

/// How long something may look leaked before it is given back.
const GRACE: Duration = Duration::from_secs(180);

/// What one look has found.
#[derive(Clone, Debug, Default, PartialEq)]
struct Findings {
    /// Addresses of Services without an IPAddress: namespace and name.
    missing_ips: Vec<(IpAddr, String, String)>,
    /// UIDs of IPAddress objects that no Service uses.
    leaked_ips: BTreeSet<String>,
    /// Ports of Services that are not marked as taken.
    missing_ports: BTreeSet<u16>,
    /// Ports marked as taken that no Service uses.
    leaked_ports: BTreeSet<u16>,
}

fn look(services: &[std::sync::Arc<Value>], ips: &[std::sync::Arc<Value>], taken: &BTreeSet<u16>) -> Findings {
    let mut wanted: BTreeMap<IpAddr, (String, String)> = BTreeMap::new();
    let mut ports: BTreeSet<u16> = BTreeSet::new();
    for service in services {
        for ip in addresses(service) {
            wanted.insert(ip, (meta(service, "namespace").into(), meta(service, "name").into()));
        }
        ports.extend(all_ports(service).into_iter().filter_map(|p| u16::try_from(p).ok()));
    }
    let mut findings = Findings::default();
    let mut standing: BTreeSet<IpAddr> = BTreeSet::new();
    for object in ips {
        let Ok(ip) = meta(object, "name").parse::<IpAddr>() else { continue };
        standing.insert(ip);
        let parent = &object["spec"]["parentRef"];
        let used = wanted.get(&ip).is_some_and(|(ns, name)| parent["namespace"] == *ns && parent["name"] == *name);
        if !used && cluster_ip::is_managed(object) {
            findings.leaked_ips.insert(meta(object, "uid").into());
        }
    }
    let missing = wanted.into_iter().filter(|(ip, _)| !standing.contains(ip));
    findings.missing_ips = missing.map(|(ip, (ns, name))| (ip, ns, name)).collect();
    findings.missing_ports = ports.difference(taken).copied().collect();
    findings.leaked_ports = taken.difference(&ports).copied().collect();
    findings
}

/// Repairs until everything is in order or `stop` is cancelled. To be spawned after the server is ready.
pub async fn run(objects: Lookup, writer: Writer, ports: NodePorts, stop: CancellationToken) {
    let Some(first) = pass(&objects, &writer, &ports, &Findings::default()).await else { return };
    if first.leaked_ips.is_empty() && first.leaked_ports.is_empty() {
        return;
    }
    tokio::select! {
        () = stop.cancelled() => {}
        () = tokio::time::sleep(GRACE) => {
            pass(&objects, &writer, &ports, &first).await;
        }
    }
}

/// One look; what is missing is marked, what has been leaking since `before` is given back.
async fn pass(objects: &Lookup, writer: &Writer, ports: &NodePorts, before: &Findings) -> Option<Findings> {
    match try_pass(objects, writer, ports, before).await {
        Ok(findings) => Some(findings),
        Err(status) => {
            tracing::warn!(%status, "failed to repair service addresses and ports");
            None
        }
    }
}

async fn try_pass(objects: &Lookup, writer: &Writer, ports: &NodePorts, before: &Findings) -> Result<Findings, Status> {
    let taken = ports.transact(false, |p: &mut Ports| Ok::<_, Status>(p.taken().clone())).await?;
    objects.fresh().await?;
    let services = objects.list("", "services", None);
    let addresses = objects.list("networking.k8s.io", "ipaddresses", None);
    let findings = look(&services, &addresses, &taken);
    for (ip, namespace, name) in &findings.missing_ips {
        tracing::warn!(%ip, %namespace, %name, "a service's cluster IP was not allocated, repairing");
        cluster_ip::create(writer, Owner { namespace, name }, *ip).await?;
    }
    for address in addresses.iter().filter(|a| {
        let uid = meta(a, "uid");
        findings.leaked_ips.contains(uid) && before.leaked_ips.contains(uid)
    }) {
        tracing::warn!(ip = meta(address, "name"), "a cluster IP belongs to no service, releasing");
        cluster_ip::delete(&writer.as_user(cluster_ip::system_user()), address).await;
    }
    let leaked: BTreeSet<u16> = findings.leaked_ports.intersection(&before.leaked_ports).copied().collect();
    if !findings.missing_ports.is_empty() || !leaked.is_empty() {
        tracing::warn!(missing = ?findings.missing_ports, ?leaked, "node ports were out of step, repairing");
        let repaired = ports.transact(false, |p: &mut Ports| {
            for port in &findings.missing_ports {
                // Taken meanwhile or outside of the range: both are as good as it gets.
                let _ = p.take(i64::from(*port));
            }
            leaked.iter().for_each(|port| p.give_back(i64::from(*port)));
            Ok::<_, Status>(())
        });
        repaired.await?;
    }
    Ok(findings)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use serde_json::json;

    use super::*;

    #[test]
    fn leaks_and_gaps_are_found() {
        let service = |name: &str, ip: &str, port: u16| {
            Arc::new(json!({"metadata": {"namespace": "a", "name": name},
                "spec": {"type": "NodePort", "clusterIPs": [ip], "ports": [{"nodePort": port}]}}))
        };
        let address = |ip: &str, name: &str, managed: &str| {
            Arc::new(json!({"metadata": {"name": ip, "uid": format!("u{ip}"),
                "labels": {"ipaddress.kubernetes.io/managed-by": managed}},
                "spec": {"parentRef": {"namespace": "a", "name": name}}}))
        };
        let services = [service("s", "10.0.0.1", 30001), service("t", "10.0.0.2", 30002)];
        let ours = cluster_ip::MANAGED_BY;
        let addresses =
            [address("10.0.0.1", "s", ours), address("10.0.0.3", "gone", ours), address("10.0.0.4", "gone", "someone")];
        let found = look(&services, &addresses, &[30001, 30009].into());
        assert_eq!(found.missing_ips, [("10.0.0.2".parse().expect("ip"), "a".to_owned(), "t".to_owned())]);
        assert_eq!(found.leaked_ips, ["u10.0.0.3".to_owned()].into());
        assert_eq!(found.missing_ports, [30002].into());
        assert_eq!(found.leaked_ports, [30009].into());
    }
}
